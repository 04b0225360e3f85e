/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Of two copies of CRIU's processes one may run: those that were restored here, or those that the
 * pages come from. What is seen here of the first ones decides that the others are kept. See
 * internal.h.
 *
 * System calls: those of GDir and g_file_get_contents().
 */
#include "pager/holder/internal.h"

#include <string.h>

#include "base/pidfd.h"

bool ff_holder_has_restored_others(const FfHolder *h, uint64_t connection)
{
    return h->restored && h->restored != connection;
}

/* Of a thread, by the text of its status. */
static bool is_traced(const char *status)
{
    const char *at = strstr(status, "\nTracerPid:");

    return !at || g_ascii_strtoull(at + strlen("\nTracerPid:"), NULL, 10) != 0;
}

/* CRIU traces all threads from before it says that all is restored until it lets them run. What it
 * does in between can fail, and then it kills them. */
bool ff_holder_is_let_run(pid_t pid, int pidfd)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/task", pid);
    g_autoptr(GDir) threads = g_dir_open(path, 0, NULL);
    bool some = false;
    const char *id;

    while (threads && (id = g_dir_read_name(threads))) {
        g_autofree char *status = g_strdup_printf("%s/%s/status", path, id), *text = NULL;
        if (g_file_get_contents(status, &text, NULL, NULL)) { /* else it has just ended */
            if (is_traced(text)) {
                return false;
            }
            some = true;
        }
    }
    return some && !ff_pidfd_has_ended(pidfd); /* so that was its pid all the time */
}

static void keep_others(FfHolder *h, const char *why)
{
    ff_say("%s: all that was restored is killed", why);
    h->exit_status = 1;
    h->ending = true;
}

/* What is only tried, beside what runs, does not count. */
static bool is_decisive(const FfHolder *h, uint64_t connection)
{
    return h->cfg->fetcher && !h->given_up && !h->ending &&
           !ff_holder_has_restored_others(h, connection);
}

void ff_holder_lost(FfHolder *h, uint64_t connection)
{
    if (!is_decisive(h, connection)) {
        return;
    }
    if (h->restored) {
        keep_others(h, "a process has ended before it was seen to run");
        return;
    }
    for (unsigned i = 0; i < FF_HOLDER_PENDING; i++) {
        FfPending *p = &h->pending[i];
        p->lost = p->lost || (p->sock >= 0 && p->connection == connection);
    }
}

void ff_holder_refused(FfHolder *h, uint64_t connection, const char *why)
{
    if (is_decisive(h, connection)) {
        keep_others(h, why);
    }
}
