//! The memory that a control group still allows its processes: containers and job schedulers set limits there that
//! the system's own figures do not include.
//!
//! Version 2 (`memory.max`, `memory.current`) and version 1 (`memory.limit_in_bytes`,
//! `memory.usage_in_bytes`); the limits of all groups above count too. See the kernel's
//! Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst.

use std::path::{Path, PathBuf};

/// One version's files.
struct Version {
    /// Type of its file system in `mountinfo`.
    mount: &'static str,
    limit: &'static str,
    usage: &'static str,
    /// Keys of file cache in `memory.stat`: given up before anything else.
    cache: [&'static str; 2],
}

const V2: Version = Version {
    mount: "cgroup2",
    limit: "memory.max",
    usage: "memory.current",
    cache: ["inactive_file", "active_file"],
};
const V1: Version = Version {
    mount: "cgroup",
    limit: "memory.limit_in_bytes",
    usage: "memory.usage_in_bytes",
    cache: ["total_inactive_file", "total_active_file"],
};

/// Bytes that the groups of this process still allow; `None` without a limit. `read` gives the text of a file.
pub(super) fn room(read: &dyn Fn(&Path) -> Option<String>) -> Option<u64> {
    let groups = read(Path::new("/proc/self/cgroup"))?;
    let mounts = read(Path::new("/proc/self/mountinfo"))?;
    let rooms = groups.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, group) = (parts.next()?, parts.next()?, parts.next()?);
        let version = match controllers {
            "" => V2,
            _ if controllers.split(',').any(|c| c == "memory") => V1,
            _ => return None,
        };
        let (top, directory) = place(&mounts, &version, group)?;
        let above = directory.ancestors().take_while(|at| at.starts_with(&top));
        above.filter_map(|at| left(read, &version, at)).min()
    });
    rooms.min()
}

/// Where a version is mounted, and the directory of the group there.
fn place(mounts: &str, version: &Version, group: &str) -> Option<(PathBuf, PathBuf)> {
    mounts.lines().find_map(|line| {
        // id parent major:minor root mountpoint options [tags] - type source options
        let (own, shared) = line.split_once(" - ")?;
        let mut own = own.split(' ').skip(3);
        let (root, point) = (own.next()?, own.next()?);
        let mut shared = shared.split(' ');
        let (kind, options) = (shared.next()?, shared.nth(1)?);
        let fits = kind == version.mount && (kind == V2.mount || options.split(',').any(|o| o == "memory"));
        if !fits {
            return None;
        }
        let top = PathBuf::from(point);
        // In a container the mount may begin at its own group, and the group's name be the one outside.
        let below = Path::new(group).strip_prefix(root).unwrap_or(Path::new(""));
        let directory = top.join(below);
        Some((top, directory))
    })
}

/// What one group has left, without its file cache.
fn left(read: &dyn Fn(&Path) -> Option<String>, version: &Version, group: &Path) -> Option<u64> {
    let number = |name: &str| read(&group.join(name))?.trim().parse::<u64>().ok();
    // "max", or close to 2^63 in version 1: no limit.
    let limit = number(version.limit).filter(|&limit| limit < 1 << 60)?;
    let usage = number(version.usage)?;
    let stat = read(&group.join("memory.stat")).unwrap_or_default();
    let value = |key: &str| {
        let line = stat.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
        line.and_then(|value| value.trim().parse::<u64>().ok()).unwrap_or(0)
    };
    let cache: u64 = version.cache.into_iter().map(value).sum();
    Some(limit.saturating_sub(usage.saturating_sub(cache)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn system<'a>(files: &'a [(&'a str, &'a str)]) -> impl Fn(&Path) -> Option<String> + 'a {
        |path| files.iter().find(|(name, _)| path == Path::new(name)).map(|(_, text)| (*text).to_owned())
    }

    #[test]
    fn version_2_with_the_tightest_of_all_groups_above() {
        let mut files = vec![
            ("/proc/self/cgroup", "0::/user/job/task\n"),
            ("/proc/self/mountinfo", "31 23 0:28 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw\n"),
            ("/sys/fs/cgroup/user/job/task/memory.max", "max\n"),
            ("/sys/fs/cgroup/user/job/memory.max", "1000000\n"),
            ("/sys/fs/cgroup/user/job/memory.current", "700000\n"),
            (
                "/sys/fs/cgroup/user/job/memory.stat",
                "anon 5\nfile 9\ninactive_file 100000\nactive_file 50000\n",
            ),
            ("/sys/fs/cgroup/user/memory.max", "2000000\n"),
            ("/sys/fs/cgroup/user/memory.current", "1700000\n"),
        ];
        assert_eq!(room(&system(&files)), Some(300_000));
        files.truncate(6);
        assert_eq!(room(&system(&files)), Some(450_000));
        files.truncate(3);
        assert_eq!(room(&system(&files)), None);
        assert_eq!(room(&system(&files[..1])), None);
        assert_eq!(room(&|_| None), None);
    }

    #[test]
    fn version_1_beside_other_hierarchies() {
        let mounts = "35 31 0:31 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      36 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let files = [
            ("/proc/self/cgroup", "4:memory:/a\n1:cpu:/b\n0::/\n"),
            ("/proc/self/mountinfo", mounts),
            ("/sys/fs/cgroup/memory/a/memory.limit_in_bytes", "4096000\n"),
            ("/sys/fs/cgroup/memory/a/memory.usage_in_bytes", "3000000\n"),
            ("/sys/fs/cgroup/memory/a/memory.stat", "inactive_file 1\ntotal_inactive_file 500000\n"),
            ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("/sys/fs/cgroup/memory/memory.usage_in_bytes", "1\n"),
        ];
        assert_eq!(room(&system(&files)), Some(1_596_000));
    }

    #[test]
    fn a_container_whose_mount_begins_at_its_group() {
        let files = [
            ("/proc/self/cgroup", "0::/docker/abc\n"),
            ("/proc/self/mountinfo", "31 23 0:28 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup rw\n"),
            ("/sys/fs/cgroup/memory.max", "500\n"),
            ("/sys/fs/cgroup/memory.current", "600\n"),
        ];
        assert_eq!(room(&system(&files)), Some(0));
    }
}
