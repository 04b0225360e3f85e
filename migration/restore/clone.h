/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A copy of a restore's file that shares its space (XFS, btrfs), and that nobody else can change:
 * then a process that overwrites the file need not be held back.
 */
#ifndef FF_MIGRATION_RESTORE_CLONE_H
#define FF_MIGRATION_RESTORE_CLONE_H

/* Of the file FD, which is called PATH: a description for reading alone, of a file without a name
 * with the same content, size and mtime; it is gone when the last copy of that is closed. -1: the
 * file system cannot do that, its folder may not be written to, or the file was changed meanwhile.
 */
int ff_restore_clone(int fd, const char *path);

#endif
