/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See placeholder.h. One thread; no locks. System calls: pidfd_send_signal, sendmsg, close. */
#include "guest/relay/placeholder.h"

#include <errno.h>
#include <glib-unix.h>
#include <signal.h>
#include <string.h>
#include <sys/pidfd.h>
#include <unistd.h>

#include "base/pidfd.h"
#include "base/rights.h"

/* A front that has been told to end has nothing left to do. */
#define END_S 10

struct FfPlaceholder {
    int heir;       /* pidfd; -1: not known yet */
    int next;       /* of the QEMU that may get the guest from that one; -1: none may */
    GSource *watch; /* for its end; NULL */
    bool orderly;   /* it is about to end by itself */
    bool begun;     /* this QEMU has no guest any more */
    bool heard;     /* who has it was said at the door of this relay */
};

static FfPlaceholder *front_of(FfRelay *relay)
{
    if (!relay->front) {
        relay->front = g_new0(FfPlaceholder, 1); /* lives as long as the process */
        relay->front->heir = relay->front->next = -1;
    }
    return relay->front;
}

static void signal_guest(FfRelay *relay, int number)
{
    if (relay->guest.pidfd >= 0) {
        (void)pidfd_send_signal(relay->guest.pidfd, number, NULL, 0); /* ESRCH: it has ended */
    }
}

static gboolean lives_on(gpointer opaque)
{
    signal_guest(opaque, SIGKILL);
    return G_SOURCE_REMOVE;
}

static void watch_heir(FfRelay *relay);

/* Who watches this process is to see what became of the guest. */
static gboolean heir_ended(gint fd, GIOCondition condition, gpointer opaque)
{
    FfRelay *relay = opaque;
    FfPlaceholder *f = relay->front;

    g_clear_pointer(&f->watch, g_source_unref);
    if (f->next >= 0 && !ff_pidfd_has_ended(f->next)) {
        /* It has the guest, and its relay has not come to say so; or it will end as well. */
        close(f->heir);
        f->heir = g_steal_fd(&f->next); /* orderly stays: who has lost the guest does not say it */
        watch_heir(relay);
        return G_SOURCE_REMOVE;
    }
    signal_guest(relay, f->orderly ? SIGTERM : SIGKILL);
    if (f->orderly) {
        g_timeout_add_seconds(END_S, lives_on, relay);
    }
    return G_SOURCE_REMOVE;
}

static void stop_watching(FfPlaceholder *f)
{
    if (f->watch) {
        g_source_destroy(f->watch);
        g_clear_pointer(&f->watch, g_source_unref);
    }
}

/* Those who would say who has the guest now have the door of this relay: not of one that came by
 * attach when the one before had died. Then they see to the end of both (behind-placeholder.c). */
static bool is_heard(const FfRelay *relay)
{
    return !relay->plan->attached || relay->plan->door_inner >= 0 || relay->front->heard;
}

/* After what was said at the door before that end: it may be another one that has the guest. */
static void watch_heir(FfRelay *relay)
{
    FfPlaceholder *f = relay->front;

    stop_watching(f);
    if (f->begun && f->heir >= 0 && is_heard(relay)) {
        f->watch = g_unix_fd_source_new(f->heir, G_IO_IN);
        g_source_set_priority(f->watch, G_PRIORITY_LOW);
        g_source_set_callback(f->watch, G_SOURCE_FUNC(heir_ended), relay, NULL);
        g_source_attach(f->watch, NULL);
    }
}

static void replace_fd(int *fd, int with)
{
    if (*fd >= 0) {
        close(*fd);
    }
    *fd = with;
}

void ff_placeholder_set_next(FfRelay *relay, int next)
{
    replace_fd(&front_of(relay)->next, next);
}

void ff_placeholder_set_heir(FfRelay *relay, int heir)
{
    FfPlaceholder *f = front_of(relay);

    stop_watching(f);
    replace_fd(&f->heir, heir);
    replace_fd(&f->next, -1);
    f->orderly = false;
    f->heard = true;
    watch_heir(relay);
}

void ff_placeholder_lost_heir(FfRelay *relay)
{
    FfPlaceholder *f = front_of(relay);

    stop_watching(f);
    replace_fd(&f->heir, g_steal_fd(&f->next)); /* it was said before, and is that one */
    f->heard = true;
    watch_heir(relay);
    if (f->heir < 0) {
        ff_relay_log(relay, "no room for the pidfd of the QEMU that has the guest: this process "
                            "stays until it is ended");
    }
}

void ff_placeholder_orderly(FfRelay *relay)
{
    front_of(relay)->orderly = true;
}

bool ff_placeholder_begin(FfRelay *relay, int heir)
{
    FfPlaceholder *f = front_of(relay);

    if (f->begun) {
        if (heir >= 0) {
            close(heir);
        }
        return false;
    }
    f->begun = true;
    if (f->heir < 0) {
        f->heir = heir;
    } else if (heir >= 0) {
        close(heir);
    }
    if (f->heir < 0) {
        ff_relay_log(relay, "nobody has said which QEMU has the guest: this process stays until it "
                            "is ended");
    }
    watch_heir(relay);
    return true;
}

void ff_placeholder_say_where(const FfRelay *relay, int socket)
{
    const FfPlaceholder *f = relay->front;
    pid_t pid = f ? ff_pidfd_pid(f->heir) : -1;

    if (pid > 0) {
        g_autofree char *text = g_strdup_printf("%d", (int)pid);

        ff_rights_send(socket, text, strlen(text), NULL, 0);
    }
}

bool ff_placeholder_farewell(FfRelay *relay)
{
    const FfPlaceholder *f = relay->front;
    const char patience = FF_AGENT_PATIENCE;

    if (!f || !ff_state_is_marked(relay->state, FF_MARK_FRONT)) {
        return false;
    }
    /* Whichever has the guest must not be cut off in its end by that of this process. The first may
     * have ended, and this one not have heard yet that the next one has it. */
    const int all[] = {f->heir, f->next};
    int both[FF_AGENT_MAX_WAITS];
    unsigned waits = 0;
    for (unsigned i = 0; i < G_N_ELEMENTS(all); i++) {
        if (all[i] >= 0 && !ff_pidfd_has_ended(all[i])) {
            (void)pidfd_send_signal(all[i], SIGTERM, NULL, 0);
            both[waits++] = all[i];
        }
    }
    if (!waits) {
        return false;
    }
    ssize_t n = ff_rights_send(relay->plan->agent_fd, &patience, 1, both, waits);
    if (n < 0) {
        ff_relay_log(relay, "QEMU's farewell cannot be answered: %s", g_strerror(-n));
    }
    return true;
}

void ff_placeholder_end(FfRelay *relay)
{
    const FfPlaceholder *f = relay->front;

    if (!f || !ff_state_is_marked(relay->state, FF_MARK_FRONT)) {
        return;
    }
    const int both[] = {f->heir, f->next};
    for (unsigned i = 0; i < G_N_ELEMENTS(both); i++) {
        if (both[i] >= 0) {
            (void)pidfd_send_signal(both[i], SIGKILL, NULL, 0);
        }
    }
}
