/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The client monitors, by their number and all together (engine-ops.h). One thread; no locks. */
#include "guest/relay/monitors.h"

#include "guest/relay/clients.h"
#include "guest/relay/monitor.h"

static FfMonitor *nth_monitor(const FfRelay *relay, unsigned index)
{
    return relay->monitors->pdata[index];
}

static void reply_to_client(FfRelay *relay, unsigned mon, uint32_t seq, GBytes *line)
{
    ff_monitor_reply(nth_monitor(relay, mon), seq, line);
}

static void pass_command(FfRelay *relay, unsigned mon, uint32_t seq, GBytes *instead)
{
    ff_monitor_pass(nth_monitor(relay, mon), seq, instead);
}

static void do_without(FfRelay *relay, unsigned mon, uint32_t seq)
{
    ff_monitor_do_without(nth_monitor(relay, mon), seq);
}

static void refuse_command(FfRelay *relay, unsigned mon, uint32_t seq, const char *desc)
{
    ff_monitor_refuse(nth_monitor(relay, mon), seq, desc);
}

static int take_fd(FfRelay *relay, unsigned mon, const char *name)
{
    return ff_monitor_take_fd(nth_monitor(relay, mon), name);
}

static bool inject_command(FfRelay *relay, unsigned mon, uint32_t seq, GBytes *command)
{
    return ff_monitor_inject(nth_monitor(relay, mon), seq, command);
}

static void send_event(FfRelay *relay, GBytes *line)
{
    for (guint i = 0; i < relay->monitors->len; i++) {
        ff_monitor_event(nth_monitor(relay, i), line);
    }
}

static void filters_changed(FfRelay *relay)
{
    for (guint i = 0; i < relay->monitors->len; i++) {
        ff_monitor_filters_changed(nth_monitor(relay, i));
    }
}

static bool has_words(const FfRelay *relay)
{
    for (guint i = 0; i < relay->monitors->len; i++) {
        if (ff_monitor_has_words(nth_monitor(relay, i))) {
            return true;
        }
    }
    return false;
}

static void go_monitors(FfRelay *relay)
{
    for (guint i = 0; i < relay->monitors->len; i++) {
        ff_monitor_go(nth_monitor(relay, i));
    }
}

static void open_monitors(FfRelay *relay)
{
    for (guint i = 0; i < relay->monitors->len; i++) {
        ff_monitor_open(nth_monitor(relay, i));
    }
}

static void leave_monitors(FfRelay *relay)
{
    ff_clients_leave(relay, ff_monitor_leave);
}

static void engine_lost(FfRelay *relay, const char *desc)
{
    for (guint i = 0; i < relay->monitors->len; i++) {
        ff_monitor_engine_lost(nth_monitor(relay, i), desc);
    }
}

static void own_again(FfRelay *relay)
{
    for (guint i = 0; i < relay->monitors->len; i++) {
        ff_monitor_own_again(nth_monitor(relay, i));
    }
}

static void pump_monitors(FfRelay *relay)
{
    for (guint i = 0; i < relay->monitors->len; i++) {
        ff_monitor_pump(nth_monitor(relay, i));
    }
}

static bool has_pending(const FfRelay *relay)
{
    for (guint i = 0; i < relay->monitors->len; i++) {
        if (ff_monitor_has_pending(nth_monitor(relay, i))) {
            return true;
        }
    }
    return false;
}

const FfEngineOps ff_monitors_engine_ops = {
    .reply = reply_to_client,
    .pass = pass_command,
    .do_without = do_without,
    .refuse = refuse_command,
    .take_fd = take_fd,
    .inject = inject_command,
    .event = send_event,
    .filters_changed = filters_changed,
    .has_pending = has_pending,
    .has_words = has_words,
    .go = go_monitors,
    .open = open_monitors,
    .leave = leave_monitors,
    .engine_lost = engine_lost,
    .own_again = own_again,
    .pump = pump_monitors,
    .taken = ff_clients_take,
    .coming = ff_clients_are_coming,
};

void ff_monitors_start(FfRelay *relay)
{
    relay->monitors = g_ptr_array_new();
    relay->pump = pump_monitors;
    for (guint i = 0; i < relay->plan->monitors->len; i++) {
        g_ptr_array_add(relay->monitors, ff_monitor_new(relay, i));
    }
}

void ff_monitors_hear_out(FfRelay *relay)
{
    for (guint i = 0; i < relay->monitors->len; i++) {
        ff_monitor_hear_out(nth_monitor(relay, i));
    }
}

void ff_monitors_end(FfRelay *relay)
{
    for (guint i = 0; i < relay->monitors->len; i++) {
        ff_monitor_end(nth_monitor(relay, i));
    }
}
