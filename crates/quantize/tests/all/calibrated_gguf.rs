//! The calibrated job with a GGUF file as its output, on the demo model: what it writes, that it can be interrupted, that
//! threads change nothing, that every type works, and that it is better than an importance matrix.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::common::{fixture, names};
use quern_model::provenance::{CalibrationText, GGUF_KEY, Provenance, Step};
use quern_model::{Packed, View};
use quern_quantize::calibrated::Calibration;
use quern_quantize::calibrated::gguf::{self, Error, GgufReport, Options};
use quern_quantize::calibration::{SampleOptions, TextSource, samples};
use quern_quantize::imatrix::{CollectOptions, Imatrix, collect};
use quern_quantize::job::{self, QuantizePlan};
use quern_quantize::recipe::{FileType, Override};
use quern_run::{LoadOptions, Model, PerplexityOptions, perplexity};
use quern_tensor_io::{Checkpoint, ElementType, NoProgress, Progress, Remedy};

fn model(path: &Path, threads: usize) -> Model {
    let checkpoint = Arc::new(Checkpoint::open(path).unwrap());
    Model::load(checkpoint, LoadOptions { threads, ..LoadOptions::default() }).unwrap()
}

fn demo() -> PathBuf {
    fixture("bookworm-4m")
}

fn text(name: &str) -> String {
    std::fs::read_to_string(fixture("text").join(name)).unwrap()
}

fn options(model: &Model, file_type: FileType, samples_wanted: usize, context: usize) -> Options {
    let source = TextSource::Text(text("calibration.txt"));
    let wanted = SampleOptions { samples: samples_wanted, context };
    let samples = samples(model.tokenizer().unwrap(), source, wanted).unwrap();
    Options::new(job::Options { threads: 2, ..job::Options::new(file_type) }, Calibration::new(samples))
}

fn run(model: &Model, options: Options, out: &Path) -> GgufReport {
    let view = View::gguf(model.checkpoint(), Packed::Refused).unwrap();
    let plan = gguf::plan(model, &view, options).unwrap();
    gguf::run(model, &plan, out, &NoProgress).unwrap()
}

/// The demo model with few and short samples: for tests of the bytes.
fn quick(threads: usize, file_type: FileType, out: &Path) -> GgufReport {
    let model = model(&demo(), threads);
    let options = options(&model, file_type, 8, 64);
    run(&model, options, out)
}

fn plain<'a>(view: &'a View<'a>, options: job::Options) -> QuantizePlan<'a> {
    job::plan(view, job::Options { threads: 2, ..options }).unwrap()
}

fn divergence(path: &Path, reference: &Model) -> f64 {
    divergence_of(path, reference, 6)
}

fn divergence_of(path: &Path, reference: &Model, chunks: usize) -> f64 {
    let options = PerplexityOptions { context: 256, chunks: Some(chunks), ..PerplexityOptions::default() };
    let found =
        perplexity(&model(path, 2), Some(reference), &text("validation.txt"), options, &NoProgress).unwrap();
    found.against.unwrap().kl_mean
}

