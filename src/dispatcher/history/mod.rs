//! Which paths a compile will ask about, learned from what compiles asked about before: the same action's last run, its
//! siblings', and what siblings that run right now have asked. `predict` knows how to guess, `subject` whose sibling an
//! action is, `database` keeps it all over sessions, [`crate::sets`] keeps it small. `file` is the database's file.
//!
//! In the same database, `costs` keeps what actions took, and `readings` what is known of the files of toolchains, which
//! only passes through here.
//!
//! A wrong prediction costs time, never correctness: what is predicted is validated like anything else, and what is
//! missing is asked for.

mod costs;
mod database;
mod file;
mod predict;
mod readings;
mod subject;

use crate::dispatcher::files::{HeadTree, PathId};
use crate::driver::toolchain::readings::{Earlier, Use};
use crate::wire::Invocation;
pub use costs::Cost;
use database::{BYTES_MAX, Database, Note};
use predict::{Guess, Knowledge, Name};
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
pub use subject::Origin;
use subject::{SAME_DIRECTORY, Scope, Subject};

/// How long the first action waits for what earlier sessions learned, which has been read since the ranks began to
/// start. The largest database takes half a second.
const LOAD_PATIENCE: Duration = Duration::from_secs(2);

/// How long the end of a session may take for what is not written yet: half a second's notes.
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);

/// Most questions kept of actions that run in one directory; by then siblings have finished.
const ASKED_MAX: usize = 8192;

/// Most paths that travel along with one answer: less than a millisecond of the head's.
const CARRIED_MAX: usize = 256;

/// Siblings that have finished and are enough to go by; until then, running ones are listened to as well.
const FINISHED_ENOUGH: usize = 8;

/// What actions of one directory asked, in order. Templates where they are about the asker's own names.
#[derive(Default)]
struct Asked {
    order: Vec<Name>,
    known: HashSet<Name>,
}

/// An action that runs.
pub struct Running {
    subject: Subject,
    /// How much of its siblings' questions it was told about.
    heard: usize,
    /// What it was told about.
    told: HashSet<PathId>,
}

impl Running {
    pub fn origin(&self) -> &Origin {
        &self.subject.origin
    }
}

/// What compiles have used.
pub struct History {
    database: Option<Database>,
    knowledge: Knowledge,
    asked: HashMap<Scope, Asked>,
    /// The head's name for each of ours, and the other way round.
    heads: Vec<Option<PathId>>,
    names: Vec<Option<Name>>,
    /// Names that the database was told.
    recorded: Vec<bool>,
}

impl History {
    /// With what earlier sessions left in `file`; `None`: nothing is kept.
    pub fn new(file: Option<PathBuf>) -> History {
        History {
            database: file.map(|file| Database::open(file, BYTES_MAX)),
            knowledge: Knowledge::default(),
            asked: HashMap::new(),
            heads: Vec::new(),
            names: Vec::new(),
            recorded: Vec::new(),
        }
    }

    /// What earlier sessions read of toolchains' files, for one taker, who waits for it as an action does; nothing if
    /// it cannot be had.
    pub fn earlier_readings(&mut self) -> Earlier {
        let readings = self.database.as_mut().and_then(Database::readings);
        Box::new(|| readings.and_then(|readings| readings.recv_timeout(LOAD_PATIENCE).ok()).unwrap_or_default())
    }

    /// Keeps readings of toolchains that were of use.
    pub fn keep(&mut self, readings: Vec<Use>) {
        if !readings.is_empty() {
            self.note(Note::Readings(readings));
        }
    }

    /// An action is about to run; which paths it will probably ask about. Those whose content it will need are marked.
    pub fn begin(&mut self, invocation: &Invocation, tree: &mut HeadTree) -> (Running, Vec<PathId>) {
        self.load();
        let subject = Subject::of(invocation);
        let mut guesses = self.knowledge.predict(&subject);
        let asked = self.asked.get(&subject.scopes[SAME_DIRECTORY]);
        if guesses.is_empty() || self.knowledge.siblings(&subject) < FINISHED_ENOUGH {
            let names = asked.iter().flat_map(|asked| &asked.order).copied();
            guesses.extend(names.map(|name| Guess { name, content: self.knowledge.names.is_opened(name) }));
        }
        let heard = asked.map_or(0, |asked| asked.order.len());
        let mut paths: Vec<PathId> =
            guesses.into_iter().filter_map(|guess| self.head_path(&subject, guess, tree)).collect();
        // What any compile asks, siblings or not.
        paths.extend(subject.stated_directory.as_ref().map(|path| tree.path_id(path)));
        if !subject.origin.source.is_empty() {
            let source = tree.path_id(&subject.origin.source);
            tree.mark_opened(source);
            paths.push(source);
        }
        paths.sort_unstable();
        paths.dedup();
        let told = paths.iter().copied().collect();
        (Running { subject, heard, told }, paths)
    }

