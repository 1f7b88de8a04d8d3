//! Kind, vocabulary and special tokens of the tokenizer; the chat template.

use maud::{Markup, html};

use super::super::figure::{folded, missing, table, words};
use super::super::page::Section;
use super::super::{LETTERS, Report, Subject, text};

/// Characters of a template that are shown.
const TEMPLATE: usize = 20_000;

/// The tokenizer of each model.
pub(super) fn section(report: &Report<'_>) -> Section {
    let subjects = report.subjects();
    let same = match subjects.as_slice() {
        [a, b] if a.summary.chat_template.is_some() || b.summary.chat_template.is_some() => {
            Some(a.summary.chat_template == b.summary.chat_template)
        }
        _ => None,
    };
    let body = html! {
        div class=[report.compares().then_some("pair")] {
            @for (letter, subject) in LETTERS.iter().zip(&subjects) { div {
                @if report.compares() { h3 { (letter) } }
                (one(subject, report.compares().then_some(*letter)))
            } }
        }
        @if let Some(same) = same {
            p { "The chat templates of A and B are " (if same { "the same" } else { "not the same" }) "." }
        }
    };
    Section { id: "tokenizer", title: "Tokenizer", body }
}

fn one(subject: &Subject<'_>, letter: Option<&str>) -> Markup {
    let whose = letter.map(|letter| format!(" of {letter}")).unwrap_or_default();
    html! {
        @match &subject.summary.tokenizer {
            None => (missing("No tokenizer that quern can read.")),
            Some(t) => {
                @let begins = if t.add_bos { "; prompts begin with bos" } else { "" };
                p {
                    (text::name(&t.kind)) ", " (text::counted(t.vocab_size, "token")) ", "
                    (text::counted(t.control_tokens, "control token")) (begins) "."
                }
                @let rows: Vec<Vec<String>> = t
                    .special
                    .iter()
                    .map(|(name, (id, piece))| vec![(*name).to_owned(), id.to_string(), text::name(piece)])
                    .collect();
                @if !rows.is_empty() {
                    (table(
                        &format!("Special tokens{whose}"),
                        &[words("special token"), words("id"), words("text")],
                        &rows,
                    ))
                }
            }
        }
        @match &subject.summary.chat_template {
            None => p { "No chat template." },
            Some(template) => (folded(
                &format!("Chat template{whose} ({} characters)", text::grouped(template.chars().count() as u64)),
                html! {
                    pre tabindex="0" aria-label={ "Chat template" (whose) } role="region" {
                        (text::long(template, TEMPLATE))
                    }
                },
            )),
        }
    }
}
