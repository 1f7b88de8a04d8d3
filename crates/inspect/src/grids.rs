//! Whether a model's plain numbers are on a 4-bit grid: it was trained for a block type, or quantized before.

use quern_model::View;
use quern_quantize::job::Grids;
use quern_tensor_io::{Checkpoint, ElementType};

/// How many matrices seem to be on a grid, and the block type that keeps it: as far as a few rows of each tell. `None`
/// where none is, or the model cannot be seen as a GGUF file. The values must be there, not headers alone.
pub fn seeming_grid(checkpoint: &Checkpoint) -> Option<(usize, ElementType)> {
    let view = View::gguf_without_tokenizer(checkpoint).ok()?;
    let found = Grids::seeming(&view);
    let (_, grid) = found.first()?;
    Some((found.len(), grid.element_type()))
}
