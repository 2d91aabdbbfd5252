//! Which file an exec call means, and whether a compiler driver is in it. Looks at the file system through raw system
//! calls, keeps no descriptor, changes nothing; doubt is `None` or "no driver", and the call stays what it was.

use crate::elf::{self, HEAD_BYTES, Image, Window};
use crate::fixed::{Fixed, bytes_of, length};
use crate::sanitizer;
use crate::sys::{self, Errno, Fd};
use crate::table::Strings;
use core::ffi::{c_char, c_int};
use mpicc_proxy_abi::PATH_BYTES_MAX;
use mpicc_proxy_abi::driver::{base_name, recognise};
use mpicc_proxy_abi::socket::decimal;

/// A path and its NUL.
pub type PathText = Fixed<{ PATH_BYTES_MAX + 1 }>;

/// The file, as the caller names it.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    /// Taken literally.
    Path(*const c_char),
    /// Looked for in `PATH` unless it has a slash.
    File(*const c_char),
    /// Relative to a directory, or the open file itself (`execveat`, `fexecve`).
    At { dir: c_int, path: *const c_char, flags: c_int },
}

/// Where the C library searches when there is no `PATH`.
pub const DEFAULT_PATH: &[u8] = b"/bin:/usr/bin";

impl Target {
    /// Is the file left to a search?
    ///
    /// # Safety
    /// The target's strings are C strings.
    pub unsafe fn is_searched(self) -> bool {
        match self {
            // SAFETY: promised by the caller.
            Target::File(file) => !unsafe { bytes_of(file) }.contains(&b'/'),
            _ => false,
        }
    }

    /// The path that will be executed; it may be relative. `found` gives room for it. `None`: it cannot be known.
    /// `may_move`: the working directory may be another one when the file is looked for.
    ///
    /// # Safety
    /// The target's strings and `environ` are C strings.
    pub unsafe fn locate(self, environ: Strings, may_move: bool, found: &mut PathText) -> Option<*const c_char> {
        match self {
            // The kernel says EFAULT; the C library crashes where it always did.
            Target::Path(path) | Target::File(path) | Target::At { path, .. } if path.is_null() => None,
            Target::Path(path) => Some(path),
            Target::File(file) => {
                // SAFETY: promised by the caller.
                let name = unsafe { bytes_of(file) };
                if name.contains(&b'/') {
                    return Some(file);
                }
                // SAFETY: promised by the caller.
                let path = unsafe { path_of(environ) }.unwrap_or(DEFAULT_PATH);
                search(path, name, may_move, found)
            }
            // SAFETY: promised by the caller.
            Target::At { dir, path, flags } => unsafe { locate_at(dir, path, flags, found) },
        }
    }
}

/// The value of `PATH`.
///
/// # Safety
/// `environ` is null or a NULL-terminated array of C strings.
pub unsafe fn path_of<'a>(environ: Strings) -> Option<&'a [u8]> {
    let mut next = environ;
    // SAFETY: the array ends with a NULL.
    while !next.is_null() && !unsafe { *next }.is_null() {
        // SAFETY: as above.
        let variable = unsafe { *next };
        // SAFETY: C strings; the first byte exists.
        if unsafe { *variable } as u8 == b'P'
            // SAFETY: as above.
            && let Some(path) = unsafe { bytes_of(variable) }.strip_prefix(b"PATH=")
        {
            return Some(path);
        }
        // SAFETY: not yet at the NULL.
        next = unsafe { next.add(1) };
    }
    None
}

/// The first file in `path` that execvp(3) could execute; where that function would stop with an error or would depend
/// on what we cannot know, `None`.
fn search(path: &[u8], name: &[u8], may_move: bool, found: &mut PathText) -> Option<*const c_char> {
    if name.is_empty() {
        return None;
    }
    for folder in path.split(|&b| b == b':') {
        if may_move && folder.first() != Some(&b'/') {
            return None;
        }
        found.clear();
        if !folder.is_empty() {
            found.push(folder)?;
            found.push(b"/")?;
        }
        found.push(name)?;
        // SAFETY: `Fixed` is NUL-terminated.
        match unsafe { executable(found.as_ptr()) } {
            Ok(()) => return Some(found.as_ptr()),
            // The errors after which glibc goes on.
            Err(libc::EACCES | libc::ENOENT | libc::ESTALE | libc::ENOTDIR | libc::ENODEV | libc::ETIMEDOUT) => {}
            Err(_) => return None,
        }
    }
    None
}

