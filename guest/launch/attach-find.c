/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Finds the guests of farfault by what their QEMU keeps open: the launcher's plan, a memfd.
 *
 * Reading /proc/PID/fd takes the right to read QEMU's memory (its user, or root). One thread.
 * System calls: flock, fstatfs, pidfd_open, pidfd_getfd.
 */
#include "guest/launch/attach-find.h"

#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <linux/magic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/un.h>
#include <unistd.h>

#include "guest/launch/fdstore.h"
#include "guest/launch/internal.h"
#include "guest/launch/launch-relay.h"
#include "guest/launch/paths.h"
#include "qmp/json.h"

#define PLAN_LINK "/memfd:farfault-plan (deleted)"
#define PLAN_MAX (1 << 20) /* bytes */

static int compare_ints(gconstpointer a, gconstpointer b)
{
    return *(const int *)a - *(const int *)b;
}

GArray *ff_attach_fds(pid_t pid, GError **error)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/fd", (int)pid);
    g_autoptr(GError) why = NULL;
    g_autoptr(GDir) dir = g_dir_open(path, 0, &why);
    GArray *fds = g_array_new(FALSE, FALSE, sizeof(int));
    const char *name;

    while (dir && (name = g_dir_read_name(dir))) {
        int fd = atoi(name);
        g_array_append_val(fds, fd);
    }
    if (dir) {
        g_array_sort(fds, compare_ints);
        return fds;
    }
    g_array_unref(fds);
    if (g_error_matches(why, G_FILE_ERROR, G_FILE_ERROR_NOENT)) {
        ff_launch_fail(error, "there is no process %d", (int)pid);
    } else {
        ff_launch_fail(error, "process %d may not be looked at: be its user, or root", (int)pid);
    }
    return NULL;
}

char *ff_attach_link(pid_t pid, int fd)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/fd/%d", (int)pid, fd);

    return g_file_read_link(path, NULL);
}

/* What a process that may be hostile has open: nothing that opening would do something to, or that
 * would keep a process that opens it waiting (a fifo, a device, a file of another file system than
 * a memfd's). O_PATH does nothing to it, and it stays the same one, whatever is under that number
 * meanwhile. */
static int open_memfd(const char *path)
{
    int name = open(path, O_PATH | O_CLOEXEC), fd = -1;
    struct statfs fs;
    struct stat st;

    if (name >= 0 && fstatfs(name, &fs) == 0 && fs.f_type == TMPFS_MAGIC && fstat(name, &st) == 0 &&
        S_ISREG(st.st_mode)) {
        g_autofree char *again = g_strdup_printf("/proc/self/fd/%d", name);

        fd = open(again, O_RDONLY | O_CLOEXEC);
    }
    if (name >= 0) {
        close(name);
    }
    return fd;
}

/* NULL: it is not the launcher's, whose is sealed. */
static char *read_plan(pid_t pid, int fd, uid_t *owner)
{
    const int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL;
    g_autofree char *path = g_strdup_printf("/proc/%d/fd/%d", (int)pid, fd);
    g_autofree char *text = NULL;
    int own = open_memfd(path);
    struct stat st;

    if (own >= 0 && (fcntl(own, F_GET_SEALS) & seals) == seals && fstat(own, &st) == 0 &&
        st.st_size <= PLAN_MAX) {
        text = g_malloc0(st.st_size + 1);
        if (pread(own, text, st.st_size, 0) != st.st_size) {
            g_clear_pointer(&text, g_free);
        }
        if (owner) {
            *owner = st.st_uid;
        }
    }
    if (own >= 0) {
        close(own);
    }
    return g_steal_pointer(&text);
}

JsonNode *ff_attach_plan(pid_t pid, uid_t *owner, GError **error)
{
    g_autoptr(GArray) fds = ff_attach_fds(pid, error);

    for (guint i = 0; fds && i < fds->len; i++) {
        int fd = g_array_index(fds, int, i);
        g_autofree char *link = ff_attach_link(pid, fd);

        if (g_strcmp0(link, PLAN_LINK) == 0) {
            g_autofree char *text = read_plan(pid, fd, owner);
            g_autoptr(JsonNode) node = text ? ff_json_from_text(text) : NULL;

            if (node && JSON_NODE_HOLDS_OBJECT(node)) {
                return g_steal_pointer(&node);
            }
        }
    }
    if (fds) {
        ff_launch_fail(
            error,
            "process %d is no guest that farfault started, or its farfault kept nothing for a new "
            "relay (no agent, or an older version)",
            (int)pid);
    }
    return NULL;
}

/* PATH (can be NULL) is where ADDRESS was bound, by a process in another folder. */
static void make_absolute(struct sockaddr_un *address, socklen_t *len, const char *path)
{
    if (address->sun_family == AF_UNIX && address->sun_path[0] && address->sun_path[0] != '/' &&
        path && strlen(path) < sizeof(address->sun_path)) {
        g_strlcpy(address->sun_path, path, sizeof(address->sun_path));
        *len = offsetof(struct sockaddr_un, sun_path) + strlen(path) + 1;
    }
}

