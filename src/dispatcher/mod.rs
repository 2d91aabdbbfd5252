//! Rank 0: takes invocations from clients, decides through [`queue`] which rank compiles them, shows the ranks the
//! head's tree ([`files`]), gives their places on the head to others meanwhile ([`places`]), and passes results back. One
//! thread, one loop; it never blocks in MPI or on a client.
//!
//! The loop decides purely, then acts: an event goes into [`queue::Queue::step`], and each command that comes out is
//! performed here.

mod broker;
pub mod clients;
mod demand;
mod environments;
mod events;
mod figures;
pub mod files;
mod folders;
pub mod history;
pub mod listing;
mod liveness;
mod local;
mod locks;
mod meter;
mod outside;
mod places;
mod probes;
pub mod queue;
#[cfg(test)]
mod random;
mod ranks;
mod shipments;
#[cfg(test)]
mod simulation;
mod slots;
mod tokens;
mod toolchains;

use crate::batch::Batch;
use crate::event::{Backoff, CAP_BUSY, CAP_IDLE, Caps, Interest, Ready};
use crate::ids::Ids;
use crate::jobs;
use crate::link::Link;
use crate::paths;
use crate::rusage;
use crate::wire::{
    self, ActionFigures, ActionId, ActionResult, Also, Assignment, BEAT, ClientCpu, Digest, Exit, FromRank, Invocation,
    Place, Record, RecordId, SlotUser, Stats, Stream, ToClient, ToDispatcher, ToRank, ToolchainId, Unfit, Viewpoint,
    Want,
};
use anyhow::{Context, Result};
use clients::{ClientId, Clients, Token};
use demand::Demand;
use environments::Environments;
use events::Events;
use figures::Figures;
use files::HeadTree;
use history::{Cost, History, Origin, Running};
use liveness::SILENCE_MAX;
use meter::{Meter, Part};
use outside::Head;
use places::{Peer, Places};
use probes::{Probes, SHORT};
use queue::{Command, Event, Queue, Rank};
use ranks::{Ranks, Source};
use shipments::Shipments;
use std::collections::BTreeMap;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use toolchains::{Lookup, Toolchains};

/// How many times what it last took a compile may take; at least [`TIME_MAX_LEAST`], since hosts and sources differ.
const TIMES_MAX: u32 = 20;
const TIME_MAX_LEAST: Duration = Duration::from_secs(20 * 60);

/// How long a compile may take of which nothing is known. The longest that people speak of take an hour.
const TIME_MAX_UNKNOWN: Duration = Duration::from_secs(4 * 60 * 60);

/// A loop that has not turned for so long was stopped from outside: clients may have given it up.
const FROZEN: Duration = Duration::from_secs(10);

/// How long the last messages may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// MPI messages handled in one turn, so that clients are not starved.
const MESSAGES_PER_TURN: usize = 64;

/// What `mpicc-proxy-rank` is told on its command line, as far as rank 0 needs it.
#[derive(Clone, Debug)]
pub struct Options {
    pub socket: PathBuf,
    pub ready_file: Option<PathBuf>,
    /// Where what compiles use is kept over sessions; `None`: nowhere.
    pub history: Option<PathBuf>,
    /// Slots of the head; `None`: the CPUs that rank 0 may use.
    pub local_jobs: Option<u32>,
    /// The session's event log; `None`: there is none.
    pub events: Option<PathBuf>,
    /// The name of a session whose ranks are started again when they die.
    pub session: Option<String>,
}

struct Action {
    client: ClientId,
    invocation: Invocation,
    place: Place,
    /// To run it here would be a failure.
    only_ranks: bool,
    toolchain: ToolchainId,
    /// The epoch in which it was assigned: what its record ids mean.
    epoch: u32,
    /// What it is predicted from and was told, while it runs.
    running: Option<Running>,
    /// When it was assigned, while it runs.
    since: Option<Instant>,
    /// What it took when it last ran.
    cost: Option<Cost>,
    /// A part of the result went to the client already.
    streamed: bool,
    /// Why ranks did not carry it out.
    causes: Vec<String>,
    /// Bytes sent to ranks for it.
    sent_bytes: u64,
}

/// Contents that a host lacks.
#[derive(Default)]
struct Lacking {
    to_send: Vec<RecordId>,
    to_fetch: BTreeMap<Rank, Vec<Digest>>,
}

struct Dispatcher {
    link: Link,
    clients: Clients,
    ranks: Ranks,
    queue: Queue,
    tree: HeadTree,
    history: History,
    toolchains: Toolchains,
    shipments: Shipments,
    environments: Environments,
    places: Places,
    probes: Probes,
    meter: Meter,
    figures: Figures,
    events: Events,
    actions: BTreeMap<ActionId, Action>,
    next_action: ActionId,
    stats: Stats,
    started: Instant,
    cpu_at_start_us: u64,
    /// How this process, which looks at the tree for the clients, sees files.
    viewpoint: Viewpoint,
    /// When the clients that wait last heard that we are there.
    showed_life: Instant,
    silence_mark: PathBuf,
    /// Who is there is not known yet.
    thawing: bool,
    stopping: bool,
    /// The ranks of the session are started again when they die.
    returns: bool,
}

