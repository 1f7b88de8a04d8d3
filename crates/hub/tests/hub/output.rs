//! Plain files in a folder: all of them or none.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use quern_hub::{FileSource, PullOptions};

use crate::fake_hub::{FakeHub, Repo, Response, noise};
use crate::{Place, all_files, sharded};

fn to(place: &Place, force: bool) -> (PathBuf, PullOptions) {
    let path = place.path().join("model");
    (path.clone(), PullOptions { output: Some(path), force, ..PullOptions::default() })
}

#[test]
fn plain_files_and_nothing_else() {
    let server = FakeHub::new(sharded());
    let place = Place::new(&server);
    let (path, options) = to(&place, false);
    let pulled = place.pull_with("org/model", &options).unwrap();
    assert_eq!(
        (pulled.folder, pulled.model),
        (path.clone(), Some(path.join("model.safetensors.index.json")))
    );
    let expected = [
        "config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
    ];
    assert_eq!(all_files(&path), expected);
    for name in expected {
        assert!(fs::symlink_metadata(path.join(name)).unwrap().is_file());
        assert_eq!(fs::read(path.join(name)).unwrap(), sharded().files[name].bytes);
    }
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1, "no cache, nothing else beside the folder");
}

#[test]
fn an_existing_folder_is_refused_before_a_byte_and_replaced_by_force() {
    let server = FakeHub::new(sharded());
    let place = Place::new(&server);
    let (path, options) = to(&place, false);
    fs::create_dir(&path).unwrap();
    fs::write(path.join("config.json"), "old").unwrap();
    let error = place.pull_with("org/model", &options).unwrap_err().to_string();
    assert!(error.contains("already exists") && server.requests().is_empty(), "{error}");
    place.pull_with("org/model", &to(&place, true).1).unwrap();
    assert_eq!(fs::read(path.join("config.json")).unwrap(), sharded().files["config.json"].bytes);
}

#[test]
fn a_broken_pull_leaves_no_folder_and_is_resumed() {
    static DOWN: AtomicBool = AtomicBool::new(true);
    let repo = || Repo::new("o/n").large("m.gguf", noise(2 << 20, 1)).large("d/n.gguf", noise(1000, 2));
    let server = FakeHub::hooked(repo(), move |r| {
        let down = r.at_storage && DOWN.load(Ordering::Relaxed);
        let bytes = &repo().files["m.gguf"].bytes;
        down.then(|| Response {
            cut: Some(if r.header("Range").is_none() { 1 << 20 } else { 0 }),
            ..match r.header("Range") {
                None => Response::new(200, bytes.clone()),
                Some(range) => {
                    let first: usize = range["bytes=".len()..].trim_end_matches('-').parse().unwrap();
                    Response::new(206, &bytes[first..])
                        .with("Content-Range", format!("bytes {first}-{}/{}", bytes.len() - 1, bytes.len()))
                }
            }
        })
    });
    let place = Place::new(&server);
    let (path, options) = to(&place, false);
    place.pull_with("o/n:m.gguf", &options).unwrap_err();
    assert!(!path.exists());
    DOWN.store(false, Ordering::Relaxed);
    let pulled = place.pull_with("o/n:m.gguf", &options).unwrap();
    let FileSource::Hub { resumed } = pulled.files[0].source else { panic!("from the Hub") };
    assert!(resumed > 0);
    assert_eq!(fs::read(path.join("m.gguf")).unwrap(), repo().files["m.gguf"].bytes);
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
}

#[test]
fn failing_at_once_leaves_nothing() {
    let server = FakeHub::new(sharded());
    let place = Place::new(&server);
    let (_, options) = to(&place, false);
    place.pull_with("org/other", &options).unwrap_err();
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
}

#[test]
fn what_the_cache_has_is_copied_also_offline() {
    let server = FakeHub::new(sharded());
    let mut place = Place::new(&server);
    place.pull("org/model").unwrap();
    let before = server.file_requests().len();
    let (path, options) = to(&place, false);
    let pulled = place.pull_with("org/model", &options).unwrap();
    assert!(pulled.files.iter().all(|f| f.source == FileSource::Cache));
    assert_eq!(server.file_requests().len(), before);
    place.settings.offline = true;
    place.pull_with("org/model", &to(&place, true).1).unwrap();
    assert_eq!(all_files(&path).len(), 5);
    assert!(fs::symlink_metadata(path.join("config.json")).unwrap().is_file());
}

#[test]
fn two_into_one_folder_do_not_mix() {
    let server = FakeHub::new(sharded());
    let place = Place::new(&server);
    let (path, options) = to(&place, false);
    let work = place.path().join(".model.pull");
    fs::create_dir(&work).unwrap();
    let lock = fs::File::create(work.join("lock")).unwrap();
    lock.lock().unwrap();
    let error = place.pull_with("org/model", &options).unwrap_err().to_string();
    assert!(error.contains("another process is pulling into this folder"), "{error}");
    drop(lock);
    place.pull_with("org/model", &options).unwrap();
    assert_eq!(all_files(&path).len(), 5);
}
