//! Two residual streams in one run: the reference is the unreplaced model, whatever happens to the other.

use crate::common::collect::{Collect, Group, coarse, keep, numbers, sequences};
use crate::common::{fixture, load};
use quern_model::TensorRole;
use quern_model::architecture::Block;
use quern_run::{KvType, Layerwise, LinearInfo, Model, Replacement, SessionOptions, Wanted};

fn model(name: &str) -> Model {
    match name {
        "bookworm-4m" => load(&fixture(name), 2),
        _ => load(&fixture("architectures").join(name).join("model.safetensors"), 2),
    }
}

const MODELS: [&str; 12] = [
    "bookworm-4m",
    "llama3",
    "phi",
    "phi3",
    "opt",
    "opt-350m",
    "gemma2",
    "gemma3",
    "falcon",
    "falcon-7b",
    "mixtral",
    "qwen3_moe",
];

/// The residual streams before and behind a block, and its groups.
struct Ran {
    before: [Vec<f32>; 2],
    groups: Vec<Group>,
    after: [Vec<f32>; 2],
}

fn run(model: &Model, change: impl Fn(&LinearInfo<'_>) -> Option<Replacement>) -> Vec<Ran> {
    let mut run = Layerwise::with_reference(model, &sequences(model)).unwrap();
    let both = |run: &mut Layerwise<'_>| {
        let hidden = run.hidden().unwrap().to_vec();
        [hidden, run.reference_hidden().unwrap().unwrap().to_vec()]
    };
    let block = |layer| {
        let before = both(&mut run);
        let mut collect = Collect { groups: Vec::new(), change: &change };
        run.block(layer, &mut collect).unwrap();
        Ran { before, groups: collect.groups, after: both(&mut run) }
    };
    (0..model.config().layers).map(block).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn without_replacements_both_streams_are_one() {
    for name in MODELS {
        let model = model(name);
        let mut alone = Layerwise::new(&model, &sequences(&model)).unwrap();
        assert!(alone.reference_hidden().unwrap().is_none());
        for (layer, ran) in run(&model, keep).into_iter().enumerate() {
            let mut collect = Collect { groups: Vec::new(), change: keep };
            alone.block(layer, &mut collect).unwrap();
            assert_eq!(bits(&ran.after[0]), bits(&ran.after[1]), "{name}");
            assert_eq!(bits(&ran.after[0]), bits(&alone.hidden().unwrap()), "{name}");
            assert_eq!(ran.groups.len(), collect.groups.len(), "{name}");
            for (group, lone) in ran.groups.iter().zip(&collect.groups) {
                let at = format!("{name}: {:?}", group.names);
                assert_eq!(bits(&group.values), bits(&lone.values), "{at}");
                assert!(lone.reference.is_none() && lone.drift.is_none(), "{at}");
                assert_eq!(group.reference.is_some(), group.expert.is_none(), "{at}");
                if let Some(reference) = &group.reference {
                    assert_eq!(bits(&group.values), bits(reference), "{at}");
                }
                assert!(group.drift.iter().flatten().all(|&d| d == 0.0), "{at}");
            }
        }
    }
}

#[test]
fn the_reference_sees_nothing_of_replacements() {
    for name in MODELS {
        let model = model(name);
        let (plain, replaced) = (run(&model, keep), run(&model, coarse));
        for (plain, ran) in plain.iter().zip(&replaced) {
            assert_eq!(bits(&plain.after[0]), bits(&ran.after[1]), "{name}");
            assert_ne!(bits(&plain.after[0]), bits(&ran.after[0]), "{name}");
            for group in ran.groups.iter().filter(|g| g.expert.is_none()) {
                let same = plain.groups.iter().find(|g| g.names == group.names).unwrap();
                let reference = group.reference.as_ref().unwrap();
                assert_eq!(bits(reference), bits(&same.values), "{name}: {:?}", group.names);
            }
        }
        // The first block's first inputs are what they are; all others come from replaced weights.
        let differ = |g: &Group| g.reference.as_ref().is_some_and(|r| *r != g.values);
        let groups = replaced.iter().flat_map(|ran| &ran.groups).filter(|g| g.expert.is_none());
        // In a parallel block the network's first inputs are those of the block.
        let same = if model.config().block == Block::Parallel { 2 } else { 1 };
        assert_eq!(groups.filter(|g| !differ(g)).count(), same, "{name}");
    }
}

/// `W x` of the first layer of a group for all tokens, without bias.
fn product(weight: &[f32], inputs: &[f32], outputs: usize) -> Vec<f32> {
    let columns = weight.len() / outputs;
    let dot = |w: &[f32], x: &[f32]| {
        w.iter().zip(x).map(|(&w, &x)| f64::from(w) * f64::from(x)).sum::<f64>() as f32
    };
    let rows = inputs.chunks_exact(columns);
    rows.flat_map(|x| weight.chunks_exact(columns).map(move |w| dot(w, x)).collect::<Vec<_>>()).collect()
}

/// At attention's output the residual stream is that in front of the block; at the down projection it is that behind
/// the block less what the projection adds. A bias cancels.
#[test]
fn drift_is_what_the_residual_streams_differ_by() {
    for name in MODELS {
        let model = model(name);
        let kind = model.config().block;
        let mut seen = [0, 0];
        for (layer, ran) in run(&model, coarse).iter().enumerate() {
            for group in &ran.groups {
                let (at, role) = (format!("{name}: {:?}", group.names), group.role.unwrap());
                let before: Vec<f32> = ran.before[1].iter().zip(&ran.before[0]).map(|(r, c)| r - c).collect();
                let Some(drift) = &group.drift else { continue };
                match role {
                    TensorRole::AttentionOutput => {
                        assert_eq!(bits(drift), bits(&before), "{at}");
                        assert_eq!(layer > 0, drift.iter().any(|&d| d != 0.0), "{at}");
                        seen[0] += 1;
                    }
                    TensorRole::FfnDown => {
                        seen[1] += 1;
                        assert!(drift.iter().any(|&d| d != 0.0), "{at}");
                        // A norm is behind the sum.
                        if kind == Block::PostNorm {
                            continue;
                        }
                        let linears = model.linears(layer);
                        let linear = linears.iter().find(|l| l.name == group.names[0]).unwrap();
                        let changed: Vec<f32> = coarse(linear)
                            .unwrap()
                            .data
                            .as_chunks()
                            .0
                            .iter()
                            .map(|&b| f32::from_le_bytes(b))
                            .collect();
                        let reference = group.reference.as_ref().unwrap();
                        let added = product(&numbers(linear), reference, group.outputs);
                        let now = product(&changed, &group.values, group.outputs);
                        let scale = ran.after.iter().flatten().fold(0f32, |m, v| m.max(v.abs()));
                        for (i, &drift) in drift.iter().enumerate() {
                            let expected = (ran.after[1][i] - added[i]) - (ran.after[0][i] - now[i]);
                            assert!((drift - expected).abs() < 1e-5 * scale, "{at}: {drift} {expected}");
                        }
                    }
                    _ => panic!("{at} has a drift"),
                }
            }
        }
        let layers = model.config().layers;
        let expected = match name {
            "gemma2" | "gemma3" => [0, 0],
            "phi" | "falcon" | "falcon-7b" => [0, layers],
            "mixtral" | "qwen3_moe" => [layers, 0],
            _ => [layers, layers],
        };
        assert_eq!(seen, expected, "{name}");
    }
}

#[test]
fn a_run_goes_on_from_both_residual_streams() {
    let model = model("bookworm-4m");
    let whole = run(&model, coarse);
    let mut second = Layerwise::with_reference(&model, &sequences(&model)).unwrap();
    second.set_hidden(&whole[1].after[0]).unwrap();
    second.set_reference_hidden(&whole[1].after[1]).unwrap();
    let mut collect = Collect { groups: Vec::new(), change: coarse };
    second.block(2, &mut collect).unwrap();
    assert_eq!(collect.groups, whole[2].groups);
    assert_eq!(second.reference_hidden().unwrap().unwrap(), whole[2].after[1]);
    // Without a reference there is nothing to set.
    let mut alone = Layerwise::new(&model, &sequences(&model)).unwrap();
    let before = alone.hidden().unwrap().to_vec();
    alone.set_reference_hidden(&whole[1].after[1]).unwrap();
    assert_eq!(alone.hidden().unwrap(), before);
}

/// The groups of an ordinary pass that belong to no block.
fn ends(model: &Model) -> Vec<Group> {
    let mut collect = Collect { groups: Vec::new(), change: keep };
    for sequence in sequences(model) {
        let options = SessionOptions { context: 64, kv: KvType::F32, ..SessionOptions::default() };
        let mut session = model.session(options).unwrap();
        session.forward_observed(&sequence, Wanted::All, &mut collect).unwrap();
    }
    let role = |g: &Group| {
        matches!(g.role, Some(TensorRole::Output | TensorRole::TokenEmbedding | TensorRole::EmbeddingOut))
    };
    collect.groups.into_iter().filter(role).collect()
}

#[test]
fn the_heads_inputs_are_those_of_a_pass() {
    for name in MODELS {
        let model = model(name);
        // A mixture multiplies tokens of all sequences at once, by another kernel than few are.
        let near = if model.config().experts.is_some() { 1e-5 } else { 0.0 };
        let expected = ends(&model);
        assert_eq!(expected.len(), if name == "opt-350m" { 2 } else { 1 }, "{name}");
        let mut run = Layerwise::with_reference(&model, &sequences(&model)).unwrap();
        let mut collect = Collect { groups: Vec::new(), change: coarse };
        for layer in 0..run.layers() {
            run.block(layer, &mut collect).unwrap();
        }
        let (hidden, mut head) =
            (run.hidden().unwrap().to_vec(), Collect { groups: Vec::new(), change: coarse });
        run.head(&mut head).unwrap();
        assert_eq!(run.hidden().unwrap(), hidden);
        assert_eq!(head.groups.len(), expected.len(), "{name}");
        for (group, expected) in head.groups.iter().zip(&expected) {
            assert_eq!((&group.names, group.role), (&expected.names, expected.role), "{name}");
            let reference = group.reference.as_ref().unwrap();
            let (largest, _) = crate::common::relative_errors(reference, &expected.values, reference.len());
            assert!(largest <= near, "{name}: {largest:e}");
            assert!(*reference != group.values && group.drift.is_none(), "{name}");
        }
    }
}
