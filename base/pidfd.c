/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See pidfd.h. No state; any thread. System calls: poll, open (fdinfo), read, close.
 */
#include "base/pidfd.h"

#include <glib.h>
#include <poll.h>
#include <string.h>

#define FIELD "\nPid:"

bool ff_pidfd_has_ended(int pidfd)
{
    struct pollfd pfd = {.fd = pidfd, .events = POLLIN};

    return poll(&pfd, 1, 0) == 1;
}

pid_t ff_pidfd_pid(int pidfd)
{
    g_autofree char *path = g_strdup_printf("/proc/self/fdinfo/%d", pidfd), *text = NULL;
    const char *at = g_file_get_contents(path, &text, NULL, NULL) ? strstr(text, FIELD) : NULL;

    return at ? (pid_t)g_ascii_strtoll(at + strlen(FIELD), NULL, 10) : -1;
}
