//! What takes bytes from outside, as functions of bytes: each must end, soon and without a panic, whatever the bytes are,
//! and what it promises for all input is asserted here. Run by libFuzzer (`integration/fuzz`), and by `cargo test` with
//! some thousand changes to each seed (`tests/mutations.rs`).
//!
//! Parts of the preload library, which is no crate that could be linked, are included as modules of the crate root:
//! `elf`, `entries`, `fixed`, `path` and `target`.

use crate::{elf, entries, fixed, path};
use mpicc_proxy::dispatcher::clients::Clients;
use mpicc_proxy::dispatcher::files::HeadTree;
use mpicc_proxy::dispatcher::history::History;
use mpicc_proxy::doorbell::{Address, Doorbell};
use mpicc_proxy::driver::toolchain::ToolchainKey;
use mpicc_proxy::driver::toolchain::readings::{Format, Reading, Use, Version};
use mpicc_proxy::driver::toolchain::stamps::Stamp;
use mpicc_proxy::driver::{self, Verdict, native};
use mpicc_proxy::environment::{preload_with_ours, preload_without_ours};
use mpicc_proxy::ids::Ids;
use mpicc_proxy::jobs::{self, Flags};
use mpicc_proxy::publish::publish;
use mpicc_proxy::size::Size;
use mpicc_proxy::wire::{
    self, ActionResult, Also, Assignment, Bytes, Digest, Exit, FromRank, Invocation, Jobserver, Output, OutputKind,
    Place, RankFacts, Record, SlottedEnvironment, Stats, Stream, ToClient, ToDispatcher, ToRank, Want,
};
use mpicc_proxy::{jobserver, launcher, sets};
use mpicc_proxy_abi::table::{Entry, Facts, TABLE_BYTES, Table, Writer, hash_path};
use mpicc_proxy_abi::task::{PAGE_BYTES, Page, WRITES_MAX, WriteState};
use mpicc_proxy_abi::{driver as names, listing, socket, step};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ffi::{CStr, OsStr, OsString};
use std::io::{Read, Write};
use std::net::UdpSocket;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A function of bytes.
pub struct Target {
    pub name: &'static str,
    /// Real input, to start from.
    pub seeds: fn() -> Vec<Vec<u8>>,
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: [Target; 13] = [
    Target { name: "frames", seeds: frames_seeds, run: frames },
    Target { name: "messages", seeds: messages_seeds, run: messages },
    Target { name: "socket", seeds: socket_seeds, run: socket },
    Target { name: "invocations", seeds: invocations_seeds, run: invocations },
    Target { name: "commands", seeds: commands_seeds, run: commands },
    Target { name: "makeflags", seeds: makeflags_seeds, run: makeflags },
    Target { name: "history", seeds: history_seeds, run: history },
    Target { name: "sets", seeds: sets_seeds, run: sets },
    Target { name: "doorbell", seeds: doorbell_seeds, run: doorbell },
    Target { name: "words", seeds: words_seeds, run: words },
    Target { name: "programs", seeds: programs_seeds, run: programs },
    Target { name: "memory", seeds: memory_seeds, run: memory },
    Target { name: "results", seeds: results_seeds, run: results },
];

/// Sections of input that is text for the most part.
fn sections(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    data.split(|byte| *byte == b'\n')
}

fn lines(data: &[&str]) -> Vec<u8> {
    data.join("\n").into_bytes()
}

fn owned(words: &[&str]) -> Vec<Bytes> {
    words.iter().map(|word| word.as_bytes().to_vec()).collect()
}

// --- frames between clients and dispatcher ------------------------------------------------------------------------

/// The first byte says how large the pieces are that the rest comes in.
fn frames(data: &[u8]) {
    let Some((piece, stream)) = data.split_first() else { return };
    frames_of::<ToDispatcher>(stream, usize::from(*piece) + 1, |_| true);
    // A map may have come in another order than ours.
    frames_of::<ToClient>(stream, usize::from(*piece) + 1, |frame| !matches!(frame, ToClient::Status(_)));
}

fn frames_of<T: Serialize + DeserializeOwned>(stream: &[u8], piece: usize, is_canonical: fn(&T) -> bool) {
    let (at_once, refused) = taken::<T>(stream.chunks(stream.len().max(1)));
    let (in_pieces, refused_later) = taken::<T>(stream.chunks(piece));
    assert_eq!((at_once.len(), refused), (in_pieces.len(), refused_later), "pieces decide what is in a stream");
    let mut rest = stream;
    for (frame, payload) in &at_once {
        let again = wire::frame(frame, payload).expect("it came in a frame");
        if is_canonical(frame) {
            assert!(rest.starts_with(&again), "another frame than came in");
        }
        rest = &rest[again.len().min(rest.len())..];
        let (once_more, _) = wire::take_frame::<T>(&mut again.clone()).unwrap().expect("a whole frame");
        assert_eq!(wire::frame(&once_more, payload).unwrap(), again);
    }
}

/// The frames in a stream, and whether it ends in a malformed one.
fn taken<'a, T: DeserializeOwned>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<(T, Vec<u8>)>, bool) {
    let (mut frames, mut buffer) = (Vec::new(), Vec::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            match wire::take_frame(&mut buffer) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(_) => return (frames, true),
            }
        }
        let lacking = wire::lacking(&buffer).expect("take_frame had no objection");
        assert!(lacking > 0 || buffer.len() < 8, "a whole frame was left");
    }
    (frames, false)
}

