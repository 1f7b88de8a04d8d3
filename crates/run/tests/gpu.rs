//! The GPU against the CPU: logits of every architecture in `fixtures/`. Skipped, and said so, where there
//! is no NVIDIA card.

#![allow(missing_docs)]

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use common::{fixture, grows};
use quern_compute::Executor;
use quern_model::Config;
use quern_run::placement::{Capacity, GpuLayers, GpuRoom, Location, Plan, Session, cards};
use quern_run::statistics::{Likelihood, kl_divergence, log_sum_exp, mean_and_deviation};
use quern_run::{
    Bandwidths, Error, GenerateOptions, KvType, LinearGroup, LoadIn, LoadOptions, Model, Observer,
    ObserverError, PerplexityOptions, PerplexityReport, Placing, SessionOptions, Wanted, perplexity,
    perplexity_of_tokens,
};
use quern_tensor_io::{ElementType, NoProgress};

/// Whether there is a card.
fn card() -> bool {
    match quern_compute::gpus() {
        Ok(gpus) if !gpus.is_empty() => true,
        Ok(_) => {
            eprintln!("skipped: no NVIDIA card");
            false
        }
        Err(error) => {
            assert!(std::env::var_os("QUERN_TEST_CUDA").is_none(), "{error}");
            eprintln!("skipped: no NVIDIA card ({error})");
            false
        }
    }
}

fn open(path: &Path, layers: Option<GpuLayers>) -> Model {
    loaded(path, layers, None)
}

