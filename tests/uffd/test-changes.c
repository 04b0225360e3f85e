/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A space that changes: its process gives memory back, moves it, unmaps it and forks, while pages
 * are placed. The last test is the kernel's own chain of events, by a process of its own.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/uffd/rig.h"

#define MISSING UFFDIO_REGISTER_MODE_MISSING
#define CHANGES (FF_UFFD_EVENTS & ~UFFD_FEATURE_EVENT_FORK)

/* A thread that changes the mappings, or touches them, and waits meanwhile. */
typedef struct {
    Rig *r;
    unsigned page, n;
    char *to;
    uint64_t at_return; /* batches with events that had been read by then */
} Other;

static void give_back(const Rig *r, unsigned page, unsigned n)
{
    g_assert_cmpint(
        madvise(rig_page(r, page), n * r->page_size, r->fd < 0 ? MADV_DONTNEED : MADV_REMOVE), ==,
        0);
}

static gpointer other_gives_back(gpointer p)
{
    Other *o = p;

    give_back(o->r, o->page, o->n);
    return NULL;
}

static gpointer other_reads_zero(gpointer p)
{
    Other *o = p;

    rig_check_zero(o->r, rig_page(o->r, o->page));
    return NULL;
}

static gpointer other_places(gpointer p)
{
    Other *o = p;

    rig_fill_pattern(o->r, &(FfRun){0, o->page, o->n});
    o->at_return = ff_space_counts(o->r->s).events;
    return NULL;
}

static void wait_for_message(const Rig *r)
{
    struct pollfd pfd = {.fd = r->uffd, .events = POLLIN};

    g_assert_cmpint(poll(&pfd, 1, -1), ==, 1);
}

/* An event waits to be read: nobody can place until it is. */
static void test_event_waits(RigKind kind)
{
    Rig *r = rig_new(kind, MISSING, CHANGES);

    if (!r) {
        return;
    }
    Other o = {r, 0, 2}, placer = {r, 2, r->n_pages - 2};
    GThread *gives = g_thread_new("gives", other_gives_back, &o);
    wait_for_message(r);
    g_assert_true(ff_uffd_is_changing(r->uffd));
    uint64_t done;
    g_autofree char *page = g_malloc0(r->page_size);
    g_assert_cmpint(
        ff_uffd_try(r->uffd, FF_UFFD_COPY, (uintptr_t)rig_page(r, 2), page, r->page_size, &done),
        ==, -EAGAIN);
    GThread *places = g_thread_new("places", other_places, &placer);
    rig_start(r);
    g_thread_join(places);
    g_thread_join(gives);
    g_assert_cmpuint(placer.at_return, ==, 1);
    for (unsigned i = 0; i < r->n_pages; i++) {
        if (i < 2) {
            rig_check_zero(r, rig_page(r, i));
        } else {
            rig_check(r, i, rig_page(r, i));
        }
    }
    rig_stop(r);
    g_assert_cmpuint(r->completed, ==, 1);
    g_assert_cmpuint(r->asked_all, ==, 0);
    rig_free(r);
}

/* A thread that waits for an event that nobody will read can be told so. */
static gpointer other_is_cancelled(gpointer p)
{
    Other *o = p;
    g_autofree char *page = g_malloc0(o->r->page_size);

    g_assert_cmpint(ff_place_copy(o->r->s, &(FfRun){0, o->page, 1}, page), ==, -ECANCELED);
    return NULL;
}

static void test_cancel(RigKind kind)
{
    Rig *r = rig_new(kind, MISSING, CHANGES);

    if (!r) {
        return;
    }
    Other o = {r, 0, 1}, placer = {r, 2, 1};
    GThread *gives = g_thread_new("gives", other_gives_back, &o);
    wait_for_message(r);
    GThread *places = g_thread_new("places", other_is_cancelled, &placer);
    ff_space_cancel(r->s);
    g_thread_join(places);
    rig_start(r);
    g_thread_join(gives);
    rig_free(r);
}

/* ---- REMOVE ---------------------------------------------------------------------------------- */

