/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See hotplug-vhost.h. The members are those of QEMU's ChardevBackend and NetdevVhostUserOptions
 * (qapi/char.json, qapi/net.json): "server" is true unless it is said. One thread; no locks.
 */
#include "guest/relay/hotplug-vhost.h"

#include <json-glib/json-glib.h>
#include <string.h>

#include "contract/state.h"
#include "guest/agent/agent.h"
#include "guest/relay/routing.h"
#include "qmp/json.h"

struct FfHotplug {
    GHashTable *by_id;     /* char * -> FfPlug * */
    GHashTable *under_way; /* char * -> UnderWay *, by id: commands that are not answered */
    guint number;          /* of the last command */
};

typedef struct {
    guint n, last; /* how many; the number of the last one, or of another word on that chardev */
} UnderWay;

FfHotplug *ff_hotplug_new(void)
{
    FfHotplug *p = g_new0(FfHotplug, 1);

    p->by_id = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, (GDestroyNotify)ff_plug_free);
    p->under_way = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    return p;
}

void ff_hotplug_free(FfHotplug *p)
{
    g_hash_table_unref(p->by_id);
    g_hash_table_unref(p->under_way);
    g_free(p);
}

void ff_plug_free(FfPlug *plug)
{
    g_free(plug->id);
    g_free(plug->path);
    g_free(plug->again);
    g_free(plug);
}

static bool is_named(const FfQmpCommand *command, const char *const *names)
{
    return command && command->name && !command->oob && g_strv_contains(names, command->name);
}

bool ff_hotplug_concerns(const FfQmpCommand *command)
{
    static const char *const names[] = {"chardev-add", "chardev-change", "chardev-remove", NULL};

    return is_named(command, names);
}

bool ff_hotplug_adds(const FfQmpCommand *command)
{
    static const char *const names[] = {"device_add", "netdev_add", NULL};

    return is_named(command, names);
}

/* ---- chardevs -------------------------------------------------------------------------------- */

/* The path of a plain unix socket to which QEMU connects, and connects again; NULL: it is something
 * else. A back-end that may not be lost for a moment must not be let go of. */
static const char *path_of(JsonObject *backend, unsigned *reconnect)
{
    static const char *const known[] = {"addr", "server", "reconnect", "reconnect-ms", NULL};
    static const char *const in_addr[] = {"path", "abstract", "tight", NULL};
    JsonObject *data = ff_json_object(backend, "data"), *addr = ff_json_object(data, "addr");
    JsonObject *where = ff_json_object(addr, "data");

    if (g_strcmp0(ff_json_string(backend, "type"), "socket") != 0 || !where ||
        g_strcmp0(ff_json_string(addr, "type"), "unix") != 0 || !ff_json_has_only(data, known) ||
        !ff_json_has_only(where, in_addr) || ff_json_bool(where, "abstract") ||
        !ff_json_value(data, "server", G_TYPE_BOOLEAN) || ff_json_bool(data, "server")) {
        return NULL;
    }
    gint64 seconds = CLAMP(ff_json_int(data, "reconnect", 0), 0, G_MAXINT);
    gint64 ms = CLAMP(ff_json_int(data, "reconnect-ms", 0), 0, G_MAXINT);
    const char *path = ff_json_string(where, "path");

    *reconnect = (unsigned)MAX(seconds, (ms + 999) / 1000);
    return *reconnect && path && g_path_is_absolute(path) ? path : NULL;
}

static char *command_text(const char *name, JsonObject *arguments)
{
    g_autoptr(JsonNode) root = json_node_new(JSON_NODE_OBJECT);
    JsonObject *o = json_object_new();

    json_object_set_string_member(o, "execute", name);
    json_object_set_object_member(o, "arguments", json_object_ref(arguments));
    json_node_take_object(root, o);
    return json_to_string(root, FALSE);
}

/* Only what looks the same wherever it is written: QEMU takes any text for an id here, and the
 * engine is told those of the relay's in lines. */
static bool is_plain(const char *id, const char *json)
{
    g_autofree char *quoted = g_strdup_printf("\"%s\"", id); /* it may go on behind a \0 */

    return *id && !id[strspn(id, G_CSET_A_2_Z G_CSET_a_2_z G_CSET_DIGITS "._-")] &&
           strstr(json, quoted);
}

static void chardev_added(FfHotplug *p, const char *id, JsonObject *arguments, const char *json)
{
    unsigned reconnect = 0;
    const char *path = path_of(ff_json_object(arguments, "backend"), &reconnect);

    if (!path || !is_plain(id, json) || strlen(id) >= sizeof(((FfStatePlugged *)0)->id) ||
        strlen(path) >= sizeof(((FfStatePlugged *)0)->path)) {
        return;
    }
    FfPlug *plug = g_new0(FfPlug, 1);

    plug->id = g_strdup(id);
    plug->path = g_strdup(path);
    plug->reconnect = reconnect;
    plug->again = command_text("chardev-add", arguments);
    g_hash_table_replace(p->by_id, g_strdup(id), plug);
}

