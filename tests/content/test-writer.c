/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The writer of a snapshot: threads write everywhere all the time, and the file holds what the
 * memory held when it was protected, byte for byte, whatever the buffer, the way of writing and the
 * disk are. That the comparison would see the two errors that this is made to avoid is tested as
 * well.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "content/capture/writer.h"
#include "tests/uffd/rig.h"

#define WP UFFDIO_REGISTER_MODE_WP
#define WRITERS 3
#define FILE_OFFSET (1u << 20)

typedef struct {
    Rig *r;
    FfProtect *p;
    FfWriter *w;
    int fd;
    char *path;
    char *then; /* what the memory holds at the instant */
    unsigned slots, holes;
    uint64_t around;
    FfWriterWay way;
    bool end; /* atomic; observer: the guest's threads */
    GThread *guest[WRITERS];
    unsigned n_guest;  /* atomic */
    uint64_t n_writes; /* r->lock */
    unsigned page;
    bool behind; /* r->lock; the fault thread has found that the page is taken */
} Snapshot;

static void on_page(FfPager *p, const FfRun *run)
{
    Rig *r = (Rig *)p;
    Snapshot *sn = r->opaque;

    pthread_mutex_lock(&r->lock);
    r->written++;
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->lock);
    ff_writer_wake(sn->w);
}

static void wait_until_written(Snapshot *sn, unsigned n)
{
    pthread_mutex_lock(&sn->r->lock);
    while (sn->r->written < n) {
        pthread_cond_wait(&sn->r->changed, &sn->r->lock);
    }
    pthread_mutex_unlock(&sn->r->lock);
}

/* The page is in the buffer. */
static void wait_until_kept(Snapshot *sn)
{
    wait_until_written(sn, 1);
}

static gpointer write_all_the_time(gpointer p)
{
    Snapshot *sn = p;
    unsigned index = __atomic_fetch_add(&sn->n_guest, 1, __ATOMIC_RELAXED);
    uint32_t random = 2463534242u + index;

    while (!__atomic_load_n(&sn->end, __ATOMIC_RELAXED)) {
        random ^= random << 13;
        random ^= random >> 17;
        random ^= random << 5;
        uint64_t *words = (uint64_t *)rig_page(sn->r, random % sn->r->n_pages);
        __atomic_store_n(&words[random % (sn->r->page_size / 8)], random, __ATOMIC_RELAXED);
        pthread_mutex_lock(&sn->r->lock);
        sn->n_writes++;
        pthread_cond_broadcast(&sn->r->changed);
        pthread_mutex_unlock(&sn->r->lock);
    }
    return NULL;
}

/* Memory of KIND: a quarter of it holes, an eighth zeros, and in the file beside it nothing. FALSE:
 * skipped. */
static bool open_snapshot(Snapshot *sn, RigKind kind, unsigned slots, FfWriterWay way)
{
    Rig *r = rig_new(kind, WP, 0);

    *sn = (Snapshot){.r = r, .fd = -1, .slots = slots, .way = way};
    if (!r) {
        return false;
    }
    r->opaque = sn;
    r->pager.written = r->pager.full = on_page;
    sn->holes = r->n_pages - r->n_pages / 4;
    rig_populate(r);
    for (unsigned i = 0; i < r->n_pages; i += 8) {
        memset(r->alias ? r->alias + i * r->page_size : rig_page(r, i), 0, r->page_size);
    }
    rig_drop(r, sn->holes, r->n_pages - sn->holes);
    sn->then = g_malloc0(r->len);
    for (unsigned i = 0; i < sn->holes; i++) {
        if (i % 8) {
            rig_pattern(r, i, sn->then + i * r->page_size);
        }
    }
    sn->path = g_build_filename(g_get_tmp_dir(), "snapshot-XXXXXX", NULL);
    sn->fd = g_mkstemp_full(sn->path, O_RDWR | O_CLOEXEC, 0600);
    g_assert_cmpint(sn->fd, >=, 0);
    g_assert_cmpint(ff_protect_new(r->s, slots * r->page_size, &sn->p), ==, 0);
    return true;
}

static void make_writer(Snapshot *sn)
{
    FfWriterBlock b = {.backing = sn->r->backing, .map = sn->r->alias, .file_offset = FILE_OFFSET};
    FfWriterConfig cfg = {
        .protect = sn->p, .fd = sn->fd, .blocks = &b, .n_blocks = 1, .way = sn->way};

    /* The writer keeps what it was given. */
    sn->w = NULL;
    g_assert_cmpint(ff_writer_new(&cfg, &sn->w), ==, 0);
}

