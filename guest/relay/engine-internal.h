/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The inside of the engine's side of the relay. engine.c (its life, its requests, commands) stands
 * on the others: engine-process.c, fdstore.c (what outlives it), command-queue.c (commands that
 * come while there is none), ping.c (whether it hangs), no-engine-reason.c (why there is none),
 * spawn.c, hand-incoming.c. One thread; no locks. */
#ifndef FF_GUEST_RELAY_ENGINE_INTERNAL_H
#define FF_GUEST_RELAY_ENGINE_INTERNAL_H

#include "contract/link.h"
#include "guest/relay/backends.h"
#include "guest/relay/engine-ops.h"
#include "guest/relay/internal.h"
#include "guest/relay/restart.h"
#include "guest/relay/shared.h"

/* It hangs. WHY: one line. */
typedef void FfPingHung(FfRelay *relay, const char *why);

struct FfEngine {
    FfLink *link; /* NULL: none runs, or it was let go */
    int pidfd;    /* of the one at the link; -1: none. Its watch closes it */
    int ending;   /* of one that was killed or let go and is not dead yet; -1: none. As above */
    gint64 ending_since;          /* us */
    bool condemned;               /* .ending was killed for what it did: its signal says nothing */
    pid_t unwatched;              /* killed, not known to be dead, and without a pidfd; 0: none */
    void (*dead)(FfRelay *relay); /* .ending has become -1 */
    const FfEngineOps *ops;
    unsigned restarts;
    FfRestart restart;
    gint64 due;            /* when one is to be started, us; G_MAXINT64: not wanted */
    GSource *timer;        /* for DUE; NULL: none is waited for */
    uint32_t incoming_seq; /* of START_INCOMING until it is answered */
    bool incoming_sent;
    FfHandIncoming *handing; /* QEMU is given -incoming's URI; NULL: it is not */
    uint32_t words_seq;      /* of a SYNC that waits for QEMU's answers to cont and stop; 0: none */
    uint32_t uffd_seq;       /* of a TAKE_UFFD that waits until it is free; 0: none */
    bool told_absent;
    bool spoke;             /* the current one has said something */
    bool kept;              /* with the kept libraries: those that are installed do not do */
    gint64 absent_until;    /* us: commands are QEMU's until then, as it ends at once */
    char *absence;          /* why there is none, for a client; can be NULL */
    GQueue waiting;         /* command-queue.c */
    GSource *waiting_timer; /* for the first of them; NULL: none waits */
    struct {
        GSource *timer;
        uint32_t seq;    /* of the last one */
        bool owed;       /* it is not answered yet */
        unsigned silent; /* looks since */
        bool told;       /* of the debugger */
        FfPingHung *hung;
    } ping;
};

/* engine-process.c. Starts one that is watched; *LINK: our end of its link. Returns 0 or -errno. */
int ff_process_start(FfRelay *relay, int *link);
/* FALSE: one that was killed by its pid is not dead yet. Nothing tells the moment; it has not been
 * given anything to act on, and the next start asks again. */
bool ff_process_reap_unwatched(FfEngine *engine);
/* Its link has ended. Its pidfd is watched until it says that it is dead: FfEngine.dead. */
void ff_process_let_go(FfEngine *engine);
/* Kills the one that was let go; nothing if there is none. CONDEMNED: as it hangs or says nonsense;
 * else its link has ended, and how it ended is logged. TRUE: it is not dead yet, and does nothing
 * more but what its threads are doing in the kernel just now. */
bool ff_process_kill(FfEngine *engine, bool condemned);
/* The installed libraries do not do. TRUE: it is to be tried with the kept ones. */
bool ff_process_try_kept(FfRelay *relay);
/* The same with the one that is alive; waits for the one that was let go, a few seconds at most. */
void ff_process_end(FfEngine *engine);

/* spawn.c */
void ff_engine_keep_program(FfRelay *relay);
/* Starts it with LINK as its fd. KEPT: with the kept libraries, if there are any. Returns the pid
 * or -errno. */
int ff_engine_spawn(FfRelay *relay, int link, bool kept);

/* fdstore.c */
void ff_held_new(FfRelay *relay); /* makes relay->held */
/* HOLD; takes JSON. Its name; NULL: it is not held. */
const char *ff_held_add(FfRelay *relay, char *json, int *fds, unsigned n_fds);
void ff_held_drop(FfRelay *relay, const char *name);
/* The plan's .given: the next QEMU's relay has them. */
void ff_held_drop_given(FfRelay *relay);
/* A copy, the caller's; -1: there is none. */
int ff_held_copy(FfRelay *relay, const char *name);
/* INIT's text (g_free); adds the fds that go with it to FDS (of int, borrowed). BACKENDS: the
 * engine's ends of their sockets. */
char *ff_held_init(FfRelay *relay, unsigned restarts, const FfBackendsEnds *backends, GArray *fds);

/* command-queue.c. Each command is answered with an error after a while. */
void ff_waiting_add(FfRelay *relay, unsigned mon, uint32_t seq, const char *json);
void ff_waiting_send(FfRelay *relay);               /* the engine is there */
void ff_waiting_pass(FfRelay *relay);               /* they are QEMU's */
void ff_waiting_drop(FfRelay *relay, unsigned mon); /* its client has gone */
void ff_waiting_end(FfRelay *relay);

/* ping.c */
void ff_ping_start(FfRelay *relay, FfPingHung *hung);
void ff_ping_answered(FfRelay *relay, uint32_t seq);
void ff_ping_end(FfRelay *relay);

#endif
