//! Where the bytes of a conversion go.

use std::path::Path;

use quern_model::hugging_face::{self, DirectoryOptions};
use quern_model::provenance::Provenance;
use quern_tensor_io::Result;
use quern_tensor_io::gguf::{SplitWriter, Writer};

use crate::plan::{Around, ConvertPlan, Directory, figures, prefix};

/// What the plan's directory will hold, where it is one.
pub(crate) fn directory(plan: &ConvertPlan<'_>) -> Option<DirectoryOptions> {
    match &plan.around {
        Around::Gguf(_) => None,
        Around::Directory(around) => Some(directory_options(plan, around)),
    }
}

fn directory_options(plan: &ConvertPlan<'_>, around: &Directory) -> DirectoryOptions {
    DirectoryOptions {
        tensors: plan.tensors(),
        config: around.config.clone(),
        extra_files: around.files.clone(),
        companions: around.companions,
        force: plan.options.force,
        inputs: plan.options.inputs.clone(),
        shard_bytes: plan.options.shard_bytes,
    }
}

/// The output under construction. Dropped before [`Sink::finish`], nothing remains.
pub(crate) enum Sink {
    Gguf(Writer),
    Splits(SplitWriter),
    Directory(Box<hugging_face::Directory>, Option<Provenance>),
}

impl Sink {
    /// Starts the output.
    pub fn create(plan: &ConvertPlan<'_>, path: &Path) -> Result<Self> {
        let (options, tensors) = (&plan.options, plan.tensors());
        let inputs = options.inputs.clone().with_model(plan.source());
        let existing = inputs.unless_read(options.force);
        match &plan.around {
            Around::Gguf(metadata) => match &options.split {
                None => Writer::create(path, metadata, &tensors, existing).map(Self::Gguf),
                Some(split) => {
                    let parts = split.parts(&prefix(path), metadata, &tensors)?;
                    SplitWriter::create(parts, existing).map(Self::Splits)
                }
            },
            Around::Directory(around) => {
                let written = directory_options(plan, around);
                let directory = hugging_face::Directory::create(path, plan.source(), written)?;
                let provenance = options.provenance.clone();
                let provenance = provenance.map(|p| p.with_figures(figures(&plan.view, plan.rows())));
                Ok(Self::Directory(Box::new(directory), provenance))
            }
        }
    }

    /// Appends bytes to the current tensor; one call cannot span two tensors.
    pub fn write(&mut self, data: &[u8]) -> Result<()> {
        match self {
            Self::Gguf(writer) => writer.write(data),
            Self::Splits(writer) => writer.write(data),
            Self::Directory(directory, _) => directory.write(data),
        }
    }

    /// Checks that everything is there and gives the output its name. Returns the bytes of the tensor files.
    pub fn finish(self) -> Result<u64> {
        match self {
            Self::Gguf(writer) => writer.finish(),
            Self::Splits(writer) => writer.finish(),
            Self::Directory(directory, provenance) => directory.finish_with(provenance),
        }
    }
}
