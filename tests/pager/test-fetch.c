/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The fetcher of CRIU's pages and its store by themselves: what an answer must be, what is wanted,
 * and a peer whose answers are wrong in any way: what it puts into the store is right, or is not
 * there.
 */
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "pager/holder/wire.h"
#include "pager/remote/fetch.h"
#include "pager/remote/page-server.h"

#define PID 77
#define FIRST 0x7000000000ull
#define SECOND 0x7100000000ull
#define PAGES 200u /* the first 150 at FIRST */
#define SPLIT 150u
#define SEEDS 3000u

/* ---- an answer ------------------------------------------------------------------------------- */

static const struct {
    FfPageServerFrame answer;
    bool right;
} answers[] = {
    {{FF_PAGE_SERVER_ADD, 0, 8, FIRST, PID}, true},
    {{FF_PAGE_SERVER_ADD, 0xffffffff, 1, FIRST, PID}, true},
    {{FF_PAGE_SERVER_ADD, 0, 0, FIRST, PID}, false},
    {{FF_PAGE_SERVER_ADD, 0, 9, FIRST, PID}, false},
    {{FF_PAGE_SERVER_ADD, 0, 1ull << 52, FIRST, PID}, false},
    {{FF_PAGE_SERVER_ADD, 0, UINT64_MAX, FIRST, PID}, false},
    {{FF_PAGE_SERVER_ADD, 0, 8, FIRST + 4096, PID}, false},
    {{FF_PAGE_SERVER_ADD, 0, 8, FIRST + 1, PID}, false},
    {{FF_PAGE_SERVER_ADD, 0, 8, FIRST, PID + 1}, false},
    {{FF_PAGE_SERVER_ADD, 0, 8, FIRST, PID | 1ull << 32}, false},
    {{6, 0, 8, FIRST, PID}, false},
    {{FF_PAGE_SERVER_GET, 0, 8, FIRST, PID}, false},
    {{FF_PAGE_SERVER_CLOSE, 0, 8, FIRST, PID}, false},
    {{0, 0, 0, 0, 0}, false},
};

static void test_answers(void)
{
    const FfPageServerFrame asked = {FF_PAGE_SERVER_GET, 0, 8, FIRST, PID};

    for (unsigned i = 0; i < G_N_ELEMENTS(answers); i++) {
        const char *wrong = ff_page_server_check(&asked, &answers[i].answer);
        if (!wrong != answers[i].right) {
            g_error("%u: %s", i, wrong ? wrong : "is accepted");
        }
    }
}

/* ---- the store ------------------------------------------------------------------------------- */

static FfFetchedPages *make_store(uint64_t pages)
{
    FfFetchedPart parts[] = {{.pid = 5, .pages = 3}, {.pid = PID, .pages = pages}};

    return ff_fetched_create(parts, G_N_ELEMENTS(parts), NULL);
}

static void test_store(void)
{
    g_autoptr(FfFetchedPages) s = make_store(10000);
    g_autoptr(FfFetchedPages) other = ff_fetched_map(ff_fetched_memfd(s), ff_fetched_kick(s), NULL);
    char page[2 * FF_FETCHED_PAGE];
    const bool cancel = true;
    uint64_t n = 2, wanted;

    g_assert_nonnull(other);
    g_assert_cmpuint(ff_fetched_pages(other), ==, 10003);
    g_assert_cmpuint(ff_fetched_part(other, PID)->first, ==, 3);
    g_assert_null(ff_fetched_part(other, 6));
    g_assert_false(ff_fetched_next_wanted(s, &wanted));
    /* What is not there is wanted only if somebody waits for it. */
    g_assert_false(ff_fetched_read(other, 9000, &n, page, true, &cancel));
    memset(ff_fetched_at(s, 9001), 9, FF_FETCHED_PAGE);
    ff_fetched_arrived(s, 9001, 1);
    g_assert_false(ff_fetched_read(other, 9000, &n, page, true, &cancel));
    g_assert_true(ff_fetched_read(other, 9001, &n, page, true, &cancel));
    g_assert_cmpuint(n, ==, 1);
    g_assert_cmpint(page[FF_FETCHED_PAGE - 1], ==, 9);
    memset(ff_fetched_at(s, 9000), 8, FF_FETCHED_PAGE);
    ff_fetched_arrived(s, 9000, 1);
    n = 2;
    g_assert_true(ff_fetched_read(other, 9000, &n, page, true, &cancel));
    g_assert_cmpuint(n, ==, 2);
    g_assert_cmpint(page[0], ==, 8);
    g_assert_false(ff_fetched_wait_done(other, &cancel));
    ff_fetched_set_done(s);
    g_assert_true(ff_fetched_wait_done(other, &cancel));
    g_assert_null(ff_fetched_map(ff_fetched_kick(s), ff_fetched_kick(s), NULL));
    close(ff_fetched_memfd(s));
    close(ff_fetched_kick(s));
}

