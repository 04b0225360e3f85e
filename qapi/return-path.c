/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * QEMU before 8.2 does not wait for the thread that has read the return path of a migration that
 * failed or was cancelled. If that thread is late it takes the next migration's file for its own:
 * that one stands for ever, or QEMU crashes, and the guest is lost. So the next migration waits for
 * the end of such a thread. It only has to be run for that, so a second is much; then QEMU has it
 * all the same, as what it takes by itself is not refused.
 *
 * The thread is known by its name. QEMU gives names with -name debug-threads=on, as under libvirt;
 * without, nothing is found and nothing waits (docs/recovery.md). The kernel tells of its end from
 * 6.9 on, and before that it is waited for a second. Main loop's thread.
 *
 * System calls: pidfd_open.
 */
#include <fcntl.h>
#include <glib-unix.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "qapi/driver-private.h"

#ifndef PIDFD_THREAD
#define PIDFD_THREAD O_EXCL
#endif

#define WAIT_MS 1000

typedef struct {
    FfCall *call;
    FfHandler next;
    pid_t tid;
    int pidfd; /* of that thread; -1: the kernel has none */
    guint watch, timer;
} Late;

/* 0: there is none. */
static pid_t find_thread(pid_t qemu)
{
    g_autofree char *tasks = g_strdup_printf("/proc/%d/task", qemu);
    g_autoptr(GDir) dir = g_dir_open(tasks, 0, NULL);
    const char *tid;

    while (dir && (tid = g_dir_read_name(dir))) {
        g_autofree char *path = g_strdup_printf("%s/%s/comm", tasks, tid), *name = NULL;

        if (g_file_get_contents(path, &name, NULL, NULL) && !strcmp(name, "return path\n")) {
            return (pid_t)g_ascii_strtoll(tid, NULL, 10);
        }
    }
    return 0;
}

static void go_on(Late *late)
{
    FfCall *call = late->call;
    FfHandler next = late->next;

    g_clear_handle_id(&late->watch, g_source_remove);
    g_clear_handle_id(&late->timer, g_source_remove);
    if (late->pidfd >= 0) {
        close(late->pidfd);
    }
    g_free(late);
    next(call);
}

static gboolean ended(gint fd, GIOCondition condition, gpointer opaque)
{
    Late *late = opaque;

    late->watch = 0;
    go_on(late);
    return G_SOURCE_REMOVE;
}

static gboolean too_long(gpointer opaque)
{
    Late *late = opaque;

    late->timer = 0;
    go_on(late);
    return G_SOURCE_REMOVE;
}

/* One that is under way has such a thread by right, and QEMU refuses another one. */
static void got_info(FfCall *call, JsonNode *result, const GError *error)
{
    Late *late = call->late;

    call->late = NULL;
    if (!error && ff_has_ended(result)) {
        late->pidfd = (int)syscall(SYS_pidfd_open, late->tid, PIDFD_THREAD);
        if (late->pidfd >= 0) {
            late->watch = g_unix_fd_add(late->pidfd, G_IO_IN, ended, late);
        }
        late->timer = g_timeout_add(WAIT_MS, too_long, late);
    } else {
        go_on(late);
    }
}

void ff_call_after_return_path(FfCall *call, FfHandler next)
{
    FfDriver *d = call->driver;
    pid_t tid = ff_driver_version(d) < FF_QEMU_8_2 ? find_thread(d->config.qemu_pid) : 0;

    if (!tid) {
        next(call);
        return;
    }
    Late *late = g_new0(Late, 1);

    *late = (Late){.call = call, .next = next, .tid = tid, .pidfd = -1};
    call->late = late;
    ff_call_inner(call, "query-migrate", NULL, got_info);
}
