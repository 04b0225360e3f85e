/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The relay in front of a real QEMU. What passes is compared with a direct connection, byte for
 * byte; what is owned goes to an engine that the test plays itself.
 */
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "sandbox/sandbox.h"
#include "tests/lib/stop.h"
#include "tests/lib/vm.h"
#include "tests/qtest/relay-rig.h"
#include "agent/agent.h"
#include "relay/uffds.h"
#include "uffd/uffd.h"

/* --- passing through --- */

/* Each is sent to QEMU directly and through the relay; the answers must be equal. */
static const char *const exact[] = {
    "{'execute':'query-status'}",
    "{\"execute\":\"query-name\",\"id\":null}{\"execute\":\"query-name\",\"id\":1.50}\n"
    "{\"execute\":\"query-name\",\"id\":{\"b\":[1e3,-0,true],\"a\":\"\\u0041\\ud83d\\ude00\"}}",
    "{'execute':'query-name','id':'\\u0000 \\'\\\"'}",
    "{\"execute\":\"query-name\",\"execute\":\"query-status\",\"id\":5}",
    "{\"execute\":\"query-name\",\"foo\":1}",
    "{\"execute\":7,\"id\":7}",
    "{\"execute\":\"no-such-command\",\"id\":8}",
    "{\"exec-oob\":\"query-name\",\"id\":9}",
    "{\"execute\":\"query-name\",\"exec-oob\":\"query-name\",\"id\":10}",
    "{\"execute\":\"query-name\",\"arguments\":[]}",
    "{\"execute\":\"query-name\",}",
    "{} [] 12 \"text\" true nul -0.5e+3 01\n",
    "@ garbage here {\"execute\":\"query-name\",\"id\":11}",
    "{\"execute\": @ \"query-name\", {}}\n",
    "}{\"execute\":\"query-name\",\"id\":12}",
    "{]}{\"execute\":\"query-name\",\"id\":13}",
    "[}]:,{\"execute\":\"query-name\",\"id\":14}",
    "{\"execute\":\"query\x01-name\"}\n{\"execute\":\"query-name\",\"id\":15}",
    "{\"a\"\xff\xff{\"execute\":\"query-name\",\"id\":16}",
    "{\"execute\":\"query-name\",\"id\":\"\xe2\x82\xac \xc0\x80\"}{\"execute\":\"\xc0\xaf\"}",
    "\xfe%d 1.x 5.\n{\"execute\":\"query-name\",\"id\":17}",
    "{'execute':'query-qmp-schema','id':'schema'}",
    "{'execute':'device-list-properties','arguments':{'typename':'virtio-net-pci'}}",
    "{'execute':'human-monitor-command','arguments':{'command-line':'info version'}}",
    "{'execute':'human-monitor-command','arguments':{'command-line':'help stop'}}",
    "{'execute':'getfd','arguments':{'fdname':'none'}}",
    "{'execute':'qmp_capabilities'}",
    "{'execute':'cont'}{'execute':'query-status'}{'execute':'stop'}{'execute':'query-status'}",
};

/* The lines that answer TEXT, timestamps blanked. */
static char *answers_to(Stream *client, const char *text, bool bytewise)
{
    GString *all = g_string_new(NULL);
    size_t step = bytewise ? 1 : strlen(text);

    for (size_t at = 0; text[at]; at += step) {
        stream_send(client, text + at, MIN(step, strlen(text + at)), NULL, 0);
    }
    rig_send(client, "\n{'execute':'query-name','id':'the end'}\n");
    for (;;) {
        g_autofree char *line = rig_line(client);

        g_assert_nonnull(line);
        if (strstr(line, "\"the end\"")) {
            return g_string_free(all, FALSE);
        }
        if (!strstr(line, "\"event\"")) { /* they go to all monitors, at any time */
            g_string_append_printf(all, "%s\n", line);
        }
    }
}

static void compare(Stream *direct, Stream *relayed)
{
    for (size_t i = 0; i < G_N_ELEMENTS(exact); i++) {
        for (int bytewise = 0; bytewise < 2; bytewise++) {
            g_autofree char *want = answers_to(direct, exact[i], bytewise);
            g_autofree char *got = answers_to(relayed, exact[i], bytewise);

            g_assert_cmpstr(got, ==, want);
        }
    }
}

static void test_exact(void)
{
    g_autoptr(Rig) rig = rig_new(NULL);
    g_autoptr(Stream) direct = rig_client(rig, -1, true, false);
    g_autoptr(Stream) relayed = rig_client(rig, 0, true, false);

    compare(direct, relayed);
}

