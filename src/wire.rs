//! Every message: between client and dispatcher (frames over a Unix socket) and between ranks (MPI messages).
//! The only file that knows the codec (bincode).
//!
//! A message is a head, encoded, and a payload of raw bytes that the codec never touches, so that file contents are
//! not copied through it:
//!
//! ```text
//! frame on a socket:  u32 head bytes | u32 payload bytes | head | payload      (little endian)
//! MPI message:        u32 head bytes | head | payload
//! ```
//!
//! Both lengths are checked before anything is allocated, and the codec runs with a limit; a malformed frame closes
//! its connection and nothing else.
//!
//! # Versions
//! Two things are the same in all versions: a client's first frame, which begins with the number of `Hello` and the
//! version, and what one of another version hears, [`ToClient::RunLocally`] for the reason [`OTHER_VERSION`].

use crate::ids::Ids;
use bincode::Options;
use mpicc_proxy_abi::table::Stat;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

/// Version of all messages; client, dispatcher and ranks refuse another one.
pub const VERSION: u32 = mpicc_proxy_abi::step::PROTOCOL;

/// Largest head: the environment and command line of one invocation (Linux limits them to 6 MiB together), or the
/// records predicted for one action.
pub const HEAD_BYTES_MAX: usize = 32 << 20;

/// Largest request of a client: what Linux allows for environment and command line, and a source on the standard input
/// (16 MiB). It leaves room for [`RECORDS_BYTES_MAX`] in the message that hands it on to a rank.
pub const REQUEST_BYTES_MAX: usize = 24 << 20;

/// Records that travel along with one action, at most so many bytes: twenty thousand. A rank asks for what it was not
/// told.
pub const RECORDS_BYTES_MAX: usize = 6 << 20;

/// Largest payload: one chunk of a file. Small enough that short messages keep flowing between chunks.
pub const PAYLOAD_BYTES_MAX: usize = 1 << 20;

/// Why a client of another version is on its own.
pub const OTHER_VERSION: &str = "other-version";

/// How often a rank looks whether the others and its launcher are still there.
pub const BEAT: Duration = Duration::from_secs(1);

/// A rank that had nothing to say for so long says that it is there. A message and its ring cost both ends some 100 us, and
/// rank 0 has as many correspondents as there are ranks; what is silent for 20 s is lost.
pub const SILENCE: Duration = Duration::from_secs(5);

/// How often clients that wait hear that rank 0 is there. They give it up after 30 s.
pub const SIGN_OF_LIFE: Duration = Duration::from_secs(10);

/// Bytes of messages in flight to a rank, of whatever kind, above which no more contents follow: what a small message
/// may have to wait behind. Counted by rank, because messages to a dead one stay in flight for good. Four payloads keep
/// a link of 1 GB/s busy between two turns of the loop.
pub const IN_FLIGHT_BYTES_MAX: usize = 4 * PAYLOAD_BYTES_MAX;

/// A byte string: argument, path or environment entry. Never text.
pub type Bytes = Vec<u8>;

/// BLAKE3 of a content, with its length in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Digest {
    pub hash: [u8; 32],
    pub bytes: u64,
}

impl Digest {
    pub fn of(content: &[u8]) -> Digest {
        Digest { hash: *blake3::hash(content).as_bytes(), bytes: content.len() as u64 }
    }

    /// Of a content of so many bytes with this name in a host's store.
    pub fn named(name: &str, bytes: u64) -> Option<Digest> {
        Some(Digest { hash: *blake3::Hash::from_hex(name).ok()?.as_bytes(), bytes })
    }

    /// The name of the content in a host's store.
    pub fn file_name(&self) -> String {
        blake3::Hash::from_bytes(self.hash).to_hex().to_string()
    }
}

