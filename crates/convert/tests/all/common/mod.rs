//! Fixtures, conversions and what was made of them.
#![allow(dead_code)] // each test file uses a part

use std::fs;
use std::path::{Path, PathBuf};

use quern_convert::{ConvertPlan, Options, Target, Verification, plan, run, verify};
use quern_model::{Packed, View};
use quern_tensor_io::safetensors::Writer;
use quern_tensor_io::{Checkpoint, ElementType, Metadata, NoProgress, TensorPlan, decode};
use serde_json::Value as Json;
use sha2::{Digest, Sha256};

pub const SAFETENSORS: Target = Target::Safetensors;
pub const GGUF: Target = Target::Gguf;

/// A path below `fixtures/`.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

/// The folders of `fixtures/architectures`, sorted; at least as many as there are architectures.
pub fn architectures() -> Vec<String> {
    let all = listing(&fixture("architectures"));
    let names: Vec<_> = all.into_iter().filter(|n| !n.contains('.')).collect();
    assert!(names.len() >= 16);
    names
}

/// Names in a folder, sorted.
pub fn listing(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Options for a few threads.
pub fn to(target: Target) -> Options {
    Options { threads: 2, ..Options::new(target) }
}

/// The same with an element type.
pub fn cast(target: Target, dtype: ElementType) -> Options {
    Options { dtype: Some(dtype), ..to(target) }
}

/// Converts, verifies and opens the result.
#[track_caller]
pub fn convert(source: &Path, output: &Path, options: Options) -> (Checkpoint, Verification) {
    let source = Checkpoint::open(source).unwrap();
    let plan = plan(&source, options).unwrap_or_else(|e| panic!("{e}"));
    let report = run(&plan, output, &NoProgress).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((report.tensors, report.tensor_bytes), (plan.rows().len(), plan.tensor_bytes()));
    let found = verify(&plan, output, &NoProgress).unwrap();
    assert!(found.passed(), "{:?}", found.mismatches);
    let files = plan.files(output).unwrap();
    let written = Checkpoint::open(&files[0].0).unwrap();
    if plan.metadata().is_some() {
        let sizes: u64 = files
            .iter()
            .map(|(path, size)| {
                assert_eq!(fs::metadata(path).unwrap().len(), *size, "{}", path.display());
                size
            })
            .sum();
        assert_eq!(report.file_size, sizes);
    }
    for (row, info) in plan.rows().iter().map(|r| (r, written.tensor(&r.name).unwrap().info)) {
        assert_eq!((row.to, &row.shape, row.bytes), (info.element_type, &info.shape, info.bytes as u64));
    }
    assert_eq!(written.tensors().len(), plan.rows().len());
    (written, found)
}

/// As [`convert`], all values kept.
#[track_caller]
pub fn convert_exactly(source: &Path, output: &Path, options: Options) -> Checkpoint {
    let (written, found) = convert(source, output, options);
    assert_eq!((found.exact, &found.largest), (found.tensors, &None));
    written
}

/// Why a conversion is refused, be it planned or run; nothing may be left of it.
#[track_caller]
pub fn refusal(source: &Path, output: &Path, options: Options) -> String {
    let before = listing(output.parent().unwrap());
    let source = Checkpoint::open(source).unwrap();
    let refused = match plan(&source, options) {
        Err(e) => e,
        Ok(plan) => run(&plan, output, &NoProgress).unwrap_err(),
    };
    assert_eq!(listing(output.parent().unwrap()), before);
    let text = refused.to_string();
    assert!(!text.contains("--"), "flags are the command line's: {text}");
    match refused.remedy {
        None => text,
        Some(remedy) => format!("{text}; {remedy:?}"),
    }
}

/// Asserts that a text has all these parts.
#[track_caller]
pub fn assert_says(text: &str, parts: &[&str]) {
    parts.iter().for_each(|part| assert!(text.contains(part), "{part:?} is not in: {text}"));
}

/// The plan of a conversion, looked at.
pub fn planned<T>(source: &Path, options: Options, look: impl Fn(&ConvertPlan<'_>) -> T) -> T {
    let source = Checkpoint::open(source).unwrap();
    look(&plan(&source, options).unwrap_or_else(|e| panic!("{e}")))
}

/// Asserts that two checkpoints have the same tensors, byte for byte.
#[track_caller]
pub fn assert_same_tensors(a: &Checkpoint, b: &Checkpoint) {
    assert_eq!(a.tensors().len(), b.tensors().len());
    for info in a.tensors() {
        let other = b.tensor(&info.name).unwrap_or_else(|| panic!("{} is missing", info.name));
        let (kind, shape) = (other.info.element_type, &other.info.shape);
        assert_eq!((info.element_type, &info.shape), (kind, shape), "{}", info.name);
        assert!(a.data(info) == other.data, "{}: the bytes differ", info.name);
    }
}

/// The values of a tensor of any decodable type.
pub fn values(checkpoint: &Checkpoint, name: &str) -> Vec<f32> {
    let tensor = checkpoint.tensor(name).unwrap_or_else(|| panic!("{name} is missing"));
    let mut out = vec![f32::NAN; tensor.info.elements()];
    assert!(decode::to_f32(tensor.info.element_type, tensor.data, &mut out));
    out
}

/// All values of a view, by name.
pub fn view_values(checkpoint: &Checkpoint) -> Vec<(String, Vec<f32>)> {
    let view = View::hugging_face(checkpoint, Packed::Decoded).unwrap();
    let all = view.tensors().iter().enumerate().map(|(at, t)| {
        let mut out = vec![f32::NAN; t.rows() * t.columns()];
        assert!(view.decode(at, 0..t.rows(), &mut out));
        (t.name.clone(), out)
    });
    all.collect()
}

/// SHA-256 in hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// A JSON file.
pub fn json(file: &Path) -> Json {
    quern_tensor_io::small::json(&fs::read(file).unwrap()).unwrap()
}

/// A tensor to write: name, type, shape, bytes.
pub type Made = (String, ElementType, Vec<usize>, Vec<u8>);

/// The tensors of a checkpoint.
pub fn tensors_of(checkpoint: &Checkpoint) -> Vec<Made> {
    let all = checkpoint.tensors().iter();
    all.map(|t| (t.name.clone(), t.element_type, t.shape.clone(), checkpoint.data(t).to_vec())).collect()
}

/// Writes a model: these tensors, and every other small file of `like`.
pub fn write_model(folder: &Path, like: &Path, tensors: &[Made]) {
    fs::create_dir_all(folder).unwrap();
    for name in listing(like).iter().filter(|n| !n.ends_with(".safetensors")) {
        // Not fs::copy: the fixtures may be read-only, the copies must not be.
        fs::write(folder.join(name), fs::read(like.join(name)).unwrap()).unwrap();
    }
    let plan = |(name, kind, shape, _): &Made| TensorPlan {
        name: name.clone(),
        element_type: *kind,
        shape: shape.clone(),
    };
    let plans: Vec<_> = tensors.iter().map(plan).collect();
    let file = folder.join("model.safetensors");
    let mut writer = Writer::create(&file, &Metadata::new(), &plans, true).unwrap();
    tensors.iter().for_each(|(.., data)| writer.write(data).unwrap());
    writer.finish().unwrap();
}

/// One of `fixtures/packed`, which are a layer each, made whole with the demo model's embedding, last norm and
/// tokenizer. `change` may change the tensors.
pub fn packed(name: &str, folder: &Path, change: impl Fn(&mut Vec<Made>)) {
    let demo = Checkpoint::open(&fixture("bookworm-4m")).unwrap();
    let layer = fixture("packed").join(name);
    let mut tensors = tensors_of(&Checkpoint::open(&layer).unwrap());
    let wanted = ["model.embed_tokens.weight", "model.norm.weight"];
    let rest = tensors_of(&demo).into_iter().filter(|t| wanted.contains(&t.0.as_str()));
    tensors.extend(rest);
    change(&mut tensors);
    write_model(folder, &layer, &tensors);
    for name in ["tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"] {
        let from = fixture("bookworm-4m").join(name);
        if from.is_file() {
            fs::write(folder.join(name), fs::read(from).unwrap()).unwrap();
        }
    }
}
