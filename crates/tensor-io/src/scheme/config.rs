//! `quantization_config` for layers that are written: what readers of compressed-tensors, of AWQ and of FP8 in blocks
//! look for. The reader of such configurations is [`super::label`].

use serde_json::{Map, Value, json};

use super::AffineLayer;

/// The version of compressed-tensors whose form the configuration has.
const COMPRESSED_TENSORS: &str = "0.20.0";

/// How a layer is stored, as compressed-tensors describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompressedWeights {
    /// Integer codes, the format `pack-quantized`.
    Packed {
        /// Bits per code.
        bits: u32,
        /// Columns that share a scale; `None` for all of a row.
        group_size: Option<usize>,
        /// No zero points.
        symmetric: bool,
        /// Columns have group numbers.
        act_order: bool,
    },
    /// FP8 with a scale for each output, the format `float-quantized`. Readers round activations to FP8 too, token by
    /// token.
    Float8,
}

impl CompressedWeights {
    /// Columns that share a scale; `None` for all of a row.
    pub fn group_size(self) -> Option<usize> {
        match self {
            Self::Packed { group_size, .. } => group_size,
            Self::Float8 => None,
        }
    }

    fn format(self) -> &'static str {
        match self {
            Self::Packed { .. } => "pack-quantized",
            Self::Float8 => "float-quantized",
        }
    }

    fn group(self, targets: Vec<String>) -> Value {
        let (weights, activations) = match self {
            Self::Packed { bits, group_size, symmetric, act_order } => {
                let mut weights = json!({
                    "dynamic": false,
                    "group_size": group_size,
                    "num_bits": bits,
                    "strategy": if group_size.is_some() { "group" } else { "channel" },
                    "symmetric": symmetric,
                    "type": "int",
                });
                if act_order {
                    weights["actorder"] = json!("group");
                }
                (weights, Value::Null)
            }
            Self::Float8 => {
                let float = |strategy: &str, dynamic: bool| {
                    json!({
                        "dynamic": dynamic,
                        "group_size": null,
                        "num_bits": 8,
                        "strategy": strategy,
                        "symmetric": true,
                        "type": "float",
                    })
                };
                (float("channel", false), float("token", true))
            }
        };
        json!({
            "format": self.format(),
            "input_activations": activations,
            "output_activations": null,
            "targets": targets,
            "weights": weights,
        })
    }
}

/// How layers of integer codes are described side by side. One group is all of a row, but where others have groups of as
/// many columns it counts as one of those, so that such layers need no settings of their own.
pub fn compressed_weights(layers: &[AffineLayer<'_>]) -> Vec<CompressedWeights> {
    let sizes: Vec<usize> = layers.iter().filter_map(AffineLayer::group_size).collect();
    let one = |layer: &AffineLayer<'_>| CompressedWeights::Packed {
        bits: layer.bits(),
        group_size: layer.group_size().or_else(|| {
            let columns = layer.layer().columns;
            sizes.contains(&columns).then_some(columns)
        }),
        symmetric: layer.symmetric(),
        act_order: !layer.in_order(),
    };
    layers.iter().map(one).collect()
}

/// The configuration of a compressed-tensors checkpoint of these modules, in which the modules of `ignore` are plain.
///
/// Where all are alike, the configuration is for every linear layer that is not ignored. Otherwise each group names
/// its modules: readers that join modules (Q, K and V) look for the names of the parts only where the name of the class
/// does not match first.
pub fn compressed_tensors_config<'m>(
    modules: impl IntoIterator<Item = (&'m str, CompressedWeights)>,
    ignore: Vec<String>,
) -> Value {
    let mut groups: Vec<(CompressedWeights, Vec<String>)> = Vec::new();
    for (module, weights) in modules {
        match groups.iter_mut().find(|(known, _)| *known == weights) {
            Some((_, modules)) => modules.push(module.to_owned()),
            None => groups.push((weights, vec![module.to_owned()])),
        }
    }
    if let [(_, modules)] = &mut groups[..] {
        *modules = vec!["Linear".to_owned()];
    }
    let mut formats: Vec<_> = groups.iter().map(|(weights, _)| weights.format()).collect();
    formats.dedup();
    let format = if let [format] = formats[..] { format } else { "mixed-precision" };
    let groups = groups.into_iter().enumerate();
    let groups: Map<String, Value> = groups
        .map(|(number, (weights, targets))| (format!("group_{number}"), weights.group(targets)))
        .collect();
    json!({
        "config_groups": groups,
        "format": format,
        "global_compression_ratio": null,
        "ignore": ignore,
        "kv_cache_scheme": null,
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
        "sparsity_config": {},
        "transform_config": {},
        "version": COMPRESSED_TENSORS,
    })
}

/// The configuration of an AWQ checkpoint, `gemm` version, as AutoAWQ writes it; modules whose name contains one of
/// `plain` are not quantized.
pub fn awq_config(group_size: Option<usize>, plain: &[String]) -> Value {
    json!({
        "bits": 4,
        "group_size": group_size.map_or(-1, |size| size as i64),
        "modules_to_not_convert": if plain.is_empty() { Value::Null } else { json!(plain) },
        "quant_method": "awq",
        "version": "gemm",
        "zero_point": true,
    })
}

/// The configuration of a checkpoint of FP8 with scales for blocks, as DeepSeek and Qwen release it; the modules of
/// `plain` are not quantized.
pub fn block_fp8_config(block: [usize; 2], plain: &[String]) -> Value {
    json!({
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "modules_to_not_convert": plain,
        "quant_method": "fp8",
        "weight_block_size": block,
    })
}
