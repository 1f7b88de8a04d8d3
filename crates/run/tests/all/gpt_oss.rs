//! gpt-oss as it was released: experts in MXFP4, multiplied as GGUF's blocks of the same codes.

use std::path::Path;

use crate::common::{agrees_with_transformers, fixture, golden, load, relative_errors};
use quern_model::{Packed, View};
use quern_run::{KvType, Model, SessionOptions, Wanted};
use quern_tensor_io::{Checkpoint, ElementType, Metadata, TensorPlan, safetensors};

/// All tensors of the view in one safetensors file.
fn write(view: &View, path: &Path) {
    let plan: Vec<TensorPlan> = view
        .tensors()
        .iter()
        .map(|t| TensorPlan { name: t.name.clone(), element_type: t.element_type, shape: t.shape.clone() })
        .collect();
    let mut writer = safetensors::Writer::create(path, &Metadata::new(), &plan, true).unwrap();
    for (at, tensor) in view.tensors().iter().enumerate() {
        let mut bytes = vec![0; tensor.rows() * tensor.row_bytes];
        view.read(at, 0..tensor.rows(), &mut bytes);
        writer.write(&bytes).unwrap();
    }
    writer.finish().unwrap();
}

fn logits(model: &Model, tokens: &[u32]) -> Vec<f32> {
    let options = SessionOptions { context: 64, batch: 64, kv: KvType::F32 };
    model.session(options).unwrap().forward(tokens, Wanted::All).unwrap().to_vec()
}

/// Exact numbers agree with transformers in float32; the kernels of blocks round inputs to 8 bits.
#[test]
fn the_released_form_agrees_with_transformers() {
    let source = fixture("packed/gpt_oss-mxfp4");
    let reference = source.join("logits.safetensors");
    let checkpoint = Checkpoint::open(&source.join("model.safetensors")).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let view = View::hugging_face(&checkpoint, Packed::Decoded).unwrap();
    write(&view, &scratch.path().join("model.safetensors"));
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(source.join(name), scratch.path().join(name)).unwrap();
    }
    let config = std::fs::read_to_string(source.join("config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
    config.as_object_mut().unwrap().remove("quantization_config");
    std::fs::write(scratch.path().join("config.json"), config.to_string()).unwrap();
    let plain = load(scratch.path(), 2);
    agrees_with_transformers("gpt_oss-mxfp4 decoded", &plain, &reference, 5e-3, true);

    let packed = load(&source.join("model.safetensors"), 2);
    let types: Vec<ElementType> = (0..packed.config().layers)
        .flat_map(|layer| packed.linears(layer))
        .filter(|linear| linear.expert.is_some())
        .map(|linear| linear.matrix().unwrap().element_type())
        .collect();
    assert!(types.len() == 18 && types.iter().all(|&t| t == ElementType::MXFP4), "{types:?}");
    for prompt in golden(&reference) {
        let found = logits(&packed, &prompt.input_ids);
        let found = &found[found.len() - prompt.logits.len()..];
        let (largest, row) = relative_errors(found, &prompt.logits, packed.vocabulary());
        assert!(largest < 0.03 && row < 0.03, "{largest:e} {row:e}");
    }
    assert_eq!(packed.beyond_gpus(), None);
}
