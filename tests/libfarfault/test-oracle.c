/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Snapshots against an oracle: while eight threads write everywhere, what libfarfault saves equals
 * what a child of fork() at the same moment sees (private memory), or a copy that was made then
 * (memfd, hugetlb). FF_ROUNDS says how many rounds there are for each kind of memory and size of
 * buffer.
 */
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/libfarfault/held.h"
#include "tests/uffd/swap.h"

#define LEN (8u << 20)

typedef struct {
    WorldKind kind;
    size_t buffer;
    bool swap; /* a part of the memory is swapped out, again and again */
} Case;

typedef enum { FILE_DIRECT, FILE_BUFFERED, PAGES, WAYS } Way;

/* What memory held when all were parked. */
typedef struct {
    bool is_forked;
    WorldFork child;
    uint64_t hash;
} Oracle;

static Oracle ask_oracle(const World *w)
{
    return w->fd < 0 ? (Oracle){.is_forked = true, .child = world_fork(w)}
                     : (Oracle){.hash = world_hash(w->map, w->len)};
}

static uint64_t saved_hash(World *w, Way way)
{
    uint64_t hash;

    if (way == PAGES) {
        WorldPages pages;
        world_pages_init(&pages, w);
        call(ff_snapshot_save_pages(w->m, world_page, &pages));
        call(ff_snapshot_wait(w->m, NULL));
        for (size_t i = 0; i < w->len / 4096; i++) {
            g_assert_cmpuint(pages.times[i], ==, 1);
        }
        hash = world_hash(pages.copy, w->len);
        world_pages_clear(&pages);
        return hash;
    }
    int fd = world_file();
    call(ff_snapshot_save_fd(w->m, fd));
    call(ff_snapshot_wait(w->m, NULL));
    char *map = world_map_file(w, fd);
    hash = world_hash(map, w->len);
    munmap(map, w->len);
    close(fd);
    return hash;
}

/* A random part of it, and what becomes of it after that is the writers' business. */
static unsigned swap_some(World *w, GRand *random)
{
    size_t first = (size_t)g_rand_int_range(random, 0, LEN / 4096 / 2);

    return swap_out(w->map + first * 4096, LEN / 2);
}

/* How many pages were swapped out. */
static unsigned one_round(World *w, const Case *c, GRand *random)
{
    unsigned n = 0;
    unsigned choice = g_rand_int(random);
    Way way = choice % WAYS;
    bool fork_first = choice >> 8 & 1, prepare = choice >> 9 & 1, passes = choice >> 10 & 1;
    FfSnapshotOptions options = {.size = sizeof(options),
                                 .buffer = c->buffer,
                                 .flags = (passes ? 0 : FF_SNAPSHOT_NO_PASSES) |
                                          (way == FILE_BUFFERED ? FF_SNAPSHOT_NO_DIRECT : 0)};
    Oracle oracle = {0};

    bool discard = choice >> 11 & 1;
    /* A hole that a call made before the preparation is punched into hugetlb after it unseen. */
    bool can_madvise = c->buffer >= LEN && c->kind != W_HUGETLB && choice >> 13 & 1;
    __atomic_store_n(&w->discard,
                     !discard      ? W_KEEP
                     : can_madvise ? W_MADVISE
                                   : W_DISCARD,
                     __ATOMIC_RELAXED);
    if (prepare) {
        call(ff_snapshot_prepare(w->m, &options));
        world_wait_writes(w, 1000);
    }
    world_park(w);
    if (c->swap) { /* before the oracle: what a child has, too, stays in memory */
        n += swap_some(w, random);
    }
    if (!prepare) {
        call(ff_snapshot_prepare(w->m, &options));
    }
    if (fork_first) {
        oracle = ask_oracle(w);
    }
    call(ff_snapshot_begin(w->m));
    if (!fork_first) {
        oracle = ask_oracle(w); /* of memory that is protected */
    }
    if (c->swap && choice >> 12 & 1) {
        n += swap_some(w, random);
    }
    world_release(w);
    uint64_t hash = saved_hash(w, way);
    g_assert_cmphex(hash, ==, oracle.is_forked ? world_forked_hash(oracle.child) : oracle.hash);
    return n;
}

static void test_oracle(gconstpointer p)
{
    const Case *c = p;
    g_autoptr(GRand) random = g_rand_new_with_seed(g_test_rand_int());
    const char *why = NULL;
    Swap *swap = c->swap ? swap_try(&why) : NULL;
    World *w = why ? NULL : world_new(c->kind, LEN);
    unsigned swapped = 0;

    if (why) {
        g_test_skip(why);
    }
    if (!w) {
        g_clear_pointer(&swap, swap_free);
        return;
    }
    for (size_t i = 0; i < w->len / 2; i += 8) { /* the rest is not there yet */
        memcpy(w->map + i, &i, sizeof(i));
    }
    world_start_writers(w);
    world_wait_writes(w, 1000);
    unsigned rounds = world_rounds(2);
    for (unsigned i = 0; i < rounds; i++) {
        swapped += one_round(w, c, random);
    }
    g_test_message("%u rounds, %u pages were swapped out", rounds, swapped);
    g_assert_true(!c->swap || swapped > 0);
    world_free(w);
    g_clear_pointer(&swap, swap_free);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        size_t bytes;
    } buffers[] = {{"0", 0}, {"1-page", 1}, {"64M", 64u << 20}};
    static const Case swapped_anon = {W_ANON, 64u << 20, true},
                      swapped_memfd = {W_MEMFD, 4096, true};
    static Case cases[W_KINDS][G_N_ELEMENTS(buffers)];

    g_test_init(&argc, &argv, NULL);
    for (unsigned k = 0; k < W_KINDS; k++) {
        for (unsigned b = 0; b < G_N_ELEMENTS(buffers); b++) {
            bool is_huge = k == W_ANON_HUGE || k == W_HUGETLB;
            size_t page = is_huge ? HUGEPAGE : 4096;
            cases[k][b] = (Case){k, buffers[b].bytes == 1 ? page : buffers[b].bytes, false};
            g_autofree char *path =
                g_strdup_printf("/libfarfault/oracle/%s/%s", world_kinds[k], buffers[b].name);
            g_test_add_data_func(path, &cases[k][b], test_oracle);
        }
    }
    g_test_add_data_func("/libfarfault/oracle/anon/swap", &swapped_anon, test_oracle);
    g_test_add_data_func("/libfarfault/oracle/memfd/swap", &swapped_memfd, test_oracle);
    return g_test_run();
}
