//! What differs between layers: heads, networks, keys and values that layers share, parameters of activations.

use quern_tensor_io::{Error, Result, Value};

use crate::architecture::TensorRole;

use super::Config;
use super::gguf_keys::Keys;

/// xIELU's parameters, as GGUF names them, and what they are for.
pub const XIELU: [(&str, TensorRole); 4] = [
    ("xielu.alpha_p", TensorRole::XieluAlphaP),
    ("xielu.alpha_n", TensorRole::XieluAlphaN),
    ("xielu.beta", TensorRole::XieluBeta),
    ("xielu.eps", TensorRole::XieluEps),
];

/// Key heads of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyHeads {
    /// How many.
    pub count: usize,
    /// Values of each.
    pub size: usize,
}

/// Vectors that each token adds in each layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PerLayer {
    /// Values of one.
    pub size: usize,
    /// Tokens that have some.
    pub vocab: usize,
}

impl Config {
    /// Key heads of this layer, and values of each.
    pub fn key_heads(&self, layer: usize) -> (usize, usize) {
        match self.windowed_heads {
            Some(heads) if self.window(layer).is_some() => (heads.count, heads.size),
            Some(_) | None => (self.kv_heads, self.head_dim),
        }
    }

    /// The most values that queries, and that keys, of a position have in any layer.
    pub fn widest_heads(&self) -> (usize, usize) {
        let own = KeyHeads { count: self.kv_heads, size: self.head_dim };
        let all = || [Some(own), self.windowed_heads].into_iter().flatten();
        let query = all().map(|heads| self.heads * heads.size).max().unwrap_or(0);
        (query, all().map(|heads| heads.count * heads.size).max().unwrap_or(0))
    }

    /// Values of all residual streams of a token.
    pub fn stream_width(&self) -> usize {
        self.streams * self.hidden_size
    }

    /// Where this layer's gates are cut off, in standard deviations above their mean.
    pub fn cutoff(&self, layer: usize) -> Option<f32> {
        self.cutoffs.get(layer).copied().filter(|cutoff| cutoff.is_finite())
    }

    /// Width inside this layer's feed-forward network.
    pub fn ffn_of(&self, layer: usize) -> usize {
        let doubled = self.shared_ffn_doubled && layer + self.shared_kv_layers >= self.layers;
        self.ffn_size * if doubled { 2 } else { 1 }
    }

    /// The widest feed-forward network.
    pub fn widest_ffn(&self) -> usize {
        (0..self.layers).map(|layer| self.ffn_of(layer)).max().unwrap_or(self.ffn_size)
    }

    /// The layer whose keys and values this one uses, if they are not its own: the last of its kind with some.
    pub fn kv_source(&self, layer: usize) -> Option<usize> {
        let own = self.layers.saturating_sub(self.shared_kv_layers);
        let windowed = |layer: usize| self.window(layer).is_some();
        (layer >= own).then(|| (0..own).rev().find(|&source| windowed(source) == windowed(layer)))?
    }

    /// Whether a later layer uses this layer's keys and values.
    pub fn lends_keys(&self, layer: usize) -> bool {
        (layer + 1..self.layers).any(|later| self.kv_source(later) == Some(layer))
    }

    /// Whether this layer's values are its keys.
    pub fn values_are_keys(&self, layer: usize) -> bool {
        self.keys_as_values && self.window(layer).is_none()
    }
}

/// xIELU's parameters, each one number or one for each layer, under keys of their own.
pub(super) fn xielu(keys: &Keys<'_>, layers: usize) -> Result<Vec<[f32; 4]>> {
    let mut all = vec![[0.0; 4]; layers];
    for (at, (key, _)) in XIELU.into_iter().enumerate() {
        match (keys.metadata.f32s(key), keys.metadata.get(key)) {
            (Some(list), _) if list.len() == layers => {
                all.iter_mut().zip(list).for_each(|(own, value)| own[at] = *value);
            }
            (None, Some(Value::F32(value))) => all.iter_mut().for_each(|own| own[at] = *value),
            _ => {
                let what = format!("{key}: a number for each of the {layers} layers is expected");
                return Err(Error::malformed(keys.file, what));
            }
        }
    }
    Ok(all)
}
