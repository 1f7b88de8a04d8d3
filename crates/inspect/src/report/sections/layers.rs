//! Element types and bits per weight by layer and kind of tensor.

use std::collections::{BTreeMap, BTreeSet};

use maud::{Markup, html};

use super::super::charts::{Bar, Line, bars, lines};
use super::super::figure::{figure, folded, legend, missing, named, number, scrolled, table, words};
use super::super::page::Section;
use super::super::{LETTERS, Report, Subject, text};
use super::{headed, labels, union};
use crate::statistics::{TensorStatistics, bits_per_weight};

/// Rows of a map beyond so many are left out.
const MOST_LAYERS: usize = 400;

/// Upper bounds of the classes that colours stand for, in bits per weight, with their names.
const CLASSES: [(f64, &str); 8] = [
    (2.5, "to 2.5 bits"),
    (3.5, "to 3.5"),
    (4.75, "to 4.75"),
    (5.75, "to 5.75"),
    (7.0, "to 7"),
    (9.0, "to 9"),
    (16.0, "to 16"),
    (f64::INFINITY, "above 16"),
];

fn class(bits: f64) -> String {
    let at = CLASSES.iter().position(|(most, _)| bits <= most + 1e-9).unwrap_or(CLASSES.len() - 1);
    format!("t{}", at + 1)
}

/// The tensors of one kind in one layer, or of all layers.
#[derive(Clone, Debug, Default)]
struct Cell {
    types: BTreeSet<String>,
    tensors: usize,
    bytes: u64,
    parameters: u64,
}

impl Cell {
    fn add(&mut self, tensor: &TensorStatistics) {
        self.types.insert(text::name(&tensor.element_type));
        self.tensors += 1;
        self.bytes += tensor.bytes;
        self.parameters += tensor.parameters;
    }

    fn bits(&self) -> f64 {
        bits_per_weight(self.bytes, self.parameters)
    }

    fn types(&self) -> String {
        self.types.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
    }
}

/// The cells of a model.
struct Grid<'a> {
    /// Kinds in layers: matrices, then vectors.
    matrices: Vec<&'a str>,
    vectors: Vec<&'a str>,
    cells: BTreeMap<(usize, &'a str), Cell>,
    layers: BTreeMap<usize, Cell>,
    /// What is outside the layers.
    outside: BTreeMap<&'a str, Cell>,
}

impl<'a> Grid<'a> {
    fn of(subject: &Subject<'a>) -> Self {
        let mut grid = Self {
            matrices: Vec::new(),
            vectors: Vec::new(),
            cells: BTreeMap::new(),
            layers: BTreeMap::new(),
            outside: BTreeMap::new(),
        };
        let tensors = &subject.statistics.tensors;
        for tensor in tensors {
            let kind = tensor.kind.as_str();
            match tensor.layer {
                None => grid.outside.entry(kind).or_default().add(tensor),
                Some(layer) => {
                    grid.cells.entry((layer, kind)).or_default().add(tensor);
                    grid.layers.entry(layer).or_default().add(tensor);
                }
            }
        }
        let in_layers: BTreeSet<&str> = grid.cells.keys().map(|(_, kind)| *kind).collect();
        let matrix = |kind: &str| tensors.iter().any(|t| t.kind == kind && t.shape.len() >= 2);
        let known = subject.statistics.kinds.iter().map(|k| k.kind.as_str());
        let mut ordered: Vec<&str> = known.filter(|kind| in_layers.contains(kind)).collect();
        let beyond: Vec<&str> = in_layers.iter().copied().filter(|kind| !ordered.contains(kind)).collect();
        ordered.extend(beyond.into_iter().take(64));
        (grid.matrices, grid.vectors) = ordered.into_iter().partition(|kind| matrix(kind));
        grid
    }

    /// Kinds of vectors of which all layers have the same type, with that type; and all others.
    fn uniform(&self) -> (BTreeMap<String, Vec<&'a str>>, Vec<&'a str>) {
        let (mut same, mut other) = (BTreeMap::<String, Vec<&str>>::new(), Vec::new());
        for kind in &self.vectors {
            let cells = self.cells.iter().filter(|((_, k), _)| k == kind);
            let types: BTreeSet<&String> = cells.flat_map(|(_, cell)| &cell.types).collect();
            match types.first() {
                Some(only) if types.len() == 1 => same.entry((*only).clone()).or_default().push(kind),
                _ => other.push(*kind),
            }
        }
        (same, other)
    }
}

