//! Checks of the help text: it is complete, its examples and those of the documents parse, and it uses the words of the
//! field.

use std::fs;
use std::path::Path;

use clap::{Arg, Command, CommandFactory};

use quern_run::placement::GpuLayers;

use super::{Cli, Command as Super};

/// All commands with the name they are called by.
fn commands() -> Vec<(String, Command)> {
    let mut cli = Cli::command();
    cli.build();
    let mut all: Vec<_> =
        cli.get_subcommands().map(|c| (format!("quern {}", c.get_name()), c.clone())).collect();
    all.retain(|(name, _)| name != "quern help");
    all.push(("quern".to_owned(), cli));
    all
}

/// The arguments that quern defines itself.
fn arguments(command: &Command) -> impl Iterator<Item = &Arg> {
    command.get_arguments().filter(|arg| !["help", "version"].contains(&arg.get_id().as_str()))
}

/// Splits the first command of a line as a shell does, as far as the examples need it.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut quote) = (vec![String::new()], None);
    for c in line.chars() {
        match c {
            // Its output goes elsewhere.
            '>' | '|' if quote.is_none() && words.last().is_some_and(String::is_empty) => break,
            '"' | '\'' if quote.is_none() => quote = Some(c),
            _ if quote == Some(c) => quote = None,
            ' ' if quote.is_none() => words.push(String::new()),
            _ => words.last_mut().expect("there is always one").push(c),
        }
    }
    assert_eq!(quote, None, "open quote in {line}");
    words.retain(|word| !word.is_empty());
    words
}

/// Parses a line as the program does.
fn parsed(line: &str) -> Result<Cli, clap::Error> {
    Cli::from_args(words(line).into_iter().map(Into::into))
}

#[test]
fn command_lines_of_llama_cpp_parse() {
    let line = "quern run -m model.gguf -n 100 -p \"Once upon a time\" -t 8 -ngl 20";
    let Super::Run(run) = parsed(line).unwrap().command else { panic!("{line}") };
    assert_eq!(
        (run.model(), run.limit(), run.threads.count()),
        ("model.gguf".as_ref(), (Some(100), true), 8)
    );
    assert_eq!(run.prompt.as_deref(), Some("Once upon a time"));
    assert_eq!(run.placement.devices.options().gpu_layers, GpuLayers::Last(20));
    for line in [
        "quern run model.gguf -c 2048 -p x -ngl=99",
        "quern run -m model.gguf -p x --n-gpu-layers all",
        "quern run -m model.gguf -p x --gpu-layers -1 --device cuda:1",
        "quern perplexity -m model.gguf -f wiki.test.raw -c 512 -ngl 99",
        "quern bench -m a.gguf -m b.gguf -p 512 -n 128 -d 0,4096 -ngl 99",
        "quern run -m model.gguf --dry-run --max-memory 0=10GiB,1=10GiB,cpu=32GiB",
    ] {
        parsed(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    }
}

#[test]
fn a_model_is_given_once() {
    for command in ["run -p x", "perplexity --text t", "bench"] {
        let none = parsed(&format!("quern {command}")).unwrap_err().to_string();
        assert!(none.contains("MODEL"), "{none}");
        let both = parsed(&format!("quern {command} a.gguf -m b.gguf")).unwrap_err().to_string();
        assert!(both.contains("cannot be used with") && both.contains("--model"), "{both}");
        parsed(&format!("quern {command} a.gguf")).unwrap();
        parsed(&format!("quern {command} -m a.gguf")).unwrap();
    }
}

#[test]
fn definitions_are_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_and_option_has_help() {
    for (name, command) in commands() {
        assert!(command.get_about().is_some(), "{name}");
        for arg in arguments(&command) {
            let help =
                arg.get_help().unwrap_or_else(|| panic!("{name} {}: no help", arg.get_id())).to_string();
            assert!(help.starts_with(|c: char| c.is_uppercase()), "{name} {}: {help}", arg.get_id());
            assert!(!help.ends_with('.'), "{name} {}: {help}", arg.get_id());
        }
    }
}

#[test]
fn every_command_has_examples_that_parse() {
    for (name, command) in commands().into_iter().filter(|(name, _)| name != "quern") {
        let text = command.get_after_help().unwrap_or_else(|| panic!("{name}: no examples")).to_string();
        let examples: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("    quern ")).collect();
        assert!((2..=4).contains(&examples.len()), "{name}: {} examples", examples.len());
        for example in examples {
            let line = format!("quern {example}");
            assert!(line.starts_with(&name), "{name}: {line}");
            if let Err(error) = parsed(&line) {
                panic!("{line}: {error}");
            }
        }
    }
}

/// The command lines in the code blocks of a document, without comments.
fn command_lines(document: &str) -> Vec<&str> {
    let blocks = document.split("```").skip(1).step_by(2);
    let lines = blocks.flat_map(str::lines).filter_map(|line| {
        let start = if line.starts_with("quern ") { 0 } else { line.find("| quern ")? + 2 };
        Some(line[start..].split(" #").next().unwrap_or_default().trim_end())
    });
    lines.collect()
}

#[test]
fn the_commands_in_the_documents_parse() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let guides = fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut seen = 0;
    for file in guides.chain([root.join("README.md"), root.join("crates/cli/README.md")]) {
        let document = fs::read_to_string(&file).unwrap();
        for line in command_lines(&document) {
            if let Err(error) = parsed(line) {
                panic!("{}: {line}: {error}", file.display());
            }
            seen += 1;
        }
    }
    assert!(seen > 40, "{seen}");
}

#[test]
fn help_uses_the_words_of_the_field() {
    const UNWANTED: [&str; 14] = [
        "grind", "mill", "lie", "lies", "talk", "talks", "tell", "told", "turn", "turned", "world", "worlds",
        "house", "nobody",
    ];
    for (name, mut command) in commands() {
        let help = command.render_long_help().to_string();
        let found =
            help.split(|c: char| !c.is_alphanumeric()).find(|w| UNWANTED.contains(&&*w.to_lowercase()));
        assert_eq!(found, None, "{name}: {help}");
    }
}
