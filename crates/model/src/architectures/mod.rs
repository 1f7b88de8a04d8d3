//! The architectures quern knows, one file each.

mod apertus;
mod arcee;
mod cohere;
mod cohere2;
mod ernie4_5;
mod exaone4;
mod falcon;
mod gemma;
mod gemma3n;
mod gemma4;
mod glm4;
mod gpt2;
mod gpt_neox;
mod granite;
mod helium;
mod hunyuan;
mod llama;
mod minicpm;
mod nemotron;
mod olmo2;
mod olmoe;
mod opt;
mod phi;
mod qwen;
mod seed_oss;
mod smollm3;
mod stablelm;
mod starcoder2;
mod table;

pub use apertus::APERTUS;
pub use arcee::ARCEE;
pub use cohere::COHERE;
pub use cohere2::COHERE2;
pub use ernie4_5::ERNIE4_5;
pub use exaone4::EXAONE4;
pub use falcon::FALCON;
pub use gemma::{GEMMA, GEMMA2, GEMMA3};
pub use gemma3n::GEMMA3N;
pub use gemma4::GEMMA4;
pub use glm4::{CHATGLM, GLM4, GLM4V};
pub use gpt_neox::GPT_NEOX;
pub use gpt2::GPT2;
pub use granite::GRANITE;
pub use helium::HELIUM;
pub use hunyuan::HUNYUAN_DENSE;
pub use llama::{INTERNLM3, LLAMA, MINISTRAL3, MISTRAL, MISTRAL3, MIXTRAL};
pub use minicpm::MINICPM;
pub use nemotron::NEMOTRON;
pub use olmo2::{OLMO2, OLMO3};
pub use olmoe::OLMOE;
pub use opt::OPT;
pub use phi::{PHI2, PHI3};
pub use qwen::{QWEN2, QWEN2_VL, QWEN3, QWEN3_MOE, QWEN3_VL};
pub use seed_oss::SEED_OSS;
pub use smollm3::SMOLLM3;
pub use stablelm::STABLELM;
pub use starcoder2::STARCODER2;

use crate::Architecture;

/// Every architecture.
pub static ALL: &[&Architecture] = &[
    &LLAMA,
    &MISTRAL,
    &MIXTRAL,
    &MINISTRAL3,
    &MISTRAL3,
    &QWEN2,
    &QWEN3,
    &QWEN3_MOE,
    &QWEN2_VL,
    &QWEN3_VL,
    &GEMMA,
    &GEMMA2,
    &GEMMA3,
    &GEMMA3N,
    &GEMMA4,
    &PHI2,
    &PHI3,
    &OPT,
    &GPT2,
    &GPT_NEOX,
    &STARCODER2,
    &STABLELM,
    &FALCON,
    &SEED_OSS,
    &SMOLLM3,
    &GRANITE,
    &OLMO2,
    &OLMO3,
    &OLMOE,
    &ARCEE,
    &EXAONE4,
    &COHERE2,
    &ERNIE4_5,
    &GLM4,
    &APERTUS,
    &COHERE,
    &NEMOTRON,
    &HELIUM,
    &HUNYUAN_DENSE,
    &INTERNLM3,
    &MINICPM,
    &CHATGLM,
    &GLM4V,
];

/// The architecture with this `general.architecture` in GGUF: of several with the name `llama` the first with (or
/// without) `experts`.
pub fn from_gguf_name(name: &str, experts: bool) -> Option<&'static Architecture> {
    let of_name = |a: &&&Architecture| a.name == name && a.no_gguf.is_none();
    let mut found = ALL.iter().filter(of_name).copied();
    found.clone().find(|a| a.has_experts == experts).or_else(|| found.next())
}

/// The architecture that a user names: by its class, its `model_type`, or its name in GGUF.
pub fn named(name: &str) -> Option<&'static Architecture> {
    from_hf_architecture(name)
        .or_else(|| ALL.iter().copied().find(|a| a.name == name))
        .or_else(|| from_hf_model_type(name))
}

/// The architecture for this entry of `architectures` in a `config.json`.
pub fn from_hf_architecture(name: &str) -> Option<&'static Architecture> {
    ALL.iter().copied().find(|a| a.hf_architectures.contains(&name))
}

/// The architecture for this `model_type` in a `config.json`.
pub fn from_hf_model_type(name: &str) -> Option<&'static Architecture> {
    ALL.iter().copied().find(|a| a.hf_model_types.contains(&name))
}