static void test_remove(RigKind kind)
{
    Rig *r = rig_new(kind, MISSING, CHANGES);

    if (!r) {
        return;
    }
    unsigned n = r->n_pages, quarter = n / 4;
    rig_fill_pattern(r, &(FfRun){0, 0, n / 2});
    rig_start(r);
    give_back(r, quarter, 2 * quarter);                     /* half of it placed, half missing */
    rig_fill_pattern(r, &(FfRun){0, quarter, 2 * quarter}); /* comes too late */
    for (unsigned i = 0; i < n; i++) {
        if (i >= quarter && i < 3 * quarter) {
            rig_check_zero(r, rig_page(r, i));
        } else {
            rig_check(r, i, rig_page(r, i));
        }
    }
    rig_stop(r);
    g_assert_cmpuint(r->asked_all, ==, n - 3 * quarter);
    g_assert_cmpuint(r->removed[FF_REMOVED_GIVEN_BACK], ==, 2 * quarter);
    g_assert_cmpuint(r->removed[FF_REMOVED_UNMAPPED], ==, 0);
    g_assert_cmpuint(r->present, ==, n);
    g_assert_cmpuint(r->completed, ==, 1);
    rig_free(r);
}

static void never(Rig *r, const FfRun *run)
{
}

/* Somebody waits for a page that is given back: it continues, with zeros, without the pager. */
static void test_remove_wakes(RigKind kind)
{
    Rig *r = rig_new(kind, MISSING, CHANGES);

    if (!r) {
        return;
    }
    Other o = {r, 1, 1};
    r->fill = never;
    rig_start(r);
    GThread *waits = g_thread_new("waits", other_reads_zero, &o);
    rig_wait_asked(r, 1);
    give_back(r, 0, 3);
    g_thread_join(waits);
    rig_stop(r);
    g_assert_cmpuint(r->asked_all, ==, 1);
    rig_free(r);
}

/* The same with both in one batch: the kernel hands out the fault first. */
static void test_remove_same_batch(RigKind kind)
{
    Rig *r = rig_new(kind, MISSING, CHANGES);

    if (!r) {
        return;
    }
    Other o = {r, 1, 1};
    r->fill = never;
    GThread *gives = g_thread_new("gives", other_gives_back, &o);
    wait_for_message(r);
    GThread *waits = g_thread_new("waits", other_reads_zero, &o);
    rig_start(r);
    g_thread_join(gives);
    g_thread_join(waits);
    rig_stop(r);
    g_assert_cmpuint(r->asked_all, ==, 0);
    rig_free(r);
}

/* ---- REMAP, UNMAP ---------------------------------------------------------------------------- */

