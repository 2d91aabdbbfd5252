//! libFuzzer's end of the targets. `FUZZ_TARGET` names one; `FUZZ_SEEDS`, a folder that exists, gets its seeds.
#![no_main]

// Included, as what they include among themselves is found in the crate root.
#[path = "../../../preload/src/elf.rs"]
#[allow(dead_code)]
mod elf;
#[path = "../../../preload/src/entries.rs"]
mod entries;
#[path = "../../../preload/src/fixed.rs"]
#[allow(dead_code)]
mod fixed;
#[path = "../../../preload/src/path.rs"]
#[allow(dead_code)]
mod path;
mod targets;

/// What `path` needs of the module of this name.
mod target {
    pub type PathText = crate::fixed::Fixed<{ mpicc_proxy_abi::PATH_BYTES_MAX + 1 }>;
}

use std::sync::OnceLock;
use targets::{TARGETS, Target};

static TARGET: OnceLock<&Target> = OnceLock::new();

fn start() {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    let target = TARGETS.iter().find(|target| target.name == name).unwrap_or_else(|| {
        let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
        println!("{}", names.join("\n"));
        std::process::exit(2);
    });
    if let Some(folder) = std::env::var_os("FUZZ_SEEDS") {
        for (number, seed) in (target.seeds)().iter().enumerate() {
            std::fs::write(std::path::Path::new(&folder).join(format!("seed-{number}")), seed).expect("a folder");
        }
    }
    let _ = TARGET.set(target);
}

libfuzzer_sys::fuzz_target!(
    init: start(),
    |data: &[u8]| {
        if let Some(target) = TARGET.get() {
            (target.run)(data);
        }
    }
);
