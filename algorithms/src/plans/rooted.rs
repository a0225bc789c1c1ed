//! Ways from a root to all ranks, or back.

use crate::Algorithm;

/// Who talks with whom, seen from one rank.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rooted {
    pub(super) rank: u32,
    pub(super) world: u32,
    pub(super) root: u32,
    pub(super) algorithm: Algorithm,
}

impl Rooted {
    /// Distance from the root.
    fn relative(&self) -> u32 {
        (self.rank + self.world - self.root) % self.world
    }

    fn real(&self, relative: u32) -> u32 {
        (relative + self.root) % self.world
    }

    pub(super) fn is_root(&self) -> bool {
        self.rank == self.root
    }

    /// The next rank on the way to the root; only for others than it.
    pub(super) fn parent(&self) -> u32 {
        let relative = self.relative();
        self.real(match self.algorithm {
            Algorithm::Tree => relative & (relative - 1),
            Algorithm::Chain => relative - 1,
            _ => 0,
        })
    }

    /// The ranks whose parent this is, the farthest first: it has the longest way to go on.
    pub(super) fn children(&self) -> impl Iterator<Item = u32> + '_ {
        let (relative, world) = (self.relative(), self.world);
        // Bits that a child may add to this rank's number in a binomial tree.
        let room = if relative == 0 { u32::BITS } else { relative.trailing_zeros() };
        let (from, to) = match self.algorithm {
            Algorithm::Tree => (0, room),
            Algorithm::Chain => (1, 2),
            _ if relative == 0 => (1, world),
            _ => (1, 1),
        };
        let child = move |step: u32| match self.algorithm {
            Algorithm::Tree => 1u32.checked_shl(step).and_then(|bit| relative.checked_add(bit)),
            _ => Some(relative + step),
        };
        (from..to).rev().filter_map(child).filter(move |&child| child < world).map(|child| self.real(child))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_has_the_parent_whose_child_it_is() {
        for algorithm in [Algorithm::Direct, Algorithm::Tree, Algorithm::Chain] {
            for world in 1..40 {
                let at = |rank| Rooted { rank, world, root: world / 3, algorithm };
                let mut reached = vec![0; world as usize];
                for rank in 0..world {
                    for child in at(rank).children() {
                        assert_eq!(at(child).parent(), rank, "{algorithm:?} {world}");
                        reached[child as usize] += 1;
                    }
                }
                reached[(world / 3) as usize] += 1;
                assert!(reached.iter().all(|&times| times == 1), "{algorithm:?} {world}: {reached:?}");
            }
        }
    }
}
