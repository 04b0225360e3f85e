/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Arrays begin and end, and are mapped. See libfarfault/common/farfault.h for the
 * threads, internal.h for the states and the lock.
 *
 * System calls: memfd_create, ftruncate, mmap, munmap, open, flock, fsync, readlink, close, getpid.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "libfarfault/arrays/frames.h"
#include "libfarfault/arrays/internal.h"
#include "libfarfault/arrays/log.h"
#include "libfarfault/common/rlimits.h"
#include "uffd/uffd.h"

#define PAGE FF_ARRAY_PAGE
#define BLOCK_SIZE (64u << 10)
#define THREADS_MAX 1024
#define FLAGS (FF_MEMORY_USER_MODE | FF_ARRAY_WRITE_FAULTS | FF_ARRAY_RANDOM | FF_ARRAY_HUGE)

/* ---- mappings -------------------------------------------------------------------------------- */

static void map_forget(FfArrayMap *m)
{
    ff_bitmap_clear(&m->shown);
    ff_bitmap_clear(&m->small);
    ff_bitmap_clear(&m->failed);
    g_free(m);
}

static void map_free(gpointer p)
{
    FfArrayMap *m = p;

    munmap((void *)(uintptr_t)m->addr, m->len);
    map_forget(m);
}

static int check_child(const FfArray *a)
{
    return a->pid == getpid()
               ? 0
               : ff_fail(-ECHILD, "this is a child of the process whose memory it is");
}

/* All clear; of an array that is too large for this machine -ENOMEM. */
static int bitmap_new(FfBitmap *bm, uint64_t n)
{
    uint64_t *words = g_try_new0(uint64_t, ff_bitmap_words(n));

    ff_bitmap_init_over(bm, words, words ? n : 0);
    bm->owned = true;
    return words ? 0 : -ENOMEM;
}

int ff_array_map(FfArray *a, uint64_t offset, size_t len, void **addr)
{
    int rc = check_child(a);

    *addr = NULL;
    if (rc < 0) {
        return rc;
    }
    len = len || offset > a->size ? len : a->size - offset;
    if (!len || offset > a->size || len > a->size - offset || offset % a->page_size) {
        return ff_fail(-EINVAL, "ff_array_map: they are not whole pages of the array");
    }
    len = (len + a->page_size - 1) / a->page_size * a->page_size;
    FfBitmap shown, small = {0}, failed = {0};
    pthread_mutex_lock(&a->lock);
    size_t maps = a->maps->len;
    pthread_mutex_unlock(&a->lock);
    rc = ff_reserve("ff_array_map", a->n_blocks / 8 * 3 + maps * 2 * sizeof(void *));
    if (rc < 0) {
        return rc;
    }
    rc = bitmap_new(&shown, a->n_blocks);
    if (rc == 0 && a->huge) {
        rc = bitmap_new(&small, a->n_blocks);
        rc = rc < 0 ? rc : bitmap_new(&failed, a->n_blocks);
    }
    if (rc == 0) {
        rc = ff_pool_map(a->uffd, FF_ARRAY_MODE, a->fd, offset, len, addr);
    }
    if (rc < 0) {
        ff_bitmap_clear(&shown);
        ff_bitmap_clear(&small);
        ff_bitmap_clear(&failed);
        return ff_fail(rc, "ff_array_map: %zu bytes: %s", len, ff_strerror(-rc));
    }
    FfArrayMap *m = g_new0(FfArrayMap, 1);
    *m = (FfArrayMap){.addr = (uintptr_t)*addr,
                      .offset = offset,
                      .len = len,
                      .shown = shown,
                      .small = small,
                      .failed = failed};
    pthread_mutex_lock(&a->lock);
    g_ptr_array_add(a->maps, m);
    pthread_mutex_unlock(&a->lock);
    ff_uffd_wake(a->uffd, m->addr, len); /* mlockall() in another thread was faster */
    return 0;
}

