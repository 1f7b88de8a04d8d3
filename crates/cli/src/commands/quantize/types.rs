//! Which types the tensors of a GGUF file get, and what is known of them beforehand.

use std::collections::BTreeMap;

use quern_model::provenance::{CalibrationText, Provenance};
use quern_quantize::imatrix::Imatrix;
use quern_quantize::recipe::{FileType, Recipe};
use serde_json::{Value, json};

/// The types, by a file type's mix or by a recipe.
pub struct Types {
    /// What `--to` names.
    pub name: String,
    /// The file type that readers are given.
    pub file_type: FileType,
    /// Takes the place of the mix.
    pub recipe: Option<Recipe>,
    /// What was measured to choose them.
    pub measured: Option<Measured>,
}

/// What was measured to choose types.
pub struct Measured {
    /// The importance matrix, unless it was read from a file.
    pub imatrix: Option<Imatrix>,
    /// The text that the model was run on.
    pub text: CalibrationText,
    /// What is recorded, by name.
    pub figures: Vec<(&'static str, f64)>,
    /// The divergence that each tensor is expected to cause.
    pub divergences: BTreeMap<String, f64>,
    /// That of all together.
    pub divergence: f64,
}

impl Types {
    /// Those of a file type.
    pub fn of(file_type: FileType) -> Self {
        Self { name: file_type.name().to_lowercase(), file_type, recipe: None, measured: None }
    }

    /// What is expected of the result, as the end of a list.
    pub fn prediction(&self) -> String {
        let divergence = self.measured.as_ref().map(|measured| measured.divergence);
        divergence.map_or_else(String::new, |kl| format!(", predicted KL divergence {kl:.5}"))
    }

    /// The same in a command's JSON.
    pub fn add_to(&self, result: &mut Value) {
        if let Some(measured) = &self.measured {
            result["predicted_kl_mean"] = json!(measured.divergence);
        }
    }

    /// The same provenance with what was measured.
    pub fn recorded(&self, provenance: Option<Provenance>) -> Option<Provenance> {
        match &self.measured {
            Some(measured) => provenance.map(|p| p.with_figures(measured.figures.iter().copied())),
            None => provenance,
        }
    }
}
