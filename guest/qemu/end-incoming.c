/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Ends a QEMU whose incoming migration has failed, with the status that it would end with by
 * itself.
 *
 * Threads: the coordinator's, or another one while there is no migration. No lock here.
 */
#include "guest/qemu/internal.h"

#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "guest/qemu/call.h"
#include "guest/qemu/device-state.h"
#include "guest/qemu/settings.h"
#include "guest/qemu/status.h"
#include "qmp/json.h"

/* For QEMUs that are to die anyway and may hang in a page fault. */
#define ABANDON_DEADLINE_MS 2000

void ff_qemu_doom(FfVmmState *state)
{
    FfQemu *qemu = ff_qemu_of_state(state);
    int fd = -1;

    if (!qemu->loading && !state->keep_failed) {
        /* QEMU ends with status 1 when its stream ends early, here before the first byte; but not
         * when a TLS handshake fails, nor if it takes no stream at all (multifd). It may have the
         * client's settings still: an engine that gives up before a source was greeted has changed
         * nothing. */
        ff_qemu_prepare(state, FF_ROLE_DESTINATION, NULL);
        ff_qemu_load(state, &fd, NULL);
    }
    if (qemu->stream >= 0) {
        shutdown(qemu->stream, SHUT_RDWR);
    }
    if (fd >= 0) {
        close(fd);
    }
}

/* QEMU has given up what it was loading. What it had in its socket it reads to the end, and may be
 * a guest then that anybody can start: that it is "inmigrate" still does not mean that it was not
 * enough. */
static bool has_given_up(FfQemu *qemu, FfQmpWatch *watch)
{
    for (;;) {
        g_autoptr(JsonNode) node =
            ff_qemu_call_within(qemu, "query-migrate", NULL, ABANDON_DEADLINE_MS, NULL);
        JsonObject *o = ff_json_node_object(node);
        const char *status = o ? ff_json_string(o, "status") : NULL;

        if (!status || !strcmp(status, "completed") || !strcmp(status, "failed")) {
            return status && !strcmp(status, "failed");
        }
        g_autoptr(JsonNode) event = ff_qmp_watch_next(watch, ABANDON_DEADLINE_MS, NULL, NULL);
        if (!event) {
            return false;
        }
    }
}

/* It lives on, as its client wants, and has no guest. */
static bool may_live(FfQemu *qemu, const char *now, FfQmpWatch *watch)
{
    bool waits = now && !strcmp(now, "inmigrate");

    return qemu->loading ? waits && has_given_up(qemu, watch) : waits || !now;
}

void ff_qemu_abandon(FfVmmState *state)
{
    FfQemu *qemu = ff_qemu_of_state(state);
    g_autoptr(FfQmpWatch) watch = ff_qmp_watch_new(qemu->qmp, "MIGRATION");
    g_autofree char *now = NULL;

    ff_qemu_doom(state); /* again is as good: it loads by now, or could not */
    now = ff_qemu_run_state_within(qemu, ABANDON_DEADLINE_MS);
    if (state->keep_failed ? !may_live(qemu, now, watch) : now && strcmp(now, "inmigrate")) {
        /* Already loaded, or it does not say so: there is no way to make QEMU exit with another
         * status than 0. */
        ff_qemu_call_and_forget(qemu, "quit", NULL, ABANDON_DEADLINE_MS);
    } else if (state->keep_failed) {
        g_autoptr(GError) error = NULL;

        if (!ff_qemu_undo(state, &error)) {
            g_message("%s: %s", qemu->name, error->message);
        }
    }
}
