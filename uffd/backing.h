/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a block is made of, and what the kernel can do with it: shared memory (a memfd or a file of
 * a tmpfs, with huge pages or without), hugetlb, or private anonymous memory, of this process or of
 * somebody else. No state; any thread.
 */
#ifndef FF_UFFD_BACKING_H
#define FF_UFFD_BACKING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum {
    FF_BACKING_SHARED,
    FF_BACKING_HUGETLB,
    FF_BACKING_PRIVATE,
} FfBackingKind;

typedef struct {
    FfBackingKind kind;
    /* The file. Private: /proc/PID/mem of the process that has the memory, or -1: it can be filled,
     * not read. */
    int fd;
    uint64_t size;
    uint64_t page_size; /* what userfaultfd places at once: 4096 of shared memory, huge or not */
} FfBacking;

/* Of the file FD (borrowed), by its file system. 0; -ENOTSUP: userfaultfd knows no such memory. */
int ff_backing_of_file(int fd, FfBacking *b);
/* SIZE bytes of private memory. MEM_FD is borrowed. */
FfBacking ff_backing_private(int mem_fd, uint64_t size);
/* Features that UFFDIO_API must have for registering it in MODE (UFFDIO_REGISTER_MODE_*). */
uint64_t ff_backing_features(const FfBacking *b, uint64_t mode);
/* UFFDIO_ZEROPAGE is there; else zeros are copied. */
bool ff_backing_has_zeropage(const FfBacking *b);
/*
 * LEN bytes at OFFSET, which are at ADDR in the process. Fills no hole, and nobody faults for it:
 * not of private memory that is registered as missing, where the page must be there. 0 or -errno.
 */
int ff_backing_read(const FfBacking *b, uint64_t offset, uint64_t addr, void *buf, size_t len);

#endif