/* Nobody knows of which chardev. */
static void forget_all(FfHotplug *p)
{
    GHashTableIter iter;
    gpointer w;

    g_hash_table_remove_all(p->by_id);
    g_hash_table_iter_init(&iter, p->under_way);
    while (g_hash_table_iter_next(&iter, NULL, &w)) {
        ((UnderWay *)w)->last = p->number;
    }
}

guint ff_hotplug_passes(FfHotplug *p, const FfQmpCommand *command)
{
    g_autoptr(JsonNode) node = ff_json_from_text(command->json->str);
    JsonObject *arguments = ff_json_object(ff_json_node_object(node), "arguments");
    const char *id = ff_json_string(arguments, "id");

    p->number++;
    if (!id) {
        forget_all(p);
        return p->number;
    }
    UnderWay *w = g_hash_table_lookup(p->under_way, id);
    if (!w) {
        w = g_new0(UnderWay, 1);
        g_hash_table_insert(p->under_way, g_strdup(id), w);
    }
    w->n++;
    w->last = p->number;
    g_hash_table_remove(p->by_id, id);
    return p->number;
}

/* TRUE: nothing else was said of chardev ID since command NUMBER, which is answered. */
static bool was_alone(FfHotplug *p, const char *id, guint number)
{
    UnderWay *w = g_hash_table_lookup(p->under_way, id);
    bool last = w && w->last == number, only = w && w->n == 1;

    if (only) {
        g_hash_table_remove(p->under_way, id);
    } else if (w) {
        w->n--;
    }
    return last && only;
}

char *ff_hotplug_heard(FfHotplug *p, const char *json, guint number, bool error)
{
    g_autoptr(JsonNode) node = ff_json_from_text(json);
    JsonObject *o = ff_json_node_object(node);
    JsonObject *arguments = ff_json_object(o, "arguments");
    const char *name = ff_json_string(o, "execute"), *id = ff_json_string(arguments, "id");

    if (!name || !id) {
        forget_all(p);
        return NULL;
    }
    bool alone = was_alone(p, id, number);
    if (error) {
        return NULL;
    }
    g_hash_table_remove(p->by_id, id);
    /* One that was changed may have had a user since before. */
    bool adds = !strcmp(name, "chardev-add");
    if (adds && alone) {
        chardev_added(p, id, arguments, json);
    }
    return adds ? NULL : g_strdup(id);
}

static gboolean is_mentioned(gpointer id, gpointer plug, gpointer text)
{
    gsize len;
    const char *bytes = g_bytes_get_data(text, &len);

    return ff_mentions(bytes, len, id);
}

void ff_hotplug_forget(FfHotplug *p, const char *text, size_t len)
{
    g_autoptr(GBytes) bytes = g_bytes_new_static(text, len);
    GHashTableIter iter;
    gpointer id, w;

    g_hash_table_foreach_remove(p->by_id, is_mentioned, bytes);
    p->number++;
    g_hash_table_iter_init(&iter, p->under_way);
    while (g_hash_table_iter_next(&iter, &id, &w)) {
        if (ff_mentions(text, len, id)) {
            ((UnderWay *)w)->last = p->number;
        }
    }
}

/* ---- devices --------------------------------------------------------------------------------- */

char *ff_hotplug_chardev(const FfQmpCommand *command, bool *network)
{
    g_autoptr(JsonNode) node = ff_json_from_text(command->json->str);
    JsonObject *o = ff_json_node_object(node);
    JsonObject *arguments = ff_json_object(o, "arguments");
    const char *driver = ff_json_string(arguments, "driver");

    *network = !strcmp(command->name, "netdev_add");
    bool is = *network ? !g_strcmp0(ff_json_string(arguments, "type"), "vhost-user")
                       : driver && g_str_has_prefix(driver, "vhost-user-blk");
    return is ? g_strdup(ff_json_string(arguments, "chardev")) : NULL;
}

FfPlug *ff_hotplug_take(FfHotplug *p, const char *id)
{
    gpointer key, plug;

    if (!g_hash_table_steal_extended(p->by_id, id, &key, &plug)) {
        return NULL;
    }
    g_free(key);
    return plug;
}

char *ff_plug_command(const FfPlug *plug, const char *name, int in_qemu)
{
    g_autofree char *text = g_strdup_printf(
        "{\"backend\": {\"type\": \"socket\", \"data\": {\"server\": true, \"wait\": false,"
        " \"addr\": {\"type\": \"unix\", \"data\": {\"path\": \"" FF_AGENT_SOCKET_PATH "%d\"}}}}}",
        in_qemu);
    g_autoptr(JsonNode) node = json_from_string(text, NULL);
    JsonObject *arguments = json_node_get_object(node);

    json_object_set_string_member(arguments, "id", plug->id);
    return command_text(name, arguments);
}
