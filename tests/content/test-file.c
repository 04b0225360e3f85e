/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The pager that reads a file, over real memory of this process: faults alone, the fill alone,
 * both; what the bitmap says is zeros is zeros; a file that cannot be read, is cut or was changed
 * leaves a thread that waits waiting, and the next try answers it.
 */
#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "content/pagers/file.h"
#include "tests/lib/slowfile.h"
#include "tests/uffd/rig.h"

#define MISSING UFFDIO_REGISTER_MODE_MISSING
#define AT (1u << 20) /* of page 0 in the file */
#define READERS 4

/* A space whose content is in a file. */
typedef struct {
    Rig *r;
    FfFilePager *pager;
    FfFileBlock block;
    uint64_t *data;
    char *path;
    FfReaderFile *content;
    struct stat st;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    FfFileError error;             /* lock */
    unsigned failures;             /* lock */
    unsigned held, released, gone; /* lock; reads */
} File;

/* What the file's bitmap says of page PAGE of the memory. */
static bool is_zero(unsigned page)
{
    return page % 5 == 3;
}

static void on_failed(const FfFileError *e, void *opaque)
{
    File *f = opaque;

    pthread_mutex_lock(&f->lock);
    f->error = *e;
    f->failures++;
    pthread_cond_broadcast(&f->changed);
    pthread_mutex_unlock(&f->lock);
}

static void cannot_place(const FfRun *run, int rc, void *opaque)
{
    g_error("page %" G_GUINT64_FORMAT " cannot be placed: %s", run->first, g_strerror(-rc));
}

static FfFileError wait_failed(File *f)
{
    pthread_mutex_lock(&f->lock);
    while (!f->failures) {
        pthread_cond_wait(&f->changed, &f->lock);
    }
    g_assert_cmpuint(f->failures, ==, 1);
    f->failures = 0;
    FfFileError e = f->error;
    pthread_mutex_unlock(&f->lock);
    return e;
}

/* A page of zeros has something else at its place: the bitmap decides. */
static void write_file(File *f)
{
    g_autofree char *buf = g_malloc(f->r->page_size);
    uint64_t per_page = f->r->page_size / FF_FILE_PAGE;
    int fd = g_file_open_tmp("ff-pager-XXXXXX", &f->path, NULL);

    g_assert_cmpint(fd, >=, 0);
    f->data = g_new0(uint64_t, f->block.n_pages / 64 + 1);
    for (unsigned i = 0; i < f->r->n_pages; i++) {
        rig_pattern(f->r, i, buf);
        g_assert_cmpint(pwrite(fd, buf, f->r->page_size, AT + i * f->r->page_size), ==,
                        (ssize_t)f->r->page_size);
        for (uint64_t k = i * per_page; k < (i + 1) * per_page && !is_zero(i); k++) {
            f->data[k / 64] |= 1ull << k % 64;
        }
    }
    close(fd);
    f->block.data = f->data;
}

static int open_file(const File *f)
{
    int fd = open(f->path, O_RDONLY | O_CLOEXEC);

    g_assert_cmpint(fd, >=, 0);
    return fd;
}

static void free_content(gpointer c)
{
    ff_content_free(c);
}

/* FD: taken. */
static FfReaderFile *open_content(int fd)
{
    FfContent *c = ff_content_open_fd(fd, "FILE", NULL, NULL);

    g_assert_nonnull(c);
    return ff_reader_file_new(c, free_content);
}

static void start(File *f)
{
    ff_file_pager_start(f->pager, f->content);
}

/* FALSE: skipped. */
static bool begin_with(File *f, RigKind kind, unsigned window, const FfFileFirst *first,
                       uint64_t record)
{
    *f = (File){.r = rig_new(kind, MISSING, 0)};
    if (!f->r) {
        return false;
    }
    pthread_mutex_init(&f->lock, NULL);
    pthread_cond_init(&f->changed, NULL);
    f->block =
        (FfFileBlock){.at = AT, .n_pages = f->r->len / FF_FILE_PAGE, .page_size = f->r->page_size};
    write_file(f);
    int fd = open_file(f);
    g_assert_cmpint(fstat(fd, &f->st), ==, 0);
    f->content = open_content(fd);
    f->pager = ff_file_pager_new(&(FfFilePagerConfig){.space = f->r->s,
                                                      .blocks = &f->block,
                                                      .n_blocks = 1,
                                                      .window = window,
                                                      .first = *first,
                                                      .record = record,
                                                      .failed = on_failed,
                                                      .cannot_place = cannot_place,
                                                      .opaque = f});
    ff_space_set_pager(f->r->s, ff_file_pager_pager(f->pager));
    return true;
}

