//! Recipes against the types llama-quantize chose.

use std::collections::BTreeMap;

use crate::common::{Shape, bookworm, dense, golden};
use quern_quantize::recipe::{Choice, FileType, ModelFacts, Override, RecipeError, RecipeOptions, choose};
use quern_tensor_io::ElementType as E;
use quern_tensor_io::{Array, Metadata, Value};

/// Types by tensor name.
fn types(shape: &Shape, options: &RecipeOptions) -> BTreeMap<String, E> {
    let tensors = shape.tensors();
    let choices = choose(&shape.facts, &tensors, options).expect("a recipe");
    choices.iter().map(|c| (tensors[c.index].name.clone(), c.element_type)).collect()
}

fn choice(shape: &Shape, options: &RecipeOptions, name: &str) -> Choice {
    let tensors = shape.tensors();
    let choices = choose(&shape.facts, &tensors, options).expect("a recipe");
    choices.into_iter().find(|c| tensors[c.index].name == name).expect("the tensor")
}

/// Layers whose `part` has type `t`.
fn layers(types: &BTreeMap<String, E>, part: &str, t: E) -> Vec<usize> {
    let layer = |name: &str| name.strip_prefix("blk.")?.split_once('.')?.0.parse().ok();
    let mut layers: Vec<usize> = types
        .iter()
        .filter(|(name, found)| name.ends_with(&format!(".{part}.weight")) && **found == t)
        .filter_map(|(name, _)| layer(name))
        .collect();
    layers.sort_unstable();
    layers
}

#[test]
fn every_file_type_gives_the_demo_model_the_types_llama_quantize_gave_it() {
    let table = golden("recipe-bookworm-4m.json");
    let names: Vec<&str> = table["tensors"].as_array().unwrap().iter().map(|n| n.as_str().unwrap()).collect();
    let files = table["types"].as_object().unwrap();
    assert_eq!(files.len(), 53, "22 file types without and 31 with an importance matrix");
    let shape = bookworm();
    let tensors = shape.tensors();
    for (key, row) in files {
        let (file_type, imatrix) = key.split_once('/').unwrap();
        let mut options = RecipeOptions::new(FileType::from_name(file_type).expect(file_type));
        options.has_imatrix = imatrix == "imatrix";
        let choices = choose(&shape.facts, &tensors, &options).unwrap();
        let order: Vec<&str> = choices.iter().map(|c| tensors[c.index].name.as_str()).collect();
        assert_eq!(order, names, "{key}: order of tensors");
        let found: Vec<E> = choices.iter().map(|c| c.element_type).collect();
        let expected: Vec<E> = row.as_str().unwrap().split(' ').map(|t| E::from_name(t).expect(t)).collect();
        assert_eq!(found, expected, "{key}");
        assert!(choices.iter().all(|c| c.instead_of.is_none()), "{key}: nothing needs a fallback");
    }
}

/// `0-3,6,9` as numbers.
fn ranges(text: &str) -> Vec<usize> {
    let number = |s: &str| s.parse::<usize>().unwrap();
    text.split(',')
        .flat_map(|part| match part.split_once('-') {
            Some((a, b)) => number(a)..=number(b),
            None => number(part)..=number(part),
        })
        .collect()
}

/// The tables were confirmed against llama.cpp's own snapshot files of these models.
#[test]
fn large_models_get_the_types_of_llama_cpp_s_own_tests() {
    let table = golden("recipe-large-models.json");
    for model in table.as_array().unwrap() {
        let number = |key: &str| model[key].as_u64().unwrap() as usize;
        let facts = ModelFacts {
            architecture: model["architecture"].as_str().unwrap().into(),
            layers: number("layers"),
            heads: number("heads"),
            kv_heads: number("kv_heads"),
            experts: number("experts"),
        };
        let shape = Shape {
            facts,
            embedding: number("embedding"),
            feed_forward: number("feed_forward"),
            head_dim: number("head_dim"),
            vocabulary: number("vocabulary"),
            tied: model["tied"].as_bool().unwrap(),
        };
        for (file_type, exceptions) in model["exceptions"].as_object().unwrap() {
            let options = RecipeOptions::new(FileType::from_name(file_type).unwrap());
            let default = options.file_type.default_type().unwrap();
            let mut expected: BTreeMap<String, E> = shape
                .tensors()
                .into_iter()
                .map(|t| (t.name.clone(), if t.shape.len() > 1 { default } else { t.element_type }))
                .collect();
            for (name, t) in expected.iter_mut().filter(|(name, _)| name.contains("ffn_gate_inp")) {
                *t = E::F16;
                assert!(name.starts_with("blk."));
            }
            for (part, by_type) in exceptions.as_object().unwrap() {
                for (t, places) in by_type.as_object().unwrap() {
                    let t = E::from_name(t).unwrap();
                    let places = places.as_str().unwrap();
                    if places.is_empty() {
                        expected.insert(format!("{part}.weight"), t);
                    } else {
                        for layer in ranges(places) {
                            let place = expected.get_mut(&format!("blk.{layer}.{part}.weight"));
                            *place.expect("a tensor of the model") = t;
                        }
                    }
                }
            }
            assert_eq!(types(&shape, &options), expected, "{} {file_type}", model["name"]);
        }
    }
}

