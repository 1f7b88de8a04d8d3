//! Chat templates: against transformers, and what happens with those that refuse, ignore or misbehave.

use std::path::Path;

use crate::common::fixture;
use quern_model::chat::{ChatError, ChatTemplate, Message};
use quern_model::{Config, Tokenizer, gguf_metadata};
use quern_tensor_io::{Checkpoint, Remedy};
use serde_json::Value;

fn messages(value: &Value) -> Vec<Message> {
    serde_json::from_value(value.clone()).unwrap()
}

fn tokenizer(name: &str) -> Tokenizer {
    Tokenizer::from_directory(&fixture("architectures").join(name)).unwrap()
}

fn conversation(parts: &[(&str, &str)]) -> Vec<Message> {
    parts.iter().map(|&(role, content)| Message::new(role, content)).collect()
}

#[test]
fn texts_and_ids_are_those_of_transformers() {
    let golden = std::fs::read_to_string(fixture("golden/chat.json")).unwrap();
    let golden: Value = serde_json::from_str(&golden).unwrap();
    let mut compared = 0;
    for (name, conversations) in golden.as_object().unwrap() {
        let Some(conversations) = conversations.as_array() else { continue };
        let directory = fixture("architectures").join(name);
        let checkpoint = Checkpoint::open(&directory).unwrap();
        // The same from the files and from what GGUF would hold of them.
        let config = Config::from_checkpoint(&checkpoint).unwrap();
        let (metadata, _) = gguf_metadata(&checkpoint, &config).unwrap();
        let both = [
            (true, Tokenizer::from_directory(&directory).unwrap()),
            // GGUF cannot say that a space goes in front of the very first word only, as Mistral's files do.
            (name != "mistral", Tokenizer::from_gguf(&directory, &metadata).unwrap()),
        ];
        for (same_ids, tokenizer) in &both {
            let template = ChatTemplate::choose(&directory, tokenizer, None).unwrap();
            for conversation in conversations {
                let mut messages = messages(&conversation["messages"]);
                let ids: Vec<u32> = serde_json::from_value(conversation["ids"].clone()).unwrap();
                assert_eq!(template.render(&messages).unwrap(), conversation["text"], "{name}");
                let system = (messages[0].role == "system").then(|| messages.remove(0).content);
                let prompt = template.prompt(tokenizer, system.as_deref(), &messages).unwrap();
                assert_eq!(
                    (prompt.text.as_str(), prompt.system_moved),
                    (conversation["text"].as_str().unwrap(), false)
                );
                assert!(!same_ids || prompt.tokens == ids, "{name}: {:?} {:?}", prompt.text, prompt.tokens);
                compared += 1;
            }
        }
    }
    let families =
        golden.as_object().unwrap().values().filter(|conversations| conversations.is_array()).count();
    assert!(families > 7);
    assert_eq!(compared, families * 4 * 2);
}

/// The small templates of a part of the golden file: name, source, and what transformers makes of it.
fn small_templates(templates: &Value) -> Vec<(String, String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let all = templates.as_object().unwrap().iter();
    all.map(|(name, case)| (name.clone(), text(&case[0]), text(&case[1]))).collect()
}

#[test]
fn what_templates_of_well_known_models_use_is_what_transformers_makes_of_it() {
    let golden = std::fs::read_to_string(fixture("golden/chat.json")).unwrap();
    let golden: Value = serde_json::from_str(&golden).unwrap();
    let tokenizer = tokenizer("llama");
    let features = &golden["features"];
    let messages = messages(&features["messages"]);
    let check = |name: &str, source: &str, expected: &str| {
        let now = "2024-07-05T08:09:10Z";
        let mut template = ChatTemplate::at(name.to_owned(), source, &tokenizer, now).unwrap();
        for (name, value) in features["variables"].as_object().unwrap() {
            template.set(name, value);
        }
        let text = template.render(&messages).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(text, expected, "{name}: {source}");
    };
    let small = small_templates(&features["templates"]);
    assert!(small.len() > 30);
    small.iter().for_each(|(name, source, expected)| check(name, source, expected));
    // Content is a text to quern, and what transformers was given as parts: the template's form is found out.
    let parts = small_templates(&golden["parts"]);
    assert_eq!(parts.len(), 3);
    parts.iter().for_each(|(name, source, expected)| check(name, source, expected));
}

