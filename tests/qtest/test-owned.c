/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The relay in front of a real QEMU: commands that are owned go to an engine that the test plays
 * itself. Their order, which are owned when, filters of events, what an engine puts in.
 */
#include <signal.h>
#include <string.h>

#include "tests/lib/stop.h"
#include "tests/qtest/relay-rig.h"

/* ---- owned commands -------------------------------------------------------------------------- */

static void test_order(void)
{
    g_autoptr(Rig) rig = rig_new(NULL);
    g_autoptr(Stream) client = rig_client(rig, 0, true, false);
    g_autoptr(RigFrame) command = NULL;

    rig_send(client, "{'execute':'query-name','id':1}{'execute':'migrate','id':2,"
                     "'arguments':{'uri':'tcp:x\\u003a1'}}{'execute':'query-name','id':3}");
    rig_expect(client, "\"id\": 1");
    rig_engine_start(rig);
    command = rig_frame(rig, FF_LINK_COMMAND);
    g_assert_cmpstr(command->text, ==,
                    "{\"execute\": \"migrate\", \"id\": 2, \"arguments\": {\"uri\": \"tcp:x:1\"}}");
    rig_expect_nothing(rig, client, 1);
    rig_engine_send(rig, FF_LINK_EVENT, 0, 0, "{\"event\": \"MIGRATION\"}");
    rig_answer(rig, command, FF_LINK_REPLY, "{\"return\": {}, \"id\": 2}");
    rig_expect(client, "MIGRATION");
    rig_expect(client, "\"id\": 2");
    rig_expect(client, "\"id\": 3");
}

/* Out-of-band commands overtake what the engine has, owned or not. */
static void test_oob_overtakes(void)
{
    g_autoptr(Rig) rig = rig_new(NULL);
    g_autoptr(Stream) client = rig_client(rig, 0, true, true);
    g_autoptr(RigFrame) inband = NULL, oob = NULL;

    rig_send(client, "{'execute':'migrate','id':1}{'execute':'query-name','id':2}"
                     "{'exec-oob':'query-yank','id':3}{'exec-oob':'migrate-pause','id':4}");
    rig_expect(client, "\"id\": 3");
    rig_engine_start(rig);
    inband = rig_frame(rig, FF_LINK_COMMAND);
    oob = rig_frame(rig, FF_LINK_COMMAND);
    g_assert_nonnull(strstr(oob->text, "migrate-pause"));
    rig_answer(rig, oob, FF_LINK_REPLY, "{\"return\": {}, \"id\": 4}");
    rig_expect(client, "\"id\": 4");
    rig_answer(rig, inband, FF_LINK_REPLY, "{\"return\": {}, \"id\": 1}");
    rig_expect(client, "\"id\": 1");
    rig_expect(client, "\"id\": 2");
}

static void test_pass(void)
{
    g_autoptr(Rig) rig = rig_new(NULL);
    g_autoptr(Stream) client = rig_client(rig, 0, true, false);
    static const struct {
        const char *sent, *as, *answer;
    } cases[] = {
        {"{'execute':'query-migrate-capabilities','id':1}", NULL, "xbzrle"},
        {"{'execute':'query-migrate','id':2}", "{\"execute\": \"query-name\", \"id\": 20}",
         "\"id\": 20"},
        {"{'execute':'query-migrate','id':3}", "{broken", "\"id\": 3, \"error\""},
        {"{'execute':'query-migrate','id':4}", "{} {}", "\"id\": 4, \"error\""},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(RigFrame) command = NULL;

        rig_send(client, cases[i].sent);
        if (!rig->link) {
            rig_engine_start(rig);
        }
        command = rig_frame(rig, FF_LINK_COMMAND);
        rig_answer(rig, command, cases[i].as ? FF_LINK_PASS_AS : FF_LINK_PASS, cases[i].as);
        rig_expect(client, cases[i].answer);
    }
}

