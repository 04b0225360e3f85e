/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * See compare.h. What both QEMUs say is made into lists of names, each with what belongs to
 * it; every name of the running one must be the other's as well. Offsets, addresses and what one
 * version has more than another are no difference; a QEMU that does not answer is none that lacks a
 * name. One thread; no state.
 */
#include "cli/upgrade/compare.h"

#include <string.h>

#include "guest/launch/argv-opts.h"
#include "qmp/disk.h"
#include "qmp/image-name.h"
#include "qmp/json.h"

/* Fills LIST (name -> what; both g_free). FALSE and ERROR. */
typedef bool Ask(FfCliQmp *qmp, GHashTable *list, GError **error);
/* What LIST, of the running QEMU, calls otherwise than OTHERS, of the new one, and is the same, is
 * called as there. CWD: both QEMUs' folder; NULL: not known. FALSE and ERROR. */
typedef bool Rename(FfCliQmp *running, const char *cwd, GHashTable *list, GHashTable *others,
                    GError **error);

static JsonObject *two_arguments(const char *name, const char *value, const char *name2,
                                 const char *value2)
{
    JsonObject *o = json_object_new();

    json_object_set_string_member(o, name, value);
    if (name2) {
        json_object_set_string_member(o, name2, value2);
    }
    return o;
}

static bool ask_machine(FfCliQmp *qmp, GHashTable *list, GError **error)
{
    g_autoptr(JsonNode) node = ff_cli_qmp_call(
        qmp, "qom-get", two_arguments("path", "/machine", "property", "type"), error);

    if (node) {
        g_hash_table_insert(list, g_strdup("type"), g_strdup(json_node_get_string(node)));
    }
    return node;
}

/* Lines of NAME SIZE UNIT OFFSET USED TOTAL. */
static bool ask_blocks(FfCliQmp *qmp, GHashTable *list, GError **error)
{
    g_autoptr(JsonNode) node =
        ff_cli_qmp_call(qmp, "human-monitor-command",
                        two_arguments("command-line", "info ramblock", NULL, NULL), error);

    if (!node) {
        return false;
    }
    g_auto(GStrv) lines = g_strsplit_set(json_node_get_string(node), "\r\n", -1);
    for (unsigned i = 0; lines[i]; i++) {
        g_autoptr(GPtrArray) words = g_ptr_array_new();
        g_auto(GStrv) all = g_strsplit_set(lines[i], " \t", -1);

        for (unsigned k = 0; all[k]; k++) {
            if (*all[k]) {
                g_ptr_array_add(words, all[k]);
            }
        }
        if (words->len >= 6 && g_str_has_prefix(words->pdata[5], "0x")) {
            g_hash_table_insert(list, g_strdup(words->pdata[0]), g_strdup(words->pdata[5]));
        }
    }
    return true;
}

static bool add_children(FfCliQmp *qmp, const char *path, GHashTable *list, GError **error)
{
    g_autoptr(JsonNode) node =
        ff_cli_qmp_call(qmp, "qom-list", two_arguments("path", path, NULL, NULL), error);

    for (guint i = 0; node && i < ff_json_node_length(node); i++) {
        JsonObject *o = ff_json_node_nth(node, i);
        const char *type = ff_json_string_or(o, "type", "");

        if (g_str_has_prefix(type, "child<")) {
            g_hash_table_insert(list, g_strdup(ff_json_string_or(o, "name", "")), g_strdup(type));
        }
    }
    return node;
}

static bool ask_devices(FfCliQmp *qmp, GHashTable *list, GError **error)
{
    return add_children(qmp, "/machine/peripheral", list, error) &&
           add_children(qmp, "/machine/peripheral-anon", list, error);
}

/* VALUE, as it is said: a place on PCI as on the command line; the path of a bus without what is
 * above it, which versions call in several ways (g_free). */
