//! How far the tensors of two models are apart.

use std::collections::{BTreeMap, HashMap};

use maud::{Markup, html};

use super::super::charts::{Bar, Chart, Line, bars, lines};
use super::super::figure::{figure, folded, named, number, table, words};
use super::super::page::Section;
use super::super::{Report, text};
use crate::diff::{Errors, Status, TensorDiff, Tensors};

/// So many of the worst tensors are drawn.
const WORST: usize = 12;
/// So many tensors are listed.
const LISTED: usize = 1000;

/// What is summed over the tensors of a layer or of a kind.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    values: f64,
    /// Sum over values of the squared error, and of the squared relative RMSE.
    squares: f64,
    relative: f64,
    lowest_cosine: Option<f64>,
}

impl Sum {
    fn add(&mut self, values: u64, errors: &Errors) {
        let values = values as f64;
        self.values += values;
        self.squares += values * errors.rmse * errors.rmse;
        self.relative += values * errors.relative_rmse.unwrap_or(1.0).powi(2);
        let lower = |found: f64| self.lowest_cosine.map_or(found, |low| low.min(found));
        self.lowest_cosine = errors.cosine.map(lower).or(self.lowest_cosine);
    }

    fn rmse(&self) -> f64 {
        (self.squares / self.values.max(1.0)).sqrt()
    }

    fn relative(&self) -> f64 {
        (self.relative / self.values.max(1.0)).sqrt()
    }

    fn cosine(&self) -> f64 {
        self.lowest_cosine.unwrap_or(1.0)
    }
}

/// Errors by layer, by kind and by tensor; `None` for a report of one model.
pub(super) fn section(report: &Report<'_>) -> Option<Section> {
    let (_, found) = report.against?;
    let kinds: HashMap<&str, &str> =
        report.model.statistics.tensors.iter().map(|t| (t.name.as_str(), t.kind.as_str())).collect();
    let (mut by_layer, mut by_kind) = (BTreeMap::<usize, Sum>::new(), Vec::<(String, Sum)>::new());
    for tensor in &found.tensors {
        let Some(errors) = &tensor.errors else { continue };
        if let Some(layer) = tensor.layer {
            by_layer.entry(layer).or_default().add(tensor.values, errors);
        }
        let kind = tensor.a.tensors.iter().find_map(|name| kinds.get(name.as_str()).copied());
        let kind = text::name(kind.unwrap_or(&tensor.name));
        let at = by_kind.iter().position(|(name, _)| *name == kind).unwrap_or_else(|| {
            by_kind.push((kind, Sum::default()));
            by_kind.len() - 1
        });
        by_kind[at].1.add(tensor.values, errors);
    }
    // Names without a kind could be many.
    by_kind.truncate(64);
    let body = html! {
        (totals(found))
        @if !by_layer.is_empty() { (layers(&by_layer)) }
        @if !by_kind.is_empty() { (kinds_figure(&by_kind)) }
        (worst(found))
        (folded("All tensors compared", all(found)))
        (lone(found))
    };
    Some(Section { id: "errors", title: "Difference of B from A", body })
}

fn totals(found: &Tensors) -> Markup {
    let t = &found.totals;
    let facts = [
        ("tensors compared", text::grouped(t.tensors as u64)),
        ("with the same bytes", text::grouped(t.same_bytes as u64)),
        ("with equal values in another type or layout", text::grouped(t.equal_values as u64)),
        ("with other values", text::grouped(t.different as u64)),
        ("of another shape", text::grouped(t.shape as u64)),
        ("in A alone", text::grouped(t.only_a as u64)),
        ("in B alone", text::grouped(t.only_b as u64)),
        (
            "values that differ",
            format!("{} of {}", text::grouped(t.different_values), text::grouped(t.values)),
        ),
        ("RMSE", text::digits(t.rmse)),
        ("relative RMSE", t.relative_rmse.map_or("–".into(), text::digits)),
        ("cosine", t.cosine.map_or("–".into(), |c| format!("{c:.6}"))),
        ("bits per weight", format!("{:.2} in A, {:.2} in B", t.bits_a, t.bits_b)),
    ];
    let rows: Vec<Vec<String>> = facts.into_iter().map(|(what, value)| vec![what.into(), value]).collect();
    html! {
        p {
            "The RMSE is the root mean square of the differences between the values of A and B; the relative RMSE is that over the root mean square \
             of A's values; the cosine is that of the angle between both tensors as vectors."
        }
        (table("Totals of the comparison", &[words("over all tensors"), number("figure")], &rows))
    }
}

fn layers(by_layer: &BTreeMap<usize, Sum>) -> Markup {
    let columns = ["layer", "relative RMSE", "RMSE", "lowest cosine"].map(number);
    let row = |(layer, sum): (&usize, &Sum)| {
        vec![
            layer.to_string(),
            text::digits(sum.relative()),
            text::digits(sum.rmse()),
            format!("{:.6}", sum.cosine()),
        ]
    };
    let rows: Vec<Vec<String>> = by_layer.iter().map(row).collect();
    let drawn = |title: &str, finding: &str, of: &dyn Fn(&Sum) -> f64| {
        let points = by_layer.iter().map(|(layer, sum)| (*layer, of(sum))).collect();
        let chart: Chart = lines(&named(title, finding), &[Line { points, second: false }]);
        figure(title, finding, chart, table(title, &columns, &rows))
    };
    let most = |of: &dyn Fn(&Sum) -> f64| {
        by_layer.iter().map(|(l, sum)| (*l, of(sum))).max_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or((0, 0.0))
    };
    let (worst, error) = most(&Sum::relative);
    let (apart, angle) = most(&|sum| 1.0 - sum.cosine());
    let relative = format!(
        "Layer {worst} has the largest relative RMSE, {} (root mean square over its values).",
        text::digits(error)
    );
    let cosine = format!(
        "The tensor whose direction differs most is in layer {apart}: its cosine is {}, which is {} below 1.",
        format_args!("{:.6}", 1.0 - angle),
        text::digits(angle)
    );
    let (first, second) = ("Relative RMSE by layer", "1 − lowest cosine by layer");
    html! { (drawn(first, &relative, &Sum::relative)) (drawn(second, &cosine, &|sum| 1.0 - sum.cosine())) }
}

