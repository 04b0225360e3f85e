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

#define LEN (8u << 20)

typedef struct {
    WorldKind kind;
    size_t buffer;
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

static void one_round(World *w, size_t buffer, GRand *random)
{
    unsigned choice = g_rand_int(random);
    Way way = choice % WAYS;
    bool fork_first = choice >> 8 & 1, prepare = choice >> 9 & 1, passes = choice >> 10 & 1;
    FfSnapshotOptions options = {.size = sizeof(options),
                                 .buffer = buffer,
                                 .flags = (passes ? 0 : FF_SNAPSHOT_NO_PASSES) |
                                          (way == FILE_BUFFERED ? FF_SNAPSHOT_NO_DIRECT : 0)};
    Oracle oracle = {0};

    __atomic_store_n(&w->discard, choice >> 11 & 1, __ATOMIC_RELAXED);
    if (prepare) {
        call(ff_snapshot_prepare(w->m, &options));
        world_wait_writes(w, 1000);
    }
    world_park(w);
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
    world_release(w);
    uint64_t hash = saved_hash(w, way);
    g_assert_cmphex(hash, ==, oracle.is_forked ? world_forked_hash(oracle.child) : oracle.hash);
}

static void test_oracle(gconstpointer p)
{
    const Case *c = p;
    World *w = world_new(c->kind, LEN);
    g_autoptr(GRand) random = g_rand_new_with_seed(g_test_rand_int());

    if (!w) {
        return;
    }
    for (size_t i = 0; i < w->len / 2; i += 8) { /* the rest is not there yet */
        memcpy(w->map + i, &i, sizeof(i));
    }
    world_start_writers(w);
    world_wait_writes(w, 1000);
    unsigned rounds = world_rounds(2);
    for (unsigned i = 0; i < rounds; i++) {
        one_round(w, c->buffer, random);
    }
    world_free(w);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        size_t bytes;
    } buffers[] = {{"0", 0}, {"1-page", 1}, {"64M", 64u << 20}};
    static Case cases[W_KINDS][G_N_ELEMENTS(buffers)];

    g_test_init(&argc, &argv, NULL);
    for (unsigned k = 0; k < W_KINDS; k++) {
        for (unsigned b = 0; b < G_N_ELEMENTS(buffers); b++) {
            bool is_huge = k == W_ANON_HUGE || k == W_HUGETLB;
            size_t page = is_huge ? HUGEPAGE : 4096;
            cases[k][b] = (Case){k, buffers[b].bytes == 1 ? page : buffers[b].bytes};
            g_autofree char *path =
                g_strdup_printf("/libfarfault/oracle/%s/%s", world_kinds[k], buffers[b].name);
            g_test_add_data_func(path, &cases[k][b], test_oracle);
        }
    }
    return g_test_run();
}
