/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * An array of callbacks: each word of a block is its number, until something was stored; loads can
 * be held, and both made to fail. And what is seen of its blocks.
 */
#ifndef FF_TESTS_LIBFARFAULT_BLOCKS_H
#define FF_TESTS_LIBFARFAULT_BLOCKS_H

#include "tests/lib/hugepages.h"
#include "tests/libfarfault/held.h"

#define PS 4096u
#define BLOCKS 128u
#define WORDS (PS / 8)

struct File;
/* In a load, before it ends, or a store, before it begins. */
typedef void FileDuring(struct File *f, uint64_t block, bool store);

typedef struct File {
    size_t block_size;
    FfArray *a;
    uint64_t *words; /* what is stored; 0: never was, and each word is the block's number */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    unsigned loads[BLOCKS], stores[BLOCKS]; /* lock */
    uint64_t order[1024];                   /* lock: of stores */
    unsigned n_stores, n_loads, n_failed;   /* lock */
    unsigned held, loading;                 /* lock: loads wait while it is not 0 */
    unsigned late;                          /* lock: 1: the next load waits with what it found */
    int fail_load, fail_store;              /* lock: the errno of block 3 */
    const uint64_t *nested;                 /* a mapping of the first blocks: N touches N + 1 */
    FileDuring *during;                     /* lock; can be NULL */
} File;

/* FALSE: skipped. LIMIT: blocks. */
bool file_new(File *f, size_t block_size, unsigned limit, unsigned flags);
void file_free(File *f);
/* N blocks from FIRST on; 0: all. */
uint64_t *file_map(File *f, uint64_t first, uint64_t n);
/* One of F's counters. */
unsigned file_get(File *f, const unsigned *counter);
/* Loads wait, or continue. */
void file_hold(File *f, unsigned held);
void file_during(File *f, FileDuring *during);
/* As many loads are under way. */
void file_wait_loading(File *f, unsigned n);

/* E, l, L, X, F of blocks from FIRST on; and changed ones: d or -. */
void assert_states(File *f, uint64_t first, const char *states, const char *changed);

/* Mappings that BLOCK is shown in. */
unsigned file_mappings(File *f, uint64_t block);

/* Threads of a test's: the word at AT. */
gpointer read_word(gpointer at);

/* From now on the test's thread touches by system calls, or itself. */
void touch_by_calls(bool on);
uint64_t peek(const uint64_t *at);
void poke(uint64_t *at, uint64_t word);

/* How first writes are seen, and which thread touches. */
typedef struct {
    unsigned flags;
    bool by_calls;
} Mode;
/* Adds /libfarfault/array/NAME for N (4, or 2: by the test itself) modes. */
void add_modes(const char *name, void (*fn)(gconstpointer), unsigned n);
/* The same, with FF_ARRAY_HUGE. */
void add_huge_modes(const char *name, void (*fn)(gconstpointer), unsigned n);

#endif
