//! MXFP4 with all experts in one tensor: every layer has the numbers that the format's definition gives, and what is
//! broken is refused.

use quern_tensor_io::scheme::{Packing, Scheme};
use quern_tensor_io::{Checkpoint, ElementType, decode};
use serde_json::json;

use super::build::Model;

const EXPERTS: usize = 2;
const ROWS: usize = 3;
const COLUMNS: usize = 64;

/// What the codes of E2M1 mean.
const CODES: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];

fn bytes(seed: usize, count: usize, of: impl Fn(usize) -> u8) -> Vec<u8> {
    (0..count).map(|i| of((i + seed).wrapping_mul(2_654_435_761) >> 7)).collect()
}

/// Blocks and scales of `height` rows for each expert.
fn stack(model: Model, name: &str, height: usize) -> Model {
    let groups = EXPERTS * height * COLUMNS / 32;
    let blocks = bytes(height, groups * 16, |i| i as u8);
    let scales = bytes(height + 1, groups, |i| 120 + (i % 9) as u8);
    model
        .tensor(&format!("{name}_blocks"), ElementType::U8, &[EXPERTS, height, COLUMNS / 32, 16], blocks)
        .tensor(&format!("{name}_scales"), ElementType::U8, &[EXPERTS, height, COLUMNS / 32], scales)
}

fn model() -> Model {
    let model =
        stack(stack(Model::default(), "m.experts.gate_up_proj", 2 * ROWS), "m.experts.down_proj", ROWS);
    model.json("config.json", json!({ "quantization_config": { "quant_method": "mxfp4" } }))
}

/// Value `(row, column)` of a stack of `height` rows an expert.
fn value(model: &Model, name: &str, row: usize, column: usize) -> f32 {
    let of = |end: &str| &model.tensors.iter().find(|t| t.0 == format!("{name}{end}")).unwrap().3;
    let at = row * COLUMNS + column;
    let byte = of("_blocks")[at / 2];
    let code = if column.is_multiple_of(2) { byte & 15 } else { byte >> 4 };
    let scale = 2f32.powi(i32::from(of("_scales")[at / 32]) - 127);
    let magnitude = CODES[usize::from(code & 7)] * scale;
    if code & 8 == 0 { magnitude } else { -magnitude }
}

#[test]
fn experts_are_layers_of_their_own() {
    let model = model();
    let opened = model.read().unwrap();
    let packing = &opened.packing;
    assert_eq!((packing.scheme(), packing.method()), (&Scheme::Mxfp4, Some("mxfp4")));
    assert!(packing.is_as_released());
    assert_eq!(packing.layers().len(), 3 * EXPERTS);
    let all: usize = opened.checkpoint.tensors().iter().map(|t| t.bytes).sum();
    assert_eq!(packing.layers().iter().map(|l| l.bytes).sum::<usize>(), all);
    for expert in 0..EXPERTS {
        for (matrix, stack, height, step, which) in [
            ("gate_proj", "m.experts.gate_up_proj", 2 * ROWS, 2, 0),
            ("up_proj", "m.experts.gate_up_proj", 2 * ROWS, 2, 1),
            ("down_proj", "m.experts.down_proj", ROWS, 1, 0),
        ] {
            let layer = packing.layer(&format!("m.experts.{expert}.{matrix}.weight")).unwrap();
            assert_eq!((layer.rows, layer.columns), (ROWS, COLUMNS));
            let row = |row: usize| expert * height + row * step + which;
            let wanted: Vec<f32> =
                (0..ROWS * COLUMNS).map(|i| value(&model, stack, row(i / COLUMNS), i % COLUMNS)).collect();
            let mut found = vec![f32::NAN; wanted.len()];
            layer.decode(&opened.checkpoint, 0..ROWS, &mut found);
            assert_eq!(found, wanted, "{matrix}");
            // The same in GGUF's blocks, row by row.
            let form = layer.exact_form(&opened.checkpoint).unwrap();
            assert_eq!(form.element_type, ElementType::MXFP4);
            for (row, wanted) in wanted.chunks_exact(COLUMNS).enumerate() {
                let mut blocks = vec![0xaa; COLUMNS / 32 * 17];
                layer.exact_blocks(&opened.checkpoint, &form, row..row + 1, &mut blocks);
                let mut values = vec![f32::NAN; COLUMNS];
                assert!(decode::to_f32(ElementType::MXFP4, &blocks, &mut values));
                assert_eq!(values, wanted, "{matrix}");
            }
        }
    }
}

#[test]
fn broken_stacks_are_refused() {
    for name in ["m.experts.gate_up_proj_blocks", "m.experts.down_proj_scales"] {
        let mut broken = model();
        broken.remove(name);
        broken.refused(&["incomplete"]);
    }
    let with = |name: &str, kind: ElementType, shape: &[usize]| {
        let mut broken = model();
        let bytes = kind.row_bytes(shape.iter().product()).unwrap();
        *broken.get(name) = (name.to_owned(), kind, shape.to_vec(), vec![0; bytes]);
        broken
    };
    use ElementType::{F32, U8};
    let blocks = "m.experts.gate_up_proj_blocks";
    with(blocks, U8, &[2, 6, 2, 8]).refused(&[blocks, "expected [experts, outputs, blocks, 16]"]);
    with(blocks, U8, &[2, 12, 16]).refused(&[blocks, "expected [experts, outputs, blocks, 16]"]);
    with(blocks, U8, &[2, 5, 2, 16]).refused(&["m.experts.gate_up_proj_scales", "expected [2, 5, 2]"]);
    with(blocks, F32, &[2, 6, 2, 16]).refused(&["incomplete"]);
    let scales = "m.experts.down_proj_scales";
    with(scales, U8, &[2, 3, 1]).refused(&[scales, "expected [2, 3, 2]"]);
    with(scales, F32, &[2, 3, 2]).refused(&[scales, "expected u8"]);
    let odd = stack(Model::default(), "m.experts.gate_up_proj", 5);
    odd.refused(&["no stack of matrices"]);
    let mut other = model();
    other.files.clear();
    other
        .json("config.json", json!({ "quantization_config": { "quant_method": "fp8" } }))
        .refused(&["mxfp4", "fp8"]);
}

#[test]
fn without_a_configuration_the_tensors_say_it() {
    let mut model = model();
    model.files.clear();
    let opened = model.read().unwrap();
    assert_eq!(opened.packing.method(), Some("mxfp4"));
    let folder = tempfile::tempdir().unwrap();
    Model::default().tensor("a_blocks", ElementType::U8, &[1], vec![0]).write(folder.path());
    let plain = Checkpoint::open(folder.path()).unwrap();
    assert!(Packing::read(&plain).unwrap().is_none(), "a name alone is no sign");
}
