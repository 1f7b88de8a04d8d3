//! Two views of the same tensors, compared piece by piece on all threads.

use std::ops::Range;

use quern_model::{Pair, SideBySide, View, ViewTensor};
use quern_tensor_io::{Container, ElementType, Progress};
use rayon::ThreadPool;

use super::{Order, Orders};
use crate::cast;

/// A tensor of the source and the same tensor of the output, and the type it was rounded to; `None` if its values are to
/// be the same.
pub(super) type Rounded = (Pair, Option<ElementType>);

/// What a tensor turned out to be.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Found {
    Exact,
    /// Rounded as it may be; the largest difference.
    Near(f32),
    Wrong(String),
}

impl Found {
    /// The worse of two, the first of two that are wrong.
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (wrong @ Self::Wrong(_), _) | (_, wrong @ Self::Wrong(_)) => wrong,
            (Self::Near(a), Self::Near(b)) => Self::Near(a.max(b)),
            (near @ Self::Near(_), Self::Exact) | (Self::Exact, near @ Self::Near(_)) => near,
            (Self::Exact, Self::Exact) => Self::Exact,
        }
    }
}

/// A thread's own room.
#[derive(Default)]
struct Scratch {
    was: Vec<f32>,
    is: Vec<f32>,
}

/// Both sides and how they are compared.
struct Sides<'v, 'a, 'b> {
    views: SideBySide<'v, 'a, 'b>,
    orders: &'v Orders,
}

/// Compares all pairs; progress is counted in bytes of the output's view.
pub(super) fn all(
    source: &View<'_>,
    back: &View<'_>,
    pairs: &[Rounded],
    orders: &Orders,
    pool: &ThreadPool,
    progress: &dyn Progress,
) -> Vec<Found> {
    let sides = Sides { views: SideBySide { a: source, b: back }, orders };
    let mut found = vec![Found::Exact; pairs.len()];
    let both: Vec<Pair> = pairs.iter().map(|(pair, _)| *pair).collect();
    progress.total(sides.views.bytes(&both));
    sides.views.walk(
        &both,
        |pair| sides.order(pair).is_some(),
        (pool, progress),
        |scratch, number, rows| sides.compare(&pairs[number], rows, scratch),
        |number, one| {
            let before = std::mem::replace(&mut found[number], Found::Exact);
            found[number] = before.and(one);
        },
    );
    found
}

impl Sides<'_, '_, '_> {
    fn order(&self, pair: Pair) -> Option<&Order> {
        self.views.a.tensors()[pair.a].sources.iter().find_map(|name| self.orders.get(name))
    }

    /// Both sides' bytes, where they are in the same type and in order.
    fn mapped(&self, pair: Pair) -> Option<(&[u8], &[u8])> {
        self.views.mapped(pair).filter(|_| self.order(pair).is_none())
    }

    fn compare(&self, &(pair, rounded): &Rounded, rows: Range<usize>, scratch: &mut Scratch) -> Found {
        let (source, back) = self.views.tensors(pair);
        if let Some((a, b)) = self.mapped(pair) {
            let span = rows.start * source.row_bytes..rows.end * source.row_bytes;
            if a[span.clone()] == b[span] {
                return Found::Exact;
            }
        }
        if !source.element_type.is_float() && !source.element_type.is_block() {
            return self.compare_bytes(pair, rows);
        }
        let columns = source.columns();
        let Scratch { was, is } = scratch;
        was.resize(rows.len() * columns, 0.0);
        is.resize(was.len(), 0.0);
        let decoded = self.views.a.decode(pair.a, rows.clone(), was) && {
            match self.order(pair) {
                Some(Order::Rows(order)) => self.decode_rows(pair.b, order, rows.clone(), is),
                _ => self.views.b.decode(pair.b, rows.clone(), is),
            }
        };
        if !decoded {
            // A type without decoder was not converted either.
            return self.compare_bytes(pair, rows);
        }
        if self.views.b.checkpoint().container() == Container::Gguf {
            self.views.a.multiply_rows(pair.a, rows.start, was);
        }
        let mut found = Found::Exact;
        let tolerance = Tolerance::of(source, back, rounded);
        for ((number, was), is) in rows.zip(was.chunks_exact(columns)).zip(is.chunks_exact(columns)) {
            let one = match self.order(pair) {
                Some(Order::Columns(order)) => {
                    let sorted: Vec<f32> = order.iter().map(|&c| was[c as usize]).collect();
                    tolerance.compare(number, &sorted, is)
                }
                _ => tolerance.compare(number, was, is),
            };
            found = found.and(one);
        }
        found
    }

    /// The rows of the output that these rows of the source became.
    fn decode_rows(&self, back: usize, order: &[u32], rows: Range<usize>, out: &mut [f32]) -> bool {
        // `order[j]` is the source's row at `j`.
        let mut place = vec![usize::MAX; rows.len()];
        for (j, &source) in order.iter().enumerate() {
            if let Some(at) = (source as usize).checked_sub(rows.start)
                && at < place.len()
            {
                place[at] = j;
            }
        }
        let columns = out.len() / rows.len().max(1);
        let height = self.views.b.tensors()[back].rows();
        let mut rows = place.into_iter().zip(out.chunks_exact_mut(columns.max(1)));
        rows.all(|(at, out)| at < height && self.views.b.decode(back, at..at + 1, out))
    }

    fn compare_bytes(&self, pair: Pair, rows: Range<usize>) -> Found {
        let (source, back) = self.views.tensors(pair);
        if source.element_type != back.element_type {
            let what = format!("it was {} and is {}", source.element_type, back.element_type);
            return Found::Wrong(what);
        }
        let mut was = vec![0; rows.len() * source.row_bytes];
        let mut is = vec![0; was.len()];
        self.views.a.read(pair.a, rows.clone(), &mut was);
        self.views.b.read(pair.b, rows.clone(), &mut is);
        match was == is {
            true => Found::Exact,
            false => Found::Wrong(format!("the bytes of rows {} to {} differ", rows.start, rows.end - 1)),
        }
    }
}

