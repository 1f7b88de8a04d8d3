//! Selects the files of a repository that make up the model.
//!
//! ```text
//! after the colon       that file, with its splits or shards; or the GGUF model of that quantization
//! else, in this order   model.safetensors.index.json and its shards · model.safetensors · the only other
//!                       *.safetensors at the root (or index of another name) · *.gguf · pytorch_model.bin
//! beside them           config.json, the tokenizer, generation and quantization settings, chat template, model card
//! ```
//!
//! Everything else is not downloaded: the same weights in other formats (`consolidated.*`, `original/`, onnx,
//! TensorFlow, Flax, `*.pth`), pictures, training state. A GGUF file needs nothing beside it.

use crate::gguf;
use crate::glob::Glob;
use crate::listing::Names;

/// What a model needs beside its weights, if it is there.
const SETTINGS: [&str; 24] = [
    "config.json",
    "generation_config.json",
    "quantize_config.json",
    "quant_config.json",
    "hf_quant_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "tokenizer.model.v3",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
    "tiktoken.model",
    "hy.tiktoken",
    "qwen.tiktoken",
    "chat_template.jinja",
    "chat_template.json",
    "params.json",
    CARD,
];

/// The model card: licence and tags of a GGUF file come from it.
pub(crate) const CARD: &str = "README.md";

/// Beginnings of safetensors files that are not the model itself.
const NO_WEIGHTS: [&str; 4] = ["consolidated", "adapter_", "training_args", "optimizer"];

/// Weights, by the file to open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Weights {
    /// GGUF files: one, or splits in order.
    Gguf(Vec<String>),
    /// One file of another container.
    File(String),
    /// An index; its shards are known when it has been read.
    Index(String),
}

impl Weights {
    /// The file to open.
    pub fn first(&self) -> &str {
        match self {
            Self::Gguf(files) => files.first().map_or("", String::as_str),
            Self::File(file) | Self::Index(file) => file,
        }
    }
}

/// What to fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Selection {
    /// The model; `None` where patterns were given that leave it out.
    pub weights: Option<Weights>,
    /// The files beside it.
    pub others: Vec<String>,
}

impl Selection {
    /// All files known so far: the shards of an index are not.
    pub fn files(&self) -> Vec<String> {
        let weights = match &self.weights {
            None => Vec::new(),
            Some(Weights::Gguf(files)) => files.clone(),
            Some(Weights::File(file) | Weights::Index(file)) => vec![file.clone()],
        };
        weights.into_iter().chain(self.others.iter().cloned()).collect()
    }
}

/// The files that patterns pick, in Python's sense: any of `include` (all, if there is none) and none of
/// `exclude`.
pub(crate) struct Patterns {
    include: Vec<Glob>,
    exclude: Vec<Glob>,
}

impl Patterns {
    pub fn new(include: &[String], exclude: &[String]) -> Self {
        let globs = |patterns: &[String]| patterns.iter().map(|p| Glob::new(p)).collect();
        Self { include: globs(include), exclude: globs(exclude) }
    }

    /// Whether the user selects files: then the rules for models do not apply.
    pub fn include_given(&self) -> bool {
        !self.include.is_empty()
    }

    pub fn pick(&self, name: &str) -> bool {
        let included = self.include.is_empty() || self.include.iter().any(|g| g.matches(name));
        included && !self.exclude.iter().any(|g| g.matches(name))
    }
}

/// The model that `choice` means among the files `names`, or an explanation.
pub(crate) fn select(names: &Names, choice: Option<&str>) -> Result<Selection, String> {
    let weights = match choice {
        None => usual(names)?,
        Some(choice) => match file_named(names, choice)? {
            Some(file) => of_file(names, &file)?,
            None => {
                let models = gguf::models(names.iter().map(|n| &**n));
                if models.is_empty() {
                    let what = "no such file there, and no GGUF model whose quantization that could be";
                    return Err(what.to_owned());
                }
                whole(gguf::choose(&models, Some(choice))?)?
            }
        },
    };
    let others = match &weights {
        Weights::Gguf(_) => Vec::new(),
        other => settings(names, other.first()),
    };
    Ok(Selection { weights: Some(weights), others })
}

