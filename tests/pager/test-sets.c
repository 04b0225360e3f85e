/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Working sets of farfault pager: found out by one client, read first by the next one, and of no
 * consequence if they are damaged or of another file. And a limit of what nobody waits for.
 *
 * Clients are of this process. Not for sanitizers, as the others here.
 */
#include <fcntl.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "content/image/working-set.h"
#include "tests/pager/client.h"
#include "tests/pager/daemon.h"
#include "tests/pager/small.h"

#define PAGES 512u
#define DATA (PAGES * 4096ul)

/* In this order; 10 is zeros, and has no place in the file. */
static const unsigned touched[] = {300, 5, 10, 401, 6, 4};
static const unsigned learnt[] = {300, 5, 401, 6, 4};

static void check_page(const Small *c, unsigned page)
{
    const volatile uint64_t *words = c->page + 512ul * page;

    for (unsigned i = 0; i < 512; i++) {
        g_assert_cmpuint(words[i], ==, client_is_zero(page) ? 0 : client_word(page, i));
    }
}

static void check_all(const Small *c)
{
    for (unsigned i = 0; i < PAGES; i++) {
        check_page(c, i);
    }
}

static char *set_of(const Daemon *d)
{
    return g_strconcat(d->file, ".ws", NULL);
}

static gint64 count_of(const Daemon *d, const char *name)
{
    g_autoptr(JsonNode) report = daemon_report(d);
    JsonArray *all = json_node_get_array(report);

    return json_array_get_length(all)
               ? json_object_get_int_member(json_array_get_object_element(all, 0), name)
               : -1;
}

static void wait_count(const Daemon *d, const char *name, gint64 n)
{
    while (count_of(d, name) != n) {
    } /* there is no event of it */
}

/* A client that needs TOUCHED, and ends when it may. */
static void run_learner(const Daemon *d, int go)
{
    Small c = {.pages = PAGES};
    char byte;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    small_start(&c, d);
    for (unsigned i = 0; i < G_N_ELEMENTS(touched); i++) {
        check_page(&c, touched[i]);
    }
    _exit(read(go, &byte, 1) == 1 ? 0 : 1);
}

static void learn(const Daemon *d)
{
    int go[2];

    g_assert_cmpint(pipe(go), ==, 0);
    pid_t pid = fork();
    if (pid == 0) {
        close(go[1]);
        run_learner(d, go[0]);
    }
    close(go[0]);
    wait_count(d, "faults", G_N_ELEMENTS(touched));
    g_assert_cmpint(write(go[1], "g", 1), ==, 1);
    close(go[1]);
    assert_ended_well(pid);
    daemon_wait_said(d, "working set written");
    wait_count(d, "faults", -1);
}

/* In the order of faults, each page with data once. */
static void test_learnt(void)
{
    Daemon *d = daemon_start(PAGES, 4096, small_fill, NULL, "--learn");
    g_autofree char *path = set_of(d), *text = NULL;
    const FfWorkingSetHead *head;
    gsize len;

    learn(d);
    g_assert_true(g_file_get_contents(path, &text, &len, NULL));
    head = (const void *)text;
    g_assert_cmpuint(head->n, ==, G_N_ELEMENTS(learnt));
    const FfWorkingSetZeros *zeros = (const void *)(text + 4096 * (1 + head->n));
    g_assert_cmpuint(len, ==, 4096 * (1 + head->n) + sizeof(*zeros) + sizeof(FfWorkingSetRun));
    g_assert_cmpuint(zeros->n, ==, 1);
    const FfWorkingSetRun *run = (const void *)(zeros + 1);
    g_assert_cmpuint(run->first, ==, 10);
    g_assert_cmpuint(run->n, ==, 1);
    const uint64_t *places = (const void *)(text + sizeof(*head));
    for (unsigned i = 0; i < G_N_ELEMENTS(learnt); i++) {
        g_assert_cmpuint(places[i], ==, learnt[i] * 4096ul);
    }
    daemon_stop(d);
}

/* The next client gets it first; where it is there no client finds it out. */
static void test_used(void)
{
    Daemon *d = daemon_start(PAGES, 4096, small_fill, NULL, "--learn");
    Small c = {.pages = PAGES};

    learn(d);
    small_start(&c, d);
    daemon_wait_said(d, "working set: 6 of 6 pages");
    g_assert_cmpint(count_of(d, "working-set-pages"), ==, 6);
    g_assert_cmpint(count_of(d, "working-set-used"), ==, 6);
    wait_count(d, "missing", 0);
    g_assert_cmpint(count_of(d, "faults"), ==, 0);
    check_all(&c);
    small_end(&c);
    daemon_stop(d);
}