/* The instant. */
static void protect(Snapshot *sn)
{
    make_writer(sn);
    ff_protect_set_around(sn->p, sn->around);
    g_assert_cmpint(ff_protect_arm(sn->p, &(FfRun){0, 0, sn->r->n_pages}), ==, 0);
    rig_start(sn->r);
}

static void start_guest(Snapshot *sn)
{
    __atomic_store_n(&sn->end, false, __ATOMIC_RELAXED);
    for (unsigned i = 0; i < WRITERS; i++) {
        sn->guest[i] = g_thread_new("guest", write_all_the_time, sn);
    }
}

static void stop_guest(Snapshot *sn)
{
    __atomic_store_n(&sn->end, true, __ATOMIC_RELAXED);
    for (unsigned i = 0; i < WRITERS && sn->guest[i]; i++) {
        g_thread_join(sn->guest[i]);
    }
}

/* Whatever was not written: the guest continues. */
static void close_snapshot(Snapshot *sn)
{
    rig_stop(sn->r);
    ff_writer_free(sn->w);
    ff_protect_free(sn->p);
    if (!__atomic_load_n(&sn->end, __ATOMIC_RELAXED) && sn->guest[0]) {
        stop_guest(sn);
    }
    rig_free(sn->r);
    close(sn->fd);
    unlink(sn->path);
    g_free(sn->path);
    g_free(sn->then);
}

/* The file is what the memory was. */
static bool is_right(const Snapshot *sn)
{
    g_autofree char *buf = g_malloc0(sn->r->len);
    ssize_t n;

    g_assert_cmpint(fcntl(sn->fd, F_SETFL, O_RDWR), ==, 0); /* not O_DIRECT */
    for (uint64_t at = 0; at < sn->r->len; at += n) {       /* it may end with a hole */
        n = pread(sn->fd, buf + at, sn->r->len - at, FILE_OFFSET + at);
        g_assert_cmpint(n, >=, 0);
        if (n == 0) {
            break;
        }
    }
    for (unsigned i = 0; i < sn->r->n_pages; i++) {
        const char *then = sn->then + i * sn->r->page_size;
        bool is_zero = !then[0] && memcmp(then, then + 1, sn->r->page_size - 1) == 0;
        g_assert_cmpint(ff_bitmap_test(ff_writer_data(sn->w, 0), i), ==, !is_zero);
        if (memcmp(buf + i * sn->r->page_size, sn->then + i * sn->r->page_size, sn->r->page_size) !=
            0) {
            g_test_message("page %u differs", i);
            return false;
        }
    }
    return true;
}

/* ---- whole snapshots ------------------------------------------------------------------------- */

static void take_with(RigKind kind, unsigned slots, FfWriterWay way, uint64_t around)
{
    Snapshot sn;

    if (!open_snapshot(&sn, kind, slots, way)) {
        return;
    }
    sn.around = around;
    protect(&sn);
    start_guest(&sn);
    g_assert_cmpint(ff_writer_run(sn.w), ==, 0);
    g_assert_cmpuint(ff_protect_left(sn.p), ==, 0);
    g_assert_cmpuint(ff_protect_lost(sn.p), ==, 0);
    stop_guest(&sn);
    FfWriterStats st = ff_writer_stats(sn.w);
    g_test_message("%" G_GUINT64_FORMAT " KiB in %" G_GUINT64_FORMAT " runs, %" G_GUINT64_FORMAT
                   " pages again, way %d, %" G_GUINT64_FORMAT " waited",
                   st.bytes / 1024, st.runs, st.again, st.way, ff_protect_waited(sn.p));
    g_assert_cmpuint(st.zeros, ==, sn.r->n_pages - sn.holes + (sn.holes + 7) / 8);
    g_assert_true(is_right(&sn));
    close_snapshot(&sn);
}

static void take(RigKind kind, unsigned slots, FfWriterWay way)
{
    take_with(kind, slots, way, 0);
}

static void test_none(RigKind kind)
{
    take(kind, 0, FF_WRITER_URING);
}

static void test_one(RigKind kind)
{
    take(kind, 1, FF_WRITER_URING);
}

static void test_many(RigKind kind)
{
    take(kind, 16384, FF_WRITER_URING);
}

