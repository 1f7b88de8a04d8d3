//! Every architecture against transformers, by the tiny models of `fixtures/architectures`: read as Hugging Face
//! has them, and as GGUF files made of them.

use std::path::Path;
use std::sync::Arc;

use crate::common::{agrees_with_transformers, fixture};
use quern_model::{Packed, View};
use quern_run::{Error, LoadOptions, Model};
use quern_tensor_io::{Checkpoint, Metadata, TensorPlan, Value, gguf, safetensors};

fn folders() -> Vec<String> {
    let entries = std::fs::read_dir(fixture("architectures")).unwrap().map(|e| e.unwrap());
    let mut names: Vec<String> =
        entries.filter(|e| e.path().is_dir()).map(|e| e.file_name().into_string().unwrap()).collect();
    names.sort();
    assert!(names.len() >= 16);
    names
}

/// The model as a GGUF file, matrices as they are, with this metadata and without the tensor `left_out`.
fn write_gguf(view: &View, metadata: &Metadata, left_out: &str, path: &Path) {
    let kept: Vec<_> = view.tensors().iter().enumerate().filter(|(_, t)| t.name != left_out).collect();
    let plan: Vec<TensorPlan> = kept
        .iter()
        .map(|(_, t)| TensorPlan {
            name: t.name.clone(),
            element_type: t.element_type,
            shape: t.shape.clone(),
        })
        .collect();
    let mut writer = gguf::Writer::create(path, metadata, &plan, true).unwrap();
    for (at, tensor) in kept {
        let mut bytes = vec![0; tensor.rows() * tensor.row_bytes];
        view.read(at, 0..tensor.rows(), &mut bytes);
        writer.write(&bytes).unwrap();
    }
    writer.finish().unwrap();
}

/// The tensors of a checkpoint in one safetensors file, without `left_out`.
fn write_safetensors(checkpoint: &Checkpoint, left_out: &str, path: &Path) {
    let kept: Vec<_> = checkpoint.tensors().iter().filter(|t| t.name != left_out).collect();
    let plan: Vec<TensorPlan> = kept
        .iter()
        .map(|t| TensorPlan { name: t.name.clone(), element_type: t.element_type, shape: t.shape.clone() })
        .collect();
    let mut writer = safetensors::Writer::create(path, &Metadata::new(), &plan, true).unwrap();
    for tensor in kept {
        writer.write(checkpoint.data(tensor)).unwrap();
    }
    writer.finish().unwrap();
}

fn open(folder: &str) -> Arc<Checkpoint> {
    Arc::new(Checkpoint::open(&fixture("architectures").join(folder).join("model.safetensors")).unwrap())
}

fn load(checkpoint: Arc<Checkpoint>) -> Result<Model, Error> {
    Model::load(checkpoint, LoadOptions { threads: 2, ..LoadOptions::default() })
}

#[test]
fn every_architecture_agrees_with_transformers_in_both_worlds() {
    let scratch = tempfile::tempdir().unwrap();
    for folder in folders() {
        let path = fixture("architectures").join(&folder);
        let reference = path.join("logits.safetensors");
        let checkpoint = open(&folder);
        let model = load(checkpoint.clone()).unwrap_or_else(|e| panic!("{folder}: {e}"));
        agrees_with_transformers(&folder, &model, &reference, 5e-3, true);
        if model.config().architecture.no_gguf.is_some() {
            continue;
        }
        let file = scratch.path().join(format!("{folder}.gguf"));
        let view = View::gguf(&checkpoint, Packed::Refused).unwrap();
        write_gguf(&view, view.metadata(), "", &file);
        let model =
            load(Arc::new(Checkpoint::open(&file).unwrap())).unwrap_or_else(|e| panic!("{folder}: {e}"));
        agrees_with_transformers(&format!("{folder} as GGUF"), &model, &reference, 5e-3, true);
    }
}

/// StableLM's parallel blocks have one norm, its sequential ones two: one that lacks is no sign of the other kind.
#[test]
fn a_missing_norm_of_a_sequential_stablelm_block_is_named() {
    let scratch = tempfile::tempdir().unwrap();
    let checkpoint = open("stablelm");
    let source = fixture("architectures/stablelm");
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(source.join(name), scratch.path().join(name)).unwrap();
    }
    let refused = |file: &Path, tensor: &str| {
        let error = load(Arc::new(Checkpoint::open(file).unwrap())).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, Error::File(_)), "{text}");
        assert!(text.contains(tensor) && text.contains(&*file.to_string_lossy()), "{text}");
    };
    let file = scratch.path().join("model.safetensors");
    write_safetensors(&checkpoint, "", &file);
    load(Arc::new(Checkpoint::open(&file).unwrap())).unwrap();
    for layer in [0, 1] {
        let norm = format!("model.layers.{layer}.post_attention_layernorm.weight");
        write_safetensors(&checkpoint, &norm, &file);
        refused(&file, &norm);
    }

    let view = View::gguf(&checkpoint, Packed::Refused).unwrap();
    let file = scratch.path().join("stablelm.gguf");
    for layer in [0, 1] {
        let norm = format!("blk.{layer}.ffn_norm.weight");
        write_gguf(&view, view.metadata(), &norm, &file);
        refused(&file, &norm);
    }
    // llama.cpp's converter calls blocks parallel where config.json does not say; their norms say what they are.
    let mut metadata = view.metadata().clone();
    metadata.set("stablelm.use_parallel_residual", Value::Bool(true));
    write_gguf(&view, &metadata, "", &file);
    let model = load(Arc::new(Checkpoint::open(&file).unwrap())).unwrap();
    let reference = fixture("architectures/stablelm/logits.safetensors");
    agrees_with_transformers("stablelm called parallel", &model, &reference, 5e-3, true);
    write_gguf(&view, &metadata, "blk.1.ffn_norm.weight", &file);
    refused(&file, "blk.1.ffn_norm.weight");
}