static char *say_property(const char *name, JsonNode *value)
{
    const char *text = JSON_NODE_HOLDS_VALUE(value) ? json_node_get_string(value) : NULL;

    if (!text && !strcmp(name, "addr") && JSON_NODE_HOLDS_VALUE(value)) {
        gint64 place = json_node_get_int(value);

        return place >= 0 && place <= 0xff
                   ? g_strdup_printf("%02x.%x", (unsigned)place >> 3, (unsigned)place & 7)
                   : g_strdup_printf("0x%" G_GINT64_MODIFIER "x", (guint64)place);
    }
    return !text                         ? json_to_string(value, FALSE)
           : !strcmp(name, "parent_bus") ? g_path_get_basename(text)
                                         : g_strdup(text);
}

/* Where DEVICE, a child of FOLDER, is and what it is connected to: under the name of a device, the
 * guest's other disk may be in its place. */
static bool ask_places_of(FfCliQmp *qmp, const char *folder, const char *device, GHashTable *list,
                          GError **error)
{
    static const char *const known[] = {
        "parent_bus", "addr", "chardev", "netdev",  "drive",   "mac",    "serial", "port",
        "nr",         "unit", "lun",     "scsi-id", "channel", "iobase", "index",  NULL};
    g_autofree char *path = g_strdup_printf("%s/%s", folder, device);
    g_autoptr(JsonNode) all =
        ff_cli_qmp_call(qmp, "qom-list", two_arguments("path", path, NULL, NULL), error);

    for (guint i = 0; all && i < ff_json_node_length(all); i++) {
        const char *name = ff_json_string_or(ff_json_node_nth(all, i), "name", "");
        g_autoptr(GError) local = NULL;
        g_autoptr(JsonNode) value =
            g_strv_contains(known, name)
                ? ff_cli_qmp_call(qmp, "qom-get", two_arguments("path", path, "property", name),
                                  &local)
                : NULL;

        if (local && !ff_qmp_refused(local)) {
            g_propagate_error(error, g_steal_pointer(&local));
            return false;
        }
        if (value) {
            g_hash_table_insert(list, g_strdup_printf("%s.%s", device, name),
                                say_property(name, value));
        }
    }
    return all;
}

static bool ask_places_in(FfCliQmp *qmp, const char *folder, GHashTable *list, GError **error)
{
    g_autoptr(GHashTable) devices = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    GHashTableIter iter;
    gpointer name;

    if (!add_children(qmp, folder, devices, error)) {
        return false;
    }
    g_hash_table_iter_init(&iter, devices);
    while (g_hash_table_iter_next(&iter, &name, NULL)) {
        if (!ask_places_of(qmp, folder, name, list, error)) {
            return false;
        }
    }
    return true;
}

static bool ask_places(FfCliQmp *qmp, GHashTable *list, GError **error)
{
    return ask_places_in(qmp, "/machine/peripheral", list, error) &&
           ask_places_in(qmp, "/machine/peripheral-anon", list, error);
}

static bool ask_disks(FfCliQmp *qmp, GHashTable *list, GError **error)
{
    g_autoptr(JsonNode) node = ff_cli_qmp_call(qmp, "query-block", NULL, error);

    for (guint i = 0; node && i < ff_json_node_length(node); i++) {
        JsonObject *o = ff_json_node_nth(node, i);
        JsonObject *inserted = ff_json_object(o, "inserted");

        g_hash_table_insert(list, g_strdup(ff_disk_owner(o)), ff_disk_describe(inserted));
    }
    return node;
}

static void rename_to(GHashTable *list, const char *name, const char *other)
{
    g_hash_table_insert(list, g_strdup(name), g_strdup(other));
}

/* A snapshot with its disks has put nodes in front, which a command line calls as it likes. */
static bool rename_disks(FfCliQmp *running, const char *cwd, GHashTable *list, GHashTable *others,
                         GError **error)
{
    g_autoptr(JsonNode) node = ff_cli_qmp_call(running, "query-block", NULL, error);

    for (guint i = 0; node && i < ff_json_node_length(node); i++) {
        JsonObject *o = ff_json_node_nth(node, i);
        const char *name = ff_disk_owner(o), *other = g_hash_table_lookup(others, name);

        if (other && ff_disk_is_described(ff_json_object(o, "inserted"), other, cwd)) {
            rename_to(list, name, other);
        }
    }
    return node;
}

