/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A snapshot from ff_snapshot_prepare() to ff_snapshot_wait(). The saver is a thread of this
 * file's. As soon as it has all contents it lifts everything; the disk is waited for after that.
 *
 * System calls: fcntl.
 */
#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <string.h>

#include "base/priority.h"
#include "libfarfault/common/memory-internal.h"
#include "libfarfault/common/rlimits.h"
#include "libfarfault/common/threads.h"
#include "libfarfault/snapshots/capture.h"
#include "libfarfault/snapshots/file.h"

/* ---- up to the moment ------------------------------------------------------------------------ */

int ff_snapshot_prepare(FfMemory *m, const FfSnapshotOptions *options)
{
    int rc = ff_memory_step(m, FF_IDLE, FF_PREPARING, "ff_snapshot_prepare");

    if (rc < 0) {
        return rc;
    }
    rc = ff_memory_prepare(m, options);
    ff_memory_set_state(m, rc < 0 ? FF_IDLE : FF_PREPARED);
    return rc;
}

int ff_snapshot_begin(FfMemory *m)
{
    FfSnapshotOptions at_once = ff_default_options;
    int64_t begin = g_get_monotonic_time();
    int rc = 0;

    at_once.flags = FF_SNAPSHOT_NO_PASSES;
    if (ff_memory_step(m, FF_IDLE, FF_PREPARING, "ff_snapshot_begin") == 0) {
        rc = ff_memory_prepare(m, &at_once);
    } else {
        rc = ff_memory_step(m, FF_PREPARED, FF_PREPARING, "ff_snapshot_begin");
        if (rc < 0) {
            return rc;
        }
    }
    rc = rc < 0 ? rc : ff_memory_arm(m, begin);
    ff_memory_set_state(m, rc < 0 ? FF_IDLE : FF_BEGUN);
    return rc;
}

/* ---- saving ---------------------------------------------------------------------------------- */

typedef struct {
    FfMemory *m;
    FfOutput *output; /* NULL: pages */
    uint64_t size;
    FfSnapshotPage *page;
    void *opaque;
    int stopped; /* what PAGE said */
} Job;

static void job_free(Job *j)
{
    ff_output_free(j->output);
    g_free(j);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Job, job_free)

static bool write_file(Job *j, GError **error)
{
    FfMemory *m = j->m;
    g_autofree uint64_t *places = g_new(uint64_t, m->saved->len);

    for (guint i = 0; i < m->saved->len; i++) {
        const FfSavedRegion *s = &g_array_index(m->saved, FfSavedRegion, i);
        places[i] = s->place - s->offset; /* modulo 2^64 */
    }
    return ff_capture_write(m->capture, ff_output_fd(j->output), places,
                            m->no_direct ? FF_WRITER_BUFFERED : FF_WRITER_URING, error);
}

static bool put_page(void *opaque, unsigned block, uint64_t page, const uint8_t *bytes,
                     GError **error)
{
    Job *j = opaque;
    const FfSavedRegion *s = &g_array_index(j->m->saved, FfSavedRegion, block);
    uintptr_t addr = s->addr + (page * 4096 - s->offset);

    j->stopped = j->page(j->opaque, (void *)addr, bytes, 4096);
    if (j->stopped > 0) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED,
                    "the callback said %d, which is no negative errno", j->stopped);
        j->stopped = -EIO;
    } else if (j->stopped) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED, "the callback said: %s",
                    ff_strerror(-j->stopped));
    }
    return !j->stopped;
}

/* What the saver allocates, but for what its callback does: a bit for each page, and for each
 * region some tables. */
static size_t save_needs(const FfMemory *m)
{
    size_t n = m->saved->len * 512 + 64 * 256;

    for (guint i = 0; i < m->saved->len; i++) {
        const FfSavedRegion *s = &g_array_index(m->saved, FfSavedRegion, i);
        n += (s->offset + s->len) / s->page_size / 8;
    }
    return n;
}

/* The table of regions is dropped by ff_capture_finish(). */
static GArray *keep_table(const FfMemory *m)
{
    GArray *table = g_array_new(FALSE, FALSE, sizeof(FfSavedRegion));

    g_array_append_vals(table, m->saved->data, m->saved->len);
    return table;
}

static gpointer run_saver(gpointer p)
{
    g_autoptr(Job) j = p;
    FfMemory *m = j->m;
    int rc = ff_reserve("ff_snapshot_save", save_needs(m));

    if (rc < 0) {
        ff_capture_finish(m);
        ff_memory_finish(m, rc, ff_last_error());
        return NULL;
    }
    g_autoptr(GArray) table = keep_table(m);
    g_autoptr(GError) error = NULL;
    int64_t begin = g_get_monotonic_time();

    ff_priority_bulk();
    bool ok =
        j->output ? write_file(j, &error) : ff_capture_stream(m->capture, put_page, j, &error);
    ff_memory_note_us(m, &m->save_us, begin);
    ff_capture_finish(m);
    ok = ok && (!j->output || ff_file_end(j->output, table, j->size, &error));
    /* Here, and not in ff_snapshot_wait(): another thread's ff_last_error(). */
    rc = ok ? 0 : j->stopped ? j->stopped : ff_fail_error(error);
    ff_memory_finish(m, rc, ok ? NULL : error->message);
    return NULL;
}

