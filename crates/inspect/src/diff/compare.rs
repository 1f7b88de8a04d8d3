//! The streaming comparison of two checkpoints' tensors.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::OnceLock;

use quern_model::pattern::NamePattern;
use quern_model::{Pair, SideBySide, View, ViewTensor};
use quern_tensor_io::scheme::PackedLayer;
use quern_tensor_io::{Checkpoint, Progress, Result, pipeline};

use super::matching::{Matched, Matches, reason};
use super::measure::Sums;
use super::report::{Lone, Status, Stored, TensorDiff, TensorTotals, Tensors};
use super::views::{Side, Views};

/// Values decoded at a time.
const VALUES: usize = 64 * 1024;

/// What is compared, and how.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Number of threads, 0 for one for each processor. Results do not depend on it.
    pub threads: usize,
    /// Only tensors whose name (in the comparison's naming) this finds.
    pub only: Option<NamePattern>,
    /// A tensor whose relative RMSE is no more than this counts as the same.
    pub tolerance: Option<f64>,
}

impl Options {
    fn wants(&self, name: &str) -> bool {
        self.only.as_ref().is_none_or(|only| only.is_match(name))
    }

    fn tolerates(&self, sums: &Sums) -> bool {
        let near = |tolerance: f64| sums.relative_rmse().is_some_and(|error| error <= tolerance);
        sums.not_finite_different == 0 && self.tolerance.is_some_and(near)
    }
}

/// Compares all tensors of `a` and `b`, whatever their containers and schemes. Packed layers are decoded. Progress is in
/// bytes of B's tensors.
///
/// Memory does not grow with the models: both are read in pieces, and their pages are released behind them.
///
/// # Errors
/// A quantization that cannot be read; the threads cannot be started. Tensors that are missing, unknown or of another
/// shape are no error.
pub fn tensors(
    a: &Checkpoint,
    b: &Checkpoint,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Tensors> {
    let pool = pipeline::pool(options.threads, a.path())?;
    let views = Views::new(a, b)?;
    let matches = Matches::new(&views, |name| options.wants(name));
    let sides = SideBySide { a: &views.a.view, b: &views.b.view };

    // In the order of A's file, which is read from beginning to end.
    let mut place = vec![0; sides.a.tensors().len()];
    sides.a.file_order().into_iter().enumerate().for_each(|(at, index)| place[index] = at);
    let mut order: Vec<usize> = (0..matches.pairs.len()).filter(|&n| matches.pairs[n].same_shape).collect();
    order.sort_by_key(|&n| place[matches.pairs[n].pair.a]);
    let pairs: Vec<Pair> = order.iter().map(|&n| matches.pairs[n].pair).collect();

    let comparison = Comparison { sides, packed: pairs.iter().map(|_| OnceLock::new()).collect() };
    let mut found: Vec<Found> = vec![Found::default(); matches.pairs.len()];
    progress.total(sides.bytes(&pairs));
    sides.walk(
        &pairs,
        |_| false,
        (&pool, progress),
        |scratch, number, rows| comparison.piece(scratch, number, pairs[number], rows),
        |number, piece| found[order[number]].merge(&piece),
    );

    let mut sums = Sums::default();
    let mut totals = TensorTotals::default();
    let mut values_b = 0;
    let diffs: Vec<TensorDiff> = matches
        .pairs
        .iter()
        .zip(&found)
        .map(|(matched, found)| {
            let diff = described(sides, matched, found, options);
            sums.merge(&found.sums);
            totals.count(&diff);
            values_b += diff.b.shape.iter().map(|&d| d as u64).product::<u64>();
            diff
        })
        .collect();
    let lone = |side: &Side<'_>, other: &Side<'_>, numbers: &[usize]| -> Vec<Lone> {
        let tensors = numbers.iter().map(|&number| &side.view.tensors()[number]);
        let lone = |tensor: &ViewTensor| Lone {
            name: tensor.name.clone(),
            stored: stored(&side.view, tensor),
            reason: reason(side, other, tensor),
        };
        tensors.map(lone).collect()
    };
    let only_a = lone(&views.a, &views.b, &matches.only_a);
    let only_b = lone(&views.b, &views.a, &matches.only_b);
    let unexplained = |lone: &[Lone]| lone.iter().filter(|l| l.reason.is_none()).count();
    let values = diffs.iter().map(|d| d.values).sum::<u64>();
    let bits = |bytes: u64, values: u64| if values == 0 { 0.0 } else { bytes as f64 * 8.0 / values as f64 };
    let totals = TensorTotals {
        only_a: unexplained(&only_a),
        only_b: unexplained(&only_b),
        values: sums.values,
        different_values: sums.different,
        not_finite_a: sums.not_finite_a,
        not_finite_b: sums.not_finite_b,
        rmse: sums.rmse(),
        relative_rmse: sums.relative_rmse(),
        cosine: sums.cosine(),
        bits_a: bits(totals.bytes_a, values),
        bits_b: bits(totals.bytes_b, values_b),
        ..totals
    };
    Ok(Tensors { naming: views.naming, totals, tensors: diffs, only_a, only_b, notes: views.notes })
}

impl TensorTotals {
    fn count(&mut self, diff: &TensorDiff) {
        self.tensors += 1;
        self.bytes_a += diff.a.bytes;
        self.bytes_b += diff.b.bytes;
        *match diff.status {
            Status::SameBytes => &mut self.same_bytes,
            Status::EqualValues => &mut self.equal_values,
            Status::WithinTolerance => &mut self.within_tolerance,
            Status::Different => &mut self.different,
            Status::Shape => &mut self.shape,
        } += 1;
    }
}

/// What was found of a tensor, or of some of its rows.
#[derive(Clone, Debug, Default)]
struct Found {
    sums: Sums,
    other_bytes: bool,
    /// There is no decoder for the type, and the bytes differ.
    undecoded: bool,
    /// There is no decoder for the type.
    opaque: bool,
}

impl Found {
    fn merge(&mut self, later: &Self) {
        self.sums.merge(&later.sums);
        self.other_bytes |= later.other_bytes;
        self.undecoded |= later.undecoded;
        self.opaque |= later.opaque;
    }

    fn status(&self, options: &Options) -> Status {
        if self.undecoded {
            Status::Different
        } else if !self.other_bytes {
            Status::SameBytes
        } else if self.sums.different == 0 {
            Status::EqualValues
        } else if options.tolerates(&self.sums) {
            Status::WithinTolerance
        } else {
            Status::Different
        }
    }
}

/// Values that a thread decodes.
#[derive(Default)]
struct Scratch {
    a: Vec<f32>,
    b: Vec<f32>,
}

struct Comparison<'v, 'a, 'b> {
    sides: SideBySide<'v, 'a, 'b>,
    /// Whether the parts of a pair of packed layers are the same, by the number of the pair.
    packed: Vec<OnceLock<bool>>,
}

