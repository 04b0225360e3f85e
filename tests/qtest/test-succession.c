/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * farfault attach --replace: another relay in the place of one that runs. The guest, its clients
 * and their connections stay, whatever they are doing; afterwards it migrates as ever. What is
 * refused, and what becomes of it when one of those who have to do with it dies or stands still in
 * the middle: the old relay goes on, or the new one has it all.
 */
#include <signal.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/pidfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/lib/attach.h"
#include "tests/lib/check.h"
#include "tests/lib/move.h"
#include "tests/lib/stop.h"

#define RAM "24M"
#define RAM_BYTES (24ull << 20)

typedef struct {
    BootsectConfig boot;
    Vm *s, *d;
} Test;

static Vm *start(const char *name, const BootsectConfig *boot, const char *incoming, bool listens)
{
    return vm_start_pc((VmConfig){
        .name = name, .memory = RAM, .boot = boot, .incoming = incoming, .listens = listens});
}

/* LISTENS: the client comes to a socket of the relay's; else the relay has connected to its. */
static bool begin(Test *t, bool listens)
{
    const char *why;

    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return false;
    }
    t->boot = bootsect_config(RAM_BYTES, 8 << 20, 1);
    t->s = start("source", &t->boot, NULL, listens);
    t->d = start("destination", &t->boot, "defer", listens);
    vm_wait_serial(t->s, "B");
    return true;
}

static void end(Test *t)
{
    vm_end(t->d);
    vm_end(t->s);
}

/* WORDS says why; the relay is the one of before. */
static void expect_refused(Vm *vm, const char *words)
{
    g_autofree char *text = NULL;
    pid_t before = vm_relay(vm);

    g_assert_cmpint(attach_replace_try(vm, &text), ==, 1);
    if (!strstr(text, words)) {
        g_error("'%s' is not in '%s'", words, text);
    }
    g_assert_cmpint(vm_relay(vm), ==, before);
    g_autofree char *state = qmp_run_state(vm_qmp(vm));
    g_assert_nonnull(state);
}

static void move_by(Test *t, const char *listens)
{
    bool fd = g_str_has_prefix(listens, "fd:");

    move_prepare(t->s, t->d);
    qmp_ok(vm_qmp(t->d), "migrate-incoming", "{'uri': '%s'}", listens);
    g_autofree char *uri = fd ? g_strdup(listens) : move_listen_uri(t->d);
    qmp_ok(vm_qmp(t->s), "migrate", "{'uri': '%s'}", uri);
    qmp_ok(vm_qmp(t->s), "migrate-start-postcopy", NULL);
    qmp_expect(vm_qmp(t->d), "RESUME");
    move_wait_completed(t->s, t->d);
    vm_wait_new_serial(t->d, "B");
    qmp_ok(vm_qmp(t->d), "stop", NULL);
    check_right(check_counters(t->d, &t->boot));
    check_right(check_moved(t->s, t->d, &t->boot, RAM_BYTES));
    qmp_wait_postmigrate(vm_qmp(t->s));
}

static void move(Test *t)
{
    move_by(t, "tcp:127.0.0.1:0");
}

/* ---- what stays ------------------------------------------------------------------------------ */

/* The same client speaks to QEMU before and after it, and hears of what happens. */
static void test_client(gconstpointer listens)
{
    Test t = {0};

    if (!begin(&t, listens)) {
        return;
    }
    for (unsigned i = 0; i < 3; i++) {
        qmp_ok(vm_qmp(t.s), "migrate-set-parameters", "{'x-farfault-auto-recover': %u}", 70 + i);
        attach_replace(t.s);
        vm_wait_new_serial(t.s, "B");
        g_autoptr(JsonObject) p = qmp_return(vm_qmp(t.s), "query-migrate-parameters", NULL);
        g_assert_cmpint(json_object_get_int_member(p, "x-farfault-auto-recover"), ==, 70 + i);
        qmp_ok(vm_qmp(t.s), "stop", NULL);
        qmp_expect(vm_qmp(t.s), "STOP");
        qmp_ok(vm_qmp(t.s), "cont", NULL);
        qmp_expect(vm_qmp(t.s), "RESUME");
    }
    attach_replace(t.d);
    move(&t);
    attach_replace(t.d);
    qmp_ok(vm_qmp(t.d), "cont", NULL);
    vm_wait_new_serial(t.d, "B");
    end(&t);
}

