//! Real files: the demo model as transformers wrote it, and as llama.cpp quantized it.

use std::path::{Path, PathBuf};

use quern_tensor_io::{Checkpoint, Container, ElementType, decode, gguf, safetensors};

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

fn plans(checkpoint: &Checkpoint) -> Vec<gguf::TensorPlan> {
    let plan = |t: &quern_tensor_io::TensorInfo| gguf::TensorPlan {
        name: t.name.clone(),
        element_type: t.element_type,
        shape: t.shape.clone(),
    };
    checkpoint.tensors().iter().map(plan).collect()
}

#[test]
fn the_demo_model_opens_as_folder_and_as_file() {
    let folder = fixtures().join("bookworm-4m");
    let model = Checkpoint::open(&folder).unwrap();
    assert_eq!(model.container(), Container::Safetensors);
    assert_eq!((model.path(), model.directory()), (folder.as_path(), folder.as_path()));
    assert_eq!(model.files(), [folder.join("model.safetensors")]);
    assert_eq!(model.file_size(), std::fs::metadata(&model.files()[0]).unwrap().len());
    let embedding = model.tensor("model.embed_tokens.weight").unwrap();
    assert_eq!(embedding.info.element_type, ElementType::F16);
    assert_eq!(embedding.data.len(), embedding.info.elements() * 2);
    assert!(model.tensor("no.such.tensor").is_none());
    let end = model.tensors().last().map(|t| t.offset + t.bytes as u64);
    assert_eq!(end, Some(model.file_size()));

    let file = Checkpoint::open(&folder.join("model.safetensors")).unwrap();
    assert_eq!(file.directory(), folder);
    assert_eq!(file.tensors().len(), model.tensors().len());
}

#[test]
fn llama_cpps_file_opens_and_its_weights_are_the_demo_models() {
    let gguf = Checkpoint::open(&fixtures().join("bookworm-4m-Q4_K_M.gguf")).unwrap();
    let original = Checkpoint::open(&fixtures().join("bookworm-4m")).unwrap();
    assert_eq!(gguf.container(), Container::Gguf);
    assert_eq!(gguf.metadata().str("general.architecture"), Some("llama"));
    assert_eq!(gguf.metadata().u64("general.file_type"), Some(15));
    let tokens = gguf.metadata().strings("tokenizer.ggml.tokens").unwrap();
    assert_eq!(gguf.metadata().f32s("tokenizer.ggml.scores").unwrap().len(), tokens.len());
    assert_eq!(tokens.get(1), Some("<s>"));

    let decoded = |model: &Checkpoint, name: &str| {
        let tensor = model.tensor(name).unwrap();
        let mut out = vec![f32::NAN; tensor.info.elements()];
        assert!(decode::to_f32(tensor.info.element_type, tensor.data, &mut out), "{name}");
        (tensor.info.element_type, tensor.info.shape.clone(), out)
    };
    let mut seen = std::collections::BTreeSet::new();
    for (ours, theirs) in [
        ("token_embd.weight", "model.embed_tokens.weight"),
        ("blk.0.ffn_down.weight", "model.layers.0.mlp.down_proj.weight"),
        ("blk.0.ffn_up.weight", "model.layers.0.mlp.up_proj.weight"),
        ("output_norm.weight", "model.norm.weight"),
    ] {
        let (element_type, shape, a) = decoded(&gguf, ours);
        let (_, original_shape, b) = decoded(&original, theirs);
        assert_eq!(shape, original_shape, "{ours}");
        let error: f64 = a.iter().zip(&b).map(|(a, b)| f64::from(a - b).powi(2)).sum();
        let power: f64 = b.iter().map(|b| f64::from(*b).powi(2)).sum();
        // 4 bits leave about 0.5 % of the power as noise, 6 bits 0.03 %; a mixed-up layout leaves over 100 %.
        assert!(error < 0.01 * power, "{ours}: noise {}", error / power);
        seen.insert(element_type);
    }
    assert!(seen.contains(&ElementType::Q4K) && seen.contains(&ElementType::F32));
}

/// Reading llama.cpp's file and writing it again gives the same bytes: nothing is lost, nothing moves.
#[test]
fn llama_cpps_file_survives_reader_and_writer_byte_for_byte() {
    let source = fixtures().join("bookworm-4m-Q4_K_M.gguf");
    let model = Checkpoint::open(&source).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy.gguf");
    let mut writer = gguf::Writer::create(&copy, model.metadata(), &plans(&model), false).unwrap();
    for (i, tensor) in model.tensors().iter().enumerate() {
        model.data(tensor).chunks(1000 + i * 77).for_each(|piece| writer.write(piece).unwrap());
    }
    let size = writer.finish().unwrap();
    assert_eq!(size, gguf::Writer::file_size(model.metadata(), &plans(&model)).unwrap());
    assert_same_bytes(&source, &copy);
}

#[test]
fn the_demo_model_survives_the_safetensors_writer() {
    let source = fixtures().join("bookworm-4m/model.safetensors");
    let model = Checkpoint::open(&source).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("copy.safetensors");
    let mut writer = safetensors::Writer::create(&copy, model.metadata(), &plans(&model), false).unwrap();
    model.tensors().iter().for_each(|t| writer.write(model.data(t)).unwrap());
    let size = writer.finish().unwrap();
    assert_eq!(size, safetensors::Writer::file_size(model.metadata(), &plans(&model)).unwrap());
    assert_same_bytes(&source, &copy);
}

fn assert_same_bytes(a: &Path, b: &Path) {
    let (a, b) = (std::fs::read(a).unwrap(), std::fs::read(b).unwrap());
    assert_eq!(a.len(), b.len());
    let different = a.iter().zip(&b).position(|(a, b)| a != b);
    assert_eq!(different, None);
}