/// One intercepted command, as the client saw it: all that the real driver would have been given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invocation {
    /// Absolute path of the driver.
    pub driver: Bytes,
    /// The command line; `argv[0]` as the build system wrote it.
    pub argv: Vec<Bytes>,
    /// `NAME=value` entries, without the variables of ours and without our entry in `LD_PRELOAD`.
    pub environment: Vec<Bytes>,
    /// The working directory, from getcwd(2).
    pub cwd: Bytes,
    pub umask: u32,
    /// Bit n: descriptor n (0 to 2) is a terminal.
    pub terminals: u32,
    /// rows, columns, x and y pixels of the terminal on descriptor 0, if it is one.
    pub window: Option<[u16; 4]>,
    /// stdout and stderr are the same open file: their order matters to the reader.
    pub merged_output: bool,
    /// Limits that are narrower than usual: `RLIMIT_*`, soft and hard value. At most
    /// `mpicc_proxy_abi::task::LIMITS_MAX`.
    pub limits: Vec<(u32, u64, u64)>,
    /// How the client sees the head's files.
    pub viewpoint: Viewpoint,
    /// The source that comes on descriptor 0, if one does.
    pub stdin: Option<Box<Stdin>>,
}

/// What a compiler reads from descriptor 0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stdin {
    pub content: Bytes,
    /// Seconds and nanoseconds of a file's time, which `__TIMESTAMP__` shows; a pipe has none worth telling.
    pub modified: Option<(i64, i64)>,
}

/// What decides which files a process sees and may touch. The dispatcher looks at the tree for its clients, so theirs
/// must equal its own; otherwise (another mount namespace, chroot, newgrp, dropped capabilities) the compile runs
/// locally.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Viewpoint {
    /// Device and inode of the mount namespace.
    pub mounts: (u64, u64),
    /// Device and inode of `/`.
    pub root: (u64, u64),
    /// Effective user and group.
    pub user: u32,
    pub group: u32,
    /// Supplementary groups, in ascending order.
    pub groups: Vec<u32>,
    /// Effective capabilities, as a bit mask.
    pub capabilities: u64,
}

impl Invocation {
    /// All but the environment.
    pub fn without_environment(&self) -> Invocation {
        Invocation {
            driver: self.driver.clone(),
            argv: self.argv.clone(),
            environment: Vec::new(),
            cwd: self.cwd.clone(),
            limits: self.limits.clone(),
            viewpoint: self.viewpoint.clone(),
            stdin: self.stdin.clone(),
            ..*self
        }
    }

    /// Value of an environment variable.
    pub fn variable(&self, name: &[u8]) -> Option<&[u8]> {
        crate::environment::value_among(&self.environment, name)
    }
}

/// The GNU make jobserver that an invocation belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Jobserver {
    /// Device and inode of its pipe or FIFO.
    pub id: (u64, u64),
    /// What opens its ends.
    pub read: Bytes,
    pub write: Bytes,
    /// Process and start time (proc(5)) of the job that the invocation is, or is a part of: the child of make to which
    /// make gave a token.
    pub job: (i32, u64),
}

/// Where bytes of a result belong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stream {
    Stdout,
    Stderr,
    /// The n-th entry of [`ActionResult::outputs`].
    Output(u32),
}

/// What happened to one path on the worker, to be repeated on the head.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OutputKind {
    /// A regular file of `bytes` bytes with permission bits `mode`. `replaces`: the compiler unlinked the old name or
    /// renamed over it; otherwise it wrote into whatever the name stood for. `chosen`: the compiler set the mode itself;
    /// `times`: so it did with the times of access and modification (seconds and nanoseconds).
    File {
        mode: u32,
        bytes: u64,
        replaces: bool,
        chosen: bool,
        times: Option<[(i64, i64); 2]>,
    },
    Directory {
        mode: u32,
    },
    /// A symbolic link.
    Link {
        target: Bytes,
    },
    Deleted,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// Absolute path on the head, as the compiler spelled it (joined with the working directory).
    pub path: Bytes,
    pub kind: OutputKind,
}

/// How the driver ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    Code(i32),
    Signal(i32),
}

/// The result of an action; contents travelled before it as chunks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActionResult {
    pub exit: Exit,
    /// In the order in which the compiler first touched them.
    pub outputs: Vec<Output>,
    /// user + system CPU of the driver and all below it, from wait4(2).
    pub cpu_us: u64,
    /// Most resident memory of one of its processes, from wait4(2).
    pub peak_bytes: u64,
    /// Questions the compile had to ask the head.
    pub misses: u64,
    /// Bytes of the standard input that the compile read, if it had one.
    pub stdin_read: u64,
}

