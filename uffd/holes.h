/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Holes of shared memory, when they are to be believed. While khugepaged puts a huge page in place
 * of small ones, Linux before 6.4 says that all of it is a hole ("mm/khugepaged: maintain page
 * cache uptodate flag"): memory with data would be taken for zeros. Any thread; no state but the
 * kernel's version.
 */
#ifndef FF_UFFD_HOLES_H
#define FF_UFFD_HOLES_H

#include <glib.h>
#include <stdbool.h>
#include <sys/types.h>

/* Linux 6.4 and newer, or this host's khugepaged leaves shared memory alone, whatever its owner
 * asks for (guest/launch/launch.c does). */
bool ff_holes_are_true(void);
/* Small pages may become huge ones (ff_huge_map_collapse()) while a userfaultfd is registered
 * there: since Linux 6.4 that fills no hole, and since 6.11 UFFDIO_COPY bears that a page table is
 * taken away beside it ("userfaultfd: don't BUG_ON() if khugepaged yanks our page table"). */
bool ff_holes_bear_collapse(void);
/* A hole of a memfd stays one where userfaultfd is registered: as above, or memfds get no huge
 * pages on this host. FALSE and ERROR, with the fix: khugepaged makes a huge page out of a range
 * with holes in it, and who has it mapped finds zeros there that nobody was asked for. */
bool ff_holes_check_memfd(GError **error);
/* Where FD has data next, at or after AT and before END (bytes): lseek(SEEK_DATA). Where holes may
 * not be true the hole is read first, which waits for khugepaged, and takes 0.2 s per GiB. -1: an
 * errno, ENXIO if there is none before END. */
off_t ff_holes_next_data(int fd, off_t at, off_t end);
/* The end of that data, at most END: lseek(SEEK_HOLE), but never DATA itself. -1: an errno. */
off_t ff_holes_end_of_data(int fd, off_t data, off_t end);

#endif
