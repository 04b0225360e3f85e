/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The destination's readers: the main one, which is the migration thread (bulk runs, control,
 * device state), and those of additional bulk connections. What a frame may be in each moment is
 * decided here, before anything is done with it. The urgent channel has a reader of its own
 * (urgent.c).
 *
 * Threads: one per channel, each with buffers of its own; no lock.
 */
#include "migration/destination/read.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "base/priority.h"
#include "migration/common/ownership.h"
#include "migration/destination/arm.h"
#include "migration/destination/device.h"
#include "migration/destination/fault.h"
#include "migration/destination/precopy.h"
#include "net/compress.h"

/* Device state that QEMU has not taken yet (bytes): more is a hostile or broken source. */
#define DEVICE_QUEUE_MAX (512ull << 20)
/* An acknowledgement each so many page frames (8 MiB of full runs). */
#define ACK_EVERY 64

typedef struct {
    FfDestination *d;
    FfChannel *ch;
    unsigned index;
    uint8_t *buf;    /* FF_FRAME_MAX_DATA, page aligned */
    uint8_t *packed; /* [packed_size], what is compressed; NULL: not needed yet */
    size_t packed_size;
    FfDecompressor *unpacker; /* NULL: not needed yet */
    uint64_t frames;
    bool prepared; /* PREPARE came: no page until the last stale one is dropped */
    bool open;     /* an additional one, in precopy: pages came, and their ROUND not yet */
} Reader;

static int protocol_error(Reader *r, const FfFrame *f, const char *why)
{
    ff_control_dead(r->d->control, "the source sent '%s': %s", ff_frame_name(f->type), why);
    return -EBADMSG;
}

/* When everything is here DONE says so, and the source may end the connection before this reader
 * has come so far. That this cannot be sent is no reason to read no more: the end of the connection
 * is seen after the source's last words, FINISHED perhaps. */
static void acknowledge_pages(Reader *r)
{
    bool all = g_atomic_int_get(&r->d->final) &&
               ff_counted(r->d->ram->done_pages) == r->d->ram->total_pages;

    if (++r->frames % ACK_EVERY || all) {
        return;
    }
    FfFrame ack = ff_frame(FF_FRAME_ACK, 0);
    ack.flags = r->index;
    ack.page = r->frames;
    ff_channel_send(r->d->conn->main, ack, NULL, false);
}

/* BYTES are at most what a frame may come to, and what they were compressed to is shorter
 * (ff_frame_check_run, ff_frame_check_device). */
static bool prepare_unpacking(Reader *r, size_t bytes)
{
    if (r->packed_size < bytes) {
        g_free(r->packed);
        r->packed_size = MAX(bytes, FF_RUN_MAX_BYTES);
        r->packed = g_try_malloc(r->packed_size);
    }
    if (!r->unpacker) {
        r->unpacker = ff_decompressor_new();
    }
    return r->packed && r->unpacker;
}

/* Reads a compressed payload, and leaves the BYTES that it was in BUF. Nothing may be made of it if
 * it is not right as a whole. */
static int unpack_payload(Reader *r, FfFrame *f, size_t bytes)
{
    const char *why;

    if (!prepare_unpacking(r, bytes)) {
        ff_control_dead(r->d->control, "no memory to take what is compressed");
        return -ENOMEM;
    }
    int rc = ff_channel_read_all(r->ch, r->packed, f->length, -1);
    if (rc < 0) {
        return rc;
    }
    if (ff_decompressor_run(r->unpacker, r->packed, f->length, r->buf, bytes, &why) < 0) {
        return protocol_error(r, f, why);
    }
    return 0;
}

static int read_packed(Reader *r, FfFrame *f)
{
    int rc = unpack_payload(r, f, f->n_pages * r->d->ram->frame_blocks[f->block].page_size);

    if (rc == 0) {
        ff_count(r->d->stats->pages_compressed, f->n_pages);
    }
    return rc;
}