gboolean ff_attach_address(JsonObject *monitor, struct sockaddr_storage *address, socklen_t *len)
{
    const char *text = ff_json_string(monitor, FF_PLAN_ADDRESS);
    gsize n = 0;
    g_autofree guchar *bytes = text ? g_base64_decode(text, &n) : NULL;

    if (!bytes || n < sizeof(sa_family_t) || n > sizeof(*address)) {
        return FALSE;
    }
    memset(address, 0, sizeof(*address));
    memcpy(address, bytes, n);
    *len = n;
    make_absolute((struct sockaddr_un *)(void *)address, len, ff_json_string(monitor, "unlink"));
    return TRUE;
}

static bool listened_at(JsonObject *plan, const char *path)
{
    JsonArray *monitors = ff_json_array(plan, "monitors");

    for (guint i = 0; monitors && i < json_array_get_length(monitors); i++) {
        JsonObject *monitor = json_array_get_object_element(monitors, i);
        const char *unlink_path = monitor ? ff_json_string(monitor, "unlink") : NULL;

        if (g_strcmp0(unlink_path, path) == 0) {
            return true;
        }
    }
    return false;
}

pid_t ff_next_process(GDir *proc)
{
    const char *name;
    pid_t pid = 0;

    while (proc && pid <= 0 && (name = g_dir_read_name(proc))) {
        pid = atoi(name);
    }
    return MAX(pid, 0);
}

static pid_t find_by_path(const char *path)
{
    g_autoptr(GDir) proc = g_dir_open("/proc", 0, NULL);

    for (pid_t pid; (pid = ff_next_process(proc));) {
        g_autoptr(JsonNode) plan = ff_attach_plan(pid, NULL, NULL);

        if (plan && listened_at(json_node_get_object(plan), path)) {
            return pid;
        }
    }
    return 0;
}

int ff_attach_open_state(pid_t pid, JsonObject *plan)
{
    int fd = ff_json_int(plan, FF_PLAN_KEPT_STATE, -1), kept = ff_json_int(plan, FF_PLAN_KEPT, -1);
    g_autofree char *path = g_strdup_printf("/proc/%d/fd/%d", (int)pid, fd);
    int fds[FF_PARCEL_MAX], state = -1;

    if (kept < 0) {
        return open_memfd(path);
    }
    int pidfd = pidfd_open(pid, 0), parcel = pidfd >= 0 ? pidfd_getfd(pidfd, kept, 0) : -1;
    int n = parcel >= 0 ? ff_fdstore_look(parcel, fds) : 0;

    for (int i = 0; i < n; i++) {
        if (i == 0 && fcntl(fds[i], F_GET_SEALS) >= 0) { /* a memfd, not what opening would start */
            g_autofree char *again = g_strdup_printf("/proc/self/fd/%d", fds[i]);
            state = open(again, O_RDONLY | O_CLOEXEC);
        }
        close(fds[i]);
    }
    if (parcel >= 0) {
        close(parcel);
    }
    if (pidfd >= 0) {
        close(pidfd);
    }
    return state;
}

/* Anybody may read which file is locked, but not by whom where the locks of another pid namespace
 * are left out. */
static bool is_listed(JsonObject *plan)
{
    const char *file = ff_json_string(plan, FF_PLAN_STATE_FILE);
    g_autofree char *part = g_strdup_printf(" %s ", file ? file : "");
    g_autofree char *locks = NULL;

    return file && g_file_get_contents("/proc/locks", &locks, NULL, NULL) && strstr(locks, part);
}

static bool in_first_namespace(void)
{
    g_autofree char *link = g_file_read_link("/proc/self/ns/pid", NULL);

    return g_strcmp0(link, "pid:[4026531836]") == 0; /* PROC_PID_INIT_INO */
}

/* A process that starts a relay meanwhile waits for this moment to be over. */
bool ff_attach_is_orphan(pid_t pid, JsonObject *plan)
{
    if (is_listed(plan)) {
        return false;
    }
    int own = ff_attach_open_state(pid, plan);
    bool is = own >= 0 ? flock(own, LOCK_SH | LOCK_NB) == 0
                       : ff_json_int(plan, FF_PLAN_KEPT, -1) >= 0 && in_first_namespace();

    if (own >= 0) {
        close(own);
    }
    return is;
}

GArray *ff_attach_orphans(void)
{
    GArray *pids = g_array_new(FALSE, FALSE, sizeof(pid_t));
    g_autoptr(GDir) proc = g_dir_open("/proc", 0, NULL);

    for (pid_t pid; (pid = ff_next_process(proc));) {
        g_autoptr(JsonNode) plan = ff_attach_plan(pid, NULL, NULL);

        if (plan && ff_attach_is_orphan(pid, json_node_get_object(plan))) {
            g_array_append_val(pids, pid);
        }
    }
    return pids;
}

