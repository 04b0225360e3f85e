/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * kill -9 of the relay, alone or with its engine, at either side and at each moment of the
 * switchover; then farfault attach. Until then no guest starts by itself, afterwards everything
 * continues as after the death of an engine: the guest is at the side that the moment decides
 * about, nowhere else, and its memory is right. And what attach must refuse.
 */
#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "contract/state.h"
#include "guest/launch/attach-listen.h"
#include "guest/launch/attach.h"
#include "guest/launch/fdstore.h"
#include "guest/launch/launch-relay.h"
#include "tests/lib/attach.h"
#include "tests/lib/certs.h"
#include "tests/lib/check.h"
#include "tests/lib/move.h"
#include "tests/lib/operator.h"
#include "tests/lib/stop.h"
#include "tests/lib/vm.h"

#define RAM "24M"
#define RAM_BYTES (24ull << 20)

typedef struct {
    BootsectConfig boot;
    Vm *s, *d;
    const char *tls; /* "psk" or "x509"; NULL: none */
} Test;

static char *creds; /* certs_new_pair(); NULL: no openssl command */

static Vm *start(const char *name, const BootsectConfig *boot, const char *incoming,
                 const char *faults)
{
    return vm_start_pc((VmConfig){.name = name,
                                  .memory = RAM,
                                  .boot = boot,
                                  .incoming = incoming,
                                  .listens = true,
                                  .faults = faults});
}

static bool begin(Test *t, const char *source_faults, const char *destination_faults)
{
    const char *why;

    if (source_faults || destination_faults ? !vm_faults_available(&why)
                                            : !vm_farfault_available(&why)) {
        g_test_skip(why);
        return false;
    }
    t->boot = bootsect_config(RAM_BYTES, 8 << 20, 1);
    t->s = start("source", &t->boot, NULL, source_faults);
    t->d = start("destination", &t->boot, "defer", destination_faults);
    vm_wait_serial(t->s, "B");
    return true;
}

static void expect_status(Vm *vm, const char *expected)
{
    g_autofree char *status = qmp_migrate_status(vm_qmp(vm));

    if (g_strcmp0(status, expected)) {
        qmp_expect_migration(vm_qmp(vm), expected);
    }
}

static void check_moved_whole(Test *t)
{
    move_wait_completed(t->s, t->d);
    vm_wait_new_serial(t->d, "B");
    qmp_ok(vm_qmp(t->d), "stop", NULL);
    check_right(check_counters(t->d, &t->boot));
    check_right(check_moved(t->s, t->d, &t->boot, RAM_BYTES));
    qmp_wait_postmigrate(vm_qmp(t->s));
}

static void move_whole(Test *t)
{
    move_prepare(t->s, t->d);
    qmp_ok(vm_qmp(t->d), "migrate-incoming", "{'uri': 'tcp:127.0.0.1:0'}");
    g_autofree char *uri = move_listen_uri(t->d);
    qmp_ok(vm_qmp(t->s), "migrate", "{'uri': '%s'}", uri);
    qmp_ok(vm_qmp(t->s), "migrate-start-postcopy", NULL);
    qmp_expect(vm_qmp(t->d), "RESUME");
    check_moved_whole(t);
}

static void end(Test *t)
{
    vm_end(t->d);
    vm_end(t->s);
}

/* What QEMU keeps for a next relay (guest/launch/launch-relay.h). */
static JsonNode *plan_of(Vm *vm)
{
    g_autoptr(GError) error = NULL;
    JsonNode *plan = ff_attach_plan(vm_pid(vm), NULL, &error);

    g_assert_no_error(error);
    return plan;
}

/* The state memfd, out of QEMU's parcel. */
static int open_state(Vm *vm)
{
    g_autoptr(JsonNode) plan = plan_of(vm);
    int number = json_object_get_int_member(json_node_get_object(plan), FF_PLAN_KEPT);
    int pidfd = pidfd_open(vm_pid(vm), 0), fds[FF_PARCEL_MAX];
    int parcel = pidfd_getfd(pidfd, number, 0);
    int n = ff_fdstore_look(parcel, fds);

    g_assert_cmpint(n, >, 1);
    while (--n) {
        close(fds[n]);
    }
    close(parcel);
    close(pidfd);
    return fds[0];
}

/* ---- no migration ---------------------------------------------------------------------------- */

static bool doctor_names(Vm *vm)
{
    g_autofree char *text = NULL;
    g_autofree char *line = g_strdup_printf("QEMU process %d has lost its relay: farfault attach "
                                            "%d\n",
                                            (int)vm_pid(vm), (int)vm_pid(vm));

    attach_run_farfault(NULL, "doctor", NULL, &text);
    return strstr(text, line);
}

static bool doctor_says(const char *line)
{
    g_autofree char *text = NULL;

    attach_run_farfault(NULL, "doctor", NULL, &text);
    return strstr(text, line);
}

/* A guest whose relay has ended once has lost what QEMU keeps no copy of. */
static void check_snapshots(Vm *vm, bool has)
{
    g_autofree char *line =
        g_strdup_printf("QEMU process %d has no live snapshots any more", (int)vm_pid(vm));

    g_assert_cmpint(doctor_says(line), ==, !has);
}

/* LINE is said of PID while it is stopped, and at no other time. */
static void check_stopped(pid_t pid, const char *line)
{
    g_assert_false(doctor_says(line));
    stop_process(pid);
    bool said = doctor_says(line);
    kill(pid, SIGCONT);
    if (!said) {
        g_error("doctor does not say '%s'", line);
    }
    g_assert_false(doctor_says(line));
}

