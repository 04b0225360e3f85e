/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How runs of 128 KiB after a header cross a TCP connection, without what is done with them at
 * either end: by sendmsg() and recv(), as the engine does, by MSG_ZEROCOPY, and by io_uring (linked
 * sends; send_zc from registered memory; a multishot receive into a ring of buffers). Over loopback
 * and over a veth pair that is not shaped.
 *
 * A sender's thread sends out of a memfd for so many seconds, as the engine does with a guest's
 * memory; a receiver's takes everything and looks at nothing. What comes by io_uring comes in
 * pieces of any length: an engine would have to put them together, which is not in these numbers.
 *
 * Two threads for each measurement; nothing is shared between them but the connection.
 */
#include "tests/bench/transports.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/errqueue.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/frame.h"
#include "tests/lib/shapednet.h"
#ifdef FF_LIBURING
#include <liburing.h>
#endif

#define REGION (256ull << 20)
#define RUN FF_RUN_MAX_BYTES
/* As the engine's bulk sockets have it. */
#define NOTSENT_LOWAT (128 * 1024)

typedef struct End End;
typedef struct {
    const char *name;
    void (*run)(End *e);
    bool zerocopy;
} Way;

struct End {
    const Way *way;
    int fd;
    char *memory; /* REGION to send from; the receiver has none */
    uint64_t at;
    double seconds;
    uint64_t bytes;
    uint64_t sends, copied; /* that were to be without a copy, and that the kernel copied */
    double cpu;             /* seconds of this thread */
};

static double now(void)
{
    return g_get_monotonic_time() / 1e6;
}