/// Runs rank 0 until it is told to stop (by a client, SIGTERM or SIGINT).
///
/// # Errors
/// The socket cannot be made, or MPI fails.
pub fn run(mut link: Link, options: &Options) -> Result<()> {
    let signals = crate::event::signal_stream(&[libc::SIGTERM, libc::SIGINT, libc::SIGHUP])?;
    // Read while the ranks get ready.
    let mut history = History::new(options.history.clone());
    if let Err(error) = clients::check_free(&options.socket) {
        dismiss(link, 1..);
        return Err(error);
    }
    let Some(ranks) = Ranks::assemble(&mut link, &signals, options.session.as_deref())? else { return Ok(()) };
    let _ = std::fs::remove_file(paths::silence_mark(&options.socket));
    let clients = Clients::listen(&options.socket)?;
    let mut queue = Queue::default();
    for joined in ranks.joined() {
        // Nothing is waiting yet, so nothing is to be done.
        queue.step(joined);
    }
    let toolchains = Toolchains::new(history.earlier_readings())?;
    let mut dispatcher = Dispatcher {
        link,
        clients,
        ranks,
        queue,
        tree: HeadTree::default(),
        history,
        toolchains,
        shipments: Shipments::default(),
        environments: Environments::default(),
        places: Places::new(Head, options.local_jobs.unwrap_or_else(jobs::own_cpus)),
        probes: Probes::default(),
        meter: Meter::default(),
        figures: Figures::default(),
        events: Events::open(options.events.as_deref()),
        actions: BTreeMap::new(),
        next_action: 1,
        stats: Stats::default(),
        started: Instant::now(),
        cpu_at_start_us: rusage::own_cpu_us(),
        viewpoint: crate::viewpoint::own()?,
        showed_life: Instant::now(),
        silence_mark: paths::silence_mark(&options.socket),
        thawing: false,
        stopping: false,
        returns: options.session.is_some(),
    };
    if let Some(path) = &options.ready_file {
        write_ready_file(path).with_context(|| format!("cannot write the ready file {}", path.display()))?;
    }
    dispatcher.events.begin(dispatcher.ranks.stats());
    let result = dispatcher.serve(&signals);
    dispatcher.shut_down(options);
    result
}

/// How long a rank may work on an action.
fn time_limit(cost: Option<Cost>) -> Duration {
    cost.map_or(TIME_MAX_UNKNOWN, |cost| (TIMES_MAX * cost.wall).max(TIME_MAX_LEAST))
}

/// Appears with its content: whoever waits for it never reads half of it.
fn write_ready_file(path: &std::path::Path) -> Result<()> {
    let temporary = path.with_extension("new");
    std::fs::write(&temporary, format!("{}\n", std::process::id()))?;
    std::fs::rename(&temporary, path)?;
    Ok(())
}

impl Dispatcher {
    fn serve(&mut self, signals: &UnixStream) -> Result<()> {
        let mut backoff = Backoff::default();
        let mut beat_at = Instant::now() + BEAT;
        let mut turned = Instant::now();
        while !self.stopping {
            if turned.elapsed() > FROZEN {
                self.thaw()?;
            }
            turned = Instant::now();
            if self.handle_messages()? {
                backoff.reset();
            }
            for rank in self.link.take_failed() {
                self.lose(rank)?;
            }
            if Instant::now() >= beat_at {
                beat_at = Instant::now() + BEAT;
                self.beat()?;
            }
            if self.send_shipments()? {
                backoff.reset();
            }
            self.give_last_frames();
            let unrung = if self.queue.is_empty() && !self.link.busy() { CAP_IDLE } else { CAP_BUSY };
            let mut caps = Caps { in_flight: CAP_IDLE, ..Caps::new(unrung) };
            caps.rung = self.events.look().map_or(caps.rung, |delay| delay.min(caps.rung));
            let mut interest = Interest::default();
            // First: who comes after it must not be taken for one that comes meanwhile.
            self.probes.interest(&mut interest);
            self.clients.interest(&mut interest);
            interest.add(self.toolchains.wake_fd(), false, Token::Wake);
            interest.add(signals.as_raw_fd(), false, Token::Signal);
            self.places.interest(&mut interest);
            self.events.interest(&mut interest);
            self.meter.enter(Part::Wait);
            let ready = self.link.wait(interest, Token::Doorbell, &mut backoff, caps)?;
            self.meter.enter(Part::Rest);
            if !ready.is_empty() {
                backoff.reset();
            }
            for ready in ready {
                self.handle_ready(ready)?;
            }
        }
        Ok(())
    }