/* After a migration, and with live snapshots still: the next relay has what QEMU keeps no copy of.
 */
static void test_snapshot(void)
{
    Test t = {0};

    if (!begin(&t, true)) {
        return;
    }
    attach_replace(t.s);
    for (unsigned i = 0; i < 2; i++) {
        g_autofree char *path = vm_path(t.s, i ? "second" : "first");

        qmp_set_capability(vm_qmp(t.s), "events", true);
        qmp_ok(vm_qmp(t.s), "x-farfault-snapshot", "{'file': '%s'}", path);
        qmp_expect_migration(vm_qmp(t.s), "completed");
        qmp_drop_events(vm_qmp(t.s));
        attach_replace(t.s);
    }
    vm_wait_new_serial(t.s, "B");
    end(&t);
}

/* What a client gave by getfd is with the next relay. */
static void test_named_fd(void)
{
    Test t = {0};
    int pair[2];

    if (!begin(&t, true)) {
        return;
    }
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), ==, 0);
    qmp_getfd(vm_qmp(t.s), "moved", pair[0]);
    qmp_getfd(vm_qmp(t.d), "moved", pair[1]);
    close(pair[0]);
    close(pair[1]);
    for (unsigned i = 0; i < 2; i++) {
        attach_replace(t.s);
        attach_replace(t.d);
    }
    move_by(&t, "fd:moved");
    end(&t);
}

/* It runs before others, as the first one did, however often its place was taken. */
static void test_priority(void)
{
    Test t = {0};

    if (!begin(&t, true)) {
        return;
    }
    int before = getpriority(PRIO_PROCESS, vm_relay(t.s));

    for (unsigned i = 0; i < 2; i++) {
        attach_replace(t.s);
        g_assert_cmpint(getpriority(PRIO_PROCESS, vm_relay(t.s)), ==, before);
    }
    end(&t);
}

/* A client leaves, and another one comes to the same socket. */
static void test_next_client(void)
{
    Test t = {0};

    if (!begin(&t, true)) {
        return;
    }
    for (unsigned i = 0; i < 2; i++) {
        vm_reconnect(t.s);
        g_autofree char *state = qmp_run_state(vm_qmp(t.s));
        g_assert_cmpstr(state, ==, "running");
        attach_replace(t.s);
    }
    move(&t);
    end(&t);
}

/* ---- another farfault ------------------------------------------------------------------------ */

/* A copy of the build folder's programs. Returns its folder. */
static char *copy_programs(void)
{
    static const char *const all[] = {"cli/farfault", "guest/relay/farfault-relay",
                                      "engine/farfault-engine", "guest/agent/farfault-agent.so"};
    char *folder = g_dir_make_tmp("ff-before-XXXXXX", NULL);

    for (unsigned i = 0; i < G_N_ELEMENTS(all); i++) {
        g_autofree char *from = vm_build_path(all[i]), *to = g_build_filename(folder, all[i], NULL);
        g_autofree char *text = NULL, *into = g_path_get_dirname(to);
        g_autoptr(GError) error = NULL;
        gsize len;

        g_mkdir_with_parents(into, 0755);
        g_file_get_contents(from, &text, &len, &error);
        g_assert_no_error(error);
        g_file_set_contents_full(to, text, (gssize)len, G_FILE_SET_CONTENTS_NONE, 0755, &error);
        g_assert_no_error(error);
    }
    return folder;
}

static void remove_programs(const char *folder)
{
    const char *argv[] = {"rm", "-r", folder, NULL};
    g_autofree char *text = NULL;

    g_assert_cmpint(attach_run(argv, &text), ==, 0);
}

