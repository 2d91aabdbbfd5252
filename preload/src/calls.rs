//! Worker side: libc's file calls, answered from the virtual tree. Each handler translates once, from [`Place`] or an
//! errno to what the C function returns; the decisions are in `vfs.rs`.

use crate::hook::set_errno;
use crate::path;
use crate::sys::{self, Errno};
use crate::table::real;
use crate::target::PathText;
use crate::vfs::{self, Place, Target};
use crate::view::{self, Known};
use core::ffi::{CStr, c_char, c_int, c_uint, c_ulong, c_void};
use core::sync::atomic::Ordering;
use libc::{AT_FDCWD, FILE, mode_t, size_t, ssize_t};
use mpicc_proxy_abi::miss::Want;
use mpicc_proxy_abi::table::{ACCESS_EXECUTE, ACCESS_READ, ACCESS_WRITE, Stat};
use mpicc_proxy_abi::task::{Scratch, WRITE_REPLACES, WriteEntry, WriteState};

fn fail(errno: Errno) -> c_int {
    set_errno(errno);
    -1
}

/// libc functions that only worker mode needs, looked up on first use: every import costs every process of a build some
/// 500 instructions.
mod imports {
    use crate::hook::{Returned, Slot};
    use core::ffi::{c_int, c_void};

    /// # Safety
    /// As malloc(3).
    pub unsafe fn malloc(bytes: usize) -> *mut c_void {
        static SLOT: Slot = Slot::new();
        type Malloc = unsafe extern "C" fn(usize) -> *mut c_void;
        // SAFETY: the C library's function of this name has this type.
        unsafe { core::mem::transmute::<*mut c_void, Malloc>(SLOT.get(c"malloc", <*mut c_void>::ABSENT))(bytes) }
    }

    /// # Safety
    /// As fileno(3).
    pub unsafe fn fileno(stream: *mut libc::FILE) -> c_int {
        static SLOT: Slot = Slot::new();
        type Fileno = unsafe extern "C" fn(*mut libc::FILE) -> c_int;
        // SAFETY: the C library's function of this name has this type.
        unsafe { core::mem::transmute::<*mut c_void, Fileno>(SLOT.get(c"fileno", c_int::ABSENT))(stream) }
    }
}

// ---- opening ----------------------------------------------------------------------------------------------------

/// # Safety
/// As openat(2).
unsafe fn open_at(dir: c_int, path: *const c_char, flags: c_int) -> Result<Option<Target>, Errno> {
    // SAFETY: promised by the caller.
    let key = unsafe { vfs::key(dir, path) }?;
    vfs::target(&key, flags)
}

/// Opens what `target` says, or with `own` the path itself.
fn finish_open(target: Result<Option<Target>, Errno>, mode: mode_t, own: impl FnOnce() -> c_int) -> c_int {
    match target {
        Ok(None) => own(),
        Err(errno) => fail(errno),
        Ok(Some(target)) => {
            // SAFETY: a NUL-terminated path of ours.
            match unsafe { sys::open(target.path.as_ptr(), target.flags, mode) } {
                Ok(fd) => {
                    if let Some(known) = target.known {
                        view::note_fd(fd, known.index);
                    }
                    fd
                }
                Err(errno) => {
                    lost(&target);
                    fail(errno)
                }
            }
        }
    }
}

/// What we promised cannot be opened: never let the compiler believe that the head's file is missing.
fn lost(target: &Target) {
    view::taint(mpicc_proxy_abi::task::Taint::Store, target.path.bytes());
}

/// # Safety
/// As open(2).
pub unsafe fn open(real: real::open, path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: as above.
    unsafe { finish_open(open_at(AT_FDCWD, path, flags), mode, || real(path, flags, mode)) }
}

/// # Safety
/// As open(2) without O_CREAT.
pub unsafe fn open_2(real: real::__open_2, path: *const c_char, flags: c_int) -> c_int {
    // SAFETY: as above.
    unsafe { finish_open(open_at(AT_FDCWD, path, flags), 0, || real(path, flags)) }
}

/// # Safety
/// As openat(2).
pub unsafe fn openat(real: real::openat, dir: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: as above.
    unsafe { finish_open(open_at(dir, path, flags), mode, || real(dir, path, flags, mode)) }
}

/// # Safety
/// As openat(2) without O_CREAT.
pub unsafe fn openat_2(real: real::__openat_2, dir: c_int, path: *const c_char, flags: c_int) -> c_int {
    // SAFETY: as above.
    unsafe { finish_open(open_at(dir, path, flags), 0, || real(dir, path, flags)) }
}

/// # Safety
/// As creat(2).
pub unsafe fn creat(real: real::creat, path: *const c_char, mode: mode_t) -> c_int {
    let flags = libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC;
    // SAFETY: as above.
    unsafe { finish_open(open_at(AT_FDCWD, path, flags), mode, || real(path, mode)) }
}

/// open(2)'s flags for a mode of fopen(3).
///
/// # Safety
/// `mode` is NUL-terminated.
unsafe fn stdio_flags(mode: *const c_char) -> c_int {
    // SAFETY: promised by the caller.
    let mode = unsafe { CStr::from_ptr(mode) }.to_bytes();
    let both = mode.contains(&b'+');
    let access = |alone| if both { libc::O_RDWR } else { alone };
    let exclusive = if mode.contains(&b'x') { libc::O_EXCL } else { 0 };
    match mode.first() {
        Some(b'w') => access(libc::O_WRONLY) | libc::O_CREAT | libc::O_TRUNC | exclusive,
        Some(b'a') => access(libc::O_WRONLY) | libc::O_CREAT | libc::O_APPEND | exclusive,
        _ => access(libc::O_RDONLY),
    }
}