/* With an undo log pending QEMU would migrate without the guest's memory. */
static void test_undo_locks_native(void)
{
    static const char *const commands[] = {
        "{'execute':'migrate','arguments':{'uri':'exec:cat >/dev/null'},'id':1}",
        "{'execute':'migrate-incoming','arguments':{'uri':'defer'},'id':1}",
        "{'execute':'human-monitor-command','arguments':{'command-line':' migrate -d x'},'id':1}",
        "{'execute':'query-migrate','id':1}",
    };
    g_autoptr(Rig) rig = rig_new(NULL);
    g_autoptr(Stream) client = rig_client(rig, 0, true, false);

    for (size_t i = 0; i < G_N_ELEMENTS(commands); i++) {
        g_autoptr(RigFrame) command = NULL;
        bool last = i == G_N_ELEMENTS(commands) - 1;

        rig_send(client, commands[i]);
        if (!rig->link) {
            rig_engine_start(rig);
        }
        command = rig_frame(rig, FF_LINK_COMMAND);
        __atomic_store_n(&rig->state->undo_len, 1, __ATOMIC_RELEASE);
        rig_answer(rig, command, last ? FF_LINK_PASS_AS : FF_LINK_PASS,
                   last ? "{\"execute\": \"migrate\", \"id\": 1}" : NULL);
        rig_expect(client, "{\"id\": 1, \"error\": {\"class\": \"GenericError\", \"desc\": "
                           "\"QEMU's own migration is locked");
    }
    __atomic_store_n(&rig->state->undo_len, 0, __ATOMIC_RELEASE);
}

static const struct {
    const char *command; /* HMP if it does not begin with '{' */
    bool always, run_state;
} owners[] = {
    {"{'execute':'migrate-set-capabilities','id':1}", true, true},
    {"{'execute':'object-add','id':1}", true, true},
    {"{'execute':'cont','id':1}", false, true},
    {"{'execute':'query-status','id':1}", false, true},
    {"{'execute':'system_reset','id':1}", false, true},
    {"{'execute':'query-name','id':1}", false, false},
    {"migrate -d tcp:1", true, true},
    {"  migrate_set_parameter x", true, true},
    {"info \\t migrate_capabilities", true, true},
    {"info migrate/", true, true},
    {"object_del x", true, true},
    {"c", false, true},
    {"s/", false, true},
    {"info status", false, true},
    {"dump-guest-memory /dev/null/x", false, true},
    {"migrates", false, false},
    {"info migrated", false, false},
    {"cont_", false, false},
    {"help migrate", false, false},
};

static void test_ownership(void)
{
    g_autoptr(Rig) rig = rig_new(NULL);
    g_autoptr(Stream) client = rig_client(rig, 0, true, false);
    g_autoptr(RigFrame) first = NULL;

    rig_send(client, "{'execute':'query-migrate'}");
    rig_engine_start(rig);
    first = rig_frame(rig, FF_LINK_COMMAND);
    for (int filter = 0; filter < 2; filter++) {
        rig_filter(rig, filter ? FF_FILTER_RUN_STATE : 0);
        if (!filter) {
            rig_answer(rig, first, FF_LINK_REPLY, "{\"return\": 0}");
            rig_expect(client, "0");
        }
        for (size_t i = 0; i < G_N_ELEMENTS(owners); i++) {
            const char *text = owners[i].command;
            g_autofree char *hmp = g_strdup_printf("{'execute':'human-monitor-command','arguments'"
                                                   ":{'command-line':'%s'},'id':1}",
                                                   text);

            /* A marker that the engine answers tells when the filter is in force. */
            g_autoptr(RigFrame) marker = NULL;

            rig_send(client, "{'execute':'x-farfault-marker'}");
            marker = rig_frame(rig, FF_LINK_COMMAND);
            rig_answer(rig, marker, FF_LINK_REPLY, "{\"return\": \"marker\"}");
            rig_expect(client, "marker");
            rig_send(client, text[0] == '{' ? text : hmp);
            if (filter ? owners[i].run_state : owners[i].always) {
                g_autoptr(RigFrame) command = rig_frame(rig, FF_LINK_COMMAND);

                rig_answer(rig, command, FF_LINK_REPLY, "{\"return\": \"owned\"}");
                rig_expect(client, "owned");
            } else {
                for (;;) { /* QEMU's answer, perhaps after events */
                    g_autofree char *line = rig_line(client);

                    if (strstr(line, "\"id\": 1")) {
                        break;
                    }
                    g_assert_nonnull(strstr(line, "event"));
                }
            }
        }
    }
}

