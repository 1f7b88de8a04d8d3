//! Running a job: block by block, each group of modules is calibrated, solved, packed and kept on disk.

use std::path::Path;
use std::time::Instant;

use quern_compute::Pool;
use quern_run::{
    Calibrator, Layerwise, LinearGroup, LinearInfo, Model, Observer, ObserverError, Replacement,
};
use quern_tensor_io::output::{OutputDirectory, OutputFile, require_space};
use quern_tensor_io::scheme::Packing;
use quern_tensor_io::{Checkpoint, ElementType, Error as FileError, Progress, TensorPlan, decode};

use super::assemble::{Assembly, write_imatrix};
use super::report::{GptqReport, ModuleReport};
use super::state::{self, BlockRecord, Opened, State};
use super::{Error, GptqModule, GptqPlan, Options, config};
use crate::gptq::{Hessian, Prepared, Settings, Solution, round_to_nearest, solve};

/// A module that saw less than this share of the calibration tokens is rounded to nearest.
const LEAST_SHARE: f64 = 0.005;

/// Quantizes `model` as planned and writes the checkpoint directory `output`. Progress counts modules. The
/// bytes do not depend on the number of the model's threads. A run that was stopped is continued.
///
/// # Errors
/// Whatever it is, `output` does not exist then (or is as it was), and finished blocks are kept.
pub fn run(
    model: &Model,
    plan: &GptqPlan,
    options: &Options,
    output: &Path,
    progress: &dyn Progress,
) -> Result<GptqReport, Error> {
    resumable(model, plan, options, output, progress).map_err(|e| e.with_kept(&state::folder(output)))
}

