//! Latent attention beyond what every architecture is tested for: both forms of it, files with keys' and values'
//! projections in one matrix, releases in FP8 with a layer that predicts further tokens, and what is refused.

use std::path::Path;
use std::sync::Arc;

use crate::common::{fixture, golden, load, relative_errors};
use quern_model::{Packed, View};
use quern_run::{Error, Gradients, KvType, LoadOptions, Model, SessionOptions, Wanted};
use quern_tensor_io::{Checkpoint, ElementType, Metadata, TensorPlan, Value, decode, gguf, safetensors};

const FOLDERS: [&str; 8] = [
    "deepseek_v2",
    "deepseek_v3",
    "deepseek_v32",
    "glm4_moe_lite",
    "glm_moe_dsa",
    "kimi_k2",
    "minicpm3",
    "youtu",
];

fn folder(name: &str) -> std::path::PathBuf {
    fixture("architectures").join(name)
}

fn tokens(name: &str) -> Vec<u32> {
    let prompt = &golden(&folder(name).join("logits.safetensors"))[0];
    [&prompt.input_ids[..], &prompt.greedy_ids].concat()
}

/// The logits of all tokens, given to the model in parts of this length.
fn logits(model: &Model, tokens: &[u32], part: usize, kv: KvType) -> Vec<f32> {
    let options = SessionOptions { context: 64, kv, ..SessionOptions::default() };
    let mut session = model.session(options).unwrap();
    let parts = tokens.chunks(part).flat_map(|part| session.forward(part, Wanted::All).unwrap().to_vec());
    parts.collect()
}

/// Tensors as a GGUF file.
fn write_gguf(tensors: &[(TensorPlan, Vec<u8>)], metadata: &Metadata, path: &Path) {
    let plan: Vec<TensorPlan> = tensors.iter().map(|(plan, _)| plan.clone()).collect();
    let mut writer = gguf::Writer::create(path, metadata, &plan, true).unwrap();
    tensors.iter().for_each(|(_, bytes)| writer.write(bytes).unwrap());
    writer.finish().unwrap();
}

fn of_view(view: &View<'_>) -> Vec<(TensorPlan, Vec<u8>)> {
    let one = |(at, t): (usize, &quern_model::ViewTensor)| {
        let mut bytes = vec![0; t.rows() * t.row_bytes];
        view.read(at, 0..t.rows(), &mut bytes);
        let plan = TensorPlan { name: t.name.clone(), element_type: t.element_type, shape: t.shape.clone() };
        (plan, bytes)
    };
    view.tensors().iter().enumerate().map(one).collect()
}

#[test]
fn tokens_one_by_one_are_those_of_a_prompt() {
    let scratch = tempfile::tempdir().unwrap();
    for name in FOLDERS {
        let file = scratch.path().join(format!("{name}.gguf"));
        let checkpoint = Checkpoint::open(&folder(name)).unwrap();
        let view = View::gguf(&checkpoint, Packed::Refused).unwrap();
        write_gguf(&of_view(&view), view.metadata(), &file);
        for model in [load(&folder(name), 2), load(&file, 2)] {
            let tokens = tokens(name);
            let whole = logits(&model, &tokens, tokens.len(), KvType::F32);
            // One by one, and with as many as have their matrices decoded.
            for part in [1, 9] {
                let parts = logits(&model, &tokens, part, KvType::F32);
                let (largest, row) = relative_errors(&parts, &whole, model.vocabulary());
                assert!(largest < 2e-5 && row < 2e-5, "{name} {part}: {largest:e} {row:e}");
            }
            // Of random experts others may be chosen.
            if model.is_mixture() {
                continue;
            }
            let rounded = logits(&model, &tokens, 1, KvType::Q8_0);
            let (largest, row) = relative_errors(&rounded, &whole, model.vocabulary());
            assert!(largest < 0.2 && row < 0.2, "{name} q8_0: {largest:e} {row:e}");
        }
    }
}

