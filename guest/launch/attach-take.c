/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * QEMU's process, and how something is taken from it: by pidfd_getfd(), and looked at before it is
 * believed.
 *
 * One thread. System calls: pidfd_open, pidfd_getfd.
 */
#include "guest/launch/attach-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guest/launch/fdstore.h"
#include "qmp/json.h"

void ff_attach_note(FfAttach *a, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    g_ptr_array_add(a->notes, g_strdup_vprintf(format, ap));
    va_end(ap);
}

int ff_attach_give(FfAttach *a, int fd)
{
    int high = ff_fd_high(fd);

    if (high >= 0) {
        g_array_append_val(a->fds, high);
    }
    return high;
}

/* ---- QEMU's process -------------------------------------------------------------------------- */

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

long ff_attach_uid(pid_t pid)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/status", (int)pid), *text = NULL;

    g_file_get_contents(path, &text, NULL, NULL);
    return effective_id(text, "\nUid:");
}

/* Root makes the relay QEMU's user; anybody else is it already. */
static bool find_user(FfAttach *a, GError **error)
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

bool ff_attach_open_process(FfAttach *a, GError **error)
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
                error,
                "process %d is in another %s namespace: nsenter -t %d -n -m farfault attach "
                "%s%d",
                (int)a->pid, names[i], (int)a->pid, a->notes ? "" : "--replace ", (int)a->pid);
            return false;
        }
    }
    return find_user(a, error);
}

int ff_attach_take(FfAttach *a, int fd, const char *prefix, const char *what, GError **error)
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

/* ---- the parcel ------------------------------------------------------------------------------ */

JsonArray *ff_attach_monitors(FfAttach *a)
{
    return ff_json_array(a->plan, "monitors");
}

bool ff_attach_open_parcel(FfAttach *a, GError **error)
{
    JsonArray *monitors = ff_attach_monitors(a);
    int expected = 2 + (monitors ? json_array_get_length(monitors) : 0);
    int fd = ff_json_int(a->plan, FF_PLAN_KEPT, -1);

    if (fd < 0) {
        return true; /* an older farfault, or the kernel had no room for one */
    }
    fd = ff_attach_take(a, fd, "socket:", "what a new relay needs", error);
    if (fd < 0) {
        return false;
    }
    int n = ff_fdstore_look(fd, a->kept);
    close(fd);
    a->n_kept = MAX(n, 0);
    if (n != expected) {
        ff_launch_fail(error, "QEMU (process %d) does not keep what a new relay needs any more%s%s",
                       (int)a->pid, n < 0 ? ": " : "", n < 0 ? g_strerror(-n) : "");
        return false;
    }
    return true;
}

int ff_attach_take_kept(FfAttach *a, unsigned at, JsonObject *o, const char *member,
                        const char *prefix, const char *what, GError **error)
{
    if (!a->n_kept) {
        return ff_attach_take(a, ff_json_int(o, member, -1), prefix, what, error);
    }
    int copy = fcntl(a->kept[at], F_DUPFD_CLOEXEC, 0);
    if (copy < 0) {
        ff_launch_fail(error, "%s: %s", what, g_strerror(errno));
    }
    return copy;
}
