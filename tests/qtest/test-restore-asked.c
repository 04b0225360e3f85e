/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The setting restore=lazy, as a client meets it that knows nothing of lazy restores and asks in
 * QEMU's own way, as libvirt does: it is told that all is over when its guest can run, and sees
 * nothing of what follows but a pause. Where something stands against it, it is QEMU's restore.
 */
#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/lib/hold.h"
#include "tests/lib/move.h"
#include "tests/lib/slowfile.h"
#include "tests/qtest/restore-rig.h"

typedef enum { BY_NUMBER, BY_FDSET, BY_PATH } Way;

/* A QEMU with that setting that waits to be restored. */
static Vm *start_lazily(const RestoreScene *s, const char *faults)
{
    g_setenv("FARFAULT_RESTORE", "lazy", TRUE);
    Vm *vm = restore_start_again(s, faults);
    g_unsetenv("FARFAULT_RESTORE");
    return vm;
}

/* PATH at AT, as libvirt 9 says it (an inherited descriptor that stands where the stream begins) or
 * 11.2 does. */
static void ask(Vm *vm, Way way, const char *path, uint64_t at)
{
    Qmp *q = vm_qmp(vm);
    int64_t set;

    if (way == BY_PATH) {
        qmp_ok(q, "migrate-incoming", "{'uri': 'file:%s,offset=%" G_GUINT64_FORMAT "'}", path, at);
        return;
    }
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(lseek(fd, way == BY_NUMBER ? (off_t)at : 0, SEEK_SET), >=, 0);
    int number = qmp_add_fd(q, fd, &set);
    close(fd);
    if (way == BY_NUMBER) {
        qmp_ok(q, "migrate-incoming", "{'uri': 'fd:%d'}", number);
    } else {
        qmp_ok(q, "migrate-incoming",
               "{'uri': 'file:/dev/fdset/%" G_GINT64_FORMAT ",offset=%#" G_GINT64_MODIFIER "x'}",
               set, at);
    }
}

static void expect_over(Vm *vm)
{
    qmp_expect_migration(vm_qmp(vm), "setup");
    qmp_expect_migration(vm_qmp(vm), "active");
    qmp_expect_migration(vm_qmp(vm), "completed");
}

/* ---- as libvirt asks ------------------------------------------------------------------------- */

typedef struct {
    RestoreRow row;
    Way way;
    const char *capability; /* that the client has switched on; NULL */
} Row;

static const Row rows[] = {
    {{"number", OURS, OLD, OLD, .offset = 17 << 12, .stopped = true, .machine = RESTORE_PC,
      .n_cpus = 2},
     BY_NUMBER},
    {{"number/runs", OURS, OLD, OLD, .offset = 17 << 12, .machine = RESTORE_PC, .n_cpus = 2},
     BY_NUMBER},
    {{"path", OURS, OLD, OLD, .machine = RESTORE_PC, .n_cpus = 2}, BY_PATH},
    {{"fdset", STOCK, NEW, NEW, .offset = OFFSET, .machine = "q35", .n_cpus = 2},
     BY_FDSET,
     "mapped-ram"},
    {{"fdset/multifd", STOCK, NEW, NEW, .offset = OFFSET, .machine = "q35", .n_cpus = 2},
     BY_FDSET,
     "multifd"},
};

static void test_row(gconstpointer data)
{
    const Row *row = data;
    RestoreScene s;

    if (restore_begin(&s, &row->row)) {
        Vm *vm = start_lazily(&s, NULL);

        if (row->capability) {
            qmp_set_capability(vm_qmp(vm), "mapped-ram", true);
            qmp_set_capability(vm_qmp(vm), row->capability, true);
        }
        ask(vm, row->way, s.path, row->row.offset);
        expect_over(vm);
        restore_check_info(vm);
        restore_check_restored(&s, vm);
        g_assert_false(qmp_has_event(vm_qmp(vm), "MIGRATION"));
        vm_end(vm);
    }
    restore_end(&s);
}

