/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A folder on a file system that can little, and answers when the test says so: FUSE over raw
 * /dev/fuse, its files in memory. It has no O_TMPFILE, no holes that can be punched, and perhaps no
 * O_DIRECT and no RENAME_NOREPLACE.
 */
#ifndef FF_TESTS_FUSEFOLDER_H
#define FF_TESTS_FUSEFOLDER_H

#include <glib.h>
#include <stdbool.h>

typedef struct {
    bool no_direct;    /* a write with O_DIRECT is EINVAL */
    bool no_link;      /* no second name for a file */
    bool no_rename2;   /* as NFS: a file gets another name only by a link, or over any other */
    int rename2_error; /* of each RENAME2; 0: none */
    bool link_twice;   /* a link is made, and said to be there already: the answer was lost */
    unsigned write_us; /* what each write takes */
} FuseFolderConfig;

typedef struct FuseFolder FuseFolder;
/* Mounts it at a new folder. NULL and *WHY (static) where that is not possible. */
FuseFolder *fusefolder_new(const FuseFolderConfig *config, const char **why);
/* A process that waits in it gets an error; it is unmounted, and the folder removed. */
void fusefolder_free(FuseFolder *f);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FuseFolder, fusefolder_free)
/* The path of file NAME in it (g_free). */
char *fusefolder_path(const FuseFolder *f, const char *name);
/* The names of all files, in the order in which they were made, with a blank after each (g_free).
 */
char *fusefolder_list(FuseFolder *f);
/* From now on no write is answered. */
void fusefolder_hold(FuseFolder *f);
/* Waits until one is held. */
void fusefolder_wait_held(FuseFolder *f);
/* All is answered again, and what was held. */
void fusefolder_release(FuseFolder *f);

#endif
