/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See range-server.h. One thread answers all connections, one request after the other. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "range-server.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "example.h"

#define CLIENTS 16
#define CUT_BLOCK 100
#define CLOSES(block) ((block) % 16 == 5)
#define KNOWS_LEN(block) ((block) % 16 != 9) /* in its answer */

typedef struct {
    int fd; /* -1: none */
    char text[1024];
    size_t have;
} Client;

struct RangeServer {
    const char *path;
    int listen_fd, stop_fd;
    unsigned port;
    pthread_t thread;
    pthread_mutex_t lock;
    bool cut;            /* lock */
    uint64_t len, first; /* lock: bytes now; at first */
    Client clients[CLIENTS];
    bool *asked; /* by blocks */
};

static void drop(Client *c)
{
    close(c->fd);
    c->fd = -1;
    c->have = 0;
}

/* FALSE: the client is gone. */
static bool answer(const Client *c, const void *data, size_t n)
{
    const char *from = data;

    for (size_t done = 0; done < n;) {
        ssize_t some = send(c->fd, from + done, n - done, MSG_NOSIGNAL);
        if (some < 0 && errno != EINTR) {
            return false;
        }
        done += some > 0 ? (size_t)some : 0;
    }
    return true;
}

static bool answer_head(const Client *c, const char *status, const char *range, uint64_t len)
{
    char head[512];

    snprintf(head, sizeof(head), "HTTP/1.1 %s\r\n%sContent-Length: %llu\r\n\r\n", status, range,
             (unsigned long long)len);
    return answer(c, head, strlen(head));
}

/* FALSE: the connection is to be closed. */
static bool answer_range(RangeServer *s, const Client *c, uint64_t from, uint64_t to, uint64_t len,
                         bool cut)
{
    uint64_t block = from / RANGE_BLOCK, n = to - from + 1;
    char range[128];

    if (from > to || to >= len || n > RANGE_BLOCK) {
        snprintf(range, sizeof(range), "Content-Range: bytes */%llu\r\n", (unsigned long long)len);
        return answer_head(c, "416 Range Not Satisfiable", range, 0);
    }
    if (CLOSES(block) && !s->asked[block]) {
        s->asked[block] = true;
        return false;
    }
    uint64_t *words = malloc(RANGE_BLOCK + 16);
    if (!words) {
        return false;
    }
    for (uint64_t i = from / 8; i <= to / 8; i++) {
        words[i - from / 8] = range_word(i);
    }
    char all[32] = "*";
    if (KNOWS_LEN(block)) {
        snprintf(all, sizeof(all), "%llu", (unsigned long long)len);
    }
    snprintf(range, sizeof(range), "Content-Range: bytes %llu-%llu/%s\r\n",
             (unsigned long long)from, (unsigned long long)to, all);
    cut &= block == CUT_BLOCK;
    bool ok = answer_head(c, "206 Partial Content", range, n) &&
              answer(c, (char *)words + from % 8, cut ? n / 2 : n);
    free(words);
    return ok && !cut;
}

/* FALSE: the connection is to be closed. */
static bool answer_request(RangeServer *s, const Client *c)
{
    unsigned long long from, to;
    char method[8], path[256];

    pthread_mutex_lock(&s->lock);
    uint64_t len = s->len;
    bool cut = s->cut;
    pthread_mutex_unlock(&s->lock);
    if (sscanf(c->text, "%7s %255s HTTP/1.1", method, path) != 2) {
        return false;
    }
    if (strcmp(path, s->path) != 0) {
        return answer_head(c, "404 Not Found", "", 0);
    }
    const char *range = strcasestr(c->text, "\r\nRange: bytes=");
    if (strcmp(method, "HEAD") == 0) {
        return answer_head(c, "200 OK", "Accept-Ranges: bytes\r\n", len);
    }
    if (strcmp(method, "GET") != 0 || !range ||
        sscanf(range, "\r\nRange: bytes=%llu-%llu", &from, &to) != 2) {
        return answer_head(c, "400 Bad Request", "", 0);
    }
    return answer_range(s, c, from, to, len, cut);
}

