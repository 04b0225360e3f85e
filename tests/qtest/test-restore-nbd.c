/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Lazy restores from an NBD server: nbdkit and qemu-nbd, one that dies, that is slow, that cannot
 * read, that lets in one client, that has another guest by now; and an engine that dies. The guest
 * waits, and never sees a wrong byte.
 */
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/lib/hold.h"
#include "tests/pager/exporter.h"
#include "tests/qtest/restore-rig.h"

#define NBDKIT "nbdkit -f -r "
/* Nothing fills, so that the guest needs the server for as long as the test wants. */
#define NO_FILL "destination/*/at/fill=hold"

/* A guest in a file, and a server of it. */
typedef struct {
    RestoreScene s;
    Exporter e;
} Scene;

/* FALSE: skipped. After it, in each case, end(). */
static bool begin(Scene *x, const char *program, const char *command)
{
    *x = (Scene){0};
    if (!exporter_possible(program) || !restore_begin_plain(&x->s)) {
        return false;
    }
    x->e = exporter_new();
    g_assert_cmpint(unlink(x->e.file), ==, 0);
    g_assert_cmpint(symlink(x->s.path, x->e.file), ==, 0);
    exporter_start(&x->e, command);
    return true;
}

static void end(Scene *x)
{
    if (x->e.dir) {
        exporter_end(&x->e);
    }
    restore_end(&x->s);
}

/* The same of start_held()'s, after restore_release(). */
static void end_held(Scene *x, Vm *vm)
{
    exporter_end(&x->e);
    restore_end_held(&x->s, vm);
}

static void ask(const Scene *x, Vm *vm)
{
    qmp_ok_or_dies(vm_qmp(vm), "x-farfault-restore", "{'file': '%s'}", x->e.uri);
}

/* One whose memory does not come but for faults, before restore_release(). */
static Vm *start_held(const Scene *x)
{
    Vm *vm = restore_start_again(&x->s, NO_FILL);

    hold_make(vm);
    ask(x, vm);
    qmp_expect_migration(vm_qmp(vm), "postcopy-active");
    hold_wait(vm);
    return vm;
}

static void check(const Scene *x, Vm *vm)
{
    restore_check_info(vm);
    restore_check_restored(&x->s, vm);
}

static void check_and_end(const Scene *x, Vm *vm)
{
    check(x, vm);
    vm_end(vm);
}

/* The command, which is in OPAQUE, serves it. */
static void test_served(gconstpointer opaque)
{
    const char *command = opaque;
    g_autofree char *program = g_strndup(command, strcspn(command, " "));
    Scene x;

    if (begin(&x, program, command)) {
        Vm *vm = restore_start_again(&x.s, NULL);

        ask(&x, vm);
        qmp_expect_migration(vm_qmp(vm), "completed");
        check_and_end(&x, vm);
    }
    end(&x);
}

/* A qcow2 image over one over the file: a chain. */
static void test_chain(void)
{
    Scene x;

    if (begin(&x, "qemu-nbd", "qemu-nbd -r -t -e 8 -f raw FILE")) {
        exporter_kill(&x.e);
        exporter_run(&x.e, "qemu-img create -q -f qcow2 -b FILE -F raw DIR/a");
        exporter_run(&x.e, "qemu-img create -q -f qcow2 -b DIR/a -F qcow2 DIR/b");
        exporter_start(&x.e, "qemu-nbd -r -t -e 8 -f qcow2 DIR/b");
        Vm *vm = restore_start_again(&x.s, NULL);
        ask(&x, vm);
        qmp_expect_migration(vm_qmp(vm), "completed");
        check_and_end(&x, vm);
    }
    end(&x);
}

/* The export is compressed. */
static void test_compressed(void)
{
    g_autofree char *farfault = g_build_filename(g_getenv("FF_BUILD"), "cli/farfault", NULL);
    g_autofree char *convert = g_strconcat(farfault, " convert --compress FILE DIR/packed", NULL);
    Scene x;

    if (begin(&x, "nbdkit", NBDKIT "file FILE")) {
        exporter_kill(&x.e);
        exporter_run(&x.e, convert);
        exporter_start(&x.e, NBDKIT "file DIR/packed");
        Vm *vm = restore_start_again(&x.s, NULL);
        ask(&x, vm);
        qmp_expect_migration(vm_qmp(vm), "completed");
        check_and_end(&x, vm);
        exporter_run(&x.e, "rm DIR/packed");
    }
    end(&x);
}

