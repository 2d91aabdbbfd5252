//! Readings of toolchains' files over sessions: a table of the database. Those of a version of a file that is not seen
//! again leave when there are more than [`READINGS_MAX`]. Whether a reading is still true is not decided here but in
//! [`crate::driver::toolchain::readings`].

use super::database::USED_RESOLUTION_S;
use super::file::BadFile;
use crate::driver::toolchain::readings::{Known, READINGS_MAX, Use, Version};
use anyhow::Result;
use rusqlite::{Connection, params};

/// This table came after the others; to older programs, which do not look for it, the database is as good with it as
/// without. `version` and `reading` are JSON. `seal`: SQLite does not notice when a disk changes a row, and a wrong
/// digest would be believed for as long as the compiler stays.
pub const TABLE: &str = "
    CREATE TABLE IF NOT EXISTS readings(
        path BLOB, version TEXT, reading TEXT NOT NULL,
        seal BLOB NOT NULL,
        used INTEGER NOT NULL,
        PRIMARY KEY(path, version)) WITHOUT ROWID;
";

/// Largest path, version and reading of a row, in bytes, so that all rows are at most half of the database. With a
/// hundred folders in its DT_RUNPATH an ELF file has as much; most have some hundred bytes.
const ROW_BYTES_MAX: usize = 8 << 10;

/// All that is kept.
///
/// # Errors
/// The database cannot be read, or is no good.
pub fn load(connection: &Connection) -> Result<Known> {
    let bad = || BadFile("a reading of a toolchain's file is malformed");
    let mut statement = connection.prepare("SELECT path, version, reading, seal FROM readings")?;
    let mut rows = statement.query([])?;
    let mut readings = Known::new();
    while let Some(row) = rows.next()? {
        let (path, version, reading) =
            (row.get_ref(0)?.as_blob()?, row.get_ref(1)?.as_str()?, row.get_ref(2)?.as_str()?);
        if row.get_ref(3)?.as_blob()? != seal(path, version, reading) {
            return Err(bad().into());
        }
        let (file_system, stamp) = serde_json::from_str(version).map_err(|_| bad())?;
        let version = Version { path: path.to_vec(), file_system, stamp };
        readings.insert(version, serde_json::from_str(reading).map_err(|_| bad())?);
    }
    Ok(readings)
}

/// Keeps what is new, and marks the rest as used. `now_s`: Unix time.
///
/// # Errors
/// The database cannot be written.
pub fn write(transaction: &Connection, uses: &[Use], now_s: i64) -> Result<()> {
    let mut insert = transaction.prepare_cached("INSERT OR REPLACE INTO readings VALUES (?1, ?2, ?3, ?4, ?5)")?;
    let mut mark =
        transaction.prepare_cached("UPDATE readings SET used = ?3 WHERE path = ?1 AND version = ?2 AND used < ?4")?;
    for Use { version: Version { path, file_system, stamp }, new } in uses {
        let version = serde_json::to_string(&(file_system, stamp))?;
        let Some(reading) = new else {
            mark.execute(params![path, version, now_s, now_s - USED_RESOLUTION_S])?;
            continue;
        };
        let reading = serde_json::to_string(reading)?;
        if path.len() + version.len() + reading.len() <= ROW_BYTES_MAX {
            insert.execute(params![path, version, reading, seal(path, &version, &reading), now_s])?;
        }
    }
    let mut evict = transaction.prepare_cached(
        "DELETE FROM readings WHERE (path, version) IN
            (SELECT path, version FROM readings ORDER BY used DESC, path, version LIMIT -1 OFFSET ?1)",
    )?;
    evict.execute([READINGS_MAX as i64])?;
    Ok(())
}

