/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * farfault metrics without guests: both formats are what their specifications say, whatever a
 * guest's name is; requests over HTTP; addresses; QEMU's command line. promtool checks the text
 * format as well, where there is one (FF_PROMTOOL, or in PATH).
 */
#include <fcntl.h>
#include <gio/gunixinputstream.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/watch/metrics-listen.h"
#include "cli/watch/metrics-text.h"
#include "tests/lib/metricstext.h"

static FfHostGuest *guest(pid_t pid, const char *name)
{
    FfHostGuest *g = g_new0(FfHostGuest, 1);

    g->pid = pid;
    g->name = (char *)name;
    g->uuid = (char *)"c7a5fdbd-edaf-9455-926a-d65c16db1809";
    g->counted = g->served = true;
    for (unsigned u = 0; u < FF_USES; u++) {
        FfUseTotals *t = &g->totals.use[u];

        t->ended[FF_END_COMPLETED] = 1 + u;
        t->ended[FF_END_FAILED] = 10 + u;
        t->bytes = UINT64_C(1) << (40 + u);
        t->stopped_ms = 1500;
        t->latency[0] = 1;
        t->latency[5] = 2;
        t->latency[30] = 4; /* no bucket of its own */
        t->latency_sum_us = 123456;
    }
    return g;
}

static GPtrArray *some_guests(void)
{
    GPtrArray *guests = g_ptr_array_new_with_free_func(g_free);
    FfHostGuest *moving = guest(12, "web"), *blind = guest(13, "of another user");

    moving->totals.running = FF_USE_INCOMING + 1;
    strcpy(moving->totals.status, "postcopy-active");
    moving->totals.ram_total = 1 << 30;
    moving->totals.ram_remaining = 1 << 20;
    blind->counted = blind->served = false;
    g_ptr_array_add(guests, moving);
    g_ptr_array_add(guests, blind);
    g_ptr_array_add(guests, guest(14, "web")); /* the same name */
    g_ptr_array_add(guests, guest(15, ""));
    g_ptr_array_add(guests, guest(16, "a\"b\\c\nd}\xff{e=\"1\"} 7 # \xc3\xa4"));
    /* What a hostile QEMU may have written. */
    g_ptr_array_add(guests, guest(17, "odd"));
    FfHostGuest *odd = g_ptr_array_index(guests, 5);
    memset(&odd->totals, 0xff, sizeof(odd->totals));
    odd->totals.use[0].latency[1] = 2; /* the sum would begin again from 0 */
    odd->totals.status[sizeof(odd->totals.status) - 1] = 0;
    return guests;
}

static void check(const GPtrArray *guests)
{
    for (unsigned open = 0; open < 2; open++) {
        g_autofree char *text = ff_metrics_text(guests, open);
        g_autofree char *wrong = metrics_check(text, open);
        g_assert_cmpstr(wrong, ==, NULL);
    }
}

static void test_text(void)
{
    g_autoptr(GPtrArray) guests = some_guests();
    g_autoptr(GPtrArray) none = g_ptr_array_new();

    g_ptr_array_set_size(guests, 5);
    check(guests);
    check(none);
    g_autofree char *text = ff_metrics_text(guests, false);
    g_assert_cmpfloat(metrics_value(text, "farfault_guests"), ==, 5);
    g_assert_cmpfloat(metrics_value(text, "farfault_guest_relay_up{domain=\"web\",pid=\"12\"}"), ==,
                      1);
    g_assert_cmpfloat(
        metrics_value(text, "farfault_operations_total{domain=\"web\",pid=\"14\",kind=\"restore\","
                            "result=\"failed\"}"),
        ==, 13);
    g_assert_cmpfloat(metrics_value(text, "farfault_transferred_bytes_total{domain=\"web\",pid="
                                          "\"14\",kind=\"outgoing\"}"),
                      ==, 0x1p40);
    g_assert_cmpfloat(metrics_value(text, "farfault_stopped_seconds_total{domain=\"web\",pid="
                                          "\"14\",kind=\"outgoing\"}"),
                      ==, 1.5);
#define BUCKET(le)                                                                                 \
    "farfault_fault_latency_seconds_bucket{domain=\"web\",pid=\"12\",kind=\"incoming\",le=\"" le   \
    "\"}"
    g_assert_cmpfloat(metrics_value(text, BUCKET("2e-06")), ==, 1);
    g_assert_cmpfloat(metrics_value(text, BUCKET("3.2e-05")), ==, 1);
    g_assert_cmpfloat(metrics_value(text, BUCKET("6.4e-05")), ==, 3);
    g_assert_cmpfloat(metrics_value(text, BUCKET("+Inf")), ==, 7);
    g_assert_cmpfloat(metrics_value(text, "farfault_operation_remaining_bytes{domain=\"web\",pid="
                                          "\"12\",kind=\"incoming\"}"),
                      ==, 1 << 20);
    g_assert_true(metrics_has(text, "farfault_operation_running{domain=\"web\",pid=\"12\","
                                    "kind=\"incoming\",status=\"postcopy-active\"} 1"));
    g_assert_false(metrics_has(text, "farfault_operation_running{domain=\"web\",pid=\"14\""));
    g_assert_false(metrics_has(text, "farfault_operations_total{domain=\"of another user\""));
}

