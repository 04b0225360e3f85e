/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See chaos-proxy.h. Threads: one that accepts, two for each connection (one a direction). The
 * lock guards the list of connections, the counts and the faults; it is not held over I/O.
 */
#include "tests/qtest/chaos-proxy.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

typedef struct {
    Proxy *proxy;
    int fd[2]; /* the source's, the destination's */
    GThread *threads[2];
} Pair;

struct Proxy {
    GMutex lock;
    int listen_fd;
    unsigned port, to;
    GThread *acceptor;
    GPtrArray *pairs; /* Pair *; kept until the end */
    uint64_t bytes[2];
    Fault *faults;
    unsigned n_faults;
};

typedef struct {
    Pair *pair;
    bool to_source;
} Way;

static void cut_all(Proxy *p)
{
    g_mutex_lock(&p->lock);
    for (guint i = 0; i < p->pairs->len; i++) {
        Pair *pair = p->pairs->pdata[i];
        shutdown(pair->fd[0], SHUT_RDWR);
        shutdown(pair->fd[1], SHUT_RDWR);
    }
    g_mutex_unlock(&p->lock);
}

/* The next fault of this direction within N bytes; *FIRST bytes may go before it. */
static Fault *next_fault(Proxy *p, bool to_source, size_t n, size_t *first)
{
    Fault *next = NULL;

    g_mutex_lock(&p->lock);
    uint64_t now = p->bytes[to_source];
    for (unsigned i = 0; i < p->n_faults; i++) {
        Fault *f = &p->faults[i];
        if (!f->done && f->to_source == to_source && f->at < now + n &&
            (!next || f->at < next->at)) {
            next = f;
        }
    }
    *first = !next ? n : next->at > now ? next->at - now : 0;
    p->bytes[to_source] += *first;
    if (next) {
        next->done = true;
    }
    g_mutex_unlock(&p->lock);
    return next;
}

static bool send_all(int fd, const char *data, size_t n)
{
    while (n) {
        ssize_t sent = send(fd, data, n, MSG_NOSIGNAL);
        if (sent <= 0) {
            return false;
        }
        data += sent;
        n -= sent;
    }
    return true;
}

/* FALSE: nothing more goes this way. */
static bool act(Way *w, Fault *f)
{
    switch (f->kind) {
    case FAULT_CUT:
        cut_all(w->pair->proxy);
        return false;
    case FAULT_HALF_CUT:
        return false;
    case FAULT_STALL:
        poll(NULL, 0, f->ms);
        return true;
    case FAULT_CORRUPT:
        return true;
    case FAULT_CALL:
        f->call(f->opaque);
        return true;
    }
    return true;
}

static bool pass(Way *w, char *data, size_t n)
{
    int out = w->pair->fd[w->to_source ? 0 : 1];

    while (n) {
        size_t first;
        Fault *f = next_fault(w->pair->proxy, w->to_source, n, &first);
        if (!send_all(out, data, first) || (f && !act(w, f))) {
            return false;
        }
        data += first;
        n -= first;
        if (f && f->kind == FAULT_CORRUPT && n) {
            *data ^= 1;
        }
    }
    return true;
}

static gpointer carry(gpointer data)
{
    g_autofree Way *w = data;
    int in = w->pair->fd[w->to_source ? 1 : 0], out = w->pair->fd[w->to_source ? 0 : 1];
    char buf[16384];
    ssize_t n;

    while ((n = recv(in, buf, sizeof(buf), 0)) > 0 && pass(w, buf, n)) {
    }
    shutdown(in, SHUT_RD);
    shutdown(out, SHUT_WR);
    return NULL;
}

static int connect_to(unsigned port)
{
    struct sockaddr_in a = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd >= 0 && connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0) {
        close(fd);
        fd = -1;
    }
    return fd;
}

static gpointer accept_all(gpointer data)
{
    Proxy *p = data;
    int fd;

    while ((fd = accept4(p->listen_fd, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
        g_mutex_lock(&p->lock);
        unsigned port = p->to;
        g_mutex_unlock(&p->lock);
        int out = connect_to(port);
        if (out < 0) {
            close(fd); /* nobody is there */
            continue;
        }
        Pair *pair = g_new0(Pair, 1);
        pair->proxy = p;
        pair->fd[0] = fd;
        pair->fd[1] = out;
        g_mutex_lock(&p->lock);
        g_ptr_array_add(p->pairs, pair);
        g_mutex_unlock(&p->lock);
        for (int i = 0; i < 2; i++) {
            Way w = {pair, i};
            pair->threads[i] = g_thread_new("carry", carry, g_memdup2(&w, sizeof(w)));
        }
    }
    return NULL;
}

Proxy *proxy_new(Fault *faults, unsigned n)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(a);
    Proxy *p = g_new0(Proxy, 1);

    g_mutex_init(&p->lock);
    p->faults = faults;
    p->n_faults = n;
    p->pairs = g_ptr_array_new();
    p->listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    g_assert_cmpint(bind(p->listen_fd, (struct sockaddr *)&a, sizeof(a)), ==, 0);
    g_assert_cmpint(listen(p->listen_fd, 8), ==, 0);
    g_assert_cmpint(getsockname(p->listen_fd, (struct sockaddr *)&a, &len), ==, 0);
    p->port = ntohs(a.sin_port);
    p->acceptor = g_thread_new("accept", accept_all, p);
    return p;
}

void proxy_to(Proxy *p, unsigned port)
{
    g_mutex_lock(&p->lock);
    p->to = port;
    g_mutex_unlock(&p->lock);
}

unsigned proxy_port(const Proxy *p)
{
    return p->port;
}

void proxy_free(Proxy *p)
{
    shutdown(p->listen_fd, SHUT_RDWR);
    g_thread_join(p->acceptor);
    cut_all(p);
    for (guint i = 0; i < p->pairs->len; i++) {
        Pair *pair = p->pairs->pdata[i];
        g_thread_join(pair->threads[0]);
        g_thread_join(pair->threads[1]);
        close(pair->fd[0]);
        close(pair->fd[1]);
        g_free(pair);
    }
    g_ptr_array_unref(p->pairs);
    close(p->listen_fd);
    g_mutex_clear(&p->lock);
    g_free(p);
}
