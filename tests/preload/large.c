#include "launch.h"

int main(int argc, char **argv) {
    (void)argc;
    /* More variables than fit into the small and the large array on the stack. */
    int count = atoi(getenv("COUNT"));
    char **list = calloc(count + 1, sizeof *list);
    for (int i = 0; i < count; i++) {
        list[i] = malloc(32);
        snprintf(list[i], 32, "VARIABLE_%d=%d", i, i);
    }
    execve(argv[1], argv + 2, list);
    return returned();
}