/* From much room to none: what is around a fault is kept as well, a quarter of it, nothing. */
static void test_around(RigKind kind)
{
    take_with(kind, 64, FF_WRITER_URING, 64 << 10);
    take_with(kind, 16384, FF_WRITER_DIRECT, 64 << 10);
}

/* Of one write: it lies in the bucket of that, and is more exact. */
static void check_p99(const FfProtect *p, const uint64_t latency[FF_PROTECT_BUCKETS])
{
    uint64_t p99 = ff_protect_latency_p99(p);
    unsigned bucket = 0;

    while (!latency[bucket]) {
        bucket++;
    }
    g_assert_cmpuint(p99, >, bucket ? 1ull << bucket : 0);
    g_assert_cmpuint(p99, <=, 2ull << bucket);
}

/* One write keeps its neighbours, whose writers then wait for nobody. */
static void test_neighbours(RigKind kind)
{
    uint64_t latency[FF_PROTECT_BUCKETS];
    Snapshot sn;

    if (!open_snapshot(&sn, kind, 16384, FF_WRITER_URING)) {
        return;
    }
    sn.around = 64 << 10;
    protect(&sn);
    for (unsigned i = 16; i < 32; i++) {
        *(volatile uint64_t *)rig_page(sn.r, i) = i;
        if (i == 16) {
            wait_until_written(&sn, 2); /* the page, then its neighbours */
        }
    }
    g_assert_cmpuint(ff_protect_latency(sn.p, latency), ==, 1);
    check_p99(sn.p, latency);
    g_assert_cmpint(ff_writer_run(sn.w), ==, 0);
    g_assert_true(is_right(&sn));
    close_snapshot(&sn);
}

static void test_some_direct(RigKind kind)
{
    take(kind, 16, FF_WRITER_DIRECT);
}

static void test_some_buffered(RigKind kind)
{
    take(kind, 16, FF_WRITER_BUFFERED);
}

/* The guest has written N times more. */
static void wait_for_writes(Snapshot *sn, uint64_t n)
{
    pthread_mutex_lock(&sn->r->lock);
    for (uint64_t end = sn->n_writes + n; sn->n_writes < end;) {
        pthread_cond_wait(&sn->r->changed, &sn->r->lock);
    }
    pthread_mutex_unlock(&sn->r->lock);
}

/* Nobody writes: the guest stands. */
static void remember(Snapshot *sn)
{
    for (unsigned i = 0; i < sn->r->n_pages;
         i++) { /* not through a mapping, which would fill holes */
        FfRun run = {0, i, 1};
        g_assert_cmpint(ff_protect_read(sn->p, &run, sn->then + i * sn->r->page_size), ==, 0);
    }
}

/* The whole order: the guest runs while its memory is prepared, stands for an instant, runs again.
 */
static void test_instant(RigKind kind)
{
    Snapshot sn;
    uint64_t n, first;
    FfRun all = {0};

    if (!open_snapshot(&sn, kind, 64, FF_WRITER_URING)) {
        return;
    }
    all.n = sn.r->n_pages;
    make_writer(&sn);
    rig_start(sn.r);
    start_guest(&sn);
    g_assert_cmpint(ff_protect_prepare(sn.p, &all, &first), ==, 0);
    g_assert_cmpuint(first, ==, all.n);
    for (unsigned pass = 0; pass < 4; pass++) {
        wait_for_writes(&sn, 200);
        g_assert_cmpint(ff_protect_prepare(sn.p, &all, &n), ==, 0);
        g_assert_cmpuint(n, >, 0);
        g_test_message("%" G_GUINT64_FORMAT " pages were open", n);
    }
    wait_for_writes(&sn, 200); /* open pages remain */
    stop_guest(&sn);
    g_assert_cmpint(ff_protect_arm(sn.p, &all), ==, 0);
    g_assert_cmpuint(ff_protect_left(sn.p), ==, all.n);
    g_assert_cmpuint(rig_written(sn.r), ==, 0); /* nothing was kept until now */
    remember(&sn);
    start_guest(&sn);
    g_assert_cmpint(ff_writer_run(sn.w), ==, 0);
    stop_guest(&sn);
    g_assert_true(is_right(&sn));
    close_snapshot(&sn);
}

/* ---- in flight, and wanted ------------------------------------------------------------------- */

/* The disk is about to read the page from the memory, and the guest writes to it. */
static int write_lent(void *opaque)
{
    Snapshot *sn = opaque;

    __atomic_store_n((uint64_t *)rig_page(sn->r, 1), 0, __ATOMIC_SEQ_CST);
    return 0;
}

