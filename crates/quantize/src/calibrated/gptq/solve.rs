//! Modules of a group solved and packed, and read back as a reader of the checkpoint does.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use quern_compute::parallel::{part_of, share};
use quern_compute::{Pool, get_row};
use quern_run::{LinearInfo, Replacement};
use quern_tensor_io::scheme::Packing;
use quern_tensor_io::{Checkpoint, ElementType, Error as FileError, TensorPlan};

use super::report::ModuleReport;
use super::{Error, GptqModule, GptqPlan, Options};
use crate::calibrated::damping::{least_damp, too_few};

use crate::calibrated::state::group_writer;
use crate::calibrated::target::{Group, Target, Work};
use crate::gptq::{Hessian, Prepared, Settings, Solution, SolveError, round_to_nearest, solve};

/// The GPTQ output.
pub(super) struct Gptq<'a> {
    pub plan: &'a GptqPlan,
    pub options: &'a Options,
    /// The weights of a layer; kept, for fresh memory costs time.
    weights: Mutex<Vec<f32>>,
}

impl<'a> Gptq<'a> {
    pub fn new(plan: &'a GptqPlan, options: &'a Options) -> Self {
        Self { plan, options, weights: Mutex::default() }
    }
}

impl Gptq<'_> {
    fn module(&self, weight: &str) -> Result<&GptqModule, Error> {
        let found = self.plan.modules.iter().find(|m| m.weight == weight);
        found.ok_or_else(|| Error::Stage(format!("{weight} is not in the plan").into()))
    }

    /// `settings` with the damping that so many tokens ask for.
    fn damped(&self, settings: &Settings, columns: usize, tokens: u64) -> Settings {
        let own = self.options.settings.damp;
        let damp = match self.options.calibration.adapt_damping && settings.damp == own {
            true => least_damp(own, columns, tokens),
            false => settings.damp,
        };
        Settings { damp, ..settings.clone() }
    }

    /// Solves modules whose settings agree.
    fn solve_alike(
        &self,
        block: usize,
        layers: &[LinearInfo<'_>],
        settings: &Settings,
        hessian: Hessian,
        work: Work<'_>,
    ) -> Result<Vec<(ModuleReport, Solution)>, Error> {
        let started = Instant::now();
        let (tokens, diagonal) = (hessian.tokens(), hessian.diagonal()?);
        let settings = &self.damped(settings, layers[0].columns, tokens);
        let prepared = match too_few(work.calibration, tokens) {
            Some(why) => Err(why),
            None => match Prepared::new(work.pool, hessian, settings) {
                Ok(prepared) => Ok(prepared),
                Err(SolveError::Compute(error)) => return Err(error.into()),
                Err(why) => Err(why.to_string()),
            },
        };
        // The factor serves all modules of the group: its time is shared.
        let shared = started.elapsed().as_secs_f64() / layers.len() as f64;
        let mut solved = Vec::with_capacity(layers.len());
        for layer in layers {
            let started = Instant::now();
            let module = self.module(layer.name)?.name.clone();
            work.progress.step(&module);
            let (rows, columns) = (layer.rows, layer.columns);
            let mut weights = self.weights.lock().unwrap_or_else(PoisonError::into_inner);
            read_weights(layer, work.pool, &mut weights)?;
            let solution = match &prepared {
                Ok(prepared) => solve(work.pool, &weights, rows, prepared, settings),
                Err(_) => {
                    let importance = (tokens > 0).then_some(diagonal.as_slice());
                    round_to_nearest(work.pool, &weights, rows, columns, importance, settings)
                }
            };
            let solution = solution.map_err(|why| Error::Module { module: module.clone(), why })?;
            let report = ModuleReport {
                layer: block,
                module,
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
            };
            work.progress.advance(1);
            solved.push((report, solution));
        }
        Ok(solved)
    }
}