/* A process that was stopped for good keeps all waiting: doctor names it, and whose it is. */
static void test_stopped(void)
{
    Test t;

    if (!begin(&t, NULL, NULL)) {
        return;
    }
    qmp_ok(vm_qmp(t.d), "migrate-incoming", "{'uri': 'tcp:127.0.0.1:0'}");
    int qemu = vm_pid(t.d), engine = vm_find_engine(t.d), relay = vm_relay(t.d);
    g_autofree char *of_engine =
        g_strdup_printf("migration engine %d of QEMU process %d is stopped by a signal; its relay "
                        "replaces it after 30 s: kill -CONT %d\n",
                        engine, qemu, engine);
    g_autofree char *of_relay =
        g_strdup_printf("relay %d of QEMU process %d is stopped by a signal, all QMP clients wait "
                        "for it: kill -CONT %d\n",
                        relay, qemu, relay);
    check_stopped(engine, of_engine);
    check_stopped(relay, of_relay);
    end(&t);
}

/* Both sides lose their relays before anything begins; one of them twice. */
static void test_idle(void)
{
    Test t = {0};

    if (!begin(&t, NULL, NULL)) {
        return;
    }
    g_assert_false(doctor_names(t.s));
    check_snapshots(t.s, true);
    attach_kill_relay(t.s, false);
    g_assert_true(doctor_names(t.s));
    vm_wait_new_serial(t.s, "B");
    attach_vm(t.s, NULL);
    check_snapshots(t.s, false);
    check_snapshots(t.d, true);
    g_assert_false(doctor_names(t.s));
    g_autofree char *state = qmp_run_state(vm_qmp(t.s));
    g_assert_cmpstr(state, ==, "running");
    attach_kill_relay(t.s, false);
    attach_vm(t.s, NULL);
    attach_kill_relay(t.d, false);
    attach_vm(t.d, NULL);
    move_whole(&t);
    end(&t);
}

/* By the path of the monitor; what the client had set is still there. */
static void test_path(void)
{
    Test t;
    g_autofree char *text = NULL;

    if (!begin(&t, NULL, NULL)) {
        return;
    }
    qmp_ok(vm_qmp(t.s), "migrate-set-parameters", "{'x-farfault-auto-recover': 77}");
    attach_kill_relay(t.s, true);
    g_autofree char *path = g_build_filename(vm_dir(t.s), "server", NULL);
    g_assert_cmpint(attach_run_farfault(NULL, "attach", path, &text), ==, 0);
    vm_reconnect(t.s);
    g_autoptr(JsonObject) p = qmp_return(vm_qmp(t.s), "query-migrate-parameters", NULL);
    g_assert_cmpint(json_object_get_int_member(p, "x-farfault-auto-recover"), ==, 77);
    end(&t);
}

/* Of the kernel's names for an fd that can be opened for writing: what plain QEMU shows, too, and a
 * plan that nobody can change. */
static bool may_be_open(const char *link, int fd)
{
    const int seals = F_SEAL_WRITE | F_SEAL_SEAL;

    return !g_str_has_prefix(link, "/memfd:") || strstr(link, ".ram (deleted)") ||
           (fcntl(fd, F_GET_SEALS) & seals) == seals;
}

static void check_out_of_reach(pid_t pid, int fd)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    g_autofree char *link = ff_attach_link(pid, fd);

    g_snprintf(addr.sun_path, sizeof(addr.sun_path), "/proc/%d/fd/%d", (int)pid, fd);
    int own = link ? open(addr.sun_path, O_RDWR | O_NONBLOCK | O_CLOEXEC) : -1;
    if (own >= 0) {
        if (!may_be_open(link, own)) {
            g_error("%s can be opened for writing", link);
        }
        close(own);
    }
    int sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (link && connect(sock, (struct sockaddr *)&addr, sizeof(addr)) == 0) {
        g_error("%s can be connected to", link);
    }
    close(sock);
}

/* A process that may read QEMU's process, but not attach to it, finds nothing in /proc/PID/fd by
 * which it could decide about the guest or speak to its private monitors. */
static void test_out_of_reach(void)
{
    Test t;
    g_autoptr(GError) error = NULL;

    if (!begin(&t, NULL, NULL)) {
        return;
    }
    g_autoptr(GArray) fds = ff_attach_fds(vm_pid(t.s), &error);
    g_assert_no_error(error);
    for (guint i = 0; i < fds->len; i++) {
        check_out_of_reach(vm_pid(t.s), g_array_index(fds, int, i));
    }
    /* Anybody can tell whether the relay lives. */
    g_autoptr(JsonNode) plan = plan_of(t.s);
    g_autofree char *locks = NULL;
    g_assert_true(g_file_get_contents("/proc/locks", &locks, NULL, NULL));
    g_assert_nonnull(strstr(
        locks, json_object_get_string_member(json_node_get_object(plan), FF_PLAN_STATE_FILE)));
    end(&t);
}

/* What the state is until somebody listens: as the launcher made it, and QEMU waits. */
static void forget_listening(Vm *vm)
{
    static const uint32_t none;
    int state = open_state(vm);

    g_assert_cmpint(pwrite(state, &none, sizeof(none), offsetof(FfStateHeader, role)), ==,
                    sizeof(none));
    g_assert_cmpint(pwrite(state, &none, sizeof(none), offsetof(FfStateHeader, driver_flags)), ==,
                    sizeof(none));
    close(state);
}

