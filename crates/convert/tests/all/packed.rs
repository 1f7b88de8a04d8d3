//! Packed layers: GPT-QModel's, bitsandbytes' and compressed-tensors' own files into everything else.

use std::fs;
use std::path::Path;

use crate::common::*;
use quern_convert::Target;
use quern_tensor_io::scheme::{CodeFormat, GptqFormat, Packing, Scheme};
use quern_tensor_io::{Checkpoint, ElementType, Value};
use serde_json::json as object;

const GPTQ: Target = Target::Packed(CodeFormat::Gptq(GptqFormat::V1));
const GPTQ_V2: Target = Target::Packed(CodeFormat::Gptq(GptqFormat::V2));

const ALL: [&str; 7] = [
    "awq-4bit-g64",
    "bnb-int8",
    "bnb-nf4",
    "compressed-tensors",
    "gptq-3bit-g64",
    "gptq-4bit-g128",
    "gptq-4bit-g32-desc-act-v2",
];

/// Whether the checkpoint has the weights that their own code reads (of some layers every so-manieth row).
#[track_caller]
fn assert_peers_values(written: &Checkpoint, name: &str) {
    let file = fixture("packed").join(format!("{name}.expected.safetensors"));
    let expected = Checkpoint::open(&file).unwrap();
    assert!(expected.tensors().len() >= 7);
    for info in expected.tensors() {
        let step = written.tensor(&info.name).unwrap().info.rows() / info.rows();
        let all = values(written, &info.name);
        let ours: Vec<f32> = all.chunks_exact(info.columns()).step_by(step).flatten().copied().collect();
        assert!(ours == values(&expected, &info.name), "{name}: {}", info.name);
    }
}

#[test]
fn decoded_to_safetensors_they_are_what_their_own_code_reads() {
    let scratch = tempfile::tempdir().unwrap();
    for name in ALL {
        let source = fixture("packed").join(name);
        let out = scratch.path().join(name);
        let written = convert_exactly(&source, &out, to(SAFETENSORS));
        assert_peers_values(&written, name);
        let config = json(&out.join("config.json"));
        assert!(config.get("quantization_config").is_none());
        assert!(!out.join("quantize_config.json").exists());
        let dtype = config.get("torch_dtype").or(config.get("dtype")).unwrap();
        assert_eq!(dtype, "float32", "{name}");
        planned(&source, to(SAFETENSORS), |plan| {
            assert!(plan.notes().iter().any(|n| n.contains("f16 or bf16 would round")), "{:?}", plan.notes());
        });
        // Half as large, rounded.
        let half = scratch.path().join(format!("{name}-f16"));
        let (written, found) = convert(&source, &half, cast(SAFETENSORS, ElementType::F16));
        assert!(written.tensors().iter().all(|t| t.element_type == ElementType::F16));
        assert!(found.exact < found.tensors);
    }
}

#[test]
fn blocks_hold_the_same_values_where_there_are_such() {
    let scratch = tempfile::tempdir().unwrap();
    for (name, block, file_type) in [
        ("gptq-4bit-g128", ElementType::Q4_0, 2),
        ("gptq-3bit-g64", ElementType::Q4_0, 2),
        ("awq-4bit-g64", ElementType::Q5_0, 8),
    ] {
        let source = scratch.path().join(name);
        packed(name, &source, |_| {});
        let file = scratch.path().join(format!("{name}.gguf"));
        let written = convert_exactly(&source, &file, to(GGUF));
        let types: Vec<_> =
            written.tensors().iter().map(|t| t.element_type).filter(|t| t.is_block()).collect();
        assert_eq!(types.len(), 7);
        assert!(types.contains(&block) && types.iter().all(|&t| t == block || t == ElementType::Q4_1));
        assert_eq!(written.metadata().get("general.file_type"), Some(&Value::U32(file_type)), "{name}");
        // As Hugging Face would have it: the values of the source.
        let was = view_values(&Checkpoint::open(&source).unwrap());
        let is = view_values(&written);
        assert_eq!(was.len(), is.len());
        for (name, values) in was {
            let (_, found) = is.iter().find(|(n, _)| *n == name).unwrap();
            assert!(found.iter().zip(&values).all(|(a, b)| a == b), "{name}");
        }
        // And from there to the same plain tensors as straight from the source.
        let back = scratch.path().join(format!("{name}-back"));
        convert_exactly(&file, &back, to(SAFETENSORS));
        assert_peers_values(&Checkpoint::open(&back).unwrap(), name);
    }
}