/* N pages' worth of addresses, mapped by nobody else. */
static char *room_for(const Rig *r, unsigned n)
{
    uint64_t len = n * r->page_size;
    char *area = mmap(NULL, len + HUGEPAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *start = (char *)(((uintptr_t)area + HUGEPAGE - 1) & ~(HUGEPAGE - 1));

    g_assert_true(area != MAP_FAILED);
    return start;
}

static void move_pages(Rig *r, unsigned page, unsigned n, char *to)
{
    char *now = mremap(rig_page(r, page), n * r->page_size, n * r->page_size,
                       MREMAP_MAYMOVE | MREMAP_FIXED, to);
    if (now == MAP_FAILED) {
        g_error("mremap: %s", g_strerror(errno));
    }
}

/* The middle moves; a quarter of it was placed before. */
static void test_remap(RigKind kind)
{
    Rig *r = rig_new(kind, MISSING, CHANGES);

    if (!r) {
        return;
    }
    unsigned n = r->n_pages, quarter = n / 4;
    char *to = room_for(r, n);
    rig_fill_pattern(r, &(FfRun){0, 0, n / 2});
    rig_start(r);
    move_pages(r, quarter, 2 * quarter, to);
    g_assert_cmpuint(ff_space_addr(r->s, 0, quarter), ==, (uintptr_t)to);
    g_assert_cmpuint(ff_space_addr(r->s, 0, 0), ==, (uintptr_t)r->map);
    g_assert_cmpuint(ff_space_addr(r->s, 0, 3 * quarter), ==, (uintptr_t)rig_page(r, 3 * quarter));
    for (unsigned i = 0; i < n; i++) {
        bool moved = i >= quarter && i < 3 * quarter;
        rig_check(r, i, moved ? to + (i - quarter) * r->page_size : rig_page(r, i));
    }
    rig_stop(r);
    g_assert_cmpuint(ff_space_counts(r->s).missing, ==, n - n / 2);
    g_assert_cmpuint(r->asked_all, ==, n - n / 2);
    g_assert_cmpuint(r->completed, ==, 1);
    rig_free(r);
}

/* Two parts change places, by a third place: an address is another page's now. */
static void test_swap(RigKind kind)
{
    Rig *r = rig_new(kind, MISSING, CHANGES);

    if (!r) {
        return;
    }
    unsigned n = r->n_pages, half = n / 2;
    char *room = room_for(r, n);
    rig_start(r);
    move_pages(r, 0, half, room);
    move_pages(r, half, half, r->map);
    g_assert_true(mremap(room, half * r->page_size, half * r->page_size,
                         MREMAP_MAYMOVE | MREMAP_FIXED, rig_page(r, half)) != MAP_FAILED);
    for (unsigned i = 0; i < n; i++) {
        rig_check(r, i, rig_page(r, (i + half) % n));
    }
    rig_stop(r);
    g_assert_cmpuint(r->asked_all, ==, n);
    g_assert_cmpuint(r->completed, ==, 1);
    rig_free(r);
}

static void test_unmap(RigKind kind)
{
    Rig *r = rig_new(kind, MISSING, CHANGES);

    if (!r) {
        return;
    }
    unsigned n = r->n_pages, quarter = n / 4;
    rig_start(r);
    g_assert_cmpint(munmap(rig_page(r, quarter), 2 * quarter * r->page_size), ==, 0);
    g_assert_cmpuint(ff_space_addr(r->s, 0, quarter), ==, 0);
    rig_fill_pattern(r, &(FfRun){0, 0, n});
    for (unsigned i = 0; i < n; i++) {
        if (i < quarter || i >= 3 * quarter) {
            rig_check(r, i, rig_page(r, i));
        }
    }
    rig_stop(r);
    g_assert_cmpuint(r->removed[FF_REMOVED_UNMAPPED], ==, 2 * quarter);
    g_assert_cmpuint(r->asked_all, ==, 0);
    g_assert_cmpuint(r->present, ==, n);
    g_assert_cmpuint(r->completed, ==, 1);
    rig_free(r);
}

/* Memory moves to and fro while all of it is placed, and while others read it: whatever the moment,
 * each page gets its own content. */
typedef struct {
    Rig *r;
    char *room;
} Mover;

/* So often: while memory moves all the time hardly anybody can place. */
#define MOVES 20

static gpointer move_to_and_fro(gpointer p)
{
    Mover *m = p;
    uint64_t len = m->r->len / 2;

    for (unsigned i = 0; i < MOVES; i++) {
        move_pages(m->r, 0, m->r->n_pages / 2, m->room);
        g_assert_true(mremap(m->room, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, m->r->map) !=
                      MAP_FAILED);
    }
    return NULL;
}

static void test_remap_while_placing(RigKind kind)
{
    Rig *r = rig_new(kind, MISSING, CHANGES);

    if (!r) {
        return;
    }
    Mover m = {r, room_for(r, r->n_pages)};
    rig_start(r);
    GThread *mover = g_thread_new("mover", move_to_and_fro, &m);
    for (unsigned i = r->n_pages / 2; i < r->n_pages; i++) {
        unsigned page = i - r->n_pages / 2;
        rig_check(r, i, rig_page(r, i));
        rig_fill_pattern(r, &(FfRun){0, page, 1});
    }
    g_thread_join(mover);
    for (unsigned i = 0; i < r->n_pages; i++) {
        rig_check(r, i, rig_page(r, i));
    }
    rig_stop(r);
    g_assert_cmpuint(r->asked_all, ==, r->n_pages / 2);
    g_assert_cmpuint(r->completed, ==, 1);
    rig_free(r);
}

/* ---- a process of its own -------------------------------------------------------------------- */

typedef void (*Script)(Rig *r);

/* A child process that makes a userfaultfd over R's memory and hands it over, then waits for a word
 * and runs SCRIPT. */
static pid_t start_client(Rig *r, uint64_t features, Script script, int *uffd, int *go)
{
    int pair[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), ==, 0);
    pid_t pid = fork();
    g_assert_cmpint(pid, >=, 0);
    char byte = 0, control[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec iov = {&byte, 1};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = control,
                         .msg_controllen = sizeof(control)};
    if (pid == 0) {
        close(pair[0]);
        int fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
        if (fd < 0 || ff_uffd_init(fd, features, NULL) < 0 ||
            ff_uffd_register(fd, (uintptr_t)r->map, r->len, MISSING) < 0) {
            _exit(99);
        }
        struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(c), &fd, sizeof(fd));
        if (sendmsg(pair[1], &msg, 0) != 1 || read(pair[1], &byte, 1) != 1) {
            _exit(98);
        }
        close(fd);
        script(r);
        _exit(0);
    }
    close(pair[1]);
    g_assert_cmpint(recvmsg(pair[0], &msg, MSG_CMSG_CLOEXEC), ==, 1);
    g_assert_nonnull(CMSG_FIRSTHDR(&msg));
    memcpy(uffd, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof(*uffd));
    *go = pair[0];
    return pid;
}