static bool begin(File *f, RigKind kind, unsigned window)
{
    return begin_with(f, kind, window, &(FfFileFirst){.fd = -1}, 0);
}

static void end(File *f)
{
    rig_stop(f->r);
    ff_file_pager_free(f->pager);
    ff_reader_file_unref(f->content);
    g_assert_cmpuint(f->failures, ==, 0);
    rig_free(f->r);
    g_unlink(f->path);
    g_free(f->path);
    g_free(f->data);
    pthread_mutex_destroy(&f->lock);
    pthread_cond_destroy(&f->changed);
}

static void check_page(const File *f, unsigned page)
{
    if (is_zero(page)) {
        rig_check_zero(f->r, rig_page(f->r, page));
    } else {
        rig_check(f->r, page, rig_page(f->r, page));
    }
}

static void check_all(const File *f)
{
    for (unsigned i = 0; i < f->r->n_pages; i++) {
        check_page(f, i);
    }
}

typedef struct {
    File *f;
    unsigned page, step;
} Reader;

static gpointer read_some(gpointer p)
{
    Reader *r = p;

    for (unsigned i = r->page; i < r->f->r->n_pages; i += r->step) {
        check_page(r->f, i * 7 % r->f->r->n_pages);
    }
    return NULL;
}

static gpointer read_one(gpointer p)
{
    Reader *r = p;

    check_page(r->f, r->page);
    return NULL;
}

/* ---- content --------------------------------------------------------------------------------- */

static void faults(RigKind kind, unsigned window)
{
    GThread *threads[READERS];
    Reader readers[READERS];
    File f;

    if (!begin(&f, kind, window)) {
        return;
    }
    rig_start(f.r);
    start(&f);
    for (unsigned i = 0; i < READERS; i++) {
        readers[i] = (Reader){&f, i, READERS};
        threads[i] = g_thread_new("reader", read_some, &readers[i]);
    }
    for (unsigned i = 0; i < READERS; i++) {
        g_thread_join(threads[i]);
    }
    check_all(&f);
    FfFileCounts c = ff_file_pager_counts(f.pager);
    g_assert_cmpuint(c.fill_bytes, ==, 0);
    g_assert_cmpuint(c.faults, >, 0);
    g_assert_cmpuint(c.zeros, >, 0);
    if (window == 1) {
        g_assert_cmpuint(c.fault_bytes, ==, c.faults * f.r->page_size);
    }
    end(&f);
}

static void test_faults(RigKind kind)
{
    faults(kind, 1);
}

static void test_window(RigKind kind)
{
    faults(kind, 4);
}

static void test_fill(RigKind kind)
{
    File f;

    if (!begin(&f, kind, 4)) {
        return;
    }
    rig_start(f.r);
    start(&f);
    ff_file_pager_fill(f.pager);
    rig_wait_completed(f.r, 1);
    check_all(&f);
    FfFileCounts c = ff_file_pager_counts(f.pager);
    g_assert_cmpuint(c.faults + c.zeros + c.fault_bytes, ==, 0);
    uint64_t zeros = (f.r->n_pages + 1) / 5;
    g_assert_cmpuint(c.fill_bytes, ==, (f.r->n_pages - zeros) * f.r->page_size);
    end(&f);
}

static void test_both(RigKind kind)
{
    GThread *threads[READERS];
    Reader readers[READERS];
    File f;

    if (!begin(&f, kind, 4)) {
        return;
    }
    rig_start(f.r);
    start(&f);
    for (unsigned i = 0; i < READERS; i++) {
        readers[i] = (Reader){&f, i, READERS};
        threads[i] = g_thread_new("reader", read_some, &readers[i]);
    }
    ff_file_pager_fill(f.pager);
    for (unsigned i = 0; i < READERS; i++) {
        g_thread_join(threads[i]);
    }
    rig_wait_completed(f.r, 1);
    check_all(&f);
    end(&f);
}

