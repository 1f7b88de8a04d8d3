//! `quern pull` killed at random moments: nothing half written has a final name, and the next pull completes the cache
//! and leaves nothing beside it. `QUERN_KILLS=100` kills more often than CI does.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use sha2::Digest as _;

use crate::common::{stderr, stdout};
use crate::fake_hub::{COMMIT, FakeHub, Repo, git, hex, noise};
use crate::hub::at;

/// Kills without the variable.
const USUAL: u64 = 9;

fn repo() -> Repo {
    let shard = |n| format!("model-0000{n}-of-00002.safetensors");
    let index = format!(r#"{{"weight_map":{{"a":"{}","b":"{}"}}}}"#, shard(1), shard(2));
    Repo::new("o/n")
        .small("config.json", r#"{"model_type":"llama"}"#)
        .small("tokenizer.json", noise(50_000, 1))
        .small("model.safetensors.index.json", index)
        .large(&shard(1), noise(3_000_000, 2))
        .large(&shard(2), noise(700_000, 3))
}

/// A number that differs with every kill and is the same in every run of the test.
fn random(kill: u64, below: u64) -> u64 {
    u64::from_le_bytes(noise(8, kill + 100)[..8].try_into().unwrap()) % below
}

/// Every file and link below a folder.
fn below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(below(&entry.path())),
            false => found.push(entry.path()),
        }
    }
    found
}

/// What has a final name is whole, whenever the pull was stopped.
fn nothing_half_written(cache: &Path) {
    for path in below(cache) {
        let name = path.file_name().unwrap().to_str().unwrap();
        match path.parent().unwrap().file_name().unwrap().to_str().unwrap() {
            "blobs" if name.ends_with(".incomplete") => {}
            "blobs" => {
                let bytes = fs::read(&path).unwrap();
                assert!(
                    [git(&bytes), hex(&sha2::Sha256::digest(&bytes))].contains(&name.to_owned()),
                    "{name}"
                );
            }
            "refs" => assert_eq!(fs::read_to_string(&path).unwrap(), COMMIT),
            COMMIT => {
                let content = fs::read(&path).unwrap();
                assert_eq!(
                    content,
                    repo().files[name].bytes,
                    "{name}: a link to nothing, or to something else"
                );
            }
            _ => {}
        }
    }
}

/// Starts a pull, and kills it when the server has had some requests and a little more time has passed.
fn killed(server: &FakeHub, home: &Path, args: &[&str], kill: u64) {
    let mut command = at(server, home);
    let mut child = command.args(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let before = server.requests().len();
    let requests = random(kill, 12) as usize;
    while server.requests().len() < before + requests && child.try_wait().unwrap().is_none() {
        thread::sleep(Duration::from_millis(1));
    }
    thread::sleep(Duration::from_micros(random(kill + 1000, 25_000)));
    let signal = ["KILL", "INT", "TERM"][kill as usize % 3];
    // It may have ended by itself.
    let _ = Command::new("kill")
        .args([&format!("-{signal}"), &child.id().to_string()])
        .stderr(Stdio::null())
        .status();
    child.wait().unwrap();
}

fn kills() -> u64 {
    std::env::var("QUERN_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(USUAL)
}

/// A server that takes its time for every answer, so that there is something to interrupt.
fn server() -> FakeHub {
    FakeHub::hooked(repo(), |_| {
        thread::sleep(Duration::from_millis(8));
        None
    })
}

#[test]
fn a_killed_pull_leaves_a_cache_that_the_next_completes() {
    let server = server();
    for kill in 0..kills() {
        let home = tempfile::tempdir().unwrap();
        let cache = home.path().join(".cache/huggingface/hub");
        // Some are killed twice.
        for again in 0..=kill % 2 {
            killed(&server, home.path(), &["pull", "o/n"], 10 * kill + again);
            nothing_half_written(&cache);
        }
        let output = at(&server, home.path()).args(["pull", "o/n"]).output().unwrap();
        assert!(stdout(&output).contains(COMMIT), "{}", stderr(&output));
        nothing_half_written(&cache);
        let root = cache.join("models--o--n");
        let names = |folder: &str| {
            let mut names: Vec<_> = below(&root.join(folder))
                .iter()
                .map(|p| p.file_name().unwrap().to_str().unwrap().to_owned())
                .collect();
            names.sort();
            names
        };
        let mut etags: Vec<_> = repo().files.values().map(|content| content.etag()).collect();
        etags.sort();
        assert_eq!(names("blobs"), etags);
        assert_eq!(names(".quern"), etags, "notes, and no link that has no name yet");
        assert_eq!(names("refs"), ["main"]);
        assert_eq!(names("snapshots"), repo().files.keys().cloned().collect::<Vec<_>>());
    }
}

#[test]
fn a_killed_pull_into_a_folder_is_completed_by_the_next() {
    let server = server();
    for kill in 0..kills().div_ceil(3) {
        let home = tempfile::tempdir().unwrap();
        let output = home.path().join("out/model");
        fs::create_dir(home.path().join("out")).unwrap();
        let args = ["pull", "o/n", "-o", output.to_str().unwrap()];
        killed(&server, home.path(), &args, 7 * kill + 3);
        let whole = || {
            for (name, content) in &repo().files {
                assert_eq!(fs::read(output.join(name)).unwrap(), content.bytes, "{name}");
            }
        };
        match output.exists() {
            true => whole(),
            false => {
                stdout(&at(&server, home.path()).args(args).output().unwrap());
                whole();
                let beside: Vec<_> =
                    fs::read_dir(home.path().join("out")).unwrap().map(|e| e.unwrap().file_name()).collect();
                assert!(!beside.iter().any(|n| n.to_string_lossy().ends_with(".pull")), "{beside:?}");
            }
        }
    }
}
