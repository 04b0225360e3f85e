/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A migration that is paused after the switch, and recovered: the flows of QEMU's own tests
 * (pause at the source, recover at the destination, resume at the source; recoveries that fail
 * first), over each kind of socket. The guest walks its memory and counts; at the end every
 * counter is right and the memories are compared.
 */
#include <gio/gio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/lib/check.h"
#include "tests/lib/move.h"
#include "tests/lib/vm.h"

#define RAM "64M"
#define RAM_BYTES (64ull << 20)

typedef enum {
    BY_UNIX = 1 << 0,
    BY_TCP = 1 << 1,
    BY_FD = 1 << 2,
    BY_HMP = 1 << 3,
    PAUSE_DESTINATION = 1 << 4,
    TWICE = 1 << 5,
    NOBODY_LISTENS = 1 << 6,
    HANDSHAKE_FAILS = 1 << 7,
    RECONNECT_FAILS = 1 << 8,
    SAME_ADDRESS = 1 << 9, /* no migrate-recover: it still listens where it did */
    OUT_OF_BAND = 1 << 10,
    CHANNELS = 1 << 11,
} Flags;

typedef struct {
    const char *name;
    Flags flags;
} Row;

static const Row rows[] = {
    {"unix", BY_UNIX},
    {"tcp", BY_TCP},
    {"fd", BY_FD},
    {"hmp", BY_HMP | BY_UNIX},
    {"out-of-band", BY_UNIX | OUT_OF_BAND},
    {"same-address", SAME_ADDRESS},
    {"pause-destination", BY_UNIX | PAUSE_DESTINATION},
    {"twice", BY_UNIX | TWICE},
    {"channels", BY_TCP | TWICE | CHANNELS},
    {"nobody-listens", BY_TCP | NOBODY_LISTENS},
    {"double-failures/handshake", BY_UNIX | HANDSHAKE_FAILS},
    {"double-failures/reconnect", BY_UNIX | RECONNECT_FAILS},
};

typedef struct {
    const Row *row;
    Vm *s, *d;
    Qmp *sq, *dq;
    char *uri; /* where the migration began */
    BootsectConfig boot;
} Test;

static Vm *start(const char *name, const BootsectConfig *boot, const char *incoming, bool oob)
{
    return vm_start_pc(
        (VmConfig){.name = name, .memory = RAM, .boot = boot, .incoming = incoming, .oob = oob});
}

static void begin(Test *t)
{
    t->boot = bootsect_config(RAM_BYTES, 32 << 20, 1);
    t->s = start("source", &t->boot, NULL, t->row->flags & OUT_OF_BAND);
    t->d = start("destination", &t->boot, "defer", t->row->flags & OUT_OF_BAND);
    t->sq = vm_qmp(t->s);
    t->dq = vm_qmp(t->d);
    vm_wait_serial(t->s, "B");
    move_prepare(t->s, t->d);
    qmp_ok(t->sq, "migrate-set-parameters", "{'max-postcopy-bandwidth': 4096}");
    if (t->row->flags & CHANNELS) {
        qmp_ok(t->sq, "migrate-set-parameters", "{'x-farfault-channels': 4}");
    }
    qmp_ok(t->dq, "migrate-incoming", "{'uri': 'tcp:127.0.0.1:0'}");
    t->uri = move_listen_uri(t->d);
    qmp_ok(t->sq, "migrate", "{'uri': '%s'}", t->uri);
    qmp_expect_migration(t->sq, "active");
    qmp_ok(t->sq, "migrate-start-postcopy", NULL);
    qmp_expect_migration(t->sq, "postcopy-active");
    qmp_expect_migration(t->dq, "postcopy-active");
    qmp_expect(t->dq, "RESUME");
}

static void break_it(Test *t)
{
    qmp_ok(t->row->flags & PAUSE_DESTINATION ? t->dq : t->sq, "migrate-pause", NULL);
    qmp_expect_migration(t->sq, "postcopy-paused");
    qmp_expect_migration(t->dq, "postcopy-paused");
    g_autoptr(JsonObject) info = qmp_return(t->sq, "query-migrate", NULL);
    g_assert_cmpstr(json_object_get_string_member(info, "status"), ==, "postcopy-paused");
    g_assert_true(json_object_has_member(info, "error-desc"));
}

/* Gives each side an end of its own, whose other end the test holds. */
static void give_fds(Test *t, int *source_peer, int *destination_peer)
{
    int sv[2], dv[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), ==, 0);
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, dv), ==, 0);
    qmp_getfd(t->sq, "fd-mig", sv[0]);
    qmp_getfd(t->dq, "fd-mig", dv[0]);
    close(sv[0]);
    close(dv[0]);
    *source_peer = sv[1];
    *destination_peer = dv[1];
}

static void expect_status(Qmp *q, const char *status)
{
    g_autofree char *is = qmp_migrate_status(q);

    g_assert_cmpstr(is, ==, status);
}

