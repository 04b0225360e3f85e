/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See exports.h. Big-endian, as the protocol is. */
#include "tests/content/exports.h"

#include <glib/gstdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define OPT_GO 7
#define OPT_STRUCTURED 8
#define OPT_META 10
#define REP_ACK 1u
#define REP_INFO 3u
#define REP_META 4u
#define REP_UNKNOWN 0x80000001u
#define CHUNK_NONE 0
#define CHUNK_DATA 1
#define CHUNK_EXTENTS 5
#define CHUNK_ERROR 0x8001
#define CMD_READ 0
#define CMD_EXTENTS 7
#define EIO_OF_NBD 5
#define EINVAL_OF_NBD 22
#define ESHUTDOWN_OF_NBD 108

typedef struct {
    Exports *e;
    int fd;
    unsigned number;
} Peer;

uint64_t exports_word(uint64_t i)
{
    return (i + 1) * 0x9e3779b97f4a7c15u;
}

static bool get(int fd, void *to, size_t n)
{
    return !n || recv(fd, to, n, MSG_WAITALL) == (ssize_t)n; /* it would wait for none */
}

static bool put(int fd, GByteArray *out)
{
    bool done = send(fd, out->data, out->len, MSG_NOSIGNAL) == (ssize_t)out->len;

    g_byte_array_set_size(out, 0);
    return done;
}

static void add(GByteArray *out, const void *data, size_t n)
{
    g_byte_array_append(out, data, (guint)n);
}

static void add16(GByteArray *out, uint16_t v)
{
    v = GUINT16_TO_BE(v);
    add(out, &v, sizeof(v));
}

static void add32(GByteArray *out, uint32_t v)
{
    v = GUINT32_TO_BE(v);
    add(out, &v, sizeof(v));
}

static void add64(GByteArray *out, uint64_t v)
{
    v = GUINT64_TO_BE(v);
    add(out, &v, sizeof(v));
}

/* ---- negotiation ----------------------------------------------------------------------------- */

static void add_reply(GByteArray *out, uint32_t option, uint32_t type, uint32_t len)
{
    add64(out, 0x3e889045565a9u);
    add32(out, option);
    add32(out, type);
    add32(out, len);
}

static void answer_option(const Exports *e, uint32_t option, GByteArray *out)
{
    static const char context[] = "base:allocation";

    switch (option) {
    case OPT_META:
        add_reply(out, option, REP_META, 4 + sizeof(context) - 1);
        add32(out, 1);
        add(out, context, sizeof(context) - 1);
        break;
    case OPT_GO:
        add_reply(out, option, REP_INFO, 12);
        add16(out, 0);
        add64(out, e->size);
        add16(out, 1 | 2 | (e->one ? 0 : 256)); /* has flags, is read only, multi-conn */
        break;
    case OPT_STRUCTURED:
        break;
    default:
        add_reply(out, option, REP_UNKNOWN, 0);
        return;
    }
    add_reply(out, option, REP_ACK, 0);
}

/* Until a client has begun. */
static bool negotiate(const Peer *p, GByteArray *out)
{
    struct {
        uint64_t magic;
        uint32_t option, len;
    } head;
    char data[4096];
    uint32_t flags, option = 0;

    add(out, p->e->wrong == EXPORTS_GARBAGE ? "HTTP/1.1" : "NBDMAGIC", 8);
    add(out, "IHAVEOPT", 8);
    add16(out, 3);
    if (!put(p->fd, out) || !get(p->fd, &flags, sizeof(flags))) {
        return false;
    }
    while (option != OPT_GO) {
        if (!get(p->fd, &head, sizeof(head))) {
            return false;
        }
        uint32_t len = GUINT32_FROM_BE(head.len);
        option = GUINT32_FROM_BE(head.option);
        if (len > sizeof(data) || !get(p->fd, data, len)) {
            return false;
        }
        answer_option(p->e, option, out);
        if (!put(p->fd, out)) {
            return false;
        }
    }
    return true;
}

/* ---- requests -------------------------------------------------------------------------------- */

static void add_chunk(GByteArray *out, uint16_t type, uint64_t cookie, uint32_t len)
{
    add32(out, 0x668e33ef);
    add16(out, 1); /* the last one */
    add16(out, type);
    add64(out, cookie);
    add32(out, len);
}

static void add_data(const Exports *e, GByteArray *out, uint64_t cookie, uint64_t at, uint32_t len)
{
    add_chunk(out, CHUNK_DATA, cookie, len + 8);
    add64(out, at);
    for (uint32_t i = 0; i < len; i += 8) {
        uint64_t word = exports_word((at + i) / 4096) + e->more;
        add(out, &word, sizeof(word));
    }
}