fn kinds_figure(by_kind: &[(String, Sum)]) -> Markup {
    let bar = |(kind, sum): &(String, Sum)| Bar {
        label: kind.clone(),
        values: vec![(sum.relative(), text::digits(sum.relative()))],
    };
    let worst = by_kind.iter().max_by(|a, b| a.1.relative().total_cmp(&b.1.relative()));
    let finding = worst.map_or(String::new(), |(kind, sum)| {
        format!("{kind} has the largest relative RMSE, {}.", text::digits(sum.relative()))
    });
    let title = "Relative RMSE by kind of tensor";
    let columns = [words("kind"), number("relative RMSE"), number("RMSE"), number("lowest cosine")];
    let row = |(kind, sum): &(String, Sum)| {
        vec![
            kind.clone(),
            text::digits(sum.relative()),
            text::digits(sum.rmse()),
            format!("{:.6}", sum.cosine()),
        ]
    };
    let rows: Vec<Vec<String>> = by_kind.iter().map(row).collect();
    let chart = bars(&named(title, &finding), &by_kind.iter().map(bar).collect::<Vec<_>>());
    figure(title, &finding, chart, table(title, &columns, &rows))
}

fn worst(found: &Tensors) -> Markup {
    let worst = found.worst();
    let with_error = worst.iter().filter_map(|t| Some((t, t.errors.as_ref()?.relative_rmse?)));
    let rows: Vec<(&&TensorDiff, f64)> = with_error.take(WORST).collect();
    let Some((first, error)) = rows.first() else {
        return html! { p { "No tensor that can be compared value by value differs." } };
    };
    let finding =
        format!("{} differs most: its relative RMSE is {}.", text::name(&first.name), text::digits(*error));
    let bar = |(tensor, error): &(&&TensorDiff, f64)| Bar {
        // The end of a name distinguishes it.
        label: ending(&text::name(&tensor.name), 18),
        values: vec![(*error, text::digits(*error))],
    };
    let title = "Tensors that differ most";
    let data: Vec<Vec<String>> =
        rows.iter().map(|(t, e)| vec![text::name(&t.name), text::digits(*e)]).collect();
    let chart = bars(&named(title, &finding), &rows.iter().map(bar).collect::<Vec<_>>());
    figure(title, &finding, chart, table(title, &[words("tensor"), number("relative RMSE")], &data))
}

fn ending(name: &str, most: usize) -> String {
    let name = name.strip_suffix(".weight").unwrap_or(name);
    let length = name.chars().count();
    match length > most {
        true => std::iter::once('…').chain(name.chars().skip(length - most + 1)).collect(),
        false => name.to_owned(),
    }
}

fn all(found: &Tensors) -> Markup {
    let columns = [
        words("tensor"),
        words("A"),
        words("B"),
        words("values"),
        number("relative RMSE"),
        number("RMSE"),
        number("cosine"),
        number("largest error"),
    ];
    let row = |t: &TensorDiff| {
        let status = match t.status {
            Status::SameBytes => "same bytes",
            Status::EqualValues => "equal",
            Status::WithinTolerance => "within tolerance",
            Status::Different => "differ",
            Status::Shape => "other shape",
        };
        let mut row =
            vec![text::name(&t.name), text::name(&t.a.kind), text::name(&t.b.kind), status.to_owned()];
        row.extend(match &t.errors {
            None => vec!["–".to_owned(); 4],
            Some(e) => vec![
                e.relative_rmse.map_or("–".into(), text::digits),
                text::digits(e.rmse),
                e.cosine.map_or("–".into(), |c| format!("{c:.6}")),
                text::digits(e.max_error),
            ],
        });
        row
    };
    let rows: Vec<Vec<String>> = found.tensors.iter().take(LISTED).map(row).collect();
    html! {
        @if found.tensors.len() > LISTED { p { "The first " (LISTED) " of " (found.tensors.len()) " tensors." } }
        (table("All tensors compared", &columns, &rows))
    }
}

/// Tensors of one model alone.
fn lone(found: &Tensors) -> Markup {
    let sides = [("A", &found.only_a), ("B", &found.only_b)];
    html! {
        @for (letter, tensors) in sides {
            @if !tensors.is_empty() {
                @let names = tensors.iter().take(100).map(|t| match t.reason {
                    Some(reason) => format!("{} ({reason})", text::name(&t.name)),
                    None => text::name(&t.name),
                }).collect::<Vec<_>>();
                p { (text::counted(tensors.len(), "tensor")) " in " (letter) " alone: " (names.join(", ")) "." }
            }
        }
    }
}
