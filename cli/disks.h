/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a live snapshot with --disks has done to the guest's disks: seen by comparing what QEMU says
 * of them before and after, so that it is known even if the engine died in between. One thread.
 */
#ifndef FF_CLI_DISKS_H
#define FF_CLI_DISKS_H

#include "cli/qmp.h"

#include <stdio.h>

typedef struct {
    char *name;    /* its drive, device or node */
    char *base;    /* image with what the disk held at the instant */
    char *overlay; /* image that the guest has written to since */
} FfCliDisk;

/* The images of all disks, to compare with (QEMU's answer). NULL and ERROR. */
JsonNode *ff_cli_disks_ask(FfCliQmp *qmp, GError **error);
/* FfCliDisk *, of the disks that have another image in AFTER than in BEFORE. */
GPtrArray *ff_cli_disks_changed(JsonNode *before, JsonNode *after);
/* Writes FILE.disks, which says what belongs to FILE and what the guest needs from now on. */
bool ff_cli_disks_write(const char *file, const GPtrArray *disks, GError **error);
/* What the guest has to be started with from now on, in one line (g_free). */
char *ff_cli_disks_line(const GPtrArray *disks);

#endif
