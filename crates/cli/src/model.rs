//! MODEL arguments: a file or folder here, or a name or an address on the Hub. What is here wins.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context, bail};
use quern_hub::{Hub, Name, Remote, Settings};
use quern_model::identify;
use quern_tensor_io::Checkpoint;

use crate::progress::{Bar, Transfers};
use crate::{args, messages};

/// The name on the Hub that an argument is, if nothing of that path is here.
///
/// # Errors
/// The argument is neither: it says what would do.
pub fn name(model: &Path) -> anyhow::Result<Option<Name>> {
    // A link that leads nowhere is here too: it is what the user meant.
    if std::fs::symlink_metadata(model).is_ok() {
        return Ok(None);
    }
    let text = model.to_string_lossy();
    let not_a_name = match text.parse() {
        Ok(name) => return Ok(Some(name)),
        Err(e) => e,
    };
    if Name::is_address(&text) {
        return Err(not_a_name.into());
    }
    let mut hint = String::new();
    if let Some((repository, file)) = file_of_repository(&text) {
        hint = format!("; a file of the Hub's {repository} is written {repository}:{file}");
    }
    bail!(
        "{text}: no such file or directory; a model is a folder, a file or a name on the Hub (org/name){hint}"
    )
}

/// A repository and its file, if `text` may be meant as such: `org/name/file.gguf`.
fn file_of_repository(text: &str) -> Option<(String, &str)> {
    let mut parts = text.splitn(3, '/');
    let (owner, name, file) = (parts.next()?, parts.next()?, parts.next()?);
    let repository = format!("{owner}/{name}");
    let is_file = [".gguf", ".safetensors", ".bin"].iter().any(|end| file.ends_with(end));
    (is_file && repository.parse::<Name>().is_ok()).then_some((repository, file))
}

/// The Hub as the environment describes it.
pub fn hub(offline: bool) -> anyhow::Result<Hub> {
    let mut settings = Settings::from_env()?;
    settings.offline |= offline;
    Ok(Hub::new(settings)?)
}

/// The file or folder to open for an argument: itself, or the model in the Hub's cache, which is pulled if it is
/// not there.
pub fn path(model: &Path) -> anyhow::Result<PathBuf> {
    let Some(name) = name(model)? else { return Ok(model.to_path_buf()) };
    let bars = Transfers::new();
    let located = hub(false)?.locate(&name, &bars).with_context(|| not_here(model));
    drop(bars);
    let located = located?;
    for note in located.notes {
        messages::note(note);
    }
    Ok(located.model)
}

/// Finds the model of an argument; of one that is on the Hub and not in the cache, only the headers are fetched.
pub fn find(model: &Path) -> anyhow::Result<Remote> {
    let Some(name) = name(model)? else { return Ok(Remote::Cached(model.to_path_buf())) };
    let hub = hub(false)?;
    if let Some(path) = hub.in_cache(&name, !hub.settings().offline) {
        return Ok(Remote::Cached(path));
    }
    let asking = Bar::waiting(format!("reading the headers of {name} on the Hub"));
    let headers = hub.headers(&name);
    drop(asking);
    headers.or_else(|e| match hub.in_cache(&name, false).filter(|_| e.is_unreachable()) {
        Some(path) => {
            messages::note(format_args!("{e}; using what is in the cache"));
            Ok(Remote::Cached(path))
        }
        None => Err(e).with_context(|| not_here(model)),
    })
}

/// What `--architecture` says of this command's models.
static STATED: OnceLock<String> = OnceLock::new();

/// Keeps what `--architecture` says, for all models that are opened from now on.
pub fn state(args: &args::Stated) {
    if let Some(name) = &args.architecture {
        STATED.get_or_init(|| name.clone());
    }
}

/// Opens the model of an argument; what is no model is named for what it is.
pub fn open(model: &Path) -> anyhow::Result<Checkpoint> {
    open_file(&path(model)?)
}

/// As [`open`], of a file or folder.
pub fn open_file(path: &Path) -> anyhow::Result<Checkpoint> {
    stated(identify::open(path)?)
}

/// Treats a model of an unknown architecture as `--architecture` says, and says so.
pub fn stated(mut checkpoint: Checkpoint) -> anyhow::Result<Checkpoint> {
    let Some(name) = STATED.get() else { return Ok(checkpoint) };
    if let Some(stated) = identify::state_architecture(&mut checkpoint, name)? {
        let ignored = match stated.ignored.is_empty() {
            true => String::new(),
            false => format!(
                "; keys of its configuration that such models do not have, and that have no effect: {}",
                stated.ignored.join(", ")
            ),
        };
        messages::note(format_args!(
            "{}: the architecture {:?} is not known; it is treated as {}, as --architecture says{ignored}",
            checkpoint.path().display(),
            stated.own,
            stated.family,
        ));
    }
    Ok(checkpoint)
}

/// The beginning of an error about a name that may have been meant as a path.
pub fn not_here(model: &Path) -> String {
    match Name::is_address(&model.to_string_lossy()) {
        true => format!("the address {}", model.display()),
        false => format!("there is no file or folder {} here, and as a model of the Hub", model.display()),
    }
}
