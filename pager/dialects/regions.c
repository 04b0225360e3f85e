/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See regions.h. System calls: those of g_file_get_contents(), and of pager/server/image.c. */
#include "pager/dialects/regions.h"

#include <errno.h>
#include <gio/gio.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "pager/server/session-internal.h"
#include "qmp/json.h"
#include "uffd/holes.h"

#define SMALL_PAGE 4096
#define HUGE_PAGE (2 << 20)
#define ADDRESS_END (1ull << 56) /* of a process, with five levels of page tables */

static bool refuse_region(GError **error, unsigned i, const char *what)
{
    g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA, "region %u of its message: %s", i,
                what);
    return false;
}

static bool parse_region(JsonObject *o, unsigned i, uint64_t page_size, FfRegionOfClient *r,
                         GError **error)
{
    gint64 addr = ff_json_int(o, "base_host_virt_addr", -1), size = ff_json_int(o, "size", -1),
           offset = ff_json_int(o, "offset", -1);

    if (addr <= 0 || size <= 0 || offset < 0) {
        return refuse_region(error, i, "base_host_virt_addr, size and offset must be numbers");
    }
    if (page_size != SMALL_PAGE && page_size != HUGE_PAGE) {
        return refuse_region(error, i,
                             "page_size must be 4096 or 2097152, and page_size_kib the same");
    }
    *r = (FfRegionOfClient){addr, size, page_size, offset};
    if (r->addr % SMALL_PAGE || r->size % SMALL_PAGE || r->offset % SMALL_PAGE) {
        return refuse_region(error, i, "it is not whole pages");
    }
    if (r->addr >= ADDRESS_END || r->size > ADDRESS_END - r->addr) {
        return refuse_region(error, i, "no process has such an address");
    }
    return true;
}

unsigned ff_regions_parse(JsonArray *array, uint64_t (*page_size)(JsonObject *o),
                          FfRegionOfClient *regions, GError **error)
{
    unsigned n = array ? json_array_get_length(array) : 0;

    if (!n || n > FF_REGIONS) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA,
                    "its message must be an array of 1 to %u regions", FF_REGIONS);
        return 0;
    }
    for (unsigned i = 0; i < n; i++) {
        JsonNode *node = json_array_get_element(array, i);
        JsonObject *o = JSON_NODE_HOLDS_OBJECT(node) ? json_node_get_object(node) : NULL;
        if (!parse_region(o, i, o ? page_size(o) : 0, &regions[i], error)) {
            return 0;
        }
    }
    return n;
}

static bool regions_overlap(const FfRegionOfClient *a, const FfRegionOfClient *b, bool whole)
{
    return (a->addr < b->addr + b->size && b->addr < a->addr + a->size) ||
           (whole && a->offset < b->offset + b->size && b->offset < a->offset + a->size);
}

/* Else all that is missing is that what they say is of the same snapshot. */
bool ff_regions_check(const FfRegionOfClient *r, unsigned n, uint64_t source_size, bool whole,
                      GError **error)
{
    uint64_t sum = 0;

    for (unsigned i = 0; i < n; i++) {
        if (r[i].addr % r[i].page_size || r[i].size % r[i].page_size) {
            return refuse_region(error, i, "it is not whole pages");
        }
        if (r[i].size > source_size || r[i].offset > source_size - r[i].size) {
            return refuse_region(error, i,
                                 "it ends after the memory file does; is it another snapshot?");
        }
        for (unsigned k = 0; k < i; k++) {
            if (regions_overlap(&r[i], &r[k], whole)) {
                return refuse_region(error, i,
                                     "another one has some of its addresses, or its content");
            }
        }
        sum += r[i].size;
    }
    if (whole && sum != source_size) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA,
                    "its regions are %" G_GUINT64_FORMAT " bytes, and the memory file has "
                    "%" G_GUINT64_FORMAT "; is it another snapshot?",
                    sum, source_size);
        return false;
    }
    return true;
}

/* Is what a process has of R shared with its children? A line of maps is "START-END rwxp ...". Of
 * its first pages may be less there by now, or something else: then it is not known. */
static FfSharing sharing_of(const char *maps, const FfRegionOfClient *r)
{
    FfSharing all = FF_SHARING_UNKNOWN;

    for (const char *line = maps; line && *line; line = strchr(line, '\n')) {
        uint64_t start, end;
        char rights[8];
        line += *line == '\n';
        if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %7s", &start, &end, rights) == 3 &&
            start < r->addr + r->size && end > r->addr) {
            FfSharing one = rights[3] == 's' ? FF_SHARING_SHARED : FF_SHARING_PRIVATE;
            if (all != FF_SHARING_UNKNOWN && all != one) {
                return FF_SHARING_UNKNOWN;
            }
            all = one;
        }
    }
    return all;
}

FfImage *ff_regions_image(FfSession *s, const FfRegionOfClient *region, unsigned n,
                          uint64_t features, GError **error)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/maps", s->rec->pid), *maps = NULL;
    FfImageBlock block[FF_IMAGE_BLOCKS];
    G_STATIC_ASSERT(FF_REGIONS <= FF_IMAGE_BLOCKS);

    g_file_get_contents(path, &maps, NULL, NULL);
    for (unsigned i = 0; i < n; i++) {
        block[i] = (FfImageBlock){region[i].size, region[i].page_size, region[i].offset,
                                  .sharing = sharing_of(maps ? maps : "", &region[i])};
        if (block[i].sharing == FF_SHARING_SHARED && block[i].page_size == SMALL_PAGE &&
            !ff_holes_check_memfd(error)) {
            return NULL;
        }
    }
    FfImage *image = ff_image_create(s->memfd, block, n);
    if (!image) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED,
                    "no room for what is known of its memory: %s", g_strerror(errno));
        return NULL;
    }
    image->features = features;
    for (unsigned i = 0; i < n; i++) {
        image->copy[0].range[i] = (FfImageRange){region[i].addr, region[i].size, 0, i};
    }
    image->copy[0].n_ranges = n;
    return image;
}

bool ff_regions_open_source(FfSession *s, GError **error)
{
    s->source = s->all->source;
    s->set_path = g_strdup(s->all->set);
    return true;
}

void ff_regions_serve(FfSession *s)
{
    if (ff_session_answer_faults(s)) {
        ff_session_fill(s, s->all->bulk);
    }
}