typedef struct {
    FfFetchedPages *s;
    uint64_t page;
} Waiter;

static gpointer run_waiter(gpointer p)
{
    const Waiter *w = p;
    static const bool never = false;
    char page[FF_FETCHED_PAGE];
    uint64_t n = 1;

    g_assert_true(ff_fetched_read(w->s, w->page, &n, page, true, &never));
    return GINT_TO_POINTER((int)page[7]);
}

/* Each of some that wait is heard of, once, and gets its page. */
static void test_wanted(void)
{
    static const uint64_t pages[] = {0, 4095, 4096, 4097, 9999};
    g_autoptr(FfFetchedPages) s = make_store(9997);
    GThread *threads[G_N_ELEMENTS(pages)];
    Waiter waiters[G_N_ELEMENTS(pages)];
    uint64_t page, sum = 0;

    for (unsigned i = 0; i < G_N_ELEMENTS(pages); i++) {
        waiters[i] = (Waiter){s, pages[i]};
        threads[i] = g_thread_new("waiter", run_waiter, &waiters[i]);
    }
    for (unsigned found = 0; found < G_N_ELEMENTS(pages);) {
        uint64_t kicks;
        if (!ff_fetched_next_wanted(s, &page)) {
            while (read(ff_fetched_kick(s), &kicks, sizeof(kicks)) < 0) {
            } /* it does not wait */
            continue;
        }
        found++;
        sum += page;
        memset(ff_fetched_at(s, page), 1 + (int)(page % 100), FF_FETCHED_PAGE);
        ff_fetched_arrived(s, page, 1);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(pages); i++) {
        g_assert_cmpint(GPOINTER_TO_INT(g_thread_join(threads[i])), ==, 1 + (int)(pages[i] % 100));
        sum -= pages[i];
    }
    g_assert_cmpuint(sum, ==, 0);
    g_assert_false(ff_fetched_next_wanted(s, &page));
    close(ff_fetched_memfd(s));
    close(ff_fetched_kick(s));
}

/* ---- a peer ---------------------------------------------------------------------------------- */

typedef struct {
    int sock, link; /* of both the other ends */
    uint32_t seed;  /* 0: all is right */
} Peer;

static uint64_t word_of(uint64_t addr, unsigned k)
{
    return (addr + k) * 0x9e3779b97f4a7c15ull;
}

static uint32_t next(uint32_t *seed)
{
    return *seed = *seed * 1664525 + 1013904223;
}

/* One that is asked for by its frame: right, or one thing of it is not. FALSE: it leaves. */
static bool answer(const Peer *p, uint32_t *seed, FfPageServerFrame f)
{
    static __thread uint64_t words[64 * 512];
    uint32_t what = p->seed ? next(seed) >> 8 : 0;
    uint64_t addr = f.addr, pages = f.pages;

    f.command = FF_PAGE_SERVER_ADD;
    if (p->seed && (what >> 4) % 3 == 0) { /* as where a run of the server's ends */
        pages = f.pages = 1 + (what >> 8) % f.pages;
    }
    for (uint64_t i = 0; i < pages * 512; i++) {
        words[i] = word_of(addr + i / 512 * 4096, i % 512);
    }
    size_t len = pages * 4096, head = sizeof(f);
    switch (p->seed && what % 16 == 0 ? (what >> 16) % 5 : 5) {
    case 0:
        ((uint8_t *)&f)[(what >> 8) % sizeof(f)] ^= 1 << (what >> 20) % 8;
        break;
    case 1:
        len -= 1 + (what >> 8) % len;
        break;
    case 2:
        head -= 1 + (what >> 8) % head;
        len = 0;
        break;
    case 3:
        return false;
    case 4:
        f.pages += 1 + (what >> 8) % 64;
        break;
    }
    /* After data that is too short it leaves: what it says next would be content. */
    return send(p->sock, &f, head, MSG_NOSIGNAL) == (ssize_t)head &&
           send(p->sock, words, len, MSG_NOSIGNAL) == (ssize_t)len && len >= f.pages * 4096;
}

