//! Disks: their space, and how fast files are read that are not in the system's cache.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use quern_tensor_io::output::free_space;
use serde::Serialize;

/// Bytes that are written and read to measure.
const SIZE: usize = 256 << 20;
/// Bytes of one read.
const PART: usize = 4 << 20;
/// Space that must be left beside the file that is measured with.
const LEFT: u64 = 1 << 30;

/// The disk that a folder is on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Disk {
    /// The folder.
    pub folder: PathBuf,
    /// Bytes that this user may still write; `None` where the file system does not know.
    pub free: Option<u64>,
    /// Bytes that it has.
    pub total: Option<u64>,
    /// Bytes a second that are read from it; `None` if nobody measured.
    pub read_bytes_per_second: Option<f64>,
}

/// Describes the disk of `folder`, or of the nearest folder above that exists.
pub fn disk(folder: &Path) -> Disk {
    let there = existing(folder);
    Disk {
        folder: folder.to_path_buf(),
        free: free_space(&there),
        total: total_space(&there),
        read_bytes_per_second: None,
    }
}

#[cfg(unix)]
fn total_space(folder: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(folder).ok().filter(|found| found.f_blocks > 0)?;
    Some(found.f_blocks.saturating_mul(found.f_frsize))
}

#[cfg(not(unix))]
fn total_space(_: &Path) -> Option<u64> {
    None
}

fn existing(folder: &Path) -> PathBuf {
    let absolute = std::path::absolute(folder).unwrap_or_else(|_| folder.to_path_buf());
    let there = absolute.ancestors().find(|path| path.is_dir());
    there.map_or_else(|| PathBuf::from("/"), Path::to_path_buf)
}

/// Bytes a second that are read from the disk of `folder` (or of the nearest folder above that exists), by a file of
/// 256 MiB that is written there, dropped from the system's cache, read, and removed. On a virtual machine the host may
/// have a cache of its own, and then that is measured.
///
/// # Errors
/// The folder cannot be written to, or has less than 1.25 GiB free.
pub fn read_speed(folder: &Path) -> io::Result<f64> {
    let folder = existing(folder);
    if disk(&folder).free.is_some_and(|free| free < LEFT + SIZE as u64) {
        return Err(io::Error::new(io::ErrorKind::StorageFull, "less than 1.25 GiB are free"));
    }
    measured(&folder, SIZE)
}

fn measured(folder: &Path, size: usize) -> io::Result<f64> {
    let mut file = tempfile::tempfile_in(folder)?;
    // Nothing that a file system could compress.
    let mut state = 1u64;
    let mut part = vec![0u8; PART];
    for _ in 0..size / PART {
        for word in part.as_chunks_mut::<8>().0 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *word = (state ^ state >> 29).to_le_bytes();
        }
        file.write_all(&part)?;
    }
    file.sync_all()?;
    io::Seek::rewind(&mut file)?;
    timed(&mut file, size / PART * PART)
}

/// Bytes a second that are read from a file that is there: its first 256 MiB, or all of it, after the system's cache was
/// asked to drop it. Nothing is written.
///
/// # Errors
/// The file cannot be read, or is empty.
pub fn file_read_speed(file: &Path) -> io::Result<f64> {
    let mut file = File::open(file)?;
    let size = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX).min(SIZE);
    if size == 0 {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file is empty"));
    }
    timed(&mut file, size)
}

/// Reads so many bytes that are not in the system's cache.
fn timed(file: &mut File, size: usize) -> io::Result<f64> {
    drop_from_cache(file);
    let mut part = vec![0u8; PART.min(size)];
    let started = Instant::now();
    let mut read = 0;
    while read < size {
        match file.read(&mut part)? {
            0 => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file is shorter than it was")),
            count => read += count,
        }
    }
    Ok(read as f64 / started.elapsed().as_secs_f64().max(1e-9))
}

#[cfg(target_os = "linux")]
fn drop_from_cache(file: &File) {
    // Best effort: some file systems keep their pages.
    let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed);
}

#[cfg(not(target_os = "linux"))]
fn drop_from_cache(_: &File) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_not_there_is_on_the_disk_of_the_one_above() {
        let here = tempfile::tempdir().unwrap();
        let found = disk(&here.path().join("a/b"));
        assert_eq!(found.total, disk(here.path()).total);
        assert!(found.total.is_some_and(|total| total > 0));
    }

    #[test]
    fn what_is_measured_with_is_removed() {
        let here = tempfile::tempdir().unwrap();
        let speed = measured(here.path(), 2 * PART).unwrap();
        assert!(speed.is_finite() && speed > 0.0);
        assert_eq!(std::fs::read_dir(here.path()).unwrap().count(), 0);
        let file = here.path().join("file");
        std::fs::write(&file, [7; 1000]).unwrap();
        assert!(file_read_speed(&file).unwrap() > 0.0);
        std::fs::write(&file, []).unwrap();
        assert!(file_read_speed(&file).is_err());
    }
}
