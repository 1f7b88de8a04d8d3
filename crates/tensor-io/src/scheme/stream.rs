//! GPTQ's bit stream: code `k` is bits `k b .. (k+1) b` of little-endian 32-bit words, lowest bit first.
//!
//! 2, 4 and 8 bits fill words evenly; 32 codes of 3 bits fill three words, codes 10 and 21 span two words.

/// The place of a code: the number of its first word, the shift there, and whether it continues in the next.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Place {
    pub word: usize,
    pub shift: u32,
    pub straddles: bool,
}

/// Place of code `k`, where no code spans two words.
pub(super) fn padded_place(k: usize, bits: u32) -> Place {
    let per_word = 32 / bits;
    let (word, nth) = (k / per_word as usize, k % per_word as usize);
    Place { word, shift: nth as u32 * bits, straddles: false }
}

/// Place of code `k`.
pub(super) fn place(k: usize, bits: u32) -> Place {
    let at = k * bits as usize;
    let shift = (at % 32) as u32;
    Place { word: at / 32, shift, straddles: shift + bits > 32 }
}

/// Words that `codes` codes take.
pub(super) fn words(codes: usize, bits: u32) -> Option<usize> {
    codes.checked_mul(bits as usize).map(|n| n.div_ceil(32))
}

/// Code `k` of a stream.
pub(super) fn code(stream: &[[u8; 4]], k: usize, bits: u32) -> u8 {
    code_at(stream, place(k, bits), bits)
}

/// The code in this place.
pub(super) fn code_at(stream: &[[u8; 4]], place: Place, bits: u32) -> u8 {
    let Place { word, shift, straddles } = place;
    let low = u32::from_le_bytes(stream[word]) >> shift;
    let high = if straddles { u32::from_le_bytes(stream[word + 1]) << (32 - shift) } else { 0 };
    (low | high) as u8 & mask(bits)
}

/// The largest code.
pub(super) fn mask(bits: u32) -> u8 {
    (u8::MAX as u32 >> (8 - bits)) as u8
}

/// A stream of these codes, padded with zeros to whole words.
pub(super) fn pack(codes: impl ExactSizeIterator<Item = u8>, bits: u32) -> Vec<u8> {
    let mut stream = vec![0u32; (codes.len() * bits as usize).div_ceil(32)];
    for (k, code) in codes.enumerate() {
        let Place { word, shift, straddles } = place(k, bits);
        stream[word] |= u32::from(code) << shift;
        if straddles {
            stream[word + 1] |= u32::from(code) >> (32 - shift);
        }
    }
    stream.iter().flat_map(|w| w.to_le_bytes()).collect()
}

/// Writes a stream of these codes, padded with zeros to whole words: `out` has as many bytes as they take.
pub(super) fn pack_into(codes: &[u8], bits: u32, out: &mut [u8]) {
    match bits {
        8 => {
            let (own, padding) = out.split_at_mut(codes.len());
            own.copy_from_slice(codes);
            padding.fill(0);
        }
        4 => {
            let (whole, rest) = codes.as_chunks::<8>();
            let word = |codes: &[u8; 8]| {
                let x = u64::from_le_bytes(*codes);
                let x = (x | x >> 4) & 0x00ff_00ff_00ff_00ff;
                let x = (x | x >> 8) & 0x0000_ffff_0000_ffff;
                ((x | x >> 16) as u32).to_le_bytes()
            };
            let words = out.as_chunks_mut::<4>().0;
            words.iter_mut().zip(whole).for_each(|(out, codes)| *out = word(codes));
            if !rest.is_empty() {
                let mut padded = [0; 8];
                padded[..rest.len()].copy_from_slice(rest);
                words[whole.len()] = word(&padded);
            }
        }
        _ => out.copy_from_slice(&pack(codes.iter().copied(), bits)),
    }
}

/// A stream of `count` times the same code.
pub(super) fn repeated(code: u8, count: usize, bits: u32) -> Vec<u8> {
    pack(std::iter::repeat_n(code, count), bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(words: &[u32]) -> Vec<[u8; 4]> {
        words.iter().map(|w| w.to_le_bytes()).collect()
    }

    /// The check values of the format's description.
    #[test]
    fn codes_lie_where_the_format_says() {
        let codes = |words: &[u32], n: usize, bits| -> Vec<u8> {
            let words = stream(words);
            (0..n).map(|k| code(&words, k, bits)).collect()
        };
        assert_eq!(codes(&[0x7654_3210], 8, 4), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(codes(&[0xe4e4_e4e4], 16, 2), [0, 1, 2, 3].repeat(4));
        assert_eq!(codes(&[0xff02_0100], 4, 8), [0, 1, 2, 255]);
        let up: Vec<u8> = (0..32).map(|k| k % 8).collect();
        assert_eq!(codes(&[0x88fa_c688, 0xc688_fac6, 0xfac6_88fa], 32, 3), up);
        let down: Vec<u8> = (0..32).map(|k| 7 - k % 8).collect();
        assert_eq!(codes(&[0x7705_3977, 0x3977_0539, 0x0539_7705], 32, 3), down);
    }

    #[test]
    fn repeated_codes_are_the_words_of_symmetric_zero_points() {
        let words = |code, count, bits| -> Vec<u32> {
            let bytes = repeated(code, count, bits);
            bytes.as_chunks().0.iter().map(|&w| u32::from_le_bytes(w)).collect()
        };
        assert_eq!(words(7, 16, 4), [0x7777_7777; 2]);
        assert_eq!(words(8, 8, 4), [0x8888_8888]);
        assert_eq!(words(127, 4, 8), [0x7f7f_7f7f]);
        assert_eq!(words(128, 4, 8), [0x8080_8080]);
        assert_eq!(words(1, 16, 2), [0x5555_5555]);
        assert_eq!(words(2, 16, 2), [0xaaaa_aaaa]);
        assert_eq!(words(3, 32, 3), [0xdb6d_b6db, 0xb6db_6db6, 0x6db6_db6d]);
        assert_eq!(words(4, 32, 3), [0x2492_4924, 0x4924_9249, 0x9249_2492]);
        assert_eq!(words(8, 3, 4), [0x0000_0888]);
    }
}
