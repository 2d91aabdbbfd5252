//! What a file says about the program in it, mostly with its first bytes. Knows no path and opens nothing.

use core::mem::MaybeUninit;
use mpicc_proxy_abi::driver::base_name;

/// Bytes of a file that [`image`] wants to see: the ELF header, program headers and, as all linkers place it, the
/// interpreter's name (it ends near byte 830 in a usual program).
pub const HEAD_BYTES: usize = 1024;

/// File name of the dynamic linker that can load this library.
#[cfg(target_arch = "x86_64")]
const LOADER: &[u8] = b"ld-linux-x86-64.so.2";
#[cfg(target_arch = "aarch64")]
const LOADER: &[u8] = b"ld-linux-aarch64.so.1";

#[cfg(target_arch = "x86_64")]
const MACHINE: u16 = 62;
#[cfg(target_arch = "aarch64")]
const MACHINE: u16 = 183;

const CLASS_64: u8 = 2;
const LOADED: u32 = 1;
const DYNAMIC: u32 = 2;
const INTERPRETER: u32 = 3;
const HEADER_BYTES: usize = 64;
const PROGRAM_HEADER_BYTES: usize = 56;
const DYNAMIC_ENTRY_BYTES: usize = 16;
/// Tags of dynamic entries: the end, a library's name as an offset, the address of the names.
const END: u64 = 0;
const NEEDED: u64 = 1;
const NAMES: u64 = 5;

/// A longer dynamic section is not a program's; usual ones have thirty entries.
const DYNAMIC_ENTRIES_MAX: u64 = 4096;
/// Room for a library's name with a path.
const NAME_BYTES: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Image {
    /// A script (of the system's interpreters) or something unknown: what finally runs is not in this file.
    Other,
    /// A program that can load this library, or a static one that ignores it and hands the environment on.
    Native,
    /// A dynamic program of another class, machine or C library: its dynamic linker would complain on stderr.
    Foreign,
    /// A program that would be native, but for a sanitizer's runtime that would complain, see [`crate::sanitizer`].
    Instrumented,
    /// Whatever it is, it starts nothing of interest, see [`crate::leaf`].
    Leaf,
}

impl Image {
    pub fn is_elf(self) -> bool {
        matches!(self, Image::Native | Image::Foreign | Image::Instrumented)
    }

    /// Does the library belong into its environment?
    pub fn loads_us(self) -> bool {
        matches!(self, Image::Other | Image::Native)
    }
}

/// A file through its last read. `read` reads at an offset and says how many bytes there were; 0 is also an error.
pub struct Window<'a, R> {
    read: &'a R,
    at: u64,
    len: usize,
    /// Not initialised beyond `len`.
    bytes: [MaybeUninit<u8>; HEAD_BYTES],
}

