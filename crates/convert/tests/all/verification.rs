//! The comparison finds what is wrong: outputs are spoilt after they were written.

use std::fs;
use std::path::Path;

use crate::common::*;
use quern_convert::{Options, Verification, plan, run, verify};
use quern_tensor_io::gguf::{Split, Writer};
use quern_tensor_io::{Checkpoint, ElementType, Metadata, NoProgress, TensorPlan, Value};

/// Converts, spoils the output, and gives what the comparison says then.
#[track_caller]
fn spoilt(source: &Path, output: &Path, options: Options, spoil: impl Fn(&Path)) -> Verification {
    let source = Checkpoint::open(source).unwrap();
    let plan = plan(&source, options).unwrap();
    run(&plan, output, &NoProgress).unwrap();
    assert!(verify(&plan, output, &NoProgress).unwrap().passed());
    spoil(output);
    let found = verify(&plan, output, &NoProgress).unwrap();
    assert!(!found.passed());
    assert!(output.exists() || plan.files(output).unwrap().len() > 1, "it stays to be looked at");
    match output.is_dir() {
        true => fs::remove_dir_all(output).unwrap(),
        false => drop(fs::remove_file(output)),
    }
    found
}

/// Changes one byte of a tensor.
fn flip(file: &Path, name: &str, at: usize, bits: u8) {
    let checkpoint = Checkpoint::open(file).unwrap();
    let offset = checkpoint.tensor(name).unwrap().info.offset as usize + at;
    drop(checkpoint);
    let file = if file.is_dir() { file.join("model.safetensors") } else { file.to_path_buf() };
    let mut bytes = fs::read(&file).unwrap();
    bytes[offset] ^= bits;
    fs::write(&file, bytes).unwrap();
}

/// Writes a GGUF file anew, with other metadata or tensors.
fn rewrite(file: &Path, change: impl Fn(&mut Metadata, &mut Vec<Made>)) {
    let checkpoint = Checkpoint::open(file).unwrap();
    let (mut metadata, mut tensors) = (checkpoint.metadata().clone(), tensors_of(&checkpoint));
    drop(checkpoint);
    change(&mut metadata, &mut tensors);
    let plan = |(name, kind, shape, _): &Made| TensorPlan {
        name: name.clone(),
        element_type: *kind,
        shape: shape.clone(),
    };
    let plans: Vec<_> = tensors.iter().map(plan).collect();
    let mut writer = Writer::create(file, &metadata, &plans, true).unwrap();
    tensors.iter().for_each(|(.., data)| writer.write(data).unwrap());
    writer.finish().unwrap();
}

#[track_caller]
fn assert_found(found: &Verification, tensor: Option<&str>, part: &str) {
    let hit = |m: &&quern_convert::Mismatch| m.tensor.as_deref() == tensor && m.what.contains(part);
    assert!(found.mismatches.iter().any(|m| hit(&m)), "{tensor:?} {part:?}: {:?}", found.mismatches);
}

#[test]
fn one_bit_of_a_copied_weight() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("a.gguf");
    // Row 5 of a head's interleaved rows is row 34 of its halves.
    let found = spoilt(&fixture("bookworm-4m"), &file, to(GGUF), |out| {
        flip(out, "blk.1.attn_q.weight", (5 * 256 + 3) * 2, 1);
    });
    let name = "model.layers.1.self_attn.q_proj.weight";
    assert_found(&found, Some(name), "row 34, column 3: the value was");
    assert_eq!((found.mismatches.len(), found.exact), (1, found.tensors - 1));

    let found = spoilt(&fixture("bookworm-4m-Q4_K_M.gguf"), &file, to(GGUF), |out| {
        flip(out, "blk.1.ffn_up.weight", 1000, 0x10);
    });
    assert_found(&found, Some("blk.1.ffn_up.weight"), "the value was");

    let folder = scratch.path().join("b");
    let found = spoilt(&fixture("architectures/llama/"), &folder, to(SAFETENSORS), |out| {
        flip(out, "model.layers.0.mlp.up_proj.weight", 7, 4);
    });
    assert_found(&found, Some("model.layers.0.mlp.up_proj.weight"), "row 0, column 3");
}