/* Which medium the node has that is called otherwise, the list of block devices says. */
static bool rename_drives(FfCliQmp *running, const char *cwd, GHashTable *list, GHashTable *others,
                          GError **error)
{
    GHashTableIter iter;
    gpointer name, other;

    g_hash_table_iter_init(&iter, others);
    while (g_hash_table_iter_next(&iter, &name, &other)) {
        const char *own = g_hash_table_lookup(list, name);

        if (g_str_has_suffix(name, ".drive") && own && ff_disk_is_overlay(own) && *(char *)other) {
            rename_to(list, name, other);
        }
    }
    return true;
}

/* What a client has begun in the running QEMU, and would be gone with it. */
static bool ask_begun(FfCliQmp *qmp, const char *command, const char *id, const char *what,
                      GHashTable *list, GError **error)
{
    g_autoptr(JsonNode) node = ff_cli_qmp_call(qmp, command, NULL, error);

    for (guint i = 0; node && i < ff_json_node_length(node); i++) {
        JsonObject *o = ff_json_node_nth(node, i);

        g_hash_table_insert(list, g_strdup(ff_json_string_or(o, id, "?")),
                            g_strdup(ff_json_string_or(o, what, "?")));
    }
    return node;
}

static bool ask_jobs(FfCliQmp *qmp, GHashTable *list, GError **error)
{
    return ask_begun(qmp, "query-jobs", "id", "type", list, error);
}

static bool ask_exports(FfCliQmp *qmp, GHashTable *list, GError **error)
{
    return ask_begun(qmp, "query-block-exports", "id", "type", list, error);
}

/* A QMP monitor that is an object from QEMU 11.1 on, under a name that no client gave it: the relay
 * stands before it. One that was added later, past the relay, is not in the new QEMU. */
static gboolean is_known_monitor(gpointer name, gpointer type, gpointer unused)
{
    return !strcmp(type, "child<" FF_QMP_MONITOR_TYPE ">") &&
           (g_str_has_prefix(name, "compat_monitor") || g_str_has_prefix(name, "farfault-"));
}

static bool ask_objects(FfCliQmp *qmp, GHashTable *list, GError **error)
{
    bool ok = add_children(qmp, "/objects", list, error);

    g_hash_table_foreach_remove(list, is_known_monitor, NULL);
    return ok;
}

/* PROPERTY of the first of CPUS, the answer to query-cpus-fast (can be NULL). NULL without ERROR:
 * it has no such property. */
static JsonNode *property_of_cpu(FfCliQmp *qmp, JsonNode *cpus, const char *property,
                                 GError **error)
{
    JsonObject *cpu = cpus ? ff_json_node_nth(cpus, 0) : NULL;
    g_autoptr(GError) local = NULL;

    if (!cpu) {
        return NULL;
    }
    JsonNode *value = ff_cli_qmp_call(
        qmp, "qom-get",
        two_arguments("path", ff_json_string_or(cpu, "qom-path", ""), "property", property),
        &local);
    if (!value && !g_error_matches(local, FF_QMP_ERROR, FF_QMP_ERROR_GENERIC)) {
        g_propagate_error(error, g_steal_pointer(&local));
    }
    return value;
}

static bool ask_cpus(FfCliQmp *qmp, GHashTable *list, GError **error)
{
    g_autoptr(GError) local = NULL;
    g_autoptr(JsonNode) node = ff_cli_qmp_call(qmp, "query-cpus-fast", NULL, error);
    g_autoptr(JsonNode) type = property_of_cpu(qmp, node, "type", &local);

    if (local) {
        g_propagate_error(error, g_steal_pointer(&local));
        return false;
    }
    if (node) {
        g_hash_table_insert(list, g_strdup("number"),
                            g_strdup_printf("%u", ff_json_node_length(node)));
    }
    if (type && JSON_NODE_HOLDS_VALUE(type)) {
        g_hash_table_insert(list, g_strdup("type"), g_strdup(json_node_get_string(type)));
    }
    return node;
}

