//! A Hub on this machine: models from memory, over plain HTTP, with any faulty behaviour that a test needs.
//!
//! It has two addresses, as the Hub has: the endpoint, and the storage that large files are redirected to. What
//! the answers look like follows huggingface.co: commit and names under `/api/models`, the tree in pages, 307 to
//! `/api/resolve-cache` for small files, 302 to a signed address for files in LFS.

#![allow(dead_code, unused_imports, reason = "shared by two test programs, and each uses its share")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use sha2::Digest as _;

#[path = "fake_hub/answer.rs"]
mod answer;
#[path = "fake_hub/bytes.rs"]
mod bytes;

pub use answer::{Raw, Response};
use bytes::{escape, unescape};
pub use bytes::{git, hex, noise};

/// The commit of every repository's `main` here.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A repository with one commit.
#[derive(Clone, Debug, Default)]
pub struct Repo {
    pub id: String,
    pub files: BTreeMap<String, Content>,
}

#[derive(Clone, Debug)]
pub struct Content {
    pub bytes: Vec<u8>,
    pub lfs: bool,
}

impl Content {
    /// The hash the Hub names it by.
    pub fn etag(&self) -> String {
        match self.lfs {
            true => hex(&sha2::Sha256::digest(&self.bytes)),
            false => git(&self.bytes),
        }
    }
}

impl Repo {
    pub fn new(id: &str) -> Self {
        Self { id: id.to_owned(), files: BTreeMap::new() }
    }

    /// A file in Git.
    pub fn small(mut self, path: &str, bytes: impl Into<Vec<u8>>) -> Self {
        self.files.insert(path.to_owned(), Content { bytes: bytes.into(), lfs: false });
        self
    }

    /// A file in LFS.
    pub fn large(mut self, path: &str, bytes: impl Into<Vec<u8>>) -> Self {
        self.files.insert(path.to_owned(), Content { bytes: bytes.into(), lfs: true });
        self
    }

    /// Every file of a folder, `.json` in Git, the rest in LFS.
    pub fn folder(mut self, folder: &std::path::Path) -> Self {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let lfs = !name.ends_with(".json");
            self.files.insert(name, Content { bytes: std::fs::read(&path).unwrap(), lfs });
        }
        self
    }

    fn tree(&self) -> Vec<serde_json::Value> {
        let mut entries =
            vec![serde_json::json!({"type": "directory", "oid": COMMIT, "size": 0, "path": "some-folder"})];
        entries.extend(self.files.iter().map(|(path, content)| {
            let size = content.bytes.len();
            let mut entry =
                serde_json::json!({"type": "file", "oid": git(&content.bytes), "size": size, "path": path});
            if content.lfs {
                entry["lfs"] = serde_json::json!({"oid": content.etag(), "size": size, "pointerSize": 134});
                entry["xetHash"] = "ab".repeat(32).into();
            }
            entry
        }));
        entries
    }
}

/// A request that was received.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    /// Path and query.
    pub target: String,
    pub headers: Vec<(String, String)>,
    /// Asked at the storage's address.
    pub at_storage: bool,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    /// The first byte of `Range: bytes=N-` and, where given, the last.
    fn range(&self) -> Option<(usize, Option<usize>)> {
        let (first, last) = self.header("Range")?.strip_prefix("bytes=")?.split_once('-')?;
        Some((first.parse().ok()?, last.parse().ok()))
    }
}

type Hook = Box<dyn Fn(&Request) -> Option<Response> + Send + Sync>;

/// The server, stopped when dropped.
pub struct FakeHub {
    shared: Arc<Shared>,
}

struct Shared {
    repos: Vec<Repo>,
    hook: Hook,
    /// Entries a page of the tree holds.
    page: usize,
    endpoint: SocketAddr,
    storage: SocketAddr,
    log: Mutex<Vec<Request>>,
    sent: AtomicU64,
    stop: AtomicBool,
}

impl FakeHub {
    /// A Hub that answers correctly.
    pub fn new(repo: Repo) -> Self {
        Self::with(vec![repo], 1000, |_| None)
    }