static void hear(RangeServer *s, Client *c)
{
    ssize_t n = recv(c->fd, c->text + c->have, sizeof(c->text) - 1 - c->have, 0);

    if (n <= 0) {
        drop(c);
        return;
    }
    c->have += (size_t)n;
    c->text[c->have] = '\0';
    if (!strstr(c->text, "\r\n\r\n")) {
        if (c->have == sizeof(c->text) - 1) {
            drop(c);
        }
    } else if (answer_request(s, c)) {
        c->have = 0; /* clients here send no request before they have the answer */
    } else {
        drop(c);
    }
}

static void let_in(RangeServer *s)
{
    int fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC);

    for (unsigned i = 0; fd >= 0 && i < CLIENTS; i++) {
        if (s->clients[i].fd < 0) {
            s->clients[i].fd = fd;
            return;
        }
    }
    if (fd >= 0) {
        close(fd);
    }
}

static void *run(void *opaque)
{
    RangeServer *s = opaque;
    struct pollfd fds[CLIENTS + 2];

    for (;;) {
        fds[CLIENTS] = (struct pollfd){.fd = s->listen_fd, .events = POLLIN};
        fds[CLIENTS + 1] = (struct pollfd){.fd = s->stop_fd, .events = POLLIN};
        for (unsigned i = 0; i < CLIENTS; i++) {
            fds[i] = (struct pollfd){.fd = s->clients[i].fd, .events = POLLIN};
        }
        if (poll(fds, CLIENTS + 2, -1) < 0) {
            continue; /* EINTR */
        }
        if (fds[CLIENTS + 1].revents) {
            break;
        }
        for (unsigned i = 0; i < CLIENTS; i++) {
            if (fds[i].fd >= 0 && fds[i].revents) {
                hear(s, &s->clients[i]);
            }
        }
        if (fds[CLIENTS].revents) {
            let_in(s);
        }
    }
    for (unsigned i = 0; i < CLIENTS; i++) {
        if (s->clients[i].fd >= 0) {
            drop(&s->clients[i]);
        }
    }
    return NULL;
}

RangeServer *range_server_start(const char *path, uint64_t len)
{
    RangeServer *s = calloc(1, sizeof(*s));
    struct sockaddr_in at = loopback(0);
    socklen_t n = sizeof(at);

    if (!s) {
        die("no memory");
    }
    s->path = path;
    s->len = s->first = len;
    s->asked = calloc(len / RANGE_BLOCK + 1, sizeof(*s->asked));
    s->listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    s->stop_fd = eventfd(0, EFD_CLOEXEC);
    for (unsigned i = 0; i < CLIENTS; i++) {
        s->clients[i].fd = -1;
    }
    pthread_mutex_init(&s->lock, NULL);
    if (!s->asked || s->listen_fd < 0 || s->stop_fd < 0 ||
        bind(s->listen_fd, (struct sockaddr *)&at, n) < 0 || listen(s->listen_fd, CLIENTS) < 0 ||
        getsockname(s->listen_fd, (struct sockaddr *)&at, &n) < 0) {
        die("no server on 127.0.0.1");
    }
    s->port = ntohs(at.sin_port);
    if (pthread_create(&s->thread, NULL, run, s)) {
        die("no thread");
    }
    return s;
}

unsigned range_server_port(const RangeServer *s)
{
    return s->port;
}

void range_server_set(RangeServer *s, bool cut, uint64_t len)
{
    pthread_mutex_lock(&s->lock);
    s->cut = cut;
    s->len = len < s->first ? len : s->first;
    pthread_mutex_unlock(&s->lock);
}

void range_server_stop(RangeServer *s)
{
    uint64_t one = 1;

    if (write(s->stop_fd, &one, sizeof(one)) != sizeof(one)) {
        die("the server does not stop");
    }
    pthread_join(s->thread, NULL);
    close(s->listen_fd);
    close(s->stop_fd);
    pthread_mutex_destroy(&s->lock);
    free(s->asked);
    free(s);
}
