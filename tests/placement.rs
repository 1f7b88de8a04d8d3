//! Where models are run: `--device`, `--ngl`, `--max-memory` and the plan of `--dry-run`.

use serde_json::Value;

use crate::common::{failure, fixture, json, model, q4, quern, stderr, stdout};

/// The part of a report that is about one device.
fn device<'a>(report: &'a Value, name: &str) -> &'a Value {
    let mut devices = report["devices"].as_array().unwrap().iter();
    devices.find(|device| device["device"] == name).unwrap_or_else(|| panic!("{name}: {report}"))
}

#[test]
fn a_dry_run_prints_the_plan_and_loads_nothing() {
    let report = json(&["run", &q4(), "--dry-run", "--json", "--device", "cpu", "--context", "128"]);
    let layers = report["layers"].as_u64().unwrap();
    let cpu = device(&report, "cpu");
    assert_eq!(report["devices"].as_array().unwrap().len(), 1, "{report}");
    assert_eq!(cpu["blocks"], serde_json::json!([[0, layers - 2]]), "{report}");
    assert_eq!((&cpu["head"], &report["gpu_layers"]), (&true.into(), &0.into()));
    assert_eq!((&report["context"], &report["batch"]), (&128.into(), &128.into()));
    let size = std::fs::metadata(q4()).unwrap().len();
    assert_eq!(report["file_size"], size);
    let weights = cpu["weights_bytes"].as_u64().unwrap();
    assert!(weights < size && weights > size / 2, "{report}");

    let text = stdout(&quern(["run", &q4(), "--dry-run", "--device", "cpu"]));
    for part in ["parameters", "on disk", "context 1024 (f16)", "embedding, 0-", "head", "together"] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn the_plan_counts_the_context_the_cache_and_what_is_quantized_while_loading() {
    let cpu = |args: &[&str]| {
        let report = json(&[&["run", &model(), "--dry-run", "--json", "--device", "cpu"], args].concat());
        let bytes = |key: &str| device(&report, "cpu")[key].as_u64().unwrap();
        (bytes("weights_bytes"), bytes("cache_bytes"))
    };
    let (weights, cache) = cpu(&["-c", "256"]);
    assert_eq!(cpu(&["-c", "512"]), (weights, 2 * cache));
    assert_eq!(cpu(&["-c", "256", "--kv", "f32"]), (weights, 2 * cache));
    assert!(cpu(&["--load-in", "q4_0"]).0 < weights / 2);
    assert!(cpu(&["--load-in", "nf4"]).0 < weights);
    let text = failure(&quern(["run", &model(), "--dry-run", "-c", "100000"]));
    assert!(text.contains("context is 100000"), "{text}");
}

#[test]
fn perplexity_and_bench_have_dry_runs_too() {
    let text = fixture("text/validation.txt").display().to_string();
    let base = ["perplexity", &q4(), "--text", &text, "--dry-run", "--device", "cpu"];
    let list = json(&[&base[..], &["--reference", &model(), "--json"]].concat());
    assert_eq!((&list[0]["model"], &list[1]["model"]), (&q4().into(), &model().into()), "{list}");
    assert_eq!(list[0]["context"], 512);
    let eight = json(&[&base[..], &["--reference", &model(), "--json", "--kv", "q8_0"]].concat());
    assert_eq!((&eight[0]["kv"], &eight[1]["kv"]), (&"q8_0".into(), &"f16".into()), "{eight}");
    assert!(stdout(&quern(base)).contains("embedding, 0-"));
    let list = json(&["bench", &q4(), &model(), "--dry-run", "--json", "-n", "16", "-p", "64", "-d", "32"]);
    assert_eq!((&list[0]["context"], &list[1]["context"]), (&96.into(), &96.into()), "{list}");
}

#[test]
fn layers_that_ram_does_not_hold_are_planned_to_be_read_from_disk() {
    let plan = |limit: &str| {
        let model = model();
        quern([
            "run",
            &model,
            "--dry-run",
            "--json",
            "--device",
            "cpu",
            "--max-memory",
            limit,
            "--kv",
            "q8_0",
        ])
    };
    let whole: Value = serde_json::from_str(&stdout(&plan("512MiB"))).unwrap();
    assert_eq!(whole["devices"].as_array().unwrap().len(), 1, "{whole}");
    // The program itself takes some of it, more in a debug build: the limit that splits the model is searched for.
    let splits = (20..200).step_by(2).find_map(|mib| {
        let output = plan(&format!("cpu={mib}MiB"));
        let report: Value = serde_json::from_slice(&output.stdout).ok()?;
        (report["devices"].as_array()?.len() == 2).then_some(report)
    });
    let report = splits.expect("a limit under which some layers stay and others are streamed");
    let disk = device(&report, "disk");
    assert_eq!(disk["weights_bytes"], report["transfers"][0]["bytes_per_token"], "{report}");
    assert_eq!(report["transfers"][0]["from"], "disk");
    let text = failure(&plan("8MiB"));
    for part in ["8 MiB of memory to be used is too little", "the largest layer takes", "raise --max-memory"]
    {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[test]
fn packed_weights_are_planned_at_the_size_they_are_unpacked_to() {
    let dir = tempfile::tempdir().unwrap();
    let (nf4, ggml) = (dir.path().join("nf4"), dir.path().join("q4_0.gguf"));
    for (to, out) in [("nf4", &nf4), ("q4_0", &ggml)] {
        let out = out.display().to_string();
        stdout(&quern(["quantize", &model(), "--to", to, "-o", &out]));
    }
    let planned = |path: &std::path::Path| {
        let path = path.display().to_string();
        json(&["run", &path, "--dry-run", "--json", "--device", "cpu"])
    };
    let (nf4, ggml) = (planned(&nf4), planned(&ggml));
    assert_eq!(nf4["parameters"], ggml["parameters"]);
    let bytes = |report: &Value| device(report, "cpu")["weights_bytes"].as_u64().unwrap();
    // Blocks of both types have the same size; the NF4 checkpoint keeps its embedding in f16.
    assert!(bytes(&nf4) > bytes(&ggml) && bytes(&nf4) < 3 * bytes(&ggml), "{nf4} {ggml}");
}

#[test]
fn reports_after_a_run_say_what_each_device_held() {
    let model = q4();
    let run = ["run", "-m", &model, "-n", "4", "-p", "The sea was", "-t", "2", "--device", "cpu", "--json"];
    let report = json(&run);
    let cpu = device(&report["placement"], "cpu");
    for key in ["weights_bytes", "cache_bytes", "scratch_bytes", "memory_before_bytes", "memory_peak_bytes"] {
        assert!(cpu[key].as_u64().unwrap() > 0, "{key}: {report}");
    }
    assert!(cpu["memory_peak_bytes"].as_u64() >= cpu["memory_after_bytes"].as_u64(), "{report}");
    let plan = json(&[&run[..], &["--dry-run"]].concat());
    assert_eq!(device(&plan, "cpu")["weights_bytes"], cpu["weights_bytes"]);
    assert_eq!(device(&plan, "cpu")["cache_bytes"], cpu["cache_bytes"]);
    let bench = json(&["bench", "-m", &model, "-p", "8", "-n", "2", "-r", "1", "--device", "cpu", "--json"]);
    assert_eq!(device(&bench["placement"], "cpu")["weights_bytes"], cpu["weights_bytes"]);
    let text = fixture("text/validation.txt").display().to_string();
    let args = ["perplexity", "-m", &model, "-f", &text, "--chunks", "1", "--device", "cpu", "--json"];
    assert_eq!(device(&json(&args)["placement"], "cpu")["head"], true);
}

/// A number that no machine has a card of.
const NO_CARD: &str = "63";

#[test]
fn devices_that_are_not_there_are_named_before_anything_is_loaded() {
    let model = q4();
    let run = |args: &[&str]| quern([&["run", &model, "-p", "x", "-n", "1"], args].concat());
    let text = failure(&run(&["--device", &format!("cuda:{NO_CARD}")]));
    assert!(text.contains("CUDA") || text.contains(NO_CARD), "{text}");
    let limit = format!("{NO_CARD}=8GiB,cpu=8GiB");
    let text = failure(&run(&["--max-memory", &limit]));
    assert!(text.contains(&format!("there is no device {NO_CARD}: ")), "{text}");
    let text = failure(&run(&["--max-memory", &limit, "--device", "cpu"]));
    assert!(text.contains("only the CPU is used"), "{text}");
    let quantize = ["quantize", &model, "--to", "q8_0", "-o", "x", "--device", "cuda"];
    assert!(failure(&quern(quantize)).contains("computes on the CPU only"));
    for scheme in [&["--to", "gptq"][..], &["--to", "q4_0", "--calibrate"]] {
        let demo = fixture("bookworm-4m").display().to_string();
        let device = format!("cuda:{NO_CARD}");
        let text = failure(&quern([&["quantize", &demo, "-o", "x", "--device", &device], scheme].concat()));
        assert!(text.contains("CUDA") || text.contains(NO_CARD), "{text}");
        assert!(!std::path::Path::new("x").exists());
    }
    let imatrix = ["imatrix", &model, "-o", "x", "--device", &format!("cuda:{NO_CARD}")];
    let text = failure(&quern(imatrix));
    assert!(text.contains("CUDA") || text.contains(NO_CARD), "{text}");
    for (option, value, part) in [
        ("--device", "gpu", "expected auto, cpu, cuda"),
        ("--ngl", "many", "expected a number of layers"),
        ("-ngl", "2.5", "expected a number of layers"),
        ("--max-memory", "disk=8GiB", "expected cpu=SIZE"),
    ] {
        let output = run(&[option, value]);
        assert_eq!(output.status.code(), Some(2), "{option} {value}");
        assert!(stderr(&output).contains(part), "{option} {value}: {}", stderr(&output));
    }
}

#[test]
fn layers_for_a_gpu_that_is_not_used_are_a_note() {
    let model = q4();
    let output =
        quern(["run", "-m", &model, "-n", "2", "-p", "x", "-t", "2", "-ngl", "20", "--device", "cpu"]);
    assert!(stdout(&output).starts_with('x'));
    assert!(stderr(&output).contains("--ngl has no effect with --device cpu"), "{}", stderr(&output));
    // The guide's own line: with a GPU it uses it, without one it says so and computes all the same.
    let output = quern(["run", "-m", &model, "-n", "2", "-p", "x", "-t", "2", "-ngl", "20"]);
    assert!(stdout(&output).starts_with('x'));
    let output = quern(["run", "-m", &model, "-n", "2", "-p", "x", "-ngl", "0"]);
    assert!(!stderr(&output).contains("--ngl"), "{}", stderr(&output));
}
