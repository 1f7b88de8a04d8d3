//! How a model was made, as rows of the summary.

use quern_model::provenance::{Origin, Provenance, Step};

/// Digits of a hash that are shown.
const DIGITS: usize = 12;

/// Two rows for each step, the oldest first: the source, and what was done.
pub fn rows(provenance: &Provenance) -> impl Iterator<Item = (&'static str, String)> + '_ {
    provenance.steps.iter().flat_map(|step| [("made from", origin(&step.source)), ("made by", work(step))])
}

fn origin(source: &Origin) -> String {
    let mut text = source.repository.clone().unwrap_or_else(|| source.name.clone());
    if let Some(file) = &source.file {
        text += &format!(":{file}");
    }
    if let Some(commit) = &source.commit {
        text += &format!(" at {}", short(commit));
    }
    if let Some(license) = &source.license {
        text += &format!(", licence {license}");
    }
    text
}

fn work(step: &Step) -> String {
    let mut text = format!("{} {}: {}", step.tool.name, step.tool.version, step.command);
    if let Some(c) = &step.calibration {
        text += &format!(
            "; calibrated on {} samples of {} tokens of {} (sha256 {})",
            c.samples,
            c.context,
            c.name,
            short(&c.sha256)
        );
    }
    if let Some(file) = &step.imatrix {
        text += &format!("; importance matrix {} (sha256 {})", file.name, short(&file.sha256));
    }
    for (name, value) in &step.figures {
        text += &format!("; {} {value}", name.replace('_', " "));
    }
    if let Some(e) = &step.evaluation {
        text += &format!(
            "; perplexity {:.4} over {}, of the source {:.4}; KL divergence {:.6}; same first token {:.2} %",
            e.perplexity,
            e.text.name,
            e.source_perplexity,
            e.kl_mean,
            100.0 * e.top1_agreement
        );
    }
    text
}

fn short(hash: &str) -> &str {
    hash.char_indices().nth(DIGITS).map_or(hash, |(at, _)| &hash[..at])
}
