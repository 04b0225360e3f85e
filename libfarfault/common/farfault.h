/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * libfarfault: a program's own memory as of one moment, without fork(), and memory that can be
 * taken away and comes back when it is touched. docs/libfarfault.md is the guide, docs/arrays.md
 * that of arrays and volatile ranges.
 *
 * An FfMemory is a set of regions. ff_snapshot_begin() is the moment; the program runs on, and
 * ff_snapshot_save*() writes what the regions held then, or ff_fork() lets a child process see it
 * at the same addresses. A thread that writes to a page that is not saved yet has the page's old
 * content copied into a buffer of a fixed size first, by a thread of the library's; when the buffer
 * is full the write waits until there is room.
 *
 * All functions return 0 or a negative errno, if nothing else is said; ff_last_error() says in one
 * line what was wrong and what to do. An FfMemory belongs to one thread at a time, but for the
 * functions of which "any thread" is said. In a child of fork() all of them return -ECHILD.
 *
 * A call that allocates is -ENOMEM if malloc() does not have 128 KiB then, and what is large
 * besides; those that give something back need nothing. A file that may not grow (RLIMIT_FSIZE) is
 * -EFBIG, without SIGXFSZ.
 *
 * What the library itself uses must not be in a region: libc's heap, variables, stacks. The
 * program's threads must be able to continue when they are not waiting for a region.
 */
#ifndef FARFAULT_H
#define FARFAULT_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

#define FF_API __attribute__((visibility("default")))

/* ---- memory ---------------------------------------------------------------------------------- */

typedef struct FfMemory FfMemory;

/* A line without a newline: what the last call of this thread that failed has met. Valid until this
 * thread's next call. Never NULL. Any thread. */
FF_API const char *ff_last_error(void);

/* Faults of the program's own code alone, which needs no permission: a system call that writes to
 * memory that is protected (read(), recv(), ...) fails with EFAULT, in place of waiting. */
#define FF_MEMORY_USER_MODE 1u

/* Without regions. -EPERM: this process may not have a userfaultfd for system calls, too.
 * FLAGS: FF_MEMORY_* */
FF_API int ff_memory_new(unsigned flags, FfMemory **memory);
/* Cancels what is under way, and ends what ff_template_start() has started. Can be NULL. */
FF_API void ff_memory_free(FfMemory *memory);

/* Private memory is watched in pieces of 2 MiB in place of 4 KiB: fewer faults, each of which
 * copies 2 MiB, and huge pages stay whole. ADDR and LEN are multiples of 2 MiB. */
#define FF_REGION_HUGE 1u

/*
 * LEN bytes at ADDR, whole pages, mapped and writable, belong to the memory from now on. FD: -1 for
 * private anonymous memory; or the memfd (with small pages, or hugetlb's) which is mapped there as
 * shared, at whichever offset; it is opened again. FLAGS: FF_REGION_*. The pages of a file must be
 * written through this one mapping alone. -EBUSY: a snapshot is under way.
 */
FF_API int ff_region_add(FfMemory *memory, void *addr, size_t len, int fd, unsigned flags);
/* The contrary, also of a part of a region. While a snapshot is under way it waits until the old
 * content is kept, and from then on the memory can be unmapped. Any thread. */
FF_API int ff_region_remove(FfMemory *memory, void *addr, size_t len);
/* Gives the memory of LEN bytes at ADDR back to the kernel (MADV_DONTNEED of private memory,
 * MADV_REMOVE of shared), after its old content is kept, if a snapshot is under way. It reads as
 * zeros afterwards. As with any other write the caller must not be one that writes between
 * ff_snapshot_begin()'s call and its return. Any thread. */
FF_API int ff_region_discard(FfMemory *memory, void *addr, size_t len);

/* ---- snapshots ------------------------------------------------------------------------------- */

#define FF_SNAPSHOT_NO_PASSES 1u /* ff_snapshot_prepare() protects nothing ahead */
#define FF_SNAPSHOT_NO_DIRECT 2u /* the file is written through the page cache */

