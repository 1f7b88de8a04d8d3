//! The files that a command reads, which none of its outputs may replace.
//!
//! A file is known by device and number, so that links, hard links, linked folders and names in another case lead to
//! the same one. Whoever creates an output that may replace something says by [`Existing`] what is being read.

use std::fs;
use std::path::{Path, PathBuf};

use super::folder_of;
use crate::{Checkpoint, Container, Error, Result};

/// Small files beside weights: settings, indexes, tokenizers, templates, vocabularies, cards.
const COMPANIONS: [&str; 7] = ["json", "jinja", "model", "txt", "tiktoken", "vocab", "md"];

/// The files and folders that a command reads.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    files: Vec<Input>,
    folders: Vec<Input>,
}

#[derive(Clone, Debug)]
struct Input {
    what: What,
    path: PathBuf,
}

/// What an input is to the command.
#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    /// Tensors.
    Weights,
    /// Beside them.
    OfModel,
    /// In words: "the calibration text".
    Other(String),
}

/// Whether an output may replace what has its name: never an input.
#[derive(Clone, Copy, Debug)]
pub struct Existing<'a> {
    pub(super) force: bool,
    inputs: &'a Inputs,
}

/// For an output of a program that reads nothing: `true` replaces whatever a file or a model's folder is there.
impl From<bool> for Existing<'_> {
    fn from(force: bool) -> Self {
        const NOTHING: &Inputs = &Inputs { files: Vec::new(), folders: Vec::new() };
        Self { force, inputs: NOTHING }
    }
}

impl Existing<'_> {
    /// Refuses an input as an output that is a file.
    pub(super) fn check_file(&self, output: &Path) -> Result<()> {
        self.inputs.refuse_file(output)
    }

    /// Refuses an output that is a folder of inputs.
    pub(super) fn check_folder(&self, output: &Path) -> Result<()> {
        self.inputs.refuse_folder(output)
    }
}

impl Inputs {
    /// The files of a model: tensors, and for other containers than GGUF the small files beside them.
    pub fn of(checkpoint: &Checkpoint) -> Self {
        let mut inputs = Self::default();
        inputs.add_model(checkpoint);
        inputs
    }

    /// Adds the files of a model.
    pub fn add_model(&mut self, checkpoint: &Checkpoint) {
        let mut add = |what, path: &Path| self.files.push(Input { what, path: path.to_path_buf() });
        checkpoint.files().iter().for_each(|file| add(What::Weights, file));
        if checkpoint.path().is_file() {
            // An index, or a part.
            add(What::Weights, checkpoint.path());
        }
        if checkpoint.container() != Container::Gguf {
            let folder = match checkpoint.directory() {
                folder if folder.as_os_str().is_empty() => Path::new("."),
                folder => folder,
            };
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let path = entry.path();
                let end = path.extension().map(|end| end.to_string_lossy().to_ascii_lowercase());
                if end.is_some_and(|end| COMPANIONS.contains(&end.as_str())) {
                    add(What::OfModel, &path);
                }
            }
        }
        if checkpoint.path().is_dir() {
            self.folders.push(Input { what: What::OfModel, path: checkpoint.path().to_path_buf() });
        }
    }

    /// Adds another file; `what` it is, in words: "the calibration text".
    pub fn add_file(&mut self, what: &str, path: &Path) {
        self.files.push(Input { what: What::Other(what.to_owned()), path: path.to_path_buf() });
    }

    /// Adds a folder that is read, or must stay as it is, with everything in it.
    pub fn add_folder(&mut self, what: &str, path: &Path) {
        self.folders.push(Input { what: What::Other(what.to_owned()), path: path.to_path_buf() });
    }

    /// The same, with the files of a model.
    #[must_use]
    pub fn with_model(mut self, checkpoint: &Checkpoint) -> Self {
        self.add_model(checkpoint);
        self
    }

    /// Whether an output may replace what has its name: with `force`, unless it is one of these.
    pub fn unless_read(&self, force: bool) -> Existing<'_> {
        Existing { force, inputs: self }
    }

    /// Refuses an output that is one of the files, under whatever name.
    ///
    /// # Errors
    /// It is.
    pub fn refuse_file(&self, output: &Path) -> Result<()> {
        let Some(found) = id(output) else { return Ok(()) };
        match self.files.iter().find(|input| id(&input.path).is_some_and(|id| id == found)) {
            Some(input) => Err(Error::refused(output, input.is_this(output))),
            None => Ok(()),
        }
    }

    /// Refuses an output folder that is, holds or is in a folder of the model, or holds one of the other files.
    ///
    /// # Errors
    /// It is one of these.
    pub fn refuse_folder(&self, output: &Path) -> Result<()> {
        let refused =
            |what: String| Err(Error::refused(output, format!("{what}; choose another name for the output")));
        if let Some(found) = id(output) {
            let inside = |path: &Path| ancestors(path).any(|id| id == found);
            let mut files = self.files.iter().filter(|input| inside(folder_of(&input.path)));
            let mut folders = self.folders.iter().filter(|input| inside(&input.path));
            if let Some(input) = files.next().or_else(|| folders.next()) {
                return refused(format!("{} is stored there", input.words()));
            }
            // Through a link, such as those of the Hub's cache.
            if let Some(input) = self.files.iter().find(|input| inside(&input.path)) {
                let of = match &input.what {
                    What::Weights | What::OfModel => " of the model being read",
                    What::Other(_) => "",
                };
                return refused(format!("{}{of} leads there", input.path.display()));
            }
        }
        let above: Vec<_> = ancestors(folder_of(output)).collect();
        match self.folders.iter().find(|input| id(&input.path).is_some_and(|id| above.contains(&id))) {
            Some(Input { what: What::Other(what), .. }) => refused(format!("this is inside {what}")),
            Some(_) => refused("this is inside the folder of the model being read".to_owned()),
            None => Ok(()),
        }
    }
}

