//! The JSON text that describes a 4-bit tensor, as Python's `json.dumps` writes it.

use quern_tensor_io::ElementType;

use super::Kind;
use super::nested::BLOCK;

/// The longest text a float can have: `-1.1754943508222875e-38`.
const FLOAT_CHARS: usize = 24;

/// What the text says.
#[derive(Clone, Copy, Debug)]
pub(super) struct State<'a> {
    pub kind: Kind,
    pub block_size: usize,
    pub dtype: ElementType,
    pub shape: &'a [usize],
}

impl State<'_> {
    /// The text; with the mean of the scales if these are quantized.
    pub fn text(&self, offset: Option<f32>) -> String {
        self.with(offset.map(python_float))
    }

    /// The most characters it may have.
    pub fn most_chars(&self, nested: bool) -> usize {
        self.with(nested.then(|| "0".repeat(FLOAT_CHARS))).len()
    }

    fn with(&self, offset: Option<String>) -> String {
        let shape = self.shape.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
        let nested = offset.map_or(String::new(), |offset| {
            format!(r#", "nested_blocksize": {BLOCK}, "nested_dtype": "float32", "nested_offset": {offset}"#)
        });
        format!(
            r#"{{"quant_type": "{}", "blocksize": {}, "dtype": "{}", "shape": [{shape}]{nested}}}"#,
            self.kind.name(),
            self.block_size,
            torch_name(self.dtype),
        )
    }
}

/// torch's name of a float type.
pub(super) fn torch_name(element_type: ElementType) -> &'static str {
    match element_type {
        ElementType::F16 => "float16",
        ElementType::BF16 => "bfloat16",
        _ => "float32",
    }
}

/// Python's `repr` of the value as a double, not negative: the shortest digits that give it back (of two that
/// are as near, the even ones), with an exponent of two digits at least below 1e-4 and from 1e16.
fn python_float(x: f32) -> String {
    let (digits, exponent) = shortest(x);
    if !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        let (first, rest) = digits.split_at(1);
        let point = if rest.is_empty() { "" } else { "." };
        return format!("{first}{point}{rest}e{sign}{:02}", exponent.abs());
    }
    if exponent < 0 {
        return format!("0.{}{digits}", "0".repeat(exponent.unsigned_abs() as usize - 1));
    }
    let whole = exponent as usize + 1;
    let digits = format!("{digits:0<width$}", width = whole + 1);
    format!("{}.{}", &digits[..whole], &digits[whole..])
}

/// The shortest digits `d.ddd` that give the value back as a double, without the point, and the exponent.
fn shortest(x: f32) -> (String, i32) {
    let x = f64::from(x);
    let parts = |text: String| {
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        (digits.replace('.', ""), exponent.parse().unwrap_or(0))
    };
    let (digits, exponent) = parts(format!("{x:e}"));
    // An f32 has at most 112 digits. One that ends in 5 right behind the last of `digits` is midway
    // between two texts; Rust takes the upper one, Python the even one.
    let (exact, _) = parts(format!("{x:.120e}"));
    let (kept, rest) = exact.split_at(digits.len());
    let midway = rest.trim_end_matches('0') == "5";
    let even = kept.ends_with(['0', '2', '4', '6', '8']);
    // the lower text, where it still gives the value back
    let lower = format!("{}.{}e{exponent}", &kept[..1], &kept[1..]);
    match midway && even && lower.parse() == Ok(x) {
        true => (kept.to_owned(), exponent),
        false => (digits, exponent),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_of_every_size_have_pythons_form() {
        for (bits, text) in [
            (0x0000_0000, "0.0"),
            (0x3f80_0000, "1.0"),
            (0x3dcc_cccd, "0.10000000149011612"),
            (0x38d1_b717, "9.999999747378752e-05"),
            (0x38d1_b718, "0.00010000000474974513"),
            (0x0080_0000, "1.1754943508222875e-38"),
            (0x0000_0001, "1.401298464324817e-45"),
            (0x7f7f_ffff, "3.4028234663852886e+38"),
            (0x5a0e_1bca, "1.0000000272564224e+16"),
            (0x4b7f_ffff, "16777215.0"),
            // midway between two texts of 17 digits
            (0x3e53_f100, "0.20697402954101562"),
        ] {
            assert_eq!(python_float(f32::from_bits(bits)), text);
            assert!(text.len() <= FLOAT_CHARS);
        }
    }

    #[test]
    fn floats_are_written_as_python_wrote_them() {
        for pair in super::super::golden("floats") {
            let bits = pair[0].as_u64().unwrap() as u32;
            assert_eq!(python_float(f32::from_bits(bits)), pair[1].as_str().unwrap(), "{bits:#x}");
        }
    }

    #[test]
    fn the_text_is_the_documented_one() {
        let state = State { kind: Kind::Nf4, block_size: 64, dtype: ElementType::BF16, shape: &[4096, 4096] };
        let plain = r#"{"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [4096, 4096]}"#;
        assert_eq!(state.text(None), plain);
        assert_eq!(state.most_chars(false), plain.len());
        let nested = state.text(Some(0.25));
        let tail = r#", "nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.25}"#;
        assert_eq!(nested, format!("{}{tail}", &plain[..plain.len() - 1]));
        assert_eq!(state.most_chars(true), nested.len() + FLOAT_CHARS - 4);
    }
}
