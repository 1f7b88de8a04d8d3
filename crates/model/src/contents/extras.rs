//! Tensors that the configuration does not ask for: which of them change no result.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use quern_tensor_io::scheme::{PackedLayer, Packing};
use quern_tensor_io::{Checkpoint, TensorInfo, decode};

use crate::Config;
use crate::architecture::Convention;
use crate::json::Json;

use super::names::Names;
use super::problem::file_of_layer;
use super::{HeldTensor, Item, Place, Problem, ProblemKind};

/// Why a tensor can be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Extra {
    /// A causal mask, or the value it masks with; every reader computes them itself.
    Mask,
    /// A buffer of rotary or absolute positions, which every reader computes from the configuration.
    Positions,
    /// A bias of zeros where the architecture has none (old GPTQ writers).
    ZeroBias,
    /// A scale for a quantized KV cache, announced in the configuration.
    CacheScale,
    /// The head that predicts a value in reinforcement learning (TRL).
    ValueHead,
    /// A layer that predicts further tokens for speculative decoding.
    Speculative,
    /// A tower for images or sound of a multimodal release, or what joins it to the text model.
    Tower,
    /// The same tensor with the same values under a second spelling.
    Copy,
}

impl Extra {
    /// How several of them are called: `attention masks`.
    pub fn called(self) -> &'static str {
        match self {
            Self::Mask => "attention masks",
            Self::Positions => "position buffers",
            Self::ZeroBias => "biases that are all zero",
            Self::CacheScale => "KV-cache scales",
            Self::ValueHead => "tensors of a value head",
            Self::Speculative => "tensors of multi-token prediction layers",
            Self::Tower => "tensors of parts for images or sound",
            Self::Copy => "copies under a second name",
        }
    }
}

/// A tensor that is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Index into [`Checkpoint::tensors`].
    pub tensor: usize,
    /// Why.
    pub reason: Extra,
}

/// One sentence on all of them.
pub(super) fn note(checkpoint: &Checkpoint, left_out: &[LeftOut]) -> Option<String> {
    let towers: Vec<&LeftOut> = left_out.iter().filter(|one| one.reason == Extra::Tower).collect();
    let of_towers = (!towers.is_empty()).then(|| {
        let mut modules: Vec<&str> =
            towers.iter().filter_map(|one| tower(&checkpoint.tensors().get(one.tensor)?.name)).collect();
        modules.sort_unstable();
        modules.dedup();
        format!(
            "this is a multimodal model, of which quern reads the text model: {} tensors of {} are left out",
            towers.len(),
            modules.join(", ")
        )
    });
    let others = note_of_others(left_out.iter().filter(|one| one.reason != Extra::Tower));
    match (of_towers, others) {
        (Some(towers), Some(others)) => Some(format!("{towers}; {others}")),
        (Some(one), None) | (None, Some(one)) => Some(one),
        (None, None) => None,
    }
}

fn note_of_others<'l>(left_out: impl Iterator<Item = &'l LeftOut> + Clone) -> Option<String> {
    left_out.clone().next()?;
    let mut counts: Vec<(Extra, usize)> = Vec::new();
    for one in left_out {
        match counts.iter_mut().find(|(reason, _)| *reason == one.reason) {
            Some((_, count)) => *count += 1,
            None => counts.push((one.reason, 1)),
        }
    }
    let parts: Vec<String> =
        counts.iter().map(|(reason, count)| format!("{count} {}", reason.called())).collect();
    Some(format!("tensors that change no result are left out: {}", parts.join(", ")))
}

/// Modules of multimodal models beside the text model: towers, and what joins them to it.
const TOWERS: [&str; 27] = [
    "vision_tower",
    "vision_model",
    "vision_encoder",
    "vision_embed_tokens",
    "visual",
    "visual_projector",
    "multi_modal_projector",
    "mm_projector",
    "vision_projector",
    "vision_projection",
    "image_tower",
    "video_tower",
    "projector",
    "connector",
    "mlp1",
    "image_newline",
    "audio_tower",
    "audio_encoder",
    "audio_projector",
    "speech_encoder",
    "speech_projector",
    "embed_vision",
    "embed_audio",
    "sound_encoder",
    // Of the Omni models, what speaks.
    "talker",
    "code2wav",
    "token2wav",
];

/// The tower's module that a tensor belongs to: the first part of its name, behind what wraps the whole model.
pub(super) fn tower(name: &str) -> Option<&str> {
    let bare = name.strip_prefix("module.").unwrap_or(name);
    let bare = bare.strip_prefix("thinker.").unwrap_or(bare);
    let bare = bare.strip_prefix("model.").unwrap_or(bare);
    let module = bare.split('.').next()?;
    TOWERS.contains(&module).then_some(module)
}

