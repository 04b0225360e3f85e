/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a holder is told when it begins. */
#ifndef FF_HOLDER_CONFIG_H
#define FF_HOLDER_CONFIG_H

#include <glib.h>
#include <stdbool.h>
#include <sys/types.h>

typedef struct {
    int listen_fd;      /* of a unix stream socket, listening; taken */
    char **pager_argv;  /* how this program becomes the pager, whose link is FF_HOLD_LINK_FD */
    const int *inherit; /* fds that it has as FF_HOLD_LINK_FD + 1 and so on; -1: it has none */
    unsigned n_inherit;
    const uid_t *uids; /* who may connect besides the holder's own user and root */
    unsigned n_uids;
    bool criu; /* clients are CRIU's, not Firecracker's: many on a connection, and without a copy */
} FfHolderConfig;

#endif
