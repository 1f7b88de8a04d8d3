//! `quern perplexity`: how well a model predicts a text.

use std::process::ExitCode;

use quern_model::Config;
use quern_run::{KvType, PerplexityOptions, SessionOptions};

use super::placement::{self, Planned};
use super::{Outcome, load_placed, print, print_json, read_text, warn_of_memory};
use crate::progress::{Bar, Unit};
use crate::{args, messages};

/// Measures and prints `perplexity ± standard error`.
pub fn run(args: &args::Perplexity) -> Outcome {
    let threads = args.threads.count();
    let (context, kv) = (args.context, args.placement.kv);
    let session = SessionOptions { context, ..SessionOptions::default() };
    // The second half of a chunk is scored.
    let rows = context - context / 2;
    let planned_session = |_: &Config| session;
    let planned = |path, load_in, kv| Planned { path, load_in, session: &planned_session, kv, rows };
    if args.placement.dry_run {
        // A reference keeps keys and values in f16.
        let reference = args.reference.iter().map(|path| planned(path, None, KvType::F16));
        let models: Vec<_> =
            [planned(args.model(), args.load.load_in, kv)].into_iter().chain(reference).collect();
        return placement::dry_run(&models, &args.placement, threads, true, args.json);
    }
    let text = read_text(&args.text)?;
    let placed = load_placed(&planned(args.model(), args.load.load_in, kv), threads, &args.placement)?;
    let reference = args.reference.as_deref();
    let reference = reference
        .map(|path| load_placed(&planned(path, None, KvType::F16), threads, &args.placement))
        .transpose()?;
    let reference = reference.as_ref().map(|placed| &placed.model);
    warn_of_memory(&placed.model, SessionOptions { kv, ..session })?;
    reference.into_iter().try_for_each(|reference| warn_of_memory(reference, session))?;
    let options = PerplexityOptions { context, chunks: args.chunks, kv };
    let bar = Bar::new(Unit::Chunks(context), "measuring perplexity");
    let report = quern_run::perplexity(&placed.model, reference, &text, options, &bar)?;
    drop(bar);
    let placement = placed.report(&args.placement, session, rows);
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
        text += &format!(
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
        );
    }
    print(&text)?;
    messages::info(format_args!("{:.0} tokens/s", report.tokens_per_second));
    if let Some(placement) = placement.filter(|placement| placement.is_split()) {
        messages::info(placement::run_table(&placement));
    }
    Ok(ExitCode::SUCCESS)
}
