/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where missing content comes from (a pager), and who is told what becomes of a space. A new pager
 * provides request(), and the other functions of FfPager if it needs them; the content itself it
 * hands in by place.h, when it has it, from any thread but the space's fault thread.
 * tests/uffd/rig.c is an example.
 */
#ifndef FF_UFFD_PAGER_H
#define FF_UFFD_PAGER_H

#include <stdint.h>

#include "uffd/run.h"

typedef struct FfSpace FfSpace;
typedef struct FfPager FfPager;

typedef enum {
    FF_REMOVED_GIVEN_BACK, /* the process gave it back (madvise): it is zeros from now on */
    FF_REMOVED_UNMAPPED,   /* there is no mapping of it any more */
} FfRemoved;

/*
 * Whom a space asks. The fault thread calls them: allocate nothing, and never wait for a page, a
 * disk or a lock of somebody else's (peer.c waits for its own socket to take a request). -errno
 * where something can fail: the space has failed then. All can be NULL.
 */
struct FfPager {
    /* Somebody waits for N runs. NULL: a space where nobody can (all present, protect.h), else it
     * has failed then, by -ENOSYS. Each page
     * is asked for once, until ff_place_forget(). */
    int (*request)(FfPager *p, const FfRun *runs, unsigned n);
    /* The first write to a protected page. With a buffer (protect.h) its old content is kept by now
     * and the writer continues; a thread that gives a slot of a full buffer back may call this,
     * too. Without one the writer waits for ff_protect_lift(). NULL: it just continues. */
    void (*written)(FfPager *p, const FfRun *run);
    /* The buffer is full, or there is none: a writer waits until the saver (protect.h) has a slot
     * for it, or its page. */
    void (*full)(FfPager *p, const FfRun *run);
    /* Not wanted any more, whether it was placed or not. The space is locked: nothing of it may be
     * called. */
    void (*removed)(FfPager *p, const FfRun *run, FfRemoved why);
};

typedef enum {
    FF_PRESENT_CONTENT, /* a content was placed, or is in the file */
    FF_PRESENT_ZEROS,
    FF_PRESENT_NOTHING, /* nothing was: they were there, are lost (poison), or not wanted any more
                         */
} FfPresentAs;

/* What has become of pages, by one step of placing. */
typedef struct {
    FfPresentAs as;
    uint64_t pages, bytes; /* that needed something from the pager before, and do not any more */
    uint64_t duplicate;    /* pages whose content was dropped, as they are there or were placed */
    FfRun run;             /* those that were placed; 0 pages: none, or in several places */
} FfPresent;

/* Who is told; each can be NULL. The fault thread calls some of them: as with FfPager. */
typedef struct {
    /* Pages are present, and marked. The thread that placed them. */
    void (*present)(const FfPresent *p, void *opaque);
    /* All are, and present() has said so. Called once, and again if pages were forgotten in
     * between. */
    void (*complete)(void *opaque);
    /* The thread TID of the process (0: not known) begins to wait for a page; NOW_US is monotonic.
     * Returns what stands for it in wait_ended(). Fault thread; not if the table of waits is full.
     */
    int32_t (*wait_began)(int32_t tid, int64_t now_us, void *opaque);
    /* A wait that began at SINCE_US has ended, before present(). The thread that placed the
     * page. */
    void (*wait_ended)(int32_t who, int64_t since_us, void *opaque);
    /* The process has forked, and CHILD, which is the callee's from now on, is the space of the new
     * one: nobody answers its faults before ff_space_set_pager() and ff_faults_run(). The parent is
     * locked. Fault thread. Without this the space must have no UFFD_FEATURE_EVENT_FORK. */
    void (*forked)(FfSpace *child, void *opaque);
    /* -errno. Somebody waits for RUN, and continues to wait until the owner does something; RUN is
     * NULL where it is not known for what. Fault thread; from protect.h the thread that gives a
     * slot back. */
    void (*failed)(const FfRun *run, int rc, void *opaque);
} FfSpaceOps;

#endif