/* The farfault that has started both guests is not there any more: doctor says so, the relays that
 * live give their places to this one's, and their engines are this one's from then on. */
static void test_program(void)
{
    const char *why;

    if (!vm_farfault_available(&why)) {
        g_test_skip(why);
        return;
    }
    Test t = {.boot = bootsect_config(RAM_BYTES, 8 << 20, 1)};
    g_autofree char *before = copy_programs(), *said = NULL;
    VmConfig config = {
        .name = "source", .memory = RAM, .build = before, .boot = &t.boot, .listens = true};

    t.s = vm_start_pc(config);
    config.name = "destination";
    config.incoming = "defer";
    t.d = vm_start_pc(config);
    vm_wait_serial(t.s, "B");
    remove_programs(before);
    g_autofree char *line =
        g_strdup_printf("of QEMU process %d is of the farfault before this one: farfault attach "
                        "--replace %d\n",
                        (int)vm_pid(t.s), (int)vm_pid(t.s));
    attach_run_farfault(NULL, "doctor", NULL, &said);
    g_assert_nonnull(strstr(said, line));

    for (unsigned i = 0; i < 2; i++) {
        g_autofree char *text = NULL;
        Vm *vm = i ? t.d : t.s;
        int status = attach_replace_try(vm, &text);

        if (status) {
            g_error("attach --replace: %s", text);
        }
        g_assert_cmpint(vm_relay(vm), >, 0);
    }
    g_autofree char *now = NULL;
    attach_run_farfault(NULL, "doctor", NULL, &now);
    g_assert_null(strstr(now, line));
    move(&t);
    end(&t);
}

/* ---- a client that never rests --------------------------------------------------------------- */

typedef struct {
    Vm *vm;
    int enough; /* atomic; observer: the client's thread */
    unsigned rounds;
} Busy;

/* Each answer is that of its question, and each event comes once. */
static gpointer client(gpointer opaque)
{
    Busy *b = opaque;
    Qmp *q = vm_qmp(b->vm);

    while (!g_atomic_int_get(&b->enough)) {
        qmp_ok(q, "stop", NULL);
        qmp_expect(q, "STOP");
        g_autofree char *stopped = qmp_run_state(q);
        g_assert_cmpstr(stopped, ==, "paused");
        qmp_ok(q, "cont", NULL);
        qmp_expect(q, "RESUME");
        g_assert_false(qmp_has_event(q, "STOP"));
        g_assert_false(qmp_has_event(q, "RESUME"));
        b->rounds++;
    }
    return NULL;
}

static void test_busy(void)
{
    enum { TIMES = 20 };
    Test t = {0};

    if (!begin(&t, true)) {
        return;
    }
    Busy busy = {.vm = t.s};
    GThread *thread = g_thread_new("client", client, &busy);

    for (unsigned i = 0; i < TIMES; i++) {
        attach_replace(t.s);
    }
    g_atomic_int_set(&busy.enough, 1);
    g_thread_join(thread);
    g_test_message("%u relays, %u rounds of the client", TIMES, busy.rounds);
    g_assert_cmpuint(busy.rounds, >, 0);
    move(&t);
    end(&t);
}

/* ---- what is refused ------------------------------------------------------------------------- */

static void test_refused_migration(void)
{
    Test t = {0};

    if (!begin(&t, true)) {
        return;
    }
    move_prepare(t.s, t.d);
    qmp_ok(vm_qmp(t.d), "migrate-incoming", "{'uri': 'tcp:127.0.0.1:0'}");
    expect_refused(t.d, "a migration or a snapshot is under way");
    qmp_ok(vm_qmp(t.s), "migrate-set-parameters", "{'max-bandwidth': 100000}");
    g_autofree char *uri = move_listen_uri(t.d);
    qmp_ok(vm_qmp(t.s), "migrate", "{'uri': '%s'}", uri);
    qmp_expect_migration(vm_qmp(t.s), "active");
    expect_refused(t.s, "a migration or a snapshot is under way");
    qmp_ok(vm_qmp(t.s), "migrate_cancel", NULL);
    qmp_expect_migration(vm_qmp(t.s), "cancelled");
    vm_wait_exit(t.d);
    attach_replace(t.s);
    vm_wait_new_serial(t.s, "B");
    end(&t);
}

