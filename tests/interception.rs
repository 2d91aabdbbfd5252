//! The preload library in make's tree: which starts of a compiler become a start of the client, and that nothing else
//! changes. The client and the compilers only record that they ran (`tests/preload/record.c`).

mod preload;

use preload::{Outcome, Record, Site, library, program, run};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

const CLIENT: &str = "mpicc-proxy-client";

/// Runs it and expects one start of the client for `bin/gcc -c x.c`.
fn client_of(site: &Site, command: &mut Command) -> Record {
    let outcome = run(command);
    assert_eq!((outcome.status, outcome.stderr.as_str()), (0, ""), "{command:?}");
    let records = site.records();
    assert_eq!(records.len(), 1, "{command:?}: {records:?}");
    let record = records.into_iter().next().unwrap();
    assert_eq!(record.who, CLIENT, "{command:?}");
    assert_eq!(record.argv[1..], ["-c", "x.c"], "{command:?}");
    assert_eq!(record.env.get("MPICC_PROXY_DRIVER"), Some(&site.gcc()), "{command:?}");
    assert_eq!(record.env.get("LD_PRELOAD"), None, "{command:?}");
    assert_eq!(record.env.get("MPICC_PROXY_SOCKET"), Some(&site.text("socket")), "{command:?}");
    record
}

/// Runs it and expects one start of the program called `who`.
fn real_of(site: &Site, who: &str, command: &mut Command) -> Record {
    let outcome = run(command);
    assert_eq!((outcome.status, outcome.stderr.as_str()), (0, ""), "{command:?}");
    let records = site.records();
    assert_eq!(records.len(), 1, "{command:?}: {records:?}");
    let record = records.into_iter().next().unwrap();
    assert_eq!(record.who, who, "{command:?}");
    assert_eq!(record.env.get("MPICC_PROXY_DRIVER"), None);
    record
}

#[test]
fn exported_names_are_the_table() {
    let table = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/preload/src/table.rs")).unwrap();
    let rows = table.split("hooks! {").nth(1).unwrap();
    let listed: BTreeSet<String> = rows
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix('[')?.split_once(']'))
        .flat_map(|(names, _)| names.split_whitespace())
        .map(str::to_owned)
        .collect();
    assert!(listed.contains("posix_spawnp"));
    let nm = run(Command::new("nm").args(["-D", "--defined-only"]).arg(library()));
    let exported: BTreeSet<String> =
        nm.stdout.lines().map(|line| line.split_whitespace().last().unwrap().to_owned()).collect();
    assert_eq!(exported, listed);
}

#[test]
fn only_libc_is_linked() {
    let readelf = run(Command::new("readelf").arg("-dW").arg(library()));
    let needed: Vec<&str> = readelf.stdout.lines().filter(|line| line.contains("(NEEDED)")).collect();
    assert!(needed.iter().all(|line| line.contains("[libc.so.6]") || line.contains("[libdl.so.2]")), "{needed:?}");
    assert!(readelf.stdout.contains("[libmpicc-proxy.so]"), "soname");
}

#[test]
fn every_entry_point_starts_the_client() {
    let site = Site::new();
    let gcc = site.gcc();
    for (name, file) in [
        ("execve", gcc.as_str()),
        ("execv", &gcc),
        ("execvp", "gcc"),
        ("execvp", &gcc),
        ("execvpe", "gcc"),
        ("execl", &gcc),
        ("execle", &gcc),
        ("execlp", "gcc"),
        ("execveat", &gcc),
        ("fexecve", &gcc),
        ("posix_spawn", &gcc),
        ("posix_spawnp", "gcc"),
        ("posix_spawnp", &gcc),
        ("system", ""),
        ("popen", ""),
    ] {
        let word = if file.is_empty() { "gcc" } else { "as-written" };
        let record = client_of(&site, site.command(program(name)).args([file, word, "-c", "x.c"]));
        assert_eq!(record.argv[0], word, "{name}: argv[0] is not ours to change");
    }
}

