//! GPT-QModel's kernels: which bits, groups and shapes each takes.

use crate::gptq::Settings;

/// One of GPT-QModel's kernels for CUDA.
pub(super) struct Kernel {
    bits: &'static [u32],
    group_sizes: &'static [Option<usize>],
    symmetric_only: bool,
    pub whole_groups: bool,
    /// What the number of columns must be a multiple of.
    pub columns: usize,
    /// What the number of rows must be a multiple of.
    pub rows: usize,
}

/// In the order in which they are preferred: Marlin, ExLlamaV2, Triton, Torch.
pub(super) const KERNELS: [Kernel; 4] = {
    const FEW: &[Option<usize>] = &[Some(32), Some(64), Some(128), None];
    const ALL: &[Option<usize>] =
        &[Some(16), Some(32), Some(64), Some(128), Some(256), Some(512), Some(1024), None];
    [
        Kernel {
            bits: &[4, 8],
            group_sizes: FEW,
            symmetric_only: true,
            whole_groups: true,
            columns: 1,
            rows: 64,
        },
        Kernel {
            bits: &[4],
            group_sizes: FEW,
            symmetric_only: false,
            whole_groups: true,
            columns: 32,
            rows: 32,
        },
        Kernel {
            bits: &[2, 4, 8],
            group_sizes: ALL,
            symmetric_only: false,
            whole_groups: false,
            columns: 32,
            rows: 32,
        },
        Kernel {
            bits: &[2, 3, 4, 8],
            group_sizes: ALL,
            symmetric_only: false,
            whole_groups: false,
            columns: 1,
            rows: 1,
        },
    ]
};

impl Kernel {
    pub(super) fn takes(&self, settings: &Settings) -> bool {
        self.bits.contains(&settings.bits)
            && self.group_sizes.contains(&settings.group_size)
            && (settings.symmetric || !self.symmetric_only)
    }
}
