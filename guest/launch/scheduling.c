/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See scheduling.h. What cannot be had is left as it is: the user who calls farfault might have
 * started the guest just so. Any thread; no state. System calls: prlimit64, sched_getaffinity,
 * sched_setaffinity, getpriority, setpriority, sched_getscheduler, sched_getparam,
 * sched_setscheduler, umask, setgroups, setresgid, setresuid.
 */
#include "guest/launch/scheduling.h"

#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <grp.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

/* Of process PID (g_free); "": it cannot be read. */
static char *proc_text(pid_t pid, const char *name)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/%s", (int)pid, name);
    char *text = NULL;

    return g_file_get_contents(path, &text, NULL, NULL) ? text : g_strdup("");
}

static void copy_limits(pid_t pid)
{
    for (int i = 0; i < (int)RLIMIT_NLIMITS; i++) {
        struct rlimit theirs;

        if (prlimit(pid, (enum __rlimit_resource)i, NULL, &theirs) == 0) {
            setrlimit((enum __rlimit_resource)i, &theirs);
        }
    }
}

static void copy_umask(pid_t pid)
{
    g_autofree char *status = proc_text(pid, "status");
    const char *line = strstr(status, "\nUmask:");
    unsigned mask;

    if (line && sscanf(line, "\nUmask: %o", &mask) == 1) {
        umask(mask & 0777);
    }
}

static void copy_processors(pid_t pid)
{
    cpu_set_t set;

    if (sched_getaffinity(pid, sizeof(set), &set) == 0) {
        sched_setaffinity(0, sizeof(set), &set);
    }
}

static void copy_priority(pid_t pid)
{
    errno = 0;
    int nice = getpriority(PRIO_PROCESS, pid);

    if (!errno) {
        setpriority(PRIO_PROCESS, 0, nice);
    }
}

/* Of thread FROM, for thread TO (0: the calling one). Another one than an ordinary process has may
 * need a right that the caller lacks. SCHED_DEADLINE cannot be set so, and need not: a thread that
 * has it may start no other, so it was given to a QEMU that ran. */
static void copy_policy(pid_t from, pid_t to)
{
    struct sched_param theirs, ours;
    int policy = sched_getscheduler(from), own = sched_getscheduler(to);

    if (policy < 0 || own < 0 || sched_getparam(from, &theirs) < 0 ||
        sched_getparam(to, &ours) < 0 ||
        ((policy & ~SCHED_RESET_ON_FORK) == (own & ~SCHED_RESET_ON_FORK) &&
         theirs.sched_priority == ours.sched_priority)) {
        return; /* a relay's flag alone would take the nice value from its next process */
    }
    if (sched_setscheduler(to, policy, &theirs) < 0) {
        fprintf(stderr, "farfault: warning: the scheduling policy of thread %d is not kept: %s\n",
                (int)from, g_strerror(errno));
    }
}

static void put_text(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);

    if (fd >= 0) {
        /* What is refused stays as it is. */
        if (write(fd, text, strlen(text)) < 0) {
            errno = 0;
        }
        close(fd);
    }
}

#define GROUPS "/sys/fs/cgroup"

/* Of a line "ID:CONTROLLERS:PATH" of /proc/PID/cgroup (g_free); NULL: it is none. *SECOND: it has
 * no controllers, and so is the second version's. */
static char *group_folder(const char *line, bool *second)
{
    g_auto(GStrv) parts = g_strsplit(line, ":", 3);

    if (g_strv_length(parts) != 3) {
        return NULL;
    }
    const char *controllers = g_str_has_prefix(parts[1], "name=") ? parts[1] + 5 : parts[1];

    *second = !*controllers;
    return g_build_filename(GROUPS, controllers, parts[2], NULL);
}

/* WHO (a thread or a process, "0": this one), by FILE of each of the groups of TEXT
 * (/proc/PID/cgroup), whose file for threads is THREADS in the second version. */
static void join_groups(const char *text, const char *who, const char *file, const char *threads)
{
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);

    for (unsigned i = 0; lines[i]; i++) {
        bool second;
        g_autofree char *folder = group_folder(lines[i], &second);

        if (folder) {
            g_autofree char *path = g_build_filename(folder, second ? threads : file, NULL);
            put_text(path, who);
        }
    }
}

void ff_scheduling_take_thread(pid_t pid, pid_t thread, pid_t to)
{
    g_autofree char *name = g_strdup_printf("task/%d/cgroup", (int)thread);
    g_autofree char *theirs = proc_text(pid, name), *all = proc_text(pid, "cgroup");
    g_autofree char *who = g_strdup_printf("%d", (int)to);
    cpu_set_t set;

    if (*theirs && strcmp(theirs, all) != 0) {
        join_groups(theirs, who, "tasks", "cgroup.threads");
    }
    if (sched_getaffinity(thread, sizeof(set), &set) == 0) {
        sched_setaffinity(to, sizeof(set), &set);
    }
    copy_policy(thread, to);
}

