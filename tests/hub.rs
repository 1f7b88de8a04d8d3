//! `quern pull`, and models by their names on the Hub, against a server on this machine.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::common::{command, failure, fixture, quern, stderr, stdout};
use crate::fake_hub::{COMMIT, FakeHub, Repo, Response};

/// quern in an environment with only this server and a home directory of its own.
pub fn at(server: &FakeHub, home: &Path) -> Command {
    let mut command = command();
    for (key, _) in std::env::vars_os() {
        let name = key.to_string_lossy().to_ascii_uppercase();
        if name.starts_with("HF_")
            || name.starts_with("HUGGING")
            || name.ends_with("_PROXY")
            || name.ends_with("OFFLINE")
        {
            command.env_remove(key);
        }
    }
    command.env_remove("XDG_CACHE_HOME").env("HOME", home).env("HF_ENDPOINT", server.endpoint());
    command
}

fn run(server: &FakeHub, home: &Path, args: &[&str]) -> Output {
    at(server, home).args(args).output().unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_str(&stdout(output)).unwrap()
}

fn bookworm() -> Repo {
    Repo::new("quern/bookworm").folder(&fixture("bookworm-4m")).small("LICENSE", "words")
}

fn bookworm_gguf() -> Repo {
    let file = fs::read(fixture("bookworm-4m-Q4_K_M.gguf")).unwrap();
    Repo::new("quern/bookworm-GGUF").large("bookworm-4m-Q4_K_M.gguf", file).small("README.md", "words")
}

#[test]
fn a_model_is_pulled_and_runs_by_its_name() {
    let (server, home) = (FakeHub::new(bookworm()), tempfile::tempdir().unwrap());
    let text = stdout(&run(&server, home.path(), &["pull", "quern/bookworm"]));
    assert!(text.contains("model.safetensors") && text.contains(COMMIT), "{text}");
    assert!(!text.contains("LICENSE"), "{text}");
    let model = text.trim_end().lines().last().unwrap();
    let snapshot = home.path().join(".cache/huggingface/hub/models--quern--bookworm/snapshots").join(COMMIT);
    assert_eq!(Path::new(model), snapshot.join("model.safetensors"));

    let asked = server.requests().len();
    let prompt = ["-p", "Once upon a time", "-n", "8", "--temp", "0", "--json"];
    let by_name = json(&run(&server, home.path(), &[&["run", "quern/bookworm"], &prompt[..]].concat()));
    let by_path = json(&quern([&["run", fixture("bookworm-4m").to_str().unwrap()], &prompt[..]].concat()));
    assert_eq!(by_name["tokens"], by_path["tokens"]);
    let nf4 = home.path().join("nf4");
    stdout(&run(
        &server,
        home.path(),
        &["quantize", "quern/bookworm", "--to", "nf4", "-o", nf4.to_str().unwrap()],
    ));
    assert!(nf4.join("model.safetensors").exists());
    assert_eq!(server.requests().len(), asked, "what is whole in the cache needs no network");
}

#[test]
fn every_command_takes_a_name() {
    let (server, home) = (FakeHub::new(bookworm_gguf()), tempfile::tempdir().unwrap());
    let out = home.path().join("out.gguf");
    let text = fixture("text/validation.txt");
    let (out, text) = (out.to_str().unwrap(), text.to_str().unwrap());
    let name = "quern/bookworm-GGUF:Q4_K_M";
    let small = ["--context", "64", "--chunks", "1"];
    for args in [
        &["quantize", name, "--to", "q2_k", "--allow-requantize", "-o", out][..],
        &[&["perplexity", name, "--text", text, "--reference", name], &small[..]].concat(),
        &["bench", name, "--prompt", "4", "--generate", "2", "-r", "1"],
        &["run", name, "-p", "Once", "-n", "2"],
        &["inspect", name, "--check"],
    ] {
        stdout(&run(&server, home.path(), args));
    }
    assert_eq!(server.file_requests().len(), 1, "it comes once");
}

#[test]
fn json_says_what_came() {
    let (server, home) = (FakeHub::new(bookworm_gguf()), tempfile::tempdir().unwrap());
    let pull = || json(&run(&server, home.path(), &["pull", "quern/bookworm-GGUF@main:Q4_K_M", "--json"]));
    let first = pull();
    let size = fs::metadata(fixture("bookworm-4m-Q4_K_M.gguf")).unwrap().len();
    assert_eq!((&first["commit"], &first["revision"]), (&COMMIT.into(), &"main".into()));
    assert_eq!((&first["bytes"], &first["downloaded"]), (&size.into(), &size.into()));
    assert_eq!(first["files"][0]["path"], "bookworm-4m-Q4_K_M.gguf");
    let second = pull();
    assert_eq!((&second["downloaded"], &second["model"]), (&0.into(), &first["model"]));
    assert_eq!(fs::read(first["model"].as_str().unwrap()).unwrap().len() as u64, size);
}

