/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A vhost-user device that a client plugs (hotplug-vhost.h): the client's command waits until QEMU
 * has changed the chardev, which the relay asks for on the same connection.
 *
 * QEMU removes a chardev that nobody uses before it makes the new one (qmp_chardev_change()). If it
 * was about to connect it lives until that has come to an end, and the new one is refused
 * ("duplicate yank instance"): QEMU has no event for that end, so it is asked again. Where it
 * cannot have ours it makes the chardev as it was, and the device is QEMU's own.
 *
 * One thread; no locks. System calls: close.
 */
#include <errno.h>
#include <json-glib/json-glib.h>
#include <string.h>
#include <unistd.h>

#include "contract/link.h"
#include "contract/state.h"
#include "guest/relay/backends.h"
#include "guest/relay/monitor-internal.h"
#include "guest/relay/routing.h"
#include "qmp/json.h"

#define AGAIN_MS 10
#define MAX_TRIES 500

/* Of a client's. */
static void chardev_answered(FfMonitor *mon, FfSent *sent, bool error)
{
    FfHotplug *plugged = mon->relay->plugged;
    g_autofree char *id =
        sent->plugged ? ff_hotplug_heard(plugged, sent->chardev, sent->plugged, error) : NULL;

    if (!sent->plugged) {
        /* What it has changed is of now, and not of when it was said. */
        ff_hotplug_forget(plugged, sent->chardev, strlen(sent->chardev));
    }
    if (id) {
        ff_backends_unplugged(mon->relay, id);
    }
}

/* Others may use a chardev as well, or change it. */
static bool may_use(const FfQmpCommand *command)
{
    static const char *const names[] = {"human-monitor-command", "object-add", "add_client", NULL};

    return command && command->name &&
           (ff_hotplug_adds(command) || g_strv_contains(names, command->name));
}

void ff_plug_note(FfMonitor *mon, const FfItem *item, FfSent *sent)
{
    bool concerns = ff_hotplug_concerns(item->command);

    sent->adds = ff_adds_device(item->command);
    if (!mon->relay->plan->backends->len || (!concerns && !may_use(item->command))) {
        return;
    }
    const GString *json = item->command->json;
    if (concerns) {
        sent->plugged = ff_hotplug_passes(mon->relay->plugged, item->command);
    } else {
        ff_hotplug_forget(mon->relay->plugged, json->str, json->len);
    }
    sent->chardev = g_strdup(json->str);
    sent->answered = chardev_answered;
}

void ff_plug_unheard(FfMonitor *mon)
{
    for (GList *l = mon->inband.head; l; l = l->next) {
        FfSent *sent = l->data;

        if (sent->answered == chardev_answered) {
            chardev_answered(mon, sent, true);
        }
    }
}

void ff_plug_end(FfMonitor *mon)
{
    FfTaking *t = g_steal_pointer(&mon->taking);

    if (!t) {
        return;
    }
    g_clear_handle_id(&t->timer, g_source_remove);
    if (t->backend >= 0) {
        close(t->backend);
    }
    ff_plug_free(t->plug);
    g_free(t->change);
    g_free(t->add);
    g_free(t);
}

static void own_answered(FfMonitor *mon, FfSent *sent, bool error);
static gboolean connect_again(gpointer data);

static void send_step(FfMonitor *mon)
{
    const FfTaking *t = mon->taking;

    ff_inject_own(mon, t->step == FF_TAKING_CHANGE ? t->change
                       : t->step == FF_TAKING_ADD  ? t->add
                                                   : t->plug->again)
        ->answered = own_answered;
}

/* What QEMU has removed already is there again, as far as that can be had. */
void ff_plug_client_gone(FfMonitor *mon)
{
    if (mon->taking && mon->taking->timer) {
        g_clear_handle_id(&mon->taking->timer, g_source_remove);
        if (mon->taking->step == FF_TAKING_CONNECT) {
            ff_plug_end(mon); /* QEMU was not asked for anything */
            return;
        }
        mon->taking->step = FF_TAKING_RESTORE;
        send_step(mon);
    }
}

static gboolean ask_again(gpointer data)
{
    FfMonitor *mon = data;

    mon->taking->timer = 0;
    send_step(mon);
    return G_SOURCE_REMOVE;
}

/* Says why a device stays QEMU's own. */
static bool leave_to_qemu(FfMonitor *mon, const char *id, const char *why)
{
    ff_relay_log(mon->relay,
                 "the back-end of chardev '%s' stays QEMU's own, as this guest's migrations do: %s",
                 id, why);
    return false;
}

/* A daemon takes one connection at a time, and that of QEMU's chardev may be in front of this one,
 * with those of chardevs that are gone: the socket is full then (EAGAIN). FALSE: it is left to
 * QEMU. */
static bool connect_daemon(FfMonitor *mon)
{
    FfTaking *t = mon->taking;

    if (__atomic_load_n(&mon->relay->state->phase, __ATOMIC_ACQUIRE) != FF_PHASE_IDLE) {
        return leave_to_qemu(mon, t->plug->id, "a migration is under way");
    }
    int in_qemu, backend = ff_conn_to_path(t->plug->path);

    if (backend == -EAGAIN && ++t->tries < MAX_TRIES) {
        if (t->tries == 1) {
            ff_relay_log(mon->relay, "%s: its daemon is busy with other connections: waiting",
                         t->plug->path);
        }
        t->timer = g_timeout_add(AGAIN_MS, connect_again, mon);
        return true;
    }
    if (backend < 0) {
        g_autofree char *why =
            g_strdup_printf("cannot connect to %s: %s", t->plug->path, g_strerror(-backend));

        return leave_to_qemu(mon, t->plug->id, why);
    }
    t->spare = ff_backends_spare(mon->relay, &in_qemu);
    if (t->spare < 0) {
        close(backend);
        return leave_to_qemu(mon, t->plug->id,
                             "farfault has no more sockets for what is plugged: "
                             "8 in the life of a QEMU");
    }
    t->backend = backend;
    t->change = ff_plug_command(t->plug, "chardev-change", in_qemu);
    t->add = ff_plug_command(t->plug, "chardev-add", in_qemu);
    t->step = FF_TAKING_CHANGE;
    t->tries = 0;
    send_step(mon);
    return true;
}

