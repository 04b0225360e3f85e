/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Migrations of guests that farfault started and QEMU carries, and which of the two carries one.
 * QEMU must work as if farfault were not there, however the destination was told to listen.
 */
#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

#include "tests/lib/move.h"
#include "tests/lib/vm.h"

typedef struct {
    const char *name;
    const char *capability; /* set on both sides; NULL: none */
    const char *policy;     /* x-farfault-policy; NULL: as it is */
    bool incoming_argument; /* -incoming URI, not migrate-incoming */
    bool unix_socket;       /* else TCP */
    bool engine;            /* farfault is to carry it */
} Row;

static const Row rows[] = {
    {"command", NULL, NULL},
    {"argument", NULL, NULL, .incoming_argument = true},
    {"argument/unix", NULL, NULL, .incoming_argument = true, .unix_socket = true},
    {"command/multifd", "multifd", NULL},
    {"argument/multifd", "multifd", NULL, .incoming_argument = true},
    {"argument/xbzrle", "xbzrle", NULL, .incoming_argument = true},
    {"never/command", NULL, "never"},
    {"never/argument", NULL, "never", .incoming_argument = true},
    {"never/postcopy", "postcopy-ram", "never"},
    {"never/argument/postcopy", "postcopy-ram", "never", .incoming_argument = true},
    {"always/command", NULL, "always", .engine = true},
    {"always/argument", NULL, "always", .incoming_argument = true, .engine = true},
};

static Vm *start_vm(const Row *row, const char *name, const char *incoming)
{
    return vm_start(
        &(VmConfig){.name = name, .launcher = VM_RUN, .memory = "64M", .incoming = incoming});
}

/* QEMU 9.1 and newer take that only before the destination listens. */
static bool is_too_late(const Row *row, Qmp *q)
{
    if (!row->incoming_argument || g_strcmp0(row->capability, "multifd") != 0) {
        return false;
    }
    g_autoptr(JsonObject) reply =
        qmp_call(q, "migrate-set-capabilities",
                 "{'capabilities': [{'capability': 'multifd', 'state': true}]}");
    return json_object_has_member(reply, "error");
}

static void set_up(const Row *row, Qmp *q)
{
    qmp_set_capability(q, "events", true);
    if (row->capability) {
        qmp_set_capability(q, row->capability, true);
    }
    if (row->policy) {
        qmp_ok(q, "migrate-set-parameters", "{'x-farfault-policy': '%s'}", row->policy);
    }
}

static void check_carrier(const Row *row, Vm *vm)
{
    g_autoptr(JsonObject) info = qmp_return(vm_qmp(vm), "query-migrate", NULL);

    g_assert_cmpint(json_object_has_member(info, "x-farfault"), ==, row->engine);
}

/* The client's settings are what they were, and nothing of the engine's is left. */
static void check_settings(const Row *row, Vm *vm)
{
    g_autofree char *text = qmp_hmp(vm_qmp(vm), "info migrate_capabilities");

    g_assert_nonnull(strstr(text, "x-ignore-shared: off"));
    g_assert_nonnull(strstr(text, "events: on"));
    g_assert_nonnull(strstr(text, "return-path: off"));
}

static void move(const void *opaque)
{
    const Row *row = opaque;
    const char *why;

    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    g_autoptr(Vm) source = start_vm(row, "source", NULL);
    g_autofree char *path = vm_path(source, "migration");
    g_autofree char *listen =
        row->unix_socket ? g_strdup_printf("unix:%s", path) : g_strdup("tcp:127.0.0.1:0");
    g_autoptr(Vm) destination =
        start_vm(row, "destination", row->incoming_argument ? listen : "defer");

    if (is_too_late(row, vm_qmp(destination))) {
        g_test_skip("this QEMU takes multifd only before it listens");
        return;
    }
    set_up(row, vm_qmp(source));
    set_up(row, vm_qmp(destination));
    if (!row->incoming_argument) {
        qmp_ok(vm_qmp(destination), "migrate-incoming", "{'uri': '%s'}", listen);
    }
    g_autofree char *uri = row->unix_socket ? g_strdup(listen) : move_listen_uri(destination);

    qmp_ok(vm_qmp(source), "migrate", "{'uri': '%s'}", uri);
    if (!g_strcmp0(row->capability, "postcopy-ram")) {
        qmp_ok(vm_qmp(source), "migrate-start-postcopy", NULL);
    }
    qmp_expect_migration(vm_qmp(source), "completed");
    qmp_expect_migration(vm_qmp(destination), "completed");
    g_autofree char *here = qmp_run_state(vm_qmp(source));
    g_autofree char *there = qmp_run_state(vm_qmp(destination));

    /* QEMU says "completed" a moment before it is. */
    g_assert_true(g_str_equal(here, "postmigrate") || g_str_equal(here, "finish-migrate"));
    g_assert_cmpstr(there, ==, "running");
    check_carrier(row, source);
    check_carrier(row, destination);
    check_settings(row, source);
    check_settings(row, destination);
    g_assert_false(g_file_test(path, G_FILE_TEST_EXISTS));
}

