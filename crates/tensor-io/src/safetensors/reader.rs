//! Strict reader of one safetensors file.

use std::path::Path;

use super::json::{self, Refused};
use super::{MAX_HEADER_BYTES, dtype};
use crate::budget::{Budget, Exceeded, MOST_TENSORS};
use crate::checkpoint::Parts;
use crate::map::MappedFile;
use crate::names::NameTable;
use crate::plan::{bad_shape, tensor_bytes};
use crate::{Error, Metadata, Result, TensorInfo};

/// Opens one file as a model.
pub(crate) fn open(path: &Path) -> Result<Parts> {
    let file = MappedFile::open(path)?;
    let Header { metadata, tensors, names } = read(path, file.bytes(), 0, &mut Budget::new())?;
    Ok(Parts { files: vec![file], metadata, tensors, names, strided: Vec::new() })
}

/// What the header of one file says, checked against the file's size.
#[derive(Debug)]
pub(crate) struct Header {
    pub metadata: Metadata,
    /// In the order of their data.
    pub tensors: Vec<TensorInfo>,
    /// The names of the tensors.
    pub names: NameTable,
}

/// Reads the header in `data`, the whole of the file `path`. Tensors are given `file` as their file index. The budget
/// gets the file's bytes and pays for its entries.
pub(crate) fn read(path: &Path, data: &[u8], file: usize, budget: &mut Budget) -> Result<Header> {
    budget.add(data.len() as u64);
    let text = header_text(path, data, budget)?;
    let header = json::read(text, file, budget).map_err(|(refused, e)| refusal(path, refused, &e))?;
    let start = 8 + text.len() as u64;
    let (metadata, mut tensors) = (header.metadata, header.tensors);
    tensors.shrink_to_fit();
    tensors.sort_by_key(|t| (t.offset, t.bytes));
    let names = NameTable::of(tensors.len(), |i| tensors[i].name.as_str()).map_err(|(_, second)| {
        let what = format!("the header: the key {:?} appears twice", tensors[second].name);
        Error::malformed(path, what).at(8)
    })?;

    let mut expected = 0;
    for tensor in &mut tensors {
        check(path, tensor, expected).map_err(|e| e.with_tensor(&tensor.name))?;
        // Both are below 2^63.
        expected += tensor.bytes as u64;
        if start + expected > data.len() as u64 {
            let what = format!(
                "its data ends at byte {}, but the file has {}: the file is cut short; download or make it again",
                start + expected,
                data.len()
            );
            return Err(Error::malformed(path, what).with_tensor(&tensor.name));
        }
        tensor.offset += start;
    }
    if start + expected != data.len() as u64 {
        let extra = data.len() as u64 - start - expected;
        let what = format!("{extra} bytes after the last tensor, which the format does not allow");
        return Err(Error::malformed(path, what).at(start + expected));
    }
    Ok(Header { metadata, tensors, names })
}

fn refusal(path: &Path, refused: Option<Refused>, error: &serde_json::Error) -> Error {
    match refused {
        None => Error::malformed(path, format!("the header: {error}")).at(8),
        Some(Refused::Type(tensor, dtype)) => {
            let what = format!("element type {dtype:?} is not one that quern reads");
            Error::unsupported(path, what).with_tensor(tensor)
        }
        Some(Refused::Budget) => Error::malformed(path, Exceeded::WHAT).at(8),
        Some(Refused::Count) => {
            let what = format!(
                "the header: more than the {MOST_TENSORS} tensors of the largest model that quern reads"
            );
            Error::malformed(path, what).at(8)
        }
    }
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

fn header_text<'a>(path: &Path, data: &'a [u8], budget: &mut Budget) -> Result<&'a str> {
    let end = end(path, data, data.len() as u64)?.unwrap_or_default() as usize;
    let bytes = data.get(8..end).unwrap_or_default();
    // The map's pages are memory too once they are touched.
    budget.spend(end as u64).map_err(|Exceeded| Error::malformed(path, Exceeded::WHAT).at(8))?;
    if bytes.first() != Some(&b'{') {
        return Err(
            Error::malformed(path, "the header does not begin with '{': not a safetensors file").at(8)
        );
    }
    std::str::from_utf8(bytes)
        .map_err(|e| Error::malformed(path, "the header is not valid UTF-8").at(8 + e.valid_up_to() as u64))
}

/// Checks one tensor, whose data must begin at `expected` of the data.
fn check(path: &Path, tensor: &TensorInfo, expected: u64) -> Result<()> {
    if tensor.name.is_empty() {
        return Err(Error::malformed(path, "its name is empty"));
    }
    let Some(bytes) = tensor_bytes(tensor.element_type, &tensor.shape) else {
        return Err(Error::malformed(path, bad_shape(tensor.element_type, &tensor.shape)));
    };
    let begin = tensor.offset;
    if begin != expected {
        let what = format!(
            "its data begins at offset {begin}, expected {expected}: data must follow one another without gaps or \
             overlaps"
        );
        return Err(Error::malformed(path, what));
    }
    if tensor.bytes != bytes {
        let what = format!(
            "its data_offsets, which are {} bytes apart, do not fit shape {:?} of {}: {bytes} bytes expected",
            tensor.bytes,
            tensor.shape,
            dtype(tensor.element_type).map_or_else(String::new, |d| d.to_string())
        );
        return Err(Error::malformed(path, what));
    }
    Ok(())
}