static void let_go(int go)
{
    g_assert_cmpint(write(go, "", 1), ==, 1);
}

static void assert_ended_well(pid_t pid)
{
    int status;

    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    g_assert_true(WIFEXITED(status));
    g_assert_cmpint(WEXITSTATUS(status), ==, 0);
}

static void expect(bool ok, int code)
{
    if (!ok) {
        _exit(code);
    }
}

static bool is_zero(const char *at, uint64_t len)
{
    for (uint64_t i = 0; i < len; i++) {
        if (((const volatile char *)at)[i]) {
            return false;
        }
    }
    return true;
}

/* As the kernel's test has it: half is read and written back, all of it moves, the other half too,
 * then everything is given back. */
static void chain(Rig *r)
{
    char *room = mmap(NULL, r->len + HUGEPAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *to = (char *)(((uintptr_t)room + HUGEPAGE - 1) & ~(HUGEPAGE - 1)), *at = r->map;

    for (unsigned i = 0; i < r->n_pages; i++) {
        if (i == r->n_pages / 2) {
            at = mremap(at, r->len, r->len, MREMAP_MAYMOVE | MREMAP_FIXED, to);
            expect(at == to, 1);
        }
        volatile uint64_t *words = (uint64_t *)(at + i * r->page_size);
        expect(rig_is_pattern(r, i, (const void *)words), 2);
        words[0] = rig_word(i, 0);
    }
    expect(madvise(at, r->len, r->fd < 0 ? MADV_DONTNEED : MADV_REMOVE) == 0, 3);
    expect(is_zero(at, r->len), 4);
}

static void test_chain(RigKind kind)
{
    uint64_t features = CHANGES;
    int uffd, go;
    Rig *r = rig_features(kind, MISSING, &features) ? rig_new_memory(kind) : NULL;

    if (!r) {
        return;
    }
    pid_t pid = start_client(r, features, chain, &uffd, &go);
    r->is_client = true;
    rig_open_space(r, uffd, -1, features);
    rig_start(r);
    let_go(go);
    assert_ended_well(pid);
    rig_stop(r);
    /* Of each page one fault for its content; those for zeros afterwards are not asked. */
    g_assert_cmpuint(r->asked_all, ==, r->n_pages);
    for (unsigned i = 0; i < r->n_pages; i++) {
        g_assert_cmpuint(r->asked[i], ==, 1);
    }
    g_assert_cmpuint(ff_space_counts(r->s).missing, ==, 2 * r->n_pages);
    g_assert_cmpuint(r->removed[FF_REMOVED_GIVEN_BACK], ==, r->n_pages);
    g_assert_cmpuint(r->completed, ==, 1);
    close(go);
    rig_free(r);
}

/* ---- FORK ------------------------------------------------------------------------------------ */

/* Both processes read everything: pages that were there before the fork, and pages that come later.
 * The parent has changed one in between. */
static void forks(Rig *r)
{
    for (unsigned i = 0; i < r->n_pages / 2; i++) {
        expect(rig_is_pattern(r, i, rig_page(r, i)), 1);
    }
    pid_t pid = fork();
    expect(pid >= 0, 2);
    for (unsigned i = 0; i < r->n_pages; i++) {
        expect(rig_is_pattern(r, i, rig_page(r, i)), 3);
    }
    if (pid > 0) {
        int status;
        expect(waitpid(pid, &status, 0) == pid && status == 0, 4);
    }
}

static gpointer run_child_faults(gpointer s)
{
    ff_faults_run(s);
    return NULL;
}

/* The child's pager. */
typedef struct {
    FfPager pager;
    Rig *r;
    FfSpace *s;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    FfRun queue[2048];
    unsigned n;
    bool end;
} ChildPager;

static int child_request(FfPager *p, const FfRun *runs, unsigned n)
{
    ChildPager *c = (ChildPager *)p;

    pthread_mutex_lock(&c->lock);
    for (unsigned i = 0; i < n; i++) {
        c->queue[c->n++] = runs[i];
    }
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
    return 0;
}

static gpointer fill_child(gpointer p)
{
    ChildPager *c = p;
    g_autofree char *buf = g_malloc(c->r->page_size);
    unsigned at = 0;

    pthread_mutex_lock(&c->lock);
    for (;;) {
        while (at == c->n && !c->end) {
            pthread_cond_wait(&c->changed, &c->lock);
        }
        if (at == c->n) {
            pthread_mutex_unlock(&c->lock);
            return NULL;
        }
        FfRun run = c->queue[at++];
        pthread_mutex_unlock(&c->lock);
        rig_pattern(c->r, run.first, buf);
        int rc = ff_place_copy(c->s, &run, buf);
        g_assert_true(rc == 0 || rc == -ESRCH);
        pthread_mutex_lock(&c->lock);
    }
}

/* From now on no fd can be had. */
static struct rlimit use_up_fds(void)
{
    struct rlimit before, now;
    int next = dup(STDIN_FILENO);

    g_assert_cmpint(next, >=, 0);
    close(next);
    g_assert_cmpint(getrlimit(RLIMIT_NOFILE, &before), ==, 0);
    now = before;
    now.rlim_cur = next;
    g_assert_cmpint(setrlimit(RLIMIT_NOFILE, &now), ==, 0);
    return before;
}

/* The space has failed with RC, and nothing worse. */
static void wait_until_failed(Rig *r, int rc)
{
    pthread_mutex_lock(&r->lock);
    while (!r->failed) {
        pthread_cond_wait(&r->changed, &r->lock);
    }
    g_assert_cmpint(r->failed, ==, rc);
    r->failed = 0;
    pthread_mutex_unlock(&r->lock);
}

static void fork_client(RigKind kind, bool no_fd)
{
    uint64_t features = FF_UFFD_EVENTS;
    int uffd, go;
    Rig *r = rig_features(kind, MISSING, &features) ? rig_new_memory(kind) : NULL;

    if (!r) {
        return;
    }
    pid_t pid = start_client(r, features, forks, &uffd, &go);
    r->is_client = true;
    rig_open_space(r, uffd, -1, features);
    rig_start(r);
    if (no_fd) {
        struct rlimit before = use_up_fds();
        let_go(go);
        wait_until_failed(r, -EMFILE);
        g_assert_cmpint(setrlimit(RLIMIT_NOFILE, &before), ==, 0);
    } else {
        let_go(go);
    }
    pthread_mutex_lock(&r->lock);
    while (!r->child) {
        pthread_cond_wait(&r->changed, &r->lock);
    }
    pthread_mutex_unlock(&r->lock);
    g_autofree ChildPager *c = g_new0(ChildPager, 1);
    c->pager.request = child_request;
    c->r = r;
    c->s = r->child;
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->changed, NULL);
    for (unsigned i = 0; i < r->n_pages / 2; i++) {
        g_assert_true(ff_space_is_placed(c->s, 0, i));
    }
    ff_space_set_pager(c->s, &c->pager);
    GThread *filler = g_thread_new("child-filler", fill_child, c);
    GThread *faults = g_thread_new("child-fault", run_child_faults, c->s);
    assert_ended_well(pid);
    ff_faults_stop(c->s);
    g_thread_join(faults);
    pthread_mutex_lock(&c->lock);
    c->end = true;
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
    g_thread_join(filler);
    rig_stop(r);
    if (kind == RIG_ANON) {
        /* Each process has pages of its own: what came after the fork came twice. */
        g_assert_cmpuint(r->asked_all, ==, r->n_pages);
        g_assert_cmpuint(c->n, ==, r->n_pages - r->n_pages / 2);
    } else {
        /* They share the file: whoever came first. */
        g_assert_cmpuint(r->asked_all, >=, r->n_pages / 2);
        g_assert_cmpuint(r->asked_all + c->n, >=, r->n_pages);
    }
    ff_space_free(c->s);
    pthread_mutex_destroy(&c->lock);
    pthread_cond_destroy(&c->changed);
    close(go);
    rig_free(r);
}

