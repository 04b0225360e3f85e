/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Load for kv-server or redis-server, and what a BGSAVE does to it: scripts/bench-kv runs it.
 *
 *   kv-load PORT KEYS VALUE-BYTES CLIENTS SECONDS [MEMORY.STAT KEY]
 *
 * Sets all keys; then CLIENTS connections, each with one command at a time, SET and GET by turns,
 * of keys at random: SECONDS without a save, then until one has ended. Prints a row: stop (us, what
 * the server says), seconds of the save, p50, p99.9 and worst of a SET meanwhile (us), commands per
 * second before and meanwhile, and the anonymous memory (MiB) of the control group before and at
 * its peak.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "example.h"

#define MAX_CLIENTS 64
#define MAX_VALUE 65536
#define SAMPLES (16u << 20)
#define LOOK_US                                                                                    \
    20000 /* the server is asked whether it still saves, and the memory is looked at               \
           */

typedef struct {
    int fd;
    int64_t since;
    bool is_set;
    size_t got, want; /* want 0: not known yet */
    char in[MAX_VALUE + 64];
} Client;

static Client clients[MAX_CLIENTS];
static unsigned n_clients, n_keys, value_len;
static char value[MAX_VALUE + 1];
static uint32_t *latency; /* us, of SET while it is saved */
static size_t n_latency;
static uint64_t random_state = 88172645463325252ull;

