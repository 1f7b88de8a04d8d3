//! The architectures quern knows, one file each.

mod afmoe;
mod apertus;
mod arcee;
mod cohere;
mod cohere2;
mod deepseek2;
mod deepseek32;
mod dots1;
mod ernie4_5;
mod ernie4_5_moe;
mod exaone;
mod exaone4;
mod exaone_moe;
mod falcon;
mod falcon_h1;
mod gemma;
mod gemma3n;
mod gemma4;
mod glm4;
mod glm4_moe;
mod gpt2;
mod gpt_neox;
mod gpt_oss;
mod granite;
mod granite_hybrid;
mod granite_moe;
mod granite_swa;
mod helium;
mod hunyuan;
mod hunyuan_moe;
mod internlm2;
mod jais2;
mod lfm2;
mod lfm2_moe;
mod llama;
mod llama4;
mod mamba2;
mod minicpm;
mod minicpm3;
mod minimax_m2;
mod nemotron;
mod nemotron_h;
mod olmo;
mod olmo2;
mod olmoe;
mod opt;
mod phi;
mod phimoe;
mod qwen;
mod qwen2_moe;
mod qwen3_5;
mod qwen3_next;
mod qwen3_vl_moe;
mod seed_oss;
mod smollm3;
mod stablelm;
mod starcoder2;
mod table;

pub use afmoe::AFMOE;
pub use apertus::APERTUS;
pub use arcee::ARCEE;
pub use cohere::COHERE;
pub use cohere2::COHERE2;
pub use deepseek2::{DEEPSEEK_V2, DEEPSEEK_V3, GLM4_MOE_LITE, YOUTU};
pub use deepseek32::{DEEPSEEK_V32, GLM_MOE_DSA};
pub use dots1::DOTS1;
pub use ernie4_5::ERNIE4_5;
pub use ernie4_5_moe::ERNIE4_5_MOE;
pub use exaone::EXAONE;
pub use exaone_moe::EXAONE_MOE;
pub use exaone4::EXAONE4;
pub use falcon::FALCON;
pub use falcon_h1::FALCON_H1;
pub use gemma::{GEMMA, GEMMA2, GEMMA3, VAULT_GEMMA};
pub use gemma3n::GEMMA3N;
pub use gemma4::{GEMMA4, GEMMA4_MOE};
pub use glm4::{CHATGLM, GLM4, GLM4V};
pub use glm4_moe::{GLM4_MOE, SOLAR_OPEN};
pub use gpt_neox::GPT_NEOX;
pub use gpt_oss::GPT_OSS;
pub use gpt2::GPT2;
pub use granite::{GRANITE, GRANITE_4, HYPERCLOVA_X};
pub use granite_hybrid::{GRANITE_HYBRID, GRANITE_HYBRID_MOE};
pub use granite_moe::GRANITE_MOE;
pub use granite_swa::GRANITE_SWA;
pub use helium::HELIUM;
pub use hunyuan::HUNYUAN_DENSE;
pub use hunyuan_moe::HUNYUAN_MOE;
pub use internlm2::INTERNLM2;
pub use jais2::JAIS2;
pub use lfm2::LFM2;
pub use lfm2_moe::LFM2_MOE;
pub use llama::{CWM, INTERNLM3, IQUEST_CODER, LLAMA, MINISTRAL3, MISTRAL, MISTRAL3, MIXTRAL};
pub use llama4::LLAMA4;
pub use mamba2::MAMBA2;
pub use minicpm::MINICPM;
pub use minicpm3::MINICPM3;
pub use minimax_m2::MINIMAX_M2;
pub use nemotron::NEMOTRON;
pub use nemotron_h::{NEMOTRON_H, NEMOTRON_H_MOE};
pub use olmo::OLMO;
pub use olmo2::{OLMO2, OLMO3};
pub use olmoe::{FLEX_OLMO, OLMOE};
pub use opt::OPT;
pub use phi::{PHI2, PHI3};
pub use phimoe::PHIMOE;
pub use qwen::{QWEN2, QWEN2_VL, QWEN3, QWEN3_MOE, QWEN3_VL};
pub use qwen2_moe::QWEN2_MOE;
pub use qwen3_5::{QWEN3_5, QWEN3_5_MOE};
pub use qwen3_next::QWEN3_NEXT;
pub use qwen3_vl_moe::{QWEN3_OMNI_MOE, QWEN3_VL_MOE};
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
    &LLAMA4,
    &QWEN2,
    &QWEN3,
    &QWEN3_MOE,
    &QWEN3_5,
    &QWEN3_5_MOE,
    &QWEN3_NEXT,
    &QWEN2_VL,
    &QWEN3_VL,
    &GEMMA,
    &GEMMA2,
    &GEMMA3,
    &GEMMA3N,
    &GEMMA4,
    &GEMMA4_MOE,
    &PHI2,
    &PHI3,
    &OPT,
    &GPT2,
    &GPT_NEOX,
    &GPT_OSS,
    &STARCODER2,
    &STABLELM,
    &FALCON,
    &FALCON_H1,
    &SEED_OSS,
    &SMOLLM3,
    &GRANITE,
    &GRANITE_HYBRID,
    &GRANITE_HYBRID_MOE,
    &GRANITE_4,
    &GRANITE_MOE,
    &GRANITE_SWA,
    &LFM2,
    &LFM2_MOE,
    &MAMBA2,
    &NEMOTRON_H,
    &NEMOTRON_H_MOE,
    &OLMO,
    &OLMO2,
    &OLMO3,
    &OLMOE,
    &ARCEE,
    &EXAONE,
    &EXAONE4,
    &COHERE2,
    &ERNIE4_5,
    &DEEPSEEK_V2,
    &DEEPSEEK_V3,
    &DEEPSEEK_V32,
    &GLM_MOE_DSA,
    &GLM4_MOE_LITE,
    &YOUTU,
    &MINICPM3,
    &QWEN2_MOE,
    &QWEN3_VL_MOE,
    &QWEN3_OMNI_MOE,
    &DOTS1,
    &ERNIE4_5_MOE,
    &GLM4_MOE,
    &MINIMAX_M2,
    &GLM4,
    &APERTUS,
    &COHERE,
    &NEMOTRON,
    &HELIUM,
    &HUNYUAN_DENSE,
    &HUNYUAN_MOE,
    &INTERNLM2,
    &INTERNLM3,
    &IQUEST_CODER,
    &MINICPM,
    &CHATGLM,
    &GLM4V,
    &PHIMOE,
    &SOLAR_OPEN,
    &CWM,
    &JAIS2,
    &HYPERCLOVA_X,
    &VAULT_GEMMA,
    &FLEX_OLMO,
    &EXAONE_MOE,
    &AFMOE,
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
