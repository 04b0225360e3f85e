/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The way of a fault with many that wait, without QEMU: two engines in this process move memory by
 * postcopy, over loopback or a shaped veth pair, while threads that stand for vCPUs touch each page
 * once (one thread each), at random or in order, with bulk beside them or without.
 *
 *   farfault-fault-bench [--mib N] [--megabits N] [--threads N,N] [--rounds N] [--case TEXT]
 *                        [--label TEXT]
 *
 * One line of JSON for each migration. To compare two builds run theirs in turn, a round each.
 *   requests/s   pages asked for, per second in which somebody touched
 *   mean, p99    of the waits as those that touch see them: touches of 16 us and more
 *   engine mean  from reading the fault to the page placed
 *   cpu          processor seconds of all (both engines, all threads) per thousand pages
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/bench/engines.h"
#include "tests/lib/vm.h"

#define NAME "farfault-fault-bench"
#define WAIT_US 16
#define MAX_US 65536

static gint mib = 64, megabits, rounds = 3;
static gchar *threads = "1,8,64", *label = "", *only;

static const GOptionEntry entries[] = {
    {"mib", 0, 0, G_OPTION_ARG_INT, &mib, "Memory, a power of two (64)", "N"},
    {"megabits", 0, 0, G_OPTION_ARG_INT, &megabits, "Of the link, each way (0: loopback)", "N"},
    {"threads", 0, 0, G_OPTION_ARG_STRING, &threads, "That touch pages (1,8,64)", "N,N"},
    {"rounds", 0, 0, G_OPTION_ARG_INT, &rounds, "Rounds (3)", "N"},
    {"case", 0, 0, G_OPTION_ARG_STRING, &only, "Only \"random\", \"random, bulk\", ...", "TEXT"},
    {"label", 0, 0, G_OPTION_ARG_STRING, &label, "Stands in each line", "TEXT"},
    G_OPTION_ENTRY_NULL,
};

typedef struct {
    const char *name;
    bool random, bulk;
} Case;

static const Case cases[] = {
    {"random", true, false},
    {"random, bulk", true, true},
    {"in order", false, false},
    {"in order, bulk", false, true},
};

/* Of the migration that runs. Threads that touch: atomic. */
static struct {
    const Case *c;
    uint32_t waits[MAX_US]; /* by length, us */
    gint64 first_us, last_us;
} now;

/* Another order of N pages, a power of two: each step can be undone. No stride in it. */
static uint64_t shuffled(uint64_t page, uint64_t n)
{
    for (unsigned i = 0; i < 3; i++) {
        page = page * 40503 % n;
        page ^= page >> 5;
    }
    return page;
}

/* One of N threads, each with a part of the pages of its own. Returns how many were wrong. */
static gpointer touch(Side *s, unsigned index)
{
    uint64_t n_pages = (uint64_t)mib << 8, each = n_pages / s->n_touchers, bad = 0;
    gint64 none = 0;

    for (uint64_t i = 0; i < each; i++) {
        uint64_t own = index * each + i;
        uint64_t page = now.c->random ? shuffled(own, n_pages) : own;
        volatile uint64_t *w = (uint64_t *)(s->map[0] + page * PAGE);
        gint64 begin = g_get_monotonic_time();
        uint64_t first = *w;
        gint64 us = g_get_monotonic_time() - begin;
        bad += first != side_word(0, page);
        if (us >= WAIT_US) {
            __atomic_fetch_add(&now.waits[MIN(us, MAX_US - 1)], 1, __ATOMIC_RELAXED);
        }
        if (i == 0) {
            __atomic_compare_exchange_n(&now.first_us, &none, begin, false, __ATOMIC_RELAXED,
                                        __ATOMIC_RELAXED);
        }
    }
    __atomic_store_n(&now.last_us, g_get_monotonic_time(), __ATOMIC_RELAXED);
    return GSIZE_TO_POINTER(bad);
}

static void report(unsigned n_threads, Side *d, double cpu)
{
    g_autoptr(FfMigrationInfo) di = ff_migration_info(d->m);
    uint64_t n = 0, sum = 0, seen = 0;
    unsigned p99 = 0;

    for (unsigned us = 0; us < MAX_US; us++) {
        n += now.waits[us];
        sum += (uint64_t)us * now.waits[us];
    }
    for (; p99 < MAX_US && (seen += now.waits[p99]) * 100 < n * 99; p99++) {
    }
    double dt = (now.last_us - now.first_us) / 1e6;
    printf("{\"label\": \"%s\", \"megabits\": %d, \"threads\": %u, \"case\": \"%s\", "
           "\"requests\": %" G_GUINT64_FORMAT ", \"requests/s\": %.0f, \"pages/s\": %.0f, "
           "\"waits\": %" G_GUINT64_FORMAT ", \"mean us\": %.0f, \"p99 us\": %u, "
           "\"engine mean us\": %.0f, \"total ms\": %" G_GINT64_FORMAT ", \"cpu\": %.3f}\n",
           label, megabits, n_threads, now.c->name, di->requests, di->requests / dt,
           (mib << 8) / dt, n, n ? (double)sum / n : 0, p99, di->latency_mean_us, di->total_time,
           cpu * 1e3 / (mib << 8));
    fflush(stdout);
}

static void fill(Side *s)
{
    for (uint64_t page = 0; page < (uint64_t)mib << 8; page++) {
        uint64_t *w = (uint64_t *)(s->map[0] + page * PAGE);
        for (unsigned i = 0; i < PAGE / 8; i++) {
            w[i] = side_word(0, page);
        }
    }
}

static void move(const Case *c, unsigned n_threads, const ShapedNet *net)
{
    uint64_t size = (uint64_t)mib << 20;
    Side *s = side_new(FF_ROLE_SOURCE, &size, 1), *d = side_new(FF_ROLE_DESTINATION, &size, 1);

    memset(&now, 0, sizeof(now));
    now.c = c;
    fill(s);
    d->any = true;
    d->touch = touch;
    d->n_touchers = n_threads;
    s->config.channels = 4;
    /* One run, and no more for hours. */
    s->config.max_postcopy_bandwidth = c->bulk ? 0 : 1;
    report(n_threads, d, engines_move(s, d, net));
    side_free(s);
    side_free(d);
}

static void run_all(const ShapedNet *net)
{
    g_auto(GStrv) n = g_strsplit(threads, ",", -1);

    for (gint round = 0; round < rounds; round++) {
        for (unsigned i = 0; n[i]; i++) {
            for (unsigned c = 0; c < G_N_ELEMENTS(cases); c++) {
                if (!only || !strcmp(only, cases[c].name)) {
                    move(&cases[c], CLAMP(atoi(n[i]), 1, MAX_TOUCHERS), net);
                }
            }
        }
    }
}

int main(int argc, char **argv)
{
    ShapedNet *net = NULL;

    if (!engines_options(NAME, "- many who wait for pages", entries, &argc, &argv)) {
        return 2;
    }
    if (mib < 1 || mib > 4096 || mib & (mib - 1)) {
        g_printerr(NAME ": --mib is a power of two, at most 4096\n");
        return 2;
    }
    if (megabits && !(net = engines_net(NAME, megabits))) {
        return 1;
    }
    run_all(net);
    g_clear_pointer(&net, shaped_net_free);
    return 0;
}
