//! Finds tensors by what a user types, and measures them: `quern inspect --histogram`.
//!
//! In this order: a name in the file, a name in the other format (GGUF's for a Hugging Face checkpoint and the other way
//! round), the end of one name only, a regular expression.

use quern_model::pattern::{NamePattern, shown};
use quern_model::{Packed, View};
use quern_tensor_io::{Checkpoint, Container, Error, Progress, Remedy, Result};
use serde::Serialize;

use super::channels::{Axis, Outliers};
use super::histogram::{Bins, Histogram};
use super::kinds::Kinds;
use super::pass::{self, Target};
use super::values::{ValueSummary, Values};
use super::{own_view, stored_bytes};

/// A pattern may match so many tensors.
const MOST: usize = 16;
/// So many near names are listed.
const NEAR: usize = 5;

/// Tensors of a checkpoint that were asked for.
#[derive(Debug)]
pub struct Selection<'a> {
    view: View<'a>,
    tensors: Vec<usize>,
    /// The names are those of the other format.
    translated: bool,
}

/// The values of one tensor.
#[derive(Debug, Serialize)]
pub struct TensorHistogram {
    /// Its name, in the format in which it was asked for.
    pub name: String,
    /// The tensors of the file it is made of, where these are others.
    pub sources: Vec<String>,
    /// How it is stored: an element type, or the scheme of a packed layer.
    #[serde(rename = "type")]
    pub element_type: String,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// The figures; `None` for a type that quern does not decode, and for a tensor without finite values.
    pub values: Option<ValueSummary>,
    /// The histogram over the bulk of the values.
    pub histogram: Option<Bins>,
    /// Its columns (of a linear layer, input channels).
    pub columns: Option<Outliers>,
    #[serde(skip)]
    counts: Histogram,
}

impl TensorHistogram {
    /// The histogram with about so many bins at most.
    pub fn bins(&self, most: usize) -> Bins {
        Histogram::bins(&[&self.counts], most).remove(0)
    }
}

/// Finds the tensors that `asked` names.
///
/// # Errors
/// None, with the nearest names; more than 16; an expression that cannot be read.
pub fn select<'a>(checkpoint: &'a Checkpoint, asked: &str) -> Result<Selection<'a>> {
    let (own, _) = own_view(checkpoint)?;
    // Not every checkpoint has the other names: its architecture may be unknown, a tensor missing.
    let other = match checkpoint.container() {
        Container::Gguf => View::hugging_face(checkpoint, Packed::Decoded),
        Container::Safetensors | Container::PyTorch => {
            View::gguf(checkpoint, Packed::Decoded).or_else(|_| View::gguf_without_tokenizer(checkpoint))
        }
    };
    let other = other.ok();
    let find = |test: &dyn Fn(&str) -> bool, unique: bool| {
        let fits = |found: &Vec<usize>| !found.is_empty() && (!unique || found.len() == 1);
        let found = Some((named(&own, test), false)).filter(|(found, _)| fits(found));
        found.or_else(|| Some((named(other.as_ref()?, test), true)).filter(|(found, _)| fits(found)))
    };
    let refused = |what: String| Error::refused(checkpoint.path(), what);
    let found = match asked.is_empty() {
        true => None,
        false => find(&|name| name == asked, false).or_else(|| find(&|name| name.ends_with(asked), true)),
    };
    let found = match found {
        Some(found) => Some(found),
        None if asked.is_empty() => None,
        None => {
            let expression = NamePattern::new(asked).map_err(|e| {
                let asked = shown(asked);
                refused(format!("no tensor is called {asked}, which is no regular expression either: {e}"))
            })?;
            find(&|name| expression.is_match(name), false)
        }
    };
    let Some((tensors, translated)) = found else {
        let near = near(asked, [Some(&own), other.as_ref()]);
        let what = format!("no tensor is called {asked:?} or matches it; names near it are {near}");
        return Err(refused(what).with_remedy(Remedy::ListTensors));
    };
    let Some(view) = (if translated { other } else { Some(own) }) else {
        return Err(refused(format!("no tensor is called {asked}")));
    };
    if tensors.len() > MOST {
        let example = tensors.first().map_or("", |&first| view.tensors()[first].name.as_str());
        return Err(refused(format!(
            "{} tensors match {asked}, and at most {MOST} are shown; write more of the name, such as {example}",
            tensors.len()
        )));
    }
    Ok(Selection { view, tensors, translated })
}