/* A page that comes before the switch. The additional readers must be done with theirs before the
 * main one continues to what they could spoil: that one says so in rounds_over and then looks at
 * rounds_open, these the other way round, all sequentially consistent. */
static bool in_round(Reader *r)
{
    FfDestination *d = r->d;

    if (r->index == FF_INDEX_MAIN) {
        return !r->prepared;
    }
    if (!(d->conn->peer_features & FF_FEATURE_ROUNDS) || !g_atomic_int_get(&d->emptied)) {
        return false;
    }
    if (!r->open) {
        r->open = true;
        g_atomic_int_inc(&d->rounds_open);
    }
    return !g_atomic_int_get(&d->rounds_over);
}

/* FALSE: the source has not waited for the additional connections. */
static bool end_rounds(FfDestination *d)
{
    g_atomic_int_set(&d->rounds_over, 1);
    return g_atomic_int_get(&d->rounds_open) == 0;
}

/* Everything of a round that this channel carried is placed. */
static int take_round(Reader *r, FfFrame *f)
{
    FfDestination *d = r->d;
    FfFrame answer = ff_frame(FF_FRAME_ROUND, 0);

    if (g_atomic_int_get(&d->final) || g_atomic_int_get(&d->rounds_over)) {
        return protocol_error(r, f, "no round is under way");
    }
    if (f->epoch != (uint32_t)d->conn->epoch) {
        return protocol_error(r, f, "it belongs to an earlier connection");
    }
    int rc = r->index == FF_INDEX_MAIN ? ff_dest_empty(d) : 0;
    if (rc < 0) {
        return rc;
    }
    if (r->open) {
        r->open = false;
        g_atomic_int_add(&d->rounds_open, -1);
    }
    answer.flags = r->index;
    answer.page = f->page;
    ff_channel_send(d->conn->main, answer, NULL, true); /* its reader says why it cannot */
    return 0;
}

/* DATA NULL: zeros. */
static int place_run(FfDestination *d, const FfFrame *f, const void *data)
{
    FfRun run = {f->block, f->page, f->n_pages};
    int rc = data ? ff_placer_copy(&d->placer, &run, data) : ff_placer_zero(&d->placer, &run);

    if (rc < 0) {
        ff_dest_cannot_place(d, &run, rc);
    }
    return rc;
}

static int take_run(Reader *r, FfFrame *f)
{
    FfDestination *d = r->d;
    const char *why;
    int rc = 0;

    bool precopy = !g_atomic_int_get(&d->final);
    if (precopy && !in_round(r)) {
        return protocol_error(r, f, "no page was expected yet");
    }
    if (ff_frame_check_run(f, d->ram->frame_blocks, d->ram->n_blocks, &why) < 0) {
        return protocol_error(r, f, why);
    }
    if (f->epoch != (uint32_t)d->conn->epoch) {
        return protocol_error(r, f, "it belongs to an earlier connection");
    }
    bool zero = f->type == FF_FRAME_ZERO, packed = f->type == FF_FRAME_COMPRESSED;
    const void *data = zero || packed ? NULL : ff_channel_take(r->ch, f->length);
    if (!data) {
        data = r->buf;
        rc = zero     ? 0
             : packed ? read_packed(r, f)
                      : ff_channel_read_all(r->ch, r->buf, f->length, -1);
    }
    if (rc == 0) {
        rc =
            precopy ? ff_dest_write(d, f, zero ? NULL : data) : place_run(d, f, zero ? NULL : data);
    }
    if (rc < 0) {
        return rc;
    }
    ff_count(d->stats->pages_bulk, f->n_pages);
    acknowledge_pages(r);
    return 0;
}

