/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The object behind FfArray, for the files of this folder.
 *
 * A block's state has one table:
 *
 *   EMPTY    a touch -> LOADING
 *   LOADING  loaded -> LOADED; not -> FAILED, or EMPTY if nobody has asked for it; invalidated
 *            meanwhile: is loaded once more
 *   LOADED   to be given back, aborted, invalidated -> LEAVING
 *   LEAVING  gone -> EMPTY; it was written to meanwhile, or has no room in the log -> LOADED
 *   FAILED   invalidated -> EMPTY
 *
 * Each change is made under `lock`, by ff_array_set_state(), which wakes the threads that wait
 * for the block when it is LOADED, EMPTY or FAILED. In LOADING and LEAVING the block belongs to one
 * thread, which drops the lock while it loads, spills and gives back; a thread that touches the
 * block waits in the kernel.
 *
 * What a thread has missed it holds (libfarfault/common/holds.c): the limit does not take it.
 * Without room for all that is held there is more than the limit; a block for which there is no
 * huge page has small ones (place.c).
 *
 * Lock: `lock`, held for system calls about mappings, never for a load, a store or a disk.
 */
#ifndef FARFAULT_ARRAY_INTERNAL_H
#define FARFAULT_ARRAY_INTERNAL_H

#include <glib.h>
#include <pthread.h>
#include <stdbool.h>

#include "libfarfault/arrays/disk.h"
#include "libfarfault/arrays/huge-memory.h"
#include "libfarfault/arrays/redo.h"
#include "libfarfault/common/holds.h"
#include "libfarfault/common/memory-internal.h"
#include "libfarfault/common/pool.h"
#include "uffd/bitmap.h"

#define FF_ARRAY_PAGE 4096u
/* Of mappings. */
#define FF_ARRAY_MODE                                                                              \
    (UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR | UFFDIO_REGISTER_MODE_WP)

typedef struct {
    uint32_t newer, older; /* in the list of what is in memory: a block + 1; 0: none */
    uint8_t state;         /* FfBlockState */
    bool again;            /* LOADING: what is loaded is out of date */
    bool wanted;           /* LOADING ahead: somebody waits for it */
    bool small;            /* lies in small_fd. LOADING: of the thread that loads */
} FfBlockEntry;

typedef struct {
    uint64_t addr, offset, len;
    FfBitmap shown; /* blocks, by number: mapped here since they were loaded */
    /* Of an array of huge pages: blocks that are a mapping of small_fd here; that could not be
     * mapped, and are poison until they leave. */
    FfBitmap small, failed;
} FfArrayMap;

typedef struct FfArrayAhead FfArrayAhead; /* ahead.c */

struct FfArray {
    pid_t pid;
    uint64_t len, size; /* size: whole blocks */
    size_t block_size;
    size_t page_size; /* of its memory: what is mapped, and tracked, at once; but: small_fd */
    uint64_t n_blocks;
    bool async; /* the page tables tell what was written, and not faults */
    int fd, pagemap_fd;
    int small_fd;       /* of huge pages: blocks for which there was none; else -1 */
    FfHugeMemory *huge; /* has the fd; NULL: pages of 4096 bytes */
    FfArrayFile file;
    void *opaque;
    FfArrayDisk *disk; /* of ff_array_open*(); NULL: the caller's */
    bool read_only;    /* the disk is: nothing is committed, and the log is for what is spilled */
    char *spill;
    int uffd; /* the pool's */
    FfPool *pool;
    FfArrayAhead *ahead; /* NULL: nothing is loaded before it is touched */

    pthread_mutex_t lock;
    pthread_cond_t changed; /* a block is LOADED, EMPTY or FAILED */
    FfBlockEntry *blocks;
    size_t blocks_len;
    uint32_t newest, oldest; /* a block + 1 */
    uint64_t n_resident;     /* and what is LOADING */
    uint64_t max_resident;   /* 0: no limit */
    uint64_t n_spilling;
    FfHolds *holds;  /* lock */
    FfBitmap dirty;  /* pages; with async those that are known */
    FfBitmap stored; /* of them: stored, or being stored, and not written to since */
    GPtrArray *maps; /* FfArrayMap */
    FfRedo *log;     /* lock to set; what was spilled, and of a disk what is committed */
    bool busy;       /* a commit, an abort or an invalidation is under way: nothing is spilled */
    bool broken;     /* of the thread that is busy to write; atomic; observer: threads that load:
                      * the log must stay as it is, and the file may lack what that has */
    FfArrayStats stats;
};

/* ---- blocks.c
 * ------------------------------------------------------------------------------------
 */