static int start_saver(FfMemory *m, Job *j, const char *what)
{
    int rc = ff_memory_step(m, FF_BEGUN, FF_SAVING, what);

    if (rc < 0) {
        job_free(j);
        return rc;
    }
    j->m = m;
    if (m->drop_child) {
        m->drop_child(m); /* ff_fork() was not called */
    }
    g_autoptr(GError) error = NULL;
    if (j->output) {
        g_auto(FfXfsz) xfsz = ff_xfsz_begin();
        j->size = ff_file_place(m->saved);
        if (!ff_file_begin(j->output, j->size, &error)) {
            rc = ff_fail_error(error);
            job_free(j);
            ff_memory_set_state(m, FF_BEGUN);
            return rc;
        }
    }
    rc = ff_memory_start_saver(m, "ff-save", run_saver, j);
    if (rc < 0) {
        job_free(j);
        ff_memory_set_state(m, FF_BEGUN);
    }
    return rc;
}

int ff_snapshot_save_fd(FfMemory *m, int fd)
{
    g_autoptr(GError) error = NULL;
    int rc = ff_reserve("ff_snapshot_save_fd", 0);
    int own = rc < 0 ? rc : fcntl(fd, F_DUPFD_CLOEXEC, 0);

    if (rc < 0) {
        return rc;
    }
    if (own < 0) {
        return ff_fail(-errno, "ff_snapshot_save_fd: file %d: %s", fd, ff_strerror(errno));
    }
    Job *j = g_new0(Job, 1);
    j->output = ff_output_new_fd(own, "the snapshot's file", &error);
    if (!j->output) {
        job_free(j);
        return ff_fail_error(error);
    }
    return start_saver(m, j, "ff_snapshot_save_fd");
}

int ff_snapshot_save_path(FfMemory *m, const char *path)
{
    g_autoptr(GError) error = NULL;
    if (!path) {
        return ff_fail(-EINVAL, "ff_snapshot_save_path: PATH is NULL");
    }
    int rc = ff_reserve("ff_snapshot_save_path", 0);
    if (rc < 0) {
        return rc;
    }
    FfOutput *output = ff_output_new_replacing(path, &error);
    if (!output) {
        return ff_fail_error(error);
    }
    Job *j = g_new0(Job, 1);
    j->output = output;
    return start_saver(m, j, "ff_snapshot_save_path");
}

int ff_snapshot_save_pages(FfMemory *m, FfSnapshotPage *page, void *opaque)
{
    if (!page) {
        return ff_fail(-EINVAL, "ff_snapshot_save_pages: PAGE is NULL");
    }
    int rc = ff_reserve("ff_snapshot_save_pages", 0);
    if (rc < 0) {
        return rc;
    }
    Job *j = g_new0(Job, 1);
    j->page = page;
    j->opaque = opaque;
    return start_saver(m, j, "ff_snapshot_save_pages");
}

int ff_snapshot_wait(FfMemory *m, FfSnapshotStats *stats)
{
    int rc = ff_memory_check(m);

    if (rc < 0) {
        return rc;
    }
    pthread_mutex_lock(&m->lock);
    GThread *saver = m->saver;
    m->saver = NULL;
    pthread_mutex_unlock(&m->lock);
    if (!saver) {
        return ff_fail(
            -EINVAL,
            "nothing is being saved: ff_snapshot_save_*() or ff_fork() has to succeed first");
    }
    g_thread_join(saver);
    if (stats) {
        ff_snapshot_stats(m, stats);
    }
    rc = m->result < 0 ? ff_fail(m->result, "%s", m->result_text) : m->result;
    ff_memory_set_state(m, FF_IDLE);
    return rc;
}

/* ---- any thread ------------------------------------------------------------------------------ */

int ff_snapshot_cancel(FfMemory *m)
{
    int rc = ff_memory_check(m);
    bool mine = false;
    sigset_t old;

    if (rc < 0) {
        return rc;
    }
    ff_block_signals(&old);
    pthread_mutex_lock(&m->lock);
    if (m->state == FF_PREPARED || m->state == FF_BEGUN) {
        mine = true;
        m->state = FF_PREPARING;
    } else if (m->capture) {
        ff_capture_cancel(m->capture);
    } else {
        m->cancelled = m->state == FF_PREPARING;
    }
    pthread_mutex_unlock(&m->lock);
    ff_unblock_signals(&old);
    if (mine) {
        ff_capture_finish(m);
        ff_memory_set_state(m, FF_IDLE);
    }
    return 0;
}

int ff_snapshot_stats(FfMemory *m, FfSnapshotStats *stats)
{
    int rc = ff_memory_check(m);
    FfSnapshotStats now;
    size_t size = stats->size;
    sigset_t old;

    if (rc < 0) {
        return rc;
    }
    ff_block_signals(&old);
    pthread_mutex_lock(&m->lock);
    if (m->capture) {
        FfCaptureStats c = ff_capture_stats(m->capture);
        ff_memory_fill_stats(m, &now, &c);
    } else {
        now = m->stats;
        now.save_us = m->save_us;
    }
    pthread_mutex_unlock(&m->lock);
    ff_unblock_signals(&old);
    memcpy(stats, &now, MIN(size, sizeof(now)));
    stats->size = size;
    return 0;
}
