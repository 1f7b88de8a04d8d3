//! What a program asks the process that renders a template, and what that answers: one line of JSON each.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{ChatError, Message};

/// Variables of a template by name.
pub(super) type Variables = BTreeMap<String, serde_json::Value>;

/// Longest description of a failure, in characters. Templates write some themselves.
const MAX_WORDS: usize = 1000;

/// A request. The first one to a process is [`Request::Compile`].
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request<'a> {
    /// Takes this template from now on.
    Compile {
        /// The template.
        source: Cow<'a, str>,
        /// The time to show it, if not the clock's.
        now: Option<Cow<'a, str>>,
    },
    /// Renders messages as they are.
    Render { variables: Cow<'a, Variables>, messages: Cow<'a, [Message]> },
    /// Renders a conversation, with a system prompt where the template has a place for it.
    Converse { variables: Cow<'a, Variables>, system: Option<Cow<'a, str>>, messages: Cow<'a, [Message]> },
}

/// The answer to a request.
pub(super) type Answer = Result<Rendered, Failure>;

/// A rendered conversation. Nothing is rendered for [`Request::Compile`].
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Rendered {
    pub text: String,
    pub system_moved: bool,
    pub left_out: Vec<Message>,
}

/// Why a template could not be rendered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Failure {
    /// Line of the template, from 1 on, if known.
    pub line: Option<usize>,
    /// What is wrong.
    pub what: String,
    /// Whether the template itself refuses the messages, in these words.
    pub refused: bool,
}

impl Failure {
    /// A failure that belongs to no line.
    pub(super) fn new(what: impl Into<String>) -> Self {
        Self { line: None, what: what.into(), refused: false }.shortened()
    }

    /// With a description of bounded length.
    pub(super) fn shortened(mut self) -> Self {
        if let Some((at, _)) = self.what.char_indices().nth(MAX_WORDS) {
            self.what.truncate(at);
            self.what.push('…');
        }
        self
    }

    /// As an error about the template of this origin.
    pub(super) fn of(self, template: &str) -> ChatError {
        let (template, Self { line, what, refused }) = (template.to_owned(), self);
        match refused {
            true => ChatError::Refused { template, line, what },
            false => ChatError::Template { template, line, what },
        }
    }
}
