//! Servers that send wrong data.

use std::fs;
use std::path::Path;

use quern_hub::PullOptions;
use serde_json::json;

use crate::fake_hub::{COMMIT, FakeHub, Repo, Response, git, hex, noise};
use crate::{Place, all_files, sharded};

fn repo() -> Repo {
    Repo::new("o/n").large("m.gguf", noise(100_000, 7))
}

fn everything() -> PullOptions {
    PullOptions { include: vec!["*".to_owned()], ..PullOptions::default() }
}

/// A tree of one file that the server describes as it likes.
fn tree(entry: serde_json::Value) -> FakeHub {
    FakeHub::hooked(repo(), move |r| r.target.contains("/tree/").then(|| Response::json(vec![entry.clone()])))
}

fn files_named(place: &Place, end: &str) -> Vec<String> {
    all_files(place.path()).into_iter().filter(|f| f.ends_with(end)).collect()
}

#[test]
fn another_content_of_the_right_length_is_refused() {
    for chunked in [false, true] {
        let server = FakeHub::hooked(repo(), move |r| {
            r.at_storage.then(|| Response { chunked, ..Response::new(200, noise(100_000, 8)) })
        });
        let place = Place::new(&server);
        let error = place.refused("o/n");
        let expected = repo().files["m.gguf"].etag();
        assert!(error.contains("sha256") && error.contains(&expected), "{error}");
        assert_eq!(files_named(&place, ".incomplete"), Vec::<String>::new(), "no partial download is kept");
        assert!(!place.settings.cache.join("models--o--n/blobs").join(expected).exists());
    }
}

#[test]
fn an_etag_other_than_the_listing_s_is_refused_before_a_byte() {
    let server = FakeHub::hooked(repo(), |r| {
        r.target
            .contains("/resolve/")
            .then(|| Response::new(200, noise(100_000, 8)).with("X-Linked-ETag", "ab".repeat(32)))
    });
    let error = Place::new(&server).refused("o/n");
    assert!(error.contains(&format!("offers sha256 {}", "ab".repeat(32))), "{error}");
}