    /// A Hub where `hook` answers first; with `None` it answers correctly.
    pub fn hooked(repo: Repo, hook: impl Fn(&Request) -> Option<Response> + Send + Sync + 'static) -> Self {
        Self::with(vec![repo], 1000, hook)
    }

    pub fn with(
        repos: Vec<Repo>,
        page: usize,
        hook: impl Fn(&Request) -> Option<Response> + Send + Sync + 'static,
    ) -> Self {
        let listen = || TcpListener::bind("127.0.0.1:0").unwrap();
        let (endpoint, storage) = (listen(), listen());
        let shared = Arc::new(Shared {
            repos,
            hook: Box::new(hook),
            page,
            endpoint: endpoint.local_addr().unwrap(),
            storage: storage.local_addr().unwrap(),
            log: Mutex::default(),
            sent: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        });
        for (listener, at_storage) in [(endpoint, false), (storage, true)] {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                for stream in listener.incoming() {
                    if shared.stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let shared = Arc::clone(&shared);
                    thread::spawn(move || serve(&shared, &stream.unwrap(), at_storage));
                }
            });
        }
        Self { shared }
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.shared.endpoint)
    }

    pub fn storage(&self) -> String {
        format!("http://{}", self.shared.storage)
    }

    /// Everything asked so far.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.log.lock().unwrap().clone()
    }

    /// Targets of the requests that ask for a file's content, without their queries.
    pub fn file_requests(&self) -> Vec<String> {
        let files =
            self.requests().into_iter().filter(|r| r.target.contains("/resolve/") && r.method == "GET");
        files.map(|r| r.target).collect()
    }

    /// Bytes of bodies sent so far.
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }
}

impl Drop for FakeHub {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for address in [self.shared.endpoint, self.shared.storage] {
            let _ = TcpStream::connect(address); // wakes the listener
        }
    }
}

fn serve(shared: &Shared, mut stream: &TcpStream, at_storage: bool) {
    while let Some(request) = read_request(stream, at_storage) {
        shared.log.lock().unwrap().push(request.clone());
        let response = (shared.hook)(&request).unwrap_or_else(|| honest(shared, &request));
        let cut = response.cut.is_some();
        if send(shared, &mut stream, &request, response).is_err() || cut {
            break;
        }
    }
    let _ = stream.shutdown(std::net::Shutdown::Both);
}

fn read_request(mut stream: &TcpStream, at_storage: bool) -> Option<Request> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).ok()? == 0 || head.len() > 1 << 16 {
            return None;
        }
        head.push(byte[0]);
    }
    let text = String::from_utf8(head).ok()?;
    let mut lines = text.lines();
    let mut first = lines.next()?.split(' ');
    let (method, target) = (first.next()?.to_owned(), first.next()?.to_owned());
    let headers = lines.filter_map(|l| l.split_once(": ")).map(|(n, v)| (n.to_owned(), v.to_owned()));
    Some(Request { method, target, headers: headers.collect(), at_storage })
}

fn send(shared: &Shared, stream: &mut &TcpStream, request: &Request, r: Response) -> std::io::Result<()> {
    if let Some(raw) = &r.raw {
        stream.write_all(&raw.first)?;
        while !raw.again.is_empty() && !shared.stop.load(Ordering::Relaxed) {
            thread::sleep(raw.pause);
            stream.write_all(&raw.again)?;
            shared.sent.fetch_add(raw.again.len() as u64, Ordering::Relaxed);
        }
        return stream.flush();
    }
    let length = r.announce.unwrap_or(r.body.len() as u64);
    let mut head = format!("HTTP/1.1 {} Said\r\n", r.status);
    match r.chunked {
        true => head += "Transfer-Encoding: chunked\r\n",
        false => head += &format!("Content-Length: {length}\r\n"),
    }
    r.headers.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
    stream.write_all((head + "\r\n").as_bytes())?;
    stream.flush()?;
    thread::sleep(r.stall);
    if request.method == "HEAD" {
        return Ok(());
    }
    let body = &r.body[..r.cut.unwrap_or(r.body.len()).min(r.body.len())];
    if r.chunked {
        for chunk in body.chunks(1000) {
            stream.write_all(format!("{:x}\r\n", chunk.len()).as_bytes())?;
            stream.write_all(chunk)?;
            stream.write_all(b"\r\n")?;
        }
        if r.cut.is_none() {
            stream.write_all(b"0\r\n\r\n")?;
        }
    } else {
        stream.write_all(body)?;
    }
    shared.sent.fetch_add(body.len() as u64, Ordering::Relaxed);
    stream.flush()
}