static void test_fork(RigKind kind)
{
    fork_client(kind, false);
}

/* There is no fd for the child's userfaultfd: it waits until there is one. */
static void test_fork_no_fd(RigKind kind)
{
    fork_client(kind, true);
}

/* ---- strays ---------------------------------------------------------------------------------- */

/* Memory that has grown is still registered, and nobody has content for that. */
static gpointer read_after_end(gpointer p)
{
    Other *o = p;

    return GINT_TO_POINTER(*(volatile char *)o->to);
}

static void test_grown(RigKind kind)
{
    Rig *r = rig_new(kind, MISSING, CHANGES);

    if (!r) {
        return;
    }
    ff_space_free(r->s);
    r->s = ff_space_new(&(FfSpaceConfig){
        .uffd = r->uffd, .features = CHANGES, .pagemap_fd = -1, .grows = true, .pager = &r->pager});
    ff_space_add_block(r->s, &r->backing, NULL);
    g_assert_cmpint(ff_space_add_range(r->s, (uintptr_t)r->map, r->len, 0, 0), ==, 0);
    rig_start(r);
    char *room = room_for(r, 2 * r->n_pages);
    char *to = mremap(r->map, r->len, 2 * r->len, MREMAP_MAYMOVE | MREMAP_FIXED, room);
    g_assert_true(to == room);
    rig_check_zero(r, to + r->len);
    rig_check(r, 1, to + r->page_size);
    rig_stop(r);
    g_assert_cmpuint(r->asked_all, ==, 1);
    rig_free(r);
}