/// How far values may be apart.
#[derive(Clone, Copy)]
struct Tolerance {
    /// By the size of the value …
    relative: f32,
    /// … or this, if it is larger,
    least: f32,
    /// and besides, by the size.
    more: f32,
    /// Added to the size: the one that norms are stored with or without.
    shift: f32,
}

impl Tolerance {
    fn of(source: &ViewTensor, back: &ViewTensor, rounded: Option<ElementType>) -> Self {
        let (relative, least) = cast::rounding(rounded.unwrap_or(ElementType::F32));
        let shifted = source.changed.is_some() || back.changed.is_some();
        // Two sums in f32; or what is computed anew from parameters that were found behind rounded factors.
        let more =
            if shifted { 2.0 * f32::EPSILON } else { 0.0 } + if back.sources.is_empty() { 4e-6 } else { 0.0 };
        // A factor that compressed-tensors divides by is its reciprocal in GGUF.
        let more = more + if source.packed && back.packed { 2.0 * f32::EPSILON } else { 0.0 };
        Self { relative, least, more, shift: if shifted { 1.0 } else { 0.0 } }
    }

    fn allowed(self, value: f32) -> f32 {
        let size = value.abs() + self.shift;
        (size * self.relative).max(self.least) + size * self.more
    }

    /// The largest difference, and whether none is more than allowed (not so where one is NaN): lane by lane and
    /// without branches, so that the compiler makes vector instructions of it.
    fn glance(self, was: &[f32], is: &[f32]) -> (f32, bool) {
        const LANES: usize = 16;
        let (mut largest, mut all) = ([0.0f32; LANES], [true; LANES]);
        let mut lane = |lane: usize, was: f32, is: f32| {
            let error = (was - is).abs();
            all[lane] &= error <= self.allowed(was);
            largest[lane] = if error > largest[lane] { error } else { largest[lane] };
        };
        let (was, was_end) = was.as_chunks::<LANES>();
        let (is, is_end) = is.as_chunks::<LANES>();
        for (was, is) in was.iter().zip(is) {
            (0..LANES).for_each(|i| lane(i, was[i], is[i]));
        }
        was_end.iter().zip(is_end).enumerate().for_each(|(i, (&was, &is))| lane(i, was, is));
        (largest.into_iter().fold(0.0, f32::max), all == [true; LANES])
    }

    fn compare(self, row: usize, was: &[f32], is: &[f32]) -> Found {
        let (mut largest, all) = self.glance(was, is);
        if all {
            return if largest == 0.0 { Found::Exact } else { Found::Near(largest) };
        }
        largest = 0.0;
        for (column, (&was, &is)) in was.iter().zip(is).enumerate() {
            // Infinities are equal, and NaN has many bit patterns.
            if was == is || was.is_nan() && is.is_nan() {
                continue;
            }
            let error = (was - is).abs();
            if error.is_nan() || error > self.allowed(was) {
                let what = format!("row {row}, column {column}: the value was {was:e} and is {is:e}");
                return Found::Wrong(what);
            }
            largest = largest.max(error);
        }
        if largest == 0.0 { Found::Exact } else { Found::Near(largest) }
    }
}
