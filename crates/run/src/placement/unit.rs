//! The bytes of the file that each part of a pass reads.

use std::ops::Range;

use quern_tensor_io::Checkpoint;

use crate::weights::{Linear, Mapped, Weight, Weights};

/// Tensors nearer to each other than this are one span: there are small vectors between the matrices.
const GAP: u64 = 128 << 10;
/// What partial pages at the ends of a span may add.
const ENDS: u64 = 2 * 4096;
/// Bytes the system maps around a touched row, its page included.
const AROUND: u64 = 2 * super::AROUND;

/// Bytes of one file, from a place in one tensor to a place in another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    first: Mapped,
    last: Mapped,
    bytes: u64,
}

impl Span {
    /// Where they are mapped.
    pub fn addresses(&self, checkpoint: &Checkpoint) -> Range<*const u8> {
        let data = |at: &Mapped| checkpoint.data(&checkpoint.tensors()[at.tensor]).as_ptr();
        data(&self.first).wrapping_add(self.first.start)..data(&self.last).wrapping_add(self.last.end)
    }
}

/// The spans that cover these places.
fn spans(checkpoint: &Checkpoint, mut places: Vec<Mapped>) -> Vec<Span> {
    let file = |at: &Mapped| checkpoint.tensors()[at.tensor].file;
    let offset = |at: &Mapped| checkpoint.tensors()[at.tensor].offset;
    let (start, end) = (|at: &Mapped| offset(at) + at.start as u64, |at: &Mapped| offset(at) + at.end as u64);
    places.retain(|at| at.start < at.end);
    places.sort_by_key(|at| (file(at), start(at)));
    let mut spans: Vec<Span> = Vec::new();
    for place in places {
        match spans.last_mut() {
            Some(span) if file(&span.last) == file(&place) && start(&place) <= end(&span.last) + GAP => {
                if end(&place) > end(&span.last) {
                    span.last = place;
                }
                span.bytes = end(&span.last) - start(&span.first);
            }
            _ => spans.push(Span { first: place, last: place, bytes: end(&place) - start(&place) }),
        }
    }
    spans
}

/// A block, or the head.
#[derive(Debug)]
pub(super) struct Unit {
    /// What every token reads.
    common: Vec<Span>,
    /// Experts; a token reads some of them.
    experts: Vec<Span>,
    /// How many there are, and how many a token chooses.
    mixture: (usize, usize),
}

impl Unit {
    /// Bytes if all of it is resident.
    pub fn bytes(&self) -> u64 {
        self.common.iter().chain(&self.experts).map(|span| span.bytes + ENDS).sum()
    }

    /// Bytes that one token reads.
    pub fn read_by_a_token(&self) -> u64 {
        let sum = |spans: &[Span]| spans.iter().map(|span| span.bytes).sum::<u64>();
        let (count, used) = self.mixture;
        sum(&self.common) + sum(&self.experts) * used as u64 / (count as u64).max(1)
    }

    /// What to read ahead for this many tokens: experts only where most will be chosen.
    pub fn spans(&self, tokens: usize) -> Vec<Span> {
        let (count, used) = self.mixture;
        let most = tokens.saturating_mul(used) >= 2 * count;
        self.common.iter().chain(self.experts.iter().filter(|_| most)).copied().collect()
    }

    pub fn release(&self, checkpoint: &Checkpoint) {
        let all = self.common.iter().chain(&self.experts);
        all.for_each(|span| checkpoint.release(span.addresses(checkpoint)));
    }
}

/// The units of a model: its blocks in order, then the head.
pub(super) fn units(checkpoint: &Checkpoint, weights: &Weights) -> Vec<Unit> {
    let places = |linears: &[&Linear]| {
        let mapped = linears.iter().filter_map(|l| l.mapped).collect();
        spans(checkpoint, mapped)
    };
    let unit = |common: &[&Linear], experts: &[&Linear], mixture| Unit {
        common: places(common),
        experts: places(experts),
        mixture,
    };
    let blocks = weights.blocks.iter().map(|block| match block.mixture() {
        None => unit(&block.linears(), &[], (0, 0)),
        Some(experts) => {
            let (own, common): (Vec<&Linear>, Vec<&Linear>) =
                block.linears().into_iter().partition(|l| l.expert.is_some());
            let common = common.into_iter().chain(experts.routers()).collect::<Vec<_>>();
            unit(&common, &own, (experts.experts.len(), weights.experts_used))
        }
    });
    let head = weights.embedding_out.iter().chain([&weights.output]).collect::<Vec<_>>();
    blocks.chain([unit(&head, &[], (0, 0))]).collect()
}

/// What a pass looks rows up in before the first block, and reads with them.
#[derive(Debug)]
pub(super) struct Tables {
    spans: Vec<Span>,
    /// Bytes that a row takes, with what the system maps around it, in all tables.
    row: u64,
    /// Bytes that every pass reads.
    fixed: u64,
    /// Whether the head is the embedding.
    pub tied: bool,
}

impl Tables {
    pub fn new(checkpoint: &Checkpoint, weights: &Weights) -> Self {
        let tables = [Some(&weights.embedding), weights.positions.as_ref()];
        let projection = weights.embedding_in.as_ref().and_then(|l| l.mapped);
        let row = |w: &&Weight| w.mapped.map_or(0, |_| (w.bytes() / w.rows().max(1) as u64) + AROUND);
        let places = tables.into_iter().flatten().filter_map(|w| w.mapped).chain(projection).collect();
        Self {
            spans: spans(checkpoint, places),
            row: tables.iter().flatten().map(row).sum(),
            fixed: projection.map_or(0, |at| (at.end - at.start) as u64 + ENDS),
            tied: weights.tied,
        }
    }

    /// Bytes of all of them.
    pub fn bytes(&self) -> u64 {
        self.spans.iter().map(|span| span.bytes + ENDS).sum()
    }

    /// Bytes that this many tokens make resident, at most.
    pub fn touched_by(&self, tokens: usize) -> u64 {
        self.row.saturating_mul(tokens as u64).saturating_add(self.fixed).min(self.bytes())
    }

    pub fn release(&self, checkpoint: &Checkpoint) {
        self.spans.iter().for_each(|span| checkpoint.release(span.addresses(checkpoint)));
    }
}