impl<'a, R: Fn(u64, &mut [u8]) -> usize> Window<'a, R> {
    #[inline(always)]
    pub fn new(read: &'a R) -> Window<'a, R> {
        Window { read, at: 0, len: 0, bytes: [MaybeUninit::uninit(); HEAD_BYTES] }
    }

    /// What is at `offset`: `want` bytes, at most [`HEAD_BYTES`], or more; less only at the end of the file.
    #[inline(never)]
    pub fn get(&mut self, offset: u64, want: usize) -> &[u8] {
        let inside = offset.wrapping_sub(self.at);
        let mut start = inside as usize;
        if inside > self.len as u64 || self.len - start < want {
            // SAFETY: the whole array; `read` hands it to the kernel, which writes before anyone reads.
            let room = unsafe { core::slice::from_raw_parts_mut(self.bytes.as_mut_ptr().cast::<u8>(), HEAD_BYTES) };
            self.len = (self.read)(offset, room).min(HEAD_BYTES);
            self.at = offset;
            start = 0;
        }
        // SAFETY: `len` bytes were read, and `start` is at most `len`.
        unsafe { core::slice::from_raw_parts(self.bytes.as_ptr().cast::<u8>().add(start), self.len - start) }
    }

    /// The first program header of this kind whose addresses in the file include `address`, if one is given.
    fn segment(&mut self, kind: u32, address: Option<u64>) -> Option<Segment> {
        let head = self.get(0, HEADER_BYTES);
        if usize::from(half(head, 54)?) != PROGRAM_HEADER_BYTES {
            return None;
        }
        let (table, count) = (wide(head, 32)?, half(head, 56)?);
        for index in 0..u64::from(count) {
            let at = table.checked_add(index * PROGRAM_HEADER_BYTES as u64)?;
            let header = self.get(at, PROGRAM_HEADER_BYTES);
            if word(header, 0)? == kind {
                let found = Segment { at: wide(header, 8)?, address: wide(header, 16)?, len: wide(header, 32)? };
                if address.is_none_or(|address| address.wrapping_sub(found.address) < found.len) {
                    return Some(found);
                }
            }
        }
        None
    }
}

/// A part of the file, and the address that it gets.
struct Segment {
    at: u64,
    address: u64,
    len: u64,
}

/// Does a library that the program names itself (not one that a library of its names) pass `test`? It gets file names.
pub fn any_needed<R>(file: &mut Window<'_, R>, test: &impl Fn(&[u8]) -> bool) -> bool
where
    R: Fn(u64, &mut [u8]) -> usize,
{
    find_needed(file, test).is_some()
}

#[inline(never)]
fn find_needed<R>(file: &mut Window<'_, R>, test: &impl Fn(&[u8]) -> bool) -> Option<()>
where
    R: Fn(u64, &mut [u8]) -> usize,
{
    let dynamic = file.segment(DYNAMIC, None)?;
    let mut entries = Window::new(file.read);
    let count = (dynamic.len / DYNAMIC_ENTRY_BYTES as u64).min(DYNAMIC_ENTRIES_MAX);
    let mut entry = |index: u64| {
        let at = dynamic.at.checked_add(index * DYNAMIC_ENTRY_BYTES as u64)?;
        let entry = entries.get(at, DYNAMIC_ENTRY_BYTES);
        Some((wide(entry, 0)?, wide(entry, 8)?))
    };
    let mut names = None;
    let mut end = 0;
    while end < count {
        match entry(end)? {
            (END, _) => break,
            (NAMES, address) => names = Some(address),
            _ => {}
        }
        end += 1;
    }
    let names = names?;
    let segment = file.segment(LOADED, Some(names))?;
    let names = segment.at.checked_add(names.wrapping_sub(segment.address))?;
    for index in 0..end {
        if let (NEEDED, offset) = entry(index)? {
            let text = file.get(names.checked_add(offset)?, NAME_BYTES);
            let name = text.split(|&byte| byte == 0).next()?;
            if test(base_name(name)) {
                return Some(());
            }
        }
    }
    None
}

/// The path behind `#!` at the start of a script, as the kernel takes it.
pub fn script_interpreter(head: &[u8]) -> Option<&[u8]> {
    let line = head.strip_prefix(b"#!")?.split(|&byte| byte == b'\n').next()?;
    line.split(|byte| matches!(byte, b' ' | b'\t' | 0)).find(|word| !word.is_empty())
}

/// Reads the head of a file; shorter than [`HEAD_BYTES`] when the file is.
pub fn image(head: &[u8]) -> Image {
    if !head.starts_with(b"\x7fELF") {
        return Image::Other;
    }
    if head.get(4) != Some(&CLASS_64) || half(head, 18) != Some(MACHINE) {
        return Image::Foreign;
    }
    match interpreter(head) {
        Some(path) if !path.ends_with(LOADER) => Image::Foreign,
        _ => Image::Native,
    }
}

/// The interpreter's path; `None` for a static program, or when it lies outside of what was read.
fn interpreter(head: &[u8]) -> Option<&[u8]> {
    if head.len() < HEADER_BYTES || usize::from(half(head, 54)?) != PROGRAM_HEADER_BYTES {
        return None;
    }
    let table = usize::try_from(wide(head, 32)?).ok()?;
    for index in 0..usize::from(half(head, 56)?) {
        let at = table.checked_add(index * PROGRAM_HEADER_BYTES)?;
        if word(head, at)? == INTERPRETER {
            let start = usize::try_from(wide(head, at + 8)?).ok()?;
            let end = start.checked_add(usize::try_from(wide(head, at + 32)?).ok()?)?;
            let path = head.get(start..end)?;
            return Some(path.strip_suffix(b"\0").unwrap_or(path));
        }
    }
    None
}

fn bytes<const N: usize>(head: &[u8], at: usize) -> Option<[u8; N]> {
    head.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn half(head: &[u8], at: usize) -> Option<u16> {
    bytes(head, at).map(u16::from_le_bytes)
}

fn word(head: &[u8], at: usize) -> Option<u32> {
    bytes(head, at).map(u32::from_le_bytes)
}

fn wide(head: &[u8], at: usize) -> Option<u64> {
    bytes(head, at).map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_program_is_native() {
        let program = std::fs::read("/proc/self/exe").unwrap();
        assert_eq!(image(&program[..HEAD_BYTES]), Image::Native);
        let mut other = program[..HEAD_BYTES].to_vec();
        other[4] = 1;
        assert_eq!(image(&other), Image::Foreign, "32 bits");
        let mut other = program[..HEAD_BYTES].to_vec();
        other[18] = 3;
        assert_eq!(image(&other), Image::Foreign, "another machine");
        let mut other = program[..HEAD_BYTES].to_vec();
        let at = other.windows(LOADER.len()).position(|name| name == LOADER).unwrap();
        other[at + 3..at + 8].copy_from_slice(b"musl-");
        assert_eq!(image(&other), Image::Foreign, "another C library");
    }

    #[test]
    fn no_head_is_too_odd() {
        assert_eq!(image(b"#!/bin/sh\n"), Image::Other);
        assert_eq!(image(b""), Image::Other);
        assert_eq!(image(b"\x7fELF"), Image::Foreign);
        let program = std::fs::read("/proc/self/exe").unwrap();
        for len in 0..HEAD_BYTES {
            image(&program[..len]);
        }
        for at in 16..HEADER_BYTES {
            let mut broken = program[..HEAD_BYTES].to_vec();
            broken[at] = 0xff;
            image(&broken);
        }
    }

    /// What a program with these bytes is looked at for.
    fn needs(program: &[u8], name: &[u8]) -> bool {
        let read = |at: u64, out: &mut [u8]| {
            let rest = usize::try_from(at).ok().and_then(|at| program.get(at..)).unwrap_or_default();
            let len = rest.len().min(out.len());
            out[..len].copy_from_slice(&rest[..len]);
            len
        };
        any_needed(&mut Window::new(&read), &|needed| needed == name)
    }

    #[test]
    fn libraries_of_a_program() {
        let program = std::fs::read("/proc/self/exe").unwrap();
        assert!(needs(&program, b"libc.so.6"));
        assert!(!needs(&program, b"libc.so"));
        assert!(!needs(b"", b""));
        for len in 0..HEAD_BYTES {
            needs(&program[..len], b"none");
        }
        // Headers and everything the dynamic section says, broken in turn.
        let sh = std::fs::read("/bin/sh").unwrap();
        assert!(needs(&sh, b"libc.so.6"));
        let read = |at: u64, out: &mut [u8]| {
            out.copy_from_slice(&sh[at as usize..][..HEAD_BYTES]);
            HEAD_BYTES
        };
        let dynamic = Window::new(&read).segment(DYNAMIC, None).unwrap();
        let start = dynamic.at as usize;
        for at in (16..HEAD_BYTES).chain(start..start + dynamic.len as usize) {
            for value in [0, 0x7f, 0xff] {
                let was = sh[at];
                let mut broken = sh.clone();
                broken[at] = value;
                assert!(!needs(&broken, b"none"), "{at} {was}");
            }
        }
    }

    #[test]
    fn interpreters_of_scripts() {
        assert_eq!(script_interpreter(b"#!/bin/sh\n"), Some(b"/bin/sh".as_slice()));
        assert_eq!(script_interpreter(b"#! \t./python -u\n/x"), Some(b"./python".as_slice()));
        assert_eq!(script_interpreter(b"#!/bin/sh"), Some(b"/bin/sh".as_slice()));
        assert_eq!(script_interpreter(b"#!\n/bin/sh"), None);
        assert_eq!(script_interpreter(b":\n"), None);
        assert_eq!(script_interpreter(b""), None);
    }
}
