/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What all of libfarfault stands on: errors, the states of an FfMemory, userfaultfds. See
 * farfault.h for the threads, and memory-internal.h for the lock.
 *
 * Lock: fork_lock, a leaf, is held by a thread that forks.
 *
 * System calls: userfaultfd, ioctl(USERFAULTFD_IOC_NEW, UFFDIO_API), open, close, getpid.
 */
#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "libfarfault/common/memory-internal.h"
#include "uffd/uffd.h"

#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif
#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif

/* ---- errors ---------------------------------------------------------------------------------- */

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
    static const int known[] = {ENOENT, EEXIST, EISDIR, ENOTDIR,   ENOSPC, EINVAL,  EACCES, EBUSY,
                                ENOMEM, EROFS,  EMFILE, ECANCELED, ESRCH,  ENOTSUP, EAGAIN};
    static const int by_text[] = {ENOMEM, EFBIG};

    if (error->domain != G_IO_ERROR) {
        return -EIO;
    }
    /* GLib's codes are those of ENOSPC, and of anything. */
    for (size_t i = 0; i < G_N_ELEMENTS(by_text); i++) {
        if (g_str_has_suffix(error->message, g_strerror(by_text[i])) ||
            g_str_has_suffix(error->message, ff_strerror(by_text[i]))) {
            return -by_text[i];
        }
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

const char *ff_strerror(int err)
{
    const char *text = strerrordesc_np(err);

    return text ? text : "unknown error";
}

const char *ff_last_error(void)
{
    return last_error;
}

/* ---- states ---------------------------------------------------------------------------------- */

static const char *const state_names[] = {
    [FF_IDLE] =
        "no snapshot is under way: ff_snapshot_prepare() and ff_snapshot_begin() come first",
    [FF_PREPARING] = "another thread is just preparing, beginning or cancelling one",
    [FF_PREPARED] = "a snapshot is prepared: begin or cancel it",
    [FF_BEGUN] = "a snapshot has begun: save or cancel it",
    [FF_SAVING] = "a snapshot is being saved: wait for it",
    [FF_SAVED] = "the last snapshot has not been waited for",
};

const char *ff_memory_state_name(FfMemoryState state)
{
    return state_names[state];
}

int ff_memory_check(const FfMemory *m)
{
    return m->pid == getpid() ? 0
                              : ff_fail(-ECHILD, "this is a child of the process whose memory it "
                                                 "is: it needs an ff_memory_new() of its own");
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
        m->cancelled = false; /* what was cancelled before is over */
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
    g_strlcpy(m->result_text, text ? text : "", sizeof(m->result_text));
    m->state = FF_SAVED;
    pthread_mutex_unlock(&m->lock);
}

/* ---- what is closed -------------------------------------------------------------------------- */

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

static int open_uffd(unsigned flags, uint64_t features, const char *unsupported)
{
    int fd = ff_memory_new_uffd(flags);

    if (fd == -EPERM) {
        return ff_fail(fd, "no permission for userfaultfd: let this user open /dev/userfaultfd, or "
                           "sysctl vm.unprivileged_userfaultfd=1, or use FF_MEMORY_USER_MODE");
    }
    if (fd < 0) {
        return ff_fail(fd, "userfaultfd: %s", ff_strerror(-fd));
    }
    int rc = ff_uffd_init(fd, features, NULL);
    if (rc < 0) {
        close(fd);
        return ff_fail(rc == -EINVAL ? -ENOTSUP : rc, "%s", unsupported);
    }
    return fd;
}

int ff_memory_open_uffd(const FfMemory *m, uint64_t features)
{
    return open_uffd(m->flags, features,
                     "this kernel cannot protect such memory: private memory needs Linux 6.4, "
                     "shared memory 5.19");
}

int ff_uffd_open(unsigned flags, uint64_t features)
{
    return open_uffd(flags, features,
                     "this kernel cannot answer for such memory: Linux 6.6 is needed");
}

/* ---- fork() of the program ------------------------------------------------------------------- */

/* A child that lives on would have the userfaultfd, too, and then closing it lets nobody go: a
 * thread that changes a mapping that is still registered (what MREMAP_DONTUNMAP leaves behind)
 * would wait for ever. So children close it. */
static pthread_mutex_t fork_lock = PTHREAD_MUTEX_INITIALIZER;
static FfMemory *memories; /* fork_lock */

static void lock_fork(void)
{
    pthread_mutex_lock(&fork_lock);
}

static void unlock_fork(void)
{
    pthread_mutex_unlock(&fork_lock);
}

static void close_in_child(void)
{
    for (FfMemory *m = memories; m; m = m->next) {
        if (m->uffd >= 0) {
            close(m->uffd);
            m->uffd = -1;
        }
    }
    memories = NULL;
    unlock_fork();
}

static void hear_of_forks(void)
{
    pthread_atfork(lock_fork, unlock_fork, close_in_child);
}

void ff_memory_enlist(FfMemory *m)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;

    pthread_once(&once, hear_of_forks);
    lock_fork();
    m->next = memories;
    memories = m;
    unlock_fork();
}

void ff_memory_delist(FfMemory *m)
{
    lock_fork();
    for (FfMemory **at = &memories; *at; at = &(*at)->next) {
        if (*at == m) {
            *at = m->next;
            break;
        }
    }
    unlock_fork();
}

int ff_memory_set_uffd(FfMemory *m, uint64_t features)
{
    lock_fork();
    m->uffd = ff_memory_open_uffd(m, features);
    int rc = MIN(m->uffd, 0);
    unlock_fork();
    return rc;
}

void ff_memory_close_uffd(FfMemory *m)
{
    lock_fork();
    if (m->uffd >= 0) {
        close(m->uffd); /* what could not be taken out is let go by this */
    }
    m->uffd = -1;
    unlock_fork();
}

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
