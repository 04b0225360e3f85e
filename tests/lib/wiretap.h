/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A tap on the wire between two engines: accepts the source's connections, connects on to the
 * destination, passes every byte, and counts what the frames say: which page went by, and
 * whether one went by twice. And whether a certain text went by, of which no frame need be known.
 */
#ifndef FF_TESTS_WIRETAP_H
#define FF_TESTS_WIRETAP_H

#include <stddef.h>
#include <stdint.h>

typedef struct Wiretap Wiretap;

typedef struct {
    uint64_t connections;
    uint64_t pages;     /* page frames' pages, PAGES, PACKED and ZERO */
    uint64_t packed;    /* of these, PACKED ones' */
    uint64_t twice;     /* of these, pages that had gone by before */
    uint64_t requests;  /* destination to source */
    uint64_t repeated;  /* runs of 64 bytes or more that repeat every 8, as the pages of side.h do:
                           chance makes one in 2^448 */
    uint64_t found;     /* of what wiretap_look_for() was told */
    uint64_t malformed; /* frames that the decoder refused */
} WiretapCounts;

/* Listens at LISTEN_URI ("unix:PATH") and connects to TO_URI for each connection. */
Wiretap *wiretap_new(const char *listen_uri, const char *to_uri);
/* Counts where the N bytes at TEXT (borrowed until the end) go by, in either direction. Before any
 * connection. */
void wiretap_look_for(Wiretap *w, const void *text, size_t n);
/* The counts once every connection has ended (waits for that). */
WiretapCounts wiretap_finish(Wiretap *w);

#endif
