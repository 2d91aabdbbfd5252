/* The exec hooks in a vfork child, which shares the parent's memory: any use of an allocator aborts (guard.c). argv[1] is
 * the function, the rest as elsewhere. */
#include "launch.h"

void guard(int on);

int main(int argc, char **argv) {
    (void)argc;
    char *none[] = {"LD_PRELOAD=", NULL};
    const char *how = argv[1];
    pid_t pid = vfork();
    if (pid == 0) {
        guard(1);
        if (!strcmp(how, "execve")) execve(argv[2], argv + 3, environ);
        if (!strcmp(how, "execv")) execv(argv[2], argv + 3);
        if (!strcmp(how, "execvp")) execvp(argv[2], argv + 3);
        if (!strcmp(how, "execvpe")) execvpe(argv[2], argv + 3, environ);
        if (!strcmp(how, "execl")) execl(argv[2], argv[3], argv[4], argv[5], (char *)NULL);
        if (!strcmp(how, "execlp")) execlp(argv[2], argv[3], argv[4], argv[5], (char *)NULL);
        if (!strcmp(how, "cleared")) execve(argv[2], argv + 3, none);
        if (!strcmp(how, "malloc")) *(void *volatile *)&environ = malloc(1);
        guard(0);
        _exit(7);
    }
    guard(0);
    return spawned(0, pid);
}
