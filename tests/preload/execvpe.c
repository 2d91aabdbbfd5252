#include "launch.h"

int main(int argc, char **argv) {
    (void)argc;
    execvpe(argv[1], argv + 2, environ);
    return returned();
}
