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

#include "tests/bench/engines.h"

#define NAME "farfault-precopy-bench"

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

static void move(unsigned mode, const ShapedNet *net)
{
    uint64_t size = (uint64_t)mib << 20;
    Side *s = side_new(FF_ROLE_SOURCE, &size, 1), *d = side_new(FF_ROLE_DESTINATION, &size, 1);

    engines_fill(s, 2);
    s->track = true;
    d->mirror = s;
    s->config.compress = modes[mode].compress;
    s->config.channels = modes[mode].channels;
    g_autofree char *address = engines_listen(d, net);
    side_start(s, address, -1);
    side_run_until(s->passes >= 1);
    int64_t begin = g_get_monotonic_time();
    double cpu = engines_cpu();
    side_run_until(s->passes >= 2);
    double seconds = (g_get_monotonic_time() - begin) / 1e6;
    cpu = engines_cpu() - cpu;
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
    ShapedNet *net = NULL;

    if (!engines_options(NAME, "- precopy over connections", entries, &argc, &argv)) {
        return 2;
    }
    if (megabits >= 0 && !(net = engines_net(NAME, megabits))) {
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
