//! The tensors a configuration demands.

use crate::architecture::{Convention, Dim, Layout, Presence, TensorRole, TensorTemplate};

use super::{Config, DeltaNet, Indexer, Mamba2};

/// One tensor that must, or may, be there.
#[derive(Clone, Debug)]
pub struct ExpectedTensor {
    /// Its name in the format asked for.
    pub name: String,
    /// Dimensions in that format, outermost first.
    pub shape: Vec<usize>,
    /// What it is for.
    pub role: TensorRole,
    /// Its layer; `None` outside the blocks.
    pub layer: Option<usize>,
    /// Which expert's (or head's) it is, where Hugging Face has one tensor each and GGUF one stack.
    pub part: Option<usize>,
    /// Whether a model may lack it (a tied head, biases in GGUF).
    pub optional: bool,
    /// The format asked for.
    pub convention: Convention,
    /// The description it comes from.
    pub template: &'static TensorTemplate,
}

impl Config {
    /// Every tensor a checkpoint of this configuration has in `convention`, first those outside the blocks, then
    /// layer by layer in the architecture's order.
    pub fn expected_tensors(&self, convention: Convention) -> Vec<ExpectedTensor> {
        let templates = self.architecture.tensors;
        let mut all = Vec::new();
        for template in templates.iter().filter(|t| !t.per_layer()) {
            self.expect(template, convention, None, &mut all);
        }
        for layer in 0..self.layers {
            for template in templates.iter().filter(|t| t.per_layer()) {
                self.expect(template, convention, Some(layer), &mut all);
            }
        }
        all
    }

    /// The name of the tensor with this role in `convention`, whether or not this model has it; of the first part,
    /// where there are several.
    pub fn tensor_name(
        &self,
        convention: Convention,
        role: TensorRole,
        layer: Option<usize>,
    ) -> Option<String> {
        let of_role = || self.architecture.tensors.iter().filter(|t| t.role == role);
        let template =
            of_role().find(|t| self.presence(t, convention, layer).is_some()).or_else(|| of_role().next())?;
        self.fill(template.name(convention)?, layer, Some(0))
    }

    /// The names of GGUF's tensors that have the rows of a matrix of this role: of its own, or of its parts.
    pub fn gguf_names(&self, role: TensorRole, layer: Option<usize>) -> Vec<String> {
        if let Some(name) = self.tensor_name(Convention::Gguf, role, layer) {
            return vec![name];
        }
        let parts = self.architecture.tensors.iter().filter(|t| t.whole() == Some(role));
        let parts = parts.filter(|t| self.presence(t, Convention::Gguf, layer).is_some());
        parts.filter_map(|t| self.fill(t.name(Convention::Gguf)?, layer, Some(0))).collect()
    }

    /// Whether models of this configuration have the tensor: `None` if not, whether it is optional otherwise.
    fn presence(
        &self,
        template: &TensorTemplate,
        convention: Convention,
        layer: Option<usize>,
    ) -> Option<bool> {
        let gguf = convention == Convention::Gguf;
        let experts = self.experts.filter(|_| layer.is_some_and(|layer| self.is_sparse(layer)));
        let shared = experts.and_then(|experts| experts.shared);
        let given = |there: bool, optional: bool| there.then_some(optional);
        match template.presence {
            Presence::Always => Some(false),
            Presence::UnlessTied => Some(self.tied_embeddings),
            Presence::QkvBias => given(self.qkv_bias, gguf),
            Presence::OutputBias => given(self.output_bias, gguf),
            Presence::FfnBias => given(self.mlp_bias, gguf),
            Presence::OwnKeys => Some(layer.is_some_and(|layer| self.kv_source(layer).is_some())),
            Presence::OwnValues => {
                let own = layer.is_none_or(|layer| !self.values_are_keys(layer));
                given(own, layer.is_some_and(|layer| self.kv_source(layer).is_some()))
            }
            Presence::HuggingFace => given(convention == Convention::HuggingFace, false),
            Presence::PerLayer => given(self.per_layer.is_some(), false),
            Presence::QkNorm => given(self.qk_norm, false),
            Presence::SecondNorm => given(self.second_norm, false),
            Presence::OneNorm => given(!self.second_norm, false),
            Presence::FinalNorm => given(self.final_norm, false),
            Presence::EmbeddingProjection => given(self.embedding_size != self.hidden_size, false),
            Presence::AttentionLayers => given(layer.is_none_or(|layer| self.has_attention(layer)), false),
            Presence::NetworkLayers => given(layer.is_none_or(|layer| self.is_network(layer)), false),
            Presence::StateConvBias => {
                let there = layer.is_none_or(|layer| self.has_state(layer));
                given(there && self.mamba2().is_some_and(|mamba| mamba.conv_bias), false)
            }
            Presence::StateNorm => {
                let there = layer.is_none_or(|layer| self.has_state(layer));
                given(there && self.mamba2().is_some_and(|mamba| mamba.norm), false)
            }
            Presence::StateLayers => given(layer.is_none_or(|layer| self.has_state(layer)), false),
            Presence::RopeFactors => given(self.rope.factors.is_some(), false),
            Presence::LongRope => given(self.rope.long_factors().is_some(), false),
            Presence::QueryRank => given(self.query_rank().is_some(), false),
            Presence::NoQueryRank => given(self.query_rank().is_none(), false),
            Presence::Indexer => {
                let own = |layer| self.indexer.as_ref().is_some_and(|indexer| indexer.has(layer));
                given(layer.is_none_or(own), false)
            }
            Presence::JoinedUp => given(!gguf || self.joined_in_gguf(), false),
            Presence::SplitUp => given(gguf && !self.joined_in_gguf(), false),
            Presence::DenseLayers => given(experts.is_none(), false),
            Presence::SparseLayers => given(experts.is_some(), false),
            Presence::ExpertLatent => given(experts.is_some_and(|experts| experts.latent.is_some()), false),
            Presence::SharedExpert => given(shared.is_some(), false),
            Presence::SharedRouter => given(shared.is_some_and(|shared| shared.gated), false),
            Presence::ChoiceBias => given(experts.is_some_and(|experts| experts.choice_bias), false),
        }
    }

