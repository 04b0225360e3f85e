/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Scheduling of the threads of engine and relay. Where there are fewer processors than vCPUs and
 * bulk threads, a request passes four threads, each of which would wait for its turn.
 *
 * Linux 6.12 and newer take a slice for SCHED_OTHER in sched_runtime: a thread that asks for a
 * short one preempts one that runs on a longer one (EEVDF, PREEMPT_SHORT), without privilege. With
 * CAP_SYS_NICE the nice value helps on older kernels as well.
 * System calls: sched_setattr, getpriority.
 */
#include "base/priority.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#define URGENT_SLICE_NS 100000 /* the least that the kernel takes */
#define URGENT_NICE_STEP 10
#define LOW_NICE_STEP 10
/* Longer than a vCPU's (the kernel's own is 1 to 3 ms), which so continues as soon as its page is
 * there, and short enough not to be felt when it is the vCPU that has had its share. */
#define BULK_SLICE_NS 6000000
/* linux/sched.h: threads that this one starts are ordinary again. */
#define RESET_ON_FORK 0x01

/* linux/sched/types.h, which glibc's sched.h of Debian 12 cannot be included with. */
typedef struct {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime, deadline, period;
} SchedAttr;

static int base_nice; /* of the process before any thread was raised */

static void remember_base(void)
{
    base_nice = getpriority(PRIO_PROCESS, 0);
}

static int base_policy(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    pthread_once(&once, remember_base);
    return base_nice;
}

static int set_policy(uint32_t policy, int nice, uint64_t slice_ns)
{
    int now = sched_getscheduler(0) & ~SCHED_RESET_ON_FORK;

    if (now == SCHED_FIFO || now == SCHED_RR) {
        return 0; /* inherited from a program that knows why */
    }
    SchedAttr a = {.size = sizeof(a),
                   .policy = policy,
                   .flags = RESET_ON_FORK,
                   .nice = nice < -20 ? -20 : nice,
                   .runtime = slice_ns};

    return syscall(SYS_sched_setattr, 0, &a, 0) < 0 ? -errno : 0;
}

bool ff_priority_can_rise(void)
{
    return set_policy(SCHED_OTHER, base_policy() - URGENT_NICE_STEP, URGENT_SLICE_NS) == 0;
}

void ff_priority_urgent(void)
{
    if (!ff_priority_can_rise()) {
        set_policy(SCHED_OTHER, base_policy(), URGENT_SLICE_NS);
    }
}

void ff_priority_link(void)
{
    set_policy(SCHED_OTHER, base_policy(), URGENT_SLICE_NS);
}

void ff_priority_bulk(void)
{
    set_policy(SCHED_BATCH, base_policy(), BULK_SLICE_NS);
}

void ff_priority_low(void)
{
    int nice = base_policy() + LOW_NICE_STEP;

    set_policy(SCHED_BATCH, nice > 19 ? 19 : nice, BULK_SLICE_NS);
}
