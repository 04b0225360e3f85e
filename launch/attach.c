/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Starts a relay for a guest that has lost its own.
 *
 * QEMU keeps, close-on-exec and unused by itself: the launcher's plan, whose fd numbers are those
 * of QEMU, too; a parcel (parcel.h) with the state memfd and the names (O_PATH) of its private
 * monitors; the guest's RAM; the userfaultfds; what arms the agent's hook; at the source after the
 * switch, the engine's end of the device-state socket; and the TLS credentials of a migration under
 * way. Each is taken with pidfd_getfd() and looked at before it is believed: QEMU may have been
 * taken over by its guest. What is started runs as QEMU's user, and with this farfault's own
 * programs.
 *
 * The lock on the state memfd (ff_relay_lock()) is taken before anything is made: while a relay or
 * its engine lives nothing happens.
 *
 * One thread. System calls: pidfd_open, pidfd_getfd, flock, and those of attach-listen.c and
 * launch-relay.c.
 */
#include "launch/attach.h"

#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <pwd.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include "net/rights.h"
#include "launch/attach-kinds.h"
#include "launch/endpoint.h"
#include "launch/launch-relay.h"
#include "launch/parcel.h"
#include "launch/paths.h"
#include "state/pact.h"
#include "state/state.h"
#include "agent/agent.h"
#include "qmp/json.h"

/* What lies where in the parcel. */
enum { KEPT_STATE, KEPT_MONITOR, KEPT_NAMES };

#define LOCK_MS 5000 /* an engine whose relay died may say last words for 3 s */
#define MEMFD "/memfd:farfault-"

typedef struct {
    pid_t pid;
    int pidfd;
    JsonNode *node;
    JsonObject *plan;
    FfRunas as;
    char *user;
    uid_t planner;           /* who made the plan */
    int kept[FF_PARCEL_MAX]; /* copies of what is in QEMU's parcel */
    int n_kept;              /* 0: it has none, and all have their numbers */
    int state_fd;            /* ours, with the lock */
    FfStateHeader *state;
    GArray *fds;      /* of int: the relay's */
    GPtrArray *made;  /* char *: unix sockets that this made */
    GPtrArray *notes; /* borrowed */
    bool done;
} Attach;

static void attach_clear(Attach *a)
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
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Attach, attach_clear)

static void G_GNUC_PRINTF(2, 3) note(Attach *a, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    g_ptr_array_add(a->notes, g_strdup_vprintf(format, ap));
    va_end(ap);
}

/* FD is the relay's from now on; -1 passes through. Returns its (high) number. */
static int give(Attach *a, int fd)
{
    int high = ff_fd_high(fd);

    if (high >= 0) {
        g_array_append_val(a->fds, high);
    }
    return high;
}

/* ---- QEMU's process ---------------------------------------------------------------------------
 */

static bool same_namespace(pid_t pid, const char *name)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/ns/%s", (int)pid, name);
    g_autofree char *own = g_strdup_printf("/proc/self/ns/%s", name);
    struct stat a, b;

    return stat(path, &a) < 0 || stat(own, &b) < 0 ||
           (a.st_dev == b.st_dev && a.st_ino == b.st_ino);
}

/* "NAME:\tREAL\tEFFECTIVE\t..." of TEXT. */
static long effective_id(const char *text, const char *name)
{
    const char *at = text ? strstr(text, name) : NULL;
    long real, effective;

    return at && sscanf(at + strlen(name), " %ld %ld", &real, &effective) == 2 ? effective : -1;
}

/* Root makes the relay QEMU's user; anybody else is it already. */
static bool find_user(Attach *a, GError **error)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/status", (int)a->pid);
    g_autofree char *text = NULL;

    g_file_get_contents(path, &text, NULL, NULL);
    long uid = effective_id(text, "\nUid:"), gid = effective_id(text, "\nGid:");
    a->as = (FfRunas){.uid = (uid_t)-1, .gid = (gid_t)-1};
    if (uid < 0 || gid < 0) {
        ff_launch_fail(error, "process %d has ended", (int)a->pid);
        return false;
    }
    if ((uid_t)uid == geteuid()) {
        return true;
    }
    if (geteuid() != 0) {
        ff_launch_fail(error, "process %d is user %ld's: be that user, or root", (int)a->pid, uid);
        return false;
    }
    const struct passwd *pw = getpwuid(uid);
    a->user = pw ? g_strdup(pw->pw_name) : NULL;
    a->as = (FfRunas){.uid = uid, .gid = gid, .user = a->user};
    return true;
}

