/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How long a guest with a display stands still: plain QEMU and farfault by turns, over a link of
 * this run's own, by precopy, or by postcopy at once. One line for each move, then the median and
 * the worst of each. For people; needs root.
 */
#include <stdio.h>
#include <stdlib.h>

#include "figures.h"
#include "tests/lib/display.h"

static int megabits = 1000, mib = 16, limit = 20, runs = 5, memory = 64;
static gboolean postcopy;
static char *device = "VGA,vgamem_mb=16", *more = "";

static const GOptionEntry options[] = {
    {"megabits", 0, 0, G_OPTION_ARG_INT, &megabits, "per second each way (1000)", "N"},
    {"device", 0, 0, G_OPTION_ARG_STRING, &device, "the display (VGA,vgamem_mb=16)", "WORDS"},
    {"more", 0, 0, G_OPTION_ARG_STRING, &more, "more arguments of QEMU", "WORDS"},
    {"memory", 0, 0, G_OPTION_ARG_INT, &memory, "MiB of the guest (64)", "N"},
    {"mib", 0, 0, G_OPTION_ARG_INT, &mib, "MiB of its memory that hold something (16)", "N"},
    {"limit", 0, 0, G_OPTION_ARG_INT, &limit, "downtime-limit, ms (20)", "N"},
    {"postcopy", 0, 0, G_OPTION_ARG_NONE, &postcopy,
     "switched at once, with postcopy-preempt; without --limit", NULL},
    {"runs", 0, 0, G_OPTION_ARG_INT, &runs, "of each (5)", "N"},
    {NULL, 0, 0, 0, NULL, NULL, NULL}};

static double move(const ShapedNet *net, VmLauncher launcher)
{
    g_autofree char *words = g_strdup_printf("-machine pc -vga none -device %s %s", device, more);
    g_autofree char *ram = g_strdup_printf("%dM", memory);
    g_auto(GStrv) args = NULL;

    g_assert_true(g_shell_parse_argv(words, NULL, &args, NULL));
    DisplayPair p =
        display_pair_start(&(DisplayConfig){net, (const char *const *)args, NULL, ram, launcher});
    display_draw(&p, 0, (uint64_t)mib << 20, 1);
    double ms = (postcopy ? display_move_at_once(&p) : display_move(&p, limit)) / 1e3;
    display_pair_end(&p);
    return ms;
}

int main(int argc, char **argv)
{
    static const char *const names[] = {"QEMU", "farfault"};
    g_autoptr(GOptionContext) context = g_option_context_new("- a display's memory moves");
    g_autoptr(GError) error = NULL;
    const char *why;

    g_option_context_add_main_entries(context, options, NULL);
    if (!g_option_context_parse(context, &argc, &argv, &error)) {
        g_printerr("farfault-display-bench: %s\n", error->message);
        return EXIT_FAILURE;
    }
    ShapedNet *net = shaped_net_new(megabits, &why);
    if (!net) {
        g_printerr("farfault-display-bench: %s\n", why);
        return EXIT_FAILURE;
    }
    double *ms[] = {g_new(double, runs), g_new(double, runs)};
    g_autofree char *how = postcopy ? g_strdup("postcopy") : g_strdup_printf("limit %d ms", limit);
    printf("%d Mbit/s, %s, %d MiB drawn, %s\n", megabits, device, mib, how);
    for (int i = 0; i < runs; i++) {
        for (unsigned k = 0; k < 2; k++) {
            ms[k][i] = move(net, k ? VM_RUN : VM_PLAIN);
            printf("  %-8s %8.1f ms\n", names[k], ms[k][i]);
            fflush(stdout);
        }
    }
    for (unsigned k = 0; k < 2; k++) {
        printf("%-8s median %.1f ms, worst %.1f ms\n", names[k], bench_rank(ms[k], runs, 1, 0, 0.5),
               bench_rank(ms[k], runs, 1, 0, 1));
        g_free(ms[k]);
    }
    shaped_net_free(net);
    return EXIT_SUCCESS;
}
