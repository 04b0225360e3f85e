/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The init program of the test guest: keeps its memory busy, and knows what every page of it
 * must contain.
 *
 * ff.mib= MiB are filled with a pattern made from seed, page number and version. Then one worker
 * thread per vCPU rewrites and checks pages for ever; the version that each page must show is
 * kept beside the pages, in guest memory too. A page is owned by one worker (number modulo
 * workers), so neighbours are written from different vCPUs and no lock is needed. Before a page
 * is rewritten its old content is checked, word by word; the other checks walk over all pages.
 *
 * Parameters, from the kernel command line (as process 1) or from the arguments:
 *
 *   ff.mib=N       MiB to use; default: what is free, less 48
 *
 *   ff.hot=N       MiB that are rewritten; default: all
 *
 *   ff.mode=M      which page is rewritten next: random, seq, zipf; core: 63 of 64 times one of
 *                  those of a core
 *
 *   ff.core=N      MiB of that core, whose pages lie scattered over the others; default 64
 *
 *   ff.write=N     percentage of operations that rewrite a page; default 50
 *
 *   ff.seed=N      of the pattern and of the choice of pages
 *
 *   ff.alike=N     each word of a page stands there 2^N times; 0 to 8; default 0, which does not
 *                  compress
 *
 *   ff.threads=N   default: one per vCPU
 *
 *   ff.store=1     hist counts writes: see below
 *
 *   ff.disk=1      as process 1: keep /dev/vda busy, too; see iowork.h
 *
 *   ff.net=PORT    as process 1: and a TCP connection
 *
 *   ff.frames=N    as process 1: and frames that come back, N of them at a time; see frames.h
 *
 *   ff.ways=N      by so many pairs of queues, 1 or 2
 *
 *   ff.direct=MIB  as process 1: and read /dev/vda into so much memory; see directio.h
 *
 *   ff.extra=MIB   memory that key 'm' takes; see extra.h. As process 1: and a balloon is served
 *
 *   ff.nested=1    as process 1: key 'n' begins a virtual machine of its own; see nested.h
 *
 *   ff.agent=1     as process 1: QEMU's guest agent; see ga.h
 *
 *   ff.report=MS   time between two reports; default 1000
 *
 * Lines on the console, one for each report and all numbers since the start, but stall_ms:
 *   FF ready pages=N threads=N fill_ms=N
 *   FF t=S clock_us=N writes=N checks=N passes=N bad=N stall_ms=X max_ms=X hist=B:N,...
 *   FF io disk=N net=N bad=N               with ff.disk= or ff.net=
 *   FF frames good=N lost=N bad=N          with ff.frames=
 *   FF direct reads=N bad=N                with ff.direct=
 *   FF nested exits=N bad=N                while the guest has one of its own
 *   FF bad page=N ...                      the first ten wrong pages
 *   FF extra taken|given back|refused mib=N
 *   FF nested begun|ended|refused: why
 *   FF waits hist=B:N,...                  any number of them, with buckets of durations.h;
 *   FF longest us=X end_us=X touch_us=X frame=N worker=N       ten at most, the longest first;
 *   FF waits n=N sum_us=X worst_us=X       the end of what key 'w' asks for
 *   FF verdict ok|bad pages=N checks=N writes=N bad=N
 * t is when the line was due; clock_us is the guest's own time at which the numbers were read, by
 * its processor's counter. stall_ms is the longest time a worker needed for one step since the last
 * line, max_ms since the start. hist counts the first touch of a page per step: B:N means N touches
 * of [2^B, 2^(B+1)) microseconds, B = 0 also those below. A touch is a read; with ff.store= only
 * pages that are about to be rewritten are counted, and the touch is one word read and stored
 * again: it ends when the page has been written to.
 *
 * Keys on the console: 'v' has every page checked, then prints the verdict and continues; 'q' the
 * same, then powers off; 'x' damages one word of a page, to show that it is found; 'm' takes the
 * memory of ff.extra=, which 'x' then damages, and gives it back the next time; 'n' begins a
 * guest of its own, and ends it the next time; '0' to '9' each have the pages chosen again, so that
 * a guest that is restored often does not do the same each time; 'w' says how long each touch took
 * of those of 32 us and longer, since it was last asked, and which steps were the longest: how long
 * each took, when it ended (as clock_us), and the page it touched, by its number in the guest's
 * physical memory (0: not known), and for how long. 'f': steps that begin from now on are not among
 * them, until they were said; one that is under way is, to its end.
 *
 * Threads: main reports and reads keys; workers never print more than a bad page.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/reboot.h>