static bool open_process(Attach *a, GError **error)
{
    static const char *const names[] = {"net", "mnt"};

    a->pidfd = pidfd_open(a->pid, 0);
    if (a->pidfd < 0) {
        ff_launch_fail(error, "there is no process %d", (int)a->pid);
        return false;
    }
    a->node = ff_attach_plan(a->pid, &a->planner, error);
    if (!a->node) {
        return false;
    }
    a->plan = json_node_get_object(a->node);
    for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
        if (!same_namespace(a->pid, names[i])) {
            ff_launch_fail(
                error, "process %d is in another %s namespace: nsenter -t %d -n -m farfault attach",
                (int)a->pid, names[i], (int)a->pid);
            return false;
        }
    }
    return find_user(a, error);
}

/* Takes a copy of fd FD of QEMU, whose link begins with PREFIX (NULL: any). WHAT names it in ERROR.
 * Returns a close-on-exec fd, or -1. */
static int take(Attach *a, int fd, const char *prefix, const char *what, GError **error)
{
    g_autofree char *link = fd >= 0 ? ff_attach_link(a->pid, fd) : NULL;

    if (!link || (prefix && !g_str_has_prefix(link, prefix))) {
        ff_launch_fail(error, "QEMU (process %d) does not keep %s any more, fd %d is %s",
                       (int)a->pid, what, fd, link ? link : "closed");
        return -1;
    }
    int copy = pidfd_getfd(a->pidfd, fd, 0);
    if (copy < 0 && errno == EPERM) {
        ff_launch_fail(error, "the fds of process %d may not be taken: %s", (int)a->pid,
                       geteuid() ? "be root (kernel.yama.ptrace_scope keeps its user from it)"
                                 : "kernel.yama.ptrace_scope=3 keeps everybody from it");
    } else if (copy < 0) {
        ff_launch_fail(error, "%s of process %d: %s", what, (int)a->pid, g_strerror(errno));
    }
    return copy;
}

/* ---- the parcel -------------------------------------------------------------------------------
 */

static JsonArray *monitors_of(Attach *a)
{
    return ff_json_array(a->plan, "monitors");
}

static bool open_parcel(Attach *a, GError **error)
{
    JsonArray *monitors = monitors_of(a);
    int expected = 2 + (monitors ? json_array_get_length(monitors) : 0);
    int fd = ff_json_int(a->plan, FF_PLAN_KEPT, -1);

    if (fd < 0) {
        return true; /* an older farfault, or the kernel had no room for one */
    }
    fd = take(a, fd, "socket:", "what a new relay needs", error);
    if (fd < 0) {
        return false;
    }
    int n = ff_parcel_look(fd, a->kept);
    close(fd);
    a->n_kept = MAX(n, 0);
    if (n != expected) {
        ff_launch_fail(error, "QEMU (process %d) does not keep what a new relay needs any more%s%s",
                       (int)a->pid, n < 0 ? ": " : "", n < 0 ? g_strerror(-n) : "");
        return false;
    }
    return true;
}

/* A copy of the parcel's fd AT, or of QEMU's fd that MEMBER of O says. As take(). */
static int take_kept(Attach *a, unsigned at, JsonObject *o, const char *member, const char *prefix,
                     const char *what, GError **error)
{
    if (!a->n_kept) {
        return take(a, ff_json_int(o, member, -1), prefix, what, error);
    }
    int copy = fcntl(a->kept[at], F_DUPFD_CLOEXEC, 0);
    if (copy < 0) {
        ff_launch_fail(error, "%s: %s", what, g_strerror(errno));
    }
    return copy;
}

/* ---- the state --------------------------------------------------------------------------------
 */

