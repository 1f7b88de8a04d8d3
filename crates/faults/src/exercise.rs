//! What is done with an input: everything that the commands do with a model that they only read.

use std::path::Path;
use std::sync::Arc;

use quern_model::card::FrontMatter;
use quern_model::chat::{ChatTemplate, Message};
use quern_model::pattern::NamePattern;
use quern_model::provenance::Provenance;
use quern_model::{Contents, EncodeOptions, Packed, Tokenizer, View, identify};
use quern_quantize::imatrix::Imatrix;
use quern_run::{LoadOptions, Model, SessionOptions, Wanted};
use quern_tensor_io::{Checkpoint, NoProgress, decode};

/// What an input came to: nothing, or the first error.
pub type Outcome = Result<(), String>;

/// Text with what tokenizers treat specially: spaces, digits, two scripts, an accent in two spellings, an emoji, a
/// special token, a byte that is no character on its own.
pub const TEXT: &str = "Hello  world, it's 2026:\n\tGrüße, e\u{301}t\u{e9}  \u{1f600}foo oooooooooooooooooooooooooooooo <s></s>\
                        <|endoftext|> \u{2581}\u{0}\u{feff}漢字かな 1234567890";

/// Opens a checkpoint and does with it what inspect, check, convert, run and chat would.
pub fn checkpoint(path: &Path) -> Outcome {
    let _ = identify::of_folder(path);
    let checkpoint = identify::open_any(path).map_err(text)?;
    let summary = quern_inspect::summarize(&checkpoint);
    serde_json::to_string(&summary).map_err(text)?;
    quern_inspect::metadata(&checkpoint);
    let found = quern_inspect::check(&checkpoint, &NoProgress);
    let mut outcome = match found.findings.first() {
        Some(finding) => Err(finding.problem.clone()),
        None => Ok(()),
    };
    let mut keep = |result: Outcome| {
        if outcome.is_ok() {
            outcome = result;
        }
    };
    keep(views(&checkpoint));
    Provenance::of(&checkpoint);
    FrontMatter::of(&checkpoint);
    keep(tokenizer(&checkpoint));
    keep(forward(path));
    outcome
}

/// The files beside the tensors: configuration, tokenizer, template, card. No tensor is read.
pub fn settings(path: &Path) -> Outcome {
    let checkpoint = identify::open_any(path).map_err(text)?;
    quern_inspect::summarize(&checkpoint);
    Provenance::of(&checkpoint);
    FrontMatter::of(&checkpoint);
    let contents = Contents::read(&checkpoint).map_err(text);
    let tokenizer = tokenizer(&checkpoint);
    contents.and_then(|contents| contents.require_sound().map_err(text)).and(tokenizer)
}

/// The tensors alone, which need not be a whole model: all of them are decoded.
pub fn tensors(path: &Path) -> Outcome {
    let checkpoint = identify::open_any(path).map_err(text)?;
    quern_inspect::summarize(&checkpoint);
    quern_inspect::check(&checkpoint, &NoProgress);
    let contents = || Contents::read(&checkpoint);
    let views = match contents() {
        Ok(found) => vec![
            Ok(View::everything(found)),
            contents().and_then(|found| View::everything_as_gguf(found, Packed::Decoded)),
            contents().and_then(|found| View::everything_as_gguf(found, Packed::Exact)),
        ],
        // No configuration: the tensors as they are.
        Err(_) => {
            for info in checkpoint.tensors().iter().filter(|info| info.elements() <= 1 << 16) {
                let mut values = vec![0.0; info.elements()];
                let known = decode::to_f32(info.element_type, checkpoint.data(info), &mut values);
                if decode::can_decode(info.element_type) && !known {
                    return Err(format!("{} has another length than its shape", info.name));
                }
            }
            return Ok(());
        }
    };
    let mut outcome = Err("nothing can be read of it".to_owned());
    for view in views {
        match view {
            Ok(view) => {
                rows(&view);
                outcome = Ok(());
            }
            Err(e) if outcome.is_err() => outcome = Err(text(e)),
            Err(_) => {}
        }
    }
    outcome
}

