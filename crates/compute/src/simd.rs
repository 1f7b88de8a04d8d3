//! Chooses the vector instructions to use: once at run time, never at build time.
//!
//! Two ways to use it. Hand-written kernels match on a [`Level`]. Everything else is written as plain
//! safe loops in an [`Op`] and passed to [`dispatch`], which compiles the same loops once per level and
//! picks one when called:
//!
//! ```
//! use quern_compute::simd::{Level, Op, dispatch};
//!
//! struct Axpy<'a> { a: f32, x: &'a [f32], y: &'a mut [f32] }
//!
//! impl Op for Axpy<'_> {
//!     type Output = ();
//!     #[inline(always)]
//!     fn call(self) {
//!         for (y, x) in self.y.iter_mut().zip(self.x) {
//!             *y += self.a * x;
//!         }
//!     }
//! }
//!
//! let mut y = [1.0; 4];
//! dispatch(Level::detect(), Axpy { a: 2.0, x: &[1.0, 2.0, 3.0, 4.0], y: &mut y });
//! assert_eq!(y, [3.0, 5.0, 7.0, 9.0]);
//! ```
//!
//! Rust never contracts `a * b + c` into a fused multiply-add and never reorders a float sum, so an `Op`
//! gives the same bits at every level. Only independent operations vectorise therefore: lanes (several
//! sums, blocks or rows side by side, e.g. `[f32; 16]`), not one long sum. Mark every helper that an `Op`
//! calls `#[inline(always)]`, or it stays compiled for the baseline.

use std::sync::OnceLock;

pub mod lanes;

/// A set of vector instructions, the better the higher.
///
/// A processor need not have every level below its best: AVX-512 began without VNNI (Skylake-X), and those with
/// VNNI for AVX-512 may have no AVX-VNNI (Ice Lake, Zen 4). So a level is never compared with [`Level::best`] to see
/// whether its instructions exist; [`Level::here`] gives the level to use in its stead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Plain Rust, whatever the baseline of the target allows (SSE2 on x86-64).
    Scalar,
    /// AVX2 with FMA, F16C and BMI2 (Haswell, Zen and later).
    Avx2,
    /// The former with AVX-VNNI: byte products in registers of 32 bytes (Alder Lake and later clients, Zen 5).
    AvxVnni,
    /// AVX-512 F, BW, CD, DQ, VL (Skylake-X).
    Avx512,
    /// The former with VNNI, VBMI and VBMI2 (Ice Lake, Zen 4 and later).
    Avx512Vnni,
    /// The former with AMX-TILE, AMX-INT8 and AMX-BF16 (Sapphire Rapids and later Xeons), where Linux lets the process use the
    /// tiles.
    Amx,
}

impl Level {
    /// Every level, lowest first.
    pub const ALL: [Level; 6] =
        [Self::Scalar, Self::Avx2, Self::AvxVnni, Self::Avx512, Self::Avx512Vnni, Self::Amx];

    /// The name that `QUERN_SIMD` accepts.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::AvxVnni => "avxvnni",
            Self::Avx512 => "avx512",
            Self::Avx512Vnni => "avx512vnni",
            Self::Amx => "amx",
        }
    }

    /// The level to use: the best the CPU has, or the one named by the environment variable
    /// `QUERN_SIMD` (an unknown name changes nothing; for one that the CPU has not, see [`Level::here`]).
    /// Read once and kept.
    pub fn detect() -> Self {
        static LEVEL: OnceLock<Level> = OnceLock::new();
        *LEVEL.get_or_init(|| {
            let best = Self::best();
            let forced = std::env::var("QUERN_SIMD").ok();
            let forced = forced.and_then(|name| Self::ALL.into_iter().find(|l| l.name() == name));
            forced.map_or(best, Self::here)
        })
    }

    /// The best level this CPU has, whatever `QUERN_SIMD` says.
    pub fn best() -> Self {
        Self::Amx.here()
    }

    /// This level where the CPU has it, or else the best below it that the CPU has.
    #[inline]
    pub fn here(self) -> Self {
        static HERE: OnceLock<[Level; Level::ALL.len()]> = OnceLock::new();
        HERE.get_or_init(|| {
            let mut best = Self::Scalar;
            Self::ALL.map(|level| {
                if found(level) {
                    best = level;
                }
                best
            })
        })[self as usize]
    }

    /// The levels this CPU has, lowest first: what a test should compare.
    pub fn available() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|l| l.here() == *l)
    }
}

