/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The regions of an FfMemory: what is mapped there is looked at, and refused if it cannot be saved.
 * What they give back is kept first. See farfault.h for the threads.
 *
 * System calls: fstat, pread (maps), fcntl, madvise.
 */
#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "libfarfault/common/memory-internal.h"
#include "libfarfault/common/rlimits.h"
#include "uffd/regions.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14 */
#endif

#define PAGE 4096ull
#define HUGE (2ull << 20)
/* Given back at once by ff_region_discard(), so that a hole is not filled for long. */
#define PIECE (2ull << 20)
/* There is no memory to look at what is mapped; -ENOMEM: it is not mapped. */
#define NO_LOOK (-ENOBUFS)

/* ---- what is there --------------------------------------------------------------------------- */

typedef struct {
    uint64_t start, end, offset, dev, ino;
    char perms[5];
} Mapping;

static bool parse_mapping(const char *line, Mapping *m)
{
    unsigned maj, min;
    bool ok = sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s %" SCNx64 " %x:%x %" SCNu64, &m->start,
                     &m->end, m->perms, &m->offset, &maj, &min, &m->ino) == 7;

    if (ok) {
        m->dev = makedev(maj, min);
    }
    return ok;
}

/* That M, which has a part of R, can be saved as R says. IS_NEW: R's offset is set, and it is
 * writable (a program may take that away from a part of it later). */
static int check_mapping(FfMemoryRegion *r, const Mapping *m, bool is_first, bool is_new)
{
    uint64_t at = MAX(m->start, r->addr), offset = m->offset + (at - m->start);

    if (is_new && (m->perms[0] != 'r' || m->perms[1] != 'w')) {
        return ff_fail(-EACCES, "%#" PRIx64 ": it is not readable and writable: mprotect() it", at);
    }
    if (r->fd < 0) {
        return m->ino == 0 && m->perms[3] == 'p'
                   ? 0
                   : ff_fail(-ENOTSUP,
                             "%#" PRIx64 ": it is not private anonymous memory: a shared mapping "
                             "of a memfd is registered with its file",
                             at);
    }
    if (m->perms[3] != 's' || m->dev != r->dev || m->ino != r->ino) {
        return ff_fail(-EINVAL, "%#" PRIx64 ": no shared mapping of that file is there", at);
    }
    if (is_new && is_first) {
        r->offset = offset;
    }
    return offset == r->offset + (at - r->addr)
               ? 0
               : ff_fail(-EINVAL, "%#" PRIx64 ": the file is not mapped in a row there", at);
}

/* LINES: of /proc/self/maps. */
static int look_at_lines(char **lines, FfMemoryRegion *r, bool is_new)
{
    uint64_t next = r->addr, end = r->addr + r->len;
    int rc = 0;

    for (char **l = lines; *l && rc == 0 && next < end; l++) {
        Mapping map;
        if (!parse_mapping(*l, &map) || map.end <= next) {
            continue;
        }
        if (map.start > next) {
            break;
        }
        rc = check_mapping(r, &map, next == r->addr, is_new);
        next = map.end;
    }
    return rc < 0 || next >= end
               ? rc
               : ff_fail(-ENOMEM,
                         "%#" PRIx64 ": nothing is mapped: map it, or ff_region_remove() it", next);
}

/* 0 or -errno, said. */
static int read_lines(const FfMemory *m, char ***lines)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *text = ff_maps_read(m->maps_fd, &error);
    /* A line has 32 bytes at least, and is copied. */
    int rc = text ? ff_reserve("/proc/self/maps", 3 * strlen(text)) : ff_fail_error(error);

    *lines = rc == 0 ? g_strsplit(text, "\n", -1) : NULL;
    return rc;
}

static int look_at_maps(const FfMemory *m, FfMemoryRegion *r)
{
    g_auto(GStrv) lines = NULL;
    int rc = read_lines(m, &lines);

    return rc < 0 ? rc : look_at_lines(lines, r, true);
}

int ff_regions_check(const FfMemory *m)
{
    g_auto(GStrv) lines = NULL;
    int rc = read_lines(m, &lines);

    for (guint i = 0; i < m->regions->len && rc == 0; i++) {
        rc = look_at_lines(lines, &g_array_index(m->regions, FfMemoryRegion, i), false);
    }
    return rc;
}

