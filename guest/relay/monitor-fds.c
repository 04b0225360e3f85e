/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Copies of the sockets and files that a client gave QEMU with getfd, so that the engine can take
 * the one that "migrate fd:NAME" means. No pipes: a copy would keep the reader waiting for the end
 * for ever ("virsh save"). A copy is dropped as soon as QEMU may have used or
 * closed its own: closefd, getfd of the same name, any command that mentions the name.
 *
 * One thread; no locks.
 */
#include "guest/relay/monitor-internal.h"
#include "guest/relay/monitor.h"

#include "guest/relay/routing.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void fd_drop(gpointer fd)
{
    close(GPOINTER_TO_INT(fd));
}

static bool is_ours(int fd)
{
    struct stat st;

    return fstat(fd, &st) == 0 && (S_ISSOCK(st.st_mode) || S_ISREG(st.st_mode));
}

static gboolean is_mentioned(gpointer name, gpointer fd, gpointer data)
{
    gsize len;
    const char *text = g_bytes_get_data(data, &len);

    return ff_mentions(text, len, name);
}

void ff_fds_note(FfMonitor *mon, const FfItem *item, FfSent *sent)
{
    const FfQmpCommand *command = item->command;

    if (command && command->name && command->fdname && !strcmp(command->name, "getfd")) {
        sent->getfd = g_strdup(command->fdname);
        /* QEMU takes the first and closes the others. */
        if (item->n_fds && is_ours(item->fds[0])) {
            sent->getfd_copy = fcntl(item->fds[0], F_DUPFD_CLOEXEC, 0);
        }
    } else if (command && command->name && command->fdname && !strcmp(command->name, "closefd")) {
        sent->closefd = g_strdup(command->fdname);
    } else if (mon->named_fds) {
        g_hash_table_foreach_remove(mon->named_fds, is_mentioned, item->raw);
    }
}

void ff_fds_answered(FfMonitor *mon, FfSent *sent, bool error)
{
    if (error) {
        return; /* FfSent still owns the copy */
    }
    if (sent->closefd && mon->named_fds) {
        g_hash_table_remove(mon->named_fds, sent->closefd);
    }
    if (sent->getfd) {
        if (!mon->named_fds) {
            mon->named_fds = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, fd_drop);
        }
        g_hash_table_remove(mon->named_fds, sent->getfd);
        if (sent->getfd_copy >= 0) {
            g_hash_table_insert(mon->named_fds, g_steal_pointer(&sent->getfd),
                                GINT_TO_POINTER(sent->getfd_copy));
            sent->getfd_copy = -1;
        }
    }
}

void ff_fds_reset(FfMonitor *mon)
{
    g_clear_pointer(&mon->named_fds, g_hash_table_unref);
}

int ff_monitor_take_fd(FfMonitor *mon, const char *name)
{
    gpointer key, fd;

    if (!mon->named_fds || !g_hash_table_steal_extended(mon->named_fds, name, &key, &fd)) {
        return -1;
    }
    g_free(key);
    return GPOINTER_TO_INT(fd);
}
