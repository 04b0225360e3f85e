/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A program whose threads change its mappings all the while: they move memory away and back, or
 * give it back and map it again, while others write, children of fork() live on, and snapshots
 * begin and end. A snapshot that says that it is whole equals the memory of its moment, and every
 * thread comes back from every call. FF_ROUNDS says how many snapshots there are.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/libfarfault/held.h"

#define LEN (8u << 20)
#define CHANGERS 2
#define PIECE (64u << 10)
#define ZONE (1u << 20) /* each changer's, at the end of the memory */

typedef enum { MOVE, CHAOS } Kind;

typedef struct {
    World *w;
    Kind kind;
    unsigned index;
    char *room; /* where memory is moved to */
    GThread *thread;
    uint64_t n; /* for the test, after its end */
} Changer;

static void *map_at(char *at, size_t len, int prot)
{
    void *map = mmap(at, len, prot, MAP_PRIVATE | MAP_ANONYMOUS | (at ? MAP_FIXED : 0), -1, 0);

    g_assert_true(map != MAP_FAILED && (!at || map == at));
    return map;
}

/* Never a hole, in which another thread's mapping would come to lie. */
static void move(char *from, char *to, size_t len)
{
    g_assert_true(mremap(from, len, len, MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, to) ==
                  to);
}

/* Away, where it is written to, and back. */
static void move_once(const Changer *c, char *at, size_t len, uint64_t random)
{
    memcpy(at, &random, sizeof(random));
    move(at, c->room, len);
    c->room[len - 1] = (char)random;
    move(c->room, at, len);
}

static void change_once(const Changer *c, char *at, size_t len, uint64_t random)
{
    switch ((random >> 32) % 3) {
    case 0:
        g_assert_cmpint(madvise(at, len, MADV_DONTNEED), ==, 0);
        break;
    case 1:
        map_at(at, len, PROT_READ | PROT_WRITE);
        break;
    default:
        move_once(c, at, len, random);
    }
    memcpy(at, &random, sizeof(random));
}

/* Between two changes it is as all other writers, and parks where they do. */
static gpointer change_all_the_time(gpointer p)
{
    Changer *c = p;
    World *w = c->w;
    char *zone = w->map + LEN - (c->index + 1) * ZONE;
    g_autoptr(GRand) rand = g_rand_new_with_seed(c->index);

    while (!__atomic_load_n(&w->end, __ATOMIC_RELAXED)) {
        world_stand(w);
        uint64_t random = (uint64_t)g_rand_int(rand) << 32 | g_rand_int(rand);
        /* What lies in two mappings cannot be moved. */
        char *piece = zone + random % (ZONE / PIECE) * PIECE;
        (c->kind == MOVE ? move_once : change_once)(c, piece, PIECE, random);
        c->n++;
        if (random % 8 == 0) {
            g_usleep(2000); /* as many as the page says: some hundred a second */
        }
    }
    return NULL;
}

/* It lives until its end of PIPE is closed, and has all files of the program. */
static pid_t start_sleeper(int fds[2])
{
    g_assert_cmpint(pipe(fds), ==, 0);
    pid_t self = getpid(), pid = fork();
    if (pid == 0) {
        char c;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(fds[1]);
        _exit(getppid() == self && read(fds[0], &c, 1) == 0 ? 0 : 1);
    }
    close(fds[0]);
    return pid;
}

static void end_sleeper(pid_t pid, int fds[2])
{
    close(fds[1]);
    g_assert_cmpint(waitpid(pid, NULL, 0), ==, pid);
}

static void one_snapshot(World *w, Kind kind, size_t buffer, unsigned *whole)
{
    FfSnapshotOptions options = {.size = sizeof(options), .buffer = buffer};
    int fds[2], fd = world_file();

    call(ff_snapshot_prepare(w->m, &options));
    pid_t sleeper = start_sleeper(fds);
    world_park(w);
    uint64_t hash = world_hash(w->map, LEN);
    int rc = ff_snapshot_begin(w->m);
    bool begun = rc == 0;
    world_release(w);
    if (begun) {
        call(ff_snapshot_save_fd(w->m, fd));
        rc = ff_snapshot_wait(w->m, NULL);
    }
    if (rc == 0) {
        char *map = world_map_file(w, fd);
        g_assert_cmphex(world_hash(map, LEN), ==, hash);
        munmap(map, LEN);
        (*whole)++;
    } else if (!begun) {
        /* Also what was away when the snapshot was prepared, and has come back. */
        assert_says(rc, -EINVAL, "mapped again");
    } else if (kind == MOVE) {
        g_error("%s", ff_last_error());
    } else {
        assert_says(rc, -EIO, "given back");
    }
    /* All continue, though somebody has the userfaultfd still. */
    world_wait_writes(w, 1000);
    world_park(w);
    world_release(w);
    end_sleeper(sleeper, fds);
    close(fd);
}

