//! Build side: what an exec or a spawn becomes. A call that would start a compiler driver starts the client instead, with
//! `argv` untouched; every other call goes to the real function, with the environment kept complete ([`crate::env`]).
//!
//! # Rules
//!
//! This code runs in vfork children, which share make's memory, and in threads of anything: no allocation, no lock, no
//! panic, no lazily filled static on the way, no call through a hooked symbol, no descriptor left open. Only the real
//! function touches `errno`. A client that cannot be started is not an error: the real call follows.

use crate::elf::Image;
use crate::env::{self, DRIVER_BYTES_MAX, Survey};
use crate::fixed::{Fixed, bytes_of};
use crate::hook::{self, Mode};
use crate::keep::kept;
use crate::leaf;
use crate::loader::{self, Command};
use crate::step;
use crate::sys;
use crate::table::{Strings, next};
use crate::target::{self, PathText, Target};
use crate::variadic::Arguments;
use crate::vfs;
use core::ffi::{c_char, c_int};
use core::ptr::null;
use libc::{pid_t, posix_spawn_file_actions_t, posix_spawnattr_t};
use mpicc_proxy_abi::driver::base_name;
use mpicc_proxy_abi::{CLIENT_NAME, PATH_BYTES_MAX, env as names};

unsafe extern "C" {
    /// The C library's; a program may have its own copy, which the dynamic linker then gives to everybody.
    static environ: Strings;
}

/// The program's environment at this moment.
pub fn current_environ() -> Strings {
    // SAFETY: a word; racing with setenv in another thread is the program's fault, as with the real function.
    unsafe { environ }
}

/// One call of the exec or spawn family.
struct Call {
    /// What it is asked to start.
    target: Target,
    argv: Strings,
    kind: Kind,
}

#[derive(Clone, Copy)]
enum Kind {
    Exec,
    /// fexecve, which has its own ways where execveat is missing.
    ExecDescriptor(c_int),
    Spawn {
        pid: *mut pid_t,
        actions: *const posix_spawn_file_actions_t,
        attributes: *const posix_spawnattr_t,
    },
}

impl Call {
    /// Starts exactly `path`.
    ///
    /// # Safety
    /// As execve(2), with the call's own other arguments.
    unsafe fn direct(&self, path: *const c_char, envp: Strings) -> c_int {
        match self.kind {
            // SAFETY: promised by the caller, here and below.
            Kind::Exec | Kind::ExecDescriptor(_) => unsafe { next::execve()(path, self.argv, envp) },
            Kind::Spawn { pid, actions, attributes } => {
                // SAFETY: as above.
                unsafe { next::posix_spawn()(pid, path, actions, attributes, self.argv, envp) }
            }
        }
    }

    /// What the caller asked for, with another environment.
    ///
    /// # Safety
    /// As `direct`.
    unsafe fn asked(&self, envp: Strings) -> c_int {
        match (&self.kind, self.target) {
            // SAFETY: promised by the caller, here and below.
            (&Kind::ExecDescriptor(fd), _) => unsafe { next::fexecve()(fd, self.argv, envp) },
            (Kind::Exec, Target::At { dir, path, flags }) => {
                // SAFETY: as above.
                unsafe { next::execveat()(dir, path, self.argv, envp, flags) }
            }
            // SAFETY: as above.
            (Kind::Exec, Target::File(file)) => unsafe { next::execvpe()(file, self.argv, envp) },
            (&Kind::Spawn { pid, actions, attributes }, Target::File(file)) => {
                // SAFETY: as above.
                unsafe { next::posix_spawnp()(pid, file, actions, attributes, self.argv, envp) }
            }
            // SAFETY: as above.
            (_, Target::Path(path)) => unsafe { self.direct(path, envp) },
            // No hook makes this.
            (Kind::Spawn { .. }, Target::At { .. }) => libc::ENOSYS,
        }
    }

    /// Did a `direct` with this result start nothing?
    fn has_failed(&self, result: c_int) -> bool {
        match self.kind {
            Kind::Spawn { .. } => result != 0,
            // It returned.
            _ => true,
        }
    }