/* Numbers of any kind end nothing and reach nothing. */
static void test_hostile(void)
{
    g_autoptr(GPtrArray) guests = some_guests();
    g_autofree char *text = ff_metrics_text(guests, false);

    check(guests); /* sums of its buckets are beyond 64 bits */
    g_assert_true(g_utf8_validate(text, -1, NULL));
    g_assert_true(metrics_has(text, "farfault_guest_info{domain=\"odd\",pid=\"17\""));
    g_assert_false(metrics_has(text, "farfault_operation_running{domain=\"odd\""));
}

/* The checker itself: each page is wrong in one place. */
static void test_checker(void)
{
    static const char *const wrong[] = {
        "x 1\n",
        "# HELP x y\n# TYPE x gauge\nx 1",
        "# HELP x y\n# TYPE x gauge\nx 1\nx 1\n",
        "# HELP x y\n# TYPE x gauge\nx{a=\"1} 1\n",
        "# HELP x y\n# TYPE x gauge\nx{a=\"\\t\"} 1\n",
        "# HELP x y\n# TYPE x counter\nx 1\n",
        "# HELP x y\n# TYPE x gauge\nx one\n",
        "# HELP x y\n# TYPE x gauge\nx 1\n# HELP x y\n# TYPE x gauge\n",
        "# HELP x y\n# TYPE x histogram\nx_bucket{le=\"1\"} 2\nx_bucket{le=\"+Inf\"} 1\n",
        "# HELP x y\n# TYPE x histogram\nx_bucket{le=\"1\"} 2\nx_sum 1\nx_count 2\n",
        "# HELP x y\n# TYPE x histogram\nx_bucket{le=\"+Inf\"} 2\nx_sum 1\nx_count 3\n",
    };

    for (size_t i = 0; i < G_N_ELEMENTS(wrong); i++) {
        g_autofree char *said = metrics_check(wrong[i], false);

        g_test_message("%s", said);
        g_assert_nonnull(said);
    }
}

static void test_promtool(void)
{
    g_autoptr(GPtrArray) guests = some_guests();

    g_ptr_array_set_size(guests, 5);
    g_autofree char *text = ff_metrics_text(guests, false);
    bool there;
    g_autofree char *said = metrics_promtool(text, &there);

    if (!there) {
        g_test_skip("there is no promtool");
        return;
    }
    g_assert_cmpstr(said, ==, NULL);
}

/* ---- HTTP ------------------------------------------------------------------------------------ */

static char *page(bool open, void *opaque)
{
    return g_strdup(open ? "open" : "text");
}

static void test_http(void)
{
    static const struct {
        const char *request, *begins, *body;
    } row[] = {
        {"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n",
         "HTTP/1.1 200 OK\r\nContent-Type: text/plain; "
         "version=0.0.4",
         "text"},
        {"GET /metrics?x=1 HTTP/1.0\n\n", "HTTP/1.1 200 ", "text"},
        {"GET /metrics HTTP/1.1\r\naccept: application/openmetrics-text;version=1.0.0,*/*\r\n\r\n",
         "HTTP/1.1 200 OK\r\nContent-Type: application/openmetrics-text; version=1.0.0", "open"},
        {"HEAD /metrics HTTP/1.1\r\n\r\n", "HTTP/1.1 200 ", ""},
        {"GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 404 ", "the page is /metrics\n"},
        {"POST /metrics HTTP/1.1\r\n\r\n", "HTTP/1.1 405 ", "only GET\n"},
        {"GET /metrics\r\n\r\n", "HTTP/1.1 400 ", "this is no HTTP request\n"},
        {"\r\n\r\n", "HTTP/1.1 400 ", "this is no HTTP request\n"},
        {"\x16\x03\x01\r\n\r\n", "HTTP/1.1 400 ", "this is no HTTP request\n"},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(row); i++) {
        g_autofree char *answer = ff_metrics_answer(row[i].request, page, NULL);

        g_test_message("%s", answer);
        g_assert_true(g_str_has_prefix(answer, row[i].begins));
        g_assert_cmpstr(strstr(answer, "\r\n\r\n") + 4, ==, row[i].body);
    }
}

static char *numbered(bool open, void *opaque)
{
    unsigned *n = opaque;

    return g_strdup_printf("page %u of %d", ++*n, open);
}

