//! The layout of every block type, in one place: a struct of bytes for each, its fields in the order in which they
//! are stored. Decoders, kernels, encoders and checks take their positions from here.
//!
//! The structs have no alignment and no padding, so that a slice of a file's bytes can be viewed as blocks
//! ([`blocks`]) without copying. Field names are ggml's: `d` and `dmin` are f16 scales of the whole block, `m` is
//! an f16 minimum, `qs` (`ql`) are the low bits of the codes, `qh` (`hmask`) the bits above them, `scales` the small
//! integer scales of the sub-blocks. [`small`] has blocks of 32 to 128 values, [`k`] the K types and the other plain
//! codes in blocks of 256, [`grid`] the types whose values are points of a grid.
//!
//! ```
//! use quern_tensor_io::{ElementType, layout::{self, Q6K}};
//! let bytes = vec![0; 2 * ElementType::Q6K.block_bytes()];
//! let blocks = layout::blocks::<Q6K>(&bytes);
//! assert_eq!((blocks.len(), blocks[0].scales.len()), (2, 16));
//! assert_eq!(std::mem::offset_of!(Q6K, d), 208);
//! ```

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::ElementType;

pub mod grid;
pub mod k;
pub mod scales;
pub mod small;

pub use grid::{IQ1M, IQ1S, IQ2S, IQ2XS, IQ2XXS, IQ3S, IQ3XXS};
pub use k::{IQ4XS, Q2K, Q3K, Q4K, Q5K, Q6K, TQ1_0, TQ2_0};
pub use small::{FP4, IQ4NL, MXFP4, NF4, NVFP4, Q1_0, Q2_0, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0};
pub use zerocopy::little_endian::{U16, U32};

/// A block's bytes, field by field.
pub trait Block: FromBytes + IntoBytes + KnownLayout + Immutable + Unaligned + Copy + 'static {
    /// The element type whose blocks these are.
    const ELEMENT_TYPE: ElementType;
    /// Bytes of a block.
    const BYTES: usize = size_of::<Self>();
    /// A block of zero bytes.
    const ZERO: Self;
}

/// The whole blocks that `data` begins with.
#[inline(always)]
pub fn blocks<B: Block>(data: &[u8]) -> &[B] {
    let whole = data.len() / size_of::<B>() * size_of::<B>();
    <[B]>::ref_from_bytes(&data[..whole]).unwrap_or(&[])
}

/// The whole blocks that `data` begins with, to be written.
#[inline(always)]
pub fn blocks_mut<B: Block>(data: &mut [u8]) -> &mut [B] {
    let whole = data.len() / size_of::<B>() * size_of::<B>();
    <[B]>::mut_from_bytes(&mut data[..whole]).unwrap_or(&mut [])
}

/// A half-precision number, little endian, at any address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(transparent)]
pub struct F16([u8; 2]);

impl F16 {
    /// Zero.
    pub const ZERO: Self = Self([0; 2]);

    /// From its bits.
    #[inline(always)]
    pub const fn from_bits(bits: u16) -> Self {
        Self(bits.to_le_bytes())
    }

    /// Rounded half to even.
    #[inline]
    pub fn from_f32(x: f32) -> Self {
        Self(half::f16::from_f32(x).to_le_bytes())
    }

    /// Its bits.
    #[inline(always)]
    pub const fn bits(self) -> u16 {
        u16::from_le_bytes(self.0)
    }

    /// The number, exactly.
    #[inline]
    pub fn to_f32(self) -> f32 {
        half::f16::from_le_bytes(self.0).to_f32()
    }
}

/// Declares layouts: the struct, that it is a [`Block`], and that its size is what [`ElementType`] says.
macro_rules! layouts {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* })*) => { $(
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug,
            ::zerocopy::FromBytes, ::zerocopy::IntoBytes, ::zerocopy::KnownLayout, ::zerocopy::Immutable,
            ::zerocopy::Unaligned,
        )]
        #[repr(C)]
        pub struct $name { $($(#[$field_doc])* pub $field: $type,)* }

        impl crate::layout::Block for $name {
            const ELEMENT_TYPE: crate::ElementType = crate::ElementType::$name;
            const ZERO: Self = ::zerocopy::transmute!([0u8; size_of::<$name>()]);
        }

        const _: () = assert!(size_of::<$name>() == crate::ElementType::$name.block_bytes());
    )* };
}
use layouts;

#[cfg(test)]
mod tests;
