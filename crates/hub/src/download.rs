//! Downloads one file: resumes it after an interruption, checks it, and only then gives it its name.
//!
//! ```text
//! lock      ETAG.lock, so that two processes do not write the same file
//! resume    hash what ETAG.incomplete holds; request the rest (`Range`); start over if the server sends all
//! receive   append, hash, count; the announced length and range must be those of the listing
//! check     length and hash; on a mismatch delete the part; if it was resumed, try once more from the start
//! name      fsync, rename to ETAG
//! ```

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::blobs::Blobs;
use crate::client::{Answer, Bounds, CHUNK, Client};
use crate::digest::{Digest, Hasher};
use crate::error::ErrorKind;
use crate::failure::broken;
use crate::listing::{Identity, Listing};
use crate::lock::Lock;
use crate::regular::{self, Links};
use crate::{Error, PullProgress, Result};

/// After a connection has transferred this many bytes, the count of failures is reset.
const PROGRESS: u64 = 1 << 20;

/// How a file was obtained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileSource {
    /// It was present already.
    Cache,
    /// From the Hub: this many bytes of it; the rest came in an earlier attempt.
    Hub {
        /// Bytes that were present already.
        resumed: u64,
    },
}

/// The parameters of one download.
pub(crate) struct Download<'a> {
    pub client: &'a Client,
    pub listing: &'a Listing,
    pub blobs: &'a Blobs,
    pub file: &'a str,
    pub identity: Identity,
    /// Download it even if it is present.
    pub force: bool,
    pub progress: &'a dyn PullProgress,
    pub cancelled: &'a AtomicBool,
}

/// The file being downloaded.
struct Part {
    path: PathBuf,
    file: File,
    length: u64,
    hasher: Hasher,
    /// Bytes of earlier attempts in it.
    resumed: u64,
}