static int skip(void *opaque)
{
    return 1;
}

static void write_in_flight(RigKind kind, bool again)
{
    Snapshot sn;

    if (!open_snapshot(&sn, kind, 4, FF_WRITER_URING)) {
        return;
    }
    if (rig_at("writer-lent", write_lent, &sn) && (again || rig_at("writer-again", skip, NULL))) {
        protect(&sn);
        g_assert_cmpint(ff_writer_run(sn.w), ==, 0);
        g_assert_cmpuint(ff_writer_stats(sn.w).again, ==, 1);
        g_assert_cmpint(is_right(&sn), ==, again);
    }
    close_snapshot(&sn);
}

static void test_in_flight(RigKind kind)
{
    write_in_flight(kind, true);
}

/* If it were not written again. */
static void test_not_again(RigKind kind)
{
    write_in_flight(kind, false);
}

/* The writer looks at its first run, and the guest writes to what it has not looked at: to data,
 * which it makes zeros, to zeros and to a hole. */
static int write_looked_at(void *opaque)
{
    Snapshot *sn = opaque;

    if (!sn->page) {
        sn->page = 1;
        __atomic_store_n((uint64_t *)rig_page(sn->r, 1), 0, __ATOMIC_SEQ_CST);
        memset(rig_page(sn->r, 2), 0, sn->r->page_size);
        memset(rig_page(sn->r, 3), 1, sn->r->page_size);
        memset(rig_page(sn->r, 8), 1, sn->r->page_size);
    }
    return 0;
}

/* Nobody waits for the disk before anything is on its way there. */
static void test_looks(RigKind kind)
{
    Snapshot sn;

    if (!open_snapshot(&sn, kind, 16, FF_WRITER_URING)) {
        return;
    }
    if (rig_at("writer-looks", write_looked_at, &sn)) {
        rig_drop(sn.r, 3, 1);
        memset(sn.then + 3 * sn.r->page_size, 0, sn.r->page_size);
        protect(&sn);
        g_assert_cmpint(ff_writer_run(sn.w), ==, 0);
        g_assert_cmpuint(rig_written(sn.r), ==, 4);
        g_assert_cmpuint(ff_writer_stats(sn.w).again, ==, 0);
        g_assert_true(is_right(&sn));
    }
    close_snapshot(&sn);
}

static gpointer write_page(gpointer p)
{
    Snapshot *sn = p;

    __atomic_store_n((uint64_t *)rig_page(sn->r, sn->page), 0, __ATOMIC_SEQ_CST);
    return NULL;
}

/* The writer has its first run, which is not lent yet, and somebody wants a page of it. */
static int write_claimed(void *opaque)
{
    Snapshot *sn = opaque;

    pthread_mutex_lock(&sn->r->lock);
    if (!sn->guest[0]) {
        sn->guest[0] = g_thread_new("guest", write_page, sn);
        while (!sn->behind) {
            pthread_cond_wait(&sn->r->changed, &sn->r->lock);
        }
    }
    pthread_mutex_unlock(&sn->r->lock);
    return 0;
}

/* Fault thread. */
static int note_behind(void *opaque)
{
    Snapshot *sn = opaque;

    pthread_mutex_lock(&sn->r->lock);
    sn->behind = true;
    pthread_cond_broadcast(&sn->r->changed);
    pthread_mutex_unlock(&sn->r->lock);
    return 0;
}

/* The run is lent, and nothing of it is on its way to the disk. */
static int expect_kept(void *opaque)
{
    Snapshot *sn = opaque;

    g_assert_cmpuint(rig_written(sn->r), ==, 1);
    return 0;
}

static void test_claimed(RigKind kind)
{
    Snapshot sn;

    if (!open_snapshot(&sn, kind, 4, FF_WRITER_URING)) {
        return;
    }
    sn.page = 1;
    if (rig_at("writer-claimed", write_claimed, &sn) &&
        rig_at("protect-behind", note_behind, &sn) && rig_at("writer-looks", expect_kept, &sn)) {
        protect(&sn);
        g_assert_cmpint(ff_writer_run(sn.w), ==, 0);
        g_thread_join(g_steal_pointer(&sn.guest[0]));
        g_assert_cmpuint(ff_writer_stats(sn.w).again, ==, 0);
        g_assert_true(is_right(&sn));
    }
    close_snapshot(&sn);
}

