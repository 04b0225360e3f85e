/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See engines.h. */
#include "tests/bench/engines.h"

#include <string.h>
#include <sys/resource.h>

static double cpu_seconds(void)
{
    struct rusage u;

    getrusage(RUSAGE_SELF, &u);
    return u.ru_utime.tv_sec + u.ru_stime.tv_sec + (u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

double engines_move(Side *s, Side *d, const ShapedNet *net)
{
    uint64_t size = ((FfRamBlock *)s->blocks->pdata[0])->size;

    /* What a side starts is where this thread is. */
    if (net) {
        shaped_net_enter(net, SHAPED_DESTINATION);
    }
    side_start(d, net ? "tcp:" SHAPED_ADDRESS_DESTINATION ":0" : "tcp:127.0.0.1:0", -1);
    g_autoptr(FfMigrationInfo) info = ff_migration_info(d->m);
    if (net) {
        shaped_net_enter(net, SHAPED_SOURCE);
    }
    double begin = cpu_seconds();
    side_start(s, info->socket_address, -1);
    ff_migration_start_postcopy(s->m, NULL);
    side_run_until(s->done && d->done);
    for (unsigned i = 0; i < d->n_touchers; i++) {
        g_assert_cmpuint(GPOINTER_TO_SIZE(g_thread_join(d->touchers[i])), ==, 0);
    }
    double cpu = cpu_seconds() - begin;
    g_assert_cmpint(memcmp(s->map[0], d->map[0], size), ==, 0);
    return cpu;
}
