/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Firecracker's regions; see firecracker.h. No system calls.
 *
 *     [{"base_host_virt_addr": ADDR, "size": BYTES, "offset": BYTES, "page_size": BYTES,
 *       "page_size_kib": BYTES}, ...]
 *
 * page_size_kib is in bytes as well: a mistake that is kept for those that rely on it. Old versions
 * send only that, later ones only the other. Other members are of versions to come, and let pass.
 */
#include "server/firecracker.h"

#include <gio/gio.h>
#include <json-glib/json-glib.h>
#include <string.h>

#include "qmp/json.h"
#include "server/text.h"

#define SMALL_PAGE 4096
#define HUGE_PAGE (2 << 20)
/* Of brackets: it has two. */
#define DEPTH_MAX 8
#define ADDRESS_END (1ull << 56) /* of a process, with five levels of page tables */

static bool wrong(GError **error, unsigned i, const char *what)
{
    g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA, "region %u of its message: %s", i,
                what);
    return false;
}

/* 0: there is none. */
static uint64_t page_size_of(JsonObject *o)
{
    gint64 size = ff_json_int(o, "page_size", 0), kib = ff_json_int(o, "page_size_kib", 0);

    return size && kib && size != kib ? 0 : size ? size : kib;
}

static bool parse_region(JsonObject *o, unsigned i, FfRegionOfClient *r, GError **error)
{
    gint64 addr = ff_json_int(o, "base_host_virt_addr", -1), size = ff_json_int(o, "size", -1),
           offset = ff_json_int(o, "offset", -1);

    r->page_size = page_size_of(o);
    if (addr <= 0 || size <= 0 || offset < 0) {
        return wrong(error, i, "base_host_virt_addr, size and offset must be numbers");
    }
    if (r->page_size != SMALL_PAGE && r->page_size != HUGE_PAGE) {
        return wrong(error, i, "page_size must be 4096 or 2097152, and page_size_kib the same");
    }
    *r = (FfRegionOfClient){addr, size, r->page_size, offset};
    if (r->addr % r->page_size || r->size % r->page_size || r->offset % SMALL_PAGE) {
        return wrong(error, i, "it is not whole pages");
    }
    if (r->addr >= ADDRESS_END || r->size > ADDRESS_END - r->addr) {
        return wrong(error, i, "no process has such an address");
    }
    return true;
}

static bool overlap(const FfRegionOfClient *a, const FfRegionOfClient *b)
{
    return (a->addr < b->addr + b->size && b->addr < a->addr + a->size) ||
           (a->offset < b->offset + b->size && b->offset < a->offset + a->size);
}

/* All that is missing is that what they say is of the same snapshot. */
static bool check_content(const FfRegionOfClient *r, unsigned n, uint64_t source_size,
                          GError **error)
{
    uint64_t sum = 0;

    for (unsigned i = 0; i < n; i++) {
        if (r[i].size > source_size || r[i].offset > source_size - r[i].size) {
            return wrong(error, i, "it ends after the memory file does; is it another snapshot?");
        }
        for (unsigned k = 0; k < i; k++) {
            if (overlap(&r[i], &r[k])) {
                return wrong(error, i, "another one has some of its addresses, or its content");
            }
        }
        sum += r[i].size;
    }
    if (sum != source_size) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA,
                    "its regions are %" G_GUINT64_FORMAT " bytes, and the memory file has "
                    "%" G_GUINT64_FORMAT "; is it another snapshot?",
                    sum, source_size);
        return false;
    }
    return true;
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
    unsigned n = array ? json_array_get_length(array) : 0;
    if (!n || n > FF_FIRECRACKER_REGIONS) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA,
                    "its message must be an array of 1 to %u regions", FF_FIRECRACKER_REGIONS);
        return 0;
    }
    for (unsigned i = 0; i < n; i++) {
        JsonNode *node = json_array_get_element(array, i);
        JsonObject *o = JSON_NODE_HOLDS_OBJECT(node) ? json_node_get_object(node) : NULL;
        if (!parse_region(o, i, &regions[i], error)) {
            return 0;
        }
    }
    return check_content(regions, n, source_size, error) ? n : 0;
}