/* A server of numbered pages; *URL gets where (g_free). Ends with this process. */
static pid_t serve(char **url)
{
    int ends[2];

    g_assert_cmpint(pipe2(ends, O_CLOEXEC), ==, 0);
    pid_t pid = fork();
    if (!pid) {
        unsigned n = 0;

        prctl(PR_SET_PDEATHSIG, SIGKILL);
        dup2(ends[1], STDERR_FILENO);
        ff_metrics_listen("0", numbered, &n, NULL);
        _exit(1);
    }
    close(ends[1]);
    g_autoptr(GInputStream) in = g_unix_input_stream_new(ends[0], TRUE);
    g_autoptr(GDataInputStream) lines = g_data_input_stream_new(in);
    g_autofree char *line = g_data_input_stream_read_line(lines, NULL, NULL, NULL);
    const char *at = line ? strstr(line, "http://") : NULL;

    g_assert_nonnull(at);
    *url = g_strndup(at + strlen("http://"), strcspn(at + strlen("http://"), "/"));
    return pid;
}

/* What follows the head of the answer (g_free). */
static char *get(const char *where, bool open)
{
    g_autofree char *request = g_strdup_printf(
        "GET /metrics HTTP/1.1\r\n%s\r\n", open ? "Accept: application/openmetrics-text\r\n" : "");
    g_autoptr(GSocketClient) client = g_socket_client_new();
    g_autoptr(GError) error = NULL;
    g_autoptr(GSocketConnection) c =
        g_socket_client_connect_to_host(client, where, 0, NULL, &error);
    char text[4096] = "";
    gsize n;

    g_assert_no_error(error);
    g_output_stream_write_all(g_io_stream_get_output_stream(G_IO_STREAM(c)), request,
                              strlen(request), NULL, NULL, &error);
    g_assert_no_error(error);
    g_input_stream_read_all(g_io_stream_get_input_stream(G_IO_STREAM(c)), text, sizeof(text) - 1,
                            &n, NULL, &error);
    g_assert_no_error(error);
    return g_strdup(strstr(text, "\r\n\r\n") + 4);
}

/* A client that asks again at once is given the page that is there, and later a new one; of each
 * format. */
static void test_once(void)
{
    g_autofree char *where = NULL;
    pid_t pid = serve(&where);
    bool same = false, differs = false;

    for (unsigned i = 0; !same && i < 100; i++) { /* a busy machine may need a second for both */
        g_autofree char *first = get(where, false), *second = get(where, false);

        same = !strcmp(first, second);
    }
    g_assert_true(same);
    g_autofree char *open = get(where, true);
    g_assert_true(g_str_has_suffix(open, " of 1"));
    g_autofree char *now = get(where, false);
    for (unsigned i = 0; !differs && i < 600; i++) {
        g_autofree char *later = get(where, false);

        differs = strcmp(later, now) != 0;
        g_usleep(100000);
    }
    g_assert_true(differs);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

static void test_address(void)
{
    static const struct {
        const char *text, *means; /* NULL: an error */
    } row[] = {
        {"9177", "127.0.0.1:9177"},
        {"0.0.0.0:80", "0.0.0.0:80"},
        {"[::1]:9177", "[::1]:9177"},
        {"::1:9177", "[::1]:9177"},
        {"", NULL},
        {"host:1", NULL},
        {"1.2.3.4", NULL},
        {"127.0.0.1:", NULL},
        {"65536", NULL},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(row); i++) {
        g_autoptr(GError) error = NULL;
        g_autoptr(GSocketAddress) address = ff_metrics_address(row[i].text, &error);
        g_autofree char *text =
            address ? g_socket_connectable_to_string(G_SOCKET_CONNECTABLE(address)) : NULL;

        g_assert_cmpstr(text, ==, row[i].means);
        g_assert_true(!address == !!error);
    }
}

static void test_option(void)
{
    static const char line[] = "qemu\0-m\0-name\0-name\0guest=a,process=b\0--uuid\0u\0-name";

    g_assert_cmpstr(ff_guests_option(line, sizeof(line), "m"), ==, "-name");
    g_assert_cmpstr(ff_guests_option(line, sizeof(line), "uuid"), ==, "u");
    g_assert_cmpstr(ff_guests_option(line, sizeof(line), "name"), ==, "guest=a,process=b");
    g_assert_null(ff_guests_option(line, sizeof(line), "smp"));
    g_assert_null(ff_guests_option("-name", 5, "name"));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/metrics/once", test_once); /* it forks: before there are threads */
    g_test_add_func("/metrics/text", test_text);
    g_test_add_func("/metrics/hostile", test_hostile);
    g_test_add_func("/metrics/checker", test_checker);
    g_test_add_func("/metrics/promtool", test_promtool);
    g_test_add_func("/metrics/http", test_http);
    g_test_add_func("/metrics/address", test_address);
    g_test_add_func("/metrics/option", test_option);
    return g_test_run();
}
