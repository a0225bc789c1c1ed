//! Algorithms for a power of two of ranks, on any number of ranks (Thakur, Rabenseifner, Gropp 2005).
//!
//! With p = the largest power of two up to n, the first 2(n-p) ranks pair up: the odd one hands its
//! vector to the even one, which adds it to its own and plays for both, and gets the result at the end.

use ronde_core::plan::{Span, StepId, Window};

const FOLD: u16 = 0x100;
const UNFOLD: u16 = 0x101;

/// What one rank does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Hands its vector to this rank.
    Guest(u32),
    /// Plays this number of the power of two.
    Player {
        number: u32,
        /// The rank that it plays for besides itself.
        guest: Option<u32>,
    },
}

/// The ranks, folded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fold {
    world: u32,
}

impl Fold {
    pub(super) fn new(world: u32) -> Fold {
        Fold { world }
    }

    /// How many play.
    pub(super) fn players(&self) -> u32 {
        1 << self.world.ilog2()
    }

    /// The rank of a player.
    pub(super) fn rank(&self, number: u32) -> u32 {
        let guests = self.world - self.players();
        if number < guests { 2 * number } else { number + guests }
    }

    pub(super) fn role(&self, rank: u32) -> Role {
        let guests = self.world - self.players();
        match rank {
            _ if rank >= 2 * guests => Role::Player { number: rank - guests, guest: None },
            _ if rank.is_multiple_of(2) => Role::Player { number: rank / 2, guest: Some(rank + 1) },
            _ => Role::Guest(rank - 1),
        }
    }
}

/// A whole window for `rank`: `play` reduces the players' vectors into the output. It gets the number of
/// the player, where its vector is and the step that puts it there, and returns the steps that must have
/// ended before the output may be read.
pub(super) fn fold(
    fold: Fold,
    rank: u32,
    (input, output): (Span, Span),
    window: &mut Window,
    play: impl FnOnce(&mut Window, u32, Span, Option<StepId>) -> Vec<StepId>,
) {
    match fold.role(rank) {
        Role::Guest(host) => {
            window.send(host, input, FOLD, &[]);
            window.recv(host, output, UNFOLD);
        }
        Role::Player { number, guest: None } => {
            let ended = play(window, number, input, None);
            window.give_back_list(ended);
        }
        Role::Player { number, guest: Some(guest) } => {
            let slot = window.slot(input.len);
            let got = window.recv(guest, slot, FOLD);
            let folded = window.reduce(&[input, slot], output, false, &[got]);
            let ended = play(window, number, output, Some(folded));
            window.send(guest, output, UNFOLD, &ended);
            window.give_back_list(ended);
        }
    }
}