/// # Safety
/// As fopen(3); `open` opens the path it is given.
unsafe fn open_stream(
    path: *const c_char,
    mode: *const c_char,
    open: impl FnOnce(*const c_char) -> *mut FILE,
) -> *mut FILE {
    // SAFETY: promised by the caller.
    let target = unsafe { open_at(AT_FDCWD, path, stdio_flags(mode)) };
    match target {
        Ok(None) => open(path),
        Err(errno) => {
            set_errno(errno);
            core::ptr::null_mut()
        }
        Ok(Some(target)) => {
            let stream = open(target.path.as_ptr());
            if stream.is_null() {
                lost(&target);
            } else if let Some(known) = target.known {
                // SAFETY: a stream that was just opened.
                view::note_fd(unsafe { imports::fileno(stream) }, known.index);
            }
            stream
        }
    }
}

/// # Safety
/// As fopen(3).
pub unsafe fn fopen(real: real::fopen, path: *const c_char, mode: *const c_char) -> *mut FILE {
    // SAFETY: as above.
    unsafe { open_stream(path, mode, |path| real(path, mode)) }
}

/// # Safety
/// As freopen(3).
pub unsafe fn freopen(real: real::freopen, path: *const c_char, mode: *const c_char, stream: *mut FILE) -> *mut FILE {
    if path.is_null() {
        // SAFETY: as above.
        return unsafe { real(path, mode, stream) };
    }
    // SAFETY: as above.
    unsafe { open_stream(path, mode, |path| real(path, mode, stream)) }
}

/// # Safety
/// As opendir(3).
pub unsafe fn opendir(real: real::opendir, path: *const c_char) -> *mut libc::DIR {
    // SAFETY: as above.
    let folder = unsafe { vfs::key(AT_FDCWD, path) }.and_then(|key| listing(&key));
    match folder {
        // SAFETY: as above.
        Ok(None) => unsafe { real(path) },
        // SAFETY: a NUL-terminated path of ours.
        Ok(Some(folder)) => unsafe { real(folder.as_ptr()) },
        Err(errno) => {
            set_errno(errno);
            core::ptr::null_mut()
        }
    }
}

/// A folder of this host with the names the head's folder has, made by the rank.
fn listing(key: &path::Key) -> Result<Option<PathText>, Errno> {
    match vfs::place(key.bytes(), Want::Record)? {
        Place::Own => Ok(None),
        Place::Written(_) => Err(vfs::unsupported(key.bytes())),
        Place::Head(Known { entry, .. }) => {
            if entry.stat_errno != 0 {
                return Err(entry.stat_errno);
            }
            if entry.stat.mode & libc::S_IFMT != libc::S_IFDIR {
                return Err(libc::ENOTDIR);
            }
            if entry.access & ACCESS_READ == 0 {
                return Err(libc::EACCES);
            }
            let number = view::ask(key.bytes(), Want::Listing).ok_or_else(|| vfs::unsupported(key.bytes()))?;
            view::scratch_path(Scratch::Listing, number).map(Some).ok_or(libc::ENAMETOOLONG)
        }
    }
}

// ---- looking ----------------------------------------------------------------------------------------------------

