//! The blocks of the unfinished run, as the plain job takes them when it writes the file.

use std::collections::HashMap;
use std::ops::Range;

use quern_tensor_io::Checkpoint;

use super::Error;
use super::importance::even;
use super::plan::GgufPlan;
use super::report::LayerReport;
use crate::calibrated::state::{BlockRecord, State};
use crate::job::{Made, rows_per_matrix};

/// What the blocks have made of the plan's tensors.
pub(super) struct Finished<'a> {
    plan: &'a GgufPlan<'a>,
    /// The files of all groups.
    groups: Vec<Checkpoint>,
    /// Where each matrix of a tensor is: the file, and the tensor's number in it.
    places: HashMap<(usize, usize), (usize, usize)>,
    /// Of tensors that were not made and whose type wants it.
    importance: HashMap<usize, Vec<f32>>,
}

impl<'a> Finished<'a> {
    /// Opens the files of all groups.
    pub fn open(
        plan: &'a GgufPlan<'a>,
        state: &State,
        records: &[BlockRecord<LayerReport>],
    ) -> Result<Self, Error> {
        let layers: HashMap<&str, (usize, usize)> =
            plan.layers.iter().map(|layer| (layer.key.as_str(), (layer.row, layer.matrix))).collect();
        let (mut groups, mut places) = (Vec::new(), HashMap::new());
        for (block, record) in records.iter().enumerate() {
            for &group in record.groups.keys() {
                let checkpoint = Checkpoint::open(&state.group_file(block, group))?;
                for (index, info) in checkpoint.tensors().iter().enumerate() {
                    if let Some(&matrix) = layers.get(info.name.as_str()) {
                        places.insert(matrix, (groups.len(), index));
                    }
                }
                groups.push(checkpoint);
            }
        }
        if let Some(layer) = &plan.embedding {
            places.insert((layer.row, layer.matrix), (groups.len(), 0));
            groups.push(Checkpoint::open(&state.embedding_file())?);
        }
        let mut importance = HashMap::new();
        for (index, row) in plan.rows().iter().enumerate() {
            let made = row.from == row.to || places.contains_key(&(index, 0));
            let columns = row.shape.last().copied().unwrap_or(1);
            let found = if made || !row.to.is_block() { None } else { even(columns, row.to) };
            importance.extend(found.map(|found| (index, found)));
        }
        Ok(Self { plan, groups, places, importance })
    }

    /// The bytes of some rows, which are of one matrix, in the file that keeps them.
    fn find(&self, tensor: usize, rows: &Range<usize>) -> Option<(&Checkpoint, &[u8])> {
        let row = &self.plan.rows()[tensor];
        let height = rows_per_matrix(&row.shape).max(1);
        let matrix = rows.start / height;
        let &(group, index) = self.places.get(&(tensor, matrix))?;
        let checkpoint = &self.groups[group];
        let data = checkpoint.data(&checkpoint.tensors()[index]);
        let row_bytes = data.len() / height;
        let (start, end) = (rows.start - matrix * height, rows.end - matrix * height);
        Some((checkpoint, data.get(start * row_bytes..end * row_bytes)?))
    }
}

impl Made for Finished<'_> {
    fn rows(&self, tensor: usize, rows: &Range<usize>) -> Option<&[u8]> {
        self.find(tensor, rows).map(|(_, bytes)| bytes)
    }

    fn importance(&self, tensor: usize) -> Option<&[f32]> {
        self.importance.get(&tensor).map(Vec::as_slice)
    }

    fn check(&self) -> quern_tensor_io::Result<()> {
        self.groups.iter().try_for_each(Checkpoint::check_files)
    }

    fn release(&self, tensor: usize, rows: Range<usize>) {
        let height = rows_per_matrix(&self.plan.rows()[tensor].shape).max(1);
        let mut at = rows.start;
        while at < rows.end {
            let end = rows.end.min((at / height + 1) * height);
            if let Some((checkpoint, bytes)) = self.find(tensor, &(at..end)) {
                checkpoint.release(bytes.as_ptr_range());
            }
            at = end;
        }
    }
}
