//! The hash that the Hub gives for a file, and the check of a download against it.
//!
//! A file in LFS is named by the SHA-256 of its content (64 hex digits), any other one by Git's blob id, the
//! SHA-1 of `blob LENGTH\0` and the content (40 hex digits). The same text is the file's ETag, and its name
//! among the blobs of the cache. An ETag becomes part of a path there, so only text of this form is accepted.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering};

use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use crate::client::CHUNK;

/// The hash that names a file's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Digest {
    /// Git's blob id.
    Git([u8; 20]),
    /// Of a file in LFS.
    Sha256([u8; 32]),
}

impl Digest {
    /// Reads an ETag or an id: `W/` and quotes are dropped, and hex digits of one of the two lengths remain.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let text = text.strip_prefix("W/").unwrap_or(text);
        let text = text.strip_prefix('"').and_then(|t| t.strip_suffix('"')).unwrap_or(text);
        match text.len() {
            40 => hex(text).map(Self::Git),
            64 => hex(text).map(Self::Sha256),
            _ => None,
        }
    }

    /// Starts hashing a file of this length.
    pub fn hasher(&self, length: u64) -> Hasher {
        match self {
            Self::Sha256(_) => Hasher::Sha256(Sha256::new()),
            Self::Git(_) => Hasher::Git(Sha1::new_with_prefix(format!("blob {length}\0"))),
        }
    }

    /// Computes the digest of what `file` holds, which has this length; `None` if `stop` says so meanwhile.
    pub fn of_file(&self, file: &mut File, length: u64, stop: &AtomicBool) -> io::Result<Option<Self>> {
        let mut hasher = self.hasher(length);
        let mut buffer = vec![0; CHUNK];
        loop {
            if stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            match file.read(&mut buffer) {
                Ok(0) => return Ok(Some(hasher.finish())),
                Ok(n) => hasher.update(&buffer[..n]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// The name of the hash, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Git(_) => "git blob id",
            Self::Sha256(_) => "sha256",
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes: &[u8] = match self {
            Self::Git(bytes) => bytes,
            Self::Sha256(bytes) => bytes,
        };
        bytes.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// A hash being computed.
#[derive(Clone)]
pub(crate) enum Hasher {
    Git(Sha1),
    Sha256(Sha256),
}

impl Hasher {
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Git(hasher) => hasher.update(bytes),
            Self::Sha256(hasher) => hasher.update(bytes),
        }
    }

    pub fn finish(self) -> Digest {
        match self {
            Self::Git(hasher) => Digest::Git(hasher.finalize().into()),
            Self::Sha256(hasher) => Digest::Sha256(hasher.finalize().into()),
        }
    }
}

/// Whether `text` is a commit's id: 40 hex digits in lower case, as Git writes them.
pub(crate) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Lower-case hex digits only: the text must be what it is written as again, the blob's name.
fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |b: u8| match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    let pairs = text.as_bytes().as_chunks::<2>().0;
    for (byte, &[high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(high)? << 4 | digit(low)?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(digest: &str, content: &[u8]) -> String {
        let mut hasher = Digest::parse(digest).unwrap().hasher(content.len() as u64);
        content.chunks(3).for_each(|c| hasher.update(c));
        hasher.finish().to_string()
    }

    #[test]
    fn hashes_are_git_s_and_lfs_s() {
        // `printf 'hello\n' | git hash-object --stdin` and `| sha256sum`.
        let git = "ce013625030ba8dba906f756967f9e9ca394464a";
        assert_eq!(of(git, b"hello\n"), git);
        let lfs = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        assert_eq!(of(lfs, b"hello\n"), lfs);
        assert_ne!(of(lfs, b"hello"), lfs);
    }

    #[test]
    fn only_hex_of_a_known_length_is_an_etag() {
        let hex = "ce013625030ba8dba906f756967f9e9ca394464a";
        for good in [hex.to_owned(), format!("\"{hex}\""), format!("W/\"{hex}\""), format!(" {hex} ")] {
            assert_eq!(Digest::parse(&good).unwrap().to_string(), hex);
        }
        let dots = "../".repeat(13) + "x";
        assert_eq!(dots.len(), 40);
        for bad in ["", "\"\"", "../../x", &dots, &hex[1..], &hex.to_uppercase(), &format!("{hex}-2"), "é"] {
            assert_eq!(Digest::parse(bad), None, "{bad:?}");
        }
        assert!(Digest::parse(&"é".repeat(20)).is_none());
        assert!(is_commit(hex) && !is_commit(&hex.to_uppercase()) && !is_commit("main"));
    }
}
