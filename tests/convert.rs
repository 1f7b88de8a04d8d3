//! `quern convert`: both directions, plans, splits, edits, refusals.

use std::fs;
use std::path::Path;
use std::process::Command;

use quern_tensor_io::Checkpoint;
use serde_json::Value;

use crate::common::{failure, fixture, listing, quern, stderr, stdout};

/// Runs `quern convert` with a path first.
fn convert(model: &Path, args: &[&str]) -> std::process::Output {
    quern([&["convert", model.to_str().unwrap()], args].concat())
}

fn json(output: &std::process::Output) -> Value {
    serde_json::from_str(&stdout(output)).expect("JSON")
}

fn assert_same_tensors(a: &Path, b: &Path) {
    let (a, b) = (Checkpoint::open(a).unwrap(), Checkpoint::open(b).unwrap());
    assert_eq!(a.tensors().len(), b.tensors().len());
    for info in a.tensors() {
        let other = b.tensor(&info.name).unwrap_or_else(|| panic!("{} is missing", info.name));
        assert!(a.data(info) == other.data && info.element_type == other.info.element_type, "{}", info.name);
    }
}

#[test]
fn to_gguf_and_back_it_is_the_same_model() {
    let dir = tempfile::tempdir().unwrap();
    let (model, file, back) = (fixture("bookworm-4m"), dir.path().join("a.gguf"), dir.path().join("back"));
    let common = ["--to", "gguf", "--no-provenance", "-o", file.to_str().unwrap()];
    let printed = stdout(&convert(&model, &common));
    assert!(printed.contains("a.gguf: gguf, 38 tensors, 8.10 MiB"), "{printed}");
    assert!(printed.contains("verified: all 38 tensors have the source's values exactly"), "{printed}");
    // What quantize makes of the same model in f16 is the same file, but for the record of the command.
    let quantized = dir.path().join("q.gguf");
    let (from, to) = (model.to_str().unwrap(), quantized.to_str().unwrap());
    stdout(&quern(["quantize", from, "--to", "f16", "--no-provenance", "-o", to]));
    assert!(fs::read(&file).unwrap() == fs::read(&quantized).unwrap());

    let printed =
        stdout(&convert(&file, &["--to", "safetensors", "-o", back.to_str().unwrap(), "--no-verify"]));
    assert!(printed.contains("back: safetensors, 38 tensors") && !printed.contains("verified"), "{printed}");
    assert_same_tensors(&model, &back);
    let text = |model: &Path| {
        let model = model.to_str().unwrap();
        json(&quern(["run", model, "-p", "It was a dark", "-n", "12", "--temp", "0", "--json"]))["tokens"]
            .clone()
    };
    assert_eq!(text(&back), text(&model));
    assert!(text(&model).as_array().unwrap().len() == 12);
    let checked = json(&quern(["inspect", back.to_str().unwrap(), "--check", "--json"]));
    assert_eq!(checked["check"]["findings"], serde_json::json!([]));
    assert_eq!(listing(dir.path()), ["a.gguf", "back", "q.gguf"]);
}

