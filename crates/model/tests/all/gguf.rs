//! The GGUF view and metadata against a file that llama.cpp made from the same model.

use crate::common::{copy_of, edit, fixture, open, write_safetensors, write_weights};
use quern_model::{Config, Convention, Packed, TensorRole, View};
use quern_tensor_io::gguf::Writer;
use quern_tensor_io::{Checkpoint, ElementType, Value};
use serde_json::json;

const FILES: [&str; 4] = ["config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json"];

/// The bytes of one row.
fn row(view: &View, tensor: usize, row: usize) -> Vec<u8> {
    let mut out = vec![0; view.tensors()[tensor].row_bytes];
    view.read(tensor, row..row + 1, &mut out);
    out
}

#[test]
fn metadata_equals_llama_cpps() {
    let (made, checkpoint) = (open("bookworm-4m-Q4_K_M.gguf"), open("bookworm-4m"));
    let view = View::gguf(&checkpoint, Packed::Refused).unwrap();
    // It was converted under another name; type and version of quantization are the tensors' writer's.
    let others = ["general.name", "general.quantization_version", "general.file_type"];
    let wanted: Vec<_> = made.metadata().iter().filter(|(key, _)| !others.contains(key)).collect();
    // Keys of quern's own, which other readers pass over, are for the way back.
    let found: Vec<_> = view
        .metadata()
        .iter()
        .filter(|(key, _)| *key != "general.name" && !key.starts_with("quern."))
        .collect();
    let keys = |list: &[(&str, &Value)]| list.iter().map(|(k, _)| k.to_string()).collect::<Vec<_>>();
    assert_eq!(keys(&found), keys(&wanted));
    for ((key, found), (_, wanted)) in found.iter().zip(&wanted) {
        assert!(found == wanted, "{key}");
    }
    assert_eq!(view.metadata().str("general.name"), Some("Bookworm 4m"));
    // Equality of floats takes -0 for 0, the file does not.
    let bits = |m: &quern_tensor_io::Metadata| -> Vec<u32> {
        m.f32s("tokenizer.ggml.scores").unwrap().iter().map(|s| s.to_bits()).collect()
    };
    assert!(bits(view.metadata()) == bits(made.metadata()));
}

#[test]
fn tensors_are_llama_cpps_in_its_order() {
    let (made, checkpoint) = (open("bookworm-4m-Q4_K_M.gguf"), open("bookworm-4m"));
    let (view, identity) =
        (View::gguf(&checkpoint, Packed::Refused).unwrap(), View::gguf(&made, Packed::Refused).unwrap());
    let list = |v: &View| v.tensors().iter().map(|t| (t.name.clone(), t.shape.clone())).collect::<Vec<_>>();
    let wanted: Vec<_> = made.tensors().iter().map(|t| (t.name.clone(), t.shape.clone())).collect();
    assert_eq!(list(&view), wanted);
    assert_eq!(list(&identity), wanted);
    for (at, info) in made.tensors().iter().enumerate() {
        let tensor = &identity.tensors()[at];
        assert_eq!(tensor.element_type, info.element_type);
        let rows: Vec<u8> = (0..tensor.rows()).flat_map(|r| row(&identity, at, r)).collect();
        assert!(rows == made.data(info), "{}", info.name);
        assert!(identity.contiguous(at) == Some(made.data(info)));
    }
}

/// Each row of Q and K must be nearest to the row llama.cpp put there, which its 4-bit values still tell.
#[test]
fn rows_lie_where_llama_cpp_puts_them() {
    let (made, checkpoint) = (open("bookworm-4m-Q4_K_M.gguf"), open("bookworm-4m"));
    let (view, quantized) =
        (View::gguf(&checkpoint, Packed::Refused).unwrap(), View::gguf(&made, Packed::Refused).unwrap());
    let decode = |v: &View, at: usize, row: usize| {
        let tensor = &v.tensors()[at];
        let mut out = vec![0.0; tensor.columns()];
        assert!(quern_tensor_io::decode::to_f32(tensor.element_type, &self::row(v, at, row), &mut out));
        out
    };
    let distance = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f32>();
    for (at, tensor) in view.tensors().iter().enumerate() {
        let reordered = matches!(tensor.role, Some(TensorRole::AttentionQ | TensorRole::AttentionK));
        assert_eq!(view.contiguous(at).is_none(), reordered, "{}", tensor.name);
        if tensor.role == Some(TensorRole::TokenEmbedding) {
            continue; // its rows are many, and some equal
        }
        let rows: Vec<_> = (0..tensor.rows()).map(|r| decode(&view, at, r)).collect();
        for row in (0..tensor.rows()).step_by(7) {
            let theirs = decode(&quantized, at, row);
            let own = distance(&rows[row], &theirs);
            let other = (0..rows.len()).filter(|&r| r != row).map(|r| distance(&rows[r], &theirs));
            assert!(own <= other.fold(f32::INFINITY, f32::min), "{} row {row}", tensor.name);
        }
    }
}

