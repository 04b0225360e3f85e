/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The relay: start and end of its parts.
 *
 * It stands in the path of the guest's QMP monitors for the guest's whole life; libvirt takes
 * its death for the guest's. So it does little: one thread, one main loop, nothing allocated
 * while it idles, no timer unless there is an engine or a migration is paused. It is started by the
 * launcher before QEMU is (exec of "farfault-relay FD", FD the plan), is nobody's child, and ends
 * when QEMU ends.
 *
 * One thread, but for uffds.c where an engine was killed and does not end; no locks.
 * System calls: setsid, chdir, umask, close_range.
 */
#include "base/sandbox.h"
#include "guest/relay/backends.h"
#include "guest/relay/behind-placeholder.h"
#include "guest/relay/clients.h"
#include "guest/relay/engine.h"
#include "guest/relay/guest.h"
#include "guest/relay/hook.h"
#include "guest/relay/hotplug-vhost.h"
#include "guest/relay/internal.h"
#include "guest/relay/monitors.h"
#include "guest/relay/placeholder.h"
#include "guest/relay/replace-relay.h"

#include <errno.h>
#include <fcntl.h>
#include <glib-unix.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/failpoints.h"
#include "base/priority.h"

/* QEMU has ended: what it still said is delivered, then everybody is let go. The clients last, by
 * the kernel, right before this process leaves its control group: libvirt takes the group away as
 * soon as a monitor ends, tries it once, and on a busy host was there before exit() was done. */
static void relay_finish(FfRelay *relay)
{
    ff_placeholder_end(relay);
    ff_monitors_hear_out(relay);
    ff_backends_end(relay);
    ff_engine_end(relay);
    ff_names_end(relay);
    ff_behind_end(relay);
    if (!FF_SANITIZED) {
        _exit(0);
    }
    ff_monitors_end(relay); /* what is left is a leak */
}

static int compare_ints(gconstpointer a, gconstpointer b)
{
    return *(const int *)a - *(const int *)b;
}

/* Keeps the plan's fds (close-on-exec from now on), and /dev/null where stdio is not among
 * them; closes all others: the guest's log, libvirt's locked pid file, ... */
static bool keep_fds(const FfRelayPlan *plan)
{
    unsigned next = 0;

    g_array_sort(plan->fds, compare_ints);
    for (guint i = 0; i < plan->fds->len; i++) {
        unsigned fd = g_array_index(plan->fds, int, i);

        if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0) {
            return false;
        }
        if (fd > next) {
            close_range(next, fd - 1, 0);
        }
        next = fd + 1;
    }
    close_range(next, ~0u, 0);
    for (int fd = 0; fd <= 2; fd++) {
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) != fd) {
            return false;
        }
    }
    return true;
}

/* The user is QEMU's already: the launcher does what -runas says before exec. */
static bool harden_process(GError **error)
{
    signal(SIGPIPE, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    signal(SIGINT, SIG_IGN);
    /* A process that stops the machine stops QEMU; the relay follows it. Ending before would look
     * like a crash of the guest. */
    signal(SIGTERM, SIG_IGN);
    setsid();
    umask(077);
    if (chdir("/") < 0) {
        g_set_error(error, G_FILE_ERROR, g_file_error_from_errno(errno), "set-up: %s",
                    g_strerror(errno));
        return false;
    }
    return true;
}

/* A guest is not lost for that. */
static void give_up_rights(FfRelay *relay)
{
    g_autoptr(GError) error = NULL;

    if (!ff_sandbox_enter(FF_SANDBOX_RELAY, &error)) {
        ff_relay_log(relay, "the relay continues with more rights than it needs: %s",
                     error->message);
    }
}

/* ---- -incoming: the engine starts when QEMU's main loop runs --------------------------------- */

/* The private monitor's greeting says so. The connection is closed then: the engine makes its
 * own. */
static gboolean qemu_greets(gint fd, GIOCondition condition, gpointer data)
{
    FfRelay *relay = data;
    char byte;
    ssize_t n = recv(fd, &byte, 1, MSG_DONTWAIT);

    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        return G_SOURCE_CONTINUE;
    }
    close(fd);
    if (n > 0) {
        ff_guest_is_up(relay);
        ff_engine_start_incoming(relay);
    } /* else QEMU ended: its pidfd says it, too */
    return G_SOURCE_REMOVE;
}

static bool wait_for_qemu(FfRelay *relay, GError **error)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    g_snprintf(addr.sun_path, sizeof(addr.sun_path), "/proc/self/fd/%d", relay->plan->qemu_monitor);
    if (fd < 0 || connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
        g_set_error(error, G_FILE_ERROR, g_file_error_from_errno(errno),
                    "QEMU's private monitor: %s", g_strerror(errno));
        return false;
    }
    g_unix_fd_add(fd, G_IO_IN | G_IO_HUP, qemu_greets, relay);
    relay->clients_wait = true;
    return true;
}

/* A relay that takes another one's place, or comes by attach, is started as root: QEMU may have
 * been taken over by its guest by now, and its user may look into any process of its own that has
 * executed a program, but not into one that has changed its user since. TEXT: user, group and
 * groups, by number; can be NULL.
 */
