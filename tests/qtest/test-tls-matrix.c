/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Postcopy under TLS between two real QEMUs: kind of credentials × channels × an interruption in
 * the middle, through a tap that looks for the guest's memory; the guest is compared at the end.
 */
#include <glib/gstdio.h>
#include <string.h>

#include "tests/lib/certs.h"
#include "tests/lib/check.h"
#include "tests/lib/move.h"
#include "tests/lib/vm.h"
#include "tests/lib/wiretap.h"

#define MEMORY "64M"
#define RAM (64u << 20)

static char *credentials;

typedef struct {
    const char *kind;
    unsigned channels;
    bool recovers;
} Row;

static const Row rows[] = {
    {"psk", 1, false},  {"psk", 1, true},  {"psk", 4, false},  {"psk", 4, true},
    {"x509", 1, false}, {"x509", 1, true}, {"x509", 4, false}, {"x509", 4, true},
};

static bool set_channels(Vm *vm, unsigned n)
{
    g_autoptr(JsonObject) known = qmp_return(vm_qmp(vm), "query-migrate-parameters", NULL);

    if (!json_object_has_member(known, "x-farfault-channels"))
        return n == 1;
    qmp_ok(vm_qmp(vm), "migrate-set-parameters", "{'x-farfault-channels': %u}", n);
    return true;
}

/* A slow postcopy is interrupted, and continues through the same tap. */
static void interrupt(Vm *source, Vm *destination, const char *uri)
{
    Qmp *s = vm_qmp(source), *d = vm_qmp(destination);

    qmp_expect_migration(s, "postcopy-active");
    qmp_expect_migration(d, "postcopy-active");
    qmp_ok(s, "migrate-pause", NULL);
    qmp_expect_migration(s, "postcopy-paused");
    qmp_expect_migration(d, "postcopy-paused");
    qmp_ok(s, "migrate-set-parameters", "{'max-postcopy-bandwidth': 0}");
    qmp_ok(s, "migrate", "{'uri': '%s', 'resume': true}", uri);
}

static void check_wire(Wiretap *tap, const Row *row, const char *uri)
{
    WiretapCounts counts = wiretap_finish(tap);

    g_unlink(uri + strlen("unix:"));
    g_assert_cmpuint(counts.found, ==, 0);
    g_assert_cmpuint(counts.pages, ==, 0);
    g_assert_cmpuint(counts.connections, >=, (row->channels + 1) * (row->recovers ? 2 : 1));
}

static void move(gconstpointer data)
{
    const Row *row = data;
    uint8_t sector[BOOTSECT_SIZE];
    const char *why;

    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    BootsectConfig boot = bootsect_config(RAM, 0, 1);
    g_autoptr(Vm) source = vm_start(
        &(VmConfig){.name = "source", .launcher = VM_RUN, .memory = MEMORY, .boot = &boot});
    g_autoptr(Vm) destination = vm_start(&(VmConfig){.name = "destination",
                                                     .launcher = VM_RUN,
                                                     .memory = MEMORY,
                                                     .boot = &boot,
                                                     .incoming = "defer"});
    Qmp *s = vm_qmp(source), *d = vm_qmp(destination);

    if (!set_channels(source, row->channels) || !set_channels(destination, row->channels)) {
        g_test_skip("there is no parameter x-farfault-channels");
        return;
    }
    vm_wait_serial(source, "A");
    move_prepare(source, destination);
    move_set_tls(source, credentials, row->kind, false, NULL);
    move_set_tls(destination, credentials, row->kind, true, NULL);
    if (row->recovers)
        qmp_ok(s, "migrate-set-parameters", "{'max-postcopy-bandwidth': 65536}");
    qmp_ok(d, "migrate-incoming", "{'uri': 'tcp:127.0.0.1:0'}");
    g_autofree char *to = move_listen_uri(destination), *path = vm_path(source, "tap");
    g_autofree char *uri = g_strdup_printf("unix:%s", path);
    Wiretap *tap = wiretap_new(uri, to);

    bootsect_make(&boot, sector);
    wiretap_look_for(tap, sector, 32);
    qmp_ok(s, "migrate", "{'uri': '%s'}", uri);
    qmp_ok(s, "migrate-start-postcopy", NULL);
    if (row->recovers)
        interrupt(source, destination, uri);
    move_wait_completed(source, destination);
    vm_wait_new_serial(destination, "B");
    qmp_ok(d, "stop", NULL);
    g_autofree char *wrong = check_counters(destination, &boot);
    g_autofree char *differs = check_moved(source, destination, &boot, RAM);

    g_assert_cmpstr(wrong, ==, NULL);
    g_assert_cmpstr(differs, ==, NULL);
    check_wire(tap, row, uri);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    credentials = certs_new_pair();
    if (!credentials) {
        g_print("1..0 # SKIP no openssl command\n");
        return 0;
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *path =
            g_strdup_printf("/tls-matrix/%s/%u/%s", rows[i].kind, rows[i].channels,
                            rows[i].recovers ? "recovery" : "plain");

        g_test_add_data_func(path, &rows[i], move);
    }
    int rc = g_test_run();

    certs_remove(credentials);
    g_free(credentials);
    return rc;
}
