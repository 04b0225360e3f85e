/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What others may ask of QEMU while farfault migrates its guest, and must not harm it: snapshots
 * and device hotplug by QMP, and the human monitor that is QEMU's own.
 */
#include <glib/gstdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/lib/hold.h"
#include "tests/lib/move.h"
#include "tests/lib/vm.h"

#define RAM "64M"
#define RAM_BYTES (64ull << 20)

typedef struct {
    Vm *source, *destination;
    char *dir; /* of QEMU's own human monitors "source" and "destination" */
} Pair;

static Vm *start(Pair *p, const char *name, const BootsectConfig *boot, const char *incoming,
                 const char *faults)
{
    g_autofree char *chardev =
        g_strdup_printf("socket,id=h,path=%s/%s,server=on,wait=off", p->dir, name);
    const char *args[] = {"-machine", "pc", "-chardev", chardev, "-mon", "chardev=h,mode=readline",
                          NULL};

    return vm_start(&(VmConfig){.name = name,
                                .launcher = VM_RUN,
                                .memory = RAM,
                                .args = args,
                                .boot = boot,
                                .faults = faults,
                                .incoming = incoming});
}

/* Runs LINE at the human monitor NAME, which QEMU itself serves. */
static void hmp(Pair *p, const char *name, const char *line)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    g_autofree char *path = g_build_filename(p->dir, name, NULL);
    g_autofree char *text = g_strconcat(line, "\n", NULL);

    g_assert_cmpuint(g_strlcpy(addr.sun_path, path, sizeof(addr.sun_path)), <,
                     sizeof(addr.sun_path));
    g_assert_cmpint(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), ==, 0);
    g_autoptr(Stream) s = stream_new(fd, "hmp");
    int64_t deadline = test_deadline(TEST_TIMEOUT);
    g_assert_true(stream_wait_text(s, "(qemu) ", deadline));
    stream_send(s, text, strlen(text), NULL, 0);
    /* The line comes back, then what the command says, then the next prompt. */
    g_assert_true(stream_wait_text(s, "\r\n", deadline));
    g_assert_true(stream_wait_text(s, "(qemu) ", deadline));
}

/* Two guests, and a migration between them that is "active" and waits. FAULTS (of the source) can
 * be NULL. */
static bool pair_begin(Pair *p, bool switchover, const char *faults)
{
    BootsectConfig boot = bootsect_config(RAM_BYTES, 32 << 20, 1);
    const char *why;

    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return false;
    }
    p->dir = g_dir_make_tmp("guard-XXXXXX", NULL);
    p->source = start(p, "source", &boot, NULL, faults);
    p->destination = start(p, "destination", &boot, "defer", NULL);
    Qmp *sq = vm_qmp(p->source), *dq = vm_qmp(p->destination);
    vm_wait_serial(p->source, "B");
    move_prepare(p->source, p->destination);
    qmp_set_capability(sq, "pause-before-switchover", switchover);
    qmp_ok(dq, "migrate-incoming", "{'uri': 'tcp:127.0.0.1:0'}");
    g_autofree char *uri = move_listen_uri(p->destination);
    qmp_ok(sq, "migrate", "{'uri': '%s'}", uri);
    qmp_expect_migration(sq, "active");
    return true;
}

/* It waits in "active", or in "pre-switchover". */
static bool pair_start(Pair *p, bool switchover)
{
    if (!pair_begin(p, switchover, NULL)) {
        return false;
    }
    if (switchover) {
        qmp_ok(vm_qmp(p->source), "migrate-start-postcopy", NULL);
        qmp_expect_migration(vm_qmp(p->source), "pre-switchover");
    }
    return true;
}

static void pair_end(Pair *p)
{
    vm_end(p->destination);
    vm_end(p->source);
    for (unsigned i = 0; i < 2; i++) {
        g_autofree char *path = g_build_filename(p->dir, i ? "source" : "destination", NULL);
        g_unlink(path);
    }
    g_assert_cmpint(g_rmdir(p->dir), ==, 0);
    g_free(p->dir);
}