/* Why the guest cannot be write-protected synchronously, FfAgentHello.error. 0: it can, or nobody
 * knows. */
static int protect_error(pid_t pid, JsonObject *plan)
{
    g_autofree FfStateHeader *state = g_new0(FfStateHeader, 1);
    int fd = ff_attach_open_state(pid, plan);
    bool known = fd >= 0 && pread(fd, state, sizeof(*state), 0) == sizeof(*state) &&
                 state->magic == FF_STATE_MAGIC && state->version == FF_STATE_VERSION &&
                 state->agent != FF_STATE_AGENT_SILENT;

    if (fd >= 0) {
        close(fd);
    }
    return known ? ff_attach_kind_error(state, FF_KIND_PROTECT) : 0;
}

pid_t ff_attach_relay(pid_t pid, JsonObject *plan)
{
    int fd = ff_attach_open_state(pid, plan);
    int32_t relay;
    bool known = fd >= 0 &&
                 pread(fd, &relay, sizeof(relay), offsetof(FfStateHeader, relay)) == sizeof(relay);

    if (fd >= 0) {
        close(fd);
    }
    return known ? relay : -1;
}

bool ff_attach_is_relay(pid_t pid)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/comm", (int)pid), *name = NULL;

    return g_file_get_contents(path, &name, NULL, NULL) &&
           !strcmp(g_strchomp(name), "farfault-relay");
}

pid_t ff_attach_served(const char *path, pid_t relay)
{
    g_autoptr(GDir) proc = g_dir_open("/proc", 0, NULL);
    pid_t last = 0;

    for (pid_t pid; (pid = ff_next_process(proc));) {
        g_autoptr(JsonNode) node = ff_attach_plan(pid, NULL, NULL);
        JsonObject *plan = node ? json_node_get_object(node) : NULL;

        if (plan && (relay ? ff_attach_relay(pid, plan) == relay
                           : listened_at(plan, path) && !ff_attach_is_orphan(pid, plan))) {
            last = MAX(last, pid);
        }
    }
    return last;
}

GArray *ff_attach_outdated(void)
{
    GArray *list = g_array_new(FALSE, FALSE, sizeof(FfAttachOld));
    g_autofree char *own = ff_find_helper("farfault-relay");
    g_autofree char *here = g_strconcat(own ? own : "", " (deleted)", NULL);
    g_autoptr(GDir) proc = g_dir_open("/proc", 0, NULL);

    for (pid_t pid; (pid = ff_next_process(proc));) {
        g_autoptr(JsonNode) plan = ff_attach_plan(pid, NULL, NULL);
        FfAttachOld old = {.pid = pid};

        if (!plan || ff_attach_is_orphan(pid, json_node_get_object(plan))) {
            continue;
        }
        old.relay = ff_attach_relay(pid, json_node_get_object(plan));
        g_autofree char *path = g_strdup_printf("/proc/%d/exe", (int)old.relay);
        g_autofree char *program = old.relay > 0 ? g_file_read_link(path, NULL) : NULL;
        old.here = !g_strcmp0(program, here);
        if (old.relay == 0 || (program && g_str_has_suffix(program, "/farfault-relay (deleted)"))) {
            g_array_append_val(list, old);
        }
    }
    return list;
}

GArray *ff_attach_unprotectable(void)
{
    GArray *list = g_array_new(FALSE, FALSE, sizeof(FfAttachLoss));
    g_autoptr(GDir) proc = g_dir_open("/proc", 0, NULL);
    const char *name;

    while (proc && (name = g_dir_read_name(proc))) {
        FfAttachLoss loss = {.pid = atoi(name)};
        g_autoptr(JsonNode) plan = loss.pid > 0 ? ff_attach_plan(loss.pid, NULL, NULL) : NULL;

        int error = plan ? protect_error(loss.pid, json_node_get_object(plan)) : 0;
        loss.lost = error == FF_AGENT_ELOST;
        if (loss.lost || error == FF_AGENT_EOLDER) {
            g_array_append_val(list, loss);
        }
    }
    return list;
}

pid_t ff_attach_find(const char *target, GError **error)
{
    guint64 number;

    if (g_ascii_string_to_unsigned(target, 10, 1, G_MAXINT32, &number, NULL)) {
        return (pid_t)number;
    }
    const char *where = g_str_has_prefix(target, "unix:") ? target + strlen("unix:") : target;
    g_autofree char *path = g_canonicalize_filename(where, NULL);
    pid_t pid = find_by_path(path);

    if (!pid) {
        ff_launch_fail(
            error,
            "no guest of farfault that you may look at has its QMP socket at %s: give the process "
            "id of QEMU, or be its user, or root",
            path);
    }
    return pid;
}