#[test]
fn the_file_has_the_types_and_metadata_of_an_ordinary_one() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.gguf");
    let model = model(&demo(), 2);
    let calibration = CalibrationText { name: "t.txt".into(), samples: 8, context: 64, ..Default::default() };
    let step = Step { calibration: Some(calibration), ..Step::default() };
    let mut options = options(&model, FileType::Q3KM, 8, 64);
    options.quantize.provenance = Some(Provenance::default().then(step));
    let report = run(&model, options, &out);
    // Four blocks of seven layers; the head is the embedding.
    assert_eq!((report.layers.len(), report.resumed_blocks, report.tokens), (28, 0, 8 * 64));
    assert!(report.layers.iter().all(|l| l.fallback.is_none() && l.loss.is_some_and(|loss| loss > 0.0)));
    assert_eq!(names(folder.path()), ["out.gguf"], "nothing of the unfinished run remains");
    assert_eq!(report.bytes, std::fs::metadata(&out).unwrap().len());

    let made = Checkpoint::open(&out).unwrap();
    let view = View::gguf(model.checkpoint(), Packed::Refused).unwrap();
    let imatrix = Some(crate::common::imatrix());
    let expected = plain(&view, job::Options { imatrix, ..job::Options::new(FileType::Q3KM) });
    let types = |t: &quern_tensor_io::TensorInfo| (t.name.clone(), t.element_type, t.shape.clone());
    let wanted: Vec<_> = expected.rows().iter().map(|r| (r.name.clone(), r.to, r.shape.clone())).collect();
    assert_eq!(made.tensors().iter().map(types).collect::<Vec<_>>(), wanted);
    let keys = |metadata: &quern_tensor_io::Metadata| -> Vec<String> {
        let keys = metadata.iter().map(|(key, _)| key.to_owned());
        keys.filter(|key| !key.starts_with("quantize.imatrix.") && key != GGUF_KEY).collect()
    };
    assert_eq!(keys(made.metadata()), keys(expected.metadata()));
    assert!(made.metadata().iter().all(|(key, _)| !key.starts_with("quantize.imatrix.")));
    for key in ["general.file_type", "general.quantization_version"] {
        assert_eq!(made.metadata().get(key), expected.metadata().get(key), "{key}");
    }
    let (provenance, _) = Provenance::of(&made);
    let step = provenance.unwrap().last().unwrap().clone();
    assert_eq!(step.calibration.unwrap().name, "t.txt");
    assert_eq!(step.figures["calibration_tokens"], 512.0);
}

/// Stops a run in the middle of its third block.
struct Impatient(AtomicU64);

impl Progress for Impatient {
    fn advance(&self, units: u64) {
        let done = self.0.fetch_add(units, Ordering::Relaxed) + units;
        assert!(done < 17, "stopped in the middle of the third block, as the test wants");
    }
}

fn stopped(out: &Path) {
    let out = out.to_path_buf();
    let run = std::thread::spawn(move || {
        let model = model(&demo(), 2);
        let options = options(&model, FileType::Q4KM, 8, 64);
        let view = View::gguf(model.checkpoint(), Packed::Refused).unwrap();
        let plan = gguf::plan(&model, &view, options).unwrap();
        gguf::run(&model, &plan, &out, &Impatient(AtomicU64::new(0)))
    });
    assert!(run.join().is_err());
}

#[test]
fn threads_interruptions_and_damage_change_no_byte() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    quick(1, FileType::Q4KM, &path("one.gguf"));
    quick(3, FileType::Q4KM, &path("three.gguf"));
    let expected = std::fs::read(path("one.gguf")).unwrap();
    assert!(std::fs::read(path("three.gguf")).unwrap() == expected);

    let out = path("out.gguf");
    stopped(&out);
    assert!(!out.exists());
    // Other types do not go on with it.
    let other = model(&demo(), 2);
    let view = View::gguf(other.checkpoint(), Packed::Refused).unwrap();
    let plan = gguf::plan(&other, &view, options(&other, FileType::Q4KS, 8, 64)).unwrap();
    let refused = gguf::run(&other, &plan, &out, &NoProgress).unwrap_err();
    assert!(refused.to_string().contains("an unfinished run with other options"), "{refused}");
    assert_eq!(refused.remedy(), Some(Remedy::RestartJob));
    let report = quick(2, FileType::Q4KM, &out);
    assert_eq!((report.resumed_blocks, report.layers.len()), (2, 28));
    assert!(std::fs::read(&out).unwrap() == expected);
    std::fs::remove_file(&out).unwrap();

    for (file, resumed) in [("block-0001-2.safetensors", 1), ("block-0000.record", 0)] {
        stopped(&out);
        let damaged = folder.path().join(".out.gguf.gguf-unfinished").join(file);
        let mut bytes = std::fs::read(&damaged).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&damaged, bytes).unwrap();
        let report = quick(2, FileType::Q4KM, &out);
        assert_eq!(report.resumed_blocks, resumed, "{file}");
        let warning = report.warnings.iter().find(|w| w.contains("damaged")).expect("it is said");
        assert!(warning.contains(file), "{warning}");
        assert!(std::fs::read(&out).unwrap() == expected, "{file}");
        std::fs::remove_file(&out).unwrap();
    }
    assert_eq!(names(folder.path()), ["one.gguf", "three.gguf"]);
}

