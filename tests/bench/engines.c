/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See engines.h. */
#include "tests/bench/engines.h"

#include <string.h>
#include <sys/resource.h>

bool engines_options(const char *name, const char *what, const GOptionEntry *entries, int *argc,
                     char ***argv)
{
    g_autoptr(GOptionContext) context = g_option_context_new(what);
    g_autoptr(GError) error = NULL;

    g_option_context_add_main_entries(context, entries, NULL);
    if (!g_option_context_parse(context, argc, argv, &error)) {
        g_printerr("%s: %s\n", name, error->message);
        return false;
    }
    return true;
}

ShapedNet *engines_net(const char *name, int megabits)
{
    const char *why = NULL;
    ShapedNet *net = shaped_net_new(megabits, &why);

    if (!net) {
        g_printerr("%s: %s\n", name, why);
    }
    return net;
}

static uint64_t block_size(const Side *s)
{
    return ((const FfRamBlock *)s->blocks->pdata[0])->size;
}

void engines_fill(Side *s, unsigned alike)
{
    uint64_t *word = (uint64_t *)s->map[0], x = 88172645463325252ull;

    for (uint64_t i = 0; i < block_size(s) / sizeof(x); i++) {
        if (i % (1u << alike) == 0) {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
        }
        word[i] = x;
    }
}

double engines_cpu(void)
{
    struct rusage u;

    getrusage(RUSAGE_SELF, &u);
    return u.ru_utime.tv_sec + u.ru_stime.tv_sec + (u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

char *engines_listen(Side *d, const ShapedNet *net)
{
    /* What a side starts is where this thread is. */
    if (net) {
        shaped_net_enter(net, SHAPED_DESTINATION);
    }
    side_start(d, net ? "tcp:" SHAPED_ADDRESS_DESTINATION ":0" : "tcp:127.0.0.1:0", -1);
    if (net) {
        shaped_net_enter(net, SHAPED_SOURCE);
    }
    g_autoptr(FfMigrationInfo) info = ff_migration_info(d->m);
    return g_strdup(info->socket_address);
}

double engines_move(Side *s, Side *d, const ShapedNet *net)
{
    g_autofree char *address = engines_listen(d, net);
    double begin = engines_cpu();

    side_start(s, address, -1);
    ff_migration_start_postcopy(s->m, NULL);
    side_run_until(s->done && d->done);
    for (unsigned i = 0; i < d->n_touchers; i++) {
        g_assert_cmpuint(GPOINTER_TO_SIZE(g_thread_join(d->touchers[i])), ==, 0);
    }
    double cpu = engines_cpu() - begin;
    g_assert_cmpint(memcmp(s->map[0], d->map[0], block_size(s)), ==, 0);
    return cpu;
}