/* Else the space has failed, and says so; the end of the userfaultfd lets the waiter go. */
static void test_stray(RigKind kind)
{
    Rig *r = rig_new(kind, MISSING, CHANGES);

    if (!r) {
        return;
    }
    char *room = room_for(r, 2 * r->n_pages);
    Other o = {r, .to = room + r->len};
    rig_start(r);
    g_assert_true(mremap(r->map, r->len, 2 * r->len, MREMAP_MAYMOVE | MREMAP_FIXED, room) == room);
    GThread *waits = g_thread_new("waits", read_after_end, &o);
    wait_until_failed(r, -EFAULT);
    rig_stop(r);
    close(r->uffd);
    r->uffd = -1;
    g_thread_join(waits);
    rig_free(r);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    rig_add("/changes/event-waits", RIG_ALL, test_event_waits);
    rig_add("/changes/cancel", RIG_ALL, test_cancel);
    rig_add("/changes/remove", RIG_ALL, test_remove);
    rig_add("/changes/remove-wakes", RIG_ALL, test_remove_wakes);
    rig_add("/changes/remove-same-batch", RIG_ALL, test_remove_same_batch);
    rig_add("/changes/remap", RIG_ALL, test_remap);
    rig_add("/changes/swap", RIG_ALL, test_swap);
    rig_add("/changes/unmap", RIG_ALL, test_unmap);
    rig_add("/changes/remap-while-placing", RIG_ALL, test_remap_while_placing);
    rig_add("/changes/chain", RIG_ALL, test_chain);
    rig_add("/changes/fork", RIG_ALL, test_fork);
    rig_add("/changes/fork-no-fd", RIG_ALL, test_fork_no_fd);
    /* hugetlb does not grow by mremap; a file ends where it ends */
    rig_add("/changes/grown", RIG_BIT(RIG_ANON), test_grown);
    rig_add("/changes/stray", RIG_BIT(RIG_ANON), test_stray);
    return g_test_run();
}
