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
    void (*on_connect)(void *opaque); /* before the connection goes anywhere; NULL */
    void *opaque;
    bool mute;           /* connections are taken, and go nowhere */
    bool was_mute;       /* one was taken so */
    uint64_t mute_bytes; /* were read on them */
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
        if (pair->fd[1] >= 0) {
            shutdown(pair->fd[1], SHUT_RDWR);
        }
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

/* Nobody is behind fd[1]: what comes is read, and that is all. */
static gpointer swallow(gpointer data)
{
    g_autofree Way *w = data;
    Proxy *p = w->pair->proxy;
    char buf[16384];
    ssize_t n;

    while ((n = recv(w->pair->fd[0], buf, sizeof(buf), 0)) > 0) {
        g_mutex_lock(&p->lock);
        p->mute_bytes += (size_t)n;
        g_mutex_unlock(&p->lock);
    }
    shutdown(w->pair->fd[0], SHUT_RDWR);
    return NULL;
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

/* TRUE: FD, which has come, goes nowhere. */
static bool take_mute(Proxy *p, int fd)
{
    g_mutex_lock(&p->lock);
    bool mute = p->mute;
    p->was_mute |= mute;
    g_mutex_unlock(&p->lock);
    if (mute) {
        Pair *pair = g_new0(Pair, 1);

        *pair = (Pair){.proxy = p, .fd = {fd, -1}};
        Way w = {pair, false};
        g_mutex_lock(&p->lock);
        g_ptr_array_add(p->pairs, pair);
        g_mutex_unlock(&p->lock);
        pair->threads[0] = g_thread_new("mute", swallow, g_memdup2(&w, sizeof(w)));
    }
    return mute;
}

static void call_on_connect(Proxy *p)
{
    g_mutex_lock(&p->lock);
    void (*call)(void *opaque) = p->on_connect;
    p->on_connect = NULL;
    g_mutex_unlock(&p->lock);
    if (call) {
        call(p->opaque);
    }
}

static gpointer accept_all(gpointer data)
{
    Proxy *p = data;
    int fd;

    while ((fd = accept4(p->listen_fd, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
        if (take_mute(p, fd)) {
            continue;
        }
        g_mutex_lock(&p->lock);
        unsigned port = p->to;
        g_mutex_unlock(&p->lock);
        int out = connect_to(port);
        call_on_connect(p);
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

void proxy_be_mute(Proxy *p)
{
    g_mutex_lock(&p->lock);
    p->mute = true;
    g_mutex_unlock(&p->lock);
}

void proxy_end_mute(Proxy *p)
{
    g_mutex_lock(&p->lock);
    p->mute = p->mute && !p->was_mute;
    g_mutex_unlock(&p->lock);
}

bool proxy_was_mute(Proxy *p, uint64_t *bytes)
{
    g_mutex_lock(&p->lock);
    *bytes = p->mute_bytes;
    bool was = p->was_mute;
    g_mutex_unlock(&p->lock);
    return was;
}

void proxy_on_connect(Proxy *p, void (*call)(void *opaque), void *opaque)
{
    g_mutex_lock(&p->lock);
    p->on_connect = call;
    p->opaque = opaque;
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
        for (int way = 0; way < 2; way++) {
            if (pair->threads[way]) { /* a mute one has none to the source, and nobody behind it */
                g_thread_join(pair->threads[way]);
            }
            if (pair->fd[way] >= 0) {
                close(pair->fd[way]);
            }
        }
        g_free(pair);
    }
    g_ptr_array_unref(p->pairs);
    close(p->listen_fd);
    g_mutex_clear(&p->lock);
    g_free(p);
}
