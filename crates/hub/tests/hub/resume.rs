//! Interrupted transfers, and how they resume.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use quern_hub::FileSource;
use quern_tensor_io::Remedy;

use crate::fake_hub::{Content, FakeHub, Repo, Request, Response, noise};
use crate::{Place, all_files};

const LENGTH: usize = 3 << 20;

fn repo() -> Repo {
    Repo::new("o/n").large("m.gguf", noise(LENGTH, 7))
}

fn content() -> Content {
    repo().files["m.gguf"].clone()
}

fn ranges(server: &FakeHub) -> Vec<Option<String>> {
    let at_storage = server.requests().into_iter().filter(|r| r.at_storage);
    at_storage.map(|r| r.header("Range").map(str::to_owned)).collect()
}

/// A correct answer of the storage to this request, to be damaged.
fn answer(request: &Request) -> Response {
    let bytes = content().bytes;
    match request.header("Range") {
        None => Response::new(200, bytes),
        Some(range) => {
            let first: usize = range.trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap();
            let range = format!("bytes {first}-{}/{LENGTH}", LENGTH - 1);
            Response::new(206, &bytes[first..]).with("Content-Range", range)
        }
    }
}

/// The file's part in the cache, as a broken pull leaves it.
fn put_part(place: &Place, bytes: &[u8]) {
    let blobs = place.settings.cache.join("models--o--n/blobs");
    fs::create_dir_all(&blobs).unwrap();
    fs::write(blobs.join(format!("{}.incomplete", content().etag())), bytes).unwrap();
}

fn pulled_well(place: &Place) -> FileSource {
    let pulled = place.pull("o/n").unwrap();
    assert_eq!(fs::read(pulled.model.unwrap()).unwrap(), content().bytes);
    assert!(all_files(&place.settings.cache).iter().all(|f| !f.ends_with(".incomplete")));
    pulled.files[0].source
}

#[test]
fn a_broken_connection_is_resumed_where_it_broke() {
    let server = FakeHub::hooked(repo(), |r| {
        let cut = r.at_storage && r.header("Range").is_none();
        cut.then(|| Response { cut: Some(1_000_000), ..answer(r) })
    });
    let place = Place::new(&server);
    assert_eq!(pulled_well(&place), FileSource::Hub { resumed: 0 });
    let ranges = ranges(&server);
    assert_eq!(ranges.len(), 2);
    let first: usize = ranges[1].as_ref().unwrap()["bytes=".len()..].trim_end_matches('-').parse().unwrap();
    assert!(0 < first && first <= 1_000_000, "{first}");
}

#[test]
fn a_connection_that_always_breaks_ends_with_an_error_and_the_next_pull_goes_on() {
    static DOWN: AtomicUsize = AtomicUsize::new(1);
    let server = FakeHub::hooked(repo(), |r| {
        let down = r.at_storage && DOWN.load(Ordering::Relaxed) == 1;
        down.then(|| Response {
            cut: Some(if r.header("Range").is_none() { 500_000 } else { 0 }),
            ..answer(r)
        })
    });
    let place = Place::new(&server);
    let error = place.refused("o/n");
    assert!(error.contains("m.gguf: the connection broke"), "{error}");
    assert!(!error.contains("X-Signature"), "{error}");
    assert_eq!(ranges(&server).len(), 5, "bounded");
    DOWN.store(0, Ordering::Relaxed);
    let FileSource::Hub { resumed } = pulled_well(&place) else { panic!("from the Hub") };
    assert!(resumed > 0);
}

#[test]
fn a_part_left_by_python_is_resumed() {
    let server = FakeHub::new(repo());
    let place = Place::new(&server);
    put_part(&place, &content().bytes[..1234]);
    assert_eq!(pulled_well(&place), FileSource::Hub { resumed: 1234 });
    assert_eq!(ranges(&server), [Some("bytes=1234-".to_owned())]);
}

#[test]
fn a_part_that_is_whole_needs_no_request() {
    let server = FakeHub::new(repo());
    let place = Place::new(&server);
    put_part(&place, &content().bytes);
    assert_eq!(pulled_well(&place), FileSource::Hub { resumed: LENGTH as u64 });
    assert_eq!(ranges(&server), []);
}

#[test]
fn a_part_of_something_else_is_noticed_and_fetched_from_the_start() {
    for part in [vec![0; 1234], vec![0; LENGTH], vec![0; LENGTH + 1]] {
        let server = FakeHub::new(repo());
        let place = Place::new(&server);
        put_part(&place, &part);
        assert_eq!(pulled_well(&place), FileSource::Hub { resumed: 0 });
        assert_eq!(ranges(&server).last().unwrap(), &None);
    }
}

