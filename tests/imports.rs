//! What the installed compilers import from libc: every function that takes a path, or makes or reads a descriptor of a
//! folder, is in the preload library's table, or in [`ELSEWHERE`] with the reason why it need not be.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// libc's functions that open, look at or change something by its name, in all spellings.
const BY_NAME: &str = "
    open open64 __open_2 __open64_2 openat openat64 __openat_2 __openat64_2 openat2 creat creat64 open_by_handle_at
    name_to_handle_at fopen fopen64 freopen freopen64 _IO_fopen opendir fdopendir readdir readdir64 readdir_r readdir64_r
    closedir rewinddir seekdir telldir dirfd getdents64 getdirentries getdirentries64 scandir scandir64 scandirat scandirat64
    stat stat64 lstat lstat64 fstat fstat64 fstatat fstatat64 statx __xstat __xstat64 __lxstat __lxstat64 __fxstat
    __fxstat64 __fxstatat __fxstatat64 __stat64_time64 __lstat64_time64 __fstat64_time64 __fstatat64_time64
    access eaccess euidaccess faccessat readlink __readlink_chk readlinkat __readlinkat_chk realpath __realpath_chk
    canonicalize_file_name getcwd __getcwd_chk get_current_dir_name getwd __getwd_chk chdir fchdir chroot pivot_root
    unlink unlinkat remove rename renameat renameat2 mkdir mkdirat rmdir symlink symlinkat link linkat
    chmod fchmod fchmodat lchmod chown fchown fchownat lchown utime utimes utimensat futimens futimes futimesat lutimes
    truncate truncate64 mknod mknodat __xmknod __xmknodat mkfifo mkfifoat
    mkstemp mkstemp64 mkostemp mkostemp64 mkstemps mkstemps64 mkostemps mkostemps64 mkdtemp mktemp tmpfile tmpfile64 tmpnam
    tmpnam_r tempnam statfs statfs64 fstatfs fstatfs64 statvfs statvfs64 fstatvfs fstatvfs64 pathconf fpathconf
    glob glob64 ftw ftw64 nftw nftw64 fts_open fts64_open wordexp
    getxattr lgetxattr fgetxattr setxattr lsetxattr fsetxattr listxattr llistxattr flistxattr removexattr lremovexattr
    fremovexattr inotify_add_watch fanotify_mark acct swapon swapoff mount umount umount2 quotactl uselib
    shm_open shm_unlink sem_open sem_unlink mq_open mq_unlink setmntent connect bind
    dlopen dlmopen popen system execve execv execvp execvpe execl execle execlp execveat fexecve posix_spawn posix_spawnp
    posix_spawn_file_actions_addopen posix_spawn_file_actions_addchdir_np posix_spawn_file_actions_addfchdir_np
    iconv_open setlocale newlocale bindtextdomain catopen tzset syscall ttyname ttyname_r tcgetattr
    getpwnam getpwuid getpwnam_r getpwuid_r getpwent getpwent_r getgrnam getgrgid getgrnam_r getgrgid_r getgrent
    setpwent setgrent getutent getutxent getservbyname getaddrinfo gethostbyname
";

/// Imported, not in the table, and all right.
const ELSEWHERE: &[(&str, &str)] = &[
    ("dlopen", "plugins: an option that loads one stays local (cause `plugin`)"),
    ("popen", "starts a shell past the exec hooks: more processes are active than were started (`library-inactive`)"),
    ("system", "as popen"),
    ("setlocale", "its files are part of the toolchain's identity"),
    ("newlocale", "as setlocale"),
    ("bindtextdomain", "a language with a catalogue stays local (cause `locale`)"),
    ("tzset", "what TZ names is part of the toolchain's identity"),
    ("setpwent", "reads nothing before getpwent, which is in the table"),
    (
        "posix_spawn_file_actions_addopen",
        "of /dev/null and of temporary files for the output of programs: see before_exec",
    ),
    ("getaddrinfo", "a host's name; connect, which is in the table, would follow"),
    ("gethostbyname", "as getaddrinfo"),
];

fn stdout(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The compilers and all that ld.so loads into them, but for libc itself.
fn objects() -> BTreeSet<PathBuf> {
    let mut programs: Vec<PathBuf> = Vec::new();
    for driver in ["gcc", "g++", "gfortran", "clang-14", "clang-19"] {
        let path = Path::new("/usr/bin").join(driver);
        programs.push(
            fs::canonicalize(&path).unwrap_or_else(|_| panic!("{driver} is missing: integration/check installs it")),
        );
    }
    for (driver, name) in [("gcc", "cc1"), ("g++", "cc1plus"), ("gfortran", "f951"), ("gcc", "as"), ("gcc", "objcopy")]
    {
        let named = stdout(Command::new(driver).arg(format!("-print-prog-name={name}")));
        let named = Path::new(named.trim());
        programs.push(fs::canonicalize(Path::new("/usr/bin").join(named)).unwrap());
    }
    let mut objects: BTreeSet<PathBuf> = programs.iter().cloned().collect();
    for program in &programs {
        for line in stdout(Command::new("ldd").arg(program)).lines() {
            let library = line.split_whitespace().nth(2).filter(|path| path.starts_with('/'));
            objects.extend(library.filter(|path| !path.contains("/libc.so")).map(PathBuf::from));
        }
    }
    objects
}

fn imports(object: &Path) -> Vec<String> {
    let listing = stdout(Command::new("nm").args(["-D", "--undefined-only"]).arg(object));
    let names = listing.lines().filter_map(|line| line.split_whitespace().last());
    names.map(|name| name.split('@').next().unwrap().to_owned()).collect()
}

#[test]
fn no_import_of_the_compilers_is_missing_from_the_table() {
    let by_name: BTreeSet<&str> = BY_NAME.split_whitespace().collect();
    let source = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/preload/src/table.rs")).unwrap();
    let rows = source.lines().filter_map(|line| line.trim_start().strip_prefix('[')?.split_once(']'));
    let table: BTreeSet<&str> = rows.flat_map(|(names, _)| names.split_whitespace()).collect();
    let mut importers: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let objects = objects();
    assert!(objects.len() > 20, "{objects:?}");
    for object in &objects {
        for name in imports(object).into_iter().filter(|name| by_name.contains(name.as_str())) {
            importers.entry(name).or_default().insert(object.file_name().unwrap().to_string_lossy().into_owned());
        }
    }
    for known in ["open", "stat", "readlink", "opendir", "symlink", "mkdir", "execv"] {
        assert!(importers.contains_key(known), "nobody imports {known}? The audit sees nothing");
    }
    let elsewhere: BTreeSet<&str> = ELSEWHERE.iter().map(|(name, _)| *name).collect();
    let missing: Vec<_> = importers
        .iter()
        .filter(|(name, _)| !table.contains(name.as_str()) && !elsewhere.contains(name.as_str()))
        .collect();
    assert!(missing.is_empty(), "neither in preload/src/table.rs nor explained: {missing:#?}");
    let needless: Vec<_> =
        elsewhere.iter().filter(|name| table.contains(**name) || !importers.contains_key(**name)).collect();
    assert!(needless.is_empty(), "explained for nothing: {needless:?}");
}