/// Client → dispatcher.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum ToDispatcher {
    /// First frame of every connection; `version` must be [`VERSION`].
    Hello { version: u32 },
    /// Please compile. Meanwhile its place on the head is free for others. `lent`: it was lent through a dispatcher that is
    /// gone, and is not back. `only_ranks`: to run it here would be a failure.
    Compile { invocation: Box<Invocation>, place: Place, lent: bool, only_ranks: bool },
    /// The client, which hears nothing any more, takes its token back itself. Nothing is answered.
    TakesBack,
    /// For the statistics: this invocation runs locally. With what it takes a slot of the head for, answered by
    /// [`ToClient::Go`] when there is one; else nothing is answered.
    Local(Box<LocalNote>),
    /// For the statistics: the result was published. Nothing is answered.
    Published(ClientCpu),
    /// Answered by [`ToClient::Status`].
    Status,
    /// End the job; answered by [`ToClient::Stopping`].
    Stop,
    /// A ninja asks ([`mpicc_proxy_abi::step`]); answered by [`ToClient::Parallelism`].
    Parallelism { within: u32 },
    /// A process of a ninja's step asks ([`mpicc_proxy_abi::step`]); answered by [`ToClient::Go`].
    Enter { step: u32 },
}

/// Why an invocation runs locally, and what it is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalNote {
    pub reason: String,
    pub detail: String,
    /// The value of its `-o`, absolute; empty without one.
    pub output: Bytes,
    /// What Spack builds; empty without it.
    pub package: Bytes,
    pub client_cpu_us: u64,
    pub slot: Option<SlotUser>,
}

/// What entitles an invocation to run on the head, and is free for others while it runs on a rank.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Place {
    /// The token of its job.
    Token(Jobserver),
    /// The token of its job, which cannot be lent; the name of the reason.
    FixedToken(String),
    /// A slot of the head, of which the dispatcher keeps count.
    Slot(SlotUser),
}

/// Who takes a slot of the head, until it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SlotUser {
    /// This step of a ninja, a process id.
    Step(u32),
    /// The client's own process.
    Client,
}

/// CPU of a client whose compile ran on a rank, by what it did, in microseconds. Its exit is not among it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientCpu {
    /// Until its main function: the hook, execve(2), the loader.
    pub start_us: u64,
    /// Reading the command line and collecting what the dispatcher must know.
    pub parse_us: u64,
    /// Connecting and asking.
    pub ask_us: u64,
    /// Receiving the result.
    pub wait_us: u64,
    pub publish_us: u64,
}

/// Dispatcher → client.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum ToClient {
    /// The payload belongs to `stream`.
    Chunk {
        stream: Stream,
    },
    /// The dispatcher is alive; sent to everybody who waits. The library knows its number ([`mpicc_proxy_abi::step`]).
    Heartbeat,
    /// The token of the client's job was lent. It is taken back before the last frame is sent; who gets none takes it
    /// back itself.
    Lent,
    /// Forget the chunks so far: the action starts over on another rank.
    Restart,
    /// The last frame of a remote compile.
    Done(ActionResult),
    /// Run the driver yourself. `detail`: why ranks that had it did not carry it out.
    RunLocally {
        reason: String,
        detail: String,
    },
    Status(Box<Stats>),
    Stopping,
    /// There is a slot of the head for whoever asked.
    Go,
    /// So many steps may run at once.
    Parallelism {
        steps: u32,
    },
}

/// Names of things on the way between ranks. An answer carries the id of its question, so that one for a forgotten
/// question is dropped.
pub type ActionId = u64;
/// Index of a record in the tables of all ranks, for one epoch.
pub type RecordId = u32;
pub type ToolchainId = u32;

/// Mirror of the shared-memory stat record, for the codec.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Stat")]
struct StatMirror {
    dev: u64,
    ino: u64,
    rdev: u64,
    mode: u32,
    uid: u32,
    gid: u32,
    nlink: u32,
    size: i64,
    blksize: i64,
    blocks: i64,
    atime: [i64; 2],
    mtime: [i64; 2],
    ctime: [i64; 2],
}

