//! Every architecture, by the tiny models of `fixtures/architectures`: against what llama.cpp's converter makes
//! of them, and there and back again.

use std::fs;
use std::path::Path;

use crate::common::fixture;
use half::{bf16, f16};
use quern_model::hugging_face::configuration_files;
use quern_model::{Config, Contents, Convention, Packed, View};
use quern_tensor_io::gguf::Writer;
use quern_tensor_io::{Array, Checkpoint, ElementType, Metadata, TensorPlan, Value};
use serde_json::Value as Json;
use sha2::{Digest, Sha256};

/// The folders, sorted; at least as many as there are architectures.
fn folders() -> Vec<String> {
    let entries = fs::read_dir(fixture("architectures")).unwrap().map(|e| e.unwrap());
    let mut names: Vec<String> =
        entries.filter(|e| e.path().is_dir()).map(|e| e.file_name().into_string().unwrap()).collect();
    names.sort();
    assert!(names.len() >= 16);
    names
}

fn open(folder: &str) -> Checkpoint {
    Checkpoint::open(&fixture("architectures").join(folder)).unwrap()
}

/// What llama.cpp's converter made of the folder; `None` where it knows no such architecture.
fn golden(folder: &str) -> Option<Json> {
    let file = fixture("architectures").join(folder).join("gguf.json");
    let text = fs::read_to_string(&file).ok()?;
    Some(serde_json::from_str(&text).unwrap())
}

