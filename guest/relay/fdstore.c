/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What outlives an engine, and how the next one gets it: the fds that the plan, the agent and
 * earlier engines (HOLD) have brought, and INIT, which hands them over. One thread; no locks.
 */
#include "guest/relay/backends.h"
#include "guest/relay/engine-internal.h"

#include <fcntl.h>
#include <json-glib/json-glib.h>
#include <string.h>
#include <unistd.h>

#include "base/failpoints.h"

/* They all go into one message, INIT, with some others. */
#define MAX_HELD (FF_LINK_MAX_FDS - 40)

static const char *const kinds[FF_KINDS] = FF_KIND_NAMES;

/* ---- INIT ------------------------------------------------------------------------------------ */

static void add_text(JsonBuilder *b, const char *name, const char *text)
{
    json_builder_set_member_name(b, name);
    if (text) {
        json_builder_add_string_value(b, text);
    } else {
        json_builder_add_null_value(b);
    }
}

static void add_int(JsonBuilder *b, const char *name, gint64 value)
{
    json_builder_set_member_name(b, name);
    json_builder_add_int_value(b, value);
}

static void add_bool(JsonBuilder *b, const char *name, bool value)
{
    json_builder_set_member_name(b, name);
    json_builder_add_boolean_value(b, value);
}

static void add_fd(JsonBuilder *b, GArray *fds, const char *name, int fd)
{
    if (fd >= 0) {
        json_builder_add_string_value(b, name);
        g_array_append_val(fds, fd);
    }
}

static void init_fds(FfRelay *relay, JsonBuilder *b, const FfBackendsEnds *backends, GArray *fds)
{
    const FfGuest *guest = &relay->guest;

    json_builder_set_member_name(b, "fds");
    json_builder_begin_array(b);
    add_fd(b, fds, "state", relay->state_fd);
    add_fd(b, fds, "qemu-monitor", relay->plan->qemu_monitor);
    add_fd(b, fds, "pidfd", guest->pidfd);
    add_fd(b, fds, "pagemap", guest->pagemap);
    add_fd(b, fds, "maps", guest->maps);
    add_fd(b, fds, "mem", guest->mem);
    for (unsigned i = 0; i < FF_KINDS; i++) {
        g_autofree char *name = g_strconcat("uffd:", kinds[i], NULL);

        add_fd(b, fds, name, i == FF_KIND_PROTECT ? -1 : guest->uffds[i]);
    }
    add_fd(b, fds, "discards", guest->hook);
    add_fd(b, fds, "taps", relay->plan->taps_fd);
    add_fd(b, fds, "door", relay->door);
    add_fd(b, fds, "front", relay->plan->front_fd);
    add_fd(b, fds, "front-door", relay->plan->front_door);
    add_fd(b, fds, "device-backends", backends->asks);
    add_fd(b, fds, "device-faults", backends->faults);
    for (guint i = 0; i < relay->plan->monitors->len; i++) {
        const FfRelayMonitor *mon = relay->plan->monitors->pdata[i];
        g_autofree char *name = g_strconcat(FF_LISTENING_MONITOR, mon->id, NULL);

        add_fd(b, fds, name, mon->kind == FF_RELAY_LISTEN ? mon->fd : -1);
    }
    for (guint i = 0; i < relay->plan->given->len; i++) {
        const FfRelayGiven *given = &g_array_index(relay->plan->given, FfRelayGiven, i);
        g_autofree char *name = g_strdup_printf(FF_GIVEN_FD "%d", given->number);

        add_fd(b, fds, name, given->fd);
    }
    for (guint i = 0; i < relay->held->len; i++) {
        const FfHeld *held = relay->held->pdata[i];

        add_fd(b, fds, held->name, held->fd);
    }
    json_builder_end_array(b);
}

/* What an engine of before the kinds reads is that of missing pages. */
static void init_errors(const FfRelay *relay, JsonBuilder *b)
{
    const FfGuest *guest = &relay->guest;

    for (unsigned i = 0; i < FF_KINDS; i++) {
        g_autofree char *name =
            i == FF_KIND_MISSING ? g_strdup("uffd-error") : g_strconcat(kinds[i], "-error", NULL);

        add_text(b, name, guest->refusal ? guest->refusal : guest->uffd_error[i]);
    }
    add_text(b, "discards-error", guest->refusal ? guest->refusal : guest->hook_error);
}

