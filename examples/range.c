/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * An array whose content is on an HTTP server: a touch of a block is a GET of its range, over
 * connections that are kept. A connection that was closed, or an answer that is too short, is asked
 * for once more; what fails then is SIGBUS of that block, and of nothing else. The server is a
 * thread of this program (range-server.h), which makes mistakes when it is told to.
 *
 *   range
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <farfault.h>

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "example.h"
#include "range-server.h"

#define CONNECTIONS 4
#define READERS 4
#define BLOCK RANGE_BLOCK
#define SECONDS 10 /* a server that is silent for so long is gone */

/* ---- the client ------------------------------------------------------------------------------ */

typedef struct {
    int fd; /* -1: not connected */
    bool used;
} Connection;

typedef struct {
    const char *path;
    unsigned port;
    uint64_t len;
    pthread_mutex_t lock;
    pthread_cond_t given;
    Connection connections[CONNECTIONS]; /* lock, for `used`; the rest is its user's */
    unsigned again;                      /* lock: what was asked for once more */
} Object;

static Connection *take(Object *o)
{
    Connection *c = NULL;

    pthread_mutex_lock(&o->lock);
    while (!c) {
        for (unsigned i = 0; i < CONNECTIONS && !c; i++) {
            c = o->connections[i].used ? NULL : &o->connections[i];
        }
        if (!c) {
            pthread_cond_wait(&o->given, &o->lock);
        }
    }
    c->used = true;
    pthread_mutex_unlock(&o->lock);
    return c;
}

static void give(Object *o, Connection *c, bool asked_again)
{
    pthread_mutex_lock(&o->lock);
    c->used = false;
    o->again += asked_again;
    pthread_cond_signal(&o->given);
    pthread_mutex_unlock(&o->lock);
}

/* Blocks may still be read ahead meanwhile. */
static unsigned asked_again(Object *o)
{
    pthread_mutex_lock(&o->lock);
    unsigned n = o->again;
    pthread_mutex_unlock(&o->lock);
    return n;
}

static void hang_up(Connection *c)
{
    if (c->fd >= 0) {
        close(c->fd);
    }
    c->fd = -1;
}

static int dial(const Object *o, Connection *c)
{
    struct sockaddr_in at = loopback(o->port);
    struct timeval limit = {.tv_sec = SECONDS};

    if (c->fd >= 0) {
        return 0;
    }
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0 || setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)) < 0 ||
        connect(c->fd, (struct sockaddr *)&at, sizeof(at)) < 0) {
        return -errno;
    }
    return 0;
}

/* Bytes; -ECONNRESET: the server has closed it. */
static ssize_t hear(Connection *c, void *to, size_t n)
{
    ssize_t got;

    do {
        got = recv(c->fd, to, n, 0);
    } while (got < 0 && errno == EINTR);
    return got > 0 ? got : got == 0 ? -ECONNRESET : errno == EAGAIN ? -ETIMEDOUT : -errno;
}

/* The head of an answer is in HEAD, with a 0 after it, and *MORE bytes of what follows at the place
 * that is returned. NULL: *RC. */
static char *hear_head(Connection *c, char *head, size_t room, size_t *more, int *rc)
{
    char *end = NULL;
    size_t have = 0;

    while (!end) {
        ssize_t got = have < room - 1 ? hear(c, head + have, room - 1 - have) : -EPROTO;
        if (got < 0) {
            *rc = (int)got;
            return NULL;
        }
        have += (size_t)got;
        head[have] = '\0';
        end = strstr(head, "\r\n\r\n");
    }
    end[2] = '\0'; /* each line ends with \r\n */
    *more = have - (size_t)(end + 4 - head);
    return end + 4;
}

/* What comes after NAME in HEAD; "": it is not there. */
static const char *field(const char *head, const char *name)
{
    const char *at = strcasestr(head, name);

    return at ? at + strlen(name) + strspn(at + strlen(name), " \t") : "";
}

/* VALUE, of a Content-Range, is N bytes at AT of LEN; a server that does not know how many there
 * are says "*". */
static bool is_range(const char *value, uint64_t at, size_t n, uint64_t len)
{
    unsigned long long from, to, all = len;
    char unknown = 0;

    return (sscanf(value, "bytes %llu-%llu/%llu\r", &from, &to, &all) == 3 ||
            (sscanf(value, "bytes %llu-%llu/%c\r", &from, &to, &unknown) == 3 && unknown == '*')) &&
           from == at && to == at + n - 1 && all == len;
}

