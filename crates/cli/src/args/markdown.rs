//! `docs/cli.md`: the reference of all commands and options as Markdown, made of the definitions that clap prints as
//! help. The test here fails when the file is not what the definitions say; `just docs` writes it anew.

use std::fmt::Write;
use std::path::Path;

use clap::{Arg, ArgAction, Command, CommandFactory};

use super::Cli;

/// The command that writes the file, for people to type.
const WRITE: &str = "QUERN_WRITE_DOCS=1 cargo test -p quern --bin quern docs_cli_md";

#[test]
fn docs_cli_md_is_current() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/cli.md");
    let expected = reference();
    if std::env::var_os("QUERN_WRITE_DOCS").is_some() {
        std::fs::write(&file, expected).unwrap();
        return;
    }
    let found = std::fs::read_to_string(&file).unwrap_or_default();
    let same = found.lines().zip(expected.lines()).take_while(|(a, b)| a == b).count();
    assert!(
        found == expected,
        "docs/cli.md is not what the command line's definitions say, from line {} on; write it anew with `just docs`, \
         which is {WRITE}",
        same + 1
    );
}

#[test]
fn the_reference_has_every_command_and_option() {
    let reference = reference();
    let mut cli = Cli::command();
    cli.build();
    for command in commands(&cli) {
        assert!(reference.contains(&format!("\n## quern {}\n", command.get_name())), "{command}");
        for arg in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
            if let Some(long) = arg.get_long() {
                assert!(reference.contains(&format!("--{long}")), "{command}: {long}");
            }
        }
    }
}

/// The commands, without `help`.
fn commands(cli: &Command) -> impl Iterator<Item = &Command> {
    cli.get_subcommands().filter(|command| command.get_name() != "help" && !command.is_hide_set())
}

fn reference() -> String {
    let mut cli = Cli::command();
    cli.build();
    let mut out = String::from(
        "# Command line reference\n\n\
         <!-- Written by `just docs` from crates/cli/src/args; changes belong there. -->\n\n\
         The commands and options of quern, as `quern COMMAND --help` prints them. Options that all commands have are at \
         the end.\n\n\
         | command | what it does |\n|---|---|\n",
    );
    for command in commands(&cli) {
        let name = command.get_name();
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        let _ = writeln!(out, "| [`{name}`](#quern-{name}) | {} |", cell(&about));
    }
    out += "\nMODEL is a directory, a file, or a name on the Hugging Face Hub. Results go to standard output, everything \
            else to standard error. The exit code is 0 on success, 1 on failure and 2 for wrong usage.\n";
    for command in commands(&cli) {
        section(&mut out, command);
    }
    out += "\n## Options of all commands\n\n";
    cli.get_arguments().filter(|arg| arg.is_global_set()).for_each(|arg| argument(&mut out, arg));
    out += "- `-h`, `--help`: Print help, short with `-h` and complete with `--help`\n";
    out += "- `-V`, `--version`: Print the version\n";
    out
}

/// One command.
fn section(out: &mut String, command: &Command) {
    let name = command.get_name();
    let about = command.get_long_about().or(command.get_about()).map(ToString::to_string).unwrap_or_default();
    let (first, rest) = about.split_once('\n').unwrap_or((&about, ""));
    let _ = write!(out, "\n## quern {name}\n\n{}.\n", escaped(first.trim_end_matches('.')));
    if !rest.trim().is_empty() {
        let _ = write!(out, "\n{}\n", escaped(rest.trim()));
    }
    let usage = command.clone().render_usage().to_string();
    let usage: Vec<_> = usage.trim_start_matches("Usage:").lines().map(str::trim).collect();
    let _ = write!(out, "\nUsage: `{}`\n", usage.join("` or `"));

    let own = |arg: &&Arg| {
        !arg.is_hide_set()
            && !arg.is_global_set()
            && !matches!(
                arg.get_action(),
                ArgAction::Help | ArgAction::HelpShort | ArgAction::HelpLong | ArgAction::Version
            )
    };
    let mut headings: Vec<Option<&str>> = Vec::new();
    for arg in command.get_arguments().filter(own).filter(|arg| !arg.is_positional()) {
        if !headings.contains(&arg.get_help_heading()) {
            headings.push(arg.get_help_heading());
        }
    }
    let positional: Vec<_> = command.get_arguments().filter(own).filter(|arg| arg.is_positional()).collect();
    if !positional.is_empty() {
        *out += "\n### Arguments\n\n";
        positional.into_iter().for_each(|arg| argument(out, arg));
    }
    // Options without a heading come first, as in the help.
    headings.sort_by_key(Option::is_some);
    for heading in headings {
        let _ = write!(out, "\n### {}\n\n", heading.unwrap_or("Options"));
        let group = command.get_arguments().filter(own).filter(|arg| !arg.is_positional());
        group.filter(|arg| arg.get_help_heading() == heading).for_each(|arg| argument(out, arg));
    }
    if let Some(examples) = command.get_after_help() {
        examples_of(out, &examples.to_string());
    }
}

