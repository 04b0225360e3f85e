/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See delay.h. Threads: one that accepts, one for each direction of each connection, and one that
 * passes on what is late.
 */
#include "tests/lib/delay.h"

#include <glib-unix.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/sync.h"
#include "net/address.h"
#include "net/frame.h"

typedef struct {
    int64_t came; /* monotonic microseconds */
    size_t n;
    uint8_t data[];
} Late;

struct Delay {
    FfAddress *to;
    char *uri;
    int listen_fd;
    unsigned number;
    uint32_t hidden; /* features */
    GCancellable *cancel;
    GThread *acceptor;
    FfMutex lock;
    FfCond changed;
    int64_t us;            /* lock */
    uint64_t came, passed; /* lock; bytes of the slow connection */
    FfFrame tail[8];       /* lock; the last that came, if they were frames */
    bool over;             /* lock; being freed, or nothing more comes */
    bool near;             /* lock; delay_cut_near() */
    GQueue late;           /* lock; Late * */
    int slow[2];           /* lock; its ends; -1: it has not come yet */
    GPtrArray *pumps;      /* lock; GThread * */
    GArray *fds;           /* lock; of int: open ends */
};

typedef struct {
    Delay *d;
    int from, to;
    bool greets; /* FROM's first word is a greeting */
} Pump;

static bool send_all(int fd, const uint8_t *data, size_t n)
{
    for (size_t at = 0; at < n;) {
        ssize_t m = send(fd, data + at, n - at, MSG_NOSIGNAL);
        if (m <= 0) {
            return false;
        }
        at += m;
    }
    return true;
}

/* What a destination says first. */
static bool pass_greeting(Pump *p)
{
    struct {
        FfFrame f;
        FfGreeting g;
    } said;

    if (recv(p->from, &said, sizeof(said), MSG_WAITALL) != sizeof(said)) {
        return false;
    }
    said.g.features &= ~GUINT32_TO_LE(p->d->hidden);
    return send_all(p->to, (uint8_t *)&said, sizeof(said));
}

static gpointer pump(gpointer data)
{
    g_autofree Pump *p = data;
    g_autofree uint8_t *buf = g_malloc(65536);
    ssize_t n;

    bool ok = !p->greets || pass_greeting(p);
    while (ok && (n = recv(p->from, buf, 65536, 0)) > 0) {
        ok = send_all(p->to, buf, n);
    }
    shutdown(p->to, SHUT_WR);
    shutdown(p->from, SHUT_RD);
    return NULL;
}

/* ---- the slow one ---------------------------------------------------------------------------- */

static void keep_tail(Delay *d, const uint8_t *data, size_t n)
{
    uint8_t *tail = (uint8_t *)d->tail;
    size_t take = MIN(n, sizeof(d->tail));

    memmove(tail, tail + take, sizeof(d->tail) - take);
    memcpy(tail + sizeof(d->tail) - take, data + n - take, take);
}

static gpointer take(gpointer data)
{
    g_autofree Pump *p = data;
    g_autofree uint8_t *buf = g_malloc(65536);
    Delay *d = p->d;
    ssize_t n;

    while ((n = recv(p->from, buf, 65536, 0)) > 0) {
        Late *late = g_malloc(sizeof(*late) + n);
        late->n = n;
        memcpy(late->data, buf, n);
        late->came = g_get_monotonic_time();
        ff_mutex_lock(&d->lock);
        d->came += n;
        keep_tail(d, buf, n);
        g_queue_push_tail(&d->late, late);
        ff_cond_broadcast(&d->changed);
        ff_mutex_unlock(&d->lock);
    }
    ff_mutex_lock(&d->lock);
    d->over |= !d->near;
    ff_cond_broadcast(&d->changed);
    ff_mutex_unlock(&d->lock);
    return NULL;
}

/* The next one, when it is due; NULL: there will be none. */
static Late *next(Delay *d)
{
    Late *late;

    ff_mutex_lock(&d->lock);
    while (!d->over && (!(late = g_queue_peek_head(&d->late)) || d->us < 0 ||
                        late->came + d->us > g_get_monotonic_time())) {
        if (late && d->us >= 0) {
            ff_cond_wait_until(&d->changed, &d->lock, late->came + d->us);
        } else {
            ff_cond_wait(&d->changed, &d->lock);
        }
    }
    late = d->over ? NULL : g_queue_pop_head(&d->late);
    ff_mutex_unlock(&d->lock);
    return late;
}

static gpointer pass_late(gpointer data)
{
    g_autofree Pump *p = data;
    Delay *d = p->d;
    Late *late;

    while ((late = next(d))) {
        bool ok = send_all(p->to, late->data, late->n);
        ff_mutex_lock(&d->lock);
        d->passed += late->n;
        ff_mutex_unlock(&d->lock);
        g_free(late);
        if (!ok) {
            break;
        }
    }
    shutdown(p->to, SHUT_WR);
    return NULL;
}

/* ---- all of them ----------------------------------------------------------------------------- */

