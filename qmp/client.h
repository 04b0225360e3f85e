/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A client of one QMP monitor: greeting, commands with ids and fds, events.
 *
 * All I/O and all callbacks happen on the thread that runs the GMainContext given at creation.
 * Every function may be called from any thread; those that wait (ff_qmp_call_sync(),
 * ff_qmp_call_end(), ff_qmp_watch_next()) must not be called on that thread. Commands given before
 * the greeting are sent after it, in order.
 *
 * There are two kinds. Of a QEMU's private monitor this client is the only one, in a process of
 * several threads, and QEMU may be hostile. A shared monitor is any that a person names: others use
 * it too, and this program has one thread, the one that waits.
 */
#ifndef FF_QMP_CLIENT_H
#define FF_QMP_CLIENT_H

#include <gio/gio.h>
#include <json-glib/json-glib.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct FfQmpClient FfQmpClient;
typedef struct FfQmpWatch FfQmpWatch;
typedef struct FfQmpCall FfQmpCall;

#define FF_QMP_ERROR (ff_qmp_error_quark())
GQuark ff_qmp_error_quark(void);
typedef enum {
    FF_QMP_ERROR_GENERIC,           /* QEMU's GenericError and classes not listed here */
    FF_QMP_ERROR_COMMAND_NOT_FOUND, /* this QEMU does not have the command */
    FF_QMP_ERROR_GONE,              /* the connection is dead, so is the guest (or its monitor) */
    FF_QMP_ERROR_TIMEOUT,           /* no answer within the deadline; it may come later */
    FF_QMP_ERROR_PROTOCOL,          /* QEMU answered something that QMP does not allow */
    FF_QMP_ERROR_REFUSED,           /* the engine does not migrate this guest; QEMU may */
} FfQmpErrorCode;
/* QEMU has answered, with an error; ERROR can be NULL. */
bool ff_qmp_refused(const GError *error);

/* RESULT is QEMU's "return" (borrowed), NULL with ERROR set otherwise. */
typedef void (*FfQmpReplyFunc)(FfQmpClient *client, JsonNode *result, const GError *error,
                               void *opaque);
/* EVENT is the whole event object (borrowed): "event", "data", "timestamp". */
typedef void (*FfQmpEventFunc)(FfQmpClient *client, const char *name, JsonObject *event,
                               void *opaque);
/* How a connection ended. */
typedef struct {
    const char *why;  /* one line */
    int errnum;       /* the connection broke; 0: one end closed it */
    bool foreign;     /* what came is not QMP */
    const char *said; /* how that begins, escaped; can be NULL */
} FfQmpEnd;

/* The connection died. Called once; END is borrowed. */
typedef void (*FfQmpGoneFunc)(FfQmpClient *client, const FfQmpEnd *end, void *opaque);

/* Connects to the unix socket whose inode FD refers to (O_PATH; borrowed), also when it is
 * unlinked. Returns a connected close-on-exec fd, or -1 and ERROR. Waits until there is room for it
 * in the socket's listen queue. */
int ff_qmp_connect(int fd, GError **error);

/* Takes FD, a connected stream socket. CONTEXT may be NULL for the default one, EVENT and GONE for
 * "not wanted"; both are called on CONTEXT's thread (GONE on that of ff_qmp_client_close()). */
FfQmpClient *ff_qmp_client_new(int fd, GMainContext *context, FfQmpEventFunc event,
                               FfQmpGoneFunc gone, void *opaque);
/* The same, connected to the socket of INODE as by ff_qmp_connect(), which is never waited for:
 * where QEMU does not accept, and its listen queue is full, that goes on behind, and commands wait
 * as for the greeting. NULL and ERROR: nobody listens there. */
FfQmpClient *ff_qmp_client_new_to(int inode, GMainContext *context, FfQmpEventFunc event,
                                  FfQmpGoneFunc gone, void *opaque, GError **error);
/* The same on the default context, for a shared monitor. The functions that wait run the context
 * meanwhile, so everything belongs to one thread, which must not wait from within a callback. */
