/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See fetch.h. One thread, which waits for nobody but in poll().
 *
 * At most WINDOW requests for what nobody waits for are on their way, and none is added while one
 * for somebody is. So what somebody waits for comes after at most WINDOW * PIECE pages.
 *
 * The peer is believed as to what the content is, and in nothing else: each answer is compared with
 * the oldest request (pager/remote/page-server.h), and its pages are put where that one says. A
 * page's bit is set when all of it is there.
 *
 * System calls: open, close, socket, connect, getsockopt, setsockopt, poll, send, recv, read, and
 * those of pager/server/fetched-pages.c.
 */
#include "pager/remote/fetch.h"

#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/failpoints.h"
#include "net/address.h"
#include "pager/holder/log.h"
#include "pager/holder/wire.h"
#include "pager/remote/page-server.h"
#include "pager/server/criu.h"
#include "pager/server/image.h"
#include "pager/server/limit.h"
#include "uffd/bitmap.h"

#define PIECE 32u
#define WINDOW 8u
#define URGENT 64u
/* A host that is gone is noticed after so long; one that is there and silent is waited for. */
#define DEAD_MS 60000
#define KEEPALIVE_S 15
#define SILENT_MS 15000
#define CONNECT_MS 20000 /* for each address */

typedef struct {
    FfPageServerFrame frame;
    uint64_t first; /* page of the memfd */
    bool urgent;
} Request;

typedef struct {
    const FfFetch *f;
    FfBitmap asked;
    uint64_t cursor;                  /* before it all has been asked for */
    uint64_t left;                    /* pages that are not there */
    Request request[WINDOW + URGENT]; /* a ring: on their way */
    unsigned oldest, n, n_urgent;
    /* The answer that is being read. */
    FfPageServerFrame answer;
    uint64_t got, need; /* bytes, of the frame and the pages after it */
    int64_t next_us;    /* nothing that nobody waits for is asked for before */
    int64_t heard_us;   /* when it has answered last, or was asked before that */
    bool may_commit;
    bool said_silent;
} Fetcher;

static bool fail_fetch(const FfFetch *f, GError **error, const char *why)
{
    g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED, "%s: %s", f->name, why);
    return false;
}

/* ---- which pages ----------------------------------------------------------------------------- */

/* The process of a file's name; 0: it is no such file. */
static int32_t pid_of(const char *name)
{
    char canonical[32];
    int32_t pid;

    if (sscanf(name, "pagemap-%" G_GINT32_FORMAT ".img", &pid) != 1 || pid <= 0) {
        return 0;
    }
    snprintf(canonical, sizeof(canonical), "pagemap-%d.img", pid);
    return strcmp(name, canonical) == 0 ? pid : 0;
}

static gint by_pid(gconstpointer a, gconstpointer b)
{
    const FfFetchedPart *x = a, *y = b;

    return x->pid < y->pid ? -1 : x->pid > y->pid;
}

static bool add_process(FfFetch *f, GArray *parts, int dir, int32_t pid, GError **error)
{
    g_auto(FfCriu) c = {0};
    FfFetchedPart part = {.pid = pid};

    if (!ff_criu_open_lazy(&c, dir, pid, &part.pages, error)) {
        g_prefix_error(error, "pagemap-%d.img: ", pid);
        return false;
    }
    part.pages /= FF_FETCHED_PAGE;
    part.pagemap = c.stamp;
    for (guint i = 0; i < c.ranges->len; i++) {
        const FfCriuRange *r = &g_array_index(c.ranges, FfCriuRange, i);
        /* FIRST: of its process; when all are known, of the memfd. */
        FfFetchRun run = {r->offset / FF_FETCHED_PAGE, r->len / FF_FETCHED_PAGE, r->addr, pid, 0};
        g_array_append_val(f->runs, run);
    }
    /* Such a process could not be restored, and would be found out when it is. */
    if (!part.pages || c.ranges->len > FF_IMAGE_RANGES) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_NOT_SUPPORTED, "pagemap-%d.img: %s", pid,
                    part.pages ? "it has too many runs of lazy pages"
                               : "it has no lazy pages: processes without are not restored");
        return false;
    }
    g_array_append_val(parts, part);
    return true;
}

static gint by_first(gconstpointer a, gconstpointer b)
{
    const FfFetchRun *x = a, *y = b;

    return x->first < y->first ? -1 : x->first > y->first;
}

static bool read_folder(FfFetch *f, GArray *parts, const char *path, GError **error)
{
    g_autoptr(GDir) names = g_dir_open(path, 0, error);
    const char *name;
    bool ok = names;
    int dir = names ? open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;

    while (ok && (name = g_dir_read_name(names))) {
        int32_t pid = pid_of(name);
        ok = !pid || add_process(f, parts, dir, pid, error);
    }
    if (dir >= 0) {
        close(dir);
    }
    if (ok && !parts->len) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA,
                    "%s: there are no images of criu dump --lazy-pages in it: copy them there "
                    "first",
                    path);
        return false;
    }
    return ok;
}

