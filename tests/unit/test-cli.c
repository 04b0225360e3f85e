/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The command line tools without QEMU: numbers, URIs, the histogram, and the QMP client against
 * a scripted monitor at the other end of a socketpair, served by a thread of its own.
 */
#include "cli/common/format.h"
#include "cli/common/progress.h"
#include "cli/common/qmp.h"
#include "cli/common/report.h"
#include "cli/common/restore-hint.h"
#include "cli/common/uri.h"
#include "cli/common/userfault.h"
#include "cli/migrate/run.h"
#include "qmp/json.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void test_size(void)
{
    static const struct {
        const char *text;
        int result;
        uint64_t bytes;
    } row[] = {
        {"0", 0, 0},
        {"4096", 0, 4096},
        {"1k", 0, 1024},
        {"100M", 0, 100ull << 20},
        {"8G", 0, 8ull << 30},
        {"2T", 0, 2ull << 40},
        {"", -EINVAL, 0},
        {"-1", -EINVAL, 0},
        {"M", -EINVAL, 0},
        {"1MB", -EINVAL, 0},
        {"1.5G", -EINVAL, 0},
        {"99999999999999999999", -ERANGE, 0},
        {"9223372036854775807K", -ERANGE, 0},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(row); i++) {
        uint64_t bytes = 0;

        g_test_message("%s", row[i].text);
        g_assert_cmpint(ff_parse_size(row[i].text, &bytes), ==, row[i].result);
        g_assert_cmpuint(bytes, ==, row[i].bytes);
    }
}

static void test_words(void)
{
    g_autofree char *bytes = ff_format_bytes(1536.0 * 1024);
    g_autofree char *few = ff_format_bytes(17);
    g_autofree char *ms = ff_format_duration(74);
    g_autofree char *s = ff_format_duration(1234);
    g_autofree char *min = ff_format_duration(125000);
    g_autofree char *us = ff_format_us(1500);

    g_assert_cmpstr(bytes, ==, "1.5 MiB");
    g_assert_cmpstr(few, ==, "17 B");
    g_assert_cmpstr(ms, ==, "74 ms");
    g_assert_cmpstr(s, ==, "1.23 s");
    g_assert_cmpstr(min, ==, "2 min 5 s");
    g_assert_cmpstr(us, ==, "1.5 ms");
}

/* What a guest or another host says is no command to the terminal. */
static void test_shown(void)
{
    char *text = NULL;
    size_t length;
    FILE *out = open_memstream(&text, &length);

    ff_report_row(out, "waiting", "%s", "a\033[2J\r\n\xc2\x9b\x31m\xff\xe2\x80\xae \xc3\xa4");
    fclose(out);
    g_assert_cmpstr(text, ==, "  waiting      a?[2J???1m\xef\xbf\xbd? \xc3\xa4\n");
    free(text);
}

static void test_uri_for_source(void)
{
    static const struct {
        const char *actual, *host, *expected;
    } row[] = {
        {"tcp:127.0.0.1:4444", NULL, "tcp:127.0.0.1:4444"},
        {"tcp:0.0.0.0:4444", NULL, "tcp:127.0.0.1:4444"},
        {"tcp:0.0.0.0:4444", "hosta", "tcp:hosta:4444"},
        {"tcp::4444", "hosta", "tcp:hosta:4444"},
        {"tcp:[::]:4444", NULL, "tcp:[::1]:4444"},
        {"tcp:[::]:4444", "fe80::1", "tcp:[fe80::1]:4444"},
        {"tcp:[fd00::2]:4444", "hosta", "tcp:[fd00::2]:4444"},
        {"unix:/run/m.sock", "hosta", "unix:/run/m.sock"},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(row); i++) {
        g_autofree char *uri = ff_uri_for_source(row[i].actual, row[i].host);

        g_assert_cmpstr(uri, ==, row[i].expected);
    }
}

