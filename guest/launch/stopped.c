/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Finds them in /proc. Relay and engine are not dumpable, so that their fds are for root alone to
 * see: the relay's pidfds say which QEMU is its. Their names and states anybody may read.
 *
 * One thread. System calls: none of its own.
 */
#include "guest/launch/stopped.h"

#include <gio/gio.h>
#include <stdlib.h>
#include <string.h>

#include "guest/launch/attach-find.h"

/* The value of NAME ("\nState:\t") in /proc/PID/status; NULL if there is none. TEXT holds it. */
static const char *status_of(pid_t pid, const char *name, char **text)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/status", (int)pid);
    const char *at;

    if (!g_file_get_contents(path, text, NULL, NULL) || !(at = strstr(*text, name))) {
        return NULL;
    }
    return at + strlen(name);
}

static bool is_stopped(pid_t pid)
{
    g_autofree char *text = NULL;
    const char *state = status_of(pid, "\nState:\t", &text);

    return state && g_ascii_tolower(*state) == 't';
}

static bool has_name(pid_t pid, const char *name)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/comm", (int)pid);
    g_autofree char *text = NULL;

    return g_file_get_contents(path, &text, NULL, NULL) && !strcmp(g_strchomp(text), name);
}

static pid_t parent_of(pid_t pid)
{
    g_autofree char *text = NULL;
    const char *parent = status_of(pid, "\nPPid:\t", &text);

    return parent ? atoi(parent) : 0;
}

static bool is_guest(pid_t pid)
{
    g_autoptr(JsonNode) plan = pid > 0 ? ff_attach_plan(pid, NULL, NULL) : NULL;

    return plan;
}

static pid_t qemu_of(pid_t relay)
{
    g_autofree char *dir_path = g_strdup_printf("/proc/%d/fdinfo", (int)relay);
    g_autoptr(GDir) dir = g_dir_open(dir_path, 0, NULL);
    const char *name;

    while (dir && (name = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(dir_path, name, NULL);
        g_autofree char *text = NULL;
        const char *at;

        if (g_file_get_contents(path, &text, NULL, NULL) && (at = strstr(text, "\nPid:\t")) &&
            is_guest(atoi(at + strlen("\nPid:\t")))) {
            return atoi(at + strlen("\nPid:\t"));
        }
    }
    return 0;
}

/* FALSE: it is no guest's. */
static bool judge_process(pid_t pid, FfStopped *found)
{
    if (has_name(pid, "farfault-relay")) {
        *found = (FfStopped){pid, FF_STOPPED_RELAY, qemu_of(pid)};
    } else if (has_name(pid, "farfault-engine")) {
        *found = (FfStopped){pid, FF_STOPPED_ENGINE, qemu_of(parent_of(pid))};
    } else if (is_guest(pid)) {
        *found = (FfStopped){pid, FF_STOPPED_QEMU, pid};
    } else {
        return false;
    }
    return true;
}

GArray *ff_stopped_find(void)
{
    GArray *all = g_array_new(FALSE, FALSE, sizeof(FfStopped));
    g_autoptr(GDir) proc = g_dir_open("/proc", 0, NULL);

    for (pid_t pid; (pid = ff_next_process(proc));) {
        FfStopped found;

        if (is_stopped(pid) && judge_process(pid, &found)) {
            g_array_append_val(all, found);
        }
    }
    return all;
}
