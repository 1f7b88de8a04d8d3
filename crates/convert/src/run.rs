//! Runs a plan: the pieces of [`crate::piece`] through the shared streaming job.

use std::path::Path;

use quern_tensor_io::pipeline::{self, Limits};
use quern_tensor_io::scheme::Repacked;
use quern_tensor_io::{Progress, Result, output as disk};

use crate::Error;
use crate::piece::{self, Piece, Work};
use crate::plan::{Content, ConvertPlan, inexact};
use crate::sink::Sink;

/// A batch is full when so many bytes of it are made …
const MADE_BYTES: usize = 8 << 20;
/// … or are in it altogether. With many threads both grow, so that every thread finds several pieces in a batch.
const BATCH_BYTES: usize = 32 << 20;
const THREAD_BYTES: usize = 2 << 20;

/// What a job did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvertReport {
    /// Tensors written.
    pub tensors: usize,
    /// Bytes of them.
    pub tensor_bytes: u64,
    /// Bytes of the tensor files.
    pub file_size: u64,
}

/// Runs `plan` and writes `output`, which appears when it is complete and not at all on an error.
///
/// Progress is counted in bytes of the output's tensors ([`ConvertPlan::tensor_bytes`] in all); steps are tensor names.
///
/// # Errors
/// The output exists (without [`crate::Options::force`]), is the source, or cannot be written; a value does not
/// fit the type asked for.
pub fn run(plan: &ConvertPlan<'_>, output: &Path, progress: &dyn Progress) -> Result<ConvertReport> {
    let pool = pipeline::pool(plan.options.threads, output)?;
    let bytes = plan.files(output)?.iter().map(|(_, bytes)| bytes).sum();
    disk::require_space(output, bytes, "the output")?;
    let sink = Sink::create(plan, output)?;
    progress.total(plan.tensor_bytes());
    let threads = pool.current_num_threads();
    let limits = Limits {
        made: MADE_BYTES.max(threads * THREAD_BYTES),
        counted: BATCH_BYTES.max(threads * THREAD_BYTES),
    };
    let job = Job { plan };
    let sink = pipeline::run(&job, plan.source(), piece::pieces(plan), sink, (&pool, limits), progress)?;
    let file_size = sink.finish()?;
    Ok(ConvertReport { tensors: plan.rows().len(), tensor_bytes: plan.tensor_bytes(), file_size })
}

/// A plan being run.
struct Job<'p> {
    plan: &'p ConvertPlan<'p>,
}

impl Job<'_> {
    /// The packed layer a piece is of, if it is repacked.
    fn layer_of(&self, piece: &Piece<'_>) -> Option<usize> {
        match self.plan.rows()[piece.tensor].content {
            Content::Packed { layer, .. } => Some(layer),
            Content::View(_) => None,
        }
    }

    /// Whether no other tensor of the packed layer comes after this one.
    fn is_last(&self, tensor: usize) -> bool {
        let layer = |tensor: usize| match self.plan.rows().get(tensor)?.content {
            Content::Packed { layer, .. } => Some(layer),
            Content::View(_) => None,
        };
        layer(tensor) != layer(tensor + 1)
    }
}

impl<'p> pipeline::Job for Job<'p> {
    type Work = Work;
    type Scratch = Vec<f32>;
    /// The packed layer at work: its number, and its tensors as the target has them.
    type Shared = Option<(usize, Repacked<'p>)>;
    type Output = Sink;
    type Error = Error;

    fn name(&self, tensor: usize) -> &str {
        &self.plan.rows()[tensor].name
    }

    /// A batch has pieces of one packed layer at most: its scales and zero points are kept meanwhile.
    fn joins(&self, first: &Piece<'_>, next: &Piece<'_>) -> bool {
        self.layer_of(next).is_none_or(|layer| self.layer_of(first) == Some(layer))
    }

    fn share(&self, first: &Piece<'_>, shared: &mut Self::Shared) -> Result<()> {
        let (Some(number), Some(packing), Some(format)) =
            (self.layer_of(first), &self.plan.packing, self.plan.code_format())
        else {
            return Ok(());
        };
        if shared.as_ref().is_none_or(|(current, _)| *current != number) {
            let source = self.plan.source();
            let tensors =
                packing.layers()[number].repacked(source, format).map_err(|e| inexact(source, &e))?;
            *shared = Some((number, tensors));
        }
        Ok(())
    }

    fn make(
        &self,
        tensor: usize,
        rows: &Work,
        shared: &Self::Shared,
        scratch: &mut Vec<f32>,
        out: &mut [u8],
    ) -> Result<()> {
        let layer = shared.as_ref().map(|(_, tensors)| tensors);
        piece::make(self.plan, tensor, rows, layer, scratch, out)
    }

    fn release(&self, tensor: usize, first: &Work, last: &Work) {
        match self.plan.rows()[tensor].content {
            Content::View(index) => self.plan.view.release(index, first.start..last.end),
            // The last of its parts: the layer is done.
            Content::Packed { layer, .. } if self.is_last(tensor) => {
                let source = self.plan.source();
                for &part in self.plan.packing.iter().flat_map(|p| &p.layers()[layer].parts) {
                    source.release(source.data(&source.tensors()[part]).as_ptr_range());
                }
            }
            Content::Packed { .. } => {}
        }
    }

    fn write(&self, sink: &mut Sink, _: &Piece<'_>, data: &[u8]) -> Result<()> {
        sink.write(data)
    }
}
