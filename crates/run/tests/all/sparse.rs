//! Attention to the positions that an indexer chooses, beyond what every architecture is tested for: texts that are no
//! longer than what it reads, going back in a text, and where it is computed.

use std::path::Path;

use crate::common::{fixture, golden, load, relative_errors};
use quern_run::{KvType, Model, SessionOptions, Wanted};
use quern_tensor_io::{Checkpoint, Metadata, TensorPlan, safetensors};
use serde_json::{Value, json};
use tempfile::TempDir;

const FOLDERS: [&str; 2] = ["deepseek_v32", "glm_moe_dsa"];

fn folder(name: &str) -> std::path::PathBuf {
    fixture("architectures").join(name)
}

/// A copy of a folder, less the tensors whose names contain `without`, with changes of its configuration.
fn changed(name: &str, changes: Value, without: &str) -> TempDir {
    let dir = TempDir::new().unwrap();
    for entry in std::fs::read_dir(folder(name)).unwrap() {
        let path = entry.unwrap().path();
        let file = path.file_name().unwrap().to_str().unwrap().to_owned();
        if file.starts_with("token") || file.starts_with("special") {
            std::fs::write(dir.path().join(file), std::fs::read(&path).unwrap()).unwrap();
        }
    }
    let config = std::fs::read_to_string(folder(name).join("config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&config).unwrap();
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let source = Checkpoint::open(&folder(name)).unwrap();
    let kept: Vec<_> =
        source.tensors().iter().filter(|t| without.is_empty() || !t.name.contains(without)).collect();
    let plan: Vec<TensorPlan> = kept
        .iter()
        .map(|t| TensorPlan { name: t.name.clone(), element_type: t.element_type, shape: t.shape.clone() })
        .collect();
    let to = dir.path().join("model.safetensors");
    let mut writer = safetensors::Writer::create(&to, &Metadata::new(), &plan, true).unwrap();
    kept.iter().for_each(|t| writer.write(source.data(t)).unwrap());
    writer.finish().unwrap();
    dir
}

fn tokens(name: &str) -> Vec<u32> {
    let prompt = &golden(&folder(name).join("logits.safetensors"))[0];
    [&prompt.input_ids[..], &prompt.greedy_ids].concat()
}

fn logits(model: &Model, tokens: &[u32], context: usize, part: usize) -> Vec<f32> {
    let options = SessionOptions { context, kv: KvType::F32, ..SessionOptions::default() };
    let mut session = model.session(options).unwrap();
    let parts = tokens.chunks(part).flat_map(|part| session.forward(part, Wanted::All).unwrap().to_vec());
    parts.collect()
}

fn open(dir: &Path) -> Model {
    load(dir, 2)
}

#[test]
fn a_text_no_longer_than_what_is_read_is_dense_attention_to_the_bit() {
    // DeepSeek V3 is the same model without indexers.
    let v3 = json!({ "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3" });
    let dense = changed("deepseek_v32", v3, ".indexer.");
    let (dense, tokens) = (open(dense.path()), tokens("deepseek_v32"));
    let wanted = logits(&dense, &tokens, 64, tokens.len());
    // As many positions as there are, in a context with room for more; and more than the context has.
    for top_k in [tokens.len(), 1000] {
        let dir = changed("deepseek_v32", json!({ "index_topk": top_k }), "");
        let model = open(dir.path());
        assert!(logits(&model, &tokens, 64, tokens.len()) == wanted, "{top_k}");
    }
    let one_by_one = logits(&dense, &tokens, 64, 1);
    let dir = changed("deepseek_v32", json!({ "index_topk": tokens.len() }), "");
    assert!(logits(&open(dir.path()), &tokens, 64, 1) == one_by_one);

    // One position less changes the last token alone; six change all behind the sixth.
    let dir = changed("deepseek_v32", json!({ "index_topk": tokens.len() - 1 }), "");
    let found = logits(&open(dir.path()), &tokens, 64, tokens.len());
    let row = dense.vocabulary();
    let before = (tokens.len() - 1) * row;
    let (largest, _) = relative_errors(&found[..before], &wanted[..before], row);
    assert!(largest < 1e-5, "{largest:e}");
    let (_, last) = relative_errors(&found[before..], &wanted[before..], row);
    assert!(last > 1e-4, "{last:e}");
    let sparse = logits(&open(&folder("deepseek_v32")), &tokens, 64, tokens.len());
    let (_, worst) = relative_errors(&sparse[6 * row..], &wanted[6 * row..], row);
    assert!(worst > 0.05, "{worst:e}");
}

#[test]
fn a_text_can_be_shortened_and_continued() {
    for name in FOLDERS {
        let (model, tokens) = (open(&folder(name)), tokens(name));
        let options = SessionOptions { context: 64, kv: KvType::F32, ..SessionOptions::default() };
        let mut session = model.session(options).unwrap();
        let wanted = session.forward(&tokens, Wanted::Last).unwrap().to_vec();
        assert_eq!(session.truncate(8), 8);
        let other: Vec<u32> = tokens[8..].iter().rev().copied().collect();
        session.forward(&other, Wanted::Last).unwrap();
        assert_eq!(session.truncate(8), 8);
        let found = session.forward(&tokens[8..], Wanted::Last).unwrap();
        let (largest, row) = relative_errors(found, &wanted, model.vocabulary());
        assert!(largest < 2e-5 && row < 2e-5, "{name}: {largest:e} {row:e}");
    }
}

#[test]
fn layers_without_an_indexer_read_what_the_one_before_chose() {
    let own = changed(
        "glm_moe_dsa",
        json!({ "indexer_types": ["full", "shared", "shared"] }),
        "layers.2.self_attn.indexer.",
    );
    let (shared, model, tokens) = (open(own.path()), open(&folder("glm_moe_dsa")), tokens("glm_moe_dsa"));
    let found = [&shared, &model].map(|model| logits(model, &tokens, 64, tokens.len()));
    let row = model.vocabulary();
    let within = 6 * row;
    assert!(found[0][..within] == found[1][..within], "six positions are read whole");
    let (_, worst) = relative_errors(&found[0][within..], &found[1][within..], row);
    assert!(worst > 1e-3, "{worst:e}");
    assert_eq!(shared.config().indexer.as_ref().unwrap().layers(), 1);
}

#[test]
fn gpus_leave_it_to_the_cpu() {
    for name in FOLDERS {
        let why = open(&folder(name)).beyond_gpus().unwrap();
        assert!(why.contains("an indexer chooses"), "{why}");
    }
}
