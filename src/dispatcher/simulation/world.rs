//! Everything around rank 0: makes, ninjas and scripts with their jobs and clients, ranks, the network between them, and
//! what goes wrong.

use super::head::{Compile, Frame, FromRank, Head, Out, ToRank};
use super::machine::{Machine, Ms, Pipe};
use crate::dispatcher::broker::JobserverId;
use crate::dispatcher::clients::ClientId;
use crate::dispatcher::demand::Demand;
use crate::dispatcher::liveness::SILENCE_MAX;
use crate::dispatcher::queue::{Event, Rank};
use crate::dispatcher::random;
use crate::event::CAP_RUNG;
use crate::wire::{ActionId, Jobserver, Place, SILENCE, SlotUser, ToClient, ToolchainId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// As in the client: when a dispatcher that says nothing is given up, how often others look whether somebody has, and how
/// long a token is waited for then.
const CLIENT_SILENCE: Ms = 30_000;
const LOOK_EVERY: Ms = 2_000;
const TOKEN_PATIENCE: Ms = 30_000;

/// The longest that single things take here.
const COMPILE_MAX: Ms = 30_000;
const SHIPPING_MAX: Ms = 20_000;
const HEAD_FREEZE_MAX: Ms = 60_000;
const RANK_FREEZE_MAX: Ms = 60_000;
const NETWORK_MAX: Ms = 200;

/// The queue is never without an end of an action or of a rank for longer, as long as there are actions: no fitting slot
/// is idle, so one of these is under way everywhere: a compile, or a toolchain's check and shipping; on a rank that may
/// stand still until it is declared lost at the next beat, while messages travel both ways; and the head may stand
/// still, twice.
const QUEUE_BOUND: Ms =
    COMPILE_MAX + SHIPPING_MAX + SILENCE_MAX.as_millis() as Ms + 2_000 + 4 * NETWORK_MAX + 2 * HEAD_FREEZE_MAX;

/// No build is without an end of a client for longer: who is not in the queue works here or waits for a place, the longest
/// where a token does not move and 6 clients have gone without before (`STALLS_COUNTED_MAX`).
const BUILD_BOUND: Ms = QUEUE_BOUND + COMPILE_MAX + CLIENT_SILENCE + TOKEN_PATIENCE + (1 << 6) * 30_000;

/// What a seed stands for.
#[derive(Debug)]
pub struct Plan {
    pub ranks: u64,
    pub slots_max: u64,
    pub actions: u64,
    toolchains: u64,
    local_slots: u64,
    /// Per thousand assignments, compiles or clients, as it makes sense.
    deaths: u64,
    rank_freezes: u64,
    full_stores: u64,
    refusals: u64,
    unfit: u64,
    kills: u64,
    locks: u64,
    /// The actions at which the head stands still, and at which a build dies.
    head_freezes: BTreeSet<u64>,
    build_deaths: BTreeSet<u64>,
    latency: Ms,
    work_max: Ms,
    ranks_per_host: u64,
    /// Most MiB that a compile demands, and those of a host; 0: nothing is known of any compile.
    demand_max: u64,
    host_memory: u64,
}

impl Plan {
    pub fn of(random: &mut dyn FnMut(u64) -> u64, ranks: u64, slots_max: u64, actions: u64) -> Plan {
        // Each seed has some kinds of faults only: what one hides shows in another.
        let mut some = |below: u64| if random(2) == 0 { 0 } else { random(below) };
        let [deaths, rank_freezes, full_stores] = [some(30), some(30), some(30)];
        let [refusals, unfit, kills] = [some(150), some(500), some(100)];
        let locks = if some(4) > 0 { some(1000) } else { 0 };
        let mut times = |below: u64| -> BTreeSet<u64> { (0..random(below)).map(|_| random(actions)).collect() };
        let (head_freezes, build_deaths) = (times(3), if times(4).len() == 3 { times(2) } else { BTreeSet::new() });
        Plan {
            ranks,
            slots_max,
            actions,
            toolchains: 1 + random(4),
            local_slots: 1 + random(4),
            deaths: deaths / (1 + actions / 1000),
            rank_freezes,
            full_stores,
            refusals,
            unfit,
            kills,
            locks,
            head_freezes,
            build_deaths,
            latency: 1 + random(NETWORK_MAX),
            work_max: [200, 2_000, COMPILE_MAX][random(3) as usize],
            ranks_per_host: 1 + random(3),
            demand_max: [0, 500, 8_000][random(3) as usize],
            host_memory: 100 + random(8_000),
        }
    }
}

type BuilderId = usize;
type JobId = u64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A make, and whether its implicit token is free.
    Make(JobserverId, bool),
    /// So many steps at once.
    Ninja(usize),
    /// So many compilers at once.
    Script(usize),
}

struct Builder {
    kind: Kind,
    /// Compiles to come.
    todo: u64,
    jobs: BTreeSet<JobId>,
    parent: Option<JobId>,
    /// Who has the lock around its compilers.
    lock: Option<ClientId>,
    wanting_lock: VecDeque<ClientId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Implicit,
    Byte,
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Something other than compiles.
    Work(Ms),
    /// So many side by side, with or without a lock around each.
    Compiles(u64, bool),
    SubMake(u64),
}

