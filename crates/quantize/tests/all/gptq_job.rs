//! The GPTQ job on the demo model: what it writes, that it can be interrupted, that threads change nothing.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::common::fixture;
use quern_quantize::calibrated::Calibration;
use quern_quantize::calibrated::gptq::{self as job, GptqReport, Options, Rules};
use quern_quantize::calibration::{SampleOptions, TextSource, samples};
use quern_quantize::gptq::{Order, Settings};
use quern_quantize::imatrix::Imatrix;
use quern_run::{LoadOptions, Model, PerplexityOptions, perplexity};
use quern_tensor_io::scheme::{CodeFormat, GptqFormat, Packing, Scheme};
use quern_tensor_io::{Checkpoint, NoProgress, Progress, Remedy};

fn model(threads: usize) -> Model {
    let checkpoint = Arc::new(Checkpoint::open(&fixture("bookworm-4m")).unwrap());
    Model::load(checkpoint, LoadOptions { threads, ..LoadOptions::default() }).unwrap()
}

fn text(name: &str) -> String {
    std::fs::read_to_string(fixture("text").join(name)).unwrap()
}

fn options(model: &Model, settings: Settings) -> Options {
    let source = TextSource::Text(text("calibration.txt"));
    let sample_options = SampleOptions { samples: 48, context: 128 };
    Options::new(settings, samples(model.tokenizer().unwrap(), source, sample_options).unwrap())
}

fn quantize(threads: usize, settings: Settings, out: &Path) -> GptqReport {
    let model = model(threads);
    let options = options(&model, settings);
    let plan = job::plan(&model, &options).unwrap();
    job::run(&model, &plan, &options, out, &NoProgress).unwrap()
}

/// Name and content of every file.
fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    files
        .map(|p| (p.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(&p).unwrap()))
        .collect()
}

fn score(path: &Path) -> f64 {
    let model = Model::open(path, LoadOptions { threads: 2, ..LoadOptions::default() }).unwrap();
    let options = PerplexityOptions { context: 256, chunks: Some(12), ..PerplexityOptions::default() };
    perplexity(&model, None, &text("validation.txt"), options, &NoProgress).unwrap().perplexity
}

/// The same codes in the tensors of other formats, from a run that is resumed with another packing too.
#[test]
fn other_packings_hold_the_same_values() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(2);
    for symmetric in [true, false] {
        let settings = Settings { group_size: Some(64), symmetric, ..Settings::default() };
        let options = |packing| Options { packing, ..options(&model, settings.clone()) };
        let made = |packing: CodeFormat| {
            let options = options(packing);
            let out = folder.path().join(format!("{}-{symmetric}", packing.name()));
            let plan = job::plan(&model, &options).unwrap();
            job::run(&model, &plan, &options, &out, &NoProgress).unwrap();
            Checkpoint::open(&out).unwrap()
        };
        let gptq = made(CodeFormat::Gptq(GptqFormat::V1));
        let original = Packing::read(&gptq).unwrap().unwrap();
        for packing in [CodeFormat::CompressedTensors, CodeFormat::Awq] {
            let other = made(packing);
            assert!(!other.directory().join("quantize_config.json").exists());
            let found = Packing::read(&other).unwrap().unwrap();
            let scheme = match packing {
                CodeFormat::CompressedTensors => {
                    Scheme::CompressedTensors { bits: 4, group_size: Some(64), symmetric, act_order: false }
                }
                CodeFormat::Awq | CodeFormat::Gptq(_) => Scheme::Awq { bits: 4, group_size: Some(64) },
            };
            assert_eq!(found.scheme(), &scheme);
            assert_eq!(found.layers().len(), original.layers().len());
            for layer in original.layers() {
                let mut values =
                    [vec![0.0; layer.rows * layer.columns], vec![1.0; layer.rows * layer.columns]];
                layer.decode(&gptq, 0..layer.rows, &mut values[0]);
                found.layer(&layer.name).unwrap().decode(&other, 0..layer.rows, &mut values[1]);
                assert!(values[0] == values[1], "{} {}", packing.name(), layer.name);
            }
        }
    }
    let refused = |settings: Settings, packing, part: &str| {
        let options = Options { packing, ..options(&model, settings) };
        let error = job::plan(&model, &options).unwrap_err().to_string();
        assert!(error.contains("model.layers.0") && error.contains(part), "{error}");
    };
    let act_order = Settings { order: Order::Activation, ..Settings::default() };
    refused(act_order, CodeFormat::CompressedTensors, "desc_act");
    refused(Settings { bits: 8, ..Settings::default() }, CodeFormat::Awq, "has 4");
    let partial = Settings { group_size: Some(96), ..Settings::default() };
    refused(partial, CodeFormat::CompressedTensors, "not whole groups of 96");
}