#[test]
fn variadics_pass_more_words_than_registers() {
    let site = Site::new();
    let words: Vec<String> = (0..9).map(|n| format!("word{n}")).collect();
    for (name, file) in [("execl", site.gcc()), ("execle", site.gcc()), ("execlp", "gcc".into())] {
        for mut command in [site.command(program(name)), site.plain(program(name))] {
            run(command.arg(&file).args(&words));
            assert_eq!(site.records()[0].argv, words, "{name}");
        }
        let mut off = site.command(program(name));
        run(off.env("MPICC_PROXY", "off").arg(&file).args(&words));
        let record = &site.records()[0];
        assert_eq!((record.who.as_str(), &record.argv), ("gcc", &words), "{name}, switched off");
    }
}

#[test]
fn tools_that_start_compilers() {
    let site = Site::new();
    fs::write(site.path("work/simple.mk"), "all:\n\t@gcc -c x.c\n").unwrap();
    fs::write(site.path("work/shell.mk"), "all:\n\t@true && gcc -c x.c; :\n").unwrap();
    let python = |text: &str| format!("import os, subprocess\n{text}");
    let call = python("subprocess.check_call(['gcc', '-c', 'x.c'])");
    let with_env = python("subprocess.check_call(['gcc', '-c', 'x.c'], env={'PATH': os.environ['PATH']})");
    let no_vfork = python("subprocess.check_call(['gcc', '-c', 'x.c'], preexec_fn=lambda: None)");
    let os_system = python("os.system('gcc -c x.c')");
    let spawn = python("os.waitpid(os.posix_spawnp('gcc', ['gcc', '-c', 'x.c'], os.environ), 0)");
    for line in [
        vec!["sh", "-c", "gcc -c x.c"],
        vec!["sh", "-c", "exec gcc -c x.c"],
        vec!["sh", "-c", "unset LD_PRELOAD; gcc -c x.c"],
        vec!["dash", "-c", "gcc -c x.c && :"],
        vec!["bash", "-c", "gcc -c x.c"],
        vec!["bash", "-c", "gcc -c x.c; :"],
        vec!["bash", "-c", "(unset LD_PRELOAD MPICC_PROXY_SOCKET; gcc -c x.c); :"],
        vec!["make", "-f", "simple.mk"],
        vec!["make", "-f", "shell.mk"],
        vec!["python3", "-c", &call],
        vec!["python3", "-c", &with_env],
        vec!["python3", "-c", &no_vfork],
        vec!["python3", "-c", &os_system],
        vec!["python3", "-c", &spawn],
        vec!["perl", "-e", "system('gcc', '-c', 'x.c')"],
        vec!["perl", "-e", "system('gcc -c x.c; :')"],
        vec!["xargs", "-a", "words", "gcc"],
        vec!["env", "A=b", "gcc", "-c", "x.c"],
        vec!["env", "-u", "LD_PRELOAD", "gcc", "-c", "x.c"],
    ] {
        fs::write(site.path("work/words"), "-c x.c\n").unwrap();
        let record = client_of(&site, site.command(line[0]).args(&line[1..]));
        assert_eq!(record.argv[0], "gcc", "{line:?}");
    }
}

#[test]
fn a_cleared_environment_gets_only_our_variables_back() {
    let site = Site::new();
    let gcc = site.gcc();
    for line in [vec![program("cleared")], vec![program("null_environment")], vec!["/usr/bin/env".into(), "-i".into()]]
    {
        let mut command = site.command(&line[0]);
        command.args(&line[1..]).arg(&gcc);
        if line.len() == 1 {
            command.arg("gcc");
        }
        let record = client_of(&site, command.args(["-c", "x.c"]));
        let names: Vec<&str> = record.env.keys().map(String::as_str).collect();
        assert_eq!(names, ["MPICC_PROXY_DRIVER", "MPICC_PROXY_SOCKET"]);
    }
    // Below a program that is not a compiler too.
    let shell = format!("{gcc} -c x.c");
    client_of(&site, site.command("env").args(["-i", "sh", "-c", &shell]));
}