/* Fault thread: the page is about to be copied. */
static int lift_before(void *opaque)
{
    Snapshot *sn = opaque;
    uint64_t addr = (uintptr_t)rig_page(sn->r, sn->page);

    g_assert_cmpint(ff_uffd_try_protect(sn->r->uffd, addr, sn->r->page_size, false), ==, 0);
    pthread_mutex_lock(&sn->r->lock);
    GThread *guest = g_steal_pointer(&sn->guest[0]);
    pthread_mutex_unlock(&sn->r->lock);
    g_thread_join(guest);
    return 0;
}

/* If a page were copied after its writer was let go. */
static void test_late_copy(RigKind kind)
{
    Snapshot sn;

    if (!open_snapshot(&sn, kind, 4, FF_WRITER_URING)) {
        return;
    }
    if (rig_at("protect-claimed", lift_before, &sn)) {
        sn.page = 3;
        protect(&sn);
        pthread_mutex_lock(&sn.r->lock);
        sn.guest[0] = g_thread_new("guest", write_page, &sn);
        pthread_mutex_unlock(&sn.r->lock);
        wait_until_kept(&sn);
        g_assert_cmpint(ff_writer_run(sn.w), ==, 0);
        g_assert_false(is_right(&sn));
    }
    close_snapshot(&sn);
}

/* ---- a disk that fails ----------------------------------------------------------------------- */

static int fail(void *opaque)
{
    return GPOINTER_TO_INT(opaque);
}

typedef struct {
    const char *point;
    int error, rc;
    FfWriterWay way, after;
} Failure;

static const Failure failures[] = {
    {"writer-write", EIO, -EIO, FF_WRITER_URING, FF_WRITER_URING},
    {"writer-write", ENOSPC, -ENOSPC, FF_WRITER_URING, FF_WRITER_URING},
    {"writer-write", EIO, -EIO, FF_WRITER_BUFFERED, FF_WRITER_BUFFERED},
    {"writer-write", EINTR, 0, FF_WRITER_URING, FF_WRITER_URING},
    {"writer-write", EAGAIN, 0, FF_WRITER_DIRECT, FF_WRITER_DIRECT},
    {"writer-write", EINVAL, 0, FF_WRITER_URING, FF_WRITER_BUFFERED},
    {"writer-write", EINVAL, 0, FF_WRITER_DIRECT, FF_WRITER_BUFFERED},
    {"writer-write", EINVAL, -EINVAL, FF_WRITER_BUFFERED, FF_WRITER_BUFFERED},
    {"writer-write", ENOSYS, 0, FF_WRITER_URING, FF_WRITER_DIRECT},
    {"writer-ring", EPERM, 0, FF_WRITER_URING, FF_WRITER_DIRECT},
};

/* The guest continues whatever the disk does, and what was written in the end is right. */
static void test_failures(RigKind kind)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(failures); i++) {
        const Failure *f = &failures[i];
        Snapshot sn;
        if (!open_snapshot(&sn, kind, 4, f->way)) {
            return;
        }
        if (rig_at(f->point, fail, GINT_TO_POINTER(f->error))) {
            protect(&sn);
            start_guest(&sn);
            g_assert_cmpint(ff_writer_run(sn.w), ==, f->rc);
            g_assert_cmpint(ff_writer_stats(sn.w).way, ==, f->after);
            if (f->rc == 0) {
                stop_guest(&sn);
                g_assert_true(is_right(&sn));
            } else {
                g_assert_cmpuint(ff_protect_left(sn.p), >, 0);
            }
        }
        close_snapshot(&sn);
    }
}

static int one_piece(void *opaque)
{
    rig_at("writer-whole", one_piece, NULL);
    return 1;
}

/* Each write is done in part: every second page comes from the buffer, so each is a piece. */
static void test_short(RigKind kind)
{
    Snapshot sn;

    if (!open_snapshot(&sn, kind, 2000, FF_WRITER_URING)) {
        return;
    }
    if (rig_at("writer-whole", one_piece, NULL)) {
        protect(&sn);
        for (sn.page = 1; sn.page < sn.r->n_pages; sn.page += 2) {
            write_page(&sn);
        }
        g_assert_cmpint(ff_writer_run(sn.w), ==, 0);
        g_assert_true(is_right(&sn));
    }
    close_snapshot(&sn);
}

static int hide_data(void *opaque)
{
    rig_at("seek-data", hide_data, NULL);
    return ENXIO;
}

static int doubt_holes(void *opaque)
{
    rig_at("doubt-holes", doubt_holes, NULL);
    return 1;
}

