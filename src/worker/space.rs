//! Did a full file system cut short what a compile wrote? The head may have room where this host has none, so such a
//! result, error message or truncated file, must never pass for the compiler's.
//!
//! Writes of a compiler are not seen, and gcc removes what it could not finish before it ends. So nothing proves that
//! there always was room; what follows errs on the side of doubt, which costs a second compile.

use crate::wire::Exit;
use crate::worker::complaint::complaint;

/// A compile during which so little was free is not believed, whatever it says: dumps and listings are cut short
/// without an error. Nor is one started.
pub const FREE_BYTES_MIN: u64 = 16 << 20;

/// A failure during which so little was free may be due to that: more than what a compile writes between two looks.
const DOUBTFUL_BYTES: u64 = 256 << 20;

/// How libc words ENOSPC and EDQUOT; for what came and went between two looks, and for quotas, which are not seen.
const COMPLAINTS: &[&str] = &["No space left on device", "Disk quota exceeded"];

/// The room one compile had.
pub struct Space {
    least_free_bytes: u64,
}

impl Space {
    pub fn new(free_bytes: u64) -> Space {
        Space { least_free_bytes: free_bytes }
    }

    /// Takes note of what is free now.
    pub fn note(&mut self, free_bytes: u64) {
        self.least_free_bytes = self.least_free_bytes.min(free_bytes);
    }

    /// Why the result may be due to a lack of room, if so.
    pub fn doubt(&self, exit: Exit, printed: [&[u8]; 2]) -> Option<String> {
        let free = self.least_free_bytes;
        let failed = exit != Exit::Code(0);
        if free < if failed { DOUBTFUL_BYTES } else { FREE_BYTES_MIN } {
            return Some(format!("only {free} bytes were free for outputs"));
        }
        if failed { complaint(COMPLAINTS, printed) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_believed() {
        let complaint = b"as: can't close x.o: No space left on device";
        let (ok, bad) = (Exit::Code(0), Exit::Code(1));
        let table: [(u64, Exit, &[u8], bool); 8] = [
            (u64::MAX, ok, b"", true),
            (u64::MAX, bad, b"x.c:1: error: no", true),
            (u64::MAX, bad, complaint, false),
            (u64::MAX, ok, complaint, true), // a #warning with these words
            (DOUBTFUL_BYTES - 1, bad, b"", false),
            (DOUBTFUL_BYTES - 1, ok, b"", true),
            (FREE_BYTES_MIN - 1, ok, b"", false),
            (DOUBTFUL_BYTES, Exit::Signal(9), b"", true),
        ];
        for (free, exit, printed, believed) in table {
            let mut space = Space::new(u64::MAX);
            space.note(free);
            space.note(u64::MAX);
            assert_eq!(space.doubt(exit, [printed, b""]).is_none(), believed, "{free} {exit:?}");
            assert_eq!(space.doubt(exit, [b"", printed]).is_none(), believed, "{free} {exit:?}");
        }
    }
}
