//! No command replaces what it reads, whatever it is called and however it was forced.

use std::fs;
use std::path::Path;

use crate::common::{failure, fixture, listing, model_copy, q4, quern, stderr};

/// A model, a text, an importance matrix and rules in one folder.
fn place() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("m");
    fs::create_dir(&model).unwrap();
    let copy = model_copy();
    for name in listing(copy.path()) {
        fs::copy(copy.path().join(&name), model.join(&name)).unwrap();
    }
    fs::write(model.join("README.md"), "---\nlicense: mit\n---\n# M\n").unwrap();
    fs::copy(q4(), dir.path().join("m.gguf")).unwrap();
    let text = fs::read_to_string(fixture("text/calibration.txt")).unwrap();
    fs::write(dir.path().join("t.txt"), text.chars().take(20_000).collect::<String>()).unwrap();
    fs::write(dir.path().join("rules.json"), r#"{"-:.*down_proj": {}}"#).unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let made = quern([
        "imatrix",
        &at("m"),
        "--text",
        &at("t.txt"),
        "--context",
        "64",
        "--chunks",
        "2",
        "-o",
        &at("i.gguf"),
    ]);
    assert!(made.status.success());
    dir
}

fn all(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for name in listing(folder) {
        let path = folder.join(&name);
        match path.is_dir() {
            true => {
                found.extend(all(&path).into_iter().map(|(inner, data)| (format!("{name}/{inner}"), data)))
            }
            false => found.push((name, fs::read(&path).unwrap())),
        }
    }
    found
}

#[test]
fn an_input_is_never_the_output() {
    let dir = place();
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("m", dir.path().join("link")).unwrap();
        std::os::unix::fs::symlink("t.txt", dir.path().join("soft.txt")).unwrap();
        fs::hard_link(dir.path().join("i.gguf"), dir.path().join("hard.gguf")).unwrap();
    }
    let before = all(dir.path());
    let gptq = ["quantize", "m", "--to", "gptq", "--samples", "4", "--context", "64"];
    let with = |start: &[&'static str], rest: &[&'static str]| [start, rest].concat();
    let q4 = ["quantize", "m", "--to", "q4_k_m"];
    let calibrated = ["quantize", "m", "--to", "q4_0", "--calibrate", "--samples", "4", "--context", "64"];
    for (args, what) in [
        // Files of the model.
        (vec!["imatrix", "m.gguf", "--text", "t.txt", "-o", "m.gguf"], "this is the file being read"),
        (vec!["imatrix", "m", "--text", "t.txt", "-o", "m/model.safetensors"], "this is the file being read"),
        (with(&q4, &["-o", "m/tokenizer.json"]), "this is a file of the model being read"),
        (with(&q4, &["-o", "m/./tokenizer.model"]), "this is a file of the model being read"),
        (
            vec!["convert", "m", "--to", "gguf", "-o", "m/config.json"],
            "this is a file of the model being read",
        ),
        (vec!["inspect", "m", "--report", "m/config.json"], "this is a file of the model being read"),
        (
            vec!["inspect", "m.gguf", "--against", "m", "--report", "m/config.json"],
            "this is a file of the model being read",
        ),
        (with(&q4, &["--card", "-o", "m/q.gguf"]), "README.md: this is a file of the model being read"),
        // The other files.
        (
            vec!["imatrix", "m", "--text", "t.txt", "-o", "t.txt"],
            "this is the text, which this command reads",
        ),
        (with(&q4, &["--imatrix", "i.gguf", "-o", "i.gguf"]), "this is the importance matrix"),
        (with(&q4, &["--evaluate", "t.txt", "-o", "t.txt"]), "this is the text to evaluate with"),
        (
            with(&gptq, &["--calibration", "t.txt", "--save-imatrix", "t.txt", "-o", "o"]),
            "this is the calibration text",
        ),
        (
            with(&gptq, &["--dynamic", "@rules.json", "--save-imatrix", "rules.json", "-o", "o"]),
            "this is the file of rules",
        ),
        (
            with(&gptq, &["--save-imatrix", "m/config.json", "-o", "o"]),
            "this is a file of the model being read",
        ),
        (with(&calibrated, &["--calibration", "t.txt", "-o", "t.txt"]), "this is the calibration text"),
        (with(&calibrated, &["--evaluate", "t.txt", "-o", "t.txt"]), "this is the text to evaluate with"),
        (with(&calibrated, &["-o", "m/model.safetensors"]), "this is the file being read"),
        (
            with(&calibrated, &["--save-imatrix", "new", "-o", "./new"]),
            "it would be written to the output's place",
        ),
        // Folders.
        (with(&gptq, &["-o", "m"]), "the model being read is stored there"),
        (with(&gptq, &["-o", "m/inner"]), "this is inside the folder of the model being read"),
        (vec!["quantize", "m", "--to", "nf4", "-o", "m/../m"], "the model being read is stored there"),
        (vec!["convert", "m", "--to", "safetensors", "-o", "m"], "the model being read is stored there"),
    ] {
        let said = refused(dir.path(), &args);
        assert!(said.contains(what), "{args:?}: {said}");
        assert_eq!(all(dir.path()), before, "{args:?}");
    }
    #[cfg(unix)]
    for (args, what) in [
        (
            with(&q4, &["-o", "link/tokenizer.json"]),
            "this is a file of the model being read (m/tokenizer.json)",
        ),
        (with(&q4, &["--imatrix", "i.gguf", "-o", "hard.gguf"]), "this is the importance matrix (i.gguf)"),
        (vec!["imatrix", "m", "--text", "t.txt", "-o", "soft.txt"], "this is the text (t.txt)"),
        (vec!["convert", "link", "--to", "safetensors", "-o", "m"], "the model being read is stored there"),
    ] {
        let said = refused(dir.path(), &args);
        assert!(
            said.contains(what) && said.contains("choose another name for the output"),
            "{args:?}: {said}"
        );
        assert_eq!(all(dir.path()), before, "{args:?}");
    }
}

