//! Summaries and numbers as people read them: the same words in a terminal and in a report.

mod attention;
pub mod escape;
mod provenance;

use crate::Summary;

/// Bytes with a binary unit: `5.06 MiB`.
pub fn bytes(n: u64) -> String {
    bytes_as(n, n)
}

/// Bytes with the unit that `like` has: `0.02 MiB`.
pub fn bytes_as(n: u64, like: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut like) = (n as f64, like as f64);
    let mut unit = 0;
    while like >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        like /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{n} B") } else { format!("{value:.2} {}", UNITS[unit]) }
}

/// A count with a decimal unit: `4.19 M`.
pub fn count(n: u64) -> String {
    match n {
        0..1_000 => n.to_string(),
        1_000..1_000_000 => format!("{:.2} K", n as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2} M", n as f64 / 1e6),
        _ => format!("{:.2} B", n as f64 / 1e9),
    }
}

/// Dimensions, outermost first: `768 × 256`.
pub fn shape(dimensions: &[usize]) -> String {
    dimensions.iter().map(usize::to_string).collect::<Vec<_>>().join(" × ")
}

/// A number in four significant digits: `0.02317`, `1.384e-6`, `12.35`.
pub fn digits(value: f64) -> String {
    let size = value.abs();
    if !value.is_finite() {
        return value.to_string();
    }
    if size == 0.0 {
        return "0".to_owned();
    }
    if !(1e-4..1e6).contains(&size) {
        return format!("{value:.3e}");
    }
    let decimals = (3 - size.log10().floor() as i32).clamp(0, 8) as usize;
    format!("{value:.decimals$}")
}

/// The summary as rows of label and text.
pub fn summary(path: &str, s: &Summary) -> Vec<(&'static str, String)> {
    let mut rows: Vec<(&'static str, String)> = vec![("file", path.to_owned())];
    let files = if s.files > 1 { format!(" in {} files", s.files) } else { String::new() };
    rows.push(("container", format!("{}, {}{files}", s.container, bytes(s.file_size))));
    if let Some(name) = &s.name {
        rows.push(("name", name.clone()));
    }
    rows.push(("architecture", s.sizes.architecture.clone().unwrap_or_else(|| "unknown".into())));
    let scheme = s.quantization.as_ref().map_or(&s.scheme, |q| &q.description);
    rows.push(("scheme", format!("{scheme}, {:.2} bits per weight", s.bits_per_weight)));
    rows.push(("parameters", format!("{} ({})", count(s.parameters), s.parameters)));
    if let (Some(layers), Some(hidden), Some(ffn)) = (s.sizes.layers, s.sizes.hidden_size, s.sizes.ffn_size) {
        rows.push(("shape", format!("{layers} layers, hidden size {hidden}, feed-forward {ffn}")));
    }
    if let (Some(heads), Some(kv), Some(dim)) = (s.sizes.heads, s.sizes.kv_heads, s.sizes.head_dim) {
        rows.push(("attention", format!("{heads} heads of {dim}, {kv} for keys and values")));
    }
    if let Some(context) = s.sizes.context_length {
        let rope = s.sizes.rope_theta.map(|theta| format!(", rope base {theta}")).unwrap_or_default();
        rows.push(("context", format!("{context} positions{rope}")));
    }
    rows.extend(s.attention.iter().flat_map(attention::rows));
    if let Some(vocab) = s.sizes.vocab_size {
        let head = if s.sizes.tied_embeddings == Some(true) { ", head tied to the embedding" } else { "" };
        rows.push(("vocabulary", format!("{vocab}{head}")));
    }
    if let Some(t) = &s.tokenizer {
        let bos = if t.add_bos { ", prompts begin with bos" } else { "" };
        rows.push(("tokenizer", format!("{}, {} tokens{bos}", t.kind, t.vocab_size)));
        let special = t.special.iter().map(|(name, (id, piece))| format!("{name} {id} {piece:?}"));
        rows.push(("special tokens", special.collect::<Vec<_>>().join(", ")));
    }
    let template = s.chat_template.as_ref().map_or_else(
        || "none".into(),
        |t| format!("{} characters, begins {:?}", t.chars().count(), t.chars().take(60).collect::<String>()),
    );
    rows.push(("chat template", template));
    let types = s.types.iter().map(|t| format!("{} × {} ({})", t.tensors, t.element_type, bytes(t.bytes)));
    let types = types.collect::<Vec<_>>().join(", ");
    rows.push(("tensors", if types.is_empty() { "none: a vocabulary alone".into() } else { types }));
    rows.extend(s.provenance.iter().flat_map(provenance::rows));
    rows.extend(s.notes.iter().map(|note| ("note", note.clone())));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        assert_eq!(bytes(512), "512 B");
        assert_eq!(bytes(5_305_216), "5.06 MiB");
        assert_eq!(count(4_194_304), "4.19 M");
        assert_eq!(count(999), "999");
    }
}
