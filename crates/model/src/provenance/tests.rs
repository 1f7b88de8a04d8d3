//! Provenance written, read again, and read from files that mean no good.

use std::fs;
use std::path::Path;

use quern_tensor_io::{Checkpoint, Metadata, Value};

use super::*;

fn step(name: &str) -> Step {
    Step {
        source: Origin { name: name.to_owned(), ..Origin::default() },
        tool: Tool::quern(),
        command: format!("quern quantize {name} --to q4_k_m"),
        calibration: Some(CalibrationText {
            name: "text.txt".into(),
            sha256: "ab".repeat(32),
            samples: 128,
            context: 512,
        }),
        ..Step::default()
    }
}

/// What a directory with this `quern.json` says.
fn read(bytes: &[u8]) -> (Option<Provenance>, Option<String>) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(FILE), bytes).unwrap();
    Provenance::of_directory(dir.path())
}

#[test]
fn what_is_written_is_read_again() {
    let chain =
        Provenance::default().then(step("a")).then(step("b")).with_figures([("bits_per_weight", 4.5)]);
    assert_eq!(read(&chain.to_file()), (Some(chain.clone()), None));
    assert_eq!(read(chain.to_json().as_bytes()).0, Some(chain.clone()));
    assert!(!chain.to_json().contains('\n'));
    assert_eq!(chain.last().unwrap().figures["bits_per_weight"], 4.5);
    // Neither null nor empty parts.
    assert!(!chain.to_json().contains("null") && !chain.to_json().contains("imatrix"), "{}", chain.to_json());
    assert_eq!(Provenance::of_directory(Path::new("/nowhere")), (None, None));
}

#[test]
fn a_long_chain_keeps_its_first_step_and_the_newest() {
    let mut chain = Provenance::default();
    for number in 0..100 {
        chain = chain.then(step(&number.to_string()));
    }
    let names: Vec<_> = chain.steps.iter().map(|s| s.source.name.as_str()).collect();
    assert_eq!((names.len(), names[0], names[1], names[15]), (16, "0", "85", "99"));
    let text = serde_json::json!({ "version": 1, "steps": vec![step("x"); 90] }).to_string();
    assert_eq!(read(text.as_bytes()).0.unwrap().steps.len(), 16);
}

#[test]
fn figures_have_six_digits_and_counts_all_of_theirs() {
    let chain = Provenance::default().then(step("a")).with_figures([
        ("a", 1.0 / 3.0),
        ("b", 123_456_789_012.0),
        ("c", f64::NAN),
    ]);
    let figures = &chain.last().unwrap().figures;
    assert_eq!((figures["a"], figures["b"], figures.len()), (0.333333, 123_456_789_012.0, 2));
}

#[test]
fn what_cannot_be_read_is_a_note() {
    let deep = "[".repeat(100_000);
    let large = format!("{{\"version\":1,\"steps\":[{{\"command\":\"{}\"}}]}}", "x".repeat(200_000));
    for (text, part) in [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[]", "version"),
        ("{\"version\":2,\"steps\":[]}", "version"),
        ("{\"version\":1}", "steps"),
        ("{\"version\":1,\"steps\":7}", "invalid type"),
        ("{\"version\":1,\"steps\":[{\"source\":\"\\u001b[31mred\"}]}", "invalid type"),
        ("{\"version\":1,\"steps\":[{\"figures\":{\"a\":\"b\"}}]}", "invalid type"),
        (&deep, "not JSON"),
        (&large, "more than the 131072"),
    ] {
        let (found, note) = read(text.as_bytes());
        let note = note.unwrap_or_else(|| panic!("no note for {text:.40}"));
        assert!(found.is_none() && note.contains(part) && note.len() < 600, "{note}");
        assert!(!note.contains('\u{1b}'), "{note:?}");
    }
    assert!(read(&[0xff; 20]).1.unwrap().contains("UTF-8"));
    assert_eq!(read(b"{\"version\":1,\"steps\":[]}"), (None, None));
}

