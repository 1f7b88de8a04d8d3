//! The order in which columns are rounded: blocks by their largest diagonal, sub-blocks inside their block and groups
//! inside their sub-block likewise, columns of a group as they are.

use super::kinds::{BLOCK, GROUP, Kind};
use crate::gptq::order::{Plan, Unit};

impl Plan {
    /// The order for a type with a codebook.
    ///
    /// # Panics
    /// If the columns are not whole blocks.
    pub(in crate::gptq) fn codebooks(diagonal: &[f32], kind: &Kind) -> Self {
        let columns = diagonal.len();
        assert!(columns.is_multiple_of(BLOCK), "whole blocks");
        // Numbers of pieces of `size` columns, the one with the largest diagonal first.
        let sorted = |numbers: std::ops::Range<usize>, size: usize| {
            let largest = |n: usize| diagonal[n * size..(n + 1) * size].iter().copied().fold(0.0, f32::max);
            let mut numbers: Vec<usize> = numbers.collect();
            numbers.sort_by(|&a, &b| largest(b).total_cmp(&largest(a)).then(a.cmp(&b)));
            numbers
        };
        let inside =
            |number: usize, size: usize, part: usize| number * size / part..(number + 1) * size / part;
        let (mut order, mut groups, mut units) = (Vec::with_capacity(columns), Vec::new(), Vec::new());
        let mut g_idx = vec![0; columns];
        for block in sorted(0..columns / BLOCK, BLOCK) {
            let (start, first) = (order.len(), groups.len());
            for sub in sorted(inside(block, BLOCK, kind.sub), kind.sub) {
                let begin = order.len();
                for group in sorted(inside(sub, kind.sub, GROUP), GROUP) {
                    order.extend((group * GROUP..(group + 1) * GROUP).map(|column| column as u32));
                }
                g_idx[sub * kind.sub..(sub + 1) * kind.sub].fill(sub as u32);
                groups.push((begin..order.len(), sub));
            }
            units.push(Unit { positions: start..order.len(), number: block, groups: first..groups.len() });
        }
        Self { order, groups, g_idx, units, piece: BLOCK }
    }
}
