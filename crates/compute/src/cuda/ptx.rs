//! Made by tools/build_kernels.py: the PTX of all modules.

use super::module::{Embedded, Target};

#[rustfmt::skip]
pub(super) static MODULES: &[Embedded] = &[
    Embedded { module: "vector_add", target: Target { number: 75, exact: false }, ptx: include_bytes!("../../kernels/ptx/vector_add.compute_75.z") },
    Embedded { module: "vector_add", target: Target { number: 90, exact: false }, ptx: include_bytes!("../../kernels/ptx/vector_add.compute_90.z") },
];