static int look_at_file(FfMemoryRegion *r)
{
    struct stat st;
    int rc = ff_backing_of_file(r->fd, &r->backing);

    if (rc < 0 || fstat(r->fd, &st) < 0) {
        return ff_fail(rc < 0 ? rc : -errno, "the file is no memfd, nor on tmpfs or hugetlbfs");
    }
    r->dev = st.st_dev;
    r->ino = st.st_ino;
    return 0;
}

static int look_at_region(const FfMemory *m, FfMemoryRegion *r, unsigned flags)
{
    bool is_huge = flags & FF_REGION_HUGE;
    int rc = r->fd >= 0 ? look_at_file(r) : 0;

    if (rc < 0) {
        return rc;
    }
    if (flags & ~FF_REGION_HUGE || (is_huge && r->fd >= 0)) {
        return ff_fail(-EINVAL, "ff_region_add: flags are 0 or, without a file, FF_REGION_HUGE");
    }
    if (r->fd < 0) {
        r->backing = ff_backing_private(m->mem_fd, r->len);
        r->backing.page_size = is_huge ? HUGE : r->backing.page_size;
    }
    uint64_t ps = r->backing.page_size;
    if (!r->len || r->addr % ps || r->len % ps || r->addr + r->len < r->addr) {
        return ff_fail(-EINVAL,
                       "ff_region_add: %#" PRIx64 " bytes at %#" PRIx64
                       " are not whole pages of %" PRIu64 " bytes",
                       r->len, r->addr, ps);
    }
    rc = look_at_maps(m, r);
    if (rc == 0 && r->fd >= 0) {
        if (r->offset % ps || r->offset + r->len > r->backing.size) {
            return ff_fail(-EINVAL, "%#" PRIx64 ": the file ends before the mapping", r->addr);
        }
        r->backing.size = r->offset + r->len;
    }
    return rc;
}

/* In LINES something is mapped in [START, END), which is in a region still. */
static int check_gap(const FfMemory *m, char **lines, uint64_t start, uint64_t end)
{
    for (char **l = lines; *l; l++) {
        Mapping map;
        if (!parse_mapping(*l, &map) || map.end <= start || map.start >= end) {
            continue;
        }
        for (guint i = 0; i < m->regions->len; i++) {
            const FfMemoryRegion *r = &g_array_index(m->regions, FfMemoryRegion, i);
            uint64_t from = MAX(MAX(map.start, start), r->addr);
            if (from < MIN(MIN(map.end, end), r->addr + r->len)) {
                return ff_fail(-EINVAL,
                               "%#" PRIx64 ": it was mapped again since the snapshot was prepared: "
                               "call ff_region_remove() before that, or cancel and prepare again",
                               from);
            }
        }
    }
    return 0;
}

int ff_regions_check_gaps(const FfMemory *m)
{
    g_auto(GStrv) lines = NULL;
    FfRun run = {0};
    int rc = 0;

    for (; rc == 0 && ff_capture_next_gap(m->capture, &run); run.first += run.n) {
        const FfSavedRegion *s = &g_array_index(m->saved, FfSavedRegion, run.block);
        uint64_t start = s->addr + run.first * s->page_size;
        rc = lines ? 0 : read_lines(m, &lines);
        rc = rc < 0 ? rc : check_gap(m, lines, start, start + run.n * s->page_size);
    }
    return rc;
}

/* ---- the table
 * -----------------------------------------------------------------------------------
 */

static FfMemoryRegion *nth_region(const FfMemory *m, guint i)
{
    return &g_array_index(m->regions, FfMemoryRegion, i);
}

/* Locked. There is memory for another region. 0 or -errno, said. */
static int one_more(const FfMemory *m, const char *call)
{
    return ff_reserve(call, (m->regions->len + 1) * 2 * sizeof(FfMemoryRegion));
}

/* Locked. R stands beside all others, and is inserted. */
static int insert_region(FfMemory *m, const FfMemoryRegion *r)
{
    guint at = 0;

    for (guint i = 0; i < m->regions->len; i++) {
        const FfMemoryRegion *o = nth_region(m, i);
        if (r->addr < o->addr + o->len && o->addr < r->addr + r->len) {
            return ff_fail(-EEXIST, "%#" G_GINT64_MODIFIER "x: a part of it is a region already",
                           r->addr);
        }
        bool same = r->fd >= 0 && o->fd >= 0 && r->dev == o->dev && r->ino == o->ino;
        if (same && r->offset < o->offset + o->len && o->offset < r->offset + r->len) {
            return ff_fail(-EEXIST,
                           "%#" G_GINT64_MODIFIER "x: the same pages of the file are a region at "
                           "%#" G_GINT64_MODIFIER "x: write to them through one mapping",
                           r->addr, o->addr);
        }
        at += o->addr < r->addr;
    }
    int rc = one_more(m, "ff_region_add");
    if (rc == 0) {
        g_array_insert_val(m->regions, at, *r);
    }
    return rc;
}

