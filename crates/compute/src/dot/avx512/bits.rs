//! What the kernels of large blocks share: constants that spread and shift bytes, loads, and sums under scales.

use std::arch::x86_64::*;

use super::vnni;

/// Byte i of a 64-byte control: the bit offset, in the 64-bit word around byte i, at which `vpmultishiftqb`
/// takes that byte; `low` and `high` shift the lower and upper 32 bytes right (left if negative).
pub(super) const fn multishift(low: i32, high: i32) -> [u8; 64] {
    multishift_words([low, low, low, low, high, high, high, high])
}

/// The same with a shift for each word of 64 bits.
pub(super) const fn multishift_words(shifts: [i32; 8]) -> [u8; 64] {
    let mut control = [0; 64];
    let mut i = 0;
    while i < 64 {
        control[i] = (8 * (i as i32 % 8) + shifts[i / 8]).rem_euclid(64) as u8;
        i += 1;
    }
    control
}

/// 32 lanes of 16 bits: `run` copies each of `first`, `first + step`, ...
pub(super) const fn spread16(first: u16, run: usize, step: u16) -> [u16; 32] {
    let mut lanes = [0; 32];
    let mut i = 0;
    while i < 32 {
        lanes[i] = first + (i / run) as u16 * step;
        i += 1;
    }
    lanes
}

/// As [`spread16`], to pick bytes out of 16 as lanes of 16 bits: the upper byte of each picks byte 16, which is zero.
pub(super) const fn pick16(first: u16, run: usize, step: u16) -> [u16; 32] {
    let mut lanes = spread16(first, run, step);
    let mut i = 0;
    while i < 32 {
        lanes[i] |= 16 << 8;
        i += 1;
    }
    lanes
}

/// 64 bytes: `run` copies each of 0, 1, ...
pub(super) const fn spread8(run: usize) -> [u8; 64] {
    let mut lanes = [0; 64];
    let mut i = 0;
    while i < 64 {
        lanes[i] = (i / run) as u8;
        i += 1;
    }
    lanes
}

/// The same for 16 lanes of 32 bits.
pub(super) const fn spread32(first: u32, run: usize, step: u32) -> [u32; 16] {
    let mut lanes = [0; 16];
    let mut i = 0;
    while i < 16 {
        lanes[i] = first + (i / run) as u32 * step;
        i += 1;
    }
    lanes
}

/// Even bytes of a 16-bit lane pick a byte, odd ones are zeroed: u8 to u16 while spreading.
pub(super) const EVEN_BYTES: u64 = 0x5555_5555_5555_5555;
/// Ternary logic `a | (b & c)`.
pub(super) const OR_AND: i32 = 0xf8;

vnni! {
    #[inline]
    pub(super) fn constant<T>(x: &'static [T]) -> __m512i {
        assert!(size_of_val(x) == 64);
        // SAFETY: 64 bytes long.
        unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
    }

    /// # Safety
    /// 64 bytes are readable.
    #[inline]
    pub(super) unsafe fn load64(p: *const u8) -> __m512i {
        // SAFETY: guaranteed by the caller.
        unsafe { _mm512_loadu_si512(p.cast()) }
    }

    /// The same 32 bytes in both halves.
    ///
    /// # Safety
    /// 32 bytes are readable.
    #[inline]
    pub(super) unsafe fn twice32(p: *const u8) -> __m512i {
        // SAFETY: guaranteed by the caller.
        _mm512_broadcast_i64x4(unsafe { _mm256_loadu_si256(p.cast()) })
    }

    /// # Safety
    /// 16 sums are readable.
    #[inline]
    pub(super) unsafe fn load_sums(s: *const i16) -> __m256i {
        // SAFETY: guaranteed by the caller.
        unsafe { _mm256_loadu_si256(s.cast()) }
    }

    /// Adds codes times activations times the two scales (bytes 2 z and 2 z + 1) of 64 values.
    #[inline]
    pub(super) fn add_32s(acc: __m512i, z: usize, codes: __m512i, c: __m512i, scales: __m128i) -> __m512i {
        static PICK: [[u16; 32]; 4] =
            [pick16(0, 16, 1), pick16(2, 16, 1), pick16(4, 16, 1), pick16(6, 16, 1)];
        let scale = _mm512_permutexvar_epi8(constant(&PICK[z]), _mm512_zextsi128_si512(scales));
        _mm512_dpwssd_epi32(acc, _mm512_maddubs_epi16(codes, c), scale)
    }

    /// Adds codes times activations times the four scales (16-bit lanes 4 z ..) of 64 values.
    #[inline]
    pub(super) fn add_16s(acc: __m512i, z: usize, codes: __m512i, c: __m512i, scales: __m256i) -> __m512i {
        static PICK: [[u16; 32]; 4] =
            [spread16(0, 8, 1), spread16(4, 8, 1), spread16(8, 8, 1), spread16(12, 8, 1)];
        let scale = _mm512_permutexvar_epi16(constant(&PICK[z]), _mm512_castsi256_si512(scales));
        _mm512_dpwssd_epi32(acc, _mm512_maddubs_epi16(codes, c), scale)
    }

    /// Takes off `2^SHIFT` times scales times sums: the zero point.
    ///
    /// # Safety
    /// 16 sums are readable.
    #[inline]
    pub(super) unsafe fn take_zero<const SHIFT: i32>(acc: __m512i, scales: __m256i, s: *const i16) -> __m512i {
        let scales = _mm256_slli_epi16::<SHIFT>(scales);
        // SAFETY: guaranteed by the caller.
        let zero = _mm256_dpwssd_epi32(_mm256_setzero_si256(), scales, unsafe { load_sums(s) });
        _mm512_sub_epi32(acc, _mm512_zextsi256_si512(zero))
    }
}
