/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * farfault pager with clients of its own kind (client.h): they read, write, give back, move and
 * fork while pages come, alone and many at once, and while pagers are killed.
 *
 * Not for sanitizers: clients are forked and end in the middle.
 */
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tests/lib/hugepages.h"
#include "tests/pager/client.h"
#include "tests/pager/daemon.h"

#define SMALL_PAGES 2048
#define HUGE_PAGES 16

static ClientKind kind_now;

static const char *const kinds[] = {"anonymous", "shmem", "hugetlb"};

static bool fill(unsigned page, void *buf)
{
    uint64_t *words = buf;

    for (unsigned i = 0; i < client_page_size(kind_now) / 8; i++) {
        words[i] = client_word(page, i);
    }
    return !client_is_zero(page);
}

typedef struct {
    Daemon *d;
    HugePages *pool;
    ClientPlan plan;
} World;

/* FALSE: skipped. */
static bool world_begin(World *w, ClientKind kind, unsigned clients, const char *faults,
                        const char *more)
{
    unsigned pages = kind == CLIENT_HUGETLB ? HUGE_PAGES : SMALL_PAGES;

    *w = (World){0};
    kind_now = kind;
    if (kind == CLIENT_HUGETLB && !(w->pool = hugepages_new(clients * 2 * HUGE_PAGES))) {
        return false;
    }
#ifndef FF_FAULTS
    if (faults) {
        g_test_skip("needs -Dfaults=true");
        return false;
    }
#endif
    w->d = daemon_start(pages, client_page_size(kind), fill, faults, more);
    w->plan = (ClientPlan){.socket = w->d->socket,
                           .kind = kind,
                           .pages = pages,
                           .regions = 2,
                           .vcpus = 4,
                           .ops = kind == CLIENT_HUGETLB ? 100 : 2000,
                           .flags = CLIENT_READS_ALL,
                           .seed = 1};
    return true;
}

static void world_end(World *w)
{
    if (g_getenv("FF_KEEP")) {
        g_autofree char *said = daemon_said(w->d);
        g_test_message("%s", said);
    }
    daemon_stop(w->d);
    hugepages_free(w->pool);
}

static void run_one(gconstpointer kind, unsigned flags, const char *more)
{
    World w;

    if (world_begin(&w, GPOINTER_TO_UINT(kind), 1, NULL, more)) {
        w.plan.flags |= flags;
        assert_ended_well(client_start(&w.plan));
        world_end(&w);
    }
}

static void test_read(gconstpointer kind)
{
    run_one(kind, 0, "--no-bulk");
}

static void test_bulk(gconstpointer kind)
{
    run_one(kind, 0, NULL);
}

static void test_balloon(gconstpointer kind)
{
    run_one(kind, CLIENT_BALLOON, NULL);
}

static void test_moves(gconstpointer kind)
{
    run_one(kind, CLIENT_MOVES | CLIENT_BALLOON, NULL);
}

static void test_forks(gconstpointer kind)
{
    run_one(kind, CLIENT_FORKS | CLIENT_BALLOON, NULL);
}

static void test_all(gconstpointer kind)
{
    run_one(kind, CLIENT_FORKS | CLIENT_BALLOON | CLIENT_MOVES, NULL);
}

/* ---- many ------------------------------------------------------------------------------------ */

#define MANY 8

/* Of all kinds of changes, at once, from one file. */
static void test_many(void)
{
    World w;
    pid_t pid[MANY];

    if (!world_begin(&w, CLIENT_ANON, 1, NULL, NULL)) {
        return;
    }
    ClientPlan plan[MANY];
    for (unsigned i = 0; i < MANY; i++) {
        plan[i] = w.plan;
        plan[i].kind = i % 2 ? CLIENT_SHMEM : CLIENT_ANON;
        plan[i].flags |= i;
        plan[i].flags &= CLIENT_BALLOON | CLIENT_MOVES | CLIENT_FORKS | CLIENT_READS_ALL;
        plan[i].flags |= i % 3 == 0 ? CLIENT_OLD : i % 3 == 1 ? CLIENT_SPLIT : 0;
        plan[i].seed = i + 1;
        pid[i] = client_start(&plan[i]);
    }
    for (unsigned i = 0; i < MANY; i++) {
        assert_ended_well(pid[i]);
    }
    world_end(&w);
}

/* ---- pagers that die ------------------------------------------------------------------------- */

#define LATE 15u /* fault.h takes 16 */

/* At each of these moments, at the Nth time that it comes. */
static const char *const moments[] = {
    "event-seen",  "event-made",   "event-stored", "event-applied", "child-made",
    "client-made", "content-read", "placed",       "place-placed",  "place-again",
};

