//! Every architecture, by the tiny models: what llama.cpp's converter makes of them, and the way back.

use std::fs;
use std::path::Path;

use crate::common::*;
use half::{bf16, f16};
use quern_convert::Fidelity;
use quern_model::{Contents, View};
use quern_tensor_io::{Checkpoint, ElementType, Value};
use serde_json::Value as Json;

/// What llama.cpp's converter made of the folder; `None` where it knows no such architecture.
fn golden(folder: &str) -> Option<Json> {
    let file = fixture("architectures").join(folder).join("gguf.json");
    file.is_file().then(|| json(&file))
}

/// The names of all tensors, sorted.
fn names(checkpoint: &Checkpoint) -> Vec<&str> {
    let mut names: Vec<&str> = checkpoint.tensors().iter().map(|t| t.name.as_str()).collect();
    names.sort_unstable();
    names
}

#[track_caller]
fn assert_tensors(written: &Checkpoint, entries: &Json, folder: &str) -> usize {
    let entries = entries.as_array().unwrap();
    for entry in entries {
        let name = entry[0].as_str().unwrap();
        let tensor = written.tensor(name).unwrap_or_else(|| panic!("{folder}: {name} is missing"));
        let kind = tensor.info.element_type.name().to_uppercase();
        assert_eq!(kind, entry[1].as_str().unwrap(), "{folder}: {name}");
        let shape: Vec<u64> = tensor.info.shape.iter().rev().map(|&d| d as u64).collect();
        assert_eq!(Json::from(shape), entry[2], "{folder}: {name}");
        assert_eq!(hex(tensor.data), entry[3].as_str().unwrap(), "{folder}: {name}");
    }
    entries.len()
}

/// `made` holds the text model of a multimodal release and nothing else.
#[track_caller]
fn assert_text_model(made: &Checkpoint, release: &Checkpoint) {
    let files = View::for_files(release).unwrap();
    assert_eq!(made.tensors().len(), files.tensors().len());
    for (number, held) in files.tensors().iter().enumerate() {
        let tensor = made.tensor(&held.name).unwrap();
        assert_eq!(tensor.info.element_type, held.element_type, "{}", held.name);
        assert_eq!(tensor.info.shape, held.shape, "{}", held.name);
        let mut bytes = vec![0; held.rows() * held.row_bytes];
        files.read(number, 0..held.rows(), &mut bytes);
        assert!(tensor.data == bytes, "{}: the bytes differ", held.name);
    }
}

/// Granite 4 without Mamba-2 is a Granite in GGUF, and goes back as one: `folder` is that model, of which the GGUF file is the
/// same but for what the converter writes of the hybrid class.
#[track_caller]
fn assert_granite(folder: &Path, gguf: &Checkpoint, file: &Path) {
    let config = json(&folder.join("config.json"));
    assert_eq!(config["architectures"], serde_json::json!(["GraniteForCausalLM"]));
    assert_eq!(config["model_type"], "granite");
    let again = convert_exactly(folder, file, to(GGUF));
    assert_same_tensors(&again, gguf);
    let mut compared = 0;
    for (key, value) in again.metadata().iter().filter(|(key, _)| key.starts_with("granite.")) {
        if key != "granite.attention.head_count_kv" {
            assert_eq!(gguf.metadata().get(key), Some(value), "{key}");
            compared += 1;
        }
    }
    assert!(compared >= 12, "{compared}");
}

/// The towers of multimodal releases: named in a note where they are left out, carried where the target has a place.
#[test]
fn towers_are_carried_between_safetensors_and_noted_otherwise() {
    let scratch = tempfile::tempdir().unwrap();
    for (folder, towers) in [
        ("gemma3-images", "34 tensors of multi_modal_projector, vision_tower are left out"),
        ("ministral3", "15 tensors of multi_modal_projector, vision_tower are left out"),
        ("qwen2_vl", "19 tensors of visual are left out"),
        ("qwen3_vl", "45 tensors of visual are left out"),
    ] {
        let source = fixture("architectures").join(folder);
        planned(&source, to(GGUF), |plan| {
            assert!(plan.notes().iter().any(|note| note.contains(towers)), "{folder}: {:?}", plan.notes());
        });
        let out = scratch.path().join(folder);
        let written = convert_exactly(&source, &out, to(SAFETENSORS));
        assert_same_tensors(&written, &Checkpoint::open(&source).unwrap());
        assert_eq!(json(&out.join("config.json")), json(&source.join("config.json")), "{folder}");
    }
}