#include <sys/sysinfo.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

#include "console.h"
#include "directio.h"
#include "durations.h"
#include "extra.h"
#include "frames.h"
#include "ga.h"
#include "iowork.h"
#include "nested.h"

enum {
    PAGE = 4096,
    WORDS = PAGE / 8,
    BUCKETS = 32,
    MAX_THREADS = 64,
    MAX_BAD_LINES = 10,
    LONGEST = 10,
    MAX_READ_US = 1000, /* what reading all counters may take */
    MAX_READS = 5,
    RESERVED_MIB = 48,   /* left to the kernel when ff.mib is not given */
    CLOCK_STEPS = 1 << 6 /* steps between two looks at the request for a verdict */
};

typedef enum { MODE_RANDOM, MODE_SEQ, MODE_ZIPF, MODE_CORE } Mode;

static struct {
    uint64_t mib, hot, core;
    Mode mode;
    unsigned write_percent;
    uint64_t seed;
    unsigned alike;
    unsigned threads;
    bool store;
    bool disk;
    unsigned port;   /* 0: no network */
    unsigned frames; /* 0: none */
    unsigned ways;   /* of the frames */
    unsigned direct; /* MiB; 0: no reads past the page cache */
    unsigned extra;  /* MiB */
    bool nested, agent;
    uint64_t report; /* ms */
} opt = {.write_percent = 50, .seed = 1, .core = 64, .ways = 1, .report = 1000};

typedef struct {
    double us, end_us, touch_us;
    uint64_t page;
    unsigned worker;
} Step;

typedef struct {
    _Alignas(64) pthread_t thread;
    unsigned index;
    uint64_t rng;
    uint64_t n_own, n_hot;       /* pages of this worker: all, and those it rewrites */
    uint64_t write_at, check_at; /* cursors, in own pages */
    /* Read by main at any moment; only this worker adds (stall: main swaps in 0). */
    _Atomic uint64_t writes, checks, passes, bad, stall, hist[BUCKETS];
    _Atomic unsigned verified; /* the last request for a verdict that it has served */
    uint64_t choice;           /* the last one of choice_request that it has served */
    /* Of the step under way. */
    bool noted;     /* it and its touch are, if they take long */
    uint64_t began; /* by the processor's counter */
    uint64_t touched;
    double touch_us;
    pthread_mutex_t waits_lock;
    /* Under waits_lock, until main takes them. */
    Durations waits;       /* touches */
    Step longest[LONGEST]; /* in no order; .us is 0 where there is none */
} Worker;

static uint64_t (*pages)[WORDS];
static uint32_t *version; /* of each page; stored only by the page's owner */
static uint64_t n_pages;
static Worker workers[MAX_THREADS];
static double ticks_per_us;
static _Atomic unsigned verdict_request, bad_lines;
static _Atomic uint64_t damage_request; /* page number + 1; 0 = none */
static _Atomic uint64_t choice_request; /* the key '0' to '9'; 0 = none. All workers look at it */
static atomic_bool finished;            /* key 'f': workers note no steps that begin then */
static pthread_barrier_t filled;
static pthread_mutex_t verified_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t verified_cond = PTHREAD_COND_INITIALIZER;

/* The disk first: the kernel would take it away from threads that use it, which may last. */
static void end(int status)
{
    if (getpid() == 1) {
        frames_stop();
        direct_stop();
        io_stop_disk();
        tcdrain(STDOUT_FILENO);
        reboot(RB_POWER_OFF);
    }
    _exit(status);
}

static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static uint64_t next_random(Worker *w)
{
    w->rng += 0x9e3779b97f4a7c15u;
    return mix(w->rng);
}

/* The guest's own clock: in a guest that is stopped it stands still. Needs ticks_per_us. */
static double clock_us(void)
{
    return __rdtsc() / ticks_per_us;
}

/* Word 0 names the page, word 1 the version, the others depend on both. */
static uint64_t word_of(uint64_t key, unsigned i)
{
    return key + (i >> opt.alike) * 0x9e3779b97f4a7c15u;
}

static uint64_t pattern_key(uint64_t page, uint32_t v)
{
    return mix(mix(opt.seed + page) + v);
}