static void test_killed_at(gconstpointer data)
{
    const char *moment = data;
    static const unsigned times[] = {1, 3, 20};
    ClientKind kind = CLIENT_ANON;

    for (unsigned i = 0; i < G_N_ELEMENTS(times); i++) {
        g_autofree char *fault = g_strdup_printf("pager/none/at/%s#%u=kill", moment, times[i]);
        World w;
        if (!world_begin(&w, kind, 1, fault, NULL)) {
            return;
        }
        w.plan.kind = i % 2 ? CLIENT_SHMEM : kind;
        w.plan.flags |= CLIENT_BALLOON | CLIENT_MOVES | CLIENT_FORKS;
        w.plan.seed = i;
        assert_ended_well(client_start(&w.plan));
        bool once = !strcmp(moment, "client-made"); /* there is one client */
        g_assert_true(once && i ? true : daemon_fault_happened(w.d, 0));
        world_end(&w);
    }
}

/* The clients continue, whenever it is. FF_ROUNDS: more of it. */
static void test_killed_at_random(void)
{
    const char *env = g_getenv("FF_ROUNDS");
    unsigned rounds = env ? atoi(env) : 3;

    for (unsigned i = 0; i < rounds; i++) {
        World w;
        pid_t pid[3];
        ClientPlan plan[3];
        g_autoptr(GRand) rand = g_rand_new_with_seed(i);
        if (!world_begin(&w, CLIENT_ANON, 1, NULL, i % 4 == 3 ? "--no-bulk" : NULL)) {
            return;
        }
        for (unsigned k = 0; k < G_N_ELEMENTS(pid); k++) {
            plan[k] = w.plan;
            plan[k].kind = k % 2 ? CLIENT_SHMEM : CLIENT_ANON;
            plan[k].flags |= CLIENT_BALLOON | CLIENT_MOVES | CLIENT_FORKS;
            plan[k].seed = i * 10 + k;
            pid[k] = client_start(&plan[k]);
        }
        for (unsigned k = 0; k < 4; k++) {
            /* Not a wait for anything: the moment is what is random. */
            g_usleep(g_rand_int_range(rand, 0, 150000));
            pid_t pager = daemon_pager(w.d);
            if (pager > 0) {
                kill(pager, SIGKILL);
            }
        }
        for (unsigned k = 0; k < G_N_ELEMENTS(pid); k++) {
            assert_ended_well(pid[k]);
        }
        world_end(&w);
    }
}

/* The holder stands still between an event and the word that it is the pager's: a pager that looks
 * just then must not take it, as the holder would close the gate after it was opened. */
static void test_filed_late(void)
{
    g_autoptr(GString) faults = g_string_new(NULL);
    World w;

    for (unsigned i = 1; i <= LATE; i++) {
        g_string_append_printf(faults, "%sholder/none/at/holder-filed#%u=delay:40",
                               i > 1 ? ";" : "", i);
    }
    for (unsigned i = 0; i < 6; i++) {
        if (!world_begin(&w, CLIENT_ANON, 1, faults->str, NULL)) {
            return;
        }
        w.plan.flags |= CLIENT_BALLOON | CLIENT_MOVES | CLIENT_FORKS;
        w.plan.seed = i;
        assert_ended_well(client_start(&w.plan));
        g_assert_true(daemon_fault_happened(w.d, LATE - 1));
        world_end(&w);
    }
}

/* Placing fails with an error that is not expected: it is done later, and the thread that waits is
 * not forgotten. The first failure may be the fault thread's, the others are a worker's. */
static void test_place_fails(gconstpointer call)
{
    const char *name = call;
    g_autofree char *fault = g_strdup_printf("pager/none/call/%s#5=EIO;pager/none/call/%s#6=EIO;"
                                             "pager/none/call/%s#7=EIO",
                                             name, name, name);
    World w;

    if (!world_begin(&w, CLIENT_ANON, 1, fault, "--no-bulk")) {
        return;
    }
    w.plan.vcpus = 1;
    assert_ended_well(client_start(&w.plan));
    for (unsigned i = 0; i < 3; i++) {
        g_assert_true(daemon_fault_happened(w.d, i));
    }
    world_end(&w);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*test)(gconstpointer kind);
    } tests[] = {
        {"read", test_read},   {"bulk", test_bulk},   {"balloon", test_balloon},
        {"moves", test_moves}, {"forks", test_forks}, {"all", test_all},
    };

    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(tests); i++) {
        for (unsigned k = 0; k < CLIENT_KINDS; k++) {
            g_autofree char *path = g_strdup_printf("/server/%s/%s", tests[i].name, kinds[k]);
            g_test_add_data_func(path, GUINT_TO_POINTER(k), tests[i].test);
        }
    }
    g_test_add_func("/server/many", test_many);
    for (unsigned i = 0; i < G_N_ELEMENTS(moments); i++) {
        g_autofree char *path = g_strdup_printf("/server/killed-at/%s", moments[i]);
        g_test_add_data_func(path, moments[i], test_killed_at);
    }
    g_test_add_func("/server/killed-at-random", test_killed_at_random);
    g_test_add_func("/server/filed-late", test_filed_late);
    g_test_add_data_func("/server/place-fails/copy", "uffd-copy", test_place_fails);
    g_test_add_data_func("/server/place-fails/zero", "uffd-zero", test_place_fails);
    return g_test_run();
}
