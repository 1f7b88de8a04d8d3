//! Jinja as transformers sets it up for chat templates (`trim_blocks`, `lstrip_blocks`, loop controls, Python's string
//! and dictionary methods, `raise_exception`, `strftime_now`, a `tojson` that does not escape HTML), bounded in time
//! and memory: templates come from files and are not trusted.

use std::any::Any;
use std::cell::Cell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Once, OnceLock};

use jiff::ZonedDateTime;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Rest, Value, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Output, State, UndefinedBehavior};
use minijinja_contrib::globals;

use super::{filters, json, print, python, syntax};

/// Longest template. The longest known have some 30 KB.
pub(super) const MAX_SOURCE: usize = 128 << 10;

/// What one rendering may take, in steps and in pieces of 64 bytes: well below a second, and at most 32 MB of text.
const BASE_FUEL: u64 = 250_000;

/// Address space for the engine's stack. It recurses over expressions and values, whose depth only the source's length
/// and the fuel bound: some 65 thousand levels. Memory is taken only as far as the stack grows.
pub(super) const STACK: usize = 256 << 20;

/// What a rendering of `bytes` of messages may take: each piece of them may be touched 16 times.
pub(super) fn fuel(bytes: usize) -> u64 {
    BASE_FUEL + (bytes as u64 / 4).min(BASE_FUEL)
}

/// What is said of a panic inside the engine.
pub(super) const FAILED: &str = "the template engine failed on it";

thread_local! {
    /// Whether a panic of this thread is reported as an error, and nothing is to be printed.
    static SILENT: Cell<bool> = const { Cell::new(false) };
}

/// Lets threads that render panic without a word; all others do as before.
fn silence() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !SILENT.get() {
                before(info);
            }
        }));
    });
    SILENT.set(true);
}

/// Whether this process does nothing but render, and may be ended by what it renders.
static ALONE: AtomicBool = AtomicBool::new(false);

/// From now on bodies run on the stack of the thread that asks: this process only renders.
pub(super) fn alone() {
    ALONE.store(true, Ordering::Relaxed);
}

/// Runs `body`, on a stack that the engine cannot exhaust unless the template is one of quern's own, or this process
/// only renders and has such a stack. A panic over a template of others is an error.
pub(super) fn run<T: Send>(
    trusted: bool,
    body: impl FnOnce() -> Result<T, Error> + Send,
) -> Result<T, Error> {
    match (trusted, ALONE.load(Ordering::Relaxed)) {
        (true, _) => body(),
        (false, true) => catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| Err(panicked(&*panic))),
        (false, false) => deep(body),
    }
}

/// Runs `body` with a stack that the engine cannot exhaust. A panic is an error.
fn deep<T: Send>(body: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
    let failed = |what: String| Error::new(ErrorKind::InvalidOperation, what);
    let body = || {
        silence();
        body()
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, body);
        let thread = thread.map_err(|e| failed(format!("cannot start a thread to render it: {e}")))?;
        thread.join().unwrap_or_else(|panic| Err(panicked(&*panic)))
    })
}

/// A panic of the engine as an error.
fn panicked(panic: &(dyn Any + Send)) -> Error {
    let words = panic.downcast_ref::<String>().map(String::as_str);
    let words = words.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("for no known reason");
    Error::new(ErrorKind::InvalidOperation, format!("{FAILED}: {words}"))
}

/// The name under which the one template of an environment is kept.
pub(super) const NAME: &str = "chat";

/// An environment with this template in it. `now` is what `strftime_now` says; the system's clock for `None`.
pub(super) fn environment(source: &str, now: Option<ZonedDateTime>) -> Result<Environment<'static>, Error> {
    let mut env = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?;
    env.set_syntax(syntax);
    env.set_undefined_behavior(UndefinedBehavior::Lenient);
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env.set_formatter(python_format);
    env.set_unknown_method_callback(python::method);
    env.add_function(syntax::MODULO, python::modulo);
    env.add_function("dict", filters::dict);
    env.add_function("namespace", filters::namespace);
    env.add_function("range", filters::range);
    env.add_function("joiner", globals::joiner);
    env.add_function("cycler", |items: Rest<Value>| globals::cycler(items.to_vec()));
    env.add_filter("tojson", json::tojson);
    env.add_filter("default", filters::default);
    env.add_filter("d", filters::default);
    env.add_filter("center", filters::center);
    env.add_filter("wordcount", filters::wordcount);
    env.add_filter("escape", filters::escape);
    env.add_filter("e", filters::escape);
    env.add_filter("forceescape", filters::escape);
    // minijinja treats none as an empty list, Python does not; templates test `tools` for this.
    env.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
    // In Python, whatever has a length and can be indexed.
    env.add_test("sequence", |value: &Value| {
        matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::String)
    });
    env.add_test("callable", |value: &Value| value.kind() == ValueKind::Plain);
    env.add_function("raise_exception", |what: String| Err::<Value, _>(refusal(what)));
    // The time is fixed during one rendering.
    let clock = OnceLock::new();
    env.add_function("strftime_now", move |format: String| {
        let now = clock.get_or_init(|| now.clone().unwrap_or_else(ZonedDateTime::now));
        jiff::fmt::strtime::format(&format, now)
            .map_err(|e| Error::new(ErrorKind::InvalidOperation, format!("strftime_now: {e}")))
    });
    env.set_fuel(Some(fuel(0)));
    env.add_template_owned(NAME, syntax::adapted(source).into_owned())?;
    Ok(env)
}

/// Marks the error of `raise_exception`.
#[derive(Debug)]
pub(super) struct Refusal(pub String);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refusal {}