static void test_exact_before_negotiation(void)
{
    static const char text[] = "{'execute':'query-status'}{'execute':'migrate','id':1}"
                               "{'execute':'no-such'}{'execute':'qmp_capabilities','id':2,"
                               "'arguments':{'enable':['none']}}@{'exec-oob':'migrate-pause'}";
    g_autoptr(Rig) rig = rig_new(NULL);
    g_autoptr(Stream) direct = rig_client(rig, -1, false, false);
    g_autoptr(Stream) relayed = rig_client(rig, 0, false, false);
    static const char after[] = "\n{'execute':'qmp_capabilities','id':'the end'}\n";

    rig_send(direct, text);
    rig_send(direct, after);
    rig_send(relayed, text);
    rig_send(relayed, after);
    for (;;) {
        g_autofree char *want = rig_line(direct), *got = rig_line(relayed);

        g_assert_nonnull(want);
        g_assert_cmpstr(got, ==, want);
        if (strstr(want, "the end")) {
            break;
        }
    }
}

static void test_exact_oob(void)
{
    static const char *const texts[] = {
        "{'exec-oob':'query-yank','id':1}",
        "{'exec-oob':'query-name','id':2}",
        "{'exec-oob':'no-such','id':3}",
        "{'exec-oob':7,'id':4}",
        "{'exec-oob':'query-yank','foo':1,'id':5}",
    };
    g_autoptr(Rig) rig = rig_new(NULL);
    g_autoptr(Stream) direct = rig_client(rig, -1, true, true);
    g_autoptr(Stream) relayed = rig_client(rig, 0, true, true);

    for (size_t i = 0; i < G_N_ELEMENTS(texts); i++) {
        g_autofree char *want = NULL, *got = NULL;

        rig_send(direct, texts[i]);
        rig_send(relayed, texts[i]);
        want = rig_line(direct);
        got = rig_line(relayed);
        g_assert_cmpstr(got, ==, want);
    }
    compare(direct, relayed);
}

/* A client that shuts its sending side still gets its answers, then the end. */
static void test_half_close(void)
{
    g_autoptr(Rig) rig = rig_new(NULL);
    g_autoptr(Stream) client = rig_client(rig, 0, true, false);

    rig_send(client, "{'execute':'query-name','id':1}");
    shutdown(stream_fd(client), SHUT_WR);
    rig_expect(client, "\"id\": 1");
    rig_expect_end(client);
}

/* --- where clients come from --- */

static void test_kinds(gconstpointer kind)
{
    g_autoptr(Rig) rig = rig_new(&(RigConfig){.kind = GPOINTER_TO_INT(kind)});
    g_autoptr(Stream) client = rig_peer(rig), next = NULL;
    g_autoptr(RigFrame) command = NULL;

    rig_send(client, "{'execute':'query-name','id':1}{'execute':'migrate','id':2}"
                     "{'execute':'query-name','id':3}");
    rig_expect(client, "\"id\": 1");
    rig_engine_start(rig);
    command = rig_frame(rig, FF_LINK_COMMAND);
    rig_answer(rig, command, FF_LINK_REPLY, "{\"return\": {}, \"id\": 2}");
    rig_expect(client, "\"id\": 2");
    rig_expect(client, "\"id\": 3");
    if (GPOINTER_TO_INT(kind) == RIG_CONNECT) {
        g_clear_pointer(&client, stream_free);
        next = rig_peer(rig);
    } else {
        shutdown(stream_fd(client), SHUT_RDWR);
    }
    g_assert_false(rig_relay_has_ended(rig));
    g_clear_pointer(&next, stream_free);
    next = rig_client(rig, 1, true, false); /* the guest and its other monitor go on */
}

/* A client that comes while another is there waits for its turn, as with QEMU. */
static void test_one_at_a_time(void)
{
    g_autoptr(Rig) rig = rig_new(NULL);

    for (int i = 0; i < 20; i++) {
        Stream *client = rig_client(rig, 0, true, false);

        rig_send(client, "{'execute':'query-qmp-schema'}{'execute':'query-qmp-schema'}");
        stream_free(client); /* with its answers unread */
    }
}

static rlim_t lowest_free_fd(pid_t pid)
{
    for (rlim_t fd = 0;; fd++) {
        g_autofree char *path = g_strdup_printf("/proc/%d/fd/%d", pid, (int)fd);
        struct stat st;

        if (lstat(path, &st) < 0) {
            return fd;
        }
    }
}

