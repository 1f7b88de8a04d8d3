//! Sampling options of `quern run`, with the names and defaults of llama.cpp.

use clap::Args;
use quern_run::{DryOptions, Mirostat, MirostatVersion, SamplingOptions, Stage};

/// How the next token is chosen.
#[derive(Debug, Args)]
#[command(next_help_heading = "Sampling")]
pub struct Sampling {
    /// Temperature; 0 always takes the most probable token
    #[arg(long, value_name = "T", default_value_t = 0.8)]
    pub temp: f32,
    /// Keep the K most probable tokens; 0 keeps all
    #[arg(long, value_name = "K", default_value_t = 40)]
    pub top_k: usize,
    /// Keep the most probable tokens whose probabilities together reach P; 1 keeps all
    #[arg(long, value_name = "P", default_value_t = 0.95)]
    pub top_p: f32,
    /// Drop tokens less probable than P times the most probable token; 0 keeps all
    #[arg(long, value_name = "P", default_value_t = 0.05)]
    pub min_p: f32,
    /// Keep the most typical tokens (information content nearest to the entropy) that together reach P; 1 keeps all
    #[arg(long, alias = "typical", value_name = "P", default_value_t = 1.0)]
    pub typical_p: f32,
    /// Drop tokens whose logit is more than N standard deviations below the highest; 0 keeps all
    #[arg(long, value_name = "N", default_value_t = 0.0, allow_negative_numbers = true)]
    pub top_n_sigma: f32,
    /// Chance of applying XTC at each token
    ///
    /// XTC drops all tokens above --xtc-threshold except the least probable of them.
    #[arg(long, value_name = "P", default_value_t = 0.0)]
    pub xtc_probability: f32,
    /// Probability from which XTC drops a token; above 0.5, XTC has no effect
    #[arg(long, value_name = "P", default_value_t = 0.1)]
    pub xtc_threshold: f32,
    /// Order of the samplers; those left out are not applied
    /// [default: penalties;dry;top_n_sigma;top_k;typ_p;top_p;min_p;xtc;temperature]
    #[arg(long, value_name = "A;B;…", value_parser = stages)]
    samplers: Option<Stages>,
    /// Seed; the same seed gives the same text on any number of threads [default: random]
    #[arg(long)]
    pub seed: Option<u64>,
    /// Divide positive logits of recent tokens by X and multiply negative ones; 1 has no effect
    #[arg(long, value_name = "X", default_value_t = 1.0, help_heading = PENALTIES)]
    pub repeat_penalty: f32,
    /// Subtract X from the logits of recent tokens
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true, help_heading = PENALTIES)]
    pub presence_penalty: f32,
    /// Subtract X from the logits of recent tokens once for each time they occurred
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true, help_heading = PENALTIES)]
    pub frequency_penalty: f32,
    /// Number of recent tokens these three penalties consider, prompt included; 0 disables them, -1 means all
    #[arg(long, value_name = "N", default_value = "64", allow_negative_numbers = true, value_parser = window,
        help_heading = PENALTIES)]
    repeat_last_n: Window,
    /// Multiplier of the DRY penalty on repeated sequences; 0 disables DRY, 0.8 is a usual value
    #[arg(long, value_name = "X", default_value_t = 0.0, help_heading = PENALTIES)]
    pub dry_multiplier: f32,
    /// Base of the DRY penalty, which grows by this factor with each repeated token
    #[arg(long, value_name = "X", default_value_t = 1.75, help_heading = PENALTIES)]
    pub dry_base: f32,
    /// Length in tokens from which DRY penalizes a repeated sequence; shorter ones may be repeated
    #[arg(long, value_name = "N", default_value_t = 2, help_heading = PENALTIES)]
    pub dry_allowed_length: usize,
    /// Number of recent tokens DRY considers; -1 means all
    #[arg(long, value_name = "N", default_value = "64", allow_negative_numbers = true, value_parser = window,
        help_heading = PENALTIES)]
    dry_penalty_last_n: Window,
    /// Text that ends a sequence for DRY, or none (repeatable) [default: line break : " *]
    #[arg(long, value_name = "TEXT", help_heading = PENALTIES)]
    pub dry_sequence_breaker: Vec<String>,
    /// Use Mirostat 1 or 2 instead of all samplers but penalties and temperature; 0 disables it
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2),
        help_heading = MIROSTAT)]
    pub mirostat: u8,
    /// Learning rate (eta)
    #[arg(long, value_name = "X", default_value_t = 0.1, help_heading = MIROSTAT)]
    pub mirostat_lr: f32,
    /// Target information content in bits (tau)
    #[arg(long, value_name = "X", default_value_t = 5.0, help_heading = MIROSTAT)]
    pub mirostat_ent: f32,
}

const PENALTIES: &str = "Repetition penalties";
const MIROSTAT: &str = "Mirostat";

impl Sampling {
    /// The library's form of these options.
    pub fn options(&self, seed: u64) -> SamplingOptions {
        let version = [MirostatVersion::One, MirostatVersion::Two];
        let mirostat = usize::from(self.mirostat)
            .checked_sub(1)
            .and_then(|at| version.get(at))
            .map(|&version| Mirostat { version, tau: self.mirostat_ent, eta: self.mirostat_lr });
        let default = DryOptions::default();
        let breakers = match &self.dry_sequence_breaker[..] {
            [] => default.breakers,
            [none] if none == "none" => Vec::new(),
            given => given.to_vec(),
        };
        SamplingOptions {
            temperature: self.temp,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            typical_p: self.typical_p,
            top_n_sigma: self.top_n_sigma,
            xtc_probability: self.xtc_probability,
            xtc_threshold: self.xtc_threshold,
            repeat_penalty: self.repeat_penalty,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            repeat_window: self.repeat_last_n.0,
            dry: DryOptions {
                multiplier: self.dry_multiplier,
                base: self.dry_base,
                allowed_length: self.dry_allowed_length,
                window: self.dry_penalty_last_n.0,
                breakers,
            },
            mirostat,
            stages: self.samplers.as_ref().map_or(Stage::DEFAULT_ORDER.to_vec(), |s| s.0.clone()),
            seed,
        }
    }
}

/// Tokens to look back.
#[derive(Clone, Copy, Debug)]
struct Window(usize);

fn window(text: &str) -> Result<Window, String> {
    match text.parse::<i64>() {
        Ok(-1) => Ok(Window(usize::MAX)),
        Ok(n @ 0..) => Ok(Window(n as usize)),
        _ => Err("expected a number of tokens, 0 for none or -1 for all".to_owned()),
    }
}

/// Stages in an order.
#[derive(Clone, Debug)]
struct Stages(Vec<Stage>);

fn stages(text: &str) -> Result<Stages, String> {
    let names = text.split([';', ',']).map(str::trim).filter(|name| !name.is_empty());
    let stage = |name| {
        let known = || Stage::DEFAULT_ORDER.map(Stage::name).join(", ");
        Stage::from_name(name).ok_or_else(|| format!("unknown sampler {name:?}; choose from {}", known()))
    };
    names.map(stage).collect::<Result<_, _>>().map(Stages)
}
