//! Answers that come too slowly, never end, or are larger than any real one.
//!
//! No test here depends on the speed of the machine: windows are short and the slowest rate is one that no machine
//! reaches, or the answer has no end at all.

use std::time::{Duration, Instant};

use quern_hub::{FileSource, Patience};
use serde_json::{Value, json};

use crate::Place;
use crate::fake_hub::{COMMIT, FakeHub, Repo, Request, Response, noise};
use crate::lying::{judge, repo};

const HEAD: &str = "HTTP/1.1 200 OK\r\n";

/// A server whose answer at this place of the address is another.
fn answering(place: &'static str, answer: impl Fn() -> Response + Send + Sync + 'static) -> FakeHub {
    FakeHub::hooked(repo(), move |r| r.target.contains(place).then(&answer))
}

/// The sentence of a pull from a server that would take for ever, and how many requests it made.
fn given_up(server: &FakeHub, patience: Patience) -> String {
    let mut place = Place::new(server).with_token();
    place.settings.patience = patience;
    let result = place.pull("o/n");
    judge(&place, server, &result);
    result.unwrap_err().to_string()
}

/// One byte in ten milliseconds, for as long as they are taken.
fn drip(first: impl Into<Vec<u8>>) -> Response {
    Response::dripping(first, " ", Duration::from_millis(10))
}

/// A rate that no connection has.
const IMPATIENT: Patience =
    Patience { window: Duration::from_millis(100), slowest: 1 << 40, answer: Duration::from_secs(600) };

