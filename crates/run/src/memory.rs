//! Memory figures from the operating system: this process's use, and what is available.

mod cgroup;

use std::path::Path;

use quern_tensor_io::output::human_bytes;
use quern_tensor_io::{Error, Remedy};

/// The largest resident set this process has had, in bytes: `VmHWM` of `/proc/self/status`. Pages of the
/// memory map that were touched count. `None` where the system does not say (not Linux).
pub fn peak_memory_bytes() -> Option<u64> {
    kilobytes(&read(Path::new("/proc/self/status"))?, "VmHWM:")
}

/// Resets the peak: from here on [`peak_memory_bytes`] is the largest since. Returns whether the system did so.
pub(crate) fn reset_peak() -> bool {
    std::fs::write("/proc/self/clear_refs", "5").is_ok()
}

/// Resident memory of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resident {
    /// Bytes of its own: heap, stacks, caches of keys and values.
    pub own: u64,
    /// Bytes of files mapped: weights, the program itself.
    pub mapped: u64,
}

/// What of this process is in memory now; `None` where the system does not say.
pub fn resident() -> Option<Resident> {
    parse_resident(&read(Path::new("/proc/self/status"))?)
}

fn parse_resident(status: &str) -> Option<Resident> {
    let shared = kilobytes(status, "RssShmem:").unwrap_or(0);
    Some(Resident { own: kilobytes(status, "RssAnon:")? + shared, mapped: kilobytes(status, "RssFile:")? })
}

/// Bytes that can still be used before the system, or the control group this process is in, runs out. File
/// cache counts as free, because the system can drop it. `None` where the system does not say.
pub fn available_memory() -> Option<u64> {
    let system = kilobytes(&read(Path::new("/proc/meminfo"))?, "MemAvailable:")?;
    Some(cgroup::room(&read).map_or(system, |room| room.min(system)))
}

/// Bytes of the largest cache of the first processor. `None` where the system does not say.
pub fn last_level_cache() -> Option<u64> {
    let size = |index: usize| {
        let path = format!("/sys/devices/system/cpu/cpu0/cache/index{index}/size");
        let kib = read(Path::new(&path))?.trim().strip_suffix('K')?.parse::<u64>().ok()?;
        kib.checked_mul(1024)
    };
    (0..8).filter_map(size).max()
}

/// Refuses work on `model` that takes `needed` bytes if less memory is available; `remedy` says what lowers it. The
/// text is a warning where it will be close.
///
/// # Errors
/// There is less memory.
pub fn require_memory(model: &Path, needed: u64, remedy: Remedy) -> quern_tensor_io::Result<Option<String>> {
    match available_memory() {
        Some(available) => compare(model, needed, available, remedy),
        None => Ok(None),
    }
}

fn compare(
    model: &Path,
    needed: u64,
    available: u64,
    remedy: Remedy,
) -> quern_tensor_io::Result<Option<String>> {
    let (needs, has) = (human_bytes(needed), human_bytes(available));
    if needed > available {
        let what =
            format!("this needs about {needs} of memory beside the model, but only {has} are available");
        return Err(Error::refused(model, what).with_remedy(remedy));
    }
    let close = needed > available / 5 * 4;
    Ok(close.then(|| format!("this needs about {needs} of memory beside the model, and {has} are available")))
}

fn read(path: &Path) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

/// The value of a line `key   N kB`, in bytes.
fn kilobytes(text: &str, key: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(key))?.trim();
    value.strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_lines_the_kernel_writes() {
        let status = "VmPeak:\t 9 kB\nVmHWM:\t   13260 kB\nVmRSS:\t 1 kB\nRssAnon:\t 7 kB\nRssFile:\t 8 kB\n";
        assert_eq!(kilobytes(status, "VmHWM:"), Some(13260 * 1024));
        assert_eq!(kilobytes("VmPeak:\t 9 kB\n", "VmHWM:"), None);
        assert_eq!(kilobytes("VmHWM:\t many kB\n", "VmHWM:"), None);
        let with_shared = format!("{status}RssShmem:\t 2 kB\n");
        assert_eq!(parse_resident(status), Some(Resident { own: 7 << 10, mapped: 8 << 10 }));
        assert_eq!(parse_resident(&with_shared), Some(Resident { own: 9 << 10, mapped: 8 << 10 }));
    }

    #[test]
    fn too_little_memory_is_refused_and_little_is_a_warning() {
        let of = |needed| compare(Path::new("model"), needed, 10 << 30, Remedy::LessCalibration);
        assert_eq!(of(7 << 30).unwrap(), None);
        assert!(
            of(9 << 30).unwrap().unwrap().contains("about 9.0 GiB of memory beside the model, and 10.0 GiB")
        );
        let error = of(11 << 30).unwrap_err();
        assert!(error.to_string().starts_with("model: this needs about 11.0 GiB"), "{error}");
        assert_eq!(error.remedy(), Some(Remedy::LessCalibration));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_has_memory_and_a_peak() {
        let before = resident().unwrap();
        let block = vec![1u8; 32 << 20];
        let after = resident().unwrap();
        assert!(after.own >= before.own + (16 << 20), "{before:?} {after:?}");
        assert!(peak_memory_bytes().unwrap() >= 32 << 20 && block[5] == 1);
        assert!(available_memory().unwrap() > 1 << 20);
    }
}
