/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See wiretap.h. One acceptor thread, and two pumps for each connection; the counts are under
 * one lock.
 */
#include "tests/lib/wiretap.h"

#include <gio/gio.h>
#include <glib-unix.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/address.h"
#include "net/frame.h"

#define BUFFER 65536

struct Wiretap {
    FfAddress *to;
    int listen_fd;
    GCancellable *cancel;
    GThread *acceptor;
    const void *text; /* NULL: nothing is looked for */
    size_t text_len;
    GPtrArray *pumps; /* GThread *; acceptor, then finish */
    GMutex lock;
    GHashTable *seen; /* lock; block << 48 | page */
    WiretapCounts counts;
};

/* One direction of one connection, and where in a frame it is. */
typedef struct {
    Wiretap *w;
    int from, to;
    bool from_source;
    size_t skip;          /* payload bytes that are still to pass */
    size_t have;          /* bytes of the header */
    GByteArray *prologue; /* what has come of it; NULL: not begun, or over */
    bool first, lost;     /* the first bytes; no frame is understood any more */
    uint8_t header[sizeof(FfFrame)];
    uint8_t last[8]; /* bytes that went by */
    uint64_t passed, repeats;
    GByteArray *tail; /* what the text may have begun in */
} Pump;

static void count_frame(Pump *p, const FfFrame *f)
{
    Wiretap *w = p->w;

    g_mutex_lock(&w->lock);
    w->counts.requests += f->type == FF_FRAME_REQUEST;
    w->counts.packed += f->type == FF_FRAME_COMPRESSED ? f->n_pages : 0;
    if (f->type == FF_FRAME_PAGES || f->type == FF_FRAME_ZERO || f->type == FF_FRAME_COMPRESSED) {
        for (uint32_t i = 0; i < f->n_pages; i++) {
            gint64 key = (gint64)f->block << 48 | (f->page + i);
            w->counts.pages++;
            w->counts.twice += !g_hash_table_add(w->seen, g_memdup2(&key, sizeof(key)));
        }
    }
    g_mutex_unlock(&w->lock);
}

static void header_complete(Pump *p)
{
    FfFrame f;
    const char *why;

    p->have = 0;
    memcpy(&f, p->header, sizeof(f));
    if (ff_frame_decode(&f, &why) < 0) {
        g_mutex_lock(&p->w->lock);
        p->w->counts.malformed++;
        g_mutex_unlock(&p->w->lock);
        p->lost = true;
        return;
    }
    p->skip = f.length;
    count_frame(p, &f);
}

/* Returns how many of the N bytes belong to the prologue. */
static size_t look_at_prologue(Pump *p, const uint8_t *data, size_t n)
{
    if (!p->prologue)
        p->prologue = g_byte_array_new();
    for (size_t i = 0; i < n; i++) {
        size_t need;
        g_byte_array_append(p->prologue, data + i, 1);
        if (ff_prologue_decode(p->prologue->data, p->prologue->len, &need) != FF_PEER_MORE) {
            g_clear_pointer(&p->prologue, g_byte_array_unref);
            p->first = false;
            return i + 1;
        }
    }
    return n;
}

static void look(Pump *p, const uint8_t *data, size_t n)
{
    while (n && !p->lost) {
        if (p->first) {
            /* A main channel opens with QEMU's magic, an additional one with a frame. */
            if (p->from_source && (p->prologue || data[0] == 'Q')) {
                size_t took = look_at_prologue(p, data, n);
                data += took;
                n -= took;
                continue;
            }
            p->first = false;
        }
        size_t step = p->skip ? MIN(p->skip, n) : MIN(sizeof(FfFrame) - p->have, n);
        if (p->skip) {
            p->skip -= step;
        } else {
            memcpy(p->header + p->have, data, step);
            p->have += step;
            if (p->have == sizeof(FfFrame)) {
                header_complete(p);
            }
        }
        data += step;
        n -= step;
    }
}

/* The plain text of a page, wherever frames and records begin. */
static void look_for_pages(Pump *p, const uint8_t *data, size_t n)
{
    uint64_t found = 0;

    for (size_t i = 0; i < n; i++, p->passed++) {
        bool same = p->passed >= 8 && p->last[p->passed % 8] == data[i] && data[i] != 0;
        p->repeats = same ? p->repeats + 1 : 0;
        found += p->repeats == 64;
        p->last[p->passed % 8] = data[i];
    }
    g_mutex_lock(&p->w->lock);
    p->w->counts.repeated += found;
    g_mutex_unlock(&p->w->lock);
}

