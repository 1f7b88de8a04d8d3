//! Which tensors are weights of linear layers that transformers would quantize.
//!
//! transformers replaces every `nn.Linear` except the output head. A file does not say what class a tensor
//! belongs to; the roles of the architectures quern knows do, and for all others the name does: a matrix
//! `P.weight` of floats where `P` is no embedding, norm or head. Experts are not quantized, as in transformers 5,
//! which stores them in one three-dimensional tensor that is no `nn.Linear`.

use std::collections::BTreeSet;

use quern_model::pattern::{MOST_PATTERNS, NamePattern, shown};
use quern_model::{TensorRole, View, ViewTensor};
use quern_tensor_io::{Checkpoint, ElementType, Error, ErrorKind, Result};
use serde_json::Value;

use super::source;

/// What becomes of a checkpoint's tensors.
#[derive(Debug)]
pub(super) struct Choice {
    /// Whether each tensor is quantized.
    pub quantized: Vec<bool>,
    /// What goes into `llm_int8_skip_modules`; `None` where transformers' own choice is the same.
    pub skip: Option<Vec<String>>,
    /// Matrices of experts that are not quantized.
    pub experts: usize,
    /// The type the configuration says the weights have.
    pub dtype: Option<ElementType>,
}

/// What a module is, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Linear,
    Head,
    Expert,
    /// Chooses among the experts beside it.
    Router,
    Other,
}

/// Chooses the tensors of `source` to quantize, all linear layers but those that `skip` matches.
///
/// # Errors
/// Linear layers of another type than bitsandbytes takes, a pattern that is none.
pub(super) fn choose(view: &View<'_>, order: &[usize], skip: &[String]) -> Result<Choice> {
    let source = view.checkpoint();
    let config = source::read_config(source)?;
    if skip.len() > MOST_PATTERNS {
        let what = format!("{} modules to skip, and at most {MOST_PATTERNS} can be named", skip.len());
        return Err(Error::refused(source.path(), what));
    }
    let patterns = skip.iter().map(|key| Pattern::new(source, key)).collect::<Result<Vec<_>>>()?;
    let tensors = || order.iter().map(|&number| &view.tensors()[number]);
    let expert_parents: BTreeSet<&str> =
        tensors().filter_map(|t| t.name.split_once(".experts.")).map(|(p, _)| p).collect();

    let mut choice = Choice { quantized: Vec::new(), skip: None, experts: 0, dtype: dtype(&config) };
    let (mut heads, mut others) = (BTreeSet::new(), BTreeSet::new());
    for tensor in tensors() {
        // All experts in one tensor, which is no linear layer either.
        if tensor.role.map(of_role) == Some(Class::Expert) && tensor.shape.len() == 3 {
            choice.experts += tensor.shape[0];
            choice.quantized.push(false);
            continue;
        }
        let matrix = tensor.shape.len() == 2 && tensor.rows() * tensor.columns() > 0;
        let Some(module) = tensor.name.strip_suffix(".weight").filter(|_| matrix) else {
            choice.quantized.push(false);
            continue;
        };
        let class = match tensor.role {
            Some(role) => of_role(role),
            None => of_name(module, &expert_parents),
        };
        match class {
            Class::Head => drop(heads.insert(module.to_owned())),
            Class::Expert => {
                choice.experts += 1;
                others.insert("experts".to_owned());
            }
            Class::Router => {
                let mut parts = module.rsplitn(3, '.');
                let gate: Vec<&str> = parts.by_ref().take(2).collect();
                others.insert(gate.into_iter().rev().collect::<Vec<_>>().join("."));
            }
            Class::Linear | Class::Other => {}
        }
        let quantized = class == Class::Linear && !patterns.iter().any(|p| p.matches(module));
        if quantized {
            check_type(view, tensor)?;
        }
        choice.quantized.push(quantized);
    }
    if !skip.is_empty() || !others.is_empty() {
        // a list replaces transformers' own choice, so the head must be in it
        if heads.is_empty() {
            heads.insert("lm_head".into());
        }
        let given = skip.iter().filter(|s| !heads.contains(*s)).cloned();
        choice.skip = Some(heads.iter().cloned().chain(others).chain(given).collect());
    }
    Ok(choice)
}

fn of_role(role: TensorRole) -> Class {
    use TensorRole as R;
    match role {
        R::AttentionQ | R::AttentionK | R::AttentionV | R::AttentionOutput => Class::Linear,
        R::AttentionQkv | R::FfnGateUp | R::EmbeddingIn | R::EmbeddingOut => Class::Linear,
        R::AttentionQDown | R::AttentionQUp | R::AttentionKvDown | R::AttentionKvUp => Class::Linear,
        R::FfnGate | R::FfnUp | R::FfnDown | R::SharedGate | R::SharedUp | R::SharedDown => Class::Linear,
        R::StateIn | R::DeltaQkv | R::DeltaGate | R::DeltaBeta | R::DeltaAlpha | R::StateOut => Class::Linear,
        R::ExpertsGate | R::ExpertsUp | R::ExpertsDown => Class::Expert,
        R::Router | R::SharedRouter => Class::Router,
        R::Output => Class::Head,
        _ => Class::Other,
    }
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

/// A key of `llm_int8_skip_modules`, matched as transformers does.
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

fn dtype(config: &Value) -> Option<ElementType> {
    let name = [&config["dtype"], &config["torch_dtype"]].into_iter().find_map(Value::as_str)?;
    match name.strip_prefix("torch.").unwrap_or(name) {
        "float16" => Some(ElementType::F16),
        "bfloat16" => Some(ElementType::BF16),
        "float32" => Some(ElementType::F32),
        _ => None,
    }
}

fn check_type(view: &View<'_>, tensor: &ViewTensor) -> Result<()> {
    if matches!(tensor.element_type, ElementType::F32 | ElementType::F16 | ElementType::BF16) {
        return Ok(());
    }
    let what = format!(
        "the weights of a linear layer are {}; bitsandbytes quantizes f32, f16 and bf16 only: start from such \
         weights",
        tensor.element_type
    );
    Err(view.error(tensor, ErrorKind::Unsupported(what)))
}