#[test]
fn what_the_hooks_cannot_see_is_caught_in_the_compiler() {
    let site = Site::new();
    let gcc = site.gcc();
    for name in ["syscall", "static_spawn", "static_syscall"] {
        let record = client_of(&site, site.command(program(name)).args([&gcc, "argv0", "-c", "x.c"]));
        assert_eq!(record.argv[0], "argv0", "{name}");
    }
    // The test program is started by Rust's std in a process without the library.
    client_of(&site, site.command(&gcc).args(["-c", "x.c"]));
    // A spawn into another folder with a relative path.
    symlink(site.path("bin"), site.path("work/link")).unwrap();
    let mut command = site.command(program("chdir_spawn"));
    run(command.args(["./gcc", &site.text("bin"), "gcc", "-c", "x.c"]));
    let records = site.records();
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].who, CLIENT);
    assert_eq!(records[0].env["MPICC_PROXY_DRIVER"], format!("{}/./gcc", site.text("bin")));
}

#[test]
fn relative_paths_become_absolute() {
    let site = Site::new();
    for (name, file) in [("execve", "../bin/gcc"), ("execvp", "../bin/gcc"), ("posix_spawn", "../bin/gcc")] {
        run(site.command(program(name)).args([file, "gcc", "-c", "x.c"]));
        let driver = site.records()[0].env["MPICC_PROXY_DRIVER"].clone();
        assert_eq!(driver, format!("{}/../bin/gcc", site.text("work")));
    }
    // An empty entry in PATH is the working folder.
    site.compiler("work/cc");
    run(site.command(program("execvp")).env("PATH", ":/nonexistent").args(["cc", "cc", "-c", "x.c"]));
    assert_eq!(site.records()[0].env["MPICC_PROXY_DRIVER"], format!("{}/cc", site.text("work")));
}

#[test]
fn path_is_searched_as_natively() {
    let site = Site::new();
    // A folder named gcc, a file that is not executable, a folder that is a file, one that does not exist.
    fs::create_dir_all(site.path("a/gcc")).unwrap();
    fs::create_dir(site.path("b")).unwrap();
    fs::write(site.path("b/gcc"), "not executable").unwrap();
    let path = ["a", "b", "b/gcc", "missing", "bin"].map(|name| site.text(name)).join(":") + ":/usr/bin:/bin";
    let call = "import subprocess\nsubprocess.check_call(['gcc', '-c', 'x.c'])";
    for line in [
        vec![program("execvp").to_str().unwrap().to_owned(), "gcc".into(), "gcc".into(), "-c".into(), "x.c".into()],
        vec![
            program("posix_spawnp").to_str().unwrap().to_owned(),
            "gcc".into(),
            "gcc".into(),
            "-c".into(),
            "x.c".into(),
        ],
        ["/usr/bin/python3", "-c", call].map(str::to_owned).to_vec(),
        ["/bin/sh", "-c", "exec gcc -c x.c"].map(str::to_owned).to_vec(),
        ["/usr/bin/env", "gcc", "-c", "x.c"].map(str::to_owned).to_vec(),
    ] {
        client_of(&site, site.command(&line[0]).args(&line[1..]).env("PATH", &path));
    }
}

#[test]
fn failing_starts_fail_as_natively() {
    let site = Site::new();
    fs::create_dir(site.path("folder")).unwrap();
    fs::create_dir(site.path("folder/gcc")).unwrap();
    fs::write(site.path("work/gcc"), "not executable").unwrap();
    fs::write(site.path("work/empty-gcc"), "").unwrap();
    site.script("work/broken-gcc", "#!/nonexistent/interpreter\n");
    site.script("work/text-gcc", "exit 3\n");
    symlink("loop-gcc", site.path("work/loop-gcc")).unwrap();
    let long = "x".repeat(300) + "-gcc";
    let deep = "/x".repeat(2500) + "/gcc";
    let files = [
        "",
        "NULL",
        "gcc",
        "./gcc",
        "missing/gcc",
        "x.c/gcc",
        "/gcc",
        "../folder/gcc",
        "../folder/",
        "./empty-gcc",
        "./broken-gcc",
        "./text-gcc",
        "./loop-gcc",
        &long,
        &deep,
    ];
    let names = [
        "execve",
        "execv",
        "execvp",
        "execvpe",
        "execl",
        "execle",
        "execlp",
        "execveat",
        "fexecve",
        "posix_spawn",
        "posix_spawnp",
    ];
    let path = format!("{}:{}:/nonexistent", site.text("folder"), site.text("work/x.c"));
    for name in names {
        for file in files {
            let arguments = [file, "gcc", "-c", "x.c"];
            let native = run(site.plain(program(name)).env("PATH", &path).args(arguments));
            let ours = run(site.command(program(name)).env("PATH", &path).args(arguments));
            assert_eq!(ours, native, "{name} {file}");
        }
    }
    assert_eq!(site.records(), []);
    let call = "import subprocess\nsubprocess.check_call(['gcc', '-c', 'x.c'])";
    for line in [["/bin/sh", "-c", "gcc -c x.c"], ["/usr/bin/env", "gcc", "-c"], ["/usr/bin/python3", "-c", call]] {
        let native = run(site.plain(line[0]).env("PATH", &path).args(&line[1..]));
        let ours = run(site.command(line[0]).env("PATH", &path).args(&line[1..]));
        assert_eq!(ours, native, "{line:?}");
        assert_ne!(native.status, 0);
    }
}

