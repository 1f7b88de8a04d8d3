//! Models as they are released in 4 bits: NVFP4 as ModelOpt and compressed-tensors store it, MXFP4 and MLX, read, run,
//! inspected, converted to GGUF's own types and back, and quantized.

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
        stdout(&quern(["diff", path, &out("back"), "--json"]));

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