/* Events by the filter; those of the engine only for clients that have negotiated. */
static void test_events(void)
{
    g_autoptr(Rig) rig = rig_new(NULL);
    g_autoptr(Stream) direct = rig_client(rig, -1, true, false);
    g_autoptr(Stream) client = rig_client(rig, 0, true, false);
    g_autoptr(Stream) early = rig_client(rig, 1, false, false);
    g_autoptr(RigFrame) command = NULL, second = NULL;

    rig_send(client, "{'execute':'migrate'}");
    rig_engine_start(rig);
    command = rig_frame(rig, FF_LINK_COMMAND);
    rig_filter(rig, FF_FILTER_STOP_RESUME | FF_FILTER_MIGRATION_EVENTS);
    rig_engine_send(rig, FF_LINK_EVENT, 0, 0, "{\"event\": \"OURS\"}");
    rig_engine_send(rig, FF_LINK_SYNC, 0, 0, NULL);
    g_autoptr(RigFrame) synced = rig_frame(rig, FF_LINK_SYNCED);
    rig_answer(rig, command, FF_LINK_REPLY, "{\"return\": 1}");
    rig_expect(client, "OURS");
    rig_expect(client, "1");
    rig_send(direct, "{'execute':'stop'}");
    rig_expect(direct, "STOP");
    rig_expect(direct, "return");
    rig_send(client, "{'execute':'migrate'}");
    second = rig_frame(rig, FF_LINK_COMMAND);
    rig_filter(rig, 0);
    rig_answer(rig, second, FF_LINK_REPLY, "{\"return\": 2}");
    rig_expect(client, "2"); /* no STOP before it */
    rig_send(client, "{'execute':'query-name','id':'settled'}");
    rig_expect(client, "settled");
    rig_send(direct, "{'execute':'cont'}");
    rig_expect(client, "RESUME");
    rig_send(early, "{'execute':'query-name','id':'early'}");
    rig_expect(early, "early");
}

/* The engine is told when QEMU has carried out what clients have said of running, and not before.
 */
static void test_words(void)
{
    g_autoptr(Rig) rig = rig_new(NULL);
    g_autoptr(Stream) client = rig_client(rig, 0, true, false);
    g_autoptr(RigFrame) command = NULL;

    rig_send(client, "{'execute':'migrate'}");
    rig_engine_start(rig);
    command = rig_frame(rig, FF_LINK_COMMAND);
    rig_filter(rig, FF_FILTER_RUN_STATE);
    rig_answer(rig, command, FF_LINK_REPLY, "{\"return\": 0}");
    rig_expect(client, "0");
    stop_process(rig->qemu);
    rig_send(client, "{'execute':'stop'}");
    g_autoptr(RigFrame) stop = rig_frame(rig, FF_LINK_COMMAND);
    rig_answer(rig, stop, FF_LINK_PASS, NULL);
    rig_engine_send(rig, FF_LINK_SYNC, 0, 7, "words");
    rig_engine_send(rig, FF_LINK_SYNC, 0, 8, NULL);
    g_autoptr(RigFrame) plain = rig_frame(rig, FF_LINK_SYNCED);
    g_assert_cmpuint(plain->header.seq, ==, 8);
    g_assert_cmpint(kill(rig->qemu, SIGCONT), ==, 0);
    g_autoptr(RigFrame) words = rig_frame(rig, FF_LINK_SYNCED);
    g_assert_cmpuint(words->header.seq, ==, 7);
    rig_expect(client, "STOP");
    rig_expect(client, "return");
    /* Nothing is under way. */
    rig_engine_send(rig, FF_LINK_SYNC, 0, 9, "words");
    g_autoptr(RigFrame) at_once = rig_frame(rig, FF_LINK_SYNCED);
    g_assert_cmpuint(at_once->header.seq, ==, 9);
}

