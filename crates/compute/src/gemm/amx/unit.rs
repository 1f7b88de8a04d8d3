//! The matrix unit: permission to use it, its configuration, and the one product that the tiled multiplication needs.
//!
//! Intel's matrix unit (AMX) has eight tiles of 16 rows of 64 bytes. Here tiles 0 to 3 are sums (16 activation rows
//! by 16 weight rows, i32), 4 and 5 are activations (16 rows, up to 64 values), 6 and 7 weights (a row of a tile is 4
//! values of 16 weight rows). The intrinsics are not stable in Rust, so the instructions are inline assembly. The
//! compiler itself never uses these registers.

use super::floats::FloatSums;
use super::{Sums, Unit};

/// The matrix unit of this CPU; made by [`Hardware::new`] only where there is one that may be used.
pub(super) struct Hardware(());

impl Hardware {
    /// Configures the tiles for `depth` values (32 or 64) in each step; the configuration lasts until the value is
    /// dropped, for this thread. None where the CPU or the system has no matrix unit.
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    pub fn new(depth: usize) -> Option<Self> {
        if !available() {
            return None;
        }
        let config = Config::new(depth);
        // SAFETY: the unit may be used, and the configuration is one that it has.
        unsafe { std::arch::asm!("ldtilecfg [{}]", in(reg) &raw const config, options(nostack, readonly)) };
        Some(Self(()))
    }

    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    pub fn new(_: usize) -> Option<Self> {
        None
    }
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
impl Drop for Hardware {
    fn drop(&mut self) {
        // SAFETY: the unit may be used, as for the configuration.
        unsafe { std::arch::asm!("tilerelease", options(nostack, nomem)) };
    }
}

/// The operand of `ldtilecfg`, palette 1.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    /// Bytes of a row of each tile.
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Config {
    fn new(depth: usize) -> Self {
        assert!(depth == 32 || depth == 64);
        let mut config =
            Self { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        config.rows[..8].copy_from_slice(&[16, 16, 16, 16, 16, 16, (depth / 4) as u8, (depth / 4) as u8]);
        config.row_bytes[..8].copy_from_slice(&[64, 64, 64, 64, depth as u16, depth as u16, 64, 64]);
        config
    }
}

/// Two activation tiles times two weight tiles.
#[cfg(all(target_arch = "x86_64", not(miri)))]
macro_rules! two {
    ($instruction:literal, $a:expr, $b:expr, $steps:expr, $a_step:expr, $b_step:expr, $sums:expr) => {
        std::arch::asm!(
            "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
            "2:",
            "tileloadd tmm6, [{b0} + {stride}*1]",
            "tileloadd tmm4, [{a0} + {stride}*1]",
            "tileloadd tmm7, [{b1} + {stride}*1]",
            concat!($instruction, " tmm0, tmm4, tmm6"),
            "tileloadd tmm5, [{a1} + {stride}*1]",
            concat!($instruction, " tmm1, tmm4, tmm7"),
            concat!($instruction, " tmm2, tmm5, tmm6"),
            concat!($instruction, " tmm3, tmm5, tmm7"),
            "add {a0}, {a_step}", "add {a1}, {a_step}", "add {b0}, {b_step}", "add {b1}, {b_step}",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{c} + {stride}*1], tmm0",
            "tilestored [{c} + {stride}*1 + 1024], tmm1",
            "tilestored [{c} + {stride}*1 + 2048], tmm2",
            "tilestored [{c} + {stride}*1 + 3072], tmm3",
            a0 = inout(reg) $a[0] => _,
            a1 = inout(reg) $a[1] => _,
            b0 = inout(reg) $b[0] => _,
            b1 = inout(reg) $b[1] => _,
            steps = inout(reg) $steps => _,
            a_step = in(reg) $a_step,
            b_step = in(reg) $b_step,
            stride = in(reg) 64usize,
            c = in(reg) $sums,
            options(nostack),
        )
    };
}

/// One activation tile times two weight tiles.
#[cfg(all(target_arch = "x86_64", not(miri)))]
macro_rules! one {
    ($instruction:literal, $a:expr, $b:expr, $steps:expr, $a_step:expr, $b_step:expr, $sums:expr) => {
        std::arch::asm!(
            "tilezero tmm0", "tilezero tmm1",
            "2:",
            "tileloadd tmm6, [{b0} + {stride}*1]",
            "tileloadd tmm4, [{a0} + {stride}*1]",
            "tileloadd tmm7, [{b1} + {stride}*1]",
            concat!($instruction, " tmm0, tmm4, tmm6"),
            concat!($instruction, " tmm1, tmm4, tmm7"),
            "add {a0}, {a_step}", "add {b0}, {b_step}", "add {b1}, {b_step}",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{c} + {stride}*1], tmm0",
            "tilestored [{c} + {stride}*1 + 1024], tmm1",
            a0 = inout(reg) $a[0] => _,
            b0 = inout(reg) $b[0] => _,
            b1 = inout(reg) $b[1] => _,
            steps = inout(reg) $steps => _,
            a_step = in(reg) $a_step,
            b_step = in(reg) $b_step,
            stride = in(reg) 64usize,
            c = in(reg) $sums,
            options(nostack),
        )
    };
}

