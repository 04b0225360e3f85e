/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The guest's init program, run on the host: it counts, its verdict is right, and it finds a
 * damaged word. Keys go in by one end of a socket, lines come out of it.
 */
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/guest/run.h"

static GuestRun start(const char *const *options)
{
    return guest_run_start("tests/guest/memwork", NULL, options);
}

static void test_mode(gconstpointer mode)
{
    g_autofree char *option = g_strconcat("ff.mode=", mode, NULL);
    /* 3 workers: the pages do not divide evenly. */
    const char *options[] = {"ff.mib=4", "ff.hot=1", "ff.threads=3", option, NULL};
    GuestRun m = start(options);
    g_autofree char *ready = guest_run_line(&m, "FF ready");
    g_assert_cmpuint(guest_run_number(ready, "pages"), ==, 1024);
    g_autofree char *first = guest_run_line(&m, "FF t=");
    g_autofree char *second = guest_run_line(&m, "FF t=");
    g_assert_cmpuint(guest_run_number(second, "writes"), >, guest_run_number(first, "writes"));
    g_assert_cmpuint(guest_run_number(second, "checks"), >, guest_run_number(first, "checks"));
    g_assert_cmpuint(guest_run_number(second, "bad"), ==, 0);
    guest_run_key(&m, "v");
    g_autofree char *verdict = guest_run_line(&m, "FF verdict");
    g_assert_true(g_str_has_prefix(verdict, "FF verdict ok pages=1024 "));
    /* It continues after a verdict. */
    g_free(guest_run_line(&m, "FF t="));
    guest_run_key(&m, "q");
    g_free(guest_run_line(&m, "FF verdict ok"));
    g_assert_cmpint(guest_run_end(&m), ==, 0);
}

static void test_damage(void)
{
    const char *options[] = {"ff.mib=4", "ff.hot=1", "ff.threads=2", NULL};
    GuestRun m = start(options);
    g_free(guest_run_line(&m, "FF ready"));
    guest_run_key(&m, "x");
    g_autofree char *bad = guest_run_line(&m, "FF bad");
    g_assert_cmpuint(guest_run_number(bad, "page"), ==, 512);
    g_assert_cmpuint(guest_run_number(bad, "first_wrong_word"), ==, 256);
    guest_run_key(&m, "q");
    g_autofree char *verdict = guest_run_line(&m, "FF verdict");
    g_assert_true(g_str_has_prefix(verdict, "FF verdict bad "));
    g_assert_cmpuint(guest_run_number(verdict, "bad"), ==, 1);
    g_assert_cmpint(guest_run_end(&m), ==, 1);
}

/* Memory that is taken is part of the verdict until it is given back. */
static void test_extra(void)
{
    const char *options[] = {"ff.mib=4", "ff.threads=1", "ff.extra=2", NULL};
    GuestRun m = start(options);
    for (unsigned i = 0; i < 2; i++) {
        guest_run_key(&m, "m");
        g_free(guest_run_line(&m, "FF extra taken mib=2"));
        guest_run_key(&m, "v");
        g_free(guest_run_line(&m, "FF verdict ok"));
        if (i)
            guest_run_key(&m, "x");
        guest_run_key(&m, "m");
        g_free(guest_run_line(&m, "FF extra given back mib=2"));
    }
    guest_run_key(&m, "q");
    g_free(guest_run_line(&m, "FF verdict bad"));
    g_assert_cmpint(guest_run_end(&m), ==, 1);
}

static void test_report(void)
{
    const char *options[] = {"ff.mib=4", "ff.threads=2", "ff.report=10", NULL};
    GuestRun m = start(options);

    /* t is the guest's own time: with lines of every second it would be 1 or more. */
    g_autofree char *first = guest_run_line(&m, "FF t=");
    g_assert_true(g_str_has_prefix(first, "FF t=0."));
    /* Chosen again, and no page is wrong. */
    for (const char *k = "0190"; *k; k++) {
        const char one[] = {*k, 0};
        guest_run_key(&m, one);
        g_free(guest_run_line(&m, "FF t="));
    }
    guest_run_key(&m, "q");
    g_free(guest_run_line(&m, "FF verdict ok"));
    g_assert_cmpint(guest_run_end(&m), ==, 0);
}

