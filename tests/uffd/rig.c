/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See rig.h. */
#include "tests/uffd/rig.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/memfd.h>
#include <linux/mount.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/failpoints.h"

#define SMALL_PAGES 1024
#define HUGE_PAGES 8
#define SPARE_PAGES 2

static const struct {
    const char *name;
    uint64_t page_size;
    unsigned pages;
} kinds[] = {
    [RIG_MEMFD] = {"memfd", 4096, SMALL_PAGES},
    [RIG_SHMEM_HUGE] = {"shmem-huge", 4096, SMALL_PAGES},
    [RIG_HUGETLB] = {"hugetlb", HUGEPAGE, HUGE_PAGES},
    [RIG_ANON] = {"anonymous", 4096, SMALL_PAGES},
};

/* ---- content --------------------------------------------------------------------------------- */

uint64_t rig_word(unsigned page, unsigned word)
{
    return ((uint64_t)(page + 1) << 32 | (word + 1)) * 0x9e3779b97f4a7c15ull;
}

void rig_pattern(const Rig *r, unsigned page, void *buf)
{
    uint64_t *words = buf;

    for (unsigned i = 0; i < r->page_size / 8; i++) {
        words[i] = rig_word(page, i);
    }
}

bool rig_is_pattern(const Rig *r, unsigned page, const void *data)
{
    const volatile uint64_t *words = data;

    for (unsigned i = 0; i < r->page_size / 8; i++) {
        if (words[i] != rig_word(page, i)) {
            return false;
        }
    }
    return true;
}

void rig_check(const Rig *r, unsigned page, const char *at)
{
    if (!rig_is_pattern(r, page, at)) {
        g_error("page %u is wrong", page);
    }
}

void rig_check_zero(const Rig *r, const char *at)
{
    const volatile uint64_t *words = (const volatile uint64_t *)at;

    for (unsigned i = 0; i < r->page_size / 8; i++) {
        g_assert_cmpuint(words[i], ==, 0);
    }
}

void rig_fill_pattern(Rig *r, const FfRun *run)
{
    g_autofree char *buf = g_malloc(run->n * r->page_size);

    for (unsigned i = 0; i < run->n; i++) {
        rig_pattern(r, run->first + i, buf + i * r->page_size);
    }
    g_assert_cmpint(ff_place_copy(r->s, run, buf), ==, 0);
}

char *rig_page(const Rig *r, unsigned page)
{
    return r->map + page * r->page_size;
}

void rig_drop(Rig *r, unsigned page, unsigned n)
{
    if (r->fd >= 0) {
        g_assert_cmpint(fallocate(r->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                  page * r->page_size, n * r->page_size),
                        ==, 0);
    } else {
        g_assert_cmpint(madvise(rig_page(r, page), n * r->page_size, MADV_DONTNEED), ==, 0);
    }
}

void rig_populate(Rig *r)
{
    for (unsigned i = 0; i < r->n_pages; i++) {
        rig_pattern(r, i, (r->alias ? r->alias : r->map) + i * r->page_size);
    }
}

/* ---- the pager ------------------------------------------------------------------------------- */

static int on_request(FfPager *p, const FfRun *runs, unsigned n)
{
    Rig *r = (Rig *)p;

    pthread_mutex_lock(&r->lock);
    for (unsigned i = 0; i < n; i++) {
        g_assert_cmpuint(r->queue_len, <, r->queue_cap);
        r->queue[r->queue_len++] = runs[i];
        for (unsigned k = 0; k < runs[i].n; k++) {
            r->asked[runs[i].first + k]++;
            r->asked_all++;
        }
    }
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->lock);
    return 0;
}

static void on_removed(FfPager *p, const FfRun *run, FfRemoved why)
{
    Rig *r = (Rig *)p;

    pthread_mutex_lock(&r->lock);
    r->removed[why] += run->n;
    pthread_mutex_unlock(&r->lock);
}

