//! The job: a Hugging Face checkpoint goes in, a quantized one comes out, tensor by tensor.
//!
//! The pieces of [`super::piece`] go through the shared streaming job. Memory holds a few batches of codes and the
//! scales of the tensors in them. Every block of rows is encoded alone, so neither threads nor pieces change a byte.

use std::path::Path;

use quern_model::hugging_face::{Directory, DirectoryOptions, text_model_config};
use quern_tensor_io::pipeline::{self, Limits};
use quern_tensor_io::{Checkpoint, Error, Progress, Result, output};

use super::piece::{Encoder, PIECE, Piece, Work};
use super::{Options, plan};
use crate::plain_source;

/// Pieces in a batch, for each thread.
const PIECES: usize = 16;
/// Bytes of a value in the source, at most.
const VALUE_BYTES: usize = 4;

/// What a job did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoundedReport {
    /// Tensors of the source.
    pub tensors: usize,
    /// How many of them were quantized.
    pub quantized: usize,
    /// Bytes of tensors read.
    pub source_bytes: u64,
    /// Bytes of the tensor files written.
    pub file_size: u64,
}

/// Quantizes `source` into the directory `out`, which appears when it is complete and not at all on an error.
///
/// Progress is counted in bytes of source tensors, [`source_bytes`](super::RoundedPlan::source_bytes) in all; steps are
/// tensor names.
///
/// # Errors
/// As [`plan`](super::plan); an existing `out`; a weight that is not finite, or too large.
pub fn quantize(
    source: &Checkpoint,
    out: &Path,
    options: Options,
    progress: &dyn Progress,
) -> Result<RoundedReport> {
    let view = plain_source::view(source, options.kind.name())?;
    let plan = plan::of_view(&view, &options)?;
    let inputs = options.inputs.clone().with_model(source);
    output::OutputDirectory::check(out, inputs.unless_read(options.force))?;
    output::require_space(out, plan.bytes(), "the output")?;
    let pool = pipeline::pool(options.threads, out)?;
    let encoder = Encoder::new(&view, &plan, &options);
    let directory = Directory::create(
        out,
        source,
        DirectoryOptions {
            tensors: plan.tensors.clone(),
            config: text_model_config(source.directory(), Some(&plan.quantization_config))?,
            force: options.force,
            inputs,
            shard_bytes: options.shard_bytes,
            ..DirectoryOptions::default()
        },
    )?;
    progress.total(plan.source_bytes());
    let batch = PIECE * PIECES * pool.current_num_threads();
    let limits = Limits { made: batch, counted: batch * VALUE_BYTES };
    let directory = pipeline::run(&encoder, source, encoder.pieces(), directory, (&pool, limits), progress)?;
    let figures = [("bits_per_weight", plan.bits_per_weight()), ("tensor_bytes", plan.bytes() as f64)];
    let provenance = options.provenance.map(|p| p.with_figures(figures));
    Ok(RoundedReport {
        tensors: plan.rows.len(),
        quantized: plan.rows.iter().filter(|r| r.quantized).count(),
        source_bytes: plan.source_bytes(),
        file_size: directory.finish_with(provenance)?,
    })
}

impl pipeline::Job for Encoder<'_> {
    type Work = Work;
    type Scratch = Vec<f32>;
    type Shared = ();
    type Output = Directory;
    type Error = Error;

    fn name(&self, tensor: usize) -> &str {
        self.row_name(tensor)
    }

    fn joins(&self, _: &Piece<'_>, next: &Piece<'_>) -> bool {
        next.work().is_none_or(|work| !work.needs_codes())
    }

    fn make(&self, _: usize, work: &Work, (): &(), values: &mut Vec<f32>, out: &mut [u8]) -> Result<()> {
        self.encode(work, values, out)
    }

    fn release(&self, _: usize, first: &Work, last: &Work) {
        self.release_codes(first, last);
    }

    fn write(&self, directory: &mut Directory, _: &Piece<'_>, data: &[u8]) -> Result<()> {
        directory.write(data)
    }
}
