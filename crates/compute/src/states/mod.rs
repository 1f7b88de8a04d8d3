//! Mixers with a state of fixed size, on the CPU: causal convolutions over few positions, the gated delta
//! rule and the selective scan.
//!
//! Everything is f32, `[tokens][width]`. A state is what the tokens so far leave behind; it begins at zero. Work is
//! divided among the threads by heads and columns of the state, or by tokens, and no result depends on their number.

mod conv;
mod delta;
mod gate;
mod scan;
mod tiles;

pub use conv::{Taps, causal_conv, conv_state};
pub use delta::{DeltaShape, delta_rule};
pub use gate::{decays, gated_norm, multiply, norm_of_gated, sigmoid, sigmoid_gate, time_steps};
pub use scan::{ScanShape, selective_scan};
