//! Reads a model's headers alone, by range requests, without downloading its data.
//!
//! ```text
//! safetensors   8 bytes of length and the JSON: almost always within the first 16 KiB of each shard
//! GGUF          metadata and tensor list: the first MiB, then twice as much until the parser has all
//! other files   index, config.json, tokenizer: small files, downloaded completely and checked
//! ```
//!
//! They are written to a folder of their own as files of the true lengths, with a hole where the data would be: a
//! hole takes no disk space. Opened as a [`Checkpoint`], these files go through the same strict readers as
//! downloaded ones: every offset is checked against the true length. Only the hash of the file cannot be checked.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use quern_tensor_io::{Checkpoint, Container, header_end};
use tempfile::TempDir;

use crate::error::ErrorKind;
use crate::index;
use crate::listing::{Identity, Listing, Names};
use crate::parallel::each;
use crate::pull::{LARGEST_INDEX, choose};
use crate::select::{CARD, Patterns, Weights};
use crate::{Error, Hub, Name, Result};

/// Bytes of a file of weights that are requested first.
const FIRST_SAFETENSORS: u64 = 16 << 10;
const FIRST_GGUF: u64 = 1 << 20;
/// The largest header that is fetched; the largest vocabularies make some 20 MiB.
const LARGEST_HEADER: u64 = 256 << 20;
/// Larger settings files are left out: real ones are much smaller.
const LARGEST_SETTING: u64 = 64 << 20;
/// Tensors of a GGUF file that belong to its settings: the divisors of rope's frequencies.
const SETTING_TENSORS: &str = "rope_";
const LARGEST_SETTING_TENSOR: usize = 64 << 10;

/// The place of a model to inspect.
#[derive(Debug)]
pub enum Remote {
    /// Complete on this machine: the file to open.
    Cached(PathBuf),
    /// Its headers, fetched for this.
    Headers(Headers),
}

/// A copy of a model's headers, removed when dropped.
#[derive(Debug)]
pub struct Headers {
    folder: TempDir,
    model: PathBuf,
    name: Name,
    /// The commit, 40 hex digits.
    pub commit: String,
    /// Requests sent, each redirect counted.
    pub requests: u64,
    /// Bytes received.
    pub bytes: u64,
}

impl Headers {
    /// The headers as a checkpoint without data. Its folder, which holds the settings, is removed with `self`.
    ///
    /// # Errors
    /// As for files that are here: whatever breaks a rule of the format.
    pub fn open(&self) -> Result<Checkpoint> {
        let checkpoint = Checkpoint::open(&self.model).map_err(|mut e| {
            if let Ok(inside) = e.file.strip_prefix(self.folder.path()) {
                e.file = Path::new(self.name.repository()).join(inside);
            }
            e
        })?;
        Ok(checkpoint.headers_only())
    }

    /// What was asked for.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// A text that names files of the copy, naming the repository instead.
    pub fn renamed(&self, text: &str) -> String {
        text.replace(&self.folder.path().display().to_string(), self.name.repository())
    }
}

impl Hub {
    /// Finds the model on the Hub and fetches its headers, without changing the cache, unless the cache has it.
    ///
    /// # Errors
    /// As [`Hub::pull`]; and a model in PyTorch's format, whose headers cannot be had alone.
    pub fn headers(&self, name: &Name) -> Result<Remote> {
        if self.settings().offline {
            let what = "not complete in the cache, and network requests are disabled (--offline)";
            return Err(Error::new(name.to_string(), ErrorKind::Offline(what.to_owned())));
        }
        let (requests, bytes) = (self.client.requests(), self.client.received());
        let listing = Listing::fetch(&self.client, name)?;
        let refused = |what| Error::new(name.to_string(), ErrorKind::Choice(what));
        let names = listing.names();
        let selection = choose(&names, name, &Patterns::new(&[], &[])).map_err(refused)?;
        if let Some(path) = self.linked(name, &listing, &selection)? {
            return Ok(Remote::Cached(path));
        }
        let weights = selection.weights.ok_or_else(|| refused("no model there".to_owned()))?;
        if [".bin", ".bin.index.json", ".pt", ".pth"].iter().any(|end| weights.first().ends_with(end)) {
            let what = format!("a PyTorch checkpoint ({}); pull it to inspect it", weights.first());
            return Err(refused(what));
        }
        let folder = tempfile::tempdir().map_err(|e| Error::disk(&std::env::temp_dir(), &e))?;
        let place = folder.path().to_path_buf();
        let copy = Copy { hub: self, listing: &listing, folder: &place };
        let files = copy.weights(&weights, &names)?;
        let settings =
            selection.others.into_iter().filter(|file| !file.ends_with(CARD)).map(|file| (file, Part::Whole));
        let all = settings.chain(files.into_iter().map(|file| (file, Part::Header))).collect();
        // The answers are small and the time is spent waiting, so more are requested at once than in a pull.
        each(all, 2 * self.settings().connections, &AtomicBool::new(false), |(file, part), _| match part {
            Part::Whole => copy.whole(&file, LARGEST_SETTING).map(drop),
            Part::Header => copy.header(&file),
        })?;
        let headers = Headers {
            model: place.join(weights.first()),
            folder,
            name: name.clone(),
            commit: listing.commit.clone(),
            requests: 0,
            bytes: 0,
        };
        copy.setting_tensors(&headers.open()?)?;
        let requests = self.client.requests() - requests;
        Ok(Remote::Headers(Headers { requests, bytes: self.client.received() - bytes, ..headers }))
    }
}

