//! Pulling from a Hub that answers correctly.

use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::thread;

use quern_hub::{FileSource, Name, PullOptions, PullProgress, PulledFile};
use quern_tensor_io::{NoProgress, Remedy};

use crate::fake_hub::{COMMIT, FakeHub, Repo, Response, noise};
use crate::{Place, all_files, sharded};

fn paths(files: &[PulledFile]) -> Vec<&str> {
    files.iter().map(|f| f.path.as_str()).collect()
}

fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(|n| (*n).to_owned()).collect()
}

#[test]
fn what_the_model_needs_comes_into_the_layout_python_shares() {
    let server = FakeHub::new(sharded());
    let place = Place::new(&server);
    let pulled = place.pull("org/model").unwrap();
    assert_eq!(pulled.commit, COMMIT);
    let expected = [
        "model.safetensors.index.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "config.json",
        "tokenizer.json",
    ];
    assert_eq!(paths(&pulled.files), expected);
    assert!(pulled.files.iter().all(|f| f.source == FileSource::Hub { resumed: 0 }));

    let root = place.settings.cache.join("models--org--model");
    assert_eq!(fs::read_to_string(root.join("refs/main")).unwrap(), COMMIT);
    assert_eq!(pulled.folder, root.join("snapshots").join(COMMIT));
    assert_eq!(pulled.model.unwrap(), pulled.folder.join("model.safetensors.index.json"));
    for name in expected {
        let content = &sharded().files[name];
        let link = fs::read_link(pulled.folder.join(name)).unwrap();
        assert_eq!(link, Path::new("../../blobs").join(content.etag()));
        assert_eq!(fs::read(pulled.folder.join(name)).unwrap(), content.bytes);
    }
    assert_eq!(fs::read_dir(root.join("blobs")).unwrap().count(), expected.len());
    assert!(
        all_files(&place.settings.cache.join(".locks/models--org--model"))
            .contains(&format!("{}.lock", sharded().files["config.json"].etag()))
    );
}

#[test]
fn what_is_there_is_not_fetched_again_and_can_be_used_offline() {
    let server = FakeHub::new(sharded());
    let mut place = Place::new(&server);
    place.pull("org/model").unwrap();
    let before = server.file_requests().len();
    let again = place.pull("org/model").unwrap();
    assert_eq!(server.file_requests().len(), before);
    assert!(again.files.iter().all(|f| f.source == FileSource::Cache));

    let asked = server.requests().len();
    place.settings.offline = true;
    for name in ["org/model", &format!("org/model@{COMMIT}")] {
        let offline = place.pull(name).unwrap();
        assert_eq!((paths(&offline.files), offline.model), (paths(&again.files), again.model.clone()));
    }
    let absent = place.pull("org/other").unwrap_err();
    assert!(absent.to_string().contains("not in the cache"), "{absent}");
    assert_eq!(absent.remedy(), Some(Remedy::GoOnline));
    let revision = place.pull("org/model@v2").unwrap_err().to_string();
    assert!(revision.contains("not in the cache"), "{revision}");
    fs::remove_file(again.folder.join("model-00002-of-00002.safetensors")).unwrap();
    let gap = place.pull("org/model").unwrap_err().to_string();
    assert!(gap.contains("not complete in the cache") && gap.contains("model-00002"), "{gap}");
    assert_eq!(server.requests().len(), asked);
}

#[test]
fn a_model_argument_is_found_in_the_cache_or_pulled() {
    let server = FakeHub::new(sharded());
    let place = Place::new(&server);
    let name: Name = "org/model".parse().unwrap();
    let first = place.hub().locate(&name, &NoProgress).unwrap();
    assert!(first.model.ends_with("model.safetensors.index.json"));
    let asked = server.requests().len();
    assert_eq!(place.hub().locate(&name, &NoProgress).unwrap().model, first.model);
    assert_eq!(server.requests().len(), asked, "a model that is whole in the cache needs no network");
}

