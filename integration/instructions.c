/* Counts the user instructions of a program from its first to its last, dynamic linker included, by single-stepping it.
 * Exact and repeatable, where hardware counters are missing in virtual machines, and where valgrind puts a library and an
 * LD_PRELOAD entry of its own into the program.
 *
 * Usage: instructions PROGRAM [ARGUMENT...]     the count goes to stdout, the program's own output is dropped */
#include <fcntl.h>
#include <stdio.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv) {
    (void)argc;
    long count = 0;
    int status = 0;
    pid_t pid = fork();
    if (pid == 0) {
        dup2(open("/dev/null", O_WRONLY), 1);
        ptrace(PTRACE_TRACEME, 0, 0, 0);
        execv(argv[1], argv + 1);
        _exit(127);
    }
    /* The first stop is behind the exec. */
    while (waitpid(pid, &status, 0) == pid && WIFSTOPPED(status)) {
        if (ptrace(PTRACE_SINGLESTEP, pid, 0, 0) != 0) {
            perror("ptrace");
            return 2;
        }
        count++;
    }
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        fprintf(stderr, "instructions: %s ended with status %#x\n", argv[1], status);
        return 2;
    }
    printf("%ld\n", count);
    return 0;
}