fn invocation() -> Invocation {
    Invocation {
        driver: b"/usr/bin/gcc".to_vec(),
        argv: owned(&["gcc", "-O2", "-c", "../src/a.c", "-o", "a.o"]),
        environment: owned(&["PATH=/usr/bin:/bin", "LANG=C.UTF-8", "PWD=/home/u/build"]),
        cwd: b"/home/u/build".to_vec(),
        umask: 0o022,
        terminals: 7,
        window: Some([24, 80, 0, 0]),
        merged_output: true,
        limits: vec![(3, 1 << 20, 1 << 21)],
        viewpoint: wire::Viewpoint { groups: vec![1, 2], ..Default::default() },
        stdin: Some(Box::new(wire::Stdin { content: b"int x;\n".to_vec(), modified: Some((1, 2)) })),
    }
}

fn result() -> ActionResult {
    let file = |path: &str, bytes| Output {
        path: path.into(),
        kind: OutputKind::File { mode: 0o644, bytes, replaces: true, chosen: true, times: Some([(1, 2), (3, 4)]) },
    };
    let other = |path: &str, kind| Output { path: path.into(), kind };
    ActionResult {
        exit: Exit::Code(0),
        outputs: vec![
            file("/home/u/build/a.o", 4),
            other("/home/u/build/d", OutputKind::Directory { mode: 0o755 }),
            other("/home/u/build/l", OutputKind::Link { target: b"a.o".to_vec() }),
            other("/home/u/build/a.d", OutputKind::Deleted),
        ],
        peak_bytes: 1 << 30,
        cpu_us: 1234,
        misses: 5,
        stdin_read: 0,
    }
}

fn requests() -> Vec<ToDispatcher> {
    let jobserver = Jobserver { id: (1, 2), read: b"/proc/7/fd/3".to_vec(), write: b"/f".to_vec(), job: (8, 9) };
    let compile =
        |place| ToDispatcher::Compile { invocation: Box::new(invocation()), place, lent: true, only_ranks: false };
    vec![
        ToDispatcher::Hello { version: wire::VERSION },
        compile(Place::Token(jobserver)),
        compile(Place::FixedToken("jobserver-gone".into())),
        compile(Place::Slot(wire::SlotUser::Step(7))),
        ToDispatcher::TakesBack,
        ToDispatcher::Local(Box::new(wire::LocalNote {
            reason: "link".into(),
            detail: "x.o".into(),
            output: b"/b/x".to_vec(),
            package: b"zlib".to_vec(),
            client_cpu_us: 9,
            slot: Some(wire::SlotUser::Client),
        })),
        ToDispatcher::Published(wire::ClientCpu::default()),
        ToDispatcher::Status,
        ToDispatcher::Stop,
        ToDispatcher::Parallelism { within: 3 },
        ToDispatcher::Enter { step: 4 },
    ]
}

fn stats() -> Stats {
    Stats {
        local_reasons: [("link".to_owned(), 3), ("query".to_owned(), 1)].into(),
        ranks: vec![wire::RankStats { rank: 1, host: "n1".into(), slots: 8, actions: 2, cpu_s: 1.5 }],
        ..Stats::default()
    }
}

fn frames_seeds() -> Vec<Vec<u8>> {
    let answers = [
        ToClient::Chunk { stream: Stream::Output(3) },
        ToClient::Heartbeat,
        ToClient::Lent,
        ToClient::Restart,
        ToClient::Done(result()),
        ToClient::RunLocally { reason: "no-ranks".into(), detail: "rank 1 on a: lost".into() },
        ToClient::Status(Box::new(stats())),
        ToClient::Stopping,
        ToClient::Go,
        ToClient::Parallelism { steps: 9 },
    ];
    let mut seeds: Vec<Vec<u8>> = requests().iter().map(|request| wire::frame(request, b"").unwrap()).collect();
    seeds.push(seeds.concat());
    seeds.extend(answers.iter().map(|answer| wire::frame(answer, b"payload").unwrap()));
    seeds.push([step::question(step::Question::Enter, 7).as_slice(), &[0xff; 8]].concat());
    seeds.into_iter().map(|stream| [&[6], stream.as_slice()].concat()).collect()
}

// --- messages between ranks ---------------------------------------------------------------------------------------

fn messages(data: &[u8]) {
    if let Ok((head, payload)) = wire::take_message::<ToRank>(data) {
        assert_eq!(wire::message(&head, payload).unwrap(), data);
        match head {
            ToRank::Assign(assignment) => drop(assignment.valid.list()),
            ToRank::Fetch { bell, .. } => drop(Address::decode(&bell)),
            _ => {}
        }
    }
    if let Ok((head, payload)) = wire::take_message::<FromRank>(data) {
        assert_eq!(wire::message(&head, payload).unwrap(), data);
        if let FromRank::Done { used, .. } = head
            && let Some(ids) = used.list()
        {
            assert!(ids.is_sorted_by(|a, b| a < b));
        }
    }
}