static bool take_state(Attach *a, GError **error)
{
    g_autoptr(GError) why = NULL;
    int fd = take_kept(a, KEPT_STATE, a->plan, FF_PLAN_KEPT_STATE, MEMFD "state",
                       "the state of its migrations", error);

    if (fd < 0) {
        return false;
    }
    /* QEMU has put it there: only a memfd is opened, nothing that opening would do something to. */
    if (fcntl(fd, F_GET_SEALS) < 0) {
        ff_launch_fail(error, "what process %d keeps as the state of its migrations is no memfd",
                       (int)a->pid);
        close(fd);
        return false;
    }
    a->state_fd = ff_relay_lock(fd, LOCK_MS);
    close(fd);
    if (a->state_fd == -EWOULDBLOCK) {
        ff_launch_fail(error,
                       "the relay of process %d lives (or its engine): there is nothing to attach",
                       (int)a->pid);
        return false;
    }
    if (a->state_fd < 0) {
        ff_launch_fail(error, "the state memfd of process %d: %s", (int)a->pid,
                       g_strerror(-a->state_fd));
        return false;
    }
    g_array_append_val(a->fds, a->state_fd);
    a->state = ff_state_map(a->state_fd, &why);
    if (!a->state) {
        ff_launch_fail(error, "process %d: %s", (int)a->pid, why->message);
        return false;
    }
    json_object_set_int_member(a->plan, "state-fd", a->state_fd);
    return true;
}

/* ---- guest RAM --------------------------------------------------------------------------------
 */

static bool check_ram(Attach *a, int fd, const char *id, guint64 size, GError **error)
{
    struct stat st;

    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && size > 0 && (guint64)st.st_size >= size) {
        return true;
    }
    ff_launch_fail(error, "guest RAM '%s' of process %d is not what the launcher made", id,
                   (int)a->pid);
    return false;
}

static bool take_ram(Attach *a, JsonObject *ram, GError **error)
{
    const char *id = ff_json_string(ram, "id");
    int fd = ff_json_int(ram, "fd", -1);

    fd = give(a, take(a, fd, NULL, "guest RAM", error));
    if (fd < 0 || !id || !check_ram(a, fd, id, ff_json_int(ram, "size", 0), error)) {
        return false;
    }
    json_object_set_int_member(ram, "fd", fd);
    return true;
}

static void hold(Attach *a, JsonArray *held, const char *name, int fd, const struct stat *st,
                 long page_size)
{
    JsonObject *o = json_object_new();

    json_object_set_string_member(o, "name", name);
    json_object_set_int_member(o, "fd", fd);
    if (st) {
        json_object_set_int_member(o, "size", st->st_size);
        json_object_set_int_member(o, "page-size", page_size);
    }
    json_array_add_object_element(held, o);
}

static bool in_plan(JsonArray *ram, const char *id)
{
    for (guint i = 0; i < json_array_get_length(ram); i++) {
        JsonObject *o = json_array_get_object_element(ram, i);

        if (g_strcmp0(ff_json_string(o, "id"), id) == 0) {
            return true;
        }
    }
    return false;
}

static bool is_held(JsonArray *held, const char *name)
{
    for (guint i = 0; i < json_array_get_length(held); i++) {
        JsonObject *o = json_array_get_object_element(held, i);

        if (g_strcmp0(json_object_get_string_member(o, "name"), name) == 0) {
            return true;
        }
    }
    return false;
}

/* Memory that was plugged later: QEMU keeps the file of a backend open. FD of QEMU is MEMFD NAME.
 */
static bool take_plugged(Attach *a, JsonArray *ram, JsonArray *held, int fd, const char *link,
                         GError **error)
{
    static const char deleted[] = " (deleted)";
    g_autofree char *id = g_strdup(link + strlen(MEMFD));
    g_autofree char *name = NULL;
    struct statfs fs;
    struct stat st;

    if (g_str_has_suffix(id, deleted)) {
        id[strlen(id) - strlen(deleted)] = 0;
    }
    if (in_plan(ram, id) || !strcmp(id, "state") || !strcmp(id, "plan") || !strcmp(id, "device")) {
        return true;
    }
    name = g_strdup_printf("ram:%s", id);
    int own = give(a, take(a, fd, MEMFD, "plugged RAM", error));
    if (own < 0 || fstat(own, &st) < 0 || fstatfs(own, &fs) < 0) {
        return false;
    }
    if (!is_held(held, name)) { /* else the same once more: QEMU opens it again */
        hold(a, held, name, own, &st, fs.f_bsize);
    }
    return true;
}

/* FD of QEMU is LINK: the device-state socket, or the TLS credentials of the migration under way,
 * is the new engine's, too. */
