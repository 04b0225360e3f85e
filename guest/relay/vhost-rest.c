/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See vhost-rest.h. Numbers of 64 bits are JSON's signed ones. No system calls. */
#include "guest/relay/vhost-rest.h"

#include <string.h>

#include "qmp/json.h"

static void set_u64(JsonObject *o, const char *name, uint64_t value)
{
    json_object_set_int_member(o, name, (gint64)value);
}

static uint64_t get_u64(JsonObject *o, const char *name)
{
    return (uint64_t)ff_json_int(o, name, 0);
}

/* ---- what is known of a back-end ------------------------------------------------------------- */

JsonObject *ff_vhost_known_write(const FfVhostKnown *known)
{
    JsonObject *o = json_object_new();
    g_autofree char *config = g_base64_encode(known->config, known->config_size);

    set_u64(o, "offered", known->offered);
    set_u64(o, "offered-protocol", known->offered_protocol);
    set_u64(o, "queues", known->queues);
    set_u64(o, "slots", known->slots);
    json_object_set_string_member(o, "config", config);
    return o;
}

FfVhostKnown *ff_vhost_known_read(JsonObject *o)
{
    g_autofree FfVhostKnown *known = g_new0(FfVhostKnown, 1);
    const char *text = ff_json_string_or(o, "config", "");
    gsize size;
    g_autofree guchar *config = g_base64_decode(text, &size);

    if (size > sizeof(known->config) || !json_object_has_member(o, "offered")) {
        return NULL;
    }
    known->offered = get_u64(o, "offered");
    known->offered_protocol = get_u64(o, "offered-protocol");
    known->queues = get_u64(o, "queues");
    known->slots = get_u64(o, "slots");
    known->config_size = (uint32_t)size;
    if (size) {
        memcpy(known->config, config, size);
    }
    return g_steal_pointer(&known);
}

/* ---- writing --------------------------------------------------------------------------------- */

static JsonArray *write_regions(const FfVhostRings *rings, FfVhostGiveFd *give, void *opaque)
{
    JsonArray *all = json_array_new();

    for (unsigned i = 0; i < rings->n_regions; i++) {
        const FfVhostRegion *region = &rings->regions[i];
        JsonObject *o = json_object_new();

        set_u64(o, "guest", region->guest);
        set_u64(o, "size", region->size);
        set_u64(o, "user", region->user);
        set_u64(o, "offset", region->offset);
        json_object_set_int_member(o, "fd", give(rings->fds[i], opaque));
        json_array_add_object_element(all, o);
    }
    return all;
}

static void write_addr(JsonObject *o, const FfVhostVringAddr *addr)
{
    set_u64(o, "flags", addr->flags);
    set_u64(o, "desc", addr->desc);
    set_u64(o, "used", addr->used);
    set_u64(o, "avail", addr->avail);
    set_u64(o, "log", addr->log);
}

static JsonObject *write_ring(const FfVhostRing *ring, FfVhostGiveFd *give, void *opaque)
{
    JsonObject *o = json_object_new();

    json_object_set_int_member(o, "num", ring->num);
    if (ring->has_base) {
        json_object_set_int_member(o, "base", ring->base);
    }
    if (ring->has_addr) {
        write_addr(o, &ring->addr);
    }
    json_object_set_int_member(o, "kick", ring->kick >= 0 ? give(ring->kick, opaque) : -1);
    json_object_set_boolean_member(o, "started", ring->started);
    json_object_set_boolean_member(o, "disabled", ring->disabled);
    set_u64(o, "was-used", ring->was_used);
    set_u64(o, "was-size", ring->was_size);
    return o;
}

static JsonArray *write_rings(const FfVhostRest *rest, FfVhostGiveFd *give, void *opaque)
{
    JsonArray *all = json_array_new();

    for (unsigned i = 0; rest->rings.rings && i < FF_VHOST_MAX_RINGS; i++) {
        const FfVhostRing *ring = &rest->rings.rings[i];

        if (ring->num || ring->has_base || ring->has_addr || ring->started || ring->disabled ||
            ring->kick >= 0 || ring->was_size) {
            JsonObject *o = write_ring(ring, give, opaque);

            json_object_set_int_member(o, "index", i);
            json_object_set_boolean_member(o, "caught-up", rest->caught_up[i / 64] >> i % 64 & 1);
            json_array_add_object_element(all, o);
        }
    }
    return all;
}

JsonObject *ff_vhost_rest_write(const FfVhostRest *rest, FfVhostGiveFd *give, void *opaque)
{
    JsonObject *o = json_object_new();

    if (rest->has_features) {
        set_u64(o, "features", rest->features);
    }
    if (rest->knows_offer) {
        set_u64(o, "offered", rest->offered);
    }
    set_u64(o, "protocol", rest->protocol);
    set_u64(o, "offered-protocol", rest->offered_protocol);
    json_object_set_boolean_member(o, "foreign-log", rest->foreign_log);
    json_object_set_boolean_member(o, "was-reset", rest->was_reset);
    json_object_set_boolean_member(o, "unfinished", rest->unfinished);
    if (rest->odd) {
        json_object_set_string_member(o, "odd", rest->odd);
    }
    json_object_set_int_member(o, "waited", rest->waited);
    json_object_set_int_member(o, "in-vain", rest->in_vain);
    json_object_set_int_member(o, "came-back-at", rest->came_back_at);
    json_object_set_object_member(o, "known", ff_vhost_known_write(&rest->known));
    json_object_set_array_member(o, "regions", write_regions(&rest->rings, give, opaque));
    json_object_set_array_member(o, "rings", write_rings(rest, give, opaque));
    return o;
}

