/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See dump.h. Everything that a dump says is compared (dump-fit.h), and each piece of it that
 * is needed is verified, before anything is changed; then, in this order: the relay holds the
 * directory, the epoch is raised, the mark is stored, and the pager (content/pagers/file.h) takes
 * the place of the one that asked the source. It reads by read_pages(), which verifies each piece
 * again.
 *
 * A dump that an engine before this one has used is compared only: what was verified then is
 * verified once more when it is used.
 *
 * Each read of memory is a reader's (content/pagers/reader.h), which is left behind where it does
 * not come back. So what it reads from (FfDumpFiles) is freed by the last one.
 *
 * Threads: the coordinator; one that verifies, for which it waits; those of the pager call
 * read_pages(), on_read_failed(), cannot_place() and place_zeros(). No locks of its own.
 */
#include "migration/destination/dump.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "base/failpoints.h"
#include "base/priority.h"
#include "content/image/pageset.h"
#include "content/pagers/file.h"
#include "migration/destination/arm.h"
#include "migration/destination/dump-fit.h"
#include "migration/destination/fault.h"

/* Pages that are placed together for a fault. */
#define WINDOW 16

/* A dump that fits the guest. */
typedef struct {
    FfReaderFile *shared; /* has fit.files */
    FfDumpFit fit;
} Dump;

struct FfDestDump {
    int fd;       /* held by the engine before this one; -1: none */
    bool adopted; /* until the first attempt is made */
    Dump *now;    /* NULL: none is read */
    FfFilePager *pager;
    FfDestination *side;
};

static void dump_free(Dump *dump)
{
    if (!dump) {
        return;
    }
    ff_dump_fit_clear(&dump->fit);
    ff_reader_file_unref(dump->shared);
    g_free(dump);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Dump, dump_free)

/* ---- verifying it ---------------------------------------------------------------------------- */

/* What the thread that verifies is told, and tells; not after -ECANCELED. */
typedef struct {
    FfDestination *d;
    const Dump *dump;
    GError *error;
    bool verified;
} Verification;

/* FALSE: the end, and V may be gone. */
static bool verify_block(FfReader *r, Verification *v, unsigned i)
{
    const FfDumpBlock *b = v->dump->fit.block[i];

    for (uint64_t piece = 0; piece < b->n_pieces; piece++) {
        if (ff_control_events(v->d->control) & (FF_EV_QUIT | FF_EV_DEAD)) {
            return false;
        }
        if (!ff_dump_fit_needs(&v->dump->fit, v->d->ram, i, piece)) {
            continue;
        }
        ff_reader_enter(r, v->dump->shared);
        int rc = ff_reader_leave(r, ff_dump_read(b, piece, ff_reader_buffer(r)));
        if (rc < 0) {
            if (rc != -ECANCELED) {
                ff_dump_set_error(b, piece, rc, &v->error);
            }
            return false;
        }
    }
    return true;
}

/* FfReaderFunc */
static void verify_blocks(FfReader *r, void *opaque)
{
    Verification *v = opaque;
    unsigned n = v->d->ram->n_blocks, i = 0;

    while (i < n && verify_block(r, v, i)) {
        i++;
    }
    if (!ff_reader_is_left(r)) {
        v->verified = i == n;
        ff_control_event(v->d->control, FF_EV_VERIFIED);
    }
}

/* All that is needed of it. */
static bool verify_pages(FfDestination *d, const Dump *dump, GError **error)
{
    Verification v = {.d = d, .dump = dump};

    ff_control_forget_events(d->control, FF_EV_VERIFIED);
    FfReader *r = ff_reader_start("ff-dump-verify", FF_DUMP_PIECE, verify_blocks, &v);
    ff_control_wait(d->control, FF_EV_VERIFIED | FF_EV_QUIT | FF_EV_DEAD);
    ff_reader_end(r);
    if (v.error) {
        g_propagate_error(error, v.error);
        return false;
    }
    if (!v.verified) {
        g_set_error(error, FF_M_ERROR, 0, "%s: it was not read to its end: paused meanwhile",
                    dump->fit.files->path);
    }
    return v.verified;
}

/* FD (taken) is the directory PATH. */
static Dump *open_dump(FfDestination *d, int fd, const char *path, bool verified, GError **error)
{
    g_autoptr(Dump) dump = g_new0(Dump, 1);

    FfDumpFiles *files = ff_dump_files_open(fd, path, error);
    if (!files) {
        return NULL;
    }
    dump->fit.files = files;
    dump->shared = ff_reader_file_new_of(files, (GDestroyNotify)ff_dump_files_free);
    if (!ff_dump_fit_check(&dump->fit, d->ram, d->conn->session, error) ||
        (!verified && !verify_pages(d, dump, error))) {
        return NULL;
    }
    FF_FAULT_AT("dump-verified");
    ff_dump_fit_make_pages(&dump->fit, d->ram);
    return g_steal_pointer(&dump);
}

