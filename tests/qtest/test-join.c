/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A migration of real guests whose connection is lost as the guest is granted: it is given away at
 * the source, waits at the destination, and has never run there. Both halves are dumped and both
 * QEMUs killed; farfault join makes a snapshot, whose guest is that of the switch, byte for byte,
 * and runs on with every counter right. While one of the two lives nothing is made.
 */
#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/lib/check.h"
#include "tests/lib/dumps.h"
#include "tests/lib/move.h"
#include "tests/lib/vm.h"

#define RAM "64M"
#define RAM_BYTES (64ull << 20)
#define BUSY (24u << 20)
#define MACHINE "pc-i440fx-7.2"

typedef struct {
    const char *name;
    bool stands;   /* the guest was stopped before */
    bool released; /* the source has given up what the destination has, as with release-ram */
    bool filled;   /* and what it gave up is zeros, which the kernel has made there since */
    bool stock;    /* restored by stock QEMU 10 */
} Row;

static const Row rows[] = {
    {"runs"},
    {"stands", .stands = true},
    {"released", .released = true},
    {"filled", .released = true, .filled = true},
    {"stock", .stock = true},
};

typedef struct {
    const Row *row;
    BootsectConfig boot;
    Vm *s, *d;
    char *dir, *half[2], *joined;
    char *whole; /* memory at the source, before it gave up any */
    char *newer; /* QEMU 10 */
} Test;

static Vm *start(const Test *t, const char *name, const VmConfig *more)
{
    static const char *const args[] = {"-machine", MACHINE, NULL};
    VmConfig config = *more;

    config.name = name;
    config.memory = RAM;
    config.args = args;
    config.boot = &t->boot;
    return vm_start(&config);
}

/* ---- two halves ------------------------------------------------------------------------------ */

static bool is_second(JsonObject *data, const void *opaque)
{
    return json_object_get_int_member(data, "pass") >= 2;
}

static void lose_grant(Test *t)
{
    Qmp *sq = vm_qmp(t->s), *dq = vm_qmp(t->d);

    move_prepare(t->s, t->d);
    g_autofree char *uri = move_listen(t->d);

    if (!t->row->stands) {
        /* A round or two, so that the destination has pages, and among them some that are old. */
        qmp_ok(sq, "migrate-set-parameters", "{'max-bandwidth': 67108864, 'downtime-limit': 1}");
    }
    qmp_ok(sq, "migrate", "{'uri': '%s'}", uri);
    qmp_expect_migration(sq, "active");
    if (!t->row->stands) {
        json_object_unref(qmp_wait_event(sq, "MIGRATION_PASS", is_second, NULL, 60));
    }
    qmp_ok(sq, "migrate-start-postcopy", NULL);
    qmp_expect_migration(sq, "postcopy-paused");
    qmp_expect_migration(dq, "postcopy-paused");
    g_assert_true(vm_fault_happened(t->s, 0));
    qmp_ok(sq, "x-farfault-dump", "{'directory': '%s'}", t->half[0]);
    qmp_ok(dq, "x-farfault-dump", "{'directory': '%s'}", t->half[1]);
}

static bool begin(Test *t, const Row *row)
{
    const char *why;

    *t = (Test){.row = row, .boot = bootsect_config(RAM_BYTES, BUSY, 1)};
    if (!vm_faults_available(&why)) {
        g_test_skip(why);
        return false;
    }
    if (row->stock && !(t->newer = vm_newer_qemu())) {
        return false;
    }
    t->dir = g_dir_make_tmp("join-XXXXXX", NULL);
    t->half[0] = g_build_filename(t->dir, "source", NULL);
    t->half[1] = g_build_filename(t->dir, "destination", NULL);
    t->joined = g_build_filename(t->dir, "joined", NULL);
    t->s = start(t, "source",
                 &(VmConfig){.launcher = VM_RUN, .faults = "source/device/main/grant=cut:0"});
    t->d = start(t, "destination", &(VmConfig){.launcher = VM_RUN, .incoming = "defer"});
    vm_wait_serial(t->s, "B");
    if (row->stands) {
        qmp_ok(vm_qmp(t->s), "stop", NULL);
    }
    lose_grant(t);
    return true;
}

static void end(Test *t)
{
    dump_remove(t->half[0]);
    dump_remove(t->half[1]);
    g_unlink(t->joined);
    g_unlink(t->whole);
    g_assert_cmpint(g_rmdir(t->dir), ==, 0);
    g_free(t->half[0]);
    g_free(t->half[1]);
    g_free(t->joined);
    g_free(t->whole);
    g_free(t->dir);
    g_free(t->newer);
}