fn messages_seeds() -> Vec<Vec<u8>> {
    let digest = Digest::of(b"content");
    let record = Record {
        id: 7,
        path: b"/usr/include/stdio.h".to_vec(),
        stat_errno: 0,
        stat: Default::default(),
        lstat_errno: 2,
        lstat: Default::default(),
        link: b"target".to_vec(),
        real_errno: 0,
        real: b"/usr/include/stdio.h".to_vec(),
        access: 4,
        write_errno: 13,
        digest: Some(digest),
    };
    let shipped = wire::ShippedFile { name: b"lib/libc.so.6".to_vec(), source: b"/lib/libc.so.6".to_vec(), digest };
    let shipment = wire::Shipment { machine: 62, files: vec![shipped.clone()], rpaths: vec![vec![]] };
    let same = wire::SameFile { path: b"/etc/localtime".to_vec(), digest: None };
    let toolchain = wire::Toolchain {
        programs: owned(&["/usr/bin/gcc"]),
        reals: owned(&["/usr/bin/x86_64-linux-gnu-gcc-12"]),
        files: vec![wire::SameFile { path: b"/usr/bin/gcc".to_vec(), digest: Some(digest) }],
        shipment: Ok(shipment),
        behind: wire::BehindLibc {
            same: vec![same],
            files: vec![shipped],
            variables: vec![wire::Variable { name: b"TZ".to_vec(), value: b"UTC0".to_vec(), in_folder: false }],
            has_archive: true,
        },
    };
    let assignment = Assignment {
        action: 1,
        epoch: 2,
        toolchain: 3,
        invocation: invocation(),
        environment: SlottedEnvironment { slot: 3, entries: Some(owned(&["A=1"])) },
        records: vec![record.clone()],
        valid: Ids::of(vec![1, 2, 300]),
    };
    let also = Also { records: vec![record.clone()], valid: vec![7] };
    let bell = [[1; 16], [2; 16]].concat().into_iter().chain([3, 4, 127, 0, 0, 1]).collect();
    let to_rank = [
        ToRank::Welcome { session: "mpicc-proxy-0-1".into(), returns: true },
        ToRank::Toolchain { id: 1, toolchain: Box::new(toolchain) },
        ToRank::Shipped { id: 1 },
        ToRank::Assign(Box::new(assignment)),
        ToRank::Cancel { action: 1 },
        ToRank::Answer { action: 1, epoch: 2, path: b"/a".to_vec(), id: 7, record: Some(Box::new(record)), also },
        ToRank::Blob { digest, at: 0 },
        ToRank::Blobs { digests: vec![digest, digest] },
        ToRank::BlobGone { digest },
        ToRank::Fetch { from: 2, bell, contents: vec![digest] },
        ToRank::Bring { contents: vec![digest] },
        ToRank::Heartbeat,
        ToRank::Stop,
    ];
    let unfit = wire::Unfit { reason: "toolchain-store".into(), detail: "no room".into() };
    let facts = RankFacts {
        version: 1,
        host: "n1".into(),
        pid: 1,
        cpus: vec![0, 1],
        host_cpus: 2,
        free_bytes: Some(1),
        slots: Some(2),
    };
    let refused =
        FromRank::Refused { action: 1, reason: "store-full".into(), detail: "it is full".into(), retry: true };
    let from_rank = [
        FromRank::Hello(facts),
        FromRank::Toolchain { id: 1, verdict: Err(unfit) },
        FromRank::Lacks { id: 1, contents: vec![digest] },
        FromRank::Ask { action: 1, path: b"/a".to_vec(), want: Want::Content },
        FromRank::AskBlob { record: 7, epoch: 2, digest },
        FromRank::Chunk { action: 1, stream: Stream::Stderr },
        FromRank::Done { action: 1, result: result(), used: Ids::of(vec![0, 5, 6, 1000]) },
        refused,
        FromRank::Room { enough: false },
        FromRank::Heartbeat,
    ];
    let to_rank = to_rank.iter().map(|head| wire::message(head, b"payload").unwrap());
    to_rank.chain(from_rank.iter().map(|head| wire::message(head, b"payload").unwrap())).collect()
}

// --- the dispatcher's socket --------------------------------------------------------------------------------------

/// A stranger writes the bytes, and somebody else is served all the same. The first byte: how much of it at once.
fn socket(data: &[u8]) {
    let Some((piece, stream)) = data.split_first() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let mut clients = Clients::listen(&path).unwrap();
    let mut stranger = UnixStream::connect(&path).unwrap();
    let mut other = UnixStream::connect(&path).unwrap();
    clients.accept();
    let mut is_over = false;
    let mut frames = Vec::new();
    for piece in stream.chunks(usize::from(*piece) * 64 + 1) {
        if stranger.write_all(piece).is_err() {
            assert!(is_over, "only a connection that is over is closed");
            break;
        }
        let (more, over) = clients.read(1);
        frames.extend(more);
        is_over |= over.is_some();
    }
    let greeting = [0u32, wire::VERSION].map(u32::to_le_bytes).concat();
    let greets = stream.get(8..16) == Some(&greeting);
    let is_refused =
        |frame: &ToDispatcher| matches!(frame, ToDispatcher::Hello { version } if *version != wire::VERSION);
    assert!(greets || frames.is_empty() || (frames.len() == 1 && is_refused(&frames[0])), "nothing before a greeting");
    assert!(!greets || !frames.iter().any(is_refused));
    for _ in 0..3 {
        clients.send(1, &ToClient::Go, b"");
    }
    let greeting = [ToDispatcher::Hello { version: wire::VERSION }, ToDispatcher::Status];
    other.write_all(&greeting.map(|frame| wire::frame(&frame, b"").unwrap()).concat()).unwrap();
    assert!(matches!(clients.read(2), (frames, None) if matches!(frames[..], [ToDispatcher::Status])));
    clients.send(2, &ToClient::Stopping, b"");
    let mut answer = wire::frame(&ToClient::Stopping, b"").unwrap();
    let expected = answer.clone();
    other.read_exact(&mut answer).unwrap();
    assert_eq!(answer, expected);
}

