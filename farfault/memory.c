/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * An FfMemory: its errors, its states, and its regions. See farfault.h for the threads, and
 * memory-internal.h for the lock.
 *
 * System calls: userfaultfd, ioctl(USERFAULTFD_IOC_NEW, UFFDIO_API), open, close, pidfd_open,
 * getpid, madvise.
 */
#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "farfault/memory-internal.h"
#include "farfault/template.h"
#include "uffd/uffd.h"

#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif
#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif

#define PAGE 4096ull
/* Given back at once by ff_region_discard(), so that a hole is not filled for long. */
#define PIECE (2ull << 20)

/* ---- errors ------------------------------------------------------------------------------------
 */

static __thread char last_error[512];

int ff_fail(int rc, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    g_vsnprintf(last_error, sizeof(last_error), format, args);
    va_end(args);
    return rc;
}

/* GIO knows more than it keeps of an errno; what is not there is -EIO. */
static int errno_of(const GError *error)
{
    static const int known[] = {ENOENT, EEXIST, EISDIR, ENOTDIR, ENOSPC,    EINVAL, EACCES,
                                EBUSY,  ENOMEM, EROFS,  EMFILE,  ECANCELED, ESRCH,  ENOTSUP};

    if (error->domain != G_IO_ERROR) {
        return -EIO;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(known); i++) {
        GIOErrorEnum code = g_io_error_from_errno(known[i]);
        if (code != G_IO_ERROR_FAILED && (int)code == error->code) {
            return -known[i];
        }
    }
    return -EIO;
}

int ff_fail_error(const GError *error)
{
    return ff_fail(errno_of(error), "%s", error->message);
}

const char *ff_last_error(void)
{
    return last_error;
}

/* ---- states ------------------------------------------------------------------------------------
 */

static const char *const state_names[] = {
    [FF_IDLE] = "no snapshot is under way",
    [FF_PREPARING] = "another thread is just preparing, beginning or cancelling one",
    [FF_PREPARED] = "a snapshot is prepared: begin or cancel it",
    [FF_BEGUN] = "a snapshot has begun: save or cancel it",
    [FF_SAVING] = "a snapshot is being saved: wait for it",
    [FF_SAVED] = "the last snapshot has not been waited for",
};

int ff_memory_check(const FfMemory *m)
{
    return m->pid == getpid()
               ? 0
               : ff_fail(-ECHILD, "this is a child of the process whose memory it is");
}

int ff_memory_step(FfMemory *m, FfMemoryState from, FfMemoryState to, const char *what)
{
    int rc = ff_memory_check(m);

    if (rc < 0) {
        return rc;
    }
    pthread_mutex_lock(&m->lock);
    FfMemoryState now = m->state;
    if (now == from) {
        m->state = to;
    }
    pthread_mutex_unlock(&m->lock);
    return now == from ? 0 : ff_fail(-EBUSY, "%s: %s", what, state_names[now]);
}

void ff_memory_set_state(FfMemory *m, FfMemoryState to)
{
    pthread_mutex_lock(&m->lock);
    m->state = to;
    pthread_mutex_unlock(&m->lock);
}

void ff_memory_finish(FfMemory *m, int rc, const char *text)
{
    pthread_mutex_lock(&m->lock);
    m->result = rc;
    g_free(m->result_text);
    m->result_text = g_strdup(text);
    m->state = FF_SAVED;
    pthread_mutex_unlock(&m->lock);
}

/* ---- making ------------------------------------------------------------------------------------
 */

/* Also of the template, and so without GLib. */
int ff_memory_new_uffd(unsigned memory_flags)
{
    bool user_mode = memory_flags & FF_MEMORY_USER_MODE;
    int flags = O_CLOEXEC | O_NONBLOCK | (user_mode ? UFFD_USER_MODE_ONLY : 0);
    int fd = (int)syscall(SYS_userfaultfd, flags);

    if (fd >= 0 || errno != EPERM) {
        return fd < 0 ? -errno : fd;
    }
    int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
    if (device < 0) {
        return -EPERM;
    }
    fd = ioctl(device, USERFAULTFD_IOC_NEW, flags);
    int rc = fd < 0 ? -errno : fd;
    close(device);
    return rc;
}

