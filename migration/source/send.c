/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * From a claimed run to frames on a channel, straight out of the mapped guest RAM; and the
 * release of sent pages that the peer has placed (release-ram).
 *
 * Whether a huge page is zero is found by reading the file: a hole that is looked at through a
 * mapping would be given a huge page, and where none is free a signal.
 *
 * Threads: each one that sends, the urgent thread (which is on the fault path) too; the main reader
 * acknowledges. No lock but the channel's.
 * System calls: fallocate.
 */
#include "migration/source/send.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>

#include "base/failpoints.h"
#include "migration/source/link.h"
#include "migration/source/zero.h"

#define MAX_GROUPS FF_SEND_MAX_PAGES

/* ---- release-ram ----------------------------------------------------------------------------- */

void ff_source_acked(FfSource *s, unsigned index, uint64_t count)
{
    FfRun run;

    ff_mutex_lock(&s->control->lock);
    bool granted = s->control->granted;
    ff_mutex_unlock(&s->control->lock);
    /* Before the grant a roll back still needs every page; the count is cumulative, so the next
     * acknowledgement after it releases these as well. */
    if (!s->cfg->release_ram || !granted || !s->sent[index].ring) {
        return;
    }
    while (ff_sent_take(&s->sent[index], count, &run)) {
        const FfRamBlock *b = &s->ram->blocks[run.block].info;
        /* The mark first: a next engine must not run the guest on what is left. */
        ff_state_unmark(s->cfg->state, FF_MARK_WHOLE);
        g_atomic_int_set(&s->ram->released, 1);
        (void)FF_FAULT_CALL("release",
                            fallocate(b->memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                      run.first * b->page_size, run.n * b->page_size));
    }
}

void ff_source_begin_sent(FfSource *s)
{
    for (unsigned i = 0; s->cfg->release_ram && i < G_N_ELEMENTS(s->sent); i++) {
        ff_sent_begin(&s->sent[i]);
    }
}

/* ---- sending --------------------------------------------------------------------------------- */

static unsigned index_of(const FfConnection *conn, const FfChannel *ch)
{
    if (ch == conn->main || ch == conn->urgent) {
        return ch == conn->main ? FF_INDEX_MAIN : FF_INDEX_URGENT;
    }
    for (unsigned i = 0; i < conn->n_bulk; i++) {
        if (conn->bulk[i].ch == ch) {
            return conn->bulk[i].index;
        }
    }
    g_assert_not_reached();
}

FfSender ff_source_sender(FfSource *s, FfChannel *ch)
{
    /* Two threads that share the main channel would log in another order than they write. */
    bool logs = s->cfg->release_ram && s->conn->urgent;

    return (FfSender){
        .blocks = s->ram->blocks,
        .ch = ch,
        .log = logs ? &s->sent[index_of(s->conn, ch)] : NULL,
        .stats = s->stats,
        .done_pages = &s->ram->done_pages,
        .done_bytes = &s->ram->done_bytes,
        .data_bytes = &s->data_bytes,
        .guest_stopped = &s->guest_stopped,
        .epoch = s->conn->epoch,
    };
}

static void account_sent(const FfSender *k, unsigned block, uint64_t first, uint64_t n, bool zero,
                         bool urgent)
{
    uint64_t bytes = n * k->blocks[block].info.page_size;

    if (zero) {
        ff_count(k->stats->pages_zero, n);
    } else {
        ff_count(k->stats->pages_normal, n);
        ff_count(*k->data_bytes, bytes);
    }
    if (urgent) {
        ff_count(k->stats->pages_urgent, n);
    } else {
        ff_count(k->stats->pages_bulk, n);
    }
    ff_count(*k->done_pages, n);
    ff_count(*k->done_bytes, bytes);
    if (k->log) {
        /* In precopy the page may be written and sent again, so it is kept. */
        ff_sent_log(k->log, &(FfRun){block, first, n}, !g_atomic_int_get(k->guest_stopped));
    }
}

static FfFrame run_frame(const FfSender *k, bool zero, unsigned block, uint64_t first, uint64_t n)
{
    FfFrame f = ff_frame(zero ? FF_FRAME_ZERO : FF_FRAME_PAGES,
                         zero ? 0 : n * k->blocks[block].info.page_size);

    f.epoch = k->epoch;
    f.block = block;
    f.page = first;
    f.n_pages = n;
    return f;
}

int ff_source_send_zero(FfSource *s, FfChannel *ch, unsigned block, uint64_t first, uint64_t n)
{
    FfSender k = ff_source_sender(s, ch);
    int rc = ff_channel_send(ch, run_frame(&k, true, block, first, n), NULL, false);

    if (rc == 0) {
        account_sent(&k, block, first, n, true, false);
    }
    return rc;
}

static bool is_zero(const FfBlock *b, uint64_t page)
{
    uint64_t ps = b->info.page_size;

    return ps > 4096 ? ff_is_zero_file(b->info.memfd, page * ps, ps)
                     : ff_is_zero((char *)b->map + page * ps, ps);
}

/* Length (pages) of the group of all-zero or all-data pages that begins at FIRST. */
static uint64_t group_pages(const FfBlock *b, uint64_t first, uint64_t end, bool *zero)
{
    uint64_t p = first;

    *zero = is_zero(b, p);
    do {
        p++;
    } while (p < end && is_zero(b, p) == *zero);
    return p - first;
}

/* ---- compression ----------------------------------------------------------------------------- */