#[test]
fn scripts_and_masquerades_are_left_alone() {
    let site = Site::new();
    // ccache as a symlink under a compiler's name.
    site.compiler("bin/ccache");
    fs::create_dir(site.path("masquerade")).unwrap();
    symlink("../bin/ccache", site.path("masquerade/gcc")).unwrap();
    let path = format!("{}:{}", site.text("masquerade"), site.text("bin"));
    for name in ["execvp", "posix_spawnp", "execlp"] {
        let mut command = site.command(program(name));
        real_of(&site, "ccache", command.env("PATH", &path).args(["gcc", "gcc", "-c", "x.c"]));
    }
    real_of(&site, "ccache", site.command(site.path("masquerade/gcc")).args(["-c", "x.c"]));
    // Spack's wrapper is a script; the compiler it executes is not.
    fs::create_dir(site.path("wrapper")).unwrap();
    site.script("wrapper/gcc", &format!("#!/bin/sh\nunset LD_PRELOAD\nexec {} \"$@\"\n", site.gcc()));
    for name in ["execve", "posix_spawn", "syscall"] {
        client_of(&site, site.command(program(name)).args([&site.text("wrapper/gcc"), "gcc", "-c", "x.c"]));
    }
    // The compiler proper and the tools have names of their own.
    for name in ["cc1", "as", "ld", "collect2", "lto-wrapper", "gcc-ar"] {
        let file = format!("bin/{name}");
        site.compiler(&file);
        real_of(&site, name, site.command(program("execve")).args([&site.text(&file), name]));
    }
    // A symlink between two drivers' names is a driver.
    symlink("gcc", site.path("bin/x86_64-linux-gnu-g++-12")).unwrap();
    run(site.command(program("execvp")).args(["x86_64-linux-gnu-g++-12", "g++", "-c", "x.c"]));
    let records = site.records();
    assert_eq!(records[0].who, CLIENT);
    assert_eq!(records[0].env["MPICC_PROXY_DRIVER"], site.text("bin/x86_64-linux-gnu-g++-12"));
}

#[test]
fn without_a_dispatcher_nothing_happens() {
    let site = Site::new();
    let arguments = [site.gcc(), "gcc".into(), "-c".into(), "x.c".into()];
    fs::remove_file(site.path("socket")).unwrap();
    let record = real_of(&site, "gcc", site.command(program("execve")).args(&arguments));
    assert_eq!(record.env["LD_PRELOAD"], site.text("lib/libmpicc-proxy.so"));
    // Somebody wants to know why.
    run(site.command(program("execve")).env("MPICC_PROXY_LOG", site.path("log")).args(&arguments));
    assert_eq!(site.records()[0].who, CLIENT);
    run(site.command(program("execve")).env("MPICC_PROXY_FALLBACK", "forbid").args(&arguments));
    assert_eq!(site.records()[0].who, CLIENT);
    real_of(&site, "gcc", site.command(program("execve")).env("MPICC_PROXY_FALLBACK", "").args(&arguments));
    // The rule for the socket; a cleared environment does not lead elsewhere.
    fs::create_dir_all(site.path("run/mpicc-proxy")).unwrap();
    fs::write(site.path("run/mpicc-proxy/socket"), "").unwrap();
    for name in ["execve", "cleared", "syscall"] {
        let mut command = site.command(program(name));
        run(command.env_remove("MPICC_PROXY_SOCKET").env("XDG_RUNTIME_DIR", site.path("run")).args(&arguments));
        let records = site.records();
        assert_eq!(records[0].who, CLIENT, "{name}");
        let socket = records[0].env.get("MPICC_PROXY_SOCKET").cloned();
        assert_eq!(socket, (name == "cleared").then(|| site.text("run/mpicc-proxy/socket")));
    }
}

