/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * FILE.disks, which farfault snapshot --disks writes beside FILE: which images belong to the
 * snapshot, and which overlays its guest has continued with. Only reads; no state; any thread.
 *
 * A regular file that was written since is known by its size and the time of its last change. The
 * inode is not compared: a copy (cp -p) is as good. Where times are coarse, a copy has them rounded
 * down.
 */
#ifndef FF_QMP_DISKS_FILE_H
#define FF_QMP_DISKS_FILE_H

#include <glib.h>
#include <json-glib/json-glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

typedef struct {
    char *path;
    int64_t size;
    struct timespec changed;
} FfKeptFile;

void ff_kept_file_free(void *file);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfKeptFile, ff_kept_file_free)
/* PATH as it is now. NULL: it is no regular file, or cannot be looked at. */
FfKeptFile *ff_kept_file_new(const char *path);
JsonObject *ff_kept_file_to_json(const FfKeptFile *file);

typedef struct {
    char *name; /* of the disk, for people */
    char *base; /* its image at that instant, absolute: nobody may write to it any more */
    char *format;
    char **below;     /* of which the base is an overlay, absolute: the same is true of them */
    char *overlay;    /* absolute: the guest that was saved writes there */
    GPtrArray *files; /* FfKeptFile *: BASE and BELOW at that instant; older farfaults noted none */
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

/* Why DISK does not fit the snapshot any more: FILE, one of its files, is not what it was (g_free).
 * NULL: it is, or it is not there, or cannot be looked at. */
char *ff_kept_disk_doubt(const FfKeptDisk *disk, const FfKeptFile *file);
/* The first such reason of DISK; of all disks of FILE (g_free). */
char *ff_kept_disk_first_doubt(const FfKeptDisk *disk);
char *ff_disks_file_doubt(const FfDisksFile *file);

#endif
