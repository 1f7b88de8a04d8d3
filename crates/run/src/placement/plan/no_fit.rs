//! What does not fit, and what mends it.

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