#[test]
fn pure_means_one_type_and_fallbacks_where_it_does_not_fit() {
    let mut shape = bookworm();
    let mut options = RecipeOptions::new(FileType::Q4KM);
    options.pure = true;
    assert!(
        types(&shape, &options).iter().all(|(n, &t)| t == if n.contains("norm") { E::F32 } else { E::Q4K })
    );

    shape.feed_forward = 160;
    let down = choice(&shape, &options, "blk.0.ffn_down.weight");
    assert_eq!((down.element_type, down.instead_of), (E::Q5_0, Some(E::Q4K)));
    shape.feed_forward = 100;
    let down = choice(&shape, &options, "blk.0.ffn_down.weight");
    assert_eq!((down.element_type, down.instead_of), (E::F16, Some(E::Q4K)));
    // the rows of the others are as they were
    assert_eq!(choice(&shape, &options, "blk.0.ffn_up.weight").element_type, E::Q4K);
}

#[test]
fn a_head_whose_rows_are_not_whole_blocks_becomes_q8_0() {
    let mut shape = dense("llama", 2, 2, 2);
    shape.embedding = 32 * 9;
    let head = choice(&shape, &RecipeOptions::new(FileType::Q4KM), "output.weight");
    assert_eq!((head.element_type, head.instead_of), (E::Q8_0, None));
    let embeddings = choice(&shape, &RecipeOptions::new(FileType::Q4KM), "token_embd.weight");
    assert_eq!((embeddings.element_type, embeddings.instead_of), (E::Q5_0, Some(E::Q4K)));
}

#[test]
fn options_win_in_llama_quantize_s_order() {
    let shape = dense("llama", 8, 8, 8);
    let mut options = RecipeOptions::new(FileType::Q4KM);
    options.overrides = vec![
        Override::parse("attn_q=q8_0").unwrap(),
        Override::parse("attn=f16").unwrap(),
        Override::parse("output=q5_0").unwrap(),
        Override::parse("token_embd=q5_1").unwrap(),
    ];
    let found = types(&shape, &options);
    assert_eq!(found["blk.0.attn_q.weight"], E::Q8_0, "the first match wins");
    assert_eq!(found["blk.0.attn_v.weight"], E::F16);
    assert_eq!(found["blk.0.attn_output.weight"], E::F16);
    assert_eq!(found["output.weight"], E::Q5_0);
    assert_eq!(found["token_embd.weight"], E::Q5_1);
    assert_eq!(found["blk.0.attn_norm.weight"], E::F32, "what is not quantized is not overridden");

    options.output_tensor_type = Some(E::Q2K);
    options.token_embedding_type = Some(E::Q3K);
    let found = types(&shape, &options);
    assert_eq!(found["output.weight"], E::Q2K);
    assert_eq!(found["token_embd.weight"], E::Q3K);

    options.leave_output_tensor = true;
    assert_eq!(types(&shape, &options)["output.weight"], E::F16, "left as the source has it");

    // overrides hold with --pure, and are not heeded by plain file types
    let mut options = RecipeOptions::new(FileType::Q8_0);
    options.pure = true;
    options.overrides = vec![Override::parse("ffn_up=q4_k").unwrap()];
    assert_eq!(types(&shape, &options)["blk.3.ffn_up.weight"], E::Q4K);
    options.file_type = FileType::BF16;
    assert_eq!(types(&shape, &options)["blk.3.ffn_up.weight"], E::BF16);
}

#[test]
fn tied_embeddings_follow_the_output_option() {
    let shape = bookworm();
    let mut options = RecipeOptions::new(FileType::Q4KM);
    options.output_tensor_type = Some(E::Q8_0);
    assert_eq!(types(&shape, &options)["token_embd.weight"], E::Q8_0);
    options.token_embedding_type = Some(E::Q5K);
    assert_eq!(types(&shape, &options)["token_embd.weight"], E::Q5K);
}

