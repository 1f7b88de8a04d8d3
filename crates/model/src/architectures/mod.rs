//! The architectures quern knows, one file each.

mod llama;

pub use llama::LLAMA;

use crate::Architecture;

/// Every architecture.
pub const ALL: &[&Architecture] = &[&LLAMA];

/// The architecture with this `general.architecture` in GGUF.
pub fn from_gguf_name(name: &str) -> Option<&'static Architecture> {
    ALL.iter().copied().find(|a| a.name == name)
}

/// The architecture for this entry of `architectures` in a `config.json`.
pub fn from_hf_architecture(name: &str) -> Option<&'static Architecture> {
    ALL.iter().copied().find(|a| a.hf_architectures.contains(&name))
}

/// The architecture for this `model_type` in a `config.json`.
pub fn from_hf_model_type(name: &str) -> Option<&'static Architecture> {
    ALL.iter().copied().find(|a| a.hf_model_types.contains(&name))
}
