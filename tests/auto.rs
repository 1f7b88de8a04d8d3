//! `quern quantize --to auto` and `--recipe`: types chosen by measurement within a size, and recipes as files.

use std::fs;
use std::path::Path;

use quern_tensor_io::Checkpoint;
use serde_json::Value;

use crate::common::{failure, fixture, quern, stderr, stdout};

/// Chooses with little text, which takes a second.
fn auto(more: &[&str]) -> std::process::Output {
    let model = fixture("bookworm-4m").display().to_string();
    let little = ["quantize", &model, "--to", "auto", "--samples", "4", "--context", "128"];
    quern(little.iter().chain(more))
}

fn types(path: &str) -> Vec<(String, &'static str)> {
    let checkpoint = Checkpoint::open(Path::new(path)).unwrap();
    checkpoint.tensors().iter().map(|t| (t.name.clone(), t.element_type.name())).collect()
}

fn inspect(path: &str) -> Value {
    serde_json::from_str(&stdout(&quern(["inspect", path, "--json"]))).unwrap()
}

#[test]
fn the_file_has_the_bits_that_were_asked_for_on_any_number_of_threads() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    for (threads, out) in [("1", path("1.gguf")), ("3", path("3.gguf"))] {
        let text = stdout(&auto(&["--target-bpw", "4.25", "-o", &out, "--threads", threads]));
        assert!(text.contains("predicted KL divergence 0.0"), "{text}");
    }
    assert!(fs::read(path("1.gguf")).unwrap() == fs::read(path("3.gguf")).unwrap());
    let report = inspect(&path("1.gguf"));
    let bits = report["bits_per_weight"].as_f64().unwrap();
    assert!((0.995 * 4.25..=4.25).contains(&bits), "{bits}");
    // Not all alike: that is what it was measured for.
    let mut different: Vec<_> = types(&path("1.gguf")).into_iter().map(|(_, t)| t).collect();
    different.sort_unstable();
    different.dedup();
    assert!(different.len() > 3, "{different:?}");
    let checkpoint = Checkpoint::open(path("1.gguf").as_ref()).unwrap();
    let provenance: Value =
        serde_json::from_str(checkpoint.metadata().str("quern.provenance").unwrap()).unwrap();
    let step = &provenance["steps"][0];
    assert_eq!(step["figures"]["target_bits_per_weight"], 4.25);
    assert!(step["figures"]["predicted_kl_mean"].as_f64().unwrap() > 0.0, "{step}");
    assert_eq!(step["calibration"]["samples"], 4);
    assert!(step["command"].as_str().unwrap().contains("--to auto --target-bpw 4.25"), "{step}");
    // No path of an importance matrix that is in no file.
    assert!(checkpoint.metadata().get("quantize.imatrix.file").is_none());
}

#[test]
fn a_size_is_kept_and_what_cannot_be_met_says_what_can() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("a.gguf").display().to_string();
    let size = 2_300_000;
    stdout(&auto(&["--target-size", &size.to_string(), "-o", &out]));
    let found = fs::metadata(&out).unwrap().len();
    assert!(found <= size && found as f64 >= 0.995 * size as f64, "{found}");

    let error = failure(&auto(&["--target-bpw", "1.5", "-o", &out, "--force"]));
    let least = error.split("has ").nth(1).and_then(|rest| rest.split(" bits per weight").next());
    let least: f64 = least.unwrap_or_else(|| panic!("{error}")).parse().unwrap();
    assert_eq!(fs::metadata(&out).unwrap().len(), found, "the older file stays");
    stdout(&auto(&["--target-bpw", &least.to_string(), "-o", &out, "--force"]));
    let error = failure(&auto(&["--target-size", "100KB", "-o", &out, "--force"]));
    let least = error.split("has ").nth(1).and_then(|rest| rest.split(" bytes").next());
    let least: u64 = least.unwrap_or_else(|| panic!("{error}")).parse().unwrap();
    stdout(&auto(&["--target-size", &least.to_string(), "-o", &out, "--force"]));
    let found = fs::metadata(&out).unwrap().len();
    assert!(found <= least && found + 128 > least, "{found} of {least}");
}

