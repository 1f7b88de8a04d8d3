//! Which tensors are weights of linear layers, and which of those a user names.
//!
//! A file does not say what class a tensor belongs to; the roles of the architectures quern knows do, and for all others
//! the name does: a matrix `P.weight` of floats where `P` is no embedding, norm or head.

use std::collections::BTreeSet;

use quern_model::pattern::{MOST_PATTERNS, NamePattern, shown};
use quern_model::{TensorRole, ViewTensor};
use quern_tensor_io::{Checkpoint, Error, Result};

/// What a module is, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Linear,
    Head,
    Expert,
    /// Chooses among the experts beside it, or among positions.
    Router,
    Other,
}

/// What modules are, by the roles of their tensors or by their names.
pub(crate) struct Classes<'a> {
    /// Modules that hold experts, whose `gate` chooses among them.
    expert_parents: BTreeSet<&'a str>,
}

impl<'a> Classes<'a> {
    /// For these tensors.
    pub fn new(tensors: impl Iterator<Item = &'a ViewTensor>) -> Self {
        let parents = tensors.filter_map(|t| t.name.split_once(".experts.")).map(|(parent, _)| parent);
        Self { expert_parents: parents.collect() }
    }

    /// The module whose weight this is and what it is; `None` if it is no matrix, or no weight.
    pub fn of<'t>(&self, tensor: &'t ViewTensor) -> Option<(&'t str, Class)> {
        let matrix = tensor.shape.len() == 2 && tensor.rows() * tensor.columns() > 0;
        let module = tensor.name.strip_suffix(".weight").filter(|_| matrix)?;
        let class = match tensor.role {
            Some(role) => of_role(role),
            None => of_name(module, &self.expert_parents),
        };
        Some((module, class))
    }
}

fn of_role(role: TensorRole) -> Class {
    use TensorRole as R;
    match role {
        R::AttentionQ | R::AttentionK | R::AttentionV | R::AttentionOutput => Class::Linear,
        R::AttentionQkv | R::FfnGateUp | R::EmbeddingIn | R::EmbeddingOut => Class::Linear,
        R::AttentionQDown | R::AttentionQUp | R::AttentionKvDown | R::AttentionKvUp => Class::Linear,
        R::FfnGate | R::FfnUp | R::FfnDown | R::SharedGate | R::SharedUp | R::SharedDown => Class::Linear,
        R::AttentionGate | R::SharedGateUp | R::ExpertsIn | R::ExpertsOut => Class::Linear,
        R::StateIn | R::DeltaQkv | R::DeltaGate | R::StateOut => Class::Linear,
        R::DeltaBeta | R::DeltaAlpha | R::DeltaBetaAlpha => Class::Linear,
        R::ExpertsGate | R::ExpertsUp | R::ExpertsGateUp | R::ExpertsDown => Class::Expert,
        R::Router | R::SharedRouter => Class::Router,
        role if chooses_positions(role) => Class::Router,
        R::Output => Class::Head,
        _ => Class::Other,
    }
}

/// Whether a layer is part of an indexer, which calibrated jobs leave as it is while they run a model: what it chooses is
/// then what later layers are calibrated with.
pub(crate) fn chooses_positions(role: TensorRole) -> bool {
    use TensorRole as R;
    [R::IndexerQ, R::IndexerK, R::IndexerWeights].contains(&role)
}

fn of_name(module: &str, expert_parents: &BTreeSet<&str>) -> Class {
    let (parent, last) = module.rsplit_once('.').unwrap_or(("", module));
    let whole_name_heads = ["output", "score", "classifier", "qa_outputs", "cls.predictions.decoder"];
    if module.split('.').any(|part| matches!(part, "lm_head" | "embed_out"))
        || whole_name_heads.contains(&module)
    {
        return Class::Head;
    }
    if module.split('.').any(|part| part == "experts") {
        return Class::Expert;
    }
    if last == "gate" && expert_parents.contains(parent) {
        return Class::Router;
    }
    let projects = last.contains("proj") || last.contains("mapping");
    let embeds = (last.contains("embed") && !projects)
        || matches!(last, "wte" | "wpe" | "wtt" | "shared" | "emb" | "relative_attention_bias");
    if embeds || last.contains("norm") || last.starts_with("ln_") || last == "ln" {
        return Class::Other;
    }
    Class::Linear
}

/// Modules that are left as they are, named as in `llm_int8_skip_modules` and matched as transformers does.
pub(crate) struct Skipped<'a>(Vec<Pattern<'a>>);

impl<'a> Skipped<'a> {
    /// # Errors
    /// Too many keys, or one that is neither part of a name nor a regular expression.
    pub fn new(source: &Checkpoint, keys: &'a [String]) -> Result<Self> {
        if keys.len() > MOST_PATTERNS {
            let what = format!("{} modules to skip, and at most {MOST_PATTERNS} can be named", keys.len());
            return Err(Error::refused(source.path(), what));
        }
        keys.iter().map(|key| Pattern::new(source, key)).collect::<Result<_>>().map(Self)
    }

    /// Whether this module is one of them.
    pub fn matches(&self, module: &str) -> bool {
        self.0.iter().any(|pattern| pattern.matches(module))
    }
}

/// One key.
struct Pattern<'a> {
    key: &'a str,
    start: NamePattern,
}

impl<'a> Pattern<'a> {
    fn new(source: &Checkpoint, key: &'a str) -> Result<Self> {
        let boundary = if key.ends_with('.') { "" } else { r"(?:\.|$)" };
        let help =
            "give the beginning of a name (model.layers.0), its end (down_proj) or a regular expression";
        let why = match NamePattern::from_start(key, boundary) {
            Ok(start) if !key.is_empty() => return Ok(Self { key, start }),
            Ok(_) => help.to_owned(),
            Err(e) => format!("bad regular expression: {e}; {help}"),
        };
        Err(Error::refused(source.path(), format!("{} names no modules to skip: {why}", shown(key))))
    }

    fn matches(&self, module: &str) -> bool {
        module.ends_with(self.key) || self.start.is_match(module)
    }
}