/* The file's working set is used, although the client has named a number alone. */
static void test_set(void)
{
    RestoreScene s = {0};

    if (restore_has_faults() && restore_begin_plain(&s)) {
        g_autofree char *set = g_strconcat(s.path, ".ws", NULL);
        Vm *vm = restore_start_again(&s, NULL);

        restore_ask_with(&s, vm, s.path, ", 'working-set': 'learn'");
        qmp_expect_migration(vm_qmp(vm), "completed");
        vm_end(vm);
        vm = start_lazily(&s, "destination/*/step/not-cached=skip");
        ask(vm, BY_NUMBER, s.path, 0);
        expect_over(vm);
        g_autoptr(JsonObject) info = qmp_return(vm_qmp(vm), "query-migrate", NULL);
        JsonObject *own = json_object_get_object_member(info, "x-farfault");
        g_assert_true(
            json_object_has_member(json_object_get_object_member(own, "restore"), "working-set"));
        restore_check_restored(&s, vm);
        vm_end(vm);
        g_assert_cmpint(g_unlink(set), ==, 0);
    }
    restore_end(&s);
}

/* ---- while it fills -------------------------------------------------------------------------- */

/* The client was told that all is here, and nobody says that the file is not needed any more. */
static void check_unseen(Vm *vm)
{
    g_autoptr(JsonObject) info = qmp_return(vm_qmp(vm), "query-migrate", NULL);
    JsonObject *own = json_object_get_object_member(info, "x-farfault");
    JsonObject *restore = json_object_get_object_member(own, "restore");

    g_assert_cmpstr(json_object_get_string_member(info, "status"), ==, "completed");
    /* A new engine does not know it at first. */
    g_assert_cmpint(json_object_get_int_member_with_default(restore, "remaining", 1), >, 0);
}

/* A guest that runs, whose client was told so, and whose file is not read on. */
static Vm *begin_held(RestoreScene *s)
{
    *s = (RestoreScene){0};
    if (!restore_has_faults() || !restore_begin_plain(s)) {
        return NULL;
    }
    Vm *vm = start_lazily(s, RESTORE_HELD);
    hold_make(vm);
    ask(vm, BY_NUMBER, s->path, 0);
    expect_over(vm);
    hold_wait(vm);
    check_unseen(vm);
    return vm;
}

/* A word of the client's that a destination in postcopy would not have from libvirt; and a snapshot
 * begins when all is here, of which nobody is told. */
static void test_unseen(void)
{
    RestoreScene s;
    Vm *vm = begin_held(&s);

    if (vm) {
        g_autofree char *path = vm_path(vm, "next");

        /* As farfault snapshot asks: it ends with its client, which is there. */
        qmp_ok(vm_qmp(vm), "x-farfault-snapshot", "{'file': '%s', 'attended': true}", path);
        qmp_expect_migration(vm_qmp(vm), "setup");
        restore_release(vm);
        qmp_expect_migration(vm_qmp(vm), "active");
        qmp_expect_migration(vm_qmp(vm), "completed");
        g_assert_true(g_file_test(path, G_FILE_TEST_EXISTS));
        restore_check_goes_on(&s, vm);
        g_assert_false(qmp_has_event(vm_qmp(vm), "MIGRATION"));
    }
    restore_end_held(&s, vm);
}

/* A migration waits for it, and the file changes: why it has paused is said all the same. */
static void test_unseen_fails(void)
{
    RestoreScene s;
    Vm *vm = begin_held(&s);

    if (vm) {
        struct stat st;

        g_assert_cmpint(stat(s.path, &st), ==, 0);
        const struct timespec before[] = {st.st_atim, st.st_mtim};
        g_autofree char *next = vm_path(vm, "next");
        qmp_ok(vm_qmp(vm), "migrate", "{'uri': 'unix:%s'}", next);
        qmp_expect_migration(vm_qmp(vm), "setup");
        g_assert_cmpint(utimensat(AT_FDCWD, s.path, NULL, 0), ==, 0);
        restore_release(vm);
        qmp_expect_migration(vm_qmp(vm), "failed"); /* what has waited */
        qmp_expect_migration(vm_qmp(vm), "postcopy-paused");
        g_autofree char *why = restore_error_desc(vm);
        g_assert_nonnull(strstr(why, s.path));
        g_assert_nonnull(strstr(why, "was changed"));
        g_assert_cmpint(utimensat(AT_FDCWD, s.path, before, 0), ==, 0);
        restore_recovers(&s, vm, s.path);
    }
    restore_end_held(&s, vm);
}