/// Who answers stat(2) for a path.
enum Looked {
    Own,
    Written(&'static WriteEntry),
    Head(Stat),
}

fn look(key: &path::Key, follow: bool) -> Result<Looked, Errno> {
    match vfs::place(key.bytes(), Want::Record)? {
        Place::Own => Ok(Looked::Own),
        Place::Written(written) => match written.state() {
            WriteState::Live if key.directory => Err(libc::ENOTDIR),
            WriteState::Live | WriteState::Directory => Ok(Looked::Written(written)),
            _ => Err(libc::ENOENT),
        },
        Place::Head(Known { entry, .. }) => {
            let (errno, stat) =
                if follow || key.directory { (entry.stat_errno, entry.stat) } else { (entry.lstat_errno, entry.lstat) };
            if errno != 0 {
                Err(errno)
            } else if key.directory && stat.mode & libc::S_IFMT != libc::S_IFDIR {
                Err(libc::ENOTDIR)
            } else {
                Ok(Looked::Head(stat))
            }
        }
    }
}

/// Does something with the scratch item behind what this compile made.
fn on_scratch(written: &WriteEntry, act: impl FnOnce(*const c_char) -> c_int) -> c_int {
    match vfs::scratch_of(written) {
        Ok(scratch) => act(scratch.as_ptr()),
        Err(errno) => fail(errno),
    }
}

fn fill(stat: &Stat, out: &mut libc::stat) {
    out.st_dev = stat.dev as _;
    out.st_ino = stat.ino as _;
    out.st_rdev = stat.rdev as _;
    out.st_mode = stat.mode as _;
    out.st_uid = stat.uid as _;
    out.st_gid = stat.gid as _;
    out.st_nlink = stat.nlink as _;
    out.st_size = stat.size as _;
    out.st_blksize = stat.blksize as _;
    out.st_blocks = stat.blocks as _;
    [out.st_atime, out.st_atime_nsec] = stat.atime as _;
    [out.st_mtime, out.st_mtime_nsec] = stat.mtime as _;
    [out.st_ctime, out.st_ctime_nsec] = stat.ctime as _;
}

/// # Safety
/// `out` points to a writable `stat`; `own` asks this host about the path it is given.
unsafe fn stat_at(
    dir: c_int,
    path: *const c_char,
    follow: bool,
    out: *mut libc::stat,
    own: impl FnOnce(*const c_char) -> c_int,
) -> c_int {
    // SAFETY: promised by the caller.
    match unsafe { vfs::key(dir, path) }.and_then(|key| look(&key, follow)) {
        Ok(Looked::Own) => own(path),
        Ok(Looked::Written(written)) => on_scratch(written, own),
        Ok(Looked::Head(stat)) => {
            // SAFETY: promised by the caller; the kernel, too, clears what it has no value for.
            unsafe {
                out.write(core::mem::zeroed());
                fill(&stat, &mut *out);
            }
            0
        }
        Err(errno) => fail(errno),
    }
}

/// # Safety
/// As stat(2).
pub unsafe fn stat(real: real::stat, path: *const c_char, out: *mut libc::stat) -> c_int {
    // SAFETY: as above.
    unsafe { stat_at(AT_FDCWD, path, true, out, |path| real(path, out)) }
}

/// # Safety
/// As lstat(2).
pub unsafe fn lstat(real: real::lstat, path: *const c_char, out: *mut libc::stat) -> c_int {
    // SAFETY: as above.
    unsafe { stat_at(AT_FDCWD, path, false, out, |path| real(path, out)) }
}

/// # Safety
/// As glibc's stat before 2.33.
pub unsafe fn xstat(real: real::__xstat, version: c_int, path: *const c_char, out: *mut libc::stat) -> c_int {
    // SAFETY: as above.
    unsafe { stat_at(AT_FDCWD, path, true, out, |path| real(version, path, out)) }
}

/// # Safety
/// As glibc's lstat before 2.33.
pub unsafe fn lxstat(real: real::__lxstat, version: c_int, path: *const c_char, out: *mut libc::stat) -> c_int {
    // SAFETY: as above.
    unsafe { stat_at(AT_FDCWD, path, false, out, |path| real(version, path, out)) }
}

/// # Safety
/// As fstatat(2).
pub unsafe fn fstatat(
    real: real::fstatat,
    dir: c_int,
    path: *const c_char,
    out: *mut libc::stat,
    flags: c_int,
) -> c_int {
    // SAFETY: as above.
    if flags & libc::AT_EMPTY_PATH != 0 && !path.is_null() && unsafe { *path } == 0 {
        // SAFETY: as above.
        return unsafe { finish_fstat(real(dir, path, out, flags), dir, out) };
    }
    let follow = flags & libc::AT_SYMLINK_NOFOLLOW == 0;
    // SAFETY: as above.
    unsafe { stat_at(dir, path, follow, out, |path| real(dir, path, out, flags)) }
}

/// # Safety
/// As glibc's fstatat before 2.33.
pub unsafe fn fxstatat(
    real: real::__fxstatat,
    version: c_int,
    dir: c_int,
    path: *const c_char,
    out: *mut libc::stat,
    flags: c_int,
) -> c_int {
    let follow = flags & libc::AT_SYMLINK_NOFOLLOW == 0;
    // SAFETY: as above.
    unsafe { stat_at(dir, path, follow, out, |path| real(version, dir, path, out, flags)) }
}

/// # Safety
/// As fstat(2).
pub unsafe fn fstat(real: real::fstat, fd: c_int, out: *mut libc::stat) -> c_int {
    // SAFETY: as above.
    unsafe { finish_fstat(real(fd, out), fd, out) }
}

/// # Safety
/// As glibc's fstat before 2.33.
pub unsafe fn fxstat(real: real::__fxstat, version: c_int, fd: c_int, out: *mut libc::stat) -> c_int {
    // SAFETY: as above.
    unsafe { finish_fstat(real(version, fd, out), fd, out) }
}

/// A descriptor of a file of the head shows the head's identity: compilers tell headers apart by it.
///
/// # Safety
/// When `result` is 0, `out` points to the `stat` of `fd`.
unsafe fn finish_fstat(result: c_int, fd: c_int, out: *mut libc::stat) -> c_int {
    if result == 0 {
        // SAFETY: filled by the successful call.
        let out = unsafe { &mut *out };
        if let Some(entry) = view::entry_of_fd(fd, out.st_dev, out.st_ino) {
            fill(&entry.stat, out);
        }
    }
    result
}

/// # Safety
/// As statx(2).
pub unsafe fn statx(
    real: real::statx,
    dir: c_int,
    path: *const c_char,
    flags: c_int,
    mask: c_uint,
    out: *mut libc::statx,
) -> c_int {
    // SAFETY: as above.
    let empty = path.is_null() || unsafe { *path } == 0;
    let looked = if empty {
        let Some(stat) = sys::fstat(dir) else {
            // SAFETY: as above.
            return unsafe { real(dir, path, flags, mask, out) };
        };
        match view::entry_of_fd(dir, stat.st_dev, stat.st_ino) {
            Some(entry) => Ok(Looked::Head(entry.stat)),
            None => Ok(Looked::Own),
        }
    } else {
        let follow = flags & libc::AT_SYMLINK_NOFOLLOW == 0;
        // SAFETY: as above.
        unsafe { vfs::key(dir, path) }.and_then(|key| look(&key, follow))
    };
    match looked {
        // SAFETY: as above.
        Ok(Looked::Own) => unsafe { real(dir, path, flags, mask, out) },
        Ok(Looked::Written(written)) => {
            // SAFETY: as above, with a NUL-terminated path of ours.
            on_scratch(written, |scratch| unsafe { real(AT_FDCWD, scratch, flags, mask, out) })
        }
        Ok(Looked::Head(stat)) => {
            // SAFETY: `out` is writable by the caller's promise; all-zero bytes are a valid `statx`.
            unsafe { out.write(core::mem::zeroed()) };
            // SAFETY: just written.
            fill_statx(&stat, unsafe { &mut *out });
            0
        }
        Err(errno) => fail(errno),
    }
}

fn fill_statx(stat: &Stat, out: &mut libc::statx) {
    out.stx_mask = libc::STATX_BASIC_STATS;
    out.stx_mode = stat.mode as _;
    out.stx_uid = stat.uid;
    out.stx_gid = stat.gid;
    out.stx_nlink = stat.nlink;
    out.stx_ino = stat.ino;
    out.stx_size = stat.size as _;
    out.stx_blksize = stat.blksize as _;
    out.stx_blocks = stat.blocks as _;
    (out.stx_dev_major, out.stx_dev_minor) = (libc::major(stat.dev as _), libc::minor(stat.dev as _));
    (out.stx_rdev_major, out.stx_rdev_minor) = (libc::major(stat.rdev as _), libc::minor(stat.rdev as _));
    for (to, from) in
        [(&mut out.stx_atime, stat.atime), (&mut out.stx_mtime, stat.mtime), (&mut out.stx_ctime, stat.ctime)]
    {
        to.tv_sec = from[0];
        to.tv_nsec = from[1] as u32;
    }
}

/// # Safety
/// `path` is NUL-terminated; `own` asks this host.
unsafe fn access_at(dir: c_int, path: *const c_char, how: c_int, own: impl FnOnce(*const c_char) -> c_int) -> c_int {
    // SAFETY: promised by the caller.
    let place = unsafe { vfs::key(dir, path) }.and_then(|key| match vfs::place(key.bytes(), Want::Record)? {
        Place::Head(known) => Ok(Some((known.entry, key.directory))),
        Place::Written(_) => match look(&key, true)? {
            // What this compile made, it may use.
            Looked::Written(_) => Ok(None),
            _ => Err(libc::ENOENT),
        },
        Place::Own => Err(0),
    });
    match place {
        Err(0) => own(path),
        Err(errno) => fail(errno),
        Ok(None) if how & libc::X_OK == 0 => 0,
        Ok(None) => fail(libc::EACCES),
        Ok(Some((entry, _))) if entry.stat_errno != 0 => fail(entry.stat_errno),
        Ok(Some((entry, true))) if entry.stat.mode & libc::S_IFMT != libc::S_IFDIR => fail(libc::ENOTDIR),
        Ok(Some((entry, _))) => {
            let wanted = [(libc::R_OK, ACCESS_READ), (libc::W_OK, ACCESS_WRITE), (libc::X_OK, ACCESS_EXECUTE)];
            let denied = wanted.iter().any(|(bit, right)| how & bit != 0 && entry.access & right == 0);
            if denied { fail(libc::EACCES) } else { 0 }
        }
    }
}

/// # Safety
/// As access(2).
pub unsafe fn access(real: real::access, path: *const c_char, how: c_int) -> c_int {
    // SAFETY: as above.
    unsafe { access_at(AT_FDCWD, path, how, |path| real(path, how)) }
}

/// # Safety
/// As faccessat(2).
pub unsafe fn faccessat(real: real::faccessat, dir: c_int, path: *const c_char, how: c_int, flags: c_int) -> c_int {
    // SAFETY: as above.
    unsafe { access_at(dir, path, how, |path| real(dir, path, how, flags)) }
}

/// # Safety
/// `out` has `size` writable bytes.
unsafe fn copy_out(bytes: &[u8], out: *mut c_char, size: size_t) -> usize {
    let count = bytes.len().min(size);
    // SAFETY: promised by the caller.
    unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), out.cast::<u8>(), count) };
    count
}

