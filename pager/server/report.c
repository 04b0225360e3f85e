/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What is known of each session, as JSON and as OpenMetrics; any thread. No system calls. */
#include "pager/server/report.h"

#include <inttypes.h>
#include <stddef.h>

#include "pager/server/session-internal.h"

static void add_count(JsonBuilder *b, const char *name, const uint64_t *count)
{
    json_builder_set_member_name(b, name);
    json_builder_add_int_value(b, (gint64)__atomic_load_n(count, __ATOMIC_RELAXED));
}

static void sum_memory(FfSession *s, uint64_t *total, uint64_t *missing)
{
    *total = *missing = 0;
    for (unsigned i = 0; i < s->image->n_blocks; i++) {
        const FfImageBlock *block = &s->image->block[i];
        FfBitmap bits;
        ff_bitmap_init_over(&bits, ff_image_bits(s->image, i), block->size / block->page_size);
        *total += block->size;
        *missing += block->size - ff_bitmap_count(&bits) * block->page_size;
    }
}

static void add_session(JsonBuilder *b, FfSession *s)
{
    const FfImageCounts *c = &s->image->counts;
    uint64_t total, missing;

    json_builder_begin_object(b);
    json_builder_set_member_name(b, "pid");
    json_builder_add_int_value(b, s->root_rec->pid);
    json_builder_set_member_name(b, "user");
    json_builder_add_int_value(b, s->rec->uid);
    json_builder_set_member_name(b, "child");
    json_builder_add_boolean_value(b, s->parent != 0);
    json_builder_set_member_name(b, "dialect");
    json_builder_add_string_value(b, s->dialect->name);
    sum_memory(s, &total, &missing);
    add_count(b, "memory", &total);
    add_count(b, "missing", &missing);
    add_count(b, "faults", &c->faults);
    add_count(b, "demand-pages", &c->demand);
    add_count(b, "bulk-pages", &c->bulk);
    add_count(b, "zero-pages", &c->zeros);
    add_count(b, "data-bytes", &c->data);
    add_count(b, "given-back-pages", &c->given_back);
    add_count(b, "unmapped-pages", &c->unmapped);
    add_count(b, "events", &c->events);
    add_count(b, "demand-us", &c->demand_us);
    add_count(b, "demand-us-max", &c->demand_us_max);
    add_count(b, "pagers", &c->pagers);
    add_count(b, "working-set-pages", &c->set);
    add_count(b, "working-set-used", &c->set_used);
    json_builder_end_object(b);
}

JsonNode *ff_sessions_report(FfSessions *all)
{
    g_autoptr(JsonBuilder) b = json_builder_new();

    json_builder_begin_array(b);
    pthread_mutex_lock(&all->lock);
    for (guint i = 0; i < all->sessions->len; i++) {
        FfSession *s = g_ptr_array_index(all->sessions, i);
        if (s->image) {
            add_session(b, s);
        }
    }
    pthread_mutex_unlock(&all->lock);
    json_builder_end_array(b);
    return json_builder_get_root(b);
}

/* ---- OpenMetrics ----------------------------------------------------------------------------- */

typedef struct {
    const char *name, *unit, *help;
    bool counter;
    size_t count;   /* in FfImageCounts; MEMORY, MISSING */
    double divisor; /* 0: an integer */
} Metric;

#define MEMORY SIZE_MAX
#define MISSING (SIZE_MAX - 1)
#define COUNT(field) offsetof(FfImageCounts, field)

static const Metric metrics[] = {
    {"memory_bytes", "bytes", "Memory that the client has handed over.", false, MEMORY, 0},
    {"missing_bytes", "bytes", "Memory that it has not got yet.", false, MISSING, 0},
    {"faults", NULL, "Pages that somebody waited for.", true, COUNT(faults), 0},
    {"demand_pages", NULL, "Pages placed for somebody who waited.", true, COUNT(demand), 0},
    {"bulk_pages", NULL, "Pages placed for nobody.", true, COUNT(bulk), 0},
    {"zero_pages", NULL, "Placed pages that were zeros.", true, COUNT(zeros), 0},
    {"data_bytes", "bytes", "Placed pages that were not.", true, COUNT(data), 0},
    {"given_back_pages", NULL, "Pages that the process gave back.", true, COUNT(given_back), 0},
    {"unmapped_pages", NULL, "Pages that the process unmapped.", true, COUNT(unmapped), 0},
    {"events", NULL, "Changes of its memory.", true, COUNT(events), 0},
    {"pagers", NULL, "Pagers that it has had.", true, COUNT(pagers), 0},
    {"demand_seconds", "seconds", "Time from the faults to their pages, in all.", true,
     COUNT(demand_us), 1e6},
    {"demand_max_seconds", "seconds", "The longest of them.", false, COUNT(demand_us_max), 1e6},
    {"working_set_pages", NULL, "Pages of the working set.", false, COUNT(set), 0},
    {"working_set_used_pages", NULL, "Pages placed from the working set before anybody waited.",
     true, COUNT(set_used), 0},
};

static uint64_t value_of(FfSession *s, const Metric *m)
{
    uint64_t total, missing;

    if (m->count >= MISSING) {
        sum_memory(s, &total, &missing);
        return m->count == MEMORY ? total : missing;
    }
    return __atomic_load_n((const uint64_t *)((const char *)&s->image->counts + m->count),
                           __ATOMIC_RELAXED);
}

static void add_sample(GString *text, FfSession *s, const Metric *m)
{
    char number[G_ASCII_DTOSTR_BUF_SIZE];
    uint64_t value = value_of(s, m);

    g_string_append_printf(text,
                           "farfault_pager_%s%s{space=\"%" PRIu64 "\",pid=\"%d\",user=\"%u\","
                           "child=\"%s\",dialect=\"%s\"} ",
                           m->name, m->counter ? "_total" : "", s->id, s->root_rec->pid,
                           s->rec->uid, s->parent ? "true" : "false", s->dialect->name);
    if (m->divisor > 0) {
        /* Not with a comma, whatever the locale says. */
        g_string_append(text, g_ascii_dtostr(number, sizeof(number), (double)value / m->divisor));
    } else {
        g_string_append_printf(text, "%" PRIu64, value);
    }
    g_string_append_c(text, '\n');
}

char *ff_sessions_metrics(FfSessions *all)
{
    GString *text = g_string_new(NULL);

    pthread_mutex_lock(&all->lock);
    for (unsigned k = 0; k < G_N_ELEMENTS(metrics); k++) {
        const Metric *m = &metrics[k];
        g_string_append_printf(text, "# TYPE farfault_pager_%s %s\n", m->name,
                               m->counter ? "counter" : "gauge");
        if (m->unit) {
            g_string_append_printf(text, "# UNIT farfault_pager_%s %s\n", m->name, m->unit);
        }
        g_string_append_printf(text, "# HELP farfault_pager_%s %s\n", m->name, m->help);
        for (guint i = 0; i < all->sessions->len; i++) {
            FfSession *s = g_ptr_array_index(all->sessions, i);
            if (s->image) {
                add_sample(text, s, m);
            }
        }
    }
    pthread_mutex_unlock(&all->lock);
    g_string_append(text, "# EOF\n");
    return g_string_free(text, FALSE);
}
