//! Quantized checkpoints that break a rule: always an error that names file, tensor and rule, never a panic.

use proptest::collection::vec;
use proptest::prelude::*;
use quern_tensor_io::ElementType;
use quern_tensor_io::scheme::GptqFormat;
use serde_json::{Value, json};

use super::build::{Affine, FourBit, Model, numbers};

/// A GPTQ layer of 32 rows and 64 columns in two groups, with its configuration.
fn gptq() -> Model {
    let layer = Affine::random(4, [32, 64, 32], None, 1);
    layer.gptq(true, ElementType::F16, true).json("quantize_config.json", layer.config(true, 32))
}

fn awq() -> Model {
    let config = json!({ "quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm" });
    Affine::random(4, [32, 64, 32], None, 1).awq(ElementType::F16).json("quantize_config.json", config)
}

fn compressed() -> Model {
    let layer = Affine::random(3, [32, 64, 32], None, 1);
    let model = layer.compressed(ElementType::F16, false, true, Some(&layer.groups));
    model.json("config.json", layer.compressed_config(32, false))
}

fn nf4() -> Model {
    FourBit::random("nf4", [32, 64], 64, true, 1).model(true)
}

fn int8() -> Model {
    Model::default()
        .tensor("l.weight", ElementType::I8, &[2, 4], vec![1; 8])
        .tensor("l.SCB", ElementType::F32, &[2], vec![0; 8])
        .tensor("l.weight_format", ElementType::U8, &[], vec![0])
}

/// The same model with one tensor changed in place.
fn reshaped(mut model: Model, name: &str, kind: ElementType, shape: &[usize]) -> Model {
    let bytes = kind.row_bytes(shape.iter().product()).unwrap();
    let tensor = model.get(name);
    *tensor = (name.to_owned(), kind, shape.to_vec(), vec![0; bytes]);
    model
}

#[test]
fn the_sound_ones_are_read() {
    [gptq(), awq(), nf4(), int8()].iter().for_each(|m| drop(m.read().unwrap()));
}

#[test]
fn missing_parts() {
    for model in [gptq(), awq(), nf4(), int8()] {
        for i in 0..model.tensors.len() {
            let mut broken = model.clone();
            let name = broken.tensors[i].0.clone();
            if ["l.g_idx", "l.weight_format"].contains(&name.as_str()) {
                continue; // may be missing
            }
            broken.remove(&name);
            broken.refused(&["incomplete"]);
        }
    }
}

