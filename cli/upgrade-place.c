/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See upgrade-place.h. Any thread; no state. System calls: newfstatat.
 */
#include "cli/upgrade-place.h"

#include <gio/gio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* Of process PID (g_free); "": it cannot be read. */
static char *proc_text(pid_t pid, const char *name)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/%s", (int)pid, name);
    char *text = NULL;

    return g_file_get_contents(path, &text, NULL, NULL) ? text : g_strdup("");
}

/* ---- who waits for its end ------------------------------------------------------------------- */

/* The last line of NAME in TEXT, from after it to the end of the line (g_free); NULL. */
static char *field(const char *text, const char *name)
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

bool ff_upgrade_may_leave_text(const char *cgroup, const char *status, const char *parent,
                               GError **error)
{
    g_autofree char *service = service_of(cgroup), *ns_pid = field(status, "\nNSpid:");
    const char *inner = ns_pid ? strrchr(ns_pid, '\t') : NULL;

    if (inner && !strcmp(inner + 1, "1")) {
        g_set_error_literal(error, G_IO_ERROR, G_IO_ERROR_NOT_SUPPORTED,
                            "the running QEMU is process 1 of a container, which ends with it: "
                            "start it there by an init program");
        return false;
    }
    if (service && !strcmp(parent, "systemd")) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_NOT_SUPPORTED,
                    "the running QEMU is systemd's child in %s, and its end would be taken for the "
                    "guest's: run the guest in a scope (systemd-run --scope)",
                    service);
        return false;
    }
    return true;
}

bool ff_upgrade_may_leave(pid_t pid, GError **error)
{
    g_autofree char *cgroup = proc_text(pid, "cgroup"), *status = proc_text(pid, "status");
    g_autofree char *parent_pid = field(status, "\nPPid:");
    g_autofree char *parent = proc_text(parent_pid ? atoi(parent_pid) : 0, "comm");

    return ff_upgrade_may_leave_text(cgroup, status, g_strchomp(parent), error);
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

/* The new QEMU is started from here, and has our namespaces. */
bool ff_upgrade_is_near(pid_t pid, GError **error)
{
    static const struct {
        const char *name, *option;
    } all[] = {{"mnt", "-m"}, {"net", "-n"},  {"pid", "-p"},
               {"ipc", "-i"}, {"user", "-U"}, {"uts", "-u"}};

    for (unsigned i = 0; i < G_N_ELEMENTS(all); i++) {
        g_autofree char *theirs = g_strdup_printf("/proc/%d/ns/%s", (int)pid, all[i].name);
        g_autofree char *ours = g_strdup_printf("/proc/self/ns/%s", all[i].name);
        struct stat a, b;

        if (stat(theirs, &a) == 0 && stat(ours, &b) == 0 &&
            (a.st_dev != b.st_dev || a.st_ino != b.st_ino)) {
            g_set_error(error, G_IO_ERROR, G_IO_ERROR_NOT_SUPPORTED,
                        "the running QEMU is in another namespace (%s): nsenter -t %d %s farfault "
                        "upgrade ...",
                        all[i].name, (int)pid, all[i].option);
            return false;
        }
    }
    return true;
}
