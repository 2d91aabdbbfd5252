//! What compiles used, over sessions: an SQLite database, and the thread that alone touches it, so that a slow disk
//! never stops the dispatcher's loop. The thread reads everything once, at the start, and then writes what it is told,
//! in transactions that begin at most [`COMMIT_AFTER`] before they end: a dispatcher that is killed loses no more.
//!
//! Whatever is wrong costs one warning and never a build. A file that is no database of ours, or damaged, is set aside
//! ([`super::file`]) and a new one begun, by the next session if only a write shows the damage; where no database can be
//! had, or a write fails, the session goes on with what it has in memory. The name of the file ends in the version of its
//! layout, so that versions of this program that are used side by side leave each other alone.
//!
//! # Layout
//! Paths are interned. What an action used is a set of path numbers ([`sets`]), as the difference to a set that actions
//! of the same working directory share. Sessions that write at once share the tables; `generation` grows whenever rows
//! that others may refer to were deleted, and tells them to look again.

use super::costs::{self, Cost};
use super::file::{self, BadFile};
use super::predict::{ByName, Knowledge, Name, OriginNames, is_worth_it};
use super::readings;
use super::subject::ActionKey;
use crate::driver::toolchain::readings::{Known, Use};
use crate::identity::{self, Identity};
use crate::sets;
use anyhow::{Context, Result, bail};
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, TransactionBehavior, params};
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Says whose database it is (`PRAGMA application_id`): "mpcp".
const APPLICATION: i32 = 0x6d70_6370;

/// Of the tables below. Another version is another file; see [`crate::paths::HISTORY_NAME`].
const LAYOUT: i32 = 1;

/// Largest database, in bytes. At some 200 to 400 bytes per action and 100 per path that is a hundred thousand actions
/// or more; all of it is in the dispatcher's memory as well, and is read in a fraction of a second.
pub const BYTES_MAX: u64 = 64 << 20;

/// What a commit may wait for more to write.
const COMMIT_AFTER: Duration = Duration::from_millis(500);

/// How long another session may hold the database. It does so for one commit at a time.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Notes that may wait for the thread; more are dropped, which costs a worse prediction one day. A note has some KiB.
const NOTES_MAX: usize = 8192;

/// An action or a reading is marked as used at most this often, in seconds, so that an unchanged build writes nothing.
pub const USED_RESOLUTION_S: i64 = 24 * 60 * 60;