/* All locked. */
void ff_array_set_state(FfArray *a, uint64_t block, FfBlockState state);
/* In front of the list of what is in memory; it is not in it, or is. */
void ff_array_use(FfArray *a, uint64_t block);
void ff_array_unlist(FfArray *a, uint64_t block);
/* Pages of BLOCK: the first one; how many. */
uint64_t ff_array_first_page(const FfArray *a, uint64_t block);
uint64_t ff_array_pages(const FfArray *a);
/* The first page that has nothing of the array: the last block can have more. */
uint64_t ff_array_end_page(const FfArray *a);
/* N pages from FIRST on were written to: are changed, whatever is being stored. */
void ff_array_note_changed(FfArray *a, uint64_t first, uint64_t n);
/* Changed pages of BLOCK. */
uint64_t ff_array_dirty(const FfArray *a, uint64_t block);
/* Where BLOCK is in M: *LEN bytes. 0: it is not. */
uint64_t ff_array_where(const FfArray *a, const FfArrayMap *m, uint64_t block, uint64_t *len);

/* ---- place.c --------------------------------------------------------------------------- */

/* BLOCK is LOADING, or so, and this thread's: it has memory, which nobody sees yet. *TO: what is to
 * be filled, BUFFER or the memory itself. ff_array_fill() comes then. HUGE_ONLY: of an array of
 * huge pages -ENOMEM if there is none. 0 or -errno. Not locked. */
int ff_array_place(FfArray *a, uint64_t block, bool huge_only, char *buffer, char **to);
/* What was read to FROM is in the memory of BLOCK. 0 or -errno. Not locked. */
int ff_array_fill(const FfArray *a, uint64_t block, const char *from);
/* BLOCK has no memory any more. Not locked. */
void ff_array_unplace(FfArray *a, uint64_t block);
/* Where the content of BLOCK is, which has memory. */
int ff_array_block_fd(const FfArray *a, uint64_t block);
/* What is mapped at once in M, at BLOCK. */
size_t ff_array_map_page(const FfArray *a, const FfArrayMap *m, uint64_t block);
/* M maps the file in which BLOCK lies, which is LOADED and not shown there. 0 or -errno: it
 * cannot be shown there. Locked. */
int ff_array_map_place(FfArray *a, FfArrayMap *m, uint64_t block);
/* A thread that waits for BLOCK is told again, but for those in DONE (NULL: none), which know.
 * Locked. */
void ff_array_wake(FfArray *a, uint64_t block, const FfArrayMap *done);

/* ---- fault.c --------------------------------------------------------------------------- */

void ff_array_on_fault(void *opaque, uint64_t addr, uint64_t flags, pid_t tid, void *buffer);
/* What BLOCK holds in the file, or the caller's load(). Not locked. */
int ff_array_load(FfArray *a, uint64_t block, void *buffer);
/* What BLOCK holds, from the file and the log; in no memory of the array's. Not locked. */
int ff_array_read(FfArray *a, uint64_t block, void *buffer);
/* Takes BLOCK, which is LOADED, out of memory. Locked, drops the lock. CLEAN: only if it is not
 * changed
 * (-EAGAIN). DROP: what was changed is lost. Else that is spilled: -errno, it stays. */
typedef enum { FF_LEAVE_CLEAN, FF_LEAVE_SPILL, FF_LEAVE_DROP } FfLeave;
int ff_array_leave(FfArray *a, uint64_t block, FfLeave how);
/* A file in FOLDER that ends with its descriptor; or -errno. */
int ff_array_open_nameless(const char *folder);
/* N blocks from FIRST on, before anybody needs them, as far as there is room. M, if it is still
 * there, shows them; MARK: not the first one, unless somebody waits for it. BUFFER: of N blocks.
 * Locked, drops the lock. */
void ff_array_load_ahead(FfArray *a, FfArrayMap *m, uint64_t first, uint64_t n, bool mark,
                         char *buffer);
/* Gives back up to N blocks that are not changed, of the LOOK oldest; HELD: also of those that a
 * thread holds. Locked, drops the lock. Returns how many. */
uint64_t ff_array_evict(FfArray *a, uint64_t n, uint64_t look, bool held);

/* ---- ahead.c --------------------------------------------------------------------------- */

/* ff_array_load_ahead() */
typedef void FfAheadLoad(FfArray *a, FfArrayMap *m, uint64_t first, uint64_t n, bool mark,
                         char *buffer);
/* By THREADS at most. NULL: none, or the limit has no room for it. */
FfArrayAhead *ff_array_ahead_new(FfArray *a, unsigned threads, FfAheadLoad *load);
/* How many threads; LIMIT: of loads at once, 0: none. */
unsigned ff_array_ahead_threads(unsigned limit);
/* BLOCK was not in memory, or not shown in M. Locked. H can be NULL. */
void ff_array_ahead_note(FfArrayAhead *h, FfArrayMap *m, uint64_t block);
/* Its threads have ended. Not locked. Can be NULL. */
void ff_array_ahead_end(FfArrayAhead *h);
/* After ff_array_ahead_end(), or in a child of fork(). Can be NULL. */
void ff_array_ahead_free(FfArrayAhead *h);

/* ---- commit.c -------------------------------------------------------------------------- */

/* Locked: what was written in M until now is in `dirty`. 0 or -errno. */
int ff_array_harvest(FfArray *a, FfArrayMap *m);
/* Not locked: all that the log of a disk has is in its file, on the disk, and the log is empty. */
int ff_array_checkpoint(FfArray *a);

#endif
