//! How a quantized Hugging Face checkpoint stores its linear layers.

use std::collections::HashSet;

use quern_tensor_io::Checkpoint;
use quern_tensor_io::scheme::{Packing, Scaling, Scheme};
use serde::Serialize;

/// Method and parameters of a quantized checkpoint; what a method does not have is absent.
#[derive(Debug, Serialize)]
pub struct Quantization {
    /// The scheme's name: `gptq`, `awq`, `compressed-tensors`, `nf4`, `fp4`, `int8`, `fp8`, `nvfp4`, `mxfp4`, `mlx`,
    /// `hqq`, `torchao` or `mixed`.
    #[serde(skip)]
    pub scheme: &'static str,
    /// The scheme in words: `gptq 4-bit, group 128, symmetric`.
    pub description: String,
    /// The method as configurations name it: `gptq`, `awq`, `compressed-tensors`, `bitsandbytes`, `fp8`, `fbgemm_fp8`,
    /// `modelopt`, `mlx`, `hqq` or `torchao`; `gguf` for weights of a GGUF file with factors beside them.
    pub method: &'static str,
    /// Bits per code; of layers with several the largest number.
    pub bits: u32,
    /// Columns that share a scale, -1 for all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group_size: Option<i64>,
    /// Values that share a scale.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block_size: Option<usize>,
    /// Which weights share a scale: `tensor`, `output` or `128x128`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scales: Option<String>,
    /// Zero points are in the middle.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub symmetric: Option<bool>,
    /// Columns are grouped in the order of their activations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub act_order: Option<bool>,
    /// How GPTQ's zero points are stored, as the tensors show it: `gptq` (less one) or `gptq_v2`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<&'static str>,
    /// Scales are quantized too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub double_quantized: Option<bool>,
    /// Number of quantized layers.
    pub layers: usize,
    /// Number of weights in them.
    pub parameters: u64,
    /// Bits per weight in them, scales and all else included.
    pub bits_per_weight: f64,
}

impl Quantization {
    /// Describes the packed layers of a checkpoint.
    pub(crate) fn of(packing: &Packing) -> Self {
        let layers = packing.layers();
        let parameters = layers.iter().map(|l| l.rows as u64 * l.columns as u64).sum::<u64>();
        let bytes = layers.iter().map(|l| l.bytes as u64).sum::<u64>();
        let mut all = Self {
            scheme: packing.scheme().name(),
            description: String::new(),
            method: packing.method().unwrap_or("bitsandbytes"),
            bits: 8,
            group_size: None,
            block_size: None,
            scales: None,
            symmetric: None,
            act_order: None,
            format: None,
            double_quantized: None,
            layers: layers.len(),
            parameters,
            bits_per_weight: if parameters == 0 { 0.0 } else { bytes as f64 * 8.0 / parameters as f64 },
        };
        let minus_one = |size: Option<usize>| Some(size.map_or(-1, |s| s as i64));
        match *packing.scheme() {
            Scheme::Gptq { bits, group_size, act_order, symmetric, v2 } => {
                (all.method, all.bits) = ("gptq", bits);
                (all.group_size, all.act_order) = (minus_one(group_size), Some(act_order));
                (all.symmetric, all.format) = (Some(symmetric), Some(if v2 { "gptq_v2" } else { "gptq" }));
            }
            Scheme::Awq { bits, group_size } => {
                (all.method, all.bits) = ("awq", bits);
                all.group_size = minus_one(group_size);
            }
            Scheme::CompressedTensors { bits, group_size, symmetric, act_order } => {
                (all.method, all.bits) = ("compressed-tensors", bits);
                (all.group_size, all.act_order) = (minus_one(group_size), Some(act_order));
                all.symmetric = Some(symmetric);
            }
            Scheme::Nf4 { block_size, double_quantized } => {
                (all.scheme, all.bits) = ("nf4", 4);
                (all.block_size, all.double_quantized) = (Some(block_size), Some(double_quantized));
            }
            Scheme::Fp4 { block_size, double_quantized } => {
                (all.scheme, all.bits) = ("fp4", 4);
                (all.block_size, all.double_quantized) = (Some(block_size), Some(double_quantized));
            }
            // Unchanged.
            Scheme::Int8 => {}
            Scheme::Fp8 { scales } => {
                all.scales = Some(match scales {
                    Scaling::Tensor => "tensor".to_owned(),
                    Scaling::Output => "output".to_owned(),
                    Scaling::Block { rows, columns } => format!("{rows}x{columns}"),
                });
            }
            Scheme::Nvfp4 => (all.bits, all.group_size) = (4, Some(16)),
            Scheme::Mxfp4 => (all.bits, all.group_size) = (4, Some(32)),
            Scheme::Mlx { bits, group_size } | Scheme::Hqq { bits, group_size } => {
                (all.bits, all.group_size) = (bits, Some(group_size as i64));
            }
            // Unchanged.
            Scheme::TorchAo => {}
            Scheme::Mixed => all.bits = layers.iter().map(|l| l.bits()).max().unwrap_or(8),
        }
        all.description = all.describe();
        all
    }

    fn describe(&self) -> String {
        let mut words = vec![match self.group_size {
            // The name says it.
            Some(_) if ["nvfp4", "mxfp4"].contains(&self.scheme) => self.scheme.to_owned(),
            Some(_) => format!("{} {}-bit", self.scheme, self.bits),
            None => self.scheme.to_owned(),
        }];
        words.extend(self.group_size.map(|size| match size {
            -1 => "one group a row".to_owned(),
            size => format!("group {size}"),
        }));
        words.extend(self.scales.as_deref().map(|scales| match scales {
            "tensor" => "a scale a tensor".to_owned(),
            "output" => "a scale an output".to_owned(),
            block => format!("a scale for each {block}"),
        }));
        words.extend(self.block_size.map(|size| format!("block {size}")));
        words.extend(self.symmetric.map(|s| if s { "symmetric" } else { "asymmetric" }.to_owned()));
        words.extend(self.act_order.filter(|a| *a).map(|_| "act-order".to_owned()));
        words.extend(self.format.filter(|f| *f != "gptq").map(|_| "v2 zero points".to_owned()));
        words.extend(self.double_quantized.filter(|d| *d).map(|_| "double quantized".to_owned()));
        words.join(", ")
    }
}

/// Weights of the model: those that packed layers stand for, and the values of all other tensors.
pub(crate) fn parameters(checkpoint: &Checkpoint, packing: &Packing) -> u64 {
    let layers = packing.layers();
    let parts: HashSet<usize> = layers.iter().flat_map(|l| l.parts.iter().copied()).collect();
    let plain = checkpoint.tensors().iter().enumerate().filter(|(i, _)| !parts.contains(i));
    let plain = plain.map(|(_, t)| t.elements() as u64).sum::<u64>();
    plain + layers.iter().map(|l| l.rows as u64 * l.columns as u64).sum::<u64>()
}