static uint64_t touches(const char *line)
{
    const char *at = strstr(line, " hist=");
    uint64_t sum = 0;
    while (at && (at = strchr(at, ':')))
        sum += g_ascii_strtoull(++at, NULL, 10);
    return sum;
}

/* What is timed: the first touch of every step; with ff.store= of those that write, and no other.
 */
static void test_store(void)
{
    for (unsigned store = 0; store < 2; store++) {
        const char *options[] = {"ff.mib=4", "ff.threads=1", "ff.write=25",
                                 store ? "ff.store=1" : "ff.store=0", NULL};
        GuestRun m = start(options);
        g_autofree char *first = guest_run_line(&m, "FF t=");
        uint64_t n = touches(first), writes = guest_run_number(first, "writes");
        /* The line is made while the worker is within a step. */
        if (store)
            g_assert_cmpuint(ABS((int64_t)(n - writes)), <, writes / 10);
        else
            g_assert_cmpuint(n, >, 3 * writes);
        guest_run_key(&m, "q");
        g_free(guest_run_line(&m, "FF verdict ok"));
        g_assert_cmpint(guest_run_end(&m), ==, 0);
    }
}

/* Of the touches in the line FF t=, those of 32 us and longer. */
static uint64_t long_touches(const char *line)
{
    const char *at = strstr(line, " hist=");
    uint64_t sum = 0;
    while (at && *(at = at + strcspn(at, "=,"))) {
        char *end;
        uint64_t bucket = g_ascii_strtoull(at + 1, &end, 10);
        if (bucket >= 5)
            sum += g_ascii_strtoull(end + 1, NULL, 10);
        at++;
    }
    return sum;
}

/* Asks for its waits, and adds up what the lines before the last say. *WORST_US: the longest. */
static uint64_t ask_waits(GuestRun *m, double *worst_us)
{
    uint64_t sum = 0;
    guest_run_key(m, "w");
    for (;;) {
        g_autofree char *line = guest_run_line(m, "FF waits ");
        if (g_str_has_prefix(line, "FF waits n=")) {
            *worst_us = g_ascii_strtod(strstr(line, " worst_us=") + strlen(" worst_us="), NULL);
            g_assert_cmpuint(sum, ==, guest_run_number(line, "n"));
            return sum;
        }
        const char *at = line;
        while ((at = strchr(at, ':')))
            sum += g_ascii_strtoull(++at, NULL, 10);
    }
}

/* It knows all of those that the other histogram has, each once, and the longest of them. Three
 * workers for each processor have some. Each of them can be between its two notes of a touch, or of
 * touch and step, when it is asked. */
static void test_waits(void)
{
    unsigned n_threads = 3 * g_get_num_processors();
    g_autofree char *threads = g_strdup_printf("ff.threads=%u", n_threads);
    const char *options[] = {"ff.mib=16", threads, NULL};
    GuestRun m = start(options);
    double worst_us, most_us = 0;
    uint64_t sum = 0, before;
    g_free(guest_run_line(&m, "FF t="));
    do {
        g_autofree char *first = guest_run_line(&m, "FF t=");
        before = long_touches(first);
        sum += ask_waits(&m, &worst_us);
        most_us = MAX(most_us, worst_us);
        g_autofree char *second = guest_run_line(&m, "FF t=");
        g_assert_cmpuint(sum + n_threads, >=, before);
        g_assert_cmpuint(sum, <=, long_touches(second));
    } while (before <= n_threads);
    /* A step is longer than its touch. */
    g_autofree char *last = guest_run_line(&m, "FF t=");
    g_assert_cmpfloat(most_us / 1000, <=,
                      g_ascii_strtod(strstr(last, " max_ms=") + strlen(" max_ms="), NULL) + 0.01);
    g_assert_cmpfloat(most_us, >=, 32);
    /* Those after 'f' are not among them: there are some, and they are not said. */
    guest_run_key(&m, "f");
    g_free(guest_run_line(&m, "FF t="));
    g_autofree char *then = guest_run_line(&m, "FF t=");
    for (bool more = false; !more;) {
        g_autofree char *line = guest_run_line(&m, "FF t=");
        more = long_touches(line) > long_touches(then);
    }
    sum += ask_waits(&m, &worst_us);
    g_assert_cmpuint(sum, <=, long_touches(then));
    guest_run_key(&m, "q");
    g_free(guest_run_line(&m, "FF verdict"));
    g_assert_cmpint(guest_run_end(&m), ==, 0);
}

