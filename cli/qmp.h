/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A small QMP client for the command line tools: one connection, commands with replies matched
 * by id, events in order. Speaks to any QEMU, stock or behind farfault.
 *
 * One thread. ff_cli_qmp_call() waits for its reply; ff_cli_qmp_send() does not and has its
 * reply delivered by ff_cli_qmp_pump(), which a GLib source of ff_cli_qmp_socket() drives.
 */
#ifndef FF_CLI_QMP_H
#define FF_CLI_QMP_H

#include <gio/gio.h>
#include <json-glib/json-glib.h>
#include <stdbool.h>

typedef struct FfCliQmp FfCliQmp;

#define FF_CLI_QMP_ERROR (ff_cli_qmp_error_quark())
GQuark ff_cli_qmp_error_quark(void);
typedef enum {
    FF_CLI_QMP_ERROR_REFUSED, /* QEMU answered with an error; the message is QEMU's */
    FF_CLI_QMP_ERROR_CLOSED,  /* the other end closed the monitor */
    FF_CLI_QMP_ERROR_TIMEOUT, /* no answer in time */
    FF_CLI_QMP_ERROR_FOREIGN, /* what came was not QMP */
} FfCliQmpError;

/* RESULT is the "return" value, or NULL with ERROR set; both are borrowed. */
typedef void (*FfCliQmpReply)(JsonNode *result, const GError *error, void *opaque);

/*
 * Connects to ADDRESS ("PATH", "unix:PATH" or "tcp:HOST:PORT"), waits for the greeting and
 * leaves negotiation mode. ROLE ("source", ...) names this side in error messages; may be NULL.
 */
FfCliQmp *ff_cli_qmp_open(const char *address, const char *role, GError **error);
/* The same over a socket that is connected already. Takes a reference on SOCKET. */
FfCliQmp *ff_cli_qmp_open_socket(GSocket *socket, const char *address, const char *role,
                                 GError **error);
void ff_cli_qmp_free(FfCliQmp *qmp);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfCliQmp, ff_cli_qmp_free)

/* The host of a tcp address; NULL for a unix socket. */
const char *ff_cli_qmp_host(const FfCliQmp *qmp);
/* What the greeting said of QEMU's version: "7.2.22 (Debian 1:7.2+...)". */
const char *ff_cli_qmp_version(const FfCliQmp *qmp);
/* For a GSource; everything else goes through the functions below. */
GSocket *ff_cli_qmp_socket(FfCliQmp *qmp);

/* Sends COMMAND with ARGUMENTS (taken; may be NULL). REPLY may be NULL. */
bool ff_cli_qmp_send(FfCliQmp *qmp, const char *command, JsonObject *arguments, FfCliQmpReply reply,
                     void *opaque, GError **error);
/* Sends COMMAND and waits for its reply. The caller frees the node. Events that come meanwhile
 * are kept for ff_cli_qmp_take_event(). */
JsonNode *ff_cli_qmp_call(FfCliQmp *qmp, const char *command, JsonObject *arguments,
                          GError **error);
/* The same, and waits as long as it takes. */
JsonNode *ff_cli_qmp_call_patiently(FfCliQmp *qmp, const char *command, JsonObject *arguments,
                                    GError **error);
/* Reads what is there without waiting, delivers replies, keeps events. FALSE at the end of the
 * connection; replies still outstanding have been delivered as errors then. */
bool ff_cli_qmp_pump(FfCliQmp *qmp, GError **error);
/* The oldest event not taken yet, or NULL. The caller unrefs it. */
JsonObject *ff_cli_qmp_take_event(FfCliQmp *qmp);

#endif
