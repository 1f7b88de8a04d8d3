//! The kernels that PTX defines, and how many bytes of arguments each takes: read from its text, so that a launch with a
//! struct of another size is an error and not a kernel that reads something else.

use std::collections::HashMap;

/// Entry points of PTX (as `tools/build_kernels.py` writes it: one parameter a line) with the bytes that their
/// parameters take together.
///
/// ```text
/// .visible .entry add(
/// .param .align 8 .b8 add_param_0[32],
/// .param .u64 add_param_1
/// )
/// ```
pub(super) fn entries(ptx: &str) -> HashMap<String, usize> {
    let mut found = HashMap::new();
    let mut lines = ptx.lines();
    while let Some(line) = lines.next() {
        let Some((_, name)) = line.split_once(".entry ") else { continue };
        let mut end = 0;
        let name = name.trim_end_matches(['(', ')']);
        if !line.ends_with("()") {
            let parameters = lines.by_ref().take_while(|line| !line.starts_with(')'));
            for (align, bytes) in parameters.filter_map(parameter) {
                end = usize::next_multiple_of(end, align) + bytes;
            }
        }
        found.insert(name.to_owned(), end);
    }
    found
}

/// Alignment and size of a parameter.
fn parameter(line: &str) -> Option<(usize, usize)> {
    let mut words = line.trim_end_matches(',').split(' ').peekable();
    if words.next() != Some(".param") {
        return None;
    }
    let mut align = None;
    if words.next_if_eq(&".align").is_some() {
        align = words.next()?.parse().ok();
    }
    // .u64, .f32, .b8 …
    let bits: usize = words.next()?.trim_start_matches(|c: char| !c.is_ascii_digit()).parse().ok()?;
    let count = match words.last()?.split_once('[') {
        Some((_, count)) => count.trim_end_matches(']').parse().ok()?,
        None => 1,
    };
    Some((align.unwrap_or(bits / 8).max(1), bits / 8 * count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_laid_out_as_in_a_c_struct() {
        let ptx = ".version 8.4\n.visible .entry one(\n.param .align 16 .b8 one_param_0[40]\n)\n{\nret;\n}\n\
                   .visible .entry more(\n.param .u32 a,\n.param .u64 .ptr .align 4 b,\n.param .u8 c,\n.param .align 2 .b8 d[6]\n)\n\
                   .maxntid 256, 1, 1\n{\nret;\n}\n.visible .entry none()\n{\nret;\n}\n";
        let found = entries(ptx);
        assert_eq!(found.len(), 3);
        assert_eq!(found["one"], 40);
        assert_eq!(found["more"], 4 + 4 + 8 + 1 + 1 + 6);
        assert_eq!(found["none"], 0);
    }
}
