//! What the configuration says about the quantization.
//!
//! Looked for, in this order, in `quantize_config.json`, `quant_config.json`, the `quantization_config` of
//! `config.json` and ModelOpt's `hf_quant_config.json`; a key counts where it is found first, and the ones that say what the numbers are (method,
//! bits, group size) must agree wherever they are.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::compressed::{self, Rule};
use crate::{Checkpoint, Error, Result, small};

mod auto_round;
mod mlx;

pub(super) use mlx::{Mlx, MlxSettings};

/// The methods whose tensors can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Gptq,
    Awq,
    BitsAndBytes,
    CompressedTensors,
    /// FP8 as DeepSeek, Qwen and MiniMax release it: `weight_scale_inv`.
    Fp8,
    /// FP8 with a scale an output, as Llama 3.1 405B was released.
    FbgemmFp8,
    /// NVIDIA's ModelOpt: FP8 and NVFP4.
    ModelOpt,
    /// MXFP4 as gpt-oss was released in it.
    Mxfp4,
    /// MLX, whose configurations name no method.
    Mlx,
    Hqq,
    TorchAo,
}

impl Method {
    /// As configurations spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gptq => "gptq",
            Self::Awq => "awq",
            Self::BitsAndBytes => "bitsandbytes",
            Self::CompressedTensors => "compressed-tensors",
            Self::Fp8 => "fp8",
            Self::FbgemmFp8 => "fbgemm_fp8",
            Self::ModelOpt => "modelopt",
            Self::Mxfp4 => "mxfp4",
            Self::Mlx => "mlx",
            Self::Hqq => "hqq",
            Self::TorchAo => "torchao",
        }
    }

    /// Whether its layers are codes with scales beside them ([`super::scaled`]).
    pub fn has_scaled_layers(self) -> bool {
        match self {
            Self::CompressedTensors
            | Self::Fp8
            | Self::FbgemmFp8
            | Self::ModelOpt
            | Self::TorchAo
            | Self::Mxfp4 => true,
            Self::Gptq | Self::Awq | Self::BitsAndBytes | Self::Mlx | Self::Hqq => false,
        }
    }
}

/// What the configuration says; `None` where it says nothing.
#[derive(Debug)]
pub(super) struct Label {
    /// The file that says it.
    pub file: PathBuf,
    pub method: Method,
    pub bits: Option<u32>,
    /// Columns that share a scale; `Some(None)` for all of them (-1).
    pub group_size: Option<Option<usize>>,
    pub desc_act: bool,
    pub symmetric: Option<bool>,
    /// Zero points stored as they are.
    pub v2: Option<bool>,
    /// Layers may have bits and groups of their own.
    pub dynamic: bool,
    /// bitsandbytes: `nf4` or `fp4`, where layers are of 4 bits.
    pub four_bit: Option<String>,
    /// compressed-tensors: what groups of layers of packed integers have.
    pub compressed: Vec<Rule>,
    /// Outputs and inputs that share a scale (`weight_block_size`, `block_structure`).
    pub block: Option<[usize; 2]>,
    /// Activations were meant to be quantized too.
    pub activations: bool,
    /// MLX: settings of the layers.
    pub mlx: Option<Mlx>,
    /// What a user should know of it.
    pub note: Option<String>,
}

/// One configuration object and its place.
struct Source {
    file: PathBuf,
    object: Map<String, Value>,
    /// It is MLX's `quantization`.
    mlx: bool,
}

