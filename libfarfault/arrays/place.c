/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where the blocks of an array lie: in its memfd, each at its own place. One of huge pages has a
 * second memfd, of small pages, for blocks for which there is no huge page just now: other programs
 * have them (huge-memory.c), or others of its own blocks, which are loaded, committed, or held by
 * threads that need several. So no thread waits for a page, and none gets SIGBUS for want of one.
 *
 * A block is filled before anybody sees it. A mapping that has it in the other file gets a piece of
 * that file in its place (mremap), which is registered with the userfaultfd a moment later. Who
 * touches it in between, which nobody has a reason to, finds the block as it is, and what is mapped
 * so counts as written.
 *
 * Threads, lock: internal.h. System calls: fallocate, pwrite64, mmap, munlock, mprotect,
 * madvise, mremap, munmap, ioctl(UFFDIO_REGISTER, UFFDIO_WRITEPROTECT), pread64 (pagemap).
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "libfarfault/arrays/internal.h"
#include "uffd/pagemap.h"
#include "uffd/uffd.h"

/* ---- memory ---------------------------------------------------------------------------------- */

int ff_array_block_fd(const FfArray *a, uint64_t block)
{
    return a->blocks[block].small ? a->small_fd : a->fd;
}

/* It has huge pages, and BLOCK has one. */
static bool is_huge(const FfArray *a, uint64_t block)
{
    return a->huge && !a->blocks[block].small;
}

int ff_array_place(FfArray *a, uint64_t block, bool huge_only, char *buffer, char **to)
{
    uint64_t at = block * a->block_size;
    int rc = a->huge ? ff_huge_memory_take(a->huge, at) : 0;

    a->blocks[block].small = a->huge && rc < 0;
    *to = is_huge(a, block) ? ff_huge_memory_at(a->huge, at) : buffer;
    return huge_only ? rc : 0;
}

int ff_array_fill(const FfArray *a, uint64_t block, const char *from)
{
    int fd = ff_array_block_fd(a, block);

    for (size_t done = 0, len = is_huge(a, block) ? 0 : a->block_size; done < len;) {
        ssize_t n = pwrite(fd, from + done, len - done, (off_t)(block * a->block_size + done));
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return n < 0 ? -errno : -EIO;
        }
        done += (size_t)n;
    }
    return 0;
}

void ff_array_unplace(FfArray *a, uint64_t block)
{
    if (is_huge(a, block)) {
        ff_huge_memory_give(a->huge, block * a->block_size);
        return;
    }
    while (fallocate(ff_array_block_fd(a, block), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                     (off_t)(block * a->block_size), (off_t)a->block_size) < 0 &&
           errno == EINTR) {
    }
}

/* ---- mappings -------------------------------------------------------------------------------- */

size_t ff_array_map_page(const FfArray *a, const FfArrayMap *m, uint64_t block)
{
    return a->huge && ff_bitmap_test(&m->small, block) ? FF_ARRAY_PAGE : a->page_size;
}

void ff_array_wake(FfArray *a, uint64_t block, const FfArrayMap *done)
{
    for (guint i = 0; i < a->maps->len; i++) {
        uint64_t len, addr = ff_array_where(a, a->maps->pdata[i], block, &len);
        if (addr && a->maps->pdata[i] != done) {
            ff_uffd_wake(a->uffd, addr, len);
        }
    }
}

/* LEN bytes of FD from OFFSET on are mapped at ADDR, in place of what is there. After
 * mlockall(MCL_FUTURE) the kernel maps all pages of a new mapping that can be touched. 0 or -errno:
 * nothing has changed, or nothing is mapped there. */
static int replace_map(uint64_t addr, uint64_t len, int fd, uint64_t offset)
{
    char *p = mmap(NULL, len, PROT_NONE, MAP_SHARED | MAP_NORESERVE, fd, (off_t)offset);

    if (p == MAP_FAILED) {
        return -errno;
    }
    if (munlock(p, len) < 0 || mprotect(p, len, PROT_READ | PROT_WRITE) < 0 ||
        madvise(p, len, MADV_DONTFORK) < 0 ||
        mremap(p, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, (void *)(uintptr_t)addr) == MAP_FAILED) {
        int rc = -errno;
        munmap(p, len);
        /* A mremap() that fails may have unmapped what was there: nothing else comes there. */
        mmap((void *)(uintptr_t)addr, len, PROT_NONE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
        return rc;
    }
    return 0;
}

typedef struct {
    FfArray *a;
    uint64_t offset; /* in the array, of address 0 */
} Touched;

static void note_touched(uint64_t addr, uint64_t len, void *opaque)
{
    const Touched *t = opaque;
    /* Without asynchronous protection all of a block is changed or nothing (fault.c). */
    size_t unit = t->a->async ? FF_ARRAY_PAGE : t->a->page_size;
    uint64_t from = (t->offset + addr) / unit * unit;
    uint64_t to = (t->offset + addr + len + unit - 1) / unit * unit;

    ff_array_note_changed(t->a, from / FF_ARRAY_PAGE, (to - from) / FF_ARRAY_PAGE);
}

int ff_array_map_place(FfArray *a, FfArrayMap *m, uint64_t block)
{
    uint64_t len, addr = ff_array_where(a, m, block, &len);
    uint64_t offset = m->offset + (addr - m->addr);
    Touched touched = {a, offset - addr};

    if (ff_bitmap_test(&m->small, block) == a->blocks[block].small) {
        return 0;
    }
    /* What the program has unmapped is not this array's any more. */
    int rc = ff_uffd_protect(a->uffd, addr, len);
    rc = rc < 0 ? rc : replace_map(addr, len, ff_array_block_fd(a, block), offset);
    if (rc < 0) {
        return rc;
    }
    if (ff_bitmap_test(&m->small, block)) {
        ff_bitmap_claim(&m->small, block);
    } else {
        ff_bitmap_set_run(&m->small, block, 1);
    }
    rc = ff_uffd_register(a->uffd, addr, len, FF_ARRAY_MODE);
    if (rc < 0) { /* it would be written to, and nobody would know */
        mprotect((void *)(uintptr_t)addr, len, PROT_NONE);
        note_touched(addr, len, &touched);
        return rc;
    }
    if (ff_pagemap_each_mapped(a->pagemap_fd, addr, len, note_touched, &touched) < 0) {
        note_touched(addr, len, &touched); /* nobody knows */
    }
    return 0;
}