static void cancel(Pair *p)
{
    qmp_ok(vm_qmp(p->source), "migrate_cancel", NULL);
    qmp_expect_migration(vm_qmp(p->source), "cancelled");
    g_assert_cmpint(vm_wait_exit(p->destination), ==, 1);
}

static void check_state(Vm *vm, const char *expected)
{
    g_autofree char *state = qmp_run_state(vm_qmp(vm));

    g_assert_cmpstr(state, ==, expected);
}

static void check_refused(Pair *p, const char *command, const char *args, const char *expected)
{
    g_autofree char *error = qmp_error(vm_qmp(p->source), command, "%s", args);

    g_assert_cmpstr(error, ==, expected);
}

static void test_refused(void)
{
    static const char busy[] = "There's a migration process in progress";
    static const char dumping[] =
        "disallowing migration blocker (migration/snapshot in progress) for: Live migration "
        "disabled: dump-guest-memory in progress";
    Pair p;

    if (!pair_start(&p, false)) {
        return;
    }
    g_autofree char *text = qmp_hmp(vm_qmp(p.source), "savevm a");
    g_assert_cmpstr(text, ==, "Error: There's a migration process in progress\r\n");
    check_refused(&p, "snapshot-save",
                  "{\"job-id\": \"j\", \"tag\": \"a\", \"vmstate\": \"d\", \"devices\": []}", busy);
    check_refused(&p, "device_add", "{\"driver\": \"virtio-rng-pci\"}",
                  "device_add not allowed while migrating");
    check_refused(&p, "dump-guest-memory", "{\"paging\": false, \"protocol\": \"file:/dev/null\"}",
                  dumping);
    g_autofree char *dump = qmp_hmp(vm_qmp(p.source), "dump-guest-memory /dev/null");
    g_assert_nonnull(strstr(dump, dumping));
    cancel(&p);
    /* QEMU's own again: it has no snapshot device. */
    g_autofree char *after = qmp_hmp(vm_qmp(p.source), "savevm a");
    g_assert_null(strstr(after, busy));
    pair_end(&p);
}

/* A migration from a monitor that farfault does not see carries all of the guest's memory. */
static void test_own_migrate(void)
{
    Pair p;

    if (!pair_start(&p, false)) {
        return;
    }
    g_autofree char *file = vm_path(p.source, "image");
    g_autofree char *line = g_strdup_printf("migrate \"exec:cat > %s\"", file);
    GStatBuf st;
    hmp(&p, "source", "migrate_set_parameter max-bandwidth 1G");
    hmp(&p, "source", line);
    g_assert_cmpint(g_stat(file, &st), ==, 0);
    g_assert_cmpint(st.st_size, >, 32 << 20);
    cancel(&p);
    pair_end(&p);
}

static bool is_failed(JsonObject *data, const void *opaque)
{
    const char *status = json_object_get_string_member(data, "status");

    g_assert_cmpstr(status, !=, "completed");
    return !strcmp(status, "failed");
}

/* REASON: a part of it; NULL: any. LOADED: QEMU's own part was broken off, or the destination had
 * loaded the guest: it can only quit then. */
static void expect_stays(Pair *p, const char *reason, bool loaded)
{
    json_object_unref(
        qmp_wait_event(vm_qmp(p->source), "MIGRATION", is_failed, NULL, TEST_TIMEOUT));
    g_autoptr(JsonObject) info = qmp_return(vm_qmp(p->source), "query-migrate", NULL);
    const char *why = json_object_get_string_member_with_default(info, "error-desc", "");
    g_test_message("%s", why);
    if (reason && !strstr(why, reason)) {
        test_fail("the migration failed for another reason: '%s'", why);
    }
    check_state(p->source, "running");
    int status = vm_wait_exit(p->destination);
    g_assert_true(status == 1 || loaded);
    vm_wait_new_serial(p->source, "B");
    pair_end(p);
}

