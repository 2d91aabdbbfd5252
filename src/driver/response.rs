//! Response files: replaces `@file` by the words in the file, as the driver will. For classification only; the driver
//! is always given the command line as it was written.
//!
//! # Where compilers differ
//! Words are separated by white space; `'` and `"` quote; a backslash takes the next byte literally. That much is
//! common to libiberty (GCC) and LLVM's GNU tokenizer. They disagree, among themselves or between their versions, on
//!
//! * a backslash inside quotes: always an escape (GCC up to 14, clang), or by the rules of the shell (GCC 15: nothing
//!   special inside `'`, inside `"` only before `"`, `\`, `$`, `` ` ``);
//! * a backslash before a line end (kept or removed), and one at the end of the file;
//! * an empty word `''` (kept, or dropped by LLVM);
//! * an open quote at the end of the file;
//! * form feed, vertical tab and NUL (white space to one, not to the other, or the end of the file), a byte order mark.
//!
//! A file in which that matters is not interpreted: the invocation runs here.

use super::reason::{Cause, Reason};
use crate::wire::Bytes;
use std::borrow::Cow;
use std::io;

/// Response files may name others. Real builds use one level, generated ones (CMake, Meson) two; GCC gives up after
/// 2000 files in all, LLVM when a file includes itself.
pub const RESPONSE_NESTING_MAX: usize = 8;

/// Files opened for one command line; bounds what [`RESPONSE_NESTING_MAX`] alone would let grow exponentially.
pub const RESPONSE_FILES_MAX: usize = 100;

/// Bytes of all of them together. Linux gives the compiler proper at most 6 MiB for the words.
pub const RESPONSE_BYTES_MAX: usize = 8 << 20;

/// Reads a response file; the name is as written, relative to the working directory.
pub type Read<'r> = dyn FnMut(&[u8]) -> io::Result<Vec<u8>> + 'r;

/// Replaces every `@file` by its words.
///
/// # Errors
/// A file cannot be read (gcc would then take `@file` literally, clang may refuse), the limits are exceeded, or the
/// compilers would not agree on the words.
pub fn expand<'a>(words: &'a [Bytes], read: &mut Read) -> Result<Cow<'a, [Bytes]>, Reason> {
    if !words.iter().any(|word| word.starts_with(b"@")) {
        return Ok(Cow::Borrowed(words));
    }
    let mut expansion = Expansion { read, files: 0, bytes: 0, words: Vec::with_capacity(words.len()) };
    for word in words {
        expansion.push(word.clone(), 0)?;
    }
    Ok(Cow::Owned(expansion.words))
}

struct Expansion<'r, 'c> {
    read: &'r mut Read<'c>,
    files: usize,
    bytes: usize,
    words: Vec<Bytes>,
}

impl Expansion<'_, '_> {
    fn push(&mut self, word: Bytes, nesting: usize) -> Result<(), Reason> {
        let Some(file) = word.strip_prefix(b"@") else {
            self.words.push(word);
            return Ok(());
        };
        self.files += 1;
        if nesting == RESPONSE_NESTING_MAX || self.files > RESPONSE_FILES_MAX {
            return Err(Reason::at(Cause::ResponseFileLimit, file));
        }
        let text = (self.read)(file).map_err(|_| Reason::at(Cause::UnreadableResponseFile, file))?;
        self.bytes += text.len();
        if self.bytes > RESPONSE_BYTES_MAX {
            return Err(Reason::at(Cause::ResponseFileLimit, file));
        }
        for word in split(&text).ok_or_else(|| Reason::at(Cause::AmbiguousResponseFile, file))? {
            self.push(word, nesting + 1)?;
        }
        Ok(())
    }
}

