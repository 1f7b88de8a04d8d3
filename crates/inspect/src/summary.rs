//! The summary of a checkpoint: what `quern inspect` prints and what its JSON holds.

use std::collections::BTreeMap;

use quern_model::architecture::Position;
use quern_model::provenance::Provenance;
use quern_model::{Config, Contents, TokenKind, Tokenizer, identify};
use quern_tensor_io::scheme::Packing;
use quern_tensor_io::{Array, Checkpoint, Container, ElementType, Value};
use serde::Serialize;

use crate::attention::Attention;
use crate::loose::{self, Sizes};
use crate::quantization::{self, Quantization};

/// What a checkpoint is.
#[derive(Debug, Serialize)]
pub struct Summary {
    /// `gguf` or `safetensors`.
    pub container: &'static str,
    /// Quantization scheme: a GGUF file type in lower case, one of `gptq`, `awq`, `nf4`, `fp4` and `int8`
    /// (another method's name where quern cannot read it), or the element type that holds most of the values.
    pub scheme: String,
    /// How a quantized Hugging Face checkpoint keeps its linear layers, where quern can read them.
    pub quantization: Option<Quantization>,
    /// The model's name, where the file has one.
    pub name: Option<String>,
    /// Number of values in all tensors; of a quantized Hugging Face checkpoint, of the model it stands for.
    pub parameters: u64,
    /// Bits per value over all tensor data.
    pub bits_per_weight: f64,
    /// Bytes of all tensor files.
    pub file_size: u64,
    /// Number of tensor files.
    pub files: usize,
    /// Architecture and sizes, as far as the checkpoint states them.
    #[serde(flatten)]
    pub sizes: Sizes,
    /// Positions and attention, of a configuration quern understands.
    #[serde(flatten)]
    pub attention: Option<Attention>,
    /// The tokenizer, where quern can read it.
    pub tokenizer: Option<TokenizerSummary>,
    /// The chat template's source.
    pub chat_template: Option<String>,
    /// How it was made, as the file says.
    pub provenance: Option<Provenance>,
    /// `model`, or what the file is instead (`adapter`, `projector` …); the note says it in words.
    pub kind: &'static str,
    /// What could not be read (an unknown architecture, a missing tokenizer), in words.
    pub notes: Vec<String>,
    /// Tensors and bytes per element type, largest first.
    pub types: Vec<TypeTotal>,
    /// Every tensor in file order.
    pub tensors: Vec<TensorSummary>,
}

/// The tokenizer in a line.
#[derive(Debug, Serialize)]
pub struct TokenizerSummary {
    /// Kind of tokenizer.
    pub kind: String,
    /// Number of tokens.
    pub vocab_size: usize,
    /// Whether a prompt begins with the beginning-of-sequence token.
    pub add_bos: bool,
    /// Special tokens by purpose: id and text.
    pub special: BTreeMap<&'static str, (u32, String)>,
    /// Number of control tokens.
    pub control_tokens: usize,
}

/// All tensors of one element type.
#[derive(Debug, Serialize)]
pub struct TypeTotal {
    /// The type's name.
    #[serde(rename = "type")]
    pub element_type: &'static str,
    /// Number of tensors.
    pub tensors: usize,
    /// Number of values.
    pub parameters: u64,
    /// Bytes of data.
    pub bytes: u64,
}

/// One tensor in a line.
#[derive(Debug, Serialize)]
pub struct TensorSummary {
    /// Name as the container spells it.
    pub name: String,
    /// The type's name.
    #[serde(rename = "type")]
    pub element_type: &'static str,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Bytes of data.
    pub bytes: u64,
    /// Which of the files holds it.
    pub file: usize,
}

/// One metadata entry, long values shortened.
#[derive(Debug, Serialize)]
pub struct MetadataEntry {
    /// The key.
    pub key: String,
    /// GGUF's name of the value's type.
    #[serde(rename = "type")]
    pub value_type: String,
    /// The value; of an array the first few.
    pub value: String,
}

