//! What the jobs that round tensor by tensor say: bitsandbytes' schemes, FP8 and the integers of compressed-tensors.

use std::path::Path;
use std::process::ExitCode;

use serde_json::json;

use super::super::record::Done;
use super::super::{Outcome, print, print_json};
use crate::format;

/// A dry run.
pub struct Planned<'a> {
    pub scheme: &'static str,
    pub bits_per_weight: f64,
    pub source_bytes: u64,
    pub bytes: u64,
    pub rows: Vec<Row<'a>>,
}

/// One of its tensors.
pub struct Row<'a> {
    pub name: &'a str,
    pub shape: &'a [usize],
    pub from: &'static str,
    pub to: &'static str,
    pub bytes: u64,
}

/// A job that is done.
pub struct Written<'a> {
    pub output: &'a Path,
    pub scheme: &'static str,
    pub bits_per_weight: f64,
    /// How many tensors were quantized, of so many.
    pub quantized: (usize, usize),
    pub source_bytes: u64,
    pub file_size: u64,
    pub seconds: f64,
}

impl Planned<'_> {
    /// One row a tensor, and the total.
    pub fn show(&self, json: bool) -> Outcome {
        let Self { scheme, bits_per_weight, .. } = self;
        if json {
            let tensors = self.rows.iter().map(
                |r| json!({"name": r.name, "shape": r.shape, "from": r.from, "to": r.to, "bytes": r.bytes}),
            );
            print_json(&json!({
                "scheme": scheme,
                "file_size": self.bytes,
                "bits_per_weight": bits_per_weight,
                "tensors": tensors.collect::<Vec<_>>(),
            }))?;
        } else {
            let rows = self.rows.iter().map(|r| {
                let (shape, bytes) = (format::shape(r.shape), format::bytes(r.bytes));
                vec![r.name.to_owned(), shape, r.from.to_owned(), r.to.to_owned(), bytes]
            });
            print(&format!(
                "{}\n\ntotal: {} to {}, {bits_per_weight:.2} bits per weight\n",
                format::table(&["tensor", "shape", "from", "to", "size"], &[1, 4], rows),
                format::bytes(self.source_bytes),
                format::bytes(self.bytes),
            ))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Written<'_> {
    /// One line, with what came after the job.
    pub fn show(&self, done: &Done, json: bool) -> Outcome {
        let Self { output, scheme, bits_per_weight, seconds, .. } = self;
        let (quantized, tensors) = self.quantized;
        if json {
            let mut result = json!({
                "output": output,
                "scheme": scheme,
                "file_size": self.file_size,
                "bits_per_weight": bits_per_weight,
                "tensors_quantized": quantized,
                "seconds": seconds,
            });
            done.add_to(&mut result)?;
            print_json(&result)?;
        } else {
            print(&format!(
                "{}: {scheme}, {quantized} of {tensors} tensors quantized, {} to {}, {bits_per_weight:.2} bits per weight, in {seconds:.1} s\n",
                output.display(),
                format::bytes(self.source_bytes),
                format::bytes(self.file_size),
            ))?;
            print(&done.text())?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
