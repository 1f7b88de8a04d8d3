//! `quern inspect --report`: the page about a model, or about two.

use std::path::{Path, PathBuf};

use quern_hub::Remote;
use quern_inspect::report::{Report, Subject, page};
use quern_inspect::statistics::{Statistics, statistics};
use quern_inspect::{Summary, diff};
use quern_model::identify;
use quern_tensor_io::Checkpoint;
use quern_tensor_io::output::{Inputs, OutputFile};
use rayon::ThreadPool;

use crate::progress::{Bar, Unit};
use crate::{args, model};

/// What the page is to be about.
pub struct Job<'a> {
    /// As the user wrote it.
    pub model: &'a Path,
    pub checkpoint: &'a Checkpoint,
    pub summary: &'a Summary,
    /// The second model, as the user wrote it.
    pub against: Option<&'a Path>,
    pub args: &'a args::Inspect,
}

/// What was written.
pub struct Written {
    pub output: PathBuf,
    pub file_size: u64,
    /// Of the first model.
    pub statistics: Statistics,
}

/// Reads all values and writes the page.
pub fn write(job: &Job<'_>, output: &Path, pool: &ThreadPool) -> anyhow::Result<Written> {
    let other = job.against.map(opened).transpose()?;
    let mut inputs = Inputs::of(job.checkpoint);
    other.iter().for_each(|other| inputs.add_model(other));
    // A refused output must not cost the reading.
    let mut file = OutputFile::create(output, inputs.unless_read(job.args.force))?;
    let label = self::label(job.model);
    let measured = pool.install(|| statistics(job.checkpoint, &Bar::new(Unit::Bytes, "reading values")))?;
    let model =
        Subject { label: &label, checkpoint: job.checkpoint, summary: job.summary, statistics: &measured };
    let written = match (&other, job.against) {
        (Some(other), Some(path)) => {
            let label = self::label(path);
            let summary = quern_inspect::summarize(other);
            let figures = pool.install(|| statistics(other, &Bar::new(Unit::Bytes, "reading values")))?;
            let options = diff::Options { threads: job.args.threads.count(), ..diff::Options::default() };
            let tensors =
                diff::tensors(job.checkpoint, other, &options, &Bar::new(Unit::Bytes, "comparing"))?;
            let second =
                Subject { label: &label, checkpoint: other, summary: &summary, statistics: &figures };
            page(&Report { model, against: Some((second, &tensors)) })
        }
        _ => page(&Report { model, against: None }),
    };
    file.append(written.as_bytes())?;
    file.commit()?;
    Ok(Written { output: output.to_path_buf(), file_size: written.len() as u64, statistics: measured })
}

fn opened(model: &Path) -> anyhow::Result<Checkpoint> {
    match super::find(model, Some("--report"))? {
        Remote::Cached(path) => model::stated(identify::open_any(&path)?),
        Remote::Headers(headers) => Ok(headers.open()?),
    }
}

/// What the page calls a model: the name of its file or folder alone, as pages are passed on, or its name on the Hub.
fn label(model: &Path) -> String {
    let here = std::fs::canonicalize(model).ok();
    let name = here.as_deref().and_then(Path::file_name);
    name.map_or_else(|| model.display().to_string(), |name| name.to_string_lossy().into_owned())
}