bool ff_fetch_open(FfFetch *f, const char *dir, GError **error)
{
    g_autoptr(GArray) parts = g_array_new(FALSE, FALSE, sizeof(FfFetchedPart));

    f->runs = g_array_new(FALSE, FALSE, sizeof(FfFetchRun));
    if (!read_folder(f, parts, dir, error)) {
        return false;
    }
    g_array_sort(parts, by_pid);
    f->fetched = ff_fetched_create((FfFetchedPart *)(void *)parts->data, parts->len, error);
    if (!f->fetched) {
        return false;
    }
    for (guint i = 0; i < f->runs->len; i++) {
        FfFetchRun *r = &g_array_index(f->runs, FfFetchRun, i);
        r->first += ff_fetched_part(f->fetched, r->pid)->first;
    }
    g_array_sort(f->runs, by_first);
    return true;
}

void ff_fetch_clear(FfFetch *f)
{
    g_clear_pointer(&f->runs, g_array_unref);
    g_clear_pointer(&f->fetched, ff_fetched_free);
}

/* The run of PAGE, which is one of them. */
static const FfFetchRun *run_of(const FfFetch *f, uint64_t page)
{
    guint lo = 0, hi = f->runs->len;

    while (hi - lo > 1) {
        guint mid = (lo + hi) / 2;
        if (g_array_index(f->runs, FfFetchRun, mid).first <= page) {
            lo = mid;
        } else {
            hi = mid;
        }
    }
    return &g_array_index(f->runs, FfFetchRun, lo);
}

/* ---- connection ------------------------------------------------------------------------------ */

/* A close with a linger of 0 is a reset, whether or not something was left unread: a page server
 * takes that for a failure, and lets its processes run again. Its orderly end would have them
 * killed. */
static void set_linger(int fd)
{
    const struct linger linger = {.l_onoff = 1, .l_linger = 0};

    setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
}

/* All of it is so before the server can have accepted: we can end at any moment. */
static int new_socket(int family)
{
    int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int one = 1, idle = KEEPALIVE_S, dead = DEAD_MS;

    if (fd >= 0) {
        set_linger(fd);
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
        setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
        setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
        setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &idle, sizeof(idle));
        setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &dead, sizeof(dead));
    }
    return fd;
}

/* Waits. 0 or -errno. */
static int connect_socket(int fd, const struct addrinfo *to)
{
    struct pollfd pfd = {.fd = fd, .events = POLLOUT};
    int err = connect(fd, to->ai_addr, to->ai_addrlen) == 0 ? 0 : errno;
    socklen_t len = sizeof(err);

    if (err == EINPROGRESS || err == EINTR) {
        int n;
        do {
            n = poll(&pfd, 1, CONNECT_MS);
        } while (n < 0 && errno == EINTR);
        err = n == 0 ? ETIMEDOUT : 0;
        if (n < 0 || (n > 0 && getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len) < 0)) {
            err = errno;
        }
    }
    FF_FAULT_AT("server-connected");
    return -err;
}

int ff_fetch_connect(const FfAddress *a, GError **error)
{
    struct addrinfo *list = ff_address_look_up(a, error);
    int fd = -1, rc = 0;

    if (!list) {
        return -1;
    }
    for (const struct addrinfo *ai = list; ai && fd < 0; ai = ai->ai_next) {
        fd = new_socket(ai->ai_family);
        rc = fd < 0 ? -errno : connect_socket(fd, ai);
        if (rc && fd >= 0) {
            close(fd);
            fd = -1;
        }
    }
    freeaddrinfo(list);
    if (fd < 0) { /* the last one counts */
        g_set_error(error, G_IO_ERROR, g_io_error_from_errno(-rc), "it cannot be reached: %s",
                    g_strerror(-rc));
    }
    return fd;
}

/* So little is taken at once, or the peer takes nothing. */
static bool send_frame(const FfFetch *f, const FfPageServerFrame *frame, GError **error)
{
    ssize_t n;

    do {
        n = send(f->server, frame, sizeof(*frame), MSG_NOSIGNAL | MSG_DONTWAIT);
    } while (n < 0 && errno == EINTR);
    return n == sizeof(*frame) ||
           fail_fetch(f, error, n < 0 ? g_strerror(errno) : "it takes no requests");
}

static void tell_holder(const FfFetch *f, char byte)
{
    send(f->link, &byte, 1, MSG_NOSIGNAL); /* its end is told by poll() */
}

/* ---- asking ---------------------------------------------------------------------------------- */

