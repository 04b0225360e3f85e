/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a relay that runs is asked: to let one of this farfault take its place
 * (guest/relay/replace-relay.h), or for a monitor.
 *
 * What the state memfd says of the relay is QEMU's word, and QEMU may have been taken over by its
 * guest: the process must be a relay by its name, and QEMU's user's, and nothing but its socket is
 * taken from it before it has answered there. The new relay is that user's as well.
 *
 * One thread. System calls: pidfd_open, pidfd_getfd, socketpair, dup3, poll, setsockopt,
 * getsockopt, prlimit64, fork, waitpid, and those of attach-listen.c.
 */
#include "guest/launch/attach.h"

#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/rights.h"
#include "contract/state.h"
#include "contract/succession.h"
#include "guest/launch/attach-internal.h"
#include "guest/launch/attach-listen.h"
#include "guest/launch/launch-relay.h"
#include "guest/launch/paths.h"
#include "guest/launch/scheduling.h"
#include "qmp/json.h"

#define PLAN_MAX (16 << 20) /* bytes */
#define KILLED_MS 1000      /* from a signal to the end of a process */

typedef struct {
    FfAttach *a;
    pid_t relay; /* the one that runs */
    int pidfd;   /* its */
    int talk;    /* with it, then the next relay's */
    JsonNode *plan;
    GArray *fds;      /* of int: what the plan names, under the same numbers */
    GPtrArray *notes; /* borrowed */
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

/* Made by the relay itself, and not, as a monitor's, for bytes: what is sent there by mistake would
 * be somebody's command. */
static bool is_door(const Replace *r, int fd)
{
    struct ucred peer;
    socklen_t len = sizeof(peer), type_len = sizeof(int);
    int type = 0;

    return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &type_len) == 0 && type == SOCK_SEQPACKET &&
           getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 && peer.pid == r->relay;
}

/* Returns a copy of the inner end of its door, or -1. */
static int take_door(Replace *r, int number, GError **error)
{
    int door = pidfd_getfd(r->pidfd, number, 0);

    if (door < 0 && errno == EPERM) {
        ff_launch_fail(error, "relay %d may not be looked into: be root", (int)r->relay);
    } else if (door < 0) {
        ff_launch_fail(error, "relay %d: %s", (int)r->relay, g_strerror(errno));
    } else if (!is_door(r, door)) {
        ff_launch_fail(error, "what relay %d is said to be asked at is not its door",
                       (int)r->relay);
        close(g_steal_fd(&door));
    }
    return door;
}

/* Asks it for WORD. r->talk is a socket of TYPE, whose other end it has then. */
static bool ask_for_word(Replace *r, int door, char word, int type, GError **error)
{
    int pair[2];

    if (socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, pair) < 0) {
        ff_launch_fail(error, "cannot make a socket pair: %s", g_strerror(errno));
        return false;
    }
    ssize_t n = ff_rights_send(door, &word, 1, &pair[1], 1);
    close(pair[1]);
    r->talk = pair[0];
    if (n != 1) {
        ff_launch_fail(error, "relay %d is not asked: %s", (int)r->relay, g_strerror((int)-n));
    }
    return n == 1;
}

/* Reads the state of its guest. FALSE: it is none of this version. */
static bool read_state(const Replace *r, FfStateHeader *state)
{
    int fd = ff_attach_open_state(r->a->pid, r->a->plan);
    bool known = fd >= 0 && pread(fd, state, sizeof(*state), 0) == sizeof(*state) &&
                 state->magic == FF_STATE_MAGIC && state->version == FF_STATE_VERSION;

    if (fd >= 0) {
        close(fd);
    }
    return known;
}

/* Finds the relay, and asks it. */
static bool ask_relay(Replace *r, char word, int type, GError **error)
{
    g_autofree FfStateHeader *state = g_new0(FfStateHeader, 1);
    bool known = read_state(r, state);

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
    if (r->pidfd < 0 || !ff_attach_is_relay(r->relay) ||
        ff_attach_uid(r->relay) != ff_attach_uid(r->a->pid)) {
        ff_launch_fail(error, "process %d, which is said to be the relay of process %d, is not",
                       (int)r->relay, (int)r->a->pid);
        return false;
    }
    int door = take_door(r, state->relay_door, error);
    bool ok = door >= 0 && ask_for_word(r, door, word, type, error);
    if (door >= 0) {
        close(door);
    }
    return ok;
}

