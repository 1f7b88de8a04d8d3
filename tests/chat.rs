//! `quern run --chat`: one turn, piped lines, and a conversation on a (pseudo) terminal.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::Value;

use crate::common::{command, failure, fixture, quern, stderr, stdout};
use crate::run::{quern_reading, usage};

fn qwen() -> String {
    fixture("architectures/qwen2").display().to_string()
}

fn bookworm() -> String {
    fixture("bookworm-4m").display().to_string()
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

#[test]
fn one_turn_is_the_template_around_the_prompt() {
    let model = qwen();
    let end = ["-n", "6", "--temp", "0", "--ignore-eos", "--json"];
    let run = |args: &[&str]| json(&stdout(&quern([&["run", &model], args, &end].concat())));
    let chat = run(&["--chat", "-p", "Hello", "--system", "Be brief."]);
    // The same as plain text, whose special tokens -p does not parse: a template that is nothing but the prompt.
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("whole.jinja");
    std::fs::write(&file, "{{ messages[0].content }}").unwrap();
    let file = file.display().to_string();
    let whole =
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n";
    let plain = run(&["--chat", "--chat-template", &file, "-p", whole]);
    assert_eq!((&chat["tokens"], &chat["prompt_tokens"]), (&plain["tokens"], &plain["prompt_tokens"]));
    assert_ne!(run(&["--chat", "-p", "Hello"])["prompt_tokens"], chat["prompt_tokens"]);
    // The prompt is not part of what is printed.
    let output = quern(["run", &model, "--chat", "-p", "Hello", "-n", "6", "--temp", "0"]);
    assert!(!stdout(&output).contains("Hello"), "{}", stdout(&output));
    // Variables reach the template.
    std::fs::write(&file, "{{ messages[0].content }}{% if loud %} loud{% endif %}").unwrap();
    let loud = ["--chat", "--chat-template", &file, "--chat-template-kwargs", "{\"loud\": true}", "-p", "so"];
    let same = ["--chat", "--chat-template", &file, "-p", "so loud"];
    assert_eq!(run(&loud)["tokens"], run(&same)["tokens"]);
}

#[test]
fn each_line_of_standard_input_is_a_turn() {
    let model = qwen();
    let args = ["run", &model, "--chat", "-n", "5", "--temp", "0", "--ignore-eos"];
    let lines = "First\n\nSecond\nThird";
    let output = quern_reading(lines, &[&args[..], &["--json"]].concat());
    let turns: Vec<Value> = stdout(&output).lines().map(json).collect();
    assert_eq!(turns.len(), 3, "an empty line is no turn");
    let count = |turn: usize, key: &str| turns[turn][key].as_u64().unwrap();
    for turn in 1..3 {
        assert!(count(turn, "prompt_tokens") > count(turn - 1, "prompt_tokens"), "the conversation grows");
        // The earlier turns are cached already: prompt and answer of the turn before, all but the last token.
        let before = count(turn - 1, "prompt_tokens");
        assert!(count(turn, "prompt_tokens_reused") >= before, "{turns:?}");
    }
    // Turn by turn the text is what one turn alone gives.
    let text = stdout(&quern_reading(lines, &[&args[..], &["--raw"]].concat()));
    let answers: String = turns.iter().map(|t| t["text"].as_str().unwrap().to_owned() + "\n").collect();
    assert_eq!(text, answers);
    let single = quern([&args[..], &["-p", "First", "--json"]].concat());
    assert_eq!(json(&stdout(&single))["tokens"], turns[0]["tokens"]);
}

#[test]
fn models_without_a_template_need_one_named() {
    let model = bookworm();
    let text = failure(&quern(["run", &model, "--chat", "-p", "Hello"]));
    assert!(text.contains("--chat-template chatml") && text.contains("zephyr"), "{text}");
    let output =
        quern(["run", &model, "--chat", "--chat-template", "gemma", "--system", "S", "-p", "Hi", "-n", "4"]);
    stdout(&output);
    assert!(stderr(&output).contains("no place for a system prompt"), "{}", stderr(&output));
    assert!(stderr(&output).contains("<end_of_turn> is no token"), "{}", stderr(&output));
    let text = failure(&quern(["run", &model, "--chat", "--chat-template", "nonsense", "-p", "Hello"]));
    assert!(text.contains("nonsense") && text.contains("chatml"), "{text}");
    assert!(usage(&["run", &model, "--system", "S", "-p", "Hello"]).contains("--chat"));
    assert!(usage(&["run", &model, "--chat", "--chat-template-kwargs", "[1]", "-p", "a"]).contains("object"));
}

#[test]
fn a_template_that_fails_names_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bad.jinja");
    std::fs::write(&file, "{{ messages[0].content }}\n{{ raise_exception('not like this') }}").unwrap();
    let file = file.display().to_string();
    let text = failure(&quern(["run", &qwen(), "--chat", "--chat-template", &file, "-p", "Hello"]));
    assert!(text.contains("bad.jinja, line 2") && text.contains("not like this"), "{text}");
}

/// quern on a terminal of its own.
struct Terminal {
    child: Child,
    keyboard: File,
    screen: Arc<Mutex<Vec<u8>>>,
    seen: usize,
}