/* What is in the set comes from there, and before the rest: the file itself is not read for it. */
static void test_first(void)
{
#ifndef FF_FAULTS
    g_test_skip("needs -Dfaults=true");
    return;
#endif
    Daemon *d = daemon_start(PAGES, 4096, small_fill, NULL, "--learn");
    g_autofree char *path = set_of(d), *file = g_strdup(d->file);
    Small c = {.pages = PAGES};

    learn(d);
    /* The first read of the file fails. */
    daemon_next(&(DaemonKind){.said_to = -1, .file = file});
    Daemon *other = daemon_start(PAGES, 4096, NULL, "pager/none/call/source-read=EIO", NULL);
    small_start(&c, other);
    daemon_wait_said(other, "tried again");
    g_autofree char *said = daemon_said(other);
    const char *set = strstr(said, "working set: 6 of 6 pages"), *failed = strstr(said, "tried");
    g_assert_true(set && set < failed);
    g_assert_cmpint(count_of(other, "working-set-used"), ==, 6);
    check_all(&c);
    small_end(&c);
    daemon_stop(other);
    daemon_stop(d);
}

/* Without bulk too; and nothing else comes before it is asked for. */
static void test_no_bulk(void)
{
    Daemon *d = daemon_start(PAGES, 4096, small_fill, NULL, "--learn");
    g_autofree char *file = g_strdup(d->file);
    Small c = {.pages = PAGES};

    learn(d);
    daemon_next(&(DaemonKind){.said_to = -1, .file = file});
    Daemon *other = daemon_start(PAGES, 4096, NULL, NULL, "--no-bulk");
    small_start(&c, other);
    daemon_wait_said(other, "working set: 6 of 6 pages");
    g_assert_cmpint(count_of(other, "working-set-used"), ==, 6);
    g_assert_cmpint(count_of(other, "zero-pages"), ==, 1);
    g_assert_cmpint(count_of(other, "missing"), ==, (PAGES - 6) * 4096);
    for (unsigned i = 0; i < G_N_ELEMENTS(touched); i++) {
        check_page(&c, touched[i]);
    }
    g_assert_cmpint(count_of(other, "faults"), ==, 0);
    check_all(&c);
    g_assert_cmpint(count_of(other, "faults"), ==, PAGES - 6);
    small_end(&c);
    daemon_stop(other);
    daemon_stop(d);
}

static void test_killed(void)
{
#ifdef FF_FAULTS
    Daemon *d = daemon_start(PAGES, 4096, small_fill, "pager/none/at/set-read=kill", "--learn");
    Small c = {.pages = PAGES};

    learn(d);
    small_start(&c, d);
    daemon_wait_said(d, "working set: 6 of 6 pages"); /* of the next pager */
    g_assert_true(daemon_fault_happened(d, 0));
    check_all(&c);
    small_end(&c);
    daemon_stop(d);
#else
    g_test_skip("needs -Dfaults=true");
#endif
}

/* ---- a limit --------------------------------------------------------------------------------- */

/* What nobody waits for takes its time; that of the last piece is not waited for. */
static void test_limit(void)
{
    Daemon *d = daemon_start(PAGES, 4096, small_fill, NULL, "--max-bandwidth=4M");
    Small c = {.pages = PAGES};
    gint64 since = g_get_monotonic_time();

    small_start(&c, d);
    wait_count(d, "missing", 0);
    gint64 took = g_get_monotonic_time() - since;
    g_assert_cmpint(count_of(d, "faults"), ==, 0);
    g_assert_cmpint(took, >, ((gint64)DATA / 7 * 6 - (512 << 10)) * G_USEC_PER_SEC / (4 << 20));
    check_all(&c);
    small_end(&c);
    daemon_stop(d);
}

/* What somebody waits for comes at once; the rest would take an hour. */
static void test_demand_is_not_limited(void)
{
    Daemon *d = daemon_start(PAGES, 4096, small_fill, NULL, "--max-bandwidth=512");
    Small c = {.pages = PAGES};

    small_start(&c, d);
    check_all(&c);
    wait_count(d, "missing", 0);
    small_end(&c);
    daemon_stop(d);
}

/* What nobody waits for comes up to the limit, and a piece more; what somebody waits for after it.
 */
static void test_memory_is_limited(void)
{
    Daemon *d = daemon_start(PAGES, 4096, small_fill, NULL, "--max-memory=256K");
    Small c = {.pages = PAGES};

    small_start(&c, d);
    daemon_wait_said(d, "it has been given 262144 bytes");
    gint64 given = count_of(d, "data-bytes"), missing = count_of(d, "missing");
    g_assert_cmpint(given, >=, 256 << 10);
    g_assert_cmpint(given, <, 512 << 10);
    g_assert_cmpint(missing, >=, 1 << 20);
    g_assert_cmpint(count_of(d, "demand-pages"), ==, 0);
    check_all(&c);
    wait_count(d, "missing", 0);
    g_assert_cmpint(count_of(d, "data-bytes"), >, given);
    small_end(&c);
    daemon_stop(d);
}

