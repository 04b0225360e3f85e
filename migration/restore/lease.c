/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A read lease; see lease.h. It belongs to the open description. The relay holds that as well, so
 * the lease outlives an engine that dies. Which process is told of a writer does not: each
 * engine makes itself the one that is, and then looks whether somebody has come before.
 *
 * While somebody waits, F_GETLEASE says F_UNLCK. It says the same where there is no lease any more.
 * That there was one F_GETSIG says, of the same description: an engine that finds that gives the
 * lease up at the end, whatever it has found. A process that does not own the file any more cannot
 * do that: then it ends with the description (ff_lease_open()).
 *
 * Threads: the one that takes it, and the main loop, which the kernel tells (on_lease_break()).
 * Lock: FfLease.lock, a leaf, under which a lease is looked at or given up, never taken.
 *
 * System calls: signalfd4.
 */
#include "migration/restore/lease.h"

#include <errno.h>
#include <fcntl.h>
#include <glib-unix.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/failpoints.h"
#include "base/sync.h"

#define TIME_PATH "/proc/sys/fs/lease-break-time"

struct FfLease {
    char *path;
    int fd; /* of the description that has the lease; its own */
    FfLeaseFunc waits;
    void *opaque;
    int signals;     /* a signalfd */
    GSource *source; /* the taker's */
    FfMutex lock;
    bool over; /* lock; it was given up */
    bool said; /* lock; that somebody waits */
};

static void expect_signal(sigset_t *set)
{
    sigemptyset(set);
    sigaddset(set, SIGIO);
}

void ff_lease_init(void)
{
    sigset_t set;

    expect_signal(&set);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
}

/* NULL: nobody can say. */
static char *time_text(void)
{
    char *text = NULL;

    return g_file_get_contents(TIME_PATH, &text, NULL, NULL) ? g_strstrip(text) : NULL;
}

unsigned ff_lease_seconds(void)
{
    g_autofree char *text = time_text();

    return text ? (unsigned)g_ascii_strtoull(text, NULL, 10) : 0;
}

/* ---- somebody waits -------------------------------------------------------------------------- */

/* "" if nobody can say. */
static char *time_left(void)
{
    g_autofree char *text = time_text();

    return text ? g_strdup_printf(", %s s at most", text) : g_strdup("");
}

static void describe_writer(const FfLease *l, bool late)
{
    g_autofree char *most = time_left();

    g_message("restore: %s: somebody %s to it, and is held back until this guest has all of its "
              "memory%s",
              l->path, late ? "writes, or waits to write," : "waits to write", most);
}

/* LATE: he may have come when nobody was told. */
static void look_for_writer(FfLease *l, bool late)
{
    ff_mutex_lock(&l->lock);
    bool first = !l->over && !l->said && fcntl(l->fd, F_GETLEASE) != F_RDLCK;
    l->said |= first;
    ff_mutex_unlock(&l->lock);
    if (first) {
        describe_writer(l, late);
        l->waits(l->opaque);
    }
}

/* GUnixFDSourceFunc. Which signal it was does not matter: the lease says it. */
static gboolean on_lease_break(gint fd, GIOCondition condition, gpointer opaque)
{
    struct signalfd_siginfo info;

    if (read(fd, &info, sizeof(info)) == sizeof(info)) {
        look_for_writer(opaque, false);
    }
    return G_SOURCE_CONTINUE;
}

/* ---- beginning and end ----------------------------------------------------------------------- */

static void free_lease(gpointer opaque)
{
    FfLease *l = opaque;

    if (l->signals >= 0) {
        close(l->signals);
    }
    if (l->fd >= 0) {
        close(l->fd);
    }
    ff_mutex_clear(&l->lock);
    g_free(l->path);
}

static void lease_unref(gpointer l)
{
    g_atomic_rc_box_release_full(l, free_lease);
}

/* Of -RC, which is F_SETLEASE's. */
static const char *lease_error(int rc)
{
    return rc == -EAGAIN   ? "somebody has it open for writing"
           : rc == -EACCES ? "it is another user's, or a security module forbids it"
           : rc == -ETIME  ? "fs.lease-break-time is 0, which has no end"
           : rc == -EINVAL ? "it is on a file system without leases, or no regular file"
                           : g_strerror(-rc);
}

