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

#include "tests/lib/stream.h"
#include "tests/lib/vm.h"

typedef struct {
    Stream *console;
    pid_t pid;
} Memwork;

static Memwork start(const char *const *options)
{
    int ends[2];
    g_autofree char *path = vm_build_path("tests/guest/memwork");
    g_autoptr(GPtrArray) argv = g_ptr_array_new();
    g_autoptr(GError) error = NULL;
    Memwork m;
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), ==, 0);
    g_ptr_array_add(argv, path);
    for (unsigned i = 0; options[i]; i++)
        g_ptr_array_add(argv, (char *)options[i]);
    g_ptr_array_add(argv, NULL);
    g_spawn_async_with_pipes_and_fds(NULL, (const char *const *)argv->pdata, NULL,
                                     G_SPAWN_DO_NOT_REAP_CHILD, NULL, NULL, ends[1], ends[1], -1,
                                     NULL, NULL, 0, &m.pid, NULL, NULL, NULL, &error);
    g_assert_no_error(error);
    close(ends[1]);
    m.console = stream_new(ends[0], "memwork");
    return m;
}

/* The next line that begins with PREFIX. */
static char *line_with(Memwork *m, const char *prefix)
{
    for (;;) {
        char *line = stream_read_line(m->console, prefix, test_deadline(TEST_TIMEOUT));
        if (!line)
            test_fail("memwork ended before \"%s\"", prefix);
        if (g_str_has_prefix(line, prefix))
            return line;
        g_free(line);
    }
}

static void key(Memwork *m, const char *k)
{
    stream_send(m->console, k, 1, NULL, 0);
}

