//! What readers say to small plans.

use super::*;
use crate::calibrated::gptq::Rules;
use crate::calibration::Samples;

fn module(name: &str, rows: usize, columns: usize, settings: &Settings) -> GptqModule {
    GptqModule {
        weight: format!("{name}.weight"),
        name: name.to_owned(),
        layer: 0,
        rows,
        columns,
        settings: Some(settings.clone()),
    }
}

fn notes(modules: &[GptqModule], default: &Settings, rules: bool) -> Vec<ReaderNote> {
    reader_notes(modules, &options(default, rules))
}

fn options(default: &Settings, rules: bool) -> Options {
    let samples = Samples { sequences: Vec::new(), tokens: 0, wanted: 0, dropped: 0 };
    let rules = if rules { Rules::parse(r#"{"-:x": {}}"#).unwrap() } else { Rules::default() };
    Options { rules, ..Options::new(default.clone(), samples) }
}

#[test]
fn of_other_packings_vllm_alone_is_asked_and_takes_zero_points() {
    let default = Settings { symmetric: false, ..Settings::default() };
    let modules = [module("a", 256, 512, &default)];
    for packing in [CodeFormat::CompressedTensors, CodeFormat::Awq] {
        assert_eq!(reader_notes(&modules, &Options { packing, ..options(&default, false) }), []);
    }
    assert!(!notes(&modules, &default, false).is_empty());
    let eight = Settings { bits: 8, ..default.clone() };
    let modules = [module("a", 256, 512, &eight)];
    let packing = CodeFormat::CompressedTensors;
    let notes = reader_notes(&modules, &Options { packing, ..options(&eight, false) });
    assert_eq!(notes, [note(&[Reader::Vllm], Reason::Asymmetric, &["a"], ReaderRemedy::Symmetric)]);
    let odd = Settings { bits: 3, ..default };
    let modules = [module("a", 256, 512, &odd)];
    let notes = reader_notes(&modules, &Options { packing, ..options(&odd, false) });
    assert_eq!(notes, [note(&[Reader::Vllm], Reason::Bits(vec![3]), &["a"], ReaderRemedy::Bits(&[4, 8]))]);
}

fn note(readers: &[Reader], reason: Reason, modules: &[&str], remedy: ReaderRemedy) -> ReaderNote {
    let modules = modules.iter().map(|&name| name.to_owned()).collect();
    ReaderNote { readers: readers.to_vec(), reason, modules, remedy }
}

#[test]
fn the_defaults_suit_everyone() {
    let default = Settings::default();
    assert_eq!(notes(&[module("a", 256, 512, &default)], &default, false), []);
    let all = Settings { group_size: None, ..default };
    assert_eq!(notes(&[module("a", 64, 96, &all)], &all, false), []);
}

#[test]
fn partial_groups() {
    let default = Settings::default();
    let modules =
        [module("a", 64, 1056, &default), module("b", 64, 96, &default), module("c", 64, 256, &default)];
    let reason = Reason::PartialGroups { columns: vec![1056, 96], group_size: 128 };
    let fits = ReaderRemedy::GroupSizes(vec![Some(32), None]);
    let fits_transformers = ReaderRemedy::GroupSizes(vec![Some(16), Some(32), None]);
    assert_eq!(
        notes(&modules, &default, false),
        [
            note(&[Reader::Transformers], reason.clone(), &["a", "b"], fits_transformers),
            note(&[Reader::Vllm], reason, &["a", "b"], fits),
        ]
    );
    // ExLlamaV2 takes them, unless their order is that of the activations.
    let act = Settings { order: Order::Activation, ..default };
    let last = notes(&[module("a", 64, 1056, &act)], &act, false).pop().unwrap();
    assert_eq!(last.reason, Reason::OrderOfPartialGroups);
    assert_eq!(last.readers, [Reader::ExLlamaV2]);
    assert_eq!(last.remedy, ReaderRemedy::GroupSizes(vec![Some(32), None]));
}

#[test]
fn shapes() {
    let default = Settings { group_size: None, ..Settings::default() };
    let modules = [module("a", 72, 1000, &default), module("b", 72, 64, &default)];
    let rows = Reason::Rows { rows: vec![72], multiple: 64 };
    let columns = Reason::Columns { columns: vec![1000], multiple: 32 };
    assert_eq!(
        notes(&modules, &default, false),
        [
            note(&[Reader::Transformers], rows, &["a", "b"], ReaderRemedy::GptqModel),
            note(&[Reader::ExLlamaV2], columns, &["a"], ReaderRemedy::LeaveOut),
        ]
    );
}

#[test]
fn group_sizes_and_bits_and_zero_points() {
    let default = Settings { group_size: Some(40), ..Settings::default() };
    let modules = [module("a", 64, 320, &default)];
    let reason = Reason::GroupSizes(vec![Some(40)]);
    let fits = |sizes: &[Option<usize>]| ReaderRemedy::GroupSizes(sizes.to_vec());
    assert_eq!(
        notes(&modules, &default, false),
        [
            note(
                &[Reader::GptqModel, Reader::Transformers],
                reason.clone(),
                &["a"],
                fits(&[Some(16), Some(32), Some(64), None])
            ),
            note(&[Reader::Vllm, Reader::ExLlamaV2], reason, &["a"], fits(&[Some(32), Some(64), None])),
        ]
    );
    let default = Settings { bits: 3, ..Settings::default() };
    let bits = |reader, fits| note(&[reader], Reason::Bits(vec![3]), &["a"], ReaderRemedy::Bits(fits));
    assert_eq!(
        notes(&[module("a", 64, 128, &default)], &default, false),
        [bits(Reader::Vllm, &[4, 8]), bits(Reader::ExLlamaV2, &[4])]
    );
    let default = Settings { symmetric: false, ..Settings::default() };
    let zero = |reader, reason| note(&[reader], reason, &["a"], ReaderRemedy::Symmetric);
    assert_eq!(
        notes(&[module("a", 64, 128, &default)], &default, false),
        [zero(Reader::Vllm, Reason::Asymmetric), zero(Reader::ExLlamaV2, Reason::ZeroPointZero)]
    );
}

#[test]
fn rules_for_single_modules() {
    let default = Settings::default();
    let eight = Settings { bits: 8, ..default.clone() };
    let modules = [
        module("x.q_proj", 64, 128, &eight),
        module("x.k_proj", 64, 128, &default),
        module("x.o_proj", 64, 128, &default),
    ];
    assert_eq!(
        notes(&modules, &default, true),
        [
            note(&[Reader::Transformers], Reason::Rules, &["x.q_proj"], ReaderRemedy::NoRules),
            note(&[Reader::Vllm], Reason::Fused, &["x.q_proj", "x.k_proj"], ReaderRemedy::SameSettings),
            note(&[Reader::ExLlamaV2], Reason::Bits(vec![8]), &["x.q_proj"], ReaderRemedy::Bits(&[4])),
        ]
    );
    // Rules that concern no module are none.
    assert_eq!(notes(&modules[1..], &default, true), []);
}
