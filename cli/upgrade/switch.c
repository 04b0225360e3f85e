/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * farfault upgrade: the guest goes over (docs/design/upgrade.md). The two engines do it, and come
 * to an end without this program, which watches, and says what became of the guest; and does behind
 * it what nobody else can do.
 *
 * One thread: the GLib main loop of the default context. System calls: socketpair, poll,
 * pidfd_send_signal, waitpid, kill.
 */
#include "cli/upgrade/internal.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/failpoints.h"
#include "cli/common/words.h"
#include "cli/upgrade/forwards.h"
#include "cli/upgrade/names.h"
#include "cli/upgrade/runtime-settings.h"
#include "cli/upgrade/settings.h"
#include "cli/upgrade/vnc.h"
#include "guest/launch/scheduling.h"
#include "qmp/json.h"

/* Seconds without a word of either engine, after which they are asked whether they are there. */
#define QUIET_S 30
#define FAILED "the upgrade failed, and the guest %s: "

static const char *status_of(JsonObject *event)
{
    bool is_migration = !strcmp(ff_json_string_or(event, "event", ""), "MIGRATION");

    return is_migration ? ff_json_string_or(ff_json_object(event, "data"), "status", "") : "";
}

static gint64 time_of(JsonObject *event)
{
    JsonObject *stamp = ff_json_object(event, "timestamp");

    return ff_json_int(stamp, "seconds", 0) * G_USEC_PER_SEC +
           ff_json_int(stamp, "microseconds", 0);
}

/* Of the old one: what it says is true, as it has the guest until it says so. */
static void on_old(JsonObject *event, const GError *error, void *opaque)
{
    FfUpgrade *u = opaque;
    const char *status = event ? status_of(event) : "";

    u->heard = true;
    u->old_gone |= !event;
    if (!strcmp(status, "setup")) {
        /* What came before is of an earlier migration. */
        u->end = FF_END_GOING;
        u->stop = 0;
    }
    if (!u->stop && !strcmp(ff_json_string_or(event, "event", ""), "STOP")) {
        u->stop = time_of(event);
    }
    if (!strcmp(status, "completed")) {
        u->end = FF_END_COMPLETED;
    } else if (!strcmp(status, "failed") || !strcmp(status, "cancelled")) {
        u->end = FF_END_FAILED;
    }
}

static void on_new(JsonObject *event, const GError *error, void *opaque)
{
    FfUpgrade *u = opaque;

    u->heard = true;
    u->new_gone |= !event;
    if (!u->resume && !strcmp(ff_json_string_or(event, "event", ""), "RESUME")) {
        u->resume = time_of(event);
    }
    if (event && !strcmp(status_of(event), "completed")) {
        u->end = FF_END_COMPLETED;
        u->arrived = true;
    }
}

static void add_warning(FfUpgrade *u, const char *text)
{
    g_string_append_printf(u->warning, "%s%s", u->warning->len ? "; " : "", text);
}

static GArray *threads_of(FfCliQmp *qmp)
{
    g_autoptr(JsonNode) node = ff_cli_qmp_call(qmp, "query-cpus-fast", NULL, NULL);
    JsonArray *all = node && JSON_NODE_HOLDS_ARRAY(node) ? json_node_get_array(node) : NULL;
    GArray *threads = g_array_new(FALSE, FALSE, sizeof(pid_t));

    for (guint i = 0; all && i < json_array_get_length(all); i++) {
        JsonObject *o = ff_json_node_object(json_array_get_element(all, i));
        pid_t thread = o ? (pid_t)ff_json_int(o, "thread-id", 0) : 0;

        g_array_append_val(threads, thread);
    }
    return threads;
}

/* Those that run virtual CPUs have the places of the running QEMU's (libvirt's vcpupin). Both say
 * them in the same order. */
static void place_threads(const FfUpgrade *u)
{
    g_autoptr(GArray) theirs = threads_of(u->running), ours = threads_of(u->prepared);

    for (guint i = 0; i < MIN(theirs->len, ours->len); i++) {
        ff_scheduling_take_thread(u->old_pid, g_array_index(theirs, pid_t, i),
                                  g_array_index(ours, pid_t, i));
    }
}

