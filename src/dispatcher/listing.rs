//! The names in a directory of the head, packed as `mpicc-proxy-abi` says: everything that readdir(3) shows there, in its
//! order.

use mpicc_proxy_abi::listing::{RECORD_BYTES_MAX, record_bytes, write};
use nix::dir::{Dir, Type};
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use std::io;
use std::path::Path;

/// # Errors
/// As opendir(3) and readdir(3).
pub fn of(path: &Path) -> io::Result<Vec<u8>> {
    let mut folder = Dir::open(path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    let mut packed = Vec::new();
    for entry in folder.iter() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        let start = packed.len();
        packed.resize(start + record_bytes(name).min(RECORD_BYTES_MAX), 0);
        let end = packed.len();
        write(&mut packed[start..], entry.ino(), kind(entry.file_type()), name, end)
            .ok_or(io::ErrorKind::InvalidData)?;
    }
    Ok(packed)
}

fn kind(of: Option<Type>) -> u8 {
    match of {
        Some(Type::Fifo) => libc::DT_FIFO,
        Some(Type::CharacterDevice) => libc::DT_CHR,
        Some(Type::Directory) => libc::DT_DIR,
        Some(Type::BlockDevice) => libc::DT_BLK,
        Some(Type::File) => libc::DT_REG,
        Some(Type::Symlink) => libc::DT_LNK,
        Some(Type::Socket) => libc::DT_SOCK,
        None => libc::DT_UNKNOWN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mpicc_proxy_abi::listing::names;
    use std::fs;

    #[test]
    fn everything_is_there_in_the_order_of_the_file_system() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("d")).unwrap();
        fs::write(dir.path().join("x".repeat(255)), "").unwrap();
        std::os::unix::fs::symlink("nowhere", dir.path().join("l")).unwrap();
        let packed = of(dir.path()).unwrap();
        let found: Vec<_> = names(&packed).filter(|one| !matches!(one.name, b"." | b"..")).collect();
        let expected: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        let shown: Vec<_> = found.iter().map(|one| one.name).collect();
        assert_eq!(shown, expected.iter().map(|name| name.as_encoded_bytes()).collect::<Vec<_>>());
        assert_eq!(names(&packed).count(), 5);
        assert_eq!(found.iter().find(|one| one.name == b"l").unwrap().kind, libc::DT_LNK);
        assert!(of(&dir.path().join("l")).is_err());
    }
}
