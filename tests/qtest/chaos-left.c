/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See chaos-left.h. A memfd or a socket outlives its process only in another process, so what
 * these could be left in is looked for: processes and descriptors. One thread.
 */
#include "tests/qtest/chaos-left.h"

#include <glib.h>
#include <glib/gstdio.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static unsigned open_fds(void)
{
    g_autoptr(GDir) dir = g_dir_open("/proc/self/fd", 0, NULL);
    unsigned n = 0;

    while (dir && g_dir_read_name(dir)) {
        n++;
    }
    return n;
}

char *chaos_left_files(const char *path)
{
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    g_autoptr(GString) all = g_string_new(NULL);
    const char *name;

    while (dir && (name = g_dir_read_name(dir))) {
        g_string_append_printf(all, " %s/%s", path, name);
    }
    if (rmdir(path) == 0) {
        return NULL;
    }
    return g_strdup(all->str);
}

static bool enter(const char *group)
{
    g_autofree char *procs = g_build_filename(group, "cgroup.procs", NULL);
    FILE *f = fopen(procs, "w");
    bool ok = f && fprintf(f, "%d\n", getpid()) > 0;

    return f && fclose(f) == 0 && ok;
}

/* A control group for this run (g_free), or NULL. *PARENT is where it came from. */
static char *own_group(const char **parent)
{
    static const char *const roots[] = {"/sys/fs/cgroup/unified", "/sys/fs/cgroup/pids",
                                        "/sys/fs/cgroup"};

    for (unsigned i = 0; i < G_N_ELEMENTS(roots); i++) {
        g_autofree char *path = g_strdup_printf("%s/farfault-chaos-%d", roots[i], getpid());
        if (g_mkdir(path, 0700) == 0) {
            if (enter(path)) {
                *parent = roots[i];
                return g_steal_pointer(&path);
            }
            rmdir(path);
        }
    }
    return NULL;
}

/* Who is in GROUP besides this process, one line each with its command (g_free); or NULL. */
static char *others(const char *group)
{
    g_autofree char *procs = g_build_filename(group, "cgroup.procs", NULL), *text = NULL;
    g_autoptr(GString) all = g_string_new(NULL);

    if (!g_file_get_contents(procs, &text, NULL, NULL)) {
        return NULL;
    }
    g_auto(GStrv) pids = g_strsplit(text, "\n", -1);
    for (unsigned i = 0; pids[i]; i++) {
        if (*pids[i] && atoi(pids[i]) != getpid()) {
            g_autofree char *path = g_strdup_printf("/proc/%s/cmdline", pids[i]), *line = NULL;
            g_file_get_contents(path, &line, NULL, NULL);
            g_string_append_printf(all, " %s (%s)", pids[i], line ? line : "?");
        }
    }
    return all->len ? g_strdup(all->str) : NULL;
}

int chaos_left_run(int (*run)(void))
{
    const char *parent = NULL;
    g_autofree char *group = own_group(&parent);
    unsigned fds = open_fds();
    int status = run();
    unsigned left = open_fds() - fds;
    g_autofree char *alive = group ? others(group) : NULL;

    if (left) {
        printf("# left over: %u descriptors of the test\n", left);
    }
    if (alive) {
        printf("# left over: processes%s\n", alive);
    }
    if (group && (!enter(parent) || rmdir(group) < 0)) {
        printf("# left over: control group %s\n", group);
        left++;
    }
    return status || left || alive;
}
