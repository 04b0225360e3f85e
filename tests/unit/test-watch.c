/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What farfault status --watch shows, without QEMU: what is said of each state, that no line is
 * wider than the terminal, that what QEMU says reaches it as text alone. And rates, and what it,
 * and farfault status, ask a monitor.
 */
#include <fcntl.h>
#include <gio/gio.h>
#include <gio/gunixsocketaddress.h>
#include <glib/gstdio.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/common/commands.h"
#include "cli/common/words.h"
#include "cli/watch/watch-screen.h"
#include "cli/watch/watch.h"

#define SOURCE                                                                                     \
    "{'status': 'postcopy-active', 'total-time': 12300, 'downtime': 21,"                           \
    " 'ram': {'total': 8589934592, 'remaining': 2147483648, 'transferred': 6442450944},"           \
    " 'x-farfault': {'engine': 'farfault', 'requests': 1500, 'latency-us': [[64, 1500]]}}"
#define DESTINATION                                                                                \
    "{'status': 'postcopy-active',"                                                                \
    " 'x-farfault': {'engine': 'farfault', 'requests': 1532, 'latency-us': [[0, 32], [64, 1500]]," \
    "  'half': {'role': 'destination', 'pages-total': 1000, 'pages-destination': 750,"             \
    "   'bytes-missing': 1024000,"                                                                 \
    "   'waits': [{'vcpu': 1, 'block': 'pc.ram', 'offset': 4096, 'ms': 12},"                       \
    "             {'block': 'pc.ram', 'offset': 8192, 'ms': 1500}]}}}"
#define PAUSED                                                                                     \
    "{'status': 'postcopy-paused', 'error-desc': 'the peer\\u001b[2J\\nis gone'," /* */            \
    " 'x-farfault': {'engine': 'farfault', 'half': {'role': 'source', 'broken-ms': 3000}}}"
#define SNAPSHOT                                                                                   \
    "{'status': 'active', 'ram': {'total': 1048576, 'remaining': 524288, 'transferred': 1},"       \
    " 'x-farfault': {'engine': 'farfault', 'requests': 7, 'snapshot': {'buffer-used': 2048,"       \
    "  'waits': 3}}}"

static JsonNode *parse(const char *text)
{
    g_autofree char *json = g_strdelimit(g_strdup(text), "'", '"');
    g_autoptr(GError) error = NULL;
    JsonNode *node = json_from_string(json, &error);

    g_assert_no_error(error);
    return node;
}

typedef struct {
    JsonNode *node[2];
    FfWatchSide side[2];
    GPtrArray *events;
    FfWatchView view;
} World;

/* SECOND can be NULL. */
static void world_begin(World *w, const char *first, const char *second)
{
    const char *const text[] = {first, second};

    memset(w, 0, sizeof(*w));
    w->events = g_ptr_array_new();
    w->view = (FfWatchView){.side = w->side,
                            .n = second ? 2 : 1,
                            .ms = 4000,
                            .events = w->events,
                            .how = "asks at each event and every 0.5 s; Ctrl-C leaves"};
    for (unsigned i = 0; i < w->view.n; i++) {
        w->node[i] = parse(text[i]);
        w->side[i] = (FfWatchSide){.address = i ? "/run/b.qmp" : "/run/a.qmp",
                                   .version = "7.2.22",
                                   .name = i ? NULL : "web",
                                   .state = i ? "running" : "postmigrate",
                                   .info = json_node_get_object(w->node[i])};
        w->side[i].pace.rate = 104857600;
        w->side[i].pace.fall = 1073741824;
        w->side[i].pace.remaining = 2147483648;
        w->side[i].pace.fault_rate = 210;
    }
}

static void world_end(World *w)
{
    g_clear_pointer(&w->node[0], json_node_unref);
    g_clear_pointer(&w->node[1], json_node_unref);
    g_ptr_array_unref(w->events);
}

/* Width of the widest line, without SGR sequences. Nothing else in it may begin with ESC. */
static glong width(const char *text)
{
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    g_autoptr(GRegex) sgr = g_regex_new("\033\\[[0-9]*m", 0, 0, NULL);
    glong widest = 0;

    for (char **l = lines; *l; l++) {
        g_autofree char *bare = g_regex_replace_literal(sgr, *l, -1, 0, "", 0, NULL);

        g_assert_null(strchr(bare, '\033'));
        widest = MAX(widest, g_utf8_strlen(bare, -1));
    }
    return widest;
}