/// Reads the label of `checkpoint`, if it has one.
///
/// # Errors
/// JSON that is broken, values of the wrong type, methods and formats that quern does not read.
pub(super) fn read(checkpoint: &Checkpoint) -> Result<Option<Label>> {
    let sources = Sources(sources(checkpoint.directory())?);
    let Some(first) = sources.0.first() else { return Ok(None) };
    let file = first.file.clone();
    let method = sources.method()?;
    let bits = sources.integer(&["bits", "w_bit", "wbits"])?;
    let group = sources.integer(&["group_size", "q_group_size", "groupsize"])?;
    let mut label = Label {
        file,
        method,
        bits: None,
        group_size: None,
        desc_act: sources.boolean("desc_act")?.unwrap_or(false),
        symmetric: sources.boolean("sym")?,
        v2: None,
        dynamic: sources.find("dynamic").is_some_and(|(_, v)| v.as_object().is_some_and(|o| !o.is_empty())),
        four_bit: None,
        compressed: Vec::new(),
        block: None,
        activations: false,
        mlx: None,
        note: None,
    };
    if let Some(packing) = auto_round::packing(&sources)? {
        label.dynamic = packing.mixed;
        label.activations = packing.activations;
        label.note = Some(packing.note);
        label.v2 = Some(packing.v2);
    }
    if method == Method::Mlx {
        label.mlx = Some(Mlx::read(&first.file, &first.object)?);
        return Ok(Some(label));
    }
    if method == Method::Hqq {
        return Ok(Some(label));
    }
    if method == Method::CompressedTensors {
        let found = compressed::rules(&first.file, &first.object)?;
        (label.compressed, label.block, label.activations) = (found.rules, found.block, found.activations);
        return Ok(Some(label));
    }
    if method.has_scaled_layers() {
        label.block =
            sources.find("weight_block_size").map(|(file, value)| block_size(file, value)).transpose()?;
        return Ok(Some(label));
    }
    if method == Method::BitsAndBytes {
        if let Some((_, kind)) = sources.text(&["bnb_4bit_quant_type"])? {
            label.four_bit = sources.boolean("load_in_4bit")?.unwrap_or(false).then_some(kind);
        }
        return Ok(Some(label));
    }
    label.bits = match (bits, method) {
        (None, _) => None,
        (Some((_, bits @ (2 | 3 | 4 | 8))), Method::Gptq) => Some(bits as u32),
        (Some((_, 4)), Method::Awq) => Some(4),
        (Some((file, bits)), _) => {
            let what = format!(
                "{bits}-bit {} is not read; quern reads gptq of 2, 3, 4 and 8 bits and awq of 4; {ADVICE}",
                method.name()
            );
            return Err(Error::unsupported(file, what));
        }
    };
    label.group_size = match group {
        None => None,
        Some((_, -1)) => Some(None),
        Some((_, size @ 1..=0x7fff_ffff)) => Some(Some(size as usize)),
        Some((file, size)) => {
            let what =
                format!("a group size of {size} is impossible; it is a number of columns, or -1 for all");
            return Err(Error::malformed(file, what));
        }
    };
    if label.note.is_some() {
        return Ok(Some(label));
    }
    sources.check_storage(method)?;
    if method == Method::Gptq {
        label.v2 = sources.text(&["checkpoint_format", "format"])?.map(|(_, format)| format == "gptq_v2");
    }
    Ok(Some(label))
}

/// What to do with a checkpoint that cannot be read.
pub(super) const ADVICE: &str = "take the model unquantized, or quantized with GPTQ, AWQ (gemm), bitsandbytes, FP8, NVFP4, \
     compressed-tensors, AutoRound, MLX, HQQ, torchao or as GGUF";

/// The outputs and inputs of a block.
pub(super) fn block_size(file: &Path, value: &Value) -> Result<[usize; 2]> {
    let sizes = value.as_array().map(|all| all.iter().map(Value::as_u64).collect::<Vec<_>>());
    match sizes.as_deref() {
        Some(&[Some(rows @ 1..=0x7fff_ffff), Some(columns @ 1..=0x7fff_ffff)]) => {
            Ok([rows as usize, columns as usize])
        }
        _ => {
            let what = format!("the quantization's block size must be two numbers, it is {}", brief(value));
            Err(Error::malformed(file, what))
        }
    }
}