/* As QEMU's migrate_recover_double_fail tests do it. */
static void fail_first(Test *t, bool reconnect)
{
    int source_peer, destination_peer;

    give_fds(t, &source_peer, &destination_peer);
    g_assert_cmpint(write(destination_peer, "\x08", 1), ==, 1);
    if (reconnect) {
        close(source_peer);
    }
    qmp_ok(t->dq, "migrate-recover", "{'uri': 'fd:fd-mig'}");
    qmp_ok(t->sq, "migrate", "{'uri': 'fd:fd-mig', 'resume': true}");
    if (reconnect) {
        qmp_expect_migration(t->sq, "postcopy-paused");
    } else {
        qmp_expect_migration(t->sq, "postcopy-recover");
        expect_status(t->sq, "postcopy-recover");
        qmp_ok(t->sq, "migrate-pause", NULL);
        qmp_expect_migration(t->sq, "postcopy-paused");
        close(source_peer);
    }
    qmp_expect_migration(t->dq, "postcopy-recover");
    expect_status(t->sq, "postcopy-paused");
    expect_status(t->dq, "postcopy-recover");
    qmp_ok(t->dq, "migrate-pause", NULL);
    qmp_expect_migration(t->dq, "postcopy-paused");
    close(destination_peer);
}

static void nobody_listens(Test *t)
{
    qmp_ok(t->sq, "migrate", "{'uri': 'tcp:127.0.0.1:1', 'resume': true}");
    qmp_expect_migration(t->sq, "postcopy-paused");
    g_autoptr(JsonObject) info = qmp_return(t->sq, "query-migrate", NULL);
    g_assert_nonnull(strstr(json_object_get_string_member(info, "error-desc"), "refused"));
    g_autofree char *error = qmp_error(t->dq, "migrate-recover", "{'uri': 'tcp:256.0.0.1:0'}");
    g_assert_nonnull(error);
    expect_status(t->dq, "postcopy-paused");
}

static void resume(Test *t, const char *uri)
{
    if (t->row->flags & BY_HMP) {
        g_autofree char *line = g_strdup_printf("migrate -d -r %s", uri);
        g_autofree char *said = qmp_hmp(t->sq, line);
        g_assert_cmpstr(said, ==, "");
    } else {
        qmp_ok(t->sq, "migrate", "{'uri': '%s', 'resume': true}", uri);
    }
}

static void recover(Test *t)
{
    if (t->row->flags & SAME_ADDRESS) {
        resume(t, t->uri);
    } else if (t->row->flags & BY_FD) {
        int sv[2];
        g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), ==, 0);
        qmp_getfd(t->sq, "again", sv[0]);
        qmp_getfd(t->dq, "again", sv[1]);
        close(sv[0]);
        close(sv[1]);
        qmp_ok(t->dq, "migrate-recover", "{'uri': 'fd:again'}");
        resume(t, "fd:again");
    } else if (t->row->flags & BY_TCP) {
        qmp_ok(t->dq, "migrate-recover", "{'uri': 'tcp:127.0.0.1:0'}");
        g_autofree char *uri = move_listen_uri(t->d);
        resume(t, uri);
    } else {
        g_autofree char *path = vm_path(t->d, "recover.sock");
        g_autofree char *uri = g_strconcat("unix:", path, NULL);
        if (t->row->flags & BY_HMP) {
            g_autofree char *line = g_strconcat("migrate_recover ", uri, NULL);
            g_autofree char *said = qmp_hmp(t->dq, line);
            g_assert_cmpstr(said, ==, "");
        } else if (t->row->flags & OUT_OF_BAND) {
            qmp_ok(t->dq, "oob:migrate-recover", "{'uri': '%s'}", uri);
        } else {
            qmp_ok(t->dq, "migrate-recover", "{'uri': '%s'}", uri);
        }
        resume(t, uri);
    }
    qmp_expect_migration(t->sq, "postcopy-recover");
    qmp_expect_migration(t->dq, "postcopy-recover");
    qmp_expect_migration(t->sq, "postcopy-active");
    qmp_expect_migration(t->dq, "postcopy-active");
}

static void finish(Test *t)
{
    qmp_ok(t->sq, "migrate-set-parameters", "{'max-postcopy-bandwidth': 0}");
    move_wait_completed(t->s, t->d);
    vm_wait_new_serial(t->d, "B");
    qmp_wait_postmigrate(t->sq);
    qmp_ok(t->dq, "stop", NULL);
    check_right(check_counters(t->d, &t->boot));
    check_right(check_moved(t->s, t->d, &t->boot, RAM_BYTES));
    vm_end(t->d);
    vm_end(t->s);
    g_free(t->uri);
}

static void test_row(gconstpointer data)
{
    Test t = {.row = data};
    const char *why;

    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    begin(&t);
    break_it(&t);
    if (t.row->flags & (HANDSHAKE_FAILS | RECONNECT_FAILS)) {
        fail_first(&t, t.row->flags & RECONNECT_FAILS);
    }
    if (t.row->flags & NOBODY_LISTENS) {
        nobody_listens(&t);
    }
    recover(&t);
    if (t.row->flags & TWICE) {
        break_it(&t);
        recover(&t);
    }
    finish(&t);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *path = g_strconcat("/recovery/", rows[i].name, NULL);
        g_test_add_data_func(path, &rows[i], test_row);
    }
    return g_test_run();
}
