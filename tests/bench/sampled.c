/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See sampled.h. QEMU says where the guest's memory lies in its own (gpa2hva), and /proc/PID/mem
 * reads it there. A page that a running postcopy has not placed cannot be read so: it is an error,
 * and nobody is told of the access. Before the destination's guest runs nothing is read there, as
 * that would put pages of zeros where others belong.
 */
#include "sampled.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <unistd.h>

#include "cli/common/qmp.h"
#include "qmp/json.h"

#define SAMPLE_MS 10
#define REPORT_US 1000000
#define MIB ((uint64_t)1 << 20)

typedef struct {
    Ring3 ring3;
    FfCliQmp *qmp;
    int pidfd;      /* of QEMU, which is waited for as long as it runs */
    int memory;     /* /proc/PID/mem */
    uint64_t start; /* there, of the guest's address 0 */
    guint timer;    /* 0: it does not run */
    Durations taken, end;
    bool has_taken, has_end;
} Sampled;

/* False: not all of it can be read. */
static bool read_guest(const Sampled *s, uint64_t address, void *to, size_t n)
{
    for (size_t at = 0; at < n;) {
        ssize_t got =
            pread(s->memory, (char *)to + at, MIN(n - at, MIB), (off_t)(s->start + address + at));
        if (got <= 0) {
            return false;
        }
        at += (size_t)got;
    }
    return true;
}

static bool set_unreadable(GError **error)
{
    g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED, "the guest's memory cannot be read");
    return false;
}

/* ---- its work over time ---------------------------------------------------------------------- */

static gboolean take_sample(gpointer opaque)
{
    BenchGuest *g = opaque;
    Sampled *s = g->own;
    uint8_t records[RING3_RECORDS_SIZE];

    if (!read_guest(s, RING3_RECORDS, records, sizeof(records))) {
        return G_SOURCE_CONTINUE; /* not placed yet */
    }
    int64_t now = g_get_monotonic_time();
    Ring3Record record = ring3_read_record(&s->ring3, records);
    BenchPoint point = {.us = now, .steps = record.ops, .own_us = (double)now};
    BenchReport report = {.writes = record.ops, .bad = record.corrupt, .clock_us = (double)now};

    if (!record.ready) {
        return G_SOURCE_CONTINUE;
    }
    g->ready = true;
    g_array_append_val(g->samples, point);
    if (!g->reports ||
        now >= g_array_index(g->track, BenchPoint, g->track->len - 1).us + REPORT_US) {
        bench_guest_report(g, &report, now);
    }
    return G_SOURCE_CONTINUE;
}

static void set_sampling(BenchGuest *g, bool on)
{
    Sampled *s = g->own;

    if (on && !s->timer) {
        s->timer = g_timeout_add(SAMPLE_MS, take_sample, g);
    } else if (!on && s->timer) {
        g_source_remove(s->timer);
        s->timer = 0;
    }
}

static void on_event(JsonObject *event, const GError *error, void *opaque)
{
    const char *name = event ? ff_json_string_or(event, "event", "") : "";

    if (g_str_equal(name, "RESUME")) {
        set_sampling(opaque, true);
    } else if (!event || g_str_equal(name, "STOP")) {
        set_sampling(opaque, false);
    }
}

/* ---- its memory ------------------------------------------------------------------------------ */

static bool call_monitor(Sampled *s, const char *command, GError **error)
{
    g_autoptr(JsonNode) answer = ff_cli_qmp_call(s->qmp, command, NULL, error);

    return answer != NULL;
}

/* "Host virtual address for 0x9000 (pc.ram) is 0x7f0123456789" */
static bool find_memory(Sampled *s, GError **error)
{
    JsonObject *args = json_object_new();

    json_object_set_string_member(args, "command-line", "gpa2hva 0");
    g_autoptr(JsonNode) answer = ff_cli_qmp_call(s->qmp, "human-monitor-command", args, error);
    if (!answer) {
        return false;
    }
    const char *said = JSON_NODE_HOLDS_VALUE(answer) ? json_node_get_string(answer) : NULL;
    const char *at = said ? strstr(said, " is 0x") : NULL;
    if (!at) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED, "gpa2hva: %s", said ? said : "nothing");
        return false;
    }
    s->start = g_ascii_strtoull(at + strlen(" is "), NULL, 16);
    return true;
}

static bool open_monitor(BenchGuest *g, GError **error)
{
    g_autofree char *path = bench_sampled_monitor(g->qmp);
    int inode = open(path, O_PATH | O_CLOEXEC);
    Sampled *s = g->own;

    s->pidfd = pidfd_open(atoi(g_subprocess_get_identifier(g->process)), 0);
    if (inode < 0 || s->pidfd < 0) {
        g_set_error(error, G_IO_ERROR, g_io_error_from_errno(errno), "%s: %s", path,
                    g_strerror(errno));
        if (inode >= 0) {
            close(inode);
        }
        return false;
    }
    int fd = ff_qmp_connect(inode, error);
    close(inode);
    s->qmp = fd < 0 ? NULL : ff_cli_qmp_open_own(fd, path, s->pidfd, error);
    return s->qmp != NULL;
}

static bool is_running(Sampled *s)
{
    g_autoptr(JsonNode) answer = ff_cli_qmp_call(s->qmp, "query-status", NULL, NULL);

    return answer && ff_json_bool(ff_json_node_object(answer), "running");
}

