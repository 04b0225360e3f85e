/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * migrate_caps_check() of QEMU, as far as it concerns capabilities that QEMU does not see
 * (postcopy-*), and what it derives from an incoming migration that QEMU does not know of. All
 * the rest is left to QEMU. Where a request breaks several rules, the first one here wins. Pure;
 * any thread.
 */
#include "qapi/caps-check.h"

#include <limits.h>
#include <string.h>

#include "qapi/json.h"

#define ZERO_COPY "Zero copy only available for non-compressed non-TLS multifd migration"
#define BACKGROUND(with)                                                                           \
    {                                                                                              \
        "background-snapshot", with, true, 0, UINT_MAX,                                            \
            "Background-snapshot is not compatible with " with                                     \
    }

/* In QEMU's order. A row refuses ON together with WITH being STATE, in the versions FROM to
 * BEFORE. */
static const struct {
    const char *on, *with;
    bool state;
    unsigned from, before;
    const char *error;
} rules[] = {
    {"postcopy-ram", "x-ignore-shared", true, 0, UINT_MAX,
     "Postcopy is not compatible with ignore-shared"},
    {"postcopy-ram", "multifd", true, 80000, 100100, "Postcopy is not yet compatible with multifd"},
    {"x-colo", "return-path", false, 110100, UINT_MAX,
     "Capability 'x-colo' requires capability 'return-path'"},
    BACKGROUND("postcopy-ram"),
    BACKGROUND("dirty-bitmaps"),
    BACKGROUND("postcopy-blocktime"),
    BACKGROUND("late-block-activate"),
    BACKGROUND("return-path"),
    BACKGROUND("multifd"),
    BACKGROUND("pause-before-switchover"),
    BACKGROUND("auto-converge"),
    BACKGROUND("release-ram"),
    BACKGROUND("rdma-pin-all"),
    BACKGROUND("compress"),
    BACKGROUND("xbzrle"),
    BACKGROUND("x-colo"),
    BACKGROUND("validate-uuid"),
    BACKGROUND("zero-copy-send"),
    {"zero-copy-send", "multifd", false, 0, UINT_MAX, ZERO_COPY},
    {"zero-copy-send", "compress", true, 0, UINT_MAX, ZERO_COPY},
    {"zero-copy-send", "xbzrle", true, 0, UINT_MAX, ZERO_COPY},
    {"postcopy-preempt", "postcopy-ram", false, 0, UINT_MAX,
     "Postcopy preempt requires postcopy-ram"},
    {"postcopy-preempt", "compress", true, 0, UINT_MAX,
     "Postcopy preempt not compatible with compress"},
    {"mapped-ram", "postcopy-ram", true, 0, UINT_MAX,
     "Mapped-ram migration is incompatible with postcopy"},
};

static JsonObject *find_capability(JsonArray *list, const char *name)
{
    for (guint i = json_array_get_length(list); i-- > 0;) {
        JsonNode *element = json_array_get_element(list, i);

        if (JSON_NODE_HOLDS_OBJECT(element) &&
            !g_strcmp0(ff_json_string(json_node_get_object(element), "capability"), name)) {
            return json_node_get_object(element);
        }
    }
    return NULL;
}

static bool is_on(JsonArray *list, const char *name)
{
    JsonObject *status = find_capability(list, name);

    return status && ff_json_bool(status, "state");
}

bool ff_caps_after(const FfCapsCheck *c, const char *name)
{
    return is_on(find_capability(c->changes, name) ? c->changes : c->current, name);
}

const char *ff_caps_unknown(const FfCapsCheck *c)
{
    for (guint i = 0; i < json_array_get_length(c->changes); i++) {
        JsonObject *status = json_array_get_object_element(c->changes, i);
        const char *name = ff_json_string(status, "capability");

        if (!find_capability(c->current, name)) {
            return name;
        }
    }
    return NULL;
}

/* What must be known before the first connection comes. */
static const char *check_incoming(const FfCapsCheck *c)
{
    static const struct {
        const char *name, *error;
    } early[] = {
        {"postcopy-preempt", "Postcopy preempt must be set before incoming starts"},
        {"multifd", "Multifd must be set before incoming starts"},
    };

    if (!c->incoming_started) {
        return NULL;
    }
    if (c->version < 80100) {
        return c->one_channel && ff_caps_after(c, "multifd")
                   ? "multifd is not supported by current protocol"
                   : NULL;
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(early); i++) {
        if (ff_caps_after(c, early[i].name) && !is_on(c->current, early[i].name)) {
            return early[i].error;
        }
    }
    return NULL;
}

const char *ff_caps_check(const FfCapsCheck *c)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(rules); i++) {
        if (c->may_restore && !strcmp(rules[i].on, "mapped-ram")) {
            continue;
        }
        if (c->version >= rules[i].from && c->version < rules[i].before &&
            ff_caps_after(c, rules[i].on) && ff_caps_after(c, rules[i].with) == rules[i].state) {
            return rules[i].error;
        }
    }
    return check_incoming(c);
}
