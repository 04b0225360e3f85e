/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Memory is taken out of a userfaultfd while another thread runs over pages of it that are not
 * there: that thread may not be left waiting. (The kernel wakes the threads that wait before it
 * takes the range out, and a fault can come in between; see uffd.c.)
 */
#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <linux/falloc.h>
#include <sched.h>
#include <semaphore.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "uffd/uffd.h"

#define PAGES 4096
#define BYTES (PAGES * 4096)
#define ROUNDS 1000
#define SECONDS 60 /* nobody waits so long for a processor */

static char *map;
static int memfd;
static sem_t came_by;
static gint round_now; /* atomic; -1: the end */

/* Only on two processors the fault and the ioctl meet. On a machine with one this fails, and the
 * test still holds. */
static void run_on(unsigned cpu)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    sched_setaffinity(0, sizeof(set), &set);
}

/* Touches pages that are not there, and says once in each round that it came by. */
static gpointer touch(gpointer unused)
{
    gint seen = 0, now;

    run_on(1);
    for (unsigned page = 0; (now = g_atomic_int_get(&round_now)) >= 0; page = (page + 1) % PAGES) {
        if (page == 0) {
            fallocate(memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, BYTES);
        }
        (void)*(volatile char *)(map + page * 4096);
        if (now != seen) {
            seen = now;
            sem_post(&came_by);
        }
    }
    return NULL;
}

static bool wait_until_it_came_by(void)
{
    struct timespec until;
    int rc;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += SECONDS;
    do {
        rc = sem_clockwait(&came_by, CLOCK_MONOTONIC, &until);
    } while (rc < 0 && errno == EINTR);
    return rc == 0;
}

static void test_nobody_waits(void)
{
    int uffd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

    if (uffd < 0) {
        g_test_skip("no permission for userfaultfd");
        return;
    }
    memfd = memfd_create("ram", MFD_CLOEXEC);
    g_assert_cmpint(ff_uffd_init(uffd, UFFD_FEATURE_MISSING_SHMEM, NULL), ==, 0);
    g_assert_cmpint(ftruncate(memfd, BYTES), ==, 0);
    map = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
    g_assert_true(map != MAP_FAILED);
    sem_init(&came_by, 0, 0);
    GThread *toucher = g_thread_new("toucher", touch, NULL);
    run_on(0);
    for (unsigned i = 0; i < ROUNDS; i++) {
        g_assert_cmpint(ff_uffd_register(uffd, (uintptr_t)map, BYTES, UFFDIO_REGISTER_MODE_MISSING),
                        ==, 0);
        g_assert_cmpint(ff_uffd_unregister(uffd, (uintptr_t)map, BYTES), ==, 0);
        g_atomic_int_inc(&round_now);
        if (!wait_until_it_came_by()) {
            g_error("round %u: a thread waits for a page that is registered no more", i);
        }
    }
    g_atomic_int_set(&round_now, -1);
    g_thread_join(toucher);
    sem_destroy(&came_by);
    munmap(map, BYTES);
    close(memfd);
    close(uffd);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/unregister/nobody-waits", test_nobody_waits);
    return g_test_run();
}