struct Sources(Vec<Source>);

impl Sources {
    /// The first value of this key that is not null, with its file.
    fn find(&self, key: &str) -> Option<(&Path, &Value)> {
        let values = self.0.iter().filter_map(|s| Some((s.file.as_path(), s.object.get(key)?)));
        values.into_iter().find(|(_, v)| !v.is_null())
    }

    /// The value under the first of some synonyms in each file; all files must agree.
    fn agreed<T: PartialEq + std::fmt::Display>(
        &self,
        keys: &[&str],
        read: impl Fn(&Value) -> Option<T>,
        kind: &str,
    ) -> Result<Option<(&Path, T)>> {
        let mut found: Option<(&Path, T)> = None;
        for source in &self.0 {
            let values = keys.iter().filter_map(|&k| Some((k, source.object.get(k)?)));
            let Some((key, value)) = values.into_iter().find(|(_, v)| !v.is_null()) else { continue };
            let Some(value) = read(value) else {
                let what = format!("the quantization's {key} must be {kind}, it is {}", brief(value));
                return Err(Error::malformed(&source.file, what));
            };
            match &found {
                None => found = Some((&source.file, value)),
                Some((_, first)) if *first == value => {}
                Some((file, first)) => {
                    let what = format!(
                        "the quantization's {key} is {value} here, but {first} in {}; correct the one that is wrong",
                        file.display()
                    );
                    return Err(Error::malformed(&source.file, what));
                }
            }
        }
        Ok(found)
    }

    fn integer(&self, keys: &[&str]) -> Result<Option<(&Path, i64)>> {
        self.agreed(keys, Value::as_i64, "an integer")
    }

    fn text(&self, keys: &[&str]) -> Result<Option<(&Path, String)>> {
        self.agreed(keys, |v| v.as_str().map(str::to_ascii_lowercase), "a text")
    }

    /// Truth values need not agree: tensors show better what they say.
    fn boolean(&self, key: &str) -> Result<Option<bool>> {
        match self.find(key) {
            None => Ok(None),
            Some((_, Value::Bool(v))) => Ok(Some(*v)),
            Some((file, other)) => {
                let what = format!("the quantization's {key} must be true or false, it is {}", brief(other));
                Err(Error::malformed(file, what))
            }
        }
    }

    fn method(&self) -> Result<Method> {
        if let Some((file, name)) = self.text(&["quant_method", "method"])? {
            return match name.as_str() {
                "gptq" => Ok(Method::Gptq),
                "awq" => Ok(Method::Awq),
                "bitsandbytes" | "bnb" => Ok(Method::BitsAndBytes),
                "compressed-tensors" | "compressed_tensors" => Ok(Method::CompressedTensors),
                "fp8" => Ok(Method::Fp8),
                "fbgemm_fp8" => Ok(Method::FbgemmFp8),
                "modelopt" | "modelopt_fp4" => Ok(Method::ModelOpt),
                "mxfp4" => Ok(Method::Mxfp4),
                "hqq" => Ok(Method::Hqq),
                "torchao" => Ok(Method::TorchAo),
                name if auto_round::NAMES.contains(&name) => auto_round::method(self),
                _ => Err(Error::unsupported(file, refused(&name))),
            };
        }
        let has = |keys: &[&str]| keys.iter().any(|k| self.find(k).is_some());
        let file = &self.0[0].file;
        match () {
            _ if self.0[0].mlx => Ok(Method::Mlx),
            _ if has(&["load_in_4bit", "load_in_8bit"]) => Ok(Method::BitsAndBytes),
            _ if has(&["zero_point", "version"]) => Ok(Method::Awq),
            _ if has(&["bits", "w_bit", "wbits"]) => Ok(Method::Gptq),
            _ if has(&["quant_algo"]) => Ok(Method::ModelOpt),
            _ if has(&["config_groups"]) => Ok(Method::CompressedTensors),
            _ => Err(Error::malformed(file, "the quantization configuration names no quant_method")),
        }
    }

