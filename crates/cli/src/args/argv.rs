//! Options of several letters behind a single dash, as users of llama.cpp type them: `-ngl 20`.
//!
//! clap has no such options: it would read `-ngl` as `-n gl`. They are replaced by their long forms before clap sees
//! the arguments, and nothing else is: not what follows `--`, not the value of another option, not the arguments of a
//! command without such an option.

use std::ffi::OsString;

use clap::{ArgAction, Command};

/// Each with its long form.
const SINGLE_DASH: [(&str, &str); 1] = [("-ngl", "--ngl")];

/// The arguments (the program's name first) with long forms in place of these options.
pub fn rewritten(cli: &Command, args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut args = args.into_iter();
    let mut out: Vec<OsString> = args.by_ref().take(1).collect();
    // Options of all commands may be in front of the command's name.
    let command = args.by_ref().find_map(|arg| {
        out.push(arg);
        out.last().and_then(|name| cli.find_subcommand(name))
    });
    let Some(command) = command else { return out };
    let mut is_value = false;
    while let Some(arg) = args.next() {
        if arg == "--" && !is_value {
            out.push(arg);
            out.extend(args);
            return out;
        }
        let long = arg.to_str().filter(|_| !is_value).and_then(|text| long_form(command, text));
        let arg = long.map_or(arg, OsString::from);
        is_value = !is_value && arg.to_str().is_some_and(|text| awaits_value(command, text));
        out.push(arg);
    }
    out
}

/// The long form of `-ngl` or `-ngl=VALUE`, where the command has it.
fn long_form(command: &Command, arg: &str) -> Option<String> {
    SINGLE_DASH.into_iter().find_map(|(single, long)| {
        let rest = arg.strip_prefix(single)?;
        let known = command.get_arguments().any(|known| known.get_long() == long.strip_prefix("--"));
        (known && (rest.is_empty() || rest.starts_with('='))).then(|| format!("{long}{rest}"))
    })
}

/// Whether the next argument is the value of this one.
fn awaits_value(command: &Command, arg: &str) -> bool {
    let known = |is: &dyn Fn(&clap::Arg) -> bool| {
        let mut options = command.get_arguments().filter(|known| is(known));
        options.any(|known| matches!(known.get_action(), ArgAction::Set | ArgAction::Append))
    };
    if let Some(long) = arg.strip_prefix("--") {
        return known(&|option| {
            option.get_long() == Some(long) || option.get_all_aliases().is_some_and(|all| all.contains(&long))
        });
    }
    let mut letters = arg.strip_prefix('-').unwrap_or_default().chars();
    match (letters.next(), letters.next()) {
        (Some(letter), None) => known(&|option| option.get_short() == Some(letter)),
        // `-n20` has its value.
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::super::Cli;
    use super::rewritten;

    fn line(text: &str) -> String {
        let args = text.split(' ').map(Into::into);
        let words = rewritten(&Cli::command(), args);
        words.iter().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_option_gets_its_long_form() {
        assert_eq!(line("quern run m -ngl 20 -p x"), "quern run m --ngl 20 -p x");
        assert_eq!(line("quern run -ngl=20 m -p x"), "quern run --ngl=20 m -p x");
        assert_eq!(line("quern bench -ngl 1 m"), "quern bench --ngl 1 m");
        assert_eq!(line("quern perplexity m --text t -ngl all"), "quern perplexity m --text t --ngl all");
        assert_eq!(line("quern run m -p - -ngl 20"), "quern run m -p - --ngl 20");
        assert_eq!(line("quern run m -n20 -ngl 20"), "quern run m -n20 --ngl 20");
        assert_eq!(line("quern run m -n -1 -ngl 20"), "quern run m -n -1 --ngl 20");
        assert_eq!(line("quern run m --prompt=x -ngl 20"), "quern run m --prompt=x --ngl 20");
        assert_eq!(line("quern run m --json -ngl 20"), "quern run m --json --ngl 20");
    }

    #[test]
    fn everything_else_stays() {
        for text in [
            "quern",
            "quern -ngl",
            "quern -ngl run",
            "quern run m -p -ngl 20",
            "quern run m --prompt -ngl 20",
            "quern run m --stop -ngl",
            "quern run m --n-gpu-layers -ngl",
            "quern run -p x -- -ngl",
            "quern run m -ngl20",
            "quern run m -ng 20",
            "quern run m -nglx 20",
            "quern run m x-ngl",
            "quern run m --ngl 20",
            "quern quantize m --to q4_0 -o x -ngl 20",
            "quern nothing -ngl 20",
        ] {
            assert_eq!(line(text), text);
        }
        assert_eq!(line("quern run m -p -- -ngl 20"), "quern run m -p -- --ngl 20", "-- is the value of -p");
    }

    #[cfg(unix)]
    #[test]
    fn arguments_need_not_be_unicode() {
        use std::os::unix::ffi::OsStringExt;
        let bytes = std::ffi::OsString::from_vec(vec![b'-', 0xff]);
        let args = ["quern".into(), "run".into(), bytes.clone(), "-ngl".into()];
        assert_eq!(rewritten(&Cli::command(), args), ["quern".into(), "run".into(), bytes, "--ngl".into()]);
    }
}
