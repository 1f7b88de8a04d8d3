//! The PyTorch container: state dicts that `torch.save` wrote, `pytorch_model.bin` and the like. Read only.
//!
//! ```text
//! since torch 1.6            a zip archive: NAME/data.pkl, a pickle that describes the tensors, and
//!                            NAME/data/KEY, the bytes of their storages          (archive.rs)
//! before                     pickles one after the other, then the storages      (legacy.rs)
//! several files              pytorch_model.bin.index.json: {"weight_map": {"name": "file", …}}
//! ```
//!
//! A pickle is a program. This reader runs none: its machine (pickle/) supports the few objects that state dicts
//! consist of, and refuses a file with anything else, naming it. Storages stay in the memory map; tensors are views
//! of them, zero-copy where their numbers are contiguous. Tensors that share a storage (tied weights) are the same
//! bytes under two names.

mod archive;
mod legacy;
mod pickle;
mod state;

use std::path::Path;

use archive::Archive;

use crate::budget::{Budget, Exceeded, MOST_TENSORS};
use crate::checkpoint::Parts;
use crate::map::MappedFile;
use crate::names::NameTable;
use crate::strided::Strided;
use crate::{Error, Metadata, Result, TensorInfo};

/// What every zip archive begins with.
const ZIP: [u8; 4] = *b"PK\x03\x04";

/// Whether a file that begins so may be one of torch.save: a zip archive, or the format before.
pub(crate) fn begins(start: &[u8]) -> bool {
    start.starts_with(&ZIP) || legacy::begins(start)
}

/// The message about big-endian files.
const BIG_ENDIAN: &str = "saved on a big-endian machine, which is not read; load it with torch on a little-endian \
                          one and save it again";

/// Opens one file as a model.
pub(crate) fn open(path: &Path) -> Result<Parts> {
    let file = MappedFile::open(path)?;
    let (mut tensors, mut strided) = (Vec::new(), Vec::new());
    read(path, file.bytes(), 0, (&mut tensors, &mut strided), &mut Budget::new())?;
    let names = NameTable::of(tensors.len(), |i| tensors[i].name.as_str()).map_err(|(_, second)| {
        Error::malformed(path, format!("the state dict has {:?} twice", tensors[second].name))
    })?;
    Ok(Parts { files: vec![file], metadata: Metadata::new(), tensors, names, strided })
}

/// Appends the tensors in `data`, the whole of the file `path`, which is the model's `file`-th. The budget gets the
/// file's bytes and pays for its entries.
pub(crate) fn read(
    path: &Path,
    data: &[u8],
    file: usize,
    (tensors, strided): (&mut Vec<TensorInfo>, &mut Vec<Strided>),
    budget: &mut Budget,
) -> Result<()> {
    budget.add(data.len() as u64);
    let found = match data {
        _ if data.starts_with(&ZIP) => from_archive(path, data, file, budget)?,
        _ if legacy::begins(data) => legacy::read(path, data, file, budget)?,
        _ if data.get(257..262) == Some(b"ustar") => {
            let what =
                "the tar format of torch before 0.2, which is not read; load it with torch and save it again";
            return Err(Error::unsupported(path, what));
        }
        _ => {
            let what =
                "not a file of torch.save: it begins neither as a zip archive nor as torch's older format";
            return Err(Error::unsupported(path, what));
        }
    };
    for (info, view) in found {
        let index = view.map(|view| {
            strided.push(*view);
            strided.len() - 1
        });
        tensors.push(TensorInfo { strided: index, ..info });
    }
    Ok(())
}

/// The error of a file whose entries take more memory than its size justifies.
fn exceeded(path: &Path, at: u64) -> Error {
    Error::malformed(path, Exceeded::WHAT).at(at)
}

/// The error of a state dict of more tensors than are read.
fn too_many(path: &Path) -> Error {
    Error::malformed(
        path,
        format!("a state dict of more than {MOST_TENSORS} tensors, which quern does not read"),
    )
}

fn from_archive(path: &Path, data: &[u8], file: usize, budget: &mut Budget) -> Result<Vec<state::Read>> {
    let archive = Archive::open(path, data, budget)?;
    if archive.contains("constants.pkl") {
        let what =
            "a TorchScript program, which is not read; in Python, save its state_dict() with torch.save";
        return Err(Error::unsupported(path, what));
    }
    let Some((place, _)) = archive.bytes("data.pkl")? else {
        let what = "a zip archive without data.pkl: not a file of torch.save";
        return Err(Error::unsupported(path, what));
    };
    match archive.bytes("byteorder")? {
        None | Some((_, b"little")) => {}
        Some((_, b"big")) => return Err(Error::unsupported(path, BIG_ENDIAN)),
        Some((place, _)) => {
            let what = "the byte order is neither \"little\" nor \"big\"";
            return Err(Error::malformed(path, what).at(place.offset as u64));
        }
    }
    let end = place.offset + place.bytes;
    let loaded = pickle::load(path, data, place.offset..end, budget)?;
    if loaded.end != end {
        return Err(Error::malformed(path, "bytes follow the pickle in data.pkl").at(loaded.end as u64));
    }
    state::tensors(path, &loaded, place.bytes, (file, data.len()), budget, |storage| {
        archive.place(&format!("data/{}", storage.key))?.ok_or_else(|| {
            let key: String = storage.key.chars().take(40).collect();
            Error::malformed(path, format!("its storage {key:?} is not in the archive"))
        })
    })
}