/// Describes `checkpoint`. Never fails: what cannot be read is reported in [`Summary::notes`].
pub fn summarize(checkpoint: &Checkpoint) -> Summary {
    let mut notes = Vec::new();
    let metadata = checkpoint.metadata();
    let config = note(&mut notes, Config::from_checkpoint(checkpoint));
    let tokenizer = note(&mut notes, Tokenizer::from_checkpoint(checkpoint));
    let packing = note(&mut notes, Packing::read(checkpoint));
    notes.extend(tokenizer.iter().flat_map(|t| t.notes().iter().cloned()));
    let identity = identify::of_checkpoint(checkpoint);
    if let Some(identity) = &identity {
        // Its identity explains all other notes.
        notes = vec![identity.error().to_string()];
    }
    let unread = packing.is_none();
    notes.extend(packing.iter().flatten().flat_map(|p| p.notes().iter().cloned()));
    let mut bytes = checkpoint.tensors().iter().map(|t| t.bytes as u64).sum::<u64>();
    let (packing, held) = match (&config, packing) {
        (Some(config), Some(packing)) => {
            let contents = Contents::matched(checkpoint, config.clone(), packing);
            notes.extend(contents.note());
            let held = contents.problems().is_empty().then(|| contents.parameters());
            if held.is_some() {
                // Parameters do not count what is left out, such as the towers of multimodal models.
                let of = |tensor: usize| checkpoint.tensors().get(tensor).map_or(0, |t| t.bytes as u64);
                bytes = bytes.saturating_sub(contents.left_out().iter().map(|one| of(one.tensor)).sum());
            }
            (contents.into_packing(), held)
        }
        (_, packing) => (packing.flatten(), None),
    };
    let (provenance, unread_provenance) = Provenance::of(checkpoint);
    notes.extend(unread_provenance);
    let types = type_totals(checkpoint);
    let parameters = match (held, &packing, &config) {
        (Some(held), _, _) => held,
        (None, Some(packing), _) => quantization::parameters(checkpoint, packing),
        (None, None, Some(config)) if unread => logical_parameters(checkpoint, config),
        (None, None, _) => types.iter().map(|t| t.parameters).sum::<u64>(),
    };
    let quantization = packing.as_ref().map(Quantization::of);
    let sizes = config.as_ref().map_or_else(|| Sizes::of(checkpoint), sizes);
    let (tokenizer, chat_template) = match &tokenizer {
        Some(t) => (Some(tokenizer_summary(t)), t.chat_template().map(str::to_owned)),
        None => loose::tokenizer(checkpoint),
    };
    Summary {
        container: match checkpoint.container() {
            Container::Gguf => "gguf",
            Container::Safetensors => "safetensors",
            Container::PyTorch => "pytorch",
        },
        scheme: match &quantization {
            Some(quantization) => quantization.scheme.to_owned(),
            None => scheme(checkpoint, sizes.quantization.clone(), &types),
        },
        quantization,
        name: metadata.str("general.name").map(str::to_owned),
        parameters,
        bits_per_weight: if parameters == 0 { 0.0 } else { bytes as f64 * 8.0 / parameters as f64 },
        file_size: checkpoint.file_size(),
        files: checkpoint.files().len(),
        sizes,
        attention: config.as_ref().map(Attention::of),
        chat_template,
        tokenizer,
        notes,
        provenance,
        kind: identity.map_or("model", |found| found.identity.name()),
        types,
        tensors: checkpoint
            .tensors()
            .iter()
            .map(|t| TensorSummary {
                name: t.name.clone(),
                element_type: t.element_type.name(),
                shape: t.shape.clone(),
                bytes: t.bytes as u64,
                file: t.file,
            })
            .collect(),
    }
}

/// Describes every metadata entry of `checkpoint`, in file order.
pub fn metadata(checkpoint: &Checkpoint) -> Vec<MetadataEntry> {
    let entries = checkpoint.metadata().iter();
    entries
        .map(|(key, value)| {
            let (value_type, value) = describe(value);
            MetadataEntry { key: key.to_owned(), value_type, value }
        })
        .collect()
}

/// The sizes of a configuration quern understands.
fn sizes(c: &Config) -> Sizes {
    Sizes {
        architecture: Some(c.architecture.name.to_owned()),
        context_length: Some(c.context_length),
        layers: Some(c.layers),
        hidden_size: Some(c.hidden_size),
        ffn_size: Some(c.ffn_size),
        heads: Some(c.heads),
        kv_heads: Some(c.kv_heads),
        head_dim: Some(c.head_dim),
        rope_theta: match c.architecture.position {
            Position::Rotary => Some(f64::from(c.rope.theta)),
            Position::Learned { .. } => None,
        },
        vocab_size: Some(c.vocab_size),
        tied_embeddings: Some(c.tied_embeddings),
        quantization: c.quantization.clone(),
    }
}

/// Weights that the configuration demands, where the file holds something unknown in their place.
fn logical_parameters(checkpoint: &Checkpoint, config: &Config) -> u64 {
    let expected = config.expected_tensors(config.convention);
    let there = expected.iter().filter(|t| !t.optional || checkpoint.tensor(&t.name).is_some());
    there.map(|t| t.shape.iter().map(|&d| d as u64).product::<u64>()).sum()
}