/// One argument, as an item of a list.
fn argument(out: &mut String, arg: &Arg) {
    let values: Vec<_> = match arg.get_action().takes_values() {
        true => arg.get_value_names().unwrap_or_default().iter().map(ToString::to_string).collect(),
        false => Vec::new(),
    };
    let value = if values.is_empty() { String::new() } else { format!(" {}", values.join(" ")) };
    let short = arg.get_short().map(|short| format!("-{short}"));
    let long = arg.get_long().map(|long| format!("--{long}"));
    let aliases = arg.get_all_aliases().unwrap_or_default().into_iter().map(|alias| format!("--{alias}"));
    let mut names: Vec<_> = short.into_iter().chain(long).chain(aliases).collect();
    if names.is_empty() {
        names.push(value.trim().to_owned());
    } else if let Some(last) = names.last_mut() {
        *last += &value;
    }
    let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
    let help = arg.get_long_help().or(arg.get_help()).map(ToString::to_string).unwrap_or_default();
    let (first, rest) = help.split_once('\n').unwrap_or((&help, ""));
    let mut line = escaped(first);
    let defaults = arg.get_default_values();
    if !defaults.is_empty() && arg.get_action().takes_values() && !arg.is_hide_default_value_set() {
        let defaults: Vec<_> = defaults.iter().map(|value| value.to_string_lossy()).collect();
        let _ = write!(line, " [default: {}]", defaults.join(","));
    }
    let possible = arg.get_possible_values();
    if !possible.is_empty() && !arg.is_hide_possible_values_set() && arg.get_action().takes_values() {
        let names: Vec<_> = possible.iter().filter(|v| !v.is_hide_set()).map(|v| v.get_name()).collect();
        let _ = write!(line, " [values: {}]", names.join(", "));
    }
    let _ = writeln!(out, "- {}: {line}", names.join(", "));
    for paragraph in rest.split("\n\n").map(str::trim).filter(|text| !text.is_empty()) {
        let _ = write!(out, "\n  {}\n", escaped(&paragraph.replace('\n', " ")));
    }
}

/// What is said below the options: examples, each with the line that says what it does.
fn examples_of(out: &mut String, text: &str) {
    let (mut examples, mut other) = (String::new(), String::new());
    for line in text.lines().filter(|line| *line != "Examples:" && !line.trim().is_empty()) {
        match line.strip_prefix("    ") {
            Some(command) => {
                let _ = write!(examples, "\n```\n{command}\n```\n");
            }
            None => {
                let to = if line.starts_with("  ") { &mut examples } else { &mut other };
                let _ = write!(to, "\n{}\n", escaped(line.trim()));
            }
        }
    }
    *out += &other;
    if !examples.is_empty() {
        let _ = write!(out, "\n### Examples\n{examples}");
    }
}

/// Text in a cell of a table.
fn cell(text: &str) -> String {
    escaped(text.trim_end_matches('.')).replace('|', "\\|")
}

/// Characters that Markdown would take for its own.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        if matches!(c, '<' | '>' | '*' | '_' | '`' | '[' | ']' | '{' | '}') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}
