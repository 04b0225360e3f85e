/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * From a claimed run to frames on a channel, straight out of the mapped guest RAM; and the
 * release of sent pages that the peer has placed (release-ram).
 *
 * Whether a huge page is zero is found by reading the file: a hole that is looked at through a
 * mapping would be given a huge page, and where none is free a signal.
 *
 * Threads: bulk and urgent send; the main reader acknowledges. FfSentLog.lock is a leaf.
 * System calls: fallocate.
 */
#include "migration/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>

#include "migration/zero.h"

#define MAX_GROUPS FF_SEND_MAX_PAGES

/* ---- release-ram ------------------------------------------------------------------------ */

static void log_sent(FfMigration *m, unsigned index, unsigned block, uint64_t first, uint64_t n)
{
    FfSentLog *log = &m->sent[index];

    ff_mutex_lock(&log->lock);
    if (!g_atomic_int_get(&m->frozen)) {
        /* Precopy: the page may be written and sent again, so it is kept. The peer counts it. */
        log->acked++;
        ff_mutex_unlock(&log->lock);
        return;
    }
    g_queue_push_tail(&log->runs, g_memdup2(&(FfRun){block, first, n}, sizeof(FfRun)));
    ff_mutex_unlock(&log->lock);
}

void ff_source_acked(FfMigration *m, unsigned index, uint64_t count)
{
    FfSentLog *log = &m->sent[index];

    ff_mutex_lock(&m->lock);
    bool given = m->given;
    ff_mutex_unlock(&m->lock);
    /* Before the grant a roll back still needs every page; the count is cumulative, so the next
     * acknowledgement after it releases these as well. */
    if (!m->cfg.release_ram || !given) {
        return;
    }
    for (;;) {
        ff_mutex_lock(&log->lock);
        g_autofree FfRun *run = log->acked < count ? g_queue_pop_head(&log->runs) : NULL;
        log->acked += run != NULL;
        ff_mutex_unlock(&log->lock);
        if (!run) {
            return;
        }
        const FfRamBlock *b = &m->blocks[run->block].info;
        g_atomic_int_set(&m->released, 1);
        fallocate(b->memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, run->first * b->page_size,
                  run->n * b->page_size);
    }
}

void ff_source_forget_sent(FfMigration *m)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(m->sent); i++) {
        g_queue_clear_full(&m->sent[i].runs, g_free);
    }
}

/* ---- sending ------------------------------------------------------------------------------- */

static unsigned index_of(const FfMigration *m, const FfChannel *ch)
{
    if (ch == m->main || ch == m->urgent) {
        return ch == m->main ? FF_INDEX_MAIN : FF_INDEX_URGENT;
    }
    for (unsigned i = 0; i < m->n_extra; i++) {
        if (m->extra[i].ch == ch) {
            return m->extra[i].index;
        }
    }
    g_assert_not_reached();
}

static void account(FfMigration *m, const FfChannel *ch, unsigned block, uint64_t first, uint64_t n,
                    bool zero, bool urgent)
{
    if (zero) {
        ff_count(m->stats.pages_zero, n);
    } else {
        ff_count(m->stats.pages_normal, n);
        ff_count(m->data_bytes, n * m->blocks[block].info.page_size);
    }
    if (urgent) {
        ff_count(m->stats.pages_urgent, n);
    } else {
        ff_count(m->stats.pages_bulk, n);
    }
    ff_count(m->done_pages, n);
    ff_count(m->done_bytes, n * m->blocks[block].info.page_size);
    /* Two threads that share the main channel log in another order than they write. */
    if (m->cfg.release_ram && m->urgent) {
        log_sent(m, index_of(m, ch), block, first, n);
    }
}

static FfFrame run_frame(const FfMigration *m, bool zero, unsigned block, uint64_t first,
                         uint64_t n)
{
    FfFrame f = ff_frame(zero ? FF_FRAME_ZERO : FF_FRAME_PAGES,
                         zero ? 0 : n * m->blocks[block].info.page_size);

    f.epoch = m->epoch;
    f.block = block;
    f.page = first;
    f.n_pages = n;
    return f;
}