/// Could execve start this? `EACCES` for what is not a regular file, as execve says.
///
/// # Safety
/// `path` is a C string.
unsafe fn executable(path: *const c_char) -> Result<(), Errno> {
    // SAFETY: promised by the caller, here and below.
    unsafe { sys::access(path, libc::X_OK) }?;
    // SAFETY: as above.
    let mode = unsafe { sys::mode(path) }?;
    if mode & libc::S_IFMT == libc::S_IFREG { Ok(()) } else { Err(libc::EACCES) }
}

unsafe fn locate_at(dir: c_int, path: *const c_char, flags: c_int, found: &mut PathText) -> Option<*const c_char> {
    if flags & !libc::AT_EMPTY_PATH != 0 {
        return None;
    }
    // SAFETY: promised by the caller of `locate`.
    let rest = unsafe { bytes_of(path) };
    if rest.first() == Some(&b'/') || (dir == libc::AT_FDCWD && !rest.is_empty()) {
        return Some(path);
    }
    descriptor_path(dir, found)?;
    if !rest.is_empty() {
        found.push(b"/")?;
        found.push(rest)?;
    } else if flags & libc::AT_EMPTY_PATH == 0 {
        return None;
    }
    Some(found.as_ptr())
}

/// The path behind an open descriptor, as the kernel knows it.
fn descriptor_path(fd: c_int, out: &mut PathText) -> Option<()> {
    let mut digits = [0; 10];
    let mut link = Fixed::<32>::new();
    link.push(b"/proc/self/fd/")?;
    link.push(decimal(u32::try_from(fd).ok()?, &mut digits))?;
    out.clear();
    // SAFETY: `Fixed` is NUL-terminated.
    out.fill(|room| unsafe { sys::readlink(link.as_ptr(), room) }).ok()?;
    // Pipes, memfds and the like have no path.
    (out.bytes().first() == Some(&b'/')).then_some(())
}

/// Does the file name in a path belong to a compiler driver?
///
/// # Safety
/// `path` is a C string.
pub unsafe fn looks_like_driver(path: *const c_char) -> bool {
    // SAFETY: promised by the caller.
    recognise(base_name(unsafe { bytes_of(path) })).is_some()
}

/// What [`inspect`] found in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inspection {
    pub image: Image,
    /// An executable ELF file, not set-id and without a sanitizer's runtime, whose own name (behind all symlinks) is a
    /// driver's too: not a script around a compiler, not ccache or distcc under a compiler's name.
    pub is_driver: bool,
}

/// Opens a file and looks into it. `suspect`: its name is a driver's, so find out whether it is one.
///
/// # Safety
/// `path` is a C string.
#[inline(never)]
pub unsafe fn inspect(path: *const c_char, suspect: bool) -> Inspection {
    let nothing = Inspection { image: Image::Other, is_driver: false };
    // SAFETY: promised by the caller.
    if unsafe { length(path) } > PATH_BYTES_MAX {
        return nothing;
    }
    // SAFETY: as above.
    let Ok(file) = (unsafe { Fd::open(path) }) else { return nothing };
    let mut interpreter = InterpreterText::new();
    // SAFETY: as above.
    let mut image = look(&file, sanitizer::is_system(unsafe { bytes_of(path) }), &mut interpreter);
    let may_be_driver = suspect && image.is_elf() && image != Image::Instrumented;
    // SAFETY: promised by the caller.
    let is_driver = may_be_driver && unsafe { is_driver_file(path, &file) }.is_some();
    drop(file);
    for _ in 0..INTERPRETERS_MAX {
        if interpreter.bytes().is_empty() || sanitizer::is_system(interpreter.bytes()) {
            break;
        }
        // SAFETY: `Fixed` is NUL-terminated.
        let Ok(file) = (unsafe { Fd::open(interpreter.as_ptr()) }) else { break };
        image = look(&file, false, &mut interpreter);
    }
    Inspection { image, is_driver }
}

/// The kernel looks at so much of a script.
type InterpreterText = Fixed<256>;

/// The kernel follows scripts that interpret scripts no further.
const INTERPRETERS_MAX: usize = 5;

/// What is in a file; for a script, `interpreter` becomes its interpreter, else empty.
#[inline(never)]
fn look(file: &Fd, is_system: bool, interpreter: &mut InterpreterText) -> Image {
    interpreter.clear();
    let read = |at, out: &mut [u8]| file.read_at(at, out).unwrap_or(0);
    let mut window = Window::new(&read);
    let head = window.get(0, HEAD_BYTES);
    let image = elf::image(head);
    if image == Image::Other
        && let Some(path) = elf::script_interpreter(head)
    {
        // Too long for us is too long for the kernel.
        let _ = interpreter.push(path);
    }
    if image == Image::Native && !is_system && elf::any_needed(&mut window, &sanitizer::is_runtime) {
        return Image::Instrumented;
    }
    image
}