#[test]
fn every_type_works() {
    let folder = tempfile::tempdir().unwrap();
    let (model, out) = (model(&demo(), 2), folder.path().join("out.gguf"));
    for file_type in FileType::ALL.iter().copied().filter(|t| t.is_block()) {
        let mut wanted = options(&model, file_type, 2, 32);
        wanted.calibration.force = true;
        wanted.quantize.pure = true;
        // The first block and the embedding have rows of every length there is.
        wanted.quantize.overrides = vec![Override::parse("blk.[1-3]=q8_0").unwrap()];
        let report = run(&model, wanted, &out);
        let made = Checkpoint::open(&out).unwrap();
        for layer in &report.layers {
            let tensor = made.tensor(&layer.tensor).unwrap();
            assert_eq!(tensor.info.element_type.name(), layer.element_type, "{file_type:?}");
            assert_eq!(job::bad_block(tensor.info.element_type, tensor.data), None, "{file_type:?}");
        }
        let logits = divergence_of(&out, &model, 1);
        assert!(logits.is_finite(), "{file_type:?}");
    }
}

#[test]
fn no_type_is_worse_than_with_an_importance_matrix() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let model = model(&demo(), 2);
    let source = Checkpoint::open(&demo()).unwrap();
    let view = View::gguf(&source, Packed::Refused).unwrap();
    let wanted = |file_type| options(&model, file_type, 24, 128);
    // The same text for both: the calibration's, written as an importance matrix.
    let mut first = wanted(FileType::Q8_0);
    first.calibration.imatrix = Some(path("imatrix.gguf"));
    run(&model, first, &path("first.gguf"));
    let imatrix = Imatrix::open(&path("imatrix.gguf")).unwrap();
    for (file_type, share) in [
        (FileType::Q4_0, 0.8),
        (FileType::Q5_1, 0.95),
        (FileType::Q2KS, 0.9),
        (FileType::Q3KM, 0.95),
        (FileType::Q4KM, 0.95),
        (FileType::Q6K, 0.95),
        (FileType::IQ4XS, 0.9),
        (FileType::IQ3XXS, 0.9),
    ] {
        let mut calibrated = wanted(file_type);
        calibrated.calibration.force = true;
        run(&model, calibrated, &path("out.gguf"));
        let weighted =
            job::Options { imatrix: Some(imatrix.clone()), force: true, ..job::Options::new(file_type) };
        job::run(&plain(&view, weighted), &path("plain.gguf"), &NoProgress).unwrap();
        let (found, plain) = (divergence(&path("out.gguf"), &model), divergence(&path("plain.gguf"), &model));
        println!("{}: {found:.5} calibrated, {plain:.5} with an importance matrix", file_type.name());
        assert!(found < share * plain, "{}: {found} against {plain}", file_type.name());
    }
}

#[test]
fn options_of_types_are_those_of_the_plain_job() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.gguf");
    let model = model(&demo(), 2);
    let mut wanted = options(&model, FileType::Q4KM, 4, 32);
    wanted.quantize.overrides =
        vec![Override::parse("attn_q=q8_0").unwrap(), Override::parse("blk.1.ffn=f16").unwrap()];
    wanted.quantize.token_embedding_type = Some(ElementType::IQ2XXS);
    let imatrix = folder.path().join("imatrix.gguf");
    wanted.calibration.imatrix = Some(imatrix.clone());
    let report = run(&model, wanted, &out);
    let made = Checkpoint::open(&out).unwrap();
    let of = |name: &str| made.tensor(name).unwrap().info.element_type;
    assert_eq!(of("blk.2.attn_q.weight"), ElementType::Q8_0);
    assert_eq!(of("blk.1.ffn_up.weight"), ElementType::F16);
    assert_eq!(of("token_embd.weight"), ElementType::IQ2XXS);
    assert_eq!(report.layers.len(), 25);
    // Layers that stay plain numbers are measured all the same.
    let imatrix = Imatrix::open(&imatrix).unwrap();
    assert_eq!(imatrix.len(), 28);
    assert!(
        imatrix.get("blk.1.ffn_down.weight").is_some_and(|e| e.len() == 768 && e.iter().all(|v| *v > 0.0))
    );
}

