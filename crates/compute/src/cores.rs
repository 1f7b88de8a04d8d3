//! The processor cores that this process may compute on.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// How many threads are used where nobody says: one for each physical core that the process may use, only performance
/// cores where the processor has others, and no more than the container's share of processor time. Both threads of a core
/// share its vector and matrix units, and an efficiency core delays the others at the end of every parallel region.
///
/// Where the system does not describe its cores (Linux does in `/sys/devices/system/cpu`), one for each logical
/// processor.
pub fn default_threads() -> usize {
    let usable = std::thread::available_parallelism().map_or(1, |n| n.get());
    physical(Path::new("/")).map_or(usable, |cores| cores.clamp(1, usable))
}

/// Physical performance cores among the processors that this process may run on; `root` is `/` but in tests.
fn physical(root: &Path) -> Option<usize> {
    let read = |path: String| fs::read_to_string(root.join(path)).ok();
    let status = read("proc/self/status".to_owned())?;
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    let allowed = numbers(allowed)?;
    let fast: Option<BTreeSet<usize>> = read("sys/devices/cpu_core/cpus".to_owned())
        .and_then(|list| numbers(&list))
        .map(|fast| fast.intersection(&allowed).copied().collect());
    let used = fast.filter(|fast| !fast.is_empty()).unwrap_or(allowed);
    let cores: Option<BTreeSet<String>> = used
        .iter()
        .map(|cpu| {
            let topology = format!("sys/devices/system/cpu/cpu{cpu}/topology");
            read(format!("{topology}/core_cpus_list"))
                .or_else(|| read(format!("{topology}/thread_siblings_list")))
                .map(|list| list.trim().to_owned())
        })
        .collect();
    cores.map(|cores| cores.len()).filter(|&cores| cores > 0)
}

/// The numbers of a list such as `0-3,8,10-11`.
fn numbers(list: &str) -> Option<BTreeSet<usize>> {
    /// More processors than Linux can have: a list that names more is none.
    const MOST: usize = 1 << 16;
    let mut numbers = BTreeSet::new();
    for part in list.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if last >= MOST {
            return None;
        }
        numbers.extend(first..=last);
    }
    Some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine of eight processors: two threads on each of the cores 0 and 1, four efficiency cores.
    fn machine(allowed: &str, hybrid: bool) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("proc/self/status", &format!("Name:\tquern\nCpus_allowed_list:\t{allowed}\nThreads:\t1\n"));
        for cpu in 0..8 {
            let siblings =
                if cpu < 4 { format!("{}-{}\n", cpu / 2 * 2, cpu / 2 * 2 + 1) } else { format!("{cpu}\n") };
            write(&format!("sys/devices/system/cpu/cpu{cpu}/topology/core_cpus_list"), &siblings);
        }
        if hybrid {
            write("sys/devices/cpu_core/cpus", "0-3\n");
            write("sys/devices/cpu_atom/cpus", "4-7\n");
        }
        dir
    }

    #[test]
    #[cfg_attr(miri, ignore = "files")]
    fn performance_cores_that_may_be_used_count_once() {
        let of = |allowed, hybrid| physical(machine(allowed, hybrid).path());
        assert_eq!(of("0-7", false), Some(6));
        assert_eq!(of("0-7", true), Some(2));
        assert_eq!(of("1-2", true), Some(2));
        assert_eq!(of("0,1", true), Some(1));
        // Only efficiency cores are allowed.
        assert_eq!(of("5-7", true), Some(3));
        // A processor that is not described.
        assert_eq!(of("0-9", false), None);
        assert_eq!(of("what", false), None);
        assert_eq!(of("0-99999999", false), None);
        assert_eq!(physical(Path::new("/nowhere")), None);
    }

    #[test]
    fn this_process_has_cores() {
        let usable = std::thread::available_parallelism().map_or(1, |n| n.get());
        assert!((1..=usable).contains(&default_threads()));
    }
}