/* -incoming URI, and nobody has come yet: the new relay's engine listens again; or for the first
 * time, if the old one died in the first moment of all. */
static void test_listening(gconstpointer unheard)
{
    const char *why;

    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    Test t = {.boot = bootsect_config(RAM_BYTES, 8 << 20, 1)};
    t.s = start("source", &t.boot, NULL, NULL);
    t.d = start("destination", &t.boot, "tcp:127.0.0.1:0", NULL);
    vm_wait_serial(t.s, "B");
    attach_kill_relay(t.d, true);
    if (unheard) {
        forget_listening(t.d);
    }
    attach_vm(t.d, NULL);
    move_prepare(t.s, t.d);
    g_autofree char *uri = move_listen_uri(t.d);
    qmp_ok(vm_qmp(t.s), "migrate", "{'uri': '%s'}", uri);
    qmp_ok(vm_qmp(t.s), "migrate-start-postcopy", NULL);
    qmp_expect(vm_qmp(t.d), "RESUME");
    check_moved_whole(&t);
    /* The same guest once more, its -incoming is long past. */
    attach_kill_relay(t.d, false);
    attach_vm(t.d, NULL);
    g_autofree char *state = qmp_run_state(vm_qmp(t.d));
    g_assert_cmpstr(state, ==, "paused");
    end(&t);
}

static Vm *start_with_slot(const char *name, const BootsectConfig *boot, bool had, bool incoming)
{
    static const char *const args[] = {"-machine", "pc", NULL};
    static const char *const unused[] = {"-machine", "pc", "-object",
                                         "memory-backend-ram,id=late,size=16M", NULL};
    static const char *const plugged[] = {"-machine", "pc",
                                          "-object",  "memory-backend-ram,id=late,size=16M",
                                          "-device",  "pc-dimm,id=dimm0,memdev=late",
                                          NULL};

    return vm_start(&(VmConfig){.name = name,
                                .launcher = VM_RUN,
                                .memory = RAM ",slots=1,maxmem=1G",
                                .args = incoming ? plugged
                                        : had    ? unused
                                                 : args,
                                .boot = boot,
                                .incoming = incoming ? "defer" : NULL,
                                .listens = true});
}

/* Memory that is plugged while the guest runs is in no plan: the next relay finds it, also where
 * QEMU was started with other memory of that name (HAD), which it keeps open. */
typedef struct {
    const char *name;
    bool had, twice, replaced, untracked;
} Plugged;

static const Plugged plugged_rows[] = {
    {"plugged/new"},
    {"plugged/again", true},
    {"plugged/untracked", true, .untracked = true},
    {"plugged/twice", .twice = true},
    {"plugged/replaced", true, .replaced = true},
};

#define LATE "{'qom-type': 'memory-backend-ram', 'id': 'late', 'size': 16777216}"

/* What was unplugged stays mapped for a moment, and nothing tells when it is gone: while both are
 * plugged memory, attach says so. */
static void attach_when_clear(Vm *vm)
{
    g_autofree char *text = NULL;

    while (attach_try(vm, NULL, &text)) {
        g_assert_nonnull(strstr(text, "'late': try again"));
        g_clear_pointer(&text, g_free);
    }
    vm_reconnect(vm);
}

static void test_plugged(gconstpointer data)
{
    static const uint64_t at = 0x100000000;
    const Plugged *row = data;
    const char *why;

    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    Test t = {.boot = bootsect_config(RAM_BYTES, 8 << 20, 1)};
    t.s = start_with_slot("source", &t.boot, row->had, false);
    t.d = start_with_slot("destination", &t.boot, false, true);
    vm_wait_serial(t.s, "B");
    if (row->twice) {
        qmp_ok(vm_qmp(t.s), "object-add", LATE);
    }
    if (row->had || row->twice) {
        qmp_ok(vm_qmp(t.s), "object-del", "{'id': 'late'}");
    }
    qmp_ok(vm_qmp(t.s), "object-add", LATE);
    qmp_ok(vm_qmp(t.s), "device_add", "{'driver': 'pc-dimm', 'id': 'dimm0', 'memdev': 'late'}");
    qtest_writeq(vm_qtest(t.s), at + 4096, 0x1122334455667788);
    if (row->replaced) {
        attach_replace(t.s);
    } else {
        attach_kill_relay(t.s, true);
        attach_when_clear(t.s);
    }
    if (row->untracked) {
        qmp_ok(vm_qmp(t.s), "migrate-set-parameters", "{'x-farfault-untracked': 'postcopy'}");
    }
    move_whole(&t);
    g_assert_cmphex(qtest_readq(vm_qtest(t.d), at + 4096), ==, 0x1122334455667788);
    end(&t);
}

static bool maps_late(const Vm *vm)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/maps", (int)vm_pid(vm)), *maps = NULL;

    g_assert_true(g_file_get_contents(path, &maps, NULL, NULL));
    return strstr(maps, "farfault-late");
}

/* Memory is removed at a human monitor, of which farfault hears nothing: it still migrates the
 * guest, also with a relay that was told of that memory by the one before. */
