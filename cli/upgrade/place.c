/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See place.h. Any thread; no state. System calls: newfstatat, setns.
 */
#include "cli/upgrade/place.h"

#include <fcntl.h>
#include <gio/gio.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Of process PID (g_free); "": it cannot be read. */
static char *proc_text(pid_t pid, const char *name)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/%s", (int)pid, name);
    char *text = NULL;

    return g_file_get_contents(path, &text, NULL, NULL) ? text : g_strdup("");
}

/* ---- who waits for its end ------------------------------------------------------------------- */

/* The last line of NAME in TEXT, from after it to the end of the line (g_free); NULL. */
static char *status_field(const char *text, const char *name)
{
    const char *at = strstr(text, name);

    return at ? g_strchug(g_strndup(at + strlen(name), strcspn(at + strlen(name), "\n"))) : NULL;
}

/* The service whose group CGROUP is (g_free); NULL: none. */
static char *service_of(const char *cgroup)
{
    g_auto(GStrv) lines = g_strsplit(cgroup, "\n", -1);

    for (unsigned i = 0; lines[i]; i++) {
        if (g_str_has_suffix(lines[i], ".service")) {
            const char *slash = strrchr(lines[i], '/');
            return g_strdup(slash ? slash + 1 : lines[i]);
        }
    }
    return NULL;
}

bool ff_upgrade_may_leave_text(const char *cgroup, const char *status, const char *parent)
{
    g_autofree char *service = service_of(cgroup), *ns_pid = status_field(status, "\nNSpid:");
    const char *inner = ns_pid ? strrchr(ns_pid, '\t') : NULL;
    bool is_first = inner && !strcmp(inner + 1, "1");

    return !is_first && !(service && !strcmp(parent, "systemd"));
}

bool ff_upgrade_may_leave(pid_t pid)
{
    g_autofree char *cgroup = proc_text(pid, "cgroup"), *status = proc_text(pid, "status");
    g_autofree char *parent_pid = status_field(status, "\nPPid:");
    g_autofree char *parent = proc_text(parent_pid ? atoi(parent_pid) : 0, "comm");

    return ff_upgrade_may_leave_text(cgroup, status, g_strchomp(parent));
}

bool ff_upgrade_outlives_text(const char *theirs, const char *ours, GError **error)
{
    g_autofree char *service = strcmp(theirs, ours) ? service_of(ours) : NULL;

    if (service) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_NOT_SUPPORTED,
                    "the new QEMU cannot have the running one's control group, and would end with "
                    "%s: run this as root, or outside of a service",
                    service);
    }
    return !service;
}

bool ff_upgrade_outlives(pid_t running, pid_t prepared, GError **error)
{
    g_autofree char *theirs = proc_text(running, "cgroup"), *ours = proc_text(prepared, "cgroup");

    return ff_upgrade_outlives_text(theirs, ours, error);
}

/* Of process PID, if it is not this one's; -1. *IS: it is another one. */
static int foreign_namespace(pid_t pid, const char *name, bool *is)
{
    g_autofree char *theirs = g_strdup_printf("/proc/%d/ns/%s", (int)pid, name);
    g_autofree char *ours = g_strdup_printf("/proc/self/ns/%s", name);
    struct stat a, b;

    *is = stat(theirs, &a) == 0 && stat(ours, &b) == 0 &&
          (a.st_dev != b.st_dev || a.st_ino != b.st_ino);
    return *is ? open(theirs, O_RDONLY | O_CLOEXEC) : -1;
}

/* What root loads there is what is here as well: libvirt gives QEMU a /dev of its own, a container
 * has other programs and libraries. */
static bool has_our_root(pid_t pid)
{
    g_autofree char *root = g_strdup_printf("/proc/%d/root/", (int)pid);
    struct stat a, b;

    return stat(root, &a) == 0 && stat("/", &b) == 0 && a.st_dev == b.st_dev &&
           a.st_ino == b.st_ino;
}

bool ff_upgrade_come_near(pid_t pid, GError **error)
{
    /* In the order in which they can be entered: the last one has another /proc perhaps. */
    static const struct {
        const char *name, *option;
        int type; /* 0: it cannot be entered from here */
    } all[] = {{"pid", "-p", 0},
               {"user", "-U", 0},
               {"net", "-n", CLONE_NEWNET},
               {"ipc", "-i", CLONE_NEWIPC},
               {"uts", "-u", CLONE_NEWUTS},
               {"mnt", "-m", CLONE_NEWNS}};

    for (unsigned i = 0; i < G_N_ELEMENTS(all); i++) {
        bool is;
        int fd = foreign_namespace(pid, all[i].name, &is);
        bool entered = fd >= 0 && all[i].type && has_our_root(pid) && setns(fd, all[i].type) == 0;

        if (fd >= 0) {
            close(fd);
        }
        if (is && !entered) {
            g_set_error(error, G_IO_ERROR, G_IO_ERROR_NOT_SUPPORTED,
                        "the running QEMU is in another namespace (%s): nsenter -t %d %s farfault "
                        "upgrade ...%s",
                        all[i].name, (int)pid, all[i].option,
                        geteuid() ? ", or run this as root" : "");
            return false;
        }
    }
    return true;
}
