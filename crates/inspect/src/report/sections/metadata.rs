//! Metadata of the files, and `config.json` of a Hugging Face checkpoint.

use maud::{Markup, html};
use quern_tensor_io::{Container, small};

use super::super::figure::{folded, missing, table, words};
use super::super::page::Section;
use super::super::{LETTERS, Report, Subject, text};
use super::union;

/// Keys that are shown.
const KEYS: usize = 500;
/// Characters of `config.json` that are shown.
const CONFIG: usize = 20_000;

/// One table for the metadata of all models.
pub(super) fn section(report: &Report<'_>) -> Section {
    let subjects = report.subjects();
    let entries: Vec<_> = subjects.iter().map(|s| crate::metadata(s.checkpoint)).collect();
    let mut keys: Vec<&str> = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for entry in entries.iter().flatten() {
        if seen.insert(entry.key.as_str()) {
            keys.push(&entry.key);
        }
    }
    let mut columns = vec![words("key"), words("type")];
    match report.compares() {
        false => columns.push(words("value")),
        true => columns.extend(LETTERS.map(words)),
    }
    let row = |key: &&str| {
        let found: Vec<_> = entries.iter().map(|e| e.iter().find(|entry| entry.key == **key)).collect();
        let kind = found.iter().flatten().next().map_or(String::new(), |e| e.value_type.clone());
        let mut row = vec![text::name(key), kind];
        row.extend(found.iter().map(|e| e.map_or("–".into(), |e| text::long(&e.value, 400))));
        row
    };
    let rows: Vec<Vec<String>> = keys.iter().take(KEYS).map(row).collect();
    let body = html! {
        @if rows.is_empty() { (missing("The files have no metadata of their own.")) } @else {
            @let what = text::counted(keys.len(), "key");
            p { (what) ". Long values are shortened." @if keys.len() > KEYS { " The first " (KEYS) " are shown." } }
            (folded("Metadata", table("Metadata", &columns, &rows)))
        }
        (configurations(&subjects))
    };
    Section { id: "metadata", title: "Metadata", body }
}

fn configurations(subjects: &[Subject<'_>]) -> Markup {
    let texts = union(subjects, |s| configuration(s).into_iter().map(|c| (c, s.label)).collect());
    html! {
        @for (config, label) in texts {
            (folded(
                &format!("config.json of {}", text::name(label)),
                html! {
                    pre tabindex="0" role="region" aria-label={ "config.json of " (text::name(label)) } {
                        (text::long(&config, CONFIG))
                    }
                },
            ))
        }
    }
}

/// The beginning of `config.json`, more than is shown.
fn configuration(subject: &Subject<'_>) -> Option<String> {
    if subject.checkpoint.container() == Container::Gguf {
        return None;
    }
    let bytes = small::start(&subject.checkpoint.directory().join("config.json"), 1 << 20).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}