static void on_present(const FfPresent *p, void *opaque)
{
    Rig *r = opaque;

    g_assert_cmpuint(p->bytes, ==, p->pages * r->page_size);
    pthread_mutex_lock(&r->lock);
    r->present += p->pages;
    r->present_as[p->as] += p->pages;
    r->duplicate += p->duplicate;
    pthread_mutex_unlock(&r->lock);
}

static void on_complete(void *opaque)
{
    Rig *r = opaque;

    pthread_mutex_lock(&r->lock);
    r->completed++;
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->lock);
}

/* Each wait is a number of its own. */
static int32_t on_wait_began(int32_t tid, int64_t now_us, void *opaque)
{
    Rig *r = opaque;

    pthread_mutex_lock(&r->lock);
    int32_t number = r->began++;
    if (number < RIG_WAITS) {
        r->waits[number] = (RigWait){tid, now_us};
    }
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->lock);
    return number;
}

static void on_wait_ended(int32_t who, int64_t since_us, void *opaque)
{
    Rig *r = opaque;

    pthread_mutex_lock(&r->lock);
    r->ended++;
    if (who < RIG_WAITS) {
        g_assert_cmpint(since_us, ==, r->waits[who].since_us);
        r->waits[who].ended++;
    }
    pthread_mutex_unlock(&r->lock);
}

static void on_failed(const FfRun *run, int rc, void *opaque)
{
    Rig *r = opaque;

    pthread_mutex_lock(&r->lock);
    if (!r->failed) {
        r->failed = rc;
        r->failed_page = run ? (int64_t)run->first : -1;
    }
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->lock);
}

static void on_forked(FfSpace *child, void *opaque)
{
    Rig *r = opaque;

    pthread_mutex_lock(&r->lock);
    g_assert_null(r->child);
    r->child = child;
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->lock);
}

static const FfSpaceOps ops = {.present = on_present,
                               .complete = on_complete,
                               .wait_began = on_wait_began,
                               .wait_ended = on_wait_ended,
                               .forked = on_forked,
                               .failed = on_failed};

static gpointer filler(gpointer p)
{
    Rig *r = p;
    unsigned at = 0;

    pthread_mutex_lock(&r->lock);
    for (;;) {
        while (!r->end && at == r->queue_len) {
            pthread_cond_wait(&r->changed, &r->lock);
        }
        if (at == r->queue_len) {
            pthread_mutex_unlock(&r->lock);
            return NULL;
        }
        FfRun run = r->queue[at++];
        pthread_mutex_unlock(&r->lock);
        r->fill(r, &run);
        pthread_mutex_lock(&r->lock);
    }
}

unsigned rig_asked(Rig *r)
{
    pthread_mutex_lock(&r->lock);
    unsigned n = r->asked_all;
    pthread_mutex_unlock(&r->lock);
    return n;
}

void rig_wait_asked(Rig *r, unsigned n)
{
    pthread_mutex_lock(&r->lock);
    while (r->asked_all < n) {
        pthread_cond_wait(&r->changed, &r->lock);
    }
    pthread_mutex_unlock(&r->lock);
}

void rig_wait_began(Rig *r, unsigned n)
{
    pthread_mutex_lock(&r->lock);
    while (r->began < n) {
        pthread_cond_wait(&r->changed, &r->lock);
    }
    pthread_mutex_unlock(&r->lock);
}

int rig_wait_failed(Rig *r)
{
    pthread_mutex_lock(&r->lock);
    while (!r->failed) {
        pthread_cond_wait(&r->changed, &r->lock);
    }
    int rc = r->failed;
    r->failed = 0;
    pthread_mutex_unlock(&r->lock);
    return rc;
}

void rig_wait_completed(Rig *r, unsigned n)
{
    pthread_mutex_lock(&r->lock);
    while (r->completed < n) {
        pthread_cond_wait(&r->changed, &r->lock);
    }
    pthread_mutex_unlock(&r->lock);
}

/* ---- named points ---------------------------------------------------------------------------- */

#ifdef FF_FAULTS
#define MAX_POINTS 8

