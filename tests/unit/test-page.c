/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Records and the page that is made of them, without QEMU: a page made at once and one made from
 * the file are the same; each number is where it should be; nothing of what QEMU says is taken for
 * markup; records that are cut off, foreign or odd are read as far as they make sense.
 */
#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

#include "cli/common/page.h"

static JsonObject *object(const char *text)
{
    g_autofree char *json = g_strdelimit(g_strdup(text), "'", '"');
    g_autoptr(GError) error = NULL;
    g_autoptr(JsonNode) node = json_from_string(json, &error);

    g_assert_no_error(error);
    return json_object_ref(json_node_get_object(node));
}

static void event(FfRecord *r, FfSide side, const char *text)
{
    g_autoptr(JsonObject) o = object(text);

    ff_record_event(r, side, o);
}

static void info(FfRecord *r, FfSide side, const char *text)
{
    g_autoptr(JsonObject) o = object(text);

    ff_record_info(r, side, o);
}

static void fill(FfRecord *r)
{
    g_autoptr(JsonObject) result = object("{'outcome': 'completed'}");

    ff_record_begin(r, false);
    ff_record_side(r, FF_SIDE_SOURCE, "/run/a", "7.2.22", "web<script>alert(1)</script>\xff&");
    ff_record_side(r, FF_SIDE_DESTINATION, "/run/b", NULL, NULL);
    event(r, FF_SIDE_SOURCE, "{'event': 'MIGRATION', 'data': {'status': 'active'}}");
    event(r, FF_SIDE_SOURCE, "{'event': 'MIGRATION_PASS', 'data': {'pass': 1}}");
    info(r, FF_SIDE_SOURCE,
         "{'status': 'active', 'ram': {'total': 1000, 'remaining': 900, 'precopy-bytes': 5},"
         " 'x-farfault': {'requests': 0, 'bytes-wire': 100}}");
    g_usleep(3000);
    event(r, FF_SIDE_SOURCE, "{'event': 'STOP'}");
    event(r, FF_SIDE_SOURCE, "{'event': 'MIGRATION', 'data': {'status': 'device'}}");
    g_usleep(3000);
    event(r, FF_SIDE_DESTINATION, "{'event': 'MIGRATION', 'data': {'status': 'postcopy-active'}}");
    event(r, FF_SIDE_DESTINATION, "{'event': 'RESUME'}");
    event(r, FF_SIDE_DESTINATION, "{'event': 'MIGRATION', 'data': {'status': 'postcopy-paused'}}");
    info(r, FF_SIDE_DESTINATION,
         "{'status': 'postcopy-active', 'x-farfault': {'requests': 3, 'bytes-wire': 9, 'half':"
         " {'role': 'destination', 'waits': [{'vcpu': 0, 'block': 'pc.ram<', 'offset': 8192,"
         "  'ms': 2}]}}}");
    g_usleep(3000);
    event(r, FF_SIDE_DESTINATION, "{'event': 'MIGRATION', 'data': {'status': 'completed'}}");
    event(r, FF_SIDE_SOURCE, "{'event': '<b>odd</b>', 'data': {'status': 'completed'}}");
    info(r, FF_SIDE_SOURCE,
         "{'status': 'completed', 'total-time': 123, 'downtime': 7, 'ram': {'total': 1000,"
         " 'remaining': 0, 'page-size': 4096, 'transferred': 4242, 'precopy-bytes': 4000,"
         " 'postcopy-bytes': 242, 'mbps': 12.5, 'dirty-sync-count': 2}, 'x-farfault':"
         " {'requests': 3, 'bytes-wire': 4300, 'pages-bulk': 10, 'pages-urgent': 3}}");
    info(r, FF_SIDE_DESTINATION,
         "{'status': 'completed', 'x-farfault': {'requests': 5, 'bytes-wire': 4300,"
         " 'latency-us': [[32, 2], [64, 1]], 'latency-mean-us': 61.333333333333336,"
         " 'latency-p99-us': 128}}");
    ff_record_result(r, result);
}