/* While the guest is being started it is "active", as QEMU's own restore is; and what is asked for
 * then is not told that it is over. */
static void test_starting(void)
{
    RestoreScene s = {0};

    if (restore_has_faults() && restore_begin_plain(&s)) {
        Vm *vm = start_lazily(&s, "destination/postcopy-active/at/resumed=hold");
        g_autofree char *path = vm_path(vm, "next");

        hold_make(vm);
        ask(vm, BY_NUMBER, s.path, 0);
        qmp_expect_migration(vm_qmp(vm), "setup");
        qmp_expect_migration(vm_qmp(vm), "active");
        hold_wait(vm);
        g_autofree char *status = qmp_migrate_status(vm_qmp(vm));
        g_assert_cmpstr(status, ==, "active");
        qmp_ok(vm_qmp(vm), "x-farfault-snapshot", "{'file': '%s'}", path);
        qmp_expect_migration(vm_qmp(vm), "setup");
        restore_release(vm);
        qmp_expect_migration(vm_qmp(vm), "active");
        qmp_expect_migration(vm_qmp(vm), "completed");
        restore_check_goes_on(&s, vm);
        g_assert_false(qmp_has_event(vm_qmp(vm), "MIGRATION"));
        restore_end_held(&s, vm);
    } else {
        restore_end(&s);
    }
}

#define HOLD "destination/*/at/fill=hold" /* nothing else fills, and QEMU has loaded it */
#define SLOW "destination/*/step/slow-file=skip;" HOLD
#define SLOW_KILLED "destination/active/at/loaded=kill;" SLOW
/* Somebody has come between the look at the file and the lease. */
#define NOT_HELD "destination/*/call/set-lease=EAGAIN;" HOLD

/* Where the file could be overwritten before the rest is here, as it is read so slowly or nobody is
 * held back, nobody is told that it is over, and no guest runs. */
static void test_slow(gconstpointer data)
{
    const char *faults = data;
    RestoreScene s = {0};

    if (restore_has_faults() && restore_begin_plain(&s)) {
        Vm *vm = start_lazily(&s, faults);

        hold_make(vm);
        ask(vm, BY_NUMBER, s.path, 0);
        qmp_expect_migration(vm_qmp(vm), "setup");
        qmp_expect_migration(vm_qmp(vm), "active");
        hold_wait(vm);
        vm_wait_stderr(vm, "the guest waits for its memory");
        g_autofree char *status = qmp_migrate_status(vm_qmp(vm));
        g_assert_cmpstr(status, ==, "active");
        g_autofree char *state = qmp_run_state(vm_qmp(vm));
        g_assert_cmpstr(state, !=, "running");
        restore_release(vm);
        qmp_expect_migration(vm_qmp(vm), "completed");
        restore_check_restored(&s, vm);
        g_assert_false(qmp_has_event(vm_qmp(vm), "MIGRATION"));
        restore_end_held(&s, vm);
    } else {
        restore_end(&s);
    }
}

/* The next engine says no more of it. */
static void test_killed(void)
{
    RestoreScene s;
    Vm *vm = begin_held(&s);

    if (vm) {
        g_autofree char *path = vm_path(vm, "next");

        kill(vm_find_engine(vm), SIGKILL);
        check_unseen(vm);
        restore_release(vm);
        qmp_ok(vm_qmp(vm), "x-farfault-snapshot", "{'file': '%s'}", path);
        qmp_expect_migration(vm_qmp(vm), "completed");
        restore_check_goes_on(&s, vm);
        g_autoptr(JsonObject) info = qmp_return(vm_qmp(vm), "query-migrate", NULL);
        g_assert_true(
            json_object_has_member(json_object_get_object_member(info, "x-farfault"), "snapshot"));
    }
    restore_end_held(&s, vm);
}

/* All of the memory is here, and nobody has said so: the next engine finds that the file is another
 * one by now, which it has no use for. */
