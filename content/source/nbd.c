/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Content: the bytes of an NBD export, by libnbd. A plugin of its own (content/source/open.c),
 * which needs nothing of the program but backend.h.
 *
 * A content has up to CONNECTIONS connections, or one if the server does not allow more
 * (multi-conn). A reader takes one for each request, makes one if none is idle, and gives it back.
 * Bulk has half of them at most, and none that a reader in a hurry waits for: but one that has
 * waited for TURN_US has the next.
 *
 * A request that fails with its connection is made again on another one. If none can be had, that
 * is tried for PATIENCE_US, counted from the first failure; then, and until there is one again,
 * each request fails. So does one that ends each connection for so long, and one that the server
 * answers it cannot read. Nothing is waited for longer than CONNECT_MS and ANSWER_MS: a connection
 * that is silent for so long is left.
 *
 * Where no other can be had beside those that there are (others use the server as well), they are
 * waited for; bulk asks again after a while whether it has room. Those that nobody has used for
 * IDLE_US are closed, but for KEPT: a server that has no room lets another client in then.
 *
 * The server is believed as to what the bytes are, and in nothing else: each connection must have
 * an export of the size that was opened, with blocks no larger than a page, and what
 * FfContent.greet asks for; lengths of answers are compared by libnbd, and those of extents here.
 *
 * Threads: any, each with its reader; one that closes what is idle. Lock: Nbd.lock, a leaf, held
 * for moments; no connection is used by two threads.
 *
 * System calls: those of libnbd (socket, connect, send, recv, poll, fcntl, and of getaddrinfo) and
 * of GnuTLS.
 */
#include <errno.h>
#include <gio/gio.h>
#include <libnbd.h>
#include <pthread.h>
#include <string.h>
#include <time.h>

#include "content/source/backend.h"

#define CONNECTIONS 8u
#define CONNECT_MS 10000
#define ANOTHER_MS 2000 /* while there are others */
#define ANSWER_MS 15000
#define ROOM_AGAIN_US (60 * G_USEC_PER_SEC)
#define PATIENCE_US G_USEC_PER_SEC
#define AGAIN_MS 50
#define IDLE_US (3 * G_USEC_PER_SEC)
#define TURN_US G_USEC_PER_SEC
#define KEPT 2u /* of two threads that place what one client waits for none waits for a new one */
#define READ_MAX (1ull << 20)
#define WINDOW (64ull << 20) /* so far ahead bulk asks for holes */
#define EXTENTS_MAX 16384u   /* of these: as many as pages; smaller ones are of no use */

typedef struct nbd_handle Handle;

typedef struct {
    Handle *h;
    int64_t since_us;
} Idle;

typedef struct {
    FfContent base;
    char *creds;   /* a folder; NULL: as URI and libnbd have it */
    unsigned most; /* connections */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    GArray *idle;        /* lock; Idle, the one that was used last at the end */
    GThread *closer;     /* lock; of idle ones; NULL: not needed yet */
    pthread_cond_t stir; /* to it */
    bool rests, closing; /* lock: it waits for stir alone; it is to end */
    unsigned open, bulk; /* lock; connections, those being made included; of those: bulk's */
    unsigned connecting; /* lock; being made */
    unsigned hurried;    /* lock; readers in a hurry that wait for one */
    unsigned patient;    /* lock; others that do */
    int64_t patient_us;  /* lock; since then none of those had one */
    unsigned room;       /* lock; no more than so many can be had, since room_us; 0: not known */
    int64_t room_us;     /* lock */
    int64_t gone_us;     /* lock; since when none can be had (monotonic); 0: the last one could */
} Nbd;

typedef struct {
    uint64_t end; /* from the end of the one before it */
    bool zero;
} Extent;

typedef struct {
    FfContentReader base;
    Handle *pinned; /* this connection alone; NULL: any */
    GArray *map;    /* Extent; what is known of [map_at, map_end) */
    uint64_t map_at, map_end;
} Reader;