static void has(const char *text, const char *part)
{
    if (!strstr(text, part)) {
        g_error("no %s in:\n%s", part, text);
    }
}

/* Each picture is XML that ends. */
static unsigned check_pictures(const char *page)
{
    const GMarkupParser parser = {NULL, NULL, NULL, NULL, NULL};
    unsigned n = 0;

    for (const char *at = page; (at = strstr(at, "<svg")); n++) {
        const char *end = strstr(at, "</svg>");
        g_autoptr(GMarkupParseContext) context = g_markup_parse_context_new(&parser, 0, NULL, NULL);
        g_autoptr(GError) error = NULL;

        g_assert_nonnull(end);
        g_markup_parse_context_parse(context, at, end + 6 - at, &error);
        g_assert_no_error(error);
        g_markup_parse_context_end_parse(context, &error);
        g_assert_no_error(error);
        at = end;
    }
    g_assert_null(strstr(page, "nan"));
    return n;
}

static void test_page(void)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *path = g_strdup_printf("%s/ff-page-%d", g_get_tmp_dir(), (int)getpid());
    g_autoptr(FfRecord) r = ff_record_new(path, &error);

    g_assert_no_error(error);
    fill(r);
    g_assert_true(ff_record_close(r, &error));
    g_autofree char *page = ff_page(r);
    g_autoptr(FfRecord) loaded = ff_record_load(path, &error);
    g_assert_no_error(error);
    g_autofree char *again = ff_page(loaded);
    g_assert_cmpstr(page, ==, again);

    g_assert_true(g_utf8_validate(page, -1, NULL));
    g_assert_cmpuint(check_pictures(page), ==, 10);
    has(page, "<title>Migration of web&lt;script&gt;");
    g_assert_null(strstr(page, "<script"));
    g_assert_null(strstr(page, "<b>odd"));
    has(page, "&lt;b&gt;odd");
    has(page, "id=\"source.ram.transferred\">4242</td>");
    has(page, "id=\"source.ram.mbps\">12.5</td>");
    has(page, "id=\"destination.x-farfault.latency-us\">[[32,2],[64,1]]</td>");
    has(page, "id=\"destination.x-farfault.latency-mean-us\">61.3</td>");
    has(page, "<b>7 ms</b><span>downtime, as QEMU says it</span>");
    has(page, "<b>completed</b><span>outcome</span>");
    has(page, "rect class=\"dst lost\"");
    has(page, "<title>the guest stood for ");
    has(page, "0x2000 of pc.ram&lt;");
    has(page, "<figure id=\"blackout\"");
    has(page, "sent before the switch</th><td>3.9 KiB");
    has(page, "left at the last look before it</th><td>900 B");
    g_unlink(path);
}

/* It has no channels, and no pages by ways. */
static void test_restore(void)
{
    g_autoptr(FfRecord) r = ff_record_new(NULL, NULL);

    ff_record_begin(r, true);
    info(r, FF_SIDE_DESTINATION,
         "{'status': 'completed', 'x-farfault': {'requests': 3, 'bytes-wire': 8192, 'pages-bulk':"
         " 0, 'pages-urgent': 0, 'pages-zero': 7, 'restore': {'read-for-faults': 2048,"
         " 'read-by-fill': 6144}}}");
    g_autofree char *page = ff_page(r);
    check_pictures(page);
    has(page, "<h1>Restore");
    has(page, "of them for what the guest waited for</th><td>2.0 KiB");
    has(page, "ahead of it</th><td>6.0 KiB");
    has(page, "<b>8.0 KiB</b><span>read from the file</span>");
    g_assert_null(strstr(page, "channel"));
    g_assert_null(strstr(page, "<figure id=\"pages\""));
}

