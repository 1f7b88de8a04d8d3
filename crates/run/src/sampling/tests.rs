//! Tests each stage against a direct computation of its definition.

use super::*;

fn sampler(options: SamplingOptions) -> Sampler {
    Sampler::new(options, None).unwrap()
}

/// No filter, temperature 1.
fn plain() -> SamplingOptions {
    SamplingOptions { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, ..SamplingOptions::default() }
}

fn counts(options: SamplingOptions, logits: &[f32], draws: usize) -> Vec<usize> {
    let mut sampler = sampler(options);
    let mut counts = vec![0; logits.len()];
    let mut logits = logits.to_vec();
    for _ in 0..draws {
        counts[sampler.sample(&mut logits).unwrap() as usize] += 1;
    }
    counts
}

/// Compares frequencies with probabilities: each within five standard deviations.
fn assert_distribution(counts: &[usize], expected: &[f64]) {
    let draws: usize = counts.iter().sum();
    for (id, (&n, &p)) in counts.iter().zip(expected).enumerate() {
        let deviation = (draws as f64 * p * (1.0 - p)).sqrt();
        let off = (n as f64 - draws as f64 * p).abs();
        assert!(off <= 5.0 * deviation, "token {id}: {n} of {draws}, expected {p}");
    }
}

fn logs(probabilities: &[f64]) -> Vec<f32> {
    probabilities.iter().map(|p| p.ln() as f32).collect()
}

#[test]
fn plain_draws_follow_the_softmax() {
    let p = [0.5, 0.2, 0.15, 0.1, 0.05];
    assert_distribution(&counts(plain(), &logs(&p), 100_000), &p);
}

#[test]
fn temperature_sharpens_after_the_filters() {
    // Temperature 0.5 squares the probabilities.
    let p = [0.5, 0.3, 0.2];
    let options = SamplingOptions { temperature: 0.5, ..plain() };
    assert_distribution(&counts(options, &logs(&p), 100_000), &[25.0 / 38.0, 9.0 / 38.0, 4.0 / 38.0]);
    // top-p sees temperature 1: at 0.75 two tokens are needed though the sharpened first has 0.66.
    let options = SamplingOptions { temperature: 0.1, top_p: 0.75, ..plain() };
    let counts = counts(options, &logs(&p), 10_000);
    assert!(counts[1] > 0 && counts[2] == 0, "{counts:?}");
}

#[test]
fn top_k_top_p_and_min_p_cut_where_they_say() {
    let p = [0.1, 0.4, 0.05, 0.3, 0.15];
    let top_k = SamplingOptions { top_k: 2, ..plain() };
    assert_distribution(&counts(top_k, &logs(&p), 50_000), &[0.0, 4.0 / 7.0, 0.0, 3.0 / 7.0, 0.0]);
    let top_p = SamplingOptions { top_p: 0.8, ..plain() };
    assert_distribution(&counts(top_p, &logs(&p), 50_000), &[0.0, 0.4 / 0.85, 0.0, 0.3 / 0.85, 0.15 / 0.85]);
    let min_p = SamplingOptions { min_p: 0.3, ..plain() };
    assert_distribution(&counts(min_p, &logs(&p), 50_000), &[0.0, 0.4 / 0.85, 0.0, 0.3 / 0.85, 0.15 / 0.85]);
    let one = SamplingOptions { min_p: 1.0, ..plain() };
    assert_eq!(counts(one, &logs(&p), 100)[1], 100);
}

#[test]
fn the_penalty_looks_back_a_window_and_leaves_the_logits_alone() {
    let options = SamplingOptions { repeat_penalty: 2.0, repeat_window: 2, ..SamplingOptions::greedy() };
    let mut s = sampler(options);
    let mut logits = vec![3.0, 2.0, -1.0, 1.6];
    assert_eq!(s.sample(&mut logits).unwrap(), 0);
    s.accept(0);
    s.accept(0);
    assert_eq!(s.sample(&mut logits).unwrap(), 1, "3 / 2 is below 2, and only once");
    s.accept(1);
    assert_eq!(s.sample(&mut logits).unwrap(), 3, "both are halved");
    s.accept(3);
    assert_eq!(s.sample(&mut logits).unwrap(), 0, "the window has passed it");
    assert_eq!(logits, [3.0, 2.0, -1.0, 1.6]);
    let mut negative = vec![-1.0, -1.5];
    let options = SamplingOptions { repeat_penalty: 2.0, ..SamplingOptions::greedy() };
    let mut s = sampler(options);
    s.accept(0);
    assert_eq!(s.sample(&mut negative).unwrap(), 1, "a negative logit sinks");
}