#[test]
fn git_files_are_checked_too() {
    let server = FakeHub::hooked(sharded(), |r| {
        r.target.contains("/resolve-cache/").then(|| Response::new(200, r#"{"model_type":"llamb"}"#))
    });
    let place = Place::new(&server);
    let options = PullOptions { include: vec!["config.json".to_owned()], ..PullOptions::default() };
    let error = place.pull_with("org/model", &options).unwrap_err().to_string();
    assert!(
        error.contains("git blob id") && error.contains(&sharded().files["config.json"].etag()),
        "{error}"
    );
}

#[test]
fn other_lengths_are_refused() {
    for (length, announce) in [(99_999, None), (100_001, None), (100_000, Some(5)), (5, Some(100_000_000))] {
        let server = FakeHub::hooked(repo(), move |r| {
            r.at_storage.then(|| Response {
                announce,
                cut: Some(length),
                ..Response::new(200, noise(length, 7))
            })
        });
        let error = Place::new(&server).refused("o/n");
        assert!(error.contains("announces") && error.contains("100000 bytes"), "{error}");
    }
    // Chunks announce nothing; they are counted.
    let server = FakeHub::hooked(repo(), |r| {
        r.at_storage.then(|| Response { chunked: true, ..Response::new(200, noise(100_001, 7)) })
    });
    assert!(Place::new(&server).refused("o/n").contains("sends more than the 100000 bytes"));
    let server = FakeHub::hooked(repo(), |r| {
        r.at_storage.then(|| Response { chunked: true, ..Response::new(200, noise(99_999, 7)) })
    });
    let error = Place::new(&server).refused("o/n");
    assert!(error.contains("99999 of 100000") || error.contains("announces"), "{error}");
}

#[test]
fn names_that_lead_elsewhere_are_never_written() {
    for name in [
        "../../evil.gguf",
        "/tmp/evil.gguf",
        "a/../../evil.gguf",
        "C:\\evil.gguf",
        "..\\evil.gguf",
        "nul.gguf",
        "e\0vil.gguf",
    ] {
        let server = tree(json!({"type": "file", "path": name, "size": 4, "oid": git(b"evil")}));
        let place = Place::new(&server);
        assert!(place.refused("o/n").contains("no model there"), "{name}");
        let error = place.pull_with("o/n", &everything()).unwrap_err().to_string();
        assert!(error.contains("not safe as a path"), "{error}");
        assert_eq!(files_named(&place, "evil.gguf"), Vec::<String>::new());
    }
    // A correct model beside it is pulled, and the other one is reported.
    let entry = json!([
        {"type": "file", "path": "m.gguf", "size": 100_000, "oid": COMMIT, "lfs": {"oid": repo().files["m.gguf"].etag(), "size": 100_000}},
        {"type": "file", "path": "../x", "size": 4, "oid": git(b"evil")},
    ]);
    let server =
        FakeHub::hooked(repo(), move |r| r.target.contains("/tree/").then(|| Response::json(entry.clone())));
    let pulled = Place::new(&server).pull("o/n").unwrap();
    assert!(pulled.notes[0].contains("1 files") && pulled.notes[0].contains("../x"), "{:?}", pulled.notes);
}

#[test]
fn an_index_that_leads_elsewhere_is_refused() {
    for shard in ["../../../../evil", "/etc/passwd", "absent.safetensors", "..\\evil"] {
        let index = json!({"weight_map": {"a": shard}}).to_string();
        let server = FakeHub::new(Repo::new("o/n").small("model.safetensors.index.json", index));
        let error = Place::new(&server).refused("o/n");
        assert!(error.contains("which the repository does not hold"), "{error}");
    }
}

#[test]
fn etags_that_are_no_hashes_are_refused() {
    for etag in ["../../../../evil", "..%2fevil", "\"\"", "evil", "0123", &"g".repeat(64), &"A".repeat(40)] {
        // The tree has no usable hash either, so the file itself is requested.
        let owned = etag.to_owned();
        let server = FakeHub::hooked(repo(), move |r| match () {
            () if r.target.contains("/tree/") => Some(Response::json(vec![
                json!({"type": "file", "path": "m.gguf", "size": 100_000, "oid": owned}),
            ])),
            () if r.target.contains("/resolve/") => Some(
                Response::new(200, noise(100_000, 7))
                    .with("ETag", owned.clone())
                    .with("X-Repo-Commit", COMMIT),
            ),
            () => None,
        });
        let place = Place::new(&server);
        let error = place.refused("o/n");
        assert!(error.contains("is not the hash of a file"), "{error}");
        assert_eq!(files_named(&place, "evil"), Vec::<String>::new());
        assert_eq!(server.file_requests(), Vec::<String>::new(), "nothing is fetched to be put there");
    }
}

#[test]
fn weak_and_quoted_etags_are_read() {
    for etag in [
        format!("W/\"{}\"", git(b"GGUF")),
        git(b"GGUF"),
        hex(&<sha2::Sha256 as sha2::Digest>::digest(b"GGUF")),
    ] {
        let server = FakeHub::hooked(Repo::new("o/n").small("m.gguf", "GGUF"), move |r| match () {
            () if r.target.contains("/tree/") => Some(Response::new(404, "")),
            () if r.target.contains("/resolve/") => {
                Some(Response::new(200, "GGUF").with("ETag", etag.clone()))
            }
            () => None,
        });
        Place::new(&server).pull("o/n").unwrap();
    }
}

#[test]
fn a_commit_that_is_none_is_refused() {
    for commit in ["../../../evil", "main", "", "0123", &COMMIT.to_uppercase()] {
        let sha = commit.to_owned();
        let server = FakeHub::hooked(repo(), move |r| {
            r.target.contains("/revision/").then(|| Response::json(json!({"sha": sha, "siblings": []})))
        });
        let error = Place::new(&server).refused("o/n");
        assert!(error.contains("which is not a commit id"), "{error}");
    }
}

#[test]
fn sizes_that_contradict_are_refused() {
    let lfs = json!({"oid": repo().files["m.gguf"].etag(), "size": 5});
    let server = tree(json!({"type": "file", "path": "m.gguf", "size": 6, "oid": COMMIT, "lfs": lfs}));
    assert!(Place::new(&server).refused("o/n").contains("two different sizes"));
}

#[test]
fn a_model_larger_than_the_disk_is_refused_before_a_byte() {
    let lfs = json!({"oid": repo().files["m.gguf"].etag(), "size": 1u64 << 60});
    let server =
        tree(json!({"type": "file", "path": "m.gguf", "size": 1u64 << 60, "oid": COMMIT, "lfs": lfs}));
    let error = Place::new(&server).refused("o/n");
    assert!(error.contains("the disk has") && error.contains("1048576.0 TiB"), "{error}");
    assert_eq!(server.file_requests(), Vec::<String>::new());
}

#[test]
fn answers_that_never_end_are_cut() {
    // Pages that lead to themselves.
    let server = FakeHub::hooked(repo(), |r| {
        r.target
            .contains("/tree/")
            .then(|| Response::json(json!([])).with("Link", "<?cursor=x>; rel=\"next\""))
    });
    assert!(Place::new(&server).refused("o/n").contains("has too many pages"));
    assert_eq!(server.requests().len(), 3);
    // Redirects in a circle.
    let server = FakeHub::hooked(repo(), |r| {
        r.target.contains("/resolve/").then(|| Response::new(302, "").with("Location", r.target.clone()))
    });
    assert!(Place::new(&server).refused("o/n").contains("redirects"));
    // A list larger than any.
    let server = FakeHub::hooked(repo(), |r| {
        r.target
            .contains("/revision/")
            .then(|| Response { announce: Some(1 << 40), ..Response::new(200, "{") })
    });
    assert!(Place::new(&server).refused("o/n").contains("answers with more than"));
}

#[test]
fn redirects_to_other_schemes_are_not_followed() {
    for location in ["file:///etc/passwd", "ftp://127.0.0.1/x", "//", "http://", "data:,x"] {
        let server = FakeHub::hooked(repo(), move |r| {
            r.target.contains("/resolve/").then(|| Response::new(302, "").with("Location", location))
        });
        let error = Place::new(&server).refused("o/n");
        assert!(error.contains("redirects") || error.contains("no connection"), "{location}: {error}");
    }
    let server = FakeHub::hooked(repo(), |r| r.target.contains("/resolve/").then(|| Response::new(302, "")));
    assert!(Place::new(&server).refused("o/n").contains("redirects to nowhere"));
}

#[test]
fn pages_stay_at_the_endpoint() {
    let server = FakeHub::hooked(sharded(), |r| {
        (r.target.contains("/tree/") && !r.target.contains("cursor")).then(|| {
            Response::json(json!([])).with("Link", "<http://127.0.0.1:1/steal?cursor=0>; rel=\"next\"")
        })
    });
    Place::new(&server).with_token().pull("org/model").unwrap();
}

#[test]
fn the_token_goes_to_the_endpoint_and_nowhere_else() {
    let server = FakeHub::new(sharded());
    Place::new(&server).with_token().pull("org/model").unwrap();
    let requests = server.requests();
    assert!(requests.iter().any(|r| r.at_storage));
    for request in &requests {
        let expected = (!request.at_storage).then_some("Bearer hf_secret");
        assert_eq!(request.header("Authorization"), expected, "{request:?}");
    }
    // A storage that sends the request back where it came from gets no token out of it.
    let endpoint = std::sync::Arc::new(std::sync::OnceLock::<String>::new());
    let known = endpoint.clone();
    let server = FakeHub::hooked(repo(), move |r| {
        let back = || format!("{}/stolen", known.get().unwrap());
        match () {
            () if r.at_storage => Some(Response::new(302, "").with("Location", back())),
            () if r.target == "/stolen" => Some(Response::new(200, repo().files["m.gguf"].bytes.clone())),
            () => None,
        }
    });
    endpoint.set(server.endpoint()).unwrap();
    Place::new(&server).with_token().pull("o/n").unwrap();
    let stolen: Vec<_> = server.requests().into_iter().filter(|r| r.target == "/stolen").collect();
    assert_eq!((stolen.len(), stolen[0].header("Authorization")), (1, None));
    // A name and password in an address are no credentials of ours either.
    let storage = server.storage().replace("http://", "http://user:word@");
    let server = FakeHub::hooked(repo(), move |r| {
        r.target.contains("/resolve/").then(|| {
            Response::new(302, "").with("Location", format!("{storage}/{}", repo().files["m.gguf"].etag()))
        })
    });
    let _ = Place::new(&server).pull("o/n");
}

#[test]
fn nothing_in_the_cache_leads_out_of_it() {
    let server = FakeHub::new(sharded());
    let place = Place::new(&server);
    let pulled = place.pull("org/model").unwrap();
    let blobs = fs::canonicalize(place.settings.cache.join("models--org--model/blobs")).unwrap();
    for file in &pulled.files {
        let target = fs::canonicalize(pulled.folder.join(&file.path)).unwrap();
        assert_eq!(target.parent(), Some(blobs.as_path()));
    }
    // A foreign link in a file's place is replaced, not written through.
    let outside = place.path().join("outside");
    fs::write(&outside, "mine").unwrap();
    let config = pulled.folder.join("config.json");
    fs::remove_file(&config).unwrap();
    std::os::unix::fs::symlink(&outside, &config).unwrap();
    place.pull("org/model").unwrap();
    assert_eq!(fs::read(&config).unwrap(), sharded().files["config.json"].bytes);
    assert_eq!(fs::read(Path::new(&outside)).unwrap(), b"mine");
}
