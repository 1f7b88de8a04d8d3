//! From a model's name to a file that can be opened: in the cache, or pulled into it.

use std::path::PathBuf;

use crate::blobs::Check;
use crate::error::ErrorKind;
use crate::select::{Patterns, Selection, Weights};
use crate::{Error, Hub, Name, PullOptions, PullProgress, Result};

/// Tokenizer files; a Hugging Face model needs one of them to read text.
const TOKENIZERS: [&str; 9] = [
    "tokenizer.json",
    "tokenizer.model",
    "tekken.json",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "tiktoken.model",
    "hy.tiktoken",
    "qwen.tiktoken",
];

/// Where a model is.
#[derive(Debug)]
pub struct Located {
    /// The file to open.
    pub model: PathBuf,
    /// What a user should know.
    pub notes: Vec<String>,
}

impl Hub {
    /// Finds a model in the cache, or pulls it.
    ///
    /// A model that is complete in the cache is used without a network request: `pull` downloads newer versions. Of
    /// a repository of GGUF files the cache may hold other quantizations than the one that would be chosen, so
    /// without a choice the Hub is asked. If it cannot be reached, the cache is used.
    pub fn locate(&self, name: &Name, progress: &dyn PullProgress) -> Result<Located> {
        if let Some(model) = self.in_cache(name, true) {
            return Ok(Located { model, notes: Vec::new() });
        }
        match self.pull(name, &PullOptions::default(), progress) {
            Ok(pulled) => match pulled.model {
                Some(model) => Ok(Located { model, notes: pulled.notes }),
                None => Err(Error::new(name.to_string(), ErrorKind::Choice("no model there".to_owned()))),
            },
            Err(e) if e.is_unreachable() => match self.in_cache(name, false) {
                Some(model) => Ok(Located { model, notes: vec![format!("{e}; using what is in the cache")] }),
                // What is there is damaged, perhaps: then that is the news.
                None => match self.cached(name, &Patterns::new(&[], &[]), Check::Changed) {
                    Err(bad) if matches!(bad.kind, ErrorKind::Untrusted(_)) => Err(bad),
                    Ok(_) | Err(_) => Err(e),
                },
            },
            Err(e) => Err(e),
        }
    }

    /// The file of a model that is complete in the cache, and not changed since its content was checked. `sure`: only if the Hub's listing could not change it.
    pub fn in_cache(&self, name: &Name, sure: bool) -> Option<PathBuf> {
        let (commit, selection, _) = self.cached(name, &Patterns::new(&[], &[]), Check::Changed).ok()?;
        let weights = selection.weights.as_ref()?;
        if sure && !(is_sure(name, weights) && is_usable(&selection)) {
            return None;
        }
        Some(self.repository(name).snapshot(&commit).join(weights.first()))
    }
}

/// Whether other files in the repository could not change the choice.
fn is_sure(name: &Name, weights: &Weights) -> bool {
    name.choice().is_some()
        || weights.first() == "model.safetensors"
        || weights.first() == "model.safetensors.index.json"
}

/// Whether the settings are there too: Python fetches them one by one, as they are needed.
fn is_usable(selection: &Selection) -> bool {
    let has = |name: &str| selection.others.iter().any(|o| o.rsplit('/').next() == Some(name));
    match selection.weights {
        Some(Weights::Gguf(_)) => true,
        _ => has("config.json") && TOKENIZERS.iter().any(|t| has(t)),
    }
}
