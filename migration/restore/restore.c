/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The coordinator of a restore; see restore.h. Its steps are those of every destination
 * (migration/destination/destination.c), by the same journal; what a source would say comes from
 * the file:
 *
 *   SETUP     the file is opened and compared with this QEMU; the relay holds it
 *   LOADING   guest RAM is armed, the pager answers, device state is fed
 *   LOADED    and GRANTED at once: the file gives the guest to any client that restores it
 *   DONE      every page is here
 *
 * When the file cannot be read, or the engine has died, all is kept and a thread that waits
 * continues to wait: the pager is made again over the file that was held, or that the client names
 * (await_file()).
 *
 * Thread: the coordinator; the pager's call on_read_failed() and cannot_place(). Lock: the
 * control's, for `pager`, which the driver looks at.
 */
#include "migration/restore/restore.h"

#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <string.h>
#include <unistd.h>

#include "base/failpoints.h"
#include "base/priority.h"
#include "contract/stderr.h"
#include "migration/common/ownership.h"
#include "migration/destination/arm.h"
#include "migration/destination/destination.h"
#include "migration/destination/device.h"
#include "migration/destination/fault.h"
#include "migration/destination/parts.h"
#include "migration/restore/clone.h"
#include "migration/restore/file.h"
#include "migration/restore/lease.h"
#include "migration/restore/set.h"
#include "migration/restore/wait.h"

/* Pages that are read together for a fault. */
#define WINDOW 4
#define FEED (1u << 20)
/* Bytes of a compressed file that are unpacked together: a frame of ours. */
#define PACKED_FILL (128u << 10)

/* How often a server that has gone is looked for, and for how long when the restore begins. */
#define AGAIN_US (G_USEC_PER_SEC / 5)
#define FIRST_US (3 * G_USEC_PER_SEC)

/* While its working set is found out, nothing is filled: what the fill brings nobody asks for. */
#define LEARN_US (4 * G_USEC_PER_SEC)

struct FfRestore {
    FfUseSet set;       /* of this attempt; an engine that follows only fills */
    FfRestoreSet *sets; /* lock, to write; NULL: none is used */
    GThread *writer;    /* writes one; NULL */
    int fd;             /* given, or held by the engine before this one; -1: none */
    char *path;
    int64_t offset;
    bool as_eager;
    bool cloned;  /* what is read is nobody else's: clone.h */
    bool adopted; /* until the first attempt is made */
    FfRestoreFile *file;
    int lease_fd;       /* a description of it for that alone; -1: none */
    FfLease *lease;     /* on it, while it is read; NULL: none */
    bool hurries;       /* lock; somebody waits for the end of it */
    FfFilePager *pager; /* lock */
    FfFileCounts past;  /* lock; of pagers before this one */
};

/* ---- the pager ------------------------------------------------------------------------------- */

/* How a copy is made the same again: touch -d takes the time. (g_free) */
static char *as_it_was(uint64_t size, int64_t mtime_ns)
{
    if (mtime_ns == FF_STATE_NO_TIME) {
        return g_strdup_printf("%" G_GUINT64_FORMAT " bytes", size);
    }
    return g_strdup_printf("%" G_GUINT64_FORMAT " bytes, its time @%" G_GINT64_FORMAT
                           ".%09" G_GINT64_FORMAT ": touch -d",
                           size, mtime_ns / 1000000000, mtime_ns % 1000000000);
}

/* FfFilePagerConfig */
static void on_read_failed(const FfFileError *e, void *side)
{
    FfDestination *d = side;
    const char *path = d->restore->file->path;

    if (d->restore->file->fd < 0) {
        ff_control_dead(d->control, "%s; who waits for memory waits",
                        e->why ? e->why : g_strerror(e->error));
    } else if (e->error == ESTALE) {
        g_autofree char *was = as_it_was(d->restore->file->id.size, d->restore->file->id.mtime_ns);

        ff_control_dead(d->control,
                        "%s: it was changed while the guest is restored from it: it must be as it "
                        "was (%s); who waits for memory waits",
                        path, was);
    } else if (e->error == EBADMSG) {
        ff_control_dead(d->control,
                        "%s: damaged: what is compressed there cannot be unpacked (byte "
                        "%" G_GUINT64_FORMAT " of the memory's file); who waits for memory waits",
                        path, e->at);
    } else if (e->error == ENODATA) {
        ff_control_dead(d->control,
                        "%s: it was cut: nothing is at byte %" G_GUINT64_FORMAT
                        "; who waits for memory waits",
                        path, e->at);
    } else {
        g_autofree char *what =
            g_strdup_printf("%s: %s (errno %d)", path, g_strerror(e->error), e->error);

        ff_control_dead(d->control,
                        "%s: cannot be read at byte %" G_GUINT64_FORMAT
                        " of the memory's file; who waits for memory waits",
                        e->why ? e->why : what, e->at);
    }
}

