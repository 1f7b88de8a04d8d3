//! Gradients against differences of the loss: along directions in the residual stream and in each weight.

use std::collections::BTreeMap;

use crate::common::collect::{numbers, sequences};
use crate::common::{fixture, load};
use quern_compute::Executor;
use quern_model::TensorRole;
use quern_run::random::Random;
use quern_run::{
    Calibrator, Error, GradientObserver, Gradients, Layerwise, LinearGradient, LinearGroup, LinearInfo, Loss,
    Model, Observer, ObserverError, Replacement, Target,
};
use quern_tensor_io::ElementType;

/// Gradients by weights, `[rows][columns]`, and by the residual stream in front of each block.
#[derive(Default)]
struct Collected {
    weights: BTreeMap<String, Vec<f64>>,
    layers: BTreeMap<String, Option<usize>>,
    residual: BTreeMap<usize, Vec<f32>>,
    /// Largest absolute sum of a row of gradients by logits.
    logits: f64,
    order: Vec<String>,
}

impl GradientObserver for Collected {
    fn linear(&mut self, g: &LinearGradient<'_>) -> Result<(), ObserverError> {
        let (rows, columns) = (g.linear.rows, g.linear.columns);
        assert_eq!((g.inputs.len(), g.gradients.len()), (g.tokens.len() * columns, g.tokens.len() * rows));
        if !self.weights.contains_key(g.linear.name) {
            self.order.push(g.linear.name.to_owned());
        }
        self.layers.insert(g.linear.name.to_owned(), g.linear.layer);
        let sum = self.weights.entry(g.linear.name.to_owned()).or_insert_with(|| vec![0.0; rows * columns]);
        for (x, d) in g.inputs.chunks_exact(columns).zip(g.gradients.chunks_exact(rows)) {
            for (sum, &d) in sum.chunks_exact_mut(columns).zip(d) {
                sum.iter_mut().zip(x).for_each(|(sum, &x)| *sum += f64::from(d) * f64::from(x));
            }
            if matches!(g.linear.role, TensorRole::Output | TensorRole::TokenEmbedding) {
                self.logits = self.logits.max(d.iter().map(|&d| f64::from(d)).sum::<f64>().abs());
            }
        }
        Ok(())
    }

    fn residual(&mut self, layer: usize, gradients: &[f32]) -> Result<(), ObserverError> {
        self.residual.insert(layer, gradients.to_vec());
        Ok(())
    }
}

/// Adds `step * direction` to one weight, and keeps the head's inputs and weight.
#[derive(Default)]
struct Moved<'a> {
    weight: Option<(&'a str, &'a [f64], f64)>,
    head: Option<(Vec<f64>, usize)>,
    inputs: Vec<f32>,
}

impl Observer for Moved<'_> {
    fn observe(&mut self, _: &mut Executor, group: &LinearGroup<'_>) -> Result<(), ObserverError> {
        let linear = &group.linears[0];
        if linear.layer.is_none() && linear.role != TensorRole::EmbeddingOut {
            let numbers = numbers(linear).into_iter().map(f64::from).collect();
            self.head = Some((numbers, linear.rows));
            self.inputs.extend_from_slice(group.values.host()?);
        }
        Ok(())
    }
}

impl Calibrator for Moved<'_> {
    fn replace(&mut self, layers: &[LinearInfo<'_>]) -> Result<Vec<Option<Replacement>>, ObserverError> {
        let replacement = |layer: &LinearInfo<'_>| {
            let (_, direction, step) = self.weight.filter(|(name, ..)| *name == layer.name)?;
            let moved = numbers(layer).into_iter().zip(direction);
            let moved = moved.map(|(w, d)| (f64::from(w) + step * d) as f32);
            let data = moved.flat_map(f32::to_le_bytes).collect();
            Some(Replacement { element_type: ElementType::F32, data, permutation: None })
        };
        Ok(layers.iter().map(replacement).collect())
    }
}

