/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Lazy restores from files of hosts that do not work as they should: a file system in user space
 * whose reads fail, hang or that takes no files, a full one, a file that is cut or replaced under a
 * running guest, an engine that stands. The guest has what was saved, or it waits and says why.
 */
#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/lib/slowfile.h"
#include "tests/qtest/restore-rig.h"

/* A page with data, of which the devices need nothing: in the middle of what the guest writes. */
#define BAD_AT (12ull << 20)
#define BAD_END (BAD_AT + (4 << 20))

typedef struct {
    RestoreScene s;
    char *directory; /* something is mounted there */
    SlowFile *file;  /* NULL: another file system */
} Host;

static void end(Host *h)
{
    if (h->file) {
        slowfile_free(h->file);
    } else if (h->directory) {
        umount2(h->directory, MNT_DETACH);
    }
    if (h->directory) {
        g_assert_cmpint(rmdir(h->directory), ==, 0);
    }
    g_free(h->directory);
    restore_end(&h->s);
}

/* The saved guest through FUSE. FALSE: skipped. */
static bool begin_fuse(Host *h)
{
    const char *why = NULL;

    *h = (Host){0};
    if (!restore_begin_plain(&h->s)) {
        return false;
    }
    h->directory = g_dir_make_tmp("ff-host-XXXXXX", NULL);
    h->file = slowfile_new_of(h->directory, h->s.path, &why);
    if (!h->file) {
        g_test_skip(why);
    }
    return h->file != NULL;
}

/* ---- FUSE ------------------------------------------------------------------------------------ */

/* One page of it cannot be read: that one stays missing until it can. */
static void test_eio(void)
{
    Host h;

    if (begin_fuse(&h)) {
        const char *path = slowfile_path(h.file);

        slowfile_fail(h.file, BAD_AT, EIO);
        Vm *vm = restore_start_again(&h.s, NULL);
        restore_ask(&h.s, vm, path);
        qmp_expect_migration(vm_qmp(vm), "postcopy-paused");
        g_autofree char *why = restore_error_desc(vm);
        g_assert_nonnull(strstr(why, path));
        g_assert_nonnull(strstr(why, "errno 5"));
        qmp_ok(vm_qmp(vm), "migrate-recover", "{'uri': 'file:%s'}", path);
        qmp_expect_migration(vm_qmp(vm), "postcopy-paused"); /* still */
        slowfile_fail(h.file, 0, 0);
        restore_recovers(&h.s, vm, path);
        vm_end(vm);
    }
    end(&h);
}

/* A guest that runs, with a read of its file that is not answered. */
static Vm *start_held(Host *h)
{
    Vm *vm = restore_start_again(&h->s, NULL);

    slowfile_hold(h->file, BAD_AT, BAD_END);
    restore_ask(&h->s, vm, slowfile_path(h->file));
    qmp_expect_migration(vm_qmp(vm), "postcopy-active");
    slowfile_wait_held(h->file);
    return vm;
}

/* Nothing of it is answered any more. The client is, and another copy of the file does. */
static void test_hangs(void)
{
    Host h;

    if (begin_fuse(&h)) {
        Vm *vm = start_held(&h);
        Qmp *q = vm_qmp(vm);

        g_autofree char *status = qmp_migrate_status(q);
        g_assert_cmpstr(status, ==, "postcopy-active");
        qmp_ok(q, "migrate-pause", NULL);
        qmp_expect_migration(q, "postcopy-paused");
        restore_recovers(&h.s, vm, h.s.path);
        slowfile_release(h.file);
        vm_end(vm);
    }
    end(&h);
}

/* The engine is killed in such a read, and the next one finds the file as it was. */
static void test_hangs_killed(void)
{
    Host h;

    if (begin_fuse(&h)) {
        Vm *vm = start_held(&h);
        Qmp *q = vm_qmp(vm);

        kill(vm_find_engine(vm), SIGKILL);
        slowfile_release(h.file);
        qmp_expect_migration(q, "completed");
        restore_check_restored(&h.s, vm);
        vm_end(vm);
    }
    end(&h);
}