/* FfFilePagerConfig */
static void cannot_place(const FfRun *run, int rc, void *side)
{
    ff_dest_cannot_place(side, run, rc);
}

/* FfFilePagerConfig */
static int place_zeros(const FfRun *run, void *side)
{
    return ff_placer_zero(&((FfDestination *)side)->placer, run);
}

static void set_pager(FfDestination *d, FfFilePager *pager)
{
    FfRestore *r = d->restore;

    ff_mutex_lock(&d->control->lock);
    FfFilePager *old = r->pager;
    r->pager = pager;
    if (pager && r->hurries) {
        ff_file_pager_hurry(pager);
    }
    if (old) {
        FfFileCounts c = ff_file_pager_counts(old);

        r->past.faults += c.faults;
        r->past.zeros += c.zeros;
        r->past.fault_bytes += c.fault_bytes;
        r->past.fill_bytes += c.fill_bytes;
        r->past.first_pages += c.first_pages;
    }
    ff_mutex_unlock(&d->control->lock);
    ff_file_pager_free(old);
}

/* Guest RAM is armed, and no fault thread runs. One that follows is answered. */
static void start_pager(FfDestination *d)
{
    FfRestore *r = d->restore;
    bool learns = r->set == FF_SET_LEARN;
    FfFilePager *pager = ff_file_pager_new(&(FfFilePagerConfig){
        .space = d->placer.space,
        .blocks = r->file->blocks,
        .n_blocks = r->file->n_blocks,
        .window = learns ? 1 : WINDOW,
        .first = ff_restore_set_first(r->sets),
        .record = learns ? ff_restore_set_max(r->file) : 0,
        .thread_begins = ff_priority_urgent,
        .zero = place_zeros,
        .fill = r->file->compressed ? PACKED_FILL : 0,
        .failed = on_read_failed,
        .cannot_place = cannot_place,
        .opaque = d,
    });
    ff_space_set_pager(d->placer.space, ff_file_pager_pager(pager));
    set_pager(d, pager);
    ff_file_pager_start(pager, r->file->content);
}

/* Nobody is answered any more. The fault thread does not run. */
static void stop_pager(FfDestination *d)
{
    if (d->placer.space) {
        ff_space_set_pager(d->placer.space, &d->peer.pager);
    }
    set_pager(d, NULL);
}

/* ---- the file -------------------------------------------------------------------------------- */

/* As long as the guest needs it, for the engine after this one. */
static void keep_file(FfDestination *d)
{
    FfStateHeader *state = d->cfg->state;
    FfRestore *r = d->restore;
    FfStateFile kept = {r->file->id.size, r->file->id.mtime_ns, r->offset, r->file->digest};
    g_autofree char *uri = ff_restore_uri(d);

    memset(state->uuid, 0, sizeof(state->uuid));
    memcpy(state->secret, &kept, sizeof(kept));
    /* It may be cut: is_its_name(). */
    g_strlcpy(state->peer_uri, uri, sizeof(state->peer_uri));
    ff_state_mark(state, FF_MARK_FILE);
}

static void store_file_fd(FfDestination *d)
{
    if (d->control->ops.hold && d->restore->file->fd >= 0) {
        d->control->ops.hold(FF_FILE_HELD, d->restore->file->fd, d->control->ops.opaque);
    }
}

static void drop_fd(FfDestination *d, const char *name)
{
    if (d->control->ops.drop) {
        d->control->ops.drop(name, d->control->ops.opaque);
    }
}

/* Where it is from now on, for the engine after this one: a whole name, or none as long as it may
 * not be that of what is held. What it is was known already, but for the time of an export. */
