/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See tracefs.h. A tracer is the instance "farfault-PID" of tracefs, and the uprobes of the group
 * "farfault_PID". It keeps the instance's directory locked (flock): one that nobody locks was left
 * by a tracer that was killed, and the next one removes it, with the uprobes of its group. Uprobes
 * are made after the instance, and removed before it, so none is ever without. Beginning and
 * removing stand under a lock of the directory of all instances.
 *
 * One thread for each tracer. Nothing here runs in a process with a seccomp filter.
 */
#include "trace/tracefs.h"

#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define MOUNT "/sys/kernel/tracing"
#define MOUNT_OLD "/sys/kernel/debug/tracing"
#define UPROBES "uprobe_events"
#define INSTANCE "farfault-"
#define GROUP "farfault_"

struct FfTracer {
    char *root;     /* tracefs */
    char *instance; /* its path */
    char *group;
    int lock; /* the instance's directory */
    int pipe; /* -1: not started */
};

/* ---- files ----------------------------------------------------------------------------------- */

static void set_error(GError **error, const char *what, int number)
{
    g_set_error(error, G_IO_ERROR, g_io_error_from_errno(number), "%s: %s", what,
                g_strerror(number));
}

/* Writes TEXT into the file DIR/NAME at once, as tracefs wants it. 0 or -errno. */
static int put(const char *dir, const char *name, const char *text)
{
    g_autofree char *path = g_build_filename(dir, name, NULL);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    int rc = fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text) ? -errno : 0;

    if (fd >= 0) {
        close(fd);
    }
    return rc;
}

static int lock_dir(const char *path, int how)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd >= 0 && flock(fd, how) < 0) {
        close(fd);
        fd = -1;
    }
    return fd;
}

static bool exists(const char *dir, const char *name)
{
    g_autofree char *path = g_build_filename(dir, name, NULL);

    return access(path, F_OK) == 0;
}

/* Where tracefs is mounted; NULL: nowhere. */
static const char *find_root(void)
{
    return exists(MOUNT, "instances") ? MOUNT : exists(MOUNT_OLD, "instances") ? MOUNT_OLD : NULL;
}

bool ff_tracer_allowed(GError **error)
{
    if (geteuid() != 0 && access(MOUNT "/" UPROBES, W_OK) < 0) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_PERMISSION_DENIED,
                    "tracing takes root: run this as root");
        return false;
    }
    return true;
}

/* NULL and ERROR: there are no uprobes. */
static const char *usable_root(GError **error)
{
    const char *root = find_root();

    if (!root && !g_file_test(MOUNT, G_FILE_TEST_IS_DIR)) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_NOT_SUPPORTED,
                    "this kernel has no tracefs, which needs CONFIG_UPROBE_EVENTS, or /sys is not "
                    "mounted: take another kernel, or gdb");
    } else if (!root) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_NOT_MOUNTED,
                    "tracefs is not mounted: mount -t tracefs tracefs " MOUNT);
    } else if (!exists(root, UPROBES)) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_NOT_SUPPORTED,
                    "this kernel has no uprobes (%s/" UPROBES "): take one with "
                    "CONFIG_UPROBE_EVENTS, or gdb",
                    root);
    } else {
        return root;
    }
    return NULL;
}

/* ---- removing -------------------------------------------------------------------------------- */

/* All uprobes of GROUP. 0 or -errno. */
static int remove_uprobes(const char *root, const char *group)
{
    g_autofree char *path = g_build_filename(root, UPROBES, NULL);
    g_autofree char *prefix = g_strdup_printf("p:%s/", group);
    g_autofree char *text = NULL;
    int rc = 0;

    if (!g_file_get_contents(path, &text, NULL, NULL)) {
        return -EIO;
    }
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    for (char **line = lines; *line; line++) {
        if (g_str_has_prefix(*line, prefix)) {
            (*line)[strcspn(*line, " ")] = 0;
            (*line)[0] = '-';
            int one = put(root, UPROBES, *line);
            rc = rc ? rc : one;
        }
    }
    return rc;
}

/* Its events are off, so that the uprobes can go. 0 or -errno. */
static int disable(const char *instance, const char *group)
{
    g_autofree char *name = g_strdup_printf("events/%s/enable", group);
    int rc = put(instance, name, "0");

    return rc == -ENOENT ? 0 : rc;
}

