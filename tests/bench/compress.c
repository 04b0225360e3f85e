/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What compression of bulk runs costs and gains, without QEMU: two engines in this process move
 * memory by postcopy, over loopback or a shaped veth pair, while threads that stand for vCPUs touch
 * every page at random; each mode in turn, in rounds. Every page is compared by the thread that
 * touches it.
 *
 *   farfault-compress-bench [--mib N] [--megabits N] [--alike N] [--touchers N] [--rounds N]
 *
 * One line for each migration: total time, MiB on the wire, processor seconds of everything (both
 * engines, the touching threads), how many pages were compressed, requests and their mean latency.
 */
#include <stdio.h>

#include "tests/bench/engines.h"
#include "tests/lib/vm.h"

#define NAME "farfault-compress-bench"

static gint mib = 256, megabits, alike = 2, touchers = 1, rounds = 3;

static const GOptionEntry entries[] = {
    {"mib", 0, 0, G_OPTION_ARG_INT, &mib, "Memory (256)", "N"},
    {"megabits", 0, 0, G_OPTION_ARG_INT, &megabits, "Of the link, each way (0: loopback)", "N"},
    {"alike", 0, 0, G_OPTION_ARG_INT, &alike,
     "Each word stands there 2^N times (2); 0 does not compress", "N"},
    {"touchers", 0, 0, G_OPTION_ARG_INT, &touchers, "Threads that touch pages (1)", "N"},
    {"rounds", 0, 0, G_OPTION_ARG_INT, &rounds, "Rounds (3)", "N"},
    G_OPTION_ENTRY_NULL,
};

static const struct {
    const char *name;
    FfCompress compress;
    unsigned channels;
} modes[] = {
    {"never", FF_COMPRESS_NEVER, 1},           {"auto", FF_COMPRESS_AUTO, 1},
    {"always", FF_COMPRESS_ALWAYS, 1},         {"never, 4 channels", FF_COMPRESS_NEVER, 4},
    {"auto, 4 channels", FF_COMPRESS_AUTO, 4}, {"always, 4 channels", FF_COMPRESS_ALWAYS, 4},
};

static void report(const char *name, Side *s, Side *d, double cpu)
{
    g_autoptr(FfMigrationInfo) si = ff_migration_info(s->m), di = ff_migration_info(d->m);

    printf("%-20s %6" G_GINT64_FORMAT " ms %7.1f MiB  cpu %5.2f s  compressed %6" G_GUINT64_FORMAT
           "  requests %6" G_GUINT64_FORMAT "  mean %7.0f us  p99 %7.0f us\n",
           name, si->total_time, si->bytes_wire / 1048576.0, cpu, si->pages_compressed,
           di->requests, di->latency_mean_us, di->latency_p99_us);
    fflush(stdout);
}

static void move(unsigned mode, const ShapedNet *net)
{
    uint64_t size = (uint64_t)mib << 20;
    Side *s = side_new(FF_ROLE_SOURCE, &size, 1), *d = side_new(FF_ROLE_DESTINATION, &size, 1);

    engines_fill(s, alike);
    d->mirror = s;
    d->n_touchers = touchers;
    s->config.compress = modes[mode].compress;
    s->config.channels = modes[mode].channels;
    report(modes[mode].name, s, d, engines_move(s, d, net));
    side_free(s);
    side_free(d);
}

int main(int argc, char **argv)
{
    ShapedNet *net = NULL;

    if (!engines_options(NAME, "- what compression costs and gains", entries, &argc, &argv)) {
        return 2;
    }
    if (mib < 1 || touchers < 0 || touchers > MAX_TOUCHERS || alike < 0 || alike > 8) {
        g_printerr(NAME ": numbers out of range\n");
        return 2;
    }
    if (megabits && !(net = engines_net(NAME, megabits))) {
        return 1;
    }
    printf("%d MiB, %s, %d Mbit/s (0: loopback), %d touching\n", mib,
           alike ? "compressible" : "random", megabits, touchers);
    for (gint round = 0; round < rounds; round++) {
        for (unsigned i = 0; i < G_N_ELEMENTS(modes); i++) {
            move(i, net);
        }
    }
    g_clear_pointer(&net, shaped_net_free);
    return 0;
}
