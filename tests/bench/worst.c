/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See worst.h. */
#include "worst.h"

#include <math.h>
#include <string.h>

const char *const bench_why[BENCH_WHYS] = {
    [BENCH_WHY_UNKNOWN] = "-",
    [BENCH_WHY_BEFORE] = "before it ran at the destination",
    [BENCH_WHY_CPU] = "no processor: most of it no page was waited for",
    [BENCH_WHY_MANY] = "one page after the other",
    [BENCH_WHY_RUN] = "in a long run of bulk's",
    [BENCH_WHY_BULK] = "in bulk's queue",
    [BENCH_WHY_FIRST] = "asked for in the first moments",
    [BENCH_WHY_ASKED] = "asked for",
};

/* Between a mark and what the guest noted of the same moment. */
#define SLACK_US 200
/* By so much the guest's clock is off at most: it took the rate of its counter from some
 * milliseconds at its start. */
#define DRIFT_US 5000
/* RAM of a guest of QEMU's type "pc" below and above 4 GiB is one block. */
#define PAGES_OF_4G (4ull << 18)
#define PAGES_BELOW_4G (3ull << 18)

typedef struct {
    uint64_t block, page;
    int vcpu;
    double begin, end; /* us */
} Wait;

typedef struct {
    uint64_t block, page, n;
    double at;
} Claim;

struct BenchMarks {
    GArray *waits;  /* Wait; .end is NaN while it lasts */
    GArray *claims; /* Claim, since the source's guest was stopped */
    GArray *open;   /* guint, of .waits */
    double resumed; /* at the destination; NaN */
    uint64_t lost;
};

/* ---- reading --------------------------------------------------------------------------------- */

/* The number after " NAME=" in VALUES, which begins with a blank. */
static bool number_in(const char *values, const char *name, int64_t *n)
{
    g_autofree char *key = g_strdup_printf(" %s=", name);
    const char *at = strstr(values, key);

    if (!at) {
        return false;
    }
    *n = g_ascii_strtoll(at + strlen(key), NULL, 10);
    return true;
}

static void begin_wait(BenchMarks *m, const Wait *wait)
{
    g_array_append_val(m->waits, *wait);
    guint at = m->waits->len - 1;
    g_array_append_val(m->open, at);
}

static void end_wait(BenchMarks *m, const Wait *wait)
{
    for (guint i = 0; i < m->open->len; i++) {
        Wait *w = &g_array_index(m->waits, Wait, g_array_index(m->open, guint, i));

        if (w->block == wait->block && w->page == wait->page && w->vcpu == wait->vcpu) {
            w->end = wait->begin;
            g_array_remove_index_fast(m->open, i);
            return;
        }
    }
}

static void take_destination(BenchMarks *m, const char *mark, const char *values, double us)
{
    int64_t block, page, vcpu;
    bool place = number_in(values, "block", &block) && number_in(values, "page", &page) &&
                 number_in(values, "vcpu", &vcpu);
    Wait wait = {place ? block : 0, place ? page : 0, place ? (int)vcpu : 0, us, NAN};

    if (place && !strcmp(mark, "wait_begins")) {
        begin_wait(m, &wait);
    } else if (place && !strcmp(mark, "wait_ends")) {
        end_wait(m, &wait);
    } else if (!strcmp(mark, "resumed") && isnan(m->resumed)) {
        m->resumed = us;
    }
}

static void take_source(BenchMarks *m, const char *mark, const char *values, double us)
{
    int64_t block, page, n;

    if (!strcmp(mark, "phase") && strstr(values, " phase=2 ")) {
        g_array_set_size(m->claims, 0); /* precopy's */
    } else if (!strcmp(mark, "bulk_claimed") && number_in(values, "block", &block) &&
               number_in(values, "page", &page) && number_in(values, "pages", &n)) {
        Claim claim = {block, page, n, us};
        g_array_append_val(m->claims, claim);
    }
}

