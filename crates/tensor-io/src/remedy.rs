//! What mends an error, for a program to put into its own words: a command line names a flag, a window a button.

use crate::ElementType;

/// What mends an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Allow the output to replace what is there, or give it another name.
    ReplaceOutput,
    /// Start from the original weights, or allow weights that are quantized to be quantized again.
    AllowRequantize,
    /// Load the weights as they are stored, without quantizing them on the way.
    LoadAsStored,
    /// Convert the model to safetensors first, or start from the original checkpoint.
    ConvertToSafetensors,
    /// Convert to one of these element types.
    ChooseDtype(&'static [ElementType]),
    /// Ask for no element type: the numbers then stay as they are.
    KeepDtype,
    /// Decode packed layers to a plain element type, or quantize the decoded values again.
    DecodeOrRequantize,
    /// Quantize the model's weights with GPTQ instead.
    QuantizeWithGptq,
    /// Choose another element type for the tensor.
    ChooseTensorType,
    /// Give an importance matrix with an entry for the tensor.
    GiveImatrix,
    /// Look up which architectures are supported.
    ListArchitectures,
    /// Treat the model as one of this architecture, whose description it matches.
    StateArchitecture(&'static str),
    /// Check whether all weights are finite.
    CheckWeights,
    /// Check the model, which lists all its problems.
    ListProblems,
    /// Look up which metadata keys there are.
    ListMetadata,
    /// Look up which tensors there are.
    ListTensors,
    /// Name the type of a metadata key that is new.
    TypeNewKey {
        /// The change with a type, as `KEY:TYPE=VALUE`.
        edit: String,
    },
    /// Repeat the job that was stopped as it was, or start it anew.
    RestartJob,
    /// Use a larger context, or a shorter text.
    LargerContext,
    /// Generate fewer tokens, or shorten the prompt.
    FewerTokens,
    /// Use a larger context, or generate fewer tokens.
    LargerContextOrFewerTokens,
    /// Take a longer text, or a smaller context.
    LongerText,
    /// Raise the bound on memory, or make the cache of keys and values smaller.
    RaiseMemory,
    /// Free memory, or make the cache of keys and values smaller.
    FreeMemory,
    /// Raise the bound on memory, or convert the model to GGUF, which runs from the file.
    RaiseMemoryOrUseGguf,
    /// Use a smaller context or, where they are not yet, store keys and values in 8 bits.
    SmallerCache {
        /// Whether keys and values can still be stored in fewer bits.
        quantize: bool,
    },
    /// Put fewer layers on GPUs, or make the cache of keys and values smaller.
    FewerGpuLayers {
        /// So many fit.
        fitting: usize,
    },
    /// Compute on the CPU.
    UseCpu,
    /// Choose a chat template.
    ChooseChatTemplate {
        /// The names of those that come with quern.
        builtin: Vec<&'static str>,
    },
    /// Use models from the cache only.
    UseCache,
    /// Allow the network to be used once.
    GoOnline,
    /// Free space on the disk, or write to another one.
    FreeSpace,
    /// Calibrate with fewer or shorter samples.
    LessCalibration,
    /// Take a smaller context.
    SmallerContext,
    /// Write to another folder, or set `HF_HUB_CACHE`.
    ChooseFolder,
    /// Install the NVIDIA driver, or compute on the CPU.
    InstallNvidiaDriver,
    /// Install a newer NVIDIA driver, or compute on the CPU.
    UpdateNvidiaDriver,
    /// Put fewer layers on the card, or make the cache of keys and values smaller.
    LessOnCard,
}