/// What is fetched of a file.
enum Part {
    Whole,
    Header,
}

/// A copy being made.
struct Copy<'a> {
    hub: &'a Hub,
    listing: &'a Listing,
    folder: &'a Path,
}

impl Copy<'_> {
    /// The files with tensors. An index is fetched to learn them.
    fn weights(&self, weights: &Weights, names: &Names) -> Result<Vec<String>> {
        match weights {
            Weights::Gguf(files) => Ok(files.clone()),
            Weights::File(file) => Ok(vec![file.clone()]),
            Weights::Index(index) => {
                let text = self.whole(index, LARGEST_INDEX)?.unwrap_or_default();
                let subject = format!("{}/{index}", self.listing.repository);
                index::shards(index, &text, names)
                    .map_err(|what| Error::new(subject, ErrorKind::Choice(what)))
            }
        }
    }

    /// Fetches a small file, checks it and writes it; `None` if it is too large to be one.
    fn whole(&self, file: &str, most: u64) -> Result<Option<Vec<u8>>> {
        let identity = self.listing.identity(&self.hub.client, file)?;
        if identity.size > most {
            return Ok(None);
        }
        let bytes = self.bytes(file, &identity, 0, identity.size)?;
        let mut hasher = identity.digest.hasher(identity.size);
        hasher.update(&bytes);
        let found = hasher.finish();
        if found != identity.digest {
            let what = format!("its {} is {found}, expected {}", found.kind(), identity.digest);
            return Err(Error::untrusted(format!("{}/{file}", self.listing.repository), what));
        }
        self.write(file, &[(0, &bytes)], identity.size)?;
        Ok(Some(bytes))
    }

    /// Fetches the header of a file with tensors and writes it with a hole behind.
    fn header(&self, file: &str) -> Result<()> {
        let identity = self.listing.identity(&self.hub.client, file)?;
        let first = if file.ends_with(".gguf") { FIRST_GGUF } else { FIRST_SAFETENSORS };
        let mut start = self.bytes(file, &identity, 0, first.min(identity.size))?;
        // Errors name the file as it is on the Hub.
        let path = Path::new(&self.listing.repository).join(file);
        loop {
            let here = start.len() as u64;
            let wanted = match header_end(&path, &start, identity.size)? {
                Some(end) if end <= here => {
                    start.truncate(end as usize);
                    return self.write(file, &[(0, &start)], identity.size);
                }
                Some(end) => end,
                None => here.saturating_mul(2),
            };
            if here >= identity.size || wanted > LARGEST_HEADER {
                let what = "its header is larger than any known; pull the model to inspect it";
                return Err(Error::untrusted(path.display().to_string(), what));
            }
            start.extend(self.bytes(file, &identity, here, wanted.min(identity.size))?);
        }
    }

    /// Fills in the data of the few small tensors of a GGUF file that are settings.
    fn setting_tensors(&self, checkpoint: &Checkpoint) -> Result<()> {
        let small = |t: &&quern_tensor_io::TensorInfo| {
            t.name.starts_with(SETTING_TENSORS) && (1..=LARGEST_SETTING_TENSOR).contains(&t.bytes)
        };
        if checkpoint.container() != Container::Gguf {
            return Ok(());
        }
        for info in checkpoint.tensors().iter().filter(small) {
            let path = checkpoint.file_of(info);
            let Some(file) = path.strip_prefix(self.folder).ok().and_then(Path::to_str) else { continue };
            let identity = self.listing.identity(&self.hub.client, file)?;
            let bytes = self.bytes(file, &identity, info.offset, info.offset + info.bytes as u64)?;
            self.write(file, &[(info.offset, &bytes)], identity.size)?;
        }
        Ok(())
    }

    fn bytes(&self, file: &str, identity: &Identity, from: u64, to: u64) -> Result<Vec<u8>> {
        let client = &self.hub.client;
        client.range(&self.listing.url(client, file)?, from, to, identity.size, &self.listing.asked(file))
    }

    /// Writes pieces of a file of this length; the rest of it is a hole, or what was there.
    fn write(&self, file: &str, pieces: &[(u64, &[u8])], size: u64) -> Result<()> {
        let path = self.folder.join(file);
        let write = || {
            fs::create_dir_all(path.parent().unwrap_or(self.folder))?;
            let mut out = File::options().create(true).truncate(false).write(true).open(&path)?;
            for (at, bytes) in pieces {
                out.seek(SeekFrom::Start(*at))?;
                out.write_all(bytes)?;
            }
            out.set_len(size)
        };
        write().map_err(|e| Error::disk(&path, &e))
    }
}
