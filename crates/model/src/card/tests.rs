//! Cards are valid whatever the names in them are.

use saphyr::{LoadableYamlNode, Yaml};

use super::*;
use crate::provenance::{Evaluation, HashedFile, Origin, Provenance, Step, Tool};

fn provenance(name: &str, repository: Option<&str>) -> Provenance {
    Provenance::default().then(Step {
        source: Origin {
            name: name.to_owned(),
            repository: repository.map(str::to_owned),
            commit: repository.map(|_| "0123456789abcdef0123456789abcdef01234567".to_owned()),
            ..Origin::default()
        },
        tool: Tool::quern(),
        command: format!("quern quantize {name} --to q4_k_m"),
        ..Step::default()
    })
}

fn card<'a>(provenance: &'a Provenance, source: &str) -> Card<'a> {
    Card {
        name: "out.gguf".into(),
        gguf: true,
        scheme: CardScheme::Type("q4_k_m".into()),
        architecture: Some("llama".into()),
        parameters: 4_200_000,
        bits_per_weight: 4.91,
        file_size: 5_000_000,
        context_length: Some(512),
        types: vec![("q4_k".into(), 29, 4_000_000), ("f32".into(), 9, 9_216)],
        chat: false,
        provenance,
        source: FrontMatter::parse(source),
        has_source_card: false,
        vllm: false,
    }
}

/// The front matter as a YAML parser reads it, and the rest.
fn parsed(text: &str) -> (Vec<(String, Vec<String>)>, String) {
    let (front, body) = text.strip_prefix("---\n").unwrap().split_once("---\n").unwrap();
    let found = Yaml::load_from_str(front).unwrap_or_else(|e| panic!("{e}\n{front}"));
    let one = |value: &Yaml<'_>| value.as_str().unwrap_or_else(|| panic!("no text: {value:?}")).to_owned();
    let values = |value: &Yaml<'_>| match value.as_vec() {
        Some(items) => items.iter().map(one).collect(),
        None => vec![one(value)],
    };
    let keys = found[0].as_mapping().unwrap().iter();
    (keys.map(|(key, value)| (one(key), values(value))).collect(), body.to_owned())
}

#[test]
fn front_matter_carries_what_the_sources_card_says() {
    let source = "---\nlanguage:\n- en\n- 'no'\nlicense: other\nlicense_name: a: b\nlicense_link: https://example.com/l\n\
                  tags: [books, gguf]\npipeline_tag: text-generation\nlibrary_name: nemo\n---\n# Words\n";
    let provenance = provenance("n", Some("org/n"));
    let (front, body) = parsed(&card(&provenance, source).to_text());
    let expected: Vec<(&str, &[&str])> = vec![
        ("base_model", &["org/n"]),
        ("base_model_relation", &["quantized"]),
        ("license", &["other"]),
        ("license_name", &["a: b"]),
        ("license_link", &["https://example.com/l"]),
        ("language", &["en", "no"]),
        ("library_name", &["gguf"]),
        ("pipeline_tag", &["text-generation"]),
        ("tags", &["books", "gguf", "quern"]),
    ];
    let found: Vec<(&str, Vec<&str>)> =
        front.iter().map(|(k, v)| (k.as_str(), v.iter().map(String::as_str).collect())).collect();
    assert_eq!(found, expected.into_iter().map(|(k, v)| (k, v.to_vec())).collect::<Vec<_>>());
    for part in [
        "# out.gguf",
        "[org/n](https://huggingface.co/org/n) at commit `0123456789abcdef0123456789abcdef01234567`",
        "| q4\\_k |".replace("\\_", "_").as_str(),
        "quern quantize n --to q4_k_m",
        "llama-cli -m out.gguf",
        "The licence of the source applies to these files too: other.",
    ] {
        assert!(body.contains(part), "{part} is not in\n{body}");
    }
}

#[test]
fn a_model_from_a_folder_names_no_base_and_no_licence() {
    let provenance = provenance("bookworm", None);
    let (front, body) = parsed(&card(&provenance, "").to_text());
    let keys: Vec<_> = front.iter().map(|(k, _)| k.as_str()).collect();
    assert_eq!(keys, ["library_name", "pipeline_tag", "tags"]);
    assert!(body.contains("do not name a licence"), "{body}");
}

#[test]
fn every_scheme_says_how_it_is_loaded() {
    let provenance = provenance("n", None);
    let with = |scheme: CardScheme| Card {
        gguf: false,
        scheme,
        vllm: true,
        name: "OUT".into(),
        ..card(&provenance, "")
    };
    for (scheme, tags, part) in [
        (CardScheme::Gptq { bits: 4 }, &["gptq", "4-bit", "quern"][..], "optimum gptqmodel"),
        (CardScheme::Gptq { bits: 3 }, &["gptq", "quern"], "GPTQ checkpoint of 3 bits"),
        (
            CardScheme::Bitsandbytes("nf4".into()),
            &["bitsandbytes", "4-bit", "quern"],
            "accelerate bitsandbytes",
        ),
        (
            CardScheme::Bitsandbytes("int8".into()),
            &["bitsandbytes", "8-bit", "quern"],
            "bitsandbytes checkpoint in int8",
        ),
        (CardScheme::Awq, &["awq", "4-bit", "quern"], "an AWQ checkpoint"),
        (CardScheme::Compressed("fp8".into()), &["fp8", "quern"], "accelerate compressed-tensors"),
        (
            CardScheme::Compressed("compressed-tensors 4-bit".into()),
            &["compressed-tensors", "quern"],
            "checkpoint in compressed-tensors 4-bit",
        ),
        (CardScheme::Type("f16".into()), &["quern"], "from_pretrained(\"OUT\""),
    ] {
        let (front, body) = parsed(&with(scheme).to_text());
        assert_eq!(front.last().unwrap().1, tags);
        assert!(body.contains(part) && body.contains("vllm serve OUT"), "{body}");
    }
    assert!(!Card { vllm: false, ..with(CardScheme::Gptq { bits: 3 }) }.to_text().contains("vllm"));
}

#[test]
fn names_that_mean_something_to_yaml_markdown_or_a_shell_are_text() {
    let name = "a`b]|<script>\"'$(rm)\n---\nlicense: mit";
    let mut provenance = provenance(name, None);
    let step = provenance.steps.last_mut().unwrap();
    step.command = "quern ```\n# not a title".into();
    step.evaluation = Some(Evaluation {
        text: HashedFile { name: name.into(), sha256: "ab`cd".into() },
        tokens: 100,
        source_perplexity: 20.0,
        perplexity: 21.5,
        top1_agreement: 0.9,
        ..Evaluation::default()
    });
    let source = format!("---\nlicense: \"{}\"\ntags:\n- \"x\\y: #z\"\n- {name:?}\n---\n", "mit: `x`");
    let made = Card { name: name.into(), ..card(&provenance, &source) };
    let text = made.to_text();
    let (front, body) = parsed(&text);
    assert!(front.iter().any(|(k, v)| k == "license" && v == &["mit: `x`"]), "{front:?}");
    assert_eq!(body.matches("```").count() % 2, 0, "{body}");
    let outside: String = body.split("```").step_by(2).collect();
    assert!(!outside.contains("<script>") && !body.contains("\n---\n"), "{body}");
    assert!(body.contains("| perplexity | 20.0000 | 21.5000 |") && body.contains("90.00 %"), "{body}");
}
