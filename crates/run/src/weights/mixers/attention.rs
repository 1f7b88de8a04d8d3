//! The tensors of attention over cached keys and values.

use quern_compute::{Norm, Uploader, Vector, bytes_of_norm, bytes_of_vector};
use quern_model::{Config, TensorRole};

use super::super::Linear;
use super::super::lookup::Lookup;
use crate::Result;

/// Attention over cached keys and values.
#[derive(Clone, Debug)]
pub(crate) struct Attention {
    pub(crate) qkv: Qkv,
    pub(crate) head_norms: Option<HeadNorms>,
    /// A score for each query head that joins the sum of its softmax (gpt-oss).
    pub(crate) sinks: Option<Vector>,
    pub(crate) output: Linear,
    /// Gates of what it gathers, where a matrix of their own computes them (AFMoE).
    pub(crate) gate: Option<Linear>,
    /// The query projection also computes a gate of each head's result, behind the head's query (Qwen3-Next).
    pub(crate) gated: bool,
}

/// Norms of queries and keys: of each head with one weight for all heads, or (StableLM 2) one for each; or of all heads
/// of a token together.
#[derive(Clone, Debug)]
pub(crate) struct HeadNorms {
    pub(crate) q: Norm,
    pub(crate) k: Norm,
    /// Of each head's values (Gemma 4).
    pub(crate) v: Option<Norm>,
    /// All heads of a token are normalized together (OLMo 2).
    pub(crate) whole: bool,
    /// Numbers of them that the checkpoint has.
    stored: usize,
}

/// The projections to queries, keys and values.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)] // one a layer
pub(crate) enum Qkv {
    /// One matrix each.
    Separate { q: Linear, k: Linear, v: Linear },
    /// Values are the keys, before norm and rotation.
    KeysAsValues { q: Linear, k: Linear },
    /// Keys and values are those of an earlier layer.
    Queries { q: Linear },
    /// One for all: all queries, all keys, all values, or, `by_group`, those of each key head together.
    Fused { qkv: Linear, by_group: bool },
}

impl Attention {
    /// Takes the tensors of a layer.
    pub(super) fn resolve(lookup: &Lookup<'_, '_>, config: &Config, layer: usize) -> Result<Self> {
        use TensorRole as R;
        let at = Some(layer);
        let shares = config.kv_source(layer).is_some();
        let qkv = match lookup.has(R::AttentionQkv, at) {
            _ if shares => Qkv::Queries { q: lookup.linear(R::AttentionQ, Some(R::AttentionQBias), at)? },
            _ if config.values_are_keys(layer) => Qkv::KeysAsValues {
                q: lookup.linear(R::AttentionQ, Some(R::AttentionQBias), at)?,
                k: lookup.linear(R::AttentionK, Some(R::AttentionKBias), at)?,
            },
            true => Qkv::Fused {
                qkv: lookup.linear(R::AttentionQkv, Some(R::AttentionQkvBias), at)?,
                by_group: lookup.by_group(R::AttentionQkv, at),
            },
            false => Qkv::Separate {
                q: lookup.linear(R::AttentionQ, Some(R::AttentionQBias), at)?,
                k: lookup.linear(R::AttentionK, Some(R::AttentionKBias), at)?,
                v: lookup.linear(R::AttentionV, Some(R::AttentionVBias), at)?,
            },
        };
        // Norms without weights (Llama 4) are of layers that rotate. What a rotation does not change is computed in front of it.
        let plain = config.architecture.tensors.iter().all(|tensor| tensor.role != R::AttentionQNorm);
        let head_norms = match config.qk_norm {
            true if plain => config.rotates(layer).then(|| HeadNorms {
                q: lookup.plain_norm(config.head_dim),
                k: lookup.plain_norm(config.head_dim),
                v: None,
                whole: false,
                stored: 0,
            }),
            true => {
                let q = lookup.norm(R::AttentionQNorm, None, at)?;
                // Of queries where there are no keys: nothing reads it.
                let k = lookup.norm(if shares { R::AttentionQNorm } else { R::AttentionKNorm }, None, at)?;
                let stored = q.weight.len() + if shares { 0 } else { k.weight.len() };
                let v = config.architecture.normalized_values;
                let v = v.then(|| lookup.plain_norm(config.key_heads(layer).1));
                Some(HeadNorms { q, k, v, whole: config.qk_norm_whole(), stored })
            }
            false => None,
        };
        let output = lookup.linear(R::AttentionOutput, Some(R::AttentionOutputBias), at)?;
        let sinks = lookup.optional(R::AttentionSinks, at)?;
        let gate = match lookup.has(R::AttentionGate, at) {
            true => Some(lookup.linear(R::AttentionGate, None, at)?),
            false => None,
        };
        Ok(Self { qkv, head_norms, sinks, output, gate, gated: config.architecture.gated_attention })
    }

