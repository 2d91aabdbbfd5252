// A "compiler" that makes one libc call of a group on a few paths and says what came of it: what a rank answers must be
// what the head's file system answers. `gcc -c x.c -DCALL=<group>`; the folder is the case's. Built by `differential`
// under the name gcc, outside of the folders that the ranks cannot see.
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <unistd.h>
#include <utime.h>

static const char *const PATHS[] = {"h.h", "./h.h", "missing", "missing/x", "h.h/", "h.h/x", "sub", "sub/", "sub/.", "sub/../h.h",
                                    "link", "link/k", "dangling", "loop", "/", "", 0};

// The function of that very name: what the headers make of it is of no interest here.
static void *call(const char *name) {
    void *found = dlsym(RTLD_DEFAULT, name);
    if (!found) found = dlvsym(RTLD_DEFAULT, name, "GLIBC_2.2.5");
    if (!found) fprintf(stderr, "no %s\n", name), exit(9);
    return found;
}

static void say(const char *what, const char *on, long result) {
    printf("%s %s: %ld %s\n", what, on, result < 0 ? -1 : result, result < 0 ? strerrorname_np(errno) : "");
}

// Inode numbers are others each time the folder is made; which names share one is always the same.
static int identity(dev_t dev, ino_t ino) {
    static struct { dev_t dev; ino_t ino; } known[1000];
    static int count;
    for (int i = 0; i < count; i++)
        if (known[i].dev == dev && known[i].ino == ino) return i;
    known[count].dev = dev;
    known[count].ino = ino;
    return count++;
}

static void show(const struct stat *s) {
    int regular = S_ISREG(s->st_mode);
    printf("  #%d %o %u %u %lu %ld %ld.%09ld\n", identity(s->st_dev, s->st_ino), s->st_mode, s->st_uid, s->st_gid,
           regular ? (long)s->st_nlink : 0, S_ISDIR(s->st_mode) ? 0 : (long)s->st_size,
           regular ? (long)s->st_mtim.tv_sec : 0, regular ? s->st_mtim.tv_nsec : 0);
}

static void say_fd(const char *what, const char *on, int fd) {
    say(what, on, fd < 0 ? -1 : 0);
    if (fd < 0) return;
    struct stat s;
    char text[64] = "", name[64], real[PATH_MAX] = "";
    if (!fstat(fd, &s) && !S_ISDIR(s.st_mode) && read(fd, text, sizeof text - 1) > 0) printf("  %s", text);
    if (!fstat(fd, &s)) show(&s);
    sprintf(name, "/proc/self/fd/%d", fd);
    ssize_t bytes = readlink(name, real, sizeof real);
    printf("  %.*s\n", (int)bytes, real);
    int copy = dup(fd);
    if (!fstat(copy, &s)) show(&s);
    close(copy);
    close(fd);
}

static void write_to(int fd) {
    if (fd < 0 || write(fd, "written\n", 8) != 8) perror("write");
    if (fd >= 0) close(fd);
}

static void opens(void) {
    static const char *const names[] = {"open", "open64", "__open_2", "__open64_2", 0};
    static const char *const at_names[] = {"openat", "openat64", "__openat_2", "__openat64_2", 0};
    for (const char *const *path = PATHS; *path; path++) {
        for (const char *const *n = names; *n; n++) say_fd(*n, *path, ((int (*)(const char *, int, ...))call(*n))(*path, O_RDONLY));
        for (const char *const *n = at_names; *n; n++)
            say_fd(*n, *path, ((int (*)(int, const char *, int, ...))call(*n))(AT_FDCWD, *path, O_RDONLY | O_CLOEXEC));
        for (int n = 0; n < 2; n++) {
            FILE *f = n ? fopen64(*path, "re") : fopen(*path, "r");
            say("fopen", *path, f ? 0 : -1);
            if (f) fclose(f);
        }
        say_fd("open O_DIRECTORY", *path, open(*path, O_RDONLY | O_DIRECTORY));
        say_fd("open O_NOFOLLOW", *path, open(*path, O_RDONLY | O_NOFOLLOW));
    }
    for (const char *const *path = PATHS; *path; path++) say("open O_WRONLY", *path, open(*path, O_WRONLY) < 0 ? -1 : 0);
}