/* Nothing comes from it any more, and nothing has changed by this command. */
static void say_ended(const Replace *r, GError **error)
{
    struct pollfd qemu = {r->a->pidfd, POLLIN, 0};
    pid_t now = ff_attach_relay(r->a->pid, r->a->plan);

    if (poll(&qemu, 1, 0) == 1) {
        ff_launch_fail(error, "process %d has ended meanwhile", (int)r->a->pid);
    } else if (now > 0 && now != r->relay) {
        ff_launch_fail(error, "relay %d of process %d has just given its place to relay %d",
                       (int)r->relay, (int)r->a->pid, (int)now);
    } else {
        ff_launch_fail(error, "relay %d of process %d has ended: farfault attach %d", (int)r->relay,
                       (int)r->a->pid, (int)r->a->pid);
    }
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
static ssize_t receive_message(int fd, void *data, size_t len, FfRights *rights)
{
    char peeked;

    while (recv(fd, &peeked, 1, MSG_PEEK) < 0) {
        if (errno != EINTR) {
            return -errno;
        }
    }
    return ff_rights_receive(fd, data, len, rights);
}

static bool receive_plan(Replace *r, GError **error)
{
    char text[FF_SUCCESSION_TEXT + 1];
    FfRights rights = {0};
    ssize_t n = receive_message(r->talk, text, FF_SUCCESSION_TEXT, &rights);

    if (n == -EAGAIN) {
        ff_launch_fail(error,
                       "relay %d of process %d does not answer: if it is stopped (farfault doctor "
                       "says it), kill -CONT %d",
                       (int)r->relay, (int)r->a->pid, (int)r->relay);
    } else if (n <= 0) {
        say_ended(r, error);
    } else if (text[0] == FF_SUCCESSION_NO) {
        text[n] = 0;
        ff_launch_fail(error, "relay %d of process %d keeps its place: %s", (int)r->relay,
                       (int)r->a->pid, text + 1);
    } else if (rights.n == 1) {
        r->plan = read_plan(rights.fd[0]);
    }
    for (unsigned i = 0; n > 0 && i < rights.n; i++) {
        close(rights.fd[i]);
    }
    JsonObject *plan = r->plan ? json_node_get_object(r->plan) : NULL;
    gint64 version = plan ? ff_json_int(plan, "succession", 0) : 0;
    if (version >= 1 && version <= FF_SUCCESSION_VERSION &&
        ff_json_int(plan, "qemu-pid", 0) == r->a->pid) {
        return true;
    }
    if (error && !*error) {
        ff_launch_fail(error, "relay %d of process %d says what is not understood here",
                       (int)r->relay, (int)r->a->pid);
    }
    return false;
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
    struct rlimit limit;

    /* The numbers are high ones. */
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
    JsonArray *fds = ff_json_array(json_node_get_object(r->plan), "fds");

    for (guint i = 0; fds && i < json_array_get_length(fds); i++) {
        if (!take_fd(r, (int)json_array_get_int_element(fds, i), error)) {
            return false;
        }
    }
    return true;
}

/* ---- sockets that have lost their names ------------------------------------------------------ */

/* A listening unix socket of O, of which PATH is the name, has it still, or never had one. */
static bool has_name(JsonObject *o, const char *path)
{
    gint64 ino = ff_json_int(o, "unlink-ino", 0);
    struct stat st;

    return !ino || (lstat(path, &st) == 0 && (ino_t)ino == st.st_ino &&
                    (dev_t)ff_json_int(o, "unlink-dev", 0) == st.st_dev);
}

/* In a process of its own: it becomes the user who has made the plan. */
static void G_GNUC_NORETURN listen_as_user(const FfRunas *as, const struct sockaddr *address,
                                           socklen_t len, const char *id, int out)
{
    const FfRunas itself = {.uid = (uid_t)-1, .gid = (gid_t)-1};
    g_autoptr(GPtrArray) made = g_ptr_array_new();
    g_autoptr(GError) error = NULL;
    int fd = -1;

    if (ff_runas_become(as) < 0) {
        ff_launch_fail(&error, "cannot become user %u: %s", as->uid, g_strerror(errno));
    } else {
        fd = ff_attach_listen(address, len, &itself, false, made, id, &error);
    }
    const char *text = error ? error->message : "";
    ff_rights_send(out, text, strlen(text) + 1, &fd, fd >= 0);
    _exit(0);
}

/* What attach.c's become_planner() is about: root goes to the paths of root's own plans only. */
static int listen_by_child(const FfAttach *a, const struct sockaddr *address, socklen_t len,
                           const char *id, GError **error)
{
    char text[FF_SUCCESSION_TEXT + 1] = "";
    FfRights rights = {0};
    int pair[2];

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
        ff_launch_fail(error, "cannot make a socket pair: %s", g_strerror(errno));
        return -1;
    }
    pid_t child = fork();
    if (child == 0) {
        listen_as_user(&a->as, address, len, id, pair[1]);
    }
    close(pair[1]);
    ssize_t n = child > 0 ? receive_message(pair[0], text, FF_SUCCESSION_TEXT, &rights) : -errno;
    close(pair[0]);
    while (child > 0 && waitpid(child, NULL, 0) < 0 && errno == EINTR) {
    }
    if (n > 0 && rights.n == 1) {
        return rights.fd[0];
    }
    ff_launch_fail(error, "%s",
                   n > 0 && text[0] ? text : "the process that would listen has ended");
    return -1;
}