static void fill_page(uint64_t page, uint32_t v)
{
    uint64_t *word = pages[page], key = pattern_key(page, v);
    word[0] = page ^ opt.seed;
    word[1] = v;
    for (unsigned i = 2; i < WORDS; i++)
        word[i] = word_of(key, i);
}

/* Returns the first wrong word's index, or WORDS if the page is as it must be. */
static unsigned wrong_word(uint64_t page, uint32_t v)
{
    const uint64_t *word = pages[page];
    uint64_t key = pattern_key(page, v), wrong = 0;
    for (unsigned i = 2; i < WORDS; i++)
        wrong |= word[i] ^ word_of(key, i);
    if (word[0] == (page ^ opt.seed) && word[1] == v && !wrong)
        return WORDS;
    for (unsigned i = 2; i < WORDS; i++)
        if (word[i] != word_of(key, i))
            return i;
    return word[0] != (page ^ opt.seed) ? 0 : 1;
}

static void report_bad(uint64_t page, unsigned at)
{
    if (atomic_fetch_add(&bad_lines, 1) >= MAX_BAD_LINES)
        return;
    const uint64_t *word = pages[page];
    unsigned zeros = 0;
    for (unsigned i = 0; i < WORDS; i++)
        zeros += word[i] == 0;
    console_line(
        "FF bad page=%llu address=%#llx expected_version=%u found_version=%llu first_wrong_word=%u"
        " zero_words=%u",
        (unsigned long long)page, (unsigned long long)(uintptr_t)word, version[page],
        (unsigned long long)word[1], at, zeros);
}

/* Checks one page. A wrong one is counted once: it gets a new version and a right content. */
static void check_page(Worker *w, uint64_t page)
{
    unsigned at = wrong_word(page, version[page]);
    atomic_fetch_add_explicit(&w->checks, 1, memory_order_relaxed);
    if (at == WORDS)
        return;
    report_bad(page, at);
    atomic_fetch_add_explicit(&w->bad, 1, memory_order_relaxed);
    fill_page(page, ++version[page]);
}

static uint64_t own_page(const Worker *w, uint64_t i)
{
    return i * opt.threads + w->index;
}

/* The multiplication by a prime above any N spreads neighbours over the pages. */
static uint64_t scatter(uint64_t i, uint64_t n)
{
    return i * 2654435761u % n;
}

/* Ranks follow Zipf's law with exponent 1: each power of two of ranks is equally likely. */
static uint64_t zipf(Worker *w, uint64_t n)
{
    unsigned octaves = 64 - __builtin_clzll(n);
    uint64_t rank;
    do {
        uint64_t r = next_random(w);
        unsigned octave = (r >> 48) % octaves;
        rank = (1ull << octave) + (r & ((1ull << octave) - 1));
    } while (rank > n);
    return scatter(rank - 1, n);
}

static uint64_t core(Worker *w, uint64_t n)
{
    uint64_t r = next_random(w), own = (opt.core << 20) / PAGE / opt.threads;

    return r >> 58 && own && own < n ? scatter((r & UINT32_MAX) % own, n) : r % n;
}

static uint64_t choose_page(Worker *w)
{
    switch (opt.mode) {
    case MODE_SEQ:
        w->write_at = w->write_at + 1 < w->n_hot ? w->write_at + 1 : 0;
        return own_page(w, w->write_at);
    case MODE_ZIPF:
        return own_page(w, zipf(w, w->n_hot));
    case MODE_CORE:
        return own_page(w, core(w, w->n_hot));
    default:
        return own_page(w, next_random(w) % w->n_hot);
    }
}

static unsigned bucket(double us)
{
    uint64_t n = us < 1 ? 1 : (uint64_t)us;
    unsigned b = 63 - __builtin_clzll(n);
    return b < BUCKETS ? b : BUCKETS - 1;
}

static void note_wait(Worker *w, double us)
{
    pthread_mutex_lock(&w->waits_lock);
    durations_add(&w->waits, us);
    pthread_mutex_unlock(&w->waits_lock);
}

/* STEP in place of the shortest of LIST. */
static void keep_longest(Step *list, const Step *step)
{
    Step *least = list;
    for (unsigned i = 1; i < LONGEST; i++)
        least = list[i].us < least->us ? &list[i] : least;
    if (step->us > least->us)
        *least = *step;
}

static void note_step(Worker *w, double us, double end_us)
{
    const Step step = {us, end_us, w->touch_us, w->touched, w->index};
    pthread_mutex_lock(&w->waits_lock);
    keep_longest(w->longest, &step);
    pthread_mutex_unlock(&w->waits_lock);
}

