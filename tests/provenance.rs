//! What outputs record of how they were made, model cards, and space that is checked before the work.

use std::fs;
use std::path::{Path, PathBuf};

use quern_tensor_io::Checkpoint;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::common::{failure, fixture, listing, model_copy, quern, stderr, stdout};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

fn run(line: &[&str]) -> String {
    stdout(&quern(line))
}

/// The steps that `quern inspect` finds.
fn steps(model: &Path) -> Vec<Value> {
    let report = run(&["inspect", model.to_str().unwrap(), "--json"]);
    let report: Value = serde_json::from_str(&report).unwrap();
    report["provenance"]["steps"].as_array().cloned().unwrap_or_default()
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// The demo model as the Hub's cache has it, with a card.
fn cached(root: &Path) -> PathBuf {
    let snapshot = root.join("hub/models--org--tiny-books/snapshots").join(COMMIT);
    fs::create_dir_all(&snapshot).unwrap();
    for name in listing(&fixture("bookworm-4m")) {
        fs::write(snapshot.join(&name), fs::read(fixture("bookworm-4m").join(&name)).unwrap()).unwrap();
    }
    let card = "---\nlicense: apache-2.0\nlanguage:\n- en\n- 'no'\ntags: [books]\nbase_model: org/larger-books\n---\n# Tiny\n";
    fs::write(snapshot.join("README.md"), card).unwrap();
    snapshot
}

/// Every file under a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for name in listing(folder) {
        let path = folder.join(name);
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

#[test]
fn every_output_says_how_it_was_made_and_names_no_folder() {
    let root = tempfile::tempdir().unwrap();
    let private = root.path().join("private-cellar-of-alice");
    let out = root.path().join("out");
    fs::create_dir_all(private.join("a-model")).unwrap();
    fs::create_dir_all(&out).unwrap();
    for name in listing(&fixture("bookworm-4m")) {
        let data = fs::read(fixture("bookworm-4m").join(&name)).unwrap();
        fs::write(private.join("a-model").join(&name), data).unwrap();
    }
    let text: String =
        fs::read_to_string(fixture("text/calibration.txt")).unwrap().chars().take(40_000).collect();
    fs::write(private.join("text.txt"), &text).unwrap();
    let (model, text_file) = (private.join("a-model"), private.join("text.txt"));
    let (model, text_file) = (model.to_str().unwrap(), text_file.to_str().unwrap());
    let path = |name: &str| out.join(name).display().to_string();

    run(&[
        "imatrix",
        model,
        "--text",
        text_file,
        "--context",
        "64",
        "--chunks",
        "5",
        "-o",
        &path("i.gguf"),
        "-t",
        "1",
    ]);
    run(&[
        "quantize",
        model,
        "--to",
        "iq3_s",
        "--imatrix",
        &path("i.gguf"),
        "-o",
        &path("q.gguf"),
        "--threads",
        "1",
    ]);
    run(&["quantize", model, "--to", "nf4", "-o", &path("nf4")]);
    let calibrate = ["--calibration", text_file, "--samples", "4", "--context", "64"];
    run(&[&["quantize", model, "--to", "gptq", "-o", &path("gptq")][..], &calibrate].concat());
    run(&["convert", model, "--to", "gguf", "--split-max-size", "3M", "-o", &path("split")]);
    run(&["convert", &path("gptq"), "--to", "gptq_v2", "-o", &path("v2")]);
    run(&["convert", &path("q.gguf"), "--to", "safetensors", "-o", &path("back")]);

    let made = |name: &str| steps(&out.join(name));
    let (nf4, gptq) = (made("nf4"), made("gptq"));
    let quantized = made("q.gguf");
    assert_eq!(quantized[0]["source"], json!({ "name": "a-model" }));
    assert_eq!(quantized[0]["tool"], json!({ "name": "quern", "version": env!("CARGO_PKG_VERSION") }));
    assert_eq!(quantized[0]["command"], "quern quantize a-model --to iq3_s --imatrix i.gguf");
    let hash = sha256(&fs::read(out.join("i.gguf")).unwrap());
    assert_eq!(quantized[0]["imatrix"], json!({ "name": "i.gguf", "sha256": hash }));
    let bytes =
        Checkpoint::open(&out.join("q.gguf")).unwrap().tensors().iter().map(|t| t.bytes).sum::<usize>();
    assert_eq!(quantized[0]["figures"]["tensor_bytes"], bytes);

    let matrix = Checkpoint::open(&out.join("i.gguf")).unwrap();
    let matrix: Value = serde_json::from_str(matrix.metadata().str("quern.provenance").unwrap()).unwrap();
    let expected =
        json!({ "name": "text.txt", "sha256": sha256(text.as_bytes()), "samples": 5, "context": 64 });
    assert_eq!(matrix["steps"][0]["calibration"], expected);
    assert_eq!(gptq[0]["calibration"]["sha256"], sha256(text.as_bytes()));
    assert_eq!(gptq[0]["calibration"]["samples"], 4);
    assert_eq!((&gptq[0]["figures"]["modules"], nf4.len()), (&json!(28), 1));
    assert!(gptq[0]["figures"]["mean_loss"].as_f64().unwrap() > 0.0);
    // What the plan says of the size is what is written.
    let bytes = |name: &str| {
        Checkpoint::open(&out.join(name)).unwrap().tensors().iter().map(|t| t.bytes).sum::<usize>()
    };
    let planned =
        run(&[&["quantize", model, "--to", "gptq", "--dry-run", "--json"][..], &calibrate].concat());
    let planned: Value = serde_json::from_str(&planned).unwrap();
    assert_eq!(
        (&planned["file_size"], &gptq[0]["figures"]["tensor_bytes"]),
        (&json!(bytes("gptq")), &json!(bytes("gptq")))
    );
    assert!(planned["disk_bytes"].as_u64().unwrap() > bytes("gptq") as u64);
    assert_eq!(nf4[0]["command"], "quern quantize a-model --to nf4");
    assert_eq!(
        made("split-00002-of-00003.gguf")[0]["command"],
        "quern convert a-model --to gguf --split-max-size 3M"
    );
    let commands = |steps: Vec<Value>| {
        steps.iter().map(|s| s["command"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(
        commands(made("v2")),
        [
            "quern quantize a-model --to gptq --calibration text.txt --samples 4 --context 64",
            "quern convert gptq --to gptq_v2"
        ]
    );
    assert_eq!(commands(made("back"))[1], "quern convert q.gguf --to safetensors");

    let user = std::env::var("USER").unwrap_or_default();
    for file in files(&out) {
        let data = fs::read(&file).unwrap();
        let has = |text: &str| data.windows(text.len().max(1)).any(|w| w == text.as_bytes());
        assert!(!has("private-cellar") && !has(root.path().to_str().unwrap()), "{}", file.display());
        assert!(!file.ends_with("quern.json") || user.len() < 5 || !has(&user), "{}", file.display());
    }
    // The summary shows it to people.
    let summary = run(&["inspect", &path("v2")]);
    assert!(summary.contains("made from       a-model\nmade by         quern "), "{summary}");
    assert!(summary.contains("calibrated on 4 samples of 64 tokens of text.txt (sha256 "), "{summary}");
}

#[test]
fn the_record_does_not_depend_on_threads_and_without_it_the_file_is_llama_quantizes() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let model = fixture("bookworm-4m").display().to_string();
    let quantize = |out: &str, more: &[&str]| {
        run(&[&["quantize", &model, "--to", "q4_k_m", "-o", &path(out)][..], more].concat());
        fs::read(path(out)).unwrap()
    };
    let one = quantize("a.gguf", &["-t", "1"]);
    assert!(one == quantize("b.gguf", &["-t", "3", "--json"]));
    let plain = quantize("plain.gguf", &["--no-provenance"]);
    assert!(plain.len() < one.len());
    assert!(steps(&dir.path().join("plain.gguf")).is_empty());

    // From the F16 file that llama-quantize had: its converter named the model after the folder it was in, and has no
    // keys for what quern adds about the tokenizer.
    let theirs = fixture("bookworm-4m-Q4_K_M.gguf");
    let name = Checkpoint::open(&theirs).unwrap().metadata().str("general.name").unwrap().to_owned();
    let set = format!("general.name={name}");
    run(&["convert", &model, "--to", "gguf", "--no-provenance", "-o", &path("own.gguf")]);
    let less = ["--remove", "quern.tokenizer.class", "--remove", "quern.tokenizer.legacy", "--no-provenance"];
    let as_theirs = ["convert", &path("own.gguf"), "--to", "gguf", "--set", &set, "-o", &path("f16.gguf")];
    run(&[&as_theirs[..], &less].concat());
    run(&["quantize", &path("f16.gguf"), "--to", "q4_k_m", "--no-provenance", "-o", &path("q.gguf")]);
    assert!(fs::read(path("q.gguf")).unwrap() == fs::read(&theirs).unwrap(), "the whole file");
}

#[test]
fn a_model_of_the_hub_is_named_with_its_commit_and_its_card_is_carried_on() {
    let root = tempfile::tempdir().unwrap();
    let snapshot = cached(root.path());
    let path = |name: &str| root.path().join(name).display().to_string();
    let printed =
        run(&["quantize", snapshot.to_str().unwrap(), "--to", "q8_0", "-o", &path("q.gguf"), "--card"]);
    assert!(printed.contains("README.md: model card"), "{printed}");
    let expected = json!({ "name": "tiny-books", "repository": "org/tiny-books", "commit": COMMIT, "license": "apache-2.0" });
    assert_eq!(steps(&root.path().join("q.gguf"))[0]["source"], expected);
    let written = Checkpoint::open(&root.path().join("q.gguf")).unwrap();
    let metadata = written.metadata();
    assert_eq!(metadata.str("general.source.repo_url"), Some("https://huggingface.co/org/tiny-books"));
    assert_eq!(
        metadata.str("general.base_model.0.repo_url"),
        Some("https://huggingface.co/org/larger-books")
    );
    let card = fs::read_to_string(root.path().join("README.md")).unwrap();
    let front = "---\nbase_model: org/tiny-books\nbase_model_relation: quantized\nlicense: apache-2.0\nlanguage:\n- en\n\
                 - \"no\"\nlibrary_name: gguf\npipeline_tag: text-generation\ntags:\n- books\n- gguf\n- quern\n---\n";
    assert!(card.starts_with(front), "{card}");
    assert!(
        card.contains(&format!(
            "[org/tiny-books](https://huggingface.co/org/tiny-books) at commit `{COMMIT}`"
        ))
    );

    // A card that is there is not replaced, and that is known before the work.
    let again = ["quantize", snapshot.to_str().unwrap(), "--to", "q4_0", "-o", &path("r.gguf"), "--card"];
    let text = failure(&quern(again));
    assert!(text.contains("README.md: already exists") && text.contains("--force"), "{text}");
    assert!(!root.path().join("r.gguf").exists());
    run(&[&again[..], &["--force"]].concat());
    assert!(fs::read_to_string(root.path().join("README.md")).unwrap().contains("# r.gguf"));

    // From the GGUF file, the chain and the card still know the repository.
    run(&[
        "convert",
        &path("q.gguf"),
        "--to",
        "safetensors",
        "--dtype",
        "f16",
        "-o",
        &path("back"),
        "--card",
    ]);
    let chain = steps(&root.path().join("back"));
    assert_eq!((chain.len(), &chain[0]["source"]), (2, &expected));
    let card = fs::read_to_string(root.path().join("back/README.md")).unwrap();
    let fields = "---\nbase_model: org/tiny-books\nbase_model_relation: quantized\nlicense: apache-2.0\nlanguage:\n- en\n- \"no\"\n";
    assert!(card.starts_with(fields), "{card}");

    // In a directory the source's card stays beside the new one.
    let text: String =
        fs::read_to_string(fixture("text/validation.txt")).unwrap().chars().take(9000).collect();
    fs::write(root.path().join("v.txt"), &text).unwrap();
    let nf4 = ["quantize", snapshot.to_str().unwrap(), "--to", "nf4", "-o", &path("nf4"), "--card", "--json"];
    let report: Value =
        serde_json::from_str(&run(&[&nf4[..], &["--evaluate", &path("v.txt")]].concat())).unwrap();
    let folder = root.path().join("nf4");
    let source = fs::read_to_string(folder.join("README.source.md")).unwrap();
    assert!(source.ends_with("# Tiny\n"), "{source}");
    let card = fs::read_to_string(folder.join("README.md")).unwrap();
    for part in
        ["[README.source.md](README.source.md)", "- bitsandbytes\n- \"4-bit\"\n", "| perplexity | ", "v.txt"]
    {
        assert!(card.contains(part), "{part} is not in {card}");
    }
    let evaluation = &steps(&folder)[0]["evaluation"];
    assert_eq!(evaluation, &report["evaluation"]);
    assert_eq!(evaluation["text"]["sha256"], sha256(text.as_bytes()));
    assert!(evaluation["kl_mean"].as_f64().unwrap() > 0.0);
    assert!(evaluation["perplexity"].as_f64() > evaluation["source_perplexity"].as_f64());
}

#[test]
fn a_record_that_cannot_be_read_is_a_note() {
    let model = model_copy();
    let out = tempfile::tempdir().unwrap();
    let path = |name: &str| out.path().join(name).display().to_string();
    let source = model.path().to_str().unwrap();
    for (number, hostile) in
        ["{", "[[[[[[", "{\"version\":1,\"steps\":[3]}", "\u{0}\u{1b}[2J"].into_iter().enumerate()
    {
        fs::write(model.path().join("quern.json"), hostile).unwrap();
        let name = path(&format!("{number}.gguf"));
        let made = quern(["quantize", source, "--to", "q8_0", "-o", &name]);
        stdout(&made);
        assert!(
            stderr(&made).contains("note: the provenance in quern.json cannot be read"),
            "{}",
            stderr(&made)
        );
        assert_eq!(steps(name.as_ref()).len(), 1);
        let shown = quern(["inspect", source]);
        assert!(stdout(&shown).contains("the provenance in quern.json cannot be read"));
        assert!(!shown.stdout.contains(&0x1b));
    }
    // Text of a stranger is shown without what a terminal obeys, and goes no further than that.
    let steps_text =
        json!({ "version": 1, "steps": [{ "command": "\u{1b}[2Jrm -rf", "source": { "name": "\u{9b}x" } }] });
    fs::write(model.path().join("quern.json"), steps_text.to_string()).unwrap();
    let shown = quern(["inspect", source]);
    assert!(stdout(&shown).contains("[2Jrm -rf") && !stdout(&shown).contains(['\u{1b}', '\u{9b}']));
    run(&["convert", source, "--to", "safetensors", "-o", &path("d"), "--no-provenance"]);
    let copied = fs::read_to_string(out.path().join("d/quern.json")).unwrap();
    assert_eq!(copied, steps_text.to_string(), "copied as any other file");
}

/// A GGUF file of one f16 tensor of two TiB, of which the disk holds only the header.
fn huge(path: &Path) {
    let mut bytes = b"GGUF\x03\x00\x00\x00".to_vec();
    let text = |bytes: &mut Vec<u8>, text: &str| {
        bytes.extend((text.len() as u64).to_le_bytes());
        bytes.extend(text.as_bytes());
    };
    bytes.extend(1u64.to_le_bytes());
    bytes.extend(1u64.to_le_bytes());
    text(&mut bytes, "general.architecture");
    bytes.extend(8u32.to_le_bytes());
    text(&mut bytes, "none");
    text(&mut bytes, "blk.0.ffn_up.weight");
    bytes.extend(2u32.to_le_bytes());
    [1u64 << 20, 1 << 20].iter().for_each(|d| bytes.extend(d.to_le_bytes()));
    bytes.extend(1u32.to_le_bytes());
    bytes.extend(0u64.to_le_bytes());
    bytes.resize(bytes.len().next_multiple_of(32), 0);
    let length = bytes.len() as u64 + (2 << 40);
    fs::write(path, bytes).unwrap();
    fs::File::options().write(true).open(path).unwrap().set_len(length).unwrap();
}

#[test]
fn an_output_that_cannot_fit_is_refused_before_the_work() {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (dir.path().join("huge.gguf"), dir.path().join("out.gguf"));
    huge(&source);
    let line = ["quantize", source.to_str().unwrap(), "--to", "q8_0", "--pure", "-o", out.to_str().unwrap()];
    let text = failure(&quern(line));
    for part in [
        "out.gguf: the output needs 1.1 TiB, but the disk of ",
        " free; free some space, or write to another disk",
    ] {
        assert!(text.contains(part), "{text}");
    }
    let planned = quern(line.into_iter().chain(["--dry-run"]));
    assert!(
        stdout(&planned).contains("total: ") && stderr(&planned).starts_with("warning: "),
        "{}",
        stderr(&planned)
    );
    assert!(stderr(&planned).contains("the output needs 1.1 TiB"), "{}", stderr(&planned));
    fs::write(&out, "older").unwrap();
    let text = failure(&quern(line.into_iter().chain(["--force"])));
    assert!(text.contains("both must fit"), "{text}");
    assert_eq!((fs::read(&out).unwrap().as_slice(), listing(dir.path()).len()), (&b"older"[..], 2));
}
