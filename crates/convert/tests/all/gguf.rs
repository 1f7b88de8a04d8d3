//! GGUF to GGUF, and what of it becomes a directory: types, splits, merges, metadata.

use std::fs;

use crate::common::*;
use quern_convert::{Edit, Options};
use quern_tensor_io::gguf::{Split, Writer};
use quern_tensor_io::{Checkpoint, ElementType, Metadata, TensorPlan, Value, decode};

const Q4_K_M: &str = "bookworm-4m-Q4_K_M.gguf";

fn split(max_bytes: Option<u64>, max_tensors: Option<usize>) -> Options {
    Options { split: Some(Split { max_bytes, max_tensors }), ..to(GGUF) }
}

fn edited(edits: &[Edit]) -> Options {
    Options { edits: edits.to_vec(), ..to(GGUF) }
}

fn set(text: &str) -> Edit {
    Edit::parse_set(text).unwrap()
}

#[test]
fn a_copy_is_the_same_file() {
    let scratch = tempfile::tempdir().unwrap();
    let out = scratch.path().join("out.gguf");
    convert_exactly(&fixture(Q4_K_M), &out, to(GGUF));
    assert!(fs::read(&out).unwrap() == fs::read(fixture(Q4_K_M)).unwrap());
    // A vocabulary alone, of an older version of the format.
    let (source, out) = (fixture("vocab/ggml-vocab-llama-spm.gguf"), scratch.path().join("vocab.gguf"));
    let written = convert_exactly(&source, &out, to(GGUF));
    assert_eq!(written.metadata(), Checkpoint::open(&source).unwrap().metadata());
    assert!(written.metadata().len() > 10 && written.tensors().is_empty());
}

#[test]
fn blocks_become_the_values_they_mean() {
    let scratch = tempfile::tempdir().unwrap();
    let source = Checkpoint::open(&fixture(Q4_K_M)).unwrap();
    let file = scratch.path().join("f32.gguf");
    let written = convert_exactly(&fixture(Q4_K_M), &file, cast(GGUF, ElementType::F32));
    for info in source.tensors() {
        assert_eq!(written.tensor(&info.name).unwrap().info.element_type, ElementType::F32);
        assert!(values(&written, &info.name) == values(&source, &info.name), "{}", info.name);
    }
    let order = |c: &Checkpoint| c.tensors().iter().map(|t| t.name.clone()).collect::<Vec<_>>();
    assert_eq!(order(&written), order(&source));
    assert_eq!(written.metadata().get("general.file_type"), Some(&Value::U32(0)));
    let keys = |m: &Metadata| m.iter().map(|(k, _)| k.to_owned()).collect::<Vec<_>>();
    assert_eq!(keys(written.metadata()), keys(source.metadata()));

    // Vectors stay f32 in GGUF, everything is rounded elsewhere.
    let file = scratch.path().join("f16.gguf");
    let (written, found) = convert(&fixture(Q4_K_M), &file, cast(GGUF, ElementType::F16));
    for info in written.tensors() {
        let matrix = info.shape.len() == 2;
        assert_eq!(info.element_type, if matrix { ElementType::F16 } else { ElementType::F32 });
    }
    assert!((1..found.tensors).contains(&found.exact));
    let out = scratch.path().join("f16");
    let (written, _) = convert(&fixture(Q4_K_M), &out, cast(SAFETENSORS, ElementType::F16));
    assert!(written.tensors().iter().all(|t| t.element_type == ElementType::F16));
    assert_eq!(json(&out.join("config.json"))["torch_dtype"], "float16");
    let out = scratch.path().join("f32");
    let written = convert_exactly(&fixture(Q4_K_M), &out, to(SAFETENSORS));
    assert!(written.tensors().iter().all(|t| t.element_type == ElementType::F32));
    let embedding = values(&written, "model.embed_tokens.weight");
    assert!(embedding == values(&source, "token_embd.weight"));
}