static Dump *open_path(FfDestination *d, const char *path, bool verified, GError **error)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0) {
        g_set_error(error, FF_M_ERROR, 0, "%s: %s (errno %d): a dump is a directory", path,
                    g_strerror(errno), errno);
        return NULL;
    }
    return open_dump(d, fd, path, verified, error);
}

/* ---- the pager ------------------------------------------------------------------------------- */

/* The piece that a thread of the pager has verified last. */
typedef struct {
    const FfDumpBlock *b; /* NULL: none */
    uint64_t piece;
    uint8_t data[FF_DUMP_PIECE];
} Verified;

static void verified_free(gpointer p)
{
    explicit_bzero(p, sizeof(Verified)); /* it held guest memory */
    g_free(p);
}

/* Its threads end with a pager, so what one has is of that pager's dump. */
static GPrivate verified = G_PRIVATE_INIT(verified_free);

static int find_piece(FfReader *r, FfReaderFile *shared, const FfDumpBlock *b, uint64_t piece,
                      const uint8_t **data)
{
    Verified *v = g_private_get(&verified);

    if (!v) {
        v = g_new0(Verified, 1);
        g_private_set(&verified, v);
    }
    *data = v->data;
    if (v->b == b && v->piece == piece) {
        return 0;
    }
    ff_reader_enter(r, shared);
    int rc = ff_reader_leave(r, ff_dump_read(b, piece, v->data));
    v->b = rc < 0 ? NULL : b;
    v->piece = piece;
    return rc;
}

/* FfFilePagerConfig */
static int read_pages(FfReader *r, unsigned block, uint64_t first, uint64_t n, uint8_t *to,
                      uint64_t *at, void *opaque)
{
    const FfDestDump *dd = opaque;
    const FfDumpBlock *b = dd->now->fit.block[block];

    for (uint64_t i = 0; i < n; i++, to += FF_FILE_PAGE) {
        uint64_t place = (first + i) * FF_FILE_PAGE, page = place / b->page_size;
        const uint8_t *data;

        *at = dd->now->fit.pages[block].at + place;
        if (!ff_pageset_has(b->held, page)) {
            /* It is read between others, and not placed. */
            if (!ff_space_is_placed(dd->side->placer.space, block, page)) {
                return -ENXIO;
            }
            continue;
        }
        int rc = find_piece(r, dd->now->shared, b, place / FF_DUMP_PIECE, &data);
        if (rc < 0) {
            return rc;
        }
        memcpy(to, data + place % FF_DUMP_PIECE, FF_FILE_PAGE);
    }
    return 0;
}

/* FfFilePagerConfig */
static void on_read_failed(const FfFileError *e, void *opaque)
{
    const FfDestDump *dd = opaque;
    const Dump *dump = dd->now;
    g_autoptr(GError) error = NULL;
    unsigned i = 0;

    while (i + 1 < dump->fit.n_blocks && e->at >= dump->fit.pages[i + 1].at) {
        i++;
    }
    const FfDumpBlock *b = dump->fit.block[i];
    uint64_t place = e->at - dump->fit.pages[i].at;
    if (e->error == ENXIO) {
        ff_control_dead(dd->side->control, "%s: it does not hold the page at byte %" PRIu64,
                        b->memory_path, place);
        return;
    }
    ff_dump_set_error(b, place / FF_DUMP_PIECE, -e->error, &error);
    ff_control_dead(dd->side->control, "%s; who waits for memory waits", error->message);
}

/* FfFilePagerConfig */
static void cannot_place(const FfRun *run, int rc, void *opaque)
{
    ff_dest_cannot_place(((FfDestDump *)opaque)->side, run, rc);
}

/* FfFilePagerConfig */
static int place_zeros(const FfRun *run, void *opaque)
{
    return ff_placer_zero(&((FfDestDump *)opaque)->side->placer, run);
}

/* The fault thread does not run. */
static void stop_pager(FfDestination *d)
{
    if (d->placer.space) {
        ff_space_set_pager(d->placer.space, &d->peer.pager);
    }
    g_clear_pointer(&d->dump->pager, ff_file_pager_free);
    g_clear_pointer(&d->dump->now, dump_free);
}

/* The page of each thread that waits is asked for again by the new fault thread. */
static void exchange_pager(FfDestination *d, Dump *dump)
{
    FfDestDump *dd = d->dump;

    ff_dest_fault_stop(d);
    stop_pager(d);
    dd->now = dump;
    /* The pager may say at once that it cannot. */
    ff_control_forget(d->control, FF_EV_DEAD | FF_EV_PAUSE);
    dd->pager = ff_file_pager_new(&(FfFilePagerConfig){
        .space = d->placer.space,
        .blocks = dump->fit.pages,
        .n_blocks = dump->fit.n_blocks,
        .window = WINDOW,
        .thread_begins = ff_priority_urgent,
        .zero = place_zeros,
        .read = read_pages,
        .fill = FF_DUMP_PIECE,
        .failed = on_read_failed,
        .cannot_place = cannot_place,
        .opaque = dd,
    });
    ff_space_set_pager(d->placer.space, ff_file_pager_pager(dd->pager));
    ff_file_pager_start(dd->pager, -1, -1, NULL);
    ff_dest_fault_start(d);
    FF_FAULT_AT("dump-asked");
    ff_control_set_status(d->control, FF_STATUS_POSTCOPY_ACTIVE);
    ff_file_pager_fill(dd->pager);
}