/* Without a free fd the relay lets nobody in, says so once and does not spin; then it goes on. */
static void test_no_room(void)
{
    g_autoptr(Rig) rig = rig_new(NULL);
    g_autoptr(Stream) other = rig_client(rig, 1, true, false);
    struct rlimit none, before;

    g_assert_cmpint(prlimit(rig->relay, RLIMIT_NOFILE, NULL, &before), ==, 0);
    none = (struct rlimit){lowest_free_fd(rig->relay), before.rlim_max};
    g_assert_cmpint(prlimit(rig->relay, RLIMIT_NOFILE, &none, NULL), ==, 0);
    g_autoptr(Stream) client = rig_dial(rig, 0);

    rig_send(other, "{'execute':'query-name'}"); /* answered when the relay has met the client */
    rig_expect(other, "return");
    g_assert_cmpint(prlimit(rig->relay, RLIMIT_NOFILE, &before, NULL), ==, 0);
    rig_expect(client, "\"QMP\"");
    g_autofree char *log = rig_log(rig);

    g_assert_nonnull(strstr(log, "no client can come in"));
    g_assert_null(strstr(strstr(log, "no client can come in") + 1, "no client can come in"));
}

/* --- fds --- */

static void send_fd(Stream *client, const char *text, int fd)
{
    stream_send(client, text, strlen(text), &fd, 1);
}

/* All in one burst, so that the relay finds them side by side in its socket. */
static void test_fds_at_their_command(void)
{
    g_autoptr(Rig) rig = rig_new(NULL);
    g_autoptr(Stream) client = rig_client(rig, 0, true, false);
    int sv[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), ==, 0);
    stop_process(rig->relay);
    rig_send(client, "{'execute':'getfd','arguments':{'fdname':'a'},'id':1}");
    send_fd(client, "{'execute':'getfd','arguments':{'fdname':'a'},'id':2}", sv[0]);
    rig_send(client, "{'execute':'getfd','arguments':{'fdname':'b'},'id':3}"
                     "{'execute':'closefd','arguments':{'fdname':'a'},'id':4}");
    send_fd(client, "{'execute':'add-fd','id':5}", sv[1]);
    kill(rig->relay, SIGCONT);
    rig_expect(client, "{\"id\": 1, \"error\"");
    rig_expect(client, "{\"return\": {}, \"id\": 2}");
    rig_expect(client, "{\"id\": 3, \"error\"");
    rig_expect(client, "{\"return\": {}, \"id\": 4}");
    rig_expect(client, "fdset-id");
    close(sv[0]);
    close(sv[1]);
}

/* The engine gets a copy of a socket; never of a pipe, whose reader waits for its end. */
static void test_take_fd(void)
{
    g_autoptr(Rig) rig = rig_new(NULL);
    g_autoptr(Stream) client = rig_client(rig, 0, true, false);
    g_autoptr(RigFrame) command = NULL;
    int sv[2], ends[2];
    struct stat want, got;
    char byte;
    static const struct {
        const char *name;
        bool there;
    } names[] = {{"migrate", true}, {"migrate", false}, {"pipe", false}, {"used", false},
                 {"closed", false}, {"kept", true},     {"never", false}};

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), ==, 0);
    g_assert_cmpint(pipe(ends), ==, 0);
    fstat(sv[0], &want);
    for (const char *const *name = (const char *const[]){"migrate", "used", "closed", "kept", NULL};
         *name; name++) {
        g_autofree char *text =
            g_strdup_printf("{'execute':'getfd','arguments':{'fdname':'%s'}}", *name);

        send_fd(client, text, sv[0]);
        rig_expect(client, "return");
    }
    send_fd(client, "{'execute':'getfd','arguments':{'fdname':'pipe'}}", ends[1]);
    rig_expect(client, "return");
    rig_send(client, "{'execute':'closefd','arguments':{'fdname':'closed'}}"
                     "{'execute':'query-name','id':'fd:used'}"
                     "{'execute':'query-name','id':'migrate-set-x not_kept'}");
    rig_expect(client, "return");
    rig_expect(client, "used");
    rig_expect(client, "kept");
    rig_send(client, "{'execute':'migrate'}");
    rig_engine_start(rig);
    command = rig_frame(rig, FF_LINK_COMMAND);
    for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
        g_autoptr(RigFrame) reply = NULL;

        rig_engine_send(rig, FF_LINK_TAKE_FD, 0, 100 + i, names[i].name);
        reply = rig_frame(rig, FF_LINK_FD_REPLY);
        g_assert_cmpuint(reply->header.seq, ==, 100 + i);
        g_assert_cmpuint(reply->header.n_fds, ==, names[i].there);
        if (names[i].there) {
            fstat(reply->fds[0], &got);
            g_assert_cmpuint(got.st_ino, ==, want.st_ino);
        }
    }
    /* With QEMU's own copy closed, nobody holds the pipe's end. */
    close(ends[1]);
    rig_answer(rig, command, FF_LINK_REPLY, "{\"return\": {}}");
    rig_expect(client, "return");
    rig_send(client, "{'execute':'closefd','arguments':{'fdname':'pipe'}}");
    rig_expect(client, "return");
    g_assert_cmpint(read(ends[0], &byte, 1), ==, 0);
    close(ends[0]);
    close(sv[0]);
    close(sv[1]);
}