/* "71200.272747 4711 destination wait_begins block=0 page=192 vcpu=-1" */
static void take_line(BenchMarks *m, const char *line)
{
    char side[16], mark[32];
    unsigned long long lost;
    double seconds;
    int values = -1;

    if (sscanf(line, "Lost %llu events", &lost) == 1) {
        m->lost += lost;
    } else if (sscanf(line, "%lf %*s %15s %31s%n", &seconds, side, mark, &values) == 3 &&
               values > 0) {
        void (*take)(BenchMarks *, const char *, const char *, double) =
            strcmp(side, "source") ? take_destination : take_source;
        take(m, mark, line + values, seconds * 1e6);
    }
}

BenchMarks *bench_marks_new(const char *text)
{
    BenchMarks *m = g_new0(BenchMarks, 1);
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);

    m->waits = g_array_new(FALSE, FALSE, sizeof(Wait));
    m->claims = g_array_new(FALSE, FALSE, sizeof(Claim));
    m->open = g_array_new(FALSE, FALSE, sizeof(guint));
    m->resumed = NAN;
    for (char **l = lines; *l; l++) {
        take_line(m, *l);
    }
    return m;
}

void bench_marks_free(BenchMarks *m)
{
    if (m) {
        g_array_unref(m->waits);
        g_array_unref(m->claims);
        g_array_unref(m->open);
        g_free(m);
    }
}

uint64_t bench_marks_lost(const BenchMarks *m)
{
    return m->lost;
}

/* ---- explaining ------------------------------------------------------------------------------ */

static const Wait *wait_at(const BenchMarks *m, guint i)
{
    return &g_array_index(m->waits, Wait, i);
}

static uint64_t page_of_frame(uint64_t frame)
{
    return frame < PAGES_OF_4G ? frame : frame - PAGES_OF_4G + PAGES_BELOW_4G;
}

/* The wait for the page that STEP touched; NULL: there is none, or it was another step's, as it is
 * longer than this touch. */
static const Wait *wait_of(const BenchMarks *m, const BenchStep *step)
{
    uint64_t page = page_of_frame(step->frame);

    for (guint i = 0; step->frame && i < m->waits->len; i++) {
        const Wait *w = wait_at(m, i);

        if (w->block == 0 && w->page == page && w->vcpu == (int)step->worker &&
            w->end - w->begin <= step->touch_us + SLACK_US) {
            return w;
        }
    }
    return NULL;
}

/*
 * What is to be added to the destination's clock for the host's. A report comes after it was made,
 * so the least difference of all is too large, by the shortest way of a line; a step whose longest
 * part was its touch ends after the page was placed, so the greatest difference of those is too
 * small, by the time until the vCPU ran. The latter is shorter.
 */
static double clock_offset(const BenchMarks *m, const BenchStep *step, unsigned n,
                           const BenchPoint *point, unsigned points)
{
    double most = INFINITY, least = -INFINITY;

    for (unsigned i = 0; i < points; i++) {
        most = MIN(most, (double)point[i].us - point[i].own_us);
    }
    for (unsigned i = 0; m && i < n; i++) {
        const Wait *w = step[i].touch_us > 0.9 * step[i].us ? wait_of(m, &step[i]) : NULL;

        if (w && w->end - step[i].end_us <= most) {
            least = MAX(least, w->end - step[i].end_us);
        }
    }
    return isinf(least) ? most : least;
}

/* When STEP began. Where its page was waited for, that was within its touch, with which it began:
 * the page says it better than the guest's clock. */
static double start_of(const BenchMarks *m, const BenchStep *step, double offset)
{
    double start = step->end_us - step->us + offset;
    const Wait *w = m ? wait_of(m, step) : NULL;

    if (!w) {
        return start;
    }
    double least = MIN(w->end - step->touch_us, w->begin);
    double moved = CLAMP(start, least, w->begin);
    return fabs(moved - start) <= DRIFT_US ? moved : start;
}

