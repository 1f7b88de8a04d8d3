//! What does not fit, and what mends it.

use std::fmt;

use quern_tensor_io::Remedy;

/// What does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoFit {
    /// The layers asked for are more than GPUs can hold.
    #[error(
        "{layers} layers (from {} on) do not fit on the GPU{}: they take {}, and {} can be used; {}",
        unit(*.first, *.blocks), if *.gpus > 1 { "s" } else { "" }, mib(*.needed), mib(*.room), fit(*.fitting)
    )]
    Gpu {
        /// So many were to be there.
        layers: usize,
        /// The first of them: the number of a block, or the number of blocks for the head.
        first: usize,
        /// The number of blocks.
        blocks: usize,
        /// Bytes that one GPU would need: weights, keys and values, buffers.
        needed: u64,
        /// Bytes that may be used on all of them.
        room: u64,
        /// Number of GPUs.
        gpus: usize,
        /// So many fit.
        fitting: usize,
    },
    /// RAM is too small for even one unit at a time.
    #[error(
        "{} of memory {} too little: the largest layer takes {}, weights made while loading {}, keys and values {}, \
         buffers {}, everything else {}",
        mib(*.bound), if *.asked { "to be used is" } else { "that the system has free is" },
        mib(*.window), mib(*.made), mib(*.cache), mib(*.scratch), mib(*.other)
    )]
    Ram {
        /// Bytes that may be used.
        bound: u64,
        /// By the user.
        asked: bool,
        /// Bytes of the largest unit.
        window: u64,
        /// Bytes of weights that are made while loading and must stay.
        made: u64,
        /// Bytes of keys and values.
        cache: u64,
        /// Bytes of buffers.
        scratch: u64,
        /// Bytes of the rest of the process.
        other: u64,
    },
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}

/// A unit in words.
fn unit(number: usize, blocks: usize) -> String {
    if number < blocks { format!("block {number}") } else { "the head".to_owned() }
}

/// So many layers fit, in words.
fn fit(layers: usize) -> String {
    match layers {
        0 => "not even the last one fits".to_owned(),
        1 => "only the last one fits".to_owned(),
        _ => format!("the last {layers} fit"),
    }
}

impl NoFit {
    /// What mends it.
    pub fn remedy(&self) -> Remedy {
        match *self {
            Self::Gpu { fitting, .. } => Remedy::FewerGpuLayers { fitting },
            Self::Ram { asked: true, .. } => Remedy::RaiseMemory,
            Self::Ram { asked: false, .. } => Remedy::FreeMemory,
        }
    }
}

impl From<NoFit> for crate::Error {
    fn from(error: NoFit) -> Self {
        Self::Memory { what: error.to_string(), remedy: error.remedy() }
    }
}

/// A card's driver refused memory that was planned, because somebody else has taken it meanwhile.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "device {index} ({name}) has no memory for {what}: {} were to be allocated, and {} of {} are free",
    mib(*.bytes), mib(*.free), mib(*.total)
)]
pub struct Refused {
    /// The card's number.
    pub index: usize,
    /// The card's name.
    pub name: String,
    /// What the memory was for.
    pub what: Wanted,
    /// Bytes that were to be allocated.
    pub bytes: u64,
    /// Bytes that are free.
    pub free: u64,
    /// Bytes of the card.
    pub total: u64,
}

/// What memory of a card is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The weights of a block.
    Block(usize),
    /// The weights of the head.
    Head,
    /// Keys and values of a block.
    Cache(usize),
    /// Buffers.
    Buffers,
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Block(block) => write!(f, "the weights of block {block}"),
            Self::Head => f.write_str("the weights of the head"),
            Self::Cache(block) => write!(f, "the keys and values of block {block}"),
            Self::Buffers => f.write_str("buffers"),
        }
    }
}

impl From<Refused> for crate::Error {
    fn from(error: Refused) -> Self {
        Self::Memory { what: error.to_string(), remedy: Remedy::FreeGpuMemory }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_memory_is_named_with_what_it_was_for() {
        let refused = |what| Refused {
            index: 1,
            name: "NVIDIA L4".into(),
            what,
            bytes: 130 << 20,
            free: 90 << 20,
            total: 24 << 30,
        };
        let error = crate::Error::from(refused(Wanted::Block(17)));
        assert_eq!(
            error.to_string(),
            "device 1 (NVIDIA L4) has no memory for the weights of block 17: 130 MiB were to be allocated, and 90 MiB \
             of 24576 MiB are free"
        );
        assert_eq!(error.remedy(), Some(Remedy::FreeGpuMemory));
        for (what, text) in [
            (Wanted::Head, "of the head:"),
            (Wanted::Cache(3), "values of block 3:"),
            (Wanted::Buffers, "for buffers:"),
        ] {
            assert!(refused(what).to_string().contains(text), "{text}");
        }
    }
}
