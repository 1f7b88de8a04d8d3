//! Which tensor of A belongs to which tensor of B.

use std::collections::{HashMap, HashSet};

use quern_model::{Pair, TensorRole, View, ViewTensor};

use super::views::{Side, Views};

/// Tensors of both sides.
#[derive(Debug, Default)]
pub(super) struct Matches {
    /// Of the same name, in A's order; those whose head is tied to the embedding with the other's own head.
    pub pairs: Vec<Matched>,
    /// Only in A.
    pub only_a: Vec<usize>,
    /// Only in B.
    pub only_b: Vec<usize>,
}

/// A tensor of both sides.
#[derive(Clone, Copy, Debug)]
pub(super) struct Matched {
    pub pair: Pair,
    /// The side that uses its embedding as the head.
    pub tied: Option<&'static str>,
    pub same_shape: bool,
}

impl Matches {
    /// Matches the tensors whose name `wanted` accepts.
    pub fn new(views: &Views<'_, '_>, wanted: impl Fn(&str) -> bool) -> Self {
        let (a, b) = (&views.a.view, &views.b.view);
        let of_b: HashMap<&str, usize> =
            b.tensors().iter().enumerate().map(|(i, t)| (t.name.as_str(), i)).collect();
        let mut found = Self::default();
        let mut met = HashSet::new();
        for (index, tensor) in a.tensors().iter().enumerate().filter(|(_, t)| wanted(&t.name)) {
            let named = of_b.get(tensor.name.as_str()).copied();
            let tied = || head(tensor).then(|| tied_embedding(b)).flatten();
            match (named, tied()) {
                (Some(number), _) => {
                    met.insert(number);
                    found.push(views, Pair { a: index, b: number }, None);
                }
                (None, Some(embedding)) => found.push(views, Pair { a: index, b: embedding }, Some("B")),
                (None, None) => found.only_a.push(index),
            }
        }
        let rest = b.tensors().iter().enumerate().filter(|(i, t)| !met.contains(i) && wanted(&t.name));
        for (index, tensor) in rest {
            match head(tensor).then(|| tied_embedding(a)).flatten() {
                Some(embedding) => found.push(views, Pair { a: embedding, b: index }, Some("A")),
                None => found.only_b.push(index),
            }
        }
        found
    }

    fn push(&mut self, views: &Views<'_, '_>, pair: Pair, tied: Option<&'static str>) {
        let (a, b) = (&views.a.view.tensors()[pair.a], &views.b.view.tensors()[pair.b]);
        self.pairs.push(Matched { pair, tied, same_shape: a.shape == b.shape });
    }
}

fn head(tensor: &ViewTensor) -> bool {
    tensor.role == Some(TensorRole::Output)
}

/// The embedding of a model that has no head of its own.
fn tied_embedding(view: &View<'_>) -> Option<usize> {
    let tied = view.config().is_some_and(|c| c.tied_embeddings) && !view.tensors().iter().any(head);
    let embedding = |t: &ViewTensor| t.role == Some(TensorRole::TokenEmbedding);
    view.tensors().iter().position(embedding).filter(|_| tied)
}

/// Why a tensor that only one side has makes no difference; `None` if it may make one.
pub(super) fn reason(side: &Side<'_>, other: &Side<'_>, tensor: &ViewTensor) -> Option<&'static str> {
    let factors = [TensorRole::RopeFactors, TensorRole::RopeFactorsLong, TensorRole::RopeFactorsShort];
    if tensor.role.is_some_and(|role| factors.contains(&role)) && other.view.config().is_some() {
        return Some("rope factors, which are compared as part of the configuration");
    }
    side.extras.get(&tensor.name).map(|extra| extra.called())
}