static bool open_sampled(BenchGuest *g, const void *config, GError **error)
{
    g_autofree char *memory =
        g_strdup_printf("/proc/%s/mem", g_subprocess_get_identifier(g->process));
    Sampled *s = g_new0(Sampled, 1);

    g->own = s;
    g->samples = g_array_new(FALSE, FALSE, sizeof(BenchPoint));
    s->ring3 = *(const Ring3 *)config;
    s->pidfd = -1;
    s->memory = -1;
    if (!open_monitor(g, error) || !find_memory(s, error)) {
        return false;
    }
    /* Only now is that process QEMU for certain: it was farfault before. */
    s->memory = open(memory, O_RDONLY | O_CLOEXEC);
    if (s->memory < 0) {
        g_set_error(error, G_IO_ERROR, g_io_error_from_errno(errno), "%s: %s", memory,
                    g_strerror(errno));
        return false;
    }
    ff_cli_qmp_listen(s->qmp, on_event, g);
    if (is_running(s)) {
        set_sampling(g, true);
    }
    return true;
}

static void close_sampled(BenchGuest *g)
{
    Sampled *s = g->own;

    if (!s) {
        return;
    }
    set_sampling(g, false);
    if (s->qmp) {
        ff_cli_qmp_listen(s->qmp, NULL, NULL);
        ff_cli_qmp_free(s->qmp);
    }
    if (s->memory >= 0) {
        close(s->memory);
    }
    if (s->pidfd >= 0) {
        close(s->pidfd);
    }
    g_free(s);
    g->own = NULL;
}

/* ---- its waits ------------------------------------------------------------------------------- */

static bool read_waits(const Sampled *s, Durations *waits, GError **error)
{
    g_autofree uint8_t *histograms = g_malloc(RING3_WAITS_SIZE);
    uint8_t records[RING3_RECORDS_SIZE];

    if (!read_guest(s, RING3_RECORDS, records, sizeof(records)) ||
        !read_guest(s, RING3_WAITS, histograms, RING3_WAITS_SIZE)) {
        return set_unreadable(error);
    }
    ring3_read_waits(&s->ring3, records, histograms, waits);
    return true;
}

/* Those of ALL that BEFORE has not. The longest is exact if it is the longest of all. */
static void subtract_waits(const Durations *all, const Durations *before, Durations *left)
{
    *left = (Durations){.sum_us = MAX(all->sum_us - before->sum_us, 0)};
    for (unsigned b = 0; b < DURATIONS_BUCKETS; b++) {
        left->bucket[b] = all->bucket[b] - MIN(before->bucket[b], all->bucket[b]);
        left->n += left->bucket[b];
        if (left->bucket[b]) {
            left->worst_us = durations_middle(b);
        }
    }
    if (all->worst_us > before->worst_us) {
        left->worst_us = all->worst_us;
    }
}

static bool end_waits(BenchGuest *g, GError **error)
{
    Sampled *s = g->own;

    s->has_end = read_waits(s, &s->end, error);
    return s->has_end;
}

static bool take_waits(BenchGuest *g, GError **error)
{
    Sampled *s = g->own;
    const Sampled *from = !s->has_taken && g->before ? g->before->own : s;
    g_autofree Durations *now = g_new0(Durations, 1);

    if (s->has_end) {
        *now = s->end;
    } else if (!read_waits(s, now, error)) {
        return false;
    }
    subtract_waits(now, &from->taken, &g->waits);
    g->worst_ms = g->waits.worst_us / 1000; /* a step is a wait here, if it is long enough */
    s->taken = *now;
    s->has_taken = true;
    s->has_end = false;
    g->waits_whole = true;
    return true;
}

/* ---- whether its memory is right ------------------------------------------------------------- */

/* Stopped, so that what is read is of one instant. */
static bool judge(BenchGuest *g, GError **error)
{
    Sampled *s = g->own;
    uint64_t size = ring3_end(&s->ring3);
    g_autofree uint8_t *memory = g_malloc(size);

    if (!call_monitor(s, "stop", error)) {
        return false;
    }
    if (!read_guest(s, 0, memory, size)) {
        return set_unreadable(error);
    }
    g_autofree char *wrong = ring3_check_image(&s->ring3, memory);
    if (wrong) {
        g_printerr("guest: %s\n", wrong);
    }
    g->verdict = !wrong;
    return call_monitor(s, "cont", error);
}

const BenchVoice bench_sampled_voice = {.open = open_sampled,
                                        .close = close_sampled,
                                        .end_waits = end_waits,
                                        .take_waits = take_waits,
                                        .judge = judge};

/* ---- its command line ------------------------------------------------------------------------ */

char *bench_sampled_monitor(const char *qmp)
{
    return g_strdup_printf("%s-own", qmp);
}

void bench_sampled_add_args(const Ring3 *guest, const char *rom, const char *qmp, GPtrArray *argv)
{
    g_autofree char *monitor = bench_sampled_monitor(qmp);

    ring3_add_args(guest, rom, argv);
    g_ptr_array_add(argv, g_strdup("-qmp"));
    g_ptr_array_add(argv, g_strdup_printf("unix:%s,server=on,wait=off", monitor));
}
