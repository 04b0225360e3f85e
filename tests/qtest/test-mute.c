/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Peers that say nothing. One that accepts, reads whatever comes and never answers gets nothing of
 * the guest, whatever the client asks for: the migration fails, or, of a guest that QEMU is to
 * migrate, waits until it is cancelled, and the guest runs at the source all the time. One that
 * speaks late gets such a guest. And a destination whose engine dies before it has greeted does not
 * become one: the next engine listens where the one before it did, and has the sources that wait
 * there.
 */
#include <glib-unix.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net/address.h"
#include "tests/lib/certs.h"
#include "tests/lib/check.h"
#include "tests/lib/joint.h"
#include "tests/lib/move.h"
#include "tests/lib/vm.h"

#define RAM "64M"
#define RAM_BYTES (64ull << 20)
/* More than the opening, and less than anything of a guest. */
#define OPENING_MAX 1024
/* The engine waits for 20 s. */
#define SILENCE_S 60
/* The peers that QEMU would wait for. */
#define WAITED_FOR "said nothing for 2 s. It is waited for, as QEMU would"

/* ---- the peer -------------------------------------------------------------------------------- */

/* Accepts every connection and reads all that comes, so that no buffer is ever full. */
typedef struct {
    int listen_fd;
    char *uri;
    GThread *acceptor;
    GPtrArray *readers; /* of GThread; the acceptor's, then the test's */
    GArray *fds;        /* of int; the same */
    gint bytes;         /* atomic; read so far. Writers: the readers */
} Mute;

typedef struct {
    Mute *mute;
    int fd;
} Connection;

static gpointer read_all(gpointer data)
{
    g_autofree Connection *c = data;
    char buf[16384];
    ssize_t n;

    while ((n = recv(c->fd, buf, sizeof(buf), 0)) > 0) {
        g_atomic_int_add(&c->mute->bytes, (gint)n);
    }
    return NULL;
}

