/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Gives a source to pagers of other hosts, which ask for it (server/remote.h). A process of its
 * own, which holds nothing that must outlive it: a client that misses a page waits until there
 * is one again.
 */
#ifndef FF_SERVER_EXPORT_H
#define FF_SERVER_EXPORT_H

#include "net/tls.h"
#include "content/source/content.h"

typedef struct {
    int listen_fd;     /* taken */
    FfTls *tls;        /* borrowed; NULL: in the clear */
    FfContent *source; /* borrowed */
    uint64_t identity;
} FfExport;

/* Which content the file FD has: its size, its inode, and the times at which it was written to, was
 * changed in any way, and was made (if that is known). So another file in its place is another
 * content, also with its inode, size and time; but so is the same one under another name. FALSE and
 * errno. */
bool ff_export_identify(int fd, uint64_t *identity);
/* For ever. The process ignores SIGPIPE. It gets as many files as it may have. */
void ff_export_run(const FfExport *e) G_GNUC_NORETURN;

#endif