/// An importance matrix.
pub fn imatrix(path: &Path) -> Outcome {
    let imatrix = Imatrix::open(path).map_err(text)?;
    for name in imatrix.names() {
        let values = imatrix.get(name).ok_or("a name without values")?;
        if values.iter().any(|v| !v.is_finite() || *v < 0.0) {
            return Err(format!("{name} has values that are no mean squares"));
        }
    }
    Ok(())
}

/// Expressions over names, one on each line.
pub fn patterns(path: &Path) -> Outcome {
    let bytes = std::fs::read(path).map_err(text)?;
    let names =
        ["blk.0.attn_q.weight", "model.layers.11.self_attn.k_proj.weight", &"a".repeat(200), "\u{e9}\n", ""];
    let mut outcome = Ok(());
    for line in String::from_utf8_lossy(&bytes).lines().take(20) {
        let made =
            [NamePattern::new(line), NamePattern::ignoring_case(line), NamePattern::from_start(line, "$")];
        for pattern in made {
            match pattern {
                Ok(pattern) => names.iter().for_each(|name| {
                    pattern.is_match(name);
                }),
                Err(e) => outcome = Err(text(e)),
            }
        }
    }
    outcome
}

/// The views under both namings, each tensor's first and last row decoded.
fn views(checkpoint: &Checkpoint) -> Outcome {
    let (first, second, third) = (
        View::gguf(checkpoint, Packed::Decoded),
        View::hugging_face(checkpoint, Packed::Decoded),
        View::stored(checkpoint),
    );
    let mut outcome = Ok(());
    for view in [first, second, third] {
        match view {
            Ok(view) => rows(&view),
            Err(e) => outcome = Err(text(e)),
        }
    }
    outcome
}

/// Each tensor's first and last row, decoded.
fn rows(view: &View<'_>) {
    for (at, tensor) in view.tensors().iter().enumerate() {
        let (rows, columns) = (tensor.rows(), tensor.columns());
        if rows == 0 || columns == 0 || columns > 1 << 16 {
            continue;
        }
        let mut row = vec![0.0; columns];
        view.decode(at, 0..1, &mut row);
        view.decode(at, rows - 1..rows, &mut row);
    }
}

/// The tokenizer encodes and decodes, and the model's own chat template writes a prompt.
fn tokenizer(checkpoint: &Checkpoint) -> Outcome {
    let tokenizer = Tokenizer::from_checkpoint(checkpoint).map_err(text)?;
    for (add_special, parse_special) in [(true, false), (false, true)] {
        let tokens = tokenizer.encode(TEXT, EncodeOptions { add_special, parse_special }).map_err(text)?;
        tokenizer.decode(&tokens);
    }
    tokenizer.decode(&[0, 1, 2, 3, 255, 300, 70_000, u32::MAX]);
    // A model without a template gets one of quern's.
    let own = tokenizer.chat_templates().is_empty();
    let choice = own.then_some("chatml");
    let template = ChatTemplate::choose(checkpoint.path(), &tokenizer, choice).map_err(text)?;
    let messages = [Message::new("user", TEXT), Message::new("assistant", "A"), Message::new("user", "?")];
    template.prompt(&tokenizer, Some("system"), &messages).map_err(text)?;
    Ok(())
}

/// Two tokens through the model.
fn forward(path: &Path) -> Outcome {
    let checkpoint = identify::open(path).map_err(text)?;
    let options = LoadOptions { threads: 1, ..LoadOptions::default() };
    let model = Model::load(Arc::new(checkpoint), options).map_err(text)?;
    let options = SessionOptions { context: 8, ..SessionOptions::default() };
    let mut session = model.session(options).map_err(text)?;
    let vocabulary = model.vocabulary() as u32;
    let tokens = [1.min(vocabulary.saturating_sub(1)), vocabulary.saturating_sub(1)];
    session.forward(&tokens, Wanted::Last).map_err(text)?;
    Ok(())
}

/// An error in words, as the terminal has it.
pub fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