typedef struct {
    size_t size;        /* sizeof(FfSnapshotOptions) */
    size_t buffer;      /* bytes for old contents, rounded down to whole pages (of the largest kind
                         * that is registered); 0: each first write waits until its page is saved */
    uint64_t bandwidth; /* bytes per second to write at most, but for what somebody waits for; 0: no
                         * limit */
    unsigned flags;     /* FF_SNAPSHOT_* */
} FfSnapshotOptions;

/* Registers the regions, makes the buffer, and write-protects the memory in passes while the
 * program runs, so that ff_snapshot_begin() has little to do. OPTIONS NULL: a buffer of 64 MiB. The
 * program can do this long before; until ff_snapshot_begin() a first write to each page costs a
 * fault. */
FF_API int ff_snapshot_prepare(FfMemory *memory, const FfSnapshotOptions *options);
/* The moment. Nobody writes to the regions from before this call to its return, and no system call
 * or device does: what is in flight into them (io_uring, O_DIRECT) is complete. -EBUSY: a buffer
 * that is registered with io_uring is in a region. -EINVAL: a part of a region was mapped again
 * since ff_snapshot_prepare(), without which that is done here, without passes. */
FF_API int ff_snapshot_begin(FfMemory *memory);

/* One of them, after ff_snapshot_begin(): starts to save, in a thread of the library's. */

/* To FD, a regular file (borrowed until ff_snapshot_wait()), whose content is replaced. Complete
 * and on the disk when ff_snapshot_wait() says 0; before that the file has no header. */
FF_API int ff_snapshot_save_fd(FfMemory *memory, int fd);
/* To a new file that gets the name PATH when it is complete and on the disk, replacing what had
 * it. */
FF_API int ff_snapshot_save_path(FfMemory *memory, const char *path);
/* Calls PAGE, from that thread, with LEN bytes of memory that was at ADDR: DATA, NULL for zeros.
 * Each page once, in any order. Writes wait for PAGE when the buffer is full: it must not write to
 * a region, or wait for a thread that may. Not 0: stop; ff_snapshot_wait() returns that, a negative
 * errno (a positive number counts as -EIO). */
typedef int FfSnapshotPage(void *opaque, void *addr, const void *data, size_t len);
FF_API int ff_snapshot_save_pages(FfMemory *memory, FfSnapshotPage *page, void *opaque);

#define FF_SNAPSHOT_BUCKETS 32

typedef struct {
    size_t size;                            /* sizeof(FfSnapshotStats), set by the caller */
    uint64_t pages;                         /* of the regions */
    uint64_t left;                          /* of them that are not saved yet */
    uint64_t faults;                        /* writes to pages that were not saved yet */
    uint64_t waited;                        /* of them for which there was no room at once */
    uint64_t bytes;                         /* written */
    uint64_t zeros;                         /* pages that were not, as they hold nothing else */
    uint64_t begin_us, prepare_us, save_us; /* that these steps took */
    unsigned passes;                        /* of ff_snapshot_prepare() */
    unsigned slots, free_slots;             /* of the buffer, pages */
    /* How long the library took for a write, but for those that waited: [i] counts [2^i, 2^(i+1))
     * microseconds, [0] below 2. */
    uint64_t latency[FF_SNAPSHOT_BUCKETS];
} FfSnapshotStats;

/* Waits until all is saved. STATS can be NULL. -ECANCELED; what the disk or the callback said;
 * -EIO: memory was given back, not by ff_region_discard(), and could not be saved before. After
 * this the next snapshot can begin. */
FF_API int ff_snapshot_wait(FfMemory *memory, FfSnapshotStats *stats);
/* Lets all writers continue. What is being saved ends soon, with -ECANCELED from
 * ff_snapshot_wait(), which must be called then, also where a disk or PAGE is stuck; what PAGE is
 * given after this is worth nothing. Before ff_snapshot_save*() all is as before
 * ff_snapshot_prepare(). Any thread. */
FF_API int ff_snapshot_cancel(FfMemory *memory);
/* Of the snapshot that is under way, or the last one. Any thread. */
FF_API int ff_snapshot_stats(FfMemory *memory, FfSnapshotStats *stats);

