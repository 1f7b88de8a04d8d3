//! To GPTQ.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use quern_quantize::calibrated::gptq::{self as job, GptqPlan, GptqReport, Options, Reader, Rules};
use quern_quantize::gptq::{Order, Settings};
use quern_run::Model;
use quern_tensor_io::output::Inputs;
use quern_tensor_io::scheme::CodeFormat;
use quern_tensor_io::{Checkpoint, small};
use serde_json::json;

use super::super::record::{self, After};
use super::super::{Outcome, load, print, print_json};
use super::calibration::{announce, calibration, recorded, warn, where_and_memory};
use super::readers;
use super::source::with_plain;
use crate::progress::{Bar, Unit};
use crate::{args, format, messages, signals};

/// Plans, and unless it is a dry run, does it.
pub fn run(args: &args::Quantize) -> Outcome {
    let rules = args.rules.dynamic.as_deref().and_then(|text| text.strip_prefix('@')).map(Path::new);
    let inputs = record::inputs([
        ("the calibration text", args.calibration.calibration.as_deref()),
        ("the file of rules", rules),
        ("the text to evaluate with", args.evaluate.as_deref()),
    ]);
    let after = After::of(args, inputs.clone(), false)?;
    with_plain(args, inputs, |source, original, inputs| quantize(args, source, original, inputs, after))
}

fn quantize(
    args: &args::Quantize,
    source: &Path,
    original: &Checkpoint,
    inputs: Inputs,
    after: After,
) -> Outcome {
    let model = load(source, args.threads.count())?;
    let options = options(args, &model, original, inputs)?;
    if let Some(output) = args.output.as_deref().filter(|_| !args.dry_run) {
        job::check_outputs(output, &model, &options)?;
    }
    let plan = job::plan(&model, &options)?;
    for note in &plan.readers {
        messages::warning(readers::sentence(note));
    }
    let Some(output) = args.output.as_deref().filter(|_| !args.dry_run) else {
        return show(&plan, args);
    };
    announce(args, &options.calibration, &plan.place, plan.memory_bytes)?;
    let bar = Bar::new(Unit::Modules, "quantizing to gptq");
    signals::on_stop_say(Some(format!(
        "finished layers are kept in {}; the same command goes on with them",
        job::unfinished_folder(output).display()
    )));
    let report = job::run(&model, &plan, &options, output, &bar)?;
    signals::on_stop_say(None);
    drop(bar);
    for warning in &report.warnings {
        messages::warning(warning);
    }
    let vllm = plan.readers.iter().all(|note| !note.readers.contains(&Reader::Vllm));
    let done = after.finish(original, output, vllm)?;
    if args.json {
        let packing = options.packing.name();
        let mut result = json!({ "output": output, "scheme": "gptq", "packing": packing, "report": report });
        done.add_to(&mut result)?;
        print_json(&result)?;
    } else {
        print(&(described(&report, output, &options) + &done.text()))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn options(
    args: &args::Quantize,
    model: &Model,
    original: &Checkpoint,
    inputs: Inputs,
) -> anyhow::Result<Options> {
    let given = &args.gptq;
    let settings = Settings::default();
    let order = if given.desc_act { Order::Activation } else { Order::GroupAware };
    let settings = Settings {
        bits: given.bits.unwrap_or(settings.bits),
        group_size: given.group_size.map_or(settings.group_size, |g| g.0),
        symmetric: !given.asym,
        order,
        damp: args.calibration.damp.unwrap_or(settings.damp),
        ..settings
    };
    let rules = match args.rules.dynamic.as_deref().map(|text| (text, text.strip_prefix('@'))) {
        None => Rules::default(),
        Some((_, Some(file))) => {
            let text = small::text(Path::new(file), small::CONFIGURATION).context("cannot read the rules")?;
            Rules::parse(&text).with_context(|| file.to_owned())?
        }
        Some((text, None)) => Rules::parse(text)?,
    };
    let (calibration, provenance) = recorded(args, original, calibration(args, model, inputs)?);
    let defaults = Options::new(settings, calibration.samples.clone());
    let packing = given.packing.unwrap_or(defaults.packing);
    Ok(Options { provenance, packing, rules, calibration, ..defaults })
}

/// The dry run: one row a module.
fn show(plan: &GptqPlan, args: &args::Quantize) -> Outcome {
    warn(args, plan.memory_bytes, plan.disk_bytes);
    let describe = |m: &job::GptqModule| match &m.settings {
        None => "as it is".to_owned(),
        Some(s) => words(s),
    };
    if args.json {
        let modules: Vec<_> = plan
            .modules
            .iter()
            .map(|m| json!({"name": m.name, "rows": m.rows, "columns": m.columns, "to": describe(m)}))
            .collect();
        let readers: Vec<_> = plan.readers.iter().map(readers::json).collect();
        print_json(&json!({
            "scheme": "gptq",
            "device": plan.place.sentence(),
            "memory_bytes": plan.memory_bytes,
            "gpu_memory_bytes": plan.place.gpu_bytes(),
            "file_size": plan.output_bytes,
            "disk_bytes": plan.disk_bytes,
            "bits_per_weight": plan.bits_per_weight(),
            "modules": modules,
            "readers": readers,
        }))?;
    } else {
        let rows = plan
            .modules
            .iter()
            .map(|m| vec![m.name.clone(), format::shape(&[m.rows, m.columns]), describe(m)]);
        print(&format!(
            "{}\n\ntotal: {}, {:.2} bits per weight; calibrated {}, {} on the disk until the unfinished run is removed\n",
            format::table(&["module", "shape", "to"], &[1], rows),
            format::bytes(plan.output_bytes),
            plan.bits_per_weight(),
            where_and_memory(&plan.place, plan.memory_bytes),
            format::bytes(plan.disk_bytes)
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn words(s: &Settings) -> String {
    let group = s.group_size.map_or_else(|| "one group a row".to_owned(), |g| format!("group {g}"));
    let zeros = if s.symmetric { "symmetric" } else { "asymmetric" };
    let order = if s.order == Order::Activation { ", act-order" } else { "" };
    format!("{}-bit, {group}, {zeros}{order}", s.bits)
}

fn described(report: &GptqReport, output: &Path, options: &Options) -> String {
    let rows = report.modules.iter().map(|m| {
        vec![
            m.module.clone(),
            format!("{}-bit", m.bits),
            format!("{:.3e}", m.loss),
            if m.fallback.is_some() { "nearest".to_owned() } else { format!("{:.3}", m.damp) },
            m.tokens.to_string(),
            format!("{:.2}", m.seconds),
        ]
    });
    let header = ["module", "bits", "loss", "damp", "tokens", "seconds"];
    let mut text = format!("{}\n\n", format::table(&header, &[2, 3, 4, 5], rows));
    if report.resumed_blocks > 0 {
        text += &format!("{} blocks were finished by an earlier run\n", report.resumed_blocks);
    }
    if !report.skipped.is_empty() {
        text += &format!("left as they are: {}\n", report.skipped.join(", "));
    }
    text + &format!(
        "{}: gptq {}{}, {}, {:.2} bits per weight, in {:.1} s\n",
        output.display(),
        words(&options.settings),
        match options.packing {
            CodeFormat::Gptq(_) => String::new(),
            other => format!(" as {}", other.name()),
        },
        format::bytes(report.bytes),
        report.bits_per_weight,
        report.seconds
    )
}
