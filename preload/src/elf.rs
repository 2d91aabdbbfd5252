//! What the first bytes of a file say about the program in it. Pure; knows no path and opens nothing.

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
const INTERPRETER: u32 = 3;
const HEADER_BYTES: usize = 64;
const PROGRAM_HEADER_BYTES: usize = 56;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Image {
    /// A script or something unknown: what finally runs is not in this file.
    Other,
    /// A program that can load this library, or a static one that ignores it and hands the environment on.
    Native,
    /// A dynamic program of another class, machine or C library: its dynamic linker would complain on stderr.
    Foreign,
}

impl Image {
    pub fn is_elf(self) -> bool {
        self != Image::Other
    }
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
}
