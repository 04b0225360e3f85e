/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The init program of a guest that does what people's guests do: a database or a compiler
 * (load.h), in place of memwork's pages. It says the same lines (memwork.c), so that
 * scripts/bench reads both; its steps are transactions, or files compiled.
 *
 *   ff.mode=M      database, compile
 *   ff.mib=N       MiB of rows, or of files
 *   ff.threads=N   workers of a compile; default: one per vCPU
 *   ff.report=MS   time between two reports
 *
 * Lines:
 *   FF ready pages=N threads=N fill_ms=N
 *   FF t=S clock_us=N writes=N checks=N bad=N stall_ms=X hist=
 *   FF waits hist=B:N,...          steps of 32 us and longer since key 'w' or the start
 *   FF waits n=N sum_us=X worst_us=X
 *   FF verdict ok|bad checks=N bad=N
 * writes are steps. Keys: 'v' has all looked at, with the workers at rest, and
 * prints the verdict; 'w' says how long steps took; 'f': steps that begin from now on are not among
 * them; 'x' damages one thing, to show that it is found; 'q' powers off.
 *
 * Threads: main reports and reads keys, a worker each works.
 */
#include "load.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

#include "console.h"

enum { MAX_WORKERS = 64 };

static const Load *const loads[] = {&load_database, &load_compile};

static struct {
    const Load *load;
    uint64_t mib, threads, report;
} opt = {.load = &load_database, .mib = 256};

static double ticks_per_us;
/* Only workers add; main reads at any moment. */
static _Atomic uint64_t steps, bad, stall_ticks;
static atomic_bool finished; /* key 'f' */
static pthread_mutex_t waits_lock = PTHREAD_MUTEX_INITIALIZER;
static Durations waits; /* under waits_lock */
/* A worker holds it for each step, main while all is looked at. */
static pthread_rwlock_t at_work;

static double clock_us(void)
{
    return __rdtsc() / ticks_per_us;
}

__attribute__((noreturn)) static void end(int status)
{
    if (getpid() == 1) {
        tcdrain(STDOUT_FILENO);
        reboot(RB_POWER_OFF);
    }
    _exit(status);
}

__attribute__((noreturn)) static void fail(const char *why)
{
    console_line("FF error: %s", why);
    end(2);
}

static void parse_mode(const char *text)
{
    char why[128];

    for (unsigned i = 0; i < sizeof loads / sizeof *loads; i++) {
        if (!strcmp(loads[i]->name, text)) {
            opt.load = loads[i];
            return;
        }
    }
    snprintf(why, sizeof why, "ff.mode=%s is unknown; known: database, compile", text);
    fail(why);
}

static void parse_option(char *word)
{
    char *value = strchr(word, '=');
    if (strncmp(word, "ff.", 3) || !value)
        return;
    *value++ = 0;
    const char *name = word + 3;
    if (!strcmp(name, "mode"))
        parse_mode(value);
    else if (!strcmp(name, "mib"))
        opt.mib = strtoull(value, NULL, 0);
    else if (!strcmp(name, "threads"))
        opt.threads = strtoull(value, NULL, 0);
    else if (!strcmp(name, "report"))
        opt.report = strtoull(value, NULL, 0);
}

static void note_step(uint64_t ticks, bool noted)
{
    uint64_t longest = atomic_load(&stall_ticks);
    while (ticks > longest && !atomic_compare_exchange_weak(&stall_ticks, &longest, ticks))
        ;
    double us = ticks / ticks_per_us;
    if (!noted || !durations_counts(us))
        return;
    pthread_mutex_lock(&waits_lock);
    durations_add(&waits, us);
    pthread_mutex_unlock(&waits_lock);
}

static void *work(void *arg)
{
    unsigned index = (unsigned)(uintptr_t)arg;
    for (;;) {
        pthread_rwlock_rdlock(&at_work);
        bool noted = !atomic_load(&finished);
        uint64_t began = __rdtsc();
        atomic_fetch_add(&bad, opt.load->step(index));
        note_step(__rdtsc() - began, noted);
        atomic_fetch_add(&steps, 1);
        pthread_rwlock_unlock(&at_work);
    }
    return NULL;
}

static void report(double seconds)
{
    double stall_ms = atomic_exchange(&stall_ticks, 0) / ticks_per_us / 1e3;
    uint64_t n = atomic_load(&steps);
    console_line(
        "FF t=%g clock_us=%.0f writes=%llu checks=0 passes=0 bad=%llu stall_ms=%.2f hist=", seconds,
        clock_us(), (unsigned long long)n, (unsigned long long)atomic_load(&bad), stall_ms);
}

static void say_waits(void)
{
    Durations all;
    pthread_mutex_lock(&waits_lock);
    all = waits;
    waits = (Durations){0};
    pthread_mutex_unlock(&waits_lock);
    console_durations(&all);
    console_line("FF waits n=%llu sum_us=%.1f worst_us=%.1f", (unsigned long long)all.n, all.sum_us,
                 all.worst_us);
    atomic_store(&finished, false);
}

static void verdict(void)
{
    pthread_rwlock_wrlock(&at_work);
    atomic_fetch_add(&bad, opt.load->verify());
    pthread_rwlock_unlock(&at_work);
    uint64_t wrong = atomic_load(&bad);
    console_line("FF verdict %s checks=%llu bad=%llu", wrong ? "bad" : "ok",
                 (unsigned long long)atomic_load(&steps), (unsigned long long)wrong);
}

static void damage(void)
{
    pthread_rwlock_wrlock(&at_work);
    opt.load->damage();
    pthread_rwlock_unlock(&at_work);
}

static void serve_key(char key)
{
    if (key == 'v')
        verdict();
    else if (key == 'w')
        say_waits();
    else if (key == 'f')
        atomic_store(&finished, true);
    else if (key == 'q')
        end(0);
    else if (key == 'x')
        damage();
}

/* Main is not kept from the lock by workers that take it again at once. */
static void init_lock(void)
{
    pthread_rwlockattr_t attr;
    pthread_rwlockattr_init(&attr);
    pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    pthread_rwlock_init(&at_work, &attr);
}

int main(int argc, char **argv)
{
    if (getpid() == 1) {
        console_begin(parse_option);
        mkdir("/data", 0755);
        /* The root has half of the memory at most. */
        if (mount("tmpfs", "/data", "tmpfs", 0, "size=95%"))
            fail("no tmpfs");
    }
    for (int i = 1; i < argc; i++)
        parse_option(argv[i]);
    if (!opt.threads)
        opt.threads = sysconf(_SC_NPROCESSORS_ONLN);
    if (opt.threads > MAX_WORKERS || opt.load == &load_database)
        opt.threads = opt.load == &load_database ? 1 : MAX_WORKERS;
    if (getpid() == 1 && chdir("/data"))
        fail("no /data");
    if (!opt.mib)
        fail("ff.mib= is no number of MiB");
    double start = console_now_us();
    uint64_t ticks = __rdtsc();
    const char *error = opt.load->prepare(opt.mib);
    if (error)
        fail(error);
    double took = console_now_us() - start;
    ticks_per_us = (__rdtsc() - ticks) / took;
    init_lock();
    console_line("FF ready pages=%llu threads=%llu fill_ms=%.0f", (unsigned long long)opt.mib << 8,
                 (unsigned long long)opt.threads, took / 1e3);
    for (unsigned i = 0; i < opt.threads; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, work, (void *)(uintptr_t)i))
            fail("no thread for a worker");
    }
    console_serve(opt.report ? opt.report : opt.load->report_ms, report, serve_key);
}