#[test]
fn content_is_a_text_wherever_a_template_takes_texts() {
    let tokenizer = tokenizer("llama");
    let render = |source: &str| {
        let template = ChatTemplate::new("t".into(), source, &tokenizer).unwrap();
        template.render(&conversation(&[("system", "S"), ("user", "U")])).unwrap()
    };
    for (source, expected) in [
        // Both are taken.
        (
            "{% for m in messages %}{% if m.content is string %}text {{ m.content }};{% else %}parts \
             {{ m.content[0].text }};{% endif %}{% endfor %}",
            "text S;text U;",
        ),
        // Of the user's parts, but the system's text.
        (
            "{% for m in messages %}{{ m.content if m.role == 'system' else m.content[0].text }};{% endfor %}",
            "S;U;",
        ),
        // A list that is printed as it is, is no text.
        ("{% for m in messages %}{% if m.content is not string %}{{ m.content }}{% endif %}{% endfor %}", ""),
        ("{% for m in messages %}{{ m.content | tojson if m.content is not string }}{% endfor %}", ""),
        // Nor is one taken whose template fails on it.
        ("{% for m in messages %}{{ m.content.upper() }}{% endfor %}", "SU"),
    ] {
        assert_eq!(render(source), expected, "{source}");
    }
    // A variable of the user's may decide.
    let source = "{{ messages[0].content[0].text if parts else messages[0].content }}";
    let mut template = ChatTemplate::new("t".into(), source, &tokenizer).unwrap();
    let user = conversation(&[("user", "U")]);
    assert_eq!(template.render(&user).unwrap(), "U");
    template.set("parts", &true.into());
    assert_eq!(template.render(&user).unwrap(), "U");
}

#[test]
fn words_that_a_template_leaves_out_are_known() {
    let tokenizer = tokenizer("llama");
    let all =
        conversation(&[("user", "first word"), ("assistant", "<think>x</think>answer"), ("user", "last")]);
    for (source, expected) in [
        ("{% for m in messages %}{{ m.content }}{% endfor %}", vec![]),
        // Spelled otherwise, not lost; nor is reasoning that is taken off.
        ("{{ messages | tojson | upper }}", vec![]),
        ("{% for m in messages %}{{ m.content.split('</think>')[-1] | trim }}{% endfor %}", vec![]),
        ("{{ messages[-1].content }}", vec![0, 1]),
        ("{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}", vec![1]),
        // The beginning, the end.
        ("{% for m in messages %}{{ m.content.partition(' ')[2] or m.content }}{% endfor %}", vec![0, 2]),
        ("{% for m in messages %}{{ m.content.split('word')[0] }}{% endfor %}", vec![0]),
        ("nothing", vec![0, 1, 2]),
    ] {
        let template = ChatTemplate::new("t".into(), source, &tokenizer).unwrap();
        let left_out = template.prompt(&tokenizer, None, &all).unwrap().left_out;
        let expected: Vec<_> = expected.into_iter().map(|at: usize| all[at].clone()).collect();
        assert_eq!(left_out, expected, "{source}");
    }
    // A blank has no words.
    let template = ChatTemplate::new("t".into(), "{{ messages[-1].content }}", &tokenizer).unwrap();
    let blank = conversation(&[("user", " \n"), ("user", "U")]);
    assert_eq!(template.prompt(&tokenizer, None, &blank).unwrap().left_out, []);
    // A system prompt that leaves a trace but no words is moved, as one that leaves none is.
    let source = "{% for m in messages %}<{{ m.role }}>{{ m.content if m.role != 'system' }}{% endfor %}";
    let template = ChatTemplate::new("t".into(), source, &tokenizer).unwrap();
    let prompt = template.prompt(&tokenizer, Some("S"), &conversation(&[("user", "U")])).unwrap();
    assert_eq!((prompt.text.as_str(), prompt.system_moved), ("<user>S\n\nU", true));
    assert_eq!(prompt.left_out, []);
    // And one that cannot be moved is named.
    let prompt = template.prompt(&tokenizer, Some("S"), &conversation(&[("assistant", "A")])).unwrap();
    assert_eq!((prompt.system_moved, prompt.left_out), (false, conversation(&[("system", "S")])));
}