/* libnbd's own functions are nothing to a user. */
static const char *last_error(void)
{
    const char *why = nbd_get_error();
    const char *after = why && g_str_has_prefix(why, "nbd_") ? strstr(why, ": ") : NULL;

    return after ? after + strlen(": ") : why ? why : "it cannot be read";
}

/* WHAT: NULL: what libnbd has of the last call. */
static bool fail_as(const Nbd *n, GError **error, int code, const char *what)
{
    g_autofree char *text = g_strdup(what ? what : last_error());

    for (char *c = text; *c; c++) { /* some of it is the server's */
        *c = g_ascii_isprint(*c) ? *c : '?';
    }
    g_set_error(error, G_IO_ERROR, code, "%s: %s", n->base.name, text);
    return false;
}

static bool fail_nbd(const Nbd *n, GError **error, const char *what)
{
    return fail_as(n, error, G_IO_ERROR_FAILED, what);
}

/* ---- a connection ---------------------------------------------------------------------------- */

/* It can be used for another request: no answer can come to one that was given up. */
static bool is_alive(Handle *h)
{
    return nbd_aio_is_ready(h) == 1 && nbd_aio_in_flight(h) == 0;
}

static void close_connection(Handle *h)
{
    if (is_alive(h)) {
        nbd_aio_disconnect(h, 0);
    }
    nbd_close(h);
}

#define SILENT "the server does not answer"

/* Something has come, before UNTIL (monotonic). FALSE: it has failed, or took too long (LATE). */
static bool wait_event(const Nbd *n, Handle *h, int64_t until, const char *late, GError **error)
{
    int64_t left = (until - g_get_monotonic_time()) / 1000;
    int rc = left > 0 ? nbd_poll(h, (int)left) : 0;

    return rc > 0 || fail_nbd(n, error, rc == 0 ? late : NULL);
}

static bool wait_ready(const Nbd *n, Handle *h, int64_t until, GError **error)
{
    while (!is_alive(h)) {
        if (nbd_aio_is_dead(h) || nbd_aio_is_closed(h)) {
            return fail_nbd(n, error, NULL);
        }
        if (!wait_event(n, h, until, SILENT ": has it room for another connection (qemu-nbd -e)?",
                        error)) {
            return false;
        }
    }
    return true;
}

/* Until when R waits for something that takes MS at most. */
static int64_t limit_of(const Reader *r, unsigned ms)
{
    int64_t until = g_get_monotonic_time() + (int64_t)ms * 1000;

    return r->base.until ? MIN(until, r->base.until) : until;
}

/* The answer to COOKIE, which is negative if it could not be asked for. */
static bool wait_answer(const Reader *r, Handle *h, int64_t cookie, GError **error)
{
    const Nbd *n = (const Nbd *)r->base.content;
    int64_t until = limit_of(r, ANSWER_MS);
    int rc;

    if (cookie < 0) {
        return fail_nbd(n, error, NULL);
    }
    while ((rc = nbd_aio_command_completed(h, (uint64_t)cookie)) == 0) {
        if (!wait_event(n, h, until, SILENT, error)) {
            return false;
        }
    }
    return rc > 0 || fail_nbd(n, error, NULL);
}

/* QEMU's names of files are libnbd's; a key's user is "qemu" if URI names no other. */
static bool set_creds(const Nbd *n, Handle *h)
{
    if (!n->creds) {
        return true;
    }
    g_autofree char *keys = g_build_filename(n->creds, "keys.psk", NULL);
    return g_file_test(keys, G_FILE_TEST_EXISTS)
               ? nbd_set_tls_psk_file(h, keys) == 0 && nbd_set_tls_username(h, "qemu") == 0
               : nbd_set_tls_certificates(h, n->creds) == 0;
}

static Handle *connect_export(const Nbd *n, int64_t until, GError **error)
{
    Handle *h = nbd_create();

    if (h &&
        nbd_set_uri_allow_transports(h, LIBNBD_ALLOW_TRANSPORT_TCP | LIBNBD_ALLOW_TRANSPORT_UNIX |
                                            LIBNBD_ALLOW_TRANSPORT_VSOCK) == 0 &&
        nbd_set_uri_allow_local_file(h, true) == 0 &&
        nbd_add_meta_context(h, LIBNBD_CONTEXT_BASE_ALLOCATION) == 0 && set_creds(n, h) &&
        nbd_aio_connect_uri(h, n->base.name) == 0) {
        if (wait_ready(n, h, until, error)) {
            return h;
        }
    } else {
        fail_nbd(n, error, NULL);
    }
    if (h) {
        nbd_close(h);
    }
    return NULL;
}

