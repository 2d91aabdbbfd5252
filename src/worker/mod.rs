//! A worker rank: runs drivers for rank 0 under the preload library and answers what their processes ask about the
//! head's tree. One thread, one loop; it never blocks in MPI, and the compilers get the CPU.

mod complaint;
mod home;
mod joining;
mod memory;
mod peers;
pub mod probe;
mod questions;
mod run;
mod space;
mod store;
mod task;
mod toolchain;

use crate::batch::Batch;
use crate::event::{Backoff, CAP_BUSY, CAP_IDLE, CAP_RUNG, CAP_URGENT, Caps, Interest};
use crate::ids::Ids;
use crate::link::Link;
use crate::size::Size;
use crate::wire::{
    self, ActionId, Also, Assignment, BEAT, Bytes, Digest, ENVIRONMENTS_KEPT, FromRank, Record, RecordId, Stream,
    ToRank, ToolchainId, Want,
};
use anyhow::{Context, Result, bail};
use home::{Home, Session};
use joining::{leave, own_facts, welcome, without_room};
use memory::TableMemory;
use mpicc_proxy_abi::table::hash_path;
use peers::{Needing, Peers, Sending};
use questions::{Question, Questions};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};
use store::Store;
use task::{Finished, Refusal, Task};
use toolchain::{Answer, Toolchains};

/// Rank 0 silent for this long: the job is over. As long as rank 0 waits for a worker.
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// Time between two looks at the free space while compiles run: at least, and at most.
const LOOK_AT_SPACE: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(250)];

/// MPI messages handled in one turn, so that compilers that ask are not starved.
const MESSAGES_PER_TURN: usize = 64;

/// What `mpicc-proxy-rank` is told on its command line, as far as a worker needs it.
#[derive(Clone, Debug)]
pub struct Options {
    pub slots: Option<u32>,
    /// Limit of the content store.
    pub store_bytes: Option<Size>,
    /// The preload library.
    pub library: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Signal,
    Doorbell,
    Listener,
    Asker(u64),
    Output(ActionId, bool),
    Ended(ActionId),
}

/// The table of an epoch, with what is needed to answer from it.
struct Epoch {
    memory: TableMemory,
    /// Contents of records: who is waiting for a content is found by its digest.
    by_digest: HashMap<Digest, Vec<RecordId>>,
    digests: HashMap<RecordId, Digest>,
}

struct Worker {
    link: Link,
    session: Session,
    options: Options,
    questions: Questions,
    peers: Peers,
    /// Toolchains whose contents were sent, except for those that peers still bring.
    shipped: Vec<ToolchainId>,
    epoch: u32,
    tables: BTreeMap<u32, Rc<RefCell<Epoch>>>,
    toolchains: Toolchains,
    /// Those that rank 0 put here.
    environments: [Vec<Bytes>; ENVIRONMENTS_KEPT],
    tasks: BTreeMap<ActionId, Task>,
    next_task: u32,
    heard: Instant,
    launcher: nix::unistd::Pid,
    stopping: bool,
    /// What rank 0 was told last: there is room for compiles.
    roomy: bool,
    // Last, so that its folder goes after everything that lies in it.
    store: Store,
}

/// Runs a worker rank until rank 0 says stop, falls silent, or the launcher is gone.
///
/// # Errors
/// MPI fails.
pub fn run(mut link: Link, options: Options) -> Result<()> {
    if !options.library.is_file() {
        bail!("the preload library {} is missing; install it beside the programs", options.library.display());
    }
    let signals = crate::event::signal_stream(&[libc::SIGTERM, libc::SIGINT, libc::SIGHUP])?;
    link.send(0, wire::message(&FromRank::Hello(own_facts(options.slots)?), &[])?)?;
    let Some(session) = welcome(&mut link, &signals)? else { return Ok(()) };
    let (store, questions) = match settle(Home::open(&session, link.rank()), &options) {
        Ok(settled) => settled,
        Err(error) => return without_room(link, &signals, &format!("{error:#}")),
    };
    let toolchains = Toolchains::new(&session, link.rank());
    let mut worker = Worker {
        link,
        session,
        options,
        questions,
        peers: Peers::default(),
        shipped: Vec::new(),
        epoch: 0,
        tables: BTreeMap::new(),
        toolchains,
        environments: Default::default(),
        tasks: BTreeMap::new(),
        next_task: 1,
        heard: Instant::now(),
        launcher: nix::unistd::getppid(),
        stopping: false,
        roomy: true,
        store,
    };
    let contents = worker.store.list();
    if !contents.is_empty() {
        worker.tell(&FromRank::Has { contents })?;
    }
    let result = worker.serve(&signals);
    worker.shut_down();
    result
}