/* Half a command: the rest belongs to the relay that has the first half. */
static void test_refused_half(void)
{
    static const char half[] = "{\"execute\": \"query-", rest[] = "status\", \"id\": \"x\"}\n";
    Test t = {0};

    if (!begin(&t, true)) {
        return;
    }
    Stream *stream = qmp_stream(vm_qmp(t.s));
    stream_send(stream, half, strlen(half), NULL, 0);
    g_autofree char *text = NULL;
    g_assert_cmpint(attach_replace_try(t.s, &text), ==, 1);
    g_assert_nonnull(strstr(text, "has sent half a command"));
    stream_send(stream, rest, strlen(rest), NULL, 0);
    g_free(stream_read_line(stream, "the answer", test_deadline(10)));
    attach_replace(t.s);
    g_autofree char *state = qmp_run_state(vm_qmp(t.s));
    g_assert_cmpstr(state, ==, "running");
    end(&t);
}

static gpointer ask(gpointer vm)
{
    char *text = NULL;

    attach_replace_try(vm, &text);
    return text;
}

/* Two at once: one is told so at once; one that has gone keeps nobody out. */
static void test_refused_second(void)
{
    static const char half[] = "{\"execute\": \"query-", rest[] = "status\"}\n";
    Test t = {0};

    if (!begin(&t, true)) {
        return;
    }
    Stream *stream = qmp_stream(vm_qmp(t.s));
    stream_send(stream, half, strlen(half), NULL, 0);
    GThread *first = g_thread_new("first", ask, t.s), *second = g_thread_new("second", ask, t.s);
    g_autofree char *a = g_thread_join(first), *b = g_thread_join(second);
    const char *busy = "another one is just asking for it", *waits = "has sent half a command";
    g_assert_true((strstr(a, busy) && strstr(b, waits)) || (strstr(b, busy) && strstr(a, waits)));
    stream_send(stream, rest, strlen(rest), NULL, 0);
    g_free(stream_read_line(stream, "the answer", test_deadline(10)));
    attach_replace(t.s);
    end(&t);
}

static void test_refused_none(void)
{
    Test t = {0};

    if (!begin(&t, true)) {
        return;
    }
    g_autofree char *text = NULL;
    attach_kill_relay(t.s, true);
    g_assert_cmpint(attach_replace_try(t.s, &text), ==, 1);
    g_assert_nonnull(strstr(text, "has no relay: farfault attach"));
    attach_vm(t.s, NULL);
    attach_replace(t.s);
    move(&t);
    end(&t);
}

/* ---- deaths ---------------------------------------------------------------------------------- */

/* Until the old relay is told that the other one has it all, it goes on; that a process stands
 * still for longer than any wait is the same. */
typedef struct {
    const char *name, *fault;
    const char *words; /* what the command says; NULL: it succeeds */
    bool lost;         /* the guest has no relay then, and farfault attach gives it one */
} Death;

static const Death deaths[] = {
    {"old/killed", "relay/*/at/asked=kill", "has ended: farfault attach", true},
    {"old/killed-taken", "relay/*/at/taken=kill", "has ended: farfault attach", true},
    {"new/killed", "relay/*/at/takes=kill",
     "ended before it was ready, the relay that was there stays", false},
    {"new/late", "relay/*/at/takes=stop:8000",
     "ended before it was ready, the relay that was there stays", false},
    {"new/slow", "relay/*/at/takes=stop:1000", NULL, false},
};