static void test_killed_granting(void)
{
    const struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = 1000000000}};
    RestoreScene s = {0};

    if (restore_has_faults() && restore_begin_plain(&s)) {
        Vm *vm = start_lazily(&s, "destination/*/step/slow-file=skip;destination/*/at/grant=hold");

        hold_make(vm);
        ask(vm, BY_NUMBER, s.path, 0);
        hold_wait(vm);
        g_assert_cmpint(utimensat(AT_FDCWD, s.path, times, 0), ==, 0);
        kill(vm_find_engine(vm), SIGKILL);
        restore_release(vm);
        expect_over(vm);
        restore_check_goes_on(&s, vm);
        restore_end_held(&s, vm);
    } else {
        restore_end(&s);
    }
}

/* The engine dies as it says that it is over: said twice, perhaps, but said. */
static void test_killed_saying(void)
{
    RestoreScene s = {0};

    if (restore_has_faults() && restore_begin_plain(&s)) {
        Vm *vm = start_lazily(&s, "destination/*/at/said-over=kill");

        ask(vm, BY_NUMBER, s.path, 0);
        expect_over(vm);
        restore_check_goes_on(&s, vm);
        vm_end(vm);
    }
    restore_end(&s);
}

/* The engine dies when all is over, and before it has forgotten what its client was told: of a
 * migration that comes later nobody is told so before its memory has moved. */
static void test_killed_idle(void)
{
    RestoreScene s = {0};

    if (restore_has_faults() && restore_begin_plain(&s)) {
        Vm *vm = start_lazily(&s, "destination/*/at/idle=kill"), *next;

        ask(vm, BY_NUMBER, s.path, 0);
        expect_over(vm);
        while (!vm_fault_happened(vm, 0)) {
            g_free(qmp_migrate_status(vm_qmp(vm)));
        }
        next = restore_start_again(&s, NULL);
        move_prepare(vm, next);
        g_autofree char *uri = move_listen(next);
        qmp_ok(vm_qmp(vm), "migrate-set-parameters", "{'max-postcopy-bandwidth': 65536}");
        qmp_ok(vm_qmp(vm), "migrate", "{'uri': '%s'}", uri);
        qmp_ok(vm_qmp(vm), "migrate-start-postcopy", NULL);
        qmp_expect(vm_qmp(next), "RESUME");
        qmp_expect_migration(vm_qmp(vm), "postcopy-active");
        g_autofree char *status = qmp_migrate_status(vm_qmp(vm));
        g_assert_cmpstr(status, ==, "postcopy-active");
        qmp_ok(vm_qmp(vm), "migrate-set-parameters", "{'max-postcopy-bandwidth': 0}");
        move_wait_completed(vm, next);
        restore_check_goes_on(&s, next);
        vm_end(vm);
        vm_end(next);
    }
    restore_end(&s);
}

/* ---- overwritten meanwhile ------------------------------------------------------------------- */

static bool run(const char *const *argv)
{
    int status;

    return g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_SEARCH_PATH | G_SPAWN_STDOUT_TO_DEV_NULL,
                        NULL, NULL, NULL, NULL, &status, NULL) &&
           status == 0;
}