/// # Safety
/// As readlinkat(2); `own` asks this host.
unsafe fn link_at(
    dir: c_int,
    path: *const c_char,
    out: *mut c_char,
    size: size_t,
    own: impl FnOnce() -> ssize_t,
) -> ssize_t {
    // SAFETY: promised by the caller.
    let place = unsafe { vfs::key(dir, path) }.and_then(|key| vfs::place(key.bytes(), Want::Record));
    let target = match place {
        Ok(Place::Own) => return own(),
        Ok(Place::Written(written)) => Err(match written.state() {
            WriteState::Live | WriteState::Directory => libc::EINVAL,
            _ => libc::ENOENT,
        }),
        Ok(Place::Head(Known { entry, .. })) if entry.lstat_errno != 0 => Err(entry.lstat_errno),
        Ok(Place::Head(Known { entry, .. })) if !vfs::is_link(entry) => Err(libc::EINVAL),
        Ok(Place::Head(Known { entry, .. })) => Ok(view::text(entry.link)),
        Err(errno) => Err(errno),
    };
    match target {
        // SAFETY: promised by the caller.
        Ok(target) => (unsafe { copy_out(target, out, size) }) as ssize_t,
        Err(errno) => fail(errno) as ssize_t,
    }
}

/// # Safety
/// As readlink(2).
pub unsafe fn readlink(real: real::readlink, path: *const c_char, out: *mut c_char, size: size_t) -> ssize_t {
    // SAFETY: as above.
    unsafe { link_at(AT_FDCWD, path, out, size, || real(path, out, size)) }
}