static void test_uri_default(void)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *local = ff_uri_default_listen(NULL, NULL, NULL);
    g_autofree char *remote = ff_uri_default_listen(NULL, "hostb", NULL);
    g_autofree char *unknown = ff_uri_default_listen("hosta", NULL, &error);

    g_assert_cmpstr(local, ==, "tcp:127.0.0.1:0");
    g_assert_cmpstr(remote, ==, "tcp:hostb:0");
    g_assert_null(unknown);
    g_assert_nonnull(strstr(error->message, "--uri"));
    g_assert_true(ff_uri_any_port("tcp:127.0.0.1:0"));
    g_assert_true(ff_uri_any_port("tcp:[::1]:0"));
    g_assert_false(ff_uri_any_port("tcp:127.0.0.1:4444"));
    g_assert_false(ff_uri_any_port("unix:/0"));
}

static void test_uri_info(void)
{
    static const struct {
        const char *info, *expected;
    } row[] = {
        {"{}", NULL},
        {"{\"socket-address\": 3}", NULL},
        {"{\"socket-address\": []}", NULL},
        {"{\"socket-address\": [{\"type\": \"inet\", \"host\": \"127.0.0.1\", \"port\": \"77\"}]}",
         "tcp:127.0.0.1:77"},
        {"{\"socket-address\": [{\"type\": \"inet\", \"host\": \"::1\", \"port\": \"77\"}]}",
         "tcp:[::1]:77"},
        {"{\"socket-address\": [{\"type\": \"inet\", \"host\": 1}]}", NULL},
        {"{\"socket-address\": [{\"type\": \"unix\", \"path\": \"/m\"}]}", "unix:/m"},
        {"{\"socket-address\": [{\"type\": \"fd\", \"str\": \"5\"}]}", NULL},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(row); i++) {
        g_autoptr(JsonNode) node = json_from_string(row[i].info, NULL);
        g_autofree char *uri = ff_uri_from_info(ff_json_node_object(node));

        g_assert_cmpstr(uri, ==, row[i].expected);
    }
}

static char *drawn(const char *x_farfault, bool expected)
{
    g_autoptr(JsonNode) node = json_from_string(x_farfault, NULL);
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);

    g_assert_cmpint(ff_print_histogram(out, ff_json_node_object(node)), ==, expected);
    fclose(out);
    return text;
}

static void test_histogram(void)
{
    g_autofree char *text =
        drawn("{\"latency-us\": [[0,0],[64,10],[128,0],[256,30],[512,0]]}", true);
    g_auto(GStrv) line = g_strsplit(text, "\n", -1);

    /* From the first bucket in use to the last, the empty one between them included. */
    g_assert_cmpuint(g_strv_length(line), ==, 4);
    g_assert_nonnull(strstr(line[0], "64 us .. 128 us"));
    g_assert_nonnull(strstr(line[0], "25.0 %"));
    g_assert_null(strstr(line[1], "#"));
    g_assert_nonnull(strstr(line[2], "########################################"));
    g_assert_nonnull(strstr(line[1], "  0.0 %"));
    g_autofree char *few = drawn("{\"latency-us\": [[0,9999],[8192,1]]}", true);
    g_assert_nonnull(strstr(few, "|#                                       |        1   <0.1 %\n"));
    g_assert_nonnull(strstr(few, "100.0 %\n"));
    free(drawn("{}", false));
    free(drawn("{\"latency-us\": [[64,0]]}", false));
    free(drawn("{\"latency-us\": [7, [1]]}", false));
}

static void test_quantile(void)
{
    static const struct {
        const char *x;
        double share, expected;
    } row[] = {
        {"{\"latency-us\": [[0,50],[8,49],[64,1]]}", 0.5, 2},
        {"{\"latency-us\": [[0,50],[8,49],[64,1]]}", 0.51, 16},
        {"{\"latency-us\": [[0,50],[8,49],[64,1]]}", 0.99, 16},
        {"{\"latency-us\": [[0,50],[8,49],[64,1]]}", 1, 128},
        {"{\"latency-us\": [[64,0]]}", 0.5, 0},
        {"{\"latency-us\": [7, [1]]}", 0.5, 0},
        {"{}", 0.5, 0},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(row); i++) {
        g_autoptr(JsonNode) node = json_from_string(row[i].x, NULL);

        g_assert_cmpfloat(ff_histogram_quantile(ff_json_node_object(node), row[i].share), ==,
                          row[i].expected);
    }
}

