/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The engine's life and death as the relay sees it: engines that die again and again, that cannot
 * be started, that hang, that cannot be watched, and that are not dead although they were killed.
 * The engine is the test's own (relay-rig.h).
 */
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "guest/relay/restart.h"
#include "tests/lib/stop.h"
#include "tests/qtest/relay-rig.h"

#define MS(n) ((n)*G_TIME_SPAN_MILLISECOND)

static void set_phase(Rig *rig, FfPhase phase)
{
    __atomic_store_n(&rig->state->phase, phase, __ATOMIC_RELEASE);
}

/* An engine in the middle of something: the guest's memory is at two places. */
static Rig *granted(const RigConfig *config, Stream **client)
{
    Rig *rig = rig_new(config);
    *client = rig_client(rig, 0, true, false);

    rig_send(*client, "{'execute':'query-migrate'}");
    rig_engine_start(rig);
    g_autoptr(RigFrame) command = rig_frame(rig, FF_LINK_COMMAND);
    rig_filter(rig, FF_FILTER_RUN_STATE);
    rig_answer(rig, command, FF_LINK_REPLY, "{\"return\": {}}");
    rig_expect(*client, "return");
    set_phase(rig, FF_PHASE_GRANTED);
    return rig;
}

static void answer_next(Rig *rig, Stream *client, const char *name)
{
    g_autoptr(RigFrame) command = rig_frame(rig, FF_LINK_COMMAND);

    g_assert_nonnull(strstr(command->text, name));
    rig_answer(rig, command, FF_LINK_REPLY, "{\"return\": \"answered\"}");
    rig_expect(client, "answered");
}

/* N deaths in a row, each as soon as the engine runs. */
static void die(Rig *rig, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        rig_engine_crash(rig);
        if (i + 1 < n) {
            rig_engine_start(rig);
        }
    }
}

/* However often it dies there is a next one, by itself. */
static void test_deaths(void)
{
    g_autoptr(Stream) client = NULL;
    g_autoptr(Rig) rig = granted(NULL, &client);
    int64_t begin = g_get_monotonic_time();

    die(rig, 7);
    rig_engine_start(rig);
    int64_t took = g_get_monotonic_time() - begin;
    g_assert_cmpint(took, >=, MS(1000 + 2000 + 4000 - 100)); /* four at once, then 1, 2, 4 s */
    g_assert_nonnull(strstr(rig->init, "\"engine-restarts\":7"));
    rig_send(client, "{'execute':'query-migrate'}");
    answer_next(rig, client, "query-migrate");
    set_phase(rig, FF_PHASE_IDLE);
}

static unsigned deaths_seen(Rig *rig)
{
    g_autofree char *log = rig_log(rig);
    g_auto(GStrv) parts = g_strsplit(log, "ended unexpectedly", -1);

    return g_strv_length(parts) - 1;
}

/* N engines die, and the relay has seen it. Each answer is a turn of its main loop: in one of the
 * next it sees the link's end. */
static void die_seen(Rig *rig, Stream *client, unsigned n)
{
    die(rig, n);
    while (deaths_seen(rig) < n) {
        rig_send(client, "{'execute':'query-name','id':'known'}");
        rig_expect(client, "known");
    }
}

/* What a client asks for does not wait for the timer. */
static void test_hurry(gconstpointer data)
{
    const char *name = data;
    g_autofree char *text = g_strdup_printf("{'execute':'%s','arguments':{'uri':'tcp:h:1'}}", name);
    g_autoptr(Stream) client = NULL;
    g_autoptr(Rig) rig = granted(NULL, &client);

    die_seen(rig, client, 7); /* the next one in 4 s */
    int64_t begin = g_get_monotonic_time();
    rig_send(client, text);
    rig_engine_start(rig);
    g_assert_cmpint(g_get_monotonic_time() - begin, <, MS(3000));
    answer_next(rig, client, name);
    set_phase(rig, FF_PHASE_IDLE);
}

