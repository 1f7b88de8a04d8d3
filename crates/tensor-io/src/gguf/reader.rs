//! Strict reader of one GGUF file: everything is checked here, once, so that later stages can slice.
//!
//! The rules are those of ggml's `gguf.cpp` and llama.cpp's loader: known version, counts that the file
//! can hold, unique non-empty keys, known value types, no nested arrays, alignment a u32 power of two,
//! unique names under 64 bytes, at most four dimensions, known tensor types, rows of whole blocks, offsets
//! exactly the running padded sum, data inside the file. Stricter than ggml: strings are UTF-8, a bool is
//! 0 or 1, a tensor has a name. As there, bytes after the last tensor are accepted and ignored: several
//! writers pad the end of a file, and nothing refers to them.

use std::collections::HashSet;
use std::path::Path;

use super::cursor::{Cursor, Fault};
use super::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, MAX_DIMENSIONS, MAX_NAME_BYTES, check_alignment};
use crate::budget::{Budget, MOST_TENSORS};
use crate::names::NameTable;
use crate::plan::{bad_shape, tensor_bytes};
use crate::{ElementType, Metadata, Result, TensorInfo};

/// The least that a metadata entry takes: key length, one byte of key, value type, one byte of value.
const MIN_ENTRY_BYTES: u64 = 8 + 1 + 4 + 1;
/// The least that a tensor's description takes: name length, one byte of name, dimension count, type, offset.
const MIN_TENSOR_BYTES: u64 = 8 + 1 + 4 + 4 + 8;

/// What the header of one file says, checked against the file's size.
#[derive(Debug)]
pub(crate) struct Header {
    pub metadata: Metadata,
    pub tensors: Vec<TensorInfo>,
    /// The names of the tensors.
    pub names: NameTable,
}

/// Reads the header in `data`, the whole of the file `path`. Tensors are given `file` as their file index. The budget
/// gets the file's bytes and pays for its entries.
pub(crate) fn read(path: &Path, data: &[u8], file: usize, budget: &mut Budget) -> Result<Header> {
    budget.add(data.len() as u64);
    let header = parse(data, data.len() as u64, file, budget).map_err(|fault| fault.in_file(path))?;
    Ok(header.0)
}

/// Where the header ends in a file of `size` bytes that begins with `start`; `None` if that is not enough to
/// decide. The header is checked as in [`read`].
pub(crate) fn end(path: &Path, start: &[u8], size: u64) -> Result<Option<u64>> {
    match parse(start, size, 0, &mut Budget::of(size)) {
        Ok((_, end)) => Ok(Some(end as u64)),
        Err(fault) if fault.is_short() => Ok(None),
        Err(fault) => Err(fault.in_file(path)),
    }
}

/// Reads the header of a file of `size` bytes that begins with `data`. Also gives where it ends.
fn parse(data: &[u8], size: u64, file: usize, budget: &mut Budget) -> Result<(Header, usize), Fault> {
    let mut cursor = Cursor::new(data, size, budget);
    check_magic(cursor.take(4, "the magic \"GGUF\"")?)?;
    check_version(cursor.u32("the version")?)?;
    let at = cursor.position();
    let tensor_count = count(&mut cursor, "tensor", MIN_TENSOR_BYTES)?;
    if tensor_count > MOST_TENSORS {
        let what =
            format!("tensor count {tensor_count}, but quern reads models of at most {MOST_TENSORS} tensors");
        return Err(Fault::new(at, what));
    }
    let entry_count = count(&mut cursor, "metadata", MIN_ENTRY_BYTES)?;

    let metadata = read_metadata(&mut cursor, entry_count)?;
    let alignment = match metadata.get(ALIGNMENT_KEY) {
        Some(value) => check_alignment(value).map_err(|what| Fault::new(cursor.position(), what))?,
        None => DEFAULT_ALIGNMENT,
    };

    let mut tensors: Vec<TensorInfo> = Vec::new();
    let mut offsets = Vec::new();
    let mut names = NameTable::default();
    for index in 0..tensor_count {
        let what = format_args!("tensor {index} of {tensor_count}");
        let at = cursor.position();
        let name = cursor.string("a tensor's name").map_err(|f| f.within(what))?;
        check_name(name, at).map_err(|f| f.within(what).of_tensor(name))?;
        cursor.pay(at, |budget| budget.tensor(name)).map_err(|f| f.within(what))?;
        if names.insert(tensors.len(), name, |i| tensors[i].name.as_str()).is_some() {
            return Err(Fault::new(at, "two tensors have this name").of_tensor(name));
        }
        let (info, offset) = read_tensor(&mut cursor, name).map_err(|f| f.of_tensor(name))?;
        tensors.push(TensorInfo { file, ..info });
        offsets.push((at, offset));
    }
    place(&mut tensors, &offsets, cursor.position() as u64, alignment, size)?;
    Ok((Header { metadata, tensors, names }, cursor.position()))
}

fn check_magic(magic: &[u8]) -> Result<(), Fault> {
    let old = [b"lmgg", b"fmgg", b"tjgg", b"algg"].iter().any(|m| magic == *m);
    if old {
        let what = "a llama.cpp file from before GGUF; convert the original checkpoint again";
        return Err(Fault::unsupported(0, what));
    }
    if magic != b"GGUF" {
        return Err(Fault::new(
            0,
            format!("not a GGUF file: it begins with {:?}", magic.escape_ascii().to_string()),
        ));
    }
    Ok(())
}

