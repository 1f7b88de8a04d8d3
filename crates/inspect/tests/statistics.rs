//! Statistics against their definitions, and tensors found by what users type.

use std::path::{Path, PathBuf};

use quern_inspect::statistics::{Statistics, TensorHistogram, select, statistics};
use quern_tensor_io::pipeline::pool;
use quern_tensor_io::{Checkpoint, ElementType, Metadata, NoProgress, TensorPlan, decode, gguf, safetensors};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

fn measured(name: &str, threads: usize) -> Statistics {
    let checkpoint = Checkpoint::open(&fixture(name)).unwrap();
    pool(threads, checkpoint.path()).unwrap().install(|| statistics(&checkpoint, &NoProgress)).unwrap()
}

/// The histogram of what `asked` names.
fn found(checkpoint: &Checkpoint, asked: &str) -> Vec<TensorHistogram> {
    select(checkpoint, asked).unwrap().measure(64, &NoProgress)
}

fn refused(checkpoint: &Checkpoint, asked: &str) -> String {
    select(checkpoint, asked).unwrap_err().to_string()
}

#[test]
fn figures_are_those_of_the_definitions() {
    let checkpoint = Checkpoint::open(&fixture("bookworm-4m-Q4_K_M.gguf")).unwrap();
    let found = measured("bookworm-4m-Q4_K_M.gguf", 2);
    assert_eq!(found.tensors.len(), checkpoint.tensors().len());
    for tensor in &found.tensors {
        let stored = checkpoint.tensor(&tensor.name).unwrap();
        let mut values = vec![0.0; stored.info.elements()];
        assert!(decode::to_f32(stored.info.element_type, stored.data, &mut values));
        let n = values.len() as f64;
        let wide = || values.iter().map(|&v| f64::from(v));
        let mean = wide().sum::<f64>() / n;
        let moment = |p| wide().map(|v| (v - mean).powi(p)).sum::<f64>() / n;
        let v = tensor.values.as_ref().unwrap();
        let near = |a: f64, b: f64| (a - b).abs() <= 1e-9 * b.abs().max(1e-3);
        assert!(near(v.mean, mean) && near(v.std, moment(2).sqrt()), "{}: {v:?}", tensor.name);
        assert!(near(v.rms, (wide().map(|v| v * v).sum::<f64>() / n).sqrt()), "{}", tensor.name);
        assert!(near(v.kurtosis.unwrap(), moment(4) / moment(2).powi(2)), "{}", tensor.name);
        assert_eq!(v.count, values.len() as u64);
        assert_eq!(v.zeros, values.iter().filter(|v| **v == 0.0).count() as u64);
        assert_eq!(v.min, values.iter().copied().fold(f32::INFINITY, f32::min));
        assert_eq!(v.max, values.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let mut sizes: Vec<f32> = values.iter().map(|v| v.abs()).collect();
        sizes.sort_by(f32::total_cmp);
        for (name, percent) in [("p50", 50.0), ("p99", 99.0), ("p99.9", 99.9)] {
            let exact = sizes[((n * percent / 100.0).ceil() as usize - 1).min(sizes.len() - 1)];
            let found = v.magnitude_percentiles[name];
            assert!(
                found <= exact && found >= exact * (1.0 - 1.0 / 128.0),
                "{} {name} {found} {exact}",
                tensor.name
            );
        }
        assert_eq!(
            (tensor.element_type.as_str(), tensor.bytes),
            (stored.info.element_type.name(), stored.info.bytes as u64)
        );
        let Some(outliers) = &tensor.outliers else { continue };
        let columns = stored.info.columns();
        let rms = |c: usize| {
            let column = values.iter().skip(c).step_by(columns).map(|&v| f64::from(v).powi(2));
            (column.sum::<f64>() / (n / columns as f64)).sqrt()
        };
        let all: Vec<f64> = (0..columns).map(rms).collect();
        let largest = all.iter().copied().fold(0.0, f64::max);
        assert!(near(outliers.top[0].rms, largest) && near(all[outliers.top[0].channel], largest));
    }
}

#[test]
fn the_number_of_threads_changes_no_figure() {
    for name in
        ["bookworm-4m", "packed/gptq-4bit-g32-desc-act-v2", "architectures/gpt2", "architectures/mixtral"]
    {
        let one = serde_json::to_string(&measured(name, 1)).unwrap();
        for threads in [2, 5] {
            assert_eq!(serde_json::to_string(&measured(name, threads)).unwrap(), one, "{name}, {threads}");
        }
    }
}

#[test]
fn packed_layers_and_transposed_matrices_are_measured_as_weights() {
    let found = measured("packed/gptq-4bit-g128", 2);
    let layer = found.tensors.iter().find(|t| t.element_type == "gptq 4-bit").unwrap();
    assert!(layer.name.ends_with(".weight") && layer.values.is_some(), "{layer:?}");
    assert!((4.0..5.0).contains(&layer.bits_per_weight()), "{}", layer.bits_per_weight());
    assert!(found.tensors.iter().all(|t| !t.name.contains("qweight")));

    // Stored as [in, out]: its input channels are the rows.
    let found = measured("architectures/gpt2", 2);
    let up = found.tensors.iter().find(|t| t.kind == "ffn_up").unwrap();
    assert_eq!(up.outliers.as_ref().unwrap().channels, up.shape[0]);
    assert_ne!(up.shape[0], up.shape[1]);
}

#[test]
fn both_containers_have_the_same_kinds() {
    let kinds = |name| measured(name, 1).kinds.iter().map(|k| k.kind.clone()).collect::<Vec<_>>();
    let of_gguf = kinds("bookworm-4m-Q4_K_M.gguf");
    assert_eq!(of_gguf, kinds("bookworm-4m"));
    for kind in ["token_embd", "attn_q", "ffn_down", "output_norm"] {
        assert!(of_gguf.iter().any(|k| k == kind), "{of_gguf:?}");
    }
    let found = measured("bookworm-4m", 1);
    let up = found.tensors.iter().find(|t| t.name == "model.layers.3.mlp.up_proj.weight").unwrap();
    assert_eq!((up.kind.as_str(), up.layer, up.outliers.is_some()), ("ffn_up", Some(3), true));
    assert!(found.tensors.iter().all(|t| t.kind != "token_embd" || t.outliers.is_none()));
}

#[test]
fn names_of_both_formats_lead_to_the_same_values() {
    let model = Checkpoint::open(&fixture("bookworm-4m")).unwrap();
    let own = found(&model, "model.layers.2.mlp.down_proj.weight");
    let other = found(&model, "blk.2.ffn_down.weight");
    assert_eq!((own.len(), other.len()), (1, 1));
    assert_eq!(own[0].values, other[0].values);
    assert_eq!(own[0].columns, other[0].columns);
    assert_eq!(other[0].sources, ["model.layers.2.mlp.down_proj.weight"]);
    // Rows of Q are in another order in GGUF: the figures stay, up to the order of sums.
    let [own, other] =
        ["model.layers.0.self_attn.q_proj.weight", "blk.0.attn_q.weight"].map(|n| found(&model, n));
    assert_eq!(own[0].histogram, other[0].histogram);

    let gguf = Checkpoint::open(&fixture("bookworm-4m-Q4_K_M.gguf")).unwrap();
    let by_hugging_face = found(&gguf, "model.layers.2.mlp.down_proj.weight");
    assert_eq!(
        (by_hugging_face[0].name.as_str(), by_hugging_face[0].element_type.as_str()),
        ("model.layers.2.mlp.down_proj.weight", "q6_K")
    );
    assert_eq!(by_hugging_face[0].values, found(&gguf, "blk.2.ffn_down.weight")[0].values);
}

#[test]
fn ends_of_names_and_expressions_are_understood() {
    let model = Checkpoint::open(&fixture("bookworm-4m")).unwrap();
    let names = |asked: &str| found(&model, asked).into_iter().map(|t| t.name).collect::<Vec<_>>();
    assert_eq!(names("3.mlp.up_proj.weight"), ["model.layers.3.mlp.up_proj.weight"]);
    assert_eq!(names("token_embd.weight"), ["token_embd.weight"]);
    assert_eq!(
        names(r"layers\.[01]\.mlp\.up"),
        ["model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight"]
    );
    let error = refused(&model, "blk.9.attn_q.weight");
    assert!(error.contains("\"blk.9.attn_q.weight\"") && error.contains("blk.0.attn_q.weight"), "{error}");
    let error = refused(&model, "upp_proj");
    assert!(error.contains("names near it are model.layers.0.mlp.up_proj.weight"), "{error}");
    let error = refused(&model, "weight");
    assert!(error.contains("38 tensors match") && error.contains("at most 16"), "{error}");
    let error = refused(&model, "up_proj[");
    assert!(error.contains("no regular expression either: unclosed character class"), "{error}");
    assert!(refused(&model, "").contains("no tensor is called"));
}

#[test]
fn values_that_are_not_finite_and_types_without_decoder_are_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("m.safetensors");
    let plan = |name: &str, element_type, shape: &[usize]| TensorPlan {
        name: name.into(),
        element_type,
        shape: shape.into(),
    };
    let tensors = [
        plan("a.0.w", ElementType::F32, &[2, 3]),
        plan("ids", ElementType::I32, &[4]),
        plan("none", ElementType::F32, &[0, 3]),
        plan("one", ElementType::F32, &[]),
    ];
    let mut writer = safetensors::Writer::create(&file, &Metadata::new(), &tensors, false).unwrap();
    let values = [1.0f32, f32::NAN, -2.0, f32::INFINITY, 0.0, 3.0];
    writer.write(&values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>()).unwrap();
    writer.write(&[1; 16]).unwrap();
    writer.write(&7.5f32.to_le_bytes()).unwrap();
    writer.finish().unwrap();
    let checkpoint = Checkpoint::open(&file).unwrap();
    let found = statistics(&checkpoint, &NoProgress).unwrap();
    let of = |name: &str| found.tensors.iter().find(|t| t.name == name).unwrap();
    let v = of("a.0.w").values.as_ref().unwrap();
    assert_eq!((v.count, v.not_finite, v.zeros, v.min, v.max, v.mean), (4, 2, 1, -2.0, 3.0, 0.5));
    assert_eq!(of("a.0.w").layer, Some(0));
    assert!(of("ids").values.is_none() && of("none").values.is_none());
    assert_eq!(of("one").values.as_ref().unwrap().max, 7.5);
}