/// The tensors of which the name passes a test.
fn named(view: &View<'_>, test: &dyn Fn(&str) -> bool) -> Vec<usize> {
    let numbered = view.tensors().iter().enumerate();
    numbered.filter(|(_, t)| test(&t.name)).map(|(index, _)| index).collect()
}

/// The names that are most alike, in words.
fn near(asked: &str, views: [Option<&View<'_>>; 2]) -> String {
    let names = views.into_iter().flatten().flat_map(|view| view.tensors()).map(|t| t.name.as_str());
    let mut names: Vec<(f64, &str)> = names.map(|name| (likeness(asked, name), name)).collect();
    names.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    names.dedup_by(|a, b| a.1 == b.1);
    match names.is_empty() {
        true => "none: there are no tensors".to_owned(),
        false => names.iter().take(NEAR).map(|(_, name)| *name).collect::<Vec<_>>().join(", "),
    }
}

/// How much a name, or its end from any of its parts on, is like what was asked for: 1 for the same.
fn likeness(asked: &str, name: &str) -> f64 {
    let short = name.strip_suffix(".weight").unwrap_or(name);
    let ends = short.match_indices('.').map(|(at, _)| &short[at + 1..]);
    let all = [name, short].into_iter().chain(ends);
    all.map(|end| strsim::jaro_winkler(asked, end)).fold(0.0, f64::max)
}

impl Selection<'_> {
    /// Reads the values of the tensors, on rayon's current threads. Progress is in bytes.
    ///
    /// The histogram has about `bins` bins at most.
    pub fn measure(&self, bins: usize, progress: &dyn Progress) -> Vec<TensorHistogram> {
        let kinds = Kinds::of(self.view.checkpoint());
        let target = |&number: &usize| {
            let tensor = &self.view.tensors()[number];
            let axis = match self.translated {
                // The other format's layout is described by the view itself: matrices are `[out, in]` in GGUF.
                true => None,
                false => kinds.kind(tensor.place, &tensor.name, tensor.shape.len()).input,
            };
            let matrix = tensor.shape.len() >= 2;
            let input = axis.or_else(|| matrix.then_some(Axis::Columns));
            Target { tensor: number, input, bytes: stored_bytes(&self.view, tensor) }
        };
        let targets: Vec<Target> = self.tensors.iter().map(target).collect();
        progress.total(targets.iter().map(|t| t.bytes).sum());
        let mut all = Vec::with_capacity(targets.len());
        pass::measure(&self.view, &targets, progress, |number, values| {
            all.push(self.described(&targets[number], values, bins));
        });
        all
    }

    fn described(&self, target: &Target, values: Option<Values>, bins: usize) -> TensorHistogram {
        let tensor = &self.view.tensors()[target.tensor];
        let same = tensor.sources.len() == 1 && tensor.sources[0] == tensor.name;
        let summary = values.as_ref().and_then(Values::summary);
        let columns = values.as_ref().and_then(|v| v.channels.as_ref()?.outliers());
        let counts = values.map(|v| v.histogram).unwrap_or_default();
        TensorHistogram {
            name: tensor.name.clone(),
            sources: if same { Vec::new() } else { tensor.sources.clone() },
            element_type: self.view.stored_as(tensor),
            shape: tensor.shape.clone(),
            histogram: summary.is_some().then(|| Histogram::bins(&[&counts], bins).remove(0)),
            values: summary,
            columns,
            counts,
        }
    }
}