static void test_death(gconstpointer data)
{
    const Death *row = data;
    const char *why;
    Test t = {0};

    if (!vm_faults_available(&why)) {
        g_test_skip(why);
        return;
    }
    t.boot = bootsect_config(RAM_BYTES, 8 << 20, 1);
    t.s = vm_start_pc((VmConfig){.name = "source",
                                 .memory = RAM,
                                 .boot = &t.boot,
                                 .listens = true,
                                 .faults = row->lost ? row->fault : NULL});
    t.d = start("destination", &t.boot, "defer", true);
    vm_wait_serial(t.s, "B");
    g_autofree char *faults = g_strdup_printf("%s;%s", vm_dir(t.s), row->fault), *text = NULL;
    g_autofree char *happened = vm_path(t.s, "fault-0");
    pid_t before = vm_relay(t.s);

    if (!row->lost) {
        g_setenv("FARFAULT_FAULTS", faults, TRUE);
    }
    int status = attach_replace_try(t.s, &text);
    g_unsetenv("FARFAULT_FAULTS");
    g_assert_true(vm_fault_happened(t.s, 0));
    g_assert_cmpint(status, ==, row->words ? 1 : 0);
    if (row->words && !strstr(text, row->words)) {
        g_error("'%s' is not in '%s'", row->words, text);
    }
    if (row->lost) {
        attach_vm(t.s, NULL);
    } else {
        g_assert_true((vm_relay(t.s) == before) == (row->words != NULL));
    }
    g_autofree char *state = qmp_run_state(vm_qmp(t.s));
    g_assert_cmpstr(state, ==, "running");
    attach_replace(t.s);
    move(&t);
    end(&t);
}

/* Returns when DIR has the file NAME. */
static void await_file(const char *dir, const char *name)
{
    g_autofree char *path = g_build_filename(dir, name, NULL);
    int watch = inotify_init1(IN_CLOEXEC);
    char sink[4096];

    g_assert_cmpint(inotify_add_watch(watch, dir, IN_CREATE), >=, 0);
    while (!g_file_test(path, G_FILE_TEST_EXISTS)) {
        g_assert_cmpint(read(watch, sink, sizeof(sink)), >, 0);
    }
    close(watch);
}

static void await_end(pid_t pid)
{
    int pidfd = pidfd_open(pid, 0);

    g_assert_true(pidfd < 0 || test_wait_readable(pidfd, test_deadline(30)));
    if (pidfd >= 0) {
        close(pidfd);
    }
}

/* Nobody waits for the new relay any more when it has the place: it is all that the guest has. */
static void test_command_killed(void)
{
    const char *why;
    Test t = {0};

    if (!vm_faults_available(&why)) {
        g_test_skip(why);
        return;
    }
    if (!begin(&t, true)) {
        return;
    }
    g_autofree char *faults = g_strdup_printf("%s;relay/*/at/takes=stop:1000", vm_dir(t.s));
    g_autofree char *happened = vm_path(t.s, "fault-0");
    g_autofree char *farfault = vm_build_path("cli/farfault");
    g_autofree char *number = g_strdup_printf("%d", (int)vm_pid(t.s));
    char *argv[] = {farfault, (char *)"attach", (char *)"--replace", number, NULL};
    pid_t before = vm_relay(t.s);
    GPid command;

    g_setenv("FARFAULT_FAULTS", faults, TRUE);
    g_assert_true(
        g_spawn_async(NULL, argv, NULL, G_SPAWN_DO_NOT_REAP_CHILD, NULL, NULL, &command, NULL));
    g_unsetenv("FARFAULT_FAULTS");
    await_file(vm_dir(t.s), "fault-0");
    kill(command, SIGKILL);
    waitpid(command, NULL, 0);
    await_end(before);
    g_autofree char *state = qmp_run_state(vm_qmp(t.s));
    g_assert_cmpstr(state, ==, "running");
    g_assert_cmpint(vm_relay(t.s), !=, before);
    attach_replace(t.s);
    move(&t);
    end(&t);
}

/* The new relay starts when the old one does not wait for it any more, and has a migration by now:
 * it does nothing. */
