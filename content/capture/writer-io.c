/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See writer-io.h. The kernel's answer decides which way is used, not its version: ENOSYS and EPERM
 * of io_uring (a container, a sysctl), EINVAL of O_DIRECT (tmpfs before Linux 6.6, FUSE).
 *
 * The engine does without io_uring: what is in a ring passes by its filter of system calls.
 *
 * Threads: one. System calls: pwritev, fcntl (and those of liburing).
 */
#include "content/capture/writer-io.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>

#include "base/failpoints.h"

struct FfWriterIo {
    int fd;
    FfWriterWay way;
    bool has_ring;
    struct io_uring ring;
    unsigned in_ring;     /* ops whose result was not seen */
    FfWriterOp *finished; /* written at once, or failed */
    int failed;           /* what the first of those that failed came to */
};

const char *ff_writer_way_name(FfWriterWay way)
{
    static const char *const names[] = {"io_uring", "direct", "buffered"};

    return names[way];
}

static bool set_direct(int fd, bool on)
{
    int flags = fcntl(fd, F_GETFL);

    return flags >= 0 && fcntl(fd, F_SETFL, on ? flags | O_DIRECT : flags & ~O_DIRECT) == 0;
}

FfWriterIo *ff_writer_io_new(int fd, unsigned depth, FfWriterWay way)
{
    FfWriterIo *io = g_new0(FfWriterIo, 1);

    io->fd = fd;
    io->way = way;
    if (io->way != FF_WRITER_BUFFERED && !set_direct(fd, true)) {
        io->way = FF_WRITER_BUFFERED;
    }
    if (io->way == FF_WRITER_URING) {
        io->has_ring = FF_FAULT_CALL("writer-ring", io_uring_queue_init(depth, &io->ring, 0)) == 0;
        io->way = io->has_ring ? FF_WRITER_URING : FF_WRITER_DIRECT;
    }
    return io;
}

void ff_writer_io_free(FfWriterIo *io)
{
    if (!io) {
        return;
    }
    g_assert(!io->in_ring && !io->finished);
    if (io->has_ring) {
        io_uring_queue_exit(&io->ring);
    }
    g_free(io);
}

FfWriterWay ff_writer_io_way(const FfWriterIo *io)
{
    return io->way;
}

static void finish_op(FfWriterIo *io, FfWriterOp *op)
{
    op->next = io->finished;
    io->finished = op;
}

/* N bytes of OP are written. */
static void advance_op(FfWriterOp *op, uint64_t n)
{
    op->offset += n;
    while (op->n && n >= op->iov->iov_len) {
        n -= op->iov->iov_len;
        op->iov++;
        op->n--;
    }
    if (n) {
        op->iov->iov_base = (char *)op->iov->iov_base + n;
        op->iov->iov_len -= n;
    }
}

/* So many of its pieces go by one call. */
static unsigned count_pieces(const FfWriterOp *op)
{
    return FF_FAULT_STEP("writer-whole", false) ? 1 : op->n;
}

/* TRUE: OP, which came to RES, must be written again, or the rest of it. */
static bool continue_op(FfWriterIo *io, FfWriterOp *op, int res)
{
    if (res > 0) {
        advance_op(op, res);
        return op->n;
    }
    if (res == -EINTR || res == -EAGAIN) {
        return true;
    }
    bool unknown = res == -EINVAL || res == -EOPNOTSUPP || res == -ENOSYS || res == -EPERM;
    if (unknown && op->way < io->way) {
        return true; /* begun in a way that is not used any more */
    }
    if (unknown && res != -EINVAL && io->way == FF_WRITER_URING) {
        io->way = FF_WRITER_DIRECT;
        return true;
    }
    if (unknown && io->way != FF_WRITER_BUFFERED && set_direct(io->fd, false)) {
        io->way = FF_WRITER_BUFFERED;
        return true;
    }
    io->failed = io->failed ? io->failed : res < 0 ? res : -EIO;
    return false;
}

static void write_now(FfWriterIo *io, FfWriterOp *op)
{
    ssize_t n;

    do {
        op->way = io->way;
        n = FF_FAULT_CALL("writer-write", pwritev(io->fd, op->iov, count_pieces(op), op->offset));
    } while (continue_op(io, op, n < 0 ? -errno : (int)n));
    finish_op(io, op);
}

static void put_in_ring(FfWriterIo *io, FfWriterOp *op)
{
    struct io_uring_sqe *sqe;

    op->way = FF_WRITER_URING;
    while (!(sqe = io_uring_get_sqe(&io->ring))) {
        io_uring_submit(&io->ring);
    }
    io_uring_prep_writev(sqe, io->fd, op->iov, count_pieces(op), op->offset);
    io_uring_sqe_set_data(sqe, op);
    io->in_ring++;
}

void ff_writer_io_submit(FfWriterIo *io, FfWriterOp *op)
{
    if (io->way == FF_WRITER_URING) {
        put_in_ring(io, op);
        io_uring_submit(&io->ring); /* what it does not take now the next wait takes */
    } else {
        write_now(io, op);
    }
}

/* The result of one op, which continues or is finished. */
static void take_result(FfWriterIo *io)
{
    struct io_uring_cqe *cqe;
    int rc;

    io_uring_submit(&io->ring);
    do {
        rc = io_uring_wait_cqe(&io->ring, &cqe);
    } while (rc == -EINTR || rc == -EAGAIN);
    g_assert(rc == 0); /* of a ring that is there it waits, and nothing else */
    FfWriterOp *op = io_uring_cqe_get_data(cqe);
    int res = cqe->res;
    io_uring_cqe_seen(&io->ring, cqe);
    io->in_ring--;
    res = FF_FAULT_CALL("writer-write", res < 0 ? (errno = -res, -1) : res) < 0 ? -errno : res;
    if (!continue_op(io, op, res)) {
        finish_op(io, op);
    } else if (io->way == FF_WRITER_URING) {
        put_in_ring(io, op);
    } else {
        write_now(io, op);
    }
}

FfWriterOp *ff_writer_io_wait(FfWriterIo *io, int *rc)
{
    while (!io->finished) {
        take_result(io);
    }
    FfWriterOp *op = io->finished;
    io->finished = op->next;
    *rc = io->failed;
    return op;
}
