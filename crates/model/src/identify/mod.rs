//! Identifies a file or a folder that is not a model that quern reads: adapters, projectors, importance matrices,
//! pointers of Git LFS, web pages, archives, other programs' formats and so on, each with what to do about it.
//!
//! ```text
//! open(path) ── Checkpoint::open ─┬─ failed ──> of_file, of_folder   what is there instead     (bytes, folder)
//!                                 └─ opened ──> of_checkpoint        what its names say        (checkpoint)
//! ```
//!
//! Every command opens its model with [`open`], so that all give the same message. What an architecture's name means is
//! decided in the module `class`.

mod bytes;
mod checkpoint;
pub(crate) mod class;
mod folder;
pub(crate) mod nearest;
mod quantized;
mod words;

pub use nearest::{Stated, state_architecture};

use std::io;
use std::path::{Path, PathBuf};

use quern_tensor_io::{Checkpoint, Error, ErrorKind, Result, small};

/// What a file or a folder is, if it is not a model that quern reads. Its text says so in one sentence, with a remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// A LoRA or another adapter of PEFT, mlx-lm or llama.cpp.
    Adapter {
        /// The method: `LoRA`, `IA3`.
        method: String,
        /// The model it is for, where the files name it.
        base: Option<String>,
    },
    /// A whole model whose layers carry a LoRA adapter beside their weights.
    UnmergedAdapter,
    /// The vision or audio encoder of a multimodal model, as GGUF (`mmproj`).
    Projector,
    /// An importance matrix of llama-imatrix or quern, as GGUF or `.dat`.
    ImportanceMatrix,
    /// A control vector, as GGUF.
    ControlVector,
    /// A GGUF file of another type than `model`.
    OtherGguf {
        /// What `general.type` says.
        kind: String,
    },
    /// A GGUF file without tensors.
    Vocabulary,
    /// A GGUF file with one tensor an expert, as until March 2024.
    UnstackedExperts,
    /// Layers quantized by a method that quern does not read.
    Quantized {
        /// The method, as users know it.
        method: String,
    },
    /// The original layout of Meta's and Mistral's releases: `consolidated.*`, `params.json`.
    OriginalLayout,
    /// A pointer of Git LFS in place of the file.
    LfsPointer {
        /// Bytes of the file it stands for.
        bytes: Option<u64>,
    },
    /// A web page saved under the file's name.
    WebPage,
    /// What a server answered instead of the file.
    ServerAnswer {
        /// Its first words.
        text: String,
    },
    /// An empty file.
    Empty,
    /// A download that has not finished.
    Unfinished,
    /// A file of llama.cpp from before GGUF.
    OldGgml,
    /// Weights or graphs of another program.
    Foreign {
        /// What they are, with the article: `an ONNX model`.
        what: &'static str,
    },
    /// A NeMo archive.
    Nemo,
    /// An archive that may hold a model.
    Archive {
        /// Its kind: `zip`, `tar`, `gzip`.
        kind: &'static str,
    },
    /// A program with a model inside.
    Llamafile,
    /// A file that belongs beside the weights.
    Settings {
        /// What it is: `the model's configuration`.
        what: &'static str,
    },
    /// A folder without files.
    EmptyFolder,
    /// A folder without weights.
    NoWeights {
        /// Some of the files it holds.
        found: Vec<String>,
    },
    /// A folder whose model is one level down.
    Below {
        /// The folders with weights.
        folders: Vec<String>,
    },
    /// A pipeline of diffusers.
    Diffusers,
    /// A folder of the Hub's cache above its snapshots.
    HubCache {
        /// The model: `org/name`.
        name: Option<String>,
    },
    /// Parts of a checkpoint as each process of a training saved them.
    Distributed,
}

/// An [`Identity`] and the file or folder that has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identified {
    /// The file or folder.
    pub file: PathBuf,
    /// What it is.
    pub identity: Identity,
}

impl Identified {
    fn new(file: impl AsRef<Path>, identity: Identity) -> Self {
        Self { file: file.as_ref().to_path_buf(), identity }
    }

    /// The error that names the file, what it is, and what to do.
    pub fn error(&self) -> Error {
        Error::unsupported(&self.file, self.identity.to_string())
    }
}

/// Opens the model at `path`, a file or a folder.
///
/// # Errors
/// As [`Checkpoint::open`]; and what is no model that quern reads is named for what it is.
pub fn open(path: &Path) -> Result<Checkpoint> {
    let checkpoint = open_any(path)?;
    match of_checkpoint(&checkpoint) {
        Some(found) => Err(found.error()),
        None => Ok(checkpoint),
    }
}

/// As [`open`], but opens adapters, projectors and whatever else can be looked into too: [`of_checkpoint`] names
/// them.
///
/// # Errors
/// As [`open`], for files that are no container of tensors.
pub fn open_any(path: &Path) -> Result<Checkpoint> {
    Checkpoint::open(path).map_err(|error| explained(path, error))
}

/// What an opened checkpoint is, if it is not a model that quern reads. Looks at names, metadata and the beginnings
/// of the files beside the weights.
pub fn of_checkpoint(checkpoint: &Checkpoint) -> Option<Identified> {
    checkpoint::identify(checkpoint)
}

/// What a file is by its content or, where that says nothing, its name. `None` for what may be a model.
pub fn of_file(path: &Path) -> Option<Identity> {
    match bytes::of_start(path) {
        // Archives have names that say more.
        Some(archive @ Identity::Archive { .. }) => bytes::of_name(path).or(Some(archive)),
        Some(found) => Some(found),
        None => bytes::of_name(path),
    }
}

/// What the content of a file shows; `start` is its beginning.
pub(crate) fn of_content(start: &[u8]) -> Option<Identity> {
    bytes::of_bytes(start)
}

/// What a folder that holds no model is.
pub fn of_folder(path: &Path) -> Option<Identified> {
    folder::identify(path)
}

/// A better error for what could not be opened, if there is one.
fn explained(path: &Path, error: Error) -> Error {
    let found = match &error.kind {
        ErrorKind::Io(e) if e.kind() == io::ErrorKind::NotFound && error.file == path => {
            let what =
                "no such file or directory; a model is a folder, a file or a name on the Hub (org/name)";
            return Error::refused(path, what);
        }
        ErrorKind::Io(_) | ErrorKind::Changed(_) => None,
        ErrorKind::NoModel => of_folder(path),
        ErrorKind::SeveralModels(names) => folder::of_several(path, names),
        // Of a file of a folder only the content counts: its name is what led to it.
        ErrorKind::Malformed(_) | ErrorKind::Unsupported(_) | ErrorKind::Refused(_) => {
            let identity = if error.file == path { of_file(path) } else { bytes::of_start(&error.file) };
            identity.map(|identity| Identified::new(&error.file, identity))
        }
    };
    found.map_or(error, |found| found.error())
}

/// The first bytes of a regular file; nothing of anything else.
fn start_of(path: &Path) -> Option<Vec<u8>> {
    const START: u64 = 1024;
    small::start(path, START).ok()
}

/// A small JSON object beside the weights; `None` if there is none that can be read.
fn object(path: &Path) -> Option<serde_json::Map<String, serde_json::Value>> {
    match small::json(&small::read(path, small::CONFIGURATION).ok()?).ok()? {
        serde_json::Value::Object(object) => Some(object),
        _ => None,
    }
}

/// A text from a file, short enough and fit for a message.
fn brief(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(80).collect()
}
