/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See export.h. One thread accepts; each connection has a thread and a reader of its own, which ask
 * nobody. Peers are taken for hostile. Where there is no room for one more the one that has said
 * nothing for longest is left: if it is a pager it connects again when it needs something.
 *
 * Locks: `lock`, of who is there and which of them can be left; held for moments.
 *
 * System calls: statx, mmap, munmap, and those of net/ and snapshot/input.c.
 */
#include "server/export.h"

#include <fcntl.h>
#include <gio/gio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "fault/fault.h"
#include "holder/say.h"
#include "net/address.h"
#include "net/channel-read.h"
#include "net/channel-tls.h"
#include "net/channel-write.h"
#include "net/files.h"
#include "server/remote-wire.h"
#include "snapshot/xxh64.h"

#define BEGIN_MS 10000
#define TAKES_MS 30000 /* a peer that reads nothing for so long is left */
#define PEERS_MAX 4096
#define AGAIN_MS 100
#define OWN_FILES 32
#define PEER_FILES 2      /* the connection, the reader's */
#define KEPT (256u << 10) /* bytes; what bulk asks for. A larger answer's are given back */

typedef struct {
    const FfExport *e;
    FfChannel *ch;
    FfContentReader *reader; /* NULL: not open, or it has failed */
    void *buf;               /* mmap; NULL: none */
    uint64_t buf_size;
    bool is_counted; /* under `lock`; FALSE: turned away, or left */
    bool waits;      /* under `lock`: for the other side; `link` is in `waiting` */
    GList link;
} Peer;

static GMutex lock;
static unsigned n_peers;              /* that are counted */
static GQueue waiting = G_QUEUE_INIT; /* of Peer; the one that has waited longest is first */
static bool has_said_full;            /* of the thread that accepts */

static void drop_room(Peer *p)
{
    if (p->buf) {
        munmap(p->buf, p->buf_size);
    }
    p->buf = NULL;
    p->buf_size = 0;
}

static void peer_free(Peer *p)
{
    g_mutex_lock(&lock);
    if (p->waits) {
        g_queue_unlink(&waiting, &p->link);
    }
    n_peers -= p->is_counted;
    g_mutex_unlock(&lock);
    g_clear_pointer(&p->ch, ff_channel_free);
    g_clear_pointer(&p->reader, ff_content_reader_free);
    drop_room(p);
    g_free(p);
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

/* ---- who is there ---------------------------------------------------------------------------- */

/* Under the lock. FALSE: nobody can be left. */
static bool leave_one(void)
{
    GList *link = g_queue_pop_head_link(&waiting);
    Peer *p = link ? link->data : NULL;

    if (p) {
        p->waits = p->is_counted = false;
        n_peers--;
        ff_channel_shutdown(p->ch); /* its thread ends */
    }
    return p;
}

static void make_room(void)
{
    g_mutex_lock(&lock);
    leave_one();
    g_mutex_unlock(&lock);
}

/* FALSE: there are MOST already, and all of them are busy. */
static bool enter(Peer *p, unsigned most)
{
    g_mutex_lock(&lock);
    bool full = n_peers >= most;
    p->link.data = p;
    p->is_counted = p->waits = !full || leave_one();
    if (p->is_counted) {
        n_peers++;
        g_queue_push_tail_link(&waiting, &p->link);
    }
    g_mutex_unlock(&lock);
    if (full && !has_said_full) {
        ff_say("%u connections, and no more: who is idle makes room for others", most);
        has_said_full = true;
    }
    return p->is_counted;
}

/* From now on P waits for the other side, or does not. FALSE: it was left. */
static bool set_waits(Peer *p, bool waits)
{
    g_mutex_lock(&lock);
    bool ok = p->is_counted;
    if (p->waits) {
        g_queue_unlink(&waiting, &p->link);
    }
    p->waits = waits && ok;
    if (p->waits) {
        g_queue_push_tail_link(&waiting, &p->link);
    }
    g_mutex_unlock(&lock);
    return ok;
}

/* ---- one peer -------------------------------------------------------------------------------- */

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

/* NULL and ERROR. Not malloc(), whose heaps may keep what is given back. */
static void *room(Peer *p, uint64_t len, GError **error)
{
    if (len <= p->buf_size) {
        return p->buf;
    }
    drop_room(p);
    void *buf = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (buf == MAP_FAILED) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_NO_SPACE, "no memory for the answer");
        return NULL;
    }
    p->buf = buf;
    p->buf_size = len;
    return buf;
}

