//! FP8, MXFP8, NVFP4, MXFP4 and 8-bit integers with scales: what others wrote decodes to what their own code reads, and
//! what is broken is refused.

use std::path::{Path, PathBuf};

use half::f16;
use proptest::prelude::*;
use quern_tensor_io::scheme::{ExactForm, PackedLayer, Packing, Scaling, Scheme};
use quern_tensor_io::{Checkpoint, ElementType, decode};
use serde_json::{Value, json};

use super::build::{Affine, Model, Opened, floats};

fn packed() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/packed")
}

fn decoded(checkpoint: &Checkpoint, layer: &PackedLayer) -> Vec<f32> {
    let mut values = vec![f32::NAN; layer.rows * layer.columns];
    layer.decode(checkpoint, 0..layer.rows, &mut values);
    values
}

/// The layer through its exact form in pieces of `step` rows: the same numbers, though zero may lose its sign.
#[track_caller]
fn assert_same_numbers(checkpoint: &Checkpoint, layer: &PackedLayer, form: &ExactForm, step: usize) {
    let row_bytes = form.element_type.row_bytes(layer.columns).unwrap();
    let wanted = decoded(checkpoint, layer);
    for (rows, wanted) in (0..layer.rows).step_by(step).zip(wanted.chunks(step * layer.columns)) {
        let rows = rows..layer.rows.min(rows + step);
        let mut blocks = vec![0xaa; rows.len() * row_bytes];
        layer.exact_blocks(checkpoint, form, rows, &mut blocks);
        let mut values = vec![f32::NAN; wanted.len()];
        assert!(decode::to_f32(form.element_type, &blocks, &mut values));
        assert_eq!(values, wanted, "{} in {}", layer.name, form.element_type);
    }
}

/// The layer in the form for kernels.
fn in_memory(checkpoint: &Checkpoint, layer: &PackedLayer) -> (ElementType, bool, Vec<f32>) {
    let form = layer.block_form(checkpoint);
    let mut blocks = vec![0xaa; form.element_type.row_bytes(layer.columns).unwrap() * layer.rows];
    layer.blocks(checkpoint, &form, 0..layer.rows, &mut blocks);
    let mut values = vec![f32::NAN; layer.rows * layer.columns];
    assert!(decode::to_f32(form.element_type, &blocks, &mut values));
    (form.element_type, form.exact, values)
}