#[test]
fn without_a_client_nothing_happens() {
    let site = Site::new();
    fs::remove_file(site.path("lib/mpicc-proxy-client")).unwrap();
    for name in ["execve", "execvp", "posix_spawn", "syscall"] {
        let mut command = site.command(program(name));
        real_of(&site, "gcc", command.args([&site.gcc(), "gcc", "-c", "x.c"]));
    }
    // One that cannot be executed.
    site.script("lib/mpicc-proxy-client", "no program");
    fs::write(site.path("lib/mpicc-proxy-client"), b"\x7fELF\x02\x01\x01 but not really").unwrap();
    for name in ["execve", "execvp", "execl", "posix_spawn", "syscall"] {
        let mut command = site.command(program(name));
        real_of(&site, "gcc", command.args([&site.gcc(), "gcc", "-c", "x.c"]));
    }
    // <prefix>/lib with <prefix>/bin.
    fs::remove_file(site.path("lib/mpicc-proxy-client")).unwrap();
    fs::copy(program("static_record"), site.path("bin/mpicc-proxy-client")).unwrap();
    client_of(&site, site.command("sh").args(["-c", "gcc -c x.c"]));
}

#[test]
fn switched_off() {
    let site = Site::new();
    let arguments = [site.gcc(), "gcc".into(), "-c".into(), "x.c".into()];
    for value in ["off", "0"] {
        let record = real_of(&site, "gcc", site.command(program("execve")).env("MPICC_PROXY", value).args(&arguments));
        assert_eq!(record.env["LD_PRELOAD"], site.text("lib/libmpicc-proxy.so"));
        // Half way down the tree: the environment of the child decides, and is not touched.
        real_of(&site, "gcc", site.command("env").arg(format!("MPICC_PROXY={value}")).args(["gcc", "-c", "x.c"]));
        let line = format!("unset LD_PRELOAD; MPICC_PROXY={value} gcc -c x.c");
        let record = real_of(&site, "gcc", site.command("sh").args(["-c", &line]));
        assert_eq!(record.env.get("LD_PRELOAD"), None);
    }
    client_of(&site, site.command(program("execve")).env("MPICC_PROXY", "on").args(&arguments));
}

/// What a program below `sh` finds in `LD_PRELOAD`.
fn preload_below(site: &Site, preload: &str, line: &str) -> String {
    site.compiler("bin/witness");
    let mut command = site.command("sh");
    let outcome = run(command.env("LD_PRELOAD", preload).args(["-c", line]));
    assert_eq!((outcome.status, outcome.stderr.as_str()), (0, ""));
    let records = site.records();
    assert_eq!(records[0].who, "witness");
    records[0].env.get("LD_PRELOAD").cloned().unwrap_or_default()
}

#[test]
fn foreign_libraries_stay_and_keep_their_order() {
    let site = Site::new();
    let ours = site.text("lib/libmpicc-proxy.so");
    let foreign = program("libguard.so").to_str().unwrap().to_owned();
    for preload in [format!("{foreign}:{ours}"), format!("{ours} {foreign}"), ours.clone()] {
        assert_eq!(preload_below(&site, &preload, "witness"), preload, "complete, so untouched");
    }
    let line = format!("LD_PRELOAD={foreign} witness");
    assert_eq!(preload_below(&site, &ours, &line), format!("{foreign}:{ours}"), "ours appended");
    assert_eq!(preload_below(&site, &ours, "LD_PRELOAD= witness"), ours);
    assert_eq!(preload_below(&site, &ours, "unset LD_PRELOAD; witness"), ours);
    // The client runs without us, and with the others.
    let mut command = site.command("sh");
    run(command.env("LD_PRELOAD", format!("{foreign} {ours}")).args(["-c", "gcc -c x.c"]));
    let records = site.records();
    assert_eq!((records[0].who.as_str(), &records[0].env["LD_PRELOAD"]), (CLIENT, &foreign));
}

