//! Link arguments of the library, and its documented name beside the programs.

use std::{env, fs, os::unix::fs::symlink, path::Path};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    for argument in [
        // No start files: their frame and transactional-memory registration costs every process four failing symbol
        // look-ups, about 6 % of /bin/true.
        "-nostartfiles",
        "-Wl,-soname,libmpicc-proxy.so",
        // Our own references to our own hooks must not go through the symbol table.
        "-Wl,-Bsymbolic",
        "-Wl,--as-needed",
        // Two mappings instead of four, one mprotect less: the dynamic linker does this in every process of the build.
        "-Wl,-z,noseparate-code",
        "-Wl,-z,norelro",
        "-Wl,--hash-style=gnu",
        "-Wl,--build-id=none",
    ] {
        println!("cargo::rustc-cdylib-link-arg={argument}");
    }
    if let Err(error) = documented_name() {
        println!("cargo::warning=no link libmpicc-proxy.so beside the programs: {error}");
    }
}

/// Cargo cannot emit a library with a hyphen in its name; a symlink in the profile folder can have one. It dangles until
/// the library itself is built a moment later.
fn documented_name() -> std::io::Result<()> {
    let out = env::var("OUT_DIR").map_err(std::io::Error::other)?;
    // <profile folder>/build/<package>-<hash>/out
    let profile = Path::new(&out).ancestors().nth(3).ok_or(std::io::ErrorKind::NotFound)?;
    let link = profile.join("libmpicc-proxy.so");
    let target = Path::new("libmpicc_proxy_preload.so");
    if fs::read_link(&link).is_ok_and(|now| now == target) {
        return Ok(());
    }
    match fs::remove_file(&link) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    match symlink(target, &link) {
        // Another build script (check and build may run at once) was faster.
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}