fn check_version(version: u32) -> Result<(), Fault> {
    match version {
        2 | 3 => Ok(()),
        0 => Err(Fault::new(4, "GGUF version 0 does not exist")),
        1 => Err(Fault::unsupported(4, "GGUF version 1 is obsolete; convert the original checkpoint again")),
        v if v & 0xffff == 0 => Err(Fault::unsupported(
            4,
            "a big-endian GGUF file; convert it to little endian first (gguf-py: gguf-convert-endian FILE little)",
        )),
        v => Err(Fault::unsupported(4, format!("GGUF version {v}; quern reads versions 2 and 3"))),
    }
}

/// A count of entries that each take at least `least` bytes.
fn count(cursor: &mut Cursor<'_, '_>, what: &str, least: u64) -> Result<u64, Fault> {
    let at = cursor.position();
    let count = cursor.u64("the counts")?;
    let room = cursor.left() as u64 / least;
    if count > room {
        return Err(Fault::new(
            at,
            format!("{what} count {count}, but the rest of the file can hold only {room}"),
        ));
    }
    Ok(count)
}

fn read_metadata(cursor: &mut Cursor<'_, '_>, count: u64) -> Result<Metadata, Fault> {
    let mut keys = HashSet::new();
    let mut metadata = Metadata::new();
    for index in 0..count {
        let at = cursor.position();
        let key = cursor
            .string("a key")
            .map_err(|f| f.within(format_args!("metadata entry {index} of {count}")))?;
        if key.is_empty() {
            return Err(Fault::new(at, format!("metadata entry {index} of {count} has an empty key")));
        }
        cursor
            .pay(at, |budget| budget.entry(key))
            .map_err(|f| f.within(format_args!("metadata entry {index} of {count}")))?;
        if !keys.insert(key) {
            return Err(Fault::new(at, format!("metadata key {key:?} appears twice")));
        }
        let value = cursor.value().map_err(|f| f.within(format_args!("metadata key {key:?}")))?;
        metadata.append(key, value);
    }
    Ok(metadata)
}

fn check_name(name: &str, at: usize) -> Result<(), Fault> {
    if name.is_empty() {
        return Err(Fault::new(at, "its name is empty"));
    }
    if name.len() >= MAX_NAME_BYTES {
        return Err(Fault::new(
            at,
            format!("its name has {} bytes, ggml allows {}", name.len(), MAX_NAME_BYTES - 1),
        ));
    }
    Ok(())
}

/// Reads what follows the name. Returns the offset beside the description, which does not hold it yet.
fn read_tensor(cursor: &mut Cursor<'_, '_>, name: &str) -> Result<(TensorInfo, u64), Fault> {
    let at = cursor.position();
    let dimensions = cursor.u32("the number of dimensions")?;
    if dimensions as usize > MAX_DIMENSIONS {
        return Err(Fault::new(at, format!("{dimensions} dimensions, at most {MAX_DIMENSIONS} are allowed")));
    }
    let mut shape = Vec::with_capacity(MAX_DIMENSIONS);
    for _ in 0..dimensions {
        let at = cursor.position();
        let dimension = cursor.u64("a dimension")?;
        match usize::try_from(dimension) {
            Ok(d) if d <= isize::MAX as usize => shape.push(d),
            _ => return Err(Fault::new(at, format!("dimension {} is out of range", dimension as i64))),
        }
    }
    shape.reverse(); // GGUF writes the innermost dimension first
    let at = cursor.position();
    let id = cursor.u32("the element type")?;
    let Some(element_type) = ElementType::from_ggml_id(id) else {
        let what = format!("unknown element type id {id} (removed from ggml, or newer than this quern)");
        return Err(Fault::unsupported(at, what));
    };
    let Some(bytes) = tensor_bytes(element_type, &shape) else {
        return Err(Fault::new(at, bad_shape(element_type, &shape)));
    };
    let offset = cursor.u64("the offset")?;
    Ok((
        TensorInfo { name: name.to_owned(), element_type, shape, file: 0, offset: 0, bytes, strided: None },
        offset,
    ))
}

/// Converts offsets within the data section to offsets within the file. `declared` holds, per tensor, the place of
/// its description and the offset it gives.
fn place(
    tensors: &mut [TensorInfo],
    declared: &[(usize, u64)],
    header_bytes: u64,
    alignment: u64,
    file_bytes: u64,
) -> Result<(), Fault> {
    let start = header_bytes.next_multiple_of(alignment);
    let mut expected = 0u64;
    for (tensor, &(at, offset)) in tensors.iter_mut().zip(declared) {
        if offset != expected {
            let what = format!(
                "its data is at offset {offset}, expected {expected}: tensors must follow one another without gaps, \
                 padded to {alignment} bytes"
            );
            return Err(Fault::new(at, what).of_tensor(&tensor.name));
        }
        let end = start.checked_add(offset).and_then(|s| s.checked_add(tensor.bytes as u64));
        let next = offset
            .checked_add(tensor.bytes as u64)
            .and_then(|end| end.checked_next_multiple_of(alignment))
            .filter(|&next| next <= i64::MAX as u64);
        let (Some(end), Some(next)) = (end, next) else {
            return Err(Fault::new(at, "the sizes of the tensors overflow").of_tensor(&tensor.name));
        };
        if tensor.bytes > 0 && end > file_bytes {
            let what = format!(
                "its data ends at byte {end}, but the file has {file_bytes}: the file is cut short; download or make \
                 it again"
            );
            return Err(Fault::new(at, what).of_tensor(&tensor.name));
        }
        tensor.offset = start + offset;
        expected = next;
    }
    Ok(())
}
