//! `quantization_config` of `config.json`, as transformers writes it.

use quern_tensor_io::ElementType;
use serde_json::{Value, json};

use super::state::torch_name;
use super::{Kind, Options};

/// The configuration of a model of type `dtype`, which is also what its layers compute in. `skip` are the
/// modules not quantized; `None` for transformers' own choice.
pub(super) fn quantization_config(
    options: &Options,
    dtype: Option<ElementType>,
    skip: Option<&[String]>,
) -> Value {
    let four_bit = options.scheme != Kind::Int8;
    // where they mean nothing, transformers writes its defaults
    let (quant_type, compute) = match options.scheme {
        Kind::Int8 => ("fp4", "float32"),
        kind => (kind.name(), dtype.map_or("float32", torch_name)),
    };
    json!({
        "_load_in_4bit": four_bit,
        "_load_in_8bit": !four_bit,
        "bnb_4bit_compute_dtype": compute,
        "bnb_4bit_quant_storage": "uint8",
        "bnb_4bit_quant_type": quant_type,
        "bnb_4bit_use_double_quant": four_bit && options.double_quant,
        "llm_int8_enable_fp32_cpu_offload": false,
        "llm_int8_has_fp16_weight": false,
        "llm_int8_skip_modules": skip,
        "llm_int8_threshold": 6.0,
        "load_in_4bit": four_bit,
        "load_in_8bit": !four_bit,
        "quant_method": "bitsandbytes",
    })
}