/* The guest learns, and is restored; a working set is more than can be had. */
static void learns_none(Host *h, const char *path, const char *why)
{
    Vm *vm = restore_start_again(&h->s, NULL);
    g_autofree char *set = g_strconcat(path, ".ws", NULL);

    restore_ask_with(&h->s, vm, path, ", 'working-set': 'learn'");
    qmp_expect_migration(vm_qmp(vm), "completed");
    vm_wait_stderr(vm, "no working set was written");
    vm_wait_stderr(vm, why);
    g_assert_false(g_file_test(set, G_FILE_TEST_EXISTS));
    restore_check_restored(&h->s, vm);
    vm_end(vm);
}

static void test_read_only(void)
{
    Host h;

    if (begin_fuse(&h)) {
        learns_none(&h, slowfile_path(h.file), "Read-only file system");
    }
    end(&h);
}

/* ---- a file system in memory ----------------------------------------------------------------- */

static unsigned count_files(const char *directory)
{
    g_autoptr(GDir) dir = g_dir_open(directory, 0, NULL);
    unsigned n = 0;

    while (g_dir_read_name(dir)) {
        n++;
    }
    return n;
}

/* That has room for the saved guest alone. */
static void test_full(void)
{
    Host h = {0};
    struct stat st;

    if (restore_begin_plain(&h.s)) {
        g_autofree char *options = NULL, *name = g_path_get_basename(h.s.path);

        h.directory = g_dir_make_tmp("ff-host-XXXXXX", NULL);
        g_assert_cmpint(stat(h.s.path, &st), ==, 0);
        options = g_strdup_printf("size=%" G_GINT64_FORMAT "k", (gint64)st.st_blocks / 2 + 64);
        if (mount("full", h.directory, "tmpfs", 0, options) < 0) {
            g_test_skip("no permission to mount a file system");
        } else {
            g_autofree char *path = g_build_filename(h.directory, name, NULL);
            const char *const argv[] = {"cp", "--sparse=always", h.s.path, path, NULL};
            int status;

            g_assert_true(g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL,
                                       NULL, NULL, &status, NULL));
            g_assert_cmpint(status, ==, 0);
            learns_none(&h, path, "No space left on device");
            g_assert_cmpuint(count_files(h.directory), ==, 1);
        }
    }
    end(&h);
}

/* ---- the file of a guest that runs ----------------------------------------------------------- */

/* The same file, by what can be seen of it. */
static void copy_with_time(RestoreScene *copy, const RestoreScene *s)
{
    struct stat st;

    restore_copy(copy, s);
    g_assert_cmpint(stat(s->path, &st), ==, 0);
    const struct timespec times[] = {st.st_atim, st.st_mtim};
    g_assert_cmpint(utimensat(AT_FDCWD, copy->path, times, 0), ==, 0);
}

/* Cut by a process that had it open before: it waits. A copy with the same time is the same
 * file. */
static void test_cut(void)
{
    RestoreScene s = {0}, copy;
    Vm *vm = NULL;

    if (restore_has_faults() && restore_begin_plain(&s)) {
        int writer = open(s.path, O_WRONLY | O_CLOEXEC);

        vm = restore_start_held(&s);
        Qmp *q = vm_qmp(vm);
        vm_wait_stderr(vm, "somebody has it open for writing");
        copy_with_time(&copy, &s);
        g_assert_cmpint(ftruncate(writer, BAD_AT), ==, 0);
        close(writer);
        restore_release(vm);
        qmp_expect_migration(q, "postcopy-paused");
        g_autofree char *why = restore_error_desc(vm);
        g_assert_nonnull(strstr(why, s.path));
        qmp_ok(q, "migrate-recover", "{'uri': 'file:%s'}", s.path);
        qmp_expect_migration(q, "postcopy-paused"); /* what is left of it is none */
        restore_recovers(&copy, vm, copy.path);
        g_assert_cmpint(unlink(copy.path), ==, 0);
        restore_end(&copy);
    }
    restore_end_held(&s, vm);
}

/* Its name is another file's: it is still open, and is what is read. */
static void test_replaced(void)
{
    RestoreScene s;
    Vm *vm = restore_begin_held(&s);

    if (vm) {
        g_autofree char *other = g_strconcat(s.path, "-other", NULL);
        Qmp *q = vm_qmp(vm);

        g_assert_true(g_file_set_contents(other, "another", -1, NULL));
        g_assert_cmpint(g_rename(other, s.path), ==, 0);
        qmp_ok(q, "migrate-pause", NULL);
        qmp_expect_migration(q, "postcopy-paused");
        restore_release(vm);
        restore_recovers(&s, vm, s.path);
    }
    restore_end_held(&s, vm);
}

