//! The system's limits on threads and descriptors. An error names the limit that was reached, so
//! that a user can raise it.
//!
//! The system reports half a dozen different limits as "Resource temporarily unavailable". This
//! module reads them, with the current usage, as far as the system allows; Linux does.

use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::path::Path;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

/// The time for which a result is reused. Reading the limits takes milliseconds, and if one thread
/// cannot be started, many others cannot either.
const KEPT: Duration = Duration::from_secs(1);

/// A limit of the system and its usage.
#[derive(Debug, Clone)]
pub(crate) struct Limit {
    /// Whose usage it is.
    pub(crate) who: String,
    pub(crate) what: Unit,
    pub(crate) used: u64,
    pub(crate) max: u64,
    pub(crate) name: &'static str,
    /// The setting that changes the limit.
    pub(crate) set_with: &'static str,
}

#[derive(Debug, Clone, Copy)]
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
    pub(crate) fn of_a_thread(self) -> u64 {
        match self {
            Unit::Threads => 1,
            // Its stack, its signal stack, and the guard pages of both.
            Unit::Maps => 4,
            // A stack of 2 MiB, and some more.
            Unit::Space | Unit::Memory => 3,
            Unit::Descriptors => 0,
        }
    }
}

impl Limit {
    /// Returns whether the limit prevents another thread. The margin allows for threads that have
    /// ended since.
    fn is_reached(&self) -> bool {
        self.used + self.what.of_a_thread() + self.max / 32 > self.max
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.what {
            Unit::Threads => "threads",
            Unit::Maps => "memory maps",
            Unit::Space => "MiB of address space",
            Unit::Memory => "MiB of memory promised",
            Unit::Descriptors => "descriptors",
        };
        let Limit { who, used, max, .. } = self;
        let (name, set_with) = (self.name, self.set_with);
        write!(
            f,
            "{who} has {used} {what}, of the {max} that {name} allows ({set_with})"
        )
    }
}

/// Adds the limit that was reached to the error of a thread that could not be started.
pub(crate) fn of_threads(error: io::Error) -> io::Error {
    /// Locked while the limits are read, so that only one thread reads them.
    static LATEST: Mutex<Option<(Instant, String)>> = Mutex::new(None);

    if !matches!(
        Errno::from_io_error(&error),
        Some(Errno::AGAIN | Errno::NOMEM)
    ) {
        return error;
    }
    let mut latest = LATEST.lock();
    let (_, text) = match latest.take() {
        Some(found) if found.0.elapsed() < KEPT => latest.insert(found),
        _ => latest.insert((Instant::now(), describe(&thread_limits()))),
    };
    with(error, text)
}

/// Adds the limit that was reached to the error of a descriptor that could not be created.
pub(crate) fn of_descriptors(error: io::Error) -> io::Error {
    match Errno::from_io_error(&error) {
        Some(Errno::MFILE) => {
            // Counting them would need a descriptor.
            let all = match getrlimit(Resource::Nofile).current {
                Some(max) => format!("all {max} descriptors"),
                None => "all the descriptors".to_owned(),
            };
            let text = format!("this process has {all} that RLIMIT_NOFILE allows (ulimit -n)");
            with(error, &text)
        }
        Some(Errno::NFILE) => with(
            error,
            "this system has all the files open that fs.file-max allows (sysctl)",
        ),
        Some(Errno::NOBUFS | Errno::NOMEM) => with(
            error,
            "the system is out of memory, or its control group is (memory.max)",
        ),
        _ => error,
    }
}

/// Returns whether the call could succeed if a descriptor or some memory were freed.
pub(crate) fn is_want_of_descriptors(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)
    )
}

fn with(error: io::Error, text: &str) -> io::Error {
    io::Error::new(error.kind(), format!("{error}: {text}"))
}