/* The first access to a page in a step, timed: what a missing page costs the guest, or one that is
 * protected against writes. */
static void touch(Worker *w, uint64_t page, bool rewrite)
{
    volatile uint64_t *word = pages[page];
    uint64_t before = __rdtsc();
    uint64_t first = word[0];
    if (opt.store && rewrite)
        word[0] = first;
    double us = (__rdtsc() - before) / ticks_per_us;
    w->touched = page;
    w->touch_us = us;
    if (opt.store && !rewrite)
        return;
    atomic_fetch_add_explicit(&w->hist[bucket(us)], 1, memory_order_relaxed);
    if (w->noted && durations_counts(us))
        note_wait(w, us);
}

static void note_stall(Worker *w, uint64_t ticks)
{
    uint64_t old = atomic_load_explicit(&w->stall, memory_order_relaxed);
    while (ticks > old && !atomic_compare_exchange_weak(&w->stall, &old, ticks))
        ;
}

static void step(Worker *w)
{
    uint64_t page;
    bool rewrite = (next_random(w) >> 32) % 100 < opt.write_percent;
    if (rewrite) {
        page = choose_page(w);
    } else {
        page = own_page(w, w->check_at);
        if (++w->check_at == w->n_own) {
            w->check_at = 0;
            atomic_fetch_add_explicit(&w->passes, 1, memory_order_relaxed);
        }
    }
    touch(w, page, rewrite);
    check_page(w, page);
    if (!rewrite)
        return;
    fill_page(page, ++version[page]);
    atomic_fetch_add_explicit(&w->writes, 1, memory_order_relaxed);
}

/* Whether it is noted is decided when it begins, before the clock is read: a worker that stands
 * still in a step and learns of 'f' when it continues has the step all the same. */
static void begin_step(Worker *w)
{
    w->noted = !atomic_load_explicit(&finished, memory_order_acquire);
    w->began = __rdtsc();
}

/* The next one has begun then: each moment belongs to a step. */
static void end_step(Worker *w)
{
    bool noted = w->noted;
    uint64_t began = w->began;
    begin_step(w);
    note_stall(w, w->began - began);
    double us = (w->began - began) / ticks_per_us;
    if (noted && durations_counts(us))
        note_step(w, us, w->began / ticks_per_us);
}

static void serve_requests(Worker *w)
{
    uint64_t damage = atomic_load(&damage_request);
    if (damage && (damage - 1) % opt.threads == w->index) {
        pages[damage - 1][WORDS / 2] ^= 1;
        atomic_store(&damage_request, 0);
    }
    uint64_t choice = atomic_load(&choice_request);
    if (choice != w->choice) {
        w->choice = choice;
        w->rng = mix(mix(opt.seed) + choice) + w->index;
    }
    unsigned request = atomic_load(&verdict_request);
    if (request == atomic_load(&w->verified))
        return;
    for (uint64_t i = 0; i < w->n_own; i++)
        check_page(w, own_page(w, i));
    pthread_mutex_lock(&verified_lock);
    atomic_store(&w->verified, request);
    pthread_cond_broadcast(&verified_cond);
    pthread_mutex_unlock(&verified_lock);
    begin_step(w); /* all of its pages are no step */
}

static void *work(void *arg)
{
    Worker *w = arg;
    cpu_set_t cpu;
    CPU_ZERO(&cpu);
    CPU_SET(w->index, &cpu);
    /* Where there are fewer processors than threads this fails, and nothing is lost. */
    pthread_setaffinity_np(pthread_self(), sizeof cpu, &cpu);

    for (uint64_t i = 0; i < w->n_own; i++)
        fill_page(own_page(w, i), 0);
    pthread_barrier_wait(&filled); /* all pages stand */
    pthread_barrier_wait(&filled); /* main has calibrated the clock and said so */

    begin_step(w);
    for (unsigned n = 0;; n++) {
        step(w);
        end_step(w);
        if (n % CLOCK_STEPS == 0)
            serve_requests(w);
    }
    return NULL;
}

typedef struct {
    uint64_t writes, checks, passes, bad, stall, hist[BUCKETS];
} Sums;

