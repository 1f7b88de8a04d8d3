//! What would make a checkpoint fit its readers.

use super::{Reader, Reason};

/// What would make it fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// One of these bits per weight.
    Bits(&'static [u32]),
    /// One of these group sizes, which fit all modules of the reason.
    GroupSizes(Vec<Option<usize>>),
    /// One zero point for all (`sym`).
    Symmetric,
    /// A rule that leaves the modules as they are.
    LeaveOut,
    /// No rules for single modules.
    NoRules,
    /// The same settings for the modules that are joined.
    SameSettings,
    /// No change of the checkpoint: GPT-QModel itself reads it.
    GptqModel,
}

/// What would make modules of these numbers of columns fit `reader`, which refuses them for `reason`.
pub(super) fn remedy(reader: Reader, reason: &Reason, columns: &[usize]) -> Remedy {
    match reason {
        Reason::Bits(_) => Remedy::Bits(reader.bits()),
        Reason::GroupSizes(_) | Reason::PartialGroups { .. } | Reason::OrderOfPartialGroups => {
            let divides = |size: usize| columns.iter().all(|c| c.is_multiple_of(size));
            let sizes = reader.group_sizes().iter().copied();
            Remedy::GroupSizes(sizes.filter(|size| size.is_none_or(divides)).collect())
        }
        Reason::Columns { .. } | Reason::Rows { .. } => match reader {
            // It reads no rules.
            Reader::Transformers => Remedy::GptqModel,
            Reader::GptqModel | Reader::Vllm | Reader::ExLlamaV2 => Remedy::LeaveOut,
        },
        Reason::Asymmetric | Reason::ZeroPointZero => Remedy::Symmetric,
        Reason::Rules => Remedy::NoRules,
        Reason::Fused => Remedy::SameSettings,
    }
}