/// A split model's parts are all asked about.
#[test]
fn parts_never_replace_the_parts_being_read() {
    let dir = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| crate::common::command().args(args).current_dir(dir.path()).output().unwrap();
    let q4 = q4();
    assert!(run(&["convert", &q4, "--to", "gguf", "--split-max-tensors", "15", "-o", "p"]).status.success());
    let before = all(dir.path());
    let again = [
        "convert",
        "p-00001-of-00003.gguf",
        "--to",
        "gguf",
        "--split-max-tensors",
        "15",
        "--force",
        "-o",
        "p",
    ];
    let said = failure(&run(&again));
    assert!(said.contains("this is the file being read"), "{said}");
    assert_eq!(all(dir.path()), before);
}

/// The Hub's cache is no place for a folder of plain files: its blobs and snapshots belong to every program.
#[test]
fn a_pull_writes_nothing_into_the_cache_but_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let snapshot = dir.path().join("cache/models--a--b/snapshots/1");
    fs::create_dir_all(&snapshot).unwrap();
    fs::write(snapshot.join("config.json"), "{}").unwrap();
    let before = all(dir.path());
    for (output, what) in [
        ("cache/models--a--b/snapshots/1", "this is inside the cache of models"),
        ("cache/new", "this is inside the cache of models"),
        ("cache", "the cache of models is stored there"),
    ] {
        let mut pull = crate::common::command();
        pull.args(["pull", "a/b", "--offline", "--force", "-o", output]).current_dir(dir.path());
        let said = failure(&pull.env("HF_HUB_CACHE", dir.path().join("cache")).output().unwrap());
        assert!(said.contains(what), "{output}: {said}");
        assert_eq!(all(dir.path()), before);
    }
}

fn refused(folder: &Path, args: &[&str]) -> String {
    let run = crate::common::command()
        .args(args)
        .args(["--force", "--quiet"])
        .current_dir(folder)
        .output()
        .unwrap();
    let said = stderr(&run);
    assert_eq!(run.status.code(), Some(1), "{args:?}: {said}");
    assert!(!said.contains("panicked") && said.contains("error: "), "{args:?}: {said}");
    said
}