int ff_memory_open_uffd(const FfMemory *m, uint64_t features)
{
    int fd = ff_memory_new_uffd(m->flags);

    if (fd == -EPERM) {
        return ff_fail(fd, "no permission for userfaultfd: let this user open /dev/userfaultfd, or "
                           "sysctl vm.unprivileged_userfaultfd=1, or use FF_MEMORY_USER_MODE");
    }
    if (fd < 0) {
        return ff_fail(fd, "userfaultfd: %s", g_strerror(-fd));
    }
    int rc = ff_uffd_init(fd, features, NULL);
    if (rc < 0) {
        close(fd);
        return ff_fail(rc == -EINVAL ? -ENOTSUP : rc,
                       "this kernel cannot protect such memory: private memory needs Linux 6.4, "
                       "shared memory 5.19");
    }
    return fd;
}

static int open_files(FfMemory *m)
{
    m->mem_fd = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
    m->pagemap_fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    m->maps_fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    if (m->mem_fd < 0 || m->pagemap_fd < 0 || m->maps_fd < 0) {
        return ff_fail(-errno,
                       "/proc/self cannot be read (%s): mount /proc; after setuid() call "
                       "prctl(PR_SET_DUMPABLE, 1) first",
                       g_strerror(errno));
    }
    /* -1: huge mappings are not made again. */
    m->pidfd = (int)syscall(SYS_pidfd_open, m->pid, 0);
    return 0;
}

int ff_memory_new(unsigned flags, FfMemory **memory)
{
    FfMemory *m = g_new0(FfMemory, 1);

    *memory = NULL;
    m->pid = getpid();
    m->flags = flags;
    m->mem_fd = m->pagemap_fd = m->maps_fd = m->pidfd = m->uffd = -1;
    m->regions = g_array_new(FALSE, FALSE, sizeof(FfMemoryRegion));
    pthread_mutex_init(&m->lock, NULL);
    pthread_mutex_init(&m->discards, NULL);
    int rc = flags & ~FF_MEMORY_USER_MODE
                 ? ff_fail(-EINVAL, "ff_memory_new: a flag that is not known")
                 : open_files(m);
    /* Whoever has no permission hears of it here, and not at the first snapshot. */
    int fd = rc < 0 ? rc : ff_memory_open_uffd(m, 0);
    if (fd < 0) {
        ff_memory_free(m);
        return fd;
    }
    close(fd);
    *memory = m;
    return 0;
}

static void close_fd(int fd)
{
    if (fd >= 0) {
        close(fd);
    }
}

static void end_all(FfMemory *m)
{
    g_autofree char *keep = g_strdup(last_error);

    ff_snapshot_cancel(m);
    if (m->state == FF_SAVING || m->state == FF_SAVED) {
        ff_snapshot_wait(m, NULL);
    }
    g_strlcpy(last_error, keep, sizeof(last_error));
}

void ff_memory_free(FfMemory *m)
{
    if (!m) {
        return;
    }
    if (m->pid == getpid()) {
        end_all(m);
        ff_template_end(m);
    }
    for (guint i = 0; i < m->regions->len; i++) {
        ff_owner_unref(g_array_index(m->regions, FfMemoryRegion, i).owner);
    }
    g_array_unref(m->regions);
    close_fd(m->mem_fd);
    close_fd(m->pagemap_fd);
    close_fd(m->maps_fd);
    close_fd(m->pidfd);
    pthread_mutex_destroy(&m->lock);
    pthread_mutex_destroy(&m->discards);
    g_free(m->result_text);
    g_free(m);
}

/* ---- regions -----------------------------------------------------------------------------------
 */

int *ff_owner_new(int fd)
{
    int *owner = g_rc_box_new(int);

    *owner = fd;
    return owner;
}

int *ff_owner_ref(int *owner)
{
    return owner ? g_rc_box_acquire(owner) : NULL;
}

static void close_owned(gpointer p)
{
    close(*(int *)p);
}

void ff_owner_unref(int *owner)
{
    if (owner) {
        g_rc_box_release_full(owner, close_owned);
    }
}

