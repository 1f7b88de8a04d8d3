//! Quantizes activations to 8 bits, for products with weights of block types.
//!
//! A row is cut into groups of 256 (for 256-value block types) or 32 (for those of fewer values); each gets
//! `d = max|x| / 127` and codes `c = round(x / d)`, half to even, in -127..=127. They come with the sum
//! of the codes of every 16 values, with which kernels subtract a block's zero point and minimum.

mod eights;

use quern_tensor_io::ElementType;

pub(crate) use eights::Eight;

use crate::simd::{Level, Op, dispatch};

/// Values that share one scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    /// 32, for blocks of 32, 64 or 128 values.
    Of32,
    /// 256, for 256-value blocks.
    Of256,
}

impl Group {
    /// How activations are grouped for a block type.
    pub fn of(element_type: ElementType) -> Self {
        if element_type.block_elements() == 256 { Self::Of256 } else { Self::Of32 }
    }

    pub fn len(self) -> usize {
        match self {
            Self::Of32 => 32,
            Self::Of256 => 256,
        }
    }
}

/// Quantized rows, one after the other.
#[derive(Debug, Default)]
pub(crate) struct Activations {
    /// `[n][columns]`
    pub codes: Vec<i8>,
    /// `[n][columns / group]`
    pub d: Vec<f32>,
    /// `[n][columns / 16]`
    pub sums: Vec<i16>,
    /// For groups of 32, `[n][columns / 256]`, the last of a row filled up with zeros.
    eights: Vec<Eight>,
}

/// One row of [`Activations`].
#[derive(Clone, Copy)]
pub(crate) struct Row<'a> {
    pub codes: &'a [i8],
    pub d: &'a [f32],
    pub sums: &'a [i16],
    /// The same values in another order, for groups of 32.
    pub eights: &'a [Eight],
}

impl Activations {
    /// Resizes to `n` rows; the previous values are lost.
    pub fn resize(&mut self, group: Group, columns: usize, n: usize) {
        self.codes.resize(n * columns, 0);
        self.d.resize(n * (columns / group.len()), 0.0);
        self.sums.resize(n * (columns / 16), 0);
        self.eights.resize(n * eights_of_row(group, columns), Eight::ZERO);
    }

    /// Quantizes `x` as row `i` of those last resized to.
    pub fn quantize(&mut self, level: Level, group: Group, columns: usize, i: usize, x: &[f32]) {
        let (scales, sums) = (columns / group.len(), columns / 16);
        quantize_row(
            level,
            group,
            x,
            &mut self.codes[i * columns..][..columns],
            &mut self.d[i * scales..][..scales],
            &mut self.sums[i * sums..][..sums],
        );
        self.arrange(group, columns, i);
    }

    /// Arranges the codes of row `i` in eights.
    pub(crate) fn arrange(&mut self, group: Group, columns: usize, i: usize) {
        let (scales, sums, count) = (columns / group.len(), columns / 16, eights_of_row(group, columns));
        eights::arrange(
            &self.codes[i * columns..][..columns],
            &self.d[i * scales..][..scales],
            &self.sums[i * sums..][..sums],
            &mut self.eights[i * count..][..count],
        );
    }

    /// Row `i` of those last resized to.
    pub fn row(&self, group: Group, columns: usize, i: usize) -> Row<'_> {
        let count = eights_of_row(group, columns);
        Row {
            codes: &self.codes[i * columns..][..columns],
            d: &self.d[i * (columns / group.len())..][..columns / group.len()],
            sums: &self.sums[i * (columns / 16)..][..columns / 16],
            eights: &self.eights[i * count..][..count],
        }
    }
}

/// How many [`Eight`] a row takes.
fn eights_of_row(group: Group, columns: usize) -> usize {
    match group {
        Group::Of32 => columns.div_ceil(8 * group.len()),
        Group::Of256 => 0,
    }
}

