//! The processor, as the system describes it.

use std::collections::BTreeSet;

use quern_compute::simd::Level;
use serde::Serialize;

/// The processor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cpu {
    /// Its name; `None` where the system does not say.
    pub name: Option<String>,
    /// Physical cores.
    pub cores: Option<usize>,
    /// Logical processors of the machine.
    pub processors: Option<usize>,
    /// Logical processors that this process may use: affinity and limits of containers count.
    pub usable: usize,
    /// The instructions that quern uses: as `QUERN_SIMD` names them.
    pub simd: &'static str,
    /// The best of them that the processor has; another than `simd` if `QUERN_SIMD` forbids it.
    pub best_simd: &'static str,
    /// Bytes of the last-level cache.
    pub last_level_cache: Option<u64>,
}

/// Describes the processor.
pub fn cpu() -> Cpu {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let Described { name, cores, processors } = described(&text);
    Cpu {
        name,
        cores,
        processors,
        usable: std::thread::available_parallelism().map_or(1, |n| n.get()),
        simd: Level::detect().name(),
        best_simd: Level::best().name(),
        last_level_cache: quern_run::last_level_cache(),
    }
}

struct Described {
    name: Option<String>,
    cores: Option<usize>,
    processors: Option<usize>,
}

/// Reads `/proc/cpuinfo`: a paragraph for each logical processor.
fn described(text: &str) -> Described {
    let value = |line: &str, key: &str| {
        let (found, value) = line.split_once(':')?;
        (found.trim() == key).then(|| value.trim().to_owned())
    };
    let find = |part: &str, key: &str| part.lines().find_map(|line| value(line, key));
    let parts: Vec<&str> = text.split("\n\n").filter(|part| find(part, "processor").is_some()).collect();
    let cores: BTreeSet<(String, String)> =
        parts.iter().filter_map(|part| Some((find(part, "physical id")?, find(part, "core id")?))).collect();
    Described {
        name: find(text, "model name").filter(|name| !name.is_empty()),
        cores: (!cores.is_empty()).then_some(cores.len()),
        processors: (!parts.is_empty()).then_some(parts.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_counted_once() {
        let processor = |number: usize, core: usize| {
            format!(
                "processor\t: {number}\nmodel name\t: A CPU @ 2:1\nphysical id\t: 0\ncore id\t\t: {core}\n"
            )
        };
        let text = [processor(0, 0), processor(1, 1), processor(2, 0), processor(3, 1)].join("\n");
        let found = described(&text);
        assert_eq!(found.name.as_deref(), Some("A CPU @ 2:1"));
        assert_eq!((found.cores, found.processors), (Some(2), Some(4)));
        let nothing = described("");
        assert_eq!((nothing.name, nothing.cores, nothing.processors), (None, None, None));
    }

    #[test]
    fn this_machine_has_a_processor() {
        let cpu = cpu();
        assert!(cpu.usable >= 1 && !cpu.simd.is_empty());
    }
}
