/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The object behind farfault.h.
 *
 * Lock: `lock` guards state, capture, regions and results; it is never held for something that
 * waits for memory.
 */
#ifndef FARFAULT_MEMORY_INTERNAL_H
#define FARFAULT_MEMORY_INTERNAL_H

#include <glib.h>
#include <pthread.h>
#include <stdbool.h>

#include "content/capture/capture.h"
#include "libfarfault/common/farfault.h"

typedef enum {
    FF_IDLE,
    FF_PREPARING, /* a thread is in a call that changes the state */
    FF_PREPARED,
    FF_BEGUN,
    FF_SAVING,
    FF_SAVED,
} FfMemoryState;

typedef struct {
    uint64_t addr, len;
    uint64_t offset; /* in the file; 0: private */
    int fd;          /* of `owner`; -1: private */
    int *owner;      /* g_rc_box of an fd that is ours: parts of a region share it */
    uint64_t dev, ino;
    FfBacking backing; /* of the whole file up to the region's end; of the region, if private */
} FfMemoryRegion;

/* What is saved: as the regions were at ff_snapshot_prepare(). */
typedef struct {
    uint64_t addr, len, offset; /* as in FfMemoryRegion */
    uint64_t page_size;
    uint64_t place; /* in the file of the snapshot */
    int *owner;     /* as in FfMemoryRegion */
} FfSavedRegion;

typedef struct FfCallers FfCallers;

struct FfMemory {
    struct FfMemory *next; /* of all of this program: core.c */
    pid_t pid;
    unsigned flags;
    int mem_fd, pagemap_fd, maps_fd, status_fd, pidfd;
    FfCallers *callers; /* NULL: /proc does not say what threads do */

    pthread_mutex_t discards; /* a leaf; held while the kernel is told to take pages out */
    pthread_mutex_t lock;
    FfMemoryState state;
    GArray *regions; /* FfMemoryRegion, by address */
    bool cancelled;  /* while there is no capture to be told; of what is under way */
    FfCapture *capture;
    FfSnapshotStats stats; /* of the last one */
    int result;            /* of the saver, in FF_SAVED */
    char result_text[512];

    /* Of the thread that is in the call that changes the state; of the saver in FF_SAVING. */
    int uffd;      /* -1: none; core.c */
    GArray *saved; /* FfSavedRegion */
    GThread *saver;
    uint64_t prepare_us, begin_us, save_us;
    bool no_direct;
    struct FfTemplate *template;
    void (*drop_child)(
        FfMemory *m); /* one that was made for ff_fork(), if there is one; can be NULL */
};

/* ---- errors ---------------------------------------------------------------------------------- */

/* Returns RC. */
int ff_fail(int rc, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The negative errno of ERROR, whose text ff_last_error() says. */
int ff_fail_error(const GError *error);
/* As g_strerror(), which allocates. */
const char *ff_strerror(int err);

/* ---- states ---------------------------------------------------------------------------------- */

/* TO, if it is FROM now; else -EBUSY, or what WHAT is not possible in. */
int ff_memory_step(FfMemory *m, FfMemoryState from, FfMemoryState to, const char *what);
/* The caller is the thread that made the last step to FF_PREPARING or FF_SAVING. */
void ff_memory_set_state(FfMemory *m, FfMemoryState to);
/* As a part of an error. */
const char *ff_memory_state_name(FfMemoryState state);
/* The saver's end: FF_SAVED, with what ff_snapshot_wait() says. TEXT: of a failure. */
void ff_memory_finish(FfMemory *m, int rc, const char *text);
/* -ECHILD in a child of fork(). */
int ff_memory_check(const FfMemory *m);

/* ---- userfaultfd and regions ----------------------------------------------------------------- */

/* A new one, without UFFDIO_API; or -errno. Of the template, too, and so without GLib. */
int ff_memory_new_uffd(unsigned memory_flags);
/* A new one, with FEATURES; or -errno, said. */
int ff_memory_open_uffd(const FfMemory *m, uint64_t features);
/* From a memory's beginning to its end. */
void ff_memory_enlist(FfMemory *m);
void ff_memory_delist(FfMemory *m);
/* One as above is m->uffd, until it is closed; no child of fork() has it. 0 or -errno, said. */
int ff_memory_set_uffd(FfMemory *m, uint64_t features);
void ff_memory_close_uffd(FfMemory *m);
/* That what is mapped there is still what ff_region_add() has seen. Locked. 0 or -errno, said. */
int ff_regions_check(const FfMemory *m);
/* Just after the moment: what was unmapped since the preparation, and so is zeros, is not something
 * else by now. Locked. 0 or -errno, said. */
int ff_regions_check_gaps(const FfMemory *m);
/* The same for memory that comes and goes (FLAGS: FF_MEMORY_*), whose features are newer. */
int ff_uffd_open(unsigned flags, uint64_t features);
/* What is closed with the last of them. FD is taken. */
int *ff_owner_new(int fd);
int *ff_owner_ref(int *owner); /* NULL: NULL */
void ff_owner_unref(int *owner);

#endif