/// The loss of a model with a moved weight, from block `from` on with a residual stream.
fn loss(
    model: &Model,
    weight: Option<(&str, &[f64], f64)>,
    from: Option<(usize, &[f32])>,
    texts: &[Vec<u32>],
) -> f64 {
    let mut run = Layerwise::new(model, texts).unwrap();
    let mut moved = Moved { weight, ..Moved::default() };
    if let Some((_, hidden)) = from {
        run.set_hidden(hidden).unwrap();
    }
    for layer in from.map_or(0, |(layer, _)| layer)..run.layers() {
        run.block(layer, &mut moved).unwrap();
    }
    run.head(&mut moved).unwrap();
    let (head, vocabulary) = moved.head.unwrap();
    let bias = head_bias(model, vocabulary);
    let columns = head.len() / vocabulary;
    let next = texts.iter().flat_map(|text| (1..=text.len()).map(|at| text.get(at).copied()));
    let rows = moved.inputs.chunks_exact(columns).zip(next).filter_map(|(x, next)| Some((x, next?)));
    let row = |(x, next): (&[f32], u32)| {
        let logits = head.chunks_exact(columns).zip(&bias).map(|(w, b)| {
            let logit = b + w.iter().zip(x).map(|(w, &x)| w * f64::from(x)).sum::<f64>();
            model.config().final_softcap.map_or(logit, |cap| {
                let cap = f64::from(cap);
                cap * (logit / cap).tanh()
            })
        });
        let logits: Vec<f64> = logits.collect();
        let highest = logits.iter().copied().fold(f64::MIN, f64::max);
        let sum: f64 = logits.iter().map(|l| (l - highest).exp()).sum();
        highest + sum.ln() - logits[next as usize]
    };
    rows.map(row).sum()
}

/// The head's bias (Phi has one).
fn head_bias(model: &Model, vocabulary: usize) -> Vec<f64> {
    match model.checkpoint().tensor("lm_head.bias") {
        None => vec![0.0; vocabulary],
        Some(tensor) => {
            let mut values = vec![0f32; vocabulary];
            assert!(quern_tensor_io::decode::to_f32(tensor.info.element_type, tensor.data, &mut values));
            values.into_iter().map(f64::from).collect()
        }
    }
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|v| v * v).sum::<f64>().sqrt()
}

/// A direction of length one: along the gradient, or at random.
fn direction(gradient: &[f64], seed: Option<u64>) -> Vec<f64> {
    let values: Vec<f64> = match seed {
        None => gradient.to_vec(),
        Some(seed) => {
            let mut random = Random::new(seed);
            // Larger where the gradient is, so that the derivative is no difference of large numbers.
            gradient.iter().map(|g| g * random.unit()).collect()
        }
    };
    let length = norm(values.iter().copied());
    values.into_iter().map(|v| v / length).collect()
}

fn open(name: &str) -> Model {
    load(&fixture("architectures").join(name).join("model.safetensors"), 2)
}

fn agree(name: &str, at: &str, gradient: &[f64], scale: f64, loss: impl Fn(&[f64], f64) -> f64) {
    for seed in [None, Some(1)] {
        let along = direction(gradient, seed);
        let derivative: f64 = along.iter().zip(gradient).map(|(a, g)| a * g).sum();
        // Large steps are wrong by what is curved, of fourth order; small ones by the rounding of f32.
        let difference = |step: f64| {
            let both = |step: f64| loss(&along, step) - loss(&along, -step);
            (8.0 * both(step) - both(2.0 * step)) / (12.0 * step)
        };
        let error = |step: f64| (difference(step * scale) - derivative).abs() / derivative.abs();
        // A step passes some of ReLU's kinks, where the loss has no derivative.
        let bound = if name.starts_with("opt") { 1e-2 } else { 1e-3 };
        let steps = [1e-3, 2.5e-4, 4e-3, 6e-5];
        assert!(steps.into_iter().any(|step| error(step) < bound), "{name}, {at}: {derivative}");
    }
}

const MODELS: [&str; 21] = [
    "llama",
    "llama3",
    "llama-yarn",
    "mistral",
    "ministral3-text",
    "qwen2",
    "qwen3",
    "phi",
    "phi3",
    "opt",
    "opt-350m",
    "gemma",
    "gemma2",
    "gemma3",
    "falcon",
    "falcon-7b",
    "gpt2",
    "gpt_neox",
    "stablelm",
    "stablelm-parallel",
    "starcoder2",
];