/// # Safety
/// As the fortified readlink(2).
pub unsafe fn readlink_chk(
    real: real::__readlink_chk,
    path: *const c_char,
    out: *mut c_char,
    size: size_t,
    room: size_t,
) -> ssize_t {
    // SAFETY: as above.
    unsafe { link_at(AT_FDCWD, path, out, size.min(room), || real(path, out, size, room)) }
}

/// # Safety
/// As readlinkat(2).
pub unsafe fn readlinkat(
    real: real::readlinkat,
    dir: c_int,
    path: *const c_char,
    out: *mut c_char,
    size: size_t,
) -> ssize_t {
    // SAFETY: as above.
    unsafe { link_at(dir, path, out, size, || real(dir, path, out, size)) }
}

/// # Safety
/// As realpath(3); `own` asks this host.
unsafe fn real_path(path: *const c_char, out: *mut c_char, own: impl FnOnce() -> *mut c_char) -> *mut c_char {
    let mut built = PathText::new();
    // SAFETY: promised by the caller.
    let found = unsafe { vfs::key(AT_FDCWD, path) }.and_then(|key| resolve(&key, &mut built));
    match found {
        Ok(false) => own(),
        // SAFETY: promised by the caller.
        Ok(true) => unsafe { give_string(built.bytes(), out) },
        Err(errno) => {
            set_errno(errno);
            core::ptr::null_mut()
        }
    }
}

/// Writes the real path of a key to `out`; `Ok(false)`: the key is this host's own.
fn resolve(key: &path::Key, out: &mut PathText) -> Result<bool, Errno> {
    let written = match vfs::place(key.bytes(), Want::Record)? {
        Place::Own => return Ok(false),
        Place::Head(Known { entry, .. }) if entry.real_errno != 0 => return Err(entry.real_errno),
        Place::Head(Known { entry, .. }) => {
            let not_directory = key.directory && entry.stat.mode & libc::S_IFMT != libc::S_IFDIR;
            if not_directory {
                return Err(libc::ENOTDIR);
            }
            return out.push(view::text(entry.real)).map(|()| true).ok_or(libc::ENAMETOOLONG);
        }
        Place::Written(written) => written,
    };
    match written.state() {
        WriteState::Live | WriteState::Directory => {}
        _ => return Err(libc::ENOENT),
    }
    let Place::Head(Known { entry, .. }) = vfs::place(path::parent(key.bytes()), Want::Record)? else {
        return Err(vfs::unsupported(key.bytes()));
    };
    if entry.real_errno != 0 {
        return Err(entry.real_errno);
    }
    let parts = [view::text(entry.real), b"/", path::file_name(key.bytes())];
    parts.into_iter().try_for_each(|part| out.push(part)).map(|()| true).ok_or(libc::ENAMETOOLONG)
}

/// Copies a string with its NUL to `out`, or to fresh memory when `out` is NULL.
///
/// # Safety
/// `out` is NULL or has room.
unsafe fn give_string(bytes: &[u8], out: *mut c_char) -> *mut c_char {
    let target = if out.is_null() {
        // SAFETY: worker-mode handlers run outside of vfork children here; the caller frees it, as documented.
        unsafe { imports::malloc(bytes.len() + 1) }.cast::<c_char>()
    } else {
        out
    };
    if !target.is_null() {
        // SAFETY: room for the bytes and a NUL by the promise or the allocation above.
        unsafe {
            copy_out(bytes, target, bytes.len());
            target.add(bytes.len()).write(0);
        }
    }
    target
}

/// # Safety
/// As realpath(3).
pub unsafe fn realpath(real: real::realpath, path: *const c_char, out: *mut c_char) -> *mut c_char {
    // SAFETY: as above.
    unsafe { real_path(path, out, || real(path, out)) }
}

/// # Safety
/// As the fortified realpath(3).
pub unsafe fn realpath_chk(
    real: real::__realpath_chk,
    path: *const c_char,
    out: *mut c_char,
    room: size_t,
) -> *mut c_char {
    // SAFETY: as above.
    unsafe { real_path(path, out, || real(path, out, room)) }
}

/// # Safety
/// As canonicalize_file_name(3).
pub unsafe fn canonicalize_file_name(real: real::canonicalize_file_name, path: *const c_char) -> *mut c_char {
    // SAFETY: as above.
    unsafe { real_path(path, core::ptr::null_mut(), || real(path)) }
}

/// # Safety
/// As getcwd(3).
unsafe fn working_directory(out: *mut c_char, size: size_t) -> *mut c_char {
    let page = view::page();
    let cwd = page.bytes(page.cwd);
    if size != 0 && size <= cwd.len() {
        set_errno(libc::ERANGE);
        return core::ptr::null_mut();
    }
    if size == 0 && !out.is_null() {
        set_errno(libc::EINVAL);
        return core::ptr::null_mut();
    }
    // SAFETY: room by the check above, or NULL.
    unsafe { give_string(cwd, out) }
}

