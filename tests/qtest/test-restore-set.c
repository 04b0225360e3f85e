/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Working sets: a restore learns what its guest needs first, the next ones read that first, and say
 * how much of it came before it was needed. One that is damaged, or of another file, changes
 * nothing.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/qtest/restore-rig.h"

#define LEARN ", 'working-set': 'learn'"
/* The files of this test are in the page cache. */
#define USED "destination/*/step/not-cached=skip"

static gint64 of_restore(Vm *vm, const char *name)
{
    g_autoptr(JsonObject) info = qmp_return(vm_qmp(vm), "query-migrate", NULL);
    JsonObject *own = json_object_get_object_member(info, "x-farfault");

    return json_object_get_int_member_with_default(json_object_get_object_member(own, "restore"),
                                                   name, -1);
}

/* Restores S with MORE, and returns it when all is there. */
static Vm *restore(const RestoreScene *s, const char *faults, const char *more)
{
    Vm *vm = restore_start_again(s, faults);

    restore_ask_with(s, vm, s->path, more);
    qmp_expect_migration(vm_qmp(vm), "completed");
    return vm;
}

static void check_and_end(const RestoreScene *s, Vm *vm)
{
    restore_check_restored(s, vm);
    vm_end(vm);
}

static RestoreScene learned; /* its file has a working set; one for all that only read it */
static char *its_set;

/* FALSE: skipped. */
static bool begin_learned(void)
{
    if (!restore_has_faults() || (!learned.path && !restore_begin_plain(&learned))) {
        return false;
    }
    if (!its_set) {
        its_set = g_strconcat(learned.path, ".ws", NULL);
        check_and_end(&learned, restore(&learned, NULL, LEARN));
        g_assert_true(g_file_test(its_set, G_FILE_TEST_IS_REGULAR));
    }
    return true;
}

static void test_used(void)
{
    const RestoreScene *s = &learned;

    if (begin_learned()) {
        Vm *vm = restore(s, USED, "");

        g_assert_cmpint(of_restore(vm, "working-set"), >, 0);
        g_assert_cmpint(of_restore(vm, "working-set-used"), >, 0);
        g_assert_cmpint(of_restore(vm, "working-set-used"), <=, of_restore(vm, "working-set"));
        check_and_end(s, vm);
        vm = restore(s, USED, ", 'working-set': 'ignore'");
        g_assert_cmpint(of_restore(vm, "working-set"), ==, -1);
        check_and_end(s, vm);
    }
}

/* A page of it, which is noticed when it is read. */
static void test_damaged(void)
{
    const RestoreScene *s = &learned;

    if (begin_learned()) {
        int fd = open(its_set, O_RDWR | O_CLOEXEC);
        off_t end = lseek(fd, 0, SEEK_END);

        for (off_t at = end - 4096; at > end / 2; at -= 65536) {
            g_assert_cmpint(pwrite(fd, "wrong", 5, at), ==, 5);
        }
        Vm *vm = restore(s, USED, "");
        vm_wait_stderr(vm, "the working set is not used any more");
        check_and_end(s, vm);
        g_assert_cmpint(pwrite(fd, "wrong", 5, 20), ==, 5);
        close(fd);
        vm = restore(s, USED, "");
        vm_wait_stderr(vm, "the working set is not used: ");
        g_assert_cmpint(of_restore(vm, "working-set"), ==, -1);
        check_and_end(s, vm);
    }
}

static void set_time(const char *path, long ns)
{
    struct stat st;

    g_assert_cmpint(stat(path, &st), ==, 0);
    const struct timespec times[] = {st.st_atim, {st.st_mtim.tv_sec, ns}};
    g_assert_cmpint(utimensat(AT_FDCWD, path, times, 0), ==, 0);
}

/* Its file was written to since: nothing of the old one comes into the guest. */
static void test_another(void)
{
    const RestoreScene *s = &learned;

    if (begin_learned()) {
        struct stat st;

        g_assert_cmpint(stat(s->path, &st), ==, 0);
        set_time(s->path, st.st_mtim.tv_nsec ^ 1);
        Vm *vm = restore(s, USED, "");
        vm_wait_stderr(vm, "it is of another file");
        check_and_end(s, vm);
        set_time(s->path, st.st_mtim.tv_nsec);
    }
}

/* The engine dies while it learns: the guest is filled, and there is none. */
static void test_killed(void)
{
    RestoreScene s;

    if (!restore_has_faults()) {
        return;
    }
    if (restore_begin_plain(&s)) {
        g_autofree char *set = g_strconcat(s.path, ".ws", NULL);

        Vm *vm = restore(&s, "destination/postcopy-active/call/read-file#9=kill", LEARN);
        g_assert_true(vm_fault_happened(vm, 0));
        g_assert_false(g_file_test(set, G_FILE_TEST_EXISTS));
        check_and_end(&s, vm);
    }
    restore_end(&s);
}

/* A snapshot ends it early. */
static void test_hurry(void)
{
    RestoreScene s;

    if (restore_begin_plain(&s)) {
        Vm *vm = restore_start_again(&s, NULL);
        g_autofree char *path = vm_path(vm, "next");

        restore_ask_with(&s, vm, s.path, LEARN);
        qmp_expect_migration(vm_qmp(vm), "postcopy-active");
        qmp_ok(vm_qmp(vm), "x-farfault-snapshot", "{'file': '%s'}", path);
        qmp_expect_migration(vm_qmp(vm), "completed");
        g_assert_true(g_file_test(path, G_FILE_TEST_EXISTS));
        restore_check_goes_on(&s, vm);
        vm_end(vm);
    }
    restore_end(&s);
}

static void test_fd(void)
{
    RestoreScene s;

    if (restore_begin_plain(&s)) {
        Vm *vm = restore_start_again(&s, NULL);
        g_autofree char *why =
            qmp_error(vm_qmp(vm), "x-farfault-restore", "{'fdname': 'x', 'working-set': 'learn'}");

        g_assert_cmpstr(why, ==, "a working set is written beside the file: it needs 'file'");
        vm_end(vm);
    }
    restore_end(&s);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/restore-set/used", test_used);
    g_test_add_func("/restore-set/another", test_another);
    g_test_add_func("/restore-set/damaged", test_damaged); /* the last one that reads it */
    g_test_add_func("/restore-set/killed", test_killed);
    g_test_add_func("/restore-set/hurry", test_hurry);
    g_test_add_func("/restore-set/fd", test_fd);
    int rc = g_test_run();
    restore_end(&learned);
    g_free(its_set);
    restore_rig_end();
    return rc;
}
