/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The hook in front of discards, as it stands in QEMU: this program is linked with it, so each
 * fallocate() and madvise() here goes through it. Armed, it drops what would destroy guest RAM, and
 * nothing else; not armed, nothing; and then it costs next to nothing. And the copy of what is said
 * on stderr: its last lines, of bounded length, with nothing in them that harms a terminal.
 */
#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <linux/falloc.h>
#include <linux/memfd.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "contract/discards.h"
#include "contract/stderr.h"
#include "guest/agent/hook.h"
#include "guest/agent/stderr.h"
#include "tests/lib/hugepages.h"

#define PAGE 4096
#define PAGES 16
#define BYTES (PAGES * PAGE)
#define PUNCH (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)

/* With offsets of 64 bits the headers make one name of both. */
int plain_fallocate(int fd, int mode, long offset, long len) __asm__("fallocate");

static int hook_fd;
static FfDiscards *discards; /* as the engine has it */

typedef struct {
    int fd;
    char *map;
    size_t size;
} File;

static void file_new(File *f, const char *name, unsigned flags, size_t size)
{
    f->size = size;
    f->fd = memfd_create(name, MFD_CLOEXEC | flags);
    g_assert_cmpint(f->fd, >=, 0);
    g_assert_cmpint(ftruncate(f->fd, size), ==, 0);
    f->map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, f->fd, 0);
    g_assert_true(f->map != MAP_FAILED);
    memset(f->map, 0x5a, size);
}

static void file_end(File *f)
{
    munmap(f->map, f->size);
    close(f->fd);
}

static void arm(const File *ram)
{
    g_assert_cmpint(ff_discards_add_file(discards, ram->fd), ==, 0);
    g_assert_cmpint(ff_discards_add_range(discards, (uintptr_t)ram->map, ram->size), ==, 0);
    ff_discards_arm(discards);
}

static uint64_t dropped(void)
{
    uint64_t bytes;

    return ff_discards_dropped(discards, &bytes);
}

static uint64_t dropped_bytes(void)
{
    uint64_t bytes;

    ff_discards_dropped(discards, &bytes);
    return bytes;
}

/* Bytes that the file has. */
static uint64_t allocated(int fd)
{
    struct stat st;

    g_assert_cmpint(fstat(fd, &st), ==, 0);
    return (uint64_t)st.st_blocks * 512;
}

/* PAGE number I of the process's page tables is there. */
static bool is_present(const void *at)
{
    int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    uint64_t entry = 0;

    g_assert_cmpint(pread(fd, &entry, sizeof(entry), (uintptr_t)at / PAGE * sizeof(entry)), ==,
                    sizeof(entry));
    close(fd);
    return entry >> 63;
}

static void expect_errno(int rc, int error)
{
    g_assert_cmpint(rc, ==, -1);
    g_assert_cmpint(errno, ==, error);
}

/* ---- files ----------------------------------------------------------------------------------- */

static void test_files(void)
{
    File ram, other;
    uint64_t before = dropped(), bytes = dropped_bytes();

    file_new(&ram, "ram", 0, BYTES);
    file_new(&other, "other", 0, BYTES);
    g_assert_cmpint(fallocate(ram.fd, PUNCH, 0, PAGE), ==, 0);
    g_assert_cmpuint(allocated(ram.fd), ==, BYTES - PAGE);
    g_assert_cmpint(ram.map[0], ==, 0);

    arm(&ram);
    errno = 4711;
    g_assert_cmpint(fallocate(ram.fd, PUNCH, PAGE, 2 * PAGE), ==, 0);
    g_assert_cmpint(plain_fallocate(ram.fd, PUNCH, PAGE, PAGE), ==, 0);
    g_assert_cmpint(errno, ==, 4711);
    g_assert_cmpuint(allocated(ram.fd), ==, BYTES); /* the first page was read, above */
    g_assert_cmpint(ram.map[PAGE], ==, 0x5a);
    g_assert_cmpint(ram.map[2 * PAGE], ==, 0x5a);
    g_assert_cmpuint(dropped() - before, ==, 2);
    g_assert_cmpuint(dropped_bytes() - bytes, ==, 3 * PAGE);

    g_assert_cmpint(fallocate(other.fd, PUNCH, 0, PAGE), ==, 0);
    g_assert_cmpint(plain_fallocate(other.fd, PUNCH, PAGE, PAGE), ==, 0);
    g_assert_cmpuint(allocated(other.fd), ==, BYTES - 2 * PAGE);
    g_assert_cmpuint(dropped() - before, ==, 2);

    g_assert_true(ff_discards_disarm(discards));
    g_assert_false(ff_discards_disarm(discards));
    g_assert_cmpint(fallocate(ram.fd, PUNCH, PAGE, PAGE), ==, 0);
    g_assert_cmpuint(allocated(ram.fd), ==, BYTES - PAGE);
    g_assert_cmpuint(dropped() - before, ==, 2);
    file_end(&ram);
    file_end(&other);
}

