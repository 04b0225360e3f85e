/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One side has farfault, the other is a QEMU without it: QEMU carries the migration over the
 * connection that the engine began, or accepted. Every row ends with the guest running at the
 * destination and its memory checked; FF_PEER_QEMU is the QEMU without farfault, if it is to be
 * another one.
 *
 * Under TLS the connections go through a tap that looks for the guest's memory; and QEMU's own
 * settings, which are changed meanwhile, are back afterwards, whatever happened.
 */
#include <fcntl.h>
#include <glib-unix.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "migration/destination/handshakes.h"
#include "net/address.h"
#include "net/channel-read.h"
#include "net/channel-write.h"
#include "net/channel.h"
#include "net/creds.h"
#include "tests/lib/certs.h"
#include "tests/lib/check.h"
#include "tests/lib/clienthello.h"
#include "tests/lib/joint.h"
#include "tests/lib/move.h"
#include "tests/lib/vm.h"
#include "tests/lib/wiretap.h"

/* No multiple of 256 KiB: QEMU 7.2 under TCG loses dirty pages of a busy guest otherwise. */
#define MEMORY "65544K"
#define RAM (65544u * 1024)
/* More than may wait, and fewer than time is for: one makes room each second at worst. */
#define STRANGERS (FF_HANDSHAKES_PLACES + 4)

typedef struct {
    const char *name;
    bool source_stock;      /* else the destination */
    const char *caps[3];    /* beside postcopy-ram: of both sides */
    bool unix_socket;       /* else TCP */
    bool passed;            /* a socket that somebody else connected, by getfd on both sides */
    bool incoming_argument; /* -incoming URI */
    bool switch_early;      /* migrate-start-postcopy at once */
    bool always;            /* policy always, no postcopy-ram at all */
    const char *creds;      /* "psk", "x509": TLS, through a tap; NULL: in the clear */
    bool tap;               /* in the clear, but through the tap */
    bool engine_dies;       /* after the end: the next one has nothing to adopt */
    bool recovers;          /* is interrupted, and continues by QEMU's own recovery */
    bool newer;             /* both are QEMU 10 */
    const char *machine;    /* NULL: OLD_MACHINE */
    bool strangers;         /* many stop in their handshakes with the destination before */
    bool late_strangers;    /* while QEMU carries the migration, before its second channel comes */
} Row;

/* With one of these QEMU from 8.0 on connects its second channel before the first has spoken, and
 * with a newer one only when the switch is near. */
#define OLD_MACHINE "pc-i440fx-7.2"

static const Row rows[] = {
    {"to-stock/tcp"},
    {"to-stock/unix", .unix_socket = true},
    {"to-stock/getfd", .passed = true},
    {"to-stock/getfd/always", .passed = true, .always = true},
    {"to-stock/switch-early", .switch_early = true},
    {"to-stock/incoming-argument", .incoming_argument = true},
    {"to-stock/return-path", .caps = {"return-path"}},
    {"to-stock/preempt", .caps = {"postcopy-preempt"}},
    {"to-stock/switchover-ack", .caps = {"return-path", "switchover-ack"}},
    {"to-stock/switchover-ack/libvirt",
     .caps = {"return-path", "switchover-ack", "postcopy-preempt"}},
    {"to-stock/switchover-ack/always", .caps = {"return-path", "switchover-ack"}, .always = true},
    {"to-stock/multifd", .caps = {"multifd"}, .always = true},
    {"to-stock/validate-uuid", .caps = {"validate-uuid"}},
    {"to-stock/isapc", .machine = "isapc"},
    {"to-stock/old-machine", .machine = "pc-i440fx-2.3"},
    {"to-stock/later-engine", .engine_dies = true},
    {"to-stock/always", .always = true},
    {"to-stock/always/return-path", .always = true, .caps = {"return-path"}},
    {"from-stock/tcp", .source_stock = true},
    {"from-stock/unix", .source_stock = true, .unix_socket = true},
    {"from-stock/getfd", .source_stock = true, .passed = true},
    {"from-stock/getfd/always", .source_stock = true, .passed = true, .always = true},
    {"from-stock/switch-early", .source_stock = true, .switch_early = true},
    {"from-stock/incoming-argument", .source_stock = true, .incoming_argument = true},
    {"from-stock/return-path", .source_stock = true, .caps = {"return-path"}},
    {"from-stock/preempt", .source_stock = true, .caps = {"postcopy-preempt"}},
    {"from-stock/newer/preempt", .source_stock = true, .caps = {"postcopy-preempt"}, .newer = true},
    {"from-stock/switchover-ack", .source_stock = true, .caps = {"return-path", "switchover-ack"}},
    {"from-stock/multifd", .source_stock = true, .caps = {"multifd"}, .always = true},
    {"from-stock/always", .source_stock = true, .always = true},
    {"from-stock/always/return-path", .source_stock = true, .always = true,
     .caps = {"return-path"}},
};