static void writes(void) {
    write_to(open("a.o", O_WRONLY | O_CREAT | O_TRUNC, 0666));
    write_to(open64("b.o", O_WRONLY | O_CREAT | O_EXCL, 0600));
    write_to(creat("sub/c.o", 0644));
    write_to(openat(AT_FDCWD, "d.o", O_RDWR | O_CREAT, 0751));
    write_to(open("old.o", O_WRONLY | O_APPEND));
    say("open O_EXCL", "a.o", open("a.o", O_WRONLY | O_CREAT | O_EXCL, 0666));
    say("open O_EXCL", "dangling", open("dangling", O_WRONLY | O_CREAT | O_EXCL, 0666));
    say("open O_NOFOLLOW", "link", open("link", O_WRONLY | O_NOFOLLOW));
    say("creat", "missing/x", creat("missing/x", 0666));
    FILE *f = fopen("e.o", "w");
    fputs("stream\n", f);
    f = freopen("f.o", "w", f);
    fputs("other stream\n", f);
    fclose(f);
    say_fd("open", "a.o", open("a.o", O_RDONLY | O_DIRECTORY));
    char text[32] = "";
    int fd = open("old.o", O_RDONLY);
    printf("%ld %s", (long)read(fd, text, 31), text);
    printf("%d %d\n", truncate("old2.o", 2), truncate("a.o", 100));
    fd = open("b.o", O_RDWR);
    printf("%d\n", ftruncate(fd, 3));
    say("truncate", "missing", truncate("missing", 0));
}

static void stats(void) {
    struct stat s;
    struct statx x;
    for (const char *const *path = PATHS; *path; path++) {
        static const char *const two[] = {"stat", "stat64", "lstat", "lstat64", 0};
        for (const char *const *n = two; *n; n++) {
            int result = ((int (*)(const char *, struct stat *))call(*n))(*path, &s);
            say(*n, *path, result);
            if (!result) show(&s);
        }
        static const char *const old[] = {"__xstat", "__xstat64", "__lxstat", "__lxstat64", 0};
        for (const char *const *n = old; *n; n++) {
            int result = ((int (*)(int, const char *, struct stat *))call(*n))(1, *path, &s);
            say(*n, *path, result);
            if (!result) show(&s);
        }
        for (int flags = 0; flags < 2; flags++) {
            int how = flags ? AT_SYMLINK_NOFOLLOW : 0;
            static const char *const at[] = {"fstatat", "fstatat64", 0};
            for (const char *const *n = at; *n; n++) {
                int result = ((int (*)(int, const char *, struct stat *, int))call(*n))(AT_FDCWD, *path, &s, how);
                say(*n, *path, result);
                if (!result) show(&s);
            }
            int result = statx(AT_FDCWD, *path, how, STATX_BASIC_STATS, &x);
            say("statx", *path, result);
            if (!result) printf("  #%d %o\n", identity(makedev(x.stx_dev_major, x.stx_dev_minor), x.stx_ino), x.stx_mode);
        }
        for (int how = 0; how < 8; how++) {
            static const char *const names[] = {"access", "eaccess", "euidaccess", 0};
            for (const char *const *n = names; *n; n++) say(*n, *path, ((int (*)(const char *, int))call(*n))(*path, how));
            say("faccessat", *path, faccessat(AT_FDCWD, *path, how, 0));
        }
    }
}

