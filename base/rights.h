/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Fds that go with the bytes of a unix socket (SCM_RIGHTS, unix(7)). Any thread; nothing is kept.
 */
#ifndef FF_BASE_RIGHTS_H
#define FF_BASE_RIGHTS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define FF_RIGHTS_MAX 253 /* SCM_MAX_FD: with one message */

typedef struct {
    int fd[FF_RIGHTS_MAX];
    unsigned n;
    bool lost; /* more came than this process may have open */
} FfRights;

/* Sends what the socket FD takes of LEN bytes, without waiting; N_FDS of FDS (at most
 * FF_RIGHTS_MAX, which stay the caller's) go with the first byte. Returns bytes, or -errno. */
ssize_t ff_rights_send(int fd, const void *data, size_t len, const int *fds, unsigned n_fds);
/* Receives at most LEN bytes, without waiting, and the fds that come with them, close-on-exec and
 * the caller's from then on. Returns bytes, 0 at the end, or -errno; then there are no fds. */
ssize_t ff_rights_receive(int fd, void *data, size_t len, FfRights *rights);

#endif