/// llama.cpp's files of 2024 hold both projections in one matrix, and the sizes of heads where others have those of the
/// cache.
#[test]
fn files_with_one_matrix_for_keys_and_values_are_read() {
    let scratch = tempfile::tempdir().unwrap();
    for name in ["deepseek_v2", "deepseek_v3"] {
        let checkpoint = Checkpoint::open(&folder(name)).unwrap();
        let view = View::gguf(&checkpoint, Packed::Refused).unwrap();
        let mut tensors = of_view(&view);
        tensors.retain(|(plan, _)| !plan.name.contains("attn_k_b") && !plan.name.contains("attn_v_b"));
        for layer in 0..2 {
            let source =
                checkpoint.tensor(&format!("model.layers.{layer}.self_attn.kv_b_proj.weight")).unwrap();
            let plan = TensorPlan {
                name: format!("blk.{layer}.attn_kv_b.weight"),
                element_type: source.info.element_type,
                shape: source.info.shape.clone(),
            };
            tensors.push((plan, source.data.to_vec()));
        }
        let mut metadata = view.metadata().clone();
        for (key, value) in [("key_length", 40u32), ("value_length", 16), ("head_count_kv", 2)] {
            metadata.set(format!("deepseek2.attention.{key}"), Value::U32(value));
        }
        metadata.remove("deepseek2.attention.key_length_mla");
        metadata.remove("deepseek2.attention.value_length_mla");
        let file = scratch.path().join(format!("{name}.gguf"));
        write_gguf(&tensors, &metadata, &file);
        let (model, plain) = (load(&file, 2), load(&folder(name), 2));
        assert!(model.config().latent.unwrap().joined_in_gguf);
        let tokens = tokens(name);
        for part in [1, tokens.len()] {
            let (found, wanted) =
                (logits(&model, &tokens, part, KvType::F32), logits(&plain, &tokens, part, KvType::F32));
            let (largest, row) = relative_errors(&found, &wanted, model.vocabulary());
            assert!(largest < 1e-5 && row < 1e-5, "{name} {part}: {largest:e} {row:e}");
        }
    }
}

/// DeepSeek V3 as it is released: matrices in FP8 with a scale for each block of 128 x 128, and a layer behind the
/// others that predicts a further token.
#[test]
fn a_release_in_fp8_with_a_layer_for_further_tokens() {
    let scratch = tempfile::tempdir().unwrap();
    let source = Checkpoint::open(&folder("deepseek_v3")).unwrap();
    let (mut packed, mut plain) = (Vec::new(), Vec::new());
    for info in source.tensors() {
        let mut values = vec![0f32; info.elements()];
        assert!(decode::to_f32(info.element_type, source.data(info), &mut values));
        let keeps = info.shape.len() < 2
            || ["embed_tokens", "lm_head", "mlp.gate."].iter().any(|n| info.name.contains(n));
        let copies = [info.name.clone(), info.name.replace("layers.1.", "layers.2.")];
        // The further layer has the parts of an ordinary one.
        for name in &copies[..if info.name.contains("layers.1.") { 2 } else { 1 }] {
            let plan = |name: String, element_type, shape| TensorPlan { name, element_type, shape };
            if keeps {
                packed.push((
                    plan(name.clone(), info.element_type, info.shape.clone()),
                    source.data(info).to_vec(),
                ));
            } else {
                let codes: Vec<u8> = values.iter().map(|&v| nearest(v * 8.0)).collect();
                packed.push((plan(name.clone(), ElementType::F8E4M3, info.shape.clone()), codes));
                let blocks: Vec<usize> = info.shape.iter().map(|n| n.div_ceil(128)).collect();
                let scales = vec![0.125f32; blocks.iter().product()];
                let scales = scales.iter().flat_map(|s| s.to_le_bytes()).collect();
                packed.push((plan(format!("{name}_scale_inv"), ElementType::F32, blocks), scales));
            }
        }
        let held: Vec<f32> = match keeps {
            true => values,
            false => values.iter().map(|&v| value(nearest(v * 8.0)) * 0.125).collect(),
        };
        let bytes = held.iter().flat_map(|v| v.to_le_bytes()).collect();
        plain.push((
            TensorPlan { name: info.name.clone(), element_type: ElementType::F32, shape: info.shape.clone() },
            bytes,
        ));
    }
    let zeros = |name: &str, shape: &[usize]| {
        let bytes = vec![0u8; 2 * shape.iter().product::<usize>()];
        (
            TensorPlan {
                name: format!("model.layers.2.{name}"),
                element_type: ElementType::F16,
                shape: shape.to_vec(),
            },
            bytes,
        )
    };
    packed.extend([
        zeros("eh_proj.weight", &[32, 64]),
        zeros("enorm.weight", &[32]),
        zeros("hnorm.weight", &[32]),
    ]);

    let text = std::fs::read_to_string(folder("deepseek_v3").join("config.json")).unwrap();
    let further = text.replace("\"num_nextn_predict_layers\": 0", "\"num_nextn_predict_layers\": 1");
    assert_ne!(text, further);
    let method = "\"quantization_config\": {\"quant_method\": \"fp8\", \"fmt\": \"e4m3\", \"activation_scheme\": \
                  \"dynamic\", \"weight_block_size\": [128, 128]},\n  \"q_lora_rank\"";
    let released = further.replacen("\"q_lora_rank\"", method, 1);
    for (name, tensors, config) in [("fp8", &packed, released), ("plain", &plain, text)] {
        let to = scratch.path().join(name);
        std::fs::create_dir(&to).unwrap();
        for file in ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"] {
            std::fs::copy(folder("deepseek_v3").join(file), to.join(file)).unwrap();
        }
        std::fs::write(to.join("config.json"), config).unwrap();
        let plan: Vec<TensorPlan> = tensors.iter().map(|(plan, _)| plan.clone()).collect();
        let mut writer =
            safetensors::Writer::create(&to.join("model.safetensors"), &Metadata::new(), &plan, true)
                .unwrap();
        tensors.iter().for_each(|(_, bytes): &(TensorPlan, Vec<u8>)| writer.write(bytes).unwrap());
        writer.finish().unwrap();
    }
    let (fp8, plain) = (scratch.path().join("fp8"), scratch.path().join("plain"));
    let checkpoint = Arc::new(Checkpoint::open(&fp8).unwrap());
    let model =
        Model::load(checkpoint.clone(), LoadOptions { threads: 2, ..LoadOptions::default() }).unwrap();
    let note = "tensors of multi-token prediction layers";
    assert!(model.notes().iter().any(|found| found.contains(note)), "{:?}", model.notes());
    let other = load(&plain, 2);
    let tokens = tokens("deepseek_v3");
    for part in [1, tokens.len()] {
        let (found, wanted) =
            (logits(&model, &tokens, part, KvType::F32), logits(&other, &tokens, part, KvType::F32));
        let (largest, row) = relative_errors(&found, &wanted, model.vocabulary());
        assert!(largest < 1e-5 && row < 1e-5, "{part}: {largest:e} {row:e}");
    }
    // As GGUF: the same numbers, of the layers that the model has.
    let other = Checkpoint::open(&plain).unwrap();
    let (view, wanted) =
        (View::gguf(&checkpoint, Packed::Decoded).unwrap(), View::gguf(&other, Packed::Refused).unwrap());
    assert_eq!(view.tensors().len(), wanted.tensors().len());
    for (at, (tensor, own)) in view.tensors().iter().zip(wanted.tensors()).enumerate() {
        assert_eq!((&tensor.name, &tensor.shape), (&own.name, &own.shape));
        let (mut found, mut expected) =
            (vec![0f32; tensor.rows() * tensor.columns()], vec![0f32; tensor.rows() * tensor.columns()]);
        assert!(view.decode(at, 0..tensor.rows(), &mut found));
        assert!(wanted.decode(at, 0..tensor.rows(), &mut expected));
        assert!(found == expected, "{}", tensor.name);
    }
    // From safetensors to safetensors all of it is carried.
    let carried = View::hugging_face(&checkpoint, Packed::Decoded).unwrap();
    assert!(carried.tensors().iter().any(|t| t.name == "model.layers.2.eh_proj.weight"));
}