static void keep_place(FfDestination *d)
{
    FfStateHeader *state = d->cfg->state;
    FfStateFile *kept = (FfStateFile *)state->secret;
    g_autofree char *uri = ff_restore_uri(d);

    /* Observer: the next engine, wherever this one dies. */
    __atomic_store_n(&state->peer_uri[0], 0, __ATOMIC_SEQ_CST);
    if (d->restore->file->fd >= 0) {
        __atomic_store_n(&kept->mtime_ns, d->restore->file->id.mtime_ns, __ATOMIC_SEQ_CST);
    }
    FF_FAULT_AT("place-unnamed");
    if (d->restore->file->fd < 0) {
        drop_fd(d, FF_FILE_HELD);
    } else {
        store_file_fd(d);
    }
    FF_FAULT_AT("place-held");
    g_strlcpy(state->peer_uri + 1, uri + 1, sizeof(state->peer_uri) - 1);
    __atomic_store_n(&state->peer_uri[0], uri[0], __ATOMIC_SEQ_CST);
}

static int open_path(const char *path, GError **error)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not block */

    if (fd < 0) {
        g_set_error(error, FF_M_ERROR, 0, "%s: %s", path, g_strerror(errno));
    }
    return fd;
}

/* FfLeaseFunc. The kernel lets the writer in when its time is over, and what was not read by then
 * may be nowhere: before that, a thread that waits for a page comes second. */
static void hurry_fill(void *opaque)
{
    FfDestination *d = opaque;
    FfRestore *r = d->restore;

    ff_mutex_lock(&d->control->lock);
    r->hurries = true;
    if (r->pager) {
        ff_file_pager_hurry(r->pager);
    }
    ff_mutex_unlock(&d->control->lock);
    ff_control_event(d->control, FF_EV_HURRY);
}

/* As long as the file is read, and no longer. */
static void take_lease(FfDestination *d, int fd, const char *path)
{
    FfRestore *r = d->restore;

    ff_mutex_lock(&d->control->lock);
    r->hurries = false;
    ff_mutex_unlock(&d->control->lock);
    if (r->lease_fd < 0) {
        r->lease_fd = ff_lease_open(fd);
    }
    r->lease = ff_lease_take(r->lease_fd, path, d->control->driver_ctx, hurry_fill, d);
    if (!r->lease) {
        ff_close_fd(&r->lease_fd);
    } else if (d->control->ops.hold) {
        d->control->ops.hold(FF_LEASE_HELD, r->lease_fd, d->control->ops.opaque);
    }
}

/* With the last copy of the description, if it cannot be given up (lease.h). */
static void end_lease(FfDestination *d)
{
    FfRestore *r = d->restore;

    g_clear_pointer(&r->lease, ff_lease_end);
    if (r->lease_fd >= 0) {
        ff_close_fd(&r->lease_fd);
        drop_fd(d, FF_LEASE_HELD);
    }
}

/* FD (taken), or a copy that nobody else has, if the client may take the file for its own again
 * before all of it was read. */
static int make_own(FfDestination *d, int fd)
{
    FfRestore *r = d->restore;
    int copy = r->as_eager ? ff_restore_clone(fd, r->path) : -1;

    if (copy < 0) {
        return fd;
    }
    g_message("restore: %s is read from a copy that shares its space: nobody is held back from "
              "overwriting it",
              r->path);
    end_lease(d);
    close(fd);
    r->cloned = true;
    return copy;
}

/* An export. A server that has just lost another client, an engine that died among them, may not
 * have noticed it: where it has room for one that is none for this one yet. Ends early if a client
 * wants to pause. */
static FfRestoreFile *open_export(FfDestination *d, const char *uri, int64_t offset,
                                  int64_t patience_us, GError **error)
{
    int64_t until = g_get_monotonic_time() + patience_us, now;
    g_autoptr(GError) local = NULL;
    FfRestoreFile *f;

    while (!(f = ff_restore_file_open_uri(uri, offset, &local)) &&
           g_error_matches(local, G_IO_ERROR, FF_CONTENT_GONE) &&
           (now = g_get_monotonic_time()) < until &&
           !ff_control_wait_until(d->control, FF_EV_QUIT | FF_EV_PAUSE, now + AGAIN_US)) {
        g_clear_error(&local);
    }
    if (!f) {
        g_propagate_error(error, g_steal_pointer(&local));
    }
    return f;
}

