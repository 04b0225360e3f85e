/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What an urgent page costs at least beside a saturated link, whoever asks: the round trip of a
 * request of 40 bytes and an answer of 40 and a page, over one TCP connection, while another one
 * from the same sender carries all that the link takes. No QEMU, no memory to fill, no engine: two
 * sockets each way and four threads.
 *
 *   farfault-link-floor [--source-netns NAME --destination-netns NAME --address A]
 *                       [--requests N] [--rounds N] [--pause US] [--lowat BYTES]
 *                       [--maxseg BYTES] [--pacing MBIT] [--congestion NAME] [--page BYTES]
 *
 * A line for each case, in turn in each round:
 *
 *   alone      no bulk
 *
 *   bulk       with what the kernel queues by itself
 *
 *   lowat      with TCP_NOTSENT_LOWAT on the bulk socket
 *
 *   +window    with that, and a send buffer that follows the round trip (net/window.h) and, while
 *              it is short, small pieces: as an engine sends
 *
 *   +maxseg    with lowat and TCP_MAXSEG, if --maxseg is given
 *
 *   +pacing    with lowat and SO_MAX_PACING_RATE, if --pacing is given; then with all three
 *
 * Percentiles and the worst are of all round trips, none left out. The urgent socket is as an
 * engine's: TCP_NODELAY, reno, SO_PRIORITY 6. So are the threads (base/priority.h): the one that
 * asks and the one that answers come first, bulk last, but that its sender is prompt while its
 * window is short.
 *
 * The bulk sender waits until its socket takes data, and writes 128 KiB then; requests begin when
 * 32 MiB have come. Between two requests lies a random time, else they would follow the pulse of
 * the shaper.
 *
 * Threads: main is the destination that asks; one answers, one sends bulk, one reads it.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <math.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/priority.h"
#include "figures.h"
#include "net/window-trial.h"
#include "net/window.h"

#define NAME "farfault-link-floor"
#define REQUEST 40 /* an engine's frame */
#define CHUNK (128u << 10)
#define WARM_BYTES (32ull << 20)

static struct {
    gint requests, rounds, pause, lowat, maxseg, pacing, page;
    char *source, *destination, *address, *congestion;
} opt = {.requests = 2000, .rounds = 3, .pause = 500, .lowat = 128 << 10, .page = 4096};

static const GOptionEntry entries[] = {
    {"requests", 0, 0, G_OPTION_ARG_INT, &opt.requests, "In each case of a round (2000)", "N"},
    {"rounds", 0, 0, G_OPTION_ARG_INT, &opt.rounds, "Rounds (3)", "N"},
    {"pause", 0, 0, G_OPTION_ARG_INT, &opt.pause, "Between two requests, on average (500)", "US"},
    {"lowat", 0, 0, G_OPTION_ARG_INT, &opt.lowat, "Unsent bytes of bulk (131072)", "BYTES"},
    {"maxseg", 0, 0, G_OPTION_ARG_INT, &opt.maxseg, "Bulk's segments", "BYTES"},
    {"pacing", 0, 0, G_OPTION_ARG_INT, &opt.pacing, "Bulk's rate at most", "MBIT"},
    {"page", 0, 0, G_OPTION_ARG_INT, &opt.page, "What is asked for (4096)", "BYTES"},
    {"congestion", 0, 0, G_OPTION_ARG_STRING, &opt.congestion,
     "Bulk's congestion control (the system's)", "NAME"},
    {"source-netns", 0, 0, G_OPTION_ARG_STRING, &opt.source, "As ip netns has it", "NAME"},
    {"destination-netns", 0, 0, G_OPTION_ARG_STRING, &opt.destination, "The same", "NAME"},
    {"address", 0, 0, G_OPTION_ARG_STRING, &opt.address, "Of the destination (127.0.0.1)", "A"},
    G_OPTION_ENTRY_NULL,
};

/* The options of a bulk socket; 0: not set. */
typedef struct {
    const char *name;
    bool bulk;
    int lowat, maxseg, pacing;
    bool window;
    bool wanted;
} Case;

/* Fields of a row; NaN where there is no bulk. */
typedef struct {
    double n, mean_us, p50_us, p99_us, p999_us, worst_us;
    double mbit; /* of bulk meanwhile */
    double mss;  /* of bulk's segments, as TCP has them now */
} Row;

