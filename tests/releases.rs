//! Models as they are released in 4 bits: NVFP4 as ModelOpt and compressed-tensors store it, MXFP4 and MLX, read, run,
//! inspected, converted to GGUF's own types and back, and quantized.

use std::collections::BTreeMap;
use std::path::Path;

use half::f16;
use quern_tensor_io::{Checkpoint, ElementType, decode};
use serde_json::Value;

use crate::common::{Tensors, edit, failure, fixture, model_copy, quern, stdout};

fn json(args: &[&str]) -> Value {
    serde_json::from_str(&stdout(&quern(args))).expect("JSON")
}

fn perplexity(model: &Path, more: &[&str]) -> f64 {
    let text = fixture("text/validation.txt");
    let args = ["perplexity", model.to_str().unwrap(), "--text", text.to_str().unwrap()];
    let args = [&args[..], &["--context", "256", "--chunks", "8", "--json"], more].concat();
    json(&args)["perplexity"].as_f64().expect("a number")
}

type Made = (String, &'static str, Vec<usize>, Vec<u8>);

/// The demo model, the matrices of its blocks made by `pack`, with this `quantization_config`.
fn release(label: &str, pack: impl Fn(&str, [usize; 2], &[f32]) -> Vec<Made>) -> tempfile::TempDir {
    let dir = model_copy();
    let mut all = Vec::new();
    for (name, kind, shape, data) in Tensors::read(dir.path()).0 {
        match &shape[..] {
            &[rows, columns] if name.contains("layers") => {
                let mut weights = vec![0.0f32; rows * columns];
                assert!(decode::to_f32(ElementType::F16, &data, &mut weights));
                all.extend(pack(name.strip_suffix(".weight").unwrap(), [rows, columns], &weights));
            }
            _ => all.push((name, kind, shape, data)),
        }
    }
    Tensors(all).write(dir.path());
    edit(dir.path(), "config.json", &[("{", &format!("{{{label},"))]);
    dir
}

/// The code of e2m1 nearest to a number.
fn e2m1(v: f32) -> u8 {
    let values = [0.0f32, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
    let near = |i: &u8| (values[usize::from(*i)] - v.abs()).abs();
    let code = (0..8).min_by(|a, b| near(a).total_cmp(&near(b))).unwrap();
    code | if v < 0.0 { 8 } else { 0 }
}

/// Scales and codes of NVFP4 under a factor, columns in pairs, the first in the low nibble.
fn nvfp4([rows, columns]: [usize; 2], weights: &[f32]) -> (f32, Vec<u8>, Vec<u8>) {
    let mut e4m3 = [0.0; 128];
    assert!(decode::to_f32(ElementType::F8E4M3, &(0..128).collect::<Vec<u8>>(), &mut e4m3));
    let largest = |w: &[f32]| w.iter().fold(0f32, |m, v| m.max(v.abs()));
    let factor = largest(weights) / (448.0 * 6.0);
    let (mut scales, mut codes) = (Vec::new(), Vec::new());
    for group in weights.chunks(16) {
        let wanted = largest(group) / 6.0 / factor;
        let scale = e4m3[..127].partition_point(|v| *v < wanted).min(126);
        scales.push(scale as u8);
        let code = |v: &f32| if scale == 0 { 0 } else { e2m1(v / (e4m3[scale] * factor)) };
        codes.extend(group.chunks(2).map(|pair| code(&pair[0]) | code(&pair[1]) << 4));
    }
    assert_eq!((scales.len(), codes.len()), (rows * columns / 16, rows * columns / 2));
    (factor, scales, codes)
}

fn modelopt() -> tempfile::TempDir {
    let label = "\"quantization_config\": {\"quant_method\": \"modelopt\", \"quant_algo\": \"NVFP4\"}";
    release(label, |name, [rows, columns], weights| {
        let (factor, scales, codes) = nvfp4([rows, columns], weights);
        vec![
            (format!("{name}.weight"), "U8", vec![rows, columns / 2], codes),
            (format!("{name}.weight_scale"), "F8_E4M3", vec![rows, columns / 16], scales),
            (format!("{name}.weight_scale_2"), "F32", vec![], factor.to_le_bytes().to_vec()),
            (format!("{name}.input_scale"), "F32", vec![], 0.01f32.to_le_bytes().to_vec()),
        ]
    })
}

fn compressed() -> tempfile::TempDir {
    let label = "\"quantization_config\": {\"quant_method\": \"compressed-tensors\", \"format\": \"nvfp4-pack-quantized\"}";
    release(label, |name, [rows, columns], weights| {
        let (factor, scales, codes) = nvfp4([rows, columns], weights);
        vec![
            (format!("{name}.weight_packed"), "U8", vec![rows, columns / 2], codes),
            (format!("{name}.weight_scale"), "F8_E4M3", vec![rows, columns / 16], scales),
            (format!("{name}.weight_global_scale"), "F32", vec![1], (1.0 / factor).to_le_bytes().to_vec()),
        ]
    })
}

fn mxfp4() -> tempfile::TempDir {
    let label = "\"quantization_config\": {\"quant_method\": \"compressed-tensors\", \"format\": \"mxfp4-pack-quantized\"}";
    release(label, |name, [rows, columns], weights| {
        let (mut scales, mut codes) = (Vec::new(), Vec::new());
        for group in weights.chunks(32) {
            let largest = group.iter().fold(0f32, |m, v| m.max(v.abs()));
            let exponent = (largest / 6.0).log2().ceil().max(-100.0);
            scales.push((exponent + 127.0) as u8);
            let code = |v: &f32| e2m1(v / exponent.exp2());
            codes.extend(group.chunks(2).map(|pair| code(&pair[0]) | code(&pair[1]) << 4));
        }
        vec![
            (format!("{name}.weight_packed"), "U8", vec![rows, columns / 2], codes),
            (format!("{name}.weight_scale"), "U8", vec![rows, columns / 32], scales),
        ]
    })
}

fn mlx() -> tempfile::TempDir {
    let label = "\"quantization\": {\"bits\": 4, \"group_size\": 64}, \"quantization_config\": {\"bits\": 4, \"group_size\": 64}";
    release(label, |name, [rows, columns], weights| {
        let (mut words, mut scales, mut biases) = (Vec::new(), Vec::new(), Vec::new());
        for group in weights.chunks(64) {
            let (low, high) = group.iter().fold((0f32, 0f32), |(l, h), v| (l.min(*v), h.max(*v)));
            let scale = f16::from_f32((high - low).max(1e-6) / 15.0);
            let bias = f16::from_f32(low);
            scales.extend(scale.to_le_bytes());
            biases.extend(bias.to_le_bytes());
            let code = |v: &f32| ((v - bias.to_f32()) / scale.to_f32()).round().clamp(0.0, 15.0) as u8;
            words.extend(group.chunks(2).map(|pair| code(&pair[0]) | code(&pair[1]) << 4));
        }
        vec![
            (format!("{name}.weight"), "U32", vec![rows, columns / 8], words),
            (format!("{name}.scales"), "F16", vec![rows, columns / 64], scales),
            (format!("{name}.biases"), "F16", vec![rows, columns / 64], biases),
        ]
    })
}

#[test]
fn releases_of_four_bits() {
    let dir = tempfile::tempdir().unwrap();
    let plain = perplexity(&fixture("bookworm-4m"), &[]);
    for (model, scheme, block, exactly) in [
        (modelopt(), "nvfp4", ElementType::NVFP4, true),
        (compressed(), "nvfp4", ElementType::NVFP4, false),
        (mxfp4(), "mxfp4", ElementType::MXFP4, true),
        (mlx(), "mlx", ElementType::Q4_1, true),
    ] {
        let path = model.path().to_str().unwrap();
        let out = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let report = json(&["inspect", path, "--check", "--json"]);
        assert_eq!((&report["scheme"], &report["parameters"]), (&scheme.into(), &4_196_608.into()));
        assert_eq!(report["check"]["findings"], Value::Array(Vec::new()));
        let run = json(&["run", path, "-p", "It was a dark night", "-n", "8", "--temp", "0", "--json"]);
        assert_eq!(run["tokens"].as_array().unwrap().len(), 8);
        let (packed, decoded) =
            (perplexity(model.path(), &[]), perplexity(model.path(), &["--load-in", "f32"]));
        assert!((packed / decoded - 1.0).abs() < 0.004, "{scheme}: {packed} and {decoded}");
        assert!(decoded > 0.98 * plain && decoded < 1.2 * plain, "{scheme}: {decoded} of {plain}");

        // GGUF's own type, and what it reads.
        let gguf = out("exact.gguf");
        let args = ["convert", path, "--to", "gguf", "--force", "-o", &gguf];
        let plan = stdout(&quern([&args[..], &["--dry-run"]].concat()));
        assert!(plan.contains(block.name()) && !plan.contains("rounded"), "{plan}");
        let printed = stdout(&quern(args));
        let all = "verified: all 38 tensors have the source's values exactly";
        assert_eq!(printed.contains(all), exactly, "{scheme}: {printed}");
        assert!(printed.contains("verified"), "{printed}");
        let written = Checkpoint::open(Path::new(&gguf)).unwrap();
        let count = |of: &dyn Fn(&str, ElementType) -> bool| {
            written.tensors().iter().filter(|t| of(&t.name, t.element_type)).count()
        };
        assert_eq!(count(&|_, kind| kind == block), 28);
        let factors = count(&|name, kind| name.ends_with(".scale") && kind == ElementType::F32);
        assert_eq!(factors, if block == ElementType::NVFP4 { 28 } else { 0 });
        let report = json(&["inspect", &gguf, "--check", "--json"]);
        assert_eq!(report["check"]["findings"], Value::Array(Vec::new()), "{scheme}");
        assert_eq!(report["parameters"], 4_196_608);
        let of_gguf = perplexity(Path::new(&gguf), &[]);
        assert!((of_gguf / packed - 1.0).abs() < 1e-3, "{scheme}: {of_gguf} and {packed}");
        let of_gguf = perplexity(Path::new(&gguf), &["--load-in", "f32"]);
        assert!((of_gguf / decoded - 1.0).abs() < 1e-4, "{scheme}: {of_gguf} and {decoded}");
        // A copy of it is the same file, and plain numbers are the release's.
        stdout(&quern(["convert", &gguf, "--to", "gguf", "--force", "-o", &out("copy.gguf")]));
        stdout(&quern(["convert", &gguf, "--to", "safetensors", "--force", "-o", &out("back")]));
        let back = perplexity(Path::new(&out("back")), &[]);
        assert!((back / decoded - 1.0).abs() < 1e-4, "{scheme}: {back} and {decoded}");

        // In one command to anything else, once that is allowed.
        let args = ["quantize", path, "--to", "q4_k_m", "--force", "-o", &out("k.gguf")];
        let refused = failure(&quern(args));
        assert!(
            refused.contains("already quantized with") && refused.contains("--allow-requantize"),
            "{refused}"
        );
        for to in ["q4_k_m", "nf4"] {
            for (from, source) in [("release", path), ("gguf", gguf.as_str())] {
                let made = out(&format!("{to}-{from}")) + if to == "nf4" { "" } else { ".gguf" };
                let args = ["quantize", source, "--to", to, "--allow-requantize", "--force", "-o", &made];
                stdout(&quern(args));
                let quantized = perplexity(Path::new(&made), &[]);
                assert!(quantized < 1.15 * decoded, "{scheme} {from} {to}: {quantized} of {decoded}");
            }
        }
    }
}

/// Codes of e4m3 nearest to numbers times a power of two, so that scales are exact.
fn e4m3(weights: &[f32], scale: f32) -> Vec<u8> {
    let mut values = [0.0; 128];
    assert!(decode::to_f32(ElementType::F8E4M3, &(0..128).collect::<Vec<u8>>(), &mut values));
    let code = |v: &f32| {
        let near = |i: &u8| (values[usize::from(*i)] - v.abs() / scale).abs();
        let code = (0..127u8).min_by(|a, b| near(a).total_cmp(&near(b))).unwrap();
        code | if *v < 0.0 { 0x80 } else { 0 }
    };
    weights.iter().map(code).collect()
}

/// A mixture with FP8 experts in blocks of 16 x 16, each a matrix of its own, or all of a layer in one tensor.
fn fp8_experts(stacked: bool) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let source = fixture("architectures/qwen3_moe");
    for entry in std::fs::read_dir(&source).unwrap() {
        let path = entry.unwrap().path();
        std::fs::write(dir.path().join(path.file_name().unwrap()), std::fs::read(&path).unwrap()).unwrap();
    }
    let mut all = Vec::new();
    // Shape of one matrix, codes and scales of all.
    let mut stacks: BTreeMap<String, (Vec<usize>, [Vec<u8>; 2])> = BTreeMap::new();
    let mut tensors = Tensors::read(dir.path()).0;
    // By layer, expert and name, gate before up.
    let number =
        |name: &str| -> Vec<usize> { name.split('.').filter_map(|part| part.parse().ok()).collect() };
    tensors.sort_by_key(|(name, ..)| (number(name), name.contains("up_proj"), name.clone()));
    for (name, kind, shape, data) in tensors {
        if !name.contains(".experts.") {
            all.push((name, kind, shape, data));
            continue;
        }
        let &[rows, columns] = &shape[..] else { panic!("{name}: {shape:?}") };
        let mut weights = vec![0.0f32; rows * columns];
        let element_type = if kind == "F16" { ElementType::F16 } else { ElementType::F32 };
        assert!(decode::to_f32(element_type, &data, &mut weights));
        let (mut codes, mut scales) = (vec![0u8; rows * columns], Vec::new());
        for block in 0..rows / 16 * (columns / 16) {
            let (down, across) = (block / (columns / 16) * 16, block % (columns / 16) * 16);
            let at = |i: usize| (down + i / 16) * columns + across + i % 16;
            let own: Vec<f32> = (0..256).map(|i| weights[at(i)]).collect();
            let largest = own.iter().fold(1e-6f32, |m, v| m.max(v.abs()));
            let scale = largest / 448.0;
            e4m3(&own, scale).iter().enumerate().for_each(|(i, code)| codes[at(i)] = *code);
            scales.extend(scale.to_le_bytes());
        }
        if !stacked {
            all.push((format!("{name}_scale_inv"), "F32", vec![rows / 16, columns / 16], scales));
            all.push((name, "F8_E4M3", shape, codes));
            continue;
        }
        let (prefix, rest) = name.split_once(".experts.").unwrap();
        let part = if rest.contains("down_proj") { "down_proj" } else { "gate_up_proj" };
        let stack = stacks.entry(format!("{prefix}.experts.{part}")).or_default();
        stack.0 = vec![rows, columns];
        stack.1[0].extend(codes);
        stack.1[1].extend(scales);
    }
    for (name, (shape, [codes, scales])) in stacks {
        let rows = shape[0] * if name.ends_with("gate_up_proj") { 2 } else { 1 };
        let experts = codes.len() / rows / shape[1];
        all.push((format!("{name}_scale_inv"), "F32", vec![experts, rows / 16, shape[1] / 16], scales));
        all.push((format!("{name}_activation_scale"), "F32", vec![experts], vec![0; 4 * experts]));
        all.push((name, "F8_E4M3", vec![experts, rows, shape[1]], codes));
    }
    Tensors(all).write(dir.path());
    let label = "{\"quantization_config\": {\"quant_method\": \"fp8\", \"weight_block_size\": [16, 16]},";
    edit(dir.path(), "config.json", &[("{", label)]);
    dir
}

#[test]
fn experts_in_one_tensor_are_those_in_many() {
    let (apart, together) = (fp8_experts(false), fp8_experts(true));
    let dir = tempfile::tempdir().unwrap();
    let generated = |model: &Path, more: &[&str]| {
        let args = [
            "run",
            model.to_str().unwrap(),
            "-p",
            "It was a dark night",
            "-n",
            "12",
            "--temp",
            "0",
            "--json",
        ];
        json(&[&args[..], more].concat())["tokens"].clone()
    };
    assert_eq!(generated(apart.path(), &[]), generated(together.path(), &[]));
    let report = json(&["inspect", together.path().to_str().unwrap(), "--check", "--json"]);
    assert_eq!(report["scheme"], "fp8");
    assert_eq!(report["check"]["findings"], Value::Array(Vec::new()));
    let checkpoints: Vec<Vec<(String, Vec<u8>)>> = [&apart, &together]
        .iter()
        .enumerate()
        .map(|(number, model)| {
            let made = dir.path().join(format!("{number}.gguf"));
            let path = model.path().to_str().unwrap();
            let args = ["convert", path, "--to", "gguf", "--dtype", "f32", "-o", made.to_str().unwrap()];
            assert!(stdout(&quern(args)).contains("verified"));
            let written = Checkpoint::open(&made).unwrap();
            written.tensors().iter().map(|t| (t.name.clone(), written.data(t).to_vec())).collect()
        })
        .collect();
    assert!(checkpoints[0] == checkpoints[1]);
    assert_eq!(generated(together.path(), &["--load-in", "f32"]), generated(&dir.path().join("1.gguf"), &[]));
    let small = dir.path().join("q8_0.gguf");
    let args = ["quantize", together.path().to_str().unwrap(), "--to", "q8_0", "-o", small.to_str().unwrap()];
    stdout(&quern(args));
}

#[test]
fn a_dry_run_says_what_becomes_of_a_release_and_writes_nothing() {
    let fp8 = fp8_experts(false);
    let gpt_oss = fixture("packed/gpt_oss-mxfp4");
    let of_four_bits = [(modelopt(), "nvfp4"), (compressed(), "nvfp4")];
    let all = of_four_bits.iter().map(|(dir, scheme)| (dir.path(), *scheme, &["--allow-requantize"][..]));
    for (path, scheme, allowed) in all.chain([(fp8.path(), "fp8", &[][..]), (&gpt_oss, "mxfp4", &[][..])]) {
        let model = path.to_str().unwrap();
        for to in ["gptq", "nf4", "int8", "fp8", "compressed-tensors", "q4_k_m"] {
            let args = ["quantize", model, "--to", to, "--dry-run", "--json"];
            // 32 columns are in no group of 128.
            let group =
                if matches!(to, "gptq" | "compressed-tensors") { &["--group-size", "-1"][..] } else { &[] };
            let output = quern([&args[..], allowed, group].concat());
            let (plan, said) = (stdout(&output), String::from_utf8_lossy(&output.stderr).into_owned());
            let plan: Value = serde_json::from_str(&plan).expect("JSON");
            if to == "q4_k_m" {
                let from = |tensor: &Value| tensor["from"].as_str().unwrap().starts_with(scheme);
                assert!(plan["tensors"].as_array().unwrap().iter().any(from), "{scheme} {to}: {plan}");
                continue;
            }
            assert!(plan["bits_per_weight"].as_f64().unwrap() > 4.0, "{scheme} {to}: {plan}");
            let first = "written as a checkpoint of plain numbers first";
            assert!(said.contains(first), "{scheme} {to}: {said}");
            // Codes of four bits times powers of two are in 16 bits exactly.
            let lost = if scheme == "mxfp4" {
                "none of its numbers changes"
            } else {
                "tensors are rounded by that, "
            };
            assert!(said.contains(lost), "{scheme} {to}: {said}");
        }
    }
}
