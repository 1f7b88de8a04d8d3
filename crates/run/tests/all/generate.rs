//! Generation: where it ends, what it reports, and what a generator keeps from one prompt to the next.

use crate::common::{fixture, load};
use quern_model::ChatTemplate;
use quern_run::{
    Chat, Error, GenerateOptions, Generator, KvType, Listener, SamplingOptions, SessionOptions, Stop, Wanted,
    generate, generate_from_tokens,
};
use quern_tensor_io::Remedy;

const MODEL: &str = "bookworm-4m";

/// A greedy generator in float32, which gives the same whatever was computed together.
fn greedy(change: impl FnOnce(&mut GenerateOptions)) -> GenerateOptions {
    let mut options = GenerateOptions {
        limit: Some(24),
        kv: KvType::F32,
        sampling: SamplingOptions::greedy(),
        ..GenerateOptions::default()
    };
    change(&mut options);
    options
}

const PROMPT: &str = "It was a dark night, and the old captain";

#[test]
fn stop_texts_end_the_text_wherever_the_tokens_end() {
    let model = load(&fixture(MODEL), 2);
    let whole = generate(&model, PROMPT, &greedy(|_| ()), &mut |_: &str| ()).unwrap();
    // A piece from the middle that begins and ends inside of words.
    let at = whole.text.char_indices().nth(30).unwrap().0;
    let stop = whole.text[at..].chars().take(9).collect::<String>();
    let expected = &whole.text[..whole.text.find(&stop).unwrap()];
    let options = greedy(|o| o.stop_texts = vec!["no such text".into(), stop.clone()]);
    let mut streamed = String::new();
    let report = generate(&model, PROMPT, &options, &mut |t: &str| streamed.push_str(t)).unwrap();
    assert_eq!((report.stop, report.stop_text.as_deref()), (Stop::StopText, Some(stop.as_str())));
    assert_eq!(report.text, expected);
    assert_eq!(streamed, expected, "nothing of the stop text was shown");
    assert_eq!(report.tokens, whole.tokens[..report.tokens.len()]);

    // One that never comes holds nothing back in the end.
    let last: String = whole.text.chars().rev().take(3).collect::<Vec<_>>().into_iter().rev().collect();
    let options = greedy(|o| o.stop_texts = vec![last + "\u{0}"]);
    let report = generate(&model, PROMPT, &options, &mut |_: &str| ()).unwrap();
    assert_eq!((report.text, report.stop), (whole.text, Stop::Limit));
    let options = greedy(|o| o.stop_texts = vec![String::new()]);
    assert!(matches!(generate(&model, PROMPT, &options, &mut |_: &str| ()), Err(Error::Option(_))));
}

#[test]
fn logprobs_are_the_softmax_of_the_models_own_logits() {
    let model = load(&fixture(MODEL), 2);
    // Penalties, filters and temperature do not show in them.
    let options = greedy(|o| {
        o.sampling = SamplingOptions { temperature: 2.0, repeat_penalty: 1.5, seed: 3, ..Default::default() };
        o.logprobs = Some(4);
        o.limit = Some(6);
    });
    let tokenizer = model.tokenizer().unwrap();
    let prompt = tokenizer.encode(PROMPT, options.encode).unwrap();
    let report = generate_from_tokens(&model, &prompt, &options, &mut |_: &str| ()).unwrap();
    let logprobs = report.logprobs.unwrap();
    assert_eq!(logprobs.len(), 6);
    let mut session =
        model.session(SessionOptions { context: 64, kv: KvType::F32, ..Default::default() }).unwrap();
    let mut text = prompt;
    for (got, &token) in logprobs.iter().zip(&report.tokens) {
        session.clear();
        let logits = session.forward(&text, Wanted::Last).unwrap();
        let total: f64 = logits.iter().map(|&l| f64::from(l).exp()).sum();
        let logprob = |id: u32| (f64::from(logits[id as usize]).exp() / total).ln();
        assert_eq!(got.drawn.id, token);
        let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
        ids.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]));
        assert_eq!(got.top.iter().map(|t| t.id).collect::<Vec<_>>(), ids[..4]);
        for entry in got.top.iter().chain([&got.drawn]) {
            assert!((entry.logprob - logprob(entry.id)).abs() < 2e-3, "{entry:?} {}", logprob(entry.id));
            assert_eq!(entry.text.as_bytes(), &*tokenizer.token_bytes(entry.id));
        }
        text.push(token);
    }
}

#[test]
fn a_limit_that_must_fit_is_refused_before_any_work() {
    let model = load(&fixture(MODEL), 1);
    let run = |limit, context| {
        let options = greedy(|o| {
            (o.limit, o.context, o.limit_must_fit) = (Some(limit), context, true);
            // What would end it earlier does not count.
            o.ignore_end = true;
        });
        generate(&model, PROMPT, &options, &mut |_: &str| ())
    };
    // 11 tokens, and the last token of the answer needs no position.
    assert_eq!(run(6, Some(16)).unwrap().stop, Stop::Limit);
    let error = run(7, Some(16)).unwrap_err();
    assert!(matches!(error, Error::NoRoom { prompt: 11, limit: 7, context: 16, trained: 1024 }), "{error}");
    assert_eq!(error.remedy(), Some(Remedy::LargerContextOrFewerTokens));
    // Without a context of its own, what the model was trained for is the limit.
    let error = run(2000, None).unwrap_err();
    assert!(matches!(error, Error::NoRoom { context: 1024, .. }), "{error}");
    assert_eq!(error.remedy(), Some(Remedy::FewerTokens));
}

