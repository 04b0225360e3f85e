/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Starts a relay of this farfault in the place of one that runs (relay/succession.h).
 *
 * What the state memfd says of the relay is QEMU's word, and QEMU may have been taken over by its
 * guest: the process must be a relay by its name, and QEMU's user's, and nothing but its socket is
 * taken from it before it has answered there. The new relay is that user's as well.
 *
 * One thread. System calls: pidfd_open, pidfd_getfd, socketpair, dup3, poll, setns,
 * setsockopt.
 */
#include "launch/attach.h"

#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "launch/attach-internal.h"
#include "launch/launch-relay.h"
#include "launch/paths.h"
#include "launch/place.h"
#include "net/rights.h"
#include "qmp/json.h"
#include "state/state.h"
#include "state/succession.h"

#define HAS_ENDED "relay %d has ended: farfault attach %d"
#define PLAN_MAX (16 << 20) /* bytes */

typedef struct {
    FfAttach *a;
    pid_t relay; /* the one that runs */
    int pidfd;   /* its */
    int talk;    /* with it, then the next relay's */
    JsonNode *plan;
    GArray *fds; /* of int: what the plan names, under the same numbers */
} Replace;

static void replace_clear(Replace *r)
{
    for (guint i = 0; i < r->fds->len; i++) {
        close(g_array_index(r->fds, int, i));
    }
    g_array_unref(r->fds);
    g_clear_pointer(&r->plan, json_node_unref);
    if (r->talk >= 0) {
        close(r->talk);
    }
    if (r->pidfd >= 0) {
        close(r->pidfd);
    }
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Replace, replace_clear)

/* ---- the relay that runs --------------------------------------------------------------------- */

static bool is_relay(pid_t pid)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/comm", (int)pid), *name = NULL;

    return g_file_get_contents(path, &name, NULL, NULL) &&
           !strcmp(g_strchomp(name), "farfault-relay");
}

/* Returns a copy of the inner end of its door, or -1. */
static int take_door(Replace *r, int number, GError **error)
{
    struct stat st;
    int door = pidfd_getfd(r->pidfd, number, 0);

    if (door < 0 && errno == EPERM) {
        ff_launch_fail(error, "relay %d may not be looked into: be root", (int)r->relay);
    } else if (door < 0) {
        ff_launch_fail(error, "relay %d: %s", (int)r->relay, g_strerror(errno));
    } else if (fstat(door, &st) < 0 || !S_ISSOCK(st.st_mode)) {
        ff_launch_fail(error, "what relay %d is said to be asked at is no socket", (int)r->relay);
        close(g_steal_fd(&door));
    }
    return door;
}

/* Asks it. */
static bool knock(Replace *r, int door, GError **error)
{
    const char ask = FF_SUCCESSION_ASK;
    const struct timeval limit = {.tv_sec = 2 * FF_SUCCESSION_REST_MS / 1000};
    int pair[2];

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
        ff_launch_fail(error, "cannot make a socket pair: %s", g_strerror(errno));
        return false;
    }
    setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    ssize_t n = ff_rights_send(door, &ask, 1, &pair[1], 1);
    close(pair[1]);
    r->talk = pair[0];
    if (n != 1) {
        ff_launch_fail(error, "relay %d is not asked: %s", (int)r->relay, g_strerror((int)-n));
    }
    return n == 1;
}

