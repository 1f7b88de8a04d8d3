//! `quern fit` without a model: which published models fit.

use std::process::ExitCode;

use quern_inspect::fit::{
    Candidate, CatalogueModel, Machine, Scheme, Subject, Use, Wishes, best, catalogue, schemes,
};
use quern_run::estimate::MachineSpeed;
use quern_tensor_io::Progress;
use serde_json::{Value, json};

use super::super::{Outcome, print, print_json};
use super::words;
use crate::progress::{Bar, Unit};
use crate::{args, format};

/// Models that are shown.
const SHOWN: usize = 15;
/// A divergence that is still proposed.
const ACCEPTABLE: f64 = 0.1;
/// The fewest bits that a weight has in any scheme, with something for what is not quantized.
const FEWEST_BITS: f64 = 2.2;

/// A model and its best scheme.
struct Row {
    model: CatalogueModel,
    candidate: Candidate,
    /// It is fast enough and good enough.
    proposed: bool,
}

/// Prints the models, what to try first at the top.
pub fn run(args: &args::Fit, machine: &Machine, how: Use, speed: &mut MachineSpeed) -> Outcome {
    let models = catalogue()?;
    let bar = Bar::new(Unit::Models);
    bar.total(models.len() as u64);
    let (mut rows, mut unknown, mut too_large) = (Vec::new(), 0, 0);
    for model in models {
        bar.step(&model.repository);
        match judge(&model, args, machine, how, speed)? {
            Judged::Unknown => unknown += 1,
            Judged::TooLarge => too_large += 1,
            Judged::Fits(candidate) => {
                let loss = candidate.quality.map_or(0.0, |quality| quality.kl_mean);
                let rate = candidate.placed.as_ref().and_then(|placed| placed.tokens_per_second());
                let fast = rate.is_none_or(|rate| rate >= args.speed);
                rows.push(Row { model, candidate: *candidate, proposed: fast && loss <= ACCEPTABLE });
            }
        }
        bar.advance(1);
    }
    drop(bar);
    rows.sort_by(|a, b| {
        let rank = |row: &Row| row.model.rank();
        b.proposed.cmp(&a.proposed).then(rank(b).total_cmp(&rank(a)))
    });
    let proposed = rows.iter().filter(|row| row.proposed).count();
    let shown = if args.all { rows.len() } else { proposed.min(SHOWN) };
    if args.json {
        let values: Vec<Value> = rows
            .iter()
            .map(|row| {
                let mut value = json!({"model": row.model, "proposed": row.proposed});
                value["best"] = words::json(&row.candidate, machine);
                value
            })
            .collect();
        print_json(&json!({
            "machine": words::machine_json(machine, speed.threads()),
            "speed_wanted": args.speed,
            "models": values,
            "too_large": too_large,
            "unknown_architecture": unknown,
        }))?;
    } else {
        let text = text(&rows[..shown], args, machine);
        print(&text)?;
        let rest = rows.len() - shown;
        if rest > 0 {
            eprintln!(
                "note: {rest} more models of the catalogue fit; --all lists them, also slow ones and those of poor quality"
            );
        }
        if too_large > 0 {
            eprintln!("note: {too_large} models of the catalogue are too large");
        }
    }
    Ok(if rows.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

enum Judged {
    /// quern does not know the architecture.
    Unknown,
    TooLarge,
    Fits(Box<Candidate>),
}

fn judge(
    model: &CatalogueModel,
    args: &args::Fit,
    machine: &Machine,
    mut how: Use,
    speed: &mut MachineSpeed,
) -> anyhow::Result<Judged> {
    let room: Option<u64> = machine.ram.map(|ram| ram + machine.gpus.iter().map(|gpu| gpu.room).sum::<u64>());
    if room.is_some_and(|room| model.parameters as f64 * FEWEST_BITS / 8.0 > room as f64) {
        return Ok(Judged::TooLarge);
    }
    let Some(headers) = model.headers()? else { return Ok(Judged::Unknown) };
    let checkpoint = headers.open()?;
    let subject = Subject::new(&checkpoint)?;
    // A context that a model does not have is none that it is proposed for with less.
    how.context = how.context.map(|context| context.min(subject.config().context_length));
    let mut candidates = Vec::new();
    for scheme in schemes() {
        // GPTQ and bitsandbytes are for other programs first: of one model they are listed with all others.
        if !matches!(scheme, Scheme::Gguf { .. }) {
            continue;
        }
        // Shapes that do not suit a scheme leave it out.
        candidates.extend(subject.candidate(scheme, machine, how, speed));
    }
    candidates.retain(|candidate| candidate.placed.as_ref().is_some_and(|placed| placed.in_memory()));
    match best(&candidates, Wishes { speed: args.speed }) {
        Some(best) => Ok(Judged::Fits(Box::new(candidates.swap_remove(best)))),
        None => Ok(Judged::TooLarge),
    }
}

fn text(rows: &[Row], args: &args::Fit, machine: &Machine) -> String {
    if rows.is_empty() {
        return format!(
            "No model of the catalogue reaches {} tokens per second in good quality; a smaller --speed or --context may \
             help ({})\n",
            args.speed,
            words::machine(machine)
        );
    }
    let with_gpus = !machine.gpus.is_empty();
    let table_rows = rows.iter().map(|Row { model, candidate, .. }| {
        let mut row = vec![
            model.repository.clone(),
            format::count(model.parameters),
            candidate.scheme.title(),
            format!("{:.2}", candidate.bits_per_weight),
            candidate.context.to_string(),
            words::place(candidate),
        ];
        if with_gpus {
            row.push(words::gpu_memory(candidate));
        }
        row.extend([
            words::ram(candidate),
            words::rate(candidate),
            candidate.quality.map_or("", |quality| quality.word()).to_owned(),
            format!("{}{}", model.licence, if model.gated { " (gated)" } else { "" }),
        ]);
        row
    });
    let (header, right): (Vec<&str>, Vec<usize>) = match with_gpus {
        true => (
            vec![
                "model",
                "weights",
                "scheme",
                "bits",
                "context",
                "where",
                "GPU memory",
                "RAM",
                "tokens/s",
                "quality",
                "licence",
            ],
            vec![1, 3, 4, 6, 7, 8],
        ),
        false => (
            vec![
                "model", "weights", "scheme", "bits", "context", "where", "RAM", "tokens/s", "quality",
                "licence",
            ],
            vec![1, 3, 4, 6, 7],
        ),
    };
    let first = &rows[0].model.repository;
    format!(
        "{}\n\n{}\n\nLarge and recent models come first: a year counts as much as twice the size. Commands for one of \
         them: quern fit {first}\n",
        words::machine(machine),
        format::table(&header, &right, table_rows)
    )
}
