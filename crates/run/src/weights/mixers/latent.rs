//! The tensors of multi-head latent attention (DeepSeek V2).

use std::sync::Arc;

use quern_compute::parallel::share;
use quern_compute::{LatentMatrices, Norm, NormKind, Pool, Uploader, bytes_of_norm, get_row};
use quern_model::{Config, Latent, TensorRole};
use quern_tensor_io::ElementType;

use super::super::lookup::Lookup;
use super::super::{Linear, Weight};
use super::indexer::Indexer;
use super::latent_card::{LatentCard, put};
use crate::Result;

/// ε of the norms within, whatever that of the blocks is: the classes of all families leave it at its default.
const EPSILON: f32 = 1e-6;

/// Latent attention: keys and values of all heads are made of one vector for each position.
#[derive(Clone, Debug)]
pub(crate) struct LatentAttention {
    pub(crate) queries: Queries,
    /// To the latent vector, and the rotated part of keys behind it.
    pub(crate) kv_down: Linear,
    /// Of the latent vector.
    pub(crate) kv_norm: Norm,
    pub(crate) up: Up,
    pub(crate) output: Linear,
    /// What chooses the positions that it reads, in layers that do so.
    pub(crate) indexer: Option<Indexer>,
    /// Their sizes.
    heads: usize,
    sizes: Latent,
    /// What [`LatentAttention::up`] holds as a GPU takes it.
    card: Option<super::latent_card::LatentCard>,
}

/// The projections to queries.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)] // one a layer
pub(crate) enum Queries {
    Direct(Linear),
    /// By way of fewer numbers, which are normalized.
    Low {
        down: Linear,
        norm: Norm,
        up: Linear,
    },
}

/// A layer within, whose inputs calibration shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shown {
    /// From the normed numbers of few to the queries.
    QueryUp,
    /// From the same to the queries of an indexer.
    IndexerQueries,
    /// From latent vectors to keys and values.
    Up,
    /// From what a state beside attention gives to the residual stream.
    StateOut,
}

/// The projections from latent vectors to keys and values.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)] // one a layer
pub(crate) enum Up {
    /// One matrix: keys, then values of each head. Generation multiplies queries with the keys' rows, transposed:
    /// these are made when the model is loaded, and dropped when the matrix is replaced.
    Joined { both: Linear, absorbed: Vec<Linear> },
    /// Each head's keys transposed, and its values.
    Split { keys: Vec<Linear>, values: Vec<Linear> },
}

impl LatentAttention {
    /// Takes the tensors of a layer.
    pub(super) fn resolve(
        lookup: &Lookup<'_, '_>,
        config: &Config,
        latent: &Latent,
        layer: usize,
    ) -> Result<Self> {
        use TensorRole as R;
        let at = Some(layer);
        let norm = |role| -> Result<Norm> {
            Ok(Norm { kind: NormKind::Rms, epsilon: EPSILON, ..lookup.norm(role, None, at)? })
        };
        let queries = match latent.query_rank {
            None => Queries::Direct(lookup.linear(R::AttentionQ, None, at)?),
            Some(_) => Queries::Low {
                down: lookup.linear(R::AttentionQDown, None, at)?,
                norm: norm(R::AttentionQDownNorm)?,
                up: lookup.linear(R::AttentionQUp, None, at)?,
            },
        };
        let up = match lookup.has(R::AttentionKvUp, at) {
            true => {
                let both = lookup.linear(R::AttentionKvUp, None, at)?;
                let absorbed = absorbed(&both, config.heads, latent, lookup.pool())?;
                Up::Joined { both, absorbed }
            }
            false => {
                let all = |role| {
                    (0..config.heads).map(|head| lookup.expert(role, None, Some(layer), head)).collect()
                };
                let keys: Result<Vec<Linear>> = all(R::AttentionKUp);
                Up::Split { keys: keys?, values: all(R::AttentionVUp)? }
            }
        };
        Ok(Self {
            queries,
            kv_down: lookup.linear(R::AttentionKvDown, None, at)?,
            kv_norm: norm(R::AttentionKvDownNorm)?,
            up,
            output: lookup.linear(R::AttentionOutput, None, at)?,
            indexer: config
                .indexer
                .as_ref()
                .filter(|own| own.has(layer))
                .map(|_| Indexer::resolve(lookup, layer))
                .transpose()?,
            heads: config.heads,
            sizes: *latent,
            card: None,
        })
    }

