/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A small key-value server that saves its memory in three ways, to show libfarfault beside fork().
 * It speaks as much of RESP as redis-cli and redis-benchmark need: PING, SET, GET, DEL, DBSIZE,
 * BGSAVE, INFO, CONFIG, COMMAND, SHUTDOWN.
 *
 *   kv-server [--port N] [--memory MIB] [--buffer MIB] [--save fork|snapshot|ff_fork] [--file PATH]
 *
 * One thread serves, and is the only one that writes to the data: between two commands all writers
 * are parked. All data are in one region (the arena). `snapshot` saves that as it is; `fork` and
 * `ff_fork` have the same unchanged function, save_all(), walk the hash table in a child. A second
 * thread calls what takes long (ff_snapshot_prepare(), ff_snapshot_wait()), and talks with the
 * first one by a pipe.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <farfault.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "example.h"

#define MAX_CLIENTS 256
#define IN_SIZE (1u << 20) /* the largest command */
#define MAX_ARGS 8
#define CLASSES 22 /* of sizes: 32 bytes to 64 MiB */

/* ---- data: all of it in the arena ------------------------------------------------------------ */

typedef struct Entry {
    struct Entry *next;
    uint32_t key_len, value_len;
    uint32_t size_class, hash;
    char bytes[]; /* key, value */
} Entry;

/* At its beginning. */
typedef struct {
    size_t size, used;
    Entry *free[CLASSES];
    uint64_t n_entries, n_buckets;
    Entry *buckets[];
} Arena;

static Arena *arena;

static void make_arena(size_t size)
{
    arena = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (arena == MAP_FAILED) {
        die("mmap");
    }
    /* As redis asks for: with huge pages each first write after a fork() copies 2 MiB. */
    madvise(arena, size, MADV_NOHUGEPAGE);
    arena->size = size;
    arena->n_buckets = 1u << 20;
    arena->used = sizeof(*arena) + arena->n_buckets * sizeof(Entry *);
}

static unsigned class_of(size_t bytes)
{
    unsigned c = 0;

    while ((32u << c) < bytes) {
        c++;
    }
    return c;
}

static Entry *take_entry(size_t bytes)
{
    unsigned c = class_of(sizeof(Entry) + bytes);
    Entry *e = arena->free[c];

    if (e) {
        arena->free[c] = e->next;
    } else if (arena->size - arena->used >= (32u << c)) {
        e = (Entry *)(void *)((char *)arena + arena->used);
        arena->used += 32u << c;
    } else {
        return NULL;
    }
    e->size_class = c;
    return e;
}

static void give_entry(Entry *e)
{
    e->next = arena->free[e->size_class];
    arena->free[e->size_class] = e;
}

static uint32_t hash_of(const char *key, size_t len)
{
    uint32_t h = 2166136261u;

    for (size_t i = 0; i < len; i++) {
        h = (h ^ (unsigned char)key[i]) * 16777619u;
    }
    return h;
}

/* Where the entry of KEY is pointed to; *THERE is NULL: nowhere. */
static Entry **find(const char *key, size_t len, uint32_t hash)
{
    Entry **at = &arena->buckets[hash % arena->n_buckets];

    while (*at &&
           !((*at)->hash == hash && (*at)->key_len == len && memcmp((*at)->bytes, key, len) == 0)) {
        at = &(*at)->next;
    }
    return at;
}

static bool delete_key(const char *key, size_t len)
{
    Entry **at = find(key, len, hash_of(key, len)), *e = *at;

    if (e) {
        *at = e->next;
        give_entry(e);
        arena->n_entries--;
    }
    return e;
}

static bool set_key(const char *key, size_t len, const char *value, size_t value_len)
{
    uint32_t hash = hash_of(key, len);
    Entry **at = find(key, len, hash), *e = *at;

    if (e && class_of(sizeof(Entry) + len + value_len) != e->size_class) {
        delete_key(key, len);
        e = NULL;
    }
    if (!e) {
        e = take_entry(len + value_len);
        if (!e) {
            return false;
        }
        at = &arena->buckets[hash % arena->n_buckets];
        e->next = *at;
        e->hash = hash;
        e->key_len = (uint32_t)len;
        memcpy(e->bytes, key, len);
        *at = e;
        arena->n_entries++;
    }
    e->value_len = (uint32_t)value_len;
    memcpy(e->bytes + len, value, value_len);
    return true;
}

