//! The command that made a file, as it is recorded in it: the options that decide the bytes, and of paths the last
//! part. Threads, output, progress and what else has no effect on the bytes are left out, so that the same input and
//! options give the same record; folders are left out because files are published.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, CommandFactory};

use super::{Cli, argv};
use crate::format::quoted;
use crate::model;

/// Options whose value is a path, or may name one.
const PATHS: [&str; 6] = ["model", "imatrix", "calibration", "text", "dynamic", "recipe"];
/// Options that decide the bytes, written as they were typed.
const KEPT: [&str; 34] = [
    "to",
    "architecture",
    "allow-requantize",
    "dtype",
    "merge",
    "shard-size",
    "split-max-size",
    "split-max-tensors",
    "set",
    "remove",
    "pure",
    "tensor-type",
    "output-tensor-type",
    "token-embedding-type",
    "leave-output-tensor",
    "bits",
    "group-size",
    "desc-act",
    "asym",
    "packing",
    "damp",
    "samples",
    "context",
    "block-size",
    "double-quant",
    "no-double-quant",
    "skip-module",
    "chunks",
    "from-chunk",
    "process-output",
    "output-format",
    "calibrate",
    "target-bpw",
    "target-size",
];
/// The others.
#[cfg(test)]
const WITHOUT_EFFECT: [&str; 21] = [
    "output",
    "dry-run",
    "force",
    "json",
    "threads",
    "device",
    "ngl",
    "max-memory",
    "no-provenance",
    "card",
    "evaluate",
    "no-verify",
    "save-imatrix",
    "save-recipe",
    "restart",
    "help",
    "version",
    "progress",
    "quiet",
    "verbose",
    "color",
];

/// The command of this process.
pub fn this_command() -> String {
    reduced(std::env::args_os())
}

/// The command of these arguments, the program's name first; empty if they are no command.
fn reduced(args: impl IntoIterator<Item = OsString>) -> String {
    let cli = Cli::command();
    let args = argv::rewritten(&cli, args);
    let Ok(matches) = cli.clone().try_get_matches_from(args) else { return String::new() };
    let Some((name, given)) = matches.subcommand() else { return String::new() };
    let Some(command) = cli.find_subcommand(name) else { return String::new() };
    let mut words = vec!["quern".to_owned(), name.to_owned()];
    // What has no name comes first, wherever it was typed.
    let (positional, options): (Vec<&Arg>, Vec<&Arg>) =
        command.get_arguments().partition(|a| a.is_positional());
    for arg in positional.into_iter().chain(options) {
        words.extend(words_of(arg, given));
    }
    words.join(" ")
}

/// An argument and its values, as a shell reads them; nothing if it was not given or has no effect.
fn words_of(arg: &Arg, given: &ArgMatches) -> Vec<String> {
    let id = arg.get_id().as_str();
    let name = arg.get_long().unwrap_or(id);
    let path = PATHS.contains(&name);
    if given.value_source(id) != Some(ValueSource::CommandLine) || !(path || KEPT.contains(&name)) {
        return Vec::new();
    }
    let option = arg.get_long().map(|long| format!("--{long}"));
    if !arg.get_action().takes_values() {
        return option.into_iter().collect();
    }
    let values = given.get_raw(id).into_iter().flatten();
    let value =
        |raw: &OsStr| quoted(&if path { without_folder(name, raw) } else { raw.to_string_lossy().into() });
    values.flat_map(|raw| option.clone().into_iter().chain([value(raw)])).collect()
}

fn without_folder(option: &str, value: &OsStr) -> String {
    let text = value.to_string_lossy();
    match option {
        // A file only after an @; rules are JSON.
        "dynamic" => match text.strip_prefix('@') {
            Some(file) => format!("@{}", last_part(Path::new(file))),
            None => text.into_owned(),
        },
        "model" => match model::name(Path::new(value)) {
            Ok(Some(name)) => name.to_string(),
            _ => last_part(Path::new(value)),
        },
        _ => last_part(Path::new(value)),
    }
}

fn last_part(path: &Path) -> String {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned());
    name.or_else(|| Some(path.canonicalize().ok()?.file_name()?.to_string_lossy().into_owned()))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> String {
        reduced(line.split(' ').map(Into::into))
    }

    #[test]
    fn what_decides_the_bytes_is_kept_and_folders_are_not() {
        assert_eq!(
            of(
                "quern quantize -t 7 /home/alice/secret/model --to q4_k_m --imatrix /srv/private/i.gguf -o /home/alice/o \
                --force --tensor-type ffn_down=q6_k --tensor-type a|b=q8_0 --json --card --evaluate /home/alice/t.txt"
            ),
            "quern quantize model --to q4_k_m --imatrix i.gguf --tensor-type ffn_down=q6_k --tensor-type 'a|b=q8_0'"
        );
        assert_eq!(
            of(
                "quern quantize ../m --to gptq --group-size -1 --desc-act --calibration ./a/b.txt --dynamic @/x/r.json -o o \
                --restart --save-imatrix /home/alice/i.gguf --samples 4"
            ),
            "quern quantize m --to gptq --group-size -1 --desc-act --calibration b.txt --samples 4 --dynamic @r.json"
        );
        assert_eq!(
            of("quern convert https://huggingface.co/org/name/tree/v1 --to gguf -o x --set a=b --no-verify"),
            "quern convert org/name@v1 --to gguf --set a=b"
        );
        assert_eq!(
            of("quern imatrix org/name --text - --output=/x/y --chunks 3 --threads=2"),
            "quern imatrix org/name --text - --chunks 3"
        );
        assert_eq!(of("quern nothing"), "");
    }

    /// A new option must say whether it decides the bytes.
    #[test]
    fn every_option_is_in_one_of_the_lists() {
        let cli = Cli::command();
        for command in ["quantize", "convert", "imatrix"] {
            for arg in cli.find_subcommand(command).unwrap().get_arguments() {
                let name = arg.get_long().unwrap_or(arg.get_id().as_str());
                let lists = [PATHS.contains(&name), KEPT.contains(&name), WITHOUT_EFFECT.contains(&name)];
                assert_eq!(lists.iter().filter(|l| **l).count(), 1, "{command} --{name}");
            }
        }
    }
}