static unsigned lines(const char *text)
{
    unsigned n = 0;

    while ((text = strchr(text, '\n'))) {
        text++;
        n++;
    }
    return n;
}

static void has(const char *text, const char *part)
{
    if (!strstr(text, part)) {
        g_error("no \"%s\" in:\n%s", part, text);
    }
}

/* Only of a guest that is surely here it is said that it can run. */
static void test_postmigrate(void)
{
    static const struct {
        const char *info, *words;
    } rows[] = {
        {"{'status': 'completed', 'x-farfault': {'snapshot': {}}}", "cont lets it run"},
        {"{'status': 'failed', 'x-farfault': {'snapshot': {}}}", "does not run here"},
        {"{'status': 'completed', 'x-farfault': {}}", "does not run here"},
        {"{'status': 'completed'}", "does not run here"},
        {"{}", "does not run here"},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *text = g_strdelimit(g_strdup(rows[i].info), "'", '"');
        g_autoptr(JsonNode) node = json_from_string(text, NULL);

        has(ff_words_guest("postmigrate", json_node_get_object(node)), rows[i].words);
    }
    has(ff_words_guest("postmigrate", NULL), "does not run here");
}

static void test_both(void)
{
    World w;

    world_begin(&w, SOURCE, DESTINATION);
    g_autofree char *wide = ff_watch_screen(&w.view, 160, 0, false);
    g_test_message("%s", wide);
    has(wide, "web: migration runs by postcopy");
    has(wide, "12.30 s");
    has(wide, " 75 %  2.0 GiB of 8.0 GiB left, 100.0 MiB/s, done in 2.00 s");
    has(wide, "source, QEMU 7.2.22, /run/a.qmp");
    has(wide, "destination, QEMU 7.2.22, /run/b.qmp");
    has(wide, "has moved away");
    has(wide, "1532, 210/s now; half up to 128 us, 99 % up to 128 us");
    has(wide, "vCPU 1 12 ms, QEMU itself 1.50 s");
    has(wide, "downtime  21 ms");
    has(wide, "every 0.5 s");
    g_assert_null(strchr(wide, '\033'));
    /* Below each other. */
    g_autofree char *narrow = ff_watch_screen(&w.view, 50, 0, false);
    has(narrow, "\nsource, QEMU");
    has(narrow, "\ndestination, QEMU");
    has(narrow, "\nwaiting   vCPU 1 12 ms, QEMU itself 1.50 s\n");
    g_autofree char *line = ff_watch_line(&w.view);
    g_assert_cmpstr(
        line, ==,
        "4.0 s source postcopy-active, destination postcopy-active;  75 %  2.0 GiB of "
        "8.0 GiB left, 100.0 MiB/s, done in 2.00 s; requests 1532, 210/s now; half up to "
        "128 us, 99 % up to 128 us; waiting vCPU 1 12 ms, QEMU itself 1.50 s");
    world_end(&w);
}

/* TEXT without line ends, and with one space for many: what is said, wherever it was broken. */
static char *unwrapped(const char *text)
{
    g_autoptr(GRegex) space = g_regex_new("[ \n]+", 0, 0, NULL);

    return g_regex_replace_literal(space, text, -1, 0, " ", 0, NULL);
}

/* Nothing is cut on the width that most terminals have. */
static void test_wrapped(void)
{
    World w;

    world_begin(&w, SOURCE, DESTINATION);
    g_autofree char *text = ff_watch_screen(&w.view, 80, 0, false);
    g_autofree char *headline = unwrapped(text);
    g_test_message("%s", text);
    has(headline, "has been switched over, and its memory follows, 12.30 s");
    /* Of a row of two cells the right one ends a line. */
    has(text, "status    postcopy-active");
    has(text, "guest     has moved away, or was saved; it    runs\n"
              "          does not run here any more\n");
    has(text, "1532, 210/s now; half up to 128\n");
    has(text, "us, 99 % up to 128 us\n");
    g_autofree char *narrow = ff_watch_screen(&w.view, 40, 0, false);
    g_autofree char *all = unwrapped(narrow);
    has(all, "has moved away, or was saved; it does not run here any more");
    has(all, "1532, 210/s now; half up to 128 us, 99 % up to 128 us");
    world_end(&w);
}