const TABLES: &str = "
    CREATE TABLE numbers(name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
    INSERT INTO numbers VALUES ('generation', 0), ('next_path', 0);
    CREATE TABLE paths(path BLOB PRIMARY KEY, id INTEGER NOT NULL, opened INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE bases(id INTEGER PRIMARY KEY AUTOINCREMENT, paths BLOB NOT NULL);
    CREATE TABLE actions(
        key INTEGER PRIMARY KEY,
        driver INTEGER NOT NULL, cwd INTEGER NOT NULL, source INTEGER NOT NULL, output INTEGER NOT NULL,
        base INTEGER, paths BLOB NOT NULL,
        used INTEGER NOT NULL);
    CREATE INDEX actions_by_use ON actions(used);
";

/// What the thread is told.
pub enum Note {
    /// A path that later notes name.
    Path(Name, Arc<[u8]>),
    /// Its content was read.
    Opened(Name),
    /// What an action used, in ascending order.
    Learned { key: ActionKey, origin: OriginNames, used: Vec<Name> },
    /// An action ran again and used the same.
    Repeated(ActionKey),
    /// What an action took.
    Cost(ActionKey, Cost),
    /// Readings of toolchains that were of use.
    Readings(Vec<Use>),
}

/// The dispatcher's end of the thread.
pub struct Database {
    loaded: Option<Receiver<Knowledge>>,
    readings: Option<Receiver<Known>>,
    notes: SyncSender<Note>,
    /// Disconnected when the thread has ended.
    ended: Receiver<()>,
}

impl Database {
    /// Starts the thread.
    pub fn open(file: PathBuf, bytes_max: u64) -> Database {
        let (loaded_sender, loaded) = mpsc::channel();
        let (readings_sender, readings) = mpsc::channel();
        let (notes, incoming) = mpsc::sync_channel(NOTES_MAX);
        let (end, ended) = mpsc::channel();
        let body = move || {
            let _end: mpsc::Sender<()> = end;
            let warn = |what: &str, error: &anyhow::Error| {
                eprintln!(
                    "mpicc-proxy-rank: {what} {}: {error:#}; what compiles use is remembered for this session only",
                    file.display()
                );
            };
            match Store::open(&file, bytes_max) {
                Ok((store, knowledge, readings)) => {
                    // Nobody may be interested.
                    let _ = readings_sender.send(readings);
                    let identity = store.identity;
                    if loaded_sender.send(knowledge).is_ok()
                        && let Err(error) = store.serve(&incoming)
                        && let Err(error) = file::set_aside_if_bad(&file, identity, error)
                    {
                        warn("cannot write", &error);
                    }
                }
                Err(error) => {
                    let _ = loaded_sender.send(Knowledge::default());
                    warn("cannot use", &error);
                }
            }
        };
        if let Err(error) = std::thread::Builder::new().name("history".to_owned()).spawn(body) {
            eprintln!("mpicc-proxy-rank: no thread for the history: {error}");
        }
        Database { loaded: Some(loaded), readings: Some(readings), notes, ended }
    }

    pub fn is_loaded(&self) -> bool {
        self.loaded.is_none()
    }

    /// What earlier sessions learned, once; `None` if it cannot be had in time.
    pub fn load(&mut self, patience: Duration) -> Option<Knowledge> {
        self.loaded.take()?.recv_timeout(patience).ok()
    }

    /// Where the readings that earlier sessions kept arrive, once.
    pub fn readings(&mut self) -> Option<Receiver<Known>> {
        self.readings.take()
    }

    /// `false`: it is pointless to go on.
    pub fn note(&self, note: Note) -> bool {
        !matches!(self.notes.try_send(note), Err(mpsc::TrySendError::Disconnected(_)))
    }

    /// Waits until everything is written, for as long as `patience`.
    pub fn close(self, patience: Duration) {
        drop(self.notes);
        let _ = self.ended.recv_timeout(patience);
    }
}

/// A path as the database numbers it.
type PathNumber = u32;

/// The database, as the thread has it.
struct Store {
    connection: Connection,
    identity: Identity,
    bytes_max: u64,
    generation: i64,
    /// Path and number of each name.
    paths: ByName<(Arc<[u8]>, Option<PathNumber>)>,
    /// The base that actions of a working directory and driver are compared with next.
    latest_base: HashMap<(Name, Name), (i64, Vec<PathNumber>)>,
}

impl Store {
    /// Opens the database, or begins a new one, and reads it.
    fn open(file: &Path, bytes_max: u64) -> Result<(Store, Knowledge, Known)> {
        file::open_or_set_aside(file, || Store::try_open(file, bytes_max))
    }

    fn try_open(file: &Path, bytes_max: u64) -> Result<(Store, Knowledge, Known)> {
        drop(file::private(file)?);
        let connection =
            Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        let identity = identity::of(file).context("it is gone")?;
        let number = |pragma: &str| connection.pragma_query_value(None, pragma, |row| row.get::<_, i32>(0));
        let is_new: bool = connection.query_row("SELECT count(*) = 0 FROM sqlite_master", [], |row| row.get(0))?;
        if !is_new {
            if number("application_id")? != APPLICATION {
                bail!(BadFile("it belongs to another program"));
            }
            if number("user_version")? != LAYOUT {
                bail!(BadFile("its layout is of another version"));
            }
        }
        let mode: String = connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))?;
        if mode != "wal" {
            bail!("the file system offers no shared memory for it");
        }
        // A crash of the machine may cost the latest commits, never the database.
        connection.pragma_update(None, "synchronous", "normal")?;
        if is_new {
            let transaction = connection.unchecked_transaction()?;
            transaction.execute_batch(TABLES)?;
            transaction.pragma_update(None, "application_id", APPLICATION)?;
            transaction.pragma_update(None, "user_version", LAYOUT)?;
            transaction.commit()?;
        }
        connection.execute_batch(readings::TABLE)?;
        connection.execute_batch(costs::TABLE)?;
        let readings = readings::load(&connection)?;
        let (paths, latest_base) = Default::default();
        let mut store = Store { connection, identity, bytes_max, generation: 0, paths, latest_base };
        let knowledge = store.load()?;
        Ok((store, knowledge, readings))
    }

    fn load(&mut self) -> Result<Knowledge> {
        let snapshot = self.connection.unchecked_transaction()?;
        self.generation = read_number(&snapshot, "generation")?;
        let next_path = read_number(&snapshot, "next_path")?;
        let mut knowledge = Knowledge::default();
        knowledge.costs = costs::load(&snapshot)?;
        let mut names: ByName<Name> = ByName::default(); // of each number
        let mut rows = Vec::new();
        let mut statement = snapshot.prepare("SELECT path, id, opened FROM paths")?;
        let mut cursor = statement.query([])?;
        while let Some(row) = cursor.next()? {
            rows.push((row.get::<_, PathNumber>(1)?, row.get_ref(0)?.as_blob()?.to_vec(), row.get::<_, bool>(2)?));
        }
        // Names in the order of the numbers: sets stay in order.
        rows.sort_unstable_by_key(|(id, ..)| *id);
        if rows.last().is_some_and(|(id, ..)| i64::from(*id) >= next_path) {
            bail!(malformed());
        }
        for (id, path, opened) in rows {
            let name = knowledge.names.name(&path);
            if opened {
                knowledge.names.mark_opened(name);
            }
            let is_new = self.paths.insert(name, (Arc::clone(knowledge.names.path(name)), Some(id))).is_none();
            // With two names for a number, or the other way round, sets would lose their order.
            if names.insert(id, name).is_some() || !is_new {
                bail!(malformed());
            }
        }
        let renamed = |id: PathNumber| names.get(&id).copied();
        let in_names = |set: &[PathNumber]| sets::encode(&set.iter().copied().filter_map(renamed).collect::<Vec<_>>());
        let mut bases: HashMap<i64, (u32, Vec<PathNumber>)> = HashMap::new();
        let mut statement = snapshot.prepare("SELECT id, paths FROM bases")?;
        let mut cursor = statement.query([])?;
        while let Some(row) = cursor.next()? {
            let set = sets::decode(row.get_ref(1)?.as_blob()?).ok_or_else(malformed)?;
            bases.insert(row.get(0)?, (knowledge.recall_base(in_names(&set)), set));
        }
        let mut latest = HashMap::new();
        let mut statement =
            snapshot.prepare("SELECT key, driver, cwd, source, output, base, paths FROM actions ORDER BY used, key")?;
        let mut cursor = statement.query([])?;
        while let Some(row) = cursor.next()? {
            let name = |column| anyhow::Ok(renamed(row.get(column)?));
            let (Some(driver), Some(cwd), Some(source), Some(output)) = (name(1)?, name(2)?, name(3)?, name(4)?) else {
                continue;
            };
            let key = row.get::<_, i64>(0)? as u64;
            let base: Option<i64> = row.get(5)?;
            let blob = row.get_ref(6)?.as_blob()?;
            let (base, paths) = match base {
                None => (None, in_names(&sets::decode(blob).ok_or_else(malformed)?)),
                Some(id) => {
                    let Some((index, _)) = bases.get(&id) else { continue };
                    latest.insert((driver, cwd), id);
                    (Some(*index), sets::rename(blob, renamed).ok_or_else(malformed)?)
                }
            };
            knowledge.recall_action(key, OriginNames { driver, cwd, source, output }, base, paths);
        }
        self.latest_base.extend(latest.into_iter().map(|(scope, id)| (scope, (id, bases[&id].1.clone()))));
        Ok(knowledge)
    }

    /// Writes until nobody is left who could say something.
    fn serve(mut self, notes: &Receiver<Note>) -> Result<()> {
        loop {
            let Ok(first) = notes.recv() else { return Ok(()) };
            let deadline = Instant::now() + COMMIT_AFTER;
            let mut batch = vec![first];
            // Gathered before the transaction begins, so that other sessions can write meanwhile.
            while batch.len() < NOTES_MAX {
                match notes.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                    Ok(note) => batch.push(note),
                    Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
                }
            }
            match self.write(&batch) {
                Ok(()) => {}
                // Another session works for that long: this batch is lost, the next one may be written.
                Err(error) if is_busy(&error) => self.forget_numbers(),
                Err(error) => return Err(error),
            }
        }
    }

    fn write(&mut self, batch: &[Note]) -> Result<()> {
        for note in batch {
            if let Note::Path(name, path) = note {
                self.paths.entry(*name).or_insert_with(|| (Arc::clone(path), None));
            }
        }
        let Store { connection, generation, paths, latest_base, bytes_max, .. } = self;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let current = read_number(&transaction, "generation")?;
        if current != *generation {
            *generation = current;
            latest_base.clear();
            paths.values_mut().for_each(|(_, number)| *number = None);
        }
        let now = unix_time_s();
        let mut session = Session { transaction: &transaction, paths, latest_base };
        for note in batch {
            match note {
                Note::Path(..) => {}
                Note::Readings(uses) => readings::write(&transaction, uses, now)?,
                Note::Cost(key, cost) => costs::write(&transaction, *key, *cost)?,
                Note::Opened(name) => session.open(*name)?,
                Note::Learned { key, origin, used } => session.learn(*key, *origin, used, now)?,
                Note::Repeated(key) => {
                    session
                        .transaction
                        .prepare_cached("UPDATE actions SET used = ?2 WHERE key = ?1 AND used < ?3")?
                        .execute(params![*key as i64, now, now - USED_RESOLUTION_S])?;
                }
            }
        }
        while bytes_used(&transaction)? > *bytes_max {
            if !evict(&transaction)? {
                break;
            }
        }
        transaction.commit()?;
        Ok(())
    }

    /// After a transaction that did not happen.
    fn forget_numbers(&mut self) {
        self.latest_base.clear();
        self.paths.values_mut().for_each(|(_, number)| *number = None);
    }
}