/// The weights of a layer, `[rows][columns]`.
fn read_weights(layer: &LinearInfo<'_>, pool: &Pool, weights: &mut Vec<f32>) -> Result<(), Error> {
    let matrix = layer.matrix()?;
    weights.resize(layer.rows * layer.columns, 0.0);
    let part = part_of(pool, weights.len(), layer.columns);
    let step = (part / layer.columns.max(1)).max(1);
    let failed = AtomicBool::new(false);
    share(pool, (0..layer.rows).step_by(step).zip(weights.chunks_mut(part.max(1))), |(first, weights)| {
        for (row, values) in (first..).zip(weights.chunks_exact_mut(layer.columns.max(1))) {
            if get_row(&matrix, row, values).is_err() {
                failed.store(true, Ordering::Relaxed);
            }
        }
    });
    match failed.into_inner() {
        false => Ok(()),
        true => {
            let what = format!("{}: {} cannot be decoded", layer.name, matrix.element_type());
            Err(Error::Stage(what.into()))
        }
    }
}

impl Target for Gptq<'_> {
    type Report = ModuleReport;

    fn wants(&self, layer: &LinearInfo<'_>) -> Result<bool, Error> {
        Ok(self.module(layer.name)?.settings.is_some())
    }

    fn solve(&self, group: Group<'_>, work: Work<'_>) -> Result<Vec<ModuleReport>, Error> {
        // Modules that a rule treats differently cannot share the factor.
        let mut parts: Vec<(&Settings, Vec<LinearInfo<'_>>)> = Vec::new();
        for layer in &group.layers {
            let Some(settings) = &self.module(layer.name)?.settings else { continue };
            match parts.iter_mut().find(|(s, _)| *s == settings) {
                Some((_, part)) => part.push(*layer),
                None => parts.push((settings, vec![*layer])),
            }
        }
        let (mut reports, mut tensors) = (Vec::new(), Vec::new());
        let count = parts.len();
        let hessians = std::iter::repeat_n(group.inputs.hessian, count);
        for ((settings, part), hessian) in parts.iter().zip(hessians) {
            for (report, solution) in self.solve_alike(group.block, part, settings, hessian, work)? {
                tensors.extend(packed(work.pool, &report.module, &solution, self.plan.needs_v2()));
                reports.push(report);
            }
        }
        let plans: Vec<_> = tensors.iter().map(|(plan, _)| plan.clone()).collect();
        let mut writer = group_writer(work.file, &plans)?;
        for (_, data) in &tensors {
            writer.write(data)?;
        }
        writer.finish()?;
        Ok(reports)
    }

    fn read_back(
        &self,
        file: &Path,
        layers: &[LinearInfo<'_>],
        pool: &Pool,
    ) -> Result<Vec<Option<Replacement>>, Error> {
        let checkpoint = Checkpoint::open(file)?;
        let packing = Packing::read(&checkpoint)?
            .ok_or_else(|| FileError::malformed(file, "a file of the unfinished run is no GPTQ file"))?;
        let replacement = |linear: &LinearInfo<'_>| {
            Some(Replacement::unpack(&checkpoint, packing.layer(linear.name)?, pool))
        };
        let read = layers.iter().map(replacement).collect();
        checkpoint.check_files()?;
        Ok(read)
    }
}

/// The tensors of one packed module.
fn packed(pool: &Pool, module: &str, s: &Solution, v2: bool) -> [(TensorPlan, Vec<u8>); 4] {
    let (bits, groups) = (s.bits as usize, s.groups);
    let tensor = |part: &str, element_type, shape: Vec<usize>, data| {
        (TensorPlan { name: format!("{module}.{part}"), element_type, shape }, data)
    };
    let words = |values: usize| values * bits / 32;
    [
        tensor("g_idx", ElementType::I32, vec![s.columns], s.g_idx_bytes()),
        tensor("qweight", ElementType::I32, vec![words(s.columns), s.rows], s.qweight(pool)),
        tensor("qzeros", ElementType::I32, vec![groups, words(s.rows)], s.qzeros(v2)),
        tensor("scales", ElementType::F16, vec![groups, s.rows], s.scales_bytes()),
    ]
}