/* UNTIL: 0, or when the one who needs it waits no more. */
static bool is_right(Nbd *n, Handle *h, int64_t until, GError **error)
{
    Reader pinned = {.base = {.content = &n->base, .hurry = true, .until = until}, .pinned = h};
    int64_t size = nbd_get_size(h);

    if (size < 0) {
        return fail_nbd(n, error, NULL);
    }
    if ((uint64_t)size != n->base.size) {
        g_autofree char *what =
            g_strdup_printf("the export has %" G_GINT64_FORMAT " bytes, and had %" G_GUINT64_FORMAT
                            ": serve the same again, or end the clients, which have a part of it",
                            size, n->base.size);
        return fail_as(n, error, FF_CONTENT_CHANGED, what);
    }
    if (nbd_get_block_size(h, LIBNBD_SIZE_MINIMUM) > (int64_t)FF_CONTENT_PAGE) {
        return fail_nbd(n, error, "the server's smallest block is larger than a page (4 KiB)");
    }
    /* Who compares may live with a read that has failed. */
    return (!n->base.greet || n->base.greet(n->base.upper, &pinned.base, error)) &&
           (is_alive(h) || fail_nbd(n, error, SILENT));
}

static Handle *connect_known(Nbd *n, const Reader *r, unsigned ms, GError **error)
{
    Handle *h = connect_export(n, limit_of(r, ms), error);

    if (h && !is_right(n, h, r->base.until, error)) {
        close_connection(h);
        return NULL;
    }
    return h;
}

/* ---- all of them ----------------------------------------------------------------------------- */

/* Under the lock. Whether it has room by now is for bulk to find out. */
static unsigned most_open(const Nbd *n, bool hurry)
{
    bool again = !hurry && g_get_monotonic_time() - n->room_us >= ROOM_AGAIN_US;

    return n->room && !again ? n->room : n->most;
}

/* Under the lock: bulk has the next connection. */
static bool has_turn(const Nbd *n)
{
    return n->patient && !n->bulk && g_get_monotonic_time() - n->patient_us >= TURN_US;
}

/* Under the lock. */
static bool has_one(const Nbd *n, bool hurry)
{
    unsigned most = most_open(n, hurry);
    unsigned free = n->idle->len + (n->open < most ? most - n->open : 0);

    if (hurry) {
        return free > has_turn(n);
    }
    return free && (!n->hurried || has_turn(n)) && n->bulk < MAX(most / 2, 1);
}

static bool is_patient(const Nbd *n)
{
    return !n->gone_us || g_get_monotonic_time() - n->gone_us < PATIENCE_US;
}

/* Under the lock: one of those. */
static Handle *take_idle(Nbd *n, guint i)
{
    Handle *h = g_array_index(n->idle, Idle, i).h;

    g_array_remove_index(n->idle, i);
    return h;
}

/* The thread that closes those that nobody uses. */
static gpointer run_closer(gpointer opaque)
{
    Nbd *n = opaque;

    pthread_mutex_lock(&n->lock);
    while (!n->closing) {
        int64_t until =
            n->idle->len > KEPT ? g_array_index(n->idle, Idle, 0).since_us + IDLE_US : 0;
        n->rests = !until;
        if (n->rests) {
            pthread_cond_wait(&n->stir, &n->lock);
        } else if (g_get_monotonic_time() < until) {
            struct timespec at = {until / G_USEC_PER_SEC, until % G_USEC_PER_SEC * 1000};
            pthread_cond_timedwait(&n->stir, &n->lock, &at);
        } else {
            Handle *h = take_idle(n, 0);
            n->open--;
            pthread_mutex_unlock(&n->lock);
            close_connection(h);
            pthread_mutex_lock(&n->lock);
        }
    }
    pthread_mutex_unlock(&n->lock);
    return NULL;
}

