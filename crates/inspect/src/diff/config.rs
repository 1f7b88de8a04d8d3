//! Configurations as quern understands them, whatever the files call the keys.
//!
//! Compared is what the forward pass reads. What tensors say on their own (biases, norms, a head) is not repeated here,
//! and rope factors are compared as numbers: Hugging Face computes Llama 3's, GGUF holds them.

use std::collections::BTreeMap;

use quern_model::architecture::Position;
use quern_model::{Config, RopeScaling};

use super::entry::{Entry, differing};

/// Facts that do not count: how weights are stored, which their own comparison shows.
const INFORMATION: [&str; 3] = ["published type", "quantization", "tied embeddings"];

/// What differs; `across` if one of them was read from GGUF metadata, which cannot say all.
pub(super) fn compare(a: &Config, b: &Config, across: bool) -> Vec<Entry> {
    let unknown_in_gguf = |key: &str| across && INFORMATION.contains(&key);
    let (mut a, mut b) = (facts(a, across), facts(b, across));
    for facts in [&mut a, &mut b] {
        facts.retain(|key, _| !unknown_in_gguf(key));
    }
    differing(&a, &b, |key, _, _| !INFORMATION.contains(&key))
}

fn facts(c: &Config, across: bool) -> BTreeMap<String, String> {
    let mut facts = BTreeMap::new();
    let mut fact = |key: &str, value: String| drop(facts.insert(key.to_owned(), value));
    let a = c.architecture;
    // GGUF has one name for several families that compute the same.
    fact("architecture", if across { a.name } else { a.family() }.to_owned());
    for (key, value) in [
        ("vocabulary size", c.vocab_size),
        ("hidden size", c.hidden_size),
        ("embedding size", c.embedding_size),
        ("layers", c.layers),
        ("attention heads", c.heads),
        ("key-value heads", c.kv_heads),
        ("head size", c.head_dim),
        ("feed-forward size", c.ffn_size),
        ("context length", c.context_length),
    ] {
        fact(key, value.to_string());
    }
    fact("norm epsilon", c.norm_epsilon.to_string());
    fact("block", format!("{:?}", c.block).to_lowercase());
    fact("activation", c.activation.hf_name().to_owned());
    fact("attention scale", scale(c));
    fact("attention window", windows(c));
    for (key, value) in [("attention soft cap", c.attention_softcap), ("soft cap of logits", c.final_softcap)]
    {
        if let Some(value) = value {
            fact(key, value.to_string());
        }
    }
    if let Some(experts) = &c.experts {
        fact("experts", experts.count.to_string());
        fact("experts used", experts.used.to_string());
        fact("expert feed-forward size", experts.ffn_size.to_string());
        fact("expert weights normalized", experts.normalized.to_string());
        if let Some(width) = experts.latent {
            fact("expert inputs", width.to_string());
        }
    }
    if matches!(a.position, Position::Rotary) {
        let rope = &c.rope;
        fact("rope base", rope.theta.to_string());
        fact("rope dimensions", rope.dimensions.to_string());
        fact("rope scaling", scaling(c, across));
        if let Some(theta) = rope.local_theta {
            fact("rope base under the window", theta.to_string());
        }
        if let Some(factors) = &rope.factors {
            fact("rope factors", list(factors));
        }
    }
    if let Some(limit) = c.qkv_limit {
        fact("queries, keys and values cut off at", limit.to_string());
    }
    let unrotated: Vec<String> = (0..c.layers).filter(|&l| !c.rotates(l)).map(|l| l.to_string()).collect();
    if !unrotated.is_empty() {
        fact("layers without rotation", unrotated.join(", "));
    }
    for (what, multiplier) in [
        ("embeddings multiplied by", c.embedding_multiplier),
        ("additions to the residual stream multiplied by", c.residual_multiplier),
        ("logits multiplied by", c.logit_multiplier / c.logit_divisor),
    ] {
        if multiplier != 1.0 {
            fact(what, multiplier.to_string());
        }
    }
    fact("tied embeddings", c.tied_embeddings.to_string());
    if let Some(dtype) = c.dtype {
        fact("published type", dtype.name().to_owned());
    }
    if let Some(method) = &c.quantization {
        fact("quantization", method.clone());
    }
    facts
}

fn scale(c: &Config) -> String {
    let by_layer = if c.scaled_by_layer { ", divided by the number of the layer" } else { "" };
    format!("{}{by_layer}", c.attention_scale(0))
}

/// The window of every layer, runs of equal ones together.
fn windows(c: &Config) -> String {
    let windows: Vec<Option<usize>> = (0..c.layers).map(|layer| c.window(layer)).collect();
    if windows.iter().all(Option::is_none) {
        return "none".into();
    }
    let run = |run: &[Option<usize>]| {
        let window = run.first().copied().flatten().map_or_else(|| "none".to_owned(), |w| w.to_string());
        if run.len() == 1 { window } else { format!("{window} × {}", run.len()) }
    };
    windows.chunk_by(|x, y| x == y).map(run).collect::<Vec<_>>().join(", ")
}

/// The scaling, without what [`quern_model::Rope::factors`] holds.
fn scaling(c: &Config, across: bool) -> String {
    let attention = c.rope.scaling.attention_factor(c.context_length) as f32;
    match &c.rope.scaling {
        // A matter of its factors.
        RopeScaling::None | RopeScaling::Llama3 { .. } => "none".into(),
        // No text is as long as it takes to matter, and GGUF has no key for it.
        RopeScaling::Dynamic { .. } if across => "none".into(),
        RopeScaling::Dynamic { factor } => format!("dynamic, factor {factor}"),
        RopeScaling::Linear { factor } => format!("linear, factor {factor}"),
        RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow, truncate, .. } => format!(
            "yarn, factor {factor}, original context {original_context}, attention factor {attention}, beta \
             {beta_fast} and {beta_slow}{}",
            if *truncate { "" } else { ", not truncated" }
        ),
        RopeScaling::Long { short, long, original_context, .. } => format!(
            "longrope, original context {original_context}, attention factor {attention}, short {}, long {}",
            list(short),
            list(long)
        ),
    }
}

fn list(values: &[f32]) -> String {
    values.iter().map(f32::to_string).collect::<Vec<_>>().join(" ")
}
