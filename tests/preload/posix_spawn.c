#include "launch.h"

int main(int argc, char **argv) {
    (void)argc;
    pid_t pid = 0;
    int error = posix_spawn(&pid, argv[1], NULL, NULL, argv + 2, environ);
    return spawned(error, pid);
}