static void carry_actions(FfUpgrade *u, JsonObject *lent)
{
    g_autofree char *lost =
        lent ? ff_upgrade_carry_actions(ff_json_array(lent, "actions"), u->prepared) : NULL;

    if (lost) {
        add_warning(u, lost);
    }
}

/* One that refuses has begun nothing, and never will; and it has a copy of SOCKET: without its end
 * the old side would wait for it until its time is up. */
static bool take_over(FfUpgrade *u, int socket, GError **error)
{
    g_autoptr(GError) local = NULL;

    if (ff_upgrade_tell(u->prepared, "x-farfault-take-over", socket, false, &local)) {
        return true;
    }
    if (ff_qmp_refused(local)) {
        kill(u->pid, SIGKILL);
    }
    g_propagate_error(error, g_steal_pointer(&local));
    return false;
}

static bool begin_switch(FfUpgrade *u, GError **error)
{
    int pair[2];
    g_autoptr(JsonNode) lent = ff_upgrade_lent(u, error);

    if (!lent) {
        return false;
    }
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
        return ff_upgrade_fail(error, "socketpair: %s", g_strerror(errno));
    }
    ff_upgrade_say_at_signal(
        ff_upgrade_vnc_has_port(u->args) || ff_upgrade_has_forwards(u->args)
            ? "farfault: interrupted: the upgrade comes to its end, or is undone, without "
              "this program: farfault status says where the guest is; in a new QEMU its "
              "VNC does not listen before display-update is said to its monitor, and no "
              "port is forwarded to it before hostfwd_add is\n"
            : "farfault: interrupted: the upgrade comes to its end, or is undone, without "
              "this program: farfault status says where the guest is\n");
    place_threads(u);
    u->balloons = ff_upgrade_balloons(u->running);
    carry_actions(u, ff_json_node_object(lent));
    /* In this order: if this program ends in between, the new QEMU is ended, and the old one's
     * engine hears of that. */
    u->handed = ff_upgrade_hand_over(u, pair[0], error);
    /* From now on clients cannot change them here (guest/relay/clients-wait.h). */
    g_autofree char *refused =
        u->handed ? ff_upgrade_carry_settings(u->running, u->prepared) : NULL;
    if (refused) {
        add_warning(u, refused);
    }
    bool ok = u->handed && take_over(u, pair[1], error);
    close(pair[0]);
    close(pair[1]);
    return ok;
}

static char *failure_reason(FfUpgrade *u)
{
    g_autoptr(JsonNode) node =
        u->old_gone ? NULL : ff_cli_qmp_call(u->running, "query-migrate", NULL, NULL);
    const char *desc = ff_json_string(ff_json_node_object(node), "error-desc");
    g_autofree char *said = ff_upgrade_last_line(u->log);

    return g_strdup_printf("%s%s%s", desc ? desc : "the engine does not say why",
                           said ? "; the new QEMU's last words: " : "", said ? said : "");
}

/* The guest is the new one's for good: the old one is not told that its migration is over, and is
 * of no use. Its files are free when it has ended. */
static void end_old(const FfUpgrade *u)
{
    struct pollfd p = {.fd = u->old_pidfd, .events = POLLIN};

    pidfd_send_signal(u->old_pidfd, SIGKILL, NULL, 0);
    while (poll(&p, 1, -1) < 0 && errno == EINTR) {
    }
}

/* The same for clients: they find the new QEMU where they have found the old one. */
static void open_to_clients(FfUpgrade *u)
{
    g_autoptr(GError) error = NULL;

    FF_FAULT_AT("open-to-clients");
    ff_upgrade_names_take(u->names);
    ff_upgrade_poll_balloons(u->balloons, u->prepared);
    g_autofree char *not_forwarded = ff_upgrade_forward(u->args, u->prepared);
    if (not_forwarded) {
        add_warning(u, not_forwarded);
    }
    if (!ff_upgrade_vnc_listen(u->args, u->prepared, &error)) {
        add_warning(u, error->message);
    } else if (ff_upgrade_vnc_has_password(u->args)) {
        add_warning(u, "VNC lets nobody in before its password is set again (set_password)");
    }
}