/// Makes of a folder what a rank needs.
fn settle(home: Result<Home>, options: &Options) -> Result<(Store, Questions)> {
    let store = Store::new(home?, options.store_bytes.map(Size::bytes));
    let questions = Questions::listen(&store.home().rank_folder().join("q"))?;
    Ok((store, questions))
}

impl From<anyhow::Error> for Refusal {
    /// Another host may do better.
    fn from(error: anyhow::Error) -> Refusal {
        let is_full = error.root_cause().downcast_ref().is_some_and(store::is_full);
        let reason = if is_full { "store-full" } else { "rank-trouble" };
        Refusal { reason, detail: format!("{error:#}"), retry: true }
    }
}

fn toolchain_changed() -> Refusal {
    let detail = "the compiler of this host is no longer the head's".to_owned();
    Refusal { reason: "toolchain-changed", detail, retry: true }
}

impl Worker {
    fn serve(&mut self, signals: &UnixStream) -> Result<()> {
        let mut backoff = Backoff::default();
        let mut beat_at = Instant::now() + BEAT;
        let mut look_at = Instant::now();
        while !self.stopping {
            if self.handle_messages()? {
                backoff.reset();
            }
            if Instant::now() >= beat_at {
                beat_at = Instant::now() + BEAT;
                self.beat()?;
            }
            if !self.tasks.is_empty() && Instant::now() >= look_at {
                look_at = Instant::now() + LOOK_AT_SPACE[0];
                self.look_at_space();
            }
            if (self.peers.is_busy() || !self.shipped.is_empty()) && self.mind_peers()? {
                backoff.reset();
            }
            let unrung = if self.questions.any_open() || self.link.busy() {
                CAP_URGENT
            } else if self.tasks.is_empty() {
                CAP_IDLE
            } else {
                CAP_BUSY
            };
            let rung = if self.tasks.is_empty() { CAP_RUNG } else { LOOK_AT_SPACE[1] };
            let mut interest = Interest::default();
            interest.add(signals.as_raw_fd(), false, Token::Signal);
            self.questions.interest(&mut interest, Token::Listener, Token::Asker);
            for (action, task) in &self.tasks {
                task.interest(&mut interest, Token::Ended(*action), |is_stderr| Token::Output(*action, is_stderr));
            }
            self.link.expect(self.peers.is_busy());
            let ready = self.link.wait(interest, Token::Doorbell, &mut backoff, Caps { rung, ..Caps::new(unrung) })?;
            if !ready.is_empty() {
                backoff.reset();
            }
            for ready in ready {
                self.handle_ready(ready.token)?;
            }
        }
        Ok(())
    }

    fn beat(&mut self) -> Result<()> {
        let has_failed = self.link.take_failed().contains(&0);
        if has_failed || self.heard.elapsed() > SILENCE_MAX || nix::unistd::getppid() != self.launcher {
            self.stopping = true;
        }
        self.find_room()?;
        if self.link.is_silent_to(0, wire::SILENCE) { self.tell(&FromRank::Heartbeat) } else { Ok(()) }
    }

    /// Tells rank 0 when the room for compiles is used up or there again. An idle rank without room moves to a better
    /// place if there is one.
    fn find_room(&mut self) -> Result<()> {
        let is_roomy = |worker: &Worker| worker.store.home().free_bytes() >= space::FREE_BYTES_MIN;
        if !is_roomy(self)
            && self.tasks.is_empty()
            && let Some(base) = self.store.home().better_base()
            && let Ok((store, questions)) =
                settle(Home::open_in(&[base], &self.session, self.link.rank()), &self.options)
        {
            // Tables still say that contents are here; compiles that do not find one ask again.
            (self.store, self.questions) = (store, questions);
            for id in self.toolchains.store_moved() {
                let answer = self.toolchains.look(id, &mut self.store);
                self.answer_toolchain(id, answer)?;
            }
        }
        let roomy = is_roomy(self);
        if roomy != self.roomy {
            self.roomy = roomy;
            self.tell(&FromRank::Room { enough: roomy })?;
        }
        Ok(())
    }

    fn look_at_space(&mut self) {
        let free_bytes = self.store.home().free_bytes();
        for task in self.tasks.values_mut() {
            task.note_free(free_bytes);
        }
    }