/* Under the lock: H is idle from now on. */
static void add_idle(Nbd *n, Handle *h)
{
    Idle idle = {h, g_get_monotonic_time()};

    g_array_append_val(n->idle, idle);
    if (n->idle->len > KEPT && !n->closer) {
        n->closer = g_thread_try_new("nbd-idle", run_closer, n, NULL);
    }
    if (n->idle->len > KEPT && n->rests) {
        n->rests = false;
        pthread_cond_signal(&n->stir);
    }
}

/* Under the lock: something has changed, or it is UNTIL (monotonic; 0: never), or bulk's turn. */
static void wait_changed(Nbd *n, bool hurry, int64_t until)
{
    int64_t turn = hurry || n->bulk || has_turn(n) ? 0 : n->patient_us + TURN_US;
    int64_t first = until && turn ? MIN(until, turn) : until + turn;
    struct timespec at = {first / G_USEC_PER_SEC, first % G_USEC_PER_SEC * 1000};

    if (first) {
        pthread_cond_timedwait(&n->changed, &n->lock, &at);
    } else {
        pthread_cond_wait(&n->changed, &n->lock);
    }
}

/* Under the lock: R waits for a connection, or no more. */
static void count_waiting(Nbd *n, bool hurry, int waits)
{
    if (hurry) {
        n->hurried += waits;
        return;
    }
    if (!n->patient || waits < 0) {
        n->patient_us = g_get_monotonic_time();
    }
    n->patient += waits;
}

/* One that is idle, or NULL, which is to be made in *MS. FALSE and ERROR: there is none, and
 * another thread is trying already, or others had them all the time. */
static bool take_connection(Nbd *n, const Reader *r, Handle **h, unsigned *ms, GError **error)
{
    bool hurry = r->base.hurry;
    int64_t until = r->base.until;

    pthread_mutex_lock(&n->lock);
    count_waiting(n, hurry, 1);
    while (!has_one(n, hurry) && (is_patient(n) || !n->connecting) &&
           (!until || g_get_monotonic_time() < until)) {
        wait_changed(n, hurry, until);
    }
    bool some = has_one(n, hurry), gone = n->gone_us;
    count_waiting(n, hurry, -1);
    if (some) {
        *ms = n->open > n->connecting ? ANOTHER_MS : CONNECT_MS;
        *h = n->idle->len ? take_idle(n, n->idle->len - 1) : NULL;
        n->open += !*h;
        n->connecting += !*h;
        n->bulk += !hurry;
    }
    pthread_mutex_unlock(&n->lock);
    return some || fail_as(n, error, gone ? FF_CONTENT_GONE : FF_CONTENT_BUSY,
                           gone ? "its server has gone" : "others read it all the time");
}

/* Under the lock. While there are others it has no room for more: to one that is waited for soon an
 * answer comes. */
static void note_failed(Nbd *n, bool made, bool refused)
{
    unsigned others = n->open - n->connecting;

    if (refused && others) {
        n->room = others;
        n->room_us = g_get_monotonic_time();
    } else if (made && !n->gone_us) {
        n->gone_us = g_get_monotonic_time();
    }
    n->room = others ? n->room : 0;
}

/* One that was idle has failed: so have the others, or each costs the next request ANSWER_MS. */
static void close_idle(Nbd *n)
{
    g_autoptr(GPtrArray) old = g_ptr_array_new_with_free_func((GDestroyNotify)nbd_close);

    pthread_mutex_lock(&n->lock);
    while (n->idle->len) {
        g_ptr_array_add(old, take_idle(n, n->idle->len - 1));
        n->open--;
    }
    pthread_mutex_unlock(&n->lock);
}