#[test]
fn a_long_row_is_measured_in_pieces() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("m.gguf");
    let length = (1 << 21) + 64;
    let plan = [TensorPlan { name: "long".into(), element_type: ElementType::Q8_0, shape: vec![length] }];
    let mut metadata = Metadata::new();
    metadata.set("general.architecture", "unknown");
    let mut writer = gguf::Writer::create(&file, &metadata, &plan, false).unwrap();
    // Blocks of a scale of 1.0 and 32 codes, whose value is the number of the block modulo 100.
    for block in 0..length / 32 {
        let mut bytes = vec![0x00, 0x3c];
        bytes.extend([(block % 100) as u8; 32]);
        writer.write(&bytes).unwrap();
    }
    writer.finish().unwrap();
    let checkpoint = Checkpoint::open(&file).unwrap();
    let found = statistics(&checkpoint, &NoProgress).unwrap();
    let v = found.tensors[0].values.as_ref().unwrap();
    let blocks = length / 32;
    let sum: usize = (0..blocks).map(|b| b % 100).sum();
    assert_eq!(
        (v.count, v.max, v.zeros),
        (length as u64, 99.0, 32 * (0..blocks).filter(|b| b % 100 == 0).count() as u64)
    );
    assert!((v.mean - sum as f64 / blocks as f64).abs() < 1e-9);
}
