/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A migration that QEMU is to carry: the peer is a plain QEMU (without farfault), or this side's
 * engine does not migrate such a guest. See qemu-carries.c.
 *
 * Threads: the coordinator and the acceptor; then the driver.
 */
#ifndef FF_MIGRATION_COMMON_QEMU_CARRIES_H
#define FF_MIGRATION_COMMON_QEMU_CARRIES_H

#include "migration/common/connection.h"

typedef struct {
    FfMigrationConfig *cfg; /* borrowed, as what follows */
    FfControl *control;
    FfConnection *conn;
    bool began_paused; /* start_paused as it was given: what QEMU knows */
    GBytes *opening;   /* S: what was sent first */
    GByteArray *first; /* D: what was read first */
    GPtrArray *later;  /* D: of FfChannel, connections that came after it; NULL: none */
    FfChannel *channel;
    FfChannel *second; /* S: opened for a peer that waits for it; NULL */
    bool carried;      /* QEMU is to carry it */
    bool acked;
    bool unsure;   /* S: the VMM did not say who it is */
    char *refused; /* S: coordinator, then the driver. D: set before there is an acceptor; NULL */
} FfPlain;

/* ERROR says that QEMU is to carry it: the peer has no farfault, or this side is refused. */
bool ff_plain_is(const GError *error);
/* Whether a migration of the VMM's own may take the engine's place. */
bool ff_plain_possible(const FfPlain *plain);
/* Before a peer is spoken to: what stands against the engine, as *ERROR says, is told the driver as
 * a refusal, if a migration of the VMM's own may take its place; else ERROR stays as it is. Always
 * FALSE. */
bool ff_plain_refuse(FfPlain *plain, GError **error);
/* D: the same, as soon as a source is there. TRUE: it is waited for. */
bool ff_plain_refuse_later(FfPlain *plain, const GError *error);
/* S: the source was refused, as *ERROR says, and all the same speaks to the peer first, to hear
 * whether a QEMU is there. Clears ERROR then. */
bool ff_plain_greets(const FfPlain *plain, GError **error);
/* S: what the source sends first. */
GBytes *ff_plain_opening(const FfPlain *plain);
/* S: reads the first bytes of the answer, which are coming, on CH. 0 or -errno; sets ERROR (and
 * returns 0) if the peer is a QEMU without farfault, or one that must be refused, or if this side
 * is refused. */
int ff_plain_first_answer(FfPlain *plain, FfChannel *ch, uint8_t first[FF_PONG_SIZE],
                          GError **error);
/* D: reads the opening from CH, a passed fd at which no acceptor has looked, within DEADLINE_MS
 * (-1: no end). QEMU: it may be one without farfault, for QEMU. */
bool ff_plain_recognise_passed(FfPlain *plain, FfChannel *ch, int deadline_ms, bool qemu,
                               GError **error);
/* D: FALSE and ERROR if QEMU is to carry it: the peer has no farfault, or this side is refused. */
bool ff_plain_none(const FfPlain *plain, GError **error);
/* If ERROR says so, the connection is taken for the driver; the coordinator ends. */
bool ff_plain_hand_over(FfPlain *plain, const GError *error);
/* Main loop: tells the driver. */
void ff_plain_give_back(FfPlain *plain);
void ff_plain_clear(FfPlain *plain);

#endif
