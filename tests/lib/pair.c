/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See pair.h. */
#include "tests/lib/pair.h"

#include <string.h>

const uint64_t pair_sizes[PAIR_BLOCKS] = {6 << 20, (1 << 20) + 4096};

Pair pair_idle(unsigned n_touchers)
{
    Pair p = {side_new(FF_ROLE_SOURCE, pair_sizes, PAIR_BLOCKS),
              side_new(FF_ROLE_DESTINATION, pair_sizes, PAIR_BLOCKS)};

    p.d->n_touchers = n_touchers;
    side_fill(p.s);
    return p;
}

Pair pair_new(unsigned n_touchers)
{
    Pair p = pair_idle(n_touchers);

    side_start(p.d, "tcp:127.0.0.1:0", -1);
    return p;
}

char *pair_address(Side *d)
{
    g_autoptr(FfMigrationInfo) info = ff_migration_info(d->m);

    return g_strdup(info->socket_address);
}

bool pair_over(const Side *s)
{
    return s->done || s->status == FF_STATUS_POSTCOPY_PAUSED;
}

void pair_check_equal(Pair *p)
{
    for (unsigned i = 0; i < p->d->n_touchers; i++) {
        g_assert_cmpuint(GPOINTER_TO_SIZE(g_thread_join(p->d->touchers[i])), ==, 0);
    }
    for (unsigned b = 0; b < PAIR_BLOCKS; b++) {
        g_assert_cmpint(memcmp(p->s->map[b], p->d->map[b], pair_sizes[b]), ==, 0);
    }
}

void pair_check_moved(Pair *p)
{
    g_assert_cmpint(p->s->status, ==, FF_STATUS_COMPLETED);
    g_assert_cmpint(p->d->status, ==, FF_STATUS_COMPLETED);
    pair_check_equal(p);
    g_assert_false(g_atomic_int_get(&p->s->runs));
    g_assert_true(g_atomic_int_get(&p->d->runs));
    g_assert_cmpint(p->s->saved_status, ==, 0);
    g_autoptr(FfMigrationInfo) si = ff_migration_info(p->s->m), di = ff_migration_info(p->d->m);
    g_assert_cmpuint(si->ram_remaining, ==, 0);
    g_assert_cmpuint(di->ram_remaining, ==, 0);
    g_assert_null(si->error_desc);
}

void pair_run_to(Pair *p, FfStatus status)
{
    side_run_until(p->s->status == status && p->d->status == status);
}

void pair_run_to_end(Pair *p)
{
    side_run_until(p->s->done && p->d->done);
    pair_check_moved(p);
}

void pair_free(Pair *p)
{
    side_free(p->s);
    side_free(p->d);
}

/* Source to destination directly. */
void pair_resume_at(Pair *p, const char *uri)
{
    g_autoptr(GError) error = NULL;

    gsize before = p->s->history->len;

    ff_migration_resume(p->s->m, uri, -1, false, &error);
    g_assert_no_error(error);
    /* What follows may be paused again at once. */
    side_run_until(p->s->history->len > before);
}
