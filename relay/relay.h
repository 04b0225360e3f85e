/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The relay's parts and what they ask of each other. One process per guest, one thread, one
 * GLib main loop; no locks.
 *
 *   relay.c     start, the shared object, the end
 *   guest.c     QEMU's process: pidfd, the agent's hand-over
 *   monitor.c   one client monitor: order of commands and replies
 *   accept.c    where a monitor's clients come from
 *   engine.c    the engine's process and its link (with restart.c, waiting.c, held.c, ping.c)
 */
#ifndef FF_RELAY_RELAY_H
#define FF_RELAY_RELAY_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "relay/libraries.h"
#include "state/link.h"
#include "relay/plan.h"
#include "relay/qmp-frame.h"
#include "state/state.h"
#include "agent/agent.h"

typedef struct FfRelay FfRelay;
typedef struct FfMonitor FfMonitor;
typedef struct FfEngine FfEngine;

/* QEMU's process as the relay knows it. */
typedef struct {
    pid_t pid;
    int pidfd; /* -1 after QEMU has daemonized without an agent */
    int pagemap, maps, mem, uffds[FF_AGENT_UFFDS];
    unsigned n_uffds;
    char *uffd_error; /* why there are none, one line with the fix; NULL */
    bool hello;       /* the agent has spoken */
    GSource *pid_source, *agent_source;
} FfGuest;

/* An fd that outlives engines. */
typedef struct {
    char *name, *json; /* the whole text of HOLD */
    int fd;
} FfHeld;

struct FfRelay {
    const FfRelayPlan *plan;
    GMainLoop *loop;
    int state_fd;
    FfStateHeader *state;
    FfGuest guest;
    GPtrArray *monitors; /* FfMonitor *, by index */
    FfEngine *engine;
    char *program;  /* the engine's, as the relay found it when it started; NULL: by its path */
    int program_fd; /* -1: none */
    int null_fd;    /* /dev/null */
    FfLibraries *libraries; /* the engine's at that time; NULL: those that are there */
    GPtrArray *held;        /* FfHeld * */
    unsigned filters;       /* FF_FILTER_* */
    uint32_t last_seq;
    bool clients_wait; /* -incoming: QEMU's greeting waits until the engine listens */
};

/* relay.c: one line to QEMU's stderr; and the end of everything. */
void ff_relay_log(FfRelay *relay, const char *format, ...) G_GNUC_PRINTF(2, 3);
void ff_relay_end(FfRelay *relay);

/* guest.c */
bool ff_guest_start(FfRelay *relay, GError **error);
/* Takes a hand-over that waits to be read. */
void ff_guest_look(FfRelay *relay);
/* QEMU's main() runs: an agent that has not spoken by now is not there. */
void ff_guest_is_up(FfRelay *relay);
/* QEMU closed a monitor without being asked. */
void ff_guest_hung_up(FfRelay *relay);
bool ff_guest_has_ended(const FfRelay *relay);
void ff_guest_kill(FfRelay *relay, const char *why);

/* monitor.c */
FfMonitor *ff_monitor_new(FfRelay *relay, unsigned index);
void ff_monitor_client(FfMonitor *mon, int in, int out); /* takes the fds */
void ff_monitor_go(FfMonitor *mon);                      /* clients need not wait any more */
/* The engine's answers. SEQ names the command; unknown ones are ignored (the client is gone). */
void ff_monitor_reply(FfMonitor *mon, uint32_t seq, GBytes *line);
void ff_monitor_pass(FfMonitor *mon, uint32_t seq, GBytes *instead); /* INSTEAD can be NULL */
/* There is no engine: SEQ is QEMU's. */
void ff_monitor_do_without(FfMonitor *mon, uint32_t seq);
void ff_monitor_event(FfMonitor *mon, GBytes *line);
int ff_monitor_take_fd(FfMonitor *mon, const char *name); /* the caller owns it; -1: none */
/* FALSE: no client, or no object. */
bool ff_monitor_inject(FfMonitor *mon, uint32_t seq, GBytes *command);
/* relay->filters have changed. */
void ff_monitor_filters_changed(FfMonitor *mon);
bool ff_monitor_has_pending(const FfMonitor *mon);
void ff_monitor_refuse(FfMonitor *mon, uint32_t seq, const char *desc);
/* The engine is gone: what it owed is asked again, or answered with an error. DESC NULL: as
 * ff_engine_absence() says. */
void ff_monitor_engine_lost(FfMonitor *mon, const char *desc);
/* The engine has never worked: what it was sent has its turn once more, at another or at QEMU. */
void ff_monitor_own_again(FfMonitor *mon);
void ff_monitor_pump(FfMonitor *mon); /* goes on with what waits */
void ff_monitor_end(FfMonitor *mon);

/* accept.c: calls ff_monitor_client(); ff_accept_next() when the client is gone. */
typedef struct FfAccept FfAccept;
FfAccept *ff_accept_new(FfRelay *relay, const FfRelayMonitor *plan, FfMonitor *mon);
void ff_accept_next(FfAccept *accept);
void ff_accept_end(FfAccept *accept);

/* spawn.c */
void ff_engine_keep_program(FfRelay *relay);
void ff_engine_keep_libraries(FfRelay *relay); /* blocks for milliseconds */
/* Starts it with LINK as its fd. KEPT: with the kept libraries, if there are any. Returns the pid
 * or -errno. */
int ff_engine_spawn(FfRelay *relay, int link, bool kept);

/* engine.c */
FfEngine *ff_engine_new(FfRelay *relay); /* makes relay->held, too */
typedef enum {
    FF_ENGINE_SENT,   /* the engine will answer, or ff_monitor_pass() or _refuse() come */
    FF_ENGINE_ABSENT, /* it cannot be started, and QEMU is as the client left it: ask QEMU */
    FF_ENGINE_BROKEN, /* it cannot be had now; *DESC says why, until the next call */
} FfEngineResult;
FfEngineResult ff_engine_command(FfRelay *relay, unsigned mon, uint32_t seq,
                                 const FfQmpCommand *command, const char **desc);
void ff_engine_inject_reply(FfRelay *relay, unsigned mon, uint32_t seq, const char *reply,
                            size_t len);
void ff_engine_client_gone(FfRelay *relay, unsigned mon);
/* Handles what the engine has said by now. */
void ff_engine_read_now(FfRelay *relay);
void ff_engine_start_incoming(FfRelay *relay);
/* -incoming URI, and nobody has come yet: the engine starts when QEMU stands. */
bool ff_engine_listens_first(const FfRelay *relay);
/* This relay comes after another one: what the state says is under way has an engine again. */
void ff_engine_take_over(FfRelay *relay);
/* Why there is no engine, one line for a client. Valid until the next call. */
const char *ff_engine_absence(FfRelay *relay);
/* A migration is under way, or what one has done to QEMU is not undone yet. */
bool ff_engine_is_needed(const FfRelay *relay);
void ff_engine_end(FfRelay *relay);

#endif