/// The map of element types.
pub(super) fn types(report: &Report<'_>) -> Section {
    let maps = report.subjects().into_iter().zip(LETTERS).map(|(subject, letter)| {
        let caption = if report.compares() { format!("Types of {letter}") } else { "Types".to_owned() };
        html! { div {
            @if report.compares() { h3 { (letter) ": " bdi { (text::name(subject.label)) } } }
            (map(&subject, &caption))
        } }
    });
    let body = html! {
        p { "Each cell names the element type; its colour stands for the bits per weight, scales included." }
        ul .keys aria-label="Colours by bits per weight" {
            @for (at, (_, name)) in CLASSES.iter().enumerate() { li class={ "t" (at + 1) } { (name) } }
        }
        div class=[report.compares().then_some("pair")] { @for map in maps { (map) } }
    };
    Section { id: "types", title: "Types by layer", body }
}

fn map(subject: &Subject<'_>, caption: &str) -> Markup {
    let grid = Grid::of(subject);
    let (same, other) = grid.uniform();
    let columns: Vec<&str> = grid.matrices.iter().copied().chain(other).collect();
    let shown = grid.layers.keys().take(MOST_LAYERS);
    let cell = |layer: usize, kind: &str| match grid.cells.get(&(layer, kind)) {
        None => html! { td { "–" } },
        Some(cell) => html! { td class=(class(cell.bits())) { (cell.types()) } },
    };
    html! {
        @if grid.layers.is_empty() { (missing("No tensor has a layer in its name.")) } @else {
            (scrolled(caption, html! { table .map {
                caption .unseen { (caption) ": layers and kinds of tensors" }
                thead { tr {
                    th scope="col" { "layer" }
                    @for kind in &columns { th scope="col" { (text::name(kind)) } }
                } }
                tbody { @for &layer in shown { tr {
                    th scope="row" { (layer) }
                    @for kind in &columns { (cell(layer, kind)) }
                } } }
            } }))
        }
        @if grid.layers.len() > MOST_LAYERS { p { "Layers beyond " (MOST_LAYERS) " are left out." } }
        @for (element_type, kinds) in &same {
            p { "In all layers " (element_type) ": " (text::long(&kinds.join(", "), 2000)) "." }
        }
        @if !grid.outside.is_empty() {
            p {
                "Outside the layers: "
                @for (at, (kind, cell)) in grid.outside.iter().take(64).enumerate() {
                    @if at > 0 { ", " }
                    (text::name(kind)) " " b { (cell.types()) }
                }
                "."
            }
        }
    }
}

/// Bits per weight by layer and by kind; `None` for a model without layers.
pub(super) fn bits(report: &Report<'_>) -> Option<Section> {
    let subjects = report.subjects();
    let grids: Vec<Grid<'_>> = subjects.iter().map(Grid::of).collect();
    if grids.iter().all(|grid| grid.layers.is_empty()) {
        return None;
    }
    let body = html! {
        (legend(&labels(report)))
        (by_layer(report, &grids))
        (by_kind(report, &subjects))
        @for ((grid, letter), subject) in grids.iter().zip(LETTERS).zip(&subjects) {
            @let whose = if report.compares() { format!(" of {letter}") } else { String::new() };
            (folded(
                &format!("Bits per weight by layer and kind of tensor{whose}"),
                by_both(grid, subject),
            ))
        }
    };
    Some(Section { id: "bits", title: "Bits per weight", body })
}

