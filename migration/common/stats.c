/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Counters and waits of a migration; see stats.h for the threads. No locks, no system calls. */
#include "migration/common/stats.h"

static unsigned bucket_of(uint64_t us)
{
    unsigned bucket = us < 2 ? 0 : 63 - __builtin_clzll(us);

    return MIN(bucket, FF_LATENCY_BUCKETS - 1);
}

void ff_stats_latency(FfStats *s, uint64_t us)
{
    ff_count(s->latency[bucket_of(us)], 1);
    ff_count(s->latency_sum_us, us);
    ff_count(s->latency_count, 1);
}

void ff_stats_place(FfStats *s, uint64_t at, uint64_t all)
{
    uint64_t part = (all + FF_PLACES - 1) / FF_PLACES;

    ff_count(s->places[MIN(at / MAX(part, 1), FF_PLACES - 1)], 1);
}

static int vcpu_of(const FfStats *s, int32_t tid)
{
    for (uint32_t i = 0; i < s->n_vcpus; i++) {
        if (s->vcpu_tid[i] == tid) {
            return i;
        }
    }
    return tid ? FF_WAITER_THREAD : FF_WAITER_DEVICE;
}

static void raise_to(uint64_t *max, uint64_t us)
{
    uint64_t now = ff_counted(*max);

    while (us > now &&
           !__atomic_compare_exchange_n(max, &now, us, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
}

static void count_device(FfStats *s, uint64_t us)
{
    ff_count(s->device_latency[bucket_of(us)], 1);
    ff_count(s->device_waits, 1);
    ff_count(s->device_wait_sum_us, us);
    raise_to(&s->device_wait_max_us, us);
}

int32_t ff_stats_wait_begin(FfStats *s, int32_t tid, int64_t now_us)
{
    int vcpu = vcpu_of(s, tid);

    if (vcpu >= 0 && __atomic_add_fetch(&s->vcpu_waits[vcpu], 1, __ATOMIC_ACQ_REL) == 1 &&
        __atomic_add_fetch(&s->vcpus_blocked, 1, __ATOMIC_ACQ_REL) == s->n_vcpus) {
        __atomic_store_n(&s->all_blocked_since_us, now_us, __ATOMIC_RELEASE);
    }
    return vcpu;
}

void ff_stats_wait_end(FfStats *s, int32_t vcpu, int64_t since_us, int64_t now_us)
{
    ff_stats_latency(s, MAX(0, now_us - since_us));
    if (vcpu < 0) {
        if (vcpu == FF_WAITER_DEVICE) {
            count_device(s, MAX(0, now_us - since_us));
        } else {
            ff_count(s->other_ended, 1);
            ff_count(s->other_waited_us, MAX(0, now_us - since_us));
        }
        return;
    }
    ff_count(s->vcpu_ended[vcpu], 1);
    ff_count(s->vcpu_blocked_us[vcpu], MAX(0, now_us - since_us));
    raise_to(&s->vcpu_wait_max_us, MAX(0, now_us - since_us));
    if (__atomic_sub_fetch(&s->vcpu_waits[vcpu], 1, __ATOMIC_ACQ_REL)) {
        return;
    }
    int64_t all = __atomic_exchange_n(&s->all_blocked_since_us, 0, __ATOMIC_ACQ_REL);
    /* Not before the exchange: a wait that begins in between finds one too many blocked, and is
     * taken up here. */
    uint32_t left = __atomic_sub_fetch(&s->vcpus_blocked, 1, __ATOMIC_ACQ_REL);
    if (all) {
        ff_count(s->all_blocked_us, MAX(0, now_us - all));
    }
    if (left == s->n_vcpus) {
        __atomic_store_n(&s->all_blocked_since_us, now_us, __ATOMIC_RELEASE);
    }
}

double ff_latency_p99(const uint64_t latency[FF_LATENCY_BUCKETS])
{
    uint64_t total = 0, seen = 0;

    for (unsigned i = 0; i < FF_LATENCY_BUCKETS; i++) {
        total += latency[i];
    }
    for (unsigned i = 0; i < FF_LATENCY_BUCKETS && total; i++) {
        seen += latency[i];
        if (seen * 100 >= total * 99) {
            return (double)(2ull << i);
        }
    }
    return 0;
}

static uint64_t mean_ns(uint64_t sum_us, uint64_t n)
{
    return n ? sum_us * 1000 / n : 0;
}

static void fill_latency(const FfStats *s, FfMigrationInfo *info)
{
    for (unsigned i = 0; i < FF_LATENCY_BUCKETS; i++) {
        info->latency[i] = ff_counted(s->latency[i]);
        info->device_latency[i] = ff_counted(s->device_latency[i]);
    }
    info->vcpu_wait_max_us = ff_counted(s->vcpu_wait_max_us);
    uint64_t n = ff_counted(s->latency_count);
    info->latency_mean_us = n ? (double)ff_counted(s->latency_sum_us) / n : 0;
    info->latency_p99_us = ff_latency_p99(info->latency);
    info->device_waits = ff_counted(s->device_waits);
    info->device_wait_mean_us =
        info->device_waits ? (double)ff_counted(s->device_wait_sum_us) / (double)info->device_waits
                           : 0;
    info->device_wait_max_us = ff_counted(s->device_wait_max_us);
}

void ff_stats_fill(const FfStats *s, FfMigrationInfo *info)
{
    info->pages_normal = ff_counted(s->pages_normal);
    info->pages_zero = ff_counted(s->pages_zero);
    info->pages_bulk = ff_counted(s->pages_bulk);
    info->pages_urgent = ff_counted(s->pages_urgent);
    info->pages_duplicate = ff_counted(s->pages_duplicate);
    info->pages_compressed = ff_counted(s->pages_compressed);
    info->requests = ff_counted(s->requests);
    info->device_bytes = ff_counted(s->device_bytes);
    info->device_wire = ff_counted(s->device_wire);
    fill_latency(s, info);
    for (unsigned i = 0; i < FF_PLACES; i++) {
        info->places[i] = ff_counted(s->places[i]);
    }
    info->blocktime_ms = ff_counted(s->all_blocked_us) / 1000;
    info->n_vcpus = ff_counted(s->n_vcpus);
    info->vcpu_blocktime_ms = g_new0(uint32_t, MAX(1, info->n_vcpus));
    info->vcpu_latency_ns = g_new0(uint64_t, MAX(1, info->n_vcpus));
    for (uint32_t i = 0; i < info->n_vcpus; i++) {
        uint64_t us = ff_counted(s->vcpu_blocked_us[i]);
        info->vcpu_blocktime_ms[i] = us / 1000;
        info->vcpu_latency_ns[i] = mean_ns(us, ff_counted(s->vcpu_ended[i]));
    }
    info->other_latency_ns = mean_ns(ff_counted(s->other_waited_us), ff_counted(s->other_ended));
}