/* Skipped where there is no openssl command. */
static const Row tls_rows[] = {
    {"to-stock/clear-tap", .tap = true},
    {"to-stock/psk", .creds = "psk"},
    {"to-stock/psk/preempt", .creds = "psk", .caps = {"postcopy-preempt"}},
    {"to-stock/psk/recovery", .creds = "psk", .recovers = true},
    {"to-stock/x509", .creds = "x509"},
    {"to-stock/x509/preempt", .creds = "x509", .caps = {"postcopy-preempt"}},
    {"to-stock/x509/always/return-path", .creds = "x509", .always = true, .caps = {"return-path"}},
    {"from-stock/psk", .creds = "psk", .source_stock = true},
    {"from-stock/psk/preempt", .creds = "psk", .source_stock = true, .caps = {"postcopy-preempt"}},
    {"from-stock/psk/always", .creds = "psk", .source_stock = true, .always = true},
    {"from-stock/psk/recovery", .creds = "psk", .source_stock = true, .recovers = true},
    {"from-stock/x509", .creds = "x509", .source_stock = true},
    {"from-stock/x509/incoming-argument", .creds = "x509", .source_stock = true,
     .incoming_argument = true},
    {"from-stock/x509/preempt", .creds = "x509", .source_stock = true,
     .caps = {"postcopy-preempt"}},
    {"from-stock/newer/psk", .creds = "psk", .source_stock = true, .newer = true},
    {"from-stock/newer/psk/preempt", .creds = "psk", .source_stock = true,
     .caps = {"postcopy-preempt"}, .newer = true},
    {"from-stock/newer/psk/preempt/machine", .creds = "psk", .source_stock = true,
     .caps = {"postcopy-preempt"}, .newer = true, .machine = "pc"},
    {"from-stock/newer/x509/preempt", .creds = "x509", .source_stock = true,
     .caps = {"postcopy-preempt"}, .newer = true},
    {"from-stock/psk/preempt/strangers", .creds = "psk", .source_stock = true,
     .caps = {"postcopy-preempt"}, .strangers = true},
    {"from-stock/newer/psk/preempt/late-strangers", .creds = "psk", .source_stock = true,
     .caps = {"postcopy-preempt"}, .newer = true, .machine = "pc", .late_strangers = true},
    {"from-stock/newer/psk/preempt/strangers", .creds = "psk", .source_stock = true,
     .caps = {"postcopy-preempt"}, .newer = true, .strangers = true},
};

static char *credentials; /* of certs_new_pair(); NULL: no openssl */

/* MACHINE and QEMU can be NULL. */
static Vm *start_vm_as(const char *name, bool stock, const BootsectConfig *boot,
                       const char *incoming, const char *machine, const char *qemu)
{
    const char *const args[] = {"-machine", machine ? machine : OLD_MACHINE, "-uuid",
                                "6c0b1f62-1f7c-4c0e-9d57-6b1f3e5d8a11", NULL};

    return vm_start(&(VmConfig){.name = name,
                                .launcher = stock ? VM_PLAIN : VM_RUN,
                                .qemu = qemu,
                                .memory = MEMORY,
                                .args = args,
                                .boot = boot,
                                .incoming = incoming});
}

static Vm *start_vm(const char *name, bool stock, const BootsectConfig *boot, const char *incoming)
{
    return start_vm_as(name, stock, boot, incoming, NULL, NULL);
}

