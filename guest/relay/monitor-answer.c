/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What QEMU says to one client: passed on byte for byte, except the replies to injected
 * commands (to the engine), the events that are filtered and what comes too late (nowhere).
 *
 * A message is held only until its kind is known (its first member tells), so long replies
 * stream. Which command a reply answers: QEMU answers in-band commands in order, so the oldest
 * one; only while an out-of-band command is under way, too, does the id decide. What QEMU says
 * is not trusted: held bytes are bounded, a reply too many changes no account.
 *
 * One thread; no locks.
 */
#include "contract/link.h"
#include "guest/relay/engine.h"
#include "guest/relay/guest.h"
#include "guest/relay/monitor-internal.h"
#include "guest/relay/routing.h"

#include <string.h>

#define MAX_HELD_EVENT (1 << 20)
#define MAX_HELD_UNKNOWN (64 << 10)
#define MAX_GREETING (4 << 10)

/* TRUE if the held event says that a migration is set up. */
static bool says_setup(const FfMonitor *mon)
{
    return memmem(mon->held->data, mon->held->len, "\"setup\"", strlen("\"setup\""));
}

static FfOut decide_event(FfMonitor *mon, const char *event, bool end)
{
    bool migration = !strcmp(event, "MIGRATION") || !strcmp(event, "MIGRATION_PASS");
    unsigned filter = migration ? FF_FILTER_MIGRATION_EVENTS | FF_FILTER_SETUP_EVENTS
                      : !strcmp(event, "STOP") || !strcmp(event, "RESUME") ? FF_FILTER_STOP_RESUME
                                                                           : 0;

    if (filter) {
        /* The engine sets a filter and then does what causes the event, so what it said is here
         * by now, though perhaps not read. */
        ff_engine_read_now(mon->relay);
    }
    filter &= mon->event_filters;
    if (filter == FF_FILTER_SETUP_EVENTS) {
        return !end && mon->held->len <= MAX_HELD_EVENT ? FF_OUT_UNDECIDED
               : says_setup(mon)                        ? FF_OUT_SWALLOW
                                                        : FF_OUT_PASS;
    }
    return filter ? FF_OUT_SWALLOW : FF_OUT_PASS;
}

static FfOut decide_reply(FfMonitor *mon, const FfQmpAnswer *answer, bool end)
{
    const FfSent *next = g_queue_peek_head(&mon->inband);

    if (!next || (!next->injected && !next->overdue)) {
        /* With another one under way it is not known yet which of them this answers. */
        mon->own = next ? next->own : NULL;
        mon->own_place =
            mon->own && g_queue_is_empty(&mon->oob) ? FF_OWN_AFTER_RETURN : FF_OWN_NOWHERE;
        return FF_OUT_PASS;
    }
    FfOut out = next->injected ? FF_OUT_CAPTURE : FF_OUT_SWALLOW;
    if (g_queue_is_empty(&mon->oob)) {
        return out;
    }
    if (!end && !answer->id) {
        return mon->held->len > FF_LINK_MAX_PAYLOAD ? FF_OUT_PASS : FF_OUT_UNDECIDED;
    }
    return ff_qmp_id_equal(answer->id, next->id) ? out : FF_OUT_PASS;
}

static FfOut decide_output(FfMonitor *mon, const FfQmpAnswer *answer, bool end)
{
    switch (answer->kind) {
    case FF_QMP_GREETING:
        return mon->adopting ? FF_OUT_CAPTURE : FF_OUT_PASS; /* the client has been greeted */
    case FF_QMP_REPLY:
        return decide_reply(mon, answer, end);
    case FF_QMP_EVENT:
        if (answer->event) {
            /* On a kept connection QEMU does not know that the client is a new one; on a new one
             * its other threads may be quicker than its greeting (monitor_init_qmp()). */
            bool early = (mon->kept && !mon->negotiated) || !mon->greeted;

            return early ? FF_OUT_SWALLOW : decide_event(mon, answer->event, end);
        }
        return end || mon->held->len > MAX_HELD_EVENT ? FF_OUT_PASS : FF_OUT_UNDECIDED;
    default:
        return end || mon->held->len > MAX_HELD_UNKNOWN ? FF_OUT_PASS : FF_OUT_UNDECIDED;
    }
}

