//! How much memory this host has left for us: what the kernel calls available, and what our cgroups allow.
//!
//! Sources: proc_meminfo(5), cgroups(7); "Memory" of the kernel's cgroup-v2.rst, and v1/memory.rst.

use std::fs;
use std::path::{Path, PathBuf};

const CGROUPS: &str = "/sys/fs/cgroup";

/// The files of one version of cgroups: limit, use, and the line of `memory.stat` with what of that can be dropped.
struct Names {
    limit: &'static str,
    used: &'static str,
    droppable: &'static str,
}

const V1: Names =
    Names { limit: "memory.limit_in_bytes", used: "memory.usage_in_bytes", droppable: "total_inactive_file" };
const V2: Names = Names { limit: "memory.max", used: "memory.current", droppable: "inactive_file" };

/// Bytes that processes of ours may take before something has to give. `None`: the kernel does not say.
pub fn bytes() -> Option<u64> {
    let available = available(&fs::read_to_string("/proc/meminfo").ok()?)?;
    let cgroups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let left = own_groups(&cgroups).into_iter().filter_map(|(folder, names)| left_in(&folder, names));
    Some(left.fold(available, u64::min))
}

fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

/// The folders of our groups that may limit memory, and of all groups around them. In a container the paths may be those
/// of the host, and not be there; the outermost folder is.
fn own_groups(cgroups: &str) -> Vec<(PathBuf, &'static Names)> {
    let mut groups = Vec::new();
    for line in cgroups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let (root, names) = match controllers {
            "" => (CGROUPS.to_owned(), &V2),
            _ if controllers.split(',').any(|controller| controller == "memory") => (format!("{CGROUPS}/memory"), &V1),
            _ => continue,
        };
        let inner = Path::new(path.trim_start_matches('/'));
        groups.extend(inner.ancestors().map(|group| (Path::new(&root).join(group), names)));
    }
    groups
}

/// What a group has left. `None`: it has no limit, or is not there.
fn left_in(folder: &Path, names: &Names) -> Option<u64> {
    let number = |name| fs::read_to_string(folder.join(name)).ok()?.trim().parse::<u64>().ok();
    // Without a limit it is a word, or more than any machine has.
    let limit = number(names.limit)?;
    let stat = fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
    let droppable = stat.lines().filter_map(|line| line.split_once(' ')).find(|(name, _)| *name == names.droppable);
    let droppable = droppable.and_then(|(_, bytes)| bytes.parse().ok()).unwrap_or(0);
    Some(limit.saturating_sub(number(names.used)?.saturating_sub(droppable)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_some() {
        let free = bytes().unwrap();
        assert!(free > 1 << 20, "{free} bytes");
    }

    #[test]
    fn meminfo() {
        let text = "MemTotal:       8 kB\nMemFree:        4 kB\nMemAvailable:   7 kB\n";
        assert_eq!(available(text), Some(7 * 1024));
        assert_eq!(available("MemTotal: 8 kB\n"), None, "kernels before 3.14");
    }

    #[test]
    fn groups_and_those_around_them() {
        let folders = |text| own_groups(text).into_iter().map(|(folder, _)| folder).collect::<Vec<_>>();
        let v2 = ["/sys/fs/cgroup/slurm/job_7", "/sys/fs/cgroup/slurm", "/sys/fs/cgroup/"].map(PathBuf::from);
        assert_eq!(folders("0::/slurm/job_7\n"), v2);
        let v1 = ["/sys/fs/cgroup/memory/a:b", "/sys/fs/cgroup/memory/"].map(PathBuf::from);
        assert_eq!(folders("5:cpu,cpuacct:/x\n4:memory:/a:b\n1:name=systemd:/\n"), v1);
        assert_eq!(folders("nonsense\n"), Vec::<PathBuf>::new());
    }

    #[test]
    fn what_a_group_has_left() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        assert_eq!(left_in(folder.path(), &V2), None);
        write("memory.max", "max\n");
        write("memory.current", "700\n");
        assert_eq!(left_in(folder.path(), &V2), None);
        write("memory.max", "1000\n");
        assert_eq!(left_in(folder.path(), &V2), Some(300));
        write("memory.stat", "anon 500\ninactive_file 200\n");
        assert_eq!(left_in(folder.path(), &V2), Some(500));
        write("memory.max", "400\n");
        assert_eq!(left_in(folder.path(), &V2), Some(0), "a limit that was lowered");
    }
}
