//! The zip archive that torch.save writes: entries stored as they are, found by the central directory.
//!
//! ```text
//! NAME/data.pkl              the pickle
//! NAME/byteorder             "little" (or "big"); absent in older files, which are little-endian
//! NAME/data/KEY              the bytes of storage KEY
//! ```
//!
//! Layout by PKWARE's APPNOTE 6.3: local entries, then the central directory, then (for archives beyond 4 GiB or
//! 65535 entries) the zip64 record and its locator, then the end record. All numbers little-endian. Checksums are
//! not verified: opening a model does not read its data.

use std::collections::HashMap;
use std::path::Path;

use crate::budget::Budget;
use crate::{Error, Result};

const LOCAL: u32 = 0x0403_4b50;
const CENTRAL: u32 = 0x0201_4b50;
const END: u32 = 0x0605_4b50;
const END64: u32 = 0x0606_4b50;
const LOCATOR64: u32 = 0x0706_4b50;
const END_BYTES: usize = 22;

/// What an entry costs beside its place in the directory: one in a table that may be half empty.
const ENTRY: u64 = 144;

/// The remedy for an archive that is damaged or not torch's.
const AGAIN: &str = "download it again, or save it again with torch.save";

/// An archive's entries.
#[derive(Debug)]
pub(super) struct Archive<'a> {
    path: &'a Path,
    data: &'a [u8],
    /// The folder of all entries, with its slash.
    folder: &'a str,
    entries: HashMap<&'a str, Entry>,
}

/// Where the central directory says an entry is.
#[derive(Clone, Copy, Debug)]
struct Entry {
    method: u16,
    flags: u16,
    stored: u64,
    bytes: u64,
    header: u64,
}

/// Bytes of an archive.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub offset: usize,
    pub bytes: usize,
}

/// Numbers one after the other; none beyond the end.
#[derive(Clone, Copy)]
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
}

/// The place of the central directory, and the number of its entries.
struct Directory {
    offset: u64,
    bytes: u64,
    count: u64,
}

impl<'a> Archive<'a> {
    pub fn open(path: &'a Path, data: &'a [u8], budget: &mut Budget) -> Result<Self> {
        let directory = directory(path, data)?;
        let malformed = |what: String| Error::malformed(path, what).at(directory.offset);
        let end = directory.offset.checked_add(directory.bytes).filter(|&end| end <= data.len() as u64);
        let Some(end) = end else {
            return Err(malformed(format!("the archive's directory is outside the file; {AGAIN}")));
        };
        let mut fields = Fields(&data[directory.offset as usize..end as usize]);
        // An entry takes 46 bytes at least, which limits the count to what the file can hold.
        if directory.count > directory.bytes / 46 {
            let what = format!("the archive claims {} entries in {} bytes", directory.count, directory.bytes);
            return Err(malformed(what));
        }
        budget
            .spend(directory.bytes + ENTRY * directory.count)
            .map_err(|_| super::exceeded(path, directory.offset))?;
        let mut entries = HashMap::with_capacity(directory.count as usize);
        let mut folder = None;
        for _ in 0..directory.count {
            let at = end - fields.0.len() as u64;
            let Some((name, entry)) = central(&mut fields) else {
                let what = format!("the archive's directory is damaged here; {AGAIN}");
                return Err(Error::malformed(path, what).at(at));
            };
            let name = std::str::from_utf8(name)
                .map_err(|_| Error::malformed(path, "the name of an entry is not UTF-8").at(at))?;
            folder.get_or_insert(name.split_once('/').map_or("", |(folder, _)| &name[..folder.len() + 1]));
            if entries.insert(name, entry).is_some() {
                return Err(Error::malformed(path, format!("the archive has two entries {name:?}")).at(at));
            }
        }
        if !fields.0.is_empty() {
            let what = format!(
                "the archive's directory has {} bytes beyond the {} entries it counts",
                fields.0.len(),
                directory.count
            );
            return Err(Error::malformed(path, what).at(end - fields.0.len() as u64));
        }
        Ok(Self { path, data, folder: folder.unwrap_or_default(), entries })
    }

    /// Whether there is an entry of this name in the archive's folder.
    pub fn contains(&self, name: &str) -> bool {
        self.entries.contains_key(format!("{}{name}", self.folder).as_str())
    }

    /// The place of the bytes of the entry of this name; `None` if there is none.
    pub fn place(&self, name: &str) -> Result<Option<Place>> {
        let name = format!("{}{name}", self.folder);
        let Some((&name, entry)) = self.entries.get_key_value(name.as_str()) else { return Ok(None) };
        let malformed =
            |what: &str| Error::malformed(self.path, format!("entry {name:?} {what}")).at(entry.header);
        if entry.flags & 1 != 0 {
            return Err(Error::unsupported(self.path, format!("entry {name:?} is encrypted")));
        }
        if entry.method != 0 {
            let what = format!(
                "entry {name:?} is compressed (method {}); torch.save stores entries as they are: unpack the \
                 archive and pack it again without compression (zip -0 -r), or save the model again with torch.save",
                entry.method
            );
            return Err(Error::unsupported(self.path, what));
        }
        if entry.stored != entry.bytes {
            return Err(malformed("is not compressed, yet its two sizes differ"));
        }
        // The local header repeats the name; the extra field before the data has a length of its own there.
        let rest = usize::try_from(entry.header).ok().and_then(|at| self.data.get(at..)).unwrap_or_default();
        let Some((own_name, header_bytes)) = local(rest) else {
            return Err(malformed("is not where the archive's directory says; the file is damaged"));
        };
        if own_name != name.as_bytes() {
            return Err(malformed("has another name where the archive's directory points to"));
        }
        let offset = entry.header as usize + header_bytes;
        let end = u64::try_from(offset).ok().and_then(|at| at.checked_add(entry.bytes));
        match end {
            Some(end) if end <= self.data.len() as u64 => {
                Ok(Some(Place { offset, bytes: entry.bytes as usize }))
            }
            _ => Err(malformed("ends beyond the end of the file: it is cut short; download it again")),
        }
    }

