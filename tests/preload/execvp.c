#include "launch.h"

int main(int argc, char **argv) {
    (void)argc;
    execvp(argv[1], argv + 2);
    return returned();
}