    fn tell(&mut self, head: &FromRank) -> Result<()> {
        self.link.send(0, wire::message(head, &[])?)?;
        Ok(())
    }

    fn refuse(&mut self, action: ActionId, reason: &str, detail: String, retry: bool) -> Result<()> {
        if let Some(task) = self.tasks.remove(&action) {
            self.questions.forget(task.number());
        }
        self.tell(&FromRank::Refused { action, reason: reason.to_owned(), detail, retry })
    }

    fn handle_messages(&mut self) -> Result<bool> {
        for handled in 0..MESSAGES_PER_TURN {
            let Some((from, message)) = self.link.receive()? else { return Ok(handled > 0) };
            let (head, payload) = wire::take_message(&message)?;
            if from == 0 {
                self.heard = Instant::now();
                self.handle_message(head, payload)?;
            } else {
                self.handle_peer(from, head, payload)?;
            }
        }
        Ok(true)
    }

    /// Other ranks bring contents and want some, and nothing else.
    fn handle_peer(&mut self, from: i32, head: ToRank, payload: &[u8]) -> Result<()> {
        let now = Instant::now();
        self.peers.hear(from, now);
        match head {
            ToRank::Bring { contents } => {
                for digest in contents {
                    let is_here = self.store.find(&digest);
                    self.peers.owe(from, digest, is_here, now);
                }
                Ok(())
            }
            ToRank::Blob { .. } | ToRank::Blobs { .. } => self.handle_message(head, payload),
            ToRank::BlobGone { digest } => match self.peers.gone(&digest) {
                Some(needing) => self.ask_content(digest, needing),
                None => Ok(()),
            },
            other => bail!("rank {from} sent {other:?}"),
        }
    }

    /// Sends peers what they wait for, as far as the fabric has room, and gives up what does not come. `true`:
    /// something was done.
    fn mind_peers(&mut self) -> Result<bool> {
        let now = Instant::now();
        let mut any = false;
        for (digest, needing) in self.peers.overdue(now) {
            any = true;
            self.ask_content(digest, needing)?;
        }
        self.look_at_shipped()?;
        for (to, digest) in self.peers.hopeless(now, self.toolchains.is_any_lacking()) {
            any = true;
            // Another rank of this host may have brought it; if not, it cannot be read.
            self.peers.owe(to, digest, true, now);
        }
        let mut batches: BTreeMap<i32, Batch> = BTreeMap::new();
        loop {
            let link = &self.link;
            let batched = |to: i32| batches.get(&to).map_or(0, Batch::bytes);
            let has_room = |to| link.in_flight_bytes(to) + batched(to) < wire::IN_FLIGHT_BYTES_MAX;
            let Some(sending) = self.peers.next_to_send(has_room) else { break };
            any = true;
            let Sending { to, digest, at } = sending;
            match self.store.read(&digest, at, wire::PAYLOAD_BYTES_MAX) {
                Ok(part) if part.len() as u64 == digest.bytes => {
                    for message in batches.entry(to).or_default().add(digest, &part)? {
                        self.link.send(to, message)?;
                    }
                }
                Ok(part) => {
                    let end = at + part.len() as u64;
                    self.link.send(to, wire::message(&ToRank::Blob { digest, at }, &part)?)?;
                    if end < digest.bytes {
                        self.peers.go_on(Sending { at: end, ..sending });
                    }
                }
                Err(_) => self.link.send(to, wire::message(&ToRank::BlobGone { digest }, &[])?)?,
            }
        }
        for (to, mut batch) in batches {
            for message in batch.finish()? {
                self.link.send(to, message)?;
            }
        }
        Ok(any)
    }

    fn fetch(&mut self, from: i32, bell: &[u8], mut contents: Vec<Digest>) -> Result<()> {
        contents.retain(|digest| !self.store.has(digest));
        if contents.is_empty() {
            return Ok(());
        }
        self.peers.fetch(from, &contents, Instant::now());
        self.link.introduce(from, bell);
        self.link.send(from, wire::message(&ToRank::Bring { contents }, &[])?)?;
        Ok(())
    }

