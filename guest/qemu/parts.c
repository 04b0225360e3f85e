/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the guest is made of, as contract/vmm-state.h wants it: machine type, CPUs, devices and
 * where they are.
 *
 * A device is told by its place, as QEMU's own stream does: ids may differ at both ends, and
 * numbers of PCI buses are given by the guest. Devices that somebody named on a command line or a
 * monitor are asked for one by one (QOM), with their bus. What is built in, or made by -hda and the
 * like, is on the root buses that query-pci lists.
 *
 * Thread: the coordinator's. No lock, no system calls.
 */
#include "guest/qemu/internal.h"

#include <string.h>

#include "guest/qemu/call.h"
#include "guest/qemu/device-state.h"
#include "qmp/json.h"

#define MAX_DEPTH 16 /* of buses: a QEMU may say that one is behind itself */
#define MAX_PARTS 1024

typedef struct {
    char *path, *type, *name; /* in QOM; the name as the user gave it */
    FfQmpCall *bus_asked, *addr_asked;
    char *bus;   /* QOM path; NULL: it is on none */
    gint64 addr; /* PCI: slot and function; -1: it is no PCI device */
} Part;

static void part_free(gpointer p)
{
    Part *part = p;

    g_clear_pointer(&part->bus_asked, ff_qmp_call_drop);
    g_clear_pointer(&part->addr_asked, ff_qmp_call_drop);
    g_free(part->path);
    g_free(part->type);
    g_free(part->name);
    g_free(part->bus);
    g_free(part);
}

/* ---- what QEMU is asked ---------------------------------------------------------------------- */

static JsonObject *path_args(const char *path, const char *property)
{
    JsonObject *args = json_object_new();

    json_object_set_string_member(args, "path", path);
    if (property) {
        json_object_set_string_member(args, "property", property);
    }
    return args;
}

static bool list_parts(FfQemu *qemu, const char *folder, GPtrArray *parts)
{
    g_autoptr(JsonNode) node = ff_qemu_call(qemu, "qom-list", path_args(folder, NULL), NULL);

    for (guint i = 0; i < ff_json_node_length(node) && parts->len < MAX_PARTS; i++) {
        JsonObject *child = ff_json_node_nth(node, i);
        const char *type = child ? ff_json_string_or(child, "type", "") : "";
        const char *name = child ? ff_json_string(child, "name") : NULL;

        if (name && g_str_has_prefix(type, "child<") && g_str_has_suffix(type, ">")) {
            Part *part = g_new0(Part, 1);
            size_t head = strlen("child<");

            part->type = g_strndup(type + head, strlen(type) - head - 1);
            part->name = g_strdup(name);
            part->path = g_strdup_printf("%s/%s", folder, name);
            g_ptr_array_add(parts, part);
        }
    }
    return node != NULL;
}

/* All at once, then all answers: one wait for QEMU's main loop. */
static void ask_places(FfQemu *qemu, GPtrArray *parts)
{
    for (guint i = 0; i < parts->len; i++) {
        Part *part = parts->pdata[i];
        part->bus_asked = ff_qemu_ask(qemu, "qom-get", path_args(part->path, "parent_bus"));
        part->addr_asked = ff_qemu_ask(qemu, "qom-get", path_args(part->path, "addr"));
    }
}

/* An error of QEMU's is an answer as well: a device that is on no bus, or has no address there.
 * *SAID is cleared where there is no answer. */
static JsonNode *value_of(FfQemu *qemu, FfQmpCall **asked, GType type, bool *said)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(JsonNode) node =
        ff_qmp_call_end(g_steal_pointer(asked), qemu->deadline_ms, qemu->cancel, &error);

    *said &= node || ff_qmp_refused(error);
    return node && JSON_NODE_HOLDS_VALUE(node) && json_node_get_value_type(node) == type
               ? g_steal_pointer(&node)
               : NULL;
}