/* Where there is no room for all events the last ones stay, and how to leave. */
static void test_events(void)
{
    World w;

    world_begin(&w, "{}", NULL);
    g_ptr_array_add(w.events, (char *)"first");
    g_ptr_array_add(w.events, (char *)"second");
    g_ptr_array_add(w.events, (char *)"third");
    g_autofree char *all = ff_watch_screen(&w.view, 80, 0, false);
    int before = (int)lines(all) - 4;
    g_autofree char *text = ff_watch_screen(&w.view, 80, before + 3, false);
    g_assert_null(strstr(text, "first"));
    has(text, "second\nthird\nasks at each event");
    world_end(&w);
}

static void test_downtime(void)
{
    static const struct {
        const char *info, *said;
    } rows[] = {
        {"{'status': 'active', 'expected-downtime': 8}", "8 ms expected"},
        {"{'status': 'postcopy-active', 'expected-downtime': 8}", NULL},
        {"{'status': 'postcopy-paused', 'expected-downtime': 8}", NULL},
        {"{'status': 'postcopy-active', 'expected-downtime': 8, 'downtime': 21}", "21 ms"},
        {"{'status': 'failed', 'expected-downtime': 8}", NULL},
        {"{'status': 'completed', 'downtime': 21}", "21 ms"},
        {"{'status': 'active', 'expected-downtime': 8, 'x-farfault': {'snapshot': {}}}", NULL},
        {"{}", NULL},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autoptr(JsonNode) node = parse(rows[i].info);
        g_autofree char *said = ff_words_downtime(json_node_get_object(node));

        g_assert_cmpstr(said, ==, rows[i].said);
    }
}

/* What is no migration is not called one. */
static void test_kinds(void)
{
    static const struct {
        const char *info, *name, *words;
    } rows[] = {
        {"{'status': 'completed', 'x-farfault': {'restore': {}}}", "restore", "completed"},
        {"{'status': 'postcopy-active', 'x-farfault': {'restore': {}}}", "restore", "runs: its "},
        {"{'status': 'postcopy-paused', 'x-farfault': {'restore': {}}}", "restore", "the file"},
        {"{'status': 'completed', 'x-farfault': {'upgrade': true}}", "upgrade", "completed"},
        {"{'status': 'active', 'x-farfault': {'snapshot': {}}}", "live snapshot", "being taken"},
        {"{'status': 'postcopy-active', 'x-farfault': {}}", "migration", "by postcopy"},
        {"{'status': 'completed'}", "migration", "completed"},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autoptr(JsonNode) node = parse(rows[i].info);
        JsonObject *info = json_node_get_object(node);
        FfWordsKind kind = ff_words_kind(info);

        g_assert_cmpstr(ff_words_kind_name(kind), ==, rows[i].name);
        has(ff_words_migration(json_object_get_string_member(info, "status"), kind), rows[i].words);
    }
}

/* A destination alone: what is missing is known by its pages. */
static void test_alone(void)
{
    World w;

    world_begin(&w, DESTINATION, NULL);
    g_autofree char *text = ff_watch_screen(&w.view, 80, 0, false);
    has(text, " 75 %  1000.0 KiB of 3.9 MiB left");
    world_end(&w);
}

/* Columns that a terminal needs for the widest line: some letters take two. */
static int columns(const char *text)
{
    int widest = 0, used = 0;

    for (const char *c = text; *c; c = g_utf8_next_char(c)) {
        gunichar u = g_utf8_get_char(c);

        used = u == '\n' ? 0 : used + 1 + g_unichar_iswide(u);
        widest = MAX(widest, used);
    }
    return widest;
}

static void test_wide_letters(void)
{
    static const char name[] =
        "\xe4\xbb\xae\xe6\x83\xb3\xe6\xa9\x9f\xe4\xbb\xae\xe6\x83\xb3\xe6\xa9\x9f";
    g_autofree char *path = g_strconcat("/run/", name, name, name, name, NULL);
    World w;

    for (int width = 1; width < 120; width++) {
        world_begin(&w, SOURCE, DESTINATION);
        w.side[0].name = w.side[1].name = name;
        w.side[0].address = w.side[1].address = path;
        w.side[0].why = path;
        g_autofree char *text = ff_watch_screen(&w.view, width, 0, false);
        g_assert_cmpint(columns(text), <=, width);
        world_end(&w);
    }
}

