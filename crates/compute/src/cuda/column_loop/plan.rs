//! What the column loop of a layer goes through, and in which steps.

use std::ops::Range;

use super::Grid;
use crate::{Error, Result};

/// A layer's columns in the order in which they are rounded.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The column at each position.
    pub order: Vec<u32>,
    /// Diagonal of H by position: what an error costs when a scale is chosen; columns with 0 get weights of 0.
    pub diagonal: Vec<f32>,
    /// The positions of each group and its number.
    pub groups: Vec<(Range<usize>, usize)>,
    /// The number of each column's group.
    pub group_of: Vec<u32>,
    /// Groups that share parameters, in order.
    pub units: Vec<Unit>,
    /// Neighbouring positions of one unit that are refined together.
    pub pieces: Vec<Piece>,
}

/// Groups that share parameters.
#[derive(Clone, Debug)]
pub struct Unit {
    /// Their positions.
    pub positions: Range<usize>,
    /// Its number.
    pub number: usize,
    /// Which of [`Plan::groups`] they are.
    pub groups: Range<usize>,
}

/// Positions that are refined together.
#[derive(Clone, Debug)]
pub struct Piece {
    /// Which.
    pub positions: Range<usize>,
    /// The unit that they belong to.
    pub unit: usize,
    /// Whether they are all of it.
    pub whole: bool,
    /// Where their square begins among the squares, in floats.
    pub square: usize,
}

/// Groups of a step, within [`Schedule::lists`].
pub(super) type List = Range<usize>;

/// A step of the column loop.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// Choose what the groups of a unit share.
    Begin { unit: usize, groups: List },
    /// Choose the parameters of a group that is larger than a block.
    Choose { positions: Range<usize>, number: usize, unit: usize },
    /// Round a block.
    Round { positions: Range<usize>, groups: List },
}

/// All steps, with the groups of each as the kernels read them: first position within the step, end, number, and 0 or, if
/// its parameters are chosen in this step, 1 more than the number of its unit.
#[derive(Clone, Debug, Default)]
pub(super) struct Schedule {
    pub steps: Vec<Step>,
    /// Groups of each piece.
    pub pieces: Vec<List>,
    pub lists: Vec<[u32; 4]>,
    /// Positions of the largest group or unit that is chosen in a step of its own.
    pub largest: usize,
}

impl Plan {
    /// Refuses what does not fit together.
    pub(super) fn check(&self) -> Result<()> {
        let columns = self.order.len();
        let same = |what, expected, found| match expected == found {
            true => Ok(()),
            false => Err(Error::Lengths { what, expected, found }),
        };
        same("column loop: values of the diagonal", columns, self.diagonal.len())?;
        same("column loop: groups of columns", columns, self.group_of.len())?;
        let mut seen = vec![false; columns];
        for &column in &self.order {
            if let Some(seen) = seen.get_mut(column as usize) {
                *seen = true;
            }
        }
        same("column loop: columns in the order", columns, seen.iter().filter(|seen| **seen).count())?;
        let mut next = 0;
        for (positions, number) in &self.groups {
            same("column loop: positions of a group", next, positions.start)?;
            next = positions.end.max(next);
            if *number >= self.groups.len() {
                let (what, expected) = ("column loop: groups", self.groups.len());
                return Err(Error::Lengths { what, expected, found: *number });
            }
        }
        same("column loop: positions of all groups", columns, next)?;
        let outside = self.group_of.iter().filter(|&&group| group as usize >= self.groups.len()).count();
        same("column loop: columns of no group", 0, outside)?;
        let mut next = (0, 0);
        for unit in &self.units {
            same("column loop: positions of a unit", next.0, unit.positions.start)?;
            same("column loop: groups of a unit", next.1, unit.groups.start)?;
            next = (unit.positions.end, unit.groups.end);
            let groups = self.groups.get(unit.groups.clone()).unwrap_or_default();
            let end = groups.last().map_or(0, |group| group.0.end);
            same("column loop: positions of a unit's groups", unit.positions.end, end)?;
        }
        same("column loop: positions of all units", columns, next.0)
    }

