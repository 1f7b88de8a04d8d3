//! Model cards: `README.md` with front matter, as the Hugging Face Hub shows it.
//!
//! ```text
//! ---
//! base_model: …            YAML that the Hub reads: source, licence, languages, tags
//! ---
//! # NAME                   what this is, source, scheme and sizes, how it was made, figures, how to use it
//! ```
//!
//! The fields are those of the Hub's own description of model cards; languages, tags and the like are carried over from
//! the source's card ([`FrontMatter`]).

mod front_matter;
#[cfg(test)]
mod tests;
mod text;
mod yaml;

use crate::provenance::Provenance;

pub use front_matter::FrontMatter;

/// A card's file name.
pub const FILE: &str = "README.md";
/// What the source's card is called beside a new one.
pub const SOURCE_FILE: &str = "README.source.md";

/// What a card is written about: the output as it was read again, and how it was made.
#[derive(Clone, Debug)]
pub struct Card<'a> {
    /// The name of the output's file or directory.
    pub name: String,
    /// Whether it is a GGUF file (or several); else a directory of safetensors.
    pub gguf: bool,
    /// How it is quantized.
    pub scheme: CardScheme,
    /// The architecture, where it is known.
    pub architecture: Option<String>,
    /// Number of weights.
    pub parameters: u64,
    /// Bits per weight over all tensors.
    pub bits_per_weight: f64,
    /// Bytes of the tensor files.
    pub file_size: u64,
    /// Positions the model was trained for, where they are known.
    pub context_length: Option<usize>,
    /// Element types, the one with the most bytes first: name, number of tensors, bytes.
    pub types: Vec<(String, usize, u64)>,
    /// Whether the model has a chat template.
    pub chat: bool,
    /// How it was made.
    pub provenance: &'a Provenance,
    /// The front matter of the source's card.
    pub source: FrontMatter,
    /// Whether the source's card is in the directory, as [`SOURCE_FILE`].
    pub has_source_card: bool,
    /// Whether vLLM reads the output.
    pub vllm: bool,
}

/// How the output of a step is quantized.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CardScheme {
    /// A GGUF file type, or the element type of plain numbers in any container.
    Type(String),
    /// GPTQ.
    Gptq {
        /// Bits of a code.
        bits: u32,
    },
    /// NF4, FP4 or int8, by this name.
    Bitsandbytes(String),
    /// AWQ.
    Awq,
    /// FP8 or the integers of compressed-tensors, by this name.
    Compressed(String),
}

impl CardScheme {
    /// Its name.
    pub fn name(&self) -> String {
        match self {
            Self::Type(name) | Self::Bitsandbytes(name) | Self::Compressed(name) => name.clone(),
            Self::Awq => "awq".to_owned(),
            Self::Gptq { bits } => format!("gptq {bits}-bit"),
        }
    }
}

impl Card<'_> {
    /// The text of the card.
    pub fn to_text(&self) -> String {
        format!("---\n{}---\n\n{}", self.front_matter(), self.body())
    }

    /// The YAML between the lines `---`.
    fn front_matter(&self) -> String {
        let mut out = String::new();
        if let Some(repository) = self.provenance.base().and_then(|base| base.repository.as_deref()) {
            out += &yaml::line("base_model", repository);
            out += &yaml::line("base_model_relation", "quantized");
        }
        out += &match self.source.values("license").as_slice() {
            [] => {
                self.provenance.license().map_or_else(String::new, |license| yaml::line("license", license))
            }
            [one] => yaml::line("license", one),
            several => yaml::list("license", several),
        };
        for key in ["license_name", "license_link"] {
            if let Some(value) = self.source.values(key).first() {
                out += &yaml::line(key, value);
            }
        }
        let languages = [self.source.values("language"), self.source.values("languages")].concat();
        out += &yaml::list("language", &languages);
        out += &yaml::line("library_name", if self.gguf { "gguf" } else { "transformers" });
        let pipeline = self.source.values("pipeline_tag");
        out += &yaml::line("pipeline_tag", pipeline.first().map_or("text-generation", String::as_str));
        let mut tags = self.source.values("tags");
        let own: &[&str] = match &self.scheme {
            CardScheme::Type(_) if self.gguf => &["gguf"],
            CardScheme::Type(_) => &[],
            CardScheme::Gptq { bits: 4 } => &["gptq", "4-bit"],
            CardScheme::Gptq { bits: 8 } => &["gptq", "8-bit"],
            CardScheme::Gptq { .. } => &["gptq"],
            CardScheme::Bitsandbytes(name) if name == "int8" => &["bitsandbytes", "8-bit"],
            CardScheme::Bitsandbytes(_) => &["bitsandbytes", "4-bit"],
            CardScheme::Awq => &["awq", "4-bit"],
            CardScheme::Compressed(name) if name == "fp8" => &["fp8"],
            CardScheme::Compressed(_) => &["compressed-tensors"],
        };
        for tag in own.iter().chain(&["quern"]) {
            if !tags.iter().any(|t| t == tag) {
                tags.push((*tag).to_owned());
            }
        }
        out + &yaml::list("tags", &tags)
    }
}