static void test_removed_unheard(void)
{
    Test t = {0};

    if (!begin(&t, NULL, NULL)) {
        return;
    }
    qmp_ok(vm_qmp(t.s), "object-add", LATE);
    g_autofree char *said = vm_human(t.s, "object_del late");
    while (maps_late(t.s)) {
        g_free(qmp_run_state(vm_qmp(t.s))); /* QEMU unmaps it by and by */
    }
    attach_replace(t.s);
    move_whole(&t);
    g_autoptr(JsonObject) info = qmp_return(vm_qmp(t.s), "query-migrate", NULL);
    JsonObject *own = json_object_get_object_member(info, "x-farfault");
    g_assert_cmpstr(json_object_get_string_member(own, "engine"), ==, "farfault");
    end(&t);
}

/* ---- after the switch ------------------------------------------------------------------------ */

typedef struct {
    const char *name;
    bool source, destination; /* whose relay dies */
    bool engine;              /* at the same time */
    bool paused;              /* the migration is, before that */
    const char *tls;          /* the migration's; NULL: none */
} Row;

static const Row rows[] = {
    {"source/postcopy", .source = true},
    {"source/postcopy/engine", .source = true, .engine = true},
    {"source/paused", .source = true, .paused = true},
    {"destination/postcopy", .destination = true},
    {"destination/postcopy/engine", .destination = true, .engine = true},
    {"destination/paused", .destination = true, .paused = true},
    {"both/postcopy/engine", .source = true, .destination = true, .engine = true},
    {"source/tls/psk", .source = true, .engine = true, .tls = "psk"},
    {"destination/tls/psk", .destination = true, .engine = true, .tls = "psk"},
    {"both/tls/x509", .source = true, .destination = true, .engine = true, .tls = "x509"},
};

/* The key of the client's certificate is under a passphrase. */
static void set_tls(Test *t)
{
    bool x509 = !strcmp(t->tls, "x509");

    if (x509) {
        qmp_ok(vm_qmp(t->s), "object-add",
               "{'qom-type': 'secret', 'id': 'pass', 'data': 'let me in'}");
    }
    move_set_tls(t->s, creds, t->tls, false, x509 ? "pass" : NULL);
    move_set_tls(t->d, creds, t->tls, true, NULL);
}

static void go_postcopy(Test *t)
{
    Qmp *sq = vm_qmp(t->s), *dq = vm_qmp(t->d);

    move_prepare(t->s, t->d);
    if (t->tls) {
        set_tls(t);
    }
    qmp_ok(sq, "migrate-set-parameters", "{'max-postcopy-bandwidth': 4096}");
    qmp_ok(dq, "migrate-incoming", "{'uri': 'tcp:127.0.0.1:0'}");
    g_autofree char *uri = move_listen_uri(t->d);
    qmp_ok(sq, "migrate", "{'uri': '%s'}", uri);
    qmp_ok(sq, "migrate-start-postcopy", NULL);
    qmp_expect_migration(sq, "postcopy-active");
    qmp_expect(dq, "RESUME");
}

static void recover(Test *t)
{
    g_autofree char *path = vm_path(t->d, "recover.sock");

    qmp_ok(vm_qmp(t->d), "migrate-recover", "{'uri': 'unix:%s'}", path);
    qmp_ok(vm_qmp(t->s), "migrate-set-parameters", "{'max-postcopy-bandwidth': 0}");
    qmp_ok(vm_qmp(t->s), "migrate", "{'uri': 'unix:%s', 'resume': true}", path);
}

/* At a monitor of which no relay knows, QEMU itself refuses to run the guest. */
static void check_source_stands(Vm *s)
{
    g_autofree char *state = vm_human_state(s, true);

    g_assert_cmpstr(state, ==, "paused (finish-migrate)");
}

/* QEMU has what the next engine needs of its credentials, for nobody else's eyes. */
static void check_kept(Vm *vm)
{
    int fd = attach_open_memfd(vm, FF_TLS_KEPT_NAME, O_RDONLY);
    struct stat st;

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(fstat(fd, &st), ==, 0);
    g_assert_cmphex(st.st_mode & 0777, ==, 0600);
    g_assert_cmphex(fcntl(fd, F_GET_SEALS) & FF_TLS_KEPT_SEALS, ==, FF_TLS_KEPT_SEALS);
    close(fd);
}

/* After the migration it has it no more; an answer of QEMU comes after what the engine said. */
static void check_forgotten(Vm *vm)
{
    g_autofree char *state = qmp_run_state(vm_qmp(vm));

    g_assert_cmpint(attach_open_memfd(vm, FF_TLS_KEPT_NAME, O_RDONLY), ==, -1);
}

static void test_after(gconstpointer data)
{
    const Row *row = data;
    Test t = {.tls = row->tls};

    if (row->tls && !creds) {
        g_test_skip("no openssl command");
        return;
    }
    if (!begin(&t, NULL, NULL)) {
        return;
    }
    go_postcopy(&t);
    if (row->tls) {
        check_kept(t.s);
        check_kept(t.d);
    }
    if (row->paused) {
        qmp_ok(vm_qmp(t.s), "migrate-pause", NULL);
        qmp_expect_migration(vm_qmp(t.s), "postcopy-paused");
        qmp_expect_migration(vm_qmp(t.d), "postcopy-paused");
    }
    if (row->source) {
        attach_kill_relay(t.s, row->engine);
    }
    if (row->destination) {
        attach_kill_relay(t.d, row->engine);
    }
    check_source_stands(t.s);
    if (row->source) {
        attach_vm(t.s, NULL);
    }
    if (row->destination) {
        attach_vm(t.d, NULL);
    }
    expect_status(t.s, "postcopy-paused");
    expect_status(t.d, "postcopy-paused");
    check_source_stands(t.s); /* by now QEMU would have come to an end, if it had seen one */
    g_autofree char *error = qmp_error(vm_qmp(t.s), "cont", NULL);
    g_assert_cmpstr(error, ==, "Migration is not finalized yet");
    recover(&t);
    check_moved_whole(&t);
    if (row->tls) {
        check_forgotten(t.s);
        check_forgotten(t.d);
    }
    end(&t);
}