/* More than the ring holds, before anybody takes one. */
static void test_many(RigKind kind)
{
    File f;

    if (!begin(&f, kind, 1)) {
        return;
    }
    FfPager *p = ff_file_pager_pager(f.pager);
    for (unsigned i = 0; i < f.r->n_pages; i++) {
        FfRun run = {0, f.r->n_pages - 1 - i, 1};
        g_assert_cmpint(p->request(p, &run, 1), ==, 0);
    }
    rig_start(f.r);
    start(&f);
    rig_wait_completed(f.r, 1);
    check_all(&f);
    FfFileCounts c = ff_file_pager_counts(f.pager);
    g_assert_cmpuint(c.faults + c.zeros, ==, f.r->n_pages);
    end(&f);
}

static int ask_for_hole(void *opaque)
{
    File *f = opaque;
    FfPager *p = ff_file_pager_pager(f->pager);
    FfRun run = {0, 3, 1};

    g_assert_true(is_zero(run.first));
    g_assert_cmpint(p->request(p, &run, 1), ==, 0);
    rig_wait_completed(f->r, 1);
    return 0;
}

/* Somebody has waited for a page of zeros when it leaves the userfaultfd, and is answered before it
 * is marked. */
static void test_hole(RigKind kind)
{
    File f;

    if (!begin(&f, kind, 1)) {
        return;
    }
    start(&f);
    rig_fill_pattern(f.r, &(FfRun){0, 0, 3});
    rig_fill_pattern(f.r, &(FfRun){0, 4, f.r->n_pages - 4});
    if (rig_at("place-placed", ask_for_hole, &f)) {
        g_assert_cmpint(ff_place_hole(f.r->s, &(FfRun){0, 3, 1}), ==, 0);
        check_page(&f, 3);
        g_assert_cmpuint(ff_file_pager_counts(f.pager).zeros, ==, 1);
    }
    end(&f);
}

/* ---- what fails ------------------------------------------------------------------------------ */

static void try_again(File *f)
{
    ff_file_pager_stop(f->pager);
    rig_stop_faults(f->r);
    start(f);
    rig_start_faults_again(f->r);
    ff_file_pager_fill(f->pager);
}

/* The reader of PAGE waits; one of another page does not, unless the file is BAD as a whole. */
static void waits_and_comes(File *f, unsigned page, int error, bool bad, void (*cure)(File *))
{
    Reader waiting = {f, page, 0};
    GThread *waits = g_thread_new("waits", read_one, &waiting);
    FfFileError e = wait_failed(f);

    g_assert_cmpint(e.error, ==, error);
    g_assert_true(e.waits);
    g_assert_cmpuint(e.at, ==, AT + page * f->r->page_size);
    g_assert_false(ff_space_is_placed(f->r->s, 0, page));
    if (!bad) {
        check_page(f, page - 1);
    }
    if (cure) {
        cure(f);
    }
    try_again(f);
    g_thread_join(waits);
    rig_wait_completed(f->r, 1);
    check_all(f);
}

static int io_error(void *opaque)
{
    return EIO;
}

static void test_eio(RigKind kind)
{
    File f;

    if (!begin(&f, kind, 1)) {
        return;
    }
    rig_start(f.r);
    start(&f);
    if (rig_at("read-file", io_error, NULL)) {
        waits_and_comes(&f, 6, EIO, false, NULL);
    }
    end(&f);
}

/* What stands beside the page cannot be read: the page comes all the same, and nobody hears of it.
 */
static void test_eio_beside(RigKind kind)
{
    File f;

    if (!begin(&f, kind, 4)) {
        return;
    }
    rig_start(f.r);
    start(&f);
    if (f.r->page_size == FF_FILE_PAGE && rig_at("read-file", io_error, NULL)) {
        check_page(&f, 5); /* read together with 4, 6 and 7 */
        g_assert_false(ff_space_is_placed(f.r->s, 0, 6));
        check_page(&f, 6);
        pthread_mutex_lock(&f.lock);
        g_assert_cmpuint(f.failures, ==, 0);
        pthread_mutex_unlock(&f.lock);
    }
    end(&f);
}