#[test]
fn beginning_of_text_stands_there_once() {
    let tokenizer = tokenizer("mistral");
    assert!(tokenizer.add_bos());
    let bos = tokenizer.bos().unwrap();
    let ids = |source: &str| {
        let template = ChatTemplate::new("t".into(), source, &tokenizer).unwrap();
        template.prompt(&tokenizer, None, &conversation(&[("user", "Hi")])).unwrap().tokens
    };
    // Whether or not the template thought of it.
    for source in ["{{ bos_token }}{{ messages[0].content }}", "{{ messages[0].content }}"] {
        let ids = ids(source);
        assert_eq!((ids[0], ids.iter().filter(|&&id| id == bos).count()), (bos, 1), "{source}");
        assert_eq!(tokenizer.decode(&ids), "Hi", "{source}");
    }
    // A model that takes none gets none.
    let qwen = self::tokenizer("qwen2");
    let template = ChatTemplate::choose(Path::new("m"), &qwen, Some("chatml")).unwrap();
    let ids = template.prompt(&qwen, None, &conversation(&[("user", "Hi")])).unwrap().tokens;
    assert_eq!(ids[0], qwen.token("<|im_start|>").unwrap());
}

#[test]
fn templates_that_come_with_quern_have_their_known_forms() {
    let tokenizer = tokenizer("llama");
    let four = conversation(&[("user", "U"), ("assistant", "A"), ("user", "V")]);
    for (name, expected, moved) in [
        (
            "chatml",
            "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n\
             <|im_start|>user\nV<|im_end|>\n<|im_start|>assistant\n",
            false,
        ),
        (
            "llama3",
            "<s><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n\
             U<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nA<|eot_id|>\
             <|start_header_id|>user<|end_header_id|>\n\nV<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
            false,
        ),
        (
            "gemma",
            "<s><start_of_turn>user\nS\n\nU<end_of_turn>\n<start_of_turn>model\nA<end_of_turn>\n\
             <start_of_turn>user\nV<end_of_turn>\n<start_of_turn>model\n",
            true,
        ),
        ("mistral", "<s>[INST] S\n\nU [/INST] A</s>[INST] V [/INST]", true),
        (
            "phi3",
            "<|system|>\nS<|end|>\n<|user|>\nU<|end|>\n<|assistant|>\nA<|end|>\n<|user|>\nV<|end|>\n<|assistant|>\n",
            false,
        ),
        (
            "Zephyr",
            "<|system|>\nS</s>\n<|user|>\nU</s>\n<|assistant|>\nA</s>\n<|user|>\nV</s>\n<|assistant|>\n",
            false,
        ),
    ] {
        let template = ChatTemplate::choose(Path::new("m"), &tokenizer, Some(name)).unwrap();
        let prompt = template.prompt(&tokenizer, Some("S"), &four).unwrap();
        assert_eq!((prompt.text.as_str(), prompt.system_moved), (expected, moved), "{name}");
    }
    let chatml = ChatTemplate::choose(Path::new("m"), &tokenizer, Some("chatml")).unwrap();
    assert_eq!(chatml.foreign_end(&tokenizer), Some("<|im_end|>"));
    assert_eq!(chatml.foreign_end(&self::tokenizer("qwen2")), None);
}