static bool open_file(FfDestination *d, GError **error)
{
    FfRestore *r = d->restore;

    if (ff_restore_is_uri(r->path)) {
        r->file = open_export(d, r->path, r->offset, FIRST_US, error);
        return r->file != NULL;
    }
    int fd = r->fd >= 0 ? g_steal_fd(&r->fd) : open_path(r->path, error);

    if (fd >= 0) {
        take_lease(d, fd, r->path); /* while it is copied, too */
        fd = make_own(d, fd);
    }
    r->file = fd >= 0 ? ff_restore_file_open(fd, r->path, r->offset, error) : NULL;
    return r->file != NULL;
}

/* After the file was compared. */
static void open_set(FfDestination *d)
{
    FfRestore *r = d->restore;
    /* What one would be made of and compared with is not at its place in such a file. */
    bool none = r->file->compressed || r->file->fd < 0;
    if (none && r->set == FF_SET_LEARN) {
        g_message("restore: %s is compressed, or an export: it gets no working set", r->file->path);
    }
    r->set = none ? FF_SET_IGNORE : r->set;
    FfRestoreSet *set = r->set == FF_SET_USE ? ff_restore_set_open(r->file) : NULL;

    ff_mutex_lock(&d->control->lock);
    r->sets = set;
    ff_mutex_unlock(&d->control->lock);
}

/* ---- the way in ------------------------------------------------------------------------------ */

static bool compare_guest(FfDestination *d, GError **error)
{
    FfVmmState *state = &d->cfg->vmm->state;
    g_autofree char *machine = state->machine ? state->machine(state) : NULL;

    return ff_restore_file_compare(d->restore->file, d->ram, machine, d->conn->vm_uuid, error);
}

static bool begin_restore(FfDestination *d, GError **error)
{
    FfVmmState *state = &d->cfg->vmm->state;
    bool refused;

    FF_FAULT_AT("setup");
    /* What it has said of other things, an hour ago, is no reason if it ends now. */
    d->stderr_before = ff_stderr_written(d->cfg->discard_fd);
    if (!ff_dest_check_guest(d, &refused, error) || !open_file(d, error) ||
        !compare_guest(d, error)) {
        return false;
    }
    open_set(d);
    keep_file(d);
    store_file_fd(d);
    FF_FAULT_AT("held");
    if (!state->prepare(state, FF_ROLE_DESTINATION, error)) {
        return false;
    }
    FF_FAULT_AT("prepared");
    ff_stamp(d->stats->setup_us);
    ff_control_set_status(d->control, FF_STATUS_ACTIVE);
    FF_FAULT_AT("active");
    return true;
}

/* What QEMU does not take at once the feeder has. */
static bool feed_devices(FfDestination *d, int fd, GError **error)
{
    g_autofree uint8_t *piece = g_malloc(FEED);
    ssize_t n;

    for (off_t at = 0; (n = pread(fd, piece, FEED, at)) > 0; at += n) {
        ff_dest_feed(d, piece, n);
        ff_count(d->stats->device_bytes, n);
    }
    if (n < 0) {
        g_set_error(error, FF_M_ERROR, 0, "%s: its device state: %s", d->restore->path,
                    g_strerror(errno));
    }
    return n == 0;
}

static void take_run_state(FfDestination *d, char *run_state)
{
    ff_mutex_lock(&d->control->lock);
    g_free(d->granted_state);
    d->granted_state = run_state;
    ff_mutex_unlock(&d->control->lock);
}

static void fill_memory(FfDestination *d)
{
    if (d->restore->pager) { /* go_on_without() */
        ff_file_pager_fill(d->restore->pager);
    }
}

/* What was read twice was placed once; of a huge page all is placed that stands in the file in
 * part.
 */
static uint64_t bytes_here(const FfDestination *d)
{
    FfFileCounts c = ff_file_pager_counts(d->restore->pager);

    uint64_t placed = ff_counted(d->stats->content_bytes);

    return MIN(c.fault_bytes + c.fill_bytes + c.first_bytes, placed);
}

/* For so long a process that overwrites the file is held back; 0: it is not, or it waits
 * already. */
static int64_t held_us(FfDestination *d)
{
    ff_mutex_lock(&d->control->lock);
    bool held = d->restore->lease && !d->restore->hurries;
    ff_mutex_unlock(&d->control->lock);
    return held ? (int64_t)ff_lease_seconds() * G_USEC_PER_SEC : 0;
}