static int check_stale(Reader *r, FfFrame *f, FfStaleRun *runs)
{
    const FfDestination *d = r->d;

    for (unsigned i = 0; i < f->n_pages; i++) {
        FfFrame run = ff_frame(FF_FRAME_STALE, 0);
        const char *why;
        runs[i].block = run.block = GUINT32_FROM_LE(runs[i].block);
        runs[i].n_pages = run.n_pages = GUINT32_FROM_LE(runs[i].n_pages);
        runs[i].page = run.page = GUINT64_FROM_LE(runs[i].page);
        if (ff_frame_check_run(&run, d->ram->frame_blocks, d->ram->n_blocks, &why) < 0) {
            return protocol_error(r, f, why);
        }
    }
    return 0;
}

/* The guest is stopped and every stale page is gone. Only now faults are looked at: a page that is
 * zero and received must not be put back between its STALE and its drop. */
static void freeze_received(FfDestination *d)
{
    g_atomic_int_set(&d->final, 1);
    ff_dest_fault_start(d);
    if (ff_space_missing(d->placer.space) == 0) {
        ff_control_event(d->control, FF_EV_ALL);
    }
}

static int take_stale(Reader *r, FfFrame *f)
{
    FfDestination *d = r->d;
    FfStaleRun *runs = (FfStaleRun *)r->buf;
    bool armed = g_atomic_int_get(&d->armed), last = f->flags & FF_STALE_LAST;

    if (g_atomic_int_get(&d->final) || (r->prepared ? !armed : last)) {
        return protocol_error(r, f, "it was not expected now");
    }
    if (!end_rounds(d)) {
        return protocol_error(r, f, "pages of a round are still on their way");
    }
    if (f->n_pages > FF_STALE_MAX_RUNS || f->length != f->n_pages * sizeof(FfStaleRun)) {
        return protocol_error(r, f, "a payload that is not as long as its runs");
    }
    int rc = ff_channel_read_all(r->ch, runs, f->length, -1);
    if (rc == 0) {
        rc = check_stale(r, f, runs);
    }
    if (rc == 0) {
        rc = ff_dest_stale(d, runs, f->n_pages, armed);
    }
    if (rc == 0 && last) {
        freeze_received(d);
    }
    if (rc == 0 && f->flags & FF_STALE_TELL) {
        FfFrame ready = ff_frame(FF_FRAME_READY, 0);
        ready.page = 1;
        rc = ff_channel_send(d->conn->main, ready, NULL, true);
    }
    return rc;
}

static int take_prepare(Reader *r, FfFrame *f)
{
    if (r->prepared || g_atomic_int_get(&r->d->final)) {
        return protocol_error(r, f, "it came already");
    }
    if (!end_rounds(r->d)) {
        return protocol_error(r, f, "pages of a round are still on their way");
    }
    r->prepared = true;
    ff_priority_urgent(); /* the guest stands still, until GRANT */
    /* Observer: the coordinator, after the event. */
    r->d->conn->complete_at_grant = f->flags & FF_PREPARE_COMPLETE;
    ff_control_event(r->d->control, FF_EV_PREPARE);
    return 0;
}

/* Leaves in BUF what a piece of device state or of its base is, unpacked, of *BYTES bytes. */
static int read_device(Reader *r, FfFrame *f, size_t *bytes)
{
    const char *why;
    bool packed = f->flags & FF_DEVICE_COMPRESSED;

    if (ff_frame_check_device(f, &why) < 0) {
        return protocol_error(r, f, why);
    }
    if (packed && !(r->d->conn->peer_features & FF_FEATURE_COMPRESSED_DEVICE)) {
        return protocol_error(r, f, "compressed device state was not agreed on");
    }
    *bytes = packed ? f->page : f->length;
    return packed ? unpack_payload(r, f, *bytes) : ff_channel_read_all(r->ch, r->buf, *bytes, -1);
}

