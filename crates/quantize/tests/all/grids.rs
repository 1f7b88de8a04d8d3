//! Models whose weights are on a 4-bit grid, made of the demo model: encoded without error, or left as they were.

use std::path::Path;

use crate::common::{altered, demo, options, sha256};
use half::bf16;
use quern_model::{Packed, View};
use quern_quantize::encode::Grid;
use quern_quantize::job::{self, GridReport, Grids, Options, QuantizePlan};
use quern_quantize::load_in::{LoadScheme, Loader};
use quern_quantize::recipe::{FileType, Override};
use quern_run::LoadIn;
use quern_tensor_io::{Checkpoint, ElementType as E, NoProgress, decode};

/// The values of a block as training for `q4_0` leaves them in bf16: rounded to 15 levels of a bf16 scale.
fn on_grid(values: &mut [f32]) {
    for block in values.chunks_exact_mut(32) {
        let most = block.iter().fold(0.0f32, |most, v| most.max(v.abs()));
        let d = bf16::from_f32(most / 7.0).to_f32();
        for v in block {
            *v = bf16::from_f32((*v / d).round().clamp(-7.0, 7.0) * d).to_f32();
        }
    }
}

/// The demo model with every matrix on a grid, in bf16.
fn trained(folder: &Path) -> Checkpoint {
    altered(folder, |_, values| {
        if values.len() > 4096 {
            on_grid(values);
        }
        E::BF16
    })
}

/// Plans with the grids that are found, and runs.
fn quantized(source: &Checkpoint, options: Options, output: &Path) -> (Checkpoint, GridReport) {
    let view = View::gguf(source, Packed::Refused).unwrap();
    let grids = Grids::find(&view, 2, &NoProgress).unwrap();
    let plan: QuantizePlan<'_> = job::plan(&view, Options { grids, ..options }).unwrap();
    job::run(&plan, output, &NoProgress).unwrap();
    (Checkpoint::open(output).unwrap(), plan.grids())
}

fn values(checkpoint: &Checkpoint, name: &str) -> Vec<f32> {
    let tensor = checkpoint.tensor(name).unwrap();
    let mut values = vec![0.0; tensor.info.elements()];
    assert!(decode::to_f32(tensor.info.element_type, tensor.data, &mut values));
    values
}

/// Every value of every quantized tensor, rounded to bf16, is the source's.
fn assert_same_values(source: &Checkpoint, result: &Checkpoint) {
    let view = View::gguf(source, Packed::Refused).unwrap();
    for (i, tensor) in view.tensors().iter().enumerate() {
        let mut expected = vec![0.0; tensor.rows() * tensor.columns()];
        assert!(view.decode(i, 0..tensor.rows(), &mut expected));
        let found = values(result, &tensor.name);
        let differing =
            found.iter().zip(&expected).filter(|&(&a, &b)| bf16::from_f32(a).to_f32() != b).count();
        assert_eq!(differing, 0, "{}", tensor.name);
    }
}

#[test]
fn a_model_trained_for_q4_0_is_encoded_without_error() {
    let folder = tempfile::tempdir().unwrap();
    let source = trained(folder.path());
    let out = folder.path().join("out.gguf");
    for file_type in [FileType::Q4_0, FileType::Q4_1, FileType::Q5_0, FileType::Q5_1, FileType::Q8_0] {
        let (result, report) =
            quantized(&source, Options { force: true, pure: true, ..options(file_type) }, &out);
        let expected = GridReport {
            grid: Some(Grid::Q4_0),
            tensors: 29,
            matrices: 29,
            exact: 29,
            ..GridReport::default()
        };
        assert_eq!(report, expected, "{file_type}");
        assert_same_values(&source, &result);
    }
}

#[test]
fn the_mix_of_q4_0_keeps_embeddings_on_the_grid() {
    let folder = tempfile::tempdir().unwrap();
    let source = trained(folder.path());
    let out = folder.path().join("out.gguf");
    let (result, _) = quantized(&source, options(FileType::Q4_0), &out);
    assert_eq!(result.tensor("token_embd.weight").unwrap().info.element_type, E::Q4_0);
    assert_same_values(&source, &result);
    // What the user names stays.
    let named = [
        Options { token_embedding_type: Some(E::Q6K), ..options(FileType::Q4_0) },
        Options { output_tensor_type: Some(E::Q6K), ..options(FileType::Q4_0) },
        Options { overrides: vec![Override::parse("token_embd=q6_k").unwrap()], ..options(FileType::Q4_0) },
    ];
    for options in named {
        let (result, report) = quantized(&source, Options { force: true, ..options }, &out);
        assert_eq!(result.tensor("token_embd.weight").unwrap().info.element_type, E::Q6K);
        assert_eq!((report.exact, report.lost), (28, 1));
    }
}

#[test]
fn other_types_lose_the_grid_and_keep_llama_quantize_s_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let source = trained(folder.path());
    let (with, without) = (folder.path().join("with.gguf"), folder.path().join("without.gguf"));
    let (result, report) = quantized(&source, options(FileType::Q4KM), &with);
    assert_eq!((report.tensors, report.lost, report.exact), (29, 29, 0));
    crate::common::quantize(&source, options(FileType::Q4KM), &without).unwrap();
    let plain = Checkpoint::open(&without).unwrap();
    for info in result.tensors() {
        assert_eq!(
            sha256(result.data(info)),
            sha256(plain.tensor(&info.name).unwrap().data),
            "{}",
            info.name
        );
    }
}