static void test_restore(void)
{
    static const struct {
        FfRestoreHint file;
        const char *lines; /* separated by | */
    } row[] = {
        {{.path = "/a", .mapped = true},
         "-incoming defer; migrate_set_capability mapped-ram on; migrate_incoming file:/a"},
        {{.path = "/a", .mapped = true, .offset = 8192},
         "-incoming defer; migrate_set_capability mapped-ram on; migrate_incoming "
         "file:/a,offset=8192"},
        {{.path = "/a b"},
         "-incoming \"exec:cat '/a b'\"|-incoming 'file:/a b' (QEMU 8.2 or newer)"},
        {{.path = "/$a"},
         "-incoming 'exec:cat '\\''/$a'\\'''|-incoming 'file:/$a' (QEMU 8.2 or newer)"},
        {{.path = "/a \"b", .shared = true},
         "-incoming defer; migrate_set_capability x-ignore-shared on; migrate_incoming "
         "\"exec:cat '/a \\\"b'\""},
        {{.path = "/a b", .mapped = true, .shared = true},
         "-incoming defer; migrate_set_capability mapped-ram on; migrate_set_capability "
         "x-ignore-shared on; migrate_incoming \"file:/a b\""},
        {{.path = "/a", .offset = 99},
         "-incoming \"exec:tail -c +100 '/a'\"|-incoming file:/a,offset=99 (QEMU 8.2 or newer)"},
        {{.path = "/a", .shared = true},
         "-incoming defer; migrate_set_capability x-ignore-shared on; migrate_incoming "
         "\"exec:cat '/a'\""},
        {{.path = "/a", .mapped = true, .shared = true},
         "-incoming defer; migrate_set_capability mapped-ram on; migrate_set_capability "
         "x-ignore-shared on; migrate_incoming file:/a"},
        {{.path = "/a", .compressed = true}, "-incoming \"exec:zstd -dc '/a'\""},
        {{.path = "/a", .mapped = true, .compressed = true},
         "after farfault convert --to mapped-ram '/a' NEW, or zstd -d"},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(row); i++) {
        g_auto(GStrv) lines = ff_restore_hint_lines(&row[i].file);
        g_autofree char *all = g_strjoinv("|", lines);
        g_autofree char *at_once = ff_restore_hint_command(&row[i].file);

        g_assert_cmpstr(all, ==, row[i].lines);
        if (row[i].file.mapped && !row[i].file.shared) {
            g_assert_nonnull(strstr(at_once, row[i].file.offset ? "restore --offset 8192 '/a' -- "
                                                                : "restore '/a' -- "));
        } else {
            g_assert_null(at_once);
        }
    }
}

/* ---- the QMP client -------------------------------------------------------------------------- */

#define GREETING                                                                                   \
    "{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 22, \"minor\": 2, \"major\": 7},"              \
    "\"package\": \"x\"}, \"capabilities\": [\"oob\"]}}\r\n"

/* What the scripted monitor says: .greeting, then one of .reply for each command it reads. The id N
 * of a reply stands for that of the Nth command. */
typedef struct {
    int fd;
    const char *greeting;
    const char *const *reply; /* NULL-terminated; it closes the connection after the last */
    bool by_byte;
} Script;

static void say(const Script *s, const char *text)
{
    gsize length = strlen(text);

    for (gsize i = 0; s->by_byte && i < length; i++) {
        g_assert_cmpint(send(s->fd, text + i, 1, MSG_NOSIGNAL), ==, 1);
    }
    if (!s->by_byte) {
        g_assert_cmpint(send(s->fd, text, length, MSG_NOSIGNAL), ==, (gssize)length);
    }
}

