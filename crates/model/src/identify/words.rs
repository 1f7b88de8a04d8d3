//! The message of each [`Identity`]: one sentence, what it is and what to do.

use std::fmt;

use super::Identity;

/// What to take in place of weights that cannot be read.
const OTHER_WEIGHTS: &str = "take the model unquantized, or quantized with GPTQ, AWQ, bitsandbytes, FP8, NVFP4, compressed-tensors, \
     AutoRound, MLX, HQQ, torchao or as GGUF";

impl Identity {
    /// A short name for scripts: `adapter`, `projector`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Adapter { .. } => "adapter",
            Self::UnmergedAdapter => "unmerged-adapter",
            Self::Projector => "projector",
            Self::ImportanceMatrix => "importance-matrix",
            Self::ControlVector => "control-vector",
            Self::OtherGguf { .. } => "other-gguf",
            Self::Vocabulary => "vocabulary",
            Self::UnstackedExperts => "unstacked-experts",
            Self::Quantized { .. } => "quantized",
            Self::OriginalLayout => "original-layout",
            Self::LfsPointer { .. } => "lfs-pointer",
            Self::WebPage => "web-page",
            Self::ServerAnswer { .. } => "server-answer",
            Self::Empty => "empty",
            Self::Unfinished => "unfinished",
            Self::OldGgml => "old-ggml",
            Self::Foreign { .. } => "foreign",
            Self::Nemo => "nemo",
            Self::Archive { .. } => "archive",
            Self::Llamafile => "llamafile",
            Self::Settings { .. } => "settings",
            Self::EmptyFolder => "empty-folder",
            Self::NoWeights { .. } => "no-weights",
            Self::Below { .. } => "below",
            Self::Diffusers => "diffusers",
            Self::HubCache { .. } => "hub-cache",
            Self::Distributed => "distributed",
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Adapter { method, base } => {
                let (article, base) = match base {
                    Some(base) => (article(method), format!("the model {base}")),
                    None => (article(method), "a base model that it does not name".to_owned()),
                };
                write!(
                    f,
                    "this is {article} {method} adapter for {base}, not a whole model; merge it into its base model \
                     first (merge_and_unload() in PEFT, mlx_lm.fuse, or llama-export-lora for GGUF) and give the \
                     merged model"
                )
            }
            Self::UnmergedAdapter => f.write_str(
                "the layers of this model carry a LoRA adapter that has not been merged into the weights; merge it \
                 (merge_and_unload() in PEFT), save the model again, and give that",
            ),
            Self::Projector => f.write_str(
                "this is a multimodal projector (mmproj: the vision or audio part of a model), not a language model; \
                 give the GGUF file of the language model that it belongs to",
            ),
            Self::ImportanceMatrix => f.write_str(
                "this is an importance matrix, not a model; give the model that it was measured on, and this file as \
                 the importance matrix of a quantization",
            ),
            Self::ControlVector => f.write_str(
                "this is a control vector, not a model; give the model that it was made for, control vectors are not \
                 supported",
            ),
            Self::OtherGguf { kind } => write!(
                f,
                "this GGUF file is of the type {kind:?} (general.type), not a model; give the file of the model"
            ),
            Self::Vocabulary => f.write_str(
                "this GGUF file holds no tensors, only metadata (a vocabulary); give the file of the whole model",
            ),
            Self::UnstackedExperts => f.write_str(
                "this file was written before experts were stacked (before April 2024): it has one tensor per expert, \
                 which is no longer read; download a newer file, or convert the original checkpoint again",
            ),
            Self::Quantized { method } => {
                write!(f, "the model is quantized with {method}, which quern does not read; {OTHER_WEIGHTS}")
            }
            Self::OriginalLayout => f.write_str(
                "these are weights in the original layout of Meta's and Mistral's releases (consolidated.*, \
                 params.json), which quern does not read; take the same model in Hugging Face's layout (config.json \
                 and model.safetensors) or as GGUF",
            ),
            Self::LfsPointer { bytes } => {
                let missing = bytes.map(|n| format!(" of {n} bytes")).unwrap_or_default();
                write!(
                    f,
                    "this is a Git LFS pointer, not the file{missing} itself; run \"git lfs pull\" in its folder, or \
                     download the file again"
                )
            }
            Self::WebPage => f.write_str(
                "this is a web page (HTML), not a model: a page was saved in place of the file; download the file \
                 itself (its /resolve/ address on the Hub)",
            ),
            Self::ServerAnswer { text } => write!(
                f,
                "this is an answer of a server ({text:?}), not the file that was asked for; check the name and your \
                 access, and download it again"
            ),
            Self::Empty => f.write_str("the file is empty; download or make it again"),
            Self::Unfinished => {
                f.write_str("this is an unfinished download; finish it, or download the file again")
            }
            Self::OldGgml => f.write_str(
                "this is a llama.cpp file from before GGUF (GGML, GGMF or GGJT, before August 2023), which is no \
                 longer read; download a GGUF file of the model, or convert the original checkpoint again",
            ),
            Self::Foreign { what } => write!(
                f,
                "this is {what}, which quern does not read; take the safetensors, PyTorch or GGUF files of the model"
            ),
            Self::Nemo => f.write_str(
                "this is a NeMo archive, which quern does not read; convert it to Hugging Face's layout with NeMo's \
                 own converter and give that folder",
            ),
            Self::Archive { kind } => {
                write!(f, "this is a {kind} archive; unpack it and give the folder or the file inside")
            }
            Self::Llamafile => f.write_str(
                "this is a program (a llamafile holds a model inside); unpack the .gguf file from it with unzip, and \
                 give that",
            ),
            Self::Settings { what } => {
                write!(f, "this is {what}, not the weights; give the folder that holds the model")
            }
            Self::EmptyFolder => f.write_str("this folder is empty; download the model into it"),
            Self::NoWeights { found } => {
                let more = if found.len() > LISTED { " and more" } else { "" };
                let found = found.iter().take(LISTED).map(String::as_str).collect::<Vec<_>>().join(", ");
                write!(
                    f,
                    "no model in this folder: it holds no weights (*.safetensors, *.gguf, pytorch_model.bin), only \
                     {found}{more}; download the weights into it"
                )
            }
            Self::Below { folders } => {
                let list = folders.iter().take(LISTED).map(String::as_str).collect::<Vec<_>>().join(", ");
                match folders.len() {
                    1 => write!(f, "the weights are not in this folder but in {list}; give the path of that folder"),
                    _ => write!(
                        f,
                        "no model in this folder, but in folders inside it ({list}); give the path of the one you mean"
                    ),
                }
            }
            Self::Diffusers => f.write_str(
                "this is a pipeline of diffusers (model_index.json: images, video or sound), not a language model; \
                 quern reads language models only",
            ),
            Self::HubCache { name } => {
                let name = name.as_deref().map(|name| format!(", or the name {name}")).unwrap_or_default();
                write!(
                    f,
                    "this is a folder of the Hub's cache; give the folder of a revision under snapshots/{name}"
                )
            }
            Self::Distributed => f.write_str(
                "these are the parts of a distributed checkpoint (DeepSpeed, FSDP or Megatron), as a training saves \
                 them; gather them into one model first (zero_to_fp32.py of DeepSpeed, or the trainer's own tool)",
            ),
        }
    }
}

/// Files and folders that a message lists.
const LISTED: usize = 6;

fn article(word: &str) -> &'static str {
    if word.starts_with(['A', 'E', 'I', 'O', 'a', 'e', 'i', 'o']) { "an" } else { "a" }
}