static bool find_relay(Replace *r, GError **error)
{
    g_autofree FfStateHeader *state = g_new0(FfStateHeader, 1);
    int fd = ff_attach_open_state(r->a->pid, r->a->plan);
    bool known = fd >= 0 && pread(fd, state, sizeof(*state), 0) == sizeof(*state) &&
                 state->magic == FF_STATE_MAGIC && state->version == FF_STATE_VERSION;

    if (fd >= 0) {
        close(fd);
    }
    if (ff_attach_is_orphan(r->a->pid, r->a->plan)) {
        ff_launch_fail(error, "process %d has no relay: farfault attach %d", (int)r->a->pid,
                       (int)r->a->pid);
        return false;
    }
    if (!known || state->relay <= 0 || state->relay_door <= 0) {
        ff_launch_fail(error,
                       "the relay of process %d is an older farfault's, which gives its place to "
                       "no other: it stays until QEMU ends",
                       (int)r->a->pid);
        return false;
    }
    r->relay = state->relay;
    r->pidfd = pidfd_open(r->relay, 0);
    if (r->pidfd < 0 || !is_relay(r->relay) ||
        ff_attach_uid(r->relay) != ff_attach_uid(r->a->pid)) {
        ff_launch_fail(error, "process %d, which is said to be the relay of process %d, is not",
                       (int)r->relay, (int)r->a->pid);
        return false;
    }
    int door = take_door(r, state->relay_door, error);
    bool ok = door >= 0 && knock(r, door, error);
    if (door >= 0) {
        close(door);
    }
    return ok;
}

/* ---- its answer ------------------------------------------------------------------------------ */

static JsonNode *read_plan(int fd)
{
    struct stat st;

    if (fcntl(fd, F_GET_SEALS) < 0 || fstat(fd, &st) < 0 || st.st_size > PLAN_MAX) {
        return NULL; /* no memfd */
    }
    g_autofree char *text = g_malloc0(st.st_size + 1);
    JsonNode *node = pread(fd, text, st.st_size, 0) == st.st_size ? ff_json_from_text(text) : NULL;

    if (node && !JSON_NODE_HOLDS_OBJECT(node)) {
        g_clear_pointer(&node, json_node_unref);
    }
    return node;
}

/* ff_rights_receive() does not wait. */
static ssize_t receive(int fd, void *data, size_t len, FfRights *rights)
{
    char peeked;

    while (recv(fd, &peeked, 1, MSG_PEEK) < 0) {
        if (errno != EINTR) {
            return -errno;
        }
    }
    return ff_rights_receive(fd, data, len, rights);
}

static bool hear(Replace *r, GError **error)
{
    char text[FF_SUCCESSION_TEXT + 1];
    FfRights rights = {0};
    ssize_t n = receive(r->talk, text, FF_SUCCESSION_TEXT, &rights);

    if (n == -EAGAIN) {
        ff_launch_fail(error, "relay %d does not answer: it is stopped, or hangs", (int)r->relay);
    } else if (n <= 0) {
        ff_launch_fail(error, HAS_ENDED, (int)r->relay, (int)r->a->pid);
    } else if (text[0] == FF_SUCCESSION_NO) {
        text[n] = 0;
        ff_launch_fail(error, "relay %d keeps its place: %s", (int)r->relay, text + 1);
    } else if (rights.n == 1) {
        r->plan = read_plan(rights.fd[0]);
    }
    for (unsigned i = 0; n > 0 && i < rights.n; i++) {
        close(rights.fd[i]);
    }
    if (!r->plan && error && !*error) {
        ff_launch_fail(error, "relay %d says what is not understood here", (int)r->relay);
    }
    return r->plan;
}

/* Relay's fd NUMBER, under the same number. */
static bool take_fd(Replace *r, int number, GError **error)
{
    if (number < FF_SUCCESSION_FIRST_FD || fcntl(number, F_GETFD) >= 0) {
        ff_launch_fail(error, "relay %d names an fd that cannot be taken", (int)r->relay);
        return false;
    }
    int fd = pidfd_getfd(r->pidfd, number, 0);
    int same = fd < 0 ? -1 : dup3(fd, number, O_CLOEXEC);
    int err = errno;

    if (fd >= 0) {
        close(fd);
    }
    if (same < 0) {
        ff_launch_fail(error, "an fd of relay %d: %s", (int)r->relay, g_strerror(err));
        return false;
    }
    g_array_append_val(r->fds, same);
    return true;
}

static bool take_fds(Replace *r, GError **error)
{
    JsonArray *fds = ff_json_array(json_node_get_object(r->plan), "fds");

    for (guint i = 0; fds && i < json_array_get_length(fds); i++) {
        if (!take_fd(r, (int)json_array_get_int_element(fds, i), error)) {
            return false;
        }
    }
    return true;
}

