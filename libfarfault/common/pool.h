/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Threads that answer for memory in which something is missing: each reads one message of a
 * userfaultfd at a time, and hands it to a function that may take as long as it likes. Another one
 * is started when all of them have something to do, so a function that misses something itself is
 * answered, up to MAX_THREADS.
 *
 * uffd/faults.h is for memory of which each page has one address and one state in the kernel. Here
 * a page has several addresses, comes and goes, and is protected while it is placed.
 */
#ifndef FARFAULT_POOL_H
#define FARFAULT_POOL_H

#include <glib.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

typedef struct FfPool FfPool;

/* ADDR: of a page of 4096 bytes. FLAGS: UFFD_PAGEFAULT_FLAG_*. TID: the thread that waits; 0: not
 * known. BUFFER: the thread's own, of the size that ff_pool_new() was given. Any number of threads
 * at once; all signals are blocked. */
typedef void FfPoolFault(void *opaque, uint64_t addr, uint64_t flags, pid_t tid, void *buffer);

/* UFFD: O_NONBLOCK, after UFFDIO_API; taken, also on failure. NULL and errno. */
FfPool *ff_pool_new(int uffd, unsigned max_threads, size_t buffer, FfPoolFault *fn, void *opaque);
/* LEN bytes of FD from OFFSET on, at *AT, not in children; registered with UFFD in MODE before
 * anything can be mapped there, which mlockall() would do. 0 or -errno. */
int ff_pool_map(int uffd, uint64_t mode, int fd, uint64_t offset, size_t len, void **at);
/* Takes what is mapped in LEN bytes at ADDR out of the page tables, locked or not: markers stay,
 * and so does the file. What the program has unmapped is passed over. 0 or -errno. */
int ff_pool_unmap(uint64_t addr, uint64_t len);
/* Ends the threads, when they have done what they do, and closes the userfaultfd: a thread that
 * waits finds zeros, so none may. NULL: nothing. */
void ff_pool_free(FfPool *p);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfPool, ff_pool_free)

#endif