/// What a layer is stored as, its exact type, and its type for kernels.
type Expected = (&'static str, Option<ElementType>, ElementType);

fn agrees(name: &str, scheme: Scheme, method: Option<&str>, layers: &[Expected]) -> Vec<String> {
    let checkpoint = Checkpoint::open(&packed().join(name)).unwrap();
    let packing = Packing::read(&checkpoint).unwrap().expect("it is quantized");
    assert_eq!((packing.scheme(), packing.method()), (&scheme, method), "{name}");
    let expected = Checkpoint::open(&packed().join(format!("{name}.expected.safetensors"))).unwrap();
    assert_eq!(packing.layers().len(), layers.len());
    for (number, (stored, exact, kernels)) in layers.iter().enumerate() {
        let name = format!("model.layers.{number}.up_proj.weight");
        let layer = packing.layer(&name).unwrap();
        assert_eq!(packing.stored_as(layer), *stored);
        let theirs = expected.tensor(&name).unwrap();
        assert_eq!([layer.rows, layer.columns], [theirs.info.rows(), theirs.info.columns()]);
        let values = decoded(&checkpoint, layer);
        let wanted: Vec<_> = theirs.data.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
        let different = values.iter().zip(&wanted).position(|(a, b)| a != b);
        assert_eq!(different.map(|i| (i, values[i], wanted[i])), None, "{name}");
        let mut some = vec![f32::NAN; 5 * layer.columns];
        layer.decode(&checkpoint, 7..12, &mut some);
        assert_eq!(some, values[7 * layer.columns..12 * layer.columns], "{name}");

        let form = layer.exact_form(&checkpoint);
        assert_eq!(form.as_ref().ok().map(|f| f.element_type), *exact, "{name}: {form:?}");
        if let Ok(form) = form {
            assert_same_numbers(&checkpoint, layer, &form, 13);
        }
        let (element_type, exact, near) = in_memory(&checkpoint, layer);
        assert_eq!((element_type, exact), (*kernels, *kernels != ElementType::F16), "{name}");
        for (a, b) in near.iter().zip(&values) {
            assert!((a - b).abs() <= b.abs() / 2048.0 + 1e-7, "{name}: {a} for {b} in {element_type}");
        }
    }
    packing.notes().to_vec()
}

#[test]
fn fp8_as_transformers_stores_it() {
    use ElementType::{BF16, F16};
    let scheme = Scheme::Fp8 { scales: Scaling::Block { rows: 128, columns: 128 } };
    let layers = [("fp8", None, F16), ("fp8", None, F16), ("fp8", Some(BF16), F16)];
    let notes = agrees("fp8-block", scheme, Some("fp8"), &layers);
    assert_eq!(notes.len(), 1);
    assert!(notes[0].contains("scales of activations (input_scale) of 1 of"), "{notes:?}");
}

#[test]
fn every_format_of_compressed_tensors_at_once() {
    use ElementType::{BF16, F16, MXFP4, Q8_0};
    let layers = [
        ("fp8", None, F16),
        ("fp8", None, F16),
        ("fp8", None, F16),
        ("fp8", Some(BF16), F16),
        ("nvfp4", None, F16),
        ("mxfp4", Some(MXFP4), MXFP4),
        ("compressed-tensors 8-bit", Some(Q8_0), Q8_0),
    ];
    let notes = agrees("float-tensors", Scheme::Mixed, Some("compressed-tensors"), &layers);
    let all = "layers are quantized in several ways: 4 of fp8, 1 of nvfp4, 1 of compressed-tensors 8-bit, 1 of mxfp4";
    assert_eq!(notes[0], all);
}

#[test]
fn nvfp4_as_modelopt_stores_it() {
    let notes =
        agrees("modelopt-nvfp4", Scheme::Nvfp4, Some("modelopt"), &[("nvfp4", None, ElementType::F16)]);
    assert!(notes[0].contains("scales of activations (input_scale) of 1 of"), "{notes:?}");
}

/// A layer `l` of FP8 with these codes and scales.
fn fp8(shape: [usize; 2], codes: Vec<u8>, grid: &[usize], scales: &[f32], end: &str) -> Model {
    Model::default().tensor("l.weight", ElementType::F8E4M3, &shape, codes).tensor(
        &format!("l.{end}"),
        ElementType::F32,
        grid,
        floats(scales, ElementType::F32),
    )
}

fn codes(count: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let next = |_| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        // No NaN.
        ((state >> 33) as u8 & 0x7e) | (state >> 50) as u8 & 0x80
    };
    (0..count).map(next).collect()
}

fn value(code: u8) -> f32 {
    let mut out = [0.0];
    assert!(decode::to_f32(ElementType::F8E4M3, &[code], &mut out));
    out[0]
}

