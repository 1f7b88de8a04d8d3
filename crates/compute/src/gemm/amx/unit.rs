//! The matrix unit: permission to use it, its configuration, and the products that the tiled multiplication needs.
//!
//! Intel's matrix unit (AMX) has eight tiles of 16 rows of 64 bytes. A tile of sums is 16 activation rows by 16 weight
//! rows; one of activations 16 rows of 64 bytes; in one of weights a row is 4 bytes of each of 16 weight rows. The
//! intrinsics are not stable in Rust, so the instructions are inline assembly. The compiler itself never uses these
//! registers, so that sums stay in them from one block of assembly to the next.
//!
//! A product is started and finished apart: stores of sums that are not computed yet would fill the core's queue of
//! waiting instructions, and vectors could not work meanwhile.

use super::{BLOCK_ROWS, Sums, Unit};

/// The matrix unit of this CPU; made by [`Hardware::new`] only where there is one that may be used.
pub(super) struct Hardware(());

impl Hardware {
    /// Configures the tiles, all of 16 rows of 64 bytes; the configuration lasts until the value is dropped, for this
    /// thread. None where the CPU or the system has no matrix unit.
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    pub fn new() -> Option<Self> {
        if !available() {
            return None;
        }
        let config = Config::new();
        // SAFETY: the unit may be used, and the configuration is one that it has.
        unsafe { std::arch::asm!("ldtilecfg [{}]", in(reg) &raw const config, options(nostack, readonly)) };
        Some(Self(()))
    }

    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    pub fn new() -> Option<Self> {
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
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    /// Bytes of a row of each tile.
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
impl Config {
    fn new() -> Self {
        let mut config =
            Self { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        config.rows[..8].fill(16);
        config.row_bytes[..8].fill(64);
        config
    }
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
impl Unit for Hardware {
    #[inline(always)]
    unsafe fn start(&self, a: [*const i8; 2], b: [*const u8; 2], steps: usize) {
        debug_assert!(steps > 0);
        // SAFETY: the tiles are configured while `self` lives; memory is as the caller guarantees.
        unsafe {
            std::arch::asm!(
                "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
                "2:",
                "tileloadd tmm6, [{b0} + {stride}*1]",
                "tileloadd tmm4, [{a0} + {stride}*1]",
                "tileloadd tmm7, [{b1} + {stride}*1]",
                "tdpbssd tmm0, tmm4, tmm6",
                "tileloadd tmm5, [{a1} + {stride}*1]",
                "tdpbssd tmm1, tmm4, tmm7",
                "tdpbssd tmm2, tmm5, tmm6",
                "tdpbssd tmm3, tmm5, tmm7",
                "add {a0}, 1024", "add {a1}, 1024", "add {b0}, 1024", "add {b1}, 1024",
                "dec {steps}",
                "jnz 2b",
                a0 = inout(reg) a[0] => _,
                a1 = inout(reg) a[1] => _,
                b0 = inout(reg) b[0] => _,
                b1 = inout(reg) b[1] => _,
                steps = inout(reg) steps => _,
                stride = in(reg) 64usize,
                options(nostack, readonly),
            );
        }
    }

    #[inline(always)]
    unsafe fn finish(&self, sums: &mut Sums) {
        // SAFETY: the sums are four tiles.
        unsafe {
            std::arch::asm!(
                "tilestored [{c} + {stride}*1], tmm0",
                "tilestored [{c} + {stride}*1 + 1024], tmm1",
                "tilestored [{c} + {stride}*1 + 2048], tmm2",
                "tilestored [{c} + {stride}*1 + 3072], tmm3",
                stride = in(reg) 64usize,
                c = in(reg) sums.0.as_mut_ptr(),
                options(nostack),
            );
        }
    }

    #[inline(always)]
    unsafe fn start_planes(&self, a: *const i8, [low, high]: [[*const u8; 2]; 2]) {
        // SAFETY: as for `start`.
        unsafe {
            std::arch::asm!(
                "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
                "2:",
                "tileloadd tmm6, [{a} + {stride}*1]",
                "tileloadd tmm7, [{l0} + {stride}*1]",
                "tdpbssd tmm0, tmm6, tmm7",
                "tileloadd tmm7, [{l1} + {stride}*1]",
                "tdpbssd tmm1, tmm6, tmm7",
                "tileloadd tmm7, [{h0} + {stride}*1]",
                "tdpbssd tmm2, tmm6, tmm7",
                "tileloadd tmm7, [{h1} + {stride}*1]",
                "tdpbssd tmm3, tmm6, tmm7",
                "add {a}, 1024", "add {l0}, 1024", "add {l1}, 1024", "add {h0}, 1024", "add {h1}, 1024",
                "dec {steps}",
                "jnz 2b",
                a = inout(reg) a => _,
                l0 = inout(reg) low[0] => _,
                l1 = inout(reg) low[1] => _,
                h0 = inout(reg) high[0] => _,
                h1 = inout(reg) high[1] => _,
                steps = inout(reg) 4usize => _,
                stride = in(reg) 64usize,
                options(nostack, readonly),
            );
        }
    }

    #[inline(always)]
    unsafe fn start_minima(&self, parts: *const u8, minima: [*const u8; 2]) {
        // SAFETY: as for `start`.
        unsafe {
            std::arch::asm!(
                "tilezero tmm4", "tilezero tmm5",
                "tileloadd tmm6, [{a} + {stride}*1]",
                "tileloadd tmm7, [{m0} + {stride}*1]",
                "tdpbf16ps tmm4, tmm6, tmm7",
                "tileloadd tmm7, [{m1} + {stride}*1]",
                "tdpbf16ps tmm5, tmm6, tmm7",
                a = in(reg) parts,
                m0 = in(reg) minima[0],
                m1 = in(reg) minima[1],
                stride = in(reg) 64usize,
                options(nostack, readonly),
            );
        }
    }

    #[inline(always)]
    unsafe fn finish_minima(&self, minima: &mut [[[f32; 16]; BLOCK_ROWS]; 2]) {
        // SAFETY: two tiles.
        unsafe {
            std::arch::asm!(
                "tilestored [{c} + {stride}*1], tmm4",
                "tilestored [{c} + {stride}*1 + 1024], tmm5",
                stride = in(reg) 64usize,
                c = in(reg) minima.as_mut_ptr(),
                options(nostack),
            );
        }
    }

    #[inline(always)]
    unsafe fn add_product_of_floats(
        &self,
        a: [*const u8; 2],
        b: [*const u8; 2],
        (steps, parts): (usize, usize),
        sums: [*mut f32; 2],
    ) {
        debug_assert!(steps > 0);
        /// Steps: tiles 4 and 5 are activations, 6 and 7 weights; each is loaded as often as it is needed.
        macro_rules! product {
            ($($line:expr),* $(,)?) => {
                std::arch::asm!(
                    "tileloadd tmm0, [{c0} + {stride}*2]",
                    "tileloadd tmm1, [{c0} + {stride}*2 + 64]",
                    "tileloadd tmm2, [{c1} + {stride}*2]",
                    "tileloadd tmm3, [{c1} + {stride}*2 + 64]",
                    "2:",
                    $($line),*,
                    "add {a0}, 1024", "add {a1}, 1024", "add {b0}, 1024", "add {b1}, 1024",
                    "dec {steps}",
                    "jnz 2b",
                    "tilestored [{c0} + {stride}*2], tmm0",
                    "tilestored [{c0} + {stride}*2 + 64], tmm1",
                    "tilestored [{c1} + {stride}*2], tmm2",
                    "tilestored [{c1} + {stride}*2 + 64], tmm3",
                    a0 = inout(reg) a[0] => _,
                    a1 = inout(reg) a[1] => _,
                    b0 = inout(reg) b[0] => _,
                    b1 = inout(reg) b[1] => _,
                    steps = inout(reg) steps => _,
                    stride = in(reg) 64usize,
                    c0 = in(reg) sums[0],
                    c1 = in(reg) sums[1],
                    options(nostack),
                )
            };
        }
        /// Loads two tiles of a part; parts are 8 KiB apart.
        macro_rules! load {
            ($x:literal, $from:literal, $y:literal, $and:literal, $at:literal) => {
                concat!(
                    "tileloadd tmm",
                    $x,
                    ", [{",
                    $from,
                    "} + {stride}*1 + ",
                    $at,
                    "]\n",
                    "tileloadd tmm",
                    $y,
                    ", [{",
                    $and,
                    "} + {stride}*1 + ",
                    $at,
                    "]"
                )
            };
        }
        macro_rules! a {
            ($at:literal) => {
                load!("4", "a0", "5", "a1", $at)
            };
        }
        macro_rules! b {
            ($at:literal) => {
                load!("6", "b0", "7", "b1", $at)
            };
        }
        macro_rules! multiply {
            () => {
                "tdpbf16ps tmm0, tmm4, tmm6\ntdpbf16ps tmm1, tmm4, tmm7\ntdpbf16ps tmm2, tmm5, tmm6\ntdpbf16ps tmm3, tmm5, tmm7"
            };
        }
        // SAFETY: as for `start`; the sums are four tiles, the rows of each pair side by side.
        unsafe {
            match parts {
                1 => {
                    product!(b!("0"), a!("16384"), multiply!(), a!("8192"), multiply!(), a!("0"), multiply!())
                }
                2 => product!(
                    b!("0"),
                    a!("16384"),
                    multiply!(),
                    a!("0"),
                    multiply!(),
                    a!("8192"),
                    multiply!(),
                    b!("8192"),
                    multiply!(),
                    a!("0"),
                    multiply!()
                ),
                _ => product!(
                    b!("0"),
                    a!("16384"),
                    multiply!(),
                    a!("0"),
                    multiply!(),
                    a!("8192"),
                    multiply!(),
                    b!("8192"),
                    multiply!(),
                    a!("0"),
                    multiply!(),
                    b!("16384"),
                    multiply!()
                ),
            }
        }
    }
}

#[cfg(not(all(target_arch = "x86_64", not(miri))))]
impl Unit for Hardware {
    unsafe fn start(&self, _: [*const i8; 2], _: [*const u8; 2], _: usize) {}
    unsafe fn finish(&self, _: &mut Sums) {}
    unsafe fn start_planes(&self, _: *const i8, _: [[*const u8; 2]; 2]) {}
    unsafe fn start_minima(&self, _: *const u8, _: [*const u8; 2]) {}
    unsafe fn finish_minima(&self, _: &mut [[[f32; 16]; BLOCK_ROWS]; 2]) {}
    unsafe fn add_product_of_floats(
        &self,
        _: [*const u8; 2],
        _: [*const u8; 2],
        _: (usize, usize),
        _: [*mut f32; 2],
    ) {
    }
}

/// Whether this process may use a matrix unit for integers of 8 bits and for bf16: the CPU has it, and the system gives
/// it to processes that ask, as this function does.
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
