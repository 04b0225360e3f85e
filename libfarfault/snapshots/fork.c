/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * ff_fork() on the program's side. A thread forks the template and lives as long as that: it is its
 * parent, with which the template dies, and it hears what becomes of children. A child's memory is
 * a space of its own (uffd/space.h), whose pager asks the server; the server, in the place of the
 * saver of a snapshot, has the capture.
 *
 * Lock: FfTemplate.lock guards its news and the queue; it is a leaf, but that the capture may be
 * woken under FfMemory.lock.
 *
 * System calls: fork, madvise, socketpair, shutdown, sendmsg, recvmsg, waitpid, pidfd_open,
 * pidfd_send_signal, close.
 */
#include <errno.h>
#include <gio/gio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "libfarfault/snapshots/fork.h"

#include "base/priority.h"
#include "libfarfault/common/memory-internal.h"
#include "libfarfault/common/rlimits.h"
#include "libfarfault/common/threads.h"
#include "libfarfault/snapshots/capture.h"
#include "libfarfault/snapshots/template.h"
#include "uffd/faults.h"
#include "uffd/place.h"
#include "uffd/uffd.h"

/* Faults of a child that are not answered yet: as many as it has threads. */
#define QUEUE 4096

/* The child of one ff_fork(). */
typedef struct {
    FfPager pager; /* first: what its space calls with is this */
    FfMemory *m;
    pid_t pid;
    int pidfd, sock, uffd;
    FfSpace *space;
    GThread *faults;
    FfRun queue[QUEUE]; /* lock; what it waits for, in its pages */
    unsigned n_queue;   /* lock */
    bool gone;          /* its memory is; of the server */
} Child;

typedef struct FfTemplate {
    FfMemory *m;
    FfChild *run;
    void *opaque;
    GThread *thread;
    int sock, other; /* ours, the template's */
    sigset_t signals;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool started, ended;     /* lock; of the template */
    bool is_made, is_reaped; /* lock; of the child that was asked for last */
    int made_rc, status, rc; /* lock; rc: of starting */
    pid_t pid, child_pid;    /* lock */
    Child *child;            /* of the one in a call that changes the state of the memory */
} FfTemplate;

/* ---- the thread of the template -------------------------------------------------------------- */

/* The regions are no business of the template's: their page tables are not copied, and the
 * program's first write to each page later need not copy it. */
static void advise_regions(FfMemory *m, int advice)
{
    pthread_mutex_lock(&m->lock);
    for (guint i = 0; i < m->regions->len; i++) {
        const FfMemoryRegion *r = &g_array_index(m->regions, FfMemoryRegion, i);
        madvise((void *)(uintptr_t)r->addr, r->len, advice);
    }
    pthread_mutex_unlock(&m->lock);
}

static void wake_server(FfMemory *m)
{
    pthread_mutex_lock(&m->lock);
    if (m->capture) {
        ff_capture_wake(m->capture);
    }
    pthread_mutex_unlock(&m->lock);
}

static void read_news(FfTemplate *t)
{
    FfTemplateNews news;
    ssize_t n;
    int fd;

    while ((n = ff_template_recv(t->sock, &news, sizeof(news), &fd)) == sizeof(news)) {
        pthread_mutex_lock(&t->lock);
        if (news.what == FF_TEMPLATE_MADE) {
            t->is_made = true;
            t->made_rc = news.status;
            t->child_pid = news.pid;
        } else {
            t->is_reaped = true;
            t->status = news.status;
        }
        pthread_cond_broadcast(&t->changed);
        pthread_mutex_unlock(&t->lock);
        wake_server(t->m);
    }
}

static gpointer template_thread(gpointer p)
{
    FfTemplate *t = p;
    pid_t self = getpid(), pid = fork();

    if (pid == 0) {
        close(t->sock); /* its own end would not end for it */
        ff_template_run(t->other, self, t->m->flags, t->run, t->opaque, &t->signals);
    }
    int rc = pid < 0 ? -errno : 0;
    close(t->other);
    pthread_mutex_lock(&t->lock);
    t->rc = rc;
    t->pid = pid;
    t->started = true;
    pthread_cond_broadcast(&t->changed);
    pthread_mutex_unlock(&t->lock);
    if (rc == 0) {
        read_news(t);
        shutdown(t->sock, SHUT_RDWR);
        while (waitpid(pid, NULL, 0) < 0 && errno == EINTR) {
        }
    }
    pthread_mutex_lock(&t->lock);
    t->ended = true; /* and its child with it */
    pthread_cond_broadcast(&t->changed);
    pthread_mutex_unlock(&t->lock);
    wake_server(t->m);
    return NULL;
}

