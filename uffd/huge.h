/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Huge mappings in another process, or this one: protection splits them, and they are made again
 * afterwards. One thread.
 */
#ifndef FF_UFFD_HUGE_H
#define FF_UFFD_HUGE_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#define FF_HUGE_PAGE (2ull << 20) /* such a mapping has this size, and is so aligned */

/* Neighbouring ones, wholly huge. */
typedef struct {
    unsigned file; /* index into the files of ff_huge_restore() */
    uint64_t addr, offset, len;
} FfHugeRun;

typedef struct FfHuge FfHuge;

FfHuge *ff_huge_new(void);
void ff_huge_free(FfHuge *h); /* can be NULL */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfHuge, ff_huge_free)
/* Notes those of the LEN bytes at ADDR, which are FILE from OFFSET on. Where the kernel does not
 * tell (before Linux 6.7) there are none. */
void ff_huge_note(FfHuge *h, int pagemap_fd, unsigned file, uint64_t addr, uint64_t offset,
                  uint64_t len);
/* All that were noted, in order. */
const FfHugeRun *ff_huge_all(const FfHuge *h, unsigned *n);
/* Makes them huge again in the process of PIDFD, of which nothing is registered any more; one where
 * a FILE (borrowed) has a hole now stays as it is, since that would fill the hole. So does private
 * memory (-1) of which a page is not there, by PAGEMAP_FD. For MS at most. */
void ff_huge_restore(const FfHuge *h, const int *files, int pagemap_fd, int pidfd, unsigned ms);

/* Whether FILE, one of the settings of transparent huge pages, has WORD. A kernel without huge
 * pages has none of them, and so every word; what may not be read (AppArmor) says nothing. */
bool ff_huge_is_set(const char *file, const char *word);
/* Whether the host leaves huge pages to shared memory that asks for them. */
bool ff_huge_is_allowed(void);

/*
 * Shared memory, as this process has mapped it to make huge pages of its small ones: for that no
 * capability is needed, whatever shmem_enabled is. A process that has mapped the same file at a
 * multiple of FF_HUGE_PAGE then has huge mappings, as soon as it touches them again.
 */
typedef struct FfHugeMap FfHugeMap;

/* Of SIZE bytes of FD, which can be closed afterwards. NULL and errno; EINVAL: no piece fits. */
FfHugeMap *ff_huge_map_new(int fd, uint64_t size);
void ff_huge_map_free(FfHugeMap *m); /* can be NULL */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfHugeMap, ff_huge_map_free)
/*
 * Makes one huge page of PIECE (collapse_file() in the kernel's mm/khugepaged.c). A piece with a
 * hole stays as it is: what was given back would come back. A hole that is made meanwhile stays one
 * where a userfaultfd is registered for missing pages (ff_holes_bear_collapse()). Who touches the
 * piece meanwhile waits: some tenths of a millisecond, and a microsecond or more for each small
 * page that KVM has mapped, since each is taken from the guest by itself; 5 ms where the host takes
 * free memory back. The new page is charged to the control group of this process. Nothing may be
 * registered for write protection. One thread at a time. 1: it is huge; 0: not now; -errno: there
 * are no others either: the kernel makes none, or has no memory for it (-EBUSY: in that group).
 */
int ff_huge_map_collapse(FfHugeMap *m, uint64_t piece);

#endif