    fn handle_message(&mut self, head: ToRank, payload: &[u8]) -> Result<()> {
        match head {
            ToRank::Welcome { .. } | ToRank::Heartbeat => {}
            ToRank::Toolchain { id, toolchain } => {
                let answer = self.toolchains.ask(id, *toolchain, &mut self.store);
                self.answer_toolchain(id, answer)?;
            }
            ToRank::Shipped { id } => self.shipped.push(id),
            ToRank::Assign(assignment) => {
                let action = assignment.action;
                if let Err(refusal) = self.begin(*assignment) {
                    self.refuse(action, refusal.reason, refusal.detail, refusal.retry)?;
                }
            }
            ToRank::Cancel { action } => {
                if let Some(task) = self.tasks.remove(&action) {
                    self.questions.forget(task.number());
                }
            }
            ToRank::Answer { action, epoch, path, id, record, also } => {
                self.handle_answer(action, epoch, &path, id, record.as_deref(), &also)?;
            }
            ToRank::Blob { digest, at } => self.receive(digest, at, payload)?,
            ToRank::Blobs { digests } => {
                let mut rest = payload;
                for digest in digests {
                    let (content, behind) =
                        rest.split_at_checked(digest.bytes as usize).context("contents cut short")?;
                    self.receive(digest, 0, content)?;
                    rest = behind;
                }
            }
            ToRank::BlobGone { digest } => self.content_arrived(digest, false),
            ToRank::Fetch { from, bell, contents } => self.fetch(from, &bell, contents)?,
            ToRank::Bring { .. } => bail!("rank 0 wants contents"),
            ToRank::Stop => {
                self.session.end();
                self.stopping = true;
            }
        }
        Ok(())
    }

    fn look_at_shipped(&mut self) -> Result<()> {
        if self.peers.is_fetching() {
            return Ok(());
        }
        for id in std::mem::take(&mut self.shipped) {
            let answer = self.toolchains.look(id, &mut self.store);
            self.answer_toolchain(id, answer)?;
        }
        Ok(())
    }

    fn answer_toolchain(&mut self, id: ToolchainId, answer: Answer) -> Result<()> {
        self.tell(&match answer {
            Answer::Fit => FromRank::Toolchain { id, verdict: Ok(()) },
            Answer::Unfit(unfit) => FromRank::Toolchain { id, verdict: Err(unfit) },
            Answer::Lacks(contents) => FromRank::Lacks { id, contents },
        })
    }

    fn receive(&mut self, digest: Digest, at: u64, part: &[u8]) -> Result<()> {
        match self.store.receive(digest, at, part) {
            Ok(true) => self.content_arrived(digest, true),
            Ok(false) => {}
            Err(error) => {
                eprintln!("mpicc-proxy-rank: the content store refuses a content: {error}");
                let reason = if store::is_full(&error) { "store-full" } else { "rank-trouble" };
                for number in self.questions.tasks_awaiting(digest) {
                    let waits = |(_, task): &(&ActionId, &Task)| task.number() == number;
                    if let Some(action) = self.tasks.iter().find(waits).map(|(action, _)| *action) {
                        self.refuse(action, reason, error.to_string(), true)?;
                    }
                }
                self.content_arrived(digest, false);
            }
        }
        Ok(())
    }

    /// The tables of `epoch`; a new epoch makes the older ones, which only running tasks need, unreachable.
    fn enter(&mut self, epoch: u32) -> Result<Rc<RefCell<Epoch>>> {
        if epoch > self.epoch {
            let memory = TableMemory::new()?;
            let fresh = Epoch { memory, by_digest: HashMap::new(), digests: HashMap::new() };
            self.tables.clear();
            self.tables.insert(epoch, Rc::new(RefCell::new(fresh)));
            self.epoch = epoch;
        }
        self.tables.get(&epoch).cloned().with_context(|| format!("epoch {epoch} is over"))
    }

    fn publish(&mut self, epoch: &mut Epoch, record: &Record) -> Result<()> {
        let has_content = record.digest.is_some_and(|digest| self.store.has(&digest));
        if !epoch.memory.publish(record, has_content) {
            bail!("the table has no room for record {}", record.id);
        }
        if let Some(digest) = record.digest {
            epoch.digests.insert(record.id, digest);
            epoch.by_digest.entry(digest).or_default().push(record.id);
        }
        Ok(())
    }

