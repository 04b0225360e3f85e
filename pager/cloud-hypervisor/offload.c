/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A snapshot of Cloud Hypervisor's; see offload.h. No state; any thread. System calls: open,
 * userfaultfd, memfd_create, ftruncate, close, and those of content/image/input.c.
 */
#include "pager/cloud-hypervisor/offload.h"

#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <json-glib/json-glib.h>
#include <linux/userfaultfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "pager/server/source.h"
#include "pager/server/text.h"
#include "qmp/json.h"
#include "uffd/holes.h"

/* Of brackets: those of a configuration are a handful. */
#define DEPTH_MAX 64
#define ADDRESS_END (1ull << 52) /* of a guest */

static bool refuse_slot(GError **error, unsigned i, const char *what)
{
    g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA, "guest_ram_mappings[%u]: %s", i, what);
    return false;
}

static bool slots_overlap(uint64_t a, uint64_t a_size, uint64_t b, uint64_t b_size)
{
    return a < b + b_size && b < a + a_size;
}

static bool parse_slot(JsonObject *o, unsigned i, FfOffloadSlot *s, GError **error)
{
    gint64 slot = ff_json_int(o, "slot", -1), gpa = ff_json_int(o, "gpa", -1),
           size = ff_json_int(o, "size", -1), offset = ff_json_int(o, "file_offset", -1);

    if (slot < 0 || slot > G_MAXUINT32 || gpa < 0 || size <= 0 || offset < 0) {
        return refuse_slot(error, i, "slot, gpa, size and file_offset must be numbers");
    }
    *s = (FfOffloadSlot){.gpa = gpa, .size = size, .file_offset = offset, .slot = (uint32_t)slot};
    if (s->gpa % FF_OFFLOAD_PAGE || s->size % FF_OFFLOAD_PAGE || s->file_offset % FF_OFFLOAD_PAGE) {
        return refuse_slot(error, i, "it is not whole pages");
    }
    if (s->size > ADDRESS_END || s->gpa > ADDRESS_END - s->size ||
        s->file_offset > ADDRESS_END - s->size) {
        return refuse_slot(error, i, "no guest has such an address");
    }
    return true;
}

/* A device that is another process, which maps the memfds: where it looks before Cloud Hypervisor
 * has asked it finds zeros, and what it writes there would be taken for the page. NULL: there is
 * none. */
static const char *foreign_device(JsonObject *vm)
{
    static const char *const always[] = {"fs", "generic_vhost_user", "user_devices"},
                             *const some[] = {"disks", "net"};

    for (unsigned i = 0; i < G_N_ELEMENTS(always); i++) {
        if (ff_json_node_length(ff_json_get(vm, always[i], JSON_NODE_ARRAY))) {
            return always[i];
        }
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(some); i++) {
        JsonNode *list = ff_json_get(vm, some[i], JSON_NODE_ARRAY);
        for (guint k = 0; k < ff_json_node_length(list); k++) {
            if (ff_json_bool(ff_json_node_nth(list, k), "vhost_user")) {
                return some[i];
            }
        }
    }
    return NULL;
}

/* Of a zone that is a file, and not shared, Cloud Hypervisor passes the file, which it maps
 * privately (create_ram_region_raw() there): the guest's memory is not in it. */
static FfOffloadFacts facts_of(JsonObject *vm)
{
    JsonObject *memory = ff_json_object(vm, "memory");
    JsonNode *zones = ff_json_get(memory, "zones", JSON_NODE_ARRAY);
    FfOffloadFacts facts = {.foreign = foreign_device(vm),
                            .largest_page = ff_json_int(memory, "hugepage_size", 0)};

    for (guint i = 0; i < ff_json_node_length(zones); i++) {
        JsonObject *zone = ff_json_node_nth(zones, i);
        facts.private_file = facts.private_file || (ff_json_get(zone, "file", JSON_NODE_VALUE) &&
                                                    !ff_json_bool(zone, "shared"));
        facts.largest_page = MAX(facts.largest_page, ff_json_int(zone, "hugepage_size", 0));
    }
    return facts;
}

/* Memory that is ours is in memfds, which another process would not wait for. Memory that is not
 * (OWN) is asked for by whole pages, so one must have room in an answer. */
static bool can_restore(const FfOffloadFacts *facts, bool own, GError **error)
{
    if (facts->foreign) {
        g_set_error(
            error, G_IO_ERROR, G_IO_ERROR_NOT_SUPPORTED,
            "%s of vm_config has a device that is another process (vhost-user, vfio-user), "
            "which would not wait for pages; Cloud Hypervisor's own offload_daemon restores "
            "such a guest, without --ondemand",
            facts->foreign);
        return false;
    }
    if (own && facts->largest_page > FF_OFFLOAD_ANSWER) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_NOT_SUPPORTED,
                    "vm_config has pages of %" G_GINT64_FORMAT
                    " bytes, and with --own-memory they can have 2 MiB at most; without it the "
                    "guest gets small ones",
                    facts->largest_page);
        return false;
    }
    return true;
}

