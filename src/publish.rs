//! Repeats on the head what a compile wrote on a worker. Called only with a whole result in hand; knows files, not
//! where they came from.
//!
//! A new file, or one whose name the compiler replaced, appears by rename. An existing one that the compiler would have
//! written into is written into: it keeps its inode, owner, mode, attributes and other names, and symbolic links lead
//! where they lead.

use crate::wire::{Output, OutputKind};
use nix::fcntl::AT_FDCWD;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Signals wait while names change, so that Ctrl-C leaves no temporary file behind.
struct Undisturbed(SigSet);

impl Undisturbed {
    fn new() -> io::Result<Undisturbed> {
        let mut before = SigSet::empty();
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&SigSet::all()), Some(&mut before))?;
        Ok(Undisturbed(before))
    }
}

impl Drop for Undisturbed {
    fn drop(&mut self) {
        let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&self.0), None);
    }
}

/// Publishes outputs in their order; `contents[n]` belongs to `outputs[n]`.
///
/// # Errors
/// A file could not be written as the compiler would have; the real driver then says why.
pub fn publish(outputs: &[Output], contents: &[Vec<u8>], umask: u32) -> io::Result<()> {
    let whole = |(output, content): (&Output, &Vec<u8>)| match output.kind {
        OutputKind::File { bytes, .. } => content.len() as u64 == bytes,
        _ => true,
    };
    if !outputs.iter().zip(contents).all(whole) {
        return Err(io::Error::other("an output did not arrive whole"));
    }
    let mut undisturbed = Undisturbed::new()?;
    for (output, content) in outputs.iter().zip(contents) {
        let path = Path::new(OsStr::from_bytes(&output.path));
        match &output.kind {
            // Opening waits for a reader, and so would the compiler: it can be interrupted there.
            OutputKind::File { replaces: false, .. } if is_fifo(path) => {
                drop(undisturbed);
                File::options().write(true).open(path)?.write_all(content)?;
                undisturbed = Undisturbed::new()?;
            }
            OutputKind::File { mode, replaces, chosen, times, .. } => {
                write(path, content, *mode, *replaces, umask)?;
                if *chosen {
                    fs::set_permissions(path, Permissions::from_mode(*mode))?;
                }
                if let Some([accessed, modified]) = times {
                    let time = |(seconds, nanoseconds): &(i64, i64)| TimeSpec::new(*seconds, *nanoseconds);
                    utimensat(AT_FDCWD, path, &time(accessed), &time(modified), UtimensatFlags::FollowSymlink)?;
                }
            }
            OutputKind::Directory { mode } => {
                tolerate(fs::DirBuilder::new().mode(*mode).create(path), io::ErrorKind::AlreadyExists)?
            }
            OutputKind::Link { target } => {
                let temporary = temporary_beside(path);
                std::os::unix::fs::symlink(OsStr::from_bytes(target), &temporary)?;
                fs::rename(&temporary, path).inspect_err(|_| drop(fs::remove_file(&temporary)))?;
            }
            OutputKind::Deleted => match fs::symlink_metadata(path) {
                Ok(metadata) if metadata.is_dir() => tolerate(fs::remove_dir(path), io::ErrorKind::NotFound)?,
                _ => tolerate(fs::remove_file(path), io::ErrorKind::NotFound)?,
            },
        }
    }
    drop(undisturbed);
    Ok(())
}

fn is_fifo(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_fifo())
}

fn tolerate(result: io::Result<()>, harmless: io::ErrorKind) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == harmless => Ok(()),
        result => result,
    }
}

fn write(path: &Path, content: &[u8], mode: u32, replaces: bool, umask: u32) -> io::Result<()> {
    if !replaces && fs::symlink_metadata(path).is_ok() {
        return File::options().write(true).truncate(true).open(path)?.write_all(content);
    }
    replace(path, content, (mode != 0o666 & !umask).then_some(mode), umask)
}

/// Writes a temporary file beside `path` and renames it. Without `mode` the file gets what open(2) gives any new file,
/// default access lists of the folder included.
fn replace(path: &Path, content: &[u8], mode: Option<u32>, umask: u32) -> io::Result<()> {
    let temporary = temporary_beside(path);
    let result = (|| {
        let create = if mode.is_some() { 0o600 } else { 0o666 };
        let mut file = File::options().write(true).create_new(true).mode(create).open(&temporary)?;
        file.write_all(content)?;
        if let Some(mode) = mode
            && mode != create & !umask
        {
            file.set_permissions(Permissions::from_mode(mode))?;
        }
        drop(file);
        fs::rename(&temporary, path)
    })();
    if result.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    result
}