/* --- owned commands --- */

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

/* --- crashes --- */

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

/* --- the agent, -incoming --- */

static RigFrame *take_uffd(Rig *rig, const char *kind)
{
    rig_engine_send(rig, FF_LINK_TAKE_UFFD, 0, 200, kind);
    RigFrame *reply = rig_frame(rig, FF_LINK_FD_REPLY);

    g_assert_cmpuint(reply->header.seq, ==, 200);
    return reply;
}

static void expect_no_uffd(Rig *rig, const char *kind, const char *why)
{
    g_autoptr(RigFrame) reply = take_uffd(rig, kind);

    g_assert_cmpuint(reply->header.n_fds, ==, 0);
    g_assert_nonnull(strstr(reply->text, why));
}

/* How many fds of the relay are the file that FD is, as far as this user may look at them. */
static unsigned held_by_relay(Rig *rig, int fd)
{
    g_autofree char *dir = g_strdup_printf("/proc/%d/fd", (int)rig->relay);
    g_autoptr(GDir) fds = g_dir_open(dir, 0, NULL);
    struct stat want, got;
    const char *name;
    unsigned n = 0;

    g_assert_cmpint(fstat(fd, &want), ==, 0);
    while (fds && (name = g_dir_read_name(fds))) {
        g_autofree char *path = g_build_filename(dir, name, NULL);
        n += stat(path, &got) == 0 && got.st_ino == want.st_ino && got.st_dev == want.st_dev;
    }
    return n;
}

/* A relay that has sent a frame closes what it need not keep of it. */
static void expect_held(Rig *rig, int fd, unsigned n)
{
    int64_t end = g_get_monotonic_time() + 20 * G_USEC_PER_SEC;

    while (held_by_relay(rig, fd) != n) {
        g_assert_cmpint(g_get_monotonic_time(), <, end);
        g_thread_yield();
    }
}

static void give_uffd(Rig *rig, const RigFrame *taken)
{
    ff_link_send(rig->link, FF_LINK_GIVE_UFFD, 0, 0, "protect", strlen("protect"),
                 taken ? taken->fds : NULL, taken ? 1 : 0);
}

static RigFrame *begin_engine(Rig *rig, Stream *client)
{
    rig_send(client, "{'execute':'migrate'}");
    rig_engine_start(rig);
    return rig_frame(rig, FF_LINK_COMMAND);
}

/* The userfaultfd for synchronous write protection is lent: to one engine, which gives it back, or
 * says that it could not. */
static void test_protect(void)
{
    g_autoptr(Rig) rig = rig_new(NULL);
    g_autoptr(Stream) client = rig_client(rig, 0, true, false);
    g_autoptr(RigFrame) command = begin_engine(rig, client), taken = NULL, again = NULL;

    g_assert_nonnull(strstr(rig->init, "\"protect-error\":null"));
    g_assert_null(strstr(rig->init, "uffd:protect"));
    expect_no_uffd(rig, "missing", "from its start on");
    taken = take_uffd(rig, "protect");
    g_assert_cmpuint(taken->header.n_fds, ==, 1);
    expect_no_uffd(rig, "protect", "the engine's already");
    expect_held(rig, taken->fds[0], 1);
    give_uffd(rig, taken);
    again = take_uffd(rig, "protect");
    g_assert_cmpuint(again->header.n_fds, ==, 1);
    expect_held(rig, taken->fds[0], 1);
    g_assert_cmpint(rig->state->kind_error[FF_KIND_PROTECT], ==, 0);
    give_uffd(rig, NULL);
    expect_no_uffd(rig, "protect", "they need the guest to be started again");
    expect_held(rig, taken->fds[0], 0);
    g_assert_cmpint(rig->state->kind_error[FF_KIND_PROTECT], ==, FF_AGENT_ELOST);
}

/* ---- an engine dies while somebody waits ---- */

typedef struct {
    int uffd;
    char *map;
    gint done; /* atomic; observer: the test */
    GThread *writer;
} Guest;

#define GUEST_BYTES (1 << 20)

static gpointer write_one(gpointer opaque)
{
    Guest *g = opaque;

    __atomic_store_n(g->map + 4711, 2, __ATOMIC_RELAXED); /* observer: the test, joined */
    g_atomic_int_set(&g->done, 1);
    return NULL;
}