#[test]
fn a_system_prompt_is_never_lost() {
    let tokenizer = tokenizer("llama");
    let prompt = |source: &str, conversation: &[Message]| {
        ChatTemplate::new("t".into(), source, &tokenizer).unwrap().prompt(&tokenizer, Some("S"), conversation)
    };
    let user = conversation(&[("user", "U")]);
    // It has no place for it and says nothing.
    let ignores =
        "{% for m in messages %}{% if m.role != 'system' %}[{{ m.content }}]{% endif %}{% endfor %}";
    let got = prompt(ignores, &user).unwrap();
    assert_eq!((got.text.as_str(), got.system_moved), ("[S\n\nU]", true));
    // It refuses.
    let refuses = "{% for m in messages %}\n{% if m.role == 'system' %}\n{{ raise_exception('no system') }}\n\
                   {% endif %}[{{ m.content }}]{% endfor %}";
    let got = prompt(refuses, &user).unwrap();
    assert_eq!((got.text.as_str(), got.system_moved), ("[S\n\nU]", true));
    // There is no message to move it to.
    let error = prompt(refuses, &conversation(&[("assistant", "A")])).unwrap_err();
    assert!(matches!(&error, ChatError::Refused { line: Some(3), .. }), "{error}");
    assert!(error.to_string().contains("line 3") && error.to_string().contains("no system"), "{error}");
    // What has nothing to do with it stays an error.
    let error = prompt("{{ messages[0].content }}\n{{ messages.x.y }}", &user).unwrap_err();
    assert!(matches!(&error, ChatError::Template { line: Some(2), .. }), "{error}");
}

#[test]
fn templates_are_chosen_by_name_or_file() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["tokenizer.json", "config.json"] {
        std::fs::copy(fixture("architectures/llama3").join(name), dir.path().join(name)).unwrap();
    }
    let config =
        r#"{"chat_template": [{"name": "default", "template": "D"}, {"name": "rag", "template": "R"}]}"#;
    std::fs::write(dir.path().join("tokenizer_config.json"), config).unwrap();
    let tokenizer = Tokenizer::from_directory(dir.path()).unwrap();
    let render = |choice: Option<&str>| {
        ChatTemplate::choose(dir.path(), &tokenizer, choice)
            .map(|t| t.render(&conversation(&[("user", "U")])).unwrap())
    };
    assert_eq!(render(None).unwrap(), "D");
    assert_eq!(render(Some("rag")).unwrap(), "R");
    let file = dir.path().join("own.jinja");
    std::fs::write(&file, "own {{ messages[0].content }}").unwrap();
    assert_eq!(render(file.to_str()).unwrap(), "own U");
    let error = render(Some("nonsense")).unwrap_err().to_string();
    assert!(error.contains("rag (the model's)") && error.contains("zephyr"), "{error}");
    std::fs::write(&file, "a\nb {{ c").unwrap();
    let error = render(file.to_str()).unwrap_err();
    assert!(matches!(&error, ChatError::Template { line: Some(2), .. }), "{error}");
    assert!(error.to_string().contains("own.jinja, line 2"), "{error}");
    std::fs::write(&file, "x".repeat(1 << 20)).unwrap();
    assert!(render(file.to_str()).unwrap_err().to_string().contains("at most"));

    let none = self::tokenizer("llama");
    let error = ChatTemplate::choose(Path::new("some/model"), &none, None).unwrap_err();
    assert!(error.to_string().starts_with("some/model"), "{error}");
    let Some(Remedy::ChooseChatTemplate { builtin }) = error.remedy() else { panic!("{error:?}") };
    assert!(builtin.contains(&"chatml") && builtin.contains(&"zephyr"), "{builtin:?}");
}

#[test]
fn a_hostile_template_is_an_error() {
    let tokenizer = tokenizer("llama");
    let user = conversation(&[("user", "U")]);
    for source in [
        "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}",
        "{{ messages[0]['content'] * 100000000 }}",
        "{{ messages[0].content | tojson(indent=100000000000) }}{{ messages.pop() }}",
    ] {
        let template = ChatTemplate::new("hostile".into(), source, &tokenizer).unwrap();
        let error = template.prompt(&tokenizer, None, &user).unwrap_err();
        assert!(matches!(&error, ChatError::Template { line: Some(1), .. }), "{error}");
        assert!(error.to_string().starts_with("chat template hostile, line 1: "), "{error}");
    }
}
