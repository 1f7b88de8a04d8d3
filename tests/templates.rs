//! Chat templates that would hang, take all memory or break the engine: an error in time, and nothing else.

use std::time::{Duration, Instant};

use crate::common::{command, failure, fixture, quern, stdout, tiny_copy};

/// Runs `quern run --chat` with a template. The error must come in time and in one line.
fn refused(name: &str, source: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join(name);
    std::fs::write(&file, source).unwrap();
    let started = Instant::now();
    let model = fixture("architectures/qwen2");
    let output = quern([
        "run".as_ref(),
        model.as_os_str(),
        "--chat".as_ref(),
        "--chat-template".as_ref(),
        file.as_os_str(),
        "-p".as_ref(),
        "Hello".as_ref(),
    ]);
    let text = failure(&output);
    // The deadline is 6 s; the rest is for a busy machine.
    assert!(started.elapsed() < Duration::from_secs(30), "{name}: {:?}", started.elapsed());
    assert_eq!((text.lines().count(), stdout_of(&output).as_str()), (1, ""), "{name}: {text}");
    assert!(text.contains(name), "{name}: {text}");
    text
}

fn stdout_of(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Lists that contain a list twice, sixty levels deep: small in memory, endless to walk.
const SHARED: &str = "{% set ns = namespace(x=[1], y=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}\
                      {% set ns.y = [ns.y, ns.y] %}{% endfor %}";

#[test]
fn walks_without_end_are_ended() {
    let shared = |end: &str| format!("{SHARED}{end}");
    let text = refused("compare.jinja", &shared("{{ ns.x == ns.y }}"));
    assert!(text.contains("it takes longer than"), "{text}");
    for (name, end) in [
        ("print.jinja", "{{ ns.x }}"),
        ("json.jinja", "{{ ns.x | tojson }}"),
        ("string.jinja", "{{ ns.x | string | length }}"),
        ("method.jinja", "{{ ns.x.foo() }}"),
    ] {
        refused(name, &shared(end));
    }
}

#[test]
fn memory_and_depth_are_bounded() {
    for (name, source) in [
        ("text.jinja", "{% for a in range(99999) %}{{ 'x' * 5000 }}{% endfor %}"),
        ("bytes.jinja", "{% for a in range(999) %}{{ 'x' * 3000 }}{% endfor %}"),
        ("range.jinja", "{{ range(-9223372036854775807, 9223372036854775807, 1) | length }}"),
        ("step.jinja", "{{ range(9223372036854775807, -9223372036854775807, -1) | list }}"),
    ] {
        refused(name, source);
    }
    // Whether the engine takes it is not for quern to say, only that it ends.
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("deep.jinja");
    std::fs::write(&file, format!("{{{{ 1{} }}}}", "+1".repeat(60_000))).unwrap();
    let model = fixture("architectures/qwen2");
    let mut command = command();
    command.arg("run").arg(model).args(["--chat", "-p", "x", "-n", "1", "--chat-template"]).arg(file);
    let output = command.output().unwrap();
    assert!(matches!(output.status.code(), Some(0 | 1)), "{output:?}");
}

#[test]
fn a_panic_of_the_engine_is_an_error_without_a_trace() {
    let text = refused("cycle.jinja", "{% for x in [1] %}{{ loop.cycle() }}{% endfor %}");
    assert!(text.contains("the template engine failed"), "{text}");
}

#[test]
fn the_template_of_a_model_is_no_exception() {
    let dir = tiny_copy("qwen2");
    let config = std::fs::read_to_string(dir.path().join("tokenizer_config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
    config["chat_template"] = format!("{SHARED}{{{{ [ns.x, ns.y] | sort }}}}").into();
    std::fs::write(dir.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    let model = dir.path().to_str().unwrap();
    let text = failure(&quern(["run", model, "--chat", "-p", "Hello"]));
    assert!(text.contains("chat template of") && text.lines().count() == 1, "{text}");
    // What only reads the model does not render.
    stdout(&quern(["inspect", model, "--metadata"]));
}

#[test]
fn the_hidden_argument_alone_starts_nothing() {
    let output = quern(["render-chat-templates"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    // With its variable, it reads requests until there are none.
    let mut command = command();
    let output = command.arg("render-chat-templates").env("QUERN_TEMPLATE_WORKER", "1").output().unwrap();
    assert_eq!((output.status.code(), stdout_of(&output).as_str()), (Some(0), ""), "{output:?}");
}
