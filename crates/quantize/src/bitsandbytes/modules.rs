//! Which tensors are weights of linear layers that transformers would quantize.
//!
//! transformers replaces every `nn.Linear` except the output head ([`crate::linears`] says what these are). Experts are
//! not quantized, as in transformers 5, which stores them in one three-dimensional tensor that is no `nn.Linear`.

use std::collections::BTreeSet;

use quern_model::{TensorRole, View, ViewTensor};
use quern_tensor_io::{ElementType, ErrorKind, Result};
use serde_json::Value;

use crate::linears::{Class, Classes, Skipped};
use crate::plain_source;

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

/// Chooses the tensors of `source` to quantize, all linear layers but those that `skip` matches.
///
/// # Errors
/// Linear layers of another type than bitsandbytes takes, a pattern that is none.
pub(super) fn choose(view: &View<'_>, order: &[usize], skip: &[String]) -> Result<Choice> {
    let source = view.checkpoint();
    let config = plain_source::read_config(source)?;
    let skipped = Skipped::new(source, skip)?;
    let tensors = || order.iter().map(|&number| &view.tensors()[number]);
    let classes = Classes::new(tensors());

    let mut choice = Choice { quantized: Vec::new(), skip: None, experts: 0, dtype: dtype(&config) };
    let (mut heads, mut others) = (BTreeSet::new(), BTreeSet::new());
    for tensor in tensors() {
        // All experts in one tensor, which is no linear layer either.
        use TensorRole as R;
        let experts = [R::ExpertsGate, R::ExpertsUp, R::ExpertsGateUp, R::ExpertsDown];
        let expert = tensor.role.is_some_and(|role| experts.contains(&role));
        if expert && tensor.shape.len() == 3 {
            choice.experts += tensor.shape[0];
            choice.quantized.push(false);
            continue;
        }
        // Queries, keys and values in one matrix, which is read as plain numbers alone.
        if view.is_together(tensor) {
            let module = tensor.name.strip_suffix(".weight").unwrap_or(&tensor.name);
            others.insert(module.rsplit('.').next().unwrap_or(module).to_owned());
            choice.quantized.push(false);
            continue;
        }
        let Some((module, class)) = classes.of(tensor) else {
            choice.quantized.push(false);
            continue;
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
        let quantized = class == Class::Linear && !skipped.matches(module);
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