/* The next command; NULL: there is none (g_free). */
static char *read_line(int fd)
{
    g_autoptr(GString) line = g_string_new(NULL);
    char c = 0;

    while (c != '\n' && read(fd, &c, 1) == 1) {
        g_string_append_c(line, c);
    }
    return c == '\n' ? g_string_free(g_steal_pointer(&line), FALSE) : NULL;
}

static uint64_t id_of(const char *text)
{
    const char *id = strstr(text, "\"id\":");

    return id ? g_ascii_strtoull(id + strlen("\"id\":"), NULL, 10) : 0;
}

static void say_reply(const Script *s, const char *reply, uint64_t first_id)
{
    const char *id = strstr(reply, "\"id\": ");

    if (!id) {
        say(s, reply);
        return;
    }
    const char *number = id + strlen("\"id\": ");
    g_autofree char *text =
        g_strdup_printf("%.*s%" G_GUINT64_FORMAT "%s", (int)(number - reply), reply,
                        first_id + id_of(reply) - 1, number + strspn(number, "0123456789"));

    say(s, text);
}

static gpointer serve(gpointer opaque)
{
    const Script *s = opaque;
    uint64_t first_id = 0;

    say(s, s->greeting);
    for (const char *const *reply = s->reply; *reply; reply++) {
        g_autofree char *line = read_line(s->fd);

        if (!line) {
            break;
        }
        first_id = first_id ? first_id : id_of(line);
        say_reply(s, *reply, first_id);
    }
    close(s->fd);
    return NULL;
}

typedef struct {
    Script script;
    GThread *thread;
    FfCliQmp *qmp; /* NULL if .error */
    GError *error;
} Monitor;

static void monitor_start(Monitor *m, const char *greeting, const char *const *reply, bool by_byte)
{
    int pair[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), ==, 0);
    m->script = (Script){pair[0], greeting, reply, by_byte};
    m->error = NULL;
    m->thread = g_thread_new("monitor", serve, &m->script);
    m->qmp = ff_cli_qmp_open_fd(pair[1], "sock", "source", &m->error);
}

static void monitor_stop(Monitor *m)
{
    ff_cli_qmp_free(m->qmp);
    g_clear_pointer(&m->thread, g_thread_join);
    g_clear_error(&m->error);
}

static void on_event(JsonObject *event, const GError *error, void *opaque)
{
    g_string_append_printf(opaque, "%s ", event ? ff_json_string_or(event, "event", "?") : "end");
}

static void talk(bool by_byte)
{
    static const char *const reply[] = {
        "{\"return\": {}, \"id\": 1}\r\n",
        /* An event before the answer, and brackets and quotes inside of strings. */
        "{\"event\": \"STOP\", \"timestamp\": {\"seconds\": 5}}\r\n"
        "{\"return\": {\"a\": \"}]\\\"{\", \"b\": [1, {}]}, \"id\": 2}\r\n",
        "{\"id\": 3, \"error\": {\"class\": \"GenericError\", \"desc\": \"no such thing\"}}\r\n",
        "{\n  \"id\": 4,\n  \"return\": {\n    \"pretty\": true\n  }\n}\n",
        NULL,
    };
    Monitor m;
    g_autoptr(GError) error = NULL;
    g_autoptr(JsonNode) second = NULL, third = NULL, fourth = NULL, fifth = NULL;
    g_autoptr(GString) events = g_string_new(NULL);

    monitor_start(&m, GREETING, reply, by_byte);
    g_assert_no_error(m.error);
    g_assert_cmpstr(ff_cli_qmp_version(m.qmp), ==, "7.2.22 (x)");
    second = ff_cli_qmp_call(m.qmp, "one", NULL, NULL);
    g_assert_cmpstr(ff_json_string_or(ff_json_node_object(second), "a", ""), ==, "}]\"{");
    /* It was kept until somebody listens. */
    ff_cli_qmp_listen(m.qmp, on_event, events);
    g_assert_cmpstr(events->str, ==, "STOP ");
    third = ff_cli_qmp_call(m.qmp, "two", NULL, &error);
    g_assert_null(third);
    g_assert_error(error, FF_QMP_ERROR, FF_QMP_ERROR_GENERIC);
    g_assert_cmpstr(error->message, ==, "no such thing");
    g_clear_error(&error);
    fourth = ff_cli_qmp_call(m.qmp, "three", NULL, NULL);
    g_assert_true(ff_json_bool(ff_json_node_object(fourth), "pretty"));
    fifth = ff_cli_qmp_call(m.qmp, "four", NULL, &error);
    g_assert_null(fifth);
    g_assert_error(error, FF_QMP_ERROR, FF_QMP_ERROR_GONE);
    g_assert_cmpstr(events->str, ==, "STOP end ");
    monitor_stop(&m);
}