/* Another guest's snapshot takes its place. */
static void test_snapshot_over(void)
{
    RestoreScene s;
    Vm *vm = restore_begin_held(&s);

    if (vm) {
        Qmp *q = vm_qmp(s.saved);
        struct stat before, after;

        g_assert_cmpint(stat(s.path, &before), ==, 0);
        qmp_set_capability(q, "background-snapshot", true);
        qmp_ok(q, "migrate", "{'uri': 'file:%s'}", s.path);
        qmp_expect_migration(q, "completed");
        qmp_set_capability(q, "background-snapshot", false);
        g_assert_cmpint(stat(s.path, &after), ==, 0);
        g_assert_cmpuint(before.st_ino, !=, after.st_ino);
        restore_release(vm);
        qmp_expect_migration(vm_qmp(vm), "completed");
        restore_check_restored(&s, vm);
    }
    restore_end_held(&s, vm);
}

/* A snapshot of the guest into its own file: that one stays as it is. */
static void test_own_file(void)
{
    RestoreScene s;
    Vm *vm = restore_begin_held(&s);

    if (vm) {
        struct stat before, after;
        Qmp *q = vm_qmp(vm);

        g_assert_cmpint(stat(s.path, &before), ==, 0);
        g_autoptr(JsonObject) answer = qmp_call(q, "x-farfault-snapshot", "{'file': '%s'}", s.path);
        g_assert_nonnull(answer);
        restore_release(vm);
        qmp_expect_migration(q, json_object_has_member(answer, "return") ? "failed" : "completed");
        restore_check_goes_on(&s, vm);
        g_assert_cmpint(stat(s.path, &after), ==, 0);
        g_assert_cmpuint(before.st_ino, ==, after.st_ino);
        g_assert_cmpint(before.st_mtim.tv_sec, ==, after.st_mtim.tv_sec);
        g_assert_cmpint(before.st_mtim.tv_nsec, ==, after.st_mtim.tv_nsec);
    }
    restore_end_held(&s, vm);
}

/* ---- who overwrites it ----------------------------------------------------------------------- */

typedef struct {
    const char *path;
    bool cuts; /* truncate() in place of open() */
    gint came; /* atomic; he has come in */
    GThread *thread;
} Writer;

static gpointer overwrite(gpointer opaque)
{
    Writer *w = opaque;
    int fd = w->cuts ? -1 : open(w->path, O_WRONLY | O_TRUNC | O_CLOEXEC);

    g_assert_true(w->cuts ? truncate(w->path, 0) == 0 : fd >= 0);
    g_atomic_int_set(&w->came, 1);
    if (fd >= 0) {
        close(fd);
    }
    return NULL;
}

/* He has waited until the guest had everything, and the file is his. */
static void check_came(const RestoreScene *s, Vm *vm, Writer *w)
{
    struct stat st;

    restore_release(vm);
    qmp_expect_migration(vm_qmp(vm), "completed");
    g_thread_join(w->thread);
    g_assert_cmpint(stat(s->path, &st), ==, 0);
    g_assert_cmpint(st.st_size, ==, 0);
    restore_check_restored(s, vm);
}

/* Also if the file is another user's, and the engine root's. */
static void test_held_back(gconstpointer cuts)
{
    RestoreScene s = {0};
    Vm *vm = NULL;

    if (restore_has_faults() && restore_begin_plain(&s)) {
        Writer w = {.path = s.path, .cuts = cuts != NULL};

        if (cuts && geteuid() == 0) {
            g_assert_cmpint(chown(s.path, 1, 1), ==, 0);
        }
        vm = restore_start_held(&s);
        w.thread = g_thread_new("writer", overwrite, &w);
        vm_wait_stderr(vm, "somebody waits to write to it");
        g_assert_false(g_atomic_int_get(&w.came));
        check_came(&s, vm, &w);
        vm_wait_stderr(vm, "nobody is held back from writing to it any more");
    }
    restore_end_held(&s, vm);
}