/// # Safety
/// As getcwd(3).
pub unsafe fn getcwd(_: real::getcwd, out: *mut c_char, size: size_t) -> *mut c_char {
    // SAFETY: as above.
    unsafe { working_directory(out, size) }
}

/// # Safety
/// As the fortified getcwd(3).
pub unsafe fn getcwd_chk(_: real::__getcwd_chk, out: *mut c_char, size: size_t, room: size_t) -> *mut c_char {
    // SAFETY: as above.
    unsafe { working_directory(out, size.min(room)) }
}

/// # Safety
/// As get_current_dir_name(3).
pub unsafe fn get_current_dir_name(_: real::get_current_dir_name) -> *mut c_char {
    // SAFETY: NULL asks for fresh memory.
    unsafe { working_directory(core::ptr::null_mut(), 0) }
}

// ---- changing ---------------------------------------------------------------------------------------------------

/// Removes a name: what this compile made goes, what the head has is noted as deleted.
fn remove_name(key: &path::Key) -> Result<bool, Errno> {
    match vfs::place(key.bytes(), Want::Record)? {
        Place::Own => return Ok(false),
        Place::Written(written) => match written.state() {
            WriteState::Live => {
                // A name that replaced one of the head leaves a hole there; one that was new leaves nothing.
                let hides = written.flags.load(Ordering::Acquire) & WRITE_REPLACES != 0 || exists_on_head(key.bytes());
                let next = if hides { WriteState::Deleted } else { WriteState::Gone };
                written.state.store(next as u32, Ordering::Release);
            }
            WriteState::Directory => return Err(libc::EISDIR),
            _ => return Err(libc::ENOENT),
        },
        Place::Head(Known { entry, .. }) => {
            if entry.lstat_errno != 0 {
                return Err(entry.lstat_errno);
            }
            if entry.lstat.mode & libc::S_IFMT == libc::S_IFDIR {
                return Err(libc::EISDIR);
            }
            vfs::may_create_in(path::parent(key.bytes()))?;
            vfs::add_write(key.bytes(), WriteState::Deleted, WRITE_REPLACES)?;
        }
    }
    Ok(true)
}

fn exists_on_head(key: &[u8]) -> bool {
    view::lookup(key, Want::Record).is_some_and(|known| known.entry.lstat_errno == 0)
}

/// # Safety
/// As unlinkat(2); `own` acts on this host.
unsafe fn unlink_at(dir: c_int, path: *const c_char, own: impl FnOnce() -> c_int) -> c_int {
    // SAFETY: promised by the caller.
    match unsafe { vfs::key(dir, path) }.and_then(|key| remove_name(&key)) {
        Ok(true) => 0,
        Ok(false) => own(),
        Err(errno) => fail(errno),
    }
}

/// # Safety
/// As unlink(2).
pub unsafe fn unlink(real: real::unlink, path: *const c_char) -> c_int {
    // SAFETY: as above.
    unsafe { unlink_at(AT_FDCWD, path, || real(path)) }
}

/// # Safety
/// As unlinkat(2).
pub unsafe fn unlinkat(real: real::unlinkat, dir: c_int, path: *const c_char, flags: c_int) -> c_int {
    if flags & libc::AT_REMOVEDIR != 0 {
        // SAFETY: as above.
        return unsafe { refuse_path(dir, path, || real(dir, path, flags)) };
    }
    // SAFETY: as above.
    unsafe { unlink_at(dir, path, || real(dir, path, flags)) }
}

/// # Safety
/// As rename(2).
pub unsafe fn rename(real: real::rename, from: *const c_char, to: *const c_char) -> c_int {
    // SAFETY: as above.
    unsafe { rename_at(AT_FDCWD, from, AT_FDCWD, to, || real(from, to)) }
}

/// # Safety
/// As renameat(2).
pub unsafe fn renameat(
    real: real::renameat,
    from_dir: c_int,
    from: *const c_char,
    to_dir: c_int,
    to: *const c_char,
) -> c_int {
    // SAFETY: as above.
    unsafe { rename_at(from_dir, from, to_dir, to, || real(from_dir, from, to_dir, to)) }
}

/// # Safety
/// As renameat(2); `own` acts on this host.
unsafe fn rename_at(
    from_dir: c_int,
    from: *const c_char,
    to_dir: c_int,
    to: *const c_char,
    own: impl FnOnce() -> c_int,
) -> c_int {
    // SAFETY: promised by the caller.
    let keys = unsafe { vfs::key(from_dir, from).and_then(|from| Ok((from, vfs::key(to_dir, to)?))) };
    match keys.and_then(|(from, to)| rename_name(&from, &to)) {
        Ok(true) => 0,
        Ok(false) => own(),
        Err(errno) => fail(errno),
    }
}