/// The values of a view's tensor as the converter stores them.
fn stored(view: &View, at: usize, wanted: &str) -> Vec<u8> {
    let tensor = &view.tensors()[at];
    let mut values = vec![0.0; tensor.rows() * tensor.columns()];
    assert!(view.decode(at, 0..tensor.rows(), &mut values));
    match wanted {
        "F32" => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        "F16" => values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect(),
        "BF16" => values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect(),
        other => panic!("{other}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

#[test]
fn tensors_are_those_of_llama_cpps_converter() {
    for folder in folders() {
        let Some(golden) = golden(&folder) else { continue };
        let checkpoint = open(&folder);
        let view = View::gguf(&checkpoint, Packed::Refused).unwrap_or_else(|e| panic!("{folder}: {e}"));
        let wanted = golden["tensors"].as_array().unwrap();
        for entry in wanted {
            let (name, kind) = (entry[0].as_str().unwrap(), entry[1].as_str().unwrap());
            let at = view.tensors().iter().position(|t| t.name == name);
            let at = at.unwrap_or_else(|| panic!("{folder}: {name} is missing"));
            let shape: Vec<u64> = view.tensors()[at].shape.iter().rev().map(|&d| d as u64).collect();
            let expected: Vec<u64> =
                entry[2].as_array().unwrap().iter().map(|d| d.as_u64().unwrap()).collect();
            assert_eq!(shape, expected, "{folder}: {name}");
            assert_eq!(hex(&stored(&view, at, kind)), entry[3].as_str().unwrap(), "{folder}: {name}");
        }
        assert_eq!(view.tensors().len(), wanted.len(), "{folder}");
    }
}

#[test]
fn metadata_is_that_of_llama_cpps_converter() {
    // Ours beyond the converter's: what it drops and the way back needs.
    let kept = |folder: &str, key: &str| match key {
        "llama.attention.sliding_window" => folder == "mistral",
        "starcoder2.attention.sliding_window" => true,
        // Not those of the published models, which its loader takes.
        "llama4.attention.sliding_window"
        | "llama4.attention.temperature_scale"
        | "llama4.attention.temperature_length" => folder == "llama4",
        // Its loader reads what the converter does not write for these families.
        // The converter writes the factor as it is, its loader reads what it multiplies the usual one with.
        "olmo2.rope.scaling.attn_factor" => folder == "olmo3",
        _ if key.ends_with(".rope.freq_base") => ["falcon", "gemma", "gemma2", "phi", "stablelm", "gpt_neox"]
            .contains(&folder.split('-').next().unwrap_or_default()),
        _ => false,
    };
    for folder in folders() {
        let Some(golden) = golden(&folder) else { continue };
        let checkpoint = open(&folder);
        let view = View::gguf(&checkpoint, Packed::Refused).unwrap_or_else(|e| panic!("{folder}: {e}"));
        let prefix = format!("{}.", view.config().unwrap().architecture.name);
        let of_model = |key: &str| key.starts_with(&prefix);
        let mut wanted = Vec::new();
        for entry in golden["metadata"].as_array().unwrap() {
            let key = entry[0].as_str().unwrap();
            if of_model(key) {
                wanted.push((key.to_owned(), entry[1].as_str().unwrap().to_owned(), entry[2].clone()));
            }
        }
        let ours: Vec<(&str, &Value)> =
            view.metadata().iter().filter(|(key, _)| of_model(key) && !kept(&folder, key)).collect();
        let mut keys: Vec<&str> = ours.iter().map(|(key, _)| *key).collect();
        let mut expected: Vec<&str> = wanted.iter().map(|(key, ..)| key.as_str()).collect();
        keys.sort_unstable();
        expected.sort_unstable();
        assert_eq!(keys, expected, "{folder}");
        for (key, kind, value) in &wanted {
            // The converter writes 2048, or 2^20, whatever config.json says.
            if ["falcon", "granitehybrid", "nemotron_h", "nemotron_h_moe"]
                .map(|name| format!("{name}.context_length"))
                .contains(key)
            {
                assert_eq!(view.metadata().u64(key), Some(256));
                continue;
            }
            let found = view.metadata().get(key).unwrap();
            let same = match (kind.as_str(), found) {
                ("UINT32", Value::U32(n)) => value.as_u64() == Some((*n).into()),
                ("FLOAT32", Value::F32(x)) => value.as_f64().unwrap() as f32 == *x,
                ("BOOL", Value::Bool(b)) => value.as_bool() == Some(*b),
                ("[BOOL]", Value::Array(Array::Bool(flags))) => *value == serde_json::json!(flags),
                ("STRING", Value::String(s)) => value.as_str() == Some(s),
                // The normal quantiles that torch rounds otherwise; of none of it minus infinity, which is no number in JSON.
                ("[FLOAT32]", Value::Array(Array::F32(list))) => {
                    let near = |(a, b): (&Json, &f32)| match a.as_f64() {
                        Some(a) => (a as f32 - b).abs() < 1e-6 * b.abs(),
                        None => !b.is_finite(),
                    };
                    value.as_array().unwrap().iter().zip(list).all(near)
                }
                ("[INT32]", Value::Array(Array::I32(list))) => *value == Json::from(list.clone()),
                _ => false,
            };
            assert!(same, "{folder}: {key} is {found:?}, not {kind} {value}");
        }
    }
}

/// llama.cpp's converter keeps layers that predict further tokens behind the model's own, and counts them.
#[test]
fn layers_that_predict_further_tokens_are_left_out() {
    let scratch = tempfile::tempdir().unwrap();
    let checkpoint = open("qwen3_5");
    let view = View::gguf(&checkpoint, Packed::Refused).unwrap();
    let mut metadata = view.metadata().clone();
    metadata.set("qwen35.block_count", Value::U32(5));
    metadata.set("qwen35.nextn_predict_layers", Value::U32(1));
    let flags = Array::Bool(vec![true, true, true, false, false]);
    metadata.set("qwen35.attention.recurrent_layers", Value::Array(flags));
    let of = |t: &quern_model::ViewTensor, name: String| TensorPlan {
        name,
        element_type: t.element_type,
        shape: t.shape.clone(),
    };
    let mut plan: Vec<TensorPlan> = view.tensors().iter().map(|t| of(t, t.name.clone())).collect();
    let further = |t: &&quern_model::ViewTensor| t.layer == Some(3);
    let behind: Vec<_> = view.tensors().iter().filter(further).collect();
    plan.extend(behind.iter().map(|t| of(t, t.name.replace("blk.3.", "blk.4."))));
    let own = TensorPlan { name: "blk.4.nextn.enorm.weight".into(), ..of(behind[0], String::new()) };
    plan.push(own);
    let file = scratch.path().join("model.gguf");
    let mut writer = Writer::create(&file, &metadata, &plan, false).unwrap();
    let again = behind.iter().copied().chain([behind[0]]);
    for tensor in view.tensors().iter().chain(again) {
        let at = view.tensors().iter().position(|t| t.name == tensor.name).unwrap();
        let mut bytes = vec![0; tensor.rows() * tensor.row_bytes];
        view.read(at, 0..tensor.rows(), &mut bytes);
        writer.write(&bytes).unwrap();
    }
    writer.finish().unwrap();
    let made = Checkpoint::open(&file).unwrap();
    let contents = Contents::read(&made).unwrap();
    contents.require_sound().unwrap();
    assert_eq!((contents.config().layers, contents.config().speculative_layers), (4, 1));
    assert_eq!(contents.left_out().len(), behind.len() + 1);
    let note = contents.note().unwrap();
    assert!(note.contains("multi-token prediction"), "{note}");
}

/// Writes what the view shows as a GGUF file: vectors in f32, matrices as they are.
fn write_gguf(view: &View, path: &Path) {
    let plan: Vec<TensorPlan> = view
        .tensors()
        .iter()
        .map(|t| TensorPlan { name: t.name.clone(), element_type: t.element_type, shape: t.shape.clone() })
        .collect();
    let mut writer = Writer::create(path, view.metadata(), &plan, false).unwrap();
    for (at, tensor) in view.tensors().iter().enumerate() {
        let mut bytes = vec![0; tensor.rows() * tensor.row_bytes];
        view.read(at, 0..tensor.rows(), &mut bytes);
        writer.write(&bytes).unwrap();
    }
    writer.finish().unwrap();
}

/// Whether every value of an f32 tensor is the one that these bytes hold.
fn same_values(found: &[u8], source: &[u8], element_type: ElementType) -> bool {
    let mut wanted = vec![0.0; found.len() / 4];
    assert!(quern_tensor_io::decode::to_f32(element_type, source, &mut wanted));
    found.chunks(4).zip(wanted).all(|(f, w)| f32::from_le_bytes(f.try_into().unwrap()) == w)
}

#[test]
fn there_and_back_is_the_same_model() {
    let scratch = tempfile::tempdir().unwrap();
    for folder in folders() {
        let checkpoint = open(&folder);
        let view = match View::gguf(&checkpoint, Packed::Refused) {
            Ok(view) => view,
            Err(error) => {
                let text = error.to_string();
                assert!(text.contains("llama.cpp has no"), "{text}");
                continue;
            }
        };
        let file = scratch.path().join(format!("{folder}.gguf"));
        write_gguf(&view, &file);
        let made = Checkpoint::open(&file).unwrap();
        let back = View::hugging_face(&made, Packed::Refused).unwrap_or_else(|e| panic!("{folder}: {e}"));
        let restated = folder == "granitehybrid-rope";
        let back = match restated {
            // GGUF knows it as a Granite, which it then is; the numbers are compared under the class's own names.
            true => {
                assert_eq!(back.config().unwrap().architecture.hf_architectures, ["GraniteForCausalLM"]);
                let family = view.config().unwrap().architecture;
                View::hugging_face_as(&made, Packed::Refused, family).unwrap()
            }
            false => back,
        };
        let mut names: Vec<&str> = back.tensors().iter().map(|t| t.name.as_str()).collect();
        // Of a multimodal release the text model alone, under the names of a model by itself.
        let files = View::for_files(&checkpoint).unwrap();
        let mut expected: Vec<&str> = files.tensors().iter().map(|t| t.name.as_str()).collect();
        if !files.config().unwrap().multimodal {
            assert_eq!(expected.len(), checkpoint.tensors().len(), "{folder}");
        }
        names.sort_unstable();
        expected.sort_unstable();
        assert_eq!(names, expected, "{folder}");
        for (at, tensor) in back.tensors().iter().enumerate() {
            let held = files.tensors().iter().find(|t| t.name == tensor.name).unwrap();
            let source = checkpoint.tensor(&held.sources[0]).unwrap();
            // Of releases whose text model by itself has one tensor an expert, a part of the source's.
            let mut part = Vec::new();
            if tensor.shape != source.info.shape {
                let number = files.tensors().iter().position(|t| t.name == tensor.name).unwrap();
                assert_eq!(tensor.shape, held.shape, "{folder}: {}", tensor.name);
                part = vec![0; held.rows() * held.row_bytes];
                files.read(number, 0..held.rows(), &mut part);
            }
            let data = if part.is_empty() { source.data } else { &part };
            let mut bytes = vec![0; tensor.rows() * tensor.row_bytes];
            back.read(at, 0..tensor.rows(), &mut bytes);
            // What GGUF has multiplied stays so.
            let of_it = |t: &quern_model::ViewTensor| t.role == tensor.role && t.layer == tensor.layer;
            let there = view.tensors().iter().position(of_it);
            if let Some(there) = there.filter(|&there| view.row_factors(there).is_some()) {
                let mut multiplied = vec![0; bytes.len()];
                view.read(there, 0..tensor.rows(), &mut multiplied);
                assert!(bytes == multiplied && bytes != source.data, "{folder}: {}", tensor.name);
                continue;
            }
            let same = match tensor.element_type == source.info.element_type {
                true => bytes == data,
                false => same_values(&bytes, data, source.info.element_type),
            };
            assert!(same, "{folder}: {}", tensor.name);
        }
        if !restated {
            configuration_is_the_same(&folder, &checkpoint, back.config().unwrap(), made.metadata());
        }
    }
}

/// `config.json` made from the GGUF file means what the source's does.
fn configuration_is_the_same(folder: &str, source: &Checkpoint, config: &Config, metadata: &Metadata) {
    let scratch = tempfile::tempdir().unwrap();
    for (name, bytes) in configuration_files(config, metadata, ElementType::F16) {
        fs::write(scratch.path().join(name), bytes).unwrap();
    }
    let mut source = Config::from_checkpoint(source).unwrap();
    let mut found = Config::from_config_json(&scratch.path().join("config.json")).unwrap();
    assert_eq!(found.convention, Convention::HuggingFace);
    found.dtype = source.dtype;
    found.head_dim_given = source.head_dim_given;
    if source.multimodal {
        // Written as the text model by itself, which knows nothing of images.
        let class = found.architecture.hf_architectures[0];
        assert!(class.ends_with("ForCausalLM"), "{class}");
        found.architecture = source.architecture;
        found.multimodal = true;
        found.rope_sections = source.rope_sections;
        found.deepstack_layers = source.deepstack_layers;
    }
    if matches!(folder, "llama3" | "llama4" | "apertus") {
        // Its parameters are found behind the factors, by their ratios: the factors are what counts.
        let factors = |c: &Config| c.rope.factors.clone().unwrap();
        for (a, b) in factors(&found).iter().zip(factors(&source)) {
            assert!((a - b).abs() <= 2e-6 * b, "{a} {b}");
        }
        found.rope = source.rope.clone();
    }
    if let Some(multipliers) = &mut source.multipliers {
        // The weights of the GGUF file have them.
        *multipliers = found.multipliers.unwrap();
        assert_eq!((multipliers.scores(), multipliers.down), (1.0, 1.0));
        (source.embedding_multiplier, source.logit_multiplier) = (1.0, 1.0);
    }
    if matches!(folder, "internlm2" | "internlm3") {
        // GGUF has no key for dynamic scaling, which changes nothing within the trained context.
        found.rope.scaling = source.rope.scaling.clone();
    }
    // The stretched base is written as it is.
    found.rope_stretched = source.rope_stretched;
    if folder == "phi3-longrope" {
        // Written out where the source leaves it to be computed.
        found.rope.scaling = source.rope.scaling.clone();
    }
    assert_eq!(format!("{found:#?}"), format!("{source:#?}"), "{folder}");
}
