//! What is refused, and how: values that do not fit, outputs that exist, sources that are broken.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::*;
use half::{bf16, f16};
use quern_convert::{Options, plan, run};
use quern_tensor_io::{Checkpoint, ElementType, NoProgress};

/// The demo model with one value of `name` replaced, all of it in `kind`.
fn with_value(folder: &Path, name: &str, kind: ElementType, at: usize, value: f32) -> PathBuf {
    let demo = Checkpoint::open(&fixture("bookworm-4m")).unwrap();
    let mut tensors = tensors_of(&demo);
    for (found, element_type, _, data) in &mut tensors {
        let mut all = values(&demo, found);
        if found == name {
            all[at] = value;
        }
        *element_type = kind;
        *data = match kind {
            ElementType::BF16 => all.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect(),
            ElementType::F16 => all.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect(),
            _ => all.iter().flat_map(|v| v.to_le_bytes()).collect(),
        };
    }
    write_model(folder, &fixture("bookworm-4m"), &tensors);
    folder.to_path_buf()
}

const V_PROJ: &str = "model.layers.1.self_attn.v_proj.weight";

#[test]
fn a_value_too_large_for_the_type_is_named() {
    let scratch = tempfile::tempdir().unwrap();
    let source = with_value(&scratch.path().join("large"), V_PROJ, ElementType::BF16, 3 * 256 + 17, -70144.0);
    for (target, out) in [(GGUF, "a.gguf"), (SAFETENSORS, "b")] {
        let text = refusal(&source, &scratch.path().join(out), cast(target, ElementType::F16));
        assert_says(
            &text,
            &[V_PROJ, "row 3, column 17", "-70144 is too large for f16; ChooseDtype([BF16, F32])"],
        );
    }
    convert_exactly(&source, &scratch.path().join("c.gguf"), to(GGUF));
    convert_exactly(&source, &scratch.path().join("d"), cast(SAFETENSORS, ElementType::F32));

    let source = with_value(&scratch.path().join("huge"), V_PROJ, ElementType::F32, 5, f32::MAX);
    let text = refusal(&source, &scratch.path().join("e.gguf"), cast(GGUF, ElementType::BF16));
    assert_says(&text, &["row 0, column 5", "too large for bf16; ChooseDtype([F32])"]);
}

/// The first value in file order is named, with any number of threads.
#[test]
fn values_that_are_not_numbers_are_named_where_they_would_be_rounded() {
    let scratch = tempfile::tempdir().unwrap();
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let folder = scratch.path().join("source");
        let source = with_value(&folder, V_PROJ, ElementType::F16, 256 * 100, value);
        let mut texts = Vec::new();
        for threads in [1, 4] {
            let options = Options { threads, ..cast(GGUF, ElementType::BF16) };
            texts.push(refusal(&source, &scratch.path().join("a.gguf"), options));
        }
        assert_says(&texts[0], &[V_PROJ, "row 100, column 0", "damaged; KeepDtype"]);
        assert_eq!(texts[0], texts[1]);
        // As it is it goes over as it is.
        let file = scratch.path().join("b.gguf");
        convert_exactly(&source, &file, to(GGUF));
        let back = scratch.path().join("back");
        let again = convert_exactly(&file, &back, to(SAFETENSORS));
        assert_same_tensors(&again, &Checkpoint::open(&source).unwrap());
        fs::remove_file(file).unwrap();
        [folder, back].iter().for_each(|f| fs::remove_dir_all(f).unwrap());
    }
}

#[test]
fn outputs_that_exist_are_kept_unless_forced() {
    let scratch = tempfile::tempdir().unwrap();
    let demo = fixture("bookworm-4m");
    let file = scratch.path().join("a.gguf");
    fs::write(&file, "precious").unwrap();
    assert_says(&refusal(&demo, &file, to(GGUF)), &["a.gguf", "already exists; ReplaceOutput"]);
    assert_eq!(fs::read(&file).unwrap(), b"precious");
    convert_exactly(&demo, &file, Options { force: true, ..to(GGUF) });

    let folder = scratch.path().join("b");
    convert_exactly(&demo, &folder, to(SAFETENSORS));
    assert_says(&refusal(&file, &folder, to(SAFETENSORS)), &["b", "already exists; ReplaceOutput"]);
    convert_exactly(&file, &folder, Options { force: true, ..to(SAFETENSORS) });
    // A folder that is more than a model is never replaced.
    fs::create_dir(folder.join("more")).unwrap();
    let text = refusal(&file, &folder, Options { force: true, ..to(SAFETENSORS) });
    assert_says(&text, &["more than a model"]);
    assert_eq!(listing(scratch.path()), ["a.gguf", "b"]);
}