/* The file of FD with a place of its own: looking for holes moves it, and the program's may be in
 * use. Where it cannot be opened again (no /proc) it is the same one. -1 and errno. */
static int open_again(int fd)
{
    g_autofree char *path = g_strdup_printf("/proc/self/fd/%d", fd);
    int flags = fcntl(fd, F_GETFL);
    int again = flags < 0 ? -1 : open(path, (flags & O_ACCMODE) | O_CLOEXEC | O_NONBLOCK);

    return again >= 0 || flags < 0 ? again : fcntl(fd, F_DUPFD_CLOEXEC, 0);
}

int ff_region_add(FfMemory *m, void *addr, size_t len, int fd, unsigned flags)
{
    FfMemoryRegion r = {.addr = (uintptr_t)addr, .len = len, .fd = -1};
    int rc = ff_memory_check(m);

    if (rc < 0) {
        return rc;
    }
    rc = ff_reserve("ff_region_add", 0);
    if (rc < 0) {
        return rc;
    }
    if (fd >= 0) {
        r.fd = open_again(fd);
        if (r.fd < 0) {
            return ff_fail(-errno, "ff_region_add: file %d: %s", fd, ff_strerror(errno));
        }
        r.owner = ff_owner_new(r.fd);
    }
    rc = look_at_region(m, &r, flags);
    if (rc == 0) {
        pthread_mutex_lock(&m->lock);
        rc = m->state == FF_IDLE
                 ? insert_region(m, &r)
                 : ff_fail(-EBUSY, "ff_region_add: %s", ff_memory_state_name(m->state));
        pthread_mutex_unlock(&m->lock);
    }
    if (rc < 0) {
        ff_owner_unref(r.owner);
    }
    return rc;
}

/* Locked: takes [START, END) out. */
static void cut_range(FfMemory *m, uint64_t start, uint64_t end)
{
    for (guint i = 0; i < m->regions->len;) {
        FfMemoryRegion r = *nth_region(m, i), before = r, after = r;
        if (r.addr >= end || r.addr + r.len <= start) {
            i++;
            continue;
        }
        g_array_remove_index(m->regions, i);
        before.len = start > r.addr ? start - r.addr : 0;
        after.len = r.addr + r.len > end ? r.addr + r.len - end : 0;
        if (after.len) {
            after.addr = end;
            after.offset += r.fd >= 0 ? end - r.addr : 0;
            after.backing.size = r.fd >= 0 ? r.backing.size : after.len;
            after.owner = ff_owner_ref(r.owner);
            g_array_insert_val(m->regions, i, after);
        }
        if (before.len) {
            before.backing.size = r.fd >= 0 ? r.offset + before.len : before.len;
            before.owner = ff_owner_ref(r.owner);
            g_array_insert_val(m->regions, i++, before);
        }
        i += after.len > 0;
        ff_owner_unref(r.owner);
    }
}

/* Whether LEN bytes at ADDR are in one region. *IS_SHARED, *PAGE_SIZE: of it. *KEEP: old contents
 * may have to be kept now. */
static bool find_range(FfMemory *m, uint64_t addr, uint64_t len, bool *is_shared, bool *keep)
{
    bool found = false;

    pthread_mutex_lock(&m->lock);
    *keep = m->state != FF_IDLE && m->state != FF_SAVED;
    for (guint i = 0; i < m->regions->len && !found; i++) {
        const FfMemoryRegion *r = nth_region(m, i);
        found = addr >= r->addr && len <= r->len && addr - r->addr <= r->len - len &&
                addr % r->backing.page_size == 0 && len % r->backing.page_size == 0;
        *is_shared = r->fd >= 0;
    }
    pthread_mutex_unlock(&m->lock);
    return found;
}

static int fail_keep(int rc, const char *at, const char *why)
{
    return ff_fail(rc, "%p: its old content cannot be kept: %s", (const void *)at, why);
}

/* Writes to each page without changing it: when that returns the page has had its old content kept,
 * as any first write has. The kernel does it, which says what a write of our own would die of. 0;
 * -ENOMEM: not all of it is mapped. */
