//! The system's limits on threads and descriptors. An error names the limit that was reached, so
//! that a user can raise it.
//!
//! The system reports half a dozen different limits as "Resource temporarily unavailable". This
//! module reads them, with the current usage, as far as the system allows; Linux does.

use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;

use rustix::process::{Resource, getrlimit};

/// A limit of the system and its current usage.
#[derive(Debug, Clone)]
pub(crate) struct Limit {
    /// The subject whose usage is limited, such as "this process".
    pub(crate) who: String,
    pub(crate) unit: Unit,
    pub(crate) used: u64,
    pub(crate) max: u64,
    /// The limit's name and what changes it: "NAME allows (TOOL)".
    pub(crate) allowed_by: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    Threads,
    Maps,
    /// Address space, in MiB.
    Space,
    /// Committed memory, in MiB.
    Memory,
    Descriptors,
}

impl Unit {
    /// Returns what one thread needs.
    pub(crate) fn per_thread(self) -> u64 {
        match self {
            Unit::Threads => 1,
            // Its stack, its signal stack, and the guard pages of both.
            Unit::Maps => 4,
            // A stack of 2 MiB, and a reserve.
            Unit::Space | Unit::Memory => 3,
            Unit::Descriptors => 0,
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.unit {
            Unit::Threads => "threads",
            Unit::Maps => "memory maps",
            Unit::Space => "MiB of address space",
            Unit::Memory => "MiB of committed memory",
            Unit::Descriptors => "descriptors",
        };
        let Limit { who, used, max, .. } = self;
        let allowed_by = self.allowed_by;
        write!(f, "{who} has {used} {unit}, of the {max} that {allowed_by}")
    }
}

/// Returns every limit that can prevent a new connection, as far as the system allows to read it.
/// This takes milliseconds.
pub(crate) fn all() -> Vec<Limit> {
    let (process, user, system) = ("this process", "this user", "this system");
    let mib = |kib: u64| kib >> 10;

    let used = threads_of_the_system();
    let max = number("/proc/sys/kernel/threads-max");
    let name = "kernel.threads-max allows (sysctl)";
    let threads = limit(system, Unit::Threads, used, max, name);

    let max = number("/proc/sys/kernel/pid_max");
    let name = "kernel.pid_max allows (sysctl)";
    let ids = limit(system, Unit::Threads, used, max, name)
        // Since Linux 6.14, a PID namespace may have a limit of its own, but all threads are
        // counted.
        .filter(|ids| ids.used <= ids.max);

    let max = getrlimit(Resource::Nproc).current;
    // The limit does not hold for root.
    let id = field("/proc/self/status", "Uid:").filter(|id| *id != 0 && max.is_some());
    let used = id.map(|id| threads_of(id, Path::new("/proc")));
    let name = "RLIMIT_NPROC allows (ulimit -u)";
    let own = limit(user, Unit::Threads, used, max, name);

    let used = field("/proc/self/status", "VmSize:").map(mib);
    let max = getrlimit(Resource::As).current.map(|bytes| bytes >> 20);
    let name = "RLIMIT_AS allows (ulimit -v)";
    let space = limit(process, Unit::Space, used, max, name);

    let used = field("/proc/meminfo", "Committed_AS:").map(mib);
    let max = field("/proc/meminfo", "CommitLimit:").map(mib);
    let name = "vm.overcommit_memory=2 allows (sysctl vm.overcommit_ratio)";
    let memory = limit(system, Unit::Memory, used, max, name)
        .filter(|_| number("/proc/sys/vm/overcommit_memory") == Some(2));

    // If the system does not list descriptors, few are assumed to be open.
    let used = fs::read_dir("/dev/fd").map_or(0, |list| list.count() as u64);
    let max = getrlimit(Resource::Nofile).current;
    let name = "RLIMIT_NOFILE allows (ulimit -n)";
    let descriptors = limit(process, Unit::Descriptors, Some(used), max, name);

    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    [maps(), threads, ids, own, space, memory, descriptors]
        .into_iter()
        .flatten()
        .chain(pids_of(&groups, Path::new("/sys/fs/cgroup")))
        .collect()
}

/// Returns the memory maps of this process, and their limit. Counting takes 25 ms for 65 000 maps.
pub(crate) fn maps() -> Option<Limit> {
    let max = number("/proc/sys/vm/max_map_count")?;
    let mut lines = BufReader::new(fs::File::open("/proc/self/maps").ok()?);
    let mut used = 0;
    while lines.skip_until(b'\n').ok()? > 0 {
        used += 1;
    }
    let name = "vm.max_map_count allows (sysctl; a thread takes 4)";
    limit("this process", Unit::Maps, Some(used), Some(max), name)
}

/// Returns a limit of which both numbers are known.
fn limit(
    who: &str,
    unit: Unit,
    used: Option<u64>,
    max: Option<u64>,
    allowed_by: &'static str,
) -> Option<Limit> {
    Some(Limit {
        who: who.to_owned(),
        unit,
        used: used?,
        max: max?,
        allowed_by,
    })
}

fn threads_of_the_system() -> Option<u64> {
    // "0.00 0.01 0.05 1/123 4567": 1 of 123 threads is running.
    let load = fs::read_to_string("/proc/loadavg").ok()?;
    let (_, all) = load.split_whitespace().nth(3)?.split_once('/')?;
    all.parse().ok()
}

fn threads_of(user: u64, processes: &Path) -> u64 {
    let processes = fs::read_dir(processes).into_iter().flatten().flatten();
    let statuses = processes.filter_map(|process| {
        // Skips "self", which is listed by its number as well.
        process.file_name().to_str()?.parse::<u32>().ok()?;
        let status = fs::read_to_string(process.path().join("status")).ok()?;
        (field_in(&status, "Uid:")? == user).then_some(field_in(&status, "Threads:")?)
    });
    statuses.sum()
}

/// Returns the limits on threads of this process's control groups, from its own group upwards.
/// `list` is the content of /proc/self/cgroup.
fn pids_of(list: &str, root: &Path) -> Vec<Limit> {
    let mut limits = Vec::new();
    for line in list.lines() {
        // "0::/group" in version 2; "8:pids:/group" in version 1, where controllers have trees.
        let mut parts = line.splitn(3, ':').skip(1);
        let folder = match parts.next() {
            Some("") => root.to_owned(),
            Some("pids") => root.join("pids"),
            _ => continue,
        };
        for group in Path::new(parts.next().unwrap_or("/")).ancestors() {
            let folder = folder.join(group.strip_prefix("/").unwrap_or(group));
            let used = number(folder.join("pids.current"));
            let max = number(folder.join("pids.max"));
            let who = format!("the control group {}", group.display());
            let name = "its pids.max allows (TasksMax in systemd)";
            limits.extend(limit(&who, Unit::Threads, used, max, name));
        }
    }
    limits
}

/// Returns the only number in a file.
fn number(path: impl AsRef<Path>) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Returns the first number after a name.
fn field(path: &str, name: &str) -> Option<u64> {
    field_in(&fs::read_to_string(path).ok()?, name)
}

fn field_in(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn the_limits_of_linux_are_read() {
        let limits = all();
        for name in ["vm.max_map_count", "kernel.threads-max", "kernel.pid_max"] {
            let found = limits
                .iter()
                .find(|limit| limit.allowed_by.starts_with(name));
            let limit = found.unwrap_or_else(|| panic!("{name}: {limits:?}"));
            assert!((1..=limit.max).contains(&limit.used), "{limit:?}");
        }
    }

    #[test]
    fn descriptors_are_counted() {
        let mut limits = all().into_iter();
        let limit = limits.find(|limit| limit.unit == Unit::Descriptors);
        let limit = limit.unwrap();
        assert!((3..limit.max).contains(&limit.used), "{limit:?}");
        let text = limit.to_string();
        assert!(
            text.ends_with("that RLIMIT_NOFILE allows (ulimit -n)"),
            "{text}"
        );
    }

    #[test]
    fn the_threads_of_a_user_are_counted_once() {
        let root = std::env::temp_dir().join(format!("processes-of-{}", std::process::id()));
        for (process, user, threads) in [("1", 0, 5), ("20", 7, 2), ("31", 7, 3), ("self", 7, 3)] {
            let status = format!("Name:\tx\nUid:\t{user}\t0\t0\t0\nThreads:\t{threads}\n");
            fs::create_dir_all(root.join(process)).unwrap();
            fs::write(root.join(process).join("status"), status).unwrap();
        }
        assert_eq!(threads_of(7, &root), 5);
        fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn the_limits_of_all_parent_control_groups_are_read() {
        let root = std::env::temp_dir().join(format!("cgroups-of-{}", std::process::id()));
        for (folder, used, max) in [
            ("a/b", "7\n", "8\n"),
            ("a", "9\n", "max\n"),
            ("", "20\n", "30\n"),
            ("pids/c", "1\n", "2\n"),
        ] {
            let folder = root.join(folder);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("pids.current"), used).unwrap();
            fs::write(folder.join("pids.max"), max).unwrap();
        }
        let found = |list: &str| {
            let limits = pids_of(list, &root);
            let limits = limits.iter();
            limits
                .map(|limit| (limit.used, limit.max))
                .collect::<Vec<_>>()
        };
        // Version 2, and version 1, where each controller has its own tree.
        assert_eq!(found("0::/a/b\n"), [(7, 8), (20, 30)]);
        assert_eq!(found("9:cpu:/a/b\n8:pids:/c\n"), [(1, 2)]);
        assert_eq!(found("0::/elsewhere\n"), [(20, 30)]);
        fs::remove_dir_all(&root).unwrap();
    }
}
