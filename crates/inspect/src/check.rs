//! Checks integrity: every tensor the configuration demands is present with its shape, no others are, and every
//! value and scale is finite.
//!
//! A packed layer is checked as the weight it decodes to: by that weight's shape and values, not by its integers.

use std::collections::HashSet;

use quern_model::contents::Problem;
use quern_model::{Config, Contents, Tokenizer};
use quern_tensor_io::scheme::{PackedLayer, Packing};
use quern_tensor_io::{Checkpoint, Progress, TensorInfo, decode};
use rayon::prelude::*;
use serde::Serialize;

/// One thing that is wrong.
#[derive(Debug, Serialize)]
pub struct Finding {
    /// The tensor concerned; `None` for the model as a whole.
    pub tensor: Option<String>,
    /// What is wrong, in words.
    pub problem: String,
}

/// The extent and the findings of a check.
#[derive(Debug, Serialize)]
pub struct CheckReport {
    /// Number of tensors whose values were all read.
    pub tensors_checked: usize,
    /// Number of values read.
    pub values_checked: u64,
    /// Everything wrong; empty for a sound model.
    pub findings: Vec<Finding>,
    /// Notes that are not faults: tensors that no reader uses.
    pub notes: Vec<String>,
}

/// Values decoded at a time, per thread: whole blocks of every type, and small enough for the cache.
const SLAB: usize = 1 << 14;

/// Pages that have been read are released in files of this size and larger: for others it takes longer than it is worth.
const RELEASED_FROM: u64 = 256 << 20;

/// Checks `checkpoint` whole: structure against its configuration, then every value, on rayon's current
/// threads. Progress is in bytes of tensor data.
pub fn check(checkpoint: &Checkpoint, progress: &dyn Progress) -> CheckReport {
    let mut findings = Vec::new();
    let whole = |e: quern_tensor_io::Error| Finding { tensor: None, problem: e.to_string() };
    let mut notes = Vec::new();
    let mut left_out = HashSet::new();
    let packing = match (Config::from_checkpoint(checkpoint), Packing::read(checkpoint)) {
        (Ok(config), Ok(packing)) => {
            let contents = Contents::matched(checkpoint, config, packing);
            let finding =
                |p: &Problem| Finding { tensor: Some(p.tensor.clone()), problem: p.kind.to_string() };
            findings.extend(contents.problems().iter().map(finding));
            left_out.extend(contents.left_out().iter().map(|l| l.tensor));
            notes.extend(contents.note());
            Ok(contents.into_packing())
        }
        // The meaning of the tensors is not known.
        (Ok(_), Err(e)) => Err(e),
        (Err(e), packing) => {
            findings.push(whole(e));
            packing
        }
    };
    let unreadable = packing.is_err();
    let layers = packing.as_ref().ok().and_then(Option::as_ref).map_or(&[] as &[_], Packing::layers);
    let parts: HashSet<usize> = layers.iter().flat_map(|l| l.parts.iter().copied()).collect();
    if let Err(e) = Tokenizer::from_checkpoint(checkpoint) {
        findings.push(whole(e));
    }
    let tensors = checkpoint.tensors();
    let large = checkpoint.file_size() >= RELEASED_FROM;
    let release = |data: &[u8]| {
        if large {
            checkpoint.release(data.as_ptr_range());
        }
    };
    progress.total(tensors.iter().map(|t| t.bytes as u64).sum());
    let (mut tensors_checked, mut values_checked) = (0, 0);
    for (index, info) in tensors.iter().enumerate().filter(|(i, _)| !parts.contains(i)) {
        progress.step(&info.name);
        if left_out.contains(&index) {
            // of any type and value: a mask may well hold infinities
        } else if unreadable && !decode::can_decode(info.element_type) {
            // part of a layer that could not be read, already reported
        } else if !decode::can_decode(info.element_type) {
            let problem =
                format!("values of type {} cannot be checked: quern does not decode it", info.element_type);
            findings.push(Finding { tensor: Some(info.name.clone()), problem });
        } else {
            tensors_checked += 1;
            values_checked += info.elements() as u64;
            let data = checkpoint.data(info);
            if let Some(problem) = first_bad_value(data, info) {
                findings.push(Finding { tensor: Some(info.name.clone()), problem });
            }
            release(data);
        }
        progress.advance(info.bytes as u64);
    }
    for layer in layers {
        progress.step(&layer.name);
        values_checked += layer.rows as u64 * layer.columns as u64;
        if let Some(problem) = first_bad_weight(checkpoint, layer) {
            findings.push(Finding { tensor: Some(layer.name.clone()), problem });
        }
        for &part in &layer.parts {
            release(checkpoint.data(&tensors[part]));
        }
        progress.advance(layer.bytes as u64);
    }
    // Layers may share them.
    tensors_checked += parts.len();
    findings.extend(packing.err().map(whole));
    findings.extend(checkpoint.check_files().err().map(whole));
    CheckReport { tensors_checked, values_checked, findings, notes }
}

/// The message about `count` values that are not finite, the first at `at`.
fn not_finite(count: usize, at: usize, columns: usize) -> String {
    let columns = columns.max(1);
    format!(
        "has {count} values that are not finite, the first in row {}, column {} (a damaged file, or an overflow \
         when it was made)",
        at / columns,
        at % columns
    )
}

/// Looks for values that are not finite in the weight that a packed layer stands for.
fn first_bad_weight(checkpoint: &Checkpoint, layer: &PackedLayer) -> Option<String> {
    const ROWS: usize = 64;
    let starts = (0..layer.rows).into_par_iter().step_by(ROWS);
    let (count, first) = starts
        .map_init(
            || vec![0.0f32; ROWS.min(layer.rows) * layer.columns],
            |values, start| {
                let rows = start..layer.rows.min(start + ROWS);
                let values = &mut values[..rows.len() * layer.columns];
                layer.decode(checkpoint, rows, values);
                bad_values(values, start * layer.columns)
            },
        )
        .reduce(|| (0, None), earlier);
    Some(not_finite(count, first?, layer.columns))
}

/// How many of some values are not finite, and where the first is, if they begin at `offset`.
fn bad_values(values: &[f32], offset: usize) -> (usize, Option<usize>) {
    let count = values.iter().filter(|v| !v.is_finite()).count();
    (count, values.iter().position(|v| !v.is_finite()).map(|at| offset + at))
}

fn earlier(a: (usize, Option<usize>), b: (usize, Option<usize>)) -> (usize, Option<usize>) {
    (a.0 + b.0, a.1.into_iter().chain(b.1).min())
}

/// The place of the first value that is not finite, with the number of such values.
fn first_bad_value(data: &[u8], info: &TensorInfo) -> Option<String> {
    let block = info.element_type.block_elements();
    let slab = SLAB / block * info.element_type.block_bytes();
    let (count, first) = data
        .par_chunks(slab)
        .enumerate()
        .map_init(
            || vec![0.0f32; SLAB],
            |values, (chunk, bytes)| {
                let values = &mut values[..bytes.len() / info.element_type.block_bytes() * block];
                if !decode::to_f32(info.element_type, bytes, values) {
                    return (values.len(), Some(chunk * SLAB));
                }
                bad_values(values, chunk * SLAB)
            },
        )
        .reduce(|| (0, None), earlier);
    Some(not_finite(count, first?, info.columns()))
}