/* ---- the serializer: it knows nothing of libfarfault ----------------------------------------- */

/* Commands that make all of it again, into PATH by way of another name. */
static int save_all(const char *path)
{
    char part[4096];

    if (snprintf(part, sizeof(part), "%s.part", path) >= (int)sizeof(part)) {
        return 1;
    }
    FILE *f = fopen(part, "w");
    if (!f) {
        return 1;
    }
    for (uint64_t i = 0; i < arena->n_buckets; i++) {
        for (const Entry *e = arena->buckets[i]; e; e = e->next) {
            fprintf(f, "*3\r\n$3\r\nSET\r\n$%u\r\n", e->key_len);
            fwrite(e->bytes, 1, e->key_len, f);
            fprintf(f, "\r\n$%u\r\n", e->value_len);
            fwrite(e->bytes + e->key_len, 1, e->value_len, f);
            fputs("\r\n", f);
        }
    }
    bool ok = fflush(f) == 0 && fsync(fileno(f)) == 0;
    ok = fclose(f) == 0 && ok;
    return ok && rename(part, path) == 0 ? 0 : 1;
}

/* ---- saving ---------------------------------------------------------------------------------- */

static enum { FORK, SNAPSHOT, FF_FORK } way = SNAPSHOT;
static const char *file = "kv.dump";
static FfMemory *memory;
static FfSnapshotOptions options = {.size = sizeof(options), .buffer = 64u << 20};
static bool is_saving;
static int64_t save_began, last_stop_us, last_save_us;
static const char *last_status = "ok";
static int news[2];  /* from the second thread: one byte, PREPARED, FAILED or SAVED */
static sem_t orders; /* to it: prepare; then: wait */
static pid_t child_pid;

enum { PREPARED = 'p', SAVED = 's', FAILED = 'f' };

static int child_of_ff_fork(void *opaque, const void *arg, size_t len)
{
    arena =
        *(Arena *const *)arg; /* the same address; the pointer is of the program's data, though */
    return save_all(opaque);
}

static void tell(char what)
{
    if (write(news[1], &what, 1) != 1) {
        die("pipe");
    }
}

/* The second thread. */
static void *wait_for_memory(void *opaque)
{
    for (;;) {
        sem_wait(&orders);
        int rc = way == FF_FORK ? ff_fork_prepare(memory, &options)
                                : ff_snapshot_prepare(memory, &options);
        tell(rc < 0 ? FAILED : PREPARED);
        if (rc < 0) {
            fprintf(stderr, "kv-server: %s\n", ff_last_error());
            continue;
        }
        sem_wait(&orders);
        int status = 0;
        rc = way == FF_FORK ? ff_fork_wait(memory, &status, NULL) : ff_snapshot_wait(memory, NULL);
        if (rc < 0) {
            fprintf(stderr, "kv-server: %s\n", ff_last_error());
        }
        tell(rc < 0 || status ? FAILED : SAVED);
    }
    return NULL;
}

static void start_farfault(void)
{
    pthread_t thread;

    if (ff_memory_new(0, &memory) < 0 || ff_region_add(memory, arena, arena->size, -1, 0) < 0 ||
        (way == FF_FORK && ff_template_start(memory, child_of_ff_fork, (void *)file) < 0)) {
        die(ff_last_error());
    }
    sem_init(&orders, 0, 0);
    if (pthread_create(&thread, NULL, wait_for_memory, NULL) != 0) {
        die("pthread_create");
    }
}

static void begin_save(void)
{
    is_saving = true;
    save_began = now_us();
    if (way != FORK) {
        sem_post(&orders);
        return;
    }
    child_pid = fork();
    last_stop_us = now_us() - save_began;
    if (child_pid == 0) {
        _exit(save_all(file));
    }
}

static void end_save(bool ok)
{
    is_saving = false;
    last_status = ok ? "ok" : "err";
    last_save_us = now_us() - save_began;
}

