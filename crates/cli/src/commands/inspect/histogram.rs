//! `quern inspect --histogram`: the values of single tensors in the terminal.

use std::io::IsTerminal;
use std::process::ExitCode;

use quern_inspect::statistics::{Bins, TensorHistogram, select};
use quern_tensor_io::Checkpoint;
use serde_json::json;

use crate::commands::{Outcome, print, print_json};
use crate::format::{self, escape};
use crate::progress::{Bar, Unit};

/// Lines of a histogram, at most about.
const LINES: usize = 24;
/// Bins of a histogram as JSON, at most about.
const JSON_BINS: usize = 64;
/// Width where standard output is no terminal.
const WIDTH: usize = 80;

/// Prints the tensors that `asked` names.
pub fn run(checkpoint: &Checkpoint, asked: &str, json: bool) -> Outcome {
    let found = select(checkpoint, asked)?.measure(JSON_BINS, &Bar::new(Unit::Bytes, "reading values"));
    if json {
        print_json(&json!({ "histograms": found }))?;
    } else {
        let (width, blocks) = (width(), blocks());
        let texts: Vec<String> = found.iter().map(|tensor| described(tensor, width, blocks)).collect();
        print(&texts.join("\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn width() -> usize {
    let terminal = std::io::stdout().is_terminal().then(terminal_size::terminal_size).flatten();
    let columns = std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok());
    let width = terminal.map(|(width, _)| usize::from(width.0)).or(columns).unwrap_or(WIDTH);
    width.clamp(40, 200)
}

/// Whether the terminal shows block characters: the locale's encoding is UTF-8, and the terminal is not a dumb one.
fn blocks() -> bool {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(set).unwrap_or_default();
    let locale = locale.to_ascii_lowercase();
    let utf8 = locale.contains("utf-8") || locale.contains("utf8");
    utf8 && set("TERM").is_none_or(|terminal| terminal != "dumb" && terminal != "linux")
}

/// Figures and histogram of a tensor.
fn described(tensor: &TensorHistogram, width: usize, blocks: bool) -> String {
    let shape = tensor.shape.iter().map(usize::to_string).collect::<Vec<_>>();
    let shape = shape.join(if blocks { " × " } else { " x " });
    let mut rows: Vec<(&str, String)> =
        vec![("tensor", tensor.name.clone()), ("type", format!("{}, {shape}", tensor.element_type))];
    if !tensor.sources.is_empty() {
        let (first, rest) = (tensor.sources.iter().take(3), tensor.sources.len().saturating_sub(3));
        let more = if rest > 0 { format!(" and {rest} more") } else { String::new() };
        rows.push(("in the file", first.cloned().collect::<Vec<_>>().join(", ") + &more));
    }
    let Some(values) = &tensor.values else {
        rows.push(("values", "none that are finite and of a type that quern decodes".into()));
        return lines(&rows);
    };
    let share = |count: u64| match count {
        0 => "0".to_owned(),
        _ => format!("{count} ({:.3} %)", count as f64 * 100.0 / values.count.max(1) as f64),
    };
    rows.push(("values", values.count.to_string()));
    if values.not_finite > 0 {
        rows.push(("not finite", values.not_finite.to_string()));
    }
    let range = if blocks { "…" } else { "to" };
    rows.push(("range", format!("{} {range} {}", number(values.min.into()), number(values.max.into()))));
    rows.push(("mean", format!("{}, standard deviation {}", number(values.mean), number(values.std))));
    let kurtosis = values.kurtosis.map_or("none, all values are equal".into(), number);
    rows.push(("kurtosis", format!("{kurtosis} (normal distribution: 3)")));
    rows.push(("zeros", share(values.zeros)));
    let mut percentiles: Vec<(&str, f32)> =
        values.magnitude_percentiles.iter().map(|(name, value)| (*name, *value)).collect();
    percentiles.sort_by(|a, b| a.1.total_cmp(&b.1).then(a.0.len().cmp(&b.0.len())));
    let percentiles = percentiles.iter().map(|(name, value)| format!("{name} {}", number((*value).into())));
    rows.push(("magnitudes", percentiles.collect::<Vec<_>>().join(", ")));
    if let Some(columns) = &tensor.columns
        && let Some(largest) = columns.top.first()
    {
        let times = if blocks { "×" } else { "x" };
        rows.push((
            "largest column",
            format!(
                "{}: rms {}, {:.2} {times} the median; largest magnitude {}; {} of {} columns at or above 3 {times}",
                largest.channel,
                number(largest.rms),
                largest.ratio,
                number(largest.absmax.into()),
                columns.above,
                columns.channels
            ),
        ));
    }
    lines(&rows) + "\n" + &drawn(&tensor.bins(LINES), width, blocks)
}

fn lines(rows: &[(&str, String)]) -> String {
    rows.iter().map(|(label, text)| format!("{label:<15} {}\n", escape::line(text))).collect()
}

/// A line for each bin.
fn drawn(bins: &Bins, width: usize, blocks: bool) -> String {
    let all = (bins.counts.iter().sum::<u64>() + bins.below + bins.above).max(1);
    let percent = |count: u64| format!("{:6.2} %", count as f64 * 100.0 / all as f64);
    let most = bins.counts.iter().copied().max().unwrap_or(0).max(1);
    let edges: Vec<String> = (0..bins.counts.len()).map(|at| number(bins.edge(at))).collect();
    let label = edges.iter().map(String::len).max().unwrap_or(0).max(6);
    let room = width.saturating_sub(label + 12).max(10);
    let mut text = String::new();
    if bins.below > 0 {
        text += &format!("{:>label$} {}\n", "below", percent(bins.below));
    }
    for (edge, &count) in edges.iter().zip(&bins.counts) {
        let bar = bar(count as f64 / most as f64 * room as f64, count > 0, blocks);
        text += format!("{edge:>label$} {} {bar}", percent(count)).trim_end();
        text.push('\n');
    }
    if bins.above > 0 {
        text += &format!("{:>label$} {}\n", "above", percent(bins.above));
    }
    let edge = bins.counts.len();
    text + &format!(
        "{:>label$} (each line begins at its number, the last ends here)\n",
        number(bins.edge(edge))
    )
}

/// A bar of so many characters, in eighths where the terminal has them.
fn bar(length: f64, any: bool, blocks: bool) -> String {
    if !blocks {
        let length = (length.round() as usize).max(usize::from(any));
        return "#".repeat(length);
    }
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = ((length * 8.0).round() as usize).max(usize::from(any));
    "█".repeat(eighths / 8) + EIGHTHS[eighths % 8]
}

/// A number in four significant digits.
fn number(value: f64) -> String {
    format::digits(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_long_as_their_share() {
        assert_eq!(bar(2.5, true, true), "██▌");
        assert_eq!(bar(0.0, true, true), "▏");
        assert_eq!(
            (bar(2.6, true, false), bar(0.0, true, false), bar(0.0, false, false)),
            ("###".into(), "#".into(), String::new())
        );
    }

    #[test]
    fn every_bin_has_a_line_and_the_longest_fits_the_width() {
        let bins = Bins { start: -0.5, width: 0.5, counts: vec![1, 8, 0], below: 1, above: 0 };
        let text = drawn(&bins, 60, false);
        assert_eq!(text.lines().count(), 5, "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 60), "{text}");
        assert!(text.contains("0  80.00 % ####"), "{text}");
    }
}
