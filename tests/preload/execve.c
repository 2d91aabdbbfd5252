#include "launch.h"

int main(int argc, char **argv) {
    (void)argc;
    if (!strcmp(argv[1], "NULL")) argv[1] = NULL;
    execve(argv[1], argv + 2, environ);
    return returned();
}
