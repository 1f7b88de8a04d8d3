//! `quern inspect --report` and `--histogram`.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::common::{command, failure, fixture, listing, model_copy, quern, stderr, stdout};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn json(args: &[&str]) -> Value {
    serde_json::from_str(&stdout(&quern(args))).unwrap()
}

#[test]
fn the_page_has_the_figures_of_the_json_and_is_the_same_for_every_number_of_threads() {
    let folder = tempfile::tempdir().unwrap();
    let (model, out) = (fixture("bookworm-4m-Q4_K_M.gguf"), folder.path().join("report.html"));
    let found = json(&["inspect", text(&model), "--report", text(&out), "--json", "-t", "1"]);
    let page = fs::read_to_string(&out).unwrap();
    assert_eq!(found["report"]["file_size"], page.len());
    assert_eq!(found["statistics"]["tensors"].as_array().unwrap().len(), 38);
    let kind = |name: &str| {
        let kinds = found["statistics"]["kinds"].as_array().unwrap();
        kinds.iter().find(|k| k["kind"] == name).unwrap()["values"].clone()
    };
    for name in ["token_embd", "ffn_down", "output_norm"] {
        for figure in ["min", "max", "mean", "rms", "kurtosis"] {
            let shown = quern_inspect::words::digits(kind(name)[figure].as_f64().unwrap());
            assert!(page.contains(&format!(">{shown}<")), "{name}: {figure} {shown}");
        }
    }
    let summary = quern_inspect::words::summary(text(&model), &quern_inspect::summarize(&open(&model)));
    for (label, value) in
        summary.iter().filter(|(label, _)| ["parameters", "scheme", "shape"].contains(label))
    {
        assert!(page.contains(value.as_str()), "{label}: {value}");
    }
    // Pages are passed on: where a model is on this machine is nobody's business.
    assert!(!page.contains(text(model.parent().unwrap())));
    let again = folder.path().join("again.html");
    let said = stdout(&quern(["inspect", text(&model), "--report", text(&again), "-t", "3"]));
    assert!(said.contains("report ") && said.contains("again.html"), "{said}");
    assert!(fs::read_to_string(&again).unwrap() == page);
    assert_eq!(listing(folder.path()), ["again.html", "report.html"]);
}

fn open(model: &Path) -> quern_tensor_io::Checkpoint {
    quern_tensor_io::Checkpoint::open(model).unwrap()
}

#[test]
fn two_models_are_shown_side_by_side() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("report.html");
    let (a, b) = (fixture("bookworm-4m"), fixture("bookworm-4m-Q4_K_M.gguf"));
    stdout(&quern(["inspect", text(&a), "--report", text(&out), "--against", text(&b)]));
    let page = fs::read_to_string(&out).unwrap();
    assert!(page.contains("Difference of B from A") && page.contains("relative RMSE"));
    let lone = quern(["inspect", text(&a), "--against", text(&b)]);
    assert_eq!(lone.status.code(), Some(2));
    assert!(stderr(&lone).contains("--report"), "{}", stderr(&lone));
}

#[test]
fn nothing_is_replaced_unless_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let (model, out) = (fixture("bookworm-4m-Q4_K_M.gguf"), folder.path().join("report.html"));
    fs::write(&out, "mine").unwrap();
    let error = failure(&quern(["inspect", text(&model), "--report", text(&out)]));
    assert!(error.contains("already exists") && error.contains("--force"), "{error}");
    assert_eq!(fs::read_to_string(&out).unwrap(), "mine");
    stdout(&quern(["inspect", text(&model), "--report", text(&out), "--force"]));
    assert!(fs::read_to_string(&out).unwrap().starts_with("<!DOCTYPE html>"));

    let copy = model_copy();
    let input = copy.path().join("model.safetensors");
    let error = failure(&quern(["inspect", text(copy.path()), "--report", text(&input), "--force"]));
    assert!(error.contains("this is the file being read"), "{error}");
    let error = failure(&quern(["inspect", text(&model), "--report", text(&out.join("missing/x.html"))]));
    assert!(error.contains("does not exist"), "{error}");
}

#[test]
fn a_tensor_is_shown_as_a_histogram_under_either_name() {
    let (model, gguf) = (fixture("bookworm-4m"), fixture("bookworm-4m-Q4_K_M.gguf"));
    let show = |locale: &str, model: &Path, tensor: &str| {
        let mut command = command();
        command.env("LC_ALL", locale).env_remove("TERM").env("COLUMNS", "60");
        let shown = stdout(&command.args(["inspect", text(model), "--histogram", tensor]).output().unwrap());
        assert!(
            shown.lines().skip_while(|line| !line.is_empty()).all(|l| l.chars().count() <= 64),
            "{shown}"
        );
        shown
    };
    let plain = show("C", &model, "blk.1.ffn_up.weight");
    for part in [
        "tensor          blk.1.ffn_up.weight",
        "in the file     model.layers.1.mlp.up_proj.weight",
        "type            f16, 768 x 256",
        "values          196608",
        "kurtosis",
        "p99.9 ",
        "largest column",
        "####",
    ] {
        assert!(plain.contains(part), "{part} in {plain}");
    }
    assert!(plain.is_ascii(), "{plain}");
    assert!(show("en_US.UTF-8", &gguf, "model.layers.1.mlp.up_proj.weight").contains("████"));

    let found = json(&["inspect", text(&model), "--histogram", "blk.1.ffn_up.weight", "--json"]);
    let tensor = &found["histograms"][0];
    assert_eq!((&tensor["type"], &tensor["values"]["count"]), (&"f16".into(), &196_608.into()));
    let histogram = &tensor["histogram"];
    let inside: u64 = histogram["counts"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).sum();
    assert_eq!(inside + histogram["below"].as_u64().unwrap() + histogram["above"].as_u64().unwrap(), 196_608);

    let error = failure(&quern(["inspect", text(&model), "--histogram", "blk.1.ffn_upp.weight"]));
    assert!(error.contains("blk.1.ffn_up.weight") && error.contains("quern inspect --tensors"), "{error}");
}
