//! A few activation rows against many weight rows, each weight row read once: generating text.

pub(crate) mod scalar;
