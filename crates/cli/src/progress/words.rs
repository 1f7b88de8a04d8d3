//! The words of progress: counts, speed, time left.

use std::time::Duration;

use crate::format;

/// What a job counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Chunks of a text, of so many tokens each.
    Chunks(usize),
    /// Linear layers of a model.
    Modules,
    /// Blocks of a model.
    Layers,
    /// Models of the catalogue.
    Models,
    /// Repetitions of a measurement.
    Runs,
    /// Tokens.
    Tokens,
    /// Nothing: it is not known how much there is to do.
    Nothing,
}

impl Unit {
    /// A number of them, in words.
    fn many(&self, count: u64) -> String {
        let name = match self {
            Self::Bytes => return format::bytes(count),
            Self::Nothing => return String::new(),
            Self::Chunks(_) => "chunk",
            Self::Modules => "module",
            Self::Layers => "layer",
            Self::Models => "model",
            Self::Runs => "run",
            Self::Tokens => "token",
        };
        if count == 1 { format!("1 {name}") } else { format!("{count} {name}s") }
    }

    /// `12/40 chunks`, `1.2/4.1 GiB`.
    pub fn of_total(&self, done: u64, total: Option<u64>) -> String {
        let Some(total) = total else { return self.many(done) };
        match self {
            Self::Nothing => String::new(),
            Self::Bytes => {
                let (done, total) = (format::bytes_as(done, total), format::bytes_as(total, total));
                format!("{}/{total}", done.split(' ').next().unwrap_or_default())
            }
            Self::Chunks(_) | Self::Modules | Self::Layers | Self::Models | Self::Runs | Self::Tokens => {
                format!("{done}/{}", self.many(total))
            }
        }
    }

    /// The speed; nothing before it is known.
    pub fn rate(&self, per_second: f64) -> String {
        if !per_second.is_finite() || per_second <= 0.0 {
            return String::new();
        }
        match self {
            Self::Bytes => format!("{}/s", format::bytes(per_second as u64)),
            Self::Chunks(tokens) => format!("{:.0} tokens/s", per_second * *tokens as f64),
            Self::Tokens if per_second >= 1.0 => format!("{per_second:.0} tokens/s"),
            Self::Modules if per_second >= 1.0 => format!("{per_second:.1} modules/s"),
            // Repetitions are of several kinds, each with its own speed.
            Self::Models | Self::Runs | Self::Nothing => String::new(),
            Self::Modules => format!("{:.1} s per module", 1.0 / per_second),
            Self::Layers if per_second >= 1.0 => format!("{per_second:.1} layers/s"),
            Self::Layers => format!("{:.1} s per layer", 1.0 / per_second),
            Self::Tokens => format!("{:.1} s per token", 1.0 / per_second),
        }
    }
}

/// `45 s`, `3:07`, `2:15:00`.
pub fn time(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{}:{:02}", seconds / 60, seconds % 60),
        _ => format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60),
    }
}

/// The time that the rest will take; nothing before it is known.
pub fn left(done: u64, total: Option<u64>, per_second: f64) -> String {
    let rest = total.map_or(0, |total| total.saturating_sub(done));
    let seconds = rest as f64 / per_second;
    // A year is no estimate.
    match seconds.is_finite() && seconds < 3e7 && rest > 0 {
        true => format!("{} left", self::time(Duration::from_secs_f64(seconds.ceil()))),
        false => String::new(),
    }
}

/// The line at the start of a job.
pub fn start(what: &str, unit: &Unit, total: Option<u64>) -> String {
    match total.map(|total| unit.many(total)).filter(|total| !total.is_empty()) {
        Some(total) => format!("{what}: {total}"),
        None => format!("{what} …"),
    }
}

