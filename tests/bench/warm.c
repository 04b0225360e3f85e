/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Touches this machine's free memory once, and gives it back: what a host has to provide for it is
 * provided then, and no run that is measured pays for it.
 *
 *   farfault-warm [MIB]
 *
 * At most MIB; never more than is free, but for a part that is left alone; for at most two minutes.
 * Says how many MiB it has touched. Status 0: all of them.
 */
#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#define MIB ((uint64_t)1 << 20)
#define PIECE (64 * MIB)
#define PAGE 4096
#define MOST_US (120 * G_USEC_PER_SEC)
#define LEFT_MIB 512 /* and a sixteenth of all */

/* NAME of /proc/meminfo, in MiB; 0: it cannot be read. */
static uint64_t memory_mib(const char *name)
{
    g_autofree char *text = NULL;

    if (!g_file_get_contents("/proc/meminfo", &text, NULL, NULL)) {
        return 0;
    }
    const char *at = strstr(text, name);
    return at ? g_ascii_strtoull(at + strlen(name), NULL, 10) / 1024 : 0;
}

/* FALSE: it cannot be had. */
static bool touch_piece(void)
{
    /* Stays mapped until the end, so that each piece is another one. */
    char *piece = mmap(NULL, PIECE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (piece == MAP_FAILED) {
        return false;
    }
    madvise(piece, PIECE, MADV_HUGEPAGE);
    for (uint64_t at = 0; at < PIECE; at += PAGE) {
        ((volatile char *)piece)[at] = 1;
    }
    return true;
}

int main(int argc, char **argv)
{
    uint64_t most = argc > 1 ? g_ascii_strtoull(argv[1], NULL, 10) : UINT64_MAX;
    uint64_t left = memory_mib("MemTotal:") / 16 + LEFT_MIB, done = 0;
    int64_t until = g_get_monotonic_time() + MOST_US;
    bool whole = true;

    /* If there is too little of it, this program is the one that ends. */
    g_file_set_contents_full("/proc/self/oom_score_adj", "1000", -1, G_FILE_SET_CONTENTS_NONE, 0,
                             NULL);
    while (done + PIECE / MIB <= most && memory_mib("MemFree:") >= left + PIECE / MIB) {
        whole = g_get_monotonic_time() < until && touch_piece();
        if (!whole) {
            break;
        }
        done += PIECE / MIB;
    }
    printf("%" G_GUINT64_FORMAT "\n", done);
    return whole ? 0 : 1;
}
