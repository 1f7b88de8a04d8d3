//! Horizontal bars with a label in front of each and its value behind.

use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

use super::{A, B, Chart, GLYPH, INK, MUTED, NARROW, failed, fitted, label, narrow};

/// A label with the value of one model, or of two.
pub(in crate::report) struct Bar {
    /// What the bar is of.
    pub label: String,
    /// Length and the text behind it, by model.
    pub values: Vec<(f64, String)>,
}

/// Height of a bar.
const BAR: i32 = 12;
/// The widest that labels may be.
const LABELS: usize = 130;

/// Draws bars below each other.
pub(in crate::report) fn bars(name: &str, rows: &[Bar]) -> Chart {
    let models = rows.iter().map(|row| row.values.len()).max().unwrap_or(1) as i32;
    let step = BAR * models + 10;
    let height = (step * rows.len() as i32 + 4).max(20) as u32;
    let longest = |texts: &mut dyn Iterator<Item = &String>| {
        texts.map(|text| text.chars().count()).max().unwrap_or(0) * GLYPH
    };
    let labels = longest(&mut rows.iter().map(|row| &row.label)).min(LABELS);
    let texts = longest(&mut rows.iter().flat_map(|row| row.values.iter().map(|(_, text)| text)));
    let start = labels as i32 + 8;
    let room = (NARROW as i32 - start - texts.min(150) as i32 - 10).max(20);
    let most = rows.iter().flat_map(|row| &row.values).map(|(value, _)| *value).fold(0.0, f64::max);
    narrow(name, height, |area, _| {
        for (number, row) in rows.iter().enumerate() {
            let top = number as i32 * step + 4;
            let middle = top + BAR * models / 2;
            label(area, &fitted(&row.label, LABELS), (start - 8, middle), HPos::Right, INK)?;
            for (model, (value, text)) in row.values.iter().enumerate() {
                let top = top + model as i32 * BAR;
                let share = if most > 0.0 && value.is_finite() { value / most } else { 0.0 };
                // What is there can be seen.
                let length = ((share * f64::from(room)).round() as i32).max(i32::from(*value > 0.0));
                let corners = [(start, top + 1), (start + length, top + BAR - 1)];
                // The second model's bars are hollow: colour is not the only difference.
                let style = if model == 0 { A.filled() } else { B.stroke_width(2) };
                area.draw(&Rectangle::new(corners, style)).map_err(failed)?;
                label(area, text, (start + length + 6, top + BAR / 2), HPos::Left, MUTED)?;
            }
        }
        Ok(())
    })
}
