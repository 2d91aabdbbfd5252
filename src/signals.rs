//! Signals as a readable descriptor, for event loops.

use std::io;
use std::os::unix::net::UnixStream;

/// A stream that becomes readable when one of `signals` arrives.
///
/// # Errors
/// A handler cannot be installed.
pub fn pipe(signals: &[i32]) -> io::Result<UnixStream> {
    let (reader, writer) = UnixStream::pair()?;
    for signal in signals {
        signal_hook::low_level::pipe::register(*signal, writer.try_clone()?)?;
    }
    Ok(reader)
}