/* The fill stops and says so, a thread that waits is answered. */
static void test_eio_fill(RigKind kind)
{
    File f;

    if (!begin(&f, kind, 1)) {
        return;
    }
    rig_start(f.r);
    start(&f);
    if (rig_at("read-file", io_error, NULL)) {
        ff_file_pager_fill(f.pager);
        FfFileError e = wait_failed(&f);
        g_assert_cmpint(e.error, ==, EIO);
        g_assert_false(e.waits);
        check_page(&f, f.r->n_pages - 1);
        try_again(&f);
        rig_wait_completed(f.r, 1);
        check_all(&f);
    }
    end(&f);
}

/* The fill ends, and a thread that waits is answered. */
static void test_paused(RigKind kind)
{
    File f;

    if (!begin(&f, kind, 1)) {
        return;
    }
    rig_start(f.r);
    start(&f);
    ff_file_pager_pause(f.pager);
    ff_file_pager_fill(f.pager);
    check_page(&f, f.r->n_pages - 1);
    g_assert_cmpuint(ff_file_pager_counts(f.pager).fill_bytes, ==, 0);
    try_again(&f);
    rig_wait_completed(f.r, 1);
    check_all(&f);
    end(&f);
}

/* Of the pages that have data, nearly; not is_zero() with any kind of memory. */
#define LAST(f) ((f)->r->n_pages - 2)

/* As it was, by its mtime, too. */
static void fill_up(File *f)
{
    g_autofree char *buf = g_malloc(f->r->page_size);
    int fd = open(f->path, O_WRONLY | O_CLOEXEC);
    const struct timespec times[] = {{.tv_nsec = UTIME_OMIT}, f->st.st_mtim};

    for (unsigned page = LAST(f); page < f->r->n_pages; page++) {
        rig_pattern(f->r, page, buf);
        g_assert_cmpint(pwrite(fd, buf, f->r->page_size, AT + page * f->r->page_size), ==,
                        (ssize_t)f->r->page_size);
    }
    g_assert_cmpint(futimens(fd, times), ==, 0);
    close(fd);
}

static void test_cut(RigKind kind)
{
    File f;

    if (!begin(&f, kind, 1)) {
        return;
    }
    rig_start(f.r);
    start(&f);
    unsigned last = LAST(&f);
    g_assert_cmpint(truncate(f.path, AT + last * f.r->page_size + 100), ==, 0);
    waits_and_comes(&f, last, ENODATA, true, fill_up);
    end(&f);
}

/* Its bytes are not what was saved: nothing of it is placed. */
static void test_changed(RigKind kind)
{
    File f;

    if (!begin(&f, kind, 1)) {
        return;
    }
    rig_start(f.r);
    start(&f);
    unsigned last = LAST(&f);
    int fd = open(f.path, O_WRONLY | O_CLOEXEC);
    g_assert_cmpint(pwrite(fd, "changed", 7, AT + last * f.r->page_size), ==, 7);
    close(fd);
    waits_and_comes(&f, last, ESTALE, true, fill_up);
    end(&f);
}

/* It has its name no more, and is there all the same. */
static void test_deleted(RigKind kind)
{
    File f;

    if (!begin(&f, kind, 4)) {
        return;
    }
    rig_start(f.r);
    start(&f);
    g_unlink(f.path);
    ff_file_pager_fill(f.pager);
    rig_wait_completed(f.r, 1);
    check_all(&f);
    end(&f);
}

/* ---- who waits for whom ---------------------------------------------------------------------- */

static int hold(void *opaque)
{
    File *f = opaque;

    pthread_mutex_lock(&f->lock);
    f->held++;
    pthread_cond_broadcast(&f->changed);
    while (!f->released) {
        pthread_cond_wait(&f->changed, &f->lock);
    }
    f->gone++;
    pthread_cond_broadcast(&f->changed);
    pthread_mutex_unlock(&f->lock);
    return 0;
}