/* As Linux before 6.4 does while khugepaged makes huge pages: it says that all is a hole. */
static void test_hidden(RigKind kind)
{
    Snapshot sn;

    if (!open_snapshot(&sn, kind, 2000, FF_WRITER_URING)) {
        return;
    }
    if (rig_at("seek-data", hide_data, NULL) && rig_at("doubt-holes", doubt_holes, NULL)) {
        protect(&sn);
        g_assert_cmpint(ff_writer_run(sn.w), ==, 0);
        g_assert_true(is_right(&sn));
    }
    close_snapshot(&sn);
}

/* A file system of SIZE. -1: may not. */
static int small_file(const char *size)
{
    int fd = -1;
    int fs = syscall(SYS_fsopen, "tmpfs", FSOPEN_CLOEXEC);

    if (fs >= 0 && syscall(SYS_fsconfig, fs, FSCONFIG_SET_STRING, "size", size, 0) == 0 &&
        syscall(SYS_fsconfig, fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) == 0) {
        int mount = syscall(SYS_fsmount, fs, FSMOUNT_CLOEXEC, 0);
        if (mount >= 0) {
            fd = openat(mount, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
            close(mount);
        }
    }
    if (fs >= 0) {
        close(fs);
    }
    return fd;
}

static void test_full_disk(RigKind kind)
{
    Snapshot sn;
    int fd = small_file("1M");

    if (fd < 0) {
        g_test_skip("no tmpfs can be made here (CAP_SYS_ADMIN)");
        return;
    }
    if (open_snapshot(&sn, kind, 4, FF_WRITER_URING)) {
        close(sn.fd);
        sn.fd = fd;
        protect(&sn);
        start_guest(&sn);
        g_assert_cmpint(ff_writer_run(sn.w), ==, -ENOSPC);
        close_snapshot(&sn);
    } else {
        close(fd);
    }
}

static int cancel(void *opaque)
{
    Snapshot *sn = opaque;

    ff_writer_cancel(sn->w);
    return 0;
}

static void test_cancel(RigKind kind)
{
    Snapshot sn;

    if (!open_snapshot(&sn, kind, 1, FF_WRITER_URING)) {
        return;
    }
    if (rig_at("writer-lent", cancel, &sn)) {
        protect(&sn);
        start_guest(&sn);
        g_assert_cmpint(ff_writer_run(sn.w), ==, -ECANCELED);
        g_assert_cmpuint(ff_protect_left(sn.p), >, 0);
    }
    close_snapshot(&sn);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    rig_add("/writer/buffer-none", RIG_ALL, test_none);
    rig_add("/writer/buffer-one", RIG_ALL, test_one);
    rig_add("/writer/buffer-many", RIG_ALL & ~RIG_BIT(RIG_HUGETLB), test_many);
    rig_add("/writer/around", RIG_ALL & ~RIG_BIT(RIG_HUGETLB), test_around);
    rig_add("/writer/neighbours", RIG_BIT(RIG_MEMFD) | RIG_BIT(RIG_ANON), test_neighbours);
    rig_add("/writer/instant", RIG_ALL, test_instant);
    rig_add("/writer/direct", RIG_ALL, test_some_direct);
    rig_add("/writer/buffered", RIG_ALL, test_some_buffered);
    /* the others are copied before they are written */
    rig_add("/writer/in-flight", RIG_BIT(RIG_MEMFD) | RIG_BIT(RIG_SHMEM_HUGE), test_in_flight);
    rig_add("/writer/looks", RIG_BIT(RIG_MEMFD), test_looks);
    rig_add("/writer/claimed", RIG_BIT(RIG_MEMFD), test_claimed);
    rig_add("/writer/not-again", RIG_BIT(RIG_MEMFD) | RIG_BIT(RIG_SHMEM_HUGE), test_not_again);
    rig_add("/writer/late-copy", RIG_ALL, test_late_copy);
    rig_add("/writer/failures", RIG_BIT(RIG_MEMFD) | RIG_BIT(RIG_ANON), test_failures);
    rig_add("/writer/short", RIG_ALL & ~RIG_BIT(RIG_HUGETLB), test_short);
    rig_add("/writer/hidden", RIG_BIT(RIG_MEMFD) | RIG_BIT(RIG_SHMEM_HUGE), test_hidden);
    rig_add("/writer/full-disk", RIG_ALL, test_full_disk);
    rig_add("/writer/cancel", RIG_ALL, test_cancel);
    return g_test_run();
}
