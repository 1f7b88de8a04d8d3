//! A calibrator that collects what it sees, and a coarse quantization to replace weights with.

use quern_compute::{Executor, Values, get_row};
use quern_model::TensorRole;
use quern_run::{Calibrator, LinearGroup, LinearInfo, Model, Observer, ObserverError, Replacement};
use quern_tensor_io::ElementType;

/// One call of an observer: all sequences of a group.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Group {
    pub names: Vec<String>,
    pub role: Option<TensorRole>,
    pub expert: Option<usize>,
    /// `[rows][columns]`.
    pub values: Vec<f32>,
    pub columns: usize,
    pub reference: Option<Vec<f32>>,
    pub drift: Option<Vec<f32>>,
    pub outputs: usize,
}

/// Collects everything; replaces what `change` wants replaced.
pub struct Collect<F> {
    pub groups: Vec<Group>,
    pub change: F,
}

impl<F> Observer for Collect<F> {
    fn observe(&mut self, executor: &mut Executor, group: &LinearGroup<'_>) -> Result<(), ObserverError> {
        let (first, outputs) = (&group.linears[0], group.linears[0].rows);
        assert_eq!(group.values.len(), group.rows * group.columns);
        assert!(group.reference.is_none_or(|r| r.len() == group.values.len()));
        assert!(group.drift.is_none_or(|d| d.len() == group.rows * outputs && group.linears.len() == 1));
        let names: Vec<String> = group.linears.iter().map(|l| l.name.to_owned()).collect();
        let known = self.groups.iter_mut().find(|g| g.names == names && g.expert == first.expert);
        let entry = match known {
            Some(entry) => entry,
            None => {
                let (role, expert) = (Some(first.role), first.expert);
                let columns = group.columns;
                self.groups.push(Group { names, role, expert, columns, outputs, ..Group::default() });
                self.groups.last_mut().unwrap()
            }
        };
        let mut append = |to: &mut Vec<f32>, values: Values<'_>| {
            let start = to.len();
            to.resize(start + values.len(), 0.0);
            executor.download(values, &mut to[start..])
        };
        append(&mut entry.values, group.values)?;
        for (to, values) in [(&mut entry.reference, group.reference), (&mut entry.drift, group.drift)] {
            if let Some(values) = values {
                append(to.get_or_insert_default(), values)?;
            }
        }
        Ok(())
    }
}

impl<F: Fn(&LinearInfo<'_>) -> Option<Replacement>> Calibrator for Collect<F> {
    fn replace(&mut self, layers: &[LinearInfo<'_>]) -> Result<Vec<Option<Replacement>>, ObserverError> {
        Ok(layers.iter().map(&self.change).collect())
    }
}

pub fn keep(_: &LinearInfo<'_>) -> Option<Replacement> {
    None
}

/// The weight, row after row.
pub fn numbers(layer: &LinearInfo<'_>) -> Vec<f32> {
    let columns = layer.columns;
    let mut all = vec![0f32; layer.rows * columns];
    for (r, row) in all.chunks_exact_mut(columns).enumerate() {
        get_row(&layer.matrix().unwrap(), r, row).unwrap();
    }
    all
}

/// Rounded to multiples of a quarter of its largest value: a coarse quantization.
pub fn coarse(layer: &LinearInfo<'_>) -> Option<Replacement> {
    let all = numbers(layer);
    let step = all.iter().fold(0f32, |m, v| m.max(v.abs())) / 4.0;
    let data = all.iter().flat_map(|v| ((v / step).round() * step).to_le_bytes()).collect();
    Some(Replacement { element_type: ElementType::F32, data, permutation: None })
}

pub fn sequences(model: &Model) -> Vec<Vec<u32>> {
    let token = |i: u32, n: u32| (i * 131 + n * 7) % model.vocabulary() as u32;
    [17u32, 40, 8].iter().map(|&n| (0..n).map(|i| token(i, n)).collect()).collect()
}
