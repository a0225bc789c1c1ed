//! Part of Ronde.