static void rename_file(const char *dir, const char *from, const char *to)
{
    g_autofree char *a = g_build_filename(creds, dir, from, NULL);
    g_autofree char *b = g_build_filename(creds, dir, to, NULL);

    g_assert_cmpint(rename(a, b), ==, 0);
}

static void check_unreadable(Vm *vm, const char *command, const char *arguments, const char *file)
{
    g_autofree char *error = qmp_error(vm_qmp(vm), command, "%s", arguments);

    if (!strstr(error, file) || !strstr(error, "put that right and repeat this command")) {
        g_error("%s: %s", command, error);
    }
}

/* The files of the credentials are away when a new engine looks for them: what is typed then says
 * so, and does it when they are back. */
static void test_unreadable(void)
{
    Test t = {.tls = "x509"};

    if (!creds) {
        g_test_skip("no openssl command");
        return;
    }
    if (!begin(&t, NULL, NULL)) {
        return;
    }
    go_postcopy(&t);
    attach_kill_relay(t.s, true);
    attach_kill_relay(t.d, true);
    rename_file("x509-server", "server-key.pem", "away");
    rename_file("x509-client", "ca-cert.pem", "away");
    attach_vm(t.s, NULL);
    attach_vm(t.d, NULL);
    expect_status(t.s, "postcopy-paused");
    expect_status(t.d, "postcopy-paused");
    g_autofree char *path = vm_path(t.d, "recover.sock");
    g_autofree char *here = g_strdup_printf("{'uri': 'unix:%s'}", path);
    g_autofree char *there = g_strdup_printf("{'uri': 'unix:%s', 'resume': true}", path);
    check_unreadable(t.d, "migrate-recover", here, "x509-server/server-key.pem");
    check_unreadable(t.s, "migrate", there, "x509-client/ca-cert.pem");
    check_unreadable(t.s, "x-farfault-revoke", here, "x509-client/ca-cert.pem");
    rename_file("x509-server", "away", "server-key.pem");
    rename_file("x509-client", "away", "ca-cert.pem");
    recover(&t);
    check_moved_whole(&t);
    end(&t);
}

/* ---- moments of the switchover --------------------------------------------------------------- */

typedef struct {
    const char *fault; /* POINT=ACTION of base/failpoints.h */
    OperatorEnd end;   /* who has the guest then */
    bool dies;         /* the destination's QEMU: nothing was loaded, so nothing can be granted */
    bool either;       /* the engine lives, and may have given the guest before it sees the end */
} Moment;

#define S OPERATOR_SOURCE
#define D OPERATOR_DESTINATION

static const Moment moments[] = {
    /* the source's: until GIVEN is stored the guest is its own */
    {"source/active/at/active=both", S},
    {"source/active/at/prepared=both", S},
    {"source/active/at/stopped=both", S},
    {"source/device/at/saving=both", S},
    {"source/device/at/saving-held=both", S},
    {"source/device/main/device=both", S},
    {"source/device/main/device=relay", S, .either = true},
    {"source/device/at/loaded=both", S},
    {"source/device/at/given=both", D},
    {"source/device/main/grant=both", D},
    {"source/device/at/granted=both", D},
    {"source/device/at/granted=relay", D},
    {"source/postcopy-active/at/running=both", D},
    {"source/postcopy-active/main/pages#3=both", D},
    {"source/postcopy-active/at/done=both", D},
    {"source/postcopy-active/at/saved=both", D},
    {"source/postcopy-active/at/undone=both", D},
    /* the destination's: its guest may run from GRANTED on */
    {"destination/active/at/active=both", S, true},
    {"destination/active/at/loading-held=both", S, true},
    {"destination/active/at/armed=both", S, true},
    {"destination/active/at/shut=both", S, true},
    {"destination/active/at/loaded=both", S},
    {"destination/active/main/loaded=both", S},
    {"destination/active/at/grant=both", D},
    {"destination/active/at/granted=both", D},
    {"destination/active/at/granted=relay", D},
    {"destination/postcopy-active/at/resumed=both", D},
    {"destination/postcopy-active/at/placed#50=both", D},
    {"destination/postcopy-active/at/all=both", D},
    {"destination/postcopy-active/at/done=both", D},
};

/* With one side that nobody can ask by QMP, and no main loop that may hang. */
static void check_one_runs(Test *t, OperatorEnd who)
{
    if (who == D) {
        g_autofree char *s = vm_human_state(t->s, false);
        g_assert_cmpstr(s, !=, "running");
    }
}

static void begin_migration(Test *t, bool source_dies)
{
    Qmp *sq = vm_qmp(t->s);

    move_prepare(t->s, t->d);
    qmp_ok(vm_qmp(t->d), "migrate-incoming", "{'uri': 'tcp:127.0.0.1:0'}");
    g_autofree char *uri = move_listen_uri(t->d);
    if (source_dies) {
        move_begin_unheard(t->s, uri, true);
    } else {
        qmp_ok(sq, "migrate", "{'uri': '%s'}", uri);
        qmp_ok(sq, "migrate-start-postcopy", NULL);
    }
}

