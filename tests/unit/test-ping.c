/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How long the relay waits for an engine that does not answer: guest/relay/ping.c alone, with a
 * link of the test's. Its timer is let off here, and what it was set to is added up.
 */
#include "guest/relay/engine-internal.h"
#include "tests/lib/documented.h"

#include <pthread.h>
#include <signal.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define S ((gint64)G_USEC_PER_SEC)

static FfEngine engine = {.pidfd = -1};
static FfRelay relay = {.engine = &engine};
static bool answers;     /* the engine does */
static uint32_t late;    /* it answers the PING so many before the last one */
static unsigned n_pings; /* that were sent */
static gint64 look_us;   /* of the context's clock: when the last look began */
static char *hung_why;

void ff_link_read_now(FfLink *link)
{
    look_us = g_source_get_time(g_main_current_source());
}

int ff_link_send(FfLink *link, FfLinkType type, unsigned mon, uint32_t seq, const void *payload,
                 size_t len, const int *fds, unsigned n_fds)
{
    g_assert_cmpint(type, ==, FF_LINK_PING);
    n_pings++;
    if (answers) {
        ff_ping_answered(&relay, seq - late);
    }
    return 0;
}

void ff_relay_log(FfRelay *r, const char *format, ...)
{
    g_assert_not_reached();
}

static void hung(FfRelay *r, const char *why)
{
    hung_why = g_strdup(why);
}

static void begin(void)
{
    g_clear_pointer(&hung_why, g_free);
    n_pings = 0;
    gint64 before = g_get_monotonic_time();
    ff_ping_start(&relay, hung);
    gint64 first = g_source_get_ready_time(engine.ping.timer);
    g_assert_cmpint(first, >=, before + 5 * S);
    g_assert_cmpint(first, <=, g_get_monotonic_time() + 5 * S);
}

/* One look. Returns how long it is to the next one, us. */
static gint64 look(void)
{
    g_source_set_ready_time(engine.ping.timer, 0);
    g_assert_true(g_main_context_iteration(NULL, FALSE));
    return g_source_get_ready_time(engine.ping.timer) - look_us;
}

/* As docs/architecture.md says. */
static void check_given_up(void)
{
    gint64 waited = look();

    g_assert_cmpuint(n_pings, ==, 1);
    for (gint64 next; next = look(), !hung_why; waited += next) {
        g_assert_cmpint(waited, <, 30 * S);
    }
    g_assert_cmpint(waited, ==, 30 * S);
    g_assert_cmpuint(n_pings, ==, 1);
    g_assert_cmpstr(hung_why, ==, "it has not answered for 30 s, and is killed");
}

static void test_silent(void)
{
    documented_check("An engine that answers no PING for 30 s is killed");
    answers = false;
    begin();
    check_given_up();
    ff_ping_end(&relay);
}

/* The next PING is sent at the look after the answer. */
static void test_answers(void)
{
    answers = true;
    late = 0;
    begin();
    for (unsigned i = 0; i < 20; i++) {
        g_assert_cmpint(look(), ==, 5 * S);
        g_assert_cmpuint(n_pings, ==, i + 1);
    }
    g_assert_null(hung_why);
    answers = false;
    n_pings = 0;
    check_given_up();
    ff_ping_end(&relay);
}

/* An answer to what was asked of the engine before. */
static void test_late(void)
{
    answers = true;
    late = 1;
    begin();
    check_given_up();
    ff_ping_end(&relay);
}

static void *stay(void *told)
{
    while (write(GPOINTER_TO_INT(told), "", 1) != 1) {
    }
    pause();
    return NULL;
}

/* A process whose first thread has ended, and another one has not. */
static pid_t half_ended(void)
{
    int told[2];
    char byte;

    g_assert_cmpint(pipe(told), ==, 0);
    pid_t pid = fork();
    if (pid == 0) {
        pthread_t thread;

        prctl(PR_SET_PDEATHSIG, SIGKILL);
        pthread_create(&thread, NULL, stay, GINT_TO_POINTER(told[1]));
        pthread_exit(NULL);
    }
    g_assert_cmpint(read(told[0], &byte, 1), ==, 1);
    close(told[0]);
    close(told[1]);
    g_autofree char *path = g_strdup_printf("/proc/%d/stat", pid), *text = NULL;
    do { /* its first thread is on its way */
        g_free(text);
        g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    } while (!strstr(text, ") Z "));
    return pid;
}

/* It was killed, and the kernel has one of its threads: nobody waits for 30 s. */
static void test_killed(void)
{
    pid_t pid = half_ended();

    engine.pidfd = pidfd_open(pid, 0);
    answers = true;
    late = 0;
    begin();
    g_assert_cmpint(look(), ==, 5 * S);
    g_assert_null(hung_why); /* it answers: what else is there need not be looked at */
    answers = false;
    look();
    g_assert_null(hung_why);
    look();
    g_assert_cmpstr(hung_why, ==, "it was killed, and does not end: does a disk not answer?");
    ff_ping_end(&relay);
    close(engine.pidfd);
    engine.pidfd = -1;
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

int main(int argc, char **argv)
{
    g_unsetenv("FARFAULT_DEADLINES");
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/ping/silent", test_silent);
    g_test_add_func("/ping/answers", test_answers);
    g_test_add_func("/ping/late", test_late);
    g_test_add_func("/ping/killed", test_killed);
    return g_test_run();
}