/* Adds up all workers; the longest stall is taken away from them. */
static Sums sum_up(void)
{
    Sums s = {.passes = UINT64_MAX};
    for (unsigned i = 0; i < opt.threads; i++) {
        Worker *w = &workers[i];
        uint64_t stall = atomic_exchange(&w->stall, 0);
        s.writes += atomic_load(&w->writes);
        s.checks += atomic_load(&w->checks);
        s.bad += atomic_load(&w->bad);
        if (atomic_load(&w->passes) < s.passes)
            s.passes = atomic_load(&w->passes);
        if (stall > s.stall)
            s.stall = stall;
        for (unsigned b = 0; b < BUCKETS; b++)
            s.hist[b] += atomic_load(&w->hist[b]);
    }
    return s;
}

/* With the moment at which they were read. Where that took long (one of their pages was missing)
 * they are read again. */
static Sums sum_at(double *at_us)
{
    uint64_t stall = 0;
    for (unsigned tries = 1;; tries++) {
        double begin = clock_us();
        Sums s = sum_up();
        *at_us = clock_us();
        stall = s.stall > stall ? s.stall : stall;
        if (*at_us - begin < MAX_READ_US || tries == MAX_READS) {
            s.stall = stall;
            return s;
        }
    }
}

static void report(double seconds)
{
    static double max_ms;
    double at_us;
    Sums s = sum_at(&at_us);
    double stall_ms = s.stall / ticks_per_us / 1e3;
    char hist[BUCKETS * 24] = "", *p = hist;
    for (unsigned b = 0; b < BUCKETS; b++)
        if (s.hist[b])
            p += sprintf(p, "%s%u:%llu", p == hist ? "" : ",", b, (unsigned long long)s.hist[b]);
    if (stall_ms > max_ms)
        max_ms = stall_ms;
    console_line("FF t=%g clock_us=%.0f writes=%llu checks=%llu passes=%llu bad=%llu stall_ms=%.2f "
                 "max_ms=%.2f hist=%s",
                 seconds, at_us, (unsigned long long)s.writes, (unsigned long long)s.checks,
                 (unsigned long long)s.passes, (unsigned long long)s.bad, stall_ms, max_ms, hist);
    if (opt.disk || opt.port) {
        IoCounts io = io_counts();
        console_line("FF io disk=%llu net=%llu bad=%llu", (unsigned long long)io.disk,
                     (unsigned long long)io.net, (unsigned long long)io.bad);
    }
    if (nested_runs()) {
        NestedCounts nested = nested_counts();
        console_line("FF nested exits=%llu bad=%llu", (unsigned long long)nested.exits,
                     (unsigned long long)nested.bad);
    }
    if (opt.frames) {
        FramesCounts frames = frames_counts();
        console_line("FF frames good=%llu lost=%llu bad=%llu", (unsigned long long)frames.good,
                     (unsigned long long)frames.lost, (unsigned long long)frames.bad);
    }
    if (opt.direct) {
        DirectCounts direct = direct_counts();
        console_line("FF direct reads=%llu bad=%llu", (unsigned long long)direct.reads,
                     (unsigned long long)direct.bad);
    }
}

/* Has every page checked by its owner, then says how all checks so far came out. */
static bool verdict(void)
{
    unsigned request = atomic_fetch_add(&verdict_request, 1) + 1;
    pthread_mutex_lock(&verified_lock);
    for (unsigned i = 0; i < opt.threads; i++)
        while (atomic_load(&workers[i].verified) != request)
            pthread_cond_wait(&verified_cond, &verified_lock);
    pthread_mutex_unlock(&verified_lock);
    direct_verify();
    uint64_t writes = 0, checks = 0;
    uint64_t bad = io_counts().bad + frames_counts().bad + direct_counts().bad +
                   nested_counts().bad + extra_verify();
    for (unsigned i = 0; i < opt.threads; i++) {
        writes += atomic_load(&workers[i].writes);
        checks += atomic_load(&workers[i].checks);
        bad += atomic_load(&workers[i].bad);
    }
    console_line("FF verdict %s pages=%llu checks=%llu writes=%llu bad=%llu%s%s",
                 bad ? "bad" : "ok", (unsigned long long)n_pages, (unsigned long long)checks,
                 (unsigned long long)writes, (unsigned long long)bad, opt.frames ? " frame=" : "",
                 opt.frames ? frames_first_bad() : "");
    return bad == 0;
}