/* Which command was answered; it leaves its queue. NULL: none was expected. */
static FfSent *take_sent(FfMonitor *mon, const FfQmpAnswer *answer)
{
    FfSent *oob = g_queue_peek_head(&mon->oob), *inband = g_queue_peek_head(&mon->inband);

    if (oob && (!inband || (mon->out == FF_OUT_PASS && ff_qmp_id_equal(answer->id, oob->id)))) {
        return g_queue_pop_head(&mon->oob);
    }
    return g_queue_pop_head(&mon->inband);
}

/* From the beginning of a migration on it is the engine that is told. (An error of the human
 * monitor's is not seen here.) */
static void note_said(FfRelay *relay, FfSaid said)
{
    if (relay->plan->incoming && relay->state->role == FF_ROLE_NONE) {
        relay->state->said = said;
    }
}

static void command_answered(FfMonitor *mon, const FfQmpAnswer *answer)
{
    FfSent *sent = take_sent(mon, answer);

    if (!sent) {
        return;
    }
    if (sent->negotiates && !answer->is_error) {
        bool told = sent->overdue && !sent->injected; /* the client has its answer */

        mon->negotiated = mon->negotiated || !told;
        mon->oob_enabled = told ? mon->oob_enabled : sent->enables_oob;
        mon->qemu_oob = sent->enables_oob;
    }
    if (sent->barrier && --mon->barriers == 0) {
        mon->event_filters = mon->relay->filters;
    }
    if (sent->says != FF_SAID_NOTHING && !answer->is_error) {
        note_said(mon->relay, sent->says);
    }
    if (sent->caps && !answer->is_error) {
        /* An engine that was started meanwhile sees it as well. */
        ff_state_mark(mon->relay->state, FF_MARK_CAP(sent->caps));
    }
    if (sent->carried && !answer->is_error) {
        ff_carried_set(&mon->relay->state->totals, sent->carried);
    }
    if (sent->says != FF_SAID_NOTHING || sent->adds) {
        ff_engine_word_answered(mon->relay);
    }
    ff_fds_answered(mon, sent, answer->is_error);
    if (sent->answered) {
        sent->answered(mon, sent, answer->is_error);
    }
    if (sent->injected && !sent->lost) {
        size_t len = mon->out == FF_OUT_CAPTURE ? mon->held->len : 0;

        while (len && strchr("\r\n", mon->held->data[len - 1])) {
            len--;
        }
        ff_engine_inject_reply(mon->relay, mon->index, sent->seq, (char *)mon->held->data, len);
    }
    ff_sent_free(sent);
}

static void write_batch(FfMonitor *mon)
{
    if (mon->batch->len && !mon->awaited) {
        if (mon->client) {
            ff_conn_write(mon->client, mon->batch->data, mon->batch->len, NULL, 0);
        }
        g_byte_array_set_size(mon->batch, 0);
    }
}

static void write_inserts(FfMonitor *mon)
{
    GBytes *line;

    while ((line = g_queue_pop_head(&mon->inserts))) {
        gsize len;
        const guint8 *data = g_bytes_get_data(line, &len);

        g_byte_array_append(mon->batch, data, len);
        g_bytes_unref(line);
    }
    mon->insert_bytes = 0;
}

static void message_end(FfMonitor *mon, const FfQmpAnswer *answer)
{
    bool greeting = answer->kind == FF_QMP_GREETING;

    if (answer->kind == FF_QMP_REPLY) {
        command_answered(mon, answer);
    } else if (greeting && mon->out == FF_OUT_CAPTURE && mon->held->len <= MAX_GREETING) {
        g_byte_array_append(mon->greeting, mon->held->data, mon->held->len);
    }
    mon->out = FF_OUT_UNDECIDED;
    mon->own_place = FF_OWN_NOWHERE;
    mon->inside = false;
    /* A large reply was here; an idle relay is to be small. */
    if (mon->held->len > MAX_HELD_UNKNOWN) {
        g_byte_array_unref(mon->held);
        mon->held = g_byte_array_new();
    }
    g_byte_array_set_size(mon->held, 0);
    write_inserts(mon);
    if (greeting) {
        ff_guest_is_up(mon->relay);
    }
}