/* What STATUS means; 0: WANTED. */
static int check_status(const char *head, unsigned wanted)
{
    unsigned status = 0;

    if (sscanf(head, "HTTP/1.%*u %u", &status) != 1) {
        return -EPROTO;
    }
    return status == wanted ? 0 : status == 404 ? -ENOENT : status == 416 ? -ERANGE : -EPROTO;
}

static int say(Connection *c, const char *text)
{
    size_t n = strlen(text);

    for (size_t done = 0; done < n;) {
        ssize_t some = send(c->fd, text + done, n - done, MSG_NOSIGNAL);
        if (some < 0 && errno != EINTR) {
            return -errno;
        }
        done += some > 0 ? (size_t)some : 0;
    }
    return 0;
}

/* The body of an answer, N bytes, of which MORE are at AT. */
static int hear_body(Connection *c, const char *at, size_t more, char *to, size_t n)
{
    if (more > n) {
        return -EPROTO;
    }
    memcpy(to, at, more);
    for (size_t done = more; done < n;) {
        ssize_t got = hear(c, to + done, n - done);
        if (got < 0) {
            return (int)got;
        }
        done += (size_t)got;
    }
    return 0;
}

/* N bytes at AT, by C. 0 or -errno; the connection is closed unless the next answer can follow. */
static int get(const Object *o, Connection *c, uint64_t at, size_t n, void *to)
{
    char text[256], head[2048];
    size_t more = 0;
    int rc = dial(o, c);

    snprintf(text, sizeof(text),
             "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%u\r\nRange: bytes=%llu-%llu\r\n\r\n", o->path,
             o->port, (unsigned long long)at, (unsigned long long)(at + n - 1));
    rc = rc < 0 ? rc : say(c, text);
    const char *body = rc < 0 ? NULL : hear_head(c, head, sizeof(head), &more, &rc);
    rc = rc < 0 ? rc : check_status(head, 206);
    if (rc == 0 && (!is_range(field(head, "\r\nContent-Range:"), at, n, o->len) ||
                    strtoull(field(head, "\r\nContent-Length:"), NULL, 10) != n)) {
        rc = -EPROTO; /* it is something else, or longer by now; an ETag would tell more */
    }
    rc = rc < 0 ? rc : hear_body(c, body, more, to, n);
    if (rc < 0 || strncasecmp(field(head, "\r\nConnection:"), "close", 5) == 0) {
        hang_up(c);
    }
    return rc;
}

/* How long it is. 0 or -errno. */
static int find_len(Object *o)
{
    char text[256], head[2048];
    Connection *c = take(o);
    size_t more;
    int rc = dial(o, c);

    snprintf(text, sizeof(text), "HEAD %s HTTP/1.1\r\nHost: 127.0.0.1:%u\r\n\r\n", o->path,
             o->port);
    rc = rc < 0 ? rc : say(c, text);
    if (rc == 0 && hear_head(c, head, sizeof(head), &more, &rc)) {
        rc = check_status(head, 200);
    }
    o->len = rc < 0 ? 0 : strtoull(field(head, "\r\nContent-Length:"), NULL, 10);
    hang_up(c);
    give(o, c, false);
    return rc < 0 ? rc : o->len ? 0 : -EPROTO;
}

/* ---- the array ------------------------------------------------------------------------------- */

/* In a thread of the library's, several at once: a thread that touches the block waits for it. */
static int load(void *opaque, uint64_t block, void *buf)
{
    Object *o = opaque;
    uint64_t at = block * BLOCK;
    size_t n = o->len - at < BLOCK ? o->len - at : BLOCK;
    Connection *c = take(o);
    int rc = get(o, c, at, n, buf);
    bool again = rc == -ECONNRESET || rc == -EPIPE;

    if (again) {
        rc = get(o, c, at, n, buf); /* by a new connection */
    }
    give(o, c, again);
    memset((char *)buf + n, 0, BLOCK - n);
    return rc;
}

static void failed(void *opaque, uint64_t block, int rc)
{
    printf("block %llu: %s\n", (unsigned long long)block, strerror(-rc));
}

static sigjmp_buf touched;

static void on_bus(int sig)
{
    siglongjmp(touched, 1);
}

static bool is_right(const uint64_t *words, uint64_t block)
{
    for (uint64_t i = block * (BLOCK / 8), end = i + BLOCK / 8; i < end; i++) {
        if (words[i] != range_word(i)) {
            return false;
        }
    }
    return true;
}