/* Those of all workers, which begin again. */
static void take_waits(Durations *all, Step *longest)
{
    *all = (Durations){0};
    for (unsigned i = 0; i < opt.threads; i++) {
        Worker *w = &workers[i];
        pthread_mutex_lock(&w->waits_lock);
        durations_merge(all, &w->waits);
        for (unsigned k = 0; k < LONGEST; k++)
            keep_longest(longest, &w->longest[k]);
        w->waits = (Durations){0};
        memset(w->longest, 0, sizeof w->longest);
        pthread_mutex_unlock(&w->waits_lock);
    }
}

/* Of page PAGE of ours, in the guest's physical memory; 0: it is not said. */
static uint64_t frame_of(uint64_t page)
{
    static int fd = -1;
    uint64_t entry = 0;
    if (fd < 0)
        fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    if (pread(fd, &entry, sizeof entry, (uintptr_t)pages[page] / PAGE * sizeof entry) !=
            sizeof entry ||
        !(entry >> 63))
        return 0;
    return entry & ((1ull << 55) - 1);
}

static int by_length(const void *a, const void *b)
{
    double x = ((const Step *)a)->us, y = ((const Step *)b)->us;
    return (x < y) - (x > y);
}

static void say_waits(void)
{
    static Durations all;
    Step longest[LONGEST] = {0};
    take_waits(&all, longest);
    console_durations(&all);
    qsort(longest, LONGEST, sizeof *longest, by_length);
    for (unsigned i = 0; i < LONGEST && longest[i].us > 0; i++)
        console_line("FF longest us=%.1f end_us=%.1f touch_us=%.1f frame=%llu worker=%u",
                     longest[i].us, longest[i].end_us, longest[i].touch_us,
                     (unsigned long long)frame_of(longest[i].page), longest[i].worker);
    console_line("FF waits n=%llu sum_us=%.1f worst_us=%.1f", (unsigned long long)all.n, all.sum_us,
                 all.worst_us);
    atomic_store(&finished, false);
}

static void take_or_give_back(void)
{
    const char *what = "refused";
    if (extra_taken()) {
        extra_give_back();
        what = "given back";
    } else if (opt.extra && extra_take(opt.extra)) {
        what = "taken";
    }
    console_line("FF extra %s mib=%u", what, opt.extra);
}

static void begin_or_end_nested(void)
{
    const char *error = NULL;
    bool end = nested_runs();
    if (end)
        nested_end();
    else
        error = opt.nested ? nested_begin() : "no ff.nested=1";
    console_line("FF nested %s%s",
                 error ? "refused: "
                 : end ? "ended"
                       : "begun",
                 error ? error : "");
}

static void serve_key(char key)
{
    if (key == 'v')
        verdict();
    else if (key == 'x' && extra_taken())
        extra_damage();
    else if (key == 'x')
        atomic_store(&damage_request, n_pages / 2 + 1);
    else if (key == 'm')
        take_or_give_back();
    else if (key == 'n')
        begin_or_end_nested();
    else if (key == 'w')
        say_waits();
    else if (key == 'f')
        atomic_store(&finished, true);
    else if (key >= '0' && key <= '9')
        atomic_store(&choice_request, (uint64_t)key);
    else if (key == 'q')
        end(verdict() ? 0 : 1);
}

static void parse_mode(const char *text)
{
    static const char *const names[] = {
        [MODE_RANDOM] = "random",
        [MODE_SEQ] = "seq",
        [MODE_ZIPF] = "zipf",
        [MODE_CORE] = "core",
    };
    for (unsigned i = 0; i < sizeof names / sizeof *names; i++) {
        if (!strcmp(text, names[i])) {
            opt.mode = i;
            return;
        }
    }
    console_line("FF error: ff.mode=%s is unknown; known: random, seq, zipf, core", text);
    end(2);
}

