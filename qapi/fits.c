/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Who carries a migration, the engine or QEMU: by policy, by what the guest's memory allows, and by
 * the capabilities and parameters that the client has set. No state, the main loop's thread.
 */
#include <string.h>

#include "qapi/driver-private.h"

/* Capabilities under which QEMU carries the migration. */
static const char *const foreign_capabilities[] = {
    "xbzrle",
    "compress",
    "block",
    "x-colo",
    "mapped-ram",
    "zero-copy-send",
    "background-snapshot",
    "rdma-pin-all",
    "x-ignore-shared",
};

/* And those that it carries without postcopy-ram only: what helps a precopy to its end, which has
 * another one then; and multifd, since the engine has connections of its own, and with both QEMU
 * before 8.0 ends by an assertion when the guest has arrived (yank.c), 8.0 to 10.0 refuse them. */
static const char *const precopy_capabilities[] = {"auto-converge", "dirty-limit", "multifd"};

static const char *first_set(JsonNode *capabilities, const char *const *names, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        if (ff_capability(capabilities, names[i])) {
            return names[i];
        }
    }
    return NULL;
}

bool ff_engine_fits(FfDriver *d, JsonNode *capabilities, JsonNode *parameters, const char **why)
{
    uint32_t policy = d->config.state->policy;
    JsonObject *object = json_node_get_object(parameters);
    const char *mode = ff_json_string(object, "mode");

    *why = NULL;
    if (policy == FF_POLICY_NEVER) {
        *why = "x-farfault-policy is never";
    } else if (d->config.state->peer == FF_PEER_WISH_NATIVE) {
        *why = "x-farfault-peer is native";
    } else if (policy == FF_POLICY_AUTO && !ff_capability(capabilities, "postcopy-ram")) {
        *why = "postcopy-ram is not set";
    } else if (ff_driver_refusal(d)) {
        *why = ff_driver_refusal(d);
    } else if (mode && strcmp(mode, "normal")) {
        *why = "mode is not normal";
    }
    if (!*why) {
        *why = first_set(capabilities, foreign_capabilities, G_N_ELEMENTS(foreign_capabilities));
    }
    if (!*why && !ff_capability(capabilities, "postcopy-ram")) {
        *why = first_set(capabilities, precopy_capabilities, G_N_ELEMENTS(precopy_capabilities));
    }
    return !*why;
}