/* Its client is told that all is over, and may overwrite the file. FALSE: it cannot be read. */
static bool await_most(FfDestination *d)
{
    const unsigned ends = FF_EV_ALL | FF_EV_DEAD | FF_EV_QUIT | FF_EV_WANT_CANCEL;
    const FfRestore *r = d->restore;
    const uint64_t data = ff_restore_file_data(r->file);
    int64_t began = g_get_monotonic_time(), now = began;
    unsigned got = 0;

    fill_memory(d);
    for (bool said = false; !got; now = g_get_monotonic_time()) {
        int64_t held = held_us(d),
                wait = FF_FAULT_STEP("slow-file", false)
                           ? G_MAXINT64 / 2
                           : ff_restore_wait_us(data, bytes_here(d), now - began, held);
        if (wait <= 0) {
            break;
        }
        if (!said && wait > FF_RESTORE_TRIAL_US) {
            said = true;
            g_message("restore: %s: the guest waits for its memory: %s", r->file->path,
                      held ? "the file could be overwritten before the rest is read"
                           : "nobody is held back from overwriting the file");
        }
        got = ff_control_wait_until(d->control, ends, now + wait);
    }
    return got & FF_EV_ALL || !(got & FF_EV_DEAD);
}

static void grant_restore(FfDestination *d)
{
    const FfRestore *r = d->restore;

    if (!r->as_eager || r->cloned || await_most(d)) {
        ff_control_event(d->control, FF_EV_GRANT);
    }
}

/* QEMU loads a guest that lacks a device of its own without a word. */
static void compare_parts(FfDestination *d)
{
    FfVmmState *state = &d->cfg->vmm->state;
    g_autofree char *ours = state->parts ? state->parts(state) : NULL;
    g_autoptr(GBytes) tail = ours ? ff_restore_file_tail(d->restore->file, NULL) : NULL;

    g_clear_pointer(&d->suspects, g_free);
    if (tail) {
        d->suspects = ff_parts_more(ours, g_bytes_get_data(tail, NULL), g_bytes_get_size(tail));
    }
    if (d->suspects) {
        g_message("the guests differ: %s", d->suspects);
    }
}

static bool load_devices(FfDestination *d, GError **error)
{
    FfRestore *r = d->restore;
    g_autofree char *run_state = NULL;
    int fd = ff_restore_file_devices(r->file, d->ram, &d->cfg->vmm->memory, &run_state, error);
    if (fd >= 0) {
        compare_parts(d);
    }
    bool ok = fd >= 0 && ff_dest_begin_load(d, error);

    if (ok) {
        start_pager(d);
        ff_dest_fault_start(d);
        ff_stamp(d->stats->stop_us);
        ok = feed_devices(d, fd, error);
    }
    ff_close_fd(&fd);
    if (!ok || !ff_dest_await_loaded(d, error)) {
        return false;
    }
    FF_FAULT_AT("shut");
    /* For an engine that finds all of the memory here, and the file gone. */
    g_strlcpy(d->cfg->state->run_state, run_state, sizeof(d->cfg->state->run_state));
    take_run_state(d, g_steal_pointer(&run_state));
    ff_ownership_loaded(d->cfg->state);
    FF_FAULT_AT("loaded");
    grant_restore(d);
    return true;
}

void ff_restore_coordinate(FfDestination *d)
{
    g_autoptr(GError) error = NULL;

    if (begin_restore(d, &error) && load_devices(d, &error)) {
        ff_dest_end_loaded(d);
    } else {
        end_lease(d);
        if (d->occupied) {
            ff_ownership_idle(d->cfg->state); /* nothing was begun */
        }
        ff_dest_give_up(d, error);
    }
}

/* ---- once more ------------------------------------------------------------------------------- */

/* A block device has neither size nor time that would tell: its content does. An export has no
 * time.
 */
static bool is_same(const FfRestoreFile *f, const FfStateFile *kept)
{
    if (f->fd < 0 || kept->mtime_ns == FF_STATE_NO_TIME) {
        return f->id.size == kept->size && kept->digest && f->digest == kept->digest;
    }
    return f->id.size == kept->size && f->id.mtime_ns == kept->mtime_ns &&
           (!kept->digest || f->digest == kept->digest);
}