/* Bits that QEMU makes up as it is asked, from the number of processors or what the guest has
 * switched on: its versions have them among the features or not (HTT and CMP_LEGACY: from 10.0 on).
 */
static bool is_made_up(gint64 leaf, const char *reg, unsigned bit)
{
    static const struct {
        gint64 leaf;
        const char *reg;
        unsigned bit;
    } all[] = {{1, "EDX", 28}, {1, "ECX", 27}, {7, "ECX", 4}, {0x80000001, "ECX", 1}};

    for (unsigned i = 0; i < G_N_ELEMENTS(all); i++) {
        if (all[i].leaf == leaf && all[i].bit == bit && !strcmp(all[i].reg, reg)) {
            return true;
        }
    }
    return false;
}

static void add_features(JsonObject *word, GHashTable *list)
{
    gint64 bits = ff_json_int(word, "features", 0), leaf = ff_json_int(word, "cpuid-input-eax", 0);
    gint64 sub = ff_json_int(word, "cpuid-input-ecx", 0);
    const char *reg = ff_json_string_or(word, "cpuid-register", "?");

    for (unsigned bit = 0; bit < 32; bit++) {
        if (bits >> bit & 1 && !is_made_up(leaf, reg, bit)) {
            g_hash_table_insert(list,
                                g_strdup_printf("CPUID.%" G_GINT64_MODIFIER "XH.%" G_GINT64_MODIFIER
                                                "XH:%s[%u]",
                                                leaf, sub, reg, bit),
                                g_strdup("set"));
        }
    }
}

/* What the guest has found when it began, and uses: each bit of CPUID, on x86. */
static bool ask_features(FfCliQmp *qmp, GHashTable *list, GError **error)
{
    g_autoptr(GError) local = NULL;
    g_autoptr(JsonNode) cpus = ff_cli_qmp_call(qmp, "query-cpus-fast", NULL, &local);
    g_autoptr(JsonNode) node = property_of_cpu(qmp, cpus, "feature-words", &local);

    for (guint i = 0; node && i < ff_json_node_length(node); i++) {
        JsonObject *word = ff_json_node_nth(node, i);

        if (word) {
            add_features(word, list);
        }
    }
    if (local) {
        g_propagate_error(error, g_steal_pointer(&local));
        return false;
    }
    return true;
}

static const struct {
    const char *what;
    Ask *ask;
    bool exact;     /* the prepared one may not have more of them */
    Rename *rename; /* NULL: what is called otherwise is something else */
} questions[] = {
    {"machine", ask_machine, true, NULL},
    {"virtual CPUs", ask_cpus, true, NULL},
    {"CPU feature", ask_features, false, NULL},
    {"device", ask_devices, true, NULL},
    {"property of a device", ask_places, false, rename_drives},
    {"RAM block", ask_blocks, false, NULL},
    {"block device", ask_disks, true, rename_disks},
    {"job", ask_jobs, false, NULL},
    {"export", ask_exports, false, NULL},
    {"object", ask_objects, false, NULL},
};

/* The entry (borrowed) of NAME in DISKS, query-block; NULL: there is none. */
static JsonObject *disk_called(JsonNode *disks, const char *name)
{
    for (guint i = 0; i < ff_json_node_length(disks); i++) {
        JsonObject *entry = ff_json_node_nth(disks, i);

        if (!strcmp(ff_disk_owner(entry), name)) {
            return entry;
        }
    }
    return NULL;
}

/* OTHER, what the new QEMU has as disk NAME, is another file than the running one's, or has another
 * format: an overlay has come in front since the start, perhaps. NULL: it is not that. */