/* ---- ff_fork() ------------------------------------------------------------------------------- */

/* Runs in the child, where the regions are what they were at ff_fork(), at the same addresses; ARG
 * is a copy of what ff_fork() was given. All else is as it was at ff_template_start(), to which
 * OPAQUE was given. What it returns is the child's exit status. It must not use this library; a
 * process that it forks has no regions. */
typedef int FfChild(void *opaque, const void *arg, size_t len);

/* Forks a process that waits for ff_fork(). Early: it costs what fork() costs then, without the
 * regions. It has all open files of this moment. Once for each FfMemory, and again when that one
 * has ended. */
FF_API int ff_template_start(FfMemory *memory, FfChild *child, void *opaque);
/* As ff_snapshot_prepare(); and makes the child, which waits. */
FF_API int ff_fork_prepare(FfMemory *memory, const FfSnapshotOptions *options);
/* The moment, after ff_fork_prepare(); who may write is as with ff_snapshot_begin(). The child
 * begins to run. ARG: LEN bytes for it, 64 KiB at most. Returns its process id, or a negative
 * errno. */
FF_API pid_t ff_fork(FfMemory *memory, const void *arg, size_t len);
/* Waits until the child has ended. *STATUS as of waitpid(); STATS; both can be NULL. -ECANCELED
 * after ff_snapshot_cancel(), which kills it; other errors as with ff_snapshot_wait(), and the
 * child is killed before it sees anything that is wrong. */
FF_API int ff_fork_wait(FfMemory *memory, int *status, FfSnapshotStats *stats);

/* ---- volatile ranges ------------------------------------------------------------------------- */

typedef struct FfVolatile FfVolatile;

/* Fills BUF with what PAGE (of the range's page size, numbered from 0) held: the same each time. In
 * a thread of the library's, several at once; signals are blocked. It may touch other pages, of
 * this range and of others, but not PAGE; it must not wait for a thread that may wait for a page.
 * Not 0, a negative errno (a positive number counts as -EIO): a thread that touches the page gets
 * SIGBUS (a system call EFAULT or EHWPOISON) until ff_volatile_purge(). */
typedef int FfRegenerate(void *opaque, size_t page, void *buf);

/* Said by ff_volatile_pin(). */
#define FF_WAS_PURGED 1

typedef struct {
    size_t size;      /* sizeof(FfVolatileOptions) */
    size_t page_size; /* what is pinned, purged and regenerated at once: a power of two from 4096 to
                       * 2 MiB; 0: 4096 */
    size_t limit;     /* as ff_volatile_set_limit() */
    unsigned threads; /* that regenerate at once, at most, and then REGENERATE touches no other
                       * page; 0: as many as are waited for */
    unsigned flags;   /* FF_MEMORY_* */
} FfVolatileOptions;

/*
 * LEN bytes (whole pages) of memory that can be taken away while it is not pinned. All of it is
 * pinned at first. With REGENERATE a thread that touches a page that is not there, pinned or not,
 * also in a system call, waits until it was filled: at first, and after it was purged. Linux 6.6; a
 * child of fork() has no such memory, and it has no huge pages (MADV_NOHUGEPAGE): leave that so.
 * With NULL such a page is zeros, no permission is needed, and a child shares the memory and its
 * pins. OPTIONS can be NULL.
 */
FF_API int ff_volatile_new(size_t len, FfRegenerate *regenerate, void *opaque,
                           const FfVolatileOptions *options, FfVolatile **result);
/* Unmaps it: nobody touches it any more. Can be NULL. */
FF_API void ff_volatile_free(FfVolatile *v);
/* Where it is, as long as it is. Any thread. */
FF_API void *ff_volatile_addr(const FfVolatile *v);

/*
 * OFFSET and LEN: bytes, whole pages; LEN 0: to the end. -EINVAL: they are not. Pins are not
 * counted: twice is once. One atomic operation for each page, and no system call unless the page is
 * just being purged. Any thread.
 */