/// One transaction.
struct Session<'a> {
    transaction: &'a Connection,
    paths: &'a mut ByName<(Arc<[u8]>, Option<PathNumber>)>,
    latest_base: &'a mut HashMap<(Name, Name), (i64, Vec<PathNumber>)>,
}

impl Session<'_> {
    /// The number of a path, new or old. `None`: the note that named it was dropped.
    fn number(&mut self, name: Name) -> Result<Option<PathNumber>> {
        let Some((path, known)) = self.paths.get_mut(&name) else { return Ok(None) };
        if known.is_none() {
            let mut select = self.transaction.prepare_cached("SELECT id FROM paths WHERE path = ?1")?;
            let mut number = select.query_row([&path[..]], |row| row.get(0)).optional()?;
            if number.is_none() {
                let next = self
                    .transaction
                    .prepare_cached(
                        "UPDATE numbers SET value = value + 1 WHERE name = 'next_path' RETURNING value - 1",
                    )?
                    .query_row([], |row| row.get(0))?;
                let mut insert = self.transaction.prepare_cached("INSERT INTO paths VALUES (?1, ?2, 0)")?;
                insert.execute(params![&path[..], next])?;
                number = Some(next);
            }
            *known = number;
        }
        Ok(*known)
    }

    fn open(&mut self, name: Name) -> Result<()> {
        if self.number(name)?.is_some() {
            let path = &self.paths[&name].0;
            self.transaction.prepare_cached("UPDATE paths SET opened = 1 WHERE path = ?1")?.execute([&path[..]])?;
        }
        Ok(())
    }

    fn learn(&mut self, key: ActionKey, origin: OriginNames, used: &[Name], now: i64) -> Result<()> {
        let mut set = Vec::with_capacity(used.len());
        for name in used {
            set.extend(self.number(*name)?);
        }
        set.sort_unstable();
        let OriginNames { driver, cwd, source, output } = origin;
        let full = sets::encode(&set);
        let near = self.latest_base.get(&(driver, cwd)).and_then(|(id, base)| {
            let difference = sets::difference(base, &set);
            is_worth_it(&difference, &full).then_some((*id, difference))
        });
        let (base, paths) = match near {
            Some(near) => near,
            None => {
                self.transaction.prepare_cached("INSERT INTO bases(paths) VALUES (?1)")?.execute([&full])?;
                let id = self.transaction.last_insert_rowid();
                let nothing = sets::difference(&set, &set);
                self.latest_base.insert((driver, cwd), (id, set));
                (id, nothing)
            }
        };
        let numbers = [self.number(driver)?, self.number(cwd)?, self.number(source)?, self.number(output)?];
        let [Some(driver), Some(cwd), Some(source), Some(output)] = numbers else { return Ok(()) };
        let mut insert = self
            .transaction
            .prepare_cached("INSERT OR REPLACE INTO actions VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?;
        insert.execute(params![key as i64, driver, cwd, source, output, base, paths, now])?;
        Ok(())
    }
}