#[test]
fn biases_are_reordered_with_their_rows() {
    let dir = copy_of("bookworm-4m", &FILES);
    edit(&dir.path().join("config.json"), json!({ "attention_bias": true }));
    write_weights(dir.path());
    // Number the values of one K bias: 128 values, two heads of 64.
    let file = dir.path().join("model.safetensors");
    let name = "model.layers.1.self_attn.k_proj.bias";
    let offset = Checkpoint::open(dir.path()).unwrap().tensor(name).unwrap().info.offset as usize;
    let mut bytes = std::fs::read(&file).unwrap();
    for i in 0..128u16 {
        bytes[offset + 2 * i as usize..][..2].copy_from_slice(&i.to_le_bytes());
    }
    std::fs::write(&file, bytes).unwrap();

    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let view = View::gguf(&checkpoint, Packed::Refused).unwrap();
    let at = view.tensors().iter().position(|t| t.name == "blk.1.attn_k.bias").unwrap();
    assert_eq!((view.tensors()[at].rows(), view.tensors()[at].columns()), (1, 128));
    let values: Vec<u16> = row(&view, at, 0).chunks(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect();
    assert_eq!(values[..4], [0, 32, 1, 33]);
    assert_eq!(values[62..66], [31, 63, 64, 96]);
    assert_eq!(view.contiguous(at), Some(row(&view, at, 0).as_slice()));
}

#[test]
fn llama_3_rope_becomes_a_tensor() {
    let dir = copy_of("bookworm-4m", &FILES);
    let rope = json!({
        "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
    });
    edit(&dir.path().join("config.json"), json!({ "rope_parameters": rope }));
    write_weights(dir.path());
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let view = View::gguf(&checkpoint, Packed::Refused).unwrap();
    let at = view.tensors().iter().position(|t| t.name == "rope_freqs.weight").unwrap();
    let tensor = &view.tensors()[at];
    assert_eq!((tensor.element_type, &tensor.shape, tensor.sources.len()), (ElementType::F32, &vec![32], 0));
    let values: Vec<f32> =
        row(&view, at, 0).chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    assert_eq!(Some(&values), view.config().unwrap().rope.factors.as_ref());
    assert_eq!((values[0], values[31]), (1.0, 8.0));
    let names: Vec<_> = view.tensors()[..3].iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["output_norm.weight", "rope_freqs.weight", "token_embd.weight"]);
    assert!(view.metadata().get("llama.rope.scaling.type").is_none());
}

#[test]
fn linear_and_yarn_go_into_metadata() {
    let dir = copy_of("bookworm-4m", &FILES);
    write_weights(dir.path());
    let scaled = |rope: serde_json::Value| {
        edit(&dir.path().join("config.json"), json!({ "rope_parameters": rope }));
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        View::gguf(&checkpoint, Packed::Refused).unwrap().metadata().clone()
    };
    let linear = scaled(json!({ "rope_type": "linear", "factor": 4.0, "rope_theta": 10000 }));
    assert_eq!(linear.get("llama.rope.scaling.type"), Some(&"linear".into()));
    assert_eq!(linear.get("llama.rope.scaling.factor"), Some(&Value::F32(4.0)));
    let yarn = json!({
        "rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 512, "attention_factor": 1.5,
    });
    let yarn = scaled(yarn);
    // What is written is read back.
    let file = dir.path().join("yarn.gguf");
    Writer::create(&file, &yarn, &[], false).unwrap().finish().unwrap();
    let back = Config::from_checkpoint(&Checkpoint::open(&file).unwrap()).unwrap();
    let here = Config::from_config_json(&dir.path().join("config.json")).unwrap();
    assert_eq!(back.rope, here.rope);
    assert_eq!(yarn.get("llama.rope.scaling.type"), Some(&"yarn".into()));
    assert_eq!(yarn.get("llama.rope.scaling.original_context_length"), Some(&Value::U32(512)));
}

