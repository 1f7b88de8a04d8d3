//! Checkpoints as users have them: other prefixes, harmless surplus tensors, fused experts; and broken ones, which
//! every command refuses in the same way. Each test names the public report it covers by tracker and number.

use std::fs;
use std::path::Path;

use quern_tensor_io::Checkpoint;

use crate::common::{Tensors, edit, failure, fixture, listing, model_copy, quern, stderr, stdout, tiny_copy};
use crate::inspect::packed;

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// The text a model generates.
fn generated(model: &Path) -> String {
    let output =
        quern(["run", text(model), "-p", "It was the best of times", "-n", "8", "--temp", "0", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&stdout(&output)).expect("JSON");
    json["tokens"].to_string()
}

/// Converts `model` to GGUF, verified, and returns the file.
fn to_gguf(model: &Path, folder: &Path, name: &str) -> std::path::PathBuf {
    let out = folder.join(name);
    let printed = stdout(&quern(["convert", text(model), "--to", "gguf", "-o", text(&out)]));
    assert!(printed.contains("verified"), "{printed}");
    out
}

fn sound(model: &Path) -> String {
    let output = quern(["inspect", text(model), "--check"]);
    let text = stdout(&output);
    assert!(text.contains("sound"), "{text}");
    text
}

/// Every command that reads the weights of a Hugging Face checkpoint, with its output.
const READERS: [&[&str]; 7] = [
    &["run", "-p", "x", "-n", "1"],
    &["convert", "--to", "gguf", "-o", "OUT"],
    &["quantize", "--to", "q8_0", "-o", "OUT"],
    &["quantize", "--to", "nf4", "-o", "OUT"],
    &["quantize", "--to", "int8", "-o", "OUT"],
    &["quantize", "--to", "fp4", "-o", "OUT"],
    &["quantize", "--to", "gptq", "-o", "OUT"],
];

/// Runs every reader; each must fail with a message that holds all of `parts`, and leave nothing behind.
fn refused_by_all(model: &Path, parts: &[&str]) {
    for command in READERS {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let mut args = vec![command[0], text(model)];
        args.extend(command[1..].iter().map(|&a| if a == "OUT" { text(&out) } else { a }));
        let message = failure(&quern(&args));
        for part in parts {
            assert!(message.contains(part), "{command:?}: {message}");
        }
        assert_eq!(message.matches("error:").count(), 1, "{message}");
        assert_eq!(listing(dir.path()), Vec::<String>::new(), "{command:?}");
    }
    let check = quern(["inspect", text(model), "--check"]);
    assert_eq!(check.status.code(), Some(1));
    let printed = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(printed.contains("problem"), "{printed}");
}

#[test]
fn names_without_their_prefix_are_converted_and_verified() {
    // onnxruntime/mobius 113, vLLM 271: the published GPT-2 files.
    let (dir, out) = (tiny_copy("gpt2"), tempfile::tempdir().unwrap());
    let mut tensors = Tensors::read(dir.path()).rename(|name| name.replace("transformer.", ""));
    for layer in 0..2 {
        tensors.add(&format!("h.{layer}.attn.bias"), "F32", &[1, 1, 4, 4], vec![0; 64]);
    }
    tensors.write(dir.path());
    let gguf = to_gguf(dir.path(), out.path(), "gpt2.gguf");
    assert_eq!(generated(dir.path()), generated(&gguf));
    assert_eq!(generated(dir.path()), generated(&fixture("architectures/gpt2")));
    sound(dir.path());

    // llama.cpp 9211: a Llama saved without its head.
    let dir = model_copy();
    let bare = |name: &str| name.strip_prefix("model.").unwrap_or(name).to_owned();
    Tensors::read(dir.path()).rename(bare).write(dir.path());
    let gguf = to_gguf(dir.path(), out.path(), "llama.gguf");
    assert_eq!(fs::read(&gguf).unwrap().len(), {
        let usual = to_gguf(&fixture("bookworm-4m"), out.path(), "usual.gguf");
        fs::read(usual).unwrap().len()
    });
    assert_eq!(generated(dir.path()), generated(&gguf));
}

#[test]
fn what_wrappers_put_in_front_of_names_is_seen_through() {
    let usual = generated(&fixture("bookworm-4m"));
    for wrap in [
        "_orig_mod.",
        "module.",
        "base_model.model.",
        "pretrained_model.",
        "language_model.",
        "thinker.",
        "model.",
        "module.model.",
    ] {
        let (dir, out) = (model_copy(), tempfile::tempdir().unwrap());
        Tensors::read(dir.path()).rename(|name| format!("{wrap}{name}")).write(dir.path());
        assert_eq!(generated(dir.path()), usual, "{wrap}");
        let gguf = to_gguf(dir.path(), out.path(), "out.gguf");
        assert_eq!(generated(&gguf), usual, "{wrap}");
        // What is written has the names that readers look for.
        let nf4 = out.path().join("nf4");
        stdout(&quern(["quantize", text(dir.path()), "--to", "nf4", "-o", text(&nf4)]));
        let names: Vec<_> = Tensors::read(&nf4).0.into_iter().map(|t| t.0).collect();
        assert!(names.iter().any(|n| n == "model.layers.0.mlp.up_proj.weight"), "{wrap}: {names:?}");
        assert!(names.iter().all(|n| !n.starts_with(&format!("{wrap}model."))), "{wrap}: {names:?}");
    }
    // torch.compile of single modules: the wrapper's prefix is in the middle of the name.
    let dir = model_copy();
    let inside = |name: &str| name.replace(".mlp.", "._orig_mod.mlp.");
    Tensors::read(dir.path()).rename(inside).write(dir.path());
    assert_eq!(generated(dir.path()), usual);
}

#[test]
fn the_thinker_of_an_omni_model_is_the_model_by_itself() {
    let usual = generated(&fixture("architectures/qwen3_moe"));
    let (dir, out) = (tiny_copy("qwen3_moe"), tempfile::tempdir().unwrap());
    let mut tensors = Tensors::read(dir.path()).rename(|name| format!("thinker.{name}"));
    for tower in ["thinker.visual.norm", "thinker.audio_tower.proj1", "talker.model.norm", "code2wav.decoder"]
    {
        tensors.add(&format!("{tower}.weight"), "F16", &[2], vec![0; 4]);
    }
    tensors.write(dir.path());
    let file = dir.path().join("config.json");
    let mut inner: serde_json::Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    inner["model_type"] = "qwen3_omni_moe_text".into();
    let whole = serde_json::json!({
        "architectures": ["Qwen3OmniMoeForConditionalGeneration"],
        "model_type": "qwen3_omni_moe",
        "thinker_config": { "text_config": inner, "vision_config": {}, "audio_config": {} },
        "talker_config": {},
    });
    fs::write(&file, whole.to_string()).unwrap();
    assert_eq!(generated(dir.path()), usual);
    let note = "4 tensors of audio_tower, code2wav, talker, visual are left out";
    let summary = stdout(&quern(["inspect", text(dir.path())]));
    assert!(summary.contains("f16, 16.00 bits per weight") && summary.contains(note), "{summary}");
    assert_eq!(generated(&to_gguf(dir.path(), out.path(), "out.gguf")), usual);
    // All of it stays where nothing has to be left out.
    let (same, nf4) = (out.path().join("same"), out.path().join("nf4"));
    stdout(&quern(["convert", text(dir.path()), "--to", "safetensors", "-o", text(&same)]));
    assert_eq!(Tensors::read(&same).0.len(), Tensors::read(dir.path()).0.len());
    stdout(&quern(["quantize", text(dir.path()), "--to", "nf4", "-o", text(&nf4)]));
    assert!(Tensors::read(&nf4).0.iter().all(|t| t.0.starts_with("model.") || t.0.starts_with("lm_head.")));
}

#[test]
fn biases_of_zeros_are_left_out_and_others_refused() {
    // QwenLM/Qwen3 714, AutoGPTQ 555.
    for value in [0u8, 0x3c] {
        let (dir, out) = (packed("gptq-4bit-g128", |_| true), tempfile::tempdir().unwrap());
        let mut tensors = Tensors::read(dir.path());
        for (module, rows) in [("self_attn.o_proj", 256), ("mlp.gate_proj", 768), ("mlp.down_proj", 256)] {
            let data = [0, value].repeat(rows);
            tensors.add(&format!("model.layers.0.{module}.bias"), "F16", &[rows], data);
        }
        tensors.write(dir.path());
        let gguf = out.path().join("out.gguf");
        let converted =
            quern(["convert", text(dir.path()), "--to", "gguf", "-o", text(&gguf), "--dtype", "f16"]);
        let run = quern(["run", text(dir.path()), "-p", "x", "-n", "1"]);
        let check = quern(["inspect", text(dir.path()), "--check"]);
        match value {
            0 => {
                let notes = stderr(&converted);
                assert!(stdout(&converted).contains("verified"), "{notes}");
                assert!(notes.contains("3 biases that are all zero"), "{notes}");
                assert_eq!(notes.matches("left out").count(), 1, "{notes}");
                assert!(stderr(&run).contains("3 biases that are all zero"), "{}", stderr(&run));
                assert!(stdout(&check).contains("sound"));
            }
            _ => {
                for output in [converted, run] {
                    let message = failure(&output);
                    assert!(message.contains("o_proj.bias") && message.contains("not zero"), "{message}");
                }
                assert_eq!(check.status.code(), Some(1));
            }
        }
    }
}

#[test]
fn masks_buffers_and_value_heads_are_left_out_of_any_type() {
    // Pythia's masks are bool, its mask value a scalar; TRL keeps a value head.
    let (dir, out) = (tiny_copy("gpt_neox"), tempfile::tempdir().unwrap());
    let mut tensors = Tensors::read(dir.path());
    for layer in 0..2 {
        let at = format!("gpt_neox.layers.{layer}.attention");
        tensors.add(&format!("{at}.bias"), "BOOL", &[1, 1, 8, 8], vec![1; 64]);
        tensors.add(&format!("{at}.masked_bias"), "F16", &[], vec![0x00, 0xfc]);
        tensors.add(&format!("{at}.rotary_emb.inv_freq"), "F32", &[2], vec![0; 8]);
    }
    tensors.add("v_head.summary.weight", "F32", &[1, 2], vec![1; 8]);
    tensors.add("v_head.summary.bias", "F32", &[1], vec![1; 4]);
    tensors.write(dir.path());
    let printed = sound(dir.path());
    assert!(printed.contains("28 tensors read"), "{printed}");
    assert!(
        printed.contains("4 attention masks, 2 position buffers, 2 tensors of a value head"),
        "{printed}"
    );
    let gguf = to_gguf(dir.path(), out.path(), "out.gguf");
    assert_eq!(generated(dir.path()), generated(&gguf));
    assert_eq!(generated(dir.path()), generated(&fixture("architectures/gpt_neox")));
}

#[test]
fn cache_scales_count_only_where_the_configuration_announces_them() {
    // sglang 35455, vLLM 6528.
    let (dir, out) = (packed("awq-4bit-g64", |_| true), tempfile::tempdir().unwrap());
    let mut tensors = Tensors::read(dir.path());
    tensors.add("model.layers.0.self_attn.k_scale", "F16", &[1], vec![0x00, 0x3c]);
    tensors.add("model.layers.0.self_attn.v_scale", "F16", &[1], vec![0x00, 0x3c]);
    tensors.write(dir.path());
    let run = |n: &str| quern(["run", text(dir.path()), "-p", "x", "-n", n]);
    let message = failure(&run("1"));
    assert!(message.contains("self_attn.k_scale") && message.contains("no such tensor"), "{message}");
    let config = fs::read_to_string(dir.path().join("config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
    config["quantization_config"]["kv_cache_scheme"] = serde_json::json!({ "num_bits": 8, "type": "float" });
    fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let output = run("1");
    stdout(&output);
    assert!(stderr(&output).contains("2 KV-cache scales"), "{}", stderr(&output));
    let gguf = out.path().join("out.gguf");
    let args = ["convert", text(dir.path()), "--to", "gguf", "-o", text(&gguf), "--dtype", "f16"];
    assert!(stdout(&quern(args)).contains("verified"));
    sound(dir.path());
}

/// A matrix of one expert, to be stacked with those of the others.
struct OneExpert {
    expert: usize,
    /// Which of the matrices in the stack.
    place: usize,
    shape: Vec<usize>,
    kind: &'static str,
    data: Vec<u8>,
}

#[test]
fn experts_in_one_tensor_are_read_as_those_in_many() {
    // transformers 5: save_pretrained(…, save_original_format=False).
    for (name, gate, up, down, router) in [
        ("mixtral", "w1", "w3", "w2", Some(("block_sparse_moe.gate", "mlp.gate"))),
        ("qwen3_moe", "gate_proj", "up_proj", "down_proj", None),
    ] {
        let (dir, out) = (tiny_copy(name), tempfile::tempdir().unwrap());
        let original = Tensors::read(dir.path());
        let mut fused = Tensors(Vec::new());
        let mut stacks: Vec<(String, Vec<OneExpert>)> = Vec::new();
        for (tensor, kind, shape, data) in original.0 {
            let Some((before, behind)) = tensor.split_once(".experts.") else {
                let tensor = router.map_or(tensor.clone(), |(from, to)| tensor.replace(from, to));
                fused.0.push((tensor, kind, shape, data));
                continue;
            };
            let before = before.replace("block_sparse_moe", "mlp");
            let (expert, module) = behind.split_once('.').unwrap();
            let module = module.trim_end_matches(".weight");
            let (stack, place) = match module {
                m if m == gate => ("gate_up_proj", 0),
                m if m == up => ("gate_up_proj", 1),
                m if m == down => ("down_proj", 0),
                other => panic!("{other}"),
            };
            let stack = format!("{before}.experts.{stack}");
            let entry = OneExpert { expert: expert.parse().unwrap(), place, shape, kind, data };
            match stacks.iter_mut().find(|(name, _)| *name == stack) {
                Some((_, entries)) => entries.push(entry),
                None => stacks.push((stack, vec![entry])),
            }
        }
        for (stack, mut entries) in stacks {
            entries.sort_by_key(|e| (e.expert, e.place));
            let experts = entries.last().unwrap().expert + 1;
            let [rows, columns] = entries[0].shape[..] else { panic!() };
            let shape = [experts, rows * entries.len() / experts, columns];
            let data = entries.iter().flat_map(|e| e.data.clone()).collect();
            fused.add(&stack, entries[0].kind, &shape, data);
        }
        fused.write(dir.path());
        let usual = fixture("architectures").join(name);
        assert_eq!(generated(dir.path()), generated(&usual), "{name}");
        sound(dir.path());
        let gguf = to_gguf(dir.path(), out.path(), "fused.gguf");
        let same = to_gguf(&usual, out.path(), "usual.gguf");
        let (fused, usual) = (Checkpoint::open(&gguf).unwrap(), Checkpoint::open(&same).unwrap());
        assert_eq!(fused.tensors().len(), usual.tensors().len(), "{name}");
        for info in usual.tensors() {
            let other = fused.tensor(&info.name).unwrap();
            assert!(
                other.info.shape == info.shape && other.data == usual.data(info),
                "{name}: {}",
                info.name
            );
        }
        for scheme in ["nf4", "q8_0", "gptq"] {
            let target = out.path().join(scheme);
            stdout(&quern(["quantize", text(dir.path()), "--to", scheme, "-o", text(&target)]));
            stdout(&quern(["run", text(&target), "-p", "x", "-n", "1"]));
        }
    }
}

#[test]
fn broken_checkpoints_are_refused_by_every_command() {
    let missing = model_copy();
    let mut tensors = Tensors::read(missing.path());
    tensors.0.retain(|t| t.0 != "model.layers.2.mlp.up_proj.weight");
    tensors.write(missing.path());
    refused_by_all(missing.path(), &["model.layers.2.mlp.up_proj.weight", "missing", "model.safetensors"]);

    let rows = model_copy();
    let mut tensors = Tensors::read(rows.path());
    let embedding = tensors.0.iter_mut().find(|t| t.0 == "model.embed_tokens.weight").unwrap();
    embedding.2[0] += 1;
    embedding.3.extend([0; 512]);
    tensors.write(rows.path());
    refused_by_all(rows.path(), &["model.embed_tokens.weight", "[4097, 256]", "[4096, 256]"]);

    let head = model_copy();
    edit(head.path(), "config.json", &[("\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false")]);
    refused_by_all(head.path(), &["lm_head.weight", "missing"]);

    let layers = model_copy();
    edit(layers.path(), "config.json", &[("\"num_hidden_layers\": 4", "\"num_hidden_layers\": 3")]);
    refused_by_all(layers.path(), &["model.layers.3.", "9 tensors", "num_hidden_layers to 4"]);

    let foreign = model_copy();
    Tensors::read(foreign.path()).rename(|name| format!("net.{name}")).write(foreign.path());
    refused_by_all(foreign.path(), &["names of another kind", "net.model"]);

    let surplus = model_copy();
    let mut tensors = Tensors::read(surplus.path());
    tensors.add("model.layers.1.self_attn.gate_proj.weight", "F16", &[1, 2], vec![1; 4]);
    tensors.write(surplus.path());
    refused_by_all(surplus.path(), &["model.layers.1.self_attn.gate_proj.weight", "no such tensor"]);

    let twice = model_copy();
    let mut tensors = Tensors::read(twice.path());
    tensors.add("norm.weight", "F16", &[256], vec![1; 512]);
    tensors.write(twice.path());
    refused_by_all(twice.path(), &["norm.weight", "model.norm.weight", "other values"]);
}

#[test]
fn a_head_of_its_own_counts_whatever_the_flag_says() {
    // LlamaFactory 10560: tie_word_embeddings is true, and the file has both matrices with different values.
    let (dir, out) = (model_copy(), tempfile::tempdir().unwrap());
    let mut tensors = Tensors::read(dir.path());
    let embedding = tensors.0.iter().find(|t| t.0 == "model.embed_tokens.weight").unwrap();
    // Rows in reverse order: every token gets the logit of another.
    let rows: Vec<u8> = embedding.3.chunks_exact(512).rev().flatten().copied().collect();
    tensors.add("lm_head.weight", "F16", &[4096, 256], rows);
    tensors.write(dir.path());
    let own = generated(dir.path());
    assert_ne!(own, generated(&fixture("bookworm-4m")));
    let gguf = to_gguf(dir.path(), out.path(), "out.gguf");
    assert_eq!(generated(&gguf), own);
    sound(dir.path());
}

#[test]
fn vocabularies_that_grew_are_converted_or_refused_with_both_numbers() {
    // LlamaFactory 4195, llama.cpp 5910: rows and vocab_size grew together; then the rows alone.
    let (dir, out) = (model_copy(), tempfile::tempdir().unwrap());
    let mut tensors = Tensors::read(dir.path());
    let embedding = tensors.0.iter_mut().find(|t| t.0 == "model.embed_tokens.weight").unwrap();
    embedding.2[0] = 4160;
    embedding.3.resize(4160 * 512, 0);
    tensors.write(dir.path());
    refused_by_all(dir.path(), &["[4160, 256]", "[4096, 256]"]);
    edit(dir.path(), "config.json", &[("\"vocab_size\": 4096", "\"vocab_size\": 4160")]);
    let gguf = to_gguf(dir.path(), out.path(), "out.gguf");
    assert_eq!(generated(&gguf), generated(dir.path()));
    // The rows beyond the tokens have no text in either format.
    let back = out.path().join("back");
    let printed = quern(["convert", text(&gguf), "--to", "safetensors", "-o", text(&back)]);
    assert!(stdout(&printed).contains("verified"), "{}", stderr(&printed));
    assert_eq!(generated(&back), generated(dir.path()));
}