static double real(const char *line, const char *name)
{
    g_autofree char *key_text = g_strconcat(" ", name, "=", NULL);
    const char *at = strstr(line, key_text);
    if (!at)
        test_fail("no %s in \"%s\"", name, line);
    return g_ascii_strtod(at + strlen(key_text), NULL);
}

/* All threads stand still for MS; 'f' is typed meanwhile. */
static void stop_and_finish(GuestRun *m, double ms)
{
    gint64 begin = g_get_monotonic_time();
    g_assert_cmpint(kill(m->pid, SIGSTOP), ==, 0);
    g_assert_cmpint(waitpid(m->pid, NULL, WUNTRACED), ==, m->pid);
    guest_run_key(m, "f");
    /* That is how long the guest stands still; nothing is waited for. */
    while (g_get_monotonic_time() - begin < ms * 1000)
        g_usleep(1000);
    g_assert_cmpint(kill(m->pid, SIGCONT), ==, 0);
}

/* A step that was under way when 'f' came is said, to its end: main, on the same processor, reads
 * the key before the worker continues. */
static void test_finish(void)
{
    /* memwork knows the rate of its clock by how long few MiB took: roughly on a busy machine. */
    const double stop_ms = 400, least_ms = stop_ms / 2;
    const char *options[] = {"ff.mib=8", "ff.threads=1", "ff.report=10", NULL};
    cpu_set_t all, first;
    g_assert_cmpint(sched_getaffinity(0, sizeof(all), &all), ==, 0);
    CPU_ZERO(&first);
    CPU_SET(0, &first);
    sched_setaffinity(0, sizeof(first), &first); /* of the worker; where it may not be, any */
    GuestRun m = start(options);
    sched_setaffinity(0, sizeof(all), &all);
    double worst_us, longest_ms = 0, stall_ms = 0;
    uint64_t steps = 0, then;
    g_free(guest_run_line(&m, "FF t="));
    ask_waits(&m, &worst_us);
    stop_and_finish(&m, stop_ms);
    /* The worker has continued, and has done a step after that one. */
    while (stall_ms < least_ms) {
        g_autofree char *line = guest_run_line(&m, "FF t=");
        stall_ms = real(line, "stall_ms");
        steps = guest_run_number(line, "checks");
    }
    do {
        g_autofree char *line = guest_run_line(&m, "FF t=");
        then = guest_run_number(line, "checks");
    } while (then == steps);
    guest_run_key(&m, "w");
    g_autofree char *line = guest_run_line(&m, "FF ");
    for (; !g_str_has_prefix(line, "FF waits n="); g_free(line), line = guest_run_line(&m, "FF ")) {
        if (g_str_has_prefix(line, "FF longest "))
            longest_ms = MAX(longest_ms, real(line, "us") / 1000);
    }
    g_assert_cmpfloat(longest_ms, >=, least_ms);
    g_assert_cmpfloat(longest_ms * 1000 + 1, >=, real(line, "worst_us"));
    guest_run_key(&m, "q");
    g_free(guest_run_line(&m, "FF verdict"));
    g_assert_cmpint(guest_run_end(&m), ==, 0);
}

static void test_options(void)
{
    static const struct {
        const char *option, *error;
    } rows[] = {
        {"ff.mode=zigzag", "FF error: ff.mode=zigzag is unknown"},
        {"ff.mib=many", "FF error: ff.mib=many is not a number"},
        {"ff.mib=1000000000", "FF error: ff.mib=1000000000 does not fit"},
    };
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        const char *options[] = {rows[i].option, NULL};
        GuestRun m = start(options);
        g_free(guest_run_line(&m, rows[i].error));
        g_assert_cmpint(guest_run_end(&m), ==, 2);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_data_func("/memwork/random", "random", test_mode);
    g_test_add_data_func("/memwork/seq", "seq", test_mode);
    g_test_add_data_func("/memwork/zipf", "zipf", test_mode);
    g_test_add_func("/memwork/damage", test_damage);
    g_test_add_func("/memwork/extra", test_extra);
    g_test_add_func("/memwork/report", test_report);
    g_test_add_func("/memwork/store", test_store);
    g_test_add_func("/memwork/waits", test_waits);
    g_test_add_func("/memwork/finish", test_finish);
    g_test_add_func("/memwork/options", test_options);
    return g_test_run();
}