#[test]
fn a_redundant_head_is_kept_and_useless_buffers_are_skipped() {
    let dir = copy_of("bookworm-4m", &FILES);
    let config = Config::from_config_json(&dir.path().join("config.json")).unwrap();
    let expected = config.expected_tensors(Convention::HuggingFace);
    let mut tensors: Vec<_> = expected.into_iter().map(|e| (e.name, "F16", e.shape)).collect();
    tensors.push(("model.layers.0.self_attn.rotary_emb.inv_freq".into(), "F32", vec![32]));
    write_safetensors(&dir.path().join("model.safetensors"), &tensors);
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let view = View::gguf(&checkpoint, Packed::Refused).unwrap();
    let names: Vec<_> = view.tensors()[..3].iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["output.weight", "output_norm.weight", "token_embd.weight"]);
    assert_eq!(view.tensors().len(), tensors.len() - 1);
}

#[test]
fn missing_extra_and_misshapen_tensors_are_named() {
    let dir = copy_of("bookworm-4m", &FILES);
    let config = Config::from_config_json(&dir.path().join("config.json")).unwrap();
    let expected = config.expected_tensors(Convention::HuggingFace).into_iter().filter(|e| !e.optional);
    let sound: Vec<_> = expected.map(|e| (e.name, "F16", e.shape)).collect();
    let message = |tensors: &[(String, &str, Vec<usize>)]| {
        write_safetensors(&dir.path().join("model.safetensors"), tensors);
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        View::gguf(&checkpoint, Packed::Refused).map(|_| ()).unwrap_err().to_string()
    };
    let m = message(&sound[1..]);
    assert!(m.contains("\"model.embed_tokens.weight\"") && m.contains("missing"), "{m}");
    let mut extra = sound.clone();
    extra.push(("model.layers.4.mlp.up_proj.weight".into(), "F16", vec![768, 256]));
    let m = message(&extra);
    assert!(
        m.contains("\"model.layers.4.mlp.up_proj.weight\"")
            && m.contains("the configuration has 4 layers")
            && m.contains("num_hidden_layers to 5"),
        "{m}"
    );
    let mut misshapen = sound.clone();
    misshapen[0].2 = vec![4096, 255];
    let m = message(&misshapen);
    assert!(m.contains("[4096, 255], the configuration demands [4096, 256]"), "{m}");
    let mut integers = sound.clone();
    integers[0].1 = "I32";
    let m = message(&integers);
    assert!(m.contains("its type is i32, a floating-point type is expected"), "{m}");
}

#[test]
fn a_quantized_checkpoint_is_not_taken_for_a_plain_one() {
    let dir = copy_of("bookworm-4m", &FILES);
    write_weights(dir.path());
    edit(&dir.path().join("config.json"), json!({ "quantization_config": { "quant_method": "gptq" } }));
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let message = View::gguf(&checkpoint, Packed::Refused).map(|_| ()).unwrap_err().to_string();
    assert!(message.contains("already quantized with gptq"), "{message}");
    assert_eq!(Config::from_checkpoint(&checkpoint).unwrap().quantization.as_deref(), Some("gptq"));
}

#[test]
fn the_embedding_backs_the_vocabulary() {
    let dir = copy_of("bookworm-4m", &FILES);
    write_weights(dir.path());
    edit(&dir.path().join("config.json"), json!({ "vocab_size": 16_000_000 }));
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let config = Config::from_checkpoint(&checkpoint).unwrap();
    let message = quern_model::gguf_metadata(&checkpoint, &config).unwrap_err().to_string();
    assert!(message.contains("\"model.embed_tokens.weight\""), "{message}");
    assert!(fixture("bookworm-4m").is_dir());
}