static int end(Memwork *m)
{
    int status;
    g_assert_cmpint(waitpid(m->pid, &status, 0), ==, m->pid);
    stream_free(m->console);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static uint64_t number(const char *line, const char *name)
{
    g_autofree char *key_text = g_strconcat(" ", name, "=", NULL);
    const char *at = strstr(line, key_text);
    if (!at)
        test_fail("no %s in \"%s\"", name, line);
    return g_ascii_strtoull(at + strlen(key_text), NULL, 10);
}

static void test_mode(gconstpointer mode)
{
    g_autofree char *option = g_strconcat("ff.mode=", mode, NULL);
    /* 3 workers: the pages do not divide evenly. */
    const char *options[] = {"ff.mib=4", "ff.hot=1", "ff.threads=3", option, NULL};
    Memwork m = start(options);
    g_autofree char *ready = line_with(&m, "FF ready");
    g_assert_cmpuint(number(ready, "pages"), ==, 1024);
    g_autofree char *first = line_with(&m, "FF t=");
    g_autofree char *second = line_with(&m, "FF t=");
    g_assert_cmpuint(number(second, "writes"), >, number(first, "writes"));
    g_assert_cmpuint(number(second, "checks"), >, number(first, "checks"));
    g_assert_cmpuint(number(second, "bad"), ==, 0);
    key(&m, "v");
    g_autofree char *verdict = line_with(&m, "FF verdict");
    g_assert_true(g_str_has_prefix(verdict, "FF verdict ok pages=1024 "));
    /* It continues after a verdict. */
    g_free(line_with(&m, "FF t="));
    key(&m, "q");
    g_free(line_with(&m, "FF verdict ok"));
    g_assert_cmpint(end(&m), ==, 0);
}

static void test_damage(void)
{
    const char *options[] = {"ff.mib=4", "ff.hot=1", "ff.threads=2", NULL};
    Memwork m = start(options);
    g_free(line_with(&m, "FF ready"));
    key(&m, "x");
    g_autofree char *bad = line_with(&m, "FF bad");
    g_assert_cmpuint(number(bad, "page"), ==, 512);
    g_assert_cmpuint(number(bad, "first_wrong_word"), ==, 256);
    key(&m, "q");
    g_autofree char *verdict = line_with(&m, "FF verdict");
    g_assert_true(g_str_has_prefix(verdict, "FF verdict bad "));
    g_assert_cmpuint(number(verdict, "bad"), ==, 1);
    g_assert_cmpint(end(&m), ==, 1);
}

/* Memory that is taken is part of the verdict until it is given back. */
static void test_extra(void)
{
    const char *options[] = {"ff.mib=4", "ff.threads=1", "ff.extra=2", NULL};
    Memwork m = start(options);
    for (unsigned i = 0; i < 2; i++) {
        key(&m, "m");
        g_free(line_with(&m, "FF extra taken mib=2"));
        key(&m, "v");
        g_free(line_with(&m, "FF verdict ok"));
        if (i)
            key(&m, "x");
        key(&m, "m");
        g_free(line_with(&m, "FF extra given back mib=2"));
    }
    key(&m, "q");
    g_free(line_with(&m, "FF verdict bad"));
    g_assert_cmpint(end(&m), ==, 1);
}

static void test_report(void)
{
    const char *options[] = {"ff.mib=4", "ff.threads=2", "ff.report=10", NULL};
    Memwork m = start(options);

    /* t is the guest's own time: with lines of every second it would be 1 or more. */
    g_autofree char *first = line_with(&m, "FF t=");
    g_assert_true(g_str_has_prefix(first, "FF t=0."));
    /* Chosen again, and no page is wrong. */
    for (const char *k = "0190"; *k; k++) {
        const char one[] = {*k, 0};
        key(&m, one);
        g_free(line_with(&m, "FF t="));
    }
    key(&m, "q");
    g_free(line_with(&m, "FF verdict ok"));
    g_assert_cmpint(end(&m), ==, 0);
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
        Memwork m = start(options);
        g_autofree char *first = line_with(&m, "FF t=");
        uint64_t n = touches(first), writes = number(first, "writes");
        /* The line is made while the worker is within a step. */
        if (store)
            g_assert_cmpuint(ABS((int64_t)(n - writes)), <, writes / 10);
        else
            g_assert_cmpuint(n, >, 3 * writes);
        key(&m, "q");
        g_free(line_with(&m, "FF verdict ok"));
        g_assert_cmpint(end(&m), ==, 0);
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
static uint64_t ask_waits(Memwork *m, double *worst_us)
{
    uint64_t sum = 0;
    key(m, "w");
    for (;;) {
        g_autofree char *line = line_with(m, "FF waits ");
        if (g_str_has_prefix(line, "FF waits n=")) {
            *worst_us = g_ascii_strtod(strstr(line, " worst_us=") + strlen(" worst_us="), NULL);
            g_assert_cmpuint(sum, ==, number(line, "n"));
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
    Memwork m = start(options);
    double worst_us, most_us = 0;
    uint64_t sum = 0, before;
    g_free(line_with(&m, "FF t="));
    do {
        g_autofree char *first = line_with(&m, "FF t=");
        before = long_touches(first);
        sum += ask_waits(&m, &worst_us);
        most_us = MAX(most_us, worst_us);
        g_autofree char *second = line_with(&m, "FF t=");
        g_assert_cmpuint(sum + n_threads, >=, before);
        g_assert_cmpuint(sum, <=, long_touches(second));
    } while (before <= n_threads);
    /* A step is longer than its touch. */
    g_autofree char *last = line_with(&m, "FF t=");
    g_assert_cmpfloat(most_us / 1000, <=,
                      g_ascii_strtod(strstr(last, " max_ms=") + strlen(" max_ms="), NULL) + 0.01);
    g_assert_cmpfloat(most_us, >=, 32);
    /* Those after 'f' are not among them: there are some, and they are not said. */
    key(&m, "f");
    g_free(line_with(&m, "FF t="));
    g_autofree char *then = line_with(&m, "FF t=");
    for (bool more = false; !more;) {
        g_autofree char *line = line_with(&m, "FF t=");
        more = long_touches(line) > long_touches(then);
    }
    sum += ask_waits(&m, &worst_us);
    g_assert_cmpuint(sum, <=, long_touches(then));
    key(&m, "q");
    g_free(line_with(&m, "FF verdict"));
    g_assert_cmpint(end(&m), ==, 0);
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
static void stop_and_finish(Memwork *m, double ms)
{
    gint64 begin = g_get_monotonic_time();
    g_assert_cmpint(kill(m->pid, SIGSTOP), ==, 0);
    g_assert_cmpint(waitpid(m->pid, NULL, WUNTRACED), ==, m->pid);
    key(m, "f");
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
    Memwork m = start(options);
    sched_setaffinity(0, sizeof(all), &all);
    double worst_us, longest_ms = 0, stall_ms = 0;
    uint64_t steps = 0, then;
    g_free(line_with(&m, "FF t="));
    ask_waits(&m, &worst_us);
    stop_and_finish(&m, stop_ms);
    /* The worker has continued, and has done a step after that one. */
    while (stall_ms < least_ms) {
        g_autofree char *line = line_with(&m, "FF t=");
        stall_ms = real(line, "stall_ms");
        steps = number(line, "checks");
    }
    do {
        g_autofree char *line = line_with(&m, "FF t=");
        then = number(line, "checks");
    } while (then == steps);
    key(&m, "w");
    g_autofree char *line = line_with(&m, "FF ");
    for (; !g_str_has_prefix(line, "FF waits n="); g_free(line), line = line_with(&m, "FF ")) {
        if (g_str_has_prefix(line, "FF longest "))
            longest_ms = MAX(longest_ms, real(line, "us") / 1000);
    }
    g_assert_cmpfloat(longest_ms, >=, least_ms);
    g_assert_cmpfloat(longest_ms * 1000 + 1, >=, real(line, "worst_us"));
    key(&m, "q");
    g_free(line_with(&m, "FF verdict"));
    g_assert_cmpint(end(&m), ==, 0);
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
        Memwork m = start(options);
        g_free(line_with(&m, rows[i].error));
        g_assert_cmpint(end(&m), ==, 2);
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