static void test_changes(gconstpointer p)
{
    Kind kind = GPOINTER_TO_UINT(p) & 1;
    size_t buffer = GPOINTER_TO_UINT(p) & 2 ? 16u << 20 : 0;
    Changer changers[CHANGERS];
    World *w = world_new(W_ANON, LEN);
    unsigned rounds = world_rounds(3), whole = 0;

    if (!w) {
        return;
    }
    w->write_len = LEN - CHANGERS * ZONE;
    held_fill(w, 1);
    world_start_writers(w);
    w->n_others = CHANGERS;
    for (unsigned i = 0; i < CHANGERS; i++) {
        changers[i] = (Changer){w, kind, i, map_at(NULL, ZONE, PROT_NONE), NULL, 0};
        changers[i].thread = g_thread_new("changer", change_all_the_time, &changers[i]);
    }
    for (unsigned i = 0; i < rounds || (kind == MOVE && whole < rounds); i++) {
        g_assert_cmpuint(i, <, rounds * 20);
        one_snapshot(w, kind, buffer, &whole);
    }
    world_stop(w);
    for (unsigned i = 0; i < CHANGERS; i++) {
        g_thread_join(changers[i].thread);
        munmap(changers[i].room, ZONE);
    }
    g_test_message("%u of %u whole, %" G_GUINT64_FORMAT " changes", whole, rounds,
                   changers[0].n + changers[1].n);
    world_free(w);
}

/* ---- many that are told of a move too early
 * ------------------------------------------------------
 */

#define MANY 160 /* more than the fault thread reads at once */

typedef struct {
    char *room;
    bool end; /* atomic; observer: all */
} Crowd;

static gpointer write_there(gpointer p)
{
    const Crowd *c = p;
    g_autoptr(GRand) rand = g_rand_new();

    while (!__atomic_load_n(&c->end, __ATOMIC_RELAXED)) {
        __atomic_store_n(&c->room[(size_t)g_rand_int_range(rand, 0, LEN)], 1, __ATOMIC_RELAXED);
    }
    return NULL;
}

/* They write where the memory comes to lie, and fault there before the move has been read of.
 * Faults are read first: a thread that is told again too soon keeps the move, and all of them,
 * waiting for ever. */
static void test_crowd(void)
{
    World *w = world_new(W_ANON, LEN);
    GThread *threads[MANY];
    Crowd c = {map_at(NULL, LEN, PROT_READ | PROT_WRITE), false};

    if (!w) {
        return;
    }
    memset(w->map, 1, LEN);
    for (unsigned i = 0; i < MANY; i++) {
        threads[i] = g_thread_new("crowd", write_there, &c);
    }
    call(ff_snapshot_begin(w->m));
    for (unsigned i = 0; i < 2; i++) {
        move(w->map, c.room, LEN);
        move(c.room, w->map, LEN);
    }
    __atomic_store_n(&c.end, true, __ATOMIC_RELAXED);
    for (unsigned i = 0; i < MANY; i++) {
        g_thread_join(threads[i]);
    }
    call(ff_snapshot_cancel(w->m));
    munmap(c.room, LEN);
    world_free(w);
}

/* ---- a discard that prepare meets ------------------------------------------------------------ */

static struct {
    World *w;              /* NULL: no call is held */
    bool called, prepared; /* World.lock */
} held;

/* In front of libc's. MADV_REMOVE asks who has registered the memory, lets go of all locks, and
 * takes the pages out (mm/madvise.c, madvise_remove()): here with the snapshot's beginning between
 * the two, if that does not wait for it. A page that somebody touches meanwhile is taken out with
 * its protection (fs/hugetlbfs/inode.c, remove_inode_hugepages()), as here all are. */