static int hold_then_fail(void *opaque)
{
    hold(opaque);
    return EIO;
}

static void wait_held(File *f, unsigned n)
{
    pthread_mutex_lock(&f->lock);
    while (f->held < n) {
        pthread_cond_wait(&f->changed, &f->lock);
    }
    pthread_mutex_unlock(&f->lock);
}

static void release(File *f)
{
    pthread_mutex_lock(&f->lock);
    f->released = 1;
    pthread_cond_broadcast(&f->changed);
    while (f->gone < f->held) {
        pthread_cond_wait(&f->changed, &f->lock);
    }
    pthread_mutex_unlock(&f->lock);
}

/* Both threads of the fill stand in their reads, and every other page comes. */
static void test_fill_stands(RigKind kind)
{
    File f;

    if (!begin(&f, kind, 1)) {
        return;
    }
    rig_start(f.r);
    start(&f);
    if (rig_at("read-file", hold, &f) && rig_at("read-file", hold, &f)) {
        ff_file_pager_fill(f.pager);
        wait_held(&f, 2);
        check_all(&f);
        g_assert_cmpuint(ff_file_pager_counts(f.pager).fill_bytes, ==, 0);
        release(&f);
    }
    end(&f);
}

#define HURRY 8

/* A pager that fills in a hurry has more reads under way, whether it was asked before the fill or
 * in it. */
static void test_hurry(RigKind kind)
{
    File f;

    if (!begin(&f, kind, 1)) {
        return;
    }
    rig_start(f.r);
    start(&f);
    bool some = true;
    for (unsigned i = 0; i < HURRY; i++) {
        some = some && rig_at("read-file", hold, &f);
    }
    if (some) {
        ff_file_pager_fill(f.pager);
        wait_held(&f, 2);
        ff_file_pager_hurry(f.pager);
        wait_held(&f, HURRY);
        release(&f);
        rig_wait_completed(f.r, 1);
        check_all(&f);
    }
    end(&f);
}

static int count_read(void *opaque)
{
    g_atomic_int_inc((gint *)opaque);
    return 0;
}

static void ask(File *f, unsigned page)
{
    FfPager *p = ff_file_pager_pager(f->pager);

    g_assert_cmpint(p->request(p, &(FfRun){0, page, 1}, 1), ==, 0);
}

/* A read stands, and a thread that waits for what it brings, too, needs no thread: others are
 * answered. */
static void test_beside(RigKind kind)
{
    gint reads = 0;
    File f;

    if (!begin(&f, kind, 8)) {
        return;
    }
    rig_start(f.r);
    start(&f);
    if (f.r->page_size == FF_FILE_PAGE && rig_at("read-file", hold, &f)) {
        ask(&f, 6); /* read together with 4, 5 and 7 */
        wait_held(&f, 1);
        rig_at("read-file", count_read, &reads);
        rig_at("read-file", count_read, &reads);
        ask(&f, 5);
        ask(&f, 4);
        ask(&f, 7);
        check_page(&f, f.r->n_pages - 2); /* requests are taken in their order */
        g_assert_cmpint(g_atomic_int_get(&reads), ==, 1);
        for (unsigned page = 4; page < 8; page++) {
            g_assert_false(ff_space_is_placed(f.r->s, 0, page));
        }
        release(&f);
        for (unsigned page = 4; page < 8; page++) {
            check_page(&f, page);
        }
    }
    end(&f);
}

#define NEAR 3
#define FUSE_S 20

static gpointer read_elsewhere(gpointer p)
{
    File *f = p;

    check_page(f, f->r->n_pages - 2);
    check_page(f, 3);
    pthread_mutex_lock(&f->lock);
    f->gone++;
    pthread_cond_broadcast(&f->changed);
    pthread_mutex_unlock(&f->lock);
    return NULL;
}

/* FALSE: it did not come in time. A test that fails while FUSE does not answer could not even
 * end. */