#[test]
fn one_byte_at_a_time_is_given_up() {
    // Scenarios info-slow and slow, and the same for lists, heads, lines between chunks and answers of the storage.
    type Start = fn() -> String;
    let starts: [(&str, &'static str, Start); 6] = [
        ("the commit", "/revision/", || format!("{HEAD}\r\n")),
        ("a list", "/tree/", || format!("{HEAD}Content-Length: 1000\r\n\r\n[")),
        ("a head", "/revision/", || format!("{HEAD}X-A: ")),
        ("a status line", "/revision/", || "HTTP/1.1 200 ".to_owned()),
        ("a chunk's length", "/tree/", || format!("{HEAD}Transfer-Encoding: chunked\r\n\r\n1")),
        ("a file", "/model.safetensors", || format!("{HEAD}Content-Length: 300000\r\n\r\n")),
    ];
    for (what, place, start) in starts {
        let server = answering(place, move || drip(start()));
        let error = given_up(&server, IMPATIENT);
        assert!(error.contains("too slow") && error.contains("try again later"), "{what}: {error}");
        let asked = server.requests().iter().filter(|r| r.target.contains(place)).count();
        assert_eq!(asked, 3, "{what}");
    }
}

#[test]
fn a_stalled_transfer_goes_on_where_it_stands() {
    // Half of the file quickly, then the rest in single bytes; the next connection has it at once.
    let bytes = [noise(150_000, 7), vec![b'x'; 150_000]].concat();
    let repo = Repo::new("o/n").large("m.gguf", bytes.clone());
    let content = bytes.clone();
    let server = FakeHub::hooked(repo, move |r: &Request| {
        (r.at_storage && r.header("Range").is_none()).then(|| {
            let head = format!("{HEAD}Content-Length: {}\r\n\r\n", content.len());
            let first = [head.as_bytes(), &content[..150_000]].concat();
            Response::dripping(first, "x", Duration::from_millis(10))
        })
    });
    let mut place = Place::new(&server).with_token();
    // The other answers come without a wait, so that no window ends; only this one is waited for.
    place.settings.patience = Patience { window: Duration::from_secs(1), ..IMPATIENT };
    let pulled = place.pull("o/n").unwrap();
    assert_eq!(pulled.files[0].source, FileSource::Hub { resumed: 0 });
    assert_eq!(std::fs::read(pulled.model.unwrap()).unwrap(), bytes);
    let asked: Vec<_> = server.requests().into_iter().filter(|r| r.at_storage).collect();
    assert!(asked.len() >= 2, "{asked:?}");
    let first: usize =
        asked[1].header("Range").unwrap()["bytes=".len()..].trim_end_matches('-').parse().unwrap();
    assert!(first >= 150_000, "{first}");
}

#[test]
fn an_answer_has_a_time_to_end() {
    let server = answering("/revision/", || drip(format!("{HEAD}\r\n")));
    let patient =
        Patience { window: Duration::from_secs(600), slowest: 1, answer: Duration::from_millis(200) };
    let error = given_up(&server, patient);
    assert!(error.contains("did not end in the time there is for it"), "{error}");
    assert_eq!(server.requests().len(), 1, "not asked again");
}

#[test]
fn heads_and_chunks_without_end() {
    // Scenarios head-bomb, head-line, chunk-bomb, info-bomb, and more of their kind.
    let endless: [(&str, Vec<u8>, Vec<u8>, &str); 9] = [
        ("header fields", HEAD.into(), format!("X-A: {}\r\n", "a".repeat(8000)).into(), "not valid HTTP"),
        ("short fields", HEAD.into(), b"X: a\r\n".repeat(1000), "not valid HTTP"),
        ("fields that are none", HEAD.into(), b"\x01\r\n".repeat(1000), "not valid HTTP"),
        ("a header line", format!("{HEAD}X: ").into(), vec![b'a'; 1 << 16], "not valid HTTP"),
        ("a status line", b"HTTP/1.1 200 ".to_vec(), vec![b'a'; 1 << 16], "not valid HTTP"),
        ("interim answers", Vec::new(), b"HTTP/1.1 100 Continue\r\n\r\n".repeat(1000), ""),
        (
            "blanks",
            format!("{HEAD}Connection: close\r\n\r\n").into(),
            vec![b' '; 1 << 16],
            "answers with more than",
        ),
        (
            "a chunk's length",
            format!("{HEAD}Transfer-Encoding: chunked\r\n\r\n{}\r\n", "f".repeat(40)).into(),
            vec![b' '; 1 << 16],
            "not valid HTTP",
        ),
        (
            "trailers",
            format!("{HEAD}Transfer-Encoding: chunked\r\n\r\n1\r\n{{\r\n0\r\n").into(),
            b"X: a\r\n".repeat(10_000),
            "far more than the answer can hold",
        ),
    ];
    for (what, first, again, because) in endless {
        let server = answering("/revision/", move || Response::endless(first.clone(), again.clone()));
        let started = Instant::now();
        let error = given_up(&server, Patience::default());
        assert!(error.contains(because), "{what}: {error}");
        eprintln!("{what}: {error} ({:.1} s)", started.elapsed().as_secs_f64());
    }
    for length in ["ffffffffffffffff", "10000000000000000", "-1", "1 1", "", "0x10"] {
        let body = format!("{HEAD}Transfer-Encoding: chunked\r\n\r\n{length}\r\n");
        let server = answering("/revision/", move || Response::endless(body.clone(), vec![b'x'; 1 << 16]));
        let error = given_up(&server, Patience::default());
        assert!(error.contains("not valid HTTP") || error.contains("answers with more"), "{length}: {error}");
    }
}

/// A page of the tree with this many files of these names.
fn page(count: usize, name: impl Fn(usize) -> String) -> Vec<u8> {
    let entry = |at| json!({"type": "file", "oid": COMMIT, "size": 1, "path": name(at)});
    Value::from((0..count).map(entry).collect::<Vec<_>>()).to_string().into_bytes()
}

#[test]
fn lists_larger_than_any() {
    // Scenarios tree-bomb, tree-many, tree-deep.
    let large = page(1, |_| "x".repeat(9 << 20));
    assert!(
        given_up(&answering("/tree/", move || Response::new(200, large.clone())), Patience::default())
            .contains("answers with more than the 8388608 bytes")
    );
    let deep = vec![b'['; 1 << 20];
    assert!(
        given_up(&answering("/tree/", move || Response::new(200, deep.clone())), Patience::default())
            .contains("does not have the form of the Hub's")
    );
    // Pages that are right each, one after the other.
    for (files, name_length) in [(1000, 20), (1000, 1000), (60_000, 4)] {
        let server = FakeHub::hooked(repo(), move |r| {
            let at: usize = r.target.split("cursor=").nth(1).map_or(0, |at| at.parse().unwrap());
            let name = |i| format!("{at}-{i}-{}", "x".repeat(name_length));
            r.target.contains("/tree/").then(|| {
                Response::new(200, page(files, name))
                    .with("Link", format!("<?recursive=true&cursor={}>; rel=\"next\"", at + 1))
            })
        });
        let error = given_up(&server, Patience::default());
        assert!(error.contains("lists more than 262144 files, or more than 32.0 MiB of names"), "{error}");
    }
    // A name that announces many splits costs only itself.
    let splits = page(50_000, |at| format!("{at}-00001-of-99999.gguf"));
    let error =
        given_up(&answering("/tree/", move || Response::new(200, splits.clone())), Patience::default());
    assert!(error.contains("it holds several models"), "{error}");
    let one = page(1, |_| "m-00001-of-99999.gguf".to_owned());
    let error = given_up(&answering("/tree/", move || Response::new(200, one.clone())), Patience::default());
    assert!(error.contains("lacks 99998 of that model's parts: m-00002-of-99999.gguf"), "{error}");
    assert!(error.len() < 400, "{error}");
}