/* ---- not used -------------------------------------------------------------------------------- */

static void spoil(const char *path, off_t at)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    char byte;

    g_assert_cmpint(pread(fd, &byte, 1, at), ==, 1);
    byte ^= 1;
    g_assert_cmpint(pwrite(fd, &byte, 1, at), ==, 1);
    close(fd);
}

static void spoil_page(const Daemon *d, const char *set)
{
    spoil(set, 4096 * 3);
}

static void spoil_place(const Daemon *d, const char *set)
{
    spoil(set, sizeof(FfWorkingSetHead) + 1);
}

static void open_to_all(const Daemon *d, const char *set)
{
    g_assert_cmpint(g_chmod(set, 0666), ==, 0);
}

/* Another image in its place, of the same size, and with the time of the first one. */
static void replace_file(const Daemon *d, const char *set)
{
    g_autofree char *copy = g_strconcat(d->file, ".copy", NULL), *text = NULL;
    struct stat st;
    gsize len;

    g_assert_true(g_file_get_contents(d->file, &text, &len, NULL));
    g_assert_true(g_file_set_contents(copy, text, (gssize)len, NULL));
    g_assert_cmpint(stat(d->file, &st), ==, 0);
    g_assert_cmpint(utimensat(AT_FDCWD, copy, (struct timespec[]){st.st_atim, st.st_mtim}, 0), ==,
                    0);
    g_assert_cmpint(g_rename(copy, d->file), ==, 0);
}

static const struct {
    const char *name;
    void (*spoil)(const Daemon *d, const char *set);
    const char *said;
} wrong[] = {
    {"page", spoil_page, "the working set is not used any more: its pages: damaged"},
    {"place", spoil_place, "damaged"},
    {"rights", open_to_all, "could be written by others"},
    {"file", replace_file, "it is of another file"},
};

static void test_not_used(gconstpointer which)
{
    unsigned i = GPOINTER_TO_UINT(which);
    Daemon *d = daemon_start(PAGES, 4096, small_fill, NULL, "--learn");
    g_autofree char *path = set_of(d), *file = g_strdup(d->file);
    Small c = {.pages = PAGES};

    learn(d);
    wrong[i].spoil(d, path);
    daemon_next(&(DaemonKind){.said_to = -1, .file = file});
    Daemon *other = daemon_start(PAGES, 4096, NULL, NULL, NULL);
    small_start(&c, other);
    daemon_wait_said(other, wrong[i].said);
    check_all(&c);
    g_assert_cmpint(count_of(other, "working-set-used"), ==, 0);
    small_end(&c);
    daemon_stop(other);
    daemon_stop(d);
}

/* The file is written to under a pager, and another one finds out a set of that: it is right for
 * the file as it is, but not for clients of the first one. */
static void test_other_than_source(void)
{
    Daemon *d = daemon_start(PAGES, 4096, small_fill, NULL, NULL);
    g_autofree char *file = g_strdup(d->file);
    Small first = {.pages = PAGES}, c = {.pages = PAGES};
    struct stat st;

    /* The daemon listens before its pager has opened the file. */
    small_start(&first, d);
    check_all(&first);
    small_end(&first);
    g_assert_cmpint(stat(file, &st), ==, 0);
    g_assert_cmpint(utimensat(AT_FDCWD, file, (struct timespec[]){st.st_atim, {1, 0}}, 0), ==, 0);
    daemon_next(&(DaemonKind){.said_to = -1, .file = file});
    Daemon *other = daemon_start(PAGES, 4096, NULL, NULL, "--learn");
    learn(other);
    daemon_stop(other);
    small_start(&c, d);
    daemon_wait_said(d, "its file was changed while it was in use");
    g_assert_cmpint(utimensat(AT_FDCWD, file, (struct timespec[]){st.st_atim, st.st_mtim}, 0), ==,
                    0);
    check_all(&c);
    g_assert_cmpint(count_of(d, "working-set-used"), ==, 0);
    small_end(&c);
    daemon_stop(d);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/sets/learnt", test_learnt);
    g_test_add_func("/sets/used", test_used);
    g_test_add_func("/sets/first", test_first);
    g_test_add_func("/sets/no-bulk", test_no_bulk);
    g_test_add_func("/sets/killed", test_killed);
    g_test_add_func("/sets/limit", test_limit);
    g_test_add_func("/sets/demand-is-not-limited", test_demand_is_not_limited);
    g_test_add_func("/sets/memory-is-limited", test_memory_is_limited);
    for (unsigned i = 0; i < G_N_ELEMENTS(wrong); i++) {
        g_autofree char *path = g_strdup_printf("/sets/not-used/%s", wrong[i].name);
        g_test_add_data_func(path, GUINT_TO_POINTER(i), test_not_used);
    }
    g_test_add_func("/sets/not-used/other-than-source", test_other_than_source);
    return g_test_run();
}