/* O's socket is FD from now on, in the place of the one that was taken. */
static void put_socket(Replace *r, JsonObject *o, int fd, const char *path)
{
    int before = (int)ff_json_int(o, "fd", -1);
    struct stat st = {0};

    fd = ff_fd_high(fd);
    for (guint i = 0; i < r->fds->len; i++) {
        if (g_array_index(r->fds, int, i) == before) {
            close(before);
            g_array_remove_index(r->fds, i);
            break;
        }
    }
    g_array_append_val(r->fds, fd);
    json_object_set_int_member(o, "fd", fd);
    lstat(path, &st);
    json_object_set_int_member(o, "unlink-dev", (gint64)st.st_dev);
    json_object_set_int_member(o, "unlink-ino", (gint64)st.st_ino);
}

/* KNOWN: the same monitor in the launcher's plan, whose maker is known. */
static void listen_again(Replace *r, JsonObject *o, JsonObject *known)
{
    const FfAttach *a = r->a;
    const char *id = ff_json_string_or(o, "id", "?");
    g_autoptr(GError) error = NULL;
    struct sockaddr_storage storage;
    const struct sockaddr *address = (const struct sockaddr *)&storage;
    const char *path = ((const struct sockaddr_un *)(const void *)&storage)->sun_path;
    socklen_t len;

    if (!ff_attach_address(known, &storage, &len) || address->sa_family != AF_UNIX || !path[0] ||
        has_name(o, path)) {
        return;
    }
    bool direct = a->as.uid == (uid_t)-1 || a->planner == 0;
    int fd = direct ? ff_attach_listen(address, len, &a->as, false, a->made, id, &error)
                    : listen_by_child(a, address, len, id, &error);
    if (fd < 0) {
        g_ptr_array_add(r->notes, g_strdup_printf("this guest cannot be reached there: %s: end "
                                                  "what is there, then farfault attach --replace "
                                                  "%d",
                                                  error->message, (int)a->pid));
        return;
    }
    if (!direct) {
        g_ptr_array_add(a->made, g_strdup(path));
    }
    put_socket(r, o, fd, path);
}

/* The name of a listening socket may have gone, or another process may have taken it: clients find
 * this guest again. */
static void restore_sockets(Replace *r)
{
    JsonArray *all = ff_json_array(json_node_get_object(r->plan), "monitors");
    JsonArray *known = ff_attach_monitors(r->a);

    for (guint i = 0; all && i < json_array_get_length(all); i++) {
        JsonObject *o = ff_json_node_object(json_array_get_element(all, i));

        if (!o || strcmp(ff_json_string_or(o, "kind", ""), "listen") != 0) {
            continue;
        }
        for (guint k = 0; known && k < json_array_get_length(known); k++) {
            JsonObject *same = ff_json_node_object(json_array_get_element(known, k));

            if (same && !g_strcmp0(ff_json_string(same, "id"), ff_json_string(o, "id"))) {
                listen_again(r, o, same);
            }
        }
    }
}