/* H, which can be NULL: it could not be made (REFUSED), or has failed. MADE: it was to be made. */
static void put_connection(Nbd *n, bool hurry, bool made, bool refused, Handle *h)
{
    pthread_mutex_lock(&n->lock);
    n->connecting -= made;
    n->bulk -= !hurry;
    if (h) {
        add_idle(n, h);
        n->gone_us = 0;
        n->room = made ? 0 : n->room;
    } else {
        n->open--;
        note_failed(n, made, refused);
    }
    pthread_cond_broadcast(&n->changed);
    pthread_mutex_unlock(&n->lock);
}

/* A server that has gone sends no event when it is back. FALSE: it was waited for long enough, as
 * it is since SINCE that the one request has failed. */
static bool wait_again(Nbd *n, int64_t since)
{
    struct timespec until;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += AGAIN_MS * 1000000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_mutex_lock(&n->lock);
    bool more = is_patient(n) && g_get_monotonic_time() - since < PATIENCE_US;
    /* All of it: each try can cost a server's process. */
    while (more && pthread_cond_timedwait(&n->changed, &n->lock, &until) == 0) {
    }
    pthread_mutex_unlock(&n->lock);
    return more;
}

/* One request, on the connection H. */
typedef bool (*Job)(Reader *r, Handle *h, uint64_t at, void *buf, uint64_t len, GError **error);

typedef enum { JOB_DONE, JOB_FAILED, JOB_AGAIN } JobResult;

static JobResult try_job(Reader *r, Job job, uint64_t at, void *buf, uint64_t len, bool *made,
                         GError **error)
{
    Nbd *n = (Nbd *)r->base.content;
    unsigned ms = 0;
    Handle *h = NULL;

    if (!take_connection(n, r, &h, &ms, error)) {
        return JOB_FAILED;
    }
    *made = !h;
    if (*made) {
        h = connect_known(n, r, ms, error);
    }
    bool refused = !h;
    bool done = h && job(r, h, at, buf, len, error);
    /* A server that is about to end says so to each request, and may be started again. */
    bool alive = h && is_alive(h) && (done || nbd_get_errno() != ESHUTDOWN);
    if (h && !alive) {
        nbd_close(h);
        h = NULL;
        if (!*made) {
            close_idle(n);
        }
    }
    put_connection(n, r->base.hurry, *made, refused, h);
    return done ? JOB_DONE : alive ? JOB_FAILED : JOB_AGAIN;
}

static bool do_job(Reader *r, Job job, uint64_t at, void *buf, uint64_t len, GError **error)
{
    Nbd *n = (Nbd *)r->base.content;
    int64_t since = 0; /* it is tried, with a connection for it or as if it were */
    bool made = false;

    if (r->pinned) {
        /* An answer that comes late would be written to what its reader has freed. */
        return is_alive(r->pinned) ? job(r, r->pinned, at, buf, len, error)
                                   : fail_nbd(n, error, SILENT);
    }
    for (unsigned tries = 0;; tries++) {
        g_autoptr(GError) local = NULL;
        JobResult result = try_job(r, job, at, buf, len, &made, &local);
        if (result == JOB_DONE) {
            return true;
        }
        /* One that was idle may have ended long ago; but not more than there can be. Else it is
         * the request that ends them, however well others go. */
        since = since ? since : made || tries >= CONNECTIONS ? g_get_monotonic_time() : 0;
        bool late = r->base.until && g_get_monotonic_time() >= r->base.until;
        if (result == JOB_FAILED || late || (since && !wait_again(n, since))) {
            if (result == JOB_AGAIN && local->code == G_IO_ERROR_FAILED) {
                local->code = FF_CONTENT_GONE;
            }
            g_propagate_error(error, g_steal_pointer(&local));
            return false;
        }
    }
}

/* ---- reading --------------------------------------------------------------------------------- */

/* Job. A connection of which an answer may come still is closed. */
static bool read_bytes(Reader *r, Handle *h, uint64_t at, void *buf, uint64_t len, GError **error)
{
    for (uint64_t done = 0, some; done < len; done += some) {
        some = MIN(len - done, READ_MAX);
        int64_t cookie =
            nbd_aio_pread(h, (char *)buf + done, some, at + done, NBD_NULL_COMPLETION, 0);
        if (!wait_answer(r, h, cookie, error)) {
            return false;
        }
    }
    return true;
}