static void test_moment(gconstpointer data)
{
    const Moment *row = data;
    bool at_source = g_str_has_prefix(row->fault, "source");
    Operator o;
    Test t = {0};

    if (!begin(&t, at_source ? row->fault : NULL, at_source ? NULL : row->fault)) {
        return;
    }
    Vm *victim = at_source ? t.s : t.d;
    OperatorEnd end = row->end;
    begin_migration(&t, at_source);
    vm_wait_qmp_end(victim);
    g_assert_true(vm_fault_happened(victim, 0));
    check_one_runs(&t, end);
    operator_init(&o, t.s, t.d);
    o.switched = true;
    o.source_port = 1;
    if (row->dies) {
        /* By itself, as its device state came to an end, or by the new engine. */
        g_autofree char *text = NULL;
        attach_try(victim, NULL, &text);
        vm_wait_exit(victim);
        expect_status(t.s, "failed");
    } else {
        attach_vm(victim, NULL);
        end = operator_run(&o);
        if (end != row->end && !(row->either && end == D)) {
            g_error("%s: the guest is at side %d, expected %d", row->fault, end, row->end);
        }
    }
    operator_check_guest(&o, end, &t.boot, RAM_BYTES);
    operator_end(&o, end);
}

/* ---- what is refused ------------------------------------------------------------------------- */

static void expect_refusal(const char *target, int status, const char *words)
{
    g_autofree char *text = NULL;

    g_assert_cmpint(attach_run_farfault(NULL, "attach", target, &text), ==, status);
    if (!strstr(text, words)) {
        g_error("attach %s: %s", target, text);
    }
    g_assert_true(strchr(text, '\n') == text + strlen(text) - 1); /* one line */
}

static void test_not_ours(void)
{
    const char *why;

    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    g_autofree char *self = g_strdup_printf("%d", (int)getpid());
    Vm *plain = vm_start(&(VmConfig){.name = "plain", .memory = RAM});
    g_autofree char *qemu = g_strdup_printf("%d", (int)vm_pid(plain));

    expect_refusal(self, 1, "is no guest that farfault started");
    expect_refusal(qemu, 1, "is no guest that farfault started");
    expect_refusal("2147483647", 1, "there is no process 2147483647");
    expect_refusal("/nonexistent/qmp.sock", 1, "has its QMP socket at /nonexistent/qmp.sock");
    expect_refusal("--now", 2, "unknown option \"--now\"");
    vm_end(plain);
}

/* A process that looks like a guest of farfault, and keeps a fifo as the state of its migrations:
 * in a parcel, or under a number. The caller ends it. */
static pid_t start_fake(const char *dir, bool parcel)
{
    g_autofree char *path = g_build_filename(dir, "fifo", NULL);
    int fds[] = {-1, open("/dev/null", O_PATH | O_CLOEXEC)};

    g_assert_cmpint(mkfifo(path, 0600), ==, 0);
    fds[0] = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC); /* nobody writes */
    g_unlink(path);
    int kept = parcel ? ff_fdstore_new(fds, G_N_ELEMENTS(fds)) : -1;
    g_autofree char *text =
        g_strdup_printf("{\"" FF_PLAN_KEPT "\": %d, \"" FF_PLAN_KEPT_STATE
                        "\": %d, \"qemu-monitor\": %d, \"monitors\": [], \"ram\": []}",
                        kept, parcel ? -1 : fds[0], fds[1]);
    int plan = memfd_create("farfault-plan", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    g_assert_cmpint(write(plan, text, strlen(text)), ==, strlen(text));
    g_assert_cmpint(
        fcntl(plan, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL), ==, 0);
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        pause();
        _exit(0);
    }
    int own[] = {fds[0], fds[1], plan, kept};
    for (unsigned i = 0; i < G_N_ELEMENTS(own); i++) {
        if (own[i] >= 0) {
            close(own[i]);
        }
    }
    return pid;
}

/* Nothing is opened that is not what the launcher made: a fifo, of which nobody writes, would keep
 * a process that opens it waiting, and a device may do something. */
static void test_no_memfd(gconstpointer parcel)
{
    g_autofree char *farfault = vm_build_path("cli/farfault");
    g_autofree char *dir = g_dir_make_tmp("attach-XXXXXX", NULL), *text = NULL;
    const char *why;

    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        g_rmdir(dir);
        return;
    }
    pid_t fake = start_fake(dir, parcel);
    g_autofree char *pid = g_strdup_printf("%d", (int)fake);

    expect_refusal(pid, 1, parcel ? "is no memfd" : "does not keep the state of its migrations");
    int status = attach_run((const char *[]){"timeout", "20", farfault, "doctor", NULL}, &text);
    g_assert_cmpint(status, !=, 124);
    kill(fake, SIGKILL);
    waitpid(fake, NULL, 0);
    g_assert_cmpint(g_rmdir(dir), ==, 0);
}

/* Somebody listens where the guest's monitor was, and is too busy to accept: he is not waited for,
 * and his name is not taken from him. */
