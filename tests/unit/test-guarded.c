/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The guard and the pact of an upgrade, with a child process in the place of the new QEMU: what it
 * writes is kept first, and can be put back when it is dead; more than the pact has room for waits;
 * nobody wins the word twice.
 */
#include "contract/upgrade-commit.h"
#include "uffd/guard.h"
#include "uffd/uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/rights.h"

#define PAGE 4096u
#define PAGES 256u

/* ---- the child ------------------------------------------------------------------------------- */

typedef struct {
    pid_t pid;
    int memfd, uffd, maps, socket;
    uint8_t *map; /* this process's own */
    FfUpgradeCommit *pact;
    int pact_fd;
    gint failed; /* atomic; -errno */
    GMutex lock;
    GCond changed;
} World;

typedef struct {
    uint32_t page;
    uint8_t value;
} Order;

/* Writes to the pages that it is told, and says so. */
G_NORETURN static void child(int memfd, int socket)
{
    int uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    int maps = open("/proc/self/maps", O_RDONLY);
    volatile uint8_t *map = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
    int rc = uffd < 0 ? -errno : ff_uffd_init(uffd, FF_UFFD_PROTECTION, NULL);
    Order o;

    if (ff_rights_send(socket, &rc, sizeof(rc), (int[]){uffd, maps}, rc ? 0 : 2) < 0) {
        _exit(1);
    }
    while (read(socket, &o, sizeof(o)) == sizeof(o)) {
        map[o.page * PAGE] = o.value;
        if (write(socket, &o, sizeof(o)) != sizeof(o)) {
            break;
        }
    }
    _exit(0);
}

/* NULL, and the test is skipped. */
static World *world_new(void)
{
    World *w = g_new0(World, 1);
    FfRights rights = {.n = 0};
    struct pollfd p;
    int pair[2], rc = 0;

    w->memfd = memfd_create("guarded", MFD_CLOEXEC);
    g_assert_cmpint(ftruncate(w->memfd, PAGES * PAGE), ==, 0);
    w->map = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, w->memfd, 0);
    g_assert_cmpint(madvise(w->map, PAGES * PAGE, MADV_DONTFORK), ==, 0);
    for (unsigned i = 0; i < PAGES / 2; i++) { /* the others are holes */
        memset(w->map + i * PAGE, (int)i + 1, PAGE);
    }
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), ==, 0);
    w->pid = fork();
    if (w->pid == 0) {
        close(pair[0]);
        child(w->memfd, pair[1]);
    }
    close(pair[1]);
    w->socket = pair[0];
    p = (struct pollfd){w->socket, POLLIN, 0};
    g_assert_cmpint(poll(&p, 1, 60000), ==, 1);
    g_assert_cmpint(ff_rights_receive(w->socket, &rc, sizeof(rc), &rights), ==, sizeof(rc));
    w->uffd = rights.n ? rights.fd[0] : -1;
    w->maps = rights.n ? rights.fd[1] : -1;
    w->pact_fd = ff_upgrade_commit_create(PAGE);
    g_assert_cmpint(w->pact_fd, >=, 0);
    w->pact = ff_upgrade_commit_map(w->pact_fd, NULL);
    g_assert_nonnull(w->pact);
    return w;
}

static bool can_guard(const World *w)
{
    if (w->uffd < 0) {
        g_test_skip("no userfaultfd for write protection here");
    }
    return w->uffd >= 0;
}

static void kill_child(World *w)
{
    kill(w->pid, SIGKILL);
    g_assert_cmpint(waitpid(w->pid, NULL, 0), ==, w->pid);
    w->pid = 0;
}

