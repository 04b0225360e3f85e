/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Clients of nydusd's userfaultfd service: an image that is read as memory. Written after
 * dragonflyoss/nydus, commit 34e6071e: service/src/uffd_proto.rs (HandshakeRequest, VmaRegion,
 * FaultPolicy, StatRequest, StatResponse), service/src/block_uffd.rs, docs/nydus-uffd.md; what a
 * client does: smoke/tests/tool/uffd_client.go.
 *
 *     {"type": 2}                                             may come first, once or more
 *     {"type": 3, "size": BYTES, "block_size": 4096, "flags": 0, "version": 1}       our answer
 *     {"type": 0, "regions": [...], "policy": 0|1, "enable_prefault": BOOL}  with a userfaultfd
 *
 * A region is as Firecracker's (regions.h), and has prot and flags, which are for the future there
 * as well. page_size is how much nydusd reads at once, any number of pages: how large pages are is
 * looked up. Regions can be parts of the image, and the same part twice, and end after the image:
 * there is nothing but zeros.
 *
 * The policy is who places: 1, we do; 0, the client maps files that it gets (PageFaultResponse).
 * It gets none: nydusd itself places what it has no file for, so such a client waits for nothing
 * else. Its memory is no page cache then.
 *
 * The userfaultfd need not tell of anything (its features are 0 in that client): what the process
 * gives back is the image's again, as from nydusd.
 *
 * System calls: those of g_file_get_contents(), and of regions.c.
 */
#include "pager/dialects/nydus.h"

#include <gio/gio.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "pager/dialects/dialects.h"
#include "pager/server/session-internal.h"
#include "pager/server/text.h"
#include "qmp/json.h"

#define SMALL_PAGE 4096
#define HUGE_PAGE (2 << 20)
/* Of brackets: it has three. */
#define DEPTH_MAX 8
#define HANDSHAKE 0
#define ZERO_COPY 0

/* ---- the holder's process -------------------------------------------------------------------- */

static bool recognise_nydus(const char *bytes, size_t len)
{
    return bytes[0] == '{';
}

/* Of a question all that is asked is how large the image is. */
static bool is_question(const char *bytes, size_t len)
{
    static const char text[] = "{\"type\":2}";
    size_t at = 0;

    for (size_t i = 0; i < len; i++) {
        if (g_ascii_isspace(bytes[i])) {
            continue;
        }
        if (!text[at] || bytes[i] != text[at]) {
            return false;
        }
        at++;
    }
    return !text[at];
}

static size_t answer_nydus(const char *bytes, size_t len, uint64_t content, char *answer,
                           size_t room)
{
    int n = is_question(bytes, len)
                ? snprintf(answer, room,
                           "{\"type\":3,\"size\":%" PRIu64 ",\"block_size\":%d,\"flags\":0,"
                           "\"version\":1}",
                           content, SMALL_PAGE)
                : 0;

    return n > 0 && (size_t)n < room ? (size_t)n : 0;
}

/* ---- the pager's ----------------------------------------------------------------------------- */

static bool refuse_message(GError **error, const char *what)
{
    g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA, "its message is of nydus: %s", what);
    return false;
}

/* That is for reading; page_size_kib is nothing that anybody there looks at. */
static uint64_t page_size_of(JsonObject *o)
{
    gint64 size = ff_json_int(o, "page_size", 0);

    return size <= 0 || size % SMALL_PAGE ? 0 : size % HUGE_PAGE ? SMALL_PAGE : HUGE_PAGE;
}

/* Of the mapping that has R's first page, by the text of smaps: "START-END ...", and after it
 * "KernelPageSize: N kB". 0: it is not known. */
static uint64_t kernel_page_of(const char *smaps, const FfRegionOfClient *r)
{
    uint64_t start, end, kib;
    bool inside = false;

    for (const char *line = smaps; line && *line; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (sscanf(line, "%" SCNx64 "-%" SCNx64 " ", &start, &end) == 2) {
            inside = r->addr >= start && r->addr < end;
        } else if (inside && sscanf(line, "KernelPageSize: %" SCNu64 " kB", &kib) == 1) {
            return kib << 10;
        }
    }
    return 0;
}

