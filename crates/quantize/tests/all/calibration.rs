//! Calibration samples: where they begin, what counts as a record, and what is refused.

use std::path::Path;

use crate::common::fixture;
use quern_model::{EncodeOptions, Tokenizer};
use quern_quantize::calibration::{
    DEFAULT_TEXT, Error, SHORTEST, SampleOptions, Samples, TextSource, read, read_bytes, samples,
};

fn tokenizer() -> Tokenizer {
    Tokenizer::from_directory(&fixture("bookworm-4m")).unwrap()
}

fn take(source: TextSource, samples_wanted: usize, context: usize) -> Samples {
    samples(&tokenizer(), source, SampleOptions { samples: samples_wanted, context }).unwrap()
}

fn jsonl(text: &str) -> Result<TextSource, Error> {
    read_bytes(Path::new("records.jsonl"), text.as_bytes().to_vec())
}

#[test]
fn the_default_text_is_varied_and_enough_for_the_usual_calibration() {
    assert!((300_000..600_000).contains(&DEFAULT_TEXT.len()), "{}", DEFAULT_TEXT.len());
    assert!(!DEFAULT_TEXT.contains(['\r', '\u{fffd}', '\u{feff}']));
    for part in ["HAMLET", "fn dijkstra", "SELECT r.name", "吾輩は猫である", "Habe nun, ach!", "| Gold | Au"]
    {
        assert!(DEFAULT_TEXT.contains(part), "{part}");
    }
    let tokenizer = tokenizer();
    let taken = take(TextSource::Default, 128, 512);
    assert_eq!((taken.sequences.len(), taken.wanted, taken.tokens), (128, 128, 128 * 512));
    assert!(taken.sequences.iter().all(|s| s.len() == 512 && Some(s[0]) == tokenizer.bos()));
    // the whole text is covered: some sequence falls into the code, some into other languages
    let texts: Vec<String> = taken.sequences.iter().map(|s| tokenizer.decode(s)).collect();
    for part in ["fn ", "не", "HAMLET"] {
        assert!(texts.iter().any(|t| t.contains(part)), "{part}");
    }
}

#[test]
fn sequences_are_the_text_s_own_tokens_at_the_documented_places() {
    let text = std::fs::read_to_string(fixture("text/validation.txt")).unwrap();
    let tokenizer = tokenizer();
    let tokens = tokenizer.encode(&text, EncodeOptions::default()).unwrap();
    let taken = take(TextSource::Text(text), 7, 100);
    assert_eq!(taken.sequences.len(), 7);
    for (i, sequence) in taken.sequences.iter().enumerate() {
        let start = i * (tokens.len() - 99) / 6;
        assert_eq!(sequence[0], tokenizer.bos().unwrap());
        assert_eq!(sequence[1..], tokens[start..start + 99], "sequence {i}");
    }
    assert_eq!(taken.sequences[6].last(), tokens.last());
}

#[test]
fn a_short_text_gives_what_there_is_and_says_so() {
    let text = "It was a dark night, and the old captain walked the deck alone. ".repeat(20);
    let taken = take(TextSource::Text(text), 1000, 64);
    assert!((2..40).contains(&taken.sequences.len()));
    assert_eq!((taken.wanted, taken.tokens), (1000, taken.sequences.len() * 64));
    let whole =
        take(TextSource::Text("The captain said that he would go to the town no more.".into()), 3, 512);
    assert_eq!(whole.sequences.len(), 1);
    assert!((SHORTEST..30).contains(&whole.tokens));
    let options = SampleOptions { samples: 3, context: 512 };
    let error = samples(&tokenizer(), TextSource::Text("Too short.".into()), options).unwrap_err();
    assert!(error.to_string().contains("too short"), "{error}");
}

#[test]
fn records_keep_their_own_beginnings() {
    let long = "The old captain walked to the harbour and looked out over the sea. ".repeat(30);
    let lines = format!(
        "{{\"text\": {long:?}}}\n\n\"short\"\n{{\"content\": \"He said that it was very kind of them to come all the \
         way.\"}}\n"
    );
    let source = jsonl(&lines).unwrap();
    let taken = take(source.clone(), 10, 50);
    let tokenizer = tokenizer();
    assert_eq!((taken.sequences.len(), taken.dropped, taken.wanted), (2, 1, 10));
    assert_eq!(taken.sequences[0].len(), 50);
    assert!(taken.sequences[1].len() < 50);
    for (sequence, start) in taken.sequences.iter().zip(["The old captain", "He said that"]) {
        assert_eq!(Some(sequence[0]), tokenizer.bos());
        assert!(tokenizer.decode(sequence).starts_with(start), "{:?}", tokenizer.decode(sequence));
    }
    assert_eq!(take(source, 1, 50).sequences, taken.sequences[..1]);
}