/* Passes what of DATA comes up to the bracket of QEMU's list, which is not empty, and then what is
 * ours. Returns how much of DATA that was. */
static size_t pass_with_own(FfMonitor *mon, const FfQmpAnswer *answer, const guint8 *data,
                            size_t len)
{
    static const char between[] = ": \t\r\n";
    size_t n = 0;

    if (mon->own_place == FF_OWN_AFTER_RETURN) {
        mon->own_place = answer->returns ? FF_OWN_AFTER_BRACKET : mon->own_place;
        return 0; /* DATA ends after that word, or before it */
    }
    while (n < len && memchr(between, data[n], strlen(between))) {
        n++;
    }
    if (n == len) {
        return 0;
    }
    mon->own_place = FF_OWN_NOWHERE;
    if (data[n] != '[') {
        return 0;
    }
    g_byte_array_append(mon->batch, data, ++n);
    g_byte_array_append(mon->batch, (const guint8 *)mon->own, strlen(mon->own));
    return n;
}

static void pass_answer(FfMonitor *mon, const FfQmpAnswer *answer, const guint8 *data, size_t len)
{
    size_t n = mon->own_place != FF_OWN_NOWHERE ? pass_with_own(mon, answer, data, len) : 0;

    g_byte_array_append(mon->batch, data + n, len - n);
    mon->inside = true;
    mon->greeted |= answer->kind == FF_QMP_GREETING;
    if (answer->kind == FF_QMP_GREETING && mon->greeting->len + len <= MAX_GREETING) {
        g_byte_array_append(mon->greeting, data, len);
    }
}

static void message_bytes(FfMonitor *mon, const char *buf, size_t len, bool end)
{
    const FfQmpAnswer *answer = ff_qmp_splitter_answer(mon->splitter);

    if (mon->out == FF_OUT_UNDECIDED) {
        g_byte_array_append(mon->held, (const guint8 *)buf, len);
        mon->out = decide_output(mon, answer, end);
        if (mon->out == FF_OUT_PASS) {
            pass_answer(mon, answer, mon->held->data, mon->held->len);
        }
        if (mon->out == FF_OUT_PASS || mon->out == FF_OUT_SWALLOW) {
            g_byte_array_set_size(mon->held, 0);
        }
    } else if (mon->out == FF_OUT_PASS) {
        pass_answer(mon, answer, (const guint8 *)buf, len);
    } else if (mon->out == FF_OUT_CAPTURE) {
        g_byte_array_append(mon->held, (const guint8 *)buf, len);
        if (mon->held->len > FF_LINK_MAX_PAYLOAD) {
            g_byte_array_set_size(mon->held, 0);
            mon->out = FF_OUT_SWALLOW; /* the engine gets an empty reply */
        }
    }
    if (end) {
        message_end(mon, answer);
    }
}

void ff_answer_data(FfMonitor *mon, const char *buf, size_t len)
{
    size_t used = 0;

    while (used < len) {
        bool end;
        size_t n = ff_qmp_splitter_feed(mon->splitter, buf + used, len - used, &end);

        message_bytes(mon, buf + used, n, end);
        used += n;
    }
    write_batch(mon);
}

void ff_answer_insert(FfMonitor *mon, const char *line, size_t len)
{
    GByteArray *text = g_byte_array_sized_new(len + 2);

    g_byte_array_append(text, (const guint8 *)line, len);
    g_byte_array_append(text, (const guint8 *)"\r\n", 2);
    mon->insert_bytes += text->len;
    g_queue_push_tail(&mon->inserts, g_byte_array_free_to_bytes(text));
    if (!mon->inside) {
        write_inserts(mon);
        write_batch(mon);
    }
}

void ff_answer_flush(FfMonitor *mon)
{
    write_batch(mon);
}

void ff_answer_reset(FfMonitor *mon)
{
    g_clear_pointer(&mon->splitter, ff_qmp_splitter_free);
    g_queue_clear_full(&mon->inserts, (GDestroyNotify)g_bytes_unref);
    mon->insert_bytes = 0;
    g_byte_array_set_size(mon->held, 0);
    g_byte_array_set_size(mon->batch, 0);
    mon->out = FF_OUT_UNDECIDED;
    mon->own_place = FF_OWN_NOWHERE;
    mon->inside = false;
}