static const BenchColumn columns[] = {
    {"n", "requests", "%.0f"},    {"mean-us", "mean us", "%.0f"},  {"p50-us", "p50 us", "%.0f"},
    {"p99-us", "p99 us", "%.0f"}, {"p999-us", "p99.9 us", "%.0f"}, {"worst-us", "worst us", "%.0f"},
    {"mbit", "Mbit/s", "%.0f"},   {"mss", "mss", "%.0f"},
};

/* A thread that ends a connection shuts it down; all threads of it end then. */
typedef struct {
    int from, to; /* at the source, at the destination */
} Connection;

typedef struct {
    bool window;
    Connection bulk, urgent;
    pthread_mutex_t lock;
    pthread_cond_t warm;
    /* Under .lock. */
    uint64_t bytes; /* of bulk, that have come */
    bool ended;     /* no more will */
} Link;

/* All round trips of a case, in all rounds: us. */
typedef struct {
    Case c;
    GArray *us; /* double */
    double bytes, seconds, mss;
} Result;

static void check(bool ok, const char *what)
{
    if (!ok) {
        g_printerr(NAME ": %s: %s\n", what, g_strerror(errno));
        exit(1);
    }
}

static double now_us(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

/* ---- sockets --------------------------------------------------------------------------------- */

/* What this thread makes from now on is there. */
static void enter(const char *netns)
{
    g_autofree char *path = netns ? g_strdup_printf("/run/netns/%s", netns) : NULL;
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;

    if (path) {
        check(fd >= 0 && setns(fd, CLONE_NEWNET) == 0, path);
        close(fd);
    }
}

static void set(int fd, int level, int name, int value, const char *what)
{
    check(setsockopt(fd, level, name, &value, sizeof(value)) == 0, what);
}

static int make_socket(void)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    check(fd >= 0, "socket");
    set(fd, IPPROTO_TCP, TCP_NODELAY, 1, "TCP_NODELAY");
    return fd;
}

/* PREPARE is called with the source's socket before it connects. */
static Connection connect_both(void (*prepare)(int fd, const Case *c), const Case *c)
{
    struct sockaddr_in a = {.sin_family = AF_INET};
    socklen_t len = sizeof(a);
    Connection made;

    enter(opt.destination);
    int listener = make_socket();
    check(inet_pton(AF_INET, opt.address, &a.sin_addr) == 1, opt.address);
    check(bind(listener, (struct sockaddr *)&a, sizeof(a)) == 0 && listen(listener, 1) == 0 &&
              getsockname(listener, (struct sockaddr *)&a, &len) == 0,
          opt.address);
    enter(opt.source);
    made.from = make_socket();
    prepare(made.from, c);
    check(connect(made.from, (struct sockaddr *)&a, sizeof(a)) == 0, "connect");
    made.to = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    check(made.to >= 0, "accept");
    close(listener);
    return made;
}

static void prepare_bulk(int fd, const Case *c)
{
    if (c->maxseg) {
        set(fd, IPPROTO_TCP, TCP_MAXSEG, c->maxseg, "--maxseg");
    }
    if (c->lowat) {
        set(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, c->lowat, "--lowat");
    }
    if (c->pacing) {
        uint64_t rate = (uint64_t)c->pacing * 1000000 / 8;
        check(setsockopt(fd, SOL_SOCKET, SO_MAX_PACING_RATE, &rate, sizeof(rate)) == 0, "--pacing");
    }
    if (opt.congestion) {
        check(setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, opt.congestion, strlen(opt.congestion)) ==
                  0,
              opt.congestion);
    }
}

static void prepare_urgent(int fd, const Case *c)
{
    set(fd, SOL_SOCKET, SO_PRIORITY, 6, "SO_PRIORITY");
    check(setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "reno", strlen("reno")) == 0, "reno");
}

/* ---- threads --------------------------------------------------------------------------------- */

static bool read_all(int fd, char *at, size_t n)
{
    while (n) {
        ssize_t got = recv(fd, at, n, 0);

        if (got <= 0) {
            return false;
        }
        at += got;
        n -= got;
    }
    return true;
}

static bool write_all(int fd, const char *at, size_t n)
{
    return send(fd, at, n, MSG_NOSIGNAL) == (ssize_t)n;
}

static size_t answer_bytes(void)
{
    return REQUEST + (size_t)opt.page;
}

static gpointer answer(gpointer opaque)
{
    const Link *l = opaque;
    char request[REQUEST];
    g_autofree char *page = g_malloc0(answer_bytes());

    ff_priority_urgent();
    while (read_all(l->urgent.from, request, sizeof(request)) &&
           write_all(l->urgent.from, page, answer_bytes())) {
    }
    return NULL;
}