/// A line while it goes on.
pub fn middle(
    what: &str,
    unit: &Unit,
    (done, total): (u64, Option<u64>),
    per_second: f64,
    step: &str,
) -> String {
    let count = match total.filter(|&total| total > 0) {
        Some(total) if *unit == Unit::Bytes => {
            format!("{:.0} % of {}", 100.0 * done as f64 / total as f64, unit.many(total))
        }
        Some(total) => format!("{done} of {}", unit.many(total)),
        None => unit.many(done),
    };
    let parts = [count, unit.rate(per_second), left(done, total, per_second)];
    let parts: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    let line = match parts.is_empty() {
        true => format!("{what} …"),
        false => format!("{what}: {}", parts.join(", ")),
    };
    if step.is_empty() { line } else { format!("{line} ({step})") }
}

/// The line at its end, whether or not it came to its end.
pub fn end(what: &str, unit: &Unit, (done, total): (u64, Option<u64>), took: Duration) -> String {
    let seconds = took.as_secs_f64();
    let took = if seconds < 60.0 { format!("{seconds:.1} s") } else { time(took) };
    match total.filter(|&total| done < total) {
        Some(total) => format!("{what}: ended at {}, after {took}", unit.of_total(done, Some(total))),
        None if unit.many(done).is_empty() => format!("{what}: done in {took}"),
        None => {
            let rate = unit.rate(done as f64 / seconds.max(1e-3));
            let rate = if rate.is_empty() { rate } else { format!(", {rate}") };
            format!("{what}: done, {} in {took}{rate}", unit.many(done))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_say_how_much_is_done_how_fast_and_how_long_it_takes() {
        let half = (1 << 30, Some(2 << 30));
        let line = middle("quantizing", &Unit::Bytes, half, f64::from(64 << 20), "blk.0.attn_q.weight");
        assert_eq!(line, "quantizing: 50 % of 2.00 GiB, 64.00 MiB/s, 16 s left (blk.0.attn_q.weight)");
        let line = middle("measuring", &Unit::Chunks(512), (3, Some(40)), 0.5, "");
        assert_eq!(line, "measuring: 3 of 40 chunks, 256 tokens/s, 1:14 left");
        let line = middle("calibrating", &Unit::Modules, (0, Some(7)), 0.0, "");
        assert_eq!(line, "calibrating: 0 of 7 modules");
        assert_eq!(middle("asking", &Unit::Nothing, (0, None), 0.0, ""), "asking …");
        assert_eq!(
            middle("generating", &Unit::Tokens, (1, None), 0.25, ""),
            "generating: 1 token, 4.0 s per token"
        );
    }

    #[test]
    fn first_and_last_lines_differ_by_how_it_ended() {
        assert_eq!(start("verifying", &Unit::Bytes, Some(1 << 20)), "verifying: 1.00 MiB");
        assert_eq!(start("asking the Hub", &Unit::Nothing, None), "asking the Hub …");
        let second = Duration::from_secs(1);
        assert_eq!(
            end("verifying", &Unit::Bytes, (1 << 20, Some(1 << 20)), second),
            "verifying: done, 1.00 MiB in 1.0 s, 1.00 MiB/s"
        );
        assert_eq!(
            end("measuring", &Unit::Runs, (3, Some(12)), Duration::from_secs(75)),
            "measuring: ended at 3/12 runs, after 1:15"
        );
        assert_eq!(end("asking", &Unit::Nothing, (0, None), second), "asking: done in 1.0 s");
    }

    #[test]
    fn bars_say_the_same_in_short() {
        assert_eq!(Unit::Bytes.of_total(512 << 20, Some(2 << 30)), "0.50/2.00 GiB");
        assert_eq!(Unit::Tokens.of_total(3, Some(40)), "3/40 tokens");
        assert_eq!(Unit::Tokens.of_total(3, None), "3 tokens");
        assert_eq!(left(5, Some(5), 1.0), "");
        assert_eq!(time(Duration::from_secs(8100)), "2:15:00");
        assert_eq!(Unit::Modules.rate(f64::NAN), "");
    }
}
