/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Firecracker (src/vmm/src/persist.rs there, GuestRegionUffdMapping): its first message is all of
 * it. It keeps a copy of its userfaultfd, and stands still without us.
 *
 *     [{"base_host_virt_addr": ADDR, "size": BYTES, "offset": BYTES, "page_size": BYTES,
 *       "page_size_kib": BYTES}, ...]
 *
 * page_size_kib is in bytes as well: a mistake that is kept for those that rely on it. Old versions
 * send only that, later ones only the other. Other members are of versions to come, and let pass.
 *
 * No system calls of its own.
 */
#include "pager/dialects/firecracker.h"

#include <gio/gio.h>

#include "pager/dialects/dialects.h"
#include "pager/server/session-internal.h"
#include "pager/server/text.h"
#include "qmp/json.h"

/* Of brackets: it has two. */
#define DEPTH_MAX 8

/* 0: there is none. */
static uint64_t page_size_of(JsonObject *o)
{
    gint64 size = ff_json_int(o, "page_size", 0), kib = ff_json_int(o, "page_size_kib", 0);

    return size && kib && size != kib ? 0 : size ? size : kib;
}

unsigned ff_firecracker_parse(const char *text, size_t len, uint64_t source_size,
                              FfRegionOfClient *regions, GError **error)
{
    g_autoptr(JsonNode) root = ff_text_parse(text, len, DEPTH_MAX, error);

    if (!root) {
        g_prefix_error(error, "its message is ");
        return 0;
    }
    JsonArray *array = JSON_NODE_HOLDS_ARRAY(root) ? json_node_get_array(root) : NULL;
    unsigned n = ff_regions_parse(array, page_size_of, regions, error);
    return n && ff_regions_check(regions, n, source_size, true, error) ? n : 0;
}

static bool recognise_firecracker(const char *bytes, size_t len)
{
    return bytes[0] == '[';
}

static FfImage *make_image(FfSession *s, GError **error)
{
    FfRegionOfClient region[FF_REGIONS];
    uint64_t features;

    unsigned n = ff_session_check_features(s, &features, error)
                     ? ff_firecracker_parse(s->rec->hello, s->rec->hello_len,
                                            ff_content_size(s->all->source), region, error)
                     : 0;
    return n ? ff_regions_image(s, region, n, features, error) : NULL;
}

const FfDialect ff_dialect_firecracker = {.name = "firecracker",
                                          .recognise = recognise_firecracker,
                                          .make_image = make_image,
                                          .open_source = ff_regions_open_source,
                                          .serve = ff_regions_serve};