/* The file as it was, or the one that the client names: it must be the same. */
static FfRestoreFile *find_file(FfDestination *d, const char *path, GError **error)
{
    const FfRestore *r = d->restore;
    const char *uri = path ? path : r->path;
    bool far = ff_restore_is_uri(uri);
    FfStateFile kept;

    if (!path && r->fd < 0 && !far) {
        g_set_error(error, FF_M_ERROR, 0,
                    "the file that this guest is restored from is not held any more: name it "
                    "(migrate-recover, file:PATH)");
        return NULL;
    }
    /* The one that is held stays: it may have no name, and what fails now may not the next time. */
    int fd = far ? -1 : path ? open_path(path, error) : fcntl(r->fd, F_DUPFD_CLOEXEC, 3);
    if (fd < 0 && !far) {
        if (!path) {
            g_set_error(error, FF_M_ERROR, 0, "%s: %s", r->path, g_strerror(errno));
        }
        return NULL;
    }
    memcpy(&kept, d->cfg->state->secret, sizeof(kept));
    g_autoptr(FfRestoreFile) f = far ? open_export(d, uri, kept.offset, FF_FILE_PATIENCE_US, error)
                                     : ff_restore_file_open(fd, uri, kept.offset, error);
    if (f && !is_same(f, &kept)) {
        g_autofree char *was = as_it_was(kept.size, kept.mtime_ns);

        g_set_error(
            error, FF_M_ERROR, 0,
            "%s: it is not the file that this guest is restored from, or was changed since: "
            "its size, its time and its device state have to be the same (%s)",
            f->path, was);
        return NULL;
    }
    return f && ff_restore_file_compare(f, d->ram, NULL, NULL, error) ? g_steal_pointer(&f) : NULL;
}

/* Another file in place of the one that is there (PATH NULL: of none). */
static FfRestoreFile *next_file(FfDestination *d, const char *path, GError **error)
{
    g_autoptr(FfRestoreFile) file = find_file(d, path, error);
    g_autofree char *run_state = file ? ff_restore_file_run_state(file, error) : NULL;

    if (!run_state) {
        return NULL;
    }
    /* All of it was read by now, and is what was compared. */
    if (!ff_content_check(file->reader, NULL)) {
        g_set_error(error, FF_M_ERROR, 0, "%s: it was changed while it was read", file->path);
        return NULL;
    }
    take_run_state(d, g_steal_pointer(&run_state));
    return g_steal_pointer(&file);
}

/* Of an adopted one the end may be missing (keep_file()). */
static bool is_its_name(const FfDestination *d, const char *path)
{
    const size_t most = sizeof(d->cfg->state->peer_uri) - 1 - strlen("file:");
    const char *ours = d->restore->path;

    return !strcmp(path, ours) || (strlen(ours) == most && g_str_has_prefix(path, ours));
}

/* The same by the name that the file had: where it has lost that, it may still be held. */
static FfRestoreFile *next_file_or_held(FfDestination *d, const char *path, GError **error)
{
    g_autoptr(GError) named = NULL, held = NULL;
    FfRestoreFile *file = next_file(d, path, &named);

    if (!file && path && d->restore->fd >= 0 && is_its_name(d, path)) {
        file = next_file(d, NULL, &held);
    }
    if (!file) {
        g_set_error(error, FF_M_ERROR, 0, "%s%s%s", named->message,
                    held ? "; the one that is held: " : "", held ? held->message : "");
    }
    return file;
}

/* The pager starts anew, over FILE (taken) or, if that is NULL, over the one that is there. PATH:
 * as the client has named it; NULL: its lease is there already. */
static void attach_file(FfDestination *d, FfRestoreFile *file, const char *path)
{
    FfRestore *r = d->restore;

    ff_dest_fault_stop(d);
    stop_pager(d);
    if (file) {
        ff_restore_file_free(r->file);
        r->file = file;
        r->cloned = false;
        ff_close_fd(&r->fd);
        if (path) {
            ff_mutex_lock(&d->control->lock);
            g_free(r->path);
            r->path = g_strdup(path);
            ff_mutex_unlock(&d->control->lock);
        }
        keep_place(d);
    }
    if (path && r->file->fd >= 0) { /* else it has been taken */
        take_lease(d, r->file->fd, r->file->path);
    }
    start_pager(d);
    ff_dest_fault_start(d);
}

