/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A program that uses libfarfault, for its tests: memory of each kind, threads that write all over
 * it all the time and can be parked, and what a snapshot of it holds. Only public functions are
 * used.
 */
#ifndef FF_TESTS_LIBFARFAULT_WORLD_H
#define FF_TESTS_LIBFARFAULT_WORLD_H

#include <glib.h>
#include <pthread.h>
#include <stdbool.h>

#include "libfarfault/common/farfault.h"
#include "tests/lib/hugepages.h"

typedef enum { W_ANON, W_ANON_HUGE, W_MEMFD, W_HUGETLB, W_KINDS } WorldKind;
extern const char *const world_kinds[W_KINDS];

/* How writers give pages back, too. */
typedef enum { W_KEEP, W_DISCARD, W_MADVISE } WorldDiscard;

#define WORLD_WRITERS 8

typedef struct World World;

typedef struct {
    World *w;
    unsigned index;
    GThread *thread;
} WorldWriter;

struct World {
    WorldKind kind;
    FfMemory *m;
    char *map;
    size_t len, page_size;
    int fd; /* -1: private */
    HugePages *pool;
    WorldWriter writers[WORLD_WRITERS];
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool park, end;       /* lock to write; atomic; observer: writers */
    WorldDiscard discard; /* atomic */
    unsigned parked;      /* lock */
    unsigned n_others;    /* threads of the test's that world_stand() */
    size_t write_len;     /* writers keep to so much of it */
    uint64_t n_writes;    /* atomic */
};

/* NULL: the test is skipped. LEN bytes, multiple of 2 MiB, a region. */
World *world_new(WorldKind kind, size_t len);
void world_free(World *w);
void world_start_writers(World *w);
/* Returns when all stand still; or continue. */
void world_park(World *w);
void world_release(World *w);
/* Of a thread of the test's, between two writes: parks, too. */
void world_stand(World *w);
/* World.end, for those; all continue. */
void world_stop(World *w);
/* Waits until N writes more have been made by all. */
void world_wait_writes(World *w, uint64_t n);

uint64_t world_hash(const void *data, size_t len);
/* The hash that a child of fork() sees; result by world_forked_hash(), which waits. */
typedef struct {
    pid_t pid;
    int fd;
} WorldFork;
WorldFork world_fork(const World *w);
uint64_t world_forked_hash(WorldFork f);

/* Touching AT is SIGBUS. One thread. */
bool world_is_bus(const void *at);
/* Of N pages at AT what a page table says: R is protected (userfaultfd), W is not, - is not there.
 */
char *world_tables(const void *at, size_t n);

/* From now on all that is mapped is locked into memory; munlockall(). FALSE: skipped. */
bool world_lock_memory(void);

/* A file without a name on a file system of its own kind. */
int world_file(void);
/* Checks the header of FD, with one region of W. Returns the content, of w->len bytes; munmap(). */
char *world_map_file(const World *w, int fd);
/* For ff_snapshot_save_pages(): OPAQUE is a WorldPages. */
typedef struct {
    const World *w;
    char *copy;      /* zeros at first */
    unsigned *times; /* by 4096 bytes */
} WorldPages;
void world_pages_init(WorldPages *p, const World *w);
void world_pages_clear(WorldPages *p);
int world_page(void *opaque, void *addr, const void *data, size_t len);

/* FF_ROUNDS, or N. */
unsigned world_rounds(unsigned n);

#endif
