//! Options of `--to auto`, and of recipes.

use std::path::PathBuf;

use clap::Args;

use super::values::bits_per_weight;
use crate::format::parse_bytes;

/// How large the result may be, and recipes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Types chosen by measurement (--to auto) and recipes")]
pub struct AutoOptions {
    /// With --to auto: bits per weight of the whole file at most, as quern inspect counts them, for example 4.25
    ///
    /// The model is run on a calibration text to measure how much each type of each tensor changes its predictions, and
    /// the types that change them least are chosen. See docs/quantizing.md.
    #[arg(long, value_name = "X", value_parser = bits_per_weight, conflicts_with = "target_size")]
    pub target_bpw: Option<f64>,
    /// With --to auto: size of the file at most, for example 4GiB
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    pub target_size: Option<u64>,
    /// Take the type of each tensor from a recipe file, instead of --to
    ///
    /// A recipe is a small text with lines such as blk.0-3.ffn_down.weight = q6_K. One that was made for another model of
    /// the same architecture is mapped by relative depth. See docs/quantizing.md.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["target_bpw", "target_size", "save_recipe"])]
    pub recipe: Option<PathBuf>,
    /// With --to auto: also write the chosen types to FILE as a recipe, in a dry run too
    #[arg(long, value_name = "FILE")]
    pub save_recipe: Option<PathBuf>,
}

impl AutoOptions {
    /// Whether any of those that --to auto alone has was given.
    pub fn any_given(&self) -> bool {
        self.target_bpw.is_some() || self.target_size.is_some() || self.save_recipe.is_some()
    }
}
