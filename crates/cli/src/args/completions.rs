//! Arguments of `quern completions`.

use clap::Args;
use clap_complete::Shell;

const EXAMPLES: &str = "\
Examples:
  Bash, for the current user:
    quern completions bash > ~/.local/share/bash-completion/completions/quern

  Fish:
    quern completions fish > ~/.config/fish/completions/quern.fish

  Zsh; the directory must be in fpath:
    quern completions zsh > ~/.zfunc/_quern";

/// Arguments of `quern completions`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Completions {
    /// Shell to print the completions for
    #[arg(value_name = "SHELL", value_enum)]
    pub shell: Shell,
}
