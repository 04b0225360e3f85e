/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See sent.h. No lock, no system calls. */
#include "migration/source/sent.h"

void ff_sent_begin(FfSentLog *log)
{
    /* Memory that was not used yet costs nothing. */
    log->ring = log->ring ? log->ring : g_new0(FfSentRun, FF_SENT_MAX);
    log->frames = log->head = log->tail = 0;
}

void ff_sent_log(FfSentLog *log, const FfRun *run, bool keep)
{
    uint64_t frame = ++log->frames;

    /* Acquire: the place is read. */
    if (keep || log->head - __atomic_load_n(&log->tail, __ATOMIC_ACQUIRE) == FF_SENT_MAX) {
        return;
    }
    log->ring[log->head % FF_SENT_MAX] = (FfSentRun){frame, *run};
    __atomic_store_n(&log->head, log->head + 1, __ATOMIC_RELEASE);
}

bool ff_sent_take(FfSentLog *log, uint64_t count, FfRun *run)
{
    if (log->tail == __atomic_load_n(&log->head, __ATOMIC_ACQUIRE) ||
        log->ring[log->tail % FF_SENT_MAX].frame > count) {
        return false;
    }
    *run = log->ring[log->tail % FF_SENT_MAX].run;
    __atomic_store_n(&log->tail, log->tail + 1, __ATOMIC_RELEASE);
    return true;
}

void ff_sent_clear(FfSentLog *log)
{
    g_clear_pointer(&log->ring, g_free);
}
