/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Finds what stands against a migration before anything is stopped, at both ends.
 *
 * Guest RAM moves outside of QEMU's stream, and x-ignore-shared leaves out every shared block, so
 * all shared memory must be ours. And nobody but QEMU may write to guest memory or hold pages of
 * it pinned: no assigned devices, no other process that maps guest RAM. That is found by looking at
 * QEMU's open files, device tree, net clients and block drivers, not by option names. A command
 * that this QEMU does not have means that it cannot have the thing either. One that it has not
 * answered means nothing: then it is not known whether the guest fits.
 *
 * Threads: the coordinator's. No lock.
 */
#include "guest/qemu/internal.h"

#include <errno.h>
#include <string.h>

#include "contract/maps.h"
#include "guest/qemu/backends.h"
#include "guest/qemu/call.h"
#include "guest/qemu/status.h"
#include "qmp/json.h"
#include "qmp/others.h"

/* A start of a name, and what to tell the user. */
typedef struct {
    const char *prefix;
    const char *what;
    const char *fix;
} Forbidden;

#define DETACH "remove the device before the migration"
#define OTHER_PROCESS "another process maps the guest's memory through it"
#define FOLLOW                                                                                     \
    "to migrate, save or restore it start QEMU, at both sides, by farfault with "                  \
    "--vhost-user=migrate, or remove the device"

/* What /proc/PID/fd/N says. */
static const Forbidden forbidden_files[] = {
    {"/dev/vfio/", "a device is assigned to the guest (VFIO)", "detach it before the migration"},
    {"anon_inode:[vfio", "a device is assigned to the guest (VFIO)",
     "detach it before the migration"},
    {"/dev/iommu", "a device is assigned to the guest (iommufd)", "detach it before the migration"},
    {"/dev/vhost-vdpa", "a vDPA device writes to guest memory directly", DETACH},
    {"/dev/vhost-scsi", "the kernel's vhost-scsi target writes to guest memory directly", DETACH},
    {"/dev/infiniband/", "an RDMA device has guest memory pinned", DETACH},
};

/* Types of devices and objects. */
static const Forbidden forbidden_types[] = {
    {"vfio-", "it is an assigned device", "detach it before the migration"},
    {"vhost-vdpa", "a vDPA device writes to guest memory directly", DETACH},
    {"vhost-scsi", "the kernel's vhost-scsi target writes to guest memory directly", DETACH},
    {"vhost-user-blk", OTHER_PROCESS, FOLLOW},
    {"vhost-user", OTHER_PROCESS, DETACH},
    {"cryptodev-vhost-user", OTHER_PROCESS, DETACH},
    {"x-pci-proxy-dev", OTHER_PROCESS, DETACH},
    {"x-remote-object", OTHER_PROCESS, DETACH},
    {"x-vfio-user-server", OTHER_PROCESS, DETACH},
    {"ivshmem-doorbell", "its memory is shared with other guests", DETACH},
    {"xen-pci-passthrough", "it is an assigned device", "detach it before the migration"},
    {"sev-", "the guest's memory is encrypted (SEV)", "such a guest cannot be migrated"},
    {"tdx-guest", "the guest's memory is encrypted (TDX)", "such a guest cannot be migrated"},
};

/* "type=" of HMP's "info network". What QEMU 10.1's passt says with vhost-user=on is a vhost-user
 * network as well. */
static const Forbidden forbidden_nets[] = {
    {"vhost-vdpa", "a vDPA device writes to guest memory directly", DETACH},
    {"vhost-user", OTHER_PROCESS, FOLLOW},
    {"passt,vhost-user", OTHER_PROCESS, DETACH},
};

/* Those that copy in QEMU, or write through QEMU's mapping. Any other is not known here. */
static const char *const known_nets[] = {
    "nic",   "user",       "tap",          "l2tpv3",        "socket", "stream",
    "dgram", "vde",        "bridge",       "hubport",       "netmap", "af-xdp",
    "passt", "vmnet-host", "vmnet-shared", "vmnet-bridged", NULL};

/* Block drivers that hand guest memory to a device or another process. */
static const Forbidden forbidden_drivers[] = {
    {"nvme", "its driver writes to guest memory past the kernel", "use the host's block device"},
    {"io_uring", "its driver (libblkio) keeps guest memory registered",
     "use the driver host_device"},
    {"virtio-blk-v", "its driver (libblkio) hands guest memory to another process or device",
     "use another block driver"},
};