static bool send_request(Fetcher *w, uint64_t first, uint64_t pages, bool urgent, GError **error)
{
    const FfFetchRun *run = run_of(w->f, first);
    Request *r = &w->request[(w->oldest + w->n) % G_N_ELEMENTS(w->request)];

    *r = (Request){.first = first, .urgent = urgent};
    r->frame = (FfPageServerFrame){.command = FF_PAGE_SERVER_GET,
                                   .pages = pages,
                                   .addr = run->addr + (first - run->first) * FF_FETCHED_PAGE,
                                   .pid = (uint64_t)run->pid};
    ff_bitmap_set_run(&w->asked, first, pages);
    w->heard_us = w->n ? w->heard_us : g_get_monotonic_time();
    w->n++;
    w->n_urgent += urgent;
    return send_frame(w->f, &r->frame, error);
}

static bool ask_wanted(Fetcher *w, GError **error)
{
    uint64_t page;

    while (w->n_urgent < URGENT && ff_fetched_next_wanted(w->f->fetched, &page)) {
        if (!ff_bitmap_test(&w->asked, page) && !send_request(w, page, 1, true, error)) {
            return false;
        }
    }
    return true;
}

static bool is_time(const Fetcher *w)
{
    return !w->f->rate || g_get_monotonic_time() >= w->next_us;
}

/* There is something left that nobody waits for, and room for it. */
static bool has_turn(const Fetcher *w)
{
    return !w->n_urgent && w->n < WINDOW && w->cursor < w->asked.n_pages;
}

static bool ask_next(Fetcher *w, GError **error)
{
    while (has_turn(w) && is_time(w)) {
        uint64_t first, n = ff_bitmap_next_run(&w->asked, w->cursor, false, &first);
        if (!n) {
            w->cursor = w->asked.n_pages;
            return true;
        }
        const FfFetchRun *run = run_of(w->f, first);
        n = MIN(MIN(n, PIECE), run->first + run->pages - first);
        w->cursor = first + n;
        w->next_us = ff_limit_next(w->next_us, w->f->rate, n * FF_FETCHED_PAGE);
        if (!send_request(w, first, n, false, error)) {
            return false;
        }
    }
    return true;
}

/* ---- answers --------------------------------------------------------------------------------- */

/* All of the answer to the oldest request is there. What it left out is asked for again, at once:
 * somebody may have waited for a page of it since. */
static bool take_answer(Fetcher *w, GError **error)
{
    const Request *r = &w->request[w->oldest];
    uint64_t n = w->answer.pages, rest = r->frame.pages - n, next = r->first + n;

    ff_fetched_arrived(w->f->fetched, r->first, n);
    FF_FAULT_AT("page-fetched");
    w->left -= n;
    if (!w->left) {
        tell_holder(w->f, FF_HOLD_FETCHED);
    }
    w->n_urgent -= r->urgent;
    w->oldest = (w->oldest + 1) % G_N_ELEMENTS(w->request);
    w->n--;
    w->got = w->need = 0;
    return !rest || send_request(w, next, rest, false, error);
}

/* The answer's frame is there. */
static bool begin_answer(Fetcher *w, GError **error)
{
    const Request *r = &w->request[w->oldest];
    const char *wrong = ff_page_server_check(&r->frame, &w->answer);

    w->need = sizeof(w->answer) + (wrong ? 0 : w->answer.pages * FF_FETCHED_PAGE);
    return !wrong || fail_fetch(w->f, error, wrong);
}

/* *N bytes at most into TO. FALSE and ERROR: the end. */
static bool receive_bytes(const Fetcher *w, void *to, uint64_t *n, GError **error)
{
    ssize_t rc = recv(w->f->server, to, *n, MSG_DONTWAIT);

    if (rc == 0) {
        return fail_fetch(w->f, error, "it has closed the connection");
    }
    if (rc < 0 && errno != EAGAIN && errno != EINTR) {
        return fail_fetch(w->f, error, g_strerror(errno));
    }
    *n = rc < 0 ? 0 : (uint64_t)rc;
    return true;
}

/* What is there, of one answer at most. */
static bool read_answer(Fetcher *w, GError **error)
{
    const uint64_t head = sizeof(w->answer);
    uint64_t some = w->got < head ? head - w->got : w->need - w->got;
    char *to = (char *)&w->answer + w->got;

    if (w->got >= head) {
        const Request *r = &w->request[w->oldest];
        to = (char *)ff_fetched_at(w->f->fetched, r->first) + (w->got - head);
    }
    if (!receive_bytes(w, to, &some, error)) {
        return false;
    }
    if (some && !w->n) {
        return fail_fetch(w->f, error, "it says what nobody has asked for");
    }
    w->got += some;
    w->said_silent = w->said_silent && !some;
    w->heard_us = some ? g_get_monotonic_time() : w->heard_us;
    if (w->got == head && some && !begin_answer(w, error)) {
        return false;
    }
    return w->got <= head || w->got < w->need || take_answer(w, error);
}