/* With a time of 0 the kernel has a process that writes wait for ever, be the fill at its end or
 * not. */
static bool has_end(void)
{
    g_autofree char *text = time_text();

    return !text || strcmp(text, "0") != 0;
}

static bool is_signal_blocked(void)
{
    sigset_t now;

    return pthread_sigmask(SIG_BLOCK, NULL, &now) == 0 && sigismember(&now, SIGIO) == 1;
}

static int give_up(const FfLease *l)
{
    int rc = fcntl(l->fd, F_SETLEASE, F_UNLCK) < 0 ? -errno : 0;

    fcntl(l->fd, F_SETSIG, 0);
    return rc;
}

/* This process is told, and has the lease. KEPT: it may be that of an engine before. -errno. */
static int take_lease(const FfLease *l, bool kept)
{
    if (!is_signal_blocked()) {
        return -ENOTSUP;
    }
    if (!has_end()) {
        return -ETIME;
    }
    if (fcntl(l->fd, F_SETOWN, getpid()) < 0 || fcntl(l->fd, F_SETSIG, SIGIO) < 0) {
        return -errno;
    }
    /* A process that waits counts as one that writes; and the file may be another user's by now. */
    return FF_FAULT_CALL("set-lease", fcntl(l->fd, F_SETLEASE, F_RDLCK)) == 0 ||
                   (kept && (errno == EAGAIN || errno == EACCES))
               ? 0
               : -errno;
}

int ff_lease_open(int fd)
{
    g_autofree char *link = g_strdup_printf("/proc/self/fd/%d", fd);
    int own = fcntl(fd, F_GETSIG) == SIGIO ? -1 : open(link, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

    return own >= 0 ? own : fcntl(fd, F_DUPFD_CLOEXEC, 3);
}

bool ff_lease_is_possible(int fd)
{
    if (!is_signal_blocked() || !has_end() || fcntl(fd, F_SETLEASE, F_RDLCK) < 0) {
        return false;
    }
    (void)fcntl(fd, F_SETLEASE, F_UNLCK);
    return true;
}

static void listen_to(FfLease *l, GMainContext *context)
{
    l->source = g_unix_fd_source_new(l->signals, G_IO_IN);
    g_source_set_callback(l->source, G_SOURCE_FUNC(on_lease_break), g_atomic_rc_box_acquire(l),
                          lease_unref);
    g_source_attach(l->source, context);
}

FfLease *ff_lease_take(int fd, const char *path, GMainContext *context, FfLeaseFunc waits,
                       void *opaque)
{
    FfLease *l = g_atomic_rc_box_new0(FfLease);
    bool kept = fcntl(fd, F_GETSIG) == SIGIO;
    sigset_t set;
    int rc;

    expect_signal(&set);
    l->path = g_strdup(path);
    l->waits = waits;
    l->opaque = opaque;
    ff_mutex_init(&l->lock);
    l->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    l->signals = l->fd < 0 ? -1 : signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    rc = l->signals < 0 ? -errno : take_lease(l, kept);
    if (rc < 0) {
        g_message("restore: %s: nobody is held back from writing to it: %s", path, lease_error(rc));
        give_up(l);
        lease_unref(l);
        return NULL;
    }
    listen_to(l, context);
    /* Before this process was the one that is told. */
    look_for_writer(l, kept);
    return l;
}

void ff_lease_end(FfLease *l)
{
    if (!l) {
        return;
    }
    g_source_destroy(l->source);
    g_source_unref(l->source);
    ff_mutex_lock(&l->lock);
    l->over = true;
    int rc = give_up(l);
    close(l->fd);
    l->fd = -1;
    bool in_time = rc == 0 || rc == -EACCES, said = l->said;
    ff_mutex_unlock(&l->lock);
    if (said) {
        g_message("restore: %s: %s", l->path,
                  in_time ? "nobody is held back from writing to it any more"
                          : "who waited to write to it was let in before, by the kernel");
    }
    lease_unref(l);
}