#[test]
fn a_checkpoint_comes_out_that_is_better_than_rounding() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings { bits: 3, group_size: Some(64), ..Settings::default() };
    let out = folder.path().join("gptq");
    let report = quantize(2, settings.clone(), &out);
    assert_eq!((report.modules.len(), report.resumed_blocks, report.tokens), (28, 0, 48 * 128));
    assert!(report.modules.iter().all(|m| m.loss > 0.0 && m.loss.is_finite() && m.fallback.is_none()));

    let checkpoint = Checkpoint::open(&out).unwrap();
    let packing = Packing::read(&checkpoint).unwrap().unwrap();
    let expected =
        Scheme::Gptq { bits: 3, group_size: Some(64), act_order: false, symmetric: true, v2: false };
    assert_eq!((packing.scheme(), packing.layers().len()), (&expected, 28));
    for file in
        ["config.json", "quantize_config.json", "quant_log.csv", "tokenizer.json", "tokenizer_config.json"]
    {
        assert!(out.join(file).is_file(), "{file}");
    }
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["gptq"], "nothing of the unfinished run remains");

    // Rounding to nearest with the same scales: a run in which no module sees enough tokens.
    let few = model(2);
    let mut starved = options(&few, settings);
    starved.calibration.samples.tokens = 1 << 40;
    let nearest = folder.path().join("nearest");
    let plan = job::plan(&few, &starved).unwrap();
    let report = job::run(&few, &plan, &starved, &nearest, &NoProgress).unwrap();
    assert!(report.modules.iter().all(|m| m.fallback.is_some()));
    assert_eq!(report.warnings.iter().filter(|w| w.contains("rounded to nearest")).count(), 28);
    let (plain, gptq, nearest) = (score(&fixture("bookworm-4m")), score(&out), score(&nearest));
    assert!(plain < gptq && gptq < plain + 0.8 * (nearest - plain), "{plain} {gptq} {nearest}");
}

/// Stops a run in the middle of its third block.
struct Impatient(AtomicU64);

impl Progress for Impatient {
    fn advance(&self, units: u64) {
        let done = self.0.fetch_add(units, Ordering::Relaxed) + units;
        assert!(done < 17, "stopped in the middle of the third block, as the test wants");
    }
}

/// Begins a run and leaves it unfinished.
fn stopped(settings: Settings, out: &Path) {
    let out = out.to_path_buf();
    let stopped = std::thread::spawn(move || {
        let model = model(2);
        let options = options(&model, settings);
        let plan = job::plan(&model, &options).unwrap();
        job::run(&model, &plan, &options, &out, &Impatient(AtomicU64::new(0)))
    });
    assert!(stopped.join().is_err());
}

/// Changes one byte in the middle of a file, or cuts it there.
fn damage(file: &Path, cut: bool) {
    let mut bytes = std::fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    bytes.truncate(if cut { middle } else { bytes.len() });
    std::fs::write(file, bytes).unwrap();
}

#[test]
fn what_is_damaged_of_an_unfinished_run_is_done_again() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings { group_size: Some(32), ..Settings::default() };
    quantize(2, settings.clone(), &folder.path().join("whole"));
    let expected = contents(&folder.path().join("whole"));
    for (file, cut, resumed) in [
        ("block-0000-2.safetensors", false, 0),
        ("block-0001-0.safetensors", false, 1),
        ("block-0001-3.safetensors", true, 1),
        ("block-0001.record", false, 1),
        ("block-0000.record", true, 0),
    ] {
        let out = folder.path().join("out");
        stopped(settings.clone(), &out);
        damage(&folder.path().join(".out.gptq-unfinished").join(file), cut);
        let report = quantize(2, settings.clone(), &out);
        assert_eq!(report.resumed_blocks, resumed, "{file}");
        let warning = report.warnings.iter().find(|w| w.contains("damaged")).expect("it is said");
        assert!(warning.contains(file) && warning.contains(&format!("block {resumed} ")), "{warning}");
        assert!(contents(&out) == expected, "{file}");
        std::fs::remove_dir_all(&out).unwrap();
        let left: Vec<_> =
            std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["whole"], "{file}");
    }
}