fn socket_seeds() -> Vec<Vec<u8>> {
    let hello = wire::frame(&ToDispatcher::Hello { version: wire::VERSION }, b"").unwrap();
    let other_hello = wire::frame(&ToDispatcher::Hello { version: wire::VERSION + 1 }, b"").unwrap();
    let greeted = |request: &ToDispatcher| [&hello, &wire::frame(request, b"").unwrap()[..]].concat();
    let mut seeds: Vec<Vec<u8>> = requests().iter().map(greeted).collect();
    seeds.push([other_hello, wire::frame(&requests()[1], b"").unwrap()].concat());
    seeds.into_iter().map(|stream| [&[1], stream.as_slice()].concat()).collect()
}

// --- invocations: what a client says of its compile ---------------------------------------------------------------

/// Lines: driver, working directory, environment until an empty line, command line.
fn invocations(data: &[u8]) {
    let mut lines = sections(data);
    let (driver, cwd) = (lines.next().unwrap_or_default().to_vec(), lines.next().unwrap_or_default().to_vec());
    let environment: Vec<Bytes> = lines.by_ref().take_while(|line| !line.is_empty()).map(<[u8]>::to_vec).collect();
    let argv: Vec<Bytes> = lines.map(<[u8]>::to_vec).collect();
    let invocation = Invocation { driver, cwd, environment, argv, ..invocation() };
    let key = ToolchainKey::of(&invocation);
    assert_eq!(key, ToolchainKey::of(&invocation.clone()));
    let _ = driver::keeps_here(&invocation.environment);
    let _ = jobserver::is_named(&invocation.environment);
    for entry in &invocation.environment {
        let rest = preload_without_ours(entry);
        assert_eq!(rest.as_deref().and_then(preload_without_ours), rest);
        preload_with_ours(Some(entry), b"/l/libmpicc-proxy.so");
    }
    let mut tree = HeadTree::default();
    let mut history = History::new(None);
    let (mut running, paths) = history.begin(&invocation, &mut tree);
    let mut all = paths;
    for name in ["/home/u/src/a.c", "/home/u/src/a.h", "/usr/include/stdio.h", ""] {
        let asked = tree.path_id(name.as_bytes());
        all.push(asked);
        all.extend(history.asked(&mut running, asked, &mut tree));
    }
    history.learn(&running, &all, &tree);
    history.begin(&invocation, &mut tree);
}

fn invocations_seeds() -> Vec<Vec<u8>> {
    let build = ["/usr/bin/gcc", "/home/u/build", "PATH=/usr/bin", "PWD=/home/u/build", "LANG=C", ""];
    let with = |words: &[&str]| lines(&[build.as_slice(), words].concat());
    vec![
        with(&["gcc", "-O2", "-c", "../src/a.c", "-o", "a.o"]),
        with(&["gcc", "-B", "dir", "--gcc-toolchain=/opt", "-c", "/home/u/src/a.c"]),
        with(&["gcc", "-march=native", "-c", "a.c"]),
        lines(&[
            "/usr/bin/c++",
            "/",
            "LD_PRELOAD=/x/libmpicc-proxy.so:/y.so",
            "TZ=:CET",
            "",
            "c++",
            "-c",
            "-x",
            "c",
            "-",
        ]),
        lines(&["clang", "", "MAKEFLAGS= -j --jobserver-auth=3,4", "LC_ALL=de", "", "clang", "-S", "a.", "-o", ".o"]),
    ]
}

// --- command lines ------------------------------------------------------------------------------------------------

/// Lines: the command line; behind a line `@`, the content of every response and specs file.
fn commands(data: &[u8]) {
    let mut lines = sections(data);
    let arguments: Vec<Bytes> = lines.by_ref().take_while(|line| *line != b"@").map(<[u8]>::to_vec).collect();
    let file = lines.collect::<Vec<_>>().join(&b'\n');
    let mut read = |_: &[u8]| Ok(file.clone());
    for driver in ["gcc", "g++", "gfortran", "clang", "clang++", "cc"] {
        let driver = names::recognise(driver.as_bytes()).unwrap();
        let verdict = driver::classify(driver, &arguments, &mut read);
        let said = driver::explain_json(&verdict);
        let word = said["verdict"].as_str().expect("remote or local");
        assert!(driver::explain_text(&verdict).starts_with(word));
        if let Verdict::Remote(compile) = verdict {
            assert!(!compile.sources.is_empty());
        }
    }
}

fn commands_seeds() -> Vec<Vec<u8>> {
    let table = [
        "-O2 -g -Wall -c a.c -o a.o",
        "-c -x c++ - -o x.o -MMD -MF x.d -MT x.o",
        "-S -fsyntax-only -march=native -mtune=native -mcpu=native a.cc b.cc",
        "-c -Wp,-MD,x.d -Wa,-adhln=x.s -Xpreprocessor -dM -Xclang -load -Xclang p.so a.c",
        "-c @x -specs=y a.c @ -O2 @z -DX=\\\"y\\ z\\\" 'a b'\"c d\"",
        "-E a.c -dM -P",
        "-### -v --help=warnings --version -print-prog-name=cc1",
        "-B dir -I inc -isystem sys -include pre.h -idirafter x --sysroot=/s -c a.c -o - --",
        "a.o b.o -lfoo -Wl,-rpath,/x -shared -o lib.so",
        "-c -fmodules -fplugin=x.so -flto -fprofile-use -save-temps -gsplit-dwarf -J mod a.f90 a.F",
    ];
    table.iter().map(|words| words.replace(' ', "\n").into_bytes()).collect()
}