int ff_array_unmap(FfArray *a, void *addr)
{
    FfArrayMap *found = NULL;
    int rc = check_child(a);

    if (rc < 0) {
        return rc;
    }
    pthread_mutex_lock(&a->lock);
    for (guint i = 0; i < a->maps->len && !found; i++) {
        FfArrayMap *m = a->maps->pdata[i];
        if (m->addr == (uintptr_t)addr) {
            found = m;
            rc = ff_array_harvest(a, m);
            if (rc == 0) {
                g_ptr_array_steal_index_fast(a->maps, i);
            }
        }
    }
    pthread_mutex_unlock(&a->lock);
    if (!found) {
        return ff_fail(-EINVAL, "ff_array_unmap: ff_array_map() did not make that");
    }
    if (rc < 0) {
        return ff_fail(rc, "ff_array_unmap: the page tables: %s", ff_strerror(-rc));
    }
    munmap((void *)(uintptr_t)found->addr, found->len);
    /* A thread that waits there, wrongly, gets SIGSEGV, before anything else can be mapped by this
     * call. */
    ff_uffd_wake(a->uffd, found->addr, found->len);
    map_forget(found);
    return 0;
}

/* ---- what there is --------------------------------------------------------------------------- */

uint64_t ff_array_len(const FfArray *a)
{
    return a->len;
}

ssize_t ff_array_reclaim(FfArray *a, size_t bytes)
{
    int rc = check_child(a);

    if (rc < 0) {
        return rc;
    }
    pthread_mutex_lock(&a->lock);
    uint64_t n =
        ff_array_evict(a, bytes / a->block_size + (bytes % a->block_size > 0), UINT64_MAX, true);
    pthread_mutex_unlock(&a->lock);
    return (ssize_t)(n * a->block_size);
}

int ff_array_block(FfArray *a, uint64_t block, FfArrayBlock *info)
{
    FfArrayBlock b = {0};
    size_t size = info->size;
    int rc = check_child(a);

    if (rc < 0) {
        return rc;
    }
    if (block >= a->n_blocks) {
        return ff_fail(-EINVAL, "ff_array_block: there is no such block");
    }
    pthread_mutex_lock(&a->lock);
    b.state = a->blocks[block].state;
    b.changed = (unsigned)ff_array_dirty(a, block);
    for (guint i = 0; i < a->maps->len; i++) {
        const FfArrayMap *m = a->maps->pdata[i];
        b.mappings += ff_bitmap_test(&m->shown, block);
    }
    pthread_mutex_unlock(&a->lock);
    memcpy(info, &b, MIN(size, sizeof(b)));
    info->size = size;
    return 0;
}

uint64_t ff_array_resident(FfArray *a, uint64_t *blocks, uint64_t n)
{
    uint64_t i = 0;

    if (check_child(a) < 0) {
        return 0;
    }
    pthread_mutex_lock(&a->lock);
    for (uint32_t at = a->newest; at; at = a->blocks[at - 1].older, i++) {
        if (i < n) {
            blocks[i] = at - 1;
        }
    }
    pthread_mutex_unlock(&a->lock);
    return i;
}

int ff_array_stats(FfArray *a, FfArrayStats *stats)
{
    size_t size = stats->size;
    int rc = check_child(a);

    if (rc < 0) {
        return rc;
    }
    pthread_mutex_lock(&a->lock);
    FfArrayStats s = a->stats;
    s.bytes = a->n_resident * a->block_size;
    s.changed = ff_bitmap_count(&a->dirty);
    pthread_mutex_unlock(&a->lock);
    memcpy(stats, &s, MIN(size, sizeof(s)));
    stats->size = size;
    return 0;
}

/* ---- begin and end --------------------------------------------------------------------------- */