unsigned ff_offload_parse(const char *text, size_t len, FfOffloadSlot *slots, FfOffloadFacts *facts,
                          GError **error)
{
    g_autoptr(JsonNode) root = ff_text_parse(text, len, DEPTH_MAX, error);

    if (!root) {
        return 0;
    }
    FfOffloadFacts found = facts_of(ff_json_object(ff_json_node_object(root), "vm_config"));
    if (facts) {
        *facts = found;
    } else if (!can_restore(&found, false, error)) {
        return 0;
    }
    JsonObject *memory = ff_json_object(ff_json_node_object(root), "memory_manager_data");
    JsonNode *table = ff_json_get(memory, "guest_ram_mappings", JSON_NODE_ARRAY);
    guint n = ff_json_node_length(table);
    if (!n || n > FF_OFFLOAD_SLOTS) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA,
                    "memory_manager_data must have guest_ram_mappings, 1 to %d of them; is it "
                    "what Cloud Hypervisor has sent?",
                    FF_OFFLOAD_SLOTS);
        return 0;
    }
    for (guint i = 0; i < n; i++) {
        if (!parse_slot(ff_json_node_nth(table, i), i, &slots[i], error)) {
            return 0;
        }
        for (guint k = 0; k < i; k++) {
            if (slots[k].slot == slots[i].slot ||
                slots_overlap(slots[k].gpa, slots[k].size, slots[i].gpa, slots[i].size)) {
                refuse_slot(error, i, "another one has its slot, or some of its addresses");
                return 0;
            }
        }
    }
    return n;
}

/* ---- the folder ------------------------------------------------------------------------------ */

static bool fail_path(GError **error, const char *path, const char *name, const char *what)
{
    g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED, "%s/%s: %s", path, name, what);
    return false;
}

static bool read_text(const char *path, const char *name, char **text, size_t *len, GError **error)
{
    g_autofree char *file = g_build_filename(path, name, NULL);
    g_autoptr(GError) why = NULL;

    if (g_file_get_contents(file, text, len, &why)) {
        return true;
    }
    if (g_error_matches(why, G_FILE_ERROR, G_FILE_ERROR_NOENT)) {
        return fail_path(error, path, name,
                         "there is none; is the folder a snapshot of Cloud Hypervisor?");
    }
    return fail_path(error, path, name, why->message);
}

/* Bytes of the Ith slot's memfd; 0: it has none. */
static uint64_t memory_size(const FfOffload *o, unsigned i)
{
    const FfOffloadSlot *s = &o->slot[i];

    return !s->own ? s->file_offset + s->size : i == 0 ? FF_OFFLOAD_ANSWER : 0;
}

/* What holds it open is what is read later: another file may have its name by then. */
static bool open_slot(FfOffload *o, unsigned i, const char *path, GError **error)
{
    FfOffloadSlot *s = &o->slot[i];
    g_autofree char *name = g_strdup_printf("memory-%u", s->slot);
    g_autofree char *file = g_build_filename(path, name, NULL);
    g_autoptr(FfContent) source = ff_content_open(file, NULL, NULL, error);

    if (!source) {
        return false;
    }
    if (ff_content_size(source) != s->size) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA,
                    "%s: it has %" G_GUINT64_FORMAT " bytes, and migration_config.json says "
                    "%" G_GUINT64_FORMAT "; is it another snapshot's?",
                    file, ff_content_size(source), s->size);
        return false;
    }
    s->identity = *ff_content_identity(source);
    g_autofree char *memfd = g_strdup_printf("farfault:%s", name);
    o->file[i] = open(file, O_RDONLY | O_CLOEXEC);
    bool done = o->file[i] >= 0;
    if (done && memory_size(o, i)) {
        o->memory[i] = memfd_create(memfd, MFD_CLOEXEC);
        done = o->memory[i] >= 0 && ftruncate(o->memory[i], (off_t)memory_size(o, i)) == 0;
    }
    return done || fail_path(error, path, name, g_strerror(errno));
}

/* Before a guest depends on it. */
static bool check_userfaultfd(GError **error)
{
    int uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);

    if (uffd < 0) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED,
                    "no userfaultfd can be made (%s): Linux 5.11 or newer is needed, and a "
                    "container must not forbid it",
                    g_strerror(errno));
        return false;
    }
    close(uffd);
    return true;
}

bool ff_offload_open(FfOffload *o, const char *path, bool own, GError **error)
{
    FfOffloadFacts facts;

    for (unsigned i = 0; i < FF_OFFLOAD_SLOTS; i++) {
        o->file[i] = o->memory[i] = -1;
    }
    if ((!own && (!check_userfaultfd(error) || !ff_holes_check_memfd(error))) ||
        !read_text(path, "migration_config.json", &o->config, &o->config_len, error) ||
        !read_text(path, "state.json", &o->state, &o->state_len, error)) {
        return false;
    }
    o->n_slots = ff_offload_parse(o->config, o->config_len, o->slot, &facts, error);
    if (!o->n_slots || !can_restore(&facts, own, error)) {
        g_prefix_error(error, "%s/migration_config.json: ", path);
        return false;
    }
    for (unsigned i = 0; i < o->n_slots; i++) {
        o->slot[i].own = own;
        if (!open_slot(o, i, path, error)) {
            return false;
        }
    }
    return true;
}

void ff_offload_clear(FfOffload *o)
{
    for (unsigned i = 0; i < o->n_slots; i++) {
        if (o->file[i] >= 0) {
            close(o->file[i]);
        }
        if (o->memory[i] >= 0) {
            close(o->memory[i]);
        }
    }
    g_free(o->config);
    g_free(o->state);
}
