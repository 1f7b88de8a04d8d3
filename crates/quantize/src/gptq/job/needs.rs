//! Memory and disk space that a job takes, known before it begins.
//!
//! ```text
//! memory   all tokens     residual stream, inputs of the network, inputs of the next group
//!          a sequence     its activations, keys and values, the packed inputs of the Hessian
//!          a group        the Hessian in its order and as it was; weights, their solution, the packed modules
//! disk     unfinished     packed modules, and while one residual stream is written, the one before
//!          output         packed modules, and every other tensor as the source has it
//! ```

use quern_run::Model;

use super::{GptqModule, Options};
use crate::gptq::Settings;

/// Bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Needs {
    pub memory: u64,
    pub output: u64,
    pub disk: u64,
}

impl Needs {
    pub fn of(model: &Model, options: &Options, modules: &[GptqModule]) -> Self {
        let packed = modules.iter().map(packed_bytes).sum::<u64>();
        let checkpoint = model.checkpoint();
        let stored = |name: &str| checkpoint.tensor(name).map_or(0, |t| t.info.bytes as u64);
        let replaced =
            modules.iter().filter(|m| m.settings.is_some()).map(|m| stored(&m.weight)).sum::<u64>();
        let all = checkpoint.tensors().iter().map(|t| t.bytes as u64).sum::<u64>();
        let output = all.saturating_sub(replaced) + packed;
        let hidden = 4 * tokens(options) * model.config().hidden_size as u64;
        Self { memory: memory(model, options, modules), output, disk: packed + 2 * hidden + output }
    }
}

/// Bytes of the four tensors of a module; none if it stays as it is.
fn packed_bytes(module: &GptqModule) -> u64 {
    let Some(Settings { bits, group_size, .. }) = &module.settings else { return 0 };
    let (rows, columns, bits) = (module.rows as u64, module.columns as u64, u64::from(*bits));
    let groups = group_size.map_or(1, |size| columns.div_ceil(size.max(1) as u64));
    rows * columns * bits / 8 + groups * rows * bits / 8 + 2 * groups * rows + 4 * columns
}

/// Tokens that are run, all at once.
fn tokens(options: &Options) -> u64 {
    options.samples.sequences.iter().map(|sequence| sequence.len() as u64).sum()
}

fn memory(model: &Model, options: &Options, modules: &[GptqModule]) -> u64 {
    let config = model.config();
    let tokens = tokens(options);
    let longest = options.samples.sequences.iter().map(Vec::len).max().unwrap_or(0) as u64;
    let (hidden, ffn) = (config.hidden_size as u64, config.ffn_size as u64);
    let (query, key) = ((config.heads * config.head_dim) as u64, (config.kv_heads * config.head_dim) as u64);
    let columns = modules.iter().map(|m| m.columns as u64).max().unwrap_or(0);
    let activations = tokens * (2 * hidden + ffn.max(query).max(hidden));
    let sequence = longest * (2 * hidden + 2 * query + 4 * key + columns);
    // In f32, as codes of a byte, and packed.
    let weights = modules.iter().map(|m| (m.rows * m.columns) as u64).max().unwrap_or(0);
    4 * (activations + sequence + 2 * columns * columns + 2 * weights)
}
