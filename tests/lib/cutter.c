/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See cutter.h. Threads: one that accepts, one for each direction of each connection. */
#include "tests/lib/cutter.h"

#include <errno.h>
#include <glib-unix.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

typedef struct {
    Cutter *c;
    int from, to;
} Pump;

static void cut_locked(Cutter *c)
{
    for (guint i = 0; i < c->fds->len; i++) {
        shutdown(g_array_index(c->fds, int, i), SHUT_RDWR);
    }
}

/* How many of N bytes may pass now. */
static ssize_t allowed(Cutter *c, ssize_t n)
{
    g_mutex_lock(&c->lock);
    if (c->budget >= 0) {
        n = MIN(n, c->left);
        c->left -= n;
    }
    g_mutex_unlock(&c->lock);
    return n;
}

void cutter_cut(Cutter *c)
{
    g_mutex_lock(&c->lock);
    cut_locked(c);
    g_mutex_unlock(&c->lock);
}

void cutter_freeze(Cutter *c)
{
    g_mutex_lock(&c->lock);
    c->frozen = !c->over;
    g_mutex_unlock(&c->lock);
}

/* Before anything passes: stays here as long as nothing may. */
static void wait_frozen(Cutter *c)
{
    g_mutex_lock(&c->lock);
    while (c->frozen) {
        g_cond_wait(&c->thawed, &c->lock);
    }
    g_mutex_unlock(&c->lock);
}

static void note_end(Cutter *c)
{
    g_mutex_lock(&c->lock);
    c->ends++;
    g_cond_broadcast(&c->ended);
    g_mutex_unlock(&c->lock);
}

/* A network that is slow just now, on this connection only. */
static void let_others_end(Cutter *c)
{
    int64_t end = g_get_monotonic_time() + CUTTER_LATE_MS * 1000;

    g_atomic_int_set(&c->late, 0);
    g_mutex_lock(&c->lock);
    unsigned before = c->ends;
    while (c->ends < before + 2 && g_cond_wait_until(&c->ended, &c->lock, end)) {
    }
    g_mutex_unlock(&c->lock);
}

static void stop_passing(Cutter *c)
{
    if (g_atomic_int_get(&c->freezes)) {
        cutter_freeze(c);
        wait_frozen(c);
    }
    if (g_atomic_int_get(&c->once)) {
        g_atomic_int_set(&c->type, 0);
        g_atomic_int_set(&c->also, 0);
    }
    if (g_atomic_int_get(&c->leaves)) {
        g_cancellable_cancel(c->cancel);
        shutdown(c->listen_fd, SHUT_RDWR);
    }
    cutter_cut(c);
}

static bool move_bytes(Pump *p, void *buf, size_t n, bool forward)
{
    if (!forward) {
        return n == 0 || recv(p->from, buf, n, MSG_WAITALL) == (ssize_t)n;
    }
    wait_frozen(p->c);
    for (size_t at = 0; at < n;) {
        ssize_t m = send(p->to, (char *)buf + at, n - at, MSG_NOSIGNAL);
        if (m <= 0) {
            return false;
        }
        at += m;
    }
    return true;
}

/* What a source says before its first frame. */
static bool pass_prologue(Pump *p, uint8_t *buf)
{
    size_t have = 0, need = FF_PROLOGUE_HEADER;

    do {
        if (!move_bytes(p, buf + have, need - have, false)) {
            return false;
        }
        have = need;
    } while (ff_prologue_decode(buf, have, &need) == FF_PEER_MORE);
    return move_bytes(p, buf, have, true);
}

/* Frame by frame, up to the one that is waited for. */
static void pump_frames(Pump *p)
{
    g_autofree uint8_t *payload = g_malloc(FF_FRAME_MAX_DATA);
    const char *why;
    FfFrame f, decoded;
    uint8_t first;
    bool here = false;

    if (recv(p->from, &first, 1, MSG_PEEK) == 1 && first == 'Q' && !pass_prologue(p, payload)) {
        return;
    }
    while (!here && move_bytes(p, &f, sizeof(f), false)) {
        decoded = f;
        g_assert_cmpint(ff_frame_decode(&decoded, &why), ==, 0);
        here = decoded.type == g_atomic_int_get(&p->c->type) ||
               decoded.type == g_atomic_int_get(&p->c->also);
        if (decoded.type == g_atomic_int_get(&p->c->late)) {
            let_others_end(p->c);
        }
        if (!move_bytes(p, payload, decoded.length, false) ||
            (here && !g_atomic_int_get(&p->c->after))) {
            break;
        }
        if (!move_bytes(p, &f, sizeof(f), true) || !move_bytes(p, payload, decoded.length, true)) {
            break;
        }
    }
    if (here) {
        stop_passing(p->c);
    } else {
        /* Its own end: what others have begun meanwhile continues. */
        shutdown(p->from, SHUT_RDWR);
        shutdown(p->to, SHUT_RDWR);
    }
}