/// Deletes the eighth of the actions that was not used for the longest time, and what they alone referred to. `false`:
/// there is nothing left to delete.
fn evict(transaction: &Connection) -> Result<bool> {
    let gone = transaction.execute(
        "DELETE FROM actions WHERE key IN
            (SELECT key FROM actions ORDER BY used, key LIMIT (SELECT 1 + count(*) / 8 FROM actions))",
        [],
    )?;
    costs::evict(transaction)?;
    transaction.execute("DELETE FROM bases WHERE id NOT IN (SELECT base FROM actions WHERE base IS NOT NULL)", [])?;
    let mut needed: HashSet<PathNumber> = HashSet::new();
    let mut bases = HashMap::new();
    let mut statement = transaction.prepare("SELECT id, paths FROM bases")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let set = sets::decode(row.get_ref(1)?.as_blob()?).ok_or_else(malformed)?;
        needed.extend(&set);
        bases.insert(row.get::<_, i64>(0)?, set);
    }
    let mut statement = transaction.prepare("SELECT driver, cwd, source, output, base, paths FROM actions")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        for column in 0..4 {
            needed.insert(row.get(column)?);
        }
        let blob = row.get_ref(5)?.as_blob()?;
        let set = match row.get::<_, Option<i64>>(4)? {
            None => sets::decode(blob),
            Some(id) => bases.get(&id).and_then(|base| sets::apply(base, blob)),
        };
        needed.extend(set.ok_or_else(malformed)?);
    }
    let mut statement = transaction.prepare("SELECT path, id FROM paths")?;
    let mut rows = statement.query([])?;
    let mut unneeded = Vec::new();
    while let Some(row) = rows.next()? {
        if !needed.contains(&row.get(1)?) {
            unneeded.push(row.get_ref(0)?.as_blob()?.to_vec());
        }
    }
    let mut delete = transaction.prepare("DELETE FROM paths WHERE path = ?1")?;
    for path in &unneeded {
        delete.execute([path])?;
    }
    transaction.execute("UPDATE numbers SET value = value + 1 WHERE name = 'generation'", [])?;
    Ok(gone > 0)
}