static gpointer run_peer(gpointer opaque)
{
    const Peer *p = opaque;
    FfPageServerFrame f;
    uint32_t seed = p->seed;
    const int32_t status = 0;

    while (recv(p->sock, &f, sizeof(f), MSG_WAITALL) == sizeof(f)) {
        g_assert_true(f.command == FF_PAGE_SERVER_CLOSE || f.command == FF_PAGE_SERVER_GET);
        if (f.command == FF_PAGE_SERVER_CLOSE) {
            send(p->sock, &status, sizeof(status), MSG_NOSIGNAL);
            break;
        }
        /* It is never asked for what was not dumped: CRIU would let its processes run again. */
        uint64_t end = f.addr + f.pages * 4096;
        g_assert_cmpuint(f.pid, ==, PID);
        g_assert_true((f.addr >= FIRST && end <= FIRST + SPLIT * 4096) ||
                      (f.addr >= SECOND && end <= SECOND + (PAGES - SPLIT) * 4096));
        if (!answer(p, &seed, f)) {
            break;
        }
    }
    shutdown(p->sock, SHUT_RDWR);
    return NULL;
}

/* The holder: says yes at once. */
static gpointer run_holder(gpointer opaque)
{
    const Peer *p = opaque;
    char byte;

    while (recv(p->link, &byte, 1, 0) == 1) {
        const char yes = byte == FF_HOLD_FETCHED ? FF_HOLD_COMMIT : FF_HOLD_GIVEN_UP;
        send(p->link, &yes, 1, MSG_NOSIGNAL);
    }
    return NULL;
}

/* How many pages are there, each as it was. */
static unsigned check(FfFetchedPages *s)
{
    const bool cancel = true;
    uint64_t page[512];
    unsigned found = 0;

    for (unsigned i = 0; i < PAGES; i++) {
        uint64_t n = 1, addr = i < SPLIT ? FIRST + i * 4096ull : SECOND + (i - SPLIT) * 4096ull;
        if (!ff_fetched_read(s, i, &n, page, false, &cancel)) {
            continue;
        }
        found++;
        for (unsigned k = 0; k < 512; k++) {
            g_assert_cmphex(page[k], ==, word_of(addr, k));
        }
    }
    return found;
}

static bool fetch(uint32_t seed, unsigned *found)
{
    FfFetchedPart part = {.pid = PID, .pages = PAGES};
    const FfFetchRun runs[] = {{0, SPLIT, FIRST, PID, 0}, {SPLIT, PAGES - SPLIT, SECOND, PID, 0}};
    g_auto(FfFetch) f = {.fetched = ff_fetched_create(&part, 1, NULL), .name = "peer"};
    g_autoptr(GError) error = NULL;
    int server[2], link[2];

    f.runs = g_array_new(FALSE, FALSE, sizeof(FfFetchRun));
    g_array_append_vals(f.runs, runs, G_N_ELEMENTS(runs));
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, server), ==, 0);
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, link), ==, 0);
    f.server = server[0];
    f.link = link[0];
    Peer p = {server[1], link[1], seed};
    GThread *peer = g_thread_new("peer", run_peer, &p);
    GThread *holder = g_thread_new("holder", run_holder, &p);
    bool done = ff_fetch_run(&f, &error);
    if (!done != !!error || (error && strchr(error->message, '\n'))) {
        g_error("seed %u: %s", seed, error ? error->message : "no reason");
    }
    shutdown(server[0], SHUT_RDWR);
    shutdown(link[0], SHUT_RDWR);
    g_thread_join(peer);
    g_thread_join(holder);
    *found = check(f.fetched);
    for (unsigned i = 0; i < 2; i++) {
        close(server[i]);
        close(link[i]);
    }
    close(ff_fetched_memfd(f.fetched));
    close(ff_fetched_kick(f.fetched));
    return done;
}

static void test_right(void)
{
    unsigned found;

    g_assert_true(fetch(0, &found));
    g_assert_cmpuint(found, ==, PAGES);
}

static void test_wrong(void)
{
    unsigned done = 0, found;

    for (uint32_t seed = 1; seed <= SEEDS; seed++) {
        bool all = fetch(seed, &found);
        g_assert_true(!all || found == PAGES);
        done += all;
    }
    g_test_message("%u of %u came to an end", done, SEEDS);
    g_assert_cmpuint(done, >, SEEDS / 10);
    g_assert_cmpuint(done, <, SEEDS * 9 / 10);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/fetch/answers", test_answers);
    g_test_add_func("/fetch/store", test_store);
    g_test_add_func("/fetch/wanted", test_wanted);
    g_test_add_func("/fetch/right", test_right);
    g_test_add_func("/fetch/wrong", test_wrong);
    return g_test_run();
}