static const Forbidden *find_forbidden(const Forbidden *table, size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++) {
        if (g_str_has_prefix(name, table[i].prefix)) {
            return &table[i];
        }
    }
    return NULL;
}

G_GNUC_PRINTF(2, 3) static bool refuse(GError **error, const char *format, ...)
{
    va_list ap;

    va_start(ap, format);
    g_clear_error(error);
    *error = g_error_new_valist(FF_QMP_ERROR, FF_QMP_ERROR_REFUSED, format, ap);
    va_end(ap);
    ff_qmp_one_line((*error)->message);
    return false;
}

/* ---- what QEMU is asked ---------------------------------------------------------------------- */

typedef enum {
    ASK_STATUS,
    ASK_MIGRATE,
    ASK_MEMDEV,
    ASK_MEMORY_DEVICES,
    ASK_PERIPHERAL,
    ASK_ANON,
    ASK_OBJECTS,
    ASK_NETWORK,
    ASK_NODES,
    ASK_SEV,
    ASK_CONFIDENTIAL,
    ASK_UUID,
    ASK_MACHINE, /* of a source, from here on */
    ASK_TARGET,
    ASK__MAX
} Question;

static const struct {
    const char *command, *args;
    bool optional; /* older or other QEMUs lack the command */
} questions[ASK__MAX] = {
    [ASK_STATUS] = {"query-status"},
    [ASK_MIGRATE] = {"query-migrate"},
    [ASK_MEMDEV] = {"query-memdev"},
    [ASK_MEMORY_DEVICES] = {"query-memory-devices", NULL, true},
    [ASK_PERIPHERAL] = {"qom-list", "{\"path\": \"/machine/peripheral\"}"},
    [ASK_ANON] = {"qom-list", "{\"path\": \"/machine/peripheral-anon\"}"},
    [ASK_OBJECTS] = {"qom-list", "{\"path\": \"/objects\"}"},
    [ASK_NETWORK] = {"human-monitor-command", "{\"command-line\": \"info network\"}", true},
    [ASK_NODES] = {"query-named-block-nodes", "{\"flat\": true}", true},
    [ASK_SEV] = {"query-sev", NULL, true},
    [ASK_CONFIDENTIAL] = {"qom-get",
                          "{\"path\": \"/machine\", \"property\": \"confidential-guest-support\"}"},
    [ASK_UUID] = {"query-uuid", NULL, true},
    [ASK_MACHINE] = {"qom-get", FF_QEMU_MACHINE_ARGS},
    [ASK_TARGET] = {"query-target"},
};

typedef struct {
    FfQemu *qemu;
    FfRole role;
    bool takes_devices;         /* that are other processes, if they can be followed */
    char *ids;                  /* chardevs of these; NULL: it was not asked */
    bool patient;               /* for the first of its answers */
    bool occupied;              /* by a guest that has come in another way, as far as is known */
    bool others;                /* devices in other processes are there, as far as was asked */
    FfQmpCall *asked[ASK__MAX]; /* NULL: its answer was taken, or it was not asked */
} Check;

/* All at once: one wait for QEMU's main loop, not a dozen. */
static void ask_all(Check *c, FfRole role)
{
    for (unsigned i = 0; i < (role == FF_ROLE_SOURCE ? ASK__MAX : ASK_MACHINE); i++) {
        g_autoptr(JsonNode) node =
            questions[i].args ? json_from_string(questions[i].args, NULL) : NULL;
        JsonObject *args = node ? json_node_get_object(node) : NULL;
        c->asked[i] = ff_qmp_call_begin(c->qemu->qmp, questions[i].command, args, NULL, 0);
    }
}

static void forget_answers(Check *c)
{
    for (unsigned i = 0; i < ASK__MAX; i++) {
        g_clear_pointer(&c->asked[i], ff_qmp_call_drop);
    }
}

/* ANSWER has devices in other processes, followed or not. */
static bool names_others(Question q, JsonNode *answer)
{
    bool lists = q == ASK_PERIPHERAL || q == ASK_ANON || q == ASK_OBJECTS;

    return lists ? ff_others_in_list(answer) : q == ASK_NETWORK && ff_others_in_networks(answer);
}