static int take_device(Reader *r, FfFrame *f)
{
    FfDestination *d = r->d;
    uint8_t *data = r->buf;
    const char *why;
    size_t bytes;

    /* An engine that has adopted a loaded guest has not heard SHUT, and has no way to QEMU. */
    if (!g_atomic_int_get(&d->final) || ff_control_events(d->control) & FF_EV_SHUT ||
        ff_ownership_phase(d->cfg->state) != FF_PHASE_LOADING) {
        return protocol_error(r, f, "no device state is expected now");
    }
    if (ff_counted(d->device_queued) + f->length > DEVICE_QUEUE_MAX) {
        return protocol_error(r, f, "more device state than QEMU takes");
    }
    int rc = read_device(r, f, &bytes);
    if (rc < 0) {
        return rc;
    }
    if (f->flags & FF_DEVICE_DELTA) {
        if (!d->device_base) {
            return protocol_error(r, f, "a delta without a base");
        }
        /* After it in the buffer, which has room for both. */
        data += FF_RUN_MAX_BYTES;
        if (ff_delta_decode(d->device_base, r->buf, bytes, data, f->n_pages, &why) < 0) {
            return protocol_error(r, f, why);
        }
        bytes = f->n_pages;
    }
    ff_dest_feed(d, data, bytes);
    ff_count(d->stats->device_bytes, bytes);
    ff_count(d->stats->device_wire, f->length);
    ff_device_copy_write(d->copy, data, bytes);
    return 0;
}

static int take_base(Reader *r, FfFrame *f)
{
    FfDestination *d = r->d;
    size_t bytes;

    if (!(d->conn->peer_features & FF_FEATURE_DELTA_DEVICE)) {
        return protocol_error(r, f, "it was not agreed on");
    }
    if (r->prepared || g_atomic_int_get(&d->final)) {
        return protocol_error(r, f, "it was not expected now");
    }
    if (f->flags & FF_DEVICE_DELTA) {
        return protocol_error(r, f, "flags that it cannot have");
    }
    int rc = read_device(r, f, &bytes);
    if (rc < 0) {
        return rc;
    }
    if (!d->device_base) {
        d->device_base = ff_delta_new();
    }
    return ff_delta_add(d->device_base, r->buf, bytes)
               ? 0
               : protocol_error(r, f, "no whole pages, or more than a base may have");
}

static int take_grant(Reader *r, FfFrame *f)
{
    FfDestination *d = r->d;
    char text[32] = "";

    /* LOADED is stored before it is sent: an honest grant finds it. */
    if (ff_ownership_phase(d->cfg->state) != FF_PHASE_LOADED ||
        ff_control_events(d->control) & FF_EV_GRANT) {
        return protocol_error(r, f, "nothing was loaded that could be granted");
    }
    int rc = ff_channel_read_all(r->ch, text, f->length, -1);
    if (rc < 0) {
        return rc;
    }
    ff_mutex_lock(&d->control->lock);
    d->granted_state = g_strdup(text);
    ff_mutex_unlock(&d->control->lock);
    ff_control_event(d->control, FF_EV_GRANT);
    g_clear_pointer(&d->device_base, ff_delta_free);
    ff_priority_bulk();
    return 0;
}

static int take_shared(Reader *r, FfFrame *f)
{
    FfDestination *d = r->d;

    ff_mutex_lock(&d->control->lock);
    bool ok = ff_conn_agreed_locked(d->conn);
    d->conn->urgent_shared = ok;
    ff_mutex_unlock(&d->control->lock);
    if (!ok) {
        return protocol_error(r, f, "the channels were agreed on already");
    }
    ff_control_event(d->control, FF_EV_CHANNEL);
    return 0;
}

static int take_abort(Reader *r, FfFrame *f)
{
    char text[FF_FRAME_MAX_TEXT + 1] = "";
    int rc = ff_channel_read_all(r->ch, text, f->length, -1);

    if (rc == 0) {
        g_autofree char *why = g_strconcat("the source gave up: ", ff_peer_text(text), NULL);
        ff_control_gave_up(r->d->control, why);
    }
    return rc < 0 ? rc : -ECANCELED;
}

