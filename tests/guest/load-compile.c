/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See load.h. /compiler has cc1, its libraries and preprocessed files (scripts/build-guest --load).
 * A step compiles one of them, and reads the next part of the tree; outputs replace older
 * ones, as those of a build that is repeated. An output is known by its hash.
 */
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "load.h"

enum { WORDS = 8192, OUTPUTS = 256, READS = 4 /* files of the tree that a step reads */ };

static glob_t sources;
static uint64_t *expected; /* of each source: the hash of its output */
static uint64_t n_files;   /* of the tree, of WORDS each */
static _Atomic uint64_t next_step, next_file;

static void file_name(char *name, size_t size, uint64_t i)
{
    snprintf(name, size, "tree-%llu", (unsigned long long)i);
}

/* Fills WORD, or compares it, with what file I of the tree holds. */
static bool is_file(const uint64_t *word, uint64_t i)
{
    uint64_t seed = i, wrong = 0;

    for (unsigned w = 0; w < WORDS; w++)
        wrong |= word[w] ^ load_random(&seed);
    return !wrong;
}

static bool make_file(uint64_t i)
{
    uint64_t word[WORDS], seed = i;
    char name[32];

    for (unsigned w = 0; w < WORDS; w++)
        word[w] = load_random(&seed);
    file_name(name, sizeof name, i);
    int fd = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    bool good = fd >= 0 && write(fd, word, sizeof word) == (ssize_t)sizeof word;
    return fd >= 0 && !close(fd) && good;
}

static bool file_is_right(uint64_t i)
{
    uint64_t word[WORDS];
    char name[32];

    file_name(name, sizeof name, i);
    int fd = open(name, O_RDONLY | O_CLOEXEC);
    bool good = fd >= 0 && read(fd, word, sizeof word) == (ssize_t)sizeof word && is_file(word, i);
    if (fd >= 0)
        close(fd);
    return good;
}

/* FNV-1a of a file; 0: it cannot be read. */
static uint64_t hash_of(const char *name)
{
    uint64_t hash = 0xcbf29ce484222325u;
    char part[16384];
    ssize_t n = -1;
    int fd = open(name, O_RDONLY | O_CLOEXEC);

    while (fd >= 0 && (n = read(fd, part, sizeof part)) > 0) {
        for (ssize_t i = 0; i < n; i++)
            hash = (hash ^ (unsigned char)part[i]) * 0x100000001b3u;
    }
    if (fd >= 0)
        close(fd);
    return n ? 0 : hash;
}

/* The hash of what source I is compiled to; 0: the compiler has failed. */
static uint64_t compile(size_t i, const char *output)
{
    static char *none[] = {NULL};
    char *argv[] = {"/compiler/ld.so",
                    "--library-path",
                    "/compiler",
                    "/compiler/cc1",
                    "-fpreprocessed",
                    "-quiet",
                    "-O0",
                    "-w",
                    sources.gl_pathv[i],
                    "-o",
                    (char *)output,
                    NULL};
    pid_t pid;
    int status = -1;

    if (posix_spawn(&pid, argv[0], NULL, NULL, argv, none))
        return 0;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    return status == 0 ? hash_of(output) : 0;
}

static const char *prepare(uint64_t mib)
{
    n_files = mib << 4;
    for (uint64_t i = 0; i < n_files; i++) {
        if (!make_file(i))
            return "the tree does not fit: more memory, or less ff.mib=";
    }
    if (glob("/compiler/*.i", 0, NULL, &sources) || !sources.gl_pathc)
        return "no /compiler: its guest is made by scripts/build-guest --load";
    expected = calloc(sources.gl_pathc, sizeof *expected);
    for (size_t i = 0; expected && i < sources.gl_pathc; i++) {
        expected[i] = compile(i, "first.s");
        if (!expected[i])
            return "the compiler has failed";
    }
    return expected ? NULL : "no memory";
}

static unsigned step(unsigned worker)
{
    uint64_t n = atomic_fetch_add(&next_step, 1);
    size_t i = n % sources.gl_pathc;
    unsigned wrong = 0;
    char output[32];

    (void)worker;
    for (unsigned k = 0; k < READS; k++)
        wrong += !file_is_right(atomic_fetch_add(&next_file, 1) % n_files);
    snprintf(output, sizeof output, "out-%llu.s", (unsigned long long)(n % OUTPUTS));
    return wrong + (compile(i, output) != expected[i]);
}

static uint64_t verify(void)
{
    uint64_t wrong = 0;

    for (uint64_t i = 0; i < n_files; i++)
        wrong += !file_is_right(i);
    return wrong;
}

static void damage(void)
{
    if (truncate("tree-0", 0))
        abort();
}

const Load load_compile = {.name = "compile",
                           .report_ms = 2000,
                           .prepare = prepare,
                           .step = step,
                           .verify = verify,
                           .damage = damage};