static void test_in_the_way(void)
{
    g_autofree char *dir = g_dir_make_tmp("attach-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(dir, "qmp", NULL);
    g_autoptr(GPtrArray) made = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GError) error = NULL;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const FfRunas as = {.uid = (uid_t)-1, .gid = (gid_t)-1};
    int busy = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), waits[8];
    unsigned n = 0;

    g_strlcpy(address.sun_path, path, sizeof(address.sun_path));
    g_assert_cmpint(bind(busy, (struct sockaddr *)&address, sizeof(address)), ==, 0);
    g_assert_cmpint(listen(busy, 0), ==, 0);
    do {
        g_assert_cmpuint(n, <, G_N_ELEMENTS(waits));
        waits[n] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    } while (connect(waits[n++], (struct sockaddr *)&address, sizeof(address)) == 0);
    g_assert_cmpint(errno, ==, EAGAIN);
    alarm(20); /* ends this program if it is waited for */
    int fd = ff_attach_listen((struct sockaddr *)&address, sizeof(address), &as, false, made, "qmp",
                              &error);
    alarm(0);
    g_assert_cmpint(fd, ==, -1);
    g_assert_nonnull(strstr(error->message, " listens there"));
    while (n) {
        close(waits[--n]);
    }
    close(busy);
    g_assert_cmpint(g_unlink(path), ==, 0);
    g_assert_cmpint(g_rmdir(dir), ==, 0);
}

static void test_relay_lives(void)
{
    Test t = {0};

    if (!begin(&t, NULL, NULL)) {
        return;
    }
    g_autofree char *pid = g_strdup_printf("%d", (int)vm_pid(t.s));
    expect_refusal(pid, 1, "lives (or its engine)");
    move_whole(&t);
    end(&t);
}

static int listen_at(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    g_strlcpy(address.sun_path, path, sizeof(address.sun_path));
    g_assert_cmpint(bind(fd, (struct sockaddr *)&address, sizeof(address)), ==, 0);
    g_assert_cmpint(listen(fd, 1), ==, 0);
    return fd;
}

static void replace_with(Vm *vm, const char *words)
{
    g_autofree char *text = NULL;

    g_assert_cmpint(attach_replace_try(vm, &text), ==, 0);
    if (words ? !strstr(text, words) : strchr(text, '\n') != text + strlen(text) - 1) {
        g_error("attach --replace: %s", text);
    }
}

/* The relay lives, and the name of its socket has gone, or is another process's. */
static void test_lost_socket(void)
{
    Test t = {0};

    if (geteuid() != 0) {
        g_test_skip("needs root for --replace");
        return;
    }
    if (!begin(&t, NULL, NULL)) {
        return;
    }
    g_autofree char *pid = g_strdup_printf("%d", (int)vm_pid(t.s)), *path = vm_path(t.s, "server");
    g_autofree char *here = g_strdup_printf("%s: process %d listens there", path, (int)getpid());
    g_autofree char *lost = g_strdup_printf("has lost %s: farfault attach --replace %s", path, pid);

    g_assert_cmpint(g_unlink(path), ==, 0);
    expect_refusal(pid, 1, lost);
    replace_with(t.s, NULL);
    vm_reconnect(t.s);
    qmp_ok(vm_qmp(t.s), "query-status", NULL);

    g_assert_cmpint(g_unlink(path), ==, 0);
    int other = listen_at(path);
    expect_refusal(pid, 1, lost);
    replace_with(t.s, here);
    qmp_ok(vm_qmp(t.s), "query-status", NULL); /* who is there stays */
    close(other);
    replace_with(t.s, NULL);
    vm_reconnect(t.s);
    qmp_ok(vm_qmp(t.s), "query-status", NULL);
    expect_refusal(pid, 1, "there is nothing to attach");
    end(&t);
}

/* What was bound by a relative name is found from another folder. */
static void test_relative(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "vm1.qmp"};
    g_autofree char *text = g_base64_encode((const guchar *)&address, sizeof(address));
    g_autoptr(JsonObject) monitor = json_object_new();
    struct sockaddr_storage found;
    socklen_t len;

    json_object_set_string_member(monitor, FF_PLAN_ADDRESS, text);
    json_object_set_string_member(monitor, "unlink", "/somewhere/vm1.qmp");
    g_assert_true(ff_attach_address(monitor, &found, &len));
    g_assert_cmpstr(((struct sockaddr_un *)&found)->sun_path, ==, "/somewhere/vm1.qmp");
}

/* Another user, who is not root. */
static void test_other_user(void)
{
    Test t;

    if (geteuid() != 0) {
        g_test_skip("needs root to become somebody else");
        return;
    }
    if (!begin(&t, NULL, NULL)) {
        return;
    }
    attach_kill_relay(t.s, false);
    g_autofree char *pid = g_strdup_printf("%d", (int)vm_pid(t.s));
    pid_t child = fork();
    if (child == 0) {
        if (setgid(65534) || setuid(65534)) {
            _exit(1);
        }
        expect_refusal(pid, 1, "may not be looked at: be its user, or root");
        _exit(0);
    }
    int status;
    g_assert_cmpint(waitpid(child, &status, 0), ==, child);
    g_assert_cmpint(status, ==, 0);
    attach_vm(t.s, NULL);
    end(&t);
}

/* A relay there would not reach QEMU's peers. */
static void test_namespace(void)
{
    g_autofree char *farfault = vm_build_path("cli/farfault");
    g_autofree char *text = NULL, *out = NULL;
    Test t;

    if (geteuid() != 0 || attach_run((const char *[]){"unshare", "-n", "true", NULL}, &out)) {
        g_test_skip("needs the right to make a network namespace");
        return;
    }
    if (!begin(&t, NULL, NULL)) {
        return;
    }
    g_autofree char *pid = g_strdup_printf("%d", (int)vm_pid(t.s));
    attach_kill_relay(t.s, false);
    g_assert_cmpint(
        attach_run((const char *[]){"unshare", "-n", farfault, "attach", pid, NULL}, &text), ==, 1);
    g_assert_nonnull(strstr(text, "is in another net namespace: nsenter -t "));
    end(&t);
}