struct Job {
    builder: BuilderId,
    token: Token,
    began: Ms,
    pid: u32,
    phases: VecDeque<Phase>,
    /// What of the phase is still going on.
    open: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    WantsLock,
    /// Waits for the dispatcher.
    Asking,
    /// Takes the token back itself, until then at most.
    TakingToken(Ms),
    Working,
}

struct Client {
    job: JobId,
    life: Life,
    place: Place,
    /// A compile, or something else that needs a slot.
    compile: Option<Compile>,
    work: Ms,
    pid: u32,
    heard: Ms,
    lent: bool,
    connected: bool,
    has_lock: bool,
    /// The dispatcher has let it work here.
    has_slot: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Fit,
    Unfit,
    /// Its contents come first.
    Lacking,
}

struct RankState {
    slots: u64,
    frozen_until: Ms,
    dead: bool,
    running: BTreeSet<ActionId>,
    roomy: bool,
    toolchains: BTreeMap<ToolchainId, Answer>,
    sent: Ms,
    heard: Ms,
    /// When the last message on the way arrives, there and here.
    arrives_there: Ms,
    arrives_here: Ms,
}

#[derive(Clone, Debug)]
enum Happening {
    MakeLooks(BuilderId),
    JobGoesOn(JobId),
    ToHead(ClientId, u32, Frame),
    ToClient(ClientId, ToClient),
    ClientEnds(ClientId),
    ClientKilled(ClientId),
    ClientLooks(ClientId),
    ClientTakes(ClientId),
    LookedUp(ActionId),
    ToRank(Rank, ToRank),
    FromRank(Rank, FromRank),
    Compiled(Rank, ActionId),
    Checked(Rank, ToolchainId),
    RankBeat(Rank),
    Room(Rank),
    BuildKilled,
    Turn,
}

pub struct World {
    random: Box<dyn FnMut(u64) -> u64>,
    plan: Plan,
    machine: Machine,
    pub head: Head,
    happenings: BTreeMap<(Ms, u64), Happening>,
    sequence: u64,
    builders: Vec<Builder>,
    jobs: BTreeMap<JobId, Job>,
    clients: BTreeMap<ClientId, Client>,
    ranks: BTreeMap<Rank, RankState>,
    /// Bytes of each pipe in the beginning, and those that makes hold for their jobs.
    tokens: BTreeMap<JobserverId, u64>,
    held: BTreeMap<JobserverId, i64>,
    /// What clients took back themselves.
    by_hand: BTreeMap<JobserverId, i64>,
    /// Clients that wanted to and went without, or died over it.
    untaken: BTreeMap<JobserverId, i64>,
    takers: BTreeMap<JobserverId, BTreeSet<ClientId>>,
    next_id: u64,
    submitted: u64,
    head_frozen_until: Ms,
    silence_mark: bool,
    next_turn: Option<Ms>,
    /// When a client last ended.
    moved: Ms,
    log: bool,
    pub figures: BTreeMap<&'static str, u64>,
}

impl World {
    pub fn new(seed: u64, ranks: u64, slots_max: u64, actions: u64, log: bool) -> World {
        let mut random: Box<dyn FnMut(u64) -> u64> = Box::new(random::numbers(seed));
        let plan = Plan::of(&mut random, ranks, slots_max, actions);
        if log {
            println!("{plan:?}");
        }
        let machine = Machine::new();
        let slots: Vec<(Rank, u32)> =
            (1..=plan.ranks as Rank).map(|rank| (rank, 1 + random(plan.slots_max) as u32)).collect();
        let join = |(rank, slots): &(Rank, u32)| {
            let (host, memory_bytes) = (*rank as u32 / plan.ranks_per_host as u32, plan.host_memory << 20);
            (*rank, Event::RankJoined { rank: *rank, host, slots: *slots, memory_bytes })
        };
        let mut head = Head::new(machine.clone(), slots.iter().map(join).collect(), plan.local_slots as u32);
        head.log = log;
        head.thorough = plan.ranks <= 20;
        let mut world = World {
            random,
            machine,
            head,
            happenings: BTreeMap::new(),
            sequence: 0,
            builders: Vec::new(),
            jobs: BTreeMap::new(),
            clients: BTreeMap::new(),
            ranks: BTreeMap::new(),
            tokens: BTreeMap::new(),
            held: BTreeMap::new(),
            by_hand: BTreeMap::new(),
            untaken: BTreeMap::new(),
            takers: BTreeMap::new(),
            next_id: 1,
            submitted: 0,
            head_frozen_until: 0,
            silence_mark: false,
            next_turn: None,
            moved: 0,
            log,
            figures: BTreeMap::new(),
            plan,
        };
        for (rank, slots) in slots {
            world.add_rank(rank, u64::from(slots));
        }
        world.add_builds();
        world.wake_head(0);
        world
    }

