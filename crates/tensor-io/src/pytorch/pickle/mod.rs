//! A pickle machine that supports state dicts and nothing else.
//!
//! A pickle is a program for a stack machine that may import any name of Python and call it. Those of state dicts
//! need a dozen: ordered dicts, tensors rebuilt from a storage, and their types ([`value::Global`]). This machine
//! has no import: it builds those few objects itself, and any other name is an error that gives the name.
//!
//! Opcodes of protocols 2 to 5 as in CPython's `pickletools`. Memory is at most a small multiple of the pickle's
//! length, and no opcode costs more time than its own bytes: text is borrowed, a memo is a map, what is
//! remembered is shared and not copied.

mod calls;
mod machine;
mod value;

use std::ops::Range;
use std::path::Path;

use crate::budget::Budget;
use crate::{Error, Result};

pub(super) use value::{Numbers, RawTensor, Storage, Value};

/// The longest pickle that is read. One of 100000 tensors takes some 15 MB.
const MOST_BYTES: usize = 64 << 20;

/// The most values on the stack: writers put a thousand items down before they are collected.
const MOST_STACK: usize = 1 << 20;

/// What one more value costs in the places where values are kept.
mod cost {
    use super::{RawTensor, Storage, Value};

    /// On the stack, in a tuple or a list: these grow by doubling.
    pub const VALUE: u64 = 2 * size_of::<Value<'_>>() as u64;
    /// In the memo, a table that is half empty and is copied when it grows.
    pub const MEMO: u64 = 4 * (size_of::<Value<'_>>() as u64 + 8);
    /// A list or dict, with its allocation.
    pub const CONTAINER: u64 = 96;
    pub const STORAGE: u64 = 2 * size_of::<Storage<'_>>() as u64;
    pub const TENSOR: u64 = 2 * size_of::<RawTensor<'_>>() as u64;
}

/// Everything that values point to.
#[derive(Debug, Default)]
pub(super) struct Heap<'a> {
    tuples: Vec<Value<'a>>,
    lists: Vec<Vec<Value<'a>>>,
    dicts: Vec<Vec<(Value<'a>, Value<'a>)>>,
    storages: Vec<Storage<'a>>,
    tensors: Vec<RawTensor<'a>>,
}

impl<'a> Heap<'a> {
    /// The values of a tuple or list; of anything else none.
    pub fn items(&self, value: Value<'a>) -> &[Value<'a>] {
        match value {
            Value::Tuple { start, length } => &self.tuples[start as usize..][..length as usize],
            Value::List(list) => &self.lists[list as usize],
            _ => &[],
        }
    }

    /// Keys and values of a dict; of anything else none.
    pub fn entries(&self, value: Value<'a>) -> &[(Value<'a>, Value<'a>)] {
        match value {
            Value::Dict(dict) => &self.dicts[dict as usize],
            _ => &[],
        }
    }

    pub fn storage(&self, index: u32) -> &Storage<'a> {
        &self.storages[index as usize]
    }

    pub fn storages(&self) -> &[Storage<'a>] {
        &self.storages
    }

    pub fn tensor(&self, index: u32) -> &RawTensor<'a> {
        &self.tensors[index as usize]
    }
}

/// The value of a pickle.
#[derive(Debug)]
pub(super) struct Loaded<'a> {
    pub root: Value<'a>,
    pub heap: Heap<'a>,
    /// Offset behind the pickle.
    pub end: usize,
}

/// Runs the pickle that begins where `place` of `data`, the whole of the file `path`, does, and ends before its end.
pub(super) fn load<'a>(
    path: &Path,
    data: &'a [u8],
    place: Range<usize>,
    budget: &mut Budget,
) -> Result<Loaded<'a>> {
    let Range { start, end } = place;
    let end = end.min(start.saturating_add(MOST_BYTES + 1)).min(data.len());
    machine::Machine::new(&data[..end], start, budget).run().map_err(|fault| {
        let at = fault.at as u64;
        let what = match fault.at - start > MOST_BYTES {
            true => format!("the pickle is longer than {} MiB", MOST_BYTES >> 20),
            false => fault.what,
        };
        match fault.unsupported {
            _ if fault.exceeded => super::exceeded(path, at),
            true => Error::unsupported(path, what).at(at),
            false => Error::malformed(path, format!("the pickle: {what}")).at(at),
        }
    })
}