#[test]
fn ordinary_weights_are_left_alone() {
    let view_of = demo();
    let view = View::gguf(&view_of, Packed::Refused).unwrap();
    assert!(Grids::seeming(&view).is_empty());
    assert!(Grids::find(&view, 2, &NoProgress).unwrap().is_empty());
}

/// A few blocks beside the grid are encoded as usual; more than one of a hundred, and the tensor is.
#[test]
fn blocks_off_the_grid_are_counted() {
    const NAME: &str = "model.layers.0.mlp.up_proj.weight";
    for (every, is_grid) in [(200, true), (50, false)] {
        let folder = tempfile::tempdir().unwrap();
        let mut off = 0;
        let source = altered(folder.path(), |name, values| {
            if name == NAME {
                let usual = values.clone();
                on_grid(values);
                let blocks = values.chunks_exact_mut(32).zip(usual.chunks_exact(32));
                for (block, usual) in blocks.skip(37).step_by(every) {
                    block.copy_from_slice(usual);
                    off += 1;
                }
            }
            E::BF16
        });
        let out = folder.path().join("out.gguf");
        let (result, report) = quantized(&source, options(FileType::Q4_0), &out);
        assert_eq!((report.tensors, report.nearly), (usize::from(is_grid), usize::from(is_grid)), "{every}");
        let plain = folder.path().join("plain.gguf");
        crate::common::quantize(&source, options(FileType::Q4_0), &plain).unwrap();
        let plain = Checkpoint::open(&plain).unwrap();
        let gguf = "blk.0.ffn_up.weight";
        let (ours, usual) = (result.tensor(gguf).unwrap().data, plain.tensor(gguf).unwrap().data);
        let expected = values(&source, NAME);
        let blocks = ours.chunks_exact(18).zip(usual.chunks_exact(18)).zip(expected.chunks_exact(32));
        let mut differing = 0;
        for ((ours, usual), expected) in blocks {
            let mut decoded = [0.0; 32];
            assert!(decode::to_f32(E::Q4_0, ours, &mut decoded));
            let exact = decoded.iter().zip(expected).all(|(&a, &b)| bf16::from_f32(a).to_f32() == b);
            assert!(exact || ours == usual, "a block that is neither exact nor the usual one");
            differing += usize::from(!exact);
        }
        match is_grid {
            true => assert_eq!(differing, off),
            false => assert!(ours == usual, "bytes must be llama-quantize's"),
        }
    }
}

/// Scales that are no f16 numbers, in f32: the codes are kept.
#[test]
fn a_grid_with_other_scales_keeps_its_codes() {
    let folder = tempfile::tempdir().unwrap();
    let source = altered(folder.path(), |name, values| {
        if name.ends_with("down_proj.weight") {
            for block in values.chunks_exact_mut(32) {
                let d = block.iter().fold(0.0f32, |most, v| most.max(v.abs())) / 7.3;
                block.iter_mut().for_each(|v| *v = (*v / d).round() * d);
            }
        }
        E::F32
    });
    let out = folder.path().join("out.gguf");
    let (result, report) = quantized(&source, Options { pure: true, ..options(FileType::Q4_0) }, &out);
    assert_eq!((report.tensors, report.exact, report.nearly), (4, 0, 4));
    let (found, expected) =
        (values(&result, "blk.1.ffn_down.weight"), values(&source, "model.layers.1.mlp.down_proj.weight"));
    for (a, b) in found.iter().zip(expected) {
        assert!((a - b).abs() <= b.abs() / 2048.0, "{a} for {b}");
    }
}

#[test]
fn threads_do_not_change_what_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let source = trained(folder.path());
    let file = |threads: usize| {
        let out = folder.path().join(format!("{threads}.gguf"));
        quantized(&source, Options { threads, ..options(FileType::Q4_0) }, &out);
        std::fs::read(out).unwrap()
    };
    let one = file(1);
    assert!(one == file(2) && one == file(5));
}

/// Weights that are quantized while they are loaded are those of the file.
#[test]
fn loading_in_q4_0_gives_the_file_s_blocks() {
    let folder = tempfile::tempdir().unwrap();
    let source = trained(folder.path());
    let out = folder.path().join("out.gguf");
    let (result, _) = quantized(&source, options(FileType::Q4_0), &out);
    let loader = Loader::new(&source, LoadScheme::Gguf(FileType::Q4_0)).unwrap();
    for (stored, gguf) in [
        ("model.layers.0.mlp.up_proj.weight", "blk.0.ffn_up.weight"),
        ("model.embed_tokens.weight", "token_embd.weight"),
    ] {
        let values = values(&source, stored);
        let columns = *source.tensor(stored).unwrap().info.shape.last().unwrap();
        let file = result.tensor(gguf).unwrap();
        assert_eq!(loader.target(stored), Some(file.info.element_type), "{stored}");
        let mut blocks = vec![0; file.data.len()];
        loader.encode(stored, file.info.element_type, columns, &values, &mut blocks).unwrap();
        assert!(blocks == file.data, "{stored}");
    }
}
