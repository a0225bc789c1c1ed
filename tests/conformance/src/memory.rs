//! Memory of either kind for payloads: of this process alone, or registered, so that the peer reads it in place.

use rand::Rng;
use rand::rngs::SmallRng;
use ronde_core::Segment;
use ronde_core::memory::Arena;
use ronde_shm::{Registry, SharedBuffer};
use std::sync::Arc;

/// Pieces of registered memory that an end has at once. With all in use its payloads lie in plain memory, so that a link
/// gets both kinds by turns.
const MOST_PIECES: usize = 24;

/// Where an end has its payloads.
pub enum Memory {
    /// In memory of this process alone.
    Plain,
    /// In registered memory.
    Registered {
        /// That of the end's link.
        registry: Arc<Registry>,
        /// Bytes of each piece.
        piece_bytes: usize,
        /// Pieces that no payload is in.
        free: Vec<SharedBuffer>,
        /// All pieces.
        pieces: usize,
    },
}

/// Memory for one payload.
pub enum Piece {
    /// Of this process alone.
    Plain(Arena),
    /// Registered.
    Registered(SharedBuffer),
}

impl Memory {
    /// Registered memory for payloads of so many bytes at most.
    pub fn registered(registry: Arc<Registry>, most: usize) -> Memory {
        // Room for guard bytes, and to start anywhere.
        Memory::Registered { registry, piece_bytes: most + 4096, free: Vec::new(), pieces: 0 }
    }

    /// Whether payloads are lent to the peer.
    pub fn is_registered(&self) -> bool {
        matches!(self, Memory::Registered { .. })
    }

    /// A piece of at least so many bytes, with anything in it.
    pub fn piece(&mut self, bytes: usize) -> Piece {
        let Memory::Registered { registry, piece_bytes, free, pieces } = self else {
            return Piece::Plain(Arena::new(bytes));
        };
        assert!(bytes <= *piece_bytes, "a payload longer than the link takes");
        if let Some(piece) = free.pop() {
            return Piece::Registered(piece);
        }
        if *pieces == MOST_PIECES {
            return Piece::Plain(Arena::new(bytes));
        }
        *pieces += 1;
        Piece::Registered(SharedBuffer::new(*piece_bytes, registry).expect("shared memory"))
    }

    /// Takes a piece back. Some are freed, of which the peer has to hear.
    pub fn take_back(&mut self, piece: Piece, rng: &mut SmallRng) {
        if let (Memory::Registered { free, pieces, .. }, Piece::Registered(piece)) = (self, piece) {
            if rng.random_range(0..8) == 0 {
                *pieces -= 1;
            } else {
                free.push(piece);
            }
        }
    }
}

impl Piece {
    /// All its bytes.
    pub fn segment(&self) -> Segment {
        match self {
            Piece::Plain(arena) => arena.segment(0, arena.len()),
            // SAFETY: whoever holds the piece keeps it while a link may read it, and then alone writes it.
            Piece::Registered(buffer) => unsafe { buffer.segment() },
        }
    }
}