    fn expect(
        &self,
        template: &'static TensorTemplate,
        convention: Convention,
        layer: Option<usize>,
        out: &mut Vec<ExpectedTensor>,
    ) {
        let Some(optional) = self.presence(template, convention, layer) else { return };
        let mut shape: Vec<usize> =
            template.shape.iter().map(|&dim| self.size_in(convention, dim, layer)).collect();
        let parts = match (convention, template.layout) {
            (Convention::HuggingFace, Layout::Transposed) => {
                shape.reverse();
                None
            }
            (Convention::HuggingFace, Layout::Experts | Layout::HeadNorms) => Some(shape.remove(0)),
            (Convention::HuggingFace, Layout::Conv | Layout::DeltaConv) => {
                shape.insert(1, 1);
                None
            }
            (Convention::HuggingFace, Layout::Flat | Layout::FlatDecay) => {
                shape = vec![shape.iter().product()];
                None
            }
            (
                Convention::HuggingFace,
                Layout::Same
                | Layout::QueryHeads
                | Layout::KeyHeads
                | Layout::PlusOne
                | Layout::QkvByHead
                | Layout::DeltaQkv
                | Layout::DeltaValues
                | Layout::DeltaHeads
                | Layout::DeltaDecay
                | Layout::DeltaColumns
                | Layout::KeyUp
                | Layout::ValueUp
                | Layout::DeltaInQkv
                | Layout::DeltaInGate
                | Layout::GateRows
                | Layout::UpRows
                | Layout::Multiplied,
            )
            | (Convention::Gguf, _) => None,
        };
        for part in 0..parts.unwrap_or(1) {
            let part = parts.map(|_| part);
            let Some(name) = template.name(convention).and_then(|name| self.fill(name, layer, part)) else {
                return;
            };
            let (shape, role) = (shape.clone(), template.role);
            out.push(ExpectedTensor { name, shape, role, layer, part, optional, convention, template });
        }
    }

    /// GGUF has a row for every token, whether the token adds something of its own or not.
    fn size_in(&self, convention: Convention, dim: Dim, layer: Option<usize>) -> usize {
        match (convention, dim) {
            (Convention::Gguf, Dim::PerLayerVocab) => self.vocab_size,
            (_, dim) => self.size_of(dim, layer),
        }
    }

    pub(crate) fn size(&self, dim: Dim) -> usize {
        self.size_of(dim, None)
    }