/* What is pinned stays. 0, or FF_WAS_PURGED: without REGENERATE, a page of them was purged since it
 * was unpinned, and is zeros or what was written since; it is said once. */
FF_API int ff_volatile_pin(FfVolatile *v, size_t offset, size_t len);
/* What is not pinned may go at any time, with what was written to it. */
FF_API int ff_volatile_unpin(FfVolatile *v, size_t offset, size_t len);
/* 1: all of it is pinned; 0. */
FF_API int ff_volatile_is_pinned(FfVolatile *v, size_t offset, size_t len);

/* Takes BYTES (SIZE_MAX: all) of what is not pinned, what was unpinned longest ago first. Returns
 * how many bytes of memory are free now, or a negative errno. Any thread. */
FF_API ssize_t ff_volatile_purge(FfVolatile *v, size_t bytes);
/* When more than BYTES of memory are used (0: no limit), what is not pinned goes until it is not
 * so, but for 16 pages, and the 4 that each thread has touched last: with REGENERATE before a page
 * is placed, without it at each unpin. Any thread. */
FF_API int ff_volatile_set_limit(FfVolatile *v, size_t bytes);
/*
 * Purges the older half of what is not pinned each time that poll() of FD (borrowed until
 * ff_volatile_free()) has one of EVENTS; FD is then read. FD -1: when the system has memory
 * pressure
 * (/proc/pressure/memory: somebody waited for memory for 100 ms of 2 s). Of a control group
 * (version 2) memory.pressure, after a trigger was written to it, and memory.events: POLLPRI. Once.
 * -EPERM and -ENOTSUP: the kernel tells nobody of pressure, or not this process. -EBADF: FD is
 * none.
 */
FF_API int ff_volatile_watch(FfVolatile *v, int fd, short events);

typedef struct {
    size_t size;          /* sizeof(FfVolatileStats), set by the caller */
    uint64_t bytes;       /* of memory that are used now */
    uint64_t purged;      /* pages, so far */
    uint64_t regenerated; /* calls that succeeded */
    uint64_t failed;      /* calls that did not */
    uint64_t pressure;    /* events of ff_volatile_watch() */
} FfVolatileStats;

/* Any thread. */
FF_API int ff_volatile_stats(FfVolatile *v, FfVolatileStats *stats);

/* ---- arrays ---------------------------------------------------------------------------------- */

typedef struct FfArray FfArray;

/* Where an array's content is. Blocks are numbered from 0. In threads of the library's, all signals
 * blocked; what is not 0 fails, a negative errno (a positive number counts as -EIO). */
typedef struct {
    size_t size; /* sizeof(FfArrayFile) */
    /* Fills BUF, of one block. Several at once, of different blocks. It may touch arrays, but not
     * BLOCK; it must not wait for a thread that may wait for a block. */
    int (*load)(void *opaque, uint64_t block, void *buf);
    /* Keeps BUF as the content of BLOCK. In the thread that commits, in ascending order. It may
     * touch arrays; of FF_ARRAY_HUGE it must not wait for a thread that may wait for a block. NULL:
     * the array cannot be committed. */
    int (*store)(void *opaque, uint64_t block, const void *buf);
    /* BLOCK could not be loaded: a thread that touches it gets SIGBUS. Can be NULL. */
    void (*failed)(void *opaque, uint64_t block, int rc);
} FfArrayFile;

/* Each first write to a page is a fault, in place of looking at the page tables when it is
 * committed. So it is where the kernel has no asynchronous write protection (before Linux 6.7). */
#define FF_ARRAY_WRITE_FAULTS 0x10u
/* Nothing is loaded before it is touched. Without this flag the blocks after three that were missed
 * in a row are, twice 2 MiB or two blocks at most; not with a limit below 64 blocks, nor with 1 of
 * `threads`. */
#define FF_ARRAY_RANDOM 0x20u
/* Memory of huge pages of 2 MiB, and blocks of as much. As many as `limit` has, or the array, are
 * set aside when it is opened: -ENOMEM, they are not free. A block for which
 * there is none just now has small ones until it leaves memory: all are in use, or have just been
 * touched, or, in an array that is larger than its limit, were lost to other programs, or to a
 * smaller vm.nr_hugepages. */
