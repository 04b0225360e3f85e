/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Arrays of callbacks in trouble: loads and stores that fail, at first and later; a load that a
 * commit overtakes; pages that the program removes, or locks into memory.
 */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/libfarfault/blocks.h"

static void test_fails(gconstpointer data)
{
    const Mode *mode = data;
    File f;

    if (!file_new(&f, 4 * PS, 0, mode->flags)) {
        return;
    }
    uint64_t *p = file_map(&f, 0, 8), *q = file_map(&f, 3, 1);
    int fd = world_file();
    pthread_mutex_lock(&f.lock);
    f.fail_load = -EIO;
    pthread_mutex_unlock(&f.lock);
    g_assert_true(world_is_bus(p + 3 * 4 * WORDS + 5));
    g_assert_true(world_is_bus(p + 3 * 4 * WORDS + WORDS));
    g_assert_true(world_is_bus(q));
    g_assert_cmpint(pwrite(fd, p + 3 * 4 * WORDS, PS, 0), ==, -1);
    g_assert_cmpuint(p[2 * 4 * WORDS], ==, 2);
    g_assert_cmpuint(p[4 * 4 * WORDS], ==, 4);
    assert_states(&f, 3, "FL", "--");
    g_assert_cmpuint(file_get(&f, &f.n_failed), ==, 1);
    pthread_mutex_lock(&f.lock);
    f.fail_load = 0;
    pthread_mutex_unlock(&f.lock);
    g_assert_true(world_is_bus(p + 3 * 4 * WORDS)); /* until somebody says so */
    call(ff_array_invalidate(f.a, 3 * 4 * PS, 4 * PS));
    g_assert_cmpuint(p[3 * 4 * WORDS], ==, 3);
    g_assert_cmpuint(q[0], ==, 3);
    /* It was loaded before, and what was mapped has left its mark in the page tables. */
    g_assert_cmpint(ff_array_reclaim(f.a, SIZE_MAX), >, 0);
    pthread_mutex_lock(&f.lock);
    f.fail_load = -EIO;
    pthread_mutex_unlock(&f.lock);
    g_assert_true(world_is_bus(p + 3 * 4 * WORDS + WORDS));
    g_assert_true(world_is_bus(q));
    pthread_mutex_lock(&f.lock);
    f.fail_load = 0;
    pthread_mutex_unlock(&f.lock);
    call(ff_array_invalidate(f.a, 3 * 4 * PS, 4 * PS));
    g_assert_cmpuint(p[3 * 4 * WORDS], ==, 3);
    /* A store that fails, twice: all stays changed, and it can be tried again. */
    p[2 * 4 * WORDS] = 12, p[3 * 4 * WORDS] = 13, p[4 * 4 * WORDS] = 14;
    pthread_mutex_lock(&f.lock);
    f.fail_store = -ENOSPC;
    pthread_mutex_unlock(&f.lock);
    for (unsigned i = 0; i < 2; i++) {
        g_assert_cmpint(ff_array_commit(f.a), ==, -ENOSPC);
        assert_states(&f, 2, "LLL", "ddd");
        g_assert_cmpuint(p[3 * 4 * WORDS], ==, 13);
    }
    pthread_mutex_lock(&f.lock);
    f.fail_store = 0;
    pthread_mutex_unlock(&f.lock);
    call(ff_array_commit(f.a));
    assert_states(&f, 2, "LLL", "---");
    g_assert_cmpuint(f.words[3 * 4 * WORDS], ==, 13);
    g_assert_cmpuint(f.stores[4], ==, 1);
    close(fd);
    file_free(&f);
}

static void set_late(File *f, unsigned late)
{
    pthread_mutex_lock(&f->lock);
    f->late = late;
    pthread_cond_broadcast(&f->changed);
    pthread_mutex_unlock(&f->lock);
}

/* A block that is read while it is committed, and has begun to load before, is what was committed:
 * what it held had no room in memory, and is in the log. */
static void test_load_while_stored(gconstpointer data)
{
    const Mode *mode = data;
    File f;

    if (!file_new(&f, 4 * PS, 4, mode->flags)) {
        return;
    }
    uint64_t *p = file_map(&f, 0, 0);
    p[0] = 1000;
    for (unsigned b = 1; b < 8; b++) {
        p[b * 4 * WORDS] = 2000;
    }
    assert_states(&f, 0, "E", "d");
    set_late(&f, 1);
    GThread *reader = g_thread_new("reader", read_word, p);
    file_wait_loading(&f, 1);
    call(ff_array_commit(f.a));
    set_late(&f, 0);
    g_assert_cmpuint(GPOINTER_TO_SIZE(g_thread_join(reader)), ==, 1000);
    g_assert_cmpuint(p[0], ==, 1000);
    g_assert_cmpuint(f.words[0], ==, 1000);
    file_free(&f);
}

