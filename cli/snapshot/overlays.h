/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Overlays (qcow2) of a guest's disks: made while it runs, for somebody who puts all of them in
 * front of the disks in one step, and taken away again if nobody has. One thread.
 *
 * FILE.disks, the manifest, is there as soon as they could come into use, and says which image is
 * which, and what the guest must be started with; it goes with them.
 */
#ifndef FF_CLI_SNAPSHOT_OVERLAYS_H
#define FF_CLI_SNAPSHOT_OVERLAYS_H

#include "cli/snapshot/disks.h"
#include "qmp/disks-file.h"

typedef struct FfCliOverlays FfCliOverlays;

typedef enum {
    FF_OVERLAYS_GONE,    /* the guest's disks are what they were; no overlay is left */
    FF_OVERLAYS_IN_USE,  /* the guest has continued with all of them */
    FF_OVERLAYS_UNKNOWN, /* QEMU does not say; they are left, and the manifest */
} FfOverlaysEnd;

/* Of all disks that the guest can write to, in FOLDER, for the snapshot FILE (absolute), which
 * COMMAND restores (can be NULL; for the manifest). *GIVE_UP, which a callback may set, ends a wait
 * that QEMU does not end. NULL and ERROR: nothing is left. */
FfCliOverlays *ff_cli_overlays_new(FfCliQmp *qmp, const char *folder, const char *file,
                                   const char *command, const bool *give_up, GError **error);
/* Of a QEMU that waits for its guest: those of its disks whose image KEPT calls a base have
 * overlays in FOLDER in front of them from now on. Formatted by qemu-img: until its guest comes a
 * QEMU writes to no image. NULL and ERROR: nothing is left, and the QEMU is of no use any more. */
FfCliOverlays *ff_cli_overlays_restore(FfCliQmp *qmp, const char *folder, const FfDisksFile *kept,
                                       GError **error);
/* After that: the guest has not come, and its QEMU is ended. */
void ff_cli_overlays_remove(FfCliOverlays *overlays);
void ff_cli_overlays_free(FfCliOverlays *overlays);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfCliOverlays, ff_cli_overlays_free)

/* The argument "disks" of x-farfault-snapshot (json_array_unref()). */
JsonArray *ff_cli_overlays_argument(const FfCliOverlays *overlays);
/* Nobody asks for them any more. TAKEN: they have come in front of the disks, as far as is known
 * from elsewhere; MAY_ASK: else QEMU is asked. What is not in use goes away. ERROR (can be NULL) is
 * set if something is left that should not be. */
FfOverlaysEnd ff_cli_overlays_settle(FfCliOverlays *overlays, bool taken, bool may_ask,
                                     GError **error);
/* After that: what the guest must be started with from now on, in one line (borrowed); NULL: with
 * what it had. */
const char *ff_cli_overlays_line(const FfCliOverlays *overlays);
/* Their paths, with commas (g_free). NULL: there are none. */
char *ff_cli_overlays_names(const FfCliOverlays *overlays);
/* Path of the manifest; NULL: there is none. */
const char *ff_cli_overlays_manifest(const FfCliOverlays *overlays);
/* After ff_cli_overlays_settle(): there is no FILE, and will be none. The manifest becomes
 * FILE.disks.failed (in the place of an older one), so that FILE's name is free. */
void ff_cli_overlays_fail(FfCliOverlays *overlays);

#endif
