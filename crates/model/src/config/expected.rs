//! The tensors a configuration demands.

use crate::architecture::{Dim, Presence, TensorRole, TensorTemplate, World};

use super::Config;

/// One tensor that must, or may, be there.
#[derive(Clone, Debug)]
pub struct ExpectedTensor {
    /// Its name in the world asked for.
    pub name: String,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// What it is for.
    pub role: TensorRole,
    /// Its layer; `None` outside the blocks.
    pub layer: Option<usize>,
    /// Whether a model may lack it (a tied head, biases in GGUF).
    pub optional: bool,
    /// The description it comes from.
    pub template: &'static TensorTemplate,
}

impl Config {
    /// Every tensor a checkpoint of this configuration has in `world`, first those outside the blocks, then
    /// layer by layer in the architecture's order.
    pub fn expected_tensors(&self, world: World) -> Vec<ExpectedTensor> {
        let templates = self.architecture.tensors;
        let outside = templates.iter().filter(|t| !t.per_layer()).filter_map(|t| self.expect(t, world, None));
        let inside = (0..self.layers).flat_map(|layer| {
            let per_layer = templates.iter().filter(|t| t.per_layer());
            per_layer.filter_map(move |t| self.expect(t, world, Some(layer)))
        });
        outside.chain(inside).collect()
    }

    /// The name of the tensor with this role in `world`, whether or not this model has it.
    pub fn tensor_name(&self, world: World, role: TensorRole, layer: Option<usize>) -> Option<String> {
        let template = self.architecture.tensors.iter().find(|t| t.role == role)?;
        fill(template.name(world)?, layer)
    }

    fn expect(
        &self,
        t: &'static TensorTemplate,
        world: World,
        layer: Option<usize>,
    ) -> Option<ExpectedTensor> {
        let optional = match t.presence {
            Presence::Always => false,
            Presence::UnlessTied => self.tied_embeddings,
            Presence::AttentionBias if self.attention_bias => world == World::Gguf,
            Presence::FfnBias if self.mlp_bias => world == World::Gguf,
            Presence::RopeFactors if self.rope.factors.is_some() => false,
            Presence::AttentionBias | Presence::FfnBias | Presence::RopeFactors => return None,
        };
        let shape = t.shape.iter().map(|&dim| self.size(dim)).collect();
        let name = fill(t.name(world)?, layer)?;
        Some(ExpectedTensor { name, shape, role: t.role, layer, optional, template: t })
    }

    fn size(&self, dim: Dim) -> usize {
        match dim {
            Dim::Vocab => self.vocab_size,
            Dim::Hidden => self.hidden_size,
            Dim::Query => self.heads * self.head_dim,
            Dim::KeyValue => self.kv_heads * self.head_dim,
            Dim::Ffn => self.ffn_size,
            Dim::RopeHalf => self.rope.dimensions / 2,
        }
    }
}

/// Puts the layer's number into a name; `None` if one is missing or too many.
fn fill(template: &str, layer: Option<usize>) -> Option<String> {
    match layer {
        Some(layer) if template.contains("{layer}") => Some(template.replace("{layer}", &layer.to_string())),
        None if !template.contains("{layer}") => Some(template.to_owned()),
        _ => None,
    }
}
