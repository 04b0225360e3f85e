/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See internal.h. What is looked at is what plain QEMU does without: guest RAM in files (memfds
 * count for RLIMIT_FSIZE, and the signal would end this process without a word), /proc/self/fd, by
 * which QEMU opens them, and some dozens of file descriptors.
 *
 * One thread. System calls: getrlimit, fcntl, access.
 */
#include "guest/launch/internal.h"

#include <fcntl.h>
#include <inttypes.h>
#include <sys/resource.h>
#include <unistd.h>

#include "contract/state.h"

/* File descriptors that launcher, QEMU, relay and engine each get along with, measured with QEMU
 * 7.2: beside those that the caller has left open, ... */
#define FILES 54
#define FILES_OF_MONITOR 4
#define FILES_OF_RAM 2
#define FILES_OF_CONFIG 1
/* ... and where a limit is that large it is not counted. */
#define FILES_ENOUGH 1024

static rlim_t limit_of(__rlimit_resource_t resource)
{
    struct rlimit limit;

    return getrlimit(resource, &limit) < 0 ? RLIM_INFINITY : limit.rlim_cur;
}

/* The largest file that is made for PLAN; *WHAT names it (g_free). */
static uint64_t largest_file(const FfPlan *plan, char **what)
{
    uint64_t largest = sizeof(FfStateHeader);

    *what = g_strdup("farfault's record of it");
    for (guint i = 0; i < plan->ram->len; i++) {
        const FfPlanRam *ram = plan->ram->pdata[i];

        if (ram->size > largest) {
            largest = ram->size;
            g_free(*what);
            *what = g_strdup_printf("its memory '%s'", ram->id);
        }
    }
    return largest;
}

static char *file_too_large(const FfPlan *plan)
{
    rlim_t limit = limit_of(RLIMIT_FSIZE);
    g_autofree char *what = NULL;
    uint64_t largest = largest_file(plan, &what);

    if (limit == RLIM_INFINITY || largest <= limit) {
        return NULL;
    }
    return g_strdup_printf("RLIMIT_FSIZE (ulimit -f) is %" PRIu64 " bytes, and %s is a file of "
                           "%" PRIu64 " bytes under farfault",
                           (uint64_t)limit, what, largest);
}

static char *too_few_files(const FfPlan *plan)
{
    rlim_t limit = limit_of(RLIMIT_NOFILE);
    unsigned need = FILES + FILES_OF_MONITOR * plan->monitors->len + FILES_OF_RAM * plan->ram->len +
                    FILES_OF_CONFIG * plan->configs->len;

    if (limit >= FILES_ENOUGH) {
        return NULL;
    }
    for (int fd = STDERR_FILENO + 1; fd < (int)limit; fd++) {
        need += fcntl(fd, F_GETFD) >= 0;
    }
    return limit >= need ? NULL
                         : g_strdup_printf("RLIMIT_NOFILE (ulimit -n) is %u, and farfault needs %u",
                                           (unsigned)limit, need);
}

char *ff_shortage_of(const FfPlan *plan)
{
    char *why;

    if (access("/proc/self/fd", X_OK) < 0) {
        return g_strdup("/proc is not mounted here");
    }
    why = file_too_large(plan);
    return why ? why : too_few_files(plan);
}
