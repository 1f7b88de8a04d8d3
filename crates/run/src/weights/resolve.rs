//! Takes every tensor that the forward pass needs from a view of the checkpoint.

use std::sync::Arc;

use quern_compute::{Norm, Pool};
use quern_model::architecture::{Block as BlockKind, Position};
use quern_model::config::XIELU;
use quern_model::{Config, TensorRole, View};
use quern_tensor_io::Checkpoint;

use super::PerLayerTable;
use super::block::{
    Block, Expert, Experts, ExpertsBeside, Ffn, Latent, PerLayer, SharedExpert, Streams, Widen,
};
use super::lookup::Lookup;
use super::{Linear, Mixer, Weights};
use crate::Result;
use crate::load::LoadIn;
use crate::placement::{Mover, Work};

impl Weights {
    /// Takes every tensor from `view`, which is the checkpoint as it is stored; `mover` brings each where it belongs, and
    /// `work` counts what that takes.
    ///
    /// # Errors
    /// An element type that cannot be run, a vector that is not finite, a tensor that this forward pass needs and
    /// the configuration does not demand; always with file and tensor.
    pub(crate) fn resolve(
        view: &View<'_>,
        checkpoint: &Arc<Checkpoint>,
        config: &Config,
        load_in: Option<&dyn LoadIn>,
        pool: &Pool,
        (mover, work): (&mut Mover<'_>, &Work<'_>),
    ) -> Result<Self> {
        use TensorRole as R;
        let lookup = Lookup::new(view, checkpoint, config, load_in, pool);
        let (embedding, _) = lookup.matrix(R::TokenEmbedding, None, None)?;
        let tied = !lookup.has(R::Output, None) && config.tied_embeddings;
        let output = if tied {
            // The head is the embedding, under its name.
            lookup.tied(embedding.clone())?
        } else {
            lookup.linear(R::Output, Some(R::OutputBias), None)?
        };
        let positions = match config.architecture.position {
            Position::Learned { .. } => Some(lookup.matrix(R::PositionEmbedding, None, None)?.0),
            Position::Rotary => None,
        };
        let projection = |role| match config.embedding_size == config.hidden_size {
            true => Ok(None),
            false => lookup.linear(role, None, None).map(Some),
        };
        work.embedding_done();
        let place = |layer| {
            work.block(layer);
            let placed = mover.block(layer, block(&lookup, config, layer)?)?;
            work.block_done(layer);
            Ok(placed)
        };
        let blocks = (0..config.layers).map(place).collect::<Result<_>>()?;
        let mut output_norm =
            lookup.stream_norm(config.final_norm, R::OutputNorm, Some(R::OutputNormBias), None)?;
        if let Some(norm) = &mut output_norm {
            lookup.scale(norm, config.logit_multiplier / config.logit_divisor)?;
        }
        let per_layer = match config.per_layer {
            Some(_) => {
                // Of vectors that are multiplied with `1 / sqrt(hidden)` first.
                let norm = lookup.norm(R::PerLayerContextNorm, None, None)?;
                let norm = Norm { epsilon: norm.epsilon * config.hidden_size as f32, ..norm };
                Some(PerLayerTable { embedding: lookup.matrix(R::PerLayerEmbedding, None, None)?.0, norm })
            }
            None => None,
        };
        let streams = match config.streams {
            1 => None,
            streams => {
                let of = |role| {
                    (0..streams - 1).map(|i| lookup.expert(role, None, None, i)).collect::<Result<Vec<_>>>()
                };
                Some([of(R::StreamsIn)?, of(R::StreamsOut)?])
            }
        };
        let mut weights = Self {
            embedding,
            positions,
            per_layer,
            streams,
            embedding_in: projection(R::EmbeddingIn)?,
            embedding_out: projection(R::EmbeddingOut)?,
            blocks,
            output_norm,
            output,
            tied,
            bytes_in_file: lookup.bytes(),
            experts_used: config.experts.map_or(0, |e| e.used),
            plain_norms: lookup.plain_norms(),
        };
        mover.head(&mut weights)?;
        work.head_done();
        Ok(weights)
    }
}