    /// Refuses groups that the kernels of a grid do not take.
    pub(super) fn check_grid(&self, grid: Grid) -> Result<()> {
        let most = if grid.is_blocks() { 256 } else { 128 };
        let refuse = |what, expected, found| Err(Error::Lengths { what, expected, found });
        if self.largest_piece() > most {
            return refuse("column loop: positions of a piece", most, self.largest_piece());
        }
        if grid.is_blocks() {
            let units = self.units.iter().map(|unit| (unit.positions.len(), unit.groups.len()));
            for (positions, groups) in units {
                // Whole shorts of 16; where groups are parts of a block, at most two shorts.
                let group = positions / groups.max(1);
                let fits = matches!((group, groups), (32 | 256, 1) | (16, 16) | (32, 8));
                if !fits || (grid.shares() && positions != 256) {
                    return refuse("column loop: positions of a block", 256, positions);
                }
            }
            let whole = self.pieces.iter().filter(|piece| !piece.whole).count();
            if whole > 0 {
                return refuse("column loop: parts of blocks", 0, whole);
            }
        }
        Ok(())
    }

    /// Positions of the largest piece.
    pub(super) fn largest_piece(&self) -> usize {
        self.pieces.iter().map(|piece| piece.positions.len()).max().unwrap_or(0)
    }

    /// Floats that the squares of the pieces take.
    pub(super) fn squares(&self) -> usize {
        let end = |piece: &Piece| piece.square + piece.positions.len() * piece.positions.len();
        self.pieces.iter().map(end).max().unwrap_or(0)
    }

    /// The steps for blocks of at most `block` positions. `sharing`: units with more than a block's positions have
    /// something to choose for all their groups.
    pub(super) fn schedule(&self, block: usize, sharing: bool) -> Schedule {
        let mut schedule = Schedule::default();
        let mut next = 0;
        while next < self.units.len() {
            // As many whole units as fit into a block; or one unit in several blocks.
            let start = self.units[next].positions.start;
            let fit =
                self.units[next..].iter().take_while(|unit| unit.positions.end - start <= block).count();
            let here = &self.units[next..next + fit.max(1)];
            if sharing && fit == 0 {
                let positions = &here[0].positions;
                schedule.largest = schedule.largest.max(positions.len());
                let groups = schedule.list(&self.groups[here[0].groups.clone()], positions, here[0].number);
                schedule.steps.push(Step::Begin { unit: next, groups });
            }
            next += here.len();
            let end = here[here.len() - 1].positions.end;
            for first in (start..end).step_by(block) {
                let positions = first..end.min(first + block);
                let from = schedule.lists.len();
                for unit in here {
                    for (group, number) in &self.groups[unit.groups.clone()] {
                        let within = group.start.max(positions.start)..group.end.min(positions.end);
                        if within.is_empty() {
                            continue;
                        }
                        let begins = group.start >= positions.start;
                        let chosen = begins && group.end <= positions.end;
                        if begins && !chosen {
                            // The block begins with it, as blocks hold whole units or parts of one.
                            schedule.largest = schedule.largest.max(group.len());
                            let (positions, number, unit) = (group.clone(), *number, unit.number);
                            schedule.steps.push(Step::Choose { positions, number, unit });
                        }
                        let mark = if chosen { 1 + unit.number } else { 0 };
                        schedule.push(&within, positions.start, *number, mark);
                    }
                }
                let groups = from..schedule.lists.len();
                schedule.steps.push(Step::Round { positions, groups });
            }
        }
        for piece in &self.pieces {
            let list = match self.units.get(piece.unit) {
                Some(unit) => schedule.list(&self.groups[unit.groups.clone()], &piece.positions, unit.number),
                None => 0..0,
            };
            schedule.pieces.push(list);
        }
        schedule
    }
}

impl Schedule {
    /// The parts of a unit's groups within `positions`.
    fn list(&mut self, groups: &[(Range<usize>, usize)], positions: &Range<usize>, unit: usize) -> List {
        let from = self.lists.len();
        for (group, number) in groups {
            let within = group.start.max(positions.start)..group.end.min(positions.end);
            if !within.is_empty() {
                self.push(&within, positions.start, *number, 1 + unit);
            }
        }
        from..self.lists.len()
    }

