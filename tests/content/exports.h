/* SPDX-License-Identifier: GPL-2.0-or-later */
/* An NBD server of the test's own, by the protocol's document, that does what servers do not: one
 * thread for each connection, in the test's process. */
#ifndef FF_TESTS_CONTENT_EXPORTS_H
#define FF_TESTS_CONTENT_EXPORTS_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

typedef enum {
    EXPORTS_RIGHT,
    EXPORTS_CLOSES,       /* in the middle of an answer */
    EXPORTS_SHORT,        /* answers with half of the bytes, and calls that all */
    EXPORTS_NOTHING,      /* the same with none */
    EXPORTS_OTHER_COOKIE, /* answers to what was not asked */
    EXPORTS_TOO_MUCH,     /* more bytes than were asked for */
    EXPORTS_EIO,
    EXPORTS_LEAVES,  /* on its first `old` connections: says that it is about to end */
    EXPORTS_GARBAGE, /* is no NBD server */
} ExportsWrong;

typedef struct {
    uint64_t size;
    ExportsWrong wrong; /* of reads from `from` on */
    uint64_t from;
    uint64_t more;           /* added to each word */
    const uint32_t *extents; /* length and flags, ...: the answer to each question; NULL: none */
    unsigned n_extents;      /* numbers */
    bool one;                /* allows one connection */
    unsigned room;           /* so many it talks to; others connect and wait. 0: all */
    unsigned peers;          /* that have come */
    unsigned old;            /* of EXPORTS_LEAVES. 0: 1 */
    gint left;               /* so often it has left (atomic: its threads write) */
    char *dir, *uri;
    int listener;
    GThread *thread;
} Exports;

/* SIZE, `wrong`, `from` and `extents` are set. Ends with the test's process. */
void exports_start(Exports *e);
/* No connection is accepted any more; those that exist end when their client does. */
void exports_stop(Exports *e);
/* What page I has, in each of its words. */
uint64_t exports_word(uint64_t i);

#endif