/* What a source says of where its requests were, and what none does say. */
static void test_places(void)
{
    static const struct {
        const char *places;
        unsigned cells;
    } rows[] = {{"[0, 7, 1]", 2}, {"[]", 0},           {"[0, 0]", 0}, {"[-4]", 0},
                {"'x'", 0},       {"[[1], {}, 5]", 1}, {"[null]", 0}, {"{}", 0}};

    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autoptr(FfRecord) r = ff_record_new(NULL, NULL);
        g_autofree char *after = g_strdup_printf(
            "{'status': 'completed', 'ram': {'total': 8192}, 'x-farfault': {'request-places': %s}}",
            rows[i].places);

        ff_record_begin(r, true);
        info(r, FF_SIDE_SOURCE, "{'status': 'active', 'x-farfault': {'request-places': [0]}}");
        g_usleep(3000);
        info(r, FF_SIDE_SOURCE, after);
        g_autofree char *page = ff_page(r);
        g_auto(GStrv) cells = g_strsplit(page, "<rect class=\"heat\"", -1);

        check_pictures(page);
        g_assert_cmpuint(g_strv_length(cells), ==, rows[i].cells + 1);
        g_assert_true(!strstr(page, "id=\"places\"") == !rows[i].cells);
        g_assert_true(!strstr(page, "<title>7 requests</title>") == (i != 0));
        g_assert_true(!strstr(page, "<title>1 request</title>") == (i != 0));
    }
}

static void load(const char *path, const char *text, bool good, guint entries)
{
    g_autoptr(GError) error = NULL;

    g_file_set_contents(path, text, -1, &error);
    g_assert_no_error(error);
    g_autoptr(FfRecord) r = ff_record_load(path, &error);
    g_assert_true(!r == !good);
    g_assert_true(!r == !!error);
    if (r) {
        g_autofree char *page = ff_page(r);

        g_assert_cmpuint(ff_record_entries(r)->len, ==, entries);
        check_pictures(page);
    }
}

/* What is no file is left as it is, and what is one has the page. */
static void test_save(void)
{
    g_autofree char *dir = g_dir_make_tmp("ff-page-XXXXXX", NULL);
    g_autofree char *link = g_build_filename(dir, "link", NULL);
    g_autofree char *file = g_build_filename(dir, "file", NULL);
    g_autoptr(GError) error = NULL;
    g_autoptr(FfRecord) r = ff_record_new(NULL, NULL);
    g_autofree char *page = NULL, *there = NULL;

    ff_record_begin(r, true);
    g_assert_cmpint(symlink("file", link), ==, 0);
    for (unsigned i = 0; i < 2; i++) {
        g_assert_false(ff_page_save(r, link, &error));
        g_assert_error(error, G_FILE_ERROR, G_FILE_ERROR_INVAL);
        g_clear_error(&error);
        g_assert_true(g_file_test(link, G_FILE_TEST_IS_SYMLINK));
        g_assert_true(ff_page_save(r, file, &error)); /* it is there the second time */
        g_assert_no_error(error);
    }
    page = ff_page(r);
    g_assert_true(g_file_get_contents(file, &there, NULL, NULL));
    g_assert_cmpstr(there, ==, page);
    g_unlink(link);
    g_unlink(file);
    g_rmdir(dir);
}

#define HEAD "{\"farfault-record\":1,\"started-us\":1700000000000000,\"same-clock\":true}\n"

static void test_load(void)
{
    g_autofree char *path = g_strdup_printf("%s/ff-load-%d", g_get_tmp_dir(), (int)getpid());
    g_autoptr(GError) error = NULL;

    load(path, "", true, 0);
    load(path, "hello\n", false, 0);
    load(path, "{}\n", false, 0);
    load(path, "{\"farfault-record\":2}\n", false, 0);
    load(path, HEAD, true, 0);
    load(path, HEAD "{\"us\":5,\"side\":\"source\",\"info\":{}}\n{\"us\":6,\"side\":\"sou", true,
         1);
    /* What a later version may add is left out; what is odd as well. */
    load(path,
         HEAD "{\"us\":5,\"side\":\"third\",\"info\":{}}\n[1]\n7\n"
              "{\"us\":-5,\"side\":\"source\",\"info\":{}}\n"
              "{\"us\":9223372036854775807,\"side\":\"source\",\"event\":{\"event\":\"STOP\"}}\n"
              "{\"us\":6,\"side\":\"destination\",\"event\":{\"timestamp\":7,\"event\":[]}}\n"
              "{\"us\":7,\"side\":\"source\",\"info\":{\"ram\":{\"remaining\":-1,\"total\":\"x\"},"
              "\"x-farfault\":{\"latency-us\":[[1],2,[3,-4]],\"half\":{\"waits\":[1,{}]}}}}\n",
         true, 3);
    /* Brackets in brackets beyond the end of the stack. */
    g_autofree char *brackets = g_strnfill(1000000, '[');
    g_autofree char *deep =
        g_strconcat(HEAD "{\"us\":5,\"side\":\"source\",\"info\":", brackets, NULL);
    load(path, deep, true, 0);
    g_autoptr(FfRecord) there = ff_record_new(path, &error);
    g_assert_null(there);
    g_assert_error(error, G_FILE_ERROR, G_FILE_ERROR_EXIST);
    g_unlink(path);
}