#[test]
fn a_generator_computes_only_what_is_new_and_says_the_same() {
    let model = load(&fixture(MODEL), 2);
    let options = greedy(|o| o.limit = Some(8));
    let encode = |text: &str| model.tokenizer().unwrap().encode(text, options.encode).unwrap();
    let mut generator = Generator::new(&model, options.clone(), 128).unwrap();
    let fresh = |prompt: &[u32]| generate_from_tokens(&model, prompt, &options, &mut |_: &str| ()).unwrap();
    let mut check = |prompt: &[u32], reused: usize| {
        let report = generator.generate(prompt, &mut |_: &str| ()).unwrap();
        assert_eq!((report.prompt_tokens, report.prompt_tokens_reused), (prompt.len(), reused));
        assert_eq!(report.tokens, fresh(prompt).tokens);
        report.tokens
    };
    let first = encode(PROMPT);
    let answer = check(&first, 0);
    // The prompt and seven of the eight tokens: the last one was never computed with.
    let longer = [&first[..], &answer, &encode("said nothing")[1..]].concat();
    check(&longer, first.len() + 7);
    // The same again needs its last token for the logits.
    check(&longer, longer.len() - 1);
    // Another end, another text.
    let other = [&first[..6], &encode("sang a song")[1..]].concat();
    check(&other, 6);
    check(&encode("Once"), 1);
}

#[test]
fn a_listener_may_end_it_and_what_was_computed_stays() {
    struct Until(usize, String);
    impl Listener for Until {
        fn text(&mut self, text: &str) {
            self.1.push_str(text);
        }
        fn is_done(&mut self) -> bool {
            self.0 = self.0.saturating_sub(1);
            self.0 == 0
        }
    }
    let model = load(&fixture(MODEL), 2);
    let options = greedy(|_| ());
    let prompt = model.tokenizer().unwrap().encode(PROMPT, options.encode).unwrap();
    let mut generator = Generator::new(&model, options, 128).unwrap();
    let mut listener = Until(1, String::new());
    let report = generator.generate(&prompt, &mut listener).unwrap();
    assert_eq!((report.stop, report.tokens.len()), (Stop::Interrupted, 0));
    let mut listener = Until(6, String::new());
    let report = generator.generate(&prompt, &mut listener).unwrap();
    assert_eq!((report.stop, report.tokens.len()), (Stop::Interrupted, 5));
    assert_eq!(report.text, listener.1);
    let report = generator.generate(&prompt, &mut |_: &str| ()).unwrap();
    assert_eq!((report.stop, report.prompt_tokens_reused), (Stop::Limit, prompt.len() - 1));
}

#[test]
fn a_prompt_of_several_batches_can_be_interrupted_between_them() {
    struct After(usize);
    impl Listener for After {
        fn text(&mut self, _: &str) {}
        fn is_done(&mut self) -> bool {
            self.0 = self.0.saturating_sub(1);
            self.0 == 0
        }
    }
    let model = load(&fixture(MODEL), 2);
    let options = greedy(|o| (o.limit, o.context) = (Some(3), Some(1024)));
    let text = std::fs::read_to_string(fixture("text/validation.txt")).unwrap();
    let mut prompt = model.tokenizer().unwrap().encode(&text, options.encode).unwrap();
    prompt.truncate(700);
    let session = SessionOptions { context: 1024, kv: KvType::F32, ..Default::default() };
    let mut session = model.session(session).unwrap();
    let logits = session.forward(&prompt, Wanted::Last).unwrap();
    let best = quern_run::statistics::top1(logits) as u32;

    let mut generator = Generator::new(&model, options, 1024).unwrap();
    let report = generator.generate(&prompt, &mut After(2)).unwrap();
    assert_eq!((report.stop, report.tokens.len()), (Stop::Interrupted, 0));
    let report = generator.generate(&prompt, &mut |_: &str| ()).unwrap();
    assert_eq!((report.prompt_tokens_reused, report.tokens[0]), (512, best));
}

#[test]
fn a_turn_that_fails_was_never_said() {
    let model = load(&fixture(MODEL), 2);
    let tokenizer = model.tokenizer().unwrap();
    let source = "{% for m in messages %}{{ m.content }} {% if m.content == 'bad' %}\n\
                  {{ raise_exception('no') }}{% endif %}{% endfor %}";
    let template = ChatTemplate::new("test".into(), source, tokenizer).unwrap();
    let mut chat =
        Chat::new(&model, template, greedy(|o| (o.limit, o.context) = (Some(4), Some(64)))).unwrap();
    chat.set_system(Some("Once".into()));
    let first = chat.say("upon a time", &mut |_: &str| ()).unwrap();
    assert!(!first.text.starts_with(' '), "an answer stands for itself: {:?}", first.text);
    let said = chat.messages();
    let roles: Vec<&str> = said.iter().map(|m| m.role.as_str()).collect();
    assert_eq!((roles, &said[2].content), (vec!["system", "user", "assistant"], &first.text));

    let error = chat.say("bad", &mut |_: &str| ()).unwrap_err();
    assert!(matches!(&error, Error::Chat(_)) && error.to_string().contains("line 2"), "{error}");
    let error = chat.say(&"long ".repeat(100), &mut |_: &str| ()).unwrap_err();
    assert!(matches!(error, Error::ContextFull { context: 64, .. }), "{error}");
    assert_eq!(chat.messages(), said);

    // The conversation continues where it was, and a new one is the same as one that was never interrupted.
    let second = chat.say("and", &mut |_: &str| ()).unwrap();
    assert!(second.prompt_tokens_reused >= first.prompt_tokens, "{second:?}");
    chat.reset();
    assert_eq!(chat.say("upon a time", &mut |_: &str| ()).unwrap().tokens, first.tokens);
}
