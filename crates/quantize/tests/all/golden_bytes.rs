//! The encoders against other people's bytes: every tensor of bookworm-4m (for the types with codebooks, those of
//! one layer) in every type, with and without importance, has the hash of the file llama-quantize wrote, by the
//! scalar specification and at every SIMD level; what no such file shows against gguf-py (mxfp4) and ggml's
//! own encoders.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use quern_compute::simd::Level;
use quern_quantize::encode::{can_encode, encode_rows_at};
use quern_tensor_io::{Checkpoint, ElementType, decode};
use sha2::{Digest, Sha256};

/// Values of one attention head of bookworm-4m.
const HEAD: usize = 64;

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

fn values(checkpoint: &Checkpoint, name: &str) -> (Vec<f32>, usize) {
    let tensor = checkpoint.tensor(name).unwrap_or_else(|| panic!("{name} is missing"));
    let mut x = vec![0.0; tensor.info.elements()];
    assert!(decode::to_f32(tensor.info.element_type, tensor.data, &mut x), "{name}");
    (x, tensor.info.columns())
}

/// Hugging Face's name of a GGUF tensor of a Llama model.
fn source_name(name: &str) -> String {
    match name {
        "token_embd.weight" => return "model.embed_tokens.weight".into(),
        "output_norm.weight" => return "model.norm.weight".into(),
        _ => {}
    }
    let mut parts = name.split('.').skip(1);
    let (layer, part) = (parts.next().unwrap(), parts.next().unwrap());
    let part = match part {
        "attn_q" => "self_attn.q_proj",
        "attn_k" => "self_attn.k_proj",
        "attn_v" => "self_attn.v_proj",
        "attn_output" => "self_attn.o_proj",
        "attn_norm" => "input_layernorm",
        "ffn_norm" => "post_attention_layernorm",
        "ffn_gate" => "mlp.gate_proj",
        "ffn_up" => "mlp.up_proj",
        "ffn_down" => "mlp.down_proj",
        other => panic!("unknown part {other}"),
    };
    format!("model.layers.{layer}.{part}.weight")
}

/// The tensor as GGUF has it: rotary pairs side by side instead of half a head apart.
fn gguf_values(checkpoint: &Checkpoint, name: &str) -> (Vec<f32>, usize) {
    let (x, columns) = values(checkpoint, &source_name(name));
    if !(name.contains("attn_q.") || name.contains("attn_k.")) {
        return (x, columns);
    }
    let mut out = Vec::with_capacity(x.len());
    for head in x.chunks_exact(HEAD * columns) {
        for row in 0..HEAD {
            let from = (row % 2) * (HEAD / 2) + row / 2;
            out.extend_from_slice(&head[from * columns..(from + 1) * columns]);
        }
    }
    (out, columns)
}

/// Mean squared activations per column, for each tensor that has them.
fn importance() -> BTreeMap<String, Vec<f32>> {
    let checkpoint = Checkpoint::open(&fixture("golden/bookworm-4m.imatrix.gguf")).unwrap();
    let sums = checkpoint.tensors().iter().filter_map(|t| t.name.strip_suffix(".in_sum2"));
    sums.map(|name| {
        let (mut sums, _) = values(&checkpoint, &format!("{name}.in_sum2"));
        let (count, _) = values(&checkpoint, &format!("{name}.counts"));
        sums.iter_mut().for_each(|v| *v /= count[0]);
        (name.to_owned(), sums)
    })
    .collect()
}

/// Tensor, type, whether importance was given, SHA-256: each combination in the reference once.
fn reference() -> BTreeSet<(String, ElementType, bool, String)> {
    let text = std::fs::read(fixture("golden/bookworm-4m.llama-quantize.json")).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let mut cases = BTreeSet::new();
    for (run, file) in json.as_object().unwrap() {
        for (name, entry) in file["tensors"].as_object().unwrap() {
            let element_type = ElementType::from_name(entry[0].as_str().unwrap()).unwrap();
            let hash = entry[1].as_str().unwrap().to_owned();
            cases.insert((name.clone(), element_type, run.ends_with("/imatrix"), hash));
        }
    }
    cases
}

