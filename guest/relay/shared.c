/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See shared.h. One thread; no locks. System calls: write. */
#include "guest/relay/shared.h"

#include <stdarg.h>
#include <string.h>
#include <unistd.h>

void ff_relay_log(FfRelay *relay, const char *format, ...)
{
    g_autofree char *text = NULL, *line = NULL;
    va_list args;

    if (relay->plan->stderr_fd < 0) {
        return;
    }
    va_start(args, format);
    text = g_strdup_vprintf(format, args);
    va_end(args);
    line = g_strdup_printf("farfault: %s\n", text);
    /* One write: it may share the file with QEMU. A log that cannot be written is no reason to
     * do anything. */
    if (write(relay->plan->stderr_fd, line, strlen(line)) < 0) {
        return;
    }
}

/* The loop ends after this turn, so the caller may continue to use its objects. */
void ff_relay_end(FfRelay *relay)
{
    g_main_loop_quit(relay->loop);
}