/* RAM in a file of a disk that two QEMUs share: with x-ignore-shared QEMU moves such a guest by its
 * device state alone. */
static Vm *start_shared(VmLauncher launcher, const char *name, const char *file,
                        const char *incoming)
{
    g_autofree char *object =
        g_strdup_printf("memory-backend-file,id=m0,size=64M,share=on,mem-path=%s", file);
    const char *const args[] = {"-machine", "pc,memory-backend=m0", "-object", object, NULL};

    return vm_start(&(VmConfig){
        .name = name, .launcher = launcher, .memory = "64M", .args = args, .incoming = incoming});
}

/* postcopy-ram beside x-ignore-shared: what QEMU says of it at a destination (g_free). */
static char *refused_beside(Vm *vm)
{
    qmp_set_capability(vm_qmp(vm), "x-ignore-shared", true);
    return qmp_error(vm_qmp(vm), "migrate-set-capabilities",
                     "{'capabilities': [{'capability': 'postcopy-ram', 'state': true}]}");
}

/* No guest that plain QEMU moves is refused: postcopy-ram at such a destination is, by plain QEMU
 * as well and in its words; without it QEMU carries the migration. */
static void test_ignore_shared(void)
{
    const char *why;

    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    g_autofree char *file = g_strdup_printf("%s/shared-%d.ram", g_getenv("FF_BUILD"), getpid());
    Vm *plain = start_shared(VM_PLAIN, "plain", file, "defer");
    g_autofree char *words = refused_beside(plain);

    vm_end(plain);
    Vm *source = start_shared(VM_RUN, "source", file, NULL);
    Vm *destination = start_shared(VM_RUN, "destination", file, "defer");
    g_autofree char *same = refused_beside(destination);
    g_assert_nonnull(strstr(same, "not compatible with ignore-shared"));
    /* QEMU 9 and newer look first whether the file is of a tmpfs. */
    g_assert_true(!strcmp(same, words) || strstr(words, "Host backend files need to be TMPFS"));

    qtest_writeq(vm_qtest(source), 1 << 20, 0x1122334455667788);
    qmp_set_capability(vm_qmp(source), "events", true);
    qmp_set_capability(vm_qmp(destination), "events", true);
    qmp_set_capability(vm_qmp(source), "x-ignore-shared", true);
    qmp_ok(vm_qmp(destination), "migrate-incoming", "{'uri': 'tcp:127.0.0.1:0'}");
    g_autofree char *uri = move_listen_uri(destination);
    qmp_ok(vm_qmp(source), "migrate", "{'uri': '%s'}", uri);
    move_wait_completed(source, destination);
    g_assert_cmphex(qtest_readq(vm_qtest(destination), 1 << 20), ==, 0x1122334455667788);
    g_autoptr(JsonObject) info = qmp_return(vm_qmp(source), "query-migrate", NULL);
    JsonObject *ram = json_object_get_object_member(info, "ram");
    g_assert_cmpint(json_object_get_int_member(ram, "transferred"), <, 8 << 20);
    vm_end(destination);
    vm_end(source);
    g_assert_cmpint(g_unlink(file), ==, 0);
}

/* ---- x-ignore-shared, where the memory is shared by farfault's doing ------------------------- */

#define AT (1 << 20)
#define WORD 0x1122334455667788

static Vm *start_made(const char *name, const char *incoming)
{
    static const char *const args[] = {"-machine", "pc", NULL};

    return vm_start(&(VmConfig){.name = name,
                                .launcher = VM_RUN,
                                .memory = "64M",
                                .args = args,
                                .incoming = incoming,
                                .listens = true});
}

