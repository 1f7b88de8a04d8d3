//! The order in which columns are rounded, and the groups they form.

use std::cmp::Ordering;
use std::ops::Range;

use super::{Order, Settings};

/// The order in which columns are rounded, cut into groups.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Plan {
    /// The column at each position of the order.
    pub order: Vec<u32>,
    /// The positions of each group and its number on disk, in order.
    pub groups: Vec<(Range<usize>, usize)>,
    /// The number on disk of each column's group.
    pub g_idx: Vec<u32>,
    /// Groups that share parameters, in order.
    pub units: Vec<Unit>,
    /// Neighbouring positions of one unit that are refined together, at most.
    pub piece: usize,
}

/// Groups whose parameters depend on each other: the sub-blocks of a super-block; otherwise each group alone.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Unit {
    /// Their positions.
    pub positions: Range<usize>,
    /// The number on disk.
    pub number: usize,
    /// Which of [`Plan::groups`] they are.
    pub groups: Range<usize>,
}

/// Positions of one GPTQ group that are refined together.
const PIECE: usize = 128;

impl Plan {
    pub fn new(diagonal: &[f32], settings: &Settings) -> Self {
        let columns = diagonal.len();
        let group = settings.group(columns);
        let falling = |a: &u32, b: &u32| compare(diagonal[*b as usize], diagonal[*a as usize]).then(a.cmp(b));
        let mut order: Vec<u32> = (0..columns as u32).collect();
        let numbers: Vec<usize> = match settings.order {
            Order::Natural => (0..columns.div_ceil(group)).collect(),
            Order::Activation => {
                order.sort_by(falling);
                (0..columns.div_ceil(group)).collect()
            }
            Order::GroupAware => {
                order.chunks_mut(group).for_each(|group| group.sort_by(falling));
                let largest = |g: usize| diagonal[order[g * group] as usize];
                let mut numbers: Vec<usize> = (0..columns / group).collect();
                numbers.sort_by(|&a, &b| compare(largest(b), largest(a)).then(a.cmp(&b)));
                // A group that is not full stays last.
                numbers.extend((!columns.is_multiple_of(group)).then_some(columns / group));
                let columns_of = |&g: &usize| order[g * group..columns.min((g + 1) * group)].to_vec();
                order = numbers.iter().flat_map(columns_of).collect();
                numbers
            }
        };
        let positions_of = |i: usize| i * group..columns.min((i + 1) * group);
        let groups: Vec<_> =
            numbers.into_iter().enumerate().map(|(i, number)| (positions_of(i), number)).collect();
        let mut g_idx = vec![0; columns];
        for (positions, number) in &groups {
            for &column in &order[positions.clone()] {
                g_idx[column as usize] = *number as u32;
            }
        }
        let units = groups.iter().enumerate().map(|(i, (positions, number))| Unit {
            positions: positions.clone(),
            number: *number,
            groups: i..i + 1,
        });
        let units = units.collect();
        Self { order, groups, g_idx, units, piece: PIECE }
    }

    /// The order for blocks of `block` columns, each of sub-blocks of `sub` columns that share a scale: sub-blocks
    /// inside their block and columns inside their sub-block, the largest of `diagonal` first. `None` as order: as
    /// they are.
    ///
    /// # Panics
    /// If `sub` does not divide `block`, or `block` the columns.
    pub fn blocks(diagonal: &[f32], block: usize, sub: usize, sorted: bool) -> Self {
        let columns = diagonal.len();
        assert!(block.is_multiple_of(sub) && columns.is_multiple_of(block), "whole blocks");
        let falling = |a: &u32, b: &u32| compare(diagonal[*b as usize], diagonal[*a as usize]).then(a.cmp(b));
        let mut order: Vec<u32> = (0..columns as u32).collect();
        if sorted {
            order.chunks_mut(sub).for_each(|sub| sub.sort_by(falling));
        }
        // The largest of a run of columns whose sub-blocks are sorted.
        let largest = |columns: Range<usize>| {
            diagonal[columns].iter().copied().fold(0.0f32, |a, b| if compare(b, a).is_gt() { b } else { a })
        };
        let by_largest = |numbers: &mut Vec<usize>, size: usize| {
            if sorted {
                let of = |g: usize| largest(g * size..(g + 1) * size);
                numbers.sort_by(|&a, &b| compare(of(b), of(a)).then(a.cmp(&b)));
            }
        };
        let mut blocks: Vec<usize> = (0..columns / block).collect();
        by_largest(&mut blocks, block);
        let (mut placed, mut groups, mut units) = (Vec::with_capacity(columns), Vec::new(), Vec::new());
        let mut g_idx = vec![0; columns];
        for number in blocks {
            let start = placed.len();
            let first = groups.len();
            let mut subs: Vec<usize> = (number * block / sub..(number + 1) * block / sub).collect();
            by_largest(&mut subs, sub);
            for number in subs {
                let positions = placed.len()..placed.len() + sub;
                placed.extend_from_slice(&order[number * sub..(number + 1) * sub]);
                for &column in &placed[positions.clone()] {
                    g_idx[column as usize] = number as u32;
                }
                groups.push((positions, number));
            }
            units.push(Unit { positions: start..placed.len(), number, groups: first..groups.len() });
        }
        Self { order: placed, groups, g_idx, units, piece: block }
    }
}

fn compare(a: f32, b: f32) -> Ordering {
    a.total_cmp(&b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(order: Order, group_size: Option<usize>) -> Plan {
        let diagonal = [1.0, 5.0, 2.0, 9.0, 0.5, 9.0, 3.0];
        Plan::new(
            &diagonal,
            &Settings { bits: 4, group_size, symmetric: true, order, damp: 0.01, search: true },
        )
    }

    #[test]
    fn important_columns_come_first() {
        assert_eq!(plan(Order::Natural, Some(3)).order, [0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(plan(Order::Natural, Some(3)).g_idx, [0, 0, 0, 1, 1, 1, 2]);
        let activation = plan(Order::Activation, Some(3));
        assert_eq!(activation.order, [3, 5, 1, 6, 2, 0, 4]);
        assert_eq!(activation.g_idx, [1, 0, 1, 0, 2, 0, 1]);
        let aware = plan(Order::GroupAware, Some(3));
        assert_eq!(aware.order, [3, 5, 4, 1, 2, 0, 6]);
        assert_eq!(aware.g_idx, [0, 0, 0, 1, 1, 1, 2]);
        assert_eq!(aware.groups, [(0..3, 1), (3..6, 0), (6..7, 2)]);
        assert_eq!(plan(Order::Activation, None).groups, [(0..7, 0)]);
    }
}