/* NULL without ERROR: this QEMU does not have the command. */
static JsonNode *await_answer(Check *c, Question q, GError **error)
{
    g_autoptr(GError) local = NULL;
    unsigned deadline_ms = c->patient && q == ASK_STATUS ? 0 : c->qemu->deadline_ms;
    JsonNode *node =
        ff_qmp_call_end(g_steal_pointer(&c->asked[q]), deadline_ms, c->qemu->cancel, &local);

    if (!node && !(questions[q].optional &&
                   g_error_matches(local, FF_QMP_ERROR, FF_QMP_ERROR_COMMAND_NOT_FOUND))) {
        g_propagate_prefixed_error(error, g_steal_pointer(&local), "%s: ", questions[q].command);
    }
    c->others |= node && names_others(q, node);
    return node;
}

/* ---- what is looked for ---------------------------------------------------------------------- */

static bool check_run_state(Check *c, FfRole role, GError **error)
{
    /* States that QEMU itself refuses to migrate from, or aborts on at the destination. */
    static const char *const no_source[] = {"inmigrate",  "postmigrate", "finish-migrate",
                                            "restore-vm", "save-vm",     "colo",
                                            "debug",      "preconfig"};
    g_autoptr(JsonNode) node = await_answer(c, ASK_STATUS, error);
    JsonObject *o = ff_json_node_object(node);
    const char *state = o ? ff_json_string(o, "status") : NULL;

    if (!node) {
        return false;
    }
    if (!state) {
        return refuse(error, "query-status: QEMU named no status");
    }
    if (role == FF_ROLE_DESTINATION) {
        c->occupied = strcmp(state, "inmigrate") != 0;
        return !c->occupied ||
               refuse(error,
                      "the guest is not waiting for a migration (it is \"%s\"): start QEMU "
                      "with -incoming defer",
                      state);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(no_source); i++) {
        if (strcmp(state, no_source[i]) == 0) {
            return strcmp(state, "postmigrate")
                       ? refuse(error,
                                "a guest that is \"%s\" cannot be migrated: bring it to "
                                "\"running\" or \"paused\" first (cont, stop)",
                                state)
                       : refuse(error,
                                "the guest was migrated away, or saved (it is \"%s\"): it can be "
                                "migrated where it runs now; if it stood here for a live snapshot, "
                                "and only then, say cont first",
                                state);
        }
    }
    /* Before 9.0 "stop" leaves such a guest as it is, and the migration itself wakes it up. */
    if (strcmp(state, "suspended") == 0 && !ff_qemu_keeps_suspended(&c->qemu->vmm.state)) {
        return refuse(error, FF_QEMU_WOULD_WAKE);
    }
    return true;
}

static bool check_blockers(Check *c, GError **error)
{
    g_autoptr(JsonNode) node = await_answer(c, ASK_MIGRATE, error);
    JsonObject *o = ff_json_node_object(node);
    JsonArray *reasons = o ? ff_json_array(o, "blocked-reasons") : NULL;
    g_autoptr(GString) text = g_string_new(NULL);

    if (!node) {
        return false;
    }
    for (guint i = 0; reasons && i < json_array_get_length(reasons); i++) {
        JsonNode *r = json_array_get_element(reasons, i);
        if (JSON_NODE_HOLDS_VALUE(r) && json_node_get_value_type(r) == G_TYPE_STRING) {
            g_string_append_printf(text, "%s%s", text->len ? "; " : "", json_node_get_string(r));
        }
    }
    return text->len == 0 || refuse(error, "QEMU cannot migrate this guest: %s", text->str);
}

static FfRamBlock *find_block(FfQemu *qemu, const char *id)
{
    for (guint i = 0; i < qemu->blocks->len; i++) {
        FfRamBlock *b = qemu->blocks->pdata[i];
        if (strcmp(b->id, id) == 0) {
            return b;
        }
    }
    return NULL;
}

/* One element of query-memdev; marks what was seen in SEEN (FfRamBlock *). */
static bool check_memdev(FfQemu *qemu, JsonObject *dev, GHashTable *seen, GError **error)
{
    const char *id = ff_json_string(dev, "id");
    uint64_t size = ff_json_int(dev, "size", 0);
    FfRamBlock *block = id ? find_block(qemu, id) : NULL;

    if (!block) {
        return refuse(error,
                      "memory backend \"%s\" (%" G_GUINT64_FORMAT " MiB%s) was not made by "
                      "farfault: use memory-backend-ram or memory-backend-memfd for it",
                      id ? id : "(without id)", size >> 20,
                      ff_json_bool(dev, "share") ? ", shared" : "");
    }
    if (!ff_json_bool(dev, "share")) {
        return refuse(error,
                      "memory backend \"%s\" is private to QEMU though farfault made its "
                      "memory: do not set share=off",
                      id);
    }
    if (size != block->size) {
        return refuse(error,
                      "memory backend \"%s\" has %" G_GUINT64_FORMAT
                      " bytes in QEMU but %" G_GUINT64_FORMAT " in farfault",
                      id, size, block->size);
    }
    /* Every QEMU that farfault takes says it of backends that can (since 6.1). */
    block->unreserved = json_object_has_member(dev, "reserve") && !ff_json_bool(dev, "reserve");
    g_hash_table_add(seen, block);
    return true;
}

