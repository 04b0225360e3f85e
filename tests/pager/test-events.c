/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The chain of the kernel's own test of a userfaultfd's events (uffd-unit-tests.c, "events"), with
 * farfault pager in the place of its handler. A process touches the first half of its pages and
 * writes each again with what it holds, moves all of its memory, does the same with the second
 * half, and gives all back, after which each byte is 0. There is one request for each page, no less
 * and no more. So it is done by a child, and of private memory by its parent after it, which has
 * pages of its own.
 *
 * FF_OPERATIONS=N: continues until so many operations are done (reading a page, writing it, moving
 * all, giving a page back, reading it again); the default is a million.
 */
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <signal.h>
#include <unistd.h>

#include "tests/lib/hugepages.h"
#include "tests/pager/client.h"
#include "tests/pager/small.h"

#define PAGES 4096u
#define HUGE_PAGES 16u

typedef struct {
    ClientKind kind;
    unsigned pages, step; /* so many of a page's words are left out after each that is looked at */
    Daemon *d;
    Small c;
    uint64_t operations;
} World;

static uint64_t *word_of(const World *w, unsigned page)
{
    return w->c.page + page * (client_page_size(w->kind) / 8);
}

/* Both are right in each word, and are written as they are. */
static void touch(World *w, unsigned first, unsigned n)
{
    uint64_t words = client_page_size(w->kind) / 8;

    for (unsigned page = first; page < first + n; page++) {
        volatile uint64_t *at = word_of(w, page);
        for (uint64_t i = 0; i < words; i += w->step) {
            uint64_t expected = client_is_zero(page) ? 0 : client_word(page, (unsigned)i);
            g_assert_cmpuint(at[i], ==, expected);
            at[i] = expected;
        }
    }
    w->operations += 2ull * n;
}

static void move(World *w)
{
    size_t len = small_size(&w->c);
    char *room = mmap(NULL, len + HUGEPAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    g_assert_true(room != MAP_FAILED);
    room = (char *)(((uintptr_t)room + HUGEPAGE - 1) & ~(HUGEPAGE - 1));
    g_assert_true(mremap(w->c.page, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, room) == room);
    w->c.page = (uint64_t *)room;
    w->operations++;
}

static void give_back(World *w)
{
    int how = w->kind == CLIENT_SHMEM ? MADV_REMOVE : MADV_DONTNEED;

    g_assert_cmpint(madvise(w->c.page, small_size(&w->c), how), ==, 0);
    w->operations += w->pages;
}

static void check_zeros(World *w)
{
    uint64_t words = client_page_size(w->kind) / 8;

    for (unsigned page = 0; page < w->pages; page++) {
        volatile uint64_t *at = word_of(w, page);
        for (uint64_t i = 0; i < words; i += w->step) {
            g_assert_cmpuint(at[i], ==, 0);
        }
    }
    w->operations += w->pages;
}

/* Of the client, or of its child. */
static gint64 count_of(const World *w, bool child, const char *name)
{
    g_autoptr(JsonNode) report = daemon_report(w->d);
    JsonArray *all = json_node_get_array(report);

    for (guint i = 0; i < json_array_get_length(all); i++) {
        JsonObject *o = json_array_get_object_element(all, i);
        if (json_object_get_boolean_member(o, "child") == child) {
            return json_object_get_int_member(o, name);
        }
    }
    g_error("it has no such client");
}

static void chain(World *w, bool child)
{
    touch(w, 0, w->pages / 2);
    move(w);
    touch(w, w->pages / 2, w->pages / 2);
    g_assert_cmpint(count_of(w, child, "faults"), ==, w->pages);
    g_assert_cmpint(count_of(w, child, "demand-pages"), ==, w->pages);
    g_assert_cmpint(count_of(w, child, "missing"), ==, 0);
    g_assert_cmpint(count_of(w, child, "given-back-pages"), ==, 0);
    give_back(w);
    check_zeros(w);
    g_assert_cmpint(count_of(w, child, "given-back-pages"), ==, w->pages);
    g_assert_cmpint(count_of(w, child, "unmapped-pages"), ==, 0);
}

/* RUN by a process of its own, which says in the end how many operations it has done. */
static void in_child(World *w, void (*run)(World *w))
{
    int said[2];
    uint64_t done;

    g_assert_cmpint(pipe2(said, O_CLOEXEC), ==, 0);
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        w->operations = 0;
        run(w);
        g_assert_cmpint(write(said[1], &w->operations, sizeof(done)), ==, sizeof(done));
        _exit(0);
    }
    close(said[1]);
    g_assert_cmpint(read(said[0], &done, sizeof(done)), ==, sizeof(done));
    close(said[0]);
    assert_ended_well(pid);
    w->operations += done;
}

static void child_chain(World *w)
{
    chain(w, true);
}

