//! Files that libc opens by itself, where the preload library cannot see it: they change quotes in diagnostics and
//! `__TIMESTAMP__`. A host that has others gets copies of the head's in a folder, and variables that lead libc there.
//!
//! No variable leads to a copy of a locale archive, so on such a host a compile that uses a locale of an archive stays
//! local.

use super::ToolchainKey;
use super::closure::same_file;
use super::readings::Readings;
use crate::wire::{BehindLibc, Bytes, Digest, SameFile, ShippedFile, Variable};
use anyhow::Result;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Where libc looks for locales, and what it looks at first there.
const LOCALES: &str = "/usr/lib/locale";
const ARCHIVE: &str = "/usr/lib/locale/locale-archive";

/// Where libc looks for what TZ names, and when there is no TZ.
const ZONES: &str = "/usr/share/zoneinfo";
const LOCAL_TIME: &str = "/etc/localtime";

/// Libraries for every program of a host. Another list elsewhere means another program, shipped or not.
pub const PRELOADED: &str = "/etc/ld.so.preload";

/// Files of a locale that a compiler's own `setlocale` reads.
const SAME: [&str; 3] = [
    "/usr/lib/locale/C.utf8/LC_CTYPE",
    "/usr/lib/locale/en_US.utf8/LC_CTYPE",
    "/usr/lib/locale/en_US.utf8/LC_MESSAGES/SYS_LC_MESSAGES",
];

/// Collects them for the toolchain of `key`.
///
/// # Errors
/// One exists and cannot be read.
pub fn collect(key: &ToolchainKey, readings: &Readings) -> Result<BehindLibc> {
    let mut behind = BehindLibc::default();
    behind.add_locales(readings)?;
    behind.add_zone(key.variable("TZ"), readings)?;
    behind.same_as_here(Path::new(PRELOADED), readings)?;
    Ok(behind)
}

impl BehindLibc {
    fn same_as_here(&mut self, path: &Path, readings: &Readings) -> Result<Option<Digest>> {
        let digest = same_file(path, readings)?;
        self.same.push(SameFile { path: path.as_os_str().as_bytes().to_vec(), digest });
        Ok(digest)
    }

    fn ship(&mut self, name: Bytes, source: &Path, digest: Option<Digest>) {
        let shipped = |digest| ShippedFile { name, source: source.as_os_str().as_bytes().to_vec(), digest };
        self.files.extend(digest.map(shipped));
    }

    fn lead(&mut self, name: &str, value: &str, in_folder: bool) {
        self.variables.push(Variable { name: name.into(), value: value.into(), in_folder });
    }

    fn add_locales(&mut self, readings: &Readings) -> Result<()> {
        for path in SAME {
            self.same_as_here(Path::new(path), readings)?;
        }
        self.has_archive = self.same_as_here(Path::new(ARCHIVE), readings)?.is_some();
        let mut folders = vec![PathBuf::from(LOCALES)];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
                let path = entry.path();
                let Ok(relative) = path.strip_prefix(LOCALES) else { continue };
                if !is_plain(relative) {
                    continue;
                }
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let name = [b"locale/".as_slice(), relative.as_os_str().as_bytes()].concat();
                    self.ship(name, &path, same_file(&path, readings)?);
                }
            }
        }
        self.files.sort();
        if !self.has_archive {
            self.lead("LOCPATH", "locale", true);
        }
        Ok(())
    }

    fn add_zone(&mut self, zone: Option<&OsStr>, readings: &Readings) -> Result<()> {
        // libc takes no TZ for /etc/localtime, and nothing there for UTC.
        let Some(zone) = zone else {
            let digest = self.same_as_here(Path::new(LOCAL_TIME), readings)?;
            self.ship(b"localtime".to_vec(), Path::new(LOCAL_TIME), digest);
            match digest {
                Some(_) => self.lead("TZ", "localtime", true),
                None => self.lead("TZ", "UTC0", false),
            }
            return Ok(());
        };
        let name = zone.as_bytes().strip_prefix(b":").unwrap_or(zone.as_bytes());
        // A rule like "CET-1" names no file; it is then absent on both hosts. An absolute path stands for itself.
        let path = Path::new(ZONES).join(OsStr::from_bytes(name));
        let digest = self.same_as_here(&path, readings)?;
        if name.starts_with(b"/") {
            self.ship(b"localtime".to_vec(), &path, digest);
            self.lead("TZ", "localtime", true);
        } else {
            self.ship([b"zoneinfo/".as_slice(), name].concat(), &path, digest);
            self.lead("TZDIR", "zoneinfo", true);
        }
        Ok(())
    }
}

/// Is it one of the locales in which compiles are remote?
fn is_plain(relative: &Path) -> bool {
    let name = relative.as_os_str().as_bytes();
    name.starts_with(b"C.") || name.starts_with(b"en_US")
}