/// The bytes of a part as gguf-split writes them: its keys at the end, tensors padded to 32 bytes.
#[test]
fn parts_are_named_and_counted_as_gguf_split_does() {
    let scratch = tempfile::tempdir().unwrap();
    let source = Checkpoint::open(&fixture(Q4_K_M)).unwrap();
    let out = scratch.path().join("m.gguf");
    convert_exactly(&fixture(Q4_K_M), &out, split(None, Some(15)));
    assert_eq!(
        listing(scratch.path()),
        (1..=3).map(|i| format!("m-{i:05}-of-00003.gguf")).collect::<Vec<_>>()
    );
    for (index, name) in listing(scratch.path()).iter().enumerate() {
        let mut metadata = if index == 0 { source.metadata().clone() } else { Metadata::new() };
        metadata.set("split.no", Value::U16(index as u16));
        metadata.set("split.tensors.count", Value::I32(38));
        metadata.set("split.count", Value::U16(3));
        let tensors = &source.tensors()[15 * index..38.min(15 * index + 15)];
        let plan = tensors.iter().map(|t| TensorPlan {
            name: t.name.clone(),
            element_type: t.element_type,
            shape: t.shape.clone(),
        });
        let expected = scratch.path().join("expected");
        let mut writer = Writer::create(&expected, &metadata, &plan.collect::<Vec<_>>(), true).unwrap();
        tensors.iter().for_each(|t| writer.write(source.data(t)).unwrap());
        writer.finish().unwrap();
        assert!(fs::read(scratch.path().join(name)).unwrap() == fs::read(&expected).unwrap(), "{name}");
    }
}

#[test]
fn split_and_merged_it_is_the_same_file() {
    let scratch = tempfile::tempdir().unwrap();
    let parts = scratch.path().join("parts");
    fs::create_dir(&parts).unwrap();
    let source = Checkpoint::open(&fixture(Q4_K_M)).unwrap();
    let largest_tensor = source.tensors().iter().map(|t| t.bytes as u64).max().unwrap();
    for (options, count) in [
        (split(Some(300_000), None), 0),
        (split(None, Some(1)), 38),
        (split(Some(1), None), 38),
        (split(Some(1_000_000), Some(8)), 0),
        (split(Some(u64::MAX), None), 1),
    ] {
        // Metadata do not count, nor does a tensor that is larger alone.
        let largest = options.split.unwrap().max_bytes.unwrap_or(u64::MAX).max(largest_tensor);
        // A name without an end is taken as it is.
        convert_exactly(&fixture(Q4_K_M), &parts.join("a.b"), options);
        let names = listing(&parts);
        assert!(count == 0 && names.len() > 1 || names.len() == count, "{names:?}");
        for name in &names[1..] {
            let size = fs::metadata(parts.join(name)).unwrap().len();
            assert!(size < largest.saturating_add(4000), "{name}: {size}");
        }
        let merged = scratch.path().join("merged.gguf");
        convert_exactly(&parts.join(&names[names.len() / 2]), &merged, to(GGUF));
        assert!(fs::read(&merged).unwrap() == fs::read(fixture(Q4_K_M)).unwrap());
        names.iter().for_each(|name| fs::remove_file(parts.join(name)).unwrap());
        fs::remove_file(&merged).unwrap();
    }
}

#[test]
fn parts_of_other_models_are_left_alone() {
    let scratch = tempfile::tempdir().unwrap();
    let out = scratch.path().join("m.gguf");
    let second = scratch.path().join("m-00002-of-00003.gguf");
    fs::write(&second, "precious").unwrap();
    let text = refusal(&fixture(Q4_K_M), &out, split(None, Some(15)));
    assert_says(&text, &["m-00002-of-00003.gguf", "already exists; ReplaceOutput"]);
    assert_eq!(fs::read(&second).unwrap(), b"precious");
    convert_exactly(&fixture(Q4_K_M), &out, Options { force: true, ..split(None, Some(15)) });
    assert_eq!(listing(scratch.path()).len(), 3);

    let part = scratch.path().join("m-00001-of-00003.gguf");
    let text = refusal(&part, &part, split(None, Some(15)));
    assert_says(&text, &["m-00001-of-00003", "name of one part"]);
    // The source's own parts are not written over, however they are called.
    let again = Options { force: true, ..split(None, Some(15)) };
    let text = refusal(&part, &out, again);
    assert_says(&text, &["the file being read"]);
    assert!(Checkpoint::open(&part).is_ok());
}