/* FALSE: of one it is not known. */
static bool take_places(FfQemu *qemu, GPtrArray *parts)
{
    bool said = true;

    for (guint i = 0; said && i < parts->len; i++) {
        Part *part = parts->pdata[i];
        g_autoptr(JsonNode) bus = value_of(qemu, &part->bus_asked, G_TYPE_STRING, &said);
        g_autoptr(JsonNode) addr = value_of(qemu, &part->addr_asked, G_TYPE_INT64, &said);
        const char *path = bus ? json_node_get_string(bus) : "";

        part->bus = *path ? g_strdup(path) : NULL;
        part->addr = addr && part->bus ? json_node_get_int(addr) : -1;
    }
    return said;
}

/* ---- where a device is ----------------------------------------------------------------------- */

/* Whose bus it is; NULL: one that the machine has by itself. */
static const Part *owner_of(const GPtrArray *parts, const char *bus)
{
    for (guint i = 0; i < parts->len; i++) {
        const Part *part = parts->pdata[i];
        size_t len = strlen(part->path);
        if (strncmp(bus, part->path, len) == 0 && bus[len] == '/') {
            return part;
        }
    }
    return NULL;
}

static bool add_place(GString *place, const GPtrArray *parts, const Part *part, unsigned depth);

/* TRUE: all of it are PCI buses, from the machine's own on. */
static bool add_bus(GString *place, const GPtrArray *parts, const char *bus, unsigned depth)
{
    const Part *owner = owner_of(parts, bus);
    const char *slash = strrchr(bus, '/'), *name = slash ? slash + 1 : bus;

    if (owner && depth < MAX_DEPTH) {
        return add_place(place, parts, owner, depth + 1);
    }
    g_string_append(place, name);
    return strcmp(name, "pci.0") == 0 || strcmp(name, "pcie.0") == 0;
}

static bool add_place(GString *place, const GPtrArray *parts, const Part *part, unsigned depth)
{
    bool pci = part->bus && add_bus(place, parts, part->bus, depth) && part->addr >= 0;

    if (part->addr >= 0) {
        g_string_append_printf(place, "/%02x.%x", (unsigned)part->addr >> 3 & 31,
                               (unsigned)part->addr & 7);
    }
    return pci;
}

/* ---- the text -------------------------------------------------------------------------------- */

/* A field never ends early. */
static void add_line(GString *text, const char *kind, const char *name, const char *value,
                     const char *words)
{
    const char *fields[] = {kind, name, value, words};

    for (unsigned i = 0; i < G_N_ELEMENTS(fields); i++) {
        g_autofree char *field = g_strdelimit(g_strdup(fields[i]), "\t\n", '?');
        g_string_append_printf(text, "%s%s", i ? "\t" : "", field);
    }
    g_string_append_c(text, '\n');
}

/* Types that differ in what they offer to the guest's driver, not in what they are: where that
 * matters the numbers that query-pci has differ as well. */
static char *plain_type(const char *type)
{
    static const char *const ends[] = {"-non-transitional", "-transitional"};

    for (unsigned i = 0; i < G_N_ELEMENTS(ends); i++) {
        if (g_str_has_suffix(type, ends[i])) {
            return g_strndup(type, strlen(type) - strlen(ends[i]));
        }
    }
    return g_strdup(type);
}

static void add_parts(GString *text, const GPtrArray *parts)
{
    g_autoptr(GHashTable) others = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    GHashTableIter iter;
    gpointer name, count;

    for (guint i = 0; i < parts->len; i++) {
        const Part *part = parts->pdata[i];
        g_autoptr(GString) place = g_string_new(NULL);
        bool pci = add_place(place, parts, part, 0);

        if (pci) {
            g_autofree char *type = plain_type(part->type);
            g_autofree char *words = g_str_has_prefix(part->name, "device[")
                                         ? g_strdup(part->type)
                                         : g_strdup_printf("%s '%s'", part->type, part->name);
            add_line(text, "device", place->str, type, words);
        } else if (!g_str_has_suffix(part->type, "-cpu")) {
            char *key = place->len ? g_strdup_printf("%s on %s", part->type, place->str)
                                   : g_strdup(part->type);
            gsize n = GPOINTER_TO_SIZE(g_hash_table_lookup(others, key));
            g_hash_table_insert(others, key, GSIZE_TO_POINTER(n + 1));
        }
    }
    g_hash_table_iter_init(&iter, others);
    while (g_hash_table_iter_next(&iter, &name, &count)) {
        g_autofree char *value = g_strdup_printf("%zu", GPOINTER_TO_SIZE(count));
        add_line(text, "other", name, value, name);
    }
}

