//! Where the bytes of a conversion go.

use std::fs;
use std::path::Path;

use quern_model::hugging_face::{self, DirectoryOptions};
use quern_tensor_io::gguf::{SplitWriter, Writer};
use quern_tensor_io::{Error, Result};

use crate::plan::{Around, Plan, prefix};

/// The output under construction. Dropped before [`Sink::finish`], nothing remains.
pub(crate) enum Sink {
    Gguf(Writer),
    Splits(SplitWriter),
    Directory(Box<hugging_face::Directory>),
}

impl Sink {
    /// Starts the output.
    pub fn create(plan: &Plan<'_>, output: &Path) -> Result<Self> {
        let (options, tensors) = (&plan.options, plan.tensors());
        match &plan.around {
            Around::Gguf(metadata) => match &options.split {
                None => {
                    refuse_input(plan, output)?;
                    Writer::create(output, metadata, &tensors, options.force).map(Self::Gguf)
                }
                Some(split) => {
                    let parts = split.parts(&prefix(output), metadata, &tensors)?;
                    parts.iter().try_for_each(|part| refuse_input(plan, &part.path))?;
                    SplitWriter::create(parts, options.force).map(Self::Splits)
                }
            },
            Around::Directory(around) => {
                let options = DirectoryOptions {
                    tensors,
                    config: around.config.clone(),
                    extra_files: around.files.clone(),
                    companions: around.companions,
                    force: options.force,
                    shard_bytes: options.shard_bytes,
                };
                let directory = hugging_face::Directory::create(output, plan.source(), options)?;
                Ok(Self::Directory(Box::new(directory)))
            }
        }
    }

    /// Appends bytes to the current tensor; one call cannot span two tensors.
    pub fn write(&mut self, data: &[u8]) -> Result<()> {
        match self {
            Self::Gguf(writer) => writer.write(data),
            Self::Splits(writer) => writer.write(data),
            Self::Directory(directory) => directory.write(data),
        }
    }

    /// Checks that everything is there and gives the output its name. Returns the bytes of the tensor files.
    pub fn finish(self) -> Result<u64> {
        match self {
            Self::Gguf(writer) => writer.finish(),
            Self::Splits(writer) => writer.finish(),
            Self::Directory(directory) => directory.finish(),
        }
    }
}

/// Refuses to write over a file that is being read, under whatever name.
fn refuse_input(plan: &Plan<'_>, output: &Path) -> Result<()> {
    match plan.source().files().iter().any(|input| same_file(input, output)) {
        true => {
            Err(Error::refused(output, "this is the file being read; choose another name for the output"))
        }
        false => Ok(()),
    }
}

/// Whether both names lead to one existing file, through links too.
fn same_file(a: &Path, b: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let id = |path: &Path| fs::metadata(path).map(|m| (m.dev(), m.ino())).ok();
        id(a).is_some_and(|a| Some(a) == id(b))
    }
    #[cfg(not(unix))]
    {
        fs::canonicalize(a).is_ok_and(|a| fs::canonicalize(b).is_ok_and(|b| a == b))
    }
}