/* Nothing is at stake: one question does not start engine after engine, and the monitor lives. */
static void test_nothing_at_stake(void)
{
    g_autoptr(Rig) rig = rig_new(NULL);
    g_autoptr(Stream) client = rig_client(rig, 0, true, false);

    rig_send(client, "{'execute':'query-migrate'}{'execute':'query-name','id':2}");
    for (unsigned i = 0; i < 3; i++) {
        rig_engine_start(rig);
        g_autoptr(RigFrame) command = rig_frame(rig, FF_LINK_COMMAND);
        rig_engine_crash(rig);
    }
    rig_expect(client, "ended unexpectedly");
    rig_expect(client, "\"id\": 2");
    rig_expect_no_engine(rig, 1500);
}

/* What is repeated: each engine that gets it dies, until the client is told. */
static void die_of(Rig *rig, Stream *client, const char *name)
{
    g_autofree char *text = g_strdup_printf("{'execute':'%s'}", name);

    rig_send(client, text);
    for (unsigned i = 0; i < 3; i++) {
        rig_engine_start(rig);
        g_autoptr(RigFrame) command = rig_frame(rig, FF_LINK_COMMAND);
        g_assert_nonnull(strstr(command->text, name));
        rig_engine_crash(rig);
    }
    rig_expect(client,
               "\"error\": {\"class\": \"GenericError\", \"desc\": \"the migration engine ends "
               "unexpectedly again and again");
}

/* No engine can do what is to be done: each command has an answer, and none comes to QEMU, whose
 * guest may be elsewhere. The relay goes on, and the first engine that can does it. */
static void test_never_adopts(void)
{
    g_autoptr(Stream) client = NULL;
    g_autoptr(Rig) rig = granted(NULL, &client);

    die_seen(rig, client, FF_RESTART_AT_ONCE + 1);
    for (unsigned i = 0; i < 16; i++) {
        rig_send(client, "{'execute':'migrate-pause'}");
        rig_engine_start(rig);
        g_autoptr(RigFrame) command = rig_frame(rig, FF_LINK_COMMAND);
        rig_engine_crash(rig);
        rig_expect(client, "unexpectedly");
    }
    die_of(rig, client, "query-status");
    die_of(rig, client, "query-migrate");
    die_of(rig, client, "cont");
    rig_send(client, "{'execute':'query-migrate'}");
    rig_engine_start(rig);
    answer_next(rig, client, "query-migrate");
    g_assert_nonnull(strstr(rig->init, "\"engine-restarts\":30"));
    set_phase(rig, FF_PHASE_IDLE);
}

static bool no_faults(void)
{
    if (!rig_has_faults()) {
        g_test_skip("built without -Dfaults=true");
    }
    return !rig_has_faults();
}

/* No process can be made: it is tried again, and a command is told so. */
static void test_cannot_start(void)
{
    const RigConfig config = {.faults = "relay/*/call/spawn#2=EAGAIN;relay/*/call/spawn#2=EAGAIN"};
    g_autoptr(Stream) client = NULL;

    if (no_faults()) {
        return;
    }
    g_autoptr(Rig) rig = granted(&config, &client);
    rig_engine_crash(rig);
    rig_expect_no_engine(rig, 500);
    rig_send(client, "{'execute':'migrate-pause','id':1}{'execute':'query-name','id':2}");
    rig_expect(client, "\"id\": 1, \"error\": {\"class\": \"GenericError\", \"desc\": \"the "
                       "migration engine cannot be started (Resource temporarily unavailable)");
    rig_expect(client, "\"id\": 2");
    rig_engine_start(rig);
    rig_send(client, "{'execute':'query-migrate'}");
    answer_next(rig, client, "query-migrate");
    set_phase(rig, FF_PHASE_IDLE);
}

static void limit_fds(Rig *rig, rlim_t most)
{
    struct rlimit limit;

    g_assert_cmpint(prlimit(rig->relay, RLIMIT_NOFILE, NULL, &limit), ==, 0);
    limit.rlim_cur = most;
    g_assert_cmpint(prlimit(rig->relay, RLIMIT_NOFILE, &limit, NULL), ==, 0);
}

/* What the relay has open before its first engine, at least. More than it polls. */
#define TAKEN 16

/* The same by a limit of the system's, in place of a named point: the relay has no number left for
 * a descriptor, and gets its limit back. */