static void test_qmp(void)
{
    talk(false);
}

static void test_qmp_by_byte(void)
{
    talk(true);
}

static void test_qmp_foreign(void)
{
    static const char *const none[] = {NULL};
    Monitor m;

    monitor_start(&m, "QEMU 7.2 monitor - type 'help'\r\n(qemu) ", none, false);
    g_assert_error(m.error, FF_QMP_ERROR, FF_QMP_ERROR_PROTOCOL);
    g_assert_nonnull(strstr(m.error->message, "-qmp"));
    monitor_stop(&m);
    monitor_start(&m, "{\"QMP\": }", none, false);
    g_assert_error(m.error, FF_QMP_ERROR, FF_QMP_ERROR_PROTOCOL);
    monitor_stop(&m);
}

static void test_qmp_closed(void)
{
    static const char *const none[] = {NULL};
    Monitor m;

    monitor_start(&m, "", none, false);
    g_assert_error(m.error, FF_QMP_ERROR, FF_QMP_ERROR_GONE);
    monitor_stop(&m);
}

static void test_qmp_address(void)
{
    static const struct {
        const char *address, *part;
    } row[] = {
        {"/nonexistent/qmp.sock", "no such socket"},
        {"unix:", "names no socket"},
        {"tcp:localhost", "tcp:HOST:PORT"},
        {"tcp:localhost:", "tcp:HOST:PORT"},
        {"localhost:4444", "write tcp:HOST:PORT"},
        {"/dev/null", "no socket"},
        {"unix:/", "no socket"},
        {"tcp:127.0.0.1:1", "no QEMU listens at this port"},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(row); i++) {
        g_autoptr(GError) error = NULL;

        g_assert_null(ff_cli_qmp_open(row[i].address, "source", &error));
        g_test_message("%s", error->message);
        g_assert_nonnull(strstr(error->message, row[i].part));
    }
}

/* ---- how a migration ends -------------------------------------------------------------------- */

#define RETURN(id) "{\"return\": {}, \"id\": " #id "}\r\n"
#define EVENT(status)                                                                              \
    "{\"event\": \"MIGRATION\", \"data\": {\"status\": \"" status "\"}, \"timestamp\": {}}\r\n"
#define TOOK(id, ms)                                                                               \
    "{\"return\": {\"status\": \"completed\", \"total-time\": " #ms "}, \"id\": " #id "}\r\n"
#define STATUS(id, status)                                                                         \
    "{\"return\": {\"status\": \"" status                                                          \
    "\", \"error-desc\": \"why\", \"total-time\": 1}, \"id\": " #id "}\r\n"
#define REFUSED(id) "{\"error\": {\"class\": \"X\", \"desc\": \"not now\"}, \"id\": " #id "}\r\n"

typedef struct {
    const char *name;
    FfMoveMode mode;
    const char *source[7], *destination[4]; /* answers; after the last one it closes */
    FfOutcome outcome;
    const char *reason; /* a part of it; NULL: none */
    bool refused;       /* it could not be started */
    bool resume;        /* --resume */
    gint64 took;        /* ms, as the source says in the end; 0: it does not */
} EndRow;

