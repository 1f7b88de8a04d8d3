//! The process that renders templates which are not trusted: the program itself, started again with a hidden first
//! argument. It limits its own memory and time, reads requests from standard input and writes answers to standard
//! output, one line each, until its input ends. Whatever a template does to it, the program that asked can end it.

use std::io::{self, BufRead, Write};
use std::process::ExitCode;

use super::compiled::Compiled;
use super::request::{Answer, Failure, Rendered, Request};
use super::{engine, process};

/// The first argument of the process.
pub(super) const ARGUMENT: &str = "render-chat-templates";

/// A variable of its environment, set to 1, so that nobody starts it by an argument alone.
pub(super) const VARIABLE: &str = "QUERN_TEMPLATE_WORKER";

/// To be called first in `main` of a program that renders chat templates of models. In the process that was started to
/// render, it does so and returns the exit code of that process. Elsewhere it returns `None`, and from then on
/// templates are rendered in such a process. A program that does not call it renders in its own process, where a
/// hostile template may take long.
#[must_use]
pub fn enter() -> Option<ExitCode> {
    let asked = std::env::var_os(VARIABLE).is_some_and(|value| value == "1")
        && std::env::args_os().nth(1).is_some_and(|argument| argument == ARGUMENT);
    if !asked {
        process::register();
        return None;
    }
    // A panic of the engine is an answer; nobody is to see its trace.
    std::panic::set_hook(Box::new(|_| {}));
    engine::alone();
    Some(if serve(io::stdin().lock(), io::stdout().lock()).is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Answers requests until there are no more.
fn serve(mut requests: impl BufRead, mut answers: impl Write) -> io::Result<()> {
    let mut template = None;
    let mut line = Vec::new();
    let base = limits::begin();
    while requests.read_until(b'\n', &mut line)? > 0 {
        limits::renew(base, line.len());
        let request: Request<'_> = serde_json::from_slice(&line)?;
        let mut answer = serde_json::to_vec(&answered(&mut template, &request))?;
        answer.push(b'\n');
        answers.write_all(&answer)?;
        answers.flush()?;
        line.clear();
    }
    Ok(())
}

fn answered(template: &mut Option<Compiled>, request: &Request<'_>) -> Answer {
    match (request, template) {
        (Request::Compile { source, now }, template) => {
            *template = Some(Compiled::new(source, now.as_deref())?);
            Ok(Rendered::default())
        }
        (Request::Render { .. } | Request::Converse { .. }, Some(template)) => rendered(template, request),
        (Request::Render { .. } | Request::Converse { .. }, None) => {
            Err(Failure::new("there is no template to render"))
        }
    }
}

/// What a template makes of a request; it is compiled already.
pub(super) fn rendered(template: &mut Compiled, request: &Request<'_>) -> Answer {
    match request {
        Request::Compile { .. } => Ok(Rendered::default()),
        Request::Render { variables, messages } => {
            template.show(variables);
            Ok(Rendered { text: template.render(messages)?, ..Rendered::default() })
        }
        Request::Converse { variables, system, messages } => {
            template.show(variables);
            template.converse(system.as_deref(), messages)
        }
    }
}

/// What the process may take.
#[cfg(unix)]
mod limits {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    use rustix::time::{ClockId, clock_gettime};

    use super::super::{engine, process};

    /// Memory for the engine's values and texts.
    const HEAP: u64 = 64 << 20;

    /// No core file is left behind, and the stack may grow. Returns the address space that is in use now, if known.
    pub(super) fn begin() -> Option<u64> {
        let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
        limit(Resource::Stack, engine::STACK as u64);
        let pages = std::fs::read_to_string("/proc/self/statm").ok()?;
        let pages: u64 = pages.split(' ').next()?.parse().ok()?;
        Some(pages * rustix::param::page_size() as u64)
    }

    /// Bounds for the answer to a request of so many bytes.
    pub(super) fn renew(base: Option<u64>, bytes: usize) {
        if let Some(base) = base {
            // The request is there as a line, as messages, and once more in each of the texts made of it.
            limit(Resource::As, base + engine::STACK as u64 + HEAP + 32 * bytes as u64);
        }
        let used = clock_gettime(ClockId::ProcessCPUTime).tv_sec.max(0) as u64;
        limit(Resource::Cpu, used + 1 + process::TIME.as_secs() / 2);
    }

    /// Sets the soft limit; the hard one, which may be lower, stays. Where that fails, the deadline of the program
    /// that asked remains.
    fn limit(resource: Resource, limit: u64) {
        let Rlimit { maximum, .. } = getrlimit(resource);
        let current = Some(maximum.map_or(limit, |maximum| maximum.min(limit)));
        let _ = setrlimit(resource, Rlimit { current, maximum });
    }
}

#[cfg(not(unix))]
mod limits {
    pub(super) fn begin() -> Option<u64> {
        None
    }

    pub(super) fn renew(_: Option<u64>, _: usize) {}
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::super::Message;
    use super::*;

    #[test]
    fn requests_are_answered_in_order() {
        let variables = || Cow::Owned([("x".to_owned(), serde_json::json!("é\n"))].into());
        let messages = || Cow::Owned(vec![Message::new("user", "U\n")]);
        let compile = |source: &'static str| Request::Compile { source: source.into(), now: None };
        let requests = [
            Request::Render { variables: variables(), messages: messages() },
            compile("{{ 1"),
            compile("{{ x }}{% for m in messages %}{{ m.role[0] }}{{ m.content }}{% endfor %}"),
            Request::Render { variables: variables(), messages: messages() },
            Request::Converse { variables: variables(), system: Some("S".into()), messages: messages() },
            compile("{% for x in [1] %}{{ loop.cycle() }}{% endfor %}"),
            Request::Render { variables: variables(), messages: messages() },
        ];
        let mut answers: Vec<Answer> = Vec::new();
        let mut template = None;
        for request in &requests {
            // As they come through the pipes.
            let line = serde_json::to_vec(request).unwrap();
            assert!(!line.contains(&b'\n'));
            let answer = answered(&mut template, &serde_json::from_slice(&line).unwrap());
            answers.push(serde_json::from_slice(&serde_json::to_vec(&answer).unwrap()).unwrap());
        }
        let texts: Vec<_> = answers.iter().map(|a| a.as_ref().map(|r| r.text.as_str()).ok()).collect();
        let expected = [None, None, Some(""), Some("é\nuU\n"), Some("é\nsSuU\n"), Some(""), None];
        assert_eq!(texts, expected);
        assert_eq!(answers[1].as_ref().unwrap_err().line, Some(1));
        let failed = &answers[6].as_ref().unwrap_err().what;
        assert!(failed.contains(super::super::engine::FAILED), "{failed}");
    }
}