impl Comparison<'_, '_, '_> {
    fn piece(&self, scratch: &mut Scratch, number: usize, pair: Pair, rows: Range<usize>) -> Found {
        let (a, _) = self.sides.tensors(pair);
        let mut found = Found::default();
        // Pieces that both maps hold are larger than what is decoded at a time.
        let step = match self.sides.mapped(pair) {
            Some(_) => (VALUES / a.columns().max(1)).max(1),
            None => rows.len().max(1),
        };
        for start in rows.clone().step_by(step) {
            self.rows(scratch, number, pair, start..rows.end.min(start + step), &mut found);
        }
        found
    }

    fn rows(&self, scratch: &mut Scratch, number: usize, pair: Pair, rows: Range<usize>, found: &mut Found) {
        let (a, b) = self.sides.tensors(pair);
        let same = match self.sides.mapped(pair) {
            Some((a_bytes, b_bytes)) => {
                let span = rows.start * a.row_bytes..rows.end * a.row_bytes;
                a_bytes[span.clone()] == b_bytes[span]
            }
            None if a.packed && b.packed => *self.packed[number].get_or_init(|| self.same_parts(a, b)),
            None => false,
        };
        found.other_bytes |= !same;
        let values = rows.len() * a.columns();
        let offset = rows.start as u64 * a.columns() as u64;
        scratch.a.resize(values, 0.0);
        scratch.b.resize(values, 0.0);
        let (of_a, of_b) = (&mut scratch.a[..values], &mut scratch.b[..values]);
        if !self.sides.a.decode(pair.a, rows.clone(), of_a) {
            return self.opaque(pair, rows, found);
        }
        // Packed layers are decoded in any case: what their parts mean depends on the configuration.
        if same && !a.packed {
            return found.sums.add_same(offset, of_a);
        }
        if !self.sides.b.decode(pair.b, rows.clone(), of_b) {
            return self.opaque(pair, rows, found);
        }
        found.sums.add(offset, of_a, of_b);
    }

    /// Rows of a type without decoder.
    fn opaque(&self, pair: Pair, rows: Range<usize>, found: &mut Found) {
        let (a, b) = self.sides.tensors(pair);
        let values = (rows.len() * a.columns()) as u64;
        found.opaque = true;
        found.sums.values += values;
        let mut bytes = [vec![0; rows.len() * a.row_bytes], vec![0; rows.len() * b.row_bytes]];
        let [of_a, of_b] = &mut bytes;
        self.sides.a.read(pair.a, rows.clone(), of_a);
        self.sides.b.read(pair.b, rows, of_b);
        if a.element_type != b.element_type {
            (found.undecoded, found.sums.different) = (true, found.sums.different + values);
        } else if of_a != of_b {
            found.undecoded = true;
            let size = a.element_type.block_bytes();
            let blocks = of_a.chunks(size).zip(of_b.chunks(size)).filter(|(a, b)| a != b).count();
            found.sums.different += (blocks * a.element_type.block_elements()) as u64;
        }
    }

    fn same_parts(&self, a: &ViewTensor, b: &ViewTensor) -> bool {
        let (of_a, of_b) = (self.sides.a.packed_layers(a), self.sides.b.packed_layers(b));
        let same = |a: usize, b: usize| {
            let (of_a, of_b) = (self.sides.a.checkpoint(), self.sides.b.checkpoint());
            let (a, b) = (&of_a.tensors()[a], &of_b.tensors()[b]);
            a.element_type == b.element_type && a.shape == b.shape && of_a.data(a) == of_b.data(b)
        };
        // Experts may share their tensors.
        let parts = |layers: &[&PackedLayer]| -> Vec<usize> {
            let mut all: Vec<usize> = layers.iter().flat_map(|layer| layer.parts.iter().copied()).collect();
            all.dedup();
            let mut seen = HashSet::new();
            all.retain(|part| seen.insert(*part));
            all
        };
        let alike = |(a, b): (&&PackedLayer, &&PackedLayer)| a.parts.len() == b.parts.len();
        self.sides.a.stored_as(a) == self.sides.b.stored_as(b)
            && of_a.len() == of_b.len()
            && of_a.iter().zip(&of_b).all(alike)
            && parts(&of_a).iter().zip(parts(&of_b)).all(|(&a, b)| same(a, b))
    }
}