/* A page that the program removes is zeros, which is a change. */
static void test_removed(gconstpointer data)
{
    const Mode *mode = data;
    File f;

    if (!file_new(&f, 4 * PS, 0, mode->flags)) {
        return;
    }
    uint64_t *p = file_map(&f, 0, 0), *q = file_map(&f, 0, 0);
    p[0] = 1, p[WORDS] = 2;
    g_assert_cmpuint(p[5 * WORDS], ==, 1);
    g_assert_cmpint(madvise(p, PS, MADV_REMOVE), ==, 0);
    g_assert_cmpint(madvise(p + 5 * WORDS, PS, MADV_REMOVE), ==, 0);
    g_assert_cmpuint(p[0], ==, 0);
    g_assert_cmpuint(q[0], ==, 0);
    g_assert_cmpuint(p[5 * WORDS], ==, 0); /* shown here, and not changed */
    g_assert_cmpuint(q[5 * WORDS], ==, 0);
    g_assert_cmpuint(p[6 * WORDS], ==, 1);
    g_assert_cmpuint(p[WORDS], ==, 2);
    file_free(&f);
}

/* All that the program maps is locked into memory, and filled by the kernel: but for this. */
static void test_locked(gconstpointer data)
{
    const Mode *mode = data;
    File f;

    if (!world_lock_memory()) {
        return;
    }
    bool made = file_new(&f, 4 * PS, 8, mode->flags);
    uint64_t *p = made ? file_map(&f, 0, 0) : NULL;
    if (made) {
        g_assert_cmpuint(p[5 * 4 * WORDS], ==, 5);
        g_assert_cmpint(mlock(p, 4 * 4 * PS), ==, 0); /* which loads it, and keeps nothing */
    }
    g_assert_cmpint(munlockall(), ==, 0);
    if (!made) {
        return;
    }
    g_assert_cmpint(mlock(p, 4 * 4 * PS), ==, 0);
    for (unsigned i = 0; i < BLOCKS; i++) {
        p[i * 4 * WORDS + 1] = 1000 + i; /* most of it leaves memory */
    }
    FfArrayStats stats = {.size = sizeof(stats)};
    call(ff_array_stats(f.a, &stats));
    g_assert_cmpuint(stats.bytes, <=, 8 * 4 * PS);
    for (unsigned i = 0; i < BLOCKS; i++) {
        g_assert_cmpuint(p[i * 4 * WORDS], ==, i);
        g_assert_cmpuint(p[i * 4 * WORDS + 1], ==, 1000 + i);
    }
    call(ff_array_commit(f.a));
    g_assert_cmpuint(f.words[1], ==, 1000);
    file_free(&f);
}

static void on_segv(int sig)
{
    _exit(7);
}

static gpointer unmap(gpointer opaque)
{
    File *f = opaque;

    file_wait_loading(f, 1);
    call(ff_array_unmap(f->a, (void *)(uintptr_t)f->nested));
    /* This process maps nothing any more: a thread that waited would find it in place of what was
     * there. */
    for (;;) {
        pause();
    }
    return NULL;
}

/* A thread that touches what is being unmapped does not wait for ever. */
static void test_unmapped(void)
{
    pid_t parent = getpid(), pid = fork();
    int status;
    File f;

    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        signal(SIGSEGV, on_segv);
        if (getppid() != parent || !file_new(&f, PS, 0, 0)) {
            _exit(77);
        }
        file_hold(&f, 1);
        f.nested = file_map(&f, 0, 8);
        g_thread_unref(g_thread_new("unmapper", unmap, &f));
        read_word((gpointer)f.nested);
        _exit(1);
    }
    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
        g_test_skip("no permission for userfaultfd");
    } else {
        g_assert_true(WIFEXITED(status));
        g_assert_cmpint(WEXITSTATUS(status), ==, 7);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    add_modes("fails", test_fails, 2);
    add_modes("load-while-stored", test_load_while_stored, 2);
    add_modes("removed", test_removed, 2);
    add_modes("locked", test_locked, 2);
    g_test_add_func("/libfarfault/array/unmapped", test_unmapped);
    return g_test_run();
}