static bool guest_new(Guest *g)
{
    int fd = memfd_create("ram", MFD_CLOEXEC);

    *g = (Guest){.uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK)};
    if (g->uffd < 0 || ff_uffd_init(g->uffd, FF_UFFD_PROTECTION, NULL) < 0) {
        g_test_skip(g->uffd < 0 ? "no permission for userfaultfd" : "the kernel is too old");
        return false;
    }
    g_assert_cmpint(ftruncate(fd, GUEST_BYTES), ==, 0);
    g->map = mmap(NULL, GUEST_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    g_assert_true(g->map != MAP_FAILED);
    close(fd);
    return true;
}

/* An engine has taken the userfaultfd, protects, has read that somebody waits, and is killed. The
 * relay's copy is the only one then. */
static void die_protecting(Rig *rig, Stream *client, Guest *g)
{
    g_autoptr(RigFrame) command = begin_engine(rig, client), taken = take_uffd(rig, "protect");
    struct uffd_msg msg;

    close(g->uffd);
    int uffd = taken->fds[0];
    ff_state_mark(rig->state, FF_MARK_PROTECTED);
    g_assert_cmpint(ff_uffd_register_wp(uffd, (uintptr_t)g->map, GUEST_BYTES), ==, 0);
    g_assert_cmpint(ff_uffd_protect(uffd, (uintptr_t)g->map, GUEST_BYTES), ==, 0);
    g->writer = g_thread_new("writer", write_one, g);
    g_assert_true(test_wait_readable(uffd, test_deadline(TEST_TIMEOUT)));
    g_assert_cmpint(ff_uffd_read(uffd, &msg, 1), ==, 1);
    close(uffd);
    taken->fds[0] = -1;
    rig_engine_crash(rig);
}

static void guest_end(Guest *g)
{
    g_thread_join(g->writer);
    g_assert_cmpint(g->map[4711], ==, 2);
    memset(g->map, 3, GUEST_BYTES); /* nothing is protected any more */
    munmap(g->map, GUEST_BYTES);
}

/* The next engine is there at once, lifts, and gives back: the guest can have its next snapshot. */
static void test_protect_lifted(void)
{
    Guest g;

    if (!guest_new(&g)) {
        return;
    }
    g_autoptr(Rig) rig = rig_new(&(RigConfig){.protect = g.uffd});
    g_autoptr(Stream) client = rig_client(rig, 0, true, false);

    die_protecting(rig, client, &g);
    rig_engine_start(rig); /* without a command */
    g_assert_true(ff_state_is_marked(rig->state, FF_MARK_PROTECTED));
    g_autoptr(RigFrame) taken = take_uffd(rig, "protect");
    g_assert_cmpuint(taken->header.n_fds, ==, 1);
    g_assert_cmpint(g_atomic_int_get(&g.done), ==, 0);
    g_assert_cmpint(ff_uffd_unregister(taken->fds[0], (uintptr_t)g.map, GUEST_BYTES), ==, 0);
    ff_state_unmark(rig->state, FF_MARK_PROTECTED);
    give_uffd(rig, taken);
    guest_end(&g);
    g_usleep((FF_UFFDS_LIFT_MS + 200) * 1000); /* that it is not closed all the same */
    g_autoptr(RigFrame) again = take_uffd(rig, "protect");
    g_assert_cmpuint(again->header.n_fds, ==, 1);
    g_assert_cmpint(rig->state->kind_error[FF_KIND_PROTECT], ==, 0);
    give_uffd(rig, again);
}

/* Nobody lifts, or somebody begins to and dies as well: it is over a second after the first death,
 * and not before. */
static void test_protect_overdue(gconstpointer data)
{
    bool begins = data;
    Guest g;

    if (!guest_new(&g)) {
        return;
    }
    g_autoptr(Rig) rig = rig_new(&(RigConfig){.protect = g.uffd});
    g_autoptr(Stream) client = rig_client(rig, 0, true, false);

    int64_t before = g_get_monotonic_time();
    die_protecting(rig, client, &g);
    int64_t died = g_get_monotonic_time();
    rig_engine_start(rig);
    if (begins) {
        g_autoptr(RigFrame) taken = take_uffd(rig, "protect");
        rig_engine_crash(rig);
        rig_engine_start(rig);
    }
    g_thread_join(g.writer);
    int64_t now = g_get_monotonic_time();
    g_test_message("waited %d ms", (int)((now - died) / 1000));
    g_assert_cmpint(now - before, >=, FF_UFFDS_LIFT_MS * 1000);
    g_assert_cmpint(now - died, <, 3 * FF_UFFDS_LIFT_MS * 1000);
    memset(g.map, 3, GUEST_BYTES);
    munmap(g.map, GUEST_BYTES);
    expect_no_uffd(rig, "protect", "they need the guest to be started again");
    g_assert_false(ff_state_is_marked(rig->state, FF_MARK_PROTECTED));
    g_assert_cmpint(rig->state->kind_error[FF_KIND_PROTECT], ==, FF_AGENT_ELOST);
}