static void test_snapshot(void)
{
    World w;

    world_begin(&w, SNAPSHOT, NULL);
    g_autofree char *text = ff_watch_screen(&w.view, 80, 0, false);
    has(text, "live snapshot is being taken");
    has(text, "7, 210/s now, 3 waited; buffer 2.0 KiB");
    world_end(&w);
}

/* Nothing so far, and a side that has gone. */
static void test_idle(void)
{
    World w;

    world_begin(&w, "{}", "{}");
    w.side[0].state = "running";
    w.side[1].state = "inmigrate";
    g_autofree char *text = ff_watch_screen(&w.view, 80, 0, false);
    has(text, "web: no migration so far; waits for one");
    has(text, "destination, QEMU");
    w.side[1].why = "/run/b.qmp: the monitor was closed";
    g_autofree char *gone = ff_watch_screen(&w.view, 80, 0, false);
    has(gone, "cannot be asked");
    has(gone, "the monitor was closed");
    world_end(&w);
}

/* At any size, with anything in it: no line is too wide, no more lines than there is room for, no
 * control characters but our own. */
static void test_sizes(void)
{
    static const char *const first[] = {SOURCE, PAUSED, SNAPSHOT, "{}", "{'status': 7, 'ram': []}"};
    static const char *const second[] = {NULL, DESTINATION, "{}"};

    for (size_t i = 0; i < G_N_ELEMENTS(first); i++) {
        for (size_t j = 0; j < G_N_ELEMENTS(second); j++) {
            World w;

            world_begin(&w, first[i], second[j]);
            w.side[0].name = "a\033]0;title\007\xff\nname that is long \xc3\xa4\xe2\x82\xac";
            g_ptr_array_add(w.events, (char *)"   0.10 s  source: \033[31mMIGRATION active");
            for (int columns = 1; columns < 200; columns += columns < 90 ? 1 : 20) {
                for (int rows = 0; rows < 12; rows += 4) {
                    g_autofree char *plain = ff_watch_screen(&w.view, columns, rows, false);
                    g_autofree char *color = ff_watch_screen(&w.view, columns, rows, true);

                    g_assert_null(strchr(plain, '\033'));
                    g_assert_null(strchr(plain, '\007'));
                    g_assert_true(g_utf8_validate(plain, -1, NULL));
                    g_assert_cmpint(width(plain), <=, columns);
                    g_assert_cmpint(width(color), <=, columns);
                    g_assert_true(!rows || lines(plain) <= (unsigned)rows);
                }
            }
            g_autofree char *line = ff_watch_line(&w.view);
            g_assert_null(strpbrk(line, "\033\007\n"));
            world_end(&w);
        }
    }
}

/* The guest that moves next has been restored before: it is at no destination. */
static void test_restored(void)
{
    World w;

    world_begin(&w, "{'status': 'completed', 'x-farfault': {'restore': {}}}", "{}");
    w.side[0].state = "running";
    w.side[1].state = "inmigrate";
    g_autofree char *text = ff_watch_line(&w.view);
    has(text, "guest completed, destination none");
    world_end(&w);
}

/* The numbers go when it ends, and the guest stays. */
static void test_not_moved(void)
{
    static const char *const statuses[] = {"cancelling", "cancelled", "failed"};

    for (unsigned i = 0; i < G_N_ELEMENTS(statuses); i++) {
        World w;
        g_autofree char *info =
            g_strdup_printf("{'status': '%s', 'x-farfault': {'engine': 'farfault'}}", statuses[i]);
        g_autofree char *says = g_strdup_printf("source %s, destination failed", statuses[i]);

        world_begin(&w, info, "{'status': 'failed', 'x-farfault': {'engine': 'farfault'}}");
        w.side[0].state = "running";
        w.side[1].state = "inmigrate";
        g_autofree char *text = ff_watch_line(&w.view);
        has(text, says);
        world_end(&w);
    }
}

static void test_pace(void)
{
    FfRate p = {0};

    ff_rate_look(&p, 1000000, 0, 1000, 0);
    g_assert_cmpint(ff_rate_left(&p), ==, -1);
    ff_rate_look(&p, 1005000, 900, 900, 5); /* too near to say anything */
    g_assert_cmpfloat(p.rate, ==, 0);
    ff_rate_look(&p, 2000000, 500, 800, 10);
    g_assert_cmpfloat(p.rate, ==, 500);
    g_assert_cmpfloat(p.fault_rate, ==, 10);
    g_assert_cmpint(ff_rate_left(&p), ==, 4000);
    ff_rate_look(&p, 3000000, 500, 2800, 10); /* the guest writes faster */
    g_assert_cmpint(ff_rate_left(&p), ==, -1);
    g_assert_cmpfloat(p.fault_rate, ==, 0);
}

