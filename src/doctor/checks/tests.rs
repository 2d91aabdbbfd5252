//! Each trap, set up in the facts on purpose.

use super::super::facts::tests::healthy;
use super::super::facts::{Compiler, Slurm};
use super::*;
use crate::driver::{Cause, Reason};

/// Healthy facts with something done to them.
fn facts(change: impl FnOnce(&mut Facts)) -> Facts {
    let mut facts = healthy();
    change(&mut facts);
    facts
}

/// As [`facts`], with something done to the ranks.
fn ranks(change: impl FnOnce(&mut Start)) -> Facts {
    facts(|facts| change(facts.start.as_mut().unwrap()))
}

/// As [`ranks`], with the same done to the ranks of one host.
fn on(host: &str, change: impl Fn(&mut Seen)) -> Facts {
    ranks(|start| start.seen.iter_mut().filter(|seen| seen.facts.host == host).for_each(change))
}

/// In a Slurm job.
fn slurm(ntasks: Option<&str>, tasks_per_node: &str) -> Facts {
    let text = |text: &str| text.to_owned();
    facts(|facts| {
        facts.slurm = Some(Slurm { ntasks: ntasks.map(text), tasks_per_node: Some(text(tasks_per_node)) });
    })
}

/// The same on every host: where the ranks are.
fn placed(hosts: u32, ranks_on: &[&str]) -> Facts {
    ranks(|start| {
        start.allocation.hosts = hosts;
        start.workers = ranks_on.len() as u32 - 1;
        let size = ranks_on.len() as i32;
        let rank = |(rank, host): (i32, &&str)| crate::probe::tests::healthy(rank, size, host);
        start.seen = (0..).zip(ranks_on).map(rank).collect();
    })
}

fn srun(family: Family, types: &str) -> Facts {
    ranks(|start| {
        (start.launcher, start.family) = (Launcher::Srun("/usr/bin/srun".into()), family);
        (start.version, start.pmi_types) = (String::new(), Some(types.into()));
    })
}

fn launched_by(family: Family, version: &str) -> Facts {
    ranks(|start| (start.family, start.version) = (family, version.into()))
}

fn resolved(family: Family, hosts: u32, addresses: Result<&str, &str>) -> Facts {
    let mut facts = launched_by(family, "");
    let start = facts.start.as_mut().unwrap();
    start.allocation.hosts = hosts;
    let library = match family {
        Family::Hydra => "MPICH Version: 4.3.2",
        Family::Intel => "Intel(R) MPI Library 2021.13",
        _ => "Open MPI v4.1.4",
    };
    start.seen.iter_mut().for_each(|seen| seen.mpi = library.into());
    let listed = |text: &str| text.split_whitespace().map(|address| address.parse().unwrap()).collect();
    facts.host.addresses = addresses.map(listed).map_err(str::to_owned);
    facts
}

/// The levels of all that is not well.
fn bad(facts: &Facts) -> Vec<(&'static str, Level)> {
    let bad = findings(facts).into_iter().filter(|finding| finding.level != Level::Ok);
    bad.map(|finding| (finding.name, finding.level)).collect()
}

fn finding(facts: &Facts, name: &str) -> Finding {
    let found = findings(facts).into_iter().find(|finding| finding.name == name);
    found.unwrap_or_else(|| panic!("no {name}"))
}

#[test]
fn nothing_is_wrong_with_a_healthy_machine() {
    assert_eq!(bad(&healthy()), []);
    let all = findings(&healthy());
    assert!(all.iter().all(|finding| finding.consequence.is_none() && finding.remedy.is_none()));
    assert_eq!(bad(&slurm(Some("3"), "1(x3)")), []);
    let rooted = facts(|facts| facts.root = true);
    assert_eq!(bad(&rooted), []);
    assert!(finding(&rooted, "root").finding.contains("--allow-run-as-root"));
}