/* QEMU has neither the object nor the file mapped: somebody has removed it where farfault did not
 * hear of it (a human monitor, or while no engine could be started). */
static bool is_gone(const FfQemu *qemu, const FfRamBlock *b)
{
    g_autofree char *maps = ff_maps_of_process(qemu->qemu_pid);
    g_autoptr(GArray) where = maps ? ff_maps_of_file(maps, b->memfd) : NULL;

    return where && !where->len;
}

static bool check_memory(Check *c, GError **error)
{
    g_autoptr(JsonNode) node = await_answer(c, ASK_MEMDEV, error);
    g_autoptr(GHashTable) seen = g_hash_table_new(NULL, NULL);

    if (!node) {
        return false;
    }
    for (guint i = 0; i < ff_json_node_length(node); i++) {
        JsonObject *dev = ff_json_node_nth(node, i);
        if (dev && !check_memdev(c->qemu, dev, seen, error)) {
            return false;
        }
    }
    for (guint i = c->qemu->blocks->len; i-- > 0;) {
        FfRamBlock *b = c->qemu->blocks->pdata[i];
        bool here = g_hash_table_contains(seen, b);
        if (!here && is_gone(c->qemu, b)) {
            g_message("memory backend \"%s\" is not QEMU's any more", b->id);
            g_ptr_array_remove_index(c->qemu->blocks, i);
        } else if (!here) {
            return refuse(error,
                          "QEMU has no memory backend \"%s\" (%" G_GUINT64_FORMAT
                          " MiB), which farfault made",
                          b->id, b->size >> 20);
        }
    }
    return c->qemu->blocks->len > 0 ||
           refuse(error, "the guest has no memory that farfault made: start it with farfault run");
}

/* Guest addresses of DIMMs and the like, so that both ends can compare them. */
static bool read_addresses(Check *c, GError **error)
{
    g_autoptr(JsonNode) node = await_answer(c, ASK_MEMORY_DEVICES, error);

    if (!node && *error) {
        return false;
    }
    for (guint i = 0; i < ff_json_node_length(node); i++) {
        JsonObject *dev = ff_json_node_nth(node, i);
        JsonObject *data = dev ? ff_json_object(dev, "data") : NULL;
        const char *memdev = data ? ff_json_string(data, "memdev") : NULL;
        const char *slash = memdev ? strrchr(memdev, '/') : NULL;
        FfRamBlock *block = memdev ? find_block(c->qemu, slash ? slash + 1 : memdev) : NULL;
        if (block) {
            block->gpa = json_object_has_member(data, "addr") ? ff_json_int(data, "addr", 0)
                                                              : ff_json_int(data, "memaddr", 0);
        }
    }
    return true;
}

static bool check_files(FfQemu *qemu, GError **error)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/fd", qemu->qemu_pid);
    g_autoptr(GDir) dir = qemu->qemu_pid ? g_dir_open(path, 0, NULL) : NULL;
    const char *name;

    /* A QEMU that changed its user cannot be looked at; its device tree still can. */
    while (dir && (name = g_dir_read_name(dir))) {
        g_autofree char *link = g_build_filename(path, name, NULL);
        g_autofree char *target = g_file_read_link(link, NULL);
        const Forbidden *f =
            target ? find_forbidden(forbidden_files, G_N_ELEMENTS(forbidden_files), target) : NULL;
        if (f) {
            return refuse(error, "QEMU has %s open: %s; %s", target, f->what, f->fix);
        }
    }
    return true;
}

/* ---- devices in other processes -------------------------------------------------------------- */

/* In QOM (g_free). */
static char *path_of(Question q, const char *name)
{
    return g_strdup_printf("/machine/peripheral%s/%s", q == ASK_ANON ? "-anon" : "", name);
}

