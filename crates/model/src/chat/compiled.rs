//! A template in the engine of this process: messages are rendered, and what the template makes of each role is found
//! out.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use jiff::ZonedDateTime;
use minijinja::{Environment, ErrorKind, Value};

use super::probe::{self, Form};
use super::request::{Failure, Rendered, Variables};
use super::{Message, engine};

/// The result type of the engine.
pub(super) type Result<T, E = Failure> = std::result::Result<T, E>;

/// Text that a template may make of nothing; the longest known make less than a tenth of it.
const BASE_TEXT: usize = 1 << 20;

/// A template, ready to render.
#[derive(Debug)]
pub(super) struct Compiled {
    env: Environment<'static>,
    variables: Variables,
    /// Whether it comes with quern.
    trusted: bool,
    /// How content is taken by role, where not as text. Found out when it is first asked for.
    forms: OnceLock<BTreeMap<String, Form>>,
}

impl Compiled {
    /// A template that comes with quern.
    pub(super) fn trusted(source: &str) -> Result<Self> {
        Self::with_trust(source, None, true)
    }

    /// A template from its source; `now` is the time it is shown, if not the clock's.
    pub(super) fn new(source: &str, now: Option<&str>) -> Result<Self> {
        Self::with_trust(source, now, false)
    }

    fn with_trust(source: &str, now: Option<&str>, trusted: bool) -> Result<Self> {
        let parsed = |now: &str| now.parse::<jiff::Timestamp>().map_err(|e| Failure::new(e.to_string()));
        let zoned =
            |now: jiff::Timestamp| -> ZonedDateTime { now.to_zoned_datetime(jiff::tz::TimeZone::UTC) };
        let now = now.map(parsed).transpose()?.map(zoned);
        let env = engine::run(trusted, || engine::environment(source, now)).map_err(|e| failure(&e))?;
        Ok(Self { env, variables: Variables::new(), trusted, forms: OnceLock::new() })
    }

    /// Shows the template these variables from now on.
    pub(super) fn show(&mut self, variables: &Variables) {
        if self.variables != *variables {
            self.variables = variables.clone();
            self.forms = OnceLock::new();
        }
    }

    /// The text of a conversation; a system prompt that the template refuses or ignores goes in front of the first
    /// message.
    pub(super) fn converse(&self, system: Option<&str>, messages: &[Message]) -> Result<Rendered> {
        let Some(system) = system.filter(|text| !text.is_empty()) else {
            return self.rendered(messages, false);
        };
        let mut all = vec![Message::new("system", system)];
        all.extend_from_slice(messages);
        let refused = match self.rendered(&all, false) {
            // A system prompt that leaves no trace in the text was ignored.
            Ok(rendered)
                if rendered.left_out.first() != all.first()
                    && self.render(messages).ok().as_ref() != Some(&rendered.text) =>
            {
                return Ok(rendered);
            }
            Ok(_) => None,
            Err(failure) if failure.refused => Some(failure),
            Err(other) => return Err(other),
        };
        let lost = all.remove(0);
        match (all.first_mut().filter(|first| first.role == "user"), refused) {
            (Some(first), _) => first.content = format!("{system}\n\n{}", first.content),
            (None, Some(failure)) => return Err(failure),
            (None, None) => {
                let mut rendered = self.rendered(messages, false)?;
                rendered.left_out.insert(0, lost);
                return Ok(rendered);
            }
        }
        self.rendered(&all, true)
    }

    fn rendered(&self, messages: &[Message], system_moved: bool) -> Result<Rendered> {
        let text = self.render(messages)?;
        // A template that fails on marked messages has accepted the real ones: no problem is known.
        let left_out = self.left_out(messages).unwrap_or_default();
        let left_out = left_out.into_iter().map(|at| messages[at].clone()).collect();
        Ok(Rendered { text, system_moved, left_out })
    }

    /// The text of these messages, ready for the next answer.
    pub(super) fn render(&self, messages: &[Message]) -> Result<String> {
        let forms = self.forms.get_or_init(|| self.forms());
        let object = |message: &Message| {
            let form = forms.get(&message.role).copied().unwrap_or(Form::Text);
            serde_json::json!({ "role": message.role, "content": probe::content(form, &message.content) })
        };
        let objects: Vec<_> = messages.iter().map(object).collect();
        self.render_objects(&objects, messages.iter().map(|m| m.content.len()).sum())
    }

    /// As [`Compiled::render`], for messages as passed to the template, with their bytes of content.
    pub(super) fn render_objects(&self, messages: &[serde_json::Value], bytes: usize) -> Result<String> {
        let mut env = self.env.clone();
        env.set_fuel(Some(engine::fuel(bytes)));
        let shown = |(name, value): (&String, &serde_json::Value)| {
            (name.clone(), Value::from(minijinja::value::Serde(value)))
        };
        let mut context: BTreeMap<_, _> = self.variables.iter().map(shown).collect();
        context.insert("messages".to_owned(), Value::from(minijinja::value::Serde(messages)));
        let rendered =
            engine::run(self.trusted, || env.get_template(engine::NAME)?.render(Value::from(context)));
        let text = rendered.map_err(|e| failure(&e))?;
        let most = BASE_TEXT + 4 * bytes + 64 * messages.len();
        match text.len() <= most {
            true => Ok(text),
            false => Err(Failure::new(format!(
                "it makes {} bytes of text of {bytes} bytes of messages, at most {most} are taken",
                text.len()
            ))),
        }
    }
}

/// An error of the template engine with its place, and the template's own words if it raised it.
fn failure(e: &minijinja::Error) -> Failure {
    let line = e.line();
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(e);
    while let Some(inner) = cause {
        if let Some(refusal) = inner.downcast_ref::<engine::Refusal>() {
            let line = line.or_else(|| inner.downcast_ref::<minijinja::Error>().and_then(|e| e.line()));
            return Failure { line, what: refusal.0.clone(), refused: true }.shortened();
        }
        cause = inner.source();
    }
    let what = match (e.kind(), e.detail()) {
        (ErrorKind::OutOfFuel, _) => "it takes too long or makes too much text".to_owned(),
        (kind, Some(detail)) => format!("{kind}: {detail}"),
        (kind, None) => kind.to_string(),
    };
    Failure { line, what, refused: false }.shortened()
}
