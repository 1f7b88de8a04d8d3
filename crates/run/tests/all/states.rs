//! Models whose layers keep a state in place of keys and values: texts in pieces, going back, and what a generator keeps.

use crate::common::{fixture, load, relative_errors};
use quern_compute::Executor;
use quern_run::{
    Calibrator, Error, GenerateOptions, Generator, Gradients, KvType, Layerwise, LinearGroup, LinearInfo,
    Model, Observer, ObserverError, Replacement, SamplingOptions, Session, SessionOptions, Wanted,
};

const MODELS: [&str; 11] = [
    "qwen3_5",
    "qwen3_5_moe",
    "qwen3_next",
    "granitehybrid",
    "granitehybrid_moe",
    "lfm2",
    "lfm2_moe",
    "mamba2",
    "nemotron_h",
    "nemotron_h_moe",
    "falcon_h1",
];

fn models() -> impl Iterator<Item = (&'static str, Model)> {
    MODELS
        .into_iter()
        .map(|name| (name, load(&fixture("architectures").join(name).join("model.safetensors"), 2)))
}

fn session(model: &Model, batch: usize) -> Session<'_> {
    model.session(SessionOptions { context: 128, batch, kv: KvType::F32 }).unwrap()
}

fn text(model: &Model, n: u32) -> Vec<u32> {
    (0..n).map(|i| (i * 131 + n * 7) % model.vocabulary() as u32).collect()
}

#[track_caller]
fn near(name: &str, found: &[f32], expected: &[f32], columns: usize) {
    let (largest, row) = relative_errors(found, expected, columns);
    // Few tokens are multiplied by other kernels than many, whose sums are in another order.
    assert!(largest < 1e-4 && row < 1e-4, "{name}: {largest:e} {row:e}");
}

#[test]
fn pieces_of_a_text_give_what_the_whole_gives() {
    for (name, model) in models() {
        let (tokens, columns) = (text(&model, 61), model.vocabulary());
        let whole = session(&model, 64).forward(&tokens, Wanted::All).unwrap().to_vec();
        for (pieces, batch) in [(1, 64), (2, 64), (7, 3), (61, 5)] {
            let mut session = session(&model, batch);
            let mut found = Vec::new();
            for piece in tokens.chunks(pieces) {
                found.extend_from_slice(session.forward(piece, Wanted::All).unwrap());
            }
            near(name, &found, &whole, columns);
        }
        // Only the last row's logits, and none at all.
        let mut session = session(&model, 64);
        session.forward(&tokens[..40], Wanted::Nothing).unwrap();
        let last = session.forward(&tokens[40..], Wanted::Last).unwrap();
        near(name, last, &whole[60 * columns..], columns);
    }
}

#[test]
fn a_session_goes_back_to_what_it_kept_or_to_the_beginning() {
    for (name, model) in models() {
        let (tokens, columns) = (text(&model, 40), model.vocabulary());
        let whole = session(&model, 64).forward(&tokens, Wanted::All).unwrap().to_vec();
        let mut session = session(&model, 64);
        assert!(session.has_states());
        session.forward(&tokens[..20], Wanted::Nothing).unwrap();
        session.keep().unwrap();
        session.forward(&text(&model, 9), Wanted::Nothing).unwrap();
        assert_eq!(session.truncate(29), 29, "nothing is removed");
        assert_eq!((session.truncate(25), session.len()), (20, 20));
        let rest = session.forward(&tokens[20..], Wanted::All).unwrap();
        near(name, rest, &whole[20 * columns..], columns);

        assert_eq!(session.truncate(19), 0, "it kept nothing of fewer tokens");
        let again = session.forward(&tokens, Wanted::All).unwrap().to_vec();
        near(name, &again, &whole, columns);
        assert_eq!(session.truncate(30), 0, "what was kept is of another text");
    }
}

#[test]
fn a_generator_answers_as_if_each_prompt_were_its_first() {
    for (name, model) in models() {
        let options = GenerateOptions {
            limit: Some(8),
            kv: KvType::F32,
            sampling: SamplingOptions::greedy(),
            ignore_end: true,
            ..GenerateOptions::default()
        };
        let fresh = |prompt: &[u32]| {
            let mut generator = Generator::new(&model, options.clone(), 128).unwrap();
            generator.generate(prompt, &mut |_: &str| ()).unwrap().tokens
        };
        let first = text(&model, 50);
        let mut generator = Generator::new(&model, options.clone(), 128).unwrap();
        let answer = generator.generate(&first, &mut |_: &str| ()).unwrap().tokens;
        assert_eq!(answer, fresh(&first), "{name}");
        // All of it, the answer and more; all but the prompt's last tokens; another beginning.
        let longer = [&first[..], &answer, &[3, 4, 5]].concat();
        let other_end = [&first[..47], &[9, 8, 7]].concat();
        let other = text(&model, 33);
        let reused = [first.len() + answer.len() - 1, 42, 0];
        for (prompt, reused) in [longer, other_end, other].into_iter().zip(reused) {
            let report = generator.generate(&prompt, &mut |_: &str| ()).unwrap();
            assert_eq!(report.tokens, fresh(&prompt), "{name}");
            assert_eq!(report.prompt_tokens_reused, reused, "{name}");
            // Back to the first prompt, so that each is compared with it.
            generator.generate(&first, &mut |_: &str| ()).unwrap();
        }
    }
}

struct Nothing;

impl Observer for Nothing {
    fn observe(&mut self, _: &mut Executor, _: &LinearGroup<'_>) -> Result<(), ObserverError> {
        Ok(())
    }
}

impl Calibrator for Nothing {
    fn replace(&mut self, linears: &[LinearInfo<'_>]) -> Result<Vec<Option<Replacement>>, ObserverError> {
        Ok(vec![None; linears.len()])
    }
}

#[test]
fn each_sequence_of_a_layerwise_run_begins_at_zero() {
    for (name, model) in models() {
        let run = |texts: &[Vec<u32>]| {
            let mut run = Layerwise::new(&model, texts).unwrap();
            (0..run.layers()).for_each(|layer| run.block(layer, &mut Nothing).unwrap());
            run.hidden().unwrap().into_owned()
        };
        let (one, two) = (text(&model, 17), text(&model, 23));
        let hidden = model.config().hidden_size;
        let both = run(&[one.clone(), two.clone()]);
        near(name, &both[..17 * hidden], &run(&[one]), hidden);
        near(name, &both[17 * hidden..], &run(std::slice::from_ref(&two)), hidden);
        assert!(matches!(Gradients::new(&model, &[two]), Err(Error::NoGradients { .. })));
    }
}