/// The columns of a down projection in groups all over, as act-order makes them.
fn shuffle_down(tensors: &mut [Made]) -> Vec<usize> {
    let (.., shape, data) = tensors.iter_mut().find(|t| t.0.ends_with("down_proj.g_idx")).unwrap();
    let (columns, size) = (shape[0], 128);
    let mut groups: Vec<usize> = (0..columns).map(|k| k * 7 % columns / size).collect();
    groups.rotate_left(3);
    *data = groups.iter().flat_map(|&g| (g as i32).to_le_bytes()).collect();
    groups
}

#[test]
fn an_order_of_columns_moves_to_the_rows_before() {
    let scratch = tempfile::tempdir().unwrap();
    let source = scratch.path().join("source");
    packed("gptq-4bit-g128", &source, |tensors| drop(shuffle_down(tensors)));
    let written = convert_exactly(&source, &scratch.path().join("out.gguf"), to(GGUF));
    let mut tensors = tensors_of(&Checkpoint::open(&source).unwrap());
    let groups = shuffle_down(&mut tensors);
    let mut order: Vec<usize> = (0..groups.len()).collect();
    order.sort_by_key(|&k| groups[k]);
    assert!(!order.is_sorted());

    let was = view_values(&Checkpoint::open(&source).unwrap());
    let was = |name: &str| {
        let name = format!("model.layers.0.mlp.{name}_proj.weight");
        was.iter().find(|(n, _)| *n == name).unwrap().1.clone()
    };
    let is = |name: &str| values(&written, &format!("blk.0.ffn_{name}.weight"));
    for name in ["gate", "up"] {
        let (was, is) = (was(name), is(name));
        let columns = was.len() / order.len();
        for (row, is) in is.chunks_exact(columns).enumerate() {
            assert!(is == &was[order[row] * columns..][..columns], "{name}, row {row}");
        }
    }
    let (was, is) = (was("down"), is("down"));
    for (was, is) in was.chunks_exact(order.len()).zip(is.chunks_exact(order.len())) {
        assert!(order.iter().zip(is).all(|(&column, &v)| was[column] == v));
    }
}

#[test]
fn what_blocks_cannot_hold_is_refused_with_a_way_on() {
    let scratch = tempfile::tempdir().unwrap();
    for (name, part) in
        [("bnb-nf4", "NF4"), ("bnb-int8", "int8"), ("gptq-4bit-g32-desc-act-v2", "act-order (desc_act)")]
    {
        let source = scratch.path().join(name);
        packed(name, &source, |_| {});
        let file = scratch.path().join(format!("{name}.gguf"));
        let text = refusal(&source, &file, to(GGUF));
        assert_says(&text, &[name, "model.layers.0", part, "; DecodeOrRequantize"]);
        let (written, found) = convert(&source, &file, cast(GGUF, ElementType::F16));
        assert!(found.exact < found.tensors);
        assert_eq!(written.metadata().get("general.file_type"), Some(&Value::U32(1)));
        assert!(written.tensors().iter().all(|t| !t.element_type.is_block()));
    }
    // A missing tensor is no matter of types.
    let text = refusal(&fixture("packed/bnb-nf4"), &scratch.path().join("x.gguf"), to(GGUF));
    assert!(!text.contains("DecodeOrRequantize"), "{text}");
}

#[track_caller]
fn scheme(folder: &Path) -> Scheme {
    let checkpoint = Checkpoint::open(folder).unwrap();
    Packing::read(&checkpoint).unwrap().unwrap().scheme().clone()
}

#[test]
fn gptq_goes_to_its_other_version_and_back_to_the_same_bytes() {
    let scratch = tempfile::tempdir().unwrap();
    for (name, own, other) in [
        ("gptq-4bit-g128", GPTQ, GPTQ_V2),
        ("gptq-3bit-g64", GPTQ, GPTQ_V2),
        ("gptq-4bit-g32-desc-act-v2", GPTQ_V2, GPTQ),
    ] {
        let source = fixture("packed").join(name);
        let there = scratch.path().join(format!("{name}-there"));
        let written = convert_exactly(&source, &there, to(other));
        let original = Checkpoint::open(&source).unwrap();
        for info in original.tensors() {
            let same = written.tensor(&info.name).unwrap().data == original.data(info);
            assert_eq!(same, !info.name.ends_with(".qzeros"), "{}", info.name);
        }
        for file in ["quantize_config.json", "config.json"] {
            let config = json(&there.join(file));
            let config = config.get("quantization_config").unwrap_or(&config);
            assert_eq!(config["checkpoint_format"], other.name());
            assert_eq!(config["quant_method"], "gptq");
            assert_eq!(config["meta"]["quantizer"][0], "gptqmodel:7.7.0", "{file}");
        }
        let back = scratch.path().join(format!("{name}-back"));
        let again = convert_exactly(&there, &back, to(own));
        assert_same_tensors(&again, &original);
        assert_eq!(scheme(&back), scheme(&source));
    }
}