/// The file a user means: by its path, or by its name where only one has it.
fn file_named(names: &Names, choice: &str) -> Result<Option<String>, String> {
    if names.contains(choice) {
        return Ok(Some(choice.to_owned()));
    }
    let end = format!("/{choice}");
    let found: Vec<_> = names.iter().filter(|n| n.ends_with(&end)).collect();
    match found[..] {
        [] => Ok(None),
        [one] => Ok(Some(one.to_string())),
        _ => Err(format!("several files of the name {choice}; give the folder too")),
    }
}

/// The weights that one file belongs to.
fn of_file(names: &Names, file: &str) -> Result<Weights, String> {
    match () {
        _ if file.ends_with(".gguf") => whole(gguf::of_file(names, file)),
        _ if file.ends_with(".index.json") => Ok(Weights::Index(file.to_owned())),
        _ if [".safetensors", ".bin", ".pt", ".pth"].iter().any(|end| file.ends_with(end)) => {
            Ok(Weights::File(file.to_owned()))
        }
        _ => Err(format!("{file} is no model; after the colon comes a .gguf or .safetensors file")),
    }
}

/// The weights to take if none were named.
fn usual(names: &Names) -> Result<Weights, String> {
    if let Some(weights) = known(names, "model.safetensors") {
        return Ok(weights);
    }
    let root = || names.iter().filter(|n| !n.contains('/'));
    let indices: Vec<_> =
        root().filter(|n| n.ends_with(".safetensors.index.json") && is_weights(n)).collect();
    let single: Vec<_> = root().filter(|n| n.ends_with(".safetensors") && is_weights(n)).collect();
    match (&indices[..], &single[..]) {
        ([index], _) => return Ok(Weights::Index(index.to_string())),
        ([], [file]) => return Ok(Weights::File(file.to_string())),
        _ => {}
    }
    let models = gguf::models(names.iter().map(|n| &**n));
    if !models.is_empty() {
        return whole(gguf::choose(&models, None)?);
    }
    if let Some(weights) = known(names, "pytorch_model.bin") {
        return Ok(weights);
    }
    let several = gguf::some(indices.into_iter().chain(single).map(|n| &**n));
    Err(match several.is_empty() {
        false => format!("it holds several models; name the file after a colon, of {several}"),
        true if names.iter().any(|n| n.starts_with("adapter_")) => {
            "it holds an adapter (LoRA), not a whole model; merge it into its base model, and use the result"
                .to_owned()
        }
        true => "no model there: no *.safetensors at its root, no *.gguf, no pytorch_model.bin".to_owned(),
    })
}

/// The index of this file, or the file.
fn known(names: &Names, file: &str) -> Option<Weights> {
    let index = format!("{file}.index.json");
    if names.contains(index.as_str()) {
        return Some(Weights::Index(index));
    }
    names.contains(file).then(|| Weights::File(file.to_owned()))
}

fn is_weights(name: &str) -> bool {
    !NO_WEIGHTS.iter().any(|start| name.starts_with(start))
}

/// A GGUF model with all its splits.
fn whole(model: gguf::Model) -> Result<Weights, String> {
    match model.lacking {
        0 => Ok(Weights::Gguf(model.files)),
        lacking => {
            Err(format!("the repository lacks {lacking} of that model's parts: {}", model.missing.join(", ")))
        }
    }
}

/// The settings beside `weights`; those of the root where the folder of `weights` has no `config.json`.
fn settings(names: &Names, weights: &str) -> Vec<String> {
    let own = folder(weights);
    let folder = if names.contains(format!("{own}config.json").as_str()) { own } else { "" };
    let there = SETTINGS.iter().map(|name| format!("{folder}{name}")).filter(|n| names.contains(n.as_str()));
    there.collect()
}

