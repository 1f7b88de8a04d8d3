//! The choice of experts, and rows on their way to one expert and back.

use super::super::Pointer;
use super::super::args::{GroupArgs, MoveArgs, RouteArgs};
use super::{Executor, Geometry};
use crate::error::same;
use crate::executor::{Choice, GroupRank, MOST_GPU_EXPERTS, Routing, Scores, Values, ValuesMut, Vector};
use crate::{Error, Result};

/// Most rows of a grid.
pub(super) const GRID: usize = 1 << 15;

/// Where lists of choices are on the card, 4 bytes a number.
#[derive(Clone, Copy)]
pub(super) struct Lists {
    /// Experts of each token by number, and their shares: `[tokens][used]`.
    pub expert: Pointer,
    pub share: Pointer,
    /// The row of each choice.
    pub slot: Pointer,
    /// The token of each row, rows in the order of experts; its share.
    pub token: Pointer,
    pub slot_share: Pointer,
    /// Where each expert's rows begin.
    first: Pointer,
    /// The same, from the beginning of the lists in bytes.
    first_at: usize,
}

impl Lists {
    /// Bytes of the lists of so many choices.
    pub fn bytes(choices: usize, experts: usize) -> usize {
        4 * (5 * choices + experts + 1)
    }

    /// Those that begin at `start`.
    pub fn at(start: Pointer, choices: usize) -> Self {
        // What `route` copies to RAM follows each other.
        let [expert, share, slot, token, slot_share, first] =
            [0, 1, 2, 3, 4, 5].map(|i| start.at(4 * i * choices));
        Self { expert, share, slot, token, slot_share, first, first_at: 20 * choices }
    }
}

/// The choices of one router, on the card and in RAM.
#[derive(Debug, Default)]
pub(super) struct Routed {
    /// Those of expert 0 first.
    choices: Vec<Choice>,
    /// Where each expert's begin, and the end of the last's.
    first: Vec<usize>,
}

impl Routed {
    /// Where these choices, all or some of an expert's, begin among those of all experts.
    fn position(&self, choices: &[Choice]) -> Option<usize> {
        let first = choices.first()?;
        self.first.windows(2).find_map(|range| {
            let own = &self.choices[range[0]..range[1]];
            let at = own.iter().position(|choice| choice.token == first.token)?;
            own[at..].starts_with(choices).then_some(range[0] + at)
        })
    }
}

impl Executor {
    /// Chooses experts for `n` rows of the router's outputs: their numbers and shares, `[n][used]` each.
    pub(super) fn choose(
        &mut self,
        logits: Pointer,
        n: usize,
        (routing, bias): (Routing, Option<&Vector>),
        [expert, share]: [Pointer; 2],
    ) -> Result<()> {
        let Routing { count, used, scores, normalized, scale, groups } = routing;
        routing.check(n * count, MOST_GPU_EXPERTS)?;
        if let Some(bias) = bias {
            same("experts: biases of the choice", count, bias.len())?;
        }
        let bias = bias.map(|bias| bias.cuda()?.on(&self.card)).transpose()?;
        let mut arguments = RouteArgs {
            logits: logits.address(),
            bias: bias.map_or(0, |bias| bias.pointer().address()),
            expert: expert.address(),
            share: share.address(),
            n: n as i32,
            count: count as i32,
            used: used as i32,
            normalized: i32::from(normalized),
            scale,
            ..RouteArgs::default()
        };
        arguments.scores = match scores {
            Scores::Softmax => 0,
            Scores::Sigmoid => 1,
            Scores::SparseMixer { jitter } => {
                arguments.jitter = jitter;
                2
            }
        };
        match scores {
            Scores::Softmax | Scores::Sigmoid => {
                if let Some(groups) = groups {
                    arguments.groups = groups.count as i32;
                    arguments.groups_used = groups.used as i32;
                    arguments.group_rank = match groups.rank {
                        GroupRank::Largest => 0,
                        GroupRank::TwoLargest => 1,
                    };
                }
            }
            // It has no groups and no biases.
            Scores::SparseMixer { .. } => arguments.bias = 0,
        }
        let geometry = Geometry { block: 32, ..Geometry::rows([n as u32, 1, 1]) };
        // SAFETY: the logits are whole rows, and there is room for the choices.
        unsafe { self.launch("experts", "experts_route", geometry, &arguments) }
    }