static bool knows(Qmp *q, const char *capability)
{
    g_autoptr(JsonObject) answer =
        qmp_call(q, "migrate-set-capabilities",
                 "{'capabilities': [{'capability': '%s', 'state': false}]}", capability);

    return json_object_has_member(answer, "return");
}

static void set_up(const Row *row, Vm *vm, bool stock)
{
    Qmp *q = vm_qmp(vm);

    qmp_set_capability(q, "events", true);
    if (!row->always)
        qmp_set_capability(q, "postcopy-ram", true);
    for (unsigned i = 0; i < G_N_ELEMENTS(row->caps) && row->caps[i]; i++)
        qmp_set_capability(q, row->caps[i], true);
    if (row->always && !stock)
        qmp_ok(q, "migrate-set-parameters", "{'x-farfault-policy': 'always'}");
}

/* A connection between both, known to each as "moved". */
static void pass_socket(Qmp *source, Qmp *destination)
{
    int pair[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), ==, 0);
    qmp_getfd(source, "moved", pair[0]);
    qmp_getfd(destination, "moved", pair[1]);
    close(pair[0]);
    close(pair[1]);
}

static void check_carrier(Vm *vm)
{
    g_autoptr(JsonObject) info = qmp_return(vm_qmp(vm), "query-migrate", NULL);

    if (!json_object_has_member(info, "x-farfault"))
        test_fail("query-migrate does not say who carried it");
    JsonObject *own = json_object_get_object_member(info, "x-farfault");

    g_assert_cmpstr(json_object_get_string_member(own, "engine"), ==, "qemu");
}

/* Part of the boot sector, which lies in the guest's memory. */
static Wiretap *tap_new(const BootsectConfig *boot, const char *at, const char *to)
{
    static uint8_t sector[BOOTSECT_SIZE];
    Wiretap *tap = wiretap_new(at, to);

    bootsect_make(boot, sector);
    wiretap_look_for(tap, sector, 32);
    return tap;
}

static void tap_finish(Wiretap *tap, const Row *row, const char *uri)
{
    WiretapCounts counts = wiretap_finish(tap);

    g_unlink(uri + strlen("unix:"));

    if (row->creds)
        g_assert_cmpuint(counts.found, ==, 0);
    else
        g_assert_cmpuint(counts.found, >, 0);
    g_assert_cmpuint(counts.connections, ==, g_strcmp0(row->caps[0], "postcopy-preempt") ? 1 : 2);
}

/* The client never sees that QEMU's credentials were taken away. */
static void check_parameters(Vm *vm)
{
    g_autoptr(JsonObject) all = qmp_return(vm_qmp(vm), "query-migrate-parameters", NULL);

    g_assert_cmpstr(json_object_get_string_member(all, "tls-creds"), ==, "tls0");
}

/* QEMU begins TLS itself then, on both sides: its credentials are back in time. Through a tap of
 * its own. */
static void recover(const Row *row, Vm *source, Vm *destination, const BootsectConfig *boot)
{
    Qmp *s = vm_qmp(source), *d = vm_qmp(destination);
    g_autofree char *path = vm_path(source, "again");
    g_autofree char *listen = g_strdup_printf("unix:%s", path);
    g_autofree char *uri = g_strdup_printf("unix:%s.tap", path);

    qmp_expect(d, "RESUME"); /* earlier QEMU gives up */
    qmp_expect_migration(s, "postcopy-active");
    /* QEMU 7.2 says so at the beginning of postcopy_start(), where a broken connection still makes
     * it start its guest; pages are sent after it. Each answer lets its main loop continue. */
    while (move_ram_count(source, "postcopy-bytes") == 0) {
    }
    qmp_ok(s, "migrate-pause", NULL);
    qmp_expect_migration(s, "postcopy-paused");
    qmp_expect_migration(d, "postcopy-paused");
    qmp_ok(d, "migrate-recover", "{'uri': '%s'}", listen);
    Wiretap *tap = tap_new(boot, uri, listen);

    qmp_ok(s, "migrate-set-parameters", "{'max-postcopy-bandwidth': 0}");
    qmp_ok(s, "migrate", "{'uri': '%s', 'resume': true}", uri);
    move_wait_completed(source, destination);
    tap_finish(tap, row, uri);
}