static void world_free(World *w)
{
    if (w->pid) {
        kill_child(w);
    }
    munmap(w->map, PAGES * PAGE);
    ff_upgrade_commit_free(w->pact);
    close(w->pact_fd);
    close(w->memfd);
    close(w->socket);
    if (w->uffd >= 0) {
        close(w->uffd);
        close(w->maps);
    }
    g_free(w);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(World, world_free)

/* ---- the guard ------------------------------------------------------------------------------- */

static int written(unsigned block, uint64_t page, const void *content, void *opaque)
{
    World *w = opaque;

    return ff_upgrade_commit_keep_page(w->pact, block, page, content, PAGE);
}

static void failed(int rc, void *opaque)
{
    World *w = opaque;

    g_mutex_lock(&w->lock);
    w->failed = rc;
    g_cond_broadcast(&w->changed);
    g_mutex_unlock(&w->lock);
}

static FfGuard *guard(World *w)
{
    const FfGuardBlock block = {w->memfd, PAGES * PAGE, PAGE};
    g_autoptr(GError) error = NULL;
    FfGuard *g = ff_guard_new(&(FfGuardConfig){.uffd = w->uffd,
                                               .maps_fd = w->maps,
                                               .blocks = &block,
                                               .n_blocks = 1,
                                               .written = written,
                                               .failed = failed,
                                               .opaque = w},
                              &error);

    g_assert_no_error(error);
    return g;
}

static void order(World *w, unsigned page, uint8_t value)
{
    const Order o = {page, value};

    g_assert_cmpint(write(w->socket, &o, sizeof(o)), ==, sizeof(o));
}

/* The child has written. */
static void wait_written(World *w)
{
    struct pollfd p = {w->socket, POLLIN, 0};
    Order o;

    g_assert_cmpint(poll(&p, 1, 60000), ==, 1);
    g_assert_cmpint(read(w->socket, &o, sizeof(o)), ==, sizeof(o));
}

static bool has_written(World *w)
{
    struct pollfd p = {w->socket, POLLIN, 0};

    return poll(&p, 1, 0) == 1;
}

static void put_back(World *w)
{
    for (unsigned i = ff_upgrade_commit_pages(w->pact); i-- > 0;) {
        unsigned block;
        uint64_t page;
        const void *content = ff_upgrade_commit_page(w->pact, i, &block, &page);

        g_assert_cmpuint(block, ==, 0);
        memcpy(w->map + page * PAGE, content, PAGE);
    }
}

/* Data and a hole, each once however often it is written; what it leaves is put back. */
static void test_keeps(void)
{
    static const unsigned pages[] = {3, 200, 3, 0, PAGES - 1};
    g_autoptr(World) w = world_new();

    if (!can_guard(w)) {
        return;
    }
    g_autofree uint8_t *before = g_memdup2(w->map, PAGES * PAGE);
    g_autoptr(FfGuard) g = guard(w);

    for (unsigned i = 0; i < G_N_ELEMENTS(pages); i++) {
        order(w, pages[i], 0xee);
        wait_written(w);
        g_assert_cmpuint(w->map[pages[i] * PAGE], ==, 0xee);
    }
    g_assert_cmpuint(ff_upgrade_commit_pages(w->pact), ==, 4);
    kill_child(w);
    g_clear_pointer(&g, ff_guard_free);
    put_back(w);
    g_assert_cmpint(memcmp(before, w->map, PAGES * PAGE), ==, 0);
}

/* What there is no room for is not written. */
static void test_full(void)
{
    g_autoptr(World) w = world_new();

    if (!can_guard(w)) {
        return;
    }
    g_autoptr(FfGuard) g = guard(w);
    for (unsigned i = 0; i < FF_UPGRADE_COMMIT_PAGES; i++) {
        order(w, i, 0xee);
        wait_written(w);
    }
    order(w, FF_UPGRADE_COMMIT_PAGES, 0xee);
    g_mutex_lock(&w->lock);
    while (!w->failed) {
        g_cond_wait(&w->changed, &w->lock);
    }
    g_mutex_unlock(&w->lock);
    g_assert_cmpint(w->failed, ==, -ENOSPC);
    g_assert_false(has_written(w));
    g_assert_cmpuint(w->map[FF_UPGRADE_COMMIT_PAGES * PAGE], ==, FF_UPGRADE_COMMIT_PAGES + 1);
}

/* The guard's end opens nothing, as long as anybody holds the userfaultfd; another one
 * continues. */
static void test_outlives(void)
{
    g_autoptr(World) w = world_new();

    if (!can_guard(w)) {
        return;
    }
    g_autoptr(FfGuard) g = guard(w);
    struct pollfd p = {w->uffd, POLLIN, 0};

    g_clear_pointer(&g, ff_guard_free);
    order(w, 7, 0xee);
    g_assert_cmpint(poll(&p, 1, 60000), ==, 1); /* it waits */
    g_assert_false(has_written(w));
    g_assert_cmpuint(w->map[7 * PAGE], ==, 8);
    g = guard(w);
    wait_written(w);
    /* A process that waits may be answered before the new guard protects, and come once more. */
    g_assert_cmpuint(ff_upgrade_commit_pages(w->pact), >=, 1);
    g_assert_cmpuint(ff_upgrade_commit_pages(w->pact), <=, 2);
    kill_child(w);
    g_clear_pointer(&g, ff_guard_free);
    put_back(w);
    g_assert_cmpuint(w->map[7 * PAGE], ==, 8);
}

/* ---- the pact -------------------------------------------------------------------------------- */

static void test_word(void)
{
    int fd = ff_upgrade_commit_create(PAGE);
    g_autoptr(FfUpgradeCommit) a = ff_upgrade_commit_map(fd, NULL),
                               b = ff_upgrade_commit_map(fd, NULL);

    g_assert_cmpint(ff_upgrade_commit_word(a), ==, FF_UPGRADE_COMMIT_OPEN);
    g_assert_false(ff_upgrade_commit_change(a, FF_UPGRADE_COMMIT_GIVEN,
                                            FF_UPGRADE_COMMIT_TAKEN)); /* not given yet */
    g_assert_true(ff_upgrade_commit_change(a, FF_UPGRADE_COMMIT_OPEN, FF_UPGRADE_COMMIT_GIVEN));
    g_assert_true(ff_upgrade_commit_change(b, FF_UPGRADE_COMMIT_GIVEN, FF_UPGRADE_COMMIT_TAKEN));
    g_assert_false(ff_upgrade_commit_keep_guest(a));
    g_assert_cmpint(ff_upgrade_commit_word(a), ==, FF_UPGRADE_COMMIT_TAKEN);
    ff_upgrade_commit_set_run_state(a, "paused");
    g_autofree char *state = ff_upgrade_commit_run_state(b);
    g_assert_cmpstr(state, ==, "paused");
    close(fd);
}

typedef struct {
    FfUpgradeCommit *pact;
    bool wins;
} Side;

static gpointer keep_it(gpointer p)
{
    Side *s = p;

    s->wins = ff_upgrade_commit_keep_guest(s->pact);
    return NULL;
}

static gpointer take_it(gpointer p)
{
    Side *s = p;

    s->wins = ff_upgrade_commit_change(s->pact, FF_UPGRADE_COMMIT_GIVEN, FF_UPGRADE_COMMIT_TAKEN);
    return NULL;
}

static void test_race(void)
{
    for (unsigned i = 0; i < 500; i++) {
        int fd = ff_upgrade_commit_create(PAGE);
        g_autoptr(FfUpgradeCommit) a = ff_upgrade_commit_map(fd, NULL),
                                   b = ff_upgrade_commit_map(fd, NULL);
        Side keeps = {a, false}, takes = {b, false};

        g_assert_true(ff_upgrade_commit_change(a, FF_UPGRADE_COMMIT_OPEN, FF_UPGRADE_COMMIT_GIVEN));
        GThread *one = g_thread_new("keeps", keep_it, &keeps);
        GThread *two = g_thread_new("takes", take_it, &takes);
        g_thread_join(one);
        g_thread_join(two);
        g_assert_true(keeps.wins != takes.wins);
        g_assert_cmpint(ff_upgrade_commit_word(a), ==,
                        keeps.wins ? FF_UPGRADE_COMMIT_OLD : FF_UPGRADE_COMMIT_TAKEN);
        close(fd);
    }
}

/* What another process gives in its place. */
static void test_not_one(void)
{
    int fd = memfd_create("none", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    g_autoptr(GError) error = NULL;

    g_assert_null(ff_upgrade_commit_map(-1, NULL));
    g_assert_cmpint(ftruncate(fd, 1 << 20), ==, 0);
    g_assert_null(ff_upgrade_commit_map(fd, &error));
    g_assert_nonnull(strstr(error->message, "of different builds"));
    close(fd);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/guarded/keeps", test_keeps);
    g_test_add_func("/guarded/full", test_full);
    g_test_add_func("/guarded/outlives", test_outlives);
    g_test_add_func("/pact/word", test_word);
    g_test_add_func("/pact/race", test_race);
    g_test_add_func("/pact/not-one", test_not_one);
    return g_test_run();
}
