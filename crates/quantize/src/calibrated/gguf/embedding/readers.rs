//! How much of an error in the residual stream the weights that read it pass on, for models whose gradients are not known.

use quern_compute::Pool;
use quern_model::View;
use quern_run::Model;

use crate::gptq::Hessian;

/// Weights that are decoded at once.
const VALUES: usize = 1 << 22;

/// What reads the residual stream in a block, with the norm before it.
const READERS: [(&str, &[&str]); 2] = [
    ("attn_norm", &["attn_q", "attn_k", "attn_v", "attn_qkv"]),
    ("ffn_norm", &["ffn_gate", "ffn_up", "ffn_gate_exps", "ffn_up_exps", "ffn_gate_shexp", "ffn_up_shexp"]),
];

/// Sums the products of the rows of these weights. Those of experts count by the share of tokens that choose them.
pub(super) fn gram(model: &Model, view: &View<'_>, columns: usize) -> Hessian {
    let mut sum = Hessian::new(columns);
    let config = model.config();
    let chosen = config.experts.as_ref().map_or(1.0, |e| (e.used as f32 / e.count as f32).sqrt());
    for layer in 0..config.layers {
        for (norm, weights) in READERS {
            let name = |part: &str| format!("blk.{layer}.{part}.weight");
            let norm = vector(view, &name(norm), columns);
            for part in weights {
                let factor = if part.ends_with("_exps") { chosen } else { 1.0 };
                add(model.pool(), view, &name(part), norm.as_deref(), factor, &mut sum);
            }
        }
    }
    sum
}

/// A vector of the model, if it has one of this length.
fn vector(view: &View<'_>, name: &str, length: usize) -> Option<Vec<f32>> {
    let index = view.tensors().iter().position(|t| t.name == name && t.shape == [length])?;
    let mut values = vec![0f32; length];
    view.decode(index, 0..1, &mut values).then_some(values)
}

/// Adds a matrix, if the model has it.
fn add(pool: &Pool, view: &View<'_>, name: &str, norm: Option<&[f32]>, factor: f32, sum: &mut Hessian) {
    let columns = sum.columns();
    let found = view.tensors().iter().position(|t| t.name == name && t.columns() == columns);
    let Some(index) = found else { return };
    let rows = view.tensors()[index].rows();
    let step = (VALUES / columns.max(1)).next_multiple_of(16);
    for start in (0..rows).step_by(step) {
        let end = rows.min(start + step);
        let mut values = vec![0f32; (end - start) * columns];
        if !view.decode(index, start..end, &mut values) {
            return;
        }
        for row in values.chunks_exact_mut(columns) {
            match norm {
                Some(norm) => row.iter_mut().zip(norm).for_each(|(w, n)| *w *= n * factor),
                None => row.iter_mut().for_each(|w| *w *= factor),
            }
        }
        sum.add(pool, &values);
        view.release(index, start..end);
    }
}