static bool reads_elsewhere(File *f)
{
    GThread *thread = g_thread_new("elsewhere", read_elsewhere, f);
    struct timespec until;
    int rc = 0;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += FUSE_S;
    pthread_mutex_lock(&f->lock);
    while (!f->gone && rc == 0) {
        rc = pthread_cond_timedwait(&f->changed, &f->lock, &until);
    }
    pthread_mutex_unlock(&f->lock);
    g_thread_unref(thread);
    return rc == 0;
}

/* The same of a real file: a file system does not answer for a page. */
static void test_beside_fuse(RigKind kind)
{
    g_autofree char *directory = g_dir_make_tmp("ff-pager-XXXXXX", NULL);
    GThread *threads[NEAR];
    Reader waiting[NEAR];
    const char *why;
    File f;

    if (!begin(&f, kind, 8)) {
        return;
    }
    SlowFile *slow = slowfile_new_of(directory, f.path, &why);
    if (slow) {
        FfReaderFile *content = open_content(open(slowfile_path(slow), O_RDONLY | O_CLOEXEC));
        slowfile_hold(slow, AT + 4 * FF_FILE_PAGE, AT + 8 * FF_FILE_PAGE);
        rig_start(f.r);
        ff_file_pager_start(f.pager, content);
        for (unsigned i = 0; i < NEAR; i++) {
            waiting[i] = (Reader){&f, 4 + i, 0};
            threads[i] = g_thread_new("waits", read_one, &waiting[i]);
        }
        rig_wait_began(f.r, NEAR);
        slowfile_wait_held(slow);
        bool came = reads_elsewhere(&f);
        slowfile_release(slow);
        g_assert_true(came);
        for (unsigned i = 0; i < NEAR; i++) {
            g_thread_join(threads[i]);
        }
        ff_file_pager_stop(f.pager);
        ff_reader_file_unref(content);
        slowfile_free(slow);
    } else {
        g_test_skip(why);
    }
    g_rmdir(directory);
    end(&f);
}

/* What is read together cannot be read: each of those that wait for it tries by itself. */
static void test_beside_eio(RigKind kind)
{
    File f;

    if (!begin(&f, kind, 8)) {
        return;
    }
    rig_start(f.r);
    start(&f);
    if (f.r->page_size == FF_FILE_PAGE && rig_at("read-file", hold_then_fail, &f)) {
        ask(&f, 6);
        wait_held(&f, 1);
        rig_at("read-file", io_error, NULL);
        ask(&f, 5);
        check_page(&f, f.r->n_pages - 3); /* with an error of the window around it */
        release(&f);
        check_page(&f, 5);
        check_page(&f, 6);
    }
    end(&f);
}

/* The fill and a fault stand in one piece of the fill: another fault in it waits for them, as the
 * kernel may have it wait, and not with the thread that is left. */
static void test_piece(RigKind kind)
{
    gint reads = 0;
    File f;

    if (!begin(&f, kind, 1)) {
        return;
    }
    rig_start(f.r);
    start(&f);
    if (f.r->page_size == FF_FILE_PAGE && rig_at("read-file", hold, &f) &&
        rig_at("read-file", hold, &f)) {
        ff_file_pager_fill(f.pager);
        wait_held(&f, 2);
        rig_at("read-file", hold, &f);
        ask(&f, 0);
        wait_held(&f, 3);
        rig_at("read-file", count_read, &reads);
        rig_at("read-file", count_read, &reads);
        ask(&f, 10);
        ask(&f, 11);
        check_page(&f, f.r->n_pages - 2);
        g_assert_cmpint(g_atomic_int_get(&reads), ==, 1);
        g_assert_false(ff_space_is_placed(f.r->s, 0, 10));
        release(&f);
        rig_wait_completed(f.r, 1);
        check_all(&f);
    }
    end(&f);
}

/* No thread that could read is left, and zeros need nobody. */
static void test_zeros(RigKind kind)
{
    File f;

    if (!begin(&f, kind, 1)) {
        return;
    }
    rig_start(f.r);
    start(&f);
    if (rig_at("read-file", hold, &f) && rig_at("read-file", hold, &f)) {
        ask(&f, 0);
        ask(&f, 1);
        wait_held(&f, 2);
        check_page(&f, 3);
        g_assert_true(is_zero(3));
        release(&f);
    }
    end(&f);
}

