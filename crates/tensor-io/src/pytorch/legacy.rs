//! The format of torch.save before 1.6: pickles one after the other, then the storages.
//!
//! ```text
//! pickle  the magic number
//! pickle  1001, the version
//! pickle  {"protocol_version": 1001, "little_endian": True, "type_sizes": {…}}
//! pickle  the object; storages are named by keys
//! pickle  [keys], in the order of what follows
//! for each key:  i64 count, count numbers
//! ```
//!
//! As torch's `serialization.py` reads it.

use std::collections::HashMap;
use std::path::Path;

use super::archive::Place;
use super::pickle::{self, Loaded, Numbers, Storage, Value};
use super::state;
use crate::budget::Budget;
use crate::{Error, Result};

/// The magic number, 0x1950a86a20f9469cfc6c.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

/// Whether a file that begins so is of this format: a pickle of the magic number.
pub(super) fn begins(start: &[u8]) -> bool {
    let start = &start[..start.len().min(32)];
    start.first() == Some(&0x80) && start.windows(MAGIC.len()).any(|w| w == MAGIC)
}

/// What a storage costs: its place in two tables.
const STORAGE: u64 = 128;

pub(super) fn read(path: &Path, data: &[u8], file: usize, budget: &mut Budget) -> Result<Vec<state::Read>> {
    let malformed = |what: &str, at: usize| Error::malformed(path, what).at(at as u64);
    let mut load = |start| pickle::load(path, data, start..data.len(), budget);
    let magic = load(0)?;
    if magic.root != Value::Long(&MAGIC) {
        return Err(malformed("the pickle at the beginning is not torch.save's magic number", 0));
    }
    let version = load(magic.end)?;
    if version.root != Value::Int(1001) {
        return Err(malformed("the format's version is not 1001", magic.end));
    }
    let system = load(version.end)?;
    let little =
        |(key, value): &(Value, Value)| *key == Value::Text("little_endian") && *value == Value::Bool(false);
    if system.heap.entries(system.root).iter().any(little) {
        return Err(Error::unsupported(path, super::BIG_ENDIAN));
    }
    let object = load(system.end)?;
    let keys = load(object.end)?;
    let storages = STORAGE * (object.heap.storages().len() + keys.heap.items(keys.root).len()) as u64;
    budget.spend(storages).map_err(|_| super::exceeded(path, keys.end as u64))?;
    let places = places(path, data, &object, &keys)?;
    let place = |storage: &Storage| match places.get(storage.key) {
        Some(place) => Ok(*place),
        None => {
            let key: String = storage.key.chars().take(40).collect();
            Err(Error::malformed(path, format!("its storage {key:?} is not in the file")))
        }
    };
    state::tensors(path, &object, object.end - system.end, (file, data.len()), budget, place)
}

/// The place of each storage.
fn places<'a>(
    path: &Path,
    data: &[u8],
    object: &Loaded<'a>,
    keys: &Loaded<'a>,
) -> Result<HashMap<&'a str, Place>> {
    let mut sizes = HashMap::new();
    for storage in object.heap.storages() {
        let size = match storage.numbers {
            Numbers::Of(of) => of.block_bytes(),
            Numbers::Untyped => 1,
            Numbers::Unknown(_, bytes) => bytes,
        };
        sizes.insert(storage.key, size);
    }
    let mut places = HashMap::new();
    let mut at = keys.end;
    for key in keys.heap.items(keys.root) {
        let malformed = |what: String| Error::malformed(path, what).at(at as u64);
        let Value::Text(key) = key else { return Err(malformed("the key of a storage is no text".into())) };
        let brief: String = key.chars().take(40).collect();
        let Some(size) = sizes.get(key) else {
            return Err(malformed(format!("no tensor has the storage {brief:?} that follows")));
        };
        let cut =
            || malformed(format!("the storage {brief:?} ends beyond the end of the file: it is cut short"));
        let count = data.get(at..).and_then(|rest| rest.first_chunk()).map(|b| i64::from_le_bytes(*b));
        let bytes = count.ok_or_else(cut)?.try_into().ok().and_then(|n: usize| n.checked_mul(*size));
        let Some(bytes) = bytes else {
            return Err(malformed(format!("the storage {brief:?} has an impossible length")));
        };
        let offset = at + 8;
        let end = offset.checked_add(bytes).filter(|&end| end <= data.len()).ok_or_else(cut)?;
        if places.insert(*key, Place { offset, bytes }).is_some() {
            return Err(malformed(format!("the storage {brief:?} comes twice")));
        }
        at = end;
    }
    Ok(places)
}