#[test]
fn a_gguf_file_is_calibrated_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let source = Checkpoint::open(&demo()).unwrap();
    let view = View::gguf(&source, Packed::Refused).unwrap();
    job::run(&plain(&view, job::Options::new(FileType::F16)), &path("f16.gguf"), &NoProgress).unwrap();
    let original = model(&demo(), 2);
    let from = model(&path("f16.gguf"), 2);
    for (model, out) in [(&original, "a.gguf"), (&from, "b.gguf")] {
        run(model, options(model, FileType::Q4_0, 32, 128), &path(out));
    }
    // Rows of queries and keys are in another order in the two sources, so sums differ in their last bits, and with
    // them the tokens that are drawn for gradients: the files are not the same, but both far better than the plain one.
    job::run(&plain(&view, job::Options::new(FileType::Q4_0)), &path("plain.gguf"), &NoProgress).unwrap();
    let [a, b, plain] = ["a.gguf", "b.gguf", "plain.gguf"].map(|name| divergence(&path(name), &original));
    assert!(a < 0.85 * plain && b < 0.85 * plain, "{a} {b} {plain}");

    // One that is quantized is calibrated only where that is allowed.
    let quantized = model(&fixture("bookworm-4m-Q4_K_M.gguf"), 2);
    let view = View::gguf(quantized.checkpoint(), Packed::Refused).unwrap();
    let mut wanted = options(&quantized, FileType::Q3KM, 4, 32);
    let refused = gguf::plan(&quantized, &view, wanted.clone()).unwrap_err();
    assert_eq!(refused.remedy(), Some(Remedy::AllowRequantize), "{refused}");
    wanted.quantize.allow_requantize = true;
    let plan = gguf::plan(&quantized, &view, wanted).unwrap();
    let report = gguf::run(&quantized, &plan, &path("c.gguf"), &NoProgress).unwrap();
    // Layers that have the wanted type already stay as they are.
    let changed = |r: &&job::QuantizeRow| r.from != r.to && r.name.starts_with("blk.");
    assert_eq!(report.layers.len(), plan.rows().iter().filter(changed).count());
    assert!((20..28).contains(&report.layers.len()));
}

#[test]
fn what_cannot_be_calibrated_is_refused_before_any_work() {
    let model = model(&demo(), 1);
    let view = View::gguf(model.checkpoint(), Packed::Refused).unwrap();
    let fails = |options: Options| gguf::plan(&model, &view, options).unwrap_err();
    let options = |file_type| options(&model, file_type, 4, 32);
    assert!(matches!(fails(options(FileType::F16)), Error::NoBlocks));
    let mut twice = options(FileType::Q4_0);
    twice.quantize.imatrix = Some(crate::common::imatrix());
    assert!(matches!(fails(twice), Error::HasImatrix));
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("there.gguf");
    std::fs::write(&out, "x").unwrap();
    let plan = gguf::plan(&model, &view, options(FileType::Q4_0)).unwrap();
    let refused = gguf::run(&model, &plan, &out, &NoProgress).unwrap_err();
    assert_eq!(refused.remedy(), Some(Remedy::ReplaceOutput), "{refused}");
    assert_eq!(names(folder.path()), ["there.gguf"]);
}

#[test]
fn importance_of_the_same_text_is_that_of_quern_imatrix() {
    let folder = tempfile::tempdir().unwrap();
    let model = model(&fixture("architectures/mixtral/model.safetensors"), 2);
    let path = folder.path().join("imatrix.gguf");
    let mut wanted = options(&model, FileType::Q8_0, 8, 64);
    wanted.calibration.imatrix = Some(path.clone());
    run(&model, wanted, &folder.path().join("out.gguf"));
    let found = Imatrix::open(&path).unwrap();
    // Of another selection of the text, so only the shapes agree.
    let collected = collect(
        &model,
        &text("calibration.txt"),
        CollectOptions { context: 64, chunks: Some(8), ..CollectOptions::default() },
        &NoProgress,
    )
    .unwrap();
    let shapes: Vec<_> = collected.sums.iter().map(|e| (e.name, e.squares.len())).collect();
    let entries: Vec<_> = found.names().map(|n| (n, found.get(n).unwrap().len())).collect();
    assert_eq!(entries, shapes);
}