/// What the head knows of one path, at one version. An errno of 0 means that the call succeeded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub id: RecordId,
    /// As asked: absolute, `//` and `/./` collapsed, `..` kept.
    pub path: Bytes,
    pub stat_errno: i32,
    #[serde(with = "StatMirror")]
    pub stat: Stat,
    pub lstat_errno: i32,
    #[serde(with = "StatMirror")]
    pub lstat: Stat,
    pub link: Bytes,
    pub real_errno: i32,
    pub real: Bytes,
    /// Bits of `mpicc_proxy_abi::table::ACCESS_*`.
    pub access: u32,
    /// Why writing is not granted, or 0.
    pub write_errno: i32,
    /// Of a readable file's content, or of a directory's names (`mpicc_proxy_abi::listing`).
    pub digest: Option<Digest>,
}

impl Record {
    /// It takes no more in a message.
    pub fn bytes_at_most(&self) -> usize {
        512 + self.path.len() + self.link.len() + self.real.len()
    }
}

/// A file that must be the same on the worker's host as on the head.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SameFile {
    pub path: Bytes,
    /// `None`: it must be absent.
    pub digest: Option<Digest>,
}

/// Everything that decides what a driver does with a given tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Toolchain {
    /// Paths that may be executed, as the driver spells them; the driver comes first.
    pub programs: Vec<Bytes>,
    /// Their real paths on the head, in the same order.
    pub reals: Vec<Bytes>,
    /// The programs and their libraries.
    pub files: Vec<SameFile>,
    /// How they are laid out on a host that has others, or why that cannot be done.
    pub shipment: Result<Shipment, String>,
    pub behind: BehindLibc,
}

/// A file of the head's with its name in a folder of a host that lacks it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ShippedFile {
    /// Relative to the folder.
    pub name: Bytes,
    /// On the head.
    pub source: Bytes,
    pub digest: Digest,
}

/// A toolchain as a folder of a host that does not have it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shipment {
    /// `e_machine` of all its ELF files.
    pub machine: u16,
    /// `ld.so`, `bin/<n>` for the n-th program, `lib/<name>`.
    pub files: Vec<ShippedFile>,
    /// Files of the folder whose own DT_RPATH must not be followed; an empty name stands for the programs.
    pub rpaths: Vec<Bytes>,
}

/// Files that libc opens behind the preload library's back (locale, time zone).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BehindLibc {
    pub same: Vec<SameFile>,
    /// Their copies for a host that has others.
    pub files: Vec<ShippedFile>,
    /// What leads libc to the copies.
    pub variables: Vec<Variable>,
    /// The head has a locale archive, which no variable leads to.
    pub has_archive: bool,
}

/// An environment variable of a compile on a host whose own files behind libc are others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Variable {
    pub name: Bytes,
    pub value: Bytes,
    /// The value is a name in the toolchain's folder.
    pub in_folder: bool,
}

/// Why a host cannot have a toolchain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unfit {
    /// A stable name.
    pub reason: String,
    pub detail: String,
}

/// Environments a rank remembers. A build has a few: one for each folder and variant of flags at most.
pub const ENVIRONMENTS_KEPT: usize = 16;

/// An environment, by its place in the rank's memory of [`ENVIRONMENTS_KEPT`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlottedEnvironment {
    pub slot: u8,
    /// What to put there first; `None`: it is there.
    pub entries: Option<Vec<Bytes>>,
}

/// One action for one rank.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Assignment {
    pub action: ActionId,
    pub epoch: u32,
    pub toolchain: ToolchainId,
    /// With an empty environment.
    pub invocation: Invocation,
    pub environment: SlottedEnvironment,
    /// Records this rank does not have yet.
    pub records: Vec<Record>,
    /// Records, new or old, that the head validated for this action.
    pub valid: Ids,
}

/// What the head tells along with an answer: records that were validated for the action as well, though it did not ask.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Also {
    /// Records this rank does not have yet.
    pub records: Vec<Record>,
    pub valid: Vec<RecordId>,
}

/// What a compile needs to know of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Want {
    Record,
    Content,
    Listing,
}