#[inline(never)]
unsafe fn is_driver_file(path: *const c_char, file: &Fd) -> Option<()> {
    let mode = file.mode().ok()?;
    let plain = mode & libc::S_IFMT == libc::S_IFREG && mode & (libc::S_ISUID | libc::S_ISGID) == 0;
    // SAFETY: promised by the caller of `inspect`.
    if !plain || unsafe { sys::access(path, libc::X_OK) }.is_err() {
        return None;
    }
    let mut real = PathText::new();
    descriptor_path(file.raw(), &mut real)?;
    recognise(base_name(real.bytes())).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CString;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn searched(path: &str, name: &str, may_move: bool) -> Option<String> {
        let mut found = PathText::new();
        search(path.as_bytes(), name.as_bytes(), may_move, &mut found)?;
        Some(String::from_utf8(found.bytes().to_vec()).unwrap())
    }

    fn inspected(path: &std::path::Path) -> Inspection {
        let path = CString::new(path.to_str().unwrap()).unwrap();
        // SAFETY: a C string.
        unsafe { inspect(path.as_ptr(), true) }
    }

    /// A folder under the target folder of cargo, removed at the end.
    struct Folder(std::path::PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let path = std::env::temp_dir().join(format!("mpicc-proxy-target-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Folder(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn search_skips_what_cannot_be_executed() {
        let folder = Folder::new("search");
        let at = |name: &str| folder.0.join(name);
        std::fs::create_dir_all(at("a/sh")).unwrap();
        std::fs::create_dir(at("b")).unwrap();
        std::fs::write(at("b/sh"), "not executable").unwrap();
        std::fs::set_permissions(at("b/sh"), PermissionsExt::from_mode(0o644)).unwrap();
        let path = format!("{0}/none:{0}/a:{0}/b:{0}/b/sh:/bin", folder.0.display());
        assert_eq!(searched(&path, "sh", false).as_deref(), Some("/bin/sh"));
        assert_eq!(searched(&path, "no-such-program", false), None);
        assert_eq!(searched("/bin", "", false), None);
    }

    #[test]
    fn search_gives_up_where_the_folder_may_change() {
        assert_eq!(searched("relative:/bin", "sh", true), None);
        assert_eq!(searched(":/bin", "sh", true), None);
        assert_eq!(searched("relative:/bin", "sh", false).as_deref(), Some("/bin/sh"));
    }

    #[test]
    fn drivers_and_what_only_looks_like_them() {
        let folder = Folder::new("inspect");
        let at = |name: &str| folder.0.join(name);
        std::fs::copy("/bin/true", at("gcc")).unwrap();
        std::fs::copy("/bin/true", at("ccache")).unwrap();
        std::fs::create_dir(at("masquerade")).unwrap();
        symlink(at("ccache"), at("masquerade/gcc")).unwrap();
        symlink(at("gcc"), at("cc")).unwrap();
        std::fs::write(at("g++"), "#!/bin/sh\n").unwrap();
        std::fs::set_permissions(at("g++"), PermissionsExt::from_mode(0o755)).unwrap();
        let driver = Inspection { image: Image::Native, is_driver: true };
        assert_eq!(inspected(&at("gcc")), driver);
        assert_eq!(inspected(&at("cc")), driver);
        assert_eq!(inspected(&at("masquerade/gcc")), Inspection { image: Image::Native, is_driver: false });
        assert_eq!(inspected(&at("g++")), Inspection { image: Image::Other, is_driver: false });
        assert_eq!(inspected(&at("clang")), Inspection { image: Image::Other, is_driver: false });
        std::fs::set_permissions(at("gcc"), PermissionsExt::from_mode(0o4755)).unwrap();
        assert!(!inspected(&at("gcc")).is_driver, "set-id");
        std::fs::set_permissions(at("gcc"), PermissionsExt::from_mode(0o644)).unwrap();
        assert!(!inspected(&at("gcc")).is_driver, "not executable");
    }

    #[test]
    fn a_descriptor_has_the_path_of_its_file() {
        use std::os::fd::AsRawFd;
        let file = std::fs::File::open("/bin/sh").unwrap();
        let mut found = PathText::new();
        // SAFETY: C strings.
        let path = unsafe { locate_at(file.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH, &mut found) };
        assert!(path.is_some());
        let real = std::fs::canonicalize("/bin/sh").unwrap();
        assert_eq!(found.bytes(), real.to_str().unwrap().as_bytes());
        // SAFETY: as above.
        assert!(unsafe { locate_at(-1, c"x".as_ptr(), 0, &mut found) }.is_none());
    }
}
