//! Strict reader of one safetensors file.

use std::path::Path;

use ::safetensors::Dtype;
use ::safetensors::tensor::{Metadata as Reference, TensorInfo as ReferenceInfo};
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::{Error as PlainError, StrDeserializer};

use super::json::{RawHeader, RawTensor};
use super::{MAX_HEADER_BYTES, element_type};
use crate::checkpoint::Parts;
use crate::map::MappedFile;
use crate::plan::{bad_shape, tensor_bytes};
use crate::{Error, Metadata, Result, TensorInfo};

/// Opens one file as a model.
pub(crate) fn open(path: &Path) -> Result<Parts> {
    let file = MappedFile::open(path)?;
    let (metadata, tensors) = read(path, file.bytes(), 0)?;
    Ok(Parts { files: vec![file], metadata, tensors, strided: Vec::new() })
}

/// Reads the header in `data`, the whole of the file `path`. Tensors are given `file` as their file index
/// and come in the order of their data.
pub(crate) fn read(path: &Path, data: &[u8], file: usize) -> Result<(Metadata, Vec<TensorInfo>)> {
    let text = header_text(path, data)?;
    let header: RawHeader =
        serde_json::from_str(text).map_err(|e| Error::malformed(path, format!("the header: {e}")).at(8))?;
    let start = 8 + text.len() as u64;
    let mut raw = header.tensors;
    raw.sort_by_key(|(_, t)| t.data_offsets);

    let mut tensors = Vec::with_capacity(raw.len());
    let mut reference = Vec::with_capacity(raw.len());
    let mut expected = 0;
    for (name, tensor) in raw {
        let begin = expected;
        let fault = |e: Error| e.with_tensor(&name);
        let (info, dtype) = read_tensor(path, &name, &tensor, &mut expected).map_err(fault)?;
        if start + expected > data.len() as u64 {
            let what = format!(
                "its data ends at byte {}, but the file has {}: the file is cut short; download or make it again",
                start + expected,
                data.len()
            );
            return Err(Error::malformed(path, what).with_tensor(name));
        }
        let data_offsets = (begin as usize, expected as usize);
        reference.push((name, ReferenceInfo { dtype, shape: tensor.shape, data_offsets }));
        tensors.push(TensorInfo { file, offset: start + begin, ..info });
    }
    if start + expected != data.len() as u64 {
        let extra = data.len() as u64 - start - expected;
        let what = format!("{extra} bytes after the last tensor, which the format does not allow");
        return Err(Error::malformed(path, what).at(start + expected));
    }
    // The reference implementation has to accept it too: what it refuses, other tools refuse.
    Reference::new(None, reference).map_err(|e| Error::malformed(path, format!("the header: {e}")))?;

    let mut metadata = Metadata::new();
    for (key, value) in header.metadata.0 {
        metadata.append(key, value.as_str());
    }
    Ok((metadata, tensors))
}

/// Where the header ends in a file of `size` bytes that begins with `start`; `None` if that is not enough to decide.
pub(crate) fn end(path: &Path, start: &[u8], size: u64) -> Result<Option<u64>> {
    let Some(length) = start.first_chunk() else {
        if size >= 8 {
            return Ok(None);
        }
        let what = format!("a safetensors file begins with 8 bytes of header length, this one has {size}");
        return Err(Error::malformed(path, what).at(0));
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER_BYTES || length > size - 8 {
        let what = format!(
            "the header claims {length} bytes; the file has {} after the length, and the format allows {MAX_HEADER_BYTES}",
            size - 8
        );
        return Err(Error::malformed(path, what).at(0));
    }
    Ok(Some(8 + length))
}

fn header_text<'a>(path: &Path, data: &'a [u8]) -> Result<&'a str> {
    let end = end(path, data, data.len() as u64)?.unwrap_or_default() as usize;
    let bytes = data.get(8..end).unwrap_or_default();
    if bytes.first() != Some(&b'{') {
        return Err(
            Error::malformed(path, "the header does not begin with '{': not a safetensors file").at(8)
        );
    }
    std::str::from_utf8(bytes)
        .map_err(|e| Error::malformed(path, "the header is not valid UTF-8").at(8 + e.valid_up_to() as u64))
}

/// Checks one tensor, whose data must begin at `expected`, and moves that on to its end.
fn read_tensor(path: &Path, name: &str, raw: &RawTensor, expected: &mut u64) -> Result<(TensorInfo, Dtype)> {
    if name.is_empty() {
        return Err(Error::malformed(path, "its name is empty"));
    }
    let text: StrDeserializer<PlainError> = raw.dtype.as_str().into_deserializer();
    let dtype = Dtype::deserialize(text).ok();
    let Some((dtype, element_type)) = dtype.and_then(|d| Some((d, element_type(d)?))) else {
        return Err(Error::unsupported(
            path,
            format!("element type {:?} is not one that quern reads", raw.dtype),
        ));
    };
    let Some(bytes) = tensor_bytes(element_type, &raw.shape) else {
        return Err(Error::malformed(path, bad_shape(element_type, &raw.shape)));
    };
    let (begin, end) = raw.data_offsets;
    if begin != *expected {
        let what = format!(
            "its data begins at offset {begin}, expected {expected}: data must follow one another without gaps or \
             overlaps"
        );
        return Err(Error::malformed(path, what));
    }
    if end.checked_sub(begin) != Some(bytes as u64) {
        let what = format!(
            "data_offsets [{begin}, {end}] do not fit shape {:?} of {}: {bytes} bytes expected",
            raw.shape, raw.dtype
        );
        return Err(Error::malformed(path, what));
    }
    *expected = end;
    let shape = raw.shape.clone();
    Ok((
        TensorInfo { name: name.to_owned(), element_type, shape, file: 0, offset: 0, bytes, strided: None },
        dtype,
    ))
}