/* A page of a record of these lines (g_free). */
static char *page_of(const char *text)
{
    g_autofree char *path = g_strdup_printf("%s/ff-lines-%d", g_get_tmp_dir(), (int)getpid());
    g_autoptr(GError) error = NULL;

    g_file_set_contents(path, text, -1, &error);
    g_assert_no_error(error);
    g_autoptr(FfRecord) r = ff_record_load(path, &error);
    g_unlink(path);
    g_assert_no_error(error);
    return ff_page(r);
}

#define EVENT(us, seconds, event)                                                                  \
    "{\"us\":" us ",\"side\":\"source\",\"event\":{" event ",\"timestamp\":{\"seconds\":" seconds  \
    ",\"microseconds\":0}}}\n"

/* A status becomes a class of the style only if it is one of those. */
static void test_markup(void)
{
    static const char status[] = "\"event\":\"MIGRATION\",\"data\":{\"status\":"
                                 "\"x\\\"><a href='//h'>\"}";
    g_autofree char *lines =
        g_strconcat(HEAD "{\"us\":1,\"side\":\"source\",\"event\":{", status,
                    "}}\n"
                    "{\"us\":90000,\"side\":\"source\",\"event\":{\"event\":\"STOP\"}}\n",
                    NULL);
    g_autofree char *page = page_of(lines);

    has(page, "&lt;a href");
    g_assert_null(strstr(page, "<a href"));
    check_pictures(page);
}

/* The host's clock was set an hour back, and then to a time that is none: the times at which the
 * events were heard of are left. */
static void test_clock(void)
{
    g_autofree char *page =
        page_of(HEAD EVENT("1005000", "1700000001", "\"event\":\"STOP\"")
                    EVENT("1025000", "1699996401", "\"event\":\"RESUME\"")
                        EVENT("2000000", "9223372036854775807", "\"event\":\"SHUTDOWN\"")
                            EVENT("2000001", "-9223372036854775807", "\"event\":\"RESET\""));

    has(page, "<b>25.0 ms</b><span>from STOP to RESUME");
    has(page, "<td>1000.000 ms</td><td>source</td><td>STOP ");
    has(page, "<td>1025.000 ms</td><td>source</td><td>RESUME ");
    has(page, "<td>2000.000 ms</td><td>source</td><td>SHUTDOWN ");
    has(page, "<td>2000.001 ms</td><td>source</td><td>RESET ");
}

/* What stands at an axis is a number that people read. */
static void test_axis(void)
{
    static const char *const rows[][2] = {{"5", ">5/s<"},
                                          {"8000", ">8000/s<"},
                                          {"50000", ">50 k/s<"},
                                          {"6000000", ">6000 k/s<"},
                                          {"50000000", ">50 M/s<"}};

    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *lines = g_strdup_printf(
            HEAD "{\"us\":0,\"side\":\"source\",\"info\":{\"status\":\"active\",\"x-farfault\":"
                 "{\"requests\":0}}}\n{\"us\":1000000,\"side\":\"source\",\"info\":{\"status\":"
                 "\"completed\",\"x-farfault\":{\"requests\":%s}}}\n",
            rows[i][0]);
        g_autofree char *page = page_of(lines);

        has(page, rows[i][1]);
        g_assert_null(strstr(page, "e+0"));
    }
}