static void add_error(GByteArray *out, uint64_t cookie, uint32_t err)
{
    add_chunk(out, CHUNK_ERROR, cookie, 6);
    add32(out, err);
    add16(out, 0);
}

/* FALSE: the connection ends. */
static bool answer_read(const Peer *p, uint64_t cookie, uint64_t at, uint32_t len, GByteArray *out)
{
    switch (at >= p->e->from ? p->e->wrong : EXPORTS_RIGHT) {
    case EXPORTS_CLOSES:
        add_data(p->e, out, cookie, at, len);
        g_byte_array_set_size(out, out->len - len / 2);
        put(p->fd, out);
        return false;
    case EXPORTS_SHORT:
        add_data(p->e, out, cookie, at, len / 2);
        break;
    case EXPORTS_NOTHING:
        add_chunk(out, CHUNK_NONE, cookie, 0);
        break;
    case EXPORTS_OTHER_COOKIE:
        add_data(p->e, out, cookie + 1, at, len);
        break;
    case EXPORTS_TOO_MUCH:
        add_data(p->e, out, cookie, at, len + 4096);
        break;
    case EXPORTS_EIO:
        add_error(out, cookie, EIO_OF_NBD);
        break;
    case EXPORTS_LEAVES:
        if (p->number < MAX(p->e->old, 1)) {
            g_atomic_int_inc(&p->e->left);
            add_error(out, cookie, ESHUTDOWN_OF_NBD);
        } else {
            add_data(p->e, out, cookie, at, len);
        }
        break;
    default:
        add_data(p->e, out, cookie, at, len);
    }
    return put(p->fd, out);
}

static bool answer_extents(const Peer *p, uint64_t cookie, GByteArray *out)
{
    const Exports *e = p->e;

    if (!e->extents) {
        add_error(out, cookie, EINVAL_OF_NBD);
    } else {
        add_chunk(out, CHUNK_EXTENTS, cookie, 4 + 4 * e->n_extents);
        add32(out, 1);
        for (unsigned i = 0; i < e->n_extents; i++) {
            add32(out, e->extents[i]);
        }
    }
    return put(p->fd, out);
}

static bool answer_request(const Peer *p, GByteArray *out)
{
    struct __attribute__((packed)) {
        uint32_t magic;
        uint16_t flags, type;
        uint64_t cookie, at;
        uint32_t len;
    } r;

    if (!get(p->fd, &r, sizeof(r))) {
        return false;
    }
    uint64_t cookie = GUINT64_FROM_BE(r.cookie);
    switch (GUINT16_FROM_BE(r.type)) {
    case CMD_READ:
        return answer_read(p, cookie, GUINT64_FROM_BE(r.at), GUINT32_FROM_BE(r.len), out);
    case CMD_EXTENTS:
        return answer_extents(p, cookie, out);
    default:
        return false;
    }
}

static gpointer serve(gpointer opaque)
{
    g_autofree Peer *p = opaque;
    g_autoptr(GByteArray) out = g_byte_array_new();

    if (negotiate(p, out)) {
        while (answer_request(p, out)) {
        }
    }
    close(p->fd);
    return NULL;
}

static gpointer accept_all(gpointer opaque)
{
    Exports *e = opaque;
    int fd;

    while ((!e->room || e->peers < e->room) && (fd = accept(e->listener, NULL, NULL)) >= 0) {
        Peer *p = g_new(Peer, 1);
        *p = (Peer){e, fd, e->peers++};
        g_thread_unref(g_thread_new("exports", serve, p));
    }
    return NULL;
}

void exports_start(Exports *e)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};

    e->dir = g_dir_make_tmp("farfault-exports-XXXXXX", NULL);
    g_snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/nbd", e->dir);
    e->uri = g_strconcat("nbd+unix:///?socket=", addr.sun_path, NULL);
    e->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    g_assert_cmpint(bind(e->listener, (struct sockaddr *)&addr, sizeof(addr)), ==, 0);
    g_assert_cmpint(listen(e->listener, 16), ==, 0);
    e->thread = g_thread_new("exports", accept_all, e);
}

void exports_stop(Exports *e)
{
    g_autofree char *path = g_build_filename(e->dir, "nbd", NULL);

    shutdown(e->listener, SHUT_RDWR);
    g_thread_join(e->thread);
    close(e->listener);
    g_unlink(path);
    g_rmdir(e->dir);
    g_clear_pointer(&e->dir, g_free);
    g_clear_pointer(&e->uri, g_free);
}
