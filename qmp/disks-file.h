/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * FILE.disks, which farfault snapshot --disks writes beside FILE: which images belong to the
 * snapshot, and which overlays its guest has continued with. Only reads; no state; any thread.
 */
#ifndef FF_QMP_DISKS_FILE_H
#define FF_QMP_DISKS_FILE_H

#include <glib.h>
#include <stdbool.h>

typedef struct {
    char *name; /* of the disk, for people */
    char *base; /* its image at that instant, absolute: nobody may write to it any more */
    char *format;
    char **below;  /* of which the base is an overlay, absolute: the same is true of them */
    char *overlay; /* absolute: the guest that was saved writes there */
} FfKeptDisk;

typedef struct {
    char *path;       /* of FILE.disks */
    GPtrArray *disks; /* FfKeptDisk * */
    char *snapshot;   /* the file that it was written for, absolute; NULL: it does not say */
    char *command;    /* how the guest is restored from that, for a shell; NULL: it does not say */
} FfDisksFile;

void ff_disks_file_free(FfDisksFile *file);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfDisksFile, ff_disks_file_free)

/* "FILE.disks" (g_free). */
char *ff_disks_file_name(const char *file);
/* That of the snapshot FILE. NULL: without ERROR there is none; with ERROR it is there, and cannot
 * be read. */
FfDisksFile *ff_disks_file_read(const char *file, GError **error);

#endif