/* By TLS with a key; without it the server refuses, and so is the restore. */
static void test_tls(void)
{
    Scene x;

    if (begin(&x, "nbdkit", NBDKIT "file FILE")) {
        g_autofree char *keys = g_build_filename(x.e.dir, "keys.psk", NULL);
        g_autofree char *uri =
            g_strdup_printf("nbds+unix://qemu@/?socket=%s&tls-psk-file=%s", x.e.socket, keys);
        exporter_kill(&x.e);
        g_assert_true(
            g_file_set_contents(keys, "qemu:00112233445566778899aabbccddeeff\n", -1, NULL));
        exporter_start(&x.e, NBDKIT "--tls=require --tls-psk=DIR/keys.psk file FILE");
        Vm *vm = restore_start_again(&x.s, NULL);
        qmp_ok_or_dies(vm_qmp(vm), "x-farfault-restore", "{'file': '%s'}", uri);
        qmp_expect_migration(vm_qmp(vm), "completed");
        check_and_end(&x, vm);
        vm = restore_start_again(&x.s, NULL);
        ask(&x, vm);
        g_assert_cmpint(vm_wait_exit(vm), !=, 0);
        vm_end(vm);
        g_assert_cmpint(unlink(keys), ==, 0);
    }
    end(&x);
}

/* The engine dies with its connections: the next one makes its own. */
static void test_engine_killed(gconstpointer command)
{
    Scene x;

    if (!restore_has_faults()) {
        return;
    }
    if (begin(&x, "nbdkit", command)) {
        Vm *vm = restore_start_again(&x.s, "destination/postcopy-active/call/read-file#9=kill");

        ask(&x, vm);
        qmp_expect_migration(vm_qmp(vm), "completed");
        g_assert_true(vm_fault_happened(vm, 0));
        restore_check_restored(&x.s, vm);
        vm_end(vm);
    }
    end(&x);
}

/* The server dies while the guest needs it, and is back in time: nobody is told. */
static void test_server_killed(void)
{
    Scene x;

    if (!restore_has_faults()) {
        return;
    }
    if (begin(&x, "nbdkit", NBDKIT "file FILE")) {
        Vm *vm = start_held(&x);
        exporter_kill(&x.e);
        restore_release(vm); /* it fills, and finds no server */
        exporter_start(&x.e, NULL);
        qmp_expect_migration(vm_qmp(vm), "completed");
        check(&x, vm);
        end_held(&x, vm);
        return;
    }
    end(&x);
}

/* It does not come back in time: the restore is paused, and continues when a client says so. */
static void test_server_gone(void)
{
    Scene x;

    if (!restore_has_faults()) {
        return;
    }
    if (begin(&x, "nbdkit", NBDKIT "--filter=limit file FILE limit=1")) {
        Vm *vm = start_held(&x);
        gint64 began = g_get_monotonic_time();
        exporter_kill(&x.e);
        restore_release(vm);
        qmp_expect_migration(vm_qmp(vm), "postcopy-paused");
        gint64 took = g_get_monotonic_time() - began;
        g_test_message("paused after %.1f s", (double)took / G_USEC_PER_SEC);
        g_assert_cmpint(took, >=, 29 * G_USEC_PER_SEC);
        g_autofree char *why = restore_error_desc(vm);
        g_assert_nonnull(strstr(why, x.e.uri));
        /* Too early. */
        qmp_ok(vm_qmp(vm), "migrate-recover", "{'uri': '%s'}", x.e.uri);
        qmp_expect_migration(vm_qmp(vm), "postcopy-paused");
        exporter_start(&x.e, NULL);
        restore_recovers(&x.s, vm, x.e.uri);
        end_held(&x, vm);
        return;
    }
    end(&x);
}

/* It hangs: the same, and no later. */
static void test_server_hangs(void)
{
    Scene x;

    if (!restore_has_faults()) {
        return;
    }
    if (begin(&x, "nbdkit", NBDKIT "file FILE")) {
        Vm *vm = start_held(&x);

        gint64 began = g_get_monotonic_time();
        g_assert_cmpint(kill(x.e.pid, SIGSTOP), ==, 0);
        restore_release(vm);
        qmp_expect_migration(vm_qmp(vm), "postcopy-paused");
        gint64 took = g_get_monotonic_time() - began;
        g_test_message("paused after %.1f s", (double)took / G_USEC_PER_SEC);
        g_assert_cmpint(took, >=, 29 * G_USEC_PER_SEC);
        g_assert_cmpint(took, <, 45 * G_USEC_PER_SEC);
        g_assert_cmpint(kill(x.e.pid, SIGCONT), ==, 0);
        restore_recovers(&x.s, vm, x.e.uri);
        end_held(&x, vm);
        return;
    }
    end(&x);
}