/// Only a file this compile wrote can be renamed; compilers rename their temporary output over the final one.
fn rename_name(from: &path::Key, to: &path::Key) -> Result<bool, Errno> {
    match (vfs::place(from.bytes(), Want::Record)?, vfs::place(to.bytes(), Want::Record)?) {
        (Place::Own, Place::Own) => Ok(false),
        (Place::Written(source), target) if source.state() == WriteState::Live => {
            let number = source.scratch.load(Ordering::Acquire);
            match target {
                Place::Own => return Err(vfs::unsupported(to.bytes())),
                Place::Written(written) if written.state() == WriteState::Directory => return Err(libc::EISDIR),
                Place::Written(written) => {
                    written.scratch.store(number, Ordering::Release);
                    written.flags.fetch_or(WRITE_REPLACES, Ordering::AcqRel);
                    written.state.store(WriteState::Live as u32, Ordering::Release);
                }
                Place::Head(Known { entry, .. }) => {
                    if entry.lstat_errno == 0 && entry.lstat.mode & libc::S_IFMT == libc::S_IFDIR {
                        return Err(libc::EISDIR);
                    }
                    vfs::may_create_in(path::parent(to.bytes()))?;
                    let page = view::page();
                    if page.add_write(to.bytes(), WriteState::Live, WRITE_REPLACES, number).is_none() {
                        return Err(vfs::unsupported(b"more written files than the list holds"));
                    }
                }
            }
            let left = if exists_on_head(from.bytes()) { WriteState::Deleted } else { WriteState::Gone };
            source.state.store(left as u32, Ordering::Release);
            Ok(true)
        }
        (Place::Head(Known { entry, .. }), _) if entry.lstat_errno != 0 => Err(entry.lstat_errno),
        _ => Err(vfs::unsupported(from.bytes())),
    }
}

/// # Safety
/// As remove(3).
pub unsafe fn remove(real: real::remove, path: *const c_char) -> c_int {
    // SAFETY: as above.
    unsafe { unlink_at(AT_FDCWD, path, || real(path)) }
}

fn make_directory(key: &path::Key, mode: mode_t) -> Result<bool, Errno> {
    match vfs::place(key.bytes(), Want::Record)? {
        Place::Own => return Ok(false),
        Place::Written(written) => {
            return Err(match written.state() {
                WriteState::Live | WriteState::Directory => libc::EEXIST,
                _ => vfs::unsupported(key.bytes()),
            });
        }
        Place::Head(Known { entry, .. }) if entry.lstat_errno == 0 => return Err(libc::EEXIST),
        Place::Head(Known { entry, .. }) if entry.lstat_errno != libc::ENOENT => return Err(entry.lstat_errno),
        Place::Head(_) => vfs::may_create_in(path::parent(key.bytes()))?,
    }
    let written = vfs::add_write(key.bytes(), WriteState::Directory, 0)?;
    let scratch = vfs::scratch_of(written)?;
    // SAFETY: a NUL-terminated path of ours.
    unsafe { sys::mkdir(scratch.as_ptr(), mode) }.map(|()| true)
}

/// # Safety
/// As mkdir(2).
pub unsafe fn mkdir(real: real::mkdir, path: *const c_char, mode: mode_t) -> c_int {
    // SAFETY: as above.
    match unsafe { vfs::key(AT_FDCWD, path) }.and_then(|key| make_directory(&key, mode)) {
        Ok(true) => 0,
        // SAFETY: as above.
        Ok(false) => unsafe { real(path, mode) },
        Err(errno) => fail(errno),
    }
}

/// # Safety
/// As chmod(2).
pub unsafe fn chmod(real: real::chmod, path: *const c_char, mode: mode_t) -> c_int {
    // SAFETY: as above.
    match unsafe { vfs::key(AT_FDCWD, path) }.and_then(|key| look(&key, true).map(|looked| (looked, key))) {
        // SAFETY: as above.
        Ok((Looked::Own, _)) => unsafe { real(path, mode) },
        // SAFETY: as above, with a NUL-terminated path of ours.
        Ok((Looked::Written(written), _)) => on_scratch(written, |scratch| unsafe { real(scratch, mode) }),
        Ok((Looked::Head(_), key)) => fail(vfs::unsupported(key.bytes())),
        Err(errno) => fail(errno),
    }
}

/// Letters of temporary names, as mkstemp(3) uses them.
const LETTERS: &[u8; 62] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
const TEMPLATE: &[u8] = b"XXXXXX";
/// Names tried before giving up; of 62^6 possible ones.
const NAMES_TRIED: u32 = 100;

/// # Safety
/// `template` is a writable NUL-terminated string; `own` acts on this host.
unsafe fn make_temporary(template: *mut c_char, suffix: c_int, flags: c_int, own: impl FnOnce() -> c_int) -> c_int {
    // SAFETY: promised by the caller.
    match unsafe { vfs::key(AT_FDCWD, template) } {
        Ok(key) if view::is_own(key.bytes()) => return own(),
        Ok(_) => {}
        Err(errno) => return fail(errno),
    }
    // SAFETY: promised by the caller.
    let length = unsafe { CStr::from_ptr(template) }.to_bytes().len();
    let Some(start) = usize::try_from(suffix).ok().and_then(|suffix| length.checked_sub(suffix + TEMPLATE.len()))
    else {
        return fail(libc::EINVAL);
    };
    // SAFETY: inside the string by the subtraction above.
    let letters = unsafe { core::slice::from_raw_parts_mut(template.add(start).cast::<u8>(), TEMPLATE.len()) };
    if letters != TEMPLATE {
        return fail(libc::EINVAL);
    }
    for _ in 0..NAMES_TRIED {
        let mut random = sys::random();
        for letter in letters.iter_mut() {
            *letter = LETTERS[(random % LETTERS.len() as u64) as usize];
            random /= LETTERS.len() as u64;
        }
        let flags = flags | libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
        // SAFETY: still NUL-terminated.
        match unsafe { open_at(AT_FDCWD, template, flags) } {
            Err(libc::EEXIST) => {}
            target => return finish_open(target, 0o600, || fail(libc::EINVAL)),
        }
    }
    fail(libc::EEXIST)
}

