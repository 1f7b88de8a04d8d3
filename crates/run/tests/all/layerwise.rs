//! Running block by block: the same inputs as an ordinary pass sees, and replaced weights take effect.

use std::collections::{BTreeMap, BTreeSet};

use crate::common::{fixture, load, relative_errors};
use quern_compute::{Executor, get_row};
use quern_run::{
    Calibrator, Error, KvType, Layerwise, LinearGroup, LinearInfo, Model, Observer, ObserverError,
    Replacement, SessionOptions, Wanted,
};
use quern_tensor_io::ElementType;

/// By name and expert.
type Inputs = BTreeMap<(String, Option<usize>), Vec<f32>>;

/// Collects inputs; replaces what `change` wants replaced.
struct Watch<F> {
    inputs: Inputs,
    order: Vec<Vec<String>>,
    change: F,
}

impl<F> Watch<F> {
    fn new(change: F) -> Self {
        Self { inputs: Inputs::new(), order: Vec::new(), change }
    }
}

impl<F> Observer for Watch<F> {
    fn observe(&mut self, _: &mut Executor, group: &LinearGroup<'_>) -> Result<(), ObserverError> {
        assert!(group.rows > 0);
        for linear in group.linears {
            let inputs = self.inputs.entry((linear.name.to_owned(), linear.expert)).or_default();
            inputs.extend_from_slice(group.values.host()?);
        }
        Ok(())
    }
}

impl<F: Fn(&LinearInfo<'_>) -> Option<Replacement>> Calibrator for Watch<F> {
    fn replace(&mut self, layers: &[LinearInfo<'_>]) -> Result<Vec<Option<Replacement>>, ObserverError> {
        self.order.push(layers.iter().map(|l| l.name.to_owned()).collect());
        Ok(layers.iter().map(&self.change).collect())
    }
}

/// Replaces nothing.
fn keep(_: &LinearInfo<'_>) -> Option<Replacement> {
    None
}

fn sequences(model: &Model) -> Vec<Vec<u32>> {
    let token = |i: u32, n: u32| (i * 131 + n * 7) % model.vocabulary() as u32;
    [17u32, 40, 8].iter().map(|&n| (0..n).map(|i| token(i, n)).collect()).collect()
}

fn ordinary(model: &Model) -> Inputs {
    let mut seen = Watch::new(());
    for sequence in sequences(model) {
        let options = SessionOptions { context: 64, kv: KvType::F32, ..SessionOptions::default() };
        let mut session = model.session(options).unwrap();
        session.forward_observed(&sequence, Wanted::Last, &mut seen).unwrap();
    }
    seen.inputs
}

#[test]
fn blocks_see_what_a_pass_sees_in_gptqs_order() {
    let model = load(&fixture("bookworm-4m"), 2);
    let expected = ordinary(&model);
    let mut run = Layerwise::new(&model, &sequences(&model)).unwrap();
    assert_eq!((run.tokens(), run.layers()), (65, 4));
    let mut watch = Watch::new(keep);
    for layer in 0..run.layers() {
        run.block(layer, &mut watch).unwrap();
    }
    for (name, inputs) in &watch.inputs {
        assert_eq!(inputs, &expected[name], "{name:?}");
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

#[test]
fn experts_see_the_tokens_that_chose_them_and_each_can_be_replaced() {
    for name in ["mixtral", "qwen3_moe"] {
        let model = load(&fixture("architectures").join(name).join("model.safetensors"), 2);
        let experts = model.config().experts.unwrap().count;
        let expected = ordinary(&model);
        let mut run = Layerwise::new(&model, &sequences(&model)).unwrap();
        let mut watch = Watch::new(keep);
        for layer in 0..run.layers() {
            run.block(layer, &mut watch).unwrap();
        }
        // Not to the bit: an expert's tokens of all sequences are multiplied at once, by another kernel than few are.
        for (linear, inputs) in &watch.inputs {
            let (largest, _) = relative_errors(inputs, &expected[linear], inputs.len());
            assert!(largest < 1e-5, "{name}: {linear:?}: {largest:e}");
        }
        assert!(watch.inputs.keys().any(|(_, expert)| expert.is_some()));
        assert_eq!(watch.order.len(), run.layers() * (2 + 2 * experts), "{name}");
        // A short text, which some experts see nothing of: they are not observed, and replaced all the same.
        let mut run = Layerwise::new(&model, &[vec![3]]).unwrap();
        let mut watch = Watch::new(|linear: &LinearInfo<'_>| linear.expert.map(|_| reversed(linear)));
        run.block(0, &mut watch).unwrap();
        let seen = watch.inputs.keys().filter_map(|(_, expert)| *expert).collect::<BTreeSet<_>>();
        assert_eq!(seen.len(), model.config().experts.unwrap().used, "{name}");
        assert_eq!(watch.order.len(), 2 + 2 * experts, "{name}");
    }
}

/// Fails at the first group.
struct Failing;

impl Observer for Failing {
    fn observe(&mut self, _: &mut Executor, _: &LinearGroup<'_>) -> Result<(), ObserverError> {
        Ok(())
    }
}

impl Calibrator for Failing {
    fn replace(&mut self, _: &[LinearInfo<'_>]) -> Result<Vec<Option<Replacement>>, ObserverError> {
        Err("no weights".into())
    }
}

#[test]
fn a_calibrator_can_stop_a_run() {
    let model = load(&fixture("bookworm-4m"), 1);
    let error = Layerwise::new(&model, &[vec![1, 2]]).unwrap().block(0, &mut Failing).unwrap_err();
    assert!(matches!(error, Error::Observer(_)) && error.to_string() == "no weights", "{error}");
}

/// The weight's columns in reverse, as f32.
fn reversed(layer: &LinearInfo<'_>) -> Replacement {
    let columns = layer.columns;
    let mut row = vec![0f32; columns];
    let mut data = Vec::new();
    for r in 0..layer.rows {
        get_row(&layer.matrix().unwrap(), r, &mut row).unwrap();
        data.extend(row.iter().rev().flat_map(|v| v.to_le_bytes()));
    }
    let permutation = Some((0..columns as u32).rev().collect());
    Replacement { element_type: ElementType::F32, data, permutation }
}

#[test]
fn replaced_weights_and_their_order_of_columns_take_effect() {
    let model = load(&fixture("bookworm-4m"), 2);
    let run_with = |change: &dyn Fn(&LinearInfo<'_>) -> Option<Replacement>| {
        let mut run = Layerwise::new(&model, &sequences(&model)).unwrap();
        let mut watch = Watch::new(change);
        run.block(0, &mut watch).unwrap();
        run.hidden().unwrap().to_vec()
    };
    let plain = run_with(&|_| None);
    let size = plain.iter().fold(0f32, |m, v| m.max(v.abs()));
    // The same weights in another order, with that order: the same sums in another order.
    let same = run_with(&|l| Some(reversed(l)));
    for (a, b) in plain.iter().zip(&same) {
        assert!((a - b).abs() <= 1e-5 * size, "{a} {b}");
    }
    // Without it: other numbers.
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
    let error = run.block(0, &mut Watch::new(short)).unwrap_err();
    assert!(matches!(error, Error::Compute(_)), "{error}");
}
