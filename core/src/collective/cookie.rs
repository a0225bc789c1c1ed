//! What names a payload that a link sends.

use crate::plan::StepId;

/// What a link gives back when a payload has left: 16 bits op, 8 attempt, 20 window, 20 step.
pub(crate) struct Cookie {
    pub(crate) op: usize,
    pub(crate) attempt: u8,
    pub(crate) window: u32,
    pub(crate) step: StepId,
}

impl Cookie {
    const LOW20: u64 = (1 << 20) - 1;

    pub(crate) fn pack(self) -> u64 {
        (self.op as u64) << 48
            | (self.attempt as u64) << 40
            | (self.window as u64 & Self::LOW20) << 20
            | (self.step as u64 & Self::LOW20)
    }

    pub(crate) fn unpack(cookie: u64) -> Cookie {
        Cookie {
            op: (cookie >> 48) as usize,
            attempt: (cookie >> 40) as u8,
            window: (cookie >> 20 & Self::LOW20) as u32,
            step: (cookie & Self::LOW20) as u32,
        }
    }

    pub(crate) fn names_window(&self, index: u32) -> bool {
        index as u64 & Self::LOW20 == self.window as u64
    }
}
