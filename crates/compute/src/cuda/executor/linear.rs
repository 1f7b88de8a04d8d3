//! Groups of linear layers: how they are divided into launches.

use super::super::Pointer;
use super::super::formats::MATVEC_TOKENS;
use super::Executor;
use crate::Result;
use crate::error::same;
use crate::executor::{Input, Linear, Norm, Output};
use crate::ops::Activation;

/// Up to so many tokens are multiplied as vectors.
pub(super) const FEW: usize = MATVEC_TOKENS;

/// What layers read.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub x: Pointer,
    pub norm: Option<&'a Norm>,
    pub tokens: usize,
}

/// Where results go: floats from one token to the next are `stride`.
#[derive(Clone, Copy)]
pub(super) struct Target {
    pub out: Pointer,
    pub stride: usize,
}

/// What is done with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    Store,
    Add,
    Activate(Activation),
}

impl Executor {
    /// As [`crate::Executor::linear`].
    ///
    /// # Errors
    /// Lengths and devices that do not fit.
    pub fn linear<const N: usize>(
        &mut self,
        linears: [&Linear; N],
        input: Input<'_>,
        output: Output<'_, N>,
    ) -> Result<()> {
        let columns = linears[0].weight.columns();
        let (x, norm) = (input.values().cuda()?, input.norm());
        let tokens = x.len() / columns;
        same("linear: whole rows of the input", tokens * columns, x.len())?;
        for linear in linears {
            same("linear: columns of the layers", columns, linear.weight.columns())?;
            linear.weight.cuda()?.on(&self.card)?;
        }
        if tokens == 0 {
            return Ok(());
        }
        let source = Source { x: x.pointer(), norm, tokens };
        let rows = linears.map(|l| l.weight.rows());
        match output {
            Output::Store(outputs) => {
                for ((linear, out), rows) in linears.into_iter().zip(outputs).zip(rows) {
                    let out = out.cuda()?;
                    same("linear: output", tokens * rows, out.len())?;
                    self.joined(&[linear], source, Target { out: out.pointer(), stride: rows }, Then::Store)?;
                }
                Ok(())
            }
            Output::Join(out) => {
                let (out, stride) = (out.cuda()?, rows.iter().sum());
                same("linear: joined output", tokens * stride, out.len())?;
                self.joined(&linears, source, Target { out: out.pointer(), stride }, Then::Store)
            }
            Output::Add(x) => {
                let x = x.cuda()?;
                for linear in linears {
                    let stride = linear.weight.rows();
                    same("linear: sum", tokens * stride, x.len())?;
                    self.joined(&[linear], source, Target { out: x.pointer(), stride }, Then::Add)?;
                }
                Ok(())
            }
            Output::Activate(act, out) => {
                let out = out.cuda()?;
                same("linear: output", tokens * rows[0], out.len())?;
                let target = Target { out: out.pointer(), stride: rows[0] };
                self.joined(&linears[..1], source, target, Then::Activate(act))
            }
            Output::Gate(act, out) => {
                let out = out.cuda()?;
                let width = if N == 2 { rows[0] } else { rows[0] / 2 };
                same("linear: gated output", tokens * width, out.len())?;
                let target = Target { out: out.pointer(), stride: width };
                self.gated(&linears, act, source, target)
            }
        }
    }

    /// Layers whose results are side by side: as few launches as their formats and orders of columns allow.
    pub(super) fn joined(
        &mut self,
        linears: &[&Linear],
        source: Source<'_>,
        target: Target,
        then: Then,
    ) -> Result<()> {
        let (mut start, mut at) = (0, 0);
        while start < linears.len() {
            let key = |l: &Linear| -> Result<(super::super::formats::Format, Option<u64>)> {
                let order = l.cuda_permutation()?;
                Ok((l.weight.cuda()?.format, order.map(|order| order.pointer().address())))
            };
            let own = key(linears[start])?;
            let mut end = start + 1;
            while end < linears.len() && end - start < 3 && key(linears[end])? == own {
                end += 1;
            }
            let group = &linears[start..end];
            let target = Target { out: target.out.at(4 * at), ..target };
            match source.tokens <= FEW && self.most_vectors(group[0])? > 0 {
                true => self.few(group, source, target, then)?,
                false => self.many(group, source, target, then)?,
            }
            at += group.iter().map(|l| l.weight.rows()).sum::<usize>();
            start = end;
        }
        Ok(())
    }

    pub(super) fn gated(
        &mut self,
        linears: &[&Linear],
        act: Activation,
        source: Source<'_>,
        target: Target,
    ) -> Result<()> {
        let fused = match linears {
            [gate, up] => {
                gate.permutation.is_none()
                    && up.permutation.is_none()
                    && gate.weight.cuda()?.pairs_with(up.weight.cuda()?)
            }
            _ => linears[0].permutation.is_none(),
        };
        if fused {
            if source.tokens <= FEW && self.most_vectors(linears[0])? > 0 {
                return self.few_gated(linears, act, source, target);
            }
            if self.many_gated(linears, act, source, target)? {
                return Ok(());
            }
        }
        // Both apart, then the product.
        let total = linears.iter().map(|l| l.weight.rows()).sum::<usize>();
        let both = self.workspace.vectors[0].of(&self.stream, 4 * source.tokens * total)?;
        self.joined(linears, source, Target { out: both, stride: total }, Then::Store)?;
        let both = Target { out: both, stride: total };
        self.activate_mul(act, source.tokens, target, both)
    }
}