/* One that is still at it a second later goes on: what it gives back is of use. */
static void test_protect_late(void)
{
    Guest g;

    if (!guest_new(&g)) {
        return;
    }
    g_autoptr(Rig) rig = rig_new(&(RigConfig){.protect = g.uffd});
    g_autoptr(Stream) client = rig_client(rig, 0, true, false);

    die_protecting(rig, client, &g);
    rig_engine_start(rig);
    g_autoptr(RigFrame) taken = take_uffd(rig, "protect");
    rig_expect(client, "it has been restarted");
    /* Each answer is a turn of the relay's main loop. */
    while (__atomic_load_n(&rig->state->kind_error[FF_KIND_PROTECT], __ATOMIC_RELAXED) == 0) {
        rig_send(client, "{'execute':'query-name','id':'known'}");
        rig_expect(client, "known");
    }
    expect_held(rig, taken->fds[0], 0);
    g_assert_cmpint(g_atomic_int_get(&g.done), ==, 0);
    g_assert_cmpint(ff_uffd_unregister(taken->fds[0], (uintptr_t)g.map, GUEST_BYTES), ==, 0);
    ff_state_unmark(rig->state, FF_MARK_PROTECTED);
    give_uffd(rig, taken);
    guest_end(&g);
    g_autoptr(RigFrame) again = take_uffd(rig, "protect");
    g_assert_cmpuint(again->header.n_fds, ==, 1);
    g_assert_cmpint(rig->state->kind_error[FF_KIND_PROTECT], ==, 0);
    give_uffd(rig, again);
}

/* Each engine gets what arms the hook; when one dies that has armed it, the relay disarms it. */
static void test_hook(void)
{
    g_autoptr(Rig) rig = rig_new(NULL);
    g_autoptr(Stream) client = rig_client(rig, 0, true, false);
    g_autoptr(RigFrame) command = NULL, second = NULL;
    g_autofree char *log = NULL;

    rig_send(client, "{'execute':'migrate'}");
    rig_engine_start(rig);
    g_assert_nonnull(strstr(rig->init, "\"discards-error\":null"));
    g_assert_nonnull(strstr(rig->init, "\"discards\""));
    command = rig_frame(rig, FF_LINK_COMMAND);
    ff_discards_arm(rig->discards);
    /* Another one starts only when this one is dead, and the hook was disarmed. */
    rig_engine_crash(rig);
    rig_expect(client, "it has been restarted");
    rig_send(client, "{'execute':'migrate'}");
    rig_engine_start(rig);
    second = rig_frame(rig, FF_LINK_COMMAND);
    g_assert_false(ff_discards_is_armed(rig->discards));
    log = rig_log(rig);
    g_assert_nonnull(strstr(log, "QEMU discards guest memory again"));
    /* One that has ended well, too. */
    rig_answer(rig, second, FF_LINK_REPLY, "{\"return\": {}}");
    rig_expect(client, "return");
    ff_discards_arm(rig->discards);
    rig_engine_send(rig, FF_LINK_IDLE, 0, 0, NULL);
    rig_engine_let_go(rig);
    rig_send(client, "{'execute':'migrate'}");
    rig_engine_start(rig);
    g_autoptr(RigFrame) third = rig_frame(rig, FF_LINK_COMMAND);
    g_assert_false(ff_discards_is_armed(rig->discards));
}

/* A QEMU that an older farfault has started: all but the hook is there. */
static void test_old_agent(void)
{
    g_autoptr(Rig) rig = rig_new(&(RigConfig){.old_agent = true});
    g_autoptr(Stream) client = rig_client(rig, 0, true, false);
    g_autoptr(RigFrame) command = NULL;

    rig_send(client, "{'execute':'migrate'}");
    rig_engine_start(rig);
    command = rig_frame(rig, FF_LINK_COMMAND);
    g_assert_nonnull(strstr(rig->init, "\"discards-error\":\"an older farfault has started this"));
    g_assert_null(strstr(rig->init, "\"discards\""));
    g_assert_nonnull(strstr(rig->init, "\"uffd:missing\""));
    g_assert_nonnull(strstr(rig->init, "\"protect-error\":null"));
}