#[test]
fn strings_lose_what_a_terminal_obeys_and_names_that_are_none() {
    let text = serde_json::json!({ "version": 1, "later": [1, 2], "steps": [{
        "source": {
            "name": "\u{1b}]0;title\u{7}a\u{202e}b\n", "repository": "org/../etc", "commit": "main", "license": "mit\r\n",
        },
        "command": "x".repeat(9000),
        "tool": { "name": "q".repeat(9000) },
        "figures": (0..100).map(|n| (n.to_string(), n)).collect::<std::collections::BTreeMap<_, _>>(),
        "unknown": {},
    }]});
    let (found, note) = read(text.to_string().as_bytes());
    assert_eq!(note, None);
    let step = &found.unwrap().steps[0];
    let Origin { name, repository, commit, license, file } = &step.source;
    assert_eq!((name.as_str(), license.as_deref()), ("]0;titleab", Some("mit")));
    assert_eq!((repository, commit, file), (&None, &None, &None));
    assert_eq!((step.command.len(), step.tool.name.len(), step.figures.len()), (4000, 300, 32));
}

#[test]
fn a_path_in_the_cache_says_repository_and_commit() {
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let of = |path: &str| HubOrigin::of(Path::new(path)).map(|found| (found.repository, found.commit));
    let at =
        |name: &str| format!("/home/someone/.cache/huggingface/hub/models--{name}/snapshots/{commit}/a.gguf");
    assert_eq!(of(&at("org--my-model")), Some(("org/my-model".into(), commit.into())));
    for path in [
        at("org"),
        at("org--a--b"),
        at("..--b"),
        at("o--n").replace("snap", "s"),
        at("o--n").replace("0123", ""),
    ] {
        assert_eq!(of(&path), None, "{path}");
    }
    // Through a link to the folder.
    let dir = tempfile::tempdir().unwrap();
    let snapshot = dir.path().join("models--o--n/snapshots").join(commit);
    fs::create_dir_all(&snapshot).unwrap();
    fs::write(snapshot.join("a.gguf"), "").unwrap();
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&snapshot, &link).unwrap();
    assert_eq!(HubOrigin::of(&link.join("a.gguf")).unwrap().repository, "o/n");
    assert_eq!(HubOrigin::of(&dir.path().join("other.gguf")), None);
}

#[test]
fn gguf_has_its_own_keys_for_the_repository_unless_they_are_there() {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/bookworm-4m");
    let checkpoint = Checkpoint::open(&model).unwrap();
    let mut first = step("n");
    first.source.repository = Some("org/n-1b".into());
    let chain = Provenance::default().then(first).then(step("b"));
    let mut metadata = Metadata::new();
    chain.set_in(&mut metadata, &checkpoint);
    assert_eq!(metadata.str("general.source.repo_url"), Some("https://huggingface.co/org/n-1b"));
    assert_eq!(metadata.str(GGUF_KEY), Some(chain.to_json().as_str()));
    metadata.set("general.source.repo_url", "https://example.com");
    chain.set_in(&mut metadata, &checkpoint);
    assert_eq!(metadata.str("general.source.repo_url"), Some("https://example.com"));
    assert_eq!(metadata.len(), 2);

    hub::set_base_models(&["org/base-2b".into(), "not a name".into(), "../x".into()], &mut metadata);
    assert_eq!(metadata.get("general.base_model.count"), Some(&Value::U32(1)));
    assert_eq!(metadata.str("general.base_model.0.name"), Some("base 2b"));
    assert_eq!(metadata.str("general.base_model.0.repo_url"), Some("https://huggingface.co/org/base-2b"));
}

#[test]
fn the_origin_of_a_checkpoint_names_no_folder_above_it() {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/bookworm-4m");
    let origin = Origin::of(&Checkpoint::open(&model).unwrap());
    assert_eq!((origin.name.as_str(), origin.file), ("bookworm-4m", None));
    let file = model.with_file_name("bookworm-4m-Q4_K_M.gguf");
    let origin = Origin::of(&Checkpoint::open(&file).unwrap());
    assert_eq!((origin.name.as_str(), origin.repository), ("bookworm-4m-Q4_K_M.gguf", None));
}