/* It dies again and again, at random moments, and is there again at once. */
static void test_server_killed_often(void)
{
    Scene x;

    if (begin(&x, "nbdkit", NBDKIT "--filter=delay file FILE rdelay=20ms")) {
        Vm *vm = restore_start_again(&x.s, NULL);

        ask(&x, vm);
        qmp_expect_migration(vm_qmp(vm), "postcopy-active");
        for (unsigned i = 0; i < 12; i++) {
            g_usleep(g_test_rand_int_range(0, 300000));
            exporter_kill(&x.e);
            exporter_start(&x.e, NULL);
        }
        qmp_expect_migration(vm_qmp(vm), "completed");
        check_and_end(&x, vm);
    }
    end(&x);
}

/* Another guest's file at its place: nothing of it is given to this one. */
static void test_changed(void)
{
    Scene x;

    if (!restore_has_faults()) {
        return;
    }
    if (begin(&x, "nbdkit", NBDKIT "file FILE")) {
        Vm *vm = start_held(&x);
        g_autofree char *other = g_build_filename(x.e.dir, "other", NULL), *text = NULL;
        gsize n;

        exporter_kill(&x.e);
        g_assert_true(g_file_get_contents(x.s.path, &text, &n, NULL));
        char *name = memmem(text, n, "globalstate", strlen("globalstate"));
        g_assert_nonnull(name);
        text[name - text + 60] ^= 1;
        g_assert_true(g_file_set_contents(other, text, n, NULL));
        exporter_start(&x.e, NBDKIT "file DIR/other");
        restore_release(vm);
        qmp_expect_migration(vm_qmp(vm), "postcopy-paused");
        g_autofree char *why = restore_error_desc(vm);
        g_assert_nonnull(strstr(why, "another guest's memory"));
        qmp_ok(vm_qmp(vm), "migrate-recover", "{'uri': '%s'}", x.e.uri);
        qmp_expect_migration(vm_qmp(vm), "postcopy-paused");
        exporter_kill(&x.e);
        exporter_start(&x.e, NBDKIT "file FILE");
        restore_recovers(&x.s, vm, x.e.uri);
        end_held(&x, vm);
        return;
    }
    end(&x);
}

/* The server answers that it cannot read: paused, and the page comes when it can. */
static void test_eio(void)
{
    Scene x;

    if (!restore_has_faults()) {
        return;
    }
    if (begin(&x, "nbdkit",
              NBDKIT
              "--filter=error file FILE error-pread-rate=100% error-pread-file=DIR/errors")) {
        g_autofree char *errors = g_build_filename(x.e.dir, "errors", NULL);
        Vm *vm = start_held(&x);
        g_assert_true(g_file_set_contents(errors, "", 0, NULL));
        restore_release(vm);
        qmp_expect_migration(vm_qmp(vm), "postcopy-paused");
        g_assert_cmpint(unlink(errors), ==, 0);
        restore_recovers(&x.s, vm, x.e.uri);
        end_held(&x, vm);
        return;
    }
    end(&x);
}

/* The first place cannot be read any more: a client names another. */
#define LEAVE                                                                                      \
    "destination/postcopy-active/call/read-file#20=EIO;destination/*/step/page-alone=skip;"

typedef struct {
    const char *name;
    bool to_file;       /* from the server; else the other way */
    const char *faults; /* after LEAVE: the engine dies */
    bool asks;          /* the next one has to be given the place once more */
} Moved;

static const Moved moves[] = {
    {"to-server", false, "destination/postcopy-active/call/read-file#30=kill", false},
    {"to-server-unnamed", false, "destination/*/at/place-unnamed=kill", true},
    {"to-server-dropped", false, "destination/*/at/place-held=kill", true},
    {"to-file", true, "destination/postcopy-active/call/read-file#30=kill", false},
    {"to-file-unnamed", true, "destination/*/at/place-unnamed=kill", true},
    {"to-file-held", true, "destination/*/at/place-held=kill", false},
};