static bool take_migration(Attach *a, JsonArray *held, int fd, const char *link, GError **error)
{
    g_autofree char *inner =
        g_strdup_printf("socket:[%" G_GUINT64_FORMAT "]", (guint64)a->state->kept_inner);
    bool is_inner = a->state->kept_inner && !strcmp(link, inner);
    bool is_tls = a->state->driver_flags & FF_DRIVER_TLS &&
                  g_str_has_prefix(link, "/memfd:" FF_TLS_KEPT_NAME);
    const char *name = is_inner ? "inner" : "tls";

    if ((!is_inner && !is_tls) || is_held(held, name)) {
        return true;
    }
    int own =
        give(a, take(a, fd, NULL, is_inner ? "the device-state socket" : "its credentials", error));
    if (own < 0) {
        return false;
    }
    if (is_inner || (fcntl(own, F_GET_SEALS) & FF_TLS_KEPT_SEALS) == FF_TLS_KEPT_SEALS) {
        hold(a, held, name, own, NULL, 0);
    }
    return true;
}

/* FD of QEMU is LINK: the parcel with what an upgrade under way needs. */
static bool take_pact(Attach *a, JsonArray *held, int fd, const char *link, GError **error)
{
    static const char *const names[FF_PACT_KEPT_MAX] = FF_PACT_KEPT;
    g_autofree char *ours = g_strdup_printf("socket:[%u]", a->state->kept_pact);
    int fds[FF_PARCEL_MAX], parcel;

    if (!a->state->kept_pact || strcmp(link, ours) != 0 || is_held(held, names[0])) {
        return true;
    }
    parcel = take(a, fd, NULL, "the pact of its upgrade", error);
    if (parcel < 0) {
        return false;
    }
    int n = ff_parcel_look(parcel, fds);
    bool all = n > 0;
    close(parcel);
    for (int i = 0; i < n; i++) {
        int own = give(a, fds[i]);

        all = all && own >= 0;
        if (own >= 0 && i < FF_PACT_KEPT_MAX) {
            hold(a, held, names[i], own, NULL, 0);
        }
    }
    if (!all) {
        /* Without it nobody could say whose the guest is. */
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED,
                    "what QEMU keeps of its upgrade cannot be had (%s): try again",
                    g_strerror(n < 0 ? -n : EMFILE));
    }
    return all;
}

/* RAM, and what QEMU keeps of a migration under way. */
static bool take_memory(Attach *a, GError **error)
{
    g_autoptr(GArray) fds = ff_attach_fds(a->pid, error);
    JsonArray *ram = ff_json_array(a->plan, "ram");
    JsonArray *held = json_array_new();

    json_object_set_array_member(a->plan, "held", held);
    if (!fds || !ram) {
        return false;
    }
    for (guint i = 0; i < json_array_get_length(ram); i++) {
        JsonObject *o = json_array_get_object_element(ram, i);
        if (!o || !take_ram(a, o, error)) {
            return false;
        }
    }
    for (guint i = 0; i < fds->len; i++) {
        int fd = g_array_index(fds, int, i);
        g_autofree char *link = ff_attach_link(a->pid, fd);

        if (link && g_str_has_prefix(link, MEMFD) && !take_plugged(a, ram, held, fd, link, error)) {
            return false;
        }
        if (link &&
            (!take_migration(a, held, fd, link, error) || !take_pact(a, held, fd, link, error))) {
            return false;
        }
    }
    if (a->state->driver_flags & FF_DRIVER_TLS && !is_held(held, "tls")) {
        note(a, "the TLS credentials of the migration are lost: it cannot be recovered; farfault "
                "dump keeps this half of the guest");
    }
    return true;
}

/* ---- userfaultfds -----------------------------------------------------------------------------
 */

static int open_proc(Attach *a, const char *name)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/%s", (int)a->pid, name);

    return open(path, O_RDONLY | O_CLOEXEC);
}

static int send_hello(int sock, const FfAgentHello *hello, const int *fds, unsigned n)
{
    ssize_t sent = ff_rights_send(sock, hello, sizeof(*hello), fds, n);

    return sent == sizeof(*hello) ? 0 : sent < 0 ? (int)sent : -EIO;
}

/* Pidfd, pagemap, maps and mem. */
static bool take_process(Attach *a, int *fds, GError **error)
{
    fds[FF_AGENT_FD_PIDFD] = fcntl(a->pidfd, F_DUPFD_CLOEXEC, 0);
    fds[FF_AGENT_FD_PAGEMAP] = open_proc(a, "pagemap");
    fds[FF_AGENT_FD_MAPS] = open_proc(a, "maps");
    fds[FF_AGENT_FD_MEM] = open_proc(a, "mem");
    if (fds[FF_AGENT_FD_MEM] < 0) {
        fds[FF_AGENT_FD_MEM] = open_proc(a, "maps"); /* as the agent does */
    }
    if (fds[FF_AGENT_FD_PAGEMAP] >= 0 && fds[FF_AGENT_FD_MAPS] >= 0 && fds[FF_AGENT_FD_MEM] >= 0) {
        return true;
    }
    ff_launch_fail(error, "the memory map of process %d may not be read: be root", (int)a->pid);
    return false;
}