    fn begin(&mut self, mut assignment: Assignment) -> Result<(), Refusal> {
        let environment = assignment.environment;
        let slot =
            self.environments.get_mut(usize::from(environment.slot)).context("an environment beyond all slots")?;
        // Kept whatever becomes of this action, as the records are: rank 0 believes them to be here from now on.
        if let Some(entries) = environment.entries {
            *slot = entries;
        }
        assignment.invocation.environment.clone_from(slot);
        let valid = assignment.valid.list().context("a malformed set of ids")?;
        let shared = self.enter(assignment.epoch)?;
        let mut epoch = shared.borrow_mut();
        for record in &assignment.records {
            self.publish(&mut epoch, record)?;
        }
        let free_bytes = self.store.home().free_bytes();
        if free_bytes < space::FREE_BYTES_MIN {
            // Rank 0 hears of it with the next heartbeat at the latest.
            return Err(anyhow::Error::from(io::Error::from(nix::errno::Errno::ENOSPC)).into());
        }
        // Others on this host may evict what nobody uses.
        for digest in valid.iter().filter_map(|id| epoch.digests.get(id)) {
            self.store.has(digest);
        }
        let number = self.next_task;
        self.next_task = self.next_task.wrapping_add(1).max(1);
        self.look_again(assignment.toolchain)?;
        let toolchain = self.toolchains.get(assignment.toolchain).context("an action came before its toolchain")?;
        if toolchain.lacks_locale(&assignment.invocation.environment) {
            let detail = "the head's locale archive is not this host's".to_owned();
            return Err(Refusal { reason: "locale-archive", detail, retry: true });
        }
        let task = Task::start(&task::Start {
            number,
            epoch: assignment.epoch,
            invocation: &assignment.invocation,
            toolchain,
            toolchain_id: assignment.toolchain,
            rank_folder: self.store.home().rank_folder(),
            store: &self.store.home().contents(),
            socket: self.questions.path(),
            library: &self.options.library,
            table_fd: epoch.memory.fd(),
            valid: &valid,
            free_bytes,
        })?;
        self.tasks.insert(assignment.action, task);
        Ok(())
    }

    /// A compile believes this host's own programs as long as they are what they were when they were compared with the
    /// head's: before it starts, and when it is over.
    fn look_again(&mut self, id: ToolchainId) -> Result<(), Refusal> {
        match self.toolchains.look_again(id, &mut self.store) {
            None | Some(Answer::Fit) => Ok(()),
            Some(answer) => {
                self.answer_toolchain(id, answer)?;
                Err(toolchain_changed())
            }
        }
    }

    /// Another compile may have noticed that they changed, and have had them replaced, while this one ran.
    fn still_runs(&mut self, (id, generation): (ToolchainId, u64)) -> Result<(), Refusal> {
        self.look_again(id)?;
        let is_same = self.toolchains.get(id).is_some_and(|usable| usable.generation == generation);
        if is_same { Ok(()) } else { Err(toolchain_changed()) }
    }

    fn handle_answer(
        &mut self,
        action: ActionId,
        epoch: u32,
        path: &[u8],
        id: RecordId,
        record: Option<&Record>,
        also: &Also,
    ) -> Result<()> {
        let shared = match self.enter(epoch) {
            Ok(shared) => shared,
            Err(error) => return self.refuse(action, "epoch-over", error.to_string(), true),
        };
        for record in record.into_iter().chain(&also.records) {
            let published = self.publish(&mut shared.borrow_mut(), record);
            if let Err(error) = published {
                return self.refuse(action, "table-full", error.to_string(), true);
            }
        }
        let Some(task) = self.tasks.get_mut(&action) else { return Ok(()) };
        if task.epoch() != epoch {
            return self.refuse(action, "epoch-over", "a new epoch began while it ran".to_owned(), true);
        }
        for id in also.valid.iter().copied().chain([id]) {
            task.page().set_valid(id);
        }
        let number = task.number();
        let digest = shared.borrow().digests.get(&id).copied();
        match digest {
            Some(digest) if !self.store.has(&digest) => {
                self.questions.answer(number, path, |want| want == Want::Record, true);
                self.await_content(number, path, digest, (id, epoch)).map(drop)
            }
            Some(_) => {
                shared.borrow().memory.content_arrived(id);
                self.questions.answer(number, path, |_| true, true);
                Ok(())
            }
            None => {
                self.questions.answer(number, path, |_| true, true);
                Ok(())
            }
        }
    }

    /// Asks rank 0 for a content unless it is on its way already; its askers are answered when it is here. `true`:
    /// rank 0 was asked.
    fn await_content(&mut self, task: u32, path: &[u8], digest: Digest, needing: Needing) -> Result<bool> {
        let is_new = self.questions.await_content(task, path, digest);
        let asks = !self.peers.awaits(&digest, needing) && is_new;
        if asks {
            self.ask_content(digest, needing)?;
        }
        Ok(asks)
    }

