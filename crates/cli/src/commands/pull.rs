//! `quern pull`: a model from the Hub into the cache, or into a folder.

use std::process::ExitCode;
use std::time::Instant;

use quern_hub::{FileSource, PullOptions, Pulled};
use quern_tensor_io::output::Inputs;
use serde_json::{Value, json};

use super::{Outcome, print, print_json};
use crate::progress::Transfers;
use crate::{args, format, messages, model};

/// Downloads what is missing and prints where it is.
pub fn run(args: &args::Pull) -> Outcome {
    let hub = model::hub(args.offline)?;
    if let Some(output) = &args.output {
        let mut cache = Inputs::default();
        cache.add_folder("the cache of models", &hub.settings().cache);
        cache.refuse_folder(output)?;
    }
    let options = PullOptions {
        include: args.include.clone(),
        exclude: args.exclude.clone(),
        output: args.output.clone(),
        force: args.force,
    };
    let started = Instant::now();
    let bars = Transfers::new();
    let pulled = hub.pull(&args.name, &options, &bars)?;
    drop(bars);
    let seconds = started.elapsed().as_secs_f64();
    for note in &pulled.notes {
        messages::note(note);
    }
    match args.json {
        true => print_json(&report(args, &pulled, seconds))?,
        false => print(&table(args, &pulled, seconds))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Bytes that came over the network.
fn downloaded(pulled: &Pulled) -> u64 {
    let from_hub = pulled.files.iter().filter_map(|f| match f.source {
        FileSource::Hub { resumed } => Some(f.bytes - resumed),
        FileSource::Cache => None,
    });
    from_hub.sum()
}

fn report(args: &args::Pull, pulled: &Pulled, seconds: f64) -> Value {
    let files = pulled.files.iter().map(|f| {
        let resumed = match f.source {
            FileSource::Hub { resumed } => resumed,
            FileSource::Cache => f.bytes,
        };
        json!({"path": f.path, "bytes": f.bytes, "downloaded": f.bytes - resumed})
    });
    json!({
        "repository": args.name.repository(),
        "revision": args.name.revision(),
        "commit": pulled.commit,
        "folder": pulled.folder,
        "model": pulled.model,
        "files": files.collect::<Vec<_>>(),
        "bytes": pulled.files.iter().map(|f| f.bytes).sum::<u64>(),
        "downloaded": downloaded(pulled),
        "seconds": seconds,
    })
}

fn table(args: &args::Pull, pulled: &Pulled, seconds: f64) -> String {
    let rows = pulled.files.iter().map(|f| {
        let how = match f.source {
            FileSource::Cache => "cached".to_owned(),
            FileSource::Hub { resumed: 0 } => "downloaded".to_owned(),
            FileSource::Hub { resumed } => format!("{} resumed", format::bytes(resumed)),
        };
        vec![f.path.clone(), format::bytes(f.bytes), how]
    });
    let table = format::table(&["file", "size", ""], &[1], rows);
    let place = pulled.model.as_ref().unwrap_or(&pulled.folder);
    format!(
        "{table}\n\n{} at {}: {} downloaded in {seconds:.1} s\n{}\n",
        args.name.repository(),
        pulled.commit,
        format::bytes(downloaded(pulled)),
        place.display()
    )
}