FfQmpClient *ff_qmp_client_new_shared(int fd, FfQmpEventFunc event, FfQmpGoneFunc gone,
                                      void *opaque);
FfQmpClient *ff_qmp_client_ref(FfQmpClient *client);
void ff_qmp_client_unref(FfQmpClient *client);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfQmpClient, ff_qmp_client_unref)

/* Ends the connection: every call under way fails. The last unref does not imply it, because
 * the connection itself holds a reference. */
void ff_qmp_client_close(FfQmpClient *client);

/* Who waits for an answer without a deadline says so once, in the log, after so many milliseconds,
 * and waits on. 0, as it is made: never. Not of a shared one. Any thread. */
void ff_qmp_client_set_patience(FfQmpClient *client, unsigned ms);

/* Sends COMMAND with ARGS (borrowed, can be NULL) and N_FDS fds (borrowed: duplicated). REPLY can
 * be NULL. It is called exactly once. */
void ff_qmp_call(FfQmpClient *client, const char *command, JsonObject *args, const int *fds,
                 unsigned n_fds, FfQmpReplyFunc reply, void *opaque);
/* No reply goes to OPAQUE any more. On the context's thread only. */
void ff_qmp_client_forget(FfQmpClient *client, const void *opaque);

/* The same in two steps: several commands can be sent before the first answer is waited for. QEMU
 * carries them out and answers in order. DEADLINE_MS 0 = none, from ff_qmp_call_end() on; CANCEL
 * can be NULL. Returns QEMU's "return" (free with json_node_unref()), or NULL and ERROR; frees
 * CALL. */
FfQmpCall *ff_qmp_call_begin(FfQmpClient *client, const char *command, JsonObject *args,
                             const int *fds, unsigned n_fds);
JsonNode *ff_qmp_call_end(FfQmpCall *call, unsigned deadline_ms, GCancellable *cancel,
                          GError **error);
/* Nobody wants the answer any more. */
void ff_qmp_call_drop(FfQmpCall *call);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfQmpCall, ff_qmp_call_drop)

/* The same, and waits. DEADLINE_MS 0 = none; CANCEL can be NULL. Returns QEMU's "return" (free
 * with json_node_unref()), or NULL and ERROR. */
JsonNode *ff_qmp_call_sync(FfQmpClient *client, const char *command, JsonObject *args,
                           const int *fds, unsigned n_fds, unsigned deadline_ms,
                           GCancellable *cancel, GError **error);

/* Collects the events called NAME (NULL = all) from now on: make the watch before the command
 * that causes the event, and none is lost. */
FfQmpWatch *ff_qmp_watch_new(FfQmpClient *client, const char *name);
/* Waits for the next collected event, the whole object; free with json_node_unref(). NULL and ERROR
 * on deadline, cancel or a dead connection. */
JsonNode *ff_qmp_watch_next(FfQmpWatch *watch, unsigned deadline_ms, GCancellable *cancel,
                            GError **error);
/* An event was collected that nobody has taken. Does not wait; the events of QEMU come before the
 * answers to the commands that it carried out after them. */
bool ff_qmp_watch_any(FfQmpWatch *watch);
void ff_qmp_watch_free(FfQmpWatch *watch);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfQmpWatch, ff_qmp_watch_free)

/* Waits until QEMU has greeted. */
bool ff_qmp_client_wait_greeting(FfQmpClient *client, unsigned deadline_ms, GCancellable *cancel,
                                 GError **error);
/* The same, and until negotiation is over. */
bool ff_qmp_client_wait_ready(FfQmpClient *client, unsigned deadline_ms, GCancellable *cancel,
                              GError **error);
/* Replaces what would break or forge a line of a log: a message may quote what QEMU says. */
void ff_qmp_one_line(char *text);

/* QEMU's version as major * 10000 + minor * 100 + micro; 0 before the greeting. */
unsigned ff_qmp_client_version(FfQmpClient *client);
/* QEMU's greeting, JSON (g_free); NULL before it. */
char *ff_qmp_client_greeting(FfQmpClient *client);

#endif
