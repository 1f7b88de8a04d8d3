//! The distribution of values: bars for one model, the outline of a second in front of them.

use plotters::prelude::*;

use super::{A, B, Chart, GRID, MUTED, TEXT, axis, failed, narrow, tick};
use crate::statistics::Bins;

/// Draws histograms over the same bins, each as shares of its own values.
pub(in crate::report) fn histogram(name: &str, first: &Bins, second: Option<&Bins>) -> Chart {
    let shares = |bins: &Bins| -> Vec<f64> {
        let all = bins.counts.iter().sum::<u64>() + bins.below + bins.above;
        bins.counts.iter().map(|&count| count as f64 * 100.0 / all.max(1) as f64).collect()
    };
    let (of_first, of_second) = (shares(first), second.map(shares));
    let most = of_first.iter().chain(of_second.iter().flatten()).copied().fold(0.0, f64::max);
    let (top, step) = axis(most);
    let (low, high) = (first.start, first.edge(first.counts.len()));
    let (_, width) = axis((high - low) / 1.5);
    narrow(name, 170, |area, _| {
        let mut chart = ChartBuilder::on(area)
            .margin_top(8)
            .margin_right(14)
            .x_label_area_size(20)
            .y_label_area_size(46)
            .build_cartesian_2d(low..high, 0.0..top)
            .map_err(failed)?;
        let text = ("sans-serif", TEXT).into_font().color(&MUTED);
        chart
            .configure_mesh()
            .disable_x_mesh()
            .bold_line_style(GRID)
            .light_line_style(TRANSPARENT)
            .axis_style(GRID)
            .x_labels(4)
            .y_labels((top / step).round() as usize + 1)
            .x_label_formatter(&|x| tick(*x, width / 10.0))
            .y_label_formatter(&|y| format!("{} %", tick(*y, step)))
            .label_style(text)
            .draw()
            .map_err(failed)?;
        let filled = of_first.iter().enumerate().filter(|(_, share)| **share > 0.0);
        let bar = |(at, &share): (usize, &f64)| {
            Rectangle::new([(first.edge(at), 0.0), (first.edge(at + 1), share)], A.filled())
        };
        chart.draw_series(filled.map(bar)).map_err(failed)?;
        if let Some(shares) = &of_second {
            let steps = shares.iter().enumerate();
            let outline =
                steps.flat_map(|(at, &share)| [(first.edge(at), share), (first.edge(at + 1), share)]);
            let outline = [(low, 0.0)].into_iter().chain(outline).chain([(high, 0.0)]);
            chart.draw_series(LineSeries::new(outline, B.stroke_width(2))).map_err(failed)?;
        }
        Ok(())
    })
}
