//! Configurations: where they may lie, what they may be called, and what counts where they are wrong.

use quern_tensor_io::scheme::Scheme;
use quern_tensor_io::{Checkpoint, ElementType};
use serde_json::{Value, json};

use super::build::{Affine, FourBit, Model};

/// A GPTQ layer of 64 rows and 128 columns in groups of 32.
fn layer(bits: usize, symmetric: bool) -> Affine {
    Affine::random(bits, [64, 128, 32], symmetric.then_some(1 << (bits - 1)), 5)
}

fn gptq(v2: bool) -> Scheme {
    Scheme::Gptq { bits: 4, group_size: Some(32), act_order: false, symmetric: true, v2 }
}

#[test]
fn the_configuration_may_lie_in_three_places() {
    let layer = layer(4, true);
    let model = layer.gptq(false, ElementType::F16, true);
    let config = layer.config(false, 32);
    for model in [
        model.clone().json("quantize_config.json", config.clone()),
        model.clone().json("quant_config.json", config.clone()),
        model.clone().json("config.json", json!({ "quantization_config": config })),
        model.clone().json("config.json", json!({ "text_config": { "quantization_config": config } })),
        model.clone().json("config.json", json!({ "quantization_config": null })).json(
            "quantize_config.json",
            // What older and other tools write.
            json!({ "w_bit": 4, "q_group_size": 32, "desc_act": false, "model_name_or_path": null }),
        ),
        model.json(
            "quantize_config.json",
            json!({ "bits": 4, "group_size": 32, "method": "GPTQ", "meta": {} }),
        ),
    ] {
        let model = model.read().unwrap();
        assert_eq!(model.packing.scheme(), &gptq(false));
        assert_eq!(model.packing.notes(), [] as [&str; 0]);
        assert_eq!(model.decoded(), layer.values());
        assert!(model.packing.layer("l.weight").is_some() && model.packing.layer("l").is_none());
    }
}

#[test]
fn without_a_configuration_the_tensors_tell() {
    for bits in [2, 3, 4, 8] {
        for g_idx in [true, false] {
            let layer = layer(bits, false);
            let model = layer.gptq(false, ElementType::F16, g_idx).read().unwrap();
            assert_eq!(model.decoded(), layer.values(), "{bits} bits");
            assert!(model.packing.notes()[0].contains("inferred"));
        }
    }
    let layer = layer(4, false);
    let model = layer.awq(ElementType::F16).read().unwrap();
    assert_eq!(model.packing.scheme(), &Scheme::Awq { bits: 4, group_size: Some(32) });
    assert_eq!(model.decoded(), layer.values());
}

#[test]
fn wrong_labels_of_symmetric_models_are_seen_through() {
    for bits in [2, 3, 4, 8] {
        for (stored, labelled) in [(true, false), (false, true)] {
            let layer = layer(bits, true);
            let mut config = layer.config(labelled, 32);
            config["sym"] = true.into();
            let model = layer.gptq(stored, ElementType::F16, true).json("quantize_config.json", config);
            let model = model.read().unwrap();
            assert_eq!(model.decoded(), layer.values(), "{bits} bits");
            let Scheme::Gptq { v2, symmetric, .. } = model.packing.scheme() else { panic!() };
            assert_eq!((*v2, *symmetric), (stored, true));
            let name = |v2| if v2 { "gptq_v2" } else { "gptq" };
            let [note] = model.packing.notes() else { panic!("{:?}", model.packing.notes()) };
            assert!(note.starts_with(&format!("labelled {}, ", name(labelled))), "{note}");
            assert!(note.contains(&format!("as {} stores them", name(stored))), "{note}");
        }
    }
    // Of an asymmetric model the label decides: 7 may be a zero point like any other.
    let mut layer = layer(4, true);
    layer.zeros.fill(7);
    let model = layer.gptq(true, ElementType::F16, true).json("quantize_config.json", layer.config(true, 32));
    assert_eq!(model.read().unwrap().decoded(), layer.values());
    // A label that says symmetric of a model that is not.
    layer.zeros[3] = 2;
    let mut config = layer.config(false, 32);
    config["sym"] = true.into();
    let model =
        layer.gptq(false, ElementType::F16, true).json("quantize_config.json", config).read().unwrap();
    assert_eq!(model.decoded(), layer.values());
    assert!(model.packing.notes()[0].contains("labelled symmetric"));
}

/// The case where a stored field is all ones: the zero point is 0.
#[test]
fn zero_points_wrap_around() {
    for bits in [2, 3, 4, 8] {
        let mut layer = layer(bits, true);
        layer.zeros.fill(0);
        let model =
            layer.gptq(false, ElementType::F16, true).json("quantize_config.json", layer.config(false, 32));
        assert_eq!(model.read().unwrap().decoded(), layer.values());
    }
}

#[test]
fn layers_may_have_rules_of_their_own() {
    let (four, eight) = (layer(4, true), Affine::random(8, [64, 128, 64], Some(128), 9));
    let mut model = four.gptq(false, ElementType::F16, true);
    for (name, kind, shape, data) in eight.gptq(false, ElementType::F16, true).tensors {
        model = model.tensor(&name.replace("l.", "m."), kind, &shape, data);
    }
    let mut config = four.config(false, 32);
    config["sym"] = true.into();
    model.clone().json("quantize_config.json", config.clone()).refused(&["m.qweight", "not 4-bit codes"]);
    config["dynamic"] = json!({ "+:m": { "bits": 8, "group_size": 64 } });
    let model = model.json("quantize_config.json", config).read().unwrap();
    let layers: Vec<_> = model.packing.layers().iter().map(|l| (l.name.as_str(), l.bits())).collect();
    assert_eq!(layers, [("l.weight", 4), ("m.weight", 8)]);
    assert_eq!(model.packing.scheme(), &gptq(false));
    assert!(model.packing.notes()[0].contains("1 of 2 layers"), "{:?}", model.packing.notes());
    let mut values = vec![0.0; 64 * 128];
    model.packing.layers()[1].decode(&model.checkpoint, 0..64, &mut values);
    assert_eq!(values, eight.values());
}