fn block(lookup: &Lookup<'_, '_>, config: &Config, layer: usize) -> Result<Block> {
    use TensorRole as R;
    let at = Some(layer);
    let has = |role| lookup.has(role, at);
    let mixture = config.experts.as_ref().filter(|_| config.is_sparse(layer));
    let ffn = match mixture.filter(|_| !config.has_dense_beside()) {
        Some(mixture) => Ffn::Experts(Box::new(experts(lookup, mixture, layer)?)),
        None if config.has_single_layers() => Ffn::None,
        None => {
            let widen = if has(R::FfnGateUp) {
                Widen::Fused(lookup.linear(R::FfnGateUp, None, at)?)
            } else if config.architecture.gated {
                Widen::Gated {
                    gate: lookup.linear(R::FfnGate, Some(R::FfnGateBias), at)?,
                    up: lookup.linear(R::FfnUp, Some(R::FfnUpBias), at)?,
                }
            } else {
                Widen::Plain(lookup.linear(R::FfnUp, Some(R::FfnUpBias), at)?)
            };
            Ffn::Dense { widen, down: lookup.linear(R::FfnDown, Some(R::FfnDownBias), at)? }
        }
    };
    let norm = |role, bias| lookup.stream_norm(has(role), role, Some(bias), at);
    let attention_norm = norm(R::AttentionNorm, R::AttentionNormBias)?;
    let ffn_norm = norm(R::FfnNorm, R::FfnNormBias)?;
    let in_front = config.block != BlockKind::OutputNorm;
    // Only a parallel block can share the attention's.
    let ffn_norm = match ffn_norm {
        None if config.block != BlockKind::Parallel && in_front && !config.has_single_layers() => {
            Some(lookup.norm(R::FfnNorm, None, at)?)
        }
        found => found,
    };
    Ok(Block {
        // The error names it where the file does not have it.
        attention_norm: match attention_norm {
            None if in_front => Some(lookup.norm(R::AttentionNorm, None, at)?),
            found => found,
        },
        attention_norm_2: norm(R::AttentionNorm2, R::AttentionNorm2Bias)?,
        mixer: Mixer::resolve(lookup, config, layer)?,
        attention_post_norm: lookup.norm_if(has(R::AttentionPostNorm), R::AttentionPostNorm, None, at)?,
        ffn_norm,
        ffn,
        ffn_post_norm: lookup.norm_if(has(R::FfnPostNorm), R::FfnPostNorm, None, at)?,
        beside: match mixture.filter(|_| config.has_dense_beside()) {
            Some(mixture) => Some(Box::new(beside(lookup, config, mixture, layer)?)),
            None => None,
        },
        per_layer: match config.per_layer {
            Some(sizes) => Some(Box::new(PerLayer {
                context: lookup.rows_of(R::PerLayerContext, layer * sizes.size..(layer + 1) * sizes.size)?,
                gate: lookup.linear(R::PerLayerGate, None, at)?,
                output: lookup.linear(R::PerLayerOutput, None, at)?,
                norm: lookup.norm(R::PerLayerNorm, None, at)?,
            })),
            None => None,
        },
        streams: match config.streams {
            1 => None,
            _ => Some(Box::new(Streams {
                // Its outputs are divided by the hidden size, which the matrix behind it takes over.
                router_norm: lookup.norm(R::StreamRouterNorm, None, at)?,
                router: lookup.linear(R::StreamRouter, None, at)?,
                predict: lookup.linear(R::StreamPredict, None, at)?,
                correct: lookup.linear(R::StreamCorrect, None, at)?,
                scale: lookup.vector(R::StreamCorrectScale, at)?,
                laurel_in: lookup.linear(R::LaurelIn, None, at)?,
                laurel_out: lookup.linear(R::LaurelOut, None, at)?,
                laurel_norm: lookup.norm(R::LaurelNorm, None, at)?,
            })),
        },
        cutoff: config.cutoff(layer),
        xielu: match (has(R::XieluAlphaP), config.xielu.get(layer)) {
            (true, _) => {
                let mut own = [0.0; 4];
                for (own, (_, role)) in own.iter_mut().zip(XIELU) {
                    *own = lookup.vector(role, at)?.first().copied().unwrap_or(0.0);
                }
                Some(own)
            }
            (false, own) => own.copied(),
        },
        scale: match has(R::LayerScale) {
            true => lookup.vector(R::LayerScale, at)?.first().copied(),
            false => None,
        },
    })
}

