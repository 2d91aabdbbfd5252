//! `mpicc-proxy report`: what a session did, from its event log: as text, as one JSON object, as a page for a browser, as
//! a trace for Perfetto. And `explain --last`: what became of one output.

mod chain;
mod figures;
mod last;
mod page;
mod text;
mod trace;

pub use figures::Figures;
pub use last::explain_last;
pub use text::bytes;

use crate::error::{Failure, exit};
use crate::identity;
use crate::journal::folder;
use crate::journal::replay::{self, Session};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// Options of `mpicc-proxy report`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    pub which: Which,

    /// Write a page for a browser to FILE; it needs nothing else
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,

    /// Write a trace to FILE, for ui.perfetto.dev or chrome://tracing
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Which session.
#[derive(Clone, Debug, clap::Args)]
pub struct Which {
    /// The session of this name (`run` says it at its end) [default: the newest]
    #[arg(long, value_name = "ID")]
    pub session: Option<String>,

    /// The event log itself
    #[arg(long, value_name = "FILE", conflicts_with = "session")]
    pub events: Option<PathBuf>,
}

impl Which {
    /// The event log.
    ///
    /// # Errors
    /// There is none.
    pub fn file(&self) -> Result<PathBuf, Failure> {
        if let Some(file) = &self.events {
            return Ok(file.clone());
        }
        let folder = the_folder()?;
        let file = match &self.session {
            Some(id) if id.contains('/') => None,
            Some(id) => Some(folder::file_of(&folder, id)).filter(|file| file.exists()),
            None => folder::newest(&folder),
        };
        file.ok_or_else(|| {
            let which = self.session.as_ref().map_or(String::new(), |id| format!(" of a session {id}"));
            let folder = folder.display();
            no_log(&format!("there is no event log{which} in {folder}; `mpicc-proxy run` writes them"))
        })
    }
}

fn the_folder() -> Result<PathBuf, Failure> {
    let none = "no event logs are kept: $MPICC_PROXY_EVENTS is off, or there is no home directory";
    folder::own_folder().ok_or_else(|| no_log(none))
}

fn no_log(sentence: &str) -> Failure {
    Failure::new(exit::NO_EVENTS, sentence)
}

/// A session from its log.
///
/// # Errors
/// The file cannot be read, or is no event log.
pub fn load(file: &Path) -> Result<Session, Failure> {
    let failed = |why: String| no_log(&format!("cannot read the events in {}: {why}", file.display()));
    let session = replay::load(file).map_err(|e| failed(e.to_string()))?;
    match session.is_empty() {
        true => Err(not_a_log(file)),
        false => Ok(session),
    }
}

pub fn not_a_log(file: &Path) -> Failure {
    no_log(&format!("cannot read the events in {}: it is no event log", file.display()))
}

/// Makes what is asked for; returns what is to be printed.
///
/// # Errors
/// There is no such session, or a file cannot be written.
pub fn report(options: &Options) -> Result<String, Failure> {
    let log = options.which.file()?;
    let session = load(&log)?;
    let figures = Figures::of(&session);
    let mut written = String::new();
    // What must not be written over.
    let mut taken = vec![&log];
    for (file, content) in [
        (&options.html, &page::page as &dyn Fn(&Session, &Figures) -> String),
        (&options.trace, &|session, _| trace::trace(session)),
    ] {
        if let Some(file) = file {
            if taken.iter().any(|taken| identity::is_same(file, taken)) {
                let sentence =
                    format!("cannot write {}: it is the event log, or what was just written", file.display());
                return Err(Failure::new(exit::CANNOT_CREATE, sentence));
            }
            write(file, &content(&session, &figures))?;
            taken.push(file);
            written += &format!("written: {}\n", file.display());
        }
    }
    Ok(match (options.json, written.is_empty()) {
        (true, _) => format!("{}\n", serde_json::to_string_pretty(&figures).expect("numbers and strings")),
        (false, true) => text::text(&figures),
        (false, false) => written,
    })
}

fn write(path: &Path, content: &str) -> Result<(), Failure> {
    let written = File::create(path).and_then(|file| {
        let mut file = BufWriter::new(file);
        file.write_all(content.as_bytes())?;
        file.flush()
    });
    written.map_err(|e| Failure::new(exit::CANNOT_CREATE, format!("cannot write {}: {e}", path.display())))
}

/// Text that came from a log is no way to this terminal.
pub fn plain(text: &str) -> String {
    // Marks that turn the direction of what follows are no letters either.
    let is_mark = |c| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().map(|c| if c.is_control() || is_mark(c) { '?' } else { c }).collect()
}

/// The last part of a path, or something in its place.
pub fn short(path: &str) -> &str {
    let name = path.rsplit('/').next().unwrap_or(path);
    if name.is_empty() { "?" } else { name }
}