/* TRUE: somebody waits for the leases of the file ST. */
static bool is_broken(const struct stat *st)
{
    g_autofree char *text = NULL, *inode = g_strdup_printf(":%" G_GUINT64_FORMAT " ", st->st_ino);

    g_assert_true(g_file_get_contents("/proc/locks", &text, NULL, NULL));
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    for (char **line = lines; *line; line++) {
        if (strstr(*line, " BREAKING ") && strstr(*line, inode)) {
            return true;
        }
    }
    return false;
}

/* He comes while there is no engine that could be told: the next one finds him. */
static void test_held_back_killed(void)
{
    RestoreScene s;
    Vm *vm = restore_begin_held(&s);
    struct stat st;

    if (vm) {
        pid_t engine = vm_find_engine(vm);
        Writer w = {.path = s.path};

        g_assert_cmpint(stat(s.path, &st), ==, 0);
        kill(engine, SIGSTOP);
        w.thread = g_thread_new("writer", overwrite, &w);
        while (!is_broken(&st)) {
            g_usleep(1000); /* the kernel has no event for it */
        }
        g_assert_false(g_atomic_int_get(&w.came));
        kill(engine, SIGKILL);
        vm_wait_stderr(vm, "somebody writes, or waits to write, to it");
        check_came(&s, vm, &w);
    }
    restore_end_held(&s, vm);
}

/* Nobody is held back for a guest whose restore does not continue. */
static void test_held_back_paused(void)
{
    RestoreScene s, copy;
    Vm *vm = restore_begin_held(&s);

    if (vm) {
        Writer w = {.path = s.path};

        copy_with_time(&copy, &s);
        w.thread = g_thread_new("writer", overwrite, &w);
        vm_wait_stderr(vm, "somebody waits to write to it");
        qmp_ok(vm_qmp(vm), "migrate-pause", NULL);
        qmp_expect_migration(vm_qmp(vm), "postcopy-paused");
        g_thread_join(w.thread);
        restore_release(vm);
        qmp_ok(vm_qmp(vm), "migrate-recover", "{'uri': 'file:%s'}", s.path);
        qmp_expect_migration(vm_qmp(vm), "postcopy-paused"); /* it is his */
        restore_recovers(&copy, vm, copy.path);
        g_assert_cmpint(unlink(copy.path), ==, 0);
        restore_end(&copy);
    }
    restore_end_held(&s, vm);
}

/* ---- the engine ------------------------------------------------------------------------------ */

/* It stands, and is killed as it stands, or by the relay when it has stood for too long. */
static void test_stopped(gconstpointer killed)
{
    RestoreScene s;

    g_setenv("FARFAULT_DEADLINES", "engine-hung=2000", TRUE);
    Vm *vm = restore_begin_held(&s);
    g_unsetenv("FARFAULT_DEADLINES");
    if (vm) {
        pid_t engine = vm_find_engine(vm);

        kill(engine, SIGSTOP);
        if (killed) {
            kill(engine, SIGKILL);
        }
        restore_release(vm);
        qmp_expect_migration(vm_qmp(vm), "completed");
        g_assert_cmpint(vm_find_engine(vm), !=, engine);
        restore_check_restored(&s, vm);
    }
    restore_end_held(&s, vm);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/restore-hosts/fuse/eio", test_eio);
    g_test_add_func("/restore-hosts/fuse/hangs", test_hangs);
    g_test_add_func("/restore-hosts/fuse/hangs-killed", test_hangs_killed);
    g_test_add_func("/restore-hosts/fuse/read-only", test_read_only);
    g_test_add_func("/restore-hosts/full", test_full);
    g_test_add_func("/restore-hosts/cut", test_cut);
    g_test_add_func("/restore-hosts/replaced", test_replaced);
    g_test_add_func("/restore-hosts/snapshot-over", test_snapshot_over);
    g_test_add_func("/restore-hosts/own-file", test_own_file);
    g_test_add_data_func("/restore-hosts/held-back/overwritten", NULL, test_held_back);
    g_test_add_data_func("/restore-hosts/held-back/cut", "", test_held_back);
    g_test_add_func("/restore-hosts/held-back/killed", test_held_back_killed);
    g_test_add_func("/restore-hosts/held-back/paused", test_held_back_paused);
    g_test_add_data_func("/restore-hosts/stopped", NULL, test_stopped);
    g_test_add_data_func("/restore-hosts/stopped-and-killed", "", test_stopped);
    int rc = g_test_run();
    restore_rig_end();
    return rc;
}