fn loaded(path: &Path, layers: Option<GpuLayers>, load_in: Option<&dyn LoadIn>) -> Model {
    let cards = if layers.is_some() { cards().unwrap() } else { Vec::new() };
    let gpus: Vec<GpuRoom> = cards.iter().take(1).map(|card| GpuRoom::new(card, None)).collect();
    let session =
        |config: &Config| SessionOptions { context: config.context_length.min(96), ..Default::default() };
    let placing = layers.map(|layers| Placing { gpus: &gpus, layers, session: &session, rows: 64 });
    let options = LoadOptions { threads: 2, placing, load_in, ..LoadOptions::default() };
    Model::open(path, options).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Logits of a prompt, then of single tokens, each row apart.
fn logits(model: &Model, kv: KvType) -> Vec<Vec<f32>> {
    let vocabulary = model.vocabulary();
    let context = model.config().context_length.min(96);
    // Of the usual text AFMoE's routers find two experts for a token that are within 1e-5 of each other, so that rounding
    // chooses; of the other text none within 1e-2.
    let factor = if model.config().architecture.name == "afmoe" { 7901 } else { 7919 };
    let tokens: Vec<u32> = (0..context as u32).map(|i| (i * factor + 13) % vocabulary as u32).collect();
    let options = SessionOptions { context, batch: 24, kv };
    let mut session = model.session(options).unwrap();
    let (prompt, rest) = tokens.split_at(41.min(context / 2));
    let mut rows: Vec<Vec<f32>> = Vec::new();
    let mut add = |values: &[f32]| rows.extend(values.chunks_exact(vocabulary).map(<[f32]>::to_vec));
    add(session.forward(prompt, Wanted::All).unwrap());
    for token in &rest[..rest.len().min(8)] {
        add(session.forward(&[*token], Wanted::Last).unwrap());
    }
    add(session.forward(&rest[8.min(rest.len() - 1)..][..3.min(rest.len() - 8)], Wanted::Last).unwrap());
    // Again from a shorter text: recorded passes serve other positions.
    session.truncate(10);
    for token in &rest[..3] {
        add(session.forward(&[*token], Wanted::Last).unwrap());
    }
    rows
}

/// The largest of `|a - b| / |b|` over rows, each less its mean.
fn distance(found: &[Vec<f32>], expected: &[Vec<f32>]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let row = |(a, b): (&Vec<f32>, &Vec<f32>)| {
        let mean = |x: &[f32]| x.iter().map(|&v| f64::from(v)).sum::<f64>() / x.len() as f64;
        let (ma, mb) = (mean(a), mean(b));
        let pairs = || a.iter().zip(b).map(|(&a, &b)| (f64::from(a) - ma, f64::from(b) - mb));
        let error: f64 = pairs().map(|(a, b)| (a - b) * (a - b)).sum();
        let size: f64 = pairs().map(|(_, b)| b * b).sum();
        // NaN counts as infinitely far.
        let distance = (error / size.max(1e-30)).sqrt();
        if distance.is_nan() { f64::INFINITY } else { distance }
    };
    found.iter().zip(expected).map(row).fold(0.0, f64::max)
}

/// Compares, and returns what was wrong.
fn compare(path: &Path, layers: GpuLayers, kv: KvType, most: f64) -> Option<String> {
    let expected = logits(&open(path, None), kv);
    let found = logits(&open(path, Some(layers)), kv);
    let distance = distance(&found, &expected);
    let name = path.strip_prefix(fixture("")).unwrap_or(path).display().to_string();
    eprintln!("{name} {}: {distance:.2e}", kv.name());
    (distance > most).then(|| format!("{name} with {} keys and values: {distance:.2e}", kv.name()))
}

fn folders(of: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(fixture(of)).unwrap().map(|e| e.unwrap().path());
    let mut folders: Vec<PathBuf> = entries.filter(|path| path.is_dir() && !grows(path)).collect();
    folders.sort();
    folders
}

#[test]
fn queries_that_grow_are_refused_where_they_do() {
    if !card() {
        return;
    }
    let model = open(&fixture("architectures/ministral3"), Some(GpuLayers::All));
    let context = model.config().query_growth.unwrap().context;
    let mut session =
        model.session(SessionOptions { context: 2 * context, ..SessionOptions::default() }).unwrap();
    let tokens: Vec<u32> = (0..context as u32).collect();
    session.forward(&tokens, Wanted::Last).unwrap();
    let beyond = session.forward(&tokens[..1], Wanted::Last).unwrap_err();
    assert!(matches!(beyond, Error::QueryGrowth { context: c } if c == context), "{beyond}");
}

/// How far logits may be that kernels of 16-bit floats compute. Delta nets divide by small lengths, and the tiny Mamba-2 has
/// nothing beside its states: their logits move more when a prompt's activations are rounded; `mixers_are_exact` compares
/// them without that. One token of the tiny InternLM 3 moves by 1.05e-2 in transformers too where weights and inputs of
/// linear layers are rounded to f16, and by as much on a GPU.
fn bound(folder: &Path) -> f64 {
    match folder.file_name().map(|name| name.to_string_lossy()).as_deref() {
        Some("qwen3_5" | "qwen3_5_moe" | "qwen3_next") => 5e-2,
        Some("internlm3" | "mamba2") => 2e-2,
        _ => 1e-2,
    }
}

/// Compares with the CPU's logits, and where these are far with exact ones: both round to f16, and the CPU's may be the
/// ones that are farther from what is right.
fn compare_or_with_exact(folder: &Path, layers: GpuLayers, kv: KvType) -> Option<[String; 2]> {
    let far = compare(folder, layers, kv, bound(folder))?;
    compare_with_exact(folder, layers, kv).map(|exact| [far, exact])
}

#[test]
fn every_architecture_gives_the_logits_of_the_cpu() {
    if !card() {
        return;
    }
    let mut wrong = Vec::new();
    for folder in folders("architectures") {
        for kv in [KvType::F16, KvType::F32] {
            wrong.extend(compare_or_with_exact(&folder, GpuLayers::All, kv));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Models whose mixers are more than attention over keys and values, without mixtures: with weights, activations, keys and
/// values in f32, a GPU and the CPU differ by the order of their sums alone.
#[test]
fn mixers_are_exact() {
    if !card() {
        return;
    }
    let mut wrong = Vec::new();
    for name in
        ["granitehybrid", "lfm2", "mamba2", "minicpm3", "nemotron_h", "qwen3_5", "qwen3_next", "youtu"]
    {
        let folder = fixture("architectures").join(name);
        for layers in [GpuLayers::All, GpuLayers::Last(2)] {
            let expected = logits(&loaded(&folder, None, Some(&Exact)), KvType::F32);
            let model = loaded(&folder, Some(layers), Some(&Exact));
            assert!(model.uses_gpu(), "{name}: {:?}", model.beyond_gpus());
            let distance = distance(&logits(&model, KvType::F32), &expected);
            eprintln!("{name} {layers:?}: {distance:.2e}");
            if distance > 2e-4 {
                wrong.push(format!("{name} {layers:?}: {distance:.2e}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// States that a session kept on a GPU, and texts that begin anew.
#[test]
fn sessions_go_back_to_what_they_kept() {
    if !card() {
        return;
    }
    for name in ["lfm2", "nemotron_h", "qwen3_5"] {
        let model = open(&fixture("architectures").join(name), Some(GpuLayers::All));
        let mut session = model.session(SessionOptions { context: 64, ..SessionOptions::default() }).unwrap();
        let tokens: Vec<u32> = (0..40).map(|i| (i * 131 + 7) % model.vocabulary() as u32).collect();
        session.forward(&tokens[..20], Wanted::Last).unwrap();
        session.keep().unwrap();
        let rest = |session: &mut quern_run::Session<'_>| -> Vec<f32> {
            let step = |token: &u32| session.forward(&[*token], Wanted::Last).unwrap().to_vec();
            tokens[20..26].iter().flat_map(step).collect()
        };
        let expected = rest(&mut session);
        assert_eq!(session.truncate(23), 20, "{name}");
        assert!(rest(&mut session) == expected, "{name}: other logits after going back");
        assert_eq!(session.truncate(4), 0, "{name}");
        session.forward(&tokens[..20], Wanted::Last).unwrap();
        assert!(rest(&mut session) == expected, "{name}: other logits from the beginning");
    }
}

/// Gives all matrices as f32: what a model computes without rounding activations to 8 bits.
#[derive(Debug)]
struct Exact;

impl LoadIn for Exact {
    fn target(&self, _: &str) -> Option<ElementType> {
        Some(ElementType::F32)
    }

    fn encode(&self, _: &str, _: ElementType, _: usize, rows: &[f32], out: &mut [u8]) -> Result<(), String> {
        for (out, value) in out.chunks_exact_mut(4).zip(rows) {
            out.copy_from_slice(&value.to_le_bytes());
        }
        Ok(())
    }
}

/// The GPU must be within 1e-2 of the exact logits, or about as near to them as the CPU, which rounds more: activations of
/// quantized weights, and keys and values where they are kept in 8 bits.
fn compare_with_exact(path: &Path, layers: GpuLayers, kv: KvType) -> Option<String> {
    let options = LoadOptions { threads: 2, load_in: Some(&Exact), ..LoadOptions::default() };
    let exact = logits(&Model::open(path, options).unwrap(), KvType::F32);
    let cpu = distance(&logits(&open(path, None), kv), &exact);
    let gpu = distance(&logits(&open(path, Some(layers)), kv), &exact);
    let name = path.strip_prefix(fixture("")).unwrap_or(path).display().to_string();
    eprintln!("{name} {} {layers:?}: GPU {gpu:.2e}, CPU {cpu:.2e} from exact", kv.name());
    (gpu > 1.25 * cpu.max(8e-3)).then(|| format!("{name} {}: GPU {gpu:.2e}, CPU {cpu:.2e}", kv.name()))
}

#[test]
fn real_models_are_as_near_to_exact_logits_as_on_the_cpu() {
    if !card() {
        return;
    }
    let mut wrong = Vec::new();
    for model in ["bookworm-4m", "bookworm-4m-Q4_K_M.gguf"] {
        for kv in KvType::ALL {
            for layers in [GpuLayers::All, GpuLayers::Last(3)] {
                wrong.extend(compare_with_exact(&fixture(model), layers, kv));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// gpt-oss as it was released. In 8 bits its keys and values round so much that tokens get other experts.
#[test]
fn experts_in_mxfp4_are_as_near_to_exact_logits_as_on_the_cpu() {
    if !card() {
        return;
    }
    let path = fixture("packed/gpt_oss-mxfp4/model.safetensors");
    let mut wrong = Vec::new();
    for kv in [KvType::F16, KvType::F32] {
        for layers in [GpuLayers::All, GpuLayers::Last(1)] {
            wrong.extend(compare_with_exact(&path, layers, kv));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn layers_in_ram_give_the_logits_of_the_cpu() {
    if !card() {
        return;
    }
    let mut wrong = Vec::new();
    for folder in folders("architectures") {
        wrong.extend(compare_or_with_exact(&folder, GpuLayers::Last(2), KvType::F16));
        wrong.extend(compare_or_with_exact(&folder, GpuLayers::Last(1), KvType::F32));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// What differs between two reports: perplexities by more than 0.1 %, KL divergences by more than this share.
fn differences(what: &str, found: &PerplexityReport, expected: &PerplexityReport, kl: f64) -> Vec<String> {
    let (a, b) = (found.against.as_ref().unwrap(), expected.against.as_ref().unwrap());
    let pairs = [
        ("perplexity", found.perplexity, expected.perplexity, 1e-3),
        ("reference", a.reference_perplexity, b.reference_perplexity, 1e-3),
        ("ratio", a.perplexity_ratio, b.perplexity_ratio, 1e-3),
        ("KL divergence", a.kl_mean, b.kl_mean, kl),
    ];
    eprintln!("{what}: {pairs:?}, same first token {} and {}", a.top1_agreement, b.top1_agreement);
    assert_eq!((found.tokens, found.chunks), (expected.tokens, expected.chunks));
    // NaN counts as far.
    let far = |(_, a, b, most): &(&str, f64, f64, f64)| (a / b - 1.0).abs() > *most || (a / b).is_nan();
    let wrong = pairs.into_iter().filter(far);
    let mut wrong: Vec<String> =
        wrong.map(|(name, a, b, _)| format!("{what}, {name}: {a} for {b}")).collect();
    if (a.top1_agreement - b.top1_agreement).abs() > 5e-3 {
        wrong.push(format!("{what}, same first token: {} for {}", a.top1_agreement, b.top1_agreement));
    }
    wrong
}

#[test]
fn perplexity_and_divergence_are_those_of_the_cpu() {
    if !card() {
        return;
    }
    let text = std::fs::read_to_string(fixture("text/validation.txt")).unwrap();
    let (full, quantized) = (fixture("bookworm-4m"), fixture("bookworm-4m-Q4_K_M.gguf"));
    let options = PerplexityOptions { chunks: Some(40), ..PerplexityOptions::default() };
    let run = |on: Option<GpuLayers>, against: Option<GpuLayers>| {
        let (model, reference) = (open(&quantized, on), open(&full, against));
        perplexity(&model, Some(&reference), &text, options, &NoProgress).unwrap()
    };
    let (expected, gpu) = (run(None, None), Some(GpuLayers::All));
    // The CPU rounds the inputs of quantized layers to 8 bits, a GPU those of prompts to f16: that noise is some 5 % of
    // this divergence, and hardly any of the perplexity.
    let wrong: Vec<String> = [
        ("both on the GPU", gpu, gpu, 0.1),
        ("the reference in RAM", gpu, None, 0.1),
        ("the model in RAM", None, gpu, 1e-3),
    ]
    .into_iter()
    .flat_map(|(what, on, against, kl)| differences(what, &run(on, against), &expected, kl))
    .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The same passes with logits in RAM, and the statistics of the CPU.
#[test]
fn statistics_on_the_gpu_are_those_of_the_logits_in_ram() {
    if !card() {
        return;
    }
    let all = Some(GpuLayers::All);
    let (model, reference) =
        (open(&fixture("bookworm-4m-Q4_K_M.gguf"), all), open(&fixture("bookworm-4m"), all));
    let text = std::fs::read_to_string(fixture("text/validation.txt")).unwrap();
    let tokens = model.tokenizer().unwrap().encode(&text, GenerateOptions::default().encode).unwrap();
    // Two batches, the last of one token.
    let context = 514;
    let options = PerplexityOptions { context, chunks: Some(2), kv: KvType::F16 };
    let report = perplexity_of_tokens(&model, Some(&reference), &tokens, None, options, &NoProgress).unwrap();
    let mut sessions = [&model, &reference]
        .map(|model| model.session(SessionOptions { context, ..SessionOptions::default() }).unwrap());
    let (mut scores, mut divergences) = (Likelihood::default(), Vec::new());
    for chunk in tokens.chunks_exact(context).take(2) {
        let [own, theirs] = sessions.each_mut().map(|session| {
            session.clear();
            session.forward(&chunk[..context - 1], Wanted::From(context / 2)).unwrap().to_vec()
        });
        let (own, theirs) = (own.chunks_exact(model.vocabulary()), theirs.chunks_exact(model.vocabulary()));
        for ((own, theirs), &target) in own.zip(theirs).zip(&chunk[context / 2 + 1..]) {
            scores.add(log_sum_exp(own) - f64::from(own[target as usize]));
            divergences.push(kl_divergence(theirs, own));
        }
    }
    assert_eq!(scores.count(), report.tokens);
    let (kl, _) = mean_and_deviation(&divergences);
    let against = report.against.unwrap();
    eprintln!("{} and {}, {} and {kl}", report.perplexity, scores.perplexity(), against.kl_mean);
    assert!((report.perplexity / scores.perplexity() - 1.0).abs() < 1e-5, "{}", scores.perplexity());
    assert!((against.kl_mean / kl - 1.0).abs() < 1e-4, "{against:?} {kl}");
}

#[test]
fn the_limit_is_the_memory_that_has_the_layers() {
    if !card() {
        return;
    }
    let mut bandwidths = Bandwidths::default();
    let mut limit = |layers| {
        let model = open(&fixture("bookworm-4m"), layers);
        bandwidths.limit(&model, u64::MAX).unwrap().unwrap()
    };
    let on_gpu = limit(Some(GpuLayers::All));
    eprintln!("{on_gpu:?}");
    // The slowest card of compute capability 7.5 has 80 GB/s.
    assert!(on_gpu.bytes_per_second() > 5e10 && on_gpu.memories.len() == 1, "{on_gpu:?}");
    assert!(on_gpu.memories[0].gpu.is_some(), "{on_gpu:?}");
    let in_ram = limit(None);
    assert!(in_ram.memories.len() == 1 && in_ram.memories[0].gpu.is_none(), "{in_ram:?}");
    let both = limit(Some(GpuLayers::Last(2)));
    assert_eq!(both.memories.len(), 2);
    let all: u64 = both.memories.iter().map(|memory| memory.bytes_per_token).sum();
    assert_eq!(all, on_gpu.memories[0].bytes_per_token);
    assert!(both.bytes_per_second() < on_gpu.bytes_per_second(), "{both:?} {on_gpu:?}");
}

/// What an observer saw of each group: the layers' names, the expert, and the inputs, copied to RAM from wherever they are.
#[derive(Default)]
struct Seen(BTreeMap<(Vec<String>, Option<usize>), Vec<f32>>);

impl Observer for Seen {
    fn observe(&mut self, executor: &mut Executor, group: &LinearGroup<'_>) -> Result<(), ObserverError> {
        assert_eq!(group.values.len(), group.rows * group.columns);
        let names = group.linears.iter().map(|linear| linear.name.to_owned()).collect();
        let mut values = vec![f32::NAN; group.values.len()];
        executor.download(group.values, &mut values)?;
        self.0.entry((names, group.linears[0].expert)).or_default().extend(values);
        Ok(())
    }
}

/// What is seen of two texts, and the logits.
fn seen(model: &Model, batch: usize) -> (Seen, Vec<Vec<f32>>) {
    let vocabulary = model.vocabulary();
    let context = model.config().context_length.min(80);
    let mut session = model.session(SessionOptions { context, batch, kv: KvType::F32 }).unwrap();
    let (mut seen, mut logits) = (Seen::default(), Vec::new());
    for (factor, length) in [(7919, context), (104_729, context / 2)] {
        let tokens: Vec<u32> = (0..length as u32).map(|i| (i * factor + 13) % vocabulary as u32).collect();
        session.clear();
        let rows = session.forward_observed(&tokens, Wanted::All, &mut seen).unwrap();
        logits.extend(rows.chunks_exact(vocabulary).map(<[f32]>::to_vec));
    }
    (seen, logits)
}

/// How many tokens had other experts, as far as the numbers of the experts' tokens show.
fn others(found: &Seen, expected: &Seen, hidden: usize) -> usize {
    let widening = expected.0.iter().filter(|((names, expert), _)| expert.is_some() && names.len() == 2);
    widening
        .map(|(key, values)| values.len().abs_diff(found.0[key].len()) / hidden)
        .sum::<usize>()
        .div_ceil(2)
}

/// The rows without some that are the farthest from each other.
fn nearest([found, expected]: [Vec<Vec<f32>>; 2], but: usize) -> [Vec<Vec<f32>>; 2] {
    let mut pairs: Vec<_> = found.into_iter().zip(expected).collect();
    let off = |(a, b): &(Vec<f32>, Vec<f32>)| distance(std::slice::from_ref(a), std::slice::from_ref(b));
    pairs.sort_by(|a, b| off(a).total_cmp(&off(b)));
    pairs.truncate(pairs.len().saturating_sub(but));
    let (found, expected) = pairs.into_iter().unzip();
    [found, expected]
}

/// How far what one model saw, and its logits, are from another's, without the rows of tokens that had other experts, and how
/// many those were.
struct Apart {
    inputs: f64,
    logits: f64,
    others: usize,
}

type SeenAndLogits = (Seen, Vec<Vec<f32>>);

impl Apart {
    /// Or the groups of which another number of values was seen.
    fn of(found: &SeenAndLogits, expected: &SeenAndLogits, hidden: usize) -> Result<Self, String> {
        let ((found, own), (expected, logits)) = (found, expected);
        let keys = |seen: &Seen| seen.0.keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(found), keys(expected));
        // A router between two experts that are as good may choose the other.
        let others = others(found, expected, hidden);
        let mut inputs = 0f64;
        for (key, expected) in expected.0.iter().filter(|((_, expert), _)| expert.is_none()) {
            let found = &found.0[key];
            if found.len() != expected.len() {
                return Err(format!("{key:?}: {} values", found.len()));
            }
            let width = expected.len() / logits.len();
            let rows = |values: &[f32]| values.chunks(width).map(<[f32]>::to_vec).collect();
            let [found, expected] = nearest([rows(found), rows(expected)], others);
            inputs = inputs.max(distance(&[found.concat()], &[expected.concat()]));
        }
        let [own, logits] = nearest([own.clone(), logits.clone()], others);
        Ok(Self { inputs, logits: distance(&own, &logits), others })
    }

    fn within(&self, inputs: f64, logits: f64) -> bool {
        self.inputs <= inputs && self.logits <= logits
    }
}

#[test]
fn observers_see_on_a_gpu_what_they_see_on_the_cpu() {
    if !card() {
        return;
    }
    let mut wrong = Vec::new();
    for folder in folders("architectures") {
        // Layers in RAM: computed there in batches of 24 tokens, moved to the GPU for batches of 40.
        for (layers, batch) in [(GpuLayers::All, 40), (GpuLayers::Last(2), 24), (GpuLayers::Last(1), 40)] {
            let model = open(&folder, None);
            let hidden = model.config().hidden_size;
            let what = format!("{} {layers:?} {batch}", folder.file_name().unwrap().display());
            let (cpu, gpu) = (seen(&model, batch), seen(&open(&folder, Some(layers)), batch));
            let apart = match Apart::of(&gpu, &cpu, hidden) {
                Ok(apart) => apart,
                Err(values) => {
                    wrong.push(format!("{what} {values}"));
                    continue;
                }
            };
            let Apart { inputs, logits, others } = apart;
            eprintln!(
                "{what}: inputs {inputs:.2e}, logits {logits:.2e}, tokens with other experts: {others}"
            );
            if apart.within(bound(&folder), bound(&folder)) {
                continue;
            }
            // Both round to f16: what the CPU saw may be what is farther from what is right.
            let exact = seen(&loaded(&folder, None, Some(&Exact)), batch);
            let far = |found| Apart::of(found, &exact, hidden);
            match (far(&gpu), far(&cpu)) {
                (Ok(gpu), Ok(cpu))
                    if gpu.within(1.25 * cpu.inputs.max(8e-3), 1.25 * cpu.logits.max(8e-3)) => {}
                _ => wrong.push(format!("{what}: inputs {inputs:.2e}, logits {logits:.2e}")),
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Rooms on two cards, so small that the model is spread over both.
fn on_both(path: &Path, cards: &[GpuRoom]) -> Option<Vec<GpuRoom>> {
    let whole = open(path, None);
    let sizes = whole.sizes(KvType::F16);
    let session = Session { gpu_layers: GpuLayers::All, context: 96, batch: 96, rows: 64 };
    let rooms = |room| cards.iter().map(|card| GpuRoom { room, ..card.clone() }).collect::<Vec<_>>();
    let spread = |gpus: &Vec<GpuRoom>| {
        let capacity = Capacity { gpus: gpus.clone(), ram: None };
        let plan = Plan::fitting(&sizes, &capacity, session);
        plan.is_ok_and(|plan| (0..2).all(|gpu| plan.on(Location::Gpu(gpu)).is_some()))
    };
    (1..4096).map(|step| rooms(step * (64 << 10))).find(spread)
}

#[test]
fn two_cards_give_the_logits_of_the_cpu() {
    if !card() {
        return;
    }
    let all: Vec<GpuRoom> = cards().unwrap().iter().take(2).map(|card| GpuRoom::new(card, None)).collect();
    if all.len() < 2 {
        eprintln!("skipped: there is only one NVIDIA card");
        return;
    }
    let mut wrong = Vec::new();
    for folder in folders("architectures") {
        let gpus = on_both(&folder, &all).expect("some room spreads the model");
        let session =
            |config: &Config| SessionOptions { context: config.context_length.min(96), ..Default::default() };
        let placing = Placing { gpus: &gpus, layers: GpuLayers::All, session: &session, rows: 64 };
        let options = LoadOptions { threads: 2, placing: Some(placing), ..LoadOptions::default() };
        let model = Model::open(&folder, options).unwrap();
        assert_eq!(model.gpu_memory().len(), 2, "{}", folder.display());
        let distance = distance(&logits(&model, KvType::F16), &logits(&open(&folder, None), KvType::F16));
        eprintln!("{} on two cards: {distance:.2e}", folder.display());
        if distance > bound(&folder) {
            wrong.push(format!("{}: {distance:.2e}", folder.display()));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
