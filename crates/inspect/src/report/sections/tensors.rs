//! The list of tensors with their figures.

use maud::{Markup, html};

use super::super::figure::{folded, number, table, words};
use super::super::page::Section;
use super::super::{LETTERS, Report, Subject, text};
use crate::statistics::TensorStatistics;
use crate::words as in_words;

/// So many tensors are listed.
const LISTED: usize = 1000;

/// The tensors of each model.
pub(super) fn section(report: &Report<'_>) -> Section {
    let body = html! {
        @for (letter, subject) in LETTERS.iter().zip(report.subjects()) {
            @let whose = if report.compares() { format!(" of {letter}") } else { String::new() };
            @let all = subject.statistics.tensors.len();
            (folded(&format!("{}{whose}", text::counted(all, "tensor")), list(&subject, &whose)))
        }
    };
    Section { id: "tensors", title: "Tensors", body }
}

fn list(subject: &Subject<'_>, whose: &str) -> Markup {
    let columns = [
        words("tensor"),
        words("type"),
        number("shape"),
        number("size"),
        number("bits"),
        number("min"),
        number("max"),
        number("mean"),
        number("rms"),
        number("kurtosis"),
    ];
    let tensors = &subject.statistics.tensors;
    let row = |t: &TensorStatistics| {
        let mut row = vec![
            text::name(&t.name),
            text::name(&t.element_type),
            in_words::shape(&t.shape),
            in_words::bytes(t.bytes),
            format!("{:.2}", t.bits_per_weight()),
        ];
        row.extend(text::figures(t.values.as_ref()));
        row
    };
    let rows: Vec<Vec<String>> = tensors.iter().take(LISTED).map(row).collect();
    html! {
        @if tensors.len() > LISTED { p { "The first " (LISTED) " of " (tensors.len()) " tensors." } }
        (table(&format!("Tensors{whose}"), &columns, &rows))
    }
}