/* ---- the end --------------------------------------------------------------------------------- */

/* The answer to the last frame. FALSE and ERROR: nobody knows whether it was heard. */
static bool read_status(const FfFetch *f, int32_t *status, GError **error)
{
    for (size_t got = 0; got < sizeof(*status);) {
        struct pollfd pfd = {.fd = f->server, .events = POLLIN};
        poll(&pfd, 1, -1);
        ssize_t n = recv(f->server, (char *)status + got, sizeof(*status) - got, MSG_DONTWAIT);
        if (n == 0) {
            return fail_fetch(f, error,
                              "it has closed the connection before it said that it heard of the "
                              "end");
        }
        if (n < 0 && errno != EAGAIN && errno != EINTR) {
            return fail_fetch(f, error, g_strerror(errno));
        }
        got += n > 0 ? (size_t)n : 0;
    }
    return true;
}

/* The server answers when it has read this, and ends its processes when we have closed our side in
 * an orderly way. A reset is a failure to it until then. */
static bool close_server(const FfFetch *f, GError **error)
{
    const FfPageServerFrame bye = {.command = FF_PAGE_SERVER_CLOSE};
    int32_t status = -1;

    if (!send_frame(f, &bye, error) || !read_status(f, &status, error)) {
        return false;
    }
    return !status || fail_fetch(f, error, "it says that the end is none");
}

/* The holder is what decides: it makes the end an orderly one, and answers. FALSE: it has ended
 * before, so the end is a reset. */
static bool give_up(const FfFetch *f, GError **error)
{
    char byte = 0;
    ssize_t n;

    tell_holder(f, FF_HOLD_GIVEN_UP);
    do {
        n = recv(f->link, &byte, 1, 0);
    } while (n < 0 && errno == EINTR);
    return n == 1 || fail_fetch(f, error, "the holder has ended");
}

/* ---- the loop -------------------------------------------------------------------------------- */

/* FALSE: the holder has gone. */
static bool hear_holder(Fetcher *w)
{
    char byte;
    ssize_t n = recv(w->f->link, &byte, 1, MSG_DONTWAIT);

    w->may_commit = w->may_commit || (n == 1 && byte == FF_HOLD_COMMIT);
    return n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR));
}

/* Until when something must be done that has no event; -1: nothing. */
static int wait_ms(const Fetcher *w)
{
    int64_t now = g_get_monotonic_time(), until = INT64_MAX;

    if (w->f->rate && has_turn(w)) {
        until = w->next_us;
    }
    if (w->n && !w->said_silent) {
        until = MIN(until, w->heard_us + SILENT_MS * 1000);
    }
    return until == INT64_MAX ? -1 : (int)CLAMP((until - now) / 1000 + 1, 1, 60000);
}

static void clear_kick(const Fetcher *w)
{
    uint64_t n;

    while (read(ff_fetched_kick(w->f->fetched), &n, sizeof(n)) < 0 && errno == EINTR) {
    }
}

static bool wait_some(Fetcher *w, GError **error)
{
    struct pollfd pfd[] = {{.fd = w->f->server, .events = POLLIN},
                           {.fd = ff_fetched_kick(w->f->fetched), .events = POLLIN},
                           {.fd = w->f->link, .events = POLLIN}};
    int n = poll(pfd, G_N_ELEMENTS(pfd), wait_ms(w));

    if (n == 0 && w->n && !w->said_silent &&
        g_get_monotonic_time() >= w->heard_us + SILENT_MS * 1000) {
        w->said_silent = true;
        ff_say("%s: it does not answer: who waits for a page waits", w->f->name);
    }
    if (n <= 0) {
        return true;
    }
    if (pfd[1].revents) {
        clear_kick(w);
    }
    if (pfd[2].revents && !hear_holder(w)) {
        return fail_fetch(w->f, error, "the holder has ended");
    }
    return !pfd[0].revents || read_answer(w, error);
}

static bool fetch_all(const FfFetch *f, GError **error)
{
    Fetcher w = {.f = f, .left = ff_fetched_pages(f->fetched)};

    ff_bitmap_init(&w.asked, w.left, false);
    while (!w.may_commit) {
        if (!ask_wanted(&w, error) || !ask_next(&w, error) || !wait_some(&w, error)) {
            ff_bitmap_clear(&w.asked);
            return false;
        }
    }
    ff_bitmap_clear(&w.asked);
    FF_FAULT_AT("all-fetched");
    return close_server(f, error);
}

bool ff_fetch_run(const FfFetch *f, GError **error)
{
    if (!fetch_all(f, error) || !give_up(f, error)) {
        return false;
    }
    ff_fetched_set_done(f->fetched);
    return true;
}