/* Reads on until TEXT comes; none of the lines before it may have REFUSED in it. */
static void skip_to(Stream *client, const char *text, const char *refused)
{
    for (;;) {
        g_autofree char *line = rig_line(client);

        g_assert_nonnull(line);
        if (strstr(line, text)) {
            return;
        }
        g_assert_true(!refused || !strstr(line, refused));
    }
}

/* QEMU's events and the engine's words come by different sockets. What counts is the order in
 * which they were said, even if the relay finds all of them at once. */
static void test_filter_races(void)
{
    g_autoptr(Rig) rig = rig_new(NULL);
    g_autoptr(Stream) direct = rig_client(rig, -1, true, false);
    g_autoptr(Stream) client = rig_client(rig, 0, true, false);
    g_autoptr(RigFrame) command = NULL;

    rig_send(direct, "{'execute':'migrate-set-capabilities','arguments':{'capabilities':"
                     "[{'capability':'events','state':true}]}}");
    rig_expect(direct, "return");
    /* Without a filter they come. */
    rig_send(direct, "{'execute':'migrate','arguments':{'uri':'unix:/nonexistent'}}");
    skip_to(client, "\"failed\"", NULL);
    skip_to(direct, "\"failed\"", NULL);
    rig_send(client, "{'execute':'migrate'}");
    rig_engine_start(rig);
    command = rig_frame(rig, FF_LINK_COMMAND);
    stop_process(rig->relay);
    rig_filter(rig, FF_FILTER_MIGRATION_EVENTS);
    rig_send(direct, "{'execute':'migrate','arguments':{'uri':'exec:cat >/dev/null'}}");
    skip_to(direct, "\"completed\"", "\"failed\"");
    rig_filter(rig, 0);
    rig_engine_send(rig, FF_LINK_EVENT, 0, 0, "{\"event\": \"OURS\"}");
    kill(rig->relay, SIGCONT);
    skip_to(client, "OURS", "MIGRATION");
    rig_answer(rig, command, FF_LINK_REPLY, "{\"return\": {}, \"id\": 1}");
    rig_send(client, "{'execute':'query-name','id':'settled'}");
    skip_to(client, "settled", "MIGRATION");
}

/* The engine hands a migration that it listened for to QEMU: what QEMU says of it is the client's,
 * however soon it comes; only that it is set up was said before. */
static void test_setup_filter(void)
{
    g_autoptr(Rig) rig = rig_new(NULL);
    g_autoptr(Stream) direct = rig_client(rig, -1, true, false);
    g_autoptr(Stream) client = rig_client(rig, 0, true, false);
    g_autoptr(RigFrame) command = NULL;

    rig_send(direct, "{'execute':'migrate-set-capabilities','arguments':{'capabilities':"
                     "[{'capability':'events','state':true}]}}");
    rig_expect(direct, "return");
    rig_send(client, "{'execute':'migrate'}");
    rig_engine_start(rig);
    command = rig_frame(rig, FF_LINK_COMMAND);
    stop_process(rig->relay);
    rig_filter(rig, FF_FILTER_MIGRATION_EVENTS);
    rig_filter(rig, FF_FILTER_SETUP_EVENTS);
    rig_send(direct, "{'execute':'migrate','arguments':{'uri':'exec:cat >/dev/null'}}");
    skip_to(direct, "\"completed\"", "\"failed\"");
    rig_filter(rig, 0);
    kill(rig->relay, SIGCONT);
    skip_to(client, "\"active\"", "\"setup\"");
    skip_to(client, "\"completed\"", "\"setup\"");
    rig_answer(rig, command, FF_LINK_REPLY, "{\"return\": {}, \"id\": 1}");
}