static gpointer pump(gpointer data)
{
    g_autofree Pump *p = data;
    g_autofree uint8_t *buf = g_malloc(65536);
    ssize_t n;

    if (g_atomic_int_get(&p->c->type) || g_atomic_int_get(&p->c->late)) {
        pump_frames(p);
        note_end(p->c);
        return NULL;
    }
    while ((n = recv(p->from, buf, 65536, 0)) > 0) {
        ssize_t pass = allowed(p->c, n);
        wait_frozen(p->c);
        for (ssize_t at = 0, m; at < pass; at += m) {
            m = send(p->to, buf + at, pass - at, MSG_NOSIGNAL);
            if (m <= 0) {
                shutdown(p->from, SHUT_RD);
                break;
            }
        }
        if (pass < n) {
            cutter_cut(p->c);
        }
    }
    shutdown(p->to, SHUT_WR);
    return NULL;
}

static gpointer accept_all(gpointer data)
{
    Cutter *c = data;
    int a;

    while ((a = ff_address_accept(c->listen_fd, c->cancel, NULL)) >= 0) {
        int b = ff_address_connect(c->to, c->cancel, NULL);
        if (b < 0) {
            close(a);
            continue;
        }
        g_unix_set_fd_nonblocking(a, FALSE, NULL);
        g_unix_set_fd_nonblocking(b, FALSE, NULL);
        g_mutex_lock(&c->lock);
        if (g_atomic_int_get(&c->renews) && !c->left) {
            c->left = c->budget;
        }
        g_array_append_val(c->fds, a);
        g_array_append_val(c->fds, b);
        g_ptr_array_add(c->pumps,
                        g_thread_new("pump", pump, g_memdup2(&(Pump){c, a, b}, sizeof(Pump))));
        g_ptr_array_add(c->pumps,
                        g_thread_new("pump", pump, g_memdup2(&(Pump){c, b, a}, sizeof(Pump))));
        g_mutex_unlock(&c->lock);
    }
    return NULL;
}

Cutter *cutter_new(const char *to, int64_t budget)
{
    static unsigned number;
    g_autoptr(GError) error = NULL;
    Cutter *c = g_new0(Cutter, 1);

    c->uri = g_strdup_printf("unix:%s/ff-cut-%d-%u.sock", g_get_tmp_dir(), getpid(), number++);
    g_autoptr(FfAddress) at = ff_address_parse(c->uri, &error);
    c->to = ff_address_parse(to, &error);
    g_assert_no_error(error);
    c->listen_fd = ff_address_listen(at, &error);
    g_assert_no_error(error);
    c->budget = c->left = budget;
    c->cancel = g_cancellable_new();
    c->pumps = g_ptr_array_new();
    c->fds = g_array_new(FALSE, FALSE, sizeof(int));
    g_mutex_init(&c->lock);
    g_cond_init(&c->thawed);
    g_cond_init(&c->ended);
    c->acceptor = g_thread_new("cutter", accept_all, c);
    return c;
}

void cutter_free(Cutter *c)
{
    g_cancellable_cancel(c->cancel);
    g_thread_join(c->acceptor);
    g_mutex_lock(&c->lock);
    cut_locked(c);
    c->frozen = false;
    c->over = true;
    g_cond_broadcast(&c->thawed);
    g_mutex_unlock(&c->lock);
    for (guint i = 0; i < c->pumps->len; i++) {
        g_thread_join(c->pumps->pdata[i]);
    }
    for (guint i = 0; i < c->fds->len; i++) {
        close(g_array_index(c->fds, int, i));
    }
    close(c->listen_fd);
    unlink(c->uri + strlen("unix:"));
    g_ptr_array_unref(c->pumps);
    g_array_unref(c->fds);
    g_object_unref(c->cancel);
    ff_address_free(c->to);
    g_mutex_clear(&c->lock);
    g_cond_clear(&c->thawed);
    g_cond_clear(&c->ended);
    g_free(c->uri);
    g_free(c);
}
