//! Finds where a header ends from a file's first bytes, for files that are only partly downloaded.

use std::path::Path;

use crate::{Result, gguf, safetensors};

/// How many of the first bytes of a file of `size` bytes hold its header, if the file begins with `start`. `None`
/// means that more of it is needed. `path` identifies GGUF by its extension, and is named in errors.
///
/// For safetensors the end may be beyond `start`, because the first eight bytes give it.
///
/// # Errors
/// What opening the whole file would refuse, as far as `start` shows it.
pub fn header_end(path: &Path, start: &[u8], size: u64) -> Result<Option<u64>> {
    let is_gguf =
        start.starts_with(b"GGUF") || path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf"));
    match is_gguf {
        true => gguf::reader::end(path, start, size),
        false => safetensors::reader::end(path, start, size),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// For every length of beginning: not enough, until it is, and then the same end for all.
    #[test]
    fn a_gguf_header_is_found_as_soon_as_it_is_complete() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/bookworm-4m-Q4_K_M.gguf");
        let data = std::fs::read(&path).unwrap();
        let size = data.len() as u64;
        let end = header_end(&path, &data, size).unwrap().unwrap();
        let whole = crate::Checkpoint::open(&path).unwrap();
        let first = whole.tensors().iter().map(|t| t.offset).min().unwrap();
        assert!(end <= first && first - end < 32, "{end} and {first}");
        for length in (0..end).step_by(997).chain(end - 20..end) {
            assert_eq!(header_end(&path, &data[..length as usize], size).unwrap(), None, "{length}");
        }
        assert_eq!(header_end(&path, &data[..end as usize], size).unwrap(), Some(end));
        // A file that ends there is truncated, which the reader reports.
        assert!(header_end(&path, &data[..end as usize - 9], end - 9).is_err());
        assert!(header_end(&path, &data[..end as usize], end).unwrap_err().to_string().contains("cut short"));
    }

    #[test]
    fn claims_that_the_file_cannot_hold_are_refused_at_once() {
        let path = Path::new("x.gguf");
        // Version 3, no tensors, one entry whose key claims 2^40 bytes.
        let mut data = b"GGUF\x03\0\0\0".to_vec();
        data.extend([0u64, 1, 1 << 40].iter().flat_map(|v| v.to_le_bytes()));
        assert!(header_end(path, &data, 1 << 20).unwrap_err().to_string().contains("claims"));
        assert!(header_end(Path::new("x"), &[255; 8], 1 << 20).is_err());
        assert_eq!(header_end(Path::new("x"), &[2, 0, 0, 0, 0, 0, 0, 0], 1 << 20).unwrap(), Some(10));
        assert_eq!(header_end(Path::new("x"), &[2, 0], 1 << 20).unwrap(), None);
        assert!(header_end(Path::new("x"), &[2, 0], 2).is_err());
    }

    /// An array of strings as long as the file allows needs no memory before its bytes are there.
    #[test]
    fn a_long_array_waits_for_its_bytes() {
        let mut data = b"GGUF\x03\0\0\0".to_vec();
        data.extend([0u64, 1, 1].iter().flat_map(|v| v.to_le_bytes()));
        data.push(b'k');
        data.extend([9u32, 8].iter().flat_map(|v| v.to_le_bytes()));
        data.extend((1u64 << 30).to_le_bytes());
        assert_eq!(header_end(Path::new("x.gguf"), &data, 1 << 40).unwrap(), None);
    }
}
