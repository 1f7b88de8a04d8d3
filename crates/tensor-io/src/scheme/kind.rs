//! The schemes by name, with their parameters.

/// How a quantized Hugging Face checkpoint keeps its linear layers.
#[derive(Clone, Debug, PartialEq)]
pub enum Scheme {
    /// GPTQ: codes, zero points and scales by group of input columns.
    Gptq {
        /// Bits per code where a layer has no rule of its own: 2, 3, 4 or 8.
        bits: u32,
        /// Input columns that share a scale; `None` for all of a row.
        group_size: Option<usize>,
        /// Columns were quantized in the order of their activations (`desc_act`).
        act_order: bool,
        /// Zero points are in the middle of the range.
        symmetric: bool,
        /// Zero points are stored as they are (`gptq_v2`), not less one (`gptq`): as the tensors show it.
        v2: bool,
    },
    /// AWQ, `gemm` version.
    Awq {
        /// Bits per code: 4.
        bits: u32,
        /// Input columns that share a scale; `None` for all of a row.
        group_size: Option<usize>,
    },
    /// compressed-tensors (llm-compressor): integers, `pack-quantized` or `int-quantized`.
    CompressedTensors {
        /// Bits per code of the first layer: 1 to 8.
        bits: u32,
        /// Input columns of the first layer that share a scale; `None` for all of a row.
        group_size: Option<usize>,
        /// Zero points are in the middle of the range.
        symmetric: bool,
        /// Columns are grouped in the order of their activations (`actorder` = `group`).
        act_order: bool,
    },
    /// bitsandbytes NF4.
    Nf4 {
        /// Values per scale.
        block_size: usize,
        /// Scales are themselves quantized to 8 bits.
        double_quantized: bool,
    },
    /// bitsandbytes FP4.
    Fp4 {
        /// Values per scale.
        block_size: usize,
        /// Scales are themselves quantized to 8 bits.
        double_quantized: bool,
    },
    /// bitsandbytes LLM.int8(): one scale a row.
    Int8,
    /// 8-bit floats with scales.
    Fp8 {
        /// Weights of the first layer that share a scale.
        scales: Scaling,
    },
    /// 4-bit floats, a scale in e4m3 for each 16 and a factor for the layer.
    Nvfp4,
    /// 4-bit floats, a power of two for each 32.
    Mxfp4,
    /// MLX: codes, a scale and a bias for each group of columns.
    Mlx {
        /// Bits per code of the first layer.
        bits: u32,
        /// Input columns that share a scale.
        group_size: usize,
    },
    /// HQQ: codes, a scale and a zero point that is a number of any size for each group.
    Hqq {
        /// Bits per code of the first layer.
        bits: u32,
        /// Weights that share a scale.
        group_size: usize,
    },
    /// torchao: signed bytes with scales by output or by group of columns, zero points where they are not zero.
    TorchAo,
    /// Layers of several of these: compressed-tensors with groups of settings, MLX and AutoRound with layers of their own.
    Mixed,
}

/// Which weights share a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scaling {
    /// All of the layer.
    Tensor,
    /// Those of an output.
    Output,
    /// Those of a block.
    Block {
        /// Outputs.
        rows: usize,
        /// Inputs.
        columns: usize,
    },
}

impl Scheme {
    /// Its name: `gptq`, `awq`, `compressed-tensors`, `nf4`, `fp4`, `int8`, `fp8`, `nvfp4`, `mxfp4`, `mlx`, `hqq`, `torchao` or
    /// `mixed`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Gptq { .. } => "gptq",
            Self::Awq { .. } => "awq",
            Self::CompressedTensors { .. } => "compressed-tensors",
            Self::Nf4 { .. } => "nf4",
            Self::Fp4 { .. } => "fp4",
            Self::Int8 => "int8",
            Self::Fp8 { .. } => "fp8",
            Self::Nvfp4 => "nvfp4",
            Self::Mxfp4 => "mxfp4",
            Self::Mlx { .. } => "mlx",
            Self::Hqq { .. } => "hqq",
            Self::TorchAo => "torchao",
            Self::Mixed => "mixed",
        }
    }

    /// Whether models are released in it, so that it is what their numbers are and quantizing them is no second loss.
    pub fn is_as_released(&self) -> bool {
        match self {
            Self::Fp8 { .. } => true,
            Self::Gptq { .. }
            | Self::Awq { .. }
            | Self::CompressedTensors { .. }
            | Self::Nf4 { .. }
            | Self::Fp4 { .. }
            | Self::Int8
            | Self::Nvfp4
            | Self::Mxfp4
            | Self::Mlx { .. }
            | Self::Hqq { .. }
            | Self::TorchAo
            | Self::Mixed => false,
        }
    }

    /// Its name with the bits of a layer's codes, where those are not part of the name: `gptq 4-bit`.
    pub fn with_bits(&self, bits: u32) -> String {
        match self {
            Self::Gptq { .. }
            | Self::Awq { .. }
            | Self::CompressedTensors { .. }
            | Self::Mlx { .. }
            | Self::Hqq { .. }
            | Self::TorchAo => format!("{} {bits}-bit", self.name()),
            Self::Mixed => format!("{bits}-bit"),
            Self::Nf4 { .. }
            | Self::Fp4 { .. }
            | Self::Int8
            | Self::Fp8 { .. }
            | Self::Nvfp4
            | Self::Mxfp4 => self.name().to_owned(),
        }
    }
}