static void template_free(FfTemplate *t)
{
    close(t->sock);
    pthread_mutex_destroy(&t->lock);
    pthread_cond_destroy(&t->changed);
    g_free(t);
}

static void drop_template_child(FfMemory *m);

static int start_template(FfMemory *m, FfChild *run, void *opaque)
{
    int rc = ff_reserve("ff_template_start", 0), socks[2];

    if (rc < 0) {
        return rc;
    }
    FfTemplate *t = g_new0(FfTemplate, 1);
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, socks) < 0) {
        g_free(t);
        return ff_fail(-errno, "ff_template_start: socketpair: %s", ff_strerror(errno));
    }
    t->m = m;
    t->run = run;
    t->opaque = opaque;
    t->sock = socks[0];
    t->other = socks[1];
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->changed, NULL);
    pthread_sigmask(SIG_SETMASK, NULL, &t->signals);
    advise_regions(m, MADV_DONTFORK);
    t->thread = ff_thread_new("ff-template", template_thread, t);
    pthread_mutex_lock(&t->lock);
    while (t->thread && !t->started) {
        pthread_cond_wait(&t->changed, &t->lock);
    }
    rc = t->rc;
    pthread_mutex_unlock(&t->lock);
    advise_regions(m, MADV_DOFORK);
    if (!t->thread) {
        close(t->other);
        template_free(t);
        return -EAGAIN;
    }
    if (rc < 0) {
        g_thread_join(t->thread);
        template_free(t);
        return ff_fail(rc, "ff_template_start: fork: %s", ff_strerror(-rc));
    }
    m->template = t;
    m->drop_child = drop_template_child;
    return 0;
}

/* One that has ended is of no use, and another one can take its place. */
static void end_dead_template(FfMemory *m)
{
    FfTemplate *t = m->template;

    if (!t || t->child) {
        return;
    }
    pthread_mutex_lock(&t->lock);
    bool ended = t->ended;
    pthread_mutex_unlock(&t->lock);
    if (ended) {
        ff_template_end(m);
    }
}

int ff_template_start(FfMemory *m, FfChild *run, void *opaque)
{
    end_dead_template(m);
    int rc = m->template ? ff_fail(-EBUSY, "ff_template_start: there is a template already")
                         : ff_memory_step(m, FF_IDLE, FF_PREPARING, "ff_template_start");

    if (rc < 0) {
        return rc;
    }
    rc = start_template(m, run, opaque);
    ff_memory_set_state(m, FF_IDLE);
    return rc;
}

void ff_template_end(FfMemory *m)
{
    FfTemplate *t = m->template;

    if (t) {
        shutdown(t->sock, SHUT_RDWR);
        g_thread_join(t->thread);
        template_free(t);
        m->template = NULL;
    }
}

/* ---- the child's memory ---------------------------------------------------------------------- */

/* Its fault thread. */
static int on_request(FfPager *p, const FfRun *runs, unsigned n)
{
    Child *c = (Child *)(void *)p;
    FfTemplate *t = c->m->template;

    pthread_mutex_lock(&t->lock);
    unsigned room = QUEUE - c->n_queue;
    memcpy(&c->queue[c->n_queue], runs, MIN(n, room) * sizeof(*runs));
    c->n_queue += MIN(n, room);
    pthread_mutex_unlock(&t->lock);
    wake_server(c->m);
    return n > room ? -ENOBUFS : 0;
}

static void on_failed(const FfRun *run, int rc, void *opaque)
{
    Child *c = opaque;

    /* What it waits for would never come. */
    syscall(SYS_pidfd_send_signal, c->pidfd, SIGKILL, NULL, 0);
}

static const FfSpaceOps child_ops = {.failed = on_failed};

static gpointer answer_child(gpointer p)
{
    ff_priority_urgent();
    ff_faults_run(((Child *)p)->space);
    return NULL;
}

