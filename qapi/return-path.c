/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * QEMU before 8.2 does not wait for the thread that has read the return path of a migration that
 * failed or was cancelled. If that thread is late it takes the next migration's file for its own:
 * that one stands for ever, or QEMU crashes, and the guest is lost. So the next migration waits for
 * the end of such a thread. It need only be run for that, so a second is much; then QEMU has it
 * all the same, as what it takes by itself is not refused.
 *
 * The thread is known by its name. QEMU gives names with -name debug-threads=on, as under libvirt;
 * without, nothing is found and nothing waits (docs/recovery.md). A kernel before 6.9 does not tell
 * of a thread's end: there it is looked for every few milliseconds. Main loop's thread.
 *
 * System calls: pidfd_open.
 */
#include <errno.h>
#include <fcntl.h>
#include <glib-unix.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/failpoints.h"
#include "qapi/driver-private.h"

#ifndef PIDFD_THREAD
#define PIDFD_THREAD O_EXCL
#endif

#define WAIT_MS 1000
#define LOOK_MS 5

typedef struct {
    FfCall *call;
    FfHandler next;
    pid_t tid;
    int pidfd; /* of that thread; -1: the kernel has none */
    guint watch, timer;
} Late;

static bool is_reader(pid_t qemu, const char *tid)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/task/%s/comm", qemu, tid), *name = NULL;

    return g_file_get_contents(path, &name, NULL, NULL) && !strcmp(name, "return path\n");
}

/* 0: there is none. */
static pid_t find_thread(pid_t qemu)
{
    g_autofree char *tasks = g_strdup_printf("/proc/%d/task", qemu);
    g_autoptr(GDir) dir = g_dir_open(tasks, 0, NULL);
    const char *tid;

    while (dir && (tid = g_dir_read_name(dir))) {
        if (is_reader(qemu, tid)) {
            return (pid_t)g_ascii_strtoll(tid, NULL, 10);
        }
    }
    return 0;
}

static void late_free(Late *late)
{
    g_clear_handle_id(&late->watch, g_source_remove);
    g_clear_handle_id(&late->timer, g_source_remove);
    if (late->pidfd >= 0) {
        close(late->pidfd);
    }
    g_free(late);
}

static void go_on(Late *late)
{
    FfCall *call = late->call;
    FfHandler next = late->next;

    late_free(late);
    next(call);
}

static gboolean on_ended(gint fd, GIOCondition condition, gpointer opaque)
{
    Late *late = opaque;

    late->watch = 0;
    go_on(late);
    return G_SOURCE_REMOVE;
}

/* The kernel has no event for it. */
static gboolean look_at_path(gpointer opaque)
{
    Late *late = opaque;
    g_autofree char *tid = g_strdup_printf("%d", late->tid);

    if (is_reader(late->call->driver->config.qemu_pid, tid)) {
        return G_SOURCE_CONTINUE;
    }
    late->watch = 0;
    go_on(late);
    return G_SOURCE_REMOVE;
}

static gboolean too_long(gpointer opaque)
{
    Late *late = opaque;

    FF_FAULT_AT("return-path-stays");
    late->timer = 0;
    go_on(late);
    return G_SOURCE_REMOVE;
}

static void await_end(Late *late)
{
    late->pidfd =
        FF_FAULT_CALL("pidfd-open-thread", (int)syscall(SYS_pidfd_open, late->tid, PIDFD_THREAD));
    if (late->pidfd < 0 && errno == ESRCH) { /* while QEMU was asked */
        go_on(late);
        return;
    }
    if (late->pidfd >= 0) {
        late->watch = g_unix_fd_add(late->pidfd, G_IO_IN, on_ended, late);
    } else {
        late->watch = g_timeout_add(LOOK_MS, look_at_path, late);
    }
    late->timer = g_timeout_add(WAIT_MS, too_long, late);
}

static bool has_status(JsonNode *info, const char *status)
{
    return info && JSON_NODE_HOLDS_OBJECT(info) &&
           !g_strcmp0(ff_json_string(json_node_get_object(info), "status"), status);
}

/* QEMU may have closed its file alone, in which the thread waits: it is woken by the end of the
 * connection. (Of one that is completed the peer is to get all.) */
static void end_connections(FfDriver *d)
{
    if (d->outgoing && ff_outgoing_has_begun(d->outgoing)) {
        ff_outgoing_end(d);
    }
}

/* One that is under way has such a thread by right, and QEMU refuses another one. It does not any
 * more at the end of "cancelling", which may be before the next migration gets there. */
static void got_info(FfCall *call, JsonNode *result, const GError *error)
{
    Late *late = call->late;

    call->late = NULL;
    if (error) { /* whose the thread is, is not known */
        late_free(late);
        ff_call_gerror(call, error);
    } else if (has_status(result, "failed") || has_status(result, "cancelled")) {
        end_connections(call->driver);
        await_end(late);
    } else if (has_status(result, "cancelling") || ff_has_ended(result)) {
        await_end(late);
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