static int populate_pages(char *at, uint64_t len)
{
    if (madvise(at, len, MADV_POPULATE_WRITE) == 0) {
        return 0;
    }
    switch (errno) {
    case ENOMEM:
        return fail_keep(-ENOMEM, at, "it is not mapped, or there is no memory");
    case EINVAL:
        return fail_keep(-EACCES, at, "it is not writable: mprotect() it first");
    case EFAULT:
        return fail_keep(-ENOMEM, at,
                         "a write would be a SIGBUS (no huge page is free, or the "
                         "file ends before it)");
    default:
        return fail_keep(-errno, at, ff_strerror(errno));
    }
}

/* The same where the kernel would be refused (FF_MEMORY_USER_MODE). */
static int touch_pages(const FfMemory *m, char *at, uint64_t len)
{
    g_auto(GStrv) lines = NULL;
    int rc = read_lines(m, &lines);
    uint64_t next = (uintptr_t)at, end = next + len;

    if (rc < 0) {
        return rc == -ENOMEM ? NO_LOOK : rc;
    }
    for (char **l = lines; *l && next < end; l++) {
        Mapping map;
        if (!parse_mapping(*l, &map) || map.end <= next) {
            continue;
        }
        if (map.start > next) {
            break;
        }
        if (map.perms[1] != 'w') {
            return fail_keep(-EACCES, at, "it is not writable: mprotect() it first");
        }
        next = map.end;
    }
    if (next < end) {
        return fail_keep(-ENOMEM, at, "it is not mapped");
    }
    for (uint64_t i = 0; i < len; i += PAGE) {
        __atomic_fetch_or(at + i, 0, __ATOMIC_RELAXED);
    }
    return 0;
}

static int keep_old(const FfMemory *m, char *at, uint64_t len)
{
    return m->flags & FF_MEMORY_USER_MODE ? touch_pages(m, at, len) : populate_pages(at, len);
}

/* Of what is mapped there: the rest has nothing to keep. */
static int keep_mapped(const FfMemory *m, char *at, uint64_t len)
{
    int rc = keep_old(m, at, len);

    for (uint64_t i = 0; rc == -ENOMEM && len > PAGE && i < len; i += PAGE) {
        int one = keep_old(m, at + i, PAGE);
        if (one < 0 && one != -ENOMEM) {
            return one;
        }
    }
    return rc == -ENOMEM ? 0 : rc;
}

static int check_range(FfMemory *m, const char *call, void *addr, size_t len, bool *is_shared,
                       bool *keep)
{
    int rc = ff_memory_check(m);

    if (rc == 0 && (!len || !find_range(m, (uintptr_t)addr, len, is_shared, keep))) {
        rc = ff_fail(-EINVAL, "%s: %zu bytes at %p are not whole pages of one region", call, len,
                     addr);
    }
    return rc;
}

int ff_region_remove(FfMemory *m, void *addr, size_t len)
{
    bool is_shared, keep;
    int rc = check_range(m, "ff_region_remove", addr, len, &is_shared, &keep);

    if (rc < 0) {
        return rc;
    }
    for (size_t at = 0, n; keep && rc == 0 && at < len; at += n) {
        n = MIN(len - at, PIECE);
        rc = keep_mapped(m, (char *)addr + at, n);
    }
    if (rc < 0) {
        return rc == NO_LOOK ? -ENOMEM : rc;
    }
    pthread_mutex_lock(&m->lock);
    rc = one_more(m, "ff_region_remove");
    if (rc == 0) {
        cut_range(m, (uintptr_t)addr, (uintptr_t)addr + len);
    }
    pthread_mutex_unlock(&m->lock);
    return rc;
}

int ff_region_discard(FfMemory *m, void *addr, size_t len)
{
    bool is_shared, keep;
    int rc = check_range(m, "ff_region_discard", addr, len, &is_shared, &keep);

    for (size_t at = 0, n; rc == 0 && at < len; at += n) {
        char *piece = (char *)addr + at;
        n = MIN(len - at, PIECE - (uintptr_t)piece % PIECE);
        rc = keep ? keep_old(m, piece, n) : 0;
        if (rc < 0) {
            break;
        }
        /* One at a time: while the kernel tells of one nothing can be protected, and no writer be
         * let go; many in a row would leave no room. */
        pthread_mutex_lock(&m->discards);
        int done = madvise(piece, n, is_shared ? MADV_REMOVE : MADV_DONTNEED);
        pthread_mutex_unlock(&m->discards);
        if (done < 0) {
            rc = ff_fail(-errno, "ff_region_discard: madvise: %s", ff_strerror(errno));
        }
    }
    return rc == NO_LOOK ? -ENOMEM : rc;
}