/* PATH NULL: the file that is there. FALSE: all is as it was. */
static bool try_attach_file(FfDestination *d, const char *path, GError **error)
{
    FfRestore *r = d->restore;
    g_autoptr(GError) local = NULL;

    /* What a client says from here on is of the attempt that begins; nothing fails meanwhile, as
     * that was said already. */
    ff_control_forget(d->control, FF_EV_DEAD | FF_EV_PAUSE);
    if (r->file && r->file->fd < 0 && !g_strcmp0(path, r->file->path)) {
        if (!ff_restore_file_answers(r->file, error)) {
            return false;
        }
        attach_file(d, NULL, NULL);
        return true;
    }
    if (r->file && r->file->fd < 0) { /* its server may have room for one connection */
        ff_content_rest(ff_reader_file_what(r->file->content));
    }
    FfRestoreFile *file = path || !r->file ? next_file_or_held(d, path, &local) : NULL;
    /* It has lost its name, or another one has that now: it is still open. */
    bool held = r->file && !g_strcmp0(path, r->file->path);

    if (local && !held) {
        g_propagate_error(error, g_steal_pointer(&local));
        return false;
    }
    attach_file(d, file, path);
    return true;
}

/* It is there again: the guest continues, or is granted now. */
static void go_on(FfDestination *d)
{
    ff_mutex_lock(&d->control->lock);
    bool granted = d->control->granted;
    ff_mutex_unlock(&d->control->lock);
    if (granted) {
        ff_control_set_status(d->control, FF_STATUS_POSTCOPY_ACTIVE);
        fill_memory(d);
    } else {
        grant_restore(d);
    }
}

/* When every page is here the file is needed no more, but for the run state of a guest that is not
 * granted, which an engine of an older release has not stored. */
static unsigned end_of_need(FfDestination *d)
{
    ff_mutex_lock(&d->control->lock);
    bool known = d->control->granted || d->granted_state || d->cfg->state->run_state[0];
    ff_mutex_unlock(&d->control->lock);
    return known ? FF_EV_ALL : 0;
}

static void go_on_without(FfDestination *d)
{
    ff_control_forget(d->control, FF_EV_DEAD | FF_EV_PAUSE);
    ff_mutex_lock(&d->control->lock);
    bool granted = d->control->granted, stated = d->granted_state;
    ff_mutex_unlock(&d->control->lock);
    if (granted) {
        ff_control_set_status(d->control, FF_STATUS_POSTCOPY_ACTIVE);
        return;
    }
    if (!stated) {
        take_run_state(d, g_strdup(d->cfg->state->run_state));
    }
    ff_control_event(d->control, FF_EV_GRANT);
}

/* The client's migrate-recover, with the path that it names (g_free); or an end. Returns which. */
static unsigned await_recover(FfDestination *d, char **path)
{
    unsigned got = ff_control_wait(d->control, FF_EV_RECOVER | FF_EV_QUIT | end_of_need(d));

    ff_mutex_lock(&d->control->lock);
    *path = g_steal_pointer(&d->control->new_uri);
    d->control->events &= ~(unsigned)FF_EV_RECOVER;
    ff_mutex_unlock(&d->control->lock);
    return got;
}

/* The client's migrate-pause, too, gives the disk its peace. Nobody is held back for that long. */
static void pause_for(FfDestination *d, const GError *why)
{
    if (d->restore->pager) {
        ff_file_pager_pause(d->restore->pager);
    }
    end_lease(d);
    if (why) {
        ff_control_forget(d->control, 0); /* newer than what was said first */
    }
    ff_control_pause(d->control, why ? why->message : "the file cannot be read");
}

/* FfDestOrigin */
static bool await_file(FfDestination *d)
{
    FfRestore *r = d->restore;
    g_autoptr(GError) error = NULL;
    bool asked = r->adopted; /* where only the engine has died, nobody need be asked */

    r->adopted = false;
    if (asked && r->fd >= 0) {
        take_lease(d, r->fd, r->path); /* first: a thread that waits has waited for long */
    }
    for (;; asked = false) {
        g_autofree char *path = NULL;
        unsigned got = 0;

        if (!asked) {
            pause_for(d, error);
            g_clear_error(&error);
            got = await_recover(d, &path);
            if (got & FF_EV_QUIT) {
                return false;
            }
            ff_control_set_status(d->control, FF_STATUS_POSTCOPY_RECOVER);
        }
        /* Faults alone have brought the last pages; or they were here when the engine died. */
        if (ff_control_events(d->control) & end_of_need(d)) {
            go_on_without(d);
            return true;
        }
        if (try_attach_file(d, path, &error)) {
            go_on(d);
            return true;
        }
        g_message("restore: %s", error->message);
    }
}