#[test]
fn into_a_folder_completely_or_not_at_all() {
    let (server, home) = (FakeHub::new(bookworm()), tempfile::tempdir().unwrap());
    let folder = home.path().join("model");
    let args = ["pull", "quern/bookworm", "-o", folder.to_str().unwrap()];
    stdout(&run(&server, home.path(), &args));
    for (name, content) in &bookworm().files {
        let found = fs::read(folder.join(name)).ok();
        assert_eq!(found.as_ref(), (name != "LICENSE").then_some(&content.bytes), "{name}");
    }
    assert!(failure(&run(&server, home.path(), &args)).contains("already exists; pass --force"));
    stdout(&run(&server, home.path(), &[&args[..], &["--force"]].concat()));

    let broken = FakeHub::hooked(bookworm(), |r| r.at_storage.then(|| Response::new(200, "not the weights")));
    let other = home.path().join("other");
    let error =
        failure(&run(&broken, home.path(), &["pull", "quern/bookworm", "-o", other.to_str().unwrap()]));
    assert!(error.contains("announces 15 bytes"), "{error}");
    assert!(!other.exists());
}

#[test]
fn what_is_here_wins_over_the_hub() {
    let (server, home) = (FakeHub::new(bookworm()), tempfile::tempdir().unwrap());
    fs::create_dir(home.path().join("quern")).unwrap();
    fs::copy(fixture("bookworm-4m-Q4_K_M.gguf"), home.path().join("quern/bookworm")).unwrap();
    let inspected = at(&server, home.path())
        .current_dir(home.path())
        .args(["inspect", "quern/bookworm", "--json"])
        .output();
    assert_eq!(json(&inspected.unwrap())["container"], "gguf");
    assert!(server.requests().is_empty());
}

#[test]
fn a_name_that_is_nowhere_gets_an_error_that_says_both() {
    let (server, home) = (FakeHub::new(bookworm()), tempfile::tempdir().unwrap());
    for command in ["inspect", "bench"] {
        let error = failure(&run(&server, home.path(), &[command, "quern/absent"]));
        assert!(error.contains("no file or folder quern/absent here"), "{error}");
        assert!(error.contains("there is no model quern/absent on 127.0.0.1"), "{error}");
    }
    // What cannot be a name is a path alone.
    let error = failure(&run(&server, home.path(), &["inspect", "./quern/absent"]));
    assert!(error.contains("./quern/absent: no such file or directory; a model is a folder"), "{error}");
    assert!(server.requests().iter().all(|r| !r.target.contains("./")), "{error}");
    let usage = run(&server, home.path(), &["pull", "bookworm"]);
    assert_eq!(usage.status.code(), Some(2));
    assert!(stderr(&usage).contains("a model there is called org/name"), "{}", stderr(&usage));
}

/// What people paste: the address of a page or of a file, with the scheme or without.
#[test]
fn addresses_are_names() {
    let (server, home) = (FakeHub::new(bookworm_gguf()), tempfile::tempdir().unwrap());
    let file = "bookworm-4m-Q4_K_M.gguf";
    stdout(&run(&server, home.path(), &["pull", "https://huggingface.co/quern/bookworm-GGUF/tree/main"]));
    for address in [
        "https://huggingface.co/quern/bookworm-GGUF",
        "hf.co/quern/bookworm-GGUF:Q4_K_M",
        "hf://quern/bookworm-GGUF",
        "huggingface.co/quern/bookworm-GGUF/",
        "https://hf-mirror.com/quern/bookworm-GGUF",
        &format!("https://huggingface.co/quern/bookworm-GGUF/blob/main/{file}"),
        &format!("http://huggingface.co/quern/bookworm-GGUF/resolve/main/{file}?download=true"),
    ] {
        let found = json(&run(&server, home.path(), &["inspect", address, "--json"]));
        assert_eq!(found["scheme"], "q4_k_m", "{address}");
    }
    stdout(&run(&server, home.path(), &["run", "hf.co/quern/bookworm-GGUF:Q4_K_M", "-p", "Once", "-n", "1"]));
    assert_eq!(server.file_requests().len(), 1, "it comes once");
    let asked = server.requests().len();
    for (argument, words) in [
        (
            "https://example.com/quern/bookworm",
            "example.com is not the Hub; models are downloaded from the Hub only",
        ),
        ("https://huggingface.co/datasets/quern/text", "datasets, and not of a model"),
        ("quern/bookworm-GGUF/q4.gguf", "is written quern/bookworm-GGUF:q4.gguf"),
    ] {
        let error = failure(&run(&server, home.path(), &["run", argument, "-p", "x"]));
        assert!(error.contains(words), "{error}");
        assert_eq!(error.matches(argument).count(), 1, "{error}");
    }
    assert_eq!(server.requests().len(), asked, "nothing was asked for these");
}

