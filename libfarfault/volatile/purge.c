/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Pins of volatile ranges, and purging what has none. See internal.h for a page's word.
 *
 * All changes of a word are one compare-and-swap: a thread that purges claims the page first, so
 * what is pinned never goes. Which pages are in memory is what the file says (SEEK_DATA,
 * st_blocks).
 *
 * Threads: any, of this process and, without a callback, of its children. System calls: fallocate,
 * lseek, fstat, futex, pidfd_open, poll, open, read, stat, readlink (/proc).
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "libfarfault/volatile/internal.h"

/* What is under the limit whatever it is, beside what threads hold (libfarfault/common/holds.c). */
#define LEAST_PAGES 16
/* Punched at once: a thread that touches the range waits meanwhile. */
#define PIECE (2u << 20)
/* A thread that purges has it claimed for so long, unless it died. */
#define PURGER_MS 1000

static uint64_t *page_word(const FfVolatile *v, size_t i)
{
    return &v->shared->word[i];
}

static uint64_t load_word(const FfVolatile *v, size_t i)
{
    return __atomic_load_n(page_word(v, i), __ATOMIC_ACQUIRE);
}

/* Against all that it does not know: pinned, purged and filled by anybody. */
static bool swap_word(FfVolatile *v, size_t i, uint64_t *was, uint64_t is)
{
    return __atomic_compare_exchange_n(page_word(v, i), was, is, false, __ATOMIC_ACQ_REL,
                                       __ATOMIC_ACQUIRE);
}

/* Only to tell what is older: not a clock, as that takes as long as the rest of unpinning. */
static uint64_t now_ticks(void)
{
    return __builtin_ia32_rdtsc() << FF_PAGE_ABOVE;
}

/* ---- pins ------------------------------------------------------------------------------------ */

static int call_futex(uint64_t *at, int op, uint32_t value, const struct timespec *timeout)
{
    /* The lower half of the word, which has all bits; also of other processes. */
    return (int)syscall(SYS_futex, at, op, value, timeout, NULL, 0);
}

#define PID_BITS 22
#define START_MASK ((1ull << (64 - FF_PAGE_ABOVE - PID_BITS)) - 1)

#define PIDS "/proc/self/ns/pid"
#define TIME "/proc/self/ns/time"

/* 0: not known. */
static uint64_t namespace_of(const char *path)
{
    struct stat st;

    return stat(path, &st) < 0 ? 0 : st.st_ino;
}

/* Is this process in the namespace WAS? What is not known is never the same. */
static bool is_in(const char *path, uint64_t was)
{
    return was && namespace_of(path) == was;
}

/* Do numbers in /proc mean what they mean to this process? */
static bool is_our_proc(void)
{
    char text[32] = "";

    return readlink("/proc/self", text, sizeof(text) - 1) > 0 &&
           g_ascii_strtoull(text, NULL, 10) == (guint64)getpid();
}