static void lose(Vm **vm)
{
    vm_kill(*vm);
    vm_end(g_steal_pointer(vm));
}

static char *list_of(const char *half, gsize *n)
{
    g_autofree char *path = g_build_filename(half, "0.pages", NULL);
    char *data;

    g_assert_true(g_file_get_contents(path, &data, n, NULL));
    return data;
}

static void keep_whole(Test *t)
{
    g_autofree char *path = g_build_filename(t->half[0], "0.memory", NULL);

    t->whole = g_build_filename(t->dir, "whole", NULL);
    dump_copy(path, t->whole);
}

/* Pages of [LIST, N) become zeros in the source's half. */
static void fill(const Test *t, const char *list, gsize n)
{
    static const char zeros[4096];
    g_autofree char *path = g_build_filename(t->half[0], "0.memory", NULL);
    int fd = open(path, O_WRONLY | O_CLOEXEC);

    g_assert_cmpint(fd, >=, 0);
    for (gsize i = 0; i < n * 8; i++) {
        if (list[i / 8] >> i % 8 & 1) {
            g_assert_cmpint(pwrite(fd, zeros, sizeof(zeros), (off_t)(i * sizeof(zeros))), ==,
                            sizeof(zeros));
        }
    }
    close(fd);
    dump_sum_memory(t->half[0], 0);
}

/* The source's half says that it has nothing of what the destination has; or has zeros there. */
static void release(Test *t)
{
    g_autofree char *path = g_build_filename(t->half[0], "0.pages", NULL);
    gsize n;
    g_autofree char *source = list_of(t->half[0], &n), *destination = list_of(t->half[1], &n);
    unsigned given_up = 0;

    for (gsize i = 0; i < n; i++) {
        given_up += !!(source[i] & destination[i]);
        source[i] &= ~destination[i];
    }
    g_assert_cmpuint(given_up, >, 0);
    dump_say(t->half[0], "dump", "released", "true");
    if (t->row->filled) {
        fill(t, destination, n);
        return;
    }
    g_assert_true(g_file_set_contents(path, source, (gssize)n, NULL));
    dump_seal(t->half[0]);
}

/* ---- joining --------------------------------------------------------------------------------- */