// --- what a make says to its children -----------------------------------------------------------------------------

/// Lines: MAKEFLAGS, GNUMAKEFLAGS, a CMakeCache.txt.
fn makeflags(data: &[u8]) {
    let mut lines = sections(data);
    let (flags, gnuflags) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let cache = lines.collect::<Vec<_>>().join(&b'\n');
    for name in ["MAKEFLAGS=", "MFLAGS="] {
        let _ = jobserver::is_named(&[[name.as_bytes(), flags].concat()]);
    }
    for command in [["make", "all", "x"], ["cmake", "--build", "b"], ["sh", "-c", "make"]] {
        let command = command.map(OsString::from);
        for asked in [None, Some(7)] {
            let flags_given = Flags { makeflags: flags, gnumakeflags: gnuflags };
            let change = jobs::change(&command, flags_given, asked, 3, |_| Ok(cache.clone()));
            if let Some((name, value)) = change {
                let value = value.expect("it is never taken away");
                assert!(name == jobs::MAKEFLAGS && value.starts_with(b"-j") && value.ends_with(flags));
            }
        }
    }
}

fn makeflags_seeds() -> Vec<Vec<u8>> {
    let table: [[&str; 3]; 6] = [
        [" -j4 --jobserver-auth=3,4", "", "CMAKE_GENERATOR:INTERNAL=Unix Makefiles"],
        ["k -j4 --jobserver-auth=fifo:/tmp/GMfifo7 -- CFLAGS=-O2 A=1", "", "CMAKE_GENERATOR:INTERNAL=Ninja"],
        [" --jobserver-fds=3,4 -j", "-j", ""],
        ["--jobserver-auth=-2,-2 --jobserver-auth=5,6", "n", "A:B=C"],
        ["w", "--no-print-directory", "CMAKE_GENERATOR:INTERNAL="],
        ["", "", ""],
    ];
    table.iter().map(|seed| lines(seed)).collect()
}

// --- the history's database ---------------------------------------------------------------------------------------

/// Whatever the file was, what a session learns is known to the next; or damage showed when it was written, and then it
/// is with the session after that.
fn history(data: &[u8]) {
    let folder = scratch_folder();
    let file = folder.path().join("h.sqlite");
    std::fs::write(&file, data).unwrap();
    let is_kept = |number| {
        history_session(&file, number, true);
        history_session(&file, number, false)
    };
    assert!(is_kept(1) || is_kept(2), "it is lost, with {:?}", std::fs::read_dir(folder.path()).unwrap());
}

/// In memory if possible: SQLite waits for the disk.
fn scratch_folder() -> tempfile::TempDir {
    let shm = Path::new("/dev/shm");
    tempfile::tempdir_in(shm).or_else(|_| tempfile::tempdir()).unwrap()
}

/// Does the session know what one with the same number learned, if not this very one?
fn history_session(file: &Path, number: i64, learns: bool) -> bool {
    let mut tree = HeadTree::default();
    let mut history = History::new(Some(file.to_path_buf()));
    let known = history.earlier_readings()();
    let recalls = known.keys().any(|version| version.path == b"/kept" && version.stamp.ctime[0] == number);
    let invocation = invocation();
    let (mut running, _) = history.begin(&invocation, &mut tree);
    if learns {
        let mut used = Vec::new();
        for name in ["/home/u/src/a.c".to_owned(), format!("/usr/include/{number}.h")] {
            let path = tree.path_id(name.as_bytes());
            tree.mark_opened(path);
            history.asked(&mut running, path, &mut tree);
            used.push(path);
        }
        history.learn(&running, &used, &tree);
        let stamp = Stamp { device: 1, inode: 2, bytes: 3, mtime: [4, 5], ctime: [number, 7] };
        let version = Version { path: b"/kept".to_vec(), file_system: 1, stamp };
        let reading = Reading { digest: Digest::of(b"x"), format: Format::Script };
        history.keep(vec![Use { version, new: Some(reading) }]);
    }
    history.close();
    recalls
}

fn history_seeds() -> Vec<Vec<u8>> {
    let folder = scratch_folder();
    let file = folder.path().join("h.sqlite");
    history_session(&file, 0, true);
    let small = std::fs::read(&file).unwrap();
    let mut tree = HeadTree::default();
    let mut history = History::new(Some(file.clone()));
    for number in 0..60 {
        let argv = owned(&["gcc", "-c", &format!("{number}.c")]);
        let (running, mut used) = history.begin(&Invocation { argv, ..invocation() }, &mut tree);
        used.extend((0..20).map(|header| tree.path_id(format!("/usr/include/{}/{header}.h", number % 7).as_bytes())));
        history.learn(&running, &used, &tree);
    }
    history.close();
    vec![Vec::new(), b"no database".repeat(100), small, std::fs::read(&file).unwrap()]
}

// --- sets of numbers ----------------------------------------------------------------------------------------------

/// The first byte: how many of the rest are the base.
fn sets(data: &[u8]) {
    let Some((length, rest)) = data.split_first() else { return };
    let (base, set) = rest.split_at(usize::from(*length).min(rest.len()));
    let ascends = |list: &[u32]| list.is_sorted_by(|a, b| a < b);
    for bytes in [base, set, rest] {
        if let Some(list) = sets::decode(bytes) {
            assert!(ascends(&list));
            assert_eq!(sets::decode(&sets::encode(&list)), Some(list));
        }
        let _ = sets::rename(bytes, |number| (number % 3 != 0).then_some(number / 3));
    }
    if let Some(base) = sets::decode(base) {
        if let Some(made) = sets::apply(&base, set) {
            assert!(made.is_sorted());
        }
        if let Some(set) = sets::decode(set) {
            assert_eq!(sets::apply(&base, &sets::difference(&base, &set)), Some(set));
        }
    }
}

