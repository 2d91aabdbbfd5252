//! The file of the database: made for this user alone, and set aside when it is no database of ours or damaged. Knows
//! no tables.

use crate::identity::{self, Identity};
use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use rusqlite::ErrorCode;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// What `open` makes of the file, or, if that shows that the file is bad, what it makes of a new one. The bad one is
/// renamed (`.set-aside`), with a warning.
pub fn open_or_set_aside<T>(file: &Path, open: impl Fn() -> Result<T>) -> Result<T> {
    if let Some(folder) = file.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).context("cannot make its folder")?;
    }
    if fs::metadata(file).is_ok_and(|metadata| !metadata.is_file()) {
        bail!("it is no regular file");
    }
    // One at a time decides what is to become of a bad file. Also shows whether there are locks here at all.
    let _lock = lock(file)?;
    let before = identity::of(file).ok();
    match open() {
        Err(error) if is_bad_file(&error) && before.is_some() && before == identity::of(file).ok() => {
            set_aside(file, &error)?;
            open()
        }
        other => other,
    }
}

/// Renames the file that `opened` names, if `error` shows that it is bad and nobody has renamed it already.
///
/// # Errors
/// It is not the file, or it cannot be renamed.
pub fn set_aside_if_bad(file: &Path, opened: Identity, error: anyhow::Error) -> Result<()> {
    if !is_bad_file(&error) {
        return Err(error);
    }
    let _lock = lock(file)?;
    if identity::is(file, opened) { set_aside(file, &error) } else { Ok(()) }
}

fn set_aside(file: &Path, error: &anyhow::Error) -> Result<()> {
    let aside = with_ending(file, ".set-aside");
    fs::rename(file, &aside).with_context(|| format!("{error:#}, and it cannot be renamed"))?;
    let _ = fs::rename(with_ending(file, "-wal"), with_ending(&aside, "-wal"));
    let _ = fs::remove_file(with_ending(file, "-shm"));
    eprintln!(
        "mpicc-proxy-rank: the history {} cannot be used ({error:#}); it is now {}, and a new one begins",
        file.display(),
        aside.display()
    );
    Ok(())
}

fn lock(file: &Path) -> Result<Flock<File>> {
    let lock = file.with_extension("lock");
    let lock = private(&lock).with_context(|| format!("cannot open {}", lock.display()))?;
    Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, errno)| errno).context("cannot lock it")
}

/// Opens a file of this user alone, and makes it if it is not there. The names of files are nobody else's business.
pub fn private(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// Why a file is to be set aside.
#[derive(Debug)]
pub struct BadFile(pub &'static str);

impl std::fmt::Display for BadFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for BadFile {}

/// Is it the file, and not the disk or another session?
fn is_bad_file(error: &anyhow::Error) -> bool {
    match error.downcast_ref::<rusqlite::Error>() {
        Some(rusqlite::Error::SqliteFailure(failure, _)) => {
            // A damaged file has many: a table that is not there, a value of a gigabyte that there is no memory for, a format
            // that may not be written to, a number that is taken.
            !matches!(
                failure.code,
                ErrorCode::DatabaseBusy
                    | ErrorCode::DatabaseLocked
                    | ErrorCode::CannotOpen
                    | ErrorCode::DiskFull
                    | ErrorCode::PermissionDenied
                    | ErrorCode::SystemIoFailure
                    | ErrorCode::FileLockingProtocolFailed
            )
        }
        // What was read is of another type or size than what was written.
        Some(_) => true,
        None => error.is::<BadFile>() || error.is::<rusqlite::types::FromSqlError>(),
    }
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}
