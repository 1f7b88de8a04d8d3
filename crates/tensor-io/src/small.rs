//! Small files beside the weights: opened only if they are regular files, read whole up to a limit.
//!
//! A name that a program expects to be a small file can be anything: a folder, a named pipe that nobody writes to, a
//! device that never ends, a file of a terabyte. Opening never blocks (`O_NONBLOCK`), what was opened is examined
//! afterwards (`fstat`, so that nothing can be exchanged between the two), and memory is taken only for a size that
//! was seen and allowed.
//!
//! [`stream`] is for texts that may come out of pipes on purpose.

use std::fs::{self, File};
use std::io::{self, ErrorKind, IsTerminal, Read};
use std::path::Path;

use serde_json::Value;

use crate::{Error, Result};

/// The most bytes of a configuration: `config.json`, `quantize_config.json`, `tokenizer_config.json` and the like.
/// Published ones have a few kilobytes; those that list the settings of every quantized layer of a mixture of experts
/// some megabytes.
pub const CONFIGURATION: u64 = 16 << 20;

/// The most bytes of a text for measuring or calibration, or of a prompt, which is read whole.
pub const TEXT: u64 = 1 << 30;

/// What the values of a JSON file may take in memory beside its own size. Lists of settings for each of 40 000 layers
/// take some 20 MiB.
const VALUES: u64 = 24 << 20;

/// Opens `path`, which must be a regular file.
///
/// # Errors
/// It does not exist, or is something else; the error says what.
pub fn open(path: &Path) -> Result<File> {
    // Looked at before too: opening a device can have an effect of its own.
    let found = fs::metadata(path).map_err(|e| missing(path, e))?;
    regular(path, &found)?;
    let file = match without_waiting(path) {
        Ok(file) => file,
        Err(e) => return Err(missing(path, e)),
    };
    regular(path, &file.metadata().map_err(|e| Error::new(path, e))?)?;
    Ok(file)
}

/// Reads `path` whole: a regular file of `most` bytes at most.
///
/// # Errors
/// As [`open`]; it is larger.
pub fn read(path: &Path, most: u64) -> Result<Vec<u8>> {
    let file = open(path)?;
    let size = file.metadata().map_err(|e| Error::new(path, e))?.len();
    take(path, file, size, most)
}

/// [`read`], where the file may be absent.
///
/// # Errors
/// As [`read`]. A link to something that does not exist is an error, because it was meant to be there.
pub fn read_optional(path: &Path, most: u64) -> Result<Option<Vec<u8>>> {
    if absent(path) { Ok(None) } else { read(path, most).map(Some) }
}

/// Whether there is nothing at `path`, not even a link whose target is missing.
pub fn absent(path: &Path) -> bool {
    let gone = |e: &io::Error| matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory);
    fs::symlink_metadata(path).is_err_and(|e| gone(&e))
}

/// [`read`], of text in UTF-8.
///
/// # Errors
/// As [`read`]; it is no UTF-8.
pub fn text(path: &Path, most: u64) -> Result<String> {
    utf8(path, read(path, most)?)
}

/// The first bytes of a regular file, `most` of them or as many as it has.
///
/// # Errors
/// As [`open`].
pub fn start(path: &Path, most: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.take(most).read_to_end(&mut bytes).map_err(|e| Error::new(path, e))?;
    Ok(bytes)
}

/// Reads a text that may come out of a pipe (`<(command)`, `/dev/stdin`), or standard input where `path` is `-`: up to
/// `most` bytes of it.
///
/// # Errors
/// It is a folder, a socket or a device that is no terminal; it has more bytes; reading fails.
pub fn stream(path: &Path, most: u64) -> Result<Vec<u8>> {
    if path == Path::new("-") {
        return take(path, io::stdin().lock(), 0, most);
    }
    let found = fs::metadata(path).map_err(|e| missing(path, e))?;
    streamable(path, kind(&found))?;
    // Waits for the other end of a named pipe, which whoever gave a pipe means to come.
    let file = File::open(path).map_err(|e| Error::new(path, e))?;
    let found = file.metadata().map_err(|e| Error::new(path, e))?;
    match kind(&found) {
        Kind::Character if file.is_terminal() => {}
        kind @ (Kind::Regular | Kind::Pipe | Kind::Folder | Kind::Socket | Kind::Block | Kind::Other) => {
            streamable(path, kind)?;
        }
        Kind::Character => {
            let what = format!("{}; give a text file, or a pipe that ends", Kind::Character.refusal());
            return Err(Error::refused(path, what));
        }
    }
    take(path, file, found.len(), most)
}