/* The relays have ended, and said nothing. */
static bool lost_sight(FfUpgrade *u, GError **error)
{
    struct pollfd old = {.fd = u->old_pidfd, .events = POLLIN};
    bool old_ended = poll(&old, 1, 0) == 1, new_lives = waitpid(u->pid, NULL, WNOHANG) == 0;
    g_autofree char *why = failure_reason(u);

    if (!old_ended) {
        return ff_upgrade_fail(
            error,
            "%s ended: farfault attach %d gives the old one another, and the guest continues there "
            "if it had not left; farfault attach %d then ends the new one, if it lives and has no "
            "guest (%s)",
            u->new_gone ? "the relays of both QEMUs have" : "the relay of the old QEMU has",
            u->old_pid, (int)u->pid, why);
    }
    if (new_lives) {
        return ff_upgrade_fail(
            error,
            "the guest is in the new QEMU, whose relay has ended: farfault attach %d gives "
            "it another (%s)",
            (int)u->pid, why);
    }
    return ff_upgrade_fail(error, "both QEMUs have ended (%s)", why);
}

static gboolean on_alarm(gpointer rung)
{
    *(bool *)rung = true;
    return G_SOURCE_REMOVE;
}

/* FALSE: neither engine has said anything for QUIET_S. */
static bool listen_for_a_while(FfUpgrade *u)
{
    bool rung = false;
    guint timer = g_timeout_add_seconds(QUIET_S, on_alarm, &rung);

    u->heard = false;
    while (!u->heard && !rung) {
        g_main_context_iteration(NULL, TRUE);
    }
    if (!rung) {
        g_source_remove(timer);
    }
    return u->heard;
}

/* What is to come may not come any more: the new QEMU has gone, of which an old engine that died at
 * once may never have known; or nobody has said anything for a while. FALSE and ERROR: the one
 * that is left does not answer. */
static bool ask_engines(FfUpgrade *u, GError **error)
{
    g_autoptr(GError) local = NULL;
    g_autoptr(JsonNode) node =
        u->old_gone ? NULL : ff_cli_qmp_call(u->running, "query-migrate", NULL, &local);
    /* An old engine waits for the new one, which may hang. */
    g_autoptr(JsonNode) other =
        u->new_gone || local ? NULL : ff_cli_qmp_call(u->prepared, "query-migrate", NULL, &local);
    JsonObject *info = ff_json_node_object(node);
    const char *status = ff_json_string_or(info, "status", "none");

    if (g_error_matches(local, FF_QMP_ERROR, FF_QMP_ERROR_TIMEOUT)) {
        return ff_upgrade_fail(
            error,
            "the upgrade hangs, processes %d and %d are the guest's QEMUs: see farfault "
            "doctor which process is stopped, and continue it or end it (%s)",
            u->old_pid, (int)u->pid, local->message);
    }
    const char *theirs = ff_json_string_or(ff_json_node_object(other), "status", "none");
    /* Its event has not come; and its memory is its own. */
    g_autoptr(JsonNode) own = strcmp(theirs, "completed")
                                  ? NULL
                                  : ff_cli_qmp_call(u->prepared, "x-farfault-lend", NULL, NULL);
    if (own) {
        u->end = FF_END_COMPLETED;
        u->arrived = true;
    }
    if (!strcmp(status, "postcopy-paused")) {
        return ff_upgrade_fail(error, "%s (processes %d and %d)",
                               ff_json_string_or(info, "error-desc", "the upgrade has failed"),
                               u->old_pid, (int)u->pid);
    }
    if (node && !u->old_gone && u->new_gone &&
        (!strcmp(status, "none") || !strcmp(status, "failed") || !strcmp(status, "cancelled"))) {
        u->end = FF_END_FAILED;
    }
    return true;
}

