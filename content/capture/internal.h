/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The object behind capture.h, for capture.c and stream.c.
 */
#ifndef FF_CONTENT_CAPTURE_INTERNAL_H
#define FF_CONTENT_CAPTURE_INTERNAL_H

#include <pthread.h>

#include "content/capture/capture.h"
#include "content/capture/writer.h"
#include "uffd/huge.h"
#include "uffd/protect.h"

struct FfCapture {
    FfPager pager; /* first: the fault thread's way back to us */
    FfCaptureBlock *blocks;
    unsigned n_blocks;
    const FfCaptureWords *words;
    FfRun *runs; /* what is captured, by address */
    unsigned n_runs;
    int pagemap_fd;
    FfSpace *space;
    FfProtect *protect;
    GThread *fault_thread;
    FfHuge *huge; /* mappings that protection splits */
    int pidfd;
    void (*at_fault_thread)(void);
    bool stands;
    pthread_mutex_t lock;
    FfWriter *writer;      /* lock; NULL: not yet, or it goes in a row */
    int wake_fd;           /* eventfd: there may be something to do; of ff_capture_stream() */
    uint64_t bandwidth;    /* lock; bytes per second, 0: no limit */
    bool cancelled;        /* atomic; observer: the caller's thread */
    int failed;            /* atomic; -errno of the space; observer: the caller's thread */
    FfWriterStats written; /* lock; of ff_capture_stream(): while it writes */
    unsigned passes;       /* this and the next: atomic, for ff_capture_stats() */
    uint64_t prepared_last, arm_us;
    uint64_t pages;
};

/* FALSE and ERROR: it was cancelled, or the memory cannot be watched any more. */
bool ff_capture_goes_on(FfCapture *c, GError **error);
/* After the last page. FALSE and ERROR: not all of it was saved. */
bool ff_capture_has_all(FfCapture *c, GError **error);

#endif