static gpointer accept_all(gpointer data)
{
    Mute *mute = data;
    int fd;

    while ((fd = accept4(mute->listen_fd, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
        Connection c = {mute, fd};

        g_array_append_val(mute->fds, fd);
        g_ptr_array_add(mute->readers, g_thread_new("mute", read_all, g_memdup2(&c, sizeof(c))));
    }
    return NULL;
}

static void mute_start(Mute *mute, const char *uri)
{
    g_autoptr(FfAddress) any = ff_address_parse(uri, NULL);
    g_autoptr(GError) error = NULL;

    mute->listen_fd = ff_address_listen(any, &error);
    g_assert_no_error(error);
    g_unix_set_fd_nonblocking(mute->listen_fd, FALSE, NULL);
    mute->uri = ff_address_of_listener(mute->listen_fd);
    mute->readers = g_ptr_array_new();
    mute->fds = g_array_new(FALSE, FALSE, sizeof(int));
    mute->acceptor = g_thread_new("mute-accept", accept_all, mute);
}

/* Returns how many connections there were. */
static guint mute_end(Mute *mute)
{
    guint n;

    shutdown(mute->listen_fd, SHUT_RDWR);
    g_thread_join(mute->acceptor);
    for (n = 0; n < mute->fds->len; n++) {
        shutdown(g_array_index(mute->fds, int, n), SHUT_RDWR);
        g_thread_join(mute->readers->pdata[n]);
        close(g_array_index(mute->fds, int, n));
    }
    g_ptr_array_unref(mute->readers);
    g_array_unref(mute->fds);
    g_free(mute->uri);
    close(mute->listen_fd);
    return n;
}

/* ---- the source ------------------------------------------------------------------------------ */

typedef struct {
    const char *name;
    const char *caps[3]; /* beside events */
    const char *machine; /* NULL: "pc" */
    const char *hint;    /* stands in the error, too; NULL */
    bool newer;          /* QEMU 10 */
    bool passed;         /* a connection that the client made, by getfd */
    bool human;          /* migrate_start_postcopy at the human monitor */
    bool require;        /* x-farfault-peer */
    bool itself;         /* x-farfault-auto-postcopy: the source would switch by itself */
    bool always;         /* nobody asks for postcopy, the engine carries it all the same */
    bool second;         /* a second connection is tried */
    bool whole;          /* as long as the engine waits; else 2 s */
    bool tls;            /* the peer does not answer the handshake */
    bool untracked;      /* the guest's writes cannot be tracked, so QEMU is to carry it */
    bool launcher;       /* so it is, as the launcher found */
    bool relative;       /* to a unix socket, named from the folder in which QEMU runs */
} Row;

#define POSTCOPY "postcopy-ram"
#define PREEMPT "postcopy-preempt"

static const Row rows[] = {
    {"plain", {POSTCOPY}, .whole = true},
    {"human", {POSTCOPY}, .human = true},
    {"untracked", {POSTCOPY}, .untracked = true},
    {"itself", {POSTCOPY}, .itself = true},
    {"untracked/itself", {POSTCOPY}, .itself = true, .untracked = true},
    {"untracked/human", {POSTCOPY}, .human = true, .untracked = true},
    {"untracked/passed", {POSTCOPY}, .passed = true, .untracked = true},
    {"untracked/preempt", {POSTCOPY, PREEMPT}, .second = true, .untracked = true},
    {"untracked/newer", {POSTCOPY}, .newer = true, .untracked = true},
    {"untracked/isapc", {POSTCOPY}, .machine = "isapc", .untracked = true},
    {"untracked/old", {POSTCOPY}, .machine = "pc-i440fx-2.3", .untracked = true},
    {"launcher", {POSTCOPY}, .launcher = true},
    {"launcher/human", {POSTCOPY}, .human = true, .launcher = true},
    {"launcher/itself", {POSTCOPY}, .itself = true, .launcher = true},
    {"launcher/passed", {POSTCOPY}, .passed = true, .launcher = true},
    {"launcher/preempt", {POSTCOPY, PREEMPT}, .second = true, .launcher = true},
    {"launcher/uuid", {POSTCOPY, "validate-uuid"}, .launcher = true},
    {"launcher/tls", {POSTCOPY}, .tls = true, .launcher = true},
    {"launcher/newer", {POSTCOPY}, .newer = true, .launcher = true},
    {"xbzrle", {POSTCOPY, "xbzrle"}},
    {"xbzrle/launcher", {POSTCOPY, "xbzrle"}, .launcher = true},
    {"compress", {POSTCOPY, "compress"}},
    {"rdma-pin-all", {POSTCOPY, "rdma-pin-all"}},
    {"launcher/relative", {POSTCOPY}, .launcher = true, .relative = true},
    {"untracked/relative", {POSTCOPY}, .untracked = true, .relative = true},
    {"relative", {POSTCOPY}, .relative = true},
    {"passed", {POSTCOPY}, .passed = true},
    {"require", {POSTCOPY}, .require = true},
    {"return-path", {POSTCOPY, "return-path"}},
    {"preempt", {POSTCOPY, PREEMPT}, .second = true},
    {"preempt/passed", {POSTCOPY, PREEMPT}, .passed = true},
    {"tls", {POSTCOPY}, .tls = true},
    {"tls/untracked", {POSTCOPY}, .tls = true, .untracked = true},
    {"multifd", {POSTCOPY, "multifd"}, .hint = "switch multifd off"},
    {"always", .always = true},
    {"always/return-path", {"return-path"}, .always = true},
    {"newer/plain", {POSTCOPY}, .newer = true},
    {"newer/preempt", {POSTCOPY, PREEMPT}, .newer = true, .second = true},
    {"newer/preempt/old-machine",
     {POSTCOPY, PREEMPT},
     .machine = "pc-i440fx-7.2",
     .newer = true,
     .second = true},
};

static char *credentials; /* of certs_new_pair(); NULL: no openssl */

#define ARGUMENTS 7

/* With the last two the launcher leaves the guest to QEMU. */
static void fill_arguments(const Row *row, const char *args[ARGUMENTS])
{
    const char *const all[ARGUMENTS] = {"-machine",
                                        row->machine ? row->machine : "pc",
                                        "-uuid",
                                        "6c0b1f62-1f7c-4c0e-9d57-6b1f3e5d8a11",
                                        row->launcher ? "-global" : NULL,
                                        "memory-backend-ram.dump=on"};

    memcpy(args, all, sizeof(all));
}

static Vm *start_source(const Row *row, const BootsectConfig *boot, const char *qemu)
{
    static const char untracked[] = "source/*/call/uffd-track=EIO";
    const char *args[ARGUMENTS];

    fill_arguments(row, args);
    return vm_start(&(VmConfig){.name = "source",
                                .launcher = VM_RUN,
                                .qemu = qemu,
                                .memory = RAM,
                                .args = args,
                                .deadlines = row->whole ? NULL : "greeting=2000",
                                .faults = row->untracked ? untracked : NULL,
                                .boot = boot});
}

static char *connect_for(Qmp *s, const char *uri)
{
    g_autoptr(FfAddress) address = ff_address_parse(uri, NULL);
    int fd = ff_address_connect(address, NULL, NULL);

    qmp_getfd(s, "moved", fd);
    close(fd);
    return g_strdup("fd:moved");
}

/* From this folder, which is QEMU's too. */
static char *relative_uri(const char *path)
{
    g_autofree char *here = g_get_current_dir();
    g_autoptr(GString) uri = g_string_new("unix:");

    for (const char *slash = here; here[1] && (slash = strchr(slash, '/')); slash++) {
        g_string_append(uri, "../");
    }
    return g_strconcat(uri->str, path + 1, NULL);
}

/* QEMU is to carry it. */
static bool is_qemus(const Row *row)
{
    static const char *const mixed[] = {"xbzrle", "compress", "rdma-pin-all", NULL};

    return row->untracked || row->launcher ||
           (row->caps[1] && g_strv_contains(mixed, row->caps[1]));
}

static const char *last_status(const Row *row)
{
    return is_qemus(row) ? "cancelled" : "failed";
}

/* Any event about the migration but setup and the last one is one too many. */
static bool is_over(JsonObject *data, const void *opaque)
{
    const char *status = json_object_get_string_member(data, "status"), *last = last_status(opaque);

    if (strcmp(status, "setup") && strcmp(status, last) &&
        (strcmp(status, "cancelling") || strcmp(last, "cancelled"))) {
        test_fail("the source is %s with a peer that has not said a byte", status);
    }
    return !strcmp(status, last);
}

static void switch_over(const Row *row, Qmp *s)
{
    if (row->human) {
        g_free(qmp_hmp(s, "migrate_start_postcopy"));
    } else if (!row->always && !row->itself) {
        qmp_ok(s, "migrate-start-postcopy", NULL);
    }
}

static void check_error(const Row *row, Vm *source, const char *peer)
{
    g_autoptr(JsonObject) info = qmp_return(vm_qmp(source), "query-migrate", NULL);
    const char *why = json_object_get_string_member(info, "error-desc");

    g_assert_nonnull(strstr(why, row->tls     ? "it was not finished in time"
                                 : row->whole ? "said nothing for 20 s"
                                              : "said nothing for 2 s"));
    g_assert_nonnull(strstr(why, row->relative ? "unix socket" : peer + strlen("tcp:")));
    g_assert_null(strchr(why, '\n'));
    if (row->hint) {
        g_assert_nonnull(strstr(why, row->hint));
    }
}

static void check_stayed(Vm *source)
{
    g_autofree char *state = qmp_run_state(vm_qmp(source));

    g_assert_cmpstr(state, ==, "running");
    g_assert_false(qmp_has_event(vm_qmp(source), "STOP"));
    vm_wait_new_serial(source, "B");
}

/* The same source, to a peer that does speak. */
static void migrate_again(const Row *row, Vm *source, const BootsectConfig *boot, const char *qemu)
{
    const char *args[ARGUMENTS];

    fill_arguments(row, args);
    g_autoptr(Vm) destination = vm_start(&(VmConfig){.name = "destination",
                                                     .launcher = VM_RUN,
                                                     .qemu = qemu,
                                                     .memory = RAM,
                                                     .args = args,
                                                     .boot = boot,
                                                     .incoming = "defer"});
    Qmp *s = vm_qmp(source), *d = vm_qmp(destination);

    move_prepare(source, destination);
    for (unsigned i = 0; i < G_N_ELEMENTS(row->caps) && row->caps[i]; i++) {
        qmp_set_capability(d, row->caps[i], true);
    }
    qmp_ok(d, "migrate-incoming", "{'uri': 'tcp:127.0.0.1:0'}");
    g_autofree char *uri = move_listen_uri(destination);

    qmp_ok(s, "migrate", "{'uri': '%s'}", uri);
    qmp_ok(s, "migrate-start-postcopy", NULL);
    move_wait_completed(source, destination);
    vm_wait_new_serial(destination, "B");
    qmp_ok(d, "stop", NULL);
    check_right(check_moved(source, destination, boot, RAM_BYTES));
}

static void test_mute(gconstpointer data)
{
    const Row *row = data;
    const char *why;

    if (row->whole ? !vm_farfault_available(&why) : !vm_faults_available(&why)) {
        g_test_skip(why);
        return;
    }
    g_autofree char *qemu = row->newer ? vm_newer_qemu() : NULL;
    if (row->newer && !qemu) {
        return;
    }
    if (row->tls && !credentials) {
        g_test_skip("no openssl");
        return;
    }
    BootsectConfig boot = bootsect_config(RAM_BYTES, 8 << 20, 1);
    g_autoptr(Vm) source = start_source(row, &boot, qemu);
    Qmp *s = vm_qmp(source);
    Mute mute = {0};

    g_autofree char *path = vm_path(source, "mute");
    g_autofree char *at =
        row->relative ? g_strdup_printf("unix:%s", path) : g_strdup("tcp:127.0.0.1:0");

    mute_start(&mute, at);
    vm_wait_serial(source, "B");
    qmp_set_capability(s, "events", true);
    for (unsigned i = 0; i < G_N_ELEMENTS(row->caps) && row->caps[i]; i++) {
        qmp_set_capability(s, row->caps[i], true);
    }
    if (row->always) {
        qmp_ok(s, "migrate-set-parameters",
               "{'x-farfault-policy': 'always', 'downtime-limit': 20000}");
    }
    if (row->itself) {
        qmp_ok(s, "migrate-set-parameters", "{'x-farfault-auto-postcopy': true}");
    }
    if (row->require) {
        qmp_ok(s, "migrate-set-parameters", "{'x-farfault-peer': 'require'}");
    }
    if (row->tls) {
        move_set_tls(source, credentials, "psk", false, NULL);
    }
    g_autofree char *peer = g_strdup(mute.uri);
    g_autofree char *uri = row->passed     ? connect_for(s, peer)
                           : row->relative ? relative_uri(path)
                                           : g_strdup(peer);

    qmp_ok(s, "migrate", "{'uri': '%s'}", uri);
    switch_over(row, s);
    if (is_qemus(row)) {
        vm_wait_stderr(source, WAITED_FOR);
        qmp_ok(s, "migrate_cancel", NULL);
    }
    json_object_unref(qmp_wait_event(s, "MIGRATION", is_over, row, SILENCE_S));
    if (!is_qemus(row)) {
        check_error(row, source, peer);
    }
    check_stayed(source);
    g_assert_cmpint(g_atomic_int_get(&mute.bytes), <, OPENING_MAX);
    g_assert_cmpuint(mute_end(&mute), ==, row->second ? 2 : 1);
    if (row->tls) {
        qmp_ok(s, "migrate-set-parameters", "{'tls-creds': ''}");
    }
    migrate_again(row, source, &boot, qemu);
}

/* ---- a peer that speaks late ----------------------------------------------------------------- */

static int connect_to(const char *uri)
{
    g_autoptr(FfAddress) address = ff_address_parse(uri, NULL);
    int fd = ff_address_connect(address, NULL, NULL);

    g_assert_cmpint(fd, >=, 0);
    g_unix_set_fd_nonblocking(fd, FALSE, NULL);
    return fd;
}

static const Row late_rows[] = {
    {"late", {POSTCOPY}, .launcher = true},
    {"late/tls", {POSTCOPY}, .launcher = true, .tls = true},
};

/* QEMU alone would have waited for it. */
static void test_late(gconstpointer data)
{
    const Row *row = data;
    const char *why, *args[ARGUMENTS];

    if (!vm_faults_available(&why) || (row->tls && !credentials)) {
        g_test_skip("no faults, or no openssl");
        return;
    }
    fill_arguments(row, args);
    BootsectConfig boot = bootsect_config(RAM_BYTES, 8 << 20, 1);
    g_autoptr(Vm) source = start_source(row, &boot, NULL);
    g_autoptr(Vm) destination = vm_start(&(VmConfig){
        .name = "destination", .memory = RAM, .args = args, .boot = &boot, .incoming = "defer"});
    Qmp *s = vm_qmp(source);
    g_autoptr(FfAddress) any = ff_address_parse("tcp:127.0.0.1:0", NULL);
    int listen_fd = ff_address_listen(any, NULL);
    g_autofree char *uri = ff_address_of_listener(listen_fd);

    vm_wait_serial(source, "B");
    move_prepare(source, destination);
    if (row->tls) {
        move_set_tls(source, credentials, "psk", false, NULL);
        move_set_tls(destination, credentials, "psk", true, NULL);
    }
    qmp_ok(vm_qmp(destination), "migrate-incoming", "{'uri': 'tcp:127.0.0.1:0'}");
    g_autofree char *to = move_listen_uri(destination);

    qmp_ok(s, "migrate", "{'uri': '%s'}", uri);
    qmp_ok(s, "migrate-start-postcopy", NULL);
    g_unix_set_fd_nonblocking(listen_fd, FALSE, NULL);
    int from = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);
    vm_wait_stderr(source, WAITED_FOR);
    Joint joint;
    joint_start(&joint, from, connect_to(to));
    move_wait_completed(source, destination);
    vm_wait_new_serial(destination, "B");
    qmp_ok(vm_qmp(destination), "stop", NULL);
    check_right(check_moved(source, destination, &boot, RAM_BYTES));
    joint_finish(&joint);
    close(listen_fd);
}

/* ---- an engine that dies before anybody was greeted ------------------------------------------ */

typedef struct {
    const char *name;
    const char *faults;     /* of the destination's engine; NULL: it is killed by the test */
    bool waits;             /* a source has connected by then, and was not accepted */
    bool unix_socket;       /* else TCP */
    bool incoming_argument; /* -incoming URI */
    bool paused;            /* -S, and cont was said to the engine that died */
    bool newer;             /* QEMU 10 */
    bool keep_failed;       /* exit-on-error is false */
} Death;

static const Death deaths[] = {
    {"alone"},
    {"alone/unix", .unix_socket = true},
    {"alone/argument", .incoming_argument = true},
    {"alone/paused", .paused = true},
    {"alone/newer", .newer = true},
    {"waits", .waits = true},
    {"waits/unix", .waits = true, .unix_socket = true},
    {"waits/argument", .waits = true, .incoming_argument = true},
    {"waits/newer", .waits = true, .newer = true},
    {"met", "destination/*/at/met=kill"},
    {"met/newer", "destination/*/at/met=kill", .newer = true},
    {"met/argument", "destination/*/at/met=kill", .incoming_argument = true},
    {"greeting", "destination/*/main/greeting=kill"},
    {"hello-reply", "destination/*/main/hello-reply=kill"},
    {"hello-reply/keep-failed", "destination/*/main/hello-reply=kill", .newer = true,
     .keep_failed = true},
};

static char *listening_at(Vm *destination)
{
    g_autoptr(JsonObject) info = qmp_return(vm_qmp(destination), "query-migrate", NULL);
    g_autoptr(JsonNode) node = json_node_new(JSON_NODE_OBJECT);

    json_node_set_object(node, info);
    return json_to_string(node, FALSE);
}

/* The relay knows of the death when it has written this. */
static void kill_engine(Vm *vm, pid_t engine)
{
    g_assert_cmpint(kill(engine, SIGKILL), ==, 0);
    vm_wait_stderr(vm, "listens where the one before it did");
}

/* The first attempt meets the engine that dies, and fails cleanly. */
static void fail_once(Vm *source, Vm *destination, const char *uri)
{
    Qmp *s = vm_qmp(source);

    qmp_ok(s, "migrate", "{'uri': '%s'}", uri);
    qmp_ok(s, "migrate-start-postcopy", NULL);
    qmp_expect_migration(s, "failed");
    g_assert_false(qmp_has_event(s, "STOP"));
    g_autofree char *state = qmp_run_state(s);

    g_assert_cmpstr(state, ==, "running");
    g_assert_true(vm_fault_happened(destination, 0));
    vm_wait_stderr(destination, "listens where the one before it did");
}

static void move_now(Vm *source, Vm *destination, const BootsectConfig *boot)
{
    qmp_ok(vm_qmp(source), "migrate-start-postcopy", NULL);
    move_wait_completed(source, destination);
    vm_wait_new_serial(destination, "B");
    qmp_ok(vm_qmp(destination), "stop", NULL);
    check_right(check_moved(source, destination, boot, RAM_BYTES));
}

static void test_death(gconstpointer data)
{
    const Death *row = data;
    const char *why;

    if (row->faults ? !vm_faults_available(&why) : !vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    g_autofree char *qemu = row->newer ? vm_newer_qemu() : NULL;
    if (row->newer && !qemu) {
        return;
    }
    BootsectConfig boot = bootsect_config(RAM_BYTES, 8 << 20, 1);
    g_autoptr(Vm) source =
        vm_start_pc((VmConfig){.name = "source", .qemu = qemu, .memory = RAM, .boot = &boot});
    g_autofree char *path = vm_path(source, "migration");
    g_autofree char *listen =
        row->unix_socket ? g_strdup_printf("unix:%s", path) : g_strdup("tcp:127.0.0.1:0");
    g_autoptr(Vm) destination =
        vm_start_pc((VmConfig){.name = "destination",
                               .qemu = qemu,
                               .memory = RAM,
                               .boot = &boot,
                               .faults = row->faults,
                               .paused = row->paused,
                               .incoming = row->incoming_argument ? listen : "defer"});
    Qmp *s = vm_qmp(source), *d = vm_qmp(destination);

    vm_wait_serial(source, "B");
    move_prepare(source, destination);
    if (!row->incoming_argument) {
        qmp_ok(d, "migrate-incoming", "{'uri': '%s'%s}", listen,
               row->keep_failed ? ", 'exit-on-error': false" : "");
    }
    if (row->paused) {
        qmp_ok(d, "cont", NULL);
    }
    g_autofree char *uri = row->unix_socket ? g_strdup(listen) : move_listen_uri(destination);
    g_autofree char *before = listening_at(destination);
    pid_t engine = vm_engine(destination);

    if (row->faults) {
        fail_once(source, destination, uri);
    } else if (row->waits) {
        g_assert_cmpint(kill(engine, SIGSTOP), ==, 0);
        qmp_ok(s, "migrate", "{'uri': '%s'}", uri);
        vm_wait_new_serial(source, "B");
        kill_engine(destination, engine);
    } else {
        kill_engine(destination, engine);
    }
    if (!row->waits) {
        g_autofree char *after = listening_at(destination);

        g_assert_cmpstr(after, ==, before);
        qmp_ok(s, "migrate", "{'uri': '%s'}", uri);
    }
    move_now(source, destination, &boot);
}

/* One that dies when its last step is stored, and has not said so yet: nobody listens any more, and
 * the guest that has come runs and is QEMU's. */
static void test_arrived(void)
{
    const char *why;

    if (!vm_faults_available(&why)) {
        g_test_skip(why);
        return;
    }
    BootsectConfig boot = bootsect_config(RAM_BYTES, 8 << 20, 1);
    g_autoptr(Vm) source = vm_start_pc((VmConfig){.name = "source", .memory = RAM, .boot = &boot});
    g_autoptr(Vm) destination = vm_start_pc((VmConfig){.name = "destination",
                                                       .memory = RAM,
                                                       .boot = &boot,
                                                       .faults = "destination/*/at/idle=kill",
                                                       .incoming = "tcp:127.0.0.1:0"});
    Qmp *s = vm_qmp(source), *d = vm_qmp(destination);

    vm_wait_serial(source, "B");
    move_prepare(source, destination);
    g_autofree char *uri = move_listen_uri(destination);
    qmp_ok(s, "migrate", "{'uri': '%s'}", uri);
    qmp_ok(s, "migrate-start-postcopy", NULL);
    qmp_expect_migration(s, "completed");
    vm_wait_stderr(destination, "the migration engine ended unexpectedly");
    g_assert_true(vm_fault_happened(destination, 0));
    qmp_ok(d, "query-migrate-parameters", NULL); /* the next engine has answered */
    g_autoptr(JsonObject) info = qmp_return(d, "query-migrate", NULL);

    g_assert_false(json_object_has_member(info, "socket-address"));
    g_autofree char *state = qmp_run_state(d);

    g_assert_cmpstr(state, ==, "running");
    vm_wait_new_serial(destination, "B");
    qmp_ok(d, "stop", NULL);
    g_autofree char *stopped = qmp_run_state(d);

    g_assert_cmpstr(stopped, ==, "paused");
    check_right(check_moved(source, destination, &boot, RAM_BYTES));
}

/* ---- a client that does not wait
 * -----------------------------------------------------------------
 */

static bool is_ended(JsonObject *data, const void *opaque)
{
    const char *status = json_object_get_string_member(data, "status");

    return !strcmp(status, "failed") || !strcmp(status, "cancelled");
}

/* A client that cancels while the peer is silent is told that, and not that the peer has gone. */
static void test_cancel(void)
{
    const char *why;

    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    const Row row = {0};
    BootsectConfig boot = bootsect_config(RAM_BYTES, 8 << 20, 1);
    g_autoptr(Vm) source = start_source(&row, &boot, NULL);
    Qmp *s = vm_qmp(source);
    g_autoptr(FfAddress) any = ff_address_parse("tcp:127.0.0.1:0", NULL);
    int listen_fd = ff_address_listen(any, NULL);
    g_autofree char *uri = ff_address_of_listener(listen_fd);
    char byte;

    g_unix_set_fd_nonblocking(listen_fd, FALSE, NULL);
    qmp_set_capability(s, "events", true);
    qmp_set_capability(s, "postcopy-ram", true);
    qmp_ok(s, "migrate", "{'uri': '%s'}", uri);
    int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);
    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(recv(fd, &byte, 1, 0), ==, 1);
    qmp_ok(s, "migrate_cancel", NULL);
    g_autoptr(JsonObject) event = qmp_wait_event(s, "MIGRATION", is_ended, NULL, SILENCE_S);
    g_assert_cmpstr(
        json_object_get_string_member(json_object_get_object_member(event, "data"), "status"), ==,
        "cancelled");
    close(fd);
    close(listen_fd);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    credentials = certs_new_pair();
    g_test_add_func("/mute/cancel", test_cancel);
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *path = g_strdup_printf("/mute/peer/%s", rows[i].name);

        g_test_add_data_func(path, &rows[i], test_mute);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(late_rows); i++) {
        g_autofree char *path = g_strdup_printf("/mute/%s", late_rows[i].name);

        g_test_add_data_func(path, &late_rows[i], test_late);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(deaths); i++) {
        g_autofree char *path = g_strdup_printf("/mute/death/%s", deaths[i].name);

        g_test_add_data_func(path, &deaths[i], test_death);
    }
    g_test_add_func("/mute/arrived", test_arrived);
    int rc = g_test_run();

    if (credentials) {
        certs_remove(credentials);
    }
    g_free(credentials);
    return rc;
}