/* The last claim of W's page before it was placed. */
static const Claim *claim_of(const BenchMarks *m, const Wait *w)
{
    const Claim *found = NULL;

    for (guint i = 0; i < m->claims->len; i++) {
        const Claim *c = &g_array_index(m->claims, Claim, i);

        if (c->block == w->block && c->page <= w->page && w->page < c->page + c->n &&
            c->at < w->end) {
            found = c;
        }
    }
    return found;
}

/* W is the longest wait of the step. */
static void explain_wait(const BenchMarks *m, const Wait *w, BenchCause *cause)
{
    const Claim *claim = claim_of(m, w);

    if (claim) {
        cause->early_us = w->begin - claim->at;
        cause->run = (unsigned)claim->n;
        cause->why = claim->n >= BENCH_LONG_RUN ? BENCH_WHY_RUN : BENCH_WHY_BULK;
    } else {
        cause->why = w->begin - m->resumed < BENCH_FIRST_US ? BENCH_WHY_FIRST : BENCH_WHY_ASKED;
    }
}

static void explain(const BenchMarks *m, const BenchStep *step, BenchCause *cause)
{
    double begin = cause->start_host - SLACK_US, end = cause->start_host + step->us + SLACK_US;
    double longest = 0;
    const Wait *worst = NULL;

    cause->waited_us = 0;
    for (guint i = 0; i < m->waits->len; i++) {
        const Wait *w = wait_at(m, i);
        double part = MIN(w->end, end) - MAX(w->begin, begin);

        if (w->vcpu != (int)step->worker || isnan(w->end) || part <= 0) {
            continue;
        }
        cause->pages++;
        cause->waited_us += part;
        if (part > longest) {
            longest = part;
            worst = w;
        }
    }
    cause->waited_us = MIN(cause->waited_us, step->us);
    /* "resumed" is QEMU's answer to "cont": its vCPUs run before that, and may wait already. */
    if (end < m->resumed && !worst) {
        cause->why = BENCH_WHY_BEFORE;
    } else if (!worst || cause->waited_us < step->us / 2) {
        cause->why = BENCH_WHY_CPU;
    } else if (longest < cause->waited_us / 2) {
        cause->why = BENCH_WHY_MANY;
    } else {
        explain_wait(m, worst, cause);
    }
}

void bench_explain(const BenchMarks *m, const BenchStep *step, unsigned n, const BenchPoint *point,
                   unsigned points, BenchCause *cause)
{
    double offset = clock_offset(m, step, n, point, points);

    for (unsigned i = 0; i < n; i++) {
        cause[i] = (BenchCause){.waited_us = NAN, .early_us = NAN};
        cause[i].start_host = start_of(m, &step[i], offset);
        if (m) {
            explain(m, &step[i], &cause[i]);
        }
    }
}

void bench_print_causes(FILE *out, const char *name, const BenchStep *step, const BenchCause *cause,
                        unsigned n, int64_t start_us)
{
    fprintf(out, "  longest steps of %s\n  %9s %9s %9s %6s %9s  why\n", name, "step ms", "at ms",
            "touch ms", "pages", "waited ms");
    for (unsigned i = 0; i < n; i++) {
        const BenchCause *c = &cause[i];

        fprintf(out, "  %9.1f %9.1f %9.1f ", step[i].us / 1000,
                (c->start_host - (double)start_us) / 1000, step[i].touch_us / 1000);
        if (isnan(c->waited_us)) {
            fprintf(out, "%6s %9s  %s\n", "-", "-", bench_why[c->why]);
            continue;
        }
        fprintf(out, "%6u %9.1f  %s", c->pages, c->waited_us / 1000, bench_why[c->why]);
        if (c->run) {
            fprintf(out, ": %u pages, claimed %.1f ms %s", c->run, fabs(c->early_us) / 1000,
                    c->early_us < 0 ? "after the wait began" : "before");
        }
        fprintf(out, "\n");
    }
}