static FfMemoryRegion *region(const FfMemory *m, guint i)
{
    return &g_array_index(m->regions, FfMemoryRegion, i);
}

/* Locked. R stands beside all others, and is inserted. */
static int insert(FfMemory *m, const FfMemoryRegion *r)
{
    guint at = 0;

    for (guint i = 0; i < m->regions->len; i++) {
        const FfMemoryRegion *o = region(m, i);
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
    g_array_insert_val(m->regions, at, *r);
    return 0;
}

int ff_region_add(FfMemory *m, void *addr, size_t len, int fd, unsigned flags)
{
    FfMemoryRegion r = {.addr = (uintptr_t)addr, .len = len, .fd = -1};
    int rc = ff_memory_check(m);

    if (rc < 0) {
        return rc;
    }
    if (fd >= 0) {
        r.fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
        if (r.fd < 0) {
            return ff_fail(-errno, "ff_region_add: file %d: %s", fd, g_strerror(errno));
        }
        r.owner = ff_owner_new(r.fd);
    }
    rc = ff_region_look(m, &r, flags);
    if (rc == 0) {
        pthread_mutex_lock(&m->lock);
        rc = m->state == FF_IDLE ? insert(m, &r)
                                 : ff_fail(-EBUSY, "ff_region_add: %s", state_names[m->state]);
        pthread_mutex_unlock(&m->lock);
    }
    if (rc < 0) {
        ff_owner_unref(r.owner);
    }
    return rc;
}

/* Locked: takes [START, END) out. */
static void cut(FfMemory *m, uint64_t start, uint64_t end)
{
    for (guint i = 0; i < m->regions->len;) {
        FfMemoryRegion r = *region(m, i), before = r, after = r;
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
static bool find(FfMemory *m, uint64_t addr, uint64_t len, bool *is_shared, bool *keep)
{
    bool found = false;

    pthread_mutex_lock(&m->lock);
    *keep = m->state != FF_IDLE && m->state != FF_SAVED;
    for (guint i = 0; i < m->regions->len && !found; i++) {
        const FfMemoryRegion *r = region(m, i);
        found = addr >= r->addr && len <= r->len && addr - r->addr <= r->len - len &&
                addr % r->backing.page_size == 0 && len % r->backing.page_size == 0;
        *is_shared = r->fd >= 0;
    }
    pthread_mutex_unlock(&m->lock);
    return found;
}

/* Writes to each page without changing it: whoever returns from that has had its old content kept,
 * as any first write has. */
static void touch(char *at, uint64_t len)
{
    for (uint64_t i = 0; i < len; i += PAGE) {
        __atomic_fetch_or(at + i, 0, __ATOMIC_RELAXED);
    }
}

static int check_range(FfMemory *m, const char *call, void *addr, size_t len, bool *is_shared,
                       bool *keep)
{
    int rc = ff_memory_check(m);

    if (rc == 0 && (!len || !find(m, (uintptr_t)addr, len, is_shared, keep))) {
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
    if (keep) {
        touch((char *)addr, len);
    }
    pthread_mutex_lock(&m->lock);
    cut(m, (uintptr_t)addr, (uintptr_t)addr + len);
    pthread_mutex_unlock(&m->lock);
    return 0;
}

int ff_region_discard(FfMemory *m, void *addr, size_t len)
{
    bool is_shared, keep;
    int rc = check_range(m, "ff_region_discard", addr, len, &is_shared, &keep);

    for (size_t at = 0, n; rc == 0 && at < len; at += n) {
        char *piece = (char *)addr + at;
        n = MIN(len - at, PIECE - (uintptr_t)piece % PIECE);
        if (keep) {
            touch(piece, n);
        }
        /* One at a time: while the kernel tells of one nothing can be protected, and no writer be
         * let go; many in a row would leave no room. */
        pthread_mutex_lock(&m->discards);
        int done = madvise(piece, n, is_shared ? MADV_REMOVE : MADV_DONTNEED);
        pthread_mutex_unlock(&m->discards);
        if (done < 0) {
            rc = ff_fail(-errno, "ff_region_discard: madvise: %s", g_strerror(errno));
        }
    }
    return rc;
}