/* ---- the way to it --------------------------------------------------------------------------- */

/* For the engine after this one. */
static void keep_dump(FfDestination *d, const Dump *dump)
{
    FfStateHeader *state = d->cfg->state;
    char *uri = g_strconcat(FF_DUMP_SCHEME, dump->fit.files->path, NULL);

    if (d->control->ops.hold) {
        d->control->ops.hold(FF_FILE_HELD, dump->fit.files->dir, d->control->ops.opaque);
    }
    FF_FAULT_AT("dump-held");
    /* A path that was cut would be another one. */
    g_strlcpy(state->peer_uri, strlen(uri) < sizeof(state->peer_uri) ? uri : FF_DUMP_SCHEME,
              sizeof(state->peer_uri));
    ff_mutex_lock(&d->control->lock);
    g_free(d->dump_uri);
    d->dump_uri = uri;
    ff_mutex_unlock(&d->control->lock);
}

/* What is left of the attempts of a source to connect is of an old epoch, and then the source is
 * not resumed any more. */
static void commit_dump(FfDestination *d)
{
    ff_mutex_lock(&d->control->lock);
    ff_conn_agreed_locked(d->conn);
    d->conn->epoch++;
    ff_mutex_unlock(&d->control->lock);
    ff_conn_end_bulk(d->conn);
    ff_conn_store(d->conn, d->cfg->state);
    FF_FAULT_AT("dump-epoch");
    ff_state_mark(d->cfg->state, FF_MARK_DUMP);
    FF_FAULT_AT("dump-marked");
}

static FfDestDump *dump_new(FfDestination *d, int fd)
{
    FfDestDump *dd = g_new0(FfDestDump, 1);

    dd->fd = fd;
    dd->side = d;
    return dd;
}

/* The one that the engine before this one has used: what was held, or what its path names. */
static Dump *open_kept(FfDestination *d, GError **error)
{
    const char *uri = d->dump_uri;
    const char *path = uri ? uri + strlen(FF_DUMP_SCHEME) : "";

    if (d->dump && d->dump->fd >= 0) {
        return open_dump(d, g_steal_fd(&d->dump->fd), path, true, error);
    }
    if (path[0] != '/') {
        g_set_error(error, FF_M_ERROR, 0,
                    "the dump that this guest is recovered from is not known any more: name it "
                    "(migrate-recover, file:DIRECTORY)");
        return NULL;
    }
    return open_path(d, path, true, error);
}

bool ff_dest_dump_use(FfDestination *d, const char *path, GError **error)
{
    g_assert(d->control->granted);
    Dump *dump = path ? open_path(d, path, false, error) : open_kept(d, error);

    if (!dump) {
        return false;
    }
    keep_dump(d, dump);
    if (!ff_state_is_marked(d->cfg->state, FF_MARK_DUMP)) {
        commit_dump(d);
    }
    if (!d->dump) {
        d->dump = dump_new(d, -1);
    }
    exchange_pager(d, dump);
    return true;
}

/* ---- beginning and end ----------------------------------------------------------------------- */

void ff_dest_dump_adopt_init(FfDestination *d, int fd)
{
    d->dump = dump_new(d, fd);
    d->dump->adopted = true;
    d->dump_uri = g_strndup(d->cfg->state->peer_uri, sizeof(d->cfg->state->peer_uri) - 1);
    if (!g_str_has_prefix(d->dump_uri, FF_DUMP_SCHEME)) {
        g_clear_pointer(&d->dump_uri, g_free);
    }
}

static void let_go(FfDestination *d)
{
    if (d->control->ops.drop) {
        d->control->ops.drop(FF_FILE_HELD, d->control->ops.opaque);
    }
    d->cfg->state->peer_uri[0] = 0;
}

void ff_dest_dump_not_begun(FfDestination *d, int fd)
{
    close(fd);
    let_go(d);
}

bool ff_dest_dump_take_adopted(FfDestination *d)
{
    bool adopted = d->dump->adopted;

    d->dump->adopted = false;
    return adopted;
}

void ff_dest_dump_pause(FfDestination *d)
{
    if (d->dump->pager) {
        ff_file_pager_pause(d->dump->pager);
    }
}

void ff_dest_dump_end(FfDestination *d, bool forget)
{
    if (!d->dump) {
        return;
    }
    stop_pager(d);
    ff_close_fd(&d->dump->fd);
    g_clear_pointer(&d->dump, g_free);
    if (forget) {
        let_go(d);
        ff_state_unmark(d->cfg->state, FF_MARK_DUMP);
    }
}