/// Experts beside the dense network of a block.
fn beside(
    lookup: &Lookup<'_, '_>,
    config: &Config,
    mixture: &quern_model::Experts,
    layer: usize,
) -> Result<ExpertsBeside> {
    use TensorRole as R;
    let norm = |role| lookup.norm(role, None, Some(layer));
    // What is normalized is also divided by the square root of its size.
    let mut router_norm = norm(R::RouterScale)?;
    lookup.scale(&mut router_norm, (config.hidden_size as f32).sqrt().recip())?;
    Ok(ExpertsBeside {
        experts: experts(lookup, mixture, layer)?,
        router_norm,
        norm: norm(R::ExpertsNorm)?,
        post_norm: norm(R::ExpertsPostNorm)?,
        dense_norm: norm(R::DensePostNorm)?,
    })
}

/// The mixture of experts of a block.
fn experts(lookup: &Lookup<'_, '_>, mixture: &quern_model::Experts, layer: usize) -> Result<Experts> {
    use TensorRole as R;
    let at = Some(layer);
    let gated = lookup.gated();
    let expert = |expert: usize| -> Result<Expert> {
        let linear = |role, bias| lookup.expert(role, Some(bias), at, expert);
        let widen = if lookup.has(R::ExpertsGateUp, at) {
            Widen::Fused(lookup.expert(R::ExpertsGateUp, None, at, expert)?)
        } else {
            let gate = gated.then(|| linear(R::ExpertsGate, R::ExpertsGateBias)).transpose()?;
            widened(gate, linear(R::ExpertsUp, R::ExpertsUpBias)?)
        };
        Ok(Expert { widen, down: linear(R::ExpertsDown, R::ExpertsDownBias)? })
    };
    let linear = |role| lookup.linear(role, None, at);
    let shared = match mixture.shared {
        None => None,
        Some(shared) => Some(SharedExpert {
            expert: Expert {
                widen: widened(gated.then(|| linear(R::SharedGate)).transpose()?, linear(R::SharedUp)?),
                down: linear(R::SharedDown)?,
            },
            router: shared.gated.then(|| lookup.row(R::SharedRouter, layer)).transpose()?,
        }),
    };
    let bias = mixture.choice_bias.then(|| lookup.vector(R::ChoiceBias, at)).transpose()?;
    Ok(Experts {
        router: lookup.linear(R::Router, Some(R::RouterBias), at)?,
        choice_bias: bias.map(Into::into),
        experts: (0..mixture.count).map(expert).collect::<Result<_>>()?,
        scales: match lookup.has(R::ExpertsScale, at) {
            true => lookup.vector(R::ExpertsScale, at)?,
            false => Vec::new(),
        },
        latent: match mixture.latent {
            Some(_) => Some(Latent { inward: linear(R::ExpertsIn)?, outward: linear(R::ExpertsOut)? }),
            None => None,
        },
        stacks: None,
        shared,
    })
}

/// The first layers of an expert.
fn widened(gate: Option<Linear>, up: Linear) -> Widen {
    match gate {
        Some(gate) => Widen::Gated { gate, up },
        None => Widen::Plain(up),
    }
}