#[test]
fn without_a_choice_the_hub_is_asked_which_gguf_it_is() {
    let repo = Repo::new("o/g").large("m-Q4_K_M.gguf", noise(100, 1)).large("m-Q8_0.gguf", noise(100, 2));
    let server = FakeHub::new(repo);
    let place = Place::new(&server);
    let locate = |name: &str| place.hub().locate(&name.parse().unwrap(), &NoProgress).unwrap();
    assert!(locate("o/g:Q8_0").model.ends_with("m-Q8_0.gguf"));
    assert!(locate("o/g").model.ends_with("m-Q4_K_M.gguf"), "not what happens to be in the cache");
    // No server: the cache is used, with a note.
    let mut gone = Place::new(&server);
    gone.settings.cache = place.settings.cache.clone();
    gone.settings.endpoint = "http://127.0.0.1:1".parse().unwrap();
    let located = gone.hub().locate(&"o/g".parse().unwrap(), &NoProgress).unwrap();
    assert!(located.model.ends_with("m-Q4_K_M.gguf"));
    assert!(located.notes[0].contains("no connection") && located.notes[0].contains("cache"), "{located:?}");
}

#[test]
fn gguf_splits_and_folders() {
    let repo = Repo::new("o/g")
        .large("Q4_K_M/m-Q4_K_M-00001-of-00002.gguf", noise(100, 1))
        .large("Q4_K_M/m-Q4_K_M-00002-of-00002.gguf", noise(100, 2))
        .large("mmproj-Q4_K_M.gguf", noise(100, 3))
        .small("config.json", "{}");
    let server = FakeHub::new(repo);
    let place = Place::new(&server);
    let pulled = place.pull("o/g").unwrap();
    assert_eq!(
        paths(&pulled.files),
        ["Q4_K_M/m-Q4_K_M-00001-of-00002.gguf", "Q4_K_M/m-Q4_K_M-00002-of-00002.gguf"]
    );
    let link = fs::read_link(pulled.model.unwrap()).unwrap();
    assert!(link.starts_with("../../../blobs"), "{}", link.display());
    let refused = place.pull("o/g:Q5_K_M").unwrap_err().to_string();
    assert!(refused.contains("no quantization Q5_K_M") && refused.contains("m-Q4_K_M-00001"), "{refused}");
}

#[test]
fn patterns_take_what_they_match() {
    let server = FakeHub::new(sharded());
    let place = Place::new(&server);
    let include = |include: &[&str], exclude: &[&str]| {
        let options =
            PullOptions { include: names(include), exclude: names(exclude), ..PullOptions::default() };
        place.pull_with("org/model", &options)
    };
    let readme = include(&["LIC*", "onnx/"], &[]).unwrap();
    assert_eq!((paths(&readme.files), readme.model), (vec!["LICENSE", "onnx/model.onnx"], None));
    let some = include(&[], &["*00002-of*", "tokenizer*"]).unwrap();
    assert_eq!(
        paths(&some.files),
        ["model.safetensors.index.json", "model-00001-of-00002.safetensors", "config.json"]
    );
    assert!(include(&["*.gguf"], &[]).unwrap_err().to_string().contains("no file matches"));
}

#[test]
fn a_long_list_comes_in_pages_and_names_are_escaped() {
    let mut repo = sharded().small("some #1 file?.txt", "strange");
    for i in 0..50 {
        repo = repo.small(&format!("extra/{i:03}.txt"), format!("{i}"));
    }
    let server = FakeHub::with(vec![repo], 7, |_| None);
    let place = Place::new(&server);
    let options = PullOptions { include: names(&["*.txt"]), ..PullOptions::default() };
    assert_eq!(place.pull_with("org/model", &options).unwrap().files.len(), 51);
    let pages = server.requests().into_iter().filter(|r| r.target.contains("/tree/")).count();
    assert_eq!(pages, 61usize.div_ceil(7));
}

#[test]
fn a_mirror_without_a_tree_is_asked_file_by_file() {
    let server = FakeHub::hooked(sharded(), |r| r.target.contains("/tree/").then(|| Response::new(404, "")));
    let place = Place::new(&server);
    assert_eq!(place.pull("org/model").unwrap().files.len(), 5);
    let heads =
        server.requests().into_iter().filter(|r| r.method == "HEAD" && r.target.contains("/resolve/"));
    assert_eq!(heads.count(), 5);
}