fn by_layer(report: &Report<'_>, grids: &[Grid<'_>]) -> Markup {
    let points = |grid: &Grid<'_>| -> Vec<(usize, f64)> {
        grid.layers.iter().take(MOST_LAYERS).map(|(layer, cell)| (*layer, cell.bits())).collect()
    };
    let all: Vec<Line> = grids
        .iter()
        .enumerate()
        .map(|(model, grid)| Line { points: points(grid), second: model == 1 })
        .collect();
    let said = |line: &Line| {
        let bits = line.points.iter().map(|(_, bits)| *bits);
        let (least, most) = (bits.clone().fold(f64::INFINITY, f64::min), bits.fold(0.0, f64::max));
        match most - least < 0.005 {
            true => format!("every layer has {most:.2} bits per weight"),
            false => format!("layers have {least:.2} to {most:.2} bits per weight"),
        }
    };
    let finding = sentence(report, &all.iter().map(said).collect::<Vec<_>>());
    let layers: BTreeSet<usize> = all.iter().flat_map(|line| line.points.iter().map(|(l, _)| *l)).collect();
    let bits = |grid: &Grid<'_>, layer: usize| {
        grid.layers.get(&layer).map_or("–".into(), |cell| format!("{:.3}", cell.bits()))
    };
    let row = |layer: usize| {
        std::iter::once(layer.to_string()).chain(grids.iter().map(|grid| bits(grid, layer))).collect()
    };
    let rows: Vec<Vec<String>> = layers.into_iter().map(row).collect();
    let mut columns = vec![number("layer")];
    columns.extend(headed(report, "bits per weight").into_iter().map(number));
    let title = "Bits per weight by layer";
    figure(title, &finding, lines(&named(title, &finding), &all), table(title, &columns, &rows))
}

fn by_kind(report: &Report<'_>, subjects: &[Subject<'_>]) -> Markup {
    let kinds = union(subjects, |s| s.statistics.kinds.iter().map(|k| k.kind.as_str()).collect());
    let bits = |subject: &Subject<'_>, name: &str| {
        let kind = subject.statistics.kinds.iter().find(|k| k.kind == name);
        kind.map_or(0.0, |kind| kind.bits_per_weight())
    };
    let worded = |bits: f64| if bits > 0.0 { format!("{bits:.2}") } else { "–".to_owned() };
    let row = |name: &&str| Bar {
        label: text::name(name),
        values: subjects.iter().map(|s| bits(s, name)).map(|bits| (bits, worded(bits))).collect(),
    };
    let rows: Vec<Bar> = kinds.iter().map(row).collect();
    let said = |subject: &Subject<'_>| {
        let largest = subject.statistics.kinds.iter().max_by_key(|k| k.bytes);
        let of = |k: &crate::statistics::KindStatistics| {
            let name = text::name(&k.kind);
            format!("the largest kind, {name}, has {:.2} bits per weight", k.bits_per_weight())
        };
        largest.map_or_else(|| "there are no tensors".into(), of)
    };
    let finding = sentence(report, &subjects.iter().map(said).collect::<Vec<_>>());
    let mut columns = vec![words("kind")];
    columns.extend(headed(report, "bits per weight").into_iter().map(number));
    let data: Vec<Vec<String>> = rows
        .iter()
        .map(|bar| {
            std::iter::once(bar.label.clone()).chain(bar.values.iter().map(|(_, t)| t.clone())).collect()
        })
        .collect();
    let title = "Bits per weight by kind of tensor";
    figure(title, &finding, bars(&named(title, &finding), &rows), table(title, &columns, &data))
}

fn by_both(grid: &Grid<'_>, subject: &Subject<'_>) -> Markup {
    let kinds: Vec<&str> = grid.matrices.iter().chain(&grid.vectors).copied().collect();
    let mut columns = vec![number("layer")];
    columns.extend(kinds.iter().map(|kind| number(text::name(kind))));
    columns.push(number("all"));
    let bits = |cell: Option<&Cell>| cell.map_or("–".to_owned(), |cell| format!("{:.2}", cell.bits()));
    let row = |(layer, all): (&usize, &Cell)| {
        let mut row = vec![layer.to_string()];
        row.extend(kinds.iter().map(|kind| bits(grid.cells.get(&(*layer, *kind)))));
        row.push(bits(Some(all)));
        row
    };
    let rows: Vec<Vec<String>> = grid.layers.iter().take(MOST_LAYERS).map(row).collect();
    let caption = format!("Bits per weight of {} by layer and kind", text::name(subject.label));
    table(&caption, &columns, &rows)
}

/// `Every layer …` for one model, `A: every layer … B: …` for two.
pub(super) fn sentence(report: &Report<'_>, said: &[String]) -> String {
    if report.compares() {
        let parts = LETTERS.iter().zip(said).map(|(letter, said)| format!("{letter}: {said}."));
        return parts.collect::<Vec<_>>().join(" ");
    }
    let text = said.join(" ");
    let mut letters = text.chars();
    let first = letters.next().map(|c| c.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}.", letters.as_str())
}