static void test_no_descriptors(void)
{
    g_autoptr(Stream) client = NULL;
    g_autoptr(Rig) rig = granted(NULL, &client);
    struct rlimit before;

    g_assert_cmpint(prlimit(rig->relay, RLIMIT_NOFILE, NULL, &before), ==, 0);
    limit_fds(rig, TAKEN);
    rig_engine_crash(rig);
    rig_expect_no_engine(rig, 500);
    rig_send(client, "{'execute':'migrate-pause','id':1}{'execute':'query-name','id':2}");
    rig_expect(client, "\"id\": 1, \"error\": {\"class\": \"GenericError\", \"desc\": \"the "
                       "migration engine cannot be started (Too many open files)");
    rig_expect(client, "\"id\": 2");
    limit_fds(rig, before.rlim_cur);
    rig_engine_start(rig);
    rig_send(client, "{'execute':'query-migrate'}");
    answer_next(rig, client, "query-migrate");
    g_autofree char *log = rig_log(rig);
    g_assert_null(strstr(log, "poll"));
    set_phase(rig, FF_PHASE_IDLE);
}

/* No engine acts that cannot be watched: with nothing under way the command is QEMU's ... */
static void test_unwatched(void)
{
    const RigConfig config = {.faults = "relay/*/call/pidfd-open=ENOMEM"};

    if (no_faults()) {
        return;
    }
    g_autoptr(Rig) rig = rig_new(&config);
    g_autoptr(Stream) client = rig_client(rig, 0, true, false);
    rig_send(client, "{'execute':'query-migrate-capabilities'}");
    rig_expect(client, "xbzrle");
    g_assert_true(rig_fault_happened(rig, 0));
    rig_send(client, "{'execute':'query-migrate'}");
    rig_engine_start(rig);
    answer_next(rig, client, "query-migrate");
}

/* ... and else there is a next one, which is the only one. */
static void test_unwatched_at_stake(void)
{
    const RigConfig config = {.faults = "relay/*/call/pidfd-open#2=ENOMEM"};
    g_autoptr(Stream) client = NULL;

    if (no_faults()) {
        return;
    }
    g_autoptr(Rig) rig = granted(&config, &client);
    rig_engine_crash(rig);
    rig_engine_start(rig);
    g_assert_true(rig_fault_happened(rig, 0));
    rig_expect_no_engine(rig, 100);
    rig_send(client, "{'execute':'query-migrate'}");
    answer_next(rig, client, "query-migrate");
    set_phase(rig, FF_PHASE_IDLE);
}

/* ---- one that hangs -------------------------------------------------------------------------- */

static gboolean over(gpointer flag)
{
    *(bool *)flag = true;
    return G_SOURCE_REMOVE;
}

/* The engine's main loop runs for so long. */
static void serve(unsigned ms)
{
    bool end = false;

    g_timeout_add(ms, over, &end);
    while (!end) {
        g_main_context_iteration(NULL, TRUE);
    }
}

static void test_hangs(void)
{
    const RigConfig config = {.deadlines = "engine-hung=600"};
    g_autoptr(Stream) client = NULL;
    g_autoptr(Rig) rig = granted(&config, &client);
    int process = rig_engine_process(rig);
    int64_t begin = g_get_monotonic_time();

    rig->deaf = true;
    rig_send(client, "{'execute':'query-status'}{'execute':'query-name','id':2}");
    g_assert_true(test_wait_readable(process, test_deadline(TEST_TIMEOUT)));
    g_assert_cmpint(g_get_monotonic_time() - begin, >=, MS(500));
    close(process);
    rig->deaf = false;
    rig_engine_start(rig);
    answer_next(rig, client, "query-status"); /* asked again */
    rig_expect(client, "\"id\": 2");
    g_autofree char *log = rig_log(rig);
    g_assert_nonnull(strstr(log, "has not answered for 1 s"));
    set_phase(rig, FF_PHASE_IDLE);
}

/* One that answers lives, also when the relay was stopped for longer than the engine may be silent.
 */
