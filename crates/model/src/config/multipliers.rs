//! Numbers that the outputs of single layers are multiplied with (Falcon-H1). GGUF has them in the weights.

use quern_tensor_io::Result;
use serde_json::Value as Json;

use crate::architecture::{Hybrid, TensorRole};
use crate::json::Object;

use super::Config;

/// What the outputs of layers are multiplied with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Multipliers {
    /// Attention's input.
    pub attention_in: f32,
    /// Attention's result.
    pub attention_out: f32,
    /// Its keys.
    pub key: f32,
    /// The input of the mixer with a state.
    pub state_in: f32,
    /// Its gate, inputs, `b`, `c` and steps.
    pub state: [f32; 5],
    /// Its result.
    pub state_out: f32,
    /// The network's gate, before the activation.
    pub gate: f32,
    /// The network's result.
    pub down: f32,
}

impl Multipliers {
    /// What attention scores are multiplied with.
    pub fn scores(&self) -> f32 {
        self.attention_in * self.attention_in * self.key
    }

    /// What is multiplied with what in front of the output projection of attention.
    pub fn attended(&self) -> f32 {
        self.attention_in * self.attention_out
    }

    /// The five of what a state is computed from, with that of its input.
    pub fn of_state(&self) -> [f32; 5] {
        self.state.map(|own| self.state_in * own)
    }

    /// Whether all can be multiplied with.
    pub(super) fn are_valid(&self) -> bool {
        let Self { attention_in, attention_out, key, state_in, state, state_out, gate, down } = *self;
        let all = [attention_in, attention_out, key, state_in, state_out, gate, down];
        all.into_iter().chain(state).all(|v| v.is_finite() && v > 0.0)
    }
}

/// What a `config.json` says.
pub(super) fn from_hf(root: &Object<'_>, hybrid: Hybrid) -> Result<Option<Multipliers>> {
    if hybrid != Hybrid::Beside {
        return Ok(None);
    }
    let one = |key: &str| -> Result<f32> { Ok(root.f64(key)?.unwrap_or(1.0) as f32) };
    let [gate, down] = listed(root, "mlp_multipliers")?;
    Ok(Some(Multipliers {
        attention_in: one("attention_in_multiplier")?,
        attention_out: one("attention_out_multiplier")?,
        key: one("key_multiplier")?,
        state_in: one("ssm_in_multiplier")?,
        state: listed(root, "ssm_multipliers")?,
        state_out: one("ssm_out_multiplier")?,
        gate,
        down,
    }))
}

/// A list of numbers, all 1 where there is none.
fn listed<const N: usize>(root: &Object<'_>, key: &str) -> Result<[f32; N]> {
    let Some(list) = root.array(key)? else { return Ok([1.0; N]) };
    let numbers: Vec<f32> = list.iter().filter_map(Json::as_f64).map(|v| v as f32).collect();
    numbers.try_into().map_err(|_| root.error(key, format!("{N} numbers are expected")))
}

impl Config {
    /// What row `row` of a matrix of this role is multiplied with in GGUF, in this order.
    pub(crate) fn row_factors(&self, role: TensorRole, row: usize) -> [f32; 2] {
        use TensorRole as R;
        let Some(own) = self.multipliers else { return [1.0; 2] };
        match role {
            R::TokenEmbedding => [self.embedding_multiplier, 1.0],
            R::Output => [self.logit_multiplier, 1.0],
            R::AttentionQ | R::AttentionV => [own.attention_in, 1.0],
            R::AttentionK => [own.key, own.attention_in],
            R::AttentionOutput => [own.attention_out, 1.0],
            R::StateIn => {
                let Some(mamba) = self.mamba2() else { return [own.state_in, 1.0] };
                let (inner, shared) = (mamba.inner(), mamba.groups * mamba.state);
                let ends = [inner, 2 * inner, 2 * inner + shared, 2 * inner + 2 * shared, usize::MAX];
                let part = ends.iter().position(|&end| row < end).unwrap_or(4);
                [own.state_in, own.state[part]]
            }
            R::StateOut => [own.state_out, 1.0],
            R::FfnGate => [own.gate, 1.0],
            R::FfnDown => [own.down, 1.0],
            _ => [1.0; 2],
        }
    }
}