/* ---- with a monitor -------------------------------------------------------------------------- */

/* *LOOKS: at the migration so far. NULL: an error. */
typedef const char *Answer(const char *command, unsigned *looks);

static const char *answer_to_watch(const char *command, unsigned *looks)
{
    if (!strcmp(command, "query-migrate")) {
        return ++*looks < 5 ? DESTINATION : "{'status': 'completed', 'x-farfault': {}}";
    }
    if (!strcmp(command, "query-migrate-capabilities")) {
        return "[{'capability': 'events', 'state': true}]";
    }
    /* QEMU waits for a page: it would answer neither this nor what comes after it. */
    g_assert_true(strcmp(command, "query-status") != 0 || *looks >= 5);
    return "{'status': 'running'}";
}

/* Of a QEMU that waits for a page. */
static const char *answer_to_status(const char *command, unsigned *looks)
{
    return !strcmp(command, "query-migrate")  ? DESTINATION
           : !strcmp(command, "query-status") ? NULL
                                              : "{}";
}

typedef struct {
    char *dir, *path;
    GSocketListener *listener;
    GThread *thread;
    Answer *answer;
    int before; /* stdout */
} Monitor;

/* A destination's monitor, for one client. */
static gpointer monitor(gpointer opaque)
{
    Monitor *m = opaque;
    g_autoptr(GSocketConnection) c = g_socket_listener_accept(m->listener, NULL, NULL, NULL);
    GOutputStream *out = g_io_stream_get_output_stream(G_IO_STREAM(c));
    g_autoptr(GDataInputStream) in =
        g_data_input_stream_new(g_io_stream_get_input_stream(G_IO_STREAM(c)));
    unsigned looks = 0;

    g_output_stream_printf(out, NULL, NULL, NULL,
                           "{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 22, \"minor\": 2, "
                           "\"major\": 7}, \"package\": \"\"}, \"capabilities\": []}}\r\n");
    for (;;) {
        g_autofree char *text = g_data_input_stream_read_line(in, NULL, NULL, NULL);
        if (!text) {
            return NULL;
        }
        g_autoptr(JsonNode) node = json_from_string(text, NULL);
        JsonObject *request = json_node_get_object(node);
        const char *answer = m->answer(json_object_get_string_member(request, "execute"), &looks);
        g_autoptr(JsonNode) result =
            parse(answer ? answer : "{'class': 'GenericError', 'desc': 'no answer within 10 s'}");
        g_autofree char *id = json_to_string(json_object_get_member(request, "id"), FALSE);
        g_autofree char *said = json_to_string(result, FALSE);

        g_output_stream_printf(out, NULL, NULL, NULL, "{\"%s\": %s, \"id\": %s}\r\n",
                               answer ? "return" : "error", said, id);
    }
}

