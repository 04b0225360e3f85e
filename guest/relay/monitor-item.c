/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A client's message, and what QEMU must answer (monitor-internal.h). One thread; no locks. */
#include "guest/relay/monitor-internal.h"

#include <unistd.h>

void ff_item_free(FfItem *item)
{
    for (unsigned i = 0; i < item->n_fds; i++) {
        close(item->fds[i]);
    }
    g_free(item->fds);
    g_clear_pointer(&item->command, ff_qmp_command_free);
    g_bytes_unref(item->raw);
    g_free(item);
}

void ff_sent_free(FfSent *sent)
{
    if (sent->getfd_copy >= 0) {
        close(sent->getfd_copy);
    }
    g_free(sent->id);
    g_free(sent->getfd);
    g_free(sent->closefd);
    g_free(sent->chardev);
    g_free(sent);
}