impl Unit for Hardware {
    #[inline(always)]
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    unsafe fn product<const SIGNED: bool>(
        &self,
        a: &[*const i8],
        b: [*const u8; 2],
        steps: usize,
        a_step: usize,
        b_step: usize,
        sums: &mut Sums,
    ) {
        debug_assert!(steps > 0 && (a.len() == 1 || a.len() == 2));
        let c = sums.0.as_mut_ptr();
        // SAFETY: the tiles are configured while `self` lives; memory is as the caller guarantees, and the sums are
        // four tiles.
        unsafe {
            match (a.len(), SIGNED) {
                (1, true) => one!("tdpbssd", a, b, steps, a_step, b_step, c),
                (1, false) => one!("tdpbsud", a, b, steps, a_step, b_step, c),
                (_, true) => two!("tdpbssd", a, b, steps, a_step, b_step, c),
                (_, false) => two!("tdpbsud", a, b, steps, a_step, b_step, c),
            }
        }
    }

    #[inline(always)]
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    unsafe fn product_of_planes(&self, a: *const i8, planes: [[*const u8; 2]; 2], sums: &mut Sums) {
        let [low, high] = planes;
        // SAFETY: as for `product`.
        unsafe {
            std::arch::asm!(
                "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
                "2:",
                "tileloadd tmm4, [{a} + {stride}*1]",
                "tileloadd tmm6, [{l0} + {stride}*1]",
                "tdpbssd tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{l1} + {stride}*1]",
                "tdpbssd tmm1, tmm4, tmm7",
                "tileloadd tmm6, [{h0} + {stride}*1]",
                "tdpbssd tmm2, tmm4, tmm6",
                "tileloadd tmm7, [{h1} + {stride}*1]",
                "tdpbssd tmm3, tmm4, tmm7",
                "add {a}, 1024", "add {l0}, 1024", "add {l1}, 1024", "add {h0}, 1024", "add {h1}, 1024",
                "dec {steps}",
                "jnz 2b",
                "tilestored [{c} + {stride}*1], tmm0",
                "tilestored [{c} + {stride}*1 + 1024], tmm1",
                "tilestored [{c} + {stride}*1 + 2048], tmm2",
                "tilestored [{c} + {stride}*1 + 3072], tmm3",
                a = inout(reg) a => _,
                l0 = inout(reg) low[0] => _,
                l1 = inout(reg) low[1] => _,
                h0 = inout(reg) high[0] => _,
                h1 = inout(reg) high[1] => _,
                steps = inout(reg) 4usize => _,
                stride = in(reg) 64usize,
                c = in(reg) sums.0.as_mut_ptr(),
                options(nostack),
            );
        }
    }

    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    unsafe fn product_of_planes(&self, _: *const i8, _: [[*const u8; 2]; 2], _: &mut Sums) {
        unreachable!("there is no such unit")
    }