/* All threads stand in reads that do not come back: the pager ends all the same, and the next one
 * answers those that wait. What the reads bring in the end is placed nowhere. */
static void test_hung(RigKind kind)
{
    GThread *threads[2];
    Reader waiting[2];
    bool ok = true;
    File f;

    if (!begin(&f, kind, 1)) {
        return;
    }
    rig_start(f.r);
    start(&f);
    for (unsigned i = 0; i < 4; i++) {
        ok = ok && rig_at("read-file", hold, &f);
    }
    if (ok) {
        for (unsigned i = 0; i < 2; i++) {
            waiting[i] = (Reader){&f, 5 + i, 0};
            threads[i] = g_thread_new("waits", read_one, &waiting[i]);
        }
        wait_held(&f, 2);
        ff_file_pager_fill(f.pager);
        wait_held(&f, 4);
        try_again(&f);
        for (unsigned i = 0; i < 2; i++) {
            g_thread_join(threads[i]);
        }
        rig_wait_completed(f.r, 1);
        ff_file_pager_stop(f.pager); /* a thread of it may still read what another has placed */
        FfFileCounts before = ff_file_pager_counts(f.pager);
        release(&f);
        check_all(&f);
        FfFileCounts after = ff_file_pager_counts(f.pager);
        g_assert_cmpmem(&before, sizeof(before), &after, sizeof(after));
    }
    end(&f);
}

/* ---- what comes first ------------------------------------------------------------------------ */

#define FIRST 10 /* pages */
#define CHUNK 4

/* Of a working set. */
typedef struct {
    uint64_t places[FIRST];
    int useless;
    bool wrong; /* its last chunk */
} First;

static bool is_right(uint64_t chunk, const void *data, size_t n, void *opaque)
{
    First *first = opaque;

    g_assert_cmpuint(n, ==, MIN(CHUNK, FIRST - chunk * CHUNK) * FF_FILE_PAGE);
    return !first->wrong || chunk < FIRST / CHUNK;
}

static void useless(int rc, void *opaque)
{
    g_assert_cmpint(rc, ==, -EBADMSG);
    g_atomic_int_inc(&((First *)opaque)->useless);
}

/* Pages backwards in a file of their own, that of File without its zeros. */
static bool begin_first(File *f, RigKind kind, First *first)
{
    g_autofree char *path = NULL, *buf = NULL;
    int fd = g_file_open_tmp("ff-first-XXXXXX", &path, NULL);
    FfFileFirst config = {fd, 512, FIRST, first->places, CHUNK, is_right, useless, first};

    g_assert_cmpint(fd, >=, 0);
    g_unlink(path);
    g_assert_cmpint(ftruncate(fd, 512 + FIRST * FF_FILE_PAGE), ==, 0);
    for (unsigned i = 0, page = 30; i < FIRST; page--) {
        if (!is_zero(page)) {
            first->places[i++] = AT + page * FF_FILE_PAGE;
        }
    }
    if (!begin_with(f, kind, 1, &config, 0)) {
        close(fd);
        return false;
    }
    g_assert_cmpuint(f->r->page_size, ==, FF_FILE_PAGE);
    buf = g_malloc(FF_FILE_PAGE);
    for (unsigned i = 0; i < FIRST; i++) {
        rig_pattern(f->r, (first->places[i] - AT) / FF_FILE_PAGE, buf);
        g_assert_cmpint(pwrite(fd, buf, FF_FILE_PAGE, 512 + i * FF_FILE_PAGE), ==, FF_FILE_PAGE);
    }
    return true;
}

/* They come before ff_file_pager_fill(), and nothing else does. */
static void test_first(RigKind kind)
{
    First first = {0};
    File f;

    if (!begin_first(&f, kind, &first)) {
        return;
    }
    rig_start(f.r);
    start(&f);
    while (ff_space_missing(f.r->s) > f.r->n_pages - FIRST) {
        g_usleep(1000); /* of one page of many nothing tells */
    }
    ff_file_pager_fill(f.pager);
    rig_wait_completed(f.r, 1);
    check_all(&f);
    FfFileCounts c = ff_file_pager_counts(f.pager);
    g_assert_cmpuint(c.first_pages, ==, FIRST);
    g_assert_cmpuint(c.first_bytes, ==, FIRST * FF_FILE_PAGE);
    g_assert_cmpuint(c.faults, ==, 0);
    g_assert_cmpint(first.useless, ==, 0);
    end(&f);
}

