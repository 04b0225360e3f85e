/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A monitor that a person has named, of any QEMU, stock or behind farfault: qmp/client.h with
 * addresses, deadlines and errors in words for people.
 *
 * One thread, on the default main context. ff_cli_qmp_call() runs it until the reply is there;
 * ff_cli_qmp_send() leaves that to the caller's loop. Errors are of FF_QMP_ERROR.
 */
#ifndef FF_CLI_COMMON_QMP_H
#define FF_CLI_COMMON_QMP_H

#include "qmp/client.h"

typedef struct FfCliQmp FfCliQmp;

/* EVENT is the whole event; NULL: the connection is dead, ERROR (of this connection) says why.
 * Borrowed. */
typedef void FfCliQmpListen(JsonObject *event, const GError *error, void *opaque);

/*
 * Connects to ADDRESS ("PATH", "unix:PATH" or "tcp:HOST:PORT"), waits for the greeting and
 * leaves negotiation mode. ROLE ("source", ...) names this side in error messages; may be NULL.
 */
FfCliQmp *ff_cli_qmp_open(const char *address, const char *role, GError **error);
/* A word with a colon and digits after it that was perhaps to be a host and a port. */
bool ff_cli_qmp_is_tcp(const char *path);
/* The same as ff_cli_qmp_open() over FD, which is connected already; it is taken. */
FfCliQmp *ff_cli_qmp_open_fd(int fd, const char *address, const char *role, GError **error);
/* The same of a QEMU that this program has started, whose process is PIDFD (borrowed): as long as
 * that lives it is waited for, and so are its answers; who waits longer than usual is told so once,
 * on stderr. */
FfCliQmp *ff_cli_qmp_open_own(int fd, const char *address, int pidfd, GError **error);
void ff_cli_qmp_free(FfCliQmp *qmp);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfCliQmp, ff_cli_qmp_free)

/* The host of a tcp address; NULL for a unix socket. */
const char *ff_cli_qmp_host(const FfCliQmp *qmp);
/* What the greeting said of QEMU's version: "7.2.22 (Debian 1:7.2+...)". */
const char *ff_cli_qmp_version(const FfCliQmp *qmp);

/* Sends COMMAND with ARGUMENTS (taken; may be NULL). REPLY may be NULL; it is called once, at once
 * if the connection is dead. */
void ff_cli_qmp_send(FfCliQmp *qmp, const char *command, JsonObject *arguments,
                     FfQmpReplyFunc reply, void *opaque);
/* No reply goes to OPAQUE any more. */
void ff_cli_qmp_forget(FfCliQmp *qmp, const void *opaque);
/* Sends COMMAND and waits for its reply, for 20 s at most (of ff_cli_qmp_open_own(): as long as it
 * takes). The caller frees the node. Events that come meanwhile are kept if nobody listens. */
JsonNode *ff_cli_qmp_call(FfCliQmp *qmp, const char *command, JsonObject *arguments,
                          GError **error);
/* The same, and waits as long as it takes. */
JsonNode *ff_cli_qmp_call_patiently(FfCliQmp *qmp, const char *command, JsonObject *arguments,
                                    GError **error);
/* getfd NAME with FD (borrowed); of a unix socket alone. */
bool ff_cli_qmp_pass_fd(FfCliQmp *qmp, const char *name, int fd, GError **error);
/* LISTEN (NULL: nobody) gets the events from now on, and first those that were kept. */
void ff_cli_qmp_listen(FfCliQmp *qmp, FfCliQmpListen *listen, void *opaque);

#endif