#[test]
fn offline_by_flag_and_by_environment() {
    let (server, home) = (FakeHub::new(bookworm_gguf()), tempfile::tempdir().unwrap());
    let name = "quern/bookworm-GGUF";
    let error = failure(&run(&server, home.path(), &["pull", name, "--offline"]));
    assert!(error.contains("not in the cache"), "{error}");
    assert!(server.requests().is_empty());
    stdout(&run(&server, home.path(), &["pull", name]));
    let asked = server.requests().len();
    stdout(&run(&server, home.path(), &["pull", name, "--offline"]));
    let offline =
        at(&server, home.path()).env("HF_HUB_OFFLINE", "1").args(["inspect", name, "--check"]).output();
    stdout(&offline.unwrap());
    assert_eq!(server.requests().len(), asked);
}

#[test]
fn the_token_is_read_from_the_environment_and_never_shown() {
    let (server, home) = (FakeHub::new(bookworm_gguf()), tempfile::tempdir().unwrap());
    let output =
        at(&server, home.path()).env("HF_TOKEN", "hf_secret").args(["pull", "quern/bookworm-GGUF"]).output();
    let output = output.unwrap();
    assert!(!(stdout(&output) + &stderr(&output)).contains("hf_secret"));
    let (own, foreign): (Vec<_>, Vec<_>) = server.requests().into_iter().partition(|r| !r.at_storage);
    assert!(own.iter().all(|r| r.header("Authorization") == Some("Bearer hf_secret")));
    assert!(!foreign.is_empty() && foreign.iter().all(|r| r.header("Authorization").is_none()));

    let gated = FakeHub::hooked(bookworm(), |r| {
        r.target.contains("/resolve/").then(|| Response::new(403, "").with("X-Error-Code", "GatedRepo"))
    });
    let error = failure(&run(&gated, home.path(), &["pull", "quern/bookworm"]));
    assert!(error.contains("accept its licence at") && error.contains("set HF_TOKEN"), "{error}");
}

#[test]
fn a_model_is_inspected_without_being_downloaded() {
    for (repo, name, file) in [
        (bookworm(), "quern/bookworm", "bookworm-4m"),
        (bookworm_gguf(), "quern/bookworm-GGUF", "bookworm-4m-Q4_K_M.gguf"),
    ] {
        let (server, home) = (FakeHub::new(repo), tempfile::tempdir().unwrap());
        let here = json(&quern(["inspect", fixture(file).to_str().unwrap(), "--json", "--metadata"]));
        let mut there = json(&run(&server, home.path(), &["inspect", name, "--json", "--metadata"]));
        let remote = there.as_object_mut().unwrap().remove("remote").unwrap();
        assert_eq!(there, here);
        assert_eq!((&remote["repository"], &remote["commit"]), (&name.into(), &COMMIT.into()));
        assert_eq!(remote["requests"], server.requests().len());
        let share = remote["bytes"].as_f64().unwrap() / here["file_size"].as_f64().unwrap();
        assert!(share < 0.5, "{remote}");
        assert!(!home.path().join(".cache").exists());

        let planned = |model: &str| {
            let args = ["run", model, "--dry-run", "--json", "--device", "cpu"];
            let mut report = json(&run(&server, home.path(), &args));
            report["devices"][0].as_object_mut().unwrap().remove("available_bytes");
            (report["devices"].clone(), report["parameters"].clone(), report["file_size"].clone())
        };
        assert_eq!(planned(name), planned(fixture(file).to_str().unwrap()));
        assert!(!home.path().join(".cache").exists(), "a plan needs headers only");

        let text = stdout(&run(&server, home.path(), &["inspect", name, "--tensors"]));
        assert!(
            text.contains("from the Hub") && text.contains("blk.0.attn_q.weight") | text.contains("layers.0"),
            "{text}"
        );
        let report = home.path().join("report.html");
        for options in [
            &["--check"][..],
            &["--report", report.to_str().unwrap()],
            &["--histogram", "blk.0.attn_q.weight"],
        ] {
            let error = failure(&run(&server, home.path(), &[&["inspect", name], options].concat()));
            assert!(error.contains(options[0]) && error.contains("pull it first: quern pull"), "{error}");
        }
        stdout(&run(&server, home.path(), &["pull", name]));
        let asked = server.requests().len();
        stdout(&run(
            &server,
            home.path(),
            &["inspect", &format!("{name}@{COMMIT}:{}", remote_file(file)), "--check"],
        ));
        assert_eq!(server.requests().len(), asked, "what is in the cache is read there");
    }
}

/// The weights of a fixture as a repository names them.
fn remote_file(fixture: &str) -> &str {
    if fixture.ends_with(".gguf") { fixture } else { "model.safetensors" }
}