#[test]
fn awq_becomes_gptq() {
    let scratch = tempfile::tempdir().unwrap();
    let source = fixture("packed/awq-4bit-g64");
    for target in [GPTQ, GPTQ_V2] {
        let out = scratch.path().join(target.name());
        convert_exactly(&source, &out, to(target));
        let expected = Scheme::Gptq {
            bits: 4,
            group_size: Some(64),
            act_order: false,
            symmetric: false,
            v2: target == GPTQ_V2,
        };
        assert_eq!(scheme(&out), expected);
        let config = json(&out.join("quantize_config.json"));
        assert_eq!(json(&out.join("config.json"))["quantization_config"], config);
        assert_eq!((&config["bits"], &config["group_size"]), (&object!(4), &object!(64)));
        assert_eq!((&config["sym"], &config["desc_act"]), (&object!(false), &object!(false)));
        assert!(config.get("zero_point").is_none() && config.get("dynamic").is_none(), "{config}");
        // As plain tensors it is still what AWQ's own code reads.
        let plain = scratch.path().join(format!("{}-plain", target.name()));
        assert_peers_values(&convert_exactly(&out, &plain, to(SAFETENSORS)), "awq-4bit-g64");
    }
}

/// Layers of several kinds: each with its own rule, those left unpacked named.
#[test]
fn compressed_tensors_becomes_gptq_of_several_shapes() {
    let scratch = tempfile::tempdir().unwrap();
    let name = "compressed-tensors";
    let text = refusal(&fixture("packed").join(name), &scratch.path().join("x"), to(GPTQ_V2));
    assert_says(&text, &["up_proj.weight", "do not fill 32-bit words", "unquantized"]);

    let source = scratch.path().join("source");
    let all = Checkpoint::open(&fixture("packed").join(name)).unwrap();
    let kept = ["0", "1", "4", "8", "12", "13"].map(|n| format!("model.layers.{n}."));
    let mut tensors = tensors_of(&all);
    tensors.retain(|t| kept.iter().any(|k| t.0.starts_with(k)));
    tensors.push(("model.layers.2.up_proj.weight".into(), ElementType::F16, vec![2, 4], vec![0; 16]));
    write_model(&source, &fixture("packed").join(name), &tensors);
    let out = scratch.path().join("out");
    convert_exactly(&source, &out, to(GPTQ_V2));
    let dynamic = &json(&out.join("quantize_config.json"))["dynamic"];
    assert_eq!(dynamic["-:^model\\.layers\\.2\\.up_proj$"], object!({}));
    let rules = dynamic.as_object().unwrap();
    assert!(rules.len() > 2 && rules.values().skip(1).any(|r| r["bits"] == 8), "{dynamic}");

    let plain = scratch.path().join("plain");
    let written = convert_exactly(&out, &plain, to(SAFETENSORS));
    let expected = Checkpoint::open(&fixture("packed").join(format!("{name}.expected.safetensors"))).unwrap();
    for layer in kept {
        let weight = format!("{layer}up_proj.weight");
        assert!(values(&written, &weight) == values(&expected, &weight), "{weight}");
    }
}

const COMPRESSED: Target = Target::Packed(CodeFormat::CompressedTensors);
const AWQ: Target = Target::Packed(CodeFormat::Awq);