/* As many as wait at once, and some more: each has said who it is in words of TLS, and no more.
 * They have come before anybody else. */
static GPtrArray *add_strangers(const char *uri)
{
    GPtrArray *all = g_ptr_array_new_with_free_func((GDestroyNotify)ff_channel_free);
    g_autofree char *keys = g_build_filename(credentials, "psk-client", NULL);
    g_autoptr(GError) error = NULL;
    FfCredsSpec spec = {.psk = true, .dir = keys};
    g_autoptr(FfTls) tls = ff_creds_load(&spec, &error);

    g_assert_no_error(error);
    g_autoptr(FfAddress) address = ff_address_parse(uri, NULL);
    g_autoptr(GBytes) hello = client_hello(tls);

    for (unsigned i = 0; i < STRANGERS; i++) {
        int fd = ff_address_connect(address, NULL, &error);
        g_assert_no_error(error);
        FfChannel *ch = ff_channel_new(fd, FF_CHANNEL_MAIN);
        struct iovec iov;

        iov.iov_base = (void *)g_bytes_get_data(hello, &iov.iov_len);
        g_assert_cmpint(ff_channel_write_all(ch, &iov, 1, true), ==, 0);
        g_ptr_array_add(all, ch);
    }
    return all;
}

/* The first of them make room for the last: sooner than they would be sent away. */
static void expect_room_made(const GPtrArray *strangers)
{
    for (guint i = 0; i < strangers->len - FF_HANDSHAKES_PLACES; i++) {
        int64_t end = g_get_monotonic_time() + FF_HANDSHAKES_DEADLINE_MS * 800ll;
        char sink[4096];

        do {
            int left = (int)((end - g_get_monotonic_time()) / 1000);
            g_assert_cmpint(ff_channel_wait_readable(strangers->pdata[i], MAX(0, left)), ==, 0);
        } while (recv(ff_channel_fd(strangers->pdata[i]), sink, sizeof(sink), 0) > 0);
    }
}

/* The destination knew its source before it sent any of the strangers away for their time being
 * over: its log has the order, however slow the machine is. */
static void expect_source_first(Vm *destination)
{
    static const char source[] = "the source sends QEMU's own migration";

    vm_wait_stderr(destination, source);
    g_autofree char *log = vm_stderr(destination);
    const char *over = strstr(log, "its TLS handshake was not finished in time");

    if (over && over < strstr(log, source))
        test_fail("the source came in when the strangers had to go: %s", log);
}

