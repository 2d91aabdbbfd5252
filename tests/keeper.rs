//! The keeper of a session's folder, as ranks start it. No MPI.

use mpicc_proxy::keeper::lock_folder;
use nix::fcntl::FlockArg;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// A keeper that does its duty in the background has returned from here.
fn keep(folder: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_mpicc-proxy")).arg("keep").arg(folder).output().unwrap()
}

#[test]
fn a_folder_to_which_ranks_may_return_goes_at_once_when_the_session_is_over() {
    let base = tempfile::tempdir().unwrap();
    let [returning, over] = ["returning", "over"].map(|name| {
        let root = base.path().join(format!("mpicc-proxy-0-{name}"));
        fs::create_dir(&root).unwrap();
        let rank = lock_folder(&root, FlockArg::LockShared).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_mpicc-proxy"));
        assert!(command.arg("keep").arg(&root).arg("--returns").status().unwrap().success());
        (root, rank)
    });
    fs::write(over.0.join("over"), "").unwrap();
    drop(over.1);
    eventually_gone(&over.0);
    drop(returning.1);
    sleep(Duration::from_millis(300));
    assert!(returning.0.exists(), "its ranks may return");
    // They do, and the session ends.
    let rank = lock_folder(&returning.0, FlockArg::LockShared).unwrap();
    drop(rank);
    fs::remove_dir_all(&returning.0).unwrap();
}

fn eventually_gone(root: &Path) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while root.exists() {
        assert!(Instant::now() < deadline, "the folder stays");
        sleep(Duration::from_millis(10));
    }
}

#[test]
fn the_folder_goes_with_the_last_lock() {
    let base = tempfile::tempdir().unwrap();
    let root = base.path().join("mpicc-proxy-0-test");
    fs::create_dir_all(root.join("r1/t1")).unwrap();
    fs::write(root.join("r1/t1/out.o"), "").unwrap();
    let ranks = [(); 2].map(|()| lock_folder(&root, FlockArg::LockShared).unwrap());
    for _first_and_second in 0..2 {
        assert!(keep(&root).status.success());
    }
    for rank in ranks {
        sleep(Duration::from_millis(200));
        assert!(root.exists(), "a rank still holds it");
        drop(rank);
    }
    eventually_gone(&root);
}

#[test]
fn other_folders_are_left_alone() {
    let base = tempfile::tempdir().unwrap();
    let foreign = base.path().join("precious");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("lock"), "").unwrap();
    let unlocked = base.path().join("mpicc-proxy-0-not-made-yet");
    fs::create_dir(&unlocked).unwrap();
    for folder in [foreign, unlocked] {
        let refused = keep(&folder);
        assert_eq!(refused.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&refused.stderr).contains("no folder of a session"));
        assert!(folder.exists());
    }
}
