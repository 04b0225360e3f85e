/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the files of migration/ share: the object behind migration.h.
 *
 * Threads (docs/architecture.md has the picture)
 *   driver        the main loop; calls migration.h
 *   coordinator   one per migration; walks through the switchover, the only one that talks to
 *                 the VMM, the only one that sets the status
 *   main reader   reads the main channel (D: this is the migration thread, it places runs)
 *   S: bulk, urgent, device (device state out of QEMU)
 *   D: acceptor, starter, fault, urgent reader, feeder (device state into QEMU), return path
 *
 * Locks: FfMigration.lock is a leaf and guards what stands under it; no I/O under it. The
 * channels' writer locks are leaves too. Bitmaps, counters and waits have none. The fault path
 * (fault, urgent reader, S's urgent) takes only the writer lock of the channel that it uses.
 */
#ifndef FF_MIGRATION_INTERNAL_H
#define FF_MIGRATION_INTERNAL_H

#include <gio/gio.h>

#include "fault/fault.h"
#include "uffd/bitmap.h"
#include "migration/compress.h"
#include "migration/journal.h"
#include "migration/migration.h"
#include "migration/stats.h"
#include "net/address.h"
#include "net/channel.h"
#include "net/channel-read.h"
#include "net/channel-write.h"
#include "net/channel-tls.h"
#include "net/delta.h"
#include "net/sync.h"
#include "net/frame.h"
#include "net/priority.h"
#include "uffd/regions.h"
#include "uffd/run.h"

/* What the coordinator waits for. A bit once set stays set. */
typedef enum {
    FF_EV_WANT_POSTCOPY = 1 << 0, /* client: migrate-start-postcopy */
    FF_EV_WANT_CANCEL = 1 << 1,   /* client: migrate_cancel, before the grant */
    FF_EV_WANT_CONTINUE = 1 << 2, /* client: migrate-continue */
    FF_EV_DEAD = 1 << 3,          /* a channel broke, or a thread cannot go on; m->error says */
    FF_EV_MAIN = 1 << 4,          /* D: a peer's main channel is there */
    FF_EV_PREPARE = 1 << 5,
    FF_EV_READY = 1 << 6,
    FF_EV_SHUT = 1 << 7, /* D: QEMU has loaded the device state */
    FF_EV_LOADED = 1 << 8,
    FF_EV_GRANT = 1 << 9,
    FF_EV_RUNNING = 1 << 10,
    FF_EV_ALL = 1 << 11, /* D: every page received */
    FF_EV_DONE = 1 << 12,
    FF_EV_FINISHED = 1 << 13,
    FF_EV_QUIT = 1 << 14,    /* the object is being freed */
    FF_EV_CHANNEL = 1 << 15, /* D: the urgent channel is attached, or the main one is shared */
    /* recovery.c */
    FF_EV_RECOVER = 1 << 24,    /* client: migrate with resume (S), migrate-recover (D) */
    FF_EV_ABORTED = 1 << 25,    /* the peer has given up (D: this guest must never run) */
    FF_EV_MAIN_ENDED = 1 << 26, /* the main reader has ended */
    FF_EV_SETTLED = 1 << 16,    /* S: the peer has dropped the stale pages it was told of */
    FF_EV_PAUSE = 1 << 18,      /* client, here or there: migrate-pause; until it says resume */
    FF_EV_ANSWERED = 1 << 17,   /* D: the source that wanted the guest back has its answer */
    FF_EV_RESUMED = 1 << 20,    /* D: QEMU has answered, the guest is as the grant says */
    FF_EV_SYNCED = 1 << 21,     /* the client knows what it was told before ff_m_sync() */
    FF_EV_TOLD = 1 << 19,       /* D: has given up, and said so if there was somebody to hear it */
} FfEvent;

typedef struct {
    FfRamBlock info;
    uint64_t n_pages;
    void *map;          /* S: the memfd, read-only. D: huge pages only, for precopy */
    FfBitmap bitmap;    /* S: dirty/sent. D: received, in the state memfd */
    FfBitmap requested; /* D: asked for already */
    /* S: coordinator, then bulk; bytes in the memfd that were seen to have no hole. */
    uint64_t data_first, data_end;
    uint64_t *fingerprint; /* S: coordinator; fingerprint.c; NULL: not wanted */
} FfBlock;

/* S: page frames that were sent on one channel and not yet acknowledged (release-ram). */
typedef struct {
    FfMutex lock; /* leaf; S's sender and main reader */
    GQueue runs;  /* FfRun * */
    uint64_t acked;
} FfSentLog;

/* Further bulk connections, at most (channels.c). */
#define FF_MAX_EXTRA (FF_CHANNELS_MAX - 1)
/* Numbers of channels in acknowledgements; the further ones follow. */
#define FF_INDEX_MAIN 0
#define FF_INDEX_URGENT 1

typedef struct {
    FfMigration *m;
    FfChannel *ch;
    GThread *thread; /* S: sends. D: reads. NULL: not started */
    unsigned index;
} FfExtra;

typedef struct FfPrecopy FfPrecopy; /* precopy.c */
typedef struct FfRounds FfRounds;   /* precopy-send.c */

struct FfMigration {
    FfMigrationConfig cfg;
    FfMigrationOps ops;
    GMainContext *driver_ctx;
    GCancellable *cancel; /* wakes connect and accept */
    GThread *coordinator;
    bool adopting;
    bool tls_set; /* atomic: cfg.tls is there in spite of cfg.tls_refusal */
    bool freed;   /* driver: nothing is told any more */
    char
        *refusal; /* D, coordinator: what the answer to the source's hello is to say; can be NULL */
    bool began_paused; /* cfg.start_paused as it was given: what QEMU knows */
    bool parting;      /* lock; D: is giving up, and says TOLD when the source knows */

    FfMutex lock;
    FfCond changed;
    unsigned events;                 /* lock */
    FfStatus status;                 /* lock; written by the coordinator only */
    char *error;                     /* lock; the first failure, one line; can be NULL */
    bool given;                      /* lock; S: GIVEN is stored, no way back. D: granted */
    bool standing;                   /* lock; S: stop was sent, and nobody may start it but we */
    bool resumed;                    /* lock; S: somebody did */
    bool client_cont;                /* lock; D: cont came before the grant */
    uint64_t max_postcopy_bandwidth; /* lock */
    char *socket_address;            /* lock; can be NULL */

    FfBlock *blocks;
    FfFrameBlock *frame_blocks; /* the same, for the decoder */
    unsigned n_blocks;
    uint64_t total_pages, total_bytes;
    uint64_t done_bytes; /* atomic: sent (S) or received (D) */
    uint64_t done_pages; /* atomic */
    uint64_t epoch;
    uint8_t session[16], vm_uuid[16], secret[32];
    uint32_t peer_features;
    FfStats stats;
    /* Atomic; 0: not yet. End: of total-time; S: every page is at the destination. */
    int64_t start_us, setup_us, stop_us, running_us, end_us;
    uint64_t pass;                  /* atomic */
    uint64_t rate_bytes, rate_x100; /* driver: for mbps */
    int64_t rate_us;

    /* Set before the threads that use them are started; freed after they are joined. */
    FfChannel *main;
    FfChannel *urgent;           /* own connection; NULL: shared with main */
    FfChannel *inner;            /* device state and return path of QEMU */
    FfExtra extra[FF_MAX_EXTRA]; /* further bulk connections */
    unsigned n_extra;
    int64_t bulk_next_us; /* lock; S: nothing is sent before, by the rate limit */
    bool narrow;          /* lock; S: the link is the limit, one bulk connection is enough */
    FfCompressPolicy compress_policy; /* S; the sender's on the main channel */
    gint compressing;    /* atomic; S: bulk runs are compressed. Observers: the further senders */
    uint64_t data_bytes; /* atomic; S: of the guest, sent as data by all senders */
    GThread *main_reader;
    GThread *urgent_thread; /* S: answers requests. D: places urgent pages */
    GThread *keepalive;     /* says that this side lives, looks whether the peer does */
    bool keepalive_stop;    /* lock */

    /* recovery: what the next connection is made of */
    FfChannel *connecting;     /* lock; being agreed on, not main yet */
    FfChannel *arrived_urgent; /* lock; D: from the acceptor to the coordinator */
    bool recovering;           /* lock; D: a further main channel may come */
    uint64_t want_epoch;       /* lock; D: that a further channel must have */
    char *new_uri;             /* lock; from the client, can be NULL */
    int new_fd;                /* lock; from the client, -1; D: also a listening one */
    char *listen_path;         /* D: of the unix socket that migrate-recover made; can be NULL */
    bool recover_setup;        /* lock; S: the client knows postcopy-recover-setup */
    uint64_t past_bytes;       /* lock; of channels that are gone */
    char *peer_uri;            /* lock; S: where the destination listens; can be NULL */
    int64_t broken_us;         /* atomic; when the connection broke, 0: it stands */
    int device_copy;           /* lock, and its one writer; for a dump; -1 */
    int64_t auto_end_us;       /* D: coordinator; it still reconnects by itself. 0: it does not */
    bool listener_held;        /* D: coordinator */
    bool want_revoke;          /* lock; S: the client wants the guest back */
    bool force_revoke;         /* lock; S: ... and says that nobody has it */
    bool revoked;              /* S: coordinator; it has it back */
    bool in_doubt;             /* S: coordinator, then the driver; D may have loaded and wait */
    gint released;             /* atomic; S: memory was given up (release-ram) */
    FfChannel *revoker;        /* lock; D: the source that waits for this QEMU's end; can be NULL */

    /* A peer without farfault (stock.c). Coordinator and acceptor; then the driver. */
    GBytes *opening;         /* S: what was sent first */
    GByteArray *stock_first; /* D: what was read first */
    GPtrArray *stock_later;  /* D: of FfChannel, connections that came behind it; NULL: none */
    FfChannel *stock_channel;
    FfChannel *stock_second; /* S: opened for a peer that waits for it; NULL */
    bool stock, stock_acked;
    char *refused; /* S: coordinator, then the driver. D: set before there is an acceptor; NULL */

    /* source */
    FfChannel *urgent_in; /* requests are read here: urgent, or the end of a socketpair that
                             the main reader feeds */
    int urgent_feed;      /* the other end of that socketpair, -1 */
    GArray *feed_late;    /* lock; of FfFrame: what that had no room for; NULL: nothing ever */
    int urgent_wake;      /* eventfd: the end */
    uint64_t pivot;       /* atomic; where the last request was: block and page + 1, 0 = none */
    GThread *bulk_thread, *device_thread;
    FfSentLog sent[2 + FF_MAX_EXTRA]; /* by index */
    char *run_state;                  /* what the guest was before stop */
    bool prepared; /* coordinator; the VMM has the settings for the inner migration */
    bool stopped, saving;
    /* What of device state the peer has seen; NULL: nothing. S: coordinator, then the device
     * thread. D: main reader. */
    FfDelta *device_base;
    uint64_t private_rest; /* S: the thread that reads it, then the coordinator; bytes without a
                              place in it */
    FfPrecopy *precopy;    /* coordinator; NULL: writes are not tracked */
    FfRounds *rounds;      /* set before its senders start; NULL: there is no precopy */
    /* lock; by index: how many ROUNDs were said there, and how many are answered */
    uint64_t asked[2 + FF_MAX_EXTRA], settled[2 + FF_MAX_EXTRA];
    bool holes_sent; /* all of them; coordinator, then bulk */
    char *untracked; /* lock; why not; can be NULL */
    GArray *hot;     /* FfRun, written just before the stop; set before bulk starts, NULL: none */
    bool keep_main;  /* lock; D: ff_m_shutdown_channels() leaves the main one */
    bool occupied;   /* D: coordinator. Another guest is there, which must not be ended */
    bool whole;      /* S: coordinator. D: set before FF_EV_PREPARE. Every page before the grant */
    uint64_t precopy_bytes; /* atomic; on the wire before the stop */
    uint64_t dirty_rate;    /* atomic; pages per second */
    int64_t expected_ms;    /* atomic; -1: not known */

    /* destination */
    int listen_fd;
    FfAddress *listen_address;
    GThread *acceptor;
    gint acceptor_failed; /* atomic; the acceptor has ended, and was not told to */
    GThread *starter;     /* starts the guest, after the grant */
    bool starts;          /* before the starter: the guest is to run */
    bool runs;            /* before FF_EV_RESUMED: it does */
    FfChannel *accepting; /* lock; the acceptor looks who it is; can be NULL */
    FfChannel *arrived;   /* lock; main channel from the acceptor to the coordinator */
    bool want_channel;    /* lock; the session exists, an urgent channel may come */
    bool attaching;       /* lock; a further channel was answered, and is not in its place yet */
    bool channel_shared;  /* lock */
    FfRegions *regions;
    gint emptied;     /* atomic; main reader: guest RAM was emptied for precopy */
    gint rounds_open; /* atomic; further readers that have pages of a round and not its ROUND */
    gint rounds_over; /* atomic; main reader: the further ones take no page until `frozen` */
    gint armed;       /* atomic; the uffd is armed. Observer: the main reader */
    gint frozen;      /* atomic. D: the last stale page is dropped, pages that come are final;
                         observer: the readers. S: the guest is stopped, what is sent is final;
                         observer: whoever sends */
    int uffd, fault_wake;
    GThread *fault_thread, *feeder, *return_path;
    GAsyncQueue *device_queue; /* GBytes *, empty one = end */
    uint64_t device_queued;    /* atomic, bytes */
    unsigned unregistered;     /* atomic; ranges taken out of the uffd */
    void *zero_page;           /* hugetlb: a zero page to copy */
    /* Fault thread: the page that was there though somebody waited for it, so often in a row. */
    unsigned vain_block, vain_n;
    uint64_t vain_page;
    char *granted_state; /* lock; payload of GRANT */
    void *bitmaps_map;
    size_t bitmaps_len;
};

/* common.c */
void ff_m_event(FfMigration *m, unsigned events);
/* Records the first failure and wakes the coordinator. Any thread. Printf-like. */
void ff_m_dead(FfMigration *m, const char *fmt, ...) G_GNUC_PRINTF(2, 3);
/* Waits until one of WANT has been set; returns the events that are set, masked by WANT. */
unsigned ff_m_wait(FfMigration *m, unsigned want);
unsigned ff_m_events(FfMigration *m);
/* Waits for WANT; FALSE and ERROR if the channel died or the client cancelled before it. */
bool ff_m_await(FfMigration *m, unsigned want, GError **error);
/* The only writer of the status. */
void ff_m_set_status(FfMigration *m, FfStatus status);
/* The same in two steps, for what has to change together with the status: under the lock, which
 * returns the old one; and behind it, which tells of it. */
FfStatus ff_m_enter_locked(FfMigration *m, FfStatus status);
void ff_m_entered(FfMigration *m, FfStatus old, FfStatus status);
/* Waits until the client has been told the last status, for a second at most: what the peer learns
 * behind that comes to the client behind that. */
void ff_m_sync(FfMigration *m);
void ff_m_new_pass(FfMigration *m);
/* Takes over the VMM's blocks. S maps them. */
bool ff_m_set_blocks(FfMigration *m, GPtrArray *blocks, GError **error);
void ff_m_set_error(FfMigration *m, const char *text);
/* Closes FfMigrationConfig.mem_fd. Safe to call twice. */
void ff_m_close_mem(FfMigration *m);
/* Shuts every channel down; threads that use them end. */
void ff_m_shutdown_channels(FfMigration *m);
void ff_m_join(GThread **thread);
/* The client wants the guest stopped: -S or its stop (D), its stop during the switchover (S). */
bool ff_m_client_stopped(FfMigration *m);
/* Asks the driver to kill the VMM. */
void ff_m_kill_vmm(FfMigration *m, const char *why);

/* keepalive.c: whether the peer lives. */
/* A channel to the peer, over FD (taken), with the deadline for writes. */
FfChannel *ff_m_channel_new(FfMigration *m, int fd, FfChannelKind kind);
/* The peer has greeted: from here on it is looked after, until the connection ends. */
void ff_keepalive_start(FfMigration *m);
void ff_keepalive_end(FfMigration *m);
/* As ff_m_dead(), for CH (can be NULL), which failed with RC (-errno). */
void ff_m_lost(FfMigration *m, const FfChannel *ch, int rc);

/* recovery.c: both sides */
/* As ff_m_wait(), but until END_US (-1: no end); 0 then. */
unsigned ff_m_wait_until(FfMigration *m, unsigned want, int64_t end_us);
/* Before a new connection: forgets EVENTS and the error of the old one. No thread of the old
 * connection may be left. */
void ff_recovery_begin(FfMigration *m, unsigned events);
/* The attempt has failed, or the connection is lost: WHY (unless a thread said it first). */
void ff_recovery_pause(FfMigration *m, const char *why);
/* Makes CH (NULL: none) the one that pause and the end shut down. FALSE and ERROR: they came
 * before. */
bool ff_recovery_connecting(FfMigration *m, FfChannel *ch, GError **error);
/* Frees the channels of the old connection and puts MAIN and URGENT (NULL: shared) in their
 * place. No thread may use the old ones. */
void ff_recovery_install(FfMigration *m, FfChannel *main, FfChannel *urgent);
/* Reads one frame and its payload (at most CAP bytes), in time. */
bool ff_recovery_hear(FfChannel *ch, FfFrame *f, void *payload, size_t cap, GError **error);
/* The same for a frame that must be of TYPE. */
bool ff_recovery_expect(FfChannel *ch, FfFrameType type, FfFrame *f, void *payload, size_t cap,
                        GError **error);
bool ff_recovery_say(FfChannel *ch, FfFrame f, const void *payload, GError **error);
/* What cancelled the attempt before does not cancel the next one. */
void ff_recovery_reset_cancel(FfMigration *m);
/* The end of the time in which this side reconnects by itself, from now on; 0: it does not. */
int64_t ff_recovery_auto_end(FfMigration *m);
/* The client has paused this side: the peer is told that there is nothing to reconnect to. */
void ff_recovery_say_paused(FfMigration *m);
/* S: ADDRESS (NULL: none) is where the destination listens. */
void ff_recovery_store_peer(FfMigration *m, const FfAddress *address);
char *ff_m_peer_uri(FfMigration *m); /* g_free; can be NULL */
/* Empties an eventfd that has woken a thread which is joined now. */
void ff_recovery_drain(int eventfd);
/* The blocks of a migration whose engine died, in the order of the wire. */
bool ff_recovery_adopt_blocks(FfMigration *m, GError **error);
/* Notes session, secret, epoch and blocks for the engine that may have to adopt. */
void ff_recovery_store_session(FfMigration *m);
void ff_recovery_store_blocks(FfMigration *m);

/* half.c */
FfHalf *ff_m_half(FfMigration *m);
void ff_half_free(FfHalf *half);
/* The status has changed to STATUS. */
void ff_m_note_break(FfMigration *m, FfStatus status);
/* A copy of the device state as it comes by, held beyond a crash, until nobody needs it. */
void ff_m_begin_device_copy(FfMigration *m);
void ff_m_copy_device(FfMigration *m, const void *data, size_t len);
/* The copy (an fd, not the caller's) if it is what the guest would go on from, else -1: a guest
 * that was granted to this side may have gone on. Under the lock. */
int ff_m_device_copy(const FfMigration *m);
void ff_m_end_device_copy(FfMigration *m);

/* revoke.c */
/* S, paused: TRUE if the destination has ended without ever having had the guest. */
bool ff_source_revoke(FfMigration *m, GError **error);
/* S, after a roll back: tells the destination, as long as there is hope to. */
void ff_source_tell_roll_back(FfMigration *m);
/* D: CH is the source's, who says REVOKE. TRUE: it is taken, this side is to end; FALSE: refused.
 */
bool ff_dest_take_revoke(FfMigration *m, FfChannel *ch, GError **error);
/* D: waits until the VMM, which was asked to end, has. FALSE: that is not certain. */
bool ff_dest_ensure_end(FfMigration *m);
/* D: says so to the source that waits for it; if it has not ENDED that gets no answer. */
void ff_dest_answer_revoke(FfMigration *m, bool ended);

/* source-recover.c */
/* To where the client said; NULL and ERROR. *ADDRESS can be NULL: it cannot be connected to. */
FfChannel *ff_source_connect_again(FfMigration *m, FfAddress **address, GError **error);
/* PAUSED: the status follows. */
bool ff_source_greet_again(FfMigration *m, FfChannel *ch, bool paused, GError **error);
/* From postcopy-active on: waits until everything is at the destination, over as many
 * connections as it takes. FALSE: the object is being freed. */
bool ff_source_persist(FfMigration *m);
/* Joins the threads that live as long as one connection. */
void ff_source_end_connection(FfMigration *m);
bool ff_source_adopt(FfMigration *m, GError **error);

/* dest-recover.c */
/* The connection is lost: postcopy-paused, until a new one stands. FALSE: being freed. */
bool ff_dest_reconnect(FfMigration *m);
/* Every page is here, but the source does not know it: tells it when it comes back. */
void ff_dest_linger(FfMigration *m);
void ff_dest_end_connection(FfMigration *m);
/* Where it listens outlives a crash of this process. */
void ff_dest_hold_listener(FfMigration *m);
/* No source comes here any more: the acceptor ends, what it listened on is closed. */
void ff_dest_stop_listening(FfMigration *m, const char *next_uri);
/* The source may come where it came before. */
void ff_dest_adopt_listener(FfMigration *m);
bool ff_dest_adopt(FfMigration *m, GError **error);
/* tls.c. TLS on CH if this side has credentials, before anything is said on it; a destination
 * without them tells a source that has some from garbage. On FALSE the channel is of no use. */
bool ff_m_secure(FfMigration *m, FfChannel *ch, GError **error);
/* D: an FfHandshakesAdmit (handshakes.h), OPAQUE is the migration. Begins TLS if this side has
 * credentials.
 */
bool ff_m_admit(FfChannel *ch, uint8_t first, gpointer opaque, GError **error);
/* Source, after its first words in the clear: FALSE and ERROR if the peer answers by TLS. */
bool ff_m_check_clear(FfMigration *m, FfChannel *ch, int deadline_ms, GError **error);

/* adopt.c */
void ff_m_adopt(FfMigration *m);
/* Before the coordinator starts: takes the state of the engine that died; the first status. */
FfStatus ff_m_begin_adoption(FfMigration *m);
static inline FfChannel *ff_m_urgent_channel(FfMigration *m)
{
    return m->urgent ? m->urgent : m->main;
}
/* Code of FF_M_ERROR: the peer is a QEMU without farfault. Other errors have code 0, but for the
 * next one. */
#define FF_M_ERROR_STOCK 1
/* Who connected looks for another migration. */
#define FF_M_ERROR_STRAY 2
/* This side's engine does not migrate this guest, its VMM is to. */
#define FF_M_ERROR_REFUSED 3
#define FF_M_ERROR g_quark_from_static_string("farfault-migration")
#define ff_stamp(field) __atomic_store_n(&(field), g_get_monotonic_time(), __ATOMIC_RELAXED)

/* fingerprint.c, for FARFAULT_DEBUG_HASH. Notes what guest RAM holds, unless it is noted. */
void ff_fingerprint_take(FfMigration *m);
/* Says whether it still does. */
void ff_fingerprint_check(FfMigration *m);

/* source.c, source-connect.c, source-send.c, source-bulk.c, source-urgent.c */
gpointer ff_source_coordinator(gpointer m);
/* From postcopy-active to the end. */
void ff_source_see_through(FfMigration *m);
/* The guest goes on here; it was never the peer's. */
void ff_source_roll_back(FfMigration *m, const GError *why);
/* The client's stop and cont are QEMU's from now on. RUNNING: the guest was started; it is stopped
 * once more if the client has said so meanwhile. */
void ff_source_release_guest(FfMigration *m, bool running);
bool ff_source_connect(FfMigration *m, GError **error);
bool ff_source_map_blocks(FfMigration *m, GError **error);
/* A further socket to ADDRESS (can be NULL); NULL if it cannot be had. */
FfChannel *ff_source_open_channel(FfMigration *m, const FfAddress *address, FfChannelKind kind,
                                  GError **error);
/* Urgent frames use the main channel: makes urgent_feed and urgent_in. */
bool ff_source_feed_urgent(FfMigration *m, GError **error);
/* Main reader: hands on a request. FALSE: far more than a destination can mean. */
bool ff_source_hand_on(FfMigration *m, FfFrame f);
/* Urgent thread, behind each read: up to N requests that had no room. Returns how many. */
unsigned ff_source_take_late(FfMigration *m, FfFrame *frames, unsigned n);
gpointer ff_source_main_reader(gpointer m);
gpointer ff_source_bulk(gpointer m);
/* Sends the holes among N pages from FIRST on, as far as they are dirty, as runs of zero pages.
 * Before any of these pages is looked at, which would fill it. 0 or -errno. */
int ff_source_send_holes_of(FfMigration *m, unsigned block, uint64_t first, uint64_t n);
gpointer ff_source_urgent(gpointer m);
/* Pages of one write, at most; of small ones FF_RUN_MAX_BYTES. */
#define FF_SEND_MAX_PAGES (FF_RUN_MAX_BYTES / 4096)
/* Sends a claimed run over CH; zero pages are found here. PK: the sender's, with which the rest may
 * be compressed; NULL: it goes as it is. 0 or -errno. */
int ff_source_send_run(FfMigration *m, FfChannel *ch, FfPacking *pk, unsigned block, uint64_t first,
                       uint64_t n, bool urgent);
/* Sends N claimed runs, FF_SEND_MAX_PAGES in all or one huge page, by one write in front of what
 * others wait to write. Does not allocate. 0 or -errno. */
int ff_source_send_urgent(FfMigration *m, const FfRun *runs, unsigned n);
/* Decides whether the next run over CH is compressed (PK->on). Between a wait for CH to be writable
 * and ff_source_send_run(), CH's sender. */
void ff_source_decide_packing(FfMigration *m, FfChannel *ch, FfPacking *pk);
/* source-device.c */
/* A thread, before there is a peer: reads what device state will hold again, firmware and a
 * display's memory. Returns an FfDelta, NULL if there is none. */
gpointer ff_source_read_base(gpointer m);
/* FALSE and ERROR: what the base has no room for would keep the guest still for longer than the
 * client's downtime-limit. After it was read; coordinator. */
bool ff_source_private_fits(FfMigration *m, GError **error);
/* Sends it, if the peer takes it. Coordinator, before PREPARE. A broken channel is the reader's to
 * tell. */
void ff_source_send_base(FfMigration *m);
/* The peer takes device state that is compressed, or a delta. */
bool ff_source_packs_device(const FfMigration *m);
/* Device thread: N bytes of QEMU's stream, in the shortest way that is worth it. 0 or -errno. */
int ff_source_send_device(FfMigration *m, FfDevicePacing *pacing, FfPacking *pk, const void *data,
                          size_t n);
/* What the source says of itself in HELLO and RESUME. */
uint32_t ff_source_features(const FfMigration *m);
int ff_source_send_zero(FfMigration *m, FfChannel *ch, unsigned block, uint64_t first, uint64_t n,
                        bool urgent);
/* The peer has placed COUNT page frames of the channel with INDEX. */
void ff_source_acked(FfMigration *m, unsigned index, uint64_t count);
void ff_source_forget_sent(FfMigration *m);

/* channels.c */
/* Takes CH over as the next further bulk connection. FfMigration.lock is held. Its place is M's. */
FfExtra *ff_extra_add_locked(FfMigration *m, FfChannel *ch);
/* Starts RUN(FfExtra *) for each. */
void ff_extra_start(FfMigration *m, GThreadFunc run);
/* Waits for the threads, which are to end by themselves. */
void ff_extra_join(FfMigration *m);
/* Joins the threads of all and frees them; the channels are shut down already. */
void ff_extra_end(FfMigration *m);
/* S: opens as many as the client wants, or as can be had. FALSE: cancelled. */
bool ff_source_open_extra(FfMigration *m, const FfAddress *address, GError **error);

/* precopy-send.c. Main reader: ROUND was answered. FALSE: it was not said. */
bool ff_source_settled(FfMigration *m, const FfFrame *f);

/* precopy.c; all of it is the coordinator's. */
/* Before a peer is spoken to: begins to track, or decides what becomes of a migration without that.
 * FALSE and ERROR: QEMU is to carry it. */
bool ff_precopy_begin(FfMigration *m, GError **error);
/* Sends rounds until it is time to switch: m->whole says how. */
bool ff_precopy_run(FfMigration *m, GError **error);
/* Tells the peer which of the pages it has are stale by now, the guest still running: everything
 * (before PREPARE), then what was written since (after READY). */
bool ff_precopy_tell(FfMigration *m, GError **error);
bool ff_precopy_tell_again(FfMigration *m, GError **error);
/* The guest is stopped: the last of that. From here on the dirty bitmap is final. */
bool ff_precopy_freeze(FfMigration *m, GError **error);
/* Ends the tracking. Safe to call twice. STAYS: the guest goes on here, and gets back what tracking
 * took from it. */
void ff_precopy_end(FfMigration *m, bool stays);
void ff_precopy_free(FfMigration *m);

/* dest-precopy.c */
/* Empties guest RAM, which this side's firmware has touched, unless that was done. Main reader,
 * before any other reader takes a page. 0 or -errno (then the migration cannot go on). */
int ff_dest_empty(FfMigration *m);
/* Pages that come while the guest runs at the source: written over what was there. Readers; of a
 * page one at a time. */
int ff_dest_write(FfMigration *m, const FfFrame *f, const void *data);
/* Forgets RUNS; DROP: also takes them out of memory. Main reader. */
int ff_dest_stale(FfMigration *m, const FfStaleRun *runs, unsigned n, bool drop);
/* Takes everything out of guest RAM that was not received. Coordinator, before it arms. */
bool ff_dest_drop_missing(FfMigration *m, GError **error);

/* destination.c, dest-accept.c, dest-read.c, dest-place.c, dest-fault.c, dest-device.c */
/* FD (-1: none) is where it listens from here on; clients are told its address. */
void ff_dest_set_listener(FfMigration *m, int fd);
bool ff_dest_listen(FfMigration *m, GError **error);
gpointer ff_dest_coordinator(gpointer m);
/* From LOADED to the end; from the grant to the end. */
void ff_dest_end_loaded(FfMigration *m);
void ff_dest_see_through(FfMigration *m);
/* Starts the guest as the state memfd says, in a thread of its own: FF_EV_RESUMED. START: it is to
 * run, if it ran before. */
void ff_dest_start_guest(FfMigration *m, bool start);
gpointer ff_dest_acceptor(gpointer m);
/* The source opens no more channels: FALSE: it had said so before. Under the lock, which it leaves
 * while one that was answered is put in its place (main reader, coordinator). */
bool ff_dest_agreed_locked(FfMigration *m);
/* What a destination says first, to a source that comes and to one that comes back. */
FfGreeting ff_dest_greeting(const FfMigration *m);
bool ff_dest_greet(FfMigration *m, GError **error);
gpointer ff_dest_main_reader(gpointer m);
gpointer ff_dest_urgent_reader(gpointer m);
gpointer ff_dest_extra_reader(gpointer extra);
gpointer ff_dest_fault(gpointer m);
gpointer ff_dest_feeder(gpointer m);
/* Main reader: device state for QEMU. Does not wait. */
void ff_dest_feed(FfMigration *m, const uint8_t *data, size_t len);
gpointer ff_dest_return_path(gpointer m);
/* Drops what is not valid from guest RAM and arms the uffd over it. */
bool ff_dest_arm(FfMigration *m, GError **error);
/* The same after the engine that did it has died: guest RAM stays as it is; who waits is told
 * again. */
bool ff_dest_arm_again(FfMigration *m, GError **error);
/* Maps the received bitmaps; FRESH: lays them out and clears them. */
bool ff_dest_map_bitmaps(FfMigration *m, bool fresh, GError **error);
/* Wakes everybody: who still misses a page is told anew by the kernel. */
void ff_dest_wake_all(FfMigration *m);
void ff_dest_disarm(FfMigration *m);
/* Places a run; 0 or -errno (then the migration cannot go on). */
int ff_dest_place(FfMigration *m, unsigned block, uint64_t page, uint64_t n, const void *data);
int ff_dest_place_zero(FfMigration *m, unsigned block, uint64_t page, uint64_t n);
/* A fault on a page that was received before: it was punched since (balloon), zeros are right.
 * Fault thread. 0 or -errno; -ELOOP: it was there so often in a row that something is wrong. */
int ff_dest_place_again(FfMigration *m, unsigned block, uint64_t page);
/* Ends the connection (after the grant: pauses) because of RC; returns it. */
int ff_dest_cannot_place(FfMigration *m, unsigned block, uint64_t page, int rc);

/* stock.c */
/* QEMU is to carry it: the peer has no farfault, or this side is refused. */
bool ff_m_is_stock(const GError *error);
/* Before a peer is spoken to: what stands against the engine, as *ERROR says, is told the driver as
 * a refusal, if a migration of the VMM's own may take its place; else ERROR stays as it is. Always
 * FALSE. */
bool ff_m_refuse(FfMigration *m, GError **error);
/* Whether a migration of the VMM's own may take the engine's place. */
bool ff_m_may_be_native(const FfMigration *m);
/* D: the same, as soon as a source is there. TRUE: it is waited for. */
bool ff_dest_refuse(FfMigration *m, const GError *error);
/* S: what the source sends first. */
GBytes *ff_source_opening(FfMigration *m);
/* S: reads the first bytes of the answer, which are coming. 0 or -errno; sets ERROR (and returns 0)
 * if the peer is a QEMU without farfault, or one that must be refused. */
int ff_source_first_answer(FfMigration *m, uint8_t first[FF_PONG_SIZE], GError **error);
/* D: reads from CH, behind what is in FIRST, until it is known who connected. *RC < 0: -errno. */
FfPeer ff_dest_recognise(FfChannel *ch, GByteArray *first, int deadline_ms, int *rc);
/* D: the same for a passed fd, at which no acceptor has looked. */
bool ff_dest_recognise_passed(FfMigration *m, GError **error);
/* D: FALSE and ERROR if QEMU is to carry it: the peer has no farfault, or this side is refused. */
bool ff_dest_no_stock(FfMigration *m, GError **error);
/* If ERROR says so, the connection is taken out of M for the driver; the coordinator ends. */
bool ff_m_hand_over(FfMigration *m, const GError *error);
/* Main loop: tells the driver. */
void ff_m_give_back(FfMigration *m);
void ff_m_stock_free(FfMigration *m);

#endif
