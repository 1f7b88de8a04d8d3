//! Memory that answers of the Hub take: at most 64 MiB beyond what was received.
//!
//! An allocator counts what the thread of the test holds; lists are read on it. The server of the test runs on threads
//! of its own, which are not counted.

#[path = "../../../tests/fake_hub.rs"]
mod fake_hub;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

use fake_hub::{COMMIT, FakeHub, Repo, Response};
use quern_hub::{Hub, Patience, PullOptions, Settings};
use quern_tensor_io::NoProgress;

struct Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    let held = HELD.get() + bytes;
    HELD.set(held);
    PEAK.set(PEAK.get().max(held));
}

// SAFETY: every call goes to the system's allocator as it came; only numbers are added up beside.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: as for this function.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: as for this function.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as isize - layout.size() as isize);
        // SAFETY: as for this function.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const MOST: isize = 64 << 20;

/// Pulls from a server and returns the sentence; the peak must be in bounds.
fn measured(what: &str, server: &FakeHub, options: &PullOptions) -> String {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings {
        endpoint: server.endpoint().parse().unwrap(),
        cache: dir.path().join("hub"),
        token: None,
        offline: false,
        timeout: Duration::from_secs(60),
        patience: Patience::default(),
        backoff: Duration::from_millis(1),
        connections: 1,
        proxy: None,
    };
    let hub = Hub::new(settings).unwrap();
    let before = HELD.get();
    PEAK.set(before);
    let result = hub.pull(&"o/n".parse().unwrap(), options, &NoProgress);
    let (peak, received) = (PEAK.get() - before, server.sent() as isize);
    let text = result.err().map(|e| e.to_string()).unwrap_or_default();
    println!("{what}: peak {} KiB, received {} KiB; {text:.200}", peak >> 10, received >> 10);
    assert!(peak <= received + MOST, "{what}: {peak} bytes for {received} received");
    text
}

fn at(place: &'static str, answer: impl Fn(usize) -> Response + Send + Sync + 'static) -> FakeHub {
    let repo = Repo::new("o/n").small("config.json", "{}");
    FakeHub::hooked(repo, move |r| {
        let page = r.target.split("cursor=").nth(1).map_or(0, |at| at.parse().unwrap());
        r.target.contains(place).then(|| answer(page))
    })
}

/// Pages without end, each with as many of these entries as fit.
fn pages(entry: impl Fn(usize) -> String + Send + Sync + 'static) -> FakeHub {
    at("/tree/", move |page| {
        let (mut body, mut number) = ("[".to_owned(), 0);
        while body.len() < 8_000_000 {
            body += if number == 0 { "" } else { "," };
            body += &entry(page * 1_000_000 + number);
            number += 1;
        }
        Response::new(200, body + "]")
            .with("Link", format!("<?recursive=true&cursor={}>; rel=\"next\"", page + 1))
    })
}

#[test]
fn lists_take_no_more_than_they_are() {
    let all = PullOptions { include: vec!["*".to_owned()], ..PullOptions::default() };
    let usual = PullOptions::default();
    // The shortest entries there are, names of the longest kind, names that are refused, entries that are no files.
    type Entry = fn(usize) -> String;
    let entries: [(&str, Entry); 6] = [
        ("short entries", |at| format!(r#"{{"type":"file","path":"{at:x}"}}"#)),
        ("whole entries", |at| format!(r#"{{"type":"file","path":"{at:x}","size":1,"oid":"{COMMIT}"}}"#)),
        ("long names", |at| format!(r#"{{"type":"file","path":"{at:x}/{}"}}"#, "y/".repeat(500))),
        ("names that are refused", |at| format!(r#"{{"type":"file","path":"../{at:x}"}}"#)),
        ("one name of a page", |_| format!(r#"{{"type":"file","path":"{}"}}"#, "x".repeat(7_900_000))),
        ("folders", |at| format!(r#"{{"type":"directory","path":"{at:x}"}}"#)),
    ];
    for (what, entry) in entries {
        let text = measured(what, &pages(entry), &usual);
        let bounded = text.contains("lists more than") || text.contains("answers with more than");
        assert!(bounded, "{what}: {text}");
    }
    // As many files as a list may have, all of them wanted.
    let many = at("/tree/", |page| {
        let entry =
            |at| format!(r#"{{"type":"file","path":"{page}/{at}","size":{},"oid":"{COMMIT}"}}"#, 1_u64 << 40);
        let list = (0..50_000).map(entry).collect::<Vec<_>>().join(",");
        let response = Response::new(200, format!("[{list}]"));
        match page {
            4 => response,
            _ => response.with("Link", format!("<?recursive=true&cursor={}>; rel=\"next\"", page + 1)),
        }
    });
    assert!(measured("250000 files, all wanted", &many, &all).contains("the disk has"));
}

#[test]
fn answers_without_end_or_of_a_strange_form_take_little() {
    let usual = PullOptions::default();
    let head = "HTTP/1.1 200 OK\r\n";
    let chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\n");
    let cases: [(&str, String, Vec<u8>); 6] = [
        ("blanks", format!("{head}Connection: close\r\n\r\n"), vec![b' '; 1 << 16]),
        ("brackets", format!("{head}Connection: close\r\n\r\n"), vec![b'['; 1 << 16]),
        ("header fields", head.to_owned(), format!("X-A: {}\r\n", "a".repeat(8000)).into()),
        ("a header line", format!("{head}X: "), vec![b'a'; 1 << 16]),
        ("a chunk's length", format!("{chunked}f"), vec![b'f'; 1 << 16]),
        ("an extension of a chunk", format!("{chunked}1;"), vec![b'x'; 1 << 16]),
    ];
    for (what, first, again) in cases {
        for place in ["/revision/", "/tree/"] {
            let (first, again) = (first.clone(), again.clone());
            let server = at(place, move |_| Response::endless(first.clone(), again.clone()));
            assert!(!measured(what, &server, &usual).is_empty());
        }
    }
    for (start, because) in [("", "expected a string"), (r#"[{"type":"file","more":"#, "EOF while parsing")] {
        let deep = [start.as_bytes(), &vec![b'['; 7 << 20]].concat();
        let server = at("/tree/", move |_| Response::new(200, deep.clone()));
        let text = measured("nested lists", &server, &usual);
        assert!(text.contains(because), "{text}");
    }
    let siblings = at("/revision/", |_| {
        let names =
            (0..700_000).map(|at| format!(r#"{{"rfilename":"{at:x}"}}"#)).collect::<Vec<_>>().join(",");
        Response::new(200, format!(r#"{{"sha":"{COMMIT}","siblings":[{names}]}}"#))
    });
    assert!(measured("siblings beside a tree", &siblings, &usual).contains("no model there"));
}

#[test]
fn an_index_of_shards_takes_no_more_than_it_is() {
    // Tensors of the shortest names in files that differ: each is refused at once if the repository has it not.
    let index = |entry: fn(usize) -> String| {
        let map = (0..1_000_000).map(entry).collect::<Vec<_>>().join(",");
        let repo = Repo::new("o/n")
            .small("config.json", "{}")
            .small("model.safetensors.index.json", format!(r#"{{"weight_map":{{{map}}}}}"#));
        FakeHub::new(repo)
    };
    let text = measured("many files", &index(|at| format!(r#""{at:x}":"{at:x}""#)), &PullOptions::default());
    assert!(text.contains("names more than 100000 files"), "{text}");
    let text = measured("many tensors", &index(|at| format!(r#""{at:x}":"a""#)), &PullOptions::default());
    assert!(text.contains(r#"the shard "a", which the repository does not hold"#), "{text}");
}
