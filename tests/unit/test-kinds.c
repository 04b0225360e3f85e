/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What docs/decisions.md says of the kinds of userfaultfds: one for missing pages serves one use
 * after the other, also of another holder; and a thread that waits for a write continues when the
 * last holder has gone, and not before.
 */
#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <linux/falloc.h>
#include <poll.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "uffd/uffd.h"

#define PAGE 4096
#define PAGES 64
#define BYTES (PAGES * PAGE)
#define ROUNDS 1000
#define HOLDERS 10 /* one after the other */
#define DEADLINE_MS 60000

typedef struct {
    int memfd, uffd;
    char *map;
    gint done; /* atomic: the thread has got past memory */
} Rig;

static bool rig_new(Rig *r, uint64_t features)
{
    *r = (Rig){.uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK)};
    if (r->uffd < 0 || ff_uffd_init(r->uffd, features, NULL) < 0) {
        g_test_skip(r->uffd < 0 ? "no permission for userfaultfd" : "the kernel is too old");
        return false;
    }
    r->memfd = memfd_create("ram", MFD_CLOEXEC);
    g_assert_cmpint(ftruncate(r->memfd, BYTES), ==, 0);
    r->map = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, r->memfd, 0);
    g_assert_true(r->map != MAP_FAILED);
    return true;
}

static void rig_end(Rig *r)
{
    munmap(r->map, BYTES);
    close(r->memfd);
}

/* The address of the next fault. */
static uint64_t next_fault(int uffd)
{
    struct pollfd p = {.fd = uffd, .events = POLLIN};
    struct uffd_msg msg;

    g_assert_cmpint(poll(&p, 1, DEADLINE_MS), ==, 1);
    g_assert_cmpint(ff_uffd_read(uffd, &msg, 1), ==, 1);
    g_assert_cmpint(msg.event, ==, UFFD_EVENT_PAGEFAULT);
    return msg.arg.pagefault.address & ~(uint64_t)(PAGE - 1);
}

/* ---- missing pages, again and again ---------------------------------------------------------- */

/* Returns how many pages have their number in them. */
static gpointer read_all(gpointer opaque)
{
    const Rig *r = opaque;
    uintptr_t right = 0;

    for (uintptr_t i = 0; i < PAGES; i++) {
        right += ((volatile char *)r->map)[i * PAGE] == (char)(i + 1);
    }
    return (gpointer)right;
}

static void place_all(Rig *r)
{
    char page[PAGE];
    uint64_t done;

    for (unsigned i = 0; i < PAGES; i++) {
        uint64_t at = next_fault(r->uffd);

        g_assert_cmpuint(at, ==, (uintptr_t)r->map + i * PAGE);
        memset(page, (int)i + 1, sizeof(page));
        g_assert_cmpint(ff_uffd_try(r->uffd, FF_UFFD_COPY, at, page, PAGE, &done), ==, 0);
    }
}

static void one_use(Rig *r)
{
    g_assert_cmpint(fallocate(r->memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, BYTES), ==,
                    0);
    g_assert_cmpint(
        ff_uffd_register(r->uffd, (uintptr_t)r->map, BYTES, UFFDIO_REGISTER_MODE_MISSING), ==, 0);
    GThread *reader = g_thread_new("reader", read_all, r);

    place_all(r);
    g_assert_cmpuint((uintptr_t)g_thread_join(reader), ==, PAGES);
    g_assert_cmpint(ff_uffd_unregister(r->uffd, (uintptr_t)r->map, BYTES), ==, 0);
}

static void test_again(void)
{
    Rig r;

    if (!rig_new(&r, UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_THREAD_ID)) {
        return;
    }
    for (unsigned i = 0; i < ROUNDS; i++) {
        if (i % (ROUNDS / HOLDERS) == 0) {
            int next = fcntl(r.uffd, F_DUPFD_CLOEXEC, 0);

            close(r.uffd);
            r.uffd = next;
            /* what the first one asked for stays */
            g_assert_cmpint(ff_uffd_init(next, UFFD_FEATURE_MISSING_SHMEM, NULL), ==, -EINVAL);
            g_assert_cmpint(ff_uffd_init(next, 0, NULL), ==, 0);
        }
        one_use(&r);
    }
    close(r.uffd);
    rig_end(&r);
}

/* The process that used it last has left it registered, and died: the next one registers once
 * more. */
static void test_left_registered(void)
{
    Rig r;

    if (!rig_new(&r, UFFD_FEATURE_MISSING_SHMEM)) {
        return;
    }
    for (unsigned i = 0; i < HOLDERS; i++) {
        int next = fcntl(r.uffd, F_DUPFD_CLOEXEC, 0);

        g_assert_cmpint(
            ff_uffd_register(r.uffd, (uintptr_t)r.map, BYTES, UFFDIO_REGISTER_MODE_MISSING), ==, 0);
        close(r.uffd);
        r.uffd = next;
        one_use(&r);
    }
    close(r.uffd);
    rig_end(&r);
}

/* ---- synchronous write protection ------------------------------------------------------------ */

static gpointer write_one(gpointer opaque)
{
    Rig *r = opaque;

    __atomic_store_n(r->map, 2, __ATOMIC_RELAXED); /* observer: the test, which sees it waiting */
    g_atomic_int_set(&r->done, 1);
    return NULL;
}

static void test_last_holder(void)
{
    Rig r;

    if (!rig_new(&r, FF_UFFD_PROTECTION)) {
        return;
    }
    int other = fcntl(r.uffd, F_DUPFD_CLOEXEC, 0);

    memset(r.map, 1, BYTES);
    g_assert_cmpint(ff_uffd_register_wp(r.uffd, (uintptr_t)r.map, BYTES), ==, 0);
    g_assert_cmpint(ff_uffd_protect(r.uffd, (uintptr_t)r.map, BYTES), ==, 0);
    GThread *writer = g_thread_new("writer", write_one, &r);

    g_assert_cmpuint(next_fault(r.uffd), ==, (uintptr_t)r.map);
    close(r.uffd);
    /* Told again: it waits still. */
    g_assert_cmpint(ff_uffd_wake(other, (uintptr_t)r.map, BYTES), ==, 0);
    g_assert_cmpuint(next_fault(other), ==, (uintptr_t)r.map);
    g_assert_false(g_atomic_int_get(&r.done));
    g_assert_cmpint(__atomic_load_n(r.map, __ATOMIC_RELAXED), ==, 1);
    close(other);
    g_thread_join(writer);
    g_assert_cmpint(r.map[0], ==, 2);
    memset(r.map, 3, BYTES); /* nothing is protected any more */
    rig_end(&r);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/kinds/missing/again", test_again);
    g_test_add_func("/kinds/missing/left-registered", test_left_registered);
    g_test_add_func("/kinds/protect/last-holder", test_last_holder);
    return g_test_run();
}