/* ---- reading --------------------------------------------------------------------------------- */

static int get_fd(JsonObject *o, const char *name, GArray *fds)
{
    int fd = (int)ff_json_int(o, name, -1);

    if (fd >= 0) {
        g_array_append_val(fds, fd);
    }
    return fd;
}

/* Object I of ARRAY; NULL: it is none. */
static JsonObject *nth_object(JsonArray *array, guint i)
{
    JsonNode *node = json_array_get_element(array, i);

    return JSON_NODE_HOLDS_OBJECT(node) ? json_node_get_object(node) : NULL;
}

static bool read_regions(FfVhostRings *rings, JsonArray *array, GArray *fds)
{
    guint n = array ? json_array_get_length(array) : FF_VHOST_MAX_REGIONS + 1;

    for (guint i = 0; i < n && n <= FF_VHOST_MAX_REGIONS; i++) {
        JsonObject *o = nth_object(array, i);
        int fd = o ? get_fd(o, "fd", fds) : -1;

        if (fd < 0) {
            return false;
        }
        rings->fds[i] = fd;
        rings->regions[i] = (FfVhostRegion){.guest = get_u64(o, "guest"),
                                            .size = get_u64(o, "size"),
                                            .user = get_u64(o, "user"),
                                            .offset = get_u64(o, "offset")};
        rings->n_regions++;
    }
    return n <= FF_VHOST_MAX_REGIONS;
}

static void read_ring(FfVhostRing *ring, unsigned i, JsonObject *o, GArray *fds)
{
    *ring = (FfVhostRing){.num = (uint32_t)get_u64(o, "num"),
                          .base = (uint16_t)get_u64(o, "base"),
                          .has_base = json_object_has_member(o, "base"),
                          .has_addr = json_object_has_member(o, "desc"),
                          .kick = get_fd(o, "kick", fds),
                          .started = ff_json_bool(o, "started"),
                          .disabled = ff_json_bool(o, "disabled"),
                          .was_used = get_u64(o, "was-used"),
                          .was_size = get_u64(o, "was-size")};
    if (ring->has_addr) {
        ring->addr = (FfVhostVringAddr){.index = i,
                                        .flags = (uint32_t)get_u64(o, "flags"),
                                        .desc = get_u64(o, "desc"),
                                        .used = get_u64(o, "used"),
                                        .avail = get_u64(o, "avail"),
                                        .log = get_u64(o, "log")};
    }
}

static bool read_rings(FfVhostRest *rest, JsonArray *array, GArray *fds)
{
    for (guint k = 0; array && k < json_array_get_length(array); k++) {
        JsonObject *o = nth_object(array, k);
        uint64_t i = o ? get_u64(o, "index") : FF_VHOST_MAX_RINGS;
        FfVhostRing *ring = ff_vhost_rings_make(&rest->rings, i);

        if (!ring) {
            return false;
        }
        read_ring(ring, (unsigned)i, o, fds);
        rest->caught_up[i / 64] |= (uint64_t)ff_json_bool(o, "caught-up") << i % 64;
    }
    return array != NULL;
}

/* A relay of an older farfault does not say. */
static void read_known(FfVhostRest *rest, JsonObject *o)
{
    JsonObject *object = ff_json_object(o, "known");
    g_autofree FfVhostKnown *known = object ? ff_vhost_known_read(object) : NULL;

    if (known) {
        rest->known = *known;
    }
}

FfVhostRest *ff_vhost_rest_read(JsonObject *o, GArray *fds)
{
    FfVhostRest *rest = g_new0(FfVhostRest, 1);

    rest->has_features = json_object_has_member(o, "features");
    rest->features = get_u64(o, "features");
    rest->knows_offer = json_object_has_member(o, "offered");
    rest->offered = get_u64(o, "offered");
    rest->protocol = get_u64(o, "protocol");
    rest->offered_protocol = get_u64(o, "offered-protocol");
    rest->foreign_log = ff_json_bool(o, "foreign-log");
    rest->was_reset = ff_json_bool(o, "was-reset");
    rest->unfinished = ff_json_bool(o, "unfinished");
    rest->odd = g_intern_string(ff_json_string(o, "odd"));
    rest->waited = ff_json_int(o, "waited", 0);
    rest->in_vain = ff_json_int(o, "in-vain", 0);
    rest->came_back_at = ff_json_int(o, "came-back-at", 0);
    read_known(rest, o);
    if (!read_regions(&rest->rings, ff_json_array(o, "regions"), fds) ||
        !read_rings(rest, ff_json_array(o, "rings"), fds)) {
        g_free(rest->rings.rings);
        g_free(rest);
        return NULL;
    }
    return rest;
}
