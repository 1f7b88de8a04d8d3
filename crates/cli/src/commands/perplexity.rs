//! `quern perplexity`: how well a model predicts a text.

use std::process::ExitCode;

use quern_run::{PerplexityOptions, SessionOptions};

use super::{Outcome, load_within, print, print_json, read_text, warn_of_memory};
use crate::args::{self, Memory};
use crate::progress::{Bar, Unit};

/// Measures and prints `perplexity ± standard error`.
pub fn run(args: &args::Perplexity) -> Outcome {
    let text = read_text(&args.text)?;
    let threads = args.threads.count();
    let Memory { kv, .. } = args.memory;
    let limit = args.memory.limit();
    let model = load_within(&args.model, threads, args.load.load_in, limit)?;
    let reference =
        args.reference.as_deref().map(|path| load_within(path, threads, None, limit)).transpose()?;
    let context = args.context;
    let session = SessionOptions { context, ..SessionOptions::default() };
    warn_of_memory(&model, SessionOptions { kv, ..session })?;
    reference.iter().try_for_each(|reference| warn_of_memory(reference, session))?;
    let options = PerplexityOptions { context, chunks: args.chunks, kv };
    let bar = Bar::new(Unit::Chunks);
    let report = quern_run::perplexity(&model, reference.as_ref(), &text, options, &bar)?;
    drop(bar);
    if args.json {
        print_json(&report)?;
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
    eprintln!("{:.0} tokens/s", report.tokens_per_second);
    Ok(ExitCode::SUCCESS)
}
