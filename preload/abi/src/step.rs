//! The steps of a ninja, and what the library asks the dispatcher about them.
//!
//! ninja knows no tokens, so the dispatcher keeps count of its steps: ninja starts as many as there are slots anywhere, and
//! a step takes one of the head's when it first runs something other than a remote compile. A step is known by the id of
//! the process that ninja started for it, which [`crate::env::STEP`] carries to everything below.
//!
//! The questions are frames of the clients' protocol, written out here because the library has no codec (`wire.rs`
//! compares). The answer is a frame, too; its head is one word, or two where the second is a number.

/// Version of the clients' protocol.
pub const PROTOCOL: u32 = 4;

/// Digits of a step's id, with leading zeros.
pub const DIGITS: usize = 10;

/// A step that does not know its id yet: the first process in it with the library writes its own here.
pub const UNNAMED: [u8; DIGITS] = [b'0'; DIGITS];

/// Behind the id: a process above this one has entered for the step, so that nobody needs to ask again.
pub const ENTERED: u8 = b'+';

/// What the library asks; the numbers are those of the messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Question {
    /// How many steps may this ninja, which is part of a step or of none (0), run at once?
    Parallelism = 7,
    /// The step is to run something on the head: answered when it may.
    Enter = 8,
}

/// The message that only says that the dispatcher lives.
pub const HEARTBEAT: u32 = 1;

/// Bytes in front of a frame's head: two lengths.
pub const LENGTHS_BYTES: usize = 8;

/// Longest head of an answer.
pub const ANSWER_BYTES_MAX: usize = 8;

/// A greeting and the question. `step`: the id, or 0.
pub fn question(question: Question, step: u32) -> [u8; 32] {
    let words = [8, 0, 0, PROTOCOL, 8, 0, question as u32, step];
    let mut bytes = [0; 32];
    for (room, word) in bytes.chunks_exact_mut(4).zip(words) {
        room.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

/// The id in a value of [`crate::env::STEP`], and whether the step was entered above. `None`: no id.
pub fn parse(value: &[u8]) -> Option<(u32, bool)> {
    let (digits, rest) = value.split_at_checked(DIGITS)?;
    let mut id = 0u32;
    for digit in digits {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 10)?;
        id = id.checked_mul(10)?.checked_add(u32::from(digit))?;
    }
    (id != 0 && (rest.is_empty() || rest == [ENTERED])).then_some((id, !rest.is_empty()))
}

/// Writes an id into the room of [`UNNAMED`].
pub fn write(mut id: u32, room: &mut [u8]) {
    for digit in room.iter_mut().rev() {
        *digit = b'0' + (id % 10) as u8;
        id /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_as_text() {
        let mut text = UNNAMED;
        assert_eq!(parse(&text), None);
        write(4_194_304, &mut text);
        assert_eq!(parse(&text), Some((4_194_304, false)));
        assert_eq!(parse(b"0000000007+"), Some((7, true)));
        for odd in [&b""[..], b"7", b"000000000x", b"0000000007-", b"9999999999", b"0000000007++"] {
            assert_eq!(parse(odd), None, "{}", odd.escape_ascii());
        }
    }
}