fn seal(path: &[u8], version: &str, reading: &str) -> [u8; 32] {
    let mut hash = blake3::Hasher::new();
    for part in [path, version.as_bytes(), reading.as_bytes()] {
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    *hash.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::super::database::{BYTES_MAX, Database, Note};
    use super::*;
    use crate::driver::toolchain::readings::{Format, Linkage, Reading};
    use crate::driver::toolchain::stamps::Stamp;
    use crate::wire::Digest;
    use std::path::Path;
    use std::time::Duration;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn version(path: &str, seconds: i64) -> Version {
        let stamp = Stamp { device: 1, inode: u64::MAX, bytes: 3, mtime: [seconds, 1], ctime: [seconds, 999_999_999] };
        Version { path: path.into(), file_system: u64::MAX, stamp }
    }

    fn reading(content: &str) -> Reading {
        Reading { digest: Digest::of(content.as_bytes()), format: Format::Other("text".to_owned()) }
    }

    fn new(path: &str, seconds: i64) -> Use {
        Use { version: version(path, seconds), new: Some(reading(path)) }
    }

    /// One session: what earlier ones kept. Keeps `uses`.
    fn session(file: &Path, uses: Vec<Use>) -> Known {
        let mut database = Database::open(file.to_path_buf(), BYTES_MAX);
        let readings = database.readings().unwrap().recv_timeout(PATIENCE).unwrap_or_default();
        database.load(PATIENCE).expect("it opens, whatever the file is");
        database.note(Note::Readings(uses));
        database.close(PATIENCE);
        readings
    }

    fn execute(file: &Path, statement: &str) {
        Connection::open(file).unwrap().execute_batch(statement).unwrap();
    }

    #[test]
    fn a_session_knows_what_another_read() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("h.sqlite");
        let linkage = Linkage {
            is_64: true,
            machine: 62,
            interpreter: Some("/lib64/ld.so".to_owned()),
            libraries: vec!["libc.so.6".to_owned(), "\u{e9}".to_owned()],
            rpaths: vec![],
            runpaths: vec!["$ORIGIN:/x".to_owned()],
        };
        let elf = Reading { digest: Digest::of(b"elf"), format: Format::Elf(linkage) };
        let path = Version { path: b"/\xff".to_vec(), ..version("", 7) };
        let uses = vec![Use { version: path.clone(), new: Some(elf.clone()) }, new("/a", 1), new("/a", 2)];
        assert!(session(&file, uses).is_empty());
        let known = [(path, elf), (version("/a", 1), reading("/a")), (version("/a", 2), reading("/a"))];
        assert_eq!(session(&file, vec![]), Known::from(known));

        let long = Reading { digest: Digest::of(b""), format: Format::Other("x".repeat(ROW_BYTES_MAX)) };
        session(&file, vec![Use { version: version("/long", 1), new: Some(long) }]);
        assert_eq!(session(&file, vec![]).len(), 3, "what has no limit is not kept");
    }

    #[test]
    fn the_least_recently_used_go_first() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("h.sqlite");
        session(&file, (0..READINGS_MAX).map(|n| new(&format!("/{n}"), 1)).collect());
        execute(&file, "UPDATE readings SET used = used - 1000000");
        let mut uses: Vec<Use> = (0..8).map(|n| new(&format!("/{n}"), 2)).collect();
        uses.push(Use { version: version("/7", 1), new: None });
        session(&file, uses);
        let known = session(&file, vec![]);
        assert_eq!(known.len(), READINGS_MAX);
        assert!((0..8).all(|n| known.contains_key(&version(&format!("/{n}"), 2))), "new");
        assert!(known.contains_key(&version("/7", 1)), "used again");
    }

    #[test]
    fn a_bad_table_costs_a_warning() {
        let dir = tempfile::tempdir().unwrap();
        let aside = |name: &str, statement: &str| {
            let file = dir.path().join(name);
            session(&file, vec![new("/a", 1)]);
            execute(&file, statement);
            assert!(session(&file, vec![new("/a", 1)]).is_empty(), "{name}");
            assert_eq!(session(&file, vec![]).len(), 1, "{name}: kept again");
            dir.path().join(format!("{name}.set-aside")).exists()
        };
        assert!(!aside("older", "DROP TABLE readings"));
        assert!(aside("another", "ALTER TABLE readings DROP COLUMN seal"));
        assert!(aside("mistyped", "UPDATE readings SET seal = 'text'"));
        let changed = "UPDATE readings SET reading = replace(reading, '\"bytes\":2', '\"bytes\":3')";
        assert!(aside("changed", changed), "a digest that nobody wrote");
    }
}