/* As an engine's bulk: prompt while the link is the limit, else it waits for those that answer. */
static bool set_priority(bool prompt, bool was)
{
    if (prompt && !was) {
        ff_priority_link();
    } else if (was && !prompt) {
        ff_priority_bulk();
    }
    return prompt;
}

static gpointer send_bulk(gpointer opaque)
{
    const Link *l = opaque;
    g_autofree char *chunk = g_malloc0(CHUNK);
    struct pollfd room = {l->bulk.from, POLLOUT, 0};
    FfWindow window = {0};
    FfLinkRate rate = {0};
    uint64_t sent = 0;
    ssize_t n = 0;
    bool prompt = false;
    uint64_t waited_us = 0;

    ff_priority_bulk();
    while (n >= 0 || errno == EAGAIN || errno == EINTR) {
        if (l->window) {
            int64_t now = g_get_monotonic_time();
            bool slow = ff_link_rate_is_slow(&rate, sent, waited_us, now);
            ff_window_lead(&window, &rate, slow, false, now);
            ff_window_follow(&window, l->bulk.from, waited_us);
        }
        prompt = set_priority(ff_window_link_bound(&window), prompt);
        int64_t begin = g_get_monotonic_time();
        n = poll(&room, 1, -1);
        waited_us += g_get_monotonic_time() - begin;
        if (n >= 0) {
            unsigned piece = ff_window_piece(&window);
            n = send(l->bulk.from, chunk, piece ? piece : CHUNK,
                     MSG_NOSIGNAL | MSG_DONTWAIT | (piece ? MSG_EOR : 0));
            sent += n > 0 ? (uint64_t)n : 0;
        }
    }
    return NULL;
}