/* Under TLS the length of what is compressed says something of it: only a client that asks for that
 * has it. */
bool ff_source_may_compress_device(const FfSource *s)
{
    return s->cfg->compress != FF_COMPRESS_NEVER || !s->cfg->tls;
}

bool ff_source_compresses_device(const FfSource *s)
{
    return s->conn->peer_features & FF_FEATURE_COMPRESSED_DEVICE &&
           ff_source_may_compress_device(s);
}

uint32_t ff_source_features(const FfSource *s)
{
    bool packs = s->cfg->compress != FF_COMPRESS_NEVER && s->conn->peer_features & FF_FEATURE_ZSTD;

    return FF_FEATURE_ALIVE | FF_FEATURE_ENDED | (packs ? FF_FEATURE_ZSTD : 0) |
           (s->conn->peer_features & FF_FEATURE_ROUNDS) |
           (ff_source_compresses_device(s)
                ? s->conn->peer_features & (FF_FEATURE_COMPRESSED_DEVICE | FF_FEATURE_DELTA_DEVICE)
                : 0);
}

static size_t longest_run(const FfSource *s)
{
    size_t max = FF_RUN_MAX_BYTES;

    for (unsigned i = 0; i < s->ram->n_blocks; i++) {
        max = MAX(max, s->ram->blocks[i].info.page_size);
    }
    return max;
}

void ff_source_decide_compressing(FfSource *s, FfChannel *ch, FfCompressing *pk)
{
    bool on = g_atomic_int_get(&s->compressing);

    if (!(ff_source_features(s) & FF_FEATURE_ZSTD)) {
        pk->on = false;
        return;
    }
    if (ch == s->conn->main) {
        on = ff_compress_wanted(&s->compress_policy, s->cfg->compress, ff_source_link_bound(s),
                                ff_counted(s->data_bytes), g_get_monotonic_time());
        g_atomic_int_set(&s->compressing, on);
    }
    unsigned level = s->cfg->zstd_level ? s->cfg->zstd_level : FF_ZSTD_LEVEL_DEFAULT;
    pk->on = on && ff_compressing_prepare(pk, level, longest_run(s));
}

/* ---- a run ----------------------------------------------------------------------------------- */

typedef struct {
    unsigned block;
    uint64_t first, n;
    bool zero, packed;
} Group;

typedef struct {
    struct iovec iov[2 * MAX_GROUPS];
    FfFrame frames[MAX_GROUPS];
    Group groups[MAX_GROUPS];
    int n_groups, n_iov;
    size_t packed; /* bytes of FfCompressing.out in use */
} Run;

static void add_group(const FfSender *k, FfCompressing *pk, Run *r, Group g)
{
    const FfBlock *b = &k->blocks[g.block];
    uint64_t ps = b->info.page_size, bytes = g.n * ps;
    FfFrame *f = &r->frames[r->n_groups];
    char *data = (char *)b->map + g.first * ps;
    size_t len = 0;

    *f = run_frame(k, g.zero, g.block, g.first, g.n);
    if (pk && pk->on && !g.zero) {
        /* What is packed is never longer than what it was made of, so OUT suffices for all. */
        len = ff_compressor_run(pk->packer, data, bytes, pk->out + r->packed);
    }
    if (len) {
        f->type = FF_FRAME_COMPRESSED;
        f->length = len;
        data = (char *)pk->out + r->packed;
        pk->saved += bytes - len;
        r->packed += len;
        g.packed = true;
    }
    r->iov[r->n_iov++] = (struct iovec){f, sizeof(*f)};
    if (!g.zero) {
        r->iov[r->n_iov++] = (struct iovec){data, f->length};
    }
    ff_frame_encode(f);
    r->groups[r->n_groups++] = g;
}

static void add_run(const FfSender *k, FfCompressing *pk, Run *r, unsigned block, uint64_t first,
                    uint64_t n)
{
    for (uint64_t p = first, len; p < first + n; p += len) {
        bool zero;
        len = group_pages(&k->blocks[block], p, first + n, &zero);
        add_group(k, pk, r, (Group){block, p, len, zero, false});
    }
}

static int write_groups(const FfSender *k, Run *r, bool urgent)
{
    int rc = ff_channel_write_all(k->ch, r->iov, r->n_iov, urgent);

    for (int i = 0; rc == 0 && i < r->n_groups; i++) {
        const Group *g = &r->groups[i];
        account_sent(k, g->block, g->first, g->n, g->zero, urgent);
        if (g->packed) {
            ff_count(k->stats->pages_compressed, g->n);
        }
    }
    return rc;
}

int ff_source_send_run(FfSource *s, FfChannel *ch, FfCompressing *pk, unsigned block,
                       uint64_t first, uint64_t n)
{
    FfSender k = ff_source_sender(s, ch);
    Run r;

    r.n_groups = r.n_iov = 0;
    r.packed = 0;
    if (pk) {
        pk->saved = 0;
    }
    add_run(&k, pk, &r, block, first, n);
    return write_groups(&k, &r, false);
}

int ff_sender_urgent(const FfSender *k, const FfRun *runs, unsigned n)
{
    Run r;

    r.n_groups = r.n_iov = 0;
    r.packed = 0;
    for (unsigned i = 0; i < n; i++) {
        add_run(k, NULL, &r, runs[i].block, runs[i].first, runs[i].n);
    }
    return write_groups(k, &r, true);
}
