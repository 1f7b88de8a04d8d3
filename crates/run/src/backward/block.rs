//! The gradients of one block, from those by the residual stream behind it to those by the one in front.

use quern_compute::{Norm, Recorded};
use quern_model::architecture::Block as BlockKind;

use crate::forward::{activation, attention_shape};
use crate::weights::{Block, Ffn, Qkv, Widen};
use crate::{Error, Result};

use super::products::{Backward, Machine};
use super::tape::Tape;
use super::vectors::Vectors;
use super::{Batch, GradientObserver, attention_of};

/// A block on the device, with its weights for the way back.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) block: Block,
    inputs: Vec<Backward>,
    output: Backward,
    widen: Vec<Backward>,
    down: Option<Backward>,
}

impl Machine<'_> {
    /// Brings block `layer` to the device.
    pub(super) fn hold(&mut self, layer: usize) -> Result<Held> {
        let original = &self.model.weights.blocks[layer];
        let block = self.block_on(original)?;
        let mut all = Vec::new();
        for (original, moved) in original.linears().into_iter().zip(block.linears()) {
            all.push(match &block.ffn {
                Ffn::Experts(_) if original.expert.is_some() => continue,
                Ffn::Experts(_) | Ffn::Dense { .. } | Ffn::None => self.backward(original, moved)?,
            });
        }
        // In the order of the computation: Q, K and V, the output projection, the network's.
        let heads = block.mixer.inputs().len();
        let mut rest = all.split_off(heads.min(all.len()));
        let network = rest.split_off(1.min(rest.len()));
        let Some(output) = rest.pop() else {
            return Err(crate::Error::NoGradients { what: "a block has no output projection" });
        };
        let (mut widen, mut down) = (network, None);
        if let Ffn::Dense { .. } = &block.ffn {
            down = widen.pop();
        }
        Ok(Held { block, inputs: all, output, widen, down })
    }

    /// `d` is `[tokens][hidden]` of the batch: the gradient behind the block, replaced by that in front of it.
    pub(super) fn block(
        &mut self,
        (layer, held): (usize, &Held),
        batch: &Batch,
        mut tape: Tape,
        d: &mut Vectors,
        observer: &mut dyn GradientObserver,
    ) -> Result<()> {
        let (kind, block) = (self.model.config.block, &held.block);
        let narrowed = if kind == BlockKind::PostNorm { tape.narrowed.take() } else { None };
        if let Some(mut behind) = narrowed {
            self.add(&mut behind, &tape.network)?;
            self.norm_back(block.network_norm(), &behind, d)?;
        }
        let mut by_network = self.network((layer, held), batch, &mut tape, d, observer)?;
        match kind {
            BlockKind::PostNorm => {
                self.add(d, &by_network)?;
                self.norm_back(block.attention_norm.as_ref(), &tape.sum, d)?;
            }
            BlockKind::Sequential => {
                self.norm_back(block.network_norm(), &tape.sum, &mut by_network)?;
                self.add(d, &by_network)?;
            }
            BlockKind::OutputNorm => self.add(d, &by_network)?,
            BlockKind::Parallel => {
                self.norm_back(block.network_norm(), &tape.x, &mut by_network)?;
            }
        }
        let mut by_attention = self.attention((layer, held), batch, &tape, d, observer)?;
        self.norm_back(block.norm_of_attention(kind), &tape.x, &mut by_attention)?;
        if kind == BlockKind::Parallel {
            self.add(d, &by_network)?;
        }
        self.add(d, &by_attention)
    }

    /// From the gradient by what the network adds to that by its inputs.
    fn network(
        &mut self,
        (layer, held): (usize, &Held),
        batch: &Batch,
        tape: &mut Tape,
        d: &Vectors,
        observer: &mut dyn GradientObserver,
    ) -> Result<Vectors> {
        let model = self.model;
        let (config, original) = (&model.config, &model.weights.blocks[layer]);
        let (Ffn::Dense { widen, down }, Some(down_back)) = (&original.ffn, &held.down) else {
            return self.zeros(d.len());
        };
        let mut d = self.copy(d.values())?;
        if let (Some(norm), Some(narrowed)) = (&held.block.ffn_post_norm, &tape.narrowed) {
            let x = narrowed.values();
            self.executor.norm_backward(norm, config.hidden_size, x, d.values_mut())?;
        }
        self.show(observer, down, &batch.tokens, (&tape.wide, &d))?;
        let d_wide = self.back(down_back, d.values())?;

        let act = activation(config);
        let mut widened = std::mem::take(&mut tape.widened);
        match (widen, &mut widened[..]) {
            (Widen::Gated { .. }, [gate, up]) => {
                let both = (gate.values_mut(), up.values_mut());
                self.executor.gate_backward(act, both, d_wide.values())?;
            }
            (Widen::Fused(_), [both]) => {
                let [mut gate, mut up] = self.halves(both)?;
                let halves = (gate.values_mut(), up.values_mut());
                self.executor.gate_backward(act, halves, d_wide.values())?;
                *both = self.whole(&gate, &up)?;
            }
            (_, plain) => {
                for x in plain {
                    self.executor.activate_backward(act, x.values_mut(), d_wide.values())?;
                }
            }
        }
        let mut by_network = self.zeros(d.len())?;
        for ((linear, back), d) in widen.linears().into_iter().zip(&held.widen).zip(&widened) {
            self.show(observer, linear, &batch.tokens, (&tape.network, d))?;
            self.add_back(back, d.values(), by_network.values_mut())?;
        }
        Ok(by_network)
    }

    /// From the gradient by what attention adds to that by the inputs of Q, K and V.
    fn attention(
        &mut self,
        (layer, held): (usize, &Held),
        batch: &Batch,
        tape: &Tape,
        d: &Vectors,
        observer: &mut dyn GradientObserver,
    ) -> Result<Vectors> {
        let model = self.model;
        let (config, block) = (&model.config, &held.block);
        let mut d = self.copy(d.values())?;
        if let Some(norm) = &block.attention_post_norm {
            let x = tape.projected.values();
            self.executor.norm_backward(norm, config.hidden_size, x, d.values_mut())?;
        }
        let attention = attention_of(block)?;
        let original = attention_of(&model.weights.blocks[layer])?;
        self.show(observer, &original.output, &batch.tokens, (&tape.attended, &d))?;
        let d_attended = self.back(&held.output, d.values())?;

        let [q, k, v] = tape.qkv.each_ref().map(Vectors::values);
        let (out, log_sums) = (tape.attended.values(), tape.log_sums.values());
        let recorded = Recorded { q, k, v, out, sinks: attention.sinks.as_ref(), log_sums };
        let [q, k, v] = tape.qkv.each_ref().map(|values| self.vectors(values.len()));
        let mut d_qkv = [q?, k?, v?];
        let shape = attention_shape(config, layer);
        let to = d_qkv.each_mut().map(Vectors::values_mut);
        let d_out = d_attended.values();
        self.executor.attention_backward(&shape, &batch.sequences, recorded, d_out, to)?;
        let [d_q, d_k, _] = &mut d_qkv;
        self.rotate(layer, &batch.sequences, (config.heads, true), d_q)?;
        self.rotate(layer, &batch.sequences, (config.kv_heads, true), d_k)?;
        for tokens in &batch.sequences {
            self.grow(layer, tokens, config.heads * config.head_dim, d_q)?;
        }
        if let (Some(norms), Some([q, k])) = (&attention.head_norms, &tape.unnormed) {
            let width = |norm: &Norm| if norms.whole { norm.weight.len() } else { config.head_dim };
            self.executor.norm_backward(&norms.q, width(&norms.q), q.values(), d_q.values_mut())?;
            self.executor.norm_backward(&norms.k, width(&norms.k), k.values(), d_k.values_mut())?;
        }

        let d_outputs = match &attention.qkv {
            Qkv::Separate { .. } => d_qkv.into(),
            // Refused before: `Gradients::on`.
            Qkv::KeysAsValues { .. } | Qkv::Queries { .. } => {
                return Err(Error::NoGradients { what: "its layers share keys and values" });
            }
            Qkv::Fused { by_group, .. } => vec![self.join(*by_group, &d_qkv)?],
        };
        let mut by_attention = self.zeros(d.len())?;
        for ((linear, back), d) in original.qkv.linears().into_iter().zip(&held.inputs).zip(&d_outputs) {
            self.show(observer, linear, &batch.tokens, (&tape.normed, d))?;
            self.add_back(back, d.values(), by_attention.values_mut())?;
        }
        Ok(by_attention)
    }
}
