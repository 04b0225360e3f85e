/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A ledger: a million accounts are an array of a file, of which 4 MiB are in memory. Each round of
 * transfers is a transaction; one that went wrong is aborted. Whatever ends the program, the sum of
 * all accounts is what it was.
 *
 *   ledger [FILE]
 */
#include <farfault.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ACCOUNTS (1u << 20)
#define START 100
#define ROUNDS 6u
#define TRANSFERS 500u

static void die(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, ff_last_error());
    exit(1);
}

static int64_t sum(const int64_t *balance)
{
    int64_t all = 0;

    for (size_t i = 0; i < ACCOUNTS; i++) {
        all += balance[i];
    }
    return all;
}

static FfArray *open_ledger(const char *path)
{
    FfArrayOptions options = {.size = sizeof(options), .limit = 4u << 20};
    FfArray *a;
    int rc = ff_array_open(path, ACCOUNTS * sizeof(int64_t), &options, &a);

    if (rc == -EPERM) {
        fprintf(stderr, "%s\n", ff_last_error());
        exit(77); /* nothing to show */
    }
    if (rc < 0) {
        die("open");
    }
    return a;
}

static int64_t *map(FfArray *a)
{
    void *at;

    if (ff_array_map(a, 0, 0, &at) < 0) {
        die("map");
    }
    return at;
}

/* Some money goes from one to another; in a bad round only the first half of that happens. */
static void transfer(int64_t *balance, unsigned *seed, unsigned is_bad)
{
    for (unsigned i = 0; i < TRANSFERS; i++) {
        unsigned from = (*seed = *seed * 1664525 + 1013904223) % ACCOUNTS;
        unsigned to = (*seed = *seed * 1664525 + 1013904223) % ACCOUNTS;
        balance[from] -= 1;
        balance[to] += is_bad ? 0 : 1;
    }
}

int main(int argc, char **argv)
{
    char own[] = "/var/tmp/ledger-XXXXXX", log[4096 + 8];
    const char *path = argc > 1 ? argv[1] : own;
    unsigned seed = 1;

    if (argc < 2) {
        int fd = mkstemp(own);
        if (fd < 0) {
            perror(own);
            return 1;
        }
        close(fd);
    }
    FfArray *a = open_ledger(path);
    int64_t *balance = map(a);
    for (size_t i = 0; i < ACCOUNTS; i++) {
        balance[i] = START;
    }
    if (ff_array_commit(a) < 0) {
        die("commit");
    }
    for (unsigned round = 0; round < ROUNDS; round++) {
        unsigned is_bad = round % 3 == 2;
        transfer(balance, &seed, is_bad);
        int64_t there = sum(balance);
        if ((is_bad ? ff_array_abort(a) : ff_array_commit(a)) < 0) {
            die("the end of the transaction");
        }
        printf("round %u: %u transfers, sum %lld, %s\n", round, TRANSFERS, (long long)there,
               is_bad ? "aborted" : "committed");
    }
    transfer(balance, &seed, 1); /* is in no transaction that ends */
    ff_array_free(a);

    a = open_ledger(path);
    int64_t all = sum(map(a));
    FfArrayStats stats = {.size = sizeof(stats)};
    ff_array_stats(a, &stats);
    printf("opened again: sum %lld, %llu KiB of %u in memory\n", (long long)all,
           (unsigned long long)stats.bytes >> 10, (unsigned)(ACCOUNTS * sizeof(int64_t) >> 10));
    ff_array_free(a);
    if (argc < 2) {
        snprintf(log, sizeof(log), "%s.redo", path);
        unlink(path);
        unlink(log);
    }
    return all != (int64_t)ACCOUNTS * START;
}