static int make_space(Child *c)
{
    c->pager.request = on_request;
    c->space = ff_space_new(&(FfSpaceConfig){
        .uffd = c->uffd,
        .features = UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_EVENT_UNMAP,
        .pagemap_fd = -1,
        .grows = true,
        .pager = &c->pager,
        .ops = &child_ops,
        .opaque = c});
    int rc = c->space ? 0 : -errno;
    for (guint i = 0; i < c->m->saved->len && rc >= 0; i++) {
        const FfSavedRegion *s = &g_array_index(c->m->saved, FfSavedRegion, i);
        FfBacking b = ff_backing_private(-1, s->len);
        rc = ff_space_add_block(c->space, &b, NULL);
        rc = rc < 0 ? rc : ff_space_add_range(c->space, s->addr, s->len, i, 0);
    }
    return rc < 0 ? ff_fail(rc, "the child's memory: %s", ff_strerror(-rc)) : 0;
}

/* ---- the server ------------------------------------------------------------------------------ */

/* Of a page of the program's: its region's pages begin at `offset` of the file. */
static uint64_t page_size_of(const FfMemory *m, unsigned block)
{
    return g_array_index(m->saved, FfSavedRegion, block).page_size;
}

static bool next_wanted(void *opaque, FfRun *page)
{
    Child *c = opaque;
    FfTemplate *t = c->m->template;
    bool found = false;

    pthread_mutex_lock(&t->lock);
    while (c->n_queue && !found) {
        *page = c->queue[0];
        found = !ff_space_is_placed(c->space, page->block, page->first);
        if (!found) {
            c->queue[0] = c->queue[--c->n_queue];
        } else if (c->n_queue > 1) { /* the others have their turn before it is asked for again */
            c->queue[0] = c->queue[c->n_queue - 1];
            c->queue[c->n_queue - 1] = *page;
        }
    }
    pthread_mutex_unlock(&t->lock);
    if (found) {
        const FfSavedRegion *s = &g_array_index(c->m->saved, FfSavedRegion, page->block);
        page->first = (s->offset + page->first * 4096) / page_size_of(c->m, page->block);
        page->n = 1;
    }
    return found;
}

/* RUN of the program's, in pages of the child's. */
static FfRun in_child(const FfMemory *m, const FfRun *run)
{
    const FfSavedRegion *s = &g_array_index(m->saved, FfSavedRegion, run->block);
    uint64_t ps = s->page_size;

    return (FfRun){run->block, (run->first * ps - s->offset) / 4096, run->n * ps / 4096};
}

static bool put_run(void *opaque, const FfRun *run, const void *data, GError **error)
{
    Child *c = opaque;
    FfRun there = in_child(c->m, run);
    int rc = c->gone ? 0 : ff_place_copy(c->space, &there, data);

    if (rc == -ESRCH || rc == -ECANCELED) {
        c->gone = true; /* nobody needs it; the news of the end comes */
        rc = 0;
    }
    if (rc < 0) {
        g_set_error(error, G_IO_ERROR, g_io_error_from_errno(-rc), "the child's memory: %s",
                    ff_strerror(-rc));
    }
    return rc == 0;
}

static bool is_over(void *opaque)
{
    Child *c = opaque;
    FfTemplate *t = c->m->template;

    pthread_mutex_lock(&t->lock);
    bool over = t->is_reaped || t->ended;
    pthread_mutex_unlock(&t->lock);
    return over;
}

static const FfCaptureTaker taker = {.next = next_wanted, .put = put_run, .is_over = is_over};

/* The child is gone when this returns, with or without our help. */
static void drop_child(Child *c, bool kill)
{
    FfTemplate *t = c->m->template;

    if (kill && c->pidfd >= 0) {
        syscall(SYS_pidfd_send_signal, c->pidfd, SIGKILL, NULL, 0);
    }
    /* One that was not told to go goes. Another child of the program's may have it open, too. */
    shutdown(c->sock, SHUT_RDWR);
    close(c->sock);
    pthread_mutex_lock(&t->lock);
    while (!t->is_reaped && !t->ended) {
        pthread_cond_wait(&t->changed, &t->lock);
    }
    pthread_mutex_unlock(&t->lock);
    if (c->faults) {
        ff_faults_stop(c->space);
        g_thread_join(c->faults);
    }
    ff_space_free(c->space);
    if (c->uffd >= 0) {
        close(c->uffd);
    }
    if (c->pidfd >= 0) {
        close(c->pidfd);
    }
    t->child = NULL;
    g_free(c);
}

static void drop_template_child(FfMemory *m)
{
    if (m->template && m->template->child) {
        drop_child(m->template->child, true);
    }
}