/* As QEMU does it: by the name of an fd. And as an image of a disk is punched. */
static void test_opened_again(void)
{
    g_autofree char *path = g_strdup("hook-XXXXXX.img"), *name = NULL;
    g_autofree char *page = g_malloc(BYTES);
    File ram;

    file_new(&ram, "ram", 0, BYTES);
    name = g_strdup_printf("/proc/self/fd/%d", ram.fd);
    int again = open(name, O_RDWR | O_CLOEXEC);
    g_autofree char *image_path = g_build_filename(g_get_tmp_dir(), path, NULL);
    int image = g_mkstemp(image_path);
    g_assert_cmpint(image, >=, 0);
    g_unlink(image_path);
    memset(page, 1, BYTES);
    g_assert_cmpint(write(image, page, BYTES), ==, BYTES);

    arm(&ram);
    g_assert_cmpint(fallocate(again, PUNCH, 0, BYTES), ==, 0);
    g_assert_cmpuint(allocated(ram.fd), ==, BYTES);
    if (fallocate(image, PUNCH, 0, BYTES) < 0) {
        g_assert_cmpint(errno, ==, EOPNOTSUPP); /* this file system cannot; the kernel was asked */
    } else {
        g_assert_cmpint(pread(image, page, BYTES, 0), ==, BYTES);
        g_assert_cmpint(page[0], ==, 0);
    }
    ff_discards_disarm(discards);
    close(image);
    close(again);
    file_end(&ram);
}

/* What the kernel refuses is refused by it, also when armed; and what is no discard is done. */
static void test_kernels_words(gconstpointer data)
{
    bool armed = data;
    uint64_t before = dropped();
    File ram;

    file_new(&ram, "ram", 0, BYTES);
    if (armed) {
        arm(&ram);
    }
    expect_errno(fallocate(ram.fd, PUNCH, -PAGE, PAGE), EINVAL);
    expect_errno(fallocate(ram.fd, PUNCH, 0, 0), EINVAL);
    expect_errno(fallocate(ram.fd, PUNCH, 0, -PAGE), EINVAL);
    expect_errno(fallocate(ram.fd, FALLOC_FL_PUNCH_HOLE, 0, PAGE), EOPNOTSUPP);
    expect_errno(fallocate(ram.fd, FALLOC_FL_ZERO_RANGE, 0, PAGE), EOPNOTSUPP);
    expect_errno(fallocate(-1, PUNCH, 0, PAGE), EBADF);
    expect_errno(madvise(ram.map + 1, PAGE, MADV_REMOVE), EINVAL);
    expect_errno(madvise(ram.map, PAGE, MADV_FREE), EINVAL);
    expect_errno(madvise(ram.map, PAGE, 4711), EINVAL);
    g_assert_cmpint(madvise(ram.map, PAGE, MADV_WILLNEED), ==, 0);
    g_assert_cmpint(madvise(ram.map, 0, MADV_REMOVE), ==, 0);
    g_assert_cmpint(fallocate(ram.fd, 0, BYTES, PAGE), ==, 0); /* the file grows */
    g_assert_cmpuint(allocated(ram.fd), ==, BYTES + PAGE);
    g_assert_cmpint(ram.map[0], ==, 0x5a);
    g_assert_cmpuint(dropped(), ==, before);
    ff_discards_disarm(discards);
    file_end(&ram);
}