static const EndRow ends[] = {
    {"completed",
     FF_MOVE_NOW,
     {RETURN(1), RETURN(2), RETURN(3) EVENT("postcopy-active") EVENT("completed"), RETURN(4)},
     {RETURN(1) EVENT("completed"), RETURN(2), RETURN(3)},
     FF_OUTCOME_COMPLETED,
     NULL},
    /* QEMU counts when it has completed. */
    {"counted-later",
     FF_MOVE_NOW,
     {RETURN(1), RETURN(2), RETURN(3) EVENT("postcopy-active") EVENT("completed"), TOOK(4, 0),
      TOOK(5, 0), TOOK(6, 670)},
     {RETURN(1) EVENT("completed"), RETURN(2), RETURN(3)},
     FF_OUTCOME_COMPLETED,
     .took = 670},
    /* The guest is there: nobody may be told to continue it at the source. */
    {"postcopy/destination-closed",
     FF_MOVE_NOW,
     {RETURN(1), RETURN(2), RETURN(3) EVENT("postcopy-active") EVENT("completed"), RETURN(4)},
     {RETURN(1)},
     FF_OUTCOME_COMPLETED,
     NULL},
    {"precopy/destination-closed",
     FF_MOVE_PRECOPY,
     {RETURN(1), RETURN(2) EVENT("completed"), RETURN(3)},
     {RETURN(1)},
     FF_OUTCOME_FAILED,
     "if that QEMU has ended, and only then"},
    {"source-closed/precopy",
     FF_MOVE_PRECOPY,
     {RETURN(1), RETURN(2)},
     {RETURN(1), RETURN(2)},
     FF_OUTCOME_LEFT,
     "may continue: look at it with farfault status sock"},
    {"source-closed/switch",
     FF_MOVE_NOW,
     {RETURN(1), RETURN(2)},
     {RETURN(1), RETURN(2)},
     FF_OUTCOME_LEFT,
     "may continue"},
    {"source-closed/migrate",
     FF_MOVE_NOW,
     {RETURN(1)},
     {RETURN(1), RETURN(2)},
     FF_OUTCOME_LEFT,
     "may continue"},
    {"source-closed/postcopy",
     FF_MOVE_NOW,
     {RETURN(1), RETURN(2), RETURN(3) EVENT("postcopy-active"), RETURN(4)},
     {RETURN(1), RETURN(2), RETURN(3), RETURN(4)},
     FF_OUTCOME_LEFT,
     "are lost. Look at the destination: farfault status other"},
    {"paused",
     FF_MOVE_NOW,
     {RETURN(1), RETURN(2), RETURN(3) EVENT("postcopy-active") EVENT("postcopy-paused"), RETURN(4)},
     {RETURN(1), RETURN(2), RETURN(3), RETURN(4)},
     FF_OUTCOME_PAUSED,
     "both QEMUs live: farfault migrate --resume sock other (farfault status other)"},
    {"paused/destination-closed",
     FF_MOVE_NOW,
     {RETURN(1), RETURN(2), RETURN(3) EVENT("postcopy-active") EVENT("postcopy-paused"), RETURN(4)},
     {RETURN(1)},
     FF_OUTCOME_PAUSED,
     "the destination's monitor is closed: if its QEMU has ended, what the guest did there is "
     "lost, "
     "and the source does not run it; farfault status sock"},
    {"source-closed/completed",
     FF_MOVE_NOW,
     {RETURN(1), RETURN(2), RETURN(3) EVENT("postcopy-active") EVENT("completed")},
     {RETURN(1) EVENT("completed"), RETURN(2), RETURN(3)},
     FF_OUTCOME_COMPLETED,
     NULL},
    /* Its events are off. */
    {"resume/looked-at",
     FF_MOVE_NOW,
     {RETURN(1), RETURN(2), STATUS(3, "completed"), RETURN(4)},
     {RETURN(1), STATUS(2, "completed"), RETURN(3), RETURN(4)},
     FF_OUTCOME_COMPLETED,
     NULL,
     .resume = true},
    {"resume/events",
     FF_MOVE_NOW,
     {RETURN(1),
      EVENT("postcopy-paused") EVENT("postcopy-recover") RETURN(2) EVENT("postcopy-active")
          EVENT("completed"),
      RETURN(3)},
     {RETURN(1) EVENT("completed"), RETURN(2), RETURN(3)},
     FF_OUTCOME_COMPLETED,
     NULL,
     .resume = true},
    {"resume/paused-again",
     FF_MOVE_NOW,
     {RETURN(1), RETURN(2), STATUS(3, "postcopy-paused"), RETURN(4)},
     {RETURN(1), RETURN(2), RETURN(3), RETURN(4)},
     FF_OUTCOME_PAUSED,
     "not resumed over tcp:x:1: why. While both QEMUs live nothing is lost: farfault migrate "
     "--resume "
     "sock "
     "other",
     .resume = true},
    {"resume/refused",
     FF_MOVE_NOW,
     {RETURN(1), REFUSED(2), RETURN(3)},
     {RETURN(1), RETURN(2), RETURN(3)},
     FF_OUTCOME_PAUSED,
     "not resumed over tcp:x:1: not now",
     .resume = true},
    {"refused",
     FF_MOVE_NOW,
     {RETURN(1), REFUSED(2)},
     {RETURN(1)},
     .reason = "not now",
     .refused = true},
};