static int remove_all(const char *root, const char *instance, const char *group)
{
    int rc = disable(instance, group);

    rc = rc ? rc : remove_uprobes(root, group);
    return rc ? rc : rmdir(instance) < 0 ? -errno : 0;
}

/* What is nobody's any more. */
static void remove_left(const char *root, const char *all)
{
    g_autoptr(GDir) dir = g_dir_open(all, 0, NULL);
    const char *name;

    while (dir && (name = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(all, name, NULL);
        bool ours = g_str_has_prefix(name, INSTANCE) && name[strlen(INSTANCE)] &&
                    !name[strlen(INSTANCE) + strspn(name + strlen(INSTANCE), "0123456789")];
        int lock = ours ? lock_dir(path, LOCK_EX | LOCK_NB) : -1;

        if (lock >= 0) {
            g_autofree char *group = g_strconcat(GROUP, name + strlen(INSTANCE), NULL);

            remove_all(root, path, group);
            close(lock);
        }
    }
}

/* ---- a tracer -------------------------------------------------------------------------------- */

static void tracer_free(FfTracer *t)
{
    if (t->lock >= 0) {
        close(t->lock);
    }
    g_free(t->root);
    g_free(t->instance);
    g_free(t->group);
    g_free(t);
}

/* Lines have the time that everybody has, and the process. An older kernel's pipe has no limit. */
static int set_up(FfTracer *t)
{
    int rc = put(t->instance, "trace_clock", "mono");

    rc = rc ? rc : put(t->instance, "options/record-tgid", "1");
    if (rc == 0 && exists(t->instance, "buffer_percent")) {
        rc = put(t->instance, "buffer_percent", "0");
    }
    return rc;
}

FfTracer *ff_tracer_new(GError **error)
{
    const char *root = usable_root(error);
    if (!root) {
        return NULL;
    }
    g_autofree char *all = g_build_filename(root, "instances", NULL);
    FfTracer *t = g_new0(FfTracer, 1);
    int lock = lock_dir(all, LOCK_EX), rc;

    *t = (FfTracer){.root = g_strdup(root), .lock = -1, .pipe = -1};
    t->instance = g_strdup_printf("%s/" INSTANCE "%d", all, (int)getpid());
    t->group = g_strdup_printf(GROUP "%d", (int)getpid());
    if (lock >= 0) {
        remove_left(root, all);
    }
    rc = lock < 0 || mkdir(t->instance, 0700) < 0 ? -errno : 0;
    if (rc == 0) {
        t->lock = lock_dir(t->instance, LOCK_EX | LOCK_NB);
        rc = t->lock < 0 ? -errno : set_up(t);
        if (rc) {
            rmdir(t->instance);
        }
    }
    if (rc) {
        set_error(error, t->instance, -rc);
        g_clear_pointer(&t, tracer_free);
    }
    if (lock >= 0) {
        close(lock);
    }
    return t;
}

bool ff_tracer_add(FfTracer *t, const char *event, const char *path, const FfNote *note,
                   const char *fetch, GError **error)
{
    g_autoptr(GString) line = g_string_new(NULL);

    g_string_printf(line, "p:%s/%s %s:0x%" G_GINT64_MODIFIER "x", t->group, event, path,
                    note->offset);
    if (note->semaphore) {
        g_string_append_printf(line, "(0x%" G_GINT64_MODIFIER "x)", note->semaphore);
    }
    g_string_append_printf(line, " %s", fetch);
    int rc = put(t->root, UPROBES, line->str);
    if (rc == -EPERM || rc == -EACCES) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_PERMISSION_DENIED,
                    "the kernel allows no uprobes here: not in a container that may not, and not "
                    "with lockdown=confidentiality");
    } else if (rc) {
        g_autofree char *what = g_strdup_printf("%s/" UPROBES ": \"%s\"", t->root, line->str);

        set_error(error, what, -rc);
    }
    return rc == 0;
}