    /// Orders choices by expert.
    pub(super) fn group(&mut self, routing: Routing, lists: &Lists, tokens: usize) -> Result<()> {
        let Routing { count, used, .. } = routing;
        let arguments = GroupArgs {
            expert: lists.expert.address(),
            share: lists.share.address(),
            first: lists.first.address(),
            token: lists.token.address(),
            slot: lists.slot.address(),
            slot_share: lists.slot_share.address(),
            n: tokens as i32,
            count: count as i32,
            used: used as i32,
            unused: 0,
        };
        let geometry = Geometry { grid: [1, 1, 1], block: 1024, shared: (8 * count) as u32 };
        // SAFETY: the lists have room for all choices.
        unsafe { self.launch("experts", "experts_group", geometry, &arguments) }
    }

    /// Where each expert's rows begin, and the end of the last's.
    pub(super) fn grouped(&mut self, routing: Routing, lists: &Lists, tokens: usize) -> Result<Vec<usize>> {
        self.group(routing, lists, tokens)?;
        let mut read = vec![0u8; 4 * (routing.count + 1)];
        let memory = self.workspace.choices.memory().ok_or(Error::Device)?;
        self.stream.download(&mut read, memory, lists.first_at)?;
        firsts(&read, tokens * routing.used)
    }

    /// Rows to or from their places, `rows` of `arguments.width` numbers.
    pub(super) fn move_rows(&mut self, kernel: &str, rows: usize, arguments: &MoveArgs) -> Result<()> {
        let geometry = Geometry::rows([(arguments.width as u32).div_ceil(1024), rows as u32, 1]);
        // SAFETY: the lists and rows have these lengths, as the callers made them.
        unsafe { self.launch("experts", kernel, geometry, arguments) }
    }

    /// As [`crate::Executor::route`].
    ///
    /// # Errors
    /// Lengths and devices that do not fit.
    pub fn route(
        &mut self,
        logits: ValuesMut<'_>,
        routing: Routing,
        bias: Option<&Vector>,
    ) -> Result<Vec<Vec<Choice>>> {
        let logits = logits.cuda()?;
        let tokens = routing.check(logits.len(), MOST_GPU_EXPERTS)?;
        let Routing { count, used, .. } = routing;
        self.routed = Routed::default();
        let choices = tokens * used;
        if choices == 0 {
            return Ok(vec![Vec::new(); count]);
        }
        let start = self.workspace.routed.of(&self.stream, Lists::bytes(choices, count))?;
        let lists = Lists::at(start, choices);
        self.choose(logits.pointer(), tokens, (routing, bias), [lists.expert, lists.share])?;
        self.group(routing, &lists, tokens)?;
        // Tokens, shares and where experts begin follow each other.
        let mut read = vec![0u8; 4 * (2 * choices + count + 1)];
        let memory = self.workspace.routed.memory().ok_or(Error::Device)?;
        self.stream.download(&mut read, memory, lists.first_at - 8 * choices)?;
        let (moved, ends) = read.split_at(8 * choices);
        let first = firsts(ends, choices)?;
        let (token, share) = moved.split_at(4 * choices);
        let share = words(share).map(f32::from_bits);
        let choices =
            words(token).zip(share).map(|(token, share)| Choice { token, share }).collect::<Vec<_>>();
        let experts = first.windows(2).map(|range| choices[range[0]..range[1]].to_vec()).collect();
        self.routed = Routed { choices, first };
        Ok(experts)
    }

