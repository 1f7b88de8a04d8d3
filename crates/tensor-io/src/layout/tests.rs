//! Packed scales, and views of bytes.

use super::scales::{Scales6, ScalesMinima6};
use super::*;

/// Distinct numbers below 64.
fn sixes<const N: usize>(seed: usize) -> [u8; N] {
    std::array::from_fn(|i| ((i * 37 + seed * 11 + 5) % 64) as u8)
}

#[test]
fn packed_scales_come_back() {
    for seed in 0..64 {
        let (scales, minima) = (sixes(seed), sixes(seed + 100));
        assert_eq!(ScalesMinima6::pack(&scales, &minima).unpack(), (scales, minima));
        let scales = sixes(seed);
        assert_eq!(Scales6::pack(&scales).unpack(), scales.map(|s| s as i8 - 32));
        let (scales, mut block) = (sixes(seed), IQ4XS::ZERO);
        block.set_scales(&scales);
        assert_eq!(block.scales(), scales.map(|s| s as i8 - 32));
        let (scales, d) = (sixes::<16>(seed).map(|s| s & 7), F16::from_bits(0x9a3c ^ seed as u16));
        let mut block = IQ1M::ZERO;
        block.set_scales(&scales, d);
        assert_eq!((std::array::from_fn(|j| block.scale(j)), block.d()), (scales, d));
    }
}

#[test]
fn every_bit_of_packed_scales_is_where_ggml_has_it() {
    // By the layout's drawing: scale 5 = low nibble of byte 9, top bits of byte 1; minimum 5 = high nibble, byte 5.
    let mut packed = [0; 12];
    (packed[1], packed[5], packed[9]) = (0b10_000001, 0b01_000010, 0b0110_1001);
    let (scales, minima) = ScalesMinima6(packed).unpack();
    assert_eq!((scales[1], minima[1], scales[5], minima[5]), (1, 2, 0b10_1001, 0b01_0110));
    // Scale 9 = high nibble of byte 1, bits 4 and 5 of byte 9.
    let mut packed = [0; 12];
    (packed[1], packed[9]) = (0b0101_0000, 0b0011_0000);
    assert_eq!(Scales6(packed).unpack()[9], 0b11_0101 - 32);
}

#[test]
fn bytes_are_viewed_as_whole_blocks() {
    let mut bytes: Vec<u8> = (0..=255).cycle().take(3 * 18 + 5).collect();
    let blocks = blocks::<Q4_0>(&bytes[1..]);
    assert_eq!(blocks.len(), 3);
    assert_eq!((blocks[1].d.bits(), blocks[1].qs[15]), (u16::from_le_bytes([19, 20]), 36));
    assert!(super::blocks::<Q6K>(&bytes).is_empty());
    blocks_mut::<Q4_0>(&mut bytes)[2].qs[0] = 77;
    assert_eq!(bytes[38], 77);
}