#[test]
fn a_dry_run_prints_the_plan_and_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (model, out) = (fixture("bookworm-4m"), dir.path().join("out.gguf"));
    let args = ["--to", "gguf", "--dtype", "bf16", "--dry-run", "-o", out.to_str().unwrap()];
    let text = stdout(&convert(&model, &args));
    let row = |name: &str| text.lines().find(|l| l.contains(name)).unwrap_or_default().to_owned();
    for (name, parts) in [
        ("blk.3.ffn_down.weight", ["256 × 768", "f16   bf16", "lossy"]),
        ("blk.3.ffn_norm.weight", ["256", "f16   f32", "exact"]),
        ("total", ["8.10 MiB", "29 of 38", "lossy"]),
    ] {
        parts.iter().for_each(|p| assert!(row(name).contains(p), "{p} is not in {}", row(name)));
    }
    let plan = json(&convert(&model, &[&args[..], &["--json"]].concat()));
    assert_eq!(listing(dir.path()), Vec::<String>::new());
    let made =
        json(&convert(&model, &["--to", "gguf", "--dtype", "bf16", "--json", "-o", out.to_str().unwrap()]));
    let size = fs::metadata(&out).unwrap().len();
    assert_eq!((plan["file_size"].as_u64(), made["file_size"].as_u64()), (Some(size), Some(size)));
    assert_eq!((&plan["lossy"], &made["lossy"]), (&29.into(), &29.into()));
    let norm =
        plan["tensors"].as_array().unwrap().iter().find(|t| t["name"] == "output_norm.weight").unwrap();
    assert_eq!((&norm["from"], &norm["to"], &norm["exact"]), (&"f16".into(), &"f32".into(), &true.into()));
    assert_eq!((&made["verified"], &made["verification"]["exact"]), (&true.into(), &9.into()));
    assert!(made["verification"]["largest_error"].as_f64().unwrap() > 0.0);

    // Without a name for the output too, in parts.
    let printed = stdout(&convert(&model, &["--to", "gguf", "--dry-run", "--split-max-size", "3M"]));
    assert!(printed.contains("bookworm-4m-00003-of-00003.gguf: 2.63 MiB"), "{printed}");
}

#[test]
fn split_merged_and_edited() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let model = fixture("bookworm-4m-Q4_K_M.gguf");
    stdout(&convert(
        &model,
        &["--to", "gguf", "--no-provenance", "--split-max-size", "900K", "-o", &path("m.gguf")],
    ));
    assert!(listing(dir.path()).iter().all(|n| n.starts_with("m-0000") && n.ends_with("-of-00004.gguf")));
    stdout(&convert(
        path("m-00003-of-00004.gguf").as_ref(),
        &["--to", "gguf", "--merge", "--no-provenance", "-o", &path("n.gguf")],
    ));
    assert!(fs::read(path("n.gguf")).unwrap() == fs::read(&model).unwrap());
    let edits = ["--set", "general.name=Bookworm", "--set", "my.key:u32=7", "--remove", "general.size_label"];
    stdout(&convert(&model, &[&["--to", "gguf", "-o", &path("e.gguf")], &edits[..]].concat()));
    let metadata = Checkpoint::open(path("e.gguf").as_ref()).unwrap().metadata().clone();
    assert_eq!((metadata.str("general.name"), metadata.u64("my.key")), (Some("Bookworm"), Some(7)));
    assert!(metadata.get("general.size_label").is_none());
    assert_same_tensors(path("e.gguf").as_ref(), &model);

    // Directories in shards, and in one file again.
    stdout(&convert(&model, &["--to", "safetensors", "--shard-size", "4M", "-o", &path("shards")]));
    assert!(listing(path("shards").as_ref()).contains(&"model.safetensors.index.json".into()));
    stdout(&convert(path("shards").as_ref(), &["--to", "safetensors", "--merge", "-o", &path("one")]));
    assert!(listing(path("one").as_ref()).contains(&"model.safetensors".into()));
    assert_same_tensors(path("one").as_ref(), path("shards").as_ref());
}

#[test]
fn quantized_here_and_packed_otherwise_there() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let model = fixture("bookworm-4m").display().to_string();
    let common = ["quantize", &model, "--to", "gptq", "--samples", "4", "--context", "64", "-o"];
    stdout(&quern([&common[..], &[&path("gptq")]].concat()));
    for (name, more) in
        [("a.gguf", &["--to", "gguf"][..]), ("v2", &["--to", "gptq_v2"]), ("plain", &["--to", "safetensors"])]
    {
        let printed = stdout(&convert(path("gptq").as_ref(), &[more, &["-o", &path(name)]].concat()));
        assert!(printed.contains("verified: all 38 tensors"), "{printed}");
    }
    let report = |name: &str| json(&quern(["inspect", &path(name), "--json"]));
    assert_eq!((&report("a.gguf")["scheme"], &report("v2")["scheme"]), (&"q4_0".into(), &"gptq".into()));
    assert!(fs::metadata(path("a.gguf")).unwrap().len() < 4_500_000);
    // They all generate the same tokens.
    let tokens = |name: &str| {
        json(&quern(["run", &path(name), "-p", "The", "-n", "6", "--temp", "0", "--json"]))["tokens"].clone()
    };
    let reference = tokens("gptq");
    ["a.gguf", "v2"].iter().for_each(|name| assert_eq!(tokens(name), reference, "{name}"));

    stdout(&quern(["quantize", &model, "--to", "nf4", "-o", &path("nf4")]));
    let text = failure(&convert(path("nf4").as_ref(), &["--to", "gguf", "-o", &path("b.gguf")]));
    assert!(text.contains("NF4") && text.contains("--dtype f16"), "{text}");
    stdout(&convert(path("nf4").as_ref(), &["--to", "gguf", "--dtype", "f16", "-o", &path("b.gguf")]));
}