static bool answer(Peer *p, uint64_t at, uint64_t len, uint64_t piece)
{
    g_autoptr(GError) error = NULL;
    bool zero;

    if (!p->reader) {
        p->reader = ff_content_reader(p->e->source, &error);
    }
    void *to = p->reader ? room(p, len, &error) : NULL;
    if (to && ff_content_read(p->reader, at, to, &len, piece, 0, &zero, &error)) {
        return send_answer(p, zero ? FF_REMOTE_ZEROS : FF_REMOTE_DATA, at, len,
                           zero ? NULL : p->buf);
    }
    g_clear_pointer(&p->reader, ff_content_reader_free);
    return send_answer(p, FF_REMOTE_FAILED, at, MIN(strlen(error->message), FF_REMOTE_TEXT_MAX),
                       error->message);
}

/* FALSE: what is asked for is nothing that a pager asks for. */
static bool is_right(const Peer *p, uint64_t at, uint64_t len, uint64_t piece)
{
    uint64_t size = ff_content_size(p->e->source);

    return piece && piece % FF_REMOTE_PAGE == 0 && len && len <= FF_REMOTE_LEN_MAX &&
           len % piece == 0 && at % FF_REMOTE_PAGE == 0 && at <= size && len <= size - at;
}

static bool greet(Peer *p)
{
    FfRemoteHello hello;
    FfRemoteWelcome welcome = {.size = GUINT64_TO_LE(ff_content_size(p->e->source)),
                               .identity = GUINT64_TO_LE(p->e->identity)};
    struct iovec iov = {&welcome, sizeof(welcome)};

    memcpy(welcome.magic, FF_REMOTE_MAGIC, sizeof(welcome.magic));
    return ff_channel_read_all(p->ch, &hello, sizeof(hello), BEGIN_MS) == 0 &&
           memcmp(hello.magic, FF_REMOTE_MAGIC, sizeof(hello.magic)) == 0 &&
           ff_channel_write_all(p->ch, &iov, 1, false) == 0;
}

/* FALSE: there is none; it was left, or has gone. */
static bool next_request(Peer *p, FfRemoteRequest *q)
{
    if (p->buf_size > KEPT) {
        drop_room(p);
    }
    set_waits(p, true);
    bool ok = ff_channel_read_all(p->ch, q, sizeof(*q), -1) == 0;

    return set_waits(p, false) && ok;
}

static gpointer run_peer(gpointer opaque)
{
    g_autoptr(Peer) p = opaque;
    g_autoptr(GError) error = NULL;
    FfRemoteRequest q;

    if (p->e->tls && !ff_channel_start_tls(p->ch, p->e->tls, NULL, BEGIN_MS, &error)) {
        if (set_waits(p, false)) {
            ff_say("%s: %s", ff_channel_peer(p->ch), error->message);
        }
        return NULL;
    }
    if (!greet(p)) {
        if (set_waits(p, false)) {
            ff_say("%s: it is no farfault pager", ff_channel_peer(p->ch));
        }
        return NULL;
    }
    while (next_request(p, &q)) {
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

/* ---- all of them ----------------------------------------------------------------------------- */

static void take(const FfExport *e, int fd, unsigned most)
{
    g_autoptr(Peer) p = g_new0(Peer, 1);
    g_autoptr(GError) error = NULL;

    p->e = e;
    p->ch = ff_channel_new(fd, FF_CHANNEL_BULK);
    ff_channel_set_deadline(p->ch, TAKES_MS);
    GThread *thread = enter(p, most) ? g_thread_try_new("peer", run_peer, p, &error) : NULL;
    if (!thread) {
        ff_say("%s: turned away: %s", ff_channel_peer(p->ch),
               error ? error->message : "there are too many already");
        if (error) {
            make_room();
        }
        return;
    }
    g_steal_pointer(&p);
    g_thread_unref(thread);
}

void ff_export_run(const FfExport *e)
{
    uint64_t files = ff_files_raise();

    files = MAX(files, OWN_FILES + PEER_FILES);
    unsigned most = (unsigned)MIN(PEERS_MAX, (files - OWN_FILES) / PEER_FILES);

    for (;;) {
        g_autoptr(GError) error = NULL;
        int fd = ff_address_accept(e->listen_fd, NULL, &error);
        if (fd >= 0) {
            take(e, fd, most);
        } else {
            /* What it is short of has no event. */
            ff_say("%s", error->message);
            make_room();
            g_usleep(AGAIN_MS * 1000);
        }
    }
}
