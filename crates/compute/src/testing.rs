//! Shared by the tests of this crate: random numbers and random weights.

use std::mem::offset_of;

use half::f16;
use quern_tensor_io::ElementType;
use quern_tensor_io::layout::{Q2K, Q3K, Q6K, TQ1_0, TQ2_0};

use crate::block::tables;

/// All cases, or the first `few` under Miri, which takes minutes for what a processor does in a second.
pub(crate) fn fewer<T>(all: &[T], few: usize) -> &[T] {
    if cfg!(miri) { &all[..few] } else { all }
}

/// A small generator (splitmix64).
pub(crate) struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    }

    /// In -1..1.
    pub fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    pub fn sign(&mut self) -> f32 {
        if self.next() & 1 == 0 { 1.0 } else { -1.0 }
    }
}

/// Writes the scales of one block (`m` where the type has a minimum).
pub(crate) fn set_scales(element_type: ElementType, block: &mut [u8], d: f32, m: f32) {
    use ElementType as T;
    let mut half = |at: usize, x: f32| block[at..at + 2].copy_from_slice(&f16::from_f32(x).to_le_bytes());
    match element_type {
        T::Q4_1 | T::Q5_1 | T::Q4K | T::Q5K => {
            half(0, d);
            half(2, m);
        }
        T::Q2K => {
            half(offset_of!(Q2K, d), d);
            half(offset_of!(Q2K, dmin), m);
        }
        T::Q3K => half(offset_of!(Q3K, d), d),
        T::Q6K => half(offset_of!(Q6K, d), d),
        T::TQ1_0 => half(offset_of!(TQ1_0, d), d),
        T::TQ2_0 => half(offset_of!(TQ2_0, d), d),
        // Steps of d, so that a power of two stays one.
        T::NF4 => half(0, d / tables::NF4_STEP),
        T::FP4 => half(0, d / tables::FP4_STEP),
        // UE4M3: no sign, 2^-6 to 2^8 normal; 0x38 is 1.
        T::NVFP4 => block[..4].fill((56.0 + 8.0 * d.abs().log2().max(-9.0)) as u8),
        // An f16 in the top four bits of four words.
        T::IQ1M => {
            let bits = f16::from_f32(d).to_bits();
            for (i, byte) in block[49..].iter_mut().step_by(2).enumerate() {
                *byte = *byte & 15 | ((bits >> (4 * i)) as u8 & 15) << 4;
            }
        }
        T::MXFP4 => block[0] = (128.0 + d.abs().log2()) as u8,
        _ => half(0, d),
    }
}

/// A row of random blocks with sane scales; `extreme`: every byte of the codes and sub-scales 0 or 255.
pub(crate) fn random_row(
    r: &mut Random,
    element_type: ElementType,
    columns: usize,
    extreme: bool,
) -> Vec<u8> {
    use ElementType as T;
    match element_type {
        T::F32 => return (0..columns).flat_map(|_| r.float().to_le_bytes()).collect(),
        T::F16 => return (0..columns).flat_map(|_| f16::from_f32(r.float()).to_le_bytes()).collect(),
        T::BF16 => return (0..columns).flat_map(|_| half::bf16::from_f32(r.float()).to_le_bytes()).collect(),
        // Any code that is a number.
        T::F8E4M3 | T::F8E5M2 => {
            let number = |code: u8| if code & 0x7c == 0x7c { code & 0xbf } else { code };
            return (0..columns).map(|_| number(r.next() as u8)).collect();
        }
        _ => {}
    }
    let fill = r.next();
    let mut row: Vec<u8> = (0..element_type.row_bytes(columns).unwrap_or(0))
        .map(|_| match (extreme, fill % 3) {
            (true, 0) => 255,
            (true, 1) => 0,
            (true, _) => (r.next() & 1) as u8 * 255,
            _ => r.next() as u8,
        })
        .collect();
    for block in row.chunks_exact_mut(element_type.block_bytes()) {
        // Some scales subnormal as halves, as real models have them.
        let size = [1.0, 0.01, 3e-6][(r.next() % 3) as usize];
        let (d, m) = (r.float() * size, r.float() * size);
        set_scales(element_type, block, d, m);
        if element_type == T::NVFP4 {
            block[..4].iter_mut().for_each(|scale| *scale = r.next() as u8);
        }
        if element_type == T::TQ1_0 {
            // Bytes are five trits in base 3, scaled to 256.
            block[..52].iter_mut().for_each(|b| *b = ((u32::from(*b) % 243 * 256).div_ceil(243)) as u8);
        }
    }
    row
}