static double thread_cpu(void)
{
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

/* Of both threads, and of what the kernel does in threads of its own for io_uring. */
static double process_cpu(void)
{
    struct rusage u;

    getrusage(RUSAGE_SELF, &u);
    return u.ru_utime.tv_sec + u.ru_stime.tv_sec + (u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static char header[sizeof(FfFrame)]; /* never changes, so it may still be on its way */

static char *next_run(End *e)
{
    char *run = e->memory + e->at;

    e->at = (e->at + RUN) % REGION;
    e->bytes += RUN;
    return run;
}

static void wait_for(int fd, short events)
{
    struct pollfd p = {.fd = fd, .events = events};

    while (poll(&p, 1, -1) < 0 && errno == EINTR) {
    }
}

/* ---- sendmsg and recv ------------------------------------------------------------------------ */

/* What the kernel says of sends without a copy: it has let go of them, and how it went. */
static void reap_zerocopy(End *e)
{
    char control[128];
    struct msghdr m = {.msg_control = control};

    for (m.msg_controllen = sizeof(control); recvmsg(e->fd, &m, MSG_ERRQUEUE | MSG_DONTWAIT) >= 0;
         m.msg_controllen = sizeof(control)) {
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        struct sock_extended_err *err = c ? (void *)CMSG_DATA(c) : NULL;
        if (err && err->ee_origin == SO_EE_ORIGIN_ZEROCOPY) {
            uint64_t n = err->ee_data - err->ee_info + 1;
            e->sends += n;
            e->copied += err->ee_code & SO_EE_CODE_ZEROCOPY_COPIED ? n : 0;
        }
    }
}

static void send_run(End *e, char *run)
{
    struct iovec iov[2] = {{header, sizeof(header)}, {run, RUN}};
    struct msghdr m = {.msg_iov = iov, .msg_iovlen = 2};
    int flags = MSG_NOSIGNAL | MSG_DONTWAIT | (e->way->zerocopy ? MSG_ZEROCOPY : 0);

    while (m.msg_iovlen) {
        ssize_t n = sendmsg(e->fd, &m, flags);
        if (n < 0 && errno == EAGAIN) {
            wait_for(e->fd, POLLOUT);
        } else if (n < 0 && errno != ENOBUFS) {
            g_error("sendmsg: %s", g_strerror(errno));
        }
        if (e->way->zerocopy) {
            reap_zerocopy(e);
        }
        for (; n > 0 && (size_t)n >= m.msg_iov->iov_len && m.msg_iovlen; m.msg_iovlen--) {
            n -= m.msg_iov->iov_len;
            m.msg_iov++;
        }
        if (n > 0) {
            m.msg_iov->iov_base = (char *)m.msg_iov->iov_base + n;
            m.msg_iov->iov_len -= n;
        }
    }
}

static void send_by_calls(End *e)
{
    int one = 1;

    if (e->way->zerocopy && setsockopt(e->fd, SOL_SOCKET, SO_ZEROCOPY, &one, sizeof(one)) < 0) {
        g_error("SO_ZEROCOPY: %s", g_strerror(errno));
    }
    for (double end = now() + e->seconds; now() < end;) {
        send_run(e, next_run(e));
    }
}

/* FALSE at the end. */
static bool take(int fd, char *buf, size_t len)
{
    for (size_t have = 0; have < len;) {
        ssize_t n = recv(fd, buf + have, len - have, MSG_DONTWAIT);
        if (n < 0 && errno == EAGAIN) {
            wait_for(fd, POLLIN);
        } else if (n <= 0) {
            return false;
        }
        have += MAX(n, 0);
    }
    return true;
}

static void receive_by_calls(End *e)
{
    g_autofree char *buf = g_malloc(RUN);
    char frame[sizeof(FfFrame)];

    while (take(e->fd, frame, sizeof(frame)) && take(e->fd, buf, RUN)) {
        e->bytes += RUN;
    }
}

/* ---- io_uring -------------------------------------------------------------------------------- */

#ifdef FF_LIBURING

/* Runs that are given to the kernel together, and buffers of the receiver. */
#define TOGETHER 4
#define BUFFERS 16
/* Linux 6.2. */
#define SEND_ZC_REPORT_USAGE (1u << 3)
#define NOTIF_USAGE_ZC_COPIED (1u << 31)

static void ring_init(struct io_uring *ring)
{
    int rc = io_uring_queue_init(64, ring, IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN);

    rc = rc == -EINVAL ? io_uring_queue_init(64, ring, 0) : rc;
    if (rc < 0) {
        g_error("io_uring: %s", g_strerror(-rc));
    }
}

static struct io_uring_sqe *entry(struct io_uring *ring)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(ring);

    g_assert(sqe);
    return sqe;
}

/* One after the other, or their bytes would mix. */
static unsigned put_run(struct io_uring *ring, End *e, struct msghdr *m, bool last)
{
    int flags = MSG_NOSIGNAL | MSG_WAITALL;
    struct io_uring_sqe *sqe = entry(ring);

    if (!e->way->zerocopy) {
        m->msg_iov[0] = (struct iovec){header, sizeof(header)};
        m->msg_iov[1] = (struct iovec){next_run(e), RUN};
        io_uring_prep_sendmsg(sqe, e->fd, m, flags);
        io_uring_sqe_set_flags(sqe, last ? 0 : IOSQE_IO_LINK);
        return 1;
    }
    io_uring_prep_send(sqe, e->fd, header, sizeof(header), flags | MSG_MORE);
    io_uring_sqe_set_flags(sqe, IOSQE_IO_LINK);
    sqe = entry(ring);
    io_uring_prep_send_zc_fixed(sqe, e->fd, next_run(e), RUN, flags, SEND_ZC_REPORT_USAGE, 0);
    io_uring_sqe_set_flags(sqe, last ? 0 : IOSQE_IO_LINK);
    return 2;
}

static void settle(struct io_uring *ring, End *e, unsigned results)
{
    while (results) {
        struct io_uring_cqe *cqe;
        int rc = io_uring_wait_cqe(ring, &cqe);
        if (rc < 0 || (!(cqe->flags & IORING_CQE_F_NOTIF) && cqe->res < 0)) {
            g_error("io_uring: %s", g_strerror(rc < 0 ? -rc : -cqe->res));
        }
        if (cqe->flags & IORING_CQE_F_NOTIF) {
            e->sends++;
            e->copied += (uint32_t)cqe->res & NOTIF_USAGE_ZC_COPIED ? 1 : 0;
        } else {
            results--;
        }
        io_uring_cqe_seen(ring, cqe);
    }
}

static void send_by_ring(End *e)
{
    struct iovec all = {e->memory, REGION}, iov[TOGETHER][2];
    struct msghdr m[TOGETHER] = {0};
    struct io_uring ring;

    ring_init(&ring);
    int rc = e->way->zerocopy ? io_uring_register_buffers(&ring, &all, 1) : 0;
    if (rc < 0) {
        g_error("registered buffers: %s", g_strerror(-rc));
    }
    for (double end = now() + e->seconds; now() < end;) {
        unsigned results = 0;
        for (unsigned i = 0; i < TOGETHER; i++) {
            m[i].msg_iov = iov[i];
            m[i].msg_iovlen = 2;
            results += put_run(&ring, e, &m[i], i == TOGETHER - 1);
        }
        io_uring_submit_and_wait(&ring, results);
        settle(&ring, e, results);
    }
    io_uring_queue_exit(&ring);
}

static struct io_uring_buf_ring *provide(struct io_uring *ring, char *buffers)
{
    size_t len = BUFFERS * sizeof(struct io_uring_buf);
    struct io_uring_buf_ring *br =
        mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct io_uring_buf_reg reg = {.ring_addr = (uintptr_t)br, .ring_entries = BUFFERS};
    int rc = br == MAP_FAILED ? -errno : io_uring_register_buf_ring(ring, &reg, 0);

    if (rc < 0) {
        g_error("a ring of buffers: %s", g_strerror(-rc));
    }
    io_uring_buf_ring_init(br);
    for (unsigned i = 0; i < BUFFERS; i++) {
        io_uring_buf_ring_add(br, buffers + i * RUN, RUN, i, BUFFERS - 1, i);
    }
    io_uring_buf_ring_advance(br, BUFFERS);
    return br;
}

static void arm(struct io_uring *ring, int fd)
{
    struct io_uring_sqe *sqe = entry(ring);

    io_uring_prep_recv_multishot(sqe, fd, NULL, 0, 0);
    sqe->flags |= IOSQE_BUFFER_SELECT;
    sqe->buf_group = 0;
}

/* FALSE at the end. */
static bool taken(struct io_uring *ring, struct io_uring_buf_ring *br, char *buffers, End *e,
                  const struct io_uring_cqe *cqe)
{
    if (cqe->res < 0 && cqe->res != -ENOBUFS) {
        g_error("io_uring: %s", g_strerror(-cqe->res));
    }
    if (cqe->flags & IORING_CQE_F_BUFFER) {
        unsigned id = cqe->flags >> IORING_CQE_BUFFER_SHIFT;
        io_uring_buf_ring_add(br, buffers + id * RUN, RUN, id, BUFFERS - 1, 0);
        io_uring_buf_ring_advance(br, 1);
    }
    if (cqe->res && !(cqe->flags & IORING_CQE_F_MORE)) {
        arm(ring, e->fd);
    }
    e->bytes += MAX(cqe->res, 0);
    return cqe->res != 0;
}

static void receive_by_ring(End *e)
{
    g_autofree char *buffers = g_malloc(BUFFERS * RUN);
    struct io_uring_cqe *cqe;
    struct io_uring ring;
    bool more = true;

    ring_init(&ring);
    struct io_uring_buf_ring *br = provide(&ring, buffers);
    arm(&ring, e->fd);
    while (more) {
        io_uring_submit_and_wait(&ring, 1);
        while (more && io_uring_peek_cqe(&ring, &cqe) == 0) {
            more = taken(&ring, br, buffers, e, cqe);
            io_uring_cqe_seen(&ring, cqe);
        }
    }
    io_uring_queue_exit(&ring);
    munmap(br, BUFFERS * sizeof(struct io_uring_buf));
}
#endif

/* ---- the table ------------------------------------------------------------------------------- */

static const Way senders[] = {
    {"sendmsg", send_by_calls, false},
    {"MSG_ZEROCOPY", send_by_calls, true},
#ifdef FF_LIBURING
    {"io_uring sendmsg", send_by_ring, false},
    {"io_uring send_zc, registered", send_by_ring, true},
#endif
};

static const Way receivers[] = {
    {"recv", receive_by_calls},
#ifdef FF_LIBURING
    {"io_uring multishot", receive_by_ring},
#endif
};

static gpointer end_thread(gpointer p)
{
    End *e = p;
    double begin = thread_cpu();

    e->way->run(e);
    e->cpu = thread_cpu() - begin;
    shutdown(e->fd, SHUT_WR);
    return NULL;
}

static void fail(const char *what)
{
    g_error("%s: %s", what, g_strerror(errno));
}

/* NET NULL: over loopback. FD[0] sends. */
static void connect_pair(const ShapedNet *net, int fd[2])
{
    struct sockaddr_in a = {.sin_family = AF_INET};
    socklen_t len = sizeof(a);
    int one = 1, lowat = NOTSENT_LOWAT;

    if (net) {
        shaped_net_enter(net, SHAPED_DESTINATION);
    }
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    inet_pton(AF_INET, net ? SHAPED_ADDRESS_DESTINATION : "127.0.0.1", &a.sin_addr);
    if (bind(listener, (struct sockaddr *)&a, len) || listen(listener, 1) ||
        getsockname(listener, (struct sockaddr *)&a, &len)) {
        fail("listen");
    }
    if (net) {
        shaped_net_enter(net, SHAPED_SOURCE);
    }
    fd[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(fd[0], (struct sockaddr *)&a, len) || (fd[1] = accept(listener, NULL, NULL)) < 0) {
        fail("connect");
    }
    if (net) {
        shaped_net_enter(net, SHAPED_OUTSIDE);
    }
    close(listener);
    setsockopt(fd[0], IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    setsockopt(fd[0], IPPROTO_TCP, TCP_NOTSENT_LOWAT, &lowat, sizeof(lowat));
}

static void measure(const ShapedNet *net, const Way *sender, const Way *receiver, char *memory,
                    double seconds)
{
    int fd[2];

    connect_pair(net, fd);
    End s = {.way = sender, .fd = fd[0], .memory = memory, .seconds = seconds};
    End r = {.way = receiver, .fd = fd[1]};
    double begin = now(), cpu = process_cpu();
    GThread *from = g_thread_new("send", end_thread, &s),
            *to = g_thread_new("recv", end_thread, &r);
    g_thread_join(from);
    g_thread_join(to);
    double gib = s.bytes / 1073741824.0, took = now() - begin;
    cpu = process_cpu() - cpu;
    close(fd[0]);
    close(fd[1]);
    printf(
        "{\"bench\": \"transports\", \"over\": \"%s\", \"send\": \"%s\", \"receive\": \"%s\", "
        "\"sender cpu s/GiB\": %.3f, \"receiver cpu s/GiB\": %.3f, \"both, and kernel threads\": "
        "%.3f, \"copied\": %.2f, \"GB/s\": %.3f}\n",
        net ? "veth" : "loopback", sender->name, receiver->name, s.cpu / gib, r.cpu / gib,
        cpu / gib, s.sends ? (double)s.copied / s.sends : 1, s.bytes / took / 1e9);
    fflush(stdout);
}

static char *make_memory(void)
{
    int memfd = memfd_create("farfault-micro", MFD_CLOEXEC);

    if (memfd < 0 || ftruncate(memfd, REGION) < 0) {
        fail("memfd");
    }
    char *p = mmap(NULL, REGION, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
    if (p == MAP_FAILED) {
        fail("mmap");
    }
    close(memfd);
    memset(p, 0x5a, REGION);
    return p;
}

static void measure_all(const ShapedNet *net, char *memory, double seconds)
{
    for (unsigned r = 0; r < G_N_ELEMENTS(receivers); r++) {
        for (unsigned s = 0; s < G_N_ELEMENTS(senders); s++) {
            measure(net, &senders[s], &receivers[r], memory, seconds);
        }
    }
}

void bench_transports(double seconds)
{
    const char *why;
    char *memory = make_memory();
    ShapedNet *net = shaped_net_new(0, &why);

    measure_all(NULL, memory, seconds);
    if (net) {
        measure_all(net, memory, seconds);
        shaped_net_free(net);
    } else {
        g_printerr("farfault-micro: not over a veth pair: %s\n", why);
    }
    munmap(memory, REGION);
}
