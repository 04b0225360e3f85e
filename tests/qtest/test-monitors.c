/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The relay in front of a real QEMU: what passes is compared with a direct connection, byte for
 * byte; where clients come from; fds that they pass; what slow clients cost, and a round trip.
 */
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/lib/stop.h"
#include "tests/qtest/relay-rig.h"

/* ---- passing through ------------------------------------------------------------------------- */

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
        if (!g_str_has_prefix(line, "{\"timestamp\"")) { /* events go to all, at any time */
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

/* QEMU's lists with ours in front. Ids that look like a list are none. */
static void test_names(void)
{
    static const char *const texts[] = {
        "{'execute':'query-commands'}",
        "{'execute':'query-commands','id':['[',{'return':[1]}]}",
        "{'execute':'query-name','id':[1]}{'execute':'query-commands','id':{'a':[]}}",
        "{'execute':'query-qmp-schema','id':'schema'}",
    };
    static const char *const none[] = {
        "{'execute':'query-commands','arguments':{'a':1},'id':[2]}",
        "{'execute':'query-command-line-options','arguments':{'option':'name'}}",
    };
    g_autoptr(Rig) rig = rig_new(NULL);
    g_autoptr(Stream) direct = rig_client(rig, -1, true, false);
    g_autoptr(Stream) relayed = rig_client(rig, 0, true, false);

    for (size_t i = 0; i < G_N_ELEMENTS(texts); i++) {
        g_autofree char *want = answers_to(direct, texts[i], false);
        g_autofree char *got = answers_to(relayed, texts[i], false);
        const char *list = strstr(want, "\"return\": [{");

        g_assert_nonnull(list);
        size_t head = list + strlen("\"return\": [") - want;
        g_assert_cmpint(strncmp(got, want, head), ==, 0);
        g_assert_true(g_str_has_prefix(got + head, "{\"name\": \"x-farfault-"));
        g_assert_true(g_str_has_suffix(got + head, want + head));
        g_assert_cmpint(got[strlen(got) - strlen(want + head) - 1], ==, ' '); /* after a comma */
    }
    for (size_t i = 0; i < G_N_ELEMENTS(none); i++) {
        g_autofree char *want = answers_to(direct, none[i], false);
        g_autofree char *got = answers_to(relayed, none[i], false);

        g_assert_cmpstr(got, ==, want);
    }
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

/* ---- where clients come from ----------------------------------------------------------------- */

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
    next = rig_client(rig, 1, true, false); /* the guest and its other monitor continue */
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

/* Without a free fd the relay lets nobody in, says so once and does not spin; then it continues. */
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

/* ---- fds ------------------------------------------------------------------------------------- */

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

/* ---- load ------------------------------------------------------------------------------------ */

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
    g_test_add_func("/relay/names", test_names);
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
    g_test_add_func("/relay/slow-client", test_slow_client);
    g_test_add_func("/relay/round-trip", test_round_trip);
    return g_test_run();
}