/* What arms the agent's hook for discards; -1: the farfault that started QEMU had no hook, or QEMU
 * does not keep it any more. The relay looks whether it is one. */
static int take_hook(Attach *a, FfAgentHello *hello)
{
    int kept = a->state->hook_in_qemu, fds[FF_PARCEL_MAX], n = 0;
    int parcel = kept > 0 ? take(a, kept, "socket:", "its hook", NULL) : -1;

    if (parcel >= 0) {
        n = ff_parcel_look(parcel, fds);
        close(parcel);
    }
    while (n > 1) {
        close(fds[--n]);
    }
    hello->hook_error = n == 1 ? 0 : FF_AGENT_EOLDER;
    hello->hook_kept = n == 1 ? kept : -1;
    return n == 1 ? fds[0] : -1;
}

/* Says to the relay what the agent said to the first one. */
static bool speak_for_agent(Attach *a, GError **error)
{
    FfAgentHello hello = {.magic = FF_AGENT_MAGIC, .version = FF_AGENT_VERSION, .pid = a->pid};
    int fds[FF_AGENT_MAX_FDS], pair[2] = {-1, -1};
    unsigned n = FF_AGENT_FD_UFFDS;
    bool ok = take_process(a, fds, error);

    ff_attach_kinds(a->state, &hello);
    for (unsigned i = 0; ok && i < FF_KINDS; i++) {
        if (hello.error[i]) {
            continue;
        }
        fds[n] = take(a, hello.kept[i], "anon_inode:[userfaultfd]", "its userfaultfds", error);
        ok = fds[n] >= 0;
        n += ok;
    }
    int hook = take_hook(a, &hello);
    if (hook >= 0) {
        fds[n++] = hook;
    }
    if (hello.error[FF_KIND_PROTECT] == FF_AGENT_ELOST) {
        note(a, "the userfaultfd for live snapshots has ended with the relay: they need this guest "
                "to be started again");
    }
    if (ok && socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
        ff_launch_fail(error, "cannot make a socket pair: %s", g_strerror(errno));
        ok = false;
    }
    if (ok && send_hello(pair[0], &hello, fds, n) < 0) {
        ff_launch_fail(error, "the userfaultfds cannot be handed on: %s", g_strerror(errno));
        ok = false;
    }
    json_object_set_int_member(a->plan, "agent-fd", give(a, pair[1]));
    for (unsigned i = 0; i < n; i++) {
        if (fds[i] >= 0) {
            close(fds[i]);
        }
    }
    if (pair[0] >= 0) {
        close(pair[0]);
    }
    return ok;
}

static bool take_uffds(Attach *a, GError **error)
{
    if (a->state->agent == FF_STATE_AGENT_SILENT) {
        json_object_set_int_member(a->plan, "agent-fd", -1);
        return true;
    }
    return speak_for_agent(a, error);
}

/* ---- monitors ---------------------------------------------------------------------------------
 */

/* The client's side of MONITOR. *LOST: there is no way to make it again. */
static bool make_endpoint(Attach *a, JsonObject *monitor, const char *id, bool *lost,
                          GError **error)
{
    const char *kind = ff_json_string_or(monitor, "kind", "");
    struct sockaddr_storage address;
    socklen_t len;

    json_object_remove_member(monitor, "fd");
    if (!strcmp(kind, "stdio")) {
        *lost = ff_json_int(monitor, "in", -1) < 0 || ff_json_int(monitor, "out", -1) < 0;
    } else if (!strcmp(kind, "listen") && ff_attach_address(monitor, &address, &len)) {
        int fd =
            give(a, ff_attach_listen((struct sockaddr *)&address, len, &a->as, a->made, id, error));
        if (fd < 0) {
            return false;
        }
        json_object_set_int_member(monitor, "fd", fd);
    } else if (ff_json_string(monitor, "path")) {
        json_object_set_string_member(monitor, "kind", "connect-unix");
    } else if (ff_json_string(monitor, "host")) {
        json_object_set_string_member(monitor, "kind", "connect-tcp");
    } else {
        *lost = true;
    }
    return true;
}