#[test]
fn pinning_a_layer_shifts_the_pattern_of_the_later_ones() {
    // llama-quantize counts only the tensors that reach a rule
    let shape = dense("llama", 32, 8, 8);
    let mut options = RecipeOptions::new(FileType::Q4KM);
    let usual = [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31];
    assert_eq!(layers(&types(&shape, &options), "ffn_down", E::Q6K), usual);
    options.overrides = vec![Override::parse(r"blk\.0\.ffn_down=q8_0").unwrap()];
    let shifted = [1, 2, 3, 4, 7, 10, 13, 16, 19, 22, 25, 28, 29, 30, 31];
    assert_eq!(layers(&types(&shape, &options), "ffn_down", E::Q6K), shifted);
    assert_eq!(layers(&types(&shape, &options), "attn_v", E::Q6K), usual, "other kinds are counted apart");
}

#[test]
fn models_with_experts_have_their_own_rules() {
    let mut shape = dense("llama", 32, 8, 8);
    shape.facts.experts = 8;
    let found = types(&shape, &RecipeOptions::new(FileType::Q4KM));
    assert_eq!(layers(&found, "attn_v", E::Q8_0).len(), 32);
    assert_eq!(layers(&found, "attn_k", E::Q8_0).len(), 32);
    assert_eq!(layers(&found, "attn_output", E::Q5K).len(), 32);
    assert_eq!(layers(&found, "ffn_down_exps", E::Q6K).len(), 16);
    assert_eq!(layers(&found, "ffn_gate_inp", E::F16).len(), 32, "routers stay");
    // a layer is read from the name: pinning one does not shift the others
    let mut options = RecipeOptions::new(FileType::Q4KM);
    options.overrides = vec![Override::parse(r"blk\.0\.ffn_down=q8_0").unwrap()];
    assert_eq!(layers(&types(&shape, &options), "ffn_down_exps", E::Q6K).len(), 15);
    assert!(!layers(&types(&shape, &options), "ffn_down_exps", E::Q6K).contains(&4));

    let found = types(&shape, &RecipeOptions::new(FileType::MXFP4Moe));
    assert_eq!(layers(&found, "ffn_up_exps", E::MXFP4).len(), 32);
    assert_eq!(layers(&found, "attn_q", E::Q8_0).len(), 32);
    assert_eq!(found["output.weight"], E::Q8_0);

    let mut tensors = shape.tensors();
    let down = tensors.iter_mut().find(|t| t.name.contains("ffn_down")).unwrap();
    down.name = "blk.32.ffn_down_exps.weight".into();
    let error = choose(&shape.facts, &tensors, &RecipeOptions::new(FileType::Q4KM)).unwrap_err();
    assert!(matches!(error, RecipeError::NoLayer { layers: 32, .. }), "{error}");
}

#[test]
fn falcon_and_the_70b_shape_are_exceptions() {
    let mut shape = dense("falcon", 32, 8, 1);
    let found = types(&shape, &RecipeOptions::new(FileType::Q4KM));
    assert_eq!(found["output.weight"], E::Q8_0);
    assert_eq!(layers(&found, "ffn_down", E::Q6K), [0, 1]);
    assert_eq!(layers(&found, "ffn_down", E::Q5K).len(), 14);
    shape.facts = ModelFacts { architecture: "llama".into(), layers: 80, heads: 64, kv_heads: 8, experts: 0 };
    assert_eq!(layers(&types(&shape, &RecipeOptions::new(FileType::Q3KS)), "attn_v", E::Q5K).len(), 80);
    shape.facts.architecture = "qwen2".into();
    assert_eq!(layers(&types(&shape, &RecipeOptions::new(FileType::Q3KS)), "attn_v", E::Q5K).len(), 80);
    shape.facts.architecture = "qwen3".into();
    assert_eq!(layers(&types(&shape, &RecipeOptions::new(FileType::Q3KS)), "attn_v", E::Q5K).len(), 0);
    shape.facts =
        ModelFacts { architecture: "llama".into(), layers: 80, heads: 64, kv_heads: 64, experts: 0 };
    assert_eq!(layers(&types(&shape, &RecipeOptions::new(FileType::Q3KS)), "attn_v", E::Q5K).len(), 0);
}

