//! The options of a command line that change where the driver looks for its parts (`-B`, `--gcc-toolchain=`): to be
//! asked with them is to be told other programs. Looks at the words as they were written: a compile that has such
//! options in a response file stays here.

use super::flags::{self, Effect};
use crate::wire::Bytes;

/// What every such option begins with; spares all other command lines the reading.
const PREFIXES: [&[u8]; 5] = [b"-B", b"--prefix", b"--gcc-", b"-gcc-", b"-resource-dir"];

/// The options in question of `argv`, with their values; `driver` is a path.
pub fn options(driver: &[u8], argv: &[Bytes]) -> Vec<Bytes> {
    let words = argv.get(1..).unwrap_or_default();
    let suspect = |word: &Bytes| PREFIXES.iter().any(|prefix| word.starts_with(prefix));
    if !words.iter().any(suspect) {
        return Vec::new();
    }
    let Some(driver) = super::driver_at(driver) else { return Vec::new() };
    let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
    let mut rest = words.iter();
    let mut found = Vec::new();
    while let Some(word) = rest.next() {
        // Inputs and what no row matches: it was looked at by the client.
        let Ok(taken) = flags::take(flags::DRIVER, driver.dialect, word, &mut rest) else { continue };
        if taken.effect == Effect::Search {
            found.push(word.to_vec());
            found.extend((!taken.joined).then(|| taken.value.to_vec()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_with_their_values() {
        let table = [
            ("gcc -c -O2 x.c", ""),
            ("gcc -c -Bdir -B other/ -o -Bx x.c", "-Bdir -B other/"),
            ("gcc -c --prefix=a --prefix b x.c", "--prefix=a --prefix b"),
            (
                "clang -c --gcc-toolchain=/opt -resource-dir d -resource-dir=e x.c",
                "--gcc-toolchain=/opt -resource-dir d -resource-dir=e",
            ),
            ("gcc -c -resource-dir d x.c", ""),
        ];
        for (command, expected) in table {
            let argv: Vec<Bytes> = command.split(' ').map(|word| word.as_bytes().to_vec()).collect();
            let found = options(&[b"/usr/bin/", argv[0].as_slice()].concat(), &argv);
            assert_eq!(String::from_utf8(found.join(&b' ')).unwrap(), expected, "{command}");
        }
    }
}
