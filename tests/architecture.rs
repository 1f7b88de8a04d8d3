//! `--architecture`: models of another name that are one that quern knows, and what is said of those that are not.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::common::{quern, stderr, stdout, tiny_copy};

/// A copy of the tiny Llama under another name.
fn renamed() -> tempfile::TempDir {
    let folder = tiny_copy("llama");
    let file = folder.path().join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    config["architectures"] = "FooForCausalLM".split(' ').collect();
    config["model_type"] = "foo".into();
    config["foo_scale"] = 2.5.into();
    fs::write(&file, config.to_string()).unwrap();
    folder
}

fn fails(args: &[&str]) -> String {
    let output = quern(args);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    stderr(&output)
}

#[test]
fn a_renamed_llama_runs_is_converted_and_quantized() {
    let dir = tempfile::tempdir().unwrap();
    let (renamed, own) = (renamed(), tiny_copy("llama"));
    let model = renamed.path().to_str().unwrap();
    let generate = |model: &str, more: &[&str]| {
        let output =
            quern([&["run", model, "-p", "It was", "-n", "4", "--temp", "0", "--json"], more].concat());
        (serde_json::from_str::<Value>(&stdout(&output)).unwrap()["tokens"].clone(), stderr(&output))
    };
    let text = fails(&["run", model, "-p", "It was", "-n", "4"]);
    assert!(text.contains("\"FooForCausalLM\" is not supported"), "{text}");
    assert!(text.contains("tensors and configuration are those of llama models"), "{text}");
    assert!(text.contains("foo_scale") && text.contains("--architecture llama"), "{text}");

    let (wanted, _) = generate(own.path().to_str().unwrap(), &[]);
    let (found, text) = generate(model, &["--architecture", "llama"]);
    assert_eq!(found, wanted);
    assert!(text.contains("treated as llama") && text.contains("foo_scale"), "{text}");

    let gguf = dir.path().join("m.gguf");
    let gguf = gguf.to_str().unwrap();
    let to_gguf = ["convert", model, "--to", "gguf", "-o", gguf, "--architecture", "llama"];
    let output = quern(to_gguf);
    let text = stderr(&output);
    stdout(&output);
    assert!(text.contains("treated as llama"), "{text}");
    // The file names what it is now; the option then says nothing new.
    let (found, text) = generate(gguf, &["--architecture", "llama"]);
    assert_eq!(found, wanted);
    assert!(!text.contains("treated"), "{text}");

    for (to, more) in [
        ("q8_0", &[][..]),
        ("nf4", &[]),
        ("gptq", &["--samples", "2", "--context", "32", "--group-size", "16"]),
    ] {
        let out = dir.path().join(to);
        let out = out.to_str().unwrap();
        let all = [&["quantize", model, "--to", to, "-o", out, "--architecture", "llama"], more].concat();
        stdout(&quern(all));
        let (found, _) = generate(out, &["--architecture", "llama"]);
        assert_eq!(found.as_array().unwrap().len(), 4, "{to}");
    }
}

#[test]
fn what_a_description_lacks_is_named() {
    let renamed = renamed();
    let model = renamed.path().to_str().unwrap();
    let weights = Path::new(model).join("model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    let text = String::from_utf8_lossy(&bytes[..4096]).into_owned();
    assert!(text.contains("self_attn.q_proj.weight"));
    let (from, to) = (b"self_attn.q_proj.weight", b"self_attn.q_prox.weight");
    let changed: Vec<u8> = replaced(&bytes, from, to);
    fs::write(&weights, changed).unwrap();
    let text = fails(&["run", model, "-p", "It was", "-n", "4"]);
    assert!(text.contains("nearest to llama"), "{text}");
    assert!(text.contains("such models do not have layers.{layer}.self_attn.q_prox.weight"), "{text}");
    assert!(text.contains("it does not have their layers.{layer}.self_attn.q_proj.weight"), "{text}");
    assert!(text.contains("foo_scale") && text.contains("--architectures"), "{text}");
    // Stating it all the same names the tensor.
    let text = fails(&["run", model, "-p", "It was", "-n", "4", "--architecture", "llama"]);
    assert!(text.contains("q_pro"), "{text}");
    let text = fails(&["run", model, "-p", "It was", "-n", "4", "--architecture", "nothing"]);
    assert!(text.contains("\"nothing\" is not supported"), "{text}");
}

fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at + from.len() <= out.len() {
        if &out[at..at + from.len()] == from {
            out[at..at + to.len()].copy_from_slice(to);
        }
        at += 1;
    }
    out
}
