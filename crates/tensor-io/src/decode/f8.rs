//! 8-bit floats (OCP OFP8, arXiv 2209.05433).
//!
//! ```text
//! e4m3   s eeee mmm    bias 7    no infinities; s 1111 111 is NaN; largest 448
//! e5m2   s eeeee mm    bias 15   the upper byte of an f16, infinities and NaNs included
//! ```

use half::f16;

static E4M3: [f32; 256] = e4m3_table();

pub(super) fn e4m3(data: &[u8], out: &mut [f32]) {
    out.iter_mut().zip(data).for_each(|(v, &b)| *v = E4M3[usize::from(b)]);
}

pub(super) fn e5m2(data: &[u8], out: &mut [f32]) {
    out.iter_mut().zip(data).for_each(|(v, &b)| *v = f16::from_bits(u16::from(b) << 8).to_f32());
}

const fn e4m3_table() -> [f32; 256] {
    let mut table = [0.0; 256];
    let mut code = 0;
    while code < 256 {
        let (sign, exponent, mantissa) = ((code as u32 >> 7) << 31, code as u32 >> 3 & 15, code as u32 & 7);
        table[code] = if exponent == 15 && mantissa == 7 {
            f32::from_bits(sign | f32::NAN.to_bits())
        } else if exponent == 0 {
            // Subnormal: mantissa / 8 * 2^-6, exact in f32.
            f32::from_bits((mantissa as f32 / 512.0).to_bits() | sign)
        } else {
            f32::from_bits(sign | (exponent + 120) << 23 | mantissa << 20)
        };
        code += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn landmarks() {
        let decode = |f: fn(&[u8], &mut [f32]), code: u8| {
            let mut out = [0.0];
            f(&[code], &mut out);
            out[0]
        };
        for (code, value) in [
            (0x00, 0.0),
            (0x01, 0.001953125),
            (0x07, 0.013671875),
            (0x08, 0.015625),
            (0x38, 1.0),
            (0x7e, 448.0),
        ] {
            assert_eq!(decode(e4m3, code).to_bits(), f32::to_bits(value));
            assert_eq!(decode(e4m3, code | 0x80).to_bits(), f32::to_bits(-value));
        }
        assert!(decode(e4m3, 0x7f).is_nan() && decode(e4m3, 0xff).is_nan());
        for (code, value) in
            [(0x00, 0.0), (0x01, 1.0 / 65536.0), (0x3c, 1.0), (0x7b, 57344.0), (0x7c, f32::INFINITY)]
        {
            assert_eq!(decode(e5m2, code), value);
            assert_eq!(decode(e5m2, code | 0x80), -value);
        }
        assert!(decode(e5m2, 0x7d).is_nan());
    }
}