static void test_agent(void)
{
    g_autoptr(Rig) rig = rig_new(&(RigConfig){.uffd_errno = 1 /* EPERM */});
    g_autoptr(Stream) client = rig_client(rig, 0, true, false);
    g_autoptr(RigFrame) command = NULL, second = NULL;
    g_autofree char *log = NULL;

    rig_send(client, "{'execute':'query-migrate'}");
    rig_engine_start(rig);
    g_assert_nonnull(strstr(rig->init, "vm.unprivileged_userfaultfd=1"));
    g_assert_null(strstr(rig->init, "uffd:"));
    command = rig_frame(rig, FF_LINK_COMMAND);
    /* A later hand-over replaces it whole. */
    rig_send_hello(rig, 0, rig->qemu);
    rig_answer(rig, command, FF_LINK_REPLY, "{\"return\": 1}");
    rig_expect(client, "1");
    rig_engine_send(rig, FF_LINK_IDLE, 0, 0, NULL);
    rig_engine_let_go(rig);
    rig_send(client, "{'execute':'query-migrate'}");
    rig_engine_start(rig);
    g_assert_nonnull(strstr(rig->init, "\"uffd-error\":null"));
    g_assert_nonnull(strstr(rig->init,
                            "\"fds\":[\"state\",\"qemu-monitor\",\"pidfd\",\"pagemap\","
                            "\"maps\",\"mem\",\"uffd:tracking\",\"uffd:missing\",\"discards\","
                            "\"" FF_LISTENING_MONITOR "m0\",\"" FF_LISTENING_MONITOR
                            "m1\",\"ram:pc.ram\"]"));
    second = rig_frame(rig, FF_LINK_COMMAND);
    log = rig_log(rig);
    g_assert_nonnull(strstr(log, "its migrations are QEMU"));
}

/* The process that was started ends when its child stands; the child's end counts. */
static void test_daemonize(void)
{
    g_autoptr(Rig) rig = rig_new(&(RigConfig){.daemonize = true});
    g_autoptr(Stream) client = rig_client(rig, 0, true, false);
    pid_t child = fork();

    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        pause();
        _exit(0);
    }
    /* As the relay sees it: a second hand-over, then the end of the first process. Here that
     * is all of QEMU, so the monitors end, but the relay stays. */
    rig_send_hello(rig, 0, child);
    rig_kill_qemu(rig);
    rig_expect_end(client);
    rig->qemu = child;
    for (int i = 0; i < 3; i++) { /* it still takes clients, though QEMU does not */
        g_autoptr(Stream) refused = rig_dial(rig, 0);

        rig_expect_end(refused);
    }
    g_assert_false(rig_relay_has_ended(rig)); /* then the end of the child ends it: rig_free() */
}

static void test_no_agent(void)
{
    g_autoptr(Rig) rig = rig_new(&(RigConfig){.quiet_agent = true});
    g_autoptr(Stream) client = rig_client(rig, 0, true, false);
    g_autofree char *log = rig_log(rig);

    g_assert_nonnull(strstr(log, "did not load farfault-agent.so"));
}

/* QEMU listens before it greets; so must the engine. */
static void test_incoming(void)
{
    g_autoptr(Rig) rig = rig_new(&(RigConfig){.incoming = "tcp:127.0.0.1:0"});
    g_autoptr(RigFrame) start = NULL;
    Stream *client = NULL;

    rig_engine_start(rig);
    start = rig_frame(rig, FF_LINK_START_INCOMING);
    g_assert_cmpstr(start->text, ==, "tcp:127.0.0.1:0");
    g_assert_cmpuint(start->header.seq, !=, 0);
    rig_answer(rig, start, FF_LINK_REPLY, "");
    client = rig_client(rig, 0, true, false);
    stream_free(client);
}

/* --- load --- */

static long relay_rss_kib(const Rig *rig)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/status", rig->relay), *text = NULL;

    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    return strtol(strstr(text, "VmRSS:") + 6, NULL, 10);
}

/* A client that does not read costs little memory and stops nobody else. */
static void test_slow_client(void)
{
    enum { N = 200 };
    g_autoptr(Rig) rig = rig_new(NULL);
    g_autoptr(Stream) slow = rig_client(rig, 0, true, false);
    long before = relay_rss_kib(rig);

    for (int i = 0; i < N; i++) {
        rig_send(slow, "{'execute':'query-qmp-schema'}");
    }
    for (int i = 0; i < 20; i++) {
        g_autoptr(Stream) other = rig_client(rig, 1, true, false);

        rig_send(other, "{'execute':'query-name','id':'there'}");
        rig_expect(other, "there");
    }
    g_test_message("RSS of the relay: %ld KiB, %ld KiB with a stuck client", before,
                   relay_rss_kib(rig));
    g_assert_cmpint(relay_rss_kib(rig), <, before + 8192);
    for (int i = 0; i < N; i++) {
        rig_expect(slow, "\"return\": [");
    }
}

