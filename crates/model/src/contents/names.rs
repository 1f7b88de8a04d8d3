//! How a file may spell the architecture's tensor names.
//!
//! | spelling | written by |
//! |---|---|
//! | `model.layers.0…`, `transformer.h.0…` | a model with a head: the architecture's own |
//! | `layers.0…`, `h.0…` | the bare model class (`LlamaModel`, the published GPT-2 files) |
//! | `_orig_mod.` anywhere | a model that went through `torch.compile` |
//! | `module.` in front | data-parallel training |
//! | `base_model.model.` in front | PEFT, after its adapter was merged |
//! | `pretrained_model.` in front | TRL's models with a value head |
//! | `language_model.`, `thinker.` or `llm.` in front, or `language_model.` or `text_model.` behind `model.` | the text part of a multimodal model |
//! | `model.` or `transformer.` once more in front | a training class that holds the model under that name |

use std::borrow::Cow;
use std::collections::HashSet;

use crate::Config;
use crate::architecture::Convention;
use crate::config::ExpectedTensor;

/// What wrappers put in front of every name.
const WRAPPERS: [&str; 8] = [
    "module.",
    "base_model.model.",
    "pretrained_model.",
    "language_model.",
    "thinker.",
    "llm.",
    "model.",
    "transformer.",
];
/// What `torch.compile` puts in front of a compiled module's names.
const COMPILED: &str = "_orig_mod.";
/// Where multimodal classes keep their text model.
const TEXT_MODELS: [&str; 2] = ["model.language_model.", "model.text_model."];

/// The names an architecture knows.
pub(super) struct Names {
    convention: Convention,
    prefix: &'static str,
    known: HashSet<String>,
    /// The templates of names within the blocks, split at the layer number: the parts before and after it.
    per_layer: Vec<(String, String)>,
}

impl Names {
    pub fn new(config: &Config, expected: &[ExpectedTensor]) -> Self {
        let mut known: HashSet<String> = expected.iter().map(|e| e.name.clone()).collect();
        let aliases = match config.convention {
            Convention::HuggingFace => config.architecture.hf_aliases,
            Convention::Gguf => &[],
        };
        let parts = config.experts.as_ref().map_or(0, |e| e.count);
        for alias in aliases {
            let numbered = alias.name.contains("{expert}");
            for layer in 0..config.layers {
                for part in 0..if numbered { parts } else { 1 } {
                    known.extend(config.fill(alias.name, Some(layer), Some(part)));
                }
            }
        }
        let templates = config.architecture.tensors.iter().filter_map(|t| t.name(config.convention));
        let templates = templates.chain(aliases.iter().map(|a| a.name));
        let per_layer = templates.filter_map(|t| t.split_once("{layer}"));
        let per_layer = per_layer.map(|(before, behind)| (before.to_owned(), behind.to_owned())).collect();
        Self { convention: config.convention, prefix: config.architecture.hf_prefix, known, per_layer }
    }

    /// The architecture's spelling of a name of the file; `None` for a name it does not have.
    pub fn known(&self, name: &str) -> Option<String> {
        self.spellings(name)
            .into_iter()
            .find(|spelling| self.known.contains(spelling.as_ref()))
            .map(Cow::into_owned)
    }

    /// The number of the layer, if the name is one of the architecture's for some layer.
    pub fn layer_of(&self, name: &str) -> Option<usize> {
        let number = |spelling: Cow<'_, str>| {
            self.per_layer.iter().find_map(|(before, behind)| {
                let (layer, rest) = spelling.strip_prefix(before.as_str())?.split_once('.')?;
                // Names of experts have a number of their own; packed layers other ends.
                let end = behind.strip_prefix('.')?.split("{expert}").next()?;
                let module = end.strip_suffix(".weight").unwrap_or(end);
                rest.starts_with(module).then(|| layer.parse().ok())?
            })
        };
        self.spellings(name).into_iter().find_map(number)
    }

    /// The number of the layer that a name has where the architecture's names have one, whatever follows it.
    pub fn block_of(&self, name: &str) -> Option<usize> {
        let number = |spelling: Cow<'_, str>| {
            self.per_layer.iter().find_map(|(before, _)| {
                let (layer, _) = spelling.strip_prefix(before.as_str())?.split_once('.')?;
                layer.parse().ok()
            })
        };
        self.spellings(name).into_iter().find_map(number)
    }

    /// Spellings to try, the file's own first.
    pub fn spellings<'n>(&self, name: &'n str) -> Vec<Cow<'n, str>> {
        let mut all = vec![Cow::Borrowed(name)];
        if self.convention == Convention::Gguf {
            return all;
        }
        let compiled;
        let mut bare = name;
        if name.contains(COMPILED) {
            compiled = name.replace(COMPILED, "");
            bare = &compiled;
        }
        loop {
            self.push(bare, &mut all);
            if let Some(rest) = TEXT_MODELS.iter().find_map(|prefix| bare.strip_prefix(prefix)) {
                self.push(rest, &mut all);
            }
            let Some(rest) = WRAPPERS.iter().find_map(|wrapper| bare.strip_prefix(wrapper)) else {
                return all;
            };
            bare = rest;
        }
    }

    /// The name as it is, and with the prefix of a model that has a head.
    fn push(&self, name: &str, all: &mut Vec<Cow<'_, str>>) {
        all.push(Cow::Owned(name.to_owned()));
        all.push(Cow::Owned(format!("{}{name}", self.prefix)));
    }
}
