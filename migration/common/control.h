/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the threads of one side tell each other and the driver: events and waits for them, the
 * status, the first error, and the callbacks on the driver's main loop.
 *
 * Threads: all. FfControl.lock is a leaf: nothing is done under it but to look and to set, and no
 * other lock is taken. It guards what stands under it here, and what other structures say of
 * themselves that it guards. The fault path takes it only when it ends.
 */
#ifndef FF_MIGRATION_COMMON_CONTROL_H
#define FF_MIGRATION_COMMON_CONTROL_H

#include <gio/gio.h>

#include "base/sync.h"
#include "migration/common/config.h"

/* What is waited for. A bit once set stays set, unless a new connection begins. */
typedef enum {
    FF_EV_WANT_POSTCOPY = 1 << 0, /* client: migrate-start-postcopy */
    FF_EV_WANT_CANCEL = 1 << 1,   /* client: migrate_cancel, before the grant */
    FF_EV_WANT_CONTINUE = 1 << 2, /* client: migrate-continue */
    FF_EV_DEAD = 1 << 3,          /* a channel broke, or a thread cannot continue; the error says */
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
    FF_EV_QUIT = 1 << 14,    /* the object is being freed, or all is done: threads end */
    FF_EV_CHANNEL = 1 << 15, /* D: the urgent channel is attached, or the main one is shared */
    FF_EV_STALE_DROPPED = 1 << 16, /* S: the peer has dropped the stale pages it was told of */
    FF_EV_ANSWERED = 1 << 17,      /* D: the source that wanted the guest back has its answer */
    FF_EV_PAUSE = 1 << 18,         /* client, here or there: migrate-pause; until it says resume */
    FF_EV_TOLD = 1 << 19,       /* has given up (D), or its VMM has ended after the grant; and said
                                   so if there was somebody to hear it */
    FF_EV_RESUMED = 1 << 20,    /* D: QEMU has answered, the guest is as the grant says */
    FF_EV_SYNCED = 1 << 21,     /* the client knows what it was told before ff_control_sync() */
    FF_EV_HURRY = 1 << 22,      /* D: a restore is to come to its end */
    FF_EV_VERIFIED = 1 << 23,   /* D: a dump was verified, or is none that can be used */
    FF_EV_RECOVER = 1 << 24,    /* client: migrate with resume (S), migrate-recover (D) */
    FF_EV_ABORTED = 1 << 25,    /* the peer has given up (D: this guest must never run) */
    FF_EV_MAIN_ENDED = 1 << 26, /* the main reader has ended */
    FF_EV_WORDS = 1 << 27,      /* no cont or stop of a client's is under way to the VMM */
    FF_EV_FREED = 1 << 28,      /* the object is being freed; QUIT also ends threads before */
} FfEvent;

/* Code of FF_M_ERROR: the peer is a QEMU without farfault. Other errors have code 0, but for the
 * next ones. */
#define FF_M_ERROR_PLAIN 1
/* The peer that connected looks for another migration. */
#define FF_M_ERROR_STRAY 2
/* This side's engine does not migrate this guest, its VMM is to. */
#define FF_M_ERROR_REFUSED 3
#define FF_M_ERROR g_quark_from_static_string("farfault-migration")

typedef struct {
    FfMigrationOps ops;
    GMainContext *driver_ctx;
    GCancellable *cancel; /* wakes connect and accept */
    bool freed;           /* driver: nothing is told any more */
    FfRole role;          /* for tracers */
    bool adopts;          /* what an engine that died has left; never changed */

    FfMutex lock;
    FfCond changed;
    unsigned events;         /* lock */
    FfStatus status;         /* lock; written by the coordinator only */
    char *error;             /* lock; the first failure, one line; can be NULL */
    bool only_lost;          /* lock; the error is no more than that a connection ended */
    bool granted;            /* lock; the guest is the destination's. S: GIVEN is stored */
    bool peer_ended;         /* lock; the peer has said that its VMM has ended */
    unsigned auto_recover_s; /* lock; FfMigrationConfig's, as it is now */
    /* Lock: what the client wants, until the coordinator takes it. */
    bool start_paused; /* the guest must not run: -S or its stop (D), its stop meanwhile (S) */
    bool client_cont;  /* D: cont came before the grant */
    bool moves; /* we are about to stop the guest, or to start it: what is said is for after that */
    char *new_uri;      /* of the next connection; can be NULL */
    int new_fd;         /* likewise; -1; D: also a listening one */
    bool recover_setup; /* S: the client knows postcopy-recover-setup */
    bool want_revoke;   /* S: it wants the guest back */
    bool force_revoke;  /* S: ... and says that nobody has it */

    uint64_t pass;     /* atomic; rounds that were begun */
    int64_t end_us;    /* atomic; end of total-time; 0: not yet. S: every page is there */
    int64_t broken_us; /* atomic; when the connection broke, 0: it stands */
} FfControl;

