/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A file that a new one is to replace: only if that has the same rights and attributes. A process
 * that has it open continues with the old one, so none may have it open for writing. What no
 * attribute shows (flags of chattr, a project of a quota, its time of birth) the new one has as its
 * folder's.
 *
 * An object belongs to one thread.
 */
#ifndef FF_CONTENT_IMAGE_OLD_FILE_H
#define FF_CONTENT_IMAGE_OLD_FILE_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

typedef struct {
    char *name;     /* as it was asked for */
    char *path;     /* of no symbolic link */
    int fd;         /* to read it */
    struct stat st; /* when it was looked at last */
    uint64_t kept;  /* bytes, from its beginning, that the new one has as well */
    bool is_copied; /* they are there */
} FfOldFile;

/* What PATH is, or leads to. *OLD is NULL: nothing. FALSE and ERROR (G_IO_ERROR_EXISTS): what is
 * there can only be written in place. */
bool ff_old_file_find(const char *path, uint64_t kept, FfOldFile **old, GError **error);
/* It is not held any more. What follows can only be to take its place. */
void ff_old_file_close(FfOldFile *old);
void ff_old_file_free(FfOldFile *old);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FfOldFile, ff_old_file_free)
/* Sets ERROR to that: WHY, of printf's. Always FALSE. */
bool ff_old_file_stays(const char *path, GError **error, const char *why, ...) G_GNUC_PRINTF(3, 4);
/* NULL: FD, a new file, has its mode, owner, group, access control list and extended attributes. Or
 * why it is none like it. */
const char *ff_old_file_unlike(const FfOldFile *old, int fd);
/* FD, which is written, may take its place still: nothing came meanwhile that would be lost with
 * the old one. To be asked before ff_old_file_copy(), and after it. */
bool ff_old_file_may_go(FfOldFile *old, int fd, GError **error);
/* 0 or -errno: what is kept is in FD now. */
int ff_old_file_copy(FfOldFile *old, int fd);

#endif