static uint64_t next_random(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

static int connect_to(uint16_t port)
{
    struct sockaddr_in addr = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;

    if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
        die("no server at that port");
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    return fd;
}

static void send_all(int fd, const char *bytes, size_t len)
{
    for (size_t at = 0; at < len;) {
        ssize_t n = write(fd, bytes + at, len - at);
        if (n <= 0) {
            die("the server has gone");
        }
        at += (size_t)n;
    }
}

static size_t make_command(char *buf, bool is_set, unsigned key)
{
    char name[16];
    int len = snprintf(name, sizeof(name), "key:%08u", key), n;

    if (!is_set) {
        return (size_t)sprintf(buf, "*2\r\n$3\r\nGET\r\n$%d\r\n%s\r\n", len, name);
    }
    n = sprintf(buf, "*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%u\r\n", len, name, value_len);
    memcpy(buf + n, value, value_len);
    memcpy(buf + n + value_len, "\r\n", 2);
    return (size_t)n + value_len + 2;
}

/* ---- one command at a time for each ---------------------------------------------------------- */

static void begin(Client *c)
{
    static char buf[MAX_VALUE + 128];

    c->is_set = next_random() >> 63;
    c->got = c->want = 0;
    c->since = now_us();
    memcpy(value, &random_state, sizeof(random_state));
    send_all(c->fd, buf, make_command(buf, c->is_set, (unsigned)(next_random() % n_keys)));
}

/* TRUE: the answer is complete. */
static bool hear(Client *c)
{
    ssize_t n = read(c->fd, c->in + c->got, sizeof(c->in) - c->got);

    if (n <= 0) {
        die("the server has gone");
    }
    c->got += (size_t)n;
    const char *line = memchr(c->in, '\n', c->got);
    if (!line) {
        return false;
    }
    if (c->in[0] == '-') {
        die("the server is full");
    }
    size_t head = (size_t)(line + 1 - c->in);
    long len = c->in[0] == '$' ? strtol(c->in + 1, NULL, 10) : -1;
    c->want = len >= 0 ? head + (size_t)len + 2 : head;
    return c->got >= c->want;
}

/* The answer to COMMAND, which is one line or one bulk. */
static const char *ask(int fd, const char *text)
{
    static Client c;

    c.fd = fd;
    c.got = 0;
    send_all(fd, text, strlen(text));
    while (!hear(&c)) {
    }
    c.in[c.got] = '\0';
    return c.in;
}

static long field(const char *text, const char *name)
{
    const char *at = strstr(text, name);

    return at ? strtol(at + strlen(name), NULL, 10) : -1;
}

static double memory_mib(const char *path, const char *key)
{
    char line[256];
    double mib = 0;
    FILE *f = path ? fopen(path, "r") : NULL;

    while (f && fgets(line, sizeof(line), f)) {
        size_t n = strlen(key);
        if (!strncmp(line, key, n) && line[n] == ' ') {
            mib = strtod(line + n, NULL) / (1 << 20);
        }
    }
    if (f) {
        fclose(f);
    }
    return mib;
}

typedef struct {
    double seconds, peak_mib;
    uint64_t n;
} Run;

/* For US; CONTROL >= 0: until that server has saved, and a second at least. */
static Run run(int64_t us, int control, const char *stat, const char *key)
{
    struct pollfd pfd[MAX_CLIENTS];
    int64_t start = now_us(), look = start + LOOK_US;
    Run r = {0};
    bool end = false;

    for (unsigned i = 0; i < n_clients; i++) {
        pfd[i] = (struct pollfd){.fd = clients[i].fd, .events = POLLIN};
        begin(&clients[i]);
    }
    for (unsigned busy = n_clients; busy > 0;) {
        if (poll(pfd, n_clients, -1) < 0) {
            continue;
        }
        int64_t now = now_us();
        if (now >= look) {
            double mib = memory_mib(stat, key);
            r.peak_mib = mib > r.peak_mib ? mib : r.peak_mib;
            end = control < 0
                      ? now - start >= us
                      : field(ask(control, "*1\r\n$4\r\nINFO\r\n"), "rdb_bgsave_in_progress:") == 0;
            look = now + LOOK_US;
        }
        for (unsigned i = 0; i < n_clients; i++) {
            if (!pfd[i].revents || !hear(&clients[i])) {
                continue;
            }
            if (control >= 0 && clients[i].is_set && n_latency < SAMPLES) {
                latency[n_latency++] = (uint32_t)(now_us() - clients[i].since);
            }
            r.n++;
            if (end) {
                pfd[i].fd = -1;
                pfd[i].revents = 0;
                busy--;
            } else {
                begin(&clients[i]);
            }
        }
    }
    r.seconds = (double)(now_us() - start) / 1e6;
    return r;
}

static void populate(int fd)
{
    static char buf[MAX_VALUE + 128];
    static char in[4096];

    for (unsigned i = 0, answered = 0; answered < n_keys * 5;) { /* "+OK\r\n" */
        if (i < n_keys) {
            send_all(fd, buf, make_command(buf, true, i++));
        }
        if (i == n_keys || i % 32 == 0) {
            ssize_t n = read(fd, in, sizeof(in));
            if (n <= 0 || in[0] == '-') {
                die("the server is full");
            }
            answered += (unsigned)n;
        }
    }
}

static int by_size(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return x < y ? -1 : x > y;
}

int main(int argc, char **argv)
{
    if (argc != 6 && argc != 8) {
        die("PORT KEYS VALUE-BYTES CLIENTS SECONDS [MEMORY.STAT KEY]");
    }
    uint16_t port = (uint16_t)strtoul(argv[1], NULL, 10);
    const char *stat = argc == 8 ? argv[6] : NULL, *key = argc == 8 ? argv[7] : "";
    n_keys = (unsigned)strtoul(argv[2], NULL, 10);
    value_len = (unsigned)strtoul(argv[3], NULL, 10);
    n_clients = (unsigned)strtoul(argv[4], NULL, 10);
    latency = malloc(SAMPLES * sizeof(*latency));
    if (!n_keys || value_len < 8 || value_len > MAX_VALUE || !n_clients ||
        n_clients > MAX_CLIENTS || !latency) {
        die("a number is out of range");
    }
    for (unsigned i = 0; i < value_len; i++) {
        value[i] = (char)next_random();
    }
    int control = connect_to(port);
    populate(control);
    for (unsigned i = 0; i < n_clients; i++) {
        clients[i].fd = connect_to(port);
    }
    Run before = run(strtol(argv[5], NULL, 10) * 1000000, -1, stat, key);
    int64_t begin_save = now_us();
    ask(control, "*1\r\n$6\r\nBGSAVE\r\n");
    Run during = run(0, control, stat, key);
    double seconds = (double)(now_us() - begin_save) / 1e6;
    const char *info = ask(control, "*1\r\n$4\r\nINFO\r\n");
    if (!strstr(info, "rdb_last_bgsave_status:ok")) {
        die("the server could not save");
    }
    if (!n_latency) {
        die("nothing was set while it was saved");
    }
    qsort(latency, n_latency, sizeof(*latency), by_size);
    double rate = (double)before.n / before.seconds,
           rate_saving = (double)during.n / during.seconds;
    printf("%8ld %8.2f %8u %8u %8u %9.0f %9.0f %6.1f %8.0f %8.0f\n",
           field(info, "latest_fork_usec:"), seconds, latency[n_latency / 2],
           latency[(size_t)((double)n_latency * 0.999)], latency[n_latency - 1], rate, rate_saving,
           100 * (1 - rate_saving / rate), before.peak_mib, during.peak_mib);
    return 0;
}