/* When PID began, in ticks since the machine did. 0: not known. */
static uint64_t start_of(const FfVolatile *v, pid_t pid)
{
    char path[32], text[1024];
    const char *at;

    if (!is_our_proc() || !is_in(TIME, v->shared->time)) {
        return 0;
    }
    g_snprintf(path, sizeof(path), "/proc/%d/stat", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
    if (fd >= 0) {
        close(fd);
    }
    text[MAX(n, 0)] = '\0';
    at = strrchr(text, ')'); /* of the second field, which can have anything in it */
    for (unsigned field = 2; at && field < 22; field++) {
        at = strchr(at + 1, ' ');
    }
    return at ? g_ascii_strtoull(at, NULL, 10) & START_MASK : 0;
}

/* Its number, and above that when it began, as the next one can have its number. Found out each
 * time: CRIU restores a process with another start. 0: nobody else would find it by its number, or
 * nobody else looks for it, as what has a callback has words of its own in each process. */
static uint64_t this_process(const FfVolatile *v)
{
    return v->regenerate || !is_in(PIDS, v->shared->pids)
               ? 0
               : (uint64_t)getpid() | start_of(v, getpid()) << PID_BITS;
}

/* Also if nobody has waited for it yet. FALSE: or it cannot be found out, as of a live one content
 * that is pinned would go. */
static bool has_ended(const FfVolatile *v, uint64_t process)
{
    pid_t pid = (pid_t)(process & ((1u << PID_BITS) - 1));

    if (!pid || !is_in(PIDS, v->shared->pids)) {
        return false;
    }
    struct pollfd pfd = {.fd = (int)syscall(SYS_pidfd_open, pid, 0), .events = POLLIN};
    bool ended = pfd.fd < 0 ? errno == ESRCH : poll(&pfd, 1, 0) > 0;

    if (pfd.fd >= 0) {
        close(pfd.fd);
    }
    uint64_t began = process >> PID_BITS, now_began = ended || !began ? 0 : start_of(v, pid);
    return ended || (now_began && now_began != began);
}

/* W is being purged: waits until it is not, or was given up. */
static void await_purge(FfVolatile *v, size_t i, uint64_t w)
{
    struct timespec timeout = {.tv_sec = PURGER_MS / 1000};

    if (v->regenerate && v->pid != getpid()) {
        swap_word(v, i, &w, 0); /* a child's own words: nobody purges there */
        return;
    }
    /* A process that is killed tells nobody: what it had claimed may have gone. It may have been
     * many pages, of which only the first one is waited for. */
    uint64_t purger = w >> FF_PAGE_ABOVE;
    if (__atomic_load_n(&v->dead, __ATOMIC_RELAXED) != purger || !has_ended(v, purger)) {
        if (!(w & FF_PAGE_AWAITED) && !swap_word(v, i, &w, w | FF_PAGE_AWAITED)) {
            return;
        }
        w |= FF_PAGE_AWAITED;
        if (call_futex(page_word(v, i), FUTEX_WAIT, (uint32_t)w, &timeout) == 0 ||
            errno != ETIMEDOUT || !has_ended(v, purger)) {
            return;
        }
        __atomic_store_n(&v->dead, purger, __ATOMIC_RELAXED);
    }
    if (swap_word(v, i, &w, v->regenerate ? 0 : FF_PAGE_LOST) && w & FF_PAGE_AWAITED) {
        call_futex(page_word(v, i), FUTEX_WAKE, INT32_MAX, NULL);
    }
}

static bool pin_page(FfVolatile *v, size_t i)
{
    uint64_t w = load_word(v, i);

    for (;;) {
        if (w & FF_PAGE_PURGING) {
            await_purge(v, i, w);
            w = load_word(v, i);
        } else if (swap_word(v, i, &w, FF_PAGE_PINNED)) {
            return w & FF_PAGE_LOST;
        }
    }
}

/* TRUE: it was pinned. */
static bool unpin_page(FfVolatile *v, size_t i, uint64_t when)
{
    uint64_t w = load_word(v, i);

    while (w & FF_PAGE_PINNED) {
        if (swap_word(v, i, &w, when)) {
            return true;
        }
    }
    return false;
}

static int fail_range(const char *call)
{
    ff_fail(-EINVAL, "%s: they are not whole pages of the range", call);
    return -EINVAL; /* here, so that compilers see that find_pages() sets its results when it
                       succeeds */
}

int ff_volatile_fail_child(void)
{
    return ff_fail(-ECHILD, "this is a child of the process whose memory it is");
}

/* Of LEN bytes at OFFSET the pages [*FIRST, *END). */
static int find_pages(const FfVolatile *v, const char *call, size_t offset, size_t len,
                      size_t *first, size_t *end)
{
    if (offset > v->len || len > v->len - offset || (offset | len) & (v->page_size - 1)) {
        return fail_range(call);
    }
    *first = offset >> v->shift;
    *end = len ? *first + (len >> v->shift) : v->n;
    return 0;
}

int ff_volatile_pin(FfVolatile *v, size_t offset, size_t len)
{
    size_t i, end;
    bool lost = false;
    int rc = find_pages(v, "ff_volatile_pin", offset, len, &i, &end);

    if (rc < 0) {
        return rc;
    }
    for (; i < end; i++) {
        lost |= pin_page(v, i);
    }
    return lost ? FF_WAS_PURGED : 0;
}

/* So that memory is looked at after each eighth of the limit, and not each time. */
static void count_unpinned(FfVolatile *v, size_t limit, size_t n)
{
    uint64_t all = __atomic_add_fetch(&v->shared->unpinned, n * v->page_size, __ATOMIC_RELAXED);

    if (all >= limit / 8) {
        __atomic_store_n(&v->shared->unpinned, 0, __ATOMIC_RELAXED);
        ff_volatile_keep_limit(v);
    }
}

int ff_volatile_unpin(FfVolatile *v, size_t offset, size_t len)
{
    size_t i, end, limit, n = 0;
    int rc = find_pages(v, "ff_volatile_unpin", offset, len, &i, &end);

    if (rc < 0) {
        return rc;
    }
    for (uint64_t when = now_ticks(); i < end; i++) {
        n += unpin_page(v, i, when);
    }
    limit = v->regenerate ? 0 : __atomic_load_n(&v->limit, __ATOMIC_RELAXED);
    if (limit && n) {
        count_unpinned(v, limit, n);
    }
    return 0;
}

int ff_volatile_is_pinned(FfVolatile *v, size_t offset, size_t len)
{
    size_t i, end;
    int rc = find_pages(v, "ff_volatile_is_pinned", offset, len, &i, &end);

    if (rc < 0) {
        return rc;
    }
    while (i < end && load_word(v, i) & FF_PAGE_PINNED) {
        i++;
    }
    return i == end;
}

/* ---- purging --------------------------------------------------------------------------------- */

/* Nobody pins it until settle_page(). PROCESS: this_process(). FALSE: it is pinned, or taken
 * already. */
static bool claim_page(FfVolatile *v, size_t i, uint64_t process)
{
    uint64_t w = load_word(v, i);

    while (!(w & (FF_PAGE_PINNED | FF_PAGE_PURGING))) {
        if (swap_word(v, i, &w, FF_PAGE_PURGING | process << FF_PAGE_ABOVE | (w & FF_PAGE_LOST))) {
            return true;
        }
    }
    return false;
}

/* The end of a claim. */
static void settle_page(FfVolatile *v, size_t i, bool gone)
{
    uint64_t w = load_word(v, i), is;

    do {
        is = (w & FF_PAGE_LOST) | (gone && !v->regenerate ? FF_PAGE_LOST : 0);
    } while (!swap_word(v, i, &w, is));
    if (w & FF_PAGE_AWAITED) {
        call_futex(page_word(v, i), FUTEX_WAKE, INT32_MAX, NULL);
    }
}

static int punch_pages(FfVolatile *v, size_t first, size_t n)
{
    int rc;

    do {
        rc = fallocate(v->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                       (off_t)(first << v->shift), (off_t)(n << v->shift));
    } while (rc < 0 && errno == EINTR);
    return rc < 0 ? -errno : 0;
}

/* A thread that waits for PAGE, or was given it just now, needs it, and others with it. */
static bool is_held(FfVolatile *v, size_t page)
{
    bool held = false;

    if (v->holds) {
        pthread_mutex_lock(&v->lock);
        held = ff_holds_has(v->holds, page);
        pthread_mutex_unlock(&v->lock);
    }
    return held;
}

/* Of N pages from FIRST on those that nobody has pinned; HELD: also what a thread holds. SELF:
 * this_process(). Returns how many, or -errno. */
static ssize_t purge_run(FfVolatile *v, size_t first, size_t n, uint64_t self, bool held)
{
    size_t max = MAX(1, PIECE >> v->shift), done = 0;
    int rc = 0;

    for (size_t i = first, run; i < first + n && rc == 0; i += run) {
        for (run = 0; run < max && i + run < first + n && (held || !is_held(v, i + run)) &&
                      claim_page(v, i + run, self);
             run++) {
        }
        if (!run) {
            run = 1;
            continue;
        }
        rc = punch_pages(v, i, run);
        for (size_t k = 0; k < run; k++) {
            settle_page(v, i + k, rc == 0);
        }
        done += rc == 0 ? run : 0;
    }
    __atomic_fetch_add(&v->shared->purged, done, __ATOMIC_RELAXED);
    return rc < 0 ? rc : (ssize_t)done;
}

/* The next pages at or after FROM of which something is in memory (or swapped out). 0: none. */
static size_t next_data(const FfVolatile *v, size_t from, size_t *first)
{
    off_t at = from < v->n ? lseek(v->fd, (off_t)(from << v->shift), SEEK_DATA) : -1;
    off_t end = at < 0 ? -1 : lseek(v->fd, at, SEEK_HOLE);

    if (end <= at) {
        return 0;
    }
    *first = (size_t)at >> v->shift;
    return (((size_t)end - 1) >> v->shift) + 1 - *first;
}

static ssize_t purge_all(FfVolatile *v)
{
    size_t first, done = 0;
    uint64_t self = this_process(v);

    for (size_t at = 0, n; (n = next_data(v, at, &first)); at = first + n) {
        ssize_t some = purge_run(v, first, n, self, true);
        if (some < 0) {
            return some;
        }
        done += (size_t)some;
    }
    return (ssize_t)done;
}

typedef struct {
    uint64_t when;
    size_t page;
} Candidate;

static int by_age(const void *a, const void *b)
{
    const Candidate *x = a, *y = b;

    return x->when != y->when ? (x->when > y->when) - (x->when < y->when)
                              : (x->page > y->page) - (x->page < y->page);
}

static int by_page(const void *a, const void *b)
{
    const Candidate *x = a, *y = b;

    return (x->page > y->page) - (x->page < y->page);
}

typedef struct {
    Candidate *all;
    size_t n, room;
    Candidate few[64]; /* `all`, if there is no memory */
} Candidates;

/* All that can go, or as many as there is memory for. */
static void find_candidates(const FfVolatile *v, Candidates *found)
{
    size_t first;

    found->n = 0;
    found->room = v->n;
    do {
        found->all = g_try_new(Candidate, found->room);
        found->room /= found->all ? 1 : 2;
    } while (!found->all && found->room > G_N_ELEMENTS(found->few));
    if (!found->all) {
        found->all = found->few;
        found->room = G_N_ELEMENTS(found->few);
    }
    for (size_t at = 0, n; (n = next_data(v, at, &first)); at = first + n) {
        for (size_t i = first; i < first + n && found->n < found->room; i++) {
            uint64_t w = load_word(v, i);
            if (!(w & (FF_PAGE_PINNED | FF_PAGE_PURGING))) {
                found->all[found->n++] = (Candidate){w >> FF_PAGE_ABOVE, i};
            }
        }
    }
}

/* The N oldest ones of FOUND, but for those that are HELD if these stay, in order of address: how
 * many there are. */
static size_t choose_oldest(FfVolatile *v, Candidates *found, size_t n, bool held)
{
    Candidate *all = found->all;
    size_t chosen = 0;

    qsort(all, found->n, sizeof(*all), by_age);
    for (size_t i = 0; i < found->n && chosen < n; i++) {
        Candidate c = all[i];
        if (held || !is_held(v, c.page)) {
            all[chosen++] = c;
        }
    }
    qsort(all, chosen, sizeof(*all), by_page);
    return chosen;
}

/* N of FOUND. */
static ssize_t purge_these(FfVolatile *v, Candidates *found, size_t n, bool held)
{
    const Candidate *c = found->all;
    size_t done = 0;
    uint64_t self = this_process(v);

    n = choose_oldest(v, found, n, held);
    for (size_t i = 0, run; i < n; i += run) {
        for (run = 1; i + run < n && c[i + run].page == c[i].page + run; run++) {
        }
        ssize_t some = purge_run(v, c[i].page, run, self, held);
        if (some < 0) {
            return some;
        }
        done += (size_t)some;
    }
    return (ssize_t)done;
}

/* BYTES, or FRACTION of what can go. */
ssize_t ff_volatile_purge_oldest(FfVolatile *v, size_t bytes, unsigned fraction, bool held)
{
    Candidates found;
    find_candidates(v, &found);
    size_t n = fraction ? (found.n + fraction - 1) / fraction
                        : MIN(found.n, bytes / v->page_size + (bytes % v->page_size > 0));
    ssize_t done = purge_these(v, &found, n, held);

    if (found.all != found.few) {
        g_free(found.all);
    }
    return done;
}

/* What could not be regenerated is asked for once more: a poisoned page is no memory, so a hole
 * does not remove it. */
static void forget_failures(FfVolatile *v)
{
    if (!__atomic_load_n(&v->n_poisoned, __ATOMIC_RELAXED)) {
        return;
    }
    pthread_mutex_lock(&v->lock);
    uint64_t first, n;
    for (uint64_t at = 0; (n = ff_bitmap_next_run(&v->poisoned, at, true, &first));
         at = first + n) {
        ff_pool_unmap((uintptr_t)v->map + (first << v->shift), n << v->shift);
        ff_bitmap_clear_run(&v->poisoned, first, n);
    }
    __atomic_store_n(&v->n_poisoned, 0, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&v->lock);
}

ssize_t ff_volatile_purge(FfVolatile *v, size_t bytes)
{
    if (v->pool && v->pid != getpid()) {
        return ff_volatile_fail_child();
    }
    forget_failures(v);
    ssize_t n = bytes >= v->len ? purge_all(v) : ff_volatile_purge_oldest(v, bytes, 0, true);
    return n < 0 ? ff_fail((int)n, "ff_volatile_purge: %s", ff_strerror((int)-n)) : n << v->shift;
}

size_t ff_volatile_used(const FfVolatile *v)
{
    struct stat st;

    return fstat(v->fd, &st) < 0 ? 0 : (size_t)st.st_blocks * 512;
}

void ff_volatile_keep_limit(FfVolatile *v)
{
    size_t limit = __atomic_load_n(&v->limit, __ATOMIC_RELAXED);
    size_t least = MAX(limit, LEAST_PAGES * v->page_size),
           placing = __atomic_load_n(&v->placing, __ATOMIC_SEQ_CST),
           have = limit ? ff_volatile_used(v) + placing : 0;

    if (limit && have > least) {
        if (v->holds) {
            pthread_mutex_lock(&v->lock);
            ff_holds_expire(v->holds);
            pthread_mutex_unlock(&v->lock);
        }
        /* Some more, so that it is not done for each page. */
        ff_volatile_purge_oldest(v, have - least + least / 16, 0, false);
    }
}

int ff_volatile_set_limit(FfVolatile *v, size_t bytes)
{
    if (v->pool && v->pid != getpid()) {
        return ff_volatile_fail_child();
    }
    __atomic_store_n(&v->limit, bytes, __ATOMIC_RELAXED);
    ff_volatile_keep_limit(v);
    return 0;
}

/* Just used: it is not the next one to go. */
void ff_volatile_make_young(FfVolatile *v, size_t page)
{
    uint64_t w = load_word(v, page);

    if (!(w & (FF_PAGE_PINNED | FF_PAGE_PURGING))) {
        swap_word(v, page, &w, now_ticks() | (w & FF_PAGE_LOST));
    }
}

void ff_volatile_init_shared(FfVolatile *v)
{
    v->shared->pids = namespace_of(PIDS);
    v->shared->time = namespace_of(TIME);
    for (size_t i = 0; i < v->n; i++) {
        *page_word(v, i) = FF_PAGE_PINNED;
    }
}