/* ---- the next one ---------------------------------------------------------------------------- */

/* FF_RELAY_USER: the groups are those of the relay that was there (g_free). NULL: this user. */
static char *user_of(const Replace *r)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/status", (int)r->relay), *status = NULL;
    const char *groups = NULL;

    if (r->a->as.uid == (uid_t)-1) {
        return NULL;
    }
    if (g_file_get_contents(path, &status, NULL, NULL)) {
        groups = strstr(status, "\nGroups:");
    }
    g_autofree char *list = groups ? g_strndup(groups + strlen("\nGroups:"),
                                               strcspn(groups + 1, "\n") + 1 - strlen("\nGroups:"))
                                   : g_strdup("");
    g_strstrip(list);
    return g_strdup_printf("%u %u%s%s", r->a->as.uid, r->a->as.gid, *list ? " " : "", list);
}

static pid_t start_relay(Replace *r, GError **error)
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
    ff_scheduling_take(r->relay);
    int talk = g_steal_fd(&r->talk);
    json_object_set_string_member(plan, "engine", engine);
    json_object_set_int_member(plan, "succeeds", talk);
    json_object_set_int_member(plan, "ready-fd", ready_fd);
    g_autofree char *text = json_to_string(r->plan, FALSE);
    g_autoptr(GArray) inherited = g_array_copy(r->fds);
    g_array_append_val(inherited, ready_fd);
    g_array_append_val(inherited, talk);
    g_autofree char *user = user_of(r);
    const FfRelayProgram program = {text,
                                    inherited,
                                    &r->a->as,
                                    false,
                                    "the relay that was there stays",
                                    ff_json_string(plan, "name"),
                                    user,
                                    talk};

    pid_t relay = ff_relay_spawn(&program, ready, ready_fd, NULL, error);
    /* If it has said its last word, it ends: nobody is to see two of them. Where the new one has
     * failed the reason may be that the old one was just killed, whose socket ends before it does.
     */
    struct pollfd pfd = {r->pidfd, POLLIN, 0};
    bool ended = poll(&pfd, 1, relay > 0 ? FF_SUCCESSION_FROZEN_MS : KILLED_MS) == 1;
    if (!relay && ended) {
        g_clear_error(error);
        say_ended(r, error);
    }
    return relay;
}

static void close_process(FfAttach *a)
{
    if (a->pidfd >= 0) {
        close(a->pidfd);
    }
    g_clear_pointer(&a->node, json_node_unref);
    g_free(a->user);
}

pid_t ff_attach_replace(pid_t pid, pid_t *before, GPtrArray *notes, GError **error)
{
    g_autoptr(GPtrArray) made = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GArray) none = g_array_new(FALSE, FALSE, sizeof(int));
    FfAttach a = {.pid = pid, .pidfd = -1, .pact_fd = -1, .fds = none, .made = made};
    g_auto(Replace) r = {.a = &a,
                         .pidfd = -1,
                         .talk = -1,
                         .fds = g_array_new(FALSE, FALSE, sizeof(int)),
                         .notes = notes};
    pid_t relay = 0;

    const struct timeval limit = {.tv_sec = FF_SUCCESSION_REST_MS / 1000 + 2};

    if (ff_attach_open_process(&a, error) &&
        ask_relay(&r, FF_SUCCESSION_ASK, SOCK_SEQPACKET, error) &&
        setsockopt(r.talk, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)) == 0 &&
        receive_plan(&r, error) && take_fds(&r, error)) {
        *before = r.relay;
        restore_sockets(&r);
        relay = start_relay(&r, error);
    }
    for (guint i = 0; i < made->len && !relay; i++) {
        unlink(made->pdata[i]);
    }
    close_process(&a);
    return relay;
}

