/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A vhost-user device that a client plugs (plugged.h): the client's command waits until QEMU has
 * changed the chardev, which the relay asks for on the same connection.
 *
 * QEMU removes a chardev that nobody uses before it makes the new one (qmp_chardev_change()). If it
 * was about to connect it lives until that has come to an end, and the new one is refused
 * ("duplicate yank instance"): QEMU has no event for that end, so it is asked again. Where it
 * cannot have ours it makes the chardev as it was, and the device is QEMU's own.
 *
 * One thread; no locks. System calls: stat.
 */
#include <json-glib/json-glib.h>
#include <string.h>
#include <sys/stat.h>

#include "qmp/json.h"
#include "relay/backends.h"
#include "relay/monitor-internal.h"
#include "state/state.h"

#define AGAIN_MS 10
#define MAX_TRIES 500

/* Of a client's. */
static void chardev_answered(FfMonitor *mon, FfSent *sent, bool error)
{
    g_autofree char *id = error ? NULL : ff_plugged_heard(mon->relay->plugged, sent->chardev);

    if (id) {
        ff_backends_unplugged(mon->relay, id);
    }
}

void ff_plug_note(const FfItem *item, FfSent *sent)
{
    if (ff_plugged_concerns(item->command)) {
        sent->chardev = g_strdup(item->command->json->str);
        sent->answered = chardev_answered;
    }
}

void ff_plug_end(FfMonitor *mon)
{
    FfTaking *t = g_steal_pointer(&mon->taking);

    if (!t) {
        return;
    }
    g_clear_handle_id(&t->timer, g_source_remove);
    ff_plug_free(t->plug);
    g_free(t->change);
    g_free(t->add);
    g_free(t);
}

void ff_plug_client_gone(FfMonitor *mon)
{
    if (mon->taking && mon->taking->timer) {
        ff_plug_end(mon);
    }
}

static void own_answered(FfMonitor *mon, FfSent *sent, bool error);

static void ask(FfMonitor *mon)
{
    const FfTaking *t = mon->taking;

    ff_inject_own(mon, t->step == FF_TAKING_CHANGE ? t->change
                       : t->step == FF_TAKING_ADD  ? t->add
                                                   : t->plug->again)
        ->answered = own_answered;
}

static gboolean ask_again(gpointer data)
{
    FfMonitor *mon = data;

    mon->taking->timer = 0;
    ask(mon);
    return G_SOURCE_REMOVE;
}

/* A device whose back-end is not there makes QEMU wait for it: then it need not be ours. */
static bool is_socket(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 && S_ISSOCK(st.st_mode);
}

bool ff_plug_begins(FfMonitor *mon, FfItem *item)
{
    FfRelay *relay = mon->relay;
    int in_qemu;

    if (!relay->plan->backends->len || !ff_plugged_adds(item->command) ||
        ff_state_is_under_way(relay->state)) {
        return false;
    }
    g_autoptr(FfPlug) plug = ff_plugged_take(relay->plugged, item->command);
    if (!plug || !is_socket(plug->path)) {
        return false;
    }
    int spare = ff_backends_spare(relay, &in_qemu);
    if (spare < 0) {
        ff_relay_log(relay,
                     "the back-end of chardev '%s' stays QEMU's own, as this guest's migrations "
                     "do: %d were plugged since its start",
                     plug->id, FF_STATE_PLUGGED);
        return false;
    }
    FfTaking *t = mon->taking = g_new0(FfTaking, 1);

    t->spare = spare;
    t->change = ff_plug_command(plug, "chardev-change", in_qemu);
    t->add = ff_plug_command(plug, "chardev-add", in_qemu);
    t->plug = g_steal_pointer(&plug);
    mon->plugging = item; /* no other command is passed meanwhile */
    ask(mon);
    return true;
}

/* QEMU's words (g_free). */
static char *desc_of(const FfMonitor *mon)
{
    g_autofree char *text = g_strndup((const char *)mon->held->data, mon->held->len);
    g_autoptr(JsonNode) node = json_from_string(text, NULL);
    JsonObject *o = node && JSON_NODE_HOLDS_OBJECT(node) ? json_node_get_object(node) : NULL;

    return g_strdup(ff_json_string_or(ff_json_object(o, "error"), "desc", "it does not say why"));
}

static void taken(FfMonitor *mon)
{
    const FfTaking *t = mon->taking;

    if (t->step != FF_TAKING_RESTORE) {
        ff_backends_plug(mon->relay, t->spare,
                         &(FfBackendPlug){.id = t->plug->id,
                                          .path = t->plug->path,
                                          .reconnect = t->plug->reconnect,
                                          .network = t->plug->network});
    }
}

/* TRUE: it is asked again. */
static bool refused(FfMonitor *mon)
{
    g_autofree char *why = desc_of(mon);
    FfTaking *t = mon->taking;

    if (!mon->plugging) {
        return false; /* its client has gone */
    }
    if (strstr(why, "yank") && ++t->tries < MAX_TRIES) {
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
    ff_backends_use_up(mon->relay, t->spare);
    t->step = FF_TAKING_RESTORE;
    t->tries = 0;
    ask(mon);
    return true;
}

static void own_answered(FfMonitor *mon, FfSent *sent, bool error)
{
    if (!mon->taking) {
        return;
    }
    if (!error) {
        taken(mon);
    } else if (refused(mon)) {
        return;
    }
    ff_plug_end(mon);
    mon->plugged = mon->plugging != NULL;
}
