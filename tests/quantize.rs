//! `quern quantize` against llama-quantize's own file.

use std::fs;

use quern_tensor_io::{Checkpoint, Value};

use crate::common::{failure, fixture, listing, quern, stderr, stdout};

/// The path of the Hugging Face model as an argument.
fn model() -> String {
    fixture("bookworm-4m").display().to_string()
}

#[test]
fn q4_k_m_from_safetensors_is_the_file_llama_quantize_writes() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.gguf");
    stdout(&quern(["quantize", &model(), "--to", "Q4_K_M", "-o", out.to_str().unwrap()]));

    let ours = Checkpoint::open(&out).unwrap();
    let theirs = Checkpoint::open(&fixture("bookworm-4m-Q4_K_M.gguf")).unwrap();
    assert_eq!(ours.tensors().len(), theirs.tensors().len());
    for info in theirs.tensors() {
        let tensor = ours.tensor(&info.name).unwrap_or_else(|| panic!("{} is missing", info.name));
        assert_eq!(tensor.info.element_type, info.element_type, "{}", info.name);
        assert_eq!(tensor.info.shape, info.shape, "{}", info.name);
        assert!(tensor.data == theirs.data(info), "{}: bytes differ", info.name);
    }
    for (key, value) in theirs.metadata().iter() {
        // The converter guesses the name from the directory it was given.
        if key == "general.name" {
            assert_eq!(ours.metadata().str(key), Some("Bookworm 4m"));
            continue;
        }
        assert_eq!(ours.metadata().get(key), Some(value), "{key}");
    }
}

/// The whole file: without the record of the command, which names another source.
#[test]
fn an_f16_gguf_is_as_good_a_source_as_the_safetensors() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    stdout(&quern(["quantize", &model(), "--to", "f16", "-o", &path("f16.gguf"), "--no-provenance"]));
    stdout(&quern([
        "quantize",
        &path("f16.gguf"),
        "--to",
        "q5_k_s",
        "-o",
        &path("a.gguf"),
        "--threads",
        "1",
        "--no-provenance",
    ]));
    let second = ["quantize", &model(), "--to", "q5_k_s", "-o", &path("b.gguf"), "--threads", "3"];
    stdout(&quern(second.into_iter().chain(["--no-provenance"])));
    assert!(fs::read(path("a.gguf")).unwrap() == fs::read(path("b.gguf")).unwrap());
}

#[test]
fn a_gguf_of_an_architecture_quern_cannot_run_is_quantized_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    stdout(&quern(["quantize", &model(), "--to", "f16", "-o", &path("f16.gguf")]));
    stdout(&quern(["quantize", &path("f16.gguf"), "--to", "q4_k_m", "-o", &path("known.gguf")]));
    // The same file under another architecture's name, in its metadata keys too.
    let mut bytes = fs::read(path("f16.gguf")).unwrap();
    let header = bytes.len() / 4;
    for at in 0..header {
        let found = &bytes[at..at + 5];
        if found == b"llama" && (bytes[at + 5] == b'.' || bytes[at - 8..at] == 5u64.to_le_bytes()) {
            bytes[at..at + 5].copy_from_slice(b"grain");
        }
    }
    fs::write(path("grain.gguf"), bytes).unwrap();
    stdout(&quern(["quantize", &path("grain.gguf"), "--to", "q4_k_m", "-o", &path("unknown.gguf")]));
    let (known, unknown) = (path("known.gguf"), path("unknown.gguf"));
    let known = Checkpoint::open(known.as_ref()).unwrap();
    let unknown = Checkpoint::open(unknown.as_ref()).unwrap();
    assert_eq!(unknown.metadata().str("general.architecture"), Some("grain"));
    assert_eq!(known.tensors().len(), unknown.tensors().len());
    for (a, b) in known.tensors().iter().zip(unknown.tensors()) {
        assert_eq!((&a.name, a.element_type), (&b.name, b.element_type));
        assert!(known.data(a) == unknown.data(b), "{}", a.name);
    }
}

#[test]
fn a_dry_run_prints_the_plan_and_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.gguf");
    let args = ["quantize", &model(), "--to", "q4_k_m", "--dry-run", "-o", out.to_str().unwrap()];
    let text = stdout(&quern(args));
    assert!(text.contains("blk.3.ffn_down.weight"), "{text}");
    assert!(text.to_lowercase().contains("q6_k"), "{text}");
    assert_eq!(listing(dir.path()), Vec::<String>::new());

    let json: serde_json::Value =
        serde_json::from_str(&stdout(&quern(args.into_iter().chain(["--json"])))).unwrap();
    stdout(&quern(["quantize", &model(), "--to", "q4_k_m", "-o", out.to_str().unwrap()]));
    assert_eq!(
        json["file_size"].as_u64(),
        Some(fs::metadata(&out).unwrap().len()),
        "the plan's total is the file's size"
    );
}