/// Rank 0 → worker rank.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum ToRank {
    /// First message to every rank: the session's name, which its folders on every host carry. `returns`: its ranks are
    /// started again when they die, and are to find the contents that are on their hosts.
    Welcome {
        session: String,
        returns: bool,
    },
    /// Answered by [`FromRank::Toolchain`] or [`FromRank::Lacks`].
    Toolchain {
        id: ToolchainId,
        toolchain: Box<Toolchain>,
    },
    /// What the rank's host lacked of a toolchain was sent, to this rank or another of the host; answered as above, when
    /// what is fetched has come or will not.
    Shipped {
        id: ToolchainId,
    },
    Assign(Box<Assignment>),
    Cancel {
        action: ActionId,
    },
    /// Answer to [`FromRank::Ask`]: `record` when this rank does not have it yet.
    Answer {
        action: ActionId,
        epoch: u32,
        path: Bytes,
        id: RecordId,
        record: Option<Box<Record>>,
        also: Also,
    },
    /// The payload is the part of the content that starts at `at`.
    Blob {
        digest: Digest,
        at: u64,
    },
    /// The payload is these contents, one after the other.
    Blobs {
        digests: Vec<Digest>,
    },
    /// Not to be had here: on rank 0 the file is no longer what its digest says, another rank does not have it.
    BlobGone {
        digest: Digest,
    },
    /// These contents are, or soon will be, on the host of rank `from`, which brings them when asked by
    /// [`ToRank::Bring`]. `bell`: how that rank is rung ([`crate::doorbell`]).
    Fetch {
        from: i32,
        bell: Bytes,
        contents: Vec<Digest>,
    },
    /// From one worker rank to another: send me these, by [`ToRank::Blobs`], [`ToRank::Blob`] or [`ToRank::BlobGone`].
    Bring {
        contents: Vec<Digest>,
    },
    Heartbeat,
    Stop,
}

/// Worker rank → rank 0.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum FromRank {
    Hello(RankFacts),
    /// Can this host run that toolchain, its own or a shipped one?
    Toolchain {
        id: ToolchainId,
        verdict: Result<(), Unfit>,
    },
    /// This host could run that toolchain if it had these contents.
    Lacks {
        id: ToolchainId,
        contents: Vec<Digest>,
    },
    /// A process of the action wants to know about a path.
    Ask {
        action: ActionId,
        path: Bytes,
        want: Want,
    },
    /// A content that rank 0 thinks is here is not (it was evicted, or is still on its way to another rank).
    AskBlob {
        record: RecordId,
        epoch: u32,
        digest: Digest,
    },
    Chunk {
        action: ActionId,
        stream: Stream,
    },
    Done {
        action: ActionId,
        result: ActionResult,
        used: Ids,
    },
    /// The action was not, or not validly, carried out here. `retry`: another rank may do better.
    Refused {
        action: ActionId,
        reason: String,
        detail: String,
        retry: bool,
    },
    /// Contents that earlier ranks of this session left on the host.
    Has {
        contents: Vec<Digest>,
    },
    /// Is there room for compiles on this host? Sent when that changes; at first there is.
    Room {
        enough: bool,
    },
    Heartbeat,
}

/// What a worker rank says of itself at the start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RankFacts {
    pub version: u32,
    pub host: String,
    pub pid: u32,
    /// CPUs this rank may use (its affinity), as a set: ranks of one host that share them share their slots.
    pub cpus: Vec<u32>,
    /// CPUs that are online on the host.
    pub host_cpus: u32,
    /// Memory that the host has left at the start; `None`: it does not say.
    pub free_bytes: Option<u64>,
    /// `--slots`, if given.
    pub slots: Option<u32>,
}