#[test]
fn every_kind_of_record_is_understood() {
    let lines = [
        r#"{"text": "one", "meta": 3}"#,
        r#""two \"quoted\"""#,
        r#"{"content": "three"}"#,
        r#"{"prompt": "four ", "completion": "and more"}"#,
        r#"{"messages": [{"role": "user", "content": "five?"}, {"role": "assistant", "content": [{"type": "text", "text": "six."}, {"type": "image"}]}]}"#,
        r#"{"messages": [{"role": "assistant", "content": null, "tool_calls": []}, {"role": "tool", "content": "seven"}]}"#,
        r#"{"conversations": [{"from": "human", "value": "eight"}, {"from": "gpt", "value": "nine"}]}"#,
    ];
    let expected =
        ["one", "two \"quoted\"", "three", "four and more", "five?\n\nsix.", "seven", "eight\n\nnine"];
    let expected = TextSource::Records(expected.iter().map(ToString::to_string).collect());
    let text = lines.join("\r\n\n");
    assert_eq!(jsonl(&text).unwrap(), expected);
    // without a telling name the first byte decides; a name that says text is believed
    let anonymous = read_bytes(Path::new("-"), text.clone().into_bytes()).unwrap();
    assert_eq!(anonymous, expected);
    assert_eq!(read_bytes(Path::new("a.txt"), text.clone().into_bytes()).unwrap(), TextSource::Text(text));
}

#[test]
fn bad_records_are_named_by_file_and_line() {
    let cases = [
        ("{\"text\": \"a\"}\n\n{\"text\": ", 3, "not JSON"),
        ("[1, 2]", 1, "expected a record"),
        ("{\"text\": 5}", 1, "\"text\" is no string"),
        ("{\"prompt\": \"only half\"}", 1, "found \"prompt\""),
        ("{\"messages\": \"hello\"}", 1, "no array"),
        ("{\"messages\": [\"hello\"]}", 1, "no object"),
        ("{\"conversations\": [{\"from\": \"human\"}]}", 1, "no \"value\""),
    ];
    for (text, line, part) in cases {
        let error = jsonl(text).unwrap_err().to_string();
        assert!(error.starts_with(&format!("records.jsonl, line {line}: ")), "{error}");
        assert!(error.contains(part), "expected {part:?} in {error:?}");
    }
}

#[test]
fn what_is_no_text_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("latin-1.txt");
    std::fs::write(&path, b"caf\xe9").unwrap();
    let error = read(&path).unwrap_err().to_string();
    assert!(error.contains("latin-1.txt (at byte 3): not UTF-8"), "{error}");
    std::fs::write(&path, "\u{feff} \n").unwrap();
    assert!(read(&path).unwrap_err().to_string().contains("no text in it"));
    assert!(matches!(read(folder.path()).unwrap_err(), Error::Text(_)));
    assert!(read(&folder.path().join("nowhere")).unwrap_err().to_string().contains("nowhere"));
    std::fs::write(&path, "\u{feff}text").unwrap();
    assert_eq!(read(&path).unwrap(), TextSource::Text("text".into()));
}

#[test]
fn impossible_options_are_refused() {
    for (wanted, context) in [(0, 512), (1, 0), (1, SHORTEST)] {
        let options = SampleOptions { samples: wanted, context };
        assert!(matches!(samples(&tokenizer(), TextSource::Default, options), Err(Error::Options(_))));
    }
}

#[test]
fn the_hash_tells_samples_apart() {
    let text = |s: &str| take(TextSource::Text(s.repeat(30)), 4, 32);
    let one = text("The old captain walked the deck. ");
    assert_eq!(one.hash(), text("The old captain walked the deck. ").hash());
    assert_ne!(one.hash(), text("The old captain walked the town. ").hash());
    let hash = one.hash();
    assert!(hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit()), "{hash}");
    // where one sequence ends and the next begins counts too
    let with = |sequences: Vec<Vec<u32>>| Samples { sequences, tokens: 3, wanted: 2, dropped: 0 }.hash();
    assert_ne!(with(vec![vec![1], vec![2, 3]]), with(vec![vec![1, 2], vec![3]]));
}