/// Quantizes one row. `x` is a whole number of groups.
pub(crate) fn quantize_row(
    level: Level,
    group: Group,
    x: &[f32],
    codes: &mut [i8],
    d: &mut [f32],
    sums: &mut [i16],
) {
    #[cfg(target_arch = "x86_64")]
    if level.here() > Level::Scalar {
        let n = x.len();
        assert!(n.is_multiple_of(group.len()) && codes.len() == n);
        assert!(d.len() == n / group.len() && sums.len() == n / 16);
        return match level.here() {
            // SAFETY: the CPU has the level, lengths are checked.
            Level::Avx512Vnni | Level::Amx => unsafe { avx512(group.len(), x, codes, d, sums) },
            // SAFETY: as above.
            _ => unsafe { avx2(group.len(), x, codes, d, sums) },
        };
    }
    match group {
        Group::Of32 => dispatch(level, Quantize::<32> { x, codes, d, sums }),
        Group::Of256 => dispatch(level, Quantize::<256> { x, codes, d, sums }),
    }
}

struct Quantize<'a, const GROUP: usize> {
    x: &'a [f32],
    codes: &'a mut [i8],
    d: &'a mut [f32],
    sums: &'a mut [i16],
}

impl<const GROUP: usize> Op for Quantize<'_, GROUP> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let groups = self.x.chunks_exact(GROUP).zip(self.codes.chunks_exact_mut(GROUP));
        let scales = self.d.iter_mut().zip(self.sums.chunks_exact_mut(GROUP / 16));
        for ((x, codes), (d, sums)) in groups.zip(scales) {
            let mut largest = [0f32; 16];
            for x in x.chunks_exact(16) {
                for i in 0..16 {
                    let a = x[i].abs();
                    largest[i] = if a > largest[i] { a } else { largest[i] };
                }
            }
            let largest = largest.into_iter().fold(0f32, f32::max);
            *d = largest / 127.0;
            let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
            for ((x, codes), sum) in x.chunks_exact(16).zip(codes.chunks_exact_mut(16)).zip(sums) {
                let mut total = 0i16;
                for i in 0..16 {
                    // Adding 1.5 * 2^23 rounds half to even into the low mantissa bits.
                    let code = (x[i] * inverse + 12_582_912.0).to_bits() as i8;
                    codes[i] = code;
                    total += i16::from(code);
                }
                *sum = total;
            }
        }
    }
}

/// The same, bit for bit.
///
/// # Safety
/// `x` and `codes` are whole groups, `d` one for each group, `sums` one for 16 values.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn avx2(group: usize, x: &[f32], codes: &mut [i8], d: &mut [f32], sums: &mut [i16]) {
    use std::arch::x86_64::*;
    let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    for (g, d) in d.iter_mut().enumerate() {
        // SAFETY: values of group g.
        let at = |i: usize| unsafe { _mm256_loadu_ps(x.as_ptr().add(g * group + i)) };
        let mut largest = [_mm256_setzero_ps(); 4];
        for i in (0..group).step_by(32) {
            for (k, largest) in largest.iter_mut().enumerate() {
                let size = _mm256_andnot_ps(_mm256_set1_ps(-0.0), at(i + 8 * k));
                // The first operand if that is a number, or else the second.
                *largest = _mm256_max_ps(size, *largest);
            }
        }
        let [a, b, c, e] = largest;
        let x = _mm256_max_ps(_mm256_max_ps(a, b), _mm256_max_ps(c, e));
        let x = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
        let x = _mm_max_ps(x, _mm_movehl_ps(x, x));
        let largest = _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
        *d = largest / 127.0;
        let inverse = _mm256_set1_ps(if largest > 0.0 { 127.0 / largest } else { 0.0 });
        for i in (0..group).step_by(32) {
            // The low bytes: what is no number becomes 0.
            let code = |k: usize| {
                _mm256_and_si256(
                    _mm256_cvtps_epi32(_mm256_mul_ps(at(i + 8 * k), inverse)),
                    _mm256_set1_epi32(255),
                )
            };
            let (low, high) = (_mm256_packus_epi32(code(0), code(1)), _mm256_packus_epi32(code(2), code(3)));
            let all = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(low, high), order);
            // Sums of eight codes with 128 added.
            let eights =
                _mm256_sad_epu8(_mm256_xor_si256(all, _mm256_set1_epi8(-128)), _mm256_setzero_si256());
            let both = _mm256_add_epi32(eights, _mm256_shuffle_epi32::<0b01_00_11_10>(eights));
            let both = _mm256_sub_epi32(both, _mm256_set1_epi32(16 * 128));
            // SAFETY: 32 codes of group g and their two sums.
            unsafe {
                let at = g * group + i;
                _mm256_storeu_si256(codes.as_mut_ptr().add(at).cast(), all);
                *sums.get_unchecked_mut(at / 16) = _mm256_extract_epi16::<0>(both) as i16;
                *sums.get_unchecked_mut(at / 16 + 1) = _mm256_extract_epi16::<8>(both) as i16;
            }
        }
    }
}