typedef struct {
    const uint64_t *at;
    uint8_t *pages;
    bool *good;
} Pages;

/* Job: N pages, of which some may be bad. */
static bool read_pages(Reader *r, Handle *h, uint64_t n, void *buf, uint64_t len, GError **error)
{
    const Nbd *nbd = (const Nbd *)r->base.content;
    const Pages *p = buf;
    g_autofree int64_t *cookies = g_new(int64_t, n);
    int64_t until = limit_of(r, ANSWER_MS);

    for (uint64_t i = 0; i < n; i++) {
        cookies[i] = nbd_aio_pread(h, p->pages + i * FF_CONTENT_PAGE, FF_CONTENT_PAGE, p->at[i],
                                   NBD_NULL_COMPLETION, 0);
    }
    for (uint64_t i = 0; i < n; i++) {
        int rc = cookies[i] < 0 ? -1 : 0;

        while (rc == 0 && (rc = nbd_aio_command_completed(h, (uint64_t)cookies[i])) == 0) {
            if (!wait_event(nbd, h, until, SILENT, error)) {
                return false;
            }
        }
        p->good[i] = rc > 0;
        if (rc < 0 && (nbd_aio_is_dead(h) || nbd_aio_is_closed(h))) {
            return fail_nbd(nbd, error, NULL);
        }
    }
    return true;
}

static bool fill_pages(FfContentReader *base, const uint64_t *at, unsigned n, uint8_t *pages,
                       bool *good, GError **error)
{
    Pages p = {at, pages, good};

    return do_job((Reader *)base, read_pages, n, &p, 0, error);
}

static bool fill_nbd(FfContentReader *base, uint64_t at, void *buf, uint64_t len, unsigned flags,
                     GError **error)
{
    const FfContent *c = base->content;

    if (flags & FF_CONTENT_NOWAIT) {
        return false;
    }
    if (at > c->size || len > c->size - at) {
        return fail_nbd((const Nbd *)c, error, "the export ends before");
    }
    return do_job((Reader *)base, read_bytes, at, buf, len, error);
}

/* Of a server that lies about lengths: what is not known counts as data. */
static int note_extents(void *opaque, const char *context, uint64_t at, uint32_t *entries, size_t n,
                        int *error)
{
    Reader *r = opaque;

    if (strcmp(context, LIBNBD_CONTEXT_BASE_ALLOCATION) != 0 || at != r->map_at || r->map->len) {
        return 0;
    }
    for (size_t i = 0; i + 1 < n && entries[i] && at < r->map_end && r->map->len < EXTENTS_MAX;
         i += 2) {
        at = MIN(at + entries[i], r->map_end);
        Extent e = {at, entries[i + 1] & LIBNBD_STATE_ZERO};
        g_array_append_val(r->map, e);
    }
    return 0;
}

/* Job. That the server does not know them is no failure. */
static bool read_extents(Reader *r, Handle *h, uint64_t at, void *buf, uint64_t len, GError **error)
{
    nbd_extent_callback noted = {.callback = note_extents, .user_data = r};

    g_array_set_size(r->map, 0);
    r->map_at = at;
    r->map_end = at + len;
    if (nbd_can_meta_context(h, LIBNBD_CONTEXT_BASE_ALLOCATION) == 1) {
        int64_t cookie = nbd_aio_block_status(h, len, at, noted, NBD_NULL_COMPLETION, 0);
        if (!wait_answer(r, h, cookie, error) && !is_alive(h)) {
            return false;
        }
    }
    if (r->map->len) {
        r->map_end = g_array_index(r->map, Extent, r->map->len - 1).end;
    } else {
        g_array_append_val(r->map, ((Extent){r->map_end, false}));
    }
    return true;
}