static void test_end(gconstpointer data)
{
    const EndRow *row = data;
    Monitor s, d;
    g_autoptr(FfProgress) progress = ff_progress_new(true);
    g_auto(FfMoveResult) result = {0};
    g_autoptr(GError) error = NULL;

    monitor_start(&s, GREETING, row->source, false);
    monitor_start(&d, GREETING, row->destination, false);
    if (!row->destination[1]) {
        /* It has closed before the source says anything. */
        g_clear_pointer(&d.thread, g_thread_join);
    }
    FfMoveOptions options = {.source = "sock",
                             .destination = "other",
                             .mode = row->mode,
                             .no_cont = true,
                             .resume = row->resume};
    FfMoveEnds both = {.src = s.qmp, .dst = d.qmp, .uri = "tcp:x:1"};
    bool started = ff_move_run(&options, &both, progress, &result, &error);
    g_assert_cmpint(started, ==, !row->refused);
    const char *why = error ? error->message : result.reason;
    if (row->reason) {
        g_assert_nonnull(why);
        g_assert_nonnull(strstr(why, row->reason));
    } else {
        g_assert_null(why);
    }
    g_assert_cmpstr(ff_outcome_name(result.outcome), ==, ff_outcome_name(row->outcome));
    if (row->outcome == FF_OUTCOME_LEFT) { /* whether it continues is not known */
        g_autofree char *said = NULL;
        size_t n;
        FILE *out = open_memstream(&said, &n);

        ff_report_text(out, &result);
        fclose(out);
        g_assert_true(g_str_has_prefix(said, "migration not watched any longer: "));
    }
    if (row->took) {
        JsonObject *info = ff_json_node_object(result.source_info);
        g_assert_cmpint(ff_json_int(info, "total-time", 0), ==, row->took);
    }
    monitor_stop(&s);
    monitor_stop(&d);
}

/* Of a host that is not this one nothing is known but what helps everywhere. */
static void test_userfault(void)
{
    g_autofree char *elsewhere = ff_cli_userfault_fix_qemu(false);
    g_autofree char *here = ff_cli_userfault_fix_qemu(true);

    g_assert_cmpstr(elsewhere, ==, "run it as root, or set vm.unprivileged_userfaultfd=1");
    g_autofree char *named = ff_cli_userfault_fix("USER");
    g_assert_cmpstr(here, ==, named);
}

/* Numbers that people have seen, and the widest that there are. */
static const char *const progress_infos[] = {
    "{'status': 'active', 'ram': {'total': 537919488, 'remaining': 527957196}}",
    "{'status': 'postcopy-recover-setup', 'ram': {'total': 9223372036854775807, 'remaining': "
    "9223372036854775806}}",
    "{'status': 'active', 'ram': {'total': 9223372036854775807, 'remaining': 9007199254740991},"
    " 'x-farfault': {'snapshot': {'buffer-used': 9007199254740991, 'waits': "
    "9223372036854775807}}}",
    "{'status': '\\u001b[2J \xe4\xbb\xae\xe6\x83\xb3', 'ram': {'total': 1, 'remaining': 1}}",
};