/// The value of a JSON text, which came from `path`: refused before it is built if it would take far more memory than
/// the text has bytes.
///
/// # Errors
/// It is no JSON, or such a text. The words are for a message that names the file.
pub fn json(text: &[u8]) -> Result<Value, String> {
    let cost = json_cost(text);
    if cost > VALUES + text.len() as u64 {
        return Err(format!(
            "it holds so many values that they would take {} MiB of memory, more than any such file needs; replace it \
             with the model's original file",
            cost >> 20
        ));
    }
    let strict = serde_json::from_slice(text).map_err(|e| format!("not valid JSON: {e}"));
    // Python writes numbers that JSON has no words for.
    strict.or_else(|error| match with_floats(text) {
        Some(text) => serde_json::from_slice(&text).map_err(|_| error),
        None => Err(error),
    })
}

/// Python's `Infinity`, `-Infinity` and `NaN` outside strings as transformers 5 writes them: `{"__float__": "Infinity"}`.
/// `None` if there are none.
fn with_floats(text: &[u8]) -> Option<Vec<u8>> {
    const WORDS: [&str; 3] = ["-Infinity", "Infinity", "NaN"];
    let mut made = Vec::with_capacity(text.len());
    let (mut rest, mut found) = (text, false);
    while let Some((&byte, behind)) = rest.split_first() {
        if let Some(word) = WORDS.iter().find(|word| rest.starts_with(word.as_bytes())) {
            made.extend_from_slice(format!("{{\"__float__\": \"{word}\"}}").as_bytes());
            (rest, found) = (&rest[word.len()..], true);
            continue;
        }
        let length = if byte == b'"' { string_end(behind) } else { 0 };
        made.extend_from_slice(&rest[..=length]);
        rest = &behind[length..];
    }
    found.then_some(made)
}

/// About the bytes that the values of a JSON text take when they are all in memory: counted by the characters between
/// them, without building any.
pub fn json_cost(text: &[u8]) -> u64 {
    /// A value in a list, and a list or object with its allocation.
    const VALUE: u64 = size_of::<Value>() as u64;
    const LIST: u64 = 32;
    /// An object's table of keys, and what a key takes beside its value: its text, its place in table and list.
    const OBJECT: u64 = 128;
    const KEY: u64 = 96;
    let (mut cost, mut rest) = (VALUE, text);
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        cost += match byte {
            b',' => VALUE,
            b'[' => VALUE + LIST,
            b'{' => VALUE + OBJECT,
            b':' => KEY,
            b'"' => {
                let length = string_end(rest);
                rest = &rest[length..];
                length as u64 + 16
            }
            _ => 0,
        };
    }
    cost
}

/// Where a string ends, behind its closing quote.
fn string_end(text: &[u8]) -> usize {
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        at += match byte {
            b'"' => return at + 1,
            b'\\' => 2,
            _ => 1,
        };
    }
    text.len()
}

/// What is at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Regular,
    Folder,
    Pipe,
    Socket,
    Character,
    Block,
    Other,
}

impl Kind {
    fn refusal(self) -> &'static str {
        match self {
            Self::Regular => "a regular file",
            Self::Folder => "a folder, not a regular file",
            Self::Pipe => "a named pipe, not a regular file",
            Self::Socket => "a socket, not a regular file",
            Self::Character => "a character device, not a regular file",
            Self::Block => "a block device, not a regular file",
            Self::Other => "not a regular file",
        }
    }
}

fn kind(found: &fs::Metadata) -> Kind {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        let found = found.file_type();
        let kinds = [
            (found.is_fifo(), Kind::Pipe),
            (found.is_socket(), Kind::Socket),
            (found.is_char_device(), Kind::Character),
            (found.is_block_device(), Kind::Block),
        ];
        if let Some((_, kind)) = kinds.iter().find(|(is, _)| *is) {
            return *kind;
        }
    }
    match found {
        found if found.is_file() => Kind::Regular,
        found if found.is_dir() => Kind::Folder,
        _ => Kind::Other,
    }
}

fn regular(path: &Path, found: &fs::Metadata) -> Result<()> {
    match kind(found) {
        Kind::Regular => Ok(()),
        other => {
            let what = format!("{}; put the model's own file in its place, or remove it", other.refusal());
            Err(Error::refused(path, what))
        }
    }
}

