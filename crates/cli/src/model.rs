//! MODEL arguments: a file or folder here, or a name on the Hub. What is here wins.

use std::path::{Path, PathBuf};

use anyhow::Context;
use quern_hub::{Hub, Name, Settings};

use crate::progress::Transfers;

/// The name on the Hub that an argument is, if nothing of that path is here.
pub fn name(model: &Path) -> Option<Name> {
    // A link that leads nowhere is here too: it is what the user meant.
    if std::fs::symlink_metadata(model).is_ok() {
        return None;
    }
    model.to_str()?.parse().ok()
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
    // Neither here nor a name: whoever opens it says what is wrong.
    let Some(name) = name(model) else { return Ok(model.to_path_buf()) };
    let bars = Transfers::new();
    let located = hub(false)?.locate(&name, &bars).with_context(|| not_here(model))?;
    drop(bars);
    for note in located.notes {
        eprintln!("note: {note}");
    }
    Ok(located.model)
}

/// The beginning of an error about a name that may have been meant as a path.
pub fn not_here(model: &Path) -> String {
    format!("there is no file or folder {} here, and as a model of the Hub", model.display())
}
