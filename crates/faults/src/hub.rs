//! Answers of a Hub, as bytes: a server on this machine sends them as they are, damaged headers included.
//!
//! An input is a list of answers. Each begins with a line `@@ PATH`: the answer to the first request whose path begins
//! so. What follows up to the next such line is sent and the connection closed; a request without an answer gets 404.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use quern_hub::{Hub, Name, PullOptions, Settings};
use quern_tensor_io::NoProgress;
use sha2::Digest as _;

use crate::exercise::{Outcome, text};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const MARK: &[u8] = b"@@ ";

static ANSWERS: Mutex<Vec<u8>> = Mutex::new(Vec::new());
static SERVER: OnceLock<SocketAddr> = OnceLock::new();

/// The answers of a Hub that has one model with these files: `.json` in Git, the rest in LFS.
pub fn answers(files: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut add = |path: &str, headers: &str, body: &[u8]| {
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{headers}Connection: close\r\n\r\n",
            body.len()
        );
        for part in [MARK, path.as_bytes(), b"\n", head.as_bytes(), body, b"\n"] {
            out.extend(part);
        }
    };
    let names: Vec<_> = files.iter().map(|(name, _)| serde_json::json!({ "rfilename": name })).collect();
    let info = serde_json::json!({ "sha": COMMIT, "siblings": names, "gated": false });
    let entries = files.iter().map(|(name, bytes)| {
        let mut entry =
            serde_json::json!({ "type": "file", "path": name, "size": bytes.len(), "oid": git(bytes) });
        if !name.ends_with(".json") {
            entry["lfs"] =
                serde_json::json!({ "oid": sha256(bytes), "size": bytes.len(), "pointerSize": 134 });
        }
        entry
    });
    let tree = serde_json::Value::Array(entries.collect());
    add(&format!("/api/models/o/n/tree/{COMMIT}"), "", tree.to_string().as_bytes());
    add("/api/models/o/n", "", info.to_string().as_bytes());
    for (name, bytes) in files {
        let tag = if name.ends_with(".json") { git(bytes) } else { sha256(bytes) };
        let headers = format!("ETag: \"{tag}\"\r\nX-Repo-Commit: {COMMIT}\r\nAccept-Ranges: bytes\r\n");
        add(&format!("/o/n/resolve/{COMMIT}/{name}"), &headers, bytes);
    }
    out
}

/// Pulls the model whose answers are in `file` into a cache beside it.
///
/// # Panics
/// The pull left something outside its cache.
pub fn pull(file: &Path) -> Outcome {
    let address = *SERVER.get_or_init(serve);
    *ANSWERS.lock().unwrap_or_else(PoisonError::into_inner) = std::fs::read(file).map_err(text)?;
    let folder = file.parent().ok_or("the answers need a folder")?;
    let cache = folder.join("inside").join("cache");
    let mut settings = Settings::read(|name| match name {
        "HF_ENDPOINT" => Some(format!("http://{address}").into()),
        "HF_HUB_CACHE" => Some(cache.clone().into()),
        _ => None,
    })
    .map_err(text)?;
    settings.timeout = Duration::from_secs(2);
    settings.backoff = Duration::from_micros(1);
    settings.connections = 1;
    let name: Name = "o/n".parse().map_err(text)?;
    let pulled = Hub::new(settings).and_then(|hub| hub.pull(&name, &PullOptions::default(), &NoProgress));
    let names = |folder: &Path| {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries.filter_map(|e| e.file_name().into_string().ok()).collect::<Vec<_>>()
    };
    let inside = names(&folder.join("inside"));
    assert!(inside.iter().all(|name| name == "cache"), "outside the cache: {inside:?}");
    assert_eq!(
        names(folder).len(),
        1 + usize::from(!inside.is_empty()),
        "outside the cache: {:?}",
        names(folder)
    );
    let _ = std::fs::remove_dir_all(folder.join("inside"));
    pulled.map(drop).map_err(text)
}

fn serve() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port of this machine");
    let address = listener.local_addr().expect("its address");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A client that has left is no concern of the server.
            let _ = answer(stream);
        }
    });
    address
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut request = Vec::new();
    let mut piece = [0; 4096];
    while !request.windows(4).any(|w| w == b"\r\n\r\n") && request.len() < 1 << 16 {
        match stream.read(&mut piece)? {
            0 => break,
            n => request.extend(&piece[..n]),
        }
    }
    let path = request.split(|&b| b == b' ').nth(1).unwrap_or_default();
    let answers = ANSWERS.lock().unwrap_or_else(PoisonError::into_inner);
    let found = find(&answers, path);
    stream.write_all(
        found.unwrap_or(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
    )
}

/// The answer to a request for `path`.
fn find<'a>(answers: &'a [u8], path: &[u8]) -> Option<&'a [u8]> {
    let starts: Vec<_> = (0..answers.len())
        .filter(|&at| answers[at..].starts_with(MARK) && (at == 0 || answers[at - 1] == b'\n'))
        .collect();
    starts.iter().enumerate().find_map(|(index, &start)| {
        let end = starts.get(index + 1).copied().unwrap_or(answers.len());
        let block = &answers[start + MARK.len()..end];
        let line = block.iter().position(|&b| b == b'\n')?;
        path.starts_with(&block[..line]).then(|| &block[line + 1..block.len().max(line + 2) - 1])
    })
}

fn git(bytes: &[u8]) -> String {
    hex(&sha1::Sha1::new().chain_update(format!("blob {}\0", bytes.len())).chain_update(bytes).finalize())
}

fn sha256(bytes: &[u8]) -> String {
    hex(&sha2::Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