#[test]
fn gradients_are_differences_of_the_loss() {
    for name in MODELS {
        let model = open(name);
        let texts = sequences(&model);
        let mut run = Gradients::new(&model, &texts).unwrap();
        let mut seen = Collected::default();
        let Loss { nats, tokens } = run.run(Target::Text, &mut seen).unwrap();
        let expected = loss(&model, None, None, &texts);
        assert!((nats - expected).abs() < 1e-5 * expected, "{name}: {nats} {expected}");
        assert_eq!((tokens, run.tokens()), (62, 65));
        let capped = model.config().final_softcap.is_some();
        assert!(capped || seen.logits < 1e-5, "{name}: {}", seen.logits);

        let mut forward = Layerwise::new(&model, &texts).unwrap();
        for layer in 0..forward.layers() {
            let hidden = forward.hidden().unwrap().to_vec();
            let gradient: Vec<f64> = seen.residual[&layer].iter().map(|&g| g.into()).collect();
            let scale = norm(hidden.iter().map(|&x| x.into()));
            agree(name, &format!("residual {layer}"), &gradient, scale, |along, step| {
                let moved = hidden.iter().zip(along).map(|(&x, a)| (f64::from(x) + step * a) as f32);
                loss(&model, None, Some((layer, &moved.collect::<Vec<_>>())), &texts)
            });
            forward.block(layer, &mut Moved::default()).unwrap();
        }
        let linears: Vec<_> = (0..forward.layers()).flat_map(|layer| model.linears(layer)).collect();
        assert!(linears.iter().all(|l| seen.layers[l.name] == l.layer), "{name}");
        for linear in linears {
            let gradient = &seen.weights[linear.name];
            let scale = norm(numbers(&linear).into_iter().map(f64::from));
            agree(name, linear.name, gradient, scale, |along, step| {
                loss(&model, Some((linear.name, along, step)), None, &texts)
            });
        }
    }
}