#[test]
fn a_relative_library_becomes_absolute() {
    let site = Site::new();
    let absolute = format!("{}/../lib/libmpicc-proxy.so", site.text("work"));
    assert_eq!(preload_below(&site, "../lib/libmpicc-proxy.so", "cd / && witness"), absolute);
    let mut command = site.command("sh");
    client_of(&site, command.env("LD_PRELOAD", "../lib/libmpicc-proxy.so").args(["-c", "gcc -c x.c"]));
    // Found by the dynamic linker.
    let mut command = site.command("sh");
    command.env("LD_PRELOAD", "libmpicc-proxy.so").env("LD_LIBRARY_PATH", site.path("lib"));
    client_of(&site, command.args(["-c", "cd . && gcc -c x.c"]));
}

#[test]
fn environments_of_any_size() {
    let site = Site::new();
    for count in [0, 500, 511, 512, 4000, 5000, 20_000] {
        let mut command = site.command(program("large"));
        let record = client_of(&site, command.env("COUNT", count.to_string()).args([&site.gcc(), "gcc", "-c", "x.c"]));
        assert_eq!(record.env.len(), count + 2);
        assert!(count == 0 || record.env[&format!("VARIABLE_{}", count - 1)] == (count - 1).to_string());
    }
}

#[test]
fn nothing_is_allocated_in_a_vfork_child() {
    let site = Site::new();
    let preload = format!("{} {}", site.text("lib/libmpicc-proxy.so"), program("libguard.so").display());
    let folder = program("libguard.so").parent().unwrap().to_owned();
    let mut command = site.plain(program("vfork"));
    let outcome = run(command.env("LD_LIBRARY_PATH", &folder).args(["malloc", "x", "x"]));
    assert!(outcome.stderr.contains("allocation in a vfork child"), "the guard guards: {outcome:?}");
    compile_needing(&site, "libasan.so.8", "needing");
    site.script("bin/script", &format!("#!{}\n", site.text("bin/needing")));
    for how in ["execve", "execv", "execvp", "execvpe", "execl", "execlp", "cleared"] {
        for (target, who) in [
            (site.gcc(), CLIENT),
            ("/usr/bin/env".into(), ""),
            ("/missing/gcc".into(), ""),
            (site.text("bin/needing"), "needing"),
            (site.text("bin/script"), "needing"),
        ] {
            let mut command = site.command(program("vfork"));
            command.env("LD_PRELOAD", &preload).env("LD_LIBRARY_PATH", &folder);
            let outcome = run(command.args([how, &target, "gcc", "-u", "x"]));
            let expected = if target.starts_with("/missing") { 7 } else { 0 };
            assert_eq!((outcome.status, outcome.stderr.as_str()), (expected, ""), "{how} {target}");
            let records = site.records();
            assert_eq!(records.first().map_or("", |record| record.who.as_str()), who, "{how} {target}");
            if who == "needing" {
                let others = records[0].env.get("LD_PRELOAD").is_none_or(|value| !value.contains("mpicc-proxy"));
                assert!(others, "{how} {target}");
            }
        }
    }
}

/// A dynamic linker that cannot load us would complain on stderr. Its name gives it away; here it is ours under another
/// name, so that the program can tell what it was given.
#[test]
fn programs_of_another_c_library_do_not_see_us() {
    let site = Site::new();
    let sh = fs::read("/bin/sh").unwrap();
    let name = b"/ld-linux-";
    let at = sh.windows(name.len()).position(|window| window == name).unwrap();
    let start = sh[..at].iter().rposition(|&byte| byte == 0).unwrap() + 1;
    let end = at + sh[at..].iter().position(|&byte| byte == 0).unwrap();
    symlink(std::str::from_utf8(&sh[start..end]).unwrap(), site.path("ld-other.so.1")).unwrap();
    let linker = format!("-Wl,--dynamic-linker={}", site.text("ld-other.so.1"));
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/preload/record.c");
    let gcc = run(Command::new("gcc").args(["-w", source, &linker, "-o"]).arg(site.path("bin/helper")));
    assert_eq!(gcc.status, 0, "{}", gcc.stderr);
    for (name, file) in
        [("execve", site.text("bin/helper")), ("execvp", "helper".into()), ("cleared", site.text("bin/helper"))]
    {
        let record = real_of(&site, "helper", site.command(program(name)).args([&file, "helper"]));
        assert_eq!(record.env.get("LD_PRELOAD"), None, "{name}");
    }
    // A compiler for another machine is a compiler.
    fs::rename(site.path("bin/helper"), site.path("bin/gcc")).unwrap();
    client_of(&site, site.command(program("execve")).args([&site.gcc(), "gcc", "-c", "x.c"]));
}

