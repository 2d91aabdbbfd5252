#include "launch.h"

int main(int argc, char **argv) {
    (void)argc;
    execveat(AT_FDCWD, argv[1], argv + 2, environ, 0);
    return returned();
}