#define FF_ARRAY_HUGE 0x40u

typedef struct {
    size_t size;       /* sizeof(FfArrayOptions) */
    size_t block_size; /* loaded and given back at once: 4096 to 2 MiB, a power of two; 0: 64 KiB */
    size_t limit;      /* bytes of memory, 4 blocks at least; what each thread has touched last, 4
                        * blocks, stays for some ms, also if that is more; 0: no limit */
    unsigned threads;  /* that load at once, at most, and then load() touches no array; 0: as many
                        * as are waited for */
    unsigned flags;    /* FF_MEMORY_*, FF_ARRAY_* */
    const char *spill; /* folder for what is changed and has no room in memory; NULL: /var/tmp. Not
                        * for ff_array_open() and ff_array_open_chunks(), which have their log for
                        * that */
} FfArrayOptions;

/* An array of LEN bytes whose content FILE has (which is copied). OPTIONS can be NULL. -EPERM as
 * ff_memory_new(); -ENOTSUP: Linux 6.6 is needed. */
FF_API int ff_array_new(uint64_t len, const FfArrayFile *file, void *opaque,
                        const FfArrayOptions *options, FfArray **result);
/*
 * The content is the file PATH, which is made if it is not there, and longer if it is shorter; LEN
 * 0: as long as it is, and -ENOENT if it is not there. Commits are atomic and durable by a log,
 * PATH.redo, which holds what was committed last (some 256 MiB, and one transaction) and is empty
 * after ff_array_free(). What a process left in it that ended in the middle is put in its place
 * here. -EBUSY: somebody has it open; -EFBIG: the file is longer than LEN; -EINVAL, too: the log is
 * of another file, or is no log; -EACCES: or another user's.
 */
FF_API int ff_array_open(const char *path, uint64_t len, const FfArrayOptions *options,
                         FfArray **result);
/* The same, the content being files in the folder PATH, each of one block, with its number as their
 * name (16 digits, hexadecimal); one that is not there is zeros, and one that is shorter cannot be
 * loaded. block_size 0: as the folder's file block_size says, if it was made before. */
FF_API int ff_array_open_chunks(const char *path, uint64_t len, const FfArrayOptions *options,
                                FfArray **result);
/*
 * What the file PATH unpacks to: zstd's seekable format, whose frames can each be unpacked alone,
 * and have 64 MiB at most. As long as that is, and only read: what is changed is the program's
 * alone, and is dropped by ff_array_abort(); a commit of it is -EROFS. Several can open it at once,
 * but nobody by ff_array_open(). A frame that is damaged is SIGBUS in each block that has a part of
 * it. Beside `limit` up to 16 MiB of frames, two at least, are kept, and as much of the file.
 * -EINVAL: it is something else, or its table of frames is damaged.
 */
FF_API int ff_array_open_zstd(const char *path, const FfArrayOptions *options, FfArray **result);
/* Unmaps all of it; what was not committed is dropped. Nobody touches it any more, and no call of
 * it is under way. Can be NULL. */
FF_API void ff_array_free(FfArray *a);
FF_API uint64_t ff_array_len(const FfArray *a);

/* Maps LEN bytes from OFFSET on (whole pages, of FF_ARRAY_HUGE of 2 MiB; LEN 0: to the end) at
 * *ADDR. Mappings that have the same pages show the same memory. A child of fork() has no such
 * mapping. Any thread. */
FF_API int ff_array_map(FfArray *a, uint64_t offset, size_t len, void **addr);
/* Of one that ff_array_map() made. What was changed there stays. Any thread. */
FF_API int ff_array_unmap(FfArray *a, void *addr);

#define FF_ARRAY_STORE 1u /* what was changed is stored; it still counts as changed */
#define FF_ARRAY_MARK 2u  /* what was stored counts as unchanged. It cannot fail */