impl Terminal {
    fn start(args: &[&str]) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let slave = File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
        let stdio = || Stdio::from(slave.try_clone().unwrap());
        let mut command = command();
        command.args(args).env("TERM", "xterm").stdin(stdio()).stdout(stdio()).stderr(stdio());
        let child = command.spawn().unwrap();
        let keyboard = File::from(master);
        let screen = Arc::new(Mutex::new(Vec::new()));
        let (mut from, to) = (keyboard.try_clone().unwrap(), screen.clone());
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // Reading fails once the other side has been closed by all its users.
            while let Ok(n @ 1..) = from.read(&mut buffer) {
                to.lock().unwrap().extend_from_slice(&buffer[..n]);
            }
        });
        Self { child, keyboard, screen, seen: 0 }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.screen.lock().unwrap()[self.seen..]).into_owned()
    }

    /// Waits until `done` is true of the output since the last call.
    fn wait(&mut self, what: &str, done: impl Fn(&str) -> bool) -> String {
        let started = Instant::now();
        loop {
            let text = self.text();
            if done(&text) {
                self.seen += text.len();
                return text;
            }
            // Far beyond what any machine needs: only a hang gets here.
            assert!(started.elapsed() < Duration::from_secs(120), "no {what} in {text:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn wait_for(&mut self, what: &str) -> String {
        self.wait(what, |text| text.contains(what))
    }

    fn type_text(&mut self, text: &str) {
        self.keyboard.write_all(text.as_bytes()).unwrap();
    }

    fn interrupt(&self) {
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
    }

    fn exit_code(mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_conversation_on_a_terminal_has_history_commands_and_an_end() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("conversation.json");
    let model = qwen();
    let mut terminal = Terminal::start(&["run", &model, "--chat", "-n", "4", "--temp", "0", "--ignore-eos"]);
    terminal.wait_for("> ");
    terminal.type_text("/help\r");
    terminal.wait_for("/reset");
    terminal.type_text("/system Be kind.\r");
    terminal.wait_for("from the next turn on");
    // A continued line, and an edited one: the backspace removes the x.
    terminal.type_text("Hello\\\r");
    terminal.wait_for(". ");
    terminal.type_text("therex\u{7f}\r");
    terminal.wait_for("cut off after 4 tokens");
    terminal.type_text(&format!("/save {}\r", file.display()));
    terminal.wait_for("saved to");
    let saved = json(&std::fs::read_to_string(&file).unwrap());
    let said = |at: usize| (saved[at]["role"].as_str().unwrap(), saved[at]["content"].as_str().unwrap());
    assert_eq!((said(0), said(1)), (("system", "Be kind."), ("user", "Hello\nthere")));
    assert_eq!((said(2).0, saved.as_array().unwrap().len()), ("assistant", 3));
    terminal.type_text(&format!("/save {}\r", file.display()));
    terminal.wait_for("error: ");
    terminal.type_text("/reset\r");
    terminal.wait_for("the conversation is empty");
    terminal.type_text("/nonsense\r");
    terminal.wait_for("there is no command /nonsense");
    // Up twice, over the command above, is /reset again.
    terminal.type_text("\u{1b}[A\u{1b}[A\r");
    terminal.wait_for("the conversation is empty");
    terminal.type_text("\u{4}");
    assert_eq!(terminal.exit_code(), Some(0));
}

#[test]
fn control_c_interrupts_an_answer_and_keeps_the_conversation() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("conversation.json");
    let model = bookworm();
    let args = ["run", &model, "--chat", "--chat-template", "zephyr", "--ignore-eos", "--context", "1024"];
    let mut terminal = Terminal::start(&args);
    terminal.wait_for("> ");
    // An answer of a thousand tokens takes longer than seeing its beginning; should it not, once more.
    let interrupted = (0..50).any(|_| {
        terminal.type_text("/reset\r");
        terminal.wait_for("the conversation is empty");
        terminal.type_text("Tell me a story\r");
        terminal.wait("answer", |text| text.split_once("story").is_some_and(|(_, answer)| answer.len() > 12));
        terminal.interrupt();
        let end = |text: &str| text.contains("(interrupted)") || text.contains("the context is full");
        terminal.wait("end", end).contains("(interrupted)")
    });
    assert!(interrupted);
    terminal.type_text(&format!("/save {}\r", file.display()));
    terminal.wait_for("saved to");
    let saved = json(&std::fs::read_to_string(&file).unwrap());
    assert_eq!(saved[0]["content"], "Tell me a story");
    assert!(!saved[1]["content"].as_str().unwrap().is_empty(), "the beginning of the answer is kept");
    // At the prompt, one Ctrl-C discards the line and the next one exits.
    terminal.type_text("half a li\u{3}");
    terminal.wait_for("press Ctrl-C again");
    terminal.type_text("\u{3}");
    assert_eq!(terminal.exit_code(), Some(0));
}

#[test]
fn a_conversation_goes_on_after_a_template_that_took_too_much() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("boom.jinja");
    let source = "{% if 'boom' in messages[-1].content %}{% set ns = namespace(x=[1]) %}{% for i in range(60) %}\
                  {% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x | string }}{% endif %}{{ messages[-1].content }}";
    std::fs::write(&file, source).unwrap();
    let (model, file) = (qwen(), file.display().to_string());
    let args = ["run", &model, "--chat", "--chat-template", &file, "-n", "4", "--temp", "0", "--ignore-eos"];
    let mut terminal = Terminal::start(&args);
    terminal.wait_for("> ");
    terminal.type_text("boom\r");
    let text = terminal.wait_for("error: chat template");
    assert!(!text.contains("panicked"), "{text}");
    // The process that rendered is gone; the next message gets another one.
    for _ in 0..2 {
        terminal.type_text("Hello\r");
        terminal.wait_for("cut off after 4 tokens");
    }
    terminal.type_text("\u{4}");
    assert_eq!(terminal.exit_code(), Some(0));
}