fn exact(model: &Opened) -> Result<ElementType, String> {
    let [layer] = model.packing.layers() else { panic!() };
    let form = layer.exact_form(&model.checkpoint).map_err(|e| e.to_string())?;
    assert_same_numbers(&model.checkpoint, layer, &form, 2);
    Ok(form.element_type)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any grid, with partial blocks at the ends where the configuration states their size.
    #[test]
    fn every_grid(
        rows in 1usize..300,
        columns in 1usize..300,
        block in prop_oneof![Just([128usize, 128]), Just([1, 32]), Just([64, 16]), Just([1, 4096]), Just([4096, 4096])],
        labelled: bool,
        seed: u64,
    ) {
        let grid = [rows.div_ceil(block[0]), columns.div_ceil(block[1])];
        let whole = rows.is_multiple_of(grid[0]) && columns.is_multiple_of(grid[1]);
        let even = [rows / grid[0], columns / grid[1]];
        let data = codes(rows * columns, seed);
        let scales: Vec<f32> = (0..grid[0] * grid[1]).map(|i| 0.001 + i as f32 * 0.0003).collect();
        let mut model = fp8([rows, columns], data.clone(), &grid, &scales, "weight_scale_inv");
        if labelled {
            let config = json!({ "quant_method": "fp8", "weight_block_size": block });
            model = model.json("config.json", json!({ "quantization_config": config }));
        }
        // Without a label, what divides evenly does, and 128 otherwise.
        let size = match labelled {
            true => Some(block),
            false if whole => Some(even),
            false => (block == [128, 128]).then_some(block),
        };
        let size = size.filter(|_| grid != [1, 1]).or((grid == [1, 1]).then_some([rows, columns]));
        match (model.read(), size) {
            (Ok(model), Some([m, n])) => {
                let values = model.decoded();
                for (i, v) in values.iter().enumerate() {
                    let at = i / columns / m * grid[1] + i % columns / n;
                    prop_assert_eq!(*v, value(data[i]) * scales[at], "{}", i);
                }
            }
            (Err(e), None) => prop_assert!(e.contains("cannot be divided"), "{}", e),
            (Ok(_), None) => {} // another size fits by chance
            (Err(e), Some(_)) => prop_assert!(false, "{}", e),
        }
    }
}

#[test]
fn q8_0_and_bf16_only_where_they_hold_every_value() {
    let layer =
        |codes: Vec<u8>, scale: f32| fp8([2, 32], codes, &[1], &[scale], "weight_scale").read().unwrap();
    // 1 to 15 times a power of two: whole multiples within 127. Minus zero too.
    let few: Vec<u8> = (0..64).map(|i| [0x38, 0x3c, 0x42, 0xb8, 0x80][i % 5]).collect();
    assert_eq!(exact(&layer(few.clone(), 0.5)), Ok(ElementType::Q8_0));
    assert_eq!(exact(&layer(few.clone(), f16::from_f32(0.0123).to_f32())), Ok(ElementType::Q8_0));
    // Not an f16 number, and too many bits for bf16.
    let error = exact(&layer(few, 0.012_345_679)).unwrap_err();
    assert!(error.contains("l.weight") && error.contains("more bits than bf16, f16 and q8_0"), "{error}");
    // 448 beside the smallest: only floats hold both.
    let wide: Vec<u8> = (0..64).map(|i| [0x7e, 0x01, 0x38, 0xfe][i % 4]).collect();
    assert_eq!(exact(&layer(wide.clone(), 0.25)), Ok(ElementType::BF16));
    // Seven bits times four are the eleven of f16.
    assert_eq!(exact(&layer(wide.clone(), 127.0 / 128.0)), Ok(ElementType::F16));
    let error = exact(&layer(wide, f32::NAN)).unwrap_err();
    assert!(error.contains("not a finite number") && error.contains("damaged"), "{error}");
    // The other scales of the grid count too.
    let model = fp8([2, 32], vec![0x38; 64], &[2, 1], &[0.5, 0.100_000_01], "weight_scale").read().unwrap();
    assert!(exact(&model).unwrap_err().contains("output 1"));
}

#[test]
fn schemes_by_their_scales() {
    for (grid, scales) in [
        (&[][..], Scaling::Tensor),
        (&[1], Scaling::Tensor),
        (&[1, 1], Scaling::Tensor),
        (&[4], Scaling::Output),
        (&[4, 1], Scaling::Output),
        (&[2, 2], Scaling::Block { rows: 2, columns: 32 }),
    ] {
        let count = grid.iter().product();
        let model = fp8([4, 64], codes(256, 3), grid, &vec![0.5; count], "weight_scale").read().unwrap();
        assert_eq!(model.packing.scheme(), &Scheme::Fp8 { scales }, "{grid:?}");
        assert_eq!((model.packing.notes(), model.packing.method()), (&[] as &[String], Some("fp8")));
    }
    for method in ["fp8", "fbgemm_fp8", "modelopt", "compressed-tensors"] {
        let config = json!({ "quantization_config": { "quant_method": method } });
        let model = fp8([4, 64], codes(256, 3), &[4], &[0.5; 4], "weight_scale").json("config.json", config);
        assert_eq!(model.read().unwrap().packing.method(), Some(method));
    }
}