    fn add_rank(&mut self, rank: Rank, slots: u64) {
        let mut toolchains = BTreeMap::new();
        for toolchain in 0..self.plan.toolchains as ToolchainId {
            let is_odd = self.draw(1000) < self.plan.unfit;
            let answer = match self.draw(2) {
                _ if !is_odd => Answer::Fit,
                0 => Answer::Unfit,
                _ => Answer::Lacking,
            };
            toolchains.insert(toolchain, answer);
        }
        let state = RankState {
            slots,
            frozen_until: 0,
            dead: false,
            running: BTreeSet::new(),
            roomy: true,
            toolchains,
            sent: 0,
            heard: 0,
            arrives_there: 0,
            arrives_here: 0,
        };
        self.ranks.insert(rank, state);
        let beat = self.draw(5000);
        self.after(beat, Happening::RankBeat(rank));
    }

    /// One to three builds side by side share the actions.
    fn add_builds(&mut self) {
        let builds = 1 + self.draw(3);
        for build in 0..builds {
            let todo = self.plan.actions / builds;
            let is_large = self.plan.actions > 10_000;
            let width = if is_large { 64 } else { 1 + self.draw(6) };
            let id = (1, build);
            let kind = match self.draw(4) {
                0 if !is_large => Kind::Ninja(4 * width as usize),
                1 if !is_large => Kind::Script(4 * width as usize),
                _ => Kind::Make(id, true),
            };
            if let Kind::Make(..) = kind {
                self.machine.change().pipes.insert(id, Pipe { bytes: width - 1, open: true, ..Pipe::default() });
                self.tokens.insert(id, width - 1);
                self.held.insert(id, 0);
            }
            self.add_builder(kind, todo, None);
        }
    }

    fn add_builder(&mut self, kind: Kind, todo: u64, parent: Option<JobId>) {
        let builder = Builder { kind, todo, jobs: BTreeSet::new(), parent, lock: None, wanting_lock: VecDeque::new() };
        self.builders.push(builder);
        self.after(1, Happening::MakeLooks(self.builders.len() - 1));
    }

    fn draw(&mut self, below: u64) -> u64 {
        (self.random)(below)
    }

    fn chance(&mut self, per_thousand: u64) -> bool {
        self.draw(1000) < per_thousand
    }

    fn now(&self) -> Ms {
        self.machine.state().now
    }

    fn count(&mut self, what: &'static str) {
        *self.figures.entry(what).or_default() += 1;
    }

    fn at(&mut self, at: Ms, happening: Happening) {
        self.sequence += 1;
        self.happenings.insert((at, self.sequence), happening);
    }

    fn after(&mut self, delay: Ms, happening: Happening) {
        self.at(self.now() + delay, happening);
    }

    fn wake_head(&mut self, delay: Ms) {
        let at = (self.now() + delay).max(self.head_frozen_until);
        if self.next_turn.is_none_or(|next| next > at) {
            self.next_turn = Some(at);
            self.at(at, Happening::Turn);
        }
    }

    /// Runs until all builds are over and everything has come to rest.
    pub fn run(&mut self) {
        while !(self.jobs.is_empty() && self.builders.iter().all(|builder| builder.todo == 0) && self.is_at_rest()) {
            let ((at, _), happening) = self.happenings.pop_first().expect("rank 0 never sleeps for good");
            self.machine.change().now = at;
            self.count("events");
            if self.log && !matches!(happening, Happening::Turn | Happening::RankBeat(_)) {
                println!("{at:>8} {happening:?}");
            }
            self.handle(happening);
            self.check_progress();
        }
        self.check_end();
    }

    fn is_at_rest(&self) -> bool {
        self.clients.is_empty()
            && self.head.is_idle()
            && !self.happenings.values().any(|one| matches!(one, Happening::ToHead(..)))
            && self.machine.state().pipes.iter().all(|(id, pipe)| !pipe.open || self.head.places.owed(*id) == (0, 0))
    }

    fn handle(&mut self, happening: Happening) {
        match happening {
            Happening::MakeLooks(builder) => self.start_jobs(builder),
            Happening::JobGoesOn(job) => self.part_is_over(job),
            Happening::ToHead(client, pid, frame) => {
                self.head.frame(client, pid, frame);
                let delay = self.draw(2);
                self.wake_head(delay);
            }
            Happening::ToClient(client, frame) => self.hear(client, &frame),
            Happening::ClientEnds(client) => self.end_client(client),
            Happening::ClientKilled(client) => {
                if self.clients.contains_key(&client) {
                    self.count("clients killed");
                    self.end_client(client);
                }
            }
            Happening::ClientLooks(client) => self.look(client),
            Happening::ClientTakes(client) => self.take_back(client),
            Happening::LookedUp(action) => {
                self.head.looked_up(action);
                self.wake_head(0);
            }
            Happening::BuildKilled => self.kill_build(),
            Happening::Turn => {
                if self.next_turn == Some(self.now()) {
                    self.turn();
                }
            }
            Happening::ToRank(rank, _)
            | Happening::Compiled(rank, _)
            | Happening::Checked(rank, _)
            | Happening::RankBeat(rank)
            | Happening::Room(rank)
                if self.ranks[&rank].dead => {}
            Happening::ToRank(rank, _)
            | Happening::Compiled(rank, _)
            | Happening::Checked(rank, _)
            | Happening::RankBeat(rank)
            | Happening::Room(rank)
                if self.ranks[&rank].frozen_until > self.now() =>
            {
                let thaws = self.ranks[&rank].frozen_until;
                self.at(thaws, happening);
            }
            Happening::ToRank(rank, message) => self.rank_hears(rank, message),
            Happening::FromRank(rank, message) => {
                self.head.message(rank, message);
                self.wake_head(0);
            }
            Happening::Compiled(rank, action) => self.compiled(rank, action),
            Happening::Checked(rank, toolchain) => self.answer_check(rank, toolchain),
            Happening::RankBeat(rank) => self.rank_beats(rank),
            Happening::Room(rank) => {
                let state = self.rank(rank);
                state.roomy = !state.roomy;
                let roomy = state.roomy;
                self.rank_tells(rank, FromRank::Room(roomy));
                if !roomy {
                    let later = 500 + self.draw(40_000);
                    self.after(later, Happening::Room(rank));
                }
            }
        }
    }

