#include "launch.h"

int main(int argc, char **argv) {
    (void)argc;
    /* The words are joined; glibc starts the shell without a symbol of its own. */
    char line[4096] = "";
    for (int i = 2; i < argc; i++) strcat(strcat(line, argv[i]), " ");
    return WEXITSTATUS(system(line));
}
