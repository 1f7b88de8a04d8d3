//! Memory, as the system and the container this process is in describe it.

use serde::Serialize;

/// Memory, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// What the machine has.
    pub total: Option<u64>,
    /// What can still be used; the limit of a container counts.
    pub available: Option<u64>,
    /// Swap space in use.
    pub swap_used: Option<u64>,
}

/// Describes the memory.
pub fn memory() -> Memory {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let (total, swap_used) = described(&text);
    Memory { total, available: quern_run::available_memory(), swap_used }
}

/// The total, and the swap space in use, from `/proc/meminfo`.
fn described(text: &str) -> (Option<u64>, Option<u64>) {
    let value = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    };
    let swap = value("SwapTotal:").zip(value("SwapFree:"));
    (value("MemTotal:"), swap.map(|(total, free)| total.saturating_sub(free)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_lines_the_kernel_writes() {
        let text = "MemTotal:       24 kB\nMemFree: 3 kB\nSwapTotal:  10 kB\nSwapFree:  4 kB\n";
        assert_eq!(described(text), (Some(24 << 10), Some(6 << 10)));
        assert_eq!(described("MemTotal: many kB\n"), (None, None));
    }
}