    fn push(&mut self, within: &Range<usize>, start: usize, number: usize, mark: usize) {
        let at = |position: usize| (position - start) as u32;
        self.lists.push([at(within.start), at(within.end), number as u32, mark as u32]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::column_loop::{Blocks, BlocksKind};

    /// Units of so many positions, each of so many groups.
    fn plan(columns: usize, unit: usize, groups: usize) -> Plan {
        let group = unit / groups;
        let ends = |start: usize, size: usize| start..columns.min(start + size);
        Plan {
            order: (0..columns as u32).rev().collect(),
            diagonal: vec![1.0; columns],
            groups: (0..columns.div_ceil(group)).map(|g| (ends(g * group, group), g)).collect(),
            group_of: (0..columns).map(|c| ((columns - 1 - c) / group) as u32).collect(),
            units: (0..columns.div_ceil(unit))
                .map(|u| {
                    let positions = ends(u * unit, unit);
                    let first = u * groups;
                    let groups = first..first + positions.len().div_ceil(group);
                    Unit { positions, number: u, groups }
                })
                .collect(),
            pieces: (0..columns.div_ceil(unit))
                .map(|u| Piece { positions: ends(u * unit, unit), unit: u, whole: true, square: 0 })
                .collect(),
        }
    }

    #[test]
    fn blocks_hold_whole_units_and_large_groups_are_chosen_first() {
        // Three units of 48 would end at 144.
        let small = plan(160, 48, 1);
        small.check().unwrap();
        let schedule = small.schedule(128, false);
        let rounds = [
            Step::Round { positions: 0..96, groups: 0..2 },
            Step::Round { positions: 96..160, groups: 2..4 },
        ];
        assert_eq!(schedule.steps, rounds);
        assert_eq!(schedule.lists[..4], [[0, 48, 0, 1], [48, 96, 1, 2], [0, 48, 2, 3], [48, 64, 3, 4]]);
        assert_eq!((schedule.largest, schedule.pieces.len()), (0, 4));
        let large = plan(300, 200, 1).schedule(128, false);
        let expected = [
            Step::Choose { positions: 0..200, number: 0, unit: 0 },
            Step::Round { positions: 0..128, groups: 0..1 },
            Step::Round { positions: 128..200, groups: 1..2 },
            Step::Round { positions: 200..300, groups: 2..3 },
        ];
        assert_eq!(large.steps, expected);
        assert_eq!(large.lists[..3], [[0, 128, 0, 0], [0, 72, 0, 0], [0, 100, 1, 2]]);
        assert_eq!(large.largest, 200);
    }

    #[test]
    fn units_that_share_begin_before_their_blocks() {
        let plan = plan(512, 256, 8);
        plan.check().unwrap();
        let schedule = plan.schedule(128, true);
        let begins = schedule.steps.iter().filter(|step| matches!(step, Step::Begin { .. })).count();
        assert_eq!((begins, schedule.steps.len(), schedule.largest), (2, 6, 256));
        assert_eq!(schedule.steps[0], Step::Begin { unit: 0, groups: 0..8 });
        assert_eq!(schedule.lists[9], [32, 64, 1, 1]);
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        let fits = plan(512, 256, 8);
        let blocks = |kind| {
            let (low, high, code_low, code_high, offset_high) = (0.0, 15.0, 0.0, 63.0, 63.0);
            Grid::Blocks(Blocks { kind, low, high, code_low, code_high, offset_high })
        };
        fits.check_grid(blocks(BlocksKind::WholeCodesCodes)).unwrap();
        assert!(plan(512, 64, 2).check_grid(blocks(BlocksKind::WholeHalf)).is_err());
        assert!(plan(512, 32, 1).check_grid(blocks(BlocksKind::WholeCodes)).is_err());
        let gptq = Grid::Gptq { top: 15.0, symmetric: true, search: true };
        assert!(fits.check_grid(gptq).is_err());
        let broken = |change: fn(&mut Plan)| {
            let mut plan = plan(512, 256, 8);
            change(&mut plan);
            plan.check()
        };
        assert!(broken(|plan| plan.order[3] = plan.order[4]).is_err());
        assert!(broken(|plan| plan.groups[3].1 = 99).is_err());
        assert!(broken(|plan| plan.groups[3].0.start += 1).is_err());
        assert!(broken(|plan| plan.group_of[3] = 99).is_err());
        assert!(broken(|plan| plan.units[0].positions.end -= 1).is_err());
        assert!(broken(|plan| plan.diagonal.clear()).is_err());
    }
}
