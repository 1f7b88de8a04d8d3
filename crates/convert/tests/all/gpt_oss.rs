//! gpt-oss as it was released, its experts in MXFP4: to GGUF as llama.cpp's converter has it, and to plain numbers.

use crate::common::*;
use quern_model::{Packed, View};
use quern_tensor_io::{Checkpoint, ElementType};

#[test]
fn mxfp4_becomes_ggufs_blocks_as_llama_cpps_converter_writes_them() {
    let scratch = tempfile::tempdir().unwrap();
    let source = fixture("packed/gpt_oss-mxfp4");
    let file = scratch.path().join("out.gguf");
    let written = convert_exactly(&source, &file, to(GGUF));
    let golden = json(&source.join("gguf.json"));
    let golden = golden.as_array().unwrap();
    assert_eq!(written.tensors().len(), golden.len());
    for entry in golden {
        let name = entry[0].as_str().unwrap();
        let tensor = written.tensor(name).unwrap_or_else(|| panic!("{name}"));
        let kind = tensor.info.element_type.name().to_uppercase();
        assert_eq!(kind, entry[1].as_str().unwrap(), "{name}");
        assert_eq!(hex(tensor.data), entry[3].as_str().unwrap(), "{name}");
    }
}

#[test]
fn and_back_to_the_files_it_was_released_in() {
    let scratch = tempfile::tempdir().unwrap();
    let source = fixture("packed/gpt_oss-mxfp4");
    let file = scratch.path().join("out.gguf");
    convert_exactly(&source, &file, to(GGUF));
    let back = scratch.path().join("back");
    let written = convert_exactly(&file, &back, to(SAFETENSORS));
    let original = Checkpoint::open(&source.join("model.safetensors")).unwrap();
    assert_same_tensors(&written, &original);
    let (found, wanted) = (json(&back.join("config.json")), json(&source.join("config.json")));
    assert_eq!(found["quantization_config"], wanted["quantization_config"]);
    for key in ["rope_scaling", "layer_types", "sliding_window", "torch_dtype", "num_local_experts"] {
        if let Some(wanted) = wanted.get(key) {
            assert_eq!(&found[key], wanted, "{key}");
        }
    }
}

#[test]
fn plain_numbers_are_in_the_tensors_that_transformers_loads() {
    let scratch = tempfile::tempdir().unwrap();
    let source = fixture("packed/gpt_oss-mxfp4");
    // Products of codes and powers of two are bf16 numbers.
    let out = scratch.path().join("bf16");
    let written = convert_exactly(&source, &out, cast(SAFETENSORS, ElementType::BF16));
    let plain = Checkpoint::open(&fixture("architectures/gpt_oss")).unwrap();
    let mut names: Vec<_> = written.tensors().iter().map(|t| (t.name.as_str(), &t.shape)).collect();
    let weights = plain.tensors().iter().filter(|t| !t.name.starts_with("prompt"));
    let mut expected: Vec<_> = weights.map(|t| (t.name.as_str(), &t.shape)).collect();
    names.sort();
    expected.sort();
    assert_eq!(names, expected);
    assert!(json(&out.join("config.json")).get("quantization_config").is_none());
    // By way of GGUF they are the same.
    let file = scratch.path().join("out.gguf");
    convert_exactly(&source, &file, to(GGUF));
    let back = scratch.path().join("back");
    let again = convert_exactly(&file, &back, cast(SAFETENSORS, ElementType::BF16));
    assert_eq!(again.tensors().len(), written.tensors().len());
    for tensor in written.tensors() {
        assert!(written.data(tensor) == again.tensor(&tensor.name).unwrap().data, "{}", tensor.name);
    }
    // Value by value: expert 1's gate, row 5, column 7, is column 10 of row 7 in its part of the stack.
    let view = View::stored(&Checkpoint::open(&source).unwrap()).map(|view| {
        let at =
            view.tensors().iter().position(|t| t.name.ends_with("layers.1.mlp.experts.1.gate_proj.weight"));
        let mut row = vec![0.0; 32];
        assert!(view.decode(at.unwrap(), 5..6, &mut row));
        row[7]
    });
    let stack = values(&written, "model.layers.1.mlp.experts.gate_up_proj");
    assert_eq!(stack[(32 + 7) * 64 + 10], view.unwrap());
    assert!(View::gguf(&written, Packed::Refused).is_ok());
}
