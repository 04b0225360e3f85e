/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the agent does for a QEMU that is to take over a guest, so that the guest stands less long:
 * private memory is filled (guest/agent/preallocate.c), and for a while no cache of an image is
 * dropped (guest/agent/caches.c), in front of this program's own calls.
 */
#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <linux/magic.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "contract/caches.h"
#include "guest/agent/caches.h"
#include "guest/agent/preallocate.h"

#define MIB (1ul << 20)
#define FILE_BYTES (4 * MIB)

/* ---- private memory -------------------------------------------------------------------------- */

/* Pages of LEN bytes at AT that are there. */
static size_t resident(void *at, size_t len)
{
    size_t n = len / 4096, sum = 0;
    g_autofree unsigned char *is = g_malloc(n);

    g_assert_cmpint(mincore(at, len, is), ==, 0);
    for (size_t i = 0; i < n; i++) {
        sum += is[i] & 1;
    }
    return sum;
}

static void *map(size_t len, int protection, int flags)
{
    void *at = mmap(NULL, len, protection, flags | MAP_ANONYMOUS, -1, 0);

    g_assert_true(at != MAP_FAILED);
    return at;
}

/* The most of it, in all, so this is the last that fills. */
static void test_fill(void)
{
    const int rw = PROT_READ | PROT_WRITE;
    char *few = map(4 * MIB, rw, MAP_PRIVATE), *shared = map(4 * MIB, rw, MAP_SHARED);
    char *readable = map(4 * MIB, PROT_READ, MAP_PRIVATE);
    char *half = map(4 * MIB, rw, MAP_PRIVATE);

    g_assert_cmpint(mprotect(half + 2 * MIB, 2 * MIB, PROT_READ), ==, 0);
    errno = EXDEV;
    ff_preallocate_private(few, 4 * MIB);
    ff_preallocate_private(shared, 4 * MIB); /* the guest's */
    ff_preallocate_private(readable, 4 * MIB);
    ff_preallocate_private(half, 4 * MIB);
    ff_preallocate_private(NULL, 4096);
    g_assert_cmpint(errno, ==, EXDEV);
    g_assert_cmpuint(resident(few, 4 * MIB), ==, 4 * MIB / 4096);
    g_assert_cmpuint(resident(shared, 4 * MIB), ==, 0);
    g_assert_cmpuint(resident(readable, 4 * MIB), ==, 0);
    g_assert_cmpuint(resident(half, 4 * MIB), ==, 0);

    char *rest = map(61 * MIB, rw, MAP_PRIVATE), *last = map(60 * MIB, rw, MAP_PRIVATE);
    ff_preallocate_private(rest, 61 * MIB);
    g_assert_cmpuint(resident(rest, 61 * MIB), ==, 0); /* with the first it would be too much */
    ff_preallocate_private(last, 60 * MIB);
    g_assert_cmpuint(resident(last, 60 * MIB), ==, 60 * MIB / 4096);
    munmap(last, 60 * MIB);
    munmap(rest, 61 * MIB);
    munmap(half, 4 * MIB);
    munmap(readable, 4 * MIB);
    munmap(shared, 4 * MIB);
    munmap(few, 4 * MIB);
}

/* ---- caches ---------------------------------------------------------------------------------- */

/* An image of which all is in the cache, and on disk. */
static int make_image(const char *folder)
{
    g_autofree char *path = g_build_filename(folder, "ff-image-XXXXXX", NULL);
    g_autofree char *content = g_malloc(FILE_BYTES);
    int fd = g_mkstemp_full(path, O_RDWR | O_CLOEXEC, 0600);

    g_assert_cmpint(fd, >=, 0);
    unlink(path);
    memset(content, 7, FILE_BYTES);
    g_assert_cmpint(write(fd, content, FILE_BYTES), ==, FILE_BYTES);
    g_assert_cmpint(fsync(fd), ==, 0);
    return fd;
}