/// Packed integers and FP8 in one model, as compressed-tensors writes models with several groups.
#[test]
fn packed_integers_beside_fp8() {
    let layer = Affine::random(4, [32, 64, 32], Some(8), 1);
    let mut model = layer.compressed(ElementType::F16, false, false, None);
    let floats = fp8([4, 64], codes(256, 1), &[4, 1], &[0.5; 4], "weight_scale");
    model.tensors.extend(floats.tensors.into_iter().map(|mut t| {
        t.0 = t.0.replace("l.", "m.");
        t
    }));
    let mut config = layer.compressed_config(32, true);
    config["quantization_config"]["format"] = "mixed-precision".into();
    let weights = json!({ "num_bits": 8, "type": "float", "strategy": "channel", "symmetric": true });
    config["quantization_config"]["config_groups"]["group_1"] =
        json!({ "targets": ["re:m"], "weights": weights, "format": "float-quantized" });
    let opened = model.json("config.json", config).read().unwrap();
    let packing = &opened.packing;
    assert_eq!((packing.scheme(), packing.method()), (&Scheme::Mixed, Some("compressed-tensors")));
    let stored: Vec<_> = packing.layers().iter().map(|l| packing.stored_as(l)).collect();
    assert_eq!(stored, ["4-bit", "fp8"]);
    let note = "layers are quantized in several ways: 1 of 4 bits packed in words, 1 of fp8";
    assert_eq!(packing.notes(), [note]);
    assert_eq!(decoded(&opened.checkpoint, packing.layer("l.weight").unwrap()), layer.values());
}

fn sound() -> Model {
    let config = json!({ "quant_method": "fp8", "weight_block_size": [2, 32] });
    fp8([4, 64], codes(256, 1), &[2, 2], &[0.5; 4], "weight_scale_inv")
        .json("config.json", json!({ "quantization_config": config }))
}

fn nvfp4() -> Model {
    Model::default()
        .tensor("l.weight_packed", ElementType::U8, &[4, 16], codes(64, 1))
        .tensor("l.weight_scale", ElementType::F8E4M3, &[4, 2], vec![0x38; 8])
        .tensor("l.weight_global_scale", ElementType::F32, &[1], floats(&[512.0], ElementType::F32))
}

