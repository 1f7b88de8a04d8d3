//! How close each scheme comes to the original: figures that were measured on one small model (`docs/quality.md`), not
//! estimates for the model at hand: some models lose more at the same number of bits, some less; the order of the schemes
//! is nearly the same for all that were measured.

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use super::Scheme;

const DATA: &str = include_str!("../../data/quality.json");

/// What was measured of a scheme, against the unquantized model.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Quality {
    /// Mean KL divergence, in nats.
    pub kl_mean: f64,
    /// Perplexity, as a multiple of the original's.
    pub perplexity_ratio: f64,
    /// Share of tokens whose likeliest continuation stays the same.
    pub top1_agreement: f64,
}

impl Quality {
    /// In a word, as `docs/quality.md` explains the figures.
    pub fn word(&self) -> &'static str {
        match self.kl_mean {
            kl if kl < 0.001 => "same",
            kl if kl < 0.01 => "very good",
            kl if kl < 0.03 => "good",
            kl if kl < 0.1 => "fair",
            kl if kl < 0.3 => "poor",
            _ => "very poor",
        }
    }
}

#[derive(Deserialize)]
struct File {
    schemes: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    scheme: String,
    #[serde(default)]
    imatrix: bool,
    #[serde(default)]
    calibrated: bool,
    bits: Option<u32>,
    group_size: Option<u32>,
    symmetric: Option<bool>,
    double_quant: Option<bool>,
    kl_mean: f64,
    perplexity_ratio: f64,
    top1_agreement: f64,
}

/// All entries, read when they are first asked for; a test reads them.
static ENTRIES: LazyLock<Vec<Entry>> =
    LazyLock::new(|| serde_json::from_str::<File>(DATA).map_or_else(|_| Vec::new(), |file| file.schemes));

/// What was measured of a scheme; `None` for what was not measured, such as the model as it is stored.
pub fn quality(scheme: Scheme) -> Option<Quality> {
    let wanted = |entry: &&Entry| {
        // Of variants, what quantize makes without more options.
        let usual = entry.symmetric != Some(false) && entry.double_quant != Some(false) && !entry.calibrated;
        usual
            && entry.scheme == scheme.name()
            && match scheme {
                Scheme::Stored => false,
                Scheme::Gguf { imatrix, .. } => entry.imatrix == imatrix,
                Scheme::Gptq { bits, group } => entry.bits == Some(bits) && entry.group_size == Some(group),
                Scheme::Bitsandbytes(_) => true,
            }
    };
    let entry = ENTRIES.iter().find(wanted)?;
    let Entry { kl_mean, perplexity_ratio, top1_agreement, .. } = *entry;
    Some(Quality { kl_mean, perplexity_ratio, top1_agreement })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scheme_that_is_proposed_was_measured() {
        for scheme in crate::fit::schemes() {
            let found = quality(scheme).unwrap_or_else(|| panic!("{}", scheme.title()));
            assert!(found.kl_mean >= 0.0 && found.perplexity_ratio > 0.9, "{}: {found:?}", scheme.title());
        }
        assert_eq!(quality(Scheme::Stored), None);
    }
}
