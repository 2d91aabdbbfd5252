//! A number of bytes as people write it: `512M`. Not none at all.

use std::str::FromStr;

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(u64);

impl Size {
    pub fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for Size {
    type Err = String;

    /// Digits, and then nothing or one of K, M, G (powers of 1024), in either case.
    fn from_str(text: &str) -> Result<Size, String> {
        let (digits, shift) = match text.char_indices().last() {
            Some((at, 'k' | 'K')) => (&text[..at], 10),
            Some((at, 'm' | 'M')) => (&text[..at], 20),
            Some((at, 'g' | 'G')) => (&text[..at], 30),
            _ => (text, 0),
        };
        let number: u64 =
            digits.parse().map_err(|_| "expected a number, or one with K, M or G behind it".to_owned())?;
        match number.checked_mul(1 << shift) {
            Some(0) => Err("without any, nothing could be compiled on a worker".to_owned()),
            Some(bytes) => Ok(Size(bytes)),
            None => Err("that is too much".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_as_people_write_them() {
        let table: [(&str, Option<u64>); 12] = [
            ("0", None),
            ("0G", None),
            ("4096", Some(4096)),
            ("64k", Some(64 << 10)),
            ("64K", Some(64 << 10)),
            ("3M", Some(3 << 20)),
            ("8G", Some(8 << 30)),
            ("", None),
            ("G", None),
            ("1.5G", None),
            ("-1", None),
            ("99999999999G", None),
        ];
        for (text, expected) in table {
            assert_eq!(text.parse::<Size>().ok().map(Size::bytes), expected, "{text:?}");
        }
    }
}