/* The name (O_PATH) of a private listening socket of QEMU's, AT in the parcel. */
static int take_name(Attach *a, unsigned at, JsonObject *o, const char *member, GError **error)
{
    int fd = take_kept(a, at, o, member, NULL, "the name of a private monitor", error);
    struct stat st;

    if (fd >= 0 && (fstat(fd, &st) < 0 || !S_ISSOCK(st.st_mode))) {
        ff_launch_fail(error, "what QEMU keeps as the name of a private monitor is no socket");
        close(fd);
        fd = -1;
    }
    fd = give(a, fd);
    json_object_set_int_member(o, member, fd);
    return fd;
}

/* What QEMU has of them. */
static bool take_monitors(Attach *a, GError **error)
{
    JsonArray *all = monitors_of(a);

    for (guint i = 0; all && i < json_array_get_length(all); i++) {
        JsonObject *monitor = json_array_get_object_element(all, i);

        if (!monitor || take_name(a, KEPT_NAMES + i, monitor, "qemu", error) < 0) {
            return false;
        }
        if (!strcmp(ff_json_string_or(monitor, "kind", ""), "stdio")) {
            json_object_set_int_member(monitor, "in",
                                       give(a, take(a, STDIN_FILENO, NULL, "its stdin", NULL)));
            json_object_set_int_member(monitor, "out",
                                       give(a, take(a, STDOUT_FILENO, NULL, "its stdout", NULL)));
        }
    }
    if (ff_json_int(a->plan, "stderr-fd", -1) >= 0) {
        json_object_set_int_member(a->plan, "stderr-fd",
                                   give(a, take(a, STDERR_FILENO, NULL, "its stderr", NULL)));
    }
    return take_name(a, KEPT_MONITOR, a->plan, "qemu-monitor", error) >= 0;
}

static bool make_endpoints(Attach *a, GError **error)
{
    JsonArray *all = monitors_of(a), *kept = json_array_new();

    for (guint i = 0; all && i < json_array_get_length(all); i++) {
        JsonObject *monitor = json_array_get_object_element(all, i);
        const char *id = ff_json_string_or(monitor, "id", "?");
        bool lost = false;

        if (!make_endpoint(a, monitor, id, &lost, error)) {
            json_array_unref(kept);
            return false;
        }
        if (lost) {
            note(a, "monitor '%s' is gone: its client had an inherited connection", id);
        } else {
            json_array_add_object_element(kept, json_object_ref(monitor));
        }
    }
    json_object_set_array_member(a->plan, "monitors", kept);
    return true;
}

/* The paths of the plan are its maker's: root goes there only if root has made it. Another's plan
 * is carried out with the rights of QEMU's user. */
static bool become_planner(Attach *a, GError **error)
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

/* ---- all of it --------------------------------------------------------------------------------
 */

static bool fill_in(Attach *a, int ready_fd, GError **error)
{
    g_autofree char *engine = ff_find_helper("farfault-engine");

    if (!engine) {
        ff_launch_fail(error,
                       "farfault-engine was not found beside farfault: install farfault again");
        return false;
    }
    json_object_set_int_member(a->plan, "ready-fd", ready_fd);
    json_object_set_int_member(a->plan, "qemu-pid", a->pid);
    json_object_set_string_member(a->plan, "engine", engine);
    json_object_set_boolean_member(a->plan, "daemonize", FALSE);
    json_object_set_boolean_member(a->plan, "attached", TRUE);
    return true;
}

static bool take_all(Attach *a, GError **error)
{
    return open_process(a, error) && open_parcel(a, error) && take_state(a, error) &&
           take_memory(a, error) && take_uffds(a, error) && take_monitors(a, error) &&
           become_planner(a, error) && make_endpoints(a, error);
}

pid_t ff_attach(pid_t pid, GPtrArray *notes, GError **error)
{
    g_auto(Attach) a = {.pid = pid,
                        .pidfd = -1,
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
    const FfRelayProgram program = {text,
                                    inherited,
                                    &a.as,
                                    false,
                                    "nothing is attached",
                                    ff_json_string(json_node_get_object(a.node), "name")};
    pid_t relay = ff_relay_spawn(&program, ready, ready_fd, NULL, error);
    a.done = relay > 0;
    return relay;
}