/// Checks every case at one level; returns how many block types it met, without and with importance.
fn check(level: Level) -> [usize; 2] {
    let checkpoint = Checkpoint::open(&fixture("bookworm-4m")).unwrap();
    let importance = importance();
    let mut types = [BTreeSet::new(), BTreeSet::new()];
    let mut wrong = Vec::new();
    let mut last: Option<(String, (Vec<f32>, usize))> = None;
    for (name, element_type, with_imatrix, hash) in reference() {
        assert!(can_encode(element_type), "{element_type}");
        // One layer of the types whose specification is slow; `end_to_end` does all of them at the best level.
        let slow = element_type.name().starts_with("iq") && !element_type.name().starts_with("iq4");
        if slow && !name.starts_with("blk.0.") {
            continue;
        }
        if last.as_ref().is_none_or(|(loaded, _)| *loaded != name) {
            last = Some((name.clone(), gguf_values(&checkpoint, &name)));
        }
        let (_, (x, columns)) = last.as_ref().unwrap();
        let weights = importance.get(&name).filter(|_| with_imatrix).map(Vec::as_slice);
        let mut out = vec![0; x.len() / columns * element_type.row_bytes(*columns).unwrap()];
        encode_rows_at(level, element_type, *columns, x, weights, &mut out).unwrap();
        let found: String = Sha256::digest(&out).iter().map(|b| format!("{b:02x}")).collect();
        if found != hash {
            wrong.push(format!("{name} {element_type} importance {}", weights.is_some()));
        }
        if element_type.is_block() {
            types[usize::from(weights.is_some())].insert(element_type);
        }
    }
    assert!(wrong.is_empty(), "{} tensors differ: {wrong:#?}", wrong.len());
    types.map(|t| t.len())
}

/// Block types of the reference: q4_0, q4_1, q5_0, q5_1, q8_0, five K types, iq4_nl, iq4_xs, tq1_0, tq2_0, iq3_s;
/// with importance the other seven types with a codebook, too.
const TYPES: [usize; 2] = [15, 21];

#[test]
fn every_level_writes_llama_quantizes_bytes() {
    for level in Level::available() {
        assert_eq!(check(level), TYPES, "{level:?}");
    }
}

#[test]
fn mxfp4_is_what_gguf_py_writes() {
    let x = std::fs::read(fixture("golden/encode/mxfp4.f32")).unwrap();
    let x: Vec<f32> = x.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let expected = std::fs::read(fixture("golden/encode/mxfp4.blocks")).unwrap();
    let mut out = vec![0; expected.len()];
    for level in Level::available() {
        out.fill(0);
        encode_rows_at(level, ElementType::MXFP4, 32, &x, None, &mut out).unwrap();
        assert!(out == expected, "{level:?}");
    }
}

/// The block with a sub-block of nothing but zeros and others after it: ggml's iq3_s encoder does not step over
/// the sub-block's codes, and the codes and signs of all that follow come to lie 32 values too early. What
/// such a block decodes to has nothing to do with its values, so here quern differs.
const MISPLACED: usize = 2;

#[test]
fn sub_blocks_of_zeros_do_not_disturb_their_neighbours() {
    let mut random = 1u32;
    let mut x: Vec<f32> = (0..256)
        .map(|_| {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            random as f32 / u32::MAX as f32 - 0.5
        })
        .collect();
    x[32..64].fill(0.0);
    for element_type in [ElementType::IQ3S, ElementType::IQ3XXS, ElementType::IQ2S, ElementType::IQ2XXS] {
        for level in Level::available() {
            let mut out = vec![0; element_type.block_bytes()];
            encode_rows_at(level, element_type, 256, &x, Some(&[1.0; 256]), &mut out).unwrap();
            let mut back = [0.0; 256];
            assert!(decode::to_f32(element_type, &out, &mut back));
            let energy = |x: &[f32]| x.iter().map(|v| v * v).sum::<f32>();
            let error: Vec<f32> = x.iter().zip(back).map(|(a, b)| a - b).collect();
            assert!(
                energy(&error) < 0.12 * energy(&x),
                "{element_type} {level:?}: {}",
                energy(&error) / energy(&x)
            );
        }
    }
}

#[test]
fn odd_values_are_encoded_as_ggml_encodes_them() {
    let floats = |name: &str| -> Vec<f32> {
        let bytes = std::fs::read(fixture("golden/encode").join(name)).unwrap();
        bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    };
    let (x, weights) = (floats("ggml.f32"), floats("ggml.weights"));
    let mut cases = 0;
    for &element_type in ElementType::ALL {
        for (case, weights) in [("plain", None), ("weighted", Some(&weights[..]))] {
            let path = fixture("golden/encode").join(format!("{element_type}.{case}.blocks"));
            let Ok(expected) = std::fs::read(path) else { continue };
            cases += 1;
            for level in Level::available() {
                let mut out = vec![0; expected.len()];
                encode_rows_at(level, element_type, 512, &x, weights, &mut out).unwrap();
                let size = element_type.block_bytes();
                for (block, (found, expected)) in out.chunks(size).zip(expected.chunks(size)).enumerate() {
                    if (element_type, block) == (ElementType::IQ3S, MISPLACED) {
                        assert_ne!(found, expected, "ggml has been mended");
                    } else {
                        assert_eq!(found, expected, "{element_type} {case} {level:?}, block {block}");
                    }
                }
            }
        }
    }
    assert_eq!(cases, 17);
}
