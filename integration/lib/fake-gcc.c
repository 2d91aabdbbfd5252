/* A compiler that costs next to nothing, so that a machine of two cores can keep many slots busy: half a second of no CPU,
   then an object of no content. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    const char *output = NULL;
    for (int i = 1; i < argc; i++) {
        if (strncmp(argv[i], "-print-prog-name=", 17) == 0)
            return puts(argv[i] + 17) < 0;
        if (strcmp(argv[i], "-o") == 0 && i + 1 < argc)
            output = argv[i + 1];
    }
    usleep(500000);
    FILE *file = output ? fopen(output, "w") : NULL;
    return !file || fclose(file) != 0;
}
