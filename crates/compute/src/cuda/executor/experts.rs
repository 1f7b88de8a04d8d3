//! The choice of experts.

use super::super::Pointer;
use super::super::args::RouteArgs;
use super::{Executor, Geometry};
use crate::executor::{MOST_GPU_EXPERTS, Routing};
use crate::{Error, Result};

impl Executor {
    /// Chooses experts for `n` rows of the router's outputs: their numbers and shares, `[n][used]` each.
    pub(super) fn choose(
        &mut self,
        logits: Pointer,
        n: usize,
        routing: Routing,
        [expert, share]: [Pointer; 2],
    ) -> Result<()> {
        let Routing { count, used, normalized } = routing;
        if used > count || count > MOST_GPU_EXPERTS {
            let what = "experts: those that a token uses, of at most 1024";
            return Err(Error::Lengths {
                what,
                expected: count.min(MOST_GPU_EXPERTS),
                found: used.max(count),
            });
        }
        let arguments = RouteArgs {
            logits: logits.address(),
            expert: expert.address(),
            share: share.address(),
            n: n as i32,
            count: count as i32,
            used: used as i32,
            normalized: i32::from(normalized),
        };
        let geometry = Geometry { block: 32, ..Geometry::rows([n as u32, 1, 1]) };
        // SAFETY: the logits are whole rows, and there is room for the choices.
        unsafe { self.launch("experts", "experts_route", geometry, &arguments) }
    }
}
