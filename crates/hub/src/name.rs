//! Names of models on the Hub: `org/name`, `org/name@revision`, `org/name:file.gguf`, `org/name:Q4_K_M`; and the
//! addresses of the Hub's pages and files ([`crate::address`]), which become such names.
//!
//! The rules for owner and name are those of `huggingface_hub`: letters, digits, `-`, `_`, `.`, at most 96
//! characters, no `--` or `..`, neither `-` nor `.` at an end. A revision is a branch, a tag, a commit or
//! `refs/pr/1`. Everything that is let through here may go into an address and into a folder name as it is.

use std::fmt;
use std::str::FromStr;

use crate::{Error, Result, address};

/// The branch that is meant where none is named.
pub const MAIN: &str = "main";

/// The longest owner and name together that the Hub allows.
const LONGEST: usize = 96;
/// The longest revision: what a file system takes as a name.
const LONGEST_REVISION: usize = 255;

/// What files of weights end with.
const WEIGHTS: [&str; 4] = [".gguf", ".safetensors", ".bin", ".pth"];

/// What a user calls a model on the Hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    repository: String,
    revision: Option<String>,
    choice: Option<String>,
}

impl Name {
    /// Owner and name: `org/name`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The branch, tag or commit: `main` where none was named.
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or(MAIN)
    }

    /// Whether `text` is written as a web address, such as `https://huggingface.co/org/name` or `hf.co/org/name`:
    /// then it is no path of a file.
    pub fn is_address(text: &str) -> bool {
        address::is_address(text)
    }

    /// The file or the quantization after the colon.
    pub fn choice(&self) -> Option<&str> {
        self.choice.as_deref()
    }
}

impl FromStr for Name {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = |what: &str| Error::usage(text, format!("not a name on the Hub: {what}"));
        let short = address::to_name(text).transpose().map_err(|what| Error::usage(text, what))?;
        let given = short.as_deref().unwrap_or(text);
        // Neither owner, name nor revision may hold a colon, but a file's name may hold an @.
        let (left, choice) = match given.split_once(':') {
            Some((left, choice)) => (left, Some(choice)),
            None => (given, None),
        };
        let (repository, revision) = match left.split_once('@') {
            Some((repository, revision)) => (repository, Some(revision)),
            None => (left, None),
        };
        let Some((owner, name)) = repository.split_once('/') else {
            return Err(bad("a model there is called org/name"));
        };
        if let (Some((name, file)), None, None) = (name.split_once('/'), revision, choice)
            && WEIGHTS.iter().any(|end| file.ends_with(end))
        {
            return Err(bad(&format!("a file of a repository is written {owner}/{name}:{file}")));
        }
        check_part(owner, "owner").and_then(|()| check_part(name, "name")).map_err(|what| bad(&what))?;
        if repository.len() > LONGEST {
            return Err(bad(&format!("longer than {LONGEST} characters")));
        }
        if let Some(revision) = revision {
            check_revision(revision).map_err(|what| bad(&what))?;
        }
        if choice.is_some_and(|c| c.is_empty() || c.chars().any(char::is_control)) {
            return Err(bad("after the colon comes a file or a quantization such as Q4_K_M"));
        }
        let owned = |s: Option<&str>| s.map(str::to_owned);
        Ok(Self { repository: repository.to_owned(), revision: owned(revision), choice: owned(choice) })
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repository)?;
        if let Some(revision) = &self.revision {
            write!(f, "@{revision}")?;
        }
        match &self.choice {
            Some(choice) => write!(f, ":{choice}"),
            None => Ok(()),
        }
    }
}

fn check_part(part: &str, which: &str) -> Result<(), String> {
    let known = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let ends = ['-', '.'];
    match () {
        _ if part.is_empty() => Err(format!("its {which} is empty")),
        _ if !part.bytes().all(known) => {
            Err(format!("its {which} {part:?} holds something else than letters, digits, -, _ and ."))
        }
        _ if part.starts_with(ends) || part.ends_with(ends) => {
            Err(format!("its {which} {part:?} begins or ends with - or ."))
        }
        _ if part.contains("--") || part.contains("..") => {
            Err(format!("its {which} {part:?} holds -- or .."))
        }
        _ => Ok(()),
    }
}

/// Git's own rules for references, and narrower: the revision becomes a path in the cache.
fn check_revision(revision: &str) -> Result<(), String> {
    let known = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/' | b'+');
    let sound = |part: &str| {
        !part.is_empty() && !part.starts_with('.') && !part.ends_with('.') && !part.ends_with(".lock")
    };
    let good = revision.len() <= LONGEST_REVISION
        && revision.bytes().all(known)
        && revision.split('/').all(sound)
        && !revision.contains("..");
    match good {
        true => Ok(()),
        false => Err(format!("{revision:?} is no branch, tag or commit")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str) -> (String, Option<String>, Option<String>) {
        let name: Name = text.parse().unwrap();
        assert_eq!(name.to_string(), text);
        (name.repository, name.revision, name.choice)
    }

    #[test]
    fn names_come_apart() {
        let some = |s: &str| Some(s.to_owned());
        assert_eq!(parts("org/name"), ("org/name".into(), None, None));
        assert_eq!(parts("o/n@v1.0"), ("o/n".into(), some("v1.0"), None));
        assert_eq!(parts("o/n@refs/pr/1"), ("o/n".into(), some("refs/pr/1"), None));
        assert_eq!(parts("o/n:dir/a@b.gguf"), ("o/n".into(), None, some("dir/a@b.gguf")));
        assert_eq!(parts("o/n@main:Q4_K_M"), ("o/n".into(), some("main"), some("Q4_K_M")));
        assert_eq!("o/n".parse::<Name>().unwrap().revision(), "main");
    }

    #[test]
    fn an_address_is_the_name_it_means() {
        let name: Name = "https://huggingface.co/org/name/resolve/v1/q4.gguf?download=true".parse().unwrap();
        assert_eq!(name.to_string(), "org/name@v1:q4.gguf");
        assert_eq!("hf.co/org/name:Q4_K_M".parse::<Name>().unwrap().choice(), Some("Q4_K_M"));
        for hostile in
            ["https://huggingface.co/../x", "hf://org/..", "https://hf.co/org/na%2Fme", "hf://o/n/tree/a%00b"]
        {
            assert!(hostile.parse::<Name>().is_err(), "{hostile}");
        }
        let error = "org/name/q4.gguf".parse::<Name>().unwrap_err().to_string();
        assert!(error.contains("written org/name:q4.gguf"), "{error}");
        let error = "https://example.com/org/name".parse::<Name>().unwrap_err().to_string();
        assert!(error.starts_with("https://example.com/org/name: example.com is not the Hub"), "{error}");
    }

    #[test]
    fn what_could_lead_elsewhere_is_no_name() {
        for text in [
            "",
            "name",
            "/name",
            "org/",
            "a/b/c",
            "../name",
            "./name",
            "org/..",
            "org/.name",
            "org/name.",
            "org/-name",
            "org/na me",
            "org/na--me",
            "org\\name",
            "org/name@",
            "org/name@..",
            "org/name@a/../b",
            "org/name@/etc",
            "org/name@a//b",
            "org/name@a.lock",
            "org/name@a%2e",
            "org/name@-/..",
            "org/name:",
            "org/name:a\0b",
            "C:/models",
            "org/name@a b",
            "org/näme",
        ] {
            assert!(text.parse::<Name>().is_err(), "{text:?}");
        }
        assert!(format!("org/{}", "n".repeat(93)).parse::<Name>().is_err());
    }
}
