/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Writes the families of metrics, one after the other, each with a sample of each guest.
 *
 * The two formats differ in three places: OpenMetrics names a counter's family without "_total",
 * takes no empty line, and ends with "# EOF". What comes from a guest (its name, numbers that its
 * QEMU's user may have written) is escaped, and is never taken for more than text or a number. No
 * state; any thread.
 */
#include "cli/watch/metrics-text.h"

#include <inttypes.h>
#include <string.h>

/* Latencies from 2^FIRST to 2^LAST microseconds have a bucket; longer ones are in +Inf alone. */
#define LAST_BUCKET 26

typedef struct {
    GString *out;
    const GPtrArray *guests;
    bool open;
} Page;

typedef enum { GAUGE, COUNTER, HISTOGRAM } Type;

static const char *const use_name[FF_USES] = {"outgoing", "incoming", "snapshot", "restore"};
static const char *const end_name[FF_ENDS] = {"completed", "failed", "cancelled"};

/* NAME as its samples have it: a counter's ends with "_total". */
static void begin_family(Page *p, Type type, const char *name, const char *help)
{
    static const char *const word[] = {"gauge", "counter", "histogram"};
    gsize length = strlen(name);

    if (type == COUNTER && p->open) {
        length -= strlen("_total");
    }
    g_string_append_printf(p->out, "# HELP %.*s %s\n# TYPE %.*s %s\n", (int)length, name, help,
                           (int)length, name, word[type]);
}

static void put_label(GString *out, const char *name, const char *value)
{
    g_autofree char *valid = g_utf8_make_valid(value, -1);

    g_string_append_printf(out, "%s=\"", name);
    for (const char *c = valid; *c; c++) {
        if (*c == '\\' || *c == '"') {
            g_string_append_c(out, '\\');
        }
        if (*c == '\n') {
            g_string_append(out, "\\n");
        } else {
            g_string_append_c(out, *c);
        }
    }
    g_string_append_c(out, '"');
}

/* NAME and the labels that every sample of a guest has; left open for more. */
static void begin_sample(Page *p, const char *name, const FfHostGuest *g)
{
    g_autofree char *pid = g_strdup_printf("%d", (int)g->pid);

    g_string_append_printf(p->out, "%s{", name);
    put_label(p->out, "domain", g->name);
    g_string_append_c(p->out, ',');
    put_label(p->out, "pid", pid);
}

static void more_labels(Page *p, const char *name, const char *value)
{
    g_string_append_c(p->out, ',');
    put_label(p->out, name, value);
}

static void end_int(Page *p, uint64_t value)
{
    g_string_append_printf(p->out, "} %" PRIu64 "\n", value);
}

static void end_number(Page *p, double value)
{
    char text[G_ASCII_DTOSTR_BUF_SIZE];

    g_string_append_printf(p->out, "} %s\n", g_ascii_formatd(text, sizeof(text), "%.9g", value));
}

static const FfHostGuest *nth_guest(const Page *p, guint i)
{
    return g_ptr_array_index(p->guests, i);
}

/* ---- families -------------------------------------------------------------------------------- */

static void guests_info(Page *p)
{
    begin_family(p, GAUGE, "farfault_guest_info",
                 "A guest under farfault; pid is that of its QEMU.");
    for (guint i = 0; i < p->guests->len; i++) {
        begin_sample(p, "farfault_guest_info", nth_guest(p, i));
        more_labels(p, "uuid", nth_guest(p, i)->uuid);
        end_int(p, 1);
    }
}

static void guests_relay(Page *p)
{
    begin_family(
        p, GAUGE, "farfault_guest_relay_up",
        "Whether the guest's relay lives. 0: its monitors are dead until farfault attach.");
    for (guint i = 0; i < p->guests->len; i++) {
        begin_sample(p, "farfault_guest_relay_up", nth_guest(p, i));
        end_int(p, nth_guest(p, i)->served);
    }
}

static void guests_counted(Page *p)
{
    begin_family(p, GAUGE, "farfault_guest_counted",
                 "Whether this user may read what the guest's engine has counted.");
    for (guint i = 0; i < p->guests->len; i++) {
        begin_sample(p, "farfault_guest_counted", nth_guest(p, i));
        end_int(p, nth_guest(p, i)->counted);
    }
}

static void put_operations(Page *p)
{
    static const char name[] = "farfault_operations_total";

    begin_family(
        p, COUNTER, name,
        "Migrations, snapshots and restores that the engine has carried, by how they ended.");
    for (guint i = 0; i < p->guests->len; i++) {
        for (unsigned u = 0; nth_guest(p, i)->counted && u < FF_USES; u++) {
            for (unsigned e = 0; e < FF_ENDS; e++) {
                begin_sample(p, name, nth_guest(p, i));
                more_labels(p, "kind", use_name[u]);
                more_labels(p, "result", end_name[e]);
                end_int(p, nth_guest(p, i)->totals.use[u].ended[e]);
            }
        }
    }
}

/* What is one number for each kind of use. */
typedef struct {
    const char *name, *help;
    size_t offset; /* in FfUseTotals, uint64_t */
    double unit;   /* of a sample; 0: it is a whole number */
} Number;

static const Number numbers[] = {
    {"farfault_pauses_total",
     "Times that the connection (restore: the file) was lost after the switch.",
     offsetof(FfUseTotals, pauses), 0},
    {"farfault_transferred_bytes_total", "Bytes on all channels; of a snapshot, bytes of its file.",
     offsetof(FfUseTotals, bytes), 0},
    {"farfault_zero_pages_total", "Pages of zeros, of those that were sent or placed.",
     offsetof(FfUseTotals, pages_zero), 0},
    {"farfault_stopped_seconds_total",
     "Time for which guests stood still: downtime of migrations (known at the source), blackouts "
     "of snapshots.",
     offsetof(FfUseTotals, stopped_ms), 1e-3},
};

static void put_number(Page *p, const Number *n)
{
    begin_family(p, COUNTER, n->name, n->help);
    for (guint i = 0; i < p->guests->len; i++) {
        const FfHostGuest *g = nth_guest(p, i);

        for (unsigned u = 0; g->counted && u < FF_USES; u++) {
            uint64_t value = G_STRUCT_MEMBER(uint64_t, &g->totals.use[u], n->offset);

            begin_sample(p, n->name, g);
            more_labels(p, "kind", use_name[u]);
            if (n->unit > 0) {
                end_number(p, n->unit * (double)value);
            } else {
                end_int(p, value);
            }
        }
    }
}

static void put_pages(Page *p)
{
    static const char name[] = "farfault_pages_total";

    begin_family(p, COUNTER, name,
                 "Pages that were sent or placed: in their order (bulk), because somebody waited "
                 "(urgent).");
    for (guint i = 0; i < p->guests->len; i++) {
        const FfHostGuest *g = nth_guest(p, i);

        for (unsigned u = 0; g->counted && u < FF_USES; u++) {
            begin_sample(p, name, g);
            more_labels(p, "kind", use_name[u]);
            more_labels(p, "way", "bulk");
            end_int(p, g->totals.use[u].pages_bulk);
            begin_sample(p, name, g);
            more_labels(p, "kind", use_name[u]);
            more_labels(p, "way", "urgent");
            end_int(p, g->totals.use[u].pages_urgent);
        }
    }
}

static void put_histogram(Page *p, const FfHostGuest *g, unsigned u)
{
    const FfUseTotals *t = &g->totals.use[u];
    uint64_t sum = 0;

    for (unsigned i = 0; i < FF_TOTALS_BUCKETS; i++) {
        char edge[G_ASCII_DTOSTR_BUF_SIZE];

        /* No guest's odd numbers make the whole page wrong: buckets never fall. */
        sum = sum > UINT64_MAX - t->latency[i] ? UINT64_MAX : sum + t->latency[i];
        if (i < LAST_BUCKET) {
            begin_sample(p, "farfault_fault_latency_seconds_bucket", g);
            more_labels(p, "kind", use_name[u]);
            more_labels(
                p, "le",
                g_ascii_formatd(edge, sizeof(edge), "%.9g", 1e-6 * (double)(UINT64_C(2) << i)));
            end_int(p, sum);
        }
    }
    begin_sample(p, "farfault_fault_latency_seconds_bucket", g);
    more_labels(p, "kind", use_name[u]);
    more_labels(p, "le", "+Inf");
    end_int(p, sum);
    begin_sample(p, "farfault_fault_latency_seconds_sum", g);
    more_labels(p, "kind", use_name[u]);
    end_number(p, 1e-6 * (double)t->latency_sum_us);
    begin_sample(p, "farfault_fault_latency_seconds_count", g);
    more_labels(p, "kind", use_name[u]);
    end_int(p, sum);
}

static void put_latency(Page *p)
{
    begin_family(
        p, HISTOGRAM, "farfault_fault_latency_seconds",
        "How long guests waited. incoming, restore: from a fault to its page. outgoing: from a "
        "request to its answer. snapshot: writes to memory that was not saved yet.");
    for (guint i = 0; i < p->guests->len; i++) {
        for (unsigned u = 0; nth_guest(p, i)->counted && u < FF_USES; u++) {
            put_histogram(p, nth_guest(p, i), u);
        }
    }
}

static bool runs_operation(const FfHostGuest *g)
{
    return g->counted && g->totals.running && g->totals.running <= FF_USES;
}

static void put_running(Page *p)
{
    static const char name[] = "farfault_operation_running";

    begin_family(p, GAUGE, name, "What is under way; the status is that of query-migrate.");
    for (guint i = 0; i < p->guests->len; i++) {
        const FfHostGuest *g = nth_guest(p, i);

        if (runs_operation(g)) {
            begin_sample(p, name, g);
            more_labels(p, "kind", use_name[g->totals.running - 1]);
            more_labels(p, "status", g->totals.status);
            end_int(p, 1);
        }
    }
}

static void put_memory(Page *p, const char *name, const char *help, size_t offset)
{
    begin_family(p, GAUGE, name, help);
    for (guint i = 0; i < p->guests->len; i++) {
        const FfHostGuest *g = nth_guest(p, i);

        if (runs_operation(g)) {
            begin_sample(p, name, g);
            more_labels(p, "kind", use_name[g->totals.running - 1]);
            end_int(p, G_STRUCT_MEMBER(uint64_t, &g->totals, offset));
        }
    }
}

char *ff_metrics_text(const GPtrArray *guests, bool open)
{
    Page p = {.out = g_string_new(NULL), .guests = guests, .open = open};

    begin_family(&p, GAUGE, "farfault_guests", "Guests of this host that are under farfault.");
    g_string_append_printf(p.out, "farfault_guests %u\n", guests->len);
    guests_info(&p);
    guests_relay(&p);
    guests_counted(&p);
    put_operations(&p);
    for (size_t i = 0; i < G_N_ELEMENTS(numbers); i++) {
        put_number(&p, &numbers[i]);
    }
    put_pages(&p);
    put_latency(&p);
    put_running(&p);
    put_memory(&p, "farfault_operation_memory_bytes", "Guest memory that it is about.",
               offsetof(FfTotals, ram_total));
    put_memory(&p, "farfault_operation_remaining_bytes", "Of it, what is still to be moved.",
               offsetof(FfTotals, ram_remaining));
    if (open) {
        g_string_append(p.out, "# EOF\n");
    }
    return g_string_free(p.out, FALSE);
}
