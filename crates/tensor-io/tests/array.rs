//! Tensors as arrays: plain ones in every container, packed weights of every scheme, and what is refused.
#![cfg(feature = "ndarray")]

use std::path::{Path, PathBuf};

use quern_tensor_io::safetensors::Writer;
use quern_tensor_io::{Checkpoint, ElementType, Metadata, TensorPlan, decode};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

fn open(name: &str) -> Checkpoint {
    Checkpoint::open(&fixture(name)).unwrap()
}

#[test]
fn plain_tensors_have_their_shape_and_values_in_every_container() {
    for (name, container) in
        [("bookworm-4m", "Safetensors"), ("bookworm-4m-Q4_K_M.gguf", "Gguf"), ("pytorch/zip.bin", "PyTorch")]
    {
        let checkpoint = open(name);
        assert_eq!(format!("{:?}", checkpoint.container()), container);
        let mut decoded = 0;
        for info in checkpoint.tensors().iter().filter(|t| decode::can_decode(t.element_type)) {
            let mut expected = vec![f32::NAN; info.elements()];
            assert!(decode::to_f32(info.element_type, checkpoint.data(info), &mut expected));
            let array = checkpoint.array(&info.name).unwrap();
            assert_eq!(array.shape(), info.shape, "{name}: {}", info.name);
            let same = array.iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same && array.len() == expected.len(), "{name}: {}", info.name);
            decoded += 1;
        }
        assert!(decoded > 1, "{name}");
    }
}

#[test]
fn packed_weights_go_by_the_name_they_had() {
    let weight = "model.layers.0.self_attn.q_proj.weight";
    for name in ["gptq-4bit-g128", "gptq-4bit-g32-desc-act-v2", "awq-4bit-g64", "bnb-nf4", "bnb-int8"] {
        let array = open(&format!("packed/{name}")).array(weight).unwrap();
        let expected = open(&format!("packed/{name}.expected.safetensors")).array(weight).unwrap();
        // The fixtures keep every n-th row of what the peers' own code reads.
        let step = array.shape()[0] / expected.shape()[0];
        let (rows, expected_rows) = (array.outer_iter().step_by(step), expected.outer_iter());
        assert!(rows.zip(expected_rows).all(|(a, b)| a == b), "{name}");
        assert_eq!(array.shape()[1], expected.shape()[1], "{name}");
    }
}

/// A safetensors file with these tensors, all zeros.
fn write(path: &Path, tensors: &[(&str, ElementType, &[usize])]) {
    let plan = tensors.iter().map(|&(name, element_type, shape)| TensorPlan {
        name: name.to_owned(),
        element_type,
        shape: shape.to_vec(),
    });
    let plan: Vec<_> = plan.collect();
    let mut writer = Writer::create(path, &Metadata::default(), &plan, false).unwrap();
    for tensor in &plan {
        writer.write(&vec![0; tensor.bytes().unwrap()]).unwrap();
    }
    writer.finish().unwrap();
}

#[test]
fn what_has_no_values_is_refused_with_file_and_tensor() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("model.safetensors");
    write(
        &file,
        &[
            ("scalar", ElementType::F32, &[]),
            ("empty", ElementType::F16, &[0, 4]),
            ("fp8.weight", ElementType::F8E4M3, &[32, 32]),
            ("fp8.weight_scale_inv", ElementType::F32, &[1, 1]),
        ],
    );
    let checkpoint = Checkpoint::open(&file).unwrap();
    assert_eq!(checkpoint.array("scalar").unwrap().shape(), [] as [usize; 0]);
    assert_eq!(checkpoint.array("empty").unwrap().shape(), [0, 4]);
    assert_eq!(checkpoint.array("fp8.weight").unwrap().shape(), [32, 32]);
    let headers = Checkpoint::open(&file).unwrap().headers_only();
    assert!(headers.array("scalar").unwrap_err().to_string().contains("only headers"));

    let ids = dir.path().join("ids.safetensors");
    write(&ids, &[("ids", ElementType::I64, &[2, 3])]);
    let checkpoint = Checkpoint::open(&ids).unwrap();
    for (name, why) in [("ids", "type i64"), ("missing", "no tensor of this name")] {
        let error = checkpoint.array(name).unwrap_err().to_string();
        assert!(error.contains("ids.safetensors") || name == "missing", "{error}");
        assert!(error.contains(&format!("{name:?}")) && error.contains(why), "{error}");
    }
}