/*
 * One of these at a time (-EBUSY); nobody writes to the array meanwhile, nor between FF_ARRAY_STORE
 * and FF_ARRAY_MARK: also not a device (O_DIRECT, io_uring). What a thread writes during a commit
 * all the same is in the file or not, and still counts as changed.
 */

/* 0: all that was changed is in the file; of ff_array_open*() after a power failure, too: all of it
 * or, before this returns, nothing. -errno: as before, and it can be tried again. -EIO of a log
 * that could not be written: only opening it again tells. -EROFS: the file can only be read. */
FF_API int ff_array_commit(FfArray *a);
/* The same in two steps. FLAGS: FF_ARRAY_STORE, FF_ARRAY_MARK or both. */
FF_API int ff_array_writeout(FfArray *a, unsigned flags);
/* What was committed is in its place, on the disk, and no more in the log: the file can be copied
 * without it, and changed by others when nobody has it open. ff_array_free() does that, too.
 * -EBUSY, too: what is changed is more than the memory for it: commit or abort it first. */
FF_API int ff_array_sync(FfArray *a);
/* What was changed since the last commit, or FF_ARRAY_STORE, is as it was. -EIO as a commit: what
 * it was only opening it again tells. */
FF_API int ff_array_abort(FfArray *a);
/* LEN bytes at OFFSET (whole blocks; LEN 0: to the end) are loaded again when they are touched,
 * with what was changed there lost; also what is just being loaded, and what could not be. */
FF_API int ff_array_invalidate(FfArray *a, uint64_t offset, uint64_t len);

/* Gives memory of blocks that are not changed back, BYTES at most (SIZE_MAX: all). Returns how
 * many. Any thread. */
FF_API ssize_t ff_array_reclaim(FfArray *a, size_t bytes);

typedef enum {
    FF_BLOCK_EMPTY,   /* not in memory; changed pages of it are in the log */
    FF_BLOCK_LOADING, /* by a thread of the library's */
    FF_BLOCK_LOADED,
    FF_BLOCK_LEAVING, /* its memory is being given back */
    FF_BLOCK_FAILED,  /* it could not be loaded */
} FfBlockState;

typedef struct {
    size_t size;        /* sizeof(FfArrayBlock), set by the caller */
    FfBlockState state; /* now */
    unsigned mappings;  /* in which it was touched since it was loaded, or is shown ahead of that */
    unsigned changed;   /* pages of 4096 bytes */
} FfArrayBlock;

/* Of one block. Any thread. */
FF_API int ff_array_block(FfArray *a, uint64_t block, FfArrayBlock *info);
/* Numbers of blocks in memory, what was used last first, N at most. Returns how many there are. Any
 * thread. */
FF_API uint64_t ff_array_resident(FfArray *a, uint64_t *blocks, uint64_t n);

typedef struct {
    size_t size;      /* sizeof(FfArrayStats), set by the caller */
    uint64_t bytes;   /* of memory */
    uint64_t changed; /* pages of 4096 bytes, as far as it is known: commits, and threads that need
                         memory, look */
    uint64_t faults, loads, stores, evictions;
    uint64_t spilled; /* pages that went to the log for want of memory */
    uint64_t failed;  /* loads */
    uint64_t ahead;   /* of the loads, those before a touch */
} FfArrayStats;

FF_API int ff_array_stats(FfArray *a, FfArrayStats *stats);

/* ---- the file -------------------------------------------------------------------------------- */

#define FF_FILE_MAGIC 0x0a50414e53464600ull /* "\0FFSNAP\n" */
#define FF_FILE_VERSION 1u

/* At byte 0; little-endian. */
typedef struct {
    uint64_t magic;
    uint32_t version;
    uint32_t n_regions;
    uint64_t size; /* of the whole file */
    uint64_t reserved;
} FfFileHeader;

/* After it, so often. */
typedef struct {
    uint64_t addr, len;
    uint64_t
        offset; /* in the file, multiple of 4096: its first byte; what is not written is zeros */
    uint64_t reserved;
} FfFileRegion;

#ifdef __cplusplus
}
#endif

#endif