#[test]
fn the_source_is_never_the_output() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("a.gguf");
    convert_exactly(&fixture("bookworm-4m"), &file, to(GGUF));
    let link = scratch.path().join("link.gguf");
    fs::hard_link(&file, &link).unwrap();
    for out in [&file, &link] {
        let text = refusal(&file, out, Options { force: true, ..to(GGUF) });
        assert_says(&text, &["the file being read"]);
    }
    let folder = scratch.path().join("b");
    convert_exactly(&file, &folder, to(SAFETENSORS));
    let text = refusal(&folder, &folder, Options { force: true, ..to(SAFETENSORS) });
    assert_says(&text, &["the model being read is stored there"]);
}

#[test]
fn broken_sources_are_refused_with_what_is_wrong() {
    let scratch = tempfile::tempdir().unwrap();
    let source = scratch.path().join("source");
    let demo = Checkpoint::open(&fixture("bookworm-4m")).unwrap();
    let all = tensors_of(&demo);
    let refused = |tensors: &[Made], parts: &[&str]| {
        write_model(&source, &fixture("bookworm-4m"), tensors);
        let text = refusal(&source, &scratch.path().join("a.gguf"), to(GGUF));
        assert_says(&text, &[&["source"], parts].concat());
    };
    refused(&all[1..], &[all[0].0.as_str(), "missing"]);
    let mut more = all.clone();
    more.push(("model.layers.4.extra.weight".into(), ElementType::F16, vec![2], vec![0; 4]));
    refused(&more, &["model.layers.4.extra.weight", "no such tensor"]);
    let mut short = all.clone();
    let at = short.iter().position(|t| t.0 == V_PROJ).unwrap();
    short[at].2 = vec![64, 256];
    short[at].3.truncate(64 * 256 * 2);
    refused(&short, &[V_PROJ, "[64, 256]", "[128, 256]"]);
    let mut whole = all.clone();
    whole[at].1 = ElementType::I16;
    refused(&whole, &[V_PROJ, "floating-point"]);
    let mut double = all.clone();
    double[at].1 = ElementType::F64;
    double[at].3 = vec![0; 128 * 256 * 8];
    refused(&double, &[V_PROJ, "f64", "; ChooseDtype([F32])"]);
    convert(&source, &scratch.path().join("b.gguf"), cast(GGUF, ElementType::F32));

    write_model(&source, &fixture("bookworm-4m"), &all);
    for (file, parts) in [("config.json", "config.json"), ("tokenizer.json", "tokenizer")] {
        let bytes = fs::read(source.join(file)).unwrap();
        fs::remove_file(source.join(file)).unwrap();
        let kept = source.join("tokenizer.model");
        let model = fs::read(&kept).unwrap();
        fs::remove_file(&kept).unwrap();
        assert_says(&refusal(&source, &scratch.path().join("c.gguf"), to(GGUF)), &[parts]);
        fs::write(source.join(file), bytes).unwrap();
        fs::write(kept, model).unwrap();
    }
}

/// Stopped by whatever, nothing has appeared; the plan of a dry run writes nothing either.
#[test]
fn an_unfinished_output_is_no_output() {
    struct Stop;
    impl quern_tensor_io::Progress for Stop {
        fn step(&self, what: &str) {
            assert!(what != "blk.2.ffn_up.weight" && !what.starts_with("model.layers.2."), "stopped");
        }
    }
    let scratch = tempfile::tempdir().unwrap();
    let demo = Checkpoint::open(&fixture("bookworm-4m")).unwrap();
    let split = quern_tensor_io::gguf::Split { max_bytes: None, max_tensors: Some(5) };
    for options in [to(GGUF), to(SAFETENSORS), Options { split: Some(split), ..to(GGUF) }] {
        let plan = plan(&demo, options).unwrap();
        let out = scratch.path().join("out");
        let stopped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(&plan, &out, &Stop)));
        assert!(stopped.is_err());
        assert_eq!(listing(scratch.path()), [] as [&str; 0]);
    }
    // A folder that cannot be written to.
    let plan = plan(&demo, to(GGUF)).unwrap();
    let text = run(&plan, &scratch.path().join("no/out.gguf"), &NoProgress).unwrap_err().to_string();
    assert_says(&text, &["no", "does not exist; create it first"]);
}