/* A thread that waits for the end of the restore ends it early. */
static void learn_working_set(FfDestination *d)
{
    FfRestore *r = d->restore;
    const unsigned end = FF_EV_ALL | FF_EV_DEAD | FF_EV_QUIT;
    unsigned got =
        ff_control_wait_until(d->control, end | FF_EV_HURRY, g_get_monotonic_time() + LEARN_US);

    r->set = FF_SET_IGNORE;
    if (r->pager && !(got & (FF_EV_DEAD | FF_EV_QUIT))) {
        r->writer = ff_restore_set_write(r->file, r->pager);
    }
}

/* FfDestOrigin: the guest runs, and what is beside its faults may begin. */
static void on_granted(FfDestination *d)
{
    if (d->restore->set == FF_SET_LEARN) {
        learn_working_set(d);
    }
    fill_memory(d);
}

/* FfDestOrigin */
static void end_restore(FfDestination *d)
{
    end_lease(d);
    stop_pager(d);
    ff_control_join(&d->restore->writer);
}

static const FfDestOrigin origin = {.again = await_file,
                                    .granted = on_granted,
                                    .all = end_lease,
                                    .end = end_restore,
                                    .over = ff_restore_forget};

/* ---- beginning and end ----------------------------------------------------------------------- */

void ff_restore_init(FfDestination *d, FfRestoreConfig *cfg)
{
    FfRestore *r = g_new0(FfRestore, 1);

    d->origin = &origin;
    d->restore = r;
    r->fd = g_steal_fd(&cfg->fd);
    r->lease_fd = g_steal_fd(&cfg->lease_fd);
    r->path = g_strdup(cfg->path);
    r->offset = cfg->offset;
    r->set = cfg->set;
    r->as_eager = cfg->as_eager;
}

void ff_restore_adopt_init(FfDestination *d, FfRestoreConfig *cfg)
{
    FfRestore *r;
    const char *uri = d->cfg->state->peer_uri;

    ff_restore_init(d, cfg);
    r = d->restore;
    g_free(r->path);
    r->path = g_strdup(g_str_has_prefix(uri, "file:") ? uri + strlen("file:") : uri);
    r->offset = -1;
    r->set = FF_SET_IGNORE;
    r->adopted = true;
}

void ff_restore_forget(FfDestination *d)
{
    drop_fd(d, FF_LEASE_HELD);
    drop_fd(d, FF_FILE_HELD);
    ff_state_unmark(d->cfg->state, FF_MARK_FILE);
    d->cfg->state->peer_uri[0] = 0;
}

void ff_restore_describe_locked(const FfDestination *d, FfMigrationInfo *info)
{
    const FfRestore *r = d->restore;
    FfFileCounts c = r->pager ? ff_file_pager_counts(r->pager) : (FfFileCounts){0};

    info->restore = true;
    info->requests = c.faults + c.zeros + r->past.faults + r->past.zeros;
    info->fault_bytes = c.fault_bytes + r->past.fault_bytes;
    info->fill_bytes = c.fill_bytes + r->past.fill_bytes;
    info->set_bytes = ff_restore_set_pages(r->sets) * FF_FILE_PAGE;
    info->set_used = (c.first_pages + r->past.first_pages) * FF_FILE_PAGE;
    info->bytes_wire = info->fault_bytes + info->fill_bytes;
}

char *ff_restore_uri(const FfDestination *d)
{
    return ff_restore_is_uri(d->restore->path) ? g_strdup(d->restore->path)
                                               : g_strconcat("file:", d->restore->path, NULL);
}

void ff_restore_clear(FfDestination *d)
{
    FfRestore *r = d->restore;

    if (!r) {
        return;
    }
    ff_lease_end(r->lease);
    ff_file_pager_free(r->pager);
    ff_restore_set_free(r->sets);
    ff_restore_file_free(r->file);
    ff_close_fd(&r->fd);
    ff_close_fd(&r->lease_fd);
    g_free(r->path);
    g_free(r);
}