#[test]
fn names_are_stable_words() {
    let names: BTreeSet<&str> = CHECKS.iter().map(|(name, _)| *name).collect();
    assert_eq!(names.len(), CHECKS.len());
    assert!(names.iter().all(|name| name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-')));
}

#[test]
fn traps() {
    use Level::{Error, Warning};
    type Row = (&'static str, Level, Facts, &'static str);
    let alone = || ranks(|start| start.seen.iter_mut().for_each(|seen| (seen.rank, seen.size) = (0, 1)));
    let full = |folder: &mut Folder| (folder.free_bytes, folder.roomy) = (64 << 10, false);
    let table: Vec<Row> = vec![
        (
            "environment",
            Warning,
            facts(|facts| facts.kept_here = Some(Reason::at(Cause::Locale, b"de_DE.UTF-8"))),
            "(locale: de_DE.UTF-8)",
        ),
        ("switched-off", Warning, facts(|facts| facts.switched_off = true), "MPICC_PROXY=off"),
        ("installation", Error, facts(|facts| facts.incomplete = vec!["no library".into()]), "no library"),
        ("libraries", Warning, facts(|facts| facts.libraries_not_found = vec!["libmpi.so.12".into()]), "libmpi.so.12"),
        (
            "compilers",
            Warning,
            facts(|facts| {
                let obstacle = Some(("static-compiler", "it is static".into()));
                facts.compilers.push(Compiler { path: "/opt/gcc".into(), obstacle });
            }),
            "/opt/gcc (static-compiler: it is static)",
        ),
        ("session-folder", Error, facts(|facts| facts.start = Err(Obstacle::Folder("too long".into()))), "too long"),
        ("launcher", Error, facts(|facts| facts.start = Err(Obstacle::Launcher("no mpiexec".into()))), "no mpiexec"),
        ("host-name", Warning, resolved(Family::OpenMpi4, 3, Ok("127.0.1.1")), "127.0.1.1"),
        ("host-name", Error, resolved(Family::Hydra, 3, Ok("127.0.0.1 ::1")), "127.0.0.1, ::1"),
        ("host-name", Error, resolved(Family::Intel, 1, Err("not known")), "nowhere: not known"),
        ("host-name", Warning, resolved(Family::OpenMpi4, 1, Ok("")), "nowhere: there is no address"),
        ("slurm-ntasks", Warning, slurm(None, "1(x3)"), "SLURM_NTASKS is not set"),
        ("slurm-tasks-per-node", Warning, slurm(Some("6"), "4,1(x2)"), "4,1(x2) is uneven"),
        ("slurm-tasks-per-node", Warning, slurm(Some("6"), "4,1(y2)"), "not what Slurm writes"),
        ("slurm-pmi", Error, srun(Family::OpenMpi4, "srun: MPI types are...\nsrun: none\nsrun: pmi2\n"), "pmix"),
        ("ranks-start", Error, ranks(|start| drop(start.seen.pop())), "3 of 4 ranks"),
        ("ranks-start", Warning, ranks(|start| start.trouble = Some("mpiexec ended with 1".into())), "4 of 4 ranks"),
        ("world-size", Error, alone(), "each of 4 ranks believes to be alone"),
        ("world-size", Error, ranks(|start| start.seen[0].size = 2), "believe to be 2 or 4 in number"),
        ("mpi-library", Warning, launched_by(Family::OpenMpi4, "mpiexec (OpenRTE) 4.1.8"), "4.1.8"),
        ("mpi-library", Warning, launched_by(Family::OpenMpi5, "mpirun (Open MPI) 5.0.11"), "5.0.11"),
        ("mpi-library", Error, on("beta", |seen| seen.mpi = "MPICH Version: 4.0.2".into()), "different MPI libraries"),
        ("programs", Error, on("beta", |seen| seen.programs = Err("no library".into())), "on beta: no library"),
        ("programs", Error, on("gamma", |seen| seen.facts.version = 0), "version 0 of the messages"),
        ("programs", Warning, on("beta", |seen| seen.programs = Ok("d2".into())), "on beta is not that of alpha"),
        ("hosts", Error, placed(3, &["a", "a", "a", "a"]), "all ranks are on a, one of 3 hosts"),
        ("hosts", Warning, placed(4, &["a", "b", "c", "a", "b"]), "on 3 of 4 hosts of the allocation: a, b, c"),
        ("hosts", Warning, placed(5, &["a", "b", "c"]), "since --workers says so"),
        ("balance", Warning, placed(3, &["a", "a", "a", "b", "c", "a"]), "3 on a, 1 on b, 1 on c"),
        ("balance", Warning, placed(2, &["a", "b", "b"]), "0 on a, 2 on b"),
        ("balance", Warning, placed(1, &["a", "a", "a", "a", "a", "a"]), "5 workers on a share 4 CPUs"),
        ("affinity", Warning, on("beta", |seen| seen.facts.host_cpus = 64), "on beta may use 4 of 64 CPUs"),
        ("store-folder", Warning, on("beta", |seen| full(&mut seen.folders[0])), "/dev/shm has 64 KiB free"),
        ("store-folder", Warning, on("beta", |seen| seen.folders[0].executable = false), "/dev/shm is noexec"),
        ("store-folder", Warning, on("beta", |seen| seen.folders.iter_mut().for_each(full)), "no good folder"),
        (
            "store-folder",
            Error,
            on("beta", |seen| seen.folders.iter_mut().for_each(|folder| folder.obstacle = Some("read-only".into()))),
            "beta has no folder for a worker's files: /dev/shm: read-only, /tmp: read-only",
        ),
        ("open-files", Warning, on("alpha", |seen| seen.limits.open_files = Some(256)), "on alpha may open 256 files"),
        ("process-limit", Warning, on("beta", |seen| seen.limits.processes = Some(79)), "79 processes are allowed"),
        ("memory-limit", Warning, on("beta", |seen| seen.limits.memory_bytes = Some(60 << 20)), "60 MiB"),
    ];
    let tried: BTreeSet<&str> = table.iter().map(|(name, ..)| *name).collect();
    let all: BTreeSet<&str> = CHECKS.iter().map(|(name, _)| *name).filter(|name| *name != "root").collect();
    assert_eq!(tried, all, "every check has a trap");
    for (name, level, facts, words) in table {
        assert_eq!(bad(&facts), [(name, level)], "{words}");
        let finding = finding(&facts, name);
        assert!(finding.finding.contains(words), "{name}: {}", finding.finding);
        assert!(finding.consequence.is_some() && finding.remedy.is_some(), "{name}");
    }
}

/// Things that look like traps and are none.
#[test]
fn no_traps() {
    let table = [
        ("loopback is enough for one machine", resolved(Family::OpenMpi4, 1, Ok("127.0.1.1"))),
        ("one of several addresses is enough", resolved(Family::OpenMpi4, 3, Ok("127.0.1.1 10.0.0.1"))),
        ("more hosts than batch variables say", placed(1, &["a", "a", "b", "c"])),
        ("rank 0 has a host of its own", placed(3, &["a", "b", "c"])),
        ("two workers on each", placed(2, &["a", "a", "a", "b", "b"])),
        ("rank 0's own files", ranks(|start| start.seen[0].folders.clear())),
        ("enough processes", on("beta", |seen| seen.limits.processes = Some(80))),
        ("no compiler yet", facts(|facts| facts.compilers.clear())),
        ("pmix", srun(Family::OpenMpi4, "MPI plugin types are...\n\tnone\n\tpmix\nversions available: pmix_v4\n")),
        ("no answer from srun", srun(Family::OpenMpi4, "srun: fatal: Could not establish a configuration source")),
        ("an unknown launcher", launched_by(Family::Other, "mpiexec version 1.2.12 PALS")),
    ];
    for (what, facts) in table {
        assert_eq!(bad(&facts), [], "{what}");
    }
}

#[test]
fn what_follows_from_what() {
    // Without ranks there is nothing to be said of them.
    let mut silent = ranks(|start| {
        start.seen.clear();
        start.trouble = Some("mpiexec ended with status 127".into());
        start.output = "------\n  \nlibmpi.so.12: cannot open shared object file\nmore\n".into();
    });
    silent.libraries_not_found = vec!["libmpi.so.12".into()];
    assert_eq!(bad(&silent), [("libraries", Level::Error), ("ranks-start", Level::Error)]);
    assert_eq!(
        finding(&silent, "ranks-start").finding,
        "0 of 4 ranks said what they see; mpiexec ended with status 127; it says: libmpi.so.12: cannot open shared \
         object file"
    );
    // A launcher of another MPI explains why ranks are alone.
    let mut alone = launched_by(Family::Hydra, "HYDRA build details:\n    Version:    4.3.2\n");
    alone.start.as_mut().unwrap().seen.iter_mut().for_each(|seen| (seen.rank, seen.size) = (0, 1));
    assert_eq!(bad(&alone), [("world-size", Level::Error), ("mpi-library", Level::Error)]);
    assert!(finding(&alone, "launcher").finding.contains("HYDRA build details: Version: 4.3.2"));
    let broken = facts(|facts| {
        facts.incomplete = vec!["mpicc-proxy-rank is missing".into()];
        facts.start = Err(Obstacle::Installation);
    });
    assert_eq!(bad(&broken), [("installation", Level::Error)]);
}

#[test]
fn tasks_on_hosts() {
    let table: [(&str, Option<&[u32]>); 11] = [
        ("4", Some(&[4])),
        ("4,1,1", Some(&[4, 1, 1])),
        ("2(x3)", Some(&[2, 2, 2])),
        ("4(x2),1,3(x1)", Some(&[4, 4, 1, 3])),
        ("", None),
        ("a", None),
        ("2(x)", None),
        ("2(x3", None),
        ("2(x0)", None),
        ("2(x99999999999999999999)", None),
        ("2(x9999999999)", None),
    ];
    for (text, expected) in table {
        assert_eq!(tasks_per_host(text).as_deref(), expected, "{text}");
    }
}

#[test]
fn libraries_by_their_own_words() {
    let table = [
        ("Open MPI v4.1.4, package: Debian OpenMPI, ident: 4.1.4", Some(Family::OpenMpi4), Some("4.1.4")),
        ("Open MPI v5.0.11, package: x", Some(Family::OpenMpi5), Some("5.0.11")),
        ("MPICH Version:      4.0.2", Some(Family::Hydra), Some("4.0.2")),
        ("MVAPICH2 Version      :  2.3.7", Some(Family::Hydra), Some("2.3.7")),
        ("Intel(R) MPI Library 2021.13 for Linux* OS", Some(Family::Intel), Some("2021.13")),
        ("IBM Spectrum MPI", None, None),
    ];
    for (library, family, version) in table {
        assert_eq!((library_family(library), version_number(library)), (family, version), "{library}");
    }
    assert_eq!(version_number("HYDRA build details: Version: 4.3.2"), Some("4.3.2"));
    assert_eq!(version_number("mpiexec (OpenRTE) 4.1.4"), Some("4.1.4"));
}

#[test]
fn lists_end() {
    assert_eq!(names(["a", "b"].into_iter()), "a, b");
    assert_eq!(names(["a", "b", "c", "d", "e", "f"].into_iter()), "a, b, c, d and 2 more");
    assert_eq!(
        [size(1023), size(64 << 10), size(300 << 20), size(3 << 30)],
        ["1023 bytes", "64 KiB", "300 MiB", "3 GiB"]
    );
    assert_eq!(complaint(&"ä".repeat(500)).unwrap().chars().count(), 200);
}
