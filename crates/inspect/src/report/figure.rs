//! Tables, and figures of a chart with its finding and its data.

use maud::{Markup, html};

use super::LETTERS;
use super::charts::Chart;

/// The heading of a column.
#[derive(Clone, Debug)]
pub(super) struct Column {
    name: String,
    number: bool,
}

/// A column of text.
pub(super) fn words(name: impl Into<String>) -> Column {
    Column { name: name.into(), number: false }
}

/// A column of numbers, on the right.
pub(super) fn number(name: impl Into<String>) -> Column {
    Column { name: name.into(), number: true }
}

/// A table that scrolls by itself where it is too wide; the first cell of a row is its heading.
pub(super) fn table(caption: &str, columns: &[Column], rows: &[Vec<String>]) -> Markup {
    let class = |at: usize| columns.get(at).and_then(|c| c.number.then_some("n"));
    scrolled(
        caption,
        html! {
            table {
                caption .unseen { (caption) }
                thead { tr { @for column in columns {
                    th scope="col" class=[column.number.then_some("n")] { (column.name) }
                } } }
                tbody { @for row in rows { tr { @for (at, cell) in row.iter().enumerate() {
                    @if at == 0 { th scope="row" class=[class(at)] { (cell) } }
                    @else { td class=[class(at)] { (cell) } }
                } } } }
            }
        },
    )
}

/// A box that scrolls sideways and can be reached by the keyboard.
pub(super) fn scrolled(name: &str, content: Markup) -> Markup {
    html! { div .scroll role="region" tabindex="0" aria-label={ "Table: " (name) } { (content) } }
}

/// A part that is opened by a click or a key.
pub(super) fn folded(summary: &str, content: Markup) -> Markup {
    html! { details { summary { (summary) } (content) } }
}

/// A chart with its title, what it shows in a sentence, and its data.
pub(super) fn figure(title: &str, finding: &str, chart: Chart, data: Markup) -> Markup {
    html! {
        figure {
            figcaption { h3 { (title) } p { (finding) } }
            (chart.svg)
            (folded(&format!("Data: {title}"), data))
        }
    }
}

/// What a chart is called by screen readers.
pub(super) fn named(title: &str, finding: &str) -> String {
    format!("{title}. {finding}")
}

/// How the models differ in charts besides their colours.
const FORMS: [&str; 2] = ["filled bars, solid lines", "hollow bars, dashed lines"];

/// Which colour and form is which model.
pub(super) fn legend(labels: &[String]) -> Markup {
    html! {
        @if labels.len() > 1 {
            ul .legend {
                @for ((letter, label), form) in LETTERS.iter().zip(labels).zip(FORMS) {
                    li {
                        span class={ "key key-" (letter.to_lowercase()) } aria-hidden="true" {}
                        b { (letter) } " " bdi { (label) } span .form { " (" (form) ")" }
                    }
                }
            }
        }
    }
}

/// A note that something is missing.
pub(super) fn missing(what: &str) -> Markup {
    html! { p .missing { (what) } }
}