/// The value of an FP8 code.
fn value(code: u8) -> f32 {
    let mut out = [0f32];
    assert!(decode::to_f32(ElementType::F8E4M3, &[code], &mut out));
    out[0]
}

/// The FP8 code nearest to a number.
fn nearest(v: f32) -> u8 {
    let codes = (0..=255u8).filter(|code| code & 0x7f != 0x7f);
    let distance = |code: &u8| (value(*code) - v).abs();
    codes.min_by(|a, b| distance(a).total_cmp(&distance(b))).unwrap()
}

#[test]
fn what_is_not_computed_is_refused_by_name() {
    let model = load(&folder("youtu"), 2);
    let refused = Gradients::new(&model, &[vec![1, 2, 3]]).unwrap_err();
    assert!(
        matches!(refused, Error::NoGradients { .. }) && refused.to_string().contains("mixers"),
        "{refused}"
    );
}

#[test]
fn vocabularies_are_of_the_files() {
    // Both tokenizer families of DeepSeek have the token in front of a text.
    for name in ["deepseek_v2", "deepseek_v3"] {
        let checkpoint = Checkpoint::open(&folder(name)).unwrap();
        let view = View::gguf(&checkpoint, Packed::Refused).unwrap();
        let pre = view.metadata().str("tokenizer.ggml.pre");
        assert_eq!(pre, Some(if name == "deepseek_v2" { "deepseek-llm" } else { "deepseek-v3" }));
        let count = view.metadata().strings("tokenizer.ggml.tokens").map_or(0, |tokens| tokens.len());
        assert!(count > 290, "{name}: {count}");
    }
}