/// `record.c` at `out`, compiled with more options. gcc brings its runtimes along; one that is missing is a failure.
fn compile(site: &Site, options: &[&str], out: &str) {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/preload/record.c");
    let gcc = run(Command::new("gcc").args(["-w", source]).args(options).arg("-o").arg(site.path(out)));
    assert_eq!(gcc.status, 0, "{options:?}: {}", gcc.stderr);
}

/// A library without content that is called `name`, and a program at `bin/<program>` that needs it first.
fn compile_needing(site: &Site, name: &str, program: &str) {
    let (library, folder) = (site.text(&format!("lib/{name}")), site.text("lib"));
    let soname = format!("-Wl,-soname,{name}");
    let gcc = run(Command::new("gcc").args(["-shared", "-xc", "/dev/null", &soname, "-o", &library]));
    assert_eq!(gcc.status, 0, "{}", gcc.stderr);
    let rpath = format!("-Wl,-rpath,{folder}");
    compile(site, &["-Wl,--no-as-needed", &library, &rpath], &format!("bin/{program}"));
}

/// AddressSanitizer's runtime would refuse to start behind us.
#[test]
fn sanitized_programs_run_without_us() {
    let site = Site::new();
    compile(&site, &["-fsanitize=address"], "bin/asan");
    let file = site.text("bin/asan");
    // Leak detection at the end needs ptrace, which containers may forbid.
    let quiet = "detect_leaks=0";
    // It does refuse; else this test is of no use.
    let refused = run(site.command(&file).env("ASAN_OPTIONS", quiet));
    assert!(refused.status != 0 && refused.stderr.contains("does not come first"), "{refused:?}");
    fs::write(site.path("work/direct.mk"), "all:\n\t@../bin/asan word\n").unwrap();
    fs::write(site.path("work/shell.mk"), "all:\n\t@true && ../bin/asan word; exit $$?\n").unwrap();
    fs::write(site.path("work/path.mk"), "export PATH := ../bin:$(PATH)\nall:\n\t@asan word\n").unwrap();
    site.script("work/script", &format!("#!{file} word\n"));
    site.script("work/script-of-script", "#!./script\n");
    symlink("../bin/asan", site.path("work/link")).unwrap();
    let absolute = format!("{file} word");
    let mut lines: Vec<Vec<String>> = [
        vec!["sh", "-c", "../bin/asan word"],
        vec!["sh", "-c", "asan word"],
        vec!["sh", "-c", "./link word; exit $?"],
        vec!["bash", "-c", &absolute],
        vec!["sh", "-c", "./script"],
        vec!["sh", "-c", "./script-of-script"],
        vec!["sh", "-c", "unset LD_PRELOAD; asan word"],
        vec!["make", "-f", "direct.mk"],
        vec!["make", "-f", "shell.mk"],
        vec!["make", "-f", "path.mk"],
        vec!["python3", "-c", "import subprocess\nsubprocess.check_call(['asan', 'word'])"],
        vec!["env", "asan", "word"],
    ]
    .iter()
    .map(|line| line.iter().map(|&word| word.to_owned()).collect())
    .collect();
    for name in ["execve", "execv", "execl", "execle", "execveat", "fexecve", "posix_spawn", "posix_spawnp", "system"] {
        let words = if name == "system" { ["", &file, "word", "more"] } else { [&file, "asan", "word", "more"] };
        let launcher = program(name).to_str().unwrap().to_owned();
        lines.push([launcher].into_iter().chain(words.map(str::to_owned)).collect());
    }
    for name in ["execvp", "execvpe", "execlp", "posix_spawnp"] {
        let launcher = program(name).to_str().unwrap().to_owned();
        lines.push([launcher].into_iter().chain(["asan", "asan", "word", "more"].map(str::to_owned)).collect());
    }
    for line in &lines {
        let native = real_of(&site, "asan", site.plain(&line[0]).env("ASAN_OPTIONS", quiet).args(&line[1..]));
        let mut ours = real_of(&site, "asan", site.command(&line[0]).env("ASAN_OPTIONS", quiet).args(&line[1..]));
        assert_eq!(ours.env.remove("MPICC_PROXY_SOCKET"), Some(site.text("socket")), "{line:?}");
        assert_eq!(ours, native, "{line:?}");
    }
    // An instrumented compiler is not for a client.
    site.script("work/compile.mk", "all:\n\t@gcc -c x.c\n");
    fs::rename(site.path("bin/asan"), site.path("bin/gcc")).unwrap();
    let mut command = site.command("make");
    real_of(&site, "gcc", command.env("ASAN_OPTIONS", quiet).args(["-f", "compile.mk"]));
}

