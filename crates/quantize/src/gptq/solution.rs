//! A quantized layer, and the tensors in which GPTQ checkpoints store it.
//!
//! ```text
//! qweight  I32 [columns*bits/32][rows]   codes, packed along the columns of the weight
//! qzeros   I32 [groups][rows*bits/32]    zero points (v1: less one), packed along the rows
//! scales   F16 [groups][rows]
//! g_idx    I32 [columns]                 group of each column
//! weight[r][c] = scales[g][r] * (code[r][c] - zero[g][r]),  g = g_idx[c]
//! ```
//!
//! Along the packed direction codes form a little-endian stream of bits: code k is bits `k*b .. k*b + b`, bit n of
//! the stream is bit `n % 32` of word `n / 32`.

use std::ops::Range;

use half::f16;
use quern_compute::Pool;
use quern_compute::parallel::{part_of, share};

/// A quantized layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Solution {
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub columns: usize,
    /// Number of groups.
    pub groups: usize,
    /// Bits of a code.
    pub bits: u32,
    /// `[rows][columns]`, columns in the layer's own order.
    pub codes: Vec<u8>,
    /// `[groups][rows]`
    pub scales: Vec<f16>,
    /// `[groups][rows]`
    pub zeros: Vec<u8>,
    /// Group of each column.
    pub g_idx: Vec<u32>,
    /// Half the mean square error of the output over the calibration tokens, summed over rows, with the damping
    /// counted in; of [`super::round_to_nearest`]: half the square error of the weights, each counted with its
    /// column's diagonal if given.
    pub loss: f64,
}

impl Solution {
    /// Writes the weights that `rows` stand for, `[rows][columns]`.
    ///
    /// # Panics
    /// If the rows do not exist or `out` has another length.
    pub fn dequantize(&self, rows: Range<usize>, out: &mut [f32]) {
        assert_eq!(out.len(), rows.len() * self.columns);
        if self.columns == 0 {
            return;
        }
        for (row, out) in rows.zip(out.chunks_exact_mut(self.columns)) {
            let codes = &self.codes[row * self.columns..][..self.columns];
            for ((out, &code), &group) in out.iter_mut().zip(codes).zip(&self.g_idx) {
                let at = group as usize * self.rows + row;
                let steps = i32::from(code) - i32::from(self.zeros[at]);
                *out = self.scales[at].to_f32() * steps as f32;
            }
        }
    }

    /// `qweight`, little-endian.
    pub fn qweight(&self, pool: &Pool) -> Vec<u8> {
        let (bits, rows) = (self.bits as usize, self.rows);
        let words = self.columns * bits / 32;
        let mut packed = vec![0u32; words * rows];
        // 32 codes fill whole words.
        let lines = (part_of(pool, packed.len(), bits * rows.max(1)) / rows.max(1)).max(1);
        share(pool, packed.chunks_mut((lines * rows).max(1)).enumerate(), |(part, packed)| {
            let first = part * lines * 32 / bits;
            let last = self.columns.min(first + packed.len() / rows * 32 / bits);
            // A band of rows at a time: its lines of output stay in the cache.
            for band in (0..rows).step_by(16) {
                for row in band..rows.min(band + 16) {
                    let codes = &self.codes[row * self.columns..][first..last];
                    let mut word = row;
                    let (mut filled, mut buffer) = (0, 0u64);
                    for &code in codes {
                        buffer |= u64::from(code) << filled;
                        filled += bits;
                        if filled >= 32 {
                            packed[word] = buffer as u32;
                            word += rows;
                            (filled, buffer) = (filled - 32, buffer >> 32);
                        }
                    }
                }
            }
        });
        bytes(packed)
    }