/* As the client has set it; and QEMU, which farfault has told nothing, says that it is off. */
static void check_kept(Vm *vm, bool on)
{
    g_autofree char *text = qmp_hmp(vm_qmp(vm), "info migrate_capabilities");
    g_autofree char *qemu = vm_human_line(vm, "info migrate_capabilities", "x-ignore-shared: ");

    g_assert_nonnull(strstr(text, on ? "x-ignore-shared: on" : "x-ignore-shared: off"));
    g_assert_cmpstr(qemu, ==, "off");
}

static void set_kept(Vm *vm, bool human)
{
    if (human) {
        g_autofree char *said = qmp_hmp(vm_qmp(vm), "migrate_set_capability x-ignore-shared on");
        g_assert_cmpstr(said, ==, "");
    } else {
        qmp_set_capability(vm_qmp(vm), "x-ignore-shared", true);
    }
    check_kept(vm, true);
    vm_wait_stderr(vm, "x-ignore-shared is noted, and QEMU is not told");
}

/* Stock QEMU's private memory is moved with it on; and so is this. */
static void test_kept(gconstpointer file)
{
    const char *why;

    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    g_autoptr(Vm) s = start_made("source", NULL);
    g_autoptr(Vm) d = start_made("destination", "defer");
    g_autofree char *path = vm_path(s, "saved");
    g_autofree char *to = g_strdup_printf("exec:cat >%s", path);
    g_autofree char *from = g_strdup_printf("exec:cat %s", path);

    qtest_writeq(vm_qtest(s), AT, WORD);
    set_kept(s, false);
    set_kept(d, true);
    g_autofree char *words = refused_beside(d);
    g_assert_nonnull(strstr(words, "not compatible with ignore-shared"));
    qmp_set_capability(vm_qmp(s), "events", true);
    qmp_set_capability(vm_qmp(d), "events", true);
    if (!file) {
        g_autofree char *uri = move_listen(d);

        qmp_ok(vm_qmp(s), "migrate", "{'uri': '%s'}", uri);
    } else {
        qmp_ok(vm_qmp(s), "migrate", "{'uri': '%s'}", to);
        qmp_expect_migration(vm_qmp(s), "completed");
        qmp_ok(vm_qmp(d), "migrate-incoming", "{'uri': '%s'}", from);
    }
    qmp_expect_migration(vm_qmp(d), "completed");
    g_assert_cmphex(qtest_readq(vm_qtest(d), AT), ==, WORD);
    check_kept(s, true);
    check_kept(d, true);
    qmp_set_capability(vm_qmp(d), "x-ignore-shared", false);
    check_kept(d, false);
}

/* What is switched on at a monitor that farfault does not see holds until a migration. */
static void test_unseen(gconstpointer postcopy)
{
    const char *why;

    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    g_autoptr(Vm) s = start_made("source", NULL);
    g_autoptr(Vm) d = start_made("destination", "defer");

    qtest_writeq(vm_qtest(s), AT, WORD);
    g_free(vm_human(s, "migrate_set_capability x-ignore-shared on"));
    qmp_set_capability(vm_qmp(s), "events", true);
    qmp_set_capability(vm_qmp(d), "events", true);
    if (postcopy) {
        move_prepare(s, d);
    }
    g_autofree char *uri = move_listen(d);
    qmp_ok(vm_qmp(s), "migrate", "{'uri': '%s'}", uri);
    if (postcopy) {
        qmp_ok(vm_qmp(s), "migrate-start-postcopy", NULL);
    }
    move_wait_completed(s, d);
    g_assert_cmphex(qtest_readq(vm_qtest(d), AT), ==, WORD);
    check_kept(s, false);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *path = g_strdup_printf("/native/%s", rows[i].name);

        g_test_add_data_func(path, &rows[i], move);
    }
    g_test_add_func("/native/ignore-shared", test_ignore_shared);
    g_test_add_data_func("/native/ignore-shared/kept/precopy", NULL, test_kept);
    g_test_add_data_func("/native/ignore-shared/kept/file", "", test_kept);
    g_test_add_data_func("/native/ignore-shared/unseen/precopy", NULL, test_unseen);
    g_test_add_data_func("/native/ignore-shared/unseen/postcopy", "", test_unseen);
    return g_test_run();
}