static void test_huge(void)
{
    HugePages *pool = hugepages_new(2);

    if (!pool) {
        return;
    }
    File ram;
    size_t huge = HUGEPAGE;

    file_new(&ram, "ram", MFD_HUGETLB | 21u << MFD_HUGE_SHIFT, 2 * huge);
    arm(&ram);
    g_assert_cmpint(fallocate(ram.fd, PUNCH, 0, huge), ==, 0);
    g_assert_cmpint(madvise(ram.map + huge, huge, MADV_REMOVE), ==, 0);
    g_assert_cmpuint(allocated(ram.fd), ==, 2 * huge);
    g_assert_cmpint(ram.map[huge], ==, 0x5a);
    ff_discards_disarm(discards);
    g_assert_cmpint(fallocate(ram.fd, PUNCH, 0, huge), ==, 0);
    g_assert_cmpuint(allocated(ram.fd), ==, huge);
    file_end(&ram);
    hugepages_free(pool);
}

/* ---- mappings -------------------------------------------------------------------------------- */

static void test_mappings(void)
{
    uint64_t before = dropped(), bytes = dropped_bytes();
    File ram, other;
    char *own = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    file_new(&ram, "ram", 0, BYTES);
    file_new(&other, "other", 0, BYTES);
    memset(own, 1, BYTES);
    arm(&ram);
    g_assert_cmpint(madvise(ram.map, PAGE, MADV_DONTNEED), ==, 0);
    g_assert_true(is_present(ram.map));
    g_assert_cmpuint(dropped(), ==, before); /* nothing would have been lost */
    g_assert_cmpint(madvise(ram.map + PAGE, PAGE, MADV_REMOVE), ==, 0);
    g_assert_cmpint(ram.map[PAGE], ==, 0x5a);
    g_assert_cmpint(madvise(ram.map + BYTES - PAGE, PAGE, MADV_REMOVE), ==, 0); /* the last one */
    g_assert_cmpuint(allocated(ram.fd), ==, BYTES);
    g_assert_cmpuint(dropped() - before, ==, 2);
    g_assert_cmpuint(dropped_bytes() - bytes, ==, 2 * PAGE);

    g_assert_cmpint(madvise(other.map, PAGE, MADV_REMOVE), ==, 0);
    g_assert_cmpuint(allocated(other.fd), ==, BYTES - PAGE);
    g_assert_cmpint(madvise(other.map + PAGE, PAGE, MADV_DONTNEED), ==, 0);
    g_assert_false(is_present(other.map + PAGE));
    g_assert_cmpint(madvise(own, PAGE, MADV_DONTNEED), ==, 0);
    g_assert_cmpint(own[0], ==, 0);
    g_assert_cmpint(madvise(own + PAGE, PAGE, MADV_FREE), ==, 0);

    ff_discards_disarm(discards);
    g_assert_cmpint(madvise(ram.map, PAGE, MADV_DONTNEED), ==, 0);
    g_assert_false(is_present(ram.map));
    g_assert_cmpint(madvise(ram.map, PAGE, MADV_REMOVE), ==, 0);
    g_assert_cmpuint(allocated(ram.fd), ==, BYTES - PAGE);
    g_assert_cmpuint(dropped() - before, ==, 2);
    munmap(own, BYTES);
    file_end(&ram);
    file_end(&other);
}

/* ---- the shared memory ----------------------------------------------------------------------- */