static void move(const void *opaque)
{
    const Row *row = opaque;
    Wiretap *tap = NULL;
    const char *why;

    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    g_autofree char *qemu = row->newer ? vm_newer_qemu() : NULL;
    if (row->newer && !qemu)
        return;
    BootsectConfig boot = bootsect_config(RAM, 32 << 20, 1);
    g_autoptr(Vm) source =
        start_vm_as("source", row->source_stock, &boot, NULL, row->machine, qemu);
    g_autofree char *path = vm_path(source, "migration");
    g_autofree char *listen = row->unix_socket ? g_strdup_printf("unix:%s", path)
                              : row->passed    ? g_strdup("fd:moved")
                                               : g_strdup("tcp:127.0.0.1:0");
    g_autoptr(Vm) destination =
        start_vm_as("destination", !row->source_stock, &boot,
                    row->incoming_argument ? listen : "defer", row->machine, qemu);
    Qmp *s = vm_qmp(source), *d = vm_qmp(destination);

    for (unsigned i = 0; i < G_N_ELEMENTS(row->caps) && row->caps[i]; i++) {
        if (!knows(d, row->caps[i])) {
            g_autofree char *skip = g_strdup_printf("this QEMU has no %s", row->caps[i]);
            g_test_skip(skip);
            return;
        }
    }
    vm_wait_serial(source, "B");
    set_up(row, source, row->source_stock);
    set_up(row, destination, !row->source_stock);
    if (row->creds) {
        move_set_tls(source, credentials, row->creds, false, NULL);
        move_set_tls(destination, credentials, row->creds, true, NULL);
    }
    if (row->passed)
        pass_socket(s, d);
    if (!row->incoming_argument)
        qmp_ok(d, "migrate-incoming", "{'uri': '%s'}", listen);
    g_autofree char *to =
        row->unix_socket || row->passed ? g_strdup(listen) : move_listen_uri(destination);
    g_autofree char *uri =
        row->creds || row->tap ? g_strdup_printf("unix:%s.tap", path) : g_strdup(to);

    if (row->creds || row->tap)
        tap = tap_new(&boot, uri, to);
    qmp_ok(s, "migrate-set-parameters", "{'max-bandwidth': %s}",
           row->always ? "1000000000" : "33554432");
    if (row->always)
        qmp_ok(s, "migrate-set-parameters", "{'downtime-limit': 20000}");
    if (row->recovers)
        qmp_ok(s, "migrate-set-parameters", "{'max-postcopy-bandwidth': 65536}");
    g_autoptr(GPtrArray) strangers = row->strangers ? add_strangers(to) : NULL;

    qmp_ok(s, "migrate", "{'uri': '%s'}", uri);
    if (!row->always) {
        if (!row->switch_early)
            qmp_expect_migration(s, "active");
        if (row->strangers)
            expect_source_first(destination);
        if (row->late_strangers) {
            strangers = add_strangers(to);
            expect_room_made(strangers);
        }
        qmp_ok(s, "migrate-start-postcopy", NULL);
    }
    if (row->recovers)
        recover(row, source, destination, &boot);
    else
        move_wait_completed(source, destination);
    g_autofree char *here = qmp_run_state(s);
    g_autofree char *there = qmp_run_state(d);

    /* QEMU says that it is over a moment before it sets the run state. */
    if (strcmp(here, "finish-migrate"))
        g_assert_cmpstr(here, ==, "postmigrate");
    g_assert_cmpstr(there, ==, "running");
    vm_wait_new_serial(destination, "B");
    qmp_ok(d, "stop", NULL);
    g_autofree char *wrong = check_moved(source, destination, &boot, RAM);

    g_assert_cmpstr(wrong, ==, NULL);
    pid_t engine = row->engine_dies ? vm_find_engine(source) : 0;

    if (engine)
        g_assert_cmpint(kill(engine, SIGKILL), ==, 0);
    /* Multifd is QEMU's from the beginning, the engine never takes part. */
    if (g_strcmp0(row->caps[0], "multifd"))
        check_carrier(row->source_stock ? destination : source);
    if (row->creds)
        check_parameters(row->source_stock ? destination : source);
    if (tap)
        tap_finish(tap, row, uri);
}

/* A guest whose stream begins in another way than its machine's name says. */
typedef struct {
    const char *name, *machine;
    const char *sends; /* -global, of the source alone */
    bool preempt;      /* QEMU connects to the engine */
} Opening;

static const Opening openings[] = {
    {"none", OLD_MACHINE, "migration.send-configuration=off"},
    {"none/preempt", OLD_MACHINE, "migration.send-configuration=off", .preempt = true},
    {"more", "pc-i440fx-2.3", "migration.send-configuration=on"},
};

static bool is_failed(JsonObject *data, const void *opaque)
{
    const char *status = json_object_get_string_member(data, "status");

    if (g_str_has_prefix(status, "postcopy")) {
        test_fail("the source is %s, and its peer has nothing of it", status);
    }
    return !strcmp(status, "failed");
}

/* The switch, however early it is asked for, comes after the comparison: a stream that nobody can
 * read costs the migration, and not the guest. */
