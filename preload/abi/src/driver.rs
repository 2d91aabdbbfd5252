//! Does a file name look like a compiler driver? Shared by the hook (which must decide without allocating) and the
//! client (which classifies in full).

/// What kind of driver a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// `gcc`, `cc`, `clang`: the source's suffix chooses the language.
    C,
    /// `g++`, `c++`, `clang++`: C sources are compiled as C++.
    Cxx,
    /// `gfortran`, `f77`, `f90`, `f95`: as for C, but a link gets Fortran's libraries.
    Fortran,
}

/// A driver's option dialect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    Gnu,
    Clang,
    /// `cc`, `c++`, `f95`: whichever the system chose; only what both understand alike may be assumed.
    Either,
}

impl Dialect {
    /// Does what this dialect knows hold for `driver`?
    pub fn is_of(self, driver: DriverName) -> bool {
        self == Dialect::Either || self == driver.dialect
    }
}

/// What [`recognise`] found in a driver's file name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DriverName {
    pub language: Language,
    pub dialect: Dialect,
}

/// Longest names first, so that `g++` is not taken for a prefix of something else.
const NAMES: [(&[u8], Language, Dialect); 10] = [
    (b"gfortran", Language::Fortran, Dialect::Gnu),
    (b"clang++", Language::Cxx, Dialect::Clang),
    (b"clang", Language::C, Dialect::Clang),
    (b"g++", Language::Cxx, Dialect::Gnu),
    (b"gcc", Language::C, Dialect::Gnu),
    (b"c++", Language::Cxx, Dialect::Either),
    (b"cc", Language::C, Dialect::Either),
    (b"f77", Language::Fortran, Dialect::Either),
    (b"f90", Language::Fortran, Dialect::Either),
    (b"f95", Language::Fortran, Dialect::Either),
];

/// Recognises `gcc`, `g++`, `cc`, `c++`, `clang`, `clang++`, `gfortran`, `f77`, `f90`, `f95` with an optional target
/// prefix ending in `-` and an optional version suffix (`x86_64-linux-gnu-g++-12`, `clang++-19`, `gcc-12.2.0`). `name`
/// is a file name, not a path.
pub fn recognise(name: &[u8]) -> Option<DriverName> {
    let stem = without_version(name);
    for (driver, language, dialect) in NAMES {
        if let Some(prefix) = stem.strip_suffix(driver)
            && (prefix.is_empty() || prefix.ends_with(b"-"))
        {
            return Some(DriverName { language, dialect });
        }
    }
    None
}

/// The part of a path behind its last slash.
pub fn base_name(path: &[u8]) -> &[u8] {
    path.rsplit(|&b| b == b'/').next().unwrap_or(path)
}

fn without_version(name: &[u8]) -> &[u8] {
    let mut parts = name.rsplitn(2, |&b| b == b'-');
    let (Some(version), Some(stem)) = (parts.next(), parts.next()) else { return name };
    let is_version =
        version.first().is_some_and(u8::is_ascii_digit) && version.iter().all(|b| b.is_ascii_digit() || *b == b'.');
    if is_version { stem } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_drivers_and_of_their_parts() {
        for name in [
            "gcc",
            "g++",
            "cc",
            "c++",
            "clang",
            "clang++",
            "gcc-12",
            "clang++-19",
            "gcc-12.2.0",
            "gfortran",
            "gfortran-12",
            "f77",
            "f90",
            "f95",
        ] {
            assert!(recognise(name.as_bytes()).is_some(), "{name}");
            let cross = ["x86_64-linux-gnu-", name].concat();
            assert!(recognise(cross.as_bytes()).is_some(), "{cross}");
        }
        for name in [
            "cc1",
            "cc1plus",
            "as",
            "ld",
            "collect2",
            "gcc-ar",
            "gcc-ar-12",
            "gcc-nm",
            "clang-format",
            "c++filt",
            "cpp",
            "ccache",
            "distcc",
            "f951",
            "mpicc",
            "mpifort",
            "mpif90",
            "flang-19",
            "xgcc",
            "",
            "-",
            "-12",
            "clang-tidy-14",
            "lto-wrapper",
        ] {
            assert_eq!(recognise(name.as_bytes()), None, "{name}");
        }
        assert_eq!(recognise(b"c++").unwrap().dialect, Dialect::Either);
        assert_eq!(recognise(b"clang++-14").unwrap().language, Language::Cxx);
    }

    #[test]
    fn base_names() {
        assert_eq!(base_name(b"/usr/bin/gcc"), b"gcc");
        assert_eq!(base_name(b"gcc"), b"gcc");
        assert_eq!(base_name(b"dir/"), b"");
    }
}
