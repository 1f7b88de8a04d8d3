//! A block's forward pass with everything kept that its gradients need.

use std::ops::Range;

use quern_compute::{Attend, Columns, Heads, Recorded, Rotate};
use quern_model::Config;
use quern_model::architecture::Block as BlockKind;

use crate::forward::{activation, attention_shape, rope_style};
use crate::weights::{Attention, Block, Ffn, HeadNorms, Qkv, Widen};
use crate::{Error, Result};

use super::attention_of;
use super::products::Machine;
use super::vectors::Vectors;

/// The activations of one block for one batch; each is `[tokens][width]`.
#[derive(Debug)]
pub(super) struct Tape {
    /// The residual stream in front of the block.
    pub(super) x: Vectors,
    /// Inputs of Q, K and V.
    pub(super) normed: Vectors,
    /// Queries and keys before the norms of heads.
    pub(super) unnormed: Option<[Vectors; 2]>,
    /// Queries and keys as they are multiplied, and values.
    pub(super) qkv: [Vectors; 3],
    /// Inputs of the output projection.
    pub(super) attended: Vectors,
    /// What attention's gradients need besides, on a GPU.
    pub(super) log_sums: Vectors,
    /// What the output projection returns.
    pub(super) projected: Vectors,
    /// The residual stream with attention's result added.
    pub(super) sum: Vectors,
    /// Inputs of the network. Where norms are behind the sums, the residual stream too.
    pub(super) network: Vectors,
    /// What gate and up, the two fused, or up alone return.
    pub(super) widened: Vec<Vectors>,
    /// Inputs of the down projection.
    pub(super) wide: Vectors,
    /// What it returns, unless it is added as it is.
    pub(super) narrowed: Option<Vectors>,
}

