//! What a rank says of itself and its host when `doctor` asks: one line on its stdout, which launchers bring to ours
//! among whatever else is written. How a rank finds it out is `worker::probe`'s business, what it means `doctor`'s.

use crate::wire::RankFacts;
use serde::{Deserialize, Serialize};

/// With this begins what a rank says.
const MARK: &str = "mpicc-proxy-probe ";

/// One rank and its host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    pub rank: i32,
    /// Ranks of the job, as this one sees it.
    pub size: i32,
    pub facts: RankFacts,
    /// What the MPI library says it is; the first line.
    pub mpi: String,
    /// A digest of the rank program and the preload library, or why there is none.
    pub programs: Result<String, String>,
    /// Where a worker may put its files, the first choice first.
    pub folders: Vec<Folder>,
    pub limits: Limits,
}

/// A place for a worker's files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Folder {
    pub path: String,
    /// Why nothing can be put there.
    pub obstacle: Option<String>,
    pub free_bytes: u64,
    /// Programs may be executed from it.
    pub executable: bool,
    /// It has so much room that no other place is looked for.
    pub roomy: bool,
}

/// What the host's limits leave to a rank and its compilers. `None`: no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    pub open_files: Option<u64>,
    /// Processes and threads of this user.
    pub processes: Option<u64>,
    /// Memory of one process: address space or data.
    pub memory_bytes: Option<u64>,
}

impl Seen {
    /// The line.
    pub fn line(&self) -> String {
        format!("{MARK}{}\n", serde_json::to_string(self).expect("numbers and strings"))
    }
}

/// All that ranks said, in the order of their numbers. Other programs' output may stand before and behind it in the same
/// line.
pub fn read(output: &str) -> Vec<Seen> {
    let said = output.split(MARK).skip(1);
    let said = said.filter_map(|text| serde_json::Deserializer::from_str(text).into_iter().next()?.ok());
    let mut seen: Vec<Seen> = said.collect();
    seen.sort_by_key(|seen| seen.rank);
    seen
}

/// What was written besides.
pub fn others(output: &str) -> String {
    let lines = output.lines().map(|line| line.split(MARK).next().unwrap_or_default());
    lines.filter(|line| !line.trim().is_empty()).map(|line| format!("{line}\n")).collect()
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::wire;

    /// A rank with which nothing is wrong, one of `size`.
    pub fn healthy(rank: i32, size: i32, host: &str) -> Seen {
        let facts = RankFacts {
            version: wire::VERSION,
            host: host.into(),
            pid: 1,
            cpus: vec![0, 1, 2, 3],
            host_cpus: 4,
            free_bytes: Some(8 << 30),
            slots: None,
        };
        let folder = |path: &str| Folder {
            path: path.into(),
            obstacle: None,
            free_bytes: 8 << 30,
            executable: true,
            roomy: true,
        };
        Seen {
            rank,
            size,
            facts,
            mpi: "Open MPI v4.1.4, package: Debian OpenMPI, ident: 4.1.4".into(),
            programs: Ok("d1".into()),
            folders: vec![folder("/dev/shm"), folder("/tmp")],
            limits: Limits { open_files: Some(1 << 20), processes: None, memory_bytes: None },
        }
    }

    #[test]
    fn said_among_other_output() {
        let (zero, one) = (healthy(0, 2, "a\nb\u{fffd}"), healthy(1, 2, "mpicc-proxy"));
        let output = format!("a warning\n[1,1]<stdout>:{}{}tail\n\nthe end", one.line(), zero.line());
        assert_eq!(read(&output), [zero.clone(), one]);
        assert_eq!(others(&output), "a warning\n[1,1]<stdout>:\ntail\nthe end\n");
        assert!(read(&format!("{MARK}{{\"rank\": 1}}\n{MARK}")).is_empty(), "cut short");
        assert_eq!(zero.line().lines().count(), 1);
    }
}
