/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One QEMU of the bench, and what its guest says of itself: on the serial console, or by another
 * voice (sampled.h).
 *
 * Everything runs on the GLib main loop of the default context, one thread: the guest is heard
 * while a migration is driven on the same loop.
 */
#ifndef FF_BENCH_GUEST_H
#define FF_BENCH_GUEST_H

#include <gio/gio.h>
#include <stdbool.h>
#include <stdint.h>

#include "tests/guest/durations.h"

#define BENCH_BUCKETS 32

/* One line of the guest's report; counts since its start but .stall_ms. */
typedef struct {
    uint64_t writes, checks, bad;
    double clock_us;              /* of the guest, when it read the others */
    double stall_ms;              /* longest step since the line before */
    uint64_t hist[BENCH_BUCKETS]; /* first touches of a page, by powers of two of us */
} BenchReport;

/* Its work so far, by a report. */
typedef struct {
    int64_t us; /* the host's monotonic clock, when it came */
    uint64_t steps;
    double own_us; /* the guest's clock, when it was made: a guest that waits says it late */
} BenchPoint;

#define BENCH_LONGEST 10

/* One of the guest's longest steps. */
typedef struct {
    double us, end_us; /* by its clock, as BenchPoint.own_us */
    double touch_us;   /* of it, the first touch of its page */
    uint64_t frame;    /* the page, in the guest's physical memory; 0: not known */
    unsigned worker;   /* its vCPU */
} BenchStep;

/* Of threads of a guest's QEMU. */
typedef struct {
    double seconds; /* of processor time */
    double faults;  /* minor page faults */
} BenchThreads;

typedef struct BenchGuest BenchGuest;

/* How a guest says what is asked of it. Each FALSE has an ERROR. */
typedef struct {
    bool (*open)(BenchGuest *guest, const void *config, GError **error); /* its monitor is there */
    void (*close)(BenchGuest *guest);                                    /* QEMU has ended */
    bool (*end_waits)(BenchGuest *guest, GError **error);
    bool (*take_waits)(BenchGuest *guest, GError **error); /* .waits_whole, now or later */
    bool (*judge)(BenchGuest *guest, GError **error);      /* .verdict, the same */
    bool stands; /* what it calls its clock stands still while nobody runs it */
} BenchVoice;

struct BenchGuest {
    GSubprocess *process;
    GArray *relays; /* pid_t; see bench_guest_note_relays() */
    GArray *others; /* pid_t, of the children that the bench had before */
    const BenchVoice *voice;
    void *own; /* the voice's */
    GDataInputStream *lines;
    GCancellable *cancel;
    BenchGuest *before; /* see bench_guest_follow() */
    char *qmp;          /* path of its monitor */
    bool ready, ended;
    unsigned reports; /* lines seen */
    BenchReport last;
    GArray *track;   /* BenchPoint, one for each report */
    GArray *samples; /* the same, more of them; NULL: there are none */
    double worst_ms; /* largest .stall_ms since it was set to 0 */
    int verdict;     /* -1 none yet, 0 bad, 1 ok */
    Durations waits; /* see bench_guest_take_waits(); whole, like the next, if .waits_whole */
    BenchStep longest[BENCH_LONGEST];
    unsigned n_longest;
    bool waits_whole;
};

/* Starts ARGV with the serial console on its stdin and stdout; what it writes to stderr goes to
 * LOG. QMP is the path that ARGV has it make its monitor at: returns when it can be connected
 * to. */
BenchGuest *bench_guest_start(const char *const *argv, const char *qmp, const char *log,
                              GError **error);
/* The same with a guest that speaks by VOICE, which CONFIG is for. */
BenchGuest *bench_guest_start_by(const BenchVoice *voice, const void *config,
                                 const char *const *argv, const char *qmp, const char *log,
                                 GError **error);
/* SRC's guest, which has said so far how it is, is to go on at DST; SRC is freed after DST. */
void bench_guest_follow(BenchGuest *dst, BenchGuest *src);
/* For its voice: a report has come, US by the host's clock. */
void bench_guest_report(BenchGuest *guest, const BenchReport *report, int64_t us);
/* Kills it and waits for its end. */
void bench_guest_free(BenchGuest *guest);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(BenchGuest, bench_guest_free)

/* Those that QEMU (with debug-threads=on) calls "CPU N/...": its vCPUs. */
BenchThreads bench_guest_vcpus(const BenchGuest *guest);
/* What has been left to the bench since GUEST's start is GUEST's relay: to be called when QEMU
 * runs, and before another one is started. May be called again: a relay that was not left yet. */
void bench_guest_note_relays(BenchGuest *guest);
/* Seconds of processor time so far, of GUEST's QEMU without its vCPUs, its relay and all engines:
 * what a migration costs beside the guest's own work. To a hundredth of a second. */
double bench_guest_cpu(const BenchGuest *guest);

/* Kills what this process has started and what was left to it, and waits for the end of all. For a
 * bench that ends early: no BenchGuest is used after it. */
void bench_guest_end_all(void);

/* Types a key on its console, for a guest that has one. */
bool bench_guest_key(BenchGuest *guest, char key, GError **error);
/* Has all of its memory checked: .verdict, for which this waits. */
bool bench_guest_judge(BenchGuest *guest, GError **error);

/* Runs the main loop until DONE says so. FALSE with ERROR when GUEST ends first, or after
 * SECONDS; WHAT completes "... did not come". */
bool bench_guest_wait(BenchGuest *guest, bool (*done)(const BenchGuest *guest, void *opaque),
                      void *opaque, unsigned seconds, const char *what, GError **error);

/* Asks GUEST for its touches of 32 us and longer, and its longest steps, since this was done the
 * last time, here or at the source; of steps that began before bench_guest_end_waits() if that was
 * called. They are in .waits and .longest then. Saying them costs it some milliseconds. */
bool bench_guest_end_waits(BenchGuest *guest, GError **error);
bool bench_guest_take_waits(BenchGuest *guest, GError **error);

/* Reads one of the lines that tell of them, and adds to *WAITS what it has; FALSE if it is another
 * line. *WHOLE: it was the last one. */
bool bench_parse_waits(const char *line, Durations *waits, bool *whole);

/* Reads one line of a step; FALSE if it is another line. */
bool bench_parse_step(const char *line, BenchStep *step);

/* Reads one line of the guest's report; FALSE if it is another line. */
bool bench_parse_report(const char *line, BenchReport *report);

#endif
