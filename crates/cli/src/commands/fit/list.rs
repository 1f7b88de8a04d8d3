//! `quern fit` without a model: which published models fit.

use std::process::ExitCode;

use quern_inspect::fit::{
    ACCEPTABLE, Candidate, CatalogueModel, Machine, Scheme, Use, Wishes, best, catalogue, schemes, survey,
};
use quern_run::estimate::MachineSpeed;
use serde_json::{Value, json};

use super::super::{Outcome, print, print_json};
use super::words;
use crate::progress::{Bar, Unit};
use crate::{args, format, messages};

/// Models that are shown.
const SHOWN: usize = 15;
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
    // GPTQ and bitsandbytes are for other programs first: of one model they are listed with all others.
    let schemes: Vec<Scheme> = schemes().into_iter().filter(|s| matches!(s, Scheme::Gguf { .. })).collect();
    let room: Option<u64> = machine.ram.map(|ram| ram + machine.gpus.iter().map(|gpu| gpu.room).sum::<u64>());
    let fits = |model: &CatalogueModel| {
        room.is_none_or(|room| model.parameters as f64 * FEWEST_BITS / 8.0 <= room as f64)
    };
    let (models, large): (Vec<_>, Vec<_>) = catalogue()?.into_iter().partition(fits);
    let mut too_large = large.len();
    let bar = Bar::new(Unit::Models, "reading the catalogue");
    let surveyed = survey(models, &schemes, how.kv, speed.threads(), &bar)?;
    drop(bar);
    let unknown = surveyed.iter().filter(|found| found.is_none()).count();
    let mut rows = Vec::new();
    let bar = Bar::waiting("measuring what this machine does with each scheme");
    for found in surveyed.into_iter().flatten() {
        let mut candidates = found.candidates(machine, how, speed);
        candidates.retain(|candidate| candidate.placed.as_ref().is_some_and(|placed| placed.in_memory()));
        let Some(best) = best(&candidates, Wishes { speed: args.speed }) else {
            too_large += 1;
            continue;
        };
        let candidate = candidates.swap_remove(best);
        let loss = candidate.quality.map_or(0.0, |quality| quality.kl_mean);
        let rate = candidate.placed.as_ref().and_then(|placed| placed.tokens_per_second());
        let fast = rate.is_none_or(|rate| rate >= args.speed);
        rows.push(Row { model: found.model, candidate, proposed: fast && loss <= ACCEPTABLE });
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
            messages::note(format_args!(
                "{rest} more models of the catalogue fit; --all lists them, also slow ones and those of poor quality"
            ));
        }
        if too_large > 0 {
            messages::note(format_args!("{too_large} models of the catalogue are too large"));
        }
    }
    Ok(if rows.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
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
