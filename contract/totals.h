/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a guest's engines have done since QEMU was started, for a program that watches the host: a
 * part of the state memfd (state.h).
 *
 * One writer (but of CARRIED), the engine's main loop (qapi/totals.c): when something begins,
 * changes its status or ends, and at each of the relay's PINGs. Readers are other processes
 * (guest/launch/guests.c), which only look. There are two copies: the writer fills the one that is
 * not in use, and then adds one to TURNS, so the one in use is whole also when the engine dies in
 * the middle. A reader looks at TURNS before and after: two turns come back to the same copy, but
 * not to the same number.
 */
#ifndef FF_CONTRACT_TOTALS_H
#define FF_CONTRACT_TOTALS_H

#include <assert.h>
#include <stdint.h>

#define FF_TOTALS_BUCKETS 32

/* What an engine was used for. */
typedef enum { FF_USE_OUTGOING, FF_USE_INCOMING, FF_USE_SNAPSHOT, FF_USE_RESTORE, FF_USES } FfUse;
typedef enum { FF_END_COMPLETED, FF_END_FAILED, FF_END_CANCELLED, FF_ENDS } FfEnd;

/* All of them only grow. The one under way is in all but ENDED and STOPPED_MS. */
typedef struct {
    uint64_t ended[FF_ENDS]; /* by how they ended */
    uint64_t pauses;         /* times that it became postcopy-paused */
    uint64_t bytes;          /* FfMigrationInfo.bytes_wire */
    uint64_t pages_bulk, pages_urgent, pages_zero;
    uint64_t stopped_ms;                 /* the guest stood still (not known at a destination) */
    uint64_t latency_sum_us;             /* of all that LATENCY counts */
    uint64_t latency[FF_TOTALS_BUCKETS]; /* as FfMigrationInfo.latency */
} FfUseTotals;

typedef struct {
    FfUseTotals use[FF_USES];
    /* What is under way: FfUse + 1, 0: nothing. Its status, as query-migrate says it; memory that
     * it is about, bytes. */
    uint32_t running;
    char status[28];
    uint64_t ram_total, ram_remaining;
} FfTotals;

/* What is known of a migration that QEMU carries itself, or has carried last. It is known while an
 * engine sees QEMU's events, or asks; when the engine ends, an end or a pause stays known. */
typedef enum {
    FF_CARRIED_NONE,  /* QEMU carries none, and has carried none since the engine's last */
    FF_CARRIED_GIVEN, /* QEMU has one, or had: it knows more */
    FF_CARRIED_PRECOPY,
    FF_CARRIED_SWITCHED,
    FF_CARRIED_PAUSED,
    FF_CARRIED_COMPLETED,
    FF_CARRIED_FAILED,
    FF_CARRIED_CANCELLED,
} FfCarried;
#define FF_CARRIED_INCOMING 0x100u /* it comes from another QEMU */

typedef struct {
    uint32_t turns; /* atomic; its lowest bit: the copy in use */
    /* FfCarried, with FF_CARRIED_INCOMING. Atomic, and not a part of the copies: the relay writes
     * it, too, when QEMU has taken a command for one, and when an engine has died. */
    uint32_t carried;
    FfTotals copy[2];
    uint8_t spare[4096 - 8 - 2 * sizeof(FfTotals)];
} FfStateTotals;
static_assert(sizeof(FfStateTotals) == 4096, "its place in the state memfd");

static inline void ff_carried_set(FfStateTotals *totals, uint32_t carried)
{
    __atomic_store_n(&totals->carried, carried, __ATOMIC_RELAXED);
}
static inline uint32_t ff_carried(const FfStateTotals *totals)
{
    return __atomic_load_n(&totals->carried, __ATOMIC_RELAXED);
}
/* No engine follows it any more. */
static inline void ff_carried_rest(FfStateTotals *totals)
{
    uint32_t now = ff_carried(totals), incoming = now & FF_CARRIED_INCOMING;

    if (now == (FF_CARRIED_PRECOPY | incoming) || now == (FF_CARRIED_SWITCHED | incoming)) {
        ff_carried_set(totals, FF_CARRIED_GIVEN | incoming);
    }
}

#endif
