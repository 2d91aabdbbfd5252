/* A compiler proper that takes its time and no CPU: writes an empty assembler file after a second. gcc -B finds it. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    const char *output = NULL;
    for (int i = 1; i + 1 < argc; i++)
        if (strcmp(argv[i], "-o") == 0)
            output = argv[i + 1];
    usleep(1000000);
    FILE *file = output ? fopen(output, "w") : NULL;
    if (!file)
        return 1;
    fputs("\t.text\n", file);
    return fclose(file) != 0;
}