    fn turn(&mut self) {
        self.count("turns");
        self.next_turn = None;
        let is_busy = self.head.turn();
        let is_changed = is_busy || !self.head.out.is_empty() || !self.head.newly_lost.is_empty();
        for out in std::mem::take(&mut self.head.out) {
            match out {
                Out::Rank(rank, message) => {
                    let delay = 1 + self.draw(self.plan.latency);
                    let at = (self.now() + delay).max(self.rank(rank).arrives_there);
                    self.rank(rank).arrives_there = at;
                    self.at(at, Happening::ToRank(rank, message));
                }
                Out::Client(client, frame) => self.after(0, Happening::ToClient(client, frame)),
                Out::Lookup(action) => {
                    let delay = if self.draw(20) == 0 { self.draw(800) } else { 0 };
                    self.after(delay, Happening::LookedUp(action));
                }
            }
        }
        if self.silence_mark {
            self.silence_mark = false;
        }
        self.wake_makes();
        self.wake_head(if is_busy { 1 } else { CAP_RUNG.as_millis() as Ms });
        self.check_lost();
        self.check_tokens();
        self.check_slots();
        // In a large world it takes long.
        let is_time = self.head.thorough || self.figures["turns"].is_multiple_of(50 + self.plan.actions / 20);
        if is_changed && is_time {
            self.head.check();
        }
    }

    fn wake_makes(&mut self) {
        let readable: Vec<JobserverId> =
            self.tokens.keys().copied().filter(|id| self.machine.is_readable(*id)).collect();
        for id in readable {
            for builder in 0..self.builders.len() {
                if self.builders[builder].todo > 0
                    && matches!(self.builders[builder].kind, Kind::Make(own, _) if own == id)
                {
                    let delay = self.draw(3);
                    self.after(delay, Happening::MakeLooks(builder));
                }
            }
            for client in self.takers.get(&id).cloned().unwrap_or_default() {
                let delay = self.draw(3);
                self.after(delay, Happening::ClientTakes(client));
            }
        }
    }

    /// Somebody wrote a token.
    fn wake_for_tokens(&mut self) {
        self.wake_makes();
        let delay = self.draw(2);
        self.wake_head(delay);
    }

    // --- builds ---

    fn start_jobs(&mut self, id: BuilderId) {
        while self.builders[id].todo > 0 {
            let token = match self.builders[id].kind {
                Kind::Make(jobserver, true) => {
                    self.builders[id].kind = Kind::Make(jobserver, false);
                    Token::Implicit
                }
                Kind::Make(jobserver, false) => {
                    let mut state = self.machine.change();
                    let pipe = state.pipes.get_mut(&jobserver).expect("it has one");
                    if pipe.bytes == 0 {
                        return;
                    }
                    pipe.bytes -= 1;
                    *self.held.entry(jobserver).or_default() += 1;
                    Token::Byte
                }
                Kind::Ninja(width) | Kind::Script(width) if self.builders[id].jobs.len() < width => Token::None,
                Kind::Ninja(_) | Kind::Script(_) => return,
            };
            self.start_job(id, token);
        }
    }

    fn start_job(&mut self, builder: BuilderId, token: Token) {
        let todo = self.builders[builder].todo;
        let is_locked = self.chance(self.plan.locks);
        let is_make = token != Token::None;
        let (mut phases, compiles) = match self.draw(20) {
            0 if todo >= 4 => {
                let many = 2 + self.draw(3);
                (vec![Phase::Compiles(many, is_locked)], many)
            }
            1 if todo >= 2 => (vec![Phase::Compiles(1, false), Phase::Compiles(1, is_locked)], 2),
            2 => (vec![Phase::Work(self.draw(self.plan.work_max)), Phase::Compiles(1, is_locked)], 1),
            3 => (vec![Phase::Compiles(1, is_locked), Phase::Work(self.draw(self.plan.work_max))], 1),
            4 if is_make && todo >= 3 && self.builders.len() < 64 => {
                let many = 2 + self.draw(todo.min(30) - 2);
                (vec![Phase::SubMake(many)], many)
            }
            _ => (vec![Phase::Compiles(1, is_locked)], 1),
        };
        self.builders[builder].todo -= compiles;
        if let (Kind::Ninja(_), Some(at)) =
            (self.builders[builder].kind, phases.iter().position(|phase| matches!(phase, Phase::Compiles(_, true))))
        {
            // The program that takes the lock is one of the step, and needs its slot.
            phases.insert(at, Phase::Work(1));
        }
        let id = self.new_id();
        let job = Job { builder, token, began: self.now(), pid: id as u32, phases: phases.into(), open: 1 };
        self.machine.change().processes.insert(job.pid);
        self.builders[builder].jobs.insert(id);
        self.jobs.insert(id, job);
        self.part_is_over(id);
    }

    fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// A part of the job's phase is over.
    fn part_is_over(&mut self, id: JobId) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        job.open -= 1;
        if job.open > 0 {
            return;
        }
        let Some(phase) = job.phases.pop_front() else { return self.end_job(id) };
        let is_step = matches!(self.builders[job.builder].kind, Kind::Ninja(_));
        match phase {
            Phase::Work(ms) => {
                job.open = 1;
                if is_step {
                    self.start_client(id, None, ms, false);
                } else {
                    self.after(ms, Happening::JobGoesOn(id));
                }
            }
            Phase::Compiles(many, is_locked) => {
                job.open = many;
                for _ in 0..many {
                    let toolchain = self.draw(self.plan.toolchains) as ToolchainId;
                    let demand = self.draw_demand();
                    let work = 1 + self.draw(self.plan.work_max);
                    self.start_client(id, Some(Compile { toolchain, demand }), work, is_locked);
                }
            }
            Phase::SubMake(todo) => {
                job.open = 1;
                if let Kind::Make(jobserver, _) = self.builders[job.builder].kind {
                    // The job's token is the sub-make's implicit one.
                    self.add_builder(Kind::Make(jobserver, true), todo, Some(id));
                }
            }
        }
    }

    fn end_job(&mut self, id: JobId) {
        let job = self.jobs.remove(&id).expect("a job ends once");
        let now = self.now();
        self.machine.change().processes.remove(&job.pid);
        let builder = &mut self.builders[job.builder];
        builder.jobs.remove(&id);
        if let Kind::Make(jobserver, _) = builder.kind {
            match job.token {
                Token::Implicit => builder.kind = Kind::Make(jobserver, true),
                Token::Byte => {
                    self.machine.change().pipes.get_mut(&jobserver).expect("it has one").bytes += 1;
                    *self.held.entry(jobserver).or_default() -= 1;
                }
                Token::None => {}
            }
        }
        let is_over = builder.todo == 0 && builder.jobs.is_empty();
        let parent = builder.parent;
        self.moved = now;
        self.wake_for_tokens();
        self.after(0, Happening::MakeLooks(job.builder));
        if is_over && let Some(parent) = parent {
            self.after(1, Happening::JobGoesOn(parent));
        }
    }

    /// A build is killed with all that belongs to it, and nobody holds its pipe any more.
    fn kill_build(&mut self) {
        let jobs: Vec<JobId> = self.jobs.keys().copied().collect();
        if jobs.is_empty() {
            return;
        }
        let victim = jobs[self.draw(jobs.len() as u64) as usize];
        let root = |world: &World, mut builder: BuilderId| {
            while let Some(parent) = world.builders[builder].parent.and_then(|parent| world.jobs.get(&parent)) {
                builder = parent.builder;
            }
            builder
        };
        let doomed = root(self, self.jobs[&victim].builder);
        self.count("builds killed");
        let jobs: Vec<JobId> = jobs.into_iter().filter(|job| root(self, self.jobs[job].builder) == doomed).collect();
        let clients: Vec<ClientId> =
            self.clients.iter().filter(|(_, client)| jobs.contains(&client.job)).map(|(id, _)| *id).collect();
        for client in clients {
            self.end_client_alone(client);
        }
        for id in jobs {
            let job = self.jobs.remove(&id).expect("it was found");
            self.machine.change().processes.remove(&job.pid);
            self.builders[job.builder].jobs.clear();
            self.builders[job.builder].todo = 0;
        }
        self.builders[doomed].todo = 0;
        if let Kind::Make(jobserver, _) = self.builders[doomed].kind {
            let mut state = self.machine.change();
            let pipe = state.pipes.get_mut(&jobserver).expect("it has one");
            (pipe.open, pipe.bytes) = (false, 0);
        }
        self.wake_head(0);
    }

    // --- clients ---

    fn draw_demand(&mut self) -> Demand {
        let max = self.plan.demand_max;
        match max {
            0 => Demand::Unknown,
            _ if self.draw(8) == 0 => Demand::Unknown,
            // Most demand little.
            _ => {
                let most = if self.draw(4) == 0 { max } else { 1 + max / 8 };
                Demand::of(Some(self.draw(most) << 20))
            }
        }
    }

    fn start_client(&mut self, job: JobId, compile: Option<Compile>, work: Ms, is_locked: bool) {
        let id = self.new_id();
        let pid = id as u32;
        let Job { builder, began, pid: job_pid, .. } = self.jobs[&job];
        let place = match self.builders[builder].kind {
            Kind::Make(jobserver, _) => Place::Token(Jobserver {
                id: jobserver,
                read: Vec::new(),
                write: Vec::new(),
                job: (job_pid as i32, began),
            }),
            Kind::Ninja(_) => Place::Slot(SlotUser::Step(job_pid)),
            Kind::Script(_) => Place::Slot(SlotUser::Client),
        };
        self.machine.change().processes.insert(pid);
        let life = if is_locked { Life::WantsLock } else { Life::Asking };
        let client = Client {
            job,
            life,
            place,
            compile,
            work,
            pid,
            heard: 0,
            lent: false,
            connected: false,
            has_lock: false,
            has_slot: false,
        };
        self.clients.insert(id, client);
        self.count(if compile.is_some() { "actions" } else { "local work" });
        if is_locked {
            self.builders[builder].wanting_lock.push_back(id);
            self.pass_lock(builder);
        } else {
            self.ask(id);
        }
        if self.chance(self.plan.kills) {
            let delay = self.draw(2 * self.plan.work_max + 10);
            self.after(delay, Happening::ClientKilled(id));
        }
        if compile.is_some() {
            self.submitted += 1;
            if self.plan.head_freezes.remove(&self.submitted) {
                self.count("head freezes");
                // Clients give it up after 30 s, and ranks after 20 s at most.
                let longest = [9_000, 19_000, HEAD_FREEZE_MAX][self.draw(3) as usize];
                let ms = self.draw(longest);
                self.head_frozen_until = self.now() + ms;
                self.next_turn = None;
                self.wake_head(0);
            }
            if self.plan.build_deaths.remove(&self.submitted) {
                self.after(0, Happening::BuildKilled);
            }
        }
    }

    fn pass_lock(&mut self, builder: BuilderId) {
        if self.builders[builder].lock.is_none()
            && let Some(next) = self.builders[builder].wanting_lock.pop_front()
        {
            self.builders[builder].lock = Some(next);
            let client = self.clients.get_mut(&next).expect("who is gone wants no lock");
            (client.has_lock, client.life) = (true, Life::Asking);
            self.ask(next);
        }
    }

    fn ask(&mut self, id: ClientId) {
        let now = self.now();
        if self.silence_mark {
            return self.work_here(id);
        }
        let client = self.clients.get_mut(&id).expect("it is there");
        (client.heard, client.connected) = (now, true);
        let pid = client.pid;
        let frame = match (client.compile, &client.place) {
            (Some(compile), place) => Frame::Compile(place.clone(), compile),
            (None, Place::Slot(slot)) => Frame::Local(*slot),
            (None, _) => unreachable!("who has a token asks for no slot"),
        };
        self.after(0, Happening::ToHead(id, pid, frame));
        self.after(CLIENT_SILENCE, Happening::ClientLooks(id));
    }

    fn hear(&mut self, id: ClientId, frame: &ToClient) {
        let now = self.now();
        let Some(client) = self.clients.get_mut(&id) else { return };
        if client.life != Life::Asking {
            // It has given the dispatcher up.
            return;
        }
        client.heard = now;
        match frame {
            ToClient::Heartbeat => {}
            ToClient::Lent => client.lent = true,
            ToClient::Done(_) => {
                let delay = self.draw(3);
                self.clients.get_mut(&id).expect("it is there").life = Life::Working;
                self.count("done");
                self.after(delay, Happening::ClientEnds(id));
            }
            ToClient::RunLocally { .. } => {
                self.count("run locally");
                self.note_slot(id);
                self.hang_up(id);
                self.work_here(id);
            }
            ToClient::Go => {
                self.note_slot(id);
                self.hang_up(id);
                self.work_here(id);
            }
            other => panic!("client {id} hears {other:?}"),
        }
    }

    fn note_slot(&mut self, id: ClientId) {
        let client = self.clients.get_mut(&id).expect("it is there");
        client.has_slot = matches!(client.place, Place::Slot(_));
    }

    fn hang_up(&mut self, id: ClientId) {
        let client = self.clients.get_mut(&id).expect("it is there");
        let pid = client.pid;
        if std::mem::take(&mut client.connected) {
            self.after(0, Happening::ToHead(id, pid, Frame::End));
        }
    }

    fn work_here(&mut self, id: ClientId) {
        let client = self.clients.get_mut(&id).expect("it is there");
        client.life = Life::Working;
        let work = client.work;
        self.after(work, Happening::ClientEnds(id));
    }

    /// Is the dispatcher there?
    fn look(&mut self, id: ClientId) {
        let now = self.now();
        let Some(client) = self.clients.get(&id).filter(|client| client.life == Life::Asking) else { return };
        let silent = now - client.heard;
        if silent < CLIENT_SILENCE && !(self.silence_mark && silent >= LOOK_EVERY) {
            let next = if self.head_frozen_until > now { LOOK_EVERY } else { CLIENT_SILENCE - silent };
            return self.after(next, Happening::ClientLooks(id));
        }
        let (pid, lent) = (client.pid, client.lent);
        let place = client.place.clone();
        self.silence_mark = true;
        self.count("clients gave the head up");
        if let Place::Token(Jobserver { id: jobserver, .. }) = place
            && lent
        {
            self.clients.get_mut(&id).expect("it is there").life = Life::TakingToken(now + TOKEN_PATIENCE);
            self.takers.entry(jobserver).or_default().insert(id);
            self.after(0, Happening::ToHead(id, pid, Frame::TakesBack));
            self.after(0, Happening::ClientTakes(id));
            self.after(TOKEN_PATIENCE, Happening::ClientTakes(id));
        } else {
            self.hang_up(id);
            self.work_here(id);
        }
    }

    fn take_back(&mut self, id: ClientId) {
        let now = self.now();
        let Some(client) = self.clients.get_mut(&id) else { return };
        let (Life::TakingToken(until), Place::Token(jobserver)) = (client.life, &client.place) else { return };
        let jobserver = jobserver.id;
        let mut state = self.machine.change();
        let pipe = state.pipes.get_mut(&jobserver).expect("it has one");
        let took = pipe.bytes > 0;
        if took {
            pipe.bytes -= 1;
            *self.by_hand.entry(jobserver).or_default() += 1;
        } else if pipe.open && now < until {
            return;
        } else {
            *self.untaken.entry(jobserver).or_default() += 1;
        }
        drop(state);
        self.takers.entry(jobserver).or_default().remove(&id);
        self.count(if took { "tokens taken back by hand" } else { "tokens not to be had" });
        self.hang_up(id);
        self.work_here(id);
    }

    fn end_client(&mut self, id: ClientId) {
        if let Some(job) = self.end_client_alone(id) {
            self.part_is_over(job);
        }
    }

    fn end_client_alone(&mut self, id: ClientId) -> Option<JobId> {
        if self.clients.contains_key(&id) {
            self.hang_up(id);
        }
        let client = self.clients.remove(&id)?;
        self.moved = self.now();
        self.machine.change().processes.remove(&client.pid);
        if let (Life::TakingToken(_), Place::Token(jobserver)) = (client.life, &client.place) {
            self.takers.entry(jobserver.id).or_default().remove(&id);
            *self.untaken.entry(jobserver.id).or_default() += 1;
        }
        let builder = self.jobs[&client.job].builder;
        self.builders[builder].wanting_lock.retain(|one| *one != id);
        if client.has_lock {
            self.builders[builder].lock = None;
            self.pass_lock(builder);
        }
        self.wake_head(1);
        Some(client.job)
    }

    // --- ranks ---

    fn rank(&mut self, rank: Rank) -> &mut RankState {
        self.ranks.get_mut(&rank).expect("a rank of the job")
    }

    fn rank_tells(&mut self, rank: Rank, message: FromRank) {
        let now = self.now();
        let delay = 1 + self.draw(self.plan.latency);
        let state = self.rank(rank);
        state.sent = now;
        state.arrives_here = state.arrives_here.max(now + delay);
        let at = state.arrives_here;
        self.at(at, Happening::FromRank(rank, message));
    }

    fn rank_hears(&mut self, rank: Rank, message: ToRank) {
        self.rank(rank).heard = self.now();
        match message {
            ToRank::Heartbeat => {}
            ToRank::Toolchain(toolchain) => {
                let delay = self.draw(300);
                self.after(delay, Happening::Checked(rank, toolchain));
            }
            ToRank::Shipped(toolchain) => {
                let answer = if self.draw(10) == 0 { Answer::Unfit } else { Answer::Fit };
                self.rank(rank).toolchains.insert(toolchain, answer);
                let delay = self.draw(SHIPPING_MAX);
                self.after(delay, Happening::Checked(rank, toolchain));
            }
            ToRank::Assign(action) => self.begin(rank, action),
            ToRank::Cancel(action) => {
                self.rank(rank).running.remove(&action);
            }
        }
    }

    fn answer_check(&mut self, rank: Rank, toolchain: ToolchainId) {
        let state = &self.ranks[&rank];
        let message = match state.toolchains[&toolchain] {
            _ if !state.roomy => FromRank::Toolchain(toolchain, false),
            Answer::Fit => FromRank::Toolchain(toolchain, true),
            Answer::Unfit => FromRank::Toolchain(toolchain, false),
            Answer::Lacking => FromRank::Lacks(toolchain),
        };
        self.rank_tells(rank, message);
    }

    fn begin(&mut self, rank: Rank, action: ActionId) {
        let state = self.rank(rank);
        assert!((state.running.len() as u64) < state.slots, "rank {rank} has more actions than slots");
        assert!(state.running.insert(action), "rank {rank} has action {action} twice");
        let work = 1 + self.draw(self.plan.work_max);
        let delay = if self.draw(30) == 0 { 0 } else { work };
        self.after(delay, Happening::Compiled(rank, action));
        if self.chance(self.plan.deaths) {
            self.count("rank deaths");
            self.rank(rank).dead = true;
        } else if self.chance(self.plan.rank_freezes) {
            self.count("rank freezes");
            let thaws = self.now() + self.draw(RANK_FREEZE_MAX);
            self.rank(rank).frozen_until = thaws;
        } else if self.ranks[&rank].roomy && self.chance(self.plan.full_stores) {
            self.count("full stores");
            self.after(0, Happening::Room(rank));
        } else if self.chance(self.plan.refusals / 20) {
            // Its own compiler was replaced: it needs the head's.
            self.count("replaced compilers");
            for toolchain in 0..self.plan.toolchains as ToolchainId {
                self.rank(rank).toolchains.insert(toolchain, Answer::Lacking);
                self.rank_tells(rank, FromRank::Lacks(toolchain));
            }
        }
    }

    fn compiled(&mut self, rank: Rank, action: ActionId) {
        let is_refused = self.chance(self.plan.refusals) || (!self.ranks[&rank].roomy && self.draw(2) == 0);
        if self.rank(rank).running.remove(&action) {
            if is_refused {
                self.count("refusals");
                let retry = self.draw(4) > 0;
                self.rank_tells(rank, FromRank::Refused(action, retry));
            } else {
                self.rank_tells(rank, FromRank::Done(action));
            }
        }
    }

    fn rank_beats(&mut self, rank: Rank) {
        let now = self.now();
        let silence = SILENCE.as_millis() as Ms;
        let state = &self.ranks[&rank];
        if now - state.heard > SILENCE_MAX.as_millis() as Ms {
            self.count("ranks that gave the head up");
            self.rank(rank).dead = true;
            return;
        }
        if now - state.sent >= silence {
            self.rank_tells(rank, FromRank::Heartbeat);
        }
        let next = (self.ranks[&rank].sent + silence).max(now + 1000);
        self.at(next, Happening::RankBeat(rank));
    }

    // --- what must hold ---

    /// Nothing is still for longer than it may be.
    fn check_progress(&self) {
        let now = self.now();
        if self.head.books.len() > 0 {
            let still = now - self.head.books.moved;
            assert!(still <= QUEUE_BOUND, "the queue has stood still for {still} ms");
        }
        let still = now - self.moved;
        assert!(still <= BUILD_BOUND, "the builds have stood still for {still} ms");
    }

    /// Bytes written and not taken are open lends and debts, but for those that clients took in the dispatcher's stead; and
    /// no byte comes from nowhere.
    fn check_tokens(&self) {
        let state = self.machine.state();
        for (id, pipe) in state.pipes.iter().filter(|(_, pipe)| pipe.open) {
            let (lent, debts) = self.head.places.owed(*id);
            let out = pipe.written as i64 - pipe.taken as i64;
            assert_eq!(out - self.head.forgotten(*id), (lent + debts) as i64, "{lent} lent and {debts} owed");
            let inside = pipe.bytes as i64 + self.held[id];
            assert_eq!(inside, self.tokens[id] as i64 + out - self.by_hand(*id), "the world is wrong");
        }
    }

    fn by_hand(&self, jobserver: JobserverId) -> i64 {
        self.by_hand.get(&jobserver).copied().unwrap_or(0)
    }

    /// Who works here has a slot, there are no more of them than may be, and none is idle that somebody waits for.
    fn check_slots(&self) {
        let (held, waiting) = self.head.places.slots();
        let (_, counts) = self.head.places.counts();
        let limit = counts.limit as usize;
        assert!(held <= limit + counts.beyond as usize, "{held} of {limit} slots are in use");
        assert!(waiting == 0 || held >= limit, "{waiting} wait, and {held} of {limit} slots are in use");
        for client in self.clients.values().filter(|client| client.has_slot && self.jobs[&client.job].open == 1) {
            let user = match client.place {
                Place::Slot(SlotUser::Step(step)) => step,
                _ => client.pid,
            };
            assert!(self.head.places.has_slot(user), "process {user} works without a slot");
        }
    }

    /// Nobody is lost who only could not be heard.
    fn check_lost(&mut self) {
        let now = self.now();
        for rank in std::mem::take(&mut self.head.newly_lost) {
            self.count("ranks lost");
            let state = &self.ranks[&rank];
            let stood_still = state.frozen_until + SILENCE.as_millis() as Ms + 1000 + NETWORK_MAX >= now;
            assert!(state.dead || stood_still, "rank {rank} is well, and declared lost");
        }
    }

    /// Everything is back where it was.
    fn check_end(&mut self) {
        let end = self.now() + RANK_FREEZE_MAX + SHIPPING_MAX + 2 * NETWORK_MAX;
        while let Some(entry) = self.happenings.first_entry().filter(|entry| entry.key().0 <= end) {
            let ((at, _), happening) = entry.remove_entry();
            self.machine.change().now = at;
            self.handle(happening);
        }
        self.head.check();
        assert_eq!((self.head.queue.len(), self.head.books.len()), (0, 0));
        assert!(self.head.is_idle());
        assert_eq!(self.head.places.slots(), (0, 0), "slots in use, and who waits");
        for (rank, state) in self.ranks.iter().filter(|(rank, _)| self.head.liveness.is_alive(**rank)) {
            assert!(state.dead || state.running.is_empty(), "rank {rank} still runs {:?}", state.running);
        }
        for (id, pipe) in self.machine.state().pipes.iter().filter(|(_, pipe)| pipe.open) {
            assert_eq!(self.head.places.owed(*id), (0, 0));
            let more = pipe.bytes as i64 - self.tokens[id] as i64;
            let untaken = self.untaken.get(id).copied().unwrap_or(0);
            assert!((0..=untaken).contains(&more), "{more} tokens more than before; {untaken} clients took none back");
        }
        for (what, count) in std::mem::take(&mut self.head.late) {
            *self.figures.entry(what).or_default() += count;
        }
        self.figures.insert("virtual seconds", self.now() / 1000);
    }
}
