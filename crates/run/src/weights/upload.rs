//! Moves blocks and the head to the device that computes with them.

use quern_compute::{
    ExpertStacks, Norm, Uploader, bytes_of_linear, bytes_of_norm, bytes_of_stack, bytes_of_vector,
};

use super::block::{Block, Expert, Experts, Ffn, SharedExpert, Widen};
use super::{Linear, Mixer, Weights};
use crate::Result;

impl Linear {
    /// This layer on another device.
    pub(crate) fn upload(&self, uploader: &mut Uploader) -> Result<Self> {
        Ok(self.moved(uploader.linear(&self.op)?))
    }

    /// The same, computed with `op` on another device.
    fn moved(&self, op: quern_compute::Linear) -> Self {
        Self { op, mapped: None, name: self.name.clone(), ..*self }
    }
}

fn norm(uploader: &mut Uploader, norm: &Option<Norm>) -> Result<Option<Norm>> {
    Ok(norm.as_ref().map(|norm| uploader.norm(norm)).transpose()?)
}

impl Block {
    /// Bytes that the block takes on a GPU.
    pub(crate) fn gpu_bytes(&self) -> usize {
        let apart = self.linears().into_iter().filter(|l| l.expert.is_none() && !Mixer::reshapes(l));
        let linears = apart.map(|l| bytes_of_linear(&l.op)).sum::<usize>();
        let experts = match &self.ffn {
            Ffn::Dense { .. } | Ffn::None => 0,
            Ffn::Experts(experts) => experts.gpu_bytes(),
        };
        linears + experts + self.mixer.vector_bytes() + self.norms().map(bytes_of_norm).sum::<usize>()
    }

    /// This block on another device.
    pub(crate) fn upload(&self, uploader: &mut Uploader) -> Result<Self> {
        Ok(Self {
            attention_norm: norm(uploader, &self.attention_norm)?,
            attention_norm_2: norm(uploader, &self.attention_norm_2)?,
            mixer: self.mixer.upload(uploader)?,
            attention_post_norm: norm(uploader, &self.attention_post_norm)?,
            ffn_norm: norm(uploader, &self.ffn_norm)?,
            ffn: self.ffn.upload(uploader)?,
            ffn_post_norm: norm(uploader, &self.ffn_post_norm)?,
            // No GPU computes models that have these.
            beside: self.beside.clone(),
            per_layer: self.per_layer.clone(),
            streams: self.streams.clone(),
            cutoff: self.cutoff,
            xielu: self.xielu,
            scale: self.scale,
        })
    }
}

impl Widen {
    fn upload(&self, uploader: &mut Uploader) -> Result<Self> {
        Ok(match self {
            Self::Gated { gate, up } => {
                Self::Gated { gate: gate.upload(uploader)?, up: up.upload(uploader)? }
            }
            Self::Fused(both) => Self::Fused(both.upload(uploader)?),
            Self::Plain(up) => Self::Plain(up.upload(uploader)?),
        })
    }

    /// The same with layers that were moved: the gate, if it has one, and the other.
    fn with(&self, gate: Option<Linear>, up: Linear) -> Self {
        match (self, gate) {
            (Self::Gated { .. }, Some(gate)) => Self::Gated { gate, up },
            (Self::Fused(_), _) => Self::Fused(up),
            (Self::Gated { .. } | Self::Plain(_), _) => Self::Plain(up),
        }
    }
}

impl Ffn {
    fn upload(&self, uploader: &mut Uploader) -> Result<Self> {
        Ok(match self {
            Self::Dense { widen, down } => {
                Self::Dense { widen: widen.upload(uploader)?, down: down.upload(uploader)? }
            }
            Self::None => Self::None,
            Self::Experts(mixture) => Self::Experts(Box::new(mixture.upload(uploader)?)),
        })
    }
}

impl Experts {
    /// All gates, all up and all down projections.
    fn layers(&self) -> [Vec<&Linear>; 3] {
        let of = |layer: fn(&Expert) -> Option<&Linear>| self.experts.iter().filter_map(layer).collect();
        [of(|e| e.widen.gate()), of(|e| Some(e.widen.up())), of(|e| Some(&e.down))]
    }

    fn gpu_bytes(&self) -> usize {
        let stack = |linears: Vec<&Linear>| {
            let ops: Vec<_> = linears.into_iter().map(|l| &l.op).collect();
            bytes_of_stack(&ops)
        };
        let routers = self.routers().map(|router| bytes_of_linear(&router.op)).sum::<usize>();
        let bias = self.choice_bias.as_ref().map_or(0, |bias| bytes_of_vector(bias.len()));
        routers + bias + self.layers().into_iter().map(stack).sum::<usize>()
    }

    fn upload(&self, uploader: &mut Uploader) -> Result<Self> {
        let mut stack = |linears: Vec<&Linear>| -> Result<Vec<Linear>> {
            let ops: Vec<_> = linears.iter().map(|l| &l.op).collect();
            let moved = uploader.stack(&ops)?;
            Ok(linears.into_iter().zip(moved).map(|(linear, op)| linear.moved(op)).collect())
        };
        let [gates, ups, downs] = self.layers();
        let (gates, ups, downs) = (stack(gates)?, stack(ups)?, stack(downs)?);
        let mut gates = gates.into_iter();
        let experts = self.experts.iter().zip(ups).zip(downs);
        let mut gate = |own: &Expert| own.widen.gate().and_then(|_| gates.next());
        let expert =
            |((own, up), down): ((&Expert, _), _)| Expert { widen: own.widen.with(gate(own), up), down };
        let experts = experts.map(expert).collect();
        let shared = match &self.shared {
            Some(SharedExpert { expert: Expert { widen, down }, router }) => Some(SharedExpert {
                expert: Expert { widen: widen.upload(uploader)?, down: down.upload(uploader)? },
                router: router.as_ref().map(|router| router.upload(uploader)).transpose()?,
            }),
            None => None,
        };
        let choice_bias = self.choice_bias.as_ref().map(|bias| uploader.vector(bias)).transpose()?;
        let router = self.router.upload(uploader)?;
        // No GPU computes models that have these.
        let (scales, latent) = (self.scales.clone(), self.latent.clone());
        let moved = Self { router, choice_bias, experts, scales, latent, stacks: None, shared };
        let stacks = ExpertStacks::of(&moved.ops());
        Ok(Self { stacks, ..moved })
    }
}

impl Weights {
    /// Bytes that the head takes on a GPU.
    pub(crate) fn head_gpu_bytes(&self) -> usize {
        let norm = self.output_norm.as_ref().map_or(0, bytes_of_norm);
        let out = self.embedding_out.as_ref().map_or(0, |l| bytes_of_linear(&l.op));
        norm + out + bytes_of_linear(&self.output.op)
    }

    /// Moves the head to another device. Rows of the embedding are still looked up in RAM.
    pub(crate) fn upload_head(&mut self, uploader: &mut Uploader) -> Result<()> {
        self.output_norm = norm(uploader, &self.output_norm)?;
        if let Some(out) = &mut self.embedding_out {
            *out = out.upload(uploader)?;
        }
        self.output = self.output.upload(uploader)?;
        Ok(())
    }
}