fn sets_seeds() -> Vec<Vec<u8>> {
    let base = sets::encode(&[0, 7, 8, 9, 300, 100_000]);
    let set = [7, 8, 10, 300, u32::MAX];
    let difference = sets::difference(&[0, 7, 8, 9, 300, 100_000], &set);
    let with = |second: &[u8]| [&[base.len() as u8], &base[..], second].concat();
    vec![with(&sets::encode(&set)), with(&difference), with(&[0x80; 6]), with(&[3, 1])]
}

// --- the doorbell -------------------------------------------------------------------------------------------------

/// An address, and datagrams of the length in front of each.
fn doorbell(data: &[u8]) {
    if let Some(address) = Address::decode(data) {
        assert_eq!(address.encode(), data);
    }
    let mut bell = Doorbell::new(1, 4);
    let own = bell.address().encode();
    let (Some(token), Some(port)) = (own.get(..16), own.get(32..34)) else { return };
    let port = u16::from_le_bytes([port[0], port[1]]);
    if let Some(address) = Address::decode(data.get(..38).unwrap_or_default()) {
        bell.introduce(i32::from(data[0]) - 1, address);
    }
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut rest = data;
    while let Some((length, more)) = rest.split_first() {
        let (ring, more) = more.split_at(usize::from(length & 0x7f).min(more.len()));
        rest = more;
        // With the right token or without.
        let ring = if *length < 0x80 { ring.to_vec() } else { [token, ring].concat() };
        let _ = stranger.send_to(&ring, ("127.0.0.1", port));
        bell.listen();
        for peer in -1..5 {
            bell.waited(true, Duration::from_millis(2));
            bell.took(peer);
        }
        bell.is_trusted();
        bell.expects();
    }
}

fn doorbell_seeds() -> Vec<Vec<u8>> {
    let address = Doorbell::new(0, 1).address().encode();
    let ring = |rank: u32, sent: u64| [&[0x80 | 12], &rank.to_le_bytes()[..], &sent.to_le_bytes()].concat();
    vec![address, [ring(0, 1), ring(2, u64::MAX), ring(9, 0)].concat(), [&[28][..], &[0; 28]].concat(), vec![5, 1, 2]]
}

// --- options, batch systems' variables, answers of programs -------------------------------------------------------

fn words(data: &[u8]) {
    if let Ok(words) = launcher::split_words(OsStr::from_bytes(data)) {
        assert!(words.iter().map(|word| word.len()).sum::<usize>() <= data.len());
    }
    let _ = launcher::family(data);
    let mut lines = sections(data);
    let value = OsString::from(OsStr::from_bytes(lines.next().unwrap_or_default()));
    let file = lines.collect::<Vec<_>>().join(&b'\n');
    for name in ["SLURM_JOB_NUM_NODES", "PBS_NODEFILE", "LSB_DJOB_HOSTFILE", "LSB_MCPU_HOSTS", "LSB_HOSTS"] {
        let variable = |asked: &str| (asked == name).then(|| value.clone());
        assert!(launcher::allocation(variable, |_| Some(file.clone())).hosts > 0);
    }
    if let Ok(text) = str::from_utf8(data) {
        if let Ok(size) = text.parse::<Size>() {
            assert!(size.bytes() > 0);
        }
        if let Ok(calls) = native::calls(text) {
            assert!(calls.iter().all(|call| text.contains(call)));
        }
        let _ = native::words(text);
    }
    let _ = step::parse(data);
    let _ = names::recognise(data);
    let mut out = [1; socket::SOCKET_PATH_BYTES_MAX];
    if let Some(length) = socket::default_path(Some(data), 7, &mut out) {
        assert_eq!(out[length], 0);
    }
    preload_list(data);
    if let Some(key) = path::absolute(b"/home/u", data) {
        let again = path::absolute(b"/", key.bytes()).expect("it is no longer");
        assert_eq!(again.bytes(), key.bytes());
        assert!(path::is_below(key.bytes(), path::parent(key.bytes())) || path::parent(key.bytes()) == b"/");
        path::file_name(key.bytes());
    }
}

/// LD_PRELOAD, as the library reads and writes it.
fn preload_list(value: &[u8]) {
    const US: &[u8] = b"/l/libmpicc-proxy.so";
    let (mut with, mut without) = (fixed::Fixed::<4096>::new(), fixed::Fixed::<4096>::new());
    if entries::with(value, US, &mut with).is_some() {
        assert_eq!(entries::mention(with.bytes(), US), entries::Mention::Exact);
    }
    if entries::without(value, US, &mut without).is_some() {
        assert_eq!(entries::mention(without.bytes(), US), entries::Mention::No);
    }
    entries::any(value, &|name| name.is_empty());
}