static void test_refused(void)
{
    FfDiscards *d;
    int fd = memfd_create("small", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    g_assert_cmpint(ff_discards_map(-1, &d), ==, -EINVAL);
    g_assert_cmpint(ff_discards_map(STDERR_FILENO, &d), ==, -EINVAL);
    g_assert_cmpint(ftruncate(fd, sizeof(FfDiscardsPage)), ==, 0);
    g_assert_cmpint(ff_discards_map(fd, &d), ==, -EINVAL); /* it may shrink */
    g_assert_cmpint(fcntl(fd, F_ADD_SEALS, FF_DISCARDS_SEALS), ==, 0);
    g_assert_cmpint(ff_discards_map(fd, &d), ==, -EINVAL); /* no magic */
    uint32_t begin[] = {FF_DISCARDS_MAGIC, FF_DISCARDS_VERSION + 1};
    g_assert_cmpint(pwrite(fd, begin, sizeof(begin), 0), ==, sizeof(begin));
    g_assert_cmpint(ff_discards_map(fd, &d), ==, -EINVAL);
    begin[1]--;
    g_assert_cmpint(pwrite(fd, begin, sizeof(begin), 0), ==, sizeof(begin));
    g_assert_cmpint(ff_discards_map(fd, &d), ==, 0);
    ff_discards_free(d);
    close(fd);
}

/* The tables have an end, also where the process that has the hook has written to them. */
static void test_full(void)
{
    FfDiscardsPage *page =
        mmap(NULL, sizeof(*page), PROT_READ | PROT_WRITE, MAP_SHARED, hook_fd, 0);
    File ram;

    file_new(&ram, "ram", 0, BYTES);
    g_assert_cmpint(ftruncate(hook_fd, sizeof(*page) - 1), ==, -1);
    page->n_files = page->n_ranges = UINT32_MAX;
    for (unsigned i = 0; i < FF_DISCARDS_MAX; i++) {
        g_assert_cmpint(ff_discards_add_file(discards, ram.fd), ==, 0);
        g_assert_cmpint(ff_discards_add_range(discards, i * PAGE, PAGE), ==, 0);
    }
    g_assert_cmpint(ff_discards_add_file(discards, ram.fd), ==, -E2BIG);
    g_assert_cmpint(ff_discards_add_range(discards, 0, PAGE), ==, -E2BIG);
    g_assert_cmpint(ff_discards_add_file(discards, -1), ==, -E2BIG);
    ff_discards_arm(discards);
    g_assert_cmpint(ff_discards_add_file(discards, ram.fd), ==, -EBUSY);
    g_assert_cmpint(ff_discards_add_range(discards, 0, PAGE), ==, -EBUSY);
    page->n_files = page->n_ranges = UINT32_MAX;
    g_assert_cmpint(fallocate(ram.fd, PUNCH, 0, PAGE), ==, 0);
    g_assert_cmpuint(allocated(ram.fd), ==, BYTES);
    ff_discards_disarm(discards);
    g_assert_cmpint(ff_discards_add_file(discards, -1), ==, -EBADF);
    file_end(&ram);
    munmap(page, sizeof(*page));
}

/* ---- stderr ---------------------------------------------------------------------------------- */

/* As QEMU's error_vprintf(); with _FORTIFY_SOURCE that is the other one of the two. */
int plain_vfprintf(FILE *stream, const char *format, va_list ap) __asm__("vfprintf");
int checked_vfprintf(FILE *stream, int flag, const char *format,
                     va_list ap) __asm__("__vfprintf_chk");

static bool checked;

static int G_GNUC_PRINTF(2, 3) say_to(FILE *stream, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    int n = checked ? checked_vfprintf(stream, 1, format, ap) : plain_vfprintf(stream, format, ap);
    va_end(ap);
    return n;
}

/* What is said goes to a file, as it is, and the copy is what is expected. */
typedef struct {
    int saved, file;
    uint64_t before;
} Said;

static Said said_begin(void)
{
    Said s = {.saved = dup(STDERR_FILENO), .file = memfd_create("stderr", MFD_CLOEXEC)};

    g_assert_cmpint(dup2(s.file, STDERR_FILENO), ==, STDERR_FILENO);
    s.before = ff_stderr_written(hook_fd);
    return s;
}

static void said_end(Said *s, const char *written, const char *copy)
{
    g_autofree char *file = g_malloc0(1 << 20), *last = ff_stderr_since(hook_fd, s->before);

    g_assert_cmpint(dup2(s->saved, STDERR_FILENO), ==, STDERR_FILENO);
    g_assert_cmpint(pread(s->file, file, (1 << 20) - 1, 0), >=, 0);
    close(s->saved);
    close(s->file);
    if (written) {
        g_assert_cmpstr(file, ==, written);
    }
    g_assert_cmpstr(last, ==, copy);
}

static void test_said(void)
{
    for (int i = 0; i < 2; i++) {
        checked = i;
        Said s = said_begin();
        g_assert_cmpint(say_to(stderr, "2026-11-23T03:40:11.5Z vm1 qemu-system-x86_64: "), ==, 47);
        errno = EINVAL;
        say_to(stderr, "no %s: %m", "device");
        g_assert_cmpint(errno, ==, EINVAL);
        say_to(stderr, "\n");
        say_to(stderr, "%s", "\nqemu-kvm: load failed\n");
        said_end(&s,
                 "2026-11-23T03:40:11.5Z vm1 qemu-system-x86_64: no device: Invalid argument\n"
                 "\nqemu-kvm: load failed\n",
                 "no device: Invalid argument; load failed");
    }
}

/* Another file's, and what was there before. */
static void test_not_said(void)
{
    say_to(stderr, "# before\n");
    Said s = said_begin();
    FILE *other = fdopen(memfd_create("other", MFD_CLOEXEC), "w");
    g_assert_cmpint(say_to(other, "other\n"), ==, 6);
    fclose(other);
    said_end(&s, "", NULL);
    g_assert_null(ff_stderr_since(-1, 0));
    g_assert_null(ff_stderr_since(STDERR_FILENO, 0));
    g_assert_cmpuint(ff_stderr_written(-1), ==, 0);
    /* A QEMU that says that it has written less than before. */
    g_assert_null(ff_stderr_since(hook_fd, UINT64_MAX));
}

static void test_harmless(void)
{
    Said s = said_begin();

    say_to(stderr, "a\x1b[2Jb\xff\xc3\xa4\tc\r\n%c\n", 7);
    said_end(&s, NULL, "a?[2Jb????c?; ?");
}

/* The last lines that have room, whole; of one that has none its beginning. */
static void test_bounded(void)
{
    g_autofree char *line = g_strnfill(100, 'x');
    g_autofree char *lines = g_strdup_printf("%s; %s; %s; %s; last", line, line, line, line);
    g_autofree char *endless = g_strnfill(100000, 'y'), *cut = g_strnfill(FF_STDERR_MAX, 'y');
    Said s = said_begin();

    for (int i = 0; i < 1000; i++) {
        say_to(stderr, "%s\n", line);
    }
    say_to(stderr, "last\n");
    said_end(&s, NULL, lines);
    s = said_begin();
    say_to(stderr, "%s\n", endless);
    said_end(&s, NULL, cut);
    s = said_begin();
    say_to(stderr, "%s", "no line end");
    said_end(&s, "no line end", "no line end");
    say_to(stderr, "\n");
}

/* ---- what it costs --------------------------------------------------------------------------- */

static int direct(int fd, int mode, long offset, long len)
{
    return (int)syscall(SYS_fallocate, fd, mode, offset, len);
}

/* Nanoseconds of a call that fails at once, in the best of some rounds. */
static double cost(int (*call)(int, int, long, long))
{
    double best = 1e9;

    for (unsigned round = 0; round < 50; round++) {
        const unsigned n = 2000;
        gint64 begin = g_get_monotonic_time();
        for (unsigned i = 0; i < n; i++) {
            call(-1, PUNCH, 0, PAGE);
        }
        best = MIN(best, (g_get_monotonic_time() - begin) * 1000.0 / n);
    }
    return best;
}

static void test_cost(void)
{
    double with = cost(plain_fallocate), without = cost(direct);

    g_test_message("a call that the kernel refuses: %.0f ns with the hook, %.0f without", with,
                   without);
    g_assert_cmpfloat(with, <, without + 100);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    hook_fd = ff_hook_start();
    g_assert_cmpint(hook_fd, >=, 0);
    g_assert_cmpint(ff_discards_map(hook_fd, &discards), ==, 0);
    g_test_add_func("/hook/files", test_files);
    g_test_add_func("/hook/opened-again", test_opened_again);
    g_test_add_data_func("/hook/kernels-words/unarmed", NULL, test_kernels_words);
    g_test_add_data_func("/hook/kernels-words/armed", "yes", test_kernels_words);
    g_test_add_func("/hook/huge", test_huge);
    g_test_add_func("/hook/mappings", test_mappings);
    g_test_add_func("/hook/refused", test_refused);
    g_test_add_func("/hook/full", test_full);
    g_test_add_func("/hook/cost", test_cost);
    ff_stderr_start(hook_fd);
    g_test_add_func("/hook/stderr/said", test_said);
    g_test_add_func("/hook/stderr/not-said", test_not_said);
    g_test_add_func("/hook/stderr/harmless", test_harmless);
    g_test_add_func("/hook/stderr/bounded", test_bounded);
    return g_test_run();
}
