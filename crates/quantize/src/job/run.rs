//! Runs a plan: the pieces of [`super::piece`] through the shared streaming job.

use std::ops::Range;
use std::path::Path;

use quern_tensor_io::pipeline::{self, Limits};
use quern_tensor_io::{Progress, gguf, output};

use super::made::{Made, Nothing};
use super::piece::{self, Piece};
use super::{Error, QuantizePlan};

/// A batch is full when it has so much output …
const BATCH_BYTES: usize = 16 << 20;
/// … or so much input, whose pages stay in memory until the batch is done. With many threads both grow,
/// so that every thread finds several pieces in a batch.
const BATCH_SOURCE_BYTES: usize = 32 << 20;
const THREAD_SOURCE_BYTES: usize = 1 << 20;

/// What a job did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuantizeReport {
    /// Tensors written.
    pub tensors: usize,
    /// Bytes of tensors read.
    pub source_bytes: u64,
    /// Bytes of tensors written.
    pub tensor_bytes: u64,
    /// Bytes of the output file.
    pub file_size: u64,
}

/// Runs `plan` and writes `output`, which appears when it is complete and not at all on an error.
///
/// Progress is counted in bytes of source tensors ([`QuantizePlan::source_bytes`] in all); steps are tensor names.
///
/// # Errors
/// What can be planned but not run (a type that needs an importance matrix, a source that is quantized already); an
/// output that exists (without [`super::Options::force`]), is an input, or cannot be written; a value that is not
/// finite or too large for its type.
pub fn run(plan: &QuantizePlan<'_>, output: &Path, progress: &dyn Progress) -> Result<QuantizeReport, Error> {
    run_with(plan, &Nothing, output, progress)
}

/// As [`run`], where some tensors were made before.
pub(crate) fn run_with(
    plan: &QuantizePlan<'_>,
    made: &dyn Made,
    output: &Path,
    progress: &dyn Progress,
) -> Result<QuantizeReport, Error> {
    plan.check()?;
    let source = plan.view.checkpoint();
    let options = &plan.options;
    let mut inputs = options.inputs.clone().with_model(source);
    if let Some(imatrix) = options.imatrix.as_ref().filter(|imatrix| imatrix.is_file()) {
        inputs.add_file("the importance matrix", imatrix.file());
    }
    inputs.refuse_file(output)?;
    output::require_space(output, plan.file_size(), "the output")?;
    let pool = pipeline::pool(options.threads, output)?;
    let writer =
        gguf::Writer::create(output, &plan.metadata, &plan.tensors, inputs.unless_read(options.force))?;
    progress.total(plan.source_bytes());
    let threads = pool.current_num_threads();
    let limits = Limits {
        made: BATCH_BYTES.max(threads * THREAD_SOURCE_BYTES / 2),
        counted: BATCH_SOURCE_BYTES.max(threads * THREAD_SOURCE_BYTES),
    };
    let job = Job { plan, made };
    let writer = pipeline::run(&job, source, piece::pieces(plan), writer, (&pool, limits), progress)?;
    made.check()?;
    let file_size = writer.finish()?;
    Ok(QuantizeReport {
        tensors: plan.rows().len(),
        source_bytes: plan.source_bytes(),
        tensor_bytes: plan.tensor_bytes(),
        file_size,
    })
}

/// A plan being run.
struct Job<'p> {
    plan: &'p QuantizePlan<'p>,
    made: &'p dyn Made,
}

impl pipeline::Job for Job<'_> {
    type Work = Range<usize>;
    type Scratch = Vec<f32>;
    type Shared = ();
    type Output = gguf::Writer;
    type Error = Error;

    fn name(&self, tensor: usize) -> &str {
        &self.plan.rows()[tensor].name
    }

    fn make(
        &self,
        tensor: usize,
        rows: &Range<usize>,
        (): &(),
        values: &mut Vec<f32>,
        out: &mut [u8],
    ) -> Result<(), Error> {
        piece::encode((self.plan, self.made), tensor, rows, values, out)
    }

    fn release(&self, tensor: usize, first: &Range<usize>, last: &Range<usize>) {
        self.made.release(tensor, first.start..last.end);
        self.plan.view.release(self.plan.rows()[tensor].index, first.start..last.end);
    }

    fn write(&self, output: &mut gguf::Writer, _: &Piece<'_>, data: &[u8]) -> quern_tensor_io::Result<()> {
        output.write(data)
    }
}