#[test]
fn a_sanitizer_is_known_by_the_name_of_its_runtime() {
    let site = Site::new();
    let ours = site.text("lib/libmpicc-proxy.so");
    for (name, stays) in [
        ("libasan.so.8", false),
        ("libtsan.so.2", false),
        ("libhwasan.so.0", false),
        ("libclang_rt.asan-x86_64.so", false),
        ("libclang_rt.tsan-x86_64.so", false),
        ("libclang_rt.hwasan_aliases-x86_64.so", false),
        ("libubsan.so.1", true),
        ("libclang_rt.ubsan_standalone-x86_64.so", true),
    ] {
        compile_needing(&site, name, "needing");
        for launcher in ["execve", "posix_spawnp", "cleared"] {
            let mut command = site.command(program(launcher));
            let record = real_of(&site, "needing", command.args([&site.text("bin/needing"), "needing"]));
            assert_eq!(record.env.get("LD_PRELOAD"), stays.then_some(&ours), "{name} {launcher}");
        }
    }
    // These work behind us.
    for options in [
        ["-fsanitize=address", "-static-libasan"].as_slice(),
        &["-fsanitize=thread", "-static-libtsan"],
        &["-fsanitize=leak"],
        &["-fsanitize=undefined"],
    ] {
        compile(&site, options, "bin/behind");
        let mut command = site.command("sh");
        command.env("ASAN_OPTIONS", "detect_leaks=0").env("LSAN_OPTIONS", "detect_leaks=0");
        let record = real_of(&site, "behind", command.args(["-c", "behind"]));
        assert_eq!(record.env.get("LD_PRELOAD"), Some(&ours), "{options:?}");
    }
}

#[test]
fn a_preloaded_sanitizer_runs_without_us() {
    let site = Site::new();
    let ours = site.text("lib/libmpicc-proxy.so");
    let found = run(Command::new("gcc").arg("-print-file-name=libasan.so"));
    let runtime = found.stdout.trim();
    assert!(runtime.starts_with('/'), "gcc has no libasan.so");
    for line in ["LD_PRELOAD=$LD_PRELOAD:$R witness", "LD_PRELOAD=\"$R $LD_PRELOAD\" witness", "LD_PRELOAD=$R witness"]
    {
        let line = format!("R={runtime}; export ASAN_OPTIONS=detect_leaks=0; {line}");
        assert_eq!(preload_below(&site, &ours, &line), runtime, "{line}");
    }
}

#[test]
fn ordinary_programs_run_as_natively() {
    let site = Site::new();
    for line in
        [vec!["true"], vec!["false"], vec!["sh", "-c", "exit 7"], vec!["sh", "-c", "kill -9 $$"], vec!["ls", "/"]]
    {
        let native: Outcome = run(site.plain(line[0]).args(&line[1..]));
        assert_eq!(run(site.command(line[0]).args(&line[1..])), native, "{line:?}");
    }
}
