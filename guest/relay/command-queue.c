/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Commands that came while there is no engine, though there will be one: it is to be started in a
 * moment, or the one before it is not dead yet. They are sent to it in their order. What waits for
 * too long gets an error, so no client waits for ever. The timer is there only while a command
 * waits. One thread; no locks.
 */
#include "base/deadline.h"
#include "guest/relay/engine-internal.h"
#include "guest/relay/internal.h"

#include <string.h>

#define WAIT_MS 5000

typedef struct {
    unsigned mon;
    uint32_t seq;
    char *json;
    gint64 until; /* monotonic, us */
} Waiting;

static void waiting_free(void *data)
{
    Waiting *w = data;

    g_free(w->json);
    g_free(w);
}

static void stop_timer(FfEngine *engine)
{
    if (engine->waiting_timer) {
        g_source_destroy(engine->waiting_timer);
        g_clear_pointer(&engine->waiting_timer, g_source_unref);
    }
}

static void start_timer(FfRelay *relay);

static gboolean too_late(gpointer opaque)
{
    FfRelay *relay = opaque;
    FfEngine *engine = relay->engine;
    gint64 now = g_get_monotonic_time();
    Waiting *w;

    g_clear_pointer(&engine->waiting_timer, g_source_unref);
    while ((w = g_queue_peek_head(&engine->waiting)) && w->until <= now) {
        g_queue_pop_head(&engine->waiting);
        /* What comes of it (the client's next command) finds the queue as it is. */
        engine->ops->refuse(relay, w->mon, w->seq, ff_absence_text(relay));
        waiting_free(w);
    }
    start_timer(relay);
    return G_SOURCE_REMOVE;
}

/* For the first of them, whose time is over first. */
static void start_timer(FfRelay *relay)
{
    FfEngine *engine = relay->engine;
    const Waiting *w = g_queue_peek_head(&engine->waiting);

    if (!w || engine->waiting_timer) {
        return;
    }
    engine->waiting_timer = g_timeout_source_new((guint)ff_deadline_left_ms(w->until));
    g_source_set_callback(engine->waiting_timer, too_late, relay, NULL);
    g_source_attach(engine->waiting_timer, NULL);
}

void ff_waiting_add(FfRelay *relay, unsigned mon, uint32_t seq, const char *json)
{
    Waiting *w = g_new0(Waiting, 1);

    w->mon = mon;
    w->seq = seq;
    w->json = g_strdup(json);
    w->until = g_get_monotonic_time() + WAIT_MS * G_TIME_SPAN_MILLISECOND;
    g_queue_push_tail(&relay->engine->waiting, w);
    start_timer(relay);
}

void ff_waiting_send(FfRelay *relay)
{
    FfEngine *engine = relay->engine;
    Waiting *w;

    stop_timer(engine);
    while ((w = g_queue_pop_head(&engine->waiting))) {
        ff_link_send(engine->link, FF_LINK_COMMAND, w->mon, w->seq, w->json, strlen(w->json), NULL,
                     0); /* a dead link is reported by its end */
        waiting_free(w);
    }
}

void ff_waiting_pass(FfRelay *relay)
{
    FfEngine *engine = relay->engine;
    GQueue all = engine->waiting; /* what follows one of them may wait again */
    Waiting *w;

    stop_timer(engine);
    g_queue_init(&engine->waiting);
    while ((w = g_queue_pop_head(&all))) {
        engine->ops->do_without(relay, w->mon, w->seq);
        waiting_free(w);
    }
}

void ff_waiting_drop(FfRelay *relay, unsigned mon)
{
    GQueue *waiting = &relay->engine->waiting;

    for (GList *l = waiting->head, *next; l; l = next) {
        next = l->next;
        if (((Waiting *)l->data)->mon == mon) {
            waiting_free(l->data);
            g_queue_delete_link(waiting, l);
        }
    }
}

void ff_waiting_end(FfRelay *relay)
{
    stop_timer(relay->engine);
    g_queue_clear_full(&relay->engine->waiting, waiting_free);
}