/// A sound model, a tensor of it, the type and shape it is given, and a part of the message.
type Reshaped = (fn() -> Model, &'static str, ElementType, &'static [usize], &'static str);

#[test]
fn broken_layers() {
    use ElementType::{BF16, F8E4M3, F8E5M2, F32, I32, U8};
    sound().read().unwrap();
    nvfp4().read().unwrap();
    let reshaped = |model: Model, name: &str, kind: ElementType, shape: &[usize]| {
        let mut model = model;
        let bytes = kind.row_bytes(shape.iter().product()).unwrap();
        *model.get(name) = (name.to_owned(), kind, shape.to_vec(), vec![0; bytes]);
        model
    };
    let cases: [Reshaped; 15] = [
        (sound, "l.weight", F8E4M3, &[256], "expected a matrix"),
        (sound, "l.weight", F8E4M3, &[0, 64], "expected a matrix"),
        (sound, "l.weight", F8E4M3, &[2, 4, 64], "neither one scale for each of 2 experts"),
        (sound, "l.weight", F8E5M2, &[5, 63], "cannot be divided"),
        (sound, "l.weight", BF16, &[4, 64], "scales a weight of bf16"),
        (sound, "l.weight_scale_inv", I32, &[2, 2], "expected f32, bf16, f16, u8"),
        (sound, "l.weight_scale_inv", F32, &[3], "neither one scale"),
        (sound, "l.weight_scale_inv", F32, &[5, 1], "neither one scale"),
        (sound, "l.weight_scale_inv", F32, &[2, 2, 1], "neither one scale"),
        (sound, "l.weight_scale_inv", F32, &[0], "neither one scale"),
        (sound, "l.weight_scale_inv", F32, &[3, 3], "cannot be divided"),
        (nvfp4, "l.weight_scale", F8E4M3, &[4, 1], "expected [4, 2]"),
        (nvfp4, "l.weight_scale", U8, &[4, 2], "expected [4, 1]"),
        (nvfp4, "l.weight_packed", U8, &[4, 9], "not whole groups of 16"),
        (nvfp4, "l.weight_global_scale", F32, &[2], "expected one number"),
    ];
    for (model, name, kind, shape, part) in cases {
        reshaped(model(), name, kind, shape).refused(&["l.weight", part]);
    }
    for factor in [0.0, f32::NAN, f32::INFINITY, 1e-40] {
        let mut model = nvfp4();
        model.get("l.weight_global_scale").3 = factor.to_le_bytes().to_vec();
        model.refused(&["l.weight_global_scale", "multiplied with or divided by"]);
    }
    for (model, missing, part) in [
        (sound as fn() -> Model, "l.weight", "lacks other tensors"),
        (sound, "l.weight_scale_inv", "without a scale"),
        (nvfp4, "l.weight_scale", "is missing"),
        (nvfp4, "l.weight_packed", "lacks other tensors"),
        (nvfp4, "l.weight_global_scale", "is missing"),
    ] {
        let mut model = model();
        model.remove(missing);
        model.refused(&["l.weight", part]);
    }
    let scales = || floats(&[0.5; 4], F32);
    sound().tensor("l.weight_scale", F32, &[4], scales()).refused(&["also has a weight_scale"]);
    nvfp4().tensor("l.weight_scale_2", F32, &[1], vec![0; 4]).refused(&["also has a weight_scale_2"]);
    nvfp4().tensor("l.weight", BF16, &[4, 32], vec![0; 256]).refused(&["l.weight", "twice"]);
    sound().tensor("l.weight_zero_point", F8E4M3, &[4], vec![1; 4]).refused(&["holds zero points"]);
    sound().tensor("l.weight_zero_point", F8E4M3, &[4], vec![0; 4]).read().unwrap();
    // A scale of one layer does not make the others quantized, but theirs must be there.
    sound().tensor("m.weight", F8E4M3, &[2, 2], vec![0; 4]).refused(&["m.weight", "without a scale"]);
    sound().tensor("m.weight", BF16, &[2, 2], vec![0; 8]).read().unwrap();
}

#[test]
fn labels_of_scaled_layers() {
    let with = |config: Value| {
        let mut model = sound();
        model.files.clear();
        model.json("config.json", json!({ "quantization_config": config }))
    };
    for size in [json!([128]), json!(128), json!([0, 128]), json!([128, "x"]), json!([128, -1])] {
        with(json!({ "quant_method": "fp8", "weight_block_size": size }))
            .refused(&["config.json", "block size must be two numbers"]);
    }
    with(json!({ "quant_method": "fp8", "weight_block_size": null })).read().unwrap();
    with(json!({ "quant_method": "gptq", "bits": 4 })).refused(&["l.weight", "fp8 layer", "says gptq"]);
    with(json!({ "quant_method": "bitsandbytes" })).refused(&["says bitsandbytes"]);
    // ModelOpt's own file counts where config.json says nothing.
    let own = json!({ "producer": { "name": "modelopt" }, "quantization": { "quant_algo": "FP8" } });
    let mut model = sound();
    model.files.clear();
    let opened = model.json("hf_quant_config.json", own).read().unwrap();
    assert_eq!(opened.packing.method(), Some("modelopt"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the scales' shape and type are, a layer is refused or decodes.
    #[test]
    fn any_shape_of_scales(
        shape in prop::collection::vec(0usize..6, 0..4),
        kind in prop::sample::select(vec![
            ElementType::F32, ElementType::BF16, ElementType::F16, ElementType::U8, ElementType::F8E4M3, ElementType::I64,
        ]),
        four_bit: bool,
    ) {
        let mut model = if four_bit { nvfp4() } else { sound() };
        let name = if four_bit { "l.weight_scale" } else { "l.weight_scale_inv" };
        let bytes = kind.row_bytes(shape.iter().product()).unwrap();
        *model.get(name) = (name.to_owned(), kind, shape, vec![0x3c; bytes]);
        if let Ok(opened) = model.read() {
            prop_assert!(opened.decoded().iter().all(|v| v.is_finite()));
            let _ = exact(&opened);
        }
    }
}

/// Two experts of 4 x 8 in one tensor, a scale for each 2 x 4.
fn stack() -> Model {
    Model::default()
        .tensor("e.gate_up_proj", ElementType::F8E4M3, &[2, 4, 8], codes(64, 5))
        .tensor("e.gate_up_proj_scale_inv", ElementType::F32, &[2, 2, 2], floats(&[0.5; 8], ElementType::F32))
        .tensor("e.gate_up_proj_activation_scale", ElementType::F32, &[2], vec![0; 8])
        .json(
            "config.json",
            json!({ "quantization_config": { "quant_method": "fp8", "weight_block_size": [2, 4] } }),
        )
}

#[test]
fn stacks_of_experts() {
    use ElementType::{F8E4M3, F32, I32};
    let opened = stack().read().unwrap();
    let layer = &opened.packing.layers()[0];
    assert_eq!(
        (layer.name.as_str(), layer.rows, layer.columns, layer.parts.len()),
        ("e.gate_up_proj", 8, 8, 3)
    );
    let expected: Vec<f32> = codes(64, 5).iter().map(|c| value(*c) * 0.5).collect();
    assert_eq!(opened.decoded(), expected);
    assert_eq!(layer.in_file(&opened.checkpoint).unwrap().block, [2, 4]);
    for (shape, block) in
        [(&[2usize][..], [4, 8]), (&[2, 1, 1], [4, 8]), (&[2, 4, 1], [1, 8]), (&[2, 1, 8], [4, 1])]
    {
        let count = shape.iter().product();
        let mut model = stack();
        model.get("e.gate_up_proj_scale_inv").2 = shape.to_vec();
        model.get("e.gate_up_proj_scale_inv").3 = floats(&vec![0.5; count], F32);
        let opened = model.read().unwrap();
        assert_eq!(opened.packing.layers()[0].in_file(&opened.checkpoint).unwrap().block, block, "{shape:?}");
        assert_eq!(opened.decoded(), expected);
    }
    for shape in [&[3usize][..], &[2, 3, 2], &[2, 5, 1], &[1, 2, 2], &[2, 0, 1], &[2, 2, 3], &[2, 2], &[]] {
        let count: usize = shape.iter().product();
        let mut model = stack();
        model.get("e.gate_up_proj_scale_inv").2 = shape.to_vec();
        model.get("e.gate_up_proj_scale_inv").3 = floats(&vec![0.5; count], F32);
        model.refused(&["e.gate_up_proj_scale_inv", "neither one scale for each of 2 experts"]);
    }
    let mut model = stack();
    model.get("e.gate_up_proj_scale_inv").1 = I32;
    model.refused(&["e.gate_up_proj_scale_inv", "expected f32, bf16, f16"]);
    stack().tensor("e.gate_up_proj_scale", F32, &[2], vec![0; 8]).refused(&["which one counts?"]);
    let mut model = stack();
    model.remove("e.gate_up_proj");
    model.refused(&["e.gate_up_proj_scale_inv", "lacks other tensors"]);
    let mut model = stack();
    model.remove("e.gate_up_proj_scale_inv");
    model.refused(&["e.gate_up_proj", "without a scale"]);
    let mut model = stack();
    *model.get("e.gate_up_proj") = ("e.gate_up_proj".into(), F8E4M3, vec![2, 0, 8], Vec::new());
    model.refused(&["e.gate_up_proj", "expected experts, outputs and inputs"]);
}
