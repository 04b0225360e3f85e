/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a guest of load.c does. One table of functions for each load; a step is what is counted.
 */
#ifndef FF_TESTS_GUEST_LOAD_H
#define FF_TESTS_GUEST_LOAD_H

#include <stdbool.h>
#include <stdint.h>

typedef struct {
    const char *name;
    unsigned report_ms; /* between two reports: long enough for some steps */
    /* Fills MIB of the guest's memory. Returns NULL, or what is wrong (static). */
    const char *(*prepare)(uint64_t mib);
    /* One step of worker WORKER. Returns how many results were wrong. */
    unsigned (*step)(unsigned worker);
    /* Looks at all that was filled, with no step under way. Returns how much of it is wrong. */
    uint64_t (*verify)(void);
    /* Damages one of the things that are looked at, with no step under way. */
    void (*damage)(void);
} Load;

/* SQLite: a transaction that reads a row, by Zipf's law, checks it, and rewrites it in one of two
 * steps. One worker. */
extern const Load load_database;
/* GCC's compiler proper, and a part of a tree of files that is read: each output is compared with
 * that of the first time. */
extern const Load load_compile;

/* The next of a worker's numbers, from *STATE on (splitmix64). */
static inline uint64_t load_random(uint64_t *state)
{
    uint64_t x = *state += 0x9e3779b97f4a7c15u;

    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

#endif
