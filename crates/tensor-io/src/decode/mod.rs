//! Decoding element types to f32.

use crate::ElementType;

/// Decodes whole blocks of `element_type` into `out`. `data` must hold exactly `out.len()` values:
/// returns `false` and leaves `out` alone if the length does not fit or the type has no decoder.
#[must_use]
pub fn to_f32(element_type: ElementType, data: &[u8], out: &mut [f32]) -> bool {
    todo!("{element_type} {} {}", data.len(), out.len())
}

/// Whether [`to_f32`] knows this type.
pub fn can_decode(element_type: ElementType) -> bool {
    todo!("{element_type}")
}