static struct {
    const char *point;
    RigAt fn;
    void *opaque;
} points[MAX_POINTS]; /* points_lock */
static pthread_mutex_t points_lock = PTHREAD_MUTEX_INITIALIZER;

static int on_point(const char *place, const char *name)
{
    RigAt fn = NULL;
    void *opaque = NULL;

    pthread_mutex_lock(&points_lock);
    for (unsigned i = 0; i < MAX_POINTS && !fn; i++) {
        if (g_strcmp0(points[i].point, name) == 0) {
            fn = points[i].fn;
            opaque = points[i].opaque;
            points[i].point = NULL;
        }
    }
    pthread_mutex_unlock(&points_lock);
    return fn ? fn(opaque) : 0;
}

bool rig_at(const char *point, RigAt fn, void *opaque)
{
    unsigned i = 0;

    pthread_mutex_lock(&points_lock);
    while (i < MAX_POINTS && points[i].point) {
        i++;
    }
    g_assert_cmpuint(i, <, MAX_POINTS);
    points[i].point = point;
    points[i].fn = fn;
    points[i].opaque = opaque;
    pthread_mutex_unlock(&points_lock);
    ff_fault_hook(on_point);
    return true;
}

static void forget_points(void)
{
    ff_fault_hook(NULL);
    memset(points, 0, sizeof(points));
}
#else
bool rig_at(const char *point, RigAt fn, void *opaque)
{
    g_test_skip("built without -Dfaults=true");
    return false;
}

static void forget_points(void)
{
}
#endif

/* ---- memory ---------------------------------------------------------------------------------- */

