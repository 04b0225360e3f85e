/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See remote.h. A peer is believed as to what the content is, and in nothing else: lengths and
 * places of each answer are compared with what was asked for, and content with its sum.
 *
 * A peer that does not answer within ANSWER_MS is left, and asked again on another connection.
 *
 * System calls: those of net/, and of getaddrinfo().
 */
#include "server/remote.h"

#include <errno.h>
#include <gio/gio.h>
#include <netdb.h>
#include <string.h>

#include "net/address.h"
#include "net/channel-read.h"
#include "net/channel-tls.h"
#include "net/channel-write.h"
#include "net/creds.h"
#include "server/remote-wire.h"
#include "snapshot/xxh64.h"

#define BEGIN_MS 10000
#define ANSWER_MS 15000

struct FfRemote {
    char *uri, *hostname;
    FfAddress *address;
    FfTls *tls; /* NULL: in the clear */
};

struct FfRemoteLink {
    FfRemote *r;
    FfChannel *ch;
    uint64_t size, identity;
};

/* ---- who it is ------------------------------------------------------------------------------- */

bool ff_remote_is_uri(const char *uri)
{
    return g_str_has_prefix(uri, "tcp:") || g_str_has_prefix(uri, "tls:");
}

char *ff_remote_address(const char *uri, bool *tls)
{
    *tls = g_str_has_prefix(uri, "tls:");
    return g_strconcat("tcp:", uri + strlen("tcp:"), NULL);
}

FfTls *ff_remote_creds(const char *folder, bool server, GError **error)
{
    g_autofree char *keys = g_build_filename(folder, "keys.psk", NULL);
    FfCredsSpec spec = {.psk = g_file_test(keys, G_FILE_TEST_EXISTS),
                        .server = server,
                        .verify_peer = true,
                        .sanity_check = true,
                        .dir = folder};

    return ff_creds_load(&spec, error);
}

FfRemote *ff_remote_new(const char *uri, const char *creds, const char *hostname, GError **error)
{
    g_autoptr(FfRemote) r = g_new0(FfRemote, 1);
    bool tls;
    g_autofree char *address = ff_remote_address(uri, &tls);

    r->uri = g_strdup(uri);
    r->address = ff_address_parse(address, error);
    if (!r->address) {
        return NULL;
    }
    if (tls != !!creds) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_ARGUMENT,
                    tls ? "%s: give --tls-creds FOLDER" : "%s: --tls-creds is for tls:HOST:PORT",
                    uri);
        return NULL;
    }
    if (tls && !(r->tls = ff_remote_creds(creds, false, error))) {
        return NULL;
    }
    r->hostname = g_strdup(hostname ? hostname : r->address->host);
    return g_steal_pointer(&r);
}

void ff_remote_free(FfRemote *r)
{
    if (r) {
        g_clear_pointer(&r->address, ff_address_free);
        g_clear_pointer(&r->tls, ff_tls_unref);
        g_free(r->uri);
        g_free(r->hostname);
        g_free(r);
    }
}

const char *ff_remote_uri(const FfRemote *r)
{
    return r->uri;
}

/* ---- a link ---------------------------------------------------------------------------------- */

static bool fail(const FfRemoteLink *l, GError **error, const char *why)
{
    g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED, "%s: %s", l->r->uri, why);
    return false;
}

static int try_exchange(FfRemoteLink *l, void *out, size_t out_len, void *in, size_t in_len, int ms)
{
    struct iovec iov = {out, out_len};
    int rc = ff_channel_write_all(l->ch, &iov, 1, false);

    return rc == 0 ? ff_channel_read_all(l->ch, in, in_len, ms) : rc;
}

static bool exchange(FfRemoteLink *l, void *out, size_t out_len, void *in, size_t in_len, int ms,
                     GError **error)
{
    int rc = try_exchange(l, out, out_len, in, in_len, ms);

    return rc == 0 || fail(l, error, ff_channel_strerror(l->ch, rc));
}

static bool greet(FfRemoteLink *l, GError **error)
{
    FfRemoteHello hello;
    FfRemoteWelcome welcome;

    memcpy(hello.magic, FF_REMOTE_MAGIC, sizeof(hello.magic));
    int rc = try_exchange(l, &hello, sizeof(hello), &welcome, sizeof(welcome), BEGIN_MS);
    if (!l->r->tls && (rc == -EPIPE || rc == -ECONNRESET)) {
        return fail(l, error,
                    "closed the connection at once: it is no farfault pager, or one that "
                    "gives by tls:");
    }
    if (rc < 0) {
        return fail(l, error, ff_channel_strerror(l->ch, rc));
    }
    if (memcmp(welcome.magic, FF_REMOTE_MAGIC, sizeof(welcome.magic)) != 0) {
        return fail(l, error, "no farfault pager answers there, or one of another version");
    }
    l->size = GUINT64_FROM_LE(welcome.size);
    l->identity = GUINT64_FROM_LE(welcome.identity);
    return (l->size && l->size % FF_REMOTE_PAGE == 0) ||
           fail(l, error, "its content is not whole pages");
}

