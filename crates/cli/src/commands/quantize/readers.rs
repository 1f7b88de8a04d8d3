//! Which programs refuse a GPTQ checkpoint, and what would fit, in words.

use std::collections::BTreeSet;

use quern_quantize::calibrated::gptq::{Reader, ReaderNote, ReaderRemedy, Reason};
use serde_json::{Value, json};

/// One sentence: who refuses what, and what would fit.
pub fn sentence(note: &ReaderNote) -> String {
    let names: Vec<_> = note.readers.iter().map(|r| r.name()).collect();
    let count = note.modules.len();
    let modules = if count == 1 { "1 module has".to_owned() } else { format!("{count} modules have") };
    let numbers = |numbers: &[usize]| listed(numbers.iter().map(usize::to_string), "or");
    let what = match &note.reason {
        Reason::Bits(bits) => format!("{modules} {} bits", listed(bits.iter().map(u32::to_string), "or")),
        Reason::GroupSizes(sizes) => format!("{modules} groups of {}", group_sizes(sizes)),
        Reason::PartialGroups { columns, group_size } => {
            format!(
                "{modules} {} input columns, which are not whole groups of {group_size}",
                numbers(columns)
            )
        }
        Reason::Columns { columns, multiple } => {
            format!("{modules} {} input columns, not a multiple of {multiple}", numbers(columns))
        }
        Reason::Rows { rows, multiple } => {
            format!("{modules} {} output rows, not a multiple of {multiple}", numbers(rows))
        }
        Reason::Asymmetric => format!("{modules} zero points of their own"),
        Reason::ZeroPointZero => {
            format!("{modules} zero points of their own, and those that are 0 are read as something else")
        }
        Reason::OrderOfPartialGroups => {
            format!("{modules} columns grouped by activation, and a last group that is not whole")
        }
        Reason::Rules => format!("{modules} settings of their own, and rules for single modules are ignored"),
        Reason::Fused => {
            format!(
                "{modules} settings other than modules they are joined with (query, key and value; gate and up)"
            )
        }
    };
    format!("{} {}: {what}; {}", listed(names, "and"), verb(note), remedy(note))
}

/// The same for programs.
pub fn json(note: &ReaderNote) -> Value {
    let readers: Vec<_> = note.readers.iter().map(|r| r.name()).collect();
    json!({ "readers": readers, "modules": note.modules, "message": sentence(note) })
}

/// What the readers do with such a checkpoint.
fn verb(note: &ReaderNote) -> &'static str {
    let misread = matches!(note.reason, Reason::ZeroPointZero | Reason::OrderOfPartialGroups | Reason::Rules);
    match (misread, note.readers.len() > 1) {
        (true, false) => "misreads this",
        (true, true) => "misread this",
        (false, false) => "refuses this",
        (false, true) => "refuse this",
    }
}

fn remedy(note: &ReaderNote) -> String {
    match &note.remedy {
        ReaderRemedy::Bits(bits) => format!("--bits {} fits", listed(bits.iter().map(u32::to_string), "or")),
        // Any number of columns is one group.
        ReaderRemedy::GroupSizes(sizes) if sizes[..] == [None] => {
            format!("--group-size -1 fits, or {}", leave_out(note))
        }
        ReaderRemedy::GroupSizes(sizes) => format!("--group-size {} fits", group_sizes(sizes)),
        ReaderRemedy::Symmetric => "without --asym it fits".to_owned(),
        ReaderRemedy::LeaveOut => leave_out(note),
        ReaderRemedy::NoRules => "without --dynamic it fits".to_owned(),
        ReaderRemedy::SameSettings => "give them the same settings in --dynamic".to_owned(),
        ReaderRemedy::GptqModel => format!("{} reads it", Reader::GptqModel.name()),
    }
}

/// The rule that leaves modules as they are, by the last parts of their names.
fn leave_out(note: &ReaderNote) -> String {
    let leaves: BTreeSet<_> = note.modules.iter().map(|m| m.rsplit('.').next().unwrap_or(m)).collect();
    let leaves: Vec<_> = leaves.into_iter().collect();
    let pattern = format!("-:.*\\.({})$", leaves.join("|"));
    format!("--dynamic '{}' leaves them as they are", json!({ pattern: {} }))
}

fn group_sizes(sizes: &[Option<usize>]) -> String {
    listed(sizes.iter().map(|size| size.map_or_else(|| "-1".to_owned(), |size| size.to_string())), "or")
}

/// `a, b or c`
fn listed(items: impl IntoIterator<Item = impl Into<String>>, word: &str) -> String {
    let mut items: Vec<String> = items.into_iter().map(Into::into).collect();
    match items.pop() {
        Some(last) if items.is_empty() => last,
        Some(last) => format!("{} {word} {last}", items.join(", ")),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(reason: Reason, remedy: ReaderRemedy) -> ReaderNote {
        let modules = ["model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj"].map(str::to_owned);
        ReaderNote { readers: vec![Reader::Vllm], reason, modules: modules.to_vec(), remedy }
    }

    #[test]
    fn sentences_say_who_and_what_and_what_would_fit() {
        let partial = Reason::PartialGroups { columns: vec![1000, 96], group_size: 128 };
        for (note, expected) in [
            (
                note(partial.clone(), ReaderRemedy::GroupSizes(vec![Some(32), Some(64), None])),
                "vLLM refuses this: 2 modules have 1000 or 96 input columns, which are not whole groups of 128; \
                 --group-size 32, 64 or -1 fits",
            ),
            (
                note(partial, ReaderRemedy::GroupSizes(vec![None])),
                "vLLM refuses this: 2 modules have 1000 or 96 input columns, which are not whole groups of 128; \
                 --group-size -1 fits, or --dynamic '{\"-:.*\\\\.(down_proj)$\":{}}' leaves them as they are",
            ),
            (
                note(Reason::Bits(vec![3]), ReaderRemedy::Bits(&[4, 8])),
                "vLLM refuses this: 2 modules have 3 bits; --bits 4 or 8 fits",
            ),
        ] {
            assert_eq!(sentence(&note), expected);
        }
    }
}