/* A file of a tmpfs of its own, with huge pages for a process that asks. -1: may not. */
static int huge_file(void)
{
    int fd = -1;
    int fs = syscall(SYS_fsopen, "tmpfs", FSOPEN_CLOEXEC);

    if (fs >= 0 && syscall(SYS_fsconfig, fs, FSCONFIG_SET_STRING, "huge", "advise", 0) == 0 &&
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

static bool make_file(Rig *r)
{
    if (r->kind == RIG_SHMEM_HUGE) {
        r->fd = huge_file();
        if (r->fd < 0) {
            g_test_skip("no tmpfs with huge=advise can be made here (CAP_SYS_ADMIN)");
            return false;
        }
    } else if (r->kind == RIG_HUGETLB) {
        /* What is given back is free when nobody looks at it any more. */
        r->pool = hugepages_new(r->n_pages + SPARE_PAGES);
        if (!r->pool) {
            return false;
        }
        r->fd = memfd_create("ram", MFD_CLOEXEC | MFD_HUGETLB | 21u << MFD_HUGE_SHIFT);
    } else {
        r->fd = memfd_create("ram", MFD_CLOEXEC);
    }
    g_assert_cmpint(r->fd, >=, 0);
    g_assert_cmpint(ftruncate(r->fd, r->len), ==, 0);
    return true;
}

/* At a multiple of 2 MiB, for huge pages. FD -1: private. */
static char *map_aligned(int fd, uint64_t len)
{
    char *area = mmap(NULL, len + HUGEPAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *start = (char *)(((uintptr_t)area + HUGEPAGE - 1) & ~(HUGEPAGE - 1));

    g_assert_true(area != MAP_FAILED);
    munmap(area, len + HUGEPAGE);
    char *map = mmap(start, len, PROT_READ | PROT_WRITE,
                     fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED | MAP_NORESERVE, fd, 0);
    g_assert_true(map != MAP_FAILED);
    return map;
}

Rig *rig_new_memory(RigKind kind)
{
    Rig *r = g_new0(Rig, 1);

    r->kind = kind;
    r->fd = r->uffd = r->mem_fd = -1;
    r->page_size = kinds[kind].page_size;
    r->n_pages = kinds[kind].pages;
    r->len = r->page_size * r->n_pages;
    r->fill = rig_fill_pattern;
    r->pager = (FfPager){.request = on_request, .removed = on_removed};
    r->queue_cap = r->n_pages * 8;
    r->queue = g_new(FfRun, r->queue_cap);
    r->asked = g_new0(unsigned, r->n_pages);
    pthread_mutex_init(&r->lock, NULL);
    pthread_cond_init(&r->changed, NULL);
    if (kind != RIG_ANON && !make_file(r)) {
        rig_free(r);
        return NULL;
    }
    r->map = map_aligned(r->fd, r->len);
    if (r->fd >= 0) {
        r->alias = map_aligned(r->fd, r->len);
        g_assert_cmpint(ff_backing_of_file(r->fd, &r->backing), ==, 0);
        g_assert_cmpuint(r->backing.page_size, ==, r->page_size);
        g_assert_cmpint(r->backing.kind, ==,
                        kind == RIG_HUGETLB ? FF_BACKING_HUGETLB : FF_BACKING_SHARED);
    }
    /* Anonymous memory has small pages; the shared one has huge ones where that is its name. */
    madvise(r->map, r->len, kind == RIG_SHMEM_HUGE ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    if (kind == RIG_SHMEM_HUGE) {
        madvise(r->alias, r->len, MADV_HUGEPAGE);
    }
    return r;
}

static const struct {
    uint64_t bit;
    const char *name;
} feature_names[] = {
    {UFFD_FEATURE_PAGEFAULT_FLAG_WP, "PAGEFAULT_FLAG_WP"},
    {UFFD_FEATURE_EVENT_FORK, "EVENT_FORK"},
    {UFFD_FEATURE_EVENT_REMAP, "EVENT_REMAP"},
    {UFFD_FEATURE_EVENT_REMOVE, "EVENT_REMOVE"},
    {UFFD_FEATURE_EVENT_UNMAP, "EVENT_UNMAP"},
    {UFFD_FEATURE_MISSING_HUGETLBFS, "MISSING_HUGETLBFS"},
    {UFFD_FEATURE_MISSING_SHMEM, "MISSING_SHMEM"},
    {UFFD_FEATURE_THREAD_ID, "THREAD_ID"},
    {UFFD_FEATURE_MINOR_HUGETLBFS, "MINOR_HUGETLBFS"},
    {UFFD_FEATURE_MINOR_SHMEM, "MINOR_SHMEM"},
    {UFFD_FEATURE_WP_HUGETLBFS_SHMEM, "WP_HUGETLBFS_SHMEM"},
    {FF_UFFD_FEATURE_WP_UNPOPULATED, "WP_UNPOPULATED"},
    {FF_UFFD_FEATURE_POISON, "POISON"},
};

bool rig_features(RigKind kind, uint64_t mode, uint64_t *features)
{
    static const FfBackingKind backings[] = {FF_BACKING_SHARED, FF_BACKING_SHARED,
                                             FF_BACKING_HUGETLB, FF_BACKING_PRIVATE};
    FfBacking b = {.kind = backings[kind]};
    int uffd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    uint64_t have = 0;

    if (uffd < 0) {
        g_test_skip("no permission for userfaultfd");
        return false;
    }
    g_assert_cmpint(ff_uffd_init(uffd, 0, &have), ==, 0);
    close(uffd);
    *features |= ff_backing_features(&b, mode);
    for (guint i = 0; i < G_N_ELEMENTS(feature_names); i++) {
        if (feature_names[i].bit & *features & ~have) {
            g_autofree char *why =
                g_strdup_printf("this kernel has no UFFD_FEATURE_%s", feature_names[i].name);
            g_test_skip(why);
            return false;
        }
    }
    return true;
}

void rig_open_space(Rig *r, int uffd, int mem_fd, uint64_t features)
{
    r->uffd = uffd;
    r->mem_fd = mem_fd;
    if (r->fd < 0) {
        r->backing = ff_backing_private(mem_fd, r->len);
    }
    r->s = ff_space_new(&(FfSpaceConfig){.uffd = uffd,
                                         .features = features,
                                         .pagemap_fd = -1,
                                         .shared_remove = FF_SHARED_REMOVE_GIVES_BACK,
                                         .pager = &r->pager,
                                         .ops = &ops,
                                         .opaque = r});
    g_assert_cmpuint(ff_space_add_block(r->s, &r->backing, NULL), ==, 0);
    g_assert_cmpint(ff_space_add_range(r->s, (uintptr_t)r->map, r->len, 0, 0), ==, 0);
}

Rig *rig_new(RigKind kind, uint64_t mode, uint64_t features)
{
    if (!rig_features(kind, mode, &features)) {
        return NULL;
    }
    Rig *r = rig_new_memory(kind);
    if (!r) {
        return NULL;
    }
    int uffd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    g_assert_cmpint(uffd, >=, 0);
    g_assert_cmpint(ff_uffd_init(uffd, features, NULL), ==, 0);
    rig_open_space(r, uffd, open("/proc/self/mem", O_RDONLY | O_CLOEXEC), features);
    if (mode) {
        g_assert_cmpint(ff_space_register(r->s, mode, NULL), ==, 0);
    }
    return r;
}

static gpointer run_faults(gpointer p)
{
    ff_faults_run(p);
    return NULL;
}

void rig_start(Rig *r)
{
    r->filler = g_thread_new("filler", filler, r);
    r->faults = g_thread_new("fault", run_faults, r->s);
}

void rig_stop_faults(Rig *r)
{
    ff_faults_stop(r->s);
    g_thread_join(g_steal_pointer(&r->faults));
}

void rig_start_faults_again(Rig *r)
{
    ff_faults_again(r->s);
    r->faults = g_thread_new("fault", run_faults, r->s);
}

void rig_stop(Rig *r)
{
    if (r->faults) {
        rig_stop_faults(r);
        pthread_mutex_lock(&r->lock);
        r->end = true;
        pthread_cond_broadcast(&r->changed);
        pthread_mutex_unlock(&r->lock);
        g_thread_join(g_steal_pointer(&r->filler));
    }
    g_assert_cmpint(r->failed, ==, 0);
}

void rig_free(Rig *r)
{
    rig_stop(r);
    forget_points();
    g_autofree uint64_t *pages = g_new0(uint64_t, r->n_pages);
    for (unsigned i = 0; i < r->n_pages && r->map; i++) {
        pages[i] = r->is_client || !r->s ? (uintptr_t)rig_page(r, i) : ff_space_addr(r->s, 0, i);
    }
    ff_space_free(r->s);
    if (r->uffd >= 0) {
        close(r->uffd); /* first: nobody reads any more of what is unmapped here */
    }
    /* Where it has moved to. Where it was may be somebody else's by now. */
    for (unsigned i = 0; i < r->n_pages; i++) {
        if (pages[i]) {
            munmap((void *)(uintptr_t)pages[i], r->page_size);
        }
    }
    if (r->alias) {
        munmap(r->alias, r->len);
    }
    int fds[] = {r->mem_fd, r->fd};
    for (guint i = 0; i < G_N_ELEMENTS(fds); i++) {
        if (fds[i] >= 0) {
            close(fds[i]);
        }
    }
    hugepages_free(r->pool);
    pthread_mutex_destroy(&r->lock);
    pthread_cond_destroy(&r->changed);
    g_free(r->queue);
    g_free(r->asked);
    g_free(r);
}

/* ---- the table ------------------------------------------------------------------------------- */

typedef struct {
    RigKind kind;
    RigTest test;
} Case;

static void run_case(gconstpointer p)
{
    const Case *c = p;

    c->test(c->kind);
}

void rig_add(const char *name, unsigned which, RigTest test)
{
    for (RigKind kind = 0; kind < RIG_KINDS; kind++) {
        if (which & RIG_BIT(kind)) {
            g_autofree char *path = g_strdup_printf("%s/%s", name, kinds[kind].name);
            Case c = {kind, test};
            g_test_add_data_func_full(path, g_memdup2(&c, sizeof(c)), run_case, g_free);
        }
    }
}

unsigned rig_written(Rig *r)
{
    pthread_mutex_lock(&r->lock);
    unsigned n = r->written;
    pthread_mutex_unlock(&r->lock);
    return n;
}
