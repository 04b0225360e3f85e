/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How fast the first round of precopy is over several connections, without QEMU: two engines in
 * this process, a guest that stands still, over loopback or a shaped veth pair; each mode in turn,
 * in rounds. Both memories are compared at the end.
 *
 *   farfault-precopy-bench [--mib N] [--megabits N] [--rounds N]
 *
 * One line for each migration: time from the first page to the end of the first round, at which all
 * is placed, what that is in MiB of the guest per second, and processor seconds of everything.
 */
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include "tests/lib/shapednet.h"
#include "tests/lib/side.h"

static gint mib = 512, megabits = -1, rounds = 5;

static const GOptionEntry entries[] = {
    {"mib", 0, 0, G_OPTION_ARG_INT, &mib, "Memory (512)", "N"},
    {"megabits", 0, 0, G_OPTION_ARG_INT, &megabits,
     "Of a veth pair, each way; 0: not shaped (default: loopback)", "N"},
    {"rounds", 0, 0, G_OPTION_ARG_INT, &rounds, "Rounds (5)", "N"},
    G_OPTION_ENTRY_NULL,
};

static const struct {
    const char *name;
    unsigned channels;
    FfCompress compress;
} modes[] = {
    {"1", 1, FF_COMPRESS_NEVER},
    {"2", 2, FF_COMPRESS_NEVER},
    {"4", 4, FF_COMPRESS_NEVER},
    {"1, compressed", 1, FF_COMPRESS_ALWAYS},
    {"4, compressed", 4, FF_COMPRESS_ALWAYS},
};

/* Each word four times. */
static void fill(Side *s)
{
    uint64_t *word = (uint64_t *)s->map[0], x = 88172645463325252ull;

    for (uint64_t i = 0; i < (uint64_t)mib << 17; i++) {
        if (i % 4 == 0) {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
        }
        word[i] = x;
    }
}

static double cpu_seconds(void)
{
    struct rusage u;

    getrusage(RUSAGE_SELF, &u);
    return u.ru_utime.tv_sec + u.ru_stime.tv_sec + (u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static void move(unsigned mode, const ShapedNet *net)
{
    uint64_t size = (uint64_t)mib << 20;
    Side *s = side_new(FF_ROLE_SOURCE, &size, 1), *d = side_new(FF_ROLE_DESTINATION, &size, 1);

    fill(s);
    s->track = true;
    d->mirror = s;
    s->config.compress = modes[mode].compress;
    s->config.channels = modes[mode].channels;
    if (net) {
        shaped_net_enter(net, SHAPED_DESTINATION);
    }
    side_start(d, net ? "tcp:" SHAPED_ADDRESS_DESTINATION ":0" : "tcp:127.0.0.1:0", -1);
    g_autoptr(FfMigrationInfo) info = ff_migration_info(d->m);
    if (net) {
        shaped_net_enter(net, SHAPED_SOURCE);
    }
    side_start(s, info->socket_address, -1);
    side_run_until(s->passes >= 1);
    int64_t begin = g_get_monotonic_time();
    double cpu = cpu_seconds();
    side_run_until(s->passes >= 2);
    double seconds = (g_get_monotonic_time() - begin) / 1e6;
    cpu = cpu_seconds() - cpu;
    side_run_until(s->done && d->done);
    g_assert_cmpint(memcmp(s->map[0], d->map[0], size), ==, 0);
    g_autoptr(FfMigrationInfo) si = ff_migration_info(s->m);
    printf("%-14s %7.0f ms %7.0f MiB/s  cpu %5.2f s  %7.1f MiB on the wire\n", modes[mode].name,
           seconds * 1000, mib / seconds, cpu, si->bytes_wire / 1048576.0);
    fflush(stdout);
    side_free(s);
    side_free(d);
}

int main(int argc, char **argv)
{
    g_autoptr(GOptionContext) context = g_option_context_new("- precopy over connections");
    g_autoptr(GError) error = NULL;
    const char *why = NULL;
    ShapedNet *net = NULL;

    g_option_context_add_main_entries(context, entries, NULL);
    if (!g_option_context_parse(context, &argc, &argv, &error)) {
        g_printerr("farfault-precopy-bench: %s\n", error->message);
        return 2;
    }
    if (megabits >= 0 && !(net = shaped_net_new(megabits, &why))) {
        g_printerr("farfault-precopy-bench: %s\n", why);
        return 1;
    }
    printf("%d MiB, %d Mbit/s (-1: loopback, 0: a veth pair that is not shaped)\n", mib, megabits);
    for (gint round = 0; round < rounds; round++) {
        for (unsigned i = 0; i < G_N_ELEMENTS(modes); i++) {
            move(i, net);
        }
    }
    g_clear_pointer(&net, shaped_net_free);
    return 0;
}