/* The process in which the guest is whose front this one is; 0 and ERROR. */
static pid_t guest_pid(Replace *r, GError **error)
{
    if (ff_attach_is_orphan(r->a->pid, r->a->plan)) {
        ff_launch_fail(error,
                       "process %d only stays for those who know it, and its relay has ended: name "
                       "the process in which its guest is (farfault status)",
                       (int)r->a->pid);
        return 0;
    }
    const struct timeval limit = {.tv_sec = FF_SUCCESSION_REST_MS / 1000};
    char text[FF_SUCCESSION_TEXT + 1] = "";
    FfRights rights = {0};

    if (!ask_relay(r, FF_SUCCESSION_WHERE, SOCK_SEQPACKET, error)) {
        return 0;
    }
    setsockopt(r->talk, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    ssize_t n = receive_message(r->talk, text, FF_SUCCESSION_TEXT, &rights);
    pid_t pid = n > 0 ? atoi(text) : 0;

    for (unsigned i = 0; n > 0 && i < rights.n; i++) {
        close(rights.fd[i]);
    }
    close(g_steal_fd(&r->talk));
    if (pid <= 0) {
        ff_launch_fail(error,
                       "process %d only stays for those who know it, and its relay does not say "
                       "where its guest is: see farfault status",
                       (int)r->a->pid);
    }
    return MAX(pid, 0);
}

/* Where MONITOR listens, as the command takes it (g_free). NULL: it does not. */
static char *listens_at(JsonObject *monitor)
{
    struct sockaddr_storage address;
    socklen_t len;

    if (!ff_attach_address(monitor, &address, &len)) {
        return NULL;
    }
    g_autoptr(GSocketAddress) known = g_socket_address_new_from_native(&address, len);
    g_autofree char *text =
        known ? g_socket_connectable_to_string(G_SOCKET_CONNECTABLE(known)) : NULL;

    return text && *text ? g_strconcat(address.ss_family == AF_UNIX ? "" : "tcp:", text, NULL)
                         : g_strdup("its -qmp");
}

/* FALSE and ERROR: it was started without. */
static bool may_have_door(FfAttach *a, GError **error)
{
    JsonArray *all = ff_attach_monitors(a);
    g_autofree char *listens = NULL;

    for (guint i = 0; all && i < json_array_get_length(all); i++) {
        JsonObject *o = ff_json_node_object(json_array_get_element(all, i));
        const char *kind = o ? ff_json_string_or(o, "kind", "") : "";

        if (!strcmp(kind, FF_PLAN_DOOR)) {
            return true;
        }
        if (!listens && !strcmp(kind, "listen")) {
            listens = listens_at(o);
        }
    }
    g_autofree char *lost = ff_attach_lost_socket(a->pid, a->plan);
    if (lost) {
        ff_launch_fail(error,
                       "process %d has lost its monitor's socket %s: farfault attach --replace %d, "
                       "as root",
                       (int)a->pid, lost, (int)a->pid);
    } else if (listens) {
        ff_launch_fail(error, "process %d has a monitor that listens: name %s in its place",
                       (int)a->pid, listens);
    } else {
        ff_launch_fail(error,
                       "process %d has no monitor for this: it was started without one, or by an "
                       "older farfault",
                       (int)a->pid);
    }
    return false;
}

/* Once. *BEHIND: if PID is a front, the process in which its guest is, and nothing was asked for.
 */
static int ask_monitor(pid_t pid, pid_t *behind, GError **error)
{
    g_autoptr(GPtrArray) made = g_ptr_array_new();
    g_autoptr(GArray) none = g_array_new(FALSE, FALSE, sizeof(int));
    g_autofree FfStateHeader *state = g_new0(FfStateHeader, 1);
    FfAttach a = {.pid = pid, .pidfd = -1, .pact_fd = -1, .fds = none, .made = made};
    g_auto(Replace)
        r = {.a = &a, .pidfd = -1, .talk = -1, .fds = g_array_new(FALSE, FALSE, sizeof(int))};
    int fd = -1;

    *behind = 0;
    if (ff_attach_open_process(&a, error) && may_have_door(&a, error)) {
        if (read_state(&r, state) && ff_state_is_front(state)) {
            *behind = guest_pid(&r, error);
        } else if (ask_relay(&r, FF_SUCCESSION_MONITOR, SOCK_STREAM, error)) {
            fd = g_steal_fd(&r.talk);
        }
    }
    close_process(&a);
    return fd;
}

int ff_attach_monitor(pid_t *pid, GError **error)
{
    pid_t behind;
    int fd = ask_monitor(*pid, &behind, error);

    if (behind) {
        *pid = behind;
        fd = ask_monitor(*pid, &behind, error);
    }
    return fd;
}
