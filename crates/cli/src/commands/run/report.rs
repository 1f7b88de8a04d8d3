//! The report on a generated text: JSON on standard output, or lines on standard error.

use quern_run::placement::PlacementReport;
use quern_run::{GenerateOptions, GenerateReport, Model, Stop, TokenLogprobs};
use serde_json::json;

use crate::commands::{Placed, placement, print_json, print_json_line};
use crate::{args, format, messages};

/// Prints the report on one text. JSON is indented over several lines if `whole`, else one line.
pub fn print_report(
    args: &args::Run,
    placed: &Placed,
    options: &GenerateOptions,
    report: &GenerateReport,
    whole: bool,
) -> anyhow::Result<()> {
    let model = &placed.model;
    let placement = placed.report(&args.placement.devices, super::session(args, model.config()), 1);
    let seed = options.sampling.seed;
    note(report, model);
    if args.json {
        let mut value = serde_json::to_value(report)?;
        value["seed"] = json!(seed);
        value["parameters"] = json!(model.parameters());
        value["file_size"] = json!(model.file_size());
        value["placement"] = serde_json::to_value(placement)?;
        return if whole { print_json(&value) } else { print_json_line(&value) };
    }
    if let Some(logprobs) = &report.logprobs {
        messages::line(table(logprobs));
    }
    messages::info(format_args!(
        "{} parameters, {} on disk; prompt {} tokens at {:.1}/s, generated {} at {:.1}/s; seed {seed}; peak memory {}",
        format::count(model.parameters()),
        format::bytes(model.file_size()),
        report.prompt_tokens,
        report.prompt_tokens_per_second,
        report.tokens.len(),
        report.generate_tokens_per_second,
        report.peak_memory_bytes.map_or_else(|| "unknown".into(), format::bytes),
    ));
    if let Some(placement) = placement.filter(PlacementReport::is_split) {
        messages::info(placement::run_table(&placement));
    }
    Ok(())
}

/// Prints on standard error why a text ended where the user may not expect it.
pub fn note(report: &GenerateReport, model: &Model) {
    if report.stop == Stop::ContextFull {
        messages::note(format_args!(
            "the context is full after {} tokens, so the text was cut off; --context takes up to {}",
            report.prompt_tokens + report.tokens.len(),
            model.config().context_length
        ));
    }
}

/// Tokens, their probabilities, and what else was likely.
fn table(logprobs: &[TokenLogprobs]) -> comfy_table::Table {
    let rows = logprobs.iter().map(|token| {
        let others = token.top.iter().map(|t| format!("{:?} {:.3}", t.text, t.logprob));
        vec![
            token.drawn.id.to_string(),
            format!("{:?}", token.drawn.text),
            format!("{:.3}", token.drawn.logprob),
            others.collect::<Vec<_>>().join("  "),
        ]
    });
    format::table(&["token", "text", "logprob", "likeliest"], &[0, 2], rows)
}