/* OPS is copied; its functions are called on the main loop of this thread. */
FfControl *ff_control_new(const FfMigrationOps *ops);
/* Driver: nothing is told any more. The last one that still has a message frees it. */
void ff_control_free(FfControl *c);

/* ---- events */

void ff_control_event(FfControl *c, unsigned events);
unsigned ff_control_events(FfControl *c);
/* The peer has said that its VMM (NAME's) has ended. The main reader. */
void ff_control_peer_ended(FfControl *c, const char *name);
/* Records the first failure and wakes the coordinator. Any thread. Printf-like. */
void ff_control_dead(FfControl *c, const char *fmt, ...) G_GNUC_PRINTF(2, 3);
/* The same; TEXT says of a connection that it has ended. Why comes on another one, if it comes:
 * ff_control_gave_up(). */
void ff_control_lost(FfControl *c, const char *text);
/* The peer has given up (FF_EV_ABORTED, FF_EV_DEAD), and TEXT says why. One of its connections may
 * have been seen to end first. */
void ff_control_gave_up(FfControl *c, const char *text);
void ff_control_set_error(FfControl *c, const char *text);
void ff_control_set_error_locked(FfControl *c, const char *text);
/* Waits until one of WANT has been set; returns the events that are set, masked by WANT. */
unsigned ff_control_wait(FfControl *c, unsigned want);
/* The same, but until END_US (monotonic time; -1: no end); 0 then. */
unsigned ff_control_wait_until(FfControl *c, unsigned want, int64_t end_us);
/* Waits for WANT; FALSE and ERROR if the channel died or the client cancelled before it. */
bool ff_control_await(FfControl *c, unsigned want, GError **error);
/* Before a new connection: forgets EVENTS and the error of the old one. No thread of the old
 * connection may be left. */
void ff_control_forget(FfControl *c, unsigned events);
/* The same, but for the error. */
void ff_control_forget_events(FfControl *c, unsigned events);
/* What cancelled the attempt before does not cancel the next one. */
void ff_control_reset_cancel(FfControl *c);
/* The end of the time in which this side reconnects by itself, from now on; 0: it does not. */
int64_t ff_control_auto_end(FfControl *c);

/* ---- what clients say of running (FfMigrationOps.words, .moved) */

/* The client wants the guest stopped. */
bool ff_control_client_stopped(FfControl *c);
/* With the guest held, before it is stopped: waits until the VMM has carried out what was said
 * before that. FALSE and ERROR as ff_control_await(). */
bool ff_control_await_words(FfControl *c, GError **error);
/* The guest is as it is to be: a client that waits for that is answered. */
void ff_control_moved(FfControl *c);

/* ---- the status: the coordinator */

/* The only writer of the status. */
void ff_control_set_status(FfControl *c, FfStatus status);
/* The same in two steps, for what must change together with the status: under the lock, which
 * returns the old one; and after it, which tells of it. */
FfStatus ff_control_enter_locked(FfControl *c, FfStatus status);
void ff_control_entered(FfControl *c, FfStatus old, FfStatus status);
/* An attempt has failed, or the connection is lost: WHY (unless a thread said it first). */
void ff_control_pause(FfControl *c, const char *why);

/* ---- what the driver is told, in order */

/* Waits until the client has been told the last status, for a second at most: what the peer learns
 * after that comes to the client after that. */
void ff_control_sync(FfControl *c);
/* The same of a guest that has come from another QEMU, when its clients have as well. */
void ff_control_sync_clients(FfControl *c);
void ff_control_new_pass(FfControl *c);
/* The driver is to kill the VMM. */
void ff_control_kill_vmm(FfControl *c, const char *why);
/* FfMigrationOps.fail: nothing may be done any more. Returns when it is being freed; FALSE, at
 * once: there is no such function. */
bool ff_control_fail(FfControl *c, const char *why);
/* The same where ERROR says that the VMM (PIDFD) has not heard a command, or its answer was not
 * heard (G_IO_ERROR_NOT_CONNECTED), and it lives, which may take a second to see: another engine
 * can say it. FALSE otherwise. */
bool ff_control_fail_unheard(FfControl *c, int pidfd, const GError *error);
void ff_control_tell_done(FfControl *c);
void ff_control_tell_parted(FfControl *c);
/* The driver's thread calls RUN(DATA), unless ff_control_free() came before. */
void ff_control_call(FfControl *c, void (*run)(gpointer data), gpointer data);

/* Waits for *THREAD to end, if there is one. */
void ff_control_join(GThread **thread);
/* Closes *FD, if it is one, and forgets it. */
void ff_close_fd(int *fd);

#endif
