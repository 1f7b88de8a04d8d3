//! Names of files from a server, checked before they become paths.

use crate::clean::is_hidden;

/// The longest name of a folder or file that common file systems take.
const LONGEST_PART: usize = 255;
/// The longest path.
pub(crate) const LONGEST: usize = 1024;

/// Names that Windows gives to devices, whatever their extension.
const DEVICES: [&str; 6] = ["con", "prn", "aux", "nul", "com", "lpt"];

/// Why a file of this name must not be written below a folder of ours; `None` for a valid name.
///
/// A valid name is relative, uses `/` between its parts, and none of these is empty, `.`, `..`, hard to see (control
/// characters and those that show nothing or change the direction of the text, a blank or dot at the end), or the name of a drive or device.
pub(crate) fn fault(name: &str) -> Option<&'static str> {
    if name.is_empty() || name.len() > LONGEST {
        return Some("it is empty or far too long");
    }
    if name.starts_with('/') {
        return Some("it is absolute");
    }
    if name.contains(['\\', ':']) || name.chars().any(is_hidden) {
        return Some("it holds a backslash, a colon, or a control or invisible character");
    }
    name.split('/').find_map(|part| match part {
        "" | "." | ".." => Some("it leads elsewhere"),
        _ if part.len() > LONGEST_PART => Some("a part of it is too long"),
        _ if part.ends_with(['.', ' ']) => Some("a part of it ends with a dot or a blank"),
        _ if is_device(part) => Some("a part of it is the name of a device"),
        _ => None,
    })
}

fn is_device(part: &str) -> bool {
    let stem = part.split('.').next().unwrap_or_default().to_ascii_lowercase();
    let base = stem.trim_end_matches(|c: char| c.is_ascii_digit());
    let digits = stem.len() - base.len();
    match DEVICES.iter().position(|d| *d == base) {
        Some(numbered) if numbered >= 4 => digits == 1,
        Some(_) => digits == 0,
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::fault;

    #[test]
    fn sound_names_pass() {
        for name in [
            "config.json",
            "Q4_K_M/model-00001-of-00002.gguf",
            ".gitattributes",
            "a b (1)+ü.safetensors",
            "console.json",
            "com.json",
            "lpt10",
            "a..b",
        ] {
            assert_eq!(fault(name), None, "{name}");
        }
    }

    #[test]
    fn names_that_lead_elsewhere_do_not() {
        for name in [
            "",
            "/etc/passwd",
            "..",
            "../x",
            "a/../../x",
            "a/..",
            "./a",
            "a//b",
            "a/",
            "\\\\host\\share",
            "a\\..\\b",
            "C:",
            "C:/x",
            "c:x",
            "file:stream",
            "a\0b",
            "a\nb",
            "README\u{1b}[31m.md",
            "\u{9b}31m.md",
            "RE\u{202e}DM.md",
            "con\u{200b}fig.json",
            "nul",
            "NUL.txt",
            "dir/con.json",
            "com1",
            "LPT9.gguf",
            "aux.",
            "name.",
            "name ",
            "dir /x",
        ] {
            assert!(fault(name).is_some(), "{name:?}");
        }
        assert!(fault(&"x".repeat(256)).is_some());
        assert!(fault(&"x/".repeat(600)).is_some());
    }
}