static void test_opening(const void *opaque)
{
    const Opening *row = opaque;
    const char *why;

    if (!vm_faults_available(&why)) {
        g_test_skip(why);
        return;
    }
    const char *const args[] = {"-machine", row->machine, "-global", row->sends, NULL};
    BootsectConfig boot = bootsect_config(RAM, 8 << 20, 1);
    g_autoptr(Vm) source = vm_start(&(VmConfig){.name = "source",
                                                .launcher = VM_RUN,
                                                .memory = MEMORY,
                                                .args = args,
                                                .faults = "source/*/at/splice-opening=delay:3000",
                                                .boot = &boot});
    g_autoptr(Vm) destination =
        start_vm_as("destination", true, &boot, "defer", row->machine, NULL);
    Vm *both[] = {source, destination};
    Qmp *s = vm_qmp(source);

    vm_wait_serial(source, "B");
    for (unsigned i = 0; i < G_N_ELEMENTS(both); i++) {
        qmp_set_capability(vm_qmp(both[i]), "events", true);
        qmp_set_capability(vm_qmp(both[i]), "postcopy-ram", true);
        if (row->preempt) {
            qmp_set_capability(vm_qmp(both[i]), "postcopy-preempt", true);
        }
    }
    qmp_ok(vm_qmp(destination), "migrate-incoming", "{'uri': 'tcp:127.0.0.1:0'}");
    g_autofree char *uri = move_listen_uri(destination);

    qmp_ok(s, "migrate", "{'uri': '%s'}", uri);
    qmp_ok(s, "migrate-start-postcopy", NULL);
    json_object_unref(qmp_wait_event(s, "MIGRATION", is_failed, NULL, TEST_TIMEOUT));
    g_assert_true(vm_fault_happened(source, 0));
    g_autofree char *state = qmp_run_state(s);

    g_assert_cmpstr(state, ==, "running");
    vm_wait_stderr(source, "begins in another way");
    vm_wait_new_serial(source, "B");
    g_assert_cmpint(vm_wait_exit(destination), ==, 1);
}

/* x-farfault-peer: require refuses; the guest continues at the source. */
static void test_require(void)
{
    const char *why;

    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    BootsectConfig boot = bootsect_config(RAM, 8 << 20, 1);
    g_autoptr(Vm) source = start_vm("source", false, &boot, NULL);
    g_autoptr(Vm) destination = start_vm("destination", true, &boot, "tcp:127.0.0.1:0");
    Qmp *s = vm_qmp(source);
    g_autofree char *uri = move_listen_uri(destination);

    qmp_set_capability(s, "events", true);
    qmp_set_capability(s, "postcopy-ram", true);
    qmp_ok(s, "migrate-set-parameters", "{'x-farfault-peer': 'require'}");
    qmp_ok(s, "migrate", "{'uri': '%s'}", uri);
    qmp_expect_migration(s, "failed");
    g_autoptr(JsonObject) info = qmp_return(s, "query-migrate", NULL);

    g_assert_nonnull(
        strstr(json_object_get_string_member(info, "error-desc"), "x-farfault-peer is require"));
    g_autofree char *state = qmp_run_state(s);

    g_assert_cmpstr(state, ==, "running");
    g_assert_cmpint(vm_wait_exit(destination), ==, 1);
}

/* What ends a migration that QEMU carries under our TLS before it is complete. */
typedef enum { CANCELLED, ENGINE_KILLED, PEER_KILLED } End;

static bool has_ended(JsonObject *data, const void *opaque)
{
    const char *status = json_object_get_string_member(data, "status");

    return !strcmp(status, "cancelled") || !strcmp(status, "failed");
}

/* QEMU's own credentials are set again: a migration that is QEMU's alone finds a stock QEMU that
 * takes none without. */
