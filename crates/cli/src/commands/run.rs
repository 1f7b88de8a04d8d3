//! `quern run`: generate text.

use std::process::ExitCode;

use quern_run::{GenerateOptions, SamplingOptions, SessionOptions};
use serde_json::json;

use super::{Outcome, load_within, print_json, tell, warn_of_memory};
use crate::{args, format};

/// Streams the text to standard output, or prints everything as JSON at the end.
pub fn run(args: &args::Run) -> Outcome {
    let (kv, limit) = (args.memory.kv, args.memory.limit());
    let model = load_within(&args.model, args.threads.count(), args.load.load_in, limit)?;
    let context = args.context.unwrap_or_else(|| model.default_context());
    warn_of_memory(&model, SessionOptions { context, kv, ..SessionOptions::default() })?;
    let seed = args.seed.unwrap_or_else(random_seed);
    let options = GenerateOptions {
        limit: Some(args.predict),
        context: args.context,
        kv,
        sampling: SamplingOptions {
            temperature: args.temp,
            top_k: args.top_k,
            top_p: args.top_p,
            min_p: args.min_p,
            repeat_penalty: args.repeat_penalty,
            seed,
            ..SamplingOptions::default()
        },
        ..GenerateOptions::default()
    };
    if args.json {
        let report = quern_run::generate(&model, &args.prompt, &options, &mut |_| {})?;
        let mut value = serde_json::to_value(&report)?;
        value["seed"] = json!(seed);
        value["parameters"] = json!(model.parameters());
        value["file_size"] = json!(model.file_size());
        print_json(&value)?;
    } else {
        let report = tell(&model, &args.prompt, &options)?;
        eprintln!(
            "{} parameters, {} on disk; prompt {} tokens at {:.1}/s, generated {} at {:.1}/s; seed {seed}; peak memory {}",
            format::count(model.parameters()),
            format::bytes(model.file_size()),
            report.prompt_tokens,
            report.prompt_tokens_per_second,
            report.tokens.len(),
            report.generate_tokens_per_second,
            report.peak_memory_bytes.map_or_else(|| "unknown".into(), format::bytes),
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// A seed nobody chose: the clock and the process.
fn random_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    // Kept below 2^32 so that it is easy to type again.
    RandomState::new().hash_one(std::process::id()) & 0xffff_ffff
}