    /// `qzeros`, little-endian. `v2`: zero points as they are; otherwise less one modulo 2^bits.
    pub fn qzeros(&self, v2: bool) -> Vec<u8> {
        let bits = self.bits as usize;
        let mask = (1u32 << bits) - 1;
        let words = self.rows * bits / 32;
        let mut packed = vec![0u32; words * self.groups];
        if words == 0 {
            return Vec::new();
        }
        for (line, zeros) in packed.chunks_exact_mut(words).zip(self.zeros.chunks_exact(self.rows)) {
            for (row, &zero) in zeros.iter().enumerate() {
                let stored = if v2 { u32::from(zero) } else { u32::from(zero).wrapping_sub(1) & mask };
                let (word, shift) = (row * bits / 32, row * bits % 32);
                let stored = u64::from(stored) << shift;
                line[word] |= stored as u32;
                if shift + bits > 32 {
                    line[word + 1] |= (stored >> 32) as u32;
                }
            }
        }
        bytes(packed)
    }

    /// `scales`, little-endian.
    pub fn scales_bytes(&self) -> Vec<u8> {
        self.scales.iter().flat_map(|scale| scale.to_le_bytes()).collect()
    }

    /// `g_idx`, little-endian.
    pub fn g_idx_bytes(&self) -> Vec<u8> {
        bytes(self.g_idx.clone())
    }
}

fn bytes(words: Vec<u32>) -> Vec<u8> {
    words.into_iter().flat_map(u32::to_le_bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(bytes: &[u8]) -> Vec<String> {
        bytes.as_chunks().0.iter().map(|w| format!("{:08x}", u32::from_le_bytes(*w))).collect()
    }

    /// `row` in each of 32 rows.
    fn layer(bits: u32, row: impl Fn(usize) -> u8, columns: usize, zero: u8) -> Solution {
        Solution {
            rows: 32,
            columns,
            groups: 1,
            bits,
            codes: (0..32).flat_map(|_| (0..columns).map(&row)).collect(),
            scales: vec![f16::ONE; 32],
            zeros: vec![zero; 32],
            g_idx: vec![0; columns],
            loss: 0.0,
        }
    }

    /// The words of one row, one below the other.
    fn packed(bits: u32, row: impl Fn(usize) -> u8, columns: usize) -> Vec<String> {
        let layer = layer(bits, row, columns, 0);
        let all = words(&layer.qweight(&Pool::new(1)));
        assert_eq!(all, words(&layer.qweight(&Pool::new(3))));
        assert!(all.chunks(32).all(|line| line.iter().all(|w| *w == line[0])));
        all.into_iter().step_by(32).collect()
    }

    #[test]
    fn codes_are_packed_as_other_readers_expect() {
        assert_eq!(packed(4, |k| k as u8, 8), ["76543210"]);
        assert_eq!(packed(2, |k| (k % 4) as u8, 16), ["e4e4e4e4"]);
        assert_eq!(packed(8, |k| [0, 1, 2, 255][k], 4), ["ff020100"]);
        assert_eq!(packed(3, |k| (k % 8) as u8, 32), ["88fac688", "c688fac6", "fac688fa"]);
        assert_eq!(packed(3, |k| 7 - (k % 8) as u8, 32), ["77053977", "39770539", "05397705"]);
    }

    #[test]
    fn zero_points_are_packed_as_other_readers_expect() {
        let zeros = |bits, zero, v2| words(&layer(bits, |_| 0, 32, zero).qzeros(v2));
        assert_eq!(zeros(3, 4, false), ["db6db6db", "b6db6db6", "6db6db6d"]);
        assert_eq!(zeros(3, 4, true), ["24924924", "49249249", "92492492"]);
        assert_eq!(zeros(4, 8, false), ["77777777"; 4]);
        assert_eq!(zeros(4, 8, true), ["88888888"; 4]);
        assert_eq!(zeros(8, 128, false), ["7f7f7f7f"; 8]);
        assert_eq!(zeros(2, 2, false), ["55555555"; 2]);
        // A zero point of 0 in v1 wraps within its own field.
        let mut layer = layer(4, |_| 0, 32, 5);
        layer.zeros[1] = 0;
        assert_eq!(words(&layer.qzeros(false))[0], "444444f4");
    }
}