/// Describes the limits that are reached, or all if none is known to be reached.
fn describe(limits: &[Limit]) -> String {
    let list = |limits: &mut dyn Iterator<Item = &Limit>| {
        limits.map(Limit::to_string).collect::<Vec<_>>().join("; ")
    };
    let reached = list(&mut limits.iter().filter(|limit| limit.is_reached()));
    match (reached.is_empty(), limits.is_empty()) {
        (false, _) => reached,
        (true, false) => format!("no limit seems to be reached: {}", list(&mut limits.iter())),
        (true, true) => "a limit on threads or memory is reached (ulimit -u, ulimit -v)".to_owned(),
    }
}

/// Returns all known limits that can prevent a connection.
pub(crate) fn all() -> Vec<Limit> {
    let mut limits = thread_limits();
    limits.extend(descriptors());
    limits
}

fn descriptors() -> Option<Limit> {
    let max = getrlimit(Resource::Nofile).current?;
    Some(Limit {
        who: "this process".to_owned(),
        what: Unit::Descriptors,
        // Where they cannot be listed, few are assumed: the standard streams and a server.
        used: fs::read_dir("/dev/fd").map_or(0, |list| list.count() as u64),
        max,
        name: "RLIMIT_NOFILE",
        set_with: "ulimit -n",
    })
}

/// Returns all known limits that can prevent a thread.
fn thread_limits() -> Vec<Limit> {
    let limit = |who: &str, what, used: Option<u64>, max: Option<u64>, name, set_with| {
        let (who, used, max) = (who.to_owned(), used?, max?);
        Some(Limit {
            who,
            what,
            used,
            max,
            name,
            set_with,
        })
    };
    let (process, user, system) = ("this process", "this user", "this system");
    let mib = |kib: u64| kib >> 10;

    let running = threads_of_the_system();
    let max = number("/proc/sys/kernel/threads-max");
    let all = limit(
        system,
        Unit::Threads,
        running,
        max,
        "kernel.threads-max",
        "sysctl",
    );
    let max = number("/proc/sys/kernel/pid_max");
    let ids = limit(
        system,
        Unit::Threads,
        running,
        max,
        "kernel.pid_max",
        "sysctl",
    )
    // Since Linux 6.14, a PID namespace may have its own limit, but all threads are counted.
    .filter(|ids| ids.used <= ids.max);

    let max = getrlimit(Resource::Nproc).current;
    // The limit does not apply to root.
    let id = field("/proc/self/status", "Uid:").filter(|id| *id != 0 && max.is_some());
    let used = id.map(|id| threads_of(id, Path::new("/proc")));
    let own = limit(user, Unit::Threads, used, max, "RLIMIT_NPROC", "ulimit -u");

    let used = field("/proc/self/status", "VmSize:").map(mib);
    let max = getrlimit(Resource::As).current.map(|bytes| bytes >> 20);
    let space = limit(process, Unit::Space, used, max, "RLIMIT_AS", "ulimit -v");

    let strict = number("/proc/sys/vm/overcommit_memory") == Some(2);
    let used = field("/proc/meminfo", "Committed_AS:")
        .filter(|_| strict)
        .map(mib);
    let max = field("/proc/meminfo", "CommitLimit:").map(mib);
    let (name, set_with) = ("vm.overcommit_memory=2", "sysctl vm.overcommit_ratio");
    let memory = limit(system, Unit::Memory, used, max, name, set_with);

    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let groups = pids_of(&groups, Path::new("/sys/fs/cgroup"));
    [maps(), all, ids, own, space, memory]
        .into_iter()
        .flatten()
        .chain(groups)
        .collect()
}

/// Returns the memory maps of this process, and their limit. Counting takes 25 ms for 65 000 maps.
pub(crate) fn maps() -> Option<Limit> {
    let max = number("/proc/sys/vm/max_map_count")?;
    let mut file = fs::File::open("/proc/self/maps").ok()?;
    let mut chunk = [0; 4096];
    let mut used = 0;
    loop {
        match file.read(&mut chunk).ok()? {
            0 => break,
            n => used += chunk[..n].iter().filter(|byte| **byte == b'\n').count() as u64,
        }
    }
    Some(Limit {
        who: "this process".to_owned(),
        what: Unit::Maps,
        used,
        max,
        name: "vm.max_map_count",
        set_with: "sysctl; a thread takes 4",
    })
}