static JsonNode *progress_info(unsigned i)
{
    g_autofree char *json = g_strdelimit(g_strdup(progress_infos[i]), "'", '"');
    JsonNode *node = json_from_string(json, NULL);

    g_assert_nonnull(node);
    return node;
}

/* A line that is wider than the terminal wraps, and only its last part is taken away again. */
static void test_progress_width(void)
{
    static const double rates[] = {0, 20656947, 9e15};

    for (unsigned i = 0; i < G_N_ELEMENTS(progress_infos); i++) {
        g_autoptr(JsonNode) node = progress_info(i);

        for (unsigned r = 0; r < G_N_ELEMENTS(rates); r++) {
            const FfRate pace = {
                .rate = rates[r], .fall = rates[r], .remaining = G_MAXINT64 / 2048};

            for (int columns = 1; columns < 200; columns++) {
                g_autofree char *line = ff_progress_line(&pace, ff_json_node_object(node), columns);
                g_autofree char *copy = g_strdup(line);

                g_assert_true(g_utf8_validate(line, -1, NULL));
                g_assert_null(strpbrk(line, "\n\r\033"));
                g_assert_cmpint(ff_format_cut(copy, 1000), <=, columns);
            }
        }
    }
}

/* The least important part goes first. */
static void test_progress_parts(void)
{
    static const struct {
        int columns;
        const char *line;
    } row[] = {
        {0, "active: 2 %  19.7 MiB/s, 503.5 MiB remaining, ETA 25.56 s"},
        {79, "active          [          ]   2 %  19.7 MiB/s, 503.5 MiB left, ETA 25.56 s"},
        {70, "active   2 %  19.7 MiB/s, 503.5 MiB left, ETA 25.56 s"},
        {50, "active   2 %  503.5 MiB left, ETA 25.56 s"},
        {40, "active   2 %  503.5 MiB left"},
        {20, "active   2 %"},
        {4, "acti"},
    };
    g_autoptr(JsonNode) node = progress_info(0);
    const FfRate pace = {.rate = 20656947, .fall = 20656947, .remaining = 527957196};

    for (size_t i = 0; i < G_N_ELEMENTS(row); i++) {
        g_autofree char *line = ff_progress_line(&pace, ff_json_node_object(node), row[i].columns);

        g_assert_cmpstr(line, ==, row[i].line);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/cli/size", test_size);
    g_test_add_func("/cli/words", test_words);
    g_test_add_func("/cli/shown", test_shown);
    g_test_add_func("/cli/userfault", test_userfault);
    g_test_add_func("/cli/progress/width", test_progress_width);
    g_test_add_func("/cli/progress/parts", test_progress_parts);
    g_test_add_func("/cli/uri/for-source", test_uri_for_source);
    g_test_add_func("/cli/uri/default", test_uri_default);
    g_test_add_func("/cli/uri/info", test_uri_info);
    g_test_add_func("/cli/histogram", test_histogram);
    g_test_add_func("/cli/quantile", test_quantile);
    g_test_add_func("/cli/restore", test_restore);
    g_test_add_func("/cli/qmp/talk", test_qmp);
    g_test_add_func("/cli/qmp/by-byte", test_qmp_by_byte);
    g_test_add_func("/cli/qmp/foreign", test_qmp_foreign);
    g_test_add_func("/cli/qmp/closed", test_qmp_closed);
    g_test_add_func("/cli/qmp/address", test_qmp_address);
    for (size_t i = 0; i < G_N_ELEMENTS(ends); i++) {
        g_autofree char *path = g_strdup_printf("/cli/end/%s", ends[i].name);
        g_test_add_data_func(path, &ends[i], test_end);
    }
    return g_test_run();
}