/* The moment: this thread is the only one that writes, and it is here. */
static void moment(void)
{
    int64_t begin = now_us();
    int rc =
        way == FF_FORK ? (int)ff_fork(memory, &arena, sizeof(arena)) : ff_snapshot_begin(memory);

    last_stop_us = now_us() - begin;
    if (rc >= 0 && way == SNAPSHOT) {
        rc = ff_snapshot_save_path(memory, file);
    }
    if (rc < 0) {
        die(ff_last_error());
    }
    sem_post(&orders);
}

static void hear_news(void)
{
    char what;

    if (read(news[0], &what, 1) != 1) {
        return;
    }
    if (what == PREPARED) {
        moment();
    } else {
        end_save(what == SAVED);
    }
}

static void look_for_child(void)
{
    int status;

    if (child_pid > 0 && waitpid(child_pid, &status, WNOHANG) == child_pid) {
        child_pid = 0;
        end_save(status == 0);
    }
}

/* ---- commands -------------------------------------------------------------------------------- */

typedef struct {
    int fd;
    size_t n; /* in `in` */
    char *in;
    FILE *out;
} Client;

typedef struct {
    const char *at;
    size_t len;
} Arg;

static bool is(Arg a, const char *word)
{
    return a.len == strlen(word) && strncasecmp(a.at, word, a.len) == 0;
}

static void bulk(FILE *out, const char *bytes, size_t len)
{
    fprintf(out, "$%zu\r\n", len);
    fwrite(bytes, 1, len, out);
    fputs("\r\n", out);
}

static void info(FILE *out)
{
    char text[1024];
    int n = snprintf(text, sizeof(text),
                     "used_memory:%zu\r\nrdb_bgsave_in_progress:%d\r\nrdb_last_bgsave_status:%s\r\n"
                     "latest_fork_usec:%lld\r\nlast_save_usec:%lld\r\n",
                     arena->used, is_saving, last_status, (long long)last_stop_us,
                     (long long)last_save_us);

    bulk(out, text, (size_t)n);
}

static void get(FILE *out, Arg key)
{
    const Entry *e = *find(key.at, key.len, hash_of(key.at, key.len));

    if (e) {
        bulk(out, e->bytes + e->key_len, e->value_len);
    } else {
        fputs("$-1\r\n", out);
    }
}

static void command(FILE *out, const Arg *a, unsigned n)
{
    if (is(a[0], "SET") && n >= 3) {
        bool ok = set_key(a[1].at, a[1].len, a[2].at, a[2].len);
        fputs(ok ? "+OK\r\n" : "-OOM the arena is full: --memory\r\n", out);
    } else if (is(a[0], "GET") && n == 2) {
        get(out, a[1]);
    } else if (is(a[0], "DEL") && n == 2) {
        fprintf(out, ":%d\r\n", delete_key(a[1].at, a[1].len));
    } else if (is(a[0], "DBSIZE")) {
        fprintf(out, ":%llu\r\n", (unsigned long long)arena->n_entries);
    } else if (is(a[0], "BGSAVE")) {
        fputs(is_saving ? "-ERR Background save already in progress\r\n"
                        : "+Background saving started\r\n",
              out);
        if (!is_saving) {
            begin_save();
        }
    } else if (is(a[0], "INFO")) {
        info(out);
    } else if (is(a[0], "PING")) {
        fputs("+PONG\r\n", out);
    } else if (is(a[0], "CONFIG") || is(a[0], "COMMAND")) {
        fputs("*0\r\n", out);
    } else if (is(a[0], "SHUTDOWN")) {
        ff_memory_free(memory);
        exit(0);
    } else {
        fputs("-ERR unknown command\r\n", out);
    }
}

/* A number and CRLF at AT. Returns what is after them; NULL: not all is there. */
static const char *number(const char *at, const char *end, long *n)
{
    const char *line = memchr(at, '\n', (size_t)(end - at));

    *n = line ? strtol(at, NULL, 10) : 0;
    return line ? line + 1 : NULL;
}

/* The first command of [AT, END). Returns what is after it; NULL: not all is there. *N 0: it is
 * none. */