static void test_answers(void)
{
    const RigConfig config = {.deadlines = "engine-hung=1200"};
    g_autoptr(Stream) client = NULL;
    g_autoptr(Rig) rig = granted(&config, &client);
    int process = rig_engine_process(rig);

    serve(2500);
    stop_process(rig->relay);
    serve(2500);
    kill(rig->relay, SIGCONT);
    serve(500);
    /* It is silent for a while, but comes back in time. */
    stop_process(rig->relay);
    g_usleep(MS(1500));
    kill(rig->relay, SIGCONT);
    g_usleep(MS(400));
    serve(300);
    g_assert_false(test_wait_readable(process, 0));
    rig_send(client, "{'execute':'query-migrate'}");
    answer_next(rig, client, "query-migrate");
    close(process);
    set_phase(rig, FF_PHASE_IDLE);
}

/* Killed, and not dead (the kernel holds it): no second one beside it, no command waits for ever.
 */
static void test_not_dead(void)
{
#define SKIP "relay/*/step/kill-engine=skip"
    const RigConfig config = {.faults = SKIP ";" SKIP ";" SKIP ";" SKIP};
    g_autoptr(Stream) client = NULL;

    if (no_faults()) {
        return;
    }
    g_autoptr(Rig) rig = granted(&config, &client);
    int process = rig_engine_process(rig);
    rig_engine_crash(rig);
    rig_expect_no_engine(rig, 300);
    rig_send(client, "{'execute':'query-migrate','id':1}{'execute':'query-name','id':2}");
    rig_expect(client, "\"id\": 1, \"error\": {\"class\": \"GenericError\", \"desc\": \"the "
                       "migration engine was killed and has not ended yet");
    rig_expect(client, "\"id\": 2");
    rig_send(client, "{'execute':'migrate-recover','arguments':{'uri':'tcp:h:1'}}");
    rig_expect_no_engine(rig, 300);
    close(process);
    rig_engine_start(rig); /* by itself */
    answer_next(rig, client, "migrate-recover");
    set_phase(rig, FF_PHASE_IDLE);
}

/* QEMU ends, and the engine takes its time: no client hears of the end before it is gone, since
 * libvirt takes the control group away then. */
static void test_ends_first(void)
{
    g_autoptr(Stream) client = NULL;
    g_autoptr(Rig) rig = granted(NULL, &client);
    int process = rig_engine_process(rig);
    struct ucred cred;
    socklen_t len = sizeof(cred);

    g_assert_cmpint(getsockopt(process, SOL_SOCKET, SO_PEERCRED, &cred, &len), ==, 0);
    stop_process(cred.pid);
    rig_kill_qemu(rig);
    rig_expect_end(client);
    g_assert_true(test_wait_readable(process, 0));
    close(process);
}

/* One that was let go and does not end: the next one waits until it is dead. */
static void test_let_go(void)
{
    g_autoptr(Rig) rig = rig_new(NULL);
    g_autoptr(Stream) client = rig_client(rig, 0, true, false);

    rig_send(client, "{'execute':'query-migrate'}");
    rig_engine_start(rig);
    answer_next(rig, client, "query-migrate");
    int process = rig_engine_process(rig);
    rig_engine_send(rig, FF_LINK_IDLE, 0, 0, NULL);
    rig_engine_let_go(rig);
    g_assert_false(test_wait_readable(process, 0));
    rig_send(client, "{'execute':'query-migrate'}");
    rig_engine_start(rig);
    g_assert_true(test_wait_readable(process, 0)); /* it was killed */
    answer_next(rig, client, "query-migrate");
    close(process);
}

/* One that says it is idle, and has left something undone: there is a next one, by itself. */
static void test_idle_too_early(gconstpointer log)
{
    g_autoptr(Stream) client = NULL;
    g_autoptr(Rig) rig = granted(NULL, &client);

    if (log) {
        set_phase(rig, FF_PHASE_IDLE);
        __atomic_store_n(&rig->state->undo_len, 1, __ATOMIC_RELEASE);
    }
    rig_engine_send(rig, FF_LINK_IDLE, 0, 0, NULL);
    rig_engine_let_go(rig);
    rig_engine_start(rig);
    g_assert_nonnull(strstr(rig->init, "\"engine-restarts\":1"));
    rig_send(client, "{'execute':'query-migrate'}");
    answer_next(rig, client, "query-migrate");
    set_phase(rig, FF_PHASE_IDLE);
    __atomic_store_n(&rig->state->undo_len, 0, __ATOMIC_RELEASE);
}

