//! Provenance: where a model comes from, and every step that made its files what they are.
//!
//! ```text
//! GGUF         quern.provenance    the object below as one JSON string
//! directory    quern.json          the same object, indented
//!
//! { "version": 1, "steps": [ STEP, … ] }          the oldest step first
//! STEP   source        name; on the Hub: repository and commit; file; license
//!        tool          name and version
//!        command       the options that decide the output, paths reduced to file names
//!        calibration   name and sha256 of the text, samples and their length in tokens
//!        imatrix       name and sha256 of the importance matrix
//!        figures       what the step measured, by name
//!        evaluation    the result compared with its source over a text
//! ```
//!
//! Files are published, so nothing here says who ran the command, where or when: the same input and options give the
//! same bytes. What a file says of itself is not trusted: [`Provenance::of`] reads it within bounds, and what cannot be
//! read is a note and no error.

mod hub;
mod read;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use quern_tensor_io::{Checkpoint, Container, Metadata};
use serde::{Deserialize, Serialize, Serializer};

use crate::card::FrontMatter;

pub use hub::HubOrigin;

/// The metadata key of GGUF files.
pub const GGUF_KEY: &str = "quern.provenance";
/// The file in a model's directory.
pub const FILE: &str = "quern.json";

/// The version of the object.
const VERSION: u32 = 1;
/// Steps that are kept: the first and the newest.
const MAX_STEPS: usize = 16;

/// How a model was made, the oldest step first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// The steps.
    pub steps: Vec<Step>,
}

/// One step: a source, and what was done to it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// What it began with.
    #[serde(default)]
    pub source: Origin,
    /// The program that did it.
    #[serde(default)]
    pub tool: Tool,
    /// The command, with the options that decide the output.
    #[serde(default)]
    pub command: String,
    /// The calibration text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<CalibrationText>,
    /// The importance matrix that was used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub imatrix: Option<HashedFile>,
    /// What was measured, by name, in the order of the names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", serialize_with = "plain_numbers")]
    pub figures: BTreeMap<String, f64>,
    /// What a comparison of the result with its source found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluation: Option<Evaluation>,
}

/// A model that a step began with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Its name: that of its repository, directory or file.
    #[serde(default)]
    pub name: String,
    /// Its repository on the Hub, `org/name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// The commit of the repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// The file, where the model is one file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Its licence, as its card or metadata names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub license: Option<String>,
}

/// A program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tool {
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// Its version.
    #[serde(default)]
    pub version: String,
}

impl Tool {
    /// This version of quern.
    pub fn quern() -> Self {
        Self { name: "quern".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() }
    }
}

/// A text that a model was run on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CalibrationText {
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// SHA-256 of its bytes, in lower-case hexadecimal digits.
    #[serde(default)]
    pub sha256: String,
    /// Samples or chunks of it that were run.
    #[serde(default)]
    pub samples: u64,
    /// Tokens of one at most.
    #[serde(default)]
    pub context: u64,
}

/// A file and its hash.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HashedFile {
    /// Its name, without the folder.
    #[serde(default)]
    pub name: String,
    /// SHA-256 of its bytes, in lower-case hexadecimal digits.
    #[serde(default)]
    pub sha256: String,
}

/// A result compared with its source over a text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// The text.
    #[serde(default)]
    pub text: HashedFile,
    /// Tokens in a chunk.
    #[serde(default)]
    pub context: u64,
    /// Tokens that were scored.
    #[serde(default)]
    pub tokens: u64,
    /// Perplexity of the source.
    #[serde(default)]
    pub source_perplexity: f64,
    /// Perplexity of the result.
    #[serde(default)]
    pub perplexity: f64,
    /// Mean KL divergence of the result's predictions from the source's.
    #[serde(default)]
    pub kl_mean: f64,
    /// The share of tokens whose most probable successor is the same.
    #[serde(default)]
    pub top1_agreement: f64,
}

impl Provenance {
    /// These steps and one more. Of a long chain the steps after the first are left out.
    #[must_use]
    pub fn then(mut self, step: Step) -> Self {
        if self.steps.len() >= MAX_STEPS {
            self.steps.drain(1..self.steps.len() + 2 - MAX_STEPS);
        }
        self.steps.push(step);
        self
    }

    /// The same with these figures in the newest step. They are rounded to six digits, so that no difference in the
    /// order of a sum shows.
    #[must_use]
    pub fn with_figures<'n>(mut self, figures: impl IntoIterator<Item = (&'n str, f64)>) -> Self {
        if let Some(step) = self.steps.last_mut() {
            let finite = figures.into_iter().filter(|(_, value)| value.is_finite());
            step.figures.extend(finite.map(|(name, value)| (name.to_owned(), six_digits(value))));
        }
        self
    }

    /// The newest step.
    pub fn last(&self) -> Option<&Step> {
        self.steps.last()
    }

    /// The model on the Hub that all of it began with, if a step names one.
    pub fn base(&self) -> Option<&Origin> {
        self.steps.iter().map(|step| &step.source).find(|source| source.repository.is_some())
    }

    /// The licence that the newest step names.
    pub fn license(&self) -> Option<&str> {
        self.steps.iter().rev().find_map(|step| step.source.license.as_deref())
    }

    /// As one line of JSON.
    pub fn to_json(&self) -> String {
        self.object().to_string()
    }

    /// As the text of [`FILE`].
    pub fn to_file(&self) -> Vec<u8> {
        format!("{:#}\n", self.object()).into_bytes()
    }

    fn object(&self) -> serde_json::Value {
        serde_json::json!({ "version": VERSION, "steps": self.steps })
    }

    /// Writes it into the metadata of a GGUF file that is made from `source`. Where the metadata do not say yet which
    /// repository that is and which models its card names as its base, that too, under GGUF's own keys.
    pub fn set_in(&self, metadata: &mut Metadata, source: &Checkpoint) {
        if let Some(repository) = self.base().and_then(|base| base.repository.as_deref())
            && metadata.get("general.source.repo_url").is_none()
        {
            metadata.set("general.source.repo_url", hub::url(repository).as_str());
        }
        if source.container() != Container::Gguf
            && metadata.get("general.base_model.count").is_none()
            && let Ok(front) = FrontMatter::read(source.directory())
        {
            hub::set_base_models(&front.values("base_model"), metadata);
        }
        metadata.remove(GGUF_KEY);
        metadata.set(GGUF_KEY, self.to_json().as_str());
    }
}

/// Whole numbers without a decimal point: they are counts and sizes.
fn plain_numbers<S: Serializer>(figures: &BTreeMap<String, f64>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(figures.iter().map(|(name, &value)| {
        // Beyond 2^53 not every whole number is one.
        let whole = value.fract() == 0.0 && value.abs() < 9e15;
        (name, if whole { serde_json::Number::from(value as i64).into() } else { serde_json::json!(value) })
    }))
}

fn six_digits(value: f64) -> f64 {
    // Whole numbers are counts and sizes: they stay as they are.
    if value.fract() == 0.0 {
        return value;
    }
    format!("{value:.5e}").parse().unwrap_or(value)
}