/* VM is restored from one place, and then from the other one, as both it and the server have it. */
static Vm *start_moved(Scene *x, const Moved *move, const char *faults)
{
    g_autofree char *all = g_strconcat(LEAVE, faults, NULL);
    Vm *vm = restore_start_again(&x->s, all);

    exporter_run(&x->e, "cp FILE DIR/copy");
    exporter_kill(&x->e);
    exporter_start(&x->e, NBDKIT "file DIR/copy");
    if (strstr(faults, "hold")) {
        hold_make(vm);
    }
    if (move->to_file) {
        ask(x, vm);
    } else {
        restore_ask(&x->s, vm, x->s.path);
    }
    qmp_expect_migration(vm_qmp(vm), "postcopy-paused");
    if (move->to_file) {
        exporter_kill(&x->e);
    } else {
        g_assert_cmpint(truncate(x->s.path, 0), ==, 0);
    }
    g_assert_false(vm_fault_happened(vm, 2));
    qmp_ok(vm_qmp(vm), "migrate-recover", "{'uri': '%s%s'}", move->to_file ? "file:" : "",
           move->to_file ? x->s.path : x->e.uri);
    return vm;
}

static void end_moved(Scene *x)
{
    exporter_run(&x->e, "rm DIR/copy");
    end(x);
}

/* The engine dies after that, or in the middle of it. */
static void test_moved(gconstpointer opaque)
{
    const Moved *move = opaque;
    Scene x;

    if (!restore_has_faults()) {
        return;
    }
    if (begin(&x, "nbdkit", NBDKIT "file FILE")) {
        Vm *vm = start_moved(&x, move, move->faults);

        if (move->asks) {
            qmp_expect_migration(vm_qmp(vm), "postcopy-paused");
            restore_recovers(&x.s, vm, move->to_file ? x.s.path : x.e.uri);
        } else {
            qmp_expect_migration(vm_qmp(vm), "completed");
            restore_check_restored(&x.s, vm);
        }
        g_assert_true(vm_fault_happened(vm, 2));
        vm_end(vm);
        end_moved(&x);
        return;
    }
    end(&x);
}

/* A page of the file is changed while the engine is dead: the export had no time, the file has. */
static void test_moved_changed(void)
{
    static const Moved move = {.to_file = true};
    const struct timespec now = {.tv_nsec = UTIME_OMIT};
    struct stat st;
    Scene x;
    char byte;

    if (!restore_has_faults()) {
        return;
    }
    if (begin(&x, "nbdkit", NBDKIT "file FILE")) {
        Vm *vm = start_moved(&x, &move, "destination/postcopy-active/call/read-file#30=hold");
        int fd = open(x.s.path, O_RDWR | O_CLOEXEC);

        hold_wait(vm);
        g_assert_cmpint(fstat(fd, &st), ==, 0);
        g_assert_cmpint(pread(fd, &byte, 1, (4 << 20) + 100), ==, 1);
        byte ^= 1;
        g_assert_cmpint(pwrite(fd, &byte, 1, (4 << 20) + 100), ==, 1);
        kill(vm_engine(vm), SIGKILL);
        restore_release(vm);
        qmp_expect_migration(vm_qmp(vm), "postcopy-paused");
        g_autofree char *why = restore_error_desc(vm);
        g_assert_nonnull(strstr(why, "touch -d"));
        byte ^= 1;
        g_assert_cmpint(pwrite(fd, &byte, 1, (4 << 20) + 100), ==, 1);
        g_assert_cmpint(futimens(fd, (struct timespec[]){now, st.st_mtim}), ==, 0);
        close(fd);
        restore_recovers(&x.s, vm, x.s.path);
        exporter_run(&x.e, "rm DIR/copy");
        end_held(&x, vm);
        return;
    }
    end(&x);
}

/* A client's pause while the server is gone is one, and ends only by migrate-recover. */
static void test_paused(void)
{
    Scene x;

    if (!restore_has_faults()) {
        return;
    }
    if (begin(&x, "nbdkit", NBDKIT "file FILE")) {
        Vm *vm = start_held(&x);
        gint64 began = g_get_monotonic_time();
        exporter_kill(&x.e);
        restore_release(vm);
        qmp_ok(vm_qmp(vm), "migrate-pause", NULL);
        qmp_expect_migration(vm_qmp(vm), "postcopy-paused");
        g_assert_cmpint(g_get_monotonic_time() - began, <, 25 * G_USEC_PER_SEC);
        exporter_start(&x.e, NULL);
        restore_recovers(&x.s, vm, x.e.uri);
        end_held(&x, vm);
        return;
    }
    end(&x);
}

