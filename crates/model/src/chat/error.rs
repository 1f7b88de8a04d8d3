//! What can go wrong with a chat template.

use std::path::PathBuf;

use quern_tensor_io::Remedy;

use super::builtin;

/// A failure, with the template it happened in.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChatError {
    /// The model's files have no chat template.
    #[error("{}: the model has no chat template", .model.display())]
    None {
        /// The checkpoint.
        model: PathBuf,
    },
    /// A name that is no template.
    #[error("there is no chat template {name:?} and no such file; known are {known}")]
    Unknown {
        /// The name given.
        name: String,
        /// Names in the model, and those that come with quern.
        known: String,
    },
    /// A template file cannot be read.
    #[error("{}: cannot read the chat template: {error}", .file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A template that is no valid Jinja, or fails.
    #[error("chat template {template}{}: {what}", Line(*.line))]
    Template {
        /// Where it comes from.
        template: String,
        /// Line of the template, from 1 on, if known.
        line: Option<usize>,
        /// What is wrong.
        what: String,
    },
    /// The template itself refuses the messages (by `raise_exception`).
    #[error("chat template {template}{}: it refuses these messages: {what}", Line(*.line))]
    Refused {
        /// Where it comes from.
        template: String,
        /// Line of the template, from 1 on, if known.
        line: Option<usize>,
        /// In its own words.
        what: String,
    },
    /// The prompt cannot be converted to tokens.
    #[error(transparent)]
    Tokenizer(#[from] quern_tensor_io::Error),
}

impl ChatError {
    /// What mends it.
    pub fn remedy(&self) -> Option<Remedy> {
        match self {
            Self::None { .. } => {
                let builtin = builtin::BUILTINS.iter().map(|b| b.name).collect();
                Some(Remedy::ChooseChatTemplate { builtin })
            }
            Self::Tokenizer(e) => e.remedy(),
            Self::Unknown { .. } | Self::File { .. } | Self::Template { .. } | Self::Refused { .. } => None,
        }
    }
}

/// `, line 7`, or nothing.
struct Line(Option<usize>);

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.map_or(Ok(()), |line| write!(f, ", line {line}"))
    }
}
