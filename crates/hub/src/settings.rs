//! The Hub's address, the cache's folder and the token, read from the environment in one place.
//!
//! The variables are those of Python's `huggingface_hub`, so that both share one cache and one login:
//!
//! ```text
//! HF_ENDPOINT                                    the Hub, or a mirror              https://huggingface.co
//! HF_TOKEN, HUGGING_FACE_HUB_TOKEN               the token itself
//! HF_TOKEN_PATH                                  a file that holds it              $HF_HOME/token
//! HF_HUB_DISABLE_IMPLICIT_TOKEN                  send no token, and read none
//! HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE            the cache                         $HF_HOME/hub
//! HF_HOME                                        both                              $XDG_CACHE_HOME/huggingface
//! HF_HUB_OFFLINE, TRANSFORMERS_OFFLINE           make no network requests
//! HF_HUB_DOWNLOAD_TIMEOUT                        seconds without a byte            30
//! HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY   in either case
//! ```

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use url::Url;

use crate::token::{self, Token};
use crate::{Error, Result};

/// The public Hub.
const ENDPOINT: &str = "https://huggingface.co";
/// How long a server may take. A timeout of each read alone would let one byte a second hold a download for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// The time over which a rate is measured. From the environment it is not shorter than [`Settings::timeout`].
    pub window: Duration,
    /// Bytes a second on a connection below which a server counts as stalled.
    pub slowest: u64,
    /// The longest time for an answer that is not a file: a list of files, a header.
    pub answer: Duration,
}

impl Default for Patience {
    /// A minute, 1 KiB a second, half an hour: a modem shared by eight connections has this rate, and the longest real
    /// lists of files, of some 50 MiB, come in minutes.
    fn default() -> Self {
        Self { window: Duration::from_secs(60), slowest: 1 << 10, answer: Duration::from_secs(30 * 60) }
    }
}

/// The settings of the Hub client.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The Hub or a mirror, without a slash at the end.
    pub endpoint: Url,
    /// The folder that holds `models--org--name`.
    pub cache: PathBuf,
    /// Sent to the endpoint and nowhere else.
    pub token: Option<Token>,
    /// Make no network requests.
    pub offline: bool,
    /// The longest time without a byte on a connection.
    pub timeout: Duration,
    /// How slow a server may be.
    pub patience: Patience,
    /// The pause before the second attempt; it doubles with each.
    pub backoff: Duration,
    /// Files transferred at the same time.
    pub connections: usize,
    /// Address of a proxy.
    pub proxy: Option<String>,
}

impl Settings {
    /// Reads the settings from the environment of this process.
    pub fn from_env() -> Result<Self> {
        Self::read(|key| std::env::var_os(key))
    }