    /// How the call says that it failed with `errno`.
    fn refused(&self, errno: c_int) -> c_int {
        match self.kind {
            Kind::Spawn { .. } => errno,
            _ => {
                hook::set_errno(errno);
                -1
            }
        }
    }

    /// May the working directory change between this call and the moment the file is looked for? The list of actions is
    /// opaque, and one may be posix_spawn_file_actions_addchdir_np.
    fn may_move(&self) -> bool {
        matches!(self.kind, Kind::Spawn { actions, .. } if !actions.is_null())
    }
}

/// # Safety
/// As the C function that `call` stands for.
unsafe fn launch(call: &Call, envp: Strings) -> c_int {
    // SAFETY: an environment, promised by the caller.
    let survey = unsafe { env::survey(envp) };
    if hook::mode() == Mode::Worker {
        // SAFETY: promised by the caller.
        return unsafe { launch_in_worker(call, envp, &survey) };
    }
    if survey.is_off() {
        // SAFETY: the caller's own call.
        return unsafe { call.asked(envp) };
    }
    // SAFETY: promised by the caller.
    let image = match unsafe { try_client(call, envp, &survey) } {
        Verdict::Client(result) => return result,
        Verdict::Real(image) => image,
    };
    let image = if survey.preloads_sanitizer() { Image::Instrumented } else { image };
    let step = step::of_child(&survey, image);
    // SAFETY: the caller's own call, with an environment that has more in it; the survey is of this `envp`.
    unsafe { env::with_child(envp, &survey, image, step.as_ref(), &|envp| call.asked(envp)) }
}

/// What became of a call.
enum Verdict {
    /// A client runs in its place.
    Client(c_int),
    /// It is not for us.
    Real(Image),
}

#[inline(never)]
unsafe fn try_client(call: &Call, envp: Strings, survey: &Survey) -> Verdict {
    let mut found = PathText::new();
    let environment = current_environ();
    let mut is_sure = true;
    // SAFETY: the target's strings and `environ` are C strings.
    let mut path = unsafe { call.target.locate(environment, call.may_move(), &mut found) };
    // SAFETY: a C string.
    if call.may_move() && path.is_none_or(|path| unsafe { *path } as u8 != b'/') {
        // No client for a file that may be another one. But whether we fit into the program is worth a guess, that the
        // folder stays: make starts `./program` like this. Wrong, it costs a program the library, or nothing.
        is_sure = false;
        // SAFETY: as above.
        path = unsafe { call.target.locate(environment, false, &mut found) };
    }
    let Some(path) = path else { return Verdict::Real(Image::Other) };
    // SAFETY: a C string, here and below.
    let text = unsafe { bytes_of(path) };
    // SAFETY: the caller's arrays.
    if leaf::is_leaf(text) || !step::are_counted() && unsafe { leaf::starts_leaves(text, call.argv, envp) } {
        return Verdict::Real(Image::Leaf);
    }
    // SAFETY: as above.
    let suspect = is_sure && unsafe { target::looks_like_driver(path) } && survey.wants_client();
    // SAFETY: as above.
    let inspection = unsafe { target::inspect(path, suspect) };
    if inspection.is_driver {
        // SAFETY: as above; the client gets the caller's argv.
        let result = unsafe { as_client(path, envp, survey, &|client, envp| call.direct(client, envp)) };
        if let Some(result) = result
            && !call.has_failed(result)
        {
            return Verdict::Client(result);
        }
    }
    Verdict::Real(inspection.image)
}

/// Calls `start` with the client's path and environment, for the driver at `path`. `None`: there is no client, or what it
/// should know does not fit.
///
/// # Safety
/// `path` is a C string, `survey` was made of `envp`.
#[inline(never)]
pub unsafe fn as_client(
    path: *const c_char,
    envp: Strings,
    survey: &Survey,
    start: &impl Fn(*const c_char, Strings) -> c_int,
) -> Option<c_int> {
    let mut client = PathText::new();
    client_path(&mut client)?;
    let mut driver = Fixed::<DRIVER_BYTES_MAX>::new();
    driver.push(names::DRIVER)?;
    driver.push(b"=")?;
    // SAFETY: promised by the caller.
    let path = unsafe { bytes_of(path) };
    if path.first() != Some(&b'/') {
        driver.fill(sys::getcwd).ok()?;
        driver.push(b"/")?;
    }
    driver.push(path)?;
    // SAFETY: promised by the caller; `Fixed` is NUL-terminated.
    unsafe { env::with_client(envp, survey, driver.as_ptr(), &|envp| Some(start(client.as_ptr(), envp?))) }
}

