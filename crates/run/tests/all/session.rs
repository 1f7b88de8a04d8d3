//! Sessions: batches, threads, limits, observers.

use crate::common::{fixture, load, relative_errors};
use quern_compute::Executor;
use quern_run::{
    BenchOptions, Error, GenerateOptions, KvType, LinearGroup, LoadOptions, Model, Observer, ObserverError,
    PerplexityOptions, SamplingOptions, SessionOptions, Stop, Wanted, bench, generate, perplexity,
};
use quern_tensor_io::NoProgress;

const MODELS: [&str; 2] = ["bookworm-4m", "bookworm-4m-Q4_K_M.gguf"];

fn options(context: usize) -> SessionOptions {
    SessionOptions { context, ..SessionOptions::default() }
}

/// Tokens that look like text.
fn tokens(model: &Model, count: usize) -> Vec<u32> {
    let text = std::fs::read_to_string(fixture("text/validation.txt")).unwrap();
    let mut tokens = model.tokenizer().unwrap().encode(&text, GenerateOptions::default().encode).unwrap();
    tokens.truncate(count);
    tokens
}

#[test]
fn batches_of_any_size_give_the_same_logits() {
    for name in MODELS {
        let model = load(&fixture(name), 2);
        let tokens = tokens(&model, 70);
        let vocabulary = model.vocabulary();
        let mut session = model.session(options(128)).unwrap();
        let whole = session.forward(&tokens, Wanted::All).unwrap().to_vec();
        assert_eq!(whole.len(), 70 * vocabulary);
        // Kernels for one row and for many add in another order. With 8-bit activations such a hair's
        // breadth flips roundings, and layer after layer that grows to the noise of the rounding itself. How
        // far that goes is measured: by the same pass with keys and values rounded otherwise.
        let mut exact = model.session(SessionOptions { kv: KvType::F32, ..options(128) }).unwrap();
        let exact = exact.forward(&tokens, Wanted::All).unwrap();
        let (noise, row_noise) = relative_errors(exact, &whole, vocabulary);
        eprintln!("{name}, noise: {noise:.1e}, {row_noise:.1e}");
        assert!(noise < 0.1 && row_noise < 0.1, "{name}: {noise:e}, {row_noise:e}");
        let near = |(largest, row): (f64, f64)| largest < 4.0 * noise && row < 4.0 * row_noise;

        for batch in [1, 7, 64] {
            let mut session = model.session(SessionOptions { batch, ..options(128) }).unwrap();
            let cut = session.forward(&tokens, Wanted::All).unwrap().to_vec();
            let errors = relative_errors(&cut, &whole, vocabulary);
            eprintln!("{name}, batches of {batch}: {errors:?}");
            assert!(near(errors), "{name}, batches of {batch}: {errors:?}");
        }

        // Asking for fewer rows changes none of them.
        session.clear();
        let from = session.forward(&tokens, Wanted::From(60)).unwrap().to_vec();
        let errors = relative_errors(&from, &whole[60 * vocabulary..], vocabulary);
        assert!(near(errors), "{name}, from 60: {errors:?}");
        session.clear();
        let last = session.forward(&tokens, Wanted::Last).unwrap().to_vec();
        let errors = relative_errors(&last, &whole[69 * vocabulary..], vocabulary);
        assert!(near(errors), "{name}, last: {errors:?}");
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    for name in MODELS {
        let run = |threads| {
            let model = load(&fixture(name), threads);
            let tokens = tokens(&model, 65);
            let mut session = model.session(options(128)).unwrap();
            let mut all = session.forward(&tokens[..60], Wanted::All).unwrap().to_vec();
            for token in &tokens[60..] {
                all.extend_from_slice(session.forward(&[*token], Wanted::Last).unwrap());
            }
            all.into_iter().map(f32::to_bits).collect::<Vec<_>>()
        };
        let one = run(1);
        for threads in [2, 3, 5] {
            assert!(run(threads) == one, "{name}, {threads} threads");
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_text_whatever_the_threads() {
    let run = |threads, seed| {
        let model = load(&fixture(MODELS[1]), threads);
        let sampling = SamplingOptions { seed, temperature: 1.0, ..SamplingOptions::default() };
        let options = GenerateOptions { limit: Some(40), sampling, ..GenerateOptions::default() };
        generate(&model, "Once upon a time", &options, &mut |_: &str| ()).unwrap().text
    };
    assert_eq!(run(1, 1), run(3, 1));
    assert_ne!(run(1, 1), run(1, 2));
}

#[test]
fn clearing_and_truncating_forget() {
    let model = load(&fixture(MODELS[0]), 2);
    let tokens = tokens(&model, 40);
    let mut session = model.session(options(64)).unwrap();
    let first = session.forward(&tokens[..20], Wanted::Last).unwrap().to_vec();
    session.forward(&tokens[20..], Wanted::Last).unwrap();
    session.truncate(19);
    assert_eq!(session.len(), 19);
    let again = session.forward(&tokens[19..20], Wanted::Last).unwrap().to_vec();
    assert!(relative_errors(&again, &first, model.vocabulary()).0 < 1e-3);
    session.clear();
    assert!(session.is_empty());
    let again = session.forward(&tokens[..20], Wanted::Last).unwrap();
    assert!(again == first);
}

#[test]
fn a_full_context_is_refused_before_any_work_and_loses_nothing() {
    let model = load(&fixture(MODELS[0]), 1);
    let tokens = tokens(&model, 17);
    let mut session = model.session(options(16)).unwrap();
    let error = session.forward(&tokens, Wanted::Last).unwrap_err();
    assert!(matches!(error, Error::ContextFull { held: 0, wanted: 17, context: 16 }), "{error}");
    assert_eq!(session.len(), 0);
    session.forward(&tokens[..16], Wanted::Last).unwrap();
    let error = session.forward(&tokens[16..], Wanted::Last).unwrap_err();
    assert!(matches!(error, Error::ContextFull { held: 16, wanted: 1, context: 16 }), "{error}");
    assert_eq!(session.len(), 16);

    // bookworm-4m was trained for 1024 positions.
    assert!(matches!(model.session(options(1025)), Err(Error::Option(what)) if what.contains("1024")));
    assert!(matches!(model.session(options(0)), Err(Error::Option(_))));
    let token = model.vocabulary() as u32;
    session.clear();
    assert!(matches!(session.forward(&[1, token], Wanted::Last), Err(Error::Token { token: 4096, .. })));
    assert!(session.is_empty());
    assert!(matches!(session.forward(&[], Wanted::Last), Err(Error::Option(_))));
    assert!(matches!(session.forward(&[1], Wanted::From(1)), Err(Error::Option(_))));
}

#[test]
fn generation_stops_where_it_should() {
    let model = load(&fixture(MODELS[0]), 2);
    let mut options = GenerateOptions {
        limit: Some(5),
        context: Some(24),
        sampling: SamplingOptions::greedy(),
        ..GenerateOptions::default()
    };
    let prompt = "It was a dark night, and the old captain";
    let report = generate(&model, prompt, &options, &mut |_: &str| ()).unwrap();
    assert_eq!((report.stop, report.tokens.len(), report.prompt_tokens), (Stop::Limit, 5, 11));
    assert!(report.prompt_tokens_per_second > 0.0 && report.generate_tokens_per_second > 0.0);

    options.limit = None;
    let report = generate(&model, prompt, &options, &mut |_: &str| ()).unwrap();
    // 24 positions hold the prompt and 13 tokens; the last logits give one more.
    assert_eq!((report.stop, report.tokens.len()), (Stop::ContextFull, 14));

    options.limit = Some(0);
    let report = generate(&model, prompt, &options, &mut |_: &str| ()).unwrap();
    assert_eq!((report.stop, report.text.as_str()), (Stop::Limit, ""));

    let long = "word ".repeat(100);
    let error =
        generate(&model, &long, &options, &mut |_: &str| panic!("nothing was generated")).unwrap_err();
    assert!(matches!(error, Error::ContextFull { held: 0, context: 24, .. }), "{error}");
}

#[test]
fn report_keys_are_the_contracts() {
    let model = load(&fixture(MODELS[1]), 2);
    let options = GenerateOptions { limit: Some(3), ..GenerateOptions::default() };
    let report = generate(&model, "The", &options, &mut |_: &str| ()).unwrap();
    let json = serde_json::to_value(&report).unwrap();
    for key in [
        "text",
        "tokens",
        "prompt_tokens",
        "prompt_tokens_per_second",
        "generate_tokens_per_second",
        "peak_memory_bytes",
    ] {
        assert!(json.get(key).is_some(), "{key}");
    }
    let options = BenchOptions {
        prompt: vec![16, 0, 24],
        generate: vec![4],
        depth: vec![0, 40],
        repetitions: 2,
        kv: KvType::Q8_0,
        bandwidth: Some(1e9),
    };
    let report = bench(&model, &options, &NoProgress).unwrap();
    let names: Vec<String> = report.tests.iter().map(|test| test.name()).collect();
    assert_eq!(names, ["pp16", "pp24", "tg4", "pp16 @ d40", "pp24 @ d40", "tg4 @ d40"]);
    let (shallow, deep) = (&report.tests[2], &report.tests[5]);
    // Four layers, two heads of 64 numbers, keys and values: 40 positions more.
    let [a, b] = [shallow, deep].map(|test| test.bytes_per_token.unwrap());
    assert_eq!(b - a, 40 * 4 * 2 * 2 * 2 * 34);
    assert_eq!(a, model.bytes_per_token(2, KvType::Q8_0));
    let share = shallow.tokens_per_second * a as f64 / 1e9;
    assert!((shallow.share_of_limit.unwrap() / share - 1.0).abs() < 1e-9);
    assert!(report.tests[0].share_of_limit.is_none());
    let json = serde_json::to_value(report).unwrap();
    for key in ["prompt_tokens_per_second", "generate_tokens_per_second"] {
        assert!(json[key].as_f64().unwrap() > 0.0, "{key}");
    }
    let text = std::fs::read_to_string(fixture("text/validation.txt")).unwrap();
    let options = PerplexityOptions { context: 64, chunks: Some(2), ..PerplexityOptions::default() };
    let report = perplexity(&model, Some(&model), &text, options, &NoProgress).unwrap();
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["tokens"], 2 * 31);
    assert_eq!(json["perplexity"], json["reference_perplexity"]);
    assert_eq!(json["top1_agreement"], 1.0);
    assert_eq!(json["perplexity_ratio"], 1.0);
    assert_eq!(json["ln_perplexity_ratio_stderr"], 0.0);
    assert!(json["kl_mean"].as_f64().unwrap().abs() < 1e-9 && json["kl_p99"].is_number());
}

#[test]
fn perplexity_and_bench_refuse_what_they_cannot_do() {
    let model = load(&fixture(MODELS[1]), 1);
    let run = |text: &str, context, chunks| {
        let options = PerplexityOptions { context, chunks, ..PerplexityOptions::default() };
        perplexity(&model, None, text, options, &NoProgress).unwrap_err()
    };
    let error = run("too short", 512, None);
    assert!(matches!(error, Error::TextTooShort { needed: 1024, context: 512, .. }), "{error}");
    assert!(matches!(run("x", 2, None), Error::Option(_)));
    assert!(matches!(run("x", 4096, None), Error::Option(_)));
    assert!(matches!(run("x", 64, Some(0)), Error::Option(_)));
    let bench = |options| bench(&model, &options, &NoProgress);
    let nothing = BenchOptions { prompt: vec![0], generate: vec![], ..BenchOptions::default() };
    assert!(matches!(bench(nothing), Err(Error::Option(_))));
    let deep = BenchOptions { depth: vec![0, 600], ..BenchOptions::default() };
    assert!(matches!(bench(deep), Err(Error::Option(what)) if what.contains("1112")));
    let none = Model::open(&fixture(MODELS[1]), LoadOptions { threads: 0, ..LoadOptions::default() });
    assert!(matches!(none, Err(Error::Option(what)) if what.contains("threads")));
    let long = BenchOptions { prompt: vec![4096], ..BenchOptions::default() };
    assert!(matches!(bench(long), Err(Error::Option(_))));
}

#[derive(Default)]
struct Seen(Vec<(Vec<String>, usize, usize, f64)>);

impl Observer for Seen {
    fn observe(&mut self, _: &mut Executor, group: &LinearGroup<'_>) -> Result<(), ObserverError> {
        assert_eq!(group.inputs()?.dim(), (group.rows, group.columns));
        let sum = group.inputs()?.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
        let names = group.linears.iter().map(|linear| {
            assert_eq!(linear.columns, group.columns);
            linear.name.to_owned()
        });
        self.0.push((names.collect(), group.rows, group.columns, sum));
        Ok(())
    }
}

#[test]
fn an_observer_sees_the_input_of_every_group_of_linear_layers() {
    let model = load(&fixture(MODELS[0]), 2);
    let tokens = tokens(&model, 20);
    let mut session = model.session(SessionOptions { batch: 8, kv: KvType::F32, ..options(32) }).unwrap();
    let plain = session.forward(&tokens, Wanted::Last).unwrap().to_vec();
    session.clear();
    let mut seen = Seen::default();
    let watched = session.forward_observed(&tokens, Wanted::Last, &mut seen).unwrap().to_vec();
    assert!(relative_errors(&watched, &plain, model.vocabulary()).0 < 1e-4, "watching changes nothing");

    // Three batches of 8, 8 and 4 tokens: four groups of seven layers in each of 4 blocks; the head once.
    assert_eq!(seen.0.len(), 3 * 4 * 4 + 1);
    assert_eq!(seen.0.iter().map(|s| s.0.len()).sum::<usize>(), 3 * 4 * 7 + 1);
    let of = |name: &str| seen.0.iter().filter(|s| s.0.iter().any(|n| n == name)).collect::<Vec<_>>();
    let down = of("model.layers.3.mlp.down_proj.weight");
    assert_eq!(down.iter().map(|s| (s.1, s.2)).collect::<Vec<_>>(), [(8, 768), (8, 768), (4, 768)]);
    let qkv = ["q", "k", "v"].map(|name| format!("model.layers.0.self_attn.{name}_proj.weight"));
    assert_eq!(of(&qkv[0])[0].0, qkv);
    let network = ["gate", "up"].map(|name| format!("model.layers.2.mlp.{name}_proj.weight"));
    assert_eq!(of(&network[1])[2].0, network);
    let head = of("model.embed_tokens.weight");
    assert_eq!((head.len(), head[0].1, head[0].2), (1, 1, 256));
    assert!(seen.0.iter().all(|s| s.3.is_finite() && s.3 > 0.0));
}

struct StopAfter(usize);

impl Observer for StopAfter {
    fn observe(&mut self, _: &mut Executor, _: &LinearGroup<'_>) -> Result<(), ObserverError> {
        self.0 = self.0.checked_sub(1).ok_or("stopped here")?;
        Ok(())
    }
}

#[test]
fn an_observer_can_stop_a_pass() {
    let model = load(&fixture(MODELS[0]), 1);
    let tokens = tokens(&model, 4);
    let mut session = model.session(options(8)).unwrap();
    let error = session.forward_observed(&tokens, Wanted::Last, &mut StopAfter(5)).unwrap_err();
    assert!(matches!(error, Error::Observer(_)) && error.to_string() == "stopped here", "{error}");
    assert!(session.is_empty(), "the tokens do not count");
    assert!(
        session.forward_observed(&tokens, Wanted::Last, &mut StopAfter(17)).is_ok(),
        "16 groups and the head"
    );
}