fn temporary_beside(path: &Path) -> PathBuf {
    path.with_file_name(format!(".mpicc-proxy.{}", std::process::id()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    fn file(path: &Path, mode: u32, replaces: bool) -> Output {
        let kind = OutputKind::File { mode, bytes: 3, replaces, chosen: false, times: None };
        Output { path: path.as_os_str().as_bytes().to_vec(), kind }
    }

    fn own_umask() -> u32 {
        let mask = nix::sys::stat::umask(nix::sys::stat::Mode::empty());
        nix::sys::stat::umask(mask);
        mask.bits()
    }

    #[track_caller]
    fn publish_one(output: Output) {
        publish(&[output], &[b"new".to_vec()], own_umask()).unwrap();
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn new_files_existing_files_and_deletions() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.o");
        publish_one(file(&path, 0o640, false));
        assert_eq!((fs::read(&path).unwrap(), mode(&path)), (b"new".to_vec(), 0o640));

        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        publish_one(file(&path, 0o644, false));
        assert_eq!(mode(&path), 0o755, "writing into a file leaves its mode alone");
        publish_one(file(&path, 0o644, true));
        assert_eq!(mode(&path), 0o644, "a replaced name is a new file");

        publish_one(Output { kind: OutputKind::Deleted, ..file(&path, 0, false) });
        publish_one(Output { kind: OutputKind::Deleted, ..file(&path, 0, false) });
        publish_one(Output { kind: OutputKind::Directory { mode: 0o755 }, ..file(&path, 0, false) });
        assert!(path.is_dir());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file stays");
    }

    #[test]
    fn links_keep_their_native_meaning() {
        let dir = tempfile::tempdir().unwrap();
        let (target, soft, hard) = (dir.path().join("t"), dir.path().join("s"), dir.path().join("h"));
        fs::write(&target, "old").unwrap();
        std::os::unix::fs::symlink("t", &soft).unwrap();
        publish_one(file(&soft, 0o644, false));
        assert!(soft.is_symlink());
        assert_eq!(fs::read(&target).unwrap(), b"new");
        fs::write(&target, "old").unwrap();
        fs::hard_link(&target, &hard).unwrap();
        publish_one(file(&hard, 0o644, false));
        assert_eq!(fs::read(&target).unwrap(), b"new");
        publish_one(file(&soft, 0o644, true));
        assert!(!soft.is_symlink());
    }

    #[test]
    fn what_the_compiler_chose_and_links() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.o");
        fs::write(&path, "old").unwrap();
        let times = Some([(1_000, 5), (2_000, 7)]);
        let kind = OutputKind::File { mode: 0o751, bytes: 3, replaces: false, chosen: true, times };
        publish_one(Output { kind, ..file(&path, 0, false) });
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!((mode(&path), metadata.mtime(), metadata.mtime_nsec()), (0o751, 2_000, 7));

        let link =
            Output { kind: OutputKind::Link { target: b"x.o".to_vec() }, ..file(&dir.path().join("l"), 0, false) };
        publish_one(link.clone());
        publish_one(link);
        assert_eq!(fs::read_link(dir.path().join("l")).unwrap(), Path::new("x.o"));

        let folder = dir.path().join("d");
        fs::create_dir(&folder).unwrap();
        publish_one(Output { kind: OutputKind::Deleted, ..file(&folder, 0, false) });
        assert!(!folder.exists());
    }

    #[test]
    fn a_fifo_is_written_into_once_somebody_reads() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.d");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let reader = std::thread::spawn({
            let path = path.clone();
            move || fs::read(path).unwrap()
        });
        publish_one(file(&path, 0o644, false));
        assert_eq!(reader.join().unwrap(), b"new");
        assert!(fs::metadata(&path).unwrap().file_type().is_fifo());
    }

    #[test]
    fn half_a_content_and_a_missing_folder_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.o");
        assert!(publish(&[file(&path, 0o644, false)], &[b"ne".to_vec()], 0o22).is_err());
        assert!(!path.exists());
        assert!(publish(&[file(&dir.path().join("no/x.o"), 0o644, false)], &[b"new".to_vec()], 0o22).is_err());
    }
}