impl Download<'_> {
    /// Downloads the blob, if it is not present.
    pub fn run(&self) -> Result<FileSource> {
        if !self.force && self.blobs.has(&self.identity)? {
            return Ok(FileSource::Cache);
        }
        self.progress.start(self.file, self.identity.size);
        let lock = Lock::take(&self.blobs.lock(&self.identity.digest), self.cancelled, || {
            self.progress.waiting(self.file, "another process is downloading it");
        })?;
        // The process that held the lock before may have downloaded it.
        if !self.force && self.blobs.has(&self.identity)? {
            self.progress.at(self.file, self.identity.size);
            self.progress.done(self.file);
            return Ok(FileSource::Cache);
        }
        let source = self.fetch(&lock)?;
        self.progress.done(self.file);
        Ok(source)
    }

    fn fetch(&self, lock: &Lock) -> Result<FileSource> {
        fs::create_dir_all(&self.blobs.folder).map_err(|e| Error::disk(&self.blobs.folder, &e))?;
        let path = match lock {
            Lock::Held(_) => self.blobs.incomplete(&self.identity.digest),
            // Without a lock others may append to the same file.
            Lock::Unsupported => {
                self.blobs.folder.join(format!("{}.{}.incomplete", self.identity.digest, std::process::id()))
            }
        };
        let mut part = self.open(path)?;
        self.receive(&mut part)?;
        if part.resumed > 0 && self.check(&part).is_err() {
            // The old part may be from another program, or damaged.
            self.restart(&mut part)?;
            self.receive(&mut part)?;
        }
        if let Err(e) = self.check(&part) {
            let _ = fs::remove_file(&part.path);
            return Err(e);
        }
        let (target, disk) = (self.blobs.path(&self.identity.digest), |e| Error::disk(&part.path, &e));
        part.file.sync_all().map_err(disk)?;
        fs::rename(&part.path, &target).map_err(disk)?;
        self.blobs.checked(&self.identity.digest);
        Ok(FileSource::Hub { resumed: part.resumed })
    }

    /// Opens the part downloaded so far and hashes it.
    fn open(&self, path: PathBuf) -> Result<Part> {
        let options = &mut File::options();
        let options = options.read(true).write(true).create(true).truncate(false);
        let disk = |e| Error::disk(&path, &e);
        let file = regular::open(&path, options, Links::Refuse)?;
        let mut file = file.ok_or_else(|| disk(io::ErrorKind::NotFound.into()))?;
        let mut hasher = self.identity.digest.hasher(self.identity.size);
        let found = file.metadata().map_err(disk)?.len();
        let mut length = 0;
        if self.force || found > self.identity.size {
            file.set_len(0).map_err(disk)?;
        } else if found > 0 {
            self.progress.waiting(self.file, "checking the part downloaded before");
            let mut buffer = vec![0; CHUNK];
            loop {
                self.still_wanted()?;
                let n = file.read(&mut buffer).map_err(disk)?;
                if n == 0 {
                    break;
                }
                hasher.update(&buffer[..n]);
                length += n as u64;
            }
        }
        self.progress.at(self.file, length);
        Ok(Part { path, file, length, hasher, resumed: length })
    }

    /// An error if another file failed.
    fn still_wanted(&self) -> Result<()> {
        match self.cancelled.load(Ordering::Relaxed) {
            true => Err(self.error(ErrorKind::Cancelled)),
            false => Ok(()),
        }
    }

    /// Discards the part downloaded so far.
    fn restart(&self, part: &mut Part) -> Result<()> {
        let disk = |e| Error::disk(&part.path, &e);
        part.file.set_len(0).map_err(disk)?;
        part.file.seek(SeekFrom::Start(0)).map_err(disk)?;
        (part.length, part.resumed) = (0, 0);
        part.hasher = self.identity.digest.hasher(self.identity.size);
        self.progress.at(self.file, 0);
        Ok(())
    }

    /// Receives until the length is right, over as many connections as it takes.
    fn receive(&self, part: &mut Part) -> Result<()> {
        let (mut failures, mut mark) = (0, part.length);
        while part.length < self.identity.size {
            let Err(e) = self.connection(part) else { continue };
            if part.length >= mark.saturating_add(PROGRESS) {
                (failures, mark) = (0, part.length);
            }
            if failures >= e.retries_of_file() {
                return Err(e);
            }
            let pause = self.client.pause(failures, e.wait);
            failures += 1;
            self.progress
                .waiting(self.file, &format!("{}; trying again in {:.0} s", e.kind, pause.as_secs_f64()));
            self.sleep(pause)?;
        }
        Ok(())
    }

    /// Requests the missing bytes and receives what one connection transfers.
    fn connection(&self, part: &mut Part) -> Result<()> {
        let url = self.listing.url(self.client, self.file)?;
        let range = (part.length > 0).then(|| format!("bytes={}-", part.length));
        // A file takes the time that its size takes; only the rate is watched.
        let bounds = Bounds { bytes: self.identity.size, until: None };
        let answer = self.client.ask("GET", &url, range.as_deref(), bounds, &self.listing.asked(self.file));
        let answer = match answer {
            // "Range not satisfiable": there is no such rest, so the part is not of this file.
            Err(Error { kind: ErrorKind::Server { status: 416, .. }, .. }) if part.length > 0 => {
                return self.restart(part);
            }
            answer => answer?,
        };
        self.promises(&answer, part)?;
        if answer.status() != 206 && part.length > 0 {
            self.restart(part)?;
        }
        let mut reader = answer.into_reader();
        let mut buffer = vec![0; CHUNK];
        loop {
            self.still_wanted()?;
            let n = match reader.read(&mut buffer) {
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(broken(&e, &url, self.client.settings())),
            };
            if n == 0 {
                break;
            }
            self.client.count(n as u64);
            if n as u64 > self.identity.size - part.length {
                let what = format!("the server sends more than the {} bytes of the file", self.identity.size);
                return Err(self.untrusted(what));
            }
            part.file.write_all(&buffer[..n]).map_err(|e| Error::disk(&part.path, &e))?;
            part.hasher.update(&buffer[..n]);
            part.length += n as u64;
            self.progress.at(self.file, part.length);
        }
        match part.length < self.identity.size {
            true => {
                let what = format!("the server sent {} of {} bytes", part.length, self.identity.size);
                Err(self.error(ErrorKind::Unreachable(what)))
            }
            false => Ok(()),
        }
    }

    /// Checks that the answer's headers announce what was requested.
    fn promises(&self, answer: &Answer, part: &Part) -> Result<()> {
        let size = self.identity.size;
        let etag = answer.etag.as_deref().and_then(Digest::parse);
        if let Some(etag @ Digest::Sha256(_)) = etag.filter(|e| *e != self.identity.digest) {
            let what = format!(
                "the server offers sha256 {etag}; by its own listing the file has {}",
                self.identity.digest
            );
            return Err(self.untrusted(what));
        }
        let announced = match (answer.status(), answer.range()) {
            (206, Some((first, last, total))) if part.length > 0 => {
                let right = (first, last.checked_add(1), total) == (part.length, Some(size), size);
                (!right).then(|| {
                    format!("bytes {first} to {last} of {total}, asked for {} to the end", part.length)
                })
            }
            (200, _) => answer.length().filter(|&l| l != size).map(|l| format!("{l} bytes")),
            (206, _) => Some("a part of the file and does not say which".to_owned()),
            (status, _) => Some(format!("nothing (status {status})")),
        };
        match announced {
            None => Ok(()),
            Some(announced) => Err(self.untrusted(format!(
                "the server announces {announced}; by its own listing the file has {size} bytes"
            ))),
        }
    }

    /// Checks the content against the listing.
    fn check(&self, part: &Part) -> Result<()> {
        let found = part.hasher.clone().finish();
        if found == self.identity.digest {
            return Ok(());
        }
        let what = format!(
            "the download is not the file: its {} is {found}, expected {}; it was deleted. Try again; if it happens \
             again, the server, a proxy or the network damages files",
            found.kind(),
            self.identity.digest
        );
        Err(self.untrusted(what))
    }

    /// A pause that ends when another file fails.
    fn sleep(&self, pause: Duration) -> Result<()> {
        let end = Instant::now() + pause;
        while let Some(left) = end.checked_duration_since(Instant::now()).filter(|l| !l.is_zero()) {
            self.still_wanted()?;
            thread::sleep(left.min(Duration::from_millis(100)));
        }
        Ok(())
    }

    fn error(&self, kind: ErrorKind) -> Error {
        Error::new(format!("{}/{}", self.listing.repository, self.file), kind)
    }

    fn untrusted(&self, what: String) -> Error {
        self.error(ErrorKind::Untrusted(what))
    }
}

/// Reads a small file that was checked when it came, through its link.
pub(crate) fn read(path: &Path, most: u64) -> Result<Vec<u8>> {
    let bytes = regular::read(path, most, Links::Follow)?;
    bytes.ok_or_else(|| Error::disk(path, &io::ErrorKind::NotFound.into()))
}
