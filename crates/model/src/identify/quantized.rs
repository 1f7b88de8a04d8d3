//! Layers quantized by methods that quern does not read, as configurations and tensors name them.

use super::{Identity, brief, object};
use quern_tensor_io::Checkpoint;

/// The methods whose layers are read, by the names that configurations have for them.
const READ: [&str; 16] = [
    "gptq",
    "awq",
    "bitsandbytes",
    "bnb",
    "compressed-tensors",
    "compressed_tensors",
    "fp8",
    "fbgemm_fp8",
    "modelopt",
    "modelopt_fp4",
    "auto-round",
    "auto_round",
    "intel/auto-round",
    "hqq",
    "torchao",
    "mxfp4",
];

/// Ends of tensors' names that no other method has.
const MARKS: [(&str, &str); 3] =
    [(".weight._data", "quanto"), (".q_invperm", "EXL2 (exllamav2)"), (".trellis", "EXL3 (exllamav3)")];

/// How a quantized checkpoint in Hugging Face's layout was quantized, if quern does not read it.
pub(super) fn identify(checkpoint: &Checkpoint) -> Option<Identity> {
    let config = object(&checkpoint.directory().join("config.json")).unwrap_or_default();
    let quantized = |method: &str| Some(Identity::Quantized { method: brief(method) });
    let own = config.get("quantization_config").filter(|value| !value.is_null());
    let inner = || config.get("text_config")?.get("quantization_config");
    let method = own.or_else(inner).and_then(|value| value.get("quant_method")?.as_str());
    if let Some(method) = method
        && !READ.contains(&method.to_ascii_lowercase().as_str())
    {
        return quantized(method);
    }
    let mark = |name: &str| MARKS.iter().find(|(end, _)| name.ends_with(end)).map(|(_, method)| *method);
    checkpoint.tensors().iter().find_map(|info| mark(&info.name)).and_then(quantized)
}