static void names(void) {
    char text[PATH_MAX];
    for (const char *const *path = PATHS; *path; path++) {
        long bytes = readlink(*path, text, sizeof text);
        say("readlink", *path, bytes);
        if (bytes > 0) printf("  %.*s\n", (int)bytes, text);
        bytes = readlinkat(AT_FDCWD, *path, text, 3);
        say("readlinkat", *path, bytes);
        bytes = ((ssize_t(*)(const char *, char *, size_t, size_t))call("__readlink_chk"))(*path, text, sizeof text, sizeof text);
        say("__readlink_chk", *path, bytes);
        char *real = realpath(*path, 0);
        say("realpath", *path, real ? 0 : -1);
        if (real) puts(real);
        real = realpath(*path, text);
        if (real) puts(real);
        real = canonicalize_file_name(*path);
        if (real) puts(real);
    }
    puts(getcwd(text, sizeof text) ? text : "none");
    puts(getcwd(text, 3) ? text : "none");
    puts(get_current_dir_name());
    say("chdir", "missing", chdir("missing"));
    say("chdir", "h.h", chdir("h.h"));
    say("chdir", "link", chdir("link"));
    puts(getcwd(0, 0));
    say_fd("open", "k", open("k", O_RDONLY));
    say_fd("open", "../h.h", open("../h.h", O_RDONLY));
    int fd = open("..", O_RDONLY | O_DIRECTORY);
    say("fchdir", "..", fchdir(fd));
    puts(getcwd(0, 0));
}

static void list(DIR *dir) {
    if (!dir) {
        say("opendir", "", -1);
        return;
    }
    struct stat s;
    if (!fstat(dirfd(dir), &s)) show(&s);
    long third = 0;
    int count = 0;
    struct dirent *one;
    while ((one = readdir(dir))) {
        int same = !fstatat(dirfd(dir), one->d_name, &s, AT_SYMLINK_NOFOLLOW) && s.st_ino == one->d_ino;
        printf(" %d %s %s\n", one->d_type, one->d_name, same ? "" : "with another inode");
        if (++count == 2) third = telldir(dir);
    }
    rewinddir(dir);
    if ((one = readdir(dir))) printf(" first %s\n", one->d_name);
    if (count > 2) {
        seekdir(dir, third);
        printf(" third %s\n", ((struct dirent * (*)(DIR *)) call("readdir64"))(dir)->d_name);
    }
    struct dirent room, *found;
    while (!((int (*)(DIR *, struct dirent *, struct dirent **))call("readdir_r"))(dir, &room, &found) && found) printf(" also %s\n", room.d_name);
    printf(" %d\n", closedir(dir));
}

static void folders(void) {
    for (const char *const *path = PATHS; *path; path++)
        if (strcmp(*path, "/")) printf("%s\n", *path), list(opendir(*path));
    list(opendir("many"));
    int fd = open("many", O_RDONLY | O_DIRECTORY);
    say("fstatat", "f7", faccessat(fd, "f7", R_OK, 0));
    say("fstatat", "f700", faccessat(fd, "f700", R_OK, 0));
    say_fd("openat", "../h.h", openat(fd, "../h.h", O_RDONLY));
    list(fdopendir(fd));
}

// Changes of names. The order of new names is any; they are not listed.
static void changes(void) {
    say("unlink", "old.o", unlink("old.o"));
    say("unlink", "old.o", unlink("old.o"));
    say("unlink", "sub", unlink("sub"));
    say("unlink", "link", unlink("link"));
    say("remove", "empty", remove("empty"));
    say("rmdir", "many", rmdir("many"));
    say("rmdir", "h.h", rmdir("h.h"));
    say("mkdir", "new", mkdir("new", 0777));
    say("mkdir", "new", mkdir("new", 0777));
    say("mkdir", "missing/x", mkdir("missing/x", 0777));
    say("mkdirat", "new/a", mkdirat(AT_FDCWD, "new/a", 0700));
    write_to(open("new/a/x", O_WRONLY | O_CREAT, 0644));
    say("rmdir", "new/a", rmdir("new/a"));
    DIR *made = opendir("new/a");
    struct dirent *one;
    while ((one = readdir(made)))
        if (*one->d_name != '.') printf("%d %s\n", one->d_type, one->d_name);
    closedir(made);
    say("unlinkat", "new/a/x", unlinkat(AT_FDCWD, "new/a/x", 0));
    say("unlinkat", "new/a", unlinkat(AT_FDCWD, "new/a", AT_REMOVEDIR));
    write_to(open("new/tmp", O_WRONLY | O_CREAT, 0644));
    say("rename", "new/y", rename("new/tmp", "new/y"));
    say("rename", "missing", rename("missing", "new/z"));
    write_to(open("tmp", O_WRONLY | O_CREAT, 0640));
    say("renameat", "old2.o", renameat(AT_FDCWD, "tmp", AT_FDCWD, "old2.o"));
    say("symlink", "l1", symlink("h.h", "l1"));
    say("symlink", "l1", symlink("h.h", "l1"));
    say("symlinkat", "new/l2", symlinkat("../sub", AT_FDCWD, "new/l2"));
    char text[64] = "";
    printf("%ld %s\n", (long)readlink("l1", text, 63), text);
    say_fd("open", "l1", open("l1", O_RDONLY));
    say_fd("open", "new/l2/k", open("new/l2/k", O_RDONLY));
    char *real = realpath("new/l2/k", 0);
    puts(real ? real : "none");
    write_to(open("new/l2/through", O_WRONLY | O_CREAT, 0644));
    say("access", "sub/through", access("sub/through", R_OK));
    int fd = open("new", O_RDONLY | O_DIRECTORY);
    write_to(openat(fd, "at", O_WRONLY | O_CREAT, 0644));
    say("unlinkat", "y", unlinkat(fd, "y", 0));
    say("symlink", "gone", symlink("x", "gone"));
    say("unlink", "gone", unlink("gone"));
    write_to(open("gone", O_WRONLY | O_CREAT, 0644));
}