fn malformed() -> BadFile {
    BadFile("paths, their numbers or sets of them are malformed")
}

fn bytes_used(connection: &Connection) -> Result<u64> {
    let number = |pragma: &str| connection.pragma_query_value(None, pragma, |row| row.get::<_, u64>(0));
    let pages = number("page_count")?.checked_sub(number("freelist_count")?).ok_or_else(malformed)?;
    Ok(pages * number("page_size")?)
}

fn read_number(connection: &Connection, name: &str) -> Result<i64> {
    let mut statement = connection.prepare_cached("SELECT value FROM numbers WHERE name = ?1")?;
    Ok(statement.query_row([name], |row| row.get(0))?)
}

fn is_busy(error: &anyhow::Error) -> bool {
    let code = error.downcast_ref::<rusqlite::Error>().and_then(rusqlite::Error::sqlite_error_code);
    matches!(code, Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

fn unix_time_s() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs() as i64)
}

#[cfg(test)]
mod tests {
    use super::super::subject::{Subject, tests::invocation};
    use super::*;
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    const PATIENCE: Duration = Duration::from_secs(30);

    /// One session: reads, learns, closes.
    struct Bench {
        database: Database,
        knowledge: Knowledge,
    }

    impl Bench {
        fn open(file: &Path, bytes_max: u64) -> Bench {
            let mut database = Database::open(file.to_path_buf(), bytes_max);
            let knowledge = database.load(PATIENCE).expect("it opens, whatever the file is");
            Bench { database, knowledge }
        }