/* farfault join WORD... SOURCE DESTINATION JOINED: its exit status. */
static int join(const Test *t, const char *const *word, char **out, char **err)
{
    g_autofree char *farfault = vm_build_path("cli/farfault");
    g_autoptr(GPtrArray) argv = g_ptr_array_new();
    int status;

    g_ptr_array_add(argv, farfault);
    g_ptr_array_add(argv, (char *)"join");
    for (; word && *word; word++) {
        g_ptr_array_add(argv, (char *)*word);
    }
    g_ptr_array_add(argv, t->half[0]);
    g_ptr_array_add(argv, t->half[1]);
    g_ptr_array_add(argv, t->joined);
    g_ptr_array_add(argv, NULL);
    g_assert_true(
        g_spawn_sync(NULL, (char **)argv->pdata, NULL, 0, NULL, NULL, out, err, &status, NULL));
    g_assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static const char *const force[] = {"--force", NULL};

static void expect_text(const char *text, const char *part)
{
    if (!strstr(text, part)) {
        test_fail("not in what it says: %s\n%s", part, text);
    }
}

/* One line that has PART; nothing is written. */
static void refused(const Test *t, const char *const *word, const char *part)
{
    bool was = g_file_test(t->joined, G_FILE_TEST_EXISTS);
    g_autofree char *out = NULL, *err = NULL;

    g_assert_cmpint(join(t, word, &out, &err), ==, 1);
    g_assert_true(g_str_has_prefix(err, "farfault: "));
    g_assert_cmpint(strcspn(err, "\n"), ==, strlen(err) - 1);
    expect_text(err, part);
    g_assert_cmpstr(out, ==, "");
    g_assert_cmpint(g_file_test(t->joined, G_FILE_TEST_EXISTS), ==, was);
}

/* A socket that is there, and has no listener: what a QEMU leaves behind that was killed, and one
 * that lives, if somebody else made a socket at its path. */
static void refuses(const Test *t)
{
    g_autofree char *path = g_build_filename(t->dir, "monitor", NULL);
    g_autofree char *monitor = g_strconcat("unix:", path, NULL);
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpuint(g_strlcpy(name.sun_path, path, sizeof(name.sun_path)), <,
                     sizeof(name.sun_path));
    g_assert_cmpint(bind(fd, (struct sockaddr *)&name, sizeof(name)), ==, 0);
    refused(t, (const char *const[]){"--force", "--monitor", monitor, NULL}, "say so (--force)");
    close(fd);
    refused(t, (const char *const[]){"--force", "--monitor", monitor, NULL},
            "does not say that its QEMU has ended");
    g_assert_cmpint(g_unlink(path), ==, 0);
}

static void join_well(const Test *t)
{
    g_autofree char *path = g_build_filename(t->dir, "ended", NULL);
    const char *const gone[] = {"--force", "--monitor", path, NULL};
    g_autofree char *out = NULL, *err = NULL;

    if (join(t, gone, &out, &err) != 0) {
        test_fail("farfault join: %s", err);
    }
    g_test_message("%s", out);
    expect_text(err, "/ended is not there: taken for the monitor of a QEMU that has ended");
    expect_text(out, t->row->stands ? "it stands until cont" : "it runs");
    g_assert_cmpint(!strstr(out, " 0 B of the destination's"), ==, t->row->released);
}

/* ---- what it made ---------------------------------------------------------------------------- */

/* What is below 1 MiB the firmware changes as soon as devices are there. */
static void check_same(const Test *t, Vm *vm)
{
    g_autofree char *saved = vm_path(vm, "memory");
    g_autofree char *a = NULL, *b = NULL;
    gsize n, m;

    qmp_ok(vm_qmp(vm), "pmemsave", "{'val': 0, 'size': %llu, 'filename': '%s'}", RAM_BYTES, saved);
    g_assert_true(g_file_get_contents(saved, &a, &n, NULL));
    g_assert_true(g_file_get_contents(t->whole, &b, &m, NULL));
    g_assert_cmpuint(n, ==, RAM_BYTES);
    g_assert_cmpuint(m, ==, RAM_BYTES);
    g_assert_cmpint(memcmp(a + (1 << 20), b + (1 << 20), n - (1 << 20)), ==, 0);
    g_assert_cmpint(g_unlink(saved), ==, 0);
}

static void ask(const Test *t, Qmp *q)
{
    qmp_set_capability(q, "events", true);
    if (t->row->stock) {
        qmp_set_capability(q, "mapped-ram", true);
        qmp_ok(q, "migrate-incoming", "{'uri': 'file:%s'}", t->joined);
    } else {
        qmp_ok(q, "x-farfault-restore", "{'file': '%s'}", t->joined);
    }
    qmp_expect_migration(q, "completed");
}

static void restore(const Test *t)
{
    Vm *vm = start(t, "restored",
                   &(VmConfig){.launcher = t->row->stock ? VM_PLAIN : VM_RUN,
                               .qemu = t->newer,
                               .incoming = "defer",
                               .paused = !t->row->stands, /* else it stands by itself */
                               .listens = !t->row->stock});
    g_autofree char *state = NULL;

    ask(t, vm_qmp(vm));
    state = qmp_run_state(vm_qmp(vm));
    g_assert_cmpstr(state, ==, "paused");
    check_same(t, vm);
    qmp_ok(vm_qmp(vm), "cont", NULL);
    vm_wait_new_serial(vm, "B");
    if (!t->row->stock) {
        g_autofree char *monitor = vm_path(vm, "server");

        refused(t, (const char *const[]){"--force", "--monitor", monitor, NULL}, "answers");
    }
    qmp_ok(vm_qmp(vm), "stop", NULL);
    check_right(check_counters(vm, &t->boot));
    vm_end(vm);
}

static void test_row(gconstpointer row)
{
    Test t;

    if (!begin(&t, row)) {
        return;
    }
    refused(&t, NULL, "is process");
    lose(&t.s);
    refused(&t, force, "is process");
    lose(&t.d);
    refused(&t, NULL, "would be a clone");
    keep_whole(&t);
    if (t.row->released) {
        release(&t);
    }
    /* Where nothing can be connected to, without a packet. */
    refused(&t, (const char *const[]){"--force", "--monitor", "tcp:255.255.255.255:1", NULL},
            "does not say that its QEMU has ended");
    refuses(&t);
    join_well(&t);
    refused(&t, (const char *const[]){"--force", "--monitor", "unix:/nowhere/at-all", NULL},
            "there is no directory /nowhere");
    refused(&t, force, "is there already");
    restore(&t);
    end(&t);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *path = g_strconcat("/join/", rows[i].name, NULL);

        g_test_add_data_func(path, &rows[i], test_row);
    }
    return g_test_run();
}
