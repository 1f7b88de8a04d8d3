//! Reading what a file says of itself: within bounds, without characters that a terminal obeys.

use std::path::Path;

use quern_tensor_io::{Checkpoint, Container, small};

use super::hub::is_repository;
use super::{FILE, GGUF_KEY, HubOrigin, MAX_STEPS, Origin, Provenance, Step, VERSION};
use crate::card::FrontMatter;

/// A longer text is no provenance.
const MAX_BYTES: u64 = 128 << 10;
/// Longer strings are cut. A command can be long, everything else is short.
const MAX_COMMAND: usize = 4000;
const MAX_TEXT: usize = 300;
/// More figures are left out.
const MAX_FIGURES: usize = 32;

impl Provenance {
    /// What a checkpoint says about how it was made; nothing if it does not say. The note says what could not be read.
    pub fn of(checkpoint: &Checkpoint) -> (Option<Self>, Option<String>) {
        match checkpoint.container() {
            Container::Gguf => match checkpoint.metadata().get(GGUF_KEY) {
                None => (None, None),
                Some(value) => Self::read(value.as_str().unwrap_or_default(), GGUF_KEY),
            },
            Container::Safetensors | Container::PyTorch => Self::of_directory(checkpoint.directory()),
        }
    }

    /// The same for a model's directory.
    pub fn of_directory(directory: &Path) -> (Option<Self>, Option<String>) {
        let path = directory.join(FILE);
        let unread = |what: &str| (None, Some(unread(FILE, what)));
        match small::read_optional(&path, MAX_BYTES) {
            Ok(None) => (None, None),
            Ok(Some(bytes)) => match String::from_utf8(bytes) {
                Ok(text) => Self::read(&text, FILE),
                Err(_) => unread("it is not UTF-8"),
            },
            Err(e) => unread(&e.kind.to_string()),
        }
    }

    /// Reads the object; `place` is named in the note.
    fn read(text: &str, place: &str) -> (Option<Self>, Option<String>) {
        if text.len() as u64 > MAX_BYTES {
            let what = format!("it has {} bytes, more than {MAX_BYTES}", text.len());
            return (None, Some(unread(place, &what)));
        }
        let value: serde_json::Value = match serde_json::from_str(text) {
            Ok(value) => value,
            Err(e) => return (None, Some(unread(place, &format!("not JSON: {e}")))),
        };
        let version = value.get("version").and_then(serde_json::Value::as_u64);
        if version != Some(VERSION.into()) {
            let what = "its version is not 1, the only one that this version of quern knows";
            return (None, Some(unread(place, what)));
        }
        match serde_json::from_value::<Self>(value) {
            Ok(mut found) => {
                if found.steps.len() > MAX_STEPS {
                    found.steps.drain(1..found.steps.len() + 1 - MAX_STEPS);
                }
                found.steps.iter_mut().for_each(clean_step);
                ((!found.steps.is_empty()).then_some(found), None)
            }
            Err(e) => (None, Some(unread(place, &clean(&e.to_string(), MAX_TEXT)))),
        }
    }
}

fn unread(place: &str, what: &str) -> String {
    format!("the provenance in {place} cannot be read and is left out: {what}")
}

impl Origin {
    /// What a checkpoint is called and where it comes from: its place in the Hub's cache, its card, its metadata. No
    /// folder above it is named.
    pub fn of(checkpoint: &Checkpoint) -> Self {
        let path = checkpoint.path();
        let gguf = checkpoint.container() == Container::Gguf;
        let hub = HubOrigin::of(path);
        let name = |path: &Path| {
            // `.`, `..` and the folder of a bare file name have no name of their own.
            let here = if path.as_os_str().is_empty() { Path::new(".") } else { path };
            let name = here.file_name().map(|n| n.to_string_lossy().into_owned());
            name.or_else(|| Some(here.canonicalize().ok()?.file_name()?.to_string_lossy().into_owned()))
        };
        let file = gguf.then(|| name(path)).flatten();
        let license = checkpoint.metadata().str("general.license").map(str::to_owned);
        let license = license.or_else(|| match checkpoint.container() {
            Container::Gguf => None,
            Container::Safetensors | Container::PyTorch => {
                FrontMatter::read(checkpoint.directory()).ok()?.license()
            }
        });
        let mut origin = Self {
            name: match &hub {
                Some(hub) => hub.repository.rsplit('/').next().unwrap_or_default().to_owned(),
                None if gguf => file.clone().unwrap_or_default(),
                None => name(checkpoint.directory()).unwrap_or_default(),
            },
            repository: hub.as_ref().map(|hub| hub.repository.clone()),
            file: file.filter(|_| hub.is_some()),
            commit: hub.map(|hub| hub.commit),
            license,
        };
        clean_origin(&mut origin);
        origin
    }
}

/// Without control characters and at most `most` characters long.
fn clean(text: &str, most: usize) -> String {
    text.chars().filter(|c| !is_control(*c)).take(most).collect()
}

/// Control characters, and those that change the direction of the text around them.
fn is_control(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

fn clean_option(text: &mut Option<String>) {
    *text = text.as_deref().map(|t| clean(t, MAX_TEXT)).filter(|t| !t.is_empty());
}

fn clean_origin(origin: &mut Origin) {
    origin.name = clean(&origin.name, MAX_TEXT);
    clean_option(&mut origin.repository);
    clean_option(&mut origin.commit);
    clean_option(&mut origin.file);
    clean_option(&mut origin.license);
    origin.repository = origin.repository.take().filter(|name| is_repository(name));
    origin.commit = origin.commit.take().filter(|c| c.bytes().all(|b| b.is_ascii_hexdigit()));
}

fn clean_step(step: &mut Step) {
    let Step { source, tool, command, calibration, imatrix, figures, evaluation } = step;
    clean_origin(source);
    *command = clean(command, MAX_COMMAND);
    let short = |text: &mut String| *text = clean(text, MAX_TEXT);
    short(&mut tool.name);
    short(&mut tool.version);
    if let Some(text) = calibration {
        short(&mut text.name);
        short(&mut text.sha256);
    }
    for file in imatrix.iter_mut().chain(evaluation.iter_mut().map(|e| &mut e.text)) {
        short(&mut file.name);
        short(&mut file.sha256);
    }
    let kept = std::mem::take(figures).into_iter().take(MAX_FIGURES);
    *figures = kept.map(|(name, value)| (clean(&name, MAX_TEXT), value)).collect();
}