static void test_late(void)
{
    const char *why;
    Test t = {0};

    if (!vm_faults_available(&why)) {
        g_test_skip(why);
        return;
    }
    if (!begin(&t, true)) {
        return;
    }
    g_autofree char *faults = g_strdup_printf("%s;relay/*/at/started=stop:9000", vm_dir(t.s));
    g_autofree char *happened = vm_path(t.s, "fault-0");
    pid_t before = vm_relay(t.s);

    g_setenv("FARFAULT_FAULTS", faults, TRUE);
    GThread *asks = g_thread_new("ask", ask, t.s);
    await_file(vm_dir(t.s), "fault-0");
    g_unsetenv("FARFAULT_FAULTS");
    g_autofree char *state = qmp_run_state(vm_qmp(t.s)); /* answered when it goes on */
    g_assert_cmpstr(state, ==, "running");
    move_prepare(t.s, t.d);
    qmp_ok(vm_qmp(t.d), "migrate-incoming", "{'uri': 'tcp:127.0.0.1:0'}");
    g_autofree char *uri = move_listen_uri(t.d);
    qmp_ok(vm_qmp(t.s), "migrate-set-parameters", "{'max-bandwidth': 100000}");
    qmp_ok(vm_qmp(t.s), "migrate", "{'uri': '%s'}", uri);
    qmp_expect_migration(vm_qmp(t.s), "active");
    pid_t engine = vm_engine(t.s);
    g_autofree char *text = g_thread_join(asks);
    g_assert_nonnull(strstr(text, "the relay that was there stays"));
    g_assert_cmpint(vm_relay(t.s), ==, before);
    g_assert_cmpint(vm_engine(t.s), ==, engine);
    qmp_ok(vm_qmp(t.s), "migrate-set-parameters", "{'max-bandwidth': 0}");
    qmp_ok(vm_qmp(t.s), "migrate-start-postcopy", NULL);
    qmp_expect(vm_qmp(t.d), "RESUME");
    move_wait_completed(t.s, t.d);
    vm_wait_new_serial(t.d, "B");
    end(&t);
}

/* The old one is stopped: nothing is begun, and it continues as if nobody had asked. */
static void test_old_stopped(void)
{
    Test t = {0};

    if (!begin(&t, true)) {
        return;
    }
    pid_t relay = vm_relay(t.s);
    g_autofree char *text = NULL;

    stop_process(relay);
    g_assert_cmpint(attach_replace_try(t.s, &text), ==, 1);
    kill(relay, SIGCONT);
    g_assert_nonnull(strstr(text, "does not answer"));
    g_autofree char *state = qmp_run_state(vm_qmp(t.s));
    g_assert_cmpstr(state, ==, "running");
    attach_replace(t.s);
    move(&t);
    end(&t);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_data_func("/succession/client/listens", "", test_client);
    g_test_add_data_func("/succession/client/connected", NULL, test_client);
    g_test_add_func("/succession/snapshot", test_snapshot);
    g_test_add_func("/succession/next-client", test_next_client);
    g_test_add_func("/succession/program", test_program);
    g_test_add_func("/succession/named-fd", test_named_fd);
    g_test_add_func("/succession/priority", test_priority);
    g_test_add_func("/succession/busy", test_busy);
    g_test_add_func("/succession/refused/migration", test_refused_migration);
    g_test_add_func("/succession/refused/half", test_refused_half);
    g_test_add_func("/succession/refused/no-relay", test_refused_none);
    g_test_add_func("/succession/refused/second", test_refused_second);
    g_test_add_func("/succession/command-killed", test_command_killed);
    g_test_add_func("/succession/late", test_late);
    g_test_add_func("/succession/old/stopped", test_old_stopped);
    for (unsigned i = 0; i < G_N_ELEMENTS(deaths); i++) {
        g_autofree char *path = g_strconcat("/succession/", deaths[i].name, NULL);

        g_test_add_data_func(path, &deaths[i], test_death);
    }
    return g_test_run();
}