static const char *parse(const char *at, const char *end, Arg *args, unsigned *n)
{
    long count, len;

    *n = 0;
    if (at == end || *at != '*') {
        const char *line = at == end ? NULL : memchr(at, '\n', (size_t)(end - at));
        return line ? line + 1 : NULL;
    }
    at = number(at + 1, end, &count);
    if (count < 0 || count > MAX_ARGS) {
        return end;
    }
    for (long i = 0; at && i < count; i++) {
        at = at < end ? number(at + 1, end, &len) : NULL;
        if (!at || len < 0 || end - at < len + 2) {
            return NULL;
        }
        args[i] = (Arg){at, (size_t)len};
        at += len + 2;
    }
    *n = at ? (unsigned)count : 0;
    return at;
}

/* FALSE: it has gone. */
static bool serve(Client *c)
{
    ssize_t got = read(c->fd, c->in + c->n, IN_SIZE - c->n);

    if (got <= 0) {
        return false;
    }
    c->n += (size_t)got;
    const char *at = c->in, *end = c->in + c->n, *next;
    Arg args[MAX_ARGS];
    unsigned n;
    while ((next = parse(at, end, args, &n))) {
        if (n) {
            command(c->out, args, n);
        }
        at = next;
    }
    c->n = (size_t)(end - at);
    memmove(c->in, at, c->n);
    return fflush(c->out) == 0 && c->n < IN_SIZE;
}

/* ---- clients --------------------------------------------------------------------------------- */

static Client clients[MAX_CLIENTS];
static unsigned n_clients;

static void welcome(int listener)
{
    int fd = accept(listener, NULL, NULL), one = 1;

    if (fd < 0 || n_clients == MAX_CLIENTS) {
        close(fd);
        return;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    clients[n_clients++] = (Client){fd, 0, malloc(IN_SIZE), fdopen(dup(fd), "w")};
}

static void dismiss(unsigned i)
{
    close(clients[i].fd);
    fclose(clients[i].out);
    free(clients[i].in);
    clients[i] = clients[--n_clients];
}

static void run(int listener)
{
    struct pollfd pfd[MAX_CLIENTS + 2];

    for (;;) {
        unsigned n = n_clients;
        pfd[0] = (struct pollfd){.fd = listener, .events = POLLIN};
        pfd[1] = (struct pollfd){.fd = news[0], .events = POLLIN};
        for (unsigned i = 0; i < n; i++) {
            pfd[i + 2] = (struct pollfd){.fd = clients[i].fd, .events = POLLIN};
        }
        /* SIGCHLD ends the wait. */
        if (poll(pfd, n + 2, -1) < 0) {
            look_for_child();
            continue;
        }
        look_for_child();
        if (pfd[1].revents) {
            hear_news();
        }
        for (unsigned i = n; i-- > 0;) {
            if (pfd[i + 2].revents && !serve(&clients[i])) {
                dismiss(i);
            }
        }
        if (pfd[0].revents) {
            welcome(listener);
        }
    }
}

static int listen_at(uint16_t port)
{
    struct sockaddr_in addr = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;

    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 || listen(fd, 64) < 0) {
        die("the port is used: --port");
    }
    return fd;
}

static void on_child(int signal)
{
}

int main(int argc, char **argv)
{
    static const char *const ways[] = {"fork", "snapshot", "ff_fork"};
    size_t size = 1536;
    long port = 6380;

    for (int i = 1; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], "--port")) {
            port = strtol(argv[i + 1], NULL, 10);
        } else if (!strcmp(argv[i], "--memory")) {
            size = strtoul(argv[i + 1], NULL, 10);
        } else if (!strcmp(argv[i], "--buffer")) {
            options.buffer = strtoul(argv[i + 1], NULL, 10) << 20;
        } else if (!strcmp(argv[i], "--file")) {
            file = argv[i + 1];
        } else if (!strcmp(argv[i], "--save")) {
            for (unsigned w = 0; w < 3; w++) {
                way = strcmp(argv[i + 1], ways[w]) ? way : w;
            }
        } else {
            die("see the head of kv-server.c");
        }
    }
    signal(SIGPIPE, SIG_IGN);
    sigaction(SIGCHLD, &(struct sigaction){.sa_handler = on_child}, NULL);
    make_arena(size << 20);
    if (pipe(news) < 0) {
        die("pipe");
    }
    if (way != FORK) {
        start_farfault(); /* early */
    }
    int listener = listen_at((uint16_t)port);
    puts("Ready to accept connections");
    fflush(stdout);
    run(listener);
}