static bool become_user(const char *text)
{
    g_auto(GStrv) words = text ? g_strsplit(text, " ", -1) : NULL;
    guint n = words ? g_strv_length(words) : 0;
    g_autofree gid_t *groups = g_new0(gid_t, n);

    if (geteuid() != 0 || n < 2) {
        return !text;
    }
    for (guint i = 1; i < n; i++) {
        groups[i - 1] = (gid_t)strtoul(words[i], NULL, 10);
    }
    return setgroups(n - 2, groups + 1) == 0 && setgid(groups[0]) == 0 &&
           setuid((uid_t)strtoul(words[0], NULL, 10)) == 0 && unsetenv(FF_RELAY_USER) == 0;
}

/* What can fail, and does nothing. */
static bool relay_prepare(FfRelay *relay, GError **error)
{
    const FfRelayPlan *plan = relay->plan;

    relay->state_fd = plan->state_fd >= 0 ? plan->state_fd : ff_state_create(plan->policy);
    relay->state = ff_state_map(relay->state_fd, error);
    return relay->state;
}

static bool relay_start(FfRelay *relay, GError **error)
{
    const FfRelayPlan *plan = relay->plan;

    relay->loop = g_main_loop_new(NULL, FALSE);
    if (!ff_guest_start(relay, error)) {
        return false;
    }
    if (!plan->attached) {
        relay->state->policy = plan->policy;
        relay->state->untracked = plan->untracked;
        relay->state->restore = plan->restore;
        if (plan->borrowed) {
            ff_state_mark(relay->state, FF_MARK_BORROWED);
        }
    }
    relay->engine = ff_engine_new(relay, &ff_monitors_engine_ops);
    if (ff_engine_listens_first(relay) && !wait_for_qemu(relay, error)) {
        return false;
    }
    relay->plugged = ff_hotplug_new();
    ff_monitors_start(relay);
    if (plan->attached) {
        ff_guest_left(relay); /* nobody is there any more who would hand it a guest */
        /* The relay before may have died before it could. */
        ff_names_take(relay, false);
        if (!ff_state_is_marked(relay->state, FF_MARK_BORROWED | FF_MARK_MOVED)) {
            ff_hook_set_accepts(relay, FF_ACCEPTS_ALL);
            ff_behind_taken(relay);
        }
    }
    ff_backends_start(relay);
    ff_behind_start(relay);
    return true;
}

int main(int argc, char **argv)
{
    g_autoptr(GError) error = NULL;
    static FfRelay relay; /* lives as long as the process, and all that hangs on it */
    char *end;
    long fd = argc == 2 || argc == 3 ? strtol(argv[1], &end, 10) : -1; /* the third: for ps */

    FF_FAULT_SIDE("relay");
    FF_FAULT_AT("started");
    signal(SIGXFSZ, SIG_IGN); /* as the engine: a limit of QEMU's ends none of them */
    if (!become_user(g_getenv(FF_RELAY_USER))) {
        fprintf(stderr, "farfault-relay: cannot become QEMU's user: %s\n", g_strerror(errno));
        return 1;
    }
    if (fd < 0 || *end) {
        fprintf(stderr, "farfault-relay: is started by farfault, not by hand\n");
        return 2;
    }
    relay.door = relay.door_inner = -1;
    relay.plan = ff_relay_plan_read(fd, &error);
    if (!relay.plan) {
        fprintf(stderr, "farfault-relay: %s\n", error->message);
        return 1;
    }
    if (!keep_fds(relay.plan)) {
        return 1;
    }
    /* Each command and each answer waits for this process to have its turn, and libvirt's start
     * of a guest has 400 of them. */
    if (relay.plan->succeeds < 0) {
        ff_priority_urgent(); /* else it has that of the one before */
    }
    if (!relay_prepare(&relay, &error)) {
        ff_relay_log(&relay, "relay: %s", error->message);
        return 1;
    }
    /* Up to here nothing has been done that another process could see. */
    if (relay.plan->succeeds >= 0 && !ff_replace_relay_take(&relay)) {
        ff_relay_log(&relay, "relay: the one before has not given its place");
        return 1;
    }
    if (!relay_start(&relay, &error) || !harden_process(&error)) {
        ff_relay_log(&relay, "relay: %s", error->message);
        return 1;
    }
    give_up_rights(&relay);
    ff_clients_open(&relay);
    if (relay.plan->attached) {
        ff_engine_take_over(&relay);
    }
    ff_replace_relay_open(&relay);
    if (relay.plan->ready_fd >= 0) {
        /* The launcher is gone; one that has taken another's place is all that the guest has. */
        if (write(relay.plan->ready_fd, "", 1) != 1 && relay.plan->succeeds < 0) {
            return 1;
        }
        close(relay.plan->ready_fd);
    }
    ff_engine_keep_libraries(&relay); /* while QEMU starts */
    g_main_loop_run(relay.loop);
    relay_finish(&relay);
    return 0;
}
