//! A source on the standard input: read once, sent to a rank, and left for the compiler to read again should it run here
//! after all. Knows nothing of command lines.

use crate::wire::Stdin;
use memfd::{Memfd, MemfdOptions};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

/// Larger sources run here: they travel in one message.
pub const STDIN_BYTES_MAX: u64 = 16 << 20;

/// What descriptor 0 has to say, which a driver in this process can read afterwards as if nothing had happened. `None`:
/// it is too large, or not for others to read.
///
/// # Errors
/// It cannot be read.
pub fn take() -> io::Result<Option<Stdin>> {
    let mut input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let metadata = input.metadata()?;
    if metadata.is_file() {
        return take_file(input, metadata.len(), (metadata.mtime(), metadata.mtime_nsec()));
    }
    // Whoever reads a pipe empties it, so the driver gets a file with the same bytes in place of it.
    let mut copy = memory_file()?;
    let bytes = io::copy(&mut input, &mut copy)?;
    copy.rewind()?;
    nix::unistd::dup2_stdin(&copy)?;
    if bytes > STDIN_BYTES_MAX {
        return Ok(None);
    }
    let mut content = Vec::new();
    copy.read_to_end(&mut content)?;
    // The same open file as descriptor 0.
    copy.rewind()?;
    Ok(Some(Stdin { content, modified: None }))
}

/// A compiler begins where the file stands; only at its beginning is that what it expects.
fn take_file(mut input: File, bytes: u64, modified: (i64, i64)) -> io::Result<Option<Stdin>> {
    if bytes > STDIN_BYTES_MAX || input.stream_position()? != 0 {
        return Ok(None);
    }
    let mut content = Vec::new();
    input.read_to_end(&mut content)?;
    input.seek(SeekFrom::Start(0))?;
    Ok(Some(Stdin { content, modified: Some(modified) }))
}

/// Leaves descriptor 0 where a compiler that has read so many bytes leaves a file: whoever shares it reads on from there.
pub fn leave_at(read: u64) {
    let input = io::stdin().as_fd().try_clone_to_owned().map(File::from);
    // What replaces a pipe is nobody else's, and seeking in it does no harm.
    let _ = input.and_then(|mut input| input.seek(SeekFrom::Start(read)));
}

/// A file for a compiler to read from descriptor 0.
///
/// # Errors
/// Out of memory.
pub fn file_with(stdin: &Stdin) -> io::Result<File> {
    let mut file = memory_file()?;
    file.write_all(&stdin.content)?;
    file.rewind()?;
    if let Some((seconds, nanoseconds)) = stdin.modified {
        let time = nix::sys::time::TimeSpec::new(seconds, nanoseconds);
        nix::sys::stat::futimens(&file, &time, &time)?;
    }
    Ok(file)
}

fn memory_file() -> io::Result<File> {
    MemfdOptions::default().close_on_exec(true).create("stdin").map(Memfd::into_file).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_from_its_beginning_and_left_there() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"int x;").unwrap();
        assert_eq!(take_file(file.try_clone().unwrap(), 6, (1, 2)).unwrap(), None);
        file.rewind().unwrap();
        let taken = take_file(file.try_clone().unwrap(), 6, (1, 2)).unwrap().unwrap();
        assert_eq!(taken, Stdin { content: b"int x;".to_vec(), modified: Some((1, 2)) });
        assert_eq!(file.stream_position().unwrap(), 0);
        assert_eq!(take_file(file, STDIN_BYTES_MAX + 1, (1, 2)).unwrap(), None);
        let mut again = String::new();
        let mut copy = file_with(&taken).unwrap();
        copy.read_to_string(&mut again).unwrap();
        assert_eq!(again, "int x;");
        assert_eq!(copy.metadata().unwrap().mtime_nsec(), 2);
    }
}