fn threads_of_the_system() -> Option<u64> {
    // "0.00 0.01 0.05 1/123 4567": 1 of 123 threads is running.
    let load = fs::read_to_string("/proc/loadavg").ok()?;
    load.split_whitespace()
        .nth(3)?
        .split_once('/')?
        .1
        .parse()
        .ok()
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
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next(), parts.next(), parts.next().unwrap_or("/"));
        let folder = match controllers {
            Some("") => root.to_owned(),
            Some("pids") => root.join("pids"),
            _ => continue,
        };
        for group in Path::new(path).ancestors() {
            let folder = folder.join(group.strip_prefix("/").unwrap_or(group));
            let used = number(folder.join("pids.current"));
            if let (Some(used), Some(max)) = (used, number(folder.join("pids.max"))) {
                limits.push(Limit {
                    who: format!("the control group {}", group.display()),
                    what: Unit::Threads,
                    used,
                    max,
                    name: "its pids.max",
                    set_with: "TasksMax in systemd",
                });
            }
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

    fn limit(used: u64, max: u64, name: &'static str) -> Limit {
        Limit {
            who: "this system".into(),
            what: Unit::Threads,
            used,
            max,
            name,
            set_with: "sysctl",
        }
    }

    #[test]
    fn only_limits_that_are_reached_are_described() {
        let limits = [
            limit(32_700, 32_768, "kernel.pid_max"),
            limit(32_700, 192_729, "kernel.threads-max"),
            limit(50, 50, "its pids.max"),
        ];
        assert_eq!(
            describe(&limits),
            "this system has 32700 threads, of the 32768 that kernel.pid_max allows (sysctl); \
             this system has 50 threads, of the 50 that its pids.max allows (sysctl)"
        );
    }

    #[test]
    fn all_limits_are_described_if_none_is_known_to_be_reached() {
        let text = describe(&[limit(10, 50, "a"), limit(10, 60, "b")]);
        assert!(text.starts_with("no limit seems to be reached: "), "{text}");
        assert!(text.contains("50 that a allows") && text.contains("60 that b allows"));
        assert!(describe(&[]).contains("ulimit -u"));
    }

    #[test]
    fn an_error_keeps_its_kind_and_its_text() {
        for (errno, word) in [
            (Errno::MFILE, "RLIMIT_NOFILE"),
            (Errno::NFILE, "fs.file-max"),
            (Errno::NOBUFS, "memory"),
        ] {
            let before = io::Error::from(errno);
            let after = of_descriptors(io::Error::from(errno));
            assert_eq!(after.kind(), before.kind());
            let text = after.to_string();
            assert!(
                text.starts_with(&format!("{before}: ")) && text.contains(word),
                "{text}"
            );
        }
        let refused = of_descriptors(Errno::CONNREFUSED.into());
        assert_eq!(Errno::from_io_error(&refused), Some(Errno::CONNREFUSED));
        let invalid = of_threads(Errno::INVAL.into());
        assert_eq!(Errno::from_io_error(&invalid), Some(Errno::INVAL));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_limits_of_linux_are_read() {
        let limits = thread_limits();
        for name in ["vm.max_map_count", "kernel.threads-max", "kernel.pid_max"] {
            let found = limits.iter().find(|limit| limit.name.starts_with(name));
            let limit = found.unwrap_or_else(|| panic!("{name}: {limits:?}"));
            assert!((1..=limit.max).contains(&limit.used), "{limit:?}");
        }
    }

    #[test]
    fn descriptors_are_counted() {
        let limit = descriptors().unwrap();
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
