/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Whether bulk runs are compressed (x-farfault-compress), and what a sender needs to do it.
 *
 * "auto" tries: while the link is the limit, runs go plain for a moment, then compressed, and stay
 * so if more of the guest's memory moves per second that way. If not, the processor is the limit,
 * or the memory does not compress; it is tried again later, less and less often. What plain runs
 * would come to is looked at again when the link has not been the limit for a while.
 *
 * Threads: the policy is the main connection's sender's (the coordinator, then bulk), which decides
 * for all (FfSource.compressing). An FfCompressing is its sender's alone.
 */
#ifndef FF_MIGRATION_COMMON_COMPRESS_H
#define FF_MIGRATION_COMMON_COMPRESS_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "contract/state.h"
#include "net/compress.h"

typedef struct {
    bool on;
    uint64_t plain;    /* bytes per second of the guest's that went when nothing was compressed */
    int64_t window_us; /* when the measurement under way began, monotonic time; 0: none is */
    uint64_t window_done; /* progress then */
    unsigned worse;       /* measurements in a row that were no better than that */
    int64_t free_us;      /* since when the link is not the limit; 0: it is */
    int64_t retry_us;     /* off, and not turned on before; monotonic time */
    unsigned failures;    /* in a row */
} FfCompressPolicy;

/* Whether the next run is to be compressed. LIMITED: the link is the limit. DONE: bytes of the
 * guest that all senders have sent as data so far. NOW_US: monotonic time. */
bool ff_compress_wanted(FfCompressPolicy *p, FfCompress mode, bool limited, uint64_t done,
                        int64_t now_us);

/* Device state, for which the guest stands still: a piece is compressed if that is done before the
 * link would have taken it anyhow. All zero: nothing was sent yet. */
typedef struct {
    int64_t began_us; /* monotonic time */
    uint64_t sent;    /* bytes, since */
    uint64_t packed;  /* bytes that were compressed, and how long it took */
    uint64_t packed_us;
    uint8_t *delta; /* [FF_RUN_MAX_BYTES], for deltas; NULL: not needed yet; g_free */
} FfDevicePacing;

/* Whether a piece of N bytes is to be compressed when UNSENT bytes stand in front of it that the
 * link does not take yet. NOW_US: monotonic time. */
bool ff_compress_device_wanted(FfDevicePacing *p, size_t n, uint64_t unsent, int64_t now_us);

/* What one sender compresses with. All zero: nothing yet. */
typedef struct {
    FfCompressor *packer; /* can be NULL */
    uint8_t *out;         /* [max] */
    size_t max;           /* bytes of the longest run */
    bool tried;           /* to make them */
    bool on;              /* for the next run */
    uint64_t saved;       /* bytes that the last run was made shorter by */
} FfCompressing;

/* Makes what it takes, once. FALSE: it cannot be had, and runs go as they are. */
bool ff_compressing_prepare(FfCompressing *pk, int level, size_t max);
void ff_compressing_clear(FfCompressing *pk);

#endif
