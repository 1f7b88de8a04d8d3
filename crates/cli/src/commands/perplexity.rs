//! `quern perplexity`: how well a model predicts a text.

use std::path::Path;
use std::process::ExitCode;

use quern_model::Config;
use quern_quantize::load_in::LoadScheme;
use quern_run::placement::PlacementReport;
use quern_run::{Divergence, KvType, PerplexityOptions, PerplexityReport, SessionOptions};

use super::placement::{self, Planned};
use super::{Beside, Outcome, beside, load_beside, print, print_json, read_text, warn_of_memory};
use crate::progress::{Bar, Unit};
use crate::{args, messages, model};

/// Measures and prints `perplexity ± standard error`.
pub fn run(args: &args::Perplexity) -> Outcome {
    model::state(&args.stated);
    let measurement = Measurement {
        model: args.model(),
        load_in: args.load.load_in,
        reference: args.reference.as_deref(),
        context: args.context,
        chunks: args.chunks,
        placement: &args.placement,
        threads: args.threads.count(),
    };
    if args.placement.dry_run {
        return measurement.dry_run(args.json);
    }
    let (report, placement) = measurement.measure(&read_text(&args.text)?)?;
    if args.json {
        let mut value = serde_json::to_value(&report)?;
        value["placement"] = serde_json::to_value(placement)?;
        print_json(&value)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut text = format!(
        "perplexity {:.4} ± {:.4} over {} tokens ({} chunks of {})\n",
        report.perplexity, report.stderr, report.tokens, report.chunks, report.context
    );
    if let Some(against) = &report.against {
        text += &divergence(against);
    }
    print(&text)?;
    messages::info(format_args!("{:.0} tokens/s", report.tokens_per_second));
    if let Some(placement) = placement.filter(|placement| placement.is_split()) {
        messages::info(placement::run_table(&placement));
    }
    Ok(ExitCode::SUCCESS)
}

/// What is measured over a text, and where.
pub(super) struct Measurement<'a> {
    /// The model.
    pub model: &'a Path,
    /// The scheme it is quantized to while loading.
    pub load_in: Option<LoadScheme>,
    /// The model it is compared with.
    pub reference: Option<&'a Path>,
    /// Tokens in a chunk.
    pub context: usize,
    /// Chunks at most.
    pub chunks: Option<usize>,
    /// Where both are run.
    pub placement: &'a args::Placement,
    /// Threads on the CPU.
    pub threads: usize,
}

impl Measurement<'_> {
    fn session(&self) -> SessionOptions {
        SessionOptions { context: self.context, ..SessionOptions::default() }
    }

    /// The second half of a chunk is scored.
    fn rows(&self) -> usize {
        self.context - self.context / 2
    }

    /// Prints where the layers would be.
    pub fn dry_run(&self, json: bool) -> Outcome {
        let session = |_: &Config| self.session();
        let planned = |path, load_in, kv| Planned { path, load_in, session: &session, kv, rows: self.rows() };
        // A reference keeps keys and values in f16.
        let reference = self.reference.iter().map(|path| planned(path, None, KvType::F16));
        let model = planned(self.model, self.load_in, self.placement.kv);
        let models: Vec<_> = [model].into_iter().chain(reference).collect();
        placement::dry_run(&models, &self.placement.devices, self.threads, true, json)
    }

    /// Loads the models and measures. The placement is the model's, not the reference's.
    pub fn measure(&self, text: &str) -> anyhow::Result<(PerplexityReport, Option<PlacementReport>)> {
        let (session, kv) = (self.session(), self.placement.kv);
        let planned_session = |_: &Config| session;
        let devices = &self.placement.devices;
        let planned =
            |path, load_in, kv| Planned { path, load_in, session: &planned_session, kv, rows: self.rows() };
        let load = |planned: &Planned<'_>, beside| {
            let placed = load_beside(planned, self.threads, devices, beside)?;
            let report = placed.report(devices, SessionOptions { kv: planned.kv, ..session }, self.rows());
            beside::announce(planned.path, &placed, report.as_ref());
            anyhow::Ok((placed, report))
        };
        let compared = self.reference.map(|path| planned(path, None, KvType::F16));
        let beside = compared.as_ref().map_or(Beside::Nothing, Beside::Next);
        let (placed, report) = load(&planned(self.model, self.load_in, kv), beside)?;
        // Sessions come after both models: the second leaves what the first one's takes.
        let beside = report.as_ref().map_or(Beside::Nothing, Beside::Loaded);
        let reference = compared.as_ref().map(|compared| load(compared, beside)).transpose()?;
        let reference = reference.map(|(reference, _)| reference);
        let reference = reference.as_ref().map(|placed| &placed.model);
        warn_of_memory(&placed.model, SessionOptions { kv, ..session })?;
        reference.into_iter().try_for_each(|reference| warn_of_memory(reference, session))?;
        let options = PerplexityOptions { context: self.context, chunks: self.chunks, kv };
        let bar = Bar::new(Unit::Chunks(self.context), "measuring perplexity");
        let report = quern_run::perplexity(&placed.model, reference, text, options, &bar)?;
        drop(bar);
        let placement = placed.report(devices, SessionOptions { kv, ..session }, self.rows());
        Ok((report, placement))
    }
}

/// The figures of two models, in words.
pub(super) fn divergence(against: &Divergence) -> String {
    format!(
        "reference {:.4}; ratio {:.4} ± {:.4}, ln ratio {:.5} ± {:.5}\n\
         KL divergence mean {:.6} ± {:.6}, median {:.6}, 99th percentile {:.6}, largest {:.4}\n\
         same first token {:.2} ± {:.2} %\n",
        against.reference_perplexity,
        against.perplexity_ratio,
        against.perplexity_ratio_stderr,
        against.ln_perplexity_ratio,
        against.ln_perplexity_ratio_stderr,
        against.kl_mean,
        against.kl_stderr,
        against.kl_median,
        against.kl_p99,
        against.kl_max,
        100.0 * against.top1_agreement,
        100.0 * against.top1_stderr
    )
}