        fn learn(&mut self, words: &str, paths: &[&str]) {
            let subject = Subject::of(&invocation("/s", words));
            let mut used: Vec<Name> = paths.iter().map(|path| self.knowledge.names.name(path.as_bytes())).collect();
            used.sort_unstable();
            self.knowledge.learn(&subject, &used);
            let origin = self.knowledge.origin_names(&subject.origin);
            for name in used.iter().copied().chain([origin.driver, origin.cwd, origin.source, origin.output]) {
                assert!(self.database.note(Note::Path(name, Arc::clone(self.knowledge.names.path(name)))));
                if self.knowledge.names.path(name).ends_with(b".h") {
                    self.database.note(Note::Opened(name));
                }
            }
            self.database.note(Note::Learned { key: subject.key, origin, used });
        }

        fn recall(&self, words: &str) -> Option<Vec<String>> {
            let used = self.knowledge.recall(Subject::of(&invocation("/s", words)).key)?;
            let text = |name: Name| {
                let opened = if self.knowledge.names.is_opened(name) { "*" } else { "" };
                String::from_utf8_lossy(self.knowledge.names.path(name)).into_owned() + opened
            };
            let mut paths: Vec<String> = used.into_iter().map(text).collect();
            paths.sort();
            Some(paths)
        }

        fn close(self) {
            self.database.close(PATIENCE);
        }
    }