    /// The layers that read the block's normed input.
    pub(super) fn inputs(&self) -> Vec<&Linear> {
        let (Queries::Direct(queries) | Queries::Low { down: queries, .. }) = &self.queries;
        let indexer = self.indexer.iter().flat_map(|own| [&own.keys, &own.weights]);
        [queries, &self.kv_down].into_iter().chain(indexer).collect()
    }

    /// The same, to be replaced.
    pub(super) fn inputs_mut(&mut self) -> Vec<&mut Linear> {
        let (Queries::Direct(queries) | Queries::Low { down: queries, .. }) = &mut self.queries;
        let indexer = self.indexer.iter_mut().flat_map(|own| [&mut own.keys, &mut own.weights]);
        [queries, &mut self.kv_down].into_iter().chain(indexer).collect()
    }

    /// The layers within, in the order of the computation.
    pub(super) fn inner(&self) -> Vec<&Linear> {
        let queries = match &self.queries {
            Queries::Direct(_) => None,
            Queries::Low { up, .. } => Some(up),
        };
        let mut all: Vec<&Linear> = queries.into_iter().collect();
        all.extend(self.indexer.as_ref().map(|own| &own.queries));
        match &self.up {
            Up::Joined { both, .. } => all.push(both),
            Up::Split { keys, values } => all.extend(keys.iter().chain(values)),
        }
        all
    }

    /// Memory for each token: the indexer's queries, key and weights.
    pub(super) fn scratch(&self) -> usize {
        self.indexer.iter().flat_map(Indexer::linears).map(|linear| linear.op.weight.rows()).sum()
    }

    /// Those whose inputs calibration can show: not the matrices of single heads.
    pub(crate) fn shown(&self) -> Vec<(Shown, &Linear)> {
        let queries = match &self.queries {
            Queries::Direct(_) => None,
            Queries::Low { up, .. } => Some((Shown::QueryUp, up)),
        };
        let up = match &self.up {
            Up::Joined { both, .. } => Some((Shown::Up, both)),
            Up::Split { .. } => None,
        };
        let indexer = self.indexer.as_ref().map(|own| (Shown::IndexerQueries, &own.queries));
        queries.into_iter().chain(indexer).chain(up).collect()
    }

    /// One of them, to be replaced; the output layer where there is no such.
    pub(crate) fn shown_mut(&mut self, which: Shown) -> &mut Linear {
        if let (Shown::IndexerQueries, Some(indexer)) = (which, &mut self.indexer) {
            return &mut indexer.queries;
        }
        match (which, &mut self.queries, &mut self.up) {
            (Shown::QueryUp, Queries::Low { up, .. }, _) => up,
            (Shown::Up, _, Up::Joined { both, absorbed }) => {
                absorbed.clear();
                both
            }
            (Shown::QueryUp, Queries::Direct(_), _)
            | (Shown::Up, _, Up::Split { .. })
            | (Shown::StateOut | Shown::IndexerQueries, ..) => &mut self.output,
        }
    }

    /// Numbers in the norms.
    pub(super) fn vector_values(&self) -> usize {
        let indexer = self.indexer.as_ref().map_or(0, Indexer::vector_values);
        indexer + self.norms().map(|norm| norm.weight.len()).sum::<usize>()
    }

    /// Bytes on a GPU of the norms, and of the matrices of [`LatentAttention::up`] as it takes them.
    pub(super) fn vector_bytes(&self) -> usize {
        let norms: usize = self.norms().map(bytes_of_norm).sum();
        norms + LatentCard::bytes(&self.up, self.heads, &self.sizes)
    }

    /// Makes what a GPU takes again, once a matrix of [`LatentAttention::up`] was replaced.
    pub(crate) fn renew(&mut self, uploader: &mut Uploader) -> Result<()> {
        uploader.begin(LatentCard::bytes(&self.up, self.heads, &self.sizes))?;
        self.card = Some(LatentCard::new(&self.up, self.heads, &self.sizes, uploader)?);
        Ok(())
    }