int ff_tracer_start(FfTracer *t, GError **error)
{
    g_autofree char *name = g_strdup_printf("events/%s/enable", t->group);
    g_autofree char *pipe = g_build_filename(t->instance, "trace_pipe", NULL);

    t->pipe = open(pipe, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    int rc = t->pipe < 0 ? -errno : put(t->instance, name, "1");
    if (rc) {
        set_error(error, t->instance, -rc);
        return -1;
    }
    return t->pipe;
}

void ff_tracer_stop(FfTracer *t)
{
    disable(t->instance, t->group);
}

bool ff_tracer_end(FfTracer *t, GError **error)
{
    if (t->pipe >= 0) {
        close(t->pipe);
    }
    int rc = remove_all(t->root, t->instance, t->group);
    if (rc) {
        g_autofree char *what = g_strdup_printf("%s is left", t->instance);

        set_error(error, what, -rc);
    }
    tracer_free(t);
    return rc == 0;
}

/* ---- processes ------------------------------------------------------------------------------- */

/* While it lives. */
static int process_of_living(int tid)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/status", tid);
    g_autofree char *text = NULL;
    const char *at = g_file_get_contents(path, &text, NULL, NULL) ? strstr(text, "\nTgid:") : NULL;

    return at ? (int)g_ascii_strtoll(at + strlen("\nTgid:"), NULL, 10) : 0;
}

/* The kernel notes a thread's process when the thread is switched away from, under its number, and
 * keeps it: until then a line says what an older thread of that number was of. So its word counts
 * while that is the thread's process; then what the thread says, if it lives; and of one that has
 * ended, which was switched away from, what is noted. */
int ff_tracer_process(const FfTracer *t, int tid, int said)
{
    g_autofree char *thread = g_strdup_printf("%d/task/%d", said, tid);
    int pid = said && exists("/proc", thread) ? said : process_of_living(tid);
    g_autofree char *path = g_build_filename(t->root, "saved_tgids", NULL);
    g_autofree char *key = g_strdup_printf("\n%d ", tid), *text = NULL;

    if (pid || !g_file_get_contents(path, &text, NULL, NULL)) {
        return pid;
    }
    g_autofree char *lines = g_strconcat("\n", text, NULL);
    const char *at = strstr(lines, key);
    return at ? (int)g_ascii_strtoll(at + strlen(key), NULL, 10) : 0;
}

/* ---- its lines ------------------------------------------------------------------------------- */

bool ff_trace_line(const char *line, FfTraceLine *out)
{
    /* "   ff-fault-27883   (  27880) [001] DBZff 57546.338183: event: (0x563291fa6398) a=1 b=2" */
    static const char form[] = "^.*-(\\d{1,9}) +\\( *(\\d{1,9}|-+)\\) +\\[\\d+\\] +(?:\\S+ +)?"
                               "(\\d+\\.\\d+): +(\\w+): +\\(0x[0-9a-f]+\\) ?(.*)$";
    static const char lost[] = "^CPU:\\d+ \\[LOST (\\d+) EVENTS\\]$";
    static GRegex *forms[2];
    g_autoptr(GMatchInfo) match = NULL, other = NULL;

    *out = (FfTraceLine){0};
    if (!forms[0]) {
        forms[0] = g_regex_new(form, G_REGEX_RAW, 0, NULL);
        forms[1] = g_regex_new(lost, G_REGEX_RAW, 0, NULL);
    }
    if (g_regex_match(forms[1], line, 0, &other)) {
        g_autofree char *n = g_match_info_fetch(other, 1);

        out->lost = g_ascii_strtoull(n, NULL, 10);
        return true;
    }
    if (!g_regex_match(forms[0], line, 0, &match)) {
        return false;
    }
    g_autofree char *tid = g_match_info_fetch(match, 1), *pid = g_match_info_fetch(match, 2);
    out->tid = (int)g_ascii_strtoll(tid, NULL, 10);
    out->pid = (int)g_ascii_strtoll(pid, NULL, 10);
    out->time = g_match_info_fetch(match, 3);
    out->event = g_match_info_fetch(match, 4);
    out->values = g_match_info_fetch(match, 5);
    return true;
}

void ff_trace_line_clear(FfTraceLine *line)
{
    g_free(line->time);
    g_free(line->event);
    g_free(line->values);
}