/* Where the message has large pages. FALSE and ERROR. */
static bool look_up_pages(const FfSession *s, FfRegionOfClient *region, unsigned n, GError **error)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/smaps", s->rec->pid), *smaps = NULL;

    for (unsigned i = 0; i < n; i++) {
        if (region[i].page_size == SMALL_PAGE) {
            continue;
        }
        if (!smaps && !g_file_get_contents(path, &smaps, NULL, NULL)) {
            return refuse_message(error,
                                  "how large its pages are cannot be looked up in /proc/PID/smaps");
        }
        uint64_t size = kernel_page_of(smaps, &region[i]);
        if (size != region[i].page_size && size != SMALL_PAGE) {
            return refuse_message(
                error, "pages of a region are of another size than it says, or not there");
        }
        region[i].page_size = size;
    }
    return true;
}

/* What regions have after the image, of SIZE bytes, is taken out of them: of memory that is none of
 * a region what is missing becomes zeros (small pages alone). How many are left; all, if none is.
 */
static unsigned cut_regions(FfRegionOfClient *region, unsigned n, uint64_t size)
{
    unsigned left = 0;

    for (unsigned i = 0; i < n; i++) {
        FfRegionOfClient r = region[i];
        if (r.page_size == SMALL_PAGE && r.offset < size) {
            r.size = MIN(r.size, size - r.offset);
        }
        if (r.page_size != SMALL_PAGE || r.offset < size) {
            region[left++] = r;
        }
    }
    return left ? left : n;
}

/* NONE: there is no such member; -1: it is no number. */
static gint64 number_member(JsonObject *o, const char *name, gint64 none)
{
    return json_object_has_member(o, name) ? ff_json_int(o, name, -1) : none;
}

unsigned ff_nydus_parse(const char *text, size_t len, FfRegionOfClient *regions, bool *copies,
                        GError **error)
{
    g_autoptr(JsonNode) root = ff_text_parse(text, len, DEPTH_MAX, error);

    if (!root) {
        g_prefix_error(error, "its message is ");
        return 0;
    }
    JsonObject *o = JSON_NODE_HOLDS_OBJECT(root) ? json_node_get_object(root) : NULL;
    if (!o || number_member(o, "type", HANDSHAKE) != HANDSHAKE) {
        return refuse_message(error, "its type must be 0");
    }
    gint64 policy = number_member(o, "policy", ZERO_COPY);
    if (policy != ZERO_COPY && policy != 1) {
        return refuse_message(error, "its policy must be 0 or 1");
    }
    *copies = policy != ZERO_COPY;
    JsonNode *array = json_object_get_member(o, "regions");
    bool is_array = array && JSON_NODE_HOLDS_ARRAY(array);
    return ff_regions_parse(is_array ? json_node_get_array(array) : NULL, page_size_of, regions,
                            error);
}

static FfImage *make_image(FfSession *s, GError **error)
{
    FfRegionOfClient region[FF_REGIONS];
    uint64_t features;
    bool copies;
    unsigned n = ff_session_features(s, &features, error)
                     ? ff_nydus_parse(s->rec->hello, s->rec->hello_len, region, &copies, error)
                     : 0;

    if (n && !copies) {
        ff_session_log(s, "it would map files (policy 0): its pages are copied");
    }
    uint64_t size = ff_content_size(s->all->source);

    if (!n || !look_up_pages(s, region, n, error)) {
        return NULL;
    }
    n = cut_regions(region, n, size);
    if (!ff_regions_check(region, n, size, false, error)) {
        return NULL;
    }
    /* A space needs its lock, though nothing comes. */
    return ff_regions_image(s, region, n, features | UFFD_FEATURE_EVENT_REMOVE, error);
}

const FfDialect ff_dialect_nydus = {.name = "nydus",
                                    .recognise = recognise_nydus,
                                    .answer = answer_nydus,
                                    .make_image = make_image,
                                    .open_source = ff_regions_open_source,
                                    .serve = ff_regions_serve,
                                    .comes_again = true};
