//! Peak memory of this process, as the operating system counts it.

/// The largest resident set this process has had, in bytes: `VmHWM` of `/proc/self/status`. Pages of the
/// memory map that were touched count. `None` where the system does not say (not Linux).
pub fn peak_memory_bytes() -> Option<u64> {
    parse_peak(&std::fs::read_to_string("/proc/self/status").ok()?)
}

fn parse_peak(status: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.trim();
    value.strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_line_the_kernel_writes() {
        assert_eq!(parse_peak("VmPeak:\t 9 kB\nVmHWM:\t   13260 kB\nVmRSS:\t 1 kB\n"), Some(13260 * 1024));
        assert_eq!(parse_peak("VmPeak:\t 9 kB\n"), None);
        assert_eq!(parse_peak("VmHWM:\t many kB\n"), None);
        if cfg!(target_os = "linux") {
            assert!(peak_memory_bytes().unwrap() > 100_000);
        }
    }
}