static void test_settings(const void *opaque)
{
    End end = GPOINTER_TO_INT(opaque);
    const char *why;

    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    BootsectConfig boot = bootsect_config(RAM, 8 << 20, 1);
    g_autoptr(Vm) source = start_vm("source", false, &boot, NULL);
    g_autoptr(Vm) first = start_vm("first", true, &boot, "defer");
    g_autoptr(Vm) second = start_vm("second", true, &boot, "defer");
    Vm *destinations[] = {first, second};
    Qmp *s = vm_qmp(source);

    qmp_set_capability(s, "events", true);
    qmp_set_capability(s, "postcopy-ram", true);
    move_set_tls(source, credentials, "psk", false, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(destinations); i++) {
        Qmp *d = vm_qmp(destinations[i]);

        qmp_set_capability(d, "events", true);
        qmp_set_capability(d, "postcopy-ram", true);
        move_set_tls(destinations[i], credentials, "psk", true, NULL);
        qmp_ok(d, "migrate-incoming", "{'uri': 'tcp:127.0.0.1:0'}");
    }
    g_autofree char *uri = move_listen_uri(first), *other = move_listen_uri(second);

    vm_wait_serial(source, "B");
    qmp_ok(s, "migrate-set-parameters", "{'max-bandwidth': 4194304}");
    qmp_ok(s, "migrate", "{'uri': '%s'}", uri);
    qmp_expect_migration(s, "active");
    /* The client's changes reach QEMU's migration, and are the client's afterwards. */
    qmp_ok(s, "migrate-set-parameters", "{'max-bandwidth': 2097152}");
    switch (end) {
    case CANCELLED:
        /* QEMU shuts its return path, which is the same socket, before it notes that it cancels: if
         * its other thread writes in between, it says "failed". */
        qmp_ok(s, "migrate_cancel", NULL);
        json_object_unref(qmp_wait_event(s, "MIGRATION", has_ended, NULL, TEST_TIMEOUT));
        break;
    case ENGINE_KILLED:
        g_assert_cmpint(kill(vm_engine(source), SIGKILL), ==, 0);
        qmp_expect_migration(s, "failed");
        break;
    case PEER_KILLED:
        vm_kill(first);
        qmp_expect_migration(s, "failed");
    }
    if (end != PEER_KILLED)
        g_assert_cmpint(vm_wait_exit(first), ==, 1);
    check_parameters(source);
    g_autoptr(JsonObject) all = qmp_return(s, "query-migrate-parameters", NULL);

    g_assert_cmpint(json_object_get_int_member(all, "max-bandwidth"), ==, 2097152);
    qmp_ok(s, "migrate-set-parameters", "{'x-farfault-policy': 'never', 'max-bandwidth': %d}",
           1 << 30);
    move_await_cleanup(source);
    qmp_ok(s, "migrate", "{'uri': '%s'}", other);
    qmp_expect_migration(s, "active");
    qmp_ok(s, "migrate-start-postcopy", NULL);
    move_wait_completed(source, second);
    qmp_ok(vm_qmp(second), "stop", NULL);
    g_autofree char *wrong = check_moved(source, second, &boot, RAM);

    g_assert_cmpstr(wrong, ==, NULL);
}

/* A peer that connects while QEMU waits for an additional channel under our TLS is not let through
 * to it without. */
static void test_stranger(void)
{
    const char *why;

    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    BootsectConfig boot = bootsect_config(RAM, 8 << 20, 1);
    g_autoptr(Vm) source = start_vm("source", true, &boot, NULL);
    g_autoptr(Vm) destination = start_vm("destination", false, &boot, "defer");
    Qmp *s = vm_qmp(source), *d = vm_qmp(destination);
    char answer[64];

    vm_wait_serial(source, "B");
    move_prepare(source, destination);
    move_set_tls(source, credentials, "psk", false, NULL);
    move_set_tls(destination, credentials, "psk", true, NULL);
    qmp_ok(d, "migrate-incoming", "{'uri': 'tcp:127.0.0.1:0'}");
    g_autofree char *uri = move_listen_uri(destination);

    qmp_ok(s, "migrate", "{'uri': '%s'}", uri);
    qmp_expect_migration(s, "active");
    g_autoptr(FfAddress) address = ff_address_parse(uri, NULL);
    g_autoptr(FfChannel) stranger =
        ff_channel_new(ff_address_connect(address, NULL, NULL), FF_CHANNEL_MAIN);
    struct iovec iov = {(char[]){"QEVM\0\0\0\3"}, 8};

    g_assert_cmpint(ff_channel_write_all(stranger, &iov, 1, true), ==, 0);
    while (ff_channel_read_all(stranger, answer, 1, 20000) == 0) {
        /* at most an alert */
    }
    qmp_ok(s, "migrate-start-postcopy", NULL);
    move_wait_completed(source, destination);
    qmp_ok(d, "stop", NULL);
    g_autofree char *wrong = check_moved(source, destination, &boot, RAM);

    g_assert_cmpstr(wrong, ==, NULL);
    /* Said when the stranger has had its second to read the alert; or sooner, if the engine had not
     * given the source's connection to QEMU yet. */
    vm_wait_stderr(destination, "connection refused: ");
}

/* ---- channels that come before the first has spoken ------------------------------------------ */

