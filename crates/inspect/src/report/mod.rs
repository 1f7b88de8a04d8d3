//! The report of a model, or of two side by side: one HTML page that needs no network and no script.
//!
//! ```text
//! Subject (summary, statistics) ─┐
//! Subject of B, tensors compared ┴─> sections ─> figures (chart as SVG, finding, data table) ─> page
//! ```
//!
//! The page is the same for the same models: it has no date and nothing that depends on threads. Whatever comes from a
//! file is escaped and cut (see `text`); a content security policy forbids scripts and every request besides.

mod charts;
mod figure;
mod page;
mod sections;
mod text;

pub use page::page;

use quern_tensor_io::Checkpoint;

use crate::statistics::Statistics;
use crate::{Summary, diff};

/// One model of a report.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// What the page calls it: the path or the name it was opened by.
    pub label: &'a str,
    /// The model itself, for its metadata and configuration.
    pub checkpoint: &'a Checkpoint,
    /// What it is.
    pub summary: &'a Summary,
    /// Its values.
    pub statistics: &'a Statistics,
}

/// What a report is of.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// The model.
    pub model: Subject<'a>,
    /// The model beside it, and their tensors compared.
    pub against: Option<(Subject<'a>, &'a diff::Tensors)>,
}

impl<'a> Report<'a> {
    /// The models, the first one first.
    fn subjects(&self) -> Vec<Subject<'a>> {
        std::iter::once(self.model).chain(self.against.map(|(other, _)| other)).collect()
    }

    /// Whether there are two models.
    fn compares(&self) -> bool {
        self.against.is_some()
    }
}

/// What the models of a report are called in tables and legends.
const LETTERS: [&str; 2] = ["A", "B"];