/// The client's program: beside the library, or in `bin` beside the library's folder.
fn client_path(out: &mut PathText) -> Option<()> {
    let library = kept().library();
    let folder = library.strip_suffix(base_name(library))?;
    for between in [b"".as_slice(), b"../bin/"] {
        out.clear();
        out.push(folder)?;
        out.push(between)?;
        out.push(CLIENT_NAME)?;
        // SAFETY: `Fixed` is NUL-terminated.
        if unsafe { sys::access(out.as_ptr(), libc::X_OK) }.is_ok() {
            return Some(());
        }
    }
    None
}

/// A remote compiler starts its parts: the virtual tree says which file that is and whether it may run.
#[inline(never)]
unsafe fn launch_in_worker(call: &Call, envp: Strings, survey: &Survey) -> c_int {
    let mut searched = [0; PATH_BYTES_MAX + 1];
    let mut found = PathText::new();
    // SAFETY: the target's strings are C strings, here and below.
    let path = match call.target {
        // SAFETY: as above.
        Target::File(file) if unsafe { call.target.is_searched() } => {
            // SAFETY: as above.
            match unsafe { vfs::search_path(file, &mut searched) } {
                Ok(()) => searched.as_ptr().cast(),
                Err(errno) => return call.refused(errno),
            }
        }
        // SAFETY: as above.
        _ => match unsafe { call.target.locate(current_environ(), false, &mut found) } {
            Some(path) => path,
            None => return call.refused(libc::ENOENT),
        },
    };
    // SAFETY: as above.
    let program = match unsafe { vfs::before_exec(path) } {
        Ok(program) => program,
        Err(errno) => return call.refused(errno),
    };
    let start = |call: &Call, path| {
        // SAFETY: the caller's own call, with the file that the head means; the survey is of this `envp`.
        unsafe { env::with_child(envp, survey, Image::Native, None, &|envp| call.direct(path, envp)) }
    };
    // SAFETY: the caller's array.
    let result = unsafe {
        loader::with_command(program, call.argv, &|command| match command {
            Command::Own => start(call, path),
            Command::Loaded { path, argv } => start(&Call { target: call.target, argv, kind: call.kind }, path),
            Command::TooLong => call.refused(libc::ENOMEM),
        })
    };
    if call.has_failed(result) {
        let errno = hook::errno();
        vfs::exec_failed();
        hook::set_errno(errno);
    }
    result
}

/// # Safety
/// As execve(2).
pub unsafe fn execve(path: *const c_char, argv: Strings, envp: Strings) -> c_int {
    let target = Target::Path(path);
    // SAFETY: promised by the caller.
    unsafe { launch(&Call { target, argv, kind: Kind::Exec }, envp) }
}

/// # Safety
/// As execv(3).
pub unsafe fn execv(path: *const c_char, argv: Strings) -> c_int {
    // SAFETY: promised by the caller.
    unsafe { execve(path, argv, current_environ()) }
}

/// # Safety
/// As execvpe(3).
pub unsafe fn execvpe(file: *const c_char, argv: Strings, envp: Strings) -> c_int {
    let target = Target::File(file);
    // SAFETY: promised by the caller.
    unsafe { launch(&Call { target, argv, kind: Kind::Exec }, envp) }
}

/// # Safety
/// As execvp(3).
pub unsafe fn execvp(file: *const c_char, argv: Strings) -> c_int {
    // SAFETY: promised by the caller.
    unsafe { execvpe(file, argv, current_environ()) }
}

/// # Safety
/// As execveat(2).
pub unsafe fn execveat(dir: c_int, path: *const c_char, argv: Strings, envp: Strings, flags: c_int) -> c_int {
    let target = Target::At { dir, path, flags };
    // SAFETY: promised by the caller.
    unsafe { launch(&Call { target, argv, kind: Kind::Exec }, envp) }
}

