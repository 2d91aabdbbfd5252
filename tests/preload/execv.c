#include "launch.h"

int main(int argc, char **argv) {
    (void)argc;
    execv(argv[1], argv + 2);
    return returned();
}
