/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The object that the relay's parts share. One process per guest, one thread, one GLib main loop;
 * no locks. From the bottom:
 *
 *   shared.c              the log, the end
 *   uffds.c               QEMU's userfaultfds
 *   hook.c                what arms the hook for discards in QEMU
 *   placeholder.c         a QEMU that stays when its guest has gone to another one
 *   behind-placeholder.c  the other one
 *   guest.c               QEMU's process: pidfd, the agent's hand-over
 *   socket-renames.c      files of QEMU's that get other names
 *   engine.c              the engine's process and its link (engine-internal.h names its parts)
 *   accept.c              where a monitor's clients and vhost-user back-ends come from
 *   backends.c            such back-ends, and what the engine asks about them
 *   vhost-conn.c          one of them
 *   hotplug-vhost.c       chardevs that may become such
 *   clients-wait.c        what clients of a guest that goes to another QEMU say waits
 *   monitor.c             one client monitor: order of commands and replies (monitor-internal.h)
 *   clients-give.c, clients-take.c  they go along
 *   monitors.c            all of them, as the engine has to do with them
 *   replace-relay.c       another relay takes the place of this one
 *   relay.c               start and end of all
 */
#ifndef FF_GUEST_RELAY_SHARED_H
#define FF_GUEST_RELAY_SHARED_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "contract/discards.h"
#include "contract/state.h"
#include "guest/agent/agent.h"
#include "guest/relay/plan.h"

typedef struct FfRelay FfRelay;
typedef struct FfMonitor FfMonitor;
typedef struct FfEngine FfEngine;
typedef struct FfLibraries FfLibraries;
typedef struct FfBackends FfBackends;
typedef struct FfHotplug FfHotplug;
typedef struct FfClientsGive FfClientsGive;
typedef struct FfClientsTake FfClientsTake;
typedef struct FfPlaceholder FfPlaceholder;

/* QEMU's process as the relay knows it. */
typedef struct {
    pid_t pid;
    int pidfd; /* -1 after QEMU has daemonized without an agent */
    int pagemap, maps, mem;
    int uffds[FF_KINDS];        /* -1: none */
    char *uffd_error[FF_KINDS]; /* why not, one line with the fix; NULL */
    bool uffd_lent;             /* the engine has FF_KIND_PROTECT's as well */
    guint uffd_timer;           /* an engine has died with it: the next one's time; 0: no */
    bool uffd_overdue;          /* that is over, and the next one has it */
    bool uffd_killed;           /* one that has it was killed, and is not dead yet */
    bool uffd_lifting;          /* this process takes the protection away */
    bool uffd_refused;          /* it could not, and tries again while the killed one lives */
    bool uffd_lifted;           /* it has; no engine has had it since */
    int hook;                   /* what arms the hook for discards; -1: none */
    FfDiscards *discards;       /* the same, mapped; NULL: none */
    char *hook_error;           /* why there is none; NULL */
    int hook_errno;             /* the same, as FfAgentHello.hook_error */
    char *refusal;              /* why there is no hand-over; NULL */
    bool hello;                 /* the agent has spoken */
    GSource *pid_source, *agent_source;
    /* This process has done with FF_KIND_PROTECT's, whose name is NAME. */
    void (*uffd_free)(FfRelay *relay, const char *name);
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
    FfBackends *backends;
    FfHotplug *plugged;
    FfEngine *engine;
    char *program;  /* the engine's, as the relay found it when it started; NULL: by its path */
    int program_fd; /* -1: none */
    int null_fd;    /* /dev/null */
    FfLibraries *libraries; /* the engine's at that time; NULL: those that are there */
    GPtrArray *held;        /* FfHeld * */
    unsigned filters;       /* FF_FILTER_* */
    uint32_t last_seq;
    bool clients_wait;    /* -incoming: QEMU's greeting waits until the engine listens */
    bool waits_for_other; /* socket-renames.c: its end is waited for */
    bool other_ends;      /* predecessor.c: it has so much time left */
    bool other_leaves;    /* the same: its relay was asked to leave its back-ends */
    guint other_timer;    /* the same: until it is said that it does not answer; 0: none */
    int door, door_inner; /* clients-give.c: where the next QEMU's relay asks; -1: none can */
    const FfMonitor *hands_over;  /* whose client has begun an upgrade last; NULL: nobody's */
    void (*pump)(FfRelay *relay); /* all monitors continue with what waits */
    guint clients_timer;          /* clients-wait.c: they wait for so long; 0: they do not */
    bool clients_late;            /* that is over */
    bool clients_go;              /* clients-give.c: they are asked for, and go on */
    FfClientsGive *gives;         /* clients-give.c; NULL: nobody has asked */
    FfClientsTake *takes;         /* clients-take.c; NULL: nobody was asked */
    FfPlaceholder *front;         /* placeholder.c; NULL: this QEMU is none */
    bool behind_told;    /* behind-placeholder.c: the front's relay knows that the guest is here */
    bool behind_orderly; /* this QEMU ends by itself */
};

/* One line to QEMU's stderr. */
void ff_relay_log(FfRelay *relay, const char *format, ...) G_GNUC_PRINTF(2, 3);
/* The end of everything, after this turn of the main loop. */
void ff_relay_end(FfRelay *relay);

#endif