    /// Reads the settings from the variables that `get` returns.
    ///
    /// # Errors
    /// An endpoint that is no address, a token that is none, or no folder for the cache.
    pub fn read(get: impl Fn(&str) -> Option<OsString>) -> Result<Self> {
        let get = |key: &str| get(key).filter(|v| !v.is_empty());
        let text = |key: &str| get(key).and_then(|v| v.into_string().ok());
        let truth = |key: &str| text(key).is_some_and(|v| is_true(&v));
        let home_folder = get("HOME").or_else(|| get("USERPROFILE")).map(PathBuf::from);
        let folder = |key: &str| get(key).map(|v| expand(PathBuf::from(v), home_folder.as_deref()));

        let home = folder("HF_HOME")
            .or_else(|| folder("XDG_CACHE_HOME").map(|f| f.join("huggingface")))
            .or_else(|| home_folder.as_deref().map(|f| f.join(".cache/huggingface")));
        let cache = folder("HF_HUB_CACHE")
            .or_else(|| folder("HUGGINGFACE_HUB_CACHE"))
            .or_else(|| home.as_deref().map(|f| f.join("hub")))
            .ok_or_else(|| {
                Error::usage("HF_HOME", "there is no home folder; set HF_HOME to one for the cache")
            })?;
        let offline = truth("HF_HUB_OFFLINE") || truth("TRANSFORMERS_OFFLINE");
        let token = match offline || truth("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
            true => None,
            false => {
                let file = folder("HF_TOKEN_PATH").or_else(|| home.as_deref().map(|f| f.join("token")));
                token::find(get, file.as_deref())?
            }
        };
        let endpoint = endpoint(&text("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned()))?;
        let seconds = text("HF_HUB_DOWNLOAD_TIMEOUT").and_then(|v| v.parse().ok()).filter(|&s| s > 0);
        let timeout = Duration::from_secs(seconds.unwrap_or(30));
        let patience = Patience::default();
        Ok(Self {
            proxy: proxy(&endpoint, text),
            endpoint,
            cache,
            token,
            offline,
            timeout,
            // Who waits longer for a single byte gets a window that holds the wait.
            patience: Patience { window: patience.window.max(timeout), ..patience },
            backoff: Duration::from_secs(1),
            connections: 8,
        })
    }
}

/// The values that Python's library reads as true.
fn is_true(text: &str) -> bool {
    ["1", "ON", "YES", "TRUE"].contains(&text.to_ascii_uppercase().as_str())
}

fn endpoint(text: &str) -> Result<Url> {
    let bad = |what: &str| Error::usage(format!("HF_ENDPOINT={text}"), what);
    let url = Url::parse(text.trim_end_matches('/')).map_err(|e| bad(&format!("not an address: {e}")))?;
    match url.scheme() {
        _ if !matches!(url.scheme(), "http" | "https") => {
            Err(bad("an address begins with https:// or http://"))
        }
        _ if url.host_str().is_none_or(str::is_empty) => Err(bad("the address has no host")),
        _ if url.query().is_some() || url.fragment().is_some() => {
            Err(bad("an address without ? and # is expected"))
        }
        _ if !url.username().is_empty() || url.password().is_some() => Err(Error::usage(
            "HF_ENDPOINT",
            "a name and password in the address are not sent; set HF_TOKEN instead",
        )),
        _ => Ok(url),
    }
}

/// `~/` at the beginning as a shell would have it.
fn expand(path: PathBuf, home: Option<&Path>) -> PathBuf {
    match (path.strip_prefix("~"), home) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path,
    }
}

/// The proxy for the endpoint, unless `NO_PROXY` excepts it.
fn proxy(endpoint: &Url, text: impl Fn(&str) -> Option<String>) -> Option<String> {
    let either = |key: &str| text(key).or_else(|| text(&key.to_ascii_lowercase()));
    let host = endpoint.host_str()?.to_ascii_lowercase();
    let excepted = |entry: &str| {
        let entry = entry.trim().trim_start_matches("*.").trim_start_matches('.').to_ascii_lowercase();
        entry == "*" || (!entry.is_empty() && (host == entry || host.ends_with(&format!(".{entry}"))))
    };
    if either("NO_PROXY").is_some_and(|list| list.split(',').any(excepted)) {
        return None;
    }
    let own = if endpoint.scheme() == "https" { "HTTPS_PROXY" } else { "HTTP_PROXY" };
    either(own).or_else(|| either("ALL_PROXY"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Settings> {
        Settings::read(|key| pairs.iter().find(|(k, _)| *k == key).map(|(_, v)| OsString::from(v)))
    }

    #[test]
    fn the_cache_is_where_python_has_it() {
        let cache = |pairs: &[(&str, &str)]| read(pairs).unwrap().cache;
        let home = ("HOME", "/home/me");
        assert_eq!(cache(&[home]), Path::new("/home/me/.cache/huggingface/hub"));
        assert_eq!(cache(&[home, ("XDG_CACHE_HOME", "/x")]), Path::new("/x/huggingface/hub"));
        let all = [
            ("HF_HUB_CACHE", "/c"),
            ("HUGGINGFACE_HUB_CACHE", "/old"),
            ("HF_HOME", "~/hf"),
            ("XDG_CACHE_HOME", "/x"),
            home,
        ];
        assert_eq!(cache(&all), Path::new("/c"));
        assert_eq!(cache(&all[1..]), Path::new("/old"));
        assert_eq!(cache(&all[2..]), Path::new("/home/me/hf/hub"));
        assert_eq!(cache(&[home, ("HF_HUB_CACHE", "")]), Path::new("/home/me/.cache/huggingface/hub"));
        assert!(read(&[]).is_err());
    }

    #[test]
    fn the_token_is_found_where_python_finds_it() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("token"), "hf_file\n").unwrap();
        std::fs::write(dir.path().join("other"), " hf_other \n").unwrap();
        let (home, other) = (dir.path().to_str().unwrap(), dir.path().join("other"));
        let home = ("HF_HOME", home);
        let token = |pairs: &[(&str, &str)]| read(pairs).unwrap().token.map(|t| t.reveal().to_owned());
        let is = |t: &str| Some(t.to_owned());
        assert_eq!(token(&[home]), is("hf_file"));
        assert_eq!(token(&[home, ("HF_TOKEN_PATH", other.to_str().unwrap())]), is("hf_other"));
        assert_eq!(token(&[home, ("HUGGING_FACE_HUB_TOKEN", "hf_old")]), is("hf_old"));
        assert_eq!(
            token(&[home, ("HUGGING_FACE_HUB_TOKEN", "hf_old"), ("HF_TOKEN", "hf_env")]),
            is("hf_env")
        );
        assert_eq!(token(&[home, ("HF_TOKEN", "hf_env"), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]), None);
        assert_eq!(token(&[("HF_HOME", "/nowhere")]), None);
        let injected = read(&[home, ("HF_TOKEN", "hf_a\r\nX-Evil: 1")]).unwrap_err();
        assert!(!injected.to_string().contains("hf_a"), "{injected}");
        let shown = format!("{:?}", read(&[home, ("HF_TOKEN", "hf_env")]).unwrap());
        assert!(!shown.contains("hf_env"), "{shown}");
    }

    #[test]
    fn addresses_and_switches() {
        let with = |key: &str, value: &str| read(&[("HF_HOME", "/h"), (key, value)]);
        assert_eq!(with("X", "").unwrap().endpoint.as_str(), "https://huggingface.co/");
        assert_eq!(with("HF_ENDPOINT", "http://m:8080/hf/").unwrap().endpoint.as_str(), "http://m:8080/hf");
        for bad in ["huggingface.co", "ftp://h", "file:///etc", "http://h?x"] {
            assert!(with("HF_ENDPOINT", bad).is_err(), "{bad}");
        }
        for (value, offline) in [("1", true), ("true", true), ("YES", true), ("0", false), ("no", false)] {
            assert_eq!(with("HF_HUB_OFFLINE", value).unwrap().offline, offline);
        }
        assert_eq!(with("HF_HUB_DOWNLOAD_TIMEOUT", "5").unwrap().timeout, Duration::from_secs(5));
        assert_eq!(with("HF_HUB_DOWNLOAD_TIMEOUT", "5").unwrap().patience, Patience::default());
        assert_eq!(with("HF_HUB_DOWNLOAD_TIMEOUT", "300").unwrap().patience.window, Duration::from_secs(300));
        assert!(with("HF_ENDPOINT", "https://me:secret@h").unwrap_err().to_string().contains("HF_TOKEN"));
        assert_eq!(with("HF_HUB_DOWNLOAD_TIMEOUT", "0").unwrap().timeout, Duration::from_secs(30));
        let proxy = |no: &str| {
            read(&[("HF_HOME", "/h"), ("https_proxy", "http://p:1"), ("NO_PROXY", no)]).unwrap().proxy
        };
        assert_eq!(proxy("localhost,.example.org"), Some("http://p:1".to_owned()));
        assert_eq!(proxy("huggingface.co"), None);
        assert_eq!(proxy("*"), None);
    }
}