#[test]
fn gguf_files_are_those_of_llama_cpps_converter_and_go_back_to_the_same_bytes() {
    let scratch = tempfile::tempdir().unwrap();
    for folder in architectures() {
        let source = fixture("architectures").join(&folder);
        let Some(golden) = golden(&folder) else { continue };
        let file = scratch.path().join(format!("{folder}.gguf"));
        let written = convert_exactly(&source, &file, to(GGUF));
        assert_eq!(assert_tensors(&written, &golden["tensors"], &folder), written.tensors().len());
        for entry in golden["metadata"].as_array().unwrap() {
            let key = entry[0].as_str().unwrap();
            if ["general.architecture", "general.file_type", "general.quantization_version"].contains(&key) {
                let same = match written.metadata().get(key).unwrap() {
                    Value::U32(n) => entry[2].as_u64() == Some(u64::from(*n)),
                    Value::String(s) => entry[2].as_str() == Some(s),
                    _ => false,
                };
                assert!(same, "{folder}: {key}");
            }
        }

        let back = scratch.path().join(&folder);
        let again = convert_exactly(&file, &back, to(SAFETENSORS));
        let was = Checkpoint::open(&source).unwrap();
        let config = Contents::read(&was).unwrap().config().clone();
        if folder == "granitehybrid-rope" {
            assert_granite(&back, &written, &scratch.path().join("again.gguf"));
            continue;
        }
        match (config.multimodal, config.multipliers) {
            (true, _) => assert_text_model(&again, &was),
            (false, None) => assert_same_tensors(&again, &was),
            // GGUF has the weights multiplied, and so they stay; their multipliers are then 1.
            (false, Some(_)) => {
                assert_eq!(names(&again), names(&was), "{folder}");
                let multipliers = Contents::read(&again).unwrap().config().multipliers.unwrap();
                assert_eq!((multipliers.scores(), multipliers.of_state()), (1.0, [1.0; 5]), "{folder}");
            }
        }
        // The dtype that weights are loaded in is the one they have.
        let dtype = |json: &Json| json.get("torch_dtype").or(json.get("dtype")).cloned();
        let (was, is) = (json(&source.join("config.json")), json(&back.join("config.json")));
        assert_eq!(dtype(&is), dtype(&was), "{folder}");
        assert!(back.join("tokenizer.json").is_file());
    }
}

#[test]
fn in_f32_as_llama_cpps_converter_writes_it() {
    let scratch = tempfile::tempdir().unwrap();
    let mut compared = 0;
    for folder in architectures() {
        let Some(golden) = golden(&folder).filter(|g| !g["f32"].as_array().unwrap().is_empty()) else {
            continue;
        };
        let file = scratch.path().join(format!("{folder}.gguf"));
        let source = fixture("architectures").join(&folder);
        let written = convert_exactly(&source, &file, cast(GGUF, ElementType::F32));
        compared += assert_tensors(&written, &golden["f32"], &folder);
        assert_eq!(written.metadata().get("general.file_type"), Some(&Value::U32(0)));
    }
    assert!(compared > 20);
}

/// Whether all of these values of 16 bits are values of the other type of 16 bits, too.
fn fits(element_type: ElementType, data: &[u8]) -> bool {
    let mut numbers = data.as_chunks().0.iter().map(|&bytes| u16::from_le_bytes(bytes));
    match element_type {
        ElementType::F16 => numbers.all(|bits| {
            let value = f16::from_bits(bits).to_f32();
            bf16::from_f32(value).to_f32() == value
        }),
        _ => numbers.all(|bits| {
            let value = bf16::from_bits(bits).to_f32();
            f16::from_f32(value).to_f32() == value
        }),
    }
}