    #[test]
    fn a_session_knows_what_another_learned() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a/b/h.sqlite");
        let mut first = Bench::open(&file, BYTES_MAX);
        first.learn("gcc -c a.c", &["/s/a.c", "/s/x.h", "/s/absent"]);
        first.learn("gcc -c b.c", &["/s/b.c", "/s/x.h", "/s/absent", "/s/\u{e9}"]);
        first.close();
        assert_eq!(fs::metadata(dir.path().join("a")).unwrap().mode() & 0o777, 0o700);
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);

        let mut second = Bench::open(&file, BYTES_MAX);
        let a = vec!["/s/a.c".to_owned(), "/s/absent".to_owned(), "/s/x.h*".to_owned()];
        assert_eq!(second.recall("gcc -c a.c"), Some(a.clone()));
        assert_eq!(second.recall("gcc -c b.c").unwrap().len(), 4);
        assert_eq!(second.recall("gcc -c c.c"), None);
        assert!(!second.knowledge.predict(&Subject::of(&invocation("/s", "gcc -c c.c"))).is_empty());
        second.learn("gcc -c b.c", &["/s/b.c", "/s/y.h"]);
        second.close();

        let third = Bench::open(&file, BYTES_MAX);
        assert_eq!(third.recall("gcc -c a.c"), Some(a));
        assert_eq!(third.recall("gcc -c b.c"), Some(vec!["/s/b.c".to_owned(), "/s/y.h*".to_owned()]));
        third.close();
    }

    /// What a session does that is handed `content` as its database; the names of the files then.
    fn with_file(content: impl FnOnce(&Path)) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("h.sqlite");
        content(&file);
        let mut bench = Bench::open(&file, BYTES_MAX);
        assert_eq!(bench.recall("gcc -c a.c"), None);
        bench.learn("gcc -c a.c", &["/s/a.c"]);
        bench.close();
        let again = Bench::open(&file, BYTES_MAX);
        assert!(again.recall("gcc -c a.c").is_some(), "a new one was begun");
        again.close();
        let names = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter(|name| name.contains("set-aside")).collect();
        names.sort();
        names
    }

    fn good_file(file: &Path) {
        let mut bench = Bench::open(file, BYTES_MAX);
        for number in 0..300 {
            bench.learn(&format!("gcc -c {number}.c"), &[&format!("/s/{number}.c"), &format!("/s/{number}.h")]);
        }
        bench.close();
    }

    #[test]
    fn bad_files_are_set_aside() {
        let aside = ["h.sqlite.set-aside"];
        let change = |file: &Path, statement: &str| {
            good_file(file);
            Connection::open(file).unwrap().execute_batch(statement).unwrap();
        };
        assert_eq!(with_file(|file| fs::write(file, "").unwrap()), [""; 0], "an empty file is a new database");
        assert_eq!(with_file(|file| fs::write(file, "no database".repeat(1000)).unwrap()), aside);
        assert_eq!(with_file(|file| change(file, "PRAGMA user_version = 2")), aside, "newer");
        assert_eq!(with_file(|file| change(file, "PRAGMA user_version = 0")), aside, "older");
        assert_eq!(with_file(|file| change(file, "PRAGMA application_id = 7")), aside, "foreign");
        assert_eq!(with_file(|file| change(file, "DROP TABLE actions")), aside, "incomplete");
        assert_eq!(with_file(|file| change(file, "UPDATE bases SET paths = x'80'")), aside, "nonsense");
        assert_eq!(with_file(|file| change(file, "UPDATE actions SET key = key, paths = 'text'")), aside, "mistyped");
        assert_eq!(with_file(|file| change(file, "UPDATE paths SET id = 7")), aside, "one number for all");
        let taken = "UPDATE numbers SET value = 0 WHERE name = 'next_path'";
        assert_eq!(with_file(|file| change(file, taken)), aside, "the next number is taken");
        let damaged = |file: &Path| {
            good_file(file);
            let mut content = fs::read(file).unwrap();
            let middle = content.len() / 4;
            content[middle..].fill(0xa5);
            fs::write(file, content).unwrap();
        };
        assert_eq!(with_file(damaged), aside);
    }

    #[test]
    fn damage_that_only_a_write_shows_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("h.sqlite");
        good_file(&file);
        let refuse = "CREATE TRIGGER no BEFORE INSERT ON bases BEGIN SELECT RAISE(ABORT, 'no'); END";
        Connection::open(&file).unwrap().execute_batch(refuse).unwrap();
        for is_known in [false, false, true] {
            let mut bench = Bench::open(&file, BYTES_MAX);
            assert_eq!(bench.recall("g++ -c new.cc").is_some(), is_known);
            bench.learn("g++ -c new.cc", &["/s/new.cc"]);
            bench.close();
        }
        assert!(dir.path().join("h.sqlite.set-aside").exists());
    }

    #[test]
    fn where_no_database_can_be_the_session_does_without() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        for place in ["file/h.sqlite", "file/folder/h.sqlite", "."] {
            let bench = Bench::open(&dir.path().join(place), BYTES_MAX);
            assert_eq!(bench.recall("gcc -c a.c"), None);
            let deadline = Instant::now() + PATIENCE;
            while bench.database.note(Note::Repeated(1)) {
                assert!(Instant::now() < deadline, "the thread goes on with {place}");
                std::thread::sleep(Duration::from_millis(1));
            }
            bench.close();
        }
        assert_eq!(fs::read(dir.path().join("file")).unwrap(), b"");
    }

    #[test]
    fn the_least_recently_used_go_first() {
        const BYTES: u64 = 128 << 10;
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("h.sqlite");
        let own = |round: i32, number: i32| -> Vec<String> {
            (0..20).map(|n| format!("/s/{round}/{number}/{n}.h")).collect()
        };
        let words = |round: i32, number: i32| format!("gcc -c {round}/{number}.c");
        for round in 0..4 {
            let mut bench = Bench::open(&file, BYTES);
            for number in 0..100 {
                let paths = own(round, number);
                bench.learn(&words(round, number), &paths.iter().map(String::as_str).collect::<Vec<_>>());
            }
            bench.close();
            // As if it had been a while ago.
            Connection::open(&file).unwrap().execute("UPDATE actions SET used = used - 1000000", []).unwrap();
        }
        let bench = Bench::open(&file, BYTES);
        assert_eq!(bench.recall(&words(0, 0)), None, "the oldest are gone");
        assert_eq!(bench.recall(&words(3, 99)).map(|paths| paths.len()), Some(20));
        bench.close();
        let connection = Connection::open(&file).unwrap();
        assert!(bytes_used(&connection).unwrap() <= BYTES);
        let count =
            |table| connection.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get::<_, u32>(0));
        let (actions, paths, bases) = (count("actions").unwrap(), count("paths").unwrap(), count("bases").unwrap());
        assert!(actions < 400 && bases <= actions && paths <= 22 * actions + 2, "{actions} {paths} {bases}");
    }

    #[test]
    fn two_sessions_at_once_share_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("h.sqlite");
        let session = |name: &'static str| {
            let file = file.clone();
            move || {
                let mut bench = Bench::open(&file, 128 << 10);
                for number in 0..200 {
                    let (words, own) = (format!("gcc -c {name}{number}.c"), format!("/s/{name}{number}.h"));
                    bench.learn(&words, &["/s/shared.h", "/s/other.h", &own]);
                    if number % 50 == 0 {
                        std::thread::sleep(COMMIT_AFTER); // into another transaction
                    }
                }
                bench.close();
            }
        };
        let threads = ["a", "b"].map(|name| std::thread::spawn(session(name)));
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        let bench = Bench::open(&file, BYTES_MAX);
        for name in ["a", "b"] {
            let used = bench.recall(&format!("gcc -c {name}199.c")).expect("both were written");
            assert_eq!(used, [format!("/s/{name}199.h*"), "/s/other.h*".to_owned(), "/s/shared.h*".to_owned()]);
        }
        bench.close();
    }

    #[test]
    fn what_was_committed_survives_a_kill() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("h.sqlite");
        let mut bench = Bench::open(&file, BYTES_MAX);
        bench.learn("gcc -c a.c", &["/s/a.c"]);
        let deadline = Instant::now() + PATIENCE;
        // The writer is still there, as a killed one's locks would not be.
        loop {
            let other = Bench::open(&file, BYTES_MAX);
            let known = other.recall("gcc -c a.c").is_some();
            other.close();
            if known {
                break;
            }
            assert!(Instant::now() < deadline, "never committed");
            std::thread::sleep(Duration::from_millis(50));
        }
        bench.close();
    }
}