/// A rule `-:` leaves a layer plain; a configuration may even be left over from a model that was dequantized.
#[test]
fn plain_layers_stay_plain() {
    let layer = layer(4, true);
    let plain = |model: Model| model.tensor("n.weight", ElementType::F16, &[2, 2], vec![0; 8]);
    let config = layer.config(false, 32);
    let model = plain(layer.gptq(false, ElementType::F16, true)).json("quantize_config.json", config.clone());
    let model = model.read().unwrap();
    assert_eq!(model.packing.layers().len(), 1);
    let model = plain(Model::default()).json("quantize_config.json", config).read().unwrap();
    assert_eq!(model.packing.layers().len(), 0);
    assert!(model.packing.notes()[0].contains("all weights are plain"));
}

#[test]
fn other_methods_are_refused_by_name() {
    let model = layer(4, true).gptq(false, ElementType::F16, true);
    let with = |config: Value| model.clone().json("config.json", json!({ "quantization_config": config }));
    for (config, parts) in [
        (json!({ "quant_method": "exl2", "bits": 4.0 }), ["exl2", "take the model unquantized"]),
        (json!({ "quant_method": "vptq" }), ["vptq", "quern does not read"]),
        (json!({ "quant_method": "quanto" }), ["quanto", "quern does not read"]),
        (json!({ "quant_method": "gptq", "bits": 5 }), ["5-bit gptq", "2, 3, 4 and 8"]),
        (json!({ "quant_method": "gptq", "bits": 4, "format": "gptq_p" }), ["gptq_p", "quern does not read"]),
        (json!({ "quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin" }), ["marlin", "gptq"]),
        (json!({ "quant_method": "gptq", "bits": 4, "is_marlin_format": true }), ["Marlin", "gptq"]),
        (json!({ "quant_method": "gptq", "bits": 4, "pack_dtype": "int16" }), ["int16", "only int32"]),
        (json!({ "quant_method": "awq", "bits": 4, "version": "gemv" }), ["awq", "gemv"]),
        (json!({ "quant_method": "awq", "bits": 8 }), ["8-bit awq", "awq of 4"]),
    ] {
        with(config).refused(&parts);
    }
    for (tensors, parts) in [
        (&["l.q_weight", "l.q_invperm"][..], ["EXL2", "l.q_invperm"]),
        (&["l.trellis"], ["EXL3", "l.trellis"]),
        (&["l.B", "l.s"], ["Marlin", "l.B"]),
        (&["l.W_q"], ["expected a matrix", "l.W_q"]),
        (&["l.scale_q"], ["HQQ, its scales quantized too", "l.scale_q"]),
        (&["l.weight", "l.weight_scale"], ["scales a weight of i32", "l.weight_scale"]),
        (&["l.weight", "l.weight_scale_inv"], ["scales a weight of i32", "l.weight_scale_inv"]),
        (&["l.weight", "l.pre_quant_scale"], ["AWQ of ModelOpt", "l.pre_quant_scale"]),
        (
            &["e.gate_up_proj", "e.gate_up_proj_scale_inv"],
            ["lacks other tensors", "e.gate_up_proj_scale_inv"],
        ),
    ] {
        let add = |model: Model, name: &&str| model.tensor(name, ElementType::I32, &[1], vec![0; 4]);
        tensors.iter().fold(Model::default(), add).refused(&parts);
    }
    let mlx = Model::default().tensor("l.weight", ElementType::U32, &[1], vec![0; 4]);
    mlx.tensor("l.scales", ElementType::F32, &[1], vec![0; 4]).refused(&["expected a matrix", "l.weight"]);
}

#[test]
fn bitsandbytes_needs_no_configuration_but_must_not_contradict_one() {
    let layer = FourBit::random("fp4", [4, 64], 128, false, 3);
    let bnb = json!({ "quantization_config": { "quant_method": "bitsandbytes", "load_in_4bit": true } });
    let old = json!({ "quantization_config": { "load_in_4bit": true, "bnb_4bit_quant_type": "fp4" } });
    for model in [
        layer.model(true),
        layer.model(true).json("config.json", bnb),
        layer.model(false).json("config.json", old),
    ] {
        let model = model.read().unwrap();
        assert_eq!(model.packing.scheme(), &Scheme::Fp4 { block_size: 128, double_quantized: false });
        assert_eq!(model.decoded(), layer.values());
    }
    let gptq = json!({ "quantization_config": { "quant_method": "gptq", "bits": 4 } });
    layer.model(true).json("config.json", gptq).refused(&["bitsandbytes layer", "says gptq"]);
}

/// The files of a model whose configuration is nowhere else.
#[test]
fn a_file_alone_finds_the_configuration_beside_it() {
    let layer = layer(4, true);
    let folder = tempfile::tempdir().unwrap();
    let model =
        layer.gptq(false, ElementType::F16, true).json("quantize_config.json", layer.config(false, 32));
    model.write(folder.path());
    let file = folder.path().join("gptq_model-4bit-32g.safetensors");
    std::fs::rename(folder.path().join("model.safetensors"), &file).unwrap();
    for path in [folder.path(), &file] {
        let checkpoint = Checkpoint::open(path).unwrap();
        let packing = quern_tensor_io::scheme::Packing::read(&checkpoint).unwrap().unwrap();
        assert_eq!((packing.scheme(), packing.notes().len()), (&gptq(false), 0));
    }
}
