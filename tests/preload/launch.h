/* Each program here calls one libc function: argv[1] is the file to execute, the rest its arguments from argv[0] on.
 * An exec that returns prints its errno, so that a failure can be compared with the native one. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static inline int returned(void) {
    printf("errno %d\n", errno);
    return 9;
}

/* For the spawn family: the error, or the child's exit status. */
static inline int spawned(int error, pid_t pid) {
    int status = 0;
    if (error) {
        printf("error %d\n", error);
        return 9;
    }
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 8;
}