/* ---- the next one ---------------------------------------------------------------------------- */

static pid_t start(Replace *r, GError **error)
{
    JsonObject *plan = json_node_get_object(r->plan);
    g_autofree char *engine = ff_find_helper("farfault-engine");
    int ready_fd, ready;

    if (!engine) {
        ff_launch_fail(error,
                       "farfault-engine was not found beside farfault: install farfault again");
        return 0;
    }
    ready = ff_relay_ready(&ready_fd, error);
    if (ready < 0) {
        return 0;
    }
    ff_place_take(r->relay);
    g_array_append_val(r->fds, r->talk);
    json_object_set_string_member(plan, "engine", engine);
    json_object_set_int_member(plan, "succeeds", g_steal_fd(&r->talk));
    json_object_set_int_member(plan, "ready-fd", ready_fd);
    g_autofree char *text = json_to_string(r->plan, FALSE);
    g_autoptr(GArray) inherited = g_array_copy(r->fds);
    g_array_append_val(inherited, ready_fd);
    const FfRelayProgram program = {text,
                                    inherited,
                                    &r->a->as,
                                    false,
                                    "the relay that was there stays",
                                    ff_json_string(plan, "name")};

    pid_t relay = ff_relay_spawn(&program, ready, ready_fd, NULL, error);
    /* If it has said its last word, it ends: nobody is to see two of them. */
    struct pollfd pfd = {r->pidfd, POLLIN, 0};
    bool ended = poll(&pfd, 1, relay > 0 ? FF_SUCCESSION_FROZEN_MS : 0) == 1;
    if (!relay && ended) {
        g_clear_error(error);
        ff_launch_fail(error, HAS_ENDED, (int)r->relay, (int)r->a->pid);
    }
    return relay;
}

/* ---- QEMU's namespaces ----------------------------------------------------------------------- */

static bool is_same(pid_t pid, const char *name)
{
    g_autofree char *theirs = g_strdup_printf("/proc/%d/%s", (int)pid, name);
    g_autofree char *ours = g_strdup_printf("/proc/self/%s", name);
    struct stat a, b;

    return stat(theirs, &a) == 0 && stat(ours, &b) == 0 && a.st_dev == b.st_dev &&
           a.st_ino == b.st_ino;
}

/* libvirt gives each QEMU a /dev, and so mounts, of its own. A container has another root: what is
 * started there is not from here, and the user has to go there. */
static void enter(pid_t pid)
{
    int pidfd = pidfd_open(pid, 0);

    if (pidfd >= 0 && is_same(pid, "ns/user") && is_same(pid, "ns/pid") && is_same(pid, "root/.") &&
        (!is_same(pid, "ns/mnt") || !is_same(pid, "ns/net"))) {
        /* What fails is refused in a moment, with what to do. */
        if (setns(pidfd, CLONE_NEWNS | CLONE_NEWNET) < 0) {
            errno = 0;
        }
    }
    if (pidfd >= 0) {
        close(pidfd);
    }
}

pid_t ff_attach_replace(pid_t pid, pid_t *before, GError **error)
{
    g_autoptr(GPtrArray) made = g_ptr_array_new();
    g_autoptr(GArray) none = g_array_new(FALSE, FALSE, sizeof(int));
    FfAttach a = {.pid = pid, .pidfd = -1, .pact_fd = -1, .fds = none, .made = made};
    g_auto(Replace)
        r = {.a = &a, .pidfd = -1, .talk = -1, .fds = g_array_new(FALSE, FALSE, sizeof(int))};
    pid_t relay = 0;

    enter(pid);
    if (ff_attach_open_process(&a, error) && find_relay(&r, error) && hear(&r, error) &&
        take_fds(&r, error)) {
        *before = r.relay;
        relay = start(&r, error);
    }
    if (a.pidfd >= 0) {
        close(a.pidfd);
    }
    g_clear_pointer(&a.node, json_node_unref);
    g_free(a.user);
    return relay;
}
