/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Counters of a migration, always on. Every counter is a relaxed atomic that the statistics
 * read while threads count; nothing decides by them. Who waits for which page is in the table of
 * uffd/waits.h; how long it took (blocktime, latency) is counted here.
 */
#ifndef FF_MIGRATION_COMMON_STATS_H
#define FF_MIGRATION_COMMON_STATS_H

#include "migration/common/config.h"

typedef struct {
    uint64_t pages_normal, pages_zero, pages_bulk, pages_urgent, pages_duplicate, pages_compressed;
    uint64_t content_bytes; /* D: placed, of pages_normal */
    uint64_t requests, device_bytes, device_wire;
    uint64_t latency[FF_LATENCY_BUCKETS], latency_sum_us, latency_count;
    /* D: of these, what devices in other processes waited. */
    uint64_t device_latency[FF_LATENCY_BUCKETS];
    uint64_t device_waits, device_wait_sum_us, device_wait_max_us;
    uint64_t vcpu_wait_max_us;  /* D: the longest of a vCPU's */
    uint64_t places[FF_PLACES]; /* S: requests */
    /* Monotonic time; 0: not yet. */
    int64_t start_us, setup_us, stop_us, running_us;
    uint64_t precopy_bytes; /* S: on the wire before the stop */
    uint64_t dirty_rate;    /* S: pages per second */
    int64_t expected_ms;    /* S: downtime, if it were now; -1: not known */
    uint32_t n_vcpus, vcpus_blocked;
    int32_t vcpu_tid[FF_MAX_VCPUS];
    uint64_t vcpu_blocked_us[FF_MAX_VCPUS];
    uint64_t vcpu_ended[FF_MAX_VCPUS];     /* waits that have ended */
    uint64_t other_ended, other_waited_us; /* of threads that are no vCPUs */
    /* A vCPU that runs again may wait for its next page before the end of the last wait is noted:
     * two waits, one blocked vCPU. */
    uint32_t vcpu_waits[FF_MAX_VCPUS];
    int64_t all_blocked_since_us; /* 0: not all */
    uint64_t all_blocked_us;
} FfStats;

#define ff_count(counter, n) __atomic_fetch_add(&(counter), (n), __ATOMIC_RELAXED)
#define ff_stamp(field) __atomic_store_n(&(field), g_get_monotonic_time(), __ATOMIC_RELAXED)
#define ff_counted(counter) __atomic_load_n(&(counter), __ATOMIC_RELAXED)

/* Adds a latency of US microseconds to the histogram. */
void ff_stats_latency(FfStats *s, uint64_t us);
/* One more request for memory at AT, of ALL bytes. */
void ff_stats_place(FfStats *s, uint64_t at, uint64_t all);
/* What ff_stats_wait_begin() says of who is no vCPU: a thread of QEMU's, or another process. */
#define FF_WAITER_THREAD (-1)
#define FF_WAITER_DEVICE (-2)
/* Somebody (host thread TID; 0: a device in another process) began to wait for a page. Returns the
 * index of the vCPU, or FF_WAITER_*. Only the fault thread. */
int32_t ff_stats_wait_begin(FfStats *s, int32_t tid, int64_t now_us);
/* A wait of VCPU (as above) since SINCE_US has ended. Any thread that places. */
void ff_stats_wait_end(FfStats *s, int32_t vcpu, int64_t since_us, int64_t now_us);
/* Upper edge of the bucket that holds the 99th percentile, microseconds; 0: there is none. */
double ff_latency_p99(const uint64_t latency[FF_LATENCY_BUCKETS]);
/* Copies the counters into INFO (latency mean and p99 computed). */
void ff_stats_fill(const FfStats *s, FfMigrationInfo *info);

#endif
