/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Huge pages made of small ones that came one by one (uffd/huge.h). */
#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "uffd/huge.h"
#include "uffd/uffd.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif
#define PIECES 6
#define SIZE (PIECES * FF_HUGE_PAGE)
#define PAGE 4096ull

typedef struct {
    int fd;
    char *area, *map; /* "QEMU's" */
} Memory;

static void begin(Memory *m)
{
    *m = (Memory){.fd = memfd_create("huge", MFD_CLOEXEC)};
    g_assert_cmpint(ftruncate(m->fd, SIZE), ==, 0);
    m->area = mmap(NULL, SIZE + FF_HUGE_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    g_assert_true(m->area != MAP_FAILED);
    uintptr_t at = ((uintptr_t)m->area + FF_HUGE_PAGE - 1) & ~(uintptr_t)(FF_HUGE_PAGE - 1);
    m->map = mmap((void *)at, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, m->fd, 0);
    g_assert_true(m->map == (char *)at);
    for (uint64_t i = 0; i < SIZE / PAGE; i++) {
        memset(m->map + i * PAGE, (int)(i % 251) + 1, PAGE);
    }
}

static void end(Memory *m)
{
    munmap(m->area, SIZE + FF_HUGE_PAGE);
    close(m->fd);
}

/* Why the kernel makes no huge page of shared memory, whoever asks; NULL: it does. */
static const char *why_none(void)
{
    Memory m;

    begin(&m);
    int rc = madvise(m.map, FF_HUGE_PAGE, MADV_COLLAPSE);
    end(&m);
    return rc < 0 ? "this kernel makes no huge pages of shared memory when it is asked to" : NULL;
}

static void check_content(const Memory *m, uint64_t hole)
{
    for (uint64_t i = 0; i < SIZE / PAGE; i++) {
        const char *p = m->map + i * PAGE;
        char want = i == hole ? 0 : (char)((i % 251) + 1);

        if (i != hole) { /* looking at it would fill it */
            g_assert_true(p[0] == want && p[PAGE - 1] == want);
        }
    }
}

/* Of the mapping: bytes in huge pages. */
static uint64_t huge_bytes(const Memory *m)
{
    g_autofree char *text = NULL, *head = g_strdup_printf("%lx-", (unsigned long)m->map);

    g_assert_true(g_file_get_contents("/proc/self/smaps", &text, NULL, NULL));
    const char *at = strstr(text, head), *line = at ? strstr(at, "ShmemPmdMapped:") : NULL;
    g_assert_nonnull(line);
    return g_ascii_strtoull(line + strlen("ShmemPmdMapped:"), NULL, 10) << 10;
}

/* Those without a hole. Returns how many are huge now. */
static unsigned collapse_all(const Memory *m)
{
    g_autoptr(FfHugeMap) map = ff_huge_map_new(m->fd, SIZE + PAGE);
    unsigned n = 0;

    g_assert_nonnull(map);
    for (unsigned i = 0; i < PIECES; i++) {
        int rc = ff_huge_map_collapse(map, i);
        g_assert_cmpint(rc, >=, 0);
        n += rc;
    }
    return n;
}

static void punch(const Memory *m, uint64_t page)
{
    int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;

    g_assert_cmpint(fallocate(m->fd, mode, (off_t)(page * PAGE), PAGE), ==, 0);
}

/* All but the piece with a hole, which stays a hole; content stays. */
static void test_collapse(void)
{
    const uint64_t hole = 2 * FF_HUGE_PAGE / PAGE + 7;
    const char *why = why_none();
    Memory m;

    if (why) {
        g_test_skip(why);
        return;
    }
    begin(&m);
    punch(&m, hole);
    g_assert_cmpuint(collapse_all(&m), ==, PIECES - 1);
    check_content(&m, hole);
    g_assert_cmpuint(huge_bytes(&m), ==, (PIECES - 1) * FF_HUGE_PAGE);
    g_assert_cmpint(lseek(m.fd, 0, SEEK_HOLE), ==, (off_t)(hole * PAGE));
    end(&m);
}

/* Where missing pages are waited for: a piece becomes huge, and the page that is then given back
 * stays a hole. */
static void test_registered(void)
{
    const uint64_t hole = FF_HUGE_PAGE / PAGE + 3;
    const char *why = why_none();
    Memory m;

    if (why) {
        g_test_skip(why);
        return;
    }
    int uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    if (uffd < 0) {
        g_test_skip("userfaultfd: not permitted");
        return;
    }
    begin(&m);
    g_assert_cmpint(ff_uffd_init(uffd, 0, NULL), ==, 0);
    g_assert_cmpint(ff_uffd_register(uffd, (uintptr_t)m.map, SIZE, UFFDIO_REGISTER_MODE_MISSING),
                    ==, 0);
    punch(&m, hole);
    g_assert_cmpuint(collapse_all(&m), ==, PIECES - 1);
    check_content(&m, hole);
    g_assert_cmpuint(huge_bytes(&m), ==, (PIECES - 1) * FF_HUGE_PAGE);
    punch(&m, 7);
    g_assert_cmpint(lseek(m.fd, 0, SEEK_HOLE), <=, (off_t)(hole * PAGE));
    close(uffd);
    end(&m);
}

/* A dump of the process (gcore) must not read holes: they would be filled, and nobody asked. */
static void test_dump(void)
{
    g_autofree char *text = NULL;
    Memory m;

    begin(&m);
    g_autoptr(FfHugeMap) map = ff_huge_map_new(m.fd, SIZE);
    g_assert_nonnull(map);
    g_assert_true(g_file_get_contents("/proc/self/smaps", &text, NULL, NULL));
    char *at = strstr(text, "memfd:huge");
    while (at &&
           !g_str_has_prefix(strchr(g_strrstr_len(text, at - text, "\n") + 1, ' '), " ---s ")) {
        at = strstr(at + 1, "memfd:huge");
    }
    g_assert_nonnull(at);
    char *flags = strstr(at, "\nVmFlags:");
    g_assert_nonnull(flags);
    flags += strlen("\nVmFlags:");
    flags[strcspn(flags, "\n")] = '\0';
    g_assert_nonnull(strstr(flags, " dd"));
    end(&m);
}

/* Less than a piece; a file that cannot be mapped. */
static void test_none(void)
{
    g_assert_null(ff_huge_map_new(-1, FF_HUGE_PAGE - PAGE));
    g_assert_cmpint(errno, ==, EINVAL);
    g_assert_null(ff_huge_map_new(-1, FF_HUGE_PAGE));
    g_assert_cmpint(errno, ==, EBADF);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/huge/collapse", test_collapse);
    g_test_add_func("/huge/registered", test_registered);
    g_test_add_func("/huge/dump", test_dump);
    g_test_add_func("/huge/none", test_none);
    return g_test_run();
}