int ff_source_send_zero(FfMigration *m, FfChannel *ch, unsigned block, uint64_t first, uint64_t n,
                        bool urgent)
{
    int rc = ff_channel_send(ch, run_frame(m, true, block, first, n), NULL, urgent);

    if (rc == 0) {
        account(m, ch, block, first, n, true, urgent);
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
static uint64_t group(const FfBlock *b, uint64_t first, uint64_t end, bool *zero)
{
    uint64_t p = first;

    *zero = is_zero(b, p);
    do {
        p++;
    } while (p < end && is_zero(b, p) == *zero);
    return p - first;
}

/* ---- compression --------------------------------------------------------------------------- */

uint32_t ff_source_features(const FfMigration *m)
{
    bool packs = m->cfg.compress != FF_COMPRESS_NEVER && m->peer_features & FF_FEATURE_ZSTD;

    return FF_FEATURE_ALIVE | (packs ? FF_FEATURE_ZSTD : 0) |
           (m->peer_features & FF_FEATURE_ROUNDS) |
           (ff_source_packs_device(m)
                ? m->peer_features & (FF_FEATURE_PACKED_DEVICE | FF_FEATURE_DELTA_DEVICE)
                : 0);
}

static size_t longest_run(const FfMigration *m)
{
    size_t max = FF_RUN_MAX_BYTES;

    for (unsigned i = 0; i < m->n_blocks; i++) {
        max = MAX(max, m->blocks[i].info.page_size);
    }
    return max;
}

void ff_source_decide_packing(FfMigration *m, FfChannel *ch, FfPacking *pk)
{
    bool on = g_atomic_int_get(&m->compressing);

    if (!(ff_source_features(m) & FF_FEATURE_ZSTD)) {
        pk->on = false;
        return;
    }
    if (ch == m->main) {
        on = ff_compress_wanted(&m->compress_policy, m->cfg.compress, ff_channel_bounded(ch),
                                ff_counted(m->data_bytes), g_get_monotonic_time());
        g_atomic_int_set(&m->compressing, on);
    }
    unsigned level = m->cfg.zstd_level ? m->cfg.zstd_level : FF_ZSTD_LEVEL_DEFAULT;
    pk->on = on && ff_packing_prepare(pk, level, longest_run(m));
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
    size_t packed; /* bytes of FfPacking.out in use */
} Run;

static void add_group(FfMigration *m, FfPacking *pk, Run *r, Group g)
{
    const FfBlock *b = &m->blocks[g.block];
    uint64_t ps = b->info.page_size, bytes = g.n * ps;
    FfFrame *f = &r->frames[r->n_groups];
    char *data = (char *)b->map + g.first * ps;
    size_t len = 0;

    *f = run_frame(m, g.zero, g.block, g.first, g.n);
    if (pk && pk->on && !g.zero) {
        /* What is packed is never longer than what it was made of, so OUT suffices for all. */
        len = ff_packer_pack(pk->packer, data, bytes, pk->out + r->packed);
    }
    if (len) {
        f->type = FF_FRAME_PACKED;
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

static void add_run(FfMigration *m, FfPacking *pk, Run *r, unsigned block, uint64_t first,
                    uint64_t n)
{
    for (uint64_t p = first, len; p < first + n; p += len) {
        bool zero;
        len = group(&m->blocks[block], p, first + n, &zero);
        add_group(m, pk, r, (Group){block, p, len, zero, false});
    }
}

static int write_groups(FfMigration *m, FfChannel *ch, Run *r, bool urgent)
{
    int rc = ff_channel_write_all(ch, r->iov, r->n_iov, urgent);

    for (int i = 0; rc == 0 && i < r->n_groups; i++) {
        const Group *g = &r->groups[i];
        account(m, ch, g->block, g->first, g->n, g->zero, urgent);
        if (g->packed) {
            ff_count(m->stats.pages_compressed, g->n);
        }
    }
    return rc;
}

int ff_source_send_run(FfMigration *m, FfChannel *ch, FfPacking *pk, unsigned block, uint64_t first,
                       uint64_t n, bool urgent)
{
    Run r;

    r.n_groups = r.n_iov = 0;
    r.packed = 0;
    if (pk) {
        pk->saved = 0;
    }
    add_run(m, pk, &r, block, first, n);
    return write_groups(m, ch, &r, urgent);
}

int ff_source_send_urgent(FfMigration *m, const FfRun *runs, unsigned n)
{
    Run r;

    r.n_groups = r.n_iov = 0;
    r.packed = 0;
    for (unsigned i = 0; i < n; i++) {
        add_run(m, NULL, &r, runs[i].block, runs[i].first, runs[i].n);
    }
    return write_groups(m, ff_m_urgent_channel(m), &r, true);
}