    #[inline(always)]
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    unsafe fn product_of_floats(
        &self,
        a: &[*const u8],
        b: [*const u8; 2],
        steps: &[[usize; 2]],
        sums: &mut FloatSums,
    ) {
        debug_assert!(!steps.is_empty() && (a.len() == 1 || a.len() == 2));
        // SAFETY: as for `product`.
        unsafe {
            std::arch::asm!(
                "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
                "2:",
                "mov {t}, [{at} + 8]",
                "add {t}, {b0}",
                "tileloadd tmm6, [{t} + {stride}*1]",
                "mov {t}, [{at}]",
                "add {t}, {a0}",
                "tileloadd tmm4, [{t} + {stride}*1]",
                "mov {t}, [{at} + 8]",
                "add {t}, {b1}",
                "tileloadd tmm7, [{t} + {stride}*1]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "mov {t}, [{at}]",
                "add {t}, {a1}",
                "tileloadd tmm5, [{t} + {stride}*1]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {at}, 16",
                "dec {steps}",
                "jnz 2b",
                "tilestored [{c} + {stride}*1], tmm0",
                "tilestored [{c} + {stride}*1 + 1024], tmm1",
                "tilestored [{c} + {stride}*1 + 2048], tmm2",
                "tilestored [{c} + {stride}*1 + 3072], tmm3",
                t = out(reg) _,
                at = inout(reg) steps.as_ptr() => _,
                a0 = in(reg) a[0],
                a1 = in(reg) a[a.len() - 1],
                b0 = in(reg) b[0],
                b1 = in(reg) b[1],
                steps = inout(reg) steps.len() => _,
                stride = in(reg) 64usize,
                c = in(reg) sums.0.as_mut_ptr(),
                options(nostack),
            );
        }
    }

    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    unsafe fn product_of_floats(
        &self,
        _: &[*const u8],
        _: [*const u8; 2],
        _: &[[usize; 2]],
        _: &mut FloatSums,
    ) {
        unreachable!("there is no such unit")
    }

    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    unsafe fn product<const SIGNED: bool>(
        &self,
        _: &[*const i8],
        _: [*const u8; 2],
        _: usize,
        _: usize,
        _: usize,
        _: &mut Sums,
    ) {
        unreachable!("there is no such unit")
    }
}

/// Whether this process may use a matrix unit for integers of 8 bits and for bf16: the CPU has it, and the system gives it to
/// processes that ask, as this function does.
#[cfg(all(target_arch = "x86_64", not(miri)))]
pub(crate) fn available() -> bool {
    static AVAILABLE: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *AVAILABLE.get_or_init(|| has_unit() && ask())
}

#[cfg(not(all(target_arch = "x86_64", not(miri))))]
pub(crate) fn available() -> bool {
    false
}

/// CPUID leaf 7, EDX: bit 22 is AMX-BF16, bit 24 AMX-TILE, bit 25 AMX-INT8.
#[cfg(all(target_arch = "x86_64", not(miri)))]
fn has_unit() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    let all = 1 << 22 | 1 << 24 | 1 << 25;
    __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & all == all
}

/// Asks Linux for the tiles' state (`ARCH_REQ_XCOMP_PERM` of `arch_prctl`, for the component 18, XTILEDATA). The
/// permission is the process's: threads that exist and threads made later have it.
#[cfg(all(target_arch = "x86_64", target_os = "linux", not(miri)))]
fn ask() -> bool {
    const ARCH_PRCTL: isize = 158;
    const ARCH_REQ_XCOMP_PERM: usize = 0x1023;
    const XTILEDATA: usize = 18;
    let result: isize;
    // SAFETY: a system call that changes nothing but this permission.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") ARCH_PRCTL => result,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XTILEDATA,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
    result == 0
}

#[cfg(all(target_arch = "x86_64", not(target_os = "linux"), not(miri)))]
fn ask() -> bool {
    false
}
