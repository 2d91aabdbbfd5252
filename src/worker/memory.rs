//! The shared memory of a rank: the table of the head's tree and one page for each task, in memfds. Writing side; the
//! layouts are in `mpicc-proxy-abi`.

use crate::wire::{Bytes, Invocation, Record, RecordId};
use crate::worker::toolchain::Usable;
use anyhow::{Context, Result, bail};
use memfd::MemfdOptions;
use mpicc_proxy_abi::table::{Entry, Facts, Span, TABLE_BYTES, Table, Writer};
use mpicc_proxy_abi::task::{LIMITS_MAX, Limit, PAGE_BYTES, PROGRAMS_MAX, Page};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use std::ffi::c_void;
use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

/// Anonymous memory with a descriptor, mapped here for writing.
struct Shared {
    file: memfd::Memfd,
    base: NonNull<c_void>,
    bytes: usize,
}

impl Shared {
    fn new(name: &str, bytes: usize) -> Result<Shared> {
        let file = MemfdOptions::default().close_on_exec(true).create(name).context("cannot make a memfd")?;
        file.as_file().set_len(bytes as u64).context("cannot size a memfd")?;
        let length = NonZeroUsize::new(bytes).context("an empty memfd")?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping of our own file touches nobody's memory.
        let base = unsafe { mmap(None, length, protection, MapFlags::MAP_SHARED, file.as_file(), 0) }
            .context("cannot map a memfd")?;
        Ok(Shared { file, base, bytes })
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`; whoever borrowed from it borrowed from `self`.
        let _ = unsafe { munmap(self.base, self.bytes) };
    }
}

/// The table of one epoch.
pub struct TableMemory {
    shared: Shared,
    writer: Writer,
}

impl TableMemory {
    /// # Errors
    /// Out of memory or descriptors.
    pub fn new() -> Result<TableMemory> {
        let shared = Shared::new("mpicc-proxy-table", TABLE_BYTES)?;
        // SAFETY: fresh zeroed memory of the right length, unmapped only with `shared`; this is the only writer.
        let writer = unsafe { Writer::new(shared.base.as_ptr().cast()) };
        Ok(TableMemory { shared, writer })
    }

    pub fn fd(&self) -> RawFd {
        self.shared.file.as_raw_fd()
    }

    pub fn table(&self) -> Table {
        self.writer.table()
    }

    /// Appends a record. `false`: the table is full.
    pub fn publish(&mut self, record: &Record, has_content: bool) -> bool {
        let entry = Entry {
            stat_errno: record.stat_errno,
            lstat_errno: record.lstat_errno,
            real_errno: record.real_errno,
            access: record.access,
            write_errno: record.write_errno,
            stat: record.stat,
            lstat: record.lstat,
            digest: record.digest.map_or([0; 32], |digest| digest.hash),
            content: AtomicU32::new(u32::from(has_content)),
            ..Entry::default()
        };
        self.writer.publish(record.id, Facts { key: &record.path, link: &record.link, real: &record.real, entry })
    }

    /// From now on processes may open the content of these entries.
    pub fn content_arrived(&self, id: RecordId) {
        if let Some(entry) = self.table().entry(id) {
            entry.content.store(1, Ordering::Release);
        }
    }
}

/// The page of one task.
pub struct TaskMemory {
    shared: Shared,
}

/// What a task page says before its compile starts.
pub struct TaskFacts<'a> {
    pub task: u32,
    pub invocation: &'a Invocation,
    pub toolchain: &'a Usable,
    pub scratch: &'a Path,
    pub store: &'a Path,
    pub socket: &'a Path,
}

impl TaskMemory {
    /// # Errors
    /// Out of memory, or the toolchain has more programs than a page holds.
    pub fn new(facts: &TaskFacts<'_>) -> Result<TaskMemory> {
        let shared = Shared::new("mpicc-proxy-task", PAGE_BYTES)?;
        // SAFETY: fresh zeroed memory of the right size, a valid `Page`; nobody else knows it yet.
        let page: &mut Page = unsafe { shared.base.cast().as_mut() };
        let invocation = facts.invocation;
        page.version = mpicc_proxy_abi::VERSION;
        page.task = facts.task;
        page.umask = invocation.umask;
        if invocation.limits.len() > LIMITS_MAX {
            bail!("{} resource limits; a task page holds {LIMITS_MAX}", invocation.limits.len());
        }
        for (to, (resource, soft, hard)) in page.limits.iter_mut().zip(&invocation.limits) {
            *to = Limit { resource: *resource, soft: *soft, hard: *hard };
        }
        page.limit_count = invocation.limits.len() as u32;
        page.terminals = invocation.terminals;
        page.has_window = u32::from(invocation.window.is_some());
        page.window = invocation.window.unwrap_or_default();
        page.cwd = keep(page, &invocation.cwd)?;
        page.scratch = keep(page, facts.scratch.as_os_str().as_bytes())?;
        page.store = keep(page, facts.store.as_os_str().as_bytes())?;
        page.socket = keep(page, facts.socket.as_os_str().as_bytes())?;
        let programs = &facts.toolchain.toolchain.programs;
        if programs.len() > PROGRAMS_MAX {
            bail!("a toolchain of {} programs; a task page holds {PROGRAMS_MAX}", programs.len());
        }
        for (index, (program, real)) in programs.iter().zip(&facts.toolchain.toolchain.reals).enumerate() {
            page.programs[index] = keep(page, program)?;
            page.reals[index] = keep(page, real)?;
        }
        page.program_count = programs.len() as u32;
        keep_loader(page, facts.toolchain)?;
        // The driver itself, which the rank starts.
        page.execs.store(1, Ordering::Relaxed);
        Ok(TaskMemory { shared })
    }

    pub fn fd(&self) -> RawFd {
        self.shared.file.as_raw_fd()
    }

    pub fn page(&self) -> &Page {
        // SAFETY: initialised by `new`; what other processes change is atomic or written once before it is published.
        unsafe { self.shared.base.cast().as_ref() }
    }
}

/// How programs run that are not the host's own.
fn keep_loader(page: &mut Page, toolchain: &Usable) -> Result<()> {
    let (Some(folder), Ok(shipment)) = (toolchain.programs_folder(), &toolchain.toolchain.shipment) else {
        return Ok(());
    };
    let keep_path = |page: &Page, name: &str| {
        let path = folder.join(name);
        if path.as_os_str().as_bytes().contains(&b':') {
            bail!("{} has a colon in its name, which separates folders", path.display());
        }
        keep(page, &[path.as_os_str().as_bytes(), b"\0"].concat())
    };
    page.loader.path = keep_path(page, "ld.so")?;
    page.loader.library_path = keep_path(page, "lib")?;
    if !shipment.rpaths.is_empty() {
        // What stands for the programs, the empty name, stays empty.
        let name = |name: &Bytes| match &name[..] {
            b"" => Vec::new(),
            name => [folder.as_os_str().as_bytes(), b"/", name].concat(),
        };
        let names: Vec<Bytes> = shipment.rpaths.iter().map(name).collect();
        page.loader.inhibit_rpath = keep(page, &[names.join(&b':'), b"\0".to_vec()].concat())?;
    }
    for (index, name) in toolchain.toolchain.programs.iter().enumerate() {
        page.loader.files[index] = keep_path(page, &format!("bin/{index}"))?;
        page.loader.names[index] = keep(page, &[name, b"\0".as_slice()].concat())?;
    }
    Ok(())
}

fn keep(page: &Page, bytes: &[u8]) -> Result<Span> {
    page.store(bytes).context("a task's strings exceed its page")
}

#[cfg(test)]
mod tests {
    use super::*;
    use mpicc_proxy_abi::table::hash_path;
    use mpicc_proxy_abi::task::{Taint, WriteState};

    fn record(id: RecordId, path: &str, errno: i32) -> Record {
        Record {
            id,
            path: path.into(),
            stat_errno: errno,
            stat: Default::default(),
            lstat_errno: errno,
            lstat: Default::default(),
            link: b"target".to_vec(),
            real_errno: 0,
            real: b"/real".to_vec(),
            access: 4,
            write_errno: libc::EACCES,
            digest: None,
        }
    }

    fn page() -> TaskMemory {
        let invocation = Invocation {
            driver: b"/usr/bin/gcc".to_vec(),
            argv: vec![],
            environment: vec![],
            cwd: b"/src".to_vec(),
            umask: 0o27,
            terminals: 4,
            window: None,
            merged_output: false,
            limits: vec![(7, 100, 200)],
            viewpoint: Default::default(),
            stdin: None,
        };
        let toolchain = Usable::own(vec![b"/usr/bin/gcc".to_vec()]);
        let here = Path::new("/s");
        let facts = TaskFacts {
            task: 9,
            invocation: &invocation,
            toolchain: &toolchain,
            scratch: here,
            store: here,
            socket: here,
        };
        TaskMemory::new(&facts).unwrap()
    }

    #[test]
    fn the_newest_version_comes_first_and_validity_is_per_task() {
        let mut memory = TableMemory::new().unwrap();
        assert!(memory.publish(&record(0, "/a", libc::ENOENT), false));
        assert!(memory.publish(&record(5, "/a", 0), true));
        assert!(memory.publish(&record(6, "/b", 0), false));
        assert!(!memory.publish(&record(6, "/c", 0), false), "an index is used once");
        let table = memory.table();
        let find = |path: &[u8]| table.find(path, hash_path(path)).map(|(index, _)| index).collect::<Vec<_>>();
        assert_eq!(find(b"/a"), [5, 0]);
        assert_eq!(find(b"/nowhere"), [0; 0]);
        let entry = table.entry(5).unwrap();
        assert_eq!((table.bytes(entry.link), table.bytes(entry.real)), (&b"target"[..], &b"/real"[..]));
        assert_eq!(entry.content.load(Ordering::Relaxed), 1);
        memory.content_arrived(6);
        assert_eq!(table.entry(6).unwrap().content.load(Ordering::Relaxed), 1);
        let (one, two) = (page(), page());
        one.page().set_valid(5);
        assert!(one.page().is_valid(5) && !two.page().is_valid(5) && !one.page().is_valid(u32::MAX));
    }

    #[test]
    fn a_page_keeps_its_task() {
        let memory = page();
        let page = memory.page();
        assert_eq!((page.task, page.umask, page.bytes(page.cwd)), (9, 0o27, &b"/src"[..]));
        assert_eq!((page.limit_count, page.limits[0].resource, page.limits[0].hard), (1, 7, 200));
        assert_eq!(page.bytes(page.programs[0]), b"/usr/bin/gcc");
        page.mark_used(64);
        page.mark_used(3);
        assert_eq!(page.used_entries().collect::<Vec<_>>(), [3, 64]);
        let first = page.add_write(b"/src/x.o", WriteState::Live, 0, 0).unwrap();
        assert!(std::ptr::eq(page.find_write(b"/src/x.o").unwrap(), first));
        assert!(page.find_write(b"/src/y.o").is_none());
        page.taint(Taint::Program, b"/usr/bin/perl");
        page.taint(Taint::Limit, b"later");
        assert_eq!(page.tainted(), Some((Taint::Program, &b"/usr/bin/perl"[..])));
    }

    #[test]
    fn a_full_list_is_noticed() {
        let memory = page();
        let page = memory.page();
        for number in 0..mpicc_proxy_abi::task::WRITES_MAX {
            assert!(page.add_write(b"/f", WriteState::Live, 0, number).is_some());
        }
        assert!(page.add_write(b"/f", WriteState::Live, 0, 0).is_none());
        assert_eq!(page.write_entries().len(), mpicc_proxy_abi::task::WRITES_MAX as usize);
    }
}
