/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The disks that a guest can write to, for a snapshot that keeps them: which ones there are, and
 * whether each can continue with an overlay. Nothing is changed. One thread.
 */
#ifndef FF_CLI_SNAPSHOT_DISKS_H
#define FF_CLI_SNAPSHOT_DISKS_H

#include "cli/common/qmp.h"

#include <stdint.h>
#include <sys/types.h>

typedef struct {
    char *name;   /* for people: its drive, the id of its device, or the last part of its path */
    char *device; /* as query-block has it */
    char *node;   /* which the device uses */
    char *base;   /* its image: absolute, and really the file that QEMU has open */
    char **below; /* files behind BASE, absolute; those that are none of this host are left out */
    char *format; /* of BASE: "raw" or "qcow2" */
    int64_t size; /* bytes that the guest sees */
    bool direct, no_flush; /* how QEMU caches it */
    char *detect_zeroes;   /* likewise */
    /* Of overlays.c: */
    char *overlay;                  /* path; NULL: not yet */
    char *overlay_node, *file_node; /* names of the nodes */
    unsigned made;                  /* how far it has come; FfStep */
    GPtrArray *files; /* FfKeptFile *: BASE and BELOW as QEMU left them; NULL: not yet */
} FfCliDisk;

/* Where QEMU lives on this host; made by ff_cli_disks_plan(). */
typedef struct {
    int thread; /* one of QEMU's */
    uid_t uid;  /* QEMU's user */
} FfCliHost;

/* FfCliDisk *, perhaps none. NULL and ERROR: one of them cannot have an overlay, something is under
 * way with them, or somebody else (libvirt) keeps account of them. */
GPtrArray *ff_cli_disks_plan(FfCliQmp *qmp, FfCliHost *host, GError **error);
/* Their names, with commas (g_free). NULL: there are none, or QEMU does not say. */
char *ff_cli_disks_names(FfCliQmp *qmp);
/* The same of disks that are other processes (vhost-user-blk), with ERROR if QEMU does not say. */
char *ff_cli_disks_other(FfCliQmp *qmp, GError **error);

#endif
