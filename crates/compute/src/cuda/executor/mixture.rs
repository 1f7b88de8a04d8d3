//! A router and the experts that it chooses.
//!
//! ```text
//! up to four tokens   router -> choice -> for each token: gate and up of its experts -> down, summed by share
//! more                router -> choice -> rows by expert -> gate and up, down of each expert -> sums
//! ```
//!
//! For few tokens all is queued without an answer from the card, so that a pass can be recorded: each launch finds the
//! numbers of its experts in the card's memory. For more the host reads once how many rows each expert has.

use super::super::args::MoveArgs;
use super::super::formats::{MatrixArgs, MatvecActivation, MatvecArgs, MatvecEpilogue, MatvecPrologue};
use super::Executor;
use super::experts::{GRID, Lists};
use super::few::{activation, matrix_of};
use super::linear::{FEW, Source, Target, Then};
use crate::Result;
use crate::error::same;
use crate::executor::{ExpertLayers, ExpertStacks, Mixture, Rows, ValuesMut, Weight};

impl Executor {
    /// As [`crate::Executor::experts`].
    ///
    /// # Errors
    /// Lengths and devices that do not fit.
    pub fn experts(&mut self, mixture: &Mixture<'_>, rows: Rows<'_>) -> Result<()> {
        let (x, norm, out, then) = match rows {
            Rows::Apart { input, out } => (input.values().cuda()?, input.norm(), out.cuda()?, Then::Store),
            Rows::InPlace { norm, x } => {
                let x = x.cuda()?;
                (x, Some(norm), x, Then::Add)
            }
        };
        let Mixture { router, experts, stacks, routing, .. } = *mixture;
        let hidden = router.weight.columns();
        let tokens = x.len() / hidden.max(1);
        same("experts: whole rows", tokens * hidden, x.len())?;
        same("experts: output", x.len(), out.len())?;
        same("experts: rows of the router", routing.count, router.weight.rows())?;
        same("experts: networks", routing.count, experts.len())?;
        for ExpertLayers { gate, up, down } in experts {
            let inner = up.weight.rows();
            if let Some(gate) = gate {
                same("experts: columns of a gate", hidden, gate.weight.columns())?;
                same("experts: rows of a gate", inner, gate.weight.rows())?;
            }
            same("experts: columns of an up projection", hidden, up.weight.columns())?;
            same("experts: columns of a down projection", inner, down.weight.columns())?;
            same("experts: rows of a down projection", hidden, down.weight.rows())?;
        }
        for linear in experts.iter().flat_map(|layers| layers.linears()).chain([router]) {
            linear.weight.cuda()?.on(&self.card)?;
        }
        if tokens == 0 {
            return Ok(());
        }
        if routing.used == 0 {
            return if then == Then::Add { Ok(()) } else { self.clear(ValuesMut::Cuda(out)) };
        }
        let source = Source { x: x.pointer(), norm, tokens };
        let target = Target { out: out.pointer(), stride: hidden };
        match stacks {
            Some(stacks) if tokens <= FEW => self.few_experts(mixture, stacks, source, target, then),
            _ => self.many_experts(mixture, source, target, then),
        }
    }

    /// The router's choice.
    fn chosen(&mut self, mixture: &Mixture<'_>, source: Source<'_>) -> Result<Lists> {
        let (tokens, count, used) = (source.tokens, mixture.routing.count, mixture.routing.used);
        let logits = self.workspace.logits.of(&self.stream, 4 * tokens * count)?;
        self.joined(&[mixture.router], source, Target { out: logits, stride: count }, Then::Store)?;
        let start = self.workspace.choices.of(&self.stream, Lists::bytes(tokens * used, count))?;
        let lists = Lists::at(start, tokens * used);
        let routing = (mixture.routing, mixture.choice_bias);
        self.choose(logits, tokens, routing, [lists.expert, lists.share])?;
        Ok(lists)
    }

