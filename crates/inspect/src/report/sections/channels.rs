//! Input channels of linear layers that stand out.

use std::collections::BTreeMap;

use maud::{Markup, html};

use super::super::charts::{Line, lines};
use super::super::figure::{figure, legend, named, number, table, words};
use super::super::page::Section;
use super::super::{LETTERS, Report, Subject, text};
use super::{headed, labels};
use crate::statistics::{Channel, OUTLIER, Outliers, TensorStatistics};

/// So many channels are listed.
const LISTED: usize = 25;

/// The largest ratios by layer, and the channels behind them.
pub(super) fn section(report: &Report<'_>) -> Section {
    let subjects = report.subjects();
    let body = html! {
        p {
            "The measure of an input channel (a column of the weight matrix of a linear layer) is the root mean square of its weights over the \
             median of that of all channels of the matrix. A channel of at least " (OUTLIER) " times the median counts as \
             an outlier: where it shares a scale with other channels, they lose precision. Such channels are the counterpart \
             in the weights of the outlier features in activations (Dettmers et al., LLM.int8(), 2022; Kovaleva et al., \
             BERT Busters, 2021)."
        }
        (legend(&labels(report)))
        (by_layer(report, &subjects))
        div class=[report.compares().then_some("pair")] {
            @for (letter, subject) in LETTERS.iter().zip(&subjects) {
                @let whose = if report.compares() { format!("{letter}: ") } else { String::new() };
                div {
                    h3 { (whose) "Channels that stand out most" }
                    (top(subject, &whose))
                    (repeated(subject))
                }
            }
        }
    };
    Section { id: "channels", title: "Outlier channels", body }
}

fn matrices<'a>(subject: &Subject<'a>) -> impl Iterator<Item = (&'a TensorStatistics, &'a Outliers)> {
    subject.statistics.tensors.iter().filter_map(|t| Some((t, t.outliers.as_ref()?)))
}

/// The channels kept of every matrix, the largest ratio first.
fn ranked<'a>(subject: &Subject<'a>) -> Vec<(&'a TensorStatistics, &'a Channel)> {
    let channels = matrices(subject).flat_map(|(t, o)| o.top.iter().map(move |channel| (t, channel)));
    let mut all: Vec<_> = channels.collect();
    all.sort_by(|a, b| b.1.ratio.total_cmp(&a.1.ratio));
    all
}

fn by_layer(report: &Report<'_>, subjects: &[Subject<'_>]) -> Markup {
    let of = |subject: &Subject<'_>| {
        let mut largest: BTreeMap<usize, (f64, usize)> = BTreeMap::new();
        for (tensor, outliers) in matrices(subject) {
            let (Some(layer), Some(first)) = (tensor.layer, outliers.top.first()) else { continue };
            let entry = largest.entry(layer).or_default();
            *entry = (entry.0.max(first.ratio), entry.1 + outliers.above);
        }
        largest
    };
    let found: Vec<BTreeMap<usize, (f64, usize)>> = subjects.iter().map(of).collect();
    if found.iter().all(BTreeMap::is_empty) {
        return html! { p .missing { "No linear layer with channels to compare." } };
    }
    let said = |(largest, subject): (&BTreeMap<usize, (f64, usize)>, &Subject<'_>)| {
        let worst = largest.iter().max_by(|a, b| a.1.0.total_cmp(&b.1.0));
        let outliers = matrices(subject).map(|(_, o)| o.above).sum::<usize>();
        match worst {
            None => "no layers".to_owned(),
            Some((layer, (ratio, _))) => format!(
                "the largest ratio is {} in layer {layer}; {} at or above {OUTLIER}",
                text::digits(*ratio),
                text::counted(outliers, "channel")
            ),
        }
    };
    let said: Vec<String> = found.iter().zip(subjects).map(said).collect();
    let finding = super::layers::sentence(report, &said);
    let line = |(model, largest): (usize, &BTreeMap<usize, (f64, usize)>)| Line {
        points: largest.iter().map(|(layer, (ratio, _))| (*layer, *ratio)).collect(),
        second: model == 1,
    };
    let all: Vec<Line> = found.iter().enumerate().map(line).collect();
    let mut columns = vec![number("layer")];
    columns.extend(headed(report, "largest ratio").into_iter().map(number));
    columns.extend(headed(report, "outliers").into_iter().map(number));
    let layers: std::collections::BTreeSet<usize> = found.iter().flat_map(|f| f.keys().copied()).collect();
    let row = |layer: usize| {
        let of = |f: &BTreeMap<usize, (f64, usize)>| f.get(&layer).copied();
        let mut row = vec![layer.to_string()];
        row.extend(found.iter().map(|f| of(f).map_or("–".into(), |(ratio, _)| text::digits(ratio))));
        row.extend(found.iter().map(|f| of(f).map_or("–".into(), |(_, n)| text::grouped(n as u64))));
        row
    };
    let rows: Vec<Vec<String>> = layers.into_iter().map(row).collect();
    let title = "Largest channel over the median, by layer";
    figure(title, &finding, lines(&named(title, &finding), &all), table(title, &columns, &rows))
}

fn top(subject: &Subject<'_>, whose: &str) -> Markup {
    let columns = [
        words("tensor"),
        number("layer"),
        number("channel"),
        number("ratio"),
        number("rms"),
        number("largest weight"),
    ];
    let row = |(tensor, channel): &(&TensorStatistics, &Channel)| {
        vec![
            text::name(&tensor.name),
            tensor.layer.map_or("–".into(), |layer| layer.to_string()),
            channel.channel.to_string(),
            text::digits(channel.ratio),
            text::digits(channel.rms),
            text::digits(channel.absmax.into()),
        ]
    };
    let rows: Vec<Vec<String>> = ranked(subject).iter().take(LISTED).map(row).collect();
    table(&format!("{whose}Channels that stand out most"), &columns, &rows)
}

/// Channels that are outliers in several matrices of the same width: those of the residual stream.
fn repeated(subject: &Subject<'_>) -> Markup {
    let mut found: BTreeMap<(usize, usize), usize> = BTreeMap::new();
    for (_, outliers) in matrices(subject) {
        for channel in outliers.top.iter().filter(|c| c.ratio >= OUTLIER) {
            *found.entry((outliers.channels, channel.channel)).or_default() += 1;
        }
    }
    let mut often: Vec<_> = found.into_iter().filter(|(_, times)| *times >= 3).collect();
    often.sort_by_key(|(_, times)| std::cmp::Reverse(*times));
    html! {
        @if !often.is_empty() {
            p {
                "Outliers in three matrices or more: "
                @for (at, ((width, channel), times)) in often.iter().take(12).enumerate() {
                    @if at > 0 { ", " }
                    "channel " (channel) " of " (width) " (" (times) " matrices)"
                }
                "."
            }
        }
    }
}
