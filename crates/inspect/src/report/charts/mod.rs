//! Charts as SVG, drawn by `plotters`.
//!
//! Colours are those of the light theme; the style sheet maps each of them to the theme's own by attribute selectors
//! (`[fill="#0550AE"]`), so the charts follow the page.

mod bars;
mod histogram;
mod lines;

use std::fmt::Display;

use maud::{Markup, PreEscaped, html};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

pub(super) use bars::{Bar, bars};
pub(super) use histogram::histogram;
pub(super) use lines::{Line, lines};

/// Text and what stands for A.
const INK: RGBColor = RGBColor(0x1b, 0x1f, 0x24);
const MUTED: RGBColor = RGBColor(0x57, 0x60, 0x6a);
const GRID: RGBColor = RGBColor(0xe6, 0xea, 0xee);
/// The first model.
const A: RGBColor = RGBColor(0x05, 0x50, 0xae);
/// The second model.
const B: RGBColor = RGBColor(0xb3, 0x4a, 0x00);

/// Height of chart text in pixels, as plotters counts: it draws glyphs smaller by 1.24.
const TEXT: f64 = 15.0;
/// Pixels a character takes, about.
const GLYPH: usize = 8;

/// Widths of a chart: for a column on a small screen, and for the page on a large one.
const NARROW: u32 = 360;
const WIDE: u32 = 1080;

/// A drawn chart.
pub(super) struct Chart {
    /// The `svg` elements, of which the style sheet shows one.
    pub svg: Markup,
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), String>;

/// A failed drawing in words; it happens only for sizes that leave no room.
fn failed(error: impl Display) -> String {
    error.to_string()
}

/// A chart for a column.
fn narrow(name: &str, height: u32, draw: impl Fn(&Area<'_>, u32) -> Drawn) -> Chart {
    Chart { svg: svg(name, "chart", NARROW, height, draw) }
}

/// A chart in two widths.
fn both(name: &str, heights: (u32, u32), draw: impl Fn(&Area<'_>, u32) -> Drawn) -> Chart {
    let small = svg(name, "chart narrow", NARROW, heights.0, &draw);
    let large = svg(name, "chart wide", WIDE, heights.1, &draw);
    Chart { svg: html! { (small) (large) } }
}

/// The element, which screen readers call `name`.
fn svg(name: &str, class: &str, width: u32, height: u32, draw: impl Fn(&Area<'_>, u32) -> Drawn) -> Markup {
    let mut drawn = String::new();
    let outcome = {
        let area = SVGBackend::with_string(&mut drawn, (width, height)).into_drawing_area();
        draw(&area, width).and_then(|()| area.present().map_err(failed))
    };
    if let Err(e) = outcome {
        return html! { p .missing { "This chart could not be drawn: " (e) } };
    }
    // plotters' own element has neither a role nor a name.
    let inside = drawn.split_once('>').map_or("", |(_, rest)| rest).trim_end();
    let inside = inside.strip_suffix("</svg>").unwrap_or(inside);
    html! {
        svg class=(class) role="img" aria-label=(name) viewBox={ "0 0 " (width) " " (height) } {
            (PreEscaped(inside))
        }
    }
}

/// Text at a place, its anchor on the left, in the middle or on the right.
fn label(area: &Area<'_>, text: &str, at: (i32, i32), anchor: HPos, color: RGBColor) -> Drawn {
    let style = ("sans-serif", TEXT).into_font().color(&color).pos(Pos::new(anchor, VPos::Center));
    area.draw(&Text::new(text.to_owned(), at, style)).map_err(failed)
}

/// As many characters of a text as fit into some pixels.
fn fitted(text: &str, pixels: usize) -> String {
    let most = (pixels / GLYPH).max(2);
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most - 1).chain(['…']).collect()
}

/// The number above `value` at which an axis may end, with the distance of its ticks.
fn axis(value: f64) -> (f64, f64) {
    if value <= 0.0 || !value.is_finite() {
        return (1.0, 0.5);
    }
    let unit = 10f64.powf((value / 3.0).log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0].map(|f| f * unit).into_iter().find(|s| value / s <= 4.0);
    let step = step.unwrap_or(unit * 10.0);
    ((value / step).ceil() * step, step)
}

/// A tick's number without digits that say nothing.
fn tick(value: f64, step: f64) -> String {
    if value.abs() < step / 1e6 {
        return "0".to_owned();
    }
    if value.abs() < 1e-3 || value.abs() >= 1e5 {
        return format!("{value:.1e}");
    }
    let decimals = (0..6).find(|&d| (step * 10f64.powi(d)).fract().abs() < 1e-6).unwrap_or(6) as usize;
    let text = format!("{value:.decimals$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_round_numbers() {
        assert_eq!(axis(16.0), (20.0, 5.0));
        assert_eq!(axis(0.0), (1.0, 0.5));
        assert_eq!(
            (tick(2.5, 2.5), tick(20.0, 5.0), tick(0.0, 0.1)),
            ("2.5".into(), "20".into(), "0".into())
        );
    }

    #[test]
    fn text_in_charts_is_escaped() {
        let bar = Bar { label: "<script>\"'&".into(), values: vec![(1.0, "</svg><b>".into())] };
        let svg = bars("\"><script>", &[bar]).svg.into_string();
        assert!(!svg.contains("<script") && !svg.contains("<b>"), "{svg}");
        assert_eq!(svg.matches("</svg>").count(), 1);
        assert!(svg.contains("&lt;script&gt;"));
    }
}