    /// A running action asked about `path`; what its siblings asked since it was told last, which it will probably ask
    /// as well.
    pub fn asked(&mut self, running: &mut Running, path: PathId, tree: &mut HeadTree) -> Vec<PathId> {
        let name = self.name(path, tree);
        let path_bytes = Arc::clone(self.knowledge.names.path(name));
        let opened = self.knowledge.names.is_opened(name);
        let mut heard_of = vec![];
        let names = &mut self.knowledge.names;
        let shared = running.subject.templates(&path_bytes, |template| {
            // The shortest way to say it; the rest is for siblings in other directories.
            if heard_of.is_empty() {
                heard_of.push(names.name(template));
            }
        });
        if shared {
            heard_of = vec![name];
        } else if opened && let Some(template) = heard_of.first() {
            names.mark_opened(*template);
        }
        let asked = self.asked.entry(running.subject.scopes[SAME_DIRECTORY]).or_default();
        for name in heard_of {
            if asked.order.len() < ASKED_MAX && asked.known.insert(name) {
                asked.order.push(name);
            }
        }
        let news = asked.order[running.heard..].iter().copied().take(CARRIED_MAX).collect::<Vec<_>>();
        running.heard += news.len();
        running.told.insert(path);
        let guess = |name| Guess { name, content: self.knowledge.names.is_opened(name) };
        let guesses: Vec<Guess> = news.into_iter().map(guess).collect();
        let mut carried = Vec::new();
        for guess in guesses {
            // What it was told before stays as it was told: one compile sees one version of a file.
            if let Some(path) = self.head_path(&running.subject, guess, tree)
                && running.told.insert(path)
            {
                carried.push(path);
            }
        }
        carried
    }

    /// Takes note of what an action used.
    pub fn learn(&mut self, running: &Running, used: &[PathId], tree: &HeadTree) {
        let mut names: Vec<Name> = used.iter().map(|path| self.name(*path, tree)).collect();
        names.sort_unstable();
        names.dedup();
        let subject = &running.subject;
        let key = subject.key;
        if !self.knowledge.learn(subject, &names) {
            self.note(Note::Repeated(key));
            return;
        }
        let origin = self.knowledge.origin_names(&subject.origin);
        for name in names.iter().copied().chain([origin.driver, origin.cwd, origin.source, origin.output]) {
            self.record(name);
        }
        self.note(Note::Learned { key, origin, used: names });
    }

    /// What an action took when it last ran.
    pub fn cost(&mut self, invocation: &Invocation) -> Option<Cost> {
        self.load();
        self.knowledge.costs.get(&subject::action_key(invocation)).copied()
    }

    /// Takes note of what an action took.
    pub fn learn_cost(&mut self, running: &Running, cost: Cost) {
        let key = running.subject.key;
        let known = self.knowledge.costs.get(&key);
        if known.is_none_or(|known| !known.resembles(cost)) {
            self.knowledge.costs.insert(key, cost);
            self.note(Note::Cost(key, cost));
        }
    }

    /// Ends with everything written, or after a while.
    pub fn close(&mut self) {
        if let Some(database) = self.database.take() {
            database.close(CLOSE_PATIENCE);
        }
    }

    fn load(&mut self) {
        let Some(database) = &mut self.database else { return };
        if !database.is_loaded() {
            match database.load(LOAD_PATIENCE) {
                Some(knowledge) => self.knowledge = knowledge,
                None => {
                    eprintln!("mpicc-proxy-rank: the history takes too long to be read; this session does without");
                    self.database = None;
                }
            }
        }
    }

    fn note(&mut self, note: Note) {
        if self.database.as_ref().is_some_and(|database| !database.note(note)) {
            self.database = None;
        }
    }

    /// Tells the database about a path and whether it is opened, once.
    fn record(&mut self, name: Name) {
        if self.database.is_some() && !std::mem::replace(slot(&mut self.recorded, name), true) {
            self.note(Note::Path(name, Arc::clone(self.knowledge.names.path(name))));
            if self.knowledge.names.is_opened(name) {
                self.note(Note::Opened(name));
            }
        }
    }

    /// Our name for a path of the head's; notices when it was opened.
    fn name(&mut self, path: PathId, tree: &HeadTree) -> Name {
        let known = slot(&mut self.names, path.index());
        let name = *known.get_or_insert_with(|| self.knowledge.names.name(tree.path(path)));
        if tree.is_opened(path) && self.knowledge.names.mark_opened(name) && *slot(&mut self.recorded, name) {
            self.note(Note::Opened(name));
        }
        name
    }

    fn head_path(&mut self, subject: &Subject, guess: Guess, tree: &mut HeadTree) -> Option<PathId> {
        let name = self.knowledge.names.path(guess.name);
        let path = if subject::is_template(name) {
            tree.path_id(&subject.expand(name)?)
        } else {
            let known = slot(&mut self.heads, guess.name);
            *known.get_or_insert_with(|| tree.path_id(name))
        };
        if guess.content {
            tree.mark_opened(path);
        }
        Some(path)
    }
}

/// An element of a list that grows as needed.
fn slot<T: Default + Clone>(list: &mut Vec<T>, index: u32) -> &mut T {
    if list.len() <= index as usize {
        list.resize(index as usize + 1, T::default());
    }
    &mut list[index as usize]
}
