/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * userfaultfd of another process, through fds that its agent handed over: register, place,
 * wake, read. Addresses are that process's virtual addresses; lengths are bytes, multiples of
 * the backing's page size. All calls: any thread, 0 or -errno. Knows nothing of migration.
 */
#ifndef FF_UFFD_UFFD_H
#define FF_UFFD_UFFD_H

#include <linux/userfaultfd.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* UFFDIO_API once per uffd. FEATURES as in linux/userfaultfd.h; *HAVE (may be NULL) is what the
 * kernel has. An uffd that was initialised before (by an engine that died) is fine. */
int ff_uffd_init(int uffd, uint64_t features, uint64_t *have);
/* MODE: of UFFDIO_REGISTER_MODE_*. */
int ff_uffd_register(int uffd, uint64_t addr, uint64_t len, uint64_t mode);
/*
 * Write tracking (pagemap.h reads the result): the features are those of FF_UFFD_TRACKING, Linux
 * 6.7 or newer. ff_uffd_init() refuses them with -EINVAL on an older kernel, and on a uffd that was
 * initialised before; registering and a scan tell the two apart. The features are given because
 * the headers of the build may be older than the kernel.
 */
#define FF_UFFD_TRACKING                                                                           \
    ((1ull << 12) /* WP_HUGETLBFS_SHMEM */ | (1ull << 13) /* WP_UNPOPULATED */ |                   \
     (1ull << 15) /* WP_ASYNC */)
/* Of a uffd for synchronous write protection of shared memory, and of hugepages: Linux 5.19. */
#define FF_UFFD_PROTECTION (UFFD_FEATURE_PAGEFAULT_FLAG_WP | 1ull << 12 /* WP_HUGETLBFS_SHMEM */)
int ff_uffd_register_wp(int uffd, uint64_t addr, uint64_t len);
/* Write-protects every page of the range, also those that nobody has mapped: their page tables
 * are made, and huge mappings of shared memory split, so that a scan can miss no page. */
int ff_uffd_protect(int uffd, uint64_t addr, uint64_t len);
/* Maps what shared memory has in the range, write-protected, as ff_uffd_protect() has left it but
 * that nobody need fault for it: reads of a mapping that was split would, page by page. Holes,
 * and what is mapped, are left as they are. Linux 6.4. */
int ff_uffd_map_protected(int uffd, uint64_t addr, uint64_t len);
/* 0: the page of PAGE_SIZE bytes at ADDR is registered, with this userfaultfd or with another one.
 * -ENOENT: with none. Another -errno: that is not known. Nothing is placed, and nobody is woken. */
int ff_uffd_is_registered(int uffd, uint64_t addr, uint64_t page_size);
/* Also wakes every waiter of the range. */
int ff_uffd_unregister(int uffd, uint64_t addr, uint64_t len);
/* The same of another process's memory, registered as missing, which may have unmapped it and
 * mapped something else there: what is another userfaultfd's stays that (Linux before 6.17 would
 * take it out). */
int ff_uffd_unregister_own(int uffd, uint64_t addr, uint64_t len);
int ff_uffd_wake(int uffd, uint64_t addr, uint64_t len);

/* ---- one ioctl each, of memory that may change meanwhile (space.h) --------------------------- */

/* Given as the headers of the build may be older than the kernel. */
#define FF_UFFD_FEATURE_WP_UNPOPULATED (1ull << 13) /* Linux 6.4 */
#define FF_UFFD_FEATURE_POISON (1ull << 14)         /* Linux 6.6 */
/* Features with which the kernel tells of changes, and lets nobody place before it was read. */
#define FF_UFFD_EVENTS                                                                             \
    (UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_REMOVE |              \
     UFFD_FEATURE_EVENT_UNMAP)

typedef enum { FF_UFFD_COPY, FF_UFFD_ZERO, FF_UFFD_CONTINUE, FF_UFFD_POISON } FfUffdOp;

/* OP on LEN bytes at ADDR, and wakes the waiters; SRC: of FF_UFFD_COPY; FF_UFFD_ZERO is not of huge
 * pages. 0: *DONE bytes, LEN or fewer. -EAGAIN: the mapping is being changed; if by what
 * ff_uffd_is_changing() tells, an event must be read first. -EFAULT from FF_UFFD_CONTINUE: the file
 * has no page there; it asks neither for UFFDIO_REGISTER_MODE_MINOR nor for memory, and -EIO is a
 * poisoned page. -EEXIST: the page at ADDR is there already, and nobody was woken. Of a huge page
 * the kernel says so also when no huge page is free (Linux 6.18): FF_UFFD_CONTINUE tells the two
 * apart. */
int ff_uffd_try(int uffd, FfUffdOp op, uint64_t addr, const void *src, uint64_t len,
                uint64_t *done);
/* Write protection ON, or off, which wakes the writers; -EAGAIN as above. */
int ff_uffd_try_protect(int uffd, uint64_t addr, uint64_t len, bool on);
/* A change of the mapping is under way, whose event was not read or whose maker has not
 * continued. */
bool ff_uffd_is_changing(int uffd);
/* How many faults of this process's own UFFD can be read now, which come before events; -errno. */
int ff_uffd_pending(int uffd);
/* The process has ended: nobody has its memory any more. */
bool ff_uffd_is_gone(int uffd);
/* Reads up to MAX messages without blocking. Returns their number, 0 if there is none now. */
int ff_uffd_read(int uffd, struct uffd_msg *msgs, size_t max);

#endif
