/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See throttle.h. The new cgroup stands beside the one that this process is in, or in the root of
 * the hierarchy: where the kernel, or the process that delegated it, has the io controller on.
 */
#include "throttle.h"

#include <errno.h>
#include <mntent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

struct BenchThrottle {
    char *path;     /* of the cgroup */
    bool has_cache; /* version 2 */
};

static bool put(const char *path, const char *text)
{
    FILE *f = fopen(path, "we");

    if (!f) {
        return false;
    }
    /* The kernel's answer comes when the buffer goes out. */
    bool written = fputs(text, f) >= 0;
    return fclose(f) == 0 && written;
}

/* Where a file system of TYPE is mounted, with OPTION (NULL: any) among its options. NULL: nowhere.
 */
static char *mounted(const char *type, const char *option)
{
    FILE *f = setmntent("/proc/self/mounts", "re");
    struct mntent *m;
    char *at = NULL;

    while (f && !at && (m = getmntent(f))) {
        if (!strcmp(m->mnt_type, type) && (!option || hasmntopt(m, option))) {
            at = g_strdup(m->mnt_dir);
        }
    }
    if (f) {
        endmntent(f);
    }
    return at;
}

/* "MAJOR:MINOR" of the disk that has FOLDER: limits are of disks, not of partitions. */
static char *disk_of(const char *folder, char **why)
{
    g_autofree char *sys = NULL, *part = NULL, *whole = NULL, *text = NULL;
    struct stat st;

    if (stat(folder, &st) < 0) {
        *why = g_strdup_printf("%s: %s", folder, g_strerror(errno));
        return NULL;
    }
    sys = g_strdup_printf("/sys/dev/block/%u:%u", major(st.st_dev), minor(st.st_dev));
    if (!g_file_test(sys, G_FILE_TEST_EXISTS)) {
        *why = g_strdup_printf("the file system of %s is not on a block device of its own", folder);
        return NULL;
    }
    part = g_build_filename(sys, "partition", NULL);
    whole = g_build_filename(sys, g_file_test(part, G_FILE_TEST_EXISTS) ? "../dev" : "dev", NULL);
    if (!g_file_get_contents(whole, &text, NULL, NULL)) {
        *why = g_strdup_printf("%s cannot be read", whole);
        return NULL;
    }
    return g_strdup(g_strchomp(text));
}

/* Beside the cgroup of this process in version 2, below ROOT. */
static char *own_parent(const char *root)
{
    g_autofree char *text = NULL, *parent = NULL;
    const char *line;

    if (!g_file_get_contents("/proc/self/cgroup", &text, NULL, NULL)) {
        return NULL;
    }
    line = g_str_has_prefix(text, "0::") ? text : strstr(text, "\n0::");
    if (!line) {
        return NULL;
    }
    line = strstr(line, "0::") + 3;
    g_autofree char *own = g_strndup(line, strcspn(line, "\n"));
    parent = g_path_get_dirname(own);
    return g_build_filename(root, parent, NULL);
}

/* A cgroup in PARENT in which NAME takes RULE; NULL with errno. */
static BenchThrottle *make(const char *parent, const char *name, const char *rule)
{
    g_autofree char *path =
        g_strdup_printf("%s/farfault-bench-%d", parent ? parent : "", (int)getpid());
    g_autofree char *file = g_build_filename(path, name, NULL);

    if (!parent || mkdir(path, 0755) < 0) {
        return NULL;
    }
    if (!put(file, rule)) {
        int e = errno;
        rmdir(path);
        errno = e;
        return NULL;
    }
    BenchThrottle *t = g_new0(BenchThrottle, 1);
    t->path = g_steal_pointer(&path);
    return t;
}

/* What a limit is called in each version. */
static const struct {
    const char *v1, *v2;
} rule_name[] = {
    [BENCH_THROTTLE_READS] = {"blkio.throttle.read_bps_device", "rbps"},
    [BENCH_THROTTLE_WRITES] = {"blkio.throttle.write_bps_device", "wbps"},
};

BenchThrottle *bench_throttle_new(const char *folder, BenchThrottleKind kind, uint64_t rate,
                                  char **why)
{
    g_autofree char *disk = disk_of(folder, why);
    g_autofree char *v2 = mounted("cgroup2", NULL), *v1 = mounted("cgroup", "blkio");
    BenchThrottle *t = NULL;

    if (!disk) {
        return NULL;
    }
    errno = ENOENT;
    if (v1) {
        g_autofree char *rule = g_strdup_printf("%s %" G_GUINT64_FORMAT, disk, rate);
        t = make(v1, rule_name[kind].v1, rule);
    } else if (v2) {
        g_autofree char *rule =
            g_strdup_printf("%s %s=%" G_GUINT64_FORMAT, disk, rule_name[kind].v2, rate);
        g_autofree char *beside = own_parent(v2);
        t = make(beside, "io.max", rule);
        t = t ? t : make(v2, "io.max", rule);
        if (t) {
            t->has_cache = true;
        }
    }
    if (!t) {
        *why = v1 || v2 ? g_strdup_printf("no cgroup that limits disk %s: %s (the io controller is "
                                          "off, or it takes root)",
                                          disk, g_strerror(errno))
                        : g_strdup("no cgroups are mounted");
    }
    return t;
}

int bench_throttle_open(BenchThrottle **t, const char *folder, BenchThrottleKind kind, int mb_s)
{
    g_autofree char *why = NULL;

    *t = mb_s ? bench_throttle_new(folder, kind, (uint64_t)mb_s * 1000000, &why) : NULL;
    if (mb_s && !*t) {
        g_printerr("bench: --disk-rate skipped: %s\n", why);
        return BENCH_SKIPPED;
    }
    return 0;
}

bool bench_throttle_has_cache(const BenchThrottle *t)
{
    return t->has_cache;
}

void bench_throttle_free(BenchThrottle *t)
{
    if (!t) {
        return;
    }
    if (rmdir(t->path) < 0) {
        g_printerr("bench: %s is left: %s\n", t->path, g_strerror(errno));
    }
    g_free(t->path);
    g_free(t);
}

void bench_throttle_add(const BenchThrottle *t, int pid)
{
    g_autofree char *procs = g_build_filename(t->path, "cgroup.procs", NULL);
    g_autofree char *text = g_strdup_printf("%d", pid);

    put(procs, text);
}

char **bench_throttle_wrap(const BenchThrottle *t, const char *const *argv)
{
    g_autoptr(GStrvBuilder) words = g_strv_builder_new();

    if (t) {
        g_autofree char *procs = g_build_filename(t->path, "cgroup.procs", NULL);
        g_strv_builder_add_many(words, "/bin/sh", "-c", "echo $$ >\"$0\" || exit; exec \"$@\"",
                                procs, NULL);
    }
    g_strv_builder_addv(words, (const char **)argv);
    return g_strv_builder_end(words);
}
