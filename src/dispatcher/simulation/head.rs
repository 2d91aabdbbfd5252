//! Rank 0 without its sockets, its MPI and its tree: the real queue, liveness and places, and between them what
//! [`Dispatcher`](crate::dispatcher) does with what they say, in the same order.

use super::books::Books;
use super::machine::{Machine, Ms};
use crate::dispatcher::broker::JobserverId;
use crate::dispatcher::clients::{ClientId, Token};
use crate::dispatcher::demand::Demand;
use crate::dispatcher::liveness::Liveness;
use crate::dispatcher::outside::Outside;
use crate::dispatcher::places::{Peer, Places};
use crate::dispatcher::queue::{Command, Event, Queue, Rank};
use crate::dispatcher::{FROZEN, MESSAGES_PER_TURN};
use crate::event::Interest;
use crate::wire::{ActionId, ActionResult, BEAT, Exit, Place, SIGN_OF_LIFE, SILENCE, SlotUser, ToClient, ToolchainId};
use std::collections::{BTreeMap, VecDeque};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FromRank {
    Heartbeat,
    Toolchain(ToolchainId, bool),
    Lacks(ToolchainId),
    Room(bool),
    Done(ActionId),
    Refused(ActionId, bool),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToRank {
    Heartbeat,
    Toolchain(ToolchainId),
    Shipped(ToolchainId),
    Assign(ActionId),
    Cancel(ActionId),
}

/// What a compile needs.
#[derive(Clone, Copy, Debug)]
pub struct Compile {
    pub toolchain: ToolchainId,
    pub demand: Demand,
}

/// From a client.
#[derive(Clone, Debug)]
pub enum Frame {
    Compile(Place, Compile),
    Local(SlotUser),
    TakesBack,
    End,
}

/// What leaves rank 0.
#[derive(Clone, Debug)]
pub enum Out {
    Rank(Rank, ToRank),
    Client(ClientId, ToClient),
    /// Its toolchain is looked at, which takes a while.
    Lookup(ActionId),
}

struct Action {
    client: ClientId,
    place: Place,
    compile: Compile,
}

struct Connection {
    pid: u32,
    action: Option<ActionId>,
}

pub struct Head {
    machine: Machine,
    pub queue: Queue,
    pub liveness: Liveness,
    pub places: Places<Machine>,
    pub books: Books,
    actions: BTreeMap<ActionId, Action>,
    connections: BTreeMap<ClientId, Connection>,
    next_action: ActionId,
    sent_at: BTreeMap<Rank, Ms>,
    messages: VecDeque<(Rank, FromRank)>,
    frames: BTreeMap<ClientId, Vec<Frame>>,
    looked_up: Vec<ActionId>,
    turned: Ms,
    beat_at: Ms,
    showed_life: Ms,
    thawing: bool,
    pub out: Vec<Out>,
    pub log: bool,
    pub thorough: bool,
    /// Answers that came too late.
    pub late: BTreeMap<&'static str, u64>,
    lent_to: BTreeMap<ActionId, JobserverId>,
    /// Tokens that clients said they would take themselves.
    forgotten: BTreeMap<JobserverId, i64>,
    pub newly_lost: Vec<Rank>,
}

impl Head {
    /// `joined`: a [`Event::RankJoined`] for each rank.
    pub fn new(machine: Machine, joined: Vec<(Rank, Event)>, local_slots: u32) -> Head {
        let ranks = || joined.iter().map(|(rank, _)| *rank);
        let mut head = Head {
            queue: Queue::default(),
            liveness: Liveness::new(ranks(), machine.now()),
            places: Places::new(machine.clone(), local_slots),
            machine,
            books: Books::default(),
            actions: BTreeMap::new(),
            connections: BTreeMap::new(),
            next_action: 1,
            sent_at: ranks().map(|rank| (rank, 0)).collect(),
            messages: VecDeque::new(),
            frames: BTreeMap::new(),
            looked_up: Vec::new(),
            turned: 0,
            beat_at: 0,
            showed_life: 0,
            thawing: false,
            out: Vec::new(),
            log: false,
            thorough: true,
            late: BTreeMap::new(),
            lent_to: BTreeMap::new(),
            forgotten: BTreeMap::new(),
            newly_lost: Vec::new(),
        };
        for (_, event) in joined {
            head.step(event);
        }
        head
    }

    fn now(&self) -> Ms {
        self.machine.state().now
    }

    pub fn message(&mut self, rank: Rank, message: FromRank) {
        self.messages.push_back((rank, message));
    }

    pub fn frame(&mut self, client: ClientId, pid: u32, frame: Frame) {
        self.connections.entry(client).or_insert(Connection { pid, action: None });
        self.frames.entry(client).or_default().push(frame);
    }

    pub fn looked_up(&mut self, action: ActionId) {
        self.looked_up.push(action);
    }

    /// One turn of the loop. `true`: the next one follows at once.
    pub fn turn(&mut self) -> bool {
        let now = self.now();
        if now - self.turned > FROZEN.as_millis() as Ms {
            self.liveness.pardon(self.machine.now());
            self.show_life();
            self.thawing = true;
            self.handle_clients();
            self.thawing = false;
        }
        self.turned = now;
        let mut is_busy = !self.messages.is_empty() || !self.frames.is_empty() || !self.looked_up.is_empty();
        for _ in 0..MESSAGES_PER_TURN {
            let Some((rank, message)) = self.messages.pop_front() else { break };
            if self.liveness.heard(rank, self.machine.now()) {
                assert!(!self.books.is_lost(rank), "rank {rank} is lost, and heard");
                self.handle_message(rank, message);
            } else {
                *self.late.entry("messages of lost ranks").or_default() += 1;
            }
        }
        if now >= self.beat_at {
            self.beat_at = now + BEAT.as_millis() as Ms;
            self.beat();
        }
        let mut interest = Interest::default();
        self.places.interest(&mut interest);
        for token in interest.tokens() {
            match token {
                Token::Jobserver(jobserver) if self.machine.is_readable(jobserver) => self.places.take(jobserver),
                Token::SlotUser(user) if !self.machine.state().processes.contains(&user) => self.places.ended(user),
                _ => continue,
            }
            is_busy = true;
        }
        self.handle_clients();
        for action in std::mem::take(&mut self.looked_up) {
            if let Some(Compile { toolchain, demand }) = self.actions.get(&action).map(|action| action.compile) {
                self.step(Event::Submitted { action, toolchain, demand });
            }
        }
        // Before rank 0 waits again, which is where it stands still.
        for (client, last) in self.places.released() {
            if let Some(connection) = self.connections.get_mut(&client) {
                connection.action = None;
            }
            self.send(client, last);
        }
        is_busy
    }

    fn handle_clients(&mut self) {
        for (client, frames) in std::mem::take(&mut self.frames) {
            let action = self.connections.get(&client).and_then(|connection| connection.action);
            let over = frames.iter().any(|frame| matches!(frame, Frame::End));
            if over {
                self.connections.remove(&client);
            }
            for frame in frames {
                match (frame, action) {
                    (Frame::TakesBack, _) => self.forget(client, action),
                    (Frame::Compile(..), _) if over => {}
                    (frame, _) => self.handle_frame(client, frame),
                }
            }
            if over {
                self.places.abandon(client, action);
                if let Some(action) = action {
                    self.actions.remove(&action);
                    self.step(Event::Abandoned { action });
                }
            }
        }
    }

    fn forget(&mut self, client: ClientId, action: Option<ActionId>) {
        if let Some(jobserver) = self.places.forget(client, action) {
            *self.forgotten.entry(jobserver).or_default() += 1;
        }
    }

    fn handle_frame(&mut self, client: ClientId, frame: Frame) {
        match frame {
            Frame::Compile(place, compile) => {
                let action = self.next_action;
                self.next_action += 1;
                self.actions.insert(action, Action { client, place, compile });
                if let Some(connection) = self.connections.get_mut(&client) {
                    connection.action = Some(action);
                }
                self.out.push(Out::Lookup(action));
            }
            Frame::Local(slot) => {
                if let Some(peer) = self.peer(client) {
                    self.places.enter(peer, slot, ToClient::Go);
                }
            }
            Frame::TakesBack | Frame::End => {}
        }
    }

    fn peer(&self, client: ClientId) -> Option<Peer> {
        self.connections.get(&client).map(|connection| Peer { client, pid: Some(connection.pid) })
    }

    fn step(&mut self, event: Event) {
        let now = self.now();
        if self.log {
            println!("{now:>8}   {event:?}");
        }
        self.books.note_event(&event, now);
        for command in self.queue.step(event) {
            if self.log {
                println!("{now:>8}     {command:?}");
            }
            self.books.note_command(&command, now, self.thorough);
            self.perform(command);
        }
    }

    fn perform(&mut self, command: Command) {
        match command {
            Command::CheckToolchain { rank, toolchain } => self.tell(rank, ToRank::Toolchain(toolchain)),
            Command::Assign { action, rank } => {
                self.tell(rank, ToRank::Assign(action));
                self.lend(action);
            }
            Command::Cancel { action, rank } => self.tell(rank, ToRank::Cancel(action)),
            Command::RunLocally { action, reason } => {
                let action_state = self.actions.remove(&action).expect("an action ends once");
                self.end(action, &action_state, ToClient::RunLocally { reason, detail: String::new() });
            }
            Command::Retried { .. } => {}
        }
    }

    fn tell(&mut self, rank: Rank, message: ToRank) {
        assert!(self.liveness.is_alive(rank), "rank {rank} is lost, and gets {message:?}");
        self.sent_at.insert(rank, self.now());
        self.out.push(Out::Rank(rank, message));
    }

    fn send(&mut self, client: ClientId, frame: ToClient) {
        if self.connections.contains_key(&client) {
            self.out.push(Out::Client(client, frame));
        }
    }

    fn lend(&mut self, action: ActionId) {
        let Action { client, place, .. } = &self.actions[&action];
        let (client, place) = (*client, place.clone());
        if !self.thawing
            && let Some(peer) = self.peer(client)
            && self.places.lend(action, peer, &place)
        {
            if let Place::Token(jobserver) = place {
                self.lent_to.insert(action, jobserver.id);
            }
            self.send(client, ToClient::Lent);
        }
    }

    fn end(&mut self, action: ActionId, Action { client, place, .. }: &Action, last: ToClient) {
        let pid = self.connections.get(client).map(|connection| connection.pid);
        self.places.finish(action, Peer { client: *client, pid }, place, last);
    }

    fn handle_message(&mut self, rank: Rank, message: FromRank) {
        match message {
            FromRank::Heartbeat => {}
            FromRank::Toolchain(toolchain, fits) => {
                let verdict = if fits { Ok(()) } else { Err("toolchain-store".to_owned()) };
                self.step(Event::ToolchainChecked { rank, toolchain, verdict });
            }
            FromRank::Lacks(toolchain) => {
                self.step(Event::ToolchainLacking { rank, toolchain });
                self.tell(rank, ToRank::Shipped(toolchain));
            }
            FromRank::Room(enough) => self.step(Event::RankRoom { rank, enough }),
            FromRank::Done(action) | FromRank::Refused(action, _) if self.queue.rank_of(action) != Some(rank) => {
                assert_ne!(self.books.rank_of(action), Some(rank), "an answer is dropped");
                *self.late.entry("answers nobody waits for").or_default() += 1;
            }
            FromRank::Done(action) => {
                let state = self.actions.remove(&action).expect("an action ends once");
                let result = ActionResult {
                    exit: Exit::Code(0),
                    outputs: Vec::new(),
                    cpu_us: 0,
                    peak_bytes: 0,
                    misses: 0,
                    stdin_read: 0,
                };
                self.end(action, &state, ToClient::Done(result));
                self.step(Event::Finished { action });
            }
            FromRank::Refused(action, retry) => {
                self.step(Event::Refused { action, reason: "rank-trouble".to_owned(), retry });
            }
        }
    }

    fn beat(&mut self) {
        for rank in self.liveness.silent(self.machine.now()) {
            self.liveness.lose(rank);
            self.newly_lost.push(rank);
            self.step(Event::RankLost { rank });
        }
        let now = self.now();
        let silence = SILENCE.as_millis() as Ms;
        let silent: Vec<Rank> = self.liveness.alive().filter(|rank| now - self.sent_at[rank] >= silence).collect();
        for rank in silent {
            self.tell(rank, ToRank::Heartbeat);
        }
        if now - self.showed_life >= SIGN_OF_LIFE.as_millis() as Ms {
            self.show_life();
        }
    }

    fn show_life(&mut self) {
        self.showed_life = self.now();
        let waiting: Vec<ClientId> =
            self.actions.values().map(|action| action.client).chain(self.places.waiting()).collect();
        for client in waiting {
            self.send(client, ToClient::Heartbeat);
        }
    }

    pub fn forgotten(&self, jobserver: JobserverId) -> i64 {
        self.forgotten.get(&jobserver).copied().unwrap_or(0)
    }

    pub fn is_idle(&self) -> bool {
        self.actions.is_empty()
            && self.messages.is_empty()
            && self.frames.is_empty()
            && self.places.waiting().next().is_none()
    }

    /// The real machines agree with what is known of them.
    pub fn check(&self) {
        assert_eq!(self.queue.len(), self.books.len());
        assert_eq!(self.queue.waiting(), self.books.waiting());
        self.queue.check_books();
        self.books.check_no_idle_slot();
    }
}