#[test]
fn a_value_rounded_the_wrong_way() {
    let scratch = tempfile::tempdir().unwrap();
    for (dtype, out) in [(ElementType::BF16, "a.gguf"), (ElementType::BF16, "b")] {
        let target = if out == "b" { SAFETENSORS } else { GGUF };
        let found = spoilt(&fixture("bookworm-4m"), &scratch.path().join(out), cast(target, dtype), |out| {
            let checkpoint = Checkpoint::open(out).unwrap();
            let name = checkpoint.tensors().iter().find(|t| t.name.contains("down")).unwrap().name.clone();
            drop(checkpoint);
            // Two steps, or four: no rounding goes so far.
            flip(out, &name, 2 * (256 + 9), 2);
        });
        assert_eq!(found.mismatches.len(), 1);
        assert_found(&found, Some("model.layers.0.mlp.down_proj.weight"), "row 0, column 265");
    }
}

#[test]
fn norms_that_lost_their_one() {
    let scratch = tempfile::tempdir().unwrap();
    let found = spoilt(&fixture("architectures/gemma"), &scratch.path().join("a.gguf"), to(GGUF), |out| {
        // 1.0625 or so becomes 1.0645.
        flip(out, "output_norm.weight", 1, 0x40);
    });
    assert_found(&found, Some("model.norm.weight"), "row 0, column 0");
}

#[test]
fn metadata_and_tensors_that_are_not_the_plans() {
    let scratch = tempfile::tempdir().unwrap();
    let (demo, file) = (fixture("bookworm-4m"), scratch.path().join("a.gguf"));
    let found = spoilt(&demo, &file, to(GGUF), |out| {
        rewrite(out, |metadata, _| {
            metadata.set("general.name", "Another");
            metadata.set("general.more", Value::Bool(true));
            metadata.remove("general.size_label");
        });
    });
    assert_found(&found, None, "\"general.name\" has another value");
    assert_found(&found, None, "\"general.size_label\" has another value");
    assert_found(&found, None, "\"general.more\" was not to be written");
    assert_eq!(found.mismatches.len(), 3);

    let found = spoilt(&demo, &file, to(GGUF), |out| {
        rewrite(out, |_, tensors| tensors.retain(|t| t.0 != "blk.2.attn_k.weight"));
    });
    assert_found(&found, None, "blk.2.attn_k.weight");

    let gguf = fixture("bookworm-4m-Q4_K_M.gguf");
    let found = spoilt(&gguf, &file, to(GGUF), |out| {
        rewrite(out, |_, tensors| {
            tensors.retain(|t| t.0 != "blk.2.attn_k.weight");
            tensors.push(("more.weight".into(), ElementType::F32, vec![2], vec![0; 8]));
            let norm = tensors.iter_mut().find(|t| t.0 == "blk.1.attn_norm.weight").unwrap();
            norm.2 = vec![2, 128];
        });
    });
    assert_found(&found, Some("blk.2.attn_k.weight"), "it is missing");
    assert_found(&found, Some("more.weight"), "the source has no such tensor");
    assert_found(&found, Some("blk.1.attn_norm.weight"), "its shape was [256] and is [2, 128]");
}

#[test]
fn a_tokenizer_that_is_another() {
    let scratch = tempfile::tempdir().unwrap();
    let gguf = fixture("bookworm-4m-Q4_K_M.gguf");
    let found = spoilt(&gguf, &scratch.path().join("a"), to(SAFETENSORS), |out| {
        for name in ["tokenizer.json", "tokenizer.model"] {
            let mut bytes = fs::read(out.join(name)).unwrap();
            let word = "\u{2581}which".as_bytes();
            let places: Vec<_> = (0..bytes.len() - 8).filter(|&i| bytes[i..].starts_with(word)).collect();
            assert!(!places.is_empty());
            places.into_iter().for_each(|at| bytes[at + 4] = b'j');
            fs::write(out.join(name), bytes).unwrap();
        }
    });
    assert_found(&found, None, "tokenizer.ggml.tokens: number");
}

