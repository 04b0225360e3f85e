/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See export.h. One thread accepts; each connection has a thread and a reader of its own, which ask
 * nobody. Peers are taken for hostile.
 *
 * System calls: statx, and those of net/ and snapshot/input.c.
 */
#include "server/export.h"

#include <fcntl.h>
#include <gio/gio.h>
#include <string.h>
#include <sys/stat.h>

#include "fault/fault.h"
#include "holder/say.h"
#include "net/address.h"
#include "net/channel-read.h"
#include "net/channel-tls.h"
#include "net/channel-write.h"
#include "server/remote-wire.h"
#include "snapshot/xxh64.h"

#define BEGIN_MS 10000
#define TAKES_MS 30000 /* who reads nothing for so long is left */
#define PEERS_MAX 4096
#define AGAIN_MS 100

typedef struct {
    const FfExport *e;
    FfChannel *ch;
    FfSourceReader *reader; /* NULL: not open, or it has failed */
    void *buf;
    uint64_t buf_size;
} Peer;

static gint peers; /* atomic; how many there are. Observer: who accepts */

static void peer_free(Peer *p)
{
    g_clear_pointer(&p->ch, ff_channel_free);
    g_clear_pointer(&p->reader, ff_source_reader_free);
    g_free(p->buf);
    g_free(p);
    g_atomic_int_add(&peers, -1);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Peer, peer_free)

bool ff_export_identify(int fd, uint64_t *identity)
{
    struct statx st;

    if (statx(fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS | STATX_BTIME, &st) < 0) {
        return false;
    }
    /* Builds of an image share size and mtime, and the next file gets the inode of a removed one.
     * Nobody can set ctime. What the file system does not keep is 0. */
    bool has_birth = st.stx_mask & STATX_BTIME;
    const uint64_t about[] = {st.stx_size,
                              (uint64_t)st.stx_mtime.tv_sec,
                              st.stx_mtime.tv_nsec,
                              st.stx_ino,
                              (uint64_t)st.stx_ctime.tv_sec,
                              st.stx_ctime.tv_nsec,
                              has_birth ? (uint64_t)st.stx_btime.tv_sec : 0,
                              has_birth ? st.stx_btime.tv_nsec : 0};
    *identity = ff_xxh64(about, sizeof(about), 0);
    return true;
}

/* ---- one peer ----------------------------------------------------------------------------------
 */

static bool send_answer(Peer *p, FfRemoteStatus status, uint64_t at, uint64_t len, void *what)
{
    FfRemoteAnswer answer = {.status = GUINT32_TO_LE((uint32_t)status),
                             .at = GUINT64_TO_LE(at),
                             .len = GUINT64_TO_LE(len),
                             .sum = GUINT64_TO_LE(what ? ff_xxh64(what, len, 0) : 0)};
    struct iovec iov[2] = {{&answer, sizeof(answer)}, {what, what ? len : 0}};

    FF_FAULT_AT("export-answer");
    return ff_channel_write_all(p->ch, iov, what ? 2 : 1, false) == 0;
}

static void *room(Peer *p, uint64_t len)
{
    if (len > p->buf_size) {
        g_free(p->buf);
        p->buf = g_malloc(len);
        p->buf_size = len;
    }
    return p->buf;
}

static bool answer(Peer *p, uint64_t at, uint64_t len, uint64_t piece)
{
    g_autoptr(GError) error = NULL;
    bool zero;

    if (!p->reader) {
        p->reader = ff_source_reader(p->e->source, &error);
    }
    if (p->reader && ff_source_read(p->reader, at, room(p, len), &len, piece, &zero, &error)) {
        return send_answer(p, zero ? FF_REMOTE_ZEROS : FF_REMOTE_DATA, at, len,
                           zero ? NULL : p->buf);
    }
    g_clear_pointer(&p->reader, ff_source_reader_free);
    return send_answer(p, FF_REMOTE_FAILED, at, MIN(strlen(error->message), FF_REMOTE_TEXT_MAX),
                       error->message);
}

/* FALSE: what is asked for is nothing that a pager asks for. */
static bool is_right(const Peer *p, uint64_t at, uint64_t len, uint64_t piece)
{
    uint64_t size = ff_source_size(p->e->source);

    return piece && piece % FF_REMOTE_PAGE == 0 && len && len <= FF_REMOTE_LEN_MAX &&
           len % piece == 0 && at % FF_REMOTE_PAGE == 0 && at <= size && len <= size - at;
}

static bool greet(Peer *p)
{
    FfRemoteHello hello;
    FfRemoteWelcome welcome = {.size = GUINT64_TO_LE(ff_source_size(p->e->source)),
                               .identity = GUINT64_TO_LE(p->e->identity)};
    struct iovec iov = {&welcome, sizeof(welcome)};

    memcpy(welcome.magic, FF_REMOTE_MAGIC, sizeof(welcome.magic));
    return ff_channel_read_all(p->ch, &hello, sizeof(hello), BEGIN_MS) == 0 &&
           memcmp(hello.magic, FF_REMOTE_MAGIC, sizeof(hello.magic)) == 0 &&
           ff_channel_write_all(p->ch, &iov, 1, false) == 0;
}

static gpointer run_peer(gpointer opaque)
{
    g_autoptr(Peer) p = opaque;
    g_autoptr(GError) error = NULL;
    FfRemoteRequest q;

    if (p->e->tls && !ff_channel_start_tls(p->ch, p->e->tls, NULL, BEGIN_MS, &error)) {
        ff_say("%s: %s", ff_channel_peer(p->ch), error->message);
        return NULL;
    }
    if (!greet(p)) {
        ff_say("%s: it is no farfault pager", ff_channel_peer(p->ch));
        return NULL;
    }
    while (ff_channel_read_all(p->ch, &q, sizeof(q), -1) == 0) {
        uint64_t at = GUINT64_FROM_LE(q.at), len = GUINT64_FROM_LE(q.len);
        uint32_t piece = GUINT32_FROM_LE(q.piece);
        if (GUINT32_FROM_LE(q.magic) != FF_REMOTE_READ || !is_right(p, at, len, piece)) {
            ff_say("%s: it asks for what there is not", ff_channel_peer(p->ch));
            return NULL;
        }
        if (!answer(p, at, len, piece)) {
            return NULL;
        }
    }
    return NULL;
}

/* ---- all of them -------------------------------------------------------------------------------
 */

static void take(const FfExport *e, int fd)
{
    g_autoptr(Peer) p = g_new0(Peer, 1);
    g_autoptr(GError) error = NULL;
    int before = g_atomic_int_add(&peers, 1);

    p->e = e;
    p->ch = ff_channel_new(fd, FF_CHANNEL_BULK);
    ff_channel_set_deadline(p->ch, TAKES_MS);
    GThread *thread = before < PEERS_MAX ? g_thread_try_new("peer", run_peer, p, &error) : NULL;
    if (!thread) {
        ff_say("%s: turned away: %s", ff_channel_peer(p->ch),
               error ? error->message : "there are too many already");
        return;
    }
    g_steal_pointer(&p);
    g_thread_unref(thread);
}

void ff_export_run(const FfExport *e)
{
    for (;;) {
        g_autoptr(GError) error = NULL;
        int fd = ff_address_accept(e->listen_fd, NULL, &error);
        if (fd >= 0) {
            take(e, fd);
        } else {
            /* What it is short of has no event. */
            ff_say("%s", error->message);
            g_usleep(AGAIN_MS * 1000);
        }
    }
}