/// Whether the CPU has a level's instructions.
#[cfg(target_arch = "x86_64")]
fn found(level: Level) -> bool {
    use std::arch::is_x86_feature_detected as has;
    let avx2 = || has!("avx2") && has!("fma") && has!("f16c") && has!("bmi1") && has!("bmi2");
    let avx512 = || {
        avx2()
            && has!("avx512f")
            && has!("avx512bw")
            && has!("avx512cd")
            && has!("avx512dq")
            && has!("avx512vl")
    };
    let vnni = || avx512() && has!("avx512vnni") && has!("avx512vbmi") && has!("avx512vbmi2");
    match level {
        Level::Scalar => true,
        Level::Avx2 => avx2(),
        // Tests run its kernels with the same instructions of AVX-512, where a CPU has only those.
        Level::AvxVnni => avx2() && has!("avxvnni") || cfg!(test) && vnni(),
        Level::Avx512 => avx512(),
        Level::Avx512Vnni => vnni(),
        Level::Amx => vnni() && crate::gemm::amx::available(),
    }
}

/// Whether the CPU has a level's instructions.
#[cfg(not(target_arch = "x86_64"))]
fn found(level: Level) -> bool {
    level == Level::Scalar
}

/// A computation compiled once per [`Level`]: implement [`Op::call`] with `#[inline(always)]`.
pub trait Op {
    /// What it returns.
    type Output;
    /// The computation, in safe scalar Rust that the compiler can vectorise.
    fn call(self) -> Self::Output;
}

/// Runs `op` compiled for `level`, or for the CPU's best level if that is lower.
#[inline]
pub fn dispatch<O: Op>(level: Level, op: O) -> O::Output {
    match level.here() {
        Level::Scalar => op.call(),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `level` is at most what the CPU was found to have.
        Level::Avx2 | Level::AvxVnni => unsafe { x86::avx2(op) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Level::Avx512 | Level::Avx512Vnni | Level::Amx => unsafe { x86::avx512(op) },
        #[cfg(not(target_arch = "x86_64"))]
        Level::Avx2 | Level::AvxVnni | Level::Avx512 | Level::Avx512Vnni | Level::Amx => op.call(),
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Op;

    #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2")]
    pub(super) fn avx2<O: Op>(op: O) -> O::Output {
        op.call()
    }

    #[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,avx512f,avx512bw,avx512cd,avx512dq,avx512vl")]
    pub(super) fn avx512<O: Op>(op: O) -> O::Output {
        op.call()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Lanes<'a>(&'a [f32], &'a [f32]);

    impl Op for Lanes<'_> {
        type Output = f32;
        #[inline(always)]
        fn call(self) -> f32 {
            let mut lanes = [0f32; 16];
            for (a, b) in self.0.chunks_exact(16).zip(self.1.chunks_exact(16)) {
                for i in 0..16 {
                    lanes[i] += a[i] * b[i];
                }
            }
            lanes.iter().sum()
        }
    }

    #[test]
    fn an_op_gives_the_same_bits_at_every_level() {
        let a: Vec<f32> = (0..4096).map(|i| ((i * 37 % 101) as f32 - 50.0) / 7.0).collect();
        let b: Vec<f32> = (0..4096).map(|i| ((i * 53 % 97) as f32 - 48.0) / 11.0).collect();
        let expected = Lanes(&a, &b).call();
        for level in Level::available() {
            assert_eq!(dispatch(level, Lanes(&a, &b)).to_bits(), expected.to_bits(), "{level:?}");
        }
    }

    #[test]
    fn levels_are_ordered_and_named() {
        assert!(Level::ALL.is_sorted());
        assert!(Level::ALL.iter().enumerate().all(|(i, level)| *level as usize == i));
        assert!(Level::detect() <= Level::best());
        assert!(Level::ALL.iter().all(|level| level.here() <= *level && level.here().here() == level.here()));
        assert_eq!(Level::available().next(), Some(Level::Scalar));
        assert_eq!(Level::available().last(), Some(Level::best()));
    }
}
