//! What kind of tensor each is, and of which layer: by the architecture's description, by its name where quern has none.
//!
//! A kind goes by GGUF's name without layer and ending: `attn_q` for `model.layers.3.self_attn.q_proj.weight` and for
//! `blk.3.attn_q.weight`, `attn_q.bias` for the biases.

use std::collections::HashMap;

use quern_model::architecture::{Convention, Layout, TensorTemplate};
use quern_model::contents::{Place, Woven};
use quern_model::{Config, Contents, TensorRole};
use quern_tensor_io::Checkpoint;
use quern_tensor_io::scheme::Packing;

use super::channels::Axis;

/// Kind and layer of one tensor.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Kind {
    /// The kind.
    pub name: String,
    /// Its layer; `None` outside the blocks.
    pub layer: Option<usize>,
    /// Where the input channels are, of the matrix of a linear layer.
    pub input: Option<Axis>,
    /// Position in the architecture's order; unknown kinds come after all known ones.
    pub order: usize,
}

/// The kinds of a checkpoint's tensors.
#[derive(Debug, Default)]
pub(super) struct Kinds {
    plain: HashMap<usize, Kind>,
    packed: HashMap<usize, Kind>,
}

impl Kinds {
    /// Reads the configuration; where that is not possible, names have to do.
    pub fn of(checkpoint: &Checkpoint) -> Self {
        let mut kinds = Self::default();
        let Ok(config) = Config::from_checkpoint(checkpoint) else { return kinds };
        let Ok(packing) = Packing::read(checkpoint) else { return kinds };
        let hugging_face = config.convention == Convention::HuggingFace;
        let templates = config.architecture.tensors;
        for held in Contents::matched(checkpoint, config, packing).tensors() {
            let (template, layer) = (held.expected.template, held.expected.layer);
            let order = templates.iter().position(|t| std::ptr::eq(t, template)).unwrap_or(templates.len());
            // Packed layers are stored the usual way round.
            let plain = matches!(held.place, Place::Plain(_));
            let transposed = template.layout == Layout::Transposed && hugging_face && plain;
            let axis = if transposed { Axis::Rows } else { Axis::Columns };
            // Inputs of all experts are rows of one tensor.
            let woven = matches!(held.place, Place::Woven(_));
            let input = (is_linear(template) && !woven).then_some(axis);
            let kind = Kind { name: kind_of(template), layer, input, order };
            match held.place {
                Place::Plain(span) | Place::Woven(Woven { span, .. }) => {
                    kinds.plain.entry(span.tensor).or_insert(kind)
                }
                Place::Packed(number) | Place::PackedRows { layer: number, .. } => {
                    kinds.packed.entry(number).or_insert(kind)
                }
            };
        }
        kinds
    }

    /// The kind of the tensor with this place, name and number of dimensions.
    pub fn kind(&self, place: Option<Place>, name: &str, dimensions: usize) -> Kind {
        let known = match place {
            Some(Place::Plain(span) | Place::Woven(Woven { span, .. })) => self.plain.get(&span.tensor),
            Some(Place::Packed(number) | Place::PackedRows { layer: number, .. }) => self.packed.get(&number),
            None => None,
        };
        known.cloned().unwrap_or_else(|| by_name(name, dimensions))
    }
}

/// `blk.{layer}.attn_q.weight` is of the kind `attn_q`.
fn kind_of(template: &TensorTemplate) -> String {
    let name = template.gguf.strip_prefix("blk.{layer}.").unwrap_or(template.gguf);
    let name = name.strip_suffix(".weight").unwrap_or(name);
    // GGUF has parts of it alone.
    let own = template.hf.filter(|_| name.is_empty()).map(|hf| hf.strip_suffix(".weight").unwrap_or(hf));
    own.and_then(|hf| hf.rsplit('.').next()).unwrap_or(name).to_owned()
}

/// Whether it is the matrix of a linear layer: of two dimensions or more, and not a table that is looked up.
fn is_linear(template: &TensorTemplate) -> bool {
    let table = matches!(template.role, TensorRole::TokenEmbedding | TensorRole::PositionEmbedding);
    let norm = matches!(template.role, TensorRole::AttentionQNorm | TensorRole::AttentionKNorm);
    template.shape.len() >= 2 && !table && !norm
}

/// The kind of a tensor that no description covers: its name without numbers. The first number is taken for the layer.
fn by_name(name: &str, dimensions: usize) -> Kind {
    let number = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let parts: Vec<&str> = name.split('.').collect();
    let at = parts.iter().position(number);
    let layer = at.and_then(|at| parts[at].parse().ok());
    let rest = parts[at.map_or(0, |at| at + 1)..].iter().filter(|part| !number(part));
    let rest = rest.copied().collect::<Vec<_>>().join(".");
    let kind = rest.strip_suffix(".weight").unwrap_or(&rest);
    let kind = if kind.is_empty() || kind == "weight" { name } else { kind };
    let table = ["embd", "embed", "wte", "wpe"].iter().any(|mark| name.contains(mark));
    let input = (dimensions >= 2 && !table).then_some(Axis::Columns);
    Kind { name: kind.to_owned(), layer, input, order: usize::MAX }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_names_are_split_into_layer_and_kind() {
        for (name, kind, layer) in [
            ("model.layers.3.mlp.up_proj.weight", "mlp.up_proj", Some(3)),
            ("blk.12.ssm_in.weight", "ssm_in", Some(12)),
            ("model.layers.1.mlp.experts.7.w1.weight", "mlp.experts.w1", Some(1)),
            ("transformer.h.0.attn.bias", "attn.bias", Some(0)),
            ("lm_head.weight", "lm_head", None),
            ("h.4", "h.4", Some(4)),
            ("", "", None),
        ] {
            let found = by_name(name, 2);
            assert_eq!((found.name.as_str(), found.layer), (kind, layer), "{name}");
        }
        assert_eq!(by_name("model.embed_tokens.weight", 2).input, None);
        assert_eq!(by_name("lm_head.weight", 2).input, Some(Axis::Columns));
    }
}
