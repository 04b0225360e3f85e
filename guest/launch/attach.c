/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Starts a relay for a guest that has lost its own.
 *
 * QEMU keeps, close-on-exec and unused by itself: the launcher's plan, whose fd numbers are those
 * of QEMU, too; a parcel (fdstore.h) with the state memfd and the names (O_PATH) of its private
 * monitors; the guest's RAM; the userfaultfds; what arms the agent's hook; at the source after the
 * switch, the engine's end of the device-state socket; and the TLS credentials of a migration under
 * way. Each is taken with pidfd_getfd() and looked at before it is believed: QEMU may have been
 * taken over by its guest. What is started runs as QEMU's user, and with this farfault's own
 * programs.
 *
 * The lock on the state memfd (ff_relay_lock()) is taken before anything is made: while a relay or
 * its engine lives nothing happens.
 *
 * The order is here; attach-take.c, attach-memory.c, attach-agent.c and attach-monitors.c take what
 * it needs. One thread. System calls: those of the others, and of launch-relay.c.
 */
#include "guest/launch/attach.h"

#include <errno.h>
#include <unistd.h>

#include "guest/launch/attach-internal.h"
#include "guest/launch/launch-relay.h"
#include "guest/launch/paths.h"
#include "qmp/json.h"

static void attach_clear(FfAttach *a)
{
    for (guint i = 0; i < a->made->len && !a->done; i++) {
        unlink(a->made->pdata[i]);
    }
    for (guint i = 0; i < a->fds->len; i++) {
        close(g_array_index(a->fds, int, i));
    }
    while (a->n_kept > 0) {
        close(a->kept[--a->n_kept]);
    }
    if (a->pidfd >= 0) {
        close(a->pidfd);
    }
    g_array_unref(a->fds);
    g_ptr_array_unref(a->made);
    g_clear_pointer(&a->node, json_node_unref);
    g_free(a->user);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(FfAttach, attach_clear)

/* The paths of the plan are its maker's: root goes there only if root has made it. Another's plan
 * is carried out with the rights of QEMU's user. */
static bool become_planner(FfAttach *a, GError **error)
{
    if (a->as.uid == (uid_t)-1 || a->planner == 0) {
        return true;
    }
    if (ff_runas_become(&a->as) < 0) {
        ff_launch_fail(error, "cannot become user %u: %s", a->as.uid, g_strerror(errno));
        return false;
    }
    a->as.uid = (uid_t)-1;
    return true;
}

/* QEMU has both under the same numbers. */
static bool take_front(FfAttach *a, GError **error)
{
    static const struct {
        const char *name, *prefix;
    } both[] = {{"front-fd", "anon_inode:[pidfd]"}, {"front-door", "socket:"}};

    for (unsigned i = 0; i < G_N_ELEMENTS(both); i++) {
        int fd = (int)ff_json_int(a->plan, both[i].name, -1);
        int copy = fd < 0 ? -1
                          : ff_attach_give(a, ff_attach_take(a, fd, both[i].prefix,
                                                             "the process that stays", error));

        if (fd >= 0 && copy < 0) {
            return false; /* the next QEMU of this guest would not end with that process */
        }
        json_object_set_int_member(a->plan, both[i].name, copy);
    }
    return true;
}

/* It has no guest, and the QEMU behind it has a relay of its own. */
static bool is_no_front(const FfAttach *a, GError **error)
{
    if (ff_state_is_front(a->state)) {
        ff_launch_fail(error,
                       "process %d only stays for those who know it: its guest is in another QEMU "
                       "(farfault status): farfault attach that one",
                       (int)a->pid);
    }
    return !ff_state_is_front(a->state);
}

static bool fill_in(FfAttach *a, int ready_fd, GError **error)
{
    g_autofree char *engine = ff_find_helper("farfault-engine");

    if (!engine) {
        ff_launch_fail(error,
                       "farfault-engine was not found beside farfault: install farfault again");
        return false;
    }
    json_object_set_int_member(a->plan, "ready-fd", ready_fd);
    /* QEMU has it under the same number, until its agent has heard of it. */
    int taps = (int)ff_json_int(a->plan, "taps-fd", -1);
    if (taps >= 0) {
        taps = ff_attach_give(
            a, ff_attach_take(a, taps, "anon_inode:[eventfd]", "what gives it its taps", NULL));
    }
    json_object_set_int_member(a->plan, "taps-fd", taps);
    json_object_set_int_member(a->plan, "other-fd", -1);
    json_object_set_int_member(a->plan, "other-door", -1);
    json_object_set_int_member(a->plan, "door-inner", -1);
    json_object_set_int_member(a->plan, "door", -1);
    if (!take_front(a, error)) {
        return false;
    }
    json_object_set_array_member(a->plan, "given", json_array_new()); /* the relay alone had them */
    json_object_set_int_member(a->plan, "qemu-pid", a->pid);
    json_object_set_string_member(a->plan, "engine", engine);
    json_object_set_boolean_member(a->plan, "daemonize", FALSE);
    json_object_set_boolean_member(a->plan, "attached", TRUE);
    return true;
}

static bool take_all(FfAttach *a, GError **error)
{
    if (!ff_attach_open_process(a, error) || !ff_attach_open_parcel(a, error) ||
        !ff_attach_take_state(a, error) || !is_no_front(a, error) ||
        !ff_attach_take_memory(a, error) || !ff_attach_take_uffds(a, error) ||
        !ff_attach_take_monitors(a, error) || !become_planner(a, error)) {
        return false;
    }
    ff_attach_settle_pact(a);
    return ff_attach_make_endpoints(a, error);
}

pid_t ff_attach(pid_t pid, GPtrArray *notes, GError **error)
{
    g_auto(FfAttach) a = {.pid = pid,
                          .pidfd = -1,
                          .pact_fd = -1,
                          .fds = g_array_new(FALSE, FALSE, sizeof(int)),
                          .made = g_ptr_array_new_with_free_func(g_free),
                          .notes = notes};
    int ready, ready_fd;

    if (!take_all(&a, error)) {
        return 0;
    }
    ready = ff_relay_ready(&ready_fd, error);
    if (ready < 0) {
        return 0;
    }
    if (!fill_in(&a, ready_fd, error)) {
        close(ready);
        return 0;
    }
    g_autofree char *text = json_to_string(a.node, FALSE);
    g_autoptr(GArray) inherited = g_array_copy(a.fds);
    g_array_append_val(inherited, ready_fd);
    g_autofree char *itself = ff_runas_text(&a.as);
    const FfRelayProgram program = {text,
                                    inherited,
                                    &a.as,
                                    false,
                                    "nothing is attached",
                                    ff_json_string(json_node_get_object(a.node), "name"),
                                    itself,
                                    -1};
    pid_t relay = ff_relay_spawn(&program, ready, ready_fd, NULL, error);
    a.done = relay > 0;
    return relay;
}
