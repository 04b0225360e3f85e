/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What precopy asks of QEMU: to drain the reads from disks that are under way.
 *
 * A page that a disk is read into past the page cache is marked as written when it is pinned, not
 * when the data lands; docs/design/precopy.md says why a drain between scan and copy is enough. It
 * is left out only where every driver and every file system is known to copy what it reads.
 * "aio_flush" of qemu-io is blk_drain_all(): the same that stop does, for every disk, with the
 * vCPUs running.
 *
 * Threads: the coordinator's. No lock.
 */
#include "guest/qemu/internal.h"

#include <string.h>

#include "guest/qemu/call.h"
#include "guest/qemu/files.h"
#include "qmp/json.h"

/* Reads of these go to the device without the page cache, whatever their cache mode says. */
static const char *const direct_drivers[] = {"host_device", "host_cdrom"};
/* Drivers of which a read is a copy by QEMU or through the page cache, or that leave reading to
 * other nodes. "file" is one if its file system is (files.h). "nbd" receives from a socket, by
 * copy. */
static const char *const copying_drivers[] = {
    "file",       "nbd",         "null-aio",     "null-co",
    "raw",        "qcow2",       "qcow",         "qed",
    "vdi",        "vhdx",        "vmdk",         "vpc",
    "parallels",  "luks",        "bochs",        "cloop",
    "dmg",        "throttle",    "copy-on-read", "copy-before-write",
    "commit_top", "mirror_top",  "backup-top",   "preallocate",
    "quorum",     "blkdebug",    "blkverify",    "blklogwrites",
    "blkreplay",  "replication", "compress",     "snapshot-access"};

static bool is_one_of(const char *name, const char *const *list, size_t n)
{
    for (size_t i = 0; name && i < n; i++) {
        if (strcmp(name, list[i]) == 0) {
            return true;
        }
    }
    return false;
}

/* A thread that reads from NODE by a buffered read may have the guest's pages pinned, as far as is
 * known. */
static bool may_pin(JsonObject *node)
{
    JsonObject *cache = ff_json_object(node, "cache");
    const char *driver = ff_json_string(node, "drv");

    return is_one_of(driver, direct_drivers, G_N_ELEMENTS(direct_drivers)) ||
           !is_one_of(driver, copying_drivers, G_N_ELEMENTS(copying_drivers)) || !cache ||
           ff_json_bool(cache, "direct");
}

static bool files_copy(FfQemu *qemu)
{
    g_autofree int *fds = g_new(int, qemu->blocks->len + 1);

    for (guint i = 0; i < qemu->blocks->len; i++) {
        fds[i] = ((FfRamBlock *)qemu->blocks->pdata[i])->memfd;
    }
    return ff_files_copy(qemu->qemu_pid, fds, qemu->blocks->len);
}

/* The name of a node by which the disks are drained (g_free): there is one whose reads may pin the
 * guest's pages. NULL: all of them copy, or there is none; or ERROR. */
static char *node_to_drain(FfQemu *qemu, GError **error)
{
    JsonObject *args = json_object_new();
    const char *reads_file = NULL;

    json_object_set_boolean_member(args, "flat", TRUE);
    g_autoptr(JsonNode) node = ff_qemu_call_optional(qemu, "query-named-block-nodes", args, error);
    for (guint i = 0; i < ff_json_node_length(node); i++) {
        JsonObject *n = ff_json_node_nth(node, i);
        const char *name = n ? ff_json_string(n, "node-name") : NULL;
        const char *driver = n ? ff_json_string(n, "drv") : NULL;
        if (name && may_pin(n)) {
            return g_strdup(name);
        }
        if (name && strcmp(driver, "file") == 0) {
            reads_file = name;
        }
    }
    return reads_file && !files_copy(qemu) ? g_strdup(reads_file) : NULL;
}

bool ff_qemu_drain(FfVmmMemory *memory, GError **error)
{
    FfQemu *qemu = ff_qemu_of_memory(memory);
    g_autoptr(GError) local = NULL;
    /* Each time: a disk may have been plugged since. One that comes after this answer has nothing
     * under way that is older than it. */
    g_autofree char *name = node_to_drain(qemu, &local);

    if (!name) {
        if (local) {
            g_propagate_error(error, g_steal_pointer(&local));
        }
        return *error == NULL;
    }
    JsonObject *args = json_object_new();
    g_autofree char *line = g_strdup_printf("qemu-io %s \"aio_flush\"", name);
    json_object_set_string_member(args, "command-line", line);
    g_autoptr(JsonNode) reply = ff_qemu_call_patient(qemu, "human-monitor-command", args, error);
    if (!reply) {
        return false;
    }
    const char *text =
        JSON_NODE_HOLDS_VALUE(reply) && json_node_get_value_type(reply) == G_TYPE_STRING
            ? json_node_get_string(reply)
            : "no text";
    if (*text) {
        g_autofree char *what = g_strdelimit(g_strdup(text), "\r\n", ' ');
        g_set_error(error, FF_QMP_ERROR, FF_QMP_ERROR_GENERIC,
                    "QEMU cannot drain its disks (%s): switch to postcopy at once, or use "
                    "cache=writeback for this migration with images on ext4, xfs or btrfs",
                    g_strstrip(what));
        ff_qmp_one_line((*error)->message);
        return false;
    }
    return true;
}