/* Between QEMU's answer to stop and the moment in which the engine continues. */
static void test_resumed_early(gconstpointer switchover)
{
    Pair p;

#ifndef FF_FAULTS
    g_test_skip("built without -Dfaults=true");
    return;
#endif
    if (!pair_begin(&p, GPOINTER_TO_INT(switchover), "source/*/at/stopped=delay:1500")) {
        return;
    }
    qmp_ok(vm_qmp(p.source), "migrate-start-postcopy", NULL);
    qmp_expect(vm_qmp(p.source), "STOP");
    if (switchover) {
        hmp(&p, "source", "cont");
    } else {
        /* With its migration under way QEMU refuses cont; but not when that is cancelled. */
        hmp(&p, "source", "migrate_cancel");
        hmp(&p, "source", "cont");
    }
    expect_stays(&p, switchover ? "another monitor" : NULL, !switchover);
}

/* The destination has loaded the guest and is about to be given it. QEMU's event that the guest was
 * resumed here goes unheard: that QEMU is asked once more is all that is left. */
static void test_resumed_loaded(void)
{
    const char *why;
    Pair p;

    if (!vm_faults_available(&why)) {
        g_test_skip(why);
        return;
    }
    pair_begin(&p, false, "source/*/at/loaded=hold;source/*/step/hear-resume=skip");
    hold_make(p.source);
    qmp_ok(vm_qmp(p.source), "migrate-start-postcopy", NULL);
    hold_wait(p.source);
    hmp(&p, "source", "migrate_cancel");
    /* Refused until QEMU's migration thread has seen that, which nothing else tells. */
    int64_t deadline = test_deadline(TEST_TIMEOUT);
    while (!qmp_has_event(vm_qmp(p.source), "RESUME")) {
        g_assert_cmpint(g_get_monotonic_time(), <, deadline);
        hmp(&p, "source", "cont");
    }
    hold_let_go(p.source);
    expect_stays(&p, "QEMU is \"running\" in place of \"finish-migrate\"", true);
}

static void test_resumed(void)
{
    Pair p;

    if (!pair_start(&p, true)) {
        return;
    }
    hmp(&p, "source", "cont");
    expect_stays(&p, "another monitor", false);
}

/* A client that stops the guest while it stands still anyway finds it stopped, where ever. */
static void test_stop_rollback(void)
{
    Pair p;

    if (!pair_start(&p, true)) {
        return;
    }
    qmp_ok(vm_qmp(p.source), "stop", NULL);
    cancel(&p);
    check_state(p.source, "paused");
    qmp_ok(vm_qmp(p.source), "cont", NULL);
    vm_wait_new_serial(p.source, "B");
    pair_end(&p);
}

static void test_stop_moved(void)
{
    Pair p;

    if (!pair_start(&p, true)) {
        return;
    }
    qmp_ok(vm_qmp(p.source), "stop", NULL);
    qmp_ok(vm_qmp(p.source), "migrate-continue", "{'state': 'pre-switchover'}");
    move_wait_completed(p.source, p.destination);
    check_state(p.destination, "paused");
    qmp_ok(vm_qmp(p.destination), "cont", NULL);
    vm_wait_new_serial(p.destination, "B");
    pair_end(&p);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/guard/refused", test_refused);
    g_test_add_func("/guard/own-migrate", test_own_migrate);
    g_test_add_func("/guard/resumed", test_resumed);
    g_test_add_func("/guard/resumed/loaded", test_resumed_loaded);
    g_test_add_data_func("/guard/resumed/early", GINT_TO_POINTER(false), test_resumed_early);
    g_test_add_data_func("/guard/resumed/early/pre-switchover", GINT_TO_POINTER(true),
                         test_resumed_early);
    g_test_add_func("/guard/stop/rollback", test_stop_rollback);
    g_test_add_func("/guard/stop/moved", test_stop_moved);
    return g_test_run();
}
