//! Layers that GPT-QModel and bitsandbytes wrote, against the values their own code reads.

use std::path::{Path, PathBuf};

use quern_tensor_io::scheme::{PackedLayer, Packing, Scheme};
use quern_tensor_io::{Checkpoint, ElementType, decode};

fn packed() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/packed")
}

fn open(name: &str) -> (Checkpoint, Packing) {
    let checkpoint = Checkpoint::open(&packed().join(name)).unwrap();
    let packing = Packing::read(&checkpoint).unwrap().expect("it is quantized");
    (checkpoint, packing)
}

fn floats(data: &[u8]) -> Vec<f32> {
    data.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect()
}

/// The layer in blocks, decoded, columns put back in place.
fn through_blocks(checkpoint: &Checkpoint, layer: &PackedLayer, step: usize) -> Vec<f32> {
    let form = layer.block_form(checkpoint);
    let row_bytes = form.element_type.row_bytes(layer.columns).unwrap();
    let mut out = vec![0.0; layer.rows * layer.columns];
    for start in (0..layer.rows).step_by(step) {
        let rows = start..layer.rows.min(start + step);
        let mut blocks = vec![0xaa; rows.len() * row_bytes];
        layer.blocks(checkpoint, &form, rows.clone(), &mut blocks);
        let mut values = vec![f32::NAN; rows.len() * layer.columns];
        assert!(decode::to_f32(form.element_type, &blocks, &mut values));
        for (row, values) in rows.zip(values.chunks_exact(layer.columns)) {
            for (j, v) in values.iter().enumerate() {
                let column = form.permutation.as_ref().map_or(j, |p| p[j] as usize);
                out[row * layer.columns + column] = *v;
            }
        }
    }
    out
}

fn agrees(name: &str, scheme: &Scheme, block: ElementType, permuted: bool) {
    let (checkpoint, packing) = open(name);
    assert_eq!(packing.scheme(), scheme, "{name}");
    assert_eq!(packing.notes(), [] as [&str; 0], "{name}");
    assert_eq!(packing.layers().len(), 7);
    let firsts: Vec<_> = packing.layers().iter().map(|l| *l.parts.iter().min().unwrap()).collect();
    assert!(firsts.is_sorted(), "{name}: {firsts:?}");
    let expected = Checkpoint::open(&packed().join(format!("{name}.expected.safetensors"))).unwrap();
    for layer in packing.layers() {
        let whole = expected.tensor(&layer.name).unwrap();
        let step = layer.rows / whole.info.rows();
        assert_eq!(whole.info.columns(), layer.columns);
        let bytes: usize = layer.parts.iter().map(|&i| checkpoint.tensors()[i].bytes).sum();
        assert_eq!(bytes, layer.bytes);

        let mut values = vec![f32::NAN; layer.rows * layer.columns];
        layer.decode(&checkpoint, 0..layer.rows, &mut values);
        let ours: Vec<_> = values.chunks_exact(layer.columns).step_by(step).flatten().copied().collect();
        let theirs = floats(whole.data);
        let different = ours.iter().zip(&theirs).position(|(a, b)| a != b);
        assert_eq!(different.map(|i| (i, ours[i], theirs[i])), None, "{name} {}", layer.name);

        // Any rows give the same as all of them.
        let some = 3..layer.rows.min(75);
        let mut part = vec![f32::NAN; some.len() * layer.columns];
        layer.decode(&checkpoint, some.clone(), &mut part);
        assert_eq!(part, values[some.start * layer.columns..some.end * layer.columns]);

        let form = layer.block_form(&checkpoint);
        assert_eq!((form.element_type, form.exact), (block, true), "{name} {}", layer.name);
        assert_eq!(form.permutation.is_some(), permuted, "{name} {}", layer.name);
        let blocks = through_blocks(&checkpoint, layer, layer.rows);
        assert_eq!(through_blocks(&checkpoint, layer, 13), blocks);
        let largest = values.iter().fold(0f32, |m, v| m.max(v.abs()));
        for (i, (a, b)) in blocks.iter().zip(&values).enumerate() {
            // GPTQ's scales are f16: nothing is rounded. Elsewhere scale and minimum are, to 11 bits.
            let tolerance = if block == ElementType::Q4_0 { 0.0 } else { largest / 1024.0 };
            assert!((a - b).abs() <= tolerance, "{name} {} at {i}: {a} for {b}", layer.name);
        }
    }
}

#[test]
fn gptq_of_four_bits() {
    let (bits, group_size) = (4, Some(128));
    let scheme = Scheme::Gptq { bits, group_size, act_order: false, symmetric: true, v2: false };
    agrees("gptq-4bit-g128", &scheme, ElementType::Q4_0, false);
}

#[test]
fn gptq_of_three_bits() {
    let (bits, group_size) = (3, Some(64));
    let scheme = Scheme::Gptq { bits, group_size, act_order: false, symmetric: true, v2: false };
    agrees("gptq-3bit-g64", &scheme, ElementType::Q4_0, false);
}

#[test]
fn gptq_v2_asymmetric_in_the_order_of_activations() {
    let (bits, group_size) = (4, Some(32));
    let scheme = Scheme::Gptq { bits, group_size, act_order: true, symmetric: false, v2: true };
    agrees("gptq-4bit-g32-desc-act-v2", &scheme, ElementType::Q4_1, true);
}

#[test]
fn awq() {
    let scheme = Scheme::Awq { bits: 4, group_size: Some(64) };
    agrees("awq-4bit-g64", &scheme, ElementType::Q4_1, false);
}

#[test]
fn nf4_double_quantized() {
    let scheme = Scheme::Nf4 { block_size: 64, double_quantized: true };
    agrees("bnb-nf4", &scheme, ElementType::NF4, false);
}

#[test]
fn int8() {
    agrees("bnb-int8", &Scheme::Int8, ElementType::Q8_0, false);
}

#[test]
fn a_model_that_is_not_quantized_has_no_packing() {
    for name in ["../bookworm-4m", "../bookworm-4m-Q4_K_M.gguf"] {
        let checkpoint = Checkpoint::open(&packed().join(name)).unwrap();
        assert!(Packing::read(&checkpoint).unwrap().is_none());
    }
}
