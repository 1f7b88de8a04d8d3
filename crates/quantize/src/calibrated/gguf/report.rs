//! What happened to every layer.

use serde::{Deserialize, Serialize};

/// One linear layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerReport {
    /// GGUF name of its tensor.
    pub tensor: String,
    /// Which expert of the tensor it is.
    pub expert: Option<usize>,
    /// The type it got.
    pub element_type: String,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub columns: usize,
    /// Half the mean square error of the output over the calibration tokens, summed over rows, with the damping counted
    /// in; `None` without error feedback.
    pub loss: Option<f64>,
    /// Damping it took, as a share of the Hessian's mean diagonal; 0 without error feedback.
    pub damp: f64,
    /// Calibration tokens it saw; of the embedding, those whose gradients were taken.
    pub tokens: u64,
    /// Input columns that no token ever moved.
    pub dead_columns: usize,
    /// Seconds of solving.
    pub seconds: f64,
    /// Why it was rounded without error feedback, if its type has it.
    pub fallback: Option<String>,
}

/// The whole job.
#[derive(Clone, Debug, Serialize)]
pub struct GgufReport {
    /// Layers that were calibrated, in order.
    pub layers: Vec<LayerReport>,
    /// The token embedding, if it was rounded for what its errors cost.
    pub embedding: Option<LayerReport>,
    /// Blocks taken over from a run that was stopped.
    pub resumed_blocks: usize,
    /// Calibration tokens.
    pub tokens: usize,
    /// Bytes of the file.
    pub bytes: u64,
    /// Bits per weight over all tensors.
    pub bits_per_weight: f64,
    /// Seconds in all.
    pub seconds: f64,
    /// What the user should know.
    pub warnings: Vec<String>,
}

/// One warning for each tensor with layers that were rounded without error feedback though their type has it.
pub(super) fn fallbacks<'a>(layers: impl Iterator<Item = &'a LayerReport>) -> Vec<String> {
    let mut found: Vec<(&str, usize, usize, &str)> = Vec::new();
    for layer in layers {
        let at = found.iter().position(|(tensor, ..)| *tensor == layer.tensor).unwrap_or_else(|| {
            found.push((&layer.tensor, 0, 0, ""));
            found.len() - 1
        });
        let (_, all, fallen, reason) = &mut found[at];
        *all += 1;
        if let Some(why) = &layer.fallback {
            *fallen += 1;
            *reason = why;
        }
    }
    let fallen = found.into_iter().filter(|(_, _, fallen, _)| *fallen > 0);
    let sentence = |(tensor, all, fallen, why): (&str, usize, usize, &str)| match all {
        1 => format!("{tensor}: rounded without error feedback, {why}"),
        _ => format!(
            "{tensor}: {fallen} of {all} experts were rounded without error feedback; of the last: {why}"
        ),
    };
    fallen.map(sentence).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn experts_of_a_tensor_share_a_warning() {
        let layer = |tensor: &str, expert, fallback: Option<&str>| LayerReport {
            tensor: tensor.to_owned(),
            expert,
            element_type: "q4_0".into(),
            rows: 1,
            columns: 32,
            loss: None,
            damp: 0.0,
            tokens: 3,
            dead_columns: 0,
            seconds: 0.0,
            fallback: fallback.map(str::to_owned),
        };
        let layers = [
            layer("a", None, None),
            layer("b", Some(0), Some("it saw only 0 of 9 tokens")),
            layer("b", Some(1), None),
            layer("b", Some(2), Some("it saw only 1 of 9 tokens")),
            layer("c", None, Some("why")),
        ];
        let expected = [
            "b: 2 of 3 experts were rounded without error feedback; of the last: it saw only 1 of 9 tokens",
            "c: rounded without error feedback, why",
        ];
        assert_eq!(fallbacks(layers.iter()), expected);
    }
}