static void look_for_text(Pump *p, const uint8_t *data, size_t n)
{
    Wiretap *w = p->w;
    const uint8_t *at, *end;
    uint64_t found = 0;

    if (!w->text) {
        return;
    }
    g_byte_array_append(p->tail, data, n);
    end = p->tail->data + p->tail->len;
    for (at = p->tail->data; (at = memmem(at, end - at, w->text, w->text_len)); at++) {
        found++;
    }
    if (p->tail->len >= w->text_len) {
        g_byte_array_remove_range(p->tail, 0, p->tail->len - (w->text_len - 1));
    }
    g_mutex_lock(&w->lock);
    w->counts.found += found;
    g_mutex_unlock(&w->lock);
}

static gpointer pump(gpointer data)
{
    Pump *p = data;
    g_autofree uint8_t *buf = g_malloc(BUFFER);
    ssize_t n;

    while ((n = recv(p->from, buf, BUFFER, 0)) > 0) {
        look(p, buf, n);
        look_for_pages(p, buf, n);
        look_for_text(p, buf, n);
        for (ssize_t at = 0, m; at < n; at += m) {
            m = send(p->to, buf + at, n - at, MSG_NOSIGNAL);
            if (m <= 0) {
                shutdown(p->from, SHUT_RD);
                break;
            }
        }
    }
    shutdown(p->to, SHUT_WR);
    close(p->from);
    close(p->to);
    g_byte_array_unref(p->tail);
    g_free(p);
    return NULL;
}

static void start_pump(Wiretap *w, int from, int to, bool from_source)
{
    Pump *p = g_new0(Pump, 1);

    *p = (Pump){.w = w,
                .from = dup(from),
                .to = dup(to),
                .from_source = from_source,
                .first = true,
                .tail = g_byte_array_new()};
    g_ptr_array_add(w->pumps, g_thread_new("pump", pump, p));
}

static void make_blocking(int fd)
{
    g_assert_true(g_unix_set_fd_nonblocking(fd, FALSE, NULL));
}

static gpointer accept_all(gpointer data)
{
    Wiretap *w = data;
    int source;

    while ((source = ff_address_accept(w->listen_fd, w->cancel, NULL)) >= 0) {
        int destination = ff_address_connect(w->to, w->cancel, NULL);
        if (destination >= 0) {
            make_blocking(source);
            make_blocking(destination);
            setsockopt(destination, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
            w->counts.connections++;
            start_pump(w, source, destination, true);
            start_pump(w, destination, source, false);
            close(destination);
        }
        close(source);
    }
    return NULL;
}

Wiretap *wiretap_new(const char *listen_uri, const char *to_uri)
{
    g_autoptr(GError) error = NULL;
    Wiretap *w = g_new0(Wiretap, 1);
    g_autoptr(FfAddress) at = ff_address_parse(listen_uri, &error);

    g_assert_no_error(error);
    w->to = ff_address_parse(to_uri, &error);
    g_assert_no_error(error);
    w->listen_fd = ff_address_listen(at, &error);
    g_assert_no_error(error);
    w->cancel = g_cancellable_new();
    w->pumps = g_ptr_array_new();
    w->seen = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, NULL);
    g_mutex_init(&w->lock);
    w->acceptor = g_thread_new("tap", accept_all, w);
    return w;
}

void wiretap_look_for(Wiretap *w, const void *text, size_t n)
{
    w->text = text;
    w->text_len = n;
}

WiretapCounts wiretap_finish(Wiretap *w)
{
    g_cancellable_cancel(w->cancel);
    g_thread_join(w->acceptor);
    for (guint i = 0; i < w->pumps->len; i++) {
        g_thread_join(w->pumps->pdata[i]);
    }
    WiretapCounts counts = w->counts;
    close(w->listen_fd);
    g_ptr_array_unref(w->pumps);
    g_hash_table_unref(w->seen);
    g_object_unref(w->cancel);
    ff_address_free(w->to);
    g_mutex_clear(&w->lock);
    g_free(w);
    return counts;
}