static void test_inject(void)
{
    g_autoptr(Rig) rig = rig_new(NULL);
    g_autoptr(Stream) client = rig_client(rig, 0, true, true);
    g_autoptr(RigFrame) command = NULL;
    static const struct {
        unsigned mon;
        const char *text, *reply;
    } cases[] = {
        {0, "{\"execute\": \"query-name\"}", "\"return\": {}"},
        {0, "{\"execute\": \"no-such\"}", "CommandNotFound"},
        {0, "{\"execute\": \"query-qmp-schema\"}", "\"return\": ["},
        {0, "not json", NULL},
        {1, "{\"execute\": \"query-name\"}", NULL}, /* nobody there */
    };

    rig_send(client, "{'execute':'migrate','id':1}{'execute':'query-name','id':2}");
    rig_engine_start(rig);
    command = rig_frame(rig, FF_LINK_COMMAND);
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(RigFrame) reply = NULL;

        rig_engine_send(rig, FF_LINK_INJECT, cases[i].mon, 50 + i, cases[i].text);
        rig_send(client, "{'exec-oob':'query-yank','id':3}"); /* beside it */
        reply = rig_frame(rig, FF_LINK_INJECT_REPLY);
        g_assert_cmpuint(reply->header.seq, ==, 50 + i);
        if (cases[i].reply) {
            g_assert_nonnull(strstr(reply->text, cases[i].reply));
        } else {
            g_assert_cmpstr(reply->text, ==, "");
        }
        rig_expect(client, "\"id\": 3"); /* and nothing of the reply */
    }
    rig_answer(rig, command, FF_LINK_REPLY, "{\"return\": {}, \"id\": 1}");
    rig_expect(client, "\"id\": 1");
    rig_expect(client, "\"id\": 2");
}

static void test_client_gone(void)
{
    g_autoptr(Rig) rig = rig_new(NULL);
    Stream *client = rig_client(rig, 0, true, false);
    g_autoptr(Stream) next = NULL;
    g_autoptr(RigFrame) command = NULL, gone = NULL;

    rig_send(client, "{'execute':'migrate','id':1}");
    rig_engine_start(rig);
    command = rig_frame(rig, FF_LINK_COMMAND);
    stream_free(client);
    gone = rig_frame(rig, FF_LINK_CLIENT_GONE);
    g_assert_cmpuint(gone->header.mon, ==, 0);
    next = rig_client(rig, 0, true, false);
    rig_answer(rig, command, FF_LINK_REPLY, "{\"return\": \"late\", \"id\": 1}");
    rig_send(next, "{'execute':'query-name','id':2}");
    rig_expect(next, "\"id\": 2");
}

static void test_idle(void)
{
    g_autoptr(Rig) rig = rig_new(NULL);
    g_autoptr(Stream) client = rig_client(rig, 0, true, false);

    for (int i = 0; i < 2; i++) {
        g_autoptr(RigFrame) a = NULL, b = NULL;

        rig_send(client, "{'execute':'query-migrate'}");
        rig_engine_start(rig);
        a = rig_frame(rig, FF_LINK_COMMAND);
        rig_answer(rig, a, FF_LINK_REPLY, "{\"return\": \"a\"}");
        rig_expect(client, "a");
        /* IDLE crosses a command: the engine stays. */
        rig_send(client, "{'execute':'query-migrate'}");
        b = rig_frame(rig, FF_LINK_COMMAND);
        rig_engine_send(rig, FF_LINK_IDLE, 0, 0, NULL);
        rig_answer(rig, b, FF_LINK_REPLY, "{\"return\": \"b\"}");
        rig_expect(client, "b");
        rig_engine_send(rig, FF_LINK_IDLE, 0, 0, NULL);
        rig_engine_let_go(rig);
    }
}

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/relay/order", test_order);
    g_test_add_func("/relay/oob-overtakes", test_oob_overtakes);
    g_test_add_func("/relay/pass", test_pass);
    g_test_add_func("/relay/undo-locks-native", test_undo_locks_native);
    g_test_add_func("/relay/ownership", test_ownership);
    g_test_add_func("/relay/words", test_words);
    g_test_add_func("/relay/events", test_events);
    g_test_add_func("/relay/filter-races", test_filter_races);
    g_test_add_func("/relay/setup-filter", test_setup_filter);
    g_test_add_func("/relay/inject", test_inject);
    g_test_add_func("/relay/client-gone", test_client_gone);
    g_test_add_func("/relay/idle", test_idle);
    return g_test_run();
}
