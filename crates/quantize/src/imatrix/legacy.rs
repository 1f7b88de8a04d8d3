//! The legacy importance matrix, `imatrix.dat`.
//!
//! ```text
//! i32 entries
//! each: i32 name length, name, i32 calls, i32 values, f32[values] = mean * calls
//! i32 chunks, i32 name length, name of the text        (absent in the oldest files)
//! ```
//! All little endian. Every count is checked against the bytes that are left before anything is allocated.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use quern_tensor_io::{Error, Result, small};

use super::Imatrix;

/// The most entries, one for each weight of a model. Experts are stacked, so that the largest have some thousands.
const MOST_ENTRIES: u32 = 1 << 16;

pub(super) fn open(path: &Path) -> Result<Imatrix> {
    let io = |e| Error::new(path, quern_tensor_io::ErrorKind::Io(e));
    let file = small::open(path)?;
    let left = file.metadata().map_err(io)?.len();
    let mut input = Input { path, file: BufReader::new(file), at: 0, left };
    let mut imatrix = Imatrix::new(path);

    let entries = input.count("number of entries")?;
    if entries == 0 {
        return Err(input.bad("not an importance matrix: no entries".into()));
    }
    if entries > MOST_ENTRIES {
        let what = format!(
            "not an importance matrix, or a damaged one: it claims {entries} entries, and no model has more than \
             {MOST_ENTRIES} matrices"
        );
        return Err(input.bad(what));
    }
    for _ in 0..entries {
        let name = input.string("tensor name")?;
        let calls = input.i32("number of calls")?;
        let values = input.count("number of values")?;
        let mut means = input.floats(values)?;
        if calls > 0 {
            for mean in &mut means {
                *mean /= calls as f32;
            }
        }
        imatrix.insert(&name, means).map_err(|e| e.at(input.at))?;
    }
    if input.left > 0 {
        imatrix.chunks = input.count("number of chunks")?;
        let dataset = input.string("name of the text")?;
        if !dataset.is_empty() {
            imatrix.datasets.push(dataset);
        }
    }
    Ok(imatrix)
}

/// The file with its place, for errors, and what is left of it, for checks.
struct Input<'a> {
    path: &'a Path,
    file: BufReader<File>,
    at: u64,
    left: u64,
}

impl Input<'_> {
    fn bad(&self, what: String) -> Error {
        Error::malformed(self.path, what).at(self.at)
    }

    /// `length` bytes, if that many are left.
    fn bytes(&mut self, length: u64, what: &str) -> Result<Vec<u8>> {
        self.has(length, what)?;
        let mut bytes = vec![0; length as usize];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    /// Checks that so many bytes are left.
    fn has(&self, length: u64, what: &str) -> Result<()> {
        if length > self.left {
            let left = self.left;
            let what = format!(
                "not an importance matrix, or cut short: {what} takes {length} bytes, but {left} are left"
            );
            return Err(self.bad(what));
        }
        Ok(())
    }

    /// Reads bytes that are left.
    fn fill(&mut self, bytes: &mut [u8]) -> Result<()> {
        self.file.read_exact(bytes).map_err(|e| Error::new(self.path, e).at(self.at))?;
        self.at += bytes.len() as u64;
        self.left = self.left.saturating_sub(bytes.len() as u64);
        Ok(())
    }

    fn i32(&mut self, what: &str) -> Result<i32> {
        let bytes = self.bytes(4, what)?;
        Ok(bytes.try_into().map(i32::from_le_bytes).unwrap_or_default())
    }

    fn count(&mut self, what: &str) -> Result<u32> {
        let n = self.i32(what)?;
        u32::try_from(n).map_err(|_| self.bad(format!("not an importance matrix: {what} is {n}")))
    }

    fn string(&mut self, what: &str) -> Result<String> {
        let length = self.count(what)?;
        let bytes = self.bytes(length.into(), what)?;
        String::from_utf8(bytes)
            .map_err(|_| self.bad(format!("not an importance matrix: {what} is not UTF-8")))
    }

    fn floats(&mut self, count: u32) -> Result<Vec<f32>> {
        self.has(u64::from(count) * 4, "the values of an entry")?;
        let mut floats = Vec::with_capacity(count as usize);
        let mut part = [0; 4096];
        while floats.len() < count as usize {
            let part = &mut part[..4 * (count as usize - floats.len()).min(1024)];
            self.fill(part)?;
            floats.extend(part.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)));
        }
        Ok(floats)
    }
}