/* QEMU's two channels wait at the destination, which does not know yet who they are, when the first
 * of them speaks: QEMU gets both, in their order. */
static void test_waiting_channel(void)
{
    Joint joints[2];
    int at[2];
    const char *why;

    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    BootsectConfig boot = bootsect_config(RAM, 8 << 20, 1);
    g_autoptr(Vm) source = start_vm("source", true, &boot, NULL);
    g_autoptr(Vm) destination = start_vm("destination", false, &boot, "defer");
    const Row row = {.caps = {"postcopy-preempt"}};
    Qmp *s = vm_qmp(source), *d = vm_qmp(destination);
    char c;

    vm_wait_serial(source, "B");
    set_up(&row, source, true);
    set_up(&row, destination, false);
    qmp_ok(d, "migrate-incoming", "{'uri': 'tcp:127.0.0.1:0'}");
    g_autofree char *to = move_listen_uri(destination), *path = vm_path(source, "ahead");
    g_autofree char *uri = g_strdup_printf("unix:%s", path);
    g_autoptr(FfAddress) there = ff_address_parse(to, NULL), here = ff_address_parse(uri, NULL);
    int listener = ff_address_listen(here, NULL);

    for (unsigned i = 0; i < 2; i++) {
        at[i] = ff_address_connect(there, NULL, NULL);
        g_unix_set_fd_nonblocking(at[i], FALSE, NULL);
    }
    /* The peer that is sent away came after them, so they are in. */
    int stranger = ff_address_connect(there, NULL, NULL);

    g_unix_set_fd_nonblocking(stranger, FALSE, NULL);
    g_assert_cmpint(send(stranger, "GET / HTTP/1.0\r\n\r\n", 18, MSG_NOSIGNAL), ==, 18);
    g_assert_cmpint(recv(stranger, &c, 1, 0), <=, 0);
    close(stranger);
    qmp_ok(s, "migrate", "{'uri': '%s'}", uri);
    for (unsigned i = 0; i < 2; i++) {
        int from = ff_address_accept(listener, NULL, NULL);
        g_unix_set_fd_nonblocking(from, FALSE, NULL);
        joint_start(&joints[i], from, at[i]);
    }
    qmp_expect_migration(s, "active");
    qmp_ok(s, "migrate-start-postcopy", NULL);
    move_wait_completed(source, destination);
    vm_wait_new_serial(destination, "B");
    qmp_ok(d, "stop", NULL);
    g_autofree char *wrong = check_moved(source, destination, &boot, RAM);

    g_assert_cmpstr(wrong, ==, NULL);
    check_carrier(destination);
    for (unsigned i = 0; i < 2; i++) {
        joint_finish(&joints[i]);
    }
    close(listener);
    g_unlink(path);
}

static void add_tls(void)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(tls_rows); i++) {
        g_autofree char *path = g_strdup_printf("/stock/tls/%s", tls_rows[i].name);

        g_test_add_data_func(path, &tls_rows[i], move);
    }
    g_test_add_data_func("/stock/tls/settings/cancelled", GINT_TO_POINTER(CANCELLED),
                         test_settings);
    g_test_add_data_func("/stock/tls/settings/engine-killed", GINT_TO_POINTER(ENGINE_KILLED),
                         test_settings);
    g_test_add_data_func("/stock/tls/settings/peer-killed", GINT_TO_POINTER(PEER_KILLED),
                         test_settings);
    g_test_add_func("/stock/tls/stranger", test_stranger);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    signal(SIGPIPE, SIG_IGN);
    credentials = certs_new_pair();
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *path = g_strdup_printf("/stock/%s", rows[i].name);

        g_test_add_data_func(path, &rows[i], move);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(openings); i++) {
        g_autofree char *path = g_strdup_printf("/stock/opening/%s", openings[i].name);

        g_test_add_data_func(path, &openings[i], test_opening);
    }
    g_test_add_func("/stock/require", test_require);
    g_test_add_func("/stock/from-stock/waiting-channel", test_waiting_channel);
    if (credentials)
        add_tls();
    int rc = g_test_run();

    if (credentials)
        certs_remove(credentials);
    g_free(credentials);
    return rc;
}
