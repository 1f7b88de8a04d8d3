//! One value a layer, for one model or two.

use plotters::prelude::*;

use super::{A, B, Chart, GRID, MUTED, NARROW, TEXT, axis, both, failed, tick};

/// The values of a model by layer.
pub(in crate::report) struct Line {
    /// Layer and value.
    pub points: Vec<(usize, f64)>,
    /// Whether it is the second model's.
    pub second: bool,
}

/// Draws lines over the layers, from zero up.
pub(in crate::report) fn lines(name: &str, all: &[Line]) -> Chart {
    let points = || all.iter().flat_map(|line| &line.points);
    let last = points().map(|(layer, _)| *layer).max().unwrap_or(0);
    let most = points().map(|(_, value)| *value).filter(|v| v.is_finite()).fold(0.0, f64::max);
    let (top, step) = axis(most);
    both(name, (200, 260), |area, width| {
        let mut chart = ChartBuilder::on(area)
            .margin_top(8)
            .margin_right(14)
            .x_label_area_size(32)
            .y_label_area_size(48)
            .build_cartesian_2d(-0.3..last as f64 + 0.3, 0.0..top)
            .map_err(failed)?;
        let text = ("sans-serif", TEXT).into_font().color(&MUTED);
        let ticks = if width == NARROW { 8 } else { 24 };
        chart
            .configure_mesh()
            .disable_x_mesh()
            .bold_line_style(GRID)
            .light_line_style(TRANSPARENT)
            .axis_style(GRID)
            .x_labels((last + 1).min(ticks))
            .y_labels((top / step).round() as usize + 1)
            .x_label_formatter(&|x| if x.fract().abs() < 1e-6 { format!("{x:.0}") } else { String::new() })
            .y_label_formatter(&|y| tick(*y, step))
            .x_desc("layer")
            .label_style(text.clone())
            .axis_desc_style(text)
            .draw()
            .map_err(failed)?;
        for line in all {
            let at = |&(layer, value): &(usize, f64)| (layer as f64, value);
            let finite = || line.points.iter().filter(|(_, value)| value.is_finite()).map(at);
            // The second model is dashed and has open marks: colour is not the only difference.
            if line.second {
                let dashed = DashedLineSeries::new(finite(), 5, 4, B.stroke_width(2));
                chart.draw_series(dashed).map_err(failed)?;
                let marks = finite().map(|at| Circle::new(at, 3, B.stroke_width(1)));
                chart.draw_series(marks).map_err(failed)?;
            } else {
                chart.draw_series(LineSeries::new(finite(), A.stroke_width(2))).map_err(failed)?;
                chart.draw_series(finite().map(|at| Circle::new(at, 3, A.filled()))).map_err(failed)?;
            }
        }
        Ok(())
    })
}