fn refusal(what: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, what.clone()).with_source(Refusal(what))
}

/// Values are printed as Python does. Printing stops as soon as the output is full, however long a list is.
fn python_format(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    match value.as_str() {
        Some(_) => minijinja::escape_formatter(out, state, value),
        None => print::value(out, state, value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str) -> Result<String, Error> {
        let now = "2024-07-05T08:09:10Z"
            .parse::<jiff::Timestamp>()
            .unwrap()
            .to_zoned_datetime(jiff::tz::TimeZone::UTC);
        deep(|| {
            let env = environment(source, Some(now))?;
            let context = minijinja::context! { d => vec![1, 2], s => " aBc ", u => "<é\"&>" };
            env.get_template(NAME)?.render(context)
        })
    }

    #[test]
    fn it_is_the_jinja_of_transformers() {
        // Expected values from jinja2 3.1 with the settings of transformers' chat templates.
        for (source, expected) in [
            ("a\n  {% if true %}\nb\n  {% endif %}\nc\n", "a\nb\nc"),
            ("{{ s.strip() }}{{ s.upper() }}{{ s.split('B')[-1] }}", "aBc ABC c "),
            ("{{ true }}{{ none }}{{ false }}{{ 1.0 }}{{ missing }}", "TrueNoneFalse1.0"),
            (
                "{{ {'a': [1, true, none], 'b': u} | tojson }}",
                "{\"a\": [1, true, null], \"b\": \"<é\\\"&>\"}",
            ),
            ("{{ {'b': [1], 'a': {}} | tojson(indent=2) }}", "{\n  \"b\": [\n    1\n  ],\n  \"a\": {}\n}"),
            ("{% for x in d %}{% if x == 2 %}{% break %}{% endif %}{{ x }}{% endfor %}", "1"),
            (
                "{% set ns = namespace(n=0) %}{% for x in d %}{% set ns.n = ns.n + x %}{% endfor %}{{ ns.n }}",
                "3",
            ),
            ("{% for k, v in {'a': 1}.items() %}{{ k }}{{ v }}{% endfor %}{{ {'a': 1}.get('b', 2) }}", "a12"),
            ("{{ strftime_now('%d %b %Y, %-d %B') }}", "05 Jul 2024, 5 July"),
            (
                "{{ none is iterable }}{{ d is iterable }}{{ s is iterable }}{{ 1 is iterable }}",
                "FalseTrueTrueFalse",
            ),
            ("x\n    {%- generation %}\n y {% endgeneration -%}\n z", "x y z"),
            ("{{ 'generation' }}{% set generation = 1 %}{{ generation }}", "generation1"),
        ] {
            assert_eq!(render(source).unwrap(), expected, "{source}");
        }
    }

    #[test]
    fn work_and_memory_are_bounded() {
        for source in [
            "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
            "{% set ns = namespace(x='x') %}{% for a in range(90) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
            "{{ 'x' * 1000000000 }}",
            "{% for a in range(100000) %}{{ 'x' * 10000 }}{% endfor %}",
            "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
            "{% include 'chat' %}",
            "{{ 'x'.join(range(100000000)) }}",
            "{{ ([1] * 100000000) | tojson }}",
            "{{ ([1] * 100000000) | tojson(sort_keys=true) }}",
            "{{ 'x'.ljust(1000000000) }}",
            "{{ 'x'.zfill(1000000000) }}",
            "{{ 'x' | center(1000000000) }}",
            "{{ '%1000000000d' % 1 }}",
            "{{ '%.1000000000f' % 1.5 }}",
            "{% set ns = namespace(x='%s') %}{% for a in range(90) %}{% set ns.x = (ns.x ~ ns.x) % (ns.x, ns.x) %}{% endfor %}",
        ] {
            assert!(render(source).is_err(), "{source}");
        }
        // Depth: of expressions up to the longest template, and of values up to the fuel's end.
        let fill = |start: &str, part: &str, end: &str| {
            format!("{start}{}{end}", part.repeat((MAX_SOURCE - start.len() - end.len()) / part.len()))
        };
        for source in [
            fill("{{ 1", "+1", " }}"),
            fill("{{ 1", ".a", " }}"),
            fill("{{ s", "|upper", " }}"),
            fill("{{ s", "[0]", " }}"),
            fill("{{ s", "()", " }}"),
            fill("{{ 1", " if 1 else 2", " }}"),
            fill("{% if 1 %}", "{%elif 1%}", "{% endif %}"),
            fill("{{ ", "not ", "1 }}"),
            fill("{{ ", "[", " }}"),
            fill("", "{%if 1%}", ""),
            fill("{{ 1", "<1", " }}"),
            fill("{{ 1", " and 1", " }}"),
            fill("{{ 1", "%1", " }}"),
            fill("{{ ", "+", "1 }}"),
            fill("{{ 1 % ", "(", " }}"),
            fill("{{ 1 % ", "(1%", " }}"),
        ] {
            // Whatever the result is, the process must survive.
            let _ = render(&source);
        }
        let nest =
            "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set ns.x = [ns.x] %}{% endfor %}";
        for end in ["", "{{ ns.x }}", "{{ ns.x | tojson }}", "{{ ns.x == [ns.x] }}", "{{ ns.x in [[1]] }}"] {
            let _ = render(&format!("{nest}{end}"));
        }
        // No file can be reached: templates cannot even name others.
        for source in ["{% include '/etc/passwd' %}", "{% import 'x.jinja' as x %}", "{% extends 'base' %}"] {
            assert_eq!(render(source).unwrap_err().kind(), ErrorKind::SyntaxError, "{source}");
        }
    }
}
