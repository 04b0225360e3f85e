/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Kinds of memory; see backing.h. Any thread. System calls: fstat, fstatfs, pread. */
#include "uffd/backing.h"

#include <errno.h>
#include <linux/magic.h>
#include <linux/userfaultfd.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/failpoints.h"
#include "uffd/uffd.h"

#define SMALL_PAGE 4096

int ff_backing_of_file(int fd, FfBacking *b)
{
    struct statfs fs;
    struct stat st;

    if (fstat(fd, &st) < 0 || fstatfs(fd, &fs) < 0) {
        return -errno;
    }
    if (fs.f_type == HUGETLBFS_MAGIC) {
        *b = (FfBacking){FF_BACKING_HUGETLB, fd, st.st_size, fs.f_bsize};
    } else if (fs.f_type == TMPFS_MAGIC) {
        *b = (FfBacking){FF_BACKING_SHARED, fd, st.st_size, SMALL_PAGE};
    } else {
        return -ENOTSUP;
    }
    return 0;
}

FfBacking ff_backing_private(int mem_fd, uint64_t size)
{
    return (FfBacking){FF_BACKING_PRIVATE, mem_fd, size, SMALL_PAGE};
}

uint64_t ff_backing_features(const FfBacking *b, uint64_t mode)
{
    static const uint64_t missing[] = {UFFD_FEATURE_MISSING_SHMEM, UFFD_FEATURE_MISSING_HUGETLBFS,
                                       0},
                          minor[] = {UFFD_FEATURE_MINOR_SHMEM, UFFD_FEATURE_MINOR_HUGETLBFS, 0};
    uint64_t features = 0;

    if (mode & UFFDIO_REGISTER_MODE_MISSING) {
        features |= missing[b->kind];
    }
    if (mode & UFFDIO_REGISTER_MODE_MINOR) {
        features |= minor[b->kind];
    }
    if (mode & UFFDIO_REGISTER_MODE_WP) {
        /* Private memory that nobody has touched would be written without a fault. */
        features |= UFFD_FEATURE_PAGEFAULT_FLAG_WP |
                    (b->kind == FF_BACKING_PRIVATE ? FF_UFFD_FEATURE_WP_UNPOPULATED
                                                   : UFFD_FEATURE_WP_HUGETLBFS_SHMEM);
    }
    return features;
}

bool ff_backing_has_zeropage(const FfBacking *b)
{
    return b->kind != FF_BACKING_HUGETLB;
}

int ff_backing_read(const FfBacking *b, uint64_t offset, uint64_t addr, void *buf, size_t len)
{
    uint64_t from = b->kind == FF_BACKING_PRIVATE ? addr : offset;

    for (size_t at = 0; at < len;) {
        ssize_t n =
            FF_FAULT_CALL("backing-read", pread(b->fd, (char *)buf + at, len - at, from + at));
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return n < 0 ? -errno : -EIO; /* the file has become shorter */
        }
        at += n;
    }
    return 0;
}