static int open_uffd(FfArray *a, unsigned flags)
{
    uint64_t features =
        (flags & FF_ARRAY_HUGE ? UFFD_FEATURE_MISSING_HUGETLBFS | UFFD_FEATURE_MINOR_HUGETLBFS
                               : 0) |
        UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MINOR_SHMEM | UFFD_FEATURE_THREAD_ID |
        FF_UFFD_PROTECTION | FF_UFFD_FEATURE_POISON;
    int uffd = -1;

    if (!(flags & FF_ARRAY_WRITE_FAULTS)) {
        uffd = ff_uffd_open(flags & FF_MEMORY_USER_MODE, features | FF_UFFD_TRACKING);
        a->async = uffd >= 0;
    }
    return a->async ? uffd : ff_uffd_open(flags & FF_MEMORY_USER_MODE, features);
}

static int check_options(uint64_t len, const FfArrayOptions *o)
{
    size_t bs = o->block_size;

    if (o->size != sizeof(*o)) {
        return ff_fail(-EINVAL, "FfArrayOptions: size must be sizeof(FfArrayOptions), %zu",
                       sizeof(*o));
    }
    if (o->flags & ~FLAGS) {
        return ff_fail(-EINVAL, "FfArrayOptions: flags has one that is not known: %#x",
                       o->flags & ~FLAGS);
    }
    if (o->threads > THREADS_MAX) {
        return ff_fail(-EINVAL, "FfArrayOptions: threads: %u at most", THREADS_MAX);
    }
    if (bs < PAGE || bs > FF_DISK_BLOCK_MAX || bs & (bs - 1)) {
        return ff_fail(-EINVAL, "block_size: a power of two from 4096 to 2 MiB");
    }
    if (o->flags & FF_ARRAY_HUGE && bs != FF_HUGE_PAGE) {
        return ff_fail(-EINVAL, "block_size: of an array of huge pages it is 2 MiB");
    }
    if (!len || len > (uint64_t)INT64_MAX - bs || (len - 1) / bs >= UINT32_MAX) {
        return ff_fail(-EINVAL,
                       "%" G_GUINT64_FORMAT " bytes: 1 byte to %u blocks: say how long it is, or "
                       "choose larger blocks",
                       len, UINT32_MAX);
    }
    return 0;
}

/* 0 or -errno, said. */
static int make_memory(FfArray *a, bool huge)
{
    g_auto(FfXfsz) xfsz = ff_xfsz_begin();
    int fd = memfd_create("array", MFD_CLOEXEC);

    *(huge ? &a->small_fd : &a->fd) = fd;
    if (huge && fd >= 0) {
        int rc = ff_huge_memory_new(
            a->size, a->max_resident ? MIN(a->max_resident, a->n_blocks) : a->n_blocks, &a->huge);
        if (rc < 0) {
            return rc;
        }
        a->fd = ff_huge_memory_fd(a->huge);
    }
    return fd >= 0 && ftruncate(fd, (off_t)a->size) == 0
               ? 0
               : ff_fail(-errno, "ff_array_new: %s", ff_strerror(errno));
}

