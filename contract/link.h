/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The link between the relay and the engine: a SOCK_STREAM socketpair, frames of one header and
 * a payload; fds travel with the first byte of their frame (SCM_RIGHTS).
 *
 * The relay starts the engine when an owned command comes and none runs
 * (exec ENGINE with the link as fd 3; nothing else is inherited but 0, 1 = /dev/null and
 * 2 = QEMU's stderr or /dev/null). The first frame is always INIT.
 */
#ifndef FF_CONTRACT_LINK_H
#define FF_CONTRACT_LINK_H

#include <assert.h>
#include <glib.h>
#include <stdint.h>

#define FF_LINK_FD 3
#define FF_LINK_MAX_PAYLOAD (64u << 20) /* bytes; QEMU's own limit for a JSON text */
#define FF_LINK_MAX_FDS 200
#define FF_LISTENING_MONITOR "listens:"
#define FF_GIVEN_FD "given:"

typedef enum {
    /* relay -> engine */
    FF_LINK_INIT = 1,       /* JSON, see below, and fds */
    FF_LINK_COMMAND,        /* an owned QMP command from client MON, answer with the same SEQ. The
                               payload is plain JSON (double quotes, escapes resolved) */
    FF_LINK_FD_REPLY,       /* answer to TAKE_FD: one fd, or none if there is no such name. To
                               TAKE_UFFD: one fd, or none and in the payload why, one line */
    FF_LINK_INJECT_REPLY,   /* answer to INJECT: QEMU's reply, payload empty if the client or
                               QEMU is gone */
    FF_LINK_CLIENT_GONE,    /* the client on MON disconnected; its pending SEQs need no answer */
    FF_LINK_START_INCOMING, /* payload: the URI of -incoming, sent once, after INIT, to the
                               first engine; the relay starts an engine at once for this. The
                               engine sends REPLY with the same SEQ (its payload is ignored)
                               when it listens or has failed: until then the relay keeps
                               QEMU's greeting from the clients, since QEMU, too, listens
                               before it greets */
    FF_LINK_SYNCED,         /* answer to SYNC */
    FF_LINK_PING,           /* the engine's main loop answers PONG with the same SEQ. An engine that
                               does not for 30 s is killed, and another one is started */
    FF_LINK_REST,           /* an engine that only waits whether more comes says IDLE now */

    /* engine -> relay */
    FF_LINK_REPLY = 64, /* the answer to SEQ: one JSON line for the client (no newline) */
    FF_LINK_PASS,       /* let QEMU answer SEQ: the original bytes and fds go to QEMU */
    FF_LINK_PASS_AS,    /* let QEMU answer SEQ, but the payload goes to QEMU in its place */
    FF_LINK_EVENT,      /* an event for every client that has left negotiation mode */
    FF_LINK_FILTER,     /* payload: uint32_t, FF_FILTER_*; holds until the engine ends. Events
                           that QEMU emits after this was sent see it; a lifted
                           FF_FILTER_MIGRATION_EVENTS still drops those emitted before (but not if
                           FF_FILTER_SETUP_EVENTS takes its place) */
    FF_LINK_TAKE_FD,    /* payload: a name that the client on MON gave with getfd. The relay
                           answers FD_REPLY and forgets its copy. (QEMU's own copy is closed by
                           the engine with INJECT of closefd.) */
    FF_LINK_INJECT,     /* a QMP command (payload, JSON object without "id") for QEMU on the
                           connection of client MON; the reply comes as INJECT_REPLY with SEQ */
    FF_LINK_HOLD,       /* payload: JSON {"name": ..., more}; one fd, kept until DROP, handed to the
                           next engine in INIT. RAM: {"name": "ram:ID", "size":, "page-size":} */
    FF_LINK_DROP,       /* payload: the name */
    FF_LINK_IDLE,       /* nothing is under way: if no command was sent since, the relay closes the
                           link, and the engine ends at EOF */
    FF_LINK_KILL_QEMU,  /* SIGKILL to QEMU by pidfd; payload: why, one line */
    FF_LINK_STARTED, /* INIT is understood; the first frame. An engine that ends before it has done
                        nothing */
    FF_LINK_SYNC,    /* the relay answers SYNCED with the same SEQ when what was sent before is in
                        the clients' sockets (or waits for a client that reads nothing). With the
                        payload "words": and when QEMU has answered each cont and stop that went to
                        it (relays before this one do not wait for that); one at a time */
    FF_LINK_PONG,    /* answer to PING */
    FF_LINK_TAKE_UFFD, /* payload: "protect". The relay answers FD_REPLY, when it has taken away
                          what an engine before has left if it is at that, and lends it to nobody
                          else until it comes back. Asked only of a relay whose INIT has
                          "protect-error" */
    FF_LINK_GIVE_UFFD, /* the same payload, and the fd: nothing is registered in it any more.
                          Without it: the engine has closed it, but something may be registered; the
                          relay closes it as well, and a thread that waits continues */
    FF_LINK_OPEN,      /* the guest is this QEMU's now: clients may come to monitors that listen */
    FF_LINK_FRONT,     /* the guest has gone to another QEMU, and this process stays as its front
                          (guest/relay/placeholder.h): its clients are let go, and no other one comes */
    FF_LINK_TAKEN, /* the guest is this QEMU's, and the other one lives still: what QEMU has made
                      beside that one's files gets their names (guest/relay/socket-renames.c) */
} FfLinkType;

enum {
    FF_FILTER_RUN_STATE = 1 << 0, /* cont, stop, system_reset, system_wakeup, query-status are
                                     owned (QMP and HMP) */
    FF_FILTER_MIGRATION_EVENTS = 1 << 1, /* drop MIGRATION and MIGRATION_PASS of QEMU */
    FF_FILTER_STOP_RESUME = 1 << 2,      /* drop STOP and RESUME of QEMU */
    /* Drop MIGRATION of QEMU if it says "setup", which the client has been told already. For a
     * migration that QEMU is about to carry: QEMU may be done with it before a filter of all its
     * events could be lifted. */
    FF_FILTER_SETUP_EVENTS = 1 << 3,
    FF_FILTER_OVERDUE = 1 << 4, /* QEMU's main loop may wait for what only the engine can bring:
                                   a client that asked QEMU for something is answered after a
                                   while */
};

typedef struct {
    uint32_t length; /* of the payload, bytes */
    uint16_t type;   /* FfLinkType */
    uint16_t mon;    /* index of the client monitor */
    uint32_t seq;
    uint32_t n_fds;
} FfLinkHeader;
static_assert(sizeof(FfLinkHeader) == 16, "sent between processes");

/*
 * INIT's JSON: {"engine-restarts": n, "policy": "auto|always|never",
 *  "start-paused": bool, "incoming": URI|null, "incoming-taken": bool,
 *  "engine-refused": TEXT|null, "uffd-error": TEXT|null (why none for missing pages),
 *  "tracking-error": TEXT|null, "protect-error": TEXT|null, "discards-error": TEXT|null,
 *  "name": TEXT|null, "qemu-pid": n,
 *  "monitors": [{"id": ID}], "command-line": [TEXT, ...] (QEMU's, as the user gave it; missing:
 *  not known), "fds": [NAME, ...], "held": [{"name": ..., ...}]}
 * "fds" names the attached fds in order: "state", "qemu-monitor" (O_PATH of the private
 * monitor's listening socket: connect to /proc/self/fd/N), "pidfd", "pagemap", "maps",
 * "mem", "discards" (discards.h), "device-backends" (backends.h) and "device-faults" (sharers.h;
 * only where they are followed), "listens:ID" (the socket of a monitor that listens), "door" (where
 * another relay asks for the clients, guest/relay/clients.h), "front" and "front-door" (a pidfd of
 * the process that stays as the guest's front, and the door of its relay:
 * guest/relay/placeholder.h), "given:N" (a copy of QEMU's fd N, which who has started it has given
 * it), "uffd:KIND" of contract/kinds.h but "protect" (relays before: "uffd:0" tracks, "uffd:1" is
 * for missing pages, none of "uffd:2" ... is used), and for each of "held" its name ("ram:ID",
 * ...).
 */

/* One end of the link. Everything runs in the thread of its main context; no locks. */
typedef struct FfLink FfLink;

typedef struct {
    /* One whole frame. FDS holds header->n_fds close-on-exec fds; the callee keeps one by
     * setting its place to -1, the others are closed afterwards. May free the link. */
    void (*frame)(FfLink *link, const FfLinkHeader *header, GBytes *payload, int *fds,
                  void *opaque);
    /* Called once, then nothing more comes: the peer is gone (ERROR is NULL) or it broke the
     * rules above. May free the link. */
    void (*closed)(FfLink *link, const GError *error, void *opaque);
} FfLinkOps;

/* Takes FD (a connected unix stream socket) and makes it non-blocking. CONTEXT NULL: default. */
FfLink *ff_link_new(int fd, GMainContext *context, const FfLinkOps *ops, void *opaque);
/* Queues one frame; what the socket takes is written at once. FDS are duplicated, the caller
 * keeps its own. Returns 0, -EMSGSIZE (payload or number of fds over the limit), -EBADF (FDS
 * holds a bad fd) or -EPIPE (the link is dead; closed() has come or will). */
int ff_link_send(FfLink *link, FfLinkType type, unsigned mon, uint32_t seq, const void *payload,
                 size_t length, const int *fds, unsigned n_fds);
/* Reads and hands out what has come by now; for a caller that must know before it continues. */
void ff_link_read_now(FfLink *link);
/* Bytes that wait in the queue. */
size_t ff_link_queued(const FfLink *link);
/* Blocks until the queue is written or the link is dead; for a process that is about to end. */
int ff_link_flush(FfLink *link);
/* Closes the link; closed() is not called. NULL is allowed. */
void ff_link_free(FfLink *link);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfLink, ff_link_free)

/* Its back-end would find holes where pages are missing, and make zeros of them in a file that is
 * everybody's. */
#define FF_PLUG_COMING                                                                             \
    "a device whose back-end is another process is not plugged while the guest's memory is "       \
    "coming: plug it before migrate-incoming, or when the migration is over"

#endif
