//! The steps of a mixture of experts.

use super::super::Pointer;
use super::super::args::{MoveArgs, RouteArgs};
use super::linear::same;
use super::replay::{cuda, cuda_mut};
use super::{Executor, Geometry};
use crate::executor::{Choice, Routing, Values, ValuesMut};
use crate::{Error, Result};

/// Most experts that `experts_route` chooses from.
const MOST_EXPERTS: usize = 1024;

impl Executor {
    /// As [`crate::Executor::route`]: the choice is made on the card, the lists on the host.
    ///
    /// # Errors
    /// Lengths and devices that do not fit.
    pub fn route(&mut self, logits: ValuesMut<'_>, routing: Routing) -> Result<Vec<Vec<Choice>>> {
        let logits = cuda_mut(logits)?;
        let Routing { count, used, .. } = routing;
        let n = logits.len() / count.max(1);
        same("route: whole rows", n * count, logits.len())?;
        let bytes = 4 * n * used;
        let chosen = self.workspace.choices.of(&self.stream, 2 * bytes)?;
        self.choose(logits.pointer(), n, routing, [chosen, chosen.at(bytes)])?;
        let mut read = vec![0u8; 2 * bytes];
        let memory = self.workspace.choices.memory().ok_or(Error::Device)?;
        self.stream.download(&mut read, memory, 0)?;
        let (experts, shares) = read.split_at(bytes);
        let word = |bytes: &[u8], at: usize| [0, 1, 2, 3].map(|i| bytes[4 * at + i]);
        let mut lists: Vec<Vec<Choice>> = vec![Vec::new(); count];
        for at in 0..n * used {
            let (expert, share) =
                (u32::from_le_bytes(word(experts, at)), f32::from_le_bytes(word(shares, at)));
            if let Some(list) = lists.get_mut(expert as usize) {
                list.push(Choice { token: (at / used) as u32, share });
            }
        }
        Ok(lists)
    }

    /// Chooses experts for `n` rows of the router's outputs: their numbers and shares, `[n][used]` each.
    pub(super) fn choose(
        &mut self,
        logits: Pointer,
        n: usize,
        routing: Routing,
        [expert, share]: [Pointer; 2],
    ) -> Result<()> {
        let Routing { count, used, normalized } = routing;
        if used > count || count > MOST_EXPERTS {
            let what = "experts: those that a token uses, of at most 1024";
            return Err(Error::Lengths { what, expected: count.min(MOST_EXPERTS), found: used.max(count) });
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

    /// Tokens and shares on the card.
    fn choices(&mut self, choices: &[Choice]) -> Result<(Pointer, Pointer)> {
        let bytes = 4 * choices.len();
        let tokens = choices.iter().flat_map(|choice| choice.token.to_le_bytes());
        let shares = choices.iter().flat_map(|choice| choice.share.to_le_bytes());
        let written: Vec<u8> = tokens.chain(shares).collect();
        let start = self.workspace.choices.of(&self.stream, 2 * bytes)?;
        let memory = self.workspace.choices.memory().ok_or(Error::Device)?;
        self.stream.upload(memory, 0, &written)?;
        Ok((start, start.at(bytes)))
    }

    /// As [`crate::Executor::gather`].
    ///
    /// # Errors
    /// Lengths and devices that do not fit.
    pub fn gather(
        &mut self,
        x: Values<'_>,
        width: usize,
        choices: &[Choice],
        out: ValuesMut<'_>,
    ) -> Result<()> {
        let out = cuda_mut(out)?;
        self.transfer("experts_gather", cuda(x)?, out, width, choices)
    }

    /// As [`crate::Executor::scatter`].
    ///
    /// # Errors
    /// Lengths and devices that do not fit.
    pub fn scatter(
        &mut self,
        rows: Values<'_>,
        width: usize,
        choices: &[Choice],
        out: ValuesMut<'_>,
    ) -> Result<()> {
        let out = cuda_mut(out)?;
        self.transfer("experts_scatter", out, cuda(rows)?, width, choices)
    }

    /// Moves rows between tokens (`x`) and an expert (`rows`).
    fn transfer(
        &mut self,
        kernel: &str,
        x: super::super::Values<'_>,
        rows: super::super::Values<'_>,
        width: usize,
        choices: &[Choice],
    ) -> Result<()> {
        same("experts: rows", choices.len() * width, rows.len())?;
        let tokens = x.len() / width.max(1);
        if let Some(choice) = choices.iter().find(|choice| choice.token as usize >= tokens) {
            return Err(Error::Lengths {
                what: "experts: tokens",
                expected: tokens,
                found: choice.token as usize + 1,
            });
        }
        if choices.is_empty() {
            return Ok(());
        }
        let (token, share) = self.choices(choices)?;
        let arguments = MoveArgs {
            x: x.pointer().address(),
            rows: rows.pointer().address(),
            token: token.address(),
            share: share.address(),
            width: width as i32,
            ..MoveArgs::default()
        };
        let geometry = Geometry::rows([(width as u32).div_ceil(1024), choices.len() as u32, 1]);
        // SAFETY: rows and tokens were checked.
        unsafe { self.launch("experts", kernel, geometry, &arguments) }
    }
}
