//! Why an invocation stays on this host: the list of causes, each with its stable name and a sentence for people.
//! Knows nothing about options; [`super::flags`] says which option has which cause.

use crate::wire::Bytes;

macro_rules! causes {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $sentence:literal;)*) => {
        /// What keeps an invocation on this host. The names are part of the interface: they appear in `--stats`, in
        /// the log and in scripts, and are never renamed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Cause {
            $($(#[$doc])* $variant,)*
        }

        impl Cause {
            /// Every cause, in the order of the list.
            pub const ALL: &[Cause] = &[$(Cause::$variant),*];

            /// The stable name, in kebab-case.
            pub fn name(self) -> &'static str {
                match self { $(Cause::$variant => $name,)* }
            }

            /// Half a sentence that continues "it runs on this host because".
            pub fn sentence(self) -> &'static str {
                match self { $(Cause::$variant => $sentence,)* }
            }
        }
    };
}

causes! {
    // What the command is for.
    Link = "link", "it links";
    Query = "query", "it only asks the compiler about itself";
    Preprocess = "preprocess", "it only preprocesses";
    DependenciesOnly = "dependencies-only", "it only lists dependencies";
    NoSource = "no-source", "it names nothing to compile";
    /// `clang -cc1`: not the driver but the program behind it.
    CompilerProper = "compiler-proper", "it calls the compiler proper, not the driver";

    // Where text comes from and goes to.
    Stdin = "stdin", "it reads from a descriptor or a device of this process";
    OutputToStdout = "output-to-stdout", "it writes to a descriptor or a device of this process";
    SeveralSourcesOneOutput = "several-sources-one-output", "it names one output for several sources";

    // What we do not understand well enough.
    UnknownOption = "unknown-option", "an option is not known to be safe elsewhere";
    MissingArgument = "missing-argument", "the last option lacks its argument";
    UnknownLanguage = "unknown-language", "a source is in a language that is not compiled remotely";
    LinkInput = "link-input", "an input is not a source and would only be linked";
    UnreadableResponseFile = "unreadable-response-file", "a response file cannot be read";
    ResponseFileLimit = "response-file-limit", "response files are nested too deeply or are too many";
    AmbiguousResponseFile = "ambiguous-response-file", "compilers read the quoting in a response file differently";

    // What depends on this host or on more than files.
    MarchNative = "march-native", "an option means the processor of this host and cannot be spelled out";
    HostMemory = "host-memory", "the compiler would write down what it derived from this host's memory";
    ToolchainSearch = "toolchain-search", "an option changes where the driver looks for its parts";
    Specs = "specs", "an option changes the driver's own configuration";
    Wrapper = "wrapper", "an option runs the compiler under another program";
    Plugin = "plugin", "an option loads code into the compiler";
    InputCharset = "input-charset", "an option converts character sets with modules of this host's C library";
    PrecompiledHeader = "precompiled-header", "it makes a precompiled header";
    Modules = "modules", "it uses C++ or header modules";
    Offload = "offload", "it compiles for an accelerator as well";

    Environment = "environment", "a variable changes what the driver does or writes";
    Locale = "locale", "messages or character sets come from files of this host's C library";
    ForeignPreload = "foreign-preload", "another library is preloaded, which may change what the compiler does";

    ClosedDescriptor = "closed-descriptor", "it was started without stdin, stdout or stderr";

    // What differs from run to run.
    Verbose = "verbose", "it prints the commands it runs, with names of temporary files";
    Timing = "timing", "it reports on the compiler's own time and memory";
}

/// A [`Cause`], with the option or the file that it was seen at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    pub cause: Cause,
    pub detail: Option<Bytes>,
}

impl Reason {
    pub fn new(cause: Cause) -> Reason {
        Reason { cause, detail: None }
    }

    pub fn at(cause: Cause, detail: &[u8]) -> Reason {
        Reason { cause, detail: Some(detail.to_vec()) }
    }

    /// The cause's stable name.
    pub fn name(&self) -> &'static str {
        self.cause.name()
    }

    /// Is there more to do than to answer?
    pub fn is_work(&self) -> bool {
        !matches!(self.cause, Cause::Query | Cause::NoSource)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_kebab_case_and_unique() {
        let names: HashSet<_> = Cause::ALL.iter().map(|cause| cause.name()).collect();
        assert_eq!(names.len(), Cause::ALL.len());
        for name in names {
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{name}");
        }
    }
}