    /// The tokens and shares of these choices on the card: where the router's choices are already, or copied there.
    fn placed(&mut self, choices: &[Choice]) -> Result<[Pointer; 2]> {
        let count = self.routed.choices.len();
        if let Some(position) = self.routed.position(choices) {
            let memory = self.workspace.routed.memory().ok_or(Error::Device)?;
            let lists = Lists::at(memory.pointer(), count);
            return Ok([lists.token, lists.slot_share].map(|list| list.at(4 * position)));
        }
        self.routed = Routed::default();
        let start = self.workspace.routed.of(&self.stream, Lists::bytes(choices.len(), 0))?;
        let lists = Lists::at(start, choices.len());
        let tokens = choices.iter().map(|choice| choice.token);
        let shares = choices.iter().map(|choice| choice.share.to_bits());
        let bytes: Vec<u8> = tokens.chain(shares).flat_map(u32::to_le_bytes).collect();
        let memory = self.workspace.routed.memory().ok_or(Error::Device)?;
        self.stream.upload(memory, lists.first_at - bytes.len(), &bytes)?;
        self.routed = Routed { choices: choices.to_vec(), first: vec![0, choices.len()] };
        Ok([lists.token, lists.slot_share])
    }

    /// As [`crate::Executor::gather`].
    ///
    /// # Errors
    /// Lengths and devices that do not fit.
    pub fn gather(
        &mut self,
        x: Values<'_>,
        width: usize,
        (choices, scaled): (&[Choice], bool),
        out: ValuesMut<'_>,
    ) -> Result<()> {
        let (x, out) = (self.own(x)?, out.cuda()?);
        Choice::check(choices, width, out.len(), x.len(), false)?;
        self.move_chosen(("experts_gather", scaled), width, choices, [x.pointer(), out.pointer()])
    }

    /// As [`crate::Executor::gate_rows`].
    ///
    /// # Errors
    /// Lengths and devices that do not fit.
    pub fn gate_rows(&mut self, x: ValuesMut<'_>, width: usize, gates: Values<'_>) -> Result<()> {
        let (x, gates) = (x.cuda()?, self.own(gates)?);
        same("gates: one for each row", gates.len() * width, x.len())?;
        if x.is_empty() {
            return Ok(());
        }
        for start in (0..gates.len()).step_by(GRID) {
            let arguments = MoveArgs {
                rows: x.pointer().at(4 * start * width).address(),
                share: gates.pointer().at(4 * start).address(),
                width: width as i32,
                ..MoveArgs::default()
            };
            self.move_rows("experts_gate", GRID.min(gates.len() - start), &arguments)?;
        }
        Ok(())
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
        let (rows, out) = (self.own(rows)?, out.cuda()?);
        Choice::check(choices, width, rows.len(), out.len(), true)?;
        self.move_chosen(("experts_scatter", false), width, choices, [out.pointer(), rows.pointer()])
    }

    /// Moves rows between those of tokens, `x`, and those of choices, `rows`.
    fn move_chosen(
        &mut self,
        (kernel, scaled): (&str, bool),
        width: usize,
        choices: &[Choice],
        [x, rows]: [Pointer; 2],
    ) -> Result<()> {
        if choices.is_empty() || width == 0 {
            return Ok(());
        }
        let [token, share] = self.placed(choices)?;
        for start in (0..choices.len()).step_by(GRID) {
            let arguments = MoveArgs {
                x: x.address(),
                rows: rows.at(4 * start * width).address(),
                token: token.at(4 * start).address(),
                share: share.at(4 * start).address(),
                width: width as i32,
                scaled: i32::from(scaled),
                ..MoveArgs::default()
            };
            self.move_rows(kernel, GRID.min(choices.len() - start), &arguments)?;
        }
        Ok(())
    }
}

/// Where each expert's rows begin, as the card has it, and the end of the last's.
fn firsts(read: &[u8], rows: usize) -> Result<Vec<usize>> {
    let first: Vec<usize> = words(read).map(|word| word as usize).collect();
    // A router that gives no numbers chooses something all the same: each choice has its row.
    same("experts: rows of all", rows, first.last().copied().unwrap_or(0))?;
    Ok(first)
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u32> {
    bytes.as_chunks::<4>().0.iter().map(|&word| u32::from_le_bytes(word))
}