static gpointer read_bulk(gpointer opaque)
{
    Link *l = opaque;
    g_autofree char *chunk = g_malloc(CHUNK);
    ssize_t n;

    ff_priority_bulk();
    while ((n = recv(l->bulk.to, chunk, CHUNK, 0)) > 0) {
        pthread_mutex_lock(&l->lock);
        bool was = l->bytes >= WARM_BYTES;
        l->bytes += n;
        if (!was && l->bytes >= WARM_BYTES) {
            pthread_cond_signal(&l->warm);
        }
        pthread_mutex_unlock(&l->lock);
    }
    pthread_mutex_lock(&l->lock);
    l->ended = true;
    pthread_cond_signal(&l->warm);
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

/* ---- a case ---------------------------------------------------------------------------------- */

static void pause_at_random(void)
{
    double us = g_random_double() * 2 * opt.pause;
    struct timespec t = {0, (long)(us * 1000)};

    nanosleep(&t, NULL);
}

static void ask(const Link *l, Result *r)
{
    char request[REQUEST] = {0};
    g_autofree char *page = g_malloc(answer_bytes());

    for (gint i = 0; i < opt.requests; i++) {
        double begin = now_us();
        check(write_all(l->urgent.to, request, sizeof(request)) &&
                  read_all(l->urgent.to, page, answer_bytes()),
              "the urgent connection");
        double us = now_us() - begin;
        g_array_append_val(r->us, us);
        pause_at_random();
    }
}

static uint64_t bytes_so_far(Link *l, uint64_t least)
{
    pthread_mutex_lock(&l->lock);
    while (l->bytes < least && !l->ended) {
        pthread_cond_wait(&l->warm, &l->lock);
    }
    check(!l->ended, "the bulk connection");
    uint64_t bytes = l->bytes;
    pthread_mutex_unlock(&l->lock);
    return bytes;
}

static void ask_beside_bulk(Link *l, Result *r)
{
    int mss = 0;
    socklen_t len = sizeof(mss);

    l->bulk = connect_both(prepare_bulk, &r->c);
    GThread *reader = g_thread_new("reader", read_bulk, l);
    GThread *sender = g_thread_new("sender", send_bulk, l);
    uint64_t before = bytes_so_far(l, WARM_BYTES);
    double begin = now_us();
    ask(l, r);
    r->seconds += (now_us() - begin) / 1e6;
    r->bytes += (double)(bytes_so_far(l, 0) - before);
    check(getsockopt(l->bulk.from, IPPROTO_TCP, TCP_MAXSEG, &mss, &len) == 0, "TCP_MAXSEG");
    r->mss = mss;
    shutdown(l->bulk.from, SHUT_RDWR);
    shutdown(l->bulk.to, SHUT_RDWR);
    g_thread_join(sender);
    g_thread_join(reader);
    close(l->bulk.from);
    close(l->bulk.to);
}

static void run_case(Result *r)
{
    Link l = {.window = r->c.window};

    pthread_mutex_init(&l.lock, NULL);
    pthread_cond_init(&l.warm, NULL);
    l.urgent = connect_both(prepare_urgent, &r->c);
    GThread *answerer = g_thread_new("answerer", answer, &l);
    if (r->c.bulk) {
        ask_beside_bulk(&l, r);
    } else {
        ask(&l, r);
    }
    shutdown(l.urgent.to, SHUT_RDWR);
    g_thread_join(answerer);
    close(l.urgent.from);
    close(l.urgent.to);
    pthread_cond_destroy(&l.warm);
    pthread_mutex_destroy(&l.lock);
}

static double rank(const Result *r, double share)
{
    return bench_rank((const double *)(const void *)r->us->data, r->us->len, 1, 0, share);
}

static double mean(const Result *r)
{
    double sum = 0;

    for (guint i = 0; i < r->us->len; i++) {
        sum += g_array_index(r->us, double, i);
    }
    return sum / r->us->len;
}

static void print(const Result *r)
{
    Row row = {.n = r->us->len,
               .mean_us = mean(r),
               .p50_us = rank(r, 0.5),
               .p99_us = rank(r, 0.99),
               .p999_us = rank(r, 0.999),
               .worst_us = rank(r, 1),
               .mbit = r->c.bulk ? r->bytes * 8 / r->seconds / 1e6 : NAN,
               .mss = r->c.bulk ? r->mss : NAN};

    bench_print_figures(stdout, r->c.name, columns, G_N_ELEMENTS(columns), (const double *)&row);
}

static void run_all(void)
{
    bool maxseg = opt.maxseg > 0, pacing = opt.pacing > 0;
    const Case cases[] = {
        {"alone", .wanted = true},
        {"bulk", true, .wanted = true},
        {"lowat", true, opt.lowat, .wanted = true},
        {"lowat+window", true, opt.lowat, .window = true, .wanted = true},
        {"lowat+maxseg", true, opt.lowat, opt.maxseg, .wanted = maxseg},
        {"lowat+pacing", true, opt.lowat, 0, opt.pacing, .wanted = pacing},
        {"lowat+maxseg+pacing", true, opt.lowat, opt.maxseg, opt.pacing,
         .wanted = maxseg && pacing},
    };
    Result result[G_N_ELEMENTS(cases)];

    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        result[i] = (Result){.c = cases[i], .us = g_array_new(FALSE, FALSE, sizeof(double))};
    }
    for (gint i = 0; i < opt.rounds * (gint)G_N_ELEMENTS(cases); i++) {
        unsigned at = i % G_N_ELEMENTS(cases);
        if (cases[at].wanted) {
            run_case(&result[at]);
        }
    }
    bench_print_figures(stdout, "", columns, G_N_ELEMENTS(columns), NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        if (cases[i].wanted) {
            print(&result[i]);
        }
        g_array_unref(result[i].us);
    }
}

static bool settle(GError **error)
{
    opt.address = opt.address ? opt.address : g_strdup("127.0.0.1");
    if (opt.requests < 1 || opt.rounds < 1 || opt.pause < 0 || opt.pause > 100000 ||
        opt.lowat < 1 || opt.maxseg < 0 || opt.pacing < 0 || opt.page < 1 || opt.page > 1 << 30) {
        g_set_error(
            error, G_OPTION_ERROR, G_OPTION_ERROR_BAD_VALUE,
            "numbers out of range: requests, rounds, lowat and page from 1, pause to 100000, "
            "page to 1073741824");
        return false;
    }
    if (!opt.source != !opt.destination) {
        g_set_error(error, G_OPTION_ERROR, G_OPTION_ERROR_BAD_VALUE,
                    "--source-netns and --destination-netns: both or none");
        return false;
    }
    return true;
}

int main(int argc, char **argv)
{
    g_autoptr(GOptionContext) context =
        g_option_context_new("- what an urgent page costs at least");
    g_autoptr(GError) error = NULL;

    g_option_context_add_main_entries(context, entries, NULL);
    if (!g_option_context_parse(context, &argc, &argv, &error) || !settle(&error)) {
        g_printerr(NAME ": %s\n", error->message);
        return 2;
    }
    ff_priority_urgent();
    run_all();
    return 0;
}
