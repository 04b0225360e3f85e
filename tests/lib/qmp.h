/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A synchronous QMP client for tests. Each command has a deadline and an id that must come back;
 * events are queued in their order until somebody waits for them.
 *
 * Arguments are written as JSON with single quotes in place of double ones:
 *     qmp_ok(q, "migrate", "{'uri': '%s'}", uri);
 */
#ifndef FF_TESTS_QMP_H
#define FF_TESTS_QMP_H

#include <json-glib/json-glib.h>
#include <stdbool.h>

#include "tests/lib/stream.h"

typedef struct Qmp Qmp;
/* Takes FD over; reads the greeting and leaves negotiation mode (with out-of-band if OOB). */
Qmp *qmp_new(int fd, const char *label, bool oob);
void qmp_free(Qmp *q);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Qmp, qmp_free)

/* Runs a command ("oob:NAME": out-of-band); the whole answer: {"return": ...} or {"error": ...}.
 * NULL if the monitor was closed instead. ARGS may be NULL. */
JsonObject *qmp_call(Qmp *q, const char *command, const char *args, ...) G_GNUC_PRINTF(3, 4);
/* Must succeed; returns nothing, or the member "return" as an object. */
void qmp_ok(Qmp *q, const char *command, const char *args, ...) G_GNUC_PRINTF(3, 4);
/* The same for what kills the engine: it, or all of QEMU, may be gone before it has answered. */
void qmp_ok_or_dies(Qmp *q, const char *command, const char *args, ...) G_GNUC_PRINTF(3, 4);
JsonObject *qmp_return(Qmp *q, const char *command, const char *args, ...) G_GNUC_PRINTF(3, 4);
/* Must fail; returns the description of the error (g_free). */
char *qmp_error(Qmp *q, const char *command, const char *args, ...) G_GNUC_PRINTF(3, 4);
/* getfd NAME with FD, which stays the caller's. */
void qmp_getfd(Qmp *q, const char *name, int fd);
/* add-fd with FD, which stays the caller's: its number in QEMU, *SET of what it is a part of there.
 */
int qmp_add_fd(Qmp *q, int fd, int64_t *set);
/* The relay stands before QEMU. It is asked alone: no engine is started. */
bool qmp_has_relay(Qmp *q);
/* human-monitor-command; its output (g_free). */
char *qmp_hmp(Qmp *q, const char *line);

/* A condition on the member "data" of an event (NULL if it has none). */
typedef bool (*QmpPredicate)(JsonObject *data, const void *opaque);
/* Waits for event NAME for which PREDICATE (may be NULL) holds; earlier ones that still stand in
 * the queue count. It is taken out of the queue, others stay. Fails the test at the deadline and
 * when the monitor is closed. Free with json_object_unref(). */
JsonObject *qmp_wait_event(Qmp *q, const char *name, QmpPredicate predicate, const void *opaque,
                           unsigned seconds);
/* Waits for the event and forgets it. */
void qmp_expect(Qmp *q, const char *name);
/* Waits for event MIGRATION with this status. */
void qmp_expect_migration(Qmp *q, const char *status);
/* TRUE if such an event came and was not waited for; reads what is there, does not wait. */
bool qmp_has_event(Qmp *q, const char *name);
/* All events that came so far and were not waited for, by name, separated by blanks. */
char *qmp_event_names(Qmp *q);

/* They are not waited for any more. */
void qmp_drop_events(Qmp *q);

/* query-migrate's member "status"; "none" if it has none yet (g_free). */
char *qmp_migrate_status(Qmp *q);
/* query-status's member "status" (g_free). */
char *qmp_run_state(Qmp *q);
/* A source whose migration is over. QEMU says "completed" a moment before the run state follows,
 * and there is no event for that. */
void qmp_wait_postmigrate(Qmp *q);
void qmp_set_capability(Qmp *q, const char *name, bool on);

/* For tests of the monitor itself: bytes out, one line in, exactly as they are. */
Stream *qmp_stream(Qmp *q);

#endif