static bool is_cached(int fd)
{
    void *at = mmap(NULL, FILE_BYTES, PROT_READ, MAP_SHARED, fd, 0);

    g_assert_true(at != MAP_FAILED);
    size_t n = resident(at, FILE_BYTES);
    munmap(at, FILE_BYTES);
    g_assert_true(n == 0 || n == FILE_BYTES / 4096);
    return n != 0;
}

static void read_all(int fd)
{
    g_autofree char *content = g_malloc(FILE_BYTES);

    g_assert_cmpint(pread(fd, content, FILE_BYTES, 0), ==, FILE_BYTES);
    g_assert_true(is_cached(fd));
}

/* As the agent's. */
static int shared_memory(void)
{
    int fd = memfd_create("ff-discards", MFD_CLOEXEC);

    g_assert_cmpint(ftruncate(fd, 3 * 4096), ==, 0);
    return fd;
}

static void test_caches(void)
{
    struct statfs fs;
    int fd = make_image(g_get_tmp_dir()), memory = shared_memory();

    g_assert_cmpint(fstatfs(fd, &fs), ==, 0);
    if (fs.f_type != EXT4_SUPER_MAGIC && fs.f_type != XFS_SUPER_MAGIC) {
        g_test_skip("the folder for temporary files is neither ext4 nor XFS");
        close(fd);
        close(memory);
        return;
    }
    ff_caches_start(memory);
    g_assert_cmpint(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), ==, 0);
    g_assert_false(is_cached(fd)); /* nobody has said so */
    read_all(fd);
    g_assert_cmpint(ff_caches_keep(memory, g_get_monotonic_time() + 60 * G_USEC_PER_SEC), ==, 0);
    g_assert_cmpint(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), ==, 0);
    g_assert_true(is_cached(fd));
    g_assert_cmpint(posix_fadvise(fd, 0, FILE_BYTES, POSIX_FADV_DONTNEED), ==, 0);
    g_assert_false(is_cached(fd)); /* a part, which is not what an image is opened with */
    read_all(fd);
    g_assert_cmpint(ff_caches_keep(memory, 0), ==, 0);
    g_assert_cmpint(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), ==, 0);
    g_assert_false(is_cached(fd)); /* it was ended */
    read_all(fd);
    g_assert_cmpint(ff_caches_keep(memory, g_get_monotonic_time()), ==, 0);
    g_assert_cmpint(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), ==, 0);
    g_assert_false(is_cached(fd)); /* it is over */
    g_assert_cmpint(posix_fadvise(memory, 0, 0, 77), ==, EINVAL);
    close(fd);
    close(memory);
}

/* Another file system may have several caches of one file. */
static void test_other_files(void)
{
    int memory = shared_memory(), fd[2];

    ff_caches_start(memory);
    g_assert_cmpint(ff_caches_keep(memory, g_get_monotonic_time() + 60 * G_USEC_PER_SEC), ==, 0);
    g_assert_cmpint(pipe2(fd, O_CLOEXEC), ==, 0);
    g_assert_cmpint(posix_fadvise(fd[0], 0, 0, POSIX_FADV_DONTNEED), ==,
                    ESPIPE); /* it has passed */
    g_assert_cmpint(posix_fadvise(-1, 0, 0, POSIX_FADV_DONTNEED), ==, EBADF);
    close(fd[0]);
    close(fd[1]);
    close(memory);
}

static void test_old_agent(void)
{
    int fd = memfd_create("ff-discards", MFD_CLOEXEC);

    g_assert_cmpint(ftruncate(fd, 4136), ==, 0); /* without room for it */
    g_assert_cmpint(ff_caches_keep(fd, 1), ==, -ENOTSUP);
    g_assert_cmpint(ff_caches_keep(-1, 1), ==, -ENOTSUP);
    close(fd);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/agent-start/fill", test_fill);
    g_test_add_func("/agent-start/caches/kept", test_caches);
    g_test_add_func("/agent-start/caches/other-files", test_other_files);
    g_test_add_func("/agent-start/caches/old-agent", test_old_agent);
    return g_test_run();
}
