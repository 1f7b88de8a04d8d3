//! The parts of the page, one file each.

mod channels;
mod errors;
mod histograms;
mod layers;
mod metadata;
mod sizes;
mod summary;
mod tensors;
mod tokenizer;

use super::page::Section;
use super::{Report, Subject, text};

/// All parts in their order; those without anything to say are left out.
pub(super) fn all(report: &Report<'_>) -> Vec<Section> {
    let parts = [
        Some(summary::section(report)),
        summary::notes(report),
        Some(sizes::section(report)),
        Some(layers::types(report)),
        layers::bits(report),
        errors::section(report),
        Some(histograms::section(report)),
        Some(channels::section(report)),
        Some(tokenizer::section(report)),
        Some(metadata::section(report)),
        Some(tensors::section(report)),
    ];
    parts.into_iter().flatten().collect()
}

/// The models' names.
fn labels(report: &Report<'_>) -> Vec<String> {
    report.subjects().iter().map(|s| text::name(s.label)).collect()
}

/// `bytes`, or `A: bytes` and `B: bytes` for two models.
fn headed(report: &Report<'_>, what: &str) -> Vec<String> {
    match report.compares() {
        false => vec![what.to_owned()],
        true => super::LETTERS.iter().map(|letter| format!("{letter}: {what}")).collect(),
    }
}

/// The items of all models in the order of their first appearance.
fn union<'a, T: PartialEq>(subjects: &[Subject<'a>], items: impl Fn(&Subject<'a>) -> Vec<T>) -> Vec<T> {
    let mut all = Vec::new();
    for item in subjects.iter().flat_map(items) {
        if !all.contains(&item) {
            all.push(item);
        }
    }
    all
}
