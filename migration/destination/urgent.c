/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The destination's urgent reader: places the pages that answer requests, as they come on the
 * second socket, so that none waits for a bulk run. What comes by one read is placed run by run.
 *
 * It is on the fault path: no allocation, no log, no lock but its channel's. What it works with is
 * Urgent, which has no way to any other; for an acknowledgement it takes the main channel's writer
 * lock only if nobody has it.
 */
#include "migration/destination/urgent.h"

#include <errno.h>
#include <sys/mman.h>

#include "base/priority.h"
#include "migration/destination/arm.h"

/* Bytes that are taken at once: what answers one batch of requests. */
#define READ_AHEAD (256u * 1024)
/* An acknowledgement each so many page frames. */
#define ACK_EVERY 64

/* All that the fault path has. Nothing in it leads to a lock but the channels'. */
typedef struct {
    FfPlacer *placer;
    FfChannel *ch;     /* pages are read here */
    FfChannel *main;   /* acknowledgements */
    const gint *final; /* atomic; pages may come */
    uint32_t epoch;
    uint8_t *buf;    /* FF_FRAME_MAX_DATA, page aligned */
    uint64_t frames; /* of pages */
    /* Why it has ended; NULL and 0 pages: the channel. */
    const char *refused, *why; /* this frame, because of this */
    FfRun unplaced;
} Urgent;

static int refuse_frame(Urgent *u, const FfFrame *f, const char *why)
{
    u->refused = ff_frame_name(f->type);
    u->why = why;
    return -EBADMSG;
}

/* A bulk writer is not waited for: the count is a sum, and when everything is here DONE says so. */
static void acknowledge_pages(Urgent *u)
{
    const FfRam *ram = u->placer->ram;

    if (++u->frames % ACK_EVERY && ff_counted(ram->done_pages) != ram->total_pages) {
        return;
    }
    FfFrame ack = ff_frame(FF_FRAME_ACK, 0);
    ack.flags = FF_INDEX_URGENT;
    ack.page = u->frames;
    ff_channel_try_send(u->main, ack);
}

static int place_page(Urgent *u, const FfFrame *f)
{
    FfRun run = {f->block, f->page, f->n_pages};
    const void *data = f->type == FF_FRAME_ZERO ? NULL : ff_channel_take(u->ch, f->length);
    int rc = 0;

    if (f->type == FF_FRAME_PAGES && !data) {
        data = u->buf;
        rc = ff_channel_read_all(u->ch, u->buf, f->length, -1);
    }
    if (rc < 0) {
        return rc;
    }
    rc = data ? ff_placer_copy(u->placer, &run, data) : ff_placer_zero(u->placer, &run);
    if (rc < 0) {
        u->unplaced = run;
    }
    return rc;
}

static int take_run(Urgent *u, FfFrame *f)
{
    const FfRam *ram = u->placer->ram;
    const char *why;

    if (!g_atomic_int_get(u->final)) {
        return refuse_frame(u, f, "no page was expected yet");
    }
    if (ff_frame_check_run(f, ram->frame_blocks, ram->n_blocks, &why) < 0) {
        return refuse_frame(u, f, why);
    }
    if (f->epoch != u->epoch) {
        return refuse_frame(u, f, "it belongs to an earlier connection");
    }
    int rc = place_page(u, f);
    if (rc == 0) {
        ff_count(u->placer->stats->pages_urgent, f->n_pages);
        acknowledge_pages(u);
    }
    return rc;
}

static int dispatch_frame(Urgent *u, FfFrame *f)
{
    switch (f->type) {
    case FF_FRAME_PAGES:
    case FF_FRAME_ZERO:
        return take_run(u, f);
    case FF_FRAME_ALIVE:
    case FF_FRAME_END:
        return 0;
    default:
        return refuse_frame(u, f, "only pages belong on this channel");
    }
}

/* *WHY: what was read is no frame. */
static int read_frames(Urgent *u, const char **why)
{
    FfFrame f;
    int rc;

    do {
        *why = NULL;
        rc = ff_channel_read_frame(u->ch, &f, -1, why);
    } while (rc == 0 && (rc = dispatch_frame(u, &f)) == 0);
    return rc;
}

gpointer ff_dest_urgent_reader(gpointer p)
{
    FfDestination *d = p;
    Urgent u = {.placer = &d->placer,
                .ch = d->conn->urgent,
                .main = d->conn->main,
                .final = &d->final,
                .epoch = d->conn->epoch};
    const char *why;

    ff_priority_urgent();
    ff_channel_read_ahead(u.ch, READ_AHEAD);
    u.buf =
        mmap(NULL, FF_FRAME_MAX_DATA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (u.buf == MAP_FAILED) {
        ff_control_dead(d->control, "no memory for a receive buffer: %s", g_strerror(errno));
        return NULL;
    }
    int rc = read_frames(&u, &why);
    /* The end of it: from here on locks do not matter. */
    if (why) {
        ff_control_dead(d->control, "the source sent %s: protocol error", why);
    } else if (u.why) {
        ff_control_dead(d->control, "the source sent '%s': %s", u.refused, u.why);
    } else if (u.unplaced.n) {
        ff_dest_cannot_place(d, &u.unplaced, rc);
    } else {
        ff_conn_lost(d->conn, u.ch, rc);
    }
    munmap(u.buf, FF_FRAME_MAX_DATA);
    return NULL;
}