    /// The bytes of the entry of this name; `None` if there is none.
    pub fn bytes(&self, name: &str) -> Result<Option<(Place, &'a [u8])>> {
        let place = self.place(name)?;
        Ok(place.map(|place| (place, &self.data[place.offset..place.offset + place.bytes])))
    }
}

/// Reads the records at the end of the file.
fn directory(path: &Path, data: &[u8]) -> Result<Directory> {
    let cut = || {
        let what = format!("the archive's end record is missing: the file is cut short; {AGAIN}");
        Error::malformed(path, what)
    };
    // The end record is followed only by its comment, of 65535 bytes at most.
    let first = data.len().saturating_sub(END_BYTES + usize::from(u16::MAX));
    let last = data.len().checked_sub(END_BYTES).ok_or_else(cut)?;
    let is_end = |&at: &usize| {
        let (signature, comment) = (&data[at..at + 4], [data[at + 20], data[at + 21]]);
        signature == END.to_le_bytes()
            && at + END_BYTES + usize::from(u16::from_le_bytes(comment)) == data.len()
    };
    let at = (first..=last).rev().find(is_end).ok_or_else(cut)?;
    let end = |fields: &mut Fields| {
        fields.u32()?;
        let (disk, directory_disk) = (fields.u16()?, fields.u16()?);
        let (here, count) = (fields.u16()?, fields.u16()?);
        let (bytes, offset) = (fields.u32()?, fields.u32()?);
        let alone = [disk, directory_disk].iter().all(|d| *d == 0 || *d == u16::MAX) && here == count;
        alone.then(|| Directory { offset: offset.into(), bytes: bytes.into(), count: count.into() })
    };
    let parts = || Error::unsupported(path, "an archive in several parts").at(at as u64);
    let directory = end(&mut Fields(&data[at..])).ok_or_else(parts)?;
    let full = [directory.offset, directory.bytes].contains(&u64::from(u32::MAX));
    let locator = at.checked_sub(20).map(|at| &data[at..at + 20]);
    match locator.filter(|l| l[..4] == LOCATOR64.to_le_bytes()) {
        Some(locator) => directory64(data, locator).ok_or_else(|| {
            Error::malformed(path, format!("the archive's zip64 record is damaged; {AGAIN}"))
                .at(at as u64 - 20)
        }),
        None if full => Err(Error::malformed(path, "the archive lacks its zip64 record").at(at as u64)),
        None => Ok(directory),
    }
}

/// The zip64 record that this locator points to.
fn directory64(data: &[u8], locator: &[u8]) -> Option<Directory> {
    let mut fields = Fields(&locator[4..]);
    let (_disk, at) = (fields.u32()?, fields.u64()?);
    let mut fields = Fields(data.get(usize::try_from(at).ok()?..)?);
    if fields.u32()? != END64 {
        return None;
    }
    let (_size, _made, _needed, _disk, _directory_disk) =
        (fields.u64()?, fields.u16()?, fields.u16()?, fields.u32()?, fields.u32()?);
    let (here, count, bytes, offset) = (fields.u64()?, fields.u64()?, fields.u64()?, fields.u64()?);
    (here == count).then_some(Directory { offset, bytes, count })
}

/// Reads one entry of the central directory.
fn central<'a>(fields: &mut Fields<'a>) -> Option<(&'a [u8], Entry)> {
    if fields.u32()? != CENTRAL {
        return None;
    }
    let (_made, _needed, flags, method) = (fields.u16()?, fields.u16()?, fields.u16()?, fields.u16()?);
    let (_time, _checksum) = (fields.u32()?, fields.u32()?);
    let (stored, bytes) = (fields.u32()?, fields.u32()?);
    let (name, extra, comment) = (fields.u16()?, fields.u16()?, fields.u16()?);
    let (_disk, _internal, _external, header) = (fields.u16()?, fields.u16()?, fields.u32()?, fields.u32()?);
    let name = fields.bytes(name.into())?;
    let extra = Fields(fields.bytes(extra.into())?);
    fields.bytes(comment.into())?;
    // What is 2^32 - 1 here is found in the zip64 field, in this order.
    let mut wide = zip64_field(extra);
    let mut full = |number: u32| match number {
        u32::MAX => wide.u64(),
        _ => Some(number.into()),
    };
    let (bytes, stored, header) = (full(bytes)?, full(stored)?, full(header)?);
    Some((name, Entry { method, flags, stored, bytes, header }))
}

/// The zip64 field among an entry's extra fields; an empty one if there is none.
fn zip64_field(mut extra: Fields) -> Fields {
    while let (Some(id), Some(length)) = (extra.u16(), extra.u16()) {
        match extra.bytes(length.into()) {
            Some(field) if id == 1 => return Fields(field),
            Some(_) => {}
            None => break,
        }
    }
    Fields(&[])
}

/// The name in a local header, and the bytes up to the data.
fn local(data: &[u8]) -> Option<(&[u8], usize)> {
    let mut fields = Fields(data);
    if fields.u32()? != LOCAL {
        return None;
    }
    fields.bytes(22)?;
    let (name, extra) = (fields.u16()?, fields.u16()?);
    Some((fields.bytes(name.into())?, 30 + usize::from(name) + usize::from(extra)))
}