/// The numbers of a session, as printed by `--stats` and `status --json`. Times in seconds, sizes in bytes; all
/// measured (clock, getrusage, wait4), none estimated.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    pub wall_s: f64,
    pub actions: ActionCounts,
    /// Why invocations ran locally.
    pub local_reasons: BTreeMap<String, u64>,
    pub ranks: Vec<RankStats>,
    pub dispatcher_cpu_s: f64,
    pub client_cpu_s: f64,
    /// `dispatcher_cpu_s` by what the dispatcher did: `wait`, `validate`, `codec`, `mpi`, `sockets`, `rest`, `threads`.
    pub dispatcher_cpu_parts_s: BTreeMap<String, f64>,
    /// CPU of the clients of remote compiles, by the fields of [`ClientCpu`].
    pub client_cpu_parts_s: BTreeMap<String, f64>,
    pub per_action: PerAction,
    /// CPU of the remote compilers.
    pub compile_cpu_s: f64,
    pub bytes_to_workers: u64,
    pub bytes_from_workers: u64,
    pub misses: u64,
    pub retries: u64,
    /// How often `run` started the ranks again because they had died.
    pub relaunches: u64,
    pub tokens: TokenCounts,
    pub local_slots: SlotCounts,
}

/// Tokens of GNU make's jobservers that clients lent while they waited.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenCounts {
    pub lent: u64,
    /// Of these, those that another client of ours, or what was owed, took at once: no byte was written.
    pub handed_on: u64,
    /// Not to be had when their client was ready to end: taken later.
    pub late: u64,
    /// Why compiles on ranks lent none.
    pub unlent_reasons: BTreeMap<String, u64>,
}

/// Slots of the head, for what runs there and no jobserver counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotCounts {
    pub limit: u32,
    /// Processes that waited for one.
    pub waited: u64,
    /// Given to others while a compile of their user was on a rank.
    pub lent: u64,
    /// Given beyond the limit to those that might have waited for ever.
    pub beyond: u64,
}