    /// The layers that read the block's normed input.
    pub(super) fn inputs(&self) -> Vec<&Linear> {
        self.qkv.linears().into_iter().chain(&self.gate).collect()
    }

    /// The same, to be replaced.
    pub(super) fn inputs_mut(&mut self) -> Vec<&mut Linear> {
        self.qkv.linears_mut().into_iter().chain(&mut self.gate).collect()
    }

    /// Memory for each token: queries and gates as they are computed, which on a GPU keys and values follow, and gates
    /// alone.
    pub(super) fn scratch(&self) -> usize {
        let rows = |linear: &Linear| linear.op.weight.rows();
        match &self.qkv {
            _ if self.gate.is_some() => self.output.op.weight.columns(),
            Qkv::Separate { q, k, v } if self.gated => {
                rows(q) + rows(k) + rows(v) + self.output.op.weight.columns()
            }
            Qkv::Separate { .. } | Qkv::Fused { .. } | Qkv::KeysAsValues { .. } | Qkv::Queries { .. } => 0,
        }
    }

    /// Numbers in the norms of heads and the sinks.
    pub(super) fn vector_values(&self) -> usize {
        let norms = self.head_norms.as_ref().map_or(0, |norms| norms.stored);
        norms + self.sinks.as_ref().map_or(0, Vector::len)
    }

    /// Bytes of the norms of heads and the sinks on a GPU.
    pub(super) fn vector_bytes(&self) -> usize {
        let norms = self.head_norms.as_ref();
        let norms = norms.map_or(0, |norms| bytes_of_norm(&norms.q) + bytes_of_norm(&norms.k));
        norms + self.sinks.as_ref().map_or(0, |sinks| bytes_of_vector(sinks.len()))
    }

    /// Moves the norms of heads and the sinks to the device that computes attention.
    pub(crate) fn upload_vectors(&mut self, uploader: &mut Uploader) -> Result<()> {
        // Those of all heads together are computed where the projections are.
        if let Some(norms) = self.head_norms.as_mut().filter(|norms| !norms.whole) {
            *norms = norms.upload(uploader)?;
        }
        if let Some(sinks) = &mut self.sinks {
            *sinks = uploader.vector(sinks)?;
        }
        Ok(())
    }

    /// The same on another device.
    pub(super) fn upload(&self, uploader: &mut Uploader) -> Result<Self> {
        let head_norms = match &self.head_norms {
            Some(norms) => Some(norms.upload(uploader)?),
            None => None,
        };
        let qkv = match &self.qkv {
            Qkv::Separate { q, k, v } => {
                Qkv::Separate { q: q.upload(uploader)?, k: k.upload(uploader)?, v: v.upload(uploader)? }
            }
            Qkv::KeysAsValues { q, k } => {
                Qkv::KeysAsValues { q: q.upload(uploader)?, k: k.upload(uploader)? }
            }
            Qkv::Queries { q } => Qkv::Queries { q: q.upload(uploader)? },
            Qkv::Fused { qkv, by_group } => Qkv::Fused { qkv: qkv.upload(uploader)?, by_group: *by_group },
        };
        let sinks = self.sinks.as_ref().map(|sinks| uploader.vector(sinks)).transpose()?;
        let gate = self.gate.as_ref().map(|gate| gate.upload(uploader)).transpose()?;
        Ok(Self { qkv, head_norms, sinks, output: self.output.upload(uploader)?, gate, gated: self.gated })
    }
}

impl HeadNorms {
    /// Those that are of each head.
    pub(crate) fn of_heads(&self) -> Option<(&Norm, &Norm)> {
        (!self.whole).then_some((&self.q, &self.k))
    }

    fn upload(&self, uploader: &mut Uploader) -> Result<Self> {
        let v = self.v.as_ref().map(|norm| uploader.norm(norm)).transpose()?;
        let (q, k) = (uploader.norm(&self.q)?, uploader.norm(&self.k)?);
        Ok(Self { q, k, v, whole: self.whole, stored: self.stored })
    }
}

impl Qkv {
    /// In the order of their outputs.
    pub(crate) fn linears(&self) -> Vec<&Linear> {
        match self {
            Self::Separate { q, k, v } => vec![q, k, v],
            Self::KeysAsValues { q, k } => vec![q, k],
            Self::Queries { q } => vec![q],
            Self::Fused { qkv, .. } => vec![qkv],
        }
    }

    /// The same, to be replaced.
    pub(crate) fn linears_mut(&mut self) -> Vec<&mut Linear> {
        match self {
            Self::Separate { q, k, v } => vec![q, k, v],
            Self::KeysAsValues { q, k } => vec![q, k],
            Self::Queries { q } => vec![q],
            Self::Fused { qkv, .. } => vec![qkv],
        }
    }
}
