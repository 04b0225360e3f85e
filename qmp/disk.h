/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A guest's disk, as an entry of QEMU's query-block has it. The one that plans a snapshot of the
 * disks, and the one that looks whether the plan still holds, must agree on what a disk is; so
 * must those that compare the disks of two QEMUs. No state; any thread.
 */
#ifndef FF_QMP_DISK_H
#define FF_QMP_DISK_H

#include "qmp/json.h"

/* Borrowed from the entry. */
typedef struct {
    const char *device;   /* the guest's: its id, or its path in QEMU's object tree */
    const char *drive;    /* of -drive, by its id; NULL: there is none */
    const char *node;     /* which the device uses */
    const char *format;   /* of that node: its driver */
    const char *image;    /* as QEMU calls it; NULL: it does not say */
    int64_t size;         /* bytes that the guest sees; -1: QEMU does not say */
    JsonObject *inserted; /* what else QEMU says of the node */
} FfDiskEntry;

/* FALSE: no device of the guest has it, there is no medium, or the guest cannot write to it. */
static inline bool ff_disk_read(JsonObject *entry, FfDiskEntry *disk)
{
    JsonObject *inserted = ff_json_object(entry, "inserted");
    JsonObject *image = ff_json_object(inserted, "image");
    const char *drive = ff_json_string_or(entry, "device", "");

    *disk = (FfDiskEntry){.device = ff_json_string_or(entry, "qdev", ""),
                          .drive = *drive ? drive : NULL,
                          .node = ff_json_string_or(inserted, "node-name", ""),
                          .format = ff_json_string_or(inserted, "drv", ""),
                          .image = ff_json_string(image, "filename"),
                          .size = ff_json_int(image, "virtual-size", -1),
                          .inserted = inserted};
    return inserted && *disk->device && !ff_json_bool(inserted, "ro");
}

/* How its owner is called, borrowed from ENTRY: the id of -drive, else that of the device. */
static inline const char *ff_disk_owner(JsonObject *entry)
{
    const char *drive = ff_json_string_or(entry, "device", "");

    return *drive ? drive : ff_json_string_or(entry, "qdev", "?");
}

/* The medium in words (g_free), with all that another QEMU must have the same of it: format,
 * limits, the node's name if somebody gave it one, and the files below it, as far as the image
 * names them. INSERTED: of the entry; NULL: there is none. */
char *ff_disk_describe(JsonObject *inserted);
/* TEXT, which ff_disk_describe() wrote of another QEMU's medium, is this one: the same files in the
 * same order, by names that lead to the same places; and all else, but the name of a node that
 * farfault has put in front. CWD: the folder of both QEMUs; NULL: not known. */
bool ff_disk_is_described(JsonObject *inserted, const char *text, const char *cwd);

/* Names of nodes that farfault puts in front of disks: by a number of its own, and N. */
#define FF_OVERLAY_NODE "farfault-%08x-%u"
/* NODE has such a name: no client has given it that, nor knows it. */
bool ff_disk_is_overlay(const char *node);

/* By which name the file of this host is found that NODE, of query-named-block-nodes of the QEMU
 * that is process PID, has opened as a disk (g_free); NULL: NODE is none, or is in no such file. */
char *ff_disk_node_path(JsonObject *node, int pid);

#endif