#[test]
fn several_files_come_at_once_but_not_all() {
    static OPEN: Mutex<(usize, usize)> = Mutex::new((0, 0));
    let mut repo = Repo::new("org/model");
    for i in 0..20 {
        repo = repo.large(&format!("{i}.bin"), noise(1000, i));
    }
    let server = FakeHub::hooked(repo, |r| {
        if r.at_storage {
            let mut open = OPEN.lock().unwrap();
            open.0 += 1;
            open.1 = open.1.max(open.0);
            drop(open);
            thread::sleep(std::time::Duration::from_millis(20));
            OPEN.lock().unwrap().0 -= 1;
        }
        None
    });
    let place = Place::new(&server);
    let options = PullOptions { include: names(&["*"]), ..PullOptions::default() };
    place.pull_with("org/model", &options).unwrap();
    let most = OPEN.lock().unwrap().1;
    assert!((2..=4).contains(&most), "{most} at once");
}

#[test]
fn the_same_content_under_two_names_comes_once() {
    let server = FakeHub::new(Repo::new("o/n").large("a.bin", noise(999, 1)).large("b.bin", noise(999, 1)));
    let place = Place::new(&server);
    let options = PullOptions { include: names(&["*"]), ..PullOptions::default() };
    let pulled = place.pull_with("o/n", &options).unwrap();
    assert_eq!(server.file_requests().len(), 1);
    assert_eq!(fs::read(pulled.folder.join("b.bin")).unwrap(), noise(999, 1));
}

#[test]
fn two_pulls_at_once_share_the_work() {
    // Slow enough that both are there before the first has finished.
    let server = FakeHub::hooked(sharded(), |r| {
        if r.at_storage {
            thread::sleep(std::time::Duration::from_millis(100));
        }
        None
    });
    let place = Place::new(&server);
    thread::scope(|scope| {
        let pulls: Vec<_> = (0..3).map(|_| scope.spawn(|| place.pull("org/model").unwrap())).collect();
        for pull in pulls {
            let pulled = pull.join().unwrap();
            for (name, content) in &sharded().files {
                if pulled.files.iter().any(|f| f.path == *name) {
                    assert_eq!(fs::read(pulled.folder.join(name)).unwrap(), content.bytes);
                }
            }
        }
    });
    let from_storage = server.requests().iter().filter(|r| r.at_storage).count();
    assert_eq!(from_storage, 2, "each large file once");
}

#[test]
fn forced_it_is_fetched_again() {
    let server = FakeHub::new(sharded());
    let place = Place::new(&server);
    let pulled = place.pull("org/model").unwrap();
    let blob = fs::canonicalize(pulled.folder.join("config.json")).unwrap();
    fs::write(&blob, r#"{"model_type":"lying"}"#).unwrap();
    let options = PullOptions { force: true, ..PullOptions::default() };
    place.pull_with("org/model", &options).unwrap();
    assert_eq!(fs::read(blob).unwrap(), sharded().files["config.json"].bytes);
}

#[test]
fn progress_counts_every_byte() {
    #[derive(Default)]
    struct Watch(Mutex<Vec<String>>);
    impl PullProgress for Watch {
        fn total(&self, files: usize, bytes: u64) {
            self.0.lock().unwrap().push(format!("total {files} {bytes}"));
        }
        fn start(&self, file: &str, bytes: u64) {
            self.0.lock().unwrap().push(format!("start {file} {bytes}"));
        }
        fn at(&self, file: &str, bytes: u64) {
            self.0.lock().unwrap().push(format!("at {file} {bytes}"));
        }
        fn done(&self, file: &str) {
            self.0.lock().unwrap().push(format!("done {file}"));
        }
    }
    let server = FakeHub::new(Repo::new("o/n").large("m.gguf", noise(600_000, 1)));
    let place = Place::new(&server);
    let watch = Watch::default();
    place.hub().pull(&"o/n".parse().unwrap(), &PullOptions::default(), &watch).unwrap();
    let seen = watch.0.into_inner().unwrap();
    assert_eq!(seen[..3], ["total 1 600000", "start m.gguf 600000", "at m.gguf 0"]);
    assert_eq!(seen[seen.len() - 2..], ["at m.gguf 600000", "done m.gguf"]);
}
