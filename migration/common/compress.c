/* SPDX-License-Identifier: GPL-2.0-or-later */
/* When bulk runs are compressed; see compress.h. Pure but for malloc. */
#include "migration/common/compress.h"

#include <string.h>

/* Of one measurement: longer than what a shaper lets through at once. */
#define WINDOW_US (50 * 1000)
/* One that took longer was no measurement: nobody sent. */
#define WINDOW_MAX_US (1000 * 1000)
/* So many that are no better end it: a busy machine may spoil one. */
#define WORSE_MAX 2
/* No gain: not tried again before; twice as long each time, up to eight times. */
#define RETRY_US (1000 * 1000)
#define RETRY_SHIFT_MAX 3
/* The link has not been the limit for so long: would it be for plain runs? */
#define FREE_US (3000 * 1000)

/* A piece of device state that is shorter is not worth it (bytes). */
#define DEVICE_MIN (8 * 1024)
/* What the codec is taken to do until it has done much: firmware, level 1. */
#define DEVICE_GUESS_BYTES (128 * 1024)
#define DEVICE_GUESS_US 400

static void begin_window(FfCompressPolicy *p, uint64_t done, int64_t now_us)
{
    p->window_us = now_us;
    p->window_done = done;
}

static void turn_compression(FfCompressPolicy *p, bool on, uint64_t done, int64_t now_us)
{
    p->on = on;
    p->worse = 0;
    begin_window(p, done, now_us);
}

static void give_up(FfCompressPolicy *p, uint64_t done, int64_t now_us)
{
    p->retry_us = now_us + ((int64_t)RETRY_US << p->failures);
    p->failures = MIN(p->failures + 1, RETRY_SHIFT_MAX);
    turn_compression(p, false, done, now_us);
}

/* A measurement came to RATE bytes per second. */
static void judge_rate(FfCompressPolicy *p, uint64_t rate, uint64_t done, int64_t now_us)
{
    begin_window(p, done, now_us);
    if (!p->on) {
        p->plain = rate;
        if (now_us >= p->retry_us) {
            turn_compression(p, true, done, now_us);
        }
    } else if (rate > p->plain) {
        p->worse = p->failures = 0;
    } else if (++p->worse == WORSE_MAX) {
        give_up(p, done, now_us);
    }
}

bool ff_compress_wanted(FfCompressPolicy *p, FfCompress mode, bool limited, uint64_t done,
                        int64_t now_us)
{
    if (mode != FF_COMPRESS_AUTO) {
        return mode == FF_COMPRESS_ALWAYS;
    }
    p->free_us = limited ? 0 : p->free_us ? p->free_us : now_us;
    if (!p->on && !limited) {
        p->window_us = 0;
        return false;
    }
    if (!p->window_us || now_us - p->window_us > WINDOW_MAX_US) {
        begin_window(p, done, now_us);
    } else if (now_us - p->window_us >= WINDOW_US) {
        judge_rate(p, (done - p->window_done) * G_USEC_PER_SEC / (now_us - p->window_us), done,
                   now_us);
    }
    if (p->on && !limited && now_us - p->free_us > FREE_US) {
        turn_compression(p, false, done, now_us);
    }
    return p->on;
}

bool ff_compress_device_wanted(FfDevicePacing *p, size_t n, uint64_t unsent, int64_t now_us)
{
    p->began_us = p->began_us ? p->began_us : now_us;
    if (n < DEVICE_MIN || unsent == 0) {
        return false;
    }
    uint64_t taken = p->sent - MIN(p->sent, unsent), elapsed = now_us - p->began_us;
    uint64_t pack_us = n * (p->packed_us + DEVICE_GUESS_US) / (p->packed + DEVICE_GUESS_BYTES);
    /* unsent / (taken / elapsed) >= pack_us */
    return unsent * elapsed >= pack_us * taken;
}

bool ff_compressing_prepare(FfCompressing *pk, int level, size_t max)
{
    if (!pk->tried) {
        pk->tried = true;
        pk->packer = ff_compressor_new(level, max);
        pk->out = g_try_malloc(max);
        pk->max = max;
    }
    return pk->packer && pk->out;
}

void ff_compressing_clear(FfCompressing *pk)
{
    if (pk->out) {
        explicit_bzero(pk->out, pk->max);
    }
    g_clear_pointer(&pk->out, g_free);
    g_clear_pointer(&pk->packer, ff_compressor_free);
    pk->tried = false;
}
