//! A Hub that lies, in every way that has been thought of: each pull ends with the right bytes or one clear sentence,
//! writes nothing outside the cache, and sends the token nowhere else.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};

use quern_hub::{PullOptions, Pulled, Result};
use serde_json::{Value, json};
use sha2::Digest as _;

use crate::fake_hub::{COMMIT, Content, FakeHub, Repo, Request, Response, git, hex, noise};
use crate::{Place, all_files};

const MODEL: &str = "model.safetensors";
const LENGTH: usize = 300_000;

pub fn repo() -> Repo {
    Repo::new("o/n")
        .small("config.json", r#"{"model_type":"llama"}"#)
        .small("tokenizer.json", noise(5000, 1))
        .large(MODEL, noise(LENGTH, 7))
}

fn model() -> Content {
    repo().files[MODEL].clone()
}

/// What must hold after any pull, whatever the server did.
pub fn judge(place: &Place, server: &FakeHub, result: &Result<Pulled>) {
    let beside: Vec<_> = fs::read_dir(place.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(beside.iter().all(|name| name == "hub"), "written outside the cache: {beside:?}");
    for request in server.requests().iter().filter(|r| r.at_storage) {
        assert_eq!(request.header("Authorization"), None, "the token left the endpoint");
    }
    // No half or wrong file has a final name.
    for file in all_files(&place.settings.cache).iter().filter(|f| f.contains("/blobs/")) {
        let (name, bytes) =
            (file.rsplit('/').next().unwrap(), fs::read(place.settings.cache.join(file)).unwrap());
        match name.len() {
            40 => assert_eq!(git(&bytes), name),
            64 => assert_eq!(hex(&sha2::Sha256::digest(&bytes)), name),
            _ => assert!(name.ends_with(".incomplete"), "{name}"),
        }
    }
    match result {
        Ok(pulled) => {
            for file in &pulled.files {
                let expected = &repo().files[&file.path].bytes;
                assert_eq!(&fs::read(pulled.folder.join(&file.path)).unwrap(), expected, "{}", file.path);
            }
        }
        Err(e) => {
            let text = e.to_string();
            assert!(!text.chars().any(|c| c.is_control() || c == '\u{202e}'), "{text:?}");
            assert!(!text.contains("SECRET") && text.len() < 9000, "{text}");
            let links: Vec<_> = all_files(&place.settings.cache);
            assert!(!links.iter().any(|f| f.contains("/snapshots/") || f.contains("/refs/")), "{links:?}");
        }
    }
}

fn pull(server: &FakeHub, options: &PullOptions) -> Result<Pulled> {
    let place = Place::new(server).with_token();
    let result = place.pull_with("o/n", options);
    judge(&place, server, &result);
    result
}

/// The files come, and are the right ones.
fn comes(server: &FakeHub) {
    let pulled = pull(server, &PullOptions::default()).unwrap();
    assert_eq!(pulled.files.len(), 3);
}

/// The pull is refused with a sentence that says so.
fn refused(server: &FakeHub, because: &str) {
    let error = pull(server, &PullOptions::default()).unwrap_err().to_string();
    assert!(error.contains(because), "{because}: {error}");
}

fn everything() -> PullOptions {
    PullOptions { include: vec!["*".to_owned()], ..PullOptions::default() }
}

/// Answers at the endpoint's address for the model's file, and at the storage's.
fn at_the_file(answer: impl Fn(&Request) -> Response + Send + Sync + 'static) -> FakeHub {
    FakeHub::hooked(repo(), move |r| (r.at_storage || r.target.ends_with(MODEL)).then(|| answer(r)))
}

/// Answers when the commit is asked for.
fn at_the_commit(answer: impl Fn(&Request) -> Response + Send + Sync + 'static) -> FakeHub {
    FakeHub::hooked(repo(), move |r| r.target.contains("/revision/").then(|| answer(r)))
}

/// Lists the model with these keys of its entry changed.
fn listed(change: impl Fn(&mut Value) + Send + Sync + 'static) -> FakeHub {
    FakeHub::hooked(repo(), move |r| {
        let entry = |(path, content): (&String, &Content)| {
            let size = content.bytes.len();
            let mut entry = json!({"type": "file", "oid": git(&content.bytes), "size": size, "path": path});
            if content.lfs {
                entry["lfs"] = json!({"oid": content.etag(), "size": size});
                change(&mut entry);
            }
            entry
        };
        r.target
            .contains("/tree/")
            .then(|| Response::json(repo().files.iter().map(entry).collect::<Vec<_>>()))
    })
}

fn sized(size: impl Into<Value>) -> FakeHub {
    let size = size.into();
    listed(move |entry| {
        entry["size"] = size.clone();
        entry["lfs"]["size"] = size.clone();
    })
}

fn with_files(names: &'static [&'static str]) -> FakeHub {
    let all = names.iter().fold(repo(), |repo, name| repo.small(name, "x"));
    FakeHub::new(all)
}

#[test]
fn names_that_move_the_cursor_or_lead_elsewhere() {
    // Scenarios esc-name, traverse, case, dirfile.
    for names in [
        &["README\u{1b}[31m.md", "RE\u{202e}ADME.md", "\u{9b}31mREADME.md"][..],
        &["../../../../OWNED", "/OWNED2", "a/../../OWNED3", "..\\OWNED4"],
    ] {
        let server = with_files(names);
        comes(&server);
        let error = pull(&server, &everything()).unwrap_err().to_string();
        assert!(error.contains("not safe as a path"), "{error}");
    }
    comes(&with_files(&["CONFIG.JSON", "Config.json"]));
    comes(&with_files(&["config.json/x"]));
    let both = FakeHub::new(repo().small("config.json/x", "x"));
    let place = Place::new(&both);
    let error = place.pull_with("o/n", &everything()).unwrap_err().to_string();
    assert!(error.contains("config.json"), "{error}");
}

#[test]
fn sizes_that_no_file_has() {
    // Scenarios size-huge, size-neg, size-float, size-less, size-more.
    refused(&sized(1_u64 << 62), "the disk has");
    refused(&sized(-5), "does not have the form of the Hub's");
    refused(&sized(1.5), "does not have the form of the Hub's");
    refused(&sized(LENGTH - 100), "by its own listing the file has 299900 bytes");
    refused(&sized(LENGTH + 100), "by its own listing the file has 300100 bytes");
    refused(&sized(u64::MAX), "the disk has");
}

#[test]
fn hashes_that_are_none_or_others() {
    // Scenarios hash, oid-path, oid-upper, zero, etag-path, commit-mismatch.
    refused(&listed(|e| e["lfs"]["oid"] = "ab".repeat(32).into()), "the server offers sha256");
    // Without a usable hash in the list, that of the file's own answer is taken.
    comes(&listed(|e| e["lfs"]["oid"] = "../../../../../.../OWNED5".into()));
    comes(&listed(|e| e["lfs"]["oid"] = e["lfs"]["oid"].as_str().unwrap().to_uppercase().into()));
    let nothing = listed(|e| {
        e["size"] = 0.into();
        e["lfs"] = json!({"size": 0, "oid": hex(&sha2::Sha256::digest(b""))});
    });
    let place = Place::new(&nothing);
    let pulled = place.pull("o/n").unwrap();
    assert_eq!(fs::read(pulled.model.unwrap()).unwrap(), b"", "what the list says, which is nothing");
    comes(&at_the_file(|_| Response::new(200, model().bytes).with("ETag", "\"../../../../x\"")));
    comes(&at_the_file(|_| Response::new(200, model().bytes).with("X-Repo-Commit", "f".repeat(40))));
    let path = FakeHub::hooked(repo(), |r| match () {
        () if r.target.contains("/tree/") => Some(Response::new(404, "")),
        () => r
            .target
            .ends_with(MODEL)
            .then(|| Response::new(200, model().bytes).with("ETag", "\"../../../../x\"")),
    });
    refused(&path, "is not the hash of a file");
}

#[test]
fn commits_that_are_paths() {
    // Scenarios commit-path, commit-upper.
    for commit in ["../../../../../../.../x", &"ABCDEF".repeat(7)[..40], "\u{1b}[31m"] {
        let sha = commit.to_owned();
        refused(&at_the_commit(move |_| Response::json(json!({"sha": sha}))), "not a commit id");
    }
}

#[test]
fn redirects_that_fetch_the_token_or_a_file() {
    // Scenarios redirect-token, redirect-port, redirect-file, redirect-user, redirect-loop, redirect-lfs,
    // redirect-back.
    let elsewhere = |to: fn(&Request) -> String| {
        FakeHub::hooked(repo(), move |r| {
            let host = r.header("Host").unwrap_or_default();
            let asked = r.target.contains("/revision/");
            (asked && host.starts_with("127.0.0.1")).then(|| Response::new(302, "").with("Location", to(r)))
        })
    };
    let same_port = elsewhere(|r| {
        let port = r.header("Host").unwrap().rsplit(':').next().unwrap().to_owned();
        format!("http://localhost:{port}{}", r.target)
    });
    comes(&same_port);
    for request in same_port.requests() {
        let home = !request.at_storage && request.header("Host").unwrap().starts_with("127.0.0.1");
        assert_eq!(request.header("Authorization").is_some(), home, "{request:?}");
    }
    refused(&elsewhere(|_| "file:///etc/passwd".to_owned()), "redirects to something that is no web address");
    refused(&elsewhere(|r| r.target.clone()), "more than 8 redirects");

    // A storage that answers for the Hub, named with credentials: followed without them.
    let storage = std::sync::Arc::new(std::sync::OnceLock::<String>::new());
    let known = storage.clone();
    let server = FakeHub::hooked(repo(), move |r| match r.at_storage {
        true if r.target.contains("/revision/") => Some(Response::json(json!({"sha": COMMIT}))),
        true => None,
        false => r.target.contains("/revision/").then(|| {
            let to = known.get().unwrap().replace("http://", "http://user:pass@");
            Response::new(307, "").with("Location", format!("{to}{}", r.target))
        }),
    });
    storage.set(server.storage()).unwrap();
    comes(&server);
    assert!(server.requests().iter().any(|r| r.at_storage && r.target.contains("/revision/")));

    // Every large file is redirected by an honest server already, with a signature in the address.
    comes(&FakeHub::new(repo()));
    // One that is sent back to another file of the endpoint.
    let endpoint = std::sync::Arc::new(std::sync::OnceLock::<String>::new());
    let known = endpoint.clone();
    let server = FakeHub::hooked(repo(), move |r| {
        r.at_storage.then(|| {
            let back = format!("{}/o/n/resolve/{COMMIT}/config.json?back", known.get().unwrap());
            Response::new(302, "").with("Location", back)
        })
    });
    endpoint.set(server.endpoint()).unwrap();
    refused(&server, "by its own listing the file has 300000 bytes");
    let back: Vec<_> = server.requests().into_iter().filter(|r| r.target.ends_with("?back")).collect();
    assert!(!back.is_empty() && back.iter().all(|r| r.header("Authorization").is_none()));
}

#[test]
fn errors_with_escapes_and_absurd_pauses() {
    // Scenarios retry-after, 401-esc, 302-403.
    refused(&at_the_commit(|_| Response::new(503, "").with("Retry-After", "99999999999")), "status 503");
    let evil = |_: &Request| {
        Response::new(403, "{\"error\":\"\u{1b}[31mEVIL\"}")
            .with("X-Error-Message", "\u{1b}[31mEVIL\u{1b}[0m")
            .with("X-Error-Code", "GatedRepo")
    };
    refused(&at_the_commit(evil), "127.0.0.1");
    refused(
        &at_the_commit(|_| Response::new(403, "").with("X-Error-Message", "a\u{202e}b\u{9b}1mc")),
        "(ab1mc)",
    );
    let server = FakeHub::hooked(repo(), |r| r.at_storage.then(|| Response::new(403, "<\u{1b}[31mError/>")));
    refused(&server, "the storage behind the Hub answers with status 403");
}

#[test]
fn compressed_answers_that_nobody_asked_for() {
    // Scenarios gzip, gzip-same, tree-gzip: the file's own bytes under a false label are not trusted either.
    let gzip = |body: Vec<u8>| Response::new(200, body).with("Content-Encoding", "gzip");
    refused(&at_the_file(move |_| gzip(noise(2000, 3))), "compressed");
    refused(&at_the_file(move |_| gzip(model().bytes)), "compressed");
    let tree = FakeHub::hooked(repo(), move |r| r.target.contains("/tree/").then(|| gzip(noise(2000, 3))));
    refused(&tree, "compressed");
}

/// The part that a request asks for, of other content if `of` says so, but no more than `most` bytes of it.
fn part_of(request: &Request, bytes: &[u8], most: usize) -> Response {
    let first: usize = request
        .header("Range")
        .map_or(0, |range| range["bytes=".len()..].trim_end_matches('-').parse().unwrap());
    let response =
        Response { cut: Some(most), ..Response::new(if first > 0 { 206 } else { 200 }, &bytes[first..]) };
    match first {
        0 => response,
        _ => response.with("Content-Range", format!("bytes {first}-{}/{LENGTH}", LENGTH - 1)),
    }
}

#[test]
fn transfers_that_break_and_go_on_with_something_else() {
    // Scenarios cut, 416-always, change, range-lie, ignore-range, throttle, chunked-endless.
    comes(&at_the_file(|r| part_of(r, &model().bytes, 100_000)));
    refused(
        &at_the_file(|r| match r.header("Range") {
            Some(_) => Response::new(416, "").with("Content-Range", format!("bytes */{LENGTH}")),
            None => part_of(r, &model().bytes, 200_000),
        }),
        "the connection broke",
    );
    refused(
        &at_the_file(|r| match r.header("Range") {
            Some(_) => part_of(r, &vec![0; LENGTH], LENGTH),
            None => part_of(r, &model().bytes, 200_000),
        }),
        "the download is not the file",
    );
    refused(
        &at_the_file(|r| match r.header("Range") {
            Some(_) => Response::new(206, noise(100, 9))
                .with("Content-Range", format!("bytes 200001-{LENGTH}/{}", LENGTH + 1)),
            None => part_of(r, &model().bytes, 200_000),
        }),
        "asked for",
    );
    let broken = AtomicUsize::new(0);
    comes(&at_the_file(move |_| {
        let cut = (broken.fetch_add(1, Ordering::Relaxed) == 0).then_some(200_000);
        Response { cut, ..Response::new(200, model().bytes) }
    }));
    comes(&at_the_file(|_| Response { chunked: true, ..Response::new(200, model().bytes) }));
    let zeros = [b"10000\r\n".to_vec(), vec![0; 1 << 16], b"\r\n".to_vec()].concat();
    refused(
        &at_the_file(move |_| {
            Response::endless("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", zeros.clone())
        }),
        "sends more than the 300000 bytes",
    );
}

#[test]
fn an_honest_server_is_believed() {
    comes(&FakeHub::new(repo()));
}