/* What is refused before anything begins. */
static void test_refused(void)
{
    g_autofree char *junk = g_strnfill(300, 'x');
    g_autofree char *longer = g_strconcat("nbd://localhost/", junk, NULL);
    Scene x;

    if (begin(&x, "nbdkit", NBDKIT "memory 8M")) {
        Vm *vm = restore_start_again(&x.s, NULL);
        g_autofree char *learn = qmp_error(vm_qmp(vm), "x-farfault-restore",
                                           "{'file': '%s', 'working-set': 'learn'}", x.e.uri);
        g_assert_nonnull(strstr(learn, "working set"));
        g_autofree char *most =
            qmp_error(vm_qmp(vm), "x-farfault-restore", "{'file': '%s'}", longer);
        g_assert_nonnull(strstr(most, "shorter than 256 bytes"));
        qmp_ok_or_dies(vm_qmp(vm), "x-farfault-restore", "{'file': '%s'}", x.e.uri);
        g_assert_cmpint(vm_wait_exit(vm), !=, 0); /* zeros are no guest */
        vm_end(vm);
    }
    end(&x);
}

/* farfault restore with WORD: status 1 or 2, and a line on standard error that has all of EXPECTED.
 */
static void check_line(const char *word, int status, const char *expected)
{
    g_autofree char *program = g_build_filename(g_getenv("FF_BUILD"), "cli/farfault", NULL);
    char *argv[] = {program, "restore", (char *)word, "--", "qemu-system-x86_64", NULL};
    g_autofree char *said = NULL;
    int rc;

    g_assert_true(g_spawn_sync(NULL, argv, NULL, G_SPAWN_STDOUT_TO_DEV_NULL, NULL, NULL, NULL,
                               &said, &rc, NULL));
    g_test_message("%s", said);
    g_assert_cmpint(WEXITSTATUS(rc), ==, status);
    g_assert_nonnull(strstr(said, expected));
}

/* The command, before it starts anything. */
static void test_command(void)
{
    Scene x;

    if (begin(&x, "nbdkit", NBDKIT "memory 8M")) {
        check_line("ndb://localhost/", 2, "did you mean nbd://localhost/?");
        check_line("nbd:localhost", 2, "write nbd://HOST/EXPORT");
        check_line(x.e.uri, 1, x.e.uri); /* zeros are no guest */
        exporter_kill(&x.e);
        check_line(x.e.uri, 1, x.e.uri);
    }
    end(&x);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_data_func("/restore/nbd/nbdkit", NBDKIT "file FILE", test_served);
    g_test_add_data_func("/restore/nbd/one", NBDKIT "--filter=limit file FILE limit=1",
                         test_served);
    g_test_add_data_func("/restore/nbd/delay", NBDKIT "--filter=delay file FILE rdelay=5ms",
                         test_served);
    g_test_add_data_func("/restore/nbd/qemu-nbd", "qemu-nbd -r -t -e 8 -f raw FILE", test_served);
    g_test_add_func("/restore/nbd/chain", test_chain);
    g_test_add_func("/restore/nbd/compressed", test_compressed);
    g_test_add_func("/restore/nbd/tls", test_tls);
    g_test_add_data_func("/restore/nbd/engine-killed", NBDKIT "file FILE", test_engine_killed);
    g_test_add_data_func("/restore/nbd/engine-killed-one",
                         NBDKIT "--filter=limit file FILE limit=1", test_engine_killed);
    g_test_add_func("/restore/nbd/server-killed", test_server_killed);
    g_test_add_func("/restore/nbd/server-gone", test_server_gone);
    g_test_add_func("/restore/nbd/server-hangs", test_server_hangs);
    g_test_add_func("/restore/nbd/server-killed-often", test_server_killed_often);
    g_test_add_func("/restore/nbd/changed", test_changed);
    g_test_add_func("/restore/nbd/eio", test_eio);
    for (unsigned i = 0; i < G_N_ELEMENTS(moves); i++) {
        g_autofree char *path = g_strconcat("/restore/nbd/moved/", moves[i].name, NULL);
        g_test_add_data_func(path, &moves[i], test_moved);
    }
    g_test_add_func("/restore/nbd/moved/changed", test_moved_changed);
    g_test_add_func("/restore/nbd/paused", test_paused);
    g_test_add_func("/restore/nbd/refused", test_refused);
    g_test_add_func("/restore/nbd/command", test_command);
    int rc = g_test_run();
    restore_rig_end();
    return rc;
}