    /// Words and layouts other than the usual ones.
    fn check_storage(&self, method: Method) -> Result<()> {
        if let Some((file, word)) = self.text(&["pack_dtype"])?
            && word.trim_start_matches("torch.") != "int32"
        {
            let what = format!("codes packed in {word} words are not read, only int32; {ADVICE}");
            return Err(Error::unsupported(file, what));
        }
        if let Some((file, Value::Bool(true))) = self.find("is_marlin_format") {
            return Err(Error::unsupported(file, refused("gptq in Marlin's layout")));
        }
        let (keys, known): (&[_], &[_]) = match method {
            Method::Gptq => (&["checkpoint_format", "format"], &["gptq", "gptq_v2"]),
            _ => (&["version", "checkpoint_format", "format"], &["gemm", "awq"]),
        };
        match self.text(keys)? {
            Some((file, format)) if !known.contains(&format.as_str()) => {
                let what = format!("{} in the format {:?}", method.name(), brief_text(&format));
                Err(Error::unsupported(file, refused(&what)))
            }
            _ => Ok(()),
        }
    }
}

/// The message about a method.
fn refused(method: &str) -> String {
    format!("quantized with {}, which quern does not read; {ADVICE}", brief_text(method))
}

fn sources(directory: &Path) -> Result<Vec<Source>> {
    let mut found = Vec::new();
    for name in ["quantize_config.json", "quant_config.json"] {
        let file = directory.join(name);
        if let Some(object) = object(&file)? {
            found.push(Source { file, object, mlx: false });
        }
    }
    let file = directory.join("config.json");
    if let Some(mut config) = object(&file)? {
        // Models of images or sound may keep the language model's configuration one level down.
        let mut inner = config.remove("text_config").unwrap_or_default();
        let compressed = config.remove("compression_config");
        let own = config.remove("quantization_config");
        // MLX writes its settings under both keys, and no method.
        let named = own.as_ref().is_some_and(|own| own.get("quant_method").is_some());
        if let Some(Value::Object(object)) = config.remove("quantization")
            && !named
            && ["bits", "group_size"].iter().all(|key| object.get(*key).is_some_and(Value::is_u64))
        {
            return Ok(vec![Source { file, object, mlx: true }]);
        }
        let inner = inner.get_mut("quantization_config").map(Value::take);
        match own.into_iter().chain(inner).chain(compressed).find(|v| !v.is_null()) {
            None => {}
            Some(Value::Object(object)) => found.push(Source { file, object, mlx: false }),
            Some(other) => {
                let what = format!("quantization_config must be an object, it is {}", brief(&other));
                return Err(Error::malformed(file, what));
            }
        }
    }
    let file = directory.join("hf_quant_config.json");
    if found.is_empty()
        && let Some(mut config) = object(&file)?
        && let Some(Value::Object(object)) = config.remove("quantization")
    {
        // ModelOpt lists the algorithm of the cache here too; a model may have no other.
        if object.get("quant_algo").is_some_and(|algorithm| !algorithm.is_null()) {
            found.push(Source { file, object, mlx: false });
        }
    }
    Ok(found)
}

/// The object in a JSON file; `None` if there is no such file.
fn object(path: &Path) -> Result<Option<Map<String, Value>>> {
    let Some(bytes) = small::read_optional(path, small::CONFIGURATION)? else { return Ok(None) };
    match small::json(&bytes) {
        Ok(Value::Object(object)) => Ok(Some(object)),
        Ok(other) => Err(Error::malformed(path, format!("a JSON object is expected, not {}", brief(&other)))),
        Err(what) => Err(Error::malformed(path, what)),
    }
}

/// A value as an error quotes it.
fn brief(value: &Value) -> String {
    brief_text(&value.to_string())
}

fn brief_text(text: &str) -> String {
    text.chars().take(60).collect()
}