static void add_pci_bus(GString *text, JsonObject *bus)
{
    JsonArray *devices = bus ? ff_json_array(bus, "devices") : NULL;

    for (guint i = 0; devices && i < json_array_get_length(devices); i++) {
        JsonObject *o = ff_json_node_object(json_array_get_element(devices, i));
        JsonObject *id = o ? ff_json_object(o, "id") : NULL;
        if (!id) {
            continue;
        }
        JsonObject *kind = ff_json_object(o, "class_info");
        const char *own = ff_json_string_or(o, "qdev_id", "");
        const char *what = kind ? ff_json_string_or(kind, "desc", "PCI device") : "PCI device";
        g_autofree char *place = g_strdup_printf(
            "%02x:%02x.%x", (unsigned)ff_json_int(o, "bus", 0) & 255,
            (unsigned)ff_json_int(o, "slot", 0) & 31, (unsigned)ff_json_int(o, "function", 0) & 7);
        g_autofree char *value =
            g_strdup_printf("%04x:%04x", (unsigned)ff_json_int(id, "vendor", 0) & 0xffff,
                            (unsigned)ff_json_int(id, "device", 0) & 0xffff);
        g_autofree char *words = *own ? g_strdup_printf("%s %s '%s'", what, value, own)
                                      : g_strdup_printf("%s %s", what, value);
        add_line(text, "pci", place, value, words);
    }
}

/* The buses that the machine has: the others have the numbers that the guest gave them. */
static bool add_pci(FfQemu *qemu, GString *text)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(JsonNode) node = ff_qemu_call(qemu, "query-pci", NULL, &error);

    for (guint i = 0; i < ff_json_node_length(node); i++) {
        add_pci_bus(text, ff_json_node_nth(node, i));
    }
    return node || ff_qmp_refused(error);
}

static bool add_cpus(FfQemu *qemu, GString *text)
{
    g_autoptr(JsonNode) node = ff_qemu_call(qemu, "query-cpus-fast", NULL, NULL);

    for (guint i = 0; i < ff_json_node_length(node); i++) {
        JsonObject *cpu = ff_json_node_nth(node, i);
        g_autofree char *index =
            g_strdup_printf("%d", cpu ? (int)ff_json_int(cpu, "cpu-index", 0) : 0);
        add_line(text, "cpu", index, "", "");
    }
    return ff_json_node_length(node) > 0;
}

char *ff_qemu_parts(FfVmmState *state)
{
    FfQemu *qemu = ff_qemu_of_state(state);
    g_autoptr(GPtrArray) parts = g_ptr_array_new_with_free_func(part_free);
    g_autoptr(GString) text = g_string_new(NULL);
    g_autofree char *machine = ff_qemu_machine(state);

    if (!machine || !list_parts(qemu, "/machine/peripheral", parts) ||
        !list_parts(qemu, "/machine/peripheral-anon", parts) || !add_cpus(qemu, text)) {
        return NULL;
    }
    unsigned version = ff_qmp_client_version(qemu->qmp);
    g_autofree char *number =
        g_strdup_printf("%u.%u.%u", version / 10000, version / 100 % 100, version % 100);

    ask_places(qemu, parts);
    if (!take_places(qemu, parts)) {
        return NULL;
    }
    add_line(text, "qemu", "version", number, "");
    add_line(text, "machine", "type", machine, "");
    add_parts(text, parts);
    return add_pci(qemu, text) ? g_string_free(g_steal_pointer(&text), FALSE) : NULL;
}