/// The folder of a file, with its slash; empty at the root.
pub(crate) fn folder(file: &str) -> &str {
    file.rfind('/').map_or("", |at| &file[..=at])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Names {
        list.iter().map(|n| (*n).into()).collect()
    }

    fn files(list: &[&str], choice: Option<&str>) -> Result<Vec<String>, String> {
        select(&names(list), choice).map(|s| s.files())
    }

    #[test]
    fn duplicates_stay_on_the_hub() {
        let mistral = [
            "README.md",
            ".gitattributes",
            "config.json",
            "consolidated.safetensors",
            "consolidated.00.pth",
            "original/consolidated.00.pth",
            "original/params.json",
            "flax_model.msgpack",
            "tf_model.h5",
            "onnx/model.onnx",
            "pytorch_model.bin",
            "model.safetensors",
            "model.safetensors.index.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "generation_config.json",
            "tokenizer.json",
            "tokenizer.model",
            "tokenizer_config.json",
            "chat_template.jinja",
        ];
        let expected = [
            "model.safetensors.index.json",
            "config.json",
            "generation_config.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "tokenizer.model",
            "chat_template.jinja",
            "README.md",
        ];
        assert_eq!(files(&mistral, None).unwrap(), expected);
        let small = ["config.json", "model.safetensors", "pytorch_model.bin", "vocab.json", "merges.txt"];
        assert_eq!(
            files(&small, None).unwrap(),
            ["model.safetensors", "config.json", "vocab.json", "merges.txt"]
        );
        let old = ["config.json", "pytorch_model.bin.index.json", "pytorch_model-00001-of-00001.bin"];
        assert_eq!(files(&old, None).unwrap(), ["pytorch_model.bin.index.json", "config.json"]);
        let gptq = ["config.json", "gptq_model-4bit-128g.safetensors", "quantize_config.json"];
        assert_eq!(files(&gptq, None).unwrap()[0], "gptq_model-4bit-128g.safetensors");
    }

    #[test]
    fn gguf_alone_and_beside_safetensors() {
        let both = ["config.json", "model.safetensors", "m-Q4_K_M.gguf", "m-Q8_0.gguf"];
        assert_eq!(files(&both, None).unwrap(), ["model.safetensors", "config.json"]);
        assert_eq!(files(&both, Some("Q8_0")).unwrap(), ["m-Q8_0.gguf"]);
        assert_eq!(files(&both[2..], None).unwrap(), ["m-Q4_K_M.gguf"]);
        assert!(
            files(&["m-Q8_0-00001-of-00002.gguf"], None).unwrap_err().contains("m-Q8_0-00002-of-00002.gguf")
        );
    }

    #[test]
    fn a_named_file_brings_what_belongs_to_it() {
        let list = [
            "config.json",
            "model.safetensors",
            "model.fp16.safetensors",
            "q/m-00001-of-00002.gguf",
            "q/m-00002-of-00002.gguf",
            "enc/config.json",
            "enc/model.safetensors",
            "README.md",
        ];
        assert_eq!(files(&list, Some("m-00002-of-00002.gguf")).unwrap().len(), 2);
        assert_eq!(
            files(&list, Some("enc/model.safetensors")).unwrap(),
            ["enc/model.safetensors", "enc/config.json"]
        );
        assert_eq!(files(&list, Some("model.fp16.safetensors")).unwrap()[0], "model.fp16.safetensors");
        assert!(files(&list, Some("README.md")).unwrap_err().contains("is no model"));
        assert!(files(&list, Some("Q5_K_M")).unwrap_err().contains("q/m-00001-of-00002.gguf"));
        assert!(files(&list[..3], Some("Q5_K_M")).unwrap_err().contains("no such file"));
    }

    #[test]
    fn repositories_without_a_model_say_so() {
        assert!(files(&["README.md"], None).unwrap_err().contains("no model there"));
        let lora = ["adapter_config.json", "adapter_model.safetensors"];
        assert!(files(&lora, None).unwrap_err().contains("LoRA"));
        assert!(files(&["a.safetensors", "b.safetensors"], None).unwrap_err().contains("a.safetensors, b"));
    }

    #[test]
    fn patterns_include_and_exclude() {
        let strings = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let patterns = Patterns::new(&strings(&["*.json", "*.gguf"]), &strings(&["*Q8*"]));
        assert!(patterns.pick("config.json") && patterns.pick("a-Q4_0.gguf"));
        assert!(!patterns.pick("a-Q8_0.gguf") && !patterns.pick("model.safetensors"));
        assert!(Patterns::new(&[], &[]).pick("anything"));
    }
}