#[test]
fn some_rules_ask_for_an_importance_matrix() {
    let shape = dense("llama", 32, 8, 8);
    let mut options = RecipeOptions::new(FileType::Q4_0);
    assert_eq!(layers(&types(&shape, &options), "ffn_down", E::Q4_1).len(), 0);
    options.has_imatrix = true;
    assert_eq!(layers(&types(&shape, &options), "ffn_down", E::Q4_1), [0, 1, 2, 3]);
    let mut options = RecipeOptions::new(FileType::IQ4XS);
    assert_eq!(layers(&types(&shape, &options), "ffn_down", E::Q5K), [0, 1, 2, 3]);
    options.has_imatrix = true;
    assert_eq!(layers(&types(&shape, &options), "ffn_down", E::Q5K).len(), 0);

    let mut options = RecipeOptions::new(FileType::Q2KS);
    assert!(choice(&shape, &options, "blk.9.ffn_up.weight").needs_imatrix);
    assert!(!choice(&shape, &options, "token_embd.weight").needs_imatrix);
    options.file_type = FileType::Q2K;
    assert!(!choice(&shape, &options, "blk.9.ffn_up.weight").needs_imatrix);
    options.file_type = FileType::IQ2XS;
    assert!(choice(&shape, &options, "blk.9.ffn_up.weight").needs_imatrix);
}

#[test]
fn copies_and_plain_files_keep_what_is_small() {
    let mut shape = bookworm();
    let mut options = RecipeOptions::new(FileType::Copy);
    options.widen_rest = true;
    assert!(
        types(&shape, &options).iter().all(|(n, &t)| t == if n.contains("norm") { E::F32 } else { E::F16 })
    );
    options.file_type = FileType::F32;
    assert!(types(&shape, &options).values().all(|&t| t == E::F32));

    // a Hugging Face source has its norms in f16
    shape.tied = false;
    let mut tensors = shape.tensors();
    tensors.iter_mut().for_each(|t| t.element_type = E::F16);
    let chosen = |options: &RecipeOptions| {
        let all = choose(&shape.facts, &tensors, options).unwrap();
        all.iter().find(|c| tensors[c.index].name == "output_norm.weight").unwrap().element_type
    };
    options.file_type = FileType::Q8_0;
    assert_eq!(chosen(&options), E::F32);
    options.widen_rest = false;
    assert_eq!(chosen(&options), E::F16);
}

#[test]
fn impossible_wishes_are_refused() {
    let mut shape = bookworm();
    let refused =
        |shape: &Shape, options: &RecipeOptions| choose(&shape.facts, &shape.tensors(), options).unwrap_err();
    let mut options = RecipeOptions::new(FileType::Q4KM);
    options.output_tensor_type = Some(E::Q8K);
    assert!(matches!(refused(&shape, &options), RecipeError::NotAModelType { element_type: E::Q8K }));
    let options = RecipeOptions::new(FileType::Q1_0);
    shape.feed_forward = 160;
    assert!(matches!(
        refused(&shape, &options),
        RecipeError::NoFit { columns: 160, element_type: E::Q1_0, .. }
    ));
    let mut options = RecipeOptions::new(FileType::Q8_0);
    options.token_embedding_type = Some(E::Q4K);
    shape.embedding = 64;
    assert!(matches!(
        refused(&shape, &options),
        RecipeError::NoFit { columns: 64, element_type: E::Q4K, .. }
    ));
}

#[test]
fn facts_come_from_metadata() {
    let mut metadata = Metadata::new();
    assert!(ModelFacts::from_metadata(&metadata).unwrap_err().to_string().contains("general.architecture"));
    metadata.set("general.architecture", "llama");
    assert!(ModelFacts::from_metadata(&metadata).unwrap_err().to_string().contains("llama.block_count"));
    metadata.set("llama.block_count", Value::U32(4));
    metadata.set("llama.attention.head_count", Value::U32(8));
    let facts = ModelFacts::from_metadata(&metadata).unwrap();
    assert_eq!((facts.layers, facts.heads, facts.kv_heads, facts.experts), (4, 8, 8, 0));
    metadata.set("llama.attention.head_count_kv", Value::Array(Array::I32(vec![2, 4])));
    metadata.set("llama.expert_count", Value::U64(8));
    let facts = ModelFacts::from_metadata(&metadata).unwrap();
    assert_eq!((facts.kv_heads, facts.experts, facts.heads_per_kv_head()), (2, 8, 4));
    metadata.set("llama.attention.head_count_kv", Value::from("many"));
    assert!(ModelFacts::from_metadata(&metadata).is_err());
    metadata.set("llama.attention.head_count_kv", Value::Array(Array::I32(vec![])));
    assert!(ModelFacts::from_metadata(&metadata).is_err());
    metadata.set("llama.attention.head_count_kv", Value::I32(-1));
    assert!(ModelFacts::from_metadata(&metadata).is_err());
    metadata.set("llama.attention.head_count_kv", Value::U32(0));
    assert_eq!(ModelFacts::from_metadata(&metadata).unwrap().heads_per_kv_head(), 0);
}