fn note<T>(notes: &mut Vec<String>, result: quern_tensor_io::Result<T>) -> Option<T> {
    result.map_err(|e| notes.push(e.to_string())).ok()
}

fn type_totals(checkpoint: &Checkpoint) -> Vec<TypeTotal> {
    let mut totals: BTreeMap<ElementType, TypeTotal> = BTreeMap::new();
    for tensor in checkpoint.tensors() {
        let total = totals.entry(tensor.element_type).or_insert(TypeTotal {
            element_type: tensor.element_type.name(),
            tensors: 0,
            parameters: 0,
            bytes: 0,
        });
        total.tensors += 1;
        total.parameters += tensor.elements() as u64;
        total.bytes += tensor.bytes as u64;
    }
    let mut totals: Vec<_> = totals.into_values().collect();
    totals.sort_by_key(|t| std::cmp::Reverse(t.bytes));
    totals
}

fn scheme(checkpoint: &Checkpoint, quantization: Option<String>, types: &[TypeTotal]) -> String {
    let file_type = checkpoint
        .metadata()
        .u64("general.file_type")
        .and_then(|id| quern_model::FileType::from_id(u32::try_from(id).ok()?));
    if let Some(file_type) = file_type {
        return file_type.name().to_lowercase();
    }
    if let Some(method) = quantization {
        return method;
    }
    types.first().map_or_else(|| "none".to_owned(), |t| t.element_type.to_lowercase())
}

fn tokenizer_summary(tokenizer: &Tokenizer) -> TokenizerSummary {
    let ids = [
        ("bos", tokenizer.bos()),
        ("eos", tokenizer.eos()),
        ("unk", tokenizer.unk()),
        ("pad", tokenizer.special_ids().pad),
    ];
    let piece = |id| tokenizer.piece(id).unwrap_or_default().to_owned();
    let special = ids.into_iter().filter_map(|(name, id)| Some((name, (id?, piece(id?))))).collect();
    let all = 0..tokenizer.vocab_size() as u32;
    TokenizerSummary {
        kind: tokenizer.kind_name().to_owned(),
        vocab_size: tokenizer.vocab_size(),
        add_bos: tokenizer.add_bos(),
        special,
        control_tokens: all.filter(|&id| tokenizer.token_kind(id) == Some(TokenKind::Control)).count(),
    }
}

/// Type and value of a metadata entry, at most about 200 characters of value.
pub(crate) fn describe(value: &Value) -> (String, String) {
    const MOST: usize = 200;
    fn list<T: std::fmt::Debug>(name: &str, items: impl ExactSizeIterator<Item = T>) -> (String, String) {
        let n = items.len();
        let mut text = items.take(8).map(|v| format!("{v:?}")).collect::<Vec<_>>().join(", ");
        if n > 8 {
            text.push_str(", …");
        }
        (format!("{name}[{n}]"), text)
    }
    let (kind, text) = match value {
        Value::U8(v) => ("u8".into(), v.to_string()),
        Value::I8(v) => ("i8".into(), v.to_string()),
        Value::U16(v) => ("u16".into(), v.to_string()),
        Value::I16(v) => ("i16".into(), v.to_string()),
        Value::U32(v) => ("u32".into(), v.to_string()),
        Value::I32(v) => ("i32".into(), v.to_string()),
        Value::U64(v) => ("u64".into(), v.to_string()),
        Value::I64(v) => ("i64".into(), v.to_string()),
        Value::F32(v) => ("f32".into(), v.to_string()),
        Value::F64(v) => ("f64".into(), v.to_string()),
        Value::Bool(v) => ("bool".into(), v.to_string()),
        Value::String(v) => ("string".into(), v.escape_debug().to_string()),
        Value::Array(array) => match array {
            Array::U8(v) => list("u8", v.iter()),
            Array::I8(v) => list("i8", v.iter()),
            Array::U16(v) => list("u16", v.iter()),
            Array::I16(v) => list("i16", v.iter()),
            Array::U32(v) => list("u32", v.iter()),
            Array::I32(v) => list("i32", v.iter()),
            Array::U64(v) => list("u64", v.iter()),
            Array::I64(v) => list("i64", v.iter()),
            Array::F32(v) => list("f32", v.iter()),
            Array::F64(v) => list("f64", v.iter()),
            Array::Bool(v) => list("bool", v.iter()),
            Array::String(v) => list("string", v.iter()),
        },
    };
    let shortened = match text.char_indices().nth(MOST) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    };
    (kind, shortened)
}