fn words_seeds() -> Vec<Vec<u8>> {
    let table = [
        "apptainer exec --bind '/a b' \"x \\\"y\" image\\ name",
        "mpiexec (OpenRTE) 4.1.4\n\nReport bugs to http://www.open-mpi.org/community/help/\n",
        "HYDRA build details:\n    Version: 4.3.2\n",
        "node1 4 node2 4\nnode1 slots=4\nnode2\n",
        "12",
        "8G",
        "512k",
        "%{march=native:%:local_cpu_detect(arch %{!m32:64})} %:local_cpu_detect(tune (x))",
        " \"/usr/lib/cc1\" \"-mtune=x\" \"a \\\"b\" -D \"\" y",
        "0000000007+",
        "x86_64-linux-gnu-g++-12",
        "/run/user/7",
        "a.so /opt/lib/libmpicc-proxy.so:b.so",
        "./x//y/./z/../up/",
    ];
    table.iter().map(|text| text.as_bytes().to_vec()).collect()
}

// --- programs -----------------------------------------------------------------------------------------------------

fn programs(data: &[u8]) {
    let head = &data[..data.len().min(elf::HEAD_BYTES)];
    let image = elf::image(head);
    assert!(image == elf::Image::Other || head.starts_with(b"\x7fELF"));
    let _ = elf::script_interpreter(head);
    let read = |at: u64, out: &mut [u8]| {
        let rest = usize::try_from(at).ok().and_then(|at| data.get(at..)).unwrap_or_default();
        let length = rest.len().min(out.len());
        out[..length].copy_from_slice(&rest[..length]);
        length
    };
    elf::any_needed(&mut elf::Window::new(&read), &|name| name.is_empty());
    let _ = Format::of(data);
}

/// A small program; the end of a large one's file has nothing that is read here but what its sections say.
fn programs_seeds() -> Vec<Vec<u8>> {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("a.out");
    let source = folder.path().join("a.c");
    std::fs::write(&source, "int main(void) { return 0; }\n").unwrap();
    let link = |options: &[&str]| {
        let gcc = std::process::Command::new("gcc").args(options).arg("-o").arg(&out).arg(&source).status();
        assert!(gcc.is_ok_and(|status| status.success()), "gcc {options:?}");
        std::fs::read(&out).unwrap()
    };
    vec![
        link(&["-s"]),
        link(&["-s", "-shared", "-fPIC", "-Wl,-rpath,$ORIGIN/x:/y"]),
        link(&["-c"]),
        b"#! /bin/sh -e\n".to_vec(),
        b"\x7fELF".to_vec(),
    ]
}

// --- memory that other processes write ----------------------------------------------------------------------------

/// Zeroed memory, sparse as a mapping's: that is what the allocator makes of so much, unless more than this alignment is
/// asked for.
struct Memory {
    base: *mut u8,
    layout: Layout,
}

impl Memory {
    fn new(bytes: usize) -> Memory {
        let layout = Layout::from_size_align(bytes, align_of::<u128>()).unwrap();
        // SAFETY: not of size 0.
        let base = unsafe { alloc_zeroed(layout) };
        assert!(!base.is_null());
        Memory { base, layout }
    }

    fn write(&self, at: usize, bytes: &[u8]) {
        let at = at % self.layout.size();
        let length = bytes.len().min(self.layout.size() - at);
        // SAFETY: inside the memory, as just computed; nobody borrows it at this time.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.base.add(at), length) };
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated by `new` with the same layout.
        unsafe { dealloc(self.base, self.layout) };
    }
}

/// Paths that are in the table, the first twice.
const KEYS: [&[u8]; 4] = [b"/a", b"/usr/include/stdio.h", b"/a", b"/home/u/src"];

/// Changes to a table, a task's page or a listing, as the first byte says: pieces of a length and a place each.
fn memory(data: &[u8]) {
    match data.split_first() {
        Some((0, changes)) => table(changes),
        Some((1, changes)) => page(changes),
        Some((_, bytes)) => names_in(bytes),
        None => {}
    }
}

/// Touches it all.
fn read(bytes: &[u8]) {
    std::hint::black_box(bytes.iter().fold(0, |sum, byte| sum ^ byte));
}

/// Where, and what.
fn changes(mut data: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    std::iter::from_fn(move || {
        let (place, rest) = data.split_first_chunk::<4>()?;
        let (length, rest) = rest.split_first()?;
        let (bytes, rest) = rest.split_at(usize::from(*length).min(rest.len()));
        data = rest;
        Some((u32::from_le_bytes(*place) as usize, bytes))
    })
}

fn table(data: &[u8]) {
    let memory = Memory::new(TABLE_BYTES);
    // SAFETY: zeroed, of that length, and dropped after the writer.
    let mut writer = unsafe { Writer::new(memory.base) };
    for (index, key) in (0..).zip(KEYS) {
        assert!(writer.publish(index, Facts { key, link: b"", real: key, entry: Entry::default() }));
    }
    let start = writer.table().entry(0).map(|entry| std::ptr::from_ref(entry) as usize - memory.base as usize).unwrap();
    for (at, bytes) in changes(data) {
        // Mostly at the entries that are in use, else anywhere.
        let at = if at < 1 << 24 { start + at % (KEYS.len() * size_of::<Entry>()) } else { at };
        memory.write(at, bytes);
    }
    // SAFETY: as above.
    let table = unsafe { Table::new(memory.base) };
    for key in KEYS {
        for (index, entry) in table.find(key, hash_path(key)).take(64) {
            assert_eq!(table.bytes(entry.key), key);
            read(table.bytes(entry.link));
            read(table.bytes(entry.real));
            assert!(table.entry(index).is_some());
        }
    }
    assert!(table.entry(u32::MAX).is_none());
}

