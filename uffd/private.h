/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The guest memory that QEMU keeps to itself: firmware, option ROMs, a display's memory, tables. It
 * is found in QEMU's map by the way QEMU allocates it (qemu_ram_mmap(), util/mmap-alloc.c): private
 * and anonymous, at a multiple of 2 MiB, with a guard page after it. What is read is what stands
 * there at that moment; the guest may write to it at any time.
 */
#ifndef FF_UFFD_PRIVATE_H
#define FF_UFFD_PRIVATE_H

#include <stdbool.h>
#include <stdint.h>

/* A page that is there and not all zeros. NULL: that is there, and was not read. FALSE: enough. */
typedef bool (*FfPrivateFunc)(const void *page, void *opaque);

/*
 * Calls FN for each page of 4096 bytes, the smallest blocks first, each in order of address. The
 * fds are of /proc/PID/maps, pagemap and mem of the process that is looked at; without MEM_FD (-1)
 * no page is read. Pages that it has not touched are left alone. Returns 0 or -errno. Any thread.
 */
int ff_private_read(int maps_fd, int pagemap_fd, int mem_fd, FfPrivateFunc fn, void *opaque);

#endif
