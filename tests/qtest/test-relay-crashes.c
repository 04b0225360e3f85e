/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The relay in front of a real QEMU, and an engine that the test plays itself: one that crashes, or
 * never starts, and a QEMU that ends.
 */
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/sandbox.h"
#include "tests/qtest/relay-rig.h"

/* ---- crashes --------------------------------------------------------------------------------- */

static void test_engine_crash(void)
{
    g_autoptr(Rig) rig = rig_new(NULL);
    g_autoptr(Stream) client = rig_client(rig, 0, true, false);
    g_autoptr(RigFrame) command = NULL, again = NULL;
    struct stat want, got;
    int held = memfd_create("held", MFD_CLOEXEC);

    fstat(held, &want);
    rig_send(client, "{'execute':'migrate','id':7}{'execute':'query-name','id':8}");
    rig_engine_start(rig);
    g_assert_nonnull(strstr(rig->init, "\"engine-restarts\":0"));
    command = rig_frame(rig, FF_LINK_COMMAND);
    g_assert_cmpint(
        ff_link_send(rig->link, FF_LINK_HOLD, 0, 0, "{\"name\": \"blob\", \"x\": 1}", 24, &held, 1),
        ==, 0);
    __atomic_store_n(&rig->state->phase, FF_PHASE_STOPPED, __ATOMIC_RELEASE);
    rig_engine_crash(rig);
    rig_expect(client, "{\"id\": 7, \"error\": {\"class\": \"GenericError\", \"desc\": \"the "
                       "migration engine ended unexpectedly; it has been restarted, repeat");
    rig_expect(client, "\"id\": 8");
    rig_engine_start(rig); /* at once, as something is under way */
    g_assert_nonnull(strstr(rig->init, "\"engine-restarts\":1"));
    g_assert_nonnull(strstr(rig->init, "\"blob\""));
    g_assert_cmpuint(rig->state->phase, ==, FF_PHASE_STOPPED);
    /* The run state belongs to the engine in this phase, without its asking. */
    rig_send(client, "{'execute':'query-status','id':9}");
    again = rig_frame(rig, FF_LINK_COMMAND);
    g_assert_nonnull(strstr(again->text, "query-status"));
    fstat(rig->init_frame->fds[rig->init_frame->header.n_fds - 1], &got);
    g_assert_cmpuint(got.st_ino, ==, want.st_ino);
    close(held);
    __atomic_store_n(&rig->state->phase, FF_PHASE_IDLE, __ATOMIC_RELEASE);
}

/* An engine whose link has ended may live on: two must not act on one guest. */
static void test_engine_lives_on(void)
{
    g_autoptr(Rig) rig = rig_new(NULL);
    g_autoptr(Stream) client = rig_client(rig, 0, true, false);
    g_autoptr(RigFrame) command = NULL;

    rig_send(client, "{'execute':'migrate','id':1}");
    rig_engine_start(rig);
    command = rig_frame(rig, FF_LINK_COMMAND);
    __atomic_store_n(&rig->state->phase, FF_PHASE_STOPPED, __ATOMIC_RELEASE);
    int process = fcntl(rig->engine, F_DUPFD_CLOEXEC, 0); /* it lives as long as this is open */
    g_clear_pointer(&rig->link, ff_link_free);
    rig_expect(client, "it has been restarted");
    g_assert_true(test_wait_readable(rig->engine_listener, test_deadline(TEST_TIMEOUT)));
    g_assert_true(test_wait_readable(process, 0));
    rig_engine_start(rig);
    close(process);
    __atomic_store_n(&rig->state->phase, FF_PHASE_IDLE, __ATOMIC_RELEASE);
}

/* An engine that cannot live is started again by each command that does something. */
static void test_crash_loop(void)
{
    g_autoptr(Rig) rig = rig_new(NULL);
    g_autoptr(Stream) client = rig_client(rig, 0, true, false);

    for (int i = 0; i < 5; i++) {
        g_autoptr(RigFrame) command = NULL;

        rig_send(client, "{'execute':'migrate','id':1}");
        rig_engine_start(rig);
        command = rig_frame(rig, FF_LINK_COMMAND);
        rig_engine_crash(rig);
        rig_expect(client, i < 4 ? "it has been restarted" : "again and again: repeat the command");
    }
    rig_send(client, "{'execute':'migrate','id':1}{'execute':'query-name','id':2}");
    rig_engine_start(rig);
    g_autoptr(RigFrame) last = rig_frame(rig, FF_LINK_COMMAND);
    rig_answer(rig, last, FF_LINK_REPLY, "{\"return\": \"lives\"}");
    rig_expect(client, "lives");
    rig_expect(client, "\"id\": 2");
}

/* Returns the state, which stays mapped. */
static FfStateHeader *stillborn_engine(Rig *rig)
{
    g_autoptr(RigFrame) command = NULL;
    FfStateHeader *state;

    rig_engine_start(rig);
    command = rig_frame(rig, FF_LINK_COMMAND);
    state = ff_state_map(rig->init_frame->fds[0], NULL);
    rig_engine_crash(rig);
    return state;
}

