//! What can go wrong between a checkpoint and its text.

use quern_tensor_io::Remedy;

/// Result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Not as a source: the text has its words already.
impl From<quern_compute::Error> for Error {
    fn from(error: quern_compute::Error) -> Self {
        match error {
            quern_compute::Error::CacheMemory { .. } => {
                Self::Memory { what: error.to_string(), remedy: Remedy::SmallerCache { quantize: true } }
            }
            error if error.is_gpu() => Self::Gpu { what: None, error },
            error => Self::Compute(error),
        }
    }
}

/// A failure, with what it was about.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or understood, or one of its tensors does not fit the config; names file and
    /// tensor.
    #[error(transparent)]
    File(#[from] quern_tensor_io::Error),
    /// The chat template is missing, cannot be read, fails, or refuses the messages.
    #[error(transparent)]
    Chat(#[from] quern_model::ChatError),
    /// Shapes that do not fit each other inside the forward pass: a fault of quern, not of the file.
    #[error("in the forward pass: {0}")]
    Compute(quern_compute::Error),
    /// A GPU cannot be used, or has no memory left.
    #[error("{}{error}", what.as_ref().map_or(String::new(), |what| format!("{what}: ")))]
    Gpu {
        /// What was being done, where it helps.
        what: Option<String>,
        /// What the GPU or its driver says.
        error: quern_compute::Error,
    },
    /// An observer of the forward pass stopped it.
    #[error(transparent)]
    Observer(crate::ObserverError),
    /// More positions than the session has room for. Raised before anything is computed.
    #[error("{held} tokens are in the context and {wanted} more do not fit into its {context} positions")]
    ContextFull {
        /// Positions already used.
        held: usize,
        /// Tokens that were to be added.
        wanted: usize,
        /// Positions of the session.
        context: usize,
    },
    /// The prompt and what is to be generated do not fit into the context. Raised before anything is computed.
    #[error(
        "the prompt has {prompt} tokens and {limit} were asked for: together they do not fit into {context} \
         positions{}",
        if *.context == *.trained { ", which is all the model was trained for" } else { "" },
    )]
    NoRoom {
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens that were to be generated.
        limit: usize,
        /// Positions there would be.
        context: usize,
        /// Positions the model was trained for.
        trained: usize,
    },
    /// A token id outside the vocabulary.
    #[error("token {token} is outside the model's vocabulary of {vocabulary}")]
    Token {
        /// The id given.
        token: u32,
        /// Entries of the embedding table.
        vocabulary: usize,
    },
    /// A text too short to be scored.
    #[error("the text has {tokens} tokens; perplexity at context {context} needs at least {needed}")]
    TextTooShort {
        /// Tokens of the text, BOS included.
        tokens: usize,
        /// Tokens it should have.
        needed: usize,
        /// Context asked for.
        context: usize,
    },
    /// An option out of its range; the text names the option and the range.
    #[error("{0}")]
    Option(String),
    /// The logits hold a NaN or an infinity where a finite number is needed.
    #[error(
        "the model's output is not finite: its weights hold NaN or infinite values, or an activation overflowed"
    )]
    NotFinite,
    /// Gradients were asked for of a model whose gradients are not known here.
    #[error("gradients of this model are not supported: {what}")]
    NoGradients {
        /// What is not supported.
        what: &'static str,
    },
    /// Queries that grow with their position, in layers on a GPU.
    #[error(
        "the model's queries grow from position {context} on, which is computed on the CPU only; run it with all layers \
         on the CPU, or with a text of at most {context} tokens"
    )]
    QueryGrowth {
        /// Positions before they do.
        context: usize,
    },
    /// A device was asked for that cannot be used.
    #[error(transparent)]
    Device(#[from] crate::placement::DeviceError),
    /// There is not enough memory; the text has the numbers.
    #[error("{what}")]
    Memory {
        /// What does not fit, and where.
        what: String,
        /// What mends it.
        remedy: Remedy,
    },
}

impl Error {
    /// Whether a GPU has too little memory, or RAM for transfers to it.
    pub fn is_gpu_memory(&self) -> bool {
        match self {
            Self::Gpu { error, .. } | Self::Compute(error) => error.is_gpu_memory(),
            _ => false,
        }
    }

    /// An error of a GPU with what was being done there, unless it has that already.
    pub(crate) fn on_gpu(self, what: impl FnOnce() -> String) -> Self {
        match self {
            Self::Gpu { what: None, error } => Self::Gpu { what: Some(what()), error },
            other => other,
        }
    }

    /// What mends it, where a program must put it into words.
    pub fn remedy(&self) -> Option<Remedy> {
        match self {
            Self::File(error) => error.remedy(),
            Self::Chat(error) => error.remedy(),
            Self::ContextFull { .. } => Some(Remedy::LargerContext),
            Self::NoRoom { context, trained, .. } if context == trained => Some(Remedy::FewerTokens),
            Self::NoRoom { .. } => Some(Remedy::LargerContextOrFewerTokens),
            Self::TextTooShort { .. } => Some(Remedy::LongerText),
            Self::NotFinite => Some(Remedy::CheckWeights),
            Self::Device(error) => error.remedy(),
            Self::Memory { remedy, .. } => Some(remedy.clone()),
            Self::Gpu { error, .. } => error.remedy(),
            Self::Observer(_)
            | Self::Compute(_)
            | Self::Token { .. }
            | Self::Option(_)
            | Self::NoGradients { .. }
            | Self::QueryGrowth { .. } => None,
        }
    }
}