/* A migration may follow what other processes write. */
static bool may_follow(const Check *c)
{
    return c->takes_devices && c->qemu->backends >= 0;
}

/* TRUE: a migration follows what the back-end of CHARDEV (can be NULL) writes, of the KIND (a word)
 * NAME. FALSE with ERROR: it does not. */
static bool check_followed(Check *c, const char *kind, const char *name, const char *chardev,
                           GError **error)
{
    g_autoptr(GError) local = NULL;

    if (!c->ids && !(c->ids = ff_qemu_backends_probe(c->qemu, c->role, &local))) {
        if (g_error_matches(local, G_IO_ERROR, G_IO_ERROR_BUSY)) {
            g_propagate_error(error, g_steal_pointer(&local)); /* QEMU must not carry it */
            return false;
        }
        return refuse(error, "%s \"%s\": %s", kind, name, local->message);
    }
    g_autofree char *line = g_strdup_printf("\n%s\n", chardev ? chardev : "");
    if (!chardev || strchr(chardev, '\n') || !strstr(c->ids, line)) {
        return refuse(
            error,
            "%s \"%s\": farfault does not stand between QEMU and its "
            "back-end: name its chardev on the command line, or unplug it and plug it anew "
            "(chardev-add with an absolute path, server=false and reconnect=)",
            kind, name);
    }
    c->qemu->vmm.memory.has_devices = true;
    return true;
}

/* FALSE without ERROR: of its kind none is followed. */
static bool is_followed(Check *c, Question q, const char *name, const char *type, GError **error)
{
    if (!may_follow(c) || q == ASK_OBJECTS || !name || !g_str_has_prefix(type, "vhost-user-blk")) {
        return false;
    }
    g_autofree char *path = path_of(q, name);
    g_autofree char *chardev = ff_qemu_string_of(c->qemu, path, "chardev", error);

    return !*error && check_followed(c, "device", name, chardev, error);
}

/* Its blobs are guest memory that QEMU hands to the kernel (udmabuf), which takes pages that are
 * not there yet out of the file as zeros, without a fault, and lets others write to what is there.
 */
static FfTold has_blobs(Check *c, Question q, const char *name, const char *type, GError **error)
{
    bool gpu = g_str_has_prefix(type, "virtio-gpu") || g_str_has_prefix(type, "virtio-vga");
    g_autofree char *path = path_of(q, name ? name : "");

    return gpu && name ? ff_qemu_is_on(c->qemu, path, "blob", error) : FF_TOLD_NO;
}

/* The children of a path by their type; qom-list says "child<TYPE>". */
static bool check_types(Check *c, Question q, GError **error)
{
    g_autoptr(JsonNode) node = await_answer(c, q, error);
    for (guint i = 0; i < ff_json_node_length(node); i++) {
        JsonObject *child = ff_json_node_nth(node, i);
        const char *type = child ? ff_json_string(child, "type") : NULL;
        const char *name = child ? ff_json_string(child, "name") : NULL;
        const Forbidden *f;
        if (!type || !g_str_has_prefix(type, "child<")) {
            continue;
        }
        type += strlen("child<");
        FfTold blobs = has_blobs(c, q, name, type, error);
        if (blobs == FF_TOLD_NOTHING) {
            return false;
        }
        if (blobs == FF_TOLD_YES) {
            return refuse(error,
                          "device \"%s\" (%.*s): it hands guest memory to the kernel; start both "
                          "QEMUs with blob=off",
                          name, (int)strcspn(type, ">"), type);
        }
        f = find_forbidden(forbidden_types, G_N_ELEMENTS(forbidden_types), type);
        if (f && is_followed(c, q, name, type, error)) {
            continue;
        }
        if (f && *error) {
            return false;
        }
        if (f) {
            return refuse(error, "%s \"%s\" (%.*s): %s; %s", q == ASK_OBJECTS ? "object" : "device",
                          name ? name : "?", (int)strcspn(type, ">"), type, f->what, f->fix);
        }
    }
    return node != NULL;
}

/* The same of a net client: TYPE is the line from there on. What QEMU says of a vhost-user one
 * (net_vhost_user_init()) is "vhost-user0 to " and its chardev. */