#[test]
fn a_dry_run_shows_and_saves_what_recipe_takes() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let (recipe, out) = (path("r.recipe"), path("r.gguf"));
    let plan = auto(&["--target-bpw", "5", "--dry-run", "--json", "--save-recipe", &recipe]);
    let plan: Value = serde_json::from_str(&stdout(&plan)).unwrap();
    let total = plan["predicted_kl_mean"].as_f64().unwrap();
    let tensors = plan["tensors"].as_array().unwrap();
    let sum: f64 = tensors.iter().filter_map(|t| t["predicted_kl_mean"].as_f64()).sum();
    assert!((sum / total - 1.0).abs() < 1e-9 && total > 0.0, "{sum} {total}");
    let text = fs::read_to_string(&recipe).unwrap();
    for part in ["# made by quern", "--target-bpw 5", "architecture = llama", "layers = 4", "default = "] {
        assert!(text.contains(part), "{part}: {text}");
    }

    let model = fixture("bookworm-4m").display().to_string();
    let (imatrix, text) = (path("i.gguf"), fixture("text").join("validation.txt").display().to_string());
    stdout(&quern(["imatrix", &model, "--text", &text, "--chunks", "1", "-o", &imatrix]));
    let command = ["quantize", &model, "--recipe", &recipe, "--imatrix", &imatrix, "-o", &out];
    stdout(&quern(command));
    let found = types(&out);
    for tensor in tensors {
        let (name, to) = (tensor["name"].as_str().unwrap(), tensor["to"].as_str().unwrap());
        assert!(found.contains(&(name.to_owned(), to)), "{name} {to}");
    }
    // Options for single tensors go before.
    let pinned = ["--tensor-type", "ffn_up=q8_0", "--token-embedding-type", "q6_k", "--force"];
    stdout(&quern(command.iter().chain(&pinned)));
    for (name, to) in types(&out) {
        if name.contains("ffn_up") && name.ends_with("weight") {
            assert_eq!(to, "q8_0", "{name}");
        }
        if name == "token_embd.weight" {
            assert_eq!(to, "q6_K");
        }
    }
    // And are left out of the choice.
    stdout(&auto(&["--target-bpw", "5", "-o", &out, "--force", "--tensor-type", "ffn_up=q8_0"]));
    let up = types(&out).into_iter().filter(|(name, _)| name.contains("ffn_up") && name.ends_with("weight"));
    assert!(up.into_iter().all(|(_, to)| to == "q8_0"));
    assert!(inspect(&out)["bits_per_weight"].as_f64().unwrap() <= 5.0);
}

#[test]
fn mistakes_are_refused_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let (recipe, out) = (path("r.recipe"), path("r.gguf"));
    let model = fixture("bookworm-4m").display().to_string();
    for (text, part) in [
        ("default = q4_K\nblk.0.attn_q.weight = q9_K\n", "line 2"),
        ("architecture = falcon\ndefault = q4_K\n", "falcon"),
        ("layers = 4\n", "add a line such as default = q4_K"),
    ] {
        fs::write(&recipe, text).unwrap();
        let error = failure(&quern(["quantize", &model, "--recipe", &recipe, "-o", &out]));
        assert!(error.contains(part), "{text}: {error}");
    }
    fs::write(&recipe, "default = q4_K\n").unwrap();
    // A recipe is an input: no output replaces it.
    let error = failure(&quern(["quantize", &model, "--recipe", &recipe, "-o", &recipe, "--force"]));
    assert!(error.contains("recipe"), "{error}");
    for (more, part) in [
        (&["--to", "auto"][..], "--target-bpw"),
        (&["--to", "auto", "--target-bpw", "0"], "from 1 to 32"),
        (&["--to", "auto", "--target-bpw", "4", "--target-size", "2MB"], "cannot be used with"),
        (&["--to", "auto", "--target-bpw", "4", "--pure"], "--pure"),
        (&["--to", "q4_k_m", "--target-bpw", "4"], "belong to --to auto"),
        (&["--to", "q4_k_m", "--recipe", &recipe], "leave --to out"),
        (&["--to", "recipe"], "--recipe FILE"),
        (&["--recipe", &recipe, "--target-bpw", "4"], "cannot be used with"),
        (&[], "--to"),
    ] {
        let output = quern(["quantize", &model, "-o", &out].iter().chain(more));
        assert_eq!(output.status.code(), Some(2), "{more:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(part), "{more:?}: {}", stderr(&output));
    }
    assert!(!Path::new(&out).exists());
}