/// Spreads over the last few thousand remote compiles.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PerAction {
    pub misses_median: u64,
    pub misses_p90: u64,
    /// Bytes sent to the rank for one action, contents included.
    pub sent_bytes_median: u64,
    pub sent_bytes_p90: u64,
    pub client_us_median: u64,
    pub client_us_p90: u64,
    /// The last few hundred, oldest first.
    pub recent: Vec<ActionFigures>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActionFigures {
    pub misses: u64,
    pub sent_bytes: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ActionCounts {
    /// Compiled on a rank, with whatever exit status.
    pub remote: u64,
    /// Invocations that ran on the head, for the reasons in `local_reasons`.
    pub local: u64,
    /// Answered from a cache.
    pub hit: u64,
    /// Of `remote`: ended with a status other than 0.
    pub failed: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RankStats {
    pub rank: i32,
    pub host: String,
    pub slots: u32,
    /// Actions finished on this rank.
    pub actions: u64,
    /// CPU of the compilers that ran under this rank.
    pub cpu_s: f64,
}

fn codec() -> impl Options {
    bincode::DefaultOptions::new().with_fixint_encoding().with_limit(HEAD_BYTES_MAX as u64)
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn encode_head<T: Serialize>(head: &T) -> io::Result<Vec<u8>> {
    codec().serialize(head).map_err(|e| invalid(format!("cannot encode a message: {e}")))
}

fn decode_head<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    codec().deserialize(bytes).map_err(|e| invalid(format!("malformed message: {e}")))
}

/// Bytes before the head of a frame.
const LENGTHS_BYTES: usize = 8;

/// A frame for a socket.
///
/// # Errors
/// The head exceeds [`HEAD_BYTES_MAX`] or the payload [`PAYLOAD_BYTES_MAX`].
pub fn frame<T: Serialize>(head: &T, payload: &[u8]) -> io::Result<Vec<u8>> {
    let mut out = frame_before(head, payload)?;
    out.extend_from_slice(payload);
    Ok(out)
}

/// What comes before the payload in its frame.
///
/// # Errors
/// As [`frame`].
pub fn frame_before<T: Serialize>(head: &T, payload: &[u8]) -> io::Result<Vec<u8>> {
    let head = encode_head(head)?;
    if payload.len() > PAYLOAD_BYTES_MAX {
        return Err(invalid(format!("a payload of {} bytes exceeds the limit of {PAYLOAD_BYTES_MAX}", payload.len())));
    }
    let mut out = Vec::with_capacity(LENGTHS_BYTES + head.len());
    out.extend_from_slice(&(head.len() as u32).to_le_bytes());
    out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    out.extend_from_slice(&head);
    Ok(out)
}

/// Of head and payload of the frame at the front of `buffer`.
fn lengths(buffer: &[u8]) -> io::Result<Option<(usize, usize)>> {
    let Some([a, b, c, d, e, f, g, h]) = buffer.first_chunk().copied() else { return Ok(None) };
    let head_bytes = u32::from_le_bytes([a, b, c, d]) as usize;
    let payload_bytes = u32::from_le_bytes([e, f, g, h]) as usize;
    if head_bytes > HEAD_BYTES_MAX || payload_bytes > PAYLOAD_BYTES_MAX {
        return Err(invalid(format!("a frame announces {head_bytes} + {payload_bytes} bytes, more than allowed")));
    }
    Ok(Some((head_bytes, payload_bytes)))
}

/// Numbers of [`ToDispatcher::Hello`] and [`ToDispatcher::Compile`].
const HELLO: u32 = 0;
const COMPILE: u32 = 1;

/// What a client of another version said, as far as that can be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Greeting {
    pub version: u32,
    /// It goes on to ask for a compile.
    pub compiles: bool,
}

/// The greeting at the front of what a client sent, if it is there.
///
/// # Errors
/// It is none.
pub fn greeting(buffer: &[u8]) -> io::Result<Option<Greeting>> {
    let word = |at: usize| Some(u32::from_le_bytes(*buffer.get(at..)?.first_chunk()?));
    if word(LENGTHS_BYTES).is_some_and(|number| number != HELLO) {
        return Err(invalid("a client that does not greet".to_owned()));
    }
    let (Some(head_bytes), Some(version)) = (word(0), word(LENGTHS_BYTES + 4)) else { return Ok(None) };
    Ok(Some(Greeting { version, compiles: word(head_bytes as usize + 2 * LENGTHS_BYTES) == Some(COMPILE) }))
}

/// How many bytes the frame at the front of `buffer` lacks; 0 if it has not even said how long it is.
///
/// # Errors
/// As [`take_frame`].
pub fn lacking(buffer: &[u8]) -> io::Result<usize> {
    let whole = |(head_bytes, payload_bytes)| LENGTHS_BYTES + head_bytes + payload_bytes;
    Ok(lengths(buffer)?.map_or(0, whole).saturating_sub(buffer.len()))
}

/// Takes one frame off the front of `buffer`, if a whole one is there. One that fills the buffer takes its memory along,
/// so that a large payload is not copied into more new pages.
///
/// # Errors
/// The frame announces more than the limits allow, or its head does not decode. The connection must be closed.
pub fn take_frame<T: DeserializeOwned>(buffer: &mut Vec<u8>) -> io::Result<Option<(T, Vec<u8>)>> {
    let Some((head_bytes, payload_bytes)) = lengths(buffer)? else { return Ok(None) };
    let payload_at = LENGTHS_BYTES + head_bytes;
    let end = payload_at + payload_bytes;
    if buffer.len() < end {
        return Ok(None);
    }
    let head = decode_head(&buffer[LENGTHS_BYTES..payload_at])?;
    if buffer.len() == end && payload_bytes > 0 {
        buffer.drain(..payload_at);
        return Ok(Some((head, std::mem::take(buffer))));
    }
    let payload = buffer[payload_at..end].to_vec();
    buffer.drain(..end);
    Ok(Some((head, payload)))
}

/// An MPI message.
///
/// # Errors
/// As [`frame`].
pub fn message<T: Serialize>(head: &T, payload: &[u8]) -> io::Result<Vec<u8>> {
    let head = encode_head(head)?;
    let mut out = Vec::with_capacity(4 + head.len() + payload.len());
    out.extend_from_slice(&(head.len() as u32).to_le_bytes());
    out.extend_from_slice(&head);
    out.extend_from_slice(payload);
    Ok(out)
}

/// Splits an MPI message into head and payload.
///
/// # Errors
/// The message is shorter than it says, or its head does not decode.
pub fn take_message<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<(T, &[u8])> {
    let short = || invalid(format!("an MPI message of {} bytes is cut short", bytes.len()));
    let (length, rest) = bytes.split_first_chunk::<4>().ok_or_else(short)?;
    let head_bytes = u32::from_le_bytes(*length) as usize;
    if rest.len() < head_bytes {
        return Err(short());
    }
    Ok((decode_head(&rest[..head_bytes])?, &rest[head_bytes..]))
}

#[cfg(test)]
pub mod tests {
    use super::*;

    #[test]
    fn the_library_writes_and_reads_the_same_frames() {
        use mpicc_proxy_abi::step::{self, Question};
        let hello = frame(&ToDispatcher::Hello { version: VERSION }, b"").unwrap();
        let table = [
            (Question::Parallelism, ToDispatcher::Parallelism { within: 77 }),
            (Question::Enter, ToDispatcher::Enter { step: 77 }),
        ];
        for (question, message) in table {
            let frames = [hello.clone(), frame(&message, b"").unwrap()].concat();
            assert_eq!(step::question(question, 77).as_slice(), frames, "{question:?}");
        }
        let words = |answer: ToClient| {
            let bytes = frame(&answer, b"").unwrap();
            assert!(bytes.len() <= LENGTHS_BYTES + step::ANSWER_BYTES_MAX);
            let words = bytes[step::LENGTHS_BYTES..].chunks_exact(4);
            words.map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect::<Vec<_>>()
        };
        assert_eq!(words(ToClient::Heartbeat), [step::HEARTBEAT]);
        assert_ne!(words(ToClient::Go), [step::HEARTBEAT]);
        assert_eq!(words(ToClient::Parallelism { steps: 66 })[1..], [66]);
    }

    #[test]
    fn frames_survive_arbitrary_splits() {
        let head = ToClient::RunLocally { reason: "link".into(), detail: "x".into() };
        let bytes = frame(&head, b"payload").unwrap();
        let mut buffer = Vec::new();
        for byte in &bytes[..bytes.len() - 1] {
            buffer.push(*byte);
            assert!(take_frame::<ToClient>(&mut buffer).unwrap().is_none());
            let known = buffer.len() >= LENGTHS_BYTES;
            assert_eq!(lacking(&buffer).unwrap(), if known { bytes.len() - buffer.len() } else { 0 });
        }
        buffer.push(*bytes.last().unwrap());
        let (head, payload) = take_frame::<ToClient>(&mut buffer).unwrap().unwrap();
        assert!(matches!(head, ToClient::RunLocally { reason, .. } if reason == "link"));
        assert_eq!(payload, b"payload");
        assert!(buffer.is_empty());
    }

    #[test]
    fn malformed_frames_are_refused_before_they_are_believed() {
        let mut huge = vec![0xff; 8];
        assert!(take_frame::<ToDispatcher>(&mut huge).is_err());
        let mut garbage = frame(&ToDispatcher::Status, b"").unwrap();
        garbage[8] = 0xee;
        assert!(take_frame::<ToDispatcher>(&mut garbage).is_err());
        // A vector that claims 2^60 elements must fail on the limit, not on memory.
        let mut bomb = frame(
            &ToDispatcher::Compile {
                invocation: Box::new(invocation()),
                place: Place::Slot(SlotUser::Client),
                lent: true,
                only_ranks: false,
            },
            b"",
        )
        .unwrap();
        bomb[12..20].copy_from_slice(&(1u64 << 60).to_le_bytes());
        assert!(take_frame::<ToDispatcher>(&mut bomb).is_err());
    }

    #[test]
    fn bytes_stay_bytes() {
        let bytes = message(&invocation(), b"\x00\xff").unwrap();
        let (back, payload): (Invocation, _) = take_message(&bytes).unwrap();
        assert_eq!(back, invocation());
        assert_eq!(payload, b"\x00\xff");
        assert_eq!(back.variable(b"A"), Some(&b"\xfe"[..]));
        assert!(take_message::<Invocation>(&bytes[..20]).is_err());
    }

    pub fn invocation() -> Invocation {
        Invocation {
            driver: b"/usr/bin/gcc".to_vec(),
            argv: vec![b"gcc".to_vec(), b"\xff.c".to_vec()],
            environment: vec![b"A=\xfe".to_vec()],
            cwd: b"/".to_vec(),
            umask: 0o022,
            terminals: 0,
            window: None,
            merged_output: false,
            limits: vec![],
            viewpoint: Viewpoint::default(),
            stdin: None,
        }
    }
}
