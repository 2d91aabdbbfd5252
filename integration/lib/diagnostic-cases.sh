# diagnostic-cases.sh DIR OUT: runs every case in DIR, always from the same fresh files, and records each in
# OUT/<case>: stdout, stderr, status and the folder afterwards. Knows nothing of ranks; run with them and without.

set -uo pipefail
dir=$1
out=$2
mkdir -p "$out"

sources() {
    local name
    mkdir -p "$dir/t/include"
    cd "$dir/t" || exit 2
    echo '#pragma once
inline int used(int a) { return a; }
inline int shadow(int a) { if (a) { int a = 1; return a; } return 0; }' >include/header.h
    echo '#include "header.h"
int good(int a) { return used(a); }' >good.c
    echo '#include "header.h"
int warn(int a, int unused) { unsigned u = a; if (u < -1) return 1; return used(a); }' >warning.c
    echo '#include "header.h"
int f(void) { return undeclared; }
int g(void) { return 1 +; }
struct s { int x; };
int h(struct s *p) { return p->missing; }' >error.c
    echo '#include "header.h"
#include "does/not/exist.h"
int late;' >no-header.c
    echo '#error stop here
#warning and here' >directive.c
    for name in good warning error no-header directive; do cp "$name.c" "$name.cc"; done
    echo '#include <vector>
#include <string>
int f(std::vector<std::string> v) { return v.push_back(1, 2), v.nothing; }' >template.cc
    echo 'the object of an earlier compile' >stale.o
}

# try NAME COMMAND...
try() {
    local name=$1 status=0
    shift
    rm -rf "$dir/t"
    sources
    mkdir "$out/$name" || exit 2
    "$@" >"$out/$name/it.stdout" 2>"$out/$name/it.stderr" </dev/null || status=$?
    echo "status $status" >"$out/$name/status"
    cd "$dir" || exit 2
    mv "$dir/t" "$out/$name/t" || exit 2
}

merged() { "$@" 2>&1; }

for pair in gcc:c g++:cc; do
    driver=${pair%:*}
    suffix=${pair#*:}
    compile=("$driver" -c -g -O2 -Wall -Wextra -Wshadow -MMD -Iinclude)
    try "$driver-good" "${compile[@]}" good."$suffix"
    try "$driver-warning" "${compile[@]}" warning."$suffix" -o out.o
    try "$driver-warning-merged" merged "${compile[@]}" warning."$suffix"
    try "$driver-werror" "${compile[@]}" -Werror warning."$suffix" -o stale.o
    try "$driver-error" "${compile[@]}" error."$suffix"
    try "$driver-error-stale-object" "${compile[@]}" error."$suffix" -o stale.o
    try "$driver-error-coloured" "${compile[@]}" -fdiagnostics-color=always error."$suffix"
    try "$driver-error-json" "${compile[@]}" -fdiagnostics-format=json error."$suffix"
    try "$driver-missing-header" "${compile[@]}" no-header."$suffix"
    try "$driver-missing-source" "${compile[@]}" nowhere."$suffix"
    try "$driver-error-directive" "${compile[@]}" directive."$suffix"
    try "$driver-missing-output-folder" "${compile[@]}" good."$suffix" -o nowhere/good.o
    try "$driver-quiet-dependencies" "${compile[@]}" -MP -MF deps.d -MT target good."$suffix"
done
try g++-template-notes g++ -c -std=c++17 -Wall template.cc
exit 0