impl Input {
    /// What it is.
    fn words(&self) -> String {
        match &self.what {
            What::Weights | What::OfModel => "the model being read".to_owned(),
            What::Other(what) => what.clone(),
        }
    }

    /// Why it cannot be `output`.
    fn is_this(&self, output: &Path) -> String {
        let same = match self.path == output {
            true => String::new(),
            false => format!(" ({})", self.path.display()),
        };
        let what = match &self.what {
            What::Weights => format!("this is the file being read{same}"),
            What::OfModel => format!("this is a file of the model being read{same}"),
            What::Other(what) => format!("this is {what}{same}, which this command reads"),
        };
        format!("{what}; choose another name for the output")
    }
}

/// The folders that a path is in, with itself, links resolved.
fn ancestors(path: &Path) -> impl Iterator<Item = Id> {
    let real = fs::canonicalize(path).unwrap_or_default();
    let ids: Vec<_> =
        real.ancestors().filter(|folder| !folder.as_os_str().is_empty()).filter_map(id).collect();
    ids.into_iter()
}

/// Device and number of a file or folder.
#[cfg(unix)]
type Id = (u64, u64);

#[cfg(unix)]
fn id(path: &Path) -> Option<Id> {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).map(|found| (found.dev(), found.ino())).ok()
}

#[cfg(not(unix))]
type Id = PathBuf;

#[cfg(not(unix))]
fn id(path: &Path) -> Option<Id> {
    fs::canonicalize(path).ok()
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn says(result: Result<()>, part: &str) {
        let text = result.unwrap_err().to_string();
        assert!(text.contains(part) && text.contains("choose another name"), "{text}");
    }

    #[test]
    fn a_file_is_known_by_any_name() {
        let scratch = tempfile::tempdir().unwrap();
        let at = |name: &str| scratch.path().join(name);
        fs::create_dir(at("real")).unwrap();
        fs::write(at("real/text.txt"), "text").unwrap();
        symlink("real", at("linked")).unwrap();
        symlink("real/text.txt", at("soft")).unwrap();
        fs::hard_link(at("real/text.txt"), at("hard")).unwrap();
        fs::write(at("other"), "text").unwrap();
        let mut inputs = Inputs::default();
        inputs.add_file("the calibration text", &at("real/text.txt"));
        for name in ["real/text.txt", "linked/text.txt", "soft", "hard", "real/../linked/../soft"] {
            says(inputs.refuse_file(&at(name)), "this is the calibration text");
        }
        let text = inputs.refuse_file(&at("soft")).unwrap_err().to_string();
        assert!(text.contains("soft: ") && text.contains("real/text.txt"), "{text}");
        for name in ["other", "new", "linked/new"] {
            inputs.refuse_file(&at(name)).unwrap();
        }
    }

    #[test]
    fn a_folder_is_refused_that_is_holds_or_is_in_a_folder_being_read() {
        let scratch = tempfile::tempdir().unwrap();
        let at = |name: &str| scratch.path().join(name);
        fs::create_dir_all(at("above/model/inner")).unwrap();
        fs::create_dir_all(at("blobs")).unwrap();
        fs::write(at("blobs/1"), "").unwrap();
        symlink("../../blobs/1", at("above/model/weights")).unwrap();
        symlink("above", at("linked")).unwrap();
        let mut inputs = Inputs::default();
        inputs.add_file("the weights", &at("above/model/weights"));
        inputs.add_folder("the model", &at("above/model"));
        for name in ["above", "above/model", "linked", "linked/model"] {
            says(inputs.refuse_folder(&at(name)), "is stored there");
        }
        says(inputs.refuse_folder(&at("blobs")), "leads there");
        for name in ["above/model/inner", "above/model/new", "linked/model/new"] {
            says(inputs.refuse_folder(&at(name)), "this is inside the model");
        }
        for name in ["above/new", "new", "linked/new"] {
            inputs.refuse_folder(&at(name)).unwrap();
        }
    }
}
