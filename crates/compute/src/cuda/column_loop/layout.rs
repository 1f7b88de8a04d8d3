//! Where the column loop's things are in its memory.

use super::Grid;
use super::plan::{Plan, Schedule};

/// Offsets in bytes.
#[derive(Clone, Debug, Default)]
pub(super) struct Layout {
    /// `[columns][width]` each.
    pub weights: usize,
    pub residual: usize,
    pub levels: usize,
    /// `[block or piece][width]` each: the errors of a block or the changes of a piece, then what is needed of a piece.
    pub errors: usize,
    pub gradient: usize,
    pub along: usize,
    pub below: usize,
    pub along_h: usize,
    pub below_h: usize,
    /// Weights of the group or unit that is chosen, `[largest][width]`.
    pub values: usize,
    /// `[groups][width]` each; from here on to `places` all is 0 at first.
    pub scales: usize,
    pub lows: usize,
    pub offsets: usize,
    pub scale_codes: usize,
    pub offset_codes: usize,
    /// `[units][width]` each.
    pub unit_scales: usize,
    pub unit_offsets: usize,
    /// u32 by column, f32 by position, u32 by column.
    pub places: usize,
    pub diagonal: usize,
    pub group_of: usize,
    pub lists: usize,
    /// All bytes.
    pub end: usize,
}

impl Layout {
    pub fn new(
        plan: &Plan,
        schedule: &Schedule,
        grid: Grid,
        rows: usize,
        width: usize,
        block: usize,
    ) -> Self {
        let mut end = 0;
        let mut place = |bytes: usize| {
            let at = end;
            end += bytes.next_multiple_of(256);
            at
        };
        let (columns, groups, units) = (plan.order.len(), plan.groups.len(), plan.units.len());
        let lines = |count: usize| 4 * count * width;
        let piece = plan.largest_piece();
        let of_blocks = |count: usize| if grid.is_blocks() { lines(count) } else { 0 };
        let of_shared = |count: usize| if grid.shares() { lines(count) } else { 0 };
        let mut layout = Self {
            // Rows of codes take its place, losses that of the errors.
            weights: place(lines(columns).max(4 * rows * columns)),
            residual: place(lines(columns)),
            levels: place(lines(columns)),
            errors: place(lines(block.max(piece))),
            gradient: place(lines(piece)),
            along: place(of_shared(piece)),
            below: place(of_shared(piece)),
            // What groups would like is kept here too, a line for each of at most 16.
            along_h: place(lines(piece.max(16))),
            below_h: place(of_shared(piece)),
            values: place(lines(schedule.largest)),
            scales: place(lines(groups)),
            lows: place(lines(groups)),
            offsets: place(of_blocks(groups)),
            scale_codes: place(of_blocks(groups)),
            offset_codes: place(of_blocks(groups)),
            unit_scales: place(of_shared(units)),
            unit_offsets: place(of_shared(units)),
            places: place(4 * columns),
            diagonal: place(4 * columns),
            group_of: place(4 * columns),
            lists: place(16 * schedule.lists.len()),
            end: 0,
        };
        layout.end = end;
        layout
    }
}