/* Listens, and has stdout in a file. */
static void monitor_begin(Monitor *m, Answer *answer)
{
    g_autoptr(GSocketAddress) where = NULL;
    g_autoptr(GError) error = NULL;

    m->dir = g_dir_make_tmp("ff-watch-XXXXXX", NULL);
    m->path = g_build_filename(m->dir, "qmp", NULL);
    m->answer = answer;
    m->listener = g_socket_listener_new();
    where = g_unix_socket_address_new(m->path);
    g_socket_listener_add_address(m->listener, where, G_SOCKET_TYPE_STREAM, 0, NULL, NULL, &error);
    g_assert_no_error(error);
    m->thread = g_thread_new("monitor", monitor, m);
    g_autofree char *file = g_build_filename(m->dir, "stdout", NULL);
    int out = open(file, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    fflush(stdout);
    m->before = dup(STDOUT_FILENO);
    dup2(out, STDOUT_FILENO);
    close(out);
}

/* What went to stdout (g_free). */
static char *monitor_end(Monitor *m)
{
    g_autofree char *file = g_build_filename(m->dir, "stdout", NULL);
    char *text = NULL;

    fflush(stdout);
    dup2(m->before, STDOUT_FILENO);
    close(m->before);
    g_thread_join(m->thread);
    g_object_unref(m->listener);
    g_assert_true(g_file_get_contents(file, &text, NULL, NULL));
    g_unlink(file);
    g_unlink(m->path);
    g_rmdir(m->dir);
    g_free(m->path);
    g_free(m->dir);
    return text;
}

/* It looks at a destination that waits for pages until the end, and asks it nothing on the way that
 * QEMU itself would have to answer. */
static void test_waiting(void)
{
    Monitor m;

    monitor_begin(&m, answer_to_watch);
    char *const addresses[] = {m.path, NULL};
    int status = ff_watch(addresses, 100, NULL);
    g_autofree char *text = monitor_end(&m);
    g_assert_cmpint(status, ==, 0);
    has(text, "waiting vCPU 1 12 ms, QEMU itself 1.50 s");
    has(text, "destination completed");
}

/* farfault status has what the engine says, also where QEMU does not answer. */
static void test_status(void)
{
    Monitor m;

    monitor_begin(&m, answer_to_status);
    char *argv[] = {(char *)"status", m.path, NULL};
    int status = ff_cli_status(2, argv);
    g_autofree char *text = monitor_end(&m);
    g_assert_cmpint(status, ==, 0);
    has(text, "QEMU 7.2.22 does not answer");
    has(text, "750 of 1000 pages are here");
    has(text, "QEMU itself, for 1.50 s");
}

static const char *answer_of_plain(const char *command, unsigned *looks)
{
    return !strcmp(command, "query-status")     ? "{'status': 'running'}"
           : !strcmp(command, "query-commands") ? "[{'name': 'query-status'}, {'name': 'stop'}]"
                                                : "{}";
}

static const char *answer_of_farfault(const char *command, unsigned *looks)
{
    return !strcmp(command, "query-commands") ? "[{'name': 'stop'}, {'name': 'x-farfault-restore'}]"
                                              : answer_of_plain(command, looks);
}

/* A QEMU that farfault has not started is named as one. */
static void test_plain(void)
{
    static Answer *const answers[] = {answer_of_plain, answer_of_farfault};

    for (unsigned i = 0; i < G_N_ELEMENTS(answers); i++) {
        Monitor m;

        monitor_begin(&m, answers[i]);
        char *argv[] = {(char *)"status", m.path, NULL};
        int status = ff_cli_status(2, argv);
        g_autofree char *text = monitor_end(&m);
        g_assert_cmpint(status, ==, 0);
        g_assert_true(!strstr(text, "not started by farfault") == (i == 1));
    }
}

static const char *answer_to_recover(const char *command, unsigned *looks)
{
    return strcmp(command, "migrate-recover") != 0 ? "{}" : NULL;
}

/* A dump that is not there is named, whatever else QEMU has against it. */
static void test_recover(void)
{
    static const char *const paths[] = {"/no such/dump", "/"};

    for (unsigned i = 0; i < G_N_ELEMENTS(paths); i++) {
        Monitor m;

        monitor_begin(&m, answer_to_recover);
        int before = dup(STDERR_FILENO);
        dup2(STDOUT_FILENO, STDERR_FILENO);
        char *argv[] = {(char *)"recover", (char *)"--from", (char *)paths[i], m.path, NULL};
        int status = ff_cli_recover(4, argv);
        dup2(before, STDERR_FILENO);
        close(before);
        g_autofree char *text = monitor_end(&m);
        g_assert_cmpint(status, ==, 1);
        has(text, i ? "no answer within" : "--from /no such/dump: No such file or directory: give");
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/watch/both", test_both);
    g_test_add_func("/watch/postmigrate", test_postmigrate);
    g_test_add_func("/watch/alone", test_alone);
    g_test_add_func("/watch/wrapped", test_wrapped);
    g_test_add_func("/watch/events", test_events);
    g_test_add_func("/watch/downtime", test_downtime);
    g_test_add_func("/watch/kinds", test_kinds);
    g_test_add_func("/watch/wide-letters", test_wide_letters);
    g_test_add_func("/watch/snapshot", test_snapshot);
    g_test_add_func("/watch/idle", test_idle);
    g_test_add_func("/watch/sizes", test_sizes);
    g_test_add_func("/watch/waiting", test_waiting);
    g_test_add_func("/watch/status", test_status);
    g_test_add_func("/watch/restored", test_restored);
    g_test_add_func("/watch/not-moved", test_not_moved);
    g_test_add_func("/watch/plain", test_plain);
    g_test_add_func("/watch/recover", test_recover);
    g_test_add_func("/watch/pace", test_pace);
    return g_test_run();
}
