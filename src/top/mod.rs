//! `mpicc-proxy top`: a session as it goes on, from its event log. Touches nothing of the session.

mod eta;
mod view;

use crate::error::{Failure, exit};
use crate::journal::replay::{Follower, Session};
use crate::journal::unix_us;
use crate::report::{self, Which};
use eta::Expectation;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use view::View;

/// How often the screen is drawn. The dispatcher writes as often.
const FRAME: Duration = crate::journal::DELAY;

/// How long a log may be empty.
const BEGINNING: Duration = Duration::from_secs(2);

/// Options of `mpicc-proxy top`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    which: Which,

    /// Print a line now and then, as where the output is no terminal, until the session ends
    #[arg(long)]
    plain: bool,

    /// Seconds between lines
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    interval: u64,
}

/// Shows a session until it ends or the user leaves.
///
/// # Errors
/// There is no such session, its log cannot be read, or the terminal cannot be used.
pub fn watch(options: &Options) -> Result<(), Failure> {
    let file = options.which.file()?;
    let broken =
        |e: io::Error| Failure::new(exit::NO_EVENTS, format!("cannot follow the events in {}: {e}", file.display()));
    let mut watch =
        Watch { follower: Follower::open(&file).map_err(broken)?, session: Session::default(), expectation: None };
    // A session that just begins has its first line soon.
    let until = Instant::now() + BEGINNING;
    while watch.session.is_empty() {
        watch.look().map_err(broken)?;
        if watch.session.is_empty() && Instant::now() >= until {
            return Err(report::not_a_log(&file));
        }
        thread::sleep(if watch.session.is_empty() { FRAME } else { Duration::ZERO });
    }
    watch.expectation = Expectation::find(&watch.session, &file);
    let shown = match options.plain || !io::stdout().is_terminal() {
        true => watch.print(Duration::from_secs(options.interval)),
        false => watch.draw(),
    };
    shown.map_err(broken)
}

struct Watch {
    follower: Follower,
    session: Session,
    expectation: Option<Expectation>,
}

impl Watch {
    fn look(&mut self) -> io::Result<()> {
        self.follower.read(&mut self.session).map(drop)
    }

    fn view(&self) -> View<'_> {
        // Another host's clock may be behind ours or ahead of it.
        let now_us = unix_us().saturating_sub(self.session.began_us).max(self.session.now_us);
        let left = self.expectation.as_ref().and_then(|expectation| expectation.left(&self.session, now_us));
        View { session: &self.session, now_us, left }
    }

    /// A line now, one every `interval`, and one at the end.
    fn print(mut self, interval: Duration) -> io::Result<()> {
        let mut next = Instant::now();
        loop {
            let is_over = self.session.end.is_some() || self.session.is_dead;
            if is_over || Instant::now() >= next {
                next = Instant::now() + interval;
                // Nobody reads on (`| head`): that is the end, and no error.
                if writeln!(io::stdout(), "{}", view::line(&self.view())).is_err() || is_over {
                    return Ok(());
                }
            }
            thread::sleep(FRAME);
            self.look()?;
        }
    }

    /// Draws until the user leaves. A session that has ended stays to be looked at.
    fn draw(mut self) -> io::Result<()> {
        let ended = Arc::new(AtomicBool::new(false));
        for signal in [libc::SIGTERM, libc::SIGHUP, libc::SIGINT] {
            signal_hook::flag::register(signal, Arc::clone(&ended))?;
        }
        let mut terminal = ratatui::try_init()?;
        let result = loop {
            if let Err(error) = terminal.draw(|frame| view::draw(frame, &self.view())).and_then(|_| self.look()) {
                break Err(error);
            }
            match is_to_leave(FRAME) {
                Ok(false) if !ended.load(Ordering::Relaxed) => {}
                Ok(_) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        ratatui::restore();
        result
    }
}

/// Waits for a key, not for longer than `patience`.
fn is_to_leave(patience: Duration) -> io::Result<bool> {
    let until = Instant::now() + patience;
    while event::poll(until.saturating_duration_since(Instant::now()))? {
        if let Event::Key(key) = event::read()?
            && key.kind == KeyEventKind::Press
        {
            let interrupt = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
            if interrupt || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}
