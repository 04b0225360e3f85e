/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * QEMU 11.1 under farfault, where monitors are objects: they move, and the relay stands before
 * monitors that are given as objects. That QEMU is the one of vm_qemu(); restores and upgrades are
 * in test-restore.c and test-upgrade.c. One thread.
 */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/lib/check.h"
#include "tests/lib/move.h"

static void test_move(gconstpointer postcopy)
{
    /* Beside -mon it has its name from QEMU. Nobody is there. */
    static const char *const inline_monitor[] = {"-qmp", "unix:/nonexistent/monitor,reconnect=60",
                                                 NULL};
    g_autofree char *qemu = vm_qemu(11);
    MoveConfig config = {.qemu = qemu, .mib = postcopy ? 64 : 32, .devices = inline_monitor};

    if (!postcopy) {
        config.bandwidth = 1 << 30;
    }
    Move *m = qemu ? move_new(&config) : NULL;
    if (m) {
        move_start(m);
        if (postcopy) {
            move_switch(m);
        }
        move_finish(m);
    }
}

/* As KubeVirt has its launcher migrate: both capabilities at once (QEMU 10.1 and newer), and what
 * it reads meanwhile. */
static void test_kubevirt(void)
{
    g_autofree char *qemu = vm_qemu(11);
    MoveConfig config = {.qemu = qemu, .mib = 64};
    Move *m = qemu ? move_new(&config) : NULL;

    if (!m) {
        return;
    }
    qmp_set_capability(vm_qmp(m->source), "multifd", true);
    qmp_set_capability(vm_qmp(m->destination), "multifd", true);
    move_start(m);
    g_assert_true(move_await_count(m->source, "dirty-sync-count", 1));
    g_autoptr(JsonObject) info = qmp_return(vm_qmp(m->source), "query-migrate", NULL);
    JsonObject *ram = json_object_get_object_member(info, "ram");

    g_assert_cmpint(json_object_get_int_member(info, "remaining"), >, 0);
    g_assert_cmpint(json_object_get_int_member(info, "remaining"), ==,
                    json_object_get_int_member(ram, "remaining"));
    g_assert_true(json_object_has_member(ram, "mbps"));
    g_assert_true(json_object_has_member(info, "total-time"));
    move_switch(m);
    move_finish(m);
}

/* ---- monitors -------------------------------------------------------------------------------- */

/* A folder with a socket at which a monitor listens. */
typedef struct {
    char *dir, *path, *chardev;
} Place;

static void place_init(Place *p)
{
    p->dir = g_dir_make_tmp("ff-qemu11-XXXXXX", NULL);
    p->path = g_build_filename(p->dir, "monitor", NULL);
    p->chardev = g_strdup_printf("socket,id=c,path=%s,server=on,wait=off", p->path);
}

static void place_clear(Place *p)
{
    g_assert_true(unlink(p->path) == 0 || errno == ENOENT);
    g_assert_cmpint(rmdir(p->dir), ==, 0);
    g_free(p->dir);
    g_free(p->path);
    g_free(p->chardev);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Place, place_clear)

static Qmp *connect_to(const char *path)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    g_strlcpy(addr.sun_path, path, sizeof(addr.sun_path));
    g_assert_no_errno(connect(fd, (struct sockaddr *)&addr, sizeof(addr)));
    return qmp_new(fd, "object", false);
}

static Vm *start_with(const char *qemu, const char *const *args)
{
    return vm_start(&(VmConfig){.name = "objects",
                                .launcher = VM_RUN,
                                .qemu = qemu,
                                .memory = "32M",
                                .args = args,
                                .paused = true});
}

/* -object as people and libvirt write it. */
static void test_object(gconstpointer object)
{
    g_autofree char *qemu = vm_qemu(11);
    const char *why;

    if (!qemu) {
        return;
    }
    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    g_auto(Place) place = {0};
    place_init(&place);
    const char *const args[] = {"-chardev", place.chardev, "-object", object, NULL};
    Vm *vm = start_with(qemu, args);
    g_autoptr(Qmp) q = connect_to(place.path);

    g_assert_true(qmp_has_relay(q));
    g_assert_true(qmp_has_relay(vm_qmp(vm)));
    vm_end(vm);
}

/* Whatever else makes monitors has the name that QEMU gives it, and none has it twice. */
static void test_names(void)
{
    static const char *const args[] = {
        "-chardev", "null,id=a", "-mon",     "chardev=a", "-monitor", "null",
        "-serial",  "mon:null",  "-chardev", "null,id=b", "-qmp",     "chardev:b",
        "-qmp",     "null",      "-chardev", "null,id=d", "-object",  "monitor-hmp,id=h,chardev=d",
        NULL};
    static const char *const wanted[] = {
        "h", "b", "compat_monitor0", "compat_monitor1", "compat_monitor2", "farfault-private"};
    g_autofree char *qemu = vm_qemu(11);
    const char *why;

    if (!qemu) {
        return;
    }
    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    g_auto(Place) place = {0};
    place_init(&place);
    Vm *vm = start_with(qemu, args);
    g_autofree char *text = qmp_hmp(vm_qmp(vm), "qom-list /objects");

    for (unsigned i = 0; i < G_N_ELEMENTS(wanted); i++) {
        g_autofree char *name = g_strdup_printf("\n%s (child<monitor-", wanted[i]);
        if (!strstr(text, name)) {
            test_fail("no monitor %s among:\n%s", wanted[i], text);
        }
    }
    vm_end(vm);
}

/* Past the relay a client would migrate a guest whose memory is shared with the engine. */
static void test_added(void)
{
    g_autofree char *qemu = vm_qemu(11);
    const char *why;

    if (!qemu) {
        return;
    }
    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    g_auto(Place) place = {0};
    place_init(&place);
    Vm *vm = start_with(qemu, NULL);
    Qmp *q = vm_qmp(vm);

    qmp_ok(q, "chardev-add",
           "{'id': 'c', 'backend': {'type': 'socket', 'data': {'server': true, 'wait': false, "
           "'addr': {'type': 'unix', 'data': {'path': '%s'}}}}}",
           place.path);
    g_autofree char *refused =
        qmp_error(q, "object-add", "{'qom-type': 'monitor-qmp', 'id': 'm', 'chardev': 'c'}");
    g_assert_nonnull(strstr(refused, "cannot be added later"));
    g_autofree char *typed = qmp_hmp(q, "object_add monitor-qmp,id=m,chardev=c");
    g_assert_nonnull(strstr(typed, "cannot be added later"));
    g_autofree char *objects = qmp_hmp(q, "qom-list /objects");
    g_assert_null(strstr(objects, "\nm ("));
    /* As one on the command line. */
    qmp_ok(q, "object-add", "{'qom-type': 'monitor-hmp', 'id': 'h', 'chardev': 'c'}");
    vm_end(vm);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_data_func("/qemu11/postcopy", "", test_move);
    g_test_add_data_func("/qemu11/precopy", NULL, test_move);
    g_test_add_func("/qemu11/kubevirt", test_kubevirt);
    g_test_add_data_func("/qemu11/object", "monitor-qmp,id=m,chardev=c", test_object);
    g_test_add_data_func("/qemu11/object-json",
                         "{\"qom-type\":\"monitor-qmp\",\"id\":\"monitor\",\"chardev\":\"c\"}",
                         test_object);
    g_test_add_func("/qemu11/names", test_names);
    g_test_add_func("/qemu11/added", test_added);
    return g_test_run();
}