/// Ends of the names of buffers that every reader computes for itself.
const POSITION_BUFFERS: [&str; 6] = [
    "rotary_emb.inv_freq",
    "rotary_emb.cos_cached",
    "rotary_emb.sin_cached",
    "rotary_emb.original_inv_freq",
    "position_ids",
    "rope.freqs",
];
/// Ends of the names of causal masks; a vector of that name would be a bias.
const MASKS: [&str; 4] = [".attn.bias", ".attention.bias", ".self_attn.bias", ".causal_mask"];
/// Ends of the names of the value for masked scores.
const MASK_VALUES: [&str; 2] = [".masked_bias", ".mask_value"];
/// Ends of the names of scales of a quantized KV cache.
const CACHE_SCALES: [&str; 9] = [
    ".k_scale",
    ".v_scale",
    ".kv_scale",
    ".q_scale",
    ".prob_scale",
    ".k_zero_point",
    ".v_zero_point",
    ".k_proj.output_scale",
    ".v_proj.output_scale",
];

/// The check of a checkpoint's surplus tensors.
pub(super) struct Extras<'a, 'c> {
    checkpoint: &'a Checkpoint,
    config: &'c Config,
    names: &'c Names,
    layers: &'c [PackedLayer],
    /// What is used, by the architecture's spelling.
    held: HashMap<&'c str, Place>,
    cache_scales: bool,
}

/// A tensor in a layer that the configuration does not have.
struct Beyond {
    problem: (String, PathBuf),
    layer: usize,
}

impl<'a, 'c> Extras<'a, 'c> {
    pub fn new(
        checkpoint: &'a Checkpoint,
        config: &'c Config,
        packing: Option<&'c Packing>,
        names: &'c Names,
        tensors: &'c [HeldTensor],
    ) -> Self {
        Self {
            checkpoint,
            config,
            names,
            layers: packing.map_or(&[] as &[PackedLayer], Packing::layers),
            held: tensors.iter().map(|t| (t.expected.name.as_str(), t.place)).collect(),
            cache_scales: config.convention == Convention::HuggingFace && announces_cache_scales(checkpoint),
        }
    }

    /// Sorts every tensor and packed layer that is not `used`; what changes results is added to `problems`.
    pub fn classify(&self, used: &HashSet<Item>, problems: &mut Vec<Problem>) -> Vec<LeftOut> {
        let parts: HashSet<usize> = self.layers.iter().flat_map(|l| l.parts.iter().copied()).collect();
        let mut left_out = Vec::new();
        let mut beyond = Vec::new();
        let all = self.checkpoint.tensors().iter().enumerate();
        for (tensor, info) in all.filter(|(i, _)| !used.contains(&Item::Plain(*i)) && !parts.contains(i)) {
            let file = self.checkpoint.file_of(info);
            if let Some(reason) = self.harmless(info) {
                left_out.push(LeftOut { tensor, reason });
            } else if let Some(name) = self.names.known(&info.name) {
                match self.twice(&name, info) {
                    None => left_out.push(LeftOut { tensor, reason: Extra::Copy }),
                    Some(kind) => problems.push(problem(&info.name, file, kind)),
                }
            } else if let Some(layer) = self.layer_beyond(&info.name) {
                beyond.push(Beyond { problem: (info.name.clone(), file.to_path_buf()), layer });
            } else {
                problems.push(problem(&info.name, file, self.unknown(info)));
            }
        }
        for (number, layer) in self.layers.iter().enumerate() {
            if used.contains(&Item::Packed(number)) {
                continue;
            }
            let file = file_of_layer(self.checkpoint, layer);
            if self.config.convention == Convention::HuggingFace && tower(&layer.name).is_some() {
                left_out.extend(layer.parts.iter().map(|&tensor| LeftOut { tensor, reason: Extra::Tower }));
                continue;
            }
            if self.predicts(&layer.name) {
                let parts = layer.parts.iter();
                left_out.extend(parts.map(|&tensor| LeftOut { tensor, reason: Extra::Speculative }));
                continue;
            }
            match self.layer_beyond(&layer.name) {
                Some(number) => {
                    beyond.push(Beyond { problem: (layer.name.clone(), file.to_path_buf()), layer: number });
                }
                None => problems.push(problem(&layer.name, file, self.unknown_kind())),
            }
        }
        problems.extend(self.all_beyond(beyond));
        left_out
    }

    fn layer_beyond(&self, name: &str) -> Option<usize> {
        self.names.layer_of(name).filter(|&layer| layer >= self.config.layers)
    }

    /// One problem for all tensors in layers that are not there.
    fn all_beyond(&self, beyond: Vec<Beyond>) -> Option<Problem> {
        let layers = self.config.layers;
        let found = beyond.iter().map(|b| b.layer).max()?.saturating_add(1);
        let tensors = beyond.len();
        let (tensor, file) = beyond.into_iter().next()?.problem;
        let key = match self.config.convention {
            Convention::HuggingFace => "num_hidden_layers",
            Convention::Gguf => "block_count",
        };
        Some(Problem { tensor, file, kind: ProblemKind::Beyond { tensors, layers, found, key } })
    }

