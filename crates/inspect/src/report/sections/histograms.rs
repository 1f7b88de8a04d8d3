//! Value histograms of every kind of tensor.

use maud::{Markup, html};

use super::super::charts::histogram;
use super::super::figure::{figure, legend, named, number, table};
use super::super::page::Section;
use super::super::{Report, Subject, text};
use super::{headed, labels, union};
use crate::statistics::{Bins, Histogram, KindStatistics};

/// Bars of a histogram, at most about.
const BINS: usize = 60;

/// A histogram for each kind.
pub(super) fn section(report: &Report<'_>) -> Section {
    let subjects = report.subjects();
    let kinds = union(&subjects, |s| s.statistics.kinds.iter().map(|k| k.kind.as_str()).collect());
    let body = html! {
        p {
            "Each histogram shows the bulk of the values of all tensors of a kind: the range that leaves out one value in \
             2000 on either side, and a tenth as far again. What is beyond is counted below the title."
        }
        (legend(&labels(report)))
        div .grid { @for kind in kinds { (one(report, &subjects, kind)) } }
    };
    Section { id: "values", title: "Value histograms", body }
}

fn one(report: &Report<'_>, subjects: &[Subject<'_>], name: &str) -> Markup {
    let of = |subject: &Subject<'_>| -> Option<Histogram> {
        let kind = subject.statistics.kinds.iter().find(|k| k.kind == name);
        kind.filter(|k| k.values.is_some()).map(|k| k.histogram.clone())
    };
    let found: Vec<Histogram> = subjects.iter().map(|s| of(s).unwrap_or_default()).collect();
    if found.iter().all(|h| h.count() == 0) {
        return html! {};
    }
    let bins = Histogram::bins(&found.iter().collect::<Vec<_>>(), BINS);
    let title = text::name(name);
    let finding = super::layers::sentence(
        report,
        &subjects.iter().zip(&bins).map(|(s, b)| said(s, name, b)).collect::<Vec<_>>(),
    );
    let Some(first) = bins.first() else { return html! {} };
    let chart = histogram(&named(&format!("Histogram of {title}"), &finding), first, bins.get(1));
    let mut columns = vec![number("from"), number("to")];
    columns.extend(headed(report, "values").into_iter().map(number));
    let row = |at: usize| {
        let mut row = vec![text::digits(first.edge(at)), text::digits(first.edge(at + 1))];
        row.extend(bins.iter().map(|b| text::grouped(b.counts[at])));
        row
    };
    let rows: Vec<Vec<String>> = (0..first.counts.len()).map(row).collect();
    figure(&title, &finding, chart, table(&format!("Histogram of {title}"), &columns, &rows))
}

fn said(subject: &Subject<'_>, name: &str, bins: &Bins) -> String {
    let kind: Option<&KindStatistics> = subject.statistics.kinds.iter().find(|k| k.kind == name);
    let Some(values) = kind.and_then(|k| k.values.as_ref()) else { return "no such values".to_owned() };
    let mut said = format!("standard deviation {}", text::digits(values.std));
    if let Some(kurtosis) = values.kurtosis {
        said += &format!(", kurtosis {}", text::digits(kurtosis));
    }
    if bins.below + bins.above > 0 {
        said += &format!(
            ", {} values beyond, down to {} and up to {}",
            text::grouped(bins.below + bins.above),
            text::digits(values.min.into()),
            text::digits(values.max.into())
        );
    }
    said
}