#define SET_SHARED                                                                                 \
    "{'execute':'migrate-set-capabilities','arguments':{'capabilities':[{'capability':'x-ignore-"  \
    "shared',"

/* The next engine must ask QEMU for those that it was told of in its place, and took; for none that
 * is named elsewhere. */
static void test_without_capabilities(void)
{
    static const struct {
        const char *set, *answer;
        unsigned told;
    } rows[] = {
        {"{'capability':'xbzrle','state':true}]},'id':{'postcopy-ram':0", "return", 0},
        {"{'capability':'postcopy-preempt','state':true}]", "requires postcopy-ram", 0},
        {"{'capability':'postcopy-blocktime','state':false}]", "return",
         FF_CLIENT_CAP_POSTCOPY_BLOCKTIME},
        {"{'capability':'xbzrle','state':false},{'capability':'postcopy-ram','state':false}]",
         "return", FF_CLIENT_CAP_POSTCOPY_BLOCKTIME | FF_CLIENT_CAP_POSTCOPY_RAM},
        {"{'capability':'x-ignore-shared','state':false}]", "return",
         FF_CLIENT_CAP_POSTCOPY_BLOCKTIME | FF_CLIENT_CAP_POSTCOPY_RAM |
             FF_CLIENT_CAP_IGNORE_SHARED},
    };

    g_autoptr(Rig) rig = rig_new(&(RigConfig){.engine = "/nowhere/engine", .keeps_state = true});
    g_autoptr(Stream) client = rig_client(rig, 0, true, false);
    FfStateHeader *state = ff_state_map(rig->state_fd, NULL);

    g_assert_nonnull(state);
    g_assert_false(ff_state_is_marked(state, FF_MARK_CAPS));
    /* QEMU would leave out memory that is shared, as farfault's is. */
    rig_send(client, SET_SHARED "'state':true}]}}");
    rig_expect(client, "no migration engine can be started that keeps it from QEMU");
    rig_send(client, "{'execute':'human-monitor-command','arguments':{'command-line':'"
                     "migrate_set_capability x-ignore-shared on'}}");
    rig_expect(client, "no migration engine can be started that keeps it from QEMU");
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *text = g_strdup_printf(
            "{'execute':'migrate-set-capabilities','arguments':{'capabilities':[%s}}", rows[i].set);

        rig_send(client, text);
        rig_expect(client, rows[i].answer);
        g_assert_cmpuint(state->marks & FF_MARK_CAPS, ==, FF_MARK_CAP(rows[i].told));
    }
    munmap(state, sizeof(*state));
}

/* A command that QEMU gets for want of an engine, at once or after it had to wait: what an older
 * migration has left is not told of this one, and who carries what comes is known. */
static void test_without(gconstpointer data)
{
    const bool *waits = data;
    const RigConfig config = {.faults = "relay/*/call/spawn#2=EAGAIN"};
    g_autoptr(Stream) client = NULL;

    if (no_faults()) {
        return;
    }
    g_autoptr(Rig) rig = granted(&config, &client);
    FfStateHeader *state = ff_state_map(rig->init_frame->fds[0], NULL);
    int process = *waits ? rig_engine_process(rig) : -1;

    set_phase(rig, FF_PHASE_IDLE);
    g_strlcpy(state->native, "an older reason", sizeof(state->native));
    state->info_len = 2;
    rig_filter(rig, 0);
    rig_engine_send(rig, FF_LINK_IDLE, 0, 0, NULL);
    rig_engine_let_go(rig);
    rig_expect_no_engine(rig, 100);
    rig_send(client, "{'execute':'migrate-incoming','arguments':{'uri':'tcp:127.0.0.1:0'}}");
    rig_expect(client, "-incoming"); /* QEMU's words: it has none */
    g_assert_true(rig_fault_happened(rig, 0));
    g_assert_true(state->driver_flags & FF_DRIVER_NATIVE_INCOMING);
    g_assert_cmpstr(state->native, ==, "");
    g_assert_cmpuint(state->info_len, ==, 0);
    munmap(state, sizeof(*state));
    if (process >= 0) {
        close(process);
    }
}

/* -incoming URI, and there is no engine that could listen: QEMU does, before any client is let in.
 */