static gpointer serve_child(gpointer p)
{
    Child *c = p;
    FfMemory *m = c->m;
    FfTemplate *t = m->template;
    g_autoptr(GError) error = NULL;

    ff_priority_urgent(); /* the child waits for each page */
    bool ok = ff_capture_serve(m->capture, &taker, c, &error);
    drop_child(c, !ok);
    ff_capture_finish(m);
    pthread_mutex_lock(&t->lock);
    bool has_status = t->is_reaped;
    pthread_mutex_unlock(&t->lock);
    if (ok && !has_status) {
        ok = false;
        g_set_error_literal(&error, G_IO_ERROR, G_IO_ERROR_FAILED,
                            "the template has died: somebody killed it");
    }
    ff_memory_finish(m, ok ? 0 : ff_fail_error(error), ok ? NULL : error->message);
    return NULL;
}

/* ---- the calls ------------------------------------------------------------------------------- */

static int ask_for_child(FfTemplate *t, const FfMemory *m, int sock)
{
    g_autofree FfTemplateRegion *regions = g_new(FfTemplateRegion, m->saved->len);
    size_t len = m->saved->len * sizeof(*regions);

    if (len > FF_TEMPLATE_MAX) {
        return ff_fail(-E2BIG, "ff_fork_prepare: more than %zu regions",
                       FF_TEMPLATE_MAX / sizeof(*regions));
    }
    for (guint i = 0; i < m->saved->len; i++) {
        const FfSavedRegion *s = &g_array_index(m->saved, FfSavedRegion, i);
        regions[i] = (FfTemplateRegion){s->addr, s->len};
    }
    pthread_mutex_lock(&t->lock);
    t->is_made = t->is_reaped = false;
    pthread_mutex_unlock(&t->lock);
    int rc = ff_template_send(t->sock, regions, len, sock);
    pthread_mutex_lock(&t->lock);
    while (rc == 0 && !t->is_made && !t->ended) {
        pthread_cond_wait(&t->changed, &t->lock);
    }
    rc = rc < 0 ? rc : t->is_made ? t->made_rc : -EPIPE;
    pthread_mutex_unlock(&t->lock);
    return rc < 0 ? ff_fail(rc, "the template cannot fork: %s", ff_strerror(-rc)) : 0;
}

/* It is there, and waits in recvmsg(): its pid is nobody else's. */
static int meet_child(FfTemplate *t, Child *c)
{
    FfTemplateReady ready;
    ssize_t n = ff_template_recv(c->sock, &ready, sizeof(ready), &c->uffd);

    if (n != sizeof(ready)) {
        return ff_fail(-EPIPE, "the child of the template has ended");
    }
    ready.reason[sizeof(ready.reason) - 1] = '\0';
    if (ready.rc < 0) {
        return ff_fail(ready.rc, "%s", ready.reason);
    }
    c->pid = t->child_pid;
    c->pidfd = (int)syscall(SYS_pidfd_open, c->pid, 0);
    if (c->pidfd < 0) {
        return ff_fail(-errno, "the child of the template: %s", ff_strerror(errno));
    }
    return make_space(c);
}

/* Its space: a bit or two for each page, and tables of regions. */
static size_t child_needs(const FfMemory *m)
{
    size_t n = m->saved->len * 1024;

    for (guint i = 0; i < m->saved->len; i++) {
        n += g_array_index(m->saved, FfSavedRegion, i).len / 4096;
    }
    return n;
}

static int make_child(FfMemory *m)
{
    FfTemplate *t = m->template;
    int socks[2];

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, socks) < 0) {
        return ff_fail(-errno, "ff_fork_prepare: socketpair: %s", ff_strerror(errno));
    }
    int rc = ask_for_child(t, m, socks[1]);
    close(socks[1]);
    if (rc < 0) {
        close(socks[0]);
        return rc;
    }
    rc = ff_reserve("ff_fork_prepare", child_needs(m));
    if (rc < 0) {
        close(socks[0]);
        return rc;
    }
    Child *c = g_new0(Child, 1);
    *c = (Child){.m = m, .pidfd = -1, .sock = socks[0], .uffd = -1};
    t->child = c;
    rc = meet_child(t, c);
    if (rc == 0) {
        c->faults = ff_thread_new("ff-child", answer_child, c);
        rc = c->faults ? 0 : -EAGAIN;
    }
    return rc;
}

