//! Input channels of a linear layer: the columns of its matrix `[out, in]` (the rows of one stored as `[in, out]`).
//!
//! The measure of a channel is the root mean square of its weights over the median of that of all channels of the
//! matrix. A channel of at least [`OUTLIER`] times the median counts as an outlier. Such channels make quantization hard
//! wherever they share a scale with others; they are the counterpart in the weights of the outlier features that
//! Dettmers et al. (LLM.int8(), 2022) and Kovaleva et al. (BERT Busters, 2021) found in activations and norms.

use serde::Serialize;

/// From this multiple of the median on, a channel is an outlier.
pub const OUTLIER: f64 = 3.0;

/// As many channels are kept of each matrix.
const KEPT: usize = 8;

/// Where the input channels of a matrix are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Axis {
    /// Each column is one.
    Columns,
    /// Each row is one (GPT-2 in Hugging Face's layout).
    Rows,
}

/// Largest magnitude and sum of squares of every input channel.
#[derive(Clone, Debug)]
pub(super) struct Channels {
    axis: Axis,
    largest: Vec<f32>,
    squares: Vec<f64>,
    /// Values in each.
    values: u64,
}

impl Channels {
    /// Of a matrix, or a piece of one, of so many rows and columns.
    pub fn new(axis: Axis, rows: usize, columns: usize) -> Self {
        let (channels, values) = match axis {
            Axis::Columns => (columns, rows),
            Axis::Rows => (rows, columns),
        };
        Self { axis, largest: vec![0.0; channels], squares: vec![0.0; channels], values: values as u64 }
    }

    /// Adds rows of values, of which the first is number `first` of the piece. Values that are not finite count as 0.
    pub fn record(&mut self, first: usize, columns: usize, values: &[f32]) {
        let finite = |value: f32| if value.is_finite() { value } else { 0.0 };
        for (row, values) in values.chunks_exact(columns.max(1)).enumerate() {
            match self.axis {
                Axis::Columns => {
                    let channels = self.largest.iter_mut().zip(&mut self.squares);
                    for ((largest, squares), value) in channels.zip(values.iter().copied().map(finite)) {
                        *largest = if value.abs() > *largest { value.abs() } else { *largest };
                        *squares += f64::from(value) * f64::from(value);
                    }
                }
                Axis::Rows => {
                    let at = first + row;
                    self.largest[at] = values.iter().copied().map(finite).fold(0.0, |m, v| m.max(v.abs()));
                    self.squares[at] = values.iter().map(|&v| f64::from(finite(v)).powi(2)).sum();
                }
            }
        }
    }

    /// Adds the piece that follows, whose first row is `row`.
    pub fn merge(&mut self, piece: &Self, row: usize) {
        let start = match self.axis {
            Axis::Columns => 0,
            Axis::Rows => row,
        };
        let channels = self.largest.iter_mut().zip(&mut self.squares).skip(start);
        for ((largest, squares), (more, other)) in channels.zip(piece.largest.iter().zip(&piece.squares)) {
            *largest = largest.max(*more);
            *squares += other;
        }
    }

    /// The channels that stand out. `None` for a matrix without channels, or where most of them are zero.
    pub fn outliers(&self) -> Option<Outliers> {
        let rms: Vec<f64> = self.squares.iter().map(|s| (s / self.values.max(1) as f64).sqrt()).collect();
        let median_rms = median(rms.clone())?;
        let median_largest = median(self.largest.iter().map(|&l| f64::from(l)).collect())?;
        if median_rms <= 0.0 || !median_rms.is_finite() {
            return None;
        }
        let mut order: Vec<usize> = (0..rms.len()).collect();
        order.sort_by(|&a, &b| rms[b].total_cmp(&rms[a]).then(a.cmp(&b)));
        let channel = |&index: &usize| Channel {
            channel: index,
            rms: rms[index],
            ratio: rms[index] / median_rms,
            absmax: self.largest[index],
        };
        Some(Outliers {
            channels: rms.len(),
            median_rms,
            median_absmax: median_largest,
            above: rms.iter().filter(|r| **r >= OUTLIER * median_rms).count(),
            top: order.iter().take(KEPT).map(channel).collect(),
        })
    }
}

/// The middle one of some numbers, of an even count the mean of the two in the middle.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    let upper = values.get(values.len() / 2)?;
    let lower = values.get((values.len() - 1) / 2)?;
    Some((lower + upper) / 2.0)
}

/// What stands out among the input channels of a matrix.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outliers {
    /// Input channels of the matrix.
    pub channels: usize,
    /// Median of the channels' root mean squares.
    pub median_rms: f64,
    /// Median of their largest magnitudes.
    pub median_absmax: f64,
    /// Channels of at least [`OUTLIER`] times the median.
    pub above: usize,
    /// The channels with the largest root mean squares, largest first.
    pub top: Vec<Channel>,
}

/// One input channel.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Channel {
    /// Its number.
    pub channel: usize,
    /// Root mean square of its weights.
    pub rms: f64,
    /// That, over the median of all channels of the matrix.
    pub ratio: f64,
    /// Its largest magnitude.
    pub absmax: f32,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 6 rows of 5 columns, column 3 ten times as large.
    fn matrix() -> Vec<f32> {
        (0..30).map(|i| if i % 5 == 3 { 10.0 } else { 1.0 } * if i % 2 == 0 { 1.0 } else { -1.0 }).collect()
    }

    #[test]
    fn a_large_column_is_found_in_pieces_too() {
        let values = matrix();
        let mut all = Channels::new(Axis::Columns, 6, 5);
        for rows in [0..4, 4..6] {
            let mut piece = Channels::new(Axis::Columns, rows.len(), 5);
            piece.record(0, 5, &values[rows.start * 5..rows.end * 5]);
            all.merge(&piece, rows.start);
        }
        let found = all.outliers().unwrap();
        assert_eq!((found.channels, found.above, found.median_rms), (5, 1, 1.0));
        assert_eq!(found.top[0], Channel { channel: 3, rms: 10.0, ratio: 10.0, absmax: 10.0 });
        assert_eq!(found.top.len(), 5);
    }

    #[test]
    fn rows_are_the_channels_of_a_transposed_matrix() {
        let values: Vec<f32> = (0..30).map(|i| if i / 5 == 4 { -7.0 } else { 1.0 }).collect();
        let mut all = Channels::new(Axis::Rows, 6, 5);
        for rows in [0..3, 3..6] {
            let mut piece = Channels::new(Axis::Rows, rows.len(), 5);
            piece.record(0, 5, &values[rows.start * 5..rows.start * 5 + 5]);
            piece.record(1, 5, &values[rows.start * 5 + 5..rows.end * 5]);
            all.merge(&piece, rows.start);
        }
        let found = all.outliers().unwrap();
        assert_eq!((found.channels, found.above), (6, 1));
        assert_eq!((found.top[0].channel, found.top[0].ratio, found.top[0].absmax), (4, 7.0, 7.0));
    }

    #[test]
    fn zeros_alone_have_no_outliers() {
        assert_eq!(Channels::new(Axis::Columns, 3, 4).outliers(), None);
        assert_eq!(Channels::new(Axis::Columns, 0, 0).outliers(), None);
    }
}
