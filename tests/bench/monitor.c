/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See monitor.h. */
#include "monitor.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <string.h>
#include <unistd.h>

#include "qmp/json.h"

/* A QEMU that reads a file in its main loop answers when it has done so. */
#define CALL_MS 300000
#define CONNECT_TRIES 20000 /* 20 s */
#define CONNECT_US 1000

/* Its name is there when it is bound, and for its listening the kernel has no event: so it is tried
 * again, which takes microseconds. */
static int connect_to(int inode, GError **error)
{
    for (unsigned i = 0; i < CONNECT_TRIES; i++) {
        g_autoptr(GError) own = NULL;
        int fd = ff_qmp_connect(inode, &own);

        if (fd >= 0) {
            return fd;
        }
        if (!g_error_matches(own, G_IO_ERROR, G_IO_ERROR_CONNECTION_REFUSED) ||
            i + 1 == CONNECT_TRIES) {
            g_propagate_error(error, g_steal_pointer(&own));
            return -1;
        }
        g_usleep(CONNECT_US);
    }
    return -1;
}

bool bench_monitor_open(BenchMonitor *m, const char *path, GError **error)
{
    int inode = open(path, O_PATH | O_CLOEXEC);

    if (inode < 0) {
        g_set_error(error, G_IO_ERROR, g_io_error_from_errno(errno), "%s: %s", path,
                    g_strerror(errno));
        return false;
    }
    int fd = connect_to(inode, error);
    close(inode);
    if (fd < 0) {
        return false;
    }
    m->qmp = ff_qmp_client_new_shared(fd, NULL, NULL, NULL);
    m->events = ff_qmp_watch_new(m->qmp, NULL);
    return ff_qmp_client_wait_ready(m->qmp, CALL_MS, NULL, error);
}

void bench_monitor_clear(BenchMonitor *m)
{
    g_clear_pointer(&m->events, ff_qmp_watch_free);
    if (m->qmp) {
        ff_qmp_client_close(m->qmp);
        g_clear_pointer(&m->qmp, ff_qmp_client_unref);
    }
}

bool bench_monitor_command(BenchMonitor *m, const char *name, JsonObject *args, int fd,
                           GError **error)
{
    g_autoptr(JsonNode) result =
        ff_qmp_call_sync(m->qmp, name, args, &fd, fd >= 0 ? 1 : 0, CALL_MS, NULL, error);

    g_clear_pointer(&args, json_object_unref);
    return result != NULL;
}

bool bench_monitor_set_capability(BenchMonitor *m, const char *name, GError **error)
{
    JsonObject *args = json_object_new(), *one = json_object_new();
    JsonArray *list = json_array_new();

    json_object_set_string_member(one, "capability", name);
    json_object_set_boolean_member(one, "state", TRUE);
    json_array_add_object_element(list, one);
    json_object_set_array_member(args, "capabilities", list);
    return bench_monitor_command(m, "migrate-set-capabilities", args, -1, error);
}

JsonNode *bench_monitor_query(BenchMonitor *m, GError **error)
{
    return ff_qmp_call_sync(m->qmp, "query-migrate", NULL, NULL, 0, CALL_MS, NULL, error);
}

void bench_monitor_set_failure(BenchMonitor *m, const char *what, const char *status,
                               GError **error)
{
    g_autoptr(JsonNode) info = bench_monitor_query(m, NULL);
    const char *why = ff_json_string_or(ff_json_node_object(info), "error-desc", "no reason given");

    g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED, "%s is %s: %s", what, status, why);
}

double bench_event_us(JsonObject *event)
{
    JsonObject *t = ff_json_object(event, "timestamp");

    return ff_json_double(t, "seconds", NAN) * 1e6 + ff_json_double(t, "microseconds", NAN);
}

const char *bench_event_status(JsonObject *event)
{
    return strcmp(ff_json_string_or(event, "event", ""), "MIGRATION") != 0
               ? NULL
               : ff_json_string(ff_json_object(event, "data"), "status");
}
