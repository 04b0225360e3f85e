/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * In front of posix_fadvise() of the process: while caches are kept (contract/caches.h) that of a
 * whole image is not dropped, and the caller is told that it was.
 *
 * Only of files that nobody but this host can write to, and of which all its processes have one
 * cache: not on FUSE and network file systems, which can be mounted twice, and not of block
 * devices: another host may have written to it before the guest came here, and a QEMU that reads
 * past the cache has left in it what was there.
 *
 * Threads: any of QEMU's. No lock, nothing is allocated. System calls: mmap, fstat, fstatfs,
 * clock_gettime, fadvise64.
 */
#undef _FILE_OFFSET_BITS /* else posix_fadvise is another name of posix_fadvise64 */
#include "guest/agent/caches.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#include "contract/caches.h"

/* Written once, by ff_caches_start(). */
static struct {
    const FfCachesPage *page; /* NULL: each call passes */
    int (*fadvise)(int fd, off64_t offset, off64_t len, int advice);
} caches;

static uint64_t now_us(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static bool are_kept(void)
{
    uint64_t until =
        caches.page ? __atomic_load_n(&caches.page->kept_until_us, __ATOMIC_ACQUIRE) : 0;

    return until && now_us() < until;
}

static bool has_one_cache(int fd)
{
    struct statfs fs;
    struct stat st;

    /* A node of a device has the file system of the node. */
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || fstatfs(fd, &fs) < 0) {
        return false;
    }
    return fs.f_type == EXT4_SUPER_MAGIC || fs.f_type == XFS_SUPER_MAGIC ||
           fs.f_type == BTRFS_SUPER_MAGIC || fs.f_type == F2FS_SUPER_MAGIC;
}

__attribute__((visibility("default"))) int posix_fadvise64(int fd, off64_t offset, off64_t len,
                                                           int advice)
{
    if (advice == POSIX_FADV_DONTNEED && offset == 0 && len == 0 && are_kept() &&
        has_one_cache(fd)) {
        return 0;
    }
    if (caches.fadvise) {
        return caches.fadvise(fd, offset, len, advice);
    }
    /* glibc's returns the error. */
    return syscall(SYS_fadvise64, fd, offset, len, advice) < 0 ? errno : 0;
}

__attribute__((visibility("default"))) int posix_fadvise(int fd, off_t offset, off_t len,
                                                         int advice)
{
    return posix_fadvise64(fd, offset, len, advice);
}

void ff_caches_start(int fd)
{
    size_t len = FF_CACHES_OFFSET + sizeof(FfCachesPage);
    const char *map = fd < 0 ? MAP_FAILED : mmap(NULL, len, PROT_READ, MAP_SHARED, fd, 0);

    caches.fadvise = (int (*)(int, off64_t, off64_t, int))dlsym(RTLD_NEXT, "posix_fadvise64");
    if (map != MAP_FAILED) {
        caches.page = (const FfCachesPage *)(map + FF_CACHES_OFFSET);
    }
}