#[test]
fn other_types_round_and_say_so() {
    let scratch = tempfile::tempdir().unwrap();
    for folder in architectures() {
        let source = fixture("architectures").join(&folder);
        let was = Checkpoint::open(&source).unwrap();
        let half = |t: ElementType| matches!(t, ElementType::F16 | ElementType::BF16);
        assert!(was.tensors().iter().all(|t| half(t.element_type)), "{folder}");
        let other = match was.tensors()[0].element_type {
            ElementType::F16 => ElementType::BF16,
            _ => ElementType::F16,
        };
        let out = scratch.path().join(&folder);
        let (written, found) = convert(&source, &out, cast(SAFETENSORS, other));
        assert!(written.tensors().iter().all(|t| t.element_type == other));
        // f16 has more bits than bf16 and less range: small weights may all fit.
        let fits = was.tensors().iter().filter(|t| fits(t.element_type, was.data(t))).count();
        assert_eq!((found.exact, found.tensors), (fits, was.tensors().len()), "{folder}: {found:?}");
        assert_eq!(found.largest.as_ref().is_some_and(|l| l.0 > 0.0), fits < found.tensors, "{found:?}");
        if golden(&folder).is_none() {
            continue;
        }
        let file = scratch.path().join(format!("{folder}.gguf"));
        let (written, found) = convert(&source, &file, cast(GGUF, other));
        assert!(fits == was.tensors().len() || found.exact < found.tensors, "{folder}: {found:?}");
        // Two dimensions, but llama.cpp wants them in f32.
        for small in ["blk.0.ffn_gate_inp.weight", "position_embd.weight", "blk.0.attn_norm.weight"] {
            let kind = written.tensor(small).map(|t| t.info.element_type);
            assert!(kind.is_none_or(|kind| kind == ElementType::F32), "{folder}: {small}");
        }
    }
}

#[test]
fn what_llama_cpp_does_not_know_is_refused_with_the_reason() {
    let scratch = tempfile::tempdir().unwrap();
    for folder in ["opt", "opt-350m"] {
        let source = fixture("architectures").join(folder);
        let text = refusal(&source, &scratch.path().join("out.gguf"), to(GGUF));
        assert_says(&text, &[folder, "llama.cpp has no OPT architecture", "convert to safetensors"]);
        let out = scratch.path().join(folder);
        let written = convert_exactly(&source, &out, to(SAFETENSORS));
        assert_same_tensors(&written, &Checkpoint::open(&source).unwrap());
        let mut expected = listing(&source);
        expected.retain(|name| !name.ends_with(".safetensors"));
        expected.push("model.safetensors".into());
        expected.sort();
        assert_eq!(listing(&out), expected);
    }
}

#[test]
fn a_plan_says_what_becomes_of_each_tensor() {
    let source = fixture("architectures/gemma");
    planned(&source, to(GGUF), |plan| {
        let row = |name: &str| plan.rows().iter().find(|r| r.name == name).unwrap();
        let norm = row("blk.0.attn_norm.weight");
        assert_eq!((norm.from.as_str(), norm.to, norm.changed), ("f16", ElementType::F32, Some("plus one")));
        assert_eq!(norm.sources, ["model.layers.0.input_layernorm.weight"]);
        let matrix = row("blk.0.attn_q.weight");
        assert_eq!((matrix.from.as_str(), matrix.to, matrix.changed), ("f16", ElementType::F16, None));
        assert_eq!(plan.lossy(), 0);
    });
    planned(&source, cast(GGUF, ElementType::BF16), |plan| {
        let lossy = plan.rows().iter().filter(|r| r.fidelity == Fidelity::Lossy);
        assert!(lossy.clone().all(|r| r.to == ElementType::BF16));
        assert_eq!(lossy.count(), plan.lossy());
    });
    planned(&fixture("architectures/llama3"), to(GGUF), |plan| {
        let factors = plan.rows().iter().find(|r| r.name == "rope_freqs.weight").unwrap();
        assert_eq!((factors.from.as_str(), factors.sources.len()), ("computed", 0));
    });
}

/// Every conversion gives the same bytes on one thread as on several.
#[test]
fn threads_change_nothing() {
    let scratch = tempfile::tempdir().unwrap();
    for folder in ["gpt2", "gpt_neox", "qwen3_moe", "gemma2", "phi3"] {
        let source = fixture("architectures").join(folder);
        let made = |threads: usize| {
            let out = scratch.path().join(format!("{folder}-{threads}"));
            fs::create_dir(&out).unwrap();
            let options = |options: quern_convert::Options| quern_convert::Options { threads, ..options };
            convert(&source, &out.join("a.gguf"), options(to(GGUF)));
            convert(&source, &out.join("b.gguf"), options(cast(GGUF, ElementType::BF16)));
            convert(&out.join("a.gguf"), &out.join("c"), options(cast(SAFETENSORS, ElementType::BF16)));
            ["a.gguf", "b.gguf", "c/model.safetensors", "c/config.json", "c/tokenizer.json"]
                .map(|name| fs::read(out.join(name)).unwrap())
        };
        let one = made(1);
        for threads in [2, 5] {
            assert!(made(threads) == one, "{folder} with {threads} threads");
        }
    }
}
