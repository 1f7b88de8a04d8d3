//! What the models are, and what was noticed about them.

use maud::html;

use super::super::LETTERS;
use super::super::figure::{number, scrolled, table, words};
use super::super::page::Section;
use super::super::{Report, text};
use super::union;
use crate::words as in_words;

/// Facts as one table, a column for each model.
pub(super) fn section(report: &Report<'_>) -> Section {
    let subjects = report.subjects();
    let of = |index: usize| in_words::summary(subjects[index].label, subjects[index].summary);
    let facts: Vec<Vec<(&str, String)>> = (0..subjects.len()).map(of).collect();
    let skipped = ["note", "chat template", "special tokens"];
    let mut labels: Vec<&str> = Vec::new();
    for (label, _) in facts.iter().flatten() {
        if !labels.contains(label) && !skipped.contains(label) {
            labels.push(label);
        }
    }
    let value = |model: usize, label: &str| {
        let found = facts[model].iter().find(|(l, _)| *l == label);
        found.map_or_else(|| "–".to_owned(), |(_, value)| text::long(value, 2000))
    };
    let body = html! {
        (scrolled("Summary", html! {
            table .facts {
                caption .unseen { "Summary" }
                @if report.compares() {
                    thead { tr { th scope="col" { span .unseen { "Fact" } } @for letter in LETTERS { th scope="col" { (letter) } } } }
                }
                tbody { @for label in &labels {
                    tr {
                        th scope="row" { (label) }
                        @for model in 0..subjects.len() { td { bdi { (value(model, label)) } } }
                    }
                } }
            }
        }))
        (kinds(report))
    };
    Section { id: "summary", title: "Summary", body }
}

/// Figures of every kind of tensor.
fn kinds(report: &Report<'_>) -> maud::Markup {
    let subjects = report.subjects();
    let names = union(&subjects, |s| s.statistics.kinds.iter().map(|k| k.kind.as_str()).collect());
    let mut columns = vec![words("kind")];
    if report.compares() {
        columns.push(words("model"));
    }
    columns
        .extend(["tensors", "values", "bits", "min", "max", "mean", "rms", "kurtosis", "zeros"].map(number));
    let mut rows = Vec::new();
    for name in names {
        for (letter, subject) in LETTERS.iter().zip(&subjects) {
            let Some(kind) = subject.statistics.kinds.iter().find(|k| k.kind == name) else { continue };
            let mut row = vec![text::name(name)];
            if report.compares() {
                row.push((*letter).to_owned());
            }
            row.extend([
                text::grouped(kind.tensors as u64),
                text::grouped(kind.parameters),
                format!("{:.2}", kind.bits_per_weight()),
            ]);
            row.extend(text::figures(kind.values.as_ref()));
            row.push(kind.values.as_ref().map_or("–".into(), |v| text::grouped(v.zeros)));
            rows.push(row);
        }
    }
    html! {
        h3 { "Values by kind of tensor" }
        p {
            "A kind goes by GGUF's name, whatever the container. Kurtosis is the fourth central moment over the squared \
             variance: 3 for a normal distribution, more for heavier tails."
        }
        (table("Values by kind of tensor", &columns, &rows))
    }
}

/// Problems and notes; `None` if there are none.
pub(super) fn notes(report: &Report<'_>) -> Option<Section> {
    let subjects = report.subjects();
    let mut notes: Vec<String> = Vec::new();
    for (letter, subject) in LETTERS.iter().zip(&subjects) {
        let mut of_model: Vec<String> = subject.summary.notes.clone();
        of_model.extend(subject.statistics.notes.iter().cloned());
        let tensors = &subject.statistics.tensors;
        let bad = tensors.iter().filter(|t| t.values.as_ref().is_some_and(|v| v.not_finite > 0));
        for tensor in bad.take(20) {
            let count = tensor.values.as_ref().map_or(0, |v| v.not_finite);
            of_model.push(format!("{}: {count} values are not finite (NaN or infinite)", tensor.name));
        }
        let opaque = tensors.iter().filter(|t| t.values.is_none() && t.parameters > 0).count();
        if opaque > 0 {
            of_model.push(format!(
                "{} without figures: no finite values, or a type that quern does not decode",
                text::counted(opaque, "tensor")
            ));
        }
        let letter = if report.compares() { format!("{letter}: ") } else { String::new() };
        notes.extend(of_model.into_iter().map(|note| format!("{letter}{note}")));
    }
    if let Some((_, tensors)) = report.against {
        notes.extend(tensors.notes.iter().cloned());
    }
    // Pages are passed on: files are named without the folders they are in.
    for subject in &subjects {
        let folder = subject.checkpoint.directory().display().to_string();
        let path = subject.checkpoint.path().display().to_string();
        notes.iter_mut().for_each(|note| {
            *note = note.replace(&format!("{folder}/"), "").replace(&path, subject.label);
        });
    }
    let mut seen = std::collections::HashSet::new();
    notes.retain(|note| seen.insert(note.clone()));
    (!notes.is_empty()).then(|| Section {
        id: "notes",
        title: "Notes",
        body: html! { ul .notes { @for note in &notes { li { bdi { (text::long(note, 2000)) } } } } },
    })
}
