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
/* Makes huge pages of the small ones of FD (borrowed), shared memory of SIZE bytes, through a
 * mapping of this process's own: for that nobody needs a capability, whatever shmem_enabled is.
 * A process that has mapped FD at a multiple of FF_HUGE_PAGE then has huge mappings, as soon as it
 * touches them again. A piece with a hole stays as it is: what was given back would come back. MAY
 * is called before each piece, and returns false to end; TOOK_US is how long the kernel needed for
 * the last one (0: it was not asked): some tenths of a millisecond, 5 ms where the host takes free
 * memory back. For so long the guest may wait, so MAY keeps a pace. Nothing may be registered with
 * a userfaultfd in anybody's mapping of it. Returns how many pieces are huge now, -errno if the
 * kernel makes no others. */
int64_t ff_huge_collapse(int fd, uint64_t size, bool (*may)(int64_t took_us, void *opaque),
                         void *opaque);

#endif
