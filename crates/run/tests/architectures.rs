//! Every architecture against transformers, by the tiny models of `fixtures/architectures`: read as Hugging Face
//! has them, and as GGUF files made of them.

#![allow(missing_docs)]

mod common;

use std::path::Path;
use std::sync::Arc;

use common::{agrees_with_transformers, fixture};
use quern_model::{Packed, View};
use quern_run::{LoadOptions, Model};
use quern_tensor_io::gguf::Writer;
use quern_tensor_io::{Checkpoint, TensorPlan};

fn folders() -> Vec<String> {
    let entries = std::fs::read_dir(fixture("architectures")).unwrap().map(|e| e.unwrap());
    let mut names: Vec<String> =
        entries.filter(|e| e.path().is_dir()).map(|e| e.file_name().into_string().unwrap()).collect();
    names.sort();
    assert!(names.len() >= 16);
    names
}

/// The model as a GGUF file, matrices as they are.
fn write_gguf(view: &View, path: &Path) {
    let plan = |t: &quern_model::ViewTensor| TensorPlan {
        name: t.name.clone(),
        element_type: t.element_type,
        shape: t.shape.clone(),
    };
    let plan: Vec<TensorPlan> = view.tensors().iter().map(plan).collect();
    let mut writer = Writer::create(path, view.metadata(), &plan, false).unwrap();
    for (at, tensor) in view.tensors().iter().enumerate() {
        let mut bytes = vec![0; tensor.rows() * tensor.row_bytes];
        view.read(at, 0..tensor.rows(), &mut bytes);
        writer.write(&bytes).unwrap();
    }
    writer.finish().unwrap();
}

#[test]
fn every_architecture_agrees_with_transformers_in_both_worlds() {
    let scratch = tempfile::tempdir().unwrap();
    for folder in folders() {
        let path = fixture("architectures").join(&folder);
        let reference = path.join("logits.safetensors");
        let checkpoint = Arc::new(Checkpoint::open(&path.join("model.safetensors")).unwrap());
        let load = |checkpoint| Model::load(checkpoint, LoadOptions { threads: 2 });
        let model = load(checkpoint.clone()).unwrap_or_else(|e| panic!("{folder}: {e}"));
        agrees_with_transformers(&folder, &model, &reference, 5e-3, true);
        if model.config().architecture.no_gguf.is_some() {
            continue;
        }
        let file = scratch.path().join(format!("{folder}.gguf"));
        write_gguf(&View::gguf(&checkpoint, Packed::Refused).unwrap(), &file);
        let model =
            load(Arc::new(Checkpoint::open(&file).unwrap())).unwrap_or_else(|e| panic!("{folder}: {e}"));
        agrees_with_transformers(&format!("{folder} as GGUF"), &model, &reference, 5e-3, true);
    }
}