#[test]
fn a_model_of_hugging_face_is_split_on_the_way() {
    let scratch = tempfile::tempdir().unwrap();
    let (one, several) = (scratch.path().join("one.gguf"), scratch.path().join("several.gguf"));
    let a = convert_exactly(&fixture("bookworm-4m"), &one, to(GGUF));
    let b = convert_exactly(&fixture("bookworm-4m"), &several, split(Some(3_000_000), None));
    assert_eq!(b.files().len(), 3);
    assert_same_tensors(&a, &b);
    let back = scratch.path().join("back");
    let again = convert_exactly(&b.files()[0].clone(), &back, to(SAFETENSORS));
    assert_same_tensors(&again, &Checkpoint::open(&fixture("bookworm-4m")).unwrap());
}

#[test]
fn safetensors_come_in_shards_and_together_again() {
    let scratch = tempfile::tempdir().unwrap();
    let (shards, one) = (scratch.path().join("shards"), scratch.path().join("one"));
    let options = |shard_bytes| Options { shard_bytes, ..to(SAFETENSORS) };
    let several = convert_exactly(&fixture("bookworm-4m"), &shards, options(3_000_000));
    assert!(several.files().len() > 2 && shards.join("model.safetensors.index.json").is_file());
    let whole = convert_exactly(&shards, &one, options(u64::MAX));
    assert_eq!(whole.files().len(), 1);
    let original = Checkpoint::open(&fixture("bookworm-4m")).unwrap();
    assert_same_tensors(&whole, &original);
    assert_same_tensors(&several, &original);
    for name in ["tokenizer.json", "tokenizer.model", "tokenizer_config.json"] {
        assert_eq!(fs::read(one.join(name)).unwrap(), fs::read(fixture("bookworm-4m").join(name)).unwrap());
    }
    assert_eq!(json(&one.join("config.json")), json(&fixture("bookworm-4m/config.json")));
}

#[test]
fn metadata_are_edited_on_the_way() {
    let scratch = tempfile::tempdir().unwrap();
    let out = scratch.path().join("out.gguf");
    let edits = [
        set("general.name=Another = name"),
        set("tokenizer.ggml.add_eos_token:bool=true"),
        set("llama.rope.freq_base=20000"),
        Edit::Remove("general.size_label".into()),
    ];
    let source = Checkpoint::open(&fixture(Q4_K_M)).unwrap();
    assert!(source.metadata().get("general.size_label").is_some());
    let written = convert_exactly(&fixture(Q4_K_M), &out, edited(&edits));
    assert_same_tensors(&written, &source);
    let mut expected = source.metadata().clone();
    expected.set("general.name", "Another = name");
    expected.set("tokenizer.ggml.add_eos_token", Value::Bool(true));
    expected.set("llama.rope.freq_base", Value::F32(20000.0));
    expected.remove("general.size_label");
    assert_eq!(written.metadata(), &expected);

    // On the way from Hugging Face too.
    let out = scratch.path().join("other.gguf");
    let written = convert_exactly(&fixture("bookworm-4m"), &out, edited(&edits[..1]));
    assert_eq!(written.metadata().str("general.name"), Some("Another = name"));
    // Alignment is metadata that moves the data.
    let out = scratch.path().join("aligned.gguf");
    let written = convert_exactly(&fixture(Q4_K_M), &out, edited(&[set("general.alignment:u32=256")]));
    assert!(written.tensors().iter().all(|t| t.offset.is_multiple_of(256)));
}

#[test]
fn edits_that_spoil_the_model_are_refused() {
    let scratch = tempfile::tempdir().unwrap();
    let out = scratch.path().join("out.gguf");
    for (edit, parts) in [
        (set("llama.block_count=5"), &["sizes are not edited"][..]),
        (set("llama.embedding_length=128"), &["sizes are not edited"]),
        (set("llama.attention.head_count=0"), &["llama.attention.head_count"]),
        (set("llama.attention.head_count_kv=3"), &["cannot share"]),
        (set("llama.block_count:str=four"), &["llama.block_count", "whole number"]),
        (set("general.architecture=gpt2"), &["cannot be changed"]),
        (set("tokenizer.ggml.tokens=x"), &["not edited"]),
        (set("general.alignment:u32=48"), &["power of two"]),
        (Edit::Remove("llama.context_length".into()), &["without it"]),
        (Edit::Remove("general.architecture".into()), &["cannot be changed or removed"]),
        (Edit::Remove("not.there".into()), &["no such key"]),
    ] {
        let text = refusal(&fixture(Q4_K_M), &out, edited(&[edit]));
        assert_says(&text, &[&["gguf"], parts].concat());
    }
}