    /// Hears which clients have given us up, before anything is done for them: a token is lent for one that has it in use,
    /// or taken for one that takes it itself. What ranks said meanwhile is read in the turns to come.
    fn thaw(&mut self) -> Result<()> {
        self.ranks.pardon(Instant::now());
        self.show_life();
        self.thawing = true;
        let mut interest = Interest::default();
        self.clients.interest(&mut interest);
        for ready in interest.wait(Duration::ZERO)? {
            self.handle_ready(ready)?;
        }
        self.thawing = false;
        Ok(())
    }

    fn handle_ready(&mut self, ready: Ready<Token>) -> Result<()> {
        match ready.token {
            Token::Signal => self.stopping = true,
            // Messages are looked for in every turn.
            Token::Doorbell => {}
            Token::Listener => {
                let before = self.meter.enter(Part::Sockets);
                self.clients.accept();
                self.meter.enter(before);
            }
            Token::Jobserver(jobserver) => self.places.take(jobserver),
            Token::SlotUser(user) => self.places.ended(user),
            Token::Local(action) => self.events.ended(action),
            Token::Probe => self.probes.ended(),
            Token::Wake => {
                for (id, waiting) in self.toolchains.finished() {
                    for action in waiting {
                        self.submit(action, id.clone())?;
                    }
                }
                self.history.keep(self.toolchains.take_used_readings());
            }
            Token::Client(client) => {
                let before = self.meter.enter(Part::Sockets);
                if ready.writable {
                    self.clients.write(client);
                }
                // Its last frame and its end may come together.
                let action = self.clients.action(client);
                let read = ready.readable.then(|| self.clients.read(client));
                self.meter.enter(before);
                if let Some((frames, over)) = read {
                    for frame in frames {
                        match (frame, action) {
                            (ToDispatcher::TakesBack, _) => _ = self.places.forget(client, action),
                            // It has not waited for us to look, and its token is its own.
                            (ToDispatcher::Compile { .. }, _) if over.is_some() => {}
                            (frame, _) => self.handle_frame(client, frame)?,
                        }
                    }
                    if let Some(over) = over {
                        self.places.abandon(client, over.action);
                        if let Some(action) = over.action {
                            if self.actions.remove(&action).is_some() {
                                self.events.abandoned(action);
                            }
                            self.step(Event::Abandoned { action })?;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn handle_frame(&mut self, client: ClientId, frame: ToDispatcher) -> Result<()> {
        match frame {
            ToDispatcher::TakesBack => {}
            ToDispatcher::Hello { .. } => {
                let action = self.new_action();
                self.events.turned_away(action, wire::OTHER_VERSION, self.clients.pid(client));
                self.note_local(wire::OTHER_VERSION.to_owned());
            }
            ToDispatcher::Compile { invocation, place, .. } if invocation.viewpoint != self.viewpoint => {
                let reason = "other-viewpoint".to_owned();
                let action = self.new_action();
                self.events.fell_back(action, &reason, "", &invocation, self.clients.pid(client));
                let last = ToClient::RunLocally { reason: reason.clone(), detail: String::new() };
                match place {
                    Place::Slot(user) => self.places.enter(self.peer(client), user, last),
                    Place::Token(_) | Place::FixedToken(_) => self.clients.send(client, &last, &[]),
                }
                self.note_local(reason);
            }
            ToDispatcher::Compile { invocation, place, lent, only_ranks } => {
                self.tree.ask();
                let action = self.new_action();
                self.events.queued(action);
                if lent {
                    self.places.adopt(action, &place);
                }
                self.actions.insert(
                    action,
                    Action {
                        client,
                        cost: self.history.cost(&invocation),
                        invocation: *invocation,
                        place,
                        only_ranks,
                        toolchain: 0,
                        epoch: 0,
                        running: None,
                        since: None,
                        streamed: false,
                        causes: Vec::new(),
                        sent_bytes: 0,
                    },
                );
                self.clients.set_action(client, Some(action));
                // A script may have nothing for ranks: then nobody needs to know its toolchain.
                if self.queue.is_empty() && self.may_run_here(action) && self.keep_probe(action) {
                    return Ok(());
                }
                let Some(Action { invocation, .. }) = self.actions.get(&action) else { return Ok(()) };
                match self.toolchains.lookup(invocation, action) {
                    Lookup::Pending => {}
                    Lookup::Known(known) => self.submit(action, known)?,
                }
            }
            ToDispatcher::Local(note) => {
                let action = self.new_action();
                self.events.stayed(action, &note, self.clients.pid(client));
                self.note_local(note.reason);
                self.note_client_cpu(note.client_cpu_us);
                if let Some(user) = note.slot {
                    self.places.enter(self.peer(client), user, ToClient::Go);
                }
            }
            ToDispatcher::Enter { step } => {
                self.places.enter(self.peer(client), SlotUser::Step(step), ToClient::Go);
            }
            ToDispatcher::Parallelism { within } => {
                let steps = self.queue.slots().saturating_add(self.places.steps_of_ninja(within));
                self.clients.send(client, &ToClient::Parallelism { steps }, &[]);
            }
            ToDispatcher::Published(cpu) => self.note_client(cpu),
            ToDispatcher::Status => {
                let stats = Box::new(self.stats());
                self.clients.send(client, &ToClient::Status(stats), &[]);
            }
            ToDispatcher::Stop => {
                self.clients.send(client, &ToClient::Stopping, &[]);
                self.stopping = true;
            }
        }
        Ok(())
    }

    fn new_action(&mut self) -> ActionId {
        self.next_action += 1;
        self.next_action - 1
    }

    fn peer(&self, client: ClientId) -> Peer {
        Peer { client, pid: self.clients.pid(client) }
    }

    fn submit(&mut self, action: ActionId, toolchain: toolchains::Known) -> Result<()> {
        let Some(state) = self.actions.get_mut(&action) else { return Ok(()) };
        let toolchain = match toolchain {
            Ok(toolchain) => toolchain,
            Err(reason) => {
                self.run_locally(action, reason);
                return Ok(());
            }
        };
        state.toolchain = toolchain;
        let demand = Demand::of(state.cost.map(|cost| cost.peak_bytes));
        self.step(Event::Submitted { action, toolchain, demand })?;
        let waits = self.queue.rank_of(action).is_none() && self.queue.is_busy();
        if waits && self.may_run_here(action) && self.is_short(action) {
            // It is over sooner here. Without this, a configure script beside a large build would wait for that build's
            // compiles with each of its probes.
            self.step(Event::Abandoned { action })?;
            self.run_locally(action, "short".to_owned());
        }
        Ok(())
    }

    /// Has the action a place here, and may use it?
    fn may_run_here(&self, action: ActionId) -> bool {
        let Some(Action { client, place, only_ranks, .. }) = self.actions.get(&action) else { return false };
        !only_ranks && self.places.is_at_hand(action, self.peer(*client), place)
    }

    /// By what it took last time, or the last source of its name.
    fn is_short(&self, action: ActionId) -> bool {
        let Some(Action { invocation, cost, .. }) = self.actions.get(&action) else { return false };
        cost.map_or_else(|| self.probes.was_short(&Origin::of(invocation).source), |cost| cost.wall <= SHORT)
    }

    /// Runs the action here if it is a probe.
    fn keep_probe(&mut self, action: ActionId) -> bool {
        let Some(Action { client, invocation, .. }) = self.actions.get(&action) else { return false };
        let source = Origin::of(invocation).source;
        let is_kept = self.probes.is_for_here(&source) && self.probes.keep(self.clients.pid(*client), source);
        if is_kept {
            self.run_locally(action, "short".to_owned());
        }
        is_kept
    }

    fn step(&mut self, event: Event) -> Result<()> {
        for command in self.queue.step(event) {
            self.perform(command)?;
        }
        Ok(())
    }

    fn perform(&mut self, command: Command) -> Result<()> {
        match command {
            Command::CheckToolchain { rank, toolchain } => {
                let content = Box::new(self.toolchains.content(toolchain).clone());
                self.tell(rank, &ToRank::Toolchain { id: toolchain, toolchain: content })
            }
            Command::Assign { action, rank } => self.assign(action, rank),
            Command::Cancel { action, rank } => self.tell(rank, &ToRank::Cancel { action }),
            Command::RunLocally { action, reason } => {
                self.run_locally(action, reason);
                Ok(())
            }
            Command::Retried { action } => {
                self.stats.retries += 1;
                let Some(state) = self.actions.get_mut(&action) else { return Ok(()) };
                self.events.retried(action, state.causes.last());
                if std::mem::take(&mut state.streamed) {
                    self.clients.send(state.client, &ToClient::Restart, &[]);
                }
                Ok(())
            }
        }
    }

    fn tell(&mut self, rank: Rank, head: &ToRank) -> Result<()> {
        let before = self.meter.enter(Part::Codec);
        let message = wire::message(head, &[])?;
        self.meter.enter(before);
        self.hand_over(rank, message)
    }

    fn hand_over(&mut self, rank: Rank, message: Vec<u8>) -> Result<()> {
        let before = self.meter.enter(Part::Mpi);
        self.link.send(rank, message)?;
        self.meter.enter(before);
        Ok(())
    }

    fn assign(&mut self, action: ActionId, rank: Rank) -> Result<()> {
        let Some(Action { invocation, toolchain, cost, .. }) = self.actions.get(&action) else { return Ok(()) };
        let (toolchain, cost) = (*toolchain, *cost);
        let environment = self.environments.tell(rank, &invocation.environment);
        let bare = invocation.without_environment();
        let (running, predicted) = self.history.begin(invocation, &mut self.tree);
        self.events.started(action, rank, invocation, running.origin(), cost.map(|cost| cost.wall));
        let sent_before = self.link.bytes().0;
        self.meter.enter(Part::Validate);
        self.tree.reserve(predicted.len());
        let mut valid: Vec<RecordId> = predicted.into_iter().map(|path| self.tree.validate(path)).collect();
        self.meter.enter(Part::Rest);
        let mut records = Vec::new();
        let mut lacking = Lacking::default();
        let (mut told, mut bytes) = (0, 0);
        while told < valid.len() && bytes < wire::RECORDS_BYTES_MAX {
            let record = self.new_record(rank, valid[told], &mut lacking);
            bytes += record.as_ref().map_or(0, Record::bytes_at_most);
            records.extend(record);
            told += 1;
        }
        valid.truncate(told);
        self.provide(rank, lacking)?;
        let epoch = self.tree.epoch();
        let assignment =
            Assignment { action, epoch, toolchain, invocation: bare, environment, records, valid: Ids::of(valid) };
        self.tell(rank, &ToRank::Assign(Box::new(assignment)))?;
        if let Some(state) = self.actions.get_mut(&action) {
            state.epoch = epoch;
            state.running = Some(running);
            state.since = Some(Instant::now());
        }
        self.charge(action, sent_before);
        self.lend(action);
        Ok(())
    }

    /// The action has a slot on a rank, so it needs no place here.
    fn lend(&mut self, action: ActionId) {
        let Some(Action { client, place, .. }) = self.actions.get(&action) else { return };
        let (client, peer) = (*client, self.peer(*client));
        if !self.thawing && self.places.lend(action, peer, place) {
            self.clients.send(client, &ToClient::Lent, &[]);
        }
    }

    fn give_last_frames(&mut self) {
        for (client, last) in self.places.released() {
            let before = self.meter.enter(Part::Sockets);
            self.clients.set_action(client, None);
            self.clients.send(client, &last, &[]);
            self.meter.enter(before);
        }
    }

    /// Books what was sent since `sent_before` to an action.
    fn charge(&mut self, action: ActionId, sent_before: u64) {
        if let Some(state) = self.actions.get_mut(&action) {
            state.sent_bytes += self.link.bytes().0 - sent_before;
        }
    }

    fn run_locally(&mut self, action: ActionId, reason: String) {
        if let Some(Action { client, place, causes, invocation, .. }) = self.actions.remove(&action) {
            let detail = causes.join("; ");
            self.events.fell_back(action, &reason, &detail, &invocation, self.clients.pid(client));
            let last = ToClient::RunLocally { reason: reason.clone(), detail };
            self.places.finish(action, self.peer(client), &place, last);
        }
        self.note_local(reason);
    }

    fn handle_messages(&mut self) -> Result<bool> {
        for handled in 0..MESSAGES_PER_TURN {
            self.meter.enter(Part::Mpi);
            let received = self.link.receive()?;
            let Some((rank, message)) = received else {
                self.meter.enter(Part::Rest);
                return Ok(handled > 0);
            };
            self.meter.enter(Part::Codec);
            let (head, payload) = match wire::take_message(&message) {
                Ok(message) => message,
                Err(error) => {
                    eprintln!("mpicc-proxy-rank: rank {rank} is not to be understood ({error}); it is given up");
                    self.lose(rank)?;
                    continue;
                }
            };
            self.meter.enter(Part::Rest);
            if self.ranks.heard(rank, Instant::now()) {
                self.handle_message(rank, head, payload)?;
            }
        }
        Ok(true)
    }

    fn handle_message(&mut self, rank: Rank, head: FromRank, payload: &[u8]) -> Result<()> {
        match head {
            FromRank::Hello(_) | FromRank::Heartbeat => Ok(()),
            FromRank::Toolchain { id, verdict } => self.settle_toolchain(rank, id, verdict),
            FromRank::Lacks { id, contents } => self.ship(rank, id, &contents),
            FromRank::Ask { action, path, want } => {
                let sent_before = self.link.bytes().0;
                self.answer(rank, action, &path, want)?;
                self.charge(action, sent_before);
                Ok(())
            }
            FromRank::AskBlob { record, epoch, digest } => {
                if epoch == self.tree.epoch() {
                    self.send_contents(rank, &[record])
                } else {
                    self.tell(rank, &ToRank::BlobGone { digest })
                }
            }
            FromRank::Has { contents } => {
                self.ranks.note_contents(rank, contents);
                Ok(())
            }
            FromRank::Room { enough } => self.step(Event::RankRoom { rank, enough }),
            FromRank::Chunk { action, stream } => {
                if self.queue.rank_of(action) == Some(rank) {
                    self.forward(action, stream, payload);
                }
                Ok(())
            }
            FromRank::Done { action, result, used } => {
                if self.queue.rank_of(action) != Some(rank) {
                    return Ok(());
                }
                self.finish(rank, action, result, &used);
                self.step(Event::Finished { action })
            }
            FromRank::Refused { action, reason, detail, retry } => {
                if self.queue.rank_of(action) != Some(rank) {
                    return Ok(());
                }
                eprintln!("mpicc-proxy-rank: rank {rank} refused action {action}: {reason}: {detail}");
                self.note_cause(action, rank, &format!("{reason}: {detail}"));
                self.step(Event::Refused { action, reason, retry })
            }
        }
    }

    fn answer(&mut self, rank: Rank, action: ActionId, path: &[u8], want: Want) -> Result<()> {
        self.stats.misses += 1;
        self.tree.ask();
        let path_id = self.tree.path_id(path);
        if want != Want::Record {
            self.tree.mark_opened(path_id);
        }
        let running = self.actions.get_mut(&action).and_then(|action| action.running.as_mut());
        let carried = running.map(|running| self.history.asked(running, path_id, &mut self.tree)).unwrap_or_default();
        self.tree.reserve(1 + carried.len());
        let before = self.meter.enter(Part::Validate);
        let id = self.tree.validate(path_id);
        let valid: Vec<RecordId> = carried.into_iter().map(|path| self.tree.validate(path)).collect();
        self.meter.enter(before);
        let epoch = self.tree.epoch();
        let mut lacking = Lacking::default();
        let records = valid.iter().filter_map(|id| self.new_record(rank, *id, &mut lacking)).collect();
        let also = Also { records, valid };
        let record = self.new_record(rank, id, &mut lacking).map(Box::new);
        self.provide(rank, lacking)?;
        self.tell(rank, &ToRank::Answer { action, epoch, path: path.to_vec(), id, record, also })
    }

    /// A record for a rank that does not have it yet; `lacking` gets it too if its host lacks the content.
    fn new_record(&mut self, rank: Rank, id: RecordId, lacking: &mut Lacking) -> Option<Record> {
        if !self.ranks.needs_record(rank, self.tree.epoch(), id) {
            return None;
        }
        let record = (**self.tree.record(id)?).clone();
        if let Some(digest) = record.digest {
            match self.ranks.source_of(rank, digest) {
                Some(Source::Head) => lacking.to_send.push(id),
                Some(Source::Peer(peer)) => lacking.to_fetch.entry(peer).or_default().push(digest),
                None => {}
            }
        }
        Some(record)
    }

    /// Sends what a rank's host lacks, or says who has it.
    fn provide(&mut self, rank: Rank, lacking: Lacking) -> Result<()> {
        self.send_contents(rank, &lacking.to_send)?;
        for (from, contents) in lacking.to_fetch {
            let bell = self.link.bell_of(from);
            self.tell(rank, &ToRank::Fetch { from, bell, contents })?;
        }
        Ok(())
    }

    fn settle_toolchain(&mut self, rank: Rank, id: ToolchainId, verdict: Result<(), Unfit>) -> Result<()> {
        let again = self.shipments.settled(self.ranks.host(rank), rank, id);
        self.look_again(again)?;
        let verdict = verdict.map_err(|Unfit { reason, detail }| {
            eprintln!("mpicc-proxy-rank: rank {rank} cannot use a toolchain: {reason}: {detail}");
            reason
        });
        self.step(Event::ToolchainChecked { rank, toolchain: id, verdict })
    }

    fn ship(&mut self, rank: Rank, id: ToolchainId, contents: &[Digest]) -> Result<()> {
        self.step(Event::ToolchainLacking { rank, toolchain: id })?;
        let mut lacking = Lacking::default();
        let mut to_ship = Vec::new();
        for digest in contents {
            match self.ranks.source_of(rank, *digest) {
                Some(Source::Peer(peer)) => lacking.to_fetch.entry(peer).or_default().push(*digest),
                // Also what the host was told of before, and still lacks.
                Some(Source::Head) | None => to_ship.push(*digest),
            }
        }
        self.provide(rank, lacking)?;
        let files = self.toolchains.files_with(id, &to_ship);
        if self.shipments.lacks(self.ranks.host(rank), rank, id, files) {
            return Ok(());
        }
        let detail = "its contents were sent, and are not there".to_owned();
        self.settle_toolchain(rank, id, Err(Unfit { reason: "toolchain-store".to_owned(), detail }))
    }

    /// Sends on what hosts lack of toolchains, as far as the fabric has room.
    fn send_shipments(&mut self) -> Result<bool> {
        let mut any = false;
        loop {
            let link = &self.link;
            let has_room = |rank| link.in_flight_bytes(rank) < wire::IN_FLIGHT_BYTES_MAX;
            let parts = self.shipments.next_parts(has_room);
            if parts.is_empty() {
                return Ok(any);
            }
            any = true;
            for (rank, head, part) in parts {
                self.link.send(rank, wire::message(&head, &part)?)?;
            }
        }
    }

    fn look_again(&mut self, ranks: Vec<(Rank, ToolchainId)>) -> Result<()> {
        for (rank, id) in ranks {
            self.tell(rank, &ToRank::Shipped { id })?;
        }
        Ok(())
    }

    /// Sends the contents of records, ahead of the records: small ones together, large ones in parts.
    fn send_contents(&mut self, rank: Rank, ids: &[RecordId]) -> Result<()> {
        let mut batch = Batch::default();
        for id in ids {
            let Some(digest) = self.tree.record(*id).and_then(|record| record.digest) else { continue };
            match self.tree.content(*id) {
                Ok(content) => {
                    for message in batch.add(digest, &content)? {
                        self.hand_over(rank, message)?;
                    }
                }
                Err(_) => self.tell(rank, &ToRank::BlobGone { digest })?,
            }
        }
        for message in batch.finish()? {
            self.hand_over(rank, message)?;
        }
        Ok(())
    }

    fn forward(&mut self, action: ActionId, stream: Stream, payload: &[u8]) {
        if let Some(action) = self.actions.get_mut(&action) {
            action.streamed = true;
            let before = self.meter.enter(Part::Sockets);
            self.clients.send(action.client, &ToClient::Chunk { stream }, payload);
            self.meter.enter(before);
        }
    }

    fn finish(&mut self, rank: Rank, action: ActionId, result: ActionResult, used: &Ids) {
        self.stats.actions.remote += 1;
        if result.exit != Exit::Code(0) {
            self.stats.actions.failed += 1;
        }
        self.ranks.note_finished(rank, result.cpu_us);
        let Some(state) = self.actions.remove(&action) else { return };
        if let (Exit::Code(0), Some(running), Some(since)) = (result.exit, &state.running, state.since) {
            let wall = since.elapsed();
            self.probes.note(&running.origin().source, wall);
            self.history.learn_cost(running, Cost { peak_bytes: result.peak_bytes, wall });
        }
        self.events.finished(action, &result, state.sent_bytes);
        self.figures.note_action(ActionFigures { misses: result.misses, sent_bytes: state.sent_bytes });
        if state.epoch == self.tree.epoch()
            && let Some(running) = &state.running
            && let Some(used) = used.list()
        {
            let paths: Vec<_> = used.into_iter().filter_map(|id| self.tree.path_of(id)).collect();
            self.history.learn(running, &paths, &self.tree);
        }
        self.places.finish(action, self.peer(state.client), &state.place, ToClient::Done(result));
    }

    fn beat(&mut self) -> Result<()> {
        for rank in self.ranks.silent(Instant::now()) {
            eprintln!("mpicc-proxy-rank: rank {rank} gave no sign of life for {} s; it is lost", SILENCE_MAX.as_secs());
            self.lose(rank)?;
        }
        self.give_up_endless()?;
        for rank in self.ranks.alive() {
            if self.link.is_silent_to(rank, wire::SILENCE) {
                self.tell(rank, &ToRank::Heartbeat)?;
            }
        }
        if self.showed_life.elapsed() >= wire::SIGN_OF_LIFE {
            self.show_life();
        }
        if self.events.is_time_to_count() {
            self.events.count(&self.stats());
        }
        Ok(())
    }

    /// Why a rank did not carry out an action, for those who ask why it ran locally in the end.
    fn note_cause(&mut self, action: ActionId, rank: Rank, why: &str) {
        if let Some(action) = self.actions.get_mut(&action) {
            action.causes.push(format!("rank {rank} on {}: {why}", self.ranks.host(rank)));
        }
    }

    /// Are all workers lost, so that this dispatcher ends for another to come?
    fn is_forsaken(&self) -> bool {
        self.returns && self.ranks.alive().is_empty()
    }

    fn lose(&mut self, rank: Rank) -> Result<()> {
        let of_it = |action: &&ActionId| self.queue.rank_of(**action) == Some(rank);
        let lost: Vec<ActionId> = self.actions.keys().filter(of_it).copied().collect();
        for action in lost {
            self.note_cause(action, rank, "lost");
        }
        self.ranks.lose(rank);
        self.events.lost(rank);
        if self.is_forsaken() {
            eprintln!("mpicc-proxy-rank: all workers are lost; rank 0 ends, so that ranks are started again");
            self.stopping = true;
            return Ok(());
        }
        let again = self.shipments.lost(rank);
        self.look_again(again)?;
        self.link.forget(rank);
        self.step(Event::RankLost { rank })
    }

    /// A compile that takes far too long hangs: another rank may do better, and if not, it hangs where the user sees it.
    fn give_up_endless(&mut self) -> Result<()> {
        let is_endless = |action: &Action| action.since.is_some_and(|since| since.elapsed() > time_limit(action.cost));
        let endless: Vec<ActionId> =
            self.actions.iter().filter(|(_, action)| is_endless(action)).map(|(id, _)| *id).collect();
        for action in endless {
            let Some(rank) = self.queue.rank_of(action) else { continue };
            let limit_s = time_limit(self.actions[&action].cost).as_secs();
            eprintln!(
                "mpicc-proxy-rank: rank {rank} worked on action {action} for more than {limit_s} s; it is given up"
            );
            self.tell(rank, &ToRank::Cancel { action })?;
            self.note_cause(action, rank, &format!("more than {limit_s} s"));
            self.step(Event::Refused { action, reason: "timeout".to_owned(), retry: true })?;
        }
        Ok(())
    }

    /// To all that wait.
    fn show_life(&mut self) {
        self.showed_life = Instant::now();
        let _ = std::fs::remove_file(&self.silence_mark);
        let compiling = self.actions.values().map(|action| action.client);
        for client in compiling.chain(self.places.waiting()) {
            self.clients.send(client, &ToClient::Heartbeat, &[]);
        }
    }

    fn note_local(&mut self, reason: String) {
        self.stats.actions.local += 1;
        figures::count(&mut self.stats.local_reasons, reason);
    }

    fn note_client_cpu(&mut self, us: u64) {
        self.stats.client_cpu_s += us as f64 / 1e6;
    }

    fn note_client(&mut self, cpu: ClientCpu) {
        let ClientCpu { start_us, parse_us, ask_us, wait_us, publish_us } = cpu;
        let parts = [start_us, parse_us, ask_us, wait_us, publish_us];
        for (us, name) in parts.into_iter().zip(["start", "parse", "ask", "wait", "publish"]) {
            *self.stats.client_cpu_parts_s.entry(name.to_owned()).or_default() += us as f64 / 1e6;
        }
        let us = parts.into_iter().fold(0, u64::saturating_add);
        self.figures.note_client(us);
        self.note_client_cpu(us);
    }

    fn stats(&self) -> Stats {
        let (bytes_to_workers, bytes_from_workers) = self.link.bytes();
        let ranks = self.ranks.stats();
        let (tokens, local_slots) = self.places.counts();
        let cpu_us = rusage::own_cpu_us() - self.cpu_at_start_us;
        Stats {
            wall_s: self.started.elapsed().as_secs_f64(),
            compile_cpu_s: ranks.iter().map(|rank| rank.cpu_s).sum(),
            ranks,
            tokens,
            local_slots,
            dispatcher_cpu_s: cpu_us as f64 / 1e6,
            dispatcher_cpu_parts_s: self.meter.seconds(cpu_us),
            per_action: self.figures.per_action(),
            bytes_to_workers,
            bytes_from_workers,
            ..self.stats.clone()
        }
    }

    /// Tells everybody to go and leaves MPI. A rank that died can make MPI wait forever, hence the watchdog.
    fn shut_down(mut self, options: &Options) {
        let is_forsaken = self.is_forsaken();
        let last = self.stats();
        // Those of a forsaken dispatcher wait for the next one.
        let to_run_locally = if is_forsaken { Default::default() } else { std::mem::take(&mut self.actions) };
        for (id, action) in to_run_locally {
            // Who lent a token takes it back itself when the connection ends.
            if !self.places.is_token_lent(id) {
                let reason = "dispatcher-stopped".to_owned();
                self.clients.send(action.client, &ToClient::RunLocally { reason, detail: String::new() }, &[]);
            }
        }
        self.events.close(&last);
        self.clients.close();
        self.history.close();
        if is_forsaken {
            // MPI might wait for the dead.
            std::process::exit(1);
        }
        if let Some(path) = &options.ready_file {
            let _ = std::fs::remove_file(path);
        }
        crate::watchdog::exit_after(PATIENCE * 2, 0);
        dismiss(self.link, self.ranks.alive());
    }
}

/// Tells ranks to go and leaves MPI.
fn dismiss(mut link: Link, ranks: impl IntoIterator<Item = Rank>) {
    let size = link.size();
    for rank in ranks.into_iter().take_while(|rank| *rank < size) {
        if let Ok(message) = wire::message(&ToRank::Stop, &[]) {
            let _ = link.send(rank, message);
        }
    }
    let deadline = Instant::now() + PATIENCE;
    link.ring();
    while link.busy() && Instant::now() < deadline {
        let _ = link.receive();
        std::thread::sleep(Duration::from_millis(1));
    }
    link.finish();
}