#[test]
fn what_exists_is_kept_and_what_is_read_is_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out.gguf");
    fs::write(&out, "precious").unwrap();
    let args = ["--to", "gguf", "-o", out.to_str().unwrap()];
    let text = failure(&convert(&fixture("bookworm-4m"), &args));
    assert!(text.contains("out.gguf") && text.contains("--force"), "{text}");
    assert_eq!(fs::read(&out).unwrap(), b"precious");
    stdout(&convert(&fixture("bookworm-4m"), &[&args[..], &["--force"]].concat()));
    let before = fs::read(&out).unwrap();
    let text = failure(&convert(&out, &[&args[..], &["--force"]].concat()));
    assert!(text.contains("the file being read"), "{text}");
    assert!(fs::read(&out).unwrap() == before);
    let text = failure(&convert(&fixture("architectures/opt"), &["--to", "gguf", "-o", "/nowhere/x.gguf"]));
    assert!(text.contains("llama.cpp has no OPT architecture"), "{text}");
}

#[test]
fn a_full_disk_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    for more in ["--to gguf", "--to gguf --split-max-size 2M", "--to safetensors"] {
        // A file-size limit (in blocks of 512 bytes) fails the write half way, as a full disk does.
        let script = format!(
            "trap '' XFSZ; ulimit -f 3000; exec {:?} convert {:?} {more} -o {:?}",
            env!("CARGO_BIN_EXE_quern"),
            fixture("bookworm-4m"),
            dir.path().join("out")
        );
        let text = failure(&Command::new("sh").args(["-c", &script]).output().unwrap());
        assert!(text.contains("out"), "{text}");
        assert_eq!(listing(dir.path()), Vec::<String>::new(), "{more}");
    }
}

#[test]
fn wrong_usage_is_exit_code_two() {
    for (args, part) in [
        (&["--to", "gguf"][..], "--output"),
        (&["--to", "onnx", "-o", "x"], "known are gguf, safetensors, gptq, gptq_v2"),
        (&["--to", "gguf", "-o", "x", "--dtype", "q4_0"], "f32, f16 or bf16"),
        (&["--to", "gguf", "-o", "x", "--shard-size", "1G"], "--split-max-size splits"),
        (&["--to", "safetensors", "-o", "x", "--split-max-size", "1G"], "belong to --to gguf"),
        (&["--to", "gptq", "-o", "x", "--set", "a:u8=1"], "belong to --to gguf"),
        (&["--to", "gguf", "-o", "x", "--split-max-size", "1T"], "such as 500M or 4G"),
        (&["--to", "gguf", "-o", "x", "--split-max-size", "0"], "such as 500M or 4G"),
        (&["--to", "gguf", "-o", "x", "--split-max-tensors", "0"], "--split-max-tensors"),
        (&["--to", "gguf", "-o", "x", "--merge", "--split-max-size", "1G"], "cannot be used with"),
        (&["--to", "gguf", "-o", "x", "--set", "general.name"], "KEY=VALUE"),
    ] {
        let output = convert(&fixture("bookworm-4m"), args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(part), "{args:?}: {}", stderr(&output));
    }
}
