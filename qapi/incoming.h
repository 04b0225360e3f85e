/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The incoming side, inside: what its files share. incoming.c says which they are.
 *
 * All of it belongs to the main loop's thread.
 */
#ifndef FF_QAPI_INCOMING_H
#define FF_QAPI_INCOMING_H

#include "net/splice.h"
#include "qapi/driver-private.h"
#include "qapi/private-name.h"

/* By which QEMU knows the one connection. */
#define FF_INCOMING_FD_NAME "farfault-incoming"

struct FfIncoming {
    FfDriver *driver;
    GArray *fds;             /* of int: listening sockets, or one connected */
    GPtrArray *sources;      /* GSource: wait for the first connection */
    char *path;              /* unix socket to be removed at the end; NULL */
    FfPrivateName *name;     /* of QEMU's own socket; NULL */
    FfSplice *native;        /* NULL unless QEMU carries it over several connections */
    bool paused;             /* the guest is not to run when it has arrived */
    FfStream *plain;         /* connection of a source without farfault; NULL */
    FfTls *plain_tls;        /* that it is under; NULL */
    GByteArray *plain_first; /* what was read of it */
    GPtrArray *plain_later;  /* of FfChannel: connections that came after it; NULL: none */
    bool keep_failed;        /* exit-on-error is false */
    bool single;             /* QEMU takes one connection: neither multifd nor postcopy-preempt */
    unsigned held;           /* so many of fds are with the relay, too */
    int ready;               /* index in fds of the one that has a connection */
    gint64 asked_us;         /* when it had come, and QEMU was asked */
    JsonNode *parameters;    /* from its coming until they are looked at; NULL */
};

/* incoming.c */
FfIncoming *ff_incoming_new(FfDriver *d);
/* Listening is over, nobody is carried by us. */
void ff_incoming_forget(FfDriver *d);
/* The relay has a copy of each listening socket until the source is known. */
void ff_incoming_hold(FfIncoming *in);
/* What QEMU does with an incoming migration that cannot begin: it ends, with status 1. */
void ff_incoming_give_up(FfDriver *d, const char *why);
/* QEMU is to carry what was listened for here, */
void ff_incoming_give(FfDriver *d);
/* has not said yet that it has it, */
bool ff_incoming_gives(const FfDriver *d);
/* and has it. */
void ff_incoming_given(FfDriver *d);
/* Of QEMU's migrate-incoming. IN can be NULL. */
JsonObject *ff_incoming_uri_argument(const FfIncoming *in, const char *uri);

/* incoming-native.c */
/* QEMU takes CALL, a migrate-incoming; call->native says why, if the engine was asked for it. */
void ff_incoming_pass_native(FfCall *call);
/* incoming-start.c */
/* A copy of what QEMU has open as NUMBER; -1 and errno. */
int ff_incoming_copy_fd(const FfDriver *d, int number);
/* restore.c */
/* A restore whose file call->fd is, with call->parameters and capabilities. */
void ff_restore_start(FfCall *call);
/* restore-disks.c */
/* NEXT, if CALL's guest can write to no image that belongs to the snapshot that it is restored from
 * (call->target.path, or call->fd where that is only a name); else an error is the answer. */
void ff_restore_check_disks(FfCall *call, FfHandler next);
/* The path by which FD, which is open, can be found here (g_free); NULL: there is none. */
char *ff_restore_path_of(int fd);
/* restore-asked.c */
/* CALL, a migrate-incoming, is from a file, and such are restored lazily. */
bool ff_restore_is_asked(const FfCall *call);
/* With capabilities and parameters: it is, or QEMU takes CALL. */
void ff_restore_asked(FfCall *call);

/* incoming-stream.c */
/* QEMU has been given the client's capabilities (FfCallInner): and now the connections. */
void ff_incoming_stream(FfCall *call, JsonNode *result, const GError *error);
/* QEMU listens at the private name. */
void ff_incoming_splice(FfDriver *d);

/* incoming-decide.c */
/* Looks at the first connection, when it waits. */
void ff_incoming_watch(FfIncoming *in);
/* Listens at TARGET; LIST: the addresses of a TCP target. */
bool ff_incoming_begin_listening(FfDriver *d, const FfUri *target, const struct addrinfo *list,
                                 bool keep_failed, GError **error);
/* FD (taken) is a connection, or listens. */
void ff_incoming_begin_connected(FfDriver *d, int fd, bool keep_failed);
/* Finds the addresses of CALL's target and continues with NEXT, at once but for a name of a
 * host. */
void ff_incoming_find(FfCall *call, FfCallResolved next);
bool ff_incoming_is_socket(int fd);

#endif