static int make_array(FfArray *a, const FfArrayOptions *o)
{
    int rc = make_memory(a, o->flags & FF_ARRAY_HUGE);

    if (rc < 0) {
        return rc;
    }
    a->blocks_len = a->n_blocks * sizeof(FfBlockEntry);
    a->blocks = mmap(NULL, a->blocks_len, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    a->pagemap_fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    if (a->blocks == MAP_FAILED || a->pagemap_fd < 0) {
        return ff_fail(-errno, "ff_array_new: %s", ff_strerror(errno));
    }
    if (bitmap_new(&a->dirty, a->size / PAGE) < 0 || bitmap_new(&a->stored, a->size / PAGE) < 0) {
        return ff_fail(-ENOMEM, "ff_array_new: %s", ff_strerror(ENOMEM));
    }
    int uffd = open_uffd(a, o->flags);
    if (uffd < 0) {
        return uffd;
    }
    a->uffd = uffd; /* before its threads */
    unsigned ahead = o->flags & FF_ARRAY_RANDOM ? 0 : ff_array_ahead_threads(o->threads);
    a->ahead = ff_array_ahead_new(a, ahead, ff_array_load_ahead);
    a->pool = ff_pool_new(uffd, o->threads ? o->threads - (a->ahead ? ahead : 0) : THREADS_MAX,
                          a->block_size, ff_array_on_fault, a);
    return a->pool ? 0 : ff_fail(-errno, "ff_array_new: %s", ff_strerror(errno));
}

static const char default_spill[] = "/var/tmp";

static FfArrayOptions options_of(const FfArrayOptions *options)
{
    FfArrayOptions o = options ? *options : (FfArrayOptions){.size = sizeof(o)};

    if (!o.block_size) {
        o.block_size = o.flags & FF_ARRAY_HUGE ? FF_HUGE_PAGE : BLOCK_SIZE;
    }
    o.spill = o.spill ? o.spill : default_spill;
    return o;
}

/* One that was named is there: else memory would grow beyond the limit, and nobody would know why.
 */
static int check_spill(const FfArrayOptions *o)
{
    int fd = o->limit && o->spill != default_spill ? ff_array_open_nameless(o->spill) : -ENOENT;

    if (fd >= 0) {
        close(fd);
    } else if (o->limit && o->spill != default_spill) {
        return ff_fail(fd, "FfArrayOptions: spill: %s: %s", o->spill, ff_strerror(-fd));
    }
    return 0;
}

/* DISK and LOG are taken, also on failure. */
static int new_array(uint64_t len, const FfArrayFile *file, void *opaque, const FfArrayOptions *o,
                     FfArrayDisk *disk, FfRedo *log, FfArray **result)
{
    int rc = check_options(len, o);

    rc = rc < 0 || log ? rc : check_spill(o);
    rc = rc < 0 ? rc : ff_reserve("ff_array_new", len / PAGE / 4);
    if (rc < 0) {
        ff_array_disk_free(disk);
        ff_redo_free(log);
        return rc;
    }
    FfArray *a = g_new0(FfArray, 1);
    size_t bs = o->block_size;
    *a = (FfArray){.pid = getpid(),
                   .len = len,
                   .size = (len + bs - 1) / bs * bs,
                   .block_size = bs,
                   .page_size = o->flags & FF_ARRAY_HUGE ? FF_HUGE_PAGE : PAGE,
                   .n_blocks = (len + bs - 1) / bs,
                   .fd = -1,
                   .small_fd = -1,
                   .pagemap_fd = -1,
                   .file = file ? *file : (FfArrayFile){0},
                   .opaque = opaque,
                   .disk = disk,
                   .read_only = disk && ff_array_disk_is_read_only(disk),
                   .spill = g_strdup(o->spill),
                   .blocks = MAP_FAILED,
                   .max_resident = o->limit ? MAX(o->limit / bs, FF_HOLDS_BLOCKS) : 0,
                   .holds = ff_holds_new(),
                   .maps = g_ptr_array_new_with_free_func(map_free),
                   .log = log};
    pthread_mutex_init(&a->lock, NULL);
    pthread_cond_init(&a->changed, NULL);
    rc = make_array(a, o);
    if (rc < 0) {
        ff_array_free(a);
        return rc;
    }
    *result = a;
    return 0;
}

int ff_array_new(uint64_t len, const FfArrayFile *file, void *opaque, const FfArrayOptions *options,
                 FfArray **result)
{
    FfArrayOptions o = options_of(options);

    *result = NULL;
    if (file->size != sizeof(*file) || !file->load) {
        return ff_fail(-EINVAL, "ff_array_new: size must be sizeof(FfArrayFile), load not NULL");
    }
    return new_array(len, file, opaque, &o, NULL, NULL, result);
}

typedef struct {
    FfArrayDisk *disk;
    uint64_t len; /* of the array that the log is of */
} Recovery;

static int apply_pages(void *opaque, uint64_t first, uint64_t n, const void *data)
{
    Recovery *r = opaque;
    uint64_t is = ff_array_disk_len(r->disk);
    int rc = is != r->len && is != UINT64_MAX ? -ESTALE : 0;

    /* A run may be of several chunks. Older builds logged what is after the end. */
    for (uint64_t i = 0; i < n && rc == 0 && (first + i) * PAGE < r->len; i++) {
        uint64_t at = (first + i) * PAGE;
        rc =
            ff_array_disk_write(r->disk, at, (const char *)data + i * PAGE, MIN(PAGE, r->len - at));
    }
    return rc;
}

/* What was committed is in its place. NAME: of the log. */
static int recover_disk(FfRedo *log, const char *name, FfArrayDisk *disk)
{
    Recovery r = {disk, 0};
    int rc = ff_redo_replay(log, &r.len, apply_pages, &r);

    if (rc == -EBADMSG) {
        return ff_fail(-EINVAL, "%s is no log of an array: give that file another name", name);
    }
    if (rc == -EPROTO) {
        return ff_fail(rc, "%s is of another version of libfarfault: open it with that one", name);
    }
    if (rc == -ESTALE) {
        return ff_fail(-EINVAL,
                       "%s has commits to an array of %" G_GUINT64_FORMAT " bytes, and this one "
                       "has %" G_GUINT64_FORMAT ": put the right file there, or remove the log "
                       "if it is not wanted",
                       name, r.len, ff_array_disk_len(disk));
    }
    rc = rc < 0 ? rc : ff_array_disk_sync(disk);
    rc = rc < 0 ? rc : ff_redo_reset(log);
    return rc < 0 ? ff_fail(rc, "%s: %s", name, ff_strerror(-rc)) : 0;
}

static int fail_open(int rc, const char *path, size_t block_size)
{
    switch (rc) {
    case -EBUSY:
        return ff_fail(rc, "%s: somebody has it open, perhaps this program", path);
    case -ENOMEDIUM:
        return ff_fail(
            -EINVAL,
            "%s: its file block_size does not say of how many bytes its blocks are: write "
            "the number there",
            path);
    case -EMEDIUMTYPE:
        return ff_fail(-EINVAL,
                       "%s: its blocks are not of %zu bytes: its file block_size says of how many; "
                       "FfArrayOptions.block_size 0 takes that",
                       path, block_size);
    default:
        return ff_fail(rc, "%s: %s", path, ff_strerror(-rc));
    }
}

/* PATH.redo, whichever of its names PATH is. */
static char *name_log(const char *path)
{
    char *real = realpath(path, NULL), *name = g_strdup_printf("%s.redo", real ? real : path);

    free(real);
    return name;
}

static int open_disk(const char *path, uint64_t len, bool chunks, const FfArrayOptions *options,
                     FfArray **result)
{
    FfArrayOptions o = options_of(options);
    g_autoptr(FfRedo) log = NULL;
    g_autoptr(FfArrayDisk) disk = NULL;

    *result = NULL;
    int rc = len || !chunks ? check_options(len ? len : 1, &o)
                            : ff_fail(-EINVAL, "%s: say how long it is", path);
    rc = rc < 0 ? rc : ff_reserve("ff_array_open", 0);
    if (rc < 0) {
        return rc;
    }
    g_auto(FfXfsz) xfsz = ff_xfsz_begin();
    bool any = !options || !options->block_size;
    bool made = !chunks && access(path, F_OK) < 0 && errno == ENOENT;
    rc = chunks ? ff_array_disk_open_chunks(path, any, &o.block_size, &disk)
                : ff_array_disk_open_file(path, len > 0, &disk);
    if (rc < 0) {
        return fail_open(rc, path, o.block_size);
    }
    g_autofree char *name = name_log(path);
    rc = ff_array_log_open(name, disk, &log);
    rc = rc < 0 ? rc : recover_disk(log, name, disk);
    if (rc < 0) {
        return rc;
    }
    rc = ff_array_disk_fit(disk, &len);
    if (rc == -EFBIG && ff_array_disk_len(disk) > len) {
        return ff_fail(rc,
                       "%s: it has %" G_GUINT64_FORMAT " bytes, more than the %" G_GUINT64_FORMAT
                       " that were asked for; 0 is its own length",
                       path, ff_array_disk_len(disk), len);
    }
    if (rc < 0) {
        if (made && ff_array_disk_len(disk) == 0) {
            unlink(path);
            unlink(name); /* of nothing, and empty */
        }
        return fail_open(rc, path, o.block_size);
    }
    ff_redo_set_len(log, len);
    return new_array(len, NULL, NULL, &o, g_steal_pointer(&disk), g_steal_pointer(&log), result);
}

int ff_array_open(const char *path, uint64_t len, const FfArrayOptions *options, FfArray **result)
{
    return open_disk(path, len, false, options, result);
}

int ff_array_open_chunks(const char *path, uint64_t len, const FfArrayOptions *options,
                         FfArray **result)
{
    return open_disk(path, len, true, options, result);
}

int ff_array_open_zstd(const char *path, const FfArrayOptions *options, FfArray **result)
{
    FfArrayOptions o = options_of(options);
    FfArrayDisk *disk = NULL;

    *result = NULL;
    int rc = check_options(1, &o);
    rc = rc < 0 ? rc : ff_reserve("ff_array_open_zstd", FF_FRAMES_CONTEXT);
    rc = rc < 0 ? rc : ff_array_disk_open_zstd(path, &disk);
    return rc < 0 ? rc : new_array(ff_array_disk_len(disk), NULL, NULL, &o, disk, NULL, result);
}

void ff_array_free(FfArray *a)
{
    if (!a) {
        return;
    }
    if (a->pid == getpid()) {
        ff_array_ahead_end(a->ahead); /* whose loads may touch it */
        pthread_mutex_lock(&a->lock); /* nobody touches it, but a thread may be loading */
        g_ptr_array_set_size(a->maps, 0);
        pthread_mutex_unlock(&a->lock);
        ff_pool_free(a->pool);
        g_ptr_array_unref(a->maps);
        if (a->disk && !a->read_only && a->log && !a->broken &&
            ff_reserve("ff_array_free", 0) == 0) {
            ff_array_checkpoint(a); /* else the next one that opens it does that */
        }
        if (a->disk) {
            ff_array_disk_unlock(a->disk);
        }
        if (a->disk && !a->read_only && a->log) {
            ff_redo_unlock(a->log);
        }
        if ((a->fd >= 0 && ftruncate(a->fd, 0) < 0) ||
            (a->small_fd >= 0 && ftruncate(a->small_fd, 0) < 0)) {
            /* A child of fork() keeps the memory until it ends. */
        }
    } else { /* which has no mappings and no threads */
        g_ptr_array_set_free_func(a->maps, NULL);
        g_ptr_array_unref(a->maps);
    }
    ff_array_ahead_free(a->ahead);
    ff_array_disk_free(a->disk);
    ff_redo_free(a->log);
    if (a->huge) {
        ff_huge_memory_free(a->huge);
    } else if (a->fd >= 0) {
        close(a->fd);
    }
    if (a->small_fd >= 0) {
        close(a->small_fd);
    }
    if (a->pagemap_fd >= 0) {
        close(a->pagemap_fd);
    }
    if (a->blocks != MAP_FAILED) {
        munmap(a->blocks, a->blocks_len);
    }
    ff_bitmap_clear(&a->dirty);
    ff_bitmap_clear(&a->stored);
    pthread_mutex_destroy(&a->lock);
    pthread_cond_destroy(&a->changed);
    ff_holds_free(a->holds);
    g_free(a->spill);
    g_free(a);
}