/* Its client waits. */
static gboolean connect_again(gpointer data)
{
    FfMonitor *mon = data;

    mon->taking->timer = 0;
    if (!connect_daemon(mon)) {
        ff_plug_end(mon);
        mon->plugged = true;
        mon->pump(mon);
    }
    return G_SOURCE_REMOVE;
}

/* What is in the guest's memory by its back-end's doing would be taken for what came. */
static bool is_coming(const FfRelay *relay)
{
    return relay->state->role == FF_ROLE_DESTINATION &&
           __atomic_load_n(&relay->state->phase, __ATOMIC_ACQUIRE) != FF_PHASE_IDLE;
}

bool ff_plug_begins(FfMonitor *mon, FfItem *item, const char **refused_why)
{
    FfRelay *relay = mon->relay;
    bool network, is_network;

    if (item->plugged || !relay->plan->backends->len || !ff_hotplug_adds(item->command)) {
        return false;
    }
    g_autofree char *id = ff_hotplug_chardev(item->command, &network);
    if (!id) {
        return false;
    }
    if (is_coming(relay)) {
        *refused_why = FF_PLUG_COMING;
        return false;
    }
    if (ff_backends_has(relay, id, &is_network)) {
        /* A network's rings stop at once, a disk's when they are empty. */
        *refused_why = network == is_network
                           ? NULL
                           : "another kind of vhost-user device was to have this chardev: remove "
                             "it, and add it anew";
        return false;
    }
    g_autoptr(FfPlug) plug = ff_hotplug_take(relay->plugged, id);
    if (!plug) {
        return leave_to_qemu(
            mon, id,
            "farfault takes what was added by chardev-add of QMP, to this relay, with an "
            "absolute path, server=false and reconnect=, and has no other user");
    }
    if (mon->taking) { /* of a client that has gone */
        return leave_to_qemu(mon, id, "QEMU has not answered the last one");
    }
    FfTaking *t = mon->taking = g_new0(FfTaking, 1);

    t->backend = -1;
    t->network = network;
    t->plug = g_steal_pointer(&plug);
    mon->plugging = item; /* no other command is passed meanwhile, nor the client's end */
    /* A back-end that is not there makes QEMU wait for it: then it need not be ours. */
    if (!connect_daemon(mon)) {
        mon->plugging = NULL;
        ff_plug_end(mon);
        return false;
    }
    return true;
}

/* QEMU's words (g_free). */
static char *desc_of(const FfMonitor *mon)
{
    g_autofree char *text = g_strndup((const char *)mon->held->data, mon->held->len);
    g_autoptr(JsonNode) node = ff_json_from_text(text);
    JsonObject *o = ff_json_node_object(node);

    return g_strdup(ff_json_string_or(ff_json_object(o, "error"), "desc", "it does not say why"));
}

static void plug_taken(FfMonitor *mon)
{
    FfTaking *t = mon->taking;

    if (t->step != FF_TAKING_RESTORE) {
        ff_backends_plug(mon->relay, t->spare,
                         &(FfBackendPlug){.id = t->plug->id,
                                          .path = t->plug->path,
                                          .reconnect = t->plug->reconnect,
                                          .network = t->network},
                         g_steal_fd(&t->backend));
    }
}

/* TRUE: it is asked again. */
static bool plug_refused(FfMonitor *mon)
{
    g_autofree char *why = desc_of(mon);
    FfTaking *t = mon->taking;

    bool yank = strstr(why, "duplicate yank instance");

    if (!mon->plugging && t->step != FF_TAKING_RESTORE) { /* its client has gone */
        if (yank) {
            t->step = FF_TAKING_RESTORE; /* it was removed */
            t->tries = 0;
            send_step(mon);
        }
        return yank;
    }
    if (yank && ++t->tries < MAX_TRIES) {
        t->step = t->step == FF_TAKING_CHANGE ? FF_TAKING_ADD : t->step;
        t->timer = g_timeout_add(AGAIN_MS, ask_again, mon);
        return true;
    }
    if (t->step == FF_TAKING_RESTORE) {
        return false; /* it is there, or QEMU will say of the device that it is not */
    }
    ff_relay_log(mon->relay,
                 "QEMU does not give chardev '%s' to farfault: the device's back-end stays QEMU's "
                 "own, as this guest's migrations do: %s",
                 t->plug->id, why);
    if (strstr(why, "does not exist")) {
        return false; /* QEMU will say so of the device as well */
    }
    t->step = FF_TAKING_RESTORE;
    t->tries = 0;
    send_step(mon);
    return true;
}

static void own_answered(FfMonitor *mon, FfSent *sent, bool error)
{
    if (!mon->taking) {
        return;
    }
    if (!error) {
        plug_taken(mon);
    } else if (plug_refused(mon)) {
        return;
    }
    bool closes = mon->taking->closes;

    ff_plug_end(mon);
    mon->plugged = mon->plugging != NULL;
    if (closes && mon->qemu) {
        ff_conn_finish(mon->qemu);
    }
}