    /// The matrices that make keys and values, as the executor takes them where this is.
    pub(crate) fn matrices(&self) -> LatentMatrices<'_> {
        match &self.card {
            Some(card) => card.matrices(),
            None => self.up.matrices(),
        }
    }

    fn norms(&self) -> impl Iterator<Item = &Norm> {
        let of_queries = match &self.queries {
            Queries::Direct(_) => None,
            Queries::Low { norm, .. } => Some(norm),
        };
        of_queries.into_iter().chain([&self.kv_norm])
    }

    /// The same on another device.
    pub(super) fn upload(&self, uploader: &mut Uploader) -> Result<Self> {
        // As `Model::beyond_gpus` says.
        if self.indexer.is_some() {
            return Err(quern_compute::Error::Device.into());
        }
        let queries = match &self.queries {
            Queries::Direct(linear) => Queries::Direct(linear.upload(uploader)?),
            Queries::Low { down, norm, up } => Queries::Low {
                down: down.upload(uploader)?,
                norm: uploader.norm(norm)?,
                up: up.upload(uploader)?,
            },
        };
        let card = LatentCard::new(&self.up, self.heads, &self.sizes, uploader)?;
        Ok(Self {
            queries,
            kv_down: self.kv_down.upload(uploader)?,
            kv_norm: uploader.norm(&self.kv_norm)?,
            up: self.up.beside(&card),
            output: self.output.upload(uploader)?,
            indexer: None,
            heads: self.heads,
            sizes: self.sizes,
            card: Some(card),
        })
    }
}

impl Up {
    /// The same where a GPU has its own form of them: the matrices stay in RAM, and nothing is read of them but to make
    /// that form; keys that were transposed are there alone.
    fn beside(&self, card: &LatentCard) -> Self {
        let own = |linear: &Linear| Linear { mapped: None, ..linear.clone() };
        match self {
            Self::Joined { both, absorbed } => {
                let there = absorbed.iter().enumerate().filter_map(|(head, linear)| {
                    Some(Linear { op: card.keys(head)?.clone(), ..linear.clone() })
                });
                Self::Joined { both: own(both), absorbed: there.collect() }
            }
            Self::Split { keys, values } => {
                Self::Split { keys: keys.iter().map(own).collect(), values: values.iter().map(own).collect() }
            }
        }
    }

    /// As the CPU takes them.
    fn matrices(&self) -> LatentMatrices<'_> {
        fn ops(linears: &[Linear]) -> Vec<&quern_compute::Linear> {
            linears.iter().map(|linear| &linear.op).collect()
        }
        match self {
            Self::Joined { both, absorbed } => {
                LatentMatrices::Joined { both: &both.op, absorbed: ops(absorbed) }
            }
            Self::Split { keys, values } => LatentMatrices::Split { keys: ops(keys), values: ops(values) },
        }
    }
}

/// The keys' rows of each head, transposed: in the type of plain numbers, otherwise in f16.
fn absorbed(both: &Linear, heads: usize, latent: &Latent, pool: &Pool) -> Result<Vec<Linear>> {
    let matrix = both.op.weight.matrix()?;
    let order = both.op.permutation.as_ref().map(|order| order.host().cloned()).transpose()?;
    let &Latent { rank, nope_dim: nope, value_dim: value, .. } = latent;
    let to = match matrix.element_type() {
        plain @ (ElementType::F32 | ElementType::BF16) => plain,
        _ => ElementType::F16,
    };
    let size = to.block_bytes();
    let mut bytes = vec![0u8; heads * rank * nope * size];
    let failed = std::sync::atomic::AtomicBool::new(false);
    share(pool, bytes.chunks_exact_mut((rank * nope * size).max(1)).enumerate(), |(head, out)| {
        let mut row = vec![0f32; rank];
        for i in 0..nope {
            if get_row(&matrix, head * (nope + value) + i, &mut row).is_err() {
                failed.store(true, std::sync::atomic::Ordering::Relaxed);
                return;
            }
            for (column, &v) in row.iter().enumerate() {
                let column = order.as_ref().map_or(column, |order| order[column] as usize);
                put(to, v, &mut out[(column * nope + i) * size..][..size]);
            }
        }
    });
    // No reader decodes this type: the computation reads the matrix as it is, and says so.
    if failed.into_inner() {
        return Ok(Vec::new());
    }
    let owner = Arc::new(bytes);
    let one = |head: usize| {
        let bytes = rank * nope * size;
        let range = head * bytes..(head + 1) * bytes;
        let matrix = quern_compute::Weight::host(to, rank, nope, owner.clone(), range)?;
        let weight = Weight { matrix, mapped: None };
        let op = quern_compute::Linear { weight: weight.matrix, bias: None, permutation: None };
        let (name, role) = (both.name.clone(), TensorRole::AttentionKUp);
        Ok(Linear { name, role, layer: both.layer, expert: Some(head), mapped: None, op })
    };
    (0..heads).map(one).collect()
}