static bool is_followed_net(Check *c, const char *name, const char *type, GError **error)
{
    static const char vhost[] = "vhost-user,vhost-user", to[] = " to ";

    if (!may_follow(c) || !g_str_has_prefix(type, vhost)) {
        return false;
    }
    const char *at = type + strlen(vhost);
    at += strspn(at, "0123456789");
    bool named = g_str_has_prefix(at, to);
    g_autofree char *chardev = named ? g_strdup(at + strlen(to)) : NULL;

    return check_followed(c, "net client", name, chardev ? g_strchomp(chardev) : NULL, error);
}

/* Lines such as "net0: index=0,type=vhost-user,...": there is no QMP command that tells. */
static bool check_nets(Check *c, GError **error)
{
    g_autoptr(JsonNode) node = await_answer(c, ASK_NETWORK, error);
    g_auto(GStrv) lines = NULL;

    if (!node) {
        return *error == NULL;
    }
    if (!JSON_NODE_HOLDS_VALUE(node) || json_node_get_value_type(node) != G_TYPE_STRING) {
        return true;
    }
    lines = g_strsplit(json_node_get_string(node), "\n", -1);
    for (char **l = lines; *l; l++) {
        const char *type = strstr(*l, ",type=");
        const Forbidden *f = type ? find_forbidden(forbidden_nets, G_N_ELEMENTS(forbidden_nets),
                                                   type + strlen(",type="))
                                  : NULL;
        const char *at = *l + strspn(*l, " \\");
        g_autofree char *name = g_strndup(at, strcspn(at, ":"));

        if (f && is_followed_net(c, name, type + strlen(",type="), error)) {
            continue;
        }
        if (f && *error) {
            return false;
        }
        if (f) {
            return refuse(error, "net client \"%s\": %s; %s", name, f->what, f->fix);
        }
        const char *word = type ? type + strlen(",type=") : "nic";
        g_autofree char *kind = g_strndup(word, strcspn(word, ",\r "));
        if (!g_strv_contains(known_nets, kind)) {
            return refuse(
                error,
                "net client \"%s\": this farfault does not know the type %s; another type, "
                "or a newer farfault",
                name, kind);
        }
    }
    return true;
}

static bool check_drivers(Check *c, GError **error)
{
    g_autoptr(JsonNode) node = await_answer(c, ASK_NODES, error);
    for (guint i = 0; i < ff_json_node_length(node); i++) {
        JsonObject *n = ff_json_node_nth(node, i);
        const char *driver = n ? ff_json_string(n, "drv") : NULL;
        const char *name = n ? ff_json_string(n, "node-name") : NULL;
        const Forbidden *f =
            driver ? find_forbidden(forbidden_drivers, G_N_ELEMENTS(forbidden_drivers), driver)
                   : NULL;
        if (f) {
            return refuse(error, "disk \"%s\" (driver %s): %s; %s", name ? name : "?", driver,
                          f->what, f->fix);
        }
    }
    return node || *error == NULL;
}

/* SEV before its object had a type of its own, and any other confidential guest. */
static bool check_confidential(Check *c, GError **error)
{
    g_autoptr(GError) no_sev = NULL;
    g_autoptr(GError) none = NULL;
    g_autoptr(JsonNode) sev = await_answer(c, ASK_SEV, &no_sev);
    g_autoptr(JsonNode) cgs = await_answer(c, ASK_CONFIDENTIAL, &none);

    if (no_sev && !ff_qmp_refused(no_sev)) {
        g_propagate_error(error, g_steal_pointer(&no_sev));
        return false;
    }
    /* No such property: this machine has no confidential guests. */
    if (none && !ff_qmp_refused(none)) {
        g_propagate_error(error, g_steal_pointer(&none));
        return false;
    }
    /* A QEMU without SEV may answer "SEV is not available" as well. */
    if (sev && ff_json_node_object(sev) && ff_json_bool(ff_json_node_object(sev), "enabled")) {
        return refuse(error, "the guest's memory is encrypted (SEV): it cannot be migrated");
    }
    if (cgs && JSON_NODE_HOLDS_VALUE(cgs) && json_node_get_value_type(cgs) == G_TYPE_STRING &&
        *json_node_get_string(cgs)) {
        return refuse(error, "the guest is a confidential one (%s): it cannot be migrated",
                      json_node_get_string(cgs));
    }
    return true;
}

