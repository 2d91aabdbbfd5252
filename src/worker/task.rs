//! One action on a worker: the driver that runs, what it prints, and in the end what it wrote and whether the result
//! may be believed.

use crate::event::Interest;
use crate::stdin;
use crate::wire::{ActionResult, Exit, Invocation, Output, OutputKind, RecordId, Stream, ToolchainId};
use crate::worker::complaint;
use crate::worker::memory::{TaskFacts, TaskMemory};
use crate::worker::run::{self, Ended, Running, Surroundings};
use crate::worker::space::Space;
use crate::worker::toolchain::Usable;
use anyhow::{Context, Result};
use mpicc_proxy_abi::task::{Page, Scratch as Item, Taint, WRITE_MODE, WRITE_REPLACES, WRITE_TIMES, WriteState};
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Seek};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

/// Most bytes a driver may print; more is not a diagnostic, and the compile runs locally.
const PRINTED_BYTES_MAX: usize = 256 << 20;

/// All that is needed to start an action.
pub struct Start<'a> {
    pub number: u32,
    pub epoch: u32,
    pub invocation: &'a Invocation,
    pub toolchain: &'a Usable,
    pub toolchain_id: ToolchainId,
    pub rank_folder: &'a Path,
    pub store: &'a Path,
    pub socket: &'a Path,
    pub library: &'a Path,
    pub table_fd: RawFd,
    pub valid: &'a [RecordId],
    /// What is free where outputs are written.
    pub free_bytes: u64,
}

/// What a driver prints on one descriptor.
struct Printed {
    pipe: Option<File>,
    bytes: Vec<u8>,
    too_much: bool,
}

/// A running action. Dropped, its processes are killed and its scratch is removed.
pub struct Task {
    number: u32,
    epoch: u32,
    toolchain: (ToolchainId, u64),
    memory: TaskMemory,
    running: Running,
    ended: Option<Ended>,
    stdin: Option<File>,
    stdout: Printed,
    stderr: Printed,
    space: Space,
    pub misses: u64,
    scratch: Scratch,
}

struct Scratch(PathBuf);

