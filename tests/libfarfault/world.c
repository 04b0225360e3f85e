/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See world.h. */
#include "tests/libfarfault/world.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

const char *const world_kinds[W_KINDS] = {"anon", "anon-2M", "memfd", "hugetlb"};

static char *map_aligned(size_t len, int fd)
{
    char *area = mmap(NULL, len + HUGEPAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    g_assert_true(area != MAP_FAILED);
    char *at = (char *)(((uintptr_t)area + HUGEPAGE - 1) & ~(HUGEPAGE - 1));
    char *map = mmap(at, len, PROT_READ | PROT_WRITE,
                     MAP_FIXED | (fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED), fd, 0);
    g_assert_true(map == at);
    if (at > area) {
        g_assert_cmpint(munmap(area, (size_t)(at - area)), ==, 0);
    }
    if (area + HUGEPAGE > at) {
        g_assert_cmpint(munmap(at + len, (size_t)(area + HUGEPAGE - at)), ==, 0);
    }
    return map;
}

#define PLACE 77 /* in its file, which is the program's */

World *world_new(WorldKind kind, size_t len)
{
    World *w = g_new0(World, 1);

    w->kind = kind;
    w->len = w->write_len = len;
    w->fd = -1;
    w->page_size = kind == W_HUGETLB || kind == W_ANON_HUGE ? HUGEPAGE : 4096;
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->changed, NULL);
    if (kind == W_HUGETLB) {
        /* One that is given back while it is read is free only after that. */
        w->pool = hugepages_new(len / HUGEPAGE + WORLD_WRITERS);
        if (!w->pool) {
            world_free(w);
            return NULL;
        }
    }
    if (kind == W_MEMFD || kind == W_HUGETLB) {
        w->fd = memfd_create("world", MFD_CLOEXEC | (kind == W_HUGETLB ? MFD_HUGETLB : 0));
        g_assert_cmpint(w->fd, >=, 0);
        g_assert_cmpint(ftruncate(w->fd, (off_t)len), ==, 0);
        g_assert_cmpint(lseek(w->fd, PLACE, SEEK_SET), ==, PLACE);
    }
    w->map = map_aligned(len, w->fd);
    if (ff_memory_new(0, &w->m) == -EPERM) {
        g_test_skip(ff_last_error());
        world_free(w);
        return NULL;
    }
    if (ff_region_add(w->m, w->map, len, w->fd, kind == W_ANON_HUGE ? FF_REGION_HUGE : 0) < 0) {
        g_error("%s", ff_last_error());
    }
    return w;
}

void world_stop(World *w)
{
    pthread_mutex_lock(&w->lock);
    __atomic_store_n(&w->end, true, __ATOMIC_RELAXED);
    __atomic_store_n(&w->park, false, __ATOMIC_RELAXED);
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
}

void world_free(World *w)
{
    world_stop(w);
    for (unsigned i = 0; i < WORLD_WRITERS; i++) {
        if (w->writers[i].thread) {
            g_thread_join(w->writers[i].thread);
        }
    }
    ff_memory_free(w->m);
    if (w->map) {
        munmap(w->map, w->len);
    }
    if (w->fd >= 0) {
        g_assert_cmpint(lseek(w->fd, 0, SEEK_CUR), ==, PLACE); /* nobody has moved it */
        close(w->fd);
    }
    hugepages_free(w->pool);
    pthread_mutex_destroy(&w->lock);
    pthread_cond_destroy(&w->changed);
    g_free(w);
}

/* ---- writers --------------------------------------------------------------------------------- */

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static void wait_while_parked(World *w)
{
    pthread_mutex_lock(&w->lock);
    w->parked++;
    pthread_cond_broadcast(&w->changed);
    while (w->park) {
        pthread_cond_wait(&w->changed, &w->lock);
    }
    w->parked--;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
}

void world_stand(World *w)
{
    if (__atomic_load_n(&w->park, __ATOMIC_RELAXED)) {
        wait_while_parked(w);
    }
}