#[test]
fn the_same_seed_draws_the_same_tokens() {
    let logits: Vec<f32> = (0..100).map(|i| ((i * 37) % 100) as f32 / 30.0).collect();
    let run = |seed| {
        let mut s = sampler(SamplingOptions { seed, ..SamplingOptions::default() });
        (0..50).map(|_| s.sample(&mut logits.clone()).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn greedy_takes_the_first_of_equals_and_nan_is_an_error() {
    let mut s = sampler(SamplingOptions::greedy());
    assert_eq!(s.sample(&mut [1.0, 5.0, 5.0]).unwrap(), 1);
    assert!(matches!(s.sample(&mut [1.0, f32::NAN]), Err(Error::NotFinite)));
    assert!(matches!(s.sample(&mut [f32::NEG_INFINITY; 3]), Err(Error::NotFinite)));
    let mut s = sampler(SamplingOptions::default());
    assert!(matches!(s.sample(&mut [f32::NAN, 1.0]), Err(Error::NotFinite)));
    assert!(matches!(s.sample(&mut [f32::INFINITY, 1.0]), Err(Error::NotFinite)));
    assert!(matches!(s.sample(&mut []), Err(Error::NotFinite)));
    assert_eq!(s.sample(&mut [f32::NEG_INFINITY, 1.0]).unwrap(), 1);
}

#[test]
fn options_out_of_range_are_refused_by_name() {
    let bad = [
        (SamplingOptions { top_p: 0.0, ..plain() }, "top-p"),
        (SamplingOptions { min_p: 1.5, ..plain() }, "min-p"),
        (SamplingOptions { repeat_penalty: 0.0, ..plain() }, "repeat-penalty"),
        (SamplingOptions { temperature: f32::NAN, ..plain() }, "temp"),
        (SamplingOptions { typical_p: 0.0, ..plain() }, "typical-p"),
        (SamplingOptions { xtc_probability: 2.0, ..plain() }, "xtc-probability"),
        (SamplingOptions { dry: DryOptions { base: 0.5, ..DryOptions::default() }, ..plain() }, "dry-base"),
        (
            SamplingOptions {
                dry: DryOptions { breakers: vec![String::new()], ..Default::default() },
                ..plain()
            },
            "dry-sequence-breaker",
        ),
    ];
    for (options, name) in bad {
        let message = Sampler::new(options, None).unwrap_err().to_string();
        assert!(message.contains(name), "{message}");
    }
}

/// Each token's probability, computed from the definitions without regard to speed: every stage is a set of
/// tokens that stay, found over the whole vocabulary.
fn by_definition(options: &SamplingOptions, logits: &[f32], history: &[u32], xtc: bool) -> Vec<f64> {
    let mut l: Vec<f64> = logits.iter().map(|&l| l.into()).collect();
    let softmax = |l: &[f64]| {
        let total: f64 = l.iter().map(|l| l.exp()).sum();
        l.iter().map(|l| l.exp() / total).collect::<Vec<f64>>()
    };
    // Ids in an order, the lowest first among equals.
    let sorted = |key: &dyn Fn(usize) -> f64| {
        let mut ids: Vec<usize> = (0..logits.len()).collect();
        ids.sort_by(|&a, &b| key(a).total_cmp(&key(b)).then(a.cmp(&b)));
        ids
    };
    for stage in &options.stages {
        let p = softmax(&l);
        let left = l.iter().filter(|l| l.is_finite());
        let best = left.clone().copied().fold(f64::NEG_INFINITY, f64::max);
        let likeliest = sorted(&|id| -l[id]);
        let until = |ids: &[usize], share: f32| {
            let sum = |n: usize| ids[..n].iter().map(|&id| p[id]).sum::<f64>();
            let enough = (1..=ids.len()).find(|&n| sum(n) >= f64::from(share));
            ids[..enough.unwrap_or(ids.len())].to_vec()
        };
        let keep: Vec<usize> = match stage {
            Stage::Penalties => {
                let recent = &history[history.len().saturating_sub(options.repeat_window)..];
                for (id, l) in l.iter_mut().enumerate() {
                    let count = recent.iter().filter(|&&t| t as usize == id).count();
                    if count > 0 {
                        *l *= f64::from(options.repeat_penalty).powi(if *l > 0.0 { -1 } else { 1 });
                        *l -= f64::from(options.presence_penalty);
                        *l -= f64::from(options.frequency_penalty) * count as f64;
                    }
                }
                continue;
            }
            Stage::Temperature => {
                l.iter_mut().for_each(|l| *l /= f64::from(options.temperature));
                continue;
            }
            Stage::TopK if options.top_k > 0 => likeliest[..options.top_k].to_vec(),
            Stage::TopP if options.top_p < 1.0 => until(&likeliest, options.top_p),
            Stage::MinP => {
                let floor = f64::from(options.min_p) * p.iter().copied().fold(0.0, f64::max);
                (0..p.len()).filter(|&id| p[id] >= floor).collect()
            }
            Stage::TopNSigma if options.top_n_sigma > 0.0 => {
                let n = left.clone().count() as f64;
                let mean = left.clone().sum::<f64>() / n;
                let deviation = (left.map(|l| (l - mean) * (l - mean)).sum::<f64>() / n).sqrt();
                (0..l.len())
                    .filter(|&id| l[id] >= best - f64::from(options.top_n_sigma) * deviation)
                    .collect()
            }
            Stage::Typical if options.typical_p < 1.0 => {
                let entropy: f64 = p.iter().filter(|&&p| p > 0.0).map(|p| -p * p.ln()).sum();
                until(&sorted(&|id| (-p[id].ln() - entropy).abs()), options.typical_p)
            }
            Stage::Xtc if xtc => {
                let likely = p.iter().filter(|&&p| p >= f64::from(options.xtc_threshold)).count();
                likeliest[likely.saturating_sub(1)..].to_vec()
            }
            _ => continue,
        };
        for (id, l) in l.iter_mut().enumerate() {
            if !keep.contains(&id) {
                *l = f64::NEG_INFINITY;
            }
        }
    }
    softmax(&l)
}

#[test]
fn every_stage_is_what_its_definition_says() {
    let mut random = Random::new(17);
    let logits: Vec<f32> = (0..24).map(|_| 6.0 * random.unit() as f32 - 3.0).collect();
    let history = [3, 5, 5, 23, 7, 5, 3, 11];
    let base = || SamplingOptions { repeat_window: 6, ..plain() };
    let reversed = || Stage::DEFAULT_ORDER.into_iter().rev().collect::<Vec<_>>();
    let temperature_first =
        || vec![Stage::Temperature, Stage::TopK, Stage::Typical, Stage::TopP, Stage::MinP];
    let cases = [
        base(),
        SamplingOptions { temperature: 1.7, ..base() },
        SamplingOptions { top_k: 5, ..base() },
        SamplingOptions { top_p: 0.7, ..base() },
        SamplingOptions { min_p: 0.2, ..base() },
        SamplingOptions { typical_p: 0.6, ..base() },
        SamplingOptions { typical_p: 0.6, top_k: 12, top_p: 0.8, ..base() },
        SamplingOptions { top_n_sigma: 0.8, ..base() },
        SamplingOptions { top_n_sigma: 1.2, top_p: 0.8, ..base() },
        SamplingOptions { repeat_penalty: 1.5, ..base() },
        SamplingOptions { presence_penalty: 1.0, frequency_penalty: 0.5, ..base() },
        SamplingOptions { frequency_penalty: -0.5, repeat_window: usize::MAX, ..base() },
        SamplingOptions { xtc_probability: 1.0, xtc_threshold: 0.08, ..base() },
        SamplingOptions { temperature: 0.7, top_p: 0.8, min_p: 0.1, stages: temperature_first(), ..base() },
        SamplingOptions { temperature: 1.4, typical_p: 0.7, top_k: 9, stages: temperature_first(), ..base() },
        SamplingOptions {
            temperature: 1.3,
            min_p: 0.05,
            top_k: 10,
            top_n_sigma: 2.0,
            repeat_penalty: 1.3,
            presence_penalty: 0.3,
            stages: reversed(),
            ..base()
        },
        SamplingOptions { top_k: 3, stages: vec![Stage::Temperature], ..base() },
    ];
    for options in cases {
        let mut sampler = sampler(options.clone());
        history.iter().for_each(|&token| sampler.accept(token));
        let mut counts = vec![0; logits.len()];
        let mut given = logits.clone();
        for _ in 0..40_000 {
            counts[sampler.sample(&mut given).unwrap() as usize] += 1;
        }
        assert_eq!(given, logits, "the logits come back");
        assert_distribution(
            &counts,
            &by_definition(&options, &logits, &history, options.xtc_probability > 0.0),
        );
    }
}

#[test]
fn xtc_acts_as_often_as_its_chance_says() {
    let p = [0.5, 0.3, 0.15, 0.05];
    let options = SamplingOptions { xtc_probability: 0.25, xtc_threshold: 0.1, ..plain() };
    // Of the first three the last stays: 0.15 to 0.05.
    let expected = [0.375, 0.225, 0.75 * 0.15 + 0.25 * 0.75, 0.75 * 0.05 + 0.25 * 0.25];
    assert_distribution(&counts(options, &logs(&p), 100_000), &expected);
    let off = SamplingOptions { xtc_probability: 1.0, xtc_threshold: 0.51, ..plain() };
    assert_distribution(&counts(off, &logs(&p), 50_000), &p);
    let alone = SamplingOptions { xtc_probability: 1.0, xtc_threshold: 0.4, ..plain() };
    assert_distribution(&counts(alone, &logs(&p), 50_000), &p);
}

#[test]
fn dry_keeps_greedy_text_from_going_round() {
    // A model that always says what followed last time: 0 1 2 0 1 2 …
    let run = |multiplier| {
        let dry = DryOptions { multiplier, ..DryOptions::default() };
        let mut s = sampler(SamplingOptions { dry, ..SamplingOptions::greedy() });
        let mut text = vec![0, 1, 2, 0, 1, 2];
        text.iter().for_each(|&token| s.accept(token));
        for _ in 0..12 {
            let mut logits = vec![0.0; 5];
            logits[(text.last().unwrap() + 1) as usize % 3] = 3.0;
            let token = s.sample(&mut logits).unwrap();
            s.accept(token);
            text.push(token);
        }
        text
    };
    assert_eq!(run(0.0), [0, 1, 2].repeat(6));
    let dry = run(2.0);
    let longest =
        (1..dry.len()).rev().find(|&n| (n + 1..=dry.len() - n).any(|at| dry[..n] == dry[at..at + n]));
    assert!(dry != [0, 1, 2].repeat(6) && longest.unwrap_or(0) < 6, "{dry:?}");
}

#[test]
fn mirostat_takes_the_place_of_the_filters() {
    let mirostat = Mirostat { version: MirostatVersion::Two, tau: 20.0, eta: 0.1 };
    let p = [0.5, 0.3, 0.2];
    // A target far above what there is cuts nothing, and top-k does not act.
    let options = SamplingOptions { mirostat: Some(mirostat), top_k: 1, ..plain() };
    assert_distribution(&counts(options, &logs(&p), 50_000), &p);
}

#[test]
fn stages_are_known_by_their_names() {
    for stage in Stage::DEFAULT_ORDER {
        assert_eq!(Stage::from_name(stage.name()), Some(stage));
    }
    assert_eq!(Stage::from_name("Top-K"), Some(Stage::TopK));
    assert_eq!(Stage::from_name("temp"), Some(Stage::Temperature));
    assert_eq!(Stage::from_name("typical"), Some(Stage::Typical));
    assert_eq!(Stage::from_name("top"), None);
}
