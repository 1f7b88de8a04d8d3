//! Which modules the configuration of a quantized checkpoint lists as plain.

use crate::{TensorRole, ViewTensor};

/// The modules of matrices that stay plain, as readers of a configuration must know them: all but embeddings, and the head
/// in any case. Where it is tied to the embedding it has no tensor, but readers build a linear layer for it.
pub fn plain_modules<'t>(tensors: impl Iterator<Item = &'t ViewTensor>) -> Vec<String> {
    let is_embedding = |tensor: &ViewTensor| match tensor.role {
        Some(role) => matches!(role, TensorRole::TokenEmbedding | TensorRole::PositionEmbedding),
        None => tensor.name.contains("embed"),
    };
    let matrices = tensors.filter(|t| t.shape.len() == 2 && t.element_type.is_float() && !is_embedding(t));
    let mut modules: Vec<String> =
        matrices.filter_map(|t| t.name.strip_suffix(".weight")).map(str::to_owned).collect();
    if !modules.iter().any(|module| module == "lm_head") {
        modules.push("lm_head".to_owned());
    }
    modules
}