fn resumable(
    model: &Model,
    plan: &GptqPlan,
    options: &Options,
    output: &Path,
    progress: &dyn Progress,
) -> Result<GptqReport, Error> {
    let started = Instant::now();
    let checkpoint = model.checkpoint();
    check_outputs(output, checkpoint, options)?;
    let config = config::quantization_config(options, plan.needs_v2());
    require_space(
        output,
        plan.disk_bytes.saturating_sub(State::kept(output)),
        "the output with its unfinished run",
    )?;
    let Opened { mut state, finished: mut records, damage } =
        State::open(output, checkpoint, plan, options, &config::to_bytes(&config))?;
    let resumed = records.len();
    let work = plan.modules.iter().filter(|m| m.settings.is_some());
    progress.total(work.count() as u64);
    progress.resume(records.iter().map(|r| r.modules.len() as u64).sum());

    let mut layerwise = Layerwise::new(model, &options.samples.sequences)?;
    let mut first = 0;
    if let Some((layer, hidden)) = state.hidden(resumed, layerwise.hidden().len()) {
        layerwise.set_hidden(&hidden);
        first = layer;
    }
    // Blocks between the last residual stream and the first unfinished block: run with their packed weights.
    for (layer, record) in records.iter().enumerate().skip(first) {
        progress.step(&format!("block {layer}, finished before"));
        layerwise.block(layer, &mut Replay { pool: model.pool(), state: &state, record, layer, group: 0 })?;
    }
    for layer in resumed..plan.layers {
        let mut block = Quantize {
            pool: model.pool(),
            plan,
            options,
            state: &state,
            progress,
            layer,
            group: 0,
            hessian: None,
            record: BlockRecord::default(),
        };
        layerwise.block(layer, &mut block)?;
        let record = block.record;
        state.finish_block(layer, &record)?;
        records.push(record);
        if layer + 1 < plan.layers {
            state.keep_hidden(layer + 1, layerwise.hidden())?;
        }
    }
    let tokens = layerwise.tokens();
    drop(layerwise);
    if let Some(path) = &options.imatrix {
        write_imatrix(path, checkpoint, plan, options, &records)?;
    }
    let done = records.iter().map(|r| r.modules.len()).sum::<usize>();
    debug_assert_eq!(done, plan.modules.iter().filter(|m| m.settings.is_some()).count());
    progress.step("writing the checkpoint");
    let assembly = Assembly { checkpoint, plan, options, state: &state, records: &records };
    let bytes = assembly.write(output, &config)?;
    state.remove()?;
    let modules: Vec<_> = records.into_iter().flat_map(|r| r.modules).collect();
    let skipped = plan.modules.iter().filter(|m| m.settings.is_none()).map(|m| m.name.clone()).collect();
    Ok(GptqReport {
        warnings: damage.into_iter().chain(warnings(options, &modules)).collect(),
        modules,
        skipped,
        resumed_blocks: resumed,
        tokens,
        bytes,
        bits_per_weight: bytes as f64 * 8.0 / model.parameters() as f64,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// Refuses outputs that exist, unless they may be replaced, and those that are inputs.
///
/// # Errors
/// As [`OutputDirectory::check`] and [`OutputFile::create`].
pub fn check_outputs(output: &Path, checkpoint: &Checkpoint, options: &Options) -> Result<(), Error> {
    let inputs = options.inputs.clone().with_model(checkpoint);
    let existing = inputs.unless_read(options.force);
    OutputDirectory::check(output, existing)?;
    if let Some(path) = &options.imatrix {
        // Dropped, nothing of it remains.
        drop(OutputFile::create(path, existing)?);
    }
    Ok(())
}

/// Damping of at least `damp`, more where there are few tokens for the columns.
fn least_damp(damp: f64, columns: usize, tokens: u64) -> f64 {
    damp.max(columns as f64 / tokens.max(1) as f64).min(1.0)
}

/// `settings` with the damping that so many tokens ask for.
fn damped(options: &Options, settings: &Settings, columns: usize, tokens: u64) -> Settings {
    let own = options.settings.damp;
    let damp = match options.adapt_damping && settings.damp == own {
        true => least_damp(own, columns, tokens),
        false => settings.damp,
    };
    Settings { damp, ..settings.clone() }
}

fn warnings(options: &Options, modules: &[ModuleReport]) -> Vec<String> {
    let mut out = Vec::new();
    let samples = &options.samples;
    if samples.sequences.len() < samples.wanted {
        out.push(format!(
            "the calibration text gave {} of the {} samples asked for",
            samples.sequences.len(),
            samples.wanted
        ));
    }
    for m in modules {
        if let Some(why) = &m.fallback {
            out.push(format!("{}: rounded to nearest, {why}", m.module));
        }
    }
    let wanted = |m: &ModuleReport| least_damp(options.settings.damp, m.columns, m.tokens);
    let raised = modules.iter().filter(|m| m.fallback.is_none() && m.damp > 1.5 * wanted(m));
    for m in raised.take(8) {
        out.push(format!(
            "{}: its Hessian needed damping of {:.3}: more or other calibration text may help",
            m.module, m.damp
        ));
    }
    out
}

/// A block that is being quantized.
struct Quantize<'a> {
    pool: &'a Pool,
    plan: &'a GptqPlan,
    options: &'a Options,
    state: &'a State,
    progress: &'a dyn Progress,
    layer: usize,
    group: usize,
    hessian: Option<Hessian>,
    record: BlockRecord,
}

impl Quantize<'_> {
    fn module(&self, weight: &str) -> Result<&GptqModule, ObserverError> {
        let found = self.plan.modules.iter().find(|m| m.weight == weight);
        found.ok_or_else(|| format!("{weight} is not in the plan").into())
    }

    /// Solves the modules of a group whose settings agree.
    fn solve(
        &mut self,
        layers: &[&LinearInfo<'_>],
        settings: &Settings,
        hessian: Hessian,
    ) -> Result<Vec<(String, Solution)>, ObserverError> {
        let started = Instant::now();
        let tokens = hessian.tokens();
        let diagonal = hessian.diagonal();
        let columns = layers[0].matrix.columns();
        let settings = &damped(self.options, settings, columns, tokens);
        let least = LEAST_SHARE * self.options.samples.tokens as f64;
        let prepared = if (tokens as f64) < least {
            Err(format!("it saw only {tokens} of {} tokens", self.options.samples.tokens))
        } else {
            Prepared::new(self.pool, hessian, settings).map_err(|e| e.to_string())
        };
        // The factor serves all modules of the group: its time is shared.
        let shared = started.elapsed().as_secs_f64() / layers.len() as f64;
        let mut solutions = Vec::with_capacity(layers.len());
        for layer in layers {
            let started = Instant::now();
            let module = self.module(layer.name)?.name.clone();
            self.progress.step(&module);
            let (rows, columns) = (layer.matrix.rows(), layer.matrix.columns());
            let mut weights = vec![0f32; rows * columns];
            if !decode::to_f32(layer.matrix.element_type(), layer.matrix.data(), &mut weights) {
                return Err(
                    format!("{}: {} cannot be decoded", layer.name, layer.matrix.element_type()).into()
                );
            }
            let solution = match &prepared {
                Ok(prepared) => solve(self.pool, &weights, rows, prepared, settings),
                Err(_) => {
                    let importance = (tokens > 0).then_some(diagonal.as_slice());
                    round_to_nearest(self.pool, &weights, rows, columns, importance, settings)
                }
            };
            let solution = solution.map_err(|why| Error::Module { module: module.clone(), why })?;
            self.record.modules.push(ModuleReport {
                layer: self.layer,
                module: module.clone(),
                columns,
                rows,
                bits: settings.bits,
                group_size: settings.group_size,
                loss: solution.loss,
                damp: prepared.as_ref().map_or(0.0, Prepared::damp),
                tokens,
                dead_columns: prepared.as_ref().map_or(0, Prepared::dead),
                seconds: shared + started.elapsed().as_secs_f64(),
                fallback: prepared.as_ref().err().cloned(),
            });
            self.progress.advance(1);
            solutions.push((module, solution));
        }
        Ok(solutions)
    }
}

impl Observer for Quantize<'_> {
    fn observe(&mut self, group: &LinearGroup<'_>) -> Result<(), ObserverError> {
        let mut wanted = self.options.imatrix.is_some();
        for linear in group.linears {
            wanted |= self.module(linear.name)?.settings.is_some();
        }
        if wanted {
            let hessian = self.hessian.get_or_insert_with(|| Hessian::new(group.columns));
            hessian.add(self.pool, group.values);
        }
        Ok(())
    }
}

impl Calibrator for Quantize<'_> {
    fn replace(&mut self, layers: &[LinearInfo<'_>]) -> Result<Vec<Option<Replacement>>, ObserverError> {
        let group = self.group;
        self.group += 1;
        let mut wanted = false;
        for layer in layers {
            wanted |= self.module(layer.name)?.settings.is_some();
        }
        let hessian = match self.hessian.take() {
            Some(hessian) => hessian,
            // An expert that no token chose: rounded to nearest, and named in the report.
            None if wanted => Hessian::new(layers[0].matrix.columns()),
            None => return Ok(vec![None; layers.len()]),
        };
        if self.options.imatrix.is_some() {
            let squares = hessian.diagonal();
            for layer in layers {
                let module = self.module(layer.name)?.name.clone();
                self.record.squares.insert(module, squares.clone());
            }
        }
        // Modules that a rule treats differently cannot share the factor.
        let mut parts: Vec<(Settings, Vec<&LinearInfo<'_>>)> = Vec::new();
        for layer in layers {
            let Some(settings) = self.module(layer.name)?.settings.clone() else { continue };
            match parts.iter_mut().find(|(s, _)| *s == settings) {
                Some((_, part)) => part.push(layer),
                None => parts.push((settings, vec![layer])),
            }
        }
        let mut solutions = Vec::new();
        let count = parts.len();
        let mut hessian = Some(hessian);
        for (i, (settings, part)) in parts.iter().enumerate() {
            let own = if i + 1 == count { hessian.take() } else { hessian.clone() };
            if let Some(own) = own {
                solutions.extend(self.solve(part, settings, own)?);
            }
        }
        if solutions.is_empty() {
            return Ok(vec![None; layers.len()]);
        }
        let v2 = self.plan.needs_v2();
        let tensors: Vec<_> = solutions.iter().flat_map(|(module, s)| packed(module, s, v2)).collect();
        drop(solutions);
        let digest = self.state.write_group(self.layer, group, &tensors).map_err(Error::File)?;
        self.record.groups.insert(group, digest);
        Ok(read_back(self.state, self.layer, group, layers, self.pool)?)
    }
}

/// The tensors of one packed module.
fn packed(module: &str, s: &Solution, v2: bool) -> [(TensorPlan, Vec<u8>); 4] {
    let (bits, groups) = (s.bits as usize, s.groups);
    let tensor = |part: &str, element_type, shape: Vec<usize>, data| {
        (TensorPlan { name: format!("{module}.{part}"), element_type, shape }, data)
    };
    let words = |values: usize| values * bits / 32;
    [
        tensor("g_idx", ElementType::I32, vec![s.columns], s.g_idx_bytes()),
        tensor("qweight", ElementType::I32, vec![words(s.columns), s.rows], s.qweight()),
        tensor("qzeros", ElementType::I32, vec![groups, words(s.rows)], s.qzeros(v2)),
        tensor("scales", ElementType::F16, vec![groups, s.rows], s.scales_bytes()),
    ]
}

/// The weights to continue with, from the file of a group: what a reader of the checkpoint will compute with.
fn read_back(
    state: &State,
    layer: usize,
    group: usize,
    layers: &[LinearInfo<'_>],
    pool: &Pool,
) -> Result<Vec<Option<Replacement>>, Error> {
    let path = state.group_file(layer, group);
    let checkpoint = Checkpoint::open(&path)?;
    let packing = Packing::read(&checkpoint)?
        .ok_or_else(|| FileError::malformed(&path, "a file of the unfinished run is no GPTQ file"))?;
    let replacement =
        |linear: &LinearInfo<'_>| Some(Replacement::unpack(&checkpoint, packing.layer(linear.name)?, pool));
    let read = layers.iter().map(replacement).collect();
    checkpoint.check_files()?;
    Ok(read)
}

/// A block that was finished before: its packed weights are read back.
struct Replay<'a> {
    pool: &'a Pool,
    state: &'a State,
    record: &'a BlockRecord,
    layer: usize,
    group: usize,
}

impl Observer for Replay<'_> {
    fn observe(&mut self, _: &LinearGroup<'_>) -> Result<(), ObserverError> {
        Ok(())
    }
}

impl Calibrator for Replay<'_> {
    fn replace(&mut self, layers: &[LinearInfo<'_>]) -> Result<Vec<Option<Replacement>>, ObserverError> {
        let group = self.group;
        self.group += 1;
        if !self.record.groups.contains_key(&group) {
            return Ok(vec![None; layers.len()]);
        }
        Ok(read_back(self.state, self.layer, group, layers, self.pool)?)
    }
}