/// # Safety
/// As fexecve(3).
pub unsafe fn fexecve(fd: c_int, argv: Strings, envp: Strings) -> c_int {
    let target = Target::At { dir: fd, path: c"".as_ptr(), flags: libc::AT_EMPTY_PATH };
    // SAFETY: promised by the caller.
    unsafe { launch(&Call { target, argv, kind: Kind::ExecDescriptor(fd) }, envp) }
}

/// # Safety
/// As posix_spawn(3).
pub unsafe fn posix_spawn(
    pid: *mut pid_t,
    path: *const c_char,
    actions: *const posix_spawn_file_actions_t,
    attributes: *const posix_spawnattr_t,
    argv: Strings,
    envp: Strings,
) -> c_int {
    let target = Target::Path(path);
    // SAFETY: promised by the caller.
    unsafe { launch(&Call { target, argv, kind: Kind::Spawn { pid, actions, attributes } }, envp) }
}

/// # Safety
/// As posix_spawnp(3).
pub unsafe fn posix_spawnp(
    pid: *mut pid_t,
    file: *const c_char,
    actions: *const posix_spawn_file_actions_t,
    attributes: *const posix_spawnattr_t,
    argv: Strings,
    envp: Strings,
) -> c_int {
    let target = Target::File(file);
    // SAFETY: promised by the caller.
    unsafe { launch(&Call { target, argv, kind: Kind::Spawn { pid, actions, attributes } }, envp) }
}

/// # Safety
/// The addresses of an execl(3) call, see [`crate::variadic`].
pub unsafe extern "C" fn execl(registers: *const usize, stack: *const usize) -> c_int {
    // SAFETY: promised by the caller, here and below.
    let arguments = unsafe { Arguments::new(registers, stack) };
    // SAFETY: as above.
    unsafe { with_list(arguments, &|path, argv, _| in_any_mode(Target::Path(path), argv, current_environ())) }
}

/// # Safety
/// The addresses of an execle(3) call.
pub unsafe extern "C" fn execle(registers: *const usize, stack: *const usize) -> c_int {
    // SAFETY: promised by the caller, here and below.
    let arguments = unsafe { Arguments::new(registers, stack) };
    // SAFETY: as above; execle has one more argument behind the NULL.
    unsafe {
        with_list(arguments, &|path, argv, end| {
            in_any_mode(Target::Path(path), argv, arguments.get(end + 1).cast::<*const c_char>())
        })
    }
}

/// # Safety
/// The addresses of an execlp(3) call.
pub unsafe extern "C" fn execlp(registers: *const usize, stack: *const usize) -> c_int {
    // SAFETY: promised by the caller, here and below.
    let arguments = unsafe { Arguments::new(registers, stack) };
    // SAFETY: as above.
    unsafe { with_list(arguments, &|file, argv, _| in_any_mode(Target::File(file), argv, current_environ())) }
}

/// Calls `then` with the first argument, an array of those behind it, and the position of the NULL.
unsafe fn with_list(arguments: Arguments, then: &impl Fn(*const c_char, Strings, usize) -> c_int) -> c_int {
    let mut end = 1;
    // SAFETY: the caller's list ends with a NULL.
    while !unsafe { arguments.get(end) }.is_null() {
        end += 1;
    }
    env::with_pointers(end, &|array| {
        let Some(array) = array else {
            hook::set_errno(libc::ENOMEM);
            return -1;
        };
        for index in 1..end {
            // SAFETY: `end` pointers have room, and the arguments up to `end` exist.
            unsafe { *array.add(index - 1) = arguments.get(index) };
        }
        // SAFETY: as above.
        unsafe { *array.add(end - 1) = null() };
        // SAFETY: the first argument exists.
        then(unsafe { arguments.get(0) }, array.cast_const(), end)
    })
}

/// The variadics have no dispatch in front of them.
unsafe fn in_any_mode(target: Target, argv: Strings, envp: Strings) -> c_int {
    let call = Call { target, argv, kind: Kind::Exec };
    match hook::mode() {
        // SAFETY: promised by the caller, here and below.
        Mode::Build | Mode::Worker => unsafe { launch(&call, envp) },
        // SAFETY: as above.
        Mode::Unset | Mode::Off => unsafe { call.asked(envp) },
    }
}