static void one_client(World *w)
{
    w->c = (Small){.pages = w->pages,
                   .kind = w->kind,
                   .features = UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_UNMAP |
                               (w->kind == CLIENT_HUGETLB ? 0 : UFFD_FEATURE_EVENT_FORK)};
    small_start(&w->c, w->d);
    if (w->kind != CLIENT_HUGETLB) { /* a child's pages would be more of the pool */
        in_child(w, child_chain);
    }
    if (w->kind == CLIENT_SHMEM) { /* which it shares */
        check_zeros(w);
    } else {
        chain(w, false);
    }
}

static bool fill_huge(unsigned page, void *buf)
{
    for (unsigned i = 0; i < HUGEPAGE / 8; i++) {
        ((uint64_t *)buf)[i] = client_word(page, i);
    }
    return !client_is_zero(page);
}

static void wait_none(const World *w)
{
    g_autoptr(JsonNode) report = NULL;

    do {
        g_clear_pointer(&report, json_node_unref);
        report = daemon_report(w->d);
    } while (json_array_get_length(json_node_get_array(report))); /* there is no event of it */
}

static void test_chain(const void *data)
{
    bool huge = *(const ClientKind *)data == CLIENT_HUGETLB;
    const char *wanted = g_getenv("FF_OPERATIONS");
    uint64_t least = wanted ? g_ascii_strtoull(wanted, NULL, 10) : 1000000;
    World w = {.kind = *(const ClientKind *)data,
               .pages = huge ? HUGE_PAGES : PAGES,
               .step = huge ? 61 : 1};
    HugePages *pool = huge ? hugepages_new(2 * HUGE_PAGES) : NULL;

    if (huge && !pool) {
        return;
    }
    w.d = daemon_start(w.pages, client_page_size(w.kind), huge ? fill_huge : small_fill, NULL,
                       "--no-bulk");
    while (w.operations < (huge ? least / 1000 : least / 2)) {
        in_child(&w, one_client);
        wait_none(&w);
    }
    g_test_message("%" G_GUINT64_FORMAT " operations", (guint64)w.operations);
    daemon_stop(w.d);
    hugepages_free(pool);
}

/* What it has of a region when it is looked at begins behind the region's first page: it is found
 * all the same, and a child is served. */
static void test_first_page_gone(const void *data)
{
    World w = {.kind = *(const ClientKind *)data, .pages = 8, .step = 1};

    w.d = daemon_start(w.pages, 4096, small_fill, NULL, "--no-bulk");
    w.c = (Small){.pages = w.pages, .kind = w.kind, .features = UFFD_FEATURE_EVENT_FORK};
    g_autoptr(JsonNode) report = daemon_report(w.d); /* it has begun */
    pid_t pager = daemon_pager(w.d);
    g_assert_cmpint(pager, >, 0);
    g_assert_cmpint(kill(pager, SIGSTOP), ==, 0);
    small_start(&w.c, w.d);
    g_assert_cmpint(munmap(w.c.page, 4096), ==, 0);
    g_assert_cmpint(kill(pager, SIGCONT), ==, 0);
    pid_t pid = fork();
    if (pid == 0) {
        touch(&w, 1, w.pages - 1);
        _exit(0);
    }
    assert_ended_well(pid);
    touch(&w, 1, w.pages - 1);
    small_end(&w.c); /* else the next fork() here would wait for who reads its userfaultfd */
    daemon_stop(w.d);
}

/* A page was given back, and there is no memory for its zeros: who touches it waits until there is
 * some. */
static void test_no_memory(void)
{
#ifdef FF_FAULTS
    World w = {.kind = CLIENT_ANON, .pages = 1, .step = 1};

    w.d = daemon_start(w.pages, 4096, small_fill,
                       "pager/none/call/uffd-zero#1=ENOMEM;pager/none/call/uffd-zero#1=ENOMEM",
                       "--no-bulk");
    w.c = (Small){.pages = w.pages, .kind = w.kind};
    small_start(&w.c, w.d);
    touch(&w, 0, w.pages);
    give_back(&w);
    check_zeros(&w);
    daemon_wait_said(w.d, "somebody waits, and cannot be helped");
    g_assert_true(daemon_fault_happened(w.d, 0) && daemon_fault_happened(w.d, 1));
    small_end(&w.c);
    daemon_stop(w.d);
#else
    g_test_skip("needs -Dfaults=true");
#endif
}

int main(int argc, char **argv)
{
    static const ClientKind kinds[] = {CLIENT_ANON, CLIENT_SHMEM, CLIENT_HUGETLB};
    static const char *const names[] = {"anonymous", "shmem", "hugetlb"};

    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(kinds); i++) {
        g_autofree char *path = g_strconcat("/events/chain/", names[i], NULL);
        g_test_add_data_func(path, &kinds[i], test_chain);
        if (kinds[i] != CLIENT_HUGETLB) {
            g_autofree char *gone = g_strconcat("/events/first-page-gone/", names[i], NULL);
            g_test_add_data_func(gone, &kinds[i], test_first_page_gone);
        }
    }
    g_test_add_func("/events/no-memory", test_no_memory);
    return g_test_run();
}
