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
}

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
        Self { order, groups, g_idx }
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