static char *remedy_of_disk(FfCliQmp *running, const char *cwd, const char *name, const char *other)
{
    g_autoptr(JsonNode) disks = ff_cli_qmp_call(running, "query-block", NULL, NULL);
    JsonObject *inserted = ff_json_object(disk_called(disks, name), "inserted");
    const char *format = ff_json_string_or(inserted, "drv", "");
    g_autofree char *path = ff_image_path(ff_json_string_or(inserted, "file", ""),
                                          ff_json_object(inserted, "image"), cwd);

    if (!path || (strcmp(format, "raw") != 0 && strcmp(format, "qcow2") != 0)) {
        return NULL;
    }
    g_autofree char *same = g_strdup_printf("%s (%s", path, format);
    g_autofree char *escaped = ff_opts_escape(path);
    return g_str_has_prefix(other, same)
               ? NULL
               : g_strdup_printf("give the guest's command line with file=%s,format=%s for it "
                                 "(--args-from)",
                                 escaped, format);
}

/* What makes them alike (g_free). */
static char *remedy_for(const char *what, const char *name, const char *has, const char *other)
{
    /* "pc" is another machine in each version; QOM's name of one ends like this. */
    if (!strcmp(what, "machine") && !strcmp(name, "type") && has &&
        g_str_has_suffix(has, "-machine")) {
        return g_strdup_printf("add -machine %.*s to the guest's command line and give it with "
                               "--args-from",
                               (int)(strlen(has) - strlen("-machine")), has);
    }
    if (!strcmp(what, "CPU feature")) {
        return g_strdup("the guest may be using it: take a QEMU that has it, or start the guest "
                        "with a -cpu that both have");
    }
    bool is_device = !strcmp(what, "device");
    if ((is_device || !strcmp(what, "object")) && has && !other) {
        return g_strdup_printf("add it to the guest's command line and give that with "
                               "--args-from; or, if it was added later, remove it (%s %s)",
                               is_device ? "device_del" : "object-del", name);
    }
    return g_strdup("use the guest's own command line (--args-from)");
}

typedef struct {
    FfCliQmp *running;
    const char *cwd;
} Sides;

static bool report_difference(const Sides *sides, const char *what, const char *name,
                              const char *has, const char *other, GError **error)
{
    bool is_disk = !strcmp(what, "block device") && has && other;
    g_autofree char *fix = is_disk ? remedy_of_disk(sides->running, sides->cwd, name, other) : NULL;

    fix = fix ? fix : remedy_for(what, name, has, other);

    g_set_error(error, FF_QMP_ERROR, FF_QMP_ERROR_GENERIC,
                "%s '%s' is %s in the running QEMU and %s in the new one: %s", what, name,
                has ? has : "not there", other ? other : "not there", fix);
    return false;
}

static bool compare_lists(const Sides *sides, const char *what, GHashTable *running,
                          GHashTable *prepared, bool exact, GError **error)
{
    GHashTableIter iter;
    gpointer name, value;

    g_hash_table_iter_init(&iter, running);
    while (g_hash_table_iter_next(&iter, &name, &value)) {
        const char *other = g_hash_table_lookup(prepared, name);

        if (g_strcmp0(value, other) != 0) {
            return report_difference(sides, what, name, value, other, error);
        }
    }
    g_hash_table_iter_init(&iter, prepared);
    while (exact && g_hash_table_iter_next(&iter, &name, &value)) {
        if (!g_hash_table_contains(running, name)) {
            return report_difference(sides, what, name, NULL, value, error);
        }
    }
    return true;
}

bool ff_upgrade_compare(FfCliQmp *running, FfCliQmp *prepared, const char *cwd, GError **error)
{
    const Sides sides = {running, cwd};

    for (unsigned i = 0; i < G_N_ELEMENTS(questions); i++) {
        g_autoptr(GHashTable) a = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
        g_autoptr(GHashTable) b = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);

        Rename *rename = questions[i].rename;

        if (!questions[i].ask(running, a, error) || !questions[i].ask(prepared, b, error) ||
            (rename && !rename(running, cwd, a, b, error)) ||
            !compare_lists(&sides, questions[i].what, a, b, questions[i].exact, error)) {
            return false;
        }
    }
    return true;
}