    fn harmless(&self, info: &TensorInfo) -> Option<Extra> {
        let name = info.name.as_str();
        if self.predicts(name) {
            return Some(Extra::Speculative);
        }
        if self.config.convention == Convention::Gguf {
            // Written by converters of 2023, ignored by every loader.
            let ends = [".attn_rot_embd", ".attn_rot_embd.weight", ".attention.rotary_emb.inv_freq"];
            let known = name == "rope_freqs.weight" || ends.iter().any(|end| name.ends_with(end));
            return known.then_some(Extra::Positions).or_else(|| self.zero_bias(info));
        }
        let ends = |list: &[&str]| list.iter().any(|end| name.ends_with(end));
        if ends(&POSITION_BUFFERS) {
            return Some(Extra::Positions);
        }
        if ends(&MASK_VALUES) || (ends(&MASKS) && info.shape.len() != 1) {
            return Some(Extra::Mask);
        }
        if self.cache_scales && ends(&CACHE_SCALES) {
            return Some(Extra::CacheScale);
        }
        let segment = |wanted: &[&str]| name.split('.').any(|part| wanted.contains(&part));
        if segment(&["v_head", "value_head"]) {
            return Some(Extra::ValueHead);
        }
        if name.starts_with("mtp.") || name.starts_with("model.mtp") {
            return Some(Extra::Speculative);
        }
        if tower(name).is_some() {
            return Some(Extra::Tower);
        }
        self.zero_bias(info)
    }

    /// Whether a tensor is in a layer behind the model's that predicts further tokens.
    fn predicts(&self, name: &str) -> bool {
        let behind = self.names.block_of(name).and_then(|layer| layer.checked_sub(self.config.layers));
        behind.is_some_and(|behind| behind < self.config.speculative_layers)
    }

    /// Whether this is the bias of a weight that is used, and all zero.
    fn zero_bias(&self, info: &TensorInfo) -> Option<Extra> {
        self.is_bias(info).then_some(())?;
        (!self.checkpoint.has_data() || self.all_zero(info)).then_some(Extra::ZeroBias)
    }

    /// Whether this is a vector that belongs to a weight the model has.
    fn is_bias(&self, info: &TensorInfo) -> bool {
        let weight = info.name.strip_suffix(".bias").map(|module| format!("{module}.weight"));
        let weight = weight.and_then(|name| self.names.known(&name));
        info.shape.len() == 1 && weight.is_some()
    }

    fn all_zero(&self, info: &TensorInfo) -> bool {
        let data = self.checkpoint.data(info);
        let mut values = vec![0.0; info.elements()];
        match decode::can_decode(info.element_type) && decode::to_f32(info.element_type, data, &mut values) {
            true => values.iter().all(|&v| v == 0.0),
            false => data.iter().all(|&byte| byte == 0),
        }
    }

    fn unknown(&self, info: &TensorInfo) -> ProblemKind {
        let architecture = self.config.architecture.name;
        match self.is_bias(info) {
            true => ProblemKind::Bias { architecture },
            false => self.unknown_kind(),
        }
    }

    fn unknown_kind(&self) -> ProblemKind {
        ProblemKind::Unknown { architecture: self.config.architecture.name, layers: self.config.layers }
    }

    /// What is wrong with a second spelling of a tensor; `None` if both are the same.
    fn twice(&self, name: &str, info: &TensorInfo) -> Option<ProblemKind> {
        let Some(Place::Plain(span)) = self.held.get(name) else {
            return Some(self.unknown(info));
        };
        let first = span.info(self.checkpoint);
        let same = first.element_type == info.element_type
            && first.shape == info.shape
            && self.checkpoint.has_data()
            && self.checkpoint.data(first) == self.checkpoint.data(info);
        (!same).then(|| ProblemKind::Twice { other: first.name.clone() })
    }
}

fn problem(tensor: &str, file: &Path, kind: ProblemKind) -> Problem {
    Problem { tensor: tensor.to_owned(), file: file.to_path_buf(), kind }
}

/// Whether the configuration says that the file holds scales for a quantized KV cache.
fn announces_cache_scales(checkpoint: &Checkpoint) -> bool {
    let folder = checkpoint.directory();
    let announced = |file: &str, nested: Option<&str>| {
        let Ok(Some(json)) = Json::read_optional(&folder.join(file)) else { return false };
        let root = json.root();
        let object = match nested {
            Some(key) => root.object(key).ok().flatten(),
            None => Some(root),
        };
        let keys = ["kv_cache_scheme", "kv_cache_quant_algo"];
        object.is_some_and(|o| keys.iter().any(|key| o.get(key).is_some_and(|v| !v.is_null())))
    };
    announced("config.json", Some("quantization_config"))
        || announced("config.json", Some("compression_config"))
        || announced("config.json", None)
        || announced("hf_quant_config.json", Some("quantization"))
}