static void parse_option(char *word)
{
    char *value = strchr(word, '=');
    if (strncmp(word, "ff.", 3) || !value)
        return;
    *value++ = 0;
    const char *name = word + 3;
    if (!strcmp(name, "mode")) {
        parse_mode(value);
        return;
    }
    char *rest;
    uint64_t n = strtoull(value, &rest, 0);
    if (rest == value || *rest) {
        console_line("FF error: ff.%s=%s is not a number", name, value);
        end(2);
    }
    if (!strcmp(name, "mib"))
        opt.mib = n;
    else if (!strcmp(name, "hot"))
        opt.hot = n;
    else if (!strcmp(name, "core"))
        opt.core = n;
    else if (!strcmp(name, "write"))
        opt.write_percent = n > 100 ? 100 : n;
    else if (!strcmp(name, "seed"))
        opt.seed = n;
    else if (!strcmp(name, "alike"))
        opt.alike = n > 8 ? 8 : n;
    else if (!strcmp(name, "threads"))
        opt.threads = n;
    else if (!strcmp(name, "store"))
        opt.store = n;
    else if (!strcmp(name, "disk"))
        opt.disk = n;
    else if (!strcmp(name, "net"))
        opt.port = n;
    else if (!strcmp(name, "frames"))
        opt.frames = n;
    else if (!strcmp(name, "ways"))
        opt.ways = n;
    else if (!strcmp(name, "direct"))
        opt.direct = n;
    else if (!strcmp(name, "extra"))
        opt.extra = n;
    else if (!strcmp(name, "nested"))
        opt.nested = n;
    else if (!strcmp(name, "agent"))
        opt.agent = n;
    else if (!strcmp(name, "report"))
        opt.report = n ? n : 1;
    else
        console_line("FF warning: ff.%s is unknown", name);
}

static void settle_sizes(void)
{
    struct sysinfo info;
    sysinfo(&info);
    uint64_t free_mib = ((uint64_t)info.freeram * info.mem_unit) >> 20;
    if (!opt.mib)
        opt.mib = free_mib > 2 * RESERVED_MIB ? free_mib - RESERVED_MIB : free_mib / 2;
    if (!opt.threads)
        opt.threads = sysconf(_SC_NPROCESSORS_ONLN);
    if (opt.threads > MAX_THREADS)
        opt.threads = MAX_THREADS;
    if (!opt.hot || opt.hot > opt.mib)
        opt.hot = opt.mib;
    if (!opt.mib || opt.mib >= free_mib) {
        console_line("FF error: ff.mib=%llu does not fit into the %llu MiB that are free",
                     (unsigned long long)opt.mib, (unsigned long long)free_mib);
        end(2);
    }
    n_pages = opt.mib << 8;
}

static void start_workers(void)
{
    uint64_t hot = opt.hot << 8;
    pthread_barrier_init(&filled, NULL, opt.threads + 1);
    for (unsigned i = 0; i < opt.threads; i++) {
        Worker *w = &workers[i];
        w->index = i;
        w->rng = mix(opt.seed) + i;
        pthread_mutex_init(&w->waits_lock, NULL);
        w->n_own = (n_pages - i + opt.threads - 1) / opt.threads;
        w->n_hot = (hot - i + opt.threads - 1) / opt.threads;
        if (pthread_create(&w->thread, NULL, work, w)) {
            console_line("FF error: no thread for worker %u", i);
            end(2);
        }
    }
}

int main(int argc, char **argv)
{
    if (getpid() == 1)
        console_begin(parse_option);
    for (int i = 1; i < argc; i++)
        parse_option(argv[i]);
    if (getpid() == 1 && opt.nested)
        nested_load_modules();
    settle_sizes();
    pages = mmap(NULL, n_pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    version = mmap(NULL, n_pages * sizeof *version, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED || version == MAP_FAILED) {
        console_line("FF error: mmap of %llu MiB: %s", (unsigned long long)opt.mib,
                     strerror(errno));
        end(2);
    }
    double start = console_now_us();
    uint64_t ticks = __rdtsc();
    start_workers();
    pthread_barrier_wait(&filled);
    double took = console_now_us() - start;
    /* Filling takes milliseconds at least: long enough to know the counter's rate. A guest's own
     * clock would need an exit to QEMU for each reading where the kernel distrusts the TSC. */
    ticks_per_us = (__rdtsc() - ticks) / took;
    console_line("FF ready pages=%llu threads=%u fill_ms=%.0f", (unsigned long long)n_pages,
                 opt.threads, took / 1e3);
    pthread_barrier_wait(&filled);
    if (getpid() == 1 &&
        (opt.disk || opt.port || opt.frames || opt.direct || opt.extra || opt.agent))
        io_load_modules();
    const char *error = opt.direct ? direct_start(opt.direct) : NULL;
    error = error ? error : io_start(opt.disk, opt.port);
    error = error || !opt.frames ? error : frames_start(opt.frames, opt.ways);
    error = error || !opt.agent ? error : ga_start();
    if (error) {
        console_line("FF error: %s", error);
        end(2);
    }
    console_serve(opt.report, report, serve_key);
}