/* To the first of its addresses that answers. The name is looked up here, as GLib has a thread for
 * that: the holder, which asks first, forks later, and its signals are not blocked yet. */
static int connect_to(const FfAddress *a, GError **error)
{
    struct addrinfo *list = ff_address_look_up(a, error);
    int fd = -1, rc;

    if (!list) {
        return -1;
    }
    for (const struct addrinfo *ai = list; ai && fd < 0; ai = ai->ai_next) {
        char host[NI_MAXHOST];
        const FfAddress one = {.host = host, .port = a->port};
        g_clear_error(error); /* the last one counts */
        rc = getnameinfo(ai->ai_addr, ai->ai_addrlen, host, sizeof(host), NULL, 0, NI_NUMERICHOST);
        if (rc) {
            g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED, "%s: %s", a->host, gai_strerror(rc));
        } else {
            fd = ff_address_connect(&one, NULL, error);
        }
    }
    freeaddrinfo(list);
    return fd;
}

FfRemoteLink *ff_remote_connect(FfRemote *r, GError **error)
{
    g_autoptr(FfRemoteLink) l = g_new0(FfRemoteLink, 1);
    g_autoptr(GError) local = NULL;
    int fd = connect_to(r->address, &local);

    l->r = r;
    if (fd < 0) {
        fail(l, error, local->message);
        return NULL;
    }
    l->ch = ff_channel_new(fd, FF_CHANNEL_BULK);
    ff_channel_set_deadline(l->ch, ANSWER_MS);
    if (r->tls && !ff_channel_start_tls(l->ch, r->tls, r->hostname, BEGIN_MS, &local)) {
        fail(l, error, local->message);
        return NULL;
    }
    return greet(l, error) ? g_steal_pointer(&l) : NULL;
}

void ff_remote_link_free(FfRemoteLink *l)
{
    if (l) {
        g_clear_pointer(&l->ch, ff_channel_free);
        g_free(l);
    }
}

uint64_t ff_remote_size(const FfRemoteLink *l)
{
    return l->size;
}

uint64_t ff_remote_identity(const FfRemoteLink *l)
{
    return l->identity;
}

/* ---- reading --------------------------------------------------------------------------------- */

/* Why the peer cannot: its words, as far as they can be shown. */
static bool read_reason(FfRemoteLink *l, uint64_t len, GError **error)
{
    char text[FF_REMOTE_TEXT_MAX + 1];

    if (len > FF_REMOTE_TEXT_MAX || ff_channel_read_all(l->ch, text, len, ANSWER_MS) < 0) {
        return fail(l, error, "its answer cannot be understood");
    }
    text[len] = 0;
    for (uint64_t i = 0; i < len; i++) {
        text[i] = g_ascii_isprint(text[i]) ? text[i] : '?';
    }
    return fail(l, error, text);
}

static bool read_data(FfRemoteLink *l, void *buf, uint64_t len, uint64_t sum, GError **error)
{
    int rc = ff_channel_read_all(l->ch, buf, len, ANSWER_MS);

    if (rc < 0) {
        return fail(l, error, ff_channel_strerror(l->ch, rc));
    }
    return ff_xxh64(buf, len, 0) == sum ||
           fail(l, error, "what came is not what was sent: its sum is another one");
}

bool ff_remote_read(FfRemoteLink *l, uint64_t at, void *buf, uint64_t *len, uint64_t piece,
                    bool *zero, GError **error)
{
    FfRemoteRequest request = {GUINT32_TO_LE(FF_REMOTE_READ), GUINT32_TO_LE((uint32_t)piece),
                               GUINT64_TO_LE(at), GUINT64_TO_LE(MIN(*len, FF_REMOTE_LEN_MAX))};
    FfRemoteAnswer answer;

    if (piece > FF_REMOTE_LEN_MAX) {
        return fail(l, error, "its pages are too large to come from another host");
    }
    if (!exchange(l, &request, sizeof(request), &answer, sizeof(answer), ANSWER_MS, error)) {
        return false;
    }
    uint32_t status = GUINT32_FROM_LE(answer.status);
    uint64_t got = GUINT64_FROM_LE(answer.len);
    if (status == FF_REMOTE_FAILED) {
        return read_reason(l, got, error);
    }
    if ((status != FF_REMOTE_DATA && status != FF_REMOTE_ZEROS) ||
        GUINT64_FROM_LE(answer.at) != at || !got || got > *len || got % piece) {
        return fail(l, error, "its answer cannot be understood");
    }
    *len = got;
    *zero = status == FF_REMOTE_ZEROS;
    return *zero || read_data(l, buf, got, GUINT64_FROM_LE(answer.sum), error);
}
