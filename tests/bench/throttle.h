/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A slow disk, made by the kernel: a cgroup whose processes write to the block device of a folder's
 * file system, or read from it, at a limited rate. Version 2 of cgroups (io.max) or version 1
 * (blkio.throttle.write_bps_device), whichever this machine has for block devices.
 *
 * Version 1 does not count what is written through the page cache until its writer syncs it. One
 * thread.
 */
#ifndef FF_BENCH_THROTTLE_H
#define FF_BENCH_THROTTLE_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#define BENCH_SKIPPED 77 /* exit status: not possible on this machine */

typedef struct BenchThrottle BenchThrottle;

/* What is slow. */
typedef enum {
    BENCH_THROTTLE_READS,
    BENCH_THROTTLE_WRITES,
} BenchThrottleKind;

/* RATE: bytes per second. NULL and *WHY (one line, g_free): not on this machine, or not for this
 * user. */
BenchThrottle *bench_throttle_new(const char *folder, BenchThrottleKind kind, uint64_t rate,
                                  char **why);
/* --disk-rate of a bench, MB/s; 0: *THROTTLE stays NULL. 0, or BENCH_SKIPPED, which was said. */
int bench_throttle_open(BenchThrottle **throttle, const char *folder, BenchThrottleKind kind,
                        int mb_s);
/* What is written through the page cache is slow as well. */
bool bench_throttle_has_cache(const BenchThrottle *throttle);
/* Removes the cgroup: its processes have ended. Can be NULL. */
void bench_throttle_free(BenchThrottle *throttle);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(BenchThrottle, bench_throttle_free)

/* ARGV, NULL at its end, as a command that moves into the cgroup and then becomes ARGV. THROTTLE
 * can be NULL: ARGV as it is. Freed by g_strfreev(). */
char **bench_throttle_wrap(const BenchThrottle *throttle, const char *const *argv);

/* The process PID is slow from now on. */
void bench_throttle_add(const BenchThrottle *throttle, int pid);

#endif