/* MAP has AT. */
static const Extent *extent_at(const GArray *map, uint64_t at)
{
    guint lo = 0, hi = map->len - 1;

    while (lo < hi) {
        guint mid = (lo + hi) / 2;
        if (g_array_index(map, Extent, mid).end <= at) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    return &g_array_index(map, Extent, lo);
}

/* A page that somebody waits for is read at once: to ask first would take as long again. */
static bool find_extent(FfContentReader *base, uint64_t at, uint64_t *len, unsigned flags,
                        bool *zero, GError **error)
{
    Reader *r = (Reader *)base;
    const FfContent *c = base->content;

    *zero = false;
    if (base->hurry || flags & FF_CONTENT_NOWAIT || at >= c->size) {
        return true;
    }
    if ((at < r->map_at || at >= r->map_end) &&
        !do_job(r, read_extents, at, NULL, MIN(WINDOW, c->size - at), error)) {
        r->map_end = r->map_at = 0;
        return false;
    }
    const Extent *e = extent_at(r->map, at);
    *zero = e->zero;
    *len = MIN(*len, e->end - at);
    return true;
}

static FfContentReader *open_reader(FfContent *c, GError **error)
{
    Reader *r = g_new0(Reader, 1);

    r->base.content = c;
    r->map = g_array_new(FALSE, FALSE, sizeof(Extent));
    return &r->base;
}

static void close_reader(FfContentReader *base)
{
    g_array_unref(((Reader *)base)->map);
    g_free(base);
}

/* ---- opening --------------------------------------------------------------------------------- */

static void close_nbd(FfContent *c)
{
    Nbd *n = (Nbd *)c;

    pthread_mutex_lock(&n->lock);
    n->closing = true;
    pthread_cond_signal(&n->stir);
    pthread_mutex_unlock(&n->lock);
    g_clear_pointer(&n->closer, g_thread_join);
    while (n->idle->len) {
        close_connection(take_idle(n, 0));
    }
    g_array_unref(n->idle);
    pthread_mutex_destroy(&n->lock);
    pthread_cond_destroy(&n->changed);
    pthread_cond_destroy(&n->stir);
    g_free(n->creds);
    g_free(n);
}

static void rest_nbd(FfContent *c)
{
    close_idle((Nbd *)c);
}

static const FfContentOps nbd_ops = {.close = close_nbd,
                                     .rest = rest_nbd,
                                     .reader = open_reader,
                                     .reader_close = close_reader,
                                     .extent = find_extent,
                                     .fill = fill_nbd,
                                     .fill_pages = fill_pages};

static Nbd *new_nbd(const char *uri, const FfContentAccess *access)
{
    Nbd *n = g_new0(Nbd, 1);
    pthread_condattr_t attr;

    n->base.ops = &nbd_ops;
    n->base.name = g_strdup(uri);
    n->base.where = FF_CONTENT_FAR;
    n->creds = g_strdup(access->tls_creds);
    n->most = 1;
    n->idle = g_array_new(FALSE, FALSE, sizeof(Idle));
    pthread_mutex_init(&n->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&n->changed, &attr);
    pthread_cond_init(&n->stir, &attr);
    pthread_condattr_destroy(&attr);
    return n;
}

/* FfContentPlugin.open */
static FfContent *open_nbd(const char *uri, const FfContentIdentity *known,
                           const FfContentAccess *access, GError **error)
{
    Nbd *n = new_nbd(uri, access);
    Handle *h = connect_export(n, g_get_monotonic_time() + CONNECT_MS * 1000, error);

    int64_t size = h ? nbd_get_size(h) : 0;
    n->base.size = known ? known->stamp.size : size > 0 ? (uint64_t)size : 0;
    n->base.id.stamp.size = n->base.size;
    if (h && !is_right(n, h, 0, error)) {
        close_connection(h);
        h = NULL;
    }
    if (!h) {
        if (error && *error && (*error)->code == G_IO_ERROR_FAILED) {
            (*error)->code = FF_CONTENT_GONE;
        }
        g_free(n->base.name);
        close_nbd(&n->base);
        return NULL;
    }
    n->most = nbd_can_multi_conn(h) == 1 ? CONNECTIONS : 1;
    n->open = 1;
    add_idle(n, h);
    return &n->base;
}

extern const FfContentPlugin ff_content_plugin;
const FfContentPlugin ff_content_plugin = {FF_CONTENT_ABI, open_nbd};
