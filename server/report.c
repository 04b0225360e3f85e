/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What is known of each session, as JSON; any thread. No system calls. */
#include "server/report.h"

#include "server/session-internal.h"

static void add_count(JsonBuilder *b, const char *name, const uint64_t *count)
{
    json_builder_set_member_name(b, name);
    json_builder_add_int_value(b, (gint64)__atomic_load_n(count, __ATOMIC_RELAXED));
}

static void add_memory(JsonBuilder *b, FfSession *s)
{
    uint64_t total = 0, missing = 0;

    for (unsigned i = 0; i < s->image->n_blocks; i++) {
        const FfImageBlock *block = &s->image->block[i];
        FfBitmap bits;
        ff_bitmap_init_over(&bits, ff_image_bits(s->image, i), block->size / block->page_size);
        total += block->size;
        missing += block->size - ff_bitmap_count(&bits) * block->page_size;
    }
    add_count(b, "memory", &total);
    add_count(b, "missing", &missing);
}

static void add_session(JsonBuilder *b, FfSession *s)
{
    const FfImageCounts *c = &s->image->counts;

    json_builder_begin_object(b);
    json_builder_set_member_name(b, "pid");
    json_builder_add_int_value(b, s->root_rec->pid);
    json_builder_set_member_name(b, "user");
    json_builder_add_int_value(b, s->rec->uid);
    json_builder_set_member_name(b, "child");
    json_builder_add_boolean_value(b, s->parent != 0);
    json_builder_set_member_name(b, "dialect");
    json_builder_add_string_value(b, "firecracker");
    add_memory(b, s);
    add_count(b, "faults", &c->faults);
    add_count(b, "demand-pages", &c->demand);
    add_count(b, "bulk-pages", &c->bulk);
    add_count(b, "zero-pages", &c->zeros);
    add_count(b, "given-back-pages", &c->given_back);
    add_count(b, "unmapped-pages", &c->unmapped);
    add_count(b, "events", &c->events);
    add_count(b, "demand-us", &c->demand_us);
    add_count(b, "demand-us-max", &c->demand_us_max);
    add_count(b, "pagers", &c->pagers);
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
