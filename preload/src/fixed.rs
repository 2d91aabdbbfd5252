//! A string in a buffer of fixed size, always NUL-terminated: paths and environment strings, without allocation.
//! Too long is an answer (`None`), never a truncation. Beside it, the strings of others.

use core::ffi::c_char;
use core::mem::MaybeUninit;
use core::ptr::null;

/// Up to `N - 1` bytes and a NUL. The buffer is not initialised beyond its content: 4 KiB cost nothing until used.
pub struct Fixed<const N: usize> {
    bytes: [MaybeUninit<u8>; N],
    len: usize,
}

impl<const N: usize> Fixed<N> {
    #[inline(always)]
    pub const fn new() -> Fixed<N> {
        let mut bytes = [const { MaybeUninit::uninit() }; N];
        bytes[0].write(0);
        Fixed { bytes, len: 0 }
    }

    pub fn clear(&mut self) {
        self.len = 0;
        self.bytes[0].write(0);
    }

    /// Appends; `None`, and nothing changes, when there is no room.
    pub fn push(&mut self, more: &[u8]) -> Option<()> {
        let end = self.len.checked_add(more.len())?;
        if end >= N {
            return None;
        }
        // SAFETY: `end < N` leaves room for the bytes and the NUL; `more` cannot overlap a buffer borrowed mutably.
        unsafe {
            let target = self.bytes.as_mut_ptr().cast::<u8>().add(self.len);
            core::ptr::copy_nonoverlapping(more.as_ptr(), target, more.len());
            target.add(more.len()).write(0);
        }
        self.len = end;
        Some(())
    }

    /// Lets `fill` write to the free room and say how many bytes it wrote.
    pub fn fill<E>(&mut self, fill: impl FnOnce(&mut [u8]) -> Result<usize, E>) -> Result<(), E> {
        let room = N - self.len - 1;
        // SAFETY: inside the buffer: `len` is at most `N - 1`.
        let free = unsafe { self.bytes.as_mut_ptr().cast::<u8>().add(self.len) };
        // SAFETY: `free` has `room` bytes; the slice is only handed to system calls, which write before anyone reads.
        let written = fill(unsafe { core::slice::from_raw_parts_mut(free, room) })?.min(room);
        self.len += written;
        // SAFETY: `written` leaves room for the NUL.
        unsafe { free.add(written).write(0) };
        Ok(())
    }

    /// Appends a number in decimal.
    pub fn push_number(&mut self, number: u32) -> Option<()> {
        let mut digits = [0u8; 10];
        let mut at = digits.len();
        let mut rest = number;
        loop {
            at -= 1;
            digits[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                return self.push(&digits[at..]);
            }
        }
    }

    /// Appends bytes in lower-case hexadecimal.
    pub fn push_hex(&mut self, bytes: &[u8]) -> Option<()> {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        bytes.iter().try_for_each(|byte| self.push(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]))
    }

    pub fn bytes(&self) -> &[u8] {
        // SAFETY: `len` bytes were written.
        unsafe { core::slice::from_raw_parts(self.bytes.as_ptr().cast(), self.len) }
    }

    pub fn as_ptr(&self) -> *const c_char {
        self.bytes.as_ptr().cast()
    }
}

/// Length of a C string.
///
/// # Safety
/// `text` is NUL-terminated.
pub unsafe fn length(text: *const c_char) -> usize {
    let mut len = 0;
    // SAFETY: stops at the NUL.
    while unsafe { *text.add(len) } != 0 {
        len += 1;
    }
    len
}

/// The bytes of a C string, without the NUL.
///
/// # Safety
/// `text` is NUL-terminated and stays unchanged for as long as the answer is used.
pub unsafe fn bytes_of<'a>(text: *const c_char) -> &'a [u8] {
    // SAFETY: promised by the caller.
    unsafe { core::slice::from_raw_parts(text.cast(), length(text)) }
}

/// The bytes of the C strings in an array, as [`bytes_of`].
///
/// # Safety
/// `next` is null or a NULL-terminated array of C strings, all of which stay for as long as the answers are used.
pub unsafe fn strings<'a>(mut next: *const *const c_char) -> impl Iterator<Item = &'a [u8]> {
    core::iter::from_fn(move || {
        // SAFETY: not beyond the NULL at the end, which stays the last that is looked at.
        let text = if next.is_null() { null() } else { unsafe { *next } };
        if text.is_null() {
            return None;
        }
        // SAFETY: behind what was no NULL is another.
        next = unsafe { next.add(1) };
        // SAFETY: a C string of the array.
        Some(unsafe { bytes_of(text) })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_does_not_fit() {
        let mut text = Fixed::<8>::new();
        assert_eq!(text.push(b"1234567"), Some(()));
        assert_eq!(text.push(b"8"), None);
        assert_eq!(text.bytes(), b"1234567");
        // SAFETY: always NUL-terminated.
        assert_eq!(unsafe { bytes_of(text.as_ptr()) }, b"1234567");
        text.clear();
        assert_eq!(text.push(b"12345678"), None);
        assert_eq!(text.bytes(), b"");
    }
}
