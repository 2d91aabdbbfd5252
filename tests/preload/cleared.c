#include "launch.h"

int main(int argc, char **argv) {
    (void)argc;
    /* A tool that empties the environment, like Spack or env -i. */
    char *none[] = {NULL};
    execve(argv[1], argv + 2, none);
    return returned();
}