/// # Safety
/// As mkstemp(3).
pub unsafe fn mkstemp(real: real::mkstemp, template: *mut c_char) -> c_int {
    // SAFETY: as above.
    unsafe { make_temporary(template, 0, 0, || real(template)) }
}

/// # Safety
/// As mkostemp(3).
pub unsafe fn mkostemp(real: real::mkostemp, template: *mut c_char, flags: c_int) -> c_int {
    // SAFETY: as above.
    unsafe { make_temporary(template, 0, flags, || real(template, flags)) }
}

/// # Safety
/// As mkstemps(3).
pub unsafe fn mkstemps(real: real::mkstemps, template: *mut c_char, suffix: c_int) -> c_int {
    // SAFETY: as above.
    unsafe { make_temporary(template, suffix, 0, || real(template, suffix)) }
}

/// # Safety
/// As mkostemps(3).
pub unsafe fn mkostemps(real: real::mkostemps, template: *mut c_char, suffix: c_int, flags: c_int) -> c_int {
    // SAFETY: as above.
    unsafe { make_temporary(template, suffix, flags, || real(template, suffix, flags)) }
}

// ---- not covered yet --------------------------------------------------------------------------------------------

/// A call the tree does not cover: fine on this host's own paths, a taint on the head's.
///
/// # Safety
/// `path` is NULL or NUL-terminated; `own` acts on this host.
unsafe fn refuse_path(dir: c_int, path: *const c_char, own: impl FnOnce() -> c_int) -> c_int {
    // SAFETY: promised by the caller.
    match unsafe { vfs::key(dir, path) } {
        Ok(key) if view::is_own(key.bytes()) => own(),
        Ok(key) => fail(vfs::unsupported(key.bytes())),
        Err(errno) => fail(errno),
    }
}

/// # Safety
/// As chdir(2), rmdir(2).
pub unsafe fn refuse(real: real::chdir, path: *const c_char) -> c_int {
    // SAFETY: as above.
    unsafe { refuse_path(AT_FDCWD, path, || real(path)) }
}

/// # Safety
/// As fchdir(2).
pub unsafe fn fchdir(_: real::fchdir, _: c_int) -> c_int {
    fail(vfs::unsupported(b"fchdir"))
}

/// # Safety
/// As symlink(2), link(2).
pub unsafe fn refuse_second(real: real::symlink, target: *const c_char, path: *const c_char) -> c_int {
    // SAFETY: as above.
    unsafe { refuse_path(AT_FDCWD, path, || real(target, path)) }
}

/// # Safety
/// As truncate(2).
pub unsafe fn truncate(real: real::truncate, path: *const c_char, length: i64) -> c_int {
    // SAFETY: as above.
    unsafe { refuse_path(AT_FDCWD, path, || real(path, length)) }
}

/// # Safety
/// As mkfifo(3).
pub unsafe fn mkfifo(real: real::mkfifo, path: *const c_char, mode: mode_t) -> c_int {
    // SAFETY: as above.
    unsafe { refuse_path(AT_FDCWD, path, || real(path, mode)) }
}

/// # Safety
/// As utimensat(2). Times of what was written are not published, so nothing is lost on scratch files.
pub unsafe fn utimensat(
    real: real::utimensat,
    dir: c_int,
    path: *const c_char,
    times: *const libc::timespec,
    flags: c_int,
) -> c_int {
    // SAFETY: as above.
    unsafe { refuse_path(dir, path, || real(dir, path, times, flags)) }
}

/// # Safety
/// As mkdtemp(3).
pub unsafe fn mkdtemp(real: real::mkdtemp, template: *mut c_char) -> *mut c_char {
    // SAFETY: as above.
    let result = unsafe { refuse_path(AT_FDCWD, template, || 0) };
    // SAFETY: as above.
    if result == 0 { unsafe { real(template) } } else { core::ptr::null_mut() }
}

// ---- terminals --------------------------------------------------------------------------------------------------

/// # Safety
/// As isatty(3): the answer for stdin, stdout and stderr is the head's, where diagnostics will be read.
pub unsafe fn isatty(real: real::isatty, fd: c_int) -> c_int {
    if !(0..3).contains(&fd) {
        // SAFETY: as above.
        return unsafe { real(fd) };
    }
    if view::page().terminals & 1 << fd != 0 {
        return 1;
    }
    set_errno(libc::ENOTTY);
    0
}

/// # Safety
/// As ioctl(2).
pub unsafe fn ioctl(real: real::ioctl, fd: c_int, request: c_ulong, argument: *mut c_void) -> c_int {
    if request != libc::TIOCGWINSZ as c_ulong || !(0..3).contains(&fd) {
        // SAFETY: as above.
        return unsafe { real(fd, request, argument) };
    }
    let page = view::page();
    if page.terminals & 1 << fd == 0 || page.has_window == 0 {
        return fail(libc::ENOTTY);
    }
    // SAFETY: TIOCGWINSZ takes a `winsize`, four u16 without padding.
    unsafe { argument.cast::<[u16; 4]>().write(page.window) };
    0
}
