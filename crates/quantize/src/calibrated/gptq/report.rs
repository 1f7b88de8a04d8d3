//! What happened to every module, for the table at the end and the log in the output.

use serde::{Deserialize, Serialize};

/// One module.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModuleReport {
    /// Its block.
    pub layer: usize,
    /// Its name.
    pub module: String,
    /// Inputs.
    pub columns: usize,
    /// Outputs.
    pub rows: usize,
    /// Bits per code.
    pub bits: u32,
    /// Input columns that share a scale; `None` for all of a row.
    pub group_size: Option<usize>,
    /// GPTQ's loss per token: `sum (w - q)^2 / (2 U_ii^2)` over the tokens. Comparable between settings of the
    /// same module only.
    pub loss: f64,
    /// Damping it took, as a share of the Hessian's mean diagonal.
    pub damp: f64,
    /// Calibration tokens it saw.
    pub tokens: u64,
    /// Input columns that no token ever moved; their weights became zero.
    pub dead_columns: usize,
    /// Seconds of solving.
    pub seconds: f64,
    /// Why it was rounded to nearest instead, if it was.
    pub fallback: Option<String>,
}

/// The whole job.
#[derive(Clone, Debug, Serialize)]
pub struct GptqReport {
    /// Modules quantized, in order.
    pub modules: Vec<ModuleReport>,
    /// Modules that a rule left as they are.
    pub skipped: Vec<String>,
    /// Blocks taken over from a run that was stopped.
    pub resumed_blocks: usize,
    /// Calibration tokens.
    pub tokens: usize,
    /// Bytes of the tensor files written.
    pub bytes: u64,
    /// Bits per value over all tensors of the output.
    pub bits_per_weight: f64,
    /// Seconds in all.
    pub seconds: f64,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// The log as comma-separated values, with GPT-QModel's columns first. Its column of times is left out: files of a
/// model are the same whenever and wherever they are made.
pub(super) fn csv(modules: &[ModuleReport]) -> String {
    let mut out =
        String::from("layer,module,loss,samples,damp,rows,columns,bits,group_size,dead_columns,fallback\n");
    for m in modules {
        let group = m.group_size.map_or_else(|| "-1".to_owned(), |g| g.to_string());
        let fallback = m.fallback.as_deref().unwrap_or("").replace([',', '\n', '"'], ";");
        out += &format!(
            "{},{},{:.10},{},{:.5},{},{},{},{group},{},{fallback}\n",
            m.layer, m.module, m.loss, m.tokens, m.damp, m.rows, m.columns, m.bits, m.dead_columns,
        );
    }
    out
}