    /// Stacked experts of up to four tokens.
    fn few_experts(
        &mut self,
        mixture: &Mixture<'_>,
        stacks: &ExpertStacks,
        source: Source<'_>,
        target: Target,
        then: Then,
    ) -> Result<()> {
        let lists = self.chosen(mixture, source)?;
        let (up, down) = (stacks.up.cuda()?, stacks.down.cuda()?);
        let gate = stacks.gate.as_ref().map(Weight::cuda).transpose()?;
        let (used, inner, hidden) = (mixture.routing.used, up.rows, up.columns);
        let row = 4 * used * inner;
        let wide = self.workspace.wide.of(&self.stream, source.tokens * row)?;
        let [gate_bias, up_bias, down_bias] = self.biases(stacks)?;
        let mut widen = MatvecArgs {
            m: [matrix_of(up, 0, inner), MatrixArgs::default(), MatrixArgs::default()],
            bias: [up_bias, 0, 0],
            matrices: 1,
            epilogue: MatvecEpilogue::Store as i32,
            activation: activation(mixture.activation),
            slots: used as i32,
            x_stride: hidden as i32,
            out_stride: (used * inner) as i32,
            share_input: i32::from(mixture.scaled_inputs),
            x_scale: 1.0,
            ..MatvecArgs::default()
        };
        if let Some(gate) = gate {
            (widen.m[0], widen.m[1]) = (matrix_of(gate, 0, inner), widen.m[0]);
            (widen.bias[0], widen.bias[1]) = (gate_bias, up_bias);
            (widen.matrices, widen.epilogue) = (2, MatvecEpilogue::Gated as i32);
        }
        self.normalize(&mut widen, source.norm)?;
        let mut narrow = MatvecArgs {
            m: [matrix_of(down, 0, hidden), MatrixArgs::default(), MatrixArgs::default()],
            bias: [down_bias, 0, 0],
            matrices: 1,
            prologue: MatvecPrologue::Plain as i32,
            activation: MatvecActivation::None as i32,
            sum_slots: 1,
            x_stride: inner as i32,
            out_stride: hidden as i32,
            x_scale: 1.0,
            ..MatvecArgs::default()
        };
        // Inputs of this many experts fit into shared memory at once.
        let most = down.most_vectors().clamp(1, used);
        for token in 0..source.tokens {
            let list = 4 * token * used;
            widen.x = source.x.at(4 * token * hidden).address();
            widen.out = wide.at(token * row).address();
            widen.expert = lists.expert.at(list).address();
            if mixture.scaled_inputs {
                widen.share = lists.share.at(list).address();
            }
            self.launch_matvec(up.format, "matvec_1", used * inner, 1, &widen)?;
            narrow.out = target.out.at(4 * token * hidden).address();
            for start in (0..used).step_by(most) {
                let slots = most.min(used - start);
                let add = start > 0 || then == Then::Add;
                narrow.epilogue = if add { MatvecEpilogue::Add } else { MatvecEpilogue::Store } as i32;
                narrow.slots = slots as i32;
                narrow.x = wide.at(token * row + 4 * start * inner).address();
                narrow.expert = lists.expert.at(list + 4 * start).address();
                if !mixture.scaled_inputs {
                    narrow.share = lists.share.at(list + 4 * start).address();
                }
                self.launch_matvec(down.format, "matvec_1", hidden, slots, &narrow)?;
            }
        }
        Ok(())
    }

    /// Addresses of the biases of stacked experts; 0 where there are none.
    fn biases(&self, stacks: &ExpertStacks) -> Result<[u64; 3]> {
        let mut addresses = [0; 3];
        for (address, bias) in addresses.iter_mut().zip(&stacks.biases) {
            if let Some(bias) = bias {
                *address = bias.cuda()?.on(&self.card)?.pointer().address();
            }
        }
        Ok(addresses)
    }

    /// Expert by expert.
    fn many_experts(
        &mut self,
        mixture: &Mixture<'_>,
        source: Source<'_>,
        target: Target,
        then: Then,
    ) -> Result<()> {
        let hidden = target.stride;
        let (tokens, used) = (source.tokens, mixture.routing.used);
        let mut x = source.x;
        if let Some(norm) = source.norm {
            let normed = self.workspace.tokens.of(&self.stream, 4 * tokens * hidden)?;
            self.norm_rows(norm, x, normed, tokens)?;
            x = normed;
        }
        let lists = self.chosen(mixture, Source { x, norm: None, tokens })?;
        let first = self.grouped(mixture.routing, &lists, tokens)?;
        let slots = tokens * used;
        let rows = self.workspace.rows.of(&self.stream, 4 * slots * hidden)?;
        let scaled = i32::from(mixture.scaled_inputs);
        let moved = MoveArgs { width: hidden as i32, used: used as i32, scaled, ..MoveArgs::default() };
        for start in (0..slots).step_by(GRID) {
            let arguments = MoveArgs {
                x: x.address(),
                rows: rows.at(4 * start * hidden).address(),
                token: lists.token.at(4 * start).address(),
                share: lists.slot_share.at(4 * start).address(),
                ..moved
            };
            self.move_rows("experts_gather", GRID.min(slots - start), &arguments)?;
        }
        for (expert, &ExpertLayers { gate, up, down }) in mixture.experts.iter().enumerate() {
            let (start, end) = (first[expert], first[expert + 1]);
            if start == end {
                continue;
            }
            let (inner, own) = (up.weight.rows(), rows.at(4 * start * hidden));
            let wide = self.workspace.wide.of(&self.stream, 4 * slots * inner)?;
            let source = |x| Source { x, norm: None, tokens: end - start };
            let (act, inside) = (mixture.activation, Target { out: wide, stride: inner });
            match gate {
                Some(gate) => self.gated(&[gate, up], act, source(own), inside)?,
                None => self.joined(&[up], source(own), inside, Then::Activate(act))?,
            }
            // Its inputs are not read again.
            self.joined(&[down], source(wide), Target { out: own, stride: hidden }, Then::Store)?;
        }
        let out = match then {
            Then::Add => self.workspace.tokens.of(&self.stream, 4 * tokens * hidden)?,
            Then::Store | Then::Activate(_) => target.out,
        };
        for start in (0..tokens).step_by(GRID) {
            let arguments = MoveArgs {
                x: out.at(4 * start * hidden).address(),
                rows: rows.address(),
                slot: lists.slot.at(4 * start * used).address(),
                share: lists.share.at(4 * start * used).address(),
                ..moved
            };
            self.move_rows("experts_combine", GRID.min(tokens - start), &arguments)?;
        }
        match then {
            Then::Add => self.flat("rows_add", target.out, out, tokens * hidden, 0.0),
            Then::Store | Then::Activate(_) => Ok(()),
        }
    }
}
