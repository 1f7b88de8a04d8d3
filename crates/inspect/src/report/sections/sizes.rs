//! Sizes by element type.

use maud::html;

use super::super::charts::{Bar, bars};
use super::super::figure::{figure, legend, named, number, table, words};
use super::super::page::Section;
use super::super::{Report, Subject, text};
use super::{headed, labels, union};
use crate::statistics::bits_per_weight;
use crate::words::bytes;

/// Tensors, values and bytes of one type.
#[derive(Clone, Default)]
struct Total {
    tensors: usize,
    parameters: u64,
    bytes: u64,
}

fn total(subject: &Subject<'_>, element_type: &str) -> Total {
    let of_type = subject.statistics.tensors.iter().filter(|t| t.element_type == element_type);
    of_type.fold(Total::default(), |sum, t| Total {
        tensors: sum.tensors + 1,
        parameters: sum.parameters + t.parameters,
        bytes: sum.bytes + t.bytes,
    })
}

/// A bar for each type.
pub(super) fn section(report: &Report<'_>) -> Section {
    let subjects = report.subjects();
    let mut types =
        union(&subjects, |s| s.statistics.tensors.iter().map(|t| t.element_type.as_str()).collect());
    let totals = |name: &str| subjects.iter().map(|s| total(s, name)).collect::<Vec<Total>>();
    types.sort_by_key(|name| std::cmp::Reverse(totals(name).iter().map(|t| t.bytes).sum::<u64>()));
    let all: Vec<u64> = subjects.iter().map(|s| s.statistics.tensors.iter().map(|t| t.bytes).sum()).collect();

    let finding = match types.first() {
        None => "There are no tensors.".to_owned(),
        Some(_) => {
            let most = |model: usize| {
                let first = types.iter().max_by_key(|name| total(&subjects[model], name).bytes)?;
                let total = total(&subjects[model], first);
                let share = text::percent(total.bytes as f64, all[model] as f64);
                Some(format!("{} takes {share} of {}", text::name(first), bytes(all[model])))
            };
            let said: Vec<String> = (0..subjects.len()).filter_map(most).collect();
            match said.as_slice() {
                [a, b] => format!("A: {a}. B: {b}."),
                said => format!("{}.", said.join(" ")),
            }
        }
    };
    let chart = types.iter().map(|name| Bar {
        label: text::name(name),
        values: totals(name).iter().map(|t| (t.bytes as f64, bytes(t.bytes))).collect(),
    });
    let mut columns = vec![words("type")];
    for what in ["tensors", "values", "size", "bits per weight"] {
        columns.extend(headed(report, what).into_iter().map(number));
    }
    let row = |name: &&str| {
        let totals = totals(name);
        let mut row = vec![text::name(name)];
        row.extend(totals.iter().map(|t| text::grouped(t.tensors as u64)));
        row.extend(totals.iter().map(|t| text::grouped(t.parameters)));
        row.extend(totals.iter().map(|t| bytes(t.bytes)));
        row.extend(totals.iter().map(|t| format!("{:.2}", bits_per_weight(t.bytes, t.parameters))));
        row
    };
    let rows: Vec<Vec<String>> = types.iter().map(row).collect();
    let title = "Size by element type";
    let svg = bars(&named(title, &finding), &chart.collect::<Vec<_>>());
    let body = html! {
        (legend(&labels(report)))
        (figure(title, &finding, svg, table(title, &columns, &rows)))
    };
    Section { id: "sizes", title: "Sizes by type", body }
}
