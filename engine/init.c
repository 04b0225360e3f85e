/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reads INIT (contract/link.h). The main loop's thread only.
 */
#include "engine/init.h"

#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/failpoints.h"
#include "contract/link.h"
#include "contract/upgrade-commit.h"
#include "contract/vmm.h"
#include "qapi/json.h"
#include "qapi/port.h"

static void ram_free(gpointer opaque)
{
    FfRamBlock *block = opaque;

    if (block->memfd >= 0) {
        close(block->memfd);
    }
    g_free(block->id);
    g_free(block);
}

static void monitor_free(gpointer opaque)
{
    FfInheritedMonitor *monitor = opaque;

    close(monitor->fd);
    g_free(monitor->id);
    g_free(monitor);
}

static void close_fd(int fd)
{
    if (fd >= 0) {
        close(fd);
    }
}

void ff_engine_init_free(FfEngineInit *init)
{
    close_fd(init->state_fd);
    close_fd(init->monitor_fd);
    close_fd(init->pidfd);
    close_fd(init->pagemap_fd);
    close_fd(init->maps_fd);
    close_fd(init->mem_fd);
    close_fd(init->discard_fd);
    close_fd(init->taps_fd);
    close_fd(init->backends_fd);
    close_fd(init->sharers_fd);
    g_free(init->discard_error);
    for (unsigned i = 0; i < FF_KINDS; i++) {
        close_fd(init->uffds[i]);
        g_free(init->uffd_error[i]);
    }
    for (guint i = 0; i < init->incoming_fds->len; i++) {
        close_fd(g_array_index(init->incoming_fds, int, i));
    }
    close_fd(init->pact_fd);
    close_fd(init->heir_fd);
    g_strfreev(init->command_line);
    g_free(init->vhost_user);
    g_ptr_array_unref(init->listening);
    g_array_unref(init->incoming_fds);
    for (guint i = 0; i < init->given->len; i++) {
        close_fd(g_array_index(init->given, FfGiven, i).fd);
    }
    g_array_unref(init->given);
    g_ptr_array_unref(init->ram);
    g_free(init->incoming);
    g_free(init->engine_refused);
    g_free(init->name);
    g_free(init);
}

/* The entry of "held" called NAME, or NULL. */
static JsonObject *find_held(JsonObject *root, const char *name)
{
    JsonNode *node = json_object_get_member(root, "held");
    JsonArray *held = node && JSON_NODE_HOLDS_ARRAY(node) ? json_node_get_array(node) : NULL;

    for (guint i = 0; held && i < json_array_get_length(held); i++) {
        JsonNode *element = json_array_get_element(held, i);

        if (JSON_NODE_HOLDS_OBJECT(element) &&
            !g_strcmp0(ff_json_string(json_node_get_object(element), "name"), name)) {
            return json_node_get_object(element);
        }
    }
    return NULL;
}

static const char *const kinds[FF_KINDS] = FF_KIND_NAMES;

/* Of NAME without "uffd:". A relay of before the kinds says numbers, in their order, and has nobody
 * ask for the third. FF_KINDS: none. */
static FfKind kind_of(const char *name)
{
    for (unsigned i = 0; i < FF_KINDS; i++) {
        const char number[] = {'0' + i, 0};

        if (!strcmp(name, kinds[i]) || (i != FF_KIND_PROTECT && !strcmp(name, number))) {
            return i;
        }
    }
    return FF_KINDS;
}