/* Counts that are too large to be added, and things that are no counts. */
static void test_counts(void)
{
    g_autofree char *page = page_of(
        HEAD "{\"us\":5,\"side\":\"source\",\"info\":{\"ram\":{\"page-size\":9223372036854775807},"
             "\"total-time\":1000,\"x-farfault\":{\"bytes-wire\":5,\"pages-bulk\":7,"
             "\"latency-us\":[[1,9223372036854775807],[2,9223372036854775807]]}}}\n");
    g_autofree char *odd =
        page_of(HEAD "{\"us\":5,\"side\":\"source\",\"info\":{\"x-farfault\":{\"latency-us\":"
                     "[[{},{}],[[],1]]}}}\n");

    has(page, "9223372036854775807, 50.0 %");
    g_assert_null(strstr(odd, "id=\"latency\""));
}

/* A file of which nothing has come is not in the way of the next try. */
static void test_nothing(void)
{
    g_autofree char *path = g_strdup_printf("%s/ff-nothing-%d", g_get_tmp_dir(), (int)getpid());

    for (unsigned i = 0; i < 3; i++) {
        g_autoptr(GError) error = NULL;
        g_autoptr(FfRecord) r = ff_record_new(path, &error);

        g_assert_no_error(error);
        if (i == 1) { /* the source refused */
            ff_record_begin(r, true);
            ff_record_side(r, FF_SIDE_SOURCE, "/run/a", NULL, NULL);
        } else if (i == 2) {
            ff_record_begin(r, true);
            info(r, FF_SIDE_SOURCE, "{'status': 'active'}");
        }
        if (i) {
            g_assert_true(ff_record_close(r, &error));
        }
        g_clear_pointer(&r, ff_record_free);
        g_assert_true(g_file_test(path, G_FILE_TEST_EXISTS) == (i == 2));
    }
    g_unlink(path);
}

/* Ten hours at ten looks a second are no more lines than memory has room for; each new status and
 * the last numbers are among them. */
static void test_long(void)
{
    g_autoptr(FfRecord) r = ff_record_new(NULL, NULL);
    g_autoptr(JsonObject) active = object("{'status': 'active'}");
    g_autoptr(JsonObject) paused = object("{'status': 'postcopy-paused'}");
    g_autoptr(JsonObject) done = object("{'status': 'completed', 'total-time': 1}");
    g_autoptr(JsonObject) later = object("{'status': 'completed', 'total-time': 2}");
    const gint64 hours = G_GINT64_CONSTANT(36000000000);
    const GArray *entries = ff_record_entries(r);

    ff_record_begin(r, true);
    for (gint64 us = 0; us < hours; us += 100000) {
        ff_record_info_at(r, FF_SIDE_SOURCE, active, us);
        if (us == 90000000) { /* a short one has them all */
            g_assert_cmpuint(entries->len, ==, 901);
        }
    }
    g_assert_cmpuint(entries->len, >, 5000);
    g_assert_cmpuint(entries->len, <, 10000);
    guint before = entries->len;
    ff_record_info_at(r, FF_SIDE_SOURCE, paused, hours + 1);
    for (unsigned i = 0; i < 100; i++) {
        ff_record_info_at(r, FF_SIDE_SOURCE, done, hours + 2 + i);
    }
    ff_record_info_at(r, FF_SIDE_SOURCE, later, hours + 200);
    g_assert_cmpuint(entries->len, ==, before + 3);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/page/page", test_page);
    g_test_add_func("/page/restore", test_restore);
    g_test_add_func("/page/places", test_places);
    g_test_add_func("/page/save", test_save);
    g_test_add_func("/page/load", test_load);
    g_test_add_func("/page/nothing", test_nothing);
    g_test_add_func("/page/long", test_long);
    g_test_add_func("/page/markup", test_markup);
    g_test_add_func("/page/clock", test_clock);
    g_test_add_func("/page/counts", test_counts);
    g_test_add_func("/page/axis", test_axis);
    return g_test_run();
}