/* Mounts a file system whose files can share their space at DIRECTORY. FALSE: skipped. */
static bool mount_sharing(const char *image, const char *directory)
{
    const char *const make[] = {"mkfs.xfs", "-q", "-m", "reflink=1", image, NULL};
    const char *const mount[] = {"mount", "-o", "loop", image, directory, NULL};
    int fd = open(image, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    bool ok = fd >= 0 && ftruncate(fd, 320 << 20) == 0;

    close(fd);
    if (ok && run(make) && run(mount)) {
        return true;
    }
    g_test_skip("XFS cannot be made or mounted here");
    return false;
}

/* Where a copy costs nothing a process that overwrites the file does not wait, and the guest has
 * what was saved; also under the next engine. */
static void test_cloned(gconstpointer killed)
{
    RestoreScene s = {0};
    Vm *vm = NULL;

    if (!restore_has_faults() || !restore_begin_plain(&s)) {
        return;
    }
    g_autofree char *directory = g_dir_make_tmp("ff-asked-XXXXXX", NULL);
    g_autofree char *image = g_strconcat(directory, ".img", NULL);
    g_autofree char *path = g_build_filename(directory, "saved", NULL);
    const char *const copy[] = {"cp", "--sparse=always", s.path, path, NULL};
    const char *const umount[] = {"umount", directory, NULL};

    if (mount_sharing(image, directory)) {
        g_assert_true(run(copy));
        vm = start_lazily(&s, RESTORE_HELD);
        hold_make(vm);
        ask(vm, BY_NUMBER, path, 0);
        expect_over(vm);
        hold_wait(vm);
        check_unseen(vm);
        int fd = open(path, O_WRONLY | O_TRUNC | O_NONBLOCK | O_CLOEXEC);
        g_assert_cmpint(fd, >=, 0);
        g_assert_cmpint(write(fd, "another", 7), ==, 7);
        close(fd);
        if (killed) {
            kill(vm_find_engine(vm), SIGKILL);
        }
        restore_release(vm);
        restore_check_goes_on(&s, vm);
    }
    restore_end_held(&s, vm);
    if (vm) {
        g_assert_true(run(umount));
    }
    g_assert_cmpint(g_unlink(image) | g_rmdir(directory), ==, 0);
}

/* A pause is seen, and all that comes after it. */
static void test_paused(void)
{
    RestoreScene s;
    Vm *vm = begin_held(&s);

    if (vm) {
        qmp_ok(vm_qmp(vm), "migrate-pause", NULL);
        qmp_expect_migration(vm_qmp(vm), "postcopy-paused");
        g_autofree char *status = qmp_migrate_status(vm_qmp(vm));
        g_assert_cmpstr(status, ==, "postcopy-paused");
        restore_release(vm);
        restore_recovers(&s, vm, s.path);
    }
    restore_end_held(&s, vm);
}

/* ---- not lazily ------------------------------------------------------------------------------ */

typedef struct {
    const char *name;
    bool asked;
    const char *reason; /* part of it; NULL: nobody says one */
    const char *file;   /* the name that it has; NULL: any */
    bool written;       /* somebody has it open for writing */
    bool unlinked;
    const char *faults;
    const char *const *args;
} Eager;

static const char *const nameless[] = {"-name", "guest=", NULL};

static const Eager eager[] = {
    {"not-asked"},
    {"managed", true, "managed save", "restored.save"}, /* "restored" is the guest's name */
    {"managed-nameless", true, "managed save", "any.save", .args = nameless},
    {"written", true, "open for writing", .written = true},
    {"unlinked", true, "no name", .unlinked = true},
    {"selinux", true, "SELinux", .faults = "*/*/step/relabelled=skip"},
};

static const RestoreRow newer = {"newer",          STOCK,      NEW, NEW, .offset = OFFSET,
                                 .machine = "q35", .n_cpus = 2};

/* By QEMU, all of it. */
static void check_eager(Vm *vm, const char *reason)
{
    qmp_expect_migration(vm_qmp(vm), "completed");
    g_autoptr(JsonObject) info = qmp_return(vm_qmp(vm), "query-migrate", NULL);
    JsonObject *own = json_object_has_member(info, "x-farfault")
                          ? json_object_get_object_member(info, "x-farfault")
                          : NULL;

    g_assert_true(!own == !reason);
    if (reason) {
        g_assert_cmpstr(json_object_get_string_member(own, "engine"), ==, "qemu");
        g_assert_nonnull(strstr(json_object_get_string_member(own, "reason"), reason));
    }
}

static void test_eager(gconstpointer data)
{
    const Eager *e = data;
    RestoreRow row = newer;
    RestoreScene s;

    row.args = e->args;

    if (e->faults && !restore_has_faults()) {
        return;
    }
    if (restore_begin(&s, &row)) {
        Vm *vm = e->asked ? start_lazily(&s, e->faults) : restore_start_again(&s, NULL);
        g_autofree char *path = e->file ? vm_path(s.saved, e->file) : g_strdup(s.path);
        int writer = e->written ? open(s.path, O_RDWR | O_CLOEXEC) : -1;
        int64_t set;

        g_assert_cmpint(g_rename(s.path, path), ==, 0);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        qmp_add_fd(vm_qmp(vm), fd, &set);
        close(fd);
        if (e->unlinked) {
            g_assert_cmpint(g_unlink(path), ==, 0);
        }
        qmp_set_capability(vm_qmp(vm), "mapped-ram", true);
        qmp_ok(vm_qmp(vm), "migrate-incoming",
               "{'uri': 'file:/dev/fdset/%" G_GINT64_FORMAT ",offset=%d'}", set, OFFSET);
        check_eager(vm, e->reason);
        restore_check_restored(&s, vm);
        if (writer >= 0) {
            close(writer);
        }
        vm_end(vm);
    }
    restore_end(&s);
}

/* The guest that begins at AT of FROM, in an ordinary stream. */
static void convert(const char *from, uint64_t at, const char *to)
{
    g_autofree char *farfault = vm_build_path("cli/farfault");
    g_autofree char *offset = g_strdup_printf("%" G_GUINT64_FORMAT, at);
    const char *const argv[] = {farfault, "convert", "--to", "stream", "--in-offset",
                                offset,   from,      to,     NULL};
    int status;

    g_assert_true(
        g_spawn_sync(NULL, (char **)argv, NULL, 0, NULL, NULL, NULL, NULL, &status, NULL));
    g_assert_cmpint(status, ==, 0);
}

/* What libvirt 9 writes by itself: where its pages stand is known at its end. */
static void test_stream(void)
{
    RestoreScene s;

    if (restore_begin_plain(&s)) {
        g_autofree char *stream = vm_path(s.saved, "stream");

        convert(s.path, 0, stream);
        Vm *vm = start_lazily(&s, NULL);
        ask(vm, BY_NUMBER, stream, 0);
        check_eager(vm, "ordinary stream");
        restore_check_goes_on(&s, vm);
        vm_end(vm);
        g_assert_cmpint(g_unlink(stream), ==, 0);
    }
    restore_end(&s);
}

/* Other hosts may have it, too, and no lease holds them back. */
static void test_fuse(void)
{
    RestoreScene s;
    const char *why;

    if (restore_begin(&s, &newer)) {
        g_autofree char *directory = g_dir_make_tmp("ff-asked-XXXXXX", NULL);
        SlowFile *file = slowfile_new_of(directory, s.path, &why);

        if (file) {
            Vm *vm = start_lazily(&s, NULL);

            qmp_set_capability(vm_qmp(vm), "mapped-ram", true);
            ask(vm, BY_FDSET, slowfile_path(file), OFFSET);
            check_eager(vm, "no local file system");
            restore_check_restored(&s, vm);
            vm_end(vm);
            slowfile_free(file);
        } else {
            g_test_skip(why);
        }
        g_assert_cmpint(g_rmdir(directory), ==, 0);
    }
    restore_end(&s);
}

/* As of an image that farfault convert --libvirt has made, and libvirt calls raw: QEMU would end.
 */
static void test_raw(void)
{
    RestoreScene s;

    if (restore_begin(&s, &newer)) {
        Vm *vm = start_lazily(&s, NULL);
        int writer = open(s.path, O_RDWR | O_CLOEXEC);
        g_autofree char *why = qmp_error(vm_qmp(vm), "migrate-incoming",
                                         "{'uri': 'file:%s,offset=%d'}", s.path, OFFSET);

        g_assert_nonnull(strstr(why, "open for writing"));
        g_assert_nonnull(strstr(why, "mapped-ram"));
        close(writer);
        ask(vm, BY_PATH, s.path, OFFSET);
        expect_over(vm);
        restore_check_restored(&s, vm);
        vm_end(vm);
    }
    restore_end(&s);
}

/* A FIFO by its name: its writer waits for QEMU. */
static void test_fifo(void)
{
    RestoreScene s;

    if (restore_begin(&s, &newer)) {
        g_autofree char *stream = vm_path(s.saved, "stream"), *fifo = vm_path(s.saved, "fifo");
        g_autofree char *to = g_strconcat("of=", fifo, NULL);
        g_autofree char *from = g_strconcat("if=", stream, NULL);
        const char *const dd[] = {"dd", "status=none", from, to, NULL};
        int status;
        GPid pid;

        convert(s.path, OFFSET, stream);
        g_assert_cmpint(mkfifo(fifo, 0600), ==, 0);
        g_assert_true(g_spawn_async(NULL, (char **)dd, NULL,
                                    G_SPAWN_SEARCH_PATH | G_SPAWN_DO_NOT_REAP_CHILD, NULL, NULL,
                                    &pid, NULL));
        Vm *vm = start_lazily(&s, NULL);
        qmp_ok(vm_qmp(vm), "migrate-incoming", "{'uri': 'file:%s'}", fifo);
        check_eager(vm, "no regular file");
        restore_check_restored(&s, vm);
        vm_end(vm);
        g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
        g_assert_cmpint(status, ==, 0);
        g_assert_cmpint(g_unlink(stream) | g_unlink(fifo), ==, 0);
    }
    restore_end(&s);
}

/* QEMU reads from where its descriptor stands, which this one does not move. */
static void test_closed(void)
{
    RestoreScene s = {0};

    if (restore_has_faults() && restore_begin_plain(&s)) {
        g_autofree char *stream = vm_path(s.saved, "stream");

        convert(s.path, 0, stream);
        Vm *vm = start_lazily(&s, "*/*/call/open-again=EIO");
        ask(vm, BY_NUMBER, stream, 0);
        check_eager(vm, "cannot be opened");
        restore_check_goes_on(&s, vm);
        vm_end(vm);
        g_assert_cmpint(g_unlink(stream), ==, 0);
    }
    restore_end(&s);
}

/* As with --bypass-cache, and of packed images. */
static void test_pipe(void)
{
    RestoreScene s;

    if (restore_begin_plain(&s)) {
        g_autofree char *stream = vm_path(s.saved, "stream");
        const char *const cat[] = {"cat", stream, NULL};
        int status, out;
        int64_t set;
        GPid pid;

        convert(s.path, 0, stream);
        g_assert_true(g_spawn_async_with_pipes(NULL, (char **)cat, NULL,
                                               G_SPAWN_SEARCH_PATH | G_SPAWN_DO_NOT_REAP_CHILD,
                                               NULL, NULL, &pid, NULL, &out, NULL, NULL));
        Vm *vm = start_lazily(&s, NULL);
        int number = qmp_add_fd(vm_qmp(vm), out, &set);
        close(out);
        qmp_ok(vm_qmp(vm), "migrate-incoming", "{'uri': 'fd:%d'}", number);
        check_eager(vm, "no regular file");
        restore_check_goes_on(&s, vm);
        vm_end(vm);
        g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
        g_assert_cmpint(g_unlink(stream), ==, 0);
    }
    restore_end(&s);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *path = g_strdup_printf("/restore-asked/%s", rows[i].row.name);

        g_test_add_data_func(path, &rows[i], test_row);
    }
    g_test_add_func("/restore-asked/set", test_set);
    g_test_add_func("/restore-asked/unseen", test_unseen);
    g_test_add_func("/restore-asked/unseen-fails", test_unseen_fails);
    g_test_add_func("/restore-asked/starting", test_starting);
    g_test_add_data_func("/restore-asked/slow", SLOW, test_slow);
    g_test_add_data_func("/restore-asked/slow-killed", SLOW_KILLED, test_slow);
    g_test_add_data_func("/restore-asked/not-held", NOT_HELD, test_slow);
    g_test_add_func("/restore-asked/killed", test_killed);
    g_test_add_func("/restore-asked/killed-saying", test_killed_saying);
    g_test_add_func("/restore-asked/killed-granting", test_killed_granting);
    g_test_add_func("/restore-asked/killed-idle", test_killed_idle);
    g_test_add_data_func("/restore-asked/cloned", NULL, test_cloned);
    g_test_add_data_func("/restore-asked/cloned-killed", "", test_cloned);
    g_test_add_func("/restore-asked/paused", test_paused);
    for (unsigned i = 0; i < G_N_ELEMENTS(eager); i++) {
        g_autofree char *path = g_strdup_printf("/restore-asked/eager/%s", eager[i].name);

        g_test_add_data_func(path, &eager[i], test_eager);
    }
    g_test_add_func("/restore-asked/eager/stream", test_stream);
    g_test_add_func("/restore-asked/eager/closed", test_closed);
    g_test_add_func("/restore-asked/eager/pipe", test_pipe);
    g_test_add_func("/restore-asked/eager/raw", test_raw);
    g_test_add_func("/restore-asked/eager/fifo", test_fifo);
    g_test_add_func("/restore-asked/eager/fuse", test_fuse);
    int rc = g_test_run();
    restore_rig_end();
    return rc;
}