/* What happens to a thread that touches BLOCK. */
static const char *touch(const uint64_t *words, uint64_t block)
{
    if (sigsetjmp(touched, 1)) {
        return "SIGBUS";
    }
    return is_right(words, block) ? "right" : "WRONG";
}

typedef struct {
    pthread_t thread;
    const uint64_t *words;
    uint64_t first, end, right; /* blocks */
} Reader;

static void *read_blocks(void *opaque)
{
    Reader *r = opaque;

    for (uint64_t block = r->first; block < r->end; block++) {
        r->right += is_right(r->words, block);
    }
    return NULL;
}

static uint64_t read_all(const uint64_t *words, uint64_t n)
{
    Reader readers[READERS];
    uint64_t right = 0;

    for (unsigned i = 0; i < READERS; i++) {
        readers[i] =
            (Reader){.words = words, .first = n * i / READERS, .end = n * (i + 1) / READERS};
        if (pthread_create(&readers[i].thread, NULL, read_blocks, &readers[i])) {
            die("no thread");
        }
    }
    for (unsigned i = 0; i < READERS; i++) {
        pthread_join(readers[i].thread, NULL);
        right += readers[i].right;
    }
    return right;
}

/* BLOCK is asked for again, and touched. */
static const char *touch_again(FfArray *a, const uint64_t *words, uint64_t block)
{
    if (ff_array_invalidate(a, block * BLOCK, BLOCK) < 0) {
        die(ff_last_error());
    }
    return touch(words, block);
}

static void object_init(Object *o, const char *path, unsigned port)
{
    *o = (Object){.path = path, .port = port};
    pthread_mutex_init(&o->lock, NULL);
    pthread_cond_init(&o->given, NULL);
    for (unsigned i = 0; i < CONNECTIONS; i++) {
        o->connections[i].fd = -1;
    }
}

static void object_clear(Object *o)
{
    for (unsigned i = 0; i < CONNECTIONS; i++) {
        hang_up(&o->connections[i]);
    }
    pthread_mutex_destroy(&o->lock);
    pthread_cond_destroy(&o->given);
}

/* FALSE: something was not as it should be. */
static bool show(Object *o, RangeServer *server, FfArray *a, const uint64_t *words)
{
    uint64_t n = o->len / BLOCK, last = n - 1, right = read_all(words, n);

    printf("%llu of %llu blocks are right; %u times a connection was closed, and the block asked "
           "for again\n",
           (unsigned long long)right, (unsigned long long)n, asked_again(o));
    range_server_set(server, true, o->len);
    const char *cut = touch_again(a, words, 100), *next = touch_again(a, words, 101);
    printf("answers to block 100 are too short: %s; block 101: %s\n", cut, next);
    range_server_set(server, false, o->len);
    const char *now = touch_again(a, words, 100);
    printf("they are not any more: %s\n", now);
    range_server_set(server, false, o->len / 2);
    const char *gone = touch_again(a, words, last);
    printf("the server has half of it: block %llu: %s\n", (unsigned long long)last, gone);
    return right == n && !strcmp(cut, "SIGBUS") && !strcmp(next, "right") &&
           !strcmp(now, "right") && !strcmp(gone, "SIGBUS");
}

int main(void)
{
    static const FfArrayFile file = {.size = sizeof(file), .load = load, .failed = failed};
    FfArrayOptions options = {.size = sizeof(options), .block_size = BLOCK, .limit = 4u << 20};
    RangeServer *server = range_server_start("/numbers", 16u << 20);
    Object none, numbers;
    FfArray *a;
    void *at;

    signal(SIGBUS, on_bus);
    object_init(&none, "/nothing", range_server_port(server));
    object_init(&numbers, "/numbers", range_server_port(server));
    int rc = find_len(&none);
    printf("/nothing: %s\n", strerror(-rc));
    if (find_len(&numbers) < 0) {
        die("/numbers: the server does not say how long it is");
    }
    printf("/numbers: %llu bytes\n", (unsigned long long)numbers.len);
    rc = ff_array_new(numbers.len, &file, &numbers, &options, &a);
    if (rc == -EPERM) {
        fprintf(stderr, "%s\n", ff_last_error());
        return 77; /* nothing to show */
    }
    if (rc < 0 || ff_array_map(a, 0, 0, &at) < 0) {
        die(ff_last_error());
    }
    bool ok = show(&numbers, server, a, at);
    ff_array_free(a);
    object_clear(&numbers);
    object_clear(&none);
    range_server_stop(server);
    return !ok;
}