    fn size_of(&self, dim: Dim, layer: Option<usize>) -> usize {
        let experts = self.experts.as_ref();
        let indexer = |of: fn(&Indexer) -> usize| self.indexer.as_ref().map_or(0, of);
        let delta = |of: fn(&DeltaNet) -> usize| self.delta_net().map_or(0, of);
        let mamba = |of: fn(&Mamba2) -> usize| self.mamba2().map_or(0, of);
        let per_layer = self.per_layer.map_or(0, |per_layer| per_layer.size);
        let (kv_heads, head_dim) =
            layer.map_or((self.kv_heads, self.head_dim), |layer| self.key_heads(layer));
        match dim {
            Dim::Vocab => self.vocab_size,
            Dim::Hidden => self.hidden_size,
            Dim::Query => self.heads * head_dim,
            Dim::KeyValue => kv_heads * head_dim,
            Dim::Qkv => (self.heads + 2 * kv_heads) * head_dim,
            Dim::QueryGate => 2 * self.heads * head_dim,
            Dim::Heads => self.heads,
            Dim::KvHeads => kv_heads,
            Dim::HeadDim => head_dim,
            Dim::Ffn => layer.map_or(self.ffn_size, |layer| self.ffn_of(layer)),
            Dim::GateUp => 2 * self.ffn_size,
            Dim::RopeHalf => self.rope.dimensions / 2,
            Dim::Positions => self.context_length + self.position_offset(),
            Dim::Embedding => self.embedding_size,
            Dim::Experts => experts.map_or(0, |e| e.count),
            Dim::DeltaQkv => delta(DeltaNet::width),
            Dim::DeltaValues => delta(DeltaNet::values),
            Dim::DeltaHeads => delta(|net| net.value_heads),
            Dim::DeltaHeadDim => delta(|net| net.value_dim),
            Dim::DeltaIn => delta(|net| net.width() + net.values()),
            Dim::DeltaPairs => delta(|net| 2 * net.value_heads),
            Dim::ConvTaps => self.states.as_ref().map_or(0, |states| states.mixer.taps()),
            Dim::MambaIn => mamba(|m| m.inner() + m.width() + m.heads),
            Dim::MambaConv => mamba(Mamba2::width),
            Dim::MambaInner => mamba(Mamba2::inner),
            Dim::MambaHeads => mamba(|m| m.heads),
            Dim::MambaGroups => mamba(|m| m.groups),
            Dim::MambaGroup => mamba(|m| m.inner() / m.groups.max(1)),
            Dim::TripleHidden => 3 * self.hidden_size,
            Dim::ExpertFfn => experts.map_or(0, |e| e.ffn_size),
            Dim::ExpertHidden => experts.and_then(|e| e.latent).unwrap_or(self.hidden_size),
            Dim::ExpertGateUp => experts.map_or(0, |e| 2 * e.ffn_size),
            Dim::QueryRank => self.query_rank().unwrap_or(0),
            Dim::IndexerQueries => indexer(|i| i.heads * i.head_dim),
            Dim::IndexerHead => indexer(|i| i.head_dim),
            Dim::IndexerHeads => indexer(|i| i.heads),
            Dim::LatentRank => self.latent.map_or(0, |l| l.rank),
            Dim::LatentCached => self.latent.map_or(0, |l| l.cached()),
            Dim::LatentUp => self.heads * self.latent.map_or(0, |l| l.nope_dim + l.value_dim),
            Dim::LatentNope => self.latent.map_or(0, |l| l.nope_dim),
            Dim::LatentValue => self.latent.map_or(0, |l| l.value_dim),
            Dim::LatentValues => self.attended(),
            Dim::SharedFfn => experts.and_then(|e| e.shared).map_or(0, |shared| shared.ffn_size),
            Dim::SharedGateUp => 2 * self.size(Dim::SharedFfn),
            Dim::PerLayer => per_layer,
            Dim::PerLayerAll => self.layers * per_layer,
            Dim::PerLayerVocab => self.per_layer.map_or(0, |per_layer| per_layer.vocab),
            Dim::One => 1,
            Dim::Streams => self.streams,
            Dim::StreamPairs => self.streams * self.streams,
            Dim::OtherStreams => self.streams.saturating_sub(1),
            Dim::Laurel => self.laurel_rank,
        }
    }

    fn query_rank(&self) -> Option<usize> {
        self.latent.and_then(|latent| latent.query_rank)
    }

    fn joined_in_gguf(&self) -> bool {
        self.latent.is_some_and(|latent| latent.joined_in_gguf)
    }

    /// Rows in front of the first position's in the table of positions.
    fn position_offset(&self) -> usize {
        match self.architecture.position {
            crate::architecture::Position::Learned { offset } => offset,
            crate::architecture::Position::Rotary => 0,
        }
    }

    /// Puts the layer's and the part's number into a name; `None` if the layer is missing or too much.
    pub(crate) fn fill(&self, template: &str, layer: Option<usize>, part: Option<usize>) -> Option<String> {
        if layer.is_some() != template.contains("{layer}") {
            return None;
        }
        let number = |n: Option<usize>| n.map(|n| n.to_string()).unwrap_or_default();
        Some(template.replace("{layer}", &number(layer)).replace("{expert}", &number(part)))
    }
}