static void write_once(World *w, unsigned index, uint64_t *random)
{
    uint64_t r = next_random(random), n_words = w->write_len / 8;
    uint64_t *word = (uint64_t *)(void *)w->map + r % n_words;

    WorldDiscard discard = __atomic_load_n(&w->discard, __ATOMIC_RELAXED);

    if (r >> 47 == 0 && discard) {
        char *page = w->map + r % (w->write_len / w->page_size) * w->page_size;
        if (discard == W_MADVISE) {
            int advice = w->fd < 0 ? MADV_DONTNEED : MADV_REMOVE;
            g_assert_cmpint(madvise(page, w->page_size, advice), ==, 0);
        } else if (ff_region_discard(w->m, page, w->page_size) < 0) {
            g_error("%s", ff_last_error());
        }
    } else {
        __atomic_store_n(word, r % 5 ? r : 0, __ATOMIC_RELAXED);
    }
}

static gpointer write_all_the_time(gpointer p)
{
    WorldWriter *writer = p;
    World *w = writer->w;
    uint64_t random = 88172645463325252ull * (writer->index + 1);

    while (!__atomic_load_n(&w->end, __ATOMIC_RELAXED)) {
        world_stand(w);
        write_once(w, writer->index, &random);
        if (__atomic_add_fetch(&w->n_writes, 1, __ATOMIC_RELAXED) % 256 == 0) {
            pthread_mutex_lock(&w->lock);
            pthread_cond_broadcast(&w->changed);
            pthread_mutex_unlock(&w->lock);
        }
    }
    return NULL;
}

void world_start_writers(World *w)
{
    for (unsigned i = 0; i < WORLD_WRITERS; i++) {
        w->writers[i] = (WorldWriter){w, i, NULL};
        w->writers[i].thread = g_thread_new("writer", write_all_the_time, &w->writers[i]);
    }
}

void world_park(World *w)
{
    pthread_mutex_lock(&w->lock);
    __atomic_store_n(&w->park, true, __ATOMIC_RELAXED);
    while (w->parked < WORLD_WRITERS + w->n_others) {
        pthread_cond_wait(&w->changed, &w->lock);
    }
    pthread_mutex_unlock(&w->lock);
}

void world_release(World *w)
{
    pthread_mutex_lock(&w->lock);
    __atomic_store_n(&w->park, false, __ATOMIC_RELAXED);
    pthread_cond_broadcast(&w->changed);
    while (w->parked) {
        pthread_cond_wait(&w->changed, &w->lock);
    }
    pthread_mutex_unlock(&w->lock);
}

void world_wait_writes(World *w, uint64_t n)
{
    uint64_t until = __atomic_load_n(&w->n_writes, __ATOMIC_RELAXED) + n;

    pthread_mutex_lock(&w->lock);
    while (__atomic_load_n(&w->n_writes, __ATOMIC_RELAXED) < until) {
        pthread_cond_wait(&w->changed, &w->lock);
    }
    pthread_mutex_unlock(&w->lock);
}

/* ---- memory that is touched ------------------------------------------------------------------ */

static sigjmp_buf on_bus;

static void handle_bus(int sig)
{
    siglongjmp(on_bus, 1);
}

bool world_is_bus(const void *at)
{
    struct sigaction action = {.sa_handler = handle_bus}, old;
    volatile bool bus = true;

    g_assert_cmpint(sigaction(SIGBUS, &action, &old), ==, 0);
    if (sigsetjmp(on_bus, 1) == 0) {
        *(const volatile char *)at;
        bus = false;
    }
    g_assert_cmpint(sigaction(SIGBUS, &old, NULL), ==, 0);
    return bus;
}

char *world_tables(const void *at, size_t n)
{
    char *text = g_malloc0(n + 1);
    int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

    for (size_t i = 0; i < n; i++) {
        uint64_t entry;
        g_assert_cmpint(pread(fd, &entry, 8, (off_t)(((uintptr_t)at / 4096 + i) * 8)), ==, 8);
        text[i] = !(entry >> 63 & 1) ? '-' : entry >> 57 & 1 ? 'R' : 'W';
    }
    close(fd);
    return text;
}