/* Takes the fd called NAME to its place; FALSE if it has none: the caller closes it. */
static bool place_fd(FfEngineInit *init, JsonObject *root, const char *name, int fd)
{
    struct {
        const char *name;
        int *place;
    } places[] = {
        {"state", &init->state_fd},
        {"qemu-monitor", &init->monitor_fd},
        {"pidfd", &init->pidfd},
        {"pagemap", &init->pagemap_fd},
        {"maps", &init->maps_fd},
        {"mem", &init->mem_fd},
        {"inner", &init->inner_fd},
        {"tls", &init->tls_fd},
        {"listener", &init->listener_fd},
        {"device", &init->device_fd},
        {"discards", &init->discard_fd},
        {"device-backends", &init->backends_fd},
        {"device-faults", &init->sharers_fd},
        {FF_FILE_HELD, &init->file_fd},
        {FF_UPGRADE_COMMIT_HELD, &init->pact_fd},
        {FF_HEIR_HELD, &init->heir_fd},
        {FF_LEASE_HELD, &init->lease_fd},
        {"taps", &init->taps_fd},
        {"door", &init->door},
        {"front", &init->front},
        {"front-door", &init->front_door},
    };
    JsonObject *held;

    for (unsigned i = 0; i < G_N_ELEMENTS(places); i++) {
        if (!strcmp(places[i].name, name) && *places[i].place < 0) {
            *places[i].place = fd;
            return true;
        }
    }
    if (g_str_has_prefix(name, "uffd:")) {
        FfKind kind = kind_of(name + strlen("uffd:"));

        if (kind == FF_KINDS || init->uffds[kind] >= 0) {
            return false;
        }
        init->uffds[kind] = fd;
        return true;
    }
    if (g_str_has_prefix(name, FF_LISTENING_MONITOR)) {
        FfInheritedMonitor *monitor = g_new(FfInheritedMonitor, 1);

        *monitor = (FfInheritedMonitor){g_strdup(name + strlen(FF_LISTENING_MONITOR)), fd};
        g_ptr_array_add(init->listening, monitor);
        return true;
    }
    if (g_str_has_prefix(name, FF_GIVEN_FD)) {
        FfGiven given = {atoi(name + strlen(FF_GIVEN_FD)), fd};

        g_array_append_val(init->given, given);
        return true;
    }
    if (g_str_has_prefix(name, FF_LISTENER_HELD)) {
        g_array_append_val(init->incoming_fds, fd);
        return true;
    }
    held = g_str_has_prefix(name, "ram:") ? find_held(root, name) : NULL;
    if (held) {
        FfRamBlock *block = g_new0(FfRamBlock, 1);

        block->id = g_strdup(name + strlen("ram:"));
        block->size = (uint64_t)ff_json_int(held, "size", 0);
        block->page_size = (uint64_t)ff_json_int(held, "page-size", 0);
        block->memfd = fd;
        g_ptr_array_add(init->ram, block);
        return true;
    }
    return false;
}

static bool place_fds(FfEngineInit *init, JsonObject *root, int *fds, unsigned n_fds,
                      GError **error)
{
    JsonNode *node = json_object_get_member(root, "fds");
    JsonArray *names = node && JSON_NODE_HOLDS_ARRAY(node) ? json_node_get_array(node) : NULL;

    if (!names || json_array_get_length(names) != n_fds) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA,
                    "INIT names %u fds and brings %u: relay and engine are of different builds",
                    names ? json_array_get_length(names) : 0, n_fds);
        return false;
    }
    for (unsigned i = 0; i < n_fds; i++) {
        JsonNode *name = json_array_get_element(names, i);

        if (JSON_NODE_HOLDS_VALUE(name) && json_node_get_value_type(name) == G_TYPE_STRING &&
            place_fd(init, root, json_node_get_string(name), fds[i])) {
            fds[i] = -1;
        }
    }
    if (init->state_fd < 0 || init->monitor_fd < 0) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA,
                    "INIT brings no %s: relay and engine are of different builds",
                    init->state_fd < 0 ? "state" : "qemu-monitor");
        return false;
    }
    return true;
}

static void place_errors(FfEngineInit *init, JsonObject *root)
{
    for (unsigned i = 0; i < FF_KINDS; i++) {
        g_autofree char *name =
            i == FF_KIND_MISSING ? g_strdup("uffd-error") : g_strconcat(kinds[i], "-error", NULL);

        init->uffd_error[i] = g_strdup(ff_json_string(root, name));
        if (i == FF_KIND_PROTECT) {
            init->lends = json_object_has_member(root, name);
        }
    }
    init->discard_error = g_strdup(ff_json_string(root, "discards-error"));
}