static int compare_times(gconstpointer a, gconstpointer b)
{
    gint64 x = *(const gint64 *)a, y = *(const gint64 *)b;

    return x < y ? -1 : x > y;
}

static double median_us(Stream *client)
{
    enum { N = 2001 };
    g_autofree gint64 *times = g_new(gint64, N);

    for (int i = 0; i < N; i++) {
        gint64 start = g_get_monotonic_time();

        rig_send(client, "{\"execute\": \"query-name\", \"id\": \"libvirt-12\"}\r\n");
        rig_expect(client, "libvirt-12");
        times[i] = g_get_monotonic_time() - start;
    }
    qsort(times, N, sizeof(*times), compare_times);
    return times[N / 2];
}

static void test_round_trip(void)
{
    g_autoptr(Rig) rig = rig_new(NULL);
    g_autoptr(Stream) direct = rig_client(rig, -1, true, false);
    g_autoptr(Stream) relayed = rig_client(rig, 0, true, false);
    double d = median_us(direct), r = median_us(relayed);

    g_test_message("median round trip: %.0f us direct, %.0f us through the relay", d, r);
    g_test_minimized_result(r - d, "QMP round trip through the relay costs %.0f us more", r - d);
}

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/relay/exact", test_exact);
    g_test_add_func("/relay/exact-before-negotiation", test_exact_before_negotiation);
    g_test_add_func("/relay/exact-oob", test_exact_oob);
    g_test_add_func("/relay/half-close", test_half_close);
    g_test_add_data_func("/relay/kind/connected", GINT_TO_POINTER(RIG_CONNECTED), test_kinds);
    g_test_add_data_func("/relay/kind/stdio", GINT_TO_POINTER(RIG_STDIO), test_kinds);
    g_test_add_data_func("/relay/kind/connect", GINT_TO_POINTER(RIG_CONNECT), test_kinds);
    g_test_add_func("/relay/one-at-a-time", test_one_at_a_time);
    g_test_add_func("/relay/no-room", test_no_room);
    g_test_add_func("/relay/fds-at-their-command", test_fds_at_their_command);
    g_test_add_func("/relay/take-fd", test_take_fd);
    g_test_add_func("/relay/order", test_order);
    g_test_add_func("/relay/oob-overtakes", test_oob_overtakes);
    g_test_add_func("/relay/pass", test_pass);
    g_test_add_func("/relay/undo-locks-native", test_undo_locks_native);
    g_test_add_func("/relay/ownership", test_ownership);
    g_test_add_func("/relay/events", test_events);
    g_test_add_func("/relay/filter-races", test_filter_races);
    g_test_add_func("/relay/setup-filter", test_setup_filter);
    g_test_add_func("/relay/inject", test_inject);
    g_test_add_func("/relay/client-gone", test_client_gone);
    g_test_add_func("/relay/idle", test_idle);
    g_test_add_func("/relay/engine-crash", test_engine_crash);
    g_test_add_func("/relay/engine-lives-on", test_engine_lives_on);
    g_test_add_func("/relay/crash-loop", test_crash_loop);
    g_test_add_func("/relay/stillborn", test_stillborn);
    g_test_add_func("/relay/no-engine", test_no_engine);
    g_test_add_func("/relay/qemu-killed", test_qemu_killed);
    g_test_add_func("/relay/qemu-quits", test_qemu_quits);
    g_test_add_func("/relay/kill-request", test_kill_request);
    g_test_add_func("/relay/agent", test_agent);
    g_test_add_func("/relay/protect", test_protect);
    g_test_add_func("/relay/protect-lifted", test_protect_lifted);
    g_test_add_data_func("/relay/protect-overdue/nobody", NULL, test_protect_overdue);
    g_test_add_data_func("/relay/protect-overdue/one-that-dies", "yes", test_protect_overdue);
    g_test_add_func("/relay/protect-late", test_protect_late);
    g_test_add_func("/relay/hook", test_hook);
    g_test_add_func("/relay/old-agent", test_old_agent);
    g_test_add_func("/relay/daemonize", test_daemonize);
    g_test_add_func("/relay/no-agent", test_no_agent);
    g_test_add_func("/relay/incoming", test_incoming);
    g_test_add_func("/relay/slow-client", test_slow_client);
    g_test_add_func("/relay/round-trip", test_round_trip);
    return g_test_run();
}