/// A file of an architecture nobody knows: types, splits and edits work all the same.
#[test]
fn unknown_architectures_stay_gguf() {
    let scratch = tempfile::tempdir().unwrap();
    let source = scratch.path().join("grain.gguf");
    let tensors = [
        ("grain.weight", ElementType::F32, vec![4, 32]),
        ("blk.0.ssm_conv1d.weight", ElementType::F32, vec![4, 32]),
        ("grain_norm.weight", ElementType::F32, vec![64]),
        ("steps", ElementType::I32, vec![3]),
        ("packed.weight", ElementType::Q8_0, vec![2, 32]),
    ];
    let plan = tensors.clone().map(|(name, element_type, shape)| TensorPlan {
        name: name.into(),
        element_type,
        shape,
    });
    let mut metadata = Metadata::new();
    metadata.set("general.architecture", "grain");
    metadata.set("grain.stones", Value::I64(-2));
    let mut writer = Writer::create(&source, &metadata, &plan, false).unwrap();
    for tensor in &plan {
        let ones =
            |_| if tensor.element_type == ElementType::Q8_0 { [0, 0x3c, 1, 1] } else { [0, 0, 0x80, 0x3f] };
        let data: Vec<u8> = (0..tensor.bytes().unwrap().div_ceil(4)).flat_map(ones).collect();
        writer.write(&data[..tensor.bytes().unwrap()]).unwrap();
    }
    writer.finish().unwrap();
    let out = scratch.path().join("out.gguf");
    let options = Options { edits: vec![set("grain.stones=-3")], ..cast(GGUF, ElementType::BF16) };
    let (written, _) = convert(&source, &out, options);
    assert_eq!(written.metadata().get("grain.stones"), Some(&Value::I64(-3)));
    let types: Vec<_> = written.tensors().iter().map(|t| t.element_type.name()).collect();
    assert_eq!(types, ["bf16", "f32", "f32", "i32", "bf16"]);
    let text = refusal(&source, &scratch.path().join("hf"), to(SAFETENSORS));
    assert_says(&text, &["grain", "not supported"]);
}

/// Every type of block that can be decoded goes to every plain type within the bound that is promised.
#[test]
fn every_block_type_is_decoded_within_bounds() {
    let scratch = tempfile::tempdir().unwrap();
    let types = ElementType::ALL.iter().copied();
    let types: Vec<_> =
        types.filter(|&t| t.is_block() && t.ggml_id().is_some() && decode::can_decode(t)).collect();
    assert!(types.len() > 20);
    let source = scratch.path().join("all.gguf");
    let plan: Vec<_> = types
        .iter()
        .map(|&element_type| TensorPlan {
            name: format!("{element_type}.weight"),
            element_type,
            shape: vec![3, 512],
        })
        .collect();
    let mut metadata = Metadata::new();
    metadata.set("general.architecture", "grain");
    let mut writer = Writer::create(&source, &metadata, &plan, false).unwrap();
    for tensor in &plan {
        // Small scales wherever they lie: no 16 bits of these are a large number.
        let data: Vec<u8> = (0..tensor.bytes().unwrap()).map(|i| (i * 37 % 24) as u8).collect();
        writer.write(&data).unwrap();
    }
    writer.finish().unwrap();
    let was = Checkpoint::open(&source).unwrap();
    for dtype in [ElementType::F32, ElementType::F16, ElementType::BF16] {
        let out = scratch.path().join(format!("{dtype}.gguf"));
        let (written, found) = convert(&source, &out, cast(GGUF, dtype));
        assert!(written.tensors().iter().all(|t| t.element_type == dtype));
        assert_eq!(found.exact == found.tensors, dtype == ElementType::F32);
        for info in written.tensors() {
            let (was, is) = (values(&was, &info.name), values(&written, &info.name));
            let bound = match dtype {
                ElementType::F16 => |v: f32| v.abs() / 2048.0 + 3e-8,
                ElementType::BF16 => |v: f32| v.abs() / 256.0 + 1e-38,
                _ => |_| 0.0,
            };
            assert!(was.iter().zip(&is).all(|(a, b)| (a - b).abs() <= bound(*a)), "{}", info.name);
        }
    }
}
