/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Stops a process. Nobody but its parent is told when it stands, so /proc is looked at. */
#include "tests/lib/stop.h"

#include <glib.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>

static bool stands(const char *tasks)
{
    g_autoptr(GDir) dir = g_dir_open(tasks, 0, NULL);
    const char *name;

    g_assert_nonnull(dir);
    while ((name = g_dir_read_name(dir))) {
        g_autofree char *path = g_strdup_printf("%s/%s/stat", tasks, name), *text = NULL;
        /* A thread that is gone runs no more. */
        if (g_file_get_contents(path, &text, NULL, NULL) && !strstr(text, ") T ") &&
            !strstr(text, ") Z ")) {
            return false;
        }
    }
    return true;
}

void stop_process(pid_t pid)
{
    g_autofree char *tasks = g_strdup_printf("/proc/%d/task", pid);
    int64_t end = g_get_monotonic_time() + 30 * G_USEC_PER_SEC;

    g_assert_cmpint(kill(pid, SIGSTOP), ==, 0);
    while (!stands(tasks)) {
        g_assert_cmpint(g_get_monotonic_time(), <, end);
        g_thread_yield();
    }
}