static void test_incoming_without(gconstpointer engine)
{
    g_autofree char *path = g_strdup_printf("/tmp/ff-engine-life-%d", getpid());
    g_autofree char *uri = g_strdup_printf("unix:%s", path);
    g_autoptr(Rig) rig = rig_new(&(RigConfig){.incoming = uri, .engine = engine});
    g_autoptr(Stream) client = rig_client(rig, 0, true, false);
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    g_strlcpy(addr.sun_path, path, sizeof(addr.sun_path));
    g_assert_cmpint(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), ==, 0);
    rig_send(client, "{'execute':'migrate-incoming','arguments':{'uri':'tcp:127.0.0.1:0'}}");
    rig_expect(client, "already been started");
    close(fd); /* QEMU ends */
    unlink(path);
}

/* The relay dies when QEMU has the URI, and before QEMU has said that it listens there. What it
 * leaves says so: the next one finds out what QEMU has done, and listens there no more itself. */
static void test_incoming_handed(void)
{
    if (!rig_has_faults()) {
        g_test_skip("this build has no points to fail at");
        return;
    }
    g_autoptr(Rig) rig = rig_new(&(RigConfig){.incoming = "tcp:127.0.0.1:0",
                                              .engine = "/nowhere/engine",
                                              .faults = "relay/*/at/incoming-handed=kill",
                                              .keeps_state = true});

    g_assert_cmpint(rig_wait_relay(rig), ==, -SIGKILL);
    FfStateHeader *state = ff_state_map(rig->state_fd, NULL);
    g_assert_nonnull(state);
    g_assert_true(state->driver_flags & FF_DRIVER_GIVING_BACK);
    g_assert_false(state->driver_flags & FF_DRIVER_NATIVE_INCOMING);
}

/* QEMU cannot listen there: it ends, as plain QEMU does. */
static void test_incoming_refused(void)
{
    g_autoptr(Rig) rig =
        rig_new(&(RigConfig){.incoming = "unix:/nowhere/at/all", .engine = "/nowhere/engine"});

    g_assert_cmpint(rig_wait_relay(rig), ==, 0);
    g_autofree char *log = rig_log(rig);
    g_assert_nonnull(strstr(log, "QEMU is killed: -incoming unix:/nowhere/at/all: Failed to bind"));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/engine-life/deaths", test_deaths);
    g_test_add_data_func("/engine-life/hurry/recover", "migrate-recover", test_hurry);
    g_test_add_data_func("/engine-life/hurry/resume", "migrate", test_hurry);
    g_test_add_data_func("/engine-life/hurry/query", "query-migrate", test_hurry);
    g_test_add_func("/engine-life/nothing-at-stake", test_nothing_at_stake);
    g_test_add_func("/engine-life/never-adopts", test_never_adopts);
    g_test_add_func("/engine-life/cannot-start", test_cannot_start);
    g_test_add_func("/engine-life/no-descriptors", test_no_descriptors);
    g_test_add_func("/engine-life/unwatched", test_unwatched);
    g_test_add_func("/engine-life/unwatched/at-stake", test_unwatched_at_stake);
    g_test_add_func("/engine-life/hangs", test_hangs);
    g_test_add_func("/engine-life/answers", test_answers);
    g_test_add_func("/engine-life/not-dead", test_not_dead);
    g_test_add_func("/engine-life/let-go", test_let_go);
    g_test_add_func("/engine-life/ends-first", test_ends_first);
    g_test_add_data_func("/engine-life/idle-too-early/phase", NULL, test_idle_too_early);
    g_test_add_data_func("/engine-life/idle-too-early/log", "log", test_idle_too_early);
    static const bool no, yes = true;
    g_test_add_data_func("/engine-life/without", &no, test_without);
    g_test_add_data_func("/engine-life/without/waits", &yes, test_without);
    g_test_add_func("/engine-life/without/capabilities", test_without_capabilities);
    g_test_add_data_func("/engine-life/incoming/no-program", "/nowhere/engine",
                         test_incoming_without);
    g_test_add_data_func("/engine-life/incoming/ends-at-once", "/bin/false", test_incoming_without);
    g_test_add_func("/engine-life/incoming/handed", test_incoming_handed);
    g_test_add_func("/engine-life/incoming/refused", test_incoming_refused);
    return g_test_run();
}
