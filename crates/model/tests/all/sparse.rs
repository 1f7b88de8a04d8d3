//! What `config.json` and GGUF metadata say of the indexers of sparse attention, and what is wrong with it.

use crate::common::{copy_of, edit, fixture};
use quern_model::{Config, Packed, RopeStyle, View};
use quern_tensor_io::{Array, Checkpoint, Metadata, Value};
use serde_json::json;

fn own(changes: serde_json::Value) -> Result<Vec<bool>, String> {
    let dir = copy_of("architectures/glm_moe_dsa", &["config.json"]);
    let file = dir.path().join("config.json");
    edit(&file, json!({ "indexer_types": null }));
    edit(&file, changes);
    let config = Config::from_config_json(&file).map_err(|e| e.to_string())?;
    Ok(config.indexer.unwrap().own)
}

#[test]
fn the_layers_with_an_indexer_are_listed_lettered_or_counted() {
    assert_eq!(own(json!({})), Ok(vec![true; 3]));
    assert_eq!(
        own(json!({ "indexer_types": ["full", "shared", "full", "full"] })),
        Ok(vec![true, false, true])
    );
    assert_eq!(own(json!({ "index_topk_pattern": "FSS" })), Ok(vec![true, false, false]));
    assert_eq!(own(json!({ "index_topk_pattern": ["full", "full", "shared"] })), Ok(vec![true, true, false]));
    // As transformers counts: every fourth from the second on, and the first.
    let counted = own(json!({ "index_topk_freq": 4, "num_hidden_layers": 7, "mlp_layer_types": null }));
    assert_eq!(counted, Ok(vec![true, true, false, false, false, true, false]));
    let counted = own(
        json!({ "index_topk_freq": 2, "index_skip_topk_offset": 3, "num_hidden_layers": 7, "mlp_layer_types": null }),
    );
    assert_eq!(counted, Ok(vec![true, true, true, false, true, false, true]));
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    for (changes, wanted) in [
        (json!({ "indexer_types": ["full"] }), "indexer_types: 1 entries for 3 layers"),
        (json!({ "indexer_types": ["full", "half", "full"] }), "neither \"full\" nor \"shared\""),
        (json!({ "index_topk_pattern": "FSX" }), "'X' is neither F nor S"),
        (json!({ "index_topk_pattern": "FS" }), "index_topk_pattern: 2 entries for 3 layers"),
        (json!({ "indexer_types": ["shared", "full", "full"] }), "the first layer has no indexer"),
        (json!({ "index_head_dim": 4 }), "4 numbers of an indexer's heads, of which 8 are rotated"),
        (json!({ "index_topk": 0 }), "index_topk"),
        (json!({ "indexer_rope_interleave": false }), "indexer_rope_interleave"),
        (json!({ "attention_bias": true }), "attention_bias"),
    ] {
        let error = own(changes).unwrap_err();
        assert!(error.contains(wanted) && error.contains("config.json"), "{wanted}: {error}");
    }
}

#[test]
fn both_families_pair_the_numbers_of_an_indexer_in_their_own_way() {
    for (name, style) in [("deepseek_v32", RopeStyle::HalfSplit), ("glm_moe_dsa", RopeStyle::Interleaved)] {
        let file = fixture("architectures").join(name).join("config.json");
        let config = Config::from_config_json(&file).unwrap();
        let indexer = config.indexer.unwrap();
        assert_eq!((indexer.heads, indexer.head_dim, indexer.top_k), (8, 16, 6));
        assert_eq!(indexer.rope_style, style);
        let slots: Vec<usize> = (0..config.layers).map(|layer| indexer.slot(layer)).collect();
        assert_eq!(slots, if name == "glm_moe_dsa" { vec![0, 1, 1] } else { vec![0, 1] });
    }
}

/// The configuration of a GGUF file of `name` with changed metadata, and the file.
fn gguf(name: &str, change: impl Fn(&mut Metadata)) -> Result<Config, String> {
    let checkpoint = Checkpoint::open(&fixture("architectures").join(name)).unwrap();
    let view = View::gguf(&checkpoint, Packed::Refused).unwrap();
    let mut metadata = view.metadata().clone();
    change(&mut metadata);
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("model.gguf");
    let plan: Vec<_> = view
        .tensors()
        .iter()
        .map(|t| quern_tensor_io::TensorPlan {
            name: t.name.clone(),
            element_type: t.element_type,
            shape: t.shape.clone(),
        })
        .collect();
    let mut writer = quern_tensor_io::gguf::Writer::create(&file, &metadata, &plan, true).unwrap();
    for (at, tensor) in view.tensors().iter().enumerate() {
        let mut bytes = vec![0; tensor.rows() * tensor.row_bytes];
        view.read(at, 0..tensor.rows(), &mut bytes);
        writer.write(&bytes).unwrap();
    }
    writer.finish().unwrap();
    Config::from_checkpoint(&Checkpoint::open(&file).unwrap()).map_err(|e| e.to_string())
}

#[test]
fn gguf_files_that_do_not_list_the_layers_have_those_with_tensors() {
    const TYPES: &str = "glm-dsa.attention.indexer.types";
    let config = gguf("glm_moe_dsa", |metadata| drop(metadata.remove(TYPES))).unwrap();
    assert_eq!(config.indexer.unwrap().own, [true, false, true]);
    let error = gguf("glm_moe_dsa", |metadata| metadata.set(TYPES, Value::Array(Array::Bool(vec![true]))))
        .unwrap_err();
    assert!(error.contains(TYPES) && error.contains("each of 3 layers"), "{error}");
    const TOP_K: &str = "deepseek32.attention.indexer.top_k";
    let error = gguf("deepseek_v32", |metadata| drop(metadata.remove(TOP_K))).unwrap_err();
    assert!(error.contains(TOP_K) && error.contains("missing"), "{error}");
}