/// To compressed-tensors and back: the codes, scales, zero points and groups that the source has.
#[test]
fn gptq_and_awq_go_to_compressed_tensors_and_back_to_the_same_bytes() {
    let scratch = tempfile::tempdir().unwrap();
    for (name, own, symmetric, act_order) in [
        ("gptq-4bit-g128", GPTQ, true, false),
        ("gptq-3bit-g64", GPTQ, true, false),
        ("gptq-4bit-g32-desc-act-v2", GPTQ_V2, false, true),
        ("awq-4bit-g64", AWQ, false, false),
    ] {
        let source = scratch.path().join(name);
        packed(name, &source, |_| {});
        let there = scratch.path().join(format!("{name}-there"));
        convert_exactly(&source, &there, to(COMPRESSED));
        let Scheme::CompressedTensors { symmetric: is, act_order: shuffled, .. } = scheme(&there) else {
            panic!("{name}");
        };
        assert_eq!(shuffled, act_order);
        assert!(is == symmetric || name.contains("desc-act"), "{name}");
        let config = &json(&there.join("config.json"))["quantization_config"];
        assert_eq!(config["quant_method"], "compressed-tensors");
        assert_eq!(config["ignore"], object!(["lm_head"]), "{name}");
        let targets = &config["config_groups"]["group_0"]["targets"];
        assert!(targets == &object!(["Linear"]) || act_order, "{name}: {config}");
        assert!(!there.join("quantize_config.json").exists());
        let notes = planned(&source, to(COMPRESSED), |plan| plan.notes().join("; "));
        assert_eq!(notes.contains("actorder"), act_order, "{notes}");
        assert_eq!(notes.contains("neither 4 nor 8 bits"), name.contains("3bit"), "{notes}");
        let back = scratch.path().join(format!("{name}-back"));
        let again = convert_exactly(&there, &back, to(own));
        assert_same_tensors(&again, &Checkpoint::open(&source).unwrap());
    }
}

#[test]
fn gptq_becomes_awq_where_its_settings_allow() {
    let scratch = tempfile::tempdir().unwrap();
    let source = scratch.path().join("source");
    packed("gptq-4bit-g128", &source, |_| {});
    let there = scratch.path().join("there");
    let written = convert_exactly(&source, &there, to(AWQ));
    assert_eq!(scheme(&there), Scheme::Awq { bits: 4, group_size: Some(128) });
    let config = &json(&there.join("config.json"))["quantization_config"];
    let expected = object!({
        "bits": 4, "group_size": 128, "modules_to_not_convert": null, "quant_method": "awq", "version": "gemm",
        "zero_point": true,
    });
    assert_eq!(config, &expected);
    assert!(written.tensors().iter().all(|t| !t.name.ends_with(".g_idx")));
    let again = convert_exactly(&there, &scratch.path().join("back"), to(GPTQ));
    assert_same_tensors(&again, &Checkpoint::open(&source).unwrap());

    let out = scratch.path().join("out");
    for (name, part) in
        [("gptq-3bit-g64", "its codes have 3 bits"), ("gptq-4bit-g32-desc-act-v2", "AWQ stores no order")]
    {
        let text = refusal(&fixture("packed").join(name), &out, to(AWQ));
        assert_says(&text, &[name, "model.layers.0", part]);
    }
    let text = refusal(&fixture("bookworm-4m"), &out, to(COMPRESSED));
    assert_says(&text, &["no packed layers that compressed-tensors could hold", "; QuantizeWithGptq"]);
}

#[test]
fn only_integer_codes_become_gptq() {
    let scratch = tempfile::tempdir().unwrap();
    let out = scratch.path().join("out");
    for name in ["bnb-nf4", "bnb-int8"] {
        let text = refusal(&fixture("packed").join(name), &out, to(GPTQ));
        assert_says(&text, &[name, "model.layers.0", "which GPTQ's tensors cannot express"]);
    }
    for name in ["bookworm-4m", "bookworm-4m-Q4_K_M.gguf"] {
        let text = refusal(&fixture(name), &out, to(GPTQ));
        assert_says(&text, &[name, "no packed layers", "; QuantizeWithGptq"]);
    }
}

#[test]
fn threads_change_nothing() {
    let scratch = tempfile::tempdir().unwrap();
    let source = scratch.path().join("source");
    packed("gptq-4bit-g128", &source, |tensors| drop(shuffle_down(tensors)));
    let made = |threads: usize| {
        let folder = scratch.path().join(threads.to_string());
        fs::create_dir(&folder).unwrap();
        let options = |target| quern_convert::Options { threads, ..to(target) };
        convert_exactly(&source, &folder.join("a.gguf"), options(GGUF));
        convert_exactly(&source, &folder.join("b"), options(GPTQ_V2));
        convert_exactly(&source, &folder.join("c"), options(SAFETENSORS));
        convert_exactly(&source, &folder.join("d"), options(COMPRESSED));
        ["a.gguf", "b/model.safetensors", "c/model.safetensors", "d/model.safetensors"]
            .map(|f| fs::read(folder.join(f)).unwrap())
    };
    assert!(made(1) == made(3));
}
