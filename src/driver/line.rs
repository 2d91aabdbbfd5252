//! One command line, added up: which stage, which inputs, which output, and the first thing that keeps it here. Knows
//! what single options mean only through [`super::flags`].

use super::flags::{self, Effect, Row, Stage, Taken};
use super::language::{self, Language};
use super::reason::{Cause, Reason};
use super::{Compile, Product, Source, Verdict};
use mpicc_proxy_abi::driver::{Dialect, DriverName};

/// What has been seen so far.
pub struct Line<'a> {
    driver: DriverName,
    stage: Stage,
    inputs: Vec<Input<'a>>,
    /// Something for the linker was named, if only a library.
    link_inputs: bool,
    output: Option<&'a [u8]>,
    /// The language that `-x` set for the inputs that follow.
    language: Option<&'a [u8]>,
    /// Words for the tools behind the driver, in order: an option and its value may come in different words.
    preprocessor: Vec<&'a [u8]>,
    assembler: Vec<&'a [u8]>,
    frontend: Vec<&'a [u8]>,
    /// Options of the `-m` family with their values, and the first that means the processor of this host.
    machine: Vec<&'a [u8]>,
    native: Option<&'a [u8]>,
    /// clang would write the command line into what it makes.
    recorded: bool,
    search: Option<&'a [u8]>,
    specs: Vec<&'a [u8]>,
    to_stdout: bool,
    objections: Vec<Reason>,
}

struct Input<'a> {
    path: &'a [u8],
    language: Result<Language, Cause>,
}