#[test]
fn threads_change_no_byte_and_neither_does_an_interruption() {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings { group_size: Some(32), ..Settings::default() };
    quantize(1, settings.clone(), &folder.path().join("one"));
    quantize(3, settings.clone(), &folder.path().join("three"));
    let expected = contents(&folder.path().join("one"));
    assert!(contents(&folder.path().join("three")) == expected);

    let out = folder.path().join("stopped");
    stopped(settings.clone(), &out);
    assert!(!out.exists());
    // Other options do not go on with it.
    let model = model(2);
    let other = options(&model, Settings { bits: 8, ..settings.clone() });
    let plan = job::plan(&model, &other).unwrap();
    let refused = job::run(&model, &plan, &other, &out, &NoProgress).unwrap_err();
    assert!(refused.to_string().contains("an unfinished run with other options"), "{refused}");
    assert_eq!(refused.remedy(), Some(Remedy::RestartJob));
    let report = quantize(2, settings, &out);
    assert_eq!((report.resumed_blocks, report.modules.len()), (2, 28));
    assert!(contents(&out) == expected);
}

#[test]
fn rules_act_order_zero_points_and_the_importance_matrix() {
    let folder = tempfile::tempdir().unwrap();
    let (out, imatrix) = (folder.path().join("mixed"), folder.path().join("imatrix.gguf"));
    let model = model(2);
    let settings = Settings { symmetric: false, order: Order::Activation, ..Settings::default() };
    let rules = r#"{"-:.*down_proj": {}, "model\\.layers\\.0\\..*k_proj": {"bits": 8, "group_size": 64, "sym": true}}"#;
    let plain = options(&model, settings);
    let options = Options {
        rules: Rules::parse(rules).unwrap(),
        calibration: Calibration { imatrix: Some(imatrix.clone()), ..plain.calibration.clone() },
        shard_bytes: 1 << 20,
        ..plain
    };
    let plan = job::plan(&model, &options).unwrap();
    assert!(plan.needs_v2());
    let report = job::run(&model, &plan, &options, &out, &NoProgress).unwrap();
    assert_eq!((report.modules.len(), report.skipped.len()), (24, 4));
    assert!(out.join("model.safetensors.index.json").is_file());
    let checkpoint = Checkpoint::open(&out).unwrap();
    let packing = Packing::read(&checkpoint).unwrap().unwrap();
    assert_eq!(packing.layers().len(), 24);
    assert!(checkpoint.tensor("model.layers.1.mlp.down_proj.weight").is_some());
    let shape = |name: &str| checkpoint.tensor(name).unwrap().info.shape.clone();
    assert_eq!(shape("model.layers.0.self_attn.k_proj.qweight"), [256 / 4, 128]);
    assert_eq!(shape("model.layers.0.self_attn.q_proj.qweight"), [256 / 8, 256]);
    let ratio = score(&out) / score(&fixture("bookworm-4m"));
    assert!((ratio - 1.0).abs() < 0.06, "{ratio}");
    // Modules that were left out are in the importance matrix all the same.
    let imatrix = Imatrix::open(&imatrix).unwrap();
    assert_eq!(imatrix.len(), 28);
    assert!(
        imatrix.get("blk.3.ffn_down.weight").is_some_and(|e| e.len() == 768 && e.iter().all(|&v| v > 0.0))
    );
}

#[test]
fn what_cannot_be_quantized_is_refused_before_any_work() {
    let model = model(1);
    let fails = |options: &Options| job::plan(&model, options).unwrap_err().to_string();
    let all = Options {
        rules: Rules::parse(r#"{"-:model": {}}"#).unwrap(),
        ..options(&model, Settings::default())
    };
    assert!(fails(&all).contains("every module"));
    let gguf = Model::open(
        &fixture("bookworm-4m-Q4_K_M.gguf"),
        LoadOptions { threads: 1, ..LoadOptions::default() },
    )
    .unwrap();
    let refused = job::plan(&gguf, &options(&gguf, Settings::default())).unwrap_err();
    assert!(refused.to_string().contains("a GGUF file"), "{refused}");
    assert_eq!(refused.remedy(), Some(Remedy::ConvertToSafetensors));
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("there");
    std::fs::create_dir(&out).unwrap();
    let options = options(&model, Settings::default());
    let plan = job::plan(&model, &options).unwrap();
    let refused = job::run(&model, &plan, &options, &out, &NoProgress).unwrap_err();
    assert_eq!(refused.remedy(), Some(Remedy::ReplaceOutput), "{refused}");
}
