#include "launch.h"

int main(int argc, char **argv) {
    (void)argc;
    char line[4096] = "";
    for (int i = 2; i < argc; i++) strcat(strcat(line, argv[i]), " ");
    FILE *pipe = popen(line, "r");
    return pipe ? WEXITSTATUS(pclose(pipe)) : returned();
}