impl<'a> Line<'a> {
    /// Reads a command line without `argv[0]`, response files already expanded.
    pub fn read(driver: DriverName, words: &[&'a [u8]]) -> Line<'a> {
        let mut line = Line {
            driver,
            stage: Stage::Link,
            inputs: Vec::new(),
            link_inputs: false,
            output: None,
            language: None,
            preprocessor: Vec::new(),
            assembler: Vec::new(),
            frontend: Vec::new(),
            machine: Vec::new(),
            native: None,
            recorded: false,
            search: None,
            specs: Vec::new(),
            to_stdout: false,
            objections: Vec::new(),
        };
        let mut rest = words.iter();
        let mut options = true;
        while let Some(word) = rest.next() {
            if !options || !word.starts_with(b"-") || *word == b"-" {
                line.input(word);
                continue;
            }
            match flags::take(flags::DRIVER, driver.dialect, word, &mut rest) {
                Ok(taken) if taken.effect == Effect::EndOfOptions => options = false,
                Ok(taken) => line.option(taken),
                // Whatever the word means, no later word can make this invocation remote again.
                Err(reason) => line.objections.push(reason),
            }
        }
        line.forwarded(flags::PREPROCESSOR, |line| &line.preprocessor);
        line.forwarded(flags::ASSEMBLER, |line| &line.assembler);
        line.forwarded(flags::FRONTEND, |line| &line.frontend);
        line
    }

    fn option(&mut self, taken: Taken<'a>) {
        self.objections.extend(taken.objection());
        self.to_stdout |= taken.writes_to_stdout();
        if taken.word.starts_with(b"-m") || taken.word.ends_with(b"-target") || taken.word.starts_with(b"--target=") {
            self.machine.push(taken.word);
            self.machine.extend((!taken.joined && !taken.value.is_empty()).then_some(taken.value));
        }
        self.recorded |= RECORDING.iter().any(|option| taken.word.starts_with(option));
        match taken.effect {
            Effect::Stage(stage) => self.stage = self.stage.min(stage),
            Effect::Language => self.language = Some(taken.value).filter(|name| *name != b"none"),
            Effect::Output => self.output = Some(taken.value),
            Effect::LinkInput => self.link_inputs = true,
            Effect::Preprocessor => self.preprocessor.extend(forwarded_words(&taken)),
            Effect::Assembler => self.assembler.extend(forwarded_words(&taken)),
            Effect::Frontend => self.frontend.push(taken.value),
            Effect::Processor if taken.is_native() => self.native = self.native.or(Some(taken.word)),
            Effect::Search => self.search = self.search.or(Some(taken.word)),
            Effect::Specs => self.specs.push(taken.value),
            Effect::Fine
            | Effect::Local(_)
            | Effect::Reads
            | Effect::Writes
            | Effect::Report
            | Effect::Processor
            | Effect::Charset
            | Effect::EndOfOptions => {}
        }
    }

    fn input(&mut self, path: &'a [u8]) {
        let language = match self.language {
            Some(name) if path == b"-" || !flags::is_special(path) => language::by_name(self.driver, name),
            None if !flags::is_special(path) => language::by_suffix(self.driver, path),
            _ => Err(Cause::Stdin),
        };
        self.inputs.push(Input { path, language });
    }

    /// Looks up words meant for a tool behind the driver in that tool's own table.
    fn forwarded(&mut self, table: &[Row], words: impl Fn(&Self) -> &Vec<&'a [u8]>) {
        let mut objections = Vec::new();
        let mut to_stdout = false;
        let mut rest = words(self).iter();
        while let Some(word) = rest.next() {
            match flags::take(table, self.driver.dialect, word, &mut rest) {
                Ok(taken) => {
                    objections.extend(taken.objection());
                    to_stdout |= taken.writes_to_stdout();
                }
                Err(reason) => objections.push(reason),
            }
        }
        self.objections.append(&mut objections);
        self.to_stdout |= to_stdout;
    }

    /// Where the invocation runs. What the command is for comes before what is special about it: a link with
    /// `-march=native` is a link.
    pub fn verdict(self) -> Verdict {
        match self.obstacle() {
            Some(reason) => Verdict::Local(reason),
            None => Verdict::Remote(Compile {
                product: match self.stage {
                    Stage::SyntaxOnly => Product::Nothing,
                    Stage::Assembly => Product::Assembly,
                    _ => Product::Object,
                },
                sources: self
                    .inputs
                    .iter()
                    .filter_map(|input| Some(Source { path: input.path.to_vec(), language: input.language.ok()? }))
                    .collect(),
                output: self.output.map(<[u8]>::to_vec),
                native: self.native.map(|_| self.machine.iter().map(|word| word.to_vec()).collect()),
                stdin: self.inputs.iter().any(|input| input.path == b"-"),
                to_stdout: self.to_stdout,
            }),
        }
    }

    /// What the words of a response file cannot do: they are not ours to rewrite, and the dispatcher does not look there
    /// for what decides on the toolchain.
    pub fn objection_to_response_files(&self) -> Option<Reason> {
        let native = self.native.filter(|_| self.driver.dialect != Dialect::Gnu);
        let words = [(Cause::ToolchainSearch, self.search), (Cause::MarchNative, native)];
        words.into_iter().find_map(|(cause, word)| Some(Reason::at(cause, word?)))
    }

    /// The specs files that the command line names.
    pub fn specs(&self) -> &[&'a [u8]] {
        &self.specs
    }

    /// What keeps `native` from being spelled out.
    fn objection_to_native(&self) -> Option<Reason> {
        let word = self.native?;
        let possible = match self.driver.dialect {
            // Spelled out in a specs file of ours; two of them might contradict each other.
            Dialect::Gnu => self.specs.is_empty(),
            // Spelled out in words for the compiler proper, which clang's assembler would complain about.
            Dialect::Clang => {
                !self.recorded && !self.inputs.iter().any(|input| input.language == Ok(Language::Assembler))
            }
            Dialect::Either => false,
        };
        (!possible).then(|| Reason::at(Cause::MarchNative, word))
    }

    fn obstacle(&self) -> Option<Reason> {
        let objection =
            |causes: &[Cause]| self.objections.iter().find(|reason| causes.contains(&reason.cause)).cloned();
        if let Some(reason) = objection(&[Cause::Query, Cause::CompilerProper]) {
            return Some(reason);
        }
        if self.inputs.is_empty() && !self.link_inputs {
            // `gcc -v` alone prints its version and configuration.
            let question = objection(&[Cause::Verbose]).map(|reason| Reason { cause: Cause::Query, ..reason });
            return Some(question.unwrap_or(Reason::new(Cause::NoSource)));
        }
        let all_inputs_are =
            |cause| !self.inputs.is_empty() && self.inputs.iter().all(|input| input.language == Err(cause));
        match self.stage {
            Stage::Preprocess => return Some(Reason::new(Cause::Preprocess)),
            Stage::Dependencies => return Some(Reason::new(Cause::DependenciesOnly)),
            // A header needs no -c to be compiled.
            Stage::Link if all_inputs_are(Cause::PrecompiledHeader) => {
                return Some(Reason::at(Cause::PrecompiledHeader, self.inputs[0].path));
            }
            Stage::Link => return Some(Reason::new(Cause::Link)),
            Stage::Object | Stage::Assembly | Stage::SyntaxOnly => {}
        }
        if let Some(reason) = self.objections.first() {
            return Some(reason.clone());
        }
        if self.inputs.is_empty() || all_inputs_are(Cause::LinkInput) {
            return Some(Reason::new(Cause::NoSource));
        }
        for input in &self.inputs {
            match input.language {
                Err(cause) => return Some(Reason::at(cause, input.path)),
                // Preprocesses to the standard output, or does nothing at all.
                Ok(language) if language.is_assembler() && self.stage != Stage::Object => {
                    return Some(Reason::at(Cause::Preprocess, input.path));
                }
                Ok(_) => {}
            }
        }
        if let Some(reason) = self.objection_to_native() {
            return Some(reason);
        }
        match self.output {
            Some(output) if self.stage != Stage::SyntaxOnly && self.inputs.len() > 1 => {
                Some(Reason::at(Cause::SeveralSourcesOneOutput, output))
            }
            _ => None,
        }
    }
}

/// Options with which clang writes its command line down: it must be the one that was given.
const RECORDING: &[&[u8]] =
    &[b"-frecord-", b"-grecord-", b"-fembed-bitcode", b"-MJ", b"-gen-reproducer", b"-fcrash-diagnostics"];

/// `-Wp,a,b` hands on two words, `-Xpreprocessor a,b` one.
fn forwarded_words<'a>(taken: &Taken<'a>) -> Vec<&'a [u8]> {
    if taken.joined { taken.value.split(|&b| b == b',').collect() } else { vec![taken.value] }
}