static void place_command_line(FfEngineInit *init, JsonObject *root)
{
    JsonNode *node = json_object_get_member(root, "command-line");
    JsonArray *words = node && JSON_NODE_HOLDS_ARRAY(node) ? json_node_get_array(node) : NULL;

    if (!words) {
        return;
    }
    init->command_line = g_new0(char *, json_array_get_length(words) + 1);
    for (guint i = 0; i < json_array_get_length(words); i++) {
        JsonNode *word = json_array_get_element(words, i);

        init->command_line[i] =
            g_strdup(JSON_NODE_HOLDS_VALUE(word) && json_node_get_value_type(word) == G_TYPE_STRING
                         ? json_node_get_string(word)
                         : "");
    }
}

void ff_engine_init_set_ram(FfEngineInit *init, const char *id, uint64_t size, uint64_t page_size,
                            int memfd)
{
    for (guint i = init->ram->len; i-- > 0;) {
        if (!strcmp(((FfRamBlock *)init->ram->pdata[i])->id, id)) {
            g_ptr_array_remove_index(init->ram, i);
        }
    }
    int copy = memfd >= 0 ? fcntl(memfd, F_DUPFD_CLOEXEC, 0) : -1;

    if (copy >= 0) {
        FfRamBlock *block = g_new0(FfRamBlock, 1);

        block->id = g_strdup(id);
        block->size = size;
        block->page_size = page_size;
        block->memfd = copy;
        g_ptr_array_add(init->ram, block);
    }
}

static FfStateHeader *map_state(int fd, GError **error)
{
    if (FF_FAULT_CALL("engine-state", 0) < 0) {
        g_set_error(error, G_FILE_ERROR, g_file_error_from_errno(errno),
                    "cannot map the state memfd: %s", g_strerror(errno));
        return NULL;
    }
    return ff_state_map(fd, error);
}

FfEngineInit *ff_engine_init_new(const char *json, gsize length, int *fds, unsigned n_fds,
                                 GError **error)
{
    g_autoptr(FfEngineInit) init = g_new0(FfEngineInit, 1);
    g_autoptr(JsonNode) node = NULL;

    init->state_fd = init->monitor_fd = init->pidfd = init->pagemap_fd = init->inner_fd =
        init->maps_fd = init->mem_fd = init->tls_fd = init->listener_fd = init->device_fd =
            init->backends_fd = init->sharers_fd = init->discard_fd = init->file_fd =
                init->pact_fd = init->heir_fd = init->lease_fd = init->taps_fd = init->door =
                    init->front = init->front_door = -1;
    for (unsigned i = 0; i < FF_KINDS; i++) {
        init->uffds[i] = -1;
    }
    init->incoming_fds = g_array_new(FALSE, FALSE, sizeof(int));
    init->given = g_array_new(FALSE, FALSE, sizeof(FfGiven));
    init->listening = g_ptr_array_new_with_free_func(monitor_free);
    init->ram = g_ptr_array_new_with_free_func(ram_free);
    node = ff_json_parse(json, length, NULL, error);
    if (!node || !JSON_NODE_HOLDS_OBJECT(node)) {
        if (node) {
            g_set_error_literal(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA,
                                "INIT is no JSON object");
        }
        return NULL;
    }
    JsonObject *root = json_node_get_object(node);

    FF_FAULT_SIDE(ff_json_int(root, "engine-restarts", 0) ? "next" : "first");
    if (!place_fds(init, root, fds, n_fds, error)) {
        return NULL;
    }
    init->incoming = g_strdup(ff_json_string(root, "incoming"));
    init->incoming_taken = ff_json_bool(root, "incoming-taken");
    init->backends_later = ff_json_bool(root, "device-backends-later");
    init->leaves_backends = ff_json_bool(root, "leaves-back-ends");
    init->start_paused = ff_json_bool(root, "start-paused");
    init->engine_refused = g_strdup(ff_json_string(root, "engine-refused"));
    place_errors(init, root);
    place_command_line(init, root);
    init->vhost_user = g_strdup(ff_json_string(root, "vhost-user"));
    init->name = g_strdup(ff_json_string(root, "name"));
    init->qemu_pid = (int)ff_json_int(root, "qemu-pid", 0);
    init->state = map_state(init->state_fd, error);
    return init->state ? g_steal_pointer(&init) : NULL;
}