#[test]
fn wrong_shapes_and_types() {
    use ElementType::{F16, F32, I8, I32, I64, U8};
    /// A model, its tensor to be changed, type and shape, and the complaint.
    type Case = (fn() -> Model, &'static str, ElementType, &'static [usize], &'static str);
    let cases: [Case; 26] = [
        (gptq, "l.qweight", I32, &[8, 31], "l.scales"),
        (gptq, "l.qweight", I32, &[7, 32], "not 4-bit codes"),
        (gptq, "l.qweight", I32, &[256], "expected a matrix"),
        (gptq, "l.qweight", I32, &[0, 32], "expected a matrix"),
        (gptq, "l.qweight", I64, &[8, 32], "expected i32"),
        (gptq, "l.qzeros", I32, &[3, 4], "expected [2, 4]"),
        (gptq, "l.qzeros", I32, &[2, 5], "not 4-bit codes"),
        (gptq, "l.scales", I32, &[2, 32], "expected f16, bf16, f32"),
        (gptq, "l.scales", F16, &[2, 32, 1], "expected a matrix"),
        (gptq, "l.g_idx", I32, &[55], "not 4-bit codes"),
        (gptq, "l.g_idx", I32, &[64, 1], "one dimension"),
        (gptq, "l.g_idx", F32, &[64], "expected i32"),
        (awq, "l.qweight", I32, &[64, 5], "AWQ's gemm version"),
        (awq, "l.qweight", I32, &[65, 4], "has 2 groups for 65 columns"),
        (awq, "l.qzeros", I32, &[1, 4], "expected [2, 4]"),
        (nf4, "l.weight", U8, &[1023, 1], "take 1024"),
        (nf4, "l.weight", I8, &[1024, 1], "expected u8"),
        (nf4, "l.weight.absmax", U8, &[31], "expected [32]"),
        (nf4, "l.weight.absmax", F32, &[32], "expected u8"),
        (nf4, "l.weight.nested_absmax", F32, &[2], "expected [1]"),
        (nf4, "l.weight.nested_quant_map", F32, &[255], "expected [256]"),
        (nf4, "l.weight.quant_map", F32, &[16], "not the table of nf4"),
        (int8, "l.weight", I8, &[8], "expected a matrix"),
        (int8, "l.weight", U8, &[2, 4], "expected i8"),
        (int8, "l.SCB", F32, &[3], "expected [2]"),
        (int8, "l.weight_format", U8, &[2], "single number"),
    ];
    for (model, name, kind, shape, part) in cases {
        reshaped(model(), name, kind, shape).refused(&[part]);
    }
}

#[test]
fn group_numbers_out_of_range() {
    for bad in [-1, 2, i32::MAX, i32::MIN] {
        let mut model = gptq();
        let mut groups: Vec<i32> = (0..64).map(|k| k / 32).collect();
        groups[40] = bad;
        model.get("l.g_idx").3 = numbers(&groups);
        model.refused(&["l.g_idx", "column 40", &format!("group {bad}")]);
    }
}

#[test]
fn arrangements_of_old_gpus() {
    let mut model = int8();
    model.get("l.weight_format").3 = vec![2];
    model.refused(&["l.weight_format", "is 2", "save"]);
}

#[test]
fn tables_with_another_meaning() {
    for value in [0.5f32, f32::NAN] {
        let mut model = nf4();
        model.get("l.weight.quant_map").3[8..12].copy_from_slice(&value.to_le_bytes());
        model.refused(&["not the table of nf4"]);
    }
}

#[test]
fn broken_states() {
    let state = FourBit::random("nf4", [32, 64], 64, true, 1).state();
    let with = |key: &str, value: Value| {
        let mut state = state.clone();
        state[key] = value;
        state.to_string()
    };
    let cases = [
        ("{".to_owned(), "not a JSON object"),
        ("[]".to_owned(), "not a JSON object"),
        ("\u{0}".to_owned(), "not a JSON object"),
        ("{}".to_owned(), "quant_type must be"),
        (with("quant_type", json!("int4")), "quant_type must be"),
        (with("quant_type", json!("fp4")), "its name says"),
        (with("blocksize", json!(0)), "power of two"),
        (with("blocksize", json!(48)), "power of two"),
        (with("blocksize", json!(16)), "power of two"),
        (with("blocksize", json!(1u64 << 40)), "power of two"),
        (with("blocksize", json!(-64)), "power of two"),
        (with("blocksize", json!("64")), "power of two"),
        (with("blocksize", json!(128)), "expected [16]"),
        (with("nested_blocksize", json!(0)), "nested_blocksize"),
        (with("nested_dtype", json!("bfloat16")), "nested_dtype"),
        (with("nested_offset", json!(1e300)), "nested_offset"),
        (with("nested_offset", json!(null)), "nested_offset"),
        (with("dtype", json!("float8")), "dtype must be"),
        (with("shape", json!([32])), "[outputs, inputs]"),
        (with("shape", json!([32, 0])), "[outputs, inputs]"),
        (with("shape", json!([32, -64])), "[outputs, inputs]"),
        (with("shape", json!([64, 64])), "take 2048"),
        (with("shape", json!([1u64 << 62, 1u64 << 62])), "too large"),
        (with("surprise", json!(1)), "surprise"),
    ];
    for (text, part) in cases {
        let mut model = nf4();
        let tensor = model.get("l.weight.quant_state.bitsandbytes__nf4");
        (tensor.2, tensor.3) = (vec![text.len()], text.into_bytes());
        model.refused(&["tensor \"l.weight", part]);
    }
    let mut model = nf4();
    model.get("l.weight.quant_state.bitsandbytes__nf4").0 = "l.weight.quant_state.bitsandbytes__af4".into();
    model.refused(&["bitsandbytes__af4", "nf4 and fp4"]);
    let twice = nf4().tensor("l.weight_quant_state", ElementType::U8, &[2], b"{}".to_vec());
    twice.refused(&["more than one quant_state"]);
}

#[test]
fn broken_configurations() {
    let config = |value: Value| {
        let mut model = gptq();
        model.files.clear();
        model.json("quantize_config.json", value)
    };
    let cases = [
        (json!({ "bits": 4, "group_size": 0 }), "group size of 0"),
        (json!({ "bits": 4, "group_size": -2 }), "group size of -2"),
        (json!({ "bits": 4, "group_size": 64 }), "there would be 1"),
        (json!({ "bits": 4, "group_size": "32" }), "must be an integer"),
        (json!({ "bits": "4", "group_size": 32 }), "must be an integer"),
        (json!({ "bits": 8, "group_size": 32 }), "not 8-bit codes"),
        (json!({ "bits": 1u64 << 40, "group_size": 32 }), "1099511627776-bit"),
        (json!({ "bits": 4, "sym": "yes" }), "true or false"),
        (json!({ "bits": 4, "quant_method": 7 }), "must be a text"),
        (json!({ "bits": 4, "checkpoint_format": "gptq_v3" }), "gptq_v3"),
        (json!({ "quant_method": "awq", "bits": 4, "group_size": 32 }), "AWQ's gemm version"),
        (json!({ "quant_method": "bitsandbytes" }), "says bitsandbytes"),
        (json!({ "hello": 1 }), "names no quant_method"),
        (json!([1]), "a JSON object is expected"),
    ];
    for (value, part) in cases {
        config(value).refused(&[part]);
    }
    let mut model = gptq();
    model.files.clear();
    model
        .clone()
        .file("quantize_config.json", "{\"bits\":")
        .refused(&["quantize_config.json", "not valid JSON"]);
    model.clone().json("config.json", json!({ "quantization_config": 3 })).refused(&["must be an object"]);
    let other = json!({ "quantization_config": { "quant_method": "gptq", "bits": 3 } });
    let two =
        model.json("quantize_config.json", json!({ "bits": 4, "group_size": 32 })).json("config.json", other);
    two.refused(&["bits is 3 here, but 4 in", "quantize_config.json"]);
}

#[test]
fn a_weight_must_not_be_there_twice() {
    let twice = gptq().tensor("l.weight", ElementType::F16, &[32, 64], vec![0; 4096]);
    twice.refused(&["l.weight", "twice"]);
    let mut model = gptq();
    for (name, kind, shape, data) in awq().tensors {
        model = model.tensor(&name.replace("l.", "m."), kind, &shape, data);
    }
    model.refused(&["tensor \"m."]);
}

/// What is done to a model at random.
#[derive(Clone, Debug)]
enum Damage {
    Reshape(usize, Vec<usize>),
    Retype(usize, usize),
    Set(usize, usize, u8),
    Drop(usize),
    Rename(usize, usize),
}

fn damage() -> impl Strategy<Value = Damage> {
    let any_shape = vec(prop_oneof![0usize..5, Just(16), Just(31), Just(32), Just(64), Just(1024)], 0..4);
    prop_oneof![
        (any::<usize>(), any_shape).prop_map(|(i, s)| Damage::Reshape(i, s)),
        (any::<usize>(), any::<usize>()).prop_map(|(i, t)| Damage::Retype(i, t)),
        (any::<usize>(), any::<usize>(), any::<u8>()).prop_map(|(i, at, v)| Damage::Set(i, at, v)),
        any::<usize>().prop_map(Damage::Drop),
        (any::<usize>(), any::<usize>()).prop_map(|(i, j)| Damage::Rename(i, j)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is accepted can be decoded and put in blocks.
    #[test]
    fn damaged_models_never_panic(which in 0usize..5, configured: bool, damages in vec(damage(), 1..4)) {
        use ElementType::*;
        let mut model = [gptq, awq, nf4, int8, compressed][which]();
        if !configured {
            model.files.clear();
        }
        for damage in damages {
            let n = model.tensors.len().max(1);
            match damage {
                Damage::Reshape(i, shape) => {
                    let (_, kind, old, data) = &mut model.tensors[i % n];
                    data.resize(kind.row_bytes(shape.iter().product()).unwrap(), 1);
                    *old = shape;
                }
                Damage::Retype(i, t) => {
                    let (_, kind, shape, data) = &mut model.tensors[i % n];
                    *kind = [I32, I64, U8, I8, F16, BF16, F32, F64][t % 8];
                    data.resize(kind.row_bytes(shape.iter().product()).unwrap(), 1);
                }
                Damage::Set(i, at, v) => {
                    let data = &mut model.tensors[i % n].3;
                    let length = data.len().max(1);
                    data.iter_mut().skip(at % length).take(1).for_each(|b| *b = v);
                }
                Damage::Drop(i) if n > 1 => drop(model.tensors.remove(i % n)),
                Damage::Drop(_) => {}
                Damage::Rename(i, j) => {
                    let ends = [
                        ".qweight", ".scales", ".weight", ".SCB", ".weight_quant_state", ".weight.absmax",
                        ".weight_packed", ".weight_g_idx",
                    ];
                    let name = format!("l{}", ends[j % ends.len()]);
                    if model.tensors.iter().all(|t| t.0 != name) {
                        model.tensors[i % n].0 = name;
                    }
                }
            }
        }
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        model.write(folder.path());
        let checkpoint = quern_tensor_io::Checkpoint::open(folder.path()).unwrap();
        match quern_tensor_io::scheme::Packing::read(&checkpoint) {
            Err(e) => prop_assert!(e.to_string().starts_with(folder.path().to_str().unwrap())),
            Ok(None) => {}
            Ok(Some(packing)) => for layer in packing.layers() {
                let mut out = vec![0.0; layer.rows * layer.columns];
                layer.decode(&checkpoint, 0..layer.rows, &mut out);
                let form = layer.block_form(&checkpoint);
                let mut out = vec![0; form.element_type.row_bytes(layer.columns).unwrap() * layer.rows];
                layer.blocks(&checkpoint, &form, 0..layer.rows, &mut out);
                if let Ok(form) = layer.exact_form(&checkpoint) {
                    let mut out = vec![0; form.element_type.row_bytes(layer.columns).unwrap() * layer.rows];
                    layer.exact_blocks(&checkpoint, &form, 0..layer.rows, &mut out);
                }
                for format in [GptqFormat::V1, GptqFormat::V2] {
                    let Ok(tensors) = layer.to_gptq(&checkpoint, format) else { continue };
                    let [qweight, qzeros, scales, g_idx] = tensors.plan().map(|t| t.bytes().unwrap());
                    let mut out = vec![0; qweight];
                    tensors.qweight(0..layer.columns, &mut out);
                    prop_assert_eq!(tensors.qzeros().len(), qzeros);
                    prop_assert_eq!((tensors.scales().len(), tensors.g_idx().len()), (scales, g_idx));
                }
            }
        }
    }
}