int madvise(void *addr, size_t len, int advice)
{
    World *w = held.w;
    int64_t end = g_get_monotonic_time() + 200 * 1000;
    struct timespec until = {end / 1000000, end % 1000000 * 1000};

    if (!w || advice != MADV_REMOVE) {
        return (int)syscall(SYS_madvise, addr, len, advice);
    }
    held.w = NULL;
    pthread_mutex_lock(&w->lock);
    held.called = true;
    pthread_cond_broadcast(&w->changed);
    while (!held.prepared &&
           pthread_cond_clockwait(&w->changed, &w->lock, CLOCK_MONOTONIC, &until) == 0) {
    }
    pthread_mutex_unlock(&w->lock);
    return ftruncate(w->fd, 0) == 0 ? ftruncate(w->fd, LEN) : -1;
}

static gpointer discard_first(gpointer p)
{
    World *w = p;

    call(ff_region_discard(w->m, w->map, LEN));
    return NULL;
}

/* The memory is given back: it is zeros at the moment, and what is written later is not saved. */
static void test_discard_meets_prepare(void)
{
    World *w = world_new(W_HUGETLB, LEN);
    int fd = world_file();

    if (w) {
        memset(w->map, 5, LEN);
        held.w = w;
        GThread *thread = g_thread_new("discards", discard_first, w);
        pthread_mutex_lock(&w->lock);
        while (!held.called) {
            pthread_cond_wait(&w->changed, &w->lock);
        }
        pthread_mutex_unlock(&w->lock);
        call(ff_snapshot_prepare(w->m, NULL));
        pthread_mutex_lock(&w->lock);
        held.prepared = true;
        pthread_cond_broadcast(&w->changed);
        pthread_mutex_unlock(&w->lock);
        g_thread_join(thread);
        call(ff_snapshot_begin(w->m));
        memset(w->map, 9, LEN);
        call(ff_snapshot_save_fd(w->m, fd));
        call(ff_snapshot_wait(w->m, NULL));
        char *map = world_map_file(w, fd);
        for (size_t i = 0; i < LEN; i += 4096) {
            g_assert_cmpint(map[i], ==, 0);
        }
        munmap(map, LEN);
        world_free(w);
    }
    close(fd);
}

/* ---- signals --------------------------------------------------------------------------------- */

static char *struck; /* where the handler writes */

static void strike(int sig)
{
    static unsigned n;

    struck[n++ * 4096 % LEN]++;
}

/* A handler that writes to a region may interrupt every call but the one that is the moment: none
 * of them has a lock then that the thread that answers the write needs. */
static void test_signals(void)
{
    World *w = world_new(W_ANON, LEN);
    struct itimerval often = {{0, 100}, {0, 100}}, never = {{0, 0}, {0, 0}};
    FfSnapshotStats st = {.size = sizeof(st)};
    struct sigaction action = {.sa_handler = strike, .sa_flags = SA_RESTART}, old;

    if (!w) {
        return;
    }
    memset(w->map, 1, LEN);
    struck = w->map;
    g_assert_cmpint(sigaction(SIGALRM, &action, &old), ==, 0);
    for (unsigned i = 0; i < world_rounds(50); i++) {
        g_assert_cmpint(setitimer(ITIMER_REAL, &often, NULL), ==, 0);
        call(ff_snapshot_prepare(w->m, NULL));
        call(ff_snapshot_stats(w->m, &st));
        if (i % 2) {
            g_assert_cmpint(setitimer(ITIMER_REAL, &never, NULL), ==, 0);
            call(ff_snapshot_begin(w->m));
            g_assert_cmpint(setitimer(ITIMER_REAL, &often, NULL), ==, 0);
            call(ff_snapshot_stats(w->m, &st));
        }
        call(ff_snapshot_cancel(w->m));
    }
    g_assert_cmpint(setitimer(ITIMER_REAL, &never, NULL), ==, 0);
    g_assert_cmpint(sigaction(SIGALRM, &old, NULL), ==, 0);
    world_free(w);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (unsigned i = 0; i < 4; i++) {
        g_autofree char *path = g_strdup_printf("/libfarfault/changes/%s/%s",
                                                i & 1 ? "chaos" : "moves", i & 2 ? "16M" : "0");
        g_test_add_data_func(path, GUINT_TO_POINTER(i), test_changes);
    }
    g_test_add_func("/libfarfault/changes/crowd", test_crowd);
    g_test_add_func("/libfarfault/changes/discard-meets-prepare", test_discard_meets_prepare);
    g_test_add_func("/libfarfault/changes/signals", test_signals);
    return g_test_run();
}