/// The same, bit for bit.
///
/// # Safety
/// `x` and `codes` are whole groups, `d` one for each group, `sums` one for 16 values.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn avx512(group: usize, x: &[f32], codes: &mut [i8], d: &mut [f32], sums: &mut [i16]) {
    use std::arch::x86_64::*;
    let n = x.len();
    for (g, d) in d.iter_mut().enumerate() {
        // SAFETY: values of group g.
        let at = |i: usize| unsafe { _mm512_loadu_ps(x.as_ptr().add(g * group + i)) };
        let mut largest = _mm512_setzero_ps();
        for i in (0..group).step_by(16) {
            largest = _mm512_max_ps(_mm512_abs_ps(at(i)), largest);
        }
        let largest = _mm512_reduce_max_ps(largest);
        *d = largest / 127.0;
        let inverse = _mm512_set1_ps(if largest > 0.0 { 127.0 / largest } else { 0.0 });
        for i in (0..group).step_by(16) {
            let code = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(at(i), inverse)));
            // SAFETY: codes of group g.
            unsafe { _mm_storeu_si128(codes.as_mut_ptr().add(g * group + i).cast(), code) };
        }
    }
    let ones = _mm512_set1_epi8(1);
    let pick = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
    for i in (0..n / 64 * 64).step_by(64) {
        // SAFETY: 64 codes and their 4 sums.
        unsafe {
            let fours = _mm512_loadu_si512(codes.as_ptr().add(i).cast());
            let fours = _mm512_dpbusd_epi32(_mm512_setzero_si512(), ones, fours);
            let pairs = _mm512_add_epi32(fours, _mm512_shuffle_epi32::<0xb1>(fours));
            let all = _mm512_add_epi32(pairs, _mm512_shuffle_epi32::<0x4e>(pairs));
            let all = _mm512_castsi512_si128(_mm512_permutexvar_epi32(pick, all));
            _mm_storel_epi64(sums.as_mut_ptr().add(i / 16).cast(), _mm_cvtepi32_epi16(all));
        }
    }
    for i in (n / 64 * 64..n).step_by(16) {
        sums[i / 16] = codes[i..i + 16].iter().map(|&c| i16::from(c)).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<const GROUP: usize>(group: Group) {
        let mut x: Vec<f32> = (0..GROUP * 5).map(|i| ((i * 7919 % 1009) as f32 - 500.0) / 77.0).collect();
        x[..GROUP].fill(0.0);
        x[GROUP] = -9.0;
        x[3 * GROUP + 5] = f32::NAN;
        for level in Level::available() {
            let mut a = Activations::default();
            a.resize(group, x.len(), 1);
            quantize_row(level, group, &x, &mut a.codes, &mut a.d, &mut a.sums);
            for (i, (&x, &code)) in x.iter().zip(&a.codes).enumerate() {
                let d = a.d[i / GROUP];
                let x = if x.is_nan() { 0.0 } else { x };
                assert!((x - d * f32::from(code)).abs() <= d * 0.5001, "{level:?} {i}: {x} {d} {code}");
                assert!(code >= -127);
            }
            let mut scalar = Activations::default();
            scalar.resize(group, x.len(), 1);
            quantize_row(Level::Scalar, group, &x, &mut scalar.codes, &mut scalar.d, &mut scalar.sums);
            assert_eq!((&a.codes, &a.d, &a.sums), (&scalar.codes, &scalar.d, &scalar.sums), "{level:?}");
            for (codes, &sum) in a.codes.chunks(16).zip(&a.sums) {
                assert_eq!(codes.iter().map(|&c| i16::from(c)).sum::<i16>(), sum);
            }
            assert!(a.codes[..GROUP].iter().all(|&c| c == 0));
            assert_eq!(a.codes[GROUP..2 * GROUP].iter().map(|c| c.unsigned_abs()).max(), Some(127));
        }
    }

    #[test]
    fn codes_are_nearest_and_sums_right() {
        check::<32>(Group::Of32);
        check::<256>(Group::Of256);
    }
}