fn page(data: &[u8]) {
    const KEY: &[u8] = b"/home/u/a.o";
    let memory = Memory::new(PAGE_BYTES);
    // SAFETY: zeroed memory is a valid page, and this one is large enough and aligned.
    let page = unsafe { &*memory.base.cast::<Page>() };
    page.add_write(KEY, WriteState::Live, 0, 1);
    for (at, bytes) in changes(data) {
        // Mostly at the start, where most is.
        memory.write(if at < 1 << 24 { at % 4096 } else { at }, bytes);
    }
    // SAFETY: any bits are valid in all its fields; nobody writes any more.
    let page = unsafe { &*memory.base.cast::<Page>() };
    page.tainted();
    let named = [page.cwd, page.scratch, page.store, page.socket];
    for span in named.iter().chain(&page.programs).chain(&page.reals) {
        read(page.bytes(*span));
    }
    assert!(page.write_entries().len() <= WRITES_MAX as usize);
    for written in page.write_entries() {
        written.state().exists();
        read(page.bytes(written.key()));
    }
    for key in [KEY, b"", b"/other"] {
        page.find_write(key);
    }
    for index in page.used_entries().take(64) {
        page.is_valid(index);
    }
    page.is_valid(u32::MAX);
    for program in [0, 1, 31, 32, usize::MAX] {
        let argv0: &CStr = c"gcc";
        if let Some(loaded) = page.loaded(program, argv0) {
            assert!(loaded.arguments().contains(&argv0));
        }
    }
    page.program_of_file(b"/x");
    page.add_write(b"/more", WriteState::Deleted, 0, 2);
    page.taint(mpicc_proxy_abi::task::Taint::Limit, b"detail");
}

/// A directory's content. What the library appends of it is found again, each as a record of its own.
fn names_in(bytes: &[u8]) {
    let found: Vec<_> = listing::names(bytes).collect();
    assert!(found.len() <= bytes.len() / listing::NAME_AT + 1);
    let mut again = vec![0; found.len() * listing::RECORD_BYTES_MAX];
    let (mut end, mut written) = (0, Vec::new());
    for one in found {
        let next = end + listing::record_bytes(one.name);
        if listing::write(&mut again[end..], one.inode, one.kind, one.name, next).is_some() {
            (end, _) = (next, written.push(one));
        }
    }
    assert_eq!(listing::names(&again[..end]).collect::<Vec<_>>(), written);
}

fn memory_seeds() -> Vec<Vec<u8>> {
    let mut listed = vec![2];
    for name in [&b"."[..], b"..", b"a name", &[b'x'; 255]] {
        let start = listed.len();
        listed.resize(start + listing::record_bytes(name), 0);
        let next = listed.len() - 1;
        listing::write(&mut listed[start..], 7, 8, name, next).unwrap();
    }
    let change = |at: u32, bytes: &[u8]| [&at.to_le_bytes()[..], &[bytes.len() as u8], bytes].concat();
    let next_at = std::mem::offset_of!(Entry, next) as u32;
    let third = 2 * size_of::<Entry>() as u32;
    let changed = |kind: u8, changes: &[Vec<u8>]| [vec![kind], changes.concat()].concat();
    vec![
        listed,
        changed(0, &[change(next_at, &3u32.to_le_bytes())]),
        changed(0, &[change(next_at + third, &3u32.to_le_bytes())]),
        changed(0, &[change(std::mem::offset_of!(Entry, key) as u32, &[0xff; 8])]),
        changed(1, &[change(std::mem::offset_of!(Page, writes_used) as u32, &[0xff; 4])]),
        changed(1, &[change(std::mem::offset_of!(Page, loader) as u32, &[0, 0, 0, 0, 1, 0, 0, 0])]),
        changed(1, &[change(std::mem::offset_of!(Page, arena_used) as u32 | 1 << 24, &[0xff; 4])]),
    ]
}

// --- results ------------------------------------------------------------------------------------------------------

/// A result, and contents that are as long as it says; published in a folder of its own, with names of that folder.
fn results(data: &[u8]) {
    let Ok((result, content)) = wire::take_message::<ActionResult>(data) else { return };
    let folder = scratch_folder();
    let name = |path: &[u8]| -> Bytes {
        let flat: Bytes = path.iter().map(|byte| if matches!(byte, b'/' | b'.') { b'_' } else { *byte }).collect();
        [b"x", &flat[..]].concat()
    };
    let outputs: Vec<Output> = result
        .outputs
        .into_iter()
        .take(64)
        .map(|output| {
            let kind = match output.kind {
                OutputKind::Link { target } => OutputKind::Link { target: name(&target) },
                kind => kind,
            };
            let path: PathBuf = folder.path().join(OsStr::from_bytes(&name(&output.path)));
            Output { path: path.as_os_str().as_bytes().to_vec(), kind }
        })
        .collect();
    let contents: Vec<Bytes> = outputs
        .iter()
        .map(|output| match output.kind {
            OutputKind::File { bytes, .. } => content[..content.len().min(bytes as usize)].to_vec(),
            _ => Bytes::new(),
        })
        .collect();
    let _ = publish(&outputs, &contents, 0o022);
    let temporary = format!(".mpicc-proxy.{}", std::process::id());
    assert!(!folder.path().join(temporary).exists(), "a temporary file stays");
}

fn results_seeds() -> Vec<Vec<u8>> {
    let failed = ActionResult { exit: Exit::Signal(11), outputs: vec![], ..result() };
    [result(), failed].iter().map(|result| wire::message(result, b"content").unwrap()).collect()
}
