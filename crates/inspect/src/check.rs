//! Integrity: every tensor the configuration demands is there with its shape, nothing else is, and every
//! value and scale is finite.

use std::collections::HashMap;

use quern_model::{Config, Tokenizer, is_redundant};
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

/// What a check looked at and found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Number of tensors whose values were all read.
    pub tensors_checked: usize,
    /// Number of values read.
    pub values_checked: u64,
    /// Everything wrong; empty for a sound model.
    pub findings: Vec<Finding>,
}

/// Values decoded at a time, per thread: whole blocks of every type, and small enough for the cache.
const SLAB: usize = 1 << 14;

/// Checks `checkpoint` whole: structure against its configuration, then every value, on rayon's current
/// threads. Progress is in bytes of tensor data.
pub fn check(checkpoint: &Checkpoint, progress: &dyn Progress) -> Report {
    let mut findings = Vec::new();
    match Config::from_checkpoint(checkpoint) {
        Ok(config) => structure(checkpoint, &config, &mut findings),
        Err(e) => findings.push(Finding { tensor: None, problem: e.to_string() }),
    }
    if let Err(e) = Tokenizer::from_checkpoint(checkpoint) {
        findings.push(Finding { tensor: None, problem: e.to_string() });
    }
    let tensors = checkpoint.tensors();
    progress.total(tensors.iter().map(|t| t.bytes as u64).sum());
    let (mut tensors_checked, mut values_checked) = (0, 0);
    for info in tensors {
        progress.step(&info.name);
        if !decode::can_decode(info.element_type) {
            let problem =
                format!("values of type {} are not checked: quern cannot decode it yet", info.element_type);
            findings.push(Finding { tensor: Some(info.name.clone()), problem });
        } else {
            tensors_checked += 1;
            values_checked += info.elements() as u64;
            if let Some(problem) = first_bad_value(checkpoint.data(info), info) {
                findings.push(Finding { tensor: Some(info.name.clone()), problem });
            }
        }
        progress.advance(info.bytes as u64);
    }
    Report { tensors_checked, values_checked, findings }
}

/// Names and shapes against the configuration.
fn structure(checkpoint: &Checkpoint, config: &Config, findings: &mut Vec<Finding>) {
    let expected = config.expected_tensors(config.world);
    let mut extra: HashMap<&str, &TensorInfo> =
        checkpoint.tensors().iter().map(|t| (t.name.as_str(), t)).collect();
    for tensor in &expected {
        let problem = match extra.remove(tensor.name.as_str()) {
            None if tensor.optional => continue,
            None => format!("is missing; the configuration demands it with shape {:?}", tensor.shape),
            Some(found) if found.shape != tensor.shape => {
                format!("has shape {:?}, the configuration demands {:?}", found.shape, tensor.shape)
            }
            Some(_) => continue,
        };
        findings.push(Finding { tensor: Some(tensor.name.clone()), problem });
    }
    for info in checkpoint.tensors() {
        let name = info.name.as_str();
        if extra.contains_key(name) && !is_redundant(name) {
            let problem =
                format!("is not part of a {} model of this configuration", config.architecture.name);
            findings.push(Finding { tensor: Some(name.to_owned()), problem });
        }
    }
}

/// Where the first value that is not finite stands, with the number of such values.
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
                let bad = values.iter().filter(|v| !v.is_finite()).count();
                (bad, values.iter().position(|v| !v.is_finite()).map(|at| chunk * SLAB + at))
            },
        )
        .reduce(|| (0, None), |a, b| (a.0 + b.0, a.1.into_iter().chain(b.1).min()));
    let at = first?;
    let columns = info.columns().max(1);
    Some(format!(
        "has {count} values that are not finite, the first in row {}, column {} (a damaged file, or an overflow \
         when it was made)",
        at / columns,
        at % columns
    ))
}