#[test]
fn files_that_cannot_be_read_again() {
    let scratch = tempfile::tempdir().unwrap();
    let demo = fixture("bookworm-4m");
    let file = scratch.path().join("a.gguf");
    let found = spoilt(&demo, &file, to(GGUF), |out| {
        let bytes = fs::read(out).unwrap();
        fs::write(out, &bytes[..bytes.len() / 2]).unwrap();
    });
    assert_found(&found, None, "cannot be opened again");
    let split = Split { max_bytes: None, max_tensors: Some(10) };
    let found = spoilt(&demo, &file, Options { split: Some(split), ..to(GGUF) }, |_| {
        fs::remove_file(scratch.path().join("a-00003-of-00004.gguf")).unwrap();
    });
    assert_found(&found, None, "a-00003-of-00004.gguf");
}

#[test]
fn a_packed_layer_with_another_code() {
    let scratch = tempfile::tempdir().unwrap();
    let source = scratch.path().join("source");
    packed("gptq-4bit-g128", &source, |_| {});
    let name = "model.layers.0.mlp.gate_proj.weight";
    let found = spoilt(&source, &scratch.path().join("a.gguf"), to(GGUF), |out| {
        flip(out, "blk.0.ffn_gate.weight", 2 + 5, 0x20); // the second half of the first block
    });
    assert_found(&found, Some(name), "row 0, column 21");
    let gptq = quern_convert::Target::from_name("gptq_v2").unwrap();
    let found = spoilt(&source, &scratch.path().join("b"), to(gptq), |out| {
        flip(out, "model.layers.0.mlp.gate_proj.qweight", (768 + 2) * 4, 1);
    });
    assert_found(&found, Some(name), "row 2, column 8");
}

/// What a directory made of this GGUF file is found to be.
fn verified(source: &Path, output: &Path) -> Verification {
    let source = Checkpoint::open(source).unwrap();
    let plan = plan(&source, to(SAFETENSORS)).unwrap();
    run(&plan, output, &NoProgress).unwrap();
    verify(&plan, output, &NoProgress).unwrap()
}

#[test]
fn what_a_tokenizer_cannot_hold_is_a_note() {
    let scratch = tempfile::tempdir().unwrap();
    let gguf = scratch.path().join("source.gguf");
    let key = "tokenizer.ggml.tokens";
    let tokens_of = |metadata: &Metadata| -> Vec<String> {
        metadata.strings(key).unwrap().iter().map(str::to_owned).collect()
    };
    let write = |change: &dyn Fn(&mut Vec<String>)| {
        fs::write(&gguf, fs::read(fixture("bookworm-4m-Q4_K_M.gguf")).unwrap()).unwrap();
        rewrite(&gguf, |metadata, _| {
            let mut tokens = tokens_of(metadata);
            change(&mut tokens);
            metadata.set(key, Value::Array(quern_tensor_io::Array::String(tokens.into_iter().collect())));
        });
    };
    // A text that stands twice, as in files of fine-tuned models.
    write(&|tokens| tokens[4000] = tokens[3999].clone());
    let found = verified(&gguf, &scratch.path().join("twice"));
    assert!(found.passed(), "{:?}", found.mismatches);
    assert!(
        found.notes[0].contains("1 tokens whose text") && found.notes[0].contains("4000"),
        "{:?}",
        found.notes
    );
    // Another text is a fault still.
    write(&|_| {});
    let found = spoilt(&gguf, &scratch.path().join("other"), to(SAFETENSORS), |out| {
        for name in ["tokenizer.json", "tokenizer.model"] {
            let mut bytes = fs::read(out.join(name)).unwrap();
            let word = "\u{2581}which".as_bytes();
            let places: Vec<_> = (0..bytes.len() - 8).filter(|&i| bytes[i..].starts_with(word)).collect();
            places.into_iter().for_each(|at| bytes[at + 4] = b'j');
            fs::write(out.join(name), bytes).unwrap();
        }
    });
    assert_found(&found, None, "tokenizer.ggml.tokens: number");
}