impl Scratch {
    fn item(&self, kind: Item, number: u32) -> PathBuf {
        let mut path = self.0.clone().into_os_string();
        path.push(OsStr::from_bytes(kind.prefix()));
        path.push(number.to_string());
        path.into()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Why a result must not be used.
pub struct Refusal {
    pub reason: &'static str,
    pub detail: String,
    pub retry: bool,
}

/// A result and its contents.
pub struct Finished {
    pub result: ActionResult,
    pub used: Vec<RecordId>,
    pub contents: Vec<(Stream, Content)>,
}

/// Bytes to be sent.
pub enum Content {
    Memory(Vec<u8>, usize),
    /// An open file, whose name may be gone, and how many bytes of it are left.
    File(File, u64),
}

impl Content {
    /// The next part, `None` at the end.
    ///
    /// # Errors
    /// The file does not hold what was promised.
    pub fn next_part(&mut self, most: usize) -> io::Result<Option<Vec<u8>>> {
        match self {
            Content::Memory(bytes, at) => {
                let end = (*at + most).min(bytes.len());
                let part = bytes[*at..end].to_vec();
                *at = end;
                Ok((!part.is_empty()).then_some(part))
            }
            Content::File(_, 0) => Ok(None),
            Content::File(file, left) => {
                let mut part = vec![0; most.min(usize::try_from(*left).unwrap_or(most))];
                file.read_exact(&mut part)?;
                *left -= part.len() as u64;
                Ok(Some(part))
            }
        }
    }
}

impl Task {
    /// Makes the page and the scratch folder and starts the driver.
    ///
    /// # Errors
    /// The host lacks memory, space or the driver.
    pub fn start(start: &Start<'_>) -> Result<Task> {
        let scratch = Scratch(start.rank_folder.join(format!("t{}", start.number)));
        DirBuilder::new().mode(0o700).create(&scratch.0).context("cannot make a scratch folder")?;
        let memory = TaskMemory::new(&TaskFacts {
            task: start.number,
            invocation: start.invocation,
            toolchain: start.toolchain,
            scratch: &scratch.0,
            store: start.store,
            socket: start.socket,
        })?;
        for id in start.valid {
            memory.page().set_valid(*id);
        }
        let (stdout, stdout_end) = Printed::new()?;
        let (stderr, stderr_end) = Printed::new()?;
        let stdin = start.invocation.stdin.as_deref().map(stdin::file_with).transpose()?;
        let around = Surroundings {
            library: start.library,
            scratch: &scratch.0,
            table_fd: start.table_fd,
            task_fd: memory.fd(),
            page: memory.page(),
            variables: &start.toolchain.variables(),
            stdin: stdin.as_ref().map(AsRawFd::as_raw_fd),
            stdout: stdout_end.as_raw_fd(),
            stderr: if start.invocation.merged_output { stdout_end.as_raw_fd() } else { stderr_end.as_raw_fd() },
        };
        let running = run::start(start.invocation, &around)?;
        Ok(Task {
            number: start.number,
            epoch: start.epoch,
            toolchain: (start.toolchain_id, start.toolchain.generation),
            memory,
            running,
            ended: None,
            stdin,
            stdout,
            stderr,
            space: Space::new(start.free_bytes),
            misses: 0,
            scratch,
        })
    }

    pub fn number(&self) -> u32 {
        self.number
    }

    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// The toolchain it runs, and its generation.
    pub fn toolchain(&self) -> (ToolchainId, u64) {
        self.toolchain
    }

    pub fn page(&self) -> &Page {
        self.memory.page()
    }

    pub fn interest<T: Copy>(&self, interest: &mut Interest<T>, ended: T, output: impl Fn(bool) -> T) {
        if self.ended.is_none() {
            interest.add(self.running.fd(), false, ended);
        }
        for (printed, is_stderr) in [(&self.stdout, false), (&self.stderr, true)] {
            if let Some(pipe) = &printed.pipe {
                interest.add(pipe.as_raw_fd(), false, output(is_stderr));
            }
        }
    }

    /// Takes note of what is free where outputs are written.
    pub fn note_free(&mut self, free_bytes: u64) {
        self.space.note(free_bytes);
    }

    pub fn read_output(&mut self, is_stderr: bool) {
        if is_stderr { self.stderr.read() } else { self.stdout.read() }
    }

    /// # Errors
    /// As wait4(2).
    pub fn note_end(&mut self) -> io::Result<()> {
        if self.ended.is_none() {
            self.ended = self.running.try_wait()?;
        }
        Ok(())
    }

    /// Has the driver ended and everything it printed been read? All its processes are dead then, so the pipes end.
    pub fn is_over(&self) -> bool {
        self.ended.is_some() && self.stdout.pipe.is_none() && self.stderr.pipe.is_none()
    }

    /// The result, if it may be believed.
    ///
    /// # Errors
    /// Says why not.
    pub fn finish(self) -> Result<Finished, Refusal> {
        let refusal = |reason, detail: String, retry| Refusal { reason, detail, retry };
        let Some(ended) = self.ended else { return Err(refusal("not-over", String::new(), true)) };
        let page = self.memory.page();
        if let Some((taint, detail)) = page.tainted() {
            let detail = String::from_utf8_lossy(detail).into_owned();
            return Err(refusal(taint_reason(taint), detail, matches!(taint, Taint::Unanswered | Taint::Store)));
        }
        let (active, started) = (page.activations.load(Ordering::Acquire), page.execs.load(Ordering::Acquire));
        if active != started {
            let detail = format!("{started} programs were started, the library was active in {active}");
            return Err(refusal("library-inactive", detail, false));
        }
        // Merged output comes by one pipe.
        let printed = [self.stdout.bytes.as_slice(), &self.stderr.bytes];
        if let Some(why) = self.space.doubt(ended.exit, printed) {
            return Err(refusal("store-full", why, true));
        }
        if let Exit::Signal(signal) = ended.exit {
            return Err(refusal("driver-killed", format!("by signal {signal}"), true));
        }
        if ended.exit != Exit::Code(0)
            && let Some(why) = complaint::of_the_host(printed)
        {
            return Err(refusal("rank-trouble", why, true));
        }
        if self.stdout.too_much || self.stderr.too_much {
            return Err(refusal("too-much-output", format!("more than {PRINTED_BYTES_MAX} bytes"), false));
        }
        let used = page.used_entries().collect();
        let mut contents = vec![
            (Stream::Stdout, Content::Memory(self.stdout.bytes, 0)),
            (Stream::Stderr, Content::Memory(self.stderr.bytes, 0)),
        ];
        let mut outputs = Vec::new();
        for written in page.write_entries() {
            let kind = match written.state() {
                WriteState::Gone | WriteState::Reserved => continue,
                WriteState::Deleted => OutputKind::Deleted,
                state => {
                    let item = if state == WriteState::Directory { Item::Directory } else { Item::File };
                    let path = self.scratch.item(item, written.scratch.load(Ordering::Acquire));
                    match open_output(&path, written.flags.load(Ordering::Acquire)) {
                        Ok((kind, Some(file))) => {
                            let OutputKind::File { bytes, .. } = kind else { continue };
                            let stream = Stream::Output(outputs.len() as u32);
                            contents.push((stream, Content::File(file, bytes)));
                            kind
                        }
                        Ok((kind, None)) => kind,
                        Err(error) => return Err(refusal("unreadable-output", error.to_string(), true)),
                    }
                }
            };
            outputs.push(Output { path: page.bytes(written.key()).to_vec(), kind });
        }
        let result = ActionResult {
            exit: ended.exit,
            outputs,
            cpu_us: ended.cpu_us,
            peak_bytes: ended.peak_bytes,
            misses: self.misses,
            // The compile shares the open file, and with it where it stands.
            stdin_read: self.stdin.and_then(|mut stdin| stdin.stream_position().ok()).unwrap_or(0),
        };
        Ok(Finished { result, used, contents })
    }
}

fn open_output(path: &Path, flags: u32) -> io::Result<(OutputKind, Option<File>)> {
    let metadata = fs::symlink_metadata(path)?;
    let mode = metadata.mode() & 0o7777;
    if metadata.is_dir() {
        return Ok((OutputKind::Directory { mode }, None));
    }
    if metadata.is_symlink() {
        let target = fs::read_link(path)?.into_os_string().into_vec();
        return Ok((OutputKind::Link { target }, None));
    }
    if !metadata.is_file() {
        // Opening a FIFO would wait for a writer.
        return Err(io::Error::other(format!("{} is no file", path.display())));
    }
    // An unreadable output (umask 0777) is read by its owner all the same after a chmod of the scratch copy.
    if mode & 0o400 == 0 {
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    }
    let times = [(metadata.atime(), metadata.atime_nsec()), (metadata.mtime(), metadata.mtime_nsec())];
    let kind = OutputKind::File {
        mode,
        bytes: metadata.len(),
        replaces: flags & WRITE_REPLACES != 0,
        chosen: flags & WRITE_MODE != 0,
        times: (flags & WRITE_TIMES != 0).then_some(times),
    };
    Ok((kind, Some(File::open(path)?)))
}

fn taint_reason(taint: Taint) -> &'static str {
    match taint {
        Taint::Unsupported => "uncovered-call",
        Taint::Program => "foreign-program",
        Taint::Unanswered => "question-unanswered",
        Taint::Limit => "task-limit",
        Taint::Store => "content-missing",
    }
}

impl Printed {
    fn new() -> Result<(Printed, OwnedFd)> {
        let (reader, writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).context("cannot make a pipe")?;
        nix::fcntl::fcntl(&reader, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))?;
        Ok((Printed { pipe: Some(File::from(reader)), bytes: Vec::new(), too_much: false }, writer))
    }

    fn read(&mut self) {
        let Some(pipe) = &mut self.pipe else { return };
        let mut chunk = [0u8; 64 << 10];
        match pipe.read(&mut chunk) {
            Ok(0) => self.pipe = None,
            Ok(count) if self.bytes.len() + count <= PRINTED_BYTES_MAX => {
                self.bytes.extend_from_slice(&chunk[..count]);
            }
            Ok(_) => self.too_much = true,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => self.pipe = None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_output_may_be() {
        let dir = tempfile::tempdir().unwrap();
        let [file, fifo] = ["file", "fifo"].map(|name| dir.path().join(name));
        fs::write(&file, "x").unwrap();
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(matches!(open_output(&file, 0), Ok((OutputKind::File { bytes: 1, .. }, Some(_)))));
        assert!(matches!(open_output(dir.path(), 0), Ok((OutputKind::Directory { .. }, None))));
        assert!(open_output(&fifo, 0).is_err(), "without waiting for a writer");
    }
}
