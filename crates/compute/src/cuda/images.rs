//! Made by tools/build_kernels.py: the kernels of all modules, with the bytes of their arguments.

use super::module::{Image, Target};

#[rustfmt::skip]
pub(super) static IMAGES: &[Image] = &[
    Image { module: "vector_add", target: Target { number: 75, exact: false, machine: false }, kernels: &[("vector_add", 32), ("vector_add_parameters", 28), ("vector_fault", 8)], packed: include_bytes!("../../kernels/compiled/vector_add.compute_75.lzma") },
    Image { module: "vector_add", target: Target { number: 90, exact: false, machine: false }, kernels: &[("vector_add", 32), ("vector_add_parameters", 28), ("vector_fault", 8)], packed: include_bytes!("../../kernels/compiled/vector_add.compute_90.lzma") },
    Image { module: "vector_add", target: Target { number: 90, exact: false, machine: true }, kernels: &[("vector_add", 32), ("vector_add_parameters", 28), ("vector_fault", 8)], packed: include_bytes!("../../kernels/compiled/vector_add.sm_90.lzma") },
];
