//! The common part of the jobs: the calibration text is run block by block, every group of layers is quantized as it is
//! reached, and finished blocks of a run that was stopped are taken over.

use std::path::Path;

use quern_run::{Layerwise, Model};
use quern_tensor_io::Progress;
use quern_tensor_io::output::{OutputFile, require_space};

use super::block::{Quantize, Replay};
use super::inputs::Collected;
use super::state::{BlockRecord, HIDDEN_EVERY, HIDDEN_EVERY_ON_GPUS, Identity, Opened, State};
use super::target::{Target, Work};
use super::{Calibration, Error, Place, imatrix};

/// A job that is to be done.
pub(super) struct Job<'a> {
    pub model: &'a Model,
    pub calibration: &'a Calibration,
    pub output: &'a Path,
    pub progress: &'a dyn Progress,
    /// Layers that will be quantized: the total of the progress, with what is made before the blocks.
    pub layers: usize,
    /// What is made before the blocks.
    pub before: usize,
    /// Where it is computed.
    pub place: &'a Place,
    /// Bytes on the disk before the unfinished run is removed.
    pub disk_bytes: u64,
}

/// All blocks, quantized.
pub(super) struct Blocks<R> {
    /// Where they are kept.
    pub state: State,
    /// In order; what follows the blocks comes last, where the target wants it.
    pub records: Vec<BlockRecord<R>>,
    /// Those that an earlier run had finished.
    pub resumed: usize,
    /// What was found damaged and was done again, and what was done elsewhere than planned.
    pub damage: Vec<String>,
}

impl Job<'_> {
    /// Quantizes what `target` wants.
    pub fn run<T: Target>(&self, target: &T, identity: &Identity<'_>) -> Result<Blocks<T::Report>, Error> {
        let &Self { model, calibration, output, progress, .. } = self;
        let kept = State::kept(output, identity.kind);
        require_space(output, self.disk_bytes.saturating_sub(kept), "the output with its unfinished run")?;
        let Opened { mut state, finished: mut records, damage } = State::open(output, identity)?;
        let resumed = records.len();
        progress.total((self.before + self.layers) as u64);
        let work = Work { pool: model.pool(), progress, calibration, file: &state.embedding_file() };
        let again = target.before(model, &state, work)?;
        progress.resume(records.iter().map(|r| r.modules.len() as u64).sum());
        let mut place = self.place.clone();
        let mut fallbacks = Vec::new();
        while records.len() < identity.blocks {
            let Err(error) = self.blocks(target, &place, identity.blocks, &mut state, &mut records) else {
                break;
            };
            // Finished blocks are kept: what is left is done where there is memory for it.
            let smaller = if error.is_gpu_memory() { place.smaller(model) } else { None };
            place = match smaller {
                Some(smaller) => smaller,
                None => return Err(error),
            };
            let (block, went_on) = (records.len(), place.sentence());
            fallbacks.push(format!("{error}; from block {block} on, it was done {went_on}"));
            progress.step(&format!("block {block}, {went_on}"));
        }
        if let Some(path) = &calibration.imatrix {
            let blocks = records.len().min(model.config().layers);
            imatrix::write(path, model, calibration, &records[..blocks])?;
        }
        debug_assert_eq!(records.iter().map(|r| r.modules.len()).sum::<usize>(), self.layers);
        let damage = again.into_iter().chain(damage).chain(fallbacks).collect();
        Ok(Blocks { state, records, resumed, damage })
    }

    /// Runs the model from the first unfinished block on.
    fn blocks<T: Target>(
        &self,
        target: &T,
        place: &Place,
        blocks: usize,
        state: &mut State,
        records: &mut Vec<BlockRecord<T::Report>>,
    ) -> Result<(), Error> {
        let &Self { model, calibration, progress, .. } = self;
        let resumed = records.len();
        let sequences = &calibration.samples.sequences;
        let hidden_every = match place {
            Place::Cpu { .. } => HIDDEN_EVERY,
            Place::Gpus { .. } => HIDDEN_EVERY_ON_GPUS,
        };
        let devices = place.devices(model)?;
        let with_reference = target.follows_the_original();
        let mut layerwise = Layerwise::on(model, &devices, sequences, with_reference, place.waits())?;
        let mut first = 0;
        let own = layerwise.values();
        let all = if with_reference { 2 * own } else { own };
        if let Some((block, hidden)) = state.hidden(resumed, all) {
            layerwise.set_hidden(&hidden[..own])?;
            layerwise.set_reference_hidden(&hidden[own..])?;
            first = block;
        }
        let pool = model.pool();
        // Blocks between the last residual stream and the first unfinished block: run with their quantized weights.
        for (block, record) in records.iter().enumerate().skip(first) {
            progress.step(&format!("block {block}, finished before"));
            layerwise.block(block, &mut Replay { target, pool, state, record, block, group: 0 })?;
        }
        for block in resumed..blocks {
            let mut work = Quantize {
                target,
                config: model.config(),
                pool,
                calibration,
                state,
                progress,
                block,
                group: 0,
                inputs: Collected::default(),
                record: BlockRecord::default(),
                digests: Vec::new(),
            };
            match block < model.config().layers {
                true => layerwise.block(block, &mut work)?,
                false => layerwise.head(&mut work)?,
            }
            let record = work.finish()?;
            state.finish_block(block, &record)?;
            records.push(record);
            if block + 1 < blocks && state.wants_hidden(hidden_every) {
                let streams = layerwise.streams()?;
                state.keep_hidden(block + 1, &streams.iter().map(|s| &**s).collect::<Vec<_>>())?;
            }
        }
        Ok(())
    }
}

/// Refuses an importance matrix that exists, unless it may be replaced, or would replace an input.
pub(super) fn check_imatrix(model: &Model, calibration: &Calibration) -> Result<(), Error> {
    if let Some(path) = &calibration.imatrix {
        let inputs = calibration.inputs.clone().with_model(model.checkpoint());
        // Dropped, nothing of it remains.
        drop(OutputFile::create(path, inputs.unless_read(calibration.force))?);
    }
    Ok(())
}