int ff_fork_prepare(FfMemory *m, const FfSnapshotOptions *options)
{
    int rc = m->template ? 0 : ff_fail(-EINVAL, "ff_fork_prepare: call ff_template_start() first");

    rc = rc < 0 ? rc : ff_memory_step(m, FF_IDLE, FF_PREPARING, "ff_fork_prepare");
    if (rc < 0) {
        return rc;
    }
    rc = ff_memory_prepare(m, options);
    if (rc == 0 && (rc = make_child(m)) < 0) {
        char why[512];
        g_strlcpy(why, ff_last_error(), sizeof(why));
        ff_capture_finish(m);
        ff_fail(rc, "%s", why);
    }
    ff_memory_set_state(m, rc < 0 ? FF_IDLE : FF_PREPARED);
    return rc;
}

/* What the program has unmapped since it was prepared nobody can serve: it is zeros, as in a file.
 */
static int put_gaps(FfMemory *m, Child *c)
{
    FfRun run = {0};
    int rc = 0;

    while (rc == 0 && ff_capture_next_gap(m->capture, &run)) {
        FfRun there = in_child(m, &run);
        rc = ff_place_zero(c->space, &there);
        run.first += run.n;
    }
    return rc < 0 && rc != -ESRCH ? ff_fail(rc, "the child's memory: %s", ff_strerror(-rc)) : 0;
}

/* It has all that it needs, and runs; until somebody serves it it waits. -EPIPE: it has ended, and
 * that is the news. */
static int tell_child(Child *c, const char *message, size_t len)
{
    int rc = ff_template_send(c->sock, message, len, -1);

    return rc < 0 && rc != -EPIPE
               ? ff_fail(rc, "ff_fork: the child cannot be told: %s", ff_strerror(-rc))
               : 0;
}

static int start_child(FfMemory *m, Child *c, const char *message, size_t len)
{
    int rc = put_gaps(m, c);

    rc = rc < 0 ? rc : tell_child(c, message, len);
    rc = rc < 0 ? rc : ff_memory_start_saver(m, "ff-serve", serve_child, c);
    if (rc < 0) {
        char why[512];
        g_strlcpy(why, ff_last_error(), sizeof(why));
        ff_capture_finish(m);
        ff_memory_set_state(m, FF_IDLE);
        ff_fail(rc, "%s", why);
    }
    return rc;
}

static int begin_fork(FfMemory *m)
{
    int rc = m->template ? ff_memory_step(m, FF_PREPARED, FF_PREPARING, "ff_fork") : -EINVAL;

    if (rc == 0 && !m->template->child) { /* it was ff_snapshot_prepare() */
        ff_memory_set_state(m, FF_PREPARED);
        rc = -EINVAL;
    }
    pthread_mutex_lock(&m->lock);
    bool is_idle = m->state == FF_IDLE;
    pthread_mutex_unlock(&m->lock);
    return rc == -EINVAL || (rc == -EBUSY && is_idle)
               ? ff_fail(-EINVAL, "ff_fork: call ff_fork_prepare() first")
               : rc;
}

pid_t ff_fork(FfMemory *m, const void *arg, size_t len)
{
    int64_t begin = g_get_monotonic_time();

    if (len > FF_TEMPLATE_MAX) {
        return ff_fail(-E2BIG, "ff_fork: more than %u bytes", FF_TEMPLATE_MAX);
    }
    int rc = ff_memory_check(m);
    rc = rc < 0 ? rc : ff_reserve("ff_fork", len);
    if (rc < 0) {
        return rc;
    }
    g_autofree char *message = g_malloc0(len + 1);
    if (len) {
        memcpy(message + 1, arg, len);
    }
    rc = rc < 0 ? rc : begin_fork(m);
    if (rc < 0) {
        return rc;
    }
    Child *c = m->template->child; /* nobody drops it but the thread in the call */
    pid_t pid = c->pid;
    rc = ff_memory_arm(m, begin);
    ff_memory_set_state(m, rc < 0 ? FF_IDLE : FF_SAVING);
    rc = rc < 0 ? rc : start_child(m, c, message, len + 1);
    return rc < 0 ? rc : pid;
}

int ff_fork_wait(FfMemory *m, int *status, FfSnapshotStats *stats)
{
    int rc = m->template
                 ? 0
                 : ff_fail(-EINVAL, "ff_fork_wait: there is no template: ff_template_start(), "
                                    "ff_fork_prepare() and ff_fork() come first");

    rc = rc < 0 ? rc : ff_snapshot_wait(m, stats);
    if (rc == 0 && status) {
        *status = m->template->status;
    }
    return rc;
}