char *ff_held_init(FfRelay *relay, unsigned restarts, const FfBackendsEnds *backends, GArray *fds)
{
    static const char *const policies[] = {"auto", "always", "never"};
    const FfRelayPlan *plan = relay->plan;
    g_autoptr(JsonBuilder) b = json_builder_new();
    g_autoptr(JsonNode) root = NULL;

    json_builder_begin_object(b);
    add_int(b, "engine-restarts", restarts);
    add_text(b, "policy", policies[plan->policy]);
    add_bool(b, "start-paused", plan->start_paused);
    add_text(b, "incoming", plan->incoming);
    add_bool(b, "incoming-taken", plan->incoming_taken);
    add_bool(b, "device-backends-later", !ff_backends_from_start(relay));
    add_text(b, "vhost-user", ff_backends_option(relay));
    /* Left out: as by a relay of before, which does not know how. */
    add_bool(b, "leaves-back-ends", !FF_FAULT_STEP("leaves-back-ends", false));
    add_text(b, "engine-refused", plan->engine_refused);
    init_errors(relay, b);
    add_text(b, "name", plan->name);
    add_int(b, "qemu-pid", relay->guest.pid);
    if (plan->command_line) {
        json_builder_set_member_name(b, "command-line");
        json_builder_add_value(b, json_from_string(plan->command_line, NULL));
    }
    json_builder_set_member_name(b, "monitors");
    json_builder_begin_array(b);
    for (guint i = 0; i < plan->monitors->len; i++) {
        json_builder_begin_object(b);
        add_text(b, "id", ((FfRelayMonitor *)plan->monitors->pdata[i])->id);
        json_builder_end_object(b);
    }
    json_builder_end_array(b);
    init_fds(relay, b, backends, fds);
    json_builder_set_member_name(b, "held");
    json_builder_begin_array(b);
    for (guint i = 0; i < relay->held->len; i++) {
        json_builder_add_value(b, json_from_string(((FfHeld *)relay->held->pdata[i])->json, NULL));
    }
    json_builder_end_array(b);
    json_builder_end_object(b);
    root = json_builder_get_root(b);
    return json_to_string(root, FALSE);
}

/* ---- what is held ---------------------------------------------------------------------------- */

static void held_free(void *data)
{
    FfHeld *held = data;

    close(held->fd);
    g_free(held->name);
    g_free(held->json);
    g_free(held);
}

void ff_held_drop(FfRelay *relay, const char *name)
{
    for (guint i = 0; i < relay->held->len; i++) {
        if (!strcmp(((FfHeld *)relay->held->pdata[i])->name, name)) {
            g_ptr_array_remove_index(relay->held, i);
            return;
        }
    }
}

void ff_held_drop_given(FfRelay *relay)
{
    GArray *given = relay->plan->given;

    for (guint i = 0; i < given->len; i++) {
        close(g_array_index(given, FfRelayGiven, i).fd);
    }
    g_array_set_size(given, 0);
}

int ff_held_copy(FfRelay *relay, const char *name)
{
    for (guint i = 0; i < relay->held->len; i++) {
        const FfHeld *held = relay->held->pdata[i];

        if (!strcmp(held->name, name)) {
            return fcntl(held->fd, F_DUPFD_CLOEXEC, 0);
        }
    }
    return -1;
}

const char *ff_held_add(FfRelay *relay, char *json, int *fds, unsigned n_fds)
{
    g_autofree char *text = json;
    g_autoptr(JsonNode) node = json_from_string(text, NULL);
    JsonObject *o = node && JSON_NODE_HOLDS_OBJECT(node) ? json_node_get_object(node) : NULL;
    const char *name = o ? json_object_get_string_member_with_default(o, "name", NULL) : NULL;
    FfHeld *held;

    if (!name || n_fds != 1) {
        ff_relay_log(relay, "the engine's HOLD needs a name and one fd");
        return NULL;
    }
    ff_held_drop(relay, name);
    if (relay->held->len >= MAX_HELD) {
        ff_relay_log(relay, "the engine's HOLD of '%s': too many fds are held", name);
        return NULL;
    }
    held = g_new0(FfHeld, 1);
    held->name = g_strdup(name);
    held->json = g_steal_pointer(&text);
    held->fd = fds[0];
    fds[0] = -1;
    g_ptr_array_add(relay->held, held);
    return held->name;
}

void ff_held_new(FfRelay *relay)
{
    relay->held = g_ptr_array_new_with_free_func(held_free);
    for (guint i = 0; i < relay->plan->ram->len; i++) {
        const FfRelayRam *ram = relay->plan->ram->pdata[i];
        g_autoptr(JsonBuilder) b = json_builder_new();
        g_autoptr(JsonNode) root = NULL;
        FfHeld *held = g_new0(FfHeld, 1);

        held->name = g_strdup_printf("ram:%s", ram->id);
        held->fd = ram->fd;
        json_builder_begin_object(b);
        add_text(b, "name", held->name);
        add_int(b, "size", ram->size);
        add_int(b, "page-size", ram->page_size);
        json_builder_end_object(b);
        root = json_builder_get_root(b);
        held->json = json_to_string(root, FALSE);
        g_ptr_array_add(relay->held, held);
    }
    for (guint i = 0; i < relay->plan->held->len; i++) {
        const FfRelayHeld *had = relay->plan->held->pdata[i];
        FfHeld *held = g_new0(FfHeld, 1);

        *held = (FfHeld){.name = g_strdup(had->name), .json = g_strdup(had->json), .fd = had->fd};
        g_ptr_array_add(relay->held, held);
    }
}