#[test]
fn a_server_that_ignores_ranges_sends_all_again() {
    let server = FakeHub::hooked(repo(), |r| r.at_storage.then(|| Response::new(200, content().bytes)));
    let place = Place::new(&server);
    put_part(&place, &content().bytes[..1234]);
    assert_eq!(pulled_well(&place), FileSource::Hub { resumed: 0 });
    assert_eq!(ranges(&server).len(), 1);
}

#[test]
fn a_server_that_knows_no_such_range_is_asked_for_all() {
    let server = FakeHub::hooked(repo(), |r| {
        (!r.at_storage && r.header("Range").is_some() && r.target.contains("/resolve/"))
            .then(|| Response::new(416, ""))
    });
    let place = Place::new(&server);
    put_part(&place, &content().bytes[..1234]);
    assert_eq!(pulled_well(&place), FileSource::Hub { resumed: 0 });
}

#[test]
fn a_range_other_than_asked_for_is_refused() {
    let server = FakeHub::hooked(repo(), |r| {
        r.at_storage.then(|| {
            let range = format!("bytes 1000-{}/{LENGTH}", LENGTH - 1);
            Response::new(206, &content().bytes[1000..]).with("Content-Range", range)
        })
    });
    let place = Place::new(&server);
    put_part(&place, &content().bytes[..1234]);
    let error = place.refused("o/n");
    assert!(error.contains("bytes 1000 to") && error.contains("asked for 1234"), "{error}");
}

#[test]
fn overload_passes_after_a_while() {
    for status in [429, 500, 502, 503, 504] {
        let failures = AtomicUsize::new(0);
        let server = FakeHub::hooked(repo(), move |r| {
            let busy = r.target.contains("/resolve/") || r.target.contains("/revision/");
            (busy && failures.fetch_add(1, Ordering::Relaxed) % 3 != 2)
                .then(|| Response::new(status, "").with("Retry-After", "0"))
        });
        assert_eq!(pulled_well(&Place::new(&server)), FileSource::Hub { resumed: 0 });
    }
}

#[test]
fn overload_that_stays_is_reported() {
    let server = FakeHub::hooked(repo(), |_| Some(Response::new(503, "")));
    let place = Place::new(&server);
    let error = place.refused("o/n");
    assert!(error.contains("status 503") && error.contains("try again later"), "{error}");
    assert_eq!(server.requests().len(), 5, "bounded");

    let server = FakeHub::hooked(repo(), |_| Some(Response::new(429, "").with("Retry-After", "3600")));
    let place = Place::new(&server);
    let error = place.refused("o/n");
    assert!(error.contains("no more requests") && error.contains("HF_TOKEN"), "{error}");
    assert_eq!(server.requests().len(), 1, "nobody waits an hour");
}

#[test]
fn a_signed_address_that_has_expired_is_requested_again() {
    let first = AtomicUsize::new(0);
    let server = FakeHub::hooked(repo(), move |r| {
        (r.at_storage && first.fetch_add(1, Ordering::Relaxed) == 0).then(|| Response::new(403, "expired"))
    });
    assert_eq!(pulled_well(&Place::new(&server)), FileSource::Hub { resumed: 0 });
    assert_eq!(server.file_requests().len(), 2);
}

#[test]
fn a_server_that_falls_silent_is_not_waited_for_forever() {
    let server = FakeHub::hooked(repo(), |r| {
        r.at_storage
            .then(|| Response { stall: Duration::from_secs(2), ..Response::new(200, content().bytes) })
    });
    let mut place = Place::new(&server);
    place.settings.timeout = Duration::from_millis(50);
    let error = place.refused("o/n");
    assert!(
        error.contains("no answer for 0.05 seconds") && error.contains("HF_HUB_DOWNLOAD_TIMEOUT"),
        "{error}"
    );
}

#[test]
fn without_a_server_the_error_says_so() {
    let server = FakeHub::new(repo());
    let mut place = Place::new(&server);
    place.settings.endpoint = "http://127.0.0.1:1".parse().unwrap();
    let error = place.pull("o/n").unwrap_err();
    assert!(error.to_string().contains("no connection to 127.0.0.1"), "{error}");
    assert_eq!(error.remedy(), Some(Remedy::UseCache));
    // No name server is asked for a name with an empty part.
    place.settings.endpoint = "http://a..b".parse().unwrap();
    let error = place.refused("o/n");
    assert!(error.contains("the name a..b is not known"), "{error}");
}
