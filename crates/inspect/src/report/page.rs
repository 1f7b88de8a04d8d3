//! The page around the sections: head, theme switch, contents, footer.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::{Report, sections, text};

/// Colours, type and layout.
const STYLE: &str = include_str!("style.css");

/// Nothing may be loaded or run; styles are those of the page itself.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";

/// A part of the page.
pub(super) struct Section {
    /// Where links lead.
    pub id: &'static str,
    /// Its heading.
    pub title: &'static str,
    /// What is in it.
    pub body: Markup,
}

/// The whole page.
pub fn page(report: &Report<'_>) -> String {
    let parts = sections::all(report);
    let title = title(report);
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="generator" content={ "quern " (env!("CARGO_PKG_VERSION")) };
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                a .skip href="#content" { "Skip to the content" }
                header .page {
                    div {
                        h1 { (title) }
                        p .by { "Report of quern inspect" }
                    }
                    (theme())
                }
                nav aria-label="Sections" {
                    ul { @for part in &parts { li { a href={ "#" (part.id) } { (part.title) } } } }
                }
                main #content tabindex="-1" {
                    @for part in &parts {
                        section id=(part.id) aria-labelledby={ "h-" (part.id) } {
                            h2 id={ "h-" (part.id) } { (part.title) }
                            (part.body)
                        }
                    }
                }
                footer .page {
                    p {
                        "Made by quern " (env!("CARGO_PKG_VERSION"))
                        ". The page is complete in itself: it loads nothing and runs no script."
                    }
                }
            }
        }
    };
    page.into_string()
}

/// The switch of themes: three radio buttons, which the style sheet reads.
fn theme() -> Markup {
    let choices = [("auto", "System"), ("light", "Light"), ("dark", "Dark")];
    html! {
        fieldset .theme {
            legend { "Theme" }
            @for (id, name) in choices {
                input type="radio" name="theme" id={ "theme-" (id) } checked[id == "auto"];
                label for={ "theme-" (id) } { (name) }
            }
        }
    }
}

/// The models' names.
fn title(report: &Report<'_>) -> String {
    let labels = report.subjects().iter().map(|s| text::name(s.label)).collect::<Vec<_>>();
    labels.join(" against ")
}
