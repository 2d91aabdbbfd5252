#include "launch.h"
int main(int argc, char **argv) {
    if (argc > 8) execl(argv[1], argv[2], argv[3], argv[4], argv[5], argv[6], argv[7], argv[8], argv[9], argv[10], (char *)NULL);
    execl(argv[1], argv[2], argv[3], argv[4], (char *)NULL);
    return returned();
}