/* Engines that end before they have said anything: once more with the kept libraries, then the
 * command is QEMU's; the next ones, too, for a while. But not when something is under way. */
static void test_stillborn(void)
{
    g_autoptr(Rig) rig = rig_new(NULL);
    g_autoptr(Stream) client = rig_client(rig, 0, true, false);

    rig->mute = true;
    rig_send(client, "{'execute':'query-migrate','id':1}{'execute':'query-name','id':2}");
    FfStateHeader *state = stillborn_engine(rig);
    if (!FF_SANITIZED) {
        stillborn_engine(rig);
    }
    rig_expect(client, "{\"return\": {}, \"id\": 1}");
    rig_expect(client, "\"id\": 2");
    for (int i = 0; i < 5; i++) {
        rig_send(client, "{'execute':'query-migrate','id':3}");
        rig_expect(client, "{\"return\": {}, \"id\": 3}");
    }
    g_assert_false(test_wait_readable(rig->engine_listener, 0)); /* none was tried */
    rig_send(client, "{'execute':'migrate-incoming','id':4, 'arguments': {'uri': 'exec:true'}}");
    rig_expect(client, "\"id\": 4, \"error\""); /* QEMU has no -incoming */
    g_assert_cmpuint(state->driver_flags & FF_DRIVER_NATIVE_INCOMING, !=, 0);
    __atomic_store_n(&state->undo_len, 1, __ATOMIC_RELEASE);
    rig_send(client, "{'execute':'migrate','id':5}");
    stillborn_engine(rig);
    rig_expect(client, "it has been restarted");
    __atomic_store_n(&state->undo_len, 0, __ATOMIC_RELEASE);
    g_autofree char *log = rig_log(rig);
    g_assert_nonnull(strstr(log, "cannot be started (it ends at once): migrations are QEMU's own"));
}

/* No engine at all: QEMU is as the client left it, so it answers itself. */
static void test_no_engine(void)
{
    g_autoptr(Rig) rig = rig_new(&(RigConfig){.engine = "/nonexistent/engine"});
    g_autoptr(Stream) client = rig_client(rig, 0, true, false);
    g_autofree char *log = NULL;

    rig_send(client, "{'execute':'query-migrate-capabilities','id':1}");
    rig_expect(client, "xbzrle");
    log = rig_log(rig);
    g_assert_nonnull(strstr(log, "/nonexistent/engine cannot be started"));
}

static void test_qemu_killed(void)
{
    g_autoptr(Rig) rig = rig_new(NULL);
    g_autoptr(Stream) a = rig_client(rig, 0, true, false), b = rig_client(rig, 1, true, false);
    g_autoptr(RigFrame) command = NULL;

    rig_send(a, "{'execute':'migrate'}");
    rig_engine_start(rig);
    command = rig_frame(rig, FF_LINK_COMMAND);
    rig_kill_qemu(rig);
    rig_expect_end(a);
    rig_expect_end(b);
    rig_engine_let_go(rig);
    g_assert_cmpint(rig_wait_relay(rig), ==, 0);
}

/* What QEMU says last is delivered. */
static void test_qemu_quits(void)
{
    g_autoptr(Rig) rig = rig_new(NULL);
    g_autoptr(Stream) a = rig_client(rig, 0, true, false), b = rig_client(rig, 1, true, false);

    rig_send(a, "{'execute':'quit','id':1}");
    rig_expect(a, "SHUTDOWN");
    rig_expect(a, "\"id\": 1");
    rig_expect_end(a);
    rig_expect(b, "SHUTDOWN");
    rig_expect_end(b);
    g_assert_cmpint(rig_wait_relay(rig), ==, 0);
}

static void test_kill_request(void)
{
    g_autoptr(Rig) rig = rig_new(NULL);
    g_autoptr(Stream) a = rig_client(rig, 0, true, false);
    g_autofree char *log = NULL;
    g_autoptr(RigFrame) command = NULL;

    rig_send(a, "{'execute':'migrate'}");
    rig_engine_start(rig);
    command = rig_frame(rig, FF_LINK_COMMAND);
    rig_engine_send(rig, FF_LINK_KILL_QEMU, 0, 0, "a test wants it");
    rig_expect_end(a);
    g_assert_cmpint(rig_wait_relay(rig), ==, 0);
    log = rig_log(rig);
    g_assert_nonnull(strstr(log, "QEMU is killed: a test wants it"));
}

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/relay/engine-crash", test_engine_crash);
    g_test_add_func("/relay/engine-lives-on", test_engine_lives_on);
    g_test_add_func("/relay/crash-loop", test_crash_loop);
    g_test_add_func("/relay/stillborn", test_stillborn);
    g_test_add_func("/relay/no-engine", test_no_engine);
    g_test_add_func("/relay/qemu-killed", test_qemu_killed);
    g_test_add_func("/relay/qemu-quits", test_qemu_quits);
    g_test_add_func("/relay/kill-request", test_kill_request);
    return g_test_run();
}
