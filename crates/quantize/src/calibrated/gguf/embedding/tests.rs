//! What each way of weighting errors is worth: the divergence that the rounded embedding alone causes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use quern_model::{Packed, View};
use quern_run::{LoadOptions, Model, Probe, Replacement};
use quern_tensor_io::{Checkpoint, ElementType};

use super::*;
use crate::calibrated::Calibration;
use crate::calibrated::gguf::encode::encode;
use crate::calibration::{SampleOptions, TextSource, samples};
use crate::gptq::blocks::solve_blocks;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

/// The demo model, whose head is its embedding.
#[test]
fn gradients_and_the_weights_that_read_the_stream_are_both_better_than_nothing() {
    let path = fixture("bookworm-4m");
    let model = Model::load(
        Arc::new(Checkpoint::open(&path).unwrap()),
        LoadOptions { threads: 2, ..LoadOptions::default() },
    )
    .unwrap();
    let view = View::gguf(model.checkpoint(), Packed::Refused).unwrap();
    let tied = !view.tensors().iter().any(|t| t.name == "output.weight");
    let taken = |name: &str, wanted, context| {
        let text = TextSource::Text(std::fs::read_to_string(fixture("text").join(name)).unwrap());
        samples(model.tokenizer().unwrap(), text, SampleOptions { samples: wanted, context }).unwrap()
    };
    let calibration = Calibration::new(taken("calibration.txt", 16, 256));
    let columns = model.config().hidden_size;
    let index = view.tensors().iter().position(|t| t.name == NAME).unwrap();
    let rows = view.tensors()[index].rows();
    let mut values = vec![0f32; rows * columns];
    assert!(view.decode(index, 0..rows, &mut values));
    let mut probe = Probe::new(&model, &taken("validation.txt", 8, 128).sequences, 2).unwrap();
    for element_type in [ElementType::Q4_0, ElementType::Q3K] {
        let mut divergence = |data: Vec<u8>| {
            probe.embedding(Replacement { element_type, data, permutation: None }).unwrap().kl
        };
        let pool = model.pool();
        let plain = divergence(encode(pool, element_type, columns, &values, None).unwrap());
        let mut of = |sum: Hessian, damp: f64| {
            let importance = importance::of_inputs(&sum, element_type).unwrap();
            let diagonal = encode(pool, element_type, columns, &values, importance.as_deref()).unwrap();
            let prepared = Prepared::for_blocks(pool, sum, element_type, damp).unwrap();
            let solved = solve_blocks(pool, &values, rows, &prepared, element_type, None).unwrap().bytes;
            (divergence(diagonal), divergence(solved))
        };
        let sample = Sample::of(&calibration, columns);
        let gradients = of(gradients::gram(&model, &sample, tied, None).unwrap().sum, 0.06);
        let inputs = of(gradients::gram(&model, &sample, false, None).unwrap().sum, 0.06);
        let readers = of(readers::gram(&model, &view, columns), 0.02);
        let damped = of(readers::gram(&model, &view, columns), 0.2);
        println!(
            "{element_type}: {plain:.5} plain; diagonal and whole: {gradients:.5?} gradients, {inputs:.5?} without the head's \
             share, {readers:.5?} weights, {damped:.5?} damped"
        );
        assert!(gradients.1 < 0.9 * plain, "{element_type}: {gradients:?} {plain}");
        assert!(readers.1 < plain, "{element_type}: {readers:?} {plain}");
    }
}
