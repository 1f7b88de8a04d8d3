//! How a template treats messages, found out by rendering marked ones: whether it takes the content of a role as a
//! text or as a list of parts, and which roles' content it leaves out.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::Message;
use super::compiled::{Compiled, Result};

/// The roles that are tried, each with a conversation that contains it: the marked message is last, except for the
/// user's turn that templates expect at the end.
const CONVERSATIONS: [(&str, &[&str]); 3] =
    [("user", &["user"]), ("system", &["system", "user"]), ("assistant", &["user", "assistant", "user"])];

/// How a template takes the content of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// As a text.
    Text,
    /// As a list of parts, `[{"type": "text", "text": …}]`, like models that also take pictures.
    Parts,
}

/// Content in this form.
pub(super) fn content(form: Form, text: &str) -> Value {
    match form {
        Form::Text => json!(text),
        Form::Parts => json!([{ "type": "text", "text": text }]),
    }
}

/// A word that no template contains, and that remains recognisable when its case changes.
fn mark(number: usize) -> String {
    format!("zqmark{number}qz")
}

fn has_mark(rendered: &str, number: usize) -> bool {
    rendered.to_lowercase().contains(&mark(number))
}

impl Compiled {
    /// How each role's content is taken, where not as text: as a text it is lost, or the template fails, and as parts
    /// it is there. llama.cpp decides so too. A template that takes both gets texts.
    pub(super) fn forms(&self) -> BTreeMap<String, Form> {
        let mut forms = BTreeMap::new();
        for (role, conversation) in CONVERSATIONS {
            let keeps = |form: Form| {
                let form_of = |other: &str| match other == role {
                    true => form,
                    false => forms.get(other).copied().unwrap_or(Form::Text),
                };
                let message = |(at, other): (usize, &&str)| {
                    let text = if *other == role { mark(at) } else { "text".to_owned() };
                    json!({ "role": other, "content": content(form_of(other), &text) })
                };
                let marked = conversation.iter().position(|other| *other == role).unwrap_or(0);
                let messages: Vec<Value> = conversation.iter().enumerate().map(message).collect();
                // A list that is printed literally contains the mark too, but is not valid input for the model.
                let printed = |text: &str| text.contains("'type'") || text.contains("\"type\"");
                self.render_objects(&messages, 0)
                    .is_ok_and(|text| has_mark(&text, marked) && !(form == Form::Parts && printed(&text)))
            };
            if !keeps(Form::Text) && keeps(Form::Parts) {
                forms.insert(role.to_owned(), Form::Parts);
            }
        }
        forms
    }

    /// Indices of the messages of which the template leaves out some content, found by adding marks to each: at its
    /// end and, except for answers, whose reasoning templates remove, at its beginning.
    ///
    /// # Errors
    /// The template fails or refuses the marked messages.
    pub(super) fn left_out(&self, messages: &[Message]) -> Result<Vec<usize>> {
        let marks_beginning = |message: &Message| message.role != "assistant";
        let marked = |(at, message): (usize, &Message)| {
            let content = format!("{} {}", message.content, mark(2 * at));
            let content = match marks_beginning(message) {
                true => format!("{} {content}", mark(2 * at + 1)),
                false => content,
            };
            Message::new(&message.role, content)
        };
        let rendered = self.render(&messages.iter().enumerate().map(marked).collect::<Vec<_>>())?;
        let is_lost = |(at, message): &(usize, &Message)| {
            let kept =
                has_mark(&rendered, 2 * at) && (!marks_beginning(message) || has_mark(&rendered, 2 * at + 1));
            !kept && !message.content.trim().is_empty()
        };
        Ok(messages.iter().enumerate().filter(is_lost).map(|(at, _)| at).collect())
    }
}