#[test]
fn layers_come_from_the_last_to_the_first() {
    let model = open("llama");
    let mut run = Gradients::new(&model, &sequences(&model)).unwrap();
    let mut seen = Collected::default();
    run.run(Target::Text, &mut seen).unwrap();
    let short: Vec<String> = seen
        .order
        .iter()
        .map(|name| name.trim_start_matches("model.layers.").replace(".weight", ""))
        .collect();
    let block = |l: usize| {
        ["mlp.down_proj", "mlp.gate_proj", "mlp.up_proj", "self_attn.o_proj"]
            .into_iter()
            .chain(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"])
            .map(move |name| format!("{l}.{name}"))
    };
    let head = seen.order[0].replace(".weight", "");
    let expected: Vec<String> = std::iter::once(head).chain(block(1)).chain(block(0)).collect();
    assert_eq!(short, expected);
}

/// The mean over many draws of what is squared is the Fisher information; here, that of a single token whose only
/// target is drawn: `diag(p) - p pᵀ` by the logits.
#[test]
fn drawn_targets_have_the_covariance_of_the_distribution() {
    struct Head {
        rows: usize,
        sum: Vec<f64>,
        squares: Vec<f64>,
    }
    impl GradientObserver for Head {
        fn linear(&mut self, g: &LinearGradient<'_>) -> Result<(), ObserverError> {
            if g.linear.layer.is_none() {
                self.rows = g.linear.rows;
                self.sum.resize(self.rows, 0.0);
                self.squares.resize(self.rows, 0.0);
                for (i, &d) in g.gradients.iter().enumerate() {
                    self.sum[i] += f64::from(d);
                    self.squares[i] += f64::from(d) * f64::from(d);
                }
            }
            Ok(())
        }
    }
    let model = open("llama");
    let mut run = Gradients::new(&model, &[vec![5]]).unwrap();
    let mut head = Head { rows: 0, sum: Vec::new(), squares: Vec::new() };
    let draws = 3000;
    let mut losses = Vec::new();
    for seed in 0..draws {
        let loss = run.run(Target::Drawn { seed }, &mut head).unwrap();
        assert_eq!(loss.tokens, 1);
        losses.push(loss.nats);
    }
    // The probability of each token, from a session.
    let mut session = model.session(quern_run::SessionOptions { context: 8, ..Default::default() }).unwrap();
    let logits = session.forward(&[5], quern_run::Wanted::Last).unwrap();
    let total = quern_compute::ops::log_sum_exp(logits);
    let p: Vec<f64> = logits.iter().map(|&l| (f64::from(l) - total).exp()).collect();
    let draws = draws as f64;
    for (i, p) in p.iter().enumerate() {
        let deviation = (p * (1.0 - p) / draws).sqrt();
        assert!((head.sum[i] / draws).abs() < 5.0 * deviation + 1e-5, "{i}");
    }
    // Their sum has small deviations.
    let squares = head.squares.iter().sum::<f64>() / draws;
    let expected = p.iter().map(|p| p * (1.0 - p)).sum::<f64>();
    assert!((squares - expected).abs() < 0.02 * expected, "{squares} {expected}");
    let entropy = -p.iter().map(|p| p * p.ln()).sum::<f64>();
    let mean = losses.iter().sum::<f64>() / draws;
    assert!((mean - entropy).abs() < 0.05 * entropy, "{mean} {entropy}");
}

#[test]
fn what_has_no_gradients_is_named() {
    for name in ["mixtral", "qwen3_moe"] {
        let model = open(name);
        let error = Gradients::new(&model, &[vec![1, 2]]).unwrap_err();
        assert!(matches!(error, Error::NoGradients { .. }), "{error}");
        assert!(error.to_string().contains("mixtures of experts"), "{error}");
    }
    let model = open("llama");
    assert!(Gradients::new(&model, &[]).is_err());
    struct Stop;
    impl GradientObserver for Stop {
        fn linear(&mut self, _: &LinearGradient<'_>) -> Result<(), ObserverError> {
            Err("enough".into())
        }
    }
    let error = Gradients::new(&model, &[vec![1, 2]]).unwrap().run(Target::Text, &mut Stop).unwrap_err();
    assert_eq!(error.to_string(), "enough");
}

/// Two threads, and sequences in other batches, give the same up to rounding.
#[test]
fn long_texts_go_in_batches() {
    let model = open("llama");
    let token = |i: usize| (i * 131 % model.vocabulary()) as u32;
    let texts: Vec<Vec<u32>> = (0..12).map(|s| (0..200).map(|i| token(i + s * 77)).collect()).collect();
    let gradients = |texts: &[Vec<u32>]| {
        let mut seen = Collected::default();
        let loss = Gradients::new(&model, texts).unwrap().run(Target::Text, &mut seen).unwrap();
        (loss, seen)
    };
    let (whole, together) = gradients(&texts);
    let (mut nats, mut apart) = (0.0, BTreeMap::<String, Vec<f64>>::new());
    let mut residual = Vec::new();
    for text in texts.chunks(1) {
        let (loss, seen) = gradients(text);
        nats += loss.nats;
        residual.extend_from_slice(&seen.residual[&0]);
        for (name, values) in seen.weights {
            let sum = apart.entry(name).or_insert_with(|| vec![0.0; values.len()]);
            sum.iter_mut().zip(values).for_each(|(sum, v)| *sum += v);
        }
    }
    assert!((nats - whole.nats).abs() < 1e-6 * nats);
    let (largest, _) = crate::common::relative_errors(&together.residual[&0], &residual, residual.len());
    assert!(largest < 1e-4, "{largest:e}");
    for (name, values) in &together.weights {
        let highest = apart[name].iter().fold(0f64, |m, v| m.max(v.abs()));
        let far = values.iter().zip(&apart[name]).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(far < 1e-4 * highest, "{name}: {far:e} {highest:e}");
    }
}

/// Sequences that are run together, in parts with seeds of their own, have the gradients that the parts have alone.
#[test]
fn parts_are_drawn_as_if_they_were_alone() {
    let model = open("llama");
    let texts = sequences(&model);
    let (first, rest) = texts.split_at(1);
    let mut together = Collected::default();
    let mut run = Gradients::new(&model, &texts).unwrap();
    let whole = run.run_parts(&[(1, 5), (rest.len(), 6)], &mut together).unwrap();
    let mut apart = Vec::new();
    let mut nats = 0.0;
    for (texts, seed) in [(first, 5), (rest, 6)] {
        let mut seen = Collected::default();
        nats += Gradients::new(&model, texts).unwrap().run(Target::Drawn { seed }, &mut seen).unwrap().nats;
        apart.extend_from_slice(&seen.residual[&0]);
    }
    assert!((whole.nats - nats).abs() < 1e-6 * nats, "{} {nats}", whole.nats);
    let (largest, _) = crate::common::relative_errors(&together.residual[&0], &apart, apart.len());
    assert!(largest < 1e-4, "{largest:e}");
}