void ff_scheduling_take(pid_t pid)
{
    g_autofree char *theirs = proc_text(pid, "cgroup"), *ours = proc_text(getpid(), "cgroup");
    g_autofree char *oom = proc_text(pid, "oom_score_adj");

    if (strcmp(theirs, ours) != 0) {
        join_groups(theirs, "0", "cgroup.procs", "cgroup.procs");
    }
    put_text("/proc/self/oom_score_adj", oom);
    copy_limits(pid);
    copy_umask(pid);
    copy_processors(pid);
    copy_priority(pid);
    copy_policy(pid, 0);
}

/* FOLDER's LIMIT and USAGE; "max", or no such file: there is no limit. */
static uint64_t left_of(const char *folder, const char *limit, const char *usage)
{
    g_autofree char *max_path = g_build_filename(folder, limit, NULL);
    g_autofree char *now_path = g_build_filename(folder, usage, NULL);
    g_autofree char *max = NULL, *now = NULL;
    guint64 most, taken;

    if (!g_file_get_contents(max_path, &max, NULL, NULL) ||
        !g_ascii_string_to_unsigned(g_strchomp(max), 10, 0, G_MAXUINT64, &most, NULL)) {
        return UINT64_MAX;
    }
    if (!g_file_get_contents(now_path, &now, NULL, NULL) ||
        !g_ascii_string_to_unsigned(g_strchomp(now), 10, 0, G_MAXUINT64, &taken, NULL)) {
        return 0;
    }
    return most > taken ? most - taken : 0;
}

/* Of the group with this FOLDER, and of all above it. */
static uint64_t left_in_group(const char *folder)
{
    /* The second version's two, and the first one's. */
    static const char *const names[][2] = {{"memory.max", "memory.current"},
                                           {"memory.high", "memory.current"},
                                           {"memory.limit_in_bytes", "memory.usage_in_bytes"}};
    g_autofree char *at = g_strdup(folder);
    uint64_t left = UINT64_MAX;

    while (g_str_has_prefix(at, GROUPS)) {
        char *above = g_path_get_dirname(at);

        for (unsigned i = 0; i < G_N_ELEMENTS(names); i++) {
            uint64_t one = left_of(at, names[i][0], names[i][1]);

            left = MIN(left, one);
        }
        g_free(at);
        at = above;
    }
    return left;
}

/* Of the host. */
static uint64_t available_memory(void)
{
    g_autofree char *text = NULL;
    const char *line = g_file_get_contents("/proc/meminfo", &text, NULL, NULL)
                           ? strstr(text, "MemAvailable:")
                           : NULL;

    return line ? g_ascii_strtoull(line + strlen("MemAvailable:"), NULL, 10) * 1024 : 0;
}

uint64_t ff_scheduling_memory_left(void)
{
    g_autofree char *text = proc_text(getpid(), "cgroup");
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    uint64_t left = available_memory();

    for (unsigned i = 0; lines[i]; i++) {
        bool second;
        g_autofree char *folder = group_folder(lines[i], &second);
        uint64_t one = folder ? left_in_group(folder) : UINT64_MAX;

        left = MIN(left, one);
    }
    return left;
}

/* The numbers of line NAME of STATUS (g_array_unref), of guint. */
static GArray *numbers_of_line(const char *status, const char *name)
{
    GArray *all = g_array_new(FALSE, FALSE, sizeof(guint));
    const char *at = strstr(status, name);
    g_autofree char *line =
        at ? g_strndup(at + strlen(name), strcspn(at + 1, "\n") + 1 - strlen(name)) : g_strdup("");
    g_auto(GStrv) words = g_strsplit_set(line, " \t", -1);

    for (unsigned i = 0; words[i]; i++) {
        guint64 n;

        if (g_ascii_string_to_unsigned(words[i], 10, 0, G_MAXUINT, &n, NULL)) {
            guint number = (guint)n;
            g_array_append_val(all, number);
        }
    }
    return all;
}

int ff_scheduling_become(pid_t pid)
{
    g_autofree char *status = proc_text(pid, "status");
    g_autoptr(GArray) user = numbers_of_line(status, "\nUid:"),
                      group = numbers_of_line(status, "\nGid:");
    g_autoptr(GArray) groups = numbers_of_line(status, "\nGroups:");

    if (!user->len || !group->len) {
        return -ESRCH;
    }
    uid_t uid = g_array_index(user, guint, 0);
    gid_t gid = g_array_index(group, guint, 0);
    if (uid == geteuid()) {
        return 0;
    }
    return setgroups(groups->len, (const gid_t *)(void *)groups->data) == 0 &&
                   setresgid(gid, gid, gid) == 0 && setresuid(uid, uid, uid) == 0
               ? 0
               : -errno;
}

bool ff_scheduling_has_capabilities(pid_t pid)
{
    g_autofree char *status = proc_text(pid, "status");
    g_autoptr(GArray) user = numbers_of_line(status, "\nUid:");
    const char *line = strstr(status, "\nCapEff:");
    guint64 set = line ? g_ascii_strtoull(line + strlen("\nCapEff:"), NULL, 16) : 0;

    return set && user->len && g_array_index(user, guint, 0) != 0;
}
