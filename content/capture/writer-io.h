/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Writes to a regular file in one of three ways: io_uring with O_DIRECT, pwritev with O_DIRECT,
 * pwritev through the page cache. It begins with the best one that is allowed, and takes the next
 * where the kernel, a container or the file system does not know it. What was written in part is
 * continued. One thread.
 */
#ifndef FF_CONTENT_CAPTURE_WRITER_IO_H
#define FF_CONTENT_CAPTURE_WRITER_IO_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

typedef enum { FF_WRITER_URING, FF_WRITER_DIRECT, FF_WRITER_BUFFERED } FfWriterWay;
const char *ff_writer_way_name(FfWriterWay way);

/* One piece of the file. The caller's until ff_writer_io_wait() gives it back. */
typedef struct FfWriterOp FfWriterOp;
struct FfWriterOp {
    struct iovec *iov; /* changed while it is written in part */
    unsigned n;
    uint64_t offset; /* multiple of 4096, as are the pieces */
    void *owner;     /* the caller's */
    FfWriterWay way; /* in which it was begun */
    FfWriterOp *next;
};

typedef struct FfWriterIo FfWriterIo;

/* FD is borrowed. DEPTH: ops at a time. WAY: the best that may be used. */
FfWriterIo *ff_writer_io_new(int fd, unsigned depth, FfWriterWay way);
/* No op is under way. Can be NULL. */
void ff_writer_io_free(FfWriterIo *io);
void ff_writer_io_submit(FfWriterIo *io, FfWriterOp *op);
/* Waits until an op ends. *RC: 0, all of it is written; -errno. */
FfWriterOp *ff_writer_io_wait(FfWriterIo *io, int *rc);
FfWriterWay ff_writer_io_way(const FfWriterIo *io);

#endif
