//! Running block by block: the same inputs as an ordinary pass sees, and replaced weights take effect.

mod common;

use std::collections::BTreeMap;
use std::error::Error as StdError;

use common::{fixture, load};
use quern_compute::get_row;
use quern_run::{
    KvType, Layerwise, LinearInfo, LinearInput, Observer, Replacement, SessionOptions, Stages, Wanted,
};
use quern_tensor_io::ElementType;

type Inputs = BTreeMap<String, Vec<f32>>;

/// Collects inputs; replaces what `change` wants replaced.
struct Watch<F> {
    inputs: Inputs,
    order: Vec<Vec<String>>,
    change: F,
}

impl<F: Fn(&LinearInfo<'_>) -> Option<Replacement>> Stages for Watch<F> {
    fn input(
        &mut self,
        layers: &[LinearInfo<'_>],
        values: &[f32],
    ) -> Result<(), Box<dyn StdError + Send + Sync>> {
        for layer in layers {
            self.inputs.entry(layer.name.to_owned()).or_default().extend_from_slice(values);
        }
        Ok(())
    }

    fn replace(
        &mut self,
        layers: &[LinearInfo<'_>],
    ) -> Result<Vec<Option<Replacement>>, Box<dyn StdError + Send + Sync>> {
        self.order.push(layers.iter().map(|l| l.name.to_owned()).collect());
        Ok(layers.iter().map(&self.change).collect())
    }
}

struct Plain(Inputs);

impl Observer for Plain {
    fn linear_input(&mut self, input: &LinearInput<'_>) {
        self.0.entry(input.name.to_owned()).or_default().extend_from_slice(input.values);
    }
}

fn sequences() -> Vec<Vec<u32>> {
    [17u32, 40, 8].iter().map(|&n| (0..n).map(|i| (i * 131 + n * 7) % 4096).collect()).collect()
}

fn ordinary(model: &quern_run::Model) -> Inputs {
    let mut seen = Plain(Inputs::new());
    for sequence in sequences() {
        let options = SessionOptions { context: 64, kv: KvType::F32, ..SessionOptions::default() };
        let mut session = model.session(options).unwrap();
        session.forward_observed(&sequence, Wanted::Last, &mut seen).unwrap();
    }
    seen.0
}

#[test]
fn blocks_see_what_a_pass_sees_in_gptqs_order() {
    let model = load(&fixture("bookworm-4m"), 2);
    let expected = ordinary(&model);
    let mut run = Layerwise::new(&model, &sequences()).unwrap();
    assert_eq!((run.tokens(), run.layers()), (65, 4));
    let mut watch = Watch { inputs: Inputs::new(), order: Vec::new(), change: |_: &LinearInfo<'_>| None };
    for layer in 0..run.layers() {
        run.block(layer, &mut watch).unwrap();
    }
    for (name, inputs) in &watch.inputs {
        assert_eq!(inputs, &expected[name], "{name}");
    }
    assert_eq!(watch.inputs.len(), 4 * 7);
    let last = |names: &[String]| -> Vec<String> {
        names.iter().map(|n| n.split('.').rev().nth(1).unwrap().to_owned()).collect()
    };
    let order: Vec<_> = watch.order[..4].iter().map(|n| last(n)).collect();
    let expected: [&[&str]; 4] =
        [&["q_proj", "k_proj", "v_proj"], &["o_proj"], &["gate_proj", "up_proj"], &["down_proj"]];
    assert_eq!(order, expected);
}

/// The weight's columns in reverse, as f32.
fn reversed(layer: &LinearInfo<'_>) -> Replacement {
    let columns = layer.matrix.columns();
    let mut row = vec![0f32; columns];
    let mut data = Vec::new();
    for r in 0..layer.matrix.rows() {
        get_row(&layer.matrix, r, &mut row).unwrap();
        data.extend(row.iter().rev().flat_map(|v| v.to_le_bytes()));
    }
    let permutation = Some((0..columns as u32).rev().collect());
    Replacement { element_type: ElementType::F32, data, permutation }
}

#[test]
fn replaced_weights_and_their_order_of_columns_take_effect() {
    let model = load(&fixture("bookworm-4m"), 2);
    let run_with = |change: &dyn Fn(&LinearInfo<'_>) -> Option<Replacement>| {
        let mut run = Layerwise::new(&model, &sequences()).unwrap();
        let mut watch = Watch { inputs: Inputs::new(), order: Vec::new(), change };
        run.block(0, &mut watch).unwrap();
        run.hidden().to_vec()
    };
    let plain = run_with(&|_| None);
    let size = plain.iter().fold(0f32, |m, v| m.max(v.abs()));
    // The same weights in another order, told so: the same sums in another order.
    let same = run_with(&|l| Some(reversed(l)));
    for (a, b) in plain.iter().zip(&same) {
        assert!((a - b).abs() <= 1e-5 * size, "{a} {b}");
    }
    // Not told so: other numbers.
    let other = run_with(&|l| Some(Replacement { permutation: None, ..reversed(l) }));
    assert!(plain.iter().zip(&other).any(|(a, b)| (a - b).abs() > 0.01 * size));
}

#[test]
fn what_cannot_run_is_refused() {
    let model = load(&fixture("bookworm-4m"), 1);
    assert!(Layerwise::new(&model, &[]).is_err());
    assert!(Layerwise::new(&model, &[vec![1], vec![]]).is_err());
    assert!(Layerwise::new(&model, &[vec![4096]]).is_err());
    assert!(Layerwise::new(&model, &[vec![1; 1025]]).is_err());
    let mut run = Layerwise::new(&model, &[vec![1, 2]]).unwrap();
    let short = |_: &LinearInfo<'_>| {
        Some(Replacement { element_type: ElementType::F32, data: vec![0; 8], permutation: None })
    };
    let mut watch = Watch { inputs: Inputs::new(), order: Vec::new(), change: short };
    assert!(run.block(0, &mut watch).is_err());
}