    fn ask_content(&mut self, digest: Digest, (record, epoch): Needing) -> Result<()> {
        self.tell(&FromRank::AskBlob { record, epoch, digest })
    }

    /// A content is here (or will never be): entries say so, and whoever waited goes on.
    fn content_arrived(&mut self, digest: Digest, here: bool) {
        if here {
            self.peers.arrived(&digest);
            for shared in self.tables.values() {
                let epoch = shared.borrow();
                for id in epoch.by_digest.get(&digest).into_iter().flatten() {
                    epoch.memory.content_arrived(*id);
                }
            }
        }
        self.questions.answer_content(digest, here);
    }

    fn handle_ready(&mut self, token: Token) -> Result<()> {
        match token {
            Token::Signal => self.stopping = true,
            // Messages are looked for in every turn.
            Token::Doorbell => {}
            Token::Listener => self.questions.accept(),
            Token::Asker(asker) => {
                if let Some(question) = self.questions.read(asker) {
                    self.handle_question(&question)?;
                }
            }
            Token::Output(action, is_stderr) => {
                if let Some(task) = self.tasks.get_mut(&action) {
                    task.read_output(is_stderr);
                }
                self.finish_if_over(action)?;
            }
            Token::Ended(action) => {
                if let Some(task) = self.tasks.get_mut(&action) {
                    task.note_end()?;
                }
                self.finish_if_over(action)?;
            }
        }
        Ok(())
    }

    fn handle_question(&mut self, question: &Question) -> Result<()> {
        let Some((action, task)) = self.tasks.iter_mut().find(|(_, task)| task.number() == question.task) else {
            self.questions.answer(question.task, &question.path, |_| true, false);
            return Ok(());
        };
        let (action, epoch_number) = (*action, task.epoch());
        if question.want != Want::Record
            && let Some(shared) = self.tables.get(&epoch_number).cloned()
        {
            // A record this task may believe, whose content is merely not here yet.
            let epoch = shared.borrow();
            let table = epoch.memory.table();
            let page = task.page();
            let known = table.find(&question.path, hash_path(&question.path)).find(|(id, _)| page.is_valid(*id));
            if let Some((id, _)) = known
                && let Some(digest) = epoch.digests.get(&id).copied()
            {
                drop(epoch);
                if self.store.find(&digest) {
                    self.content_arrived(digest, true);
                    self.questions.answer(question.task, &question.path, |_| true, true);
                    return Ok(());
                }
                let asked = self.await_content(question.task, &question.path, digest, (id, epoch_number))?;
                if let Some(task) = self.tasks.get_mut(&action) {
                    task.misses += u64::from(asked);
                }
                return Ok(());
            }
        }
        task.misses += 1;
        self.tell(&FromRank::Ask { action, path: question.path.clone(), want: question.want })
    }

    fn finish_if_over(&mut self, action: ActionId) -> Result<()> {
        if !self.tasks.get(&action).is_some_and(Task::is_over) {
            return Ok(());
        }
        // Its scratch is still there.
        self.look_at_space();
        let Some(task) = self.tasks.remove(&action) else { return Ok(()) };
        self.questions.forget(task.number());
        let toolchain = task.toolchain();
        match task.finish().and_then(|finished| self.still_runs(toolchain).map(|()| finished)) {
            Ok(finished) => self.deliver(action, finished),
            Err(refusal) => self.refuse(action, refusal.reason, refusal.detail, refusal.retry),
        }
    }

    fn deliver(&mut self, action: ActionId, finished: Finished) -> Result<()> {
        let Finished { result, used, mut contents } = finished;
        for (stream, content) in &mut contents {
            if let Err(error) = self.send_chunks(action, *stream, content) {
                // Rank 0 tells the client to forget the parts it has.
                return self.refuse(action, "unreadable-output", format!("{error:#}"), true);
            }
        }
        self.tell(&FromRank::Done { action, result, used: Ids::of(used) })
    }

    fn send_chunks(&mut self, action: ActionId, stream: Stream, content: &mut task::Content) -> Result<()> {
        while let Some(part) = content.next_part(wire::PAYLOAD_BYTES_MAX)? {
            self.link.send(0, wire::message(&FromRank::Chunk { action, stream }, &part)?)?;
        }
        Ok(())
    }

    /// Kills what runs, removes this rank's folder and leaves MPI, all within bounds.
    fn shut_down(mut self) {
        self.tasks.clear();
        let Worker { link, store, questions, toolchains, .. } = self;
        drop(questions);
        drop(toolchains);
        drop(store);
        leave(link);
    }
}