/* The answer to DONE. Nothing more is read: the source waits for the end of the connection. */
static int take_finished(Reader *r, FfFrame *f)
{
    FfDestination *d = r->d;

    ff_mutex_lock(&d->control->lock);
    bool ok = d->control->granted && d->control->events & FF_EV_ALL;
    ff_mutex_unlock(&d->control->lock);
    if (!ok) {
        return protocol_error(r, f, "the migration is not over");
    }
    ff_control_event(d->control, FF_EV_FINISHED);
    return -ECANCELED;
}

/* END: nothing more comes from bulk. What is missing now must be on the urgent channel's way. */
static int dispatch_frame(Reader *r, FfFrame *f)
{
    FfDestination *d = r->d;

    if (f->type == FF_FRAME_PAGES || f->type == FF_FRAME_ZERO) {
        return take_run(r, f);
    }
    if (f->type == FF_FRAME_COMPRESSED && d->conn->peer_features & FF_FEATURE_ZSTD) {
        return take_run(r, f);
    }
    if (f->type == FF_FRAME_ROUND && d->conn->peer_features & FF_FEATURE_ROUNDS) {
        return take_round(r, f);
    }
    if (f->type == FF_FRAME_ALIVE) {
        return 0;
    }
    if (r->index != FF_INDEX_MAIN) {
        return f->type == FF_FRAME_END ? 0
                                       : protocol_error(r, f, "only pages belong on this channel");
    }
    if (f->type == FF_FRAME_PAUSED && d->conn->peer_features & FF_FEATURE_ALIVE) {
        ff_control_event(d->control, FF_EV_PAUSE);
        ff_control_dead(d->control, "Postcopy migration is paused by the user of the source");
        return -ECANCELED;
    }
    if (f->type == FF_FRAME_ENDED && d->conn->peer_features & FF_FEATURE_ENDED) {
        ff_control_peer_ended(d->control, d->conn->peer);
        return -ECANCELED;
    }
    switch (f->type) {
    case FF_FRAME_SHARED:
        return take_shared(r, f);
    case FF_FRAME_PREPARE:
        return take_prepare(r, f);
    case FF_FRAME_STALE:
        return take_stale(r, f);
    case FF_FRAME_BASE:
        return take_base(r, f);
    case FF_FRAME_DEVICE:
        return take_device(r, f);
    case FF_FRAME_GRANT:
        return take_grant(r, f);
    case FF_FRAME_END:
        return 0;
    case FF_FRAME_FINISHED:
        return take_finished(r, f);
    case FF_FRAME_ABORT:
        return take_abort(r, f);
    default:
        return protocol_error(r, f, "it does not belong here");
    }
}

static void read_frames(Reader *r)
{
    const char *why;
    FfFrame f;
    int rc;

    r->buf =
        mmap(NULL, FF_FRAME_MAX_DATA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (r->buf == MAP_FAILED) {
        ff_control_dead(r->d->control, "no memory for a receive buffer: %s", g_strerror(errno));
        return;
    }
    do {
        why = NULL;
        rc = ff_channel_read_frame(r->ch, &f, -1, &why);
    } while (rc == 0 && (rc = dispatch_frame(r, &f)) == 0);
    if (why) {
        ff_control_dead(r->d->control, "the source sent %s: protocol error", why);
    } else if (rc != -ECANCELED) {
        ff_conn_lost(r->d->conn, r->ch, rc);
    }
    munmap(r->buf, FF_FRAME_MAX_DATA);
    g_free(r->packed);
    ff_decompressor_free(r->unpacker);
}

gpointer ff_dest_main_reader(gpointer p)
{
    FfDestination *d = p;
    Reader r = {.d = d, .ch = d->conn->main, .index = FF_INDEX_MAIN};

    ff_priority_bulk();
    read_frames(&r);
    ff_control_event(d->control, FF_EV_MAIN_ENDED);
    return NULL;
}

gpointer ff_dest_bulk_reader(gpointer p)
{
    FfBulkChannel *x = p;
    Reader r = {.d = x->side, .ch = x->ch, .index = x->index};

    ff_priority_bulk();
    read_frames(&r);
    return NULL;
}
