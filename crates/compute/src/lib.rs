//! CPU kernels over element types. Knows nothing of models.

pub mod simd;
