//! The rows on rotary embedding, sliding windows, soft caps and the scale of attention.

use crate::{Attention, Rope, Scaling};

/// One row for each that is out of the ordinary, as label and text.
pub(super) fn rows(attention: &Attention) -> Vec<(&'static str, String)> {
    let mut rows = Vec::new();
    rows.extend(attention.rope.as_ref().and_then(rope).map(|text| ("rope", text)));
    if let Some(window) = &attention.sliding_window {
        rows.push(("sliding window", format!("{} positions in {}", window.size, layers_of(&window.layers))));
    }
    if !attention.unrotated_layers.is_empty() {
        let layers = &attention.unrotated_layers;
        rows.push(("not rotated", format!("queries and keys of {}", layers_of(layers))));
    }
    let caps = [("attention scores", attention.attention_softcap), ("logits", attention.final_softcap)];
    let caps: Vec<String> =
        caps.iter().filter_map(|(what, cap)| Some(format!("{} on {what}", (*cap)?))).collect();
    if !caps.is_empty() {
        rows.push(("soft caps", caps.join(", ")));
    }
    if let Some(scale) = attention.attention_scale {
        let by_layer = if attention.attention_scaled_by_layer { ", in layer i divided by i + 1" } else { "" };
        rows.push(("attention scale", format!("{scale}{by_layer}")));
    }
    let multipliers = [
        ("embeddings", attention.embedding_multiplier),
        ("what each layer adds", attention.residual_multiplier),
        ("logits", attention.logit_multiplier),
    ];
    let multipliers = multipliers.iter().filter_map(|(what, by)| Some(format!("{what} by {}", (*by)?)));
    let multipliers: Vec<String> = multipliers.collect();
    if !multipliers.is_empty() {
        rows.push(("multiplied", multipliers.join(", ")));
    }
    rows
}

/// Some layers, by their numbers.
fn layers_of(layers: &[usize]) -> String {
    match layers {
        [one] => format!("layer {one}"),
        several => format!("{} layers: {}", several.len(), ranges(several)),
    }
}

/// What the base alone, which the context's row shows, does not say.
fn rope(rope: &Rope) -> Option<String> {
    let mut parts = Vec::new();
    if let Some(base) = rope.local_base {
        parts.push(format!("base {base} under the sliding window"));
    }
    parts.extend(rope.scaling.as_ref().map(scaling));
    if parts.is_empty() {
        return None;
    }
    Some(format!("{} dimensions, {}", rope.dimensions, parts.join(", ")))
}

fn scaling(scaling: &Scaling) -> String {
    match scaling {
        Scaling::Linear { factor } => format!("linear scaling: factor {factor}"),
        Scaling::Dynamic { factor } => {
            format!("dynamic scaling: factor {factor}, beyond the trained context only")
        }
        Scaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => format!(
            "llama3 scaling: factor {factor}, low_freq_factor {low_freq_factor}, high_freq_factor \
             {high_freq_factor}, original context {original_context}"
        ),
        Scaling::Yarn { factor, original_context, attention_factor, beta_fast, beta_slow, truncate } => {
            let truncate = if *truncate { "" } else { ", not truncated" };
            format!(
                "yarn scaling: factor {factor}, original context {original_context}, attention factor \
                 {attention_factor}, beta_fast {beta_fast}, beta_slow {beta_slow}{truncate}"
            )
        }
        Scaling::Longrope { original_context, attention_factor, short_factor, long_factor } => format!(
            "longrope scaling: original context {original_context}, attention factor {attention_factor}, \
             short factors {}, long factors {}",
            span(short_factor),
            span(long_factor)
        ),
        Scaling::Factors { factors } => format!("scaled by factors {}", span(factors)),
    }
}

/// The smallest and the largest of them.
fn span(values: &[f32]) -> String {
    let smallest = values.iter().copied().fold(f32::INFINITY, f32::min);
    let largest = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    format!("{smallest} to {largest}")
}

/// Ascending numbers, consecutive ones as a range: `0-4, 6-10`.
fn ranges(numbers: &[usize]) -> String {
    let mut parts: Vec<(usize, usize)> = Vec::new();
    for &n in numbers {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == n => *last = n,
            _ => parts.push((n, n)),
        }
    }
    let part = |&(first, last): &(usize, usize)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    parts.iter().map(part).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_joined() {
        assert_eq!(ranges(&[0, 1, 2, 4, 6, 7]), "0-2, 4, 6-7");
        assert_eq!(ranges(&[3]), "3");
    }
}