/* What is wrong is not placed, be it its content or its place; all comes from the file then. */
static void first_wrong(RigKind kind, bool content)
{
    First first = {.wrong = content};
    File f;

    if (!begin_first(&f, kind, &first)) {
        return;
    }
    if (!content) {
        first.places[1] += 100;
    }
    rig_start(f.r);
    start(&f);
    ff_file_pager_fill(f.pager);
    rig_wait_completed(f.r, 1);
    check_all(&f);
    g_assert_cmpint(first.useless, ==, 1);
    end(&f);
}

static void test_first_content(RigKind kind)
{
    first_wrong(kind, true);
}

static void test_first_place(RigKind kind)
{
    first_wrong(kind, false);
}

/* Faults in their order, those of zeros left out, and not more than there is room for. */
static void test_record(RigKind kind)
{
    static const unsigned pages[] = {20, 3, 5, 21, 7, 9};
    uint64_t n;
    File f;

    if (!begin_with(&f, kind, 1, &(FfFileFirst){.fd = -1}, 4)) {
        return;
    }
    rig_start(f.r);
    start(&f);
    for (unsigned i = 0; i < G_N_ELEMENTS(pages); i++) {
        check_page(&f, pages[i]);
    }
    g_autofree uint64_t *places = ff_file_pager_take_record(f.pager, &n);
    g_assert_cmpuint(n, ==, 4);
    for (unsigned i = 0, k = 0; k < n; i++) {
        if (!is_zero(pages[i])) {
            g_assert_cmpuint(places[k++], ==, AT + pages[i] * FF_FILE_PAGE);
        }
    }
    ff_file_pager_fill(f.pager);
    rig_wait_completed(f.r, 1);
    end(&f);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    rig_add("/file/faults", RIG_ALL, test_faults);
    rig_add("/file/window", RIG_ALL, test_window);
    rig_add("/file/fill", RIG_ALL, test_fill);
    rig_add("/file/both", RIG_ALL, test_both);
    rig_add("/file/many", RIG_ALL, test_many);
    /* Of which one page can be a hole. */
    rig_add("/file/hole", RIG_BIT(RIG_HUGETLB) | RIG_BIT(RIG_ANON), test_hole);
    rig_add("/file/eio", RIG_FILES, test_eio);
    rig_add("/file/eio-beside", RIG_FILES, test_eio_beside);
    rig_add("/file/eio-fill", RIG_FILES, test_eio_fill);
    rig_add("/file/cut", RIG_FILES, test_cut);
    rig_add("/file/changed", RIG_FILES, test_changed);
    rig_add("/file/deleted", RIG_FILES, test_deleted);
    rig_add("/file/fill-stands", RIG_FILES, test_fill_stands);
    rig_add("/file/hurry", RIG_BIT(RIG_MEMFD), test_hurry);
    rig_add("/file/beside", RIG_FILES, test_beside);
    rig_add("/file/beside-fuse", RIG_BIT(RIG_MEMFD), test_beside_fuse);
    rig_add("/file/beside-eio", RIG_FILES, test_beside_eio);
    rig_add("/file/piece", RIG_FILES, test_piece);
    rig_add("/file/zeros", RIG_FILES, test_zeros);
    rig_add("/file/paused", RIG_FILES, test_paused);
    rig_add("/file/first", RIG_BIT(RIG_MEMFD), test_first);
    rig_add("/file/first-content", RIG_BIT(RIG_MEMFD), test_first_content);
    rig_add("/file/first-place", RIG_BIT(RIG_MEMFD), test_first_place);
    rig_add("/file/record", RIG_BIT(RIG_MEMFD), test_record);
    rig_add("/file/hung", RIG_FILES, test_hung);
    return g_test_run();
}