/// Refuses what no text comes out of. A character device is looked at again when it is open: it may be a terminal.
fn streamable(path: &Path, kind: Kind) -> Result<()> {
    match kind {
        Kind::Regular | Kind::Pipe | Kind::Character => Ok(()),
        Kind::Folder | Kind::Socket | Kind::Block | Kind::Other => {
            Err(Error::refused(path, format!("{}; give a text file", kind.refusal())))
        }
    }
}

/// The error of a file that cannot be opened; of a link it says where it leads.
fn missing(path: &Path, error: io::Error) -> Error {
    match fs::read_link(path) {
        Ok(target) if error.kind() == ErrorKind::NotFound => {
            let what = format!(
                "a link to {}, which does not exist; download the file again, or remove the link",
                target.display()
            );
            Error::refused(path, what)
        }
        _ => Error::new(path, error),
    }
}

#[cfg(unix)]
fn without_waiting(path: &Path) -> io::Result<File> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    Ok(rustix::fs::open(path, flags, Mode::empty()).map(File::from)?)
}

#[cfg(not(unix))]
fn without_waiting(path: &Path) -> io::Result<File> {
    File::open(path)
}

/// Reads all of `reader`, which seems to have `size` bytes and may have `most`.
fn take(path: &Path, reader: impl Read, size: u64, most: u64) -> Result<Vec<u8>> {
    let larger = |found: String| {
        let limit = match most >> 20 {
            0 => format!("{most} bytes"),
            mebibytes => format!("{mebibytes} MiB"),
        };
        let what = format!("{found}, more than the {limit} that are read of it; give a smaller file");
        Err(Error::malformed(path, what))
    };
    if size > most {
        return larger(format!("it has {size} bytes"));
    }
    let mut bytes = Vec::with_capacity(size as usize);
    reader.take(most + 1).read_to_end(&mut bytes).map_err(|e| Error::new(path, e))?;
    match bytes.len() as u64 > most {
        true => larger("it has more bytes than it seems to".into()),
        false => Ok(bytes),
    }
}

fn utf8(path: &Path, bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes)
        .map_err(|e| Error::malformed(path, "not valid UTF-8").at(e.utf8_error().valid_up_to() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cost_of_json_follows_its_values() {
        assert!(json_cost(b"[1,2,3]") >= 4 * size_of::<Value>() as u64);
        // Separators within strings separate nothing.
        let quoted = br#"["a,b,c,d:{[\",,\"]"]"#;
        assert!(json_cost(quoted) < 3 * size_of::<Value>() as u64 + 100, "{}", json_cost(quoted));
        assert!(json_cost(br#""unfinished \"#) < 200);
        let many = format!("[{}0]", "0,".repeat(1 << 20));
        assert!(json(many.as_bytes()).unwrap_err().contains("MiB of memory"));
        let config =
            format!("{{\"ignore\":[{}\"x\"]}}", "\"model.layers.17.mlp.experts.203\",".repeat(40_000));
        assert!(json(config.as_bytes()).is_ok());
        assert!(json(b"[").unwrap_err().contains("not valid JSON"));
    }

    #[test]
    fn numbers_that_only_python_writes_are_read_as_transformers_writes_them() {
        let read =
            json(br#"{"limit": [0.0, Infinity], "text": "NaN \" Infinity", "least": -Infinity}"#).unwrap();
        assert_eq!(read["limit"][1]["__float__"], "Infinity");
        assert_eq!(read["least"]["__float__"], "-Infinity");
        assert_eq!(read["text"], "NaN \" Infinity");
        // What is wrong beside them is said of the text as it is.
        assert_eq!(json(b"[NaN, ").unwrap_err(), "not valid JSON: expected value at line 1 column 2");
    }

    #[test]
    fn a_file_is_read_up_to_its_limit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        std::fs::write(&path, b"12345").unwrap();
        assert_eq!(read(&path, 5).unwrap(), b"12345");
        assert_eq!(text(&path, 5).unwrap(), "12345");
        assert_eq!(start(&path, 3).unwrap(), b"123");
        assert_eq!(stream(&path, 5).unwrap(), b"12345");
        let error = read(&path, 4).unwrap_err().to_string();
        assert!(error.contains("config.json") && error.contains("5 bytes, more than the 4 bytes"), "{error}");
        assert!(stream(&path, 4).is_err());
        assert!(read_optional(&folder.path().join("absent"), 4).unwrap().is_none());
        assert!(read_optional(&path.join("below"), 4).unwrap().is_none());
    }
}