bool world_lock_memory(void)
{
    size_t room = 256u << 20; /* for threads and so on */

    if (mlockall(MCL_FUTURE) == 0) {
        void *at = mmap(NULL, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (at != MAP_FAILED) {
            munmap(at, room);
            return true;
        }
        munlockall();
    }
    g_test_skip("so much memory may not be locked");
    return false;
}

/* ---- what it holds --------------------------------------------------------------------------- */

uint64_t world_hash(const void *data, size_t len)
{
    const uint64_t *words = data;
    uint64_t h = 14695981039346656037ull;

    for (size_t i = 0; i < len / 8; i++) {
        h = (h ^ words[i]) * 1099511628211ull;
        h ^= h >> 29;
    }
    return h;
}

WorldFork world_fork(const World *w)
{
    int fds[2];

    g_assert_cmpint(pipe(fds), ==, 0);
    pid_t parent = getpid();
    pid_t pid = fork();
    g_assert_cmpint(pid, >=, 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        uint64_t hash = getppid() == parent ? world_hash(w->map, w->len) : 0;
        _exit(write(fds[1], &hash, sizeof(hash)) == sizeof(hash) ? 0 : 1);
    }
    close(fds[1]);
    return (WorldFork){pid, fds[0]};
}

uint64_t world_forked_hash(WorldFork f)
{
    uint64_t hash;
    int status;

    g_assert_cmpint(read(f.fd, &hash, sizeof(hash)), ==, sizeof(hash));
    close(f.fd);
    g_assert_cmpint(waitpid(f.pid, &status, 0), ==, f.pid);
    g_assert_cmpint(status, ==, 0);
    return hash;
}

int world_file(void)
{
    g_autofree char *path = g_build_filename(g_get_tmp_dir(), "libfarfault-XXXXXX", NULL);
    int fd = g_mkstemp_full(path, O_RDWR | O_CLOEXEC, 0600);

    g_assert_cmpint(fd, >=, 0);
    unlink(path);
    return fd;
}

char *world_map_file(const World *w, int fd)
{
    FfFileHeader header;
    FfFileRegion region;

    g_assert_cmpint(pread(fd, &header, sizeof(header), 0), ==, sizeof(header));
    g_assert_cmpuint(header.magic, ==, FF_FILE_MAGIC);
    g_assert_cmpuint(header.version, ==, FF_FILE_VERSION);
    g_assert_cmpuint(header.n_regions, ==, 1);
    g_assert_cmpuint(header.size, ==, lseek(fd, 0, SEEK_END));
    g_assert_cmpint(pread(fd, &region, sizeof(region), sizeof(header)), ==, sizeof(region));
    g_assert_cmpuint(region.addr, ==, (uintptr_t)w->map);
    g_assert_cmpuint(region.len, ==, w->len);
    char *map = mmap(NULL, w->len, PROT_READ, MAP_SHARED, fd, (off_t)region.offset);
    g_assert_true(map != MAP_FAILED);
    return map;
}

void world_pages_init(WorldPages *p, const World *w)
{
    p->w = w;
    p->copy = g_malloc0(w->len);
    p->times = g_new0(unsigned, w->len / 4096);
}

void world_pages_clear(WorldPages *p)
{
    g_free(p->copy);
    g_free(p->times);
}

int world_page(void *opaque, void *addr, const void *data, size_t len)
{
    WorldPages *p = opaque;
    size_t at = (size_t)((char *)addr - p->w->map);

    g_assert_cmpuint(len, ==, 4096);
    g_assert_cmpuint(at, <, p->w->len);
    p->times[at / 4096]++;
    if (data) {
        memcpy(p->copy + at, data, len);
    }
    return 0;
}

unsigned world_rounds(unsigned n)
{
    const char *rounds = g_getenv("FF_ROUNDS");

#ifdef __SANITIZE_THREAD__
    n = (n + 1) / 2; /* ten times as slow */
#endif
    return rounds ? (unsigned)strtoul(rounds, NULL, 10) : n;
}