static bool read_uuid(Check *c, uint8_t uuid[16], GError **error)
{
    g_autoptr(JsonNode) node = await_answer(c, ASK_UUID, error);
    const char *text =
        ff_json_node_object(node) ? ff_json_string(ff_json_node_object(node), "UUID") : NULL;
    unsigned n = 0;

    memset(uuid, 0, 16);
    for (; text && text[0] && n < 32; text++) {
        if (*text != '-') {
            int digit = g_ascii_xdigit_value(*text);
            if (digit < 0) {
                return refuse(error, "QEMU says a UUID that is none");
            }
            uuid[n / 2] = uuid[n / 2] << 4 | digit;
            n++;
        }
    }
    return node || *error == NULL;
}

/* Its name never changes: for what the source says first. */
static void read_machine(Check *c)
{
    if (!c->asked[ASK_MACHINE]) {
        return;
    }
    g_autoptr(JsonNode) node = await_answer(c, ASK_MACHINE, NULL),
                        target = await_answer(c, ASK_TARGET, NULL);
    JsonObject *o = target ? ff_json_node_object(target) : NULL;
    const char *arch = o ? ff_json_string(o, "arch") : NULL;

    c->qemu->says_more = !arch || (strcmp(arch, "x86_64") && strcmp(arch, "i386"));
    if (node && !c->qemu->machine) {
        c->qemu->machine = ff_qemu_machine_name(node);
    }
}

/* There are devices in other processes, wherever the check has ended, and for whatever reason
 * (WHY); or that is not known. Nobody asks after a cancel. */
static bool may_have_others(Check *c, const GError *why)
{
    static const Question where[] = {ASK_PERIPHERAL, ASK_ANON, ASK_OBJECTS, ASK_NETWORK};
    bool refused = g_error_matches(why, FF_QMP_ERROR, FF_QMP_ERROR_REFUSED);

    for (unsigned i = 0; refused && i < G_N_ELEMENTS(where); i++) {
        g_autoptr(GError) unknown = NULL;
        g_autoptr(JsonNode) node = c->asked[where[i]] ? await_answer(c, where[i], &unknown) : NULL;

        c->others |= unknown != NULL;
    }
    return c->others || !(refused || g_error_matches(why, G_IO_ERROR, G_IO_ERROR_CANCELLED));
}

static bool check_all(Check *c, uint8_t uuid[16], GError **error)
{
    FfQemu *qemu = c->qemu;
    unsigned deadline_ms = c->patient ? 0 : qemu->deadline_ms;

    if (!ff_qmp_client_wait_ready(qemu->qmp, deadline_ms, qemu->cancel, error)) {
        return false;
    }
    ask_all(c, c->role);
    return check_run_state(c, c->role, error) && check_blockers(c, error) &&
           check_memory(c, error) && read_addresses(c, error) && check_files(qemu, error) &&
           check_types(c, ASK_PERIPHERAL, error) && check_types(c, ASK_ANON, error) &&
           check_types(c, ASK_OBJECTS, error) && check_nets(c, error) && check_drivers(c, error) &&
           check_confidential(c, error) && read_uuid(c, uuid, error);
}

FfGuestFit ff_qemu_check(FfVmmMemory *memory, FfRole role, GPtrArray **blocks, uint8_t uuid[16],
                         GError **error)
{
    FfQemu *qemu = ff_qemu_of_memory(memory);
    g_autoptr(GError) local = NULL;
    Check c = {.qemu = qemu,
               .role = role,
               .takes_devices = memory->takes_devices,
               .patient = memory->patient,
               .occupied = role == FF_ROLE_DESTINATION};

    memory->takes_devices = memory->patient = false;
    memory->has_devices = memory->refuses_devices = false;
    bool ok = check_all(&c, uuid, &local);
    bool refused = g_error_matches(local, FF_QMP_ERROR, FF_QMP_ERROR_REFUSED);

    if (ok || refused) {
        read_machine(&c);
    }
    if (!ok) {
        memory->refuses_devices = may_have_others(&c, local);
    }
    if (c.asked[ASK_UUID] && refused) {
        g_autoptr(GError) unknown = NULL;

        /* QEMU may carry it: the source says the UUID first all the same. */
        read_uuid(&c, uuid, &unknown);
    }
    forget_answers(&c);
    g_free(c.ids);
    if (ok) {
        *blocks = qemu->blocks;
        return FF_GUEST_FITS;
    }
    g_propagate_error(error, g_steal_pointer(&local));
    return c.occupied ? FF_GUEST_OCCUPIED : refused ? FF_GUEST_REFUSED : FF_GUEST_UNKNOWN;
}
