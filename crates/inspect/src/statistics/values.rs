//! Everything that is measured of some values, in one pass.

use std::collections::BTreeMap;

use serde::Serialize;

use super::channels::{Axis, Channels};
use super::histogram::Histogram;
use super::magnitudes::Magnitudes;
use super::moments::Moments;

/// Percentiles of magnitudes that are shown.
const PERCENTS: [f64; 6] = [1.0, 25.0, 50.0, 75.0, 99.0, 99.9];
/// And their names.
const NAMES: [&str; 6] = ["p1", "p25", "p50", "p75", "p99", "p99.9"];

/// What is measured of the values of a tensor, a piece of one, or several.
#[derive(Clone, Debug, Default)]
pub(super) struct Values {
    pub moments: Moments,
    pub histogram: Histogram,
    pub magnitudes: Magnitudes,
    pub channels: Option<Channels>,
}

impl Values {
    /// Adds some rows, of which the first is number `first` of what is measured here.
    pub fn record(&mut self, first: usize, columns: usize, values: &mut Vec<f32>) {
        if let Some(channels) = &mut self.channels {
            channels.record(first, columns, values);
        }
        let all = values.len();
        values.retain(|v| v.is_finite());
        let moments = Moments::of(values, (all - values.len()) as u64);
        if !values.is_empty() {
            self.histogram.record(values, moments.min.abs().max(moments.max.abs()));
        }
        self.magnitudes.record(values);
        self.moments.merge(&moments);
    }

    /// Adds what was measured of the rows from number `row` on.
    pub fn merge(&mut self, next: &Self, row: usize) {
        self.moments.merge(&next.moments);
        self.histogram.merge(&next.histogram);
        self.magnitudes.merge(&next.magnitudes);
        if let (Some(channels), Some(more)) = (&mut self.channels, &next.channels) {
            channels.merge(more, row);
        }
    }

    /// Nothing yet, of a tensor or a piece of so many rows and columns.
    pub fn new(input: Option<Axis>, rows: usize, columns: usize) -> Self {
        Self { channels: input.map(|axis| Channels::new(axis, rows, columns)), ..Self::default() }
    }

    /// The figures; `None` if no value is finite.
    pub fn summary(&self) -> Option<ValueSummary> {
        let m = &self.moments;
        (m.count > 0).then(|| ValueSummary {
            count: m.count,
            not_finite: m.not_finite,
            zeros: m.zeros,
            min: m.min,
            max: m.max,
            absmax: m.min.abs().max(m.max.abs()),
            mean: m.mean,
            std: m.standard_deviation(),
            rms: m.rms(),
            kurtosis: m.kurtosis(),
            magnitude_percentiles: NAMES.into_iter().zip(self.magnitudes.percentiles(&PERCENTS)).collect(),
        })
    }
}

/// Figures of the values of a tensor, or of several.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ValueSummary {
    /// Finite values.
    pub count: u64,
    /// Values that are NaN or infinite: they are left out of all other figures.
    pub not_finite: u64,
    /// Values that are exactly zero.
    pub zeros: u64,
    /// The smallest.
    pub min: f32,
    /// The largest.
    pub max: f32,
    /// The largest magnitude.
    pub absmax: f32,
    /// The mean.
    pub mean: f64,
    /// The standard deviation, of the values as the whole population.
    pub std: f64,
    /// The square root of the mean square.
    pub rms: f64,
    /// The fourth central moment over the squared variance: 3 for a normal distribution; `None` for values that are
    /// all equal.
    pub kurtosis: Option<f64>,
    /// Magnitudes that 1, 25, 50, 75, 99 and 99.9 percent of the values do not exceed, rounded towards zero to 8
    /// significant bits.
    pub magnitude_percentiles: BTreeMap<&'static str, f32>,
}
