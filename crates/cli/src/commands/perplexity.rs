//! `quern perplexity`: how well a model predicts a text.

use std::process::ExitCode;

use quern_run::PerplexityOptions;

use super::{Outcome, load_in, print, print_json, read_text};
use crate::args;
use crate::progress::{Bar, Unit};

/// Measures and prints `perplexity ± standard error`.
pub fn run(args: &args::Perplexity) -> Outcome {
    let text = read_text(&args.text)?;
    let threads = args.threads.count();
    let model = load_in(&args.model, threads, args.load.load_in)?;
    let reference = args.reference.as_deref().map(|path| load_in(path, threads, None)).transpose()?;
    let options = PerplexityOptions { context: args.context, chunks: args.chunks, ..Default::default() };
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
            "reference {:.4}, ratio {:.4}; KL divergence mean {:.6}, 99th percentile {:.6}; same first token {:.2} %\n",
            against.reference_perplexity,
            report.perplexity / against.reference_perplexity,
            against.kl_mean,
            against.kl_p99,
            100.0 * against.top1_agreement
        );
    }
    print(&text)?;
    eprintln!("{:.0} tokens/s", report.tokens_per_second);
    Ok(ExitCode::SUCCESS)
}
