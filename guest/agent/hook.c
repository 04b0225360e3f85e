/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * In front of fallocate() and madvise() of the process: while it is armed, holes are not punched
 * into guest RAM, and the caller is told that they were.
 *
 * QEMU gives memory back (ram_block_discard_range(): balloon, free page reporting, virtio-mem) by
 * punching a hole into the file, then by MADV_DONTNEED of its mapping, or by MADV_REMOVE, which
 * does both. The first one destroys content, and a process that protects that memory with a
 * userfaultfd is not told. Which memory is meant stands in the shared memory (contract/discards.h):
 * files by device and inode, since QEMU opens its RAM again and the number of an fd says nothing,
 * and ranges of addresses. Everything else passes: images that are punched, caches that are let go.
 *
 * Passing too: MADV_FREE, which the kernel refuses for mappings of files; posix_madvise(), in which
 * libc leaves POSIX_MADV_DONTNEED out; a punch without FALLOC_FL_KEEP_SIZE or of a bad range, which
 * the kernel refuses.
 *
 * Threads: any of QEMU's, often under its big lock. So it waits for nobody, allocates nothing, has
 * no lock, and leaves errno alone when it drops. Not armed it costs one load. No more than fstat()
 * is called: it may run in a signal handler.
 * System calls: memfd_create, ftruncate, fcntl, mmap, fstat, fallocate, madvise.
 */
#undef _FILE_OFFSET_BITS /* else fallocate is another name of fallocate64 */
#include "guest/agent/hook.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "contract/discards.h"
#include "contract/stderr.h"
#include "guest/agent/preallocate.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U /* Linux 6.3 */
#endif

#define PUNCH (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)

/* Written once, by ff_hook_start(). The functions: of the library that comes next (libc, as a
 * rule); NULL before that, as another library's constructor may call. */
static struct {
    FfDiscardsPage *page; /* NULL: nothing is ever dropped */
    uint64_t page_size;
    int (*fallocate)(int fd, int mode, off64_t offset, off64_t len);
    int (*madvise)(void *addr, size_t len, int advice);
    bool fills; /* private memory, when huge pages are asked for it */
} hook;

static bool is_armed(void)
{
    return hook.page && __atomic_load_n(&hook.page->armed, __ATOMIC_ACQUIRE);
}

static void count_dropped(uint64_t bytes)
{
    /* Observers: threads that ask for them, in another process. */
    __atomic_add_fetch(&hook.page->dropped, 1, __ATOMIC_RELAXED);
    __atomic_add_fetch(&hook.page->dropped_bytes, bytes, __ATOMIC_RELAXED);
}

static uint32_t bounded_count(uint32_t n)
{
    return n < FF_DISCARDS_MAX ? n : FF_DISCARDS_MAX;
}

/* ---- files ----------------------------------------------------------------------------------- */

static bool is_ram(int fd)
{
    const FfDiscardsPage *page = hook.page;
    int saved_errno = errno;
    struct stat st;

    if (fstat(fd, &st) < 0) {
        errno = saved_errno; /* the kernel says it again */
        return false;
    }
    for (uint32_t i = 0, n = bounded_count(page->n_files); i < n; i++) {
        if (page->file[i].ino == st.st_ino && page->file[i].dev == st.st_dev) {
            return true;
        }
    }
    return false;
}

static int pass_fallocate(int fd, int mode, off64_t offset, off64_t len)
{
    return hook.fallocate ? hook.fallocate(fd, mode, offset, len)
                          : (int)syscall(SYS_fallocate, fd, mode, offset, len);
}

__attribute__((visibility("default"))) int fallocate64(int fd, int mode, off64_t offset,
                                                       off64_t len)
{
    if (mode == PUNCH && is_armed() && offset >= 0 && len > 0 && is_ram(fd)) {
        count_dropped(len);
        return 0;
    }
    return pass_fallocate(fd, mode, offset, len);
}

__attribute__((visibility("default"))) int fallocate(int fd, int mode, off_t offset, off_t len)
{
    return fallocate64(fd, mode, offset, len);
}

/* ---- mappings -------------------------------------------------------------------------------- */

/* ANY: a part of it is enough. */
static bool is_mapped_ram(uint64_t addr, uint64_t len, bool any)
{
    const FfDiscardsPage *page = hook.page;

    for (uint32_t i = 0, n = bounded_count(page->n_ranges); i < n; i++) {
        uint64_t first = page->range[i].addr, end = first + page->range[i].len;
        if (any ? addr < end && first < addr + len : addr >= first && addr + len <= end) {
            return true;
        }
    }
    return false;
}

/* MADV_DONTNEED of a file's mapping loses nothing. It is dropped, as what comes after a punch,
 * since all of the pages would be faulted in again. */
__attribute__((visibility("default"))) int madvise(void *addr, size_t len, int advice)
{
    uint64_t at = (uintptr_t)addr;

    if ((advice == MADV_DONTNEED || advice == MADV_REMOVE) && is_armed() && len > 0 &&
        at + len > at && at % hook.page_size == 0 &&
        is_mapped_ram(at, len, advice == MADV_REMOVE)) {
        if (advice == MADV_REMOVE) {
            count_dropped(len);
        }
        return 0;
    }
    int rc = hook.madvise ? hook.madvise(addr, len, advice)
                          : (int)syscall(SYS_madvise, addr, len, advice);
    /* Not when the guest runs here, and a device is plugged. */
    if (advice == MADV_HUGEPAGE && hook.fills && rc == 0 &&
        __atomic_load_n(&hook.page->accepts, __ATOMIC_ACQUIRE) == FF_ACCEPTS_LATER) {
        ff_preallocate_private(addr, len);
    }
    return rc;
}

/* ---- start ----------------------------------------------------------------------------------- */

/* Kernels before 6.3 refuse MFD_NOEXEC_SEAL with EINVAL. */
static int make_memfd(void)
{
    int fd = memfd_create(FF_DISCARDS_NAME, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);

    if (fd < 0 && errno == EINVAL) {
        fd = memfd_create(FF_DISCARDS_NAME, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    }
    if (fd >= 0 &&
        (ftruncate(fd, FF_STDERR_END) < 0 || fcntl(fd, F_ADD_SEALS, FF_DISCARDS_SEALS) < 0)) {
        int err = errno;
        close(fd);
        return -err;
    }
    return fd >= 0 ? fd : -errno;
}

int ff_hook_start(void)
{
    int fd = make_memfd();
    FfDiscardsPage *page =
        fd < 0 ? MAP_FAILED : mmap(NULL, sizeof(*page), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

    if (page == MAP_FAILED) {
        int rc = fd < 0 ? fd : -errno;
        if (fd >= 0) {
            close(fd);
        }
        return rc;
    }
    page->magic = FF_DISCARDS_MAGIC;
    page->version = FF_DISCARDS_VERSION;
    hook.fallocate = (int (*)(int, int, off64_t, off64_t))dlsym(RTLD_NEXT, "fallocate64");
    hook.madvise = (int (*)(void *, size_t, int))dlsym(RTLD_NEXT, "madvise");
    hook.page_size = sysconf(_SC_PAGESIZE);
    hook.page = page;
    return fd;
}

void ff_hook_fill(void)
{
    hook.fills = true;
}

const uint32_t *ff_hook_accepts(uint32_t first)
{
    if (!hook.page) {
        return NULL;
    }
    __atomic_store_n(&hook.page->accepts, first,
                     __ATOMIC_RELEASE); /* observer: guest/agent/accept.c */
    return &hook.page->accepts;
}
