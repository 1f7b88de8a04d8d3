//! Prefetching of weights: how far ahead of what is multiplied, by processor and by type.
//!
//! Measured with 256 MiB of weights of 2048 columns, distances in turn, in GB/s:
//!
//! ```text
//! processor, threads            none   256   512  1024  2048  4096  8192   4096, second level
//! Zen 4, 1            f16       24.0  22.8  21.2  14.4  13.7  13.3  14.4
//!                     q8_0      18.5  18.2  16.2  15.8  16.2  16.4  16.9
//!                     q6_K      19.6  20.6  20.6  19.1  19.3  18.3  16.5
//!                     q4_K      14.8  15.5  16.1  15.9  16.7  16.8  16.4
//!                     q4_0      15.8  16.4  15.8  16.1  17.3  17.9  17.2
//! Sapphire Rapids, 2  f16       17.8  20.5  21.6  23.1  27.1  29.3  29.1   31.4
//!                     q8_0      12.0  16.0  17.1  19.0  21.3  24.6  25.1   25.1
//!                     q6_K      14.0  16.7  18.2  19.8  22.6  25.4  25.4   26.6
//!                     q4_K      12.3  15.9  17.2  18.8  22.1  26.0  26.6   25.2
//!                     q4_0      14.9  15.9  16.4  17.9  21.6  24.6  24.8   24.7
//! ```
//!
//! Kernels for AVX2 behave as those for AVX-512 do. So the weights of every type are asked for 4096 bytes ahead, but for
//! types of more than six bits on AMD's processors before Zen 5. Zen 5, where 4096 bytes gave an eighth to a quarter more
//! than 1024 and 8192 no more, takes them for floats into the first-level cache, Intel's processors into the second.

use std::arch::x86_64::{_MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};
use std::sync::OnceLock;

/// How the weights of a type are prefetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Prefetch {
    /// Bytes between the weights that are multiplied and those asked for.
    distance: usize,
    /// Whether they are brought into the second-level cache only.
    second_level: bool,
}

impl Prefetch {
    /// For a type of which so many values take so many bytes, on this processor.
    pub fn of(bytes: usize, values: usize) -> Self {
        static MAKER: OnceLock<Maker> = OnceLock::new();
        Self::on(*MAKER.get_or_init(Maker::detect), bytes, values)
    }

    const fn on(maker: Maker, bytes: usize, values: usize) -> Self {
        let (bits, floats) = (8 * bytes, 8 * bytes > 9 * values);
        let distance = match maker {
            Maker::AmdBeforeZen5 if floats => 0,
            Maker::AmdBeforeZen5 if bits > 6 * values => 256,
            _ => 4096,
        };
        Self { distance, second_level: floats && matches!(maker, Maker::Intel) }
    }

    /// Asks for as many bytes as are multiplied now, which are at `p`.
    #[inline(always)]
    pub fn fetch(self, p: *const u8, bytes: usize) {
        let p = p.wrapping_add(self.distance);
        for line in (0..bytes).step_by(64) {
            let p = p.wrapping_add(line).cast();
            // SAFETY: a prefetch may point anywhere.
            unsafe {
                match self.second_level {
                    false => _mm_prefetch::<_MM_HINT_T0>(p),
                    true => _mm_prefetch::<_MM_HINT_T1>(p),
                }
            }
        }
    }
}

/// Who made the processor, as far as prefetching differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Maker {
    Intel,
    /// AMD (and Hygon) up to family 0x19, which is Zen 3 and Zen 4.
    AmdBeforeZen5,
    Other,
}

impl Maker {
    /// By CPUID: the vendor's name in leaf 0, the family in leaf 1.
    fn detect() -> Self {
        use std::arch::x86_64::__cpuid;
        let (first, second) = (__cpuid(0), __cpuid(1));
        let mut name = [0; 12];
        for (name, word) in name.as_chunks_mut::<4>().0.iter_mut().zip([first.ebx, first.edx, first.ecx]) {
            *name = word.to_le_bytes();
        }
        Self::of(&name, (second.eax >> 8 & 0xf) + (second.eax >> 20 & 0xff))
    }

    fn of(name: &[u8; 12], family: u32) -> Self {
        match name {
            b"GenuineIntel" => Self::Intel,
            b"AuthenticAMD" | b"HygonGenuine" if family < 0x1a => Self::AmdBeforeZen5,
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quern_tensor_io::ElementType;

    #[test]
    fn the_distance_follows_the_processor_and_the_width_of_the_type() {
        let of = |maker, t: ElementType| {
            let ahead = Prefetch::on(maker, t.row_bytes(256).unwrap(), 256);
            (ahead.distance, ahead.second_level)
        };
        for t in [ElementType::Q4_0, ElementType::Q5K, ElementType::NVFP4] {
            assert_eq!(Maker::ALL.map(|maker| of(maker, t)), [(4096, false); 3], "{t:?}");
        }
        for t in [ElementType::Q6K, ElementType::Q8_0, ElementType::F8E4M3] {
            let expected = [(4096, false), (256, false), (4096, false)];
            assert_eq!(Maker::ALL.map(|maker| of(maker, t)), expected, "{t:?}");
        }
        for t in [ElementType::F16, ElementType::F32] {
            assert_eq!(
                Maker::ALL.map(|maker| of(maker, t)),
                [(4096, true), (0, false), (4096, false)],
                "{t:?}"
            );
        }
    }

    #[test]
    fn zen_4_is_not_zen_5() {
        assert_eq!(Maker::of(b"AuthenticAMD", 0x19), Maker::AmdBeforeZen5);
        assert_eq!(Maker::of(b"AuthenticAMD", 0x1a), Maker::Other);
        assert_eq!(Maker::of(b"GenuineIntel", 6), Maker::Intel);
    }

    impl Maker {
        const ALL: [Self; 3] = [Self::Intel, Self::AmdBeforeZen5, Self::Other];
    }
}