fn described(
    sides: SideBySide<'_, '_, '_>,
    matched: &Matched,
    found: &Found,
    options: &Options,
) -> TensorDiff {
    let (a, b) = sides.tensors(matched.pair);
    // The head of a model that has none is its embedding.
    let named = if matched.tied == Some("A") { b } else { a };
    TensorDiff {
        name: named.name.clone(),
        role: named.role,
        layer: named.layer,
        status: if matched.same_shape { found.status(options) } else { Status::Shape },
        values: a.shape.iter().map(|&d| d as u64).product(),
        a: stored(sides.a, a),
        b: stored(sides.b, b),
        tied: matched.tied,
        errors: (matched.same_shape && !found.opaque).then(|| found.sums.errors(&a.shape)),
    }
}

fn stored(view: &View<'_>, tensor: &ViewTensor) -> Stored {
    let values = tensor.shape.iter().map(|&d| d as f64).product::<f64>();
    let source = tensor.sources.first().and_then(|name| view.checkpoint().tensor(name));
    let bytes = match source {
        _ if tensor.packed => view.packed_layers(tensor).iter().map(|layer| layer.bytes as u64).sum(),
        // Of a tensor that holds several, this one's share.
        Some(source) => (values * source.info.element_type.bits_per_element() / 8.0).round() as u64,
        None => 0,
    };
    Stored {
        tensors: tensor.sources.clone(),
        kind: view.stored_as(tensor),
        shape: tensor.shape.clone(),
        bytes,
        bits: if values == 0.0 { 0.0 } else { bytes as f64 * 8.0 / values },
    }
}
