#include "launch.h"

int main(int argc, char **argv) {
    (void)argc;
    /* The path is relative to a folder that only the child enters: argv[2] is that folder. */
    pid_t pid = 0;
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addchdir_np(&actions, argv[2]);
    int error = posix_spawn(&pid, argv[1], &actions, NULL, argv + 3, environ);
    return spawned(error, pid);
}