impl Machine<'_> {
    /// Runs block `layer`, which is `block` on the device, over sequences whose residual streams are `x`,
    /// `[tokens][hidden]`.
    pub(super) fn record(
        &mut self,
        (layer, block): (usize, &Block),
        sequences: &[Range<usize>],
        x: Vectors,
    ) -> Result<Tape> {
        let model = self.model;
        let config = &model.config;
        let normed = self.norm_if(block.norm_of_attention(config.block), &x)?;
        let attention = attention_of(block)?;
        let mut qkv = match &attention.qkv {
            Qkv::Separate { q, k, v } => {
                let x = normed.values();
                [self.linear(q, x)?, self.linear(k, x)?, self.linear(v, x)?]
            }
            // Refused before: `Gradients::on`.
            Qkv::KeysAsValues { .. } | Qkv::Queries { .. } => {
                return Err(Error::NoGradients { what: "its layers share keys and values" });
            }
            Qkv::Fused { qkv, by_group } => {
                let joined = self.linear(qkv, normed.values())?;
                self.split(*by_group, &joined)?
            }
        };
        let unnormed = match &attention.head_norms {
            Some(_) => Some([self.copy(qkv[0].values())?, self.copy(qkv[1].values())?]),
            None => None,
        };
        if let (Some(HeadNorms { q, k, whole: true, .. }), Some([of_q, of_k])) =
            (&attention.head_norms, &unnormed)
        {
            qkv[0] = self.norm(q, of_q.values())?;
            qkv[1] = self.norm(k, of_k.values())?;
        }
        let mut attended = self.vectors(qkv[0].len())?;
        let mut log_sums = self.vectors(qkv[0].len() / config.head_dim)?;
        self.attend((layer, attention), sequences, &mut qkv, (&mut attended, &mut log_sums))?;

        let projected = self.linear(&attention.output, attended.values())?;
        let mut sum = self.copy(x.values())?;
        match &block.attention_post_norm {
            Some(norm) => {
                let normed = self.norm(norm, projected.values())?;
                self.add(&mut sum, &normed)?;
            }
            None => self.add(&mut sum, &projected)?,
        }
        let network = match config.block {
            BlockKind::PostNorm => self.norm_if(block.attention_norm.as_ref(), &sum)?,
            BlockKind::Sequential => self.norm_if(block.network_norm(), &sum)?,
            BlockKind::Parallel => self.norm_if(block.network_norm(), &x)?,
            BlockKind::OutputNorm => self.copy(sum.values())?,
        };
        let (mut widened, mut wide, mut narrowed) = (Vec::new(), self.vectors(0)?, None);
        if let Ffn::Dense { widen, down } = &block.ffn {
            for linear in widen.linears() {
                widened.push(self.linear(linear, network.values())?);
            }
            wide = self.activated(widen, &widened)?;
            if block.ffn_post_norm.is_some() || config.block == BlockKind::PostNorm {
                narrowed = Some(self.linear(down, wide.values())?);
            }
        }
        Ok(Tape {
            x,
            normed,
            unnormed,
            qkv,
            attended,
            log_sums,
            projected,
            sum,
            network,
            widened,
            wide,
            narrowed,
        })
    }

    /// Norms of heads, rotation and attention; queries and keys are overwritten.
    fn attend(
        &mut self,
        (layer, attention): (usize, &Attention),
        sequences: &[Range<usize>],
        qkv: &mut [Vectors; 3],
        (attended, log_sums): (&mut Vectors, &mut Vectors),
    ) -> Result<()> {
        let config = &self.model.config;
        let shape = attention_shape(config, layer);
        let [q, k, v] = qkv;
        for tokens in sequences {
            let query = config.heads * config.head_dim;
            self.grow(layer, tokens, query, q)?;
        }
        let norms = attention.head_norms.as_ref().and_then(HeadNorms::of_heads);
        if self.cache.is_none() {
            if let Some((of_q, of_k)) = norms {
                self.executor.head_norm(of_q, config.head_dim, q.values_mut())?;
                self.executor.head_norm(of_k, config.head_dim, k.values_mut())?;
            }
            self.rotate(layer, sequences, (config.heads, false), q)?;
            self.rotate(layer, sequences, (config.kv_heads, false), k)?;
            let (q, k, v) = (q.values(), k.values(), v.values());
            let (out, log_sums) = (attended.values(), log_sums.values());
            let recorded = Recorded { q, k, v, out, sinks: attention.sinks.as_ref(), log_sums };
            return Ok(self.executor.attention(&shape, sequences, recorded)?);
        }
        let Self { model, executor, cache, angles, .. } = self;
        let Some(cache) = cache else { return Ok(()) };
        let (query, key) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        for tokens in sequences {
            let of = |width: usize| tokens.start * width..tokens.end * width;
            let heads = Heads::Separate {
                q: q.values_mut().slice(of(query)),
                k: k.values_mut().slice(of(key)),
                v: v.values_mut().slice(of(key)),
            };
            let (style, pairs) = (rope_style(config), model.rotation.pairs());
            let (cos, sin) = angles.of(config.window(layer).is_some(), tokens.len() * pairs);
            let rotate = config.rotates(layer).then_some(Rotate { style, pairs, cos, sin });
            let out = attended.values_mut().slice(of(query));
            let sinks = attention.sinks.as_ref();
            let (slot, first, skip, norms_last) = (0, 0, 0, false);
            let attend = Attend { shape, slot, first, skip, norms, norms_last, rotate, sinks, heads, out };
            executor.attend(cache, attend)?;
        }
        Ok(())
    }

    /// The inputs of the down projection.
    fn activated(&mut self, widen: &Widen, widened: &[Vectors]) -> Result<Vectors> {
        let act = activation(&self.model.config);
        match (widen, widened) {
            (Widen::Gated { .. }, [gate, up]) => {
                let mut wide = self.copy(gate.values())?;
                self.executor.gate(act, wide.values_mut(), up.values())?;
                Ok(wide)
            }
            (Widen::Fused(_), [both]) => {
                let [mut wide, up] = self.halves(both)?;
                self.executor.gate(act, wide.values_mut(), up.values())?;
                Ok(wide)
            }
            (_, [plain, ..]) => {
                let mut wide = self.copy(plain.values())?;
                self.executor.activate(act, wide.values_mut())?;
                Ok(wide)
            }
            (_, []) => self.vectors(0),
        }
    }

    /// Gate and up of rows that hold both.
    pub(super) fn halves(&mut self, both: &Vectors) -> Result<[Vectors; 2]> {
        let width = self.model.config.ffn_size;
        let mut parts = self.apart(&[(0, width), (1, width)], both, 2)?.into_iter();
        match (parts.next(), parts.next()) {
            (Some(gate), Some(up)) => Ok([gate, up]),
            _ => Ok([self.vectors(0)?, self.vectors(0)?]),
        }
    }

    /// Rows of gate and up put together.
    pub(super) fn whole(&mut self, gate: &Vectors, up: &Vectors) -> Result<Vectors> {
        let width = self.model.config.ffn_size;
        self.together(&[(0, width), (1, width)], &[gate, up])
    }

    /// Queries, keys and values of a fused projection's outputs.
    fn split(&mut self, by_group: bool, joined: &Vectors) -> Result<[Vectors; 3]> {
        let pieces = pieces(&self.model.config, by_group);
        let mut parts = self.apart(&pieces, joined, 3)?.into_iter();
        match (parts.next(), parts.next(), parts.next()) {
            (Some(q), Some(k), Some(v)) => Ok([q, k, v]),
            _ => Ok([self.vectors(0)?, self.vectors(0)?, self.vectors(0)?]),
        }
    }

    /// The reverse of [`Machine::split`], for gradients.
    pub(super) fn join(&mut self, by_group: bool, apart: &[Vectors; 3]) -> Result<Vectors> {
        let pieces = pieces(&self.model.config, by_group);
        self.together(&pieces, &apart.each_ref())
    }

    /// The parts of rows that hold pieces of each, one after the other: which part, and how many numbers.
    fn apart(&mut self, pieces: &[(usize, usize)], joined: &Vectors, parts: usize) -> Result<Vec<Vectors>> {
        let of: usize = pieces.iter().map(|(_, length)| length).sum();
        let rows = joined.len() / of.max(1);
        let widths = widths(pieces, parts);
        let mut apart = widths.iter().map(|width| self.vectors(rows * width)).collect::<Result<Vec<_>>>()?;
        let (mut first, mut at) = (0, vec![0; parts]);
        for &(part, length) in pieces {
            let to = (apart[part].values_mut(), Columns { first: at[part], of: widths[part] });
            self.executor.copy_columns(length, (joined.values(), Columns { first, of }), to)?;
            first += length;
            at[part] += length;
        }
        Ok(apart)
    }

    /// The reverse of [`Machine::apart`].
    fn together(&mut self, pieces: &[(usize, usize)], parts: &[&Vectors]) -> Result<Vectors> {
        let of: usize = pieces.iter().map(|(_, length)| length).sum();
        let widths = widths(pieces, parts.len());
        let rows = parts.first().map_or(0, |part| part.len() / widths[0].max(1));
        let mut joined = self.vectors(rows * of)?;
        let (mut first, mut at) = (0, vec![0; parts.len()]);
        for &(part, length) in pieces {
            let from = (parts[part].values(), Columns { first: at[part], of: widths[part] });
            self.executor.copy_columns(length, from, (joined.values_mut(), Columns { first, of }))?;
            first += length;
            at[part] += length;
        }
        Ok(joined)
    }
}

/// Numbers of a row of each part.
fn widths(pieces: &[(usize, usize)], parts: usize) -> Vec<usize> {
    let of = |part| pieces.iter().filter(|(own, _)| *own == part).map(|(_, length)| length).sum();
    (0..parts).map(of).collect()
}

/// How the outputs of a fused projection are arranged: for each piece, whether it is of the queries (0), keys (1) or values
/// (2), and its length.
fn pieces(config: &Config, by_group: bool) -> Vec<(usize, usize)> {
    let dim = config.head_dim;
    match by_group {
        false => {
            let (query, key) = (config.heads * dim, config.kv_heads * dim);
            vec![(0, query), (1, key), (2, key)]
        }
        true => {
            let own = config.heads / config.kv_heads * dim;
            (0..config.kv_heads).flat_map(|_| [(0, own), (1, dim), (2, dim)]).collect()
        }
    }
}