/// What huggingface.co would answer.
fn honest(shared: &Shared, request: &Request) -> Response {
    let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
    let path = unescape(path);
    if request.at_storage {
        let found =
            shared.repos.iter().flat_map(|r| r.files.values()).find(|c| path == format!("/{}", c.etag()));
        return found.map_or_else(
            || Response::new(403, ""),
            |c| Response::of_file(request, &c.bytes).with("ETag", "\"md5\""),
        );
    }
    let missing = |code: &str| Response::new(404, "{}").with("X-Error-Code", code);
    for repo in &shared.repos {
        let api = format!("/api/models/{}", repo.id);
        let known = |revision: &str| revision == "main" || revision == COMMIT;
        if let Some(rest) = path.strip_prefix(&api) {
            return match rest.split('/').collect::<Vec<_>>()[..] {
                [""] => info(repo),
                ["", "revision", revision] if known(revision) => info(repo),
                ["", "tree", revision] if known(revision) => page(shared, repo, &path, query),
                _ => missing("RevisionNotFound"),
            };
        }
        let cached = format!("/api/resolve-cache/models/{}/{COMMIT}/", repo.id);
        if let Some(content) = path.strip_prefix(&cached).and_then(|file| repo.files.get(file)) {
            return Response::of_file(request, &content.bytes)
                .with("ETag", format!("\"{}\"", content.etag()));
        }
        let Some(rest) = path.strip_prefix(&format!("/{}/resolve/", repo.id)) else { continue };
        let Some((revision, file)) = rest.split_once('/') else { continue };
        return match repo.files.get(file) {
            _ if !known(revision) => missing("RevisionNotFound"),
            None => missing("EntryNotFound").with("X-Repo-Commit", COMMIT),
            Some(content) if content.lfs => Response::new(302, "to the storage")
                .with("Location", format!("http://{}/{}?X-Signature=secret", shared.storage, content.etag()))
                .with("X-Repo-Commit", COMMIT)
                .with("X-Linked-Size", content.bytes.len().to_string())
                .with("X-Linked-ETag", format!("\"{}\"", content.etag())),
            Some(_) => Response::new(307, "")
                .with("Location", format!("{cached}{}", escape(file)))
                .with("X-Repo-Commit", COMMIT),
        };
    }
    Response::new(401, "")
        .with("X-Error-Code", "RepoNotFound")
        .with("X-Error-Message", "Repository not found")
}

fn info(repo: &Repo) -> Response {
    let siblings: Vec<_> = repo.files.keys().map(|name| serde_json::json!({"rfilename": name})).collect();
    Response::json(serde_json::json!({"id": repo.id, "sha": COMMIT, "private": false, "siblings": siblings}))
}

fn page(shared: &Shared, repo: &Repo, path: &str, query: &str) -> Response {
    let tree = repo.tree();
    let from: usize = query.split('&').find_map(|p| p.strip_prefix("cursor=")?.parse().ok()).unwrap_or(0);
    let to = (from + shared.page).min(tree.len());
    let response = Response::json(tree[from..to].to_vec());
    match to < tree.len() {
        // As the Hub does, the address is absolute.
        true => response.with(
            "Link",
            format!("<http://{}{path}?recursive=true&cursor={to}>; rel=\"next\"", shared.endpoint),
        ),
        false => response,
    }
}
