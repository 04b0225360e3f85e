/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Commands that go to QEMU on a client's connection without the client's knowing: those of the
 * engine, and the relay's own barriers for lifted event filters. They are in-band, so QEMU
 * answers them in their turn; the reply is taken out by monitor-answer.c.
 *
 * One thread; no locks.
 */
#include "contract/link.h"
#include "guest/relay/engine.h"
#include "guest/relay/monitor-internal.h"
#include "guest/relay/monitor.h"

#include <string.h>

bool ff_inject_pending(const FfMonitor *mon)
{
    for (const GList *l = mon->inband.head; l; l = l->next) {
        if (((const FfSent *)l->data)->injected) {
            return true;
        }
    }
    return false;
}

void ff_inject_give_up(FfMonitor *mon)
{
    for (GList *l = mon->inband.head; l; l = l->next) {
        FfSent *sent = l->data;

        if (sent->injected && !sent->lost) {
            sent->lost = true;
            ff_engine_inject_reply(mon->relay, mon->index, sent->seq, NULL, 0);
        }
    }
}

/* JSON is an object without "id". Returns what QEMU must answer. */
static FfSent *inject_command(FfMonitor *mon, uint32_t seq, const char *json)
{
    FfSent *sent = g_new0(FfSent, 1);
    g_autofree char *line = NULL;

    sent->getfd_copy = -1;
    sent->injected = true;
    sent->since = g_get_monotonic_time();
    sent->seq = seq;
    sent->id = g_strdup_printf("\"farfault:%u:%08x\"", seq, g_random_int());
    g_queue_push_tail(&mon->inband, sent);
    ff_overdue_watch(mon);
    line = g_strdup_printf("{\"id\": %s, %s\n", sent->id, json + 1);
    ff_conn_write(mon->qemu, line, strlen(line), NULL, 0);
    mon->pump(mon);
    return sent;
}

FfSent *ff_inject_own(FfMonitor *mon, const char *json)
{
    FfSent *sent = inject_command(mon, 0, json);

    sent->lost = true; /* nobody waits for it */
    return sent;
}

/*
 * A lifted filter of events must not let through those that QEMU emitted before: they
 * may stand in the socket, or in QEMU's own buffer if the client reads slowly. The reply to a
 * command that is sent now comes after them.
 */
void ff_monitor_filters_changed(FfMonitor *mon)
{
    unsigned now = mon->relay->filters;
    unsigned late = FF_FILTER_MIGRATION_EVENTS | FF_FILTER_SETUP_EVENTS | FF_FILTER_STOP_RESUME;
    /* From all events to those of the setup: at once, nothing was emitted before (link.h). */
    unsigned lifted = now & FF_FILTER_SETUP_EVENTS ? 0 : mon->event_filters & ~now & late;

    mon->event_filters = now | lifted;
    ff_overdue_watch(mon);
    if (!lifted) {
        return;
    }
    if (mon->qemu && (mon->client || mon->awaited) && mon->negotiated) {
        FfSent *sent = ff_inject_own(mon, "{\"execute\": \"query-name\"}");

        sent->barrier = true;
        mon->barriers++;
    } else {
        mon->event_filters = now;
    }
}

bool ff_monitor_inject(FfMonitor *mon, uint32_t seq, GBytes *bytes)
{
    gsize len;
    const char *text = g_bytes_get_data(bytes, &len);
    g_autoptr(FfQmpCommand) command = ff_qmp_command_parse(text, len);

    if (!mon->client || !mon->qemu || !command || !command->name || command->id) {
        return false;
    }
    inject_command(mon, seq, command->json->str);
    return true;
}