static void start_locked(Delay *d, GThreadFunc run, int from, int to, bool greets)
{
    Pump p = {d, from, to, greets};

    g_ptr_array_add(d->pumps, g_thread_new("pump", run, g_memdup2(&p, sizeof(p))));
}

static gpointer accept_all(gpointer data)
{
    Delay *d = data;
    int a;

    for (unsigned i = 0; (a = ff_address_accept(d->listen_fd, d->cancel, NULL)) >= 0; i++) {
        int b = ff_address_connect(d->to, d->cancel, NULL);
        if (b < 0) {
            close(a);
            continue;
        }
        g_unix_set_fd_nonblocking(a, FALSE, NULL);
        g_unix_set_fd_nonblocking(b, FALSE, NULL);
        ff_mutex_lock(&d->lock);
        g_array_append_val(d->fds, a);
        g_array_append_val(d->fds, b);
        if (i == d->number) {
            d->slow[0] = a;
            d->slow[1] = b;
            start_locked(d, take, a, b, false);
            start_locked(d, pass_late, a, b, false);
        } else {
            start_locked(d, pump, a, b, false);
        }
        start_locked(d, pump, b, a, i == 0 && d->hidden);
        ff_mutex_unlock(&d->lock);
    }
    return NULL;
}

Delay *delay_new(const char *to, unsigned number)
{
    static unsigned count;
    g_autoptr(GError) error = NULL;
    Delay *d = g_new0(Delay, 1);

    d->uri = g_strdup_printf("unix:%s/ff-delay-%d-%u.sock", g_get_tmp_dir(), getpid(), count++);
    g_autoptr(FfAddress) at = ff_address_parse(d->uri, &error);
    d->to = ff_address_parse(to, &error);
    g_assert_no_error(error);
    d->listen_fd = ff_address_listen(at, &error);
    g_assert_no_error(error);
    d->number = number;
    d->slow[0] = d->slow[1] = -1;
    d->cancel = g_cancellable_new();
    d->pumps = g_ptr_array_new();
    d->fds = g_array_new(FALSE, FALSE, sizeof(int));
    ff_mutex_init(&d->lock);
    ff_cond_init(&d->changed);
    d->acceptor = g_thread_new("delay", accept_all, d);
    return d;
}

const char *delay_uri(const Delay *d)
{
    return d->uri;
}

void delay_hide(Delay *d, uint32_t features)
{
    d->hidden = features;
}

void delay_set(Delay *d, int64_t us)
{
    ff_mutex_lock(&d->lock);
    d->us = us;
    ff_cond_broadcast(&d->changed);
    ff_mutex_unlock(&d->lock);
}

uint64_t delay_bytes(Delay *d)
{
    ff_mutex_lock(&d->lock);
    uint64_t n = d->came;
    ff_mutex_unlock(&d->lock);
    return n;
}

uint64_t delay_pending(Delay *d)
{
    ff_mutex_lock(&d->lock);
    uint64_t n = d->came - d->passed;
    ff_mutex_unlock(&d->lock);
    return n;
}

bool delay_ends_with(Delay *d, FfFrameType type)
{
    FfFrame f = {.type = FF_FRAME_ALIVE};
    const char *why;

    ff_mutex_lock(&d->lock);
    for (unsigned i = G_N_ELEMENTS(d->tail); i-- > 0 && f.type == FF_FRAME_ALIVE;) {
        f = d->tail[i];
        f.type = ff_frame_decode(&f, &why) == 0 ? f.type : 0;
    }
    ff_mutex_unlock(&d->lock);
    return f.type == type;
}

void delay_cut(Delay *d)
{
    ff_mutex_lock(&d->lock);
    for (unsigned i = 0; i < 2; i++) {
        shutdown(d->slow[i], SHUT_RDWR);
    }
    ff_mutex_unlock(&d->lock);
}

void delay_cut_near(Delay *d)
{
    ff_mutex_lock(&d->lock);
    d->near = true;
    shutdown(d->slow[0], SHUT_RDWR);
    ff_mutex_unlock(&d->lock);
}

void delay_free(Delay *d)
{
    g_cancellable_cancel(d->cancel);
    g_thread_join(d->acceptor);
    ff_mutex_lock(&d->lock);
    for (guint i = 0; i < d->fds->len; i++) {
        shutdown(g_array_index(d->fds, int, i), SHUT_RDWR);
    }
    d->over = true;
    ff_cond_broadcast(&d->changed);
    ff_mutex_unlock(&d->lock);
    for (guint i = 0; i < d->pumps->len; i++) {
        g_thread_join(d->pumps->pdata[i]);
    }
    for (guint i = 0; i < d->fds->len; i++) {
        close(g_array_index(d->fds, int, i));
    }
    g_queue_clear_full(&d->late, g_free);
    close(d->listen_fd);
    unlink(d->uri + strlen("unix:"));
    g_ptr_array_unref(d->pumps);
    g_array_unref(d->fds);
    g_object_unref(d->cancel);
    ff_address_free(d->to);
    ff_mutex_clear(&d->lock);
    ff_cond_clear(&d->changed);
    g_free(d->uri);
    g_free(d);
}
