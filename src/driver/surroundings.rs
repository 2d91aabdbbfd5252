//! Does the environment of a compile say anything that another host would take differently? Knows names and values of
//! variables, and nothing of the command line.

use super::{Cause, Reason};
use crate::environment::value_of;
use crate::wire::Bytes;
use mpicc_proxy_abi::driver::base_name;

/// Variables that make a driver append to a file, or that edit its command line.
const STEERING: [&[u8]; 6] = [
    b"DEPENDENCIES_OUTPUT",
    b"SUNPRO_DEPENDENCIES",
    b"CCC_OVERRIDE_OPTIONS",
    b"COMPILER_PATH",
    b"GCC_EXEC_PREFIX",
    b"GCC_COMPARE_DEBUG",
];

/// Variables that move libc's own files, which the virtual tree cannot show.
const LOCALE_FILES: [&[u8]; 5] = [b"LOCPATH", b"GCONV_PATH", b"NLSPATH", b"OUTPUT_CHARSET", b"TZDIR"];

/// Libraries that sites preload everywhere and that only watch: they are left out on the ranks. Any other preloaded
/// library (a false clock, an allocator that checks) may change what a compile does.
const WATCHERS: [&[u8]; 2] = [b"libxalt", b"libdarshan"];

/// Why a compile in this environment stays on this host, if it must. `environment` holds `NAME=value` entries.
pub fn keeps_here(environment: &[Bytes]) -> Option<Reason> {
    let value = |name: &[u8]| {
        let found = environment.iter().find_map(|entry| value_of(entry, name));
        found.filter(|value| !value.is_empty())
    };
    let reason = |cause, detail: &[u8]| Some(Reason { cause, detail: Some(detail.to_vec()) });
    if let Some(name) = STEERING.into_iter().find(|name| value(name).is_some()) {
        return reason(Cause::Environment, name);
    }
    // An entry that means the working directory is another folder on another host.
    if value(b"LD_LIBRARY_PATH")
        .is_some_and(|folders| folders.split(|b| matches!(b, b':' | b';')).any(|f| !f.starts_with(b"/")))
    {
        return reason(Cause::Environment, b"LD_LIBRARY_PATH");
    }
    if let Some(name) = LOCALE_FILES.into_iter().find(|name| value(name).is_some()) {
        return reason(Cause::Locale, name);
    }
    // The order in which gettext and setlocale look for the language of messages and for the character set.
    for names in [[b"LC_ALL".as_slice(), b"LC_MESSAGES", b"LANG"], [b"LC_ALL", b"LC_CTYPE", b"LANG"]] {
        let effective = names.into_iter().find_map(value);
        if let Some(locale) = effective
            && !is_plain(locale)
        {
            return reason(Cause::Locale, locale);
        }
    }
    let preloaded = value(b"LD_PRELOAD").unwrap_or_default();
    let foreign = preloaded
        .split(|b| matches!(b, b':' | b' '))
        .find(|library| !library.is_empty() && !WATCHERS.iter().any(|watcher| base_name(library).starts_with(watcher)));
    foreign.and_then(|library| reason(Cause::ForeignPreload, library))
}

/// Locales that need no file beyond those a toolchain's identity covers: no translated messages, and the character
/// sets of `C`, `C.UTF-8` and the locale archive.
fn is_plain(locale: &[u8]) -> bool {
    locale == b"POSIX" || locale == b"C" || locale.starts_with(b"C.") || locale.starts_with(b"en_US")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environments() {
        let table: [(&[&str], Option<&str>); 15] = [
            (&["PATH=/bin", "LANG=C.UTF-8", "CPATH=/x", "SOURCE_DATE_EPOCH=1"], None),
            (&["LANG=en_US.UTF-8"], None),
            (&["LANG=de_DE.UTF-8"], Some("locale")),
            (&["LANG=de_DE.UTF-8", "LC_ALL=C"], None),
            (&["LANG=de_DE.UTF-8", "LC_MESSAGES=C"], Some("locale")),
            (&["LC_ALL=", "LANG=C"], None),
            (&["GCONV_PATH=/x"], Some("locale")),
            (&["DEPENDENCIES_OUTPUT=deps"], Some("environment")),
            (&["DEPENDENCIES_OUTPUT="], None),
            (&["COMPILER_PATH=/x"], Some("environment")),
            (&["LD_LIBRARY_PATH=/opt/gcc/lib64:/x"], None),
            (&["LD_LIBRARY_PATH=/opt/gcc/lib64:"], Some("environment")),
            (&["LD_PRELOAD=/opt/xalt/lib64/libxalt_init.so"], None),
            (&["LD_PRELOAD=libxalt_init.so:/usr/lib/libfaketime.so.1"], Some("foreign-preload")),
            (&["LD_PRELOAD=/usr/lib/libjemalloc.so"], Some("foreign-preload")),
        ];
        for (entries, expected) in table {
            let environment: Vec<Bytes> = entries.iter().map(|entry| entry.as_bytes().to_vec()).collect();
            assert_eq!(keeps_here(&environment).map(|reason| reason.name()), expected, "{entries:?}");
        }
    }
}
