/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What QEMU does not answer in time. A destination's main loop may wait for a page as long as the
 * connection to the source is lost, and what ends that are commands of the engine, which wait
 * their turn after those that QEMU owes an answer to. So then, and only then (FF_FILTER_OVERDUE),
 * such a command is answered with an error after a while, the negotiation of a new client and cont
 * as QEMU would; what QEMU says to them later goes nowhere. At other times QEMU takes as long as
 * it takes: a cont that opens disks must not fail.
 *
 * A client that leaves such answers outstanding leaves its connection to QEMU to the next one: QEMU
 * reads neither that connection's end nor from a new one before it continues. What the next client
 * sees is QEMU's greeting, and its negotiation is answered here.
 *
 * The timer is there only while an answer is outstanding then. One thread; no locks.
 */
#include "contract/link.h"
#include "guest/relay/monitor-internal.h"

#include <string.h>

#define ANSWER_MS 10000     /* as long as the engine waits for QEMU (qapi/requests.c) */
#define NEGOTIATION_MS 2000 /* nothing depends on its real answer */

#define ERROR(class, desc) "\"error\": {\"class\": \"" class "\", \"desc\": \"" desc "\"}"
#define NOT_ANSWERED                                                                               \
    "QEMU has not answered for 10 s: its main loop is busy or waits for guest memory, and may do " \
    "this when it continues; query-migrate, migrate-recover and migrate-pause are answered"
#define NOT_NEGOTIATED "Expecting capabilities negotiation with 'qmp_capabilities'"

static gint64 end_of(const FfSent *sent)
{
    return sent->since + (sent->negotiates ? NEGOTIATION_MS : ANSWER_MS) * G_TIME_SPAN_MILLISECOND;
}

/* ID as plain JSON, NULL if none. */
static void insert_reply(FfMonitor *mon, const char *id, const char *what)
{
    g_autofree char *line =
        g_strdup_printf("{%s%s%s%s}", id ? "\"id\": " : "", id ? id : "", id ? ", " : "", what);

    if (mon->client) {
        ff_answer_insert(mon, line, strlen(line));
    }
}

static void answer_overdue(FfMonitor *mon, FfSent *sent)
{
    sent->overdue = true;
    if (sent->injected) {
        return; /* the client does not know of it, and the engine waits as long as it likes */
    }
    if (sent->negotiates) {
        mon->negotiated = true;
        mon->oob_enabled = mon->qemu_oob = sent->enables_oob;
        insert_reply(mon, sent->id, "\"return\": {}");
    } else if (sent->conts) {
        /* QEMU does it when it continues (it resumes devices, which touch guest memory, after it
         * has said RESUME). libvirt destroys a guest that came in and whose cont fails. */
        insert_reply(mon, sent->id, "\"return\": {}");
    } else {
        insert_reply(mon, sent->id, ERROR("GenericError", NOT_ANSWERED));
    }
}

static gboolean look_for_overdue(gpointer opaque)
{
    FfMonitor *mon = opaque;
    gint64 now = g_get_monotonic_time();
    bool some = false;

    g_clear_pointer(&mon->overdue, g_source_unref);
    for (GList *l = mon->inband.head; l; l = l->next) {
        FfSent *sent = l->data;

        if (!sent->overdue && end_of(sent) <= now) {
            if (mon->inside) {
                sent->since = now; /* an answer that the client has in part comes to its end */
            } else {
                answer_overdue(mon, sent);
                some = true;
            }
        }
    }
    ff_overdue_watch(mon);
    if (some) {
        mon->pump(mon);
    }
    return G_SOURCE_REMOVE;
}

bool ff_overdue_waits(const FfMonitor *mon)
{
    for (const GList *l = mon->inband.head; l; l = l->next) {
        if (!((const FfSent *)l->data)->overdue) {
            return true;
        }
    }
    return false;
}

void ff_overdue_watch(FfMonitor *mon)
{
    gint64 now = g_get_monotonic_time(), first = G_MAXINT64;
    bool may_be = mon->relay->filters & FF_FILTER_OVERDUE, begins = may_be && !mon->may_be_overdue;

    mon->may_be_overdue = may_be;
    if (!may_be || begins) {
        ff_overdue_end(mon);
    }
    if (mon->overdue || !may_be) {
        return;
    }
    for (const GList *l = mon->inband.head; l; l = l->next) {
        FfSent *sent = l->data;

        sent->since = begins ? now : sent->since;
        first = sent->overdue ? first : MIN(first, end_of(sent));
    }
    if (first == G_MAXINT64) {
        return;
    }
    mon->overdue = g_timeout_source_new(MAX(0, first - now + 999) / 1000);
    g_source_set_callback(mon->overdue, look_for_overdue, mon, NULL);
    g_source_attach(mon->overdue, NULL);
}

void ff_overdue_end(FfMonitor *mon)
{
    if (mon->overdue) {
        g_source_destroy(mon->overdue);
        g_clear_pointer(&mon->overdue, g_source_unref);
    }
}

/* ---- the next client ------------------------------------------------------------------------- */

bool ff_overdue_keep(FfMonitor *mon)
{
    bool negotiated = mon->negotiated;

    for (GList *l = mon->inband.head; l; l = l->next) {
        negotiated |= ((const FfSent *)l->data)->negotiates;
    }
    if (!mon->may_be_overdue || g_queue_is_empty(&mon->inband) || !negotiated ||
        !g_queue_is_empty(&mon->oob)) {
        return false;
    }
    for (GList *l = mon->inband.head; l; l = l->next) {
        FfSent *sent = l->data;

        mon->qemu_oob = sent->negotiates && !sent->overdue ? sent->enables_oob : mon->qemu_oob;
        sent->overdue = true;
    }
    g_clear_pointer(&mon->framer, ff_qmp_framer_free);
    g_queue_clear_full(&mon->inserts, (GDestroyNotify)g_bytes_unref);
    mon->insert_bytes = 0;
    mon->negotiated = mon->oob_enabled = mon->client_ended = false;
    mon->kept = true;
    if (mon->accept) {
        mon->accepting = true;
        ff_accept_next(mon->accept);
    }
    return true;
}

void ff_overdue_greet(FfMonitor *mon)
{
    gsize len = mon->greeting->len;

    if (mon->inside) {
        /* Of this message the client has not seen the beginning. */
        mon->out = FF_OUT_SWALLOW;
        mon->inside = false;
    }
    g_byte_array_set_size(mon->batch, 0);
    while (len && strchr("\r\n", mon->greeting->data[len - 1])) {
        len--;
    }
    ff_answer_insert(mon, (const char *)mon->greeting->data, len);
}

void ff_overdue_negotiate(FfMonitor *mon, FfItem *item)
{
    const FfQmpCommand *command = item->command;
    const char *id = command ? command->id : NULL;

    if (command && !g_strcmp0(command->name, "qmp_capabilities")) {
        mon->negotiated = true;
        mon->oob_enabled = command->enable_oob && mon->qemu_oob;
        insert_reply(mon, id, "\"return\": {}");
    } else {
        insert_reply(mon, id, ERROR("CommandNotFound", NOT_NEGOTIATED));
    }
    ff_item_free(item);
}
