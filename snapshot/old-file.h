/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A file that a new one is to replace: only if nobody sees another difference than its content. Who
 * has it open goes on with the old one, so it must be nobody who writes to it.
 *
 * An object belongs to one thread.
 */
#ifndef FF_SNAPSHOT_OLD_FILE_H
#define FF_SNAPSHOT_OLD_FILE_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

typedef struct {
    char *path; /* of no symbolic link */
    int fd;     /* to read it */
    struct stat st;
    uint64_t kept; /* bytes, from its beginning, that the new one has as well */
} FfOldFile;

/* What PATH is, or leads to. *OLD is NULL: nothing. FALSE and ERROR (G_IO_ERROR_EXISTS): what is
 * there can only be written in place. */
bool ff_old_file_find(const char *path, uint64_t kept, FfOldFile **old, GError **error);
void ff_old_file_free(FfOldFile *old);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfOldFile, ff_old_file_free)
/* Sets ERROR to that: WHY, of printf's. Always FALSE. */
bool ff_old_file_stays(const char *path, GError **error, const char *why, ...) G_GNUC_PRINTF(3, 4);
/* FD, a new file, has its mode, owner and group. */
bool ff_old_file_is_like(const FfOldFile *old, int fd);
/* Its name is another file's now. */
bool ff_old_file_is_other(const FfOldFile *old);
/* 0 or -errno: what is kept is in FD now. */
int ff_old_file_copy(const FfOldFile *old, int fd);

#endif
