//! Part of Ronde.

/// Memory that local peers read without a copy.
pub struct SharedBuffer {}
