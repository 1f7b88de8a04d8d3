//! The bytes before the data, made with ggus' writing primitives over a buffer in memory.
//!
//! ggus writes numbers in the machine's order, checks nothing and never flushes its buffer; so big-endian
//! machines are left out, everything is checked here first, and the target is a `Vec`, which cannot fail.

use std::path::Path;

use ggus::{GGufFileHeader, GGufMetaDataValueType as Type, GGufWriter};

use super::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, MAX_DIMENSIONS, MAX_LENGTH, MAX_NAME_BYTES, check_alignment};
use crate::{Array, Error, Metadata, Result, TensorPlan, Value, plan};

#[cfg(target_endian = "big")]
compile_error!("GGUF files are written in the machine's byte order, which must be little endian");

/// A header and what follows from it.
#[derive(Debug)]
pub(super) struct Header {
    /// From the magic to the end of the padding before the data.
    pub bytes: Vec<u8>,
    pub alignment: u64,
    /// Bytes of each tensor.
    pub sizes: Vec<u64>,
    /// Bytes of the whole file.
    pub file_size: u64,
}

/// Checks metadata and plan and puts them into bytes; `path` is for the errors.
pub(super) fn encode(path: &Path, metadata: &Metadata, tensors: &[TensorPlan]) -> Result<Header> {
    let alignment = check_metadata(path, metadata)?;
    let sizes = plan::check(path, tensors)?;
    let mut bytes = Vec::new();
    let mut writer = GGufWriter::new(&mut bytes);
    let in_memory = |e| Error::new(path, e); // a Vec takes everything; still no reason to panic
    writer
        .write_header(GGufFileHeader::new(3, tensors.len() as u64, metadata.len() as u64))
        .map_err(in_memory)?;
    let mut scratch = Vec::new();
    for (key, value) in metadata.iter() {
        scratch.clear();
        let value_type = encode_value(value, &mut scratch);
        writer.write_meta_kv(key, value_type, &scratch).map_err(in_memory)?;
    }
    let mut offset = 0u64;
    for (tensor, &size) in tensors.iter().zip(&sizes) {
        let id = check_tensor(path, tensor)?;
        let dimensions: Vec<u64> = tensor.shape.iter().rev().map(|&d| d as u64).collect();
        // Not `write_tensor_info`: its enum of types lacks the newer ids.
        let mut write = || {
            writer.write_str(&tensor.name)?;
            writer.write(&[dimensions.len() as u32])?;
            writer.write(&dimensions)?;
            writer.write(&[id])?;
            writer.write(&[offset])
        };
        write().map_err(in_memory)?;
        let next = offset.checked_add(size).and_then(|o| o.checked_next_multiple_of(alignment));
        let Some(next) = next.filter(|&o| o <= i64::MAX as u64) else {
            return Err(Error::refused(path, "the sizes of the tensors overflow").with_tensor(&tensor.name));
        };
        offset = next;
    }
    writer.write_padding(alignment as usize).map_err(in_memory)?;
    let written = writer.written_bytes();
    drop(writer); // empties ggus' buffer into `bytes`
    debug_assert_eq!(bytes.len(), written);
    let file_size = bytes.len() as u64 + offset;
    Ok(Header { bytes, alignment, sizes, file_size })
}

/// Checks what a reader would refuse. Returns the alignment.
fn check_metadata(path: &Path, metadata: &Metadata) -> Result<u64> {
    for (key, value) in metadata.iter() {
        if key.is_empty() {
            return Err(Error::refused(path, "a metadata key is empty"));
        }
        let length = match value {
            Value::String(s) => s.len(),
            Value::Array(a) => a.len(),
            _ => 0,
        };
        if length as u64 > MAX_LENGTH || key.len() as u64 > MAX_LENGTH {
            return Err(Error::refused(
                path,
                format!("metadata key {key:?}: more than 2^30 bytes or elements"),
            ));
        }
    }
    match metadata.get(ALIGNMENT_KEY) {
        Some(value) => check_alignment(value).map_err(|what| Error::refused(path, what)),
        None => Ok(DEFAULT_ALIGNMENT),
    }
}

/// Checks GGUF's rules beyond [`plan::check`]. Returns the type's id.
fn check_tensor(path: &Path, tensor: &TensorPlan) -> Result<u32> {
    let refused = |what: String| Error::refused(path, what).with_tensor(&tensor.name);
    if tensor.name.len() >= MAX_NAME_BYTES {
        let what = format!("its name has {} bytes, GGUF allows {}", tensor.name.len(), MAX_NAME_BYTES - 1);
        return Err(refused(what));
    }
    if tensor.shape.len() > MAX_DIMENSIONS {
        return Err(refused(format!("shape {:?} has more than {MAX_DIMENSIONS} dimensions", tensor.shape)));
    }
    tensor.element_type.ggml_id().ok_or_else(|| {
        refused(format!("GGUF has no element type {}; decode it to f32 or f16 first", tensor.element_type))
    })
}

/// Appends the value's bytes to `out`. Returns its type.
fn encode_value(value: &Value, out: &mut Vec<u8>) -> Type {
    macro_rules! number {
        ($v:expr, $variant:ident) => {{
            out.extend_from_slice(&$v.to_le_bytes());
            Type::$variant
        }};
    }
    match value {
        Value::U8(v) => number!(v, U8),
        Value::I8(v) => number!(v, I8),
        Value::U16(v) => number!(v, U16),
        Value::I16(v) => number!(v, I16),
        Value::U32(v) => number!(v, U32),
        Value::I32(v) => number!(v, I32),
        Value::F32(v) => number!(v, F32),
        Value::U64(v) => number!(v, U64),
        Value::I64(v) => number!(v, I64),
        Value::F64(v) => number!(v, F64),
        Value::Bool(v) => number!(u8::from(*v), Bool),
        Value::String(v) => {
            encode_string(v, out);
            Type::String
        }
        Value::Array(v) => {
            encode_array(v, out);
            Type::Array
        }
    }
}

fn encode_string(text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(&(text.len() as u64).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn encode_array(array: &Array, out: &mut Vec<u8>) {
    let mut head = |t: Type| {
        out.extend_from_slice(&(t as u32).to_le_bytes());
        out.extend_from_slice(&(array.len() as u64).to_le_bytes());
    };
    macro_rules! numbers {
        ($v:expr, $variant:ident) => {{
            head(Type::$variant);
            $v.iter().for_each(|n| out.extend_from_slice(&n.to_le_bytes()));
        }};
    }
    match array {
        Array::U8(v) => numbers!(v, U8),
        Array::I8(v) => numbers!(v, I8),
        Array::U16(v) => numbers!(v, U16),
        Array::I16(v) => numbers!(v, I16),
        Array::U32(v) => numbers!(v, U32),
        Array::I32(v) => numbers!(v, I32),
        Array::F32(v) => numbers!(v, F32),
        Array::U64(v) => numbers!(v, U64),
        Array::I64(v) => numbers!(v, I64),
        Array::F64(v) => numbers!(v, F64),
        Array::Bool(v) => {
            head(Type::Bool);
            out.extend(v.iter().map(|&b| u8::from(b)));
        }
        Array::String(v) => {
            head(Type::String);
            v.iter().for_each(|s| encode_string(s, out));
        }
    }
}
