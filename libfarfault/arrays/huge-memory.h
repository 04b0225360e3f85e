/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Huge pages of 2 MiB for a memory that has fewer of them than addresses: as many as it may use are
 * set aside when it begins, and go from there into it and back. Any thread.
 */
#ifndef FARFAULT_HUGE_MEMORY_H
#define FARFAULT_HUGE_MEMORY_H

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FF_HUGE_PAGE ((size_t)2 << 20)

typedef struct FfHugeMemory FfHugeMemory;

/* A memory of LEN bytes, of which N pages can be there at once. 0 or -errno, said. */
int ff_huge_memory_new(uint64_t len, uint64_t n, FfHugeMemory **result);
void ff_huge_memory_free(FfHugeMemory *h);
/* Its file, which stays its own. */
int ff_huge_memory_fd(const FfHugeMemory *h);
/* The page at OFFSET is there now, with anything in it. -ENOMEM: others have some of the N, or
 * these are used, and no more are free. */
int ff_huge_memory_take(FfHugeMemory *h, uint64_t offset);
/* The same for one that was taken, and that the program has removed. */
int ff_huge_memory_again(FfHugeMemory *h, uint64_t offset);
/* One that was taken is not in use any more. */
void ff_huge_memory_give(FfHugeMemory *h, uint64_t offset);
/* Where the page at OFFSET can be filled. Nobody touches that unless the page is there. */
void *ff_huge_memory_at(const FfHugeMemory *h, uint64_t offset);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfHugeMemory, ff_huge_memory_free)

#endif