/* What doctor says where Yama's setting is SCOPE. */
static char *doctor_under_yama(const char *scope)
{
    g_autofree char *farfault = vm_build_path("cli/farfault");
    g_autofree char *script =
        g_strdup_printf("mount -t tmpfs yama /proc/sys/kernel && mkdir /proc/sys/kernel/yama && "
                        "echo %s >/proc/sys/kernel/yama/ptrace_scope && '%s' doctor; true",
                        scope, farfault);
    char *text = NULL;

    attach_run((const char *[]){"unshare", "-m", "sh", "-c", script, NULL}, &text);
    return text;
}

static void test_yama(void)
{
    g_autofree char *out = NULL;
    const char *why;

    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    if (geteuid() != 0 || attach_run((const char *[]){"unshare", "-m", "true", NULL}, &out)) {
        g_test_skip("needs the right to make a mount namespace");
        return;
    }
    g_autofree char *none = doctor_under_yama("0"), *root = doctor_under_yama("1");
    g_autofree char *never = doctor_under_yama("3");
    g_assert_null(strstr(none, "Yama"));
    g_assert_nonnull(strstr(root, "ptrace_scope is 1: farfault attach has to be run by root"));
    g_assert_nonnull(strstr(never, "ptrace_scope is 3: farfault attach cannot give"));
}

static void check_state_refused(Vm *vm, int state, size_t at, uint32_t value, const char *words)
{
    g_autofree char *pid = g_strdup_printf("%d", (int)vm_pid(vm));
    uint32_t before;

    g_assert_cmpint(pread(state, &before, sizeof(before), at), ==, sizeof(before));
    g_assert_cmpint(pwrite(state, &value, sizeof(value), at), ==, sizeof(value));
    expect_refusal(pid, 1, words);
    g_assert_cmpint(pwrite(state, &before, sizeof(before), at), ==, sizeof(before));
}

/* Of another version, or not what anybody stores. */
static void test_bad_state(void)
{
    Test t = {0};

    if (!begin(&t, NULL, NULL)) {
        return;
    }
    attach_kill_relay(t.s, false);
    int state = open_state(t.s);
    g_assert_cmpint(state, >=, 0);
    check_state_refused(t.s, state, offsetof(FfStateHeader, version), 2, "version 2, expected");
    check_state_refused(t.s, state, offsetof(FfStateHeader, n_blocks), 100000, "is damaged");
    check_state_refused(t.s, state, offsetof(FfStateHeader, undo_len), 1u << 30, "is damaged");
    check_state_refused(t.s, state, offsetof(FfStateHeader, kind_in_qemu), 0,
                        "does not keep its userfaultfds any more");
    close(state);
    attach_vm(t.s, NULL);
    move_whole(&t);
    end(&t);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    creds = certs_new_pair();
    if (creds) {
        certs_openssl(creds, "pkey -in client-key.pem -aes256 -passout 'pass:let me in'"
                             " -out x509-client/client-key.pem");
    }
    g_test_add_func("/attach/idle", test_idle);
    g_test_add_func("/attach/path", test_path);
    g_test_add_func("/attach/stopped", test_stopped);
    g_test_add_func("/attach/out-of-reach", test_out_of_reach);
    g_test_add_data_func("/attach/listening", NULL, test_listening);
    g_test_add_data_func("/attach/unheard", "unheard", test_listening);
    g_test_add_func("/attach/removed-unheard", test_removed_unheard);
    for (unsigned i = 0; i < G_N_ELEMENTS(plugged_rows); i++) {
        g_autofree char *path = g_strconcat("/attach/", plugged_rows[i].name, NULL);

        g_test_add_data_func(path, &plugged_rows[i], test_plugged);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *path = g_strconcat("/attach/after/", rows[i].name, NULL);
        g_test_add_data_func(path, &rows[i], test_after);
    }
    g_test_add_func("/attach/after/unreadable", test_unreadable);
    for (unsigned i = 0; i < G_N_ELEMENTS(moments); i++) {
        g_autofree char *name = g_strdelimit(g_strdup(moments[i].fault), "/", '.');
        g_autofree char *path = g_strconcat("/attach/moment/", name, NULL);
        g_test_add_data_func(path, &moments[i], test_moment);
    }
    g_test_add_func("/attach/refused/not-ours", test_not_ours);
    g_test_add_data_func("/attach/refused/no-memfd", "parcel", test_no_memfd);
    g_test_add_data_func("/attach/refused/no-memfd/number", NULL, test_no_memfd);
    g_test_add_func("/attach/refused/in-the-way", test_in_the_way);
    g_test_add_func("/attach/refused/relay-lives", test_relay_lives);
    g_test_add_func("/attach/lost-socket", test_lost_socket);
    g_test_add_func("/attach/relative", test_relative);
    g_test_add_func("/attach/refused/other-user", test_other_user);
    g_test_add_func("/attach/refused/namespace", test_namespace);
    g_test_add_func("/attach/refused/state", test_bad_state);
    g_test_add_func("/attach/yama", test_yama);
    int rc = g_test_run();
    if (creds) {
        certs_remove(creds);
        g_free(creds);
    }
    return rc;
}
