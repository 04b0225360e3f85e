/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One side of a migration without QEMU: real memory, a real userfaultfd, and a VMM made of
 * threads that stand in for device state and vCPUs.
 */
#ifndef FF_TESTS_SIDE_H
#define FF_TESTS_SIDE_H

#include <glib.h>

#include "migration/migration.h"

#define PAGE 4096ull
#define MAX_SIDE_BLOCKS 4
#define MAX_TOUCHERS 256
#define MAX_WRITERS 4
#define DEVICE_BYTES 300000 /* of device state */
#define SIDE_LENIENT_BYTES 64

typedef struct Side {
    FfVmm vmm; /* first: the engine gives it back to us */
    FfRole role;
    GPtrArray *blocks; /* FfRamBlock * */
    char *map[MAX_SIDE_BLOCKS];
    int state_fd;
    FfStateHeader *state;
    int uffds[FF_KINDS], maps_fd, pagemap_fd;
    int inner_peer; /* the VMM's end of the device-state socket */
    GThread *inner_thread;
    FfTls *tls; /* borrowed; NULL: in the clear */
    const char *tls_hostname;
    bool refuse_prepare;
    /* Can be NULL: the VMM was given the engine's settings (OURS), or its own back. */
    void (*settings)(struct Side *s, bool ours);
    void (*loading)(struct Side *s); /* D, can be NULL: called when it is to load */
    bool refuse_load;                /* answer SHUT 1 */
    bool hang_load;                  /* answer nothing at all */
    void (*loaded)(void);            /* D, can be NULL: called right before the answer */
    void (*resuming)(
        struct Side *s);             /* can be NULL: the guest is about to be given its run state */
    void (*stopped)(struct Side *s); /* S, can be NULL: the guest stands, stop is not answered */
    bool (*stands)(struct Side *s);  /* S, can be NULL: it is asked right before it is given */
    void (*words)(struct Side *s);   /* can be NULL: the VMM carries out what clients have said */
    unsigned asked_words;
    bool paused;      /* S: that was stop */
    unsigned moved;   /* so often a client that said stop had to ask again */
    bool lenient;     /* fuzzing: any SIDE_LENIENT_BYTES are device state; no page is looked at */
    const void *says; /* D, lenient: what QEMU answers; NULL: SHUT 0 */
    size_t says_len;
    gint runs;         /* atomic: the guest runs here */
    gint saved_status; /* atomic: SHUT's status as the source's VMM got it; -1 none */
    gint abandoned, undone;
    int pidfd;      /* readable when it was abandoned */
    bool unwatched; /* destination: the engine has no pidfd */
    GThread *touchers[MAX_TOUCHERS];
    unsigned n_touchers;
    bool ends_touchers; /* side_free() joins them: the test does not wait for what they wait for */
    /* What each of them does, and what its thread returns; NULL: touches every page once, and
     * returns how many were wrong. */
    gpointer (*touch)(struct Side *s, unsigned index);
    /* Of a guest that writes (the source) and one that is compared with it (the destination). */
    bool track;       /* source: hand over a pagemap, so that there is precopy */
    bool alone;       /* source: no client may ask for the switch */
    unsigned writes;  /* source: number of writing vCPUs, from side_run() on */
    unsigned rest_us; /* source: a vCPU pauses so long after each write; 0: writes at full speed */
    GThread *writers[MAX_WRITERS];
    bool any;            /* destination: what is read while loading is not looked at */
    struct Side *mirror; /* destination: what is read must be what this (stopped) side has */
    bool (*drain)(GError **error);
    FfMigrationConfig config; /* source, destination: limits and flags for side_start() */
    int listen_fd;            /* destination, side_adopt(): the listener that was held, -1: none */
    unsigned passes;          /* as told by the engine */
    /* events from the engine */
    FfMigration *m;
    FfStatus status;
    bool done;
    enum { LEFT_NOT, LEFT_ALONE, LEFT_TO_PEER } left_at; /* config.plain: to the VMM's own */
    char *refused;                                       /* why; NULL: not by this side */
    bool slow_client; /* it does not say by itself that its client was told */
    bool syncing;     /* it was asked to say so */
    bool tells;       /* source: a destination that was not told of a roll back is told later */
    bool parted;      /* ... and that is over */
    GString *history;
} Side;

/* A side with N blocks of SIZES bytes. */
Side *side_new(FfRole role, const uint64_t *sizes, unsigned n);
/* A side with one block of N huge pages of 2 MiB, all of them RESERVED or none. */
Side *side_new_huge(FfRole role, unsigned n, bool reserved);
/* For the fuzzer: lenient, with one block of SIZE bytes; nothing of it takes long. */
Side *side_new_lenient(FfRole role, uint64_t size);
/* Frees the migration as well. */
void side_free(Side *s);
/* Whose VMM it is. */
Side *side_of(FfVmmState *state);
/* Starts the writing vCPUs. They run until the VMM is stopped. */
void side_run(Side *s);
/* Every page gets a word of its own all over; some are zero. */
void side_fill(Side *s);
/* Starts a migration at URI, or over FD. */
void side_start(Side *s, const char *uri, int fd);
/* What comes after an engine that died: INNER_FD is QEMU's end that was held, or -1. */
void side_adopt(Side *s, int inner_fd);
bool side_page_is_zero(uint64_t page);
uint64_t side_word(unsigned block, uint64_t page);
/* Skips the test and returns FALSE where userfaultfd is not permitted. */
bool side_possible(void);

#define side_run_until(condition)                                                                  \
    do {                                                                                           \
        while (!(condition)) {                                                                     \
            g_main_context_iteration(NULL, TRUE);                                                  \
        }                                                                                          \
    } while (0)

#endif