static void attributes(void) {
    static const struct timespec times[2] = {{1000, 5}, {2000, 7}};
    static const struct timeval coarse[2] = {{1000, 5}, {3000, 7}};
    static const struct utimbuf old = {1000, 4000};
    struct stat s;
    for (char name[] = "a.o"; *name < 'f'; ++*name) {
        int fd = open(name, O_WRONLY | O_CREAT, 0666);
        if (*name == 'a') printf("%d %d\n", chmod(name, 0640), utimensat(AT_FDCWD, name, times, 0));
        if (*name == 'b') printf("%d %d\n", fchmod(fd, 0755), futimens(fd, times));
        if (*name == 'c') printf("%d %d\n", fchmodat(AT_FDCWD, name, 0600, 0), utimes(name, coarse));
        if (*name == 'd') printf("%d\n", utime(name, &old));
        if (!stat(name, &s)) printf("%o %d\n", s.st_mode, *name < 'e' ? (int)s.st_mtime : 0);
        close(fd);
    }
    int fd = open("old.o", O_WRONLY | O_TRUNC);
    printf("%d\n", fchmod(fd, 0711));
    say("chmod", "missing", chmod("missing", 0600));
    say("utimes", "missing", utimes("missing", coarse));
}

static void temporaries(void) {
    char a[] = "tXXXXXX", b[] = "sub/tXXXXXX.s", c[] = "bad", d[] = "missing/tXXXXXX", e[] = "dXXXXXX";
    int fd = mkstemp(a);
    say("mkstemp", "", fd < 0);
    write_to(fd);
    say("rename", "from-temporary", rename(a, "from-temporary"));
    fd = mkostemps(b, 2, O_CLOEXEC);
    say("mkostemps", "", fd < 0);
    write_to(fd);
    say("rename", "from-other", rename(b, "from-other"));
    say("mkstemp", c, mkstemp(c));
    say("mkstemps", "missing", mkstemps(d, 0));
    say("mkdtemp", "", !mkdtemp(e));
    say("access", "", access(e, X_OK));
    say("rmdir", "", rmdir(e));
}

int main(int argc, char **argv) {
    static const struct { const char *name; void (*run)(void); } groups[] = {
        {"opens", opens}, {"writes", writes}, {"stats", stats}, {"names", names}, {"folders", folders},
        {"changes", changes}, {"attributes", attributes}, {"temporaries", temporaries},
    };
    for (int i = 1; i < argc; i++)
        for (unsigned n = 0; n < sizeof groups / sizeof *groups; n++)
            if (!strncmp(argv[i], "-DCALL=", 7) && !strcmp(argv[i] + 7, groups[n].name)) return groups[n].run(), 0;
    // A driver is asked for the names of the programs it runs: none that exists.
    for (int i = 1; i < argc; i++)
        if (!strncmp(argv[i], "-print-prog-name=", 17)) return puts("/nonexistent"), 0;
    return 3;
}