/// The words of a response file; `None` where compilers disagree (see above).
fn split(text: &[u8]) -> Option<Vec<Bytes>> {
    let byte_order_mark = [&b"\xef\xbb\xbf"[..], b"\xff\xfe", b"\xfe\xff"].iter().any(|mark| text.starts_with(mark));
    if byte_order_mark || text.iter().any(|b| matches!(b, 0 | 0x0b | 0x0c)) {
        return None;
    }
    let mut words = Vec::new();
    let mut bytes = text.iter().copied();
    while let Some(first) = bytes.find(|b| !is_space(*b)) {
        let mut word = Bytes::new();
        let mut next = Some(first);
        while let Some(byte) = next.filter(|b| !is_space(*b)) {
            match byte {
                b'\\' => word.push(bytes.next().filter(|b| !matches!(b, b'\n' | b'\r'))?),
                b'\'' | b'"' => quoted(byte, &mut bytes, &mut word)?,
                _ => word.push(byte),
            }
            next = bytes.next();
        }
        if word.is_empty() {
            return None;
        }
        words.push(word);
    }
    Some(words)
}

fn quoted(quote: u8, bytes: &mut impl Iterator<Item = u8>, word: &mut Bytes) -> Option<()> {
    loop {
        match bytes.next()? {
            b if b == quote => return Some(()),
            b'\\' if quote == b'\'' => return None,
            b'\\' => word.push(bytes.next().filter(|b| matches!(b, b'"' | b'\\' | b'$' | b'`'))?),
            b => word.push(b),
        }
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Option<Vec<String>> {
        Some(split(text.as_bytes())?.into_iter().map(|word| String::from_utf8(word).unwrap()).collect())
    }

    #[test]
    fn quoting_that_all_compilers_share() {
        for (text, expected) in [
            ("", &[][..]),
            (" \n\t\r\n", &[]),
            ("a b\nc\r\n", &["a", "b", "c"]),
            (r#"-DX=\"y\ z\" 'a b'"c d" "#, &["-DX=\"y z\"", "a bc d"]),
            (r#""-DX=\"y\" \\ \$" a'b'c"#, &["-DX=\"y\" \\ $", "abc"]),
            (r#"'"' "'""#, &["\"", "'"]),
        ] {
            assert_eq!(words(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn quoting_on_which_they_differ_is_refused() {
        for text in [
            r"'a\b'",
            r#""a\b""#,
            "a\\\nb",
            "a\\",
            "''",
            "a '' b",
            "'a",
            "\"a",
            "a\x0bb",
            "a\x0cb",
            "a\0b",
            "\u{feff}a",
        ] {
            assert_eq!(words(text), None, "{text:?}");
        }
    }

    #[test]
    fn nesting_is_followed_and_bounded() {
        let files = |name: &[u8]| match name {
            b"outer" => Ok(b"-c @inner b.c".to_vec()),
            b"inner" => Ok(b"a.c".to_vec()),
            b"loop" => Ok(b"@loop".to_vec()),
            b"bomb" => Ok(b"@bomb @bomb @bomb".to_vec()),
            b"large" => Ok(vec![b'x'; RESPONSE_BYTES_MAX / 2]),
            _ => Err(io::ErrorKind::NotFound.into()),
        };
        let expanded = |word: &str| {
            let words = [b"-O2".to_vec(), word.as_bytes().to_vec()];
            expand(&words, &mut { files }).map(|words| words.join(&b' ')).map_err(|reason| reason.cause)
        };
        assert_eq!(expanded("@outer").unwrap(), b"-O2 -c a.c b.c");
        assert_eq!(expanded("x@outer").unwrap(), b"-O2 x@outer");
        assert_eq!(expanded("@loop"), Err(Cause::ResponseFileLimit));
        assert_eq!(expanded("@bomb"), Err(Cause::ResponseFileLimit));
        assert_eq!(expanded("@large").unwrap().len(), RESPONSE_BYTES_MAX / 2 + 4);
        let larger = ["@large", "@large", "@inner"].map(|word| word.as_bytes().to_vec());
        assert_eq!(expand(&larger, &mut { files }).unwrap_err().cause, Cause::ResponseFileLimit);
        assert_eq!(expanded("@missing"), Err(Cause::UnreadableResponseFile));
        assert_eq!(expanded("@"), Err(Cause::UnreadableResponseFile));
    }
}
