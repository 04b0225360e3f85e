/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Who carries a migration, the engine or QEMU: by policy, by what the guest's memory allows, and by
 * the capabilities and parameters that the client has set. No state, the main loop's thread.
 */
#include <string.h>

#include "qapi/driver-private.h"

/* Capabilities under which QEMU carries the migration; and those of them that it takes together
 * with postcopy-ram. "block" and "x-colo" are among the first, though QEMU 7.2 takes these, too:
 * they were not tried. */
static const char *const qemu_capabilities[] = {
    "block", "x-colo", "mapped-ram", "zero-copy-send", "background-snapshot", "x-ignore-shared",
};
static const struct {
    const char *name, *why;
} mixed_capabilities[] = {
    {"xbzrle", "the capability xbzrle is QEMU's: switch it off"},
    {"compress", "the capability compress is QEMU's: switch it off (x-farfault-compress)"},
    {"rdma-pin-all", "the capability rdma-pin-all is QEMU's: switch it off"},
};

/* And those that it carries without postcopy-ram only: what helps a precopy to its end, which has
 * another one then; and multifd, since the engine has connections of its own, and with both QEMU
 * before 8.0 ends by an assertion when the guest has arrived (yank.c), 8.0 to 10.0 refuse them. */
static const char *const precopy_capabilities[] = {"auto-converge", "dirty-limit", "multifd"};

static bool any_set(JsonNode *capabilities, const char *const *names, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        if (ff_capability(capabilities, names[i])) {
            return true;
        }
    }
    return false;
}

/* Why a mixed one makes it QEMU's; NULL: there is none. */
static const char *mixed_reason(const FfCall *call)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(mixed_capabilities); i++) {
        if (ff_capability(call->capabilities, mixed_capabilities[i].name)) {
            return mixed_capabilities[i].why;
        }
    }
    return NULL;
}

/* But for the mixed ones. */
static bool is_qemus(FfCall *call)
{
    const FfStateHeader *state = call->driver->config.state;
    JsonNode *capabilities = call->capabilities;
    const char *mode = ff_json_string(json_node_get_object(call->parameters), "mode");
    bool postcopy = ff_capability(capabilities, "postcopy-ram");

    return state->policy == FF_POLICY_NEVER || state->peer == FF_PEER_WISH_NATIVE ||
           (state->policy == FF_POLICY_AUTO && !postcopy) || (mode && strcmp(mode, "normal")) ||
           any_set(capabilities, qemu_capabilities, G_N_ELEMENTS(qemu_capabilities)) ||
           (!postcopy &&
            any_set(capabilities, precopy_capabilities, G_N_ELEMENTS(precopy_capabilities)));
}

bool ff_policy_engine_carries(FfCall *call)
{
    call->native = NULL;
    if (is_qemus(call) || mixed_reason(call)) {
        return false;
    }
    call->native = ff_driver_refusal(call->driver);
    return !call->native;
}

static bool follows_devices(const FfDriver *d)
{
    return d->config.follows_devices ||
           (d->config.follows_plugged && ff_state_has_plugged(d->config.state));
}

bool ff_policy_found_others(const FfDriver *d)
{
    return d->config.follows_plugged &&
           d->config.port->vmm(d->config.port_opaque)->memory.refuses_devices;
}

/* What QEMU is given may be a postcopy, and nobody has named QEMU. */
static bool may_switch(const FfDriver *d)
{
    const FfStateHeader *state = d->config.state;

    return state->client_flags & FF_CLIENT_CAP_POSTCOPY_RAM && state->policy != FF_POLICY_NEVER &&
           state->peer != FF_PEER_WISH_NATIVE;
}

bool ff_policy_asks_for_others(const FfDriver *d)
{
    return d->config.follows_plugged && !follows_devices(d) && may_switch(d);
}

char *ff_policy_would_lose(const FfDriver *d, bool others, const char *why)
{
    if ((!follows_devices(d) && !others) || !may_switch(d)) {
        return NULL;
    }
    return g_strdup_printf("%s: by postcopy QEMU itself loses guests whose devices are other "
                           "processes (vhost-user): %smigrate without postcopy-ram (farfault "
                           "migrate --precopy)",
                           why ? why : "the destination does not migrate this guest by farfault",
                           why ? "" : "start it with --vhost-user=migrate, or ");
}

/* With multifd a QEMU says nothing until all its channels are there. A guest that QEMU would lose
 * is not asked for. */
bool ff_policy_answered_first(const FfDriver *d, JsonNode *capabilities)
{
    return !follows_devices(d) && d->config.state->peer == FF_PEER_WISH_AUTO &&
           ff_capability(capabilities, "postcopy-ram") && !ff_capability(capabilities, "multifd");
}

bool ff_policy_engine_begins(FfCall *call)
{
    if (ff_policy_engine_carries(call)) {
        return true;
    }
    if (is_qemus(call) || !ff_policy_answered_first(call->driver, call->capabilities)) {
        return false;
    }
    if (!call->native) {
        call->native = mixed_reason(call);
    }
    return true;
}