/* The engines come to an end. A completed one ends its QEMU; a relay that has died before it could
 * leaves that to us. What the old one was told comes to an end also if the new one could not be
 * told (BEGUN is false). FALSE and ERROR: they hang. */
static bool await_end(FfUpgrade *u, bool begun, GError **error)
{
    bool asked = false;

    while (u->end != FF_END_FAILED &&
           !(u->old_gone && (!begun || u->new_gone || u->end == FF_END_COMPLETED))) {
        bool alone = u->new_gone && !u->old_gone && !asked;

        asked |= alone;
        if ((alone || !listen_for_a_while(u)) && !ask_engines(u, error)) {
            return false;
        }
    }
    return true;
}

/* The guest is the new QEMU's: does it run there? */
static bool look_at_guest(FfUpgrade *u, GError **error)
{
    g_autoptr(JsonNode) status = ff_cli_qmp_call(u->prepared, "query-status", NULL, NULL);
    g_autoptr(JsonNode) info = ff_cli_qmp_call(u->prepared, "query-migrate", NULL, NULL);
    JsonObject *own = ff_json_object(ff_json_node_object(info), "x-farfault");
    const char *why = ff_json_string(own, "not-started");

    if (!status) {
        /* Its relay may have died before it could start the guest. */
        return lost_sight(u, error);
    }
    if (!ff_json_bool(ff_json_node_object(status), "running")) {
        u->state = g_strdup(ff_json_string_or(ff_json_node_object(status), "status", "?"));
    }
    if (why && u->state) {
        return ff_upgrade_fail(
            error,
            "the guest is in QEMU %s, process %d, and stands: it could not be started (%s): "
            "put that right; " FF_WORDS_CONT,
            ff_cli_qmp_version(u->prepared), (int)u->pid, why);
    }
    return true;
}

/* The guest is the old QEMU's, which could not start it again if somebody has a disk of it open by
 * now. */
static const char *place_of_guest(FfUpgrade *u)
{
    g_autoptr(JsonNode) status =
        u->ran && !u->old_gone ? ff_cli_qmp_call(u->running, "query-status", NULL, NULL) : NULL;
    bool stands = status && !ff_json_bool(ff_json_node_object(status), "running");

    return stands ? "stands in its old QEMU, which could not start it again (" FF_WORDS_CONT ")"
                  : "continues in its old QEMU";
}

/* One that died when it had taken the guest has left that to the next. */
static void await_arrival(FfUpgrade *u)
{
    while (u->end == FF_END_COMPLETED && !u->arrived && !u->new_gone && listen_for_a_while(u)) {
    }
}

/* It has let everybody go, this program too, when it has nothing of the guest any more. */
static void await_front(FfUpgrade *u)
{
    while (u->end == FF_END_COMPLETED && u->stays && !u->old_gone && listen_for_a_while(u)) {
    }
}

bool ff_upgrade_switch_over(FfUpgrade *u, GError **error)
{
    ff_cli_qmp_listen(u->running, on_old, u);
    ff_cli_qmp_listen(u->prepared, on_new, u);
    bool begun = begin_switch(u, error), ended = false;
    /* Else nothing was begun; what another upgrade does meanwhile is not ours to wait for. */
    if (u->handed) {
        ended = await_end(u, begun, begun ? error : NULL);
        await_arrival(u);
        await_front(u);
    }
    ff_cli_qmp_listen(u->running, NULL, NULL);
    ff_cli_qmp_listen(u->prepared, NULL, NULL);
    if (!ended) {
        return false;
    }
    if (!begun && u->end == FF_END_FAILED) {
        g_prefix_error(error, FAILED, place_of_guest(u));
        return false;
    }
    if (!begun) {
        g_clear_error(error); /* the new one may have heard it all the same */
    }
    if (u->end == FF_END_COMPLETED) {
        if (!u->stays) {
            end_old(u);
        }
        open_to_clients(u);
        return look_at_guest(u, error);
    }
    if (u->end == FF_END_FAILED) {
        g_autofree char *why = failure_reason(u);
        return ff_upgrade_fail(error, FAILED "%s", place_of_guest(u), why);
    }
    return lost_sight(u, error);
}