#[test]
fn overrides_change_the_type_of_what_they_name() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.gguf");
    stdout(&quern([
        "quantize",
        &model(),
        "--to",
        "q4_0",
        "-o",
        out.to_str().unwrap(),
        "--tensor-type",
        r"ffn_down=q8_0",
        "--token-embedding-type",
        "f16",
    ]));
    let made = Checkpoint::open(&out).unwrap();
    let type_of = |name: &str| made.tensor(name).unwrap().info.element_type.name();
    assert_eq!(type_of("blk.1.ffn_down.weight"), "q8_0");
    assert_eq!(type_of("blk.1.ffn_up.weight"), "q4_0");
    assert_eq!(type_of("token_embd.weight"), "f16");
    assert_eq!(made.metadata().get("general.file_type"), Some(&Value::U32(2)));
}

#[test]
fn an_existing_output_is_kept_unless_forced() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.gguf");
    fs::write(&out, "precious").unwrap();
    let args = ["quantize", &model(), "--to", "q8_0", "-o", out.to_str().unwrap()];
    let text = failure(&quern(args));
    assert!(text.contains("out.gguf") && text.contains("--force"), "{text}");
    assert_eq!(fs::read(&out).unwrap(), b"precious");
    stdout(&quern(args.into_iter().chain(["--force"])));
    assert!(fs::metadata(&out).unwrap().len() > 1_000_000);
    assert_eq!(listing(dir.path()), ["out.gguf"]);
}

#[test]
fn the_input_is_never_the_output() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("model.gguf");
    stdout(&quern(["quantize", &model(), "--to", "f16", "-o", source.to_str().unwrap()]));
    let before = fs::read(&source).unwrap();
    let link = dir.path().join("link.gguf");
    std::os::unix::fs::symlink(&source, &link).unwrap();
    for out in [&source, &link] {
        let text = failure(&quern([
            "quantize",
            source.to_str().unwrap(),
            "--to",
            "q8_0",
            "--force",
            "-o",
            out.to_str().unwrap(),
        ]));
        assert!(text.contains("the file being read"), "{text}");
    }
    assert!(fs::read(&source).unwrap() == before);
}

#[test]
fn quantizing_twice_must_be_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.gguf");
    let source = fixture("bookworm-4m-Q4_K_M.gguf");
    let args = ["quantize", source.to_str().unwrap(), "--to", "q8_0", "-o", out.to_str().unwrap()];
    let text = failure(&quern(args));
    assert!(text.contains("--allow-requantize"), "{text}");
    stdout(&quern(args.into_iter().chain(["--allow-requantize"])));
    assert!(out.exists());
}

#[test]
fn wrong_usage_is_exit_code_two_and_a_wrong_scheme_names_the_right_ones() {
    assert_eq!(quern(["quantize"]).status.code(), Some(2));
    assert_eq!(quern(["polish"]).status.code(), Some(2));
    let output = quern(["quantize", &model(), "--to", "q4_k_xl", "-o", "/tmp/never.gguf"]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).to_lowercase().contains("q4_k_m"), "{}", stderr(&output));
}

/// A model that was trained for q4_0, in bf16: what is said, what is written, and that an ordinary model gets no word.
#[test]
fn a_model_on_a_q4_0_grid_is_recognized() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    // What a q4_0 file decodes to, rounded to bf16, is such a grid.
    stdout(&quern(["quantize", &model(), "--to", "q4_0", "--pure", "-o", &path("q4_0.gguf")]));
    let plain =
        ["convert", &path("q4_0.gguf"), "--to", "safetensors", "--dtype", "bf16", "-o", &path("plain")];
    stdout(&quern(plain));

    let again = quern(["quantize", &path("plain"), "--to", "q4_0", "-o", &path("again.gguf"), "--json"]);
    let said = stderr(&again);
    assert!(said.contains("matrices are on a q4_0 grid") && said.contains("encoded without error"), "{said}");
    let result: serde_json::Value = serde_json::from_str(&stdout(&again)).unwrap();
    assert_eq!(result["grid"]["exact"], result["grid"]["tensors"]);
    assert_eq!(result["grid"]["lost"], 0);

    let other = quern(["quantize", &path("plain"), "--to", "q4_k_m", "--dry-run"]);
    let said = stderr(&other);
    assert!(said.contains("warning: ") && said.contains("--to q4_0 encodes them without error"), "{said}");
    let inspected = stdout(&quern(["inspect", &path("plain")]));
    assert!(inspected.contains("on a q4_0 grid"), "{inspected}");

    let usual = quern(["quantize", &model(), "--to", "q4_0", "--dry-run"]);
    assert!(!stderr(&usual).contains("grid"), "{}", stderr(&usual));
    assert!(!stdout(&quern(["inspect", &model()])).contains("grid"));
}
